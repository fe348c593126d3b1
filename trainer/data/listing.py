"""Lists the files of a data set, and what of them a format would read."""

from __future__ import annotations

import errno
import functools
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import storage
from trainer.data import splits
from trainer.errors import DataError, Location

if TYPE_CHECKING:
    from trainer.data.tables.columns import Columns

_HIDDEN = (".", "__MACOSX")  # macOS adds the latter to archives.
# Written by desktops into every folder.
SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "icon\r"})
_NOTES = (
    "readme", "license", "licence", "licenses", "notice", "copying", "changelog", "citation",
    "changes", "authors", "attribution", "attributions", "requirements", "md5sum", "md5sums",
    "sha256sums", "checksums", "notes", "about", "credits", "contributing", "history",
)  # fmt: skip
_NOTE_SUFFIXES = frozenset({
    ".md", ".rst", ".pdf", ".html", ".htm", ".py", ".sh", ".ipynb", ".yaml", ".yml", ".toml",
    ".cfg", ".ini", ".xml", ".log", ".lock", ".md5", ".sha256", ".doc", ".docx", ".names",
})  # fmt: skip


@dataclass(frozen=True)
class Listing:
    """The files of a data set.

    Attributes:
        root: the folder that holds the data, below folders that hold nothing else.
        top: the folder that the user named; `root`, if files were named.
        files: all visible files of it and its subfolders, sorted; or the files that the user named.
        is_folder: whether the user named a folder, and not files.
        left_out: why other files are not in `files`.
        remote: name of `root` in a bucket; "" for local data.
    """

    root: Path
    top: Path
    files: tuple[Path, ...]
    is_folder: bool
    left_out: dict[Path, str] = field(default_factory=dict)
    remote: str = ""

    def relative(self, path: Path) -> tuple[str, ...]:
        """Returns the folders and the name of a file below `root`."""
        # Many times faster than Path.relative_to, which counts for 100,000 files.
        return tuple(str(path)[self._root_length :].split(os.sep))

    @functools.cached_property
    def _root_length(self) -> int:
        root = str(self.root)
        return 0 if root == "." else len(root.rstrip(os.sep)) + 1

    def split_of(self, file: Path) -> str | None:
        """Returns the split that the name of a file, or else of a folder around it, denotes."""
        folders = self.relative(file)[:-1] if self.is_folder else ()
        names = (file.name, *reversed(folders))
        return next(filter(None, map(splits.from_name, names)), None)

    def find(self, path: Path) -> Path | None:
        """Returns the file of a path, in whatever Unicode form its name is; None if none is."""
        return self._by_name.get(unicodedata.normalize("NFC", str(path)))

    @functools.cached_property
    def _by_name(self) -> dict[str, Path]:
        return {unicodedata.normalize("NFC", str(file)): file for file in self.files}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to read a data set.

    Attributes:
        format: module that reads it.
        files: files that are read.
        evidence: 3 if the content shows that the files are of this format, 2 if their names and
            layout do, 1 if nothing contradicts it, 0 if the format can only say what is wrong.
        summary: what is read, for the user.
        left_out: why other files that the format could read are left out.
        plan: what the module needs to read the files.
        columns: columns of tables that are read; None for other data.
        error: why they cannot be read; None if they can.
    """

    format: Any
    files: tuple[Path, ...]
    evidence: int
    summary: str
    left_out: dict[Path, str] = field(default_factory=dict)
    plan: Any = None
    columns: Columns | None = None
    error: DataError | None = None

    @property
    def name(self) -> str:
        """Value of --data-format."""
        name: str = self.format.__name__.rpartition(".")[2]
        return name


def list_files(path: Path, remote: str = "", *, is_folder: bool = True) -> Listing:
    """Lists the files of a data set.

    Follows links, as users build data sets from them; a link to nothing is left out.

    Args:
        path: a folder, a file, or a pattern of file names.
        remote: name of `path` in a bucket, if it is a copy; its folder if `path` is a file.
        is_folder: whether a folder stands for a folder, and not for copies of files that match a
            pattern.

    Raises:
        DataError: there is neither a file nor a folder.
    """
    if storage.is_pattern(path.name) and not path.exists():
        matches = tuple(storage.local_matches(str(path)))
        return Listing(path.parent, path.parent, matches, False, remote=remote)
    if not path.is_dir():
        if not path.is_file():  # Reading a pipe could block forever, and /dev/zero has no end.
            problem = "a link to nothing" if path.is_symlink() else "neither a file nor a folder"
            raise DataError(f"found {problem}, expected a file or a folder", Location(path))
        return Listing(path.parent, path.parent, (path,), False, remote=remote)
    left_out: dict[Path, str] = {}
    # In the order of paths, as a bucket's folders have it, and not of their characters.
    names = sorted(_walk(path, left_out, frozenset()), key=lambda name: name.split(os.sep))
    files = [Path(name) for name in names]
    root = _data_root(path, files)
    remote_root = "/".join([remote, *root.relative_to(path).parts]) if remote else ""
    if not is_folder:
        return Listing(path, path, tuple(files), False, left_out, remote)
    return Listing(root, path, tuple(files), True, left_out, remote_root)


def _walk(
    folder: Path, left_out: dict[Path, str], around: frozenset[tuple[int, int]]
) -> Iterator[str]:
    """Yields the data files below a folder; `around` identifies the folders that it is in."""
    state = folder.stat()
    identity = (state.st_dev, state.st_ino)
    if identity in around:
        left_out[folder] = "a link to a folder around it"
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(_HIDDEN):
                if entry.is_dir():
                    left_out[Path(entry.path)] = "hidden"
                continue
            if _is_loop(entry):
                left_out[Path(entry.path)] = "a link to itself"
            elif entry.is_dir():
                yield from _walk(Path(entry.path), left_out, around | {identity})
            elif not entry.is_file():
                kind = "a link to nothing" if entry.is_symlink() else "not a file"
                left_out[Path(entry.path)] = kind
            elif name.lower() in SYSTEM_FILES:
                continue
            elif is_note(name):
                left_out[Path(entry.path)] = "notes"
            else:
                yield entry.path


def _is_loop(entry: os.DirEntry[str]) -> bool:
    """Returns whether a link leads to itself."""
    try:
        entry.is_file()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return True
        raise
    return False


def is_note(name: str) -> bool:
    """Returns whether a file is about the data, and no data, by its name."""
    suffix = os.path.splitext(name.lower())[1]
    stem = name.lower().partition(".")[0]
    return suffix in _NOTE_SUFFIXES or (stem in _NOTES and suffix in ("", ".txt"))


def _data_root(folder: Path, files: list[Path]) -> Path:
    """Returns the innermost folder that holds all files, unless its name is that of a split."""
    while files:
        start = 0 if str(folder) == "." else len(str(folder).rstrip(os.sep)) + 1
        tops = {str(file)[start:].partition(os.sep)[0] for file in files}
        (top,) = tops if len(tops) == 1 else ("",)
        inner = folder / top
        if not top or inner in files or splits.from_name(top) is not None:
            break
        if not any(len(file.relative_to(inner).parts) > 1 for file in files) and any(
            _is_class_member(file) for file in files
        ):
            break  # A single class.
        folder = inner
    return folder


def _is_class_member(file: Path) -> bool:
    """Returns whether a file is an image or text, whose folder may be its class."""
    from trainer.data.formats import images

    return images.is_image_name(file.name) or file.suffix.lower() in (".txt", "")
