"""Examples in a random order, though they are read in another one and need not fit into memory."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from trainer import storage
from trainer.data.shards.reader import Array, bytes_of_one, cut
from trainer.errors import DataError

_PILE_BYTES = 64 << 20
_HELD_BYTES = 32 << 20


def shuffled(rows: Array) -> Array:
    """Returns the places of examples in a random order, which is the same each time.

    Shards of a single class, as in data that is sorted, would make windows of a few.
    """
    return np.random.Generator(np.random.Philox(key=0)).permutation(rows)


def in_order(blocks: Iterable[Array], labels: Array, *, mix: bool) -> tuple[Iterable[Array], Array]:
    """Returns examples, some at a time, with their labels, as they are or mixed."""
    if not mix:
        return blocks, labels
    order = shuffled(np.arange(len(labels)))
    return mixed(blocks, order), labels[order]


def mixed(
    blocks: Iterable[Array], order: Array, *, pile_bytes: int = _PILE_BYTES
) -> Iterator[Array]:
    """Gives examples in another order, by way of temporary files that take as much as they do.

    As they come they are put on piles, by where they go; a pile fits into memory, where it is put
    in order.

    Args:
        blocks: the examples, some at a time: numbers (n, ...), or texts, object array (n,).
        order: which of them comes at each place: a permutation of their numbers, int64 (N,).
        pile_bytes: about what a pile takes.

    Returns:
        All of them, a pile at a time.

    Raises:
        DataError: they are not N.
        StorageError: the disk is full.
    """
    blocks = iter(blocks)
    first = next(blocks, None)
    if first is None:
        raise _changed(0, len(order))
    size = max(1, pile_bytes // bytes_of_one(first))
    pile_of = np.empty(len(order), np.int64)
    pile_of[order] = np.arange(len(order)) // size
    came = 0
    with storage.temporary_directory() as folder:
        for held in cut(itertools.chain([first], blocks), _HELD_BYTES):
            came += len(held)
            if came > len(order):
                break
            _pile_up(folder, held, pile_of[came - len(held) : came])
        if came != len(order):
            raise _changed(came, len(order))
        for number, at in enumerate(range(0, len(order), size)):
            pile = _pile(folder / str(number), first)
            # On its pile an example lies behind those that came before it.
            yield pile[np.argsort(np.argsort(order[at : at + size]))]


def _pile_up(folder: Path, held: Array, pile_of: Array) -> None:
    """Appends each example to the file of its pile."""
    by_pile = np.argsort(pile_of, kind="stable")
    edges = np.flatnonzero(np.diff(pile_of[by_pile])) + 1
    for some in np.split(by_pile, edges):
        with (folder / str(pile_of[some[0]])).open("ab") as file:
            if held.dtype == object:
                file.writelines(json.dumps(text).encode() + b"\n" for text in held[some])
            else:
                held[some].tofile(file)


def _pile(path: Path, like: Array) -> Array:
    """Returns what lies on a pile, and removes that."""
    if like.dtype == object:
        with path.open("rb") as lines:
            pile = np.array(list(map(json.loads, lines)), dtype=object)
    else:
        pile = np.fromfile(path, like.dtype).reshape(-1, *like.shape[1:])
    path.unlink()
    return pile


def _changed(found: int, expected: int) -> DataError:
    return DataError(f"found {found} examples, and {expected} when labels were read")
