"""The same examples in every format that is read, local and in a bucket, each trained on as a user.

    .venv/bin/python -m benchmarks.formats

Writes some of the shipped MNIST and movie reviews as real files (tests/data/real_files.py),
puts a copy on a real gs:// server on loopback, runs `trainer data check` and a short training on
both, and prints a table. Where a format holds the examples without loss, loss and accuracy of the
test have to be the same to the bit; ends with 1 if they are not.
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
    """Of a training.

    Attributes:
        read_s: from the start of the program until the data was read, checked and split.
        accuracy: of the test part.
        loss: of the test part.
    """

    read_s: float
    accuracy: float
    loss: float


def run(*arguments: str) -> None:
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")


def tried(kind: Kind, form: Format, place: str, out: Path) -> Result:
    """Does with a data set what a user would."""
    path = place + form.pattern
    run("trainer", "data", "check", path, *form.flags)
    run(
        "trainer.task", f"--model={'sentiment' if kind.texts else 'mlp'}", "--epochs=5",
        "--precision=float32", f"--data={path}", f"--out={out}", "--overwrite", *form.flags,
    )  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    test = metrics["test"]
    return Result(metrics["seconds"]["data"], test["accuracy"], test["loss"])


def row(kind: Kind, form: Format, whole: real_files.Data, folder: Path) -> tuple[str, Result]:
    """Writes, uploads and tries a format; returns its row and what was found."""
    real_files.write(form, whole, folder / "data")
    real_files.upload(folder / "data", whole.url)
    files = [path for path in (folder / "data").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    local, remote = (
        tried(kind, form, place, folder / "run") for place in (str(folder / "data"), whole.url)
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
    """Prints the rows of a kind; returns whether what is the same gave the same."""
    found: dict[str, list[Result]] = {}
    for number, form in enumerate(forms):
        whole = real_files.data(kind, shipped, new_bucket(), train=each[0], test=each[1])
        if number == 0:
            print(f"\n**{kind.title.capitalize()}** ({sizes(whole)}):\n")
            print("| format | files | bytes | read | `gs://` | accuracy | loss | examples |")
            print("|---|---|---|---|---|---|---|---|")
        with tempfile.TemporaryDirectory() as place:
            line, result = row(kind, form, whole, Path(place))
        print(line, flush=True)
        # Vectors of the pixels are the same to a network that begins by laying them out.
        alike = form.examples.replace("as vectors", "the same")
        if alike != "lossy":
            found.setdefault(alike, []).append(result)
    equal = True
    for alike, results in found.items():
        outcomes = {(result.accuracy, result.loss) for result in results}
        equal &= len(outcomes) == 1
        said = "one result, to the bit" if len(outcomes) == 1 else f"{len(outcomes)} RESULTS"
        print(f"\n{alike}: {len(results)} x 2 places, {said}", flush=True)
    return equal


def new_bucket() -> str:
    """Returns the gs:// path of an empty bucket; the server lists all of one, whatever is asked."""
    name = f"formats-{uuid.uuid4().hex[:12]}"
    storage._bucket.client().create_bucket(name)
    return f"gs://{name}"


def sizes(whole: real_files.Data) -> str:
    parts = {name: len(labels) for name, (_, labels) in whole.parts.items()}
    return ", ".join(f"{size:,} {name}" for name, size in parts.items() if name != "validation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--train", type=int, default=30, help="training examples of each class")
    parser.add_argument("--test", type=int, default=10, help="test examples of each class")
    parser.add_argument("--only", default="", help="formats whose name has this in it")
    options = parser.parse_args()
    mnist, reviews = (loader.load(DataOptions(data=name, seed=0)) for name in loader.SHIPPED)
    with tempfile.NamedTemporaryFile() as log, gcs.served(Path(log.name)) as proxy:
        os.environ["STORAGE_EMULATOR_HOST"] = proxy.url
        equal = True
        for kind in KINDS:
            forms = [form for form in kind.formats if options.only in form.name]
            # A sentence says less than an image.
            times = 15 if kind.texts else 1
            each = (times * options.train, times * options.test)
            equal &= table(kind, forms, reviews if kind.texts else mnist, each)
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
