"""Shared fixtures: a real gs:// server, small real data, finished runs, the job as a process.

`make test` runs the tests in several processes (pytest-xdist). Data and runs that tests only read
are made once for all processes; the gs:// server, its proxy and the browser belong to one process.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from google.cloud.storage import retry
from playwright.sync_api import Browser

from tests import gcs
from tests.browser import launch as launch_browser
from tests.fault_proxy import FaultProxy
from tests.kills import ROOT, write_digits
from tests.shared_folders import SharedFolders
from trainer import models, storage, task
from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Dataset
from trainer.data.shards import shard_format
from trainer.data.shards.shard_format import Stream
from trainer.runtime.log import LOGGER

Job = Callable[..., "subprocess.CompletedProcess[str]"]

# The log of a report or summary that failed; the run continues without it, and exits with 0.
INTERNAL_ERROR = "internal error"


def pytest_xdist_auto_num_workers() -> int:
    """Returns the number of cores that this process may use; pytest-xdist counts physical ones."""
    return len(os.sched_getaffinity(0))


def pytest_configure() -> None:
    """Divides the cores among the processes of pytest-xdist, so that each starts few threads.

    The processes that tests start inherit this, and react to Ctrl-C: a shell without job control
    starts its background jobs with SIGINT ignored, which they would inherit, too.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    number = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if number:
        cores = sorted(os.sched_getaffinity(0))
        count = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        own = cores[int(number) :: count] or [cores[int(number) % len(cores)]]
        os.sched_setaffinity(0, own)


def pytest_collection_finish() -> None:
    """Takes the imported modules out of garbage collection, which would visit them all again."""
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what was not tested, so that a missing program does not look like success."""
    reports = terminalreporter.getreports("skipped")
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports)
    if reasons:
        terminalreporter.section("NOT TESTED", yellow=True, bold=True)
    for reason, count in sorted(reasons.items()):
        terminalreporter.line(f"{count} test{'s' * (count > 1)}: {reason}", yellow=True)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedFolders]:
    """Folders made once for all processes of the session."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    root.mkdir(exist_ok=True)
    folders = SharedFolders(root)
    yield folders
    folders.check_unchanged()


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    return loader.load(DataOptions(data="mnist", seed=0))


@pytest.fixture(scope="session")
def reviews() -> Dataset:
    return loader.load(DataOptions(data="movie_reviews", seed=0))


@pytest.fixture(scope="session")
def digits(shared: SharedFolders) -> Path:
    """A folder with the first 1,000 training and 300 test images of MNIST."""
    return shared.get("digits", write_digits)


@pytest.fixture(scope="session")
def sharded_digits(shared: SharedFolders, digits: Path) -> Path:
    """The same digits in shards of some 20 images, shuffled among some 160."""

    def make(folder: Path) -> None:
        data = loader.load(DataOptions(data=str(digits), seed=0))
        splits = {"train": data.train, "test": data.test}
        arrays = {
            name: ([(np.asarray(s.examples), s.labels)], s.labels) for name, s in splits.items()
        }
        shard_format.write(
            storage.folder(str(folder)),
            Stream(arrays, data.spec.classes),
            shard_bytes=16_000,
            shuffle_block_bytes=130_000,
        )

    return shared.get("shards", make)


@pytest.fixture(scope="session")
def sentences(shared: SharedFolders) -> Path:
    """A folder with 600 sentences of each class."""

    def make(folder: Path) -> None:
        reviews = loader.load(DataOptions(data="movie_reviews", seed=0))
        folder.mkdir()
        for label, name in enumerate(reviews.spec.classes):
            lines = reviews.train.examples[reviews.train.labels == label][:600]
            (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")

    return shared.get("sentences", make)


@pytest.fixture(scope="session")
def shared_run(shared: SharedFolders) -> Callable[..., Path]:
    """Returns a function from a name and flags to a finished run, trained once for all processes.

    The run is read-only.
    """

    def get(name: str, *flags: str) -> Path:
        return shared.get(f"{name}_run", lambda out: train(*flags, f"--out={out}"))

    return get


def train(*flags: str) -> None:
    """Trains in this process."""
    with no_internal_errors(), pytest.raises(SystemExit) as ended:
        task.main([*flags])
    assert ended.value.code == 0


@contextlib.contextmanager
def no_internal_errors() -> Iterator[None]:
    """Asserts that the program logs no internal error within."""
    messages: list[str] = []

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(self.format(record))

    recorder = Recorder(logging.ERROR)
    LOGGER.addHandler(recorder)
    try:
        yield
    finally:
        LOGGER.removeHandler(recorder)
    assert [message for message in messages if INTERNAL_ERROR in message] == []


@pytest.fixture(scope="session")
def trained(
    shared_run: Callable[..., Path], digits: Path, sentences: Path
) -> Callable[[str], Path]:
    """Returns a function from a model's name to its run on `digits` or `sentences`, read-only."""

    def get(model: str) -> Path:
        data = digits if models.find(model).recipe.data == "mnist" else sentences
        return shared_run(model, f"--model={model}", "--epochs=3", f"--data={data}")

    return get


@pytest.fixture(scope="session")
def finished_run(trained: Callable[[str], Path]) -> Path:
    """The run directory of an mlp on `digits`, read-only."""
    return trained("mlp")


# Not for the whole session: while it is there, nothing else in this thread can use asyncio.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launch_browser() as browser:
        yield browser


@pytest.fixture
def job(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Job:
    """Runs the job in an empty folder: in this process, or in its own if marked `process`.

    Fails if the job logs an internal error.
    """
    if request.node.get_closest_marker("process"):
        return functools.partial(_run_process, tmp_path)

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            patch.syspath_prepend(tmp_path)
            for name, value in environment.items():
                patch.setenv(name, value)
            with no_internal_errors():
                code = _run_here([str(argument) for argument in arguments])
        for name, module in [*sys.modules.items()]:
            if str(getattr(module, "__file__", None)).startswith(f"{tmp_path}/"):
                del sys.modules[name]
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


def _run_process(
    folder: Path, *arguments: object, **environment: str
) -> subprocess.CompletedProcess[str]:
    # As a user's shell: without what TensorFlow and this program set in the test process.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    result = subprocess.run(
        [sys.executable, "-m", "trainer.task", *map(str, arguments)],
        cwd=folder,
        env={**inherited, "PYTHONPATH": f"{ROOT}:{folder}", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert INTERNAL_ERROR not in result.stdout + result.stderr, result.stderr
    return result


def _run_here(arguments: list[str]) -> int:
    """Runs the job in this process and returns its exit code; other tests do not notice."""
    import keras

    policy = keras.mixed_precision.dtype_policy()
    try:
        task.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        keras.mixed_precision.set_dtype_policy(policy)
    raise AssertionError("the job returned without an exit code")


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
    monkeypatch.setattr(retry, "DEFAULT_RETRY", retry.DEFAULT_RETRY.with_delay(0.05, 1, 2))
    storage._bucket.client.cache_clear()
    name = f"test-{uuid.uuid4().hex[:12]}"
    storage._bucket.client().create_bucket(name)
    proxy.requests.clear()
    yield f"gs://{name}"
    storage._bucket.client().close()
    storage._bucket.client.cache_clear()
