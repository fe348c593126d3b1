"""Compares `trainer serve` with TensorFlow in Flask under load: requests/s and latency.

    .venv/bin/python -m benchmarks.serving                  # trains cnn_fast; takes three minutes
    .venv/bin/python -m benchmarks.serving --run runs/demo --seconds 10

Each request has one MNIST image as nested lists. 1, 16 and 64 persistent connections send the next
request as soon as the last one is answered. wrk (`apt-get install wrk`) generates the load on the
same machine, and shares its cores with the server. All servers run at the same time and are
measured in turn, so that other load on the machine affects them all. Stops at a status other than
200, and at a wrong prediction before or after the load. Prints a table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Dataset

ROOT = Path(__file__).parents[1]
TRAINER = "trainer serve"
PEERS = {
    "Flask, model.predict": "predict",
    "Flask, model(images)": "call",
    "Flask, tf.function": "function",
}
# Script for wrk: reads the body of requests from a file, prints the results as JSON.
SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = io.open(os.getenv("BODY")):read("*a")
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'JSON{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "errors": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, help="a finished run of cnn_fast")
    parser.add_argument("--seconds", type=int, default=10, help="seconds of load per measurement")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("benchmarks.serving: found no wrk, expected it: apt-get install wrk")
    mnist = loader.load(DataOptions(data="mnist", seed=0))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        run = options.run or train(Path(folder) / "run")
        urls = {TRAINER: running.enter_context(serve(run))}
        for name, method in PEERS.items():
            urls[name] = running.enter_context(flask(run, method))
        for url in urls.values():
            check(url, mnist)
        figures = measure(urls, mnist, options, Path(folder))
        for url in urls.values():
            check(url, mnist)
    print("\n".join(table(figures)))


def train(run: Path) -> Path:
    command = [sys.executable, "-m", "trainer.task", "--model=cnn_fast", f"--out={run}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    return run


@contextlib.contextmanager
def process(*command: object) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        [sys.executable, "-m", *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


@contextlib.contextmanager
def serve(run: Path) -> Iterator[str]:
    with process("trainer", "serve", run.absolute(), "--port=0") as server:
        assert server.stdout is not None
        yield f"{server.stdout.readline().strip()}/predict"


@contextlib.contextmanager
def flask(run: Path, method: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    model = run.absolute() / "model.keras"
    with process("benchmarks.peers.flask_serve", model, port, method) as server:
        while server.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/predict"


def check(url: str, mnist: Dataset) -> None:
    """Exits unless the server predicts the first digits of the test split correctly."""
    images, labels = mnist.test.examples[:5], mnist.test.labels[:5].tolist()
    body = json.dumps({"instances": images.tolist()}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        predictions = json.load(response)["predictions"]
    rows = [each["probabilities"] if "class" in each else each for each in predictions]
    classes = [row.index(max(row)) for row in rows]
    if classes != labels:
        sys.exit(f"benchmarks.serving: {url}: found {classes}, expected {labels}")


def measure(
    urls: dict[str, str], mnist: Dataset, options: argparse.Namespace, folder: Path
) -> dict[str, dict[int, dict[str, float]]]:
    (folder / "post.lua").write_text(SCRIPT)
    (folder / "body").write_text(json.dumps({"instances": [mnist.test.examples[0].tolist()]}))
    figures: dict[str, dict[int, dict[str, float]]] = {name: {} for name in urls}
    for connections in options.connections:
        for name, url in urls.items():
            load(url, connections, 2, folder)  # Warms up: the first requests take longer.
            result = load(url, connections, options.seconds, folder)
            if not result["rate"]:
                sys.exit(f"benchmarks.serving: {name}: no response within {options.seconds} s")
            figures[name][connections] = result
    return figures


def load(url: str, connections: int, seconds: int, folder: Path) -> dict[str, float]:
    command = f"wrk -t1 -c{connections} -d{seconds}s --timeout 60s -s {folder}/post.lua {url}"
    environment = {**os.environ, "BODY": str(folder / "body")}
    wrk = subprocess.run(
        command.split(), env=environment, capture_output=True, text=True, check=True
    )
    counts: dict[str, Any] = json.loads(wrk.stdout.rpartition("JSON")[2])
    if counts["errors"]:
        sys.exit(f"benchmarks.serving: {url}: {counts}\n{wrk.stdout}")
    return {
        "rate": 1e6 * counts["requests"] / counts["microseconds"],
        "p50": counts["p50"] / 1e3,
        "p99": counts["p99"] / 1e3,
    }


def table(figures: dict[str, dict[int, dict[str, float]]]) -> list[str]:
    lines = [
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, shared with wrk",
        "",
        "| connections | server | requests/s | p50, ms | p99, ms | trainer serve is faster by |",
        "|---|---|---|---|---|---|",
    ]
    for connections in figures[TRAINER]:
        for name in figures:
            result = figures[name][connections]
            ratio = figures[TRAINER][connections]["rate"] / result["rate"]
            lines.append(
                f"| {connections} | {name} | {result['rate']:,.0f} | {result['p50']:.1f} | "
                f"{result['p99']:.1f} | {'' if name == TRAINER else f'{ratio:.1f}'} |"
            )
    return lines


if __name__ == "__main__":
    main()
