"""Caches the shards of a bucket on a local disk, for the next epoch and the next run."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from trainer import storage
from trainer.runtime.log import LOGGER


class ShardCache:
    """A local folder of files by key, limited in size.

    A full cache evicts nothing: each epoch reads every shard once, so an evicted shard would be
    needed as soon as the one that replaced it.
    """

    def __init__(self, folder: str, limit_bytes: int) -> None:
        """Creates the folder, or opens it with the files of earlier runs.

        Args:
            folder: local folder.
            limit_bytes: maximum size of all files.

        Raises:
            StorageError: the folder cannot be created or written.
        """
        self._path, self._folder = Path(folder), storage.folder(folder)
        storage.check_writable("--cache-dir", self._folder)
        with storage.translate_errors(folder):
            self._path.mkdir(parents=True, exist_ok=True)
            for name in filter(storage.is_temporary, self._folder.names()):
                self._folder.remove(name)
            files = [path for path in self._path.iterdir() if path.is_file()]
            self._free_bytes = limit_bytes - sum(path.stat().st_size for path in files)
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """Returns the content of a file, which may be damaged; None if it is not cached."""
        with contextlib.suppress(OSError):
            return (self._path / key).read_bytes()
        return None

    def write(self, key: str, content: bytes) -> None:
        """Stores a file if there is room for it; after a failed write stores no more files."""
        with self._lock:
            if len(content) > self._free_bytes:
                return
            self._free_bytes -= len(content)
        partial = self._path / f".{key}-{threading.get_ident()}{storage.PARTIAL}"
        try:
            partial.write_bytes(content)
            partial.replace(self._path / key)
        except OSError as error:
            partial.unlink(missing_ok=True)
            with self._lock:
                self._free_bytes = 0
            LOGGER.warning(
                "--cache-dir %s: no more shards are cached: %s", self._path, error.strerror
            )
