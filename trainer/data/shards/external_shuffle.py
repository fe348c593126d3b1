"""Shuffles examples that need not fit into memory, by an external sort in temporary files."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np

from trainer import storage
from trainer.data.shards.reader import Array, bytes_per_example, rechunk
from trainer.errors import DataError

_PARTITION_BYTES = 64 << 20
_CHUNK_BYTES = 32 << 20


def shuffle_rows(rows: Array) -> Array:
    """Returns row numbers in a random order, which is the same on each call.

    Without it, data that is sorted by class would give shards of one class, and shuffle blocks of
    few classes.
    """
    return np.random.Generator(np.random.Philox(key=0)).permutation(rows)


# Blocks of examples, each with the labels of its examples.
Pairs = Iterable[tuple[Array, Array]]


def order_blocks(
    blocks: Iterable[Array],
    labels: Array,
    *,
    shuffle: bool,
    left_out: Collection[int] = frozenset(),
) -> tuple[Pairs, Array]:
    """Returns blocks of examples with their labels, and all labels, unchanged or shuffled.

    Args:
        blocks: examples, (n, ...) each.
        labels: labels of all examples, (N,).
        shuffle: whether to shuffle.
        left_out: row numbers of examples that are removed; may grow while `blocks` are read.
    """
    if not shuffle:
        return pair_blocks(blocks, labels, left_out=left_out), labels
    order = shuffle_rows(np.arange(len(labels)))
    shuffled = external_shuffle(blocks, order)
    return pair_blocks(shuffled, labels[order], left_out=left_out, rows=order), labels[order]


def pair_blocks(
    blocks: Iterable[Array],
    labels: Array,
    *,
    left_out: Collection[int] = frozenset(),
    rows: Array | None = None,
) -> Iterator[tuple[Array, Array]]:
    """Yields blocks of examples with the labels of each.

    Args:
        blocks: examples, (n, ...) each.
        labels: labels of all examples in the order of `blocks`, (N,).
        left_out: row numbers of examples that are removed; may grow while `blocks` are read.
        rows: row number of each example in the order of `blocks`; None for 0, 1, ....
    """
    start = 0
    for block in blocks:
        end = start + len(block)
        block_labels = labels[start:end]
        if left_out:
            numbers = np.arange(start, end) if rows is None else rows[start:end]
            keep = ~np.isin(numbers, list(left_out))
            block, block_labels = block[keep], block_labels[keep]
        start = end
        if len(block):
            yield block, block_labels


def external_shuffle(
    blocks: Iterable[Array], order: Array, *, partition_bytes: int = _PARTITION_BYTES
) -> Iterator[Array]:
    """Yields examples in another order, one partition at a time.

    The first pass writes each example to the temporary file of its partition; the second pass
    reads one partition after the other into memory and sorts it there. The files together take as
    much disk space as the examples.

    Args:
        blocks: examples in blocks: numbers (n, ...), or texts, object array of str (n,).
        order: row number of the example at each output position: a permutation, int64 (N,).
        partition_bytes: approximate size of a partition in bytes.

    Raises:
        DataError: the number of examples is not N.
        StorageError: the disk is full.
    """
    blocks = iter(blocks)
    first = next(blocks, None)
    if first is None:
        raise _count_error(0, len(order))
    size = max(1, partition_bytes // bytes_per_example(first))
    partition_of = np.empty(len(order), np.int64)
    partition_of[order] = np.arange(len(order)) // size
    count = 0
    with storage.temporary_directory() as folder:
        for chunk in rechunk(itertools.chain([first], blocks), _CHUNK_BYTES):
            count += len(chunk)
            if count > len(order):
                break
            _append(folder, chunk, partition_of[count - len(chunk) : count])
        if count != len(order):
            raise _count_error(count, len(order))
        for number, start in enumerate(range(0, len(order), size)):
            partition = _pop_partition(folder / str(number), first)
            # The file has its examples in input order: sort them by their rank in `order`.
            yield partition[np.argsort(np.argsort(order[start : start + size]))]


def _append(folder: Path, chunk: Array, partition_of: Array) -> None:
    """Appends each example of a chunk to the file of its partition."""
    by_partition = np.argsort(partition_of, kind="stable")
    edges = np.flatnonzero(np.diff(partition_of[by_partition])) + 1
    for rows in np.split(by_partition, edges):
        with (folder / str(partition_of[rows[0]])).open("ab") as file:
            if chunk.dtype == object:
                file.writelines(json.dumps(text).encode() + b"\n" for text in chunk[rows])
            else:
                chunk[rows].tofile(file)


def _pop_partition(path: Path, like: Array) -> Array:
    """Returns the examples of a partition, of the dtype and shape of `like`; removes its file."""
    if like.dtype == object:
        with path.open("rb") as lines:
            partition = np.array(list(map(json.loads, lines)), dtype=object)
    else:
        partition = np.fromfile(path, like.dtype).reshape(-1, *like.shape[1:])
    path.unlink()
    return partition


def _count_error(count: int, expected: int) -> DataError:
    return DataError(
        f"found {count} examples, expected {expected} as when the labels were read: the data has "
        "changed meanwhile. Start again"
    )
