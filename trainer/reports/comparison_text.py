"""Formats the results of a comparison as sentences."""

from __future__ import annotations

import math

from trainer.reports.comparison import ORIGINS, Comparison, Pair

_SIGNIFICANT, _HIGHLY_SIGNIFICANT = 0.05, 0.001
_MIN_P = 1e-6  # Smaller p-values are shown as "below"


def verdict(pair: Pair) -> str:
    """Returns a sentence on which run is better on the test split, if the test is significant."""
    a, b = pair.first.letter, pair.second.letter
    if not pair.common:
        return f"{b} against {a}: not compared, since they were tested on different examples."
    if pair.corrected >= _SIGNIFICANT:
        return f"{b} against {a}: the difference is not significant."
    strength = "highly significant" if pair.corrected < _HIGHLY_SIGNIFICANT else "significant"
    return f"{b} against {a}: {pair.better.letter} is better; the difference is {strength}."


def reason(pair: Pair, *, tests: int = 1) -> str:
    """Returns sentences on the result of McNemar's test for two runs.

    Args:
        pair: the two runs.
        tests: number of tests in the comparison.
    """
    a, b = pair.first.letter, pair.second.letter
    if not pair.common:
        return (
            "Their test splits have no example in common. Runs on the same data with the same "
            "--seed have the same test split."
        )
    if not pair.only_first + pair.only_second:
        return (
            f"Both are correct on the same {pair.both_correct:,} of {pair.common:,} common test "
            "examples, and wrong on the others."
        )
    p = f"p {_format_relation(pair.p)}"
    if tests > 1:
        p += f"; {_format_p(pair.corrected)} corrected for {tests} comparisons"
    low, high = pair.interval
    return (
        f"Of {pair.common:,} common test examples, {b} alone is correct on {pair.only_second:,} "
        f"and {a} alone on {pair.only_first:,}: {100 * pair.gain:+.2f} points of accuracy, 95 % "
        f"interval {100 * low:+.2f} to {100 * high:+.2f}. If both were equally good, a difference "
        f"at least this large would occur by chance in {_format_frequency(pair.p)} such "
        f"comparisons ({p})."
    )


def cautions(comparison: Comparison) -> list[str]:
    """Returns sentences on the limits of the comparison.

    Source: Dietterich 1998, "Approximate statistical tests for comparing supervised classification
    learning algorithms": McNemar's test does not measure what training by another seed changes.
    """
    sentences = [
        f"{pair.first.letter} and {pair.second.letter}: {pair.conflicting:,} examples that are in "
        "both test splits are left out, since their classes differ."
        for pair in comparison.pairs
        if pair.conflicting
    ]
    if not comparison.same_test_split:
        sentences.append(
            "The runs have different test splits, so their metrics are not directly comparable, "
            "and no run is marked as the best."
        )
    if any(each.name == ORIGINS["data_fingerprint"] for each in comparison.origins):
        sentences.append(
            "The runs were trained on different examples: the data or the splits differ, which may "
            "explain a difference in accuracy."
        )
    if comparison.tests:
        corrected = ", with Holm's correction" if comparison.tests > 1 else ""
        sentences.append(
            f"Exact two-sided McNemar's test{corrected}, on examples that neither run was trained "
            f"on; significant if p is below {_SIGNIFICANT}. The test compares these two models. To "
            "compare settings, train with several seeds, since each seed gives another model "
            "(Dietterich 1998)."
        )
    return sentences


def _format_frequency(p: float) -> str:
    """Formats a probability as "2 of 100", with a power of ten."""
    if p < _MIN_P:
        return f"fewer than 1 of {1 / _MIN_P:,.0f}"
    whole = 10 ** max(2, math.ceil(-math.log10(p)))
    return f"{round(p * whole)} of {whole:,}"


def _format_p(p: float) -> str:
    return "below 0.000001" if p < _MIN_P else f"{p:.{max(2, 1 - math.floor(math.log10(p)))}f}"


def _format_relation(p: float) -> str:
    return _format_p(p) if p < _MIN_P else f"= {_format_p(p)}"
