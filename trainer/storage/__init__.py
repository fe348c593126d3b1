"""Files in a local folder or a bucket, behind one interface. The only package that knows gs://.

Nothing here is visible under its final name before it is whole.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import io
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from trainer.errors import StorageError
from trainer.storage import _bucket, _local
from trainer.storage._faults import explained
from trainer.storage._local import matches as local_matches
from trainer.storage._paths import (
    PARTIAL,
    SCHEME,
    THREADS,
    crc32c,
    is_pattern,
    is_remote,
    is_temporary,
    matching,
)

__all__ = [
    "PARTIAL",
    "SCHEME",
    "THREADS",
    "File",
    "Folder",
    "crc32c",
    "explained",
    "files",
    "folder",
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
    "temporary_directory",
    "concurrent_map",
    "write_text",
]

_Thing = TypeVar("_Thing")
_Result = TypeVar("_Result")


class Folder(Protocol):
    """A folder, local or in a bucket. Names in it are relative, with `/` between their parts."""

    path: str

    def names(self) -> list[str]:
        """Returns the names of all files below the folder, sorted; [] if there is no folder."""

    def read(self, name: str) -> bytes | None:
        """Returns the content of a file, or None if there is no such file."""

    def write(self, name: str, source: Path, *, if_generation_match: int | None = None) -> int:
        """Copies a local file to `name`, replacing what is there in one instant.

        Args:
            name: where it goes.
            source: what goes there.
            if_generation_match: the version that must be there now, 0 for none; None for any. Local folders
                have no versions and take no notice.

        Returns:
            The version that is there now.

        Raises:
            ConflictError: another version is there than the one to replace.
        """

    def generation(self, name: str) -> int:
        """Returns a number that changes when a file is put anew; 0 if there is no such file."""

    def remove(self, name: str) -> None:
        """Removes a file; it is no error if there is none."""

    def check_writable(self) -> None:
        """Raises StorageError unless files can be made and removed here; leaves nothing behind."""


class File(Protocol):
    """A file, local or in a bucket, that can be read in pieces."""

    @property
    def path(self) -> str:
        """Where it is."""

    def read(self, max_bytes: int) -> bytes:
        """Returns its content.

        Raises:
            DataError: it is larger than `max_bytes`.
            StorageError: it is gone, or may not be read.
        """

    def open(self) -> contextlib.AbstractContextManager[io.BufferedReader]:
        """Gives a stream of its content, little of which is in memory at a time.

        Reading from it raises StorageError; at its end an TransientStorageError if what was read of an object
        does not match the object's CRC32C.

        Raises:
            StorageError: it is gone, or may not be read.
        """


def folder(path: str) -> Folder:
    """Returns the folder at a local path or gs://bucket/prefix; it need not exist yet.

    Raises:
        StorageError: the path is not of either form, or there are no credentials for gs://.
    """
    return _bucket.BucketFolder(path) if is_remote(path) else _local.LocalFolder(path)


def files(path: str) -> Iterator[File]:
    """Gives all files that a path stands for, in the order of their names, as they are found.

    Hidden ones below a folder, or that a pattern matches, are somebody else's.

    Args:
        path: a local file or folder, gs://bucket/path of an object or of all objects below a
            prefix, or a pattern in the last part of either.

    Raises:
        StorageError: nothing is there, or it may not be looked at.
    """
    found = False
    for file in _bucket.files(path) if is_remote(path) else _local.files(path):
        found = True
        yield file
    if not found:
        raise StorageError(f"{path}: no files there")


def parent(path: str) -> tuple[Folder, str]:
    """Returns the folder that a file, local or gs://, is in or goes to, and its name there.

    Raises:
        StorageError: the path cannot be that of a file.
    """
    place, _, name = path.rpartition("/")
    if is_remote(path) and (place + "/" == SCHEME or not name):
        raise StorageError(f"{path}: expected gs://bucket/path of a file")
    return folder(place or ("/" if path.startswith("/") else ".")), name


def read(path: str) -> bytes:
    """Returns the content of one file, local or gs://.

    Raises:
        StorageError: there is no such file, or it may not be read.
    """
    place, name = parent(path)
    content = place.read(name)
    if content is None:
        raise StorageError(f"{path}: no such file")
    return content


def read_all(paths: Sequence[str]) -> Iterator[bytes]:
    """Gives the contents of many files, in their order, several being read at a time.

    Raises:
        StorageError: as `read`.
    """
    return concurrent_map(read, paths)


def concurrent_map(
    work: Callable[[_Thing], _Result], things: Iterable[_Thing], *, threads: int = THREADS
) -> Iterator[_Result]:
    """Gives what `work` returns of each thing, in their order, in several threads, a bit ahead."""
    rest = iter(things)
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        # Not all at once, as `pool.map`: what is done and not taken yet is in memory.
        begun = collections.deque(
            pool.submit(work, thing) for thing in itertools.islice(rest, 2 * threads)
        )
        while begun:
            result = begun.popleft().result()
            begun.extend(pool.submit(work, thing) for thing in itertools.islice(rest, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def read_text(path: str) -> str:
    """Returns the text of one file, local or gs://.

    Raises:
        StorageError: there is no such file, it may not be read, or it is not UTF-8.
    """
    try:
        return read(path).decode()
    except UnicodeDecodeError as error:
        raise StorageError(f"{path}: not UTF-8 text: {error}") from None


def write_text(path: str, text: str) -> None:
    """Writes one file, local or gs://, which replaces what is there in one instant.

    Raises:
        StorageError: it may not be written.
    """
    place, name = parent(path)
    with temporary_directory() as scratched:
        (scratched / "text").write_text(text, encoding="utf-8")
        place.write(name, scratched / "text")


def write_all(target: Folder, files: Mapping[str, Path]) -> None:
    """Puts local files into a folder, several at a time; all are there when it returns."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(target.write, files.keys(), files.values()))  # Raises what a put raised.


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    """Gives an empty local folder for what is put elsewhere afterwards; it is removed at the end.

    Raises:
        StorageError: the disk is full, or the folder for temporary files cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="trainer-") as place:
            yield Path(place)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise StorageError(
            f"temporary files in {tempfile.gettempdir()}: {reason}. TMPDIR names another folder"
        ) from error


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """Gives a local path with the content of `path`; a download is removed at the end.

    Args:
        path: a local file or folder, which is given as it is, or gs://bucket/path of an object
            or of all objects below a prefix; or a pattern in the last part of either, for the files
            that it matches. A local one is given as it is, too.

    Raises:
        StorageError: nothing is there, or it may not be read.
    """
    if not is_remote(path):
        if not os.path.exists(path) and not (is_pattern(path) and local_matches(path)):
            raise StorageError(f"{path}: no such file or folder")
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="trainer-data-") as parent:
        yield _bucket.download(path, Path(parent))
