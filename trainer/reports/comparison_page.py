"""`comparison.html`: finished runs beside each other on one page that needs nothing else."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.reports import comparison_text, pages
from trainer.reports.comparison import ClassRow, Comparison, Run

_TEMPLATE = "comparison.html.jinja"
_MAX_CLASSES = 40
_CURVES: Mapping[str, tuple[str, dict[str, bool]]] = {
    "val_accuracy": ("Validation accuracy", {"percent": True}),
    "val_loss": ("Validation loss", {}),
    "accuracy": ("Training accuracy", {"percent": True}),
    "loss": ("Training loss", {}),
    "learning_rate": ("Learning rate", {"from_zero": True}),
    "examples_per_second": ("Examples per second", {"from_zero": True}),
}


def page(comparison: Comparison) -> str:
    """Returns the page."""
    from trainer.reports import charts

    return pages.render(
        _TEMPLATE,
        comparison=comparison,
        made=datetime.datetime.now(datetime.UTC),
        colours=charts.RUN_COLOURS,
        verdicts=[
            (comparison_text.verdict(pair), comparison_text.reason(pair, tests=comparison.tests))
            for pair in comparison.pairs
        ],
        cautions=comparison_text.cautions(comparison),
        classes=_classes(comparison.classes),
        curves=_curves(comparison.runs),
        intervals=charts.intervals(
            [
                (run.letter, run.metrics.test.accuracy, run.metrics.accuracy_interval)
                for run in comparison.runs
            ]
        ),
    )


def _classes(rows: Sequence[ClassRow]) -> Sequence[ClassRow]:
    """Returns all of them, or of many those in which the runs differ most."""
    if len(rows) <= _MAX_CLASSES:
        return rows
    return sorted(rows, key=lambda row: row.spread, reverse=True)[:_MAX_CLASSES]


def _curves(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns a chart for each figure that any of the runs has."""
    from trainer.reports import charts

    found = []
    for figure, (title, how) in _CURVES.items():
        lines = []
        for run in runs:
            rows = [row for row in run.history if figure in row]
            if rows:
                epochs, values = [row["epoch"] for row in rows], [row[figure] for row in rows]
                lines.append(
                    charts.Series(
                        letter=run.letter, number=run.number, epochs=epochs, values=values
                    )
                )
        if lines:
            svg = charts.overlaid_curves(lines, **how)
            found.append({"title": title, "svg": svg, "figure": figure, "lines": lines})
    return found
