"""Measures a run's model in each export format: bytes, time to load, time per prediction.

    .venv/bin/python -m benchmarks.exports runs/demo

Exports each format with `trainer export`, then loads it in a process (the import of its runtime
included) and predicts 1,000 examples of the run's test split, one at a time and 100 at a time.
Prints a table in Markdown, with the median time of one example.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trainer.inference.export import examples, exporter, output_comparison
from trainer.runs.finished_run import read_run
from trainer.runtime.log import suppress_output

FORMATS = [[name] for name in exporter.FORMATS] + [["litert", "--quantize", "int8"]]
CALLS, WARM_UP, BATCH = 1000, 50, 100


def measure(run: str, name: str, path: Path) -> dict[str, float]:
    """Returns seconds to load, median milliseconds for one example, and examples per second."""
    read = read_run(run)
    test = output_comparison.sample(examples.load(read).dataset.test, CALLS).examples
    started = time.perf_counter()
    predict = exporter.find(name).load(path, read.input.kind)
    predict(test[:1])
    load_s = time.perf_counter() - started
    calls = []
    for number in [*range(WARM_UP), *range(len(test))]:
        started = time.perf_counter()
        predict(test[number : number + 1])
        calls.append(time.perf_counter() - started)
    started = time.perf_counter()
    for start in range(0, len(test), BATCH):
        predict(test[start : start + BATCH])
    return {
        "load_s": load_s,
        "one_ms": 1000 * statistics.median(calls[WARM_UP:]),
        "per_s": len(test) / (time.perf_counter() - started),
    }


def row(run: str, arguments: list[str], folder: str) -> str:
    """Exports one format, measures it in a process, and returns a row of the table."""
    out = f"{folder}/{'-'.join(arguments)}{exporter.find(arguments[0]).SUFFIX}"
    python = [sys.executable, "-m"]
    export = [*python, "trainer", "export", run, "--format", *arguments, "--out", out]
    title = f"| `{arguments[0]}`{' int8' if len(arguments) > 1 else ''} |"
    process = subprocess.run(export, capture_output=True, text=True)
    if process.returncode != 0:
        return f"{title} {process.stderr.strip().rpartition('error: ')[2]} | | | |"
    measured = subprocess.run(
        [*python, __spec__.name, run, "--measure", arguments[0], out],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    figures = json.loads(measured.stdout.splitlines()[-1])
    files = [Path(out)] if Path(out).is_file() else [f for f in Path(out).rglob("*") if f.is_file()]
    size = sum(file.stat().st_size for file in files)
    return (
        f"{title} {size:,} | {figures['load_s']:.2f} s | {figures['one_ms']:.3f} ms | "
        f"{figures['per_s']:,.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, path = options.measure
        with suppress_output():
            figures = measure(options.run, name, Path(path))
        print(json.dumps(figures))
        return
    print(f"{os.cpu_count()} cores, {Path(options.run).name}\n")
    print(f"| format | bytes | to load | one example | examples/s, {BATCH} at a time |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for arguments in FORMATS:
            print(row(options.run, arguments, folder), flush=True)


if __name__ == "__main__":
    main()
