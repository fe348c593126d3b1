"""What is found when runs are compared, in words."""

from __future__ import annotations

import math

from trainer.reports.comparison import ORIGINS, Comparison, Pair

_LEVEL, _HARDLY = 0.05, 0.001
_MIN = 1e-6  # Of probabilities; what is less need not be told apart.


def verdict(pair: Pair) -> str:
    """Returns in a sentence which run is better, as far as the test part tells."""
    a, b = pair.first.letter, pair.second.letter
    if not pair.common:
        return f"{b} against {a}: they were tested on different examples."
    if pair.corrected >= _LEVEL:
        return f"{b} against {a}: the difference may well be chance."
    doubt = "likely more than" if pair.corrected >= _HARDLY else "hardly"
    return f"{b} against {a}: {pair.better.letter} is better, and that is {doubt} chance."


def reason(pair: Pair, *, tests: int = 1) -> str:
    """Returns in sentences what McNemar's test says of two runs.

    Args:
        pair: the two.
        tests: how many such tests the runs were compared by.
    """
    a, b = pair.first.letter, pair.second.letter
    if not pair.common:
        return (
            "No example is in the test part of both, so there is nothing to compare them on. Runs "
            "on the same data with the same --seed share theirs."
        )
    if not pair.only_first + pair.only_second:
        return (
            f"Both are right on the same {pair.both_right:,} of the {pair.common:,} examples that "
            "both were tested on, and wrong on the others."
        )
    p = f"p {_equals(pair.p)}"
    if tests > 1:
        p += f"; {_number(pair.corrected)} corrected for {tests} comparisons"
    low, high = pair.interval
    return (
        f"{b} is right on {pair.only_second:,} examples where {a} is wrong, and wrong on "
        f"{pair.only_first:,} where {a} is right, of {pair.common:,} that both were tested on: "
        f"{100 * pair.gain:+.2f} points of accuracy, 95 % interval {100 * low:+.2f} to "
        f"{100 * high:+.2f}. If they were equally good, a difference at least this large would "
        f"come up by chance in {_often(pair.p)} such comparisons ({p})."
    )


def cautions(comparison: Comparison) -> list[str]:
    """Returns what is to be known of the tests, in sentences.

    Source: Dietterich 1998, "Approximate statistical tests for comparing supervised classification
    learning algorithms": McNemar's test does not measure what training by another seed changes.
    """
    found = [
        f"{pair.first.letter} and {pair.second.letter}: {pair.conflicting:,} of the examples in "
        "both test parts are left out, for they have another class in each."
        for pair in comparison.pairs
        if pair.conflicting
    ]
    if not comparison.one_test_part:
        found.append(
            "The runs were not tested on the same examples, so that their figures are not "
            "comparable as they stand, and none is marked as the best."
        )
    if any(each.name == ORIGINS["data_fingerprint"] for each in comparison.origins):
        found.append(
            "They were not trained on the same examples: the data differ, or how they were split. "
            "What makes one better may be its data."
        )
    if comparison.tests:
        corrected = ", with Holm's correction" if comparison.tests > 1 else ""
        found.append(
            f"Exact two-sided McNemar's test{corrected}, on the examples that both runs held out, "
            f"so that neither was trained on them; p below {_LEVEL} counts as more than chance. It "
            "is about these models: whether a recipe is better, several seeds tell, since another "
            "seed makes another model (Dietterich 1998)."
        )
    return found


def _often(p: float) -> str:
    """Returns a probability as so many of a round number."""
    if p < _MIN:
        return f"fewer than 1 of {1 / _MIN:,.0f}"
    whole = 10 ** max(2, math.ceil(-math.log10(p)))
    return f"{round(p * whole)} of {whole:,}"


def _number(p: float) -> str:
    return "below 0.000001" if p < _MIN else f"{p:.{max(2, 1 - math.floor(math.log10(p)))}f}"


def _equals(p: float) -> str:
    return _number(p) if p < _MIN else f"= {_number(p)}"
