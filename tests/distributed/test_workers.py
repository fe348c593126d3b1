"""Several workers give the results of one, and stop together."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Job
from tests.kills import fingerprint
from tests.workers import Team, free_port, team

LONG_RUN = ("--epochs=400", "--checkpoint-steps=20")


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Iterator[Team]:
    with team(tmp_path_factory.mktemp("workers"), digits) as started:
        yield started


def curve(workers: Team, out: str, *names: str) -> list[list[float]]:
    with (workers.worker_folder(0) / out / "history.csv").open() as file:
        return [[float(row[name]) for name in names] for row in csv.DictReader(file)]


@dataclass
class Result:
    """Weights and inputs of a run.

    Attributes:
        weights: final weights of the chief.
        inputs: as `Team.inputs` returns them.
    """

    weights: list[np.ndarray]
    inputs: dict[str, np.ndarray]


def run_job(workers: Team, out: str, count: int) -> Result:
    workers.finish("plain:build", f"--out={out}", workers=count)
    return Result(workers.weights(0), workers.inputs(count))


@pytest.fixture(scope="module")
def two(workers: Team) -> Result:
    """The result of a run of two workers, in the folder `two`."""
    return run_job(workers, "two", 2)


@pytest.fixture(scope="module")
def one(workers: Team, two: Result) -> Result:
    """The result of the same run with one worker, in the folder `one`."""
    return run_job(workers, "one", 1)


def test_only_the_chief_writes_and_all_workers_end_with_its_weights(
    workers: Team, two: Result
) -> None:
    assert all((a == b).all() for a, b in zip(two.weights, workers.weights(1), strict=True))
    assert "2 workers, each CPU: " in workers.output(0)
    assert workers.output(0).count("epoch ") == 3
    assert workers.output(0).endswith("\ntwo\n")
    assert list(workers.worker_folder(1).iterdir()) == []
    first, second = workers.output(1).splitlines()
    assert first.startswith(
        "worker 1 of 2 started; progress and results are in the log of the chief (127.0.0.1:"
    )
    assert second.startswith("training plain:build on ")


def assert_same_losses(workers: Team, out: str, other: str) -> None:
    """Asserts that two runs have the same losses except for rounding."""
    names = ("loss", "val_loss", "learning_rate")
    np.testing.assert_allclose(
        curve(workers, out, *names), curve(workers, other, *names), rtol=1e-6
    )


def test_two_workers_give_the_losses_of_one(workers: Team, one: Result, two: Result) -> None:
    assert_same_losses(workers, "two", "one")
    for a, b in zip(one.weights, two.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_two_workers_have_the_examples_and_the_random_values_of_one(
    one: Result, two: Result
) -> None:
    """Each worker has one half of each batch, in the same order and bit-identical."""
    assert one.inputs["examples"].shape == (3 * 9, 96)
    assert len(np.unique(one.inputs["examples"])) > 790
    np.testing.assert_array_equal(two.inputs["examples"], one.inputs["examples"])
    np.testing.assert_array_equal(two.inputs["values"], one.inputs["values"])


@pytest.mark.long
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_resumes_on_another_number_of_workers(
    workers: Team, two: Result, before: int, after: int
) -> None:
    out = f"{before}to{after}"
    workers.finish("plain:build", f"--out={out}", workers=before, code=143, STOP_AFTER_EPOCH="1")
    workers.finish("plain:build", f"--out={out}", workers=after)
    assert f"resuming from {out}/checkpoints/" in workers.output(0)
    assert "the result may not be bit-identical: device was " in workers.output(0)
    assert_same_losses(workers, out, "two")
    np.testing.assert_array_equal(workers.inputs(after)["examples"], two.inputs["examples"][9:])


@pytest.mark.long
def test_three_workers_share_batches_that_they_do_not_divide(workers: Team) -> None:
    workers.finish("plain:build", "--out=three", "--batch-size=95", workers=3)
    workers.finish("plain:build", "--out=one95", "--batch-size=95", workers=1)
    assert_same_losses(workers, "three", "one95")


def wait_for_checkpoint(workers: Team, out: str) -> None:
    pointer = workers.worker_folder(0) / out / "checkpoints" / "latest.json"
    deadline = time.monotonic() + 60
    while not pointer.exists():
        assert time.monotonic() < deadline, workers.output(0)
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(workers: Team) -> dict[str, Any]:
    """A run with dropout, batch normalization and callbacks that change the learning rate."""
    workers.finish("killed:build", "--out=undisturbed")
    return fingerprint(str(workers.worker_folder(0) / "undisturbed"), workers.folder)


@pytest.mark.long
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_worker_stops_the_others_and_the_job_resumes_bit_identically(
    workers: Team, undisturbed: dict[str, Any], killed: int
) -> None:
    out = f"killed{killed}"
    processes = workers.start("killed:build", f"--out={out}", "--checkpoint-steps=20")
    wait_for_checkpoint(workers, out)
    processes[killed].kill()
    started = time.monotonic()
    assert processes[1 - killed].wait(60) == 1
    print(f"detected after {time.monotonic() - started:.1f} s")
    last = workers.output(1 - killed).splitlines()[-1]
    assert last.startswith(
        "python -m trainer.task: error: lost another worker of this job: worker "
    )
    assert "Traceback" not in workers.output(1 - killed)
    if killed == 1:
        assert f"The last good checkpoint: {out}/checkpoints/" in last
    workers.finish("killed:build", f"--out={out}", "--checkpoint-steps=20")
    assert f"resuming from {out}/checkpoints/" in workers.output(0)
    assert "bit-identical" not in workers.output(0)
    assert fingerprint(str(workers.worker_folder(0) / out), workers.folder) == undisturbed


@pytest.mark.long
def test_a_job_whose_workers_are_all_killed_resumes_bit_identically(
    workers: Team, undisturbed: dict[str, Any]
) -> None:
    for attempt in range(3):
        processes = workers.start("killed:build", "--out=all", "--checkpoint-steps=20")
        workers.wait_for("training")
        time.sleep(1.5 + attempt)
        for process in processes:
            process.kill()
    workers.finish("killed:build", "--out=all")
    assert fingerprint(str(workers.worker_folder(0) / "all"), workers.folder) == undisturbed


@pytest.mark.long
@pytest.mark.parametrize("terminated", [(0, 1), (0,), (1,)])
def test_sigterm_saves_a_checkpoint_and_stops_all_workers(
    workers: Team, undisturbed: dict[str, Any], terminated: tuple[int, ...]
) -> None:
    """A service stops all workers of a job, or one of them whose node is preempted."""
    out = f"terminated{''.join(map(str, terminated))}"
    processes = workers.start("killed:build", f"--out={out}", "--checkpoint-seconds=1000")
    wait_for_checkpoint(workers, out)  # Saved after the first epoch.
    for index in terminated:
        processes[index].terminate()
    assert [process.wait(20) for process in processes] == [143, 143]
    assert f"the same command resumes from {out}/checkpoints/" in workers.output(0)
    assert "stopped by SIGTERM; the chief saves a checkpoint" in workers.output(1)
    workers.finish("killed:build", f"--out={out}", "--checkpoint-seconds=1000")
    assert f"resuming from {out}/checkpoints/" in workers.output(0)
    assert fingerprint(str(workers.worker_folder(0) / out), workers.folder) == undisturbed


@pytest.mark.long
def test_a_worker_that_does_not_respond_is_lost(workers: Team) -> None:
    processes = workers.start("plain:build", "--out=still", *LONG_RUN)
    wait_for_checkpoint(workers, "still")
    os.kill(processes[1].pid, signal.SIGSTOP)
    assert processes[0].wait(60) == 1
    assert "lost another worker of this job: worker 1 (127.0.0.1:" in workers.output(0)
    os.kill(processes[1].pid, signal.SIGCONT)
    assert processes[1].wait(60) == 1
    assert "lost another worker of this job" in workers.output(1)


@pytest.mark.long
@pytest.mark.parametrize("killed", [0, 1])
def test_after_training_the_run_depends_on_the_chief_only(workers: Team, killed: int) -> None:
    """The chief waits long enough for heartbeats to detect the lost worker."""
    out = f"over{killed}"
    processes = workers.start("plain:build", f"--out={out}", CHIEF_WAITS_S="15")
    workers.wait_for("epoch 3/3")
    time.sleep(1)
    processes[killed].kill()
    assert processes[1 - killed].wait(60) == (1, 0)[killed], workers.output(1 - killed)
    assert (workers.worker_folder(0) / out / "manifest.json").exists() == bool(killed)


@pytest.mark.long
def test_a_worker_with_other_settings_is_refused(workers: Team) -> None:
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    first, spare = workers.start("plain:build", "--out=unlike", addresses=addresses)
    spare.kill()
    spare.wait()
    other = workers.start("plain:build", "--out=unlike", "--seed=8", addresses=addresses)
    other[0].kill()
    assert [first.wait(60), other[1].wait(60)] == [2, 2]
    message = "this worker (now) differs from the chief (was): --seed was 7, now 8"
    assert message in workers.output(1)


@pytest.mark.long
def test_a_finished_run_ends_all_workers(workers: Team) -> None:
    workers.finish("plain:build", "--out=twice")
    workers.finish("plain:build", "--out=twice")
    assert "this run is finished already, nothing to do" in workers.output(0)
    assert "the chief reports that this run is finished already" in workers.output(1)


@pytest.mark.long
def test_a_second_job_on_the_same_run_directory_stops_on_all_workers(workers: Team) -> None:
    first = workers.start("plain:build", "--out=shared", *LONG_RUN)
    wait_for_checkpoint(workers, "shared")
    second = workers.start("plain:build", "--out=shared", *LONG_RUN)
    assert [process.wait(60) for process in second] == [2, 1]
    assert "another job is running on it" in workers.output(0)
    assert "lost another worker of this job: worker 0" in workers.output(1)
    assert [process.poll() for process in first] == [None, None]
    for process in first:
        process.kill()


def test_a_worker_that_waits_for_the_others_reacts_to_sigterm(workers: Team) -> None:
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    chief, worker = workers.start("plain:build", "--out=early", addresses=addresses)
    worker.kill()
    time.sleep(4)
    assert chief.poll() is None
    chief.terminate()
    assert chief.wait(10) == 143


@pytest.mark.parametrize("missing", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_worker_that_does_not_start_is_named(workers: Team, missing: int) -> None:
    processes = workers.start("plain:build", "--out=waiting", TRAINER_WORKERS_TIMEOUT_SECONDS="1")
    processes[missing].kill()
    assert processes[1 - missing].wait(30) == 1
    last = workers.output(1 - missing).splitlines()[-1]
    expected = ("the chief (127.0.0.1:", "worker 1 (127.0.0.1:")[missing]
    assert last.startswith(f"python -m trainer.task: error: {expected}")
    assert "in time; TRAINER_WORKERS_TIMEOUT_SECONDS sets the time limit" in last


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry-run"], "--dry-run: found 2 workers, expected one"),
        (["--folds=3"], "--folds: found 2 workers, expected one"),
        (["--xla=on"], "--xla on: found 2 workers, expected one"),
    ],
)
def test_flags_for_one_worker_are_refused_with_several(
    job: Job, arguments: list[str], message: str
) -> None:
    cluster = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}'
    process = job("--model=mlp", *arguments, TF_CONFIG=cluster)
    assert process.returncode == 2
    assert message in process.stderr
    assert "Traceback" not in process.stderr


def run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)


@pytest.fixture
def networks() -> Iterator[list[str]]:
    """Yields the names of two connected network namespaces: 10.91.0.1 and 10.91.0.2."""
    names = [f"trainer-{os.getpid()}-{index}" for index in range(2)]
    try:
        for name in names:
            run(f"ip netns add {name}")
        run(f"ip link add eth0 netns {names[0]} type veth peer name eth0 netns {names[1]}")
        for index, name in enumerate(names):
            run(f"ip -n {name} address add 10.91.0.{index + 1}/24 dev eth0")
            for device in ("lo", "eth0"):
                run(f"ip -n {name} link set {device} up")
    except (OSError, subprocess.CalledProcessError) as error:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
        pytest.skip(f"no network namespaces here: {error}")
    yield names
    for name in names:
        run(f"ip netns delete {name}")


@pytest.mark.long
def test_workers_on_two_networks_train_and_detect_a_broken_connection(
    networks: list[str], tmp_path: Path, digits: Path
) -> None:
    """When the connection breaks, no process has ended, but no packet arrives any more."""
    prefixes = [["ip", "netns", "exec", name] for name in networks]
    addresses = ["10.91.0.1:2222", "10.91.0.2:2222"]
    with team(tmp_path, digits, prefixes=prefixes) as workers:
        processes = workers.start("plain:build", "--out=run", addresses=addresses)
        assert [process.wait(60) for process in processes] == [0, 0], workers.output(0)
        processes = workers.start("plain:build", "--out=cut", *LONG_RUN, addresses=addresses)
        wait_for_checkpoint(workers, "cut")
        run(f"ip -n {networks[1]} link set eth0 down")
        started = time.monotonic()
        assert [process.wait(60) for process in processes] == [1, 1]
        print(f"detected after {time.monotonic() - started:.1f} s")
        for index in range(2):
            assert "lost another worker of this job" in workers.output(index).splitlines()[-1]
