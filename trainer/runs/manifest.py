"""Writes, reads and verifies `manifest.json`, which lists the files of a finished run."""

from __future__ import annotations

import concurrent.futures
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer import __version__, storage
from trainer.errors import DamagedRunError, StorageError
from trainer.runs import filenames
from trainer.storage import Folder

_PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "h5py")
_FORMAT = 3  # Increased when keys of the manifest or of the files in it change.
_ENTRY_TYPES = {"name": str, "size_bytes": int, "sha256": str}
_COMMIT_VARIABLE = "TRAINER_GIT_COMMIT"  # Set in images, which contain no git repository.


def describe(
    files: Mapping[str, Path],
    *,
    data: Mapping[str, Any],
    device: str,
    epochs: int,
    weights: str | None,
    fixed_epochs: str | None,
) -> dict[str, Any]:
    """Returns the manifest of a run.

    Args:
        files: all files of the run except the manifest, by name in the run directory.
        data: description of the data, by `trainer.data.identity.describe`.
        device: description of the device that the model was trained on.
        epochs: number of epochs that the model was trained for.
        weights: SHA-256 of the file of --weights; None without one.
        fixed_epochs: why more epochs cannot continue the run; None if they can.
    """
    return {
        "format": _FORMAT,
        "files": [_entry(name, path) for name, path in sorted(files.items())],
        "data_fingerprint": data["fingerprint"],
        "data": dict(data),
        "weights_sha256": weights,
        "epochs": epochs,
        "fixed_epochs": fixed_epochs,
        "device": device,
        "git_commit": git_commit(),
        "versions": versions(),
    }


def read(folder: Folder) -> dict[str, Any]:
    """Returns the manifest of a finished run.

    Raises:
        StorageError: the folder holds no finished run, or may not be read.
        DamagedRunError: the manifest is damaged, or has another format version.
    """
    content = folder.read(filenames.MANIFEST)
    if content is None:
        raise StorageError(f"{folder.path}: no {filenames.MANIFEST} there, expected a finished run")
    path = f"{folder.path}/{filenames.MANIFEST}"
    try:
        manifest = dict(json.loads(content))
        for entry in manifest["files"]:
            if not all(isinstance(entry[key], type_) for key, type_ in _ENTRY_TYPES.items()):
                raise TypeError(f"entry {entry}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedRunError(f"{path}: damaged: {error}") from None
    version = manifest.get("format", 1)
    if version != _FORMAT:
        raise DamagedRunError(
            f"{path}: found format {version}, expected {_FORMAT}; use the version of trainer that "
            "wrote the run, or train again"
        )
    return manifest


def verify(folder: Folder, manifest: Mapping[str, Any]) -> list[str]:
    """Compares every file of a run with its manifest; returns one line per difference.

    Lease and checkpoints of a job that trains the run for more epochs are no differences.
    """
    expected = {entry["name"]: entry for entry in manifest["files"]}
    ignored = (filenames.LEASE, f"{filenames.CHECKPOINTS}/")
    present = {name for name in folder.names() if not name.startswith(ignored)}
    present.discard(filenames.MANIFEST)

    def compare(name: str) -> str | None:
        # Reads listed files only: a manipulated manifest may name files outside of the run.
        content = folder.read(name) if name in present else None
        if content is None:
            return f"missing: {name}"
        entry = expected[name]
        if len(content) != entry["size_bytes"]:
            return f"changed: {name}: {len(content)} bytes, expected {entry['size_bytes']}"
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            return f"changed: {name}: its SHA-256 differs from the manifest"
        return None

    with concurrent.futures.ThreadPoolExecutor(storage.THREADS) as pool:
        differences = [line for line in pool.map(compare, sorted(expected)) if line]
    return differences + [f"extra: {name}" for name in sorted(present - set(expected))]


def fetch(
    folder: Folder, manifest: Mapping[str, Any], names: Sequence[str], target: Path
) -> list[str]:
    """Copies files of a run into a local folder after comparing them with the manifest.

    Args:
        folder: the run directory.
        manifest: its manifest.
        names: names of files; a name with "/" at its end stands for all files below it.
        target: a local folder.

    Returns:
        The names of the copied files, sorted.

    Raises:
        DamagedRunError: a file is missing, or differs from the manifest.
    """
    expected = {
        entry["name"]: entry["sha256"]
        for entry in manifest["files"]
        if any(
            entry["name"] == name or (name.endswith("/") and entry["name"].startswith(name))
            for name in names
        )
    }

    def copy(name: str) -> None:
        if ".." in name.split("/"):  # The manifest was manipulated.
            raise DamagedRunError(f"{folder.path}/{name}: the name leads out of the run directory")
        content = folder.read(name)
        if content is None or hashlib.sha256(content).hexdigest() != expected[name]:
            problem = "is missing" if content is None else "differs from the manifest"
            raise DamagedRunError(
                f"{folder.path}/{name}: {problem}; trainer verify lists all differences"
            )
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)

    with concurrent.futures.ThreadPoolExecutor(storage.THREADS) as pool:
        list(pool.map(copy, expected))  # Raises the first error of a copy.
    return sorted(expected)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that affect results."""
    return {
        "trainer": __version__,
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in _PACKAGES},
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


def git_commit() -> str | None:
    """Returns the git commit of this package, with the suffix `-dirty` if files were changed."""
    if os.environ.get(_COMMIT_VARIABLE):
        return os.environ[_COMMIT_VARIABLE]
    package = Path(__file__).parents[1]
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        # An installed package may be inside the repository of another project.
        is_tracked = ["git", "ls-files", "--error-unmatch", "__init__.py"]
        subprocess.run(is_tracked, cwd=package, capture_output=True, check=True)
        result = subprocess.run(command, cwd=package, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
