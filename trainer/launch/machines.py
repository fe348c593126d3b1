"""Which machine types have which GPUs, and how many.

Source: Compute Engine's pages on GPUs and on accelerator-optimized machines, and Vertex AI's on the
machines for custom training. The service has the last word; this is for what cannot be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from trainer.errors import UsageError

# By GPU, as gcloud and GKE write it, and by number of GPUs: the machine types that have so many,
# the default first. Blackwell is missing: the image's CUDA 12.5 is older.
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

# GPUs that are attached to N1 machines: by number of GPUs, how many CPUs the machine has at most.
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
    """A machine type with what is in it; `gpu` is None, and `gpus` 0, if it computes on the CPU."""

    type: str
    gpu: str | None
    gpus: int


def choose(gpu: str | None, gpus: int | None, machine: str | None) -> Machine:
    """Finds the machine that has these GPUs, or checks that the user's one has them.

    Args:
        gpu: one of GPUS; None for the CPU.
        gpus: how many; None for one.
        machine: the machine type that the user wants, if any.

    Raises:
        UsageError: there is no such machine; the message names the flag, and what there is.
    """
    if gpu is None:
        return _without_gpu(gpus, machine)
    if gpu not in GPUS:
        raise UsageError(f"--gpu: found {gpu!r}, expected one of: {', '.join(GPUS)}")
    count = gpus or 1
    known = _BUILT_IN.get(gpu) or _ATTACHED[gpu]
    if count not in known:
        expected = ", ".join(map(str, known))
        raise UsageError(f"--gpus: found {count}, a machine with {gpu} has one of: {expected}")
    if gpu in _BUILT_IN:
        types = _BUILT_IN[gpu][count]
        if machine and machine not in types:
            raise UsageError(
                f"--machine: found {machine!r}, {count} {gpu} are in one of: {', '.join(types)}"
            )
        return Machine(machine or types[0], gpu, count)
    cpus = _ATTACHED[gpu][count]
    # Four CPUs feed a GPU; fewer than eight would be short of memory.
    machine = machine or f"n1-standard-{max(8, 4 * count)}"
    size = re.fullmatch(r"n1-(?:standard|highmem|highcpu)-(\d+)", machine)
    if not size or int(size[1]) > cpus:
        raise UsageError(
            f"--machine: found {machine!r}, {count} {gpu} can be attached to n1-standard, "
            f"n1-highmem and n1-highcpu with at most {cpus} CPUs, like n1-standard-8"
        )
    return Machine(machine, gpu, count)


def _without_gpu(gpus: int | None, machine: str | None) -> Machine:
    if gpus is not None:
        raise UsageError(f"--gpus: found {gpus}, expected --gpu beside it: {', '.join(GPUS)}")
    if machine and machine.startswith(_FAMILIES_WITH_GPU):
        raise UsageError(f"--machine: found {machine!r}, which has GPUs, expected --gpu beside it")
    return Machine(machine or WITHOUT_GPU, None, 0)
