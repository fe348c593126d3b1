"""Whatever format data is kept in, the same examples are read in the same order, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data import real_files
from tests.data.real_files import KINDS, Kind
from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Array, Dataset, Split


def contents(part: Split) -> list[tuple[object, int]]:
    """Each example, whatever its shape, with its class."""
    values: list[object] = list(part.array)
    if isinstance(values[0], np.ndarray):
        values = [value.tobytes() for value in part.array]
    return list(zip(values, part.labels.tolist(), strict=True))


def distance(first: Array, second: Array) -> float:
    return float(np.abs(first.astype(int) - second).mean())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.title)
def test_all_formats_hold_the_same_examples(
    kind: Kind, mnist: Dataset, reviews: Dataset, bucket: str, tmp_path: Path
) -> None:
    shipped = reviews if kind.texts else mnist
    first = None
    for number, form in enumerate(kind.formats):
        whole = real_files.data(kind, shipped, f"{bucket}/{number}", train=2, test=1)
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
        for part, expected in ((data.train, first.train), (data.test, first.test)):
            if form.examples == "lossy":
                assert 0 < distance(part.array, expected.array) < 8, form.name
            elif form.examples == "in another order":
                assert sorted(contents(part)) == sorted(contents(expected)), form.name
            else:
                assert contents(part) == contents(expected), form.name
            flat = form.examples == "as vectors"
            assert part.examples.ndim == (2 if flat else expected.examples.ndim), form.name
