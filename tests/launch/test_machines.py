"""Machine types have the GPUs that Compute Engine documents, under Vertex AI's names."""

from __future__ import annotations

import pytest
from google.cloud.aiplatform_v1.types import AcceleratorType

from trainer.errors import UsageError
from trainer.launch import machines, vertex
from trainer.launch.machines import Machine, choose


@pytest.mark.parametrize("gpu", machines.GPUS)
def test_every_gpu_has_a_vertex_ai_name_and_a_default_machine(gpu: str) -> None:
    assert vertex.accelerator_type(gpu) in AcceleratorType.__members__
    counts = machines._BUILT_IN.get(gpu) or machines._ATTACHED[gpu]
    for count in counts:
        default = choose(gpu, count, None)
        assert (default.gpu, default.gpus) == (gpu, count)
        assert choose(gpu, count, default.type) == default


@pytest.mark.parametrize(
    ("gpu", "gpus", "machine", "expected"),
    [
        (None, None, None, Machine("e2-standard-8", None, 0)),
        (None, None, "n1-standard-16", Machine("n1-standard-16", None, 0)),
        ("nvidia-l4", None, None, Machine("g2-standard-8", "nvidia-l4", 1)),
        ("nvidia-l4", 2, None, Machine("g2-standard-24", "nvidia-l4", 2)),
        ("nvidia-l4", 1, "g2-standard-32", Machine("g2-standard-32", "nvidia-l4", 1)),
        ("nvidia-tesla-t4", 1, None, Machine("n1-standard-8", "nvidia-tesla-t4", 1)),
        ("nvidia-tesla-v100", 8, None, Machine("n1-standard-32", "nvidia-tesla-v100", 8)),
        ("nvidia-tesla-a100", 4, None, Machine("a2-highgpu-4g", "nvidia-tesla-a100", 4)),
        ("nvidia-a100-80gb", 2, None, Machine("a2-ultragpu-2g", "nvidia-a100-80gb", 2)),
        ("nvidia-h100-80gb", 8, None, Machine("a3-highgpu-8g", "nvidia-h100-80gb", 8)),
    ],
)
def test_the_machine_for_a_gpu(
    gpu: str | None, gpus: int | None, machine: str | None, expected: Machine
) -> None:
    assert choose(gpu, gpus, machine) == expected


@pytest.mark.parametrize(
    ("gpu", "gpus", "machine", "message"),
    [
        ("nvidia-t4", 1, None, "--gpu: found 'nvidia-t4', expected one of: nvidia-l4, "),
        ("nvidia-l4", 3, None, "--gpus: found 3, expected one of: 1, 2, 4, 8 (for nvidia-l4)"),
        (
            "nvidia-l4",
            2,
            "g2-standard-8",
            "found 'g2-standard-8', expected one of: g2-standard-24 (for",
        ),
        ("nvidia-tesla-t4", 1, "n1-standard-64", "at most 48 CPUs"),
        ("nvidia-tesla-t4", 1, "e2-standard-8", "expected n1-standard, n1-highmem or n1-highcpu"),
        (None, 2, None, "--gpus: found 2, expected --gpu as well"),
        (None, None, "a2-highgpu-1g", "found 'a2-highgpu-1g', which has GPUs, expected --gpu"),
    ],
)
def test_an_impossible_combination_is_refused(
    gpu: str | None, gpus: int | None, machine: str | None, message: str
) -> None:
    with pytest.raises(UsageError) as refused:
        choose(gpu, gpus, machine)
    assert message in str(refused.value)
