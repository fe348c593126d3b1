"""Tests of comparisons of runs, with made-up predictions."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import pytest

from trainer.config import Config, option_specs
from trainer.reports import comparison, comparison_page, comparison_text
from trainer.reports.comparison import ComparedMetrics, ComparedRun, Comparison
from trainer.runs.predictions import PredictionRow

# Example, true class and predicted class of a test example.
Row = tuple[str, str, str]


def run(
    number: int, tested: Sequence[Row], *, epochs: int = 2, loss: float = 0.5, **config: Any
) -> ComparedRun:
    rows = [PredictionRow(example, true, predicted, 0.9) for example, true, predicted in tested]
    accuracy = sum(row.true == row.predicted for row in rows) / len(rows)
    return ComparedRun(
        number=number,
        path=f"runs/{number}",
        manifest={"data_fingerprint": "f" * 64, "versions": {"keras": "3"}},
        config={setting.name: setting.default for setting in option_specs(Config)}
        | {"data": "digits"}
        | config,
        metrics=ComparedMetrics(
            test={"loss": loss, "accuracy": accuracy},
            accuracy_interval=(max(0.0, accuracy - 0.1), min(1.0, accuracy + 0.1)),
            calibration={"ece": 0.02},
            seconds={"train": 3.0},
            examples_per_second=1000.0,
            epochs=epochs,
            parameters=7,
            device="CPU",
        ),
        history=[
            {"epoch": n, "loss": loss / n, "accuracy": 1 - 1 / (n + number + 1)}
            for n in range(1, epochs + 1)
        ],
        classes=sorted({true for _, true, _ in tested}),
        predictions=comparison._by_key(rows),
    )


def predictions(marks: str) -> list[Row]:
    """Returns predictions for alternating classes: correct where `marks` has "1", else wrong."""
    return [
        (f"{number:016x}", "ab"[number % 2], "ab"[(number + (mark == "0")) % 2])
        for number, mark in enumerate(marks)
    ]


def compare(*runs: str) -> Comparison:
    return comparison.compare([run(n, predictions(marks)) for n, marks in enumerate(runs)])


def test_correct_predictions_of_each_run_are_counted() -> None:
    (pair,) = compare("1110010000", "1001111000").pairs
    assert (pair.common, pair.both_correct, pair.both_wrong) == (10, 2, 3)
    assert (pair.only_first, pair.only_second, pair.same_class) == (2, 3, 5)
    assert pair.p == pair.corrected == 1.0
    assert pair.gain == pytest.approx(0.1)
    assert pair.better.letter == "B"


def test_only_common_test_examples_are_counted() -> None:
    """Equal examples are matched one by one; examples with different classes are left out."""
    first = [("x", "a", "a"), ("x", "a", "a"), ("x", "a", "a"), ("y", "a", "b"), ("z", "a", "a")]
    second = [("w", "b", "b"), ("y", "a", "a"), ("x", "a", "b"), ("x", "a", "b"), ("z", "b", "b")]
    result = comparison.compare([run(0, first), run(1, second)])
    (pair,) = result.pairs
    assert (pair.common, pair.only_first, pair.only_second, pair.conflicting) == (3, 2, 1, 1)
    assert not result.same_test_split
    assert set().union(*result.best.values()) == set()
    sentences = comparison_text.cautions(result)
    assert sentences[0].startswith("A and B: 1 examples that are in both test splits are left out")
    assert [(row.name, row.support) for row in result.classes] == [("a", 3)]


def test_runs_without_common_test_examples_are_not_compared() -> None:
    result = comparison.compare([run(0, [("x", "a", "a")]), run(1, [("y", "a", "b")])])
    (pair,) = result.pairs
    assert (pair.common, result.tests, result.classes) == (0, 0, [])
    assert comparison_text.verdict(pair).endswith("they were tested on different examples.")
    assert "Their test splits have no example in common" in comparison_text.reason(pair)
    assert "McNemar" not in " ".join(comparison_text.cautions(result))
    assert "they were tested on different examples" in comparison_page.page(result)


def test_the_difference_is_described() -> None:
    (pair,) = compare("1" * 9 + "0" * 23 + "1" * 68, "0" * 9 + "1" * 23 + "1" * 68).pairs
    assert comparison_text.verdict(pair) == (
        "B against A: B is better; the difference is significant."
    )
    assert comparison_text.reason(pair) == (
        "Of 100 common test examples, B alone is correct on 23 and A alone on 9: +14.00 points of "
        "accuracy, 95 % interval +3.01 to +24.44. If both were equally good, a difference at least "
        "this large would occur by chance in 2 of 100 such comparisons (p = 0.020)."
    )


@pytest.mark.parametrize(
    ("only_first", "only_second", "chance", "verdict"),
    [
        (3, 3, "in 100 of 100 such comparisons (p = 1.00)", "the difference is not significant."),
        (2, 7, "in 18 of 100 such comparisons (p = 0.18)", "the difference is not significant."),
        (
            12,
            2,
            "in 1 of 100 such comparisons (p = 0.013)",
            "A is better; the difference is significant.",
        ),
        (
            0,
            14,
            "in 1 of 10,000 such comparisons (p = 0.00012)",
            "B is better; the difference is highly significant.",
        ),
        (0, 99, "in fewer than 1 of 1,000,000 such comparisons (p below 0.000001)", "B is better"),
    ],
)
def test_p_values_are_described(
    only_first: int, only_second: int, chance: str, verdict: str
) -> None:
    unlike = "1" * only_first + "0" * only_second, "0" * only_first + "1" * only_second
    (pair,) = compare(*unlike).pairs
    assert chance in comparison_text.reason(pair)
    assert verdict in comparison_text.verdict(pair)


def test_runs_with_the_same_correct_predictions() -> None:
    (pair,) = compare("1100", "1100").pairs
    assert comparison_text.verdict(pair).endswith("the difference is not significant.")
    assert comparison_text.reason(pair).startswith("Both are correct on the same 2 of 4 common")


def test_several_comparisons_are_corrected_for_their_number() -> None:
    baseline = "1" * 12 + "0" * 40
    result = compare(baseline, "0" * 2 + baseline[2:], "0" * 9 + baseline[9:], "0" * 52)
    assert [pair.p for pair in result.pairs] == pytest.approx([0.5, 2 / 2**9, 2 / 2**12])
    corrected = [pair.corrected for pair in result.pairs]
    assert corrected == pytest.approx([0.5, 4 / 2**9, 6 / 2**12])
    text = comparison_text.reason(result.pairs[1], tests=result.tests)
    assert "(p = 0.0039; 0.0078 corrected for 3 comparisons)" in text
    assert "with Holm's correction" in comparison_text.cautions(result)[-1]


def test_different_settings_are_listed_with_their_runs() -> None:
    runs = [
        run(number, predictions("10"), learning_rate=rate, seed=seed, out=f"runs/{number}")
        for number, (rate, seed) in enumerate(itertools.product((0.01, 0.1), (0, 1)))
    ]
    result = comparison.compare(runs)
    assert [(each.name, each.values) for each in result.settings] == [
        ("--learning-rate", [("0.01", "AB"), ("0.1", "CD")]),
        ("--seed", [("0", "AC"), ("1", "BD")]),
    ]
    assert [each.name for each in result.other_settings] == ["--out"]
    assert result.origins == []


def test_runs_that_differ_in_the_seed_only_are_grouped() -> None:
    runs = [
        run(number, predictions(marks), seed=number % 3, batch_size=1 + number // 3)
        for number, marks in enumerate(["1111", "1110", "1100", "1000"])
    ]
    (group,) = comparison.compare(runs).groups
    assert group.letters == "ABC"
    assert (group.mean, group.deviation) == (pytest.approx(0.75), pytest.approx(0.25))


def test_the_best_is_marked_unless_all_are_equal() -> None:
    runs = [run(n, predictions(marks), loss=n) for n, marks in enumerate(["1100", "1110", "1101"])]
    assert comparison.compare(runs).best == {
        "accuracy": frozenset({1, 2}), "loss": frozenset({0}), "ece": frozenset()
    }  # fmt: skip


def test_of_many_classes_those_with_the_largest_differences_are_shown() -> None:
    tested = [(f"{n:016x}", f"class {n // 2}", f"class {n // 2}") for n in range(400)]
    wrong = [(e, t, "class 0" if t == "class 150" else t) for e, t, _ in tested]
    result = comparison.compare([run(0, tested), run(1, wrong)])
    assert len(result.classes) == 200
    page = comparison_page.page(result)
    assert "The 40 classes that differ most, of 200" in page
    assert ">class 150</td>" in page
    assert len(page) < 60_000


def test_26_runs_fit_on_one_self_contained_page() -> None:
    runs = [run(n, predictions("10" * 30), seed=n, epochs=n + 1) for n in range(26)]
    page = comparison_page.page(comparison.compare(runs))
    assert all(f'">{letter}</b>' in page for letter in comparison.LETTERS)
    assert len(page) < 400_000
    assert not re.search(r"""(src|href)=["'](?!data:|#)|@import|url\((?!#)""", page)
