"""Tests whether the accuracies of two models differ significantly."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainer.runs.metrics import Z_95


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the p-value of McNemar's exact two-sided test.

    If two models are equally good, each example that only one of them classifies correctly is
    equally likely to be correct by either, like the toss of a fair coin. The p-value is the
    probability of tosses that are at least as uneven.

    Args:
        only_first: number of examples that only the first model classifies correctly.
        only_second: number of examples that only the second model classifies correctly.

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated
    proportions or percentages"; here with the exact binomial distribution.
    """
    # Imports in a tenth of the time of scipy.stats.binomtest.
    from scipy.special import bdtr

    trials = only_first + only_second
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), trials, 0.5))) if trials else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """Returns p-values with Holm's correction for multiple tests, in the given order.

    If all null hypotheses hold, the probability that any corrected p-value is below a level is at
    most that level.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    corrected, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = highest
    return corrected


def difference(only_first: int, only_second: int, examples: int) -> tuple[float, float]:
    """Returns the 95 % confidence interval of the second model's accuracy minus the first's.

    Args:
        only_first: number of examples that only the first model classifies correctly.
        only_second: number of examples that only the second model classifies correctly.
        examples: number of examples that both models were tested on.

    Source: Agresti and Min 2005, "Simple improved confidence intervals for comparing matched
    proportions"; adds 0.5 to each of the four counts.
    """
    first, second, all_ = only_first + 0.5, only_second + 0.5, examples + 2
    centre = (second - first) / all_
    half = Z_95 * math.sqrt(first + second - (second - first) ** 2 / all_) / all_
    return max(-1.0, centre - half), min(1.0, centre + half)
