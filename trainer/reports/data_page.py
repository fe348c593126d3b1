"""Renders the statistics of a data set, from `trainer data check`, as an HTML page and as text."""

from __future__ import annotations

import numpy as np

from trainer.data import checks
from trainer.data.statistics import Statistics
from trainer.reports import pages, samples

_TEMPLATE = "data.html.jinja"
_NAMES = {"train": "training", "validation": "validation", "test": "test"}
_MAX_NAMED = 10  # Empty classes whose names are listed.


def page(name: str, statistics: Statistics) -> str:
    """Returns the HTML page.

    Args:
        name: name or path of the data set.
        statistics: its statistics.
    """
    counts = [statistics.counts(split) for split in statistics.labels]
    return pages.render(
        _TEMPLATE,
        name=name,
        statistics=statistics,
        description=describe(statistics),
        findings=findings(statistics),
        classes=samples.by_class(
            statistics.samples, np.array(statistics.counts("train")), statistics.classes
        ),
        rows=list(zip(statistics.classes, zip(*counts, strict=True), strict=True)),
    )


def describe(statistics: Statistics) -> str:
    """Returns a description of the examples: kind, size and dtype."""
    if statistics.words is not None:
        minimum, median, maximum = statistics.words
        return f"texts of {minimum} to {maximum:,} words, median {median}"
    if statistics.kind == "vector":
        return f"vectors of {statistics.shape[0]:,} numbers, {statistics.dtype}"
    height, width, channels = statistics.shape
    plural = "s" * (channels != 1)
    return f"images of {width}x{height}, {channels} channel{plural}, {statistics.dtype}"


def findings(statistics: Statistics) -> list[str]:
    """Returns one sentence per possible problem of the data set."""
    sentences = [
        f"{count:,} of {len(statistics.labels[split]):,} {_NAMES[split]} examples are duplicates"
        for split, count in statistics.duplicates.items()
        if count
    ]
    sentences += [
        f"{count:,} of {len(statistics.labels[split]):,} {_NAMES[split]} examples are also in the "
        "training split"
        for split, count in statistics.leaked.items()
        if count
    ]
    if statistics.conflicting:
        sentences.append(f"{statistics.conflicting:,} examples have more than one class")
    if statistics.uniform:
        verb = "image has" if statistics.uniform == 1 else "images have"
        sentences.append(f"{statistics.uniform:,} {verb} a single colour")
    counts = statistics.counts("train")
    empty = [name for name, count in zip(statistics.classes, counts, strict=True) if not count]
    if empty:
        sentences.append(f"no training examples of {', '.join(map(repr, empty[:_MAX_NAMED]))}")
    elif warning := checks.imbalance_warning(np.array(counts), statistics.classes):
        sentences.append(warning)
    return sentences
