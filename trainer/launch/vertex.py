"""Builds the JSON of Vertex AI's CustomJob and HyperparameterTuningJob.

The service sets AIP_MODEL_DIR and similar variables to folders below `baseOutputDirectory`. They
are defaults of the job's flags: the run directory is OUT/model, that of a trial OUT/TRIAL/model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from trainer.launch.machines import Machine
from trainer.launch.options import SubmitOptions

LABEL = "trainer-submit"


def job_spec(
    options: SubmitOptions, *, arguments: Sequence[str], machine: Machine
) -> dict[str, Any]:
    """Returns a CustomJobSpec that runs the image on one machine, or on several.

    The replica of the first pool is the chief in TF_CONFIG.

    Args:
        options: options of `trainer submit`; `image` and `out` are set.
        arguments: arguments of the container, without `--out`.
        machine: type of all machines.
    """
    machine_spec: dict[str, Any] = {"machineType": machine.type}
    if machine.gpu:
        machine_spec["acceleratorType"] = accelerator_type(machine.gpu)
        machine_spec["acceleratorCount"] = machine.gpus
    pool = {
        "machineSpec": machine_spec,
        "replicaCount": 1,
        "containerSpec": {"imageUri": options.image, "args": list(arguments)},
    }
    pools = [pool]
    scheduling: dict[str, Any] = {}
    if options.workers > 1:
        pools.append({**copy.deepcopy(pool), "replicaCount": options.workers - 1})
        scheduling["restartJobOnWorkerRestart"] = True  # Workers cannot train alone.
    if options.spot:
        scheduling["strategy"] = "SPOT"
    if options.timeout_hours:
        scheduling["timeout"] = f"{math.ceil(options.timeout_hours * 3600)}s"
    spec: dict[str, Any] = {"workerPoolSpecs": pools}
    if scheduling:
        spec["scheduling"] = scheduling
    if options.service_account:
        spec["serviceAccount"] = options.service_account
    spec["baseOutputDirectory"] = {"outputUriPrefix": options.out}
    return spec


def accelerator_type(gpu: str) -> str:
    """Returns the API's name of a GPU: NVIDIA_L4 for nvidia-l4."""
    return gpu.upper().replace("-", "_")


def tuning_spec(
    spec: dict[str, Any], study: dict[str, Any], *, trials: int, parallel: int
) -> dict[str, Any]:
    """Returns a HyperparameterTuningJob without name and label; `spec` is that of each trial."""
    return {
        "studySpec": study,
        "maxTrialCount": trials,
        "parallelTrialCount": parallel,
        # If the first trials all fail, the others would fail too.
        "maxFailedTrialCount": parallel,
        "trialJobSpec": spec,
    }


def custom_job(spec: dict[str, Any], *, name: str, token: str) -> dict[str, Any]:
    """Returns a CustomJob; its label `token` identifies it if the response is lost."""
    return {"displayName": name, "labels": {LABEL: token}, "jobSpec": spec}


def tuning_job(spec: dict[str, Any], *, name: str, token: str) -> dict[str, Any]:
    """Returns a HyperparameterTuningJob, labelled like `custom_job`."""
    return {"displayName": name, "labels": {LABEL: token}, **spec}
