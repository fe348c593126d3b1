"""Entry point of the job: `python -m trainer.task --model cnn`."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import io
import re
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import fire

from trainer import config as configs
from trainer import log
from trainer.config import Config
from trainer.datasets import SHIPPED
from trainer.errors import TrainerError, UsageError
from trainer.models import MODELS

PROGRAM = "python -m trainer.task"


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the job described by the command line and exits.

    Exit codes: 0 done; 2 the user's mistake; 1 a defect of ours or an outage; 130 interrupted.
    """
    started = time.perf_counter()
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        config = parse(arguments)
        # Not before the flags are checked: a typo must be answered at once, without NumPy's and
        # TensorFlow's imports.
        from trainer import termination, train

        termination.exit_at_once()
        log.configure(config.log)
        out = train.run(config, started=started)
        # The last line on stdout is the run directory, for scripts to read.
        print(log.json_line("INFO", out) if config.log == "json" else out, flush=True)
    except TrainerError as error:
        _report(" ".join(str(error).split()), arguments)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _report("interrupted", arguments)
        sys.exit(130)
    except Exception:
        _report(traceback.format_exc(), arguments)
        sys.exit(1)
    sys.exit(0)


def parse(arguments: Sequence[str]) -> Config:
    """Turns command line arguments into a checked Config; answers `--help` by itself.

    Raises:
        UsageError: an unknown flag, a stray word, or a value that is wrong.
        SystemExit: with code 0, after the help was printed.
    """
    flags = _read_flags(arguments)
    file_text = None
    if "config" in flags:
        from trainer import storage

        file_text = storage.read_text(flags["config"])
    return configs.resolve(flags, file_text)


def _read_flags(arguments: Sequence[str]) -> dict[str, str]:
    """Lets fire take the arguments apart; values stay the strings that were typed."""
    given: dict[str, str] = {}

    # Fire goes on with the result: a trailing bare word is looked up in it. So it is an object with
    # nothing to find, and anything else that comes back was found by a stray word.
    nothing = object()

    def train(**flags: str) -> object:
        given.update(flags)
        return nothing

    _describe(train)
    _refuse_separator(arguments)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            found = fire.Fire(
                train, command=list(arguments), name=PROGRAM, serialize=lambda _: None
            )
    except fire.core.FireExit as stop:
        if stop.code != 0:
            raise UsageError(_stray(stop.trace.elements[-1].ErrorAsStr())) from None
        print(_tidy(said.getvalue()))
        sys.exit(0)
    if found is not nothing:
        raise UsageError(_stray(f"Could not consume arg: {arguments[-1]}"))
    return given


def _describe(function: Any) -> None:
    """Gives a function the fields of Config as flags, for fire's parsing and help.

    Keyword-only, since fire passes those on only where the user gave them.
    """
    settings = configs.settings()
    only = inspect.Parameter.KEYWORD_ONLY
    function.__signature__ = inspect.Signature(
        [
            inspect.Parameter(setting.name, only, default=setting.default, annotation=setting.kind)
            for setting in settings
        ]
    )
    names = {"models": ", ".join(MODELS), "datasets": ", ".join(SHIPPED)}
    lines = [f"    {setting.name}: {setting.help.format(**names)}" for setting in settings]
    function.__doc__ = "\n".join(
        ["Trains a model on labelled data and leaves a run directory behind.", "", "Args:", *lines]
    )
    fire.decorators.SetParseFn(str)(function)


def _refuse_separator(arguments: Sequence[str]) -> None:
    # Fire drops what it does not know behind "--": `-- --epochs 5` would train with the default.
    if "--" in arguments:
        rest = arguments[list(arguments).index("--") + 1 :]
        if any(word not in ("--help", "-h", "--completion", "bash", "fish") for word in rest):
            raise UsageError("Unexpected '--'. Expected flags only, like --model cnn.")


def _stray(message: str) -> str:
    """Says in the user's terms what fire could not make sense of."""
    found = re.fullmatch(r"Could not consume arg: (.*)", message, re.DOTALL)
    if not found:
        return message
    word = found[1]
    if not word.startswith("-"):
        return f"Unexpected word {word!r}. Expected flags only, like --model cnn."
    names = [configs.flag_name(setting.name) for setting in configs.settings()]
    near = difflib.get_close_matches(word.split("=")[0], names, n=1, cutoff=0.75)
    hint = f"Did you mean {near[0]}?" if near else f"Expected one of: {', '.join(names)}."
    return f"Unknown flag {word!r}. {hint}"


def _tidy(text: str) -> str:
    """Takes out of fire's help what is no flag of ours, and writes flags as the docs do."""
    text = re.sub(r"\n\nGROUPS\n.*", "", re.sub(r"^INFO: .*\n+", "", text), flags=re.DOTALL)
    text = text.replace("GROUP | <flags>", "<flags>").replace(f"'{PROGRAM}'", PROGRAM)
    return re.sub(r"--\w+(?==)", lambda flag: flag[0].replace("_", "-"), text).rstrip()


def _report(message: str, arguments: Sequence[str]) -> None:
    """Writes an error to stderr; as a JSON line if the log is asked to be one."""
    if re.search(r"--log[= ]json", " ".join(arguments)):
        message = log.json_line("ERROR", message)
    elif "\n" not in message:
        message = f"{PROGRAM}: error: {message}"
    print(message, file=sys.stderr)


if __name__ == "__main__":
    main()
