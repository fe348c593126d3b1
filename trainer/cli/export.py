"""`trainer export RUN --format onnx`: the model of a run in another format, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import pydantic
from pydantic import AfterValidator

from trainer.config import command_line
from trainer.config.fields import Place, Text, argument, option
from trainer.errors import UsageError
from trainer.inference.export import exporter
from trainer.runtime import preemption

if TYPE_CHECKING:
    from trainer.inference.export.examples import Examples
    from trainer.inference.export.exporter import Exported

_FORMATS = f"one of: {', '.join(exporter.FORMATS)}"


def _known(value: str) -> str:
    if value not in exporter.FORMATS:
        raise ValueError(_FORMATS)
    return value


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of the command."""

    run: Place = argument("A finished run directory, local or gs://bucket/path.")
    format: Annotated[Text, AfterValidator(_known)] | None = option(
        None, f"What the model is put into, {_FORMATS}."
    )
    out: Place | None = option(
        None,
        "File, or for saved_model the folder, local or gs://. Left out, the run's name with the "
        "format's ending, in the current folder.",
    )
    data: Text | None = option(
        None,
        "Data to compare on, by name, path or gs://, if that of the run is not where it was.",
    )
    quantize: Literal["int8"] | None = option(
        None, "int8, of litert: weights and what is computed from them take 8 bits."
    )
    overwrite: bool = option(False, "Replace the file that --out names.")


def main(arguments: Sequence[str], *, program: str) -> None:
    """Exports, and prints how the file compares with the run; its path is the last line."""
    preemption.exit_at_once()
    with command_line.exit_codes(program, arguments):
        settings = command_line.parse(
            Settings,
            arguments,
            program=program,
            summary="Puts the model of a finished run into another format, loads it again by that "
            "format's own runtime, and leaves it only if it agrees with the run.",
        )
        if settings.format is None:
            raise UsageError(f"Missing --format, {_FORMATS}.")
        if settings.quantize and settings.format != "litert":
            raise UsageError(
                f"--quantize: found --format {settings.format}, expected litert, which it is for"
            )
        module = exporter.find(settings.format)
        print(_exported(settings, settings.format, module.SUFFIX), flush=True)


def _exported(settings: Settings, name: str, suffix: str) -> str:
    """Exports, prints how it compares, and returns the path."""
    from trainer.inference.export import destination, examples
    from trainer.runs.finished_run import read_run

    run = read_run(settings.run)
    exporter.check_kind(name, run.input.kind)
    ending = f".{settings.quantize}{suffix}" if settings.quantize else suffix
    place = destination.Destination(
        settings.out or destination.default(settings.run, ending),
        run=settings.run,
        suffix=None if name == "saved_model" else suffix,
        overwrite=settings.overwrite,
    )
    data = examples.load(run, settings.data)
    exported = exporter.export(run, name, data.dataset, place, int8=settings.quantize == "int8")
    for line in _lines(name, exported, data, quantized=settings.quantize):
        print(line)
    return place.path


def _lines(name: str, exported: Exported, data: Examples, *, quantized: str | None) -> list[str]:
    found = exported.comparison
    rows = {
        "format": f"{name} {quantized or ''}".rstrip(),
        "size": f"{exported.size_bytes:,} bytes",
        "compared": f"with the run's graph, on {found.examples:,} examples {data.description}",
        "difference": f"at most {found.difference:.2g} in a probability",
        "accuracy": f"{found.accuracy:.2%}, and {found.expected_accuracy:.2%} by the run's graph",
    }
    if quantized:
        rows["same class"] = f"as the run's graph for {found.same:.2%} of them"
    width = max(map(len, rows))
    return [f"{title:{width}}  {text}" for title, text in rows.items()]
