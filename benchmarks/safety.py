"""Measures the cost of checkpoints and of --deterministic in training.

    .venv/bin/python -m benchmarks.safety --models mlp cnn sentiment --repeats 5

Each run is a process; the kinds alternate. Checkpoints are at their defaults: every 30 s, on the
local disk. Prints medians, and the median of the ratios of successive runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

EPOCHS = {"mlp": 5, "cnn": 1, "sentiment": 5}
KINDS = ("plain", "checkpoints", "deterministic")


def train_once(name: str, kind: str) -> float:
    """Returns the seconds of a training, compilation included."""
    from trainer import models
    from trainer.checkpoint import hooks, identity
    from trainer.config import Config, DataOptions, ResolvedConfig, complete
    from trainer.data import loader
    from trainer.distributed import devices
    from trainer.engine.loop import TrainingHook, TrainingLoop
    from trainer.engine.train_function import TrainStepConfig
    from trainer.runs import lease
    from trainer.runtime.timers import StageTimer
    from trainer.training.setup import fill_in

    model_entry = models.find(name)
    with tempfile.TemporaryDirectory() as out:
        located = fill_in(Config(model=name, out=out, epochs=EPOCHS[name]), model_entry)
        config = complete(ResolvedConfig, located)
        data = loader.load(DataOptions(data=config.data, seed=0))
        device = devices.select("auto", deterministic=kind == "deterministic")
        model = models.build(
            model_entry, data.spec, learning_rate=config.learning_rate, steps=100, seed=0
        )
        started = time.perf_counter()
        with contextlib.ExitStack() as stack:
            hook = TrainingHook()
            if kind == "checkpoints":
                hook = stack.enter_context(
                    hooks.chief_hook(
                        model,
                        [],
                        config,
                        identity=identity.describe(config, data, model, TrainStepConfig(), []),
                        new_callbacks=list,
                        devices=device,
                        lease=stack.enter_context(lease.acquire(out)),
                        timer=StageTimer(),
                    )
                )
            TrainingLoop(
                model=model,
                train=data.train,
                validation=None,
                options=config,
                devices=device,
                hook=hook,
            ).run()
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=list(EPOCHS), default=list(EPOCHS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--once", nargs=2, metavar=("MODEL", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        print(json.dumps(train_once(*options.once)))
        return
    print(f"{'model':12} {'plain':>9} {'checkpoints':>16} {'--deterministic':>16}")
    for model in options.models:
        seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(options.repeats):
            for kind in KINDS:
                seconds[kind].append(measure(model, kind))
        costs = []
        for kind in KINDS[1:]:
            pairs = zip(seconds[kind], seconds["plain"], strict=True)
            extra = statistics.median(one / other for one, other in pairs) - 1
            costs.append(f"{statistics.median(seconds[kind]):.2f} s {extra:+.1%}")
        plain = f"{statistics.median(seconds['plain']):.2f} s"
        print(f"{model:12} {plain:>9} {costs[0]:>16} {costs[1]:>16}", flush=True)


def measure(model: str, kind: str) -> float:
    """Returns the seconds of a training in a new process."""
    command = [sys.executable, "-m", "benchmarks.safety", "--once", model, kind]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    process = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(json.loads(process.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
