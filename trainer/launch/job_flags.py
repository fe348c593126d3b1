"""The flags of the job itself, behind `--`: checked here, in seconds, and not there in an hour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer import models, task
from trainer.config import Config, command_line, flag_name, option_specs, resolve
from trainer.data.loader import SHIPPED
from trainer.errors import UsageError
from trainer.models import MODELS

_READ = ("data", "validation_data", "test_data", "weights", "config")
_WRITTEN = ("checkpoint_dir", "tensorboard_dir")


@dataclass(frozen=True)
class JobFlags:
    """What the job will be called with.

    Attributes:
        typed: the strings that the user gave, by the name of the setting.
        config: the settings they make, with those of a `--config` file left out.
    """

    typed: dict[str, str]
    config: Config

    @property
    def arguments(self) -> list[str]:
        """The command line. One word a flag: a bare 1e-4 in YAML would be read as a number."""
        return [f"{flag_name(name)}={value}" for name, value in self.typed.items()]


def read(arguments: Sequence[str], *, program: str, mounted: str | None) -> JobFlags:
    """Checks the job's flags as the job will; answers `--help` by itself.

    Args:
        arguments: what stands behind `--`.
        program: how the command is called, for the help.
        mounted: where the job's machine has buckets as a folder; None if it has not.

    Raises:
        UsageError: a flag or value that the job would refuse, or that cannot work there.
    """
    typed = command_line.parse_values(
        arguments,
        option_specs(Config),
        program=f"{program} ... --",
        summary="The flags of the job, which is python -m trainer.task there.",
        names=task.NAMES,
    )
    config = resolve(typed)
    check_model(config.model)
    if config.out:
        raise UsageError(f"--out: found {config.out!r} behind '--', expected it before '--'")
    if config.overwrite:
        raise UsageError(
            "--overwrite: a job that the service starts once more would replace what it has "
            "finished, expected another --out"
        )
    for name in (*_READ, *_WRITTEN):
        _check_place(name, getattr(config, name), mounted)
    return JobFlags(typed, config)


def check_model(name: str) -> None:
    """Raises UsageError if a model is neither registered nor named as package.module:build.

    Whether the image has the user's package is seen there only.
    """
    if name not in MODELS and ":" not in name:
        models.find(name)


def _check_place(name: str, place: str | None, mounted: str | None) -> None:
    roots = tuple(filter(None, ("gs://", mounted)))
    if place is None or place.startswith(roots) or (name == "data" and place in SHIPPED):
        return
    shipped = f"{', '.join(SHIPPED)}, or " if name == "data" else ""
    raise UsageError(
        f"{flag_name(name)}: found {place!r}, which the job's machine does not have, "
        f"expected {shipped}{' or '.join(f'{root}...' for root in roots)}"
    )
