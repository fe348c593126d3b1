"""The reason why a GPU cannot be used is found and explained."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from trainer.distributed.gpu_diagnostics import (
    driver_problem,
    missing_libraries,
    nvidia_devices,
    unusable_gpu_message,
)


def test_device_files_of_gpus_are_listed(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert [Path(path).name for path in nvidia_devices(tmp_path)] == ["nvidia0", "nvidia1"]


def test_libraries_that_cannot_be_opened_are_listed() -> None:
    assert missing_libraries(["libc.so.6", "libnone.so.1"]) == ["libnone.so.1"]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["libcuda.so.1"], r"missing libcuda\.so\.1\. .*NVIDIA driver.*--gpus all\.$"),
        (["libcudnn.so.9"], r"missing libcudnn\.so\.9\. The CUDA .* pip install '\.\[gpu\]'"),
        (["libcuda.so.1", "libcudnn.so.9"], r"--gpus all\. The CUDA libraries"),
        ([], "the driver works.*TF_CPP_MAX_VLOG_LEVEL=3"),
    ],
)
def test_the_message_names_missing_libraries_and_how_to_install_them(
    missing: list[str], message: str
) -> None:
    assert re.search(message, unusable_gpu_message(["/dev/nvidia0"], missing))


DRIVER = """
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuInit(unsigned flags) { return RESULT; }
int cuGetErrorString(int code, const char **text) { *text = "the driver's text"; return 0; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize(
    ("version", "result", "message"),
    [
        (
            11040,
            0,
            r"the NVIDIA driver supports CUDA 11\.4, expected 12\.0 or newer: install driver 525",
        ),
        (12040, 803, r"cuInit returns 803, the driver's text: .* restart the machine"),
        (12040, 999, r"cuInit returns 999, the driver's text: run nvidia-smi"),
        (13000, 0, None),
    ],
)
def test_the_drivers_error_code_is_explained(
    tmp_path: Path, version: int, result: int, message: str | None
) -> None:
    (tmp_path / "cuda.c").write_text(DRIVER)
    library = tmp_path / "libcuda.so.1"
    values = [f"-DVERSION={version}", f"-DRESULT={result}"]
    subprocess.run(
        ["cc", "-shared", "-fPIC", *values, "-o", library, tmp_path / "cuda.c"], check=True
    )
    problem = driver_problem(str(library))
    if message is None:
        assert problem is None
    else:
        assert problem is not None
        assert re.match(message, problem)
        assert problem in unusable_gpu_message(["/dev/nvidia0"], [], problem)
