"""What is trained on: data sets by name, path or gs://, in any of the registered formats."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import storage
from trainer.errors import DataError, Location

if TYPE_CHECKING:
    from trainer.data.dataset import Dataset, RawSplits, ReadOptions
    from trainer.data.shards.shard_format import Stream

SHIPPED = ("mnist", "movie_reviews")

# One module a format, tried in this order. Each has `NAME`, what it reads in words;
# `recognises(files)`; `read(files, options)`, which returns a RawSplits; and perhaps `stream`.
FORMATS = ("idx", "npz", "sparse", "text", "pickle", "table", "vertex_jsonl")
# The same for data that lies in folders below the one that is given.
NESTED_FORMATS = ("class_folders",)

_FORMATS_PACKAGE = "trainer.data.formats"
_HIDDEN = (".", "__MACOSX")  # The latter is what a Mac puts into archives.
_BUILTIN = Path(__file__).parent / "builtin"


def load(
    data: str,
    *,
    seed: int,
    validation: float = 0.0,
    fold: tuple[int, int] | None = None,
    validation_data: str | None = None,
    test_data: str | None = None,
    allow_pickle: bool = False,
    image_size: int | None = None,
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    cache_dir: str | None = None,
    cache_bytes: int = 0,
) -> Dataset:
    """Reads, checks and splits a data set.

    Args:
        data: name of a shipped set, or local path, or gs://bucket/path, or a pattern of either.
        seed: decides which examples are held out.
        validation: part of the training examples held out for validation, 0 to below 1.
        fold: (n, of) for the n-th, from 1, of so many folds of the training examples as test part.
        validation_data: where the validation part is, if it lies apart; as `data`.
        test_data: where the test part is, if it lies apart; as `data`.
        allow_pickle: whether a pickle may be read, by an unpickler that admits arrays only.
        image_size: pixels a side that images in files of their own are brought to.
        text_column: of a table, the column that holds texts; guessed, if left out.
        image_column: of a table, the column that holds images or paths of such.
        label_column: of a table, the column that holds classes; guessed, if left out.
        cache_dir: a local folder that keeps files of shards in a bucket.
        cache_bytes: what it may hold.

    Raises:
        DataError: the data is damaged, inconsistent or in no known format.
        StorageError: the path is missing or may not be read.
    """
    # NumPy is not imported before the flags are checked.
    from trainer.data.dataset import Dataset, ReadOptions
    from trainer.data.shards.cache import Cache

    options = ReadOptions(
        allow_pickle=allow_pickle,
        image_size=image_size,
        text_column=text_column,
        image_column=image_column,
        label_column=label_column,
        cache=Cache(cache_dir, cache_bytes) if cache_dir else None,
    )
    source = read(data, options)
    for part, place in (("validation", validation_data), ("test", test_data)):
        if place is not None:
            source = _with_part(source, part, place, read(place, options))
    with _about(data):
        return Dataset.split(source, seed=seed, validation=validation, fold=fold)


def read(data: str, options: ReadOptions) -> RawSplits:
    """Reads a data set, which is neither checked nor split yet.

    Args:
        data: name of a shipped set, or local path, or gs://bucket/path, or a pattern of either.
        options: how its files are to be read.

    Raises:
        DataError: it is damaged, or in no known format.
        StorageError: the path is missing or may not be read.
    """
    source = _shards(data, options)
    if source is not None:
        return source
    with _opened(data, options) as (module, files, options):
        found: RawSplits = module.read(files, options)
    return found


@contextlib.contextmanager
def streamed(data: str, options: ReadOptions) -> Iterator[Stream]:
    """Gives a data set piece by piece; one whose format cannot be read so is read before that.

    Takes and raises what `read` does, and is checked; but what is damaged may show not before its
    piece is asked for.
    """
    from trainer.data import checks
    from trainer.data.dataset import checked
    from trainer.data.shards import shard_format

    def whole(source: RawSplits) -> Stream:
        parts = checked(source)
        classes = source.classes or checks.class_names(parts["train"].labels)
        for name, part in parts.items():
            checks.check_known(name, part.labels, classes)
        return shard_format.of_parts(parts, classes, mix=options.mixed)

    source = _shards(data, options)
    if source is not None:
        with _about(data):
            yield whole(source)
        return
    with _opened(data, options) as (module, files, options):
        stream = module.stream(files, options) if hasattr(module, "stream") else None
        yield stream or whole(module.read(files, options))


def _shards(data: str, options: ReadOptions) -> RawSplits | None:
    """Returns a data set that is shards; None if it is not."""
    from trainer.data.shards import shard_format

    if data in SHIPPED or storage.is_pattern(data):
        return None
    cache = options.cache if storage.is_remote(data) else None
    return shard_format.source(storage.folder(data), cache)


@contextlib.contextmanager
def _about(data: str) -> Iterator[None]:
    """Gives errors that are about no file the data as their place."""
    try:
        yield
    except DataError as error:
        raise error.at(Location(data)) from None


@contextlib.contextmanager
def _opened(data: str, options: ReadOptions) -> Iterator[tuple[Any, list[Path], ReadOptions]]:
    """Gives the module of a data set's format, its files, and how they are to be read."""
    path = str(_BUILTIN / data) if data in SHIPPED else data
    with storage.local_copy(path) as local:
        whole = local.is_dir() and not storage.is_pattern(path)
        folder = path if whole else path.rpartition("/")[0]
        options = dataclasses.replace(
            options,
            root=str(local) if whole else folder or ".",
            remote=storage.is_remote(path),
        )

        def as_given(place: Location | None) -> Location:
            """Returns a place in the copy as the user knows it."""
            if place is None:
                return Location(data)
            copied = options.remote and isinstance(place.file, Path)
            if not copied:
                return place
            within = Path(place.file).relative_to(local if whole else local.parent)
            return Location(f"{folder}/{within.as_posix()}", place.row)

        try:
            module, files = _recognise(local)
            yield module, files, options
        except DataError as error:
            raise error.moved(as_given) from None


def _with_part(source: RawSplits, name: str, place: str, other: RawSplits) -> RawSplits:
    """Returns the source with the examples of another one as its validation or test part.

    Raises:
        DataError: there are two such parts then, or labels that training does not know.
    """
    from trainer.data.dataset import numbers_in

    flag = f"--{name}-data {place}"
    if getattr(source, name) is not None:
        raise DataError(f"{flag}: the data of --data has a {name} part of its own")
    if other.validation is not None or other.test is not None:
        raise DataError(f"{flag}: has several parts, expected data in one piece")
    examples, labels = other.train
    if source.classes and other.classes:
        try:
            labels = numbers_in(source.classes, other.classes)[labels]
        except DataError as error:
            raise DataError(f"{flag}: {error}, the classes of the training part") from None
    part: dict[str, Any] = {name: (examples, labels)}
    return dataclasses.replace(source, **part)


def _files(path: Path) -> list[Path]:
    """Returns the file itself, those that a pattern matches, or those directly in the folder.

    Hidden ones are somebody else's.
    """
    if storage.is_pattern(path.name) and not path.exists():
        return storage.local_matches(str(path))
    if not path.is_dir():
        if not path.is_file():  # A pipe would be waited for, and /dev/zero has no end.
            raise DataError("neither a file nor a folder", Location(path))
        return [path]
    return _within(path, path.iterdir())


def _within(folder: Path, paths: Iterable[Path]) -> list[Path]:
    """Returns the files among paths in a folder, sorted, without those that are hidden."""
    root = folder.resolve()
    files = []
    for path in paths:
        hidden = any(part.startswith(_HIDDEN) for part in path.relative_to(folder).parts)
        if hidden or not path.is_file():
            continue
        if not path.resolve().is_relative_to(root):
            raise DataError("a link that leads out of the data folder", Location(path))
        files.append(path)
    return sorted(files)


def _recognise(local: Path) -> tuple[Any, list[Path]]:
    """Returns the module of the first format that knows the files, and those files."""
    files = _files(local)
    modules = [importlib.import_module(f"{_FORMATS_PACKAGE}.{name}") for name in FORMATS]
    for module in modules:
        if module.recognises(files):
            return module, files
    nested = [importlib.import_module(f"{_FORMATS_PACKAGE}.{name}") for name in NESTED_FORMATS]
    below = _within(local, local.rglob("*")) if local.is_dir() else []
    for module in nested:
        if module.recognises(below):
            return module, below
    found = ", ".join(file.name for file in files[:5]) or "no files"
    raise DataError(
        f"no known format, found {found}. Expected one of: "
        f"{'; '.join(module.NAME for module in modules + nested)}."
    )
