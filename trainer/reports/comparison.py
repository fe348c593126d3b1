"""Compares finished runs: their differences, and whether these are statistically significant."""

from __future__ import annotations

import csv
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic

from trainer import storage
from trainer.config import Config, affects_result, flag_name, option_specs
from trainer.errors import DamagedRunError
from trainer.reports import significance
from trainer.runs import filenames, manifest, predictions
from trainer.runs.predictions import PredictionRow

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_FILES = (filenames.CONFIG, filenames.METRICS, filenames.HISTORY, filenames.PREDICTIONS)

ORIGINS = {
    "data_fingerprint": "data, SHA-256",
    "device": "device",
    "git_commit": "git commit",
}
_DIGITS = 16  # Shown hexadecimal digits of a digest.

# Digest of an example, its class, and the number of equal examples before it in the test split.
_Key = tuple[str, str, int]


@pydantic.dataclasses.dataclass(frozen=True)
class _Test:
    loss: float
    accuracy: float


@pydantic.dataclasses.dataclass(frozen=True)
class _Calibration:
    ece: float


@pydantic.dataclasses.dataclass(frozen=True)
class _Seconds:
    train: float


@pydantic.dataclasses.dataclass(frozen=True)
class ComparedMetrics:
    """The entries of `metrics.json` that are compared."""

    test: _Test
    accuracy_interval: tuple[float, float]
    calibration: _Calibration
    seconds: _Seconds
    examples_per_second: float
    epochs: int
    parameters: int
    device: str


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A finished run with the contents of its small files.

    Attributes:
        number: position among the compared runs, from 0.
        path: path of the run directory, local or gs://.
        manifest: content of `manifest.json`.
        config: the settings, by name; settings missing in `config.json` have their defaults.
        metrics: metrics on the test split.
        history: one row per epoch.
        classes: class names.
        predictions: predictions for the test examples.
    """

    number: int
    path: str
    manifest: Mapping[str, Any] = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    metrics: ComparedMetrics
    history: Sequence[Mapping[str, float]] = field(repr=False)
    classes: Sequence[str]
    predictions: Mapping[_Key, PredictionRow] = field(repr=False)

    @property
    def letter(self) -> str:
        """Name of the run in tables and charts."""
        return LETTERS[self.number]

    @property
    def title(self) -> str:
        """Model and data of the run."""
        return f"{_format_value(self.config['model'])} on {_format_value(self.config['data'])}"


@dataclass(frozen=True)
class Difference:
    """A setting or property that differs between runs.

    Attributes:
        name: name of the setting or property.
        values: each value as text, with the letters of the runs that have it.
    """

    name: str
    values: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two runs, compared on the examples that are in the test splits of both.

    Attributes:
        first: the baseline.
        second: the run that is compared with it.
        common: number of common examples.
        both_correct: number of common examples that both runs classify correctly.
        only_first: number that only the first run classifies correctly.
        only_second: number that only the second run classifies correctly.
        same_class: number with the same predicted class, correct or wrong.
        conflicting: number of further examples in both test splits, with different classes.
        p: p-value of McNemar's exact test; 1 without common examples.
        corrected: p, corrected for the number of tests.
    """

    first: ComparedRun
    second: ComparedRun
    common: int
    both_correct: int
    only_first: int
    only_second: int
    same_class: int
    conflicting: int
    p: float
    corrected: float

    @property
    def both_wrong(self) -> int:
        """Number of common examples that both runs classify wrongly."""
        return self.common - self.both_correct - self.only_first - self.only_second

    @property
    def better(self) -> ComparedRun:
        """The run with more correct predictions; the first one if they are equal."""
        return self.second if self.only_second > self.only_first else self.first

    @property
    def gain(self) -> float:
        """Accuracy of the second run minus that of the first, -1 to 1."""
        return (self.only_second - self.only_first) / self.common

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the gain."""
        return significance.difference(self.only_first, self.only_second, self.common)


@dataclass(frozen=True)
class Group:
    """Two or more runs whose settings differ in the seed only.

    Attributes:
        runs: the runs.
    """

    runs: Sequence[ComparedRun]

    @property
    def letters(self) -> str:
        """Letters of the runs."""
        return "".join(run.letter for run in self.runs)

    @property
    def mean(self) -> float:
        """Mean test accuracy, 0 to 1."""
        return statistics.fmean(run.metrics.test.accuracy for run in self.runs)

    @property
    def deviation(self) -> float:
        """Standard deviation of the test accuracies, with ddof=1."""
        return statistics.stdev(run.metrics.test.accuracy for run in self.runs)


@dataclass(frozen=True)
class ClassRow:
    """Recall of one class in each run.

    Attributes:
        name: name of the class.
        support: number of its examples in the test splits of all runs; at least 1.
        recall: recall of each run, 0 to 1.
    """

    name: str
    support: int
    recall: Sequence[float]

    @property
    def spread(self) -> float:
        """Highest recall minus lowest recall."""
        return max(self.recall) - min(self.recall)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison of two or more runs.

    Attributes:
        runs: the runs in the order of their numbers; the first one is the baseline.
        settings: different settings that affect the result.
        other_settings: different settings that do not affect the result.
        origins: other differences: data, device, commit, versions.
        pairs: each run compared with the first one.
        groups: groups of runs whose settings differ in the seed only.
        classes: recall of each class on the examples that are in all test splits.
        same_test_split: whether all runs have the same test split.
    """

    runs: Sequence[ComparedRun]
    settings: Sequence[Difference]
    other_settings: Sequence[Difference]
    origins: Sequence[Difference]
    pairs: Sequence[Pair]
    groups: Sequence[Group]
    classes: Sequence[ClassRow]
    same_test_split: bool

    @property
    def tests(self) -> int:
        """Number of pairs with common examples, which are tested for significance."""
        return sum(pair.common > 0 for pair in self.pairs)

    @property
    def best(self) -> dict[str, frozenset[int]]:
        """Numbers of the runs with the best accuracy, loss and calibration error (`ece`).

        Empty if the runs have different test splits, or if all values are equal.
        """
        scores = {
            "accuracy": [-run.metrics.test.accuracy for run in self.runs],
            "loss": [run.metrics.test.loss for run in self.runs],
            "ece": [run.metrics.calibration.ece for run in self.runs],
        }
        return {
            name: frozenset(
                number
                for number, value in enumerate(values)
                if value == min(values) < max(values) and self.same_test_split
            )
            for name, values in scores.items()
        }


def read(path: str, number: int) -> ComparedRun:
    """Reads the small files of a finished run.

    Args:
        path: a run directory, local or gs://.
        number: position among the compared runs, from 0.

    Raises:
        StorageError: the directory holds no finished run.
        DamagedRunError: files differ from the manifest, or do not describe a run.
    """
    folder = storage.folder(path)
    content = manifest.read(folder)
    with storage.temporary_directory() as local:
        names = manifest.fetch(folder, content, _FILES, local)
        missing = ", ".join(name for name in _FILES if name not in names)
        if missing:
            raise DamagedRunError(f"{path}: no {missing} in its manifest")
        rows = predictions.parse(
            (local / filenames.PREDICTIONS).read_bytes(), f"{path}/{filenames.PREDICTIONS}"
        )
        try:
            metrics = json.loads((local / filenames.METRICS).read_text("utf-8"))
            return ComparedRun(
                number=number,
                path=path,
                manifest=content,
                config=_config(local / filenames.CONFIG),
                metrics=ComparedMetrics(
                    **{name: metrics[name] for name in ComparedMetrics.__dataclass_fields__}
                ),
                history=_history(local / filenames.HISTORY),
                classes=[str(row["class"]) for row in metrics["per_class"]],
                predictions=_by_key(rows),
            )
        except (ValueError, KeyError, TypeError, csv.Error, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise DamagedRunError(f"{path}: its files do not describe a run: {reason}") from None


def compare(runs: Sequence[ComparedRun]) -> Comparison:
    """Compares two or more runs, each with the first one."""
    common = set.intersection(*(set(run.predictions) for run in runs))
    names = dict.fromkeys(name for run in runs for name in run.config)
    settings = [name for name in names if name != "auto_settings"]
    return Comparison(
        runs=runs,
        settings=_settings(runs, filter(affects_result, settings)),
        other_settings=_settings(runs, (name for name in settings if not affects_result(name))),
        origins=_origins(runs),
        pairs=_pairs(runs),
        groups=_groups(runs),
        classes=_classes(runs, common),
        same_test_split=all(len(run.predictions) == len(common) for run in runs),
    )


def _differences(
    runs: Sequence[ComparedRun],
    value: Callable[[ComparedRun, str], object],
    labels: Iterable[tuple[str, str]],
) -> list[Difference]:
    """Returns the properties that differ between runs.

    Args:
        runs: the runs.
        value: from a run and the name of a property to its value.
        labels: names of properties, with their labels.
    """
    differences = []
    for name, label in labels:
        letters: defaultdict[str, str] = defaultdict(str)
        for run in runs:
            letters[_format_value(value(run, name))] += run.letter
        if len(letters) > 1:
            differences.append(Difference(label, list(letters.items())))
    return differences


def _settings(runs: Sequence[ComparedRun], names: Iterable[str]) -> list[Difference]:
    labels = ((name, flag_name(name)) for name in names)
    return _differences(runs, lambda run, name: run.config.get(name), labels)


def _origins(runs: Sequence[ComparedRun]) -> list[Difference]:
    """Returns the differences in data, device, commit and versions."""

    def versions(run: ComparedRun) -> dict[str, Any]:
        entry = run.manifest.get("versions")
        return entry if isinstance(entry, dict) else {}

    def value(run: ComparedRun, name: str) -> object:
        if name == "device":
            return run.metrics.device
        if name == "data_fingerprint":
            return str(run.manifest.get(name))[:_DIGITS]
        return run.manifest.get(name) if name in ORIGINS else versions(run).get(name)

    packages = dict.fromkeys(name for run in runs for name in versions(run))
    return _differences(runs, value, [*ORIGINS.items(), *((name, name) for name in packages)])


def _pairs(runs: Sequence[ComparedRun]) -> list[Pair]:
    counts_by_run = {run.number: _counts(runs[0], run) for run in runs[1:]}
    p_values = {
        number: significance.mcnemar(counts["only_first"], counts["only_second"])
        for number, counts in counts_by_run.items()
        if counts["common"]
    }
    corrected = dict(zip(p_values, significance.holm(list(p_values.values())), strict=True))
    return [
        Pair(
            first=runs[0],
            second=runs[number],
            p=p_values.get(number, 1.0),
            corrected=corrected.get(number, 1.0),
            **counts,
        )
        for number, counts in counts_by_run.items()
    ]


def _counts(first: ComparedRun, second: ComparedRun) -> dict[str, int]:
    """Returns the counts of a pair, by the names of the attributes of `Pair`."""
    common = [
        (first.predictions[key], second.predictions[key])
        for key in first.predictions
        if key in second.predictions
    ]
    correct = Counter((a.true == a.predicted, b.true == b.predicted) for a, b in common)
    examples = [Counter(example for example, _, _ in run.predictions) for run in (first, second)]
    return {
        "common": len(common),
        "both_correct": correct[True, True],
        "only_first": correct[True, False],
        "only_second": correct[False, True],
        "same_class": sum(a.predicted == b.predicted for a, b in common),
        "conflicting": (examples[0] & examples[1]).total() - len(common),
    }


def _groups(runs: Sequence[ComparedRun]) -> list[Group]:
    groups: defaultdict[str, list[ComparedRun]] = defaultdict(list)
    for run in runs:
        settings = {
            name: value
            for name, value in run.config.items()
            if affects_result(name) and name != "seed"
        }
        groups[json.dumps(settings, sort_keys=True)].append(run)
    return [Group(group) for group in groups.values() if len(group) > 1]


def _classes(runs: Sequence[ComparedRun], common: Collection[_Key]) -> list[ClassRow]:
    support: Counter[str] = Counter(true for _, true, _ in common)
    correct = [
        Counter(key[1] for key in common if run.predictions[key].predicted == key[1])
        for run in runs
    ]
    names = dict.fromkeys(name for run in runs for name in run.classes if support[name])
    return [
        ClassRow(name, support[name], [counts[name] / support[name] for counts in correct])
        for name in names
    ]


def _format_value(value: object) -> str:
    """Formats a JSON value for display."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)


def _config(path: Path) -> dict[str, Any]:
    config = json.loads(path.read_text("utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{filenames.CONFIG}: found {type(config).__name__}, expected an object")
    return {spec.name: spec.default for spec in option_specs(Config)} | config


def _history(path: Path) -> list[dict[str, float]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [
            {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file, strict=True)
        ]
    if not rows or not all("epoch" in row for row in rows):
        raise ValueError(f"{filenames.HISTORY}: expected one row per epoch")
    return rows


def _by_key(rows: Sequence[PredictionRow]) -> dict[_Key, PredictionRow]:
    counts: Counter[tuple[str, str]] = Counter()
    result = {}
    for row in rows:
        example = (row.example, row.true)
        result[(*example, counts[example])] = row
        counts[example] += 1
    return result
