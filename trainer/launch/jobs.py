"""Jobs of Vertex AI in one project and region: made, read, and their errors explained."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from trainer.errors import TransientStorageError, UsageError
from trainer.launch import vertex
from trainer.launch.rest import Client, Patience, RequestError

_API = "aiplatform.googleapis.com"


class Jobs:
    """The custom jobs, or the tuning jobs, of a project in a region."""

    def __init__(self, project: str, region: str, *, tuning: bool) -> None:
        """Sends nothing yet, but looks for credentials.

        Raises:
            UsageError: there are none.
        """
        self._project = project
        self._region = region
        self._endpoint = endpoint("AIPLATFORM", f"https://{region}-{_API}")
        self._collection = "hyperparameterTuningJobs" if tuning else "customJobs"
        self._gcloud = f"gcloud ai {'hp-tuning-jobs' if tuning else 'custom-jobs'}"
        self._client = Client(self._endpoint)

    def create(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Makes a job, exactly one, and returns it.

        A request of this kind is not safe to repeat: a second job would cost as much again. So when
        its answer was lost the job is looked for, by its label, for a quarter of the time that all
        tries have, since the service may still be making it; only then is it asked for again.

        Raises:
            UsageError: the service refuses the request.
            TransientStorageError: the service fails for too long.
        """
        url = f"{self._endpoint}/v1/{self._parent}/{self._collection}"
        token = document["labels"][vertex.LABEL]
        patience = Patience()
        lost_s: float | None = None  # When the answer was.
        while True:
            try:
                if lost_s is not None:
                    if found := self._find(url, token):
                        return found
                    if time.monotonic() - lost_s < patience.total_s / 4:
                        time.sleep(patience.total_s / 60)
                        continue
                return self._client.send("POST", url, json=document)
            except RequestError as error:
                if error.ambiguous:
                    lost_s = time.monotonic()
                with self._explained(document, in_doubt=lost_s is not None):
                    if error.passing:
                        print(f"Vertex AI: {error}; trying again", file=sys.stderr)
                    patience.wait(error)

    def read(self, name: str) -> dict[str, Any]:
        """Returns a job by its resource name.

        Raises:
            UsageError: it is not there any more, or may not be read.
            TransientStorageError: the service fails for too long.
        """
        with self._explained():
            return self._client.read("GET", f"{self._endpoint}/v1/{name}")

    def command(self, verb: str, name: str = "") -> str:
        """Returns the gcloud command that does something to a job."""
        words = [self._gcloud, verb, name.rpartition("/")[2]]
        options = f"--project={self._project} --region={self._region}"
        return " ".join([*filter(None, words), options])

    def in_doubt(self, document: Mapping[str, Any]) -> str:
        """Returns how to find out whether a job was made."""
        label = f"labels.{vertex.LABEL}={document['labels'][vertex.LABEL]}"
        return f"whether there is a job now, this tells: {self.command('list')} --filter={label}"

    @property
    def _parent(self) -> str:
        return f"projects/{self._project}/locations/{self._region}"

    def _find(self, url: str, token: str) -> dict[str, Any] | None:
        label = f'labels.{vertex.LABEL}="{token}"'
        found = self._client.send("GET", url, params={"filter": label})
        return next(iter(found.get(self._collection, [])), None)

    @contextmanager
    def _explained(
        self, document: Mapping[str, Any] | None = None, *, in_doubt: bool = False
    ) -> Iterator[None]:
        """Turns a request's error into one line for the user."""
        try:
            yield
        except RequestError as error:
            doubt = f"; {self.in_doubt(document)}" if in_doubt and document else ""
            if error.passing and error.status != 429:
                raise TransientStorageError(
                    f"--region {self._region}: Vertex AI: {error}{doubt}"
                ) from error
            raise UsageError(self._refusal(error, document or {}) + doubt) from error

    def _refusal(self, error: RequestError, document: Mapping[str, Any]) -> str:
        spec = document.get("jobSpec") or document.get("trialJobSpec") or {}
        project = f"--project {self._project}"
        if "quota project" in error.message:
            login = f"gcloud auth application-default set-quota-project {self._project}"
            return f"{project}: your credentials name no project to count requests for; `{login}`"
        if error.reason == "SERVICE_DISABLED":
            enable = f"gcloud services enable {_API} --project={self._project}"
            return f"{project}: Vertex AI is not enabled there; `{enable}` does it"
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
                f"{project}, --region {self._region}: {error}; each region and kind of GPU has its "
                f"own quota, and so has --spot; {quotas} lists them"
            )
        return f"refused by Vertex AI: {_flags(spec)}{error}"


def endpoint(service: str, usual: str) -> str:
    """Returns where a service is reached, which gcloud's own variables can change."""
    return os.environ.get(f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{service}", usual).rstrip("/")


def _flags(spec: Mapping[str, Any]) -> str:
    """Names the flags that a refused job was made from."""
    if not spec:
        return ""
    pool = spec["workerPoolSpecs"][0]
    machine = pool["machineSpec"]
    gpus = machine.get("acceleratorCount", 0)
    gpu = f" --gpus {gpus} of {machine['acceleratorType']}," if gpus else ""
    return f"--machine {machine['machineType']},{gpu} --image {pool['containerSpec']['imageUri']}: "
