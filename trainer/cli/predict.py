"""`trainer predict RUN FILES...`: what a run's model says of images, texts and numbers."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, TextIO

import pydantic

from trainer.config import command_line
from trainer.config.fields import File, Text, argument, option
from trainer.errors import UnreadableInputError
from trainer.runtime import preemption

if TYPE_CHECKING:
    from trainer.data.dataset import Array
    from trainer.inference.predict.formatters import Layout
    from trainer.inference.predict.reader import Item, Items
    from trainer.runs.finished_run import FinishedRun, Predictor


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of the command."""

    run: Text = argument("A finished run directory, local or gs://bucket/path.")
    files: tuple[Text, ...] = argument(
        "Files, folders with all below them, or patterns as 'part-*.csv', local or gs://. Images "
        "in files of their own; .txt with a text a line; .csv with a row an example; .jsonl with a "
        "JSON value a line; arrays as .npy or IDX. Or - for stdin: lines of text for a model of "
        "texts; for others an image, an array, CSV or JSON lines. Behind a bare -- a name may "
        "begin with -."
    )
    format: Literal["table", "jsonl", "csv"] | None = option(
        None,
        "table, jsonl or csv. Left out, as the end of --out says; else a table on a terminal, and "
        "jsonl for other programs.",
    )
    out: File | None = option(
        None, "File for the rows, local or gs://; it is there when all is done. Left out, stdout."
    )
    probabilities: bool = option(False, "Tell the probability of each class, too.")
    column: Text | None = option(
        None,
        "Column of CSV, or field of JSON objects, that holds the text. Left out, text. With it, "
        "stdin is CSV or JSON lines.",
    )

    @pydantic.field_validator("files")
    @classmethod
    def _has_one_stdin(cls, files: tuple[str, ...]) -> tuple[str, ...]:
        if files.count("-") > 1:
            raise ValueError("- once, for there is one stdin")
        return files


def main(arguments: Sequence[str], *, program: str) -> None:
    """Writes a row an example, and exits with 3 if something could not be read, else with 0."""
    preemption.exit_at_once()
    with command_line.exit_codes(program, arguments):
        settings = command_line.parse(
            Settings,
            arguments,
            program=program,
            summary="Tells what a run's model says of each example: its class, and how sure it is. "
            "What cannot be read is told of on stderr, the others go on, and the exit code is 3.",
        )
        from trainer.inference.predict.reader import Reader
        from trainer.runs.finished_run import read_run

        found = read_run(settings.run)
        reader = Reader(found.input, settings.column)
        reader.check(settings.files)
        with _output(settings.out) as output:
            read, failed = _predict(
                found, reader.items(settings.files), _layout(settings, found), output
            )
        if failed:
            raise UnreadableInputError(f"{failed:,} of {read:,} could not be read")


def _predict(found: FinishedRun, items: Items, layout: Layout, output: TextIO) -> tuple[int, int]:
    """Writes the rows; returns how many items there were, and how many could not be read."""
    from trainer.inference.predict import batches

    read = failed = 0
    output.write(layout.head())
    made = batches.prefetch(batches.batches(items, found.batch_size))
    for batch, probabilities in _answered(made, found):
        output.write(layout.rows(batch, probabilities))
        output.flush()
        bad = [item for item in batch if item.example is None]
        for item in bad:
            print(command_line.printable(f"{item.name}: {item.error}"), file=sys.stderr)
        read += len(batch)
        failed += len(bad)
    return read, failed


def _answered(
    batches: Iterable[Sequence[Item]], found: FinishedRun
) -> Iterator[tuple[Sequence[Item], Sequence[Array]]]:
    """Gives each batch with the class probabilities of those items that have an example."""
    from trainer.runs.finished_run import load_model

    with contextlib.ExitStack() as stack:
        model: Predictor | None = None
        for batch in batches:
            examples = [item.example for item in batch if item.example is not None]
            if examples and model is None:  # It takes seconds, and there may be nothing to ask.
                model = stack.enter_context(load_model(found))
            if examples and model is not None:
                yield batch, list(model.predict(found.input.stacked(examples)))
            else:
                yield batch, ()


def _layout(settings: Settings, found: FinishedRun) -> Layout:
    from trainer.inference.predict.formatters import FORMATS, Layout

    terminal = settings.out is None and sys.stdout.isatty()
    by_name = os.path.splitext(settings.out or "")[1].removeprefix(".")
    usual = "table" if terminal else by_name if by_name in FORMATS else "jsonl"
    return Layout(
        format=settings.format or usual,
        classes=found.classes,
        all_probabilities=settings.probabilities,
        width=shutil.get_terminal_size().columns if terminal else None,
    )


@contextlib.contextmanager
def _output(out: str | None) -> Iterator[TextIO]:
    """Gives what the rows are written to; a file is put in its place when all of them are."""
    # Names of files need not be UTF-8; what is not is escaped, as JSON has it too.
    encoding, errors = "utf-8", "backslashreplace"
    if out is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding=encoding, errors=errors)
        yield sys.stdout
        return
    from trainer import storage

    folder, name = storage.parent(out)
    folder.check_writable()
    with storage.temporary_directory() as place:
        with (place / "rows").open("w", encoding=encoding, errors=errors) as rows:
            yield rows
        folder.write(name, place / "rows")
