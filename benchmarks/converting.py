"""`trainer data convert` of tables and arrays, piece by piece, beside reading them whole.

    .venv/bin/python -m benchmarks.converting --folder /tmp/converting

Generates 20,000 JPEG images of 400x400 in Parquet, which become 96x96, 200,000 texts of 80 words in
CSV, and as many grey images of 64x64 in one `.npz`. Each conversion is a process of its own: with
the format's `stream` signature away, so that all is read before anything is written; as it is; and on
one core.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

CLASSES = 10
SOME = 200  # Images that differ.
CONVERT = """
import importlib, sys
from trainer.config import ReadOptions
from trainer.data import convert
for name in sys.argv[3:]:
    del importlib.import_module(f"trainer.data.formats.{name}").stream
convert.convert(sys.argv[1], sys.argv[2], ReadOptions(image_size=96))
"""


def label(number: int, count: int) -> int:
    """Sorted by class, as data often is."""
    return number * CLASSES // count


def write_images(folder: Path, count: int) -> None:
    """Writes photographs of a kind: smooth, with some noise."""
    random = np.random.default_rng(0)
    some = []
    for _ in range(SOME):
        coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((400, 400), Image.Resampling.BICUBIC)).astype(int)
        pixels = np.clip(smooth + random.integers(-10, 10, smooth.shape), 0, 255)
        content = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(content, "JPEG")
        some.append(content.getvalue())
    schema = pyarrow.schema({"image": pyarrow.binary(), "label": pyarrow.int64()})
    with parquet.ParquetWriter(folder / "data.parquet", schema) as writer:
        for at in range(0, count, 100):
            numbers = range(at, min(count, at + 100))
            columns = [[some[n % SOME] for n in numbers], [label(n, count) for n in numbers]]
            writer.write_table(pyarrow.table(columns, schema=schema))


def write_texts(folder: Path, count: int) -> None:
    """Writes texts of words that are there equally often."""
    random = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(5000)])
    with (folder / "data.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for number in range(count):
            rows.writerow([" ".join(random.choice(words, 80)), f"class {label(number, count)}"])


def write_arrays(folder: Path, count: int) -> None:
    """Writes random pixels."""
    random = np.random.default_rng(0)
    labels = np.array([label(number, count) for number in range(count)])
    pixels = random.integers(0, 256, (count, 64, 64), dtype=np.uint8)
    np.savez(folder / "data.npz", x_train=pixels, y_train=labels)


# What is converted: how many examples, and who writes and reads them.
KINDS: dict[str, tuple[int, Callable[[Path, int], None], str]] = {
    "images": (20_000, write_images, "table"),
    "texts": (200_000, write_texts, "table"),
    "arrays": (200_000, write_arrays, "npz"),
}


def convert(data: Path, out: Path, *without_stream: str, cores: set[int]) -> tuple[float, float]:
    """Returns the seconds that a conversion took, and the most bytes it had in memory."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-c", CONVERT, str(data), str(out), *without_stream]
    started = time.perf_counter()
    process = subprocess.Popen(command, preexec_fn=lambda: os.sched_setaffinity(0, cores))
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{data}: ended with {status}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024


def ways(module: str) -> Iterator[tuple[str, list[str], set[int]]]:
    cores = os.sched_getaffinity(0)
    yield "read whole", [module], cores
    yield "piece by piece", [], cores
    yield "piece by piece, one core", [], {min(cores)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--part", type=float, default=1.0, help="of the examples")
    args = parser.parse_args()
    print(f"| data | | examples/s, median of {args.repeats} | MB/s | most memory |")
    print("|---|---|---|---|---|")
    for kind, (most, write, module) in KINDS.items():
        count, data = int(most * args.part), args.folder / kind
        if not data.exists():
            data.mkdir(parents=True)
            write(data, count)
        size = sum(path.stat().st_size for path in data.iterdir())
        found: dict[str, list[tuple[float, float]]] = {}
        for _ in range(args.repeats):
            for way, without, cores in ways(module):
                done = convert(data, args.folder / "out", *without, cores=cores)
                found.setdefault(way, []).append(done)
        for way, runs in found.items():
            seconds = statistics.median(second for second, _ in runs)
            peak = max(bytes_ for _, bytes_ in runs)
            print(
                f"| {kind}, {size / 1e6:,.0f} MB | {way} | {count / seconds:,.0f} | "
                f"{size / 1e6 / seconds:,.0f} | {peak / 1e6:,.0f} MB |",
                flush=True,
            )
    shutil.rmtree(args.folder / "out")


if __name__ == "__main__":
    main()
