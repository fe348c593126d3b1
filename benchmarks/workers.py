"""The same training on 1, 2 and 4 workers: what the losses have in common, as a table and a chart.

    .venv/bin/python -m benchmarks.workers --chart docs/workers.svg

Workers are processes that TF_CONFIG tells of each other (workers), on loopback, or logical devices of
one process (devices), which stand for several GPUs. Trains two networks on some of MNIST: one with
nothing random in it, and one with what each worker does on its microbatch_size, batch normalisation and
dropout. Prints the loss of each epoch, and how far those of several workers are from those of one;
and to compare that with, those of one worker whose first weights were changed by their last bit.
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

# A batch that neither 4 workers nor the examples can be divided by.
RECIPE = Recipe(batch_size=126, learning_rate=0.002)
SETTINGS = {"seed": 7, "validation": 0.2}  # As tests/workers.py gives them to its teams.
NETWORKS = {
    "plain": "no dropout, no batch normalisation",
    "usual": "both dropout and batch normalisation",
}
# What of a run is compared, by its name in history.csv.
FIGURES = ("loss", "val_loss")
WORKERS = ("1 worker", "2 devices", "4 devices", "2 workers", "4 workers", "1 nudged")
LETTERS = "ABCDEF"

Losses = list[list[float]]  # A row an epoch, of FIGURES.


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
    """Trains with so many processes, each of which is a job of a user's; one is alone."""
    workers.finish(
        f"benchmarks.workers:{network}", f"--out={network}{count}",
        f"--epochs={options.epochs}", f"--precision={options.precision}", workers=count,
    )  # fmt: skip
    with (workers.place(0) / f"{network}{count}" / "history.csv").open() as file:
        return [[float(row[name]) for name in FIGURES] for row in csv.DictReader(file)]


def on_devices(data: Path, network: str, count: int, options: argparse.Namespace) -> Losses:
    """Trains on so many logical devices, which are made before TensorFlow starts; one is nudged."""
    command = [sys.executable, "-m", "benchmarks.workers", "--precision", options.precision]
    command += ["--epochs", str(options.epochs), "--once", network, str(count), str(data)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    losses: Losses = json.loads(done.stdout.splitlines()[-1])
    return losses


def once(network: str, count: int, data: str, options: argparse.Namespace) -> Losses:
    """Does the same as a job, in this process."""
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
    read = loader.load(DataOptions(data=data, **SETTINGS))
    steps = options.epochs * math.ceil(len(read.train) / RECIPE.batch_size)
    with strategy.scope():
        model = models.build(
            models.find(f"benchmarks.workers:{network}"), read.spec,
            learning_rate=RECIPE.learning_rate, steps=steps, seed=SETTINGS["seed"],
        )  # fmt: skip
    if count == 1:
        model.set_weights([np.nextafter(each, np.inf) for each in model.get_weights()])
    history = fit(
        model, read.train, read.validation, epochs=options.epochs,
        batch_size=RECIPE.batch_size, seed=SETTINGS["seed"],
        devices=Devices(strategy, options.precision),
    )  # fmt: skip
    return [[row[name] for name in FIGURES] for row in history]


def difference(losses: Losses, alone: Losses) -> list[float]:
    """Returns by how much an epoch's figures differ from those of one worker, as a part of these.

    The greatest of an epoch's.
    """
    return [
        max(abs(a / b - 1) for a, b in zip(*rows, strict=True))
        for rows in zip(losses, alone, strict=True)
    ]


def table(runs: Mapping[str, Losses]) -> str:
    """Returns the training losses by epoch, and below the greatest difference so far."""
    lines = [f"| epoch | {' | '.join(runs)} |", "|---" * (1 + len(runs)) + "|"]
    for epoch, rows in enumerate(zip(*runs.values(), strict=True), 1):
        lines.append(f"| {epoch} | {' | '.join(f'{row[0]:.8f}' for row in rows)} |")
    alone = next(iter(runs.values()))
    for until in sorted({min(3, len(alone)), len(alone)}):
        greatest = [max(difference(each, alone)[:until]) for each in runs.values()]
        cells = " | ".join(f"{each:.1e}" for each in greatest)
        lines.append(f"| differs by, {until} epochs | {cells} |")
    return "\n".join(lines)


def chart(runs: Mapping[str, Mapping[str, Losses]]) -> str:
    """Returns an SVG: of each network the curves, and beside them their distances, on a log scale.

    Args:
        runs: of each network, on each number of workers, one first.
    """
    from trainer.reports import charts

    width, height, head = 350, 190, 46
    workers = list(next(iter(runs.values())))
    parts = []
    for row, (network, losses) in enumerate(runs.items()):
        top = head + row * (height + head)
        alone = losses[workers[0]]
        curves, distances = [], []
        for number, name in enumerate(workers):
            epochs = range(1, 1 + len(alone))
            series = {"letter": LETTERS[number], "number": number, "epochs": epochs}
            values = [row[0] for row in losses[name]]
            curves.append(charts.Series(**series, values=values))
            if number:
                values = difference(losses[name], alone)
                distances.append(charts.Series(**series, values=values))
        titles = (f"Loss by epoch, {NETWORKS[network]}", "Relative difference from A")
        drawn = (
            charts.overlaid_curves(curves, from_zero=True),
            charts.overlaid_curves(distances, logarithmic=True),
        )
        for column, (title, svg) in enumerate(zip(titles, drawn, strict=True)):
            left = column * width
            parts.append(f"<text x='{left + 4}' y='{top - 6}'>{title}</text>")
            place = f"<svg x='{left}' y='{top}' width='{width}' height='{height}' "
            parts.append(svg.replace("<svg ", place, 1))
    legend = "".join(
        f"<tspan dx='14' fill='var(--run-{number})'>●</tspan> {letter} {name}"
        for number, (letter, name) in enumerate(zip(LETTERS, workers, strict=False))
    )
    whole = f"0 0 {2 * width} {len(runs) * (height + head) + 8}"
    return (
        "<svg xmlns='http://www.w3.org/2000/svg' xmlns:xlink='http://www.w3.org/1999/xlink' "
        f"viewBox='{whole}' width='900' role='img'>"
        f"<title>Losses of 1, 2 and 4 workers</title><style>{_style()}</style>"
        f"<rect width='100%' height='100%' fill='var(--paper)'/>"
        f"<text x='-10' y='16'>{legend}</text>{''.join(parts)}</svg>\n"
    )


def _style() -> str:
    """Returns the colours of the pages, which their charts are drawn in."""
    folder = importlib.resources.files("trainer.reports")
    sheets = [folder.joinpath(f"{name}.html.jinja").read_text() for name in ("page", "comparison")]
    light: dict[str, str] = {}
    dark: dict[str, str] = {}
    for name, colour in re.findall(r"(--[\w-]+): (#\w{6});", "".join(sheets)):
        (dark if name in light else light)[name] = colour
    said = [";".join(f"{name}:{colour}" for name, colour in each.items()) for each in (light, dark)]
    return (
        f":root{{{said[0]}}}@media (prefers-color-scheme:dark){{:root{{{said[1]}}}}}"
        "text{font-family:system-ui,sans-serif;font-size:12px;fill:var(--ink)}"
    )


def trained(options: argparse.Namespace) -> dict[str, dict[str, Losses]]:
    """Returns the losses of each network on each number of workers."""
    found: dict[str, dict[str, Losses]] = {}
    with tempfile.TemporaryDirectory() as place:
        data = write_digits(Path(place) / "digits", options.examples)
        (Path(place) / "workers").mkdir()
        with team(Path(place) / "workers", data) as workers:
            for network in NETWORKS:
                of = found[network] = {}
                for name in options.workers:
                    count, kind = int(name.split()[0]), name.split()[1]
                    if kind in ("worker", "workers"):
                        of[name] = on_workers(workers, network, count, options)
                    else:
                        of[name] = on_devices(data, network, count, options)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=5000, help="a fifth is for validation")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--workers", nargs="+", choices=WORKERS, default=WORKERS, help="one first")
    parser.add_argument("--chart", type=Path, help="an SVG to write")
    parser.add_argument("--once", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.once:
        network, count, data = options.once
        print(json.dumps(once(network, int(count), data, options)))
        return
    found = trained(options)
    for network, runs in found.items():
        print(f"\n{NETWORKS[network].capitalize()}:\n\n{table(runs)}", flush=True)
    if options.chart is not None:
        options.chart.write_text(chart(found), encoding="utf-8")


if __name__ == "__main__":
    main()
