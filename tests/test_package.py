"""The package as cloud services install it: from setup.py, with the data inside."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import ROOT

PARTS = ["trainer", "setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"]


def test_a_wheel_holds_the_package_its_data_and_the_notices(tmp_path: Path) -> None:
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    command = "-m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist ."
    subprocess.run([sys.executable, *command.split()], cwd=tmp_path, check=True)
    (wheel,) = (tmp_path / "dist").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "trainer").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert sources <= found
    assert any(name.endswith("licenses/NOTICE") for name in found)
    assert not any(name.startswith("tests") for name in found)


def test_the_cpu_environment_has_no_cuda() -> None:
    """The gpu lock has it; that is the only difference."""
    locks = {
        extra: {
            line.split()[0]
            for line in (ROOT / "requirements" / f"{extra}.txt").read_text().splitlines()
            if "==" in line
        }
        for extra in ("cpu", "gpu", "serve", "dev")
    }
    assert not any("nvidia" in name or "cuda" in name for name in locks["cpu"] | locks["dev"])
    more = {name for name in locks["gpu"] - locks["cpu"] if not name.startswith("tensorflow[")}
    assert more
    assert all(name.startswith("nvidia-") for name in more)
    assert {name for name in locks["cpu"] if "[" not in name} <= locks["dev"]
    # So that the image that serves is the one for the CPU and some packages more.
    assert locks["cpu"] < locks["serve"] < locks["dev"]
