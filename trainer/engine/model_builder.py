"""Builds and compiles the model of a run within the scope of its devices."""

from __future__ import annotations

import gc
import math

import keras

from trainer import models
from trainer.config import ResolvedConfig, result_settings
from trainer.data.dataset import Spec
from trainer.distributed.devices import Devices
from trainer.models import ModelEntry


def build(
    config: ResolvedConfig, model_entry: ModelEntry, spec: Spec, devices: Devices
) -> keras.Model:
    """Returns the compiled model of a run, with the optimizer of its recipe.

    Args:
        config: the settings of the run.
        model_entry: the model, as looked up.
        spec: of the data.
        devices: the devices that the model will be trained on.

    Raises:
        TrainerError: the model cannot be built for such data or settings.
    """
    with devices.strategy.scope():
        return models.build(
            model_entry,
            spec,
            learning_rate=config.learning_rate,
            steps=_steps(config, spec),
            seed=config.seed,
            precision=devices.precision,
            settings=result_settings(config),
        )


def make_optimizer(config: ResolvedConfig, model_entry: ModelEntry, spec: Spec) -> keras.Optimizer:
    """Returns a new optimizer of the recipe, as for a run with these settings."""
    return models.make_optimizer(
        model_entry,
        learning_rate=config.learning_rate,
        steps=_steps(config, spec),
        settings=result_settings(config),
    )


def _steps(config: ResolvedConfig, spec: Spec) -> int:
    """Returns the number of steps of a run."""
    return config.epochs * math.ceil(spec.sizes["train"] / config.batch_size)


def clear_session() -> None:
    """Frees the memory of models; layer names are numbered from the start, as in a new process."""
    keras.utils.clear_session()
    gc.collect()
