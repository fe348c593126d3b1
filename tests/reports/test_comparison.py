"""Runs beside each other, whatever they are runs of."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import pytest

from trainer.config import Config, option_specs
from trainer.reports import comparison, comparison_page, comparison_text
from trainer.reports.comparison import Comparison, Metrics, Run
from trainer.runs.predictions import PredictionRow

# Of one test example: itself, its class, and what the model says.
Said = tuple[str, str, str]


def run(
    number: int, tested: Sequence[Said], *, epochs: int = 2, loss: float = 0.5, **config: Any
) -> Run:
    rows = [PredictionRow(example, true, said, 0.9) for example, true, said in tested]
    right = sum(row.true == row.predicted for row in rows) / len(rows)
    return Run(
        number=number,
        place=f"runs/{number}",
        manifest={"data_fingerprint": "f" * 64, "versions": {"keras": "3"}},
        config={setting.name: setting.default for setting in option_specs(Config)}
        | {"data": "digits"}
        | config,
        metrics=Metrics(
            test={"loss": loss, "accuracy": right},
            accuracy_interval=(max(0.0, right - 0.1), min(1.0, right + 0.1)),
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
        tested=comparison._keyed(rows),
    )


def said(right: str) -> list[Said]:
    """Examples of two classes in turn; those marked by "1" are classified rightly."""
    return [
        (f"{number:016x}", "ab"[number % 2], "ab"[(number + (mark == "0")) % 2])
        for number, mark in enumerate(right)
    ]


def compared(*runs: str) -> Comparison:
    return comparison.compare([run(number, said(right)) for number, right in enumerate(runs)])


def test_what_each_alone_is_right_on_is_counted() -> None:
    (pair,) = compared("1110010000", "1001111000").pairs
    assert (pair.common, pair.both_right, pair.both_wrong) == (10, 2, 3)
    assert (pair.only_first, pair.only_second, pair.same_class) == (2, 3, 5)
    assert pair.p == pair.corrected == 1.0
    assert pair.gain == pytest.approx(0.1)
    assert pair.better.letter == "B"


def test_only_what_both_were_tested_on_counts() -> None:
    """Equal examples are matched one by one, and what has another class in each run is not."""
    first = [("x", "a", "a"), ("x", "a", "a"), ("x", "a", "a"), ("y", "a", "b"), ("z", "a", "a")]
    second = [("w", "b", "b"), ("y", "a", "a"), ("x", "a", "b"), ("x", "a", "b"), ("z", "b", "b")]
    found = comparison.compare([run(0, first), run(1, second)])
    (pair,) = found.pairs
    assert (pair.common, pair.only_first, pair.only_second, pair.conflicting) == (3, 2, 1, 1)
    assert not found.one_test_part
    assert set().union(*found.best.values()) == set()
    words = comparison_text.cautions(found)
    assert words[0].startswith("A and B: 1 of the examples in both test parts are left out")
    assert [(row.name, row.support) for row in found.classes] == [("a", 3)]


def test_nothing_in_common_is_said() -> None:
    found = comparison.compare([run(0, [("x", "a", "a")]), run(1, [("y", "a", "b")])])
    (pair,) = found.pairs
    assert (pair.common, found.tests, found.classes) == (0, 0, [])
    assert comparison_text.verdict(pair).endswith("they were tested on different examples.")
    assert "No example is in the test part of both" in comparison_text.reason(pair)
    assert "McNemar" not in " ".join(comparison_text.cautions(found))
    assert "they were tested on different examples" in comparison_page.page(found)


def test_the_difference_in_words() -> None:
    (pair,) = compared("1" * 9 + "0" * 23 + "1" * 68, "0" * 9 + "1" * 23 + "1" * 68).pairs
    assert comparison_text.verdict(pair) == (
        "B against A: B is better, and that is likely more than chance."
    )
    assert comparison_text.reason(pair) == (
        "B is right on 23 examples where A is wrong, and wrong on 9 where A is right, of 100 that "
        "both were tested on: +14.00 points of accuracy, 95 % interval +3.01 to +24.44. If they "
        "were equally good, a difference at least this large would come up by chance in 2 of 100 "
        "such comparisons (p = 0.020)."
    )


@pytest.mark.parametrize(
    ("only_first", "only_second", "chance", "verdict"),
    [
        (3, 3, "in 100 of 100 such comparisons (p = 1.00)", "the difference may well be chance."),
        (2, 7, "in 18 of 100 such comparisons (p = 0.18)", "the difference may well be chance."),
        (12, 2, "in 1 of 100 such comparisons (p = 0.013)", "A is better, and that is likely more"),
        (0, 14, "in 1 of 10,000 such comparisons (p = 0.00012)", "B is better, and that is hardly"),
        (0, 99, "in fewer than 1 of 1,000,000 such comparisons (p below 0.000001)", "B is better"),
    ],
)
def test_p_values_in_words(only_first: int, only_second: int, chance: str, verdict: str) -> None:
    unlike = "1" * only_first + "0" * only_second, "0" * only_first + "1" * only_second
    (pair,) = compared(*unlike).pairs
    assert chance in comparison_text.reason(pair)
    assert verdict in comparison_text.verdict(pair)


def test_models_that_are_right_on_the_same() -> None:
    (pair,) = compared("1100", "1100").pairs
    assert comparison_text.verdict(pair).endswith("the difference may well be chance.")
    assert comparison_text.reason(pair).startswith("Both are right on the same 2 of the 4 ")


def test_several_comparisons_are_corrected_for_their_number() -> None:
    baseline = "1" * 12 + "0" * 40
    found = compared(baseline, "0" * 2 + baseline[2:], "0" * 9 + baseline[9:], "0" * 52)
    assert [pair.p for pair in found.pairs] == pytest.approx([0.5, 2 / 2**9, 2 / 2**12])
    corrected = [pair.corrected for pair in found.pairs]
    assert corrected == pytest.approx([0.5, 4 / 2**9, 6 / 2**12])
    words = comparison_text.reason(found.pairs[1], tests=found.tests)
    assert "(p = 0.0039; 0.0078 corrected for 3 comparisons)" in words
    assert "with Holm's correction" in comparison_text.cautions(found)[-1]


def test_settings_that_differ_with_the_runs_that_have_them() -> None:
    runs = [
        run(number, said("10"), learning_rate=rate, seed=seed, out=f"runs/{number}")
        for number, (rate, seed) in enumerate(itertools.product((0.01, 0.1), (0, 1)))
    ]
    found = comparison.compare(runs)
    assert [(each.name, each.values) for each in found.settings] == [
        ("--learning-rate", [("0.01", "AB"), ("0.1", "CD")]),
        ("--seed", [("0", "AC"), ("1", "BD")]),
    ]
    assert [each.name for each in found.other_settings] == ["--out"]
    assert found.origins == []


def test_seeds_of_one_recipe_are_summed_up() -> None:
    runs = [
        run(number, said(right), seed=number % 3, batch_size=1 + number // 3)
        for number, right in enumerate(["1111", "1110", "1100", "1000"])
    ]
    (group,) = comparison.compare(runs).groups
    assert group.letters == "ABC"
    assert (group.mean, group.deviation) == (pytest.approx(0.75), pytest.approx(0.25))


def test_the_best_is_marked_unless_all_are_equal() -> None:
    runs = [run(n, said(right), loss=n) for n, right in enumerate(["1100", "1110", "1101"])]
    assert comparison.compare(runs).best == {
        "accuracy": frozenset({1, 2}), "loss": frozenset({0}), "ece": frozenset()
    }  # fmt: skip


def test_of_many_classes_those_that_differ_most_are_shown() -> None:
    tested = [(f"{n:016x}", f"class {n // 2}", f"class {n // 2}") for n in range(400)]
    wrong = [(e, t, "class 0" if t == "class 150" else t) for e, t, _ in tested]
    found = comparison.compare([run(0, tested), run(1, wrong)])
    assert len(found.classes) == 200
    page = comparison_page.page(found)
    assert "The 40 classes that differ most, of 200" in page
    assert ">class 150</td>" in page
    assert len(page) < 60_000


def test_26_runs_fit_on_a_page_that_needs_no_other() -> None:
    runs = [run(n, said("10" * 30), seed=n, epochs=n + 1) for n in range(26)]
    page = comparison_page.page(comparison.compare(runs))
    assert all(f'">{letter}</b>' in page for letter in comparison.LETTERS)
    assert len(page) < 400_000
    assert not re.search(r"""(src|href)=["'](?!data:|#)|@import|url\((?!#)""", page)
