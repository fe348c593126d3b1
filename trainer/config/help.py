"""The text of `--help`: usage, then the options in groups, each with its type, unit and default."""

from __future__ import annotations

import itertools
import shutil
import textwrap
from collections.abc import Mapping, Sequence

from trainer.config.fields import OptionSpec

_INDENT = 26  # Columns before the text of an option.
_MAX_WIDTH = 100


def format_help(
    program: str, summary: str, options: Sequence[OptionSpec], names: Mapping[str, str]
) -> str:
    """Returns the help of a command.

    Args:
        program: how the command is called.
        summary: what it does.
        options: its options and positional arguments, sorted by group as by `option_specs`.
        names: replaces `{models}` and the like in help texts.
    """
    width = min(shutil.get_terminal_size((_MAX_WIDTH, 24)).columns, _MAX_WIDTH)
    arguments = [each for each in options if each.positional]
    flags = [each for each in options if not each.positional]
    words = [each.name.upper() + "..." * each.many for each in arguments]
    usage = " ".join(["usage:", program, *words, *(["[--FLAG VALUE ...]"] if flags else [])])
    lines = [usage, "", textwrap.fill(summary, width)]
    if arguments:
        lines += ["", "Arguments"]
        for each, word in zip(arguments, words, strict=True):
            lines += _entry(word, each.help.format(**names), width)
    for group, members in itertools.groupby(flags, key=lambda each: each.group):
        lines += ["", group or "Options"]
        for each in members:
            lines += _entry(f"{each.flag} {value_name(each)}".rstrip(), text(each, names), width)
    return "\n".join(lines)


def format_commands(program: str, commands: Mapping[str, str], *, closing: str) -> str:
    """Returns the help of a program that has commands.

    Args:
        program: how the program is called.
        commands: what each command does, by its name.
        closing: text of the last line.
    """
    width = max(map(len, commands))
    lines = [f"  {name:{width}}  {summary}" for name, summary in commands.items()]
    return "\n".join(
        [f"usage: {program} COMMAND [ARGUMENTS ...]", "", "Commands", *lines, "", closing]
    )


def value_name(option: OptionSpec) -> str:
    """Returns what stands for a flag's value: its choices, N, NUMBER, VALUE; "" for a switch."""
    if option.kind is bool:
        return ""
    if option.values:
        return "|".join(map(str, option.values))
    if option.kind in (int, float):
        return {int: "N", float: "NUMBER"}[option.kind]
    return "VALUE"


def text(option: OptionSpec, names: Mapping[str, str]) -> str:
    """Returns the help text of an option, with its default."""
    shown = option.help.format(**names)
    if option.kind is bool or option.default is None or "Default:" in shown:
        return shown
    default = f"{option.default:g}" if option.kind is float else option.default
    return f"{shown} Default: {default}."


def _entry(head: str, body: str, width: int) -> list[str]:
    indent = " " * _INDENT
    lines = textwrap.wrap(
        body, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
    if len(head) + 3 < _INDENT:
        return [f"  {head}".ljust(_INDENT) + lines[0].lstrip(), *lines[1:]]
    return [f"  {head}", *lines]
