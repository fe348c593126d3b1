"""Formats predictions as rows: a table for people, JSON lines and CSV for programs."""

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
from trainer.inference.predict.items import Item

FORMATS = ("table", "jsonl", "csv")

_INPUT, _PREDICTED, _PROBABILITY, _ERROR = "input", "predicted", "probability", "error"


@dataclass(frozen=True, kw_only=True)
class RowFormatter:
    """Formats one row per item.

    Attributes:
        format: one of FORMATS. A table leaves out items that could not be read; JSON lines and CSV
            have a row with an error for each.
        classes: class names, in the order of the model's outputs.
        all_probabilities: whether a row has the probability of every class.
        width: columns of the terminal, to which texts in a table are cut; None for no limit.
    """

    format: str
    classes: Sequence[str]
    all_probabilities: bool
    width: int | None = None

    def header(self) -> str:
        """Returns the header line; "" for JSON lines."""
        classes = self.classes if self.all_probabilities else ()
        if self.format == "csv":
            columns = (_INPUT, _PREDICTED, _PROBABILITY, _ERROR)
            return _csv_line([*columns, *(f"{_PROBABILITY} of {name}" for name in classes)])
        if self.format == "table":
            return self._table_line(_PREDICTED, _PROBABILITY, list(map(printable, classes)), _INPUT)
        return ""

    def rows(self, batch: Iterable[Item], probabilities: Iterable[Array]) -> str:
        """Returns the rows of a batch, each ending in a line feed.

        Args:
            batch: the items.
            probabilities: class probabilities, float32 (classes,), of each item with an example.
        """
        row = {"table": self._table_row, "jsonl": self._json_row, "csv": self._csv_row}[self.format]
        remaining = iter(probabilities)
        return "".join(
            row(item, None if item.example is None else next(remaining)) for item in batch
        )

    def _json_row(self, item: Item, probabilities: Array | None) -> str:
        row: dict[str, object] = {_INPUT: item.name}
        if probabilities is None:
            row[_ERROR] = item.error
        else:
            predicted = int(probabilities.argmax())
            row |= {
                _PREDICTED: self.classes[predicted],
                _PROBABILITY: float(_format_float32(probabilities[predicted])),
            }
            if self.all_probabilities:
                values = (float(_format_float32(value)) for value in probabilities)
                row["probabilities"] = dict(zip(self.classes, values, strict=True))
        return json.dumps(row, ensure_ascii=False) + "\n"

    def _csv_row(self, item: Item, probabilities: Array | None) -> str:
        if probabilities is None:
            row = [item.name, "", "", item.error]
            per_class = [""] * len(self.classes)
        else:
            predicted = int(probabilities.argmax())
            confidence = _format_float32(probabilities[predicted])
            row = [item.name, self.classes[predicted], confidence, ""]
            per_class = list(map(_format_float32, probabilities)) if self.all_probabilities else []
        return _csv_line(row + per_class if self.all_probabilities else row)

    def _table_row(self, item: Item, probabilities: Array | None) -> str:
        if item.example is None or probabilities is None:
            return ""
        predicted = int(probabilities.argmax())
        per_class = probabilities.tolist() if self.all_probabilities else []
        return self._table_line(
            printable(self.classes[predicted]),
            f"{probabilities[predicted]:.2%}",
            [f"{value:.2%}" for value in per_class],
            printable(item.name),
            printable(str(item.example[()])) if item.example.dtype == object else "",
        )

    def _table_line(
        self, predicted: str, probability: str, per_class: Sequence[str], name: str, text: str = ""
    ) -> str:
        """Returns a line of a table. Input names come last, as their width is not known before."""
        first, *widths = self._widths
        cells = [set_cell_size(predicted, first), probability.rjust(len(_PROBABILITY))]
        cells += [cell.rjust(width) for cell, width in zip(per_class, widths, strict=False)]
        line = "  ".join([*cells, name])
        if text and self.width is not None:
            text = set_cell_size(text, max(0, self.width - cell_len(line) - 2)).rstrip()
        return f"{line}  {text}".rstrip() + "\n"

    @functools.cached_property
    def _widths(self) -> list[int]:
        """Widths of the column of the predicted class, then of the column of each class."""
        widths = [cell_len(printable(name)) for name in self.classes]
        return [max(len(_PREDICTED), *widths), *(max(len("100.00%"), width) for width in widths)]


def _format_float32(value: Any) -> str:
    return f"{float(value):.7g}"  # A float32 has 7 significant digits.


def _csv_line(cells: Sequence[str]) -> str:
    # The csv module does not quote carriage returns by itself, though they end rows, too.
    returns = any("\r" in cell for cell in cells)
    line = io.StringIO(newline="")
    csv.writer(
        line, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
    ).writerow(cells)
    return line.getvalue()
