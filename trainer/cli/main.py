"""The `trainer` command: `trainer train --model cnn`, `trainer verify RUN`."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from trainer import __version__
from trainer.config import command_line
from trainer.errors import UsageError

# Each module has `main(arguments, *, program)`, which exits; then what it does, for the help.
COMMANDS = {
    "train": ("trainer.task", "train a model; the same as python -m trainer.task"),
    "verify": ("trainer.cli.verify", "compare a finished run with its manifest"),
    "evaluate": ("trainer.cli.evaluate", "test a run's model, on its own data or other"),
    "predict": ("trainer.cli.predict", "ask a run's model about images, texts or numbers"),
    "compare": ("trainer.cli.compare", "put finished runs beside each other"),
    "export": ("trainer.cli.export", "put a run's model into another format, and check it"),
    "data": ("trainer.cli.data", "check a data set, or convert it into what trains fastest"),
    "serve": ("trainer.cli.serve", "answer requests to a finished run's model over HTTP"),
    "submit": ("trainer.cli.submit", "train on Vertex AI, or write a Kubernetes Job"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Hands the rest of the command line to the command that its first word names."""
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
            print(_help())
        else:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Expected one of: {', '.join(COMMANDS)}"
            raise UsageError(f"Unknown command {name!r}. {hint}")


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"    {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        ["trainer COMMAND, one of", "", *lines, "", "trainer COMMAND --help says more of it."]
    )
