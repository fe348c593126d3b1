"""Renders the comparison of finished runs as a self-contained HTML page."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.reports import comparison_text, pages
from trainer.reports.comparison import ClassRow, ComparedRun, Comparison

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
    """Returns the HTML page of a comparison."""
    from trainer.reports import charts

    return pages.render(
        _TEMPLATE,
        comparison=comparison,
        created=datetime.datetime.now(datetime.UTC),
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
    """Returns all rows, or the 40 rows in which the runs differ most."""
    if len(rows) <= _MAX_CLASSES:
        return rows
    return sorted(rows, key=lambda row: row.spread, reverse=True)[:_MAX_CLASSES]


def _curves(runs: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    """Returns one chart per column of the histories that any run has."""
    from trainer.reports import charts

    curves = []
    for column, (title, options) in _CURVES.items():
        lines = []
        for run in runs:
            rows = [row for row in run.history if column in row]
            if rows:
                epochs, values = [row["epoch"] for row in rows], [row[column] for row in rows]
                lines.append(
                    charts.Series(
                        letter=run.letter, number=run.number, epochs=epochs, values=values
                    )
                )
        if lines:
            svg = charts.overlaid_curves(lines, **options)
            curves.append({"title": title, "svg": svg, "column": column, "lines": lines})
    return curves
