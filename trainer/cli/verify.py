"""`trainer verify RUN`: checks the files of a finished run against its manifest."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pydantic

from trainer.config import command_line
from trainer.config.fields import FolderPath, argument
from trainer.config.options import StorageOptions
from trainer.errors import DamagedRunError


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyOptions(StorageOptions):
    """The options of `trainer verify`."""

    run: FolderPath = argument("Finished run directory, local or gs://bucket/path.")


def main(arguments: Sequence[str], *, program: str) -> None:
    """Prints each missing, changed or extra file; exits with 3 if there are any, else with 0."""
    with command_line.exit_codes(program, arguments):
        options = command_line.parse(
            VerifyOptions,
            arguments,
            program=program,
            summary="Checks the size and SHA-256 of every file of a finished run against its "
            "manifest.",
        )
        from trainer import storage
        from trainer.runs import manifest

        folder = storage.folder(options.run)
        content = manifest.read(folder)
        differences = manifest.verify(folder, content)
        for difference in differences:
            print(difference)
        sys.stdout.flush()
        if differences:
            raise DamagedRunError(
                f"{options.run}: {len(differences)} differences from its manifest"
            )
        print(f"{options.run}: complete, {len(content['files'])} files as in its manifest")
