"""`trainer compare RUN RUN ...`: compares finished runs, in the terminal and on an HTML page."""

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
from trainer.config.fields import FolderPath, HtmlPath, argument, option
from trainer.config.options import StorageOptions

if TYPE_CHECKING:
    from rich.console import JustifyMethod, RenderableType
    from rich.table import Table

    from trainer.reports.comparison import Comparison, Difference

_MAX_RUNS = 26  # Each run is named by a letter.
_MAX_WIDTH = 100  # Columns of the terminal; longer lines are hard to read.


def _check_runs(paths: tuple[str, ...]) -> tuple[str, ...]:
    if not 2 <= len(paths) <= _MAX_RUNS:
        raise ValueError(f"found {len(paths)}, expected 2 to {_MAX_RUNS} run directories")
    real_paths = [path if storage.is_remote(path) else os.path.realpath(path) for path in paths]
    ((real_path, count),) = Counter(real_paths).most_common(1)
    if count > 1:
        raise ValueError(
            f"found {paths[real_paths.index(real_path)]} {count} times, expected each run once"
        )
    return paths


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class CompareOptions(StorageOptions):
    """The options of `trainer compare`."""

    runs: Annotated[tuple[FolderPath, ...], AfterValidator(_check_runs)] = argument(
        f"Finished run directories, local or gs://bucket/path, 2 to {_MAX_RUNS}. The others are "
        "compared with the first."
    )
    out: HtmlPath = option(
        "comparison.html",
        "HTML page to write, local or gs://. Replaces an earlier comparison page.",
    )


def main(arguments: Sequence[str], *, program: str) -> None:
    """Prints the tables, writes the page, and prints the path of the page."""
    with command_line.exit_codes(program, arguments):
        options = command_line.parse(
            CompareOptions,
            arguments,
            program=program,
            summary="Compares finished runs: settings, test results, and McNemar's test of whether "
            "the accuracies differ by more than chance.",
        )
        from trainer.reports import comparison, comparison_page, pages

        pages.check_replaceable(options.out)
        result = comparison.compare(
            [comparison.read(run, number) for number, run in enumerate(options.runs)]
        )
        _print(result)
        storage.write_text(options.out, comparison_page.page(result))
        print(options.out)


def _print(comparison: Comparison) -> None:
    import rich.console

    from trainer.reports import comparison_text

    # Names and values of a run may look like markup; print them as they are.
    console = rich.console.Console(markup=False, emoji=False, highlight=False)
    console.width = min(console.width, _MAX_WIDTH)

    def section(title: str, *contents: RenderableType) -> None:
        console.print()
        console.print(title, style="bold")
        for content in contents:
            console.print(content)

    console.print(_names(comparison))
    section("Settings that differ", _differences(comparison.settings))
    if comparison.origins:
        section("Other differences", _differences(comparison.origins))
    best = "* best value; " if any(comparison.best.values()) else ""
    section("Test and training", _metrics(comparison), f"{best}ECE: expected calibration error")
    if comparison.groups:
        section("Same recipe, different seeds", _groups(comparison))
    section("Is the difference more than chance?")
    for pair in comparison.pairs:
        console.print(comparison_text.verdict(pair), style="bold")
        console.print(comparison_text.reason(pair, tests=comparison.tests))
        console.print()
    for caution in comparison_text.cautions(comparison):
        console.print(caution)
        console.print()
    sys.stdout.flush()


def _names(comparison: Comparison) -> Table:
    return _table(("", "", ""), ((run.letter, run.title, run.path) for run in comparison.runs))


def _differences(differences: Sequence[Difference]) -> RenderableType:
    """Returns a row per difference: each value behind the letters of the runs that have it."""
    if not differences:
        return "none that affects the result"
    rows = (
        (each.name, "   ".join(f"{letters} {value}" for value, letters in each.values))
        for each in differences
    )
    return _table(("", ""), rows)


def _metrics(comparison: Comparison) -> Table:
    best = comparison.best

    def mark_best(metric: str, number: int, text: str) -> str:
        return text + (" *" if number in best[metric] else "  ")

    headings = ("", "accuracy", "95 %", "loss", "ECE", "epochs", "training", "ex./s", "parameters")
    return _table(
        headings,
        (
            (
                run.letter,
                mark_best("accuracy", run.number, f"{run.metrics.test.accuracy:.2%}"),
                "{:.2f}-{:.2f}%".format(*(100 * end for end in run.metrics.accuracy_interval)),
                mark_best("loss", run.number, f"{run.metrics.test.loss:.4f}"),
                mark_best("ece", run.number, f"{run.metrics.calibration.ece:.2%}"),
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


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Returns a table of numbers with headings, or of texts if all headings are empty."""
    from rich.table import Table

    numeric = any(headings)
    gap = (0, 1 if numeric else 2, 0, 0)
    table = Table(box=None, padding=gap, pad_edge=False, show_header=numeric)
    for number, heading in enumerate(headings):
        justify: JustifyMethod = "right" if numeric and number else "left"
        table.add_column(heading, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
