"""Checks and normalises the paths that users give: local ones, and gs://bucket/path."""

from __future__ import annotations

import os
import re
import urllib.parse

from trainer.storage._paths import SCHEME, has_bucket

_EXPECTED = "a local path or gs://bucket/path"
# "a:/" and "a://" begin like a URL, "C:\\" like a path of Windows; "a:b" is a usual name, unless a
# is the scheme of a store.
_URL = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*):[/\\]|(gs|gcs|s3|s3a|s3n|file|https?):", re.IGNORECASE
)
_FILE_URL = re.compile(r"file:(?://(?:localhost)?(?=/)|(?=/(?!/)))", re.IGNORECASE)
_HOME = re.compile(r"\$(HOME\b|\{HOME\})(?=/|$)")
# Not $ alone: it is part of the names of many objects and files.
_VARIABLE = re.compile(r"\$\{\w+\}|\$\(\w+\)|(?<![^/])\$[A-Za-z_]\w*(?=/|$)")


def normalise(value: str) -> str:
    """Returns a path in the form that this program uses.

    Understands GS:// and file:///path; expands ~ and $HOME at the beginning of a local path, as a
    shell would, since arguments of containers and configuration files pass through none.

    Raises:
        ValueError: what was expected; the path has another scheme, an unknown user after ~, a
            variable that nothing expanded, or a space at its ends.
    """
    if value != value.strip() and not os.path.lexists(value):
        raise ValueError("a path without spaces at its ends")
    if value[: len(SCHEME)].lower() == SCHEME:
        value = SCHEME + value[len(SCHEME) :]
        if not has_bucket(value):
            raise ValueError("gs://bucket/path")
    elif is_file_url := _FILE_URL.match(value):
        value = urllib.parse.unquote(value[is_file_url.end() :])
    elif _URL.match(value) or "://" in value:
        raise ValueError(_EXPECTED)
    else:
        value = _expand_home(value)
    variable = _VARIABLE.search(value)
    if variable and not os.path.lexists(value):
        raise ValueError(f"a path without variables: {variable[0]} is not expanded here")
    return value


def without_trailing_slash(value: str) -> str:
    """Returns the path of a folder; otherwise a bucket would hold "runs/1//config.json"."""
    short = value.rstrip("/")
    return value if not short or short.endswith(":") else short


def _expand_home(value: str) -> str:
    if _HOME.match(value):
        value = _HOME.sub("~", value, count=1)
    expanded = os.path.expanduser(value)
    if expanded.startswith("~") and not os.path.lexists(value):
        raise ValueError("a path without ~, which is no user's home here")
    return expanded
