"""`trainer data check PATH`, `trainer data convert PATH OUT`: data before it is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import pydantic

from trainer import storage
from trainer.config import ReadOptions, command_line
from trainer.config.fields import Page, Place, Text, argument, option
from trainer.data.loader import SHIPPED
from trainer.errors import DamagedFilesError, UnreadableInputError, UsageError

if TYPE_CHECKING:
    from trainer.data.statistics import Statistics

_Kind = TypeVar("_Kind", bound="_DataSettings")


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class _DataSettings(ReadOptions):
    """Settings that the commands here share."""

    path: Text = argument("One of {datasets}; or a local path or gs://bucket/path, as --data.")


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class Check(_DataSettings):
    """The settings of `trainer data check`."""

    out: Page | None = option(
        None,
        "A page with examples of each class, local or gs://, in place of an earlier one. Left out, "
        "none is written.",
    )


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class Convert(_DataSettings):
    """The settings of `trainer data convert`."""

    out: Place = argument("A new or empty folder, local or gs://bucket/path.")


def main(arguments: Sequence[str], *, program: str) -> None:
    """Hands over to the command that the first word names."""
    with command_line.exit_codes(program, arguments):
        name, *rest = arguments or ["--help"]
        if name in ("--help", "-h"):
            for known, (summary, _) in _COMMANDS.items():
                print(f"{program} {known}: {summary}")
        elif name in _COMMANDS:
            _COMMANDS[name][1](rest, f"{program} {name}")
        else:
            raise UsageError(f"Unknown command {name!r}. Expected one of: {', '.join(_COMMANDS)}")


def _check(arguments: Sequence[str], program: str) -> None:
    settings = _settings(Check, arguments, program)
    from trainer.data import statistics
    from trainer.reports import data_page, pages

    if settings.out is not None:
        pages.check_replaceable(settings.out)
    try:
        found = statistics.collect(settings.path, settings)
    except DamagedFilesError as error:
        print(*error.findings, sep="\n", flush=True)
        raise UnreadableInputError(
            f"{settings.path}: {len(error.findings)} of {error.of} files are damaged"
        ) from None
    print(f"{settings.path}: {data_page.what(found)}")
    _print(found)
    for finding in data_page.findings(found) or ["no example is there twice"]:
        print(finding)
    if settings.out is not None:
        storage.write_text(settings.out, data_page.page(settings.path, found))
        print(settings.out)


def _print(found: Statistics) -> None:
    import rich.console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    for part in found.labels:
        table.add_column(part, justify="right")
    counts = [found.counts(part) for part in found.labels]
    rows = list(zip(found.classes, *counts, strict=True))
    for name, *numbers in [*rows, ("all", *map(sum, counts))]:
        table.add_row(name, *(f"{number:,}" for number in numbers))
    # What a class is called is text, whatever it looks like.
    rich.console.Console(markup=False, emoji=False, highlight=False).print(table)


def _convert(arguments: Sequence[str], program: str) -> None:
    settings = _settings(Convert, arguments, program)
    from trainer.data import convert

    done = convert.convert(settings.path, settings.out, settings)
    sizes = ", ".join(f"{name} {size:,}" for name, size in done.sizes.items())
    print(f"{settings.out}: {len(done.classes)} classes; {sizes}; {done.files} files")


def _settings(kind: type[_Kind], arguments: Sequence[str], program: str) -> _Kind:
    return command_line.parse(
        kind,
        arguments,
        program=program,
        summary=_COMMANDS[program.rpartition(" ")[2]][0],
        names={"datasets": ", ".join(SHIPPED)},
    )


_COMMANDS: dict[str, tuple[str, Callable[[Sequence[str], str], None]]] = {
    "check": ("tells what a data set holds, and what may be wrong with it", _check),
    "convert": (
        "writes a data set as files that train fastest and need not fit into memory: images and "
        "vectors as shards of plain arrays, texts as Parquet",
        _convert,
    ),
}
