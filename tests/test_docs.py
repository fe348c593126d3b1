"""The documentation agrees with the program: commands, flags, files, links and tests."""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conftest import ROOT
from trainer import task
from trainer.cli import data, main, serve
from trainer.config import Config, check, command_line, flag_name, option_specs

PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / "benchmarks" / name for name in ("FORMATS.md", "WORKERS.md")),
]
# It names flags and files of earlier versions.
CHANGELOG = ROOT / "CHANGELOG.md"
# What CONTRIBUTING.md adds in its examples.
EXAMPLE_FLAGS = {"--label-smoothing", "--comment"}
EXAMPLE_FILES = {
    "trainer/models/linear.py",
    "trainer/data/formats/fasttext.py",
    "trainer/cli/settings.py",
    "tests/data/formats/test_fasttext.py",
    "tests/cli/test_settings.py",
}
VALUES = {
    "$PROJECT": "my-project",
    "$REGION": "us-central1",
    "$IMAGE": "us-docker.pkg.dev/my-project/trainer/trainer",
    "$BUCKET": "gs://my-project-trainer",
    "$ACCOUNT": "trainer@my-project.iam.gserviceaccount.com",
}
# `train`, `serve` and `submit` have tests of their own.
DATA_OPTIONS = {"data check": data.CheckOptions, "data convert": data.ConvertOptions}
OF_A_RUN = ("evaluate", "predict", "compare", "export", "verify")


def commands(beginning: str) -> list[str]:
    """Returns the commands in code blocks that begin with `beginning`, without pipes behind them.

    A command with a placeholder, `...` or a word in capitals, is left out.
    """
    lines = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for line in re.findall(rf"^    (?:\$ )?({beginning} .*)$", text, re.MULTILINE):
            command = line.partition(" | ")[0]
            if "..." not in command and not re.search(r"(?<![-\w$])[A-Z]{3,}(?!\w)", command):
                lines.append(command)
    return lines


def options_class(command: str) -> type:
    """Returns the class with the options of a command: `ExportOptions` for `export`."""
    if command in DATA_OPTIONS:
        return DATA_OPTIONS[command]
    module = importlib.import_module(main.COMMANDS[command][0])
    kind: type = getattr(module, f"{command.title()}Options")
    return kind


@pytest.mark.parametrize("command", commands("python -m trainer.task") + commands("trainer train"))
def test_training_commands_have_flags_that_exist(command: str) -> None:
    words = shlex.split(re.sub(r"--config \S+", "", command))  # That file is not here.
    task.parse(words[3:] if words[0] == "python" else words[2:])


@pytest.mark.parametrize("command", commands("docker run"))
def test_docker_commands_have_flags_that_exist(command: str) -> None:
    words = shlex.split(command)
    image = next(n for n, word in enumerate(words) if re.fullmatch("trainer(:[a-z]+)?|mine", word))
    if words[image] == "trainer:serve":
        serve.read_options(words[image + 1 :], {}, program="trainer serve")
    else:
        task.parse(words[image + 1 :])


@pytest.mark.parametrize("command", commands("trainer serve"))
def test_serving_commands_have_flags_that_exist(command: str) -> None:
    serve.read_options(shlex.split(command)[2:], {}, program="trainer serve")


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


@pytest.mark.parametrize(
    ("name", "command"),
    [
        (name, command)
        for name in (*OF_A_RUN, *DATA_OPTIONS)
        for command in commands(f"trainer {name}")
    ],
)
def test_commands_have_flags_that_exist(name: str, command: str) -> None:
    kind = options_class(name)
    for variable, value in VALUES.items():
        command = command.replace(variable, value)
    words = shlex.split(command.replace("$BUCKET", "gs://b"))[1 + len(name.split()) :]
    flags = command_line.parse_values(
        words, option_specs(kind), program=name, summary="", names=task.NAMES
    )
    check(kind, flags)


def test_modules_and_tests_in_the_examples_are_complete(tmp_path: Path) -> None:
    """Whole files in CONTRIBUTING.md, which begin with a docstring, pass the linter."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    blocks = [textwrap.dedent(block) for block in re.findall(r"(?:^ {8}.*\n|^\n)+", text, re.M)]
    modules = [block.strip() + "\n" for block in blocks if block.strip().startswith('"""')]
    assert len(modules) == 5
    for number, module in enumerate(modules):
        (tmp_path / f"example_{number}.py").write_text(module)
    ruff = [sys.executable, "-m", "ruff"]
    rules = ["--config", str(ROOT / "pyproject.toml"), "--ignore", "S101,INP001,D103"]
    result = subprocess.run([*ruff, "check", *rules, tmp_path], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_documentation_shows_each_command() -> None:
    assert len(commands("python -m trainer.task")) >= 4
    assert len(commands("trainer train")) >= 4
    assert len(commands("trainer submit")) >= 4
    assert commands("docker run")
    assert len(commands("trainer predict")) >= 3
    assert commands("trainer serve")
    for name in (*OF_A_RUN, *DATA_OPTIONS):
        assert commands(f"trainer {name}"), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_that_are_named_exist(page: Path) -> None:
    """In tables and text; those of other programs stand in code blocks."""
    own = [options_class(name) for name in main.COMMANDS if name not in ("train", "data")]
    kinds = [Config, *own, *DATA_OPTIONS.values()]
    flags = {flag_name(setting.name) for kind in kinds for setting in option_specs(kind)}
    others = {"--gpus", "--read-only", "--tmpfs", "--help", "--memory", "--target"}
    others |= {"--substitutions", "--version"}
    text = re.sub(r"^    .*$", "", page.read_text(), flags=re.MULTILINE)
    named = set(re.findall(r"`[^`]*?(--[a-z][a-z-]+)", text))
    assert named - flags - others - EXAMPLE_FLAGS == set()


def test_the_reference_of_flags_is_up_to_date() -> None:
    """If not: .venv/bin/python scripts/generate-flags-reference.py."""
    script = runpy.run_path(str(ROOT / "scripts" / "generate-flags-reference.py"))
    assert (ROOT / "docs" / "reference" / "flags.md").read_text() == script["reference"]()


def test_the_reference_of_flags_has_each_command() -> None:
    text = (ROOT / "docs" / "reference" / "flags.md").read_text()
    for name in (*(each for each in main.COMMANDS if each != "data"), *DATA_OPTIONS):
        assert f"## `trainer {name}" in text


def test_environment_variables_have_an_entry() -> None:
    """Each variable that the program reads itself is in docs/reference/environment.md."""
    text = (ROOT / "docs" / "reference" / "environment.md").read_text()
    pattern = r"\"((?:TRAINER|AIP|CLOUD_ML|CLOUD_RUN)_[A-Z_]+[A-Z]|TF_CONFIG|CLUSTER_SPEC)\""
    names = {
        name
        for file in (ROOT / "trainer").rglob("*.py")
        for name in re.findall(pattern, file.read_text())
    }
    assert len(names) > 15
    assert {name for name in names if f"`{name}`" not in text} == set()


def test_links_lead_somewhere() -> None:
    for page in (*PAGES, CHANGELOG):
        for target in re.findall(r"\]\(([^)#:]+)[)#]", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {
        (index.parent / target).resolve()
        for target in re.findall(r"\]\(([^)#:]+)[)#]", index.read_text())
    }
    pages = {page.resolve() for page in (ROOT / "docs").rglob("*.md")} - {index.resolve()}
    assert pages - linked == set()


def test_files_that_are_named_exist() -> None:
    """Paths of this repository in the text; a path with a `*` or capitals is a pattern."""
    pattern = r"`((?:trainer|tests|scripts|benchmarks|docs)/[a-z0-9_./-]*[a-z0-9/])`"
    named = {(page.name, path) for page in PAGES for path in re.findall(pattern, page.read_text())}
    assert len(named) > 40
    missing = {(page, path) for page, path in named if not (ROOT / path).exists()}
    assert {(page, path) for page, path in missing if path not in EXAMPLE_FILES} == set()


def test_tests_that_are_named_exist() -> None:
    defined = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text())}
    assert len(named) > 15
    assert {name for name in named if f"def {name}(" not in defined} == set()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) < 700
