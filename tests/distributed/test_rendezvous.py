"""The rendezvous of workers, in any order of arrival, and with connections of other programs."""

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


def join_all(*infos: rendezvous.WorkerInfo, late: int) -> list[Future[None]]:
    """Runs `join` for each worker in a thread; the worker `late` starts later than the others."""
    addresses = tuple(f"127.0.0.1:{free_port()}" for _ in infos)

    def join(index: int) -> None:
        time.sleep(0.3 if index == late else 0)
        rendezvous.join(Cluster(addresses, index), infos[index])

    with ThreadPoolExecutor(len(infos)) as pool:
        return [pool.submit(join, index) for index in range(len(infos))]


@pytest.mark.parametrize("late", [0, 1])
def test_workers_continue_when_all_are_connected(late: int) -> None:
    assert [each.exception() for each in join_all(CPU, CPU, CPU, late=late)] == [None] * 3


def test_workers_with_different_devices_are_refused_on_all_workers() -> None:
    """TensorFlow would wait for gradients of GPUs that do not exist."""
    futures = join_all(CPU, CPU, {"GPUs": 1, "precision": "bfloat16"}, late=2)
    for each in futures:
        error = each.exception()
        assert isinstance(error, DeviceError)
        assert str(error).startswith("worker 2 (127.0.0.1:")
        assert "has 1 GPUs, bfloat16 precision, the chief 0 GPUs, float32 precision" in str(error)


def in_background(function: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\n", b"", b'{"worker": 7, "info": {}}\n', b"[]\n"]
)
def test_connections_of_other_programs_are_ignored(sent: bytes) -> None:
    cluster = Cluster((f"127.0.0.1:{free_port()}", "127.0.0.1:1"), 0)
    chief = in_background(lambda: rendezvous.join(cluster, CPU))
    while True:
        try:
            other = socket.create_connection(("127.0.0.1", int(cluster.addresses[0][10:])))
            break
        except OSError:
            time.sleep(0.01)
    with other:
        other.sendall(sent)
    assert chief.is_alive()
    rendezvous.join(Cluster(cluster.addresses, 1), CPU)
    chief.join(5)
    assert not chief.is_alive()


def test_the_chief_of_a_finished_run_ends_the_other_workers() -> None:
    cluster = Cluster((f"127.0.0.1:{free_port()}", "127.0.0.1:1"), 0)
    chief = in_background(lambda: rendezvous.release(cluster))
    with pytest.raises(SystemExit) as exit_info:
        rendezvous.join(Cluster(cluster.addresses, 1), CPU)
    assert exit_info.value.code == 0
    chief.join(5)


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(
            WorkerLostError, match=f"cannot listen at {address}: Address already in"
        ):
            rendezvous.join(Cluster((address, "127.0.0.1:1"), 0), CPU)
