"""Ranks and prints the trials of a finished tuning job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def best_first(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns a tuning job's trials, best first; those without a measurement come last."""
    metric = job["studySpec"]["metrics"][0]
    sign = 1 if metric["goal"] == "MINIMIZE" else -1

    def rank(trial: Mapping[str, Any]) -> tuple[bool, float]:
        value = final_value(trial, metric["metricId"])
        return (value is None, sign * (value or 0))

    return sorted(job.get("trials", []), key=rank)


def best(job: Mapping[str, Any]) -> str | None:
    """Returns the number of the best trial; None if none reported its metric."""
    metric = job["studySpec"]["metrics"][0]["metricId"]
    ranked = [trial for trial in best_first(job) if final_value(trial, metric) is not None]
    return str(ranked[0]["id"]) if ranked else None


def final_value(trial: Mapping[str, Any], metric: str) -> float | None:
    """Returns the final value of a trial's metric; None if it reported none."""
    for entry in trial.get("finalMeasurement", {}).get("metrics", []):
        if entry["metricId"] == metric:
            return float(entry.get("value", 0))  # The API's JSON omits zeros.
    return None


def table(job: Mapping[str, Any]) -> Table:
    """Returns a table of a tuning job's trials, best first: number, metric, parameters, state."""
    metric = job["studySpec"]["metrics"][0]["metricId"]
    names = [parameter["parameterId"] for parameter in job["studySpec"]["parameters"]]
    trials = Table("trial", metric, *names, "state", box=None)
    for trial in best_first(job):
        values = {entry["parameterId"]: entry["value"] for entry in trial.get("parameters", [])}
        trials.add_row(
            trial["id"],
            _format_value(final_value(trial, metric)),
            *(_format_value(values.get(name)) for name in names),
            trial.get("state", ""),
        )
    return trials


def _format_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)
