"""Translates the value of `--tune` into a StudySpec, Vertex AI's search space.

    learning_rate=1e-4..1e-2:log batch_size=64,128,256 model=mlp,cnn

`a..b` is a range, with `:log` on a logarithmic scale; `a,b,c` is a list.
"""

from __future__ import annotations

from typing import Any

from trainer.config import Config, check, flag_name
from trainer.errors import UsageError
from trainer.launch import job_flags
from trainer.launch.job_flags import JobFlags

TUNABLE = ("model", "epochs", "batch_size", "learning_rate", "seed")


def study(text: str, metric: str, job: JobFlags) -> dict[str, Any]:
    """Returns the StudySpec for a value of `--tune`.

    Args:
        text: settings with ranges or lists, separated by spaces.
        metric: metric that ranks the trials; a loss is minimised, others are maximised.
        job: flags that all trials share.

    Raises:
        UsageError: a setting is unknown, is also given as a flag, or has values that the job would
            refuse.
    """
    if not (job.config.validation_split or job.config.validation_data):
        raise UsageError(
            "--tune: expected --validation-split 0.1 or --validation-data after `--`. Selecting "
            "trials by the test split would make its accuracy too optimistic"
        )
    if job.config.folds:
        raise UsageError("--tune: found --folds after `--`, expected one run per trial")
    parameters: dict[str, dict[str, Any]] = {}
    for word in text.split():
        parameter = _parameter(word, job)
        name = parameter["parameterId"]
        if name in parameters:
            raise UsageError(f"--tune: found {name} twice, expected it once")
        parameters[name] = parameter
    if not parameters:
        raise UsageError("--tune: found nothing, expected settings like learning_rate=1e-4..1e-2")
    goal = "MINIMIZE" if metric.endswith("loss") else "MAXIMIZE"
    return {
        "metrics": [{"metricId": metric, "goal": goal}],
        "parameters": list(parameters.values()),
    }


def _parameter(word: str, job: JobFlags) -> dict[str, Any]:
    name, _, values = word.partition("=")
    name = name.removeprefix("--").replace("-", "_")
    if name not in TUNABLE:
        raise UsageError(f"--tune: found {name!r}, expected one of: {', '.join(TUNABLE)}")
    if name in job.values:
        fixed = f"{flag_name(name)} {job.values[name]}"
        raise UsageError(f"--tune {name}: found {fixed} after `--` too, expected it once")
    if ".." in values:
        return {"parameterId": name, **_range(name, values, job)}
    return {"parameterId": name, **_list(name, values, job)}


def _range(name: str, values: str, job: JobFlags) -> dict[str, Any]:
    bounds, _, scale = values.partition(":")
    low, high = (_check_value(name, bound, job) for bound in bounds.split("..", 1))
    if isinstance(low, str):
        raise UsageError(f"--tune {name}: found {values!r}, expected a list like mlp,cnn")
    if low >= high:
        raise UsageError(f"--tune {name}: found {values!r}, expected the smaller number first")
    if scale not in ("", "log"):
        raise UsageError(f"--tune {name}: found {values!r}, expected :log or nothing at the end")
    if scale and low <= 0:
        raise UsageError(f"--tune {name}: found {values!r}, expected numbers above 0 with :log")
    kind = "integerValueSpec" if isinstance(low, int) else "doubleValueSpec"
    return {
        kind: {"minValue": low, "maxValue": high},
        "scaleType": "UNIT_LOG_SCALE" if scale else "UNIT_LINEAR_SCALE",
    }


def _list(name: str, values: str, job: JobFlags) -> dict[str, Any]:
    choices = [_check_value(name, value, job) for value in values.split(",")]
    if len(set(choices)) < max(2, len(choices)):
        raise UsageError(
            f"--tune {name}: found {values!r}, expected a range like 1..5, or different values "
            "separated by commas"
        )
    if isinstance(choices[0], str):
        return {"categoricalValueSpec": {"values": choices}}
    return {"discreteValueSpec": {"values": sorted(choices)}}  # The API requires ascending order.


def _check_value(name: str, value: str, job: JobFlags) -> Any:
    """Returns a value in the type of its setting, checked as the job does."""
    labels = {name: f"--tune {name}"}
    setting = getattr(check(Config, {**job.values, name: value}, labels=labels), name)
    if name == "model":
        job_flags.check_model(setting)
    return setting
