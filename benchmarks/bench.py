"""Side by side on this machine: this program, plain Keras 3 and PyTorch; writes RESULTS.md.

    make bench                      # three repeats; some 40 minutes on 2 cores
    .venv/bin/python -m benchmarks.bench --repeats 1 --tiny

Every run is a process of its own; the programs alternate, so that what else the machine does meets
them all. Prints medians and, in brackets, the least and greatest. PyTorch runs in the environment
named by --torch-python; without it those rows are left out.
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
SEED = "the seed's cnn, 12 epochs, Keras fit"
RECIPE = "cnn_fast, as `make train` has it"
KERAS, TORCH = "benchmarks.peers.keras_fit", "benchmarks.peers.torch_fit"

Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--torch-python", help="a Python with torch and numpy")
    parser.add_argument("--tiny", action="store_true", help="a hundredth of the data, one epoch")
    parser.add_argument("--only", nargs="+", default=[""], help="how names of programs begin")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--write-data", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write_data:
        write_data(options.write_data, tiny=options.tiny)
        return
    with tempfile.TemporaryDirectory() as place:
        lines = report(options, Path(place))
    text = options.results.read_text() if options.results.exists() else MARK
    options.results.write_text(text.partition(MARK)[0] + MARK + "\n" + "\n".join(lines) + "\n")
    print("\n".join(lines))


def report(options: argparse.Namespace, place: Path) -> list[str]:
    """Returns the lines of the tables."""
    # By a process of its own: a program is charged with the memory of the one it was started by.
    write = [sys.executable, "-m", "benchmarks.bench", "--write-data", str(place)]
    subprocess.run([*write, *(["--tiny"] if options.tiny else [])], cwd=ROOT, check=True)
    epochs = (lambda count: 1) if options.tiny else (lambda count: count)
    programs: dict[str, Callable[[], Figures]] = {}
    counts = {"mlp": 4, "sentiment": 6, "cnn": 2, "cnn_fast": 2}
    for name, count in counts.items():
        arguments = [name, str(data_of(place, name)), str(epochs(count))]
        if name != "cnn_fast":
            programs[f"{name}, Keras fit"] = printed([sys.executable, "-m", KERAS, *arguments])
        for precision in PRECISIONS:
            programs[f"{name}, trainer, {precision}"] = ours(place, name, epochs(count), precision)
        layouts = ("default", "channels_last") if "cnn" in name else ("default",)
        for layout, precision in itertools.product(layouts, PRECISIONS):
            if options.torch_python:
                programs[f"{name}, PyTorch, {layout}, {precision}"] = printed(
                    [options.torch_python, "-m", TORCH, *arguments, layout, precision]
                )
    programs[RECIPE] = ours(place, "cnn_fast", epochs(1), "auto")
    arguments = ["cnn", str(data_of(place, "cnn")), str(epochs(12))]
    programs[SEED] = printed([sys.executable, "-m", KERAS, *arguments])
    chosen = tuple(options.only)
    programs = {name: run for name, run in programs.items() if name.startswith(chosen)}
    figures: dict[str, list[Figures]] = {name: [] for name in programs}
    for number in range(options.repeats):
        for name, run in programs.items():
            figures[name].append(run())
            print(f"{number + 1}/{options.repeats} {name}: {figures[name][-1]}", file=sys.stderr)
    lines = heading(options, place)
    lines += [
        "| program | s an epoch | examples/s | s in all | test accuracy, % | peak memory, MB |"
    ]
    lines += ["|---|---|---|---|---|---|"]
    for name, found in figures.items():
        keys = ("epoch", "speed", "total", "accuracy", "peak_mb")
        cells = [spread(found, key) for key in keys]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| ratio, of the medians | seconds an epoch | seconds in all |", "|---|---|---|"]
    pairs = []
    for name, precision in itertools.product(counts, PRECISIONS):
        peers = [
            other
            for other in programs
            if other == f"{name}, Keras fit"
            or (other.startswith(f"{name}, PyTorch") and other.endswith(precision))
        ]
        pairs += [(f"{name}, trainer, {precision}", other) for other in peers]
    pairs.append((RECIPE, SEED))
    for one, other in pairs:
        if not {one, other} <= figures.keys():
            continue
        ratios = [
            median(figures[one], key) / median(figures[other], key) for key in ("epoch", "total")
        ]
        lines.append(f"| {one} / {other} | {ratios[0]:.2f} | {ratios[1]:.3f} |")
    lines += ["", f"| time to {ACCURACY} % | s in all |", "|---|---|"]
    for name, found in figures.items():
        if "cnn" in name:
            reached = [each["total"] for each in found if each["accuracy"] >= ACCURACY]
            middle = f"{statistics.median(reached):.2f}, " if reached else ""
            lines.append(f"| {name} | {middle}reached {len(reached)} of {len(found)} times |")
    lines += ["", "| start-up | seconds |", "|---|---|"]
    for name, found in start_up(options.repeats, place).items():
        lines.append(f"| {name} | {statistics.median(found):.2f} |")
    return lines


def heading(options: argparse.Namespace, place: Path) -> list[str]:
    device = json.loads((place / "run" / "metrics.json").read_text())["device"]
    versions = ", ".join(
        f"{name} {importlib.metadata.generation(name)}" for name in ("tensorflow", "keras", "numpy")
    )
    if options.torch_python:
        asked = [options.torch_python, "-c", "import torch; print('torch', torch.__version__)"]
        versions += ", " + subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    return [
        f"{datetime.date.today()}; {device}; {versions}; "
        f"medians of {options.repeats}, (least, greatest).",
        "",
    ]


def write_data(place: Path, *, tiny: bool) -> None:
    """Writes the shipped data as arrays, for programs that cannot read it; words as counts."""
    from trainer import models
    from trainer.config import DataOptions
    from trainer.data import loader
    from trainer.engine.features import FeatureExtractor

    for name in ("mnist", "movie_reviews"):
        data = loader.load(DataOptions(data=name, seed=0))
        step = 100 if tiny else 1
        if name == "mnist":
            parts = [split.examples[::step, ..., 0] for split in (data.train, data.test)]
        else:
            model = models.build(
                models.find("sentiment"), data.spec, learning_rate=0.1, steps=1, seed=0
            )
            features = FeatureExtractor(model)
            parts = [features.extract(split)[::step] for split in (data.train, data.test)]
        labels = [split.labels[::step] for split in (data.train, data.test)]
        arrays = dict(zip(("x_train", "x_test", "y_train", "y_test"), parts + labels, strict=True))
        np.savez(place / f"{name}.npz", **arrays)


def data_of(place: Path, name: str) -> Path:
    return place / ("movie_reviews.npz" if name == "sentiment" else "mnist.npz")


def printed(command: list[str]) -> Callable[[], Figures]:
    """Runs a peer, which prints what it measured."""

    def run() -> Figures:
        done = execute(command)
        said = json.loads(done.stdout.splitlines()[-1])
        return figures_of(said["epochs"], said["examples"], done, said["accuracy"])

    return run


def ours(place: Path, name: str, epochs: int, precision: str) -> Callable[[], Figures]:
    """Runs the job as a user does; what it measured is in its run directory."""
    data = "movie_reviews" if name == "sentiment" else str(place / "mnist.npz")

    def run() -> Figures:
        out = place / "run"
        command = [sys.executable, "-m", "trainer.task", f"--model={name}", f"--data={data}"]
        command += [f"--precision={precision}", f"--epochs={epochs}", f"--out={out}"]
        done = execute([*command, "--overwrite"])
        rows = list(csv.DictReader((out / "history.csv").open()))
        metrics = json.loads((out / "metrics.json").read_text())
        seconds = [float(row["seconds"]) for row in rows]
        examples = float(rows[0]["examples_per_second"]) * seconds[0]
        return figures_of(seconds, examples, done, metrics["test"]["accuracy"])

    return run


class Done:
    def __init__(self, stdout: str, seconds: float, peak_mb: float) -> None:
        self.stdout, self.seconds, self.peak_mb = stdout, seconds, peak_mb


def figures_of(epochs: list[float], examples: float, done: Done, accuracy: float) -> Figures:
    # Later epochs, where there are any: the first one compiles.
    epoch = statistics.median(epochs[1:] or epochs)
    return {
        "epoch": epoch,
        "speed": examples / epoch,
        "total": done.seconds,
        "accuracy": 100 * accuracy,
        "peak_mb": done.peak_mb,
    }


def execute(command: list[str]) -> Done:
    """Runs a program to its end, and measures it from outside, imports included."""
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
    return Done(stdout, time.perf_counter() - started, usage.ru_maxrss / 1024)


def start_up(repeats: int, place: Path) -> dict[str, list[float]]:
    """Measures from exec to the first step, beside the import of TensorFlow alone."""
    few = place / "few.npz"
    with np.load(place / "mnist.npz") as data:
        np.savez(few, **{name: data[name][:200] for name in data})
    job = [sys.executable, "-m", "trainer.task", "--model=mlp", f"--data={few}", "--epochs=1"]
    job += [f"--out={place / 'few'}", "--overwrite"]
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, command in {
            "import tensorflow": [sys.executable, "-c", "import tensorflow"],
            "--help": [sys.executable, "-m", "trainer.task", "--help"],
        }.items():
            found.setdefault(name, []).append(execute(command).seconds)
        execute(job)
        seconds = json.loads((place / "few" / "metrics.json").read_text())["seconds"]
        until = sum(seconds[stage] for stage in ("data", "import", "build"))
        found.setdefault("trainer, until training begins", []).append(until)
    return found


def spread(found: list[Figures], key: str) -> str:
    values = [figures[key] for figures in found]
    digits = 0 if key in ("peak_mb", "speed") else 2
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f}, {high:.{digits}f})"


def median(found: list[Figures], key: str) -> float:
    return statistics.median(figures[key] for figures in found)


if __name__ == "__main__":
    main()
