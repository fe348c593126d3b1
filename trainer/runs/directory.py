"""Run directories: checked, locked, and completed by writing the manifest last."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer import storage
from trainer.config import (
    CONTENT_SETTINGS,
    Config,
    LocatedConfig,
    differences,
    option_specs,
    saved_auto_settings,
    to_json,
)
from trainer.data.identity import differences as data_differences
from trainer.errors import DamagedRunError, RunExistsError
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

        Settings are compared, the content of data is not; see `check_content`. A finished run with
        another number of epochs is not this run, and is checked to be one that can continue.

        Raises:
            RunExistsError: the folder holds another run, or other files.
            DamagedRunError: the manifest of a finished run is damaged.
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
            settings = self._parse_settings(config_content)
            # Paths of data may differ: what they hold is compared when it was read.
            changes = differences(self._config, settings, (*CONTENT_SETTINGS, "epochs"))
            more_epochs = differences(self._config, settings, _all_but("epochs"))
            finished = bool(self._folder.generation(filenames.MANIFEST))
            if changes or (more_epochs and finished and self._config.resume == "never"):
                raise RunExistsError(
                    f"--out {out}: holds a run with other settings: "
                    f"{'; '.join(differences(self._config, settings, CONTENT_SETTINGS))}. "
                    "Set another --out, or --overwrite to replace the run."
                )
            if finished and not more_epochs:
                return True
            if finished:
                self._check_can_continue("; ".join(more_epochs))
            elif self._config.resume == "never":
                raise RunExistsError(
                    f"--out {out}: holds this run, unfinished. Set --overwrite to start it from "
                    "the beginning, or remove --resume never to resume it."
                )
        storage.check_writable("--out", self._folder)
        for flag, other in (
            ("--checkpoint-dir", self._config.checkpoint_dir),
            ("--tensorboard-dir", self._config.tensorboard_dir),
        ):
            if other is not None:
                storage.check_writable(flag, storage.folder(other))
        return False

    def _check_can_continue(self, change: str) -> None:
        """Checks that the finished run in the folder can be trained for more epochs.

        Raises:
            RunExistsError: it was trained for more, or its recipe depends on the number of epochs.
        """
        start = f"--out {self._config.out}: holds a finished run; {change}"
        described = manifest.read(self._folder)
        if described["fixed_epochs"]:
            raise RunExistsError(
                f"{start}, and more epochs cannot continue it: {described['fixed_epochs']}. "
                "Set another --out, or --overwrite to train from the beginning."
            )
        done, epochs = described["epochs"], self._config.epochs
        if epochs is not None and epochs < done:
            raise RunExistsError(
                f"{start}, and it was trained for {done} epochs, expected no fewer. "
                "Set another --out, or --overwrite to train from the beginning."
            )

    def check_content(self, data: Mapping[str, Any], weights: str | None) -> None:
        """Checks that the finished run in the folder was trained on this data.

        Args:
            data: description of the data, by `trainer.data.identity.describe`.
            weights: SHA-256 of the file of --weights; None without one.

        Raises:
            RunExistsError: it was trained on other data, or from other weights.
        """
        described = manifest.read(self._folder)
        changes = data_differences(described["data"], data)
        if described["weights_sha256"] != weights:
            changes.append("--weights: the file has another content")
        if changes:
            raise RunExistsError(
                f"--out {self._config.out}: holds a finished run on other data: "
                f"{'; '.join(changes)}. Set another --out, or --overwrite to replace the run."
            )

    def same_paths(self) -> bool:
        """Returns whether the run in the folder has the same paths of data and weights."""
        return not differences(self._config, self.settings(), _all_but(*CONTENT_SETTINGS))

    def settings(self) -> dict[str, Any]:
        """Returns the content of the `config.json` in the folder, or {}."""
        content = self._folder.read(filenames.CONFIG)
        return {} if content is None else self._parse_settings(content)

    def saved_auto_settings(self) -> dict[str, Any]:
        """Returns the auto settings of the run that will be resumed or continued, or {}.

        Those that the user has set now are left out.
        """
        content = self._folder.read(filenames.CONFIG)
        if content is None or not (self._is_resumable(content) or self.continues()):
            return {}
        settings = saved_auto_settings(self._parse_settings(content))
        return {
            name: value
            for name, value in settings.items()
            if getattr(self._config, name, None) is None
        }

    def continues(self) -> bool:
        """Returns whether the folder holds a finished run that more epochs continue."""
        content = self._folder.read(filenames.CONFIG)
        return (
            content is not None
            and not self._config.overwrite
            and self._config.resume != "never"
            and bool(self._folder.generation(filenames.MANIFEST))
            and bool(differences(self._config, self._parse_settings(content), _all_but("epochs")))
        )

    @contextlib.contextmanager
    def final_checkpoint(self) -> Iterator[Path | None]:
        """Yields a local copy of the final checkpoint of the finished run; None if none continues.

        Raises:
            DamagedRunError: the checkpoint is missing, or differs from the manifest.
        """
        if not self.continues():
            yield None
            return
        with storage.temporary_directory() as temporary:
            described = manifest.read(self._folder)
            if not manifest.fetch(
                self._folder, described, (filenames.FINAL_CHECKPOINT,), temporary
            ):
                raise DamagedRunError(
                    f"{self._config.out}: no {filenames.FINAL_CHECKPOINT} in its manifest"
                )
            yield temporary / filenames.FINAL_CHECKPOINT

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
        """Keeps a run that is resumed or continued; removes any other run."""
        self._remove(filter(storage.is_temporary, self._folder.names()))
        config_content = self._folder.read(filenames.CONFIG)
        if config_content is not None and (self._is_resumable(config_content) or self.continues()):
            return
        # A kill between these steps must leave neither an incomplete run with a manifest nor new
        # settings with old checkpoints.
        old_names = [name for name in self._folder.names() if name.startswith(_RUN_FILES)]
        self._folder.remove(filenames.MANIFEST)
        self._remove_all_checkpoints()
        with storage.temporary_directory() as temporary:
            path = temporary / filenames.CONFIG
            path.write_text(to_json(self._config))
            self._folder.write(filenames.CONFIG, path)
        self._remove(name for name in old_names if name != filenames.CONFIG)

    def _is_resumable(self, config_content: bytes) -> bool:
        """Returns whether the run with these settings is unfinished and may be resumed.

        Without a checkpoint there is nothing to resume, and nothing tells whether its data, which
        decided its auto settings, is this data.
        """
        if self._config.resume == "never" or self._folder.generation(filenames.MANIFEST):
            return False
        may_differ = () if self._config.overwrite else (*CONTENT_SETTINGS, "epochs")
        if differences(self._config, self._parse_settings(config_content), may_differ):
            return False
        return bool(
            self._checkpoints_parent.generation(
                f"{self._checkpoints}/{filenames.LATEST_CHECKPOINT}"
            )
        )

    @contextlib.contextmanager
    def commit(
        self,
        data: Mapping[str, Any],
        device: str,
        *,
        epochs: int = 0,
        weights: str | None = None,
        fixed_epochs: str | None = None,
    ) -> Iterator[Path]:
        """Yields an empty local folder; at the end writes its files to the run, manifest last.

        A finished run that is there stays valid until all new files are ready. Its manifest is
        removed before its files are replaced: then the run is an unfinished one with a checkpoint.

        Args:
            data: description of the data, by `trainer.data.identity.describe`.
            device: description of the device that the model was trained on.
            epochs: number of epochs that the model was trained for.
            weights: SHA-256 of the file of --weights; None without one.
            fixed_epochs: why more epochs cannot continue the run; None if they can.
        """
        with storage.temporary_directory() as folder:
            yield folder
            (folder / filenames.CONFIG).write_text(to_json(self._config))
            paths = (path for path in folder.rglob("*") if path.is_file())
            files = {path.relative_to(folder).as_posix(): path for path in paths}
            described = manifest.describe(
                files,
                data=data,
                device=device,
                epochs=epochs,
                weights=weights,
                fixed_epochs=fixed_epochs,
            )
            self._lease.check()
            self._folder.remove(filenames.MANIFEST)
            storage.write_all(self._folder, files)
            # Names with a time in them, of a finished run or of an attempt that was killed here.
            self._remove(
                name
                for name in self._folder.names()
                if name.startswith(_RESULT_FILES) and name not in files
            )
            path = folder / filenames.MANIFEST
            path.write_text(json.dumps(described, indent=2) + "\n")
            self._lease.check()
            self._folder.write(filenames.MANIFEST, path)
        self._remove_all_checkpoints()

    def remove_checkpoints(self) -> None:
        """Removes the checkpoints of a finished run that was killed before it did so.

        Those of a run that is trained for more epochs are kept.
        """
        parent = self._checkpoints_parent
        content = parent.read(f"{self._checkpoints}/{filenames.LATEST_CHECKPOINT}")
        try:
            planned = json.loads(content or b"{}")["epochs"]
        except (ValueError, KeyError, TypeError):
            planned = None
        if planned in (None, self.settings().get("epochs")):
            self._remove_all_checkpoints()

    def _remove_all_checkpoints(self) -> None:
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


def _all_but(*names: str) -> list[str]:
    return [name for name in (each.name for each in option_specs(Config)) if name not in names]


# Names and prefixes of the files of a run's results.
_RESULT_FILES = (
    filenames.CONFIG,
    filenames.HISTORY,
    filenames.METRICS,
    filenames.PREDICTIONS,
    filenames.REPORT,
    filenames.MODEL_KERAS,
    filenames.MODEL_H5,
    filenames.FINAL_CHECKPOINT,
    f"{filenames.SAVED_MODEL}/",
    f"{filenames.TENSORBOARD}/",
)
# All of its files.
_RUN_FILES = (*_RESULT_FILES, filenames.MANIFEST, f"{filenames.CHECKPOINTS}/")
