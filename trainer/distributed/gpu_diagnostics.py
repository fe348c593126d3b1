"""Finds out why TensorFlow cannot use an NVIDIA GPU that the machine has."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from pathlib import Path

import tensorflow as tf

DRIVER_LIBRARY = "libcuda.so.1"
# The libraries that TensorFlow 2.21 opens at run time. Source: its dso_loader.
CUDA_LIBRARIES = (
    DRIVER_LIBRARY,
    "libcudart.so.12",
    "libcublas.so.12",
    "libcublasLt.so.12",
    "libcufft.so.11",
    "libcusolver.so.11",
    "libcusparse.so.12",
    "libcudnn.so.9",
)
_INSTALL = "make env EXTRA=gpu, or pip install '.[gpu]', in a checkout"
_MIN_CUDA = 12
# Advice by the return code of cuInit (CUresult in CUDA's driver API).
_DRIVER_ADVICE = {
    34: "a stub library hides the driver; remove its folder from LD_LIBRARY_PATH",
    100: "the driver sees no device; run nvidia-smi on the machine, and check "
    "NVIDIA_VISIBLE_DEVICES",
    802: "the fabric manager of the GPUs is not running; machines with NVSwitch need it",
    803: "the driver's library and its kernel module differ; restart the machine after an update",
    804: "libcuda of CUDA's compatibility package hides the driver; remove its folder from "
    "LD_LIBRARY_PATH",
}


def nvidia_devices(dev: Path = Path("/dev")) -> list[str]:
    """Returns the NVIDIA device files of this machine: /dev/nvidia0 and so on."""
    return sorted(str(path) for path in dev.glob("nvidia[0-9]*"))


def missing_libraries(names: Iterable[str] = CUDA_LIBRARIES) -> list[str]:
    """Returns the shared libraries that cannot be opened where TensorFlow searches for them."""
    return [name for name in names if not _opens(name)]


def driver_problem(library: str = DRIVER_LIBRARY) -> str | None:
    """Initialises the CUDA driver; returns its problem with advice, or None if it works.

    Args:
        library: the driver's shared library; it must be possible to open it.
    """
    driver = ctypes.CDLL(library)
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    major, minor = version.value // 1000, version.value % 1000 // 10
    if major < _MIN_CUDA:
        return (
            f"the NVIDIA driver supports CUDA {major}.{minor}, expected {_MIN_CUDA}.0 or newer: "
            "install driver 525.60.13 or newer on the machine; an image cannot contain it"
        )
    code = driver.cuInit(0)
    if code == 0:
        return None
    text = ctypes.c_char_p()
    driver.cuGetErrorString(code, ctypes.byref(text))
    advice = _DRIVER_ADVICE.get(code, "run nvidia-smi on the machine")
    return f"cuInit returns {code}, {(text.value or b'unknown').decode()}: {advice}"


def unusable_gpu_message(devices: list[str], missing: list[str], problem: str | None = None) -> str:
    """Returns why TensorFlow cannot use a GPU of this machine, and what to do.

    Args:
        devices: device files.
        missing: libraries that cannot be opened.
        problem: as `driver_problem` returns it.
    """
    message = f"--device: found {', '.join(devices)}, but TensorFlow cannot open it"
    if not tf.test.is_built_with_cuda():
        return f"{message}: this TensorFlow is built without CUDA. {_INSTALL}."
    if missing:
        advice = []
        if DRIVER_LIBRARY in missing:
            advice.append(
                f"{DRIVER_LIBRARY} comes with the NVIDIA driver: install it, or run the container "
                "with --gpus all."
            )
        if set(missing) - {DRIVER_LIBRARY}:
            advice.append(f"The CUDA libraries come with the extra gpu: {_INSTALL}.")
        return f"{message}: missing {', '.join(missing)}. {' '.join(advice)}"
    if problem is not None:
        return f"{message}: {problem}."
    return (
        f"{message}: all CUDA libraries can be opened, and the driver works. "
        "TF_CPP_MAX_VLOG_LEVEL=3 prints TensorFlow's reasons; --device cpu trains without the GPU."
    )


def _opens(name: str) -> bool:
    # TensorFlow searches the nvidia-* wheels beside its own package, then the system's folders.
    wheels = Path(tf.__file__).parents[1].glob(f"nvidia/*/lib/{name}")
    try:
        ctypes.CDLL(str(next(wheels, name)))
    except OSError:
        return False
    return True
