"""Whether two models differ by more than chance, by the examples on which just one is right."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainer.runs.metrics import Z_95


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the p-value of McNemar's exact test, two-sided.

    If two models are equally good, the examples on which just one of them is right are tosses of a
    fair coin. This is how often tosses are at least as uneven as these.

    Args:
        only_first: examples on which the first is right and the second is wrong.
        only_second: the other way round.

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated
    proportions or percentages"; with the binomial distribution itself, not its limit.
    """
    # A tenth of the time that scipy.stats.binomtest takes to be imported.
    from scipy.special import bdtr

    tosses = only_first + only_second
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), tosses, 0.5))) if tosses else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for how many of them there are, in their order.

    That any of the corrected ones is below a level by chance is less probable than the level.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    corrected, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = highest
    return corrected


def difference(only_first: int, only_second: int, examples: int) -> tuple[float, float]:
    """Returns the 95 % interval of how much more often the second is right than the first.

    Args:
        only_first: examples on which the first is right and the second is wrong.
        only_second: the other way round.
        examples: on which both were tested.

    Source: Agresti and Min 2005, "Simple improved confidence intervals for comparing matched
    proportions": as if half an example more had been found of each of the four kinds.
    """
    first, second, all_ = only_first + 0.5, only_second + 0.5, examples + 2
    centre = (second - first) / all_
    half = Z_95 * math.sqrt(first + second - (second - first) ** 2 / all_) / all_
    return max(-1.0, centre - half), min(1.0, centre + half)
