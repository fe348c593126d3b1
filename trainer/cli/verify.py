"""`trainer verify RUN`: reads a finished run again, and compares it with its manifest."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pydantic

from trainer.config import command_line
from trainer.config.fields import Text, argument
from trainer.errors import DamagedRunError


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of the command."""

    run: Text = argument("A finished run directory, local or gs://bucket/path.")


def main(arguments: Sequence[str], *, program: str) -> None:
    """Prints what is missing, changed or extra, and exits with 3 if anything is, else with 0."""
    with command_line.exit_codes(program, arguments):
        settings = command_line.parse(
            Settings,
            arguments,
            program=program,
            summary="Reads every file of a finished run, and compares it with the run's manifest.",
        )
        run = settings.run
        from trainer import storage
        from trainer.runs import manifest

        described = manifest.read(storage.folder(run))
        findings = manifest.verify(storage.folder(run), described)
        for finding in findings:
            print(finding)
        sys.stdout.flush()
        if findings:
            raise DamagedRunError(f"{run}: {len(findings)} differences from its manifest")
        print(f"{run}: whole, {len(described['files'])} files as in its manifest")
