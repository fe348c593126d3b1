"""Files of a bucket, kept on a local disk for the next epoch and the next run."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from trainer import storage
from trainer.runtime.log import LOGGER


class Cache:
    """A folder of files by their checksum, which stays below a size.

    What is there stays: every epoch reads all files once, so that to make room for a new one would
    throw out one that is wanted as soon.
    """

    def __init__(self, folder: str, limit_bytes: int) -> None:
        """Makes the folder, or takes what earlier runs left in it.

        Raises:
            StorageError: it cannot be made or written.
        """
        self._path, self._folder = Path(folder), storage.folder(folder)
        self._folder.check_writable()
        with storage.translate_errors(folder):
            self._path.mkdir(parents=True, exist_ok=True)
            for name in filter(storage.is_temporary, self._folder.names()):
                self._folder.remove(name)
            files = [path for path in self._path.iterdir() if path.is_file()]
            self._left = limit_bytes - sum(path.stat().st_size for path in files)
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """Returns the content of a file, None if it is not kept; it may have been damaged."""
        with contextlib.suppress(OSError):
            return (self._path / key).read_bytes()
        return None

    def write(self, key: str, content: bytes) -> None:
        """Keeps a file if there is room."""
        with self._lock:
            if len(content) > self._left:
                return
            self._left -= len(content)
        partial = self._path / f".{key}-{threading.get_ident()}{storage.PARTIAL}"
        try:
            partial.write_bytes(content)
            partial.replace(self._path / key)
        except OSError as error:
            partial.unlink(missing_ok=True)
            with self._lock:
                self._left = 0
            LOGGER.warning("--cache-dir %s: keeps nothing more: %s", self._path, error.strerror)
