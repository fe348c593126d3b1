"""Reads the log of a Vertex AI job from Cloud Logging, each line once."""

from __future__ import annotations

import datetime
import sys
from typing import Any

from trainer.launch import jobs
from trainer.launch.rest import Client, RequestError

# Entries of one job arrive in no strict order: each call reads this much of the past again. An
# entry that arrives later than that is lost.
_OVERLAP = datetime.timedelta(seconds=60)
_PAGE_SIZE = 1000  # The service's maximum.


class JobLog:
    """The log of one job; each call of `new_lines` continues where the last one ended.

    Attributes:
        readable: whether the user's account may read the log.
    """

    def __init__(self, project: str, job_id: str) -> None:
        """Sends no request; `job_id` is the last component of the job's resource name."""
        endpoint = jobs.endpoint("LOGGING", "https://logging.googleapis.com")
        self._url = f"{endpoint}/v2/entries:list"
        self._client = Client(endpoint)
        self._project = project
        self._filter = f'resource.type="ml_job" AND resource.labels.job_id="{job_id}"'
        self._newest: datetime.datetime | None = None
        self._seen: dict[str, datetime.datetime] = {}  # insertId -> time, within _OVERLAP.
        self.readable = True

    def new_lines(self) -> list[str]:
        """Returns the lines since the last call; none, after one warning, if access is denied.

        Raises:
            RequestError: the service fails for too long; the next call returns the same lines.
        """
        if not self.readable:
            return []
        try:
            entries = self._entries()
        except RequestError as error:
            if error.retryable:
                raise
            self.readable = False
            role = "; your account needs roles/logging.viewer" if error.status == 403 else ""
            print(f"warning: cannot read the job's log: {error}{role}", file=sys.stderr)
            return []
        return [line for entry in entries if self._is_new(entry) for line in _lines(entry)]

    def _entries(self) -> list[dict[str, Any]]:
        """Returns the entries of all pages, so that a failure in between loses none."""
        since = ""
        if self._newest:
            since = f' AND timestamp>="{(self._newest - _OVERLAP).isoformat()}"'
        query: dict[str, Any] = {
            "resourceNames": [f"projects/{self._project}"],
            "filter": self._filter + since,
            "orderBy": "timestamp asc",
            "pageSize": _PAGE_SIZE,
        }
        entries = []
        while True:
            response = self._client.read("POST", self._url, json=query)
            entries += response.get("entries", [])
            if not (token := response.get("nextPageToken")):
                return entries
            query["pageToken"] = token

    def _is_new(self, entry: dict[str, Any]) -> bool:
        if entry["insertId"] in self._seen:
            return False
        timestamp = datetime.datetime.fromisoformat(entry["timestamp"])
        self._seen[entry["insertId"]] = timestamp
        if self._newest is None or timestamp > self._newest:
            self._newest = timestamp
            oldest = timestamp - _OVERLAP
            self._seen = {name: time for name, time in self._seen.items() if time >= oldest}
        return True


def _lines(entry: dict[str, Any]) -> list[str]:
    text = entry.get("jsonPayload", {}).get("message") or entry.get("textPayload") or ""
    trial = entry.get("labels", {}).get("ml.googleapis.com/trial_id")
    return [f"trial {trial}: {line}" if trial else line for line in str(text).splitlines()]
