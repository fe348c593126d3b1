"""What the service that runs the job says in its environment: defaults of flags, workers, trials.

Sources: Vertex AI's custom training (AIP_*, CLOUD_ML_*, CLUSTER_SPEC) and custom containers for
prediction (AIP_*), TensorFlow's TF_CONFIG, and Cloud Run's jobs (CLOUD_RUN_JOB).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from trainer.errors import UsageError

_PLACES = {
    "out": "AIP_MODEL_DIR",
    "checkpoint_dir": "AIP_CHECKPOINT_DIR",
    "tensorboard_dir": "AIP_TENSORBOARD_LOG_DIR",
}
_DATA = {
    "data": "AIP_TRAINING_DATA_URI",
    "validation_data": "AIP_VALIDATION_DATA_URI",
    "test_data": "AIP_TEST_DATA_URI",
}
_DATA_FORMAT = "AIP_DATA_FORMAT"
_COLLECTS_LOGS = ("CLOUD_ML_PROJECT_ID", "CLOUD_RUN_JOB")  # And reads JSON lines.
_SERVING_PORT = "AIP_HTTP_PORT"
_SERVING_ROUTES = {"predict": "AIP_PREDICT_ROUTE", "health": "AIP_HEALTH_ROUTE"}
_ALL_ADDRESSES = "0.0.0.0"  # noqa: S104 - Else nobody outside of a container reaches the server.
SERVED_RUN = "AIP_STORAGE_URI"
_IMAGE = "TRAINER_IMAGE"  # Set by the Dockerfile.


def flags(
    environment: Mapping[str, str], *, typed: Collection[str], in_file: Collection[str]
) -> dict[str, tuple[str, str]]:
    """Returns the settings that the environment decides, unless the user did.

    Where to write is not taken from a file before the environment: an earlier run's `config.json`
    would lead into that run's directory.

    Args:
        environment: the variables of the process.
        typed: names of settings that the user gave as flags.
        in_file: names of settings in the user's file.

    Returns:
        By the name of the setting: the variable that says so, and its value.

    Raises:
        UsageError: the data is not of a kind that can be trained on.
    """
    found = {name: variable for name, variable in _PLACES.items() if name not in typed}
    given = {*typed, *in_file}
    if "data" not in given and environment.get(_DATA["data"]):
        if environment.get(_DATA_FORMAT) != "jsonl":
            raise UsageError(
                f"{_DATA_FORMAT}: found {environment.get(_DATA_FORMAT)!r}, expected 'jsonl', a "
                "managed data set of images or texts; or give --data"
            )
        found |= {name: variable for name, variable in _DATA.items() if name not in given}
    decided = {
        name: (variable, environment[variable])
        for name, variable in found.items()
        if environment.get(variable)
    }
    collector = collects_logs(environment)
    if collector is not None and "log" not in typed:
        decided["log"] = (collector, "json")
    return decided


def serving_flags(
    environment: Mapping[str, str], *, typed: Collection[str]
) -> dict[str, tuple[str, str]]:
    """Returns the settings of a server that the environment decides, unless the user did.

    Args:
        environment: the variables of the process.
        typed: names of settings that the user gave as flags.

    Returns:
        By the name of the setting: the variable that says so, and its value.
    """
    decided = {}
    if environment.get(_SERVING_PORT):
        decided["port"] = (_SERVING_PORT, environment[_SERVING_PORT])
    if environment.get(_SERVING_PORT) or in_image(environment):
        decided["host"] = (_SERVING_PORT, _ALL_ADDRESSES)
    if (collector := collects_logs(environment)) is not None:
        decided["log"] = (collector, "json")
    return {name: found for name, found in decided.items() if name not in typed}


def serving_routes(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the paths that the service asks a server at: of "predict" and "health", if it says.

    Raises:
        UsageError: one of them is no plain path.
    """
    routes = {}
    for name, variable in _SERVING_ROUTES.items():
        path = environment.get(variable)
        if path and not re.fullmatch(r"/[^\s{}?#]*", path):
            raise UsageError(f"{variable}: found {path!r}, expected a path like /{name}")
        if path:
            routes[name] = path
    return routes


def collects_logs(environment: Mapping[str, str]) -> str | None:
    """Returns the variable that says that JSON lines on stdout are collected, if there is one."""
    return next(filter(environment.get, _COLLECTS_LOGS), None)


def trial(environment: Mapping[str, str]) -> str | None:
    """Returns the number of the tuning trial that this job is; None if it is none."""
    if environment.get("CLOUD_ML_TRIAL_ID") or environment.get("CLOUD_ML_HP_METRIC_FILE"):
        return environment.get("CLOUD_ML_TRIAL_ID") or "0"
    return None


def in_image(environment: Mapping[str, str]) -> bool:
    """Tells whether the program runs in its own image, whose containers come and go.

    Containers are used as machines too, to develop in, so that to be in one says nothing.
    """
    return _IMAGE in environment
