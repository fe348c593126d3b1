"""The devices of a run: those that were requested, never others without an error."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.kills import ROOT
from trainer.distributed import devices
from trainer.distributed.gpu_diagnostics import nvidia_devices
from trainer.errors import DeviceError


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_machine_without_a_gpu_trains_on_its_cpu(device: str) -> None:
    selected = devices.select(device)
    assert selected.description.startswith("CPU: ")
    assert selected.strategy.num_replicas_in_sync == 1


@pytest.mark.parametrize(("xla", "expected"), [("auto", False), ("off", False), ("on", True)])
def test_a_cpu_uses_xla_only_on_request(xla: str, expected: bool) -> None:
    selected = devices.select("cpu", xla=xla)
    assert selected.xla == expected
    assert selected.description.endswith(", XLA") == expected


@pytest.mark.parametrize("set_by_user", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_cpu_computes_two_microbatches_each_on_half_of_the_cores(set_by_user: bool) -> None:
    code = (
        "import tensorflow as tf; from trainer.distributed import devices; "
        "assert devices.select('cpu').microbatches == 2; "
        "assert devices.select('cpu', xla='on').microbatches == 1; "
        "print(*(getattr(tf.config.threading, f'get_{kind}_op_parallelism_threads')() "
        "for kind in ('inter', 'intra')))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    if set_by_user:
        environment["TF_NUM_INTRAOP_THREADS"] = "3"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    half = max(1, len(os.sched_getaffinity(0)) // 2)
    expected = ["0", "0"] if set_by_user else ["2", str(half)]
    assert process.stdout.split() == expected, process.stderr


@pytest.mark.skipif(bool(nvidia_devices()), reason="there is a GPU")
def test_a_required_gpu_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DeviceError, match="--device gpu: found no NVIDIA device"):
        devices.select("gpu")


def test_a_hidden_gpu_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "nvidia_devices", lambda: ["/dev/nvidia0"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.select("auto").description.startswith("CPU: ")
    with pytest.raises(DeviceError, match="CUDA_VISIBLE_DEVICES hides all"):
        devices.select("gpu")


@pytest.mark.skipif(bool(nvidia_devices()), reason="there is a GPU")
def test_a_gpu_that_tensorflow_cannot_open_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "nvidia_devices", lambda: ["/dev/nvidia0"])
    monkeypatch.setattr(devices, "missing_libraries", lambda: ["libcuda.so.1"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(DeviceError, match="found /dev/nvidia0, but TensorFlow cannot open it"):
        devices.select("auto")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ([(9, 0)], "bfloat16"),
        ([(8, 0), (8, 9)], "bfloat16"),
        ([(7, 5)], "float16"),
        ([(8, 9), (7, 5)], "float16"),
        ([(6, 1)], "float32"),
        ([(0, 0)], "float32"),
    ],
)
def test_auto_precision_is_supported_by_all_gpus(
    capabilities: list[tuple[int, int]], expected: str
) -> None:
    assert devices.gpu_precision(capabilities) == expected


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("flags\t\t: fpu amx_bf16 avx512_fp16\n", "bfloat16"),
        ("flags\t\t: fpu amx_bf16\nbugs\t\t:\n", "bfloat16"),
        ("flags\t\t: fpu avx512_bf16\n", "bfloat16"),
        ("flags\t\t: fpu avx512f avx512_vnni\n", "float32"),
        ("", "float32"),
    ],
)
def test_auto_precision_is_native_to_the_cpu(cpuinfo: str, expected: str) -> None:
    assert devices.cpu_precision(cpuinfo) == expected
