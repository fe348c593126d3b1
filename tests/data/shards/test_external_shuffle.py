"""Examples in a random order by way of temporary files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trainer.data.shards.external_shuffle import in_order, mixed, shuffled
from trainer.errors import DataError

NUMBERS = np.arange(1000 * 6, dtype=np.float32).reshape(1000, 2, 3)
TEXTS = np.array([f'text "{n}"\nö\u2028 ' * (n % 5) for n in range(1000)], object)
ORDER = shuffled(np.arange(1000))


@pytest.fixture(autouse=True)
def temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def blocks(examples: np.ndarray) -> Iterator[np.ndarray]:
    yield from np.split(examples, [1, 7, 500, 501])


@pytest.mark.parametrize("examples", [NUMBERS, TEXTS])
@pytest.mark.parametrize("pile_bytes", [1, 1000, 1 << 30])
def test_the_order_is_the_one_that_was_asked_for(
    examples: np.ndarray, pile_bytes: int, temporary_directory: Path
) -> None:
    order = ORDER[:30] if pile_bytes == 1 else ORDER
    order = np.argsort(order)  # Of those that there are.
    examples = examples[: len(order)]
    found = list(mixed(iter([examples[:9], examples[9:]]), order, pile_bytes=pile_bytes))
    np.testing.assert_array_equal(np.concatenate(found), examples[order])
    assert len(found) == {1: 30, 1000: len(found), 1 << 30: 1}[pile_bytes]
    assert list(temporary_directory.iterdir()) == []


def test_labels_go_with_their_examples() -> None:
    labels = np.arange(1000, dtype=np.int32)
    as_they_are = in_order(blocks(NUMBERS), labels, mix=False)
    np.testing.assert_array_equal(np.concatenate(list(as_they_are[0])), NUMBERS)
    found, of_them = in_order(blocks(NUMBERS), labels, mix=True)
    np.testing.assert_array_equal(np.concatenate(list(found)), NUMBERS[of_them])
    assert not np.array_equal(of_them, labels)


@pytest.mark.parametrize("count", [0, 999, 1001])
def test_data_that_has_changed_meanwhile_is_noticed(count: int, temporary_directory: Path) -> None:
    examples = np.concatenate([NUMBERS, NUMBERS])[:count]
    pieces = (examples[at : at + 100] for at in range(0, count, 100))
    with pytest.raises(DataError, match=r"found \d+ examples, and 1000 when labels were read"):
        list(mixed(pieces, ORDER))
    assert list(temporary_directory.iterdir()) == []
