"""Opens image files, and decides by their headers how the images of a data set are decoded."""

from __future__ import annotations

import collections
import functools
import io
import re
import sys
import threading
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.dataset import ImageLayout
from trainer.errors import DataError, Location
from trainer.runtime.log import LOGGER

# Formats that Pillow decodes by itself, with their usual extensions. Formats that start another
# program are not among them, such as EPS, which runs Ghostscript.
_EXTENSIONS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "ICO": (".ico",),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
    "PCX": (".pcx",),
    "SGI": (".sgi",),
    "SUN": (".ras",),
    "XBM": (".xbm",),
    "QOI": (".qoi",),
    "DDS": (".dds",),
}
# File name extensions of images; other files of a folder are not taken for images.
SUFFIXES = tuple(suffix for suffixes in _EXTENSIONS.values() for suffix in suffixes)
# First bytes of the usual formats, for files without an extension.
_MAGIC = re.compile(
    rb"\x89PNG|\xff\xd8\xff|GIF8|BM.{4}\0\0\0\0|RIFF.{4}WEBP|II\*\0|MM\0\*|P[1-6]\s|.{4}ftypavi|"
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51|qoif|DDS |\x59\xa6\x6a\x95",
    re.DOTALL,
)
_OPEN_LOCK = threading.Lock()  # Warning filters are shared by all threads.

_GREY_MODES = ("1", "L", "LA", "La")
_DEPTHS = {"I": "32 bits", "F": "floating point"}
EIGHT_BITS, SIXTEEN_BITS = "8 bits", "16 bits"
# Of both sides of an image, in EXIF: rotated by 90 or 270 degrees.
_ORIENTATION, _SWAPPED = 274, (5, 6, 7, 8)
_FIRST_ORIENTATION = 1
_TIFF_SAMPLE_FORMAT, _UNSIGNED = 339, 1

# A JPEG is decoded at a half, a quarter or an eighth of its size if that is enough, so that it may
# be larger than Pillow's limit. Progressive ones take memory for all pixels nevertheless.
_MAX_REDUCED_FACTOR = 4
# Resizing from at least twice the size looks as if from the full size.
_REDUCING_GAP = 2

# Images of one size keep it, up to this many pixels per side.
_MAX_KEPT_SIDE = 512
# Chosen sizes. Below the first, networks have no pixels left after a few layers. The last is what
# most networks of keras.applications were trained with; an epoch of --model image then takes 1.4
# times as long as at 64 (two cores), since its first layer reduces large images, and an image takes
# 150 kB of memory.
_MIN_SIDE, _MAX_SIDE, _SIDE_STEP = 32, 224, 32
_MAX_NAMED = 3


@dataclass(frozen=True)
class Header:
    """What the header of an image says.

    Attributes:
        width: pixels per row, after its EXIF orientation.
        height: number of rows.
        channels: 1 of a grey image, else 3.
        depth: "8 bits", "16 bits", "32 bits" or "floating point" per channel.
        has_frames: whether it has more than one frame or page.
    """

    width: int
    height: int
    channels: int
    depth: str
    has_frames: bool


def is_image_name(name: str) -> bool:
    """Returns whether a file name has the extension of an image."""
    return name.lower().endswith(SUFFIXES)


def is_image(head: bytes) -> bool:
    """Returns whether a file is an image, by its first bytes."""
    return bool(_MAGIC.match(head))


def open_image(content: bytes | Path, *, side: int | None = None) -> Any:
    """Opens an image, a `PIL.Image.Image`, without decoding it; the caller closes it.

    Args:
        content: of the file, or its path.
        side: pixels per side that are enough; a JPEG is then decoded at a part of its size.

    Raises:
        DataError: it has too many pixels, or is of no known format; without a location.
        Exception: it is damaged: Pillow raises nearly any.
    """
    image = _open(content, allows_large=side is not None)
    if side is not None and image.format in ("JPEG", "MPO"):
        image.draft(None, (_REDUCING_GAP * side,) * 2)
        # A large JPEG that is narrow cannot be reduced.
        if image.width * image.height > (limit := _max_pixels()):
            raise _too_large(image.width * image.height, limit)
    return image


def _open(content: bytes | Path, *, allows_large: bool = False) -> Any:
    """Opens an image; arguments and errors as `open_image`.

    Args:
        content: of the file, or its path.
        allows_large: whether a JPEG may have more pixels than Pillow accepts.
    """
    from PIL import Image, UnidentifiedImageError

    file = io.BytesIO(content) if isinstance(content, bytes) else content
    try:
        with (
            _OPEN_LOCK,
            # Pillow only warns above 89 million pixels, which a header of a few bytes can claim.
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
        ):
            return Image.open(file, formats=_formats())
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        match = re.search(r"\((\d+) pixels\)", str(error))
        count, limit = int(match[1]) if match else 0, _max_pixels()
        image = _open_jpeg(content) if count <= _MAX_REDUCED_FACTOR * limit else None
        if not allows_large or image is None or "progressive" in image.info:
            raise _too_large(count, limit) from None
        return image
    except UnidentifiedImageError:
        raise DataError(_unidentified(content)) from None


def _open_jpeg(content: bytes | Path) -> Any:
    """Opens a JPEG of any number of pixels; returns None for other files."""
    from PIL import JpegImagePlugin

    file: Any = io.BytesIO(content) if isinstance(content, bytes) else content
    try:
        return JpegImagePlugin.JpegImageFile(file)
    except SyntaxError:
        return None


def _max_pixels() -> int:
    from PIL import Image

    return Image.MAX_IMAGE_PIXELS or sys.maxsize


def _too_large(count: int, limit: int) -> DataError:
    return DataError(
        f"too large: found an image of {count:,} pixels, expected at most {limit:,}; make it "
        "smaller, or leave it out"
    )


def _unidentified(content: bytes | Path) -> str:
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if not size:
        return "not an image, or a damaged one: found an empty file"
    if isinstance(content, Path):
        with content.open("rb") as file:
            content = file.read(64)
    if is_image(content):
        return "not an image, or a damaged one: its header, or its kind of pixels, is not known"
    return f"not an image, or a damaged one: found {size} bytes of another kind"


@functools.cache
def _formats() -> list[str]:
    """Returns the formats that this Pillow was built with."""
    from PIL import Image

    Image.init()
    return [name for name in _EXTENSIONS if name in Image.OPEN]


def depth(image: Any) -> str:
    """Returns the depth of the pixels of an image, as `Header` has it."""
    if image.mode.startswith("I;16"):
        return SIXTEEN_BITS
    # Pillow scales PGM of more than 8 bits to 16 bits, in 32.
    if image.mode == "I" and image.format in ("PPM", "PNG"):
        return SIXTEEN_BITS
    return _DEPTHS.get(image.mode, EIGHT_BITS)


def is_unsigned(image: Any) -> bool:
    """Returns whether the 32 bits of a TIFF are unsigned, which Pillow reads as signed."""
    tags = getattr(image, "tag_v2", {})
    formats = tags.get(_TIFF_SAMPLE_FORMAT, (_UNSIGNED,))
    is_tiff = image.format == "TIFF" and image.mode == "I"
    return bool(is_tiff and tuple(formats)[0] == _UNSIGNED)


def orientation(image: Any) -> int:
    """Returns the EXIF orientation of an image, 1 to 8; reads no pixels."""
    from PIL import Image

    # A PNG's own method would decode it, to look for an orientation behind its pixels.
    return int(Image.Image.getexif(image).get(_ORIENTATION, _FIRST_ORIENTATION))


def is_grey(image: Any) -> bool:
    """Returns whether an image has no colours, by its mode."""
    return image.mode in _GREY_MODES or depth(image) != EIGHT_BITS


def read_header(content: bytes | Path) -> Header:
    """Reads the header of an image file.

    Raises:
        DataError: it is no image, damaged, or has too many pixels; without a location.
    """
    try:
        # A large JPEG is decoded at a part of its size.
        with _open(content, allows_large=True) as image:
            return _header(image)
    except DataError:
        raise
    except Exception as error:  # Pillow raises nearly any exception for a damaged image.
        raise DataError(f"not an image, or a damaged one: {error}") from None


def _header(image: Any) -> Header:
    width, height = image.size
    if orientation(image) in _SWAPPED:
        width, height = height, width
    # The second picture of a JPEG in MPO format is a preview, or for a stereoscope.
    has_frames = image.format != "MPO" and bool(getattr(image, "is_animated", False))
    return Header(width, height, 1 if is_grey(image) else 3, depth(image), has_frames)


@dataclass
class Headers:
    """Collects the headers of the images of a data set.

    Attributes:
        sizes: number of images by (width, height).
        depths: locations of the first images of each depth.
        counts: number of images of each depth.
        any_colour: whether an image has colours.
        with_frames: locations of the images of more than one frame.
    """

    sizes: collections.Counter[tuple[int, int]] = field(default_factory=collections.Counter)
    depths: dict[str, Location] = field(default_factory=dict)
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    any_colour: bool = False
    with_frames: list[Location] = field(default_factory=list)

    def add(self, location: Location, header: Header) -> None:
        """Counts an image."""
        self.sizes[header.width, header.height] += 1
        self.depths.setdefault(header.depth, location)
        self.counts[header.depth] += 1
        self.any_colour = self.any_colour or header.channels == 3
        if header.has_frames:
            self.with_frames.append(location)

    def layout(self, image_size: int | None) -> ImageLayout:
        """Returns how the images are decoded: to one size, number of channels and dtype.

        Warns of images with several frames.

        Args:
            image_size: value of --image-size; None to choose by the headers.

        Raises:
            DataError: the images have different depths, so that their values have no common scale.
        """
        self._warn_of_frames()
        dtype = self._dtype()
        chosen = None if image_size is not None else self._choose_side()
        side = image_size or chosen
        (width, height) = (side, side) if side is not None else next(iter(self.sizes))
        return ImageLayout(
            height=height,
            width=width,
            channels=3 if self.any_colour else 1,
            dtype=dtype,
            image_size=chosen,
            note="" if side is None else self._note(side),
        )

    def _dtype(self) -> str:
        depths = set(self.counts)
        if depths <= {EIGHT_BITS}:
            return "uint8"
        if len(depths) == 1:
            return "float32"
        if depths == {EIGHT_BITS, SIXTEEN_BITS}:
            return "uint8"
        kinds = " and ".join(
            f"{count} images of {kind} such as {self.depths[kind].name}"
            for kind, count in self.counts.most_common()
        )
        raise DataError(
            f"found {kinds}, expected one kind, since their values have no common scale; convert "
            "all images to 8 bits"
        )

    def _choose_side(self) -> int | None:
        """Returns the pixels per side to resize to; None if all images have one size already.

        A size that most images have is kept; otherwise it follows the median of the shorter sides.
        """
        ((size, count),) = self.sizes.most_common(1)
        if max(size) <= _MAX_KEPT_SIDE:
            if len(self.sizes) == 1:
                return None
            if size[0] == size[1] <= _MAX_SIDE and 2 * count > self.sizes.total():
                return size[0]
        sides = np.repeat(
            [min(size) for size in self.sizes], [self.sizes[size] for size in self.sizes]
        )
        side = int(np.median(sides)) // _SIDE_STEP * _SIDE_STEP
        return min(max(side, _MIN_SIDE), _MAX_SIDE)

    def _note(self, side: int) -> str:
        smallest, largest = (
            limit(self.sizes, key=lambda size: (size[0] * size[1], size)) for limit in (min, max)
        )
        if {*self.sizes} == {(side, side)}:
            return ""
        sizes = f"{smallest[0]}x{smallest[1]}"
        if smallest != largest:
            sizes += f" to {largest[0]}x{largest[1]}"
        return f"of {sizes} pixels, resized to {side}x{side}"

    def _warn_of_frames(self) -> None:
        if self.with_frames:
            names = ", ".join(location.name for location in self.with_frames[:_MAX_NAMED])
            LOGGER.warning(
                "%d images have several frames or pages, of which only the first is read: %s%s",
                len(self.with_frames), names, ", ..." * (len(self.with_frames) > _MAX_NAMED),
            )  # fmt: skip
