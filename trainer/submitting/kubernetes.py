"""A Kubernetes Job, for GKE's names of GPUs and spot nodes; it needs Kubernetes 1.31 or newer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_USER = 10001  # That of the image.
_SPOT = "cloud.google.com/gke-spot"
_GPU = "nvidia.com/gpu"
_LABELS = {"app.kubernetes.io/name": "trainer"}


def job(
    *,
    name: str,
    image: str,
    arguments: Sequence[str],
    out: str,
    gpu: str | None,
    gpus: int,
    spot: bool = False,
    namespace: str | None = None,
    service_account: str | None = None,
    timeout_hours: float | None = None,
) -> dict[str, Any]:
    """Returns the manifest of a Job whose one pod runs the image until it has succeeded.

    Args:
        name: of the Job, a DNS label.
        image: of the container.
        arguments: of the container, without `--out`.
        out: the run directory, gs://.
        gpu: as GKE labels its nodes; None for the CPU.
        gpus: how many of them.
        spot: whether to run on spot nodes.
        namespace: of the Job; that of the user's context, if None.
        service_account: of the pod, a Kubernetes service account.
        timeout_hours: until the Job is given up, over all its pods.
    """
    metadata: dict[str, Any] = {"name": name, "labels": dict(_LABELS)}
    if namespace:
        metadata["namespace"] = namespace
    spec: dict[str, Any] = {
        # A node that is taken away does not count; what the user has to put right is not repeated.
        "backoffLimit": 3,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}},
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            ]
        },
        # Not before the old pod has ended: the run directory is one pod's at a time.
        "podReplacementPolicy": "Failed",
    }
    if timeout_hours:
        spec["activeDeadlineSeconds"] = math.ceil(timeout_hours * 3600)
    spec["template"] = {
        "metadata": {"labels": dict(_LABELS)},
        "spec": {
            **_placement(gpu, spot),
            **({"serviceAccountName": service_account} if service_account else {}),
            **_pod(image, [*arguments, f"--out={out}"], gpus, spot),
        },
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


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
        # The last snapshot is written in this time. GKE takes a spot node after 25 s at most, and a
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
