"""Runs training loops with few arguments, for tests."""

from __future__ import annotations

from typing import Any

import keras

from trainer.config import ResolvedTrainOptions
from trainer.data.dataset import Split
from trainer.distributed.devices import Devices
from trainer.engine.loop import TrainingLoop
from trainer.engine.train_function import TrainStepConfig
from trainer.engine.train_state import Logs

_STEP = ("label_smoothing", "augmentation", "class_weights")
_LOOP = ("callbacks", "progress_callback", "metric_writers", "hook", "clock")


def fit(
    model: keras.Model,
    train: Split,
    validation: Split | None = None,
    *,
    devices: Devices,
    **settings: Any,
) -> list[Logs]:
    """Runs a training loop; returns its logs.

    The settings are fields of ResolvedTrainOptions, TrainStepConfig and TrainingLoop.
    """
    step = {name: settings.pop(name) for name in _STEP if name in settings}
    further = {name: settings.pop(name) for name in _LOOP if name in settings}
    return TrainingLoop(
        model=model,
        train=train,
        validation=validation,
        options=ResolvedTrainOptions(**settings),
        devices=devices,
        step_config=TrainStepConfig(**step),
        **further,
    ).run()
