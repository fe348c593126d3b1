"""Compares `trainer data convert` in blocks with reading tables and arrays whole.

    .venv/bin/python -m benchmarks.converting --folder /tmp/converting

Generates 20,000 JPEG images of 400x400 in Parquet, which are resized to 96x96; 200,000 texts of 80
words in CSV; and 200,000 grey images of 64x64 in one `.npz`. Each conversion is a process: with the
format's `stream` function removed, so that all data is read before anything is written; unchanged;
and on one core.
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
DISTINCT = 200  # Number of different images.
CONVERT = """
import importlib, sys
from trainer.config import ReadOptions
from trainer.data import convert
for name in sys.argv[3:]:
    del importlib.import_module(f"trainer.data.formats.{name}").stream
convert.convert(sys.argv[1], sys.argv[2], ReadOptions(image_size=96))
"""


def label(number: int, count: int) -> int:
    """Returns the class of an example; examples are sorted by class, as data often is."""
    return number * CLASSES // count


def write_images(folder: Path, count: int) -> None:
    """Writes smooth images with some noise, similar to photographs."""
    random = np.random.default_rng(0)
    images = []
    for _ in range(DISTINCT):
        coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((400, 400), Image.Resampling.BICUBIC)).astype(int)
        pixels = np.clip(smooth + random.integers(-10, 10, smooth.shape), 0, 255)
        content = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(content, "JPEG")
        images.append(content.getvalue())
    schema = pyarrow.schema({"image": pyarrow.binary(), "label": pyarrow.int64()})
    with parquet.ParquetWriter(folder / "data.parquet", schema) as writer:
        for at in range(0, count, 100):
            numbers = range(at, min(count, at + 100))
            columns = [[images[n % DISTINCT] for n in numbers], [label(n, count) for n in numbers]]
            writer.write_table(pyarrow.table(columns, schema=schema))


def write_texts(folder: Path, count: int) -> None:
    """Writes texts of uniformly distributed words."""
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


# Number of examples, function that writes them, and module of the format that reads them.
KINDS: dict[str, tuple[int, Callable[[Path, int], None], str]] = {
    "images": (20_000, write_images, "table"),
    "texts": (200_000, write_texts, "table"),
    "arrays": (200_000, write_arrays, "npz"),
}


def convert(data: Path, out: Path, *without_stream: str, cores: set[int]) -> tuple[float, float]:
    """Returns the seconds of a conversion, and its peak memory in bytes."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-c", CONVERT, str(data), str(out), *without_stream]
    started = time.perf_counter()
    process = subprocess.Popen(command, preexec_fn=lambda: os.sched_setaffinity(0, cores))
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{data}: conversion ended with status {status}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024


def variants(module: str) -> Iterator[tuple[str, list[str], set[int]]]:
    """Yields name, modules without `stream`, and cores of each variant."""
    cores = os.sched_getaffinity(0)
    yield "read whole", [module], cores
    yield "in blocks", [], cores
    yield "in blocks, one core", [], {min(cores)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--part", type=float, default=1.0, help="fraction of the examples")
    args = parser.parse_args()
    print(f"| data | | examples/s, median of {args.repeats} | MB/s | peak memory |")
    print("|---|---|---|---|---|")
    for kind, (max_count, write, module) in KINDS.items():
        count, data = int(max_count * args.part), args.folder / kind
        if not data.exists():
            data.mkdir(parents=True)
            write(data, count)
        size = sum(path.stat().st_size for path in data.iterdir())
        runs: dict[str, list[tuple[float, float]]] = {}
        for _ in range(args.repeats):
            for variant, without, cores in variants(module):
                measured = convert(data, args.folder / "out", *without, cores=cores)
                runs.setdefault(variant, []).append(measured)
        for variant, results in runs.items():
            seconds = statistics.median(second for second, _ in results)
            peak = max(bytes_ for _, bytes_ in results)
            print(
                f"| {kind}, {size / 1e6:,.0f} MB | {variant} | {count / seconds:,.0f} | "
                f"{size / 1e6 / seconds:,.0f} | {peak / 1e6:,.0f} MB |",
                flush=True,
            )
    shutil.rmtree(args.folder / "out")


if __name__ == "__main__":
    main()
