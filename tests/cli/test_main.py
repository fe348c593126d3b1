"""`trainer COMMAND` runs the module of the command."""

from __future__ import annotations

import pytest

from trainer import __version__
from trainer.cli import main


def run_main(*arguments: str) -> object:
    with pytest.raises(SystemExit) as exit_info:
        main.main(arguments)
    return exit_info.value.code


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_the_commands(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(*arguments) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in main.COMMANDS)


@pytest.mark.parametrize("name", main.COMMANDS)
def test_each_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(name, "--help") == 0
    out = capsys.readouterr().out
    assert f"trainer {name}" in out


@pytest.mark.parametrize("arguments", [("data",), ("data", "--help"), ("data", "-h")])
def test_help_of_commands_below_a_command_has_the_same_form(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(*arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["usage: trainer data COMMAND [ARGUMENTS ...]", "", "Commands"]
    assert [line.split()[0] for line in lines[3:-2]] == ["check", "convert"]
    assert run_main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["usage: trainer COMMAND [ARGUMENTS ...]", "", "Commands"]
    assert [line.split()[0] for line in lines[3:-2]] == list(main.COMMANDS)


def test_help_after_arguments_is_the_help_of_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_main("predict", "runs/1", "a.png", "--help") == 0
    out = capsys.readouterr().out
    assert "usage: trainer predict RUN FILES... [--FLAG VALUE ...]" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("veryfy",), "trainer: error: Unknown command 'veryfy'. Did you mean verify?"),
        (("x",), "trainer: error: Unknown command 'x'. Expected one of: train, verify"),
        (("verify",), "trainer verify: error: Missing RUN."),
        (("verify", "a", "b"), "trainer verify: error: Unexpected word 'b'."),
        (("verify", "a", "-"), "trainer verify: error: Unexpected word '-'."),
        (("verify", ""), "trainer verify: error: RUN: found '', expected a text of at least 1"),
        (
            ("verify", "a", "--b"),
            "trainer verify: error: Unknown flag '--b'. trainer verify --help lists the flags.",
        ),
        (("data", "chek"), "trainer data: error: Unknown command 'chek'. Did you mean check?"),
        (("data", "x"), "trainer data: error: Unknown command 'x'. Expected one of: check, conv"),
        (
            ("data", "check", "a", "--epochs=3"),
            "trainer data check: error: Unknown flag '--epochs=3'",
        ),
        (("data", "convert", "a"), "trainer data convert: error: Missing OUT."),
        (("train", "--epochs", "0"), "trainer train: error: --epochs: found '0'"),
    ],
)
def test_a_usage_error_is_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(*arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_version_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("--version") == 0
    assert capsys.readouterr().out == f"{__version__}\n"
