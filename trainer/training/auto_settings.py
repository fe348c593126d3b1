"""The settings that nobody gave and the data decides: by its size, or by what does better on it."""

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
    from trainer.data.dataset import Dataset
    from trainer.distributed.devices import Devices

# Of examples that candidates are tried on: with more the answer is hardly another, but late.
_MAX = 20_000


def resolve_auto_settings(
    config: LocatedConfig,
    model_entry: ModelEntry,
    data: Dataset,
    devices: Devices,
    saved: Mapping[str, Any],
) -> ResolvedConfig:
    """Returns the settings of a run with nothing left open.

    Args:
        config: what was given.
        model_entry: the model, as looked up.
        data: read, checked and split.
        devices: opened. Of several workers all call this, and end with what the chief has.
        saved: what was decided when this very run was begun; it is not decided again.

    Raises:
        DataError: the data is too small to try candidates on.
    """
    content = devices.workers.broadcast_bytes(json.dumps(dict(saved)).encode())
    settled: dict[str, Any] = json.loads(content)
    for name, candidates in model_entry.recipe.candidates.items():
        if name not in settled and getattr(config, name) is None:
            settled[name] = select_candidate(name, candidates, config, model_entry, data, devices)
    given = dataclasses.replace(config, **settled)
    settled |= models.choose(model_entry, data.spec, given)
    if settled:
        words = ", ".join(f"{flag_name(name)} {value}" for name, value in settled.items())
        LOGGER.info("chosen from the data: %s", words)
    return complete(ResolvedConfig, config, **settled, auto_settings=tuple(settled))


def select_candidate(
    name: str,
    candidates: tuple[str, ...],
    config: LocatedConfig,
    model_entry: ModelEntry,
    data: Dataset,
    devices: Devices,
) -> str:
    """Returns the value of a setting with which the model is right most often in validation."""
    from trainer.engine import loop, model_builder, train_function
    from trainer.runs.metrics import loss_accuracy

    try:
        small = data.sample(_MAX, seed=config.seed)
    except DataError as error:
        flag = flag_name(name)
        raise DataError(
            f"{config.data}: {error}, to try {flag} {' and '.join(candidates)}; give one"
        ) from None
    accuracies = {}
    for candidate in candidates:
        value: dict[str, Any] = {name: candidate}
        with_it = dataclasses.replace(config, **value)
        settled = models.choose(model_entry, small.spec, with_it)
        resolved = complete(ResolvedConfig, with_it, **settled)
        model = model_builder.build(resolved, model_entry, small.spec, devices)
        loop.TrainingLoop(
            model=model,
            train=small.train,
            validation=None,
            options=resolved,
            devices=devices,
            step_config=train_function.make_step_config(resolved, model_entry.recipe, small),
        ).run()
        probabilities = loop.predict(model, small.test, batch_size=resolved.batch_size)
        measured = loss_accuracy(probabilities, small.test.labels)["accuracy"]
        accuracies[candidate] = devices.workers.broadcast([measured])[0]
        model_builder.clear_session()
        LOGGER.info(
            "%s %s: accuracy %.2f%% on %d examples held out, after %d epochs over %d",
            flag_name(name), candidate, 100 * accuracies[candidate], len(small.test),
            resolved.epochs, len(small.train),
        )  # fmt: skip
    return max(accuracies, key=lambda each: accuracies[each])
