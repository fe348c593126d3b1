"""Tests that killed and resumed runs are bit-identical to undisturbed runs."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.fault_proxy import FaultProxy
from tests.kills import Runner, fingerprint
from tests.shared_folders import SharedFolders
from trainer import storage
from trainer.runs import filenames


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Runner:
    return Runner(tmp_path_factory.mktemp("kill"), digits)


@pytest.fixture(scope="module")
def undisturbed(shared: SharedFolders, runner: Runner, digits: Path) -> dict[str, Any]:
    def make(folder: Path) -> None:
        folder.mkdir()
        Runner(folder, digits).finish("undisturbed")

    return fingerprint(str(shared.get("kill", make) / "undisturbed"), runner.folder)


@pytest.fixture(scope="module")
def short_runner(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Runner:
    """Starts runs of 8 epochs, not 40, for the tests that are not marked `long`."""
    arguments = ("--validation-split=0.2", "--seed=7", "--epochs=8")
    return Runner(tmp_path_factory.mktemp("short"), digits, arguments=arguments)


@pytest.fixture(scope="module")
def short_undisturbed(short_runner: Runner) -> dict[str, Any]:
    short_runner.finish("undisturbed")
    return fingerprint(str(short_runner.folder / "undisturbed"), short_runner.folder)


def test_a_run_killed_once_is_bit_identical(
    short_runner: Runner, short_undisturbed: dict[str, Any]
) -> None:
    kill_at_random_times(short_runner, short_undisturbed, 1)


@pytest.mark.long
def test_a_run_killed_twelve_times_is_bit_identical(
    runner: Runner, undisturbed: dict[str, Any]
) -> None:
    kill_at_random_times(runner, undisturbed, 12)


def kill_at_random_times(runner: Runner, undisturbed: dict[str, Any], kill_count: int) -> None:
    """A checkpoint is saved after each step, so that kills also interrupt checkpoints."""
    seed = time.time_ns()
    print(f"seed {seed}")
    instants = random.Random(seed)
    kills = runs = 0
    while kills < kill_count:
        out, runs = (
            f"killed{kill_count}-{runs}",
            runs + 1,
        )  # On a fast machine a run ends before all kills are done.
        exit_code = None
        while exit_code is None:
            process = runner.start(out, "--checkpoint-steps=1")
            runner.wait_for_training(process)
            try:
                exit_code = process.wait(None if kills == kill_count else instants.uniform(0, 1.8))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
        assert exit_code == 0, runner.log.read_text()
        assert fingerprint(str(runner.folder / out), runner.folder) == undisturbed
        assert not (runner.folder / out / filenames.CHECKPOINTS).exists()


@pytest.mark.long
def test_a_killed_run_on_shards_is_bit_identical(tmp_path: Path, sharded_digits: Path) -> None:
    runner = Runner(tmp_path, sharded_digits)
    runner.finish("undisturbed")
    instants = random.Random(0)
    for _ in range(5):
        process = runner.start("killed", "--checkpoint-steps=1")
        runner.wait_for_training(process)
        checkpoints = tmp_path / "killed" / filenames.CHECKPOINTS
        while process.poll() is None and not list(checkpoints.glob("*.h5")):
            time.sleep(0.05)
        time.sleep(instants.uniform(0, 1.8))
        process.kill()
        process.wait()
    runner.finish("killed")
    assert "resuming from killed/checkpoints/" in runner.log.read_text()
    undisturbed, killed = (
        fingerprint(str(tmp_path / out), tmp_path) for out in ("undisturbed", "killed")
    )
    assert killed == undisturbed


def test_sigterm_saves_a_checkpoint_and_exits_with_143(
    short_runner: Runner, short_undisturbed: dict[str, Any]
) -> None:
    runner = short_runner
    process = runner.start("ended")
    runner.wait_for_log(process, "\nepoch 2/")
    process.terminate()
    assert process.wait(20) == 143
    log = runner.log.read_text()
    assert "stopped by SIGTERM; the same command resumes from ended/checkpoints/" in log
    runner.finish("ended")
    log = runner.log.read_text()
    assert "resuming from ended/checkpoints/" in log
    assert "bit-identical" not in log
    seconds = json.loads((runner.folder / "ended" / filenames.METRICS).read_text())["seconds"]
    assert 1 < seconds["earlier_attempts"] < seconds["total"]
    assert fingerprint(str(runner.folder / "ended"), runner.folder) == short_undisturbed


@contextlib.contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Lets the processes that are started meanwhile use `count` of the machine's cores."""
    own = os.sched_getaffinity(0)  # One core, in a process of pytest-xdist.
    os.sched_setaffinity(0, range(count))
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


@pytest.mark.long
@pytest.mark.skipif(os.cpu_count() == 1, reason="needs two cores")
def test_a_run_resumed_on_another_device_warns_about_bit_identity(runner: Runner) -> None:
    for count in 2, 1:
        with on_cores(count):
            process = runner.start("moved", "--epochs=3000", "--checkpoint-steps=40")
        runner.wait_for_log(process, "\nepoch ")
        process.terminate()
        assert process.wait(20) == 143
    log = runner.log.read_text()
    assert "resuming from moved/checkpoints/" in log
    assert "the result may not be bit-identical: device was CPU: " in log
    assert "1 cores" in log


def test_sigterm_before_training_exits_at_once(runner: Runner) -> None:
    process = runner.start("early")
    while process.poll() is None and not handles_sigterm(process.pid):
        time.sleep(0.01)
    process.terminate()
    assert process.wait(10) == 143


def handles_sigterm(pid: int) -> bool:
    """Returns whether a process has a handler for SIGTERM, by its mask of caught signals."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)[1], 16)  # type: ignore[index]
    return bool(mask >> (signal.SIGTERM - 1) & 1)


@pytest.fixture
def killer(proxy: FaultProxy) -> Iterator[Any]:
    """Returns a function that kills a process at its n-th upload, before or after it is stored."""

    def at_upload(process: subprocess.Popen[bytes], number: int, *, stored: bool) -> None:
        fault = proxy.add(match="POST /upload/", skip=number, lose_reply=stored, reset=not stored)

        def watch() -> None:
            while not fault.hits:
                time.sleep(0.001)
            process.kill()

        threading.Thread(target=watch, daemon=True).start()

    yield at_upload
    proxy.clear()


@pytest.mark.long
def test_a_run_killed_during_uploads_is_bit_identical(
    runner: Runner, undisturbed: dict[str, Any], bucket: str, proxy: FaultProxy, killer: Any
) -> None:
    """The order of uploads is: lease, config.json, then checkpoint and pointer alternately."""
    out = f"{bucket}/run"
    for number, stored in ((0, True), (1, False), (2, True), (3, False), (4, True), (9, False)):
        proxy.clear()
        process = runner.start(out, "--checkpoint-steps=40")
        killer(process, number, stored=stored)
        assert process.wait(120) == -signal.SIGKILL, runner.log.read_text()
    proxy.clear()
    runner.finish(out, "--checkpoint-steps=40")
    assert fingerprint(out, runner.folder) == undisturbed
    names = storage.folder(out).names()
    assert [name for name in names if name.startswith((".", filenames.CHECKPOINTS))] == []


@pytest.mark.long
def test_two_jobs_never_share_a_run_directory(runner: Runner, bucket: str) -> None:
    for out in ("shared", f"{bucket}/shared"):
        # With enough steps that it still runs when the second job starts.
        first = runner.start(out, "--epochs=3000", "--batch-size=1")
        runner.wait_for_training(first)
        time.sleep(1.5)
        second = subprocess.run(
            first.args,  # type: ignore[arg-type]
            cwd=runner.folder,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{runner.folder}"},
            capture_output=True,
            text=True,
        )
        alive = first.poll() is None
        first.kill()
        first.wait()
        assert alive, "the first job ended before the second could be refused"
        assert second.returncode == 2
        assert "another job is running on it" in second.stderr


@pytest.mark.long
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(
    runner: Runner, undisturbed: dict[str, Any]
) -> None:
    process = runner.start("damaged", "--checkpoint-steps=10")
    runner.wait_for_training(process)
    checkpoints = runner.folder / "damaged" / filenames.CHECKPOINTS
    while len(list(checkpoints.glob("[!.]*.h5"))) < 2:
        time.sleep(0.01)
    time.sleep(0.5)
    process.terminate()
    assert process.wait(20) == 143
    latest = json.loads((checkpoints / "latest.json").read_text())["checkpoints"]
    newest = checkpoints / latest[0]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    newest.write_bytes(content)
    runner.finish("damaged", "--checkpoint-steps=10")
    log = runner.log.read_text()
    assert f"{newest.name}: " in log
    assert "skipping this checkpoint" in log
    assert f"resuming from damaged/checkpoints/{latest[1]}" in log
    assert fingerprint(str(runner.folder / "damaged"), runner.folder) == undisturbed


@pytest.mark.long
def test_an_unfinished_run_with_other_settings_is_refused(runner: Runner) -> None:
    process = runner.start("other", "--checkpoint-steps=10")
    while process.poll() is None and not (runner.folder / "other" / filenames.CHECKPOINTS).exists():
        time.sleep(0.01)
    process.kill()
    process.wait()
    for arguments, message in (
        (["--batch-size=3"], "--batch-size was 16, now 3"),
        (["--resume=never"], "holds this run, unfinished. Set --overwrite"),
    ):
        assert runner.start("other", *arguments).wait(60) == 2
        assert message in runner.log.read_text()
    runner.finish("other", "--resume=never", "--overwrite", "--epochs=1")
    assert "resuming from" not in runner.log.read_text()
