"""Several workers train together as one does, and end together."""

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
    with team(tmp_path_factory.mktemp("workers"), digits) as made:
        yield made


def curve(workers: Team, out: str, *names: str) -> list[list[float]]:
    with (workers.place(0) / out / "history.csv").open() as file:
        return [[float(row[name]) for name in names] for row in csv.DictReader(file)]


@dataclass
class Ended:
    """What a run left behind.

    Attributes:
        weights: of the chief.
        seen: as `Team.seen` gives it.
    """

    weights: list[np.ndarray]
    seen: dict[str, np.ndarray]


def ended(workers: Team, out: str, count: int) -> Ended:
    workers.finish("plain:build", f"--out={out}", workers=count)
    return Ended(workers.weights(0), workers.seen(count))


@pytest.fixture(scope="module")
def two(workers: Team) -> Ended:
    """A run of two workers, in `two`."""
    return ended(workers, "two", 2)


@pytest.fixture(scope="module")
def one(workers: Team, two: Ended) -> Ended:
    """The same of one worker, in `one`."""
    return ended(workers, "one", 1)


def test_the_chief_alone_writes_and_all_end_with_its_weights(workers: Team, two: Ended) -> None:
    assert all((a == b).all() for a, b in zip(two.weights, workers.weights(1), strict=True))
    assert "2 workers, each CPU: " in workers.said(0)
    assert workers.said(0).count("epoch ") == 3
    assert workers.said(0).endswith("\ntwo\n")
    assert list(workers.place(1).iterdir()) == []
    first, second = workers.said(1).splitlines()
    assert first.startswith("host 1 of 2: trains its share; the chief (127.0.0.1:")
    assert second.startswith("training plain:build on ")


def check_like(workers: Team, out: str, other: str) -> None:
    """Two runs have the same losses, but for rounding."""
    names = ("loss", "val_loss", "learning_rate")
    np.testing.assert_allclose(
        curve(workers, out, *names), curve(workers, other, *names), rtol=1e-6
    )


def test_two_workers_give_the_losses_of_one(workers: Team, one: Ended, two: Ended) -> None:
    check_like(workers, "two", "one")
    for a, b in zip(one.weights, two.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_two_workers_have_the_examples_and_the_random_numbers_of_one(
    one: Ended, two: Ended
) -> None:
    """To the bit, and each half of them, in the same order."""
    assert one.seen["given"].shape == (3 * 9, 96)
    assert len(np.unique(one.seen["given"])) > 790
    np.testing.assert_array_equal(two.seen["given"], one.seen["given"])
    np.testing.assert_array_equal(two.seen["drawn"], one.seen["drawn"])


@pytest.mark.long
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_goes_on_on_another_number_of_workers(
    workers: Team, two: Ended, before: int, after: int
) -> None:
    out = f"{before}to{after}"
    workers.finish("plain:build", f"--out={out}", workers=before, code=143, ENDS_AFTER="1")
    workers.finish("plain:build", f"--out={out}", workers=after)
    assert f"going on from {out}/checkpoints/" in workers.said(0)
    assert "the result may differ in its last bits: device was " in workers.said(0)
    check_like(workers, out, "two")
    np.testing.assert_array_equal(workers.seen(after)["given"], two.seen["given"][9:])


@pytest.mark.long
def test_three_workers_share_batches_that_they_do_not_divide(workers: Team) -> None:
    workers.finish("plain:build", "--out=three", "--batch-size=95", workers=3)
    workers.finish("plain:build", "--out=alone", "--batch-size=95", workers=1)
    check_like(workers, "three", "alone")


def wait_for_checkpoint(workers: Team, out: str) -> None:
    pointer = workers.place(0) / out / "checkpoints" / "latest.json"
    deadline = time.monotonic() + 60
    while not pointer.exists():
        assert time.monotonic() < deadline, workers.said(0)
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(workers: Team) -> dict[str, Any]:
    """With dropout, batch normalisation and callbacks that change the learning rate."""
    workers.finish("killed:build", "--out=undisturbed")
    return fingerprint(str(workers.place(0) / "undisturbed"), workers.folder)


@pytest.mark.long
@pytest.mark.parametrize("killed", [0, 1])
def test_a_host_that_is_killed_ends_the_others_and_all_go_on_exactly(
    workers: Team, undisturbed: dict[str, Any], killed: int
) -> None:
    out = f"killed{killed}"
    processes = workers.start("killed:build", f"--out={out}", "--checkpoint-steps=20")
    wait_for_checkpoint(workers, out)
    processes[killed].kill()
    began = time.monotonic()
    assert processes[1 - killed].wait(60) == 1
    print(f"noticed after {time.monotonic() - began:.1f} s")
    last = workers.said(1 - killed).splitlines()[-1]
    assert last.startswith(
        "python -m trainer.task: error: another worker of this job is gone: host "
    )
    assert "Traceback" not in workers.said(1 - killed)
    if killed == 1:
        assert f"The last good checkpoint: {out}/checkpoints/" in last
    workers.finish("killed:build", f"--out={out}", "--checkpoint-steps=20")
    assert f"going on from {out}/checkpoints/" in workers.said(0)
    assert "may differ" not in workers.said(0)
    assert fingerprint(str(workers.place(0) / out), workers.folder) == undisturbed


@pytest.mark.long
def test_all_workers_killed_at_once_go_on_exactly(
    workers: Team, undisturbed: dict[str, Any]
) -> None:
    for attempt in range(3):
        processes = workers.start("killed:build", "--out=all", "--checkpoint-steps=20")
        workers.wait_for("training")
        time.sleep(1.5 + attempt)
        for process in processes:
            process.kill()
    workers.finish("killed:build", "--out=all")
    assert fingerprint(str(workers.place(0) / "all"), workers.folder) == undisturbed


@pytest.mark.long
@pytest.mark.parametrize("told", [(0, 1), (0,), (1,)])
def test_sigterm_saves_a_checkpoint_and_ends_all_workers(
    workers: Team, undisturbed: dict[str, Any], told: tuple[int, ...]
) -> None:
    """A service stops all workers; one whose node alone is taken away takes the others along."""
    out = f"ended{''.join(map(str, told))}"
    processes = workers.start("killed:build", f"--out={out}", "--checkpoint-seconds=1000")
    wait_for_checkpoint(workers, out)  # That of the first epoch.
    for index in told:
        processes[index].terminate()
    assert [process.wait(20) for process in processes] == [143, 143]
    assert f"the same command goes on from {out}/checkpoints/" in workers.said(0)
    assert "stopped by SIGTERM; the chief saves a checkpoint" in workers.said(1)
    workers.finish("killed:build", f"--out={out}", "--checkpoint-seconds=1000")
    assert f"going on from {out}/checkpoints/" in workers.said(0)
    assert fingerprint(str(workers.place(0) / out), workers.folder) == undisturbed


@pytest.mark.long
def test_a_host_that_stands_still_is_taken_for_lost(workers: Team) -> None:
    processes = workers.start("plain:build", "--out=still", *LONG_RUN)
    wait_for_checkpoint(workers, "still")
    os.kill(processes[1].pid, signal.SIGSTOP)
    assert processes[0].wait(60) == 1
    assert "another worker of this job is gone: host 1 (127.0.0.1:" in workers.said(0)
    os.kill(processes[1].pid, signal.SIGCONT)
    assert processes[1].wait(60) == 1
    assert "another worker of this job is gone" in workers.said(1)


@pytest.mark.long
@pytest.mark.parametrize("killed", [0, 1])
def test_when_training_is_over_the_run_is_the_chiefs_alone(workers: Team, killed: int) -> None:
    """Long enough for heartbeats to miss the other worker."""
    out = f"over{killed}"
    processes = workers.start("plain:build", f"--out={out}", CHIEF_LINGERS="15")
    workers.wait_for("epoch 3/3")
    time.sleep(1)
    processes[killed].kill()
    assert processes[1 - killed].wait(60) == (1, 0)[killed], workers.said(1 - killed)
    assert (workers.place(0) / out / "manifest.json").exists() == bool(killed)


@pytest.mark.long
def test_other_settings_on_one_host_are_noticed(workers: Team) -> None:
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    first, spare = workers.start("plain:build", "--out=unlike", addresses=addresses)
    spare.kill()
    spare.wait()
    other = workers.start("plain:build", "--out=unlike", "--seed=8", addresses=addresses)
    other[0].kill()
    assert [first.wait(60), other[1].wait(60)] == [2, 2]
    assert "the chief's state: it is of other settings" in workers.said(1)


@pytest.mark.long
def test_a_run_that_is_finished_sends_all_workers_home(workers: Team) -> None:
    workers.finish("plain:build", "--out=twice")
    workers.finish("plain:build", "--out=twice")
    assert "this run is finished already, nothing to do" in workers.said(0)
    assert "the chief has nothing to do" in workers.said(1)


@pytest.mark.long
def test_what_the_chief_refuses_ends_all(workers: Team) -> None:
    """A second job on the same run directory."""
    first = workers.start("plain:build", "--out=shared", *LONG_RUN)
    wait_for_checkpoint(workers, "shared")
    second = workers.start("plain:build", "--out=shared", *LONG_RUN)
    assert [process.wait(60) for process in second] == [2, 1]
    assert "another job is running on it" in workers.said(0)
    assert "another worker of this job is gone: host 0" in workers.said(1)
    assert [process.poll() for process in first] == [None, None]
    for process in first:
        process.kill()


def test_a_host_waits_for_the_others_and_hears_sigterm_meanwhile(workers: Team) -> None:
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    chief, worker = workers.start("plain:build", "--out=early", addresses=addresses)
    worker.kill()
    time.sleep(4)
    assert chief.poll() is None
    chief.terminate()
    assert chief.wait(10) == 143


@pytest.mark.parametrize("missing", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_host_that_never_comes_is_named(workers: Team, missing: int) -> None:
    processes = workers.start("plain:build", "--out=waiting", TRAINER_HOSTS_SECONDS="1")
    processes[missing].kill()
    assert processes[1 - missing].wait(30) == 1
    last = workers.said(1 - missing).splitlines()[-1]
    expected = ("the chief (127.0.0.1:", "did not come in time: host 1 (127.0.0.1:")[missing]
    assert last.startswith(f"python -m trainer.task: error: {expected}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry-run"], "--dry-run: found 2 workers, expected one"),
        (["--folds=3"], "--folds: found 2 workers, expected one"),
        (["--xla=on"], "--xla on: found 2 workers, expected one"),
    ],
)
def test_what_is_for_one_host_is_refused(job: Job, arguments: list[str], message: str) -> None:
    cluster = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}'
    done = job("--model=mlp", *arguments, TF_CONFIG=cluster)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)


@pytest.fixture
def networks() -> Iterator[list[str]]:
    """Names of two network namespaces with a cable between them: 10.91.0.1 and 10.91.0.2."""
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
def test_workers_with_addresses_of_their_own(
    networks: list[str], tmp_path: Path, digits: Path
) -> None:
    """And a cable that is pulled: no process has ended, and none hears of the other any more."""
    prefixes = [["ip", "netns", "exec", name] for name in networks]
    addresses = ["10.91.0.1:2222", "10.91.0.2:2222"]
    with team(tmp_path, digits, prefixes=prefixes) as workers:
        done = workers.start("plain:build", "--out=run", addresses=addresses)
        assert [process.wait(60) for process in done] == [0, 0], workers.said(0)
        cut = workers.start("plain:build", "--out=cut", *LONG_RUN, addresses=addresses)
        wait_for_checkpoint(workers, "cut")
        run(f"ip -n {networks[1]} link set eth0 down")
        began = time.monotonic()
        assert [process.wait(60) for process in cut] == [1, 1]
        print(f"noticed after {time.monotonic() - began:.1f} s")
        for index in range(2):
            assert "another worker of this job is gone" in workers.said(index).splitlines()[-1]
