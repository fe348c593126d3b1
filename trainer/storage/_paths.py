"""Paths, local and in buckets, as strings; and the few things that both kinds of place share."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from pathlib import Path

import google_crc32c

from trainer.errors import DataError, Location

SCHEME = "gs://"
PARTIAL = ".partial"
PROBE = ".probe-"
THREADS = 8  # Below the client's 10 pooled connections; 100 small objects a second at 30 ms each.


def is_remote(path: str) -> bool:
    """Tells whether a path lies in a bucket."""
    return path.startswith(SCHEME)


def is_pattern(path: str) -> bool:
    """Tells whether a path stands for all files that it matches, as gs://bucket/part-*.jsonl.

    Of shells' patterns only `*`: the others are often parts of names.
    """
    return "*" in path.rpartition("/")[2]


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """Returns those names, with their folders, that a pattern in its last part matches; sorted."""
    return sorted(filter(shape(pattern).fullmatch, names))


def shape(pattern: str) -> re.Pattern[str]:
    folder, slash, last = pattern.rpartition("/")
    return re.compile(re.escape(folder + slash) + "[^/]*".join(map(re.escape, last.split("*"))))


def is_temporary(name: str) -> bool:
    """Tells whether a file is what a killed process left of a write that it had begun."""
    last = name.rpartition("/")[2]
    return last.startswith(PROBE) or (last.startswith(".") and last.endswith(PARTIAL))


def is_hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name


def check_size(path: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise DataError(f"{size:,} bytes, expected at most {max_bytes:,}", Location(path))


def crc32c(path: Path) -> str:
    """Returns the CRC32C of a file as Cloud Storage writes it: base64, big-endian."""
    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        for _ in checksum.consume(file, 1 << 20):
            pass
    return base64.b64encode(checksum.digest()).decode()
