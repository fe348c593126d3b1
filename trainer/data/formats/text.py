"""Texts: a folder with one UTF-8 file a class, `pos.txt` and `neg.txt`, one example a line."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from trainer.data.dataset import Array, RawSplits, ReadRequest
from trainer.errors import DataError, Location
from trainer.runtime import memory

NAME = "a folder with one UTF-8 text file a class (pos.txt, neg.txt), one example a line"

MAX_CHARACTERS = 1_000_000


def recognises(files: Sequence[Path]) -> bool:
    """Tells whether there is any text file."""
    return any(file.suffix == ".txt" for file in files)


def read(files: Sequence[Path], request: ReadRequest) -> RawSplits:
    """Reads the lines of each class; blank ones are left out. The data comes in one piece.

    Raises:
        DataError: a file is not UTF-8 or empty, or there is only one.
    """
    texts = [file for file in files if file.suffix == ".txt"]
    if len(texts) < 2:
        raise DataError(f"found one class only, expected {NAME}", Location(texts[0]))
    examples: list[str] = []
    labels: list[int] = []
    for label, file in enumerate(texts):
        lines = _lines(file)
        if not lines:
            raise DataError("no examples, expected one a line", Location(file))
        examples += lines
        labels += [label] * len(lines)
    return RawSplits(
        train=(np.array(examples, dtype=object), np.array(labels, dtype=np.int32)),
        classes=tuple(file.stem for file in texts),
    )


def whole(items: Iterable[tuple[Location, bytes]], count: int) -> Array:
    """Reads texts in files of their own: object array of str (N,).

    Args:
        items: the files, each with its content.
        count: how many there are.

    Raises:
        DataError: one of them is empty, too long, or not UTF-8.
    """
    texts = np.empty(count, dtype=object)
    for number, (place, content) in enumerate(items):
        try:
            texts[number] = line(content.removeprefix(codecs.BOM_UTF8))
        except DataError as error:
            raise error.at(place) from None
        if not texts[number]:
            raise DataError("found an empty file, expected a text", place)
    return texts


def line(content: bytes) -> str:
    """Returns the text of a line without the space around it; "" if there is nothing else.

    Args:
        content: what stands between two line feeds, or two ends of the file.

    Raises:
        DataError: it is no text of one example; the error has no place.
    """
    try:
        text = content.decode().strip()
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: found byte 0x{content[error.start]:02x}") from None
    if "\0" in text:
        raise DataError("a NUL character; is the file UTF-16?")
    if len(text) > MAX_CHARACTERS:
        raise DataError(
            f"found {len(text)} characters, expected one example a line, at most {MAX_CHARACTERS}"
        )
    return text


def _lines(file: Path) -> list[str]:
    # Bytes, text, lines, strings.
    memory.check_data(4 * file.stat().st_size, "a text file of this size", Location(file))
    found = []
    # Not splitlines(): it also splits at form feeds and other separators within a sentence.
    lines = file.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    for number, content in enumerate(lines, 1):
        try:
            found.append(line(content))
        except DataError as error:
            raise error.at(Location(file, f"line {number}")) from None
    return [text for text in found if text]
