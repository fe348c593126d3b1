"""Closed streams, closed pipes and full devices end no command with a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.kills import ROOT

# A command of the program without the time to import TensorFlow.
COMMAND = """
import sys
from trainer.config import command_line
from trainer.runtime import log
from trainer.runtime.log import LOGGER
with command_line.exit_codes("trainer", sys.argv[1:]):
    log.configure(sys.argv[1])
    with log.suppress_native_logs(), log.suppress_output():
        pass
    for number in range(int(sys.argv[2])):
        LOGGER.info("epoch %d", number)
        print("row", number)
    if len(sys.argv) > 3:
        from trainer.errors import DataError
        raise DataError("wrong")
"""


def shell(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a script of bash, in which "$@" is the command."""
    return subprocess.run(
        ["bash", "-c", script, "bash", sys.executable, "-c", COMMAND, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-", "<&-", ">&- 2>/dev/null"])
@pytest.mark.parametrize("log", ["text", "json"])
def test_closed_streams_are_as_dev_null(closed: str, log: str) -> None:
    result = shell(f'"$@" {closed}; echo "code $?"', log, "3")
    lines = (result.stdout + result.stderr).splitlines()
    assert "code 0" in lines
    assert "Traceback" not in result.stderr
    assert ("row 2" in lines) == (">&-" not in f" {closed}".replace("2>&-", ""))
    failed = shell(f'"$@" {closed}; echo "code $?"', log, "0", "fail")
    assert "code 2" in failed.stdout


@pytest.mark.parametrize(
    ("script", "log"),
    [
        ('"$@" 2>&1 | head -1; echo "code ${PIPESTATUS[0]}"', "text"),
        ('"$@" 2>&1 >/dev/null | head -1; echo "code ${PIPESTATUS[0]}"', "text"),
        ('"$@" | head -1; echo "code ${PIPESTATUS[0]}"', "json"),
        ('"$@" 2>/dev/null | head -1; echo "code ${PIPESTATUS[0]}"', "text"),
    ],
)
def test_a_log_whose_reader_is_gone_ends_the_command_quietly(script: str, log: str) -> None:
    result = shell(script, log, "100000")
    assert result.stdout.splitlines()[-1] == "code 141"
    assert len(result.stdout.splitlines()) == 2
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr


def test_an_error_that_nobody_reads_keeps_its_exit_code() -> None:
    result = shell('"$@" 2>&1 | true; echo "code ${PIPESTATUS[0]}"', "text", "0", "fail")
    assert result.stdout == "code 2\n"


def test_output_to_a_full_device_is_one_line() -> None:
    result = shell('"$@" >/dev/full; echo "code $?"', "text", "3")
    assert result.stdout == "code 2\n"
    assert result.stderr.splitlines()[-1] == "trainer: error: output: No space left on device"
