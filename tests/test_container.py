"""Checks the files that build the image; scripts/check-container.sh builds and runs it."""

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
# Substitutions that Cloud Build defines in a build without a trigger.
BUILT_IN = {"PROJECT_ID", "BUILD_ID", "PROJECT_NUMBER", "LOCATION"}


@pytest.fixture(scope="module")
def context() -> set[str]:
    """Returns the files that docker sends to a build, by its own parser of .dockerignore."""
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in patterns if line and not line.startswith("#")]
    names = docker.utils.exclude_paths(str(ROOT), patterns)
    return {name for name in names if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def build() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "cloudbuild.yaml").read_text())
    return config


def test_only_needed_files_are_sent_to_the_build(context: set[str]) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "trainer"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert "trainer/data/builtin/mnist/train-images-idx3-ubyte.gz" in context
    others = {"LICENSE", "NOTICE", "README.md", "pyproject.toml", "setup.py",
            "requirements/cpu.txt", "requirements/gpu.txt", "requirements/serve.txt"}  # fmt: skip
    assert context - {".dockerignore", "Dockerfile"} == others | set(tracked)


def test_files_that_the_dockerfile_copies_exist(context: set[str]) -> None:
    copies = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    assert copies
    for name in " ".join(copies).split():
        assert any(path == name or path.startswith(f"{name}/") for path in context), name


def test_the_entry_point_is_in_exec_form_and_does_not_run_as_root() -> None:
    """A shell as process 1 would not forward SIGTERM to the job."""
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", DOCKERFILE, re.M | re.S))
    for name in ("cpu", "gpu-packages"):
        entry = re.search(r"^ENTRYPOINT (.*)$", stages[name], re.MULTILINE)
        assert entry is not None
        assert json.loads(entry[1]) == ["python", "-m", "trainer.task"]
    assert "USER 10001:10001" in stages["cpu"]
    assert re.search(r'^ENTRYPOINT \["python", "-m", "trainer", "serve"\]$', stages["serve"], re.M)
    assert re.search("^FROM cpu AS serve$", DOCKERFILE, re.MULTILINE)
    assert "USER 10001:10001" in stages["gpu"]
    assert list(stages)[-1] == "gpu"  # The default target.
    assert "USER" not in stages["root"]


def test_the_base_image_and_the_wheels_have_the_same_cuda(build: dict[str, Any]) -> None:
    base = re.search(r"BASE_IMAGE=docker.io/nvidia/cuda:(\d+\.\d+)", DOCKERFILE)
    lock = (ROOT / "requirements" / "gpu.txt").read_text()
    wheel = re.search(r"^nvidia-cuda-runtime-cu12==(\d+\.\d+)", lock, re.MULTILINE)
    assert base is not None
    assert wheel is not None
    assert base[1] == wheel[1]
    default = re.search(r"^ARG BASE_IMAGE=(.*)$", DOCKERFILE, re.MULTILINE)
    assert default is not None
    assert build["substitutions"]["_BASE_IMAGE"] == default[1]


def test_cloud_build_accepts_the_configuration(build: dict[str, Any]) -> None:
    Build.from_json(json.dumps(build))  # Raises on unknown fields, enums and durations.
    with pytest.raises(Exception, match="3600"):
        Build.from_json(json.dumps(build | {"timeout": 3600}))


def test_all_substitutions_are_defined_and_used(build: dict[str, Any]) -> None:
    own = build["substitutions"]
    text = json.dumps([build["steps"], build["images"], list(own.values())])
    used = set(re.findall(r"\$\{?([A-Z_][A-Z0-9_]*)", text))
    assert all(name.startswith("_") for name in own)
    assert used == set(own) | (used & BUILT_IN)


def test_the_image_is_tested_before_it_is_pushed(build: dict[str, Any]) -> None:
    steps = {step["id"]: step for step in build["steps"]}
    order = list(steps)
    for number, step in enumerate(build["steps"]):
        assert set(step["waitFor"] if "waitFor" in step else []) <= set(order[:number])
    assert order[-1] == "smoke-test"
    assert "--network=none" in steps["smoke-test"]["args"]
    assert steps["smoke-test"]["waitFor"] == ["build"]
    # Only images in this field get provenance, which a VERIFIED build requires.
    assert build["images"] == ["$_IMAGE:$_TAG"]
    assert build["options"]["requestedVerifyOption"] == "VERIFIED"
    assert not re.search("push|type=registry,(?!ref=)", json.dumps(build["steps"]))
    cached = [word for word in steps["build"]["args"] if word.startswith("--cache")]
    assert all("type=registry" in word for word in cached)
    assert len(cached) == 2


def test_the_smoke_test_is_a_valid_command_of_the_job(build: dict[str, Any]) -> None:
    from trainer import task

    arguments = build["steps"][-1]["args"]
    image = arguments.index("$_IMAGE:$_TAG")
    assert arguments[image + 1 : image + 3] == ["-m", "trainer.task"]
    config = task.parse(arguments[image + 3 :])
    assert (config.device, config.epochs) == ("cpu", 1)


def test_the_dockerfile_declares_all_build_arguments(build: dict[str, Any]) -> None:
    declared = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    scripts = (ROOT / "scripts" / "build-image.sh").read_text()
    passed = set(re.findall(r"--build-arg[= ]\"?(\w+)=", json.dumps(build) + scripts))
    assert passed
    assert passed <= declared


def test_messages_that_the_check_waits_for_are_those_of_the_program() -> None:
    """check-container.sh searches the output for them; a reworded message would fail it late."""
    script = (ROOT / "scripts" / "check-container.sh").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "trainer").rglob("*.py"))
    sources = re.sub(r'"\s*f?"', "", sources)  # Joins string literals that are split over lines.
    messages = set(
        re.findall(r"logged '(?!/|--)(?:\S+: )?(.*?)(?: gs://.*)?'$", script, re.MULTILINE)
    )
    messages |= set(re.findall(r"grep -q '([a-z ]+)'", script))
    assert len(messages) >= 7
    assert {message for message in messages if message not in sources} == set()


def test_scripts_have_valid_syntax_and_refuse_an_unknown_target() -> None:
    for script in sorted(Path(ROOT / "scripts").glob("*.sh")):
        subprocess.run(["bash", "-n", script], check=True)
    refused = subprocess.run(
        [ROOT / "scripts" / "build-image.sh", "tpu"], capture_output=True, text=True
    )
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "found target 'tpu', expected gpu, cpu, root or serve" in refused.stderr
