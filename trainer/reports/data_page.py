"""A data set on one page, as `trainer data check` found it, and what it found in words."""

from __future__ import annotations

import numpy as np

from trainer.data.statistics import Statistics
from trainer.reports import pages, samples

_TEMPLATE = "data.html.jinja"
_NAMES = {"train": "training", "validation": "validation", "test": "test"}


def page(name: str, collect: Statistics) -> str:
    """Returns the page.

    Args:
        name: of the data set, as the user gave it.
        collect: what was found.
    """
    counts = [collect.counts(part) for part in collect.labels]
    return pages.render(
        _TEMPLATE,
        name=name,
        collect=collect,
        what=what(collect),
        findings=findings(collect),
        classes=samples.by_class(
            collect.samples, np.array(collect.counts("train")), collect.classes
        ),
        rows=list(zip(collect.classes, zip(*counts, strict=True), strict=True)),
    )


def what(collect: Statistics) -> str:
    """Returns what an example is."""
    if collect.words is not None:
        least, middle, most = collect.words
        return f"texts of {least} to {most:,} words, half of them up to {middle}"
    if collect.kind == "vector":
        return f"lists of {collect.shape[0]:,} numbers, {collect.dtype}"
    height, width, channels = collect.shape
    plural = "s" * (channels != 1)
    return f"images of {width}x{height}, {channels} channel{plural}, {collect.dtype}"


def findings(collect: Statistics) -> list[str]:
    """Returns what may be wrong, a sentence each."""
    found = [
        f"{count:,} of {len(collect.labels[part]):,} {_NAMES[part]} examples repeat another one"
        for part, count in collect.duplicates.items()
        if count
    ]
    found += [
        f"{count:,} of {len(collect.labels[part]):,} {_NAMES[part]} examples are in the training "
        "part too"
        for part, count in collect.leaked.items()
        if count
    ]
    if collect.conflicting:
        found.append(f"{collect.conflicting:,} examples are there with more than one class")
    if collect.uniform:
        found.append(f"{collect.uniform:,} images have one colour only")
    counts = collect.counts("train")
    empty = [name for name, count in zip(collect.classes, counts, strict=True) if not count]
    if empty:
        found.append(f"no training examples of {', '.join(map(repr, empty[:10]))}")
    elif max(counts) >= 10 * min(counts):
        found.append(
            f"{max(counts):,} training examples of the most frequent class and {min(counts):,} of "
            "the rarest; --class-weights balanced makes each count as much"
        )
    return found
