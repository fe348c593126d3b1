"""Reads lines of a stream and rows of CSV one at a time, in memory that does not grow with it."""

from __future__ import annotations

import codecs
import collections
import csv
import io
import select

from trainer.data.formats.text import MAX_CHARACTERS
from trainer.errors import DataError

_CHUNK_BYTES = 1 << 20
_IDLE_S = 0.1  # A live stream without a new line for this long is idle.


class Lines:
    """Iterates over lines, without line feeds, and continues after a DataError for one of them.

    Attributes:
        number: number of the line that was returned last, from 1.
    """

    def __init__(self, content: io.BufferedReader, *, max_bytes: int, live: bool) -> None:
        """Starts at the current position of a stream of UTF-8.

        Args:
            content: the stream.
            max_bytes: maximum size of a line; a longer one is an error.
            live: whether another program may be writing to the stream, and wait for answers.
        """
        self.number = 0
        self._content, self._max_bytes, self._live = content, max_bytes, live
        self._complete: collections.deque[bytes] = collections.deque()
        self._partial = bytearray()
        self._ended = False

    def __iter__(self) -> Lines:
        """Returns itself."""
        return self

    def __next__(self) -> bytes:
        """Returns the next line.

        Raises:
            DataError: the line is too long.
        """
        while not self._complete:
            if self._ended:
                raise StopIteration
            self._fill()
        self.number += 1
        line = self._complete.popleft()
        if len(line) > self._max_bytes:
            raise DataError(
                f"a line of more than {self._max_bytes} bytes, expected one example per line"
            )
        return line.removeprefix(codecs.BOM_UTF8) if self.number == 1 else line

    def is_idle(self) -> bool:
        """Returns whether a live stream has no next line, and nothing arrives for 0.1 s."""
        if self._complete or self._ended or not self._live:
            return False
        return not select.select([self._content], [], [], _IDLE_S)[0]

    def _fill(self) -> None:
        # Returns what has arrived, even if that is less: a complete line must not wait for others.
        chunk = self._content.read1(_CHUNK_BYTES)
        first, *others = chunk.split(b"\n")
        if len(self._partial) <= self._max_bytes:  # The rest of a line that is too long is dropped.
            self._partial += first
        if others:
            *complete, last = others
            self._complete.append(bytes(self._partial))
            self._complete.extend(complete)
            self._partial = bytearray(last)
        if not chunk:
            self._ended = True
            if self._partial:
                self._complete.append(bytes(self._partial))


class Rows:
    """Iterates over CSV rows that are not empty, and continues after a DataError for one of them.

    Attributes:
        number: number of the line in which the last returned row begins, from 1.
    """

    def __init__(self, lines: Lines, *, delimiter: str = ",") -> None:
        """Starts at the next of the lines."""
        self.number = 0
        self._lines = lines
        csv.field_size_limit(MAX_CHARACTERS)
        # `map`, not a generator, which would end after an error.
        self._rows = csv.reader(map(_decode, lines), delimiter=delimiter)
        self._pushed_back: list[str] | None = None

    def __iter__(self) -> Rows:
        """Returns itself."""
        return self

    def __next__(self) -> list[str]:
        """Returns the cells of the next row.

        Raises:
            DataError: the row is not CSV, or not UTF-8.
        """
        if self._pushed_back is not None:
            row, self._pushed_back = self._pushed_back, None
            return row
        while True:
            self.number = self._lines.number + 1
            try:
                row = next(self._rows)
            except csv.Error as error:
                raise DataError(f"not CSV: {error}") from None
            if row:
                return row

    def push_back(self, row: list[str]) -> None:
        """Makes the row that was returned last the next one again."""
        self._pushed_back = row

    def is_idle(self) -> bool:
        """Returns whether a live stream has no next row, and nothing arrives for 0.1 s."""
        return self._lines.is_idle()


def _decode(line: bytes) -> str:
    try:
        return line.decode() + "\n"
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8: found byte 0x{line[error.start]:02x}; save the file as UTF-8"
        ) from None
