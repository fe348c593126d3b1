"""Prepares a run: checks settings, data and devices, cheapest checks first; builds the model."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import models, storage
from trainer.config import (
    Config,
    DataOptions,
    LocatedConfig,
    ResolvedConfig,
    check,
    complete,
    option_specs,
    saved_auto_settings,
)
from trainer.data import checks, identity, loader
from trainer.distributed.cluster import Cluster
from trainer.errors import StorageError, TransientStorageError, UsageError
from trainer.models import ModelEntry, augmentation
from trainer.runs.directory import RunDirectory
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


@dataclass(frozen=True)
class TrainingJob:
    """Everything that training needs.

    Attributes:
        config: the settings, all resolved.
        model_entry: the model's entry in the registry: its build function and recipe.
        data: the data set, checked and split.
        devices: the opened devices.
        model: the built and compiled model.
        callbacks: callbacks of the recipe.
        step_config: loss and augmentation of a training step.
        trial: the report of a tuning trial; None if the run is not a trial.
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
    """Reads the data, opens the devices, resolves auto settings, and builds the model.

    Args:
        config: the settings.
        model_entry: the model.
        timer: timer of the run.
        cluster: the workers that train together; None for one worker.
        saved: auto settings of an unfinished run that is resumed.

    Raises:
        TrainerError: something that the user can fix: data, device, settings.
    """
    is_chief = cluster is None or cluster.is_chief
    if is_chief and not storage.is_remote(config.out):
        _check_persistent(config.out)
    trial = tuning.report(os.environ) if is_chief else None
    with_size = auto_settings.with_saved_data_settings(config, saved or {})
    data = _load_data(with_size, model_entry, is_chief=is_chief)
    if trial is not None and data.validation is None:
        raise UsageError(
            "--validation-split: a tuning trial needs validation data; set it to 0.1, for example, "
            "or set --validation-data. Results selected on the test split do not generalise"
        )
    timer.record("data")
    # Imported after all cheap checks, since importing TensorFlow takes seconds.
    with imports.keras():
        from trainer.distributed import devices
        from trainer.engine import train_function

        timer.record("import")
        opened_devices = devices.select(
            config.device,
            precision=config.precision,
            xla=config.xla,
            deterministic=config.deterministic,
            cluster=cluster,
        )
    LOGGER.info("training %s on %s, %s", config.model, config.data, opened_devices.description)
    resolved, model = _build_model(config, model_entry, data, opened_devices, saved or {})
    timer.record("build")
    return TrainingJob(
        resolved,
        model_entry,
        data,
        opened_devices,
        model,
        models.callbacks(model_entry, validation=data.validation is not None),
        train_function.make_step_config(resolved, model_entry.recipe, data),
        trial,
    )


def _load_data(config: LocatedConfig, model_entry: ModelEntry, *, is_chief: bool) -> Dataset:
    """Reads the data, and checks that model, flags and memory fit it; the chief logs warnings."""
    if config.weights is not None:
        _check_exists("--weights", config.weights)
    data = loader.load(config)
    models.check_data(model_entry, data.spec)
    augmentation.check(config.augmentation, data.spec)
    if is_chief:
        _warn_about_data(config, data)
    memory.check_training(data.size_bytes)
    return data


def _build_model(
    config: LocatedConfig,
    model_entry: ModelEntry,
    data: Dataset,
    opened_devices: Devices,
    saved: Mapping[str, Any],
) -> tuple[ResolvedConfig, keras.Model]:
    """Resolves auto settings and builds the model, which must be one that can be saved.

    Returns:
        The resolved settings, and the compiled model.
    """
    from trainer.distributed import devices
    from trainer.engine import model_builder
    from trainer.runs import model_files

    with devices.translate_errors(), opened_devices.workers.translate_errors():
        resolved = auto_settings.resolve_auto_settings(
            config, model_entry, data, opened_devices, saved
        )
        model = model_builder.build(resolved, model_entry, data.spec, opened_devices)
    if config.model not in models.MODELS:  # The built-in models can be saved.
        model_files.check_saveable(model, config.model)
    return resolved, model


def check_content(config: LocatedConfig, directory: RunDirectory) -> None:
    """Checks that the finished run in a directory was trained on the data of `config`.

    Data that no longer exists is not missed if the run has the same path of it.

    Raises:
        RunExistsError: it was trained on other data.
        TrainerError: the data cannot be read.
    """
    auto_values = saved_auto_settings(directory.settings())
    names = {each.name for each in option_specs(DataOptions)} & set(auto_values)
    values: dict[str, Any] = {name: auto_values[name] for name in names}
    try:
        data = loader.load(dataclasses.replace(config, **values))
        weights = storage.sha256(config.weights)
    except TransientStorageError:
        raise
    except StorageError:
        if directory.same_paths():
            return
        raise
    directory.check_content(identity.describe(data), weights)


def _check_exists(flag: str, path: str) -> None:
    folder, name = storage.parent(path)
    if not folder.generation(name):
        raise UsageError(f"{flag} {path}: {storage.describe_missing(path)}")


def _warn_about_data(config: LocatedConfig, data: Dataset) -> None:
    """Says what was understood; warns of files left out, odd examples and rare classes."""
    if config.data not in loader.SHIPPED:
        LOGGER.info("%s: %s", config.data, data.describe())
    if data.source is not None and data.source.left_out:
        LOGGER.warning("%s: left out %s", config.data, data.source.left_out)
    for split, count in data.leaked.items():
        if count:
            LOGGER.warning(
                "%s: %d of %d %s examples are also in the training split",
                config.data, count, data.spec.sizes[split], split,
            )  # fmt: skip
    uniform = data.count_uniform()
    if uniform:
        LOGGER.warning(
            "%s: %d of %d training images have a single colour",
            config.data, uniform, data.spec.sizes["train"],
        )  # fmt: skip
    warning = checks.imbalance_warning(data.class_counts(), data.spec.classes)
    if warning is not None and config.class_weights == "none":
        LOGGER.warning("%s: %s", config.data, warning)


def _check_persistent(out: str) -> None:
    """Warns if the run directory is deleted together with the container.

    Raises:
        UsageError: the run directory is on a machine of a cloud service, which is deleted.
    """
    ancestor = Path(out).absolute()
    while not ancestor.exists():
        ancestor = ancestor.parent
    if ancestor.stat().st_dev != Path("/").stat().st_dev:  # A mounted folder.
        return
    service = cloud_environment.collects_logs(os.environ)
    if service is not None:
        raise UsageError(
            f"--out {out}: is on a machine that is deleted with the job ({service} is set), "
            "expected gs://bucket/path"
        )
    if cloud_environment.in_image(os.environ):
        LOGGER.warning(
            "--out %s: is inside the container and is deleted with it; mount a folder, for example "
            "-v FOLDER:/job/runs, or set gs://bucket/path", out,
        )  # fmt: skip


def resolve(config: Config) -> tuple[LocatedConfig, ModelEntry]:
    """Looks up the model and fills in unset settings that do not depend on the data.

    Returns:
        The settings, and the model's entry.

    Raises:
        UsageError: the model does not exist, or does not have one of the settings.
    """
    with imports.gc_paused():  # A user's module imports Keras.
        model_entry = models.find(config.model)
    models.check_settings(model_entry, config)
    return fill_in(config, model_entry), model_entry


def fill_in(config: Config, model_entry: ModelEntry) -> LocatedConfig:
    """Fills in unset settings from the recipe, and `out` with `runs/MODEL-DATE-TIME`."""
    name = re.sub(r"\W+", "-", config.model)
    recipe = model_entry.recipe
    defaults = {} if model_entry.auto_settings else recipe.hyperparameters()
    return complete(
        LocatedConfig,
        config,
        data=recipe.data,
        out=f"runs/{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}",
        **defaults,
    )


@contextlib.contextmanager
def new_directory(config: Config, located: LocatedConfig) -> Iterator[LocatedConfig]:
    """Yields the settings with a run directory of this job alone, if the user named none.

    Jobs that start in the same second would have the same default. The folder is removed at the
    end, if it is empty.

    Raises:
        StorageError: the folder cannot be created.
    """
    if config.out is not None:
        yield located
        return
    parent = os.path.dirname(located.out)
    out, has_parent = located.out, os.path.isdir(parent)
    with storage.translate_errors(out):
        for number in itertools.count(2):
            os.makedirs(parent, exist_ok=True)
            try:
                os.mkdir(out)
                break
            except FileExistsError:
                out = f"{located.out}-{number}"
            except FileNotFoundError:  # The other job was refused, and has removed the parent.
                continue
    try:
        yield dataclasses.replace(located, out=out)
    finally:
        with contextlib.suppress(OSError):  # Not empty.
            os.rmdir(out)
            if not has_parent:
                os.rmdir(parent)


def reload(run: FinishedRun, data: str | None = None) -> Dataset:
    """Reads the data of a finished run, with the same splits.

    Args:
        run: the run.
        data: name, path or gs:// of the data, if it has moved or other data is to be read.
            Default: the data of the run.

    Raises:
        StorageError: the data no longer exists.
        DataError: the data is damaged.
    """
    # The cache folder of the run's machine may not exist on this one.
    values = {**run.config, "cache_dir": None}
    if data is not None:
        values |= {"data": data, "validation_data": None, "test_data": None}
    labels = {name: f"{run.path}/config.json: {name}" for name in values}
    config = check(ResolvedConfig, values, labels=labels)
    try:
        return loader.load(config, columns=run.source.columns if run.source else None)
    except StorageError as error:
        if data is not None:
            raise
        raise type(error)(f"{error}; set --data to its current path") from None
