"""Tests of the external shuffle: examples reordered through temporary files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trainer.data.shards.external_shuffle import (
    Pairs,
    external_shuffle,
    order_blocks,
    shuffle_rows,
)
from trainer.errors import DataError

NUMBERS = np.arange(1000 * 6, dtype=np.float32).reshape(1000, 2, 3)
TEXTS = np.array([f'text "{n}"\nö\u2028 ' * (n % 5) for n in range(1000)], object)
ORDER = shuffle_rows(np.arange(1000))


@pytest.fixture(autouse=True)
def temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder that all temporary files of a test are created in."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def blocks(examples: np.ndarray) -> Iterator[np.ndarray]:
    yield from np.split(examples, [1, 7, 500, 501])


@pytest.mark.parametrize("examples", [NUMBERS, TEXTS])
@pytest.mark.parametrize("partition_bytes", [1, 1000, 1 << 30])
def test_examples_come_in_the_requested_order(
    examples: np.ndarray, partition_bytes: int, temporary_directory: Path
) -> None:
    order = ORDER[:30] if partition_bytes == 1 else ORDER
    order = np.argsort(order)  # A permutation of the examples that are left.
    examples = examples[: len(order)]
    partitions = list(
        external_shuffle(iter([examples[:9], examples[9:]]), order, partition_bytes=partition_bytes)
    )
    np.testing.assert_array_equal(np.concatenate(partitions), examples[order])
    assert len(partitions) == {1: 30, 1000: len(partitions), 1 << 30: 1}[partition_bytes]
    assert list(temporary_directory.iterdir()) == []


def test_labels_are_shuffled_with_their_examples() -> None:
    labels = np.arange(1000, dtype=np.int32)
    unchanged, _ = order_blocks(blocks(NUMBERS), labels, shuffle=False)
    examples, of_examples = joined(unchanged)
    np.testing.assert_array_equal(examples, NUMBERS)
    np.testing.assert_array_equal(of_examples, labels)
    shuffled, shuffled_labels = order_blocks(blocks(NUMBERS), labels, shuffle=True)
    examples, of_examples = joined(shuffled)
    np.testing.assert_array_equal(examples, NUMBERS[shuffled_labels])
    np.testing.assert_array_equal(of_examples, shuffled_labels)
    assert not np.array_equal(shuffled_labels, labels)


@pytest.mark.parametrize("shuffle", [False, True])
def test_examples_that_turn_out_damaged_are_left_out_with_their_labels(shuffle: bool) -> None:
    labels = np.arange(1000, dtype=np.int32)
    left_out: set[int] = set()

    def reading() -> Iterator[np.ndarray]:
        for start in range(0, 1000, 100):
            left_out.update({start + 7, start + 99})
            yield NUMBERS[start : start + 100]

    pairs, all_labels = order_blocks(reading(), labels, shuffle=shuffle, left_out=left_out)
    examples, of_examples = joined(pairs)
    expected = all_labels[~np.isin(all_labels % 100, (7, 99))]
    np.testing.assert_array_equal(of_examples, expected)
    np.testing.assert_array_equal(examples, NUMBERS[expected])


def joined(pairs: Pairs) -> list[np.ndarray]:
    """Returns all examples, and their labels."""
    return [np.concatenate(parts) for parts in zip(*pairs, strict=True)]


@pytest.mark.parametrize("count", [0, 999, 1001])
def test_data_that_changes_while_it_is_read_is_an_error(
    count: int, temporary_directory: Path
) -> None:
    examples = np.concatenate([NUMBERS, NUMBERS])[:count]
    chunks = (examples[at : at + 100] for at in range(0, count, 100))
    with pytest.raises(
        DataError, match=r"found \d+ examples, expected 1000 as when the labels were"
    ):
        list(external_shuffle(chunks, ORDER))
    assert list(temporary_directory.iterdir()) == []
