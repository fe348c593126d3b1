"""Run directories: checked, locked, and completed by writing the manifest last."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from trainer import storage
from trainer.config import LocatedConfig, differences, saved_auto_settings, to_json
from trainer.errors import RunExistsError
from trainer.runs import filenames, lease, manifest
from trainer.runs.lease import Lease


class RunDirectory:
    """The folder of a run's files, local or gs://."""

    def __init__(self, config: LocatedConfig) -> None:
        """Represents the folder `config.out`; reads and writes no files yet."""
        self._config = config
        self._folder = storage.folder(config.out)
        parent, self._checkpoints = _checkpoints_location(config)
        self._checkpoints_parent = storage.folder(parent)

    def is_finished(self) -> bool:
        """Returns whether the folder holds this run, finished; else checks that it is writable.

        Raises:
            RunExistsError: the folder holds another run, or other files.
            StorageError: the folder cannot be written.
        """
        out, overwrite = self._config.out, self._config.overwrite
        config_content = self._folder.read(filenames.CONFIG)
        if config_content is None:
            # A killed job leaves hidden files: its lease, and files that it was writing.
            names = [name for name in self._folder.names() if not name.startswith(".")]
            if names:
                raise RunExistsError(
                    f"--out {out}: holds files that do not belong to a run ({names[0]}, "
                    f"{len(names)} in total), expected a new or empty folder. Set another --out"
                )
        elif not overwrite:
            changes = differences(self._config, self._parse_settings(config_content))
            if changes:
                raise RunExistsError(
                    f"--out {out}: holds a run with other settings: {'; '.join(changes)}. "
                    "Set another --out, or --overwrite to replace the run."
                )
            if self._folder.generation(filenames.MANIFEST):
                return True
            if self._config.resume == "never":
                raise RunExistsError(
                    f"--out {out}: holds this run, unfinished. Set --overwrite to start it from "
                    "the beginning, or remove --resume never to resume it."
                )
        self._folder.check_writable()
        for other in (self._config.checkpoint_dir, self._config.tensorboard_dir):
            if other is not None:
                storage.folder(other).check_writable()
        return False

    def saved_auto_settings(self) -> dict[str, Any]:
        """Returns the auto settings of the unfinished run that will be resumed, or {}."""
        config_content = self._folder.read(filenames.CONFIG)
        if config_content is None or not self._is_resumable(config_content):
            return {}
        return saved_auto_settings(self._parse_settings(config_content))

    @contextlib.contextmanager
    def locked(self) -> Iterator[Lease]:
        """Holds the lease of the folder, and prepares it to start or to resume the run.

        Raises:
            RunExistsError: another job is running on the folder, or has just finished this run.
        """
        with lease.acquire(self._config.out) as self._lease:
            if self.is_finished():
                raise RunExistsError(f"--out {self._config.out}: another job just finished it")
            self._prepare()
            yield self._lease

    def _prepare(self) -> None:
        """Keeps an unfinished run with these settings; removes any other run."""
        self._remove(filter(storage.is_temporary, self._folder.names()))
        config_content = self._folder.read(filenames.CONFIG)
        if config_content is not None and self._is_resumable(config_content):
            return
        # A kill between these steps must leave neither an incomplete run with a manifest nor new
        # settings with old checkpoints.
        old_names = [name for name in self._folder.names() if name.startswith(_RUN_FILES)]
        self._folder.remove(filenames.MANIFEST)
        self.remove_checkpoints()
        with storage.temporary_directory() as temporary:
            path = temporary / filenames.CONFIG
            path.write_text(to_json(self._config))
            self._folder.write(filenames.CONFIG, path)
        self._remove(name for name in old_names if name != filenames.CONFIG)

    def _is_resumable(self, config_content: bytes) -> bool:
        """Returns whether the run with these settings is unfinished and may be resumed."""
        if self._config.resume == "never":
            return False
        same = not differences(self._config, self._parse_settings(config_content))
        return same and not self._folder.generation(filenames.MANIFEST)

    @contextlib.contextmanager
    def commit(self, data_fingerprint: str, device: str) -> Iterator[Path]:
        """Yields an empty local folder; at the end writes its files to the run, manifest last.

        Args:
            data_fingerprint: SHA-256 of the training data.
            device: description of the device that the model was trained on.
        """
        with storage.temporary_directory() as folder:
            yield folder
            (folder / filenames.CONFIG).write_text(to_json(self._config))
            paths = (path for path in folder.rglob("*") if path.is_file())
            files = {path.relative_to(folder).as_posix(): path for path in paths}
            storage.write_all(self._folder, files)
            described = manifest.describe(files, data_fingerprint=data_fingerprint, device=device)
            path = folder / filenames.MANIFEST
            path.write_text(json.dumps(described, indent=2) + "\n")
            self._lease.check()
            self._folder.write(filenames.MANIFEST, path)
        self.remove_checkpoints()

    def remove_checkpoints(self) -> None:
        """Removes all checkpoints; also for a finished run that was killed before it did so."""
        names = storage.folder(checkpoints_path(self._config)).names()
        for name in sorted(names, key=lambda name: name.endswith(".h5")):  # The pointer first.
            self._checkpoints_parent.remove(f"{self._checkpoints}/{name}")

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._folder.remove(name)

    def _parse_settings(self, content: bytes) -> dict[str, Any]:
        try:
            settings = json.loads(content)
        except ValueError:
            settings = None
        if not isinstance(settings, dict):
            raise RunExistsError(
                f"--out {self._config.out}/{filenames.CONFIG}: found no JSON object, expected the "
                "settings of a run. Set another --out"
            )
        return settings


def checkpoints_path(config: LocatedConfig) -> str:
    """Returns the folder of a run's checkpoints, local or gs://; each run has its own."""
    return "/".join(_checkpoints_location(config))


def _checkpoints_location(config: LocatedConfig) -> tuple[str, str]:
    """Returns the parent folder, and the name of the run's checkpoint folder in it."""
    if config.checkpoint_dir is None:
        return config.out, filenames.CHECKPOINTS
    out = config.out if storage.is_remote(config.out) else os.path.abspath(config.out)
    return config.checkpoint_dir, hashlib.sha256(out.encode()).hexdigest()[:16]


# Names and prefixes of all files of a run.
_RUN_FILES = (
    filenames.CONFIG,
    filenames.HISTORY,
    filenames.METRICS,
    filenames.PREDICTIONS,
    filenames.REPORT,
    filenames.MODEL_KERAS,
    filenames.MODEL_H5,
    filenames.MANIFEST,
    f"{filenames.SAVED_MODEL}/",
    f"{filenames.TENSORBOARD}/",
    f"{filenames.CHECKPOINTS}/",
)
