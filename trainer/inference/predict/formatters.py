"""Predictions as rows: a table for people, JSON lines and CSV for programs."""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size

from trainer.config.command_line import printable
from trainer.data.dataset import Array
from trainer.inference.predict.reader import Item

FORMATS = ("table", "jsonl", "csv")

_INPUT, _PREDICTED, _PROBABILITY, _ERROR = "input", "predicted", "probability", "error"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How rows look.

    Attributes:
        format: one of FORMATS. A table leaves out what could not be read; the others have a row of
            it too, so that there is one for each item.
        classes: class names.
        all_probabilities: whether a row has the probability of each class.
        width: characters of a line of a table, for the texts in it; None for no limit.
    """

    format: str
    classes: Sequence[str]
    all_probabilities: bool
    width: int | None = None

    def head(self) -> str:
        """Returns what stands above the rows."""
        each = self.classes if self.all_probabilities else ()
        if self.format == "csv":
            columns = (_INPUT, _PREDICTED, _PROBABILITY, _ERROR)
            return _csv([*columns, *(f"{_PROBABILITY} of {name}" for name in each)])
        if self.format == "table":
            return self._line(_PREDICTED, _PROBABILITY, list(map(printable, each)), _INPUT)
        return ""

    def rows(self, batch: Iterable[Item], probabilities: Iterable[Array]) -> str:
        """Returns a row for each item of a batch.

        Args:
            batch: the items.
            probabilities: of each class, float32 (classes,), for each item with an example.
        """
        row = {"table": self._table_row, "jsonl": self._json_row, "csv": self._csv_row}[self.format]
        of_examples = iter(probabilities)
        return "".join(
            row(item, None if item.example is None else next(of_examples)) for item in batch
        )

    def _json_row(self, item: Item, probabilities: Array | None) -> str:
        row: dict[str, object] = {_INPUT: item.name}
        if probabilities is None:
            row[_ERROR] = item.error
        else:
            said = int(probabilities.argmax())
            row |= {
                _PREDICTED: self.classes[said],
                _PROBABILITY: float(_short(probabilities[said])),
            }
            if self.all_probabilities:
                values = (float(_short(value)) for value in probabilities)
                row["probabilities"] = dict(zip(self.classes, values, strict=True))
        return json.dumps(row, ensure_ascii=False) + "\n"

    def _csv_row(self, item: Item, probabilities: Array | None) -> str:
        if probabilities is None:
            row = [item.name, "", "", item.error]
            each = [""] * len(self.classes)
        else:
            said = int(probabilities.argmax())
            row = [item.name, self.classes[said], _short(probabilities[said]), ""]
            each = list(map(_short, probabilities)) if self.all_probabilities else []
        return _csv(row + each if self.all_probabilities else row)

    def _table_row(self, item: Item, probabilities: Array | None) -> str:
        if item.example is None or probabilities is None:
            return ""
        said = int(probabilities.argmax())
        each = probabilities.tolist() if self.all_probabilities else []
        return self._line(
            printable(self.classes[said]),
            f"{probabilities[said]:.2%}",
            [f"{value:.2%}" for value in each],
            printable(item.name),
            printable(str(item.example[()])) if item.example.dtype == object else "",
        )

    def _line(
        self, predicted: str, probability: str, each: Sequence[str], name: str, text: str = ""
    ) -> str:
        """Returns a line of a table, what is of known width first: it is not known what follows."""
        first, *widths = self._widths
        cells = [set_cell_size(predicted, first), probability.rjust(len(_PROBABILITY))]
        cells += [cell.rjust(width) for cell, width in zip(each, widths, strict=False)]
        line = "  ".join([*cells, name])
        if text and self.width is not None:
            text = set_cell_size(text, max(0, self.width - cell_len(line) - 2)).rstrip()
        return f"{line}  {text}".rstrip() + "\n"

    @functools.cached_property
    def _widths(self) -> list[int]:
        """Of the column of classes, and of those of their probabilities."""
        widths = [cell_len(printable(name)) for name in self.classes]
        return [max(len(_PREDICTED), *widths), *(max(len("100.00%"), width) for width in widths)]


def _short(value: Any) -> str:
    return f"{float(value):.7g}"  # All that a float32 holds.


def _csv(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()
