"""The run directory: found empty, begun, and finished by its manifest; never half of two runs."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer import config as configs
from trainer import storage
from trainer.config import ResolvedConfig
from trainer.errors import RunExistsError
from trainer.results import manifest, names


class RunDirectory:
    """Where a run leaves its files, local or gs://."""

    def __init__(self, config: ResolvedConfig) -> None:
        """Takes the folder `config.out`; nothing is read or written yet."""
        self._config = config
        self._folder = storage.folder(config.out)

    def is_finished(self) -> bool:
        """Tells whether the folder holds this very run, finished; and refuses what is in the way.

        Raises:
            RunExistsError: it holds another run, or files that are no run.
            StorageError: it cannot be written.
        """
        earlier = self._folder.read(names.CONFIG)
        if earlier is None:
            present = self._folder.names()
            if present:
                raise RunExistsError(
                    f"--out {self._config.out}: holds files that are no run "
                    f"({present[0]}, {len(present)} in all), expected a new or empty folder"
                )
        elif not self._config.overwrite:
            different = configs.differences(self._config, self._settings(earlier))
            if different:
                raise RunExistsError(
                    f"--out {self._config.out}: holds a run with other settings: "
                    f"{'; '.join(different)}. Give another --out, or --overwrite to replace it."
                )
            if self._folder.read(names.MANIFEST) is not None:
                return True
        self._folder.check_writable()
        return False

    def begin(self) -> None:
        """Removes an earlier run, its manifest first, and writes `config.json`."""
        present = self._folder.names()
        for name in sorted(present, key=lambda name: name != names.MANIFEST):
            if name in _OURS or name.startswith(f"{names.SAVED_MODEL}/"):
                self._folder.remove(name)
        with tempfile.TemporaryDirectory(prefix="trainer-") as folder:
            path = Path(folder, names.CONFIG)
            path.write_text(configs.to_json(self._config))
            self._folder.put(names.CONFIG, path)

    @contextlib.contextmanager
    def finishing(self, data_fingerprint: str, device: str) -> Iterator[Path]:
        """Gives an empty local folder; what is in it at the end becomes the run, manifest last.

        Args:
            data_fingerprint: SHA-256 of the data that was trained on.
            device: what it was trained on.
        """
        with tempfile.TemporaryDirectory(prefix="trainer-") as place:
            folder = Path(place)
            yield folder
            (folder / names.CONFIG).write_text(configs.to_json(self._config))
            paths = (path for path in folder.rglob("*") if path.is_file())
            files = {path.relative_to(folder).as_posix(): path for path in paths}
            storage.put_all(self._folder, files)
            described = manifest.describe(files, data_fingerprint=data_fingerprint, device=device)
            path = folder / names.MANIFEST
            path.write_text(json.dumps(described, indent=2) + "\n")
            self._folder.put(names.MANIFEST, path)

    def _settings(self, content: bytes) -> dict[str, Any]:
        try:
            settings = json.loads(content)
        except ValueError:
            settings = None
        if not isinstance(settings, dict):
            raise RunExistsError(
                f"--out {self._config.out}/{names.CONFIG}: expected the settings "
                "of a run, found none"
            )
        return settings


_OURS = frozenset(
    {names.CONFIG, names.HISTORY, names.METRICS, names.MODEL_KERAS, names.MODEL_H5, names.MANIFEST}
)
