"""Tests of image files: decoding, sizes, channels and damaged files."""

from __future__ import annotations

import concurrent.futures
import io
import struct
import sys
import warnings
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from trainer.config import ReadOptions
from trainer.data.dataset import ImageLayout, ReadRequest
from trainer.data.formats import image_headers, images
from trainer.errors import DataError, Location

GREY = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4) * 10


def encoded(array: np.ndarray, kind: str = "PNG", **settings: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(array).save(content, kind, **settings)
    return content.getvalue()


def items(contents: Sequence[bytes]) -> list[images.Item]:
    """Returns files with the names 0, 1, ..."""
    return [(Location(str(number)), content) for number, content in enumerate(contents)]


def read(contents: Sequence[bytes], **options: Any) -> tuple[np.ndarray, ImageLayout]:
    """Returns the pixels of images, and their layout."""
    pixels, _, layout = images.read(items(contents), ReadRequest(options=ReadOptions(**options)))
    return pixels, layout


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


COLOURS = np.kron(
    np.random.default_rng(0).integers(0, 256, (5, 6, 3)), np.ones((8, 8, 1), int)
).astype(np.uint8)
SIXTEEN = COLOURS[..., 0].astype(np.uint16) * 257


def saved(image: Image.Image, kind: str, **settings: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **settings)
    return content.getvalue()


def in_mode(mode: str) -> Image.Image:
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        lab = ImageCms.profileToProfile(Image.fromarray(COLOURS), *profiles, outputMode="LAB")
        assert lab is not None
        return lab
    return Image.fromarray(COLOURS).convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind", "tolerance"),
    [
        ("RGB", "TIFF", 0),
        ("CMYK", "TIFF", 0),
        ("CMYK", "JPEG", 12),
        ("LAB", "TIFF", 30),
        ("YCbCr", "TIFF", 4),
        ("P", "PNG", 60),
        ("RGBA", "PNG", 0),
        ("RGB", "JPEG2000", 0),
        ("RGB", "QOI", 0),
        ("RGB", "TGA", 0),
        ("RGB", "PCX", 0),
        ("RGB", "SGI", 0),
        ("RGB", "PPM", 0),
        ("RGB", "DDS", 0),
    ],
)
def test_colours_of_every_mode_come_out_right(mode: str, kind: str, tolerance: int) -> None:
    settings = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    decoded = images.decode(saved(in_mode(mode), kind, **settings), Location("a"))
    assert decoded.shape == COLOURS.shape
    assert abs(decoded.astype(int) - COLOURS).max() <= tolerance


def test_images_of_one_bit_are_black_and_white() -> None:
    decoded = images.decode(saved(Image.fromarray(GREY > 100), "TIFF"), Location("a"))
    assert (decoded[..., 0] == np.where(GREY > 100, 255, 0)).all()


def wide_images() -> dict[str, tuple[np.ndarray, bytes]]:
    """Returns values and content of images of more than 8 bits, by kind."""
    floats = COLOURS[..., 0].astype(np.float32)
    signed = COLOURS[..., 0].astype(np.int32) - 100
    big_endian = Image.frombytes("I;16B", SIXTEEN.shape[::-1], SIXTEEN.astype(">u2").tobytes())
    pgm = b"P5 %d %d 65535\n" % SIXTEEN.shape[::-1] + SIXTEEN.astype(">u2").tobytes()
    return {
        "floats of 0 to 1": (floats / 255, encoded(floats / 255, "TIFF")),
        "floats of 0 to 255": (floats, encoded(floats, "TIFF")),
        "signed": (signed, encoded(signed, "TIFF")),
        "32 bits": (signed * 60_000, encoded(signed * 60_000, "TIFF")),
        "16 bits": (SIXTEEN, encoded(SIXTEEN, "TIFF")),
        "12 of 16 bits": (SIXTEEN // 16, encoded(SIXTEEN // 16)),
        "PNG of 16 bits": (SIXTEEN, encoded(SIXTEEN)),
        "PGM of 16 bits": (SIXTEEN, pgm),
        "big-endian": (SIXTEEN, saved(big_endian, "TIFF")),
    }


@pytest.mark.parametrize("kind", wide_images())
def test_images_of_more_than_8_bits_keep_their_values(kind: str) -> None:
    values, content = wide_images()[kind]
    pixels, layout = read([content] * 3)
    assert (layout.dtype, pixels.dtype, layout.channels) == ("float32", np.float32, 1)
    np.testing.assert_array_equal(pixels[0, ..., 0], values.astype(np.float32))


def test_unsigned_32_bits_do_not_become_negative() -> None:
    content = bytearray(encoded(np.full((4, 4), -1000, np.int32), "TIFF"))
    tag = content.index(b"\x53\x01\x03\x00")  # 339, the format of the samples; 2 is signed.
    content[tag + 8] = 1
    pixels, _ = read([bytes(content)] * 2)
    assert pixels.max() == np.float32(2**32 - 1000)


def test_sixteen_bits_among_eight_are_scaled_if_the_format_says_what_white_is() -> None:
    pixels, layout = read([encoded(GREY)] * 5 + [encoded(np.full_like(GREY, 65535, np.uint16))])
    assert (layout.dtype, pixels[5].min()) == ("uint8", 255)
    decoded = images.decode(encoded(SIXTEEN), Location("a.png"))
    assert (decoded[..., 0] == COLOURS[..., 0]).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoded(SIXTEEN, "TIFF"), "an image of 16 bits, expected 8 bits as in the other images"),
        (encoded(SIXTEEN // 16), "16 bits per channel that uses 12 of them, so that it would be"),
    ],
)
def test_sixteen_bits_of_an_unknown_range_are_refused_among_eight(
    content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=f"^5: .*{message}"):
        read([encoded(COLOURS)] * 5 + [content], max_bad=0)


def test_colours_of_12_in_16_bits_are_refused() -> None:
    def png(pixels: np.ndarray) -> bytes:
        def chunk(name: bytes, data: bytes) -> bytes:
            sizes = struct.pack(">I", len(data)), struct.pack(">I", zlib.crc32(name + data))
            return sizes[0] + name + data + sizes[1]

        height, width, _ = pixels.shape
        header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
        parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts)

    full = images.decode(png(COLOURS.astype(np.uint16) * 257), Location("a.png"))
    assert (full == COLOURS).all()
    with pytest.raises(DataError, match=r"a\.png: an image of 16 bits per channel that uses 12 of"):
        images.decode(png(COLOURS.astype(np.uint16) * 16), Location("a.png"))


def test_values_without_a_common_scale_are_refused() -> None:
    floats = encoded(COLOURS[..., 0].astype(np.float32), "TIFF")
    with pytest.raises(
        DataError, match="found 2 images of floating point such as 0 and 1 images o"
    ):
        read([floats, floats, encoded(GREY)])
    broken = encoded(np.full((4, 4), np.nan, np.float32), "TIFF")
    with pytest.raises(DataError, match="^1: holds NaN or infinity"):
        read([encoded(np.ones((4, 4), np.float32), "TIFF"), broken])


def test_of_several_frames_the_first_is_read_and_the_user_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(GREY[::-1].copy())]
    content = {
        kind: saved(frames[0], kind, save_all=True, append_images=frames[1:], **settings)
        for kind, settings in {"GIF": {}, "PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}.items()
    }
    pixels, _ = read([*content.values(), encoded(GREY)])
    assert (pixels[..., 0] == GREY).all()
    assert (
        "4 images have several frames or pages, of which only the first is read: 0, 1, 2, ..."
        in (caplog.text)
    )


@pytest.mark.parametrize("kind", ["EPS", "PDF"])
def test_formats_that_start_a_program_are_not_opened(kind: str) -> None:
    with pytest.raises(DataError, match=r"a: not an image, .* bytes of another kind"):
        images.decode(saved(Image.fromarray(COLOURS), kind), Location("a"))


def test_every_suffix_is_of_a_format_that_is_opened() -> None:
    formats = {Image.registered_extensions().get(suffix, "JPEG") for suffix in images.SUFFIXES}
    assert formats - {"MPO"} <= set(image_headers._formats())  # JPEG opens MPO.
    for name in ("a.eps", "a.psd", "a.pdf", "a.txt", "a", "png"):
        assert not images.is_image_name(name)


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
    content = saved(Image.new("1", (10_000, 10_000)), "PNG")
    with pytest.raises(
        DataError,
        match=r"a\.png: too large: found an image of 100,000,000 pixels, expected at most "
        "89,478,485; make it smaller, or leave it out",
    ):
        images.decode(content, Location("a.png"), size=(64, 64))


def test_a_large_jpeg_is_decoded_at_a_part_of_its_size() -> None:
    large = Image.new("RGB", (10_000, 9_000), (10, 200, 30))
    content = saved(large, "JPEG")
    decoded = images.decode(content, Location("a.jpg"), size=(64, 64))
    assert abs(decoded.astype(int) - (10, 200, 30)).max() < 3
    for refused, size in ((content, None), (content, (5000, 5000))):
        with pytest.raises(DataError, match=r"a\.jpg: too large: found an image of [\d,]+ pixels"):
            images.decode(refused, Location("a.jpg"), size=size)
    pixels, layout = read([content, encoded(COLOURS, "JPEG")])
    assert (layout.shape, len(pixels)) == ((224, 224, 3), 2)


def test_grey_images_get_three_channels_among_colour_images() -> None:
    files = [encoded(np.full((2, 2), 7, np.uint8)), encoded(np.zeros((2, 2, 3), np.uint8))]
    pixels, _ = read(files)
    assert pixels.shape == (2, 2, 2, 3)
    assert (pixels[0] == 7).all()


def grey(height: int, width: int) -> bytes:
    return encoded(np.zeros((height, width), np.uint8))


@pytest.mark.parametrize(
    ("sizes", "shape", "chosen"),
    [
        ([(28, 28)] * 3, (28, 28), None),
        ([(480, 300)] * 3, (480, 300), None),
        ([(512, 512)] * 3, (512, 512), None),
        ([(600, 600)] * 3, (224, 224), 224),
        ([(100, 700)] * 3, (96, 96), 96),
        ([(28, 28)] * 5 + [(30, 31)], (28, 28), 28),
        ([(50, 60), (60, 50), (70, 70)], (32, 32), 32),
        ([(100, 160), (130, 101), (97, 97)], (96, 96), 96),
        ([(7, 9), (9, 7)], (32, 32), 32),
        ([(900, 1200), (1000, 800)], (224, 224), 224),
    ],
)
def test_without_image_size_one_is_chosen_from_all_headers(
    sizes: list[tuple[int, int]], shape: tuple[int, int], chosen: int | None
) -> None:
    pixels, layout = read([grey(*size) for size in sizes])
    assert pixels.shape == (len(sizes), *shape, 1)
    assert layout.image_size == chosen
    assert ("resized to" in layout.note) == (chosen is not None)
    given, of_user = read([grey(*size) for size in sizes], image_size=40)
    assert (given.shape[1:3], of_user.image_size) == ((40, 40), None)


def test_the_note_for_the_user_names_the_sizes() -> None:
    _, layout = read([grey(100, 160), grey(130, 101), grey(97, 97)])
    assert layout.note == "of 97x97 to 160x100 pixels, resized to 96x96"


def test_rotated_images_have_the_size_after_their_rotation() -> None:
    exif = Image.Exif()
    exif[274] = 6
    pixels, layout = read([encoded(GREY, "JPEG", exif=exif), encoded(np.rot90(GREY, -1), "JPEG")])
    assert (pixels.shape[1:3], layout.image_size) == ((4, 6), None)


def test_the_error_names_all_damaged_images() -> None:
    files = [encoded(GREY)] * 100
    files[3], files[70] = b"", encoded(GREY)[:-30]
    with pytest.raises(
        DataError,
        match=r"^3: not an image.*; 70: not an image.* \(2 of 100 images, expected at most 0 of "
        r"all, see --max-bad\)$",
    ):
        read(files, max_bad=0)


@pytest.mark.parametrize(("count", "is_refused"), [(10, False), (11, True)])
def test_up_to_a_tenth_of_the_images_may_be_damaged(
    count: int, is_refused: bool, caplog: pytest.LogCaptureFixture
) -> None:
    files = [encoded(GREY)[:-30] if n < count else encoded(GREY + n % 9) for n in range(100)]
    if is_refused:
        with pytest.raises(DataError, match=r"\(11 of 100 images, expected at most 0.1 of all"):
            read(files)
        return
    pixels, kept, _ = images.read(items(files), ReadRequest())
    assert kept == [False] * 10 + [True] * 90
    assert [image.tobytes() for image in pixels[..., 0]] == [
        (GREY + n % 9).tobytes() for n in range(10, 100)
    ]
    assert "left out 10 damaged of 100 images: 0: not an image, or a damaged one: " in caplog.text


def test_an_image_that_is_too_large_is_refused_in_every_thread() -> None:
    """Pillow only warns, and the filters of warnings are shared by all threads."""
    content = io.BytesIO()
    Image.new("1", (10_000, 9_500)).save(content, "png")
    contents = [content.getvalue(), encoded(GREY)] * 200

    def is_refused(content: bytes) -> bool:
        try:
            images.decode(content, Location("a.png"))
        except DataError as error:
            return "too large" in str(error)
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
