"""The `trainer` command hands over to one module a command."""

from __future__ import annotations

import pytest

from trainer import __version__
from trainer.cli import main


def called(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main.main(arguments)
    return ended.value.code


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_the_commands(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(*arguments) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in main.COMMANDS)


@pytest.mark.parametrize("name", main.COMMANDS)
def test_each_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(name, "--help") == 0
    said = capsys.readouterr().out
    assert f"trainer {name}" in said
    assert "GROUP" not in said


def test_help_behind_a_word_is_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("predict", "runs/1", "a.png", "--help") == 0
    said = capsys.readouterr().out
    assert "trainer predict RUN FILES... <flags>" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("veryfy",), "trainer: error: Unknown command 'veryfy'. Did you mean verify?"),
        (("x",), "trainer: error: Unknown command 'x'. Expected one of: train, verify"),
        (("verify",), "trainer verify: error: Missing RUN."),
        (("verify", "a", "b"), "trainer verify: error: Unexpected word 'b'."),
        (("verify", "a", "-"), "trainer verify: error: Unexpected word '-'."),
        (("verify", ""), "trainer verify: error: RUN: found '', expected a text of at least 1"),
        (("verify", "a", "--b"), "trainer verify: error: Unknown flag '--b'."),
        (("train", "--epochs", "0"), "trainer train: error: --epochs: found '0'"),
    ],
)
def test_a_slip_is_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(*arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(message)
    assert said.count("\n") == 1


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("--version") == 0
    assert capsys.readouterr().out == f"{__version__}\n"
