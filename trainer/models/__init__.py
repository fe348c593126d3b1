"""The models: a registry, recipes, and the checks of built-in models and of a user's own.

A model is a module with a function `build(spec)`, which returns a `keras.Model` from raw examples
to class probabilities, and a `RECIPE`, which says how to train it. A user's own module has the same
form, and is given on the command line as package.module:build; without a RECIPE it gets the
defaults of `Recipe`.

`build` receives the settings of the run that its keyword-only parameters name, for example `width`.
If the module has a function `auto_settings(spec, config)`, it returns values for settings that were
not given, by name.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainer.config import MODEL_SETTINGS, Config, flag_name
from trainer.errors import DataError, UsageError

if TYPE_CHECKING:
    import keras

    from trainer.data.dataset import Spec
    from trainer.models.augmentation import Augmentation

MODELS = {
    "mlp": "trainer.models.mlp:build",
    "cnn": "trainer.models.cnn:build",
    "cnn_fast": "trainer.models.cnn_fast:build",
    "cnn_accurate": "trainer.models.cnn_accurate:build",
    "sentiment": "trainer.models.sentiment:build",
    "sentiment_small": "trainer.models.sentiment:build_small",
    "ngram": "trainer.models.ngram:build",
    "image": "trainer.models.image:build",
    "text": "trainer.models.text:build",
}

# Name of a layer at the front of a model that is fixed before training, such as a vocabulary. Its
# outputs are computed once per example, not at each step.
PREPROCESS = "preprocess"
# Name of the output in files that name it, and of the last layer. The input is named as its kind:
# "image", "vector" or "text".
OUTPUT = "probabilities"
# Name of a layer that is fixed in the same way during the first `--frozen-epochs`.
BACKBONE = "backbone"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained, unless the flags say otherwise.

    Attributes:
        data: default data set.
        accepts: kinds of examples that the model takes: "image", "vector", "text".
        optimizer: a name in keras.optimizers; or, for a schedule, a function from the learning rate
            and the number of steps to an optimizer of Keras's own classes, so that the saved model
            can be loaded without this program. Like `build`, the function receives the settings
            that its keyword-only parameters name.
        learning_rate: step size; of a schedule, the highest.
        batch_size: examples per step, over all devices.
        epochs: passes over the training data.
        label_smoothing: fraction of each target that is spread over all classes.
        augmentation: random change of training examples; None for none.
        callbacks: returns the Keras callbacks of a run; they are driven as by `Model.fit`.
        candidates: values to try for a setting that was not given; the run uses the one with the
            highest validation accuracy.
    """

    data: str = "mnist"
    accepts: tuple[str, ...] = ("image", "vector", "text")
    optimizer: str | Callable[..., keras.Optimizer] = "adam"
    learning_rate: float = 0.001
    batch_size: int = 128
    epochs: int = 10
    label_smoothing: float = 0.0
    augmentation: Augmentation | None = None
    callbacks: Callable[[], Sequence[keras.callbacks.Callback]] = tuple
    candidates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def hyperparameters(self) -> dict[str, Any]:
        """Returns the settings of a run for which the recipe has a default."""
        names = ("epochs", "batch_size", "learning_rate")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class ModelEntry:
    """A model that was looked up by name, not built yet.

    Attributes:
        name: as on the command line.
        function: its `build`.
        recipe: how it is trained.
        auto_settings: returns values for settings that were not given, from the spec of the data
            and the config; None if the model has no such function.
    """

    name: str
    function: Callable[..., keras.Model]
    recipe: Recipe
    auto_settings: Callable[[Spec, Config], Mapping[str, Any]] | None = None


def find(name: str) -> ModelEntry:
    """Looks up a model by its name in the registry, or as package.module:function.

    Raises:
        UsageError: there is no such model.
    """
    target = MODELS.get(name, name)
    module_name, colon, function_name = target.partition(":")
    if not (colon and module_name and function_name) or module_name.startswith("."):
        raise UsageError(
            f"--model: unknown model {name!r}. Expected one of: {', '.join(MODELS)}; or "
            "package.module:build for your own."
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # The module exists; a module that it imports does not.
        raise UsageError(
            f"--model {name}: no module named {error.name!r}, expected one that Python can import; "
            "is its folder in PYTHONPATH?"
        ) from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(f"--model {name}: found no function {function_name!r} in {module_name}")
    recipe = getattr(module, "RECIPE", None) or Recipe()
    if not isinstance(recipe, Recipe):
        raise UsageError(
            f"--model {name}: RECIPE is {type(recipe).__name__}, expected trainer.models.Recipe"
        )
    _check_parameters(name, function)
    return ModelEntry(name, function, recipe, getattr(module, "auto_settings", None))


def check_settings(model_entry: ModelEntry, config: Config) -> None:
    """Raises UsageError for a setting that only other models have."""
    optimizer = model_entry.recipe.optimizer
    names = {*_keywords(model_entry.function)}
    if callable(optimizer):
        names |= {*_keywords(optimizer)}
    for name in MODEL_SETTINGS:
        if name not in names and getattr(config, name) is not None:
            raise UsageError(
                f"{flag_name(name)}: --model {model_entry.name} has no such setting; remove the "
                "flag"
            )


def auto_settings(model_entry: ModelEntry, spec: Spec, config: Config) -> dict[str, Any]:
    """Returns values for the settings that `config` leaves open and the data decides.

    Raises:
        DataError: the model cannot take such data.
    """
    if model_entry.auto_settings is None:
        return {}
    settings = model_entry.auto_settings(spec, config)
    return {name: value for name, value in settings.items() if getattr(config, name) is None}


def check_data(model_entry: ModelEntry, spec: Spec) -> None:
    """Raises DataError if the model cannot take this kind of examples."""
    if spec.kind not in model_entry.recipe.accepts:
        raise DataError(
            f"--model {model_entry.name}: takes examples of kind "
            f"{' or '.join(model_entry.recipe.accepts)}, found {spec.kind}s of shape {spec.shape}"
        )


def build(
    model_entry: ModelEntry,
    spec: Spec,
    *,
    learning_rate: float,
    steps: int,
    seed: int,
    precision: str = "float32",
    settings: Mapping[str, Any] | None = None,
) -> keras.Model:
    """Builds and compiles a model, and checks its outputs for two examples.

    Args:
        model_entry: the model, as looked up.
        spec: of the data.
        learning_rate: step size of the recipe's optimizer.
        steps: total number of training steps, for a schedule.
        seed: of the random generators of Python, NumPy and Keras, for initial weights and dropout.
        precision: number format of training steps; for float16 the optimizer scales the loss.
        settings: of the run, by name, for functions that take some.

    Raises:
        UsageError: the model does not return class probabilities, float (N, classes).
    """
    import keras

    keras.utils.set_random_seed(seed)
    settings = settings or {}
    model: Any = model_entry.function(spec, **_select(model_entry.function, settings))
    if not isinstance(model, keras.Model):
        raise UsageError(
            f"--model {model_entry.name}: returned {type(model).__name__}, expected a keras.Model"
        )
    model = default_to_inference(model)
    _check_outputs(model_entry, model, spec)
    optimizer: Any = make_optimizer(
        model_entry, learning_rate=learning_rate, steps=steps, settings=settings
    )
    if precision == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def make_optimizer(
    model_entry: ModelEntry,
    *,
    learning_rate: float,
    steps: int,
    settings: Mapping[str, Any] | None = None,
) -> keras.Optimizer:
    """Returns the optimizer of a recipe; arguments are as of `build`."""
    import keras

    optimizer: Any = model_entry.recipe.optimizer
    if callable(optimizer):
        return optimizer(learning_rate, steps, **_select(optimizer, settings or {}))
    optimizer = keras.optimizers.get(optimizer)
    optimizer.learning_rate = learning_rate
    return optimizer


def callbacks(model_entry: ModelEntry, *, validation: bool) -> list[keras.callbacks.Callback]:
    """Returns the callbacks of the recipe.

    Args:
        model_entry: the model, as looked up.
        validation: whether there is a validation split.

    Raises:
        UsageError: a callback monitors a validation metric, and there is no validation split.
    """
    callbacks = list(model_entry.recipe.callbacks())
    for callback in callbacks:
        metric = str(getattr(callback, "monitor", ""))
        if metric.startswith("val_") and not validation:
            raise UsageError(
                f"--model {model_entry.name}: its {type(callback).__name__} monitors {metric}; "
                "give --validation-split 0.1 to hold out a fraction of the training data for it"
            )
    return callbacks


def _keywords(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns the keyword-only parameters of a function, which are settings of the run."""
    parameters = inspect.signature(function).parameters
    return {name: each for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY}


def _select(function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that a function takes, without those that are None."""
    selected = {name: settings[name] for name in _keywords(function) if name in settings}
    return {name: value for name, value in selected.items() if value is not None}


def default_to_inference(model: keras.Model) -> keras.Model:
    """Returns the model with `training=False` as the default of all its layers, saved or not.

    Keras's random image layers have `training=True` as their default, and pass it on to all layers
    behind them (Keras 3.15, `Layer._resolve_and_populate_arg`), so that a saved model would serve
    with dropout and with batch statistics. Here each layer is called with `training=False`, which
    Keras overrides in training.
    """
    import keras

    from trainer.runtime.keras_internals import flatten_layers

    def trains_by_default(layer: keras.Layer) -> bool:
        training = inspect.signature(layer.call).parameters.get("training")
        return training is not None and training.default is True

    if not any(map(trains_by_default, flatten_layers(model))):
        return model

    def call(layer: keras.Operation, *inputs: Any, **arguments: Any) -> Any:
        inference = {"training": False} if isinstance(layer, keras.Layer) else {}
        return layer(*inputs, **arguments | inference)

    # A Sequential model saves its layers, but not the arguments of their calls.
    graph = keras.Model(model.inputs, model.outputs)
    clone = keras.models.clone_model(graph, clone_function=lambda layer: layer, call_function=call)
    # Without the lists around inputs and outputs, about which Keras would warn at each call.
    return keras.Model(clone.inputs[0], clone.outputs[0], name=model.name)


def _check_parameters(name: str, function: Callable[..., Any]) -> None:
    """Raises UsageError if `build` requires a keyword-only argument that is not a setting."""
    settings = {each.name for each in dataclasses.fields(Config)}
    for parameter in _keywords(function).values():
        if parameter.name not in settings and parameter.default is parameter.empty:
            raise UsageError(
                f"--model {name}: its {function.__name__} requires {parameter.name!r}, which is "
                "not a setting of a run; give it a default"
            )


def _check_outputs(model_entry: ModelEntry, model: keras.Model, spec: Spec) -> None:
    import numpy as np

    examples = spec.train.examples[:2]
    outputs = np.asarray(model(as_input(examples), training=False))
    expected = (len(examples), len(spec.classes))
    if outputs.shape != expected:
        raise UsageError(
            f"--model {model_entry.name}: returns outputs of shape {outputs.shape} for 2 examples, "
            f"expected class probabilities {expected}"
        )
    if not np.allclose(outputs.sum(axis=1), 1, atol=1e-2) or outputs.min() < 0:
        raise UsageError(
            f"--model {model_entry.name}: outputs do not sum to 1, expected class probabilities; "
            "is the last activation softmax?"
        )


def as_input(examples: Any) -> Any:
    """Returns examples as a tensor that a model takes; texts, object (N,), become strings."""
    import tensorflow as tf

    return tf.convert_to_tensor(examples, tf.string if examples.dtype == object else None)
