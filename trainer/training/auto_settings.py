"""Resolves unset settings from the size of the data set or by validation accuracy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer import models
from trainer.config import LocatedConfig, ResolvedConfig, complete, flag_name
from trainer.errors import DataError
from trainer.models import ModelEntry
from trainer.runtime.log import LOGGER

if TYPE_CHECKING:
    import keras

    from trainer.data.dataset import Dataset
    from trainer.distributed.devices import Devices

# Candidates are compared on at most this many examples; more rarely change the selection.
_MAX_EXAMPLES = 20_000


# Settings that are decided while the data is read.
_DATA_SETTINGS = ("image_size",)


def with_saved_data_settings(config: LocatedConfig, saved: Mapping[str, Any]) -> LocatedConfig:
    """Returns the settings with those that an earlier run's data decided while it was read.

    Args:
        config: the settings; those that are given are kept.
        saved: auto settings of an unfinished run that is resumed.
    """
    values = {
        name: saved[name]
        for name in _DATA_SETTINGS
        if name in saved and getattr(config, name) is None
    }
    return dataclasses.replace(config, **values)


def resolve_auto_settings(
    config: LocatedConfig,
    model_entry: ModelEntry,
    data: Dataset,
    devices: Devices,
    saved: Mapping[str, Any],
) -> ResolvedConfig:
    """Returns the settings of a run with all unset settings resolved.

    All workers must call this function; all get the values of the chief.

    Args:
        config: the settings of the user and of the recipe.
        model_entry: the model.
        data: the data set, checked and split.
        devices: the opened devices.
        saved: auto settings of an unfinished run that is resumed; they are kept.

    Raises:
        DataError: the data set is too small to compare candidates.
    """
    content = devices.workers.broadcast_bytes(json.dumps(dict(saved)).encode())
    auto: dict[str, Any] = data.auto_settings | json.loads(content)
    for name, candidates in model_entry.recipe.candidates.items():
        if name not in auto and getattr(config, name) is None:
            auto[name] = select_candidate(name, candidates, config, model_entry, data, devices)
    auto |= models.auto_settings(model_entry, data.spec, dataclasses.replace(config, **auto))
    if auto:
        text = ", ".join(f"{flag_name(name)} {value}" for name, value in auto.items())
        LOGGER.info("auto settings: %s", text)
    return complete(ResolvedConfig, config, **auto, auto_settings=tuple(auto))


def select_candidate(
    name: str,
    candidates: tuple[str, ...],
    config: LocatedConfig,
    model_entry: ModelEntry,
    data: Dataset,
    devices: Devices,
) -> str:
    """Trains with each candidate; returns the one with the best validation accuracy.

    Args:
        name: name of the setting.
        candidates: its possible values.
        config: the other settings.
        model_entry: the model.
        data: the data set; candidates are trained and validated on a sample of it.
        devices: the opened devices.

    Raises:
        DataError: the data set is too small to compare candidates, or no candidate can be built
            for it.
    """
    from trainer.engine import model_builder

    try:
        sample = data.subsample(_MAX_EXAMPLES, seed=config.seed)
    except DataError as error:
        flag = flag_name(name)
        raise DataError(
            f"{config.data}: {error}, to compare {flag} {' and '.join(candidates)}; set {flag}"
        ) from None
    accuracies: dict[str, float] = {}
    for candidate in candidates:
        value: dict[str, Any] = {name: candidate}
        candidate_config = dataclasses.replace(config, **value)
        auto = models.auto_settings(model_entry, sample.spec, candidate_config)
        resolved = complete(ResolvedConfig, candidate_config, **auto)
        try:
            model = model_builder.build(resolved, model_entry, sample.spec, devices)
        except DataError as error:  # The same on all workers.
            if candidate == candidates[-1] and not accuracies:
                raise
            LOGGER.info("%s %s is left out: %s", flag_name(name), candidate, error)
            continue
        accuracies[candidate] = _validate(model, resolved, model_entry, sample, devices)
        model_builder.clear_session()
        LOGGER.info(
            "%s %s: accuracy %.2f%% on %d validation examples, after %d epochs on %d examples",
            flag_name(name), candidate, 100 * accuracies[candidate], len(sample.test),
            resolved.epochs, len(sample.train),
        )  # fmt: skip
    return max(accuracies, key=lambda candidate: accuracies[candidate])


def _validate(
    model: keras.Model,
    config: ResolvedConfig,
    model_entry: ModelEntry,
    sample: Dataset,
    devices: Devices,
) -> float:
    """Trains a model on a sample; returns its accuracy on the sample's test split."""
    from trainer.engine import loop, train_function
    from trainer.runs.metrics import loss_accuracy

    loop.TrainingLoop(
        model=model,
        train=sample.train,
        validation=None,
        options=config,
        devices=devices,
        step_config=train_function.make_step_config(config, model_entry.recipe, sample),
    ).run()
    probabilities = loop.predict(model, sample.test, batch_size=config.batch_size)
    accuracy = loss_accuracy(probabilities, sample.test.labels)["accuracy"]
    return devices.workers.broadcast([accuracy])[0]
