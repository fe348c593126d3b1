"""The whole job on one page: data, device, model, training, test, run directory."""

from __future__ import annotations

import datetime
import math
import re
from typing import TYPE_CHECKING

from trainer import datasets, memory, models
from trainer.config import Config, ResolvedConfig, complete
from trainer.log import LOGGER, native_greetings_hidden
from trainer.models import Recipe
from trainer.results.run_directory import RunDirectory
from trainer.stopwatch import Stopwatch

if TYPE_CHECKING:
    from trainer.datasets.dataset import Dataset


def run(config: Config, *, started: float | None = None) -> str:
    """Trains a model and leaves a complete run directory behind.

    Args:
        config: the settings; those left at None come from the model's recipe.
        started: when the program started, by time.perf_counter(); now, if left out.

    Returns:
        The path of the run directory. If it holds this very run already, nothing is done.

    Raises:
        TrainerError: what a user can put right: data, device, storage, settings.
    """
    watch = Stopwatch(started)
    with native_greetings_hidden():  # A user's module imports Keras.
        definition = models.find(config.model)
    config = fill_in(config, definition.recipe)
    directory = RunDirectory(config)
    if directory.is_finished():
        LOGGER.info("%s: this run is finished already, nothing to do", config.out)
        directory.remove_snapshots()
        return config.out

    data = load(config)
    models.check_data(definition, data.spec)
    memory.check_training(data.size_bytes)
    watch.lap("data")
    # Not before all that is cheap to check is known to be right: TensorFlow takes seconds.
    with native_greetings_hidden():
        from trainer.engine import devices, keeper, loop, progress
        from trainer.results import exports, metrics

        watch.lap("import")
        device = devices.select(
            config.device,
            precision=config.precision,
            xla=config.xla,
            deterministic=config.deterministic,
        )
    LOGGER.info("training %s on %s, %s", config.model, config.data, device.description)
    with devices.failures_explained(), device.strategy.scope():
        model = models.build(
            definition,
            data.spec,
            learning_rate=config.learning_rate,
            steps=config.epochs * math.ceil(len(data.train) / config.batch_size),
            seed=config.seed,
            precision=device.precision,
        )
    if config.model not in models.MODELS:  # Those are known to be saved.
        exports.rehearse(model, config.model)
    watch.lap("build")
    callbacks = models.callbacks(definition, validation=data.validation is not None)
    with directory.begun() as lease:
        with (
            keeper.keeping(
                model,
                callbacks,
                config,
                data_fingerprint=data.fingerprint,
                device=device.description,
                lease=lease,
                watch=watch,
            ) as keeping,
            progress.shown(config, examples=len(data.train)) as shown,
            devices.failures_explained(),
        ):
            history = loop.fit(
                model,
                data.train,
                data.validation,
                epochs=config.epochs,
                batch_size=config.batch_size,
                seed=config.seed,
                devices=device,
                label_smoothing=definition.recipe.label_smoothing,
                augmentation=definition.recipe.augmentation,
                callbacks=callbacks,
                shown=shown,
                keeper=keeping,
            )
        watch.lap("train")
        with devices.failures_explained():
            probabilities = loop.predict(model, data.test, batch_size=config.batch_size)
        watch.lap("evaluate")
        with directory.finishing(data.fingerprint, device.description) as folder:
            exports.write(model, folder)
            watch.lap("write")
            result = {
                **metrics.test(probabilities, data.test.labels, data.spec.classes),
                "seconds": watch.seconds(),
                "examples_per_second": metrics.examples_per_second(history, len(data.train)),
                "epochs": len(history),
                "parameters": model.count_params(),
                "device": device.description,
                "seed": config.seed,
                "model": config.model,
                "data": config.data,
            }
            metrics.write(result, history, folder)
    LOGGER.info("%s", metrics.in_words(result))
    return config.out


def load(config: ResolvedConfig) -> Dataset:
    """Reads the data of a run, as `datasets.load`."""
    return datasets.load(
        config.data,
        seed=config.seed,
        validation=config.validation,
        fold=config.fold_of,
        allow_pickle=config.allow_pickle,
    )


def fill_in(config: Config, recipe: Recipe) -> ResolvedConfig:
    """Fills in what the user left open: from the recipe, and `runs/MODEL-DATE-TIME` for `out`."""
    name = re.sub(r"\W+", "-", config.model)
    return complete(
        config,
        data=recipe.data,
        out=f"runs/{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}",
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
    )
