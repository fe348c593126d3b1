"""Tests that all formats of the same data give bit-identical examples in the same order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data import real_files
from tests.data.real_files import KINDS, Kind
from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Array, Dataset, Split


def contents(split: Split) -> list[tuple[object, int]]:
    """Returns the content of each example, without its shape, and its label."""
    values: list[object] = list(split.array)
    if isinstance(values[0], np.ndarray):
        values = [value.tobytes() for value in split.array]
    return list(zip(values, split.labels.tolist(), strict=True))


def distance(first: Array, second: Array) -> float:
    """Returns the mean absolute difference of two arrays."""
    return float(np.abs(first.astype(int) - second).mean())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.title)
def test_all_formats_hold_the_same_examples(
    kind: Kind, mnist: Dataset, reviews: Dataset, bucket: str, tmp_path: Path
) -> None:
    shipped = reviews if kind.texts else mnist
    first = None
    for number, form in enumerate(kind.formats):
        whole = real_files.first_examples(kind, shipped, f"{bucket}/{number}", train=2, test=1)
        folder = tmp_path / str(number)
        real_files.write(form, whole, folder)
        if form.remote:
            real_files.upload(folder, whole.url)
        data = loader.load(
            DataOptions(
                data=f"{folder}{form.pattern}", seed=0, allow_pickle="--allow-pickle" in form.flags
            )
        )
        assert (data.validation is not None) == form.validation
        first = first or data
        assert data.spec.classes == first.spec.classes, form.name
        for split, expected in ((data.train, first.train), (data.test, first.test)):
            if form.examples == "lossy":
                assert 0 < distance(split.array, expected.array) < 8, form.name
            elif form.examples == "of 16 bits":
                assert (split.array == 257.0 * expected.array).all()
            elif form.examples == "other order":
                assert sorted(contents(split)) == sorted(contents(expected)), form.name
            else:
                assert contents(split) == contents(expected), form.name
            flat = form.examples == "as vectors"
            assert split.examples.ndim == (2 if flat else expected.examples.ndim), form.name
