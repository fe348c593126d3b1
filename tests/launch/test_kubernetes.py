"""The manifest is one that Kubernetes takes, and that treats the job as it needs to be."""

from __future__ import annotations

import json
from typing import Any

import kubernetes_validate
import pytest

from trainer.distributed.cluster import Cluster, read_cluster
from trainer.launch import kubernetes


def job(**settings: Any) -> dict[str, Any]:
    defaults = {
        "name": "cnn-1", "image": "i", "arguments": ["--model=cnn"], "out": "gs://b/r",
        "gpu": "nvidia-l4", "gpus": 1,
    }  # fmt: skip
    return kubernetes.job(**(defaults | settings))


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
def test_the_schema_is_kept(settings: dict[str, Any]) -> None:
    kubernetes_validate.validate(job(**settings), "1.37", strict=True)


def test_what_is_no_job_would_be_noticed() -> None:
    broken = job()
    broken["spec"]["backofLimit"] = 3
    with pytest.raises(kubernetes_validate.ValidationError, match="backofLimit"):
        kubernetes_validate.validate(broken, "1.37", strict=True)


def test_gpus_are_a_limit_and_name_their_nodes() -> None:
    made = pod(gpus=2)
    assert made["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 2}
    assert made["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    assert [toleration["key"] for toleration in made["tolerations"]] == ["nvidia.com/gpu"]
    alone = pod(gpu=None, gpus=0)
    assert "limits" not in alone["containers"][0]["resources"]
    assert "nodeSelector" not in alone


def test_a_spot_node_gives_less_time_for_the_last_checkpoint() -> None:
    made = pod(spot=True)
    assert made["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert made["tolerations"][-1]["key"] == "cloud.google.com/gke-spot"
    assert made["terminationGracePeriodSeconds"] == 25
    assert pod()["terminationGracePeriodSeconds"] == 120


def test_a_users_mistake_ends_it_and_a_lost_node_does_not_count() -> None:
    spec = job()["spec"]
    mistake, disruption = spec["podFailurePolicy"]["rules"]
    assert mistake == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}
    assert disruption["action"] == "Ignore"
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_only_temporary_folders_can_be_written() -> None:
    made = pod(gpus=2)
    container = made["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert made["securityContext"]["runAsUser"] == 10001
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"tmp": "/tmp", "shm": "/dev/shm"}
    assert [volume["name"] for volume in made["volumes"]] == list(mounts)


# The fields of a JobSet, v1alpha2, with the types of their values, as its CRD has them; the Job
# within is Kubernetes's own.
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


def check(value: Any, schema: Any, place: str = "spec") -> None:
    """Raises AssertionError for a field that a JobSet has not, or of another type."""
    if isinstance(schema, type):
        assert isinstance(value, schema), f"{place}: {value!r}"
    elif isinstance(schema, set):
        assert value in schema, f"{place}: {value!r}"
    elif isinstance(schema, list):
        for item in value:
            check(item, schema[0], f"{place}[]")
    else:
        assert value.keys() <= schema.keys(), f"{place}: {value.keys() - schema.keys()}"
        for name, item in value.items():
            check(item, schema[name], f"{place}.{name}")


@pytest.mark.parametrize("settings", [{}, {"gpu": None, "gpus": 0}, {"spot": True, "gpus": 8}])
def test_several_workers_are_a_job_set(settings: dict[str, Any]) -> None:
    made = job(workers=3, namespace="ml", timeout_hours=1.0, **settings)
    assert (made["apiVersion"], made["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert made["metadata"]["namespace"] == "ml"
    check(made["spec"], JOB_SET)
    (replicated,) = made["spec"]["replicatedJobs"]
    inner = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "inner"}}
    kubernetes_validate.validate(inner | replicated["template"], "1.37", strict=True)
    spec = replicated["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == 3


def test_what_is_no_job_set_would_be_noticed() -> None:
    made = job(workers=2)
    made["spec"]["failurePolicy"]["maxRestart"] = 3
    with pytest.raises(AssertionError, match="maxRestart"):
        check(made["spec"], JOB_SET)


def test_each_pod_is_told_its_place_among_the_workers() -> None:
    """As Kubernetes makes it: the index of the pod is put in for $(HOST_INDEX)."""
    (replicated,) = job(name="cnn-1", workers=3)["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    index, config = pod["containers"][0]["env"]
    assert index["name"] == "HOST_INDEX"
    assert "job-completion-index" in index["valueFrom"]["fieldRef"]["fieldPath"]
    addresses = tuple(f"cnn-1-host-0-{host}.cnn-1:2222" for host in range(3))
    for host in range(3):
        value = config["value"].replace("$(HOST_INDEX)", str(host))
        assert json.loads(value)
        assert read_cluster({config["name"]: value}) == Cluster(addresses, host)
    assert len(kubernetes.longest_pod_name("cnn-1", 11)) == len("cnn-1-host-0-10-abcde")


def test_a_host_that_fails_starts_all_again_but_for_a_users_mistake() -> None:
    spec = job(workers=2)["spec"]
    inner = spec["replicatedJobs"][0]["template"]["spec"]
    assert inner["backoffLimit"] == 0
    (mistake,) = inner["podFailurePolicy"]["rules"]
    assert mistake == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}
    (rule,) = spec["failurePolicy"]["rules"]
    assert rule["action"] == "FailJobSet"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy", "DeadlineExceeded"]
    assert 0 < spec["failurePolicy"]["maxRestarts"]
    spot = job(workers=2, spot=True)["spec"]
    assert spot["failurePolicy"]["maxRestarts"] > spec["failurePolicy"]["maxRestarts"]
