"""`trainer submit` against a server that imitates Vertex AI, with injected faults."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from google.cloud.aiplatform_v1 import types

from tests.fault_proxy import FaultProxy
from tests.kills import ROOT
from tests.vertex_server import VertexServer, entry, served
from trainer.cli import main
from trainer.errors import StorageError

VERTEX = ["--project=p", "--region=us-central1", "--image=img", "--out=gs://b/runs/1"]
KUBERNETES = ["--kubernetes", "--image=img", "--out=gs://b/runs/1"]
POST = "POST /v1"


@pytest.fixture
def server() -> VertexServer:
    return VertexServer()


@pytest.fixture
def proxy(server: VertexServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Directs `trainer submit`, in this process and others, to a fault proxy before the server."""
    with served(server) as proxy:
        for service in ("AIPLATFORM", "LOGGING"):
            monkeypatch.setenv(f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{service}", proxy.url)
        monkeypatch.setenv("TRAINER_RETRY_SECONDS", "2")
        monkeypatch.setenv("TRAINER_POLL_SECONDS", "0.01")
        yield proxy


def submit(
    capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[object, list[str], list[str]]:
    """Returns the exit code, and the lines on stdout and stderr."""
    with pytest.raises(SystemExit) as stopped:
        main.main(["submit", *arguments])
    out, err = capsys.readouterr()
    return stopped.value.code, out.splitlines(), err.splitlines()


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Starts `trainer submit` as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", "submit", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=options.get("stdin", subprocess.DEVNULL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(run: subprocess.Popen[str]) -> tuple[int, list[str], list[str]]:
    """Waits for a process; returns its exit code, and the lines on stdout and stderr."""
    out, err = run.communicate(timeout=60)
    return run.returncode, out.splitlines(), err.splitlines()


# --- From the flags to the end of the job, as a process -------------------------------------------


def test_a_job_is_printed_submitted_and_watched_until_it_ends(
    server: VertexServer, proxy: FaultProxy
) -> None:
    server.log = [
        [entry(1, "epoch 1")],
        [],
        [entry(2, "epoch 2\nof 2", plain=True)],
        [entry(3, "x")],
    ]
    code, out, err = result(
        start(*VERTEX, "--gpu=nvidia-l4", "--spot", "--yes", "--", "--model=cnn")
    )
    assert code == 0, err
    assert out == ["epoch 1", "epoch 2", "of 2", "x", "gs://b/runs/1/model"]
    (body,) = server.bodies
    printed = err[: err.index("submitted projects/p/locations/us-central1/customJobs/1000")]
    assert yaml.safe_load("\n".join(printed)) == body
    assert [line for line in err if line.startswith("state: ")] == [
        "state: QUEUED", "state: PENDING", "state: RUNNING", "state: SUCCEEDED",
    ]  # fmt: skip
    assert body["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["args"] == [
        "--model=cnn", "--device=gpu",  # The job fails if it cannot open the GPU.
    ]  # fmt: skip
    assert body["jobSpec"]["baseOutputDirectory"] == {"outputUriPrefix": "gs://b/runs/1"}


def test_the_command_exits_with_the_containers_exit_code(
    server: VertexServer, proxy: FaultProxy
) -> None:
    server.states[-1] = "FAILED"
    server.error = {
        "code": 3,
        "message": "The replica workerpool0-0 exited with a non-zero status of 2. Termination "
        "reason: Error. To find out more, see the logs.",
    }
    server.log = [[entry(1, "--data: no such object")]]
    code, out, err = result(start(*VERTEX, "--yes"))
    assert (code, out) == (2, ["--data: no such object"])
    assert err[-1].startswith("trainer submit: error: projects/p/locations/us-central1/customJobs/")
    assert "FAILED: The replica workerpool0-0 exited with a non-zero status of 2" in err[-1]


def test_a_lost_response_creates_no_second_job(server: VertexServer, proxy: FaultProxy) -> None:
    proxy.add(match=POST, lose_reply=True)
    code, out, err = result(start(*VERTEX, "--yes"))
    assert (code, out) == (0, ["gs://b/runs/1/model"]), err
    assert len(server.jobs) == len(server.bodies) == 1


def test_a_dry_run_of_the_job_prints_no_run_directory(
    server: VertexServer, proxy: FaultProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = submit(capsys, *VERTEX, "--yes", "--", "--dry-run")
    assert (code, out) == (0, [])


def test_without_a_terminal_yes_is_required(server: VertexServer, proxy: FaultProxy) -> None:
    code, out, err = result(start(*VERTEX))
    assert (code, out, server.bodies) == (2, [], [])
    (line,) = err
    assert "stdin is not a terminal. Expected --yes" in line


@pytest.mark.parametrize(("answer", "code", "jobs"), [("y", 0, 1), ("n", 2, 0), ("", 2, 0)])
def test_on_a_terminal_it_asks_for_confirmation(
    answer: str, code: int, jobs: int, server: VertexServer, proxy: FaultProxy
) -> None:
    keyboard, terminal = pty.openpty()
    os.write(keyboard, f"{answer}\n".encode())
    exit_code, _, err = result(start(*VERTEX, stdin=terminal))
    os.close(keyboard)
    os.close(terminal)
    assert (exit_code, len(server.jobs)) == (code, jobs), err
    assert any("Submit this job to p in us-central1? [y/N]" in line for line in err)


def test_ctrl_c_leaves_the_job_running(server: VertexServer, proxy: FaultProxy) -> None:
    server.states = ["RUNNING"]
    run = start(*VERTEX, "--yes")
    deadline = time.monotonic() + 30
    while not server.status_requests and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    code, out, err = result(run)
    assert (code, out) == (130, [])
    job = "1000 --project=p --region=us-central1"
    assert f"To watch it: gcloud ai custom-jobs stream-logs {job}" in err[-3]
    assert err[-2] == f"To end it: gcloud ai custom-jobs cancel {job}"


def test_without_credentials_the_error_names_the_login_command(tmp_path: Path) -> None:
    environment = {
        "HOME": str(tmp_path), "PATH": os.environ["PATH"], "NO_GCE_CHECK": "1",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    process = subprocess.run(
        [sys.executable, "-m", "trainer", "submit", *VERTEX, "--yes"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.count("\n") == 1
    assert "no Google credentials: run `gcloud auth application-default login`" in process.stderr


def test_a_wrong_key_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.launch import rest

    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path))
    with pytest.raises(StorageError, match=f"found {tmp_path}, a folder, expected a key file"):
        rest.Client("https://aiplatform.example")
    key = tmp_path / "key.json"
    key.write_text('{"type": "service_account"}')
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    with pytest.raises(StorageError, match=f"CREDENTIALS: found {key}, .* missing fields"):
        rest.Client("https://aiplatform.example")


@pytest.mark.parametrize("arguments", [["--help"], [*VERTEX, "--gpu=x"], ["--", "--model=cn"]])
def test_nothing_heavy_is_imported_before_the_flags_are_checked(arguments: list[str]) -> None:
    heavy = "{'google.auth', 'requests', 'yaml', 'numpy', 'keras', 'rich'}"
    program = (
        "import atexit, sys; from trainer import cli\n"
        f"atexit.register(lambda: print(sorted({heavy} & set(sys.modules)), file=sys.stderr))\n"
        f"cli.main(['submit', *{arguments}])"
    )
    process = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert process.stderr.splitlines()[-1] == "[]"


# --- Faults of the service ------------------------------------------------------------------------


def test_transient_failures_are_retried(
    server: VertexServer, proxy: FaultProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.add(match=POST, status=503, times=2)
    proxy.add(match=r"GET /v1.*/1000", reset=True, times=2)
    proxy.add(match=r"GET /v1.*/1000", truncate_reply=20, times=2, skip=1)
    proxy.add(match="entries:list", status=503, times=2)
    server.log = [[entry(1, "a")]]
    code, out, err = submit(capsys, *VERTEX, "--yes")
    assert (code, out) == (0, ["a", "gs://b/runs/1/model"]), err
    assert len(server.jobs) == 1
    assert "Vertex AI: injected (503); trying again" in err


def test_a_request_is_not_repeated_before_the_search_for_the_job(
    server: VertexServer, proxy: FaultProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.add(match=POST, lose_reply=True)
    proxy.add(match=r"GET .*filter=", status=503, times=3)
    assert submit(capsys, *VERTEX, "--yes")[0] == 0
    assert len(server.bodies) == 1


def test_a_job_that_is_created_after_the_timeout_is_found(
    server: VertexServer,
    proxy: FaultProxy,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRAINER_RETRY_SECONDS", "4")  # Each request times out after 1 s.
    proxy.add(match=POST, stall_s=1.5)
    assert submit(capsys, *VERTEX, "--yes")[0] == 0
    assert len(server.jobs) == len(server.bodies) == 1


def test_an_outage_exits_with_1_and_the_command_that_finds_the_job(
    server: VertexServer,
    proxy: FaultProxy,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRAINER_RETRY_SECONDS", "0.2")
    proxy.add(match="/v1", status=503, times=1000)
    code, out, err = submit(capsys, *VERTEX, "--yes")
    assert (code, out) == (1, [])
    label = re.search(r"trainer-submit: (\w+)", "\n".join(err))
    assert label
    assert (
        f"list --project=p --region=us-central1 --filter=labels.trainer-submit={label[1]}"
        in err[-1]
    )


def test_an_outage_while_watching_leaves_the_job_running(
    server: VertexServer,
    proxy: FaultProxy,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRAINER_RETRY_SECONDS", "0.2")
    proxy.add(match=r"GET /v1.*/1000", status=503, times=1000, skip=2)
    code, _, err = submit(capsys, *VERTEX, "--yes")
    assert code == 1
    assert err[-2].startswith("To end it: gcloud ai custom-jobs cancel 1000 ")


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (
            {"code": 403, "message": "Permission denied on resource project p."},
            "--project p: Permission denied on resource project p. (403); your account needs "
            "roles/aiplatform.user, and roles/iam.serviceAccountUser on --service-account me@p",
        ),
        (
            {
                "code": 403,
                "message": "Vertex AI API has not been used in project p before or it is disabled.",
                "details": [{"@type": "ErrorInfo", "reason": "SERVICE_DISABLED"}],
            },
            "is not enabled there; run `gcloud services enable aiplatform.googleapis.com "
            "--project=p`",
        ),
        (
            {
                "code": 403,
                "message": "The aiplatform.googleapis.com API requires a quota project, which is "
                "not set by default.",
                "details": [{"@type": "ErrorInfo", "reason": "SERVICE_DISABLED"}],
            },
            "`gcloud auth application-default set-quota-project p`",
        ),
        (
            {"code": 400, "message": 'Machine type "n1-giga-8" is not supported.'},
            "refused by Vertex AI: --machine n1-giga-8, --image img: Machine type",
        ),
        ({"code": 404, "message": "Not found."}, "--project p, --region us-central1: Not found."),
    ],
)
def test_a_refusal_that_the_user_can_fix_is_one_line(
    refusal: dict[str, Any],
    message: str,
    server: VertexServer,
    proxy: FaultProxy,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.refusals = [refusal]
    code, out, err = submit(
        capsys, *VERTEX, "--yes", "--service-account=me@p", "--machine=n1-giga-8"
    )
    assert (code, out, len(server.bodies)) == (2, [], 1)
    assert message in err[-1]


QUOTA = {
    "code": 429,
    "status": "RESOURCE_EXHAUSTED",
    "message": "The following quota metrics exceed quota limits: "
    "aiplatform.googleapis.com/custom_model_training_nvidia_l4_gpus",
}


def test_an_exceeded_quota_is_retried(
    server: VertexServer, proxy: FaultProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refusals = [QUOTA]
    assert submit(capsys, *VERTEX, "--yes", "--gpu=nvidia-l4")[0] == 0
    assert len(server.jobs) == 1


def test_a_quota_that_stays_exceeded_is_named_in_the_error(
    server: VertexServer,
    proxy: FaultProxy,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRAINER_RETRY_SECONDS", "0.2")
    server.refusals = [QUOTA] * 1000
    code, _, err = submit(capsys, *VERTEX, "--yes", "--gpu=nvidia-l4")
    assert (code, server.jobs) == (2, {})
    assert "custom_model_training_nvidia_l4_gpus (429); each region, each kind of GPU" in err[-1]


@pytest.mark.parametrize(
    ("state", "error", "code"),
    [
        ("CANCELLED", {"code": 1, "message": "CANCELED"}, 1),
        ("FAILED", {"code": 8, "message": "Resources are insufficient in region"}, 1),
        ("FAILED", {"code": 3, "message": "exited with a non-zero status of 300"}, 1),
        ("FAILED", {"code": 3, "message": "exited with a non-zero status of 143."}, 143),
        ("EXPIRED", None, 1),
    ],
)
def test_an_unsuccessful_job_is_an_error(
    state: str,
    error: dict[str, Any] | None,
    code: int,
    server: VertexServer,
    proxy: FaultProxy,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.states, server.error = [state], error
    exit_code, out, err = submit(capsys, *VERTEX, "--yes")
    assert (exit_code, out) == (code, [])
    assert f"customJobs/1000: {state}: {(error or {}).get('message', 'no reason')}" in err[-1]


# --- The log --------------------------------------------------------------------------------------


def test_each_line_of_the_log_is_printed_once(
    server: VertexServer, proxy: FaultProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also lines with equal times, late lines with an earlier time, and lines after the end."""
    server.page = 3
    server.log = [
        [entry(second, str(second)) for second in range(100, 110)],
        [entry(109, "same time"), entry(60, "late")],
        [],
        [entry(400, "much later")],
        [entry(401, "after the end")],
        [],
        [entry(402, "last")],
    ]
    proxy.add(match="entries:list", cut_reply=10, times=2, skip=1)
    code, out, _ = submit(capsys, *VERTEX, "--yes")
    assert code == 0
    expected = [*map(str, range(100, 110)), "late", "same time", "much later", "after the end"]
    assert out == [*expected, "last", "gs://b/runs/1/model"]


def test_an_unreadable_log_is_one_warning(
    server: VertexServer, proxy: FaultProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.add(match="entries:list", status=403, times=1000)
    code, out, err = submit(capsys, *VERTEX, "--yes")
    assert (code, out) == (0, ["gs://b/runs/1/model"])
    (warning,) = [line for line in err if "warning" in line]
    assert "injected (403); your account needs roles/logging.viewer" in warning


# --- Tuning ---------------------------------------------------------------------------------------

TUNE = [*VERTEX, "--tune=learning_rate=1e-4..1e-2:log epochs=3..9"]


def trial(number: int, value: float | None, rate: float) -> dict[str, Any]:
    measurement = {"metrics": [{"metricId": "val_accuracy", "value": value}]}
    return {
        "id": str(number),
        "state": "SUCCEEDED" if value else "INFEASIBLE",
        "parameters": [
            {"parameterId": "learning_rate", "value": rate},
            {"parameterId": "epochs", "value": 3.0},
        ],
        **({"finalMeasurement": measurement} if value else {}),
    }


def test_trials_are_printed_best_first(
    server: VertexServer, proxy: FaultProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    server.trials = [trial(1, 0.91, 0.01), trial(2, None, 0.002), trial(3, 0.9876543, 0.0003141592)]
    server.log = [[entry(1, "epoch 1", trial="3")]]
    code, out, err = submit(capsys, *TUNE, "--yes", "--trials=3", "--", "--validation-split=0.1")
    assert code == 0, err
    assert out[0] == "trial 3: epoch 1"
    assert [line.split() for line in out[1:-1]] == [
        ["trial", "val_accuracy", "learning_rate", "epochs", "state"],
        ["3", "0.987654", "0.000314159", "3", "SUCCEEDED"],
        ["1", "0.91", "0.01", "3", "SUCCEEDED"],
        ["2", "0.002", "3", "INFEASIBLE"],
    ]
    assert out[-1] == "gs://b/runs/1/3/model"
    assert any("the image must run as root" in line for line in err)
    (body,) = server.bodies
    assert (body["maxTrialCount"], body["parallelTrialCount"]) == (3, 3)


# --- Without a service ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ([*VERTEX, "--gpu=nvidia-tesla-t4", "--spot", "--timeout-hours=2"], types.CustomJobSpec),
        ([*TUNE, "--service-account=a@p"], types.HyperparameterTuningJob),
    ],
)
def test_a_dry_run_prints_a_spec_for_gcloud(
    arguments: list[str], kind: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    job = ["--", "--validation-split=0.1", "--learning-rate", "1e-4"][
        : 2 if kind != types.CustomJobSpec else 4
    ]
    code, out, err = submit(capsys, *arguments, "--dry-run", *job)
    assert (code, err) == (0, [])
    document = yaml.safe_load("\n".join(out))
    kind.from_json(json.dumps(document))
    assert not any(re.search("[_-]", name) for name in document)


def test_a_kubernetes_job_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = submit(
        capsys,
        *KUBERNETES,
        "--gpu=nvidia-l4",
        "--spot",
        "--",
        "--model=cnn_fast",
        "--seed=1",
    )
    assert (code, err) == (0, [])
    assert not any("&" in line for line in out)  # No YAML anchors: they are hard to read.
    job = yaml.safe_load("\n".join(out))
    kubernetes_validate.validate(job, "1.37", strict=True)
    assert re.fullmatch(r"cnn-fast-\d{8}-\d{6}", job["metadata"]["name"])
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == [
        "--model=cnn_fast", "--seed=1", "--device=gpu", "--log=json",
        "--out=gs://b/runs/1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [([*VERTEX, "--dry-run"], "workerPoolSpecs"), (KUBERNETES, "kind: JobSet")],
)
def test_workers_are_in_the_manifest(
    arguments: list[str], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = submit(capsys, *arguments, "--workers=2", "--", "--model=cnn")
    assert code == 0, err
    assert kind in "\n".join(out)
    assert "&id" not in "\n".join(out)


def test_a_name_leaves_room_for_the_names_of_pods(capsys: pytest.CaptureFixture[str]) -> None:
    longest = "a" * 46
    assert submit(capsys, *KUBERNETES, "--workers=2", f"--name={longest}")[0] == 0
    code, _, err = submit(capsys, *KUBERNETES, "--workers=2", f"--name={longest}a")
    assert code == 2
    assert "expected at most 46 characters with --workers 2" in err[-1]


def test_help_after_the_dashes_is_that_of_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = submit(capsys, "--", "--help")
    assert code == 0
    assert any("--learning-rate" in line for line in out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing --project, --region, --image, --out."),
        (["--kubernetes"], "Missing --image, --out."),
        ([*VERTEX, "--gup=x"], "Unknown flag '--gup=x'. Did you mean --gpu?"),
        ([*VERTEX, "--model=cnn"], "Unknown flag '--model=cnn'."),
        ([*VERTEX, "--region=us-central1-a"], "found 'us-central1-a', expected a region like"),
        ([*VERTEX, "--out=runs/1"], "--out: found 'runs/1', expected gs://bucket/path"),
        ([*VERTEX, "--out=gs://"], "--out: found 'gs://', expected gs://bucket/path"),
        ([*VERTEX, "--gpus=0"], "--gpus: found '0', expected greater than 0"),
        ([*VERTEX, "--trials=3"], "--trials: found without --tune"),
        ([*VERTEX, "--namespace=a"], "--namespace: found without --kubernetes"),
        ([*KUBERNETES, "--project=p"], "--project: found with --kubernetes"),
        ([*KUBERNETES, "--name=My_Job"], "--name: found 'My_Job', expected at most 63 lower-"),
        ([*KUBERNETES, "--", "--data=/gcs/b/d"], "expected mnist, movie_reviews, or gs://..."),
        ([*TUNE, "--trials=3", "--parallel=4"], "--parallel: found 4, expected at most --trials"),
        ([*TUNE, "--metric=loss"], "--metric: found 'loss', expected 'val_accuracy' or 'val_loss'"),
        ([*TUNE, "--", "--model=mlp"], "--tune: expected --validation-split 0.1"),
        ([*VERTEX, "--", "--epoch=3"], "Unknown flag '--epoch=3'. Did you mean --epochs?"),
        ([*VERTEX, "--", "--epochs=0"], "--epochs: found '0', expected greater than 0"),
        ([*VERTEX, "--", "cnn"], "Unexpected word 'cnn'."),
        ([*VERTEX, "--", "--", "--epochs=3"], "Unexpected '--'."),
        ([*VERTEX, "--", "--model=cn"], "--model: unknown model 'cn'. Expected one of: mlp, cnn"),
        (
            [*VERTEX, "--", "--overwrite"],
            "--overwrite: found it after `--`. When the service restarts",
        ),
        ([*VERTEX, "--workers=2", "--", "--dry-run"], "--dry-run: found 2 workers, expected one"),
        ([*KUBERNETES, "--workers=2", "--", "--folds=5"], "--folds: found 2 workers, expected one"),
        ([*VERTEX, "--", "--out=x"], "--out: found 'x' after `--`, expected it before `--`"),
        (
            [*VERTEX, "--", "--data=./digits"],
            "--data: found './digits', which the job's machine does not have, expected mnist, "
            "movie_reviews, or gs://... or /gcs/...",
        ),
        ([*VERTEX, "--", "--config=a.json"], "--config: found 'a.json', which the job's machine"),
        ([*VERTEX, "--", "--checkpoint-dir=c"], "--checkpoint-dir: found 'c', which the job's"),
    ],
)
def test_a_usage_error_is_one_line_before_anything_is_sent(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = submit(capsys, *arguments)
    assert (code, out) == (2, [])
    (line,) = err
    assert message in line


def test_a_custom_model_and_data_in_a_bucket_are_accepted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--model=pkg.mod:build", "--data=/gcs/b/d", "--config=gs://b/c.json", "--log=text"]
    code, out, _ = submit(capsys, *VERTEX, "--dry-run", "--", *flags)
    assert code == 0
    container = yaml.safe_load("\n".join(out))["workerPoolSpecs"][0]["containerSpec"]
    assert container["args"] == flags
