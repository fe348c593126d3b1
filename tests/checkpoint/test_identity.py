"""Tests of the identity of a run: what its result depends on, and what differs between two."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from trainer import models
from trainer.checkpoint import identity
from trainer.config import ResolvedConfig
from trainer.data.dataset import Dataset, RawSplits
from trainer.engine.train_function import TrainStepConfig
from trainer.models import ModelEntry, Recipe
from trainer.models.augmentation import Shift

layers = keras.layers
Optimizer = Callable[..., keras.Optimizer]


def config(**changes: Any) -> ResolvedConfig:
    settings = {"data": "d", "out": "r", "epochs": 4, "batch_size": 8, "learning_rate": 0.1}
    return ResolvedConfig(**settings | changes)


def dataset(count: int = 40) -> Dataset:
    labels = np.arange(count) % 2
    examples = np.arange(count * 4, dtype=np.float32).reshape(count, 4)
    raw = RawSplits(train=(examples, labels), test=(examples, labels))
    return Dataset.split(raw, seed=0, validation_split=0.0)


def describe(
    inner: Sequence[keras.Layer] | keras.Model,
    *,
    optimizer: Any = "adam",
    step: TrainStepConfig | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    data: Dataset | None = None,
    **settings: Any,
) -> dict[str, Any]:
    model = inner
    if not isinstance(model, keras.Model):
        model = keras.Sequential(
            [keras.Input((4,)), *inner, layers.Dense(2, activation="softmax", name="probabilities")]
        )
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return identity.describe(
        config(**settings), data or dataset(), model, step or TrainStepConfig(), callbacks
    )


def dense(**settings: Any) -> list[keras.Layer]:
    return [layers.Dense(3, **{"activation": "relu", **settings})]


def relu_of_own(x: Any) -> Any:
    return keras.ops.relu(x)


class OwnLayer(layers.Layer):
    factor = 2.0

    def call(self, x: Any) -> Any:
        return x * self.factor


def own_layer(factor: float) -> list[keras.Layer]:
    kind = type("OwnLayer", (OwnLayer,), {"factor": factor, "__module__": __name__})
    return [kind()]


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, step: Any) -> Any:
        return self.rate / 2


def functional(*, skip: bool) -> keras.Model:
    x = keras.Input((4,))
    inner = layers.Dense(4)(x)
    joined = layers.Add()([inner, x if skip else inner])
    return keras.Model(x, layers.Dense(2, activation="softmax")(joined))


def lambda_callback(factor: float) -> keras.callbacks.Callback:
    return keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * factor)


Adam, schedules = keras.optimizers.Adam, keras.optimizers.schedules
stop = keras.callbacks.EarlyStopping

CHANGES: list[tuple[Callable[[], Any], Callable[[], Any], str]] = [
    (
        lambda: describe(dense()),
        lambda: describe(dense(activation="tanh")),
        "layer 1 dense: activation was relu, now tanh",
    ),
    (
        lambda: describe(dense()),
        lambda: describe(dense(kernel_initializer="zeros")),
        "layer 1 dense: kernel_initializer was GlorotUniform, now Zeros",
    ),
    (
        lambda: describe(dense()),
        lambda: describe(dense(kernel_regularizer=keras.regularizers.L2(0.1))),
        "layer 1 dense: kernel_regularizer was null, now L2",
    ),
    (
        lambda: describe([layers.Dropout(0.1)]),
        lambda: describe([layers.Dropout(0.2)]),
        "layer 1 dropout: rate was 0.1, now 0.2",
    ),
    (
        lambda: describe(dense()),
        lambda: describe([*dense(), layers.Dropout(0.1)]),
        "layer 2 dropout was added",
    ),
    (
        lambda: describe([*dense(), layers.Dropout(0.1)]),
        lambda: describe(dense()),
        "layer 2 dropout was removed",
    ),
    (
        lambda: describe([layers.BatchNormalization()]),
        lambda: describe([layers.LayerNormalization()]),
        "layer 1 batchnormalization, now layernormalization",
    ),
    (
        lambda: describe([layers.ReLU(), layers.Dropout(0.1)]),
        lambda: describe([layers.Dropout(0.1), layers.ReLU()]),
        "layer 1 dropout was added; layer 2 dropout was removed",
    ),
    (
        lambda: describe([keras.Sequential(dense())]),
        lambda: describe([keras.Sequential(dense(activation="tanh"))]),
        "layer 1 sequential: layer 1 dense: activation was relu, now tanh",
    ),
    (
        lambda: describe(own_layer(2.0)),
        lambda: describe(own_layer(3.0)),
        "layer 1 ownlayer: its code differs",
    ),
    (
        lambda: describe([layers.Lambda(lambda x: x * 2)]),
        lambda: describe([layers.Lambda(lambda x: x * 3)]),
        "layer 1 lambda: function: its code differs",
    ),
    (
        lambda: describe(functional(skip=True)),
        lambda: describe(functional(skip=False)),
        "layer 2 add: inputs was",
    ),
    (
        lambda: describe(dense()),
        lambda: describe(dense(), optimizer="sgd"),
        "optimizer was Adam, now SGD",
    ),
    (
        lambda: describe(dense(), optimizer=Adam(0.1)),
        lambda: describe(dense(), optimizer=Adam(0.1, beta_2=0.9)),
        "optimizer: beta_2 was 0.999, now 0.9",
    ),
    (
        lambda: describe(dense(), optimizer=Adam(0.1)),
        lambda: describe(dense(), optimizer=Adam(schedules.CosineDecay(0.1, 9))),
        "optimizer: learning_rate was 0.1",
    ),
    (
        lambda: describe(dense(), optimizer=Adam(schedules.CosineDecay(0.1, 9))),
        lambda: describe(dense(), optimizer=Adam(schedules.CosineDecay(0.1, 8))),
        "optimizer: learning_rate decay_steps was 9, now 8",
    ),
    (
        lambda: describe(dense(), optimizer=Adam(Halving(0.1))),
        lambda: describe(dense(), optimizer=Adam(Halving(0.2))),
        "optimizer: learning_rate rate was 0.1, now 0.2",
    ),
    (
        lambda: describe(dense(), step=TrainStepConfig(0.1)),
        lambda: describe(dense(), step=TrainStepConfig(0.2)),
        "loss: label_smoothing was 0.1, now 0.2",
    ),
    (
        lambda: describe(dense(), step=TrainStepConfig(augmentation=Shift(1))),
        lambda: describe(dense(), step=TrainStepConfig(augmentation=Shift(2))),
        "augmentation: pixels was 1, now 2",
    ),
    (
        lambda: describe(dense(), step=TrainStepConfig(augmentation=Shift(1))),
        lambda: describe(dense()),
        "augmentation was Shift, now null",
    ),
    (
        lambda: describe(dense(), callbacks=[stop("loss", patience=3)]),
        lambda: describe(dense(), callbacks=[stop("loss", patience=4)]),
        "callback 1 earlystopping: patience was 3, now 4",
    ),
    (
        lambda: describe(dense(), callbacks=[stop("loss")]),
        lambda: describe(dense(), callbacks=[]),
        "callback 1 earlystopping was removed",
    ),
    (
        lambda: describe(dense(), callbacks=[lambda_callback(0.9)]),
        lambda: describe(dense(), callbacks=[lambda_callback(0.8)]),
        "callback 1 learningratescheduler: schedule factor was 0.9, now 0.8",
    ),
    (
        lambda: describe(dense(), data=dataset(40)),
        lambda: describe(dense(), data=dataset(48)),
        "the data is other data: train had 40 examples, now 48; test had 40 examples, now 48",
    ),
    (
        lambda: describe(dense()),
        lambda: describe(dense(), batch_size=16),
        "--batch-size was 8, now 16",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other", "text"), CHANGES)
def test_what_decides_the_result_is_part_of_the_identity(
    one: Callable[[], Any], other: Callable[[], Any], text: str
) -> None:
    assert identity.differences(one(), one()) == []
    lines = identity.differences(one(), other())
    assert identity.format_differences(lines).startswith(text)
    json.dumps(one())


def test_a_layer_in_front_is_the_only_difference() -> None:
    lines = identity.differences(
        describe([layers.Dense(3), layers.Dropout(0.1)]),
        describe([layers.ReLU(), layers.Dense(3), layers.Dropout(0.1)]),
    )
    assert lines == ["layer 1 relu was added"]


def test_paths_names_of_layers_and_settings_without_effect_are_not_compared() -> None:
    one = describe(dense(name="a"))
    same = {"test_data": "./moved", "out": "elsewhere", "log": "json", "epochs": 9}
    assert identity.differences(one, describe(dense(name="b"), **same)) == []


def test_a_function_of_the_users_own_counts_by_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    one = describe(dense(activation=relu_of_own))
    assert identity.differences(one, describe(dense(activation=relu_of_own))) == []

    def other(x: Any) -> Any:
        return keras.ops.tanh(x)

    monkeypatch.setattr(relu_of_own, "__code__", other.__code__)
    lines = identity.differences(one, describe(dense(activation=relu_of_own)))
    assert lines == ["layer 1 dense: activation: its code differs"]


def test_another_version_of_python_or_keras_is_no_other_code() -> None:
    one, other = describe(own_layer(2.0)), describe(own_layer(3.0))
    assert identity.differences(one, other) != []
    one["versions"] = {**one["versions"], "python": "3.9"}
    assert identity.differences(one, other) == []
    newer = describe(dense())
    newer["layers"][0]["new_setting"] = True
    assert identity.differences(describe(dense()), newer) != []
    newer["versions"] = {**newer["versions"], "keras": "99"}
    assert identity.differences(describe(dense()), newer) == []


def test_what_differs_in_each_creation_of_a_callback_is_not_compared() -> None:
    numbers = itertools.count()

    class Own(keras.callbacks.Callback):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.started, self.number, self.factor = time.perf_counter(), next(numbers), factor

    def again() -> list[Any]:
        return identity.describe_callbacks([Own(1.0)])

    one, same, other = (describe(dense(), callbacks=[Own(f)]) for f in (1.0, 1.0, 2.0))
    assert identity.differences(one, same) != []
    assert identity.differences(one, same, again) == []
    lines = identity.differences(one, other, lambda: identity.describe_callbacks([Own(2.0)]))
    assert lines == ["callback 1 test_what_differs_in_each_creation_of_a_callback_is_not_compared."
                     "<locals>.own: factor was 1.0, now 2.0"]  # fmt: skip


def test_only_the_first_differences_are_told() -> None:
    text = identity.format_differences([f"line {number}" for number in range(8)])
    assert text == "line 0; line 1; line 2; line 3; line 4; and 3 more"


@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        ("adam", None),
        (lambda rate, steps: Adam(rate), None),
        (lambda rate, steps: Adam(Halving(rate)), None),
        (lambda rate, steps: Adam(schedules.CosineDecay(rate, steps)), "learning_rate decay_steps"),
        (lambda rate, steps: Adam(Halving(rate * steps)), "learning_rate rate"),
        (lambda rate, steps, *, epochs=1: Adam(rate, beta_1=1 - 1 / epochs), "beta_1"),
    ],
)
def test_more_epochs_cannot_continue_a_schedule_over_all_steps(
    optimizer: Optimizer | str, reason: str | None
) -> None:
    entry = ModelEntry("own:build", lambda spec: keras.Model(), Recipe(optimizer=optimizer))
    state = {"uses_epochs": False}
    found = identity.fixed_epochs(config(), entry, dataset().spec, state)
    expected = f"the optimizer of its recipe depends on the number of epochs ({reason})"
    assert found == (expected if reason else None)


def test_more_epochs_cannot_continue_a_callback_that_reads_their_number() -> None:
    entry = ModelEntry("own:build", lambda spec: keras.Model(), Recipe())
    reason = identity.fixed_epochs(config(), entry, dataset().spec, {"uses_epochs": True})
    assert reason == "a callback of its recipe reads the number of epochs"


@pytest.mark.parametrize("name", ["mlp", "cnn", "sentiment"])
def test_models_without_a_schedule_can_continue(name: str) -> None:
    state, spec = {"uses_epochs": False}, dataset().spec
    assert identity.fixed_epochs(config(), models.find(name), spec, state) is None


def test_weights_are_compared_by_their_content(tmp_path: Path) -> None:
    for name, content in ("a", b"1"), ("b", b"1"), ("c", b"2"):
        (tmp_path / name).write_bytes(content)
    backbone = {"backbone": "MobileNetV2"}
    one, same, other = (describe(dense(), **backbone, weights=str(tmp_path / n)) for n in "abc")
    assert identity.differences(one, same) == []
    assert identity.differences(one, other) == ["--weights: the file has another content"]
