"""Local files. A file is written under a temporary name, synced and renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import pathlib
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import StorageError
from trainer.storage._errors import translate_errors
from trainer.storage._paths import (
    MAX_NAME_BYTES,
    PARTIAL,
    check_size,
    is_hidden,
    is_pattern,
    matching,
)


class LocalFolder:
    """The `Folder` of a local folder, which its first write creates."""

    def __init__(self, path: str) -> None:
        """Takes the path of the folder; reads nothing yet."""
        self.path = path
        self._root = Path(path)
        self._created = False  # True after the first write.

    def names(self) -> list[str]:
        with translate_errors(self.path):
            files = (path for path in self._root.rglob("*") if path.is_file())
            return sorted(path.relative_to(self._root).as_posix() for path in files)

    def read(self, name: str) -> bytes | None:
        with translate_errors(f"{self.path}/{name}"):
            try:
                return (self._root / name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                if problem := find_dangling_link(self.path):
                    raise StorageError(f"{self.path}: {problem}") from None
                return None

    def write(self, name: str, source: Path, *, if_generation_match: int | None = None) -> int:
        target = self._root / name
        partial = target.with_name(_partial_name(target.name))
        with translate_errors(str(target)):
            if self._created:  # If the folder was deleted meanwhile, raise; do not create it again.
                self._root.stat()
            target.parent.mkdir(parents=True, exist_ok=True)
            self._created = True
            try:
                shutil.copyfile(source, partial)
                _sync(partial)
                os.replace(partial, target)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            _sync_folder(target.parent)
        return self.generation(name)

    def generation(self, name: str) -> int:
        with translate_errors(f"{self.path}/{name}"):
            try:
                return (self._root / name).stat().st_mtime_ns
            except (FileNotFoundError, NotADirectoryError):
                return 0

    def remove(self, name: str) -> None:
        target = self._root / name
        with translate_errors(str(target)):
            target.unlink(missing_ok=True)
            for parent in target.relative_to(self._root).parents:
                with contextlib.suppress(OSError):  # The folder is not empty.
                    if parent != pathlib.PurePath("."):
                        (self._root / parent).rmdir()

    def check_writable(self) -> None:
        ancestor = self._root
        while not os.path.lexists(ancestor):
            ancestor = ancestor.parent
        if not ancestor.is_dir():
            is_file = "is a file" if ancestor == self._root else f"{ancestor} is a file"
            problem = find_dangling_link(str(ancestor)) or is_file
            raise StorageError(f"{self.path}: {problem}, expected a folder")
        # Write a file: os.access is true for root, and on a read-only file system.
        try:
            with tempfile.TemporaryFile(dir=ancestor):
                pass
        except OSError as error:
            raise StorageError(
                f"{self.path}: cannot be written: {error.strerror or error}; set another folder"
            ) from error


@dataclass(frozen=True)
class LocalFile:
    """The `File` of a local path.

    Attributes:
        path: of the file.
    """

    path: str

    def read(self, max_bytes: int) -> bytes:
        with self.open() as file, translate_errors(self.path):
            check_size(self.path, os.fstat(file.fileno()).st_size, max_bytes)
            return file.read()

    @contextlib.contextmanager
    def open(self) -> Iterator[io.BufferedReader]:
        with translate_errors(self.path):
            if problem := find_dangling_link(self.path):
                raise StorageError(f"{self.path}: {problem}")
            mode = os.stat(self.path).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # Opening a pipe would block.
                raise StorageError(f"{self.path}: neither a file nor a folder")
            file = open(self.path, "rb")  # For a folder that cannot be listed, raises the reason.
        with file:
            yield file


def files(path: str) -> Iterator[LocalFile]:
    if os.path.isdir(path):
        yield from _below(path)
    elif os.path.lexists(path):
        yield LocalFile(path)
    elif is_pattern(path):
        paths = map(str, matches(path))
        yield from (LocalFile(each) for each in paths if not is_hidden(os.path.basename(each)))
    else:
        raise StorageError(f"{path}: {describe_missing(path)}")


def describe_missing(path: str) -> str:
    """Returns why there is nothing at a path."""
    return find_dangling_link(path) or "no such file or folder"


def find_dangling_link(path: str) -> str:
    """Returns which part of a path is a link to nothing, and where it leads; "" if none is."""
    for part in (Path(path), *Path(path).parents):
        if part.is_symlink() and not part.exists():
            return f"{part} is a link to {os.readlink(part)}, which does not exist"
    return ""


def _below(folder: str) -> Iterator[LocalFile]:
    """Yields the files below a folder, in the order in which a bucket would list them."""
    try:
        with os.scandir(folder) as entries:
            # Links to folders are not followed, since they can form cycles; reading one raises.
            names = sorted(
                entry.name + "/" * entry.is_dir(follow_symlinks=False)
                for entry in entries
                if not is_hidden(entry.name)
            )
    except OSError:
        yield LocalFile(folder)
        return
    for name in names:
        path = os.path.join(folder, name)
        if name.endswith("/"):
            yield from _below(path)
        else:
            yield LocalFile(path)


def matches(pattern: str) -> list[Path]:
    """Returns the local files that match a pattern in the last component of a path, sorted."""
    parent = Path(pattern).parent
    if not parent.is_dir():
        return []
    names = (f"{parent}/{file.name}" for file in parent.iterdir() if file.is_file())
    return list(map(Path, matching(names, f"{parent}/{Path(pattern).name}")))


def _partial_name(name: str) -> str:
    """Returns the temporary name of a file that is being written; no longer than names may be."""
    partial = f".{name}{PARTIAL}"
    if len(os.fsencode(partial)) <= MAX_NAME_BYTES:
        return partial
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()}{PARTIAL}"


def _sync_folder(path: Path) -> None:
    """Writes the names of a folder to the disk, where the file system can do so."""
    try:
        _sync(path)
    except OSError as error:  # Not on SMB, vboxsf and some FUSE file systems.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
