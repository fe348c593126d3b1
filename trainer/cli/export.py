"""`trainer export RUN --format onnx`: converts a run's model to another format, and checks it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import pydantic
from pydantic import AfterValidator

from trainer.config import command_line
from trainer.config.fields import FolderPath, Text, argument, option
from trainer.errors import UsageError
from trainer.inference.export import exporter
from trainer.runtime import preemption

if TYPE_CHECKING:
    from trainer.inference.export.examples import ComparisonData
    from trainer.inference.export.exporter import ExportResult

_FORMATS = f"one of: {', '.join(exporter.FORMATS)}"


def _check_format(value: str) -> str:
    if value not in exporter.FORMATS:
        raise ValueError(_FORMATS)
    return value


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The options of `trainer export`."""

    run: FolderPath = argument("Finished run directory, local or gs://bucket/path.")
    format: Annotated[Text, AfterValidator(_check_format)] | None = option(
        None, f"Format to convert the model to, {_FORMATS}. Required."
    )
    out: FolderPath | None = option(
        None,
        "File to write (a folder for saved_model), local or gs://. Default: the run's name with "
        "the format's suffix, in the current folder.",
    )
    data: Text | None = option(
        None,
        "Data to compare the outputs on: name, path or gs://. Default: the path of the run's data.",
    )
    quantize: Literal["int8"] | None = option(
        None, "Quantize weights and activations to 8 bits (litert only). Default: 32-bit floats."
    )
    overwrite: bool = option(False, "Replace an earlier model at --out.")


def main(arguments: Sequence[str], *, program: str) -> None:
    """Exports the model; prints how its outputs compare with the run's, and last the path."""
    preemption.exit_on_sigterm()
    with command_line.exit_codes(program, arguments):
        options = command_line.parse(
            ExportOptions,
            arguments,
            program=program,
            summary="Converts the model of a finished run to another format, loads the file with "
            "that format's own runtime, and keeps it only if its outputs match the run's model.",
        )
        if options.format is None:
            raise UsageError(f"Missing --format, {_FORMATS}.")
        if options.quantize and options.format != "litert":
            raise UsageError(
                f"--quantize: found --format {options.format}, expected --format litert, the only "
                "one that can be quantized"
            )
        module = exporter.find(options.format)
        print(_export(options, options.format, module.SUFFIX), flush=True)


def _export(options: ExportOptions, name: str, suffix: str) -> str:
    """Exports, prints the comparison, and returns the path."""
    from trainer.inference.export import destination, examples
    from trainer.runs.finished_run import read_run

    run = read_run(options.run)
    exporter.check_kind(name, run.input.kind)
    ending = f".{options.quantize}{suffix}" if options.quantize else suffix
    target = destination.Destination(
        options.out or destination.default(options.run, ending),
        run=options.run,
        suffix=None if name == "saved_model" else suffix,
        overwrite=options.overwrite,
    )
    data = examples.load(run, options.data)
    result = exporter.export(run, name, data.dataset, target, int8=options.quantize == "int8")
    for line in _format_result(name, result, data, quantized=options.quantize):
        print(line)
    return target.path


def _format_result(
    name: str, result: ExportResult, data: ComparisonData, *, quantized: str | None
) -> list[str]:
    comparison = result.comparison
    rows = {
        "format": f"{name} {quantized or ''}".rstrip(),
        "size": f"{result.size_bytes:,} bytes",
        "compared": f"with the run's model, on {comparison.examples:,} examples {data.description}",
        "difference": f"at most {comparison.difference:.2g} in a probability",
        "accuracy": (f"{comparison.accuracy:.2%}, run's model {comparison.expected_accuracy:.2%}"),
    }
    if quantized:
        rows["same class"] = f"as the run's model for {comparison.same_class:.2%} of the examples"
    width = max(map(len, rows))
    return [f"{title:{width}}  {text}" for title, text in rows.items()]
