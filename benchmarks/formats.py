"""Trains on the same examples in every format that can be read, local and in a bucket.

    .venv/bin/python -m benchmarks.formats

benchmarks/FORMATS.md has its output.

Writes some of the shipped MNIST and movie reviews as files (tests/data/real_files.py), copies them
to a gs:// server on loopback, runs `trainer data check` and a short training on both, and prints a
table. For lossless formats, test loss and accuracy must be bit-identical; exits with 1 if they are
not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests import gcs
from tests.data import real_files
from tests.data.real_files import KINDS, Format, Kind
from trainer import storage
from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Dataset


@dataclass(frozen=True)
class Result:
    """Measurements of a training.

    Attributes:
        read_s: seconds from the start of the program until the data is read, checked and split.
        accuracy: test accuracy.
        loss: test loss.
    """

    read_s: float
    accuracy: float
    loss: float


def run(*arguments: str) -> None:
    command = [sys.executable, "-m", *arguments]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        sys.exit(f"{' '.join(arguments)}: {process.returncode}\n{process.stdout}{process.stderr}")


def check_and_train(kind: Kind, form: Format, location: str, out: Path) -> Result:
    """Checks a data set and trains on it with the command line."""
    path = location + form.pattern
    run("trainer", "data", "check", path, *form.flags)
    run(
        "trainer.task", f"--model={'sentiment' if kind.texts else 'mlp'}", "--epochs=5",
        "--precision=float32", f"--data={path}", f"--out={out}", "--overwrite", *form.flags,
    )  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    test = metrics["test"]
    return Result(metrics["seconds"]["data"], test["accuracy"], test["loss"])


def row(kind: Kind, form: Format, whole: real_files.Data, folder: Path) -> tuple[str, Result]:
    """Writes and uploads a data set in a format; returns its row, and the measurements."""
    real_files.write(form, whole, folder / "data")
    real_files.upload(folder / "data", whole.url)
    files = [path for path in (folder / "data").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    local, remote = (
        check_and_train(kind, form, location, folder / "run")
        for location in (str(folder / "data"), whole.url)
    )
    if (local.loss, local.accuracy) != (remote.loss, remote.accuracy):
        sys.exit(f"{form.name}: {local} from the disk, {remote} from the bucket")
    cells = (
        form.name, f"{len(files):,}", f"{size:,}",
        f"{local.read_s:.2f} s", f"{remote.read_s:.2f} s",
        f"{100 * local.accuracy:.2f} %", f"{local.loss:.9f}", form.examples,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |", local


def table(kind: Kind, forms: Iterable[Format], shipped: Dataset, each: tuple[int, int]) -> bool:
    """Prints the rows of a kind; returns whether equal examples gave equal results."""
    groups: dict[str, list[Result]] = {}
    for number, form in enumerate(forms):
        whole = real_files.first_examples(kind, shipped, new_bucket(), train=each[0], test=each[1])
        if number == 0:
            print(f"\n**{kind.title.capitalize()}** ({sizes(whole)}):\n")
            print("| format | files | bytes | read | `gs://` | accuracy | loss | examples |")
            print("|---|---|---|---|---|---|---|---|")
        with tempfile.TemporaryDirectory() as folder:
            line, result = row(kind, form, whole, Path(folder))
        print(line, flush=True)
        # A model that flattens its input gives the same result for images and for vectors.
        group = form.examples.replace("as vectors", "identical")
        if group != "lossy":
            groups.setdefault(group, []).append(result)
    equal = True
    for group, results in groups.items():
        outcomes = {(result.accuracy, result.loss) for result in results}
        equal &= len(outcomes) == 1
        summary = "one result, bit-identical" if len(outcomes) == 1 else f"{len(outcomes)} RESULTS"
        print(f"\n{group}: {len(results)} x 2 locations, {summary}", flush=True)
    return equal


def new_bucket() -> str:
    """Creates a bucket and returns its gs:// path; the server always lists a whole bucket."""
    name = f"formats-{uuid.uuid4().hex[:12]}"
    storage._bucket.client().create_bucket(name)
    return f"gs://{name}"


def sizes(whole: real_files.Data) -> str:
    counts = {name: len(labels) for name, (_, labels) in whole.splits.items()}
    return ", ".join(f"{size:,} {name}" for name, size in counts.items() if name != "validation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--train", type=int, default=30, help="training examples of each class")
    parser.add_argument("--test", type=int, default=10, help="test examples of each class")
    parser.add_argument("--only", default="", help="text in the names of the formats to run")
    options = parser.parse_args()
    mnist, reviews = (loader.load(DataOptions(data=name, seed=0)) for name in loader.SHIPPED)
    with tempfile.NamedTemporaryFile() as log, gcs.served(Path(log.name)) as proxy:
        os.environ["STORAGE_EMULATOR_HOST"] = proxy.url
        equal = True
        for kind in KINDS:
            forms = [form for form in kind.formats if options.only in form.name]
            # Learning from sentences needs more examples than from images.
            factor = 15 if kind.texts else 1
            each = (factor * options.train, factor * options.test)
            equal &= table(kind, forms, reviews if kind.texts else mnist, each)
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
