"""Training from shards in a bucket that is as far away as a real one, beside the same on disk.

    .venv/bin/python -m benchmarks.bucket --folder /tmp/bucket

A gs:// server on loopback holds --gb of colour images of 32x32 in shards; before it, each request
waits --latency-ms, and each connection brings --connection-mb a second, as between Cloud Storage
and a machine of its region. In one go: the bucket as it is, with --cache-dir (empty, then full), a
plain download first, the disk, and `fit` with tf.data on the files on disk.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import streaming
from tests import gcs
from trainer import storage

BUCKET = "gs://far-away"
_PIECE = 1 << 18

FIRST = """
import sys, time
started = time.perf_counter()
import numpy as np
from trainer import datasets
from trainer.engine.feeding import Prefetcher
imported = time.perf_counter()
data = datasets.load(sys.argv[1], seed=0, cache_dir=sys.argv[2] or None, cache_bytes=10**12)
prefetcher = Prefetcher(data.train.examples)
prefetcher.begin(seed=0, epochs=1, epoch=0, position=0)
prefetcher.take(np.arange(256)[np.newaxis])
print(time.perf_counter() - imported)
"""


class Distance:
    """A relay on loopback that makes a server far away."""

    def __init__(self, upstream: str, *, latency_s: float, bytes_per_s: float) -> None:
        address = urlsplit(upstream)
        self._upstream = (str(address.hostname), int(address.port or 80))
        self._latency_s, self._bytes_per_s = latency_s, bytes_per_s
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listening.accept()
            server = socket.create_connection(self._upstream)
            for work, ends in ((self._up, (client, server)), (self._down, (server, client))):
                threading.Thread(target=work, args=ends, daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        while request := client.recv(_PIECE):
            time.sleep(self._latency_s)
            server.sendall(request)
        server.shutdown(socket.SHUT_WR)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        free = time.perf_counter()
        while piece := server.recv(_PIECE):
            free = max(free, time.perf_counter()) + len(piece) / self._bytes_per_s
            time.sleep(max(0.0, free - time.perf_counter()))
            client.sendall(piece)
        client.close()


def trained(data: str, args: argparse.Namespace, *flags: str) -> list[float]:
    """Trains two epochs; returns the examples a second of each."""
    out = args.folder / "run"
    command = [sys.executable, "-m", "trainer.task", f"--model={args.model}", f"--data={data}"]
    command += [f"--out={out}", "--overwrite", "--epochs=2", "--batch-size=256", *flags]
    subprocess.run(command, check=True, capture_output=True)
    rows = csv.DictReader((out / "history.csv").read_text().splitlines())
    return [float(row["examples_per_second"]) for row in rows]


def first_s(data: str, cache: str = "") -> float:
    """Returns the seconds from the start of reading to the first batch."""
    command = [sys.executable, "-c", FIRST, data, cache]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def upload(shards: Path) -> float:
    """Puts the shards into the bucket; returns how many bytes they have."""
    storage._bucket.client().create_bucket(BUCKET.removeprefix(storage.SCHEME))
    files = {path.name: path for path in shards.iterdir()}
    storage.write_all(storage.folder(BUCKET), files)
    return sum(path.stat().st_size for path in files.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gb", type=float, default=1)
    parser.add_argument("--latency-ms", type=float, default=50)
    parser.add_argument("--connection-mb", type=float, default=50)
    parser.add_argument("--model", default="mlp")
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    args.folder.mkdir(exist_ok=True)
    shards, cache = args.folder / "shards", args.folder / "cache"
    streaming.generate(shards, args.gb)
    with tempfile.NamedTemporaryFile() as log, gcs.served(Path(log.name)) as near:
        os.environ["STORAGE_EMULATOR_HOST"] = near.upstream
        size = upload(shards)
        far = Distance(
            near.upstream,
            latency_s=args.latency_ms / 1000,
            bytes_per_s=args.connection_mb * 1e6,
        )
        os.environ["STORAGE_EMULATOR_HOST"] = far.url
        storage._bucket.client.cache_clear()
        print("| | first batch after | first epoch | second epoch |\n|---|---|---|---|", flush=True)

        def row(name: str, first: float, speeds: list[float]) -> None:
            cells = " | ".join(f"{speed:,.0f}/s" for speed in speeds)
            print(f"| {name} | {first:.2f} s | {cells} |", flush=True)

        row("disk", first_s(str(shards)), trained(str(shards), args))
        row("bucket", first_s(BUCKET), trained(BUCKET, args))
        shutil.rmtree(cache, ignore_errors=True)
        speeds = trained(BUCKET, args, f"--cache-dir={cache}")
        row("bucket, --cache-dir", first_s(BUCKET, str(cache)), speeds)
        started = time.perf_counter()
        with storage.local_copy(BUCKET) as copy:
            downloaded = time.perf_counter() - started
            row("plain download first", downloaded + first_s(str(copy)), trained(str(copy), args))
    command = [sys.executable, "-c", streaming.TF_DATA, str(shards), args.model, "256"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    print(f"| tf.data on disk, a fifth of an epoch | | {float(done.stdout):,.0f}/s | |")
    print(f"\n{size / 1e9:.2f} GB, downloaded in {downloaded:.1f} s")


if __name__ == "__main__":
    main()
