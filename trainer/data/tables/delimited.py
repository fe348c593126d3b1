"""Reads delimited text: CSV, TSV and their relatives, of any delimiter, quoting and encoding.

The form of a file is found from its content, since no two programs write CSV alike.
"""

from __future__ import annotations

import bz2
import codecs
import collections
import contextlib
import csv
import functools
import gzip
import io
import itertools
import lzma
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from trainer.data.tables import columns
from trainer.errors import DataError, Location
from trainer.runtime.log import LOGGER

MAX_CHARACTERS = 1_000_000  # Of a cell.
MAX_LINE_CHARACTERS = 16 * MAX_CHARACTERS

_SAMPLE_ROWS = 2000
_MAX_LINES_OF_ROW = 1000
DELIMITERS = (",", ";", "\t", "|")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE_BYTES = 1 << 16
_ESCAPED = re.compile("[\udc80-\udcff]")
_CHUNK_BYTES = 1 << 20
# Of the letters of a text in a Western European language, far fewer are outside ASCII.
_MAX_FOREIGN = 0.3
# Of accented letters, as in Cyrillic or Chinese read as cp1252.
_FOREIGN_WORD = re.compile(rb"[\xc0-\xff]{4}")
_UNDEFINED_IN_CP1252 = b"\x81\x8d\x8f\x90\x9d"
_QUOTING: dict[str, dict[str, Any]] = {
    "doubled": {"doublequote": True, "strict": True},
    "doubled after spaces": {"doublequote": True, "strict": True, "skipinitialspace": True},
    "backslash": {"doublequote": False, "escapechar": "\\", "strict": True},
    "none": {"quoting": csv.QUOTE_NONE},
}
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
COMPRESSED = tuple(_OPENERS)


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        location: of the row.
        cells: values by column; empty if there is a problem.
        problem: why the row cannot be read; "" if it can.
    """

    location: Location
    cells: dict[str, Any]
    problem: str = ""


@dataclass(frozen=True)
class Dialect:
    """The form of a file.

    Attributes:
        encoding: name of a Python codec.
        delimiter: one character.
        quoting: key of `_QUOTING`.
        skipped_lines: number of lines before the header.
        has_header: whether the first row names the columns; otherwise they are "1", "2", ...
        width: usual number of cells of a row.
    """

    encoding: str
    delimiter: str
    quoting: str
    skipped_lines: int
    has_header: bool
    width: int


def open_binary(file: Path) -> IO[bytes]:
    """Opens a file for reading; decompresses .gz, .bz2 and .xz."""
    opened: IO[bytes] = _OPENERS.get(file.suffix.lower(), open)(file, "rb")
    return opened


def read(file: Path, *, encoding: str | None, no_header: bool) -> Iterator[Row]:
    """Yields the rows of a file.

    Args:
        file: the table.
        encoding: name of a Python codec; None finds it.
        no_header: whether the first row is data in any case.

    Raises:
        DataError: the file is damaged, or its encoding cannot be found.
    """
    dialect = find_dialect(file, encoding=encoding, no_header=no_header)
    after = itertools.islice(lines(file, dialect.encoding), dialect.skipped_lines, None)
    records = _records(after, dialect.delimiter, dialect.quoting)
    first = next(records, None)
    if first is None:
        return
    number, cells, problem = first
    if not dialect.has_header:
        names = [str(column) for column in range(1, dialect.width + 1)]
        records = itertools.chain([first], records)
    elif cells is None:
        raise DataError(problem, Location(file, f"line {number + dialect.skipped_lines}"))
    else:
        names = [name.strip() for name in cells]
    _check_names(names, file)
    for number, cells, problem in records:
        location = Location(file, f"line {number + dialect.skipped_lines}")
        if cells is None:
            yield Row(location, {}, problem)
        elif problem := _row_problem(cells, names, dialect):
            yield Row(location, {}, problem)
        else:
            # Columns without a name hold row numbers, or nothing.
            yield Row(
                location, {name: cell for name, cell in zip(names, cells, strict=True) if name}
            )


def lines(file: Path, encoding: str | None = None) -> Iterator[str]:
    """Yields the lines of a text file, with their line ends.

    Bytes that the encoding does not allow become lone surrogates, which `has_bad_bytes` finds.

    Raises:
        DataError: the encoding cannot be found, or a line is too long.
    """
    encoding = encoding or find_encoding(file)
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    with _translate_errors(file), open_binary(file) as content:
        text = io.TextIOWrapper(content, encoding=encoding, errors=errors, newline="")
        for number in itertools.count(1):
            line = text.readline(MAX_LINE_CHARACTERS + 1)
            if not line:
                return
            if len(line) > MAX_LINE_CHARACTERS:
                raise DataError(
                    f"more than {MAX_LINE_CHARACTERS} characters, expected one row per line",
                    Location(file, f"line {number}"),
                )
            yield line


def has_bad_bytes(text: str) -> bool:
    """Returns whether a text of `lines` has bytes that are not UTF-8."""
    return not text.isascii() and bool(_ESCAPED.search(text))


def find_encoding(file: Path) -> str:
    """Returns the codec of a text file: UTF-8, UTF-16, UTF-32, or cp1252 for Western Europe.

    Raises:
        DataError: it is none of these.
    """
    return _find_encoding(file, *_version(file))


def is_unicode(file: Path) -> bool:
    """Returns whether a file is certainly UTF-8: all of it is valid, and some is not ASCII."""
    with _translate_errors(file):
        if not _is_utf8(file):
            return False
        with open_binary(file) as content:
            return any(
                not chunk.isascii() for chunk in iter(lambda: content.read(_CHUNK_BYTES), b"")
            )


def find_dialect(file: Path, *, encoding: str | None, no_header: bool) -> Dialect:
    """Returns the form of a delimited file; arguments and errors as `read`."""
    return _find_dialect(file, encoding, no_header, *_version(file))


def _version(file: Path) -> tuple[int, int]:
    """Returns size and time of a file: the key of cached results, since it may be replaced."""
    state = file.stat()
    return state.st_size, state.st_mtime_ns


@functools.lru_cache(maxsize=1024)
def _find_encoding(file: Path, size: int, modified: int) -> str:
    with _translate_errors(file):
        with open_binary(file) as content:
            sample = content.read(_SAMPLE_BYTES)
        for mark, encoding in _BYTE_ORDER_MARKS:
            if sample.startswith(mark):
                return encoding
        for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            zeros, others = sample[first::2].count(0), sample[1 - first :: 2].count(0)
            if 2 * zeros > len(sample) // 2 > 10 * others:
                return encoding
        if _is_utf8(file):
            return "utf-8"
        valid, invalid, foreign = _count_lines(file)
        if invalid <= valid:
            return "utf-8"  # The other lines are damaged.
        if foreign:
            raise DataError(
                "not UTF-8, UTF-16 or cp1252; give its encoding, for example --encoding cp1251",
                Location(file),
            )
    LOGGER.warning(
        "%s: not UTF-8: read as cp1252 (Western Europe); --encoding gives another", file.name
    )
    return "cp1252"


def _is_utf8(file: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_binary(file) as content:
        try:
            while chunk := content.read(_CHUNK_BYTES):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _count_lines(file: Path) -> tuple[int, int, bool]:
    """Returns the numbers of lines that are UTF-8 but not ASCII, and that are not UTF-8.

    The third result is whether the latter are of no Western European language.
    """
    valid = letters = high = 0
    invalid = undefined = runs = 0
    with open_binary(file) as content:
        while line := content.readline(MAX_LINE_CHARACTERS):
            if line.isascii():
                continue
            try:
                line.decode()
                valid += 1
            except UnicodeDecodeError:
                invalid += 1
                high += sum(byte >= 0x80 for byte in line)
                letters += sum(chr(byte).isalpha() for byte in line)
                undefined += sum(byte in _UNDEFINED_IN_CP1252 for byte in line)
                runs += bool(_FOREIGN_WORD.search(line))
    is_foreign = undefined or high > _MAX_FOREIGN * letters or 2 * runs > invalid
    return valid, invalid, bool(is_foreign)


@functools.lru_cache(maxsize=1024)
def _find_dialect(
    file: Path, encoding: str | None, no_header: bool, size: int, modified: int
) -> Dialect:
    encoding = encoding or find_encoding(file)
    start = list(itertools.islice(lines(file, encoding), _SAMPLE_ROWS))
    skipped, delimiters = _preamble(start)
    sample = start[skipped:]
    if _inner_suffix(file) in (".tsv", ".tab"):
        delimiters = "\t"
    # Without escaped quotes this would only hide errors: Python drops quotes within a cell then.
    escapes = any('\\"' in line for line in sample)
    quotings = [name for name in _QUOTING if escapes or name != "backslash"]
    # The first of the best: CSV as RFC 4180 describes it comes first.
    delimiter, quoting = max(
        itertools.product(delimiters, quotings), key=lambda form: _regularity(sample, *form)
    )
    while skipped < len(start) - 1 and _is_comment(start[skipped:], delimiter, quoting):
        skipped += 1
    rows = [cells for _, cells, _ in _records(iter(start[skipped:]), delimiter, quoting) if cells]
    has_header = not no_header and (len(rows) < 2 or columns.is_header(rows[0], rows[1:]))
    if not has_header and not no_header:
        LOGGER.warning("%s: the first line is data, so the columns are named 1, 2, ...", file.name)
    # The first of the most frequent: a file without a header may begin with a line of its own.
    width = collections.Counter(map(len, rows)).most_common(1)[0][0] if rows else 0
    return Dialect(encoding, delimiter, quoting, skipped, has_header, width)


def _inner_suffix(file: Path) -> str:
    """Returns the extension before that of a compression: .tsv of a.tsv.gz."""
    name = file.with_suffix("") if file.suffix.lower() in COMPRESSED else file
    return name.suffix.lower()


def _preamble(start: Sequence[str]) -> tuple[int, Sequence[str]]:
    """Returns the number of lines before the header, and the possible delimiters.

    Excel writes and reads a first line such as `sep=;`.
    """
    match = re.fullmatch(r"\s*sep=(.)\s*", start[0]) if start else None
    return (1, match[1]) if match else (0, DELIMITERS)


def _is_comment(sample: Sequence[str], delimiter: str, quoting: str) -> bool:
    """Returns whether the first line is a comment before the header."""
    if not sample[0].lstrip().startswith("#"):
        return False
    records = _records(iter(sample), delimiter, quoting)
    first, *others = (len(cells or ()) for _, cells, _ in records)
    return bool(others) and first != collections.Counter(others).most_common(1)[0][0]


def _regularity(sample: Sequence[str], delimiter: str, quoting: str) -> float:
    """Returns the fraction of the lines that are rows of the usual number of cells, at least two.

    A row in several lines counts as one, so a form in which a quote swallows rows loses.
    """
    sizes = collections.Counter[int]()
    for _, cells, _ in _records(iter(sample), delimiter, quoting):
        sizes[len(cells or ())] += 1
    size, count = max(sizes.items(), key=lambda item: item[1], default=(0, 0))
    return count / sum(sizes.values()) if size > 1 else 0.0


def _records(
    text: Iterator[str], delimiter: str, quoting: str
) -> Iterator[tuple[int, list[str] | None, str]]:
    """Yields each row: the number of its line, from 1, and its cells, or None and a problem.

    After a row that cannot be read it continues at the next line, so that a quote that is never
    closed costs one row.
    """
    number = 1
    returned: collections.deque[str] = collections.deque()
    used: list[str] = []

    def next_lines() -> Iterator[str]:
        while len(used) < _MAX_LINES_OF_ROW:
            line = returned.popleft() if returned else next(text, None)
            if line is None:
                return
            used.append(line)
            yield line

    csv.field_size_limit(MAX_CHARACTERS)
    while True:
        used.clear()
        try:
            cells = next(csv.reader(next_lines(), delimiter=delimiter, **_QUOTING[quoting]), None)
        except csv.Error as error:
            returned.extendleft(reversed(used[1:]))
            yield number, None, f"{error}; is a quote not closed?"
            number += 1
            continue
        if cells is None:
            return
        if cells:
            yield number, cells, ""
        number += len(used)


def _row_problem(cells: list[str], names: Sequence[str], dialect: Dialect) -> str:
    """Returns why the cells of a row do not fit the columns; "" if they do."""
    while len(cells) > len(names) and not cells[-1].strip():
        cells.pop()
    if len(cells) != len(names):
        like = "header" if dialect.has_header else "other rows"
        return f"found {len(cells)} cells, expected {len(names)} as in the {like}"
    if any(map(has_bad_bytes, cells)):
        return "not UTF-8; --encoding gives another encoding"
    return ""


def _check_names(names: Sequence[str], file: Path) -> None:
    for name, count in collections.Counter(names).items():
        if name and count > 1:
            numbers = " and ".join(str(n) for n, other in enumerate(names, 1) if other == name)
            raise DataError(
                f"found the column {name!r} more than once (columns {numbers}); rename one",
                Location(file, "line 1"),
            )


@contextlib.contextmanager
def _translate_errors(file: Path) -> Iterator[None]:
    """Raises DataError for errors of decompression and decoding."""
    try:
        yield
    except UnicodeError as error:
        encoding = getattr(error, "encoding", "text")
        raise DataError(f"not {encoding}: {error}", Location(file)) from None
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"damaged or truncated: {error}", Location(file)) from None
    except OSError as error:  # bz2 raises OSError for damaged data.
        reason = error.strerror or error
        raise DataError(f"cannot be read: {reason}", Location(file)) from None
