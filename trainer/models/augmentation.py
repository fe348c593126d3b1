"""Changes to training examples that keep their class, drawn anew for each epoch."""

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
    """Changes a batch on the device, by random numbers that it is given.

    So what happens to an example is a function of (seed, epoch, position), as its place in the
    order is: on any number of devices, and after any restart.
    """

    @property
    def numbers(self) -> int:
        """How many random numbers it takes for each example."""

    def __call__(self, examples: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Returns examples of the same shape and type.

        Args:
            examples: as the model takes them, (B, ...).
            uniform: float32 (B, numbers), 0 to below 1.
        """


@dataclass(frozen=True)
class Shift:
    """Moves each image by up to `pixels` in either direction; what comes in is 0.

    Attributes:
        pixels: the most that an image moves, whole pixels.
    """

    pixels: int
    numbers: int = 2

    def __call__(self, examples: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Returns images (B, H, W, C) of the same type, shifted."""
        import tensorflow as tf

        places = tf.floor(uniform * (2 * self.pixels + 1))  # 0 to 2 * pixels
        if self.pixels <= _FEW_PIXELS and not _on_gpu():
            return _cut_out(examples, tf.cast(places, tf.int64), self.pixels)
        down, right = tf.unstack(places - self.pixels, axis=1)  # (B,)
        one, zero = tf.ones_like(right), tf.zeros_like(right)
        return _transformed(examples, [one, zero, right, zero, one, down], "NEAREST")


@dataclass(frozen=True)
class Flip:
    """Mirrors every other image, left for right, and moves each as `Shift` does.

    Attributes:
        pixels: the most that an image moves, whole pixels.
    """

    pixels: int
    numbers: int = 3

    def __call__(self, examples: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Returns images (B, H, W, C) of the same type, mirrored and shifted."""
        import tensorflow as tf

        _, _, width, _ = examples.shape
        whole = tf.floor(uniform[:, :2] * (2 * self.pixels + 1)) - self.pixels
        down, right = tf.unstack(whole, axis=1)  # (B,)
        mirrored = tf.cast(uniform[:, 2] < 0.5, tf.float32)
        one, zero = tf.ones_like(right), tf.zeros_like(right)
        across = [1 - 2 * mirrored, zero, right + mirrored * (width - 1)]
        return _transformed(examples, [*across, zero, one, down], "NEAREST")


@dataclass(frozen=True)
class Distort:
    """Turns, scales and moves each image; what comes in is 0, pixels between are interpolated.

    Attributes:
        pixels: the most that an image moves in either direction, in pixels or parts of them.
        degrees: the most that it turns, either way.
        zoom: the most that it grows or shrinks, as a part of its size.
    """

    pixels: float
    degrees: float
    zoom: float
    numbers: int = 5

    def __call__(self, examples: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Returns images (B, H, W, C) of the same type, distorted."""
        import tensorflow as tf

        _, height, width, _ = examples.shape
        middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
        either_way = tf.unstack(2 * uniform - 1, axis=1)  # Five of (B,), -1 to 1.
        angle = either_way[0] * (self.degrees * math.pi / 180)
        cosine, sine = tf.cos(angle), tf.sin(angle)
        zoom_x, zoom_y = (1 + self.zoom * each for each in either_way[1:3])
        # Where in the image each point of the result comes from.
        a, b, d, e = cosine * zoom_x, -sine * zoom_y, sine * zoom_x, cosine * zoom_y
        c = middle_x - a * middle_x - b * middle_y + self.pixels * either_way[3]
        f = middle_y - d * middle_x - e * middle_y + self.pixels * either_way[4]
        return _transformed(examples, [a, b, c, d, e, f], "BILINEAR")


_FEW_PIXELS = 2  # Up to so many, images are cut out of versions of themselves.
_SHIFTED = 10  # Images are moved by up to one part in so many of their shorter side.


def select(name: str | None, recipe: Recipe, spec: Spec) -> Augmentation | None:
    """Returns the augmentation of a run: the named one, or else that of the recipe.

    Raises:
        DataError: as `named`.
    """
    return named(name, spec) if name else recipe.augmentation


def named(name: str, spec: Spec) -> Augmentation | None:
    """Returns the augmentation that `--augmentation` names.

    Raises:
        DataError: the data has no images.
    """
    if name == "none":
        return None
    if spec.kind != "image":
        raise DataError(f"--augmentation {name}: found {spec.kind}s, expected images")
    height, width, _ = spec.shape
    pixels = max(1, round(min(height, width) / _SHIFTED))
    return Flip(pixels) if name == "flip" else Shift(pixels)


def _cut_out(examples: tf.Tensor, places: tf.Tensor, border: int) -> tf.Tensor:
    """Takes each image out of the same with a black border, from a place on.

    Whole rows are copied, out of as many versions as there are places across: a third of the time
    of `_transformed` if those are few. A GPU has no such kernels for bytes.

    Args:
        examples: images (B, H, W, C).
        places: the row and the column that become the first ones, int64 (B, 2), 0 to 2 * border.
        border: width of the border, in pixels.
    """
    import tensorflow as tf

    _, height, width, channels = examples.shape
    down, right = tf.unstack(places, axis=1)
    count = 2 * border + 1
    images = tf.pad(examples, [[0, 0], [border, border], [border, border], [0, 0]])
    versions = tf.stack([images[:, :, at : at + width] for at in range(count)], axis=1)
    rows = tf.reshape(versions, [-1, width * channels])
    number = tf.range(tf.size(right, tf.int64)) * count + right
    first = number * (height + 2 * border) + down
    wanted = first[:, tf.newaxis] + tf.range(height, dtype=tf.int64)
    return tf.reshape(tf.gather(rows, wanted), [-1, height, width, channels])


def _on_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("GPU"))


def _transformed(examples: tf.Tensor, places: list[tf.Tensor], interpolation: str) -> tf.Tensor:
    """Takes the pixel (x, y) of each result from (ax + by + c, dx + ey + f), `places` a to f."""
    import tensorflow as tf

    _, height, width, _ = examples.shape
    straight = tf.zeros_like(places[0])
    with tf.device("CPU:0"):  # A GPU's kernel reads it there; else it is copied in each step.
        black = tf.constant(0.0)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=examples,
        transforms=tf.stack([*places, straight, straight], axis=1),
        output_shape=[height, width],
        fill_value=black,
        interpolation=interpolation,
        fill_mode="CONSTANT",
    )
