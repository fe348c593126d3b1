"""What is to be expected of 8, 64 and 512 GPUs: a model, not a measurement.

    .venv/bin/python -m benchmarks.scaling

A step takes what its microbatch of the batch takes to compute, and then what its gradients take to be
summed up, one after the other as in this program. Operations and gradients are counted in the
network itself; the rest is from data sheets (NVIDIA H100 SXM; 8 of them in a machine by NVLink,
machines by a 400 Gbit/s network for each GPU) and assumptions, all of them in `Card`.

Source of the sum's time: Thakur, Rabenseifner and Gropp 2005, "Optimization of collective
communication operations in MPICH": a ring moves 2 (n - 1) / n of the bytes; a tree among machines
takes 2 log2(n) messages one after the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

DEVICES = (1, 8, 64, 512)
BATCHES = {"cnn": (1024, 16384), "cnn_fast": (1024, 16384)}


@dataclass(frozen=True)
class Card:
    """A GPU and what connects it.

    Attributes:
        operations_per_s: peak for dense bfloat16 products, times the part of it that small
            convolutions reach (assumed: a tenth).
        min_step_s: of a step however small: some 60 kernels of 4 microseconds each (assumed).
        within_bytes_per_s: between GPUs of a machine, each way.
        between_bytes_per_s: of each GPU's network.
        within_s: for a message within a machine (assumed).
        between_s: for one between machines (assumed).
        machine: GPUs in a machine.
    """

    operations_per_s: float = 0.1 * 989e12
    min_step_s: float = 60 * 4e-6
    within_bytes_per_s: float = 450e9
    between_bytes_per_s: float = 50e9
    within_s: float = 5e-6
    between_s: float = 15e-6
    machine: int = 8


def compute_s(card: Card, operations: float, examples: float) -> float:
    """Returns what a device takes for its microbatch: forward, and twice that for the gradients."""
    return max(card.min_step_s, 3 * operations * examples / card.operations_per_s)


def sum_s(card: Card, size_bytes: float, devices: int) -> float:
    """Returns what summing gradients cancelled all devices takes: in each machine, then between them."""
    within, machines = min(devices, card.machine), math.ceil(devices / card.machine)
    moved = 2 * (within - 1) / within * size_bytes
    seconds = moved / card.within_bytes_per_s + 2 * (within - 1) * card.within_s
    if machines > 1:
        microbatch = size_bytes / within  # Each GPU of a machine passes on its part.
        moved = 2 * (machines - 1) / machines * microbatch
        seconds += moved / card.between_bytes_per_s + 2 * math.log2(machines) * card.between_s
    return seconds


def step_s(card: Card, operations: float, size_bytes: float, batch: int, devices: int) -> float:
    """Returns what a step takes."""
    return compute_s(card, operations, batch / devices) + sum_s(card, size_bytes, devices)


def counted(name: str) -> tuple[float, float]:
    """Returns the operations of a network for one example, and the bytes of its gradients."""
    import numpy as np
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2 as frozen,
    )

    from trainer import models
    from trainer.config import DataOptions
    from trainer.data import loader

    model_entry = models.find(name)
    spec = loader.load(DataOptions(data="mnist", seed=0)).spec
    model = models.build(model_entry, spec, learning_rate=0.01, steps=10, seed=0)
    signature = tf.TensorSpec([1, *spec.shape], spec.dtype)
    graph = frozen(tf.function(model).get_concrete_function(signature)).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    found = tf.compat.v1.profiler.profile(graph, options=options)
    weights = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    return float(found.total_float_ops), 4.0 * weights


def main() -> None:
    card = Card()
    print("| model | `--batch-size` | GPUs | step, ms | of it the sum | speed-up |")
    print("|---|---|---|---|---|---|")
    for name, batches in BATCHES.items():
        operations, size_bytes = counted(name)
        for batch in batches:
            alone = step_s(card, operations, size_bytes, batch, 1)
            for devices in DEVICES:
                whole = step_s(card, operations, size_bytes, batch, devices)
                part = sum_s(card, size_bytes, devices) / whole
                print(
                    f"| `{name}` | {batch:,} | {devices} | {1e3 * whole:.2f} | {part:.0%} | "
                    f"{alone / whole:.1f} |"
                )


if __name__ == "__main__":
    main()
