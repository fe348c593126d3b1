"""Settings: checked when they are made, each error naming its flag."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from trainer.config import (
    Config,
    LocatedConfig,
    ResolvedConfig,
    complete,
    differences,
    option_specs,
    resolve,
    saved_auto_settings,
    to_json,
)
from trainer.errors import UsageError


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"epochs": "0"}, "--epochs: found '0', expected greater than 0"),
        ({"epochs": "-3"}, "--epochs: found '-3', expected greater than 0"),
        ({"epochs": "1_0"}, "--epochs: found '1_0', expected a plain number"),
        ({"epochs": "2.5"}, "--epochs: found '2.5', expected an integer$"),
        ({"epochs": "many"}, "--epochs: found 'many', expected an integer$"),
        ({"batch_size": "0"}, "--batch-size: found '0'"),
        ({"learning_rate": "0"}, "--learning-rate: found '0', expected greater than 0"),
        ({"learning_rate": "fast"}, "--learning-rate: found 'fast', expected a number$"),
        ({"learning_rate": "nan"}, "--learning-rate: found 'nan', expected"),
        ({"learning_rate": "inf"}, "--learning-rate: found 'inf', expected"),
        ({"seed": "-1"}, "--seed: found '-1', expected greater than or equal to 0"),
        ({"seed": "4294967296"}, "--seed: found '4294967296', expected less than"),
        ({"validation_split": "1"}, "--validation-split: found '1', expected less than 1"),
        (
            {"out": "runs/1", "tensorboard_dir": "runs/1/logs/"},
            "--tensorboard-dir: found 'runs/1/logs/', expected a folder outside of --out",
        ),
        ({"folds": "1"}, "--folds: found '1', expected greater than or equal to 2"),
        ({"fold": "3"}, "--fold: requires --folds$"),
        ({"folds": "5", "fold": "6"}, "--fold: found '6', expected 1 to 5"),
        ({"folds": "5", "fold": "0"}, "--fold: found '0', expected greater than 0"),
        ({"device": "tpu"}, "--device: found 'tpu', expected 'auto', 'cpu' or 'gpu'"),
        ({"overwrite": "perhaps"}, "--overwrite: found 'perhaps', expected true or false$"),
        ({"model": ""}, "--model: found ''"),
        ({"seed": "x", "epochs": "y"}, "--seed: .*; --epochs: "),
    ],
)
def test_a_wrong_value_is_reported_with_its_flag(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(flags)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "--config run.json: not JSON"),
        ("[1]", "--config run.json: found list, expected a JSON object"),
        ('{"epoch": 1}', "--config run.json: epoch: no such setting, did you mean epochs?"),
        (
            '{"colour": 1}',
            "colour: no such setting, expected one of: data, .*, model, .*, device, ",
        ),
        ('{"epochs": "x"}', "--config run.json: epochs: found 'x'"),
        ('{"epochs": true}', "--config run.json: epochs: found True, expected a plain number"),
    ],
)
def test_a_wrong_config_file_is_reported_with_its_name(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve({"config": "run.json"}, text)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("runs/1/", "runs/1"), ("gs://b/runs//", "gs://b/runs"), ("gs://b/", "gs://b"), ("/", "/")],
)
def test_a_trailing_slash_is_ignored(path: str, expected: str) -> None:
    assert resolve({"out": path}).out == expected


def test_flags_win_over_the_file() -> None:
    text = '{"epochs": 7, "seed": 7}'
    config = resolve({"epochs": "3", "config": "run.json"}, text)
    assert (config.epochs, config.seed) == (3, 7)


def test_the_settings_of_a_run_can_be_read_back() -> None:
    numbers = {"epochs": 1, "batch_size": 2, "learning_rate": 0.5}
    config = complete(LocatedConfig, Config(seed=4), data="mnist", out="x", **numbers)
    again = resolve({"config": "config.json"}, to_json(config))
    expected = {**dataclasses.asdict(config), "config": "config.json"}
    assert dataclasses.asdict(again) == expected
    assert differences(config, json.loads(to_json(config))) == []


def test_flags_win_over_the_recipe() -> None:
    numbers = {"epochs": 1, "batch_size": 2, "learning_rate": 0.5}
    config = complete(ResolvedConfig, Config(epochs=9), data="mnist", out="x", **numbers)
    assert (config.epochs, config.batch_size) == (9, 2)


def test_every_option_has_a_help_text() -> None:
    for setting in option_specs(Config):
        assert setting.help.endswith("."), setting.name


def run_config(**settings: Any) -> ResolvedConfig:
    values = {"data": "d", "out": "x", "epochs": 7, "batch_size": 2, "learning_rate": 0.5}
    return ResolvedConfig(model="image", **{**values, "width": 32, **settings})


def test_an_open_setting_equals_an_auto_setting() -> None:
    earlier = json.loads(to_json(run_config(auto_settings=("epochs", "width"))))
    open_settings = {
        "model": "image",
        "data": "d",
        "out": "x",
        "batch_size": 2,
        "learning_rate": 0.5,
    }
    assert differences(LocatedConfig(**open_settings), earlier) == []
    assert saved_auto_settings(earlier) == {"epochs": 7, "width": 32}
    other = LocatedConfig(**open_settings, epochs=8)
    assert differences(other, earlier) == ["--epochs was 7, now 8"]


def test_an_open_setting_differs_from_a_given_one() -> None:
    earlier = json.loads(to_json(run_config(auto_settings=("epochs",))))
    open_settings = {
        "model": "image",
        "data": "d",
        "out": "x",
        "batch_size": 2,
        "learning_rate": 0.5,
    }
    differing = differences(LocatedConfig(**open_settings), earlier)
    assert differing == ["--width was 32, now null"]


def test_auto_settings_are_given_when_a_run_is_read_back() -> None:
    text = to_json(run_config(auto_settings=("epochs", "width")))
    again = resolve({"config": "config.json"}, text)
    assert (again.epochs, again.width) == (7, 32)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"backbone": "mobilenet"},
            "--backbone: found 'mobilenet', expected a network of keras.applications; did you mean "
            "MobileNet?",
        ),
        ({"backbone": "ResNet5"}, "did you mean ResNet50?"),
        ({"backbone": "tiny"}, "--backbone: found 'tiny', expected one of: ConvNeXtBase, "),
        ({"weights": "w.h5"}, "--weights: requires --backbone"),
        (
            {"backbone": "ResNet50", "frozen_epochs": "1"},
            "--frozen-epochs: requires --weights",
        ),
        ({"backbone": "ResNet50", "width": "8"}, "expected no --width or --depth, which"),
        ({"augmentation": "turn"}, "--augmentation: found 'turn', expected 'none', 'shift' or "),
    ],
)
def test_model_settings_that_exclude_each_other_are_refused(
    flags: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError) as refused:
        resolve(flags)
    assert message in str(refused.value)
