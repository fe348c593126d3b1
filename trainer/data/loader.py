"""What is trained on: data sets by name, path or gs://, in any of the registered formats."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import storage
from trainer.errors import DataError, Location, UsageError

if TYPE_CHECKING:
    from trainer.config import DataOptions, ReadOptions
    from trainer.data.dataset import Dataset, RawSplits, ReadRequest
    from trainer.data.shards.shard_format import Stream

SHIPPED = ("mnist", "movie_reviews")

# One module a format, tried in this order. Each has `NAME`, what it reads in words;
# `recognises(files)`; `read(files, request)`, which returns a RawSplits; and perhaps `stream`.
FORMATS = ("idx", "npz", "sparse", "text", "pickle", "table", "vertex_jsonl")
# The same for data that lies in folders below the one that is given.
NESTED_FORMATS = ("class_folders",)

_FORMATS_PACKAGE = "trainer.data.formats"
_HIDDEN = (".", "__MACOSX")  # The latter is what a Mac puts into archives.
_BUILTIN = Path(__file__).parent / "builtin"


def load(options: DataOptions) -> Dataset:
    """Reads, checks and splits a data set.

    Args:
        options: which data, how its files are read, and how it is split; `data` must be given.

    Raises:
        DataError: the data is damaged, inconsistent or in no known format.
        StorageError: the path is missing or may not be read.
    """
    # NumPy is not imported before the flags are checked.
    from trainer.data.dataset import Dataset

    if options.data is None:
        raise UsageError("--data: not given, expected a data set")
    splits = read(options.data, options)
    separate = {"validation": options.validation_data, "test": options.test_data}
    for name, data in separate.items():
        if data is not None:
            splits = _with_split(splits, name, data, read(data, options))
    with _locate(options.data):
        return Dataset.split(
            splits,
            seed=options.seed,
            validation_split=options.validation_split,
            fold=options.fold_of,
        )


def read(data: str, options: ReadOptions, *, needs_training: bool = True) -> RawSplits:
    """Reads a data set without checking or splitting it.

    Args:
        data: name of a shipped set, local path, gs://bucket/path, or a pattern of either.
        options: how its files are read.
        needs_training: whether a training split is required; otherwise a test split alone is read
            as unsplit data.

    Raises:
        DataError: the data is damaged, or in no known format.
        StorageError: the path is missing or may not be read.
    """
    splits = _shards(data, options)
    if splits is not None:
        return splits
    with _opened(data, options, needs_training=needs_training) as (module, files, request):
        found: RawSplits = module.read(files, request)
    return found


@contextlib.contextmanager
def streamed(data: str, options: ReadOptions, *, shuffled: bool = False) -> Iterator[Stream]:
    """Yields a data set as a stream of blocks; a format that cannot stream is read first.

    Args:
        data: as in `read`.
        options: as in `read`.
        shuffled: whether the examples come in the order of `external_shuffle`, and not in that of
            the files.

    Raises:
        DataError: as in `read`; damage within a block is raised when the block is read.
        StorageError: as in `read`.
    """
    from trainer.data import checks
    from trainer.data.dataset import checked
    from trainer.data.shards import shard_format

    def whole(raw: RawSplits) -> Stream:
        splits = checked(raw)
        classes = raw.classes or checks.class_names(splits["train"].labels)
        for name, split in splits.items():
            checks.check_known(name, split.labels, classes)
        return shard_format.of_parts(splits, classes, mix=shuffled)

    shards = _shards(data, options)
    if shards is not None:
        with _locate(data):
            yield whole(shards)
        return
    with _opened(data, options, shuffled=shuffled) as (module, files, request):
        stream = module.stream(files, request) if hasattr(module, "stream") else None
        yield stream or whole(module.read(files, request))


def _shards(data: str, options: ReadOptions) -> RawSplits | None:
    """Returns a data set of shards; None if it is in another format."""
    from trainer.data.shards import shard_format
    from trainer.data.shards.cache import Cache

    if data in SHIPPED or storage.is_pattern(data):
        return None
    cache = None
    if options.cache_dir is not None and storage.is_remote(data):
        cache = Cache(options.cache_dir, int(options.cache_gb * 1e9))
    return shard_format.source(storage.folder(data), cache)


@contextlib.contextmanager
def _locate(data: str) -> Iterator[None]:
    """Sets the location of errors that have none to the data."""
    try:
        yield
    except DataError as error:
        raise error.at(Location(data)) from None


@contextlib.contextmanager
def _opened(
    data: str, options: ReadOptions, *, needs_training: bool = True, shuffled: bool = False
) -> Iterator[tuple[Any, list[Path], ReadRequest]]:
    """Yields the module of a data set's format, its files, and the request for it."""
    from trainer.data.dataset import ReadRequest

    path = str(_BUILTIN / data) if data in SHIPPED else data
    with storage.local_copy(path) as local:
        whole = local.is_dir() and not storage.is_pattern(path)
        folder = path if whole else path.rpartition("/")[0]
        request = ReadRequest(
            options=options,
            root=str(local) if whole else folder or ".",
            remote=storage.is_remote(path),
            needs_training=needs_training,
            shuffled=shuffled,
        )

        def as_given(place: Location | None) -> Location:
            """Returns a place in the copy as the user knows it."""
            if place is None:
                return Location(data)
            copied = request.remote and isinstance(place.file, Path)
            if not copied:
                return place
            within = Path(place.file).relative_to(local if whole else local.parent)
            return Location(f"{folder}/{within.as_posix()}", place.row)

        try:
            module, files = _recognise(local)
            yield module, files, request
        except DataError as error:
            raise error.moved(as_given) from None


def _with_split(source: RawSplits, name: str, place: str, other: RawSplits) -> RawSplits:
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
