"""Folders that all test processes of a session share, each made by the first one that needs it."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SharedFolders:
    """Named read-only folders under `root`; a test that changes one copies it first."""

    root: Path

    def get(self, name: str, make: Callable[[Path], object]) -> Path:
        """Returns the folder of that name.

        If no process has made it yet, `make` is called with its path while all others wait.
        """
        folder, listing = self.root / name, self.root / f"{name}.listing"
        with (self.root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # Released when the process ends, however it ends.
            if not listing.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                listing.write_text(_list(folder))
        return folder

    def check_unchanged(self) -> None:
        """Raises AssertionError if a test has written to one of the folders."""
        for listing in self.root.glob("*.listing"):
            assert _list(listing.with_suffix("")) == listing.read_text(), listing.stem


def _list(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    status = ((path.relative_to(folder), path.stat()) for path in files)
    return "".join(f"{name} {stat.st_size} {stat.st_mtime_ns}\n" for name, stat in status)
