"""`trainer export RUN --format onnx`: the model of a run in another format, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import pydantic

from trainer import command_line, termination
from trainer import config as configs
from trainer.config import Place, Text, flag, word
from trainer.errors import UsageError

if TYPE_CHECKING:
    from trainer.exporting import Exported
    from trainer.exporting.examples import Examples

Format = Literal["saved_model", "onnx", "litert", "keras", "h5"]


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of the command."""

    run: Text = word("A finished run directory, local or gs://bucket/path.")
    format: Format | None = flag(None, "One of {formats}; keras and h5 are files of Keras.")
    out: Place | None = flag(
        None,
        "File, or for saved_model the folder, local or gs://. Left out, the run's name with the "
        "format's ending, in the current folder.",
    )
    data: Text | None = flag(
        None,
        "Data to compare on, by name, path or gs://, if that of the run is not where it was.",
    )
    quantize: Literal["int8"] | None = flag(
        None, "int8, of litert: weights and what is computed from them take 8 bits."
    )
    overwrite: bool = flag(False, "Replace the file that --out names.")


def main(arguments: Sequence[str], *, program: str) -> None:
    """Exports, and prints how the file compares with the run; its path is the last line."""
    termination.exit_at_once()
    with command_line.exits(program, arguments):
        from trainer import exporting

        flags = command_line.read(
            arguments,
            configs.settings(Settings),
            program=program,
            summary="Puts the model of a finished run into another format, loads it again by that "
            "format's own runtime, and leaves it only if it agrees with the run.",
            names={"formats": ", ".join(exporting.FORMATS)},
        )
        settings = configs.check(Settings, flags)
        if settings.format is None:
            raise UsageError(f"Missing --format. Expected one of: {', '.join(exporting.FORMATS)}.")
        if settings.quantize and settings.format != "litert":
            raise UsageError(
                f"--quantize: found --format {settings.format}, expected litert, which it is for"
            )
        module = exporting.find(settings.format)
        print(_exported(settings, settings.format, module.SUFFIX), flush=True)


def _exported(settings: Settings, name: str, suffix: str) -> str:
    """Exports, prints how it compares, and returns the path."""
    from trainer import exporting, trained
    from trainer.exporting import destination, examples

    run = trained.read(settings.run)
    exporting.check_kind(name, run.input.kind)
    ending = f".{settings.quantize}{suffix}" if settings.quantize else suffix
    place = destination.Destination(
        settings.out or destination.default(settings.run, ending),
        run=settings.run,
        suffix=None if name == "saved_model" else suffix,
        overwrite=settings.overwrite,
    )
    data = examples.load(run, settings.data)
    exported = exporting.export(run, name, data.dataset, place, int8=settings.quantize == "int8")
    for line in _lines(name, exported, data, quantized=settings.quantize):
        print(line)
    return place.path


def _lines(name: str, exported: Exported, data: Examples, *, quantized: str | None) -> list[str]:
    found = exported.agreement
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
