"""What goes wrong around a job ends in the right result or a clear failure, never a wrong file.

Each row of docs/faults.md that names a bucket or a machine is tried here. After a failure, the same
command must go on to the very result of an undisturbed run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Job
from tests.fault_proxy import FaultProxy
from tests.kills import fingerprint
from trainer import storage
from trainer.runs import filenames

pytestmark = pytest.mark.long

ARGUMENTS = ("--model=mlp", "--epochs=4", "--batch-size=50", "--checkpoint-steps=5")
MANY = 10_000
SNAPSHOT, POINTER, MODEL = r"checkpoints/\w+\.h5", "latest.json", r"model\.keras"
UPLOAD, DOWNLOAD = "POST /upload/", "GET /download/"


@pytest.fixture(scope="module")
def undisturbed(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from trainer import task

    folder = tmp_path_factory.mktemp("faults")
    with pytest.raises(SystemExit):
        task.main([*ARGUMENTS, f"--data={digits}", f"--out={folder}/run"])
    return without_place(fingerprint(f"{folder}/run", folder))


def without_place(found: dict[str, Any]) -> dict[str, Any]:
    found["metrics"].pop("data")
    return found


@pytest.fixture
def data(bucket: str, digits: Path) -> str:
    storage.write_all(storage.folder(f"{bucket}/data"), {f.name: f for f in digits.iterdir()})
    return f"{bucket}/data"


PASSING: dict[str, dict[str, Any]] = {
    "a burst of 503 at any request": {"status": 503, "times": 4, "skip": 20},
    "a burst of 429 at any request": {"status": 429, "times": 4, "skip": 20},
    "a burst of 503 at uploads": {"match": UPLOAD, "status": 503, "times": 3, "skip": 3},
    "connections reset at uploads": {"match": UPLOAD, "reset": True, "times": 3, "skip": 3},
    "connections reset within data": {"match": DOWNLOAD, "cut_reply": 5000, "times": 3},
    "replies lost of stored objects": {"match": UPLOAD, "lose_reply": True, "times": 5, "skip": 2},
    "a stall longer than the timeout": {"match": UPLOAD, "stall_s": 4, "skip": 6},
    "a stalled download": {"match": DOWNLOAD, "stall_s": 4},
    "data corrupted on its way": {"match": DOWNLOAD, "corrupt_reply": 3000},
    "replies that end early": {"match": UPLOAD, "truncate_reply": 20, "times": 2, "skip": 4},
    "one corrupted checkpoint": {"match": UPLOAD + ".*", "corrupt_request": 2000, "skip": 2},
}


@pytest.mark.parametrize("fault", PASSING, ids=str)
def test_the_result_is_right_all_the_same(
    fault: str,
    job: Job,
    bucket: str,
    data: str,
    proxy: FaultProxy,
    undisturbed: Any,
    tmp_path: Path,
) -> None:
    put = proxy.add(**PASSING[fault])
    out = f"{bucket}/run"
    done = job(*ARGUMENTS, f"--data={data}", f"--out={out}")
    assert put.hits, "the fault was never met"
    assert done.returncode == 0, done.stderr
    assert without_place(fingerprint(out, tmp_path)) == undisturbed


FAILING: dict[str, tuple[dict[str, Any], int, str]] = {
    "403 halfway": (
        {"match": UPLOAD, "status": 403, "times": MANY, "skip": 8},
        2, r"gs://.*: permission denied \(403\).*Storage Object User",
    ),
    "403 at the final write": (
        {"match": f"{UPLOAD}.*{MODEL}", "status": 403, "times": MANY},
        2, r"gs://.*/model\.keras: permission denied \(403\)",
    ),
    "an outage without end at the final write": (
        {"match": f"{UPLOAD}.*{MODEL}", "status": 503, "times": MANY},
        1, r"gs://.*/model\.keras: Cloud Storage failed",
    ),
    "a model that is corrupted each time": (
        {"match": f"{UPLOAD}.*{MODEL}", "corrupt_request": 5000, "times": MANY},
        1, r"gs://.*/model\.keras: ",
    ),
    "data that is corrupted each time": (
        {"match": DOWNLOAD, "corrupt_reply": 3000, "times": MANY},
        1, r"gs://.*: 3 downloads did not match its CRC32C",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAILING, ids=str)
def test_the_failure_is_clear_and_the_run_goes_on(
    fault: str,
    job: Job,
    bucket: str,
    data: str,
    proxy: FaultProxy,
    undisturbed: Any,
    tmp_path: Path,
) -> None:
    settings, code, message = FAILING[fault]
    proxy.add(**settings)
    out = f"{bucket}/run"
    command = (*ARGUMENTS, f"--data={data}", f"--out={out}")
    failed = job(*command)
    assert failed.returncode == code, failed.stderr
    assert re.search(message, failed.stderr.splitlines()[-1])
    assert storage.folder(out).read(filenames.MANIFEST) is None
    proxy.clear()
    done = job(*command)
    assert done.returncode == 0, done.stderr
    if "halfway" in fault or "final write" in fault:
        assert "resuming from" in done.stderr
    assert without_place(fingerprint(out, tmp_path)) == undisturbed
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)


# What goes wrong with the machine is done to it for real: a small disk, a read-only mount and a
# memory limit, each in a namespace or a control group of the job's own.


class Machine:
    """Runs the job on a file system of its own, whose size and mode the script can change."""

    def __init__(self, folder: Path, digits: Path) -> None:
        self.folder = folder
        command = " ".join([sys.executable, "-m", "trainer.task", *ARGUMENTS, f"--data={digits}"])
        self._job = f'job() {{ {command} --out={folder}/disk/run "$@"; echo code $?; }}'

    def run(self, script: str) -> list[str]:
        """Runs a shell script in which `job` is the job; returns its lines, stderr among them."""
        (self.folder / "disk").mkdir(exist_ok=True)
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
             f"cd {self.folder}\n{self._job}\n{script}"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )  # fmt: skip
        return done.stdout.splitlines()


@pytest.fixture
def machine(tmp_path: Path, digits: Path) -> Machine:
    made = Machine(tmp_path, digits)
    if made.run("mount -t tmpfs none disk && echo mounted") != ["mounted"]:
        pytest.skip("no user namespaces here: faults of the disk are not tried")
    return made


def keep(folder: Path) -> str:
    """Copies the run off the disk, which ends with its namespace."""
    return f"cp -r disk/run {folder}/kept"


SIZES_KB = {"a checkpoint": 4_000, "the second checkpoint": 6_600, "the final write": 14_000}


@pytest.mark.parametrize("moment", SIZES_KB)
def test_a_full_disk(moment: str, machine: Machine, undisturbed: Any) -> None:
    said = machine.run(f"""
        mount -t tmpfs -o size={SIZES_KB[moment]}k none disk
        job
        find disk -name manifest.json -o -name '.*.partial'
        echo more
        mount -o remount,size=100m disk
        job
        {keep(machine.folder)}
    """)
    at = said.index("more")
    assert said[at - 1] == "code 2"
    assert "No space left on device. The last good checkpoint: " in said[at - 2]
    assert said[-1] == "code 0"
    kept = str(machine.folder / "kept")
    assert any("resuming from" in line for line in said[at:]) == (moment != "a checkpoint")
    assert without_place(fingerprint(kept, machine.folder)) == undisturbed


@pytest.mark.parametrize("size_kb", [2_000, 6_000, 10_000])
def test_a_full_disk_for_temporary_files(size_kb: int, machine: Machine, undisturbed: Any) -> None:
    said = machine.run(f"""
        mkdir small; mount -t tmpfs -o size={size_kb}k none small
        TMPDIR=$PWD/small job
        find disk small -name manifest.json -o -name '.*.partial' -o -name 'trainer-*'
        echo more
        job
        {keep(machine.folder)}
    """)
    at = said.index("more")
    assert said[at - 1] == "code 2"
    assert "small: No space left on device. Set TMPDIR to another folder" in said[at - 2]
    assert said[-1] == "code 0"
    assert without_place(fingerprint(str(machine.folder / "kept"), machine.folder)) == undisturbed


def test_a_folder_that_turns_read_only(machine: Machine, undisturbed: Any) -> None:
    said = machine.run(f"""
        mount -t tmpfs none disk
        job --checkpoint-steps=1 &
        until [ -e disk/run/checkpoints/latest.json ]; do sleep 0.02; done
        until mount -o remount,ro disk 2>/dev/null; do :; done  # Refused while a file is written.
        wait
        echo more
        mount -o remount,rw disk
        job --checkpoint-steps=1
        {keep(machine.folder)}
    """)
    at = said.index("more")
    assert said[at - 1] == "code 2"
    assert "Read-only file system" in said[at - 2]
    assert any("resuming from" in line for line in said[at:])
    assert said[-1] == "code 0"
    assert without_place(fingerprint(str(machine.folder / "kept"), machine.folder)) == undisturbed


def test_a_run_directory_that_is_deleted(machine: Machine, undisturbed: Any) -> None:
    said = machine.run(f"""
        job --epochs=100000 --checkpoint-seconds=1 &
        until [ -e disk/run/checkpoints/latest.json ]; do sleep 0.02; done
        mv disk/run disk/gone && rm -rf disk/gone  # At once: rm alone races with the job.
        wait
        echo more
        job
        {keep(machine.folder)}
    """)
    at = said.index("more")
    assert said[at - 1] == "code 2"
    assert "was deleted, or replaced by another" in said[at - 2]
    assert said[-1] == "code 0"
    assert without_place(fingerprint(str(machine.folder / "kept"), machine.folder)) == undisturbed


def test_too_few_addresses_are_told_before_training(machine: Machine) -> None:
    said = machine.run("ulimit -v 1500000; job")
    assert said[-1] == "code 2"
    assert "the limit of the address space (ulimit -v) is 1.5 GB, expected at least 2.5 GB" in said[-2]


def test_too_little_memory_is_told_before_training(job: Job, digits: Path) -> None:
    """In a control group, as a container is; the job would be killed without a word."""
    groups = Path("/sys/fs/cgroup")
    group = (groups if (groups / "cgroup.controllers").exists() else groups / "memory") / "trainer"
    limit = "memory.max" if (groups / "memory.max").exists() else "memory.limit_in_bytes"
    try:
        group.mkdir()
        (group / limit).write_text("200000000")
    except OSError:
        pytest.skip("no control group can be made here: the memory limit is not tried")
    try:
        enter = f"import os; open('{group}/cgroup.procs', 'w').write(str(os.getpid()));"
        call = f"from trainer import task; task.main(['--model=mlp', '--data={digits}'])"
        done = subprocess.run(
            [sys.executable, "-c", enter + call], cwd=ROOT, capture_output=True, text=True
        )
    finally:
        group.rmdir()
    assert done.returncode == 2, done.stderr
    assert "the memory limit is 200 MB, expected at least 30" in done.stderr


def test_a_network_too_large_for_memory_is_one_line(job: Job, tmp_path: Path, digits: Path) -> None:
    (tmp_path / "huge.py").write_text(
        "import keras\n"
        "def build(spec):\n"
        "    layers = [keras.Input(spec.shape), keras.layers.Flatten(),\n"
        "              keras.layers.Dense(2**40), keras.layers.Dense(10, 'softmax')]\n"
        "    return keras.Sequential(layers)\n"
    )
    done = job("--model=huge:build", f"--data={digits}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("python -m trainer.task: error: out of memory")
