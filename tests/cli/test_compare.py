"""`trainer compare`: its output on the terminal, and its page in a real browser."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser import check_page, open_page
from tests.kills import ROOT
from tests.reports.test_comparison import predictions, run
from trainer import storage
from trainer.cli import main
from trainer.reports import comparison, comparison_page
from trainer.runs import filenames

HOSTILE = "<script>document.title='run'</script>[bold]\x1b[31m"


def run_compare(*arguments: object) -> object:
    """Runs the command, and returns the exit code."""
    with pytest.raises(SystemExit) as exit_info:
        main.main(["compare", *map(str, arguments)])
    return exit_info.value.code


@pytest.fixture(scope="module")
def other_run(shared_run: Callable[..., Path], digits: Path) -> Path:
    """The run directory of another mlp on the same data, read-only."""
    return shared_run("other", f"--data={digits}", "--model=mlp", "--epochs=2", "--seed=1")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, an empty one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def correct_predictions(run: Path) -> list[bool]:
    """Returns for each test example whether the run predicted it correctly."""
    with (run / filenames.PREDICTIONS).open(newline="") as file:
        return [row["class"] == row["predicted"] for row in csv.DictReader(file)]


def copy_with_changes(run: Path, to: Path, changes: dict[str, str]) -> Path:
    """Copies a run with other content of some files, and a manifest that matches them."""
    shutil.copytree(run, to)
    manifest = json.loads((to / filenames.MANIFEST).read_text())
    for entry in manifest["files"]:
        if entry["name"] in changes:
            content = changes[entry["name"]].encode()
            (to / entry["name"]).write_bytes(content)
            entry["sha256"] = hashlib.sha256(content).hexdigest()
    (to / filenames.MANIFEST).write_text(json.dumps(manifest))
    return to


def test_two_runs_are_compared_on_the_terminal_and_on_the_page(
    finished_run: Path, other_run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_compare(finished_run, other_run) == 0
    lines = capsys.readouterr().out.splitlines()
    text = " ".join(" ".join(lines).split())
    pairs = list(
        zip(correct_predictions(finished_run), correct_predictions(other_run), strict=True)
    )
    only_a, only_b = pairs.count((True, False)), pairs.count((False, True))
    assert f"B alone is correct on {only_b} and A alone on {only_a}" in text
    assert f"Of {len(pairs)} common test examples" in text
    assert "--epochs A 3 B 2 --seed A 0 B 1" in text
    for each in (finished_run, other_run):
        assert (
            f"{json.loads((each / filenames.METRICS).read_text())['test']['accuracy']:.2%}" in text
        )
    assert max(map(len, lines[3:])) <= 80
    assert lines[-1] == "comparison.html"
    page = (here / "comparison.html").read_text()
    assert f"B alone is correct on {only_b} and A alone on {only_a}" in page
    assert run_compare(finished_run, other_run) == 0  # Replaces its own earlier page.


def test_runs_and_the_page_may_be_in_a_bucket(
    finished_run: Path, other_run: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [
        filenames.MANIFEST,
        filenames.CONFIG,
        filenames.METRICS,
        filenames.HISTORY,
        filenames.PREDICTIONS,
    ]
    storage.write_all(storage.folder(f"{bucket}/run"), {name: other_run / name for name in files})
    assert run_compare(finished_run, f"{bucket}/run", "--out", f"{bucket}/pages/c.html") == 0
    assert capsys.readouterr().out.endswith(f"{bucket}/pages/c.html\n")
    assert b"2 runs" in storage.read(f"{bucket}/pages/c.html")


def test_it_does_not_import_tensorflow(finished_run: Path, other_run: Path, here: Path) -> None:
    program = (
        "import sys, atexit; from trainer.cli import main;"
        "heavy = ('tensorflow', 'keras', 'google.cloud.storage', 'scipy.stats');"
        "atexit.register(lambda: print([m for m in heavy if m in sys.modules], file=sys.stderr));"
        f"main.main(['compare', {str(finished_run)!r}, {str(other_run)!r}])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=here, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "[]\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing RUNS"),
        (["{run}"], "RUNS: found 1, expected 2 to 26 run directories"),
        (["{run}", "{run}/../{name}"], "RUNS: found {run} 2 times, expected each run once"),
        (["{run}", "none"], "none: no manifest.json there, expected a finished run"),
        (
            ["{run}", "{other}", "--out", "notes.html"],
            "exists and is not a page",
        ),
        (["{run}", "{other}", "--out", "page"], "--out: found 'page', expected a name that ends"),
        (["{run}", "{other}", "--out", "gs://page.html"], "expected gs://bucket/path of a file"),
        (["{run}", "{other}", "--overwrite"], "Unknown flag '--overwrite'"),
        (["{run}", "--", "--x"], "--x: no manifest.json there, expected a finished run"),
    ],
)
def test_a_usage_error_is_one_line(
    finished_run: Path,
    other_run: Path,
    here: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / "notes.html").write_text("mine")
    places = {"run": finished_run, "other": other_run, "name": finished_run.name}
    assert run_compare(*(argument.format(**places) for argument in arguments)) == 2
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert message.format(**places) in output.err
    assert [path.name for path in here.iterdir()] == ["notes.html"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({filenames.METRICS: "{}"}, "its files do not describe a run: 'test'"),
        ({filenames.METRICS: "[" * 100_000}, "its files do not describe a run"),
        ({filenames.CONFIG: "3"}, "found int, expected an object"),
        ({filenames.HISTORY: ""}, "history.csv: expected one row per epoch"),
        ({filenames.HISTORY: "epoch\nx\n"}, "its files do not describe a run"),
        ({filenames.PREDICTIONS: "a,b\n"}, "predictions.csv: damaged"),
    ],
)
def test_a_damaged_run_is_one_line(
    finished_run: Path,
    other_run: Path,
    here: Path,
    changes: dict[str, str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_compare(other_run, copy_with_changes(finished_run, here / "damaged", changes)) == 3
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert message in output.err


def test_a_file_that_differs_from_the_manifest_is_an_error(
    finished_run: Path, other_run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished_run, here / "run"))
    (run / filenames.HISTORY).write_text("epoch\n1\n")
    assert run_compare(run, other_run) == 3
    assert "history.csv: differs from the manifest" in capsys.readouterr().err


def test_markup_and_escapes_in_a_run_are_shown_as_text(
    finished_run: Path, other_run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((finished_run / filenames.CONFIG).read_text())
    hostile = copy_with_changes(
        finished_run,
        here / "[red]<b>",
        {filenames.CONFIG: json.dumps({**config, "model": HOSTILE, "more": [HOSTILE]})},
    )
    assert run_compare(hostile, other_run) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "<script>document.title='run'</script>[bold]" in "".join(out.split())
    page = (here / "comparison.html").read_text()
    assert "<script" not in page
    assert "[red]&lt;b&gt;" in page


@pytest.fixture(params=["two runs", "ten runs", "hostile"])
def page(
    request: pytest.FixtureRequest, tmp_path: Path, finished_run: Path, other_run: Path
) -> Path:
    if request.param == "two runs":
        runs = [comparison.read(str(run), n) for n, run in enumerate((finished_run, other_run))]
    elif request.param == "ten runs":
        runs = [
            run(n, predictions("1101" * n + "0110" * 9), seed=n % 5, epochs=n + 1)
            for n in range(10)
        ]
    else:
        rows = [(f"{n:016x}", HOSTILE, HOSTILE + "b" * 90 * (n % 2)) for n in range(60)]
        runs = [run(n, rows, model=HOSTILE * 3, data="d" * 200, seed=n) for n in range(2)]
    path = tmp_path / "comparison.html"
    path.write_text(comparison_page.page(comparison.compare(runs)), encoding="utf-8")
    return path


def test_the_page_loads_nothing_fits_is_readable_and_printable(
    browser: Browser, page: Path
) -> None:
    check_page(browser, page)
    shown = open_page(browser, page, [], color_scheme="dark")
    assert shown.title().startswith(("2 runs compared: ", "10 runs compared: "))
    shown.emulate_media(media="print", color_scheme="dark")
    shown.set_viewport_size({"width": 688, "height": 1000})  # A4 within its margins.
    assert shown.evaluate("document.documentElement.scrollWidth") <= 688
    background = "getComputedStyle(document.body).backgroundColor"
    assert shown.evaluate(background) == "rgb(255, 255, 255)"
    shown.close()
