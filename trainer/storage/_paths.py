"""Functions on local and gs:// paths, and constants that both kinds of folder share."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from pathlib import Path

import google_crc32c

from trainer.errors import DataError, Location

SCHEME = "gs://"
MOUNT = "/gcs/"  # Local folder where Vertex AI mounts buckets.
PARTIAL = ".partial"
PROBE = ".probe-"
MAX_NAME_BYTES = 255  # Of a file, on the file systems of Linux.
THREADS = 8  # Below the client's 10 pooled connections; 100 small objects a second at 30 ms each.


def is_remote(path: str) -> bool:
    """Returns whether a path is in a bucket."""
    return path.startswith(SCHEME)


def is_mounted(path: str) -> bool:
    """Returns whether a path is in a bucket that Vertex AI mounted as a local folder."""
    return path.startswith(MOUNT)


def has_bucket(path: str) -> bool:
    """Returns whether a path is gs:// with the name of a bucket."""
    return is_remote(path) and path.removeprefix(SCHEME).partition("/")[0] != ""


def is_pattern(path: str) -> bool:
    """Returns whether the last component of a path is a pattern, as in gs://bucket/part-*.jsonl.

    Only `*` is supported: other wildcards of shells are common characters of file names.
    """
    return "*" in path.rpartition("/")[2]


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """Returns the paths among `names` that match a pattern in its last component, sorted."""
    return sorted(filter(pattern_regex(pattern).fullmatch, names))


def pattern_regex(pattern: str) -> re.Pattern[str]:
    """Returns the expression of a pattern; `*` stands for any characters but `/`."""
    folder, slash, last = pattern.rpartition("/")
    return re.compile(re.escape(folder + slash) + "[^/]*".join(map(re.escape, last.split("*"))))


def is_temporary(name: str) -> bool:
    """Returns whether a file is the temporary file of a write, left behind by a killed process."""
    last = name.rpartition("/")[2]
    return last.startswith(PROBE) or (last.startswith(".") and last.endswith(PARTIAL))


def is_hidden(name: str) -> bool:
    """Returns whether the name of a file, or of a folder around it, begins with a dot."""
    return name.startswith(".") or "/." in name


def check_size(path: str, size: int, max_bytes: int) -> None:
    """Raises DataError if a file of `size` bytes is larger than `max_bytes`."""
    if size > max_bytes:
        raise DataError(f"{size:,} bytes, expected at most {max_bytes:,}", Location(path))


def crc32c(path: Path) -> str:
    """Returns the CRC32C of a file as Cloud Storage writes it: base64, big-endian."""
    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        for _ in checksum.consume(file, 1 << 20):
            pass
    return base64.b64encode(checksum.digest()).decode()
