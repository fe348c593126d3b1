"""A server on loopback that imitates Vertex AI's jobs and Cloud Logging, for `trainer submit`."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from google.cloud.aiplatform_v1 import types

from tests.fault_proxy import FaultProxy

TYPES = {"customJobs": types.CustomJob, "hyperparameterTuningJobs": types.HyperparameterTuningJob}


@dataclass
class VertexServer:
    """Accepts jobs; a job enters its next state at each request for it."""

    states: list[str] = field(default_factory=lambda: ["QUEUED", "PENDING", "RUNNING", "SUCCEEDED"])
    error: dict[str, Any] | None = None  # Error of the job in its last state.
    trials: list[dict[str, Any]] = field(default_factory=list)
    # Entries of the log that appear at the first, second, ... reading of it.
    log: list[list[dict[str, Any]]] = field(default_factory=list)
    page: int = 1000
    refusals: list[dict[str, Any]] = field(default_factory=list)  # Replies to the next creations.
    bodies: list[dict[str, Any]] = field(default_factory=list)  # Of all creations.
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    status_requests: int = 0  # Requests for the state of a job.
    _readings: int = 0

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        address = urlsplit(path)
        if address.path == "/v2/entries:list":
            return 200, self._entries(body)
        match = re.fullmatch(r"/v1/(projects/[^/]+/locations/[^/]+)/(\w+)(?:/(\d+))?", address.path)
        assert match, path
        parent, collection, number = match.groups()
        if method == "POST":
            return self._create(f"{parent}/{collection}", TYPES[collection], body)
        if number:
            return 200, self._status(f"{parent}/{collection}/{number}")
        return 200, {collection: self._list(parse_qs(address.query)["filter"][0])}

    def _create(
        self, collection: str, kind: Any, body: dict[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        self.bodies.append(body)
        if self.refusals:
            refusal = self.refusals.pop(0)
            return refusal["code"], {"error": refusal}
        kind.from_json(json.dumps(body))
        name = f"{collection}/{1000 + len(self.jobs)}"
        self.jobs[name] = {**body, "name": name, "state": "JOB_STATE_QUEUED"}
        return 200, self.jobs[name]

    def _status(self, name: str) -> dict[str, Any]:
        last = len(self.states) - 1
        state = self.states[min(self.status_requests, last)]
        error = {"error": self.error} if self.error and self.status_requests >= last else {}
        self.status_requests += 1
        return {
            **self.jobs[name], "state": f"JOB_STATE_{state}", "trials": self.trials, **error
        }  # fmt: skip

    def _list(self, condition: str) -> list[dict[str, Any]]:
        label = re.fullmatch(r'labels\.([a-z-]+)="(\w+)"', condition)
        assert label, condition
        return [job for job in self.jobs.values() if job["labels"].get(label[1]) == label[2]]

    def _entries(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["orderBy"] == "timestamp asc"
        job_id = re.search(r'resource\.type="ml_job" AND .*job_id="(\d+)"', body["filter"])
        assert job_id, body["filter"]
        assert any(name.endswith(f"/{job_id[1]}") for name in self.jobs)
        since = re.search(r'timestamp>="([^"]+)\+00:00"', body["filter"])
        start = int(body.get("pageToken", 0))
        self._readings += not start
        visible = [entry for entries in self.log[: self._readings] for entry in entries]
        visible = [entry for entry in visible if not since or entry["timestamp"] >= since[1]]
        visible.sort(key=lambda entry: entry["timestamp"])
        more = {"nextPageToken": str(start + self.page)} if visible[start + self.page :] else {}
        return {"entries": visible[start : start + self.page], **more}


def entry(second: int, text: str, *, plain: bool = False, trial: str = "") -> dict[str, Any]:
    """Returns an entry of Cloud Logging with a timestamp `second` seconds after midnight."""
    return {
        "insertId": f"{second}-{text}",
        "timestamp": f"2026-01-01T00:{second // 60:02}:{second % 60:02}.123456789Z",
        "labels": {"ml.googleapis.com/trial_id": trial} if trial else {},
        **({"textPayload": text} if plain else {"jsonPayload": {"message": text}}),
    }


@contextmanager
def served(server: VertexServer) -> Iterator[FaultProxy]:
    """Serves `server` on loopback; yields a proxy before it that can inject faults."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def _any(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length) or b"{}")
            status, answer = server.answer(self.command, self.path, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _any

    backend = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=backend.serve_forever, args=(0.02,), daemon=True).start()
    proxy = FaultProxy(f"http://127.0.0.1:{backend.server_address[1]}")
    try:
        yield proxy
    finally:
        proxy.close()
        backend.shutdown()
        backend.server_close()
