"""Kills a job hundreds of times, at random times, and checks that each result is bit-identical.

    .venv/bin/python -m benchmarks.kill --kills 200 --storage local
    .venv/bin/python -m benchmarks.kill --kills 100 --storage gs

Prints a line for each completed run, and at the end the number of kills by the phase of the job
that they hit. Exits with 1 at the first result that differs.
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
    parser.add_argument("--storage", choices=["local", "gs"], default="local")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with gcs.served(folder / "server.log") as proxy:
            os.environ["STORAGE_EMULATOR_HOST"] = proxy.url
            storage._bucket.client().create_bucket("kills")
            sys.exit(0 if kill(options, folder) else 1)


def kill(options: argparse.Namespace, folder: Path) -> bool:
    """Returns whether all results were equal to those of the uninterrupted run."""
    arguments = ["--validation-split=0.2", "--seed=7", f"--epochs={options.epochs}"]
    runner = Runner(folder, write_digits(folder / "digits"), arguments=arguments)
    base = "gs://kills" if options.storage == "gs" else str(folder)
    runner.finish(f"{base}/uninterrupted")
    expected = fingerprint(f"{base}/uninterrupted", folder)
    times, phases, runs = random.Random(options.seed), collections.Counter[str](), 0
    milliseconds: set[object] = set()
    print(f"seed {options.seed}", flush=True)
    while phases.total() < options.kills:
        out = f"{base}/run{runs}"
        runs += 1
        exit_code = None
        while exit_code is None:
            started = time.perf_counter()
            process = runner.start(out, "--checkpoint-steps=1")
            # One kill in ten is during start-up, the others during training and the final files.
            if times.random() > 0.1:
                runner.wait_for_training(process)
            # The last run may end, however long its final files take on a slow machine.
            is_last = phases.total() >= options.kills
            try:
                exit_code = process.wait(None if is_last else times.uniform(0, 2))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                phases[phase(runner, out)] += 1
                milliseconds.add(round(time.perf_counter() - started, 3))
        if exit_code != 0:
            print(runner.log.read_text())
            return False
        equal = fingerprint(out, folder) == expected
        print(f"{out.rpartition('/')[2]}: {phases.total()} kills so far,", end=" ")
        print("bit-identical" if equal else "DIFFERENT", flush=True)
        if not equal:
            return False
    print(
        f"{options.storage}: {phases.total()} kills over {runs} runs, at {len(milliseconds)} "
        f"different milliseconds after the start: {dict(phases)}"
    )
    return True


def phase(runner: Runner, out: str) -> str:
    """Returns the phase of the job that a kill hit, by the files that are there."""
    if b"training" not in runner.log.read_bytes():
        return "start"
    if b"test accuracy" in runner.log.read_bytes():
        return "after the end"
    run = storage.folder(out)
    names = run.names()
    if filenames.METRICS in names or filenames.MODEL_KERAS in names:
        return "final files"
    pointer = run.read(f"{filenames.CHECKPOINTS}/latest.json")
    complete = json.loads(pointer)["checkpoints"] if pointer else []
    checkpoints = {name.rpartition("/")[2] for name in names if name.endswith((".h5", ".partial"))}
    return "a checkpoint" if checkpoints - set(complete) else "training"


if __name__ == "__main__":
    main()
