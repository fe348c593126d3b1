"""Reads and writes files in local folders and Cloud Storage buckets behind one interface.

No other package knows gs://. A file appears under its final name only when it is complete.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import hashlib
import io
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from trainer.errors import StorageError
from trainer.runtime import temporary
from trainer.storage import _bucket, _local
from trainer.storage._bucket import set_billing_project
from trainer.storage._errors import disk_problem, is_local, translate_errors
from trainer.storage._local import matches as local_matches
from trainer.storage._paths import (
    MOUNT,
    PARTIAL,
    SCHEME,
    THREADS,
    crc32c,
    has_bucket,
    is_mounted,
    is_pattern,
    is_remote,
    is_temporary,
    matching,
)

__all__ = [
    "MOUNT",
    "PARTIAL",
    "SCHEME",
    "THREADS",
    "File",
    "Folder",
    "check_writable",
    "crc32c",
    "translate_errors",
    "files",
    "folder",
    "has_bucket",
    "is_mounted",
    "is_temporary",
    "is_pattern",
    "is_remote",
    "local_copy",
    "local_matches",
    "matching",
    "parent",
    "write_all",
    "read",
    "read_all",
    "read_text",
    "set_billing_project",
    "sha256",
    "temporary_directory",
    "concurrent_map",
    "describe_missing",
    "write_text",
]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Folder(Protocol):
    """A folder, local or in a bucket. File names are relative to it, separated by `/`."""

    path: str

    def names(self) -> list[str]:
        """Returns the names of all files below the folder, sorted; [] if it does not exist."""

    def read(self, name: str) -> bytes | None:
        """Returns the content of a file, or None if it does not exist."""

    def write(self, name: str, source: Path, *, if_generation_match: int | None = None) -> int:
        """Copies a local file to `name`; replaces an existing file atomically.

        Args:
            name: name of the file in this folder.
            source: local file to copy.
            if_generation_match: the generation that `name` must have now; 0: it must not exist;
                None: no condition. Local folders ignore it.

        Returns:
            The generation of the new file.

        Raises:
            ConflictError: the file has another generation.
        """

    def generation(self, name: str) -> int:
        """Returns a number that changes at each write of a file; 0 if it does not exist."""

    def remove(self, name: str) -> None:
        """Removes a file, if it exists."""

    def check_writable(self) -> None:
        """Raises StorageError unless files can be written and removed here; leaves none behind."""


class File(Protocol):
    """A file, local or in a bucket, that can be read whole or as a stream."""

    @property
    def path(self) -> str:
        """Local path or gs://bucket/name."""

    def read(self, max_bytes: int) -> bytes:
        """Returns the content.

        Raises:
            DataError: the file is larger than `max_bytes`.
            StorageError: the file no longer exists or may not be read.
        """

    def open(self) -> contextlib.AbstractContextManager[io.BufferedReader]:
        """Yields a stream of the content, at most some MB of which are in memory at a time.

        Reading from the stream raises StorageError; at the end of an object it raises
        TransientStorageError if the bytes read do not match the object's CRC32C.

        Raises:
            StorageError: the file no longer exists or may not be read.
        """


def folder(path: str) -> Folder:
    """Returns the folder at a local path or gs://bucket/prefix; it need not exist yet.

    Raises:
        StorageError: the path names no bucket, or there are no credentials for gs://.
    """
    return _bucket.BucketFolder(path) if is_remote(path) else _local.LocalFolder(path)


def files(path: str) -> Iterator[File]:
    """Yields all files that a path denotes, sorted by name, while they are listed.

    Hidden files below a folder, and those that a pattern matches, are left out.

    Args:
        path: a local file or folder, gs://bucket/path of an object or of a prefix of objects, or
            a path whose last component is a pattern.

    Raises:
        StorageError: the path denotes no file, or it may not be read.
    """
    empty = True
    for file in _bucket.files(path) if is_remote(path) else _local.files(path):
        empty = False
        yield file
    if empty:
        raise StorageError(f"{path}: no files there")


def check_writable(flag: str, folder: Folder) -> None:
    """Checks that files can be written to the folder that the user gave as the value of a flag.

    Raises:
        StorageError: they cannot; the message names the flag.
    """
    try:
        folder.check_writable()
    except StorageError as error:
        raise type(error)(f"{flag} {error}") from error


def parent(path: str) -> tuple[Folder, str]:
    """Returns the folder of a file, local or gs://, and the file's name in it.

    Raises:
        StorageError: the path is not that of a file.
    """
    directory, _, name = path.rpartition("/")
    if is_remote(path) and (directory + "/" == SCHEME or not name):
        raise StorageError(f"{path}: expected gs://bucket/path of a file")
    return folder(directory or ("/" if path.startswith("/") else ".")), name


def read(path: str) -> bytes:
    """Returns the content of one file, local or gs://.

    Raises:
        StorageError: the file does not exist or may not be read.
    """
    directory, name = parent(path)
    content = directory.read(name)
    if content is None:
        raise StorageError(f"{path}: {describe_missing(path)}")
    return content


def sha256(path: str | None) -> str | None:
    """Returns the SHA-256 of one file, local or gs://; None for None.

    Raises:
        StorageError: as `read`.
    """
    return None if path is None else hashlib.sha256(read(path)).hexdigest()


def describe_missing(path: str) -> str:
    """Returns why there is no file at a path: it does not exist, or a link leads nowhere."""
    return (not is_remote(path) and _local.find_dangling_link(path)) or "no such file"


def read_all(paths: Sequence[str]) -> Iterator[bytes]:
    """Yields the contents of many files in the given order; reads several at a time.

    Raises:
        StorageError: as `read`.
    """
    return concurrent_map(read, paths)


def concurrent_map(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, threads: int = THREADS
) -> Iterator[_Result]:
    """Yields `function(item)` for each item, in order, computed in several threads.

    At most 2 * `threads` results are pending, so `items` may be a long or unbounded iterator.
    """
    remaining = iter(items)
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        # `pool.map` would submit all items at once and keep all results in memory.
        futures = collections.deque(
            pool.submit(function, item) for item in itertools.islice(remaining, 2 * threads)
        )
        while futures:
            result = futures.popleft().result()
            futures.extend(pool.submit(function, item) for item in itertools.islice(remaining, 1))
            yield result
    finally:
        # Without waiting: a generator that was given up is closed by the garbage collector, in any
        # thread at any time, also while that thread holds the locks that waiting needs.
        pool.shutdown(wait=False, cancel_futures=True)


def read_text(path: str) -> str:
    """Returns the text of one UTF-8 file, local or gs://.

    Raises:
        StorageError: the file does not exist, may not be read, or is not UTF-8.
    """
    try:
        return read(path).decode()
    except UnicodeDecodeError as error:
        raise StorageError(f"{path}: not UTF-8 text: {error}") from None


def write_text(path: str, text: str) -> None:
    """Writes one file, local or gs://; replaces an existing file atomically.

    Raises:
        StorageError: the file may not be written.
    """
    directory, name = parent(path)
    with temporary_directory() as temporary:
        (temporary / "text").write_text(text, encoding="utf-8")
        directory.write(name, temporary / "text")


def write_all(target: Folder, files: Mapping[str, Path]) -> None:
    """Copies local files into a folder, several at a time; returns when all are written."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        list(
            pool.map(target.write, files.keys(), files.values())
        )  # Raises the first error of a write.


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    """Yields an empty local folder and removes it at the end.

    Raises:
        StorageError: the folder for temporary files is full or cannot be written.
    """
    root = temporary.root()
    try:
        with tempfile.TemporaryDirectory(prefix="trainer-", dir=root) as directory:
            yield Path(directory)
    except OSError as error:
        if not is_local(error):  # Such as that of a closed stdout.
            raise
        raise StorageError(disk_problem(error)) from error


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """Yields a local path with the content of `path`; removes a download at the end.

    Args:
        path: a local file, folder or pattern, which is yielded unchanged; or gs://bucket/path of
            an object, of a prefix of objects, or with a pattern as its last component.

    Raises:
        StorageError: the path denotes no file, or it may not be read.
    """
    if not is_remote(path):
        if not os.path.exists(path) and not (is_pattern(path) and local_matches(path)):
            raise StorageError(f"{path}: {_local.describe_missing(path)}")
        yield Path(path)
        return
    with contextlib.ExitStack() as stack:
        try:
            parent = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="trainer-data-", dir=temporary.root())
            )
        except OSError as error:
            raise StorageError(disk_problem(error)) from error
        yield _bucket.download(path, Path(parent))
