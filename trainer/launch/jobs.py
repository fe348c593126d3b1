"""Creates and reads Vertex AI jobs in one project and region, and explains the service's errors."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from trainer.errors import TransientStorageError, UsageError
from trainer.launch import vertex
from trainer.launch.rest import Client, RequestError, RequestRetry

_API = "aiplatform.googleapis.com"


class Jobs:
    """The custom jobs, or the tuning jobs, of a project in a region."""

    def __init__(self, project: str, region: str, *, tuning: bool) -> None:
        """Loads the credentials; sends no request.

        Raises:
            UsageError: there are no credentials.
        """
        self._project = project
        self._region = region
        self._endpoint = endpoint("AIPLATFORM", f"https://{region}-{_API}")
        self._collection = "hyperparameterTuningJobs" if tuning else "customJobs"
        self._gcloud = f"gcloud ai {'hp-tuning-jobs' if tuning else 'custom-jobs'}"
        self._client = Client(self._endpoint)

    def create(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Creates one job and returns it.

        Repeating the request could create, and bill, a second job. When a response is lost, the job
        is first searched for by its label, for a quarter of the total retry time, since the service
        may still be creating it. Only then is the request sent again.

        Raises:
            UsageError: the service refuses the request.
            TransientStorageError: the service fails for too long.
        """
        url = f"{self._endpoint}/v1/{self._parent}/{self._collection}"
        token = document["labels"][vertex.LABEL]
        retry = RequestRetry()
        lost_s: float | None = None  # Time of the last lost response.
        while True:
            try:
                if lost_s is not None:
                    if job := self._find(url, token):
                        return job
                    if time.monotonic() - lost_s < retry.total_s / 4:
                        time.sleep(retry.total_s / 60)
                        continue
                return self._client.send("POST", url, json=document)
            except RequestError as error:
                if error.ambiguous:
                    lost_s = time.monotonic()
                with self._translate_errors(document, may_exist=lost_s is not None):
                    if error.retryable:
                        print(f"Vertex AI: {error}; trying again", file=sys.stderr)
                    retry.wait(error)

    def read(self, name: str) -> dict[str, Any]:
        """Returns a job by its resource name.

        Raises:
            UsageError: the job no longer exists, or may not be read.
            TransientStorageError: the service fails for too long.
        """
        with self._translate_errors():
            return self._client.read("GET", f"{self._endpoint}/v1/{name}")

    def command(self, verb: str, name: str = "") -> str:
        """Returns the gcloud command for a job: `verb` is stream-logs, cancel or list."""
        words = [self._gcloud, verb, name.rpartition("/")[2]]
        options = f"--project={self._project} --region={self._region}"
        return " ".join([*filter(None, words), options])

    def search_hint(self, document: Mapping[str, Any]) -> str:
        """Returns a message with the command that lists the job, if it was created."""
        label = f"labels.{vertex.LABEL}={document['labels'][vertex.LABEL]}"
        return f"the job may exist; check with: {self.command('list')} --filter={label}"

    @property
    def _parent(self) -> str:
        return f"projects/{self._project}/locations/{self._region}"

    def _find(self, url: str, token: str) -> dict[str, Any] | None:
        """Returns the job with this label; None if there is none."""
        label = f'labels.{vertex.LABEL}="{token}"'
        response = self._client.send("GET", url, params={"filter": label})
        return next(iter(response.get(self._collection, [])), None)

    @contextmanager
    def _translate_errors(
        self, document: Mapping[str, Any] | None = None, *, may_exist: bool = False
    ) -> Iterator[None]:
        """Translates a RequestError into a TrainerError with a one-line message."""
        try:
            yield
        except RequestError as error:
            hint = f"; {self.search_hint(document)}" if may_exist and document else ""
            if error.retryable and error.status != 429:
                raise TransientStorageError(
                    f"--region {self._region}: Vertex AI: {error}{hint}"
                ) from error
            raise UsageError(self._refusal(error, document or {}) + hint) from error

    def _refusal(self, error: RequestError, document: Mapping[str, Any]) -> str:
        spec = document.get("jobSpec") or document.get("trialJobSpec") or {}
        project = f"--project {self._project}"
        if "quota project" in error.message:
            command = f"gcloud auth application-default set-quota-project {self._project}"
            return f"{project}: your credentials have no quota project; run `{command}`"
        if error.reason == "SERVICE_DISABLED":
            command = f"gcloud services enable {_API} --project={self._project}"
            return f"{project}: Vertex AI is not enabled there; run `{command}`"
        if error.status in (401, 403):
            roles = "roles/aiplatform.user"
            if account := spec.get("serviceAccount"):
                roles += f", and roles/iam.serviceAccountUser on --service-account {account}"
            return f"{project}: {error}; your account needs {roles}"
        if error.status == 404:
            return f"{project}, --region {self._region}: {error}"
        if error.status == 429:
            quotas = f"https://console.cloud.google.com/iam-admin/quotas?project={self._project}"
            return (
                f"{project}, --region {self._region}: {error}; each region, each kind of GPU and "
                f"--spot have quotas of their own, listed at {quotas}"
            )
        return f"refused by Vertex AI: {_flags(spec)}{error}"


def endpoint(service: str, default: str) -> str:
    """Returns the URL of a service; gcloud's environment variables override the default."""
    return os.environ.get(f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{service}", default).rstrip("/")


def _flags(spec: Mapping[str, Any]) -> str:
    """Returns the flags that a refused job was built from, as the beginning of a message."""
    if not spec:
        return ""
    pool = spec["workerPoolSpecs"][0]
    machine = pool["machineSpec"]
    gpus = machine.get("acceleratorCount", 0)
    gpu = f" --gpus {gpus} of {machine['acceleratorType']}," if gpus else ""
    return f"--machine {machine['machineType']},{gpu} --image {pool['containerSpec']['imageUri']}: "
