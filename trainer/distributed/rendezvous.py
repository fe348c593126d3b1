"""Lets the workers of a job wait for each other before TensorFlow connects them.

TensorFlow waits for a worker without a time limit, and holds Python's lock, so that no signal is
handled. So the workers first connect to the chief's port, before TensorFlow uses it. Each sends its
devices and precision, and the chief answers when all are connected.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
from typing import Any

from trainer.distributed.cluster import Cluster
from trainer.errors import DeviceError, WorkerLostError
from trainer.runtime import variables
from trainer.runtime.log import LOGGER

_POLL_S = 0.2
_HELLO_TIMEOUT_S = 5.0  # For the line that a worker sends when it connects.
_RELEASE_TIMEOUT_S = 60.0
_MAX_BYTES = 4096
# Answers of the chief.
_START, _FINISHED, _REFUSED = "start", "finished", "refused "

# Devices and precision of a worker, which must be the same on all workers.
WorkerInfo = dict[str, Any]


def join(cluster: Cluster, info: WorkerInfo) -> None:
    """Returns when all workers have called it, within moments of each other.

    The time limit is TRAINER_WORKERS_TIMEOUT_SECONDS, by default half an hour: nodes with GPUs can
    take that long to start.

    Args:
        cluster: the workers.
        info: devices and precision of this worker.

    Raises:
        WorkerLostError: a worker did not connect in time.
        DeviceError: the workers' devices or precision differ.
        SystemExit: with code 0, on all workers but the chief, if the run is finished already.
    """
    timeout_s = variables.seconds(variables.WORKERS_TIMEOUT)
    deadline = time.monotonic() + timeout_s
    if cluster.is_chief:
        problem = _serve(cluster, info, deadline)
    else:
        answer = _ask_chief(cluster, info, deadline)
        if answer == _FINISHED:
            LOGGER.info("the chief reports that this run is finished already, nothing to do")
            sys.exit(0)
        problem = answer.removeprefix(_REFUSED) if answer.startswith(_REFUSED) else ""
    if problem:
        raise DeviceError(problem)


def release(cluster: Cluster) -> None:
    """Ends the other workers of a finished run, as far as they connect within a minute."""
    with contextlib.suppress(WorkerLostError), _RendezvousServer(cluster) as server:
        server.wait_for_workers(time.monotonic() + _RELEASE_TIMEOUT_S)
        server.answer(_FINISHED)


def _serve(cluster: Cluster, info: WorkerInfo, deadline: float) -> str:
    """Waits for all workers and answers them; returns how they differ, "" if they do not."""
    with _RendezvousServer(cluster) as server:
        missing = server.wait_for_workers(deadline)
        if missing:
            names = ", ".join(f"{index} ({cluster.addresses[index]})" for index in missing)
            raise WorkerLostError(
                f"worker {names} did not connect in time; {variables.WORKERS_TIMEOUT} sets the "
                "time limit"
            )
        problem = ""
        for index, other in server.infos.items():
            if other != info:
                problem = (
                    f"worker {index} ({cluster.addresses[index]}) has {_format(other)}, the chief "
                    f"{_format(info)}, expected the same on all"
                )
                break
        server.answer(_REFUSED + problem if problem else _START)
    return problem


class _RendezvousServer:
    """The chief's port, to which the other workers connect.

    Attributes:
        infos: devices and precision of each connected worker, by its index.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._missing = set(range(1, len(cluster.addresses)))
        self._connections: dict[int, socket.socket] = {}
        self.infos: dict[int, WorkerInfo] = {}
        port = int(cluster.addresses[0].rpartition(":")[2])
        dual_stack = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual_stack else socket.AF_INET
        try:
            self._server = socket.create_server(
                ("", port), family=family, dualstack_ipv6=dual_stack
            )
        except OSError as error:
            raise WorkerLostError(
                f"TF_CONFIG: cannot listen at {cluster.addresses[0]}: {error.strerror}"
            ) from None

    def __enter__(self) -> _RendezvousServer:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in (self._server, *self._connections.values()):
            connection.close()

    def wait_for_workers(self, deadline: float) -> list[int]:
        """Waits for all workers; returns the indices of those that have not connected."""
        while self._missing and (left_s := deadline - time.monotonic()) > 0:
            self._server.settimeout(left_s)
            # Errors are those of a connection that is not a worker's.
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                connection, _ = self._server.accept()
                hello = json.loads(_read_line(connection, _HELLO_TIMEOUT_S))
                index, info = int(hello["worker"]), dict(hello["info"])
                if index not in self._missing | self._connections.keys():
                    continue
                self._missing.discard(index)
                self.infos[index] = info
                if index in self._connections:  # The worker was restarted while it waited.
                    self._connections[index].close()
                self._connections[index] = connection
        return sorted(self._missing)

    def answer(self, text: str) -> None:
        for connection in self._connections.values():
            with contextlib.suppress(OSError):  # TensorFlow will detect that the worker is lost.
                connection.sendall(f"{text}\n".encode())


def _ask_chief(cluster: Cluster, info: WorkerInfo, deadline: float) -> str:
    """Connects to the chief, and returns its answer."""
    host, _, port = cluster.addresses[0].rpartition(":")
    hello = json.dumps({"worker": cluster.index, "info": info}) + "\n"
    while (left_s := deadline - time.monotonic()) > 0:
        # Any error means that it is too early: a name cannot be resolved yet, the chief does not
        # listen yet, or TensorFlow of an earlier attempt answers.
        with contextlib.suppress(OSError, ValueError):
            for address in cluster.addresses:
                socket.getaddrinfo(address.rpartition(":")[0].strip("[]"), None)
            chief = (host.strip("[]"), int(port))
            with socket.create_connection(chief, _HELLO_TIMEOUT_S) as connection:
                connection.sendall(hello.encode())
                answer = _read_line(connection, left_s)
            if answer in (_START, _FINISHED) or answer.startswith(_REFUSED):
                return answer
        time.sleep(_POLL_S)
    raise WorkerLostError(
        f"the chief ({cluster.addresses[0]}) did not answer in time; "
        f"{variables.WORKERS_TIMEOUT} sets the time limit"
    )


def _read_line(connection: socket.socket, timeout_s: float) -> str:
    connection.settimeout(timeout_s)
    received = b""
    while not received.endswith(b"\n") and len(received) < _MAX_BYTES:
        chunk = connection.recv(_MAX_BYTES)
        if not chunk:
            break
        received += chunk
    return received.decode().strip()


def _format(info: WorkerInfo) -> str:
    return ", ".join(f"{value} {name}" for name, value in info.items())
