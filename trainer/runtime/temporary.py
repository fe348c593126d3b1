"""Finds the folder for temporary files."""

from __future__ import annotations

import tempfile

from trainer.errors import StorageError


def root() -> str:
    """Returns the folder for temporary files.

    Raises:
        StorageError: no folder can be written.
    """
    try:
        return tempfile.gettempdir()
    except OSError:
        raise StorageError(
            "no folder for temporary files: TMPDIR, /tmp, /var/tmp, /usr/tmp and the working "
            "folder cannot be written, or are full. Mount a volume at /tmp, or set TMPDIR to "
            "another folder"
        ) from None
