"""What is trained: one file a model, one line here.

A model's module has a function `build(spec)`, which returns a `keras.Model` from raw examples to
class probabilities, and a `RECIPE`, how to train it. A user's own module is the same, named on the
command line as package.module:build; without a RECIPE it gets the defaults of `Recipe`.

`build` is given the settings of the run that its keyword-only parameters name, `width` say. If the
module has a function `choose(spec, config)`, that returns what the settings are that nobody gave.
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

# A layer of this name at the front of a model is fixed before training (a vocabulary, say). It is
# run once over the data and not at each step.
PREPROCESS = "preprocess"
# And one of this name for the first `--frozen-epochs`.
BACKBONE = "backbone"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained, unless the flags say otherwise.

    Attributes:
        data: the data set it is trained on when none is given.
        accepts: kinds of examples it can take: "image", "vector", "text".
        optimizer: a name that keras.optimizers knows; or a function from the learning rate and the
            number of steps to an optimizer, for a schedule. Of Keras's own classes, so that the
            saved model needs nothing of this program. Like `build` it is given the settings that
            its keyword-only parameters name.
        learning_rate: step size, the greatest one of a schedule.
        batch_size: examples a step, over all devices.
        epochs: passes over the training data.
        label_smoothing: part of each target that is spread over all classes.
        augmentation: changes training examples, if anything does.
        callbacks: makes the Keras callbacks of a run; they are driven as by `fit`.
        candidates: values of settings, of which the best by validation is trained if none is given.
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

    def numbers(self) -> dict[str, Any]:
        """Returns the settings of a run that it decides."""
        names = ("epochs", "batch_size", "learning_rate")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class ModelEntry:
    """A model that was looked up by name, not built yet.

    Attributes:
        name: as on the command line.
        function: its `build`.
        recipe: how it is trained.
        choose: from its spec and the settings to those that the data decides; None if it decides
            none.
    """

    name: str
    function: Callable[..., keras.Model]
    recipe: Recipe
    choose: Callable[[Spec, Config], Mapping[str, Any]] | None = None


def find(name: str) -> ModelEntry:
    """Looks up a model by its name in the registry, or as package.module:function.

    Raises:
        UsageError: there is no such model.
    """
    place = MODELS.get(name, name)
    module_name, colon, function_name = place.partition(":")
    if not (colon and module_name and function_name) or module_name.startswith("."):
        raise UsageError(
            f"--model: unknown model {name!r}. Expected one of: {', '.join(MODELS)}; or "
            "package.module:build for your own."
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # The module is there, and something it imports is not.
        raise UsageError(f"--model {name}: no module named {error.name!r} to import") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(f"--model {name}: found no function {function_name!r} in {module_name}")
    recipe = getattr(module, "RECIPE", None) or Recipe()
    if not isinstance(recipe, Recipe):
        raise UsageError(
            f"--model {name}: RECIPE is {type(recipe).__name__}, expected trainer.models.Recipe"
        )
    _check_parameters(name, function)
    return ModelEntry(name, function, recipe, getattr(module, "choose", None))


def check_settings(model_entry: ModelEntry, config: Config) -> None:
    """Raises UsageError for a setting that other models have, and this one has not."""
    optimizer = model_entry.recipe.optimizer
    taken = _keywords(model_entry.function) | (_keywords(optimizer) if callable(optimizer) else {})
    for name in MODEL_SETTINGS:
        if name not in taken and getattr(config, name) is not None:
            raise UsageError(f"{flag_name(name)}: is no setting of --model {model_entry.name}")


def choose(model_entry: ModelEntry, spec: Spec, config: Config) -> dict[str, Any]:
    """Returns the settings that nobody gave and the data decides.

    Raises:
        DataError: the model cannot take such data.
    """
    if model_entry.choose is None:
        return {}
    found = model_entry.choose(spec, config)
    return {name: value for name, value in found.items() if getattr(config, name) is None}


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
    """Builds and compiles the model, and tries it on two examples.

    Args:
        model_entry: the model, as looked up.
        spec: of the data it is for.
        learning_rate: step size of the recipe's optimizer.
        steps: that will be made in all, for a schedule.
        seed: of Python's, NumPy's and Keras's random generators, for first weights and dropout.
        precision: what steps will be computed in; in float16 the optimizer scales the loss.
        settings: of the run, by name, for those functions that take some.

    Raises:
        UsageError: what was built does not give class probabilities, float (N, classes).
    """
    import keras

    keras.utils.set_random_seed(seed)
    given = settings or {}
    model: Any = model_entry.function(spec, **_wanted(model_entry.function, given))
    if not isinstance(model, keras.Model):
        raise UsageError(
            f"--model {model_entry.name}: returned {type(model).__name__}, expected a keras.Model"
        )
    model = default_to_inference(model)
    _check_outputs(model_entry, model, spec)
    optimizer: Any = model_entry.recipe.optimizer
    if isinstance(optimizer, str):
        optimizer = keras.optimizers.get(optimizer)
        optimizer.learning_rate = learning_rate
    else:
        optimizer = optimizer(learning_rate, steps, **_wanted(optimizer, given))
    if precision == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def callbacks(model_entry: ModelEntry, *, validation: bool) -> list[keras.callbacks.Callback]:
    """Makes the recipe's callbacks.

    Raises:
        UsageError: one of them watches validation figures, and there are none.
    """
    made = list(model_entry.recipe.callbacks())
    for callback in made:
        watched = str(getattr(callback, "monitor", ""))
        if watched.startswith("val_") and not validation:
            raise UsageError(
                f"--model {model_entry.name}: its {type(callback).__name__} watches {watched}; give "
                "--validation-split 0.1 to hold out a part of the training data for it"
            )
    return made


def _keywords(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns the keyword-only parameters of a function, which are settings of the run."""
    found = inspect.signature(function).parameters
    return {name: each for name, each in found.items() if each.kind is each.KEYWORD_ONLY}


def _wanted(function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those settings that a function takes; what is left open has its own default."""
    found = {name: settings[name] for name in _keywords(function) if name in settings}
    return {name: value for name, value in found.items() if value is not None}


def default_to_inference(model: keras.Model) -> keras.Model:
    """Returns the model so that it infers unless it is told to train, also when it was saved.

    Keras's layers that change images train unless they are told otherwise, and all layers behind
    them with them (Keras 3.15, `Layer._resolve_and_populate_arg`): dropout and the averages of a
    batch would be served. So each is told otherwise here, which Keras overrules in training.
    """
    import keras

    def trains_by_default(layer: keras.Layer) -> bool:
        training = inspect.signature(layer.call).parameters.get("training")
        return training is not None and training.default is True

    if not any(map(trains_by_default, model._flatten_layers())):
        return model

    def call(layer: keras.Operation, *inputs: Any, **settings: Any) -> Any:
        telling = {"training": False} if isinstance(layer, keras.Layer) else {}
        return layer(*inputs, **settings | telling)

    # Not of a Sequential itself, which saves its layers and not how they are called.
    graph = keras.Model(model.inputs, model.outputs)
    told = keras.models.clone_model(graph, clone_function=lambda layer: layer, call_function=call)
    # Without the lists around them, of which Keras would warn at each call.
    return keras.Model(told.inputs[0], told.outputs[0], name=model.name)


def _check_parameters(name: str, function: Callable[..., Any]) -> None:
    """Raises UsageError if `build` wants to be given what is no setting."""
    known = {each.name for each in dataclasses.fields(Config)}
    for parameter in _keywords(function).values():
        if parameter.name not in known and parameter.default is parameter.empty:
            raise UsageError(
                f"--model {name}: its {function.__name__} wants {parameter.name!r}, which is no "
                "setting of a run"
            )


def _check_outputs(model_entry: ModelEntry, model: keras.Model, spec: Spec) -> None:
    import numpy as np

    examples = spec.train.examples[:2]
    answer = np.asarray(model(as_input(examples), training=False))
    expected = (len(examples), len(spec.classes))
    if answer.shape != expected:
        raise UsageError(
            f"--model {model_entry.name}: gives outputs of shape {answer.shape} for 2 examples, "
            f"expected class probabilities {expected}"
        )
    if not np.allclose(answer.sum(axis=1), 1, atol=1e-2) or answer.min() < 0:
        raise UsageError(
            f"--model {model_entry.name}: outputs do not sum to 1, expected class probabilities; is "
            "the last activation softmax?"
        )


def as_input(examples: Any) -> Any:
    """Returns examples as a tensor that a model takes; texts, object (N,), become strings."""
    import tensorflow as tf

    return tf.convert_to_tensor(examples, tf.string if examples.dtype == object else None)
