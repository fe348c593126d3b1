"""The workers of a job wait for each other, before TensorFlow does.

TensorFlow waits for a worker without end and holds Python's lock meanwhile, so that no signal is
answered. So the workers first meet at the chief's port, which TensorFlow takes over from there: each
says what it computes on, and the chief answers when all have come.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from typing import Any

from trainer.distributed.cluster import Cluster
from trainer.errors import DeviceError, WorkerLostError
from trainer.runtime.log import LOGGER

_POLL_S = 0.2
_HELLO_S = 5.0  # For a line that comes with the connection.
_DISMISSAL_S = 60.0
_MAX_BYTES = 4096
_GO, _DONE, _NO = "go", "done", "no "

# What the workers must have in common.
WorkerInfo = dict[str, Any]


def join(cluster: Cluster, facts: WorkerInfo) -> None:
    """Returns when all workers are there, within moments of each other.

    Waits for `TRAINER_HOSTS_SECONDS`, or half an hour: nodes with GPUs can be that late.

    Args:
        cluster: the workers.
        facts: on what this worker computes; it must be the same on all.

    Raises:
        WorkerLostError: one did not come in time.
        DeviceError: they do not compute on the same.
        SystemExit: with code 0, on all but the chief, if it has nothing to do.
    """
    deadline = time.monotonic() + float(os.environ.get("TRAINER_HOSTS_SECONDS", "1800"))
    if cluster.is_chief:
        with _Server(cluster) as door:
            missing = door.let_in(deadline)
            if missing:
                names = ", ".join(f"{host} ({cluster.addresses[host]})" for host in missing)
                raise WorkerLostError(f"did not come in time: host {names}")
            unlike = next((host for host in door.facts if door.facts[host] != facts), None)
            problem = "" if unlike is None else (
                f"host {unlike} ({cluster.addresses[unlike]}) has {_words(door.facts[unlike])}, "
                f"the chief {_words(facts)}, expected the same on all"
            )  # fmt: skip
            door.answer(_NO + problem if problem else _GO)
    else:
        answer = _ask(cluster, facts, deadline)
        if answer == _DONE:
            LOGGER.info("the chief has nothing to do, for the run is finished already")
            sys.exit(0)
        problem = answer.removeprefix(_NO) if answer.startswith(_NO) else ""
    if problem:
        raise DeviceError(problem)


def release(cluster: Cluster) -> None:
    """Tells the other workers, as far as they come within a minute, that there is nothing to do."""
    with contextlib.suppress(WorkerLostError), _Server(cluster) as door:
        door.let_in(time.monotonic() + _DISMISSAL_S)
        door.answer(_DONE)


class _Server:
    """The chief's port, where the others come in."""

    def __init__(self, cluster: Cluster) -> None:
        self._missing = set(range(1, len(cluster.addresses)))
        self._links: dict[int, socket.socket] = {}
        self.facts: dict[int, WorkerInfo] = {}
        port = int(cluster.addresses[0].rpartition(":")[2])
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        try:
            self._server = socket.create_server(("", port), family=family, dualstack_ipv6=both)
        except OSError as error:
            raise WorkerLostError(
                f"TF_CONFIG: cannot listen at {cluster.addresses[0]}: {error.strerror}"
            ) from None

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        for link in (self._server, *self._links.values()):
            link.close()

    def let_in(self, deadline: float) -> list[int]:
        """Waits for all, and returns those that have not come."""
        while self._missing and (left_s := deadline - time.monotonic()) > 0:
            self._server.settimeout(left_s)
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # Someone else's.
                link, _ = self._server.accept()
                hello = json.loads(_line(link, _HELLO_S))
                host, facts = int(hello["host"]), dict(hello["facts"])
                if host not in self._missing | self._links.keys():
                    continue
                self._missing.discard(host)
                self.facts[host] = facts
                if host in self._links:  # It was started again while it waited.
                    self._links[host].close()
                self._links[host] = link
        return sorted(self._missing)

    def answer(self, text: str) -> None:
        for link in self._links.values():
            with contextlib.suppress(OSError):  # Its end is noticed by TensorFlow.
                link.sendall(f"{text}\n".encode())


def _ask(cluster: Cluster, facts: WorkerInfo, deadline: float) -> str:
    """Waits for the chief's answer."""
    host, _, port = cluster.addresses[0].rpartition(":")
    hello = json.dumps({"host": cluster.index, "facts": facts}) + "\n"
    while (left_s := deadline - time.monotonic()) > 0:
        # Any error means that it is too early: names are not known yet, nobody listens, or it is
        # TensorFlow of an attempt before.
        with contextlib.suppress(OSError, ValueError):
            for address in cluster.addresses:
                socket.getaddrinfo(address.rpartition(":")[0].strip("[]"), None)
            with socket.create_connection((host.strip("[]"), int(port)), _HELLO_S) as link:
                link.sendall(hello.encode())
                answer = _line(link, left_s)
            if answer in (_GO, _DONE) or answer.startswith(_NO):
                return answer
        time.sleep(_POLL_S)
    raise WorkerLostError(f"the chief ({cluster.addresses[0]}) did not let this worker in in time")


def _line(link: socket.socket, wait_s: float) -> str:
    link.settimeout(wait_s)
    received = b""
    while not received.endswith(b"\n") and len(received) < _MAX_BYTES:
        part = link.recv(_MAX_BYTES)
        if not part:
            break
        received += part
    return received.decode().strip()


def _words(facts: WorkerInfo) -> str:
    return ", ".join(f"{value} {name}" for name, value in facts.items())
