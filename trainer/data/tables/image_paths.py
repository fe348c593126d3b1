"""Finds the image files that the rows of a table name."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from trainer import storage
from trainer.data import splits
from trainer.data.dataset import ReadRequest
from trainer.data.formats import images
from trainer.data.listing import Listing
from trainer.data.tables.columns import Profile
from trainer.errors import DataError, Location

_MAX_FOLDERS = 2000
_MIN_FOUND = 0.9


class AmbiguousPathsError(DataError):
    """A table names images of several folders equally well."""


@dataclass(frozen=True)
class ImagePaths:
    """Turns the paths that a table names into files.

    Tables name images below their own folder, below the data folder, or below a folder that the
    table leaves out, with or without an extension.

    Attributes:
        listing: the files of the data set.
        request: how they are read.
        folder: folder, below the root of the data, that the paths are below.
        suffix: extension that the paths lack.
        by_name: files by their names, or by their names without extension, if the images are in
            several folders that the table leaves out.
        of_tables: places of the images of single tables, where they differ.
    """

    listing: Listing
    request: ReadRequest
    folder: str = ""
    suffix: str = ""
    by_name: Mapping[str, Path] | None = None
    of_tables: Mapping[Path, ImagePaths] = field(default_factory=dict)

    @classmethod
    def find(
        cls, column: Profile, table: Path, listing: Listing, request: ReadRequest, *, certain: bool
    ) -> ImagePaths | None:
        """Returns how the values of a column name images; None if they do not.

        Args:
            column: names, or nine in ten of them, must be those of images that are there.
            table: the table that has the column.
            listing: the files of the data set.
            request: how they are read.
            certain: whether the column names images in any case, of which some may be missing.
        """
        values = column.samples
        if any(storage.is_remote(value) for value in values):
            return cls(listing, request)
        best, best_count = None, 0
        split = listing.split_of(table)
        own = os.path.relpath(table.parent, listing.root) if listing.is_folder else "."
        own = "" if own == "." else own
        for folder, suffix in _places(own, listing, values, split):
            paths = cls(listing, request, folder, suffix)
            count = sum(paths.exists(value) for value in values)
            if best is not None and count == best_count == len(values):
                _check_same(best, paths, values)
            if count > best_count:
                best, best_count = paths, count
            # Only folders beside the table that belong to no split can be mistaken for others.
            certain_place = folder in ("", own) or _split_of_folder(folder) is not None
            if count == len(values) and certain_place:
                break
        if best_count < _MIN_FOUND * len(values):
            paths = cls(listing, request, by_name=_by_name(listing, values))
            count = sum(paths.exists(value) for value in values)
            if count > best_count:
                best, best_count = paths, count
        if certain and best is None and request.remote:
            return cls(listing, request)  # The rows decide: the images may not be copied yet.
        return best if certain or best_count >= _MIN_FOUND * len(values) else None

    def exists(self, value: str) -> bool:
        """Returns whether there is a file for a value of the column."""
        return self._file(value) is not None

    def resolve(self, value: str, location: Location) -> Path | str:
        """Returns the image that a row names: a Path if local, a str in a bucket.

        Raises:
            DataError: there is none.
        """
        if isinstance(location.file, Path) and location.file in self.of_tables:
            return self.of_tables[location.file].resolve(value, Location(str(location.file)))
        value = value.strip()
        if storage.is_remote(value):
            return value
        # A table from elsewhere must not read local files of this machine.
        if self.request.remote and (value.startswith("/") or ".." in value.split("/")):
            raise DataError(
                f"{value}: expected {storage.SCHEME}bucket/path, or a path below the data", location
            )
        path = self._file(value)
        if path is not None:
            return path
        if self.request.remote and not self.listing.is_folder:
            return f"{self.listing.remote}/{value}{self.suffix}"
        raise DataError(f"no such file: {value}")

    def _file(self, value: str) -> Path | None:
        if self.by_name is not None:
            return self.by_name.get(value)
        path = Path(self.listing.root, self.folder, value.replace("\\", "/") + self.suffix)
        located = self.listing.find(path)
        is_listed = self.listing.is_folder and not value.startswith("/")
        if located is None and not self.request.remote and not is_listed:
            # A table that was given without its folder. macOS stores "é" as two characters.
            forms = (
                str(path),
                *(unicodedata.normalize(form, str(path)) for form in ("NFC", "NFD")),
            )
            located = next((Path(form) for form in forms if os.path.isfile(form)), None)
        return located


def _places(
    own: str, listing: Listing, values: list[str], split: str | None
) -> Iterator[tuple[str, str]]:
    """Yields the folders and extensions that could make the paths complete, likely ones first."""
    files = listing.files if listing.is_folder else _beside(listing.root)
    pictures = [file for file in files if images.is_image_name(file.name)]
    folders = {os.path.relpath(file.parent, listing.root) for file in pictures[:100_000]}
    # Folders above those of the images, too.
    for folder in list(folders):
        folders.update(str(parent) for parent in PurePosixPath(folder).parents)
    suffixes = sorted({file.suffix for file in pictures})
    bare = not any(images.is_image_name(value) for value in values)
    # Folders of the split of the table before those of others: test/1.jpg is not train/1.jpg.
    split_of = {folder: _split_of_folder(folder) for folder in folders}
    by_split = sorted(folders, key=lambda folder: (split_of[folder] != (split or "train"), folder))
    ordered = [own, "", *by_split[:_MAX_FOLDERS]]
    for suffix in suffixes if bare else [""]:
        for folder in dict.fromkeys("" if folder == "." else folder for folder in ordered):
            yield folder, suffix


def _check_same(best: ImagePaths, other: ImagePaths, values: list[str]) -> None:
    """Raises AmbiguousPathsError if a table names images of two folders equally well."""
    if best.suffix == other.suffix and _split_of_folder(other.folder) is None:
        raise AmbiguousPathsError(
            f"the table names images both in {best.folder}/ and in {other.folder}/, for example "
            f"{values[0]!r}; put the folder into the paths, or move the other one elsewhere"
        )


def _split_of_folder(folder: str) -> str | None:
    return next(filter(None, map(splits.from_name, PurePosixPath(folder).parts)), None)


def _by_name(listing: Listing, values: list[str]) -> dict[str, Path]:
    """Returns the images by their names, without extension if the values have none."""
    bare = not any(images.is_image_name(value) for value in values)
    found: dict[str, Path] = {}
    for file in listing.files:
        if images.is_image_name(file.name):
            name = file.stem if bare else file.name
            if name in found:
                return {}  # Not unique.
            found[name] = file
    return found


def _beside(folder: Path) -> list[Path]:
    """Returns the images beside a table that was given without its folder."""
    located = itertools.chain(folder.glob("*"), folder.glob("*/*"), folder.glob("*/*/*"))
    return list(itertools.islice((path for path in located if path.is_file()), 100_000))
