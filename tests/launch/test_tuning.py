"""`--tune` becomes a StudySpec, and refuses values that the job would refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.cloud.aiplatform_v1.types import StudySpec

from trainer.errors import UsageError
from trainer.launch import job_flags, tuning


def study(text: str, *flags: str, metric: str = "val_accuracy") -> dict[str, Any]:
    job = job_flags.read(
        ["--validation-split=0.1", *flags], program="trainer submit", mounted_buckets=True
    )
    return tuning.study(text, metric, job)


@pytest.mark.parametrize(
    ("text", "parameter"),
    [
        (
            "learning_rate=1e-4..1e-2:log",
            {
                "parameterId": "learning_rate",
                "doubleValueSpec": {"minValue": 1e-4, "maxValue": 1e-2},
                "scaleType": "UNIT_LOG_SCALE",
            },
        ),
        (
            "epochs=3..9",
            {
                "parameterId": "epochs",
                "integerValueSpec": {"minValue": 3, "maxValue": 9},
                "scaleType": "UNIT_LINEAR_SCALE",
            },
        ),
        (
            "--batch-size=256,64,128",
            {"parameterId": "batch_size", "discreteValueSpec": {"values": [64, 128, 256]}},
        ),
        (
            "model=mlp,cnn,my.models:build",
            {
                "parameterId": "model",
                "categoricalValueSpec": {"values": ["mlp", "cnn", "my.models:build"]},
            },
        ),
    ],
)
def test_each_kind_of_parameter(text: str, parameter: dict[str, Any]) -> None:
    spec = study(text)
    assert spec["parameters"] == [parameter]
    StudySpec.from_json(json.dumps(spec))


def test_accuracy_is_maximised_and_loss_minimised() -> None:
    assert study("epochs=3..9")["metrics"] == [{"metricId": "val_accuracy", "goal": "MAXIMIZE"}]
    metrics = study("epochs=3..9", metric="val_loss")["metrics"]
    assert metrics == [{"metricId": "val_loss", "goal": "MINIMIZE"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found nothing, expected settings like learning_rate=1e-4..1e-2"),
        ("dropout=0..1", "found 'dropout', expected one of: model, epochs, batch_size, "),
        ("out=a,b", "found 'out', expected one of"),
        ("epochs=3..9 epochs=1,2", "found epochs twice"),
        ("epochs=0..9", "--tune epochs: found '0', expected greater than 0"),
        ("epochs=x..9", "--tune epochs: found 'x', expected an integer"),
        ("epochs=..9", "--tune epochs: found ''"),
        ("epochs=1.5..9", "--tune epochs: found '1.5'"),
        ("epochs=9..3", "found '9..3', expected the smaller number first"),
        ("seed=0..9:log", "expected numbers above 0 with :log"),
        ("epochs=3..9:exp", "expected :log or nothing at the end"),
        ("epochs=3", "found '3', expected a range like 1..5, or different values"),
        ("epochs", "--tune epochs: found ''"),
        ("epochs=3,3", "found '3,3', expected a range like 1..5, or different values"),
        ("batch_size=64,many", "--tune batch_size: found 'many'"),
        ("model=mlp..cnn", "found 'mlp..cnn', expected a list like mlp,cnn"),
        ("model=mlp,cn", "unknown model 'cn'"),
        ("learning_rate=1..nan", "--tune learning_rate: found 'nan'"),
    ],
)
def test_an_invalid_search_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        study(text)
    assert message in str(refused.value)


def test_a_setting_is_either_searched_or_fixed() -> None:
    with pytest.raises(UsageError, match="--tune epochs: found --epochs 3 after `--` too"):
        study("epochs=3..9", "--epochs=3")


def test_a_trial_is_one_run() -> None:
    with pytest.raises(UsageError, match="--tune: found --folds after `--`, expected one run"):
        study("epochs=3..9", "--folds=5")


def test_trials_are_not_ranked_by_the_test_split() -> None:
    job = job_flags.read(["--model=mlp"], program="trainer submit", mounted_buckets=True)
    with pytest.raises(UsageError, match=r"expected --validation-split 0\.1 or --validation-data"):
        tuning.study("epochs=3..9", "val_accuracy", job)
    job = job_flags.read(
        ["--validation-data=gs://b/v"], program="trainer submit", mounted_buckets=False
    )
    tuning.study("epochs=3..9", "val_accuracy", job)
