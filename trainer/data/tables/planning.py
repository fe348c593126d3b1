"""Decides which tables of a data set are read, and which columns of them."""

from __future__ import annotations

import dataclasses
import filecmp
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import ReadOptions
from trainer.data import splits
from trainer.data.dataset import ReadRequest
from trainer.data.formats import images
from trainer.data.listing import Listing
from trainer.data.tables import columns as column_types
from trainer.data.tables import delimited, rows
from trainer.data.tables.columns import Columns, Profile
from trainer.data.tables.image_paths import AmbiguousPathsError, ImagePaths
from trainer.errors import DataError, Location

# The rows that decide what a column holds.
_PROFILED_ROWS = 10_000
_PROFILED_BYTES = 64 << 20
_HEADER_ROWS = 50
_COPY = re.compile(r"( \(\d+\)| copy)$")
_ANSWERS = frozenset({"submission", "submissions", "prediction", "predictions", "solution"})


@dataclass(frozen=True)
class Plan:
    """How tables are read.

    Attributes:
        tables: the files, with the split of each; None if the rows or nothing says it.
        columns: what is read of each row.
        paths: finds the images that rows name; None for other data.
        labels: what the column of labels holds.
    """

    tables: tuple[tuple[Path, str | None], ...]
    columns: Columns
    paths: ImagePaths | None
    labels: LabelKind


@dataclass(frozen=True)
class LabelKind:
    """What the column of labels holds.

    Attributes:
        one_hot: whether lists are one-hot: all of one length.
        unlabelled: names that stand for no label.
    """

    one_hot: bool = True
    unlabelled: frozenset[str] = frozenset()

    @classmethod
    def of(cls, profile: Profile | None) -> LabelKind:
        """Returns the kind of a column's cells."""
        if profile is None:
            return cls()
        values = {value.strip() for value in profile.values or ()}
        # -1 beside 0, 1, 2 or beside names; beside 1 alone it is a class.
        marks = values & {"-1", "-1.0"}
        are_signs = values <= {"-1", "0", "1", "-1.0", "0.0", "1.0"}
        return cls(len(profile.list_lengths) <= 1, frozenset() if are_signs else frozenset(marks))


@dataclass(frozen=True)
class _Choice:
    """Training tables of one header, and what is read of them.

    Attributes:
        tables: the files.
        columns: their columns.
        paths: finds the images that rows name; None for other data.
        labels: what the column of labels holds.
    """

    tables: list[Path]
    columns: Columns
    paths: ImagePaths | None
    labels: LabelKind


def make_plan(
    tables: Sequence[Path], listing: Listing, request: ReadRequest
) -> tuple[Plan, dict[Path, str]]:
    """Returns how tables are read, and why others are left out.

    Raises:
        DataError: a table is damaged, or its columns are not clear.
    """
    left_out: dict[Path, str] = {}
    headers: dict[Path, frozenset[str]] = {}
    for table in tables:
        try:
            headers[table] = _header(table, request)
        except DataError as error:
            if rows.inner_suffix(table) != ".json" or len(tables) == 1:
                raise
            left_out[table] = f"no table: {error.problem}"
    split_of = {table: listing.split_of(table) for table in headers}
    answers = [table for table, split in split_of.items() if split is None and _is_answer(table)]
    if len(answers) < len(split_of):
        left_out |= {table: "a submission, by its name" for table in answers}
    split_of = {table: split for table, split in split_of.items() if table not in left_out}
    training = [table for table, split in split_of.items() if split == "train"]
    unnamed = [table for table, split in split_of.items() if split is None]
    if training:
        left_out |= {table: "not named as a split, beside others that are" for table in unnamed}
    else:
        training = unnamed or list(headers)
    if request.columns is not None:
        columns = _columns_of_run(request.columns, headers, request, left_out)
        tables = [table for table in headers if table not in left_out]
        columns = _without_absent(columns, [headers[table] for table in tables])
        paths = _image_paths(columns, tables, listing, request)
        used = [(table, split_of[table]) for table in tables if table in split_of]
        return Plan(tuple(used), columns, paths, _label_kind(columns, tables, request)), left_out
    if not training:
        raise DataError("no table that can be read")
    choice = _choose_training(training, headers, listing, request, left_out)
    columns, paths = choice.columns, choice.paths
    used = []
    for table, split in split_of.items():
        missing = [name for name in columns.needed if name not in headers[table]]
        if table in choice.tables:
            used.append((table, split))
        elif table not in left_out and missing:
            left_out[table] = f"no column {missing[0]!r}"
        elif table not in left_out:
            used.append((table, split))
    if paths is not None:
        of_tables = {
            table: own for table, _ in used
            if (own := _image_paths(columns, [table], listing, request)) is not None
        }  # fmt: skip
        paths = dataclasses.replace(paths, of_tables=of_tables)
    return Plan(tuple(used), columns, paths, choice.labels), left_out


def is_table(file: Path, listing: Listing) -> bool:
    """Returns whether a file of a data set is a table, by its name, or by its content."""
    # Below the data folder, files without an extension are texts or images of a class.
    if images.is_image_name(file.name):
        return False
    bare = not file.suffix and (file.parent == listing.root or not listing.is_folder)
    return rows.is_delimited_text(file) if bare else rows.is_table(file)


def find_copies(tables: Sequence[Path]) -> dict[Path, str]:
    """Returns tables that hold what another one holds: train.parquet beside train.csv."""
    first: dict[tuple[Path, str], Path] = {}
    copies = {}

    def order(table: Path) -> tuple[bool, bool, Path]:
        # JSON beside a table of the same name may describe it.
        return _is_numbered(table), rows.inner_suffix(table) == ".json", table

    for table in sorted(tables, key=order):
        if table.suffix == ".arrow" and table.name.startswith("cache-"):
            copies[table] = "a cache of Hugging Face's datasets"
            continue
        like = first.setdefault((table.parent, _COPY.sub("", rows.stem(table))), table)
        if like is table:
            continue
        if not _is_numbered(table):
            copies[table] = f"a copy of {like.name}, by its name"
        elif filecmp.cmp(like, table, shallow=False):
            copies[table] = f"a copy of {like.name}"
    return copies


def _is_numbered(table: Path) -> bool:
    """Returns whether a browser or a desktop gave a table its name: "train (1).csv"."""
    return bool(_COPY.search(rows.stem(table)))


def _is_answer(table: Path) -> bool:
    """Returns whether a table holds answers to hand in, as Kaggle's sample_submission.csv."""
    return bool(_ANSWERS & set(splits.words_of(table.stem)))


def _label_kind(columns: Columns, tables: Sequence[Path], request: ReadRequest) -> LabelKind:
    if columns.label is None:
        return LabelKind()
    return LabelKind.of(column_types.profile(_profiled_rows(tables, request)).get(columns.label))


def _columns_of_run(
    columns: Columns,
    headers: Mapping[Path, frozenset[str]],
    request: ReadRequest,
    left_out: dict[Path, str],
) -> Columns:
    """Returns the columns of a run, or those that the user names in their place.

    Leaves out tables that lack them, if others have them.

    Raises:
        DataError: no table has them.
    """
    columns = _override(columns, request.options)
    needed = [*columns.inputs, *([columns.label] if columns.label and request.needs_labels else [])]
    missing = {
        table: [name for name in needed if name not in header]
        for table, header in headers.items()
        if table not in left_out
    }
    if missing and all(missing.values()):
        table, names = next(iter(missing.items()))
        raise _missing_columns(headers[table], names, columns.label).at(Location(table))
    left_out.update({table: f"no column {names[0]!r}" for table, names in missing.items() if names})
    return columns


def _missing_columns(
    header: Iterable[str], missing: Sequence[str], label: str | None = None
) -> DataError:
    """Returns the error for a table that lacks columns that a run was trained on."""
    flag = "--label-column" if label in missing else "--text-column or --image-column"
    return DataError(
        f"found the columns {column_types.format_columns(sorted(header))}, expected "
        f"{column_types.format_columns(missing)} as in training; name another with {flag}"
    )


def _override(columns: Columns, options: ReadOptions) -> Columns:
    """Returns columns of a run with those that the user names in their place."""
    if options.label_column is not None:
        columns = dataclasses.replace(columns, label=options.label_column)
    for kind, name in (("text", options.text_column), ("image", options.image_column)):
        if name is not None and columns.inputs != (name,):
            columns = dataclasses.replace(columns, inputs=(name,), kind=kind, shape=None)
    return columns


def _without_absent(columns: Columns, headers: Sequence[frozenset[str]]) -> Columns:
    """Returns columns without those of labels and splits that not all tables have."""
    shared = frozenset.intersection(*headers) if headers else frozenset()
    used = {*columns.inputs, columns.label, columns.split}
    return dataclasses.replace(
        columns,
        label=columns.label if columns.label in shared else None,
        split=columns.split if columns.split in shared else None,
        unused=tuple(sorted(shared - used)),
    )


def _image_paths(
    columns: Columns, tables: Sequence[Path], listing: Listing, request: ReadRequest
) -> ImagePaths | None:
    """Returns where the images are that a known column names; None for other data."""
    if columns.kind != "image":
        return None
    (column,) = columns.inputs
    profile = column_types.profile(_profiled_rows(tables, request))[column]
    paths = None
    if profile.is_mostly("string"):
        paths = ImagePaths.find(profile, tables[0], listing, request, certain=True)
    return paths or ImagePaths(listing, request)


def _choose_training(
    training: Sequence[Path],
    headers: Mapping[Path, frozenset[str]],
    listing: Listing,
    request: ReadRequest,
    left_out: dict[Path, str],
) -> _Choice:
    """Returns the training tables, and what is read of them.

    Raises:
        DataError: the columns are not clear, or tables of different columns could be read.
    """
    groups: dict[frozenset[str], list[Path]] = {}
    for table in training:
        groups.setdefault(headers[table], []).append(table)
    choices, errors = [], []
    for group in groups.values():
        try:
            choices.append(_choose_columns(group, listing, request))
        except AmbiguousPathsError:
            raise
        except DataError as error:
            errors.append(error.at(Location(group[0])))
    if not choices:
        raise errors[0]
    if len(choices) > 1:
        shared = frozenset.intersection(*(headers[choice.tables[0]] for choice in choices))
        needed = {frozenset(choice.columns.needed) for choice in choices}
        # JSON lines may leave out fields, and exports of several days may have gained columns.
        if len(needed) > 1 or not needed.pop() <= shared:
            names = ", ".join(choice.tables[0].name for choice in choices)
            raise DataError(
                f"found tables of different columns: {names}. Give one of them to --data, or move "
                "the others elsewhere"
            )
        tables = [table for choice in choices for table in choice.tables]
        kind = _label_kind(choices[0].columns, tables, request)
        return dataclasses.replace(choices[0], tables=tables, labels=kind)
    (choice,) = choices
    for table in training:
        if table not in choice.tables:
            missing = [name for name in choice.columns.needed if name not in headers[table]]
            left_out[table] = f"no column {missing[0]!r}" if missing else "other columns"
    return choice


def _choose_columns(tables: list[Path], listing: Listing, request: ReadRequest) -> _Choice:
    """Returns what is read of tables with one header.

    Raises:
        DataError: the columns are not clear, or none of the images that they name is there.
    """
    options = request.options
    profiles = column_types.profile(_profiled_rows(tables, request))
    if not profiles:
        raise DataError("no rows, expected a header and at least one row", Location(tables[0]))
    found: dict[str, ImagePaths] = {}

    def names_images(profile: Profile) -> bool:
        certain = profile.is_image or profile.name == options.image_column
        paths = ImagePaths.find(profile, tables[0], listing, request, certain=certain)
        if paths is not None:
            found[profile.name] = paths
        return paths is not None

    chosen = column_types.choose(
        profiles,
        label=options.label_column,
        text=options.text_column,
        image=options.image_column,
        needs_label=request.needs_labels,
        is_image=names_images,
    )
    columns = dataclasses.replace(chosen, has_header=_has_header(tables[0], options))
    kind = LabelKind.of(profiles.get(columns.label or ""))
    if columns.kind != "image":
        return _Choice(tables, columns, None, kind)
    (column,) = columns.inputs
    profile = profiles[column]
    if column not in found and profile.is_mostly("string"):
        if not names_images(profile):
            raise DataError(
                f"none of the files that column {column!r} names is there, for example "
                f"{profile.samples[0]!r}; expected paths below the data folder",
                Location(tables[0]),
            )
    return _Choice(tables, columns, found.get(column) or ImagePaths(listing, request), kind)


def _has_header(table: Path, options: ReadOptions) -> bool:
    """Returns whether a table names its columns; only delimited text may not."""
    if not rows.is_delimited(table):
        return True
    encoding, no_header = options.encoding, options.no_header
    return delimited.find_dialect(table, encoding=encoding, no_header=no_header).has_header


def _profiled_rows(tables: Sequence[Path], request: ReadRequest) -> Iterator[dict[str, Any]]:
    """Yields rows of all tables, up to a limit, for their profile."""
    size_bytes = 0
    for table in tables:
        number = max(_HEADER_ROWS, _PROFILED_ROWS // len(tables))
        for row in itertools.islice(rows.read(table, request.options), number):
            if row.problem:
                continue
            yield row.cells
            size_bytes += sum(
                len(value) for value in row.cells.values() if isinstance(value, bytes)
            )
            if size_bytes > _PROFILED_BYTES:
                return


def _header(table: Path, request: ReadRequest) -> frozenset[str]:
    """Returns the columns of a table, by its first rows.

    Raises:
        DataError: it has no row that can be read.
    """
    names: set[str] = set()
    error = DataError("no rows, expected a header and at least one row", Location(table))
    for row in itertools.islice(rows.read(table, request.options), _HEADER_ROWS):
        names.update(row.cells)
        if row.problem:
            error = DataError(row.problem, row.location)
    if not names:
        raise error
    return frozenset(names)
