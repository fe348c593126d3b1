"""Compares training from shards in a bucket, with a realistic latency, to shards on disk.

    .venv/bin/python -m benchmarks.bucket --folder /tmp/bucket

A gs:// server on loopback holds --gb of colour images of 32x32 in shards. A relay delays each
request by --latency-ms and limits each connection to --connection-mb per second, as between Cloud
Storage and a machine in its region. Measures the disk, the bucket, the bucket with --cache-dir
(empty, then full), a download before training, and `fit` with tf.data on the files on disk.
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
_CHUNK_BYTES = 1 << 18

FIRST_BATCH = """
import sys, time
started = time.perf_counter()
import numpy as np
from trainer.config import DataOptions
from trainer.data import loader
from trainer.engine.prefetch import Prefetcher
imported = time.perf_counter()
data = loader.load(DataOptions(data=sys.argv[1], cache_dir=sys.argv[2] or None, cache_gb=1000))
prefetcher = Prefetcher(data.train.examples)
prefetcher.start(seed=0, epochs=1, epoch=0, position=0)
prefetcher.next(np.arange(256)[np.newaxis])
print(time.perf_counter() - imported)
"""


class SlowRelay:
    """A relay on loopback that adds latency and limits the bandwidth of each connection."""

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
            for forward, sockets in (
                (self._forward_request, (client, server)),
                (self._forward_reply, (server, client)),
            ):
                threading.Thread(target=forward, args=sockets, daemon=True).start()

    def _forward_request(self, client: socket.socket, server: socket.socket) -> None:
        while request := client.recv(_CHUNK_BYTES):
            time.sleep(self._latency_s)
            server.sendall(request)
        server.shutdown(socket.SHUT_WR)

    def _forward_reply(self, server: socket.socket, client: socket.socket) -> None:
        free = time.perf_counter()
        while chunk := server.recv(_CHUNK_BYTES):
            free = max(free, time.perf_counter()) + len(chunk) / self._bytes_per_s
            time.sleep(max(0.0, free - time.perf_counter()))
            client.sendall(chunk)
        client.close()


def train(data: str, args: argparse.Namespace, *flags: str) -> list[float]:
    """Trains two epochs; returns the examples per second of each."""
    out = args.folder / "run"
    command = [sys.executable, "-m", "trainer.task", f"--model={args.model}", f"--data={data}"]
    command += [f"--out={out}", "--overwrite", "--epochs=2", "--batch-size=256", *flags]
    subprocess.run(command, check=True, capture_output=True)
    rows = csv.DictReader((out / "history.csv").read_text().splitlines())
    return [float(row["examples_per_second"]) for row in rows]


def first_batch_s(data: str, cache: str = "") -> float:
    """Returns the seconds from the start of reading to the first batch."""
    command = [sys.executable, "-c", FIRST_BATCH, data, cache]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(process.stdout.split()[-1])


def upload(shards: Path) -> float:
    """Uploads the shards to the bucket; returns their size in bytes."""
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
    with tempfile.NamedTemporaryFile() as log, gcs.served(Path(log.name)) as server:
        os.environ["STORAGE_EMULATOR_HOST"] = server.upstream
        size = upload(shards)
        relay = SlowRelay(
            server.upstream,
            latency_s=args.latency_ms / 1000,
            bytes_per_s=args.connection_mb * 1e6,
        )
        os.environ["STORAGE_EMULATOR_HOST"] = relay.url
        storage._bucket.client.cache_clear()
        print("| | first batch after | first epoch | second epoch |\n|---|---|---|---|", flush=True)

        def row(name: str, first: float, speeds: list[float]) -> None:
            cells = " | ".join(f"{speed:,.0f}/s" for speed in speeds)
            print(f"| {name} | {first:.2f} s | {cells} |", flush=True)

        row("disk", first_batch_s(str(shards)), train(str(shards), args))
        row("bucket", first_batch_s(BUCKET), train(BUCKET, args))
        shutil.rmtree(cache, ignore_errors=True)
        speeds = train(BUCKET, args, f"--cache-dir={cache}")
        row("bucket, --cache-dir", first_batch_s(BUCKET, str(cache)), speeds)
        started = time.perf_counter()
        with storage.local_copy(BUCKET) as copy:
            downloaded = time.perf_counter() - started
            row(
                "plain download first",
                downloaded + first_batch_s(str(copy)),
                train(str(copy), args),
            )
    command = [sys.executable, "-c", streaming.TF_DATA, str(shards), args.model, "256"]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    print(f"| tf.data on disk, a fifth of an epoch | | {float(process.stdout):,.0f}/s | |")
    print(f"\n{size / 1e9:.2f} GB, downloaded in {downloaded:.1f} s")


if __name__ == "__main__":
    main()
