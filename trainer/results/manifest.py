"""`manifest.json`: what a finished run consists of, so that anybody can check it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer import __version__, storage

_PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "h5py")
_COMMIT_VARIABLE = "TRAINER_GIT_COMMIT"  # Set in an image, where there is no repository.


def describe(files: Mapping[str, Path], *, data_fingerprint: str, device: str) -> dict[str, Any]:
    """Returns the manifest of a run.

    Args:
        files: every file of the run but the manifest, by its name in the run directory.
        data_fingerprint: SHA-256 of the data it was trained on.
        device: what it was trained on.
    """
    return {
        "files": [_entry(name, path) for name, path in sorted(files.items())],
        "data_fingerprint": data_fingerprint,
        "device": device,
        "git_commit": _git_commit(),
        "versions": {
            "trainer": __version__,
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in _PACKAGES},
        },
    }


def _entry(name: str, path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "name": name,
        "size_bytes": path.stat().st_size,
        "sha256": sha256,
        "crc32c": storage.crc32c(path),
    }


def _git_commit() -> str | None:
    """Returns the commit of the program's own source, with `-dirty` behind it if it was changed."""
    if _COMMIT_VARIABLE in os.environ:
        return os.environ[_COMMIT_VARIABLE]
    package = Path(__file__).parents[1]
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        # A repository around an installed package is some other project's.
        tracked = ["git", "ls-files", "--error-unmatch", "__init__.py"]
        subprocess.run(tracked, cwd=package, capture_output=True, check=True)
        found = subprocess.run(command, cwd=package, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
