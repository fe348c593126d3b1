"""Compares a pretrained backbone with training from scratch on few images of new classes.

    .venv/bin/python -m benchmarks.fine_tuning

Trains MobileNetV3Small on the digits 0 to 4 of MNIST. Then trains on a few images of each digit
from 5 to 9: this network, the same network from scratch, and `--model image` with its default
network. Prints a table of test accuracies in Markdown: mean over seeds, minimum and maximum.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Split
from trainer.models import BACKBONE

NETWORK = ["--backbone", "MobileNetV3Small"]
EACH, SEEDS = (10, 60), (0, 1, 2)


def write(path: Path, train: Split, test: Split, first: int, each: int) -> Path:
    """Writes five digits from `first` on, with at most `each` training images per digit."""

    def select(split: Split, max_count: int) -> tuple[np.ndarray, np.ndarray]:
        members = [
            np.flatnonzero(split.labels == digit)[:max_count] for digit in range(first, first + 5)
        ]
        indices = np.sort(np.concatenate(members))
        return split.examples[indices], split.labels[indices] - first

    x_train, y_train = select(train, each)
    x_test, y_test = select(test, len(test))
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


def accuracy(data: Path, out: Path, *flags: str) -> float:
    """Trains with the command line; returns the test accuracy."""
    command = [sys.executable, "-m", "trainer.task", "--model=image", f"--data={data}"]
    subprocess.run([*command, f"--out={out}", *flags], check=True, capture_output=True)
    return float(json.loads((out / "metrics.json").read_text())["test"]["accuracy"])


def main() -> None:
    """Trains all variants and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    import keras

    mnist = loader.load(DataOptions(data="mnist", seed=0))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        low = write(folder / "low.npz", mnist.train, mnist.test, 0, len(mnist.train))
        before = accuracy(low, folder / "before", *NETWORK)
        weights = folder / "before.weights.h5"
        trained = keras.models.load_model(folder / "before" / "model.keras", compile=False)
        trained.get_layer(BACKBONE).save_weights(weights)
        variants = {
            "MobileNetV3Small, trained on 0 to 4": [*NETWORK, f"--weights={weights}"],
            "MobileNetV3Small, from scratch": NETWORK,
            "residual network, from scratch": [],
        }
        print(f"Test accuracy of the backbone on 0 to 4: {before:.2%}.\n")
        print(f"| images per class | {' | '.join(variants)} |\n|{'---|' * (len(variants) + 1)}")
        for each in EACH:
            data = write(folder / f"{each}.npz", mnist.train, mnist.test, 5, each)
            cells = []
            for name, flags in variants.items():
                out = folder / f"{each} {name}"
                accuracies = [
                    accuracy(data, out / str(seed), f"--seed={seed}", *flags) for seed in SEEDS
                ]
                cells.append(
                    f"{np.mean(accuracies):.1%} ({min(accuracies):.1%} to {max(accuracies):.1%})"
                )
            print(f"| {each} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
