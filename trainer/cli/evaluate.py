"""`trainer evaluate RUN`: tests a run's model again, on its own data or on other."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from trainer.config import command_line
from trainer.config.fields import File, Text, argument, option
from trainer.runtime import preemption

if TYPE_CHECKING:
    from rich.console import RenderableType

_MAX_CLASSES = 40
_MAX_PAIRS = 10


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of the command."""

    run: Text = argument("A finished run directory, local or gs://bucket/path.")
    data: Text | None = option(
        None,
        "EvaluationData data to test on: one of {datasets}, a path or pattern, local or gs://; its test "
        "part if it has one, else all of it. Left out, what the run was tested on.",
    )
    format: Literal["text", "json"] = option("text", "text or json, what is printed.")
    out: File | None = option(None, "File for the figures as JSON, local or gs://.")
    allow_pickle: bool = option(
        False, "Read a pickle of NumPy and SciPy arrays; any other content is still refused."
    )


def main(arguments: Sequence[str], *, program: str) -> None:
    """Prints how good a run's model is, beside the figures of the run's own test."""
    preemption.exit_at_once()
    with command_line.exit_codes(program, arguments):
        from trainer.data.loader import SHIPPED

        settings = command_line.parse(
            Settings,
            arguments,
            program=program,
            summary="Tests the model of a finished run again, on what it was tested on or on other "
            "labelled data, whose classes are matched by name.",
            names={"datasets": ", ".join(SHIPPED)},
        )
        from trainer import storage
        from trainer.inference import evaluation
        from trainer.runs.finished_run import load_model, read_run

        found = read_run(settings.run)
        on = evaluation.read(found, settings.data, allow_pickle=settings.allow_pickle)
        if settings.out is not None:
            storage.parent(settings.out)[0].check_writable()
        with load_model(found) as model:
            result = evaluation.test(found, on, model)
        text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        if settings.out is not None:
            storage.write_text(settings.out, text)
        if settings.format == "json":
            sys.stdout.write(text)
        else:
            _show(result)


def _show(result: Mapping[str, Any]) -> None:
    import rich.console

    # Class names and paths are not to be taken for markup.
    console = rich.console.Console(markup=False, highlight=False, emoji=False)
    for part in (_in_words(result), _figures(result), _classes(result), _pairs(result)):
        if part is not None:
            console.print(part, "", sep="\n", soft_wrap=isinstance(part, str))


def _in_words(result: Mapping[str, Any]) -> str:
    part, examples, shared = (result[name] for name in ("part", "examples", "shared"))
    what = {
        "own": "what the run was tested on",
        "test": "its test part",
        "all": "all of it, since it has no test part",
    }[part]
    lines = [f"{result['run']} on {result['data']}: {what}, {examples:,} examples"]
    if part == "own" and shared < examples:
        lines += [f"its data has changed since: {examples - shared:,} of them are others than then"]
    elif part != "own" and shared == examples:
        lines += ["the run was tested on each of them, too"]
    elif part != "own" and shared:
        lines += [
            f"the run was tested on {shared:,} of them, too: others may be among what it was "
            "trained on"
        ]
    return "\n".join(map(command_line.printable, lines))


def _figures(result: Mapping[str, Any]) -> RenderableType:
    from rich.table import Table

    table = Table("", "accuracy", "95 % interval", "loss", "examples", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, figures in (("now", result), ("in the run's test", result["training"])):
        low, high = figures["accuracy_interval"]
        table.add_row(
            name,
            f"{figures['test']['accuracy']:.2%}",
            f"{low:.2%} to {high:.2%}",
            f"{figures['test']['loss']:.4f}",
            f"{figures['examples']:,}",
        )
    return table


def _classes(result: Mapping[str, Any]) -> RenderableType:
    from rich.table import Table

    rows = result["per_class"]
    table = Table("class", "precision", "recall", "F1", "examples", box=None, pad_edge=False)
    if len(rows) > _MAX_CLASSES:
        rows = sorted(rows, key=lambda row: float(row["f1"]))[:_MAX_CLASSES]
        table.caption = f"the {_MAX_CLASSES} of the lowest F1, of {len(result['per_class'])}"
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        figures = (f"{row[name]:.2%}" for name in ("precision", "recall", "f1"))
        table.add_row(command_line.printable(row["class"]), *figures, f"{row['support']:,}")
    return table


def _pairs(result: Mapping[str, Any]) -> RenderableType | None:
    import numpy as np
    from rich.table import Table

    from trainer.runs import metrics

    counts = np.array(result["confusion"])
    pairs = metrics.most_confused(counts, _MAX_PAIRS)
    if not pairs:
        return None
    names = [command_line.printable(row["class"]) for row in result["per_class"]]
    table = Table("class", "taken for", "examples", "of the class", box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for true, said in pairs:
        share = counts[true, said] / counts[true].sum()
        table.add_row(names[true], names[said], f"{counts[true, said]:,}", f"{share:.2%}")
    return table
