"""Everything before training: what can be wrong is found here, the cheapest first."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import models, storage
from trainer.config import Config, LocatedConfig, ResolvedConfig, check, complete
from trainer.data import loader
from trainer.distributed.cluster import Cluster
from trainer.errors import StorageError, UsageError
from trainer.models import ModelEntry, augmentation
from trainer.runtime import cloud_environment, imports, memory
from trainer.runtime.log import LOGGER
from trainer.runtime.timers import StageTimer
from trainer.training import auto_settings
from trainer.writers import tuning
from trainer.writers.tuning import TuningReport

if TYPE_CHECKING:
    import keras

    from trainer.data.dataset import Dataset
    from trainer.distributed.devices import Devices
    from trainer.engine.train_function import TrainStepConfig
    from trainer.runs.finished_run import FinishedRun

_IMBALANCED = 10  # Times as many examples of one class as of another.


@dataclass(frozen=True)
class TrainingJob:
    """A run that could begin now.

    Attributes:
        config: its settings, nothing left open.
        model_entry: the model, as looked up.
        data: read, checked and split.
        devices: opened.
        model: built and compiled.
        callbacks: of the recipe.
        step_config: loss and augmentation of a training step.
        trial: the report of a tuning trial, if the run is one.
    """

    config: ResolvedConfig
    model_entry: ModelEntry
    data: Dataset
    devices: Devices
    model: keras.Model
    callbacks: Sequence[keras.callbacks.Callback]
    step_config: TrainStepConfig
    trial: TuningReport | None


def prepare(
    config: LocatedConfig,
    model_entry: ModelEntry,
    timer: StageTimer,
    cluster: Cluster | None = None,
    saved: Mapping[str, Any] | None = None,
) -> TrainingJob:
    """Reads the data, opens the devices, settles what was left open, and builds the model.

    Args:
        config: the settings.
        model_entry: the model, as looked up.
        timer: of the run.
        cluster: the workers that train together; None for one.
        saved: settings that the data decided when this very run was begun.

    Raises:
        TrainerError: what a user can put right: data, device, settings.
    """
    writes = cluster is None or cluster.is_chief
    if writes and not storage.is_remote(config.out):
        _check_persistent(config.out)
    trial = tuning.report(os.environ) if writes else None
    if config.weights is not None:
        _check_there("--weights", config.weights)
    data = loader.load(config)
    models.check_data(model_entry, data.spec)
    if config.augmentation is not None:
        augmentation.named(config.augmentation, data.spec)
    if writes:
        _warn_about_data(config, data)
    if trial is not None and data.validation is None:
        raise UsageError(
            "--validation-split: a tuning trial needs it, 0.1 say, or --validation-data: what is chosen "
            "by the test part does not hold elsewhere"
        )
    memory.check_training(data.size_bytes)
    timer.record("data")
    # Not before all that is cheap to check is known to be right: TensorFlow takes seconds.
    with imports.keras():
        from trainer.distributed import devices
        from trainer.engine import model_builder, train_function
        from trainer.runs import model_files

        timer.record("import")
        device = devices.select(
            config.device,
            precision=config.precision,
            xla=config.xla,
            deterministic=config.deterministic,
            cluster=cluster,
        )
    LOGGER.info("training %s on %s, %s", config.model, config.data, device.description)
    with devices.translate_errors(), device.workers.translate_errors():
        resolved = auto_settings.resolve_auto_settings(
            config, model_entry, data, device, saved or {}
        )
        model = model_builder.build(resolved, model_entry, data.spec, device)
    if config.model not in models.MODELS:  # Those are known to be saved.
        model_files.check_saveable(model, config.model)
    timer.record("build")
    return TrainingJob(
        resolved,
        model_entry,
        data,
        device,
        model,
        models.callbacks(model_entry, validation=data.validation is not None),
        train_function.make_step_config(resolved, model_entry.recipe, data),
        trial,
    )


def _check_there(flag: str, path: str) -> None:
    folder, name = storage.parent(path)
    if not folder.generation(name):
        raise UsageError(f"{flag} {path}: no such file")


def _warn_about_data(config: LocatedConfig, data: Dataset) -> None:
    """Warns of what makes figures of quality mean less than they seem to."""
    for part, count in data.leaked.items():
        if count:
            LOGGER.warning(
                "%s: %d of %d examples of the %s part are in the training part too",
                config.data, count, data.spec.sizes[part], part,
            )  # fmt: skip
    counts = data.class_counts()
    most, least = int(counts.argmax()), int(counts.argmin())
    if counts[most] >= _IMBALANCED * counts[least] and config.class_weights == "none":
        LOGGER.warning(
            "%s: %d training examples of class %r and %d of %r; --class-weights balanced makes "
            "each class count as much", config.data, counts[most], data.spec.classes[most],
            counts[least], data.spec.classes[least],
        )  # fmt: skip


def _check_persistent(out: str) -> None:
    """Warns of a run directory that goes with its container.

    Raises:
        UsageError: it goes with a machine of a service, which nobody can reach any more.
    """
    ancestor = Path(out).absolute()
    while not ancestor.exists():
        ancestor = ancestor.parent
    if ancestor.stat().st_dev != Path("/").stat().st_dev:  # A mounted folder.
        return
    service = cloud_environment.collects_logs(os.environ)
    if service is not None:
        raise UsageError(
            f"--out {out}: lies on a machine that goes away with the job ({service} is set), "
            "expected gs://bucket/path"
        )
    if cloud_environment.in_image(os.environ):
        LOGGER.warning(
            "--out %s: lies in the container and goes with it; mount a folder there, as "
            "-v FOLDER:/job/runs, or give gs://bucket/path", out,
        )  # fmt: skip


def resolve(config: Config) -> tuple[LocatedConfig, ModelEntry]:
    """Looks up the model, and fills in what the user left open and the data will not decide.

    From the recipe, but for `out`, which is `runs/MODEL-DATE-TIME`.

    Raises:
        UsageError: there is no such model, or a setting that it does not have.
    """
    with imports.gc_paused():  # A user's module imports Keras.
        model_entry = models.find(config.model)
    models.check_settings(model_entry, config)
    return fill_in(config, model_entry), model_entry


def fill_in(config: Config, model_entry: ModelEntry) -> LocatedConfig:
    """Returns the settings with what the user left open, but for what the data will decide."""
    name = re.sub(r"\W+", "-", config.model)
    recipe = model_entry.recipe
    fixed = {} if model_entry.choose else recipe.numbers()
    return complete(
        LocatedConfig,
        config,
        data=recipe.data,
        out=f"runs/{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}",
        **fixed,
    )


def reload(run: FinishedRun, data: str | None = None) -> Dataset:
    """Reads the data of a finished run, split as by the run.

    Args:
        run: the run.
        data: where it is now, or other data in its place, by name, path or gs://.

    Raises:
        StorageError: it is not there any more.
        DataError: it is damaged.
    """
    # What the machine of the run had for a cache, this one need not have.
    values = {**run.config, "cache_dir": None}
    if data is not None:
        values |= {"data": data, "validation_data": None, "test_data": None}
    labels = {name: f"{run.run}/config.json: {name}" for name in values}
    config = check(ResolvedConfig, values, labels=labels)
    try:
        return loader.load(config)
    except StorageError as error:
        if data is not None:
            raise
        raise type(error)(f"{error}; --data says where the data is now") from None
