"""Texts in one UTF-8 file per class, `pos.txt` and `neg.txt`, with one example per line."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from trainer.data.dataset import Array, RawSplits, ReadRequest
from trainer.errors import DataError, Location
from trainer.runtime import memory

NAME = "a folder with one UTF-8 text file per class (pos.txt, neg.txt), one example per line"

MAX_CHARACTERS = 1_000_000  # Of one example.


def recognises(files: Sequence[Path]) -> bool:
    """Returns whether there is any text file."""
    return any(file.suffix == ".txt" for file in files)


def read(files: Sequence[Path], request: ReadRequest) -> RawSplits:
    """Reads the lines of each class as unsplit data; leaves out blank lines.

    Raises:
        DataError: a file is empty or not UTF-8, or there is only one file.
    """
    texts = [file for file in files if file.suffix == ".txt"]
    if len(texts) < 2:
        raise DataError(f"found one class only, expected {NAME}", Location(texts[0]))
    examples: list[str] = []
    labels: list[int] = []
    for label, file in enumerate(texts):
        lines = _read_lines(file)
        if not lines:
            raise DataError("no examples, expected one per line", Location(file))
        examples += lines
        labels += [label] * len(lines)
    return RawSplits(
        train=(np.array(examples, dtype=object), np.array(labels, dtype=np.int32)),
        classes=tuple(file.stem for file in texts),
    )


def read_whole(items: Iterable[tuple[Location, bytes]], count: int) -> Array:
    """Returns texts of one file each: object array of str (N,).

    Args:
        items: location and content of each file.
        count: number of files.

    Raises:
        DataError: a file is empty, too long, or not UTF-8.
    """
    texts = np.empty(count, dtype=object)
    for number, (location, content) in enumerate(items):
        try:
            texts[number] = decode_line(content.removeprefix(codecs.BOM_UTF8))
        except DataError as error:
            raise error.at(location) from None
        if not texts[number]:
            raise DataError("found an empty file, expected a text", location)
    return texts


def decode_line(content: bytes) -> str:
    """Returns the text of one example without surrounding whitespace, which may be empty.

    Args:
        content: a line without its line feed, or a whole file.

    Raises:
        DataError: it is not UTF-8, too long, or has a NUL character; without a location.
    """
    try:
        text = content.decode().strip()
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8: found byte 0x{content[error.start]:02x}; save the file as UTF-8"
        ) from None
    if "\0" in text:
        raise DataError("found a NUL character, expected text; save the file as UTF-8, not UTF-16")
    if len(text) > MAX_CHARACTERS:
        raise DataError(
            f"found {len(text)} characters, expected one example per line, at most {MAX_CHARACTERS}"
        )
    return text


def _read_lines(file: Path) -> list[str]:
    # Four copies: bytes, decoded text, lines, strings.
    memory.check_data(4 * file.stat().st_size, "a text file of this size", Location(file))
    texts = []
    # Not splitlines(), which also splits at form feeds and other separators within a sentence.
    lines = file.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    for number, content in enumerate(lines, 1):
        try:
            texts.append(decode_line(content))
        except DataError as error:
            raise error.at(Location(file, f"line {number}")) from None
    return [text for text in texts if text]
