"""Requests equal those that Google's own types and client build for the same job."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud.aiplatform_v1 import JobServiceClient

from tests.vertex_server import TYPES, VertexServer, served
from trainer.launch import job_flags, machines, tuning, vertex
from trainer.launch.options import SubmitOptions


def documents() -> list[tuple[str, dict[str, Any]]]:
    job = job_flags.read(
        ["--model=cnn", "--validation-split=0.1"], program="", mounted_buckets=False
    )
    specs = [
        vertex.job_spec(
            SubmitOptions(image="i", out="gs://b"),
            arguments=job.arguments,
            machine=machines.choose(None, None, None),
        ),
        vertex.job_spec(
            SubmitOptions(
                image="us-docker.pkg.dev/p/r/trainer@sha256:0",
                out="gs://bucket/runs/1",
                spot=True,
                service_account="trainer@p.iam.gserviceaccount.com",
                timeout_hours=1.5,
            ),
            arguments=job.arguments,
            machine=machines.choose("nvidia-h100-80gb", 8, None),
        ),
        vertex.job_spec(
            SubmitOptions(image="i", out="gs://b", workers=3),
            arguments=job.arguments,
            machine=machines.choose("nvidia-l4", 2, None),
        ),
    ]
    study = tuning.study("learning_rate=1e-4..1e-2:log epochs=3..9", "val_accuracy", job)
    custom = [("customJobs", vertex.custom_job(spec, name="a", token="t1")) for spec in specs]
    tuning_specs = [vertex.tuning_spec(spec, study, trials=20, parallel=4) for spec in specs]
    return [
        *custom,
        *(
            ("hyperparameterTuningJobs", vertex.tuning_job(spec, name="a", token="t1"))
            for spec in tuning_specs
        ),
    ]


@pytest.mark.parametrize(("collection", "document"), documents())
def test_a_request_equals_that_of_googles_client(collection: str, document: dict[str, Any]) -> None:
    message = TYPES[collection].from_json(json.dumps(document))
    server = VertexServer()
    with served(server) as proxy:
        client = JobServiceClient(
            credentials=AnonymousCredentials(),
            transport="rest",
            client_options={"api_endpoint": proxy.url},
        )
        parent = "projects/p/locations/us-central1"
        if collection == "customJobs":
            client.create_custom_job(parent=parent, custom_job=message)
        else:
            client.create_hyperparameter_tuning_job(
                parent=parent, hyperparameter_tuning_job=message
            )
        client.transport.close()
    (sent,) = server.bodies
    assert TYPES[collection].from_json(json.dumps(sent)) == message
    # Google's types keep every field of our JSON.
    parsed = json.loads(TYPES[collection].to_json(message, use_integers_for_enums=False))
    assert contains(parsed, document)


def contains(parsed: Any, document: Any) -> bool:
    """Returns whether `parsed` has all fields of `document`; int64 are strings in `parsed`."""
    if isinstance(document, dict):
        return all(name in parsed and contains(parsed[name], document[name]) for name in document)
    if isinstance(document, list):
        return len(parsed) == len(document) and all(map(contains, parsed, document))
    return parsed == document or str(parsed) == str(document)


def test_a_timeout_is_in_seconds() -> None:
    (_, document) = documents()[1]
    assert document["jobSpec"]["scheduling"] == {"strategy": "SPOT", "timeout": "5400s"}


def test_several_workers_are_two_pools_of_the_same_machine() -> None:
    spec = documents()[2][1]["jobSpec"]
    chief, workers = spec["workerPoolSpecs"]
    assert (chief["replicaCount"], workers["replicaCount"]) == (1, 2)
    assert chief | {"replicaCount": 2} == workers
    assert spec["scheduling"] == {"restartJobOnWorkerRestart": True}
