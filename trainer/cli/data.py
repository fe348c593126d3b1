"""`trainer data check PATH` and `trainer data convert PATH OUT`: prepare data for training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import pydantic

from trainer import storage
from trainer.config import ReadOptions, command_line
from trainer.config.fields import FolderPath, HtmlPath, Text, argument, option
from trainer.data.loader import SHIPPED
from trainer.errors import DamagedFilesError, UnreadableInputError, UsageError

if TYPE_CHECKING:
    from trainer.data.statistics import Statistics

_Options = TypeVar("_Options", bound=ReadOptions)

_PATH = "Data set: {datasets} (shipped), a local path, gs://bucket/path, or a pattern, as --data."


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class CheckOptions(ReadOptions):
    """The options of `trainer data check`."""

    path: Text = argument(_PATH)
    out: HtmlPath | None = option(
        None,
        "Write a page with examples of each class to this .html, local or gs://; replaces an "
        "earlier page. Default: no page.",
    )


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertOptions(ReadOptions):
    """The options of `trainer data convert`."""

    path: Text = argument(_PATH)
    out: FolderPath = argument("New or empty folder, local or gs://bucket/path.")


def main(arguments: Sequence[str], *, program: str) -> None:
    """Runs the subcommand that the first argument names; exits with its exit code."""
    with command_line.exit_codes(program, arguments):
        name, *rest = arguments or ["--help"]
        if name in ("--help", "-h"):
            for command, (summary, _) in _COMMANDS.items():
                print(f"{program} {command}: {summary}")
        elif name in _COMMANDS:
            _COMMANDS[name][1](rest, f"{program} {name}")
        else:
            raise UsageError(f"Unknown command {name!r}. Expected one of: {', '.join(_COMMANDS)}")


def _check(arguments: Sequence[str], program: str) -> None:
    options = _parse(CheckOptions, arguments, program)
    from trainer.data import statistics
    from trainer.reports import data_page, pages

    if options.out is not None:
        pages.check_replaceable(options.out)
    try:
        data_statistics = statistics.collect(options.path, options)
    except DamagedFilesError as error:
        print(*error.errors, sep="\n", flush=True)
        raise UnreadableInputError(
            f"{options.path}: {len(error.errors)} of {error.file_count} files are damaged"
        ) from None
    print(f"{options.path}: {data_page.describe(data_statistics)}")
    _print_counts(data_statistics)
    for finding in data_page.findings(data_statistics) or ["no duplicate examples"]:
        print(finding)
    if options.out is not None:
        storage.write_text(options.out, data_page.page(options.path, data_statistics))
        print(options.out)


def _print_counts(data_statistics: Statistics) -> None:
    """Prints a table of the number of examples by class and split."""
    import rich.console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    for split in data_statistics.labels:
        table.add_column(split, justify="right")
    counts = [data_statistics.counts(split) for split in data_statistics.labels]
    rows = list(zip(data_statistics.classes, *counts, strict=True))
    for name, *numbers in [*rows, ("all", *map(sum, counts))]:
        table.add_row(name, *(f"{number:,}" for number in numbers))
    # Class names are user data: rich must not interpret [markup] or :emoji: in them.
    rich.console.Console(markup=False, emoji=False, highlight=False).print(table)


def _convert(arguments: Sequence[str], program: str) -> None:
    options = _parse(ConvertOptions, arguments, program)
    from trainer.data import convert

    result = convert.convert(options.path, options.out, options)
    sizes = ", ".join(f"{name} {size:,}" for name, size in result.sizes.items())
    print(f"{options.out}: {len(result.classes)} classes; {sizes}; {result.files} files")


def _parse(kind: type[_Options], arguments: Sequence[str], program: str) -> _Options:
    return command_line.parse(
        kind,
        arguments,
        program=program,
        summary=_COMMANDS[program.rpartition(" ")[2]][0],
        names={"datasets": ", ".join(SHIPPED)},
    )


_COMMANDS: dict[str, tuple[str, Callable[[Sequence[str], str], None]]] = {
    "check": ("Prints the statistics of a data set and possible problems in it.", _check),
    "convert": (
        "Converts a data set to files that train fastest and need not fit into memory: images and "
        "vectors to shards of plain arrays, texts to Parquet.",
        _convert,
    ),
}
