"""Where messages go: plain lines on stderr, or JSON lines on stdout for a cloud's log collector."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import functools
import json
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import TextIO

LOGGER = logging.getLogger("trainer")

_LEVEL_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
_ERRORS_ONLY, _FATAL_ONLY = "2", "3"
# Information and warnings, and the CUDA driver that a machine without a GPU does not have.
_GREETING = re.compile(
    r"[IW]\d{4} |WARNING: All log messages before absl|E\d{4} .*cuInit: .*\(303\)"
)


def configure(kind: str) -> None:
    """Sends messages to stderr as text ("text"), or to stdout as JSON lines ("json")."""
    handler = logging.StreamHandler(sys.stdout if kind == "json" else sys.stderr)
    handler.setFormatter(_JsonFormatter() if kind == "json" else logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    LOGGER.setLevel(logging.INFO)


def json_line(severity: str, message: str) -> str:
    """Returns a message as one line that Cloud Logging reads as a structured entry."""
    now = datetime.datetime.now(datetime.UTC).isoformat()
    return json.dumps({"severity": severity, "message": message, "timestamp": now})


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        return json_line(record.levelname, message)


def hide_native_errors() -> None:
    """Keeps off stderr what TensorFlow's C++ says of a lost host, in a dozen lines.

    Python gets it as an exception, which is told in one. It is to be called before TensorFlow is
    imported.
    """
    os.environ.setdefault(_LEVEL_VARIABLE, _FATAL_ONLY)


@contextlib.contextmanager
def suppress_native_logs() -> Iterator[None]:
    """Keeps off stderr what TensorFlow's C++ says of itself while it starts; the rest passes.

    It writes some lines before it reads TF_CPP_MIN_LOG_LEVEL. Who sets that lower gets everything.
    """
    level = os.environ.setdefault(_LEVEL_VARIABLE, _ERRORS_ONLY)
    if level not in (_ERRORS_ONLY, _FATAL_ONLY):
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught.read().decode(errors="replace").splitlines():
                if not _GREETING.match(line):
                    print(line, file=sys.stderr)


@functools.cache
def _nowhere() -> TextIO:
    # Open to the end: a library that begins to log meanwhile keeps the stream.
    stream = open(os.devnull, "w")
    atexit.register(stream.close)
    return stream


@contextlib.contextmanager
def output_hidden() -> Iterator[None]:
    """Keeps off stdout and stderr whatever is written there, by native code too.

    For libraries that talk while they work; what goes wrong comes as an exception. Who sets
    TF_CPP_MIN_LOG_LEVEL lower gets everything.
    """
    if os.environ.get(_LEVEL_VARIABLE, _ERRORS_ONLY) not in (_ERRORS_ONLY, _FATAL_ONLY):
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    disabled = logging.root.manager.disable
    try:
        logging.disable()
        for descriptor in (1, 2):
            os.dup2(_nowhere().fileno(), descriptor)
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(_nowhere()),  # Python's own streams may lead elsewhere.
            contextlib.redirect_stderr(_nowhere()),
        ):
            yield
    finally:
        logging.disable(disabled)
        for descriptor, original in zip((1, 2), kept, strict=True):
            os.dup2(original, descriptor)
            os.close(original)
