"""The whole job on one page: prepare, train, test, leave the run directory behind."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainer import gathering, preparation
from trainer.cloud import Cluster
from trainer.config import Config
from trainer.errors import HostLostError
from trainer.log import LOGGER
from trainer.preparation import Prepared
from trainer.results.run_directory import RunDirectory
from trainer.stopwatch import Stopwatch

if TYPE_CHECKING:
    import keras

    from trainer.datasets.dataset import Array
    from trainer.engine.loop import Keeper, Report
    from trainer.engine.state import Row
    from trainer.lease import Lease
    from trainer.results import report
    from trainer.results.tensorboard import EventFile


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
    located, definition = preparation.resolve(config)
    directory = RunDirectory(located)
    if directory.is_finished():
        LOGGER.info("%s: this run is finished already, nothing to do", located.out)
        directory.remove_snapshots()
        if cluster is not None:
            gathering.dismiss(cluster)
        return located.out

    job = preparation.prepare(located, definition, watch, cluster, directory.choices())
    resolved = job.config
    from trainer.engine import devices, keeper, loop, progress  # noqa: F401 - Not timed as training.
    from trainer.results import exports, metrics, predictions, report, tensorboard

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
            exports.write(job.model, folder)
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
    located, definition = preparation.resolve(config)
    job = preparation.prepare(located, definition, Stopwatch(), cluster)
    from trainer.engine import keeper

    hosts = job.devices.hosts
    with keeper.following(
        job.model, job.callbacks, job.config, data_fingerprint=job.data.fingerprint, hosts=hosts
    ) as keeping:
        _fit(job, keeping)
    hosts.wait()


def _train(job: Prepared, lease: Lease, events: EventFile | None, watch: Stopwatch) -> list[Row]:
    """Trains the model, from the latest snapshot if there is one; returns a row an epoch."""
    from trainer.engine import keeper, progress

    with (
        keeper.keeping(
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
    from trainer.engine import devices, loop

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
    from trainer.datasets.dataset import Split
    from trainer.engine import loop
    from trainer.results import report

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
    from trainer.datasets.inputs import Input
    from trainer.results import metrics

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
