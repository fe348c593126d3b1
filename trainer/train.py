"""The whole job on one page: prepare, train, test, leave the run directory behind."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainer.config import Config
from trainer.distributed import rendezvous
from trainer.errors import WorkerLostError
from trainer.runs.directory import RunDirectory
from trainer.runtime.cloud_environment import Cluster
from trainer.runtime.log import LOGGER
from trainer.runtime.timers import StageTimer
from trainer.training import setup
from trainer.training.setup import TrainingJob

if TYPE_CHECKING:
    import keras

    from trainer.checkpoint.state import Logs
    from trainer.data.dataset import Array
    from trainer.engine.loop import Report, TrainingHook
    from trainer.reports import report
    from trainer.runs.lease import Lease
    from trainer.writers.tensorboard import EventFile


def run(config: Config, *, cluster: Cluster | None = None, started: float | None = None) -> str:
    """Trains a model and leaves a complete run directory behind.

    Args:
        config: the settings; those left at None come from the model's recipe.
        cluster: the workers that train together, of which this is the chief; None for one.
        started: when the program started, by time.perf_counter(); now, if left out.

    Returns:
        The path of the run directory. If it holds this very run already, nothing is done.

    Raises:
        TrainerError: what a user can put right: data, device, storage, settings.
    """
    timer = StageTimer(started)
    located, model_entry = setup.resolve(config)
    directory = RunDirectory(located)
    if directory.is_finished():
        LOGGER.info("%s: this run is finished already, nothing to do", located.out)
        directory.remove_checkpoints()
        if cluster is not None:
            rendezvous.release(cluster)
        return located.out

    job = setup.prepare(located, model_entry, timer, cluster, directory.saved_auto_settings())
    resolved = job.config
    from trainer.distributed import devices
    from trainer.engine import loop
    from trainer.reports import report
    from trainer.runs import metrics, model_files, predictions
    from trainer.writers import (
        progress,  # noqa: F401 - Not timed as training.
        tensorboard,
    )

    timer.record("import")
    directory = RunDirectory(resolved)
    with (
        directory.locked() as lease,
        tensorboard.event_file(resolved.tensorboard_dir, resolved, job.model) as events,
    ):
        history = _train(job, lease, events, timer)
        timer.record("train")
        with devices.translate_errors():
            probabilities = loop.predict(job.model, job.data.test, batch_size=resolved.batch_size)
        timer.record("evaluate")
        with directory.commit(job.data.fingerprint, job.devices.description) as folder:
            model_files.write(job.model, folder)
            timer.record("write")
            result = {
                **metrics.test(probabilities, job.data.test.labels, job.data.spec.classes),
                **_facts(job, history),
                "seconds": timer.seconds(),
            }
            report.write(_reported(job, probabilities, history, result), folder)
            if events is None:
                tensorboard.write(resolved, job.model, history, result, folder)
            timer.record("report")
            result["seconds"] = timer.seconds()
            metrics.write(result, history, folder)
            predictions.write(probabilities, job.data.test, job.data.spec.classes, folder)
        if events is not None:
            events.close(result)
    with contextlib.suppress(WorkerLostError):  # Nothing of the run is with the others any more.
        job.devices.workers.barrier()
    LOGGER.info("%s", metrics.format_result(result))
    return resolved.out


def follow(config: Config, cluster: Cluster) -> None:
    """Trains this worker's share of each step, and ends when the chief has written the run.

    Args:
        config: the settings, the same as the chief's.
        cluster: the workers that train together.

    Raises:
        TrainerError: as `run`; and if another worker is gone.
    """
    located, model_entry = setup.resolve(config)
    job = setup.prepare(located, model_entry, StageTimer(), cluster)
    from trainer.checkpoint import hooks

    workers = job.devices.workers
    with hooks.worker_hook(
        job.model, job.callbacks, job.config, data_fingerprint=job.data.fingerprint, workers=workers
    ) as hook:
        _fit(job, hook)
    workers.barrier()


def _train(
    job: TrainingJob, lease: Lease, events: EventFile | None, timer: StageTimer
) -> list[Logs]:
    """Trains the model, from the latest checkpoint if there is one; returns a row an epoch."""
    from trainer.checkpoint import hooks
    from trainer.writers import progress

    with (
        hooks.chief_hook(
            job.model,
            job.callbacks,
            job.config,
            data_fingerprint=job.data.fingerprint,
            devices=job.devices,
            lease=lease,
            timer=timer,
        ) as hook,
        progress.shown(job.config, examples=len(job.data.train)) as shown,
    ):
        reports = [report for report in (events, job.trial) if report is not None]
        return _fit(job, hook, shown, reports)


def _fit(
    job: TrainingJob,
    hook: TrainingHook,
    shown: keras.callbacks.Callback | None = None,
    reports: Sequence[Report] = (),
) -> list[Logs]:
    from trainer.distributed import devices
    from trainer.engine import loop

    config, data = job.config, job.data
    with devices.translate_errors(), job.devices.workers.translate_errors():
        return loop.fit(
            job.model,
            data.train,
            data.validation,
            epochs=config.epochs,
            batch_size=config.batch_size,
            seed=config.seed,
            devices=job.devices,
            label_smoothing=job.model_entry.recipe.label_smoothing,
            augmentation=job.augmentation,
            class_weights=job.class_weights,
            frozen_epochs=config.frozen_epochs or 0,
            callbacks=job.callbacks,
            shown=shown,
            reports=reports,
            hook=hook,
        )


def _reported(
    job: TrainingJob, probabilities: Array, history: list[Logs], result: dict[str, Any]
) -> report.ReportInputs:
    """Returns what `report.html` is made of."""
    from trainer.data.dataset import Split
    from trainer.engine import loop
    from trainer.reports import report

    def predict(texts: Array) -> Array:
        unlabelled = Split(texts, texts)
        return loop.predict(job.model, unlabelled, batch_size=job.config.batch_size)

    return report.ReportInputs(
        config=job.config,
        data=job.data,
        probabilities=probabilities,
        history=history,
        metrics=result,
        predict=predict,
    )


def _facts(job: TrainingJob, history: list[Logs]) -> dict[str, Any]:
    """Returns what `metrics.json` says of a run besides figures of quality and times."""
    from trainer.data.inputs import InputSignature
    from trainer.runs import metrics

    return {
        "examples_per_second": metrics.examples_per_second(history, len(job.data.train)),
        "epochs": len(history),
        "parameters": job.model.count_params(),
        "input": dataclasses.asdict(InputSignature.of(job.data.spec)),
        "device": job.devices.description,
        "leaked_from_training": job.data.leaked,
        "seed": job.config.seed,
        "model": job.config.model,
        "data": job.config.data,
    }
