"""`trainer serve` beside TensorFlow in Flask, under load: requests/s and latency; prints a table.

    .venv/bin/python -m benchmarks.serving                  # trains cnn_fast; three minutes in all
    .venv/bin/python -m benchmarks.serving --run runs/demo --seconds 10

One MNIST image a request, as nested lists, cancelled connections that are kept: 1, 16 and 64 of them,
each asking again as soon as it is answered. The load is made by wrk (`apt-get install wrk`) on the
same machine, with which a server has to share the cores. All servers are up at once and are
asked in turn, so that what else the machine does meets them all. Whatever is answered with another
status than 200 ends it, and so does a wrong answer before or after.
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
OURS = "trainer serve"
PEERS = {
    "Flask, model.predict": "predict",
    "Flask, model(images)": "call",
    "Flask, tf.function": "function",
}
# Prints what wrk counted as JSON; the body of each request is in a file.
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
    parser.add_argument("--seconds", type=int, default=10, help="of load for each figure")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("benchmarks.serving: found no wrk, expected it: apt-get install wrk")
    mnist = loader.load(DataOptions(data="mnist", seed=0))
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as running:
        run = options.run or trained(Path(place) / "run")
        urls = {OURS: running.enter_context(ours(run))}
        for name, way in PEERS.items():
            urls[name] = running.enter_context(flask(run, way))
        for url in urls.values():
            check(url, mnist)
        figures = measure(urls, mnist, options, Path(place))
        for url in urls.values():
            check(url, mnist)
    print("\n".join(table(figures)))


def trained(run: Path) -> Path:
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
def ours(run: Path) -> Iterator[str]:
    with process("trainer", "serve", run.absolute(), "--port=0") as server:
        assert server.stdout is not None
        yield f"{server.stdout.readline().strip()}/predict"


@contextlib.contextmanager
def flask(run: Path, way: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    model = run.absolute() / "model.keras"
    with process("benchmarks.peers.flask_serve", model, port, way) as server:
        while server.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/predict"


def check(url: str, mnist: Dataset) -> None:
    """Ends the program unless the server knows the first digits of the test part."""
    images, labels = mnist.test.examples[:5], mnist.test.labels[:5].tolist()
    body = json.dumps({"instances": images.tolist()}).encode()
    asked = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as response:
        predictions = json.load(response)["predictions"]
    rows = [each["probabilities"] if "class" in each else each for each in predictions]
    found = [row.index(max(row)) for row in rows]
    if found != labels:
        sys.exit(f"benchmarks.serving: {url}: found {found}, expected {labels}")


def measure(
    urls: dict[str, str], mnist: Dataset, options: argparse.Namespace, place: Path
) -> dict[str, dict[int, dict[str, float]]]:
    (place / "post.lua").write_text(SCRIPT)
    (place / "body").write_text(json.dumps({"instances": [mnist.test.examples[0].tolist()]}))
    figures: dict[str, dict[int, dict[str, float]]] = {name: {} for name in urls}
    for connections in options.connections:
        for name, url in urls.items():
            load(url, connections, 2, place)  # The first requests of a kind take longer.
            found = load(url, connections, options.seconds, place)
            if not found["rate"]:
                sys.exit(f"benchmarks.serving: {name}: no answer within {options.seconds} s")
            figures[name][connections] = found
    return figures


def load(url: str, connections: int, seconds: int, place: Path) -> dict[str, float]:
    command = f"wrk -t1 -c{connections} -d{seconds}s --timeout 60s -s {place}/post.lua {url}"
    environment = {**os.environ, "BODY": str(place / "body")}
    done = subprocess.run(
        command.split(), env=environment, capture_output=True, text=True, check=True
    )
    counted: dict[str, Any] = json.loads(done.stdout.rpartition("JSON")[2])
    if counted["errors"]:
        sys.exit(f"benchmarks.serving: {url}: {counted}\n{done.stdout}")
    return {
        "rate": 1e6 * counted["requests"] / counted["microseconds"],
        "p50": counted["p50"] / 1e3,
        "p99": counted["p99"] / 1e3,
    }


def table(figures: dict[str, dict[int, dict[str, float]]]) -> list[str]:
    lines = [
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, shared with wrk",
        "",
        "| connections | server | requests/s | p50, ms | p99, ms | trainer serve is faster by |",
        "|---|---|---|---|---|---|",
    ]
    for connections in figures[OURS]:
        for name in figures:
            found = figures[name][connections]
            ratio = figures[OURS][connections]["rate"] / found["rate"]
            lines.append(
                f"| {connections} | {name} | {found['rate']:,.0f} | {found['p50']:.1f} | "
                f"{found['p99']:.1f} | {'' if name == OURS else f'{ratio:.1f}'} |"
            )
    return lines


if __name__ == "__main__":
    main()
