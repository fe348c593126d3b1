"""Every setting of a run: its type, unit, default and check. Nothing heavy is imported here."""

from __future__ import annotations

import dataclasses
import json
import os
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field

from trainer.errors import UsageError
from trainer.runtime import cloud_environment


def _plain_number(value: object) -> object:
    # pydantic, like Python, reads "1_0" as 10; on a command line it is a slip of the finger.
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        raise ValueError("a plain number")
    return value


# Networks of keras.applications, which takes seconds to import.
BACKBONES = (
    "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtSmall", "ConvNeXtTiny", "ConvNeXtXLarge",
    "DenseNet121", "DenseNet169", "DenseNet201", "EfficientNetB0", "EfficientNetB1",
    "EfficientNetB2", "EfficientNetB3", "EfficientNetB4", "EfficientNetB5", "EfficientNetB6",
    "EfficientNetB7", "EfficientNetV2B0", "EfficientNetV2B1", "EfficientNetV2B2",
    "EfficientNetV2B3", "EfficientNetV2L", "EfficientNetV2M", "EfficientNetV2S",
    "InceptionResNetV2", "InceptionV3", "MobileNet", "MobileNetV2", "MobileNetV3Large",
    "MobileNetV3Small", "NASNetLarge", "NASNetMobile", "ResNet101", "ResNet101V2", "ResNet152",
    "ResNet152V2", "ResNet50", "ResNet50V2", "VGG16", "VGG19", "Xception",
)  # fmt: skip

_Settings = typing.TypeVar("_Settings")


def _encodable(value: str) -> str:
    # Neither a path nor a line of output can hold these.
    if "\0" in value or any(0xD800 <= ord(character) < 0xE000 for character in value):
        raise ValueError("UTF-8 text without NUL characters")
    return value


def _without_last_slash(value: str) -> str:
    # Else a bucket would hold "runs/1//config.json".
    short = value.rstrip("/")
    return value if not short or short.endswith(":") else short


def _local(value: str) -> str:
    if value.startswith("gs:"):
        raise ValueError("a local folder")
    return value


def _plain_file(value: str) -> str:
    # In the place of a device, as /dev/null, a plain file would be put.
    if value.endswith("/") or os.path.exists(value) != os.path.isfile(value):
        raise ValueError("the path of a file")
    return value


def _html(value: str) -> str:
    if not value.endswith(".html"):
        raise ValueError("a name that ends in .html")
    return value


def _backbone(value: str) -> str:
    if value not in BACKBONES:
        raise ValueError(f"one of: {', '.join(BACKBONES)}")
    return value


Text = Annotated[str, Field(min_length=1), AfterValidator(_encodable)]
Place = Annotated[Text, AfterValidator(_without_last_slash)]
File = Annotated[Text, AfterValidator(_plain_file)]  # To be written.
Page = Annotated[Text, AfterValidator(_html)]
Count = Annotated[int, BeforeValidator(_plain_number), Field(gt=0)]
Number = Annotated[int, BeforeValidator(_plain_number), Field(ge=0)]
Port = Annotated[int, BeforeValidator(_plain_number), Field(ge=0, le=65535)]
Seed = Annotated[int, BeforeValidator(_plain_number), Field(ge=0, lt=2**31)]
Rate = Annotated[float, BeforeValidator(_plain_number), Field(gt=0, allow_inf_nan=False)]
Folds = Annotated[int, BeforeValidator(_plain_number), Field(ge=2, le=100)]
Fraction = Annotated[float, BeforeValidator(_plain_number), Field(ge=0, lt=1)]


def option(default: object, help_text: str) -> Any:
    """Describes a field that is a flag of a command."""
    return Field(default=default, description=help_text)


def argument(help_text: str) -> Any:
    """Describes a field that is a word of a command line, without a flag; of a tuple, words."""
    return Field(description=help_text, json_schema_extra={"positional": True})


@pydantic.dataclasses.dataclass(
    frozen=True, kw_only=True, config=pydantic.ConfigDict(extra="forbid")
)
class Config:
    """The settings of one run, checked when it is made.

    A setting of None is filled in from the model's recipe before the run starts.

    Raises:
        UsageError: through `resolve`, naming the flag, what was found and what was expected.
    """

    model: Text = option(
        "cnn",
        "One of {models}; or package.module:build for your own.",
    )
    data: Text | None = option(
        None,
        "One of {datasets}, which are shipped; or a local path; or gs://bucket/path; the last part "
        "of a path may be a pattern, as part-*.jsonl. Left out, the model's usual one.",
    )
    validation_data: Text | None = option(
        None, "Data to validate each epoch with, if it lies apart; a path or pattern as --data."
    )
    test_data: Text | None = option(
        None, "Data for the final test, if it lies apart; a path or pattern as --data."
    )
    image_size: Count | None = option(
        None, "Pixels a side that images in files of their own are brought to, as PNG or JPEG."
    )
    label_column: Text | None = option(
        None, "Of a table, the column that holds classes. Left out, one named label, class, ..."
    )
    text_column: Text | None = option(
        None, "Of a table, the column that holds texts. Left out, it is guessed."
    )
    image_column: Text | None = option(
        None, "Of a table, the column that holds images or their paths. Left out, it is guessed."
    )
    cache_dir: Annotated[Place, AfterValidator(_local)] | None = option(
        None, "Local folder that keeps shards of a bucket for the next epoch and the next run."
    )
    cache_gb: Rate = option(50.0, "What --cache-dir may hold, in 10^9 bytes.")
    out: Place | None = option(
        None,
        "Run directory, local or gs://. Left out, runs/MODEL-DATE-TIME.",
    )
    epochs: Count | None = option(
        None, "Passes over the training data. Left out, the recipe's number."
    )
    batch_size: Count | None = option(
        None, "Examples a step, over all devices. Left out, the recipe's number."
    )
    learning_rate: Rate | None = option(
        None, "Step size of the optimizer. Left out, the recipe's number."
    )
    augmentation: Literal["none", "shift", "flip"] | None = option(
        None,
        "How training images are changed: none; shift, by up to a tenth of their side; or flip, "
        "mirrored besides. Left out, the recipe's way.",
    )
    width: Count | None = option(
        None,
        "Of image, and of text if it is a convolution: channels of the first layers. Left out, the "
        "data decides.",
    )
    depth: Count | None = option(
        None,
        "Of image: blocks of layers at each size; of text: convolutions. Left out, the data "
        "decides.",
    )
    backbone: Annotated[Text, AfterValidator(_backbone)] | None = option(
        None,
        "Of image: a network of keras.applications to fine-tune, as MobileNetV2. Left out, a small "
        "residual network is trained from nothing.",
    )
    weights: Text | None = option(
        None,
        "Of image: file with the weights of --backbone, local or gs://, as Keras saves them: "
        ".weights.h5, or .h5 without the top. Left out, it is trained from nothing.",
    )
    frozen_epochs: Number | None = option(
        None,
        "Of image: first epochs, in which --backbone stays as it is and only the layer behind it "
        "is trained. Left out, the data decides.",
    )
    max_tokens: Count | None = option(
        None, "Of text: words that a convolution knows. Left out, the data decides."
    )
    sequence_length: Count | None = option(
        None, "Of text: words of a text that a convolution reads. Left out, the data decides."
    )
    architecture: Literal["ngram", "convolution"] | None = option(
        None,
        "Of text: ngram or convolution. Left out, both are tried, and the better one by "
        "validation is trained.",
    )
    seed: Seed = option(0, "Seed of every random choice, 0 to 2147483647.")
    validation_split: Fraction = option(
        0.0, "Part of the training data held out to validate each epoch, 0 to 1."
    )
    folds: Folds | None = option(
        None,
        "Cross-validation: train this many times, 2 to 100, each time with another part of the "
        "data as the test part; OUT/fold-1 and so on are the runs, OUT/folds.json sums them up.",
    )
    class_weights: Literal["none", "balanced"] = option(
        "none",
        "none, or balanced: in training an example of a rare class counts more, so that each class "
        "counts as much.",
    )
    fold: Count | None = option(
        None, "Of --folds, run this one only, from 1, with --out as its run directory."
    )
    device: Literal["auto", "cpu", "gpu"] = option(
        "auto", "auto, cpu or gpu; auto takes the GPUs that are there."
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto",
        "What training steps are computed in: auto, float32, bfloat16 or float16; auto takes the "
        "fastest that the device has units for. Weights and the saved model stay float32.",
    )
    xla: Literal["auto", "on", "off"] = option(
        "auto", "Whether XLA compiles the training steps; auto does on a GPU."
    )
    deterministic: bool = option(
        False, "Use deterministic kernels only; a GPU needs this for a run to be repeatable."
    )
    config: Text | None = option(None, "JSON file with settings, local or gs://; flags win over it.")
    overwrite: bool = option(False, "Replace the run that --out holds.")
    allow_pickle: bool = option(
        False, "Read a pickle of NumPy and SciPy arrays; any other content is still refused."
    )
    resume: Literal["auto", "never"] = option(
        "auto",
        "auto goes on from the latest checkpoint; never, together with --overwrite, starts anew.",
    )
    checkpoint_dir: Place | None = option(
        None, "Folder of checkpoints, local or gs://. Left out, OUT/checkpoints."
    )
    checkpoint_seconds: Rate = option(30.0, "Seconds between two checkpoints.")
    checkpoint_steps: Count | None = option(
        None, "TrainFunction between two checkpoints at most. Left out, only the seconds count."
    )
    tensorboard_dir: Place | None = option(
        None,
        "Folder for TensorBoard's event files from the start on, local or gs://. Left out, "
        "OUT/tensorboard has them when the run is finished.",
    )
    log: Literal["text", "json"] = option(
        "text", "text, or json for one JSON object a line with a severity."
    )
    dry_run: bool = option(
        False,
        "Check all that could fail later, take a few real steps, and tell memory, speed and time; "
        "nothing is left behind.",
    )
    price_per_hour: Rate | None = option(
        None, "What the machine costs an hour, for --dry-run to tell what the run will."
    )

    @pydantic.field_validator("fold")
    @classmethod
    def _is_one_of_folds(cls, fold: int | None, info: pydantic.ValidationInfo) -> int | None:
        folds = info.data.get("folds")
        if fold is not None and fold > (folds or 0):
            raise ValueError(f"1 to {folds}" if folds else "--folds beside it")
        return fold

    @pydantic.field_validator("weights", "frozen_epochs")
    @classmethod
    def _belongs_to(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        needed = {"weights": "backbone", "frozen_epochs": "weights"}[str(info.field_name)]
        if value is not None and info.data.get(needed) is None:
            raise ValueError(f"{flag_name(needed)} beside it")
        return value

    @pydantic.field_validator("backbone")
    @classmethod
    def _has_its_own_sizes(cls, backbone: str | None, info: pydantic.ValidationInfo) -> str | None:
        if backbone and (info.data.get("width") or info.data.get("depth")):
            raise ValueError("no --width or --depth beside it, which are of the network without it")
        return backbone

    @pydantic.field_validator("tensorboard_dir")
    @classmethod
    def _lies_outside(cls, folder: str | None, info: pydantic.ValidationInfo) -> str | None:
        out = info.data.get("out")
        if folder and out and f"{folder}/".startswith(f"{out}/"):
            raise ValueError("a folder outside of --out, whose files are those of its manifest")
        return folder

    @pydantic.field_validator("validation_split")
    @classmethod
    def _is_held_out_once(cls, validation: float, info: pydantic.ValidationInfo) -> float:
        if validation and info.data.get("validation_data"):
            raise ValueError("0, since --validation-data is given")
        return validation

    @property
    def fold_of(self) -> tuple[int, int] | None:
        """The number of the fold, and of how many, if the run is one of a cross-validation."""
        return (self.fold, self.folds) if self.fold and self.folds else None


@pydantic.dataclasses.dataclass(
    frozen=True, kw_only=True, config=pydantic.ConfigDict(extra="forbid")
)
class LocatedConfig(Config):
    """The settings of a run of which only that is open what its data will decide."""

    data: Text
    out: Place


@pydantic.dataclasses.dataclass(
    frozen=True, kw_only=True, config=pydantic.ConfigDict(extra="forbid")
)
class ResolvedConfig(LocatedConfig):
    """The settings of a run with nothing left open: what `config.json` holds.

    Attributes:
        chosen: names of the settings that nobody gave and the data decided.
    """

    epochs: Count
    batch_size: Count
    learning_rate: Rate
    auto_settings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting; in its help, `{models}` and `{datasets}` stand for the names of such.

    A positional one is a word on the command line, without a flag, or any number of words.
    """

    name: str
    kind: type
    default: Any
    help: str
    positional: bool
    many: bool


# What says where to read and write, or how to talk, but does not change the result.
_NOT_RESULT_SETTINGS = frozenset(
    {
        "out", "config", "overwrite", "resume", "checkpoint_dir", "checkpoint_seconds",
        "checkpoint_steps", "tensorboard_dir", "log", "dry_run", "price_per_hour", "cache_dir",
        "cache_gb", "auto_settings",
    }
)  # fmt: skip

# What only some models have.
OF_MODELS = (
    "width", "depth", "backbone", "weights", "frozen_epochs", "architecture", "max_tokens", "sequence_length",
)  # fmt: skip


def resolve(
    flags: Mapping[str, Any],
    file_text: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Checks settings from the command line, a configuration file and the environment.

    Flags win; of the others, the file for what decides the result, the environment for where it
    goes and how it is logged.

    Args:
        flags: what the user gave, by field name; values may still be strings.
        file_text: the content of the `--config` file, a JSON object.
        environment: variables in which a cloud service says where to read and write.

    Raises:
        UsageError: for the first settings that are wrong; all of them are in its one line.
    """
    from_file: dict[str, Any] = {}
    if file_text is not None:
        from_file = _from_json(file_text, str(flags["config"]))
    decided = cloud_environment.flags(environment or {}, typed=flags, in_file=from_file)
    labels = {name: f"--config {flags.get('config')}: {name}" for name in from_file}
    labels |= {name: variable for name, (variable, _) in decided.items()}
    labels |= {name: flag_name(name) for name in flags}
    values = {**from_file, **{name: value for name, (_, value) in decided.items()}, **flags}
    return check(Config, values, labels=labels)


def check(
    kind: type[_Settings],
    values: Mapping[str, Any],
    *,
    labels: Mapping[str, str] | None = None,
) -> _Settings:
    """Makes the checked settings of a command.

    Args:
        kind: their class.
        values: by field name; values may still be strings.
        labels: what a message calls a setting, by field name; its flag, if left out.

    Raises:
        UsageError: for the settings that are wrong, in one line.
    """
    try:
        return kind(**values)
    except pydantic.ValidationError as error:
        problems = []
        words = {
            setting.name: setting.name.upper() for setting in settings(kind) if setting.positional
        }
        for detail in error.errors():
            name = str(detail["loc"][0])
            where = (labels or {}).get(name, words.get(name, flag_name(name)))
            problems.append(f"{where}: {_explain(detail, kind)}")
        raise UsageError("; ".join(problems)) from None


_Located = typing.TypeVar("_Located", bound=LocatedConfig)


def complete(kind: type[_Located], config: Config, **defaults: Any) -> _Located:
    """Returns the settings as another class of them, with those that are None from `defaults`."""
    given = {name: value for name, value in dataclasses.asdict(config).items() if value is not None}
    return kind(**{**defaults, **given})


def flag_name(field: str) -> str:
    """Returns the flag of a field: `batch_size` gives `--batch-size`."""
    return "--" + field.replace("_", "-")


def settings(of: type = Config) -> list[Setting]:
    """Returns what a user can set in a command's settings, in the order of help."""
    hints = typing.get_type_hints(of)
    found = []
    for field in dataclasses.fields(of):
        info: Any = field.default
        plain = [kind for kind in typing.get_args(hints[field.name]) if kind is not type(None)]
        kind = (plain or [hints[field.name]])[0]
        found.append(
            Setting(
                name=field.name,
                kind=kind if isinstance(kind, type) else str,
                default=info.default,
                help=info.description,
                positional=bool(info.json_schema_extra),
                many=typing.get_origin(hints[field.name]) is tuple,
            )
        )
    return found


def to_json(config: LocatedConfig) -> str:
    """Returns the settings as the text of `config.json`, which `--config` reads back."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def affects_result(name: str) -> bool:
    """Tells whether a setting decides the result."""
    return name not in _NOT_RESULT_SETTINGS


def result_settings(config: LocatedConfig) -> dict[str, Any]:
    """Returns the settings that decide the result."""
    settings = dataclasses.asdict(config)
    return {name: settings[name] for name in settings if affects_result(name)}


def differences(config: LocatedConfig, earlier: Mapping[str, Any]) -> list[str]:
    """Lists the settings in which `config` is another experiment than an earlier run's.

    What is left open is the same as what the earlier run's data decided.
    """
    # A setting that was not there yet when the earlier run began had its default.
    was = {setting.name: setting.default for setting in settings()} | dict(earlier)
    return [
        f"{flag_name(name)} was {json.dumps(was[name])}, now {json.dumps(value)}"
        for name, value in result_settings(config).items()
        if was[name] != value and not (value is None and name in saved_auto_settings(earlier))
    ]


def saved_auto_settings(earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of an earlier run that its data decided."""
    names = earlier.get("auto_settings")
    return {name: earlier.get(name) for name in names} if isinstance(names, list) else {}


def _from_json(text: str, name: str) -> dict[str, Any]:
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--config {name}: not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise UsageError(
            f"--config {name}: found {type(settings).__name__}, expected a JSON object of settings"
        )
    # A run's own config.json says which file it was read from, and who decided.
    for name in ("config", "auto_settings"):
        settings.pop(name, None)
    return {name: value for name, value in settings.items() if value is not None}


def _explain(detail: Any, kind: type) -> str:
    """Turns one of pydantic's error records into `found ..., expected ...`."""
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = ", ".join(field.name for field in dataclasses.fields(kind))
        return f"no such setting, expected one of: {known}"
    expected = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    expected = expected.replace("String should have", "a text of")
    return f"found {detail['input']!r}, expected {expected}"
