"""Texts in one UTF-8 file per class, `pos.txt` and `neg.txt`, with one example per line."""

from __future__ import annotations

import codecs
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer import storage
from trainer.data import damaged, splits
from trainer.data.dataset import Array, RawSplits, ReadRequest
from trainer.data.listing import Candidate, Listing
from trainer.data.tables import delimited, rows
from trainer.errors import DataError, Location
from trainer.runtime import memory

NAME = "a folder with one UTF-8 text file per class (pos.txt, neg.txt), one example per line"

MAX_CHARACTERS = 1_000_000  # Of one example.


# Names of files that list or describe the data, and are no class.
LISTS = frozenset({
    "classes", "labels", "label", "categories", "classnames", "names", "files", "filelist",
    "vocab", "vocabulary", "stopwords", "words", "index", "list", "ids", "features", "readme",
    "license", "licence", "info", "notes",
})  # fmt: skip


def is_list(name: str) -> bool:
    """Returns whether a text file lists or describes the data, by its name, and is no class."""
    stem = name.partition(".")[0]
    return stem.lower() in LISTS or bool(LISTS & set(splits.words_of(stem)))


def propose(listing: Listing, request: ReadRequest) -> Candidate | None:
    """Returns how text files would be read as classes; None if there are none."""
    texts = [
        file for file in listing.files
        if file.suffix.lower() == ".txt" and not rows.is_table(file)
        and (len(listing.relative(file)) == 1 or not listing.is_folder)
    ]  # fmt: skip
    if not texts:
        return None
    left_out = {
        file: "no class by its name" for file in texts
        if splits.from_name(file.name) is not None or is_list(file.name)
    }  # fmt: skip
    classes = tuple(file for file in texts if file not in left_out)
    within = sum(file.suffix.lower() == ".txt" for file in listing.files) - len(texts)
    problem = None
    if within > len(texts):
        problem = DataError(
            "found text files in folders that are neither classes nor tables", Location(texts[0])
        )
    elif len(classes) < 2:
        file_names = ", ".join(file.name for file in classes or texts)
        problem = DataError(
            f"found one class only ({file_names}), expected {NAME}", Location(texts[0])
        )
    for file in listing.files:
        if file not in texts:
            left_out[file] = "no .txt"
    return Candidate(
        format=sys.modules[__name__],
        files=classes,
        evidence=0 if problem else 1,
        summary="texts, one file per class and one text per line",
        left_out=left_out,
        error=problem,
    )


def read(candidate: Candidate, request: ReadRequest) -> RawSplits:
    """Reads the lines of each class as unsplit data; leaves out blank lines.

    Raises:
        DataError: a file is empty, or too many lines are damaged.
    """
    examples: list[str] = []
    labels: list[int] = []
    bad: list[DataError] = []
    for label, file in enumerate(candidate.files):
        lines = _read_lines(file, request, bad)
        if not lines:
            raise DataError("no examples, expected one per line", Location(file))
        examples += lines
        labels += [label] * len(lines)
    damaged.report(bad, len(examples) + len(bad), "lines", request)
    return RawSplits(
        train=(np.array(examples, dtype=object), np.array(labels, dtype=np.int32)),
        classes=tuple(unicodedata.normalize("NFC", file.stem) for file in candidate.files),
    )


def read_whole(files: Sequence[Path | str], request: ReadRequest) -> tuple[Array, list[bool]]:
    """Returns texts of one file each, and which files they are of; leaves out damaged ones.

    Args:
        files: local files as Path, files in a bucket as gs:// str.
        request: how they are read.

    Returns:
        Object array of str (n,); and for each file whether its text is among them.

    Raises:
        DataError: too many files are empty, too long, or not UTF-8.
        StorageError: an object in a bucket cannot be read.
    """
    encoding = request.options.encoding

    def read_text(file: Path | str) -> str | DataError:
        try:
            content = storage.read(file) if isinstance(file, str) else file.read_bytes()
            if encoding is not None:
                content = content.decode(encoding, errors="replace").encode()
            elif content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                content = content.decode("utf-16", errors="replace").encode()
            text = decode_line(content.removeprefix(codecs.BOM_UTF8))
            return text or DataError("found an empty file, expected a text", Location(file))
        except DataError as error:
            return error.at(Location(file))
        except OSError as error:
            return DataError(f"cannot be read: {error.strerror}", Location(file))

    results = list(storage.concurrent_map(read_text, files))
    texts = [text for text in results if isinstance(text, str)]
    errors = [error for error in results if isinstance(error, DataError)]
    damaged.report(errors, len(files), "texts", request)
    readable = [isinstance(result, str) for result in results]
    return np.array([*texts, None], dtype=object)[:-1], readable


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
            f"not UTF-8: found byte 0x{content[error.start]:02x}; save the file as UTF-8, "
            "or give its --encoding"
        ) from None
    if "\0" in text:
        raise DataError("found a NUL character, expected text; save the file as UTF-8, not UTF-16")
    if len(text) > MAX_CHARACTERS:
        raise DataError(
            f"found {len(text)} characters, expected one example per line, at most {MAX_CHARACTERS}"
        )
    return text


def _read_lines(file: Path, request: ReadRequest, bad: list[DataError]) -> list[str]:
    # Four copies: bytes, decoded text, lines, strings.
    memory.check_data(4 * file.stat().st_size, "a text file of this size", Location(file))
    texts = []
    encoding = request.options.encoding or delimited.find_encoding(file)
    content = file.read_bytes()
    if not encoding.startswith("utf-8"):
        content = content.decode(encoding, errors="replace").encode()
    # Not splitlines(), which also splits at form feeds and other separators within a sentence.
    lines = content.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            texts.append(decode_line(line))
        except DataError as error:
            bad.append(error.at(Location(file, f"line {number}")))
    return [text for text in texts if text]
