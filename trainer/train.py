"""The whole job on one page: prepare, train, test, write the run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import Config, LocatedConfig
from trainer.distributed import rendezvous
from trainer.distributed.cluster import Cluster
from trainer.errors import WorkerLostError
from trainer.models import ModelEntry
from trainer.runs.directory import RunDirectory
from trainer.runtime.callable_module import make_callable
from trainer.runtime.log import LOGGER
from trainer.runtime.timers import StageTimer
from trainer.training import setup
from trainer.training.setup import TrainingJob

if TYPE_CHECKING:
    import keras

    from trainer.checkpoint.state import Checkpoint
    from trainer.data.dataset import Array
    from trainer.engine.loop import MetricWriter, TrainingHook
    from trainer.engine.train_state import Logs
    from trainer.reports import report
    from trainer.runs.lease import Lease
    from trainer.writers.tensorboard import EventFile


def run(config: Config, *, cluster: Cluster | None = None, started: float | None = None) -> str:
    """Trains a model and writes a complete run directory.

    Args:
        config: the settings; those that are None are decided by the model's recipe or by the data.
        cluster: the workers that train together, with this one as chief; None for one worker.
        started: start of the program, by time.perf_counter(). Default: now.

    Returns:
        Path of the run directory. If it holds this very run already, nothing is done.

    Raises:
        TrainerError: something that the user can fix: data, device, storage, settings.
    """
    timer = StageTimer(started)
    located, model_entry = setup.resolve(config)
    with setup.new_directory(config, located) as located:
        return _run(located, model_entry, timer, cluster)


def _run(
    located: LocatedConfig, model_entry: ModelEntry, timer: StageTimer, cluster: Cluster | None
) -> str:
    directory = RunDirectory(located)
    if directory.is_finished():
        setup.check_content(located, directory)
        LOGGER.info("%s: this run is finished already, nothing to do", located.out)
        directory.remove_checkpoints()
        if cluster is not None:
            rendezvous.release(cluster)
        return located.out

    saved = directory.saved_auto_settings()
    job = setup.prepare(located, model_entry, timer, cluster, saved)
    _import_later_stages()
    timer.record("import")
    from trainer.runs import metrics
    from trainer.writers import tensorboard

    resolved = job.config
    directory, identity = RunDirectory(resolved), _identity(job)
    with (
        directory.locked() as lease,
        directory.final_checkpoint() as finished,
        tensorboard.event_file(resolved.tensorboard_dir, resolved, job.model) as events,
    ):
        history, final = _train(job, identity, lease, finished, events, timer)
        timer.record("train")
        result = _write_results(job, identity, history, final, directory, events, timer)
        if events is not None:
            events.close(result)
    with contextlib.suppress(WorkerLostError):  # The other workers hold nothing of the run.
        job.devices.workers.barrier()
    LOGGER.info("%s", metrics.format_result(result))
    return resolved.out


def follow(config: Config, cluster: Cluster) -> None:
    """Trains as a worker that is not the chief; returns when the chief has written the run.

    Args:
        config: the same settings as the chief's.
        cluster: the workers that train together.

    Raises:
        TrainerError: as `run`; also if another worker is lost.
    """
    located, model_entry = setup.resolve(config)
    job = setup.prepare(located, model_entry, StageTimer(), cluster)
    from trainer.checkpoint import hooks

    workers = job.devices.workers
    with hooks.worker_hook(
        job.model,
        job.callbacks,
        identity=_identity(job),
        new_callbacks=job.model_entry.recipe.callbacks,
        workers=workers,
    ) as hook:
        _run_loop(job, hook)
    workers.barrier()


def _identity(job: TrainingJob) -> dict[str, Any]:
    from trainer.checkpoint import identity

    return identity.describe(job.config, job.data, job.model, job.step_config, job.callbacks)


def _train(
    job: TrainingJob,
    identity: Mapping[str, Any],
    lease: Lease,
    finished: Path | None,
    events: EventFile | None,
    timer: StageTimer,
) -> tuple[list[Logs], Checkpoint]:
    """Trains from the latest checkpoint, if there is one.

    Args:
        job: the run.
        identity: its identity.
        lease: lease of the run directory.
        finished: final checkpoint of the finished run that is trained for more epochs; None for
            a new run.
        events: TensorBoard event file.
        timer: timer of the run.

    Returns:
        The logs of each epoch, and the final state.
    """
    from trainer.checkpoint import hooks, state
    from trainer.writers import progress

    with (
        hooks.chief_hook(
            job.model,
            job.callbacks,
            job.config,
            identity=identity,
            new_callbacks=job.model_entry.recipe.callbacks,
            devices=job.devices,
            lease=lease,
            timer=timer,
            finished=None if finished is None else state.read(finished),
        ) as hook,
        progress.progress_callback(job.config, examples=len(job.data.train)) as callback,
    ):
        writers = [writer for writer in (events, job.trial) if writer is not None]
        return _run_loop(job, hook, callback, writers), hook.final


def _run_loop(
    job: TrainingJob,
    hook: TrainingHook,
    progress_callback: keras.callbacks.Callback | None = None,
    metric_writers: Sequence[MetricWriter] = (),
) -> list[Logs]:
    from trainer.distributed import devices
    from trainer.engine.loop import TrainingLoop

    training = TrainingLoop(
        model=job.model,
        train=job.data.train,
        validation=job.data.validation,
        options=job.config,
        devices=job.devices,
        step_config=job.step_config,
        callbacks=job.callbacks,
        progress_callback=progress_callback,
        metric_writers=metric_writers,
        hook=hook,
    )
    with devices.translate_errors(), job.devices.workers.translate_errors():
        return training.run()


def _write_results(
    job: TrainingJob,
    identity: Mapping[str, Any],
    history: list[Logs],
    final: Checkpoint,
    directory: RunDirectory,
    events: EventFile | None,
    timer: StageTimer,
) -> dict[str, Any]:
    """Evaluates the model on the test split, and writes all files of the run.

    Returns:
        The content of `metrics.json`.
    """
    from trainer.checkpoint import identity as run_identity
    from trainer.checkpoint import state
    from trainer.distributed import devices
    from trainer.engine import loop
    from trainer.reports import report
    from trainer.runs import filenames, metrics, model_files, predictions
    from trainer.writers import tensorboard

    test, classes = job.data.test, job.data.spec.classes
    with devices.translate_errors():
        probabilities = loop.predict(job.model, test, batch_size=job.config.batch_size)
    timer.record("evaluate")
    fixed_epochs = run_identity.fixed_epochs(
        job.config, job.model_entry, job.data.spec, final.metadata["train_state"]
    )
    with directory.commit(
        identity["data"],
        job.devices.description,
        epochs=len(history),
        weights=identity["weights"],
        fixed_epochs=fixed_epochs,
    ) as folder:
        if fixed_epochs is None:
            state.write(final, folder / filenames.FINAL_CHECKPOINT)
        model_files.write(job.model, folder)
        timer.record("write")
        result = {
            **metrics.test(probabilities, test.labels, classes),
            **_describe(job, history),
            "seconds": timer.seconds(),
        }
        report.write(_report_inputs(job, probabilities, history, result), folder)
        if events is None:
            tensorboard.write(job.config, job.model, history, result, folder)
        timer.record("report")
        result["seconds"] = timer.seconds()
        metrics.write(result, history, folder)
        predictions.write(probabilities, test, classes, folder)
    return result


def _report_inputs(
    job: TrainingJob, probabilities: Array, history: list[Logs], result: dict[str, Any]
) -> report.ReportInputs:
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


def _describe(job: TrainingJob, history: list[Logs]) -> dict[str, Any]:
    """Returns the entries of `metrics.json` that are neither quality metrics nor times."""
    from trainer.data.inputs import InputSignature
    from trainer.runs import metrics

    return {
        "examples_per_second": metrics.examples_per_second(history, len(job.data.train)),
        "epochs": len(history),
        "parameters": job.model.count_params(),
        "input": dataclasses.asdict(InputSignature.from_spec(job.data.spec)),
        "source": None if job.data.source is None else dataclasses.asdict(job.data.source),
        "device": job.devices.description,
        "leaked_from_training": job.data.leaked,
        "seed": job.config.seed,
        "model": job.config.model,
        "data": job.config.data,
    }


def _import_later_stages() -> None:
    """Imports what is used from now on, so that `seconds` counts it as import, not as training."""
    for module in (
        "trainer.checkpoint.hooks",
        "trainer.engine.loop",
        "trainer.reports.report",
        "trainer.runs.model_files",
        "trainer.runs.predictions",
        "trainer.writers.progress",
        "trainer.writers.tensorboard",
    ):
        importlib.import_module(module)


# `trainer.train(...)` is the Python interface, documented in `trainer/api.py`.
make_callable(__name__, module_of="trainer.api", name="train")
