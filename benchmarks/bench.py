"""Compares this program with plain Keras 3 and PyTorch on this machine; writes RESULTS.md.

    make bench                      # three repeats; some 40 minutes on 2 cores
    .venv/bin/python -m benchmarks.bench --repeats 1 --tiny

Each run is a process. The programs alternate, so that other load on the machine affects them all.
Prints medians with minimum and maximum in brackets. PyTorch runs in the environment of
--torch-python; without it, its rows are missing.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.metadata
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("RESULTS.md")
MARK = "<!-- make bench writes all below -->\n"

PRECISIONS = ("float32", "bfloat16")
ACCURACY = 99.4
REFERENCE = "reference cnn, 12 epochs, Keras fit"
RECIPE = "cnn_fast, as in `make train`"
KERAS, TORCH = "benchmarks.peers.keras_fit", "benchmarks.peers.torch_fit"

Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--torch-python", help="Python with torch and numpy")
    parser.add_argument(
        "--tiny", action="store_true", help="use a hundredth of the data, one epoch"
    )
    parser.add_argument(
        "--only", nargs="+", default=[""], help="beginnings of names of programs to run"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--write-data", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write_data:
        write_data(options.write_data, tiny=options.tiny)
        return
    with tempfile.TemporaryDirectory() as folder:
        lines = report(options, Path(folder))
    text = options.results.read_text() if options.results.exists() else MARK
    options.results.write_text(text.partition(MARK)[0] + MARK + "\n" + "\n".join(lines) + "\n")
    print("\n".join(lines))


def report(options: argparse.Namespace, folder: Path) -> list[str]:
    """Returns the lines of the tables."""
    # In a process: the peak memory of a child process includes that of its parent at the fork.
    write = [sys.executable, "-m", "benchmarks.bench", "--write-data", str(folder)]
    subprocess.run([*write, *(["--tiny"] if options.tiny else [])], cwd=ROOT, check=True)
    epochs = (lambda count: 1) if options.tiny else (lambda count: count)
    programs: dict[str, Callable[[], Figures]] = {}
    counts = {"mlp": 4, "sentiment": 6, "cnn": 2, "cnn_fast": 2}
    for name, count in counts.items():
        arguments = [name, str(data_of(folder, name)), str(epochs(count))]
        if name != "cnn_fast":
            programs[f"{name}, Keras fit"] = peer([sys.executable, "-m", KERAS, *arguments])
        for precision in PRECISIONS:
            programs[f"{name}, trainer, {precision}"] = trainer_job(
                folder, name, epochs(count), precision
            )
        layouts = ("default", "channels_last") if "cnn" in name else ("default",)
        for layout, precision in itertools.product(layouts, PRECISIONS):
            if options.torch_python:
                programs[f"{name}, PyTorch, {layout}, {precision}"] = peer(
                    [options.torch_python, "-m", TORCH, *arguments, layout, precision]
                )
    programs[RECIPE] = trainer_job(folder, "cnn_fast", epochs(1), "auto")
    arguments = ["cnn", str(data_of(folder, "cnn")), str(epochs(12))]
    programs[REFERENCE] = peer([sys.executable, "-m", KERAS, *arguments])
    prefixes = tuple(options.only)
    programs = {name: run for name, run in programs.items() if name.startswith(prefixes)}
    figures: dict[str, list[Figures]] = {name: [] for name in programs}
    for number in range(options.repeats):
        for name, run in programs.items():
            figures[name].append(run())
            print(f"{number + 1}/{options.repeats} {name}: {figures[name][-1]}", file=sys.stderr)
    lines = heading(options, folder)
    lines += [
        "| program | s per epoch | examples/s | total s | test accuracy, % | peak memory, MB |"
    ]
    lines += ["|---|---|---|---|---|---|"]
    for name, runs in figures.items():
        keys = ("epoch", "speed", "total", "accuracy", "peak_mb")
        cells = [spread(runs, key) for key in keys]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| ratio of the medians | seconds per epoch | total seconds |", "|---|---|---|"]
    pairs = []
    for name, precision in itertools.product(counts, PRECISIONS):
        peers = [
            other
            for other in programs
            if other == f"{name}, Keras fit"
            or (other.startswith(f"{name}, PyTorch") and other.endswith(precision))
        ]
        pairs += [(f"{name}, trainer, {precision}", other) for other in peers]
    pairs.append((RECIPE, REFERENCE))
    for one, other in pairs:
        if not {one, other} <= figures.keys():
            continue
        ratios = [
            median(figures[one], key) / median(figures[other], key) for key in ("epoch", "total")
        ]
        lines.append(f"| {one} / {other} | {ratios[0]:.2f} | {ratios[1]:.3f} |")
    lines += ["", f"| time to {ACCURACY} % | total s |", "|---|---|"]
    for name, runs in figures.items():
        if "cnn" in name:
            seconds = [each["total"] for each in runs if each["accuracy"] >= ACCURACY]
            median_s = f"{statistics.median(seconds):.2f}, " if seconds else ""
            lines.append(f"| {name} | {median_s}reached {len(seconds)} of {len(runs)} times |")
    lines += ["", "| start-up | seconds |", "|---|---|"]
    for name, seconds in start_up(options.repeats, folder).items():
        lines.append(f"| {name} | {statistics.median(seconds):.2f} |")
    return lines


def heading(options: argparse.Namespace, folder: Path) -> list[str]:
    device = json.loads((folder / "run" / "metrics.json").read_text())["device"]
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("tensorflow", "keras", "numpy")
    )
    if options.torch_python:
        command = [options.torch_python, "-c", "import torch; print('torch', torch.__version__)"]
        versions += ", " + subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return [
        f"{datetime.date.today()}; {device}; {versions}; "
        f"medians of {options.repeats}, (minimum, maximum).",
        "",
    ]


def write_data(folder: Path, *, tiny: bool) -> None:
    """Writes the shipped data as .npz for the other programs; texts as word counts."""
    from trainer import models
    from trainer.config import DataOptions
    from trainer.data import loader
    from trainer.engine.features import FeatureExtractor

    for name in ("mnist", "movie_reviews"):
        data = loader.load(DataOptions(data=name, seed=0))
        step = 100 if tiny else 1
        if name == "mnist":
            examples = [split.examples[::step, ..., 0] for split in (data.train, data.test)]
        else:
            model = models.build(
                models.find("sentiment"), data.spec, learning_rate=0.1, steps=1, seed=0
            )
            features = FeatureExtractor(model)
            examples = [features.extract(split)[::step] for split in (data.train, data.test)]
        labels = [split.labels[::step] for split in (data.train, data.test)]
        arrays = dict(
            zip(("x_train", "x_test", "y_train", "y_test"), examples + labels, strict=True)
        )
        np.savez(folder / f"{name}.npz", **arrays)


def data_of(folder: Path, name: str) -> Path:
    return folder / ("movie_reviews.npz" if name == "sentiment" else "mnist.npz")


def peer(command: list[str]) -> Callable[[], Figures]:
    """Returns a function that runs a peer, which prints its measurements as JSON."""

    def run() -> Figures:
        process = execute(command)
        printed = json.loads(process.stdout.splitlines()[-1])
        return figures_of(printed["epochs"], printed["examples"], process, printed["accuracy"])

    return run


def trainer_job(folder: Path, name: str, epochs: int, precision: str) -> Callable[[], Figures]:
    """Returns a function that runs the job and reads the measurements from its run directory."""
    data = "movie_reviews" if name == "sentiment" else str(folder / "mnist.npz")

    def run() -> Figures:
        out = folder / "run"
        command = [sys.executable, "-m", "trainer.task", f"--model={name}", f"--data={data}"]
        command += [f"--precision={precision}", f"--epochs={epochs}", f"--out={out}"]
        process = execute([*command, "--overwrite"])
        rows = list(csv.DictReader((out / "history.csv").open()))
        metrics = json.loads((out / "metrics.json").read_text())
        seconds = [float(row["seconds"]) for row in rows]
        examples = float(rows[0]["examples_per_second"]) * seconds[0]
        return figures_of(seconds, examples, process, metrics["test"]["accuracy"])

    return run


class FinishedProcess:
    """Output, duration and peak memory of a finished process."""

    def __init__(self, stdout: str, seconds: float, peak_mb: float) -> None:
        self.stdout, self.seconds, self.peak_mb = stdout, seconds, peak_mb


def figures_of(
    epochs: list[float], examples: float, process: FinishedProcess, accuracy: float
) -> Figures:
    # The first epoch includes compilation: use the later ones, if there are any.
    epoch = statistics.median(epochs[1:] or epochs)
    return {
        "epoch": epoch,
        "speed": examples / epoch,
        "total": process.seconds,
        "accuracy": 100 * accuracy,
        "peak_mb": process.peak_mb,
    }


def execute(command: list[str]) -> FinishedProcess:
    """Runs a program and measures it from outside, imports included."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    started = time.perf_counter()
    process: Any = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    stdout = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return FinishedProcess(stdout, time.perf_counter() - started, usage.ru_maxrss / 1024)


def start_up(repeats: int, folder: Path) -> dict[str, list[float]]:
    """Returns seconds until training starts, of --help, and of the import of TensorFlow alone."""
    few = folder / "few.npz"
    with np.load(folder / "mnist.npz") as data:
        np.savez(few, **{name: data[name][:200] for name in data})
    job = [sys.executable, "-m", "trainer.task", "--model=mlp", f"--data={few}", "--epochs=1"]
    job += [f"--out={folder / 'few'}", "--overwrite"]
    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, command in {
            "import tensorflow": [sys.executable, "-c", "import tensorflow"],
            "--help": [sys.executable, "-m", "trainer.task", "--help"],
        }.items():
            seconds.setdefault(name, []).append(execute(command).seconds)
        execute(job)
        stages = json.loads((folder / "few" / "metrics.json").read_text())["seconds"]
        until = sum(stages[stage] for stage in ("data", "import", "build"))
        seconds.setdefault("trainer, until training starts", []).append(until)
    return seconds


def spread(runs: list[Figures], key: str) -> str:
    values = [figures[key] for figures in runs]
    digits = 0 if key in ("peak_mb", "speed") else 2
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f}, {high:.{digits}f})"


def median(runs: list[Figures], key: str) -> float:
    return statistics.median(figures[key] for figures in runs)


if __name__ == "__main__":
    main()
