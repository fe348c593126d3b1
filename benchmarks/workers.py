"""Compares the losses of the same training on 1, 2 and 4 workers, in tables and a chart.

    .venv/bin/python -m benchmarks.workers --chart benchmarks/workers.svg

Workers are processes on loopback with TF_CONFIG, or logical devices of one process, which stand for
several GPUs. Trains two networks on a part of MNIST: one without random layers, and one with batch
normalisation and dropout, which each worker computes on its share of the batch. Prints the loss of
each epoch, and the difference from one worker. For comparison, one worker also trains with the last
bit of each initial weight changed ("nudged").
"""

from __future__ import annotations

import argparse
import csv
import importlib.resources
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fitting import fit
from tests.kills import write_digits
from tests.workers import Team, team
from trainer.config import DataOptions
from trainer.models import Recipe

if TYPE_CHECKING:
    import keras

    from trainer.data.dataset import Spec

# Neither is divisible: the batch by 4 workers, the examples by the batch.
RECIPE = Recipe(batch_size=126, learning_rate=0.002)
SETTINGS = {"seed": 7, "validation_split": 0.2}  # As in tests/workers.py.
NETWORKS = {
    "plain": "no dropout, no batch normalisation",
    "usual": "both dropout and batch normalisation",
}
# Columns of history.csv that are compared.
FIGURES = ("loss", "val_loss")
WORKERS = ("1 worker", "2 devices", "4 devices", "2 workers", "4 workers", "1 nudged")
LETTERS = "ABCDEF"

Losses = list[list[float]]  # One row per epoch, with FIGURES.


def plain(spec: Spec) -> keras.Model:
    from keras import layers

    return _network(spec, [layers.Conv2D(8, 5, strides=2, activation="relu"), layers.Flatten()])


def usual(spec: Spec) -> keras.Model:
    from keras import layers

    convolution = layers.Conv2D(8, 5, strides=2, use_bias=False)
    normalised = [convolution, layers.BatchNormalization(), layers.ReLU(), layers.Flatten()]
    return _network(spec, [*normalised, layers.Dropout(0.3)])


def _network(spec: Spec, inner: list[keras.Layer]) -> keras.Model:
    import keras

    last = keras.layers.Dense(len(spec.classes), activation="softmax")
    first = [keras.Input(spec.shape, dtype=spec.dtype), keras.layers.Rescaling(1 / 255)]
    return keras.Sequential([*first, *inner, last])


def on_workers(workers: Team, network: str, count: int, options: argparse.Namespace) -> Losses:
    """Trains with `count` processes, each of which is a job."""
    workers.finish(
        f"benchmarks.workers:{network}", f"--out={network}{count}",
        f"--epochs={options.epochs}", f"--precision={options.precision}", workers=count,
    )  # fmt: skip
    with (workers.worker_folder(0) / f"{network}{count}" / "history.csv").open() as file:
        return [[float(row[name]) for name in FIGURES] for row in csv.DictReader(file)]


def on_devices(data: Path, network: str, count: int, options: argparse.Namespace) -> Losses:
    """Trains in a new process on `count` logical devices; with one device, weights are nudged."""
    command = [sys.executable, "-m", "benchmarks.workers", "--precision", options.precision]
    command += ["--epochs", str(options.epochs), "--once", network, str(count), str(data)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        sys.exit(process.stderr[-2000:])
    losses: Losses = json.loads(process.stdout.splitlines()[-1])
    return losses


def once(network: str, count: int, data: str, options: argparse.Namespace) -> Losses:
    """Trains as a job does, in this process."""
    import math

    import numpy as np
    import tensorflow as tf

    from trainer import models
    from trainer.data import loader
    from trainer.distributed.devices import Devices

    (processor,) = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * count
    tf.config.set_logical_device_configuration(processor, logical)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(count)])
    dataset = loader.load(DataOptions(data=data, **SETTINGS))
    steps = options.epochs * math.ceil(len(dataset.train) / RECIPE.batch_size)
    with strategy.scope():
        model = models.build(
            models.find(f"benchmarks.workers:{network}"), dataset.spec,
            learning_rate=RECIPE.learning_rate, steps=steps, seed=SETTINGS["seed"],
        )  # fmt: skip
    if count == 1:
        model.set_weights([np.nextafter(each, np.inf) for each in model.get_weights()])
    history = fit(
        model, dataset.train, dataset.validation, epochs=options.epochs,
        batch_size=RECIPE.batch_size, seed=SETTINGS["seed"],
        devices=Devices(strategy, options.precision),
    )  # fmt: skip
    return [[row[name] for name in FIGURES] for row in history]


def difference(losses: Losses, single: Losses) -> list[float]:
    """Returns the largest relative difference from the losses of one worker, for each epoch."""
    return [
        max(abs(a / b - 1) for a, b in zip(*rows, strict=True))
        for rows in zip(losses, single, strict=True)
    ]


def table(runs: Mapping[str, Losses]) -> str:
    """Returns a table of the training losses by epoch, with the largest differences below."""
    lines = [f"| epoch | {' | '.join(runs)} |", "|---" * (1 + len(runs)) + "|"]
    for epoch, rows in enumerate(zip(*runs.values(), strict=True), 1):
        lines.append(f"| {epoch} | {' | '.join(f'{row[0]:.8f}' for row in rows)} |")
    single = next(iter(runs.values()))
    for until in sorted({min(3, len(single)), len(single)}):
        differences = [max(difference(each, single)[:until]) for each in runs.values()]
        cells = " | ".join(f"{each:.1e}" for each in differences)
        lines.append(f"| differs by, {until} epochs | {cells} |")
    return "\n".join(lines)


def chart(runs: Mapping[str, Mapping[str, Losses]]) -> str:
    """Returns an SVG with loss curves of each network, and their differences on a log scale.

    Args:
        runs: losses by network and workers; a single worker comes first.
    """
    from trainer.reports import charts

    width, height, head = 350, 190, 46
    workers = list(next(iter(runs.values())))
    elements = []
    for row, (network, losses) in enumerate(runs.items()):
        top = head + row * (height + head)
        single = losses[workers[0]]
        curves, differences = [], []
        for number, name in enumerate(workers):
            epochs = range(1, 1 + len(single))
            series = {"letter": LETTERS[number], "number": number, "epochs": epochs}
            values = [row[0] for row in losses[name]]
            curves.append(charts.Series(**series, values=values))
            if number:
                values = difference(losses[name], single)
                differences.append(charts.Series(**series, values=values))
        titles = (f"Loss by epoch, {NETWORKS[network]}", "Relative difference from A")
        svgs = (
            charts.overlaid_curves(curves, from_zero=True),
            charts.overlaid_curves(differences, logarithmic=True),
        )
        for column, (title, svg) in enumerate(zip(titles, svgs, strict=True)):
            left = column * width
            elements.append(f"<text x='{left + 4}' y='{top - 6}'>{title}</text>")
            position = f"<svg x='{left}' y='{top}' width='{width}' height='{height}' "
            elements.append(svg.replace("<svg ", position, 1))
    legend = "".join(
        f"<tspan dx='14' fill='var(--run-{number})'>●</tspan> {letter} {name}"
        for number, (letter, name) in enumerate(zip(LETTERS, workers, strict=False))
    )
    view_box = f"0 0 {2 * width} {len(runs) * (height + head) + 8}"
    return (
        "<svg xmlns='http://www.w3.org/2000/svg' xmlns:xlink='http://www.w3.org/1999/xlink' "
        f"viewBox='{view_box}' width='900' role='img'>"
        f"<title>Losses of 1, 2 and 4 workers</title><style>{_style()}</style>"
        f"<rect width='100%' height='100%' fill='var(--paper)'/>"
        f"<text x='-10' y='16'>{legend}</text>{''.join(elements)}</svg>\n"
    )


def _style() -> str:
    """Returns CSS with the colours of the HTML pages, light and dark."""
    folder = importlib.resources.files("trainer.reports")
    sheets = [folder.joinpath(f"{name}.html.jinja").read_text() for name in ("page", "comparison")]
    light: dict[str, str] = {}
    dark: dict[str, str] = {}
    for name, colour in re.findall(r"(--[\w-]+): (#\w{6});", "".join(sheets)):
        (dark if name in light else light)[name] = colour
    rules = [
        ";".join(f"{name}:{colour}" for name, colour in each.items()) for each in (light, dark)
    ]
    return (
        f":root{{{rules[0]}}}@media (prefers-color-scheme:dark){{:root{{{rules[1]}}}}}"
        "text{font-family:system-ui,sans-serif;font-size:12px;fill:var(--ink)}"
    )


def train_all(options: argparse.Namespace) -> dict[str, dict[str, Losses]]:
    """Returns the losses of each network on each number of workers."""
    losses: dict[str, dict[str, Losses]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = write_digits(Path(folder) / "digits", options.examples)
        (Path(folder) / "workers").mkdir()
        with team(Path(folder) / "workers", data) as workers:
            for network in NETWORKS:
                runs = losses[network] = {}
                for name in options.workers:
                    count, kind = int(name.split()[0]), name.split()[1]
                    if kind in ("worker", "workers"):
                        runs[name] = on_workers(workers, network, count, options)
                    else:
                        runs[name] = on_devices(data, network, count, options)
    return losses


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--examples", type=int, default=5000, help="number of examples; a fifth is for validation"
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--precision", default="float32")
    parser.add_argument(
        "--workers", nargs="+", choices=WORKERS, default=WORKERS, help="a single worker first"
    )
    parser.add_argument("--chart", type=Path, help="SVG file to write")
    parser.add_argument("--once", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.once:
        network, count, data = options.once
        print(json.dumps(once(network, int(count), data, options)))
        return
    losses = train_all(options)
    for network, runs in losses.items():
        print(f"\n{NETWORKS[network].capitalize()}:\n\n{table(runs)}", flush=True)
    if options.chart is not None:
        options.chart.write_text(chart(losses), encoding="utf-8")


if __name__ == "__main__":
    main()
