"""Builds the manifest of a Kubernetes Job for GKE; needs Kubernetes 1.31 or newer.

Labels of GPUs and spot nodes are GKE's. For several workers the Job is wrapped in a JobSet, which
needs the JobSet controller 0.8 or newer (jobset.sigs.k8s.io). A JobSet restarts all pods if one
fails, and gives each pod a DNS name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from trainer.launch.machines import Machine
from trainer.launch.options import SubmitOptions

_USER = 10001  # The user of the image.
_SPOT = "cloud.google.com/gke-spot"
_GPU = "nvidia.com/gpu"
_LABELS = {"app.kubernetes.io/name": "trainer"}
_WORKER = "worker"  # Name of the Job in its JobSet; part of the names of pods.
_PORT = 2222
_RESTARTS, _SPOT_RESTARTS = 10, 100
# Exit code 2 is a usage error, which a restart would repeat.
_USAGE_ERROR = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}


def longest_pod_name(name: str, workers: int) -> str:
    """Returns a pod name of the maximum length that Kubernetes generates for this many workers."""
    return f"{name}-{_WORKER}-0-{workers - 1}-abcde"


def job(
    options: SubmitOptions, *, name: str, arguments: Sequence[str], machine: Machine
) -> dict[str, Any]:
    """Returns the manifest of a Job whose single pod runs the image until it succeeds.

    For several workers, returns the manifest of a JobSet, whose pods train together.

    Args:
        options: options of `trainer submit`; `image` and `out` are set. `timeout_hours` counts
            over all restarts; for several workers, since the last restart.
        name: name of the Job, a DNS label.
        arguments: arguments of the container, without `--out`.
        machine: GPUs of each pod; its `gpu` is GKE's label.
    """
    workers, spot = options.workers, options.spot
    metadata: dict[str, Any] = {"name": name, "labels": dict(_LABELS)}
    if options.namespace:
        metadata["namespace"] = options.namespace
    spec: dict[str, Any] = {
        **(_SINGLE_POD if workers == 1 else _indexed_pods(workers)),
        # Start a new pod only after the old one has ended: both would write the run directory.
        "podReplacementPolicy": "Failed",
    }
    if options.timeout_hours:
        spec["activeDeadlineSeconds"] = math.ceil(options.timeout_hours * 3600)
    account = options.service_account
    pod = {
        **_placement(machine.gpu, spot),
        **({"serviceAccountName": account} if account else {}),
        **_pod(str(options.image), [*arguments, f"--out={options.out}"], machine.gpus, spot),
    }
    spec["template"] = {"metadata": {"labels": dict(_LABELS)}, "spec": pod}
    if workers == 1:
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
    pod["containers"][0]["env"] = _environment(name, workers)
    return _job_set(metadata, spec, spot)


def _job_set(metadata: dict[str, Any], spec: dict[str, Any], spot: bool) -> dict[str, Any]:
    """Returns the manifest of a JobSet that restarts all pods of a Job when one of them fails."""
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "network": {"enableDNSHostnames": True},
            "failurePolicy": {
                "maxRestarts": _SPOT_RESTARTS if spot else _RESTARTS,
                "rules": [
                    {
                        "name": "do_not_restart",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy", "DeadlineExceeded"],
                    }
                ],
            },
            "replicatedJobs": [{"name": _WORKER, "replicas": 1, "template": {"spec": spec}}],
        },
    }


_SINGLE_POD: dict[str, Any] = {
    # A lost node does not count as a failure.
    "backoffLimit": 3,
    "podFailurePolicy": {
        "rules": [
            _USAGE_ERROR,
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
        ]
    },
}


def _indexed_pods(workers: int) -> dict[str, Any]:
    """Returns the fields of a Job of several pods that fails with its first failing pod."""
    return {
        "completionMode": "Indexed",
        "completions": workers,
        "parallelism": workers,
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [_USAGE_ERROR]},
    }


def _environment(name: str, workers: int) -> list[dict[str, Any]]:
    """Returns a pod's variables: its index, and TF_CONFIG, where Kubernetes fills in the index."""
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    addresses = [f"{name}-{_WORKER}-0-{worker}.{name}:{_PORT}" for worker in range(workers)]
    config = {
        "cluster": {"worker": addresses},
        "task": {"type": "worker", "index": "$(WORKER_INDEX)"},
    }
    return [
        {"name": "WORKER_INDEX", "valueFrom": {"fieldRef": {"fieldPath": index}}},
        {"name": "TF_CONFIG", "value": json.dumps(config)},
    ]


def _placement(gpu: str | None, spot: bool) -> dict[str, Any]:
    """Returns node selector and tolerations for GPU and spot nodes; {} without either."""
    selector, tolerations = {}, []
    if gpu:
        selector["cloud.google.com/gke-accelerator"] = gpu
        tolerations.append({"key": _GPU, "operator": "Exists", "effect": "NoSchedule"})
    if spot:
        selector[_SPOT] = "true"
        tolerations.append(
            {"key": _SPOT, "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        )
    return {"nodeSelector": selector, "tolerations": tolerations} if selector else {}


def _pod(image: str, arguments: list[str], gpus: int, spot: bool) -> dict[str, Any]:
    # Autopilot's default requests are too small for TensorFlow. These fit on the smallest GPU node.
    resources: dict[str, Any] = {
        "requests": {"cpu": "2", "memory": "8Gi", "ephemeral-storage": "10Gi"}
    }
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {}}]
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108
    if gpus:
        resources["limits"] = {_GPU: gpus}
    if gpus > 1:  # NCCL's buffers need more than a container's default of 64 MB.
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108
    return {
        "restartPolicy": "Never",  # The failure policy requires it.
        # Time to write the last checkpoint. GKE gives spot nodes at most 25 s.
        "terminationGracePeriodSeconds": 25 if spot else 120,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "trainer",
                "image": image,
                "args": arguments,
                "resources": resources,
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }
