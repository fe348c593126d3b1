"""What tests share: a real gs:// server, small real data, and the job as a real process."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from tests import gcs
from tests.browser import started as started_browser
from tests.fault_proxy import FaultProxy
from tests.kills import ROOT, write_digits
from trainer import storage, task
from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Dataset
from trainer.data.shards import shard_format
from trainer.data.shards.shard_format import Stream

Job = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    return loader.load(DataOptions(data="mnist", seed=0))


@pytest.fixture(scope="session")
def reviews() -> Dataset:
    return loader.load(DataOptions(data="movie_reviews", seed=0))


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the first 1,000 training and 300 test images of MNIST."""
    return write_digits(tmp_path_factory.mktemp("data") / "digits")


@pytest.fixture(scope="session")
def sharded_digits(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """The same digits in shards of some 20 images, shuffled among some 160."""
    data = loader.load(DataOptions(data=str(digits), seed=0))
    folder = tmp_path_factory.mktemp("data") / "shards"
    parts = {"train": data.train, "test": data.test}
    pieces = {name: ([np.asarray(part.examples)], part.labels) for name, part in parts.items()}
    shard_format.write(
        storage.folder(str(folder)),
        Stream(pieces, data.spec.classes),
        shard_bytes=16_000,
        window_bytes=130_000,
    )
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


# Not for the whole session: while it is there, nothing else in this thread can use asyncio.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_browser() as browser:
        yield browser


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


# No longer than a module: while it is there, asyncio finds its loop running in this thread.
@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    with gcs.served(tmp_path_factory.mktemp("gcs") / "log") as proxy:
        yield proxy


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
    storage._bucket.client.cache_clear()
    name = f"test-{uuid.uuid4().hex[:12]}"
    storage._bucket.client().create_bucket(name)
    proxy.requests.clear()
    yield f"gs://{name}"
    storage._bucket.client().close()
    storage._bucket.client.cache_clear()
