"""Dispatches `trainer COMMAND ...` to the module of the command."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from trainer import __version__
from trainer.config import command_line
from trainer.config.help import format_commands

# By command: its module, which has `main(arguments, *, program)` that exits; its line in the help.
COMMANDS = {
    "train": ("trainer.task", "train a model; same as python -m trainer.task"),
    "verify": ("trainer.cli.verify", "check the files of a finished run against its manifest"),
    "evaluate": ("trainer.cli.evaluate", "evaluate a run's model on its own or on other data"),
    "predict": ("trainer.cli.predict", "predict the classes of images, texts or vectors"),
    "compare": ("trainer.cli.compare", "compare finished runs, with a significance test"),
    "export": ("trainer.cli.export", "convert a run's model to another format, and check it"),
    "data": ("trainer.cli.data", "check a data set, or convert it to shards"),
    "serve": ("trainer.cli.serve", "serve a run's model over HTTP"),
    "submit": ("trainer.cli.submit", "train on Vertex AI, or write a Kubernetes Job"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command that the first argument names, and exits.

    Args:
        argv: the arguments; None for those of the process.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    name = arguments[0] if arguments else "--help"
    if name in COMMANDS:
        module = importlib.import_module(COMMANDS[name][0])
        module.main(arguments[1:], program=f"trainer {name}")
        return
    with command_line.exit_codes("trainer", arguments):
        if name == "--version":
            print(__version__)
        elif name in ("--help", "-h", "help"):
            summaries = {command: summary for command, (_, summary) in COMMANDS.items()}
            closing = (
                "trainer COMMAND --help shows a command's flags; trainer --version the version."
            )
            print(format_commands("trainer", summaries, closing=closing))
        else:
            raise command_line.unknown_command(name, COMMANDS)
