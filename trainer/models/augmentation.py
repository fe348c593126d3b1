"""Changes to training examples that keep their class, drawn anew for each epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import tensorflow as tf


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

        _, height, width, channels = examples.shape
        pixels = self.pixels
        padded = tf.pad(examples, [[0, 0], [pixels, pixels], [pixels, pixels], [0, 0]])
        offsets = tf.cast(uniform * (2 * pixels + 1), tf.int32)  # (B, 2)
        rows = offsets[:, 0, None] + tf.range(height)  # (B, H)
        columns = offsets[:, 1, None] + tf.range(width)  # (B, W)
        # One gather of single pixels: two gathers, of rows and then of columns, take longer.
        places = rows[:, :, None] * (width + 2 * pixels) + columns[:, None, :]
        flat = tf.reshape(padded, [-1, (height + 2 * pixels) * (width + 2 * pixels), channels])
        return tf.gather(flat, places, batch_dims=1)


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
        zero = tf.zeros_like(a)
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=examples,
            transforms=tf.stack([a, b, c, d, e, f, zero, zero], axis=1),
            output_shape=[height, width],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
        )
