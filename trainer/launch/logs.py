"""The lines that a job of Vertex AI writes, from Cloud Logging, each once."""

from __future__ import annotations

import datetime
import sys
from typing import Any

from trainer.launch import jobs
from trainer.launch.rest import Client, RequestError

# Entries of one job come in no strict order. One that is this much older than another that came
# before it is lost.
_OVERLAP = datetime.timedelta(seconds=60)
_PAGE = 1000  # The most that the service gives at once.


class JobLog:
    """Reads on where it was, whenever it is called.

    Attributes:
        readable: whether the user's account may read it.
    """

    def __init__(self, project: str, job_id: str) -> None:
        """Reads nothing yet; `job_id` is the last part of the job's resource name."""
        endpoint = jobs.endpoint("LOGGING", "https://logging.googleapis.com")
        self._url = f"{endpoint}/v2/entries:list"
        self._client = Client(endpoint)
        self._project = project
        self._filter = f'resource.type="ml_job" AND resource.labels.job_id="{job_id}"'
        self._newest: datetime.datetime | None = None
        self._seen: dict[str, datetime.datetime] = {}  # Of the overlap, by insertId.
        self.readable = True

    def new_lines(self) -> list[str]:
        """Returns the lines that have come since the last call; none if they may not be read.

        Raises:
            RequestError: the service fails for too long; nothing is lost, the next call goes on.
        """
        if not self.readable:
            return []
        try:
            entries = self._entries()
        except RequestError as error:
            if error.passing:
                raise
            self.readable = False
            needed = "; your account needs roles/logging.viewer" if error.status == 403 else ""
            print(f"warning: no log lines: {error}{needed}", file=sys.stderr)
            return []
        return [line for entry in entries if self._is_new(entry) for line in _lines(entry)]

    def _entries(self) -> list[dict[str, Any]]:
        """Reads all pages before any is used, so that a failure loses nothing."""
        since = ""
        if self._newest:
            since = f' AND timestamp>="{(self._newest - _OVERLAP).isoformat()}"'
        query: dict[str, Any] = {
            "resourceNames": [f"projects/{self._project}"],
            "filter": self._filter + since,
            "orderBy": "timestamp asc",
            "pageSize": _PAGE,
        }
        entries = []
        while True:
            answer = self._client.read("POST", self._url, json=query)
            entries += answer.get("entries", [])
            if not (token := answer.get("nextPageToken")):
                return entries
            query["pageToken"] = token

    def _is_new(self, entry: dict[str, Any]) -> bool:
        if entry["insertId"] in self._seen:
            return False
        at = datetime.datetime.fromisoformat(entry["timestamp"])
        self._seen[entry["insertId"]] = at
        if self._newest is None or at > self._newest:
            self._newest = at
            self._seen = {name: t for name, t in self._seen.items() if t >= at - _OVERLAP}
        return True


def _lines(entry: dict[str, Any]) -> list[str]:
    text = entry.get("jsonPayload", {}).get("message") or entry.get("textPayload") or ""
    trial = entry.get("labels", {}).get("ml.googleapis.com/trial_id")
    return [f"trial {trial}: {line}" if trial else line for line in str(text).splitlines()]
