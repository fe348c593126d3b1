"""The options of `trainer submit`, in groups; they travel whole to the code that builds the job."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from trainer import storage
from trainer.config.fields import FolderPath, PositiveFloat, PositiveInt, Text, option

DEFAULT_TRIALS = 20
DEFAULT_PARALLEL = 4  # Trials at the same time.


def _region(value: str) -> str:
    if not re.fullmatch(r"[a-z]+-[a-z]+\d+", value):
        raise ValueError("a region like us-central1, without a zone")
    return value


def _in_bucket(value: str) -> str:
    if not storage.has_bucket(value):
        raise ValueError("gs://bucket/path: the job's machine is deleted with its disk")
    return value


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """The job: its image, its output, and under which name and account it runs."""

    GROUP: ClassVar = "Job"

    image: Text | None = option(
        None, "Container image of the job, in a registry that the service can read. Required."
    )
    out: Annotated[FolderPath, AfterValidator(_in_bucket)] | None = option(
        None,
        "Output folder, gs://bucket/path. The run directory is OUT/model on Vertex AI, "
        "OUT/TRIAL/model with --tune, and OUT on Kubernetes. Required.",
    )
    name: Text | None = option(None, "Name of the job. Default: MODEL-DATE-TIME.")
    service_account: Text | None = option(
        None,
        "Service account of the job: an e-mail address; with --kubernetes, the name of a "
        "Kubernetes service account. Default: that of the project or namespace.",
    )
    timeout_hours: PositiveFloat | None = option(
        None, "Hours after which the job is ended. Default: 168 on Vertex AI, none on Kubernetes."
    )


@dataclass(frozen=True, kw_only=True)
class JobMachineOptions:
    """The machines that the job runs on."""

    GROUP: ClassVar = "Machine"

    gpu: Text | None = option(None, "GPU, one of: {gpus}. Default: none, train on the CPU.")
    gpus: PositiveInt | None = option(None, "Number of GPUs per machine. Default: 1 with --gpu.")
    workers: PositiveInt = option(
        1, "Number of machines that train together, each on its share of every batch."
    )
    machine: Text | None = option(
        None, "Machine type. Default: a standard one with these GPUs; {without_gpu} without --gpu."
    )
    spot: bool = option(
        False,
        "Use spot capacity: cheaper, but can be preempted. The job then restarts and resumes.",
    )


@dataclass(frozen=True, kw_only=True)
class VertexOptions:
    """What only Vertex AI needs."""

    GROUP: ClassVar = "Vertex AI"

    project: Text | None = option(
        None,
        "Google Cloud project that runs the job and is billed for it. Required without "
        "--kubernetes.",
    )
    region: Annotated[Text, AfterValidator(_region)] | None = option(
        None, "Google Cloud region of the job, like us-central1. Required without --kubernetes."
    )
    dry_run: bool = option(
        False, "Print the job as YAML for gcloud ai ... create --config, and submit nothing."
    )
    yes: bool = option(False, "Submit without asking for confirmation.")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """A hyperparameter search on Vertex AI."""

    GROUP: ClassVar = "Hyperparameter search"

    tune: Text | None = option(
        None,
        "Hyperparameter search over ranges (:log for a logarithmic scale) and lists of {tunable}; "
        "for example 'learning_rate=1e-4..1e-2:log batch_size=64,128'. Default: no search.",
    )
    trials: PositiveInt | None = option(
        None, f"With --tune: total number of trials. Default: {DEFAULT_TRIALS}."
    )
    parallel: PositiveInt | None = option(
        None,
        f"With --tune: number of trials that run at the same time. Default: {DEFAULT_PARALLEL}.",
    )
    metric: Literal["val_accuracy", "val_loss"] = option(
        "val_accuracy", "With --tune: metric that ranks the trials."
    )


@dataclass(frozen=True, kw_only=True)
class KubernetesOptions:
    """A Job for Kubernetes in place of one for Vertex AI."""

    GROUP: ClassVar = "Kubernetes"

    kubernetes: bool = option(
        False,
        "Print the YAML of a Kubernetes Job for GKE instead (a JobSet with --workers); submit "
        "nothing.",
    )
    namespace: Text | None = option(
        None, "With --kubernetes: namespace of the Job. Default: that of kubectl's context."
    )


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(KubernetesOptions, SearchOptions, VertexOptions, JobMachineOptions, JobOptions):
    """Options of `trainer submit`."""
