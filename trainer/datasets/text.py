"""Texts: a folder with one UTF-8 file a class, `pos.txt` and `neg.txt`, one example a line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from trainer import memory
from trainer.datasets.dataset import Array, Reading, Source
from trainer.errors import DataError

NAME = "a folder with one UTF-8 text file a class (pos.txt, neg.txt), one example a line"

_MOST_CHARACTERS = 1_000_000


def recognises(files: Sequence[Path]) -> bool:
    """Tells whether there is any text file."""
    return any(file.suffix == ".txt" for file in files)


def read(files: Sequence[Path], options: Reading) -> Source:
    """Reads the lines of each class; blank ones are left out. The data comes in one piece.

    Raises:
        DataError: a file is not UTF-8 or empty, or there is only one.
    """
    texts = [file for file in files if file.suffix == ".txt"]
    if len(texts) < 2:
        raise DataError(f"{texts[0].name}: found one class only, expected {NAME}")
    examples: list[str] = []
    labels: list[int] = []
    for label, file in enumerate(texts):
        lines = _lines(file)
        if not lines:
            raise DataError(f"{file.name}: no examples, expected one a line")
        examples += lines
        labels += [label] * len(lines)
    return Source(
        train=(np.array(examples, dtype=object), np.array(labels, dtype=np.int32)),
        classes=tuple(file.stem for file in texts),
    )


def whole(names: Sequence[str], contents: Iterable[bytes]) -> Array:
    """Reads texts in files of their own: object array of str (N,).

    Args:
        names: of the files, for messages.
        contents: of the files.

    Raises:
        DataError: one of them is empty, too long, or not UTF-8.
    """
    texts = np.empty(len(names), dtype=object)
    for number, (name, content) in enumerate(zip(names, contents, strict=True)):
        text = _decoded(content, name).strip()
        if not 0 < len(text) <= _MOST_CHARACTERS:
            raise DataError(
                f"{name}: {len(text)} characters, expected a text of 1 to {_MOST_CHARACTERS}"
            )
        texts[number] = text
    return texts


def _decoded(content: bytes, name: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}: line {line} is not UTF-8: found byte 0x{content[error.start]:02x}"
        ) from None
    if "\0" in text:
        number = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{name}: line {number} holds a NUL character; is the file UTF-16?")
    return text


def _lines(file: Path) -> list[str]:
    memory.check_data(4 * file.stat().st_size, file.name)  # Bytes, text, lines, strings.
    text = _decoded(file.read_bytes(), file.name)
    # Not splitlines(): it also splits at form feeds and other separators within a sentence.
    lines = [line.strip() for line in text.split("\n")]
    for number, example in enumerate(lines, 1):
        if len(example) > _MOST_CHARACTERS:
            raise DataError(
                f"{file.name}: line {number} has {len(example)} characters, expected one example a "
                f"line, at most {_MOST_CHARACTERS}"
            )
    return [line for line in lines if line]
