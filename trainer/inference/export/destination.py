"""Where an exported model goes: a file, or a folder for a SavedModel; local or gs://."""

from __future__ import annotations

import os
from pathlib import Path

from trainer import storage
from trainer.errors import RunExistsError, UsageError
from trainer.storage import Folder

# A SavedModel is one as soon as this is there, so it comes last and goes first.
_GRAPH = "saved_model.pb"
_OF_SAVED_MODEL = ("variables/", "assets/", "assets.extra/", "fingerprint.pb")


class Destination:
    """A place that was looked at before the work; nothing is there yet, or it may be replaced."""

    def __init__(self, path: str, *, run: str, suffix: str | None, overwrite: bool) -> None:
        """Looks at the place, and tries a write beside it.

        Args:
            path: of the file or folder, local or gs://.
            run: the run directory, in which nothing may be put.
            suffix: what the name of a file has to end in; None for a folder.
            overwrite: whether an earlier model there is to be replaced.

        Raises:
            RunExistsError: something is there that this would destroy.
            UsageError: it lies in the run directory, or has another ending.
            StorageError: it cannot be written.
        """
        self.path = path
        if _inside(path, run):
            raise UsageError(
                f"--out {path}: lies in the run, whose files are those of its manifest, expected "
                "another place"
            )
        if suffix is not None and not path.endswith(suffix):
            raise UsageError(f"--out {path}: expected the path of a file that ends in {suffix}")
        self._folder, self._name = (storage.folder(path), "") if suffix is None else _parent(path)
        self._folder.check_writable()
        self._check_free(overwrite)

    def _check_free(self, overwrite: bool) -> None:
        if self._name:
            if self._folder.generation(self._name) and not overwrite:
                raise RunExistsError(
                    f"--out {self.path}: is there already, --overwrite replaces it"
                )
            return
        present = self._folder.names()
        if present and _GRAPH not in present:
            raise RunExistsError(
                f"--out {self.path}: holds files that are no SavedModel ({present[0]}, "
                f"{len(present)} in all), expected a new or empty folder"
            )
        if present and not overwrite:
            raise RunExistsError(f"--out {self.path}: is there already, --overwrite replaces it")

    def write(self, source: Path) -> None:
        """Puts a local file or folder there; it is whole when it is seen as a model."""
        if source.is_file():
            self._folder.write(self._name, source)
            return
        for name in sorted(self._folder.names(), key=lambda name: name != _GRAPH):
            if name == _GRAPH or name.startswith(_OF_SAVED_MODEL):
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
    """Returns a path in the current folder that is called as the run is."""
    local = run if storage.is_remote(run) else os.path.abspath(run)
    return (local.rpartition("/")[2] or "model") + suffix


def _parent(path: str) -> tuple[Folder, str]:
    """Returns the folder that a file lies in, and the file's name in it."""
    parent, _, name = path.rpartition("/")
    return storage.folder(parent or ("/" if path.startswith("/") else ".")), name


def _inside(path: str, run: str) -> bool:
    if storage.is_remote(path) != storage.is_remote(run):
        return False
    if not storage.is_remote(path):
        path, run = os.path.realpath(path), os.path.realpath(run)
    return f"{path}/".startswith(f"{run}/")
