"""The whole job on one page: prepare, train, test, leave the run directory behind."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainer.config import Config
from trainer.distributed import rendezvous
from trainer.errors import HostLostError
from trainer.runs.directory import RunDirectory
from trainer.runtime.cloud_environment import Cluster
from trainer.runtime.log import LOGGER
from trainer.runtime.timers import Stopwatch
from trainer.training import setup
from trainer.training.setup import Prepared

if TYPE_CHECKING:
    import keras

    from trainer.checkpoint.state import Row
    from trainer.data.dataset import Array
    from trainer.engine.loop import Keeper, Report
    from trainer.reports import report
    from trainer.runs.lease import Lease
    from trainer.writers.tensorboard import EventFile


def run(config: Config, *, cluster: Cluster | None = None, started: float | None = None) -> str:
    """Trains a model and leaves a complete run directory behind.

    Args:
        config: the settings; those left at None come from the model's recipe.
        cluster: the hosts that train together, of which this is the chief; None for one.
        started: when the program started, by time.perf_counter(); now, if left out.

    Returns:
        The path of the run directory. If it holds this very run already, nothing is done.

    Raises:
        TrainerError: what a user can put right: data, device, storage, settings.
    """
    watch = Stopwatch(started)
    located, definition = setup.resolve(config)
    directory = RunDirectory(located)
    if directory.is_finished():
        LOGGER.info("%s: this run is finished already, nothing to do", located.out)
        directory.remove_snapshots()
        if cluster is not None:
            rendezvous.dismiss(cluster)
        return located.out

    job = setup.prepare(located, definition, watch, cluster, directory.choices())
    resolved = job.config
    from trainer.distributed import devices
    from trainer.engine import loop
    from trainer.reports import report
    from trainer.runs import metrics, model_files, predictions
    from trainer.writers import (
        progress,  # noqa: F401 - Not timed as training.
        tensorboard,
    )

    watch.lap("import")
    directory = RunDirectory(resolved)
    with (
        directory.begun() as lease,
        tensorboard.event_file(resolved.tensorboard_dir, resolved, job.model) as events,
    ):
        history = _train(job, lease, events, watch)
        watch.lap("train")
        with devices.failures_explained():
            probabilities = loop.predict(job.model, job.data.test, batch_size=resolved.batch_size)
        watch.lap("evaluate")
        with directory.finishing(job.data.fingerprint, job.devices.description) as folder:
            model_files.write(job.model, folder)
            watch.lap("write")
            result = {
                **metrics.test(probabilities, job.data.test.labels, job.data.spec.classes),
                **_facts(job, history),
                "seconds": watch.seconds(),
            }
            report.write(_reported(job, probabilities, history, result), folder)
            if events is None:
                tensorboard.write(resolved, job.model, history, result, folder)
            watch.lap("report")
            result["seconds"] = watch.seconds()
            metrics.write(result, history, folder)
            predictions.write(probabilities, job.data.test, job.data.spec.classes, folder)
        if events is not None:
            events.close(result)
    with contextlib.suppress(HostLostError):  # Nothing of the run is with the others any more.
        job.devices.hosts.wait()
    LOGGER.info("%s", metrics.in_words(result))
    return resolved.out


def follow(config: Config, cluster: Cluster) -> None:
    """Trains this host's share of each step, and ends when the chief has written the run.

    Args:
        config: the settings, the same as the chief's.
        cluster: the hosts that train together.

    Raises:
        TrainerError: as `run`; and if another host is gone.
    """
    located, definition = setup.resolve(config)
    job = setup.prepare(located, definition, Stopwatch(), cluster)
    from trainer.checkpoint import hooks

    hosts = job.devices.hosts
    with hooks.following(
        job.model, job.callbacks, job.config, data_fingerprint=job.data.fingerprint, hosts=hosts
    ) as keeping:
        _fit(job, keeping)
    hosts.wait()


def _train(job: Prepared, lease: Lease, events: EventFile | None, watch: Stopwatch) -> list[Row]:
    """Trains the model, from the latest snapshot if there is one; returns a row an epoch."""
    from trainer.checkpoint import hooks
    from trainer.writers import progress

    with (
        hooks.keeping(
            job.model,
            job.callbacks,
            job.config,
            data_fingerprint=job.data.fingerprint,
            devices=job.devices,
            lease=lease,
            watch=watch,
        ) as keeping,
        progress.shown(job.config, examples=len(job.data.train)) as shown,
    ):
        reports = [report for report in (events, job.trial) if report is not None]
        return _fit(job, keeping, shown, reports)


def _fit(
    job: Prepared,
    keeping: Keeper,
    shown: keras.callbacks.Callback | None = None,
    reports: Sequence[Report] = (),
) -> list[Row]:
    from trainer.distributed import devices
    from trainer.engine import loop

    config, data = job.config, job.data
    with devices.failures_explained(), job.devices.hosts.losses_explained():
        return loop.fit(
            job.model,
            data.train,
            data.validation,
            epochs=config.epochs,
            batch_size=config.batch_size,
            seed=config.seed,
            devices=job.devices,
            label_smoothing=job.definition.recipe.label_smoothing,
            augmentation=job.augmentation,
            class_weights=job.class_weights,
            frozen_epochs=config.frozen_epochs or 0,
            callbacks=job.callbacks,
            shown=shown,
            reports=reports,
            keeper=keeping,
        )


def _reported(
    job: Prepared, probabilities: Array, history: list[Row], result: dict[str, Any]
) -> report.Facts:
    """Returns what `report.html` is made of."""
    from trainer.data.dataset import Split
    from trainer.engine import loop
    from trainer.reports import report

    def predict(texts: Array) -> Array:
        unlabelled = Split(texts, texts)
        return loop.predict(job.model, unlabelled, batch_size=job.config.batch_size)

    return report.Facts(
        config=job.config,
        data=job.data,
        probabilities=probabilities,
        history=history,
        metrics=result,
        predict=predict,
    )


def _facts(job: Prepared, history: list[Row]) -> dict[str, Any]:
    """Returns what `metrics.json` says of a run besides figures of quality and times."""
    from trainer.data.inputs import Input
    from trainer.runs import metrics

    return {
        "examples_per_second": metrics.examples_per_second(history, len(job.data.train)),
        "epochs": len(history),
        "parameters": job.model.count_params(),
        "input": dataclasses.asdict(Input.of(job.data.spec)),
        "device": job.devices.description,
        "shared_with_training": job.data.shared,
        "seed": job.config.seed,
        "model": job.config.model,
        "data": job.config.data,
    }
