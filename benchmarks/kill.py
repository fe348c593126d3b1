"""Kills a job hundreds of times, at random instants, and compares each result to the bit.

    .venv/bin/python -m benchmarks.kill --kills 200 --place local
    .venv/bin/python -m benchmarks.kill --kills 100 --place gs

Prints a line for each run that got through, and at the end how many kills there were, and into what
they fell. Ends with 1 at the first result that differs in a bit.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests import gcs
from tests.kills import Runner, fingerprint, write_digits
from trainer import storage
from trainer.runs import filenames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--place", choices=["local", "gs"], default="local")
    parser.add_argument("--seed", type=int, default=time.time_ns())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with gcs.served(folder / "server.log") as proxy:
            os.environ["STORAGE_EMULATOR_HOST"] = proxy.url
            storage._bucket.client().create_bucket("kills")
            sys.exit(0 if kill(options, folder) else 1)


def kill(options: argparse.Namespace, folder: Path) -> bool:
    """Returns whether all results were those of the undisturbed run."""
    runner = Runner(folder, write_digits(folder / "digits"))
    base = "gs://kills" if options.place == "gs" else str(folder)
    runner.finish(f"{base}/undisturbed")
    expected = fingerprint(f"{base}/undisturbed", folder)
    instants, into, runs = random.Random(options.seed), collections.Counter[str](), 0
    positions: set[object] = set()
    print(f"seed {options.seed}", flush=True)
    while into.total() < options.kills:
        out = f"{base}/run{runs}"
        runs += 1
        ended = None
        while ended is None:
            started = time.perf_counter()
            process = runner.start(out, "--checkpoint-steps=1")
            # One in ten dies while it starts; the others within training and the final writing.
            if instants.random() > 0.1:
                runner.wait_for_training(process)
            try:
                ended = process.wait(instants.uniform(0, 2))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                into[moment(runner, out)] += 1
                positions.add(round(time.perf_counter() - started, 3))
        if ended != 0:
            print(runner.log.read_text())
            return False
        same = fingerprint(out, folder) == expected
        print(f"{out.rpartition('/')[2]}: {into.total()} kills so far,", end=" ")
        print("to the bit" if same else "DIFFERENT", flush=True)
        if not same:
            return False
    print(
        f"{options.place}: {into.total()} kills cancelled {runs} runs, at {len(positions)} different"
    )
    print(f"milliseconds after the start: {dict(into)}")
    return True


def moment(runner: Runner, out: str) -> str:
    """Says into what a kill fell, by what it left behind."""
    if b"training" not in runner.log.read_bytes():
        return "start"
    if b"test accuracy" in runner.log.read_bytes():
        return "after the end"
    run = storage.folder(out)
    there = run.names()
    if filenames.METRICS in there or filenames.MODEL_KERAS in there:
        return "final writing"
    pointer = run.read(f"{filenames.CHECKPOINTS}/latest.json")
    named = json.loads(pointer)["checkpoints"] if pointer else []
    checkpoints = {name.rpartition("/")[2] for name in there if name.endswith((".h5", ".partial"))}
    return "a checkpoint" if checkpoints - set(named) else "training"


if __name__ == "__main__":
    main()
