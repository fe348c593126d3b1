"""Tests of image files: decoding, sizes, channels and damaged files."""

from __future__ import annotations

import concurrent.futures
import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.data.formats import images
from trainer.errors import DataError, Location

GREY = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4) * 10


def encoded(array: np.ndarray, kind: str = "PNG", **settings: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(array).save(content, kind, **settings)
    return content.getvalue()


def items(contents: Sequence[bytes]) -> Iterator[images.Item]:
    """Yields files with the names 0, 1, ..."""
    return ((Location(str(number)), content) for number, content in enumerate(contents))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_images_are_decoded_exactly(kind: str) -> None:
    colours = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)
    settings = {"lossless": True} if kind == "WEBP" else {}
    decoded = images.decode(encoded(colours, kind, **settings), Location("a"))
    assert (decoded == colours).all()


def test_grey_images_have_one_channel() -> None:
    decoded = images.decode(encoded(GREY), Location("a.png"))
    assert (decoded.shape, decoded.dtype) == ((6, 4, 1), np.uint8)
    assert (decoded[..., 0] == GREY).all()


def test_jpeg_is_decoded_approximately() -> None:
    decoded = images.decode(encoded(np.full((16, 16), 200, np.uint8), "JPEG"), Location("a.jpg"))
    assert decoded.shape == (16, 16, 1)
    assert abs(decoded.astype(int) - 200).max() < 3


def test_sixteen_bits_are_scaled_to_eight() -> None:
    decoded = images.decode(encoded(GREY.astype(np.uint16) * 257), Location("a.png"))
    assert (decoded[..., 0] == GREY).all()


def test_transparent_pixels_are_black() -> None:
    pixels = np.full((2, 2, 4), 255, np.uint8)
    pixels[0, 0, 3] = 0
    decoded = images.decode(encoded(pixels), Location("a.png"))
    assert decoded.shape == (2, 2, 3)
    assert decoded[0, 0].tolist() == [0, 0, 0]
    assert decoded[1, 1].tolist() == [255, 255, 255]


def test_an_image_is_rotated_by_its_exif_orientation() -> None:
    exif = Image.Exif()
    exif[274] = 6  # Orientation: rotated by 90 degrees.
    decoded = images.decode(encoded(GREY, "PNG", exif=exif), Location("a.png"))
    assert (decoded[..., 0] == np.rot90(GREY, -1)).all()


def test_images_are_resized_by_averaging() -> None:
    quarters = np.kron(np.array([[0, 100], [200, 40]], np.uint8), np.ones((8, 8), np.uint8))
    decoded = images.decode(encoded(quarters), Location("a.png"), size=(2, 2))
    assert decoded[..., 0].tolist() == [[0, 100], [200, 40]]


@pytest.mark.parametrize("content", [b"", b"no image", encoded(GREY)[:-30]])
def test_the_error_names_a_file_that_is_no_image(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^gs://b/a\.png: not an image, or a damaged one"):
        images.decode(content, Location("gs://b/a.png"))


def test_an_image_that_is_too_large_is_refused_by_its_header() -> None:
    content = encoded(np.zeros((10_000, 10_000), np.uint8))
    with pytest.raises(DataError, match=r"a\.png: .* exceeds limit of \d+ pixels"):
        images.decode(content, Location("a.png"))


def test_grey_images_get_three_channels_among_colour_images() -> None:
    files = [encoded(np.full((2, 2), 7, np.uint8)), encoded(np.zeros((2, 2, 3), np.uint8))]
    pixels = images.read(items(files), 2)
    assert pixels.shape == (2, 2, 2, 3)
    assert (pixels[0] == 7).all()


def test_the_error_for_different_sizes_names_the_flag() -> None:
    files = [encoded(np.zeros(shape, np.uint8)) for shape in ((2, 3), (2, 2))]
    with pytest.raises(DataError, match="1: an image of 2x2, expected 3x2 as in 0; --image-size"):
        images.read(items(files), 2)


def test_the_error_names_all_damaged_images() -> None:
    files = [encoded(GREY)] * 100
    files[3], files[70] = b"", encoded(GREY)[:-30]
    with pytest.raises(
        DataError, match=r"^3: not an image.*; 70: not an image.* \(2 of 100 files\)$"
    ):
        images.read(items(files), 100)


def test_an_image_that_is_too_large_is_refused_in_every_thread() -> None:
    """Pillow only warns, and the filters of warnings are shared by all threads."""
    content = io.BytesIO()
    Image.new("1", (10_000, 9_500)).save(content, "png")
    contents = [content.getvalue(), encoded(GREY)] * 200

    def is_refused(content: bytes) -> bool:
        try:
            images.decode(content, Location("a.png"))
        except DataError as error:
            return "decompression bomb" in str(error)
        return False

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # The default without pytest's own filters.
            concurrent.futures.ThreadPoolExecutor(8) as pool,
        ):
            assert list(pool.map(is_refused, contents)) == [True, False] * 200
    finally:
        sys.setswitchinterval(interval)
