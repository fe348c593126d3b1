"""Texts: a folder with one UTF-8 file a class, `pos.txt` and `neg.txt`, one example a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.datasets.dataset import Source
from trainer.errors import DataError

NAME = "a folder with one UTF-8 text file a class (pos.txt, neg.txt), one example a line"


def recognises(files: Sequence[Path]) -> bool:
    """Tells whether there is any text file."""
    return any(file.suffix == ".txt" for file in files)


def read(files: Sequence[Path], *, allow_pickle: bool = False) -> Source:
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


def _lines(file: Path) -> list[str]:
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file.name}: line {line} is not UTF-8: found byte 0x{content[error.start]:02x}"
        ) from None
    # Not splitlines(): it also splits at form feeds and other separators within a sentence.
    return [line for line in (line.strip() for line in text.split("\n")) if line]
