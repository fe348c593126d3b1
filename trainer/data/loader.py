"""Loads data sets by name, local path or gs:// path, in any of the registered formats."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import storage
from trainer.errors import DataError, Location, UsageError

if TYPE_CHECKING:
    from trainer.config import DataOptions, ReadOptions
    from trainer.data.dataset import Dataset, ImageLayout, RawSplits, ReadRequest, Source
    from trainer.data.listing import Candidate
    from trainer.data.shards.shard_format import Stream
    from trainer.data.tables.columns import Columns

SHIPPED = ("mnist", "movie_reviews")

_BUILTIN = Path(__file__).parent / "builtin"


def load(options: DataOptions, *, columns: Columns | None = None) -> Dataset:
    """Reads, checks and splits a data set.

    Args:
        options: which data, how its files are read, and how it is split; `data` must be set.
        columns: columns of tables, as a run was trained on; None if their content decides.

    Raises:
        UsageError: `options.data` is not set.
        DataError: the data is damaged, inconsistent or in no known format.
        StorageError: the path is missing or cannot be read.
    """
    # NumPy is not imported before the flags are checked.
    from trainer.data.dataset import Dataset

    if options.data is None:
        raise UsageError("--data: not given, expected a data set")
    raw = read(options.data, options, columns=columns)
    separate = {"validation": options.validation_data, "test": options.test_data}
    if raw.source is not None:
        columns = raw.source.columns
    for name, data in separate.items():
        if data is not None:
            other = read(data, options, columns=columns, layout=raw.layout)
            raw = _add_split(raw, name, data, other)
    with _locate(options.data):
        return Dataset.split(
            raw,
            seed=options.seed,
            validation_split=options.validation_split,
            fold=options.fold_of,
        )


def read(
    data: str,
    options: ReadOptions,
    *,
    needs_training: bool = True,
    columns: Columns | None = None,
    layout: ImageLayout | None = None,
) -> RawSplits:
    """Reads a data set without checking or splitting it.

    Args:
        data: name of a shipped data set, local path, gs://bucket/path, or a pattern of either.
        options: how its files are read.
        needs_training: whether a training split is required; otherwise a test split alone is read
            as unsplit data.
        columns: columns of tables, as a run was trained on; None if their content decides.
        layout: what image files are decoded to, as in training; None if their headers decide.

    Raises:
        DataError: the data is damaged, or in no known format.
        StorageError: the path is missing or cannot be read.
    """
    shards = _read_shards(data, options)
    if shards is not None:
        return shards
    with _open_files(
        data, options, needs_training=needs_training, columns=columns, layout=layout
    ) as (candidate, request, source):
        raw: RawSplits = candidate.format.read(candidate, request)
    source = _with_layout(source, raw.layout)
    whole_files = candidate.name == "class_folders" and _has_line_feeds(raw)
    return dataclasses.replace(raw, source=dataclasses.replace(source, whole_files=whole_files))


def _with_layout(source: Source, layout: ImageLayout | None) -> Source:
    """Returns how a data set was read, with what was done to its images."""
    if layout is None or not layout.note:
        return source
    return dataclasses.replace(source, summary=f"{source.summary}, {layout.note}")


def _has_line_feeds(raw: RawSplits) -> bool:
    """Returns whether the examples are texts, some of several lines."""
    splits = (raw.train, raw.validation, raw.test)
    return any(
        split is not None and split[0].dtype == object and any("\n" in text for text in split[0])
        for split in splits
    )


@contextlib.contextmanager
def open_stream(data: str, options: ReadOptions, *, shuffled: bool = False) -> Iterator[Stream]:
    """Yields a data set as a stream of blocks; reads it into memory if its format cannot stream.

    Args:
        data: as in `read`.
        options: as in `read`.
        shuffled: whether the examples come in the random order of `external_shuffle`; otherwise in
            the order of the files.

    Raises:
        DataError: as in `read`; damage within a block is raised when the block is read.
        StorageError: as in `read`.
    """
    shards = _read_shards(data, options)
    if shards is not None:
        with _locate(data):
            yield _stream_raw(shards, shuffled=shuffled)
        return
    with _open_files(data, options, shuffled=shuffled) as (candidate, request, source):
        module = candidate.format
        stream = module.stream(candidate, request) if hasattr(module, "stream") else None
        stream = stream or _stream_raw(module.read(candidate, request), shuffled=shuffled)
        yield dataclasses.replace(stream, source=_with_layout(source, stream.layout))


def _stream_raw(raw: RawSplits, *, shuffled: bool) -> Stream:
    """Checks splits that were read, and returns them as a stream."""
    from trainer.data import checks
    from trainer.data.dataset import check_splits
    from trainer.data.shards import shard_format

    splits = check_splits(raw)
    classes = raw.classes or checks.class_names(splits["train"].labels)
    for name, split in splits.items():
        checks.check_label_range(name, split.labels, classes)
    return shard_format.stream_splits(splits, classes, shuffle=shuffled)


def _read_shards(data: str, options: ReadOptions) -> RawSplits | None:
    """Returns a data set in shards; None if it is in another format."""
    from trainer.data.shards import shard_format
    from trainer.data.shards.cache import ShardCache

    if data in SHIPPED or storage.is_pattern(data):
        return None
    cache = None
    if options.cache_dir is not None and storage.is_remote(data):
        cache = ShardCache(options.cache_dir, int(options.cache_gb * 1e9))
    return shard_format.read(storage.folder(data), cache)


@contextlib.contextmanager
def _locate(data: str) -> Iterator[None]:
    """Adds the data set as the location of errors that have no location."""
    try:
        yield
    except DataError as error:
        raise error.at(Location(data)) from None


@contextlib.contextmanager
def _open_files(
    data: str,
    options: ReadOptions,
    *,
    needs_training: bool = True,
    shuffled: bool = False,
    columns: Columns | None = None,
    layout: ImageLayout | None = None,
) -> Iterator[tuple[Candidate, ReadRequest, Source]]:
    """Yields how the data is read from its local files, the request for its format, and its source.

    Files of a bucket are copied to a temporary folder; errors name their path in the bucket.
    """
    from trainer.data import discovery, listing
    from trainer.data.dataset import ReadRequest, Source

    path = str(_BUILTIN / data) if data in SHIPPED else data
    with storage.local_copy(path) as local:
        is_folder = local.is_dir() and not storage.is_pattern(path)
        folder = path if is_folder else path.rpartition("/")[0]
        request = ReadRequest(
            options=options,
            root=str(local) if is_folder else folder or ".",
            remote=storage.is_remote(path),
            needs_training=needs_training,
            shuffled=shuffled,
            columns=columns,
            layout=layout,
            original=lambda location: original(location),
        )

        def original(location: Location | None) -> Location:
            """Returns the location of the original for one in the temporary copy."""
            if location is None:
                return Location(data)
            is_copy = request.remote and isinstance(location.file, Path)
            if not is_copy:
                return location
            relative = Path(location.file).relative_to(local if is_folder else local.parent)
            return Location(f"{folder}/{relative.as_posix()}", location.row)

        try:
            files = listing.list_files(local, folder if request.remote else "", is_folder=is_folder)
            candidate = discovery.decide(files, request)
            source = Source(
                format=candidate.name,
                summary=candidate.summary,
                left_out="" if data in SHIPPED else discovery.left_out(candidate, files),
                columns=candidate.columns,
                encoding=options.encoding,
            )
            yield candidate, request, source
        except DataError as error:
            raise error.relocated(original) from None


def _add_split(raw: RawSplits, split: str, data: str, other: RawSplits) -> RawSplits:
    """Returns `raw` with the examples of another data set as its validation or test split.

    Args:
        raw: splits of --data.
        split: "validation" or "test".
        data: value of --validation-data or --test-data.
        other: the data set there, which must be unsplit.

    Raises:
        DataError: `raw` has this split already, `other` has several splits, or `other` has a class
            that the training split does not have.
    """
    from trainer.data.dataset import match_classes

    flag = f"--{split}-data {data}"
    if getattr(raw, split) is not None:
        raise DataError(f"{flag}: the data of --data has a {split} split of its own; give only one")
    if other.validation is not None or other.test is not None:
        raise DataError(f"{flag}: has several splits, expected unsplit data")
    examples, labels = other.train
    trained_on = raw.train[0].dtype
    if other.layout is not None and raw.layout is None and examples.dtype != trained_on:
        raise DataError(
            f"{flag}: holds image files, of {examples.dtype}, expected arrays of {trained_on} as "
            "in --data, since only arrays have the same scale"
        )
    if raw.classes and other.classes:
        try:
            match = match_classes(raw.classes, other.classes, integers=other.integer_labels)
            labels = match[labels]
        except DataError as error:
            raise DataError(f"{flag}: {error}, the classes of the training split") from None
    addition: dict[str, Any] = {split: (examples, labels)}
    return dataclasses.replace(raw, **addition)
