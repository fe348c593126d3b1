"""Fused updates give the weights and slots of Keras's optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.engine import fused_optimizers

optimizers = keras.optimizers
OPTIMIZERS: dict[str, tuple[Callable[[], Any], bool]] = {
    "adam": (lambda: optimizers.Adam(0.01), True),
    "adam with a schedule": (
        lambda: optimizers.Adam(optimizers.schedules.CosineDecay(0.1, 5), beta_1=0.8, epsilon=1e-3),
        True,
    ),
    "rmsprop": (lambda: optimizers.RMSprop(0.01, rho=0.8, epsilon=1e-4), True),
    "rmsprop with momentum": (lambda: optimizers.RMSprop(0.01, momentum=0.5), False),
    "adam with amsgrad": (lambda: optimizers.Adam(0.01, amsgrad=True), False),
    "adam with decay": (lambda: optimizers.Adam(0.01, weight_decay=0.1), False),
    "adam with averages": (lambda: optimizers.Adam(0.01, use_ema=True), False),
    "adam that clips": (lambda: optimizers.Adam(0.01, clipnorm=0.1), False),
    "adamw": (lambda: optimizers.AdamW(0.01), False),
    "sgd": (lambda: optimizers.SGD(0.01, momentum=0.9), False),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_and_slots_are_those_of_keras(name: str) -> None:
    make, _ = OPTIMIZERS[name]
    start = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    results = []
    for fused in (True, False):
        optimizer, variables = make(), [keras.Variable(start), keras.Variable(start[0])]
        optimizer.build(variables)
        update = fused_optimizers.make_update(optimizer, variables) if fused else optimizer.apply
        for step in range(5):
            gradients = [tf.sin(v.value * (step + 1)) for v in variables]
            update(gradients, variables)
        results.append([np.array(v.value) for v in (*variables, *optimizer.variables)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_is_fused_where_the_kernel_supports_it(name: str) -> None:
    make, fused = OPTIMIZERS[name]
    variables = [keras.Variable(np.ones((2, 2), np.float32))]
    optimizer = make()
    optimizer.build(variables)
    update = fused_optimizers.make_update(optimizer, variables)
    call = tf.function(lambda gradient: update([gradient], variables))
    graph = call.get_concrete_function(tf.TensorSpec((2, 2), tf.float32)).graph
    kernels = {op.type for op in graph.get_operations() if op.type.startswith("ResourceApply")}
    assert bool(kernels) == fused


def test_a_constraint_is_respected() -> None:
    variable = keras.Variable(np.ones(3, np.float32))
    variable.constraint = keras.constraints.NonNeg()
    optimizer = optimizers.Adam(10.0)
    optimizer.build([variable])
    fused_optimizers.make_update(optimizer, [variable])([tf.ones(3)], [variable])
    assert np.array(variable.value).min() >= 0


def test_the_rows_of_an_embedding_move_by_the_dense_gradient() -> None:
    """Keras squares the gradients of a repeated row before it sums them."""
    weights = []
    for fused in (True, False):
        variable = keras.Variable(np.ones((4, 2), np.float32))
        optimizer = optimizers.Adam(0.1)
        optimizer.build([variable])
        update = fused_optimizers.make_update(optimizer, [variable]) if fused else optimizer.apply
        for rows in ([1, 1], [3, 0], [2, 1]):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.gather(variable.value, rows) ** 2)
            (gradient,) = tape.gradient(loss, [variable.value])
            assert isinstance(gradient, tf.IndexedSlices)
            update([gradient if fused else tf.convert_to_tensor(gradient)], [variable])
        weights.append(np.array(variable.value))
    np.testing.assert_allclose(*weights, rtol=1e-5)


def test_a_variable_without_a_gradient_gets_the_warning_of_keras() -> None:
    variables = [keras.Variable(np.ones(2, np.float32)), keras.Variable(np.ones(2, np.float32))]
    optimizer = optimizers.Adam(0.1)
    optimizer.build(variables)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        fused_optimizers.make_update(optimizer, variables)([None, tf.ones(2)], variables)
    assert np.array(variables[0].value).tolist() == [1, 1]
    assert np.array(variables[1].value)[0] < 1
