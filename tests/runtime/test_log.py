"""The log of a program that uses the package as a library."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator

import pytest

from trainer.runtime import log
from trainer.runtime.log import LOGGER


@contextlib.contextmanager
def unconfigured() -> Iterator[None]:
    """Logging as in a new process: without pytest's handlers, which it adds for each test."""
    handlers, level = logging.root.handlers[:], LOGGER.level
    logging.root.handlers.clear()
    LOGGER.setLevel(logging.NOTSET)
    try:
        yield
    finally:
        logging.root.handlers[:] = handlers
        LOGGER.setLevel(level)


@unconfigured()
def test_messages_go_to_stderr_within_the_block_only(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with log.fallback_handler("text"):
            LOGGER.info("epoch 1")
        LOGGER.info("hidden")
    assert capsys.readouterr().err == "epoch 1\nepoch 1\n"
    assert not logging.root.handlers
    assert LOGGER.level == logging.NOTSET


@unconfigured()
def test_json_lines_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with log.fallback_handler("json"):
        LOGGER.warning("slow")
    assert json.loads(capsys.readouterr().out)["severity"] == "WARNING"


@unconfigured()
def test_a_program_that_configured_logging_gets_the_messages_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = io.StringIO()
    logging.basicConfig(stream=stream, format="mine: %(message)s")
    with log.fallback_handler("text"):
        LOGGER.info("epoch 1")
    assert stream.getvalue() == "mine: epoch 1\n"
    assert capsys.readouterr() == ("", "")


@unconfigured()
def test_a_level_that_the_program_set_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    LOGGER.setLevel(logging.ERROR)
    with log.fallback_handler("text"):
        LOGGER.warning("hidden")
        LOGGER.error("shown")
    assert capsys.readouterr().err == "shown\n"
    assert LOGGER.level == logging.ERROR
