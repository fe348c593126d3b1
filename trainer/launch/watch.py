"""Watches a Vertex AI job until it ends."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from typing import Any

from trainer.errors import RemoteJobError
from trainer.launch.jobs import Jobs
from trainer.launch.logs import JobLog
from trainer.launch.rest import RequestError
from trainer.runtime import variables

_STATE = "JOB_STATE_"
_SUCCEEDED = "SUCCEEDED"
_FINAL_STATES = (_SUCCEEDED, "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")
# Polls without a new line before the log of an ended job counts as complete: Cloud Logging shows
# the last lines some seconds late.
_QUIET_POLLS = 2


def until_end(jobs: Jobs, job: Mapping[str, Any], log: JobLog) -> dict[str, Any]:
    """Prints a job's states on stderr and its log on stdout until it ends; returns the ended job.

    Polls every 10 s, or every `TRAINER_POLL_SECONDS`.

    Raises:
        UsageError: the job no longer exists.
        TransientStorageError: the service fails for too long; the job continues to run.
    """
    state = ""
    while True:
        job = jobs.read(job["name"])
        if state_of(job) != state:
            state = state_of(job)
            print(f"state: {state}", file=sys.stderr)
        if state in _FINAL_STATES:
            _print_remaining(log)
            return dict(job)
        _print_new(log)
        time.sleep(_poll_s())


def state_of(job: Mapping[str, Any]) -> str:
    """Returns the state of a job without its prefix, such as RUNNING."""
    return str(job.get("state", "")).removeprefix(_STATE)


def check_succeeded(job: Mapping[str, Any]) -> None:
    """Raises RemoteJobError, with the container's exit code, unless a job has succeeded."""
    if state_of(job) == _SUCCEEDED:
        return
    message = job.get("error", {}).get("message", "no reason is given")
    status = re.search(r"exited with a non-zero status of (\d+)", message)
    exit_code = int(status[1]) if status else 1
    raise RemoteJobError(
        f"{job['name']}: {state_of(job)}: {message}",
        exit_code=exit_code if 0 < exit_code < 256 else 1,
    )


def _print_remaining(log: JobLog) -> None:
    quiet_polls = 0
    while log.readable and quiet_polls < _QUIET_POLLS:
        quiet_polls = 0 if _print_new(log) else quiet_polls + 1
        time.sleep(_poll_s())


def _print_new(log: JobLog) -> bool:
    """Prints the log's new lines; returns whether there were any."""
    try:
        lines = log.new_lines()
    except RequestError as error:
        print(f"warning: cannot read the job's log now, will retry: {error}", file=sys.stderr)
        return False
    for line in lines:
        print(line)
    sys.stdout.flush()
    return bool(lines)


def _poll_s() -> float:
    return variables.seconds(variables.POLL)
