"""`--dry-run`: checks in seconds what would fail late in a run, and estimates time and price."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainer import storage
from trainer.config import Config, LocatedConfig, flag_name
from trainer.models import ModelEntry
from trainer.runs.directory import RunDirectory, checkpoints_path
from trainer.runtime import memory
from trainer.runtime.log import LOGGER
from trainer.runtime.timers import StageTimer
from trainer.training import cross_validation, setup
from trainer.training.setup import TrainingJob

if TYPE_CHECKING:
    from trainer.engine.throughput import Throughput


def run(config: Config, *, started: float | None = None) -> None:
    """Performs all stages of a run with a second of training, and logs what the run will need.

    Reads and checks the data, writes and removes a file in each output folder, opens the device,
    builds, trains and saves the model, and writes a checkpoint to a temporary folder.

    Args:
        config: the settings; with folds, the first fold is used.
        started: start of the program, by time.perf_counter(). Default: now.

    Raises:
        TrainerError: as `train.run`.
    """
    timer = StageTimer(started)
    located, model_entry = setup.resolve(config)
    runs = 1
    if located.folds and not located.fold:
        runs, located = located.folds, cross_validation.fold_config(located, 1)
    directory = RunDirectory(located)
    if directory.is_finished():
        setup.check_content(located, directory)
        LOGGER.info("%s: this run is finished already, nothing to do", located.out)
        return
    job = setup.prepare(_with_candidates(located, model_entry), model_entry, timer)
    begin_s = timer.total()
    from trainer.distributed import devices
    from trainer.engine import throughput
    from trainer.runs import model_files

    with devices.translate_errors():
        speed = throughput.measure(
            job.model,
            job.data.train,
            job.config,
            devices=job.devices,
            step_config=job.step_config,
        )
        size_bytes, checkpoint_s = _write_checkpoint(job)
        peaks = throughput.peak_memory()
        save_started = time.perf_counter()
        model_files.check_saveable(job.model, job.config.model)
        write_s = time.perf_counter() - save_started
    for line in _format_data(job):
        LOGGER.info("%s", line)
    LOGGER.info("writable: %s", ", ".join(_output_folders(job)))
    LOGGER.info("checkpoint: %s, written in %.1f s", memory.format_size(size_bytes), checkpoint_s)
    for name, peak_bytes in peaks.items():
        limit = f" of {memory.format_size(memory.limit())}" if name == "memory" else ""
        LOGGER.info("%s: peak %s%s", name, memory.format_size(peak_bytes), limit)
    LOGGER.info(
        "speed: first step %.1f s, then %s examples/s",
        speed.first_step_s, f"{speed.trained_per_s:,.0f}",
    )  # fmt: skip
    _log_estimate(job, begin_s + speed.first_step_s + write_s, speed, runs=runs)
    LOGGER.info("all checks passed; no files were left behind")


def _write_checkpoint(job: TrainingJob) -> tuple[int, float]:
    """Writes a checkpoint to a temporary folder; returns its size in bytes and the seconds."""
    from trainer.checkpoint import state
    from trainer.engine.train_state import TrainState

    started = time.perf_counter()
    with storage.temporary_directory() as folder:
        path = folder / "checkpoint.h5"
        checkpoint = state.capture(
            job.model, job.callbacks, TrainState(), identity={}, environment={}, seconds=0.0
        )
        state.write(checkpoint, path)
        return path.stat().st_size, time.perf_counter() - started


def _with_candidates(config: LocatedConfig, model_entry: ModelEntry) -> LocatedConfig:
    """Returns the settings with the first candidate of each setting that has candidates.

    A run trains with each candidate to select one, which takes too long here.
    """
    first_candidates: dict[str, Any] = {
        name: candidates[0]
        for name, candidates in model_entry.recipe.candidates.items()
        if getattr(config, name) is None
    }
    for name, candidate in first_candidates.items():
        LOGGER.info(
            "%s: %s is used here; the run takes more time to compare all candidates",
            flag_name(name), candidate,
        )  # fmt: skip
    return dataclasses.replace(config, **first_candidates)


def _format_data(job: TrainingJob) -> Iterator[str]:
    spec = job.data.spec
    sizes = ", ".join(f"{size:,} {name}" for name, size in spec.sizes.items())
    shape = "x".join(map(str, spec.shape)) or "of any length"
    yield f"data: {sizes}; {spec.kind}s {shape}, {len(spec.classes)} classes"
    yield f"model: {job.model.count_params():,} parameters"


def _output_folders(job: TrainingJob) -> Iterator[str]:
    yield job.config.out
    yield checkpoints_path(job.config)
    if job.config.tensorboard_dir is not None:
        yield job.config.tensorboard_dir


def _log_estimate(job: TrainingJob, fixed_s: float, speed: Throughput, *, runs: int) -> None:
    """Logs the estimated time and price of the run.

    Args:
        job: the run.
        fixed_s: seconds for start, first step and writing.
        speed: examples per second in training and in testing.
        runs: number of runs, one per fold.
    """
    config, data = job.config, job.data
    validation_size = len(data.validation) if data.validation is not None else 0
    epoch_s = len(data.train) / speed.trained_per_s + validation_size / speed.tested_per_s
    total_s = fixed_s + config.epochs * epoch_s + len(data.test) / speed.tested_per_s
    LOGGER.info(
        "time: about %s%s: %s to start and to write, %s per epoch, %s epochs",
        f"{runs} times " * (runs > 1), _format_duration(total_s), _format_duration(fixed_s),
        _format_duration(epoch_s), config.epochs,
    )  # fmt: skip
    if config.price_per_hour is not None:
        LOGGER.info(
            "price: about %.3g at %.3g per hour",
            runs * total_s / 3600 * config.price_per_hour, config.price_per_hour,
        )  # fmt: skip


def _format_duration(seconds: float) -> str:
    """Formats seconds as 0.5 s, 90 s, 25 min or 3.1 h."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
