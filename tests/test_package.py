"""The package as pip, `make env` and cloud services install it: with its data and the command."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCES = ["trainer", "setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that a wheel is made from, the Makefile and the lock files."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in [*SOURCES, "Makefile", "requirements"]:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    pip(sys.executable, "wheel --no-deps --no-build-isolation --wheel-dir dist .", checkout)
    (wheel,) = (checkout / "dist").iterdir()
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `trainer` in an environment that has only the packages of the cpu lock."""
    environment = new_environment(tmp_path_factory.mktemp("environment"), "cpu")
    pip(str(environment / "bin/python"), f"install --no-index --no-deps {wheel}", environment)
    return environment / "bin/trainer"


def test_a_wheel_holds_the_package_its_data_and_the_notices(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "trainer").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    data = {name for name in sources if not name.endswith(".py")}
    assert {Path(name).suffix for name in data} >= {".jinja", ".html", ".gz", ".txt", ".typed"}
    assert sources <= names
    assert any(name.endswith("licenses/NOTICE") for name in names)
    assert not any(name.startswith("tests") for name in names)


@pytest.mark.long
def test_pip_install_into_an_empty_environment_gives_a_working_command(
    installed: Path, tmp_path: Path
) -> None:
    trained = run(tmp_path, installed, "train", "--model", "mlp", "--epochs", "1", "--out", "run")
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout == "run\n"
    verified = run(tmp_path, installed, "verify", "run")
    assert verified.returncode == 0, verified.stderr
    assert (tmp_path / "run/report.html").stat().st_size > 10_000


@pytest.mark.long
def test_make_env_gives_the_command_that_runs_the_checkout_from_any_folder(
    checkout: Path, tmp_path: Path
) -> None:
    new_environment(checkout / ".venv", "cpu", "pip")
    (checkout / ".venv/installed-cpu").touch()  # As after the download of the packages.
    subprocess.run(["make", "env"], cwd=checkout, env=clean(), check=True)
    program = checkout / ".venv/bin/trainer"

    version = checkout / "trainer/__init__.py"
    version.write_text(re.sub('__version__ = ".*"', '__version__ = "9.9.9"', version.read_text()))
    assert run(tmp_path, program, "--version").stdout == "9.9.9\n"

    # Another checkout that shares the environment runs its own code.
    other = shutil.copytree(
        checkout, tmp_path / "other", ignore=shutil.ignore_patterns(".venv", "__pycache__")
    )
    (other / ".venv").symlink_to(checkout / ".venv")
    version = other / "trainer/__init__.py"
    version.write_text(version.read_text().replace("9.9.9", "8.8.8"))
    python = other / ".venv/bin/python"
    assert run(other, python, "-m", "trainer", "--version").stdout == "8.8.8\n"
    before = program.stat().st_mtime_ns
    subprocess.run(["make", "env"], cwd=other, env=clean(), check=True)
    assert program.stat().st_mtime_ns == before
    assert run(tmp_path, program, "--version").stdout == "9.9.9\n"


@pytest.mark.long
def test_the_command_finds_a_model_in_the_current_folder(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "my_models.py").write_text("def build(spec): raise SystemExit('found it')\n")
    result = run(tmp_path, installed, "train", "--model", "my_models:build")
    assert result.stderr.endswith("found it\n")


def test_the_cpu_environment_has_no_cuda() -> None:
    """The CUDA libraries are all that the gpu lock adds to the cpu lock."""
    locks = {extra: locked(extra) for extra in ("cpu", "gpu", "serve", "dev")}
    assert not any("nvidia" in name or "cuda" in name for name in locks["cpu"] | locks["dev"])
    more = {name for name in locks["gpu"] - locks["cpu"] if not name.startswith("tensorflow[")}
    assert more
    assert all(name.startswith("nvidia-") for name in more)
    assert {name for name in locks["cpu"] if "[" not in name} <= locks["dev"]
    # The serving image is the CPU image with some packages added.
    assert locks["cpu"] < locks["serve"] < locks["dev"]


def locked(extra: str) -> set[str]:
    """Returns the packages of a lock file, as name==version."""
    lines = (ROOT / "requirements" / f"{extra}.txt").read_text().splitlines()
    return {line.split()[0] for line in lines if "==" in line}


def new_environment(folder: Path, extra: str, *more: str) -> Path:
    """Makes a virtual environment with the packages of a lock file, linked and not downloaded."""
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    names = {re.split(r"==|\[", name)[0] for name in locked(extra)}
    for name in [*names, *more]:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # For another platform or version of Python.
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            source, link = Path(distribution.locate_file(top)), packages / top
            if not link.exists() and source.exists():
                link.symlink_to(source)
    return folder


def pip(python: str, arguments: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "--python", python, "--quiet", *arguments.split()]
    subprocess.run(command, cwd=folder, env=clean(), check=True)


def run(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=clean(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def clean() -> dict[str, str]:
    """Returns the environment of a user's shell: without PYTHONPATH, make's and TensorFlow's."""
    ours = ("PYTHON", "TF_", "MAKE", "MFLAGS", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
