"""Devices: chosen as asked, and never replaced in silence."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kills import ROOT
from trainer.distributed import devices
from trainer.errors import DeviceError


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_machine_without_a_gpu_trains_on_its_cpu(device: str) -> None:
    chosen = devices.select(device)
    assert chosen.description.startswith("CPU: ")
    assert chosen.strategy.num_replicas_in_sync == 1


@pytest.mark.parametrize(("xla", "expected"), [("auto", False), ("off", False), ("on", True)])
def test_xla_is_for_those_who_ask_on_a_cpu(xla: str, expected: bool) -> None:
    chosen = devices.select("cpu", xla=xla)
    assert chosen.xla == expected
    assert chosen.description.endswith(", XLA") == expected


@pytest.mark.parametrize("set_by_user", [False, True])
def test_a_cpu_computes_two_shares_each_by_half_of_the_cores(set_by_user: bool) -> None:
    code = (
        "import tensorflow as tf; from trainer.engine import devices; "
        "assert devices.select('cpu').microbatches == 2; "
        "assert devices.select('cpu', xla='on').microbatches == 1; "
        "print(*(getattr(tf.config.threading, f'get_{kind}_op_parallelism_threads')() "
        "for kind in ('inter', 'intra')))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    if set_by_user:
        environment["TF_NUM_INTRAOP_THREADS"] = "3"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    half = max(1, len(os.sched_getaffinity(0)) // 2)
    assert done.stdout.split() == (["0", "0"] if set_by_user else ["2", str(half)]), done.stderr


@pytest.mark.skipif(bool(devices.nvidia_devices()), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(DeviceError, match="--device gpu: found no NVIDIA device"):
        devices.select("gpu")


def test_a_hidden_gpu_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "nvidia_devices", lambda: ["/dev/nvidia0"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.select("auto").description.startswith("CPU: ")
    with pytest.raises(DeviceError, match="CUDA_VISIBLE_DEVICES hides all"):
        devices.select("gpu")


def test_device_files_are_found(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    found = devices.nvidia_devices(tmp_path)
    assert [Path(path).name for path in found] == ["nvidia0", "nvidia1"]


def test_libraries_that_do_not_open_are_named() -> None:
    assert devices.missing_libraries(["libc.so.6", "libnone.so.1"]) == ["libnone.so.1"]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["libcuda.so.1"], r"missing libcuda\.so\.1\. .*NVIDIA driver.*--gpus all\.$"),
        (["libcudnn.so.9"], r"missing libcudnn\.so\.9\. The CUDA .* pip install '\.\[gpu\]'"),
        (["libcuda.so.1", "libcudnn.so.9"], r"--gpus all\. The CUDA libraries"),
        ([], "the driver works.*TF_CPP_MAX_VLOG_LEVEL=3"),
    ],
)
def test_a_gpu_that_cannot_be_opened_is_explained(missing: list[str], message: str) -> None:
    assert re.search(message, devices.unusable(["/dev/nvidia0"], missing))


DRIVER = """
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuInit(unsigned flags) { return RESULT; }
int cuGetErrorString(int code, const char **text) { *text = "in its own words"; return 0; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize(
    ("version", "result", "message"),
    [
        (
            11040,
            0,
            r"the NVIDIA driver knows CUDA 11\.4, expected 12\.0 or newer: install driver 525",
        ),
        (12040, 803, r"cuInit gives 803, in its own words: .* restart the machine"),
        (12040, 999, r"cuInit gives 999, in its own words: run nvidia-smi"),
        (13000, 0, None),
    ],
)
def test_a_driver_that_refuses_is_asked_why(
    tmp_path: Path, version: int, result: int, message: str | None
) -> None:
    (tmp_path / "cuda.c").write_text(DRIVER)
    library = tmp_path / "libcuda.so.1"
    values = [f"-DVERSION={version}", f"-DRESULT={result}"]
    subprocess.run(
        ["cc", "-shared", "-fPIC", *values, "-o", library, tmp_path / "cuda.c"], check=True
    )
    problem = devices.driver_problem(str(library))
    if message is None:
        assert problem is None
    else:
        assert problem is not None
        assert re.match(message, problem)
        assert problem in devices.unusable(["/dev/nvidia0"], [], problem)
