"""Estimates the speed-up by 8, 64 and 512 GPUs; a model, not a measurement.

    .venv/bin/python -m benchmarks.scaling

The time of a step is the time to compute a device's share of the batch, plus the time to sum the
gradients afterwards, as in this program. Operations and gradients are counted in the network
itself. The rest comes from data sheets (NVIDIA H100 SXM; 8 per machine with NVLink, machines
connected by 400 Gbit/s per GPU) and assumptions, all in `Gpu`.

Source for the sums: Thakur, Rabenseifner and Gropp 2005, "Optimization of collective communication
operations in MPICH": a ring moves 2 (n - 1) / n of the bytes; a tree between machines needs
2 log2(n) successive messages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

DEVICES = (1, 8, 64, 512)
BATCHES = {"cnn": (1024, 16384), "cnn_fast": (1024, 16384)}


@dataclass(frozen=True)
class Gpu:
    """A GPU and its connections.

    Attributes:
        operations_per_s: peak for dense bfloat16 products, times the fraction that small
            convolutions reach (assumed: a tenth).
        min_step_s: minimum duration of a step: some 60 kernels of 4 microseconds (assumed).
        within_bytes_per_s: bandwidth between GPUs of a machine, in each direction.
        between_bytes_per_s: bandwidth of each GPU's network.
        within_s: latency of a message within a machine (assumed).
        between_s: latency of a message between machines (assumed).
        machine: GPUs per machine.
    """

    operations_per_s: float = 0.1 * 989e12
    min_step_s: float = 60 * 4e-6
    within_bytes_per_s: float = 450e9
    between_bytes_per_s: float = 50e9
    within_s: float = 5e-6
    between_s: float = 15e-6
    machine: int = 8


def compute_s(gpu: Gpu, operations: float, examples: float) -> float:
    """Returns the seconds of a device for `examples`; gradients take twice the forward pass."""
    return max(gpu.min_step_s, 3 * operations * examples / gpu.operations_per_s)


def sum_s(gpu: Gpu, size_bytes: float, devices: int) -> float:
    """Returns the seconds to sum gradients over all devices: within machines, then between them."""
    within, machines = min(devices, gpu.machine), math.ceil(devices / gpu.machine)
    moved = 2 * (within - 1) / within * size_bytes
    seconds = moved / gpu.within_bytes_per_s + 2 * (within - 1) * gpu.within_s
    if machines > 1:
        share = size_bytes / within  # Each GPU of a machine sends its share.
        moved = 2 * (machines - 1) / machines * share
        seconds += moved / gpu.between_bytes_per_s + 2 * math.log2(machines) * gpu.between_s
    return seconds


def step_s(gpu: Gpu, operations: float, size_bytes: float, batch: int, devices: int) -> float:
    """Returns the seconds of a step."""
    return compute_s(gpu, operations, batch / devices) + sum_s(gpu, size_bytes, devices)


def count(name: str) -> tuple[float, float]:
    """Returns a network's operations per example, and the bytes of its gradients."""
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
    profile = tf.compat.v1.profiler.profile(graph, options=options)
    weights = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    return float(profile.total_float_ops), 4.0 * weights


def main() -> None:
    gpu = Gpu()
    print("| model | `--batch-size` | GPUs | step, ms | of which sums | speed-up |")
    print("|---|---|---|---|---|---|")
    for name, batches in BATCHES.items():
        operations, size_bytes = count(name)
        for batch in batches:
            single = step_s(gpu, operations, size_bytes, batch, 1)
            for devices in DEVICES:
                total = step_s(gpu, operations, size_bytes, batch, devices)
                fraction = sum_s(gpu, size_bytes, devices) / total
                print(
                    f"| `{name}` | {batch:,} | {devices} | {1e3 * total:.2f} | {fraction:.0%} | "
                    f"{single / total:.1f} |"
                )


if __name__ == "__main__":
    main()
