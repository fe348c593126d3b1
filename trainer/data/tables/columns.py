"""Decides what the columns of a table hold, by their names and contents."""

from __future__ import annotations

import collections
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.data import splits
from trainer.data.formats import images
from trainer.errors import DataError, UsageError

# Names that are known, in lower case, with "_" for spaces and dashes.
LABELS = (
    "label", "labels", "class", "classes", "class_name", "classname", "category", "target",
    "sentiment", "y", "class_label", "label_name", "image/class/label",
)  # fmt: skip
TEXTS = (
    "text", "texts", "sentence", "review", "content", "comment", "message", "document",
)  # fmt: skip
IMAGES = (
    "image", "images", "image/encoded", "img", "image_path", "img_path", "image_file",
    "image_name", "image_id", "file", "file_name", "filename", "filepath", "file_path", "path",
)  # fmt: skip
VECTORS = ("features", "vector", "embedding", "embeddings", "pixels", "x")
SPLITS = (
    "split", "data_split", "dataset_split", "subset", "partition", "usage", "ml_use", "set",
    "phase",
)  # fmt: skip
# Columns that say whether a row is of one split: the split if so, and if not.
SPLIT_MARKS = {"is_valid": ("validation", "train"), "is_test": ("test", "train"),
               "is_train": ("train", "test")}  # fmt: skip
_TRUE, _FALSE = ("true", "t", "yes", "y", "1", "1.0"), ("false", "f", "no", "n", "0", "0.0")
ROW_NUMBERS = (
    "id", "idx", "index", "guid", "uid", "row", "row_id", "unnamed:_0", "__index_level_0__",
)  # fmt: skip

_MAX_DISTINCT = 1000
_MAX_SHOWN = 10
_MAX_SAMPLES = 100
_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+")
_PIXEL_NAME = re.compile(r"(pixel|pix|px|p|x)?[ _]?\d+(x\d+)?")
_ID = re.compile(r"[\w:./-]*\d[\w:./-]*")
_CHANNELS = (1, 3)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns that are read.

    Attributes:
        label: column of the labels; None for unlabelled data.
        inputs: column of the texts or images, or the columns of numbers in their order.
        kind: "text", "image" or "vector"; columns of pixels are vectors with a `shape`.
        shape: (height, width, channels) of pixels in columns; None for other data.
        split: column that assigns rows to splits, if any.
        unused: the other columns.
        has_header: whether the tables name their columns; otherwise these are "1", "2", ...
    """

    label: str | None
    inputs: tuple[str, ...]
    kind: str
    shape: tuple[int, int, int] | None = None
    split: str | None = None
    unused: tuple[str, ...] = ()
    has_header: bool = True

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Columns:
        """Returns columns from the result of `dataclasses.asdict`, perhaps read from JSON.

        Raises:
            ValueError: a field is missing, unknown or invalid.
        """
        try:
            shape = fields["shape"]
            columns = cls(
                **{
                    **fields,
                    "inputs": tuple(fields["inputs"]),
                    "unused": tuple(fields["unused"]),
                    "shape": None if shape is None else tuple(map(int, shape)),
                }
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"columns: {error}") from None
        names = (*columns.inputs, *columns.unused, columns.label or "", columns.split or "")
        if not columns.inputs or not all(isinstance(name, str) for name in names):
            raise ValueError(f"columns: {dict(fields)}")
        return columns

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns to read."""
        return tuple(name for name in (*self.inputs, self.label, self.split) if name is not None)

    def describe(self) -> str:
        """Returns the choice for the user."""
        inputs = list(self.inputs)
        what = {
            "text": "texts in column",
            "image": "images in column",
            "vector": "numbers in column",
        }
        if len(inputs) > 1:
            names = f"s {inputs[0]!r} to {inputs[-1]!r} ({len(inputs)})"
        else:
            names = f" {inputs[0]!r}"
        parts = [f"{what[self.kind]}{names}"]
        if self.shape is not None:
            parts[0] = f"pixels of {'x'.join(map(str, self.shape))} images in column{names}"
        if self.label is not None:
            parts.append(f"labels in {self.label!r}")
        if self.split is not None:
            parts.append(f"splits in {self.split!r}")
        if self.unused:
            parts.append(f"not used: {format_columns(self.unused)}")
        return ", ".join(parts)


@dataclass
class Profile:
    """What the cells of one column hold.

    Attributes:
        name: of the column.
        total: number of cells, missing ones included.
        missing: number of empty cells.
        kinds: number of cells by kind: "number", "string", "bytes", "dict", "list", "bool".
        values: the distinct values as strings, with their counts; None if there are too many.
        samples: the first strings.
        image_paths: number of strings that end like names of images.
        urls: number of strings that begin with http.
        with_spaces: number of strings of several words, or with letters outside ASCII.
        id_like: number of strings such as "train_0001" or "5f3a".
        pixel_values: number of whole numbers of 0 to 255.
        whole: number of whole numbers.
        list_lengths: lengths of lists of numbers.
        sequence: whether each number is one more than the one before.
    """

    name: str
    total: int = 0
    missing: int = 0
    kinds: collections.Counter[str] = field(default_factory=collections.Counter)
    values: collections.Counter[str] | None = field(default_factory=collections.Counter)
    samples: list[str] = field(default_factory=list)
    image_paths: int = 0
    urls: int = 0
    with_spaces: int = 0
    id_like: int = 0
    pixel_values: int = 0
    whole: int = 0
    list_lengths: set[int] = field(default_factory=set)
    sequence: bool = True
    _previous: float | None = None

    @property
    def known(self) -> str:
        """The name as the tuples of known names have it."""
        return known_name(self.name)

    @property
    def present(self) -> int:
        """Number of cells that are not empty."""
        return self.total - self.missing

    def add(self, value: Any) -> None:
        """Counts one cell."""
        self.total += 1
        if is_missing(value):
            self.missing += 1
            return
        kind = _kind(value)
        self.kinds[kind] += 1
        number = to_number(value) if kind in ("string", "number") else None
        if kind == "string":
            text = value.strip()
            if len(self.samples) < _MAX_SAMPLES:
                self.samples.append(text)
            self.image_paths += images.is_image_name(text) and len(text) < 1000
            self.urls += bool(re.match(r"https?://", text))
            self.with_spaces += len(text.split()) > 1 or not text.isascii()
            self.id_like += bool(_ID.fullmatch(text))
            if number is None and (numbers := numbers_in(text)) is not None:
                self.kinds["numbers"] += 1
                self.list_lengths.add(len(numbers))
        elif kind == "list" and all(_kind(item) == "number" for item in value):
            self.kinds["numbers"] += 1
            self.list_lengths.add(len(value))
        if number is not None:
            self.kinds["numeric"] += 1
            self.whole += number.is_integer()
            self.pixel_values += 0 <= number <= 255 and number.is_integer()
            self.sequence = self.sequence and (
                self._previous is None or number == self._previous + 1
            )
            self._previous = number
        if self.values is not None:
            self.values[str(value)[:200]] += 1
            if len(self.values) > _MAX_DISTINCT:
                self.values = None

    def is_mostly(self, kind: str) -> bool:
        """Returns whether nine in ten of the cells that are not empty are of a kind."""
        return self.present > 0 and self.kinds[kind] >= 0.9 * self.present

    @property
    def is_numeric(self) -> bool:
        """Whether the cells are numbers."""
        return self.is_mostly("numeric") and not self.is_mostly("bool")

    @property
    def is_vector(self) -> bool:
        """Whether each cell is a list of numbers, or a text of numbers, of one length."""
        return (
            self.is_mostly("numbers") and len(self.list_lengths) == 1 and max(self.list_lengths) > 1
        )

    @property
    def is_image(self) -> bool:
        """Whether the cells are paths or contents of images."""
        contents = self.is_mostly("bytes") and self.known not in TEXTS
        return contents or self.is_mostly("dict") or self.image_paths >= 0.9 * max(1, self.present)

    @property
    def counts_rows(self) -> bool:
        """Whether the cells only number the rows."""
        named = self.known in (*ROW_NUMBERS, "") or self.known.endswith("_id")
        distinct = self.values is None or len(self.values) == self.present
        whole = self.whole == self.kinds["numeric"]
        return (self.sequence and whole and self.is_numeric and self.present > 2) or (
            named and distinct and not self.with_spaces
        )

    @property
    def is_text(self) -> bool:
        """Whether the cells are texts, and not names, numbers or identifiers."""
        few = self.values is not None and len(self.values) <= max(2, self.present // 20)
        return (
            self.is_mostly("string")
            and not self.is_numeric
            and not few
            and self.with_spaces >= 0.5 * self.present
        )

    @property
    def is_category(self) -> bool:
        """Whether the cells are a few values that repeat."""
        if self.values is None or self.is_mostly("list") or self.is_mostly("dict"):
            return False
        distinct = len(self.values)
        return 2 <= distinct <= max(2, self.present // 3) and self.whole == self.kinds["numeric"]

    @property
    def is_split(self) -> bool:
        """Whether the cells are names of splits, or say whether a row is for validation."""
        if self.values is None or not self.values:
            return False
        found = {split_of(self.name, value) for value in self.values}
        if self.known in (*SPLITS, *SPLIT_MARKS):  # Other values are errors of their rows.
            return found != {None}
        return None not in found and "train" in found and len(found) > 1


def known_name(column: str) -> str:
    """Returns the name of a column as the tuples of known names have it."""
    return re.sub(r"[ -]", "_", column.strip().lower())


def split_of(column: str, value: str) -> str | None:
    """Returns the split of a row by its cell in a column of splits; None if it says none."""
    if known_name(column) not in SPLIT_MARKS:
        return splits.from_value(value)
    if_true, if_false = SPLIT_MARKS[known_name(column)]
    mark = value.strip().lower()
    return if_true if mark in _TRUE else if_false if mark in _FALSE else None


def profile(rows: Iterable[Mapping[str, Any]]) -> dict[str, Profile]:
    """Returns what each column holds; a column that a row lacks is empty there."""
    profiles: dict[str, Profile] = {}
    count = 0
    for row in rows:
        for name, value in row.items():
            if name not in profiles:
                profiles[name] = Profile(name, total=count, missing=count)
            profiles[name].add(value)
        count += 1
        for each in profiles.values():
            if each.total < count:
                each.add(None)
    return profiles


def choose(
    profiles: Mapping[str, Profile],
    *,
    label: str | None = None,
    text: str | None = None,
    image: str | None = None,
    needs_label: bool = True,
    is_image: Callable[[Profile], bool] = lambda _: False,
) -> Columns:
    """Returns the columns of labels and examples.

    Args:
        profiles: contents of all columns.
        label: column of the labels, if the user named it.
        text: column of the texts, if the user named it.
        image: column of the images, if the user named it.
        needs_label: whether unlabelled data is an error.
        is_image: whether the cells of a column name image files by other names than their own.

    Raises:
        DataError: a column does not exist, or the choice is not clear.
        UsageError: both `text` and `image` are given.
    """
    for name, flag in (
        (label, "--label-column"),
        (text, "--text-column"),
        (image, "--image-column"),
    ):
        if name is not None and name not in profiles:
            raise DataError(f"no column {name!r} for {flag}, found {format_columns(profiles)}")
    if text is not None and image is not None:
        raise UsageError("--text-column and --image-column: expected one of them")
    rest = dict(profiles)
    by_name = sorted(rest.values(), key=lambda each: each.known not in (*SPLITS, *SPLIT_MARKS))
    split = next((each.name for each in by_name if each.is_split and each.name != label), None)
    for name in (split, text, image):
        rest.pop(name or "", None)
    if label is None:
        label = _find_label(rest, needs_label=needs_label)
    rest.pop(label or "", None)
    kind, inputs, shape = _find_inputs(rest, profiles, text, image, is_image)
    used = {*inputs, label, split}
    unused = tuple(name for name in profiles if name not in used)
    return Columns(label=label, inputs=inputs, kind=kind, shape=shape, split=split, unused=unused)


def _find_label(rest: Mapping[str, Profile], *, needs_label: bool) -> str | None:
    named = [each for each in rest.values() if each.known in LABELS and each.present]
    if len(named) == 1:
        return named[0].name
    categories = [
        each for each in (named or rest.values())
        if each.is_category and not each.is_image and not each.counts_rows and not each.is_vector
    ]  # fmt: skip
    pixels = sum(each.is_numeric for each in rest.values()) > len(rest) / 2
    if not named and pixels:
        # Pixels are no labels; without a header, the first column is, or the last one.
        headless = all(each.name.isdigit() for each in rest.values())
        if headless or all(_PIXEL_NAME.fullmatch(name.lower()) for name in _numeric(rest)):
            others = [each for each in categories if not each.is_numeric]
            ends = [each for each in (*rest.values(),)[:: max(1, len(rest) - 1)] if headless]
            categories = others or [each for each in ends if each in categories][:1]
    if len(categories) == 1:
        return categories[0].name
    if not needs_label and not named:
        return None
    empty = [each.name for each in rest.values() if each.known in LABELS and not each.present]
    if empty and not categories:
        raise DataError(f"found no label in column {empty[0]!r}, expected labels")
    unnamed = all(name.isdigit() for name in rest)
    no_header = "" if unnamed else "; or --no-header, if the first line of CSV is data"
    hint = f", for example --label-column {categories[0].name!r}" if categories else ""
    raise DataError(
        f"found the columns {format_columns(rest)}; give the column of the labels with "
        f"--label-column{hint}{no_header}"
    )


def _find_inputs(
    rest: Mapping[str, Profile],
    profiles: Mapping[str, Profile],
    text: str | None,
    image: str | None,
    is_image: Callable[[Profile], bool],
) -> tuple[str, tuple[str, ...], tuple[int, int, int] | None]:
    """Returns the kind of the examples, their columns, and the shape of pixels in columns."""
    if text is not None:
        return "text", (text,), None
    if image is not None:
        return "image", (image,), None
    columns = [each for each in rest.values() if each.present and not each.counts_rows]
    groups = {
        "image": [each for each in columns if each.is_image],
        "text": [each for each in columns if each.is_text and each.known not in IMAGES],
        "vector": [each for each in columns if each.is_vector],
    }
    names_of: dict[str, tuple[str, ...]] = {"image": IMAGES, "text": TEXTS, "vector": VECTORS}
    for kind, known in names_of.items():
        named = [each for each in groups[kind] if each.known in known]
        if len(named) == 1 and not any(
            each.known in names_of[other]
            for other in ("image", "text")
            for each in groups[other]
            if other != kind
        ):
            return kind, (named[0].name,), _pixel_shape_of_list(named[0])
    candidates = [(kind, each) for kind, group in groups.items() for each in group]
    # A text beside several other columns is perhaps a name or a remark.
    if len(candidates) == 1 and not (candidates[0][0] == "text" and len(columns) > 2):
        ((kind, only),) = candidates
        return kind, (only.name,), _pixel_shape_of_list(only)
    if not candidates:
        named = [each for each in columns if each.known in TEXTS and each.is_mostly("string")]
        if len(named) == 1:  # Texts of one word.
            return "text", (named[0].name,), None
        as_images = [each for each in rest.values() if each.present and is_image(each)]
        if len(as_images) == 1:
            return "image", (as_images[0].name,), None
        numeric = [each for each in columns if each.is_numeric]
        if numeric and len(numeric) == len(columns):
            names = tuple(each.name for each in numeric)
            return "vector", names, _pixel_shape(numeric)
        single = [each for each in columns if each.is_mostly("string") and each.known not in IMAGES]
        if len(columns) == 1 and single and not single[0].urls and _are_words(single[0]):
            return "text", (single[0].name,), None
    raise DataError(_no_inputs(rest, profiles, columns, [each for _, each in candidates]))


def _numeric(columns: Mapping[str, Profile]) -> list[str]:
    return [each.known for each in columns.values() if each.is_numeric]


def _are_words(column: Profile) -> bool:
    """Returns whether texts of one word are words, and not identifiers."""
    return column.id_like < 0.5 * column.present and not column.image_paths


def _no_inputs(
    rest: Mapping[str, Profile],
    profiles: Mapping[str, Profile],
    columns: Sequence[Profile],
    candidates: Sequence[Profile],
) -> str:
    """Returns the message for a table whose column of examples is not clear."""
    message = f"found the columns {format_columns(profiles)}"
    if any(each.urls for each in columns):
        name = next(each.name for each in columns if each.urls)
        return (
            f"{message}; {name!r} holds URLs, expected texts or paths of images: download them, "
            "and put their paths into the table"
        )
    if candidates:
        names = format_columns(each.name for each in candidates)
        return (
            f"{message}; give the column of the examples with --text-column or --image-column "
            f"({names})"
        )
    for each in columns:
        if each.known in IMAGES or each.id_like >= 0.5 * each.present > 0 and not each.is_numeric:
            value = next(iter(each.samples), "")[:40]
            return (
                f"{message}; {each.name!r} holds neither texts nor paths of images that are there"
                + (f", for example {value!r}" if value else "")
            )
    return (
        f"{message}; none of them holds texts, images or only numbers; give the column of the "
        "examples with --text-column or --image-column"
    )


def _pixel_shape(columns: Sequence[Profile]) -> tuple[int, int, int] | None:
    """Returns the shape of the images whose pixels are columns; None if they are no pixels."""
    if not all(_PIXEL_NAME.fullmatch(each.known) for each in columns):
        return None
    if not all(each.pixel_values == each.present for each in columns):
        return None
    return _square(len(columns)) if len(columns) >= 64 else None


def _pixel_shape_of_list(column: Profile) -> tuple[int, int, int] | None:
    if column.known != "pixels" or len(column.list_lengths) != 1:
        return None
    return _square(next(iter(column.list_lengths)))


def _square(count: int) -> tuple[int, int, int] | None:
    """Returns the shape of a square image that has `count` values; None if there is none."""
    for channels in _CHANNELS:
        side = math.isqrt(count // channels)
        if side * side * channels == count:
            return side, side, channels
    return None


def is_header(first: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Returns whether the first row of a table names its columns.

    It does not if it has numbers where the other rows have them, or a value that is repeated in
    a column of few values.
    """
    names = [Profile(cell).known for cell in first]
    numbers = [number for cell in first if (number := to_number(cell)) is not None]
    counts = numbers == [numbers[0] + step for step in range(len(numbers))] if numbers else True
    known = [
        cell for cell, name in zip(first, names, strict=True)
        if name in {*LABELS, *TEXTS, *IMAGES, *SPLITS, *SPLIT_MARKS, *VECTORS, *ROW_NUMBERS}
    ]  # fmt: skip
    repeated = any(cell in row for row in others for cell in known)
    if counts and (len(known) > 1 or (known and not repeated)):
        return True
    if names == [str(number) for number in range(len(names))]:
        return True  # As pandas names columns without names.
    for cell, column in zip(first, itertools.zip_longest(*others, fillvalue=""), strict=False):
        cells = [each for each in column if each.strip()]
        if not cell.strip() or not cells:
            continue
        if sum(to_number(each) is not None for each in cells) > 0.9 * len(cells):
            return to_number(cell) is None
    for cell, column in zip(first, itertools.zip_longest(*others, fillvalue=""), strict=False):
        values = collections.Counter(map(str.strip, column))
        if not cell.strip():
            continue
        if values[cell.strip()] > 1 and len(values) <= len(column) / 2:
            return False
        if images.is_image_name(cell) and sum(map(images.is_image_name, column)) > len(column) / 2:
            return False
    return True


def is_missing(value: Any) -> bool:
    """Returns whether a cell is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str | bytes) and not value.strip()


def to_number(value: Any) -> float | None:
    """Returns a cell as a number; None if it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and "_" not in str(value) else None


def numbers_in(text: str) -> list[float] | None:
    """Returns the numbers of a text such as "1 2 3" or "[0.5, 1]"; None if it is another text."""
    bare = text.strip().removeprefix("[").removesuffix("]")
    words = bare.replace(",", " ").split()
    if bare == text.strip() and (" " not in bare or _THOUSANDS.fullmatch(bare)):
        return None  # One number, with a comma for thousands or decimals.
    if len(words) < 2 or not (words[0].lstrip("+-").replace(".", "", 1)[:1].isdigit()):
        return None
    numbers = [number for word in words if (number := to_number(word)) is not None]
    return numbers if len(numbers) == len(words) else None


def format_columns(columns: Iterable[str]) -> str:
    """Returns names of columns for a message; of many, the first ten."""
    names = list(columns)
    shown = ", ".join(repr(name[:40]) for name in names[:_MAX_SHOWN])
    return shown + (", ..." if len(names) > _MAX_SHOWN else "")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    for kind, name in ((str, "string"), (bytes, "bytes"), (dict, "dict"), (list, "list")):
        if isinstance(value, kind):
            return name
    return "number" if to_number(value) is not None else "other"  # Decimal; dates.
