"""`trainer compare RUN RUN ...`: finished runs beside each other, in the terminal and on a page."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import pydantic
from pydantic import AfterValidator

from trainer import storage
from trainer.config import command_line
from trainer.config.fields import Page, Place, argument, option

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from trainer.reports.comparison import Comparison, Difference

_MAX = 26  # Runs have letters.
_WIDEST = 100  # Columns; longer lines are hard to read.


def _runs(value: tuple[str, ...]) -> tuple[str, ...]:
    if not 2 <= len(value) <= _MAX:
        raise ValueError(f"2 to {_MAX} run directories")
    labels = [run if storage.is_remote(run) else os.path.realpath(run) for run in value]
    ((place, times),) = Counter(labels).most_common(1)
    if times > 1:
        raise ValueError(f"each run once, {value[labels.index(place)]} is there {times} times")
    return value


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of the command."""

    runs: Annotated[tuple[Place, ...], AfterValidator(_runs)] = argument(
        "Finished run directories, local or gs://bucket/path; the others are compared with the "
        "first."
    )
    out: Page = option(
        "comparison.html",
        "The page, local or gs://bucket/path; an earlier one is replaced.",
    )


def main(arguments: Sequence[str], *, program: str) -> None:
    """Prints the tables, writes the page, and prints where it is."""
    with command_line.exit_codes(program, arguments):
        settings = command_line.parse(
            Settings,
            arguments,
            program=program,
            summary="Puts finished runs beside each other: settings, figures, and by McNemar's "
            "test whether they differ by more than chance.",
        )
        from trainer.reports import comparison, comparison_page, pages

        pages.check_replaceable(settings.out)
        found = comparison.compare(
            [comparison.read(run, number) for number, run in enumerate(settings.runs)]
        )
        _print(found)
        storage.write_text(settings.out, comparison_page.page(found))
        print(settings.out)


def _print(comparison: Comparison) -> None:
    import rich.console

    from trainer.reports import comparison_text

    # What a run is called and holds is text, whatever it looks like.
    console = rich.console.Console(markup=False, emoji=False, highlight=False)
    console.width = min(console.width, _WIDEST)

    def section(title: str, *parts: RenderableType) -> None:
        console.print()
        console.print(title, style="bold")
        for part in parts:
            console.print(part)

    console.print(_names(comparison))
    section("Settings that differ", _differences(comparison.settings))
    if comparison.origins:
        section("What else differs", _differences(comparison.origins))
    best = "* the best; " if any(comparison.best.values()) else ""
    section("Test and training", _figures(comparison), f"{best}ECE is the calibration error")
    if comparison.groups:
        section("One recipe, several seeds", _groups(comparison))
    section("More than chance?")
    for pair in comparison.pairs:
        console.print(comparison_text.verdict(pair), style="bold")
        console.print(comparison_text.reason(pair, tests=comparison.tests))
        console.print()
    for caution in comparison_text.cautions(comparison):
        console.print(caution)
        console.print()
    sys.stdout.flush()


def _names(comparison: Comparison) -> Table:
    return _table(("", "", ""), ((run.letter, run.title, run.place) for run in comparison.runs))


def _differences(differences: Sequence[Difference]) -> RenderableType:
    """Lays out each of them with its values, each behind the letters of its runs."""
    if not differences:
        return "none of those that decide the result"
    rows = (
        (each.name, "   ".join(f"{letters} {value}" for value, letters in each.values))
        for each in differences
    )
    return _table(("", ""), rows)


def _figures(comparison: Comparison) -> Table:
    best = comparison.best

    def marked(figure: str, number: int, text: str) -> str:
        return text + (" *" if number in best[figure] else "  ")

    heads = ("", "accuracy", "95 %", "loss", "ECE", "epochs", "training", "ex./s", "parameters")
    return _table(
        heads,
        (
            (
                run.letter,
                marked("accuracy", run.number, f"{run.metrics.test.accuracy:.2%}"),
                "{:.2f}-{:.2f}%".format(*(100 * end for end in run.metrics.accuracy_interval)),
                marked("loss", run.number, f"{run.metrics.test.loss:.4f}"),
                marked("ece", run.number, f"{run.metrics.calibration.ece:.2%}"),
                f"{run.metrics.epochs}",
                f"{run.metrics.seconds.train:,.1f} s",
                f"{run.metrics.examples_per_second:,.0f}",
                f"{run.metrics.parameters:,}",
            )
            for run in comparison.runs
        ),
    )


def _groups(comparison: Comparison) -> Table:
    rows = (
        (group.letters, f"{group.mean:.2%}", f"{group.deviation:.2%}")
        for group in comparison.groups
    )
    return _table(("", "mean accuracy", "standard deviation"), rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Lays out rows below their heads; without heads, they are words, else figures."""
    from rich.table import Table

    figures = any(heads)
    gap = (0, 1 if figures else 2, 0, 0)
    table = Table(box=None, padding=gap, pad_edge=False, show_header=figures)
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if figures and number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
