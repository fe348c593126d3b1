"""The private parts of Keras and TensorFlow that the program uses, each behind one function.

No other module uses private attributes of these libraries. Each docstring names the attribute, and
`tests/runtime/test_keras_internals.py` fails if a new version of the library changes it. Import
this module where Keras may be imported: not before the flags are checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf


def flatten_layers(layer: keras.Layer) -> list[keras.Layer]:
    """Returns a layer or model, and all layers within it at any depth (`Layer._flatten_layers`)."""
    return list(layer._flatten_layers())


def functional_graph(model: keras.Model) -> keras.Function | None:
    """Returns the graph of operations that a model consists of (`Sequential._functional`).

    Returns:
        A functional model itself; the graph inside a Sequential that is built; None for a model
        that has no graph, such as a subclass of keras.Model.
    """
    graph = model._functional if isinstance(model, keras.Sequential) else model
    return graph if isinstance(graph, keras.Function) else None


def run_through_graph(
    graph: keras.Function,
    inputs: tf.Tensor,
    operation_fn: Callable[[keras.Operation], Callable[..., Any]],
) -> tf.Tensor:
    """Computes a graph with one input and one output (`Function._run_through_graph`).

    Args:
        graph: as `functional_graph` returns it.
        inputs: the input tensor.
        operation_fn: returns the function that computes an operation. It is called once for each
            node, with the arguments of the operation's own call.
    """
    outputs = graph._run_through_graph([inputs], operation_fn=operation_fn)
    return outputs[0] if isinstance(outputs, list) else outputs


def last_output(layer: keras.Layer) -> keras.KerasTensor:
    """Returns the symbolic output of the latest call of a layer (`Operation._inbound_nodes`).

    `layer.output` is that of the first call, which for a model is a tensor inside that model.
    """
    return layer._inbound_nodes[-1].output_tensors[0]


def adam_slots(
    optimizer: keras.optimizers.Adam, variables: Sequence[keras.Variable]
) -> tuple[list[keras.Variable], list[keras.Variable]]:
    """Returns the first and second moments of variables (`Adam._momentums`, `._velocities`).

    Args:
        optimizer: built.
        variables: some or all of the variables that it was built for.
    """
    indices = _variable_indices(optimizer, variables)
    return (
        [optimizer._momentums[index] for index in indices],
        [optimizer._velocities[index] for index in indices],
    )


def rmsprop_slots(
    optimizer: keras.optimizers.RMSprop, variables: Sequence[keras.Variable]
) -> list[keras.Variable]:
    """Returns the mean squared gradients of variables (`RMSprop._velocities`).

    Args:
        optimizer: built.
        variables: some or all of the variables that it was built for.
    """
    return [optimizer._velocities[index] for index in _variable_indices(optimizer, variables)]


def weight_decay_exclusions(optimizer: keras.Optimizer) -> tuple[int, str | None]:
    """Returns which variables `exclude_from_weight_decay` named; no configuration holds them.

    These are `Optimizer._exclude_from_weight_decay` and `._exclude_from_weight_decay_pattern`.

    Returns:
        The number of variables that were given, and the pattern of names, if there is one.
    """
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    variables = getattr(optimizer, "_exclude_from_weight_decay", ())
    return len(variables), None if pattern is None else pattern.pattern


def _variable_indices(optimizer: keras.Optimizer, variables: Sequence[keras.Variable]) -> list[int]:
    return [optimizer._get_variable_index(variable) for variable in variables]


def initialize_on_each_worker(strategy: tf.distribute.MultiWorkerMirroredStrategy) -> None:
    """Lets each worker compute the initial values of variables (a patch of the strategy).

    The strategy would broadcast the chief's values when a variable is created. It cannot do so for
    uint8 (pixels) and uint32 (states of Keras's random generators). The patch replaces
    `_get_variable_creator_initial_value` of its `extended` by that of MirroredStrategy.
    """
    extended = strategy.extended
    mirrored: Any = super(type(extended), extended)
    extended._get_variable_creator_initial_value = mirrored._get_variable_creator_initial_value
