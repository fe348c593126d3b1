"""The manifest is valid for Kubernetes, and has the restart rules that the job needs."""

from __future__ import annotations

import json
from typing import Any

import kubernetes_validate
import pytest

from trainer.distributed.cluster import Cluster, read_cluster
from trainer.launch import kubernetes
from trainer.launch.machines import Machine
from trainer.launch.options import SubmitOptions


def job(
    *, name: str = "cnn-1", gpu: str | None = "nvidia-l4", gpus: int = 1, **settings: Any
) -> dict[str, Any]:
    return kubernetes.job(
        SubmitOptions(image="i", out="gs://b/r", kubernetes=True, **settings),
        name=name,
        arguments=["--model=cnn"],
        machine=Machine("g2-standard-8", gpu, gpus),
    )


def pod(**settings: Any) -> dict[str, Any]:
    return job(**settings)["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gpu": None, "gpus": 0},
        {"gpus": 8, "spot": True},
        {"namespace": "ml", "service_account": "trainer", "timeout_hours": 0.5},
    ],
)
def test_manifests_match_the_schema(settings: dict[str, Any]) -> None:
    kubernetes_validate.validate(job(**settings), "1.37", strict=True)


def test_the_schema_check_rejects_an_unknown_field() -> None:
    broken = job()
    broken["spec"]["backofLimit"] = 3
    with pytest.raises(kubernetes_validate.ValidationError, match="backofLimit"):
        kubernetes_validate.validate(broken, "1.37", strict=True)


def test_gpus_set_a_limit_and_select_nodes() -> None:
    manifest = pod(gpus=2)
    assert manifest["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 2}
    assert manifest["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    assert [toleration["key"] for toleration in manifest["tolerations"]] == ["nvidia.com/gpu"]
    cpu_pod = pod(gpu=None, gpus=0)
    assert "limits" not in cpu_pod["containers"][0]["resources"]
    assert "nodeSelector" not in cpu_pod


def test_the_grace_period_is_shorter_on_spot_nodes() -> None:
    manifest = pod(spot=True)
    assert manifest["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert manifest["tolerations"][-1]["key"] == "cloud.google.com/gke-spot"
    assert manifest["terminationGracePeriodSeconds"] == 25
    assert pod()["terminationGracePeriodSeconds"] == 120


def test_a_usage_error_ends_the_job_and_a_lost_node_does_not_count() -> None:
    spec = job()["spec"]
    usage_error, disruption = spec["podFailurePolicy"]["rules"]
    assert usage_error == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}
    assert disruption["action"] == "Ignore"
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_only_temporary_folders_are_writable() -> None:
    manifest = pod(gpus=2)
    container = manifest["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert manifest["securityContext"]["runAsUser"] == 10001
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"tmp": "/tmp", "shm": "/dev/shm"}
    assert [volume["name"] for volume in manifest["volumes"]] == list(mounts)


# Fields of a JobSet, v1alpha2, with the types of their values, from its CRD. The Job inside it is
# checked by Kubernetes' own schema.
JOB_SET: dict[str, Any] = {
    "network": {"enableDNSHostnames": bool, "publishNotReadyAddresses": bool, "subdomain": str},
    "failurePolicy": {
        "maxRestarts": int,
        "restartStrategy": {"Recreate", "BlockingRecreate"},
        "rules": [
            {
                "name": str,
                "action": {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"},
                "onJobFailureReasons": [
                    {
                        "BackoffLimitExceeded",
                        "DeadlineExceeded",
                        "FailedIndexes",
                        "MaxFailedIndexesExceeded",
                        "PodFailurePolicy",
                    }
                ],
                "targetReplicatedJobs": [str],
            }
        ],
    },
    "successPolicy": {"operator": {"All", "Any"}, "targetReplicatedJobs": [str]},
    "replicatedJobs": [{"name": str, "replicas": int, "template": dict}],
    "suspend": bool,
    "ttlSecondsAfterFinished": int,
}


def check(value: Any, schema: Any, path: str = "spec") -> None:
    """Raises AssertionError for a field that a JobSet does not have, or of another type."""
    if isinstance(schema, type):
        assert isinstance(value, schema), f"{path}: {value!r}"
    elif isinstance(schema, set):
        assert value in schema, f"{path}: {value!r}"
    elif isinstance(schema, list):
        for item in value:
            check(item, schema[0], f"{path}[]")
    else:
        assert value.keys() <= schema.keys(), f"{path}: {value.keys() - schema.keys()}"
        for name, item in value.items():
            check(item, schema[name], f"{path}.{name}")


@pytest.mark.parametrize("settings", [{}, {"gpu": None, "gpus": 0}, {"spot": True, "gpus": 8}])
def test_several_workers_become_a_job_set(settings: dict[str, Any]) -> None:
    manifest = job(workers=3, namespace="ml", timeout_hours=1.0, **settings)
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert manifest["metadata"]["namespace"] == "ml"
    check(manifest["spec"], JOB_SET)
    (replicated,) = manifest["spec"]["replicatedJobs"]
    inner = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "inner"}}
    kubernetes_validate.validate(inner | replicated["template"], "1.37", strict=True)
    spec = replicated["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == 3


def test_the_job_set_check_rejects_an_unknown_field() -> None:
    manifest = job(workers=2)
    manifest["spec"]["failurePolicy"]["maxRestart"] = 3
    with pytest.raises(AssertionError, match="maxRestart"):
        check(manifest["spec"], JOB_SET)


def test_each_pod_gets_its_index_in_tf_config() -> None:
    """Replaces $(WORKER_INDEX) by the pod's index, as Kubernetes does."""
    (replicated,) = job(name="cnn-1", workers=3)["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    index, config = pod["containers"][0]["env"]
    assert index["name"] == "WORKER_INDEX"
    assert "job-completion-index" in index["valueFrom"]["fieldRef"]["fieldPath"]
    addresses = tuple(f"cnn-1-worker-0-{worker}.cnn-1:2222" for worker in range(3))
    for worker in range(3):
        value = config["value"].replace("$(WORKER_INDEX)", str(worker))
        assert json.loads(value)
        assert read_cluster({config["name"]: value}) == Cluster(addresses, worker)
    assert len(kubernetes.longest_pod_name("cnn-1", 11)) == len("cnn-1-worker-0-10-abcde")


def test_a_failed_worker_restarts_all_unless_it_is_a_usage_error() -> None:
    spec = job(workers=2)["spec"]
    inner = spec["replicatedJobs"][0]["template"]["spec"]
    assert inner["backoffLimit"] == 0
    (usage_error,) = inner["podFailurePolicy"]["rules"]
    assert usage_error == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}
    (rule,) = spec["failurePolicy"]["rules"]
    assert rule["action"] == "FailJobSet"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy", "DeadlineExceeded"]
    assert 0 < spec["failurePolicy"]["maxRestarts"]
    spot = job(workers=2, spot=True)["spec"]
    assert spot["failurePolicy"]["maxRestarts"] > spec["failurePolicy"]["maxRestarts"]
