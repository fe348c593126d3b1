"""Checks the flags after `--`, which are those of the job, before anything is submitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer import models, storage, task
from trainer.config import Config, command_line, flag_name, option_specs, resolve
from trainer.data.loader import SHIPPED
from trainer.errors import UsageError
from trainer.models import MODELS

_INPUTS = ("data", "validation_data", "test_data", "weights", "config")
_OUTPUTS = ("checkpoint_dir", "tensorboard_dir")


@dataclass(frozen=True)
class JobFlags:
    """Checked flags of a job.

    Attributes:
        values: the flags as typed, by the name of the setting.
        config: the settings that result from them; a `--config` file is not read.
    """

    values: dict[str, str]
    config: Config

    @property
    def arguments(self) -> list[str]:
        """The command line, as `--flag=value`: YAML would read a bare 1e-4 as a number."""
        return [f"{flag_name(name)}={value}" for name, value in self.values.items()]


def read(arguments: Sequence[str], *, program: str, mounted_buckets: bool) -> JobFlags:
    """Returns the job's flags, checked as the job itself does; prints the help for `--help`.

    Args:
        arguments: the words after `--`.
        program: name of the command, for the help.
        mounted_buckets: whether the job's machine has buckets as folders below `/gcs/`.

    Raises:
        UsageError: the job would refuse a flag or value, or it cannot work on that machine.
        SystemExit: with code 0, after printing the help.
    """
    values = command_line.parse_values(
        arguments,
        option_specs(Config),
        program=f"{program} ... --",
        summary="Flags of the job, which runs python -m trainer.task.",
        names=task.NAMES,
    )
    config = resolve(values)
    check_model(config.model)
    if config.out:
        raise UsageError(f"--out: found {config.out!r} after `--`, expected it before `--`")
    if config.overwrite:
        raise UsageError(
            "--overwrite: found it after `--`. When the service restarts the job, it would "
            "replace a finished run. Use another --out instead"
        )
    for name in (*_INPUTS, *_OUTPUTS):
        _check_path(name, getattr(config, name), mounted_buckets)
    return JobFlags(values, config)


def check_model(name: str) -> None:
    """Raises UsageError if a model is neither registered nor of the form package.module:build.

    The user's package is not imported: it may be installed in the image only.
    """
    if name not in MODELS and ":" not in name:
        models.find(name)


def _check_path(name: str, path: str | None, mounted_buckets: bool) -> None:
    """Raises UsageError unless the job's machine can reach a path."""
    if path is None or storage.is_remote(path) or (name == "data" and path in SHIPPED):
        return
    if mounted_buckets and storage.is_mounted(path):
        return
    roots = (storage.SCHEME, storage.MOUNT) if mounted_buckets else (storage.SCHEME,)
    shipped = f"{', '.join(SHIPPED)}, or " if name == "data" else ""
    raise UsageError(
        f"{flag_name(name)}: found {path!r}, which the job's machine does not have, "
        f"expected {shipped}{' or '.join(f'{root}...' for root in roots)}. Copy it to a bucket"
    )
