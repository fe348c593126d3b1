"""Tests of faults of storage and machine: the result is correct, or the job fails with an error.

Covers each row of docs/faults.md on buckets and machines. After a failure, the same command must
resume and give the result of an undisturbed run, bit for bit.
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

pytestmark = [pytest.mark.long, pytest.mark.process]

ARGUMENTS = ("--model=mlp", "--epochs=4", "--batch-size=50", "--checkpoint-steps=5")
MANY = 10_000
MODEL = r"model\.keras"
UPLOAD, DOWNLOAD = "POST /upload/", "GET /download/"


@pytest.fixture(scope="module")
def undisturbed(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from trainer import task

    folder = tmp_path_factory.mktemp("faults")
    with pytest.raises(SystemExit):
        task.main([*ARGUMENTS, f"--data={digits}", f"--out={folder}/run"])
    return without_data_path(fingerprint(f"{folder}/run", folder))


def without_data_path(result: dict[str, Any]) -> dict[str, Any]:
    result["metrics"].pop("data")
    return result


@pytest.fixture
def data(bucket: str, digits: Path) -> str:
    storage.write_all(storage.folder(f"{bucket}/data"), {f.name: f for f in digits.iterdir()})
    return f"{bucket}/data"


TRANSIENT: dict[str, dict[str, Any]] = {
    "a burst of 503 at any request": {"status": 503, "times": 4, "skip": 20},
    "a burst of 429 at any request": {"status": 429, "times": 4, "skip": 20},
    "a burst of 503 at uploads": {"match": UPLOAD, "status": 503, "times": 3, "skip": 3},
    "connections reset at uploads": {"match": UPLOAD, "reset": True, "times": 3, "skip": 3},
    "connections reset during downloads": {"match": DOWNLOAD, "cut_reply": 5000, "times": 3},
    "lost replies of stored objects": {"match": UPLOAD, "lose_reply": True, "times": 5, "skip": 2},
    "a stall longer than the timeout": {"match": UPLOAD, "stall_s": 4, "skip": 6},
    "a stalled download": {"match": DOWNLOAD, "stall_s": 4},
    "data corrupted in transit": {"match": DOWNLOAD, "corrupt_reply": 3000},
    "truncated replies": {"match": UPLOAD, "truncate_reply": 20, "times": 2, "skip": 4},
    "one corrupted checkpoint": {"match": UPLOAD + ".*", "corrupt_request": 2000, "skip": 2},
}


@pytest.mark.parametrize("fault", TRANSIENT, ids=str)
def test_the_result_is_bit_identical_despite_a_transient_fault(
    fault: str,
    job: Job,
    bucket: str,
    data: str,
    proxy: FaultProxy,
    undisturbed: Any,
    tmp_path: Path,
) -> None:
    injected = proxy.add(**TRANSIENT[fault])
    out = f"{bucket}/run"
    result = job(*ARGUMENTS, f"--data={data}", f"--out={out}")
    assert injected.hits, "the fault did not occur"
    assert result.returncode == 0, result.stderr
    assert without_data_path(fingerprint(out, tmp_path)) == undisturbed


PERMANENT: dict[str, tuple[dict[str, Any], int, str]] = {
    "403 halfway": (
        {"match": UPLOAD, "status": 403, "times": MANY, "skip": 8,
         "message": "x does not have storage.objects.create access"},
        2, r"gs://.*: permission denied \(403\).*Storage Object User",
    ),
    "403 at the final write": (
        {"match": f"{UPLOAD}.*{MODEL}", "status": 403, "times": MANY},
        2, r"gs://.*/model\.keras: permission denied \(403\)",
    ),
    "a lasting outage at the final write": (
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


@pytest.mark.parametrize("fault", PERMANENT, ids=str)
def test_a_permanent_fault_is_an_error_and_the_run_can_be_resumed(
    fault: str,
    job: Job,
    bucket: str,
    data: str,
    proxy: FaultProxy,
    undisturbed: Any,
    tmp_path: Path,
) -> None:
    settings, code, message = PERMANENT[fault]
    proxy.add(**settings)
    out = f"{bucket}/run"
    command = (*ARGUMENTS, f"--data={data}", f"--out={out}")
    failed = job(*command)
    assert failed.returncode == code, failed.stderr
    assert re.search(message, failed.stderr.splitlines()[-1])
    assert storage.folder(out).read(filenames.MANIFEST) is None
    proxy.clear()
    result = job(*command)
    assert result.returncode == 0, result.stderr
    if "halfway" in fault or "final write" in fault:
        assert "resuming from" in result.stderr
    assert without_data_path(fingerprint(out, tmp_path)) == undisturbed
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)


# Faults of the machine are real: a small disk, a read-only mount and a memory limit, in a namespace
# or a control group of the job.


class Machine:
    """Runs the job on its own file system, whose size and mode a script can change."""

    def __init__(self, folder: Path, digits: Path) -> None:
        self.folder = folder
        command = " ".join([sys.executable, "-m", "trainer.task", *ARGUMENTS, f"--data={digits}"])
        self._job = f'job() {{ {command} --out={folder}/disk/run "$@"; echo code $?; }}'

    def run(self, script: str) -> list[str]:
        """Runs a shell script with the function `job`; returns its lines of stdout and stderr."""
        (self.folder / "disk").mkdir(exist_ok=True)
        result = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
             f"cd {self.folder}\n{self._job}\n{script}"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )  # fmt: skip
        return result.stdout.splitlines()


@pytest.fixture
def machine(tmp_path: Path, digits: Path) -> Machine:
    machine = Machine(tmp_path, digits)
    if machine.run("mount -t tmpfs none disk && echo mounted") != ["mounted"]:
        pytest.skip("no user namespaces: faults of the disk are not tested")
    return machine


def keep(folder: Path) -> str:
    """Returns a command that copies the run from the disk, which is removed with its namespace."""
    return f"cp -r disk/run {folder}/kept"


SIZES_KB = {"a checkpoint": 4_000, "the second checkpoint": 6_600, "the final write": 14_000}


@pytest.mark.parametrize("moment", SIZES_KB)
def test_a_full_disk(moment: str, machine: Machine, undisturbed: Any) -> None:
    lines = machine.run(f"""
        mount -t tmpfs -o size={SIZES_KB[moment]}k none disk
        job
        find disk -name manifest.json -o -name '.*.partial'
        echo more
        mount -o remount,size=100m disk
        job
        {keep(machine.folder)}
    """)
    at = lines.index("more")
    assert lines[at - 1] == "code 2"
    assert "No space left on device. The last good checkpoint: " in lines[at - 2]
    assert lines[-1] == "code 0"
    kept = str(machine.folder / "kept")
    assert any("resuming from" in line for line in lines[at:]) == (moment != "a checkpoint")
    assert without_data_path(fingerprint(kept, machine.folder)) == undisturbed


@pytest.mark.parametrize("size_kb", [2_000, 6_000, 10_000])
def test_a_full_disk_for_temporary_files(size_kb: int, machine: Machine, undisturbed: Any) -> None:
    lines = machine.run(f"""
        mkdir small; mount -t tmpfs -o size={size_kb}k none small
        TMPDIR=$PWD/small job
        find disk small -name manifest.json -o -name '.*.partial' -o -name 'trainer-*'
        echo more
        job
        {keep(machine.folder)}
    """)
    at = lines.index("more")
    assert lines[at - 1] == "code 2"
    assert "small: No space left on device. Set TMPDIR to another folder" in lines[at - 2]
    assert lines[-1] == "code 0"
    assert (
        without_data_path(fingerprint(str(machine.folder / "kept"), machine.folder)) == undisturbed
    )


def test_a_folder_that_turns_read_only(machine: Machine, undisturbed: Any) -> None:
    lines = machine.run(f"""
        mount -t tmpfs none disk
        job --checkpoint-steps=1 &
        until [ -e disk/run/checkpoints/latest.json ]; do sleep 0.02; done
        until mount -o remount,ro disk 2>/dev/null; do :; done  # Fails while a file is written.
        wait
        echo more
        mount -o remount,rw disk
        job --checkpoint-steps=1
        {keep(machine.folder)}
    """)
    at = lines.index("more")
    assert lines[at - 1] == "code 2"
    assert "Read-only file system" in lines[at - 2]
    assert any("resuming from" in line for line in lines[at:])
    assert lines[-1] == "code 0"
    assert (
        without_data_path(fingerprint(str(machine.folder / "kept"), machine.folder)) == undisturbed
    )


def test_a_deleted_run_directory(machine: Machine, undisturbed: Any) -> None:
    lines = machine.run(f"""
        job --epochs=100000 --checkpoint-seconds=1 &
        until [ -e disk/run/checkpoints/latest.json ]; do sleep 0.02; done
        mv disk/run disk/gone && rm -rf disk/gone  # Atomic: rm alone races with the job.
        wait
        echo more
        job
        {keep(machine.folder)}
    """)
    at = lines.index("more")
    assert lines[at - 1] == "code 2"
    assert "was deleted, or replaced by another" in lines[at - 2]
    assert lines[-1] == "code 0"
    assert (
        without_data_path(fingerprint(str(machine.folder / "kept"), machine.folder)) == undisturbed
    )


def test_too_little_address_space_is_an_error_before_training(machine: Machine) -> None:
    lines = machine.run("ulimit -v 1500000; job")
    assert lines[-1] == "code 2"
    assert (
        "the limit of the address space (ulimit -v) is 1.5 GB, expected at least 2.5 GB"
        in lines[-2]
    )


def test_too_little_memory_is_an_error_before_training(job: Job, digits: Path) -> None:
    """In a control group, like a container, the kernel would kill the job without a message."""
    groups = Path("/sys/fs/cgroup")
    group = (groups if (groups / "cgroup.controllers").exists() else groups / "memory") / "trainer"
    limit = "memory.max" if (groups / "memory.max").exists() else "memory.limit_in_bytes"
    try:
        group.mkdir()
        (group / limit).write_text("200000000")
    except OSError:
        pytest.skip("no control group can be created: the memory limit is not tested")
    try:
        enter = f"import os; open('{group}/cgroup.procs', 'w').write(str(os.getpid()));"
        call = f"from trainer import task; task.main(['--model=mlp', '--data={digits}'])"
        result = subprocess.run(
            [sys.executable, "-c", enter + call], cwd=ROOT, capture_output=True, text=True
        )
    finally:
        group.rmdir()
    assert result.returncode == 2, result.stderr
    assert "the memory limit is 200 MB, expected at least 30" in result.stderr


def test_a_network_too_large_for_memory_is_one_line(job: Job, tmp_path: Path, digits: Path) -> None:
    (tmp_path / "huge.py").write_text(
        "import keras\n"
        "def build(spec):\n"
        "    layers = [keras.Input(spec.shape), keras.layers.Flatten(),\n"
        "              keras.layers.Dense(2**40), keras.layers.Dense(10, 'softmax')]\n"
        "    return keras.Sequential(layers)\n"
    )
    result = job("--model=huge:build", f"--data={digits}")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("python -m trainer.task: error: out of memory")
