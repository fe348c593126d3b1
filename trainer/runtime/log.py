"""Configures the log: text on stderr, or JSON lines on stdout for Cloud Logging."""

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
import warnings
from collections.abc import Iterator
from typing import TextIO

from trainer.runtime import streams

LOGGER = logging.getLogger("trainer")

_LEVEL_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
_ERRORS_ONLY, _FATAL_ONLY = "2", "3"
# Information and warnings, and the missing CUDA driver of a machine without a GPU.
_STARTUP_LINE = re.compile(
    r"[IW]\d{4} |WARNING: All log messages before absl|E\d{4} .*cuInit: .*\(303\)"
)


def configure(kind: str) -> None:
    """Logs to stderr as text ("text"), or to stdout as JSON lines ("json")."""
    logging.basicConfig(level=logging.WARNING, handlers=[_handler(kind, _Handler)], force=True)
    LOGGER.setLevel(logging.INFO)


@contextlib.contextmanager
def fallback_handler(kind: str) -> Iterator[None]:
    """Logs within as `configure` does, unless the program configured logging; undone at the end."""
    level = LOGGER.level
    if level == logging.NOTSET:
        LOGGER.setLevel(logging.INFO)
    # At the root, or absl, which Keras logs with, would add a handler there.
    handler = None if logging.root.handlers or LOGGER.handlers else _handler(kind)
    if handler is not None:
        logging.root.addHandler(handler)
    try:
        yield
    finally:
        if handler is not None:
            logging.root.removeHandler(handler)
        LOGGER.setLevel(level)


class _Handler(logging.StreamHandler[TextIO]):
    """Raises BrokenPipeError when the reader of the log is gone; the program then ends, as others.

    logging itself prints a traceback for each line.
    """

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            raise
        super().handleError(record)


def _handler(
    kind: str, cls: type[logging.StreamHandler[TextIO]] = logging.StreamHandler
) -> logging.Handler:
    handler = cls(sys.stdout if kind == "json" else sys.stderr)
    handler.setFormatter(_JsonFormatter() if kind == "json" else logging.Formatter("%(message)s"))
    return handler


def json_line(severity: str, message: str) -> str:
    """Returns a message as one JSON line, a structured entry of Cloud Logging."""
    now = datetime.datetime.now(datetime.UTC).isoformat()
    return json.dumps({"severity": severity, "message": message, "timestamp": now})


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        return json_line(record.levelname, message)


def suppress_native_errors() -> None:
    """Hides the errors that TensorFlow's C++ code logs when a worker is lost.

    They reach Python as one exception, which is reported. Must be called before TensorFlow is
    imported.
    """
    os.environ.setdefault(_LEVEL_VARIABLE, _FATAL_ONLY)


@contextlib.contextmanager
def suppress_native_logs() -> Iterator[None]:
    """Hides the start-up lines that native code of TensorFlow writes to stderr; prints the rest.

    TensorFlow writes some lines before it reads TF_CPP_MIN_LOG_LEVEL. If that variable is set to
    0 or 1, nothing is hidden.
    """
    level = os.environ.setdefault(_LEVEL_VARIABLE, _ERRORS_ONLY)
    if level not in (_ERRORS_ONLY, _FATAL_ONLY):
        yield
        return
    streams.open_closed()  # Of a program that is no command of this package, too.
    sys.stderr.flush()
    stderr = os.dup(2)
    # In memory: there may be no folder for temporary files, which is reported later.
    with open(os.memfd_create("stderr"), "w+b") as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            captured.seek(0)
            for line in captured.read().decode(errors="replace").splitlines():
                if not _STARTUP_LINE.match(line):
                    print(line, file=sys.stderr)


@functools.cache
def _null_stream() -> TextIO:
    # Kept open until exit: a library that starts to log meanwhile keeps a reference to it.
    stream = open(os.devnull, "w")
    atexit.register(stream.close)
    return stream


@contextlib.contextmanager
def suppress_output() -> Iterator[None]:
    """Discards everything that Python and native code write to stdout and stderr.

    For libraries that print while they work and report errors by exceptions. If
    TF_CPP_MIN_LOG_LEVEL is set to 0 or 1, nothing is discarded.
    """
    if os.environ.get(_LEVEL_VARIABLE, _ERRORS_ONLY) not in (_ERRORS_ONLY, _FATAL_ONLY):
        yield
        return
    streams.open_closed()
    sys.stdout.flush()
    sys.stderr.flush()
    originals = os.dup(1), os.dup(2)
    disabled = logging.root.manager.disable
    try:
        logging.disable()
        for descriptor in (1, 2):
            os.dup2(_null_stream().fileno(), descriptor)
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(_null_stream()),  # sys.stdout may not be descriptor 1.
            contextlib.redirect_stderr(_null_stream()),
        ):
            yield
    finally:
        logging.disable(disabled)
        for descriptor, original in zip((1, 2), originals, strict=True):
            os.dup2(original, descriptor)
            os.close(original)
