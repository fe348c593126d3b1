"""A data set on one page, as `trainer data check` found it, and what it found in words."""

from __future__ import annotations

import numpy as np

from trainer.data.statistics import Survey
from trainer.reports import pages, samples

_TEMPLATE = "data.html.jinja"
_NAMES = {"train": "training", "validation": "validation", "test": "test"}


def page(name: str, survey: Survey) -> str:
    """Returns the page.

    Args:
        name: of the data set, as the user gave it.
        survey: what was found.
    """
    counts = [survey.counts(part) for part in survey.labels]
    return pages.render(
        _TEMPLATE,
        name=name,
        survey=survey,
        what=what(survey),
        findings=findings(survey),
        classes=samples.by_class(survey.samples, np.array(survey.counts("train")), survey.classes),
        rows=list(zip(survey.classes, zip(*counts, strict=True), strict=True)),
    )


def what(survey: Survey) -> str:
    """Returns what an example is."""
    if survey.words is not None:
        least, middle, most = survey.words
        return f"texts of {least} to {most:,} words, half of them up to {middle}"
    if survey.kind == "vector":
        return f"lists of {survey.shape[0]:,} numbers, {survey.dtype}"
    height, width, channels = survey.shape
    plural = "s" * (channels != 1)
    return f"images of {width}x{height}, {channels} channel{plural}, {survey.dtype}"


def findings(survey: Survey) -> list[str]:
    """Returns what may be wrong, a sentence each."""
    found = [
        f"{count:,} of {len(survey.labels[part]):,} {_NAMES[part]} examples repeat another one"
        for part, count in survey.repeated.items()
        if count
    ]
    found += [
        f"{count:,} of {len(survey.labels[part]):,} {_NAMES[part]} examples are in the training "
        "part too"
        for part, count in survey.shared.items()
        if count
    ]
    if survey.relabelled:
        found.append(f"{survey.relabelled:,} examples are there with more than one class")
    if survey.uniform:
        found.append(f"{survey.uniform:,} images have one colour only")
    counts = survey.counts("train")
    empty = [name for name, count in zip(survey.classes, counts, strict=True) if not count]
    if empty:
        found.append(f"no training examples of {', '.join(map(repr, empty[:10]))}")
    elif max(counts) >= 10 * min(counts):
        found.append(
            f"{max(counts):,} training examples of the most frequent class and {min(counts):,} of "
            "the rarest; --class-weights balanced makes each count as much"
        )
    return found
