"""The private parts of Keras and TensorFlow still do what the program relies on.

Each test fails if a new version of a library changes the attribute that it names.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.runtime import keras_internals

layers = keras.layers


def functional() -> keras.Model:
    """A model of 3 inputs and 2 outputs with a residual connection, named layers a and b."""
    inputs = keras.Input((3,))
    a = layers.Dense(3, name="a")(inputs)
    return keras.Model(inputs, layers.Dense(2, name="b")(layers.Add()([inputs, a])))


def test_layers_are_flattened_at_any_depth_and_each_is_listed_once() -> None:
    inner = keras.Sequential([keras.Input((4, 3)), layers.Dense(3), layers.ReLU()])
    wrapped = layers.TimeDistributed(layers.Dense(2))
    inputs = keras.Input((4, 3))
    model = keras.Model(inputs, wrapped(inner(inner(inputs))))
    flat = keras_internals.flatten_layers(model)
    assert flat[0] is model
    expected = [model, *model.layers, *inner.layers, wrapped.layer]
    assert {id(layer) for layer in flat} >= {id(layer) for layer in expected}
    assert len({id(layer) for layer in flat}) == len(flat)


def test_the_layers_of_a_users_layer_are_flattened() -> None:
    class Own(layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.inner = layers.Dense(2)

        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return self.inner(inputs)

    own = Own()
    flat = keras_internals.flatten_layers(keras.Sequential([keras.Input((3,)), own]))
    assert any(layer is own.inner for layer in flat)


def test_a_functional_model_is_its_own_graph() -> None:
    model = functional()
    assert keras_internals.functional_graph(model) is model


def test_a_sequential_model_has_a_graph_when_it_is_built() -> None:
    model = keras.Sequential([layers.Dense(2)])
    assert keras_internals.functional_graph(model) is None
    model.build((None, 3))
    graph = keras_internals.functional_graph(model)
    assert isinstance(graph, keras.Function)
    assert [output.shape for output in graph.outputs] == [(None, 2)]


def test_a_subclass_of_model_has_no_graph() -> None:
    class Own(keras.Model):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return inputs

    assert keras_internals.functional_graph(Own()) is None


def test_a_graph_runs_by_other_functions_with_the_arguments_of_each_call() -> None:
    """The function of each operation is called in place of it, and its output is used."""
    model = functional()
    calls: list[str] = []

    def doubled(operation: keras.Operation) -> Callable[..., Any]:
        calls.append(operation.name)
        if operation.name == "a":
            return lambda *inputs, **arguments: 2 * operation(*inputs, **arguments)
        return operation

    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    outputs = keras_internals.run_through_graph(model, tf.constant(x), doubled)
    a, b = model.get_layer("a"), model.get_layer("b")
    np.testing.assert_allclose(outputs, b(x + 2 * a(x)), rtol=1e-5)
    assert len(calls) == 3


@pytest.mark.parametrize("in_list", [False, True])
def test_a_graph_with_one_output_returns_a_tensor(in_list: bool) -> None:
    """Also if the model was built from lists of inputs and outputs."""
    model = functional()
    if in_list:
        model = keras.Model(model.inputs, model.outputs)
    x = tf.ones((4, 3))
    expected = model(x)
    result = keras_internals.run_through_graph(model, x, lambda operation: operation)
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_the_last_output_of_a_model_within_a_model_is_that_of_the_outer_call() -> None:
    inner = functional()
    inputs = keras.Input((3,))
    outputs = inner(inputs)
    outer = keras.Model(inputs, layers.Dense(2)(outputs))
    assert keras_internals.last_output(inner) is outputs
    assert inner.output is not outputs  # The reason to use a private attribute.
    rest = keras.Model(keras_internals.last_output(inner), outer.outputs[0])
    np.testing.assert_allclose(rest(inner(tf.ones((1, 3)))), outer(tf.ones((1, 3))), rtol=1e-6)


def one_update(optimizer: keras.Optimizer) -> tuple[list[keras.Variable], list[np.ndarray]]:
    """Returns variables after one update from 0 slots, and their gradients."""
    variables = [keras.Variable(np.ones(shape, np.float32)) for shape in ((2,), (3, 2), (4,))]
    optimizer.build(variables)
    gradients = [np.full(variable.shape, number + 1.0) for number, variable in enumerate(variables)]
    optimizer.apply([tf.constant(each, tf.float32) for each in gradients], variables)
    return variables, gradients


def test_adams_slots_are_its_moments_in_the_order_of_the_variables() -> None:
    optimizer = keras.optimizers.Adam(0.1, beta_1=0.9, beta_2=0.99)
    variables, gradients = one_update(optimizer)
    momentums, velocities = keras_internals.adam_slots(optimizer, variables[::-1])
    for momentum, velocity, gradient in zip(momentums, velocities, gradients[::-1], strict=True):
        np.testing.assert_allclose(momentum, 0.1 * gradient, rtol=1e-5)
        np.testing.assert_allclose(velocity, 0.01 * gradient**2, rtol=1e-5)


def test_rmsprops_slots_are_mean_squares_in_the_order_of_the_variables() -> None:
    optimizer = keras.optimizers.RMSprop(0.1, rho=0.8)
    variables, gradients = one_update(optimizer)
    slots = keras_internals.rmsprop_slots(optimizer, variables[1:])
    for slot, gradient in zip(slots, gradients[1:], strict=True):
        np.testing.assert_allclose(slot, 0.2 * gradient**2, rtol=1e-5)


def test_exclusions_from_weight_decay_are_seen() -> None:
    optimizer = keras.optimizers.AdamW(0.1)
    assert keras_internals.weight_decay_exclusions(optimizer) == (0, None)
    optimizer.exclude_from_weight_decay(var_list=[keras.Variable([1.0])], var_names=["bias"])
    assert keras_internals.weight_decay_exclusions(optimizer) == (1, "bias")


def one_worker() -> tf.distribute.Strategy:
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(tf.train.ClusterSpec({}))
    return tf.distribute.MultiWorkerMirroredStrategy(resolver)


def test_the_strategy_of_several_workers_inherits_the_method_of_mirrored_strategy() -> None:
    """The patch replaces the method of the subclass by that of its base class."""
    name = "_get_variable_creator_initial_value"
    several = type(one_worker().extended)
    mirrored = type(tf.distribute.MirroredStrategy(["CPU:0"]).extended)
    assert several.__mro__[1] is mirrored
    assert name in vars(several)
    assert name in vars(mirrored)


def test_initial_values_are_computed_on_each_worker() -> None:
    strategy = one_worker()
    extended = strategy.extended
    keras_internals.initialize_on_each_worker(strategy)
    method = extended._get_variable_creator_initial_value
    assert method.__func__ is vars(type(extended).__mro__[1])[method.__name__]
    assert method.__self__ is extended
    with strategy.scope():
        for dtype in (tf.uint8, tf.uint32, tf.float32):
            variable = tf.Variable(tf.cast([1, 2], dtype))
            np.testing.assert_array_equal(variable.numpy(), [1, 2])


PRIVATE_NAMES = {
    "_flatten_layers",
    "_functional",
    "_get_current_learning_rate",
    "_get_variable_creator_initial_value",
    "_get_variable_index",
    "_inbound_nodes",
    "_momentums",
    "_run_through_graph",
    "_velocities",
}
LIBRARIES = ("keras", "tensorflow")
PRIVATE_MODULES = ("keras.src", "tensorflow.python")


def private_uses(tree: ast.Module) -> Iterator[str]:
    """Yields the private attributes and modules of Keras and TensorFlow that a module uses."""
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(each.name, each.asname or each.name.partition(".")[0]) for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [
                (f"{node.module}.{each.name}", each.asname or each.name) for each in node.names
            ]
        else:
            continue
        for module, name in names:
            if module.partition(".")[0] in LIBRARIES:
                imported.add(name)
            if f"{module}.".startswith(tuple(f"{each}." for each in PRIVATE_MODULES)):
                yield module
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            root: ast.expr = node
            while isinstance(root, ast.Attribute | ast.Call):
                root = root.value if isinstance(root, ast.Attribute) else root.func
            of_library = isinstance(root, ast.Name) and root.id in imported
            dunder = node.attr.startswith("__")
            if node.attr in PRIVATE_NAMES or (of_library and not dunder):
                yield node.attr
        elif isinstance(node, ast.Constant) and node.value in PRIVATE_NAMES:
            yield str(node.value)  # As an argument of getattr.


def test_no_other_module_uses_private_parts_of_keras_and_tensorflow() -> None:
    root = Path(trainer.__file__).parent
    names = {
        str(path.relative_to(root)): sorted(set(private_uses(ast.parse(path.read_text()))))
        for path in root.rglob("*.py")
    }
    own = names.pop("runtime/keras_internals.py")
    assert set(own) == PRIVATE_NAMES - {"_get_current_learning_rate"}
    assert {path: each for path, each in names.items() if each} == {}


@pytest.mark.parametrize(
    "code",
    [
        "model._flatten_layers()",
        "getattr(model, '_functional', None)",
        "import keras\nkeras.Model()._anything",
        "from tensorflow import distribute as d\nd.get_strategy()._extended",
        "from keras.src.backend import config",
        "import tensorflow.python.framework",
    ],
)
def test_the_scan_finds_private_parts(code: str) -> None:
    assert list(private_uses(ast.parse(code)))
