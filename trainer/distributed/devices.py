"""Which devices a run uses, and the tf.distribute strategy over them."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import faulthandler
import functools
import os
import re
import site
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorflow as tf

from trainer.distributed import rendezvous
from trainer.distributed.cluster import Cluster
from trainer.distributed.collectives import Workers
from trainer.engine import precision as mixed
from trainer.errors import DeviceError, UsageError

DRIVER_LIBRARY = "libcuda.so.1"
# What TensorFlow 2.21 opens at run time (its dso_loader).
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
# By what cuInit returns (CUresult in CUDA's driver API).
_DRIVER_ADVICE = {
    34: "a stub is found in place of the driver; take its folder out of LD_LIBRARY_PATH",
    100: "the driver sees no device; run nvidia-smi there, and see what NVIDIA_VISIBLE_DEVICES "
    "leaves over",
    802: "the GPUs' fabric manager is not running, which machines with NVSwitch need",
    803: "the driver's library and its kernel module differ; restart the machine after an update",
    804: "a libcuda of CUDA's compatibility package is found first; take it out of LD_LIBRARY_PATH",
}
# A batch is cut in two on a CPU, each half computed by half of the cores from end to end. Cores
# that share every single operation wait for each other at the end of each. Two however many there
# are, so that what batch normalisation averages over does not depend on the machine.
_CPU_MICROBATCHES = 2
# For workers that have just met to connect.
_CONNECT_S = 60


@dataclass(frozen=True)
class Devices:
    """The devices of a run.

    Attributes:
        strategy: places variables, and sums gradients over the devices.
        precision: what steps are computed in: "float32", "bfloat16" or "float16".
        xla: whether XLA compiles the steps.
        memory_bytes: of the smallest GPU; None without one, or if it cannot be told.
        description: what the run is on, for the log and `metrics.json`; the number of cores too,
            since sums depend on how they are cut into threads, and the precision.
        workers: those that train together.
        microbatches: into how many parts each device cuts its part of a batch, to compute them at once.
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
        """How many devices share a batch."""
        return int(self.strategy.num_replicas_in_sync)

    def on(self, cluster: Cluster | None) -> Devices:
        """Returns these devices, on each of the workers."""
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
        device: "auto" takes the GPUs that are there, "gpu" insists on one, "cpu" leaves them alone.
        precision: "float32", "bfloat16", "float16", or "auto" for the fastest it has units for.
        xla: "on", "off", or "auto" for one GPU; on a CPU it makes steps slower, and with several
            GPUs there is no compiling across them.
        deterministic: keeps TensorFlow from kernels whose result can differ from call to call.
        cluster: the workers that train together, each with its devices; None for one.

    Raises:
        DeviceError: a GPU is asked for and not there, or is there and TensorFlow cannot open it; or
            workers differ.
        UsageError: TensorFlow was used before, which several workers do not allow.
        WorkerLostError: another worker does not come.
    """
    if cluster is not None and xla == "on":
        raise DeviceError(
            f"--xla on: found {len(cluster.addresses)} workers, expected one; XLA does not compile "
            "across several"
        )
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")
        return _cpu(precision, xla, cluster)
    gpus = tf.config.list_physical_devices("GPU")
    present = nvidia_devices()
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if not gpus and present and hidden and device == "gpu":
        raise DeviceError("--device gpu: CUDA_VISIBLE_DEVICES hides all NVIDIA devices")
    if not gpus and present and not hidden:
        missing = missing_libraries()
        answer = None if DRIVER_LIBRARY in missing else driver_problem()
        raise DeviceError(unusable(present, missing, answer))
    if not gpus and device == "gpu":
        raise DeviceError(
            "--device gpu: found no NVIDIA device on this machine, expected one; a container gets "
            "it by docker run --gpus all, a pod by a limit of nvidia.com/gpu"
        )
    if not gpus:
        return _cpu(precision, xla, cluster)
    if xla == "on" and len(gpus) > 1:
        raise DeviceError(
            f"--xla on: found {len(gpus)} GPUs, expected one; XLA does not compile across several"
        )
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    if precision == "auto":
        precision = mixed.of_gpus([each.get("compute_capability", (0, 0)) for each in details])
    compiled = xla == "on" or (xla == "auto" and len(gpus) == 1 and cluster is None)
    return Devices(
        _strategy(len(gpus), precision, cluster),
        precision,
        compiled,
        _min_memory(len(gpus)),
        f"{_gpus(details)}, {precision}{', XLA' * compiled}",
    ).on(cluster)


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Turns what TensorFlow raises when memory ends or XLA cannot compile a model into one line.

    Raises:
        DeviceError: in place of that.
    """
    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        what = str(error).partition("\n")[0]
        raise DeviceError(
            f"out of memory: {what}. Try a smaller --batch-size, or a smaller model"
        ) from None
    except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
        found = re.search(r"unsupported operations when trying to compile .*?: (.*)", str(error))
        if not found:
            raise
        raise DeviceError(
            f"--xla: XLA cannot compile this model: {found[1]}; give --xla off"
        ) from None


def nvidia_devices(dev: Path = Path("/dev")) -> list[str]:
    """Returns the NVIDIA device files of this machine, /dev/nvidia0 and so on."""
    return sorted(str(path) for path in dev.glob("nvidia[0-9]*"))


def missing_libraries(names: Iterable[str] = CUDA_LIBRARIES) -> list[str]:
    """Returns those of the shared libraries that cannot be opened, as TensorFlow would look."""
    return [name for name in names if not _opens(name)]


def driver_problem(library: str = DRIVER_LIBRARY) -> str | None:
    """Asks the CUDA driver itself why it does not work, and says what to do; None if it does.

    Args:
        library: of the driver; it can be opened.
    """
    driver = ctypes.CDLL(library)
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    major, minor = version.value // 1000, version.value % 1000 // 10
    if major < _MIN_CUDA:
        return (
            f"the NVIDIA driver knows CUDA {major}.{minor}, expected {_MIN_CUDA}.0 or newer: "
            "install driver 525.60.13 or newer on the machine; the image cannot bring it along"
        )
    code = driver.cuInit(0)
    if code == 0:
        return None
    text = ctypes.c_char_p()
    driver.cuGetErrorString(code, ctypes.byref(text))
    advice = _DRIVER_ADVICE.get(code, "run nvidia-smi on the machine")
    return f"cuInit gives {code}, {(text.value or b'unknown').decode()}: {advice}"


def unusable(present: list[str], missing: list[str], problem: str | None = None) -> str:
    """Says why TensorFlow cannot use a GPU that the machine has, and what to do.

    Args:
        present: device files.
        missing: libraries that cannot be opened.
        problem: what the driver says of itself, if anything is wrong with it.
    """
    found = f"--device: found {', '.join(present)}, but TensorFlow cannot open it"
    if not tf.test.is_built_with_cuda():
        return f"{found}: this TensorFlow is built without CUDA. {_INSTALL}."
    if missing:
        advice = []
        if DRIVER_LIBRARY in missing:
            advice.append(
                f"{DRIVER_LIBRARY} comes with the NVIDIA driver: install it, or run the container "
                "with --gpus all."
            )
        if set(missing) - {DRIVER_LIBRARY}:
            advice.append(f"The CUDA libraries come with the extra gpu: {_INSTALL}.")
        return f"{found}: missing {', '.join(missing)}. {' '.join(advice)}"
    if problem is not None:
        return f"{found}: {problem}."
    return (
        f"{found}: all CUDA libraries open, and the driver works. TF_CPP_MAX_VLOG_LEVEL=3 gives "
        "TensorFlow's own reasons; --device cpu trains without."
    )


def _opens(name: str) -> bool:
    # TensorFlow finds the libraries of the nvidia-* wheels by its own run path, then the system's.
    wheels = (
        path for root in site.getsitepackages() for path in Path(root).glob(f"nvidia/*/lib/{name}")
    )
    try:
        ctypes.CDLL(str(next(wheels, name)))
    except OSError:
        return False
    return True


@functools.cache
def mirrored(devices: tuple[str, ...] | None = None) -> tf.distribute.Strategy:
    """Returns what spreads steps over devices by their names; over all GPUs, if left out.

    The same one each time: sums over devices are numbered by the strategy that made them, from the
    same number on, and TensorFlow remembers of each number the size that it had first. So models of
    several sizes, as of folds, cannot have a strategy each.
    """
    return tf.distribute.MirroredStrategy(devices)


def _strategy(gpus: int, precision: str, cluster: Cluster | None) -> tf.distribute.Strategy:
    """Returns what spreads steps over the GPUs of this worker, or over all workers."""
    if cluster is None:
        return mirrored() if gpus > 1 else tf.distribute.get_strategy()
    rendezvous.join(cluster, {"GPUs": gpus, "precision": precision})
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.index,
        num_accelerators={"GPU": gpus} if gpus else {},
        rpc_layer="grpc",
    )
    # TensorFlow would wait for a worker that has gone this very moment, and hold Python's lock.
    faulthandler.dump_traceback_later(_CONNECT_S, exit=True)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
    except RuntimeError as error:
        if "program startup" not in str(error):
            raise
        raise UsageError(
            "--model: its module computes with TensorFlow when it is imported, which is too early "
            "on several workers; expected that in functions only"
        ) from None
    finally:
        faulthandler.cancel_dump_traceback_later()
    # First values are computed on each worker. TensorFlow would send the chief's, and cannot for
    # uint8, which pixels are, and uint32, which the states of Keras's random generators are. So
    # the keeper sends the chief's variables, before the first step.
    extended = strategy.extended
    alone: Any = super(type(extended), extended)
    extended._get_variable_creator_initial_value = alone._get_variable_creator_initial_value
    return strategy


def _cpu(precision: str, xla: str, cluster: Cluster | None) -> Devices:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    named = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    if precision == "auto":
        precision = mixed.of_processor(text)
    cores = len(os.sched_getaffinity(0))
    description = (
        f"CPU: {named[1] if named else 'CPU'}, {cores} cores, {precision}{', XLA' * (xla == 'on')}"
    )
    # XLA, and what sums over workers, has its own ways of using cores.
    microbatches = 1 if cluster is not None or xla == "on" else _CPU_MICROBATCHES
    if microbatches > 1 and not {"TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"} & {
        *os.environ
    }:
        with contextlib.suppress(RuntimeError):  # TensorFlow has begun with other numbers.
            tf.config.threading.set_inter_op_parallelism_threads(microbatches)
            tf.config.threading.set_intra_op_parallelism_threads(max(1, cores // microbatches))
    return Devices(
        _strategy(0, precision, cluster),
        precision,
        xla == "on",
        None,
        description,
        microbatches=microbatches,
    ).on(cluster)


def _min_memory(count: int) -> int | None:
    """Returns the memory of the smallest of the first `count` GPUs, by the CUDA driver.

    TensorFlow tells what it has taken, not what there is.
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


def _gpus(details: list[Any]) -> str:
    names = [
        f"{detail.get('device_name', 'unknown')} (compute capability "
        f"{'.'.join(map(str, detail.get('compute_capability', ('?',))))})"
        for detail in details
    ]
    return f"GPU: {', '.join(names)}"
