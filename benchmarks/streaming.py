"""Compares training from shards on disk with data in memory and with tf.data.

    .venv/bin/python -m benchmarks.streaming --gb 20 --memory-gb 3 --folder /tmp/streaming

Generates colour images of 32x32 once (random, so that they are neither compressible nor sparse);
the folder is kept. Each run is a process, in a control group with the memory limit (as root;
otherwise without a limit): one epoch over all shards; three epochs over a fortieth of the examples
in memory; a fifth of an epoch of `fit` with tf.data on the same files. --data gs://bucket/path
reads such shards from a bucket.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainer import storage
from trainer.data.shards import shard_format
from trainer.data.shards.shard_format import Stream

SHAPE = (32, 32, 3)
CLASSES = tuple(map(str, range(10)))
GROUP = Path("/sys/fs/cgroup/memory/trainer-benchmark")

TF_DATA = """
import sys, time
import numpy as np, tensorflow as tf
from pathlib import Path
from trainer import models
from trainer.config import DataOptions
from trainer.data import loader
folder, name, batch = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
data = loader.load(DataOptions(data=str(folder)))
model_entry = models.find(name)
model = models.build(model_entry, data.spec, learning_rate=0.001, steps=100, seed=0)
files = sorted(map(str, folder.glob("train-0*.npy")))
size = int(np.prod(data.spec.shape))
labels = tf.data.Dataset.from_tensor_slices(data.train.labels)

def records(file):
    return tf.data.FixedLengthRecordDataset(file, size, header_bytes=128)

def decode(record):
    return tf.reshape(tf.io.decode_raw(record, tf.uint8), data.spec.shape)

files = tf.data.Dataset.from_tensor_slices(files)
images = files.interleave(records, cycle_length=8, num_parallel_calls=tf.data.AUTOTUNE)
images = images.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
pairs = tf.data.Dataset.zip((images, labels)).shuffle(80_000).batch(batch).prefetch(4)
steps = max(1, len(data.train) // batch // 5)
started = time.perf_counter()
model.fit(pairs, epochs=1, steps_per_epoch=steps, verbose=0)
print(steps * batch / (time.perf_counter() - started))
"""


def generate(folder: Path, gigabytes: float) -> None:
    """Writes shards with `gigabytes` of training examples, and a small test split."""
    if (folder / shard_format.INDEX).exists():
        return
    count = int(gigabytes * 1e9) // int(np.prod(SHAPE))
    random = np.random.default_rng(0)
    labels = random.integers(0, len(CLASSES), count, dtype=np.int32)
    patterns = random.integers(0, 128, (len(CLASSES), *SHAPE), dtype=np.uint8)

    def blocks(labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for at in range(0, len(labels), 10_000):
            block = labels[at : at + 10_000]
            noise = random.integers(0, 128, (len(block), *SHAPE), dtype=np.uint8)
            yield patterns[block] + noise, block

    splits = {"train": (blocks(labels), labels), "test": (blocks(labels[:2000]), labels[:2000])}
    shard_format.write(storage.folder(str(folder)), Stream(splits, CLASSES))


def write_in_memory_data(shards: Path, folder: Path, divisor: int) -> Path:
    """Writes 1/`divisor` of the examples as .npz, which is read into memory."""
    path = folder / "in-memory.npz"
    if not path.exists():
        source = shard_format.read(storage.folder(str(shards)))
        assert source is not None
        (x, y), (x_test, y_test) = source.train, source.test or source.train
        few = slice(0, len(y) // divisor)
        np.savez(path, x_train=x[few], y_train=y[few], x_test=x_test[:], y_test=y_test)
    return path


@contextlib.contextmanager
def limited(gigabytes: float) -> Iterator[Path | None]:
    """Yields a control group with a memory limit, page cache included; None without permission."""
    try:
        GROUP.mkdir(exist_ok=True)
        (GROUP / "memory.limit_in_bytes").write_text(str(int(gigabytes * 2**30)))
    except OSError as error:
        print(f"no memory limit: {error}", file=sys.stderr)
        yield None
        return
    try:
        yield GROUP
    finally:
        GROUP.rmdir()


def run(command: list[str], group: Path | None) -> tuple[str, float]:
    """Runs a process in the group; returns its output, and the peak memory so far in bytes."""

    def enter() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    process = subprocess.Popen(
        command, preexec_fn=enter, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out, err = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(command[:6])}: {process.returncode}\n{err[-2000:]}")
    return out + err, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def train(data: str, args: argparse.Namespace, out: Path, epochs: int, group: Path | None) -> None:
    started = time.perf_counter()
    printed, peak = run(
        [sys.executable, "-m", "trainer.task", "--model", args.model, "--data", data, "--overwrite",
         "--out", str(out), "--epochs", str(epochs), "--batch-size", str(args.batch_size)],
        group,
    )  # fmt: skip
    rows = list(csv.DictReader((out / "history.csv").read_text().splitlines()))
    metrics = json.loads((out / "metrics.json").read_text())
    accuracy = re.search(r"test accuracy [\d.]+%", printed)
    print(
        f"  {float(rows[-1]['examples_per_second']):10,.0f} examples/s; peak so far "
        f"{peak / 1e9:.2f} GB; {accuracy[0] if accuracy else ''}; before training "
        f"{metrics['seconds']['data'] + metrics['seconds']['import']:.1f} s; "
        f"{time.perf_counter() - started:.0f} s in total",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gb", type=float, default=20)
    parser.add_argument("--memory-gb", type=float, default=3)
    parser.add_argument("--model", default="mlp")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data", help="gs:// path of the shards; default: those in --folder")
    args = parser.parse_args()
    shards = args.folder / "shards"
    args.folder.mkdir(exist_ok=True)
    generate(shards, args.gb)
    in_memory = write_in_memory_data(shards, args.folder, 40)
    with limited(args.memory_gb) as group:
        for _ in range(args.repeats):
            print("in memory, a fortieth of the examples, the last of 3 epochs:")
            train(str(in_memory), args, args.folder / "run-in-memory", 3, group)
            print(f"shards, all {args.gb:g} GB, one epoch:")
            train(args.data or str(shards), args, args.folder / "run-shards", 1, group)
        print("tf.data on the same files, a fifth of an epoch of fit:")
        command = [sys.executable, "-c", TF_DATA, str(shards), args.model, str(args.batch_size)]
        printed, peak = run(command, group)
        speed = float(printed.split("\n")[0])
        print(f"  {speed:10,.0f} examples/s; peak so far {peak / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
