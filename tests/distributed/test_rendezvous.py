"""Workers meet before they train, whoever comes first and whoever else calls at the door."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.workers import free_port
from trainer.distributed import rendezvous
from trainer.distributed.cluster import Cluster
from trainer.errors import DeviceError, WorkerLostError

CPU = {"GPUs": 0, "precision": "float32"}


def meeting(*facts: rendezvous.Facts, late: int) -> list[Future[None]]:
    """Lets so many workers meet, each a thread, one of them later than the others."""
    addresses = tuple(f"127.0.0.1:{free_port()}" for _ in facts)

    def come(index: int) -> None:
        time.sleep(0.3 if index == late else 0)
        rendezvous.join(Cluster(addresses, index), facts[index])

    with ThreadPoolExecutor(len(facts)) as pool:
        return [pool.submit(come, index) for index in range(len(facts))]


@pytest.mark.parametrize("late", [0, 1])
def test_workers_go_on_when_all_have_come(late: int) -> None:
    assert [each.exception() for each in meeting(CPU, CPU, CPU, late=late)] == [None] * 3


def test_workers_that_would_compute_otherwise_are_refused_everywhere() -> None:
    """TensorFlow would wait for gradients of GPUs that are not there."""
    ended = meeting(CPU, CPU, {"GPUs": 1, "precision": "bfloat16"}, late=2)
    for each in ended:
        error = each.exception()
        assert isinstance(error, DeviceError)
        assert str(error).startswith("host 2 (127.0.0.1:")
        assert "has 1 GPUs, bfloat16 precision, the chief 0 GPUs, float32 precision" in str(error)


def in_background(function: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n", b"", b'{"host": 7, "facts": {}}\n', b"[]\n"]
)
def test_strangers_are_not_let_in(said: bytes) -> None:
    cluster = Cluster((f"127.0.0.1:{free_port()}", "127.0.0.1:1"), 0)
    chief = in_background(lambda: rendezvous.join(cluster, CPU))
    while True:
        try:
            stranger = socket.create_connection(("127.0.0.1", int(cluster.addresses[0][10:])))
            break
        except OSError:
            time.sleep(0.01)
    with stranger:
        stranger.sendall(said)
    assert chief.is_alive()
    rendezvous.join(Cluster(cluster.addresses, 1), CPU)
    chief.join(5)
    assert not chief.is_alive()


def test_a_chief_with_nothing_to_do_sends_the_others_home() -> None:
    cluster = Cluster((f"127.0.0.1:{free_port()}", "127.0.0.1:1"), 0)
    chief = in_background(lambda: rendezvous.release(cluster))
    with pytest.raises(SystemExit) as ended:
        rendezvous.join(Cluster(cluster.addresses, 1), CPU)
    assert ended.value.code == 0
    chief.join(5)


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(
            WorkerLostError, match=f"cannot listen at {address}: Address already in"
        ):
            rendezvous.join(Cluster((address, "127.0.0.1:1"), 0), CPU)
