"""What a backbone that was trained before is worth: test accuracy on few images of new classes.

    .venv/bin/python -m benchmarks.fine_tuning

MobileNetV3Small learns the digits 0 to 4 of MNIST; then 5 to 9 are learnt from a few images of
each: by it, by the same network from nothing, and by `--model image` as it is. Prints a table in
Markdown: mean cancelled seeds, least and greatest.
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
    """Writes five digits from `first` on, so many training images of each."""

    def part(split: Split, most: int) -> tuple[np.ndarray, np.ndarray]:
        members = [
            np.flatnonzero(split.labels == digit)[:most] for digit in range(first, first + 5)
        ]
        chosen = np.sort(np.concatenate(members))
        return split.examples[chosen], split.labels[chosen] - first

    x_train, y_train = part(train, each)
    x_test, y_test = part(test, len(test))
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


def accuracy(data: Path, out: Path, *flags: str) -> float:
    """Trains as a user does; returns the test accuracy."""
    command = [sys.executable, "-m", "trainer.task", "--model=image", f"--data={data}"]
    subprocess.run([*command, f"--out={out}", *flags], check=True, capture_output=True)
    return float(json.loads((out / "metrics.json").read_text())["test"]["accuracy"])


def main() -> None:
    """Trains all of them and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    import keras

    mnist = loader.load(DataOptions(data="mnist", seed=0))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        low = write(folder / "low.npz", mnist.train, mnist.test, 0, len(mnist.train))
        before = accuracy(low, folder / "before", *NETWORK)
        weights = folder / "before.weights.h5"
        trained = keras.models.load_model(folder / "before" / "model.keras", compile=False)
        trained.get_layer(BACKBONE).save_weights(weights)
        ways = {
            "MobileNetV3Small, trained on 0 to 4": [*NETWORK, f"--weights={weights}"],
            "MobileNetV3Small, from nothing": NETWORK,
            "residual network, from nothing": [],
        }
        print(f"On 0 to 4 the backbone was {before:.2%} right.\n")
        print(f"| images of each class | {' | '.join(ways)} |\n|{'---|' * (len(ways) + 1)}")
        for each in EACH:
            data = write(folder / f"{each}.npz", mnist.train, mnist.test, 5, each)
            cells = []
            for name, flags in ways.items():
                out = folder / f"{each} {name}"
                found = [
                    accuracy(data, out / str(seed), f"--seed={seed}", *flags) for seed in SEEDS
                ]
                cells.append(f"{np.mean(found):.1%} ({min(found):.1%} to {max(found):.1%})")
            print(f"| {each} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
