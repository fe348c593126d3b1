"""Selects the devices of a run, and the tf.distribute strategy over them."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import faulthandler
import functools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorflow as tf

from trainer.distributed import rendezvous
from trainer.distributed.cluster import Cluster
from trainer.distributed.collectives import Workers
from trainer.distributed.gpu_diagnostics import (
    DRIVER_LIBRARY,
    driver_problem,
    missing_libraries,
    nvidia_devices,
    unusable_gpu_message,
)
from trainer.errors import DeviceError, UsageError
from trainer.runtime import control_groups
from trainer.runtime.keras_internals import initialize_on_each_worker
from trainer.runtime.log import LOGGER

# A CPU computes a batch as two microbatches at once, each on half of the cores. Otherwise all cores
# share each operation, and wait for each other at its end. Always two, so that batch-norm
# statistics do not depend on the number of cores.
_CPU_MICROBATCHES = 2
_NEW_PROCESS_ADVICE = "train in a new process, in a notebook after a restart of the kernel"
# Time limit for the workers to connect to each other after the rendezvous.
_CONNECT_S = 60


@dataclass(frozen=True)
class Devices:
    """The devices of a run.

    Attributes:
        strategy: places variables, and sums gradients over the devices.
        precision: number format of training steps: "float32", "bfloat16" or "float16".
        xla: whether XLA compiles the steps.
        memory_bytes: memory of the smallest GPU; None without a GPU, or if it is unknown.
        description: device names and precision for the log and `metrics.json`; also the number of
            CPU cores, because sums depend on how they are divided among threads.
        workers: the workers that train together.
        microbatches: number of microbatches that each device computes at once.
    """

    strategy: tf.distribute.Strategy
    precision: str = "float32"
    xla: bool = False
    memory_bytes: int | None = None
    description: str = ""
    workers: Workers = field(default_factory=Workers)
    microbatches: int = 1

    @property
    def replicas(self) -> int:
        """Number of devices that share a batch, over all workers."""
        return int(self.strategy.num_replicas_in_sync)

    def on_workers(self, cluster: Cluster | None) -> Devices:
        """Returns these devices on each worker of a cluster; unchanged for None."""
        if cluster is None:
            return self
        workers = Workers(cluster, self.strategy)
        description = f"{workers.count} workers, each {self.description}"
        return dataclasses.replace(self, description=description, workers=workers)


def select(
    device: str,
    *,
    precision: str = "auto",
    xla: str = "auto",
    deterministic: bool = False,
    cluster: Cluster | None = None,
) -> Devices:
    """Opens the devices for a run.

    Args:
        device: "auto" uses all GPUs, or the CPU if there is none; "gpu" requires a GPU; "cpu" uses
            no GPU.
        precision: "float32", "bfloat16", "float16", or "auto" for the fastest supported by the
            hardware.
        xla: "on", "off", or "auto" for one GPU. On a CPU it makes steps slower, and it cannot
            compile steps across several GPUs.
        deterministic: disables TensorFlow kernels whose result can differ between calls.
        cluster: the workers that train together, each with its devices; None for one worker.

    Raises:
        DeviceError: a GPU is required and there is none, or TensorFlow cannot open it; or the
            devices of the workers differ.
        UsageError: TensorFlow was used before, which several workers do not allow.
        WorkerLostError: another worker did not start in time.
    """
    if cluster is not None and xla == "on":
        raise DeviceError(
            f"--xla on: found {len(cluster.addresses)} workers, expected one; XLA does not compile "
            "across several"
        )
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    if device == "cpu":
        _hide_gpus()
        return _open_cpu(precision, xla, cluster)
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus and tf.config.list_physical_devices("GPU"):
        if device == "gpu":
            raise DeviceError(
                f"--device gpu: TensorFlow runs without GPUs in this process; {_NEW_PROCESS_ADVICE}"
            )
    elif not gpus:
        _check_no_gpu(required=device == "gpu")
    if not gpus:
        return _open_cpu(precision, xla, cluster)
    return _open_gpus(gpus, precision, xla, cluster)


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Translates TensorFlow's errors for memory and XLA compilation into one line.

    Raises:
        DeviceError: the device has too little memory, or XLA cannot compile the model.
    """
    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        raise DeviceError(
            f"out of memory: {reason}. Try a smaller --batch-size, or a smaller model"
        ) from None
    except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
        match = re.search(r"unsupported operations when trying to compile .*?: (.*)", str(error))
        if not match:
            raise
        raise DeviceError(
            f"--xla: XLA cannot compile this model: {match[1]}; give --xla off"
        ) from None


def gpu_precision(capabilities: Sequence[tuple[int, int]]) -> str:
    """Returns the fastest number format that all GPUs support, by their compute capabilities."""
    lowest = min(capabilities)
    if lowest >= (8, 0):
        return "bfloat16"
    return "float16" if lowest >= (7, 0) else "float32"


def cpu_precision(cpuinfo: str) -> str:
    """Returns bfloat16 if the CPU computes in it natively, by the text of /proc/cpuinfo."""
    native = {"amx_bf16", "avx512_bf16"} & set(cpuinfo.split())
    return "bfloat16" if native else "float32"


@functools.cache
def mirrored_strategy(devices: tuple[str, ...] | None = None) -> tf.distribute.Strategy:
    """Returns the strategy over devices, by their names; over all GPUs for None.

    Cached: collective operations are numbered per strategy, from the same number on, and TensorFlow
    remembers the size that each number had first. A second strategy for a model of another size, as
    for another fold, would fail.
    """
    return tf.distribute.MirroredStrategy(devices)


def set_cpu_threads() -> bool:
    """Sets TensorFlow's threads for training on a CPU, which the last bits of the result depend on.

    Leaves them alone if the environment sets them. Returns whether they are set; TensorFlow may
    have started others already.
    """
    if {"TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"} & {*os.environ}:
        return True
    cores = control_groups.cores()
    try:
        tf.config.threading.set_inter_op_parallelism_threads(_CPU_MICROBATCHES)
        tf.config.threading.set_intra_op_parallelism_threads(max(1, cores // _CPU_MICROBATCHES))
    except RuntimeError:
        return False
    return True


def _hide_gpus() -> None:
    """Raises DeviceError if TensorFlow has opened GPUs in this process already."""
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        raise DeviceError(
            f"--device cpu: TensorFlow runs with GPUs in this process; {_NEW_PROCESS_ADVICE}"
        ) from None


def _check_no_gpu(*, required: bool) -> None:
    """Raises DeviceError if there is a GPU that TensorFlow cannot open, or one is required."""
    devices = nvidia_devices()
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if devices and not hidden:
        missing = missing_libraries()
        problem = None if DRIVER_LIBRARY in missing else driver_problem()
        raise DeviceError(unusable_gpu_message(devices, missing, problem))
    if devices and required:
        raise DeviceError("--device gpu: CUDA_VISIBLE_DEVICES hides all NVIDIA devices; unset it")
    if required:
        raise DeviceError(
            "--device gpu: found no NVIDIA device on this machine, expected one; a container needs "
            "docker run --gpus all, a pod a limit of nvidia.com/gpu"
        )


def _open_gpus(
    gpus: list[tf.config.PhysicalDevice], precision: str, xla: str, cluster: Cluster | None
) -> Devices:
    if xla == "on" and len(gpus) > 1:
        raise DeviceError(
            f"--xla on: found {len(gpus)} GPUs, expected one; XLA does not compile across several"
        )
    for gpu in gpus:
        with contextlib.suppress(RuntimeError):  # TensorFlow has opened it already.
            tf.config.experimental.set_memory_growth(gpu, True)
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    if precision == "auto":
        precision = gpu_precision([each.get("compute_capability", (0, 0)) for each in details])
    compiled = xla == "on" or (xla == "auto" and len(gpus) == 1 and cluster is None)
    return Devices(
        _strategy(len(gpus), precision, cluster),
        precision,
        compiled,
        _min_memory_bytes(len(gpus)),
        f"{_describe_gpus(details)}, {precision}{', XLA' * compiled}",
    ).on_workers(cluster)


def _open_cpu(precision: str, xla: str, cluster: Cluster | None) -> Devices:
    path = Path("/proc/cpuinfo")
    cpuinfo = path.read_text() if path.exists() else ""
    name = re.search(r"^model name\s*: (.+)$", cpuinfo, re.MULTILINE)
    if precision == "auto":
        precision = cpu_precision(cpuinfo)
    cores = control_groups.cores()
    description = (
        f"CPU: {name[1] if name else 'CPU'}, {cores} cores, {precision}{', XLA' * (xla == 'on')}"
    )
    # XLA and the sums over workers divide their work among the cores in their own way.
    microbatches = 1 if cluster is not None or xla == "on" else _CPU_MICROBATCHES
    if microbatches > 1 and not set_cpu_threads():
        LOGGER.warning(
            "TensorFlow computed in this process before, with other numbers of threads: training "
            "may be slower, and the result may differ in its last bits"
        )
    return Devices(
        _strategy(0, precision, cluster),
        precision,
        xla == "on",
        None,
        description,
        microbatches=microbatches,
    ).on_workers(cluster)


def _strategy(gpus: int, precision: str, cluster: Cluster | None) -> tf.distribute.Strategy:
    """Returns the strategy over the GPUs of this worker, or over all workers."""
    if cluster is None:
        return mirrored_strategy() if gpus > 1 else tf.distribute.get_strategy()
    rendezvous.join(cluster, {"GPUs": gpus, "precision": precision})
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.index,
        num_accelerators={"GPU": gpus} if gpus else {},
        rpc_layer="grpc",
    )
    # If a worker is lost right after the rendezvous, TensorFlow waits for it without a time limit
    # and holds Python's lock, so that only a watchdog thread outside Python can end the process.
    faulthandler.dump_traceback_later(_CONNECT_S, exit=True)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
    except RuntimeError as error:
        if "program startup" not in str(error):
            raise
        raise UsageError(
            "--model: its module computes with TensorFlow when it is imported, which is too early "
            "for several workers; compute in its functions only"
        ) from None
    finally:
        faulthandler.cancel_dump_traceback_later()
    # The initial values need not agree: the chief's checkpoint hook broadcasts its variables
    # before the first step.
    initialize_on_each_worker(strategy)
    return strategy


def _min_memory_bytes(count: int) -> int | None:
    """Returns the memory of the smallest of the first `count` GPUs, by the CUDA driver.

    TensorFlow reports only the memory that it has allocated.
    """
    try:
        driver = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return None
    size = ctypes.c_size_t()
    sizes = []
    for number in range(count):
        if driver.cuInit(0) or driver.cuDeviceTotalMem_v2(ctypes.byref(size), number):
            return None
        sizes.append(size.value)
    return min(sizes)


def _describe_gpus(details: list[Any]) -> str:
    names = [
        f"{detail.get('device_name', 'unknown')} (compute capability "
        f"{'.'.join(map(str, detail.get('compute_capability', ('?',))))})"
        for detail in details
    ]
    return f"GPU: {', '.join(names)}"
