"""What goes wrong around a job ends in the right result or a clear failure, never a wrong file.

Each row of docs/faults.md that names a bucket or a machine is tried here. After a failure, the same
command must go on to the very result of an undisturbed run.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Job
from tests.fault_proxy import FaultProxy
from tests.test_kill import fingerprint
from trainer import storage
from trainer.results import names

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
    storage.put_all(storage.folder(f"{bucket}/data"), {f.name: f for f in digits.iterdir()})
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
    "one corrupted snapshot": {"match": UPLOAD + ".*", "corrupt_request": 2000, "skip": 2},
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
    assert storage.folder(out).read(names.MANIFEST) is None
    proxy.clear()
    done = job(*command)
    assert done.returncode == 0, done.stderr
    if "halfway" in fault or "final write" in fault:
        assert "going on from" in done.stderr
    assert without_place(fingerprint(out, tmp_path)) == undisturbed
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
