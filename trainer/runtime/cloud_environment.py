"""Reads the environment variables of cloud services: defaults of flags, ports, routes, trials.

Sources: Vertex AI's custom training (AIP_*, CLOUD_ML_*, CLUSTER_SPEC) and custom containers for
prediction (AIP_*), TensorFlow's TF_CONFIG, Cloud Run's jobs (CLOUD_RUN_JOB) and services (PORT).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from trainer.errors import UsageError

_OUTPUT_VARIABLES = {
    "out": "AIP_MODEL_DIR",
    "checkpoint_dir": "AIP_CHECKPOINT_DIR",
    "tensorboard_dir": "AIP_TENSORBOARD_LOG_DIR",
}
_DATA_VARIABLES = {
    "data": "AIP_TRAINING_DATA_URI",
    "validation_data": "AIP_VALIDATION_DATA_URI",
    "test_data": "AIP_TEST_DATA_URI",
}
_DATA_FORMAT = "AIP_DATA_FORMAT"
_LOG_COLLECTORS = ("CLOUD_ML_PROJECT_ID", "CLOUD_RUN_JOB")  # These services parse JSON lines.
_SERVING_PORT = "AIP_HTTP_PORT"
_PORT = "PORT"  # Of Cloud Run, Knative, App Engine and Heroku.
_SERVING_ROUTES = {"predict": "AIP_PREDICT_ROUTE", "health": "AIP_HEALTH_ROUTE"}
_ALL_ADDRESSES = "0.0.0.0"  # noqa: S104 - Needed to reach the server from outside its container.
SERVED_RUN = "AIP_STORAGE_URI"
_IMAGE = "TRAINER_IMAGE"  # Set by the Dockerfile.


def flags(
    environment: Mapping[str, str], *, from_flags: Collection[str], from_file: Collection[str]
) -> dict[str, tuple[str, str]]:
    """Returns the settings that environment variables set and the user does not.

    For output folders the environment takes precedence over the user's file: the `config.json` of
    an earlier run names that run's directory.

    Args:
        environment: environment variables of the process.
        from_flags: names of the settings that the user gave as flags.
        from_file: names of the settings in the user's file.

    Returns:
        For each setting: the name of the variable, and its value.

    Raises:
        UsageError: the data has a format that is not supported.
    """
    variables = {
        name: variable for name, variable in _OUTPUT_VARIABLES.items() if name not in from_flags
    }
    from_user = {*from_flags, *from_file}
    if "data" not in from_user and environment.get(_DATA_VARIABLES["data"]):
        if environment.get(_DATA_FORMAT) != "jsonl":
            raise UsageError(
                f"{_DATA_FORMAT}: found {environment.get(_DATA_FORMAT)!r}, expected 'jsonl', a "
                "managed data set of images or texts; or give --data"
            )
        variables |= {
            name: variable for name, variable in _DATA_VARIABLES.items() if name not in from_user
        }
    settings = {
        name: (variable, environment[variable])
        for name, variable in variables.items()
        if environment.get(variable)
    }
    collector = collects_logs(environment)
    if collector is not None and "log" not in from_flags:
        settings["log"] = (collector, "json")
    return settings


def serving_flags(
    environment: Mapping[str, str], *, from_flags: Collection[str]
) -> dict[str, tuple[str, str]]:
    """Returns the settings of a server that environment variables set and flags do not.

    Args:
        environment: environment variables of the process.
        from_flags: names of the settings that the user gave as flags.

    Returns:
        For each setting: the name of the variable, and its value.
    """
    settings = {}
    variable = next(filter(environment.get, (_SERVING_PORT, _PORT)), None)
    if variable is not None:
        settings["port"] = (variable, environment[variable])
    # A machine of a developer may have PORT for other programs.
    from_platform = variable == _SERVING_PORT or (variable == _PORT and "port" not in from_flags)
    if from_platform or in_image(environment):
        settings["host"] = (variable or _IMAGE, _ALL_ADDRESSES)
    if (collector := collects_logs(environment)) is not None:
        settings["log"] = (collector, "json")
    return {name: setting for name, setting in settings.items() if name not in from_flags}


def serving_routes(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the URL paths of "predict" and "health" that the service sets, if any.

    Raises:
        UsageError: a variable holds no plain path.
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
    """Returns the name of the variable that marks a service which collects JSON lines, or None."""
    return next(filter(environment.get, _LOG_COLLECTORS), None)


def trial(environment: Mapping[str, str]) -> str | None:
    """Returns the number of this job's tuning trial; None if the job is not a trial."""
    if environment.get("CLOUD_ML_TRIAL_ID") or environment.get("CLOUD_ML_HP_METRIC_FILE"):
        return environment.get("CLOUD_ML_TRIAL_ID") or "0"
    return None


def in_image(environment: Mapping[str, str]) -> bool:
    """Returns whether the program runs in its own image, whose containers are short-lived.

    Other containers do not count: some are long-lived development environments.
    """
    return _IMAGE in environment
