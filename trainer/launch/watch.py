"""A job of Vertex AI, watched until it ends."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

from trainer.errors import RemoteJobError
from trainer.launch.jobs import Jobs
from trainer.launch.logs import JobLog
from trainer.launch.rest import RequestError

_STATE = "JOB_STATE_"
_SUCCEEDED = "SUCCEEDED"
_ENDED = (_SUCCEEDED, "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")
_QUIET_POLLS = 2  # Without a line after the end; the service takes some seconds to show the last.


def until_end(jobs: Jobs, job: Mapping[str, Any], log: JobLog) -> dict[str, Any]:
    """Tells a job's states on stderr, and its log on stdout, and returns the job when it has ended.

    Looks every 10 s, or `TRAINER_POLL_SECONDS`.

    Raises:
        UsageError: the job is not there any more.
        TransientStorageError: the service fails for too long; the job goes on.
    """
    known = ""
    while True:
        job = jobs.read(job["name"])
        if state_of(job) != known:
            known = state_of(job)
            print(f"state: {known}", file=sys.stderr)
        if known in _ENDED:
            _print_rest(log)
            return dict(job)
        _print_new(log)
        time.sleep(_poll_s())


def state_of(job: Mapping[str, Any]) -> str:
    """Returns the state of a job as the documentation calls it: RUNNING, say."""
    return str(job.get("state", "")).removeprefix(_STATE)


def check_succeeded(job: Mapping[str, Any]) -> None:
    """Raises RemoteJobError, with the exit code of the container, unless a job has succeeded."""
    if state_of(job) == _SUCCEEDED:
        return
    message = job.get("error", {}).get("message", "no reason is given")
    status = re.search(r"exited with a non-zero status of (\d+)", message)
    exit_code = int(status[1]) if status else 1
    raise RemoteJobError(
        f"{job['name']}: {state_of(job)}: {message}",
        exit_code=exit_code if 0 < exit_code < 256 else 1,
    )


def _print_rest(log: JobLog) -> None:
    quiet = 0
    while log.readable and quiet < _QUIET_POLLS:
        quiet = 0 if _print_new(log) else quiet + 1
        time.sleep(_poll_s())


def _print_new(log: JobLog) -> bool:
    """Prints the log's new lines; tells whether there were any."""
    try:
        lines = log.new_lines()
    except RequestError as error:
        print(f"warning: no log lines for now: {error}", file=sys.stderr)
        return False
    for line in lines:
        print(line)
    sys.stdout.flush()
    return bool(lines)


def _poll_s() -> float:
    return float(os.environ.get("TRAINER_POLL_SECONDS", "10"))
