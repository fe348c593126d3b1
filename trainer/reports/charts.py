"""Draws charts: as SVG with the colours of the page's style sheet, or as PNG."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    Formatter,
    MaxNLocator,
    PercentFormatter,
    ScalarFormatter,
    StrMethodFormatter,
)

from trainer.data.dataset import Array
from trainer.runs.metrics import wilson

# Matplotlib accepts hexadecimal colours only. These are placeholders for the page's CSS variables.
_MUTED, _LINE, FIRST, SECOND = "#000001", "#000002", "#000003", "#000004"
_INK = "#000005"
RUN_COLOURS = 8  # Further runs reuse the colours with other dashes.
_RUNS = [f"#00001{number}" for number in range(RUN_COLOURS)]
_VARIABLES = {
    _MUTED: "--muted", _LINE: "--line", FIRST: "--first", SECOND: "--second", _INK: "--ink",
    **{colour: f"--run-{number}" for number, colour in enumerate(_RUNS)},
}  # fmt: skip
_DASHES: list[Any] = ["solid", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2))]

_WIDTH, _HEIGHT = 4.8, 2.6  # Inches of 72 units; on the page a unit is about one pixel.
_LETTER_SPACING = 11  # Minimum vertical distance of letters, in units.
_MAX_MARKERS = 40  # Epochs; more markers would overlap.
_MAX_NAMED, _MAX_NUMBERED = 40, 20  # Classes of a confusion matrix with names, with counts.
_MAX_NAME_LENGTH = 20  # Characters.
SIDE = 600  # Width and height of a confusion matrix, in pixels.
# Matplotlib's defaults, independent of a user's matplotlibrc.
_DEFAULTS: dict[Any, Any] = {
    name: value for name, value in mpl.rcParamsDefault.items() if name != "backend"
}
_STYLE: dict[Any, Any] = {
    **_DEFAULTS,
    "axes.edgecolor": _LINE,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": _LINE,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "svg.fonttype": "none",  # Text elements, in the font of the page.
    "svg.hashsalt": "report",
    "xtick.color": _MUTED,
    "xtick.labelsize": 11,
    "xtick.major.size": 0,
    "ytick.color": _MUTED,
    "ytick.labelsize": 11,
    "ytick.major.size": 0,
}

# Replacements in the SVG: removes what the page sets itself and unused parts.
_REPLACEMENTS = (
    (r"<svg [^>]*(viewBox=\"[^\"]*\")[^>]*>", r"<svg \1 aria-hidden='true'>"),
    (r"<defs>\s*<style.*?</style>\s*</defs>", ""),
    (r"font-family: [^;\"]*;? ?", ""),
    (r" transform=\"rotate\(-0 [^\"]*\"", ""),
    (r"<g id=\"[^\"]*\"", "<g"),
    (r"<g/>", ""),
    (r"\s*\n\s*", " "),
)


@dataclass(frozen=True, kw_only=True)
class Series:
    """The curve of one run.

    Attributes:
        letter: name of the run in the chart.
        number: number of the run, from 0; determines colour and dashes.
        epochs: epochs in ascending order; at least one.
        values: the value after each epoch.
    """

    letter: str
    number: int
    epochs: Sequence[float]
    values: Sequence[float]


def curves(
    history: Sequence[Mapping[str, float]],
    columns: Mapping[str, str],
    *,
    percent: bool = False,
    from_zero: bool = False,
) -> str:
    """Draws columns of a history by epoch; returns SVG.

    Args:
        history: one row per epoch.
        columns: names of columns, each with its colour, FIRST or SECOND.
        percent: whether to show values from 0 to 1 as percentages.
        from_zero: whether the vertical axis starts at zero.
    """
    with _figure() as figure:
        axes = figure.add_axes((0.15, 0.12, 0.83, 0.84))
        epochs = [row["epoch"] for row in history]
        for name, colour in columns.items():
            values = [row[name] for row in history]
            axes.plot(epochs, values, color=colour, marker=_marker(epochs), clip_on=False)
        _scale(axes, percent=percent, from_zero=from_zero)
        return _svg(figure)


def overlaid_curves(
    runs: Sequence[Series],
    *,
    percent: bool = False,
    from_zero: bool = False,
    logarithmic: bool = False,
) -> str:
    """Draws the curves of several runs in one chart; returns SVG.

    Each curve ends at the letter of its run.

    Args:
        runs: the curves.
        percent: whether to show values from 0 to 1 as percentages.
        from_zero: whether the vertical axis starts at zero.
        logarithmic: whether the vertical axis is logarithmic; zeros are left out.
    """
    with _figure() as figure:
        axes = figure.add_axes((0.15, 0.12, 0.79, 0.84))
        for run in runs:
            axes.plot(
                run.epochs, run.values, color=_RUNS[run.number % RUN_COLOURS], clip_on=False,
                linestyle=_dashes(run.number), marker=_marker(run.epochs),
            )  # fmt: skip
        _scale(axes, percent=percent, from_zero=from_zero)
        if logarithmic:
            axes.set_yscale("log")
            axes.minorticks_off()
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.0e}"))
        for end in sorted({run.epochs[-1] for run in runs}):
            _draw_letters(axes, [run for run in runs if run.epochs[-1] == end])
        return _svg(figure)


def intervals(rows: Sequence[tuple[str, float, tuple[float, float]]]) -> str:
    """Draws rates with confidence intervals, one row per run; returns SVG.

    Args:
        rows: for each run its letter, rate (0 to 1) and interval.
    """
    height = 0.5 + 0.3 * len(rows)
    with _figure(height=height) as figure:
        axes = figure.add_axes((0.06, 0.35 / height, 0.9, 1 - 0.4 / height))
        for number, (_, rate, ends) in enumerate(rows):
            colour = _RUNS[number % RUN_COLOURS]
            axes.hlines(number, *ends, color=colour, linestyle=_dashes(number), clip_on=False)
            axes.plot(rate, number, "o", color=colour, clip_on=False)
        axes.set_yticks(range(len(rows)), [letter for letter, _, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(axis="y", labelcolor=_INK)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        return _svg(figure)


def reliability(bins: Sequence[Mapping[str, float]]) -> str:
    """Draws a reliability diagram, accuracy by confidence with 95 % intervals; returns SVG.

    Bars below the diagram show the fraction of the examples in each bin.

    Args:
        bins: the bins of `metrics.calibration`.
    """
    with _figure(height=3.3) as figure:
        axes = figure.add_axes((0.15, 0.4, 0.83, 0.57))
        bars = figure.add_axes((0.15, 0.1, 0.83, 0.2), sharex=axes)
        examples = sum(each["examples"] for each in bins)
        for each in bins:
            axes.vlines(
                each["confidence"],
                *wilson(int(each["correct"]), int(each["examples"])),
                color=FIRST,
            )
        confidence = [each["confidence"] for each in bins]
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle=(0, (4, 3)))
        accuracy = [each["correct"] / each["examples"] for each in bins]
        axes.plot(confidence, accuracy, "o", color=FIRST)
        bars.bar(
            confidence, [each["examples"] / examples for each in bins], width=0.02, color=FIRST
        )
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
        bars.set(ylim=(0, 1), yticks=[0.5, 1])
        for axis in (axes.yaxis, bars.yaxis, bars.xaxis):
            axis.set_major_formatter(PercentFormatter(1))
        axes.tick_params(labelbottom=False)
        return _svg(figure)


def confusion(counts: Array, classes: Sequence[str]) -> bytes:
    """Draws a confusion matrix with labels; returns an RGBA PNG of SIDE x SIDE pixels.

    Args:
        counts: int (classes, classes); rows are the true class.
        classes: class names.
    """
    with_names, with_counts = len(classes) <= _MAX_NAMED, len(classes) <= _MAX_NUMBERED
    # Square roots of the fractions of the true class, so that small ones are visible.
    shades = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    labels = [
        name if len(name) <= _MAX_NAME_LENGTH else f"{name[: _MAX_NAME_LENGTH - 1]}…"
        for name in classes
    ]
    ticks = range(len(classes)) if with_names else []
    rotation = 90 if max(map(len, labels)) > 3 else 0
    file = io.BytesIO()
    # Names may look like TeX, or contain characters that the font lacks.
    with mpl.rc_context(_DEFAULTS), warnings.catch_warnings(action="ignore"):
        figure = Figure(figsize=(SIDE / 100, SIDE / 100), dpi=100, layout="constrained")
        axes = figure.add_subplot(xlabel="predicted", ylabel="true")
        axes.imshow(shades, cmap="Blues", vmin=0, vmax=1)
        axes.tick_params(labelsize=min(11, 280 / len(classes)))
        axes.set_xticks(ticks, labels if with_names else [], rotation=rotation, parse_math=False)
        axes.set_yticks(ticks, labels if with_names else [], parse_math=False)
        size = min(11, 110 / len(classes))
        for (row, column), count in np.ndenumerate(counts) if with_counts else ():
            colour = "white" if shades[row, column] > 0.5 else "black"
            axes.text(
                column, row, f"{count}", ha="center", va="center", color=colour, fontsize=size
            )
        figure.savefig(file, format="png")
    return file.getvalue()


@contextmanager
def _figure(height: float = _HEIGHT) -> Iterator[Figure]:
    with mpl.rc_context(_STYLE):
        # Not pyplot's, which selects a window system and keeps references to figures.
        yield Figure(figsize=(_WIDTH, height))


def _marker(epochs: Sequence[float]) -> str | None:
    return "o" if len(epochs) <= _MAX_MARKERS else None


def _dashes(number: int) -> Any:
    return _DASHES[number // RUN_COLOURS % len(_DASHES)]


def _scale(axes: Axes, *, percent: bool, from_zero: bool) -> None:
    axes.margins(x=0.03, y=0.08)
    if from_zero:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(_formatter(axes, percent))
    if axes.dataLim.width == 0:
        axes.set_xlim(axes.dataLim.x0 - 0.5, axes.dataLim.x0 + 0.5)


def _draw_letters(axes: Axes, runs: Sequence[Series]) -> None:
    """Draws the letters of runs at the ends of their curves, without overlaps."""
    points = np.array([[run.epochs[-1], run.values[-1]] for run in runs])
    heights = axes.transData.transform(points)[:, 1] * (72 / axes.figure.dpi)
    bottom, top = axes.bbox.y0 * (72 / axes.figure.dpi), axes.bbox.y1 * (72 / axes.figure.dpi)
    order = np.argsort(heights, kind="stable")
    # Shift letters up from the lowest one, and down from the highest one; take the mean of both.
    steps = _LETTER_SPACING * np.arange(len(runs))
    up = np.maximum.accumulate(heights[order] - steps) + steps
    down = np.minimum.accumulate((heights[order] - steps)[::-1])[::-1] + steps
    positions = (up + down) / 2
    positions += max(0.0, bottom - positions[0])
    positions -= max(0.0, positions[-1] - top)
    for position, number in zip(positions, order, strict=True):
        axes.annotate(
            runs[number].letter, tuple(points[number]), (7, position - heights[number]),
            textcoords="offset points", va="center", fontsize=11, color=_INK,
            annotation_clip=False,
        )  # fmt: skip


def _formatter(axes: Axes, percent: bool) -> Formatter:
    if percent:
        return PercentFormatter(1)
    return StrMethodFormatter("{x:,.0f}") if axes.get_ylim()[1] > 1000 else ScalarFormatter(False)


def _svg(figure: Figure) -> str:
    """Returns a figure as an SVG element that inherits size, font and colours from the page."""
    file = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for pattern, replacement in _REPLACEMENTS:
        text = re.sub(pattern, replacement, text)
    return re.sub("|".join(_VARIABLES), lambda match: f"var({_VARIABLES[match[0]]})", text)
