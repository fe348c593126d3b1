"""A Kubernetes Job, for GKE's names of GPUs and spot nodes; it needs Kubernetes 1.31 or newer.

On several workers it is a JobSet around such a Job, which needs the JobSet controller 0.8 or newer
(jobset.sigs.k8s.io). It starts all pods again if one ends, and gives each pod a name in the DNS.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

_USER = 10001  # That of the image.
_SPOT = "cloud.google.com/gke-spot"
_GPU = "nvidia.com/gpu"
_LABELS = {"app.kubernetes.io/name": "trainer"}
_HOST = "host"  # The name of the Job in its JobSet, in the names of pods.
_PORT = 2222
_RESTARTS, _SPOT_RESTARTS = 10, 100
_MISTAKE = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}


def longest_pod_name(name: str, workers: int) -> str:
    """Returns a name as long as Kubernetes will make one for a pod of several workers."""
    return f"{name}-{_HOST}-0-{workers - 1}-abcde"


def job(
    *,
    name: str,
    image: str,
    arguments: Sequence[str],
    out: str,
    gpu: str | None,
    gpus: int,
    workers: int = 1,
    spot: bool = False,
    namespace: str | None = None,
    service_account: str | None = None,
    timeout_hours: float | None = None,
) -> dict[str, Any]:
    """Returns the manifest of a Job whose one pod runs the image until it has succeeded.

    With several workers it is that of a JobSet, whose pods train together.

    Args:
        name: of the Job, a DNS label.
        image: of the container.
        arguments: of the container, without `--out`.
        out: the run directory, gs://.
        gpu: as GKE labels its nodes; None for the CPU.
        gpus: how many of them, on each worker.
        workers: how many pods train together.
        spot: whether to run on spot nodes.
        namespace: of the Job; that of the user's context, if None.
        service_account: of the pod, a Kubernetes service account.
        timeout_hours: until the Job is given up, over all its pods; on several workers, from their
            last start on.
    """
    metadata: dict[str, Any] = {"name": name, "labels": dict(_LABELS)}
    if namespace:
        metadata["namespace"] = namespace
    spec: dict[str, Any] = {
        **(_ALONE if workers == 1 else _together(workers)),
        # Not before the old pod has ended: the run directory is one pod's at a time.
        "podReplacementPolicy": "Failed",
    }
    if timeout_hours:
        spec["activeDeadlineSeconds"] = math.ceil(timeout_hours * 3600)
    pod = {
        **_placement(gpu, spot),
        **({"serviceAccountName": service_account} if service_account else {}),
        **_pod(image, [*arguments, f"--out={out}"], gpus, spot),
    }
    spec["template"] = {"metadata": {"labels": dict(_LABELS)}, "spec": pod}
    if workers == 1:
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
    pod["containers"][0]["env"] = _environment(name, workers)
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
                        "name": "no_use_in_another_try",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy", "DeadlineExceeded"],
                    }
                ],
            },
            "replicatedJobs": [{"name": _HOST, "replicas": 1, "template": {"spec": spec}}],
        },
    }


_ALONE: dict[str, Any] = {
    # A node that is taken away does not count; what the user has to put right is not repeated.
    "backoffLimit": 3,
    "podFailurePolicy": {
        "rules": [
            _MISTAKE,
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
        ]
    },
}


def _together(workers: int) -> dict[str, Any]:
    """Returns what makes a Job of several pods fail with the first one that does."""
    return {
        "completionMode": "Indexed",
        "completions": workers,
        "parallelism": workers,
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [_MISTAKE]},
    }


def _environment(name: str, workers: int) -> list[dict[str, Any]]:
    """Returns the variables of a pod: its index, and TF_CONFIG made of it by Kubernetes."""
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    addresses = [f"{name}-{_HOST}-0-{host}.{name}:{_PORT}" for host in range(workers)]
    config = {
        "cluster": {"worker": addresses},
        "task": {"type": "worker", "index": "$(HOST_INDEX)"},
    }
    return [
        {"name": "HOST_INDEX", "valueFrom": {"fieldRef": {"fieldPath": index}}},
        {"name": "TF_CONFIG", "value": json.dumps(config)},
    ]


def _placement(gpu: str | None, spot: bool) -> dict[str, Any]:
    """Says which nodes the pod may run on, in spite of what keeps other pods off them."""
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
    # On Autopilot a pod that asks for nothing gets too little for TensorFlow; this fits on the
    # smallest node with a GPU.
    resources: dict[str, Any] = {
        "requests": {"cpu": "2", "memory": "8Gi", "ephemeral-storage": "10Gi"}
    }
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {}}]
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108
    if gpus:
        resources["limits"] = {_GPU: gpus}
    if gpus > 1:  # NCCL's buffers between GPUs do not fit into the 64 MB that containers have.
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108
    return {
        "restartPolicy": "Never",  # So that the failure policy is asked.
        # The last checkpoint is written in this time. GKE takes a spot node after 25 s at most, and a
        # longer period would only be cut short.
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
