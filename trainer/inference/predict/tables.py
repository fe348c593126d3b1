"""Reads examples from tables, by the code and the columns that training reads them with."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import storage
from trainer.config import ReadOptions
from trainer.data.dataset import Array, ReadRequest
from trainer.data.formats import table, text, vertex_jsonl
from trainer.data.inputs import InputSignature
from trainer.data.instances import InstanceReader
from trainer.data.listing import Listing
from trainer.data.tables import columns as column_types
from trainer.data.tables import delimited, rows
from trainer.data.tables.columns import Columns
from trainer.data.tables.image_paths import ImagePaths
from trainer.errors import DataError, Location, StorageError
from trainer.inference.predict.items import Item, Items, error_item

_HEADER_ROWS = 50
_JSON = (".json", ".jsonl", ".ndjson")
_KNOWN = frozenset(
    {*column_types.LABELS, *column_types.TEXTS, *column_types.IMAGES, *column_types.SPLITS}
)


class MissingColumnError(DataError):
    """A table lacks the columns of the examples."""


@dataclass(frozen=True)
class Selection:
    """Where the examples of delimited text are.

    Attributes:
        positions: of the columns, from 0, in the order of the input.
        has_header: whether the first row names the columns, and is no example.
    """

    positions: tuple[int, ...]
    has_header: bool


@dataclass(frozen=True)
class TableReader:
    """Reads tables for one model.

    Attributes:
        input: input of the model.
        columns: columns that it was trained on; None if it was not trained on a table.
        column: the only column to read, if the user names it.
        options: how files are read, as in training.
    """

    input: InputSignature
    columns: Columns | None = None
    column: str | None = None
    options: ReadOptions = ReadOptions()

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of the columns; empty if neither the user nor the training names them."""
        if self.column is not None:
            return (self.column,)
        return () if self.columns is None else self.columns.inputs

    def open(self, file: Path, name: str, listing: Listing, *, remote: bool) -> Items:
        """Returns the items of a table, one a row, named by their numbers in the file.

        Args:
            file: the table.
            name: path of the table for the user.
            listing: the files that it may name images of.
            remote: whether it came from a bucket.

        Raises:
            MissingColumnError: it lacks the columns.
            DataError: it is damaged as a whole.
        """
        request = ReadRequest(options=self._options_for(file), remote=remote, needs_labels=False)
        if rows.inner_suffix(file) in _JSON:
            self._check_json(file, request.options)
            return self._json_items(file, name, listing, request)
        if rows.is_delimited(file):
            cells = self._delimited_cells(file, request.options)
        else:
            cells = self._named_cells(file, request, listing)
        return self._items(cells, file, name, listing, request)

    def select(self, first: Sequence[str], others: Sequence[Sequence[str]] = ()) -> Selection:
        """Returns which cells of delimited text are the examples.

        Args:
            first: cells of the first row.
            others: some of the other rows.

        Raises:
            MissingColumnError: the columns are not there.
            DataError: a name is there twice, or the number of columns is another.
        """
        names, wanted = [cell.strip() for cell in first], self.wanted
        if self.column is None and self.columns is not None and not self.columns.has_header:
            return self._select_numbered(names, self.columns)
        digits = bool(wanted) and all(name.isdigit() for name in wanted)
        if wanted and {*wanted} <= {*names}:
            # With --column 2, a cell "2" of the first row may be data.
            if not digits or column_types.is_header(first, others):
                return Selection(tuple(_position(name, names) for name in wanted), True)
        if self.column is not None and digits and 1 <= int(self.column) <= len(names):
            return Selection((int(self.column) - 1,), False)
        has_numbers = any(column_types.to_number(name) is not None for name in names)
        if self.column is None and self.input.kind != "text":
            fits = len(names) == math.prod(self.input.shape)
            if fits and (has_numbers or not wanted):
                return Selection(tuple(range(len(names))), not has_numbers)
        if not wanted and self.input.kind != "text" and has_numbers:
            raise self._count_error(len(names))
        return Selection(
            tuple(_position(name, names) for name in self._find(names, [first, *others])), True
        )

    def example(self, values: Sequence[Any]) -> Array:
        """Returns the example in the cells of a row, which are no paths of images.

        Raises:
            DataError: the cells do not fit the model.
        """
        if self.input.kind == "text":
            return self.input.from_text(table.to_text(values[0]))
        if len(values) == 1 and isinstance(values[0], list):
            return self.input.from_json(values[0])
        if len(values) == 1 and isinstance(values[0], str):
            values = column_types.numbers_in(values[0]) or values
        numbers = InstanceReader(self.input).numbers(values)
        if len(numbers) != math.prod(self.input.shape):
            raise self._count_error(len(numbers), "numbers")
        return self.input.from_numbers(numbers.reshape(self.input.shape))

    def from_json(self, value: Any, location: Location) -> Array:
        """Returns the example of a JSON value: an instance, or an object with the columns.

        Raises:
            DataError: the value does not fit the model.
            StorageError: a file that it names cannot be read.
        """
        instances = InstanceReader(self.input, self.wanted)
        if not isinstance(value, dict):
            if self.column is not None:
                raise DataError(f"found no object, expected one with the field {self.column!r}")
            return instances.read(value)
        fields = dict(rows.flatten(value))
        if self.wanted and {*self.wanted} <= {*fields, *value}:
            cells = [value.get(name, fields.get(name)) for name in self.wanted]
            self._check_present(cells)
            if len(cells) == 1 and self.input.kind != "text":
                return instances.read({self.input.kind: cells[0]})
            return self.example(cells)
        if vertex_jsonl.is_item(value) and self.column is None:
            return self._vertex_item(value)
        if not self._has_input(value):
            raise _missing_field(value, self.wanted or (self.input.kind,))
        return instances.read(value)

    def _options_for(self, file: Path) -> ReadOptions:
        """Returns the options of training, but not its encoding for a file in UTF-8."""
        if self.options.encoding is not None and delimited.is_unicode(file):
            return dataclasses.replace(self.options, encoding=None)
        return self.options

    def _select_numbered(self, names: Sequence[str], columns: Columns) -> Selection:
        """Returns the columns of a table without a header, as that of the training."""
        known = [name for name in names if column_types.Profile(name).known in _KNOWN]
        if known:
            raise MissingColumnError(
                f"found a header with {column_types.format_columns(known)}, expected none, as in "
                "training; remove it, or name the column with --column"
            )
        total = len({*columns.needed, *columns.unused})
        if len(names) == total:
            return Selection(tuple(int(name) - 1 for name in columns.inputs), False)
        if self.input.kind != "text" and len(names) == len(columns.inputs):
            return Selection(tuple(range(len(names))), False)
        raise MissingColumnError(
            f"found {len(names)} columns, expected {total} as in training; --column 1 takes the "
            "first"
        )

    def _find(self, header: Iterable[str], sample: Sequence[Any] = ()) -> tuple[str, ...]:
        """Returns the names of the columns in a table that names its columns.

        Raises:
            MissingColumnError: they are not there.
        """
        names = list(dict.fromkeys(name for name in header if name))
        missing = [name for name in self.wanted if name not in names]
        if self.wanted and not missing:
            return self.wanted
        found = f"found the columns {column_types.format_columns(names)}"
        if missing:
            hint = "" if self.column is not None else ", as in training; name it with --column"
            raise MissingColumnError(
                f"{found}, expected {column_types.format_columns(missing)}{hint}"
            )
        if self.input.kind in names:
            return (self.input.kind,)
        raise MissingColumnError(
            f"{found}, expected {self.input.kind!r}; name the column with --column"
        )

    def _delimited_cells(
        self, file: Path, options: ReadOptions
    ) -> tuple[Iterator[_Cells], Sequence[Mapping[str, Any]]]:
        # Read as if there was no header, since a name may look like data, and data like a name.
        records = delimited.read(file, encoding=options.encoding, no_header=True)
        start = list(itertools.islice(records, _HEADER_ROWS))
        if not start:
            return iter(()), ()
        cells = [list(row.cells.values()) for row in start if not row.problem]
        selection = self.select(cells[0], cells[1:]) if cells else Selection((), False)
        names = [str(position + 1) for position in selection.positions]
        following = itertools.chain(start, records)
        if selection.has_header:
            next(following)
        sample = [row.cells for row in start[selection.has_header :] if not row.problem]
        return (
            _Cells(row.location, [row.cells.get(name) for name in names], row.problem)
            for row in following
        ), [{"": cells.get(names[0])} for cells in sample if names]

    def _named_cells(
        self, file: Path, request: ReadRequest, listing: Listing
    ) -> tuple[Iterator[_Cells], Sequence[Mapping[str, Any]]]:
        start = list(itertools.islice(rows.read(file, request.options), _HEADER_ROWS))
        sample = [row.cells for row in start if not row.problem]
        header = list(dict.fromkeys(itertools.chain.from_iterable(sample)))
        if not header:
            return iter(()), ()
        try:
            names = self._find(header)
        except MissingColumnError:
            if self.wanted:
                raise
            names = self._choose(sample, listing)
        records = rows.read(file, request.options, names)
        return (
            _Cells(row.location, [row.cells.get(name) for name in names], row.problem)
            for row in records
        ), [{"": cells.get(names[0])} for cells in sample]

    def _choose(self, sample: Sequence[Mapping[str, Any]], listing: Listing) -> tuple[str, ...]:
        """Returns the columns that training would choose in an unlabelled table."""
        profiles = column_types.profile(sample)
        try:
            chosen = column_types.choose(profiles, needs_label=False)
        except DataError:
            chosen = None
        kinds = ("image", "vector") if self.input.kind == "image" else (self.input.kind,)
        if chosen is None or chosen.kind not in kinds:
            raise MissingColumnError(
                f"found the columns {column_types.format_columns(profiles)}, expected one with "
                f"{self.input.expected()}; name it with --column"
            )
        return chosen.inputs

    def _items(
        self,
        opened: tuple[Iterator[_Cells], Sequence[Mapping[str, Any]]],
        file: Path,
        name: str,
        listing: Listing,
        request: ReadRequest,
    ) -> Items:
        records, sample = opened
        if self.input.kind != "image":
            return (self._item(cells, name, self.example) for cells in records)
        paths = self._image_paths(sample, file, listing, request)

        def item(cells: _Cells) -> Item:
            return self._item(
                cells, name, lambda values: self._image(values, paths, cells.location)
            )

        return storage.concurrent_map(item, records)

    def _item(self, cells: _Cells, name: str, to_example: Callable[[Sequence[Any]], Array]) -> Item:
        row_name = f"{name}:{_number(cells.location)}"
        try:
            if cells.problem:
                raise DataError(cells.problem)
            self._check_present(cells.values)
            return Item(row_name, to_example(cells.values))
        except (DataError, StorageError) as error:
            return error_item(row_name, error)

    def _check_present(self, values: Sequence[Any]) -> None:
        for number, value in enumerate(values):
            if column_types.is_missing(value):
                name = self.wanted[number] if number < len(self.wanted) else str(number + 1)
                raise DataError(f"nothing in column {name!r}")

    def _image_paths(
        self,
        sample: Sequence[Mapping[str, Any]],
        file: Path,
        listing: Listing,
        request: ReadRequest,
    ) -> ImagePaths:
        profile = column_types.profile(sample).get("")
        paths = None
        if profile is not None and profile.is_mostly("string"):
            paths = ImagePaths.find(profile, file, listing, request, certain=True)
        return paths or ImagePaths(listing, request)

    def _image(self, values: Sequence[Any], paths: ImagePaths, location: Location) -> Array:
        """Returns the image in a row: its content, its path, or its pixels."""
        pixels = len(values) > 1 or isinstance(values[0], list | int | float)
        if pixels or column_types.numbers_in(str(values[0])[:100_000]) is not None:
            return self.example(values)
        content = table.to_image(values[0], paths, location)
        if isinstance(content, Path):
            location, content = Location(content), _read(content)
        elif isinstance(content, str):
            location, content = Location(content), storage.read(content)
        return self.input.from_image(content, location)

    def _check_json(self, file: Path, options: ReadOptions) -> None:
        """Raises MissingColumnError if none of the first objects has the columns."""
        start = itertools.islice(rows.json_values(file, options), _HEADER_ROWS)
        values = [value for _, value, problem in start if not problem]
        if values and all(
            isinstance(value, dict)
            and not {*self.wanted} <= {*value, *dict(rows.flatten(value))}
            and (self.column is not None or not self._has_input(value))
            for value in values
        ):
            names = collections.Counter(name for value in values for name in value)
            raise _missing_field(names, self.wanted)

    def _has_input(self, value: Mapping[str, Any]) -> bool:
        return self.column is None and (
            bool({"b64", self.input.kind} & {*value}) or vertex_jsonl.is_item(value)
        )

    def _json_items(self, file: Path, name: str, listing: Listing, request: ReadRequest) -> Items:
        start = itertools.islice(rows.read_json_lines(file, request.options), _HEADER_ROWS)
        sample = [{"": row.cells.get(self.wanted[0])} for row in start] if self.wanted else []
        paths = self._image_paths(sample, file, listing, request)

        def item(entry: tuple[Location, Any, str]) -> Item:
            location, value, problem = entry
            row_name = f"{name}:{_number(location)}"
            try:
                if problem:
                    raise DataError(problem)
                if self.input.kind == "image" and self.wanted and isinstance(value, dict):
                    cell = dict(rows.flatten(value)).get(self.wanted[0])
                    if isinstance(cell, str) and len(self.wanted) == 1:
                        return Item(row_name, self._image([cell], paths, location))
                return Item(row_name, self.from_json(value, location))
            except (DataError, StorageError) as error:
                return error_item(row_name, error)

        values = rows.json_values(file, request.options)
        return storage.concurrent_map(item, values) if self.input.kind == "image" else map(
            item, values
        )  # fmt: skip

    def _vertex_item(self, value: Mapping[str, Any]) -> Array:
        """Returns the example of a line of a data set of Vertex AI."""
        kind, content = vertex_jsonl.content_of(value)
        if kind == "textContent":
            return self.input.from_text(content.strip())
        data = storage.read(content)
        if kind == "imageGcsUri":
            return self.input.from_image(data, Location(content))
        return self.input.from_text(text.decode_line(data))

    def _count_error(self, count: int, unit: str = "columns") -> DataError:
        expected = math.prod(self.input.shape)
        hint = ""
        if unit == "columns" and count == expected + 1:
            hint = "; remove the first column with cut -d, -f2-"
        return DataError(
            f"found {count} {unit}, expected {expected}, {self.input.expected()}{hint}"
        )


@dataclass(frozen=True)
class _Cells:
    """The cells of one row that hold its example.

    Attributes:
        location: of the row.
        values: the cells.
        problem: why the row cannot be read; "" if it can.
    """

    location: Location
    values: Sequence[Any]
    problem: str


def _position(name: str, names: Sequence[str]) -> int:
    if names.count(name) > 1:
        raise DataError(f"found the column {name!r} {names.count(name)} times, expected it once")
    return names.index(name)


def _number(location: Location) -> str:
    """Returns the number of a line, row, object or record."""
    match = re.search(r"\d+", location.row or "")
    return match[0] if match else "1"


def _missing_field(names: Iterable[str], wanted: Sequence[str]) -> MissingColumnError:
    fields = "no field " + column_types.format_columns(wanted) if wanted else "no example"
    return MissingColumnError(
        f"{fields}, found {column_types.format_columns(names) or 'nothing'}; name the field with "
        "--column"
    )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
