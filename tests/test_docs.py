"""Every command of this program that the documentation shows is one that it takes."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import ROOT
from trainer import task
from trainer.cli import data, main, serve
from trainer.config import Config, check, command_line, flag_name, option_specs

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
VALUES = {
    "$PROJECT": "my-project",
    "$REGION": "us-central1",
    "$IMAGE": "us-docker.pkg.dev/my-project/trainer/trainer",
    "$BUCKET": "gs://my-project-trainer",
    "$ACCOUNT": "trainer@my-project.iam.gserviceaccount.com",
}


def commands(beginning: str) -> list[str]:
    """Returns the commands in code blocks that begin so, without what they are piped into."""
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for line in re.findall(rf"^    (?:\$ )?({beginning} .*)$", text, re.MULTILINE):
            if "..." not in line:
                found.append(line.partition(" | ")[0])
    return found


@pytest.mark.parametrize("command", commands("python -m trainer.task"))
def test_training_commands_have_flags_that_exist(command: str) -> None:
    words = shlex.split(re.sub(r"--config \S+", "", command))  # That file is not here.
    task.parse(words[3:])


@pytest.mark.parametrize("command", commands("docker run"))
def test_docker_commands_have_flags_that_exist(command: str) -> None:
    words = shlex.split(command)
    image = next(n for n, word in enumerate(words) if re.fullmatch("trainer(:[a-z]+)?|mine", word))
    if words[image] == "trainer:serve":
        serve.read(words[image + 1 :], {}, program="trainer serve")
    else:
        task.parse(words[image + 1 :])


@pytest.mark.parametrize("command", commands("trainer serve"))
def test_serving_commands_have_flags_that_exist(command: str) -> None:
    serve.read(shlex.split(command)[2:], {}, program="trainer serve")


@pytest.mark.parametrize("command", commands("trainer submit"))
def test_jobs_that_are_submitted_would_be_accepted(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in VALUES.items():
        command = command.replace(name, value)
    words = shlex.split(command)[1:]
    if "--kubernetes" not in words and "--dry-run" not in words[: words.index("--")]:
        words.insert(1, "--dry-run")
    with pytest.raises(SystemExit) as ended:
        main.main(words)
    assert ended.value.code == 0, capsys.readouterr().err


@pytest.mark.parametrize("command", commands("trainer export"))
def test_exports_have_flags_that_exist(command: str) -> None:
    words = shlex.split(command)[1:]
    settings = importlib.import_module(main.COMMANDS[words[0]][0]).Settings
    flags = command_line.parse_values(words[1:], option_specs(settings), program="", summary="")
    check(settings, flags)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        (name, command)
        for name in ("evaluate", "predict")
        for command in commands(f"trainer {name}")
        if "RUN" not in command
    ],
)
def test_questions_to_a_run_have_flags_that_exist(name: str, command: str) -> None:
    settings = importlib.import_module(main.COMMANDS[name][0]).Settings
    words = shlex.split(command)[2:]
    given = command_line.parse_values(
        words, option_specs(settings), program=name, summary="", names=task.NAMES
    )
    check(settings, given)


def test_the_commands_are_found() -> None:
    assert len(commands("python -m trainer.task")) >= 4
    assert len(commands("trainer submit")) >= 4
    assert commands("docker run")
    assert commands("trainer export")
    assert len(commands("trainer predict")) >= 3
    assert commands("trainer serve")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_that_are_named_exist(page: Path) -> None:
    """In tables and text; those of other programs stand in code blocks."""
    modules = [importlib.import_module(place) for place, _ in main.COMMANDS.values()]
    kinds = [getattr(module, "Settings", Config) for module in modules]
    kinds += [data.Check, data.Convert]
    known = {flag_name(setting.name) for kind in kinds for setting in option_specs(kind)}
    others = {"--gpus", "--read-only", "--tmpfs", "--help", "--memory", "--target"}
    others |= {"--substitutions"}
    text = re.sub(r"^    .*$", "", page.read_text(), flags=re.MULTILINE)
    named = set(re.findall(r"`[^`]*?(--[a-z][a-z-]+)", text))
    assert named - known - others == set()


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_tests_that_are_named_exist() -> None:
    defined = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text())}
    assert len(named) > 15
    assert {name for name in named if f"def {name}(" not in defined} == set()
