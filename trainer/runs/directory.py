"""The run directory: found empty, begun, and finished by its manifest; never half of two runs."""

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
    """Where a run leaves its files, local or gs://."""

    def __init__(self, config: LocatedConfig) -> None:
        """Takes the folder `config.out`; nothing is read or written yet."""
        self._config = config
        self._folder = storage.folder(config.out)
        place, self._checkpoints = _checkpoints_place(config)
        self._checkpoints_parent = storage.folder(place)

    def is_finished(self) -> bool:
        """Tells whether the folder holds this very run, finished; and refuses what is in the way.

        Raises:
            RunExistsError: it holds another run, or files that are no run.
            StorageError: it cannot be written.
        """
        out, overwrite = self._config.out, self._config.overwrite
        earlier = self._folder.read(filenames.CONFIG)
        if earlier is None:
            # Hidden files are what a killed job leaves of its lease, or of a file half written.
            present = [name for name in self._folder.names() if not name.startswith(".")]
            if present:
                raise RunExistsError(
                    f"--out {out}: holds files that are no run "
                    f"({present[0]}, {len(present)} in all), expected a new or empty folder"
                )
        elif not overwrite:
            different = differences(self._config, self._settings(earlier))
            if different:
                raise RunExistsError(
                    f"--out {out}: holds a run with other settings: {'; '.join(different)}. "
                    "Give another --out, or --overwrite to replace it."
                )
            if self._folder.generation(filenames.MANIFEST):
                return True
            if self._config.resume == "never":
                raise RunExistsError(
                    f"--out {out}: holds this run, unfinished. Give --overwrite to start it anew, "
                    "or leave --resume never out to go on."
                )
        self._folder.check_writable()
        for other in (self._config.checkpoint_dir, self._config.tensorboard_dir):
            if other is not None:
                storage.folder(other).check_writable()
        return False

    def saved_auto_settings(self) -> dict[str, Any]:
        """Returns the settings that data decided, of a run that goes on here; else none."""
        earlier = self._folder.read(filenames.CONFIG)
        if earlier is None or not self._goes_on(earlier):
            return {}
        return saved_auto_settings(self._settings(earlier))

    @contextlib.contextmanager
    def locked(self) -> Iterator[Lease]:
        """Holds the lease of the folder, and makes it ready for the run, or to go on with it.

        Raises:
            RunExistsError: another job is running on it, or has just finished this run.
        """
        with lease.acquire(self._config.out) as self._lease:
            if self.is_finished():
                raise RunExistsError(f"--out {self._config.out}: another job just finished it")
            self._begin()
            yield self._lease

    def _begin(self) -> None:
        """Leaves an unfinished run of these settings as it is, and removes any other."""
        self._remove(filter(storage.is_temporary, self._folder.names()))
        earlier = self._folder.read(filenames.CONFIG)
        if earlier is not None and self._goes_on(earlier):
            return
        # In this order: a kill in between leaves no run that seems finished, nor a new one beside
        # an old one's checkpoints.
        present = [name for name in self._folder.names() if name.startswith(_OURS)]
        self._folder.remove(filenames.MANIFEST)
        self.remove_checkpoints()
        with storage.temporary_directory() as place:
            path = place / filenames.CONFIG
            path.write_text(to_json(self._config))
            self._folder.write(filenames.CONFIG, path)
        self._remove(name for name in present if name != filenames.CONFIG)

    def _goes_on(self, earlier: bytes) -> bool:
        """Tells whether the folder holds this run, unfinished, by its settings as they lie."""
        if self._config.resume == "never":
            return False
        same = not differences(self._config, self._settings(earlier))
        return same and not self._folder.generation(filenames.MANIFEST)

    @contextlib.contextmanager
    def commit(self, data_fingerprint: str, device: str) -> Iterator[Path]:
        """Gives an empty local folder; what is in it at the end becomes the run, manifest last.

        Args:
            data_fingerprint: SHA-256 of the data that was trained on.
            device: what it was trained on.
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
        """Removes what a finished run needs no more, also where it was killed before it could."""
        names_there = storage.folder(checkpoints_path(self._config)).names()
        for name in sorted(names_there, key=lambda name: name.endswith(".h5")):  # Pointer first.
            self._checkpoints_parent.remove(f"{self._checkpoints}/{name}")

    def _remove(self, files: Iterable[str]) -> None:
        for name in files:
            self._folder.remove(name)

    def _settings(self, content: bytes) -> dict[str, Any]:
        try:
            settings = json.loads(content)
        except ValueError:
            settings = None
        if not isinstance(settings, dict):
            raise RunExistsError(
                f"--out {self._config.out}/{filenames.CONFIG}: expected the settings "
                "of a run, found none"
            )
        return settings


def checkpoints_path(config: LocatedConfig) -> str:
    """Returns the folder of a run's checkpoints, local or gs://; no other run has it."""
    return "/".join(_checkpoints_place(config))


def _checkpoints_place(config: LocatedConfig) -> tuple[str, str]:
    """Returns the folder that checkpoints lie in, and the name of this run's folder in it."""
    if config.checkpoint_dir is None:
        return config.out, filenames.CHECKPOINTS
    out = config.out if storage.is_remote(config.out) else os.path.abspath(config.out)
    return config.checkpoint_dir, hashlib.sha256(out.encode()).hexdigest()[:16]


_SNAPSHOTS = f"{filenames.CHECKPOINTS}/"
_OURS = (
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
    _SNAPSHOTS,
)
