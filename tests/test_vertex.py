"""The job as Vertex AI runs it: configured by environment variables, stopped and restarted."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import Job
from tests.kills import MODEL, ROOT, fingerprint
from tests.runtime.test_cloud_environment import VERTEX
from trainer import storage
from trainer.data.dataset import Dataset


@pytest.fixture
def managed(bucket: str, mnist: Dataset, tmp_path: Path) -> dict[str, str]:
    """Writes a Vertex AI data set of 120 images to the bucket; returns its AIP_* variables."""
    files: dict[str, Path] = {}
    lines: dict[str, list[str]] = {"training": [], "validation": [], "test": []}
    for number in range(120):
        use = "training" if number < 80 else "validation" if number < 100 else "test"
        content = io.BytesIO()
        Image.fromarray(mnist.train.examples[number, ..., 0]).save(content, "PNG")
        (tmp_path / f"{number}.png").write_bytes(content.getvalue())
        files[f"images/{number}.png"] = tmp_path / f"{number}.png"
        item: dict[str, Any] = {"imageGcsUri": f"{bucket}/images/{number}.png"}
        item["classificationAnnotation"] = {"displayName": str(mnist.train.labels[number])}
        item["dataItemResourceLabels"] = {"aiplatform.googleapis.com/ml_use": use}
        lines[use].append(json.dumps(item))
    variables = {"AIP_DATA_FORMAT": "jsonl"}
    for use, items in lines.items():
        (tmp_path / f"{use}.jsonl").write_text("\n".join(items))
        files[f"data/{use}-00000.jsonl"] = tmp_path / f"{use}.jsonl"
        variables[f"AIP_{use.upper()}_DATA_URI"] = f"{bucket}/data/{use}-*.jsonl"
    storage.write_all(storage.folder(bucket), files)
    return variables


class Service:
    """Starts the container's command, as often as needed, like the service."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        (folder / "killed.py").write_text(MODEL)
        self._folder = folder
        inherited = {name: os.environ[name] for name in os.environ if not name.startswith("TF_")}
        inherited["TRAINER_LEASE_SECONDS"] = "2"
        self._environment = {**inherited, "PYTHONPATH": f"{ROOT}:{folder}", **environment}
        self.stdout = folder / "stdout"

    def start(self) -> subprocess.Popen[bytes]:
        with self.stdout.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "trainer.task", "--model=killed:build", "--epochs=30",
                 "--checkpoint-steps=10"],
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )  # fmt: skip

    def messages(self) -> list[str]:
        """Returns the job's log messages; each line must be a structured entry."""
        entries = [json.loads(line) for line in self.stdout.read_text().splitlines()]
        assert all({"severity", "message"} <= set(entry) for entry in entries)
        return [entry["message"] for entry in entries]


def variables(base: str) -> dict[str, str]:
    return {name: value.replace("gs://bucket/base", base) for name, value in VERTEX.items()}


@pytest.mark.long
def test_a_killed_job_resumes_when_it_is_restarted(
    bucket: str, managed: dict[str, str], tmp_path: Path
) -> None:
    service = Service(tmp_path, managed | variables(f"{bucket}/uninterrupted"))
    assert service.start().wait(120) == 0, service.stdout.read_text()
    assert service.messages()[-1] == f"{bucket}/uninterrupted/model"

    service = Service(tmp_path, managed | variables(f"{bucket}/killed"))
    for stop_signal, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143)):
        process = service.start()
        checkpoints = storage.folder(f"{bucket}/killed/checkpoints")
        while process.poll() is None and (
            not any(name.endswith("/latest.json") for name in checkpoints.names())
            or b"epoch " not in service.stdout.read_bytes()
        ):
            time.sleep(0.05)
        process.send_signal(stop_signal)
        assert process.wait(60) == code, service.stdout.read_text()
    assert "stopped by SIGTERM; the same command resumes from" in service.messages()[-1]
    assert service.start().wait(120) == 0, service.stdout.read_text()
    assert any(message.startswith("resuming from") for message in service.messages())

    uninterrupted, killed = (
        fingerprint(f"{bucket}/{name}/model", tmp_path) for name in ("uninterrupted", "killed")
    )
    for run in (uninterrupted, killed):
        run["metrics"].pop("data")
    assert killed == uninterrupted
    remaining = storage.folder(f"{bucket}/killed").names()
    assert "model/manifest.json" in remaining
    assert [name for name in remaining if name.startswith("checkpoints/")] == []
    assert len([name for name in remaining if name.startswith("logs/events.out.tfevents.")]) == 1

    # The service may also restart a job that has finished.
    assert service.start().wait(60) == 0
    assert "this run is finished already" in service.messages()[0]


def test_a_usage_error_is_a_structured_entry_on_stdout(tmp_path: Path) -> None:
    service = Service(tmp_path, {**VERTEX, "AIP_MODEL_DIR": "gs://"})
    assert service.start().wait(30) == 2
    (message,) = service.messages()
    assert "expected gs://bucket/path" in message


def test_a_job_without_an_output_folder_is_refused(tmp_path: Path) -> None:
    """Without baseOutputDirectory the service sets no folder; the machine's disk is deleted."""
    if os.stat(tmp_path).st_dev != os.stat("/").st_dev:
        pytest.skip("temporary files are on a volume of their own")
    service = Service(tmp_path, {name: VERTEX[name] for name in ("CLOUD_ML_PROJECT_ID",)})
    assert service.start().wait(30) == 2
    (message,) = service.messages()
    assert "is deleted with the job (CLOUD_ML_PROJECT_ID is set), expected gs://" in message


def test_checkpoints_of_another_run_are_not_changed(
    job: Job, bucket: str, digits: Path, tmp_path: Path
) -> None:
    (tmp_path / "checkpoint").write_bytes(b"of another run")
    shared = storage.folder(f"{bucket}/checkpoints")
    other_files = [f"{'b' * 16}/{'a' * 32}.h5", f"{'b' * 16}/latest.json", "weights.h5"]
    for name in other_files:
        shared.write(name, tmp_path / "checkpoint")
    folders = (f"--out={bucket}/run", f"--checkpoint-dir={bucket}/checkpoints")
    for _ in range(2):  # The second command finds a finished run.
        result = job(
            "--model=mlp", f"--data={digits}", *folders, "--epochs=2", "--checkpoint-steps=2"
        )
        assert result.returncode == 0, result.stderr
    assert shared.names() == sorted(other_files)
