"""Reads examples from many .npy files on demand, so that they need not fit into memory."""

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

from trainer.data.shards.cache import ShardCache
from trainer.errors import DataError, Location
from trainer.storage import Folder

Array = npt.NDArray[Any]  # The type of all arrays in this program.

_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(?P<dtype>[<|][uif]\d)', 'fortran_order': False, "
    rb"'shape': \((?P<shape>[\d, ]+)\), \} *\n",
    re.DOTALL,
)


@dataclass(frozen=True)
class Shard:
    """One file of examples.

    Attributes:
        file: name of the file in the folder.
        examples: number of examples.
        crc32c: CRC32C of the whole file, as Cloud Storage writes it.
    """

    file: str
    examples: int
    crc32c: str


@dataclass(frozen=True)
class Shards:
    """The examples of a split in files: an array (N, ...) that is indexed, and read on demand.

    Attributes:
        folder: folder of the files.
        files: the shards, in order.
        example: shape of one example.
        dtype: uint8 or float32.
        low: minimum value of the examples.
        high: maximum value of the examples.
        shuffle_block_bytes: size of a shuffle block in bytes; examples are shuffled within a block
            of randomly selected shards.
        cache: local cache of files from a bucket, if any.
        rows: numbers of the selected examples, ascending, int64 (N,); None for all.
        all_digests: digests of all examples from `digests.digest_examples`; None if unknown.
    """

    folder: Folder
    files: Sequence[Shard] = field(repr=False)
    example: tuple[int, ...]
    dtype: np.dtype[Any]
    low: float
    high: float
    shuffle_block_bytes: int
    cache: ShardCache | None = field(default=None, repr=False)
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
        """Number of axes, including that of the examples."""
        return 1 + len(self.example)

    @property
    def nbytes(self) -> int:
        """Memory for reading in order, in bytes: the current shuffle block and the next one."""
        return 2 * min(self.shuffle_block_bytes, len(self) * self.example_bytes)

    @property
    def example_bytes(self) -> int:
        """Size of one example in bytes."""
        return math.prod(self.example) * self.dtype.itemsize

    @property
    def digests(self) -> Array | None:
        """Digests of the selected examples, uint64 (N,); None if unknown."""
        if self.all_digests is None or self.rows is None:
            return self.all_digests
        return self.all_digests[self.rows]

    @property
    def starts(self) -> Array:
        """Number of each shard's first example, and the number of all examples: int64."""
        return np.cumsum([0, *(shard.examples for shard in self.files)])

    def __getitem__(self, rows: Any) -> Array:
        """Reads the examples at a slice, a row number, several row numbers, or a mask."""
        selected = np.atleast_1d(np.arange(len(self))[rows])
        examples = np.empty((len(selected), *self.example), self.dtype)
        numbers = selected if self.rows is None else self.rows[selected]
        starts = self.starts
        shard_of = np.searchsorted(starts, numbers, side="right") - 1
        for shard in np.unique(shard_of):
            within = shard_of == shard
            examples[within] = self._read_shard(int(shard))[numbers[within] - starts[shard]]
        return examples[0] if isinstance(rows, int | np.integer) else examples

    def __iter__(self) -> Iterator[Array]:
        """Yields the examples one by one; holds one shard in memory."""
        for block in self.blocks():
            yield from block

    def blocks(self) -> Iterator[Array]:
        """Yields the examples of one shard at a time: (n, ...)."""
        for start, end in self._limits(range(len(self.files))):
            if start < end:
                yield self[start:end]

    def select(self, mask: Array) -> Shards:
        """Returns the examples for which `mask`, bool (N,), is true; reads nothing."""
        numbers = np.arange(len(self)) if self.rows is None else self.rows
        return dataclasses.replace(self, rows=numbers[mask])

    def min(self) -> float:
        """Returns the minimum value of all shards."""
        return self.low

    def max(self) -> float:
        """Returns the maximum value of all shards."""
        return self.high

    def fingerprint(self) -> bytes:
        """Returns a digest of the selected examples, computed from the checksums of the files."""
        digest = hashlib.sha256()
        for shard in self.files:
            digest.update(f"{shard.examples} {shard.crc32c}\n".encode())
        if self.rows is not None:
            digest.update(self.rows.tobytes())
        return digest.digest()

    def shuffle_blocks(self, seed: int, epoch: int) -> Iterator[Array]:
        """Yields the order of an epoch: the row numbers of each shuffle block, int64.

        Puts the shards into a random order, groups them into shuffle blocks, and shuffles the
        examples within each. A pure function of its arguments and the shard sizes, as `Split.order`
        is.
        """
        generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        shards = generator.permutation(len(self.files)).tolist()
        size = self._shards_per_block()
        # The first block is small, because the first step waits until it is read.
        edges = [0, *range(math.ceil(size / 8), len(shards), size), len(shards)]
        for start, end in itertools.pairwise(edges):
            ranges = [np.arange(*limits) for limits in self._limits(shards[start:end])]
            rows = np.concatenate(ranges)
            if len(rows):
                yield generator.permutation(rows)

    def read(self, rows: Array, pool: concurrent.futures.Executor) -> Array:
        """Returns examples in the order of `rows`; reads several shards at a time.

        Args:
            rows: distinct row numbers, int64 (N,).
            pool: threads that read.
        """
        examples = np.empty((len(rows), *self.example), self.dtype)
        numbers = rows if self.rows is None else self.rows[rows]
        by_number = np.argsort(numbers)
        starts = self.starts
        limits = np.searchsorted(numbers[by_number], starts)

        def copy(shard: int) -> None:
            positions = by_number[limits[shard] : limits[shard + 1]]
            block = self._read_shard(shard)
            # A shard that is read whole needs no indexing: `positions` are in its order.
            whole = len(positions) == len(block)
            examples[positions] = block if whole else block[numbers[positions] - starts[shard]]

        needed = [shard for shard in range(len(self.files)) if limits[shard] < limits[shard + 1]]
        list(pool.map(copy, needed))  # Raises the first error of a read.
        return examples

    def _cached(self, shard: Shard) -> bytes | None:
        """Returns the content of a file from the cache; None if it is missing or damaged there."""
        content = None if self.cache is None else self.cache.get(_cache_key(shard))
        return content if content is not None and crc32c(content) == shard.crc32c else None

    def _shards_per_block(self) -> int:
        largest = max(shard.examples for shard in self.files) * self.example_bytes
        return max(1, self.shuffle_block_bytes // largest)

    def _limits(self, shards: Sequence[int]) -> list[tuple[int, int]]:
        """Returns for each shard the row number of its first example, and that after its last."""
        limits = self.starts if self.rows is None else np.searchsorted(self.rows, self.starts)
        return [(int(limits[shard]), int(limits[shard + 1])) for shard in shards]

    def _read_shard(self, number: int) -> Array:
        shard = self.files[number]
        location = Location(f"{self.folder.path}/{shard.file}")
        content = self._cached(shard)
        if content is None:
            content = self.folder.read(shard.file)
            if content is None:
                raise DataError("missing, though the index names it", location)
            if crc32c(content) != shard.crc32c:
                raise DataError("damaged: its CRC32C is not the one in the index", location)
            if self.cache is not None:
                self.cache.write(_cache_key(shard), content)
        examples = parse_npy(content, location)
        if examples.shape != (shard.examples, *self.example) or examples.dtype != self.dtype:
            raise DataError(
                f"{examples.dtype} of shape {examples.shape}, expected {self.dtype} of shape "
                f"{(shard.examples, *self.example)}",
                location,
            )
        return examples


def _cache_key(shard: Shard) -> str:
    # Base64 has slashes. Name and size are in the key because CRC32C alone would collide too often.
    return f"{shard.crc32c.replace('/', '_')}-{shard.examples}-{shard.file}"


def crc32c(content: bytes) -> str:
    """Returns the CRC32C of a file's content as Cloud Storage writes it."""
    return base64.b64encode(google_crc32c.Checksum(content).digest()).decode()


def parse_npy(content: bytes, location: Location) -> Array:
    """Returns the array of an .npy file, without a copy.

    Args:
        content: of the file.
        location: of the file.

    Raises:
        DataError: it is no .npy file of plain numbers, or it is truncated.
    """
    # np.load parses the header with Python's own parser, which sometimes fails while another
    # thread uses it, as TensorFlow does when it compiles (seen with CPython 3.11.7).
    header = _HEADER.match(content)
    if header is None:
        raise DataError("not an .npy file of numbers as NumPy writes it", location)
    shape = tuple(int(size) for size in header["shape"].split(b",") if size.strip())
    try:
        values = np.frombuffer(content, header["dtype"].decode(), offset=header.end())
        return values.reshape(shape)
    except (ValueError, TypeError) as error:
        raise DataError(f"not an .npy file of numbers: {error}", location) from None


def bytes_per_example(block: Array) -> int:
    """Returns the size of one example of a block in bytes; for texts, the mean in characters."""
    size = sum(map(len, block)) if block.dtype == object else block.nbytes
    return max(1, size // max(1, len(block)))


def rechunk(blocks: Iterable[Array], size_bytes: int) -> Iterator[Array]:
    """Yields the same examples in blocks of about `size_bytes`."""
    pending: list[Array] = []
    for block in blocks:
        size = max(1, size_bytes // bytes_per_example(block))
        for start in range(0, len(block), size):
            pending.append(block[start : start + size])
            if sum(map(len, pending)) >= size:
                joined = np.concatenate(pending)
                pending = [joined[size:]] if len(joined) > size else []
                yield joined[:size]
    if pending:
        yield np.concatenate(pending)
