"""`trainer evaluate RUN`: evaluates a run's model again, on its own or on other labelled data."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from trainer.config import ReadOptions, command_line, option_specs
from trainer.config.fields import (
    AnyPath,
    Codec,
    File,
    FolderPath,
    PositiveInt,
    Text,
    argument,
    option,
)
from trainer.config.options import StorageOptions
from trainer.errors import UsageError
from trainer.runtime import preemption

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_MAX_CLASSES = 40
_MAX_PAIRS = 10


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ReadOptions):
    """The options of `trainer evaluate`. Those of reading apply to --data."""

    run: FolderPath = argument("Finished run directory, local or gs://bucket/path.")
    data: AnyPath | None = option(
        None,
        "Labelled data: {datasets}, a path or pattern, local or gs://. Its test split is used, or "
        "all of it if it has none. Default: the test split of the run.",
    )
    format: Literal["text", "json"] = option("text", "Format of the metrics on stdout.")
    out: File | None = option(
        None, "JSON file to write the metrics to, local or gs://. Default: none is written."
    )
    # The same options with another default: what the run knows of its training data.
    image_size: PositiveInt | None = option(
        None, "Pixels per side of image files, the same as in training. Default: as in training."
    )
    label_column: Text | None = option(
        None, "Column of --data that holds the classes. Default: as in training."
    )
    text_column: Text | None = option(
        None, "Column of --data that holds the texts. Default: as in training."
    )
    image_column: Text | None = option(
        None, "Column of --data with images or their paths. Default: as in training."
    )
    no_header: bool = option(
        False, "The first line of the CSV of --data is data. Default: as in training."
    )
    encoding: Codec | None = option(
        None, "Encoding of the texts and CSV of --data, such as cp1251. Default: as in training."
    )

    def check_has_data(self) -> None:
        """Raises UsageError for a flag of reading without --data: the run's data has its own."""
        if self.data is not None:
            return
        for each in option_specs(ReadOptions):
            is_set = getattr(self, each.name) != each.default
            if is_set and each.name not in StorageOptions.__dataclass_fields__:
                raise UsageError(f"{each.flag}: requires --data")


def main(arguments: Sequence[str], *, program: str) -> None:
    """Prints the metrics of a run's model beside those of the run's own test."""
    preemption.exit_on_sigterm()
    with command_line.exit_codes(program, arguments):
        from trainer.data.loader import SHIPPED

        options = command_line.parse(
            EvaluateOptions,
            arguments,
            program=program,
            summary="Evaluates the model of a finished run on its own test split or on other "
            "labelled data, whose classes are matched by name.",
            names={"datasets": ", ".join(SHIPPED)},
        )
        options.check_has_data()
        from trainer import storage
        from trainer.inference import evaluate
        from trainer.runs.finished_run import load_model, read_run

        run = read_run(options.run)
        data = evaluate.read_data(run, options.data, options)
        if options.out is not None:
            storage.check_writable("--out", storage.parent(options.out)[0])
        with load_model(run) as model:
            result = evaluate.evaluate(run, data, model)
        text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        if options.out is not None:
            storage.write_text(options.out, text)
        if options.format == "json":
            sys.stdout.write(text)
        else:
            _print(result)


def _print(result: Mapping[str, Any]) -> None:
    import rich.console

    # Class names and paths may look like markup; print them as they are.
    console = rich.console.Console(markup=False, highlight=False, emoji=False)
    tables = (_metrics_table(result), _class_table(result), _confusion_table(result))
    for content in (_format_summary(result), *tables):
        if content is not None:
            console.print(content, "", sep="\n", soft_wrap=isinstance(content, str))


def _format_summary(result: Mapping[str, Any]) -> str:
    split, examples, shared = (result[key] for key in ("split", "examples", "shared"))
    description = {
        "own": "the run's test split",
        "test": "its test split",
        "all": "all of it, since it has no test split",
    }[split]
    lines = [f"{result['run']} on {result['data']}: {description}, {examples:,} examples"]
    if split == "own" and shared < examples:
        lines += [f"{examples - shared:,} test examples changed since the run"]
    elif split != "own" and shared == examples:
        lines += ["all of these examples are in the run's test split"]
    elif split != "own" and shared:
        lines += [
            f"{shared:,} of these examples are in the run's test split; others may be in its "
            "training split"
        ]
    return "\n".join(map(command_line.printable, lines))


def _table(*headings: str, left: int) -> Table:
    """Returns an empty table, whose columns after the first `left` are right-aligned."""
    from rich.table import Table

    table = Table(*headings, box=None, pad_edge=False)
    for column in table.columns[left:]:
        column.justify = "right"
    return table


def _metrics_table(result: Mapping[str, Any]) -> RenderableType:
    table = _table("", "accuracy", "95 % interval", "loss", "examples", left=1)
    for name, metrics in (("now", result), ("in the run's test", result["training"])):
        low, high = metrics["accuracy_interval"]
        table.add_row(
            name,
            f"{metrics['test']['accuracy']:.2%}",
            f"{low:.2%} to {high:.2%}",
            f"{metrics['test']['loss']:.4f}",
            f"{metrics['examples']:,}",
        )
    return table


def _class_table(result: Mapping[str, Any]) -> RenderableType:
    rows = result["per_class"]
    table = _table("class", "precision", "recall", "F1", "examples", left=1)
    if len(rows) > _MAX_CLASSES:
        rows = sorted(rows, key=lambda row: float(row["f1"]))[:_MAX_CLASSES]
        table.caption = (
            f"the {_MAX_CLASSES} classes with the lowest F1, of {len(result['per_class'])}"
        )
    for row in rows:
        scores = (f"{row[name]:.2%}" for name in ("precision", "recall", "f1"))
        table.add_row(command_line.printable(row["class"]), *scores, f"{row['support']:,}")
    return table


def _confusion_table(result: Mapping[str, Any]) -> RenderableType | None:
    """Returns the pairs of classes that are confused most often, or None if there are none."""
    import numpy as np

    from trainer.runs import metrics

    counts = np.array(result["confusion"])
    pairs = metrics.most_confused(counts, _MAX_PAIRS)
    if not pairs:
        return None
    names = [command_line.printable(row["class"]) for row in result["per_class"]]
    table = _table("class", "predicted", "examples", "of the class", left=2)
    for true, predicted in pairs:
        count = counts[true, predicted]
        fraction = count / counts[true].sum()
        table.add_row(names[true], names[predicted], f"{count:,}", f"{fraction:.2%}")
    return table
