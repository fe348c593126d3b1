"""Finished runs beside each other: what differs, and whether by more than chance."""

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
_DIGITS = 16  # Of a digest, to tell data apart.

# An example with its class, and how many equal ones stand before it in the test part.
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
class Metrics:
    """What is compared of `metrics.json`."""

    test: _Test
    accuracy_interval: tuple[float, float]
    calibration: _Calibration
    seconds: _Seconds
    examples_per_second: float
    epochs: int
    parameters: int
    device: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run, its small files read and checked.

    Attributes:
        number: 0 for the first.
        place: the run directory, as it was given.
        manifest: of the run.
        config: its settings, by name; those that it does not know have their default.
        metrics: figures of its final test.
        history: a row an epoch.
        classes: class names.
        tested: what it said of each test example.
    """

    number: int
    place: str
    manifest: Mapping[str, Any] = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    metrics: Metrics
    history: Sequence[Mapping[str, float]] = field(repr=False)
    classes: Sequence[str]
    tested: Mapping[_Key, PredictionRow] = field(repr=False)

    @property
    def letter(self) -> str:
        """What it is called in tables and charts."""
        return LETTERS[self.number]

    @property
    def title(self) -> str:
        """What it is a run of."""
        return f"{_in_words(self.config['model'])} on {_in_words(self.config['data'])}"


@dataclass(frozen=True)
class Difference:
    """What is not the same in all runs.

    Attributes:
        name: of a setting, or what else it is.
        values: each value in words, and the letters of the runs that have it.
    """

    name: str
    values: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two runs on the examples that both were tested on.

    Attributes:
        first: the run that the other is compared with.
        second: the other run.
        common: how many examples that are.
        both_right: of them, so many were classified rightly by both,
        only_first: by the first alone,
        only_second: by the second alone.
        same_class: so many were said to be of the same class, right or wrong.
        conflicting: further examples in both test parts, which have another class in each.
        p: of McNemar's exact test; 1 without a common example.
        corrected: p, corrected for the number of tests.
    """

    first: Run
    second: Run
    common: int
    both_right: int
    only_first: int
    only_second: int
    same_class: int
    conflicting: int
    p: float
    corrected: float

    @property
    def both_wrong(self) -> int:
        """So many were classified wrongly by both."""
        return self.common - self.both_right - self.only_first - self.only_second

    @property
    def better(self) -> Run:
        """The run that is right more often; the first, if they are equal."""
        return self.second if self.only_second > self.only_first else self.first

    @property
    def gain(self) -> float:
        """The second's accuracy less the first's, -1 to 1."""
        return (self.only_second - self.only_first) / self.common

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the gain."""
        return significance.difference(self.only_first, self.only_second, self.common)


@dataclass(frozen=True)
class Group:
    """Runs of one recipe: of what decides the result, at most the seed differs.

    Attributes:
        runs: two or more.
    """

    runs: Sequence[Run]

    @property
    def letters(self) -> str:
        """Of the runs."""
        return "".join(run.letter for run in self.runs)

    @property
    def mean(self) -> float:
        """Of the accuracies, 0 to 1."""
        return statistics.fmean(run.metrics.test.accuracy for run in self.runs)

    @property
    def deviation(self) -> float:
        """Standard deviation of the accuracies, as of a sample."""
        return statistics.stdev(run.metrics.test.accuracy for run in self.runs)


@dataclass(frozen=True)
class ClassRow:
    """How much of one class was found.

    Attributes:
        name: of the class.
        support: examples of it that all runs were tested on; at least one.
        recall: of each run, 0 to 1.
    """

    name: str
    support: int
    recall: Sequence[float]

    @property
    def spread(self) -> float:
        """From the worst run to the best."""
        return max(self.recall) - min(self.recall)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two or more runs beside each other.

    Attributes:
        runs: in the order of their numbers; the first is the one to compare with.
        settings: those that decide the result, and differ.
        other_settings: those that do not decide it, and differ.
        origins: what else differs: data, device, commit, versions.
        pairs: each run with the first.
        groups: runs of one recipe, of which more than one are there.
        classes: on what all runs were tested on.
        one_test_part: whether that is all that any of them was tested on.
    """

    runs: Sequence[Run]
    settings: Sequence[Difference]
    other_settings: Sequence[Difference]
    origins: Sequence[Difference]
    pairs: Sequence[Pair]
    groups: Sequence[Group]
    classes: Sequence[ClassRow]
    one_test_part: bool

    @property
    def tests(self) -> int:
        """How many pairs could be tested."""
        return sum(pair.common > 0 for pair in self.pairs)

    @property
    def best(self) -> dict[str, frozenset[int]]:
        """The numbers of the runs with the best accuracy, loss and calibration error (`ece`).

        None is the best where they were tested on different examples, or where all are equal.
        """
        figures = {
            "accuracy": [-run.metrics.test.accuracy for run in self.runs],
            "loss": [run.metrics.test.loss for run in self.runs],
            "ece": [run.metrics.calibration.ece for run in self.runs],
        }
        return {
            name: frozenset(
                number
                for number, value in enumerate(values)
                if value == min(values) < max(values) and self.one_test_part
            )
            for name, values in figures.items()
        }


def read(place: str, number: int) -> Run:
    """Reads what is compared of a finished run.

    Args:
        place: a run directory, local or gs://.
        number: of the run among those compared, from 0.

    Raises:
        StorageError: there is no finished run.
        DamagedRunError: its files are not those of its manifest, or say something else.
    """
    folder = storage.folder(place)
    described = manifest.read(folder)
    with storage.temporary_directory() as local:
        found = manifest.fetch(folder, described, _FILES, local)
        missing = ", ".join(name for name in _FILES if name not in found)
        if missing:
            raise DamagedRunError(f"{place}: no {missing} in its manifest")
        tested = predictions.parse(
            (local / filenames.PREDICTIONS).read_bytes(), f"{place}/{filenames.PREDICTIONS}"
        )
        try:
            metrics = json.loads((local / filenames.METRICS).read_text("utf-8"))
            return Run(
                number=number,
                place=place,
                manifest=described,
                config=_config(local / filenames.CONFIG),
                metrics=Metrics(**{name: metrics[name] for name in Metrics.__dataclass_fields__}),
                history=_history(local / filenames.HISTORY),
                classes=[str(each["class"]) for each in metrics["per_class"]],
                tested=_keyed(tested),
            )
        except (ValueError, KeyError, TypeError, csv.Error, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise DamagedRunError(f"{place}: its files do not describe a run: {reason}") from None


def compare(runs: Sequence[Run]) -> Comparison:
    """Compares two or more runs, each with the first."""
    everywhere = set.intersection(*(set(run.tested) for run in runs))
    settings = dict.fromkeys(name for run in runs for name in run.config)
    known = [name for name in settings if name != "auto_settings"]  # Who decided is no setting.
    return Comparison(
        runs=runs,
        settings=_settings(runs, filter(affects_result, known)),
        other_settings=_settings(runs, (name for name in known if not affects_result(name))),
        origins=_origins(runs),
        pairs=_pairs(runs),
        groups=_groups(runs),
        classes=_classes(runs, everywhere),
        one_test_part=all(len(run.tested) == len(everywhere) for run in runs),
    )


def _differences(
    runs: Sequence[Run], value: Callable[[Run, str], object], labels: Iterable[tuple[str, str]]
) -> list[Difference]:
    """Returns what differs, of what the labels stand for."""
    found = []
    for name, label in labels:
        letters: defaultdict[str, str] = defaultdict(str)
        for run in runs:
            letters[_in_words(value(run, name))] += run.letter
        if len(letters) > 1:
            found.append(Difference(label, list(letters.items())))
    return found


def _settings(runs: Sequence[Run], known: Iterable[str]) -> list[Difference]:
    labels = ((name, flag_name(name)) for name in known)
    return _differences(runs, lambda run, name: run.config.get(name), labels)


def _origins(runs: Sequence[Run]) -> list[Difference]:
    """Returns where runs come from, and on what they were made, as far as that differs."""

    def versions(run: Run) -> dict[str, Any]:
        found = run.manifest.get("versions")
        return found if isinstance(found, dict) else {}

    def value(run: Run, name: str) -> object:
        if name == "device":
            return run.metrics.device
        if name == "data_fingerprint":
            return str(run.manifest.get(name))[:_DIGITS]
        return run.manifest.get(name) if name in ORIGINS else versions(run).get(name)

    packages = dict.fromkeys(name for run in runs for name in versions(run))
    return _differences(runs, value, [*ORIGINS.items(), *((name, name) for name in packages)])


def _pairs(runs: Sequence[Run]) -> list[Pair]:
    counted = {run.number: _counts(runs[0], run) for run in runs[1:]}
    chances = {
        number: significance.mcnemar(counts["only_first"], counts["only_second"])
        for number, counts in counted.items()
        if counts["common"]
    }
    corrected = dict(zip(chances, significance.holm(list(chances.values())), strict=True))
    return [
        Pair(
            first=runs[0],
            second=runs[number],
            p=chances.get(number, 1.0),
            corrected=corrected.get(number, 1.0),
            **counts,
        )
        for number, counts in counted.items()
    ]


def _counts(first: Run, second: Run) -> dict[str, int]:
    """Returns the counts of a pair, by the name of its attribute."""
    both = [(first.tested[key], second.tested[key]) for key in first.tested if key in second.tested]
    right = Counter((a.true == a.predicted, b.true == b.predicted) for a, b in both)
    examples = [Counter(example for example, _, _ in run.tested) for run in (first, second)]
    return {
        "common": len(both),
        "both_right": right[True, True],
        "only_first": right[True, False],
        "only_second": right[False, True],
        "same_class": sum(a.predicted == b.predicted for a, b in both),
        "conflicting": (examples[0] & examples[1]).total() - len(both),
    }


def _groups(runs: Sequence[Run]) -> list[Group]:
    recipes: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        recipe = {
            name: value
            for name, value in run.config.items()
            if affects_result(name) and name != "seed"
        }
        recipes[json.dumps(recipe, sort_keys=True)].append(run)
    return [Group(group) for group in recipes.values() if len(group) > 1]


def _classes(runs: Sequence[Run], everywhere: Collection[_Key]) -> list[ClassRow]:
    support: Counter[str] = Counter(true for _, true, _ in everywhere)
    right = [
        Counter(key[1] for key in everywhere if run.tested[key].predicted == key[1]) for run in runs
    ]
    names_ = dict.fromkeys(name for run in runs for name in run.classes if support[name])
    return [
        ClassRow(name, support[name], [found[name] / support[name] for found in right])
        for name in names_
    ]


def _in_words(value: object) -> str:
    """Returns a value of JSON as it is shown."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)


def _config(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text("utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{filenames.CONFIG}: found {type(found).__name__}, expected an object")
    return {setting.name: setting.default for setting in option_specs(Config)} | found


def _history(path: Path) -> list[dict[str, float]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [
            {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file, strict=True)
        ]
    if not rows or not all("epoch" in row for row in rows):
        raise ValueError(f"{filenames.HISTORY}: expected a row an epoch")
    return rows


def _keyed(tested: Sequence[PredictionRow]) -> dict[_Key, PredictionRow]:
    before: Counter[tuple[str, str]] = Counter()
    keyed = {}
    for row in tested:
        same = (row.example, row.true)
        keyed[(*same, before[same])] = row
        before[same] += 1
    return keyed
