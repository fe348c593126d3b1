"""`manifest.json`: what a finished run consists of, so that anybody can check it."""

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
_ENTRY = {"name": str, "size_bytes": int, "sha256": str}
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
        "git_commit": git_commit(),
        "versions": versions(),
    }


def read(folder: Folder) -> dict[str, Any]:
    """Returns the manifest of a finished run.

    Raises:
        StorageError: there is none, so that this is no finished run; or it cannot be read.
        DamagedRunError: it is no manifest.
    """
    content = folder.read(filenames.MANIFEST)
    if content is None:
        raise StorageError(f"{folder.path}: no {filenames.MANIFEST} there, expected a finished run")
    try:
        described = json.loads(content)
        for entry in described["files"]:
            if not all(isinstance(entry[key], kind) for key, kind in _ENTRY.items()):
                raise TypeError(f"entry {entry}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedRunError(f"{folder.path}/{filenames.MANIFEST}: damaged: {error}") from None
    return dict(described)


def verify(folder: Folder, described: Mapping[str, Any]) -> list[str]:
    """Reads every file of a run, and says in a line each which differ from its manifest."""
    expected = {entry["name"]: entry for entry in described["files"]}
    present = set(folder.names()) - {filenames.MANIFEST}

    def compare(name: str) -> str | None:
        # Only what the listing shows: a manifest that was tampered with names any file at all.
        content = folder.read(name) if name in present else None
        if content is None:
            return f"missing: {name}"
        entry = expected[name]
        if len(content) != entry["size_bytes"]:
            return f"changed: {name}: {len(content)} bytes, expected {entry['size_bytes']}"
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            return f"changed: {name}: another SHA-256 than in the manifest"
        return None

    with concurrent.futures.ThreadPoolExecutor(storage.THREADS) as pool:
        differing = [finding for finding in pool.map(compare, sorted(expected)) if finding]
    return differing + [f"extra: {name}" for name in sorted(present - set(expected))]


def fetch(
    folder: Folder, described: Mapping[str, Any], wanted: Sequence[str], target: Path
) -> list[str]:
    """Copies files of a run into a local folder, each compared with the manifest.

    Args:
        folder: the run directory.
        described: its manifest.
        wanted: names of files; one that ends in "/" stands for all below it.
        target: a local folder.

    Returns:
        The names of what was copied.

    Raises:
        DamagedRunError: one of them is missing, or not the one of the manifest.
    """
    expected = {
        entry["name"]: entry["sha256"]
        for entry in described["files"]
        if any(
            entry["name"] == name or (name.endswith("/") and entry["name"].startswith(name))
            for name in wanted
        )
    }

    def copy(name: str) -> None:
        if ".." in name.split("/"):  # A manifest that was tampered with.
            raise DamagedRunError(f"{folder.path}/{name}: a name that leaves the run directory")
        content = folder.read(name)
        if content is None or hashlib.sha256(content).hexdigest() != expected[name]:
            found = "is missing" if content is None else "is not the file of the manifest"
            raise DamagedRunError(f"{folder.path}/{name}: {found}; trainer verify says more")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)

    with concurrent.futures.ThreadPoolExecutor(storage.THREADS) as pool:
        list(pool.map(copy, expected))  # Raises what a copy raised.
    return sorted(expected)


def versions() -> dict[str, str]:
    """Returns the versions of what decides a result."""
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
    """Returns the commit of the program's own source, with `-dirty` behind it if it was changed."""
    if os.environ.get(_COMMIT_VARIABLE):
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
