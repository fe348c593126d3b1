"""Tests of how the environment variables of cloud services become defaults of flags."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trainer import task
from trainer.cli import main
from trainer.config import Config, ResolvedConfig, complete, resolve, to_json
from trainer.distributed.cluster import Cluster, read_cluster
from trainer.errors import UsageError
from trainer.runtime import cloud_environment, variables
from trainer.training import setup

BASE = "gs://bucket/base"
VERTEX = {
    "AIP_MODEL_DIR": f"{BASE}/model/",
    "AIP_CHECKPOINT_DIR": f"{BASE}/checkpoints/",
    "AIP_TENSORBOARD_LOG_DIR": f"{BASE}/logs/",
    "CLOUD_ML_PROJECT_ID": "123456789",
    # Format of the service: `job` is JSON in a string, and `trial` is empty.
    "CLUSTER_SPEC": '{"cluster": {"workerpool0": ["127.0.0.1:2222"]}, "environment": "cloud",'
    ' "task": {"type": "workerpool0", "index": 0, "trial": ""}, "job": "{\\"region\\": \\"\\"}"}',
}
MANAGED = {
    "AIP_DATA_FORMAT": "jsonl",
    "AIP_TRAINING_DATA_URI": f"{BASE}/data/training-*.jsonl",
    "AIP_VALIDATION_DATA_URI": f"{BASE}/data/validation-*.jsonl",
    "AIP_TEST_DATA_URI": f"{BASE}/data/test-*.jsonl",
}


def settings(environment: dict[str, str], **flags: Any) -> Config:
    return resolve(flags, None, environment)


def test_vertex_ai_sets_the_output_folders() -> None:
    config = settings(VERTEX)
    assert config.out == f"{BASE}/model"
    assert config.checkpoint_dir == f"{BASE}/checkpoints"
    assert config.tensorboard_dir == f"{BASE}/logs"
    assert (config.log, config.data) == ("json", None)


def test_a_managed_data_set_sets_all_splits() -> None:
    config = settings(VERTEX | MANAGED)
    assert config.data == f"{BASE}/data/training-*.jsonl"
    assert config.validation_data == f"{BASE}/data/validation-*.jsonl"
    assert config.test_data == f"{BASE}/data/test-*.jsonl"


def test_flags_take_precedence() -> None:
    config = settings(VERTEX | MANAGED, out="runs/1", data="mnist", log="text")
    assert (config.out, config.data, config.log) == ("runs/1", "mnist", "text")
    # The managed data set's other splits do not belong to --data.
    assert (config.validation_data, config.test_data) == (None, None)
    assert config.checkpoint_dir == f"{BASE}/checkpoints"


def test_the_config_of_an_earlier_run_does_not_set_the_output_folder() -> None:
    earlier = to_json(
        complete(
            ResolvedConfig,
            resolve({"out": f"{BASE}/earlier", "log": "text"}),
            data="mnist", epochs=2, batch_size=8, learning_rate=0.1,
        )
    )  # fmt: skip
    config = resolve({"config": "config.json"}, earlier, VERTEX | MANAGED)
    assert (config.out, config.log) == (f"{BASE}/model", "json")
    assert config.checkpoint_dir == f"{BASE}/checkpoints"
    assert (config.data, config.epochs, config.validation_data) == ("mnist", 2, None)
    assert resolve({"config": "config.json"}, earlier, {}).out == f"{BASE}/earlier"


def test_a_validation_split_beside_managed_validation_data_is_refused() -> None:
    with pytest.raises(
        UsageError, match="--validation-split: found '0.2', expected 0, since --valid"
    ):
        settings(VERTEX | MANAGED, validation_split="0.2")


def test_an_empty_variable_is_ignored() -> None:
    config = settings({"AIP_MODEL_DIR": "", "AIP_TRAINING_DATA_URI": "", "CLOUD_RUN_JOB": ""})
    assert (config.out, config.data, config.log) == (None, None, "text")


@pytest.mark.parametrize("kind", ["csv", "bigquery", ""])
def test_tables_are_refused(kind: str) -> None:
    with pytest.raises(UsageError, match=f"AIP_DATA_FORMAT: found '{kind}', expected 'jsonl'"):
        settings(MANAGED | {"AIP_DATA_FORMAT": kind})


def test_an_invalid_value_is_reported_with_its_variable() -> None:
    with pytest.raises(UsageError, match="^AIP_MODEL_DIR: found "):
        settings({"AIP_MODEL_DIR": "gs://a\0b"})


def test_the_command_line_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIP_MODEL_DIR", f"{BASE}/model/")
    assert task.parse([]).out == f"{BASE}/model"
    assert task.parse(["--out=here"]).out == "here"


def test_a_tuning_trial_is_recognised_by_its_variables() -> None:
    assert cloud_environment.trial(VERTEX | {"CLOUD_ML_TRIAL_ID": ""}) is None
    assert cloud_environment.trial({"CLOUD_ML_TRIAL_ID": "3"}) == "3"
    assert cloud_environment.trial({"CLOUD_ML_HP_METRIC_FILE": "/some/file"}) == "0"


def tf_config(cluster: dict[str, Any], task: dict[str, Any]) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task, "environment": "cloud"})}


@pytest.mark.parametrize(
    ("cluster", "task", "index"),
    [
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, {"type": "chief", "index": 0}, 0),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, {"type": "worker", "index": 1}, 2),
        ({"worker": ["b:1", "c:1"], "master": ["a:1"]}, {"type": "master", "index": 0}, 0),
        ({"worker": ["a:1", "b:1", "c:1"]}, {"type": "worker", "index": "1"}, 1),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"], "ps": []}, {"type": "chief", "index": 0}, 0),
    ],
)
def test_tf_config_lists_the_workers_with_the_chief_first(
    cluster: dict[str, Any], task: dict[str, Any], index: int
) -> None:
    result = read_cluster(VERTEX | tf_config(cluster, task))
    assert result == Cluster(("a:1", "b:1", "c:1"), index)
    assert result.is_chief == (index == 0)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        VERTEX,
        {"TF_CONFIG": "", "CLUSTER_SPEC": "[]"},
        {"TF_CONFIG": '{"cluster": null, "environment": "cloud"}', "CLUSTER_SPEC": "no JSON"},
        tf_config({"chief": ["a:1"]}, {"type": "chief", "index": 0}),
        tf_config({}, {"type": "worker", "index": 0}),
    ],
)
def test_one_replica_is_no_cluster(environment: dict[str, str]) -> None:
    assert read_cluster(environment) is None


@pytest.mark.parametrize(
    ("cluster", "task", "message"),
    [
        ({"chief": ["a:1"], "ps": ["b:1"]}, {"type": "chief", "index": 0}, "found the role ps"),
        ({"chief": ["a:1"]}, {"type": "evaluator", "index": 0}, "found the role evaluator"),
        ({"chief": ["a:1", "b:1"]}, {"type": "chief", "index": 0}, "found 2 chiefs, expected one"),
        ({"worker": ["a:1", "b"]}, {"type": "worker", "index": 0}, "found the address 'b'"),
        ({"worker": ["a:1", "b:1"]}, {"type": "worker", "index": 2}, '"index": 2'),
        ({"worker": ["a:1", "b:1"]}, {"type": "chief", "index": 0}, "in its cluster of 2"),
        ({"worker": ["a:1", "b:1"]}, {}, "found the task {}"),
        ({"worker": ["a:1", "a:1"]}, {"type": "worker", "index": 0}, "found the address 'a:1' tw"),
        ({"worker": ["b:1"]}, {"type": "worker", "index": 1}, "expected the index 0 in its clust"),
        ({"workers": ["a:1", "b:1"]}, {"type": "worker", "index": 0}, "found the role 'workers'"),
        ({"worker": {"0": "a:1", "1": "b:1"}}, {"type": "worker"}, "expected lists of host:port"),
        ({"worker": "a:1,b:1"}, {"type": "worker", "index": 0}, "expected lists of host:port"),
        ({"worker": [["a", 1]]}, {"type": "worker", "index": 0}, "expected lists of host:port"),
    ],
)
def test_an_unsupported_tf_config_is_refused(
    cluster: dict[str, Any], task: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=f"^TF_CONFIG: .*{message}"):
        read_cluster(tf_config(cluster, task))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{'cluster': {'chief': ['a:1']}}", "not JSON: "),
        ('{"cluster": ', "not JSON: "),
        ('["a:1"]', "expected a JSON object with a cluster"),
        ('{"cluster": ["a:1", "b:1"]}', "as cluster, expected a JSON object"),
        ('{"cluster": "{}"}', "as cluster, expected a JSON object"),
        ('{"task": ["worker", 0]}', "as task, expected a JSON object"),
    ],
)
def test_a_malformed_tf_config_is_refused(text: str, message: str) -> None:
    """Each machine would train a whole run of its own."""
    with pytest.raises(UsageError, match=f"^TF_CONFIG: .*{message}"):
        read_cluster({"TF_CONFIG": text})


@pytest.mark.parametrize("value", ["2m", "30s", "", "0", "-1", "nan", "inf", "1_0", "1,5", "many"])
@pytest.mark.parametrize(
    "name", [variables.RETRY, variables.LEASE, variables.WORKERS_TIMEOUT, variables.POLL]
)
def test_a_variable_that_is_no_number_of_seconds_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main.main(["verify", "/no/such/run"])
    assert ended.value.code == 2
    found = f"error: {name}: found '{value}', expected a number of seconds above 0"
    assert (found in capsys.readouterr().err) == (value != "")


@pytest.mark.parametrize(("value", "number"), [("2", 2.0), (" 1.5 ", 1.5), ("1e2", 100.0)])
def test_a_number_of_seconds_is_read(
    monkeypatch: pytest.MonkeyPatch, value: str, number: float
) -> None:
    monkeypatch.setenv(variables.LEASE, value)
    assert variables.seconds(variables.LEASE) == number


def test_several_replicas_without_tf_config_are_refused() -> None:
    """Each replica would train on its own and write to the same folder."""
    pools = {"cluster": {"workerpool0": ["a:1"], "workerpool1": ["b:1", "c:1"]}}
    with pytest.raises(UsageError, match="^CLUSTER_SPEC: found 3 replicas, expected TF_CONFIG"):
        read_cluster({"CLUSTER_SPEC": json.dumps(pools)})


def test_a_run_directory_inside_the_container_is_reported(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "trainer")
    setup._check_persistent("/no/such/folder")
    assert caplog.text == ""
    monkeypatch.setenv("TRAINER_IMAGE", "cpu")
    setup._check_persistent("/dev/shm/run")  # A mount, like a volume.
    assert caplog.text == ""
    setup._check_persistent("/no/such/folder")
    assert "--out /no/such/folder: is inside the container" in caplog.text
    monkeypatch.setenv("CLOUD_RUN_JOB", "job")
    with pytest.raises(UsageError, match="deleted with the job .CLOUD_RUN_JOB is set"):
        setup._check_persistent("/no/such/folder")
