"""The manifest is one that Kubernetes takes, and that treats the job as it needs to be."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest

from trainer.submitting import kubernetes


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


def test_a_spot_node_gives_less_time_for_the_last_snapshot() -> None:
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
