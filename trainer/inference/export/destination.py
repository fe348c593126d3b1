"""The destination of an exported model: a file, or a folder for a SavedModel; local or gs://."""

from __future__ import annotations

import os
from pathlib import Path

from trainer import storage
from trainer.errors import RunExistsError, UsageError

# A folder is a SavedModel as soon as it has this file, so it is written last and removed first.
_GRAPH = "saved_model.pb"
_SAVED_MODEL_FILES = ("variables/", "assets/", "assets.extra/", "fingerprint.pb")


class Destination:
    """A path that is checked before the work starts: it is free, or may be replaced."""

    def __init__(self, path: str, *, run: str, suffix: str | None, overwrite: bool) -> None:
        """Checks the path, and that its folder is writable.

        Args:
            path: path of the file or folder, local or gs://.
            run: the run directory, which must not be written to.
            suffix: required suffix of the file; None for a folder.
            overwrite: whether an earlier model at the path may be replaced.

        Raises:
            RunExistsError: the path holds something that the export would destroy.
            UsageError: the path is in the run directory, or has another suffix.
            StorageError: the path cannot be written.
        """
        self.path = path
        if _is_inside(path, run):
            raise UsageError(
                f"--out {path}: found a path in the run directory, whose files are fixed by its "
                "manifest, expected a path outside of it"
            )
        if suffix is not None and not path.endswith(suffix):
            raise UsageError(f"--out {path}: expected the path of a file that ends in {suffix}")
        self._folder, self._name = (
            (storage.folder(path), "") if suffix is None else storage.parent(path)
        )
        storage.check_writable("--out", self._folder)
        self._check_free(overwrite)

    def _check_free(self, overwrite: bool) -> None:
        if self._name:
            if self._folder.generation(self._name) and not overwrite:
                raise RunExistsError(f"--out {self.path}: exists; replace it with --overwrite")
            return
        present = self._folder.names()
        if present and _GRAPH not in present:
            raise RunExistsError(
                f"--out {self.path}: found {len(present)} files that are not a SavedModel "
                f"({present[0]}, ...), expected a new or empty folder"
            )
        if present and not overwrite:
            raise RunExistsError(f"--out {self.path}: exists; replace it with --overwrite")

    def write(self, source: Path) -> None:
        """Copies a local file or folder to the path; a reader never sees an incomplete model."""
        if source.is_file():
            self._folder.write(self._name, source)
            return
        for name in sorted(self._folder.names(), key=lambda name: name != _GRAPH):
            if name == _GRAPH or name.startswith(_SAVED_MODEL_FILES):
                self._folder.remove(name)
        files = {
            path.relative_to(source).as_posix(): path
            for path in source.rglob("*")
            if path.is_file()
        }
        graph = files.pop(_GRAPH)
        try:
            storage.write_all(self._folder, files)
            self._folder.write(_GRAPH, graph)
        except BaseException:
            for name in files:
                self._folder.remove(name)
            raise


def default(run: str, suffix: str) -> str:
    """Returns a path in the current folder: the name of the run directory, with a suffix."""
    path = run if storage.is_remote(run) else os.path.abspath(run)
    return (path.rpartition("/")[2] or "model") + suffix


def _is_inside(path: str, run: str) -> bool:
    if storage.is_remote(path) != storage.is_remote(run):
        return False
    if not storage.is_remote(path):
        path, run = os.path.realpath(path), os.path.realpath(run)
    return f"{path}/".startswith(f"{run}/")
