"""The settings of a run: flags, a configuration file and the environment become one checked Config.

`options.py` has the settings, `fields.py` their types, `command_line.py` and `help.py` the flags.
Nothing heavy is imported here.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from collections.abc import Collection, Mapping
from typing import Any

import pydantic
from pydantic.dataclasses import dataclass

from trainer.config.fields import (
    FORBID_EXTRA,
    GROUPS,
    AnyPath,
    FolderPath,
    PositiveFloat,
    PositiveInt,
    flag_name,
    option_specs,
)
from trainer.config.options import (
    DataOptions,
    MachineOptions,
    ModelOptions,
    OutputOptions,
    ReadOptions,
    ResolvedTrainOptions,
    TrainOptions,
)
from trainer.errors import UsageError
from trainer.runtime import cloud_environment
from trainer.storage import user_paths

__all__ = [
    "CONTENT_SETTINGS",
    "GROUPS",
    "MODEL_SETTINGS",
    "Config",
    "DataOptions",
    "LocatedConfig",
    "MachineOptions",
    "ModelOptions",
    "OutputOptions",
    "ReadOptions",
    "ResolvedConfig",
    "ResolvedTrainOptions",
    "TrainOptions",
    "affects_result",
    "check",
    "check_path",
    "complete",
    "differences",
    "flag_name",
    "option_specs",
    "resolve",
    "result_settings",
    "saved_auto_settings",
    "to_json",
]

_Options = typing.TypeVar("_Options")


# The last base comes first in the order of fields, which is the order of validation.
@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class Config(MachineOptions, OutputOptions, TrainOptions, ModelOptions, DataOptions):
    """The settings of one run as the user gave them; None is decided later, by recipe or data."""

    @pydantic.field_validator("frozen_epochs")
    @classmethod
    def _check_weights_given(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        if value is not None and info.data.get("weights") is None:
            raise ValueError("requires --weights")
        return value


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class LocatedConfig(Config):
    """Settings with data and run directory known; what the data decides may still be None."""

    data: AnyPath
    out: FolderPath


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class ResolvedConfig(LocatedConfig, ResolvedTrainOptions):
    """Settings with nothing left open: the content of `config.json`.

    Attributes:
        auto_settings: names of the settings that the data decided, since the user gave none.
    """

    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    auto_settings: tuple[str, ...] = ()


# Settings that only some models have.
MODEL_SETTINGS = (
    *(each.name for each in option_specs(ModelOptions) if each.name != "model"),
    "frozen_epochs",
)

# Settings that name files. The content of the files is compared, not how their path is written.
CONTENT_SETTINGS = ("data", "validation_data", "test_data", "weights")

# How the ValueError of a check begins that is the whole message, and not only what is expected.
_WHOLE_MESSAGES = ("requires ", "found ")
# The expected values by pydantic's type of error.
_EXPECTED_TYPES = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "int_parsing_size": "an integer of fewer digits",
    "int_type": "an integer",
    "string_type": "a text",
}

_SAVED_AS = {each.name: each for each in option_specs(Config)}


def resolve(
    flags: Mapping[str, Any],
    file_text: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Checks settings from the command line, a configuration file and the environment.

    Flags win. Of the others, the file decides what affects the result, and the environment decides
    where it goes and how it is logged.

    Args:
        flags: values from the command line by field name; they may still be strings.
        file_text: content of the `--config` file, a JSON object.
        environment: environment variables, in which a cloud service gives its paths.

    Raises:
        UsageError: one line with all settings that are wrong.
    """
    from_file: dict[str, Any] = {}
    if file_text is not None:
        from_file = _from_json(file_text, str(flags["config"]))
    from_service = cloud_environment.flags(environment or {}, from_flags=flags, from_file=from_file)
    labels = {name: f"--config {flags.get('config')}: {name}" for name in from_file}
    labels |= {name: variable for name, (variable, _) in from_service.items()}
    labels |= {name: flag_name(name) for name in flags}
    values = {**from_file, **{name: value for name, (_, value) in from_service.items()}, **flags}
    return check(Config, values, labels=labels)


def check(
    kind: type[_Options],
    values: Mapping[str, Any],
    *,
    labels: Mapping[str, str] | None = None,
) -> _Options:
    """Returns the checked options of a command.

    Args:
        kind: class of the options.
        values: by field name; they may still be strings.
        labels: what an error message calls a setting, by field name. Default: its flag.

    Raises:
        UsageError: one line with all settings that are wrong.
    """
    try:
        return kind(**values)
    except pydantic.ValidationError as error:
        problems = []
        words = {each.name: each.name.upper() for each in option_specs(kind) if each.positional}
        for detail in error.errors():
            name = str(detail["loc"][0])
            label = (labels or {}).get(name, words.get(name, flag_name(name)))
            problems.append(f"{label}: {_format_problem(detail, kind)}")
        raise UsageError("; ".join(problems)) from None


def check_path(label: str, value: str) -> str:
    """Returns a local or gs:// path as `user_paths.normalise` does, for one that is in no option.

    Raises:
        UsageError: the path has another scheme, for example; the message begins with `label`.
    """
    try:
        return user_paths.normalise(value)
    except ValueError as error:
        raise UsageError(f"{label}: found {value!r}, expected {error}") from None


_Located = typing.TypeVar("_Located", bound=LocatedConfig)


def complete(kind: type[_Located], config: Config, **defaults: Any) -> _Located:
    """Returns the settings as class `kind`; those that are None are taken from `defaults`."""
    settings = dataclasses.asdict(config)
    user_settings = {name: value for name, value in settings.items() if value is not None}
    return kind(**{**defaults, **user_settings})


def to_json(config: LocatedConfig) -> str:
    """Returns the settings as the text of `config.json`, which `--config` reads back."""
    settings = dataclasses.asdict(config)
    names = [*_SAVED_AS, *(name for name in settings if name not in _SAVED_AS)]
    return json.dumps({name: settings[name] for name in names}, indent=2) + "\n"


def affects_result(name: str) -> bool:
    """Tells whether the trained model can depend on a setting; unknown names do."""
    if name == "auto_settings":
        return False
    return name not in _SAVED_AS or _SAVED_AS[name].affects_result


def result_settings(config: LocatedConfig) -> dict[str, Any]:
    """Returns the settings that the trained model can depend on."""
    settings = dataclasses.asdict(config)
    return {name: settings[name] for name in sorted(settings) if affects_result(name)}


def differences(
    config: LocatedConfig, earlier: Mapping[str, Any], ignored: Collection[str] = ()
) -> list[str]:
    """Lists the settings that affect the result and differ from an earlier run's.

    A setting that the user left open equals what the earlier run's data decided.

    Args:
        config: the settings now.
        earlier: the content of the earlier run's `config.json`.
        ignored: names of settings that are not compared.
    """
    # A setting that did not exist when the earlier run began had its default.
    earlier_values = {name: each.default for name, each in _SAVED_AS.items()} | dict(earlier)
    auto_settings = saved_auto_settings(earlier)
    return [
        f"{flag_name(name)} was {json.dumps(earlier_values[name])}, now {json.dumps(value)}"
        for name, value in result_settings(config).items()
        if name not in ignored
        and earlier_values[name] != value
        and not (value is None and name in auto_settings)
    ]


def saved_auto_settings(earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of an earlier run that its data decided, by name."""
    names = earlier.get("auto_settings")
    return {name: earlier.get(name) for name in names} if isinstance(names, list) else {}


def _from_json(text: str, path: str) -> dict[str, Any]:
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--config {path}: not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise UsageError(
            f"--config {path}: found {type(settings).__name__}, expected a JSON object of settings"
        )
    # A run's own config.json says which file it was read from, and what the data decided.
    for name in ("config", "auto_settings"):
        settings.pop(name, None)
    return {name: value for name, value in settings.items() if value is not None}


def _format_problem(detail: Any, kind: type) -> str:
    """Returns one of pydantic's error records as `found ..., expected ...`."""
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        names = [each.name for each in option_specs(kind)]
        near = difflib.get_close_matches(detail["loc"][0], names, n=1, cutoff=0.75)
        hint = f"did you mean {near[0]}?" if near else f"expected one of: {', '.join(names)}"
        return f"no such setting, {hint}"
    expected = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if expected.startswith(_WHOLE_MESSAGES):
        return str(expected)
    expected = _EXPECTED_TYPES.get(detail["type"], expected)
    expected = expected.replace("String should have", "a text of")
    return f"found {detail['input']!r}, expected {expected}"
