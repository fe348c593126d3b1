#!/usr/bin/env python3
"""Writes docs/reference/flags.md from the options classes of the commands.

.venv/bin/python scripts/generate-flags-reference.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from trainer import task  # noqa: E402
from trainer.cli import compare, data, evaluate, export, predict, serve, verify  # noqa: E402
from trainer.config import Config, option_specs  # noqa: E402
from trainer.config.fields import OptionSpec  # noqa: E402
from trainer.launch import machines, tuning  # noqa: E402
from trainer.launch.options import SubmitOptions  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "flags.md"

COMMANDS = {
    "trainer train": Config,
    "trainer evaluate RUN": evaluate.EvaluateOptions,
    "trainer predict RUN FILES...": predict.PredictOptions,
    "trainer export RUN": export.ExportOptions,
    "trainer serve RUN": serve.ServeOptions,
    "trainer compare RUN RUN ...": compare.CompareOptions,
    "trainer verify RUN": verify.VerifyOptions,
    "trainer data check PATH": data.CheckOptions,
    "trainer data convert PATH OUT": data.ConvertOptions,
    "trainer submit": SubmitOptions,
}
NAMES = {
    **task.NAMES,
    "gpus": ", ".join(machines.GPUS),
    "without_gpu": machines.WITHOUT_GPU,
    "tunable": ", ".join(tuning.TUNABLE),
}
TYPES = {bool: "switch", int: "integer", float: "number"}

INTRODUCTION = """\
# Flags

For users who look up a flag of a command: its type, allowed values and default. This page is
generated from the program by `scripts/generate-flags-reference.py`; `trainer COMMAND --help` prints
the same texts.

A flag and its value are two words or joined by `=`: `--epochs 5`, `--epochs=5`. A switch takes no
value. A path may be local or `gs://bucket/path`, unless the text says otherwise.
`python -m trainer.task` takes the flags of `trainer train`, and `--config FILE` reads them from a
JSON file with `_` in place of `-`.
"""


def reference() -> str:
    """Returns the text of the page."""
    sections = [INTRODUCTION]
    for command, kind in COMMANDS.items():
        sections.append(f"## `{command}`\n")
        options = option_specs(kind)
        groups = list(dict.fromkeys(each.group for each in options))
        for group in groups:
            if len(groups) > 1:
                sections.append(f"**{group or 'Command'}**\n")
            rows = [row(each) for each in options if each.group == group]
            sections.append("\n".join([*HEADER, *rows]) + "\n")
    return "\n".join(sections)


HEADER = ("| flag | type or values | default | meaning |", "|---|---|---|---|")


def row(option: OptionSpec) -> str:
    """Returns the row of one flag or positional argument."""
    text, _, default = option.help.format(**NAMES).partition(" Default: ")
    default = default if default.endswith("...") else default.removesuffix(".")
    if not default and option.positional:
        default = "required"
    elif not default and option.kind is bool:
        default = "off"
    elif not default and option.default is not None:
        default = f"{option.default:g}" if option.kind is float else f"{option.default}"
    name = option.name.upper() + "..." * option.many if option.positional else option.flag
    values = ", ".join(f"`{value}`" for value in option.values)
    cells = [f"`{name}`", values or TYPES.get(option.kind, "text"), default, text]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(reference())
    print(PAGE.relative_to(ROOT))
