"""The identity of a run: everything that its result depends on, to compare before it is resumed.

Paths of data and weights are not part of it, their content is. Versions of packages and the device
are not part of it either: a run resumes with others, and a warning tells that its last bits may
differ.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from trainer import storage
from trainer.checkpoint import canonical
from trainer.config import (
    CONTENT_SETTINGS,
    Config,
    ResolvedConfig,
    flag_name,
    option_specs,
    result_settings,
)
from trainer.data import identity as data_identity
from trainer.data.dataset import Dataset, Spec
from trainer.engine import model_builder
from trainer.engine.train_function import TrainStepConfig
from trainer.models import BACKBONE, PREPROCESS, ModelEntry
from trainer.runtime.keras_internals import (
    flatten_layers,
    functional_graph,
    weight_decay_exclusions,
)

Identity = Mapping[str, Any]

_MAX_LINES = 5  # Differences in a message.
_MAX_VALUE = 60  # Characters of a value in a message.
_CODE = "code"


def describe(
    config: ResolvedConfig,
    data: Dataset,
    model: keras.Model,
    step_config: TrainStepConfig,
    callbacks: Sequence[keras.callbacks.Callback],
) -> dict[str, Any]:
    """Returns the identity of a run, of the types that JSON has; call it before the training.

    Args:
        config: settings of the run.
        data: data of the run.
        model: compiled.
        step_config: loss and augmentation.
        callbacks: callbacks of the recipe, as they were created.
    """
    settings = {
        name: value
        for name, value in result_settings(config).items()
        if name not in CONTENT_SETTINGS and name != "epochs"
    }
    identity = {
        "versions": {
            "python": ".".join(platform.python_version_tuple()[:2]),
            "keras": keras.__version__,
        },
        "epochs": config.epochs,
        "settings": settings,
        "data": data_identity.describe(data),
        "weights": storage.sha256(config.weights),
        "input": _input(model),
        "layers": describe_layers(model),
        "optimizer": describe_optimizer(model.optimizer),
        "loss": canonical.describe(
            {
                "label_smoothing": step_config.label_smoothing,
                "class_weights": step_config.class_weights,
            }
        ),
        "augmentation": canonical.describe(step_config.augmentation),
        "callbacks": describe_callbacks(callbacks),
    }
    return dict(json.loads(json.dumps(identity)))


def describe_layers(model: keras.Model) -> list[dict[str, Any]]:
    """Returns the layers of a model in order, each with its configuration and its inputs."""
    graph = functional_graph(model)
    operations = list(model.layers if graph is None else graph.operations)
    operations = [each for each in operations if not isinstance(each, keras.layers.InputLayer)]
    labels: dict[str, str] = {}
    counts: dict[str, int] = {}
    for operation in operations:
        kind = type(operation).__name__
        counts[kind] = counts.get(kind, 0) + 1
        labels[operation.name] = f"{kind} {counts[kind]}"
    inputs = {} if graph is None or isinstance(model, keras.Sequential) else _inputs(model)
    return [
        _describe_layer(operation)
        | {"inputs": canonical.describe(_renamed(inputs.get(operation.name), labels))}
        for operation in operations
    ]


def describe_optimizer(optimizer: keras.Optimizer) -> dict[str, Any]:
    """Returns class and settings of an optimizer, with its schedule."""
    description = {
        "class": type(optimizer).__name__,
        "excluded from weight decay": list(weight_decay_exclusions(optimizer)),
        **canonical.own_parts(optimizer),
    }
    try:
        config = dict(optimizer.get_config())
    except Exception:  # A schedule of the user's own without get_config.
        config = {}
    # Keras's description of a schedule leaves out its code.
    schedule = vars(optimizer).get("_learning_rate")
    if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        config["learning_rate"] = schedule
        description.pop("_learning_rate", None)
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        config.pop("inner_optimizer", None)
        description["inner"] = describe_optimizer(inner)
    return description | canonical.describe_config(config)


def describe_callbacks(callbacks: Sequence[keras.callbacks.Callback]) -> list[dict[str, Any]]:
    """Returns class and attributes of each callback."""
    return [dict(canonical.describe(callback)) for callback in callbacks]


def differences(
    saved: Identity, now: Identity, again: Callable[[], Sequence[Any]] | None = None
) -> list[str]:
    """Lists what differs between two runs, but for the number of epochs; [] if nothing does.

    Args:
        saved: identity of the earlier run.
        now: identity of this run.
        again: describes the callbacks of this run once more, newly created. What differs then,
            such as the time of their creation, differs in every run and is not compared.
    """
    if saved.get("versions", {}).get("python") != now["versions"]["python"]:
        saved, now = _without_code(saved), _without_code(now)  # Each version has its own bytecode.
    same_keras = saved.get("versions", {}).get("keras") == now["versions"]["keras"]
    compare = _Comparison(other_keys_count=same_keras)
    # A setting that did not exist when the checkpoint was saved had its default.
    settings = {each.name: each.default for each in option_specs(Config)}
    settings |= saved.get("settings", {})
    lines = [
        f"{flag_name(name)} was {_format(settings.get(name))}, now {_format(value)}"
        for name, value in now["settings"].items()
        if settings.get(name) != value
    ]
    data = data_identity.differences(saved.get("data", {}), now["data"])
    if data:
        lines.append(f"the data is other data: {'; '.join(data)}")
    if saved.get("weights") != now["weights"]:
        lines.append("--weights: the file has another content")
    found = compare.lists("layer", saved.get("layers", []), now["layers"])
    for part in ("input", "optimizer", "loss", "augmentation"):
        found |= compare.values(part, saved.get(part), now[part])
    callbacks = compare.lists("callback", saved.get("callbacks", []), now["callbacks"])
    if callbacks and again is not None:
        in_every_run = compare.lists("callback", now["callbacks"], again())
        callbacks = {path: line for path, line in callbacks.items() if path not in in_every_run}
    return [*lines, *found.values(), *callbacks.values()]


def fixed_epochs(
    config: ResolvedConfig, model_entry: ModelEntry, spec: Spec, train_state: Mapping[str, Any]
) -> str | None:
    """Returns why more epochs cannot continue a finished run; None if they can.

    A run with more epochs is another one from its first step on if its learning rate is scheduled
    over all steps, or if a callback has read the number of epochs.

    Args:
        config: settings of the run.
        model_entry: its model.
        spec: of its data.
        train_state: its final state, as in a checkpoint.
    """
    if train_state["uses_epochs"]:
        return "a callback of its recipe reads the number of epochs"
    longer = dataclasses.replace(config, epochs=2 * config.epochs)
    now, then = (
        describe_optimizer(model_builder.make_optimizer(each, model_entry, spec))
        for each in (config, longer)
    )
    differences = _Comparison().values("optimizer", now, then)
    paths = [path.removeprefix("optimizer: ") for path in differences]
    if not paths:
        return None
    return f"the optimizer of its recipe depends on the number of epochs ({', '.join(paths)})"


def format_differences(lines: Sequence[str]) -> str:
    """Returns the first differences in one line, and the number of the others."""
    more = len(lines) - _MAX_LINES
    return "; ".join(lines[:_MAX_LINES]) + (f"; and {more} more" if more > 0 else "")


def _describe_layer(operation: keras.Operation) -> dict[str, Any]:
    description: dict[str, Any] = {"class": type(operation).__name__}
    if operation.name in (PREPROCESS, BACKBONE):
        description["role"] = operation.name
    if isinstance(operation, keras.Model):
        description["layers"] = describe_layers(operation)
        return description | canonical.own_parts(operation)
    try:
        description |= canonical.describe_config(operation.get_config())
    except Exception:  # A layer that cannot be saved.
        description |= {"configuration": "unknown"}
    parts = flatten_layers(operation) if isinstance(operation, keras.Layer) else [operation]
    for number, part in enumerate(parts):
        own = canonical.own_parts(part)
        description |= {f"inner {number} {name}" if number else name: own[name] for name in own}
    return description


def _inputs(model: keras.Model) -> dict[str, Any]:
    """Returns the calls of each layer of a functional model, by the layer's name."""
    try:
        config = model.get_config()
    except Exception:  # A model that cannot be saved.
        return {}
    return {each["name"]: each.get("inbound_nodes") for each in config.get("layers", [])}


def _renamed(value: Any, labels: Mapping[str, str]) -> Any:
    """Returns the calls of a layer with the labels of layers for their names."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            name, *position = value["config"]["keras_history"]
            return [labels.get(name, "input"), *position]
        return {key: _renamed(each, labels) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(each, labels) for each in value]
    return value


def _input(model: keras.Model) -> str:
    inputs = getattr(model, "inputs", None) or []
    return ", ".join(f"{each.dtype} {list(each.shape[1:])}" for each in inputs)


class _Comparison:
    """Compares descriptions; returns what differs, as texts by their path in the description."""

    def __init__(self, *, other_keys_count: bool = True) -> None:
        """Takes whether a key that only one description has is a difference.

        It is none if the versions of Keras differ: a new version has new settings.
        """
        self._other_keys_count = other_keys_count

    def values(self, path: str, saved: Any, now: Any, separator: str = ": ") -> dict[str, str]:
        """Compares two values of any kind; the separator comes before the keys of a mapping."""
        if saved == now:
            return {}
        maps = isinstance(saved, Mapping) and isinstance(now, Mapping)
        if not maps or saved.get("class") != now.get("class"):
            if path.endswith((": code", " code")):
                return {path: f"{path.removesuffix('code').rstrip(': ')}: its code differs"}
            return {path: f"{path} was {_format(saved)}, now {_format(now)}"}
        lines: dict[str, str] = {}
        for key in dict.fromkeys([*saved, *now]):
            inner = f"{path}{separator}{key}"
            if key in saved and key in now and key == "layers":
                lines |= self.lists(f"{path}: layer", saved[key], now[key])
            elif (key in saved and key in now) or self._other_keys_count:
                lines |= self.values(inner, saved.get(key), now.get(key), " ")
        return lines

    def lists(
        self, path: str, saved: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
    ) -> dict[str, str]:
        """Compares two lists of layers or callbacks, which are numbered from 1."""
        before, after = ([str(each.get("class")) for each in items] for items in (saved, now))
        # The inputs of layers behind an added one differ as well.
        ignored = {"inputs": None} if before != after else {}
        lines: dict[str, str] = {}
        matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
        for operation, i1, i2, j1, j2 in matcher.get_opcodes():
            olds = [f"{path} {i + 1} {before[i].lower()}" for i in range(i1, i2)]
            news = [f"{path} {j + 1} {after[j].lower()}" for j in range(j1, j2)]
            if operation == "equal":
                pairs = zip(news, saved[i1:i2], now[j1:j2], strict=True)
                for label, old, new in pairs:
                    lines |= self.values(label, {**old, **ignored}, {**new, **ignored})
            elif operation == "replace" and len(olds) == len(news):
                lines |= {
                    label: f"{label}, now {kind.lower()}"
                    for label, kind in zip(olds, after[j1:j2], strict=True)
                }
            else:
                lines |= {label: f"{label} was removed" for label in olds}
                lines |= {f"{label} added": f"{label} was added" for label in news}
        return lines


def _without_code(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_code(each) for name, each in value.items() if name != _CODE}
    return [_without_code(each) for each in value] if isinstance(value, list) else value


def _format(value: Any) -> str:
    if isinstance(value, Mapping) and "class" in value:
        value = value["class"]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}..."
