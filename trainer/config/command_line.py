"""What all commands share: flags by fire, help, errors in one line, exit codes."""

from __future__ import annotations

import contextlib
import difflib
import errno
import inspect
import io
import itertools
import os
import re
import signal
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import fire

from trainer import storage
from trainer.config import check, flag_name, option_specs
from trainer.config.fields import OptionSpec
from trainer.config.help import format_help
from trainer.errors import TrainerError, UsageError
from trainer.runtime import cloud_environment, log, streams, variables

_SWITCH_VALUES = ("true", "false", "yes", "no", "on", "off")
# Of a machine, its disks and permissions; any other error is one of the program.
_MACHINE_ERRNOS = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE,
    errno.EACCES, errno.EPERM, errno.EIO, errno.ELOOP, errno.ESTALE,
)  # fmt: skip
_MAX_SUGGESTED = 3  # Flags that are named in place of -x.

_Options = TypeVar("_Options")


@contextlib.contextmanager
def exit_codes(program: str, arguments: Sequence[str]) -> Iterator[None]:
    """Exits the program at the end of the block, with the exit code of its error.

    0: done; 2: the user's mistake, in one line on stderr; 1: an internal error, with its traceback;
    130: interrupted; 141: the reader of stdout or of the log is gone. Other classes of TrainerError
    have their own code.
    """

    def report(message: str) -> None:
        formats = re.findall(r"--log[= ](text|json)", " ".join(arguments))
        collected = cloud_environment.collects_logs(os.environ) is not None
        if formats[-1:] == ["json"] or (collected and not formats):
            print(log.json_line("ERROR", message), flush=True)
            return
        if "\n" not in message:
            message = f"{program}: error: {message}"
        print(message, file=sys.stderr, flush=True)

    streams.open_closed()
    try:
        variables.check()
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    except TrainerError as error:
        code, message = error.exit_code, " ".join(str(error).split())
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
    except BrokenPipeError:  # The reader is done, as `| head` is.
        code, message = 128 + signal.SIGPIPE, ""
    except Exception as error:
        code, message = _describe(error)
    else:
        code, message = 0, ""
    if message:
        with contextlib.suppress(OSError):  # Nobody reads it.
            report(message)
    streams.discard_unwritable()
    sys.exit(code)


def _describe(error: Exception) -> tuple[int, str]:
    """Returns the exit code and the message of an error that no class of TrainerError describes."""
    if isinstance(error, OSError) and error.errno in _MACHINE_ERRNOS:
        return 2, f"{error.filename or 'output'}: {error.strerror}"
    return 1, traceback.format_exc()


def printable(text: str) -> str:
    """Replaces characters that would move a terminal's cursor or change its colours."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def parse(
    kind: type[_Options],
    arguments: Sequence[str],
    *,
    program: str,
    summary: str,
    names: Mapping[str, str] | None = None,
) -> _Options:
    """Returns the checked options of a command; prints the help and exits for `--help`.

    Args:
        kind: class of the options.
        arguments: of the command line.
        program: how the command is called, for the help.
        summary: what the command does, for the help.
        names: replaces `{models}` and the like in help texts.

    Raises:
        UsageError: an option is wrong, unknown or missing.
        SystemExit: with code 0, after printing the help.
    """
    options = option_specs(kind)
    values = parse_values(arguments, options, program=program, summary=summary, names=names)
    parsed = check(kind, values)
    storage.set_billing_project(getattr(parsed, "billing_project", None))
    return parsed


def parse_values(
    arguments: Sequence[str],
    options: Sequence[OptionSpec],
    *,
    program: str,
    summary: str,
    names: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Splits a command line into values by fire; prints the help and exits for `--help`.

    Args:
        arguments: of the command line. If an option takes any number of words, all that follow a
            bare `--` are words of it, whatever they look like.
        options: of the command.
        program: how the command is called, for the help.
        summary: what the command does, for the help.
        names: replaces `{models}` and the like in help texts.

    Returns:
        The given values, as typed, by the name of the option; a tuple for an option that takes any
        number of words.

    Raises:
        UsageError: an unknown flag, or an unexpected or missing word.
        SystemExit: with code 0, after printing the help.
    """
    many = next((option.name for option in options if option.many), None)
    rest: tuple[str, ...] = ()
    if many is not None and "--" in arguments:
        separator = list(arguments).index("--")
        arguments, rest = arguments[:separator], tuple(arguments[separator + 1 :])
    if {"--help", "-h"} & set(arguments):
        print(format_help(program, summary, options, names or {}), flush=True)
        sys.exit(0)
    if "--" in arguments:
        # Fire drops unknown flags after "--": `-- --epochs 5` would train with the default.
        raise UsageError("Unexpected '--'. Expected flags only, like --model cnn.")

    values = _call_fire(arguments, options, program)
    if many is not None:
        values[many] += rest
        if not values[many]:
            raise UsageError(f"Missing {many.upper()}.")
    return values


def _call_fire(
    arguments: Sequence[str], options: Sequence[OptionSpec], program: str
) -> dict[str, Any]:
    """Returns the values of a command line without `--`, by name; see `parse_values`.

    Raises:
        UsageError: an unknown flag, or an unexpected or missing word.
    """
    many = next((option.name for option in options if option.many), None)
    values: dict[str, Any] = {}
    single = [option.name for option in options if option.positional and not option.many]
    # Fire looks trailing words up in the result of the call. In this object it finds nothing, and
    # any other result means that there was a word too many.
    nothing = object()

    def command(*words: str, **flags: str) -> object:
        values.update(flags)
        values.update(zip(single, words, strict=many is None))
        if many is not None:
            values[many] = words[len(single) :]
        return nothing

    _set_signature(command, options)
    spelled = _for_fire(arguments, options)
    _check_values(spelled, options, program)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            result = fire.Fire(
                command,
                # Fire would take a bare "-" for the end of the command, unless another separator
                # is set.
                command=[*spelled, "--", "--separator=\0"],
                name=program,
                serialize=lambda _: None,
            )
    except fire.core.FireExit as stop:
        message = stop.trace.elements[-1].ErrorAsStr()
        raise UsageError(_explain(message, options, program)) from None
    if result is not nothing:
        raise UsageError(_explain(f"Could not consume arg: {arguments[-1]}", options, program))
    return values


def unknown_command(name: str, commands: Collection[str]) -> UsageError:
    """Returns the error for a word in place of a command, with the nearest command."""
    near = difflib.get_close_matches(name, commands, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Expected one of: {', '.join(commands)}"
    return UsageError(f"Unknown command {name!r}. {hint}")


def _for_fire(arguments: Sequence[str], options: Sequence[OptionSpec]) -> list[str]:
    """Returns the arguments in the spelling that fire reads as other programs would."""
    switches = {option.flag for option in options if option.kind is bool}
    # Fire would take any word after a switch for its value.
    return [
        f"{argument}=True"
        if argument.replace("_", "-") in switches and following.lower() not in _SWITCH_VALUES
        else argument
        for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue="")
    ]


def _check_values(arguments: Sequence[str], options: Sequence[OptionSpec], program: str) -> None:
    """Raises UsageError for a flag without a value, for which fire would take "True", and for -e.

    Fire reads -e and --e as the only flag that begins with e, so a new flag would change what -e
    means.

    Args:
        arguments: as `_for_fire` returns them, in which a switch has its value.
        options: of the command.
        program: how the command is called.
    """
    by_name = {option.name: option for option in options if not option.many}
    values = iter(itertools.zip_longest(arguments, arguments[1:]))
    for argument, following in values:
        if not _is_flag(argument):
            continue
        name, equals, value = argument.lstrip("-").partition("=")
        name = name.replace("-", "_")
        has_word = not equals and following is not None and not _is_flag(following)
        if has_word:
            value = str(following)
            next(values)
        if not argument.startswith("--") or len(name) == 1:
            raise UsageError(_explain(f"Could not consume arg: {argument}", options, program))
        # Fire reads a bare --nofolds as --folds=False.
        option = by_name.get(name)
        if option is None and not equals and not has_word and name.removeprefix("no") in by_name:
            raise UsageError(_explain(f"Could not consume arg: {argument}", options, program))
        if option is not None and not value.strip():
            label = option.name.upper() if option.positional else option.flag
            following = "" if equals or has_word or following is None else following
            before = f" before {following.partition('=')[0]}" if following else ""
            raise UsageError(f"{label}: found no value{before}, expected a value")


def _is_flag(argument: str) -> bool:
    """Returns whether fire takes a word for a flag; -1 is a number."""
    return argument.startswith("--") or re.match("-[a-zA-Z]", argument) is not None


def _set_signature(function: Any, options: Sequence[OptionSpec]) -> None:
    """Gives a function the options as parameters, which fire reads.

    Flags are keyword-only, since fire passes those on only if the user gave them.
    """
    parameter = inspect.Parameter
    function.__signature__ = inspect.Signature(
        [
            parameter(
                option.name,
                parameter.VAR_POSITIONAL if option.many else parameter.POSITIONAL_OR_KEYWORD,
            )
            if option.positional
            else parameter(option.name, parameter.KEYWORD_ONLY, default=option.default)
            for option in sorted(options, key=lambda each: (not each.positional, each.many))
        ]
    )
    fire.decorators.SetParseFn(str)(function)


def _explain(message: str, options: Sequence[OptionSpec], program: str) -> str:
    """Returns fire's error in the words of the command line."""
    missing = re.search(r"no value for the required argument: (\w+)", message)
    if missing:
        return f"Missing {missing[1].upper()}."
    unknown = re.fullmatch(r"Could not consume arg: (.*)", message, re.DOTALL)
    if not unknown:
        return message
    word = unknown[1]
    names = [flag_name(option.name) for option in options if not option.positional]
    if word == "-" or not word.startswith("-"):
        expected = " Expected flags only, like --model cnn." if "--model" in names else ""
        return f"Unexpected word {word!r}.{expected}"
    flag = word.split("=")[0]
    near = difflib.get_close_matches(flag, names, n=1, cutoff=0.75)
    initial = [name for name in names if len(flag) == 2 and name.startswith(f"-{flag}")]
    if len(initial) <= _MAX_SUGGESTED:
        near += initial
    hint = f"{program} --help lists the flags." if names else f"{program} has no flags."
    if any(option.many for option in options):
        hint += " Words that begin with - may follow a bare --."
    if near:
        hint = f"Did you mean {' or '.join(near)}?"
    return f"Unknown flag {word!r}. {hint}"
