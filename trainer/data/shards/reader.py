"""Examples that need not fit into memory: in many files, read as they are needed."""

from __future__ import annotations

import base64
import concurrent.futures
import dataclasses
import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from trainer.data.shards.cache import Cache
from trainer.errors import DataError, Location
from trainer.storage import Folder

Array = npt.NDArray[Any]

_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(?P<dtype>[<|][uif]\d)', 'fortran_order': False, "
    rb"'shape': \((?P<shape>[\d, ]+)\), \} *\n",
    re.DOTALL,
)


@dataclass(frozen=True)
class Shard:
    """One file of examples.

    Attributes:
        file: its name in the folder.
        examples: how many it holds.
        crc32c: of the whole file, as Cloud Storage writes it.
    """

    file: str
    examples: int
    crc32c: str


@dataclass(frozen=True)
class Shards:
    """The examples of a part; like an array, (N, ...), of which rows can be had.

    Attributes:
        folder: where the files are.
        files: the shards, in order.
        example: shape of one example.
        dtype: uint8 or float32.
        low: least value of them.
        high: greatest value.
        window_bytes: examples are shuffled within so many bytes of shards, which are put into a
            random order for that.
        cache: where files are kept that came from a bucket, if anywhere.
        rows: which of all their examples these are, rising, int64 (N,); None for all.
        all_digests: of all their examples, as `digests.of` gives them; None if nobody took them.
    """

    folder: Folder
    files: Sequence[Shard] = field(repr=False)
    example: tuple[int, ...]
    dtype: np.dtype[Any]
    low: float
    high: float
    window_bytes: int
    cache: Cache | None = field(default=None, repr=False)
    rows: Array | None = field(default=None, repr=False)
    all_digests: Array | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return int(self.starts[-1]) if self.rows is None else len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...)."""
        return (len(self), *self.example)

    @property
    def ndim(self) -> int:
        """Axes, with that of examples."""
        return 1 + len(self.example)

    @property
    def nbytes(self) -> int:
        """Memory that reading them in order takes: a window in use, and the next one."""
        return 2 * min(self.window_bytes, len(self) * self.example_bytes)

    @property
    def example_bytes(self) -> int:
        """Of one example."""
        return math.prod(self.example) * self.dtype.itemsize

    @property
    def digests(self) -> Array | None:
        """Of these examples, uint64 (N,); None if nobody took them."""
        if self.all_digests is None or self.rows is None:
            return self.all_digests
        return self.all_digests[self.rows]

    @property
    def starts(self) -> Array:
        """The number of each shard's first example, and that behind the last one: int64."""
        return np.cumsum([0, *(shard.examples for shard in self.files)])

    def __getitem__(self, rows: Any) -> Array:
        """Returns rows by a slice, a number, several, or a mask: an array, read now."""
        wanted = np.atleast_1d(np.arange(len(self))[rows])
        found = np.empty((len(wanted), *self.example), self.dtype)
        numbers = wanted if self.rows is None else self.rows[wanted]
        starts = self.starts
        shard_of = np.searchsorted(starts, numbers, side="right") - 1
        for shard in np.unique(shard_of):
            within = shard_of == shard
            found[within] = self._read(int(shard))[numbers[within] - starts[shard]]
        return found[0] if isinstance(rows, int | np.integer) else found

    def __iter__(self) -> Iterator[Array]:
        """Gives the examples one by one; a shard at a time is in memory."""
        for block in self.blocks():
            yield from block

    def blocks(self) -> Iterator[Array]:
        """Gives the examples a shard at a time: (n, ...)."""
        for first, last in self._limits(range(len(self.files))):
            if first < last:
                yield self[first:last]

    def chosen(self, mask: Array) -> Shards:
        """Returns those examples for which a mask is true, bool (N,); nothing is read."""
        numbers = np.arange(len(self)) if self.rows is None else self.rows
        return dataclasses.replace(self, rows=numbers[mask])

    def min(self) -> float:
        """Returns the least value of all shards."""
        return self.low

    def max(self) -> float:
        """Returns the greatest value of all shards."""
        return self.high

    def fingerprint(self) -> bytes:
        """Returns a digest of all examples, by those of their files."""
        digest = hashlib.sha256()
        for shard in self.files:
            digest.update(f"{shard.examples} {shard.crc32c}\n".encode())
        if self.rows is not None:
            digest.update(self.rows.tobytes())
        return digest.digest()

    def windows(self, seed: int, epoch: int) -> Iterator[Array]:
        """Gives the order of an epoch: the rows of each window, shuffled, int64.

        Shards are put into a random order and cut into windows; examples are shuffled within one.
        A pure function of its arguments and of the shards' sizes, as `Split.order`.
        """
        generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        shuffled = generator.permutation(len(self.files)).tolist()
        size = self._max_in_window()
        # The first one is small, since the first step waits for it.
        cuts = [0, *range(math.ceil(size / 8), len(shuffled), size), len(shuffled)]
        for first, last in itertools.pairwise(cuts):
            ranges = [np.arange(*limits) for limits in self._limits(shuffled[first:last])]
            rows = np.concatenate(ranges)
            if len(rows):
                yield generator.permutation(rows)

    def read(self, rows: Array, pool: concurrent.futures.Executor) -> Array:
        """Returns rows in the order that is given, several shards being read at a time.

        Args:
            rows: distinct numbers, int64 (N,).
            pool: of threads.
        """
        found = np.empty((len(rows), *self.example), self.dtype)
        numbers = rows if self.rows is None else self.rows[rows]
        by_number = np.argsort(numbers)
        starts = self.starts
        limits = np.searchsorted(numbers[by_number], starts)

        def place(shard: int) -> None:
            at = by_number[limits[shard] : limits[shard + 1]]
            block = self._read(shard)
            # All of it is there in its order, but for what is held out.
            found[at] = block if len(at) == len(block) else block[numbers[at] - starts[shard]]

        needed = [shard for shard in range(len(self.files)) if limits[shard] < limits[shard + 1]]
        list(pool.map(place, needed))  # Raises what a read raised.
        return found

    def _kept(self, shard: Shard) -> bytes | None:
        """Returns what the cache has of a file, if that is whole."""
        content = None if self.cache is None else self.cache.get(_key(shard))
        return content if content is not None and crc32c(content) == shard.crc32c else None

    def _max_in_window(self) -> int:
        largest = max(shard.examples for shard in self.files) * self.example_bytes
        return max(1, self.window_bytes // largest)

    def _limits(self, shards: Sequence[int]) -> list[tuple[int, int]]:
        """Returns the rows that lie in each of some shards: the first, and that behind the last."""
        limits = self.starts if self.rows is None else np.searchsorted(self.rows, self.starts)
        return [(int(limits[shard]), int(limits[shard + 1])) for shard in shards]

    def _read(self, number: int) -> Array:
        shard = self.files[number]
        place = Location(f"{self.folder.path}/{shard.file}")
        content = self._kept(shard)
        if content is None:
            content = self.folder.read(shard.file)
            if content is None:
                raise DataError("missing, though the index names it", place)
            if crc32c(content) != shard.crc32c:
                raise DataError("damaged: another CRC32C than in the index", place)
            if self.cache is not None:
                self.cache.write(_key(shard), content)
        examples = array(content, place)
        if examples.shape != (shard.examples, *self.example) or examples.dtype != self.dtype:
            raise DataError(
                f"{examples.dtype} of shape {examples.shape}, expected {self.dtype} of shape "
                f"{(shard.examples, *self.example)}",
                place,
            )
        return examples


def _key(shard: Shard) -> str:
    # Base64 has slashes. Two files of one length and CRC32C would be a rare chance.
    return f"{shard.crc32c.replace('/', '_')}-{shard.examples}-{shard.file}"


def crc32c(content: bytes) -> str:
    """Returns the CRC32C of a file's content as Cloud Storage writes it."""
    return base64.b64encode(google_crc32c.Checksum(content).digest()).decode()


def array(content: bytes, place: Location) -> Array:
    """Returns the array of an .npy file, without a copy.

    Args:
        content: of the file.
        place: of the file.

    Raises:
        DataError: it holds no array of plain numbers, or less of it than it says.
    """
    # NumPy reads the header by Python's own parser, which fails now and then if another thread uses
    # that at the same time, as TensorFlow does when it compiles (seen with CPython 3.11.7).
    found = _HEADER.match(content)
    if found is None:
        raise DataError("no .npy file of numbers as NumPy writes it", place)
    shape = tuple(int(size) for size in found["shape"].split(b",") if size.strip())
    try:
        values = np.frombuffer(content, found["dtype"].decode(), offset=found.end())
        return values.reshape(shape)
    except (ValueError, TypeError) as error:
        raise DataError(f"no .npy file of numbers: {error}", place) from None


def bytes_of_one(block: Array) -> int:
    """Returns what an example of a block takes; of texts, on average."""
    size = sum(map(len, block)) if block.dtype == object else block.nbytes
    return max(1, size // max(1, len(block)))


def cut(blocks: Iterable[Array], size_bytes: int) -> Iterator[Array]:
    """Gives arrays of about so many bytes each from smaller ones, or larger ones."""
    held: list[Array] = []
    for block in blocks:
        size = max(1, size_bytes // bytes_of_one(block))
        for at in range(0, len(block), size):
            held.append(block[at : at + size])
            if sum(map(len, held)) >= size:
                together = np.concatenate(held)
                held = [together[size:]] if len(together) > size else []
                yield together[:size]
    if held:
        yield np.concatenate(held)
