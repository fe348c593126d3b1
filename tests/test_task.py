"""Tests of the command line: errors are reported in one line, before any work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import Job
from trainer import task
from trainer.config import Config, help, option_specs
from trainer.data.loader import SHIPPED
from trainer.errors import UsageError
from trainer.models import MODELS


def test_flags_become_a_checked_config() -> None:
    config = task.parse(["--model=mlp", "--batch-size", "32", "--overwrite", "--learning_rate=.1"])
    assert (config.model, config.batch_size, config.overwrite) == ("mlp", 32, True)
    assert (config.learning_rate, config.epochs, config.seed) == (0.1, None, 0)


def test_values_are_not_converted_by_fire() -> None:
    """Fire alone would convert these to 10, 7 and a list."""
    config = task.parse(["--data", "1_0", "--out", "0007", "--model", "[a]"])
    assert (config.data, config.out, config.model) == ("1_0", "0007", "[a]")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", "5"], r"Unknown flag '--epoch'\. Did you mean --epochs\?"),
        (["--epoch=5"], r"Unknown flag '--epoch=5'\. Did you mean --epochs\?"),
        (["-e", "3"], r"Unknown flag '-e'\. Did you mean --encoding or --epochs\?"),
        (["-e=3"], r"Unknown flag '-e=3'\. Did you mean --encoding or --epochs\?"),
        (
            ["-b", "--epochs", "3"],
            r"Unknown flag '-b'\. Did you mean --billing-project or --backbone or --batch-size\?",
        ),
        (["-d"], r"Unknown flag '-d'\. python -m trainer\.task --help lists the flags"),
        (["-epochs", "3"], r"Unknown flag '-epochs'\. Did you mean --epochs\?"),
        (["--colour", "red"], r"Unknown flag '--colour'\. python -m trainer\.task --help lists"),
        (["cnn"], "Unexpected word 'cnn'"),
        (["--model", "cnn", "seed"], "Unexpected word 'seed'"),
        (["--model", "cnn", "__class__"], "Unexpected word '__class__'"),
        (["--model", "cnn", "-", "seed"], "Unexpected word '-'"),
        (["--", "--epochs", "5"], "Unexpected '--'"),
        (["--", "--interactive"], "Unexpected '--'"),
        (["--overwrite", "cnn"], "Unexpected word 'cnn'"),
        (["--epochs"], "--epochs: found no value, expected a value"),
        (["--epochs", "1_0"], "--epochs: found '1_0'"),
    ],
)
def test_an_invalid_command_line_is_an_error(arguments: Sequence[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        task.parse(arguments)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_flag_without_importing_large_packages(flag: str) -> None:
    program = (
        "import sys, atexit; from trainer import task;"
        "heavy = ('tensorflow', 'keras', 'numpy', 'PIL', 'google.cloud.storage', 'requests',"
        "         'matplotlib', 'jinja2');"
        "atexit.register(lambda: print([m for m in heavy if m in sys.modules], file=sys.stderr));"
        f"task.main(['{flag}'])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "[]\n")
    letters = "".join(result.stdout.split())  # Lines are wrapped at spaces and hyphens.
    for option in option_specs(Config):
        assert f"\n  {option.flag}" in result.stdout
        assert "".join(help.text(option, task.NAMES).split()) in letters
    for name in (*MODELS, *SHIPPED):
        assert name in result.stdout
    assert "FIRE" not in result.stdout


MISTAKES: list[tuple[list[str], str]] = [
    (["--epochs", "0"], "--epochs: found '0', expected greater than 0"),
    (["--model", "cn"], "unknown model 'cn'. Expected one of: mlp, cnn"),
    (["--data", "missing"], "missing: no such file or folder"),
    (["--config", "missing.json"], "missing.json: no such file"),
    (["--model", "cnn", "--data", "movie_reviews"], "takes examples of kind image, found texts"),
    (["--out", "file"], "--out file: is a file, expected a folder"),
    (["--checkpoint-dir", "file"], "--checkpoint-dir file: is a file, expected a folder"),
    (["--tensorboard-dir=/proc/x"], "--tensorboard-dir /proc/x: cannot be written: No such file"),
    (["--device", "gpu"], "--device gpu: found no NVIDIA device"),
    (["--out", "full"], "holds files that do not belong to a run (notes.txt, 1 in total)"),
]


@pytest.mark.process
@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    job: Job, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    result = job(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.startswith("python -m trainer.task: error: ")
    assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_an_error_is_a_json_line_with_a_json_log(job: Job) -> None:
    result = job("--epochs", "0", "--log", "json")
    assert result.returncode == 2
    assert result.stderr == ""
    entry = json.loads(result.stdout)
    assert entry["severity"] == "ERROR"
    assert entry["message"].startswith("--epochs: found '0'")


def test_a_missing_bucket_is_one_line(job: Job, bucket: str) -> None:
    result = job("--data", "gs://no-such-bucket/mnist")
    assert result.returncode == 2
    assert "gs://no-such-bucket/mnist: no such bucket or object (404)" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.process
def test_an_error_in_a_users_model_has_a_traceback(job: Job, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def build(spec):\n    return 1 / 0\n")
    result = job("--model", "mine:build")
    assert result.returncode == 1
    assert 'mine.py", line 2, in build' in result.stderr
    assert "ZeroDivisionError" in result.stderr
