"""Charts: of the pages as SVG, whose colours are the page's: light, dark or printed; or as PNG."""

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

# Matplotlib writes numbers for colours. These stand for what the page's style sheet sets.
_MUTED, _LINE, FIRST, SECOND = "#000001", "#000002", "#000003", "#000004"
_INK = "#000005"
RUN_COLOURS = 8  # What more can be told apart are dashes.
_RUNS = [f"#00001{number}" for number in range(RUN_COLOURS)]
_VARIABLES = {
    _MUTED: "--muted", _LINE: "--line", FIRST: "--first", SECOND: "--second", _INK: "--ink",
    **{colour: f"--run-{number}" for number, colour in enumerate(_RUNS)},
}  # fmt: skip
_DASHES: list[Any] = ["solid", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2))]

_WIDTH, _HEIGHT = 4.8, 2.6  # Inches of 72 units; the page shows a unit as a pixel or a bit more.
_LETTER = 11  # Units from one letter to the next below it, at least.
_MAX_MARKED = 40  # Epochs; the points of more would run into each other.
_MAX_NAMED, _MAX_NUMBERED = 40, 20  # Classes of a confusion matrix.
_LONGEST = 20  # Characters of their names.
SIDE = 600  # Pixels of a confusion matrix.
# Whatever a user's matplotlibrc says.
_USUAL: dict[Any, Any] = {
    name: value for name, value in mpl.rcParamsDefault.items() if name != "backend"
}
_STYLE: dict[Any, Any] = {
    **_USUAL,
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
    "svg.fonttype": "none",  # Text as text, in the page's font.
    "svg.hashsalt": "report",
    "xtick.color": _MUTED,
    "xtick.labelsize": 11,
    "xtick.major.size": 0,
    "ytick.color": _MUTED,
    "ytick.labelsize": 11,
    "ytick.major.size": 0,
}

# Of the SVG: what the page says itself, or what nothing refers to.
_CHANGES = (
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
    """A figure of one run among several.

    Attributes:
        letter: what the run is called in the chart.
        number: of the run, from 0, by which it has its colour and dashes.
        epochs: in rising order; at least one.
        values: the figure after each of them.
    """

    letter: str
    number: int
    epochs: Sequence[float]
    values: Sequence[float]


def curves(
    history: Sequence[Mapping[str, float]],
    figures: Mapping[str, str],
    *,
    percent: bool = False,
    from_zero: bool = False,
) -> str:
    """Returns how figures changed from epoch to epoch, as SVG.

    Args:
        history: a row an epoch.
        figures: names in those rows, each with its colour, FIRST or SECOND.
        percent: whether they are parts of one.
        from_zero: whether the axis begins at zero.
    """
    with _figure() as figure:
        axes = figure.add_axes((0.15, 0.12, 0.83, 0.84))
        epochs = [row["epoch"] for row in history]
        for name, colour in figures.items():
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
    """Returns how a figure of several runs changed from epoch to epoch, as SVG.

    Each line ends at the letter of its run.

    Args:
        runs: what is drawn.
        percent: whether they are parts of one.
        from_zero: whether the axis begins at zero.
        logarithmic: whether the axis has powers of ten; zeros are left out.
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
            _letter(axes, [run for run in runs if run.epochs[-1] == end])
        return _svg(figure)


def intervals(rows: Sequence[tuple[str, float, tuple[float, float]]]) -> str:
    """Returns rates with their intervals, one below the other, as SVG.

    Args:
        rows: of each run its letter, the rate, 0 to 1, and the interval.
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
    """Returns how often the model is right by how sure it is, as SVG.

    Args:
        bins: as `metrics.calibration` gives them; each accuracy has its 95 % interval, and below
            is the share of the examples.
    """
    with _figure(height=3.3) as figure:
        axes = figure.add_axes((0.15, 0.4, 0.83, 0.57))
        below = figure.add_axes((0.15, 0.1, 0.83, 0.2), sharex=axes)
        examples = sum(each["examples"] for each in bins)
        for each in bins:
            axes.vlines(
                each["confidence"], *wilson(int(each["right"]), int(each["examples"])), color=FIRST
            )
        sure = [each["confidence"] for each in bins]
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot(sure, [each["right"] / each["examples"] for each in bins], "o", color=FIRST)
        below.bar(sure, [each["examples"] / examples for each in bins], width=0.02, color=FIRST)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
        below.set(ylim=(0, 1), yticks=[0.5, 1])
        for axis in (axes.yaxis, below.yaxis, below.xaxis):
            axis.set_major_formatter(PercentFormatter(1))
        axes.tick_params(labelbottom=False)
        return _svg(figure)


def confusion(counts: Array, classes: Sequence[str]) -> bytes:
    """Returns a confusion matrix with its labels as PNG, RGBA of SIDE pixels a side.

    Args:
        counts: int (classes, classes); rows are the true class.
        classes: class names.
    """
    named, numbered = len(classes) <= _MAX_NAMED, len(classes) <= _MAX_NUMBERED
    # The root of the share of the true class, so that what is rare can be seen.
    depths = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    labels = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in classes]
    places = range(len(classes)) if named else []
    turned = 90 if max(map(len, labels)) > 3 else 0
    file = io.BytesIO()
    # A name may hold what looks like TeX, or characters that the font does not have.
    with mpl.rc_context(_USUAL), warnings.catch_warnings(action="ignore"):
        figure = Figure(figsize=(SIDE / 100, SIDE / 100), dpi=100, layout="constrained")
        axes = figure.add_subplot(xlabel="said", ylabel="true")
        axes.imshow(depths, cmap="Blues", vmin=0, vmax=1)
        axes.tick_params(labelsize=min(11, 280 / len(classes)))
        axes.set_xticks(places, labels if named else [], rotation=turned, parse_math=False)
        axes.set_yticks(places, labels if named else [], parse_math=False)
        size = min(11, 110 / len(classes))
        for (row, column), count in np.ndenumerate(counts) if numbered else ():
            colour = "white" if depths[row, column] > 0.5 else "black"
            axes.text(
                column, row, f"{count}", ha="center", va="center", color=colour, fontsize=size
            )
        figure.savefig(file, format="png")
    return file.getvalue()


@contextmanager
def _figure(height: float = _HEIGHT) -> Iterator[Figure]:
    with mpl.rc_context(_STYLE):
        # Of its own, not pyplot's, which picks a window system and keeps what it made.
        yield Figure(figsize=(_WIDTH, height))


def _marker(epochs: Sequence[float]) -> str | None:
    return "o" if len(epochs) <= _MAX_MARKED else None


def _dashes(number: int) -> Any:
    return _DASHES[number // RUN_COLOURS % len(_DASHES)]


def _scale(axes: Axes, *, percent: bool, from_zero: bool) -> None:
    axes.margins(x=0.03, y=0.08)
    if from_zero:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(_numbers(axes, percent))
    if axes.dataLim.width == 0:
        axes.set_xlim(axes.dataLim.x0 - 0.5, axes.dataLim.x0 + 0.5)


def _letter(axes: Axes, runs: Sequence[Series]) -> None:
    """Writes the letters of runs behind the ends of their lines, apart where those are near."""
    points = np.array([[run.epochs[-1], run.values[-1]] for run in runs])
    heights = axes.transData.transform(points)[:, 1] * (72 / axes.figure.dpi)
    bottom, top = axes.bbox.y0 * (72 / axes.figure.dpi), axes.bbox.y1 * (72 / axes.figure.dpi)
    order = np.argsort(heights, kind="stable")
    # Pushed up from the lowest, and down from the highest; the middle of both is nearest.
    steps = _LETTER * np.arange(len(runs))
    up = np.maximum.accumulate(heights[order] - steps) + steps
    down = np.minimum.accumulate((heights[order] - steps)[::-1])[::-1] + steps
    placed = (up + down) / 2
    placed += max(0.0, bottom - placed[0])
    placed -= max(0.0, placed[-1] - top)
    for place, number in zip(placed, order, strict=True):
        axes.annotate(
            runs[number].letter, tuple(points[number]), (7, place - heights[number]),
            textcoords="offset points", va="center", fontsize=11, color=_INK,
            annotation_clip=False,
        )  # fmt: skip


def _numbers(axes: Axes, percent: bool) -> Formatter:
    if percent:
        return PercentFormatter(1)
    return StrMethodFormatter("{x:,.0f}") if axes.get_ylim()[1] > 1000 else ScalarFormatter(False)


def _svg(figure: Figure) -> str:
    """Returns a figure as an element of a page, without sizes, fonts and names of its own."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for pattern, replacement in _CHANGES:
        text = re.sub(pattern, replacement, text)
    return re.sub("|".join(_VARIABLES), lambda found: f"var({_VARIABLES[found[0]]})", text)
