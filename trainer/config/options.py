"""The settings of a training job, in groups that travel whole from command line to reader.

To add a flag, add a field to its group, and read it where it is needed: `options.my_flag`.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, ClassVar, Literal

import pydantic
from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from trainer.config.fields import (
    FORBID_EXTRA,
    AnyPath,
    Codec,
    FolderPath,
    Folds,
    Fraction,
    LocalFolder,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Project,
    Seed,
    Text,
    option,
)

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


def _backbone(value: str) -> str:
    if value in BACKBONES:
        return value
    names = {name.lower(): name for name in BACKBONES}
    near = difflib.get_close_matches(value.lower(), names, n=1)
    if near:
        raise ValueError(f"a network of keras.applications; did you mean {names[near[0]]}?")
    raise ValueError(f"one of: {', '.join(BACKBONES)}")


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class SeedOptions:
    """The seed, which both the splits of the data and the training depend on."""

    GROUP: ClassVar = "Training"

    seed: Seed = option(
        0, "Seed of all random choices: splits, order, weights, dropout. 0 to 2147483647."
    )


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class StorageOptions:
    """Access to gs://, the same for all commands."""

    GROUP: ClassVar = "Data"

    billing_project: Project | None = option(
        None,
        "Google Cloud project that pays for requests to gs://. Needed for buckets whose reader "
        "pays (requester pays). Default: the bucket's owner pays.",
        affects_result=False,
    )


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class ReadOptions(StorageOptions):
    """How the files of a data set are read."""

    GROUP: ClassVar = "Data"

    image_size: PositiveInt | None = option(
        None,
        "Resize image files to this many pixels per side. Default: images of one size keep it; for "
        "others 32 to 224, by the median of their shorter sides.",
    )
    label_column: Text | None = option(
        None,
        "Column of a table that holds the classes. Default: found by name, such as label, class or "
        "category.",
    )
    text_column: Text | None = option(
        None, "Column of a table that holds the texts. Default: found by name and content."
    )
    image_column: Text | None = option(
        None, "Column of a table with images or their paths. Default: found by name and content."
    )
    data_format: (
        Literal["idx", "npz", "sparse", "pickle", "vertex_jsonl", "table", "class_folders", "text"]
        | None
    ) = option(None, "How the files are read. Default: found by names, layout and content.")
    no_header: bool = option(
        False,
        "The first line of CSV is data; the columns are named 1, 2, ... Default: found by content.",
    )
    encoding: Codec | None = option(
        None,
        "Encoding of texts and CSV, such as cp1251 or gb18030. Default: UTF-8, UTF-16, or cp1252.",
    )
    max_bad: Fraction = option(
        0.1,
        "Largest fraction of damaged or incomplete rows and files to leave out; 0 refuses any.",
    )
    allow_pickle: bool = option(
        False, "Read pickle files. Only NumPy and SciPy arrays are accepted from them."
    )
    cache_dir: LocalFolder | None = option(
        None,
        "Local folder that keeps shards of a bucket between epochs and runs. Default: no cache.",
        affects_result=False,
    )
    cache_gb: PositiveFloat = option(
        50.0, "Maximum size of --cache-dir, in 10^9 bytes.", affects_result=False
    )


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class DataOptions(ReadOptions, SeedOptions):
    """Which data is read, and how it is split."""

    GROUP: ClassVar = "Data"

    data: AnyPath | None = option(
        None,
        "Training data: {datasets} (shipped), a local path, gs://bucket/path, or a pattern such as "
        "folder/part-*.jsonl. Default: the model's usual data set.",
    )
    validation_data: AnyPath | None = option(
        None, "Validation data, if it is not part of --data; a path or pattern."
    )
    test_data: AnyPath | None = option(
        None, "Test data, if it is not part of --data; a path or pattern."
    )
    validation_split: Fraction = option(
        0.0,
        "Fraction of the training data to hold out, and to measure after each epoch. 0 to below 1.",
    )
    folds: Folds | None = option(
        None,
        "Cross-validation: train this many times, 2 to 100, each time with another fold of the "
        "data as the test split. Writes OUT/fold-1, ... and OUT/folds.json.",
    )
    fold: PositiveInt | None = option(
        None, "Train only this fold of --folds, counted from 1, with --out as its run directory."
    )

    @pydantic.field_validator("fold")
    @classmethod
    def _check_fold(cls, fold: int | None, info: pydantic.ValidationInfo) -> int | None:
        folds = info.data.get("folds")
        if fold is not None and fold > (folds or 0):
            raise ValueError(f"1 to {folds}" if folds else "requires --folds")
        return fold

    @pydantic.field_validator("validation_split")
    @classmethod
    def _check_one_validation(cls, fraction: float, info: pydantic.ValidationInfo) -> float:
        if fraction and info.data.get("validation_data"):
            raise ValueError("0, since --validation-data is given")
        return fraction

    @property
    def fold_of(self) -> tuple[int, int] | None:
        """The fold, from 1, and the number of folds, if the run is one of a cross-validation."""
        return (self.fold, self.folds) if self.fold and self.folds else None


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class ModelOptions:
    """Which model is trained, and its sizes.

    All but `model` exist for some models only; `models.check_settings` refuses them elsewhere.
    """

    GROUP: ClassVar = "Model"

    model: Text = option("cnn", "One of: {models}; or package.module:build for your own.")
    width: PositiveInt | None = option(
        None, "Channels of the first layers (models image, text). Default: chosen by data size."
    )
    depth: PositiveInt | None = option(
        None,
        "Blocks per image size (model image), convolutions (model text). "
        "Default: chosen by data size.",
    )
    backbone: Annotated[Text, AfterValidator(_backbone)] | None = option(
        None,
        "Network of keras.applications to fine-tune (model image), for example MobileNetV2. "
        "Default: a small residual network trained from scratch.",
    )
    weights: AnyPath | None = option(
        None,
        "Pretrained weights of --backbone, a .weights.h5 or .h5 file that Keras saved, local or "
        "gs://. Default: random weights.",
    )
    architecture: Literal["ngram", "convolution"] | None = option(
        None,
        "Network for texts (model text): ngram or convolution. Default: the one with the better "
        "validation accuracy.",
    )
    max_tokens: PositiveInt | None = option(
        None, "Size of the vocabulary, in words (model text). Default: chosen by data size."
    )
    sequence_length: PositiveInt | None = option(
        None, "Words of a text that are read (model text). Default: chosen by the texts' lengths."
    )

    @pydantic.field_validator("weights")
    @classmethod
    def _check_backbone_given(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        if value is not None and info.data.get("backbone") is None:
            raise ValueError("requires --backbone")
        return value

    @pydantic.field_validator("backbone")
    @classmethod
    def _check_no_sizes(cls, backbone: str | None, info: pydantic.ValidationInfo) -> str | None:
        if backbone and (info.data.get("width") or info.data.get("depth")):
            raise ValueError("no --width or --depth, which are sizes of the network without it")
        return backbone


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class TrainOptions(SeedOptions):
    """How the model is trained. None is decided by the model's recipe or by the data."""

    GROUP: ClassVar = "Training"

    epochs: PositiveInt | None = option(
        None, "Passes over the training data. Default: as in the model's recipe."
    )
    batch_size: PositiveInt | None = option(
        None, "Examples per step, over all devices. Default: as in the model's recipe."
    )
    learning_rate: PositiveFloat | None = option(
        None, "Step size of the optimizer. Default: as in the model's recipe."
    )
    frozen_epochs: NonNegativeInt | None = option(
        None,
        "First epochs in which only the layers after --backbone are trained. "
        "Default: chosen by data size.",
    )
    augmentation: Literal["none", "shift", "flip"] | None = option(
        None,
        "Random changes of training images: none; shift (by up to 10 % of a side); flip (shift, "
        "and mirror left to right). Default: as in the model's recipe.",
    )
    class_weights: Literal["none", "balanced"] = option(
        "none", "balanced: each class counts the same in the loss, however rare it is."
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto",
        "Number format of the training steps; auto takes the fastest that the device supports. "
        "Weights and the saved model are always float32.",
    )
    xla: Literal["auto", "on", "off"] = option(
        "auto", "Whether XLA compiles the training steps; auto: on one GPU."
    )
    deterministic: bool = option(
        False, "Use only deterministic kernels. Needed on a GPU for bit-identical repetition."
    )


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class ResolvedTrainOptions(TrainOptions):
    """Training options with nothing left open: what the training loop takes."""

    epochs: PositiveInt
    batch_size: PositiveInt


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class OutputOptions:
    """Where results go, and what happens to a run that is there already."""

    GROUP: ClassVar = "Output"

    out: FolderPath | None = option(
        None,
        "Run directory, local or gs://. Default: runs/MODEL-DATE-TIME.",
        affects_result=False,
    )
    config: AnyPath | None = option(
        None, "JSON file with settings, local or gs://; flags win over it.", affects_result=False
    )
    overwrite: bool = option(False, "Replace the run in --out.", affects_result=False)
    resume: Literal["auto", "never"] = option(
        "auto",
        "auto resumes an unfinished run from its latest checkpoint; never, together with "
        "--overwrite, starts from the beginning.",
        affects_result=False,
    )
    checkpoint_dir: FolderPath | None = option(
        None, "Folder for checkpoints, local or gs://. Default: OUT/checkpoints.",
        affects_result=False,
    )  # fmt: skip
    checkpoint_seconds: PositiveFloat = option(
        30.0, "Seconds between two checkpoints.", affects_result=False
    )
    checkpoint_steps: PositiveInt | None = option(
        None, "Maximum number of steps between two checkpoints. Default: only the seconds count.",
        affects_result=False,
    )  # fmt: skip
    tensorboard_dir: FolderPath | None = option(
        None,
        "Folder for TensorBoard event files, local or gs://, written during training. "
        "Default: OUT/tensorboard, written at the end.",
        affects_result=False,
    )
    log: Literal["text", "json"] = option(
        "text", "Log format: text, or json with one object per line.", affects_result=False
    )

    @pydantic.field_validator("tensorboard_dir")
    @classmethod
    def _check_outside(cls, folder: str | None, info: pydantic.ValidationInfo) -> str | None:
        out = info.data.get("out")
        if folder and out and f"{folder}/".startswith(f"{out}/"):
            raise ValueError("a folder outside of --out, whose files are those of its manifest")
        return folder


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class MachineOptions:
    """What the job runs on, and what it may cost."""

    GROUP: ClassVar = "Machine"

    device: Literal["auto", "cpu", "gpu"] = option(
        "auto", "auto takes the GPUs of the machine, or else the CPU; gpu fails without one."
    )
    dry_run: bool = option(
        False,
        "Check everything that could fail later, run a few real steps, print memory, speed and "
        "time, and leave nothing behind.",
        affects_result=False,
    )
    price_per_hour: PositiveFloat | None = option(
        None,
        "Price of the machine per hour, in any currency; --dry-run prints the price of the run.",
        affects_result=False,
    )  # fmt: skip
