"""What the image is built from, and how Cloud Build does it; the image itself is run by
scripts/check-container.sh."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import docker.utils
import pytest
import yaml
from google.cloud.devtools.cloudbuild_v1.types import Build

from tests.conftest import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
# What Cloud Build itself defines, in a build that no trigger started.
BUILT_IN = {"PROJECT_ID", "BUILD_ID", "PROJECT_NUMBER", "LOCATION"}


@pytest.fixture(scope="module")
def context() -> set[str]:
    """The files that a build is sent, by docker's own reading of .dockerignore."""
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in patterns if line and not line.startswith("#")]
    found = docker.utils.exclude_paths(str(ROOT), patterns)
    return {name for name in found if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def build() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "cloudbuild.yaml").read_text())
    return config


def test_nothing_unneeded_goes_into_the_build(context: set[str]) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "trainer"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert "trainer/datasets/builtin/mnist/train-images-idx3-ubyte.gz" in context
    rest = {"LICENSE", "NOTICE", "README.md", "pyproject.toml", "setup.py",
            "requirements/cpu.txt", "requirements/gpu.txt", "requirements/serve.txt"}  # fmt: skip
    assert context - {".dockerignore", "Dockerfile"} == rest | set(tracked)


def test_what_the_dockerfile_copies_is_there(context: set[str]) -> None:
    copies = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    assert copies
    for name in " ".join(copies).split():
        assert any(path == name or path.startswith(f"{name}/") for path in context), name


def test_a_process_of_its_own_gets_the_signals_and_no_root_runs_it() -> None:
    """Exec form: a shell in between would keep SIGTERM to itself."""
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", DOCKERFILE, re.M | re.S))
    for name in ("cpu", "gpu-packages"):
        entry = re.search(r"^ENTRYPOINT (.*)$", stages[name], re.MULTILINE)
        assert entry is not None
        assert json.loads(entry[1]) == ["python", "-m", "trainer.task"]
    assert "USER 10001:10001" in stages["cpu"]
    assert re.search(r'^ENTRYPOINT \["python", "-m", "trainer", "serve"\]$', stages["serve"], re.M)
    assert re.search("^FROM cpu AS serve$", DOCKERFILE, re.MULTILINE)
    assert "USER 10001:10001" in stages["gpu"]
    assert list(stages)[-1] == "gpu"  # What is built when no target is named.
    assert "USER" not in stages["root"]


def test_the_cuda_of_the_base_is_that_of_the_wheels(build: dict[str, Any]) -> None:
    base = re.search(r"BASE_IMAGE=docker.io/nvidia/cuda:(\d+\.\d+)", DOCKERFILE)
    lock = (ROOT / "requirements" / "gpu.txt").read_text()
    wheel = re.search(r"^nvidia-cuda-runtime-cu12==(\d+\.\d+)", lock, re.MULTILINE)
    assert base is not None
    assert wheel is not None
    assert base[1] == wheel[1]
    default = re.search(r"^ARG BASE_IMAGE=(.*)$", DOCKERFILE, re.MULTILINE)
    assert default is not None
    assert build["substitutions"]["_BASE_IMAGE"] == default[1]


def test_cloud_build_takes_the_configuration(build: dict[str, Any]) -> None:
    Build.from_json(json.dumps(build))  # Raises on unknown fields, enums and durations.
    with pytest.raises(Exception, match="3600"):
        Build.from_json(json.dumps(build | {"timeout": 3600}))


def test_substitutions_are_defined_and_used(build: dict[str, Any]) -> None:
    own = build["substitutions"]
    text = json.dumps([build["steps"], build["images"], list(own.values())])
    used = set(re.findall(r"\$\{?([A-Z_][A-Z0-9_]*)", text))
    assert all(name.startswith("_") for name in own)
    assert used == set(own) | (used & BUILT_IN)


def test_the_image_is_tried_before_it_is_pushed(build: dict[str, Any]) -> None:
    steps = {step["id"]: step for step in build["steps"]}
    order = list(steps)
    for number, step in enumerate(build["steps"]):
        assert set(step["waitFor"] if "waitFor" in step else []) <= set(order[:number])
    assert order[-1] == "smoke-test"
    assert "--network=none" in steps["smoke-test"]["args"]
    assert steps["smoke-test"]["waitFor"] == ["build"]
    # Provenance is made only for what this field names, and a VERIFIED build demands it.
    assert build["images"] == ["$_IMAGE:$_TAG"]
    assert build["options"]["requestedVerifyOption"] == "VERIFIED"
    assert not re.search("push|type=registry,(?!ref=)", json.dumps(build["steps"]))
    cached = [word for word in steps["build"]["args"] if word.startswith("--cache")]
    assert all("type=registry" in word for word in cached)
    assert len(cached) == 2


def test_the_smoke_test_is_a_command_that_the_job_takes(build: dict[str, Any]) -> None:
    from trainer import task

    arguments = build["steps"][-1]["args"]
    place = arguments.index("$_IMAGE:$_TAG")
    assert arguments[place + 1 : place + 3] == ["-m", "trainer.task"]
    config = task.parse(arguments[place + 3 :])
    assert (config.device, config.epochs) == ("cpu", 1)


def test_arguments_of_the_build_are_the_dockerfiles(build: dict[str, Any]) -> None:
    known = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    scripts = (ROOT / "scripts" / "build-image.sh").read_text()
    given = set(re.findall(r"--build-arg[= ]\"?(\w+)=", json.dumps(build) + scripts))
    assert given
    assert given <= known


def test_scripts_are_sound() -> None:
    for script in sorted(Path(ROOT / "scripts").glob("*.sh")):
        subprocess.run(["bash", "-n", script], check=True)
    refused = subprocess.run(
        [ROOT / "scripts" / "build-image.sh", "tpu"], capture_output=True, text=True
    )
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "found target 'tpu', expected gpu, cpu, root or serve" in refused.stderr
