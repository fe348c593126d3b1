"""`trainer predict RUN FILES...`: predicts the classes of images, texts and vectors."""

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
from trainer.config.fields import AnyPath, File, FolderPath, Text, argument, option
from trainer.config.options import StorageOptions
from trainer.errors import UnreadableInputError
from trainer.runtime import preemption

if TYPE_CHECKING:
    from trainer.data.dataset import Array
    from trainer.inference.predict.formatters import RowFormatter
    from trainer.inference.predict.items import Item, Items
    from trainer.runs.finished_run import FinishedRun, Predictor


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class PredictOptions(StorageOptions):
    """The options of `trainer predict`."""

    run: FolderPath = argument("Finished run directory, local or gs://bucket/path.")
    files: tuple[AnyPath, ...] = argument(
        "Files, folders, or patterns such as 'part-*.csv', local or gs://; - for stdin. Images; "
        "tables with the columns of the training data; text files; .npy, .npz and IDX arrays. From "
        "stdin, a text model reads lines of text, others an image, an array, CSV or JSON lines. "
        "Put names that begin with - after a bare --."
    )
    format: Literal["table", "jsonl", "csv"] | None = option(
        None,
        "Format of the rows. Default: the suffix of --out; without it table on a terminal, else "
        "jsonl.",
    )
    out: File | None = option(
        None,
        "File to write the rows to, local or gs://; it appears when complete. Default: stdout.",
    )
    probabilities: bool = option(False, "Write the probability of every class, too.")
    column: Text | None = option(
        None,
        "Column or JSON field that holds the example; makes stdin CSV or JSON lines. Default: the "
        "columns that the run was trained on.",
    )
    allow_pickle: bool = option(
        False, "Read pickle files. Only NumPy and SciPy arrays are accepted from them."
    )

    @pydantic.field_validator("files")
    @classmethod
    def _check_stdin_once(cls, files: tuple[str, ...]) -> tuple[str, ...]:
        if files.count("-") > 1:
            raise ValueError(
                f"found - {files.count('-')} times, expected it at most once: there is one stdin"
            )
        return files


def main(arguments: Sequence[str], *, program: str) -> None:
    """Writes one row per example; exits with 3 if an input could not be read, else with 0."""
    preemption.exit_on_sigterm()
    with command_line.exit_codes(program, arguments):
        options = command_line.parse(
            PredictOptions,
            arguments,
            program=program,
            summary="Predicts the class of each example, with its probability. Inputs that cannot "
            "be read are reported on stderr and, in JSON lines and CSV, by a row with the error; "
            "the exit code is then 3.",
        )
        from trainer.inference.predict.reader import Reader
        from trainer.runs.finished_run import read_run

        run = read_run(options.run)
        reader = Reader.of(run, column=options.column, allow_pickle=options.allow_pickle)
        reader.check(options.files)
        formatter = _make_formatter(options, run)
        with _open_output(options.out) as output:
            count, failures = _predict(run, reader.items(options.files), formatter, output)
        if failures:
            raise UnreadableInputError(f"{failures:,} of {count:,} inputs could not be read")


def _predict(
    run: FinishedRun, items: Items, formatter: RowFormatter, output: TextIO
) -> tuple[int, int]:
    """Writes the rows; returns the number of items, and how many of them could not be read."""
    from trainer.inference.predict import batches

    count = failures = 0
    output.write(formatter.header())
    prefetched = batches.prefetch(batches.batches(items, run.batch_size))
    for batch, probabilities in _with_probabilities(prefetched, run):
        output.write(formatter.rows(batch, probabilities))
        output.flush()
        unreadable = [item for item in batch if item.example is None]
        for item in unreadable:
            print(command_line.printable(f"{item.name}: {item.error}"), file=sys.stderr)
        count += len(batch)
        failures += len(unreadable)
    return count, failures


def _with_probabilities(
    batches: Iterable[Sequence[Item]], run: FinishedRun
) -> Iterator[tuple[Sequence[Item], Sequence[Array]]]:
    """Yields each batch with the class probabilities of the items that have an example."""
    from trainer.runs.finished_run import load_model

    with contextlib.ExitStack() as stack:
        model: Predictor | None = None
        for batch in batches:
            examples = [item.example for item in batch if item.example is not None]
            if examples and model is None:  # Loading takes seconds; there may be no example at all.
                model = stack.enter_context(load_model(run))
            if examples and model is not None:
                yield batch, list(model.predict(run.input.stack(examples)))
            else:
                yield batch, ()


def _make_formatter(options: PredictOptions, run: FinishedRun) -> RowFormatter:
    from trainer.inference.predict.formatters import FORMATS, RowFormatter

    terminal = options.out is None and sys.stdout.isatty()
    suffix = os.path.splitext(options.out or "")[1].removeprefix(".")
    default = "table" if terminal else suffix if suffix in FORMATS else "jsonl"
    return RowFormatter(
        format=options.format or default,
        classes=run.classes,
        all_probabilities=options.probabilities,
        width=shutil.get_terminal_size().columns if terminal else None,
    )


@contextlib.contextmanager
def _open_output(out: str | None) -> Iterator[TextIO]:
    """Yields the stream for the rows; a file gets its final name when the block ends well."""
    # File names need not be UTF-8: other bytes are escaped, in JSON's own notation.
    encoding, errors = "utf-8", "backslashreplace"
    if out is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding=encoding, errors=errors)
        yield sys.stdout
        return
    from trainer import storage

    folder, name = storage.parent(out)
    storage.check_writable("--out", folder)
    with storage.temporary_directory() as temporary:
        with (temporary / "rows").open("w", encoding=encoding, errors=errors) as rows:
            yield rows
        folder.write(name, temporary / "rows")
