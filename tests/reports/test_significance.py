"""Tests of the statistics against SciPy, published values and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from trainer.reports.significance import difference, holm, mcnemar


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        # Agresti, Categorical Data Analysis: approval of a prime minister in two surveys; p from
        # mcnemar.exact of R's exact2x2.
        (150, 86, 3.716e-05),
        (0, 5, 2 / 32),
        (1, 9, 22 / 1024),
        (4, 4, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_against_known_values(only_first: int, only_second: int, p: float) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx(p, rel=1e-4)
    assert mcnemar(only_second, only_first) == mcnemar(only_first, only_second)


def test_mcnemar_equals_the_binomial_test() -> None:
    for first in (0, 1, 7, 40, 3000):
        for second in (1, 2, 33, 2950):
            expected = binomtest(first, first + second, 0.5).pvalue
            assert mcnemar(first, second) == pytest.approx(expected, rel=1e-6), (first, second)


def test_holm_against_a_known_example() -> None:
    """R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7]) == [0.7]
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_interval_against_a_known_example() -> None:
    """Agresti's example: -0.04 plus and minus 1.96 * 0.0095, nearly equal for 1,600 examples."""
    assert difference(150, 86, 1600) == pytest.approx((-0.0586, -0.0214), abs=3e-4)
    assert difference(86, 150, 1600) == pytest.approx((0.0214, 0.0586), abs=3e-4)
    assert difference(0, 1, 1) == (pytest.approx(-0.48, abs=0.1), 1.0)


@pytest.mark.parametrize("kinds", [(0.9, 0.02, 0.05, 0.03), (0.95, 0.03, 0.01, 0.01)])
def test_the_interval_contains_the_difference_in_95_percent_of_samples(
    kinds: tuple[float, ...],
) -> None:
    samples = np.random.default_rng(0).multinomial(300, kinds, 2000)
    ends = np.array([difference(first, second, 300) for _, first, second, _ in samples])
    contains = (ends[:, 0] <= kinds[2] - kinds[1]) & (kinds[2] - kinds[1] <= ends[:, 1])
    assert 0.94 <= contains.mean() <= 0.995
