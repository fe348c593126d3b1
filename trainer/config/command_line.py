"""What all commands share: flags by fire, help, errors in one line, exit codes."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import io
import itertools
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import fire

from trainer.config import check, flag_name, option_specs
from trainer.config.fields import OptionSpec
from trainer.errors import TrainerError, UsageError
from trainer.runtime import cloud_environment, log

_SWITCHED = ("true", "false", "yes", "no", "on", "off")

_Settings = TypeVar("_Settings")


@contextlib.contextmanager
def exits(program: str, arguments: Sequence[str]) -> Iterator[None]:
    """Ends the program when the block does, with the exit code that its errors call for.

    0 done; 2 the user's mistake, in one line on stderr; 1 a defect of ours, with its traceback;
    130 interrupted; 141 when nobody reads the output any more; another class of TrainerError has a
    code of its own.
    """

    def report(message: str) -> None:
        chosen = re.findall(r"--log[= ](text|json)", " ".join(arguments))
        collected = cloud_environment.collects_logs(os.environ) is not None
        if chosen[-1:] == ["json"] or (collected and not chosen):
            print(log.json_line("ERROR", message), flush=True)
            return
        if "\n" not in message:
            message = f"{program}: error: {message}"
        print(message, file=sys.stderr)

    try:
        yield
    except TrainerError as error:
        report(" ".join(str(error).split()))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        report("interrupted")
        sys.exit(130)
    except BrokenPipeError:  # Who reads the output has enough of it, as `| head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except Exception:
        report(traceback.format_exc())
        sys.exit(1)
    sys.exit(0)


def printable(text: str) -> str:
    """Returns a text without what would move a terminal's cursor, or change its colours."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def settings(
    kind: type[_Settings],
    arguments: Sequence[str],
    *,
    program: str,
    summary: str,
    names: Mapping[str, str] | None = None,
) -> _Settings:
    """Returns the checked settings of a command; answers `--help` by itself.

    Args:
        kind: their class.
        arguments: of the command line.
        program: how the command is called, for the help.
        summary: what the command does, for the help.
        names: what stands for `{name}` in the help of a setting.

    Raises:
        UsageError: one of them is wrong, unknown or missing.
        SystemExit: with code 0, after the help was printed.
    """
    known = option_specs(kind)
    flags = read(arguments, known, program=program, summary=summary, names=names)
    # Words are told of as the help shows them.
    labels = {each.name: each.name.upper() for each in known if each.positional}
    return check(kind, flags, labels=labels)


def read(
    arguments: Sequence[str],
    settings: Sequence[OptionSpec],
    *,
    program: str,
    summary: str,
    names: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Lets fire take the arguments apart; answers `--help` by itself.

    Args:
        arguments: of the command line. If one of the settings takes any number of words, all that
            stand behind a bare `--` are words of it, whatever they look like.
        settings: what they may set.
        program: how the command is called, for the help.
        summary: what the command does, for the help.
        names: what stands for `{name}` in the help of a setting.

    Returns:
        What the user gave, by the name of the setting; the strings that were typed. Of a setting
        that takes any number of words, a tuple of them.

    Raises:
        UsageError: an unknown flag, or a stray or missing word.
        SystemExit: with code 0, after the help was printed.
    """
    given: dict[str, Any] = {}
    fixed = [setting.name for setting in settings if setting.positional and not setting.many]
    many = next((setting.name for setting in settings if setting.many), None)

    # Fire goes on with the result: a trailing bare word is looked up in it. So it is an object with
    # nothing to find, and anything else that comes back was found by a stray word.
    nothing = object()

    def command(*words: str, **flags: str) -> object:
        given.update(flags)
        given.update(zip(fixed, words, strict=many is None))
        if many is not None:
            given[many] = words[len(fixed) :]
        return nothing

    _describe(command, settings, summary, names or {})
    behind: tuple[str, ...] = ()
    if many is None:
        _refuse_separator(arguments)
    elif "--" in arguments:
        place = list(arguments).index("--")
        arguments, behind = arguments[:place], tuple(arguments[place + 1 :])
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            found = fire.Fire(
                command,
                command=_for_fire(arguments, settings),
                name=program,
                serialize=lambda _: None,
            )
    except fire.core.FireExit as stop:
        if stop.code != 0:
            raise UsageError(_stray(stop.trace.elements[-1].ErrorAsStr(), settings)) from None
        print(_tidy(said.getvalue(), program), flush=True)
        sys.exit(0)
    if found is not nothing:
        raise UsageError(_stray(f"Could not consume arg: {arguments[-1]}", settings))
    if many is not None:
        given[many] += behind
        if not given[many]:
            raise UsageError(f"Missing {many.upper()}.")
    return given


def _for_fire(arguments: Sequence[str], settings: Sequence[OptionSpec]) -> list[str]:
    """Returns the arguments as fire understands them as everybody else does."""
    if {"--help", "-h"} & set(arguments):
        return ["--help"]  # Behind a word, fire would explain what the command returns.
    switches = {flag_name(setting.name) for setting in settings if setting.kind is bool}
    # Fire would take any word behind a switch for its value.
    spelt = [
        f"{argument}=True"
        if argument.replace("_", "-") in switches and following.lower() not in _SWITCHED
        else argument
        for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue="")
    ]
    # Fire would take a bare "-" for the end of the command, unless something else is.
    return [*spelt, *([] if "--" in spelt else ["--"]), "--separator=\0"]


def _describe(
    function: Any, settings: Sequence[OptionSpec], summary: str, names: Mapping[str, str]
) -> None:
    """Gives a function the settings as flags, for fire's parsing and help.

    Keyword-only, since fire passes those on only where the user gave them.
    """
    parameter = inspect.Parameter
    word, flag = parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY
    words = parameter.VAR_POSITIONAL
    function.__signature__ = inspect.Signature(
        [
            parameter(setting.name, words if setting.many else word, annotation=setting.kind)
            if setting.positional
            else parameter(setting.name, flag, default=setting.default, annotation=setting.kind)
            for setting in sorted(settings, key=lambda each: (not each.positional, each.many))
        ]
    )
    lines = [f"    {setting.name}: {setting.help.format(**names)}" for setting in settings]
    function.__doc__ = "\n".join([summary, "", "Args:", *lines])
    fire.decorators.SetParseFn(str)(function)


def _refuse_separator(arguments: Sequence[str]) -> None:
    # Fire drops what it does not know behind "--": `-- --epochs 5` would train with the default.
    if "--" in arguments:
        rest = arguments[list(arguments).index("--") + 1 :]
        if any(word not in ("--help", "-h", "--completion", "bash", "fish") for word in rest):
            raise UsageError("Unexpected '--'. Expected flags only, like --model cnn.")


def _stray(message: str, settings: Sequence[OptionSpec]) -> str:
    """Says in the user's terms what fire could not make sense of."""
    missing = re.search(r"no value for the required argument: (\w+)", message)
    if missing:
        return f"Missing {missing[1].upper()}."
    found = re.fullmatch(r"Could not consume arg: (.*)", message, re.DOTALL)
    if not found:
        return message
    word = found[1]
    names = [flag_name(setting.name) for setting in settings if not setting.positional]
    if word == "-" or not word.startswith("-"):
        expected = " Expected flags only, like --model cnn." if "--model" in names else ""
        return f"Unexpected word {word!r}.{expected}"
    near = difflib.get_close_matches(word.split("=")[0], names, n=1, cutoff=0.75)
    hint = f"Expected one of: {', '.join(names)}." if names else "There are no flags."
    if any(setting.many for setting in settings):
        hint += " What stands behind a bare -- is no flag."
    return f"Unknown flag {word!r}. {f'Did you mean {near[0]}?' if near else hint}"


def _tidy(text: str, program: str) -> str:
    """Takes out of fire's help what is no flag of ours, and writes flags as the docs do."""
    text = re.sub(r"\n\nGROUPS\n.*", "", re.sub(r"^INFO: .*\n+", "", text), flags=re.DOTALL)
    text = re.sub(r"\n\nNOTES\n.*", "", text, flags=re.DOTALL)
    text = text.replace("GROUP | ", "").replace(f"'{program}'", program)
    text = re.sub(r"( <flags>)? \[([A-Z]+)\]\.\.\.", r" \2...\1", text)
    return re.sub(r"--\w+(?==)", lambda flag: flag[0].replace("_", "-"), text).rstrip()
