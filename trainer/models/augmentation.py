"""Augmentation: random changes of training examples that keep their class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from trainer.errors import DataError

if TYPE_CHECKING:
    import tensorflow as tf

    from trainer.data.dataset import Spec
    from trainer.models import Recipe


class Augmentation(Protocol):
    """Changes a batch on the device, as a function of random values in its arguments.

    The random values of an example depend on (seed, epoch, position) only, so that the result is
    the same on any number of devices, and after any restart.
    """

    @property
    def values_per_example(self) -> int:
        """Number of random values for each example."""

    def __call__(self, examples: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Returns examples of the same shape and dtype.

        Args:
            examples: as the model takes them, (B, ...).
            uniform: random values, float32 (B, values_per_example), 0 to below 1.
        """


@dataclass(frozen=True)
class Shift:
    """Shifts each image by up to `pixels` vertically and horizontally; fills the gap with 0.

    Attributes:
        pixels: maximum shift in whole pixels.
        values_per_example: number of random values for each example.
    """

    pixels: int
    values_per_example: int = 2

    def __call__(self, examples: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Returns the shifted images (B, H, W, C), of the same dtype."""
        import tensorflow as tf

        offsets = tf.floor(uniform * (2 * self.pixels + 1))  # 0 to 2 * pixels
        if self.pixels <= _MAX_GATHERED_PIXELS and not _on_gpu():
            return _shift_by_gather(examples, tf.cast(offsets, tf.int64), self.pixels)
        down, right = tf.unstack(offsets - self.pixels, axis=1)  # (B,)
        one, zero = tf.ones_like(right), tf.zeros_like(right)
        return _transform(examples, [one, zero, right, zero, one, down], "NEAREST")


@dataclass(frozen=True)
class Flip:
    """Flips each image horizontally with probability 1/2, and shifts it as `Shift` does.

    Attributes:
        pixels: maximum shift in whole pixels.
        values_per_example: number of random values for each example.
    """

    pixels: int
    values_per_example: int = 3

    def __call__(self, examples: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Returns the flipped and shifted images (B, H, W, C), of the same dtype."""
        import tensorflow as tf

        _, _, width, _ = examples.shape
        offsets = tf.floor(uniform[:, :2] * (2 * self.pixels + 1)) - self.pixels
        down, right = tf.unstack(offsets, axis=1)  # (B,)
        flipped = tf.cast(uniform[:, 2] < 0.5, tf.float32)
        one, zero = tf.ones_like(right), tf.zeros_like(right)
        first_row = [1 - 2 * flipped, zero, right + flipped * (width - 1)]
        return _transform(examples, [*first_row, zero, one, down], "NEAREST")


@dataclass(frozen=True)
class Distort:
    """Rotates, scales and shifts each image, with bilinear interpolation; fills gaps with 0.

    Attributes:
        pixels: maximum shift vertically and horizontally, in pixels; may be a fraction.
        degrees: maximum angle of rotation in either direction.
        zoom: maximum change of height and width, as a fraction of them.
        values_per_example: number of random values for each example.
    """

    pixels: float
    degrees: float
    zoom: float
    values_per_example: int = 5

    def __call__(self, examples: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Returns the distorted images (B, H, W, C), of the same dtype."""
        import tensorflow as tf

        _, height, width, _ = examples.shape
        middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
        signed = tf.unstack(2 * uniform - 1, axis=1)  # Five of (B,), -1 to 1.
        angle = signed[0] * (self.degrees * math.pi / 180)
        cosine, sine = tf.cos(angle), tf.sin(angle)
        zoom_x, zoom_y = (1 + self.zoom * each for each in signed[1:3])
        # The inverse transform: from a pixel of the result to its place in the image.
        a, b, d, e = cosine * zoom_x, -sine * zoom_y, sine * zoom_x, cosine * zoom_y
        c = middle_x - a * middle_x - b * middle_y + self.pixels * signed[3]
        f = middle_y - d * middle_x - e * middle_y + self.pixels * signed[4]
        return _transform(examples, [a, b, c, d, e, f], "BILINEAR")


_MAX_GATHERED_PIXELS = 2  # Maximum shift for which `_shift_by_gather` is faster.
_SHIFT_FRACTION = 10  # The maximum shift is the shorter side of an image divided by this.


def check(name: str | None, spec: Spec) -> None:
    """Checks that a value of `--augmentation` applies to the data.

    Raises:
        DataError: the data has no images.
    """
    if name not in (None, "none") and spec.kind != "image":
        raise DataError(
            f"--augmentation {name}: found {spec.kind}s, expected images; remove the flag"
        )


def select(name: str | None, recipe: Recipe, spec: Spec) -> Augmentation | None:
    """Returns the augmentation of a run: the named one, or the recipe's for None.

    Args:
        name: value of `--augmentation`, which `check` accepts for this data; None if not set.
        recipe: recipe of the model.
        spec: description of the data.
    """
    if name is None:
        return recipe.augmentation
    if name == "none":
        return None
    height, width, _ = spec.shape
    pixels = max(1, round(min(height, width) / _SHIFT_FRACTION))
    return Flip(pixels) if name == "flip" else Shift(pixels)


def _shift_by_gather(examples: tf.Tensor, offsets: tf.Tensor, border: int) -> tf.Tensor:
    """Pads each image with 0, and crops it at an offset.

    Whole rows are gathered from one copy of the images per horizontal offset. With few offsets this
    takes a third of the time of `_transform`. A GPU has no such kernels for uint8.

    Args:
        examples: images (B, H, W, C).
        offsets: row and column of the padded image at which the crop starts, int64 (B, 2), 0 to
            2 * border.
        border: width of the padding, in pixels.
    """
    import tensorflow as tf

    _, height, width, channels = examples.shape
    down, right = tf.unstack(offsets, axis=1)
    count = 2 * border + 1
    images = tf.pad(examples, [[0, 0], [border, border], [border, border], [0, 0]])
    copies = tf.stack([images[:, :, at : at + width] for at in range(count)], axis=1)
    rows = tf.reshape(copies, [-1, width * channels])
    copy = tf.range(tf.size(right, tf.int64)) * count + right
    first = copy * (height + 2 * border) + down
    indices = first[:, tf.newaxis] + tf.range(height, dtype=tf.int64)
    return tf.reshape(tf.gather(rows, indices), [-1, height, width, channels])


def _on_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("GPU"))


def _transform(examples: tf.Tensor, coefficients: list[tf.Tensor], interpolation: str) -> tf.Tensor:
    """Returns images whose pixel (x, y) is that of the example at (ax + by + c, dx + ey + f).

    Args:
        examples: images (B, H, W, C).
        coefficients: a to f, float32 (B,) each.
        interpolation: "NEAREST" or "BILINEAR".
    """
    import tensorflow as tf

    _, height, width, _ = examples.shape
    zero = tf.zeros_like(coefficients[0])
    # A GPU's kernel reads the fill value in the host's memory; elsewhere it is copied at each step.
    with tf.device("CPU:0"):
        fill_value = tf.constant(0.0)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=examples,
        transforms=tf.stack([*coefficients, zero, zero], axis=1),
        output_shape=[height, width],
        fill_value=fill_value,
        interpolation=interpolation,
        fill_mode="CONSTANT",
    )
