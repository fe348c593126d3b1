"""Lines of a stream, and rows of its CSV: one at a time, whatever the size of the whole."""

from __future__ import annotations

import codecs
import collections
import csv
import io
import select

from trainer.data.formats.text import MAX_CHARACTERS
from trainer.errors import DataError

_PIECE_BYTES = 1 << 20
_PATIENCE_S = 0.1


class Lines:
    """Iterates over lines, without their ends, and goes on after a DataError for one of them.

    Attributes:
        number: of the line that was given last, from 1.
    """

    def __init__(self, content: io.BufferedReader, *, max_bytes: int, live: bool) -> None:
        """Takes a stream of UTF-8 from its start.

        Args:
            content: the stream.
            max_bytes: of a line; a longer one is an error.
            live: whether somebody may be writing to it, and wait for answers.
        """
        self.number = 0
        self._content, self._most, self._live = content, max_bytes, live
        self._ready: collections.deque[bytes] = collections.deque()
        self._begun = bytearray()
        self._ended = False

    def __iter__(self) -> Lines:
        """Returns itself."""
        return self

    def __next__(self) -> bytes:
        """Returns the next line.

        Raises:
            DataError: it is too long.
        """
        while not self._ready:
            if self._ended:
                raise StopIteration
            self._fill()
        self.number += 1
        line = self._ready.popleft()
        if len(line) > self._most:
            raise DataError(f"a line of more than {self._most} bytes, expected one example a line")
        return line.removeprefix(codecs.BOM_UTF8) if self.number == 1 else line

    def waits(self) -> bool:
        """Tells whether the next line is not there yet, and did not come for a while."""
        if self._ready or self._ended or not self._live:
            return False
        return not select.select([self._content], [], [], _PATIENCE_S)[0]

    def _fill(self) -> None:
        # What is there, be it less: a line that was written is not to wait for others.
        piece = self._content.read1(_PIECE_BYTES)
        first, *others = piece.split(b"\n")
        if len(self._begun) <= self._most:  # Of a line that is too long, no more is kept.
            self._begun += first
        if others:
            *whole, last = others
            self._ready.append(bytes(self._begun))
            self._ready.extend(whole)
            self._begun = bytearray(last)
        if not piece:
            self._ended = True
            if self._begun:
                self._ready.append(bytes(self._begun))


class Rows:
    """Iterates over rows of CSV that are not empty, and goes on after a DataError for one of them.

    Attributes:
        number: of the line in which the row began that was given last, from 1.
    """

    def __init__(self, lines: Lines) -> None:
        """Takes the lines of a file."""
        self.number = 0
        self._lines = lines
        csv.field_size_limit(MAX_CHARACTERS)
        # Not a generator, which would be over after an error.
        self._rows = csv.reader(map(_decoded, lines))
        self._again: list[str] | None = None

    def __iter__(self) -> Rows:
        """Returns itself."""
        return self

    def __next__(self) -> list[str]:
        """Returns the cells of the next row.

        Raises:
            DataError: it is no CSV, or not UTF-8.
        """
        if self._again is not None:
            row, self._again = self._again, None
            return row
        while True:
            self.number = self._lines.number + 1
            try:
                row = next(self._rows)
            except csv.Error as error:
                raise DataError(f"no CSV: {error}") from None
            if row:
                return row

    def put_back(self, row: list[str]) -> None:
        """Makes the row that was given last the next one again."""
        self._again = row

    def waits(self) -> bool:
        """Tells whether the next row is not there yet, and did not come for a while."""
        return self._lines.waits()


def _decoded(line: bytes) -> str:
    try:
        return line.decode() + "\n"
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: found byte 0x{line[error.start]:02x}") from None
