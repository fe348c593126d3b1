"""Selects the machine type for a GPU, from tables of Google's machine types.

Source: Compute Engine's pages on GPUs and on accelerator-optimized machines, and Vertex AI's page
on machines for custom training. The tables reject impossible combinations early; the service checks
regions and quotas.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from trainer.errors import UsageError

# GPU, in the spelling of gcloud and GKE -> number of GPUs -> machine types, the default first.
# Blackwell is missing, since it needs a newer CUDA than the image's 12.5.
_BUILT_IN: Mapping[str, Mapping[int, tuple[str, ...]]] = {
    "nvidia-l4": {
        1: (
            "g2-standard-8",
            "g2-standard-4",
            "g2-standard-12",
            "g2-standard-16",
            "g2-standard-32",
        ),
        2: ("g2-standard-24",),
        4: ("g2-standard-48",),
        8: ("g2-standard-96",),
    },
    "nvidia-tesla-a100": {
        1: ("a2-highgpu-1g",),
        2: ("a2-highgpu-2g",),
        4: ("a2-highgpu-4g",),
        8: ("a2-highgpu-8g",),
        16: ("a2-megagpu-16g",),
    },
    "nvidia-a100-80gb": {count: (f"a2-ultragpu-{count}g",) for count in (1, 2, 4, 8)},
    "nvidia-h100-80gb": {count: (f"a3-highgpu-{count}g",) for count in (1, 2, 4, 8)},
    "nvidia-h100-mega-80gb": {8: ("a3-megagpu-8g",)},
    "nvidia-h200-141gb": {8: ("a3-ultragpu-8g",)},
}

# GPUs that are attached to N1 machines: number of GPUs -> maximum number of CPUs.
_ATTACHED: Mapping[str, Mapping[int, int]] = {
    "nvidia-tesla-t4": {1: 48, 2: 48, 4: 96},
    "nvidia-tesla-v100": {1: 12, 2: 24, 4: 48, 8: 96},
    "nvidia-tesla-p100": {1: 16, 2: 32, 4: 96},
    "nvidia-tesla-p4": {1: 24, 2: 48, 4: 96},
}

GPUS = (*_BUILT_IN, *_ATTACHED)

WITHOUT_GPU = "e2-standard-8"
_FAMILIES_WITH_GPU = ("a2-", "a3-", "a4-", "a4x-", "g2-", "g4-")


@dataclass(frozen=True)
class Machine:
    """A machine type with its GPUs; without GPUs, `gpu` is None and `gpus` is 0."""

    type: str
    gpu: str | None
    gpus: int


def choose(gpu: str | None, gpus: int | None, machine: str | None) -> Machine:
    """Returns the machine type with these GPUs; checks the user's `machine`, if given.

    Args:
        gpu: one of GPUS; None for the CPU.
        gpus: number of GPUs; None for 1.
        machine: machine type of --machine; None for the default.

    Raises:
        UsageError: no such machine exists; the message names the flag and the possible values.
    """
    if gpu is None:
        return _without_gpu(gpus, machine)
    if gpu not in GPUS:
        raise UsageError(f"--gpu: found {gpu!r}, expected one of: {', '.join(GPUS)}")
    count = gpus or 1
    counts = _BUILT_IN.get(gpu) or _ATTACHED[gpu]
    if count not in counts:
        expected = ", ".join(map(str, counts))
        raise UsageError(f"--gpus: found {count}, expected one of: {expected} (for {gpu})")
    if gpu in _BUILT_IN:
        types = _BUILT_IN[gpu][count]
        if machine and machine not in types:
            raise UsageError(
                f"--machine: found {machine!r}, expected one of: {', '.join(types)} "
                f"(for {count} {gpu})"
            )
        return Machine(machine or types[0], gpu, count)
    max_cpus = _ATTACHED[gpu][count]
    # Four CPUs keep a GPU busy; machines with fewer than eight have too little memory.
    machine = machine or f"n1-standard-{max(8, 4 * count)}"
    size = re.fullmatch(r"n1-(?:standard|highmem|highcpu)-(\d+)", machine)
    if not size or int(size[1]) > max_cpus:
        raise UsageError(
            f"--machine: found {machine!r}, expected n1-standard, n1-highmem or n1-highcpu with at "
            f"most {max_cpus} CPUs, like n1-standard-8 (for {count} {gpu})"
        )
    return Machine(machine, gpu, count)


def _without_gpu(gpus: int | None, machine: str | None) -> Machine:
    if gpus is not None:
        raise UsageError(f"--gpus: found {gpus}, expected --gpu as well, one of: {', '.join(GPUS)}")
    if machine and machine.startswith(_FAMILIES_WITH_GPU):
        raise UsageError(f"--machine: found {machine!r}, which has GPUs, expected --gpu as well")
    return Machine(machine or WITHOUT_GPU, None, 0)
