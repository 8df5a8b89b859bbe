"""A publisher's bytes to a checked JPEG, or to the reason why not.

A good JPEG passes through unchanged. Everything else (PNG, GIF, TIFF, WebP, BMP, CMYK, alpha, more
than 8 bits, a rotation that EXIF asks for, bytes after the end of the image) becomes a high-quality
JPEG, and `Picture.transform` says what was done. The header is read before a pixel is decoded.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from biomedica.errors import ConfigError
from biomedica.records import Picture, Reason

FORMATS = ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP")
"""What is decoded at all; nothing else is handed to a decoder."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif")
"""File names that may be pictures, best first: where an article holds `a.jpg` and `a.gif`, the GIF is
the thumbnail."""

_JPEG_SIDE = 65_500
_END_OF_IMAGE = 0xD9
_START_OF_SCAN = 0xDA
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""A marker in or after compressed data: neither stuffing, filling nor a restart."""
_BROKEN = ("premature end", "bad Huffman", "Premature end")
"""What libjpeg says of data that are missing or changed, not merely odd."""
_EXIF_ORIENTATION = 0x0112
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_STRETCH = (0.1, 99.9)
_PHASH_SIDE = 32
_TRAILING = "trailing-bytes-removed"
_NOT_RGB = ("cmyk", "lab", "labs", "labq", "xyz")
_PROFILE = "icc-profile-data"
_VIPS_FORMATS = ("JPEG", "PNG", "WEBP")
_STRIP_OFFSETS, _STRIP_COUNTS, _TILE_OFFSETS, _TILE_COUNTS = 273, 279, 324, 325
"""TIFF tags."""

Image.MAX_IMAGE_PIXELS = None  # the cap is checked here, before any pixel is decoded


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings:
    """What is kept of the pictures, and how they are written."""

    min_side: int = 20
    """Pixels; a picture with a shorter side is rejected."""
    max_pixels: int = 200_000_000
    """Width times height; a larger picture is rejected before it is decoded."""
    max_frames: int = 2_000
    """Frames or pages of one file; only the first is kept."""
    jpeg_quality: int = 95
    """Of pictures that must be written anew; 1 to 100. Chroma is not subsampled."""
    vips_pixels: int = 25_000_000
    """From this size on libvips decodes in strips, which needs a tenth of the memory."""

    def __post_init__(self) -> None:
        if not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f"images.jpeg_quality is {self.jpeg_quality}; 1 to 100 is expected")
        if self.min_side < 1 or self.max_pixels < self.min_side**2:
            raise ConfigError("images.min_side and images.max_pixels leave no picture to keep")


class RefusedError(Exception):
    """The bytes do not become a picture; the reason goes into a `Reject`."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def read_picture(data: bytes, settings: ImageSettings, md5: str | None = None) -> Picture:
    """Check and, where needed, convert one file. Raises `RefusedError`.

    md5   of the bytes, in hex, where it is known already

    Cost: one decode at a fraction of the size for a JPEG, a full decode and an encode for the rest.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on harmless oddities of the file
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return _read(image, data, settings, md5)
        except UnidentifiedImageError:
            raise RefusedError(Reason.FORMAT_REFUSED, f"starts with {data[:12]!r}") from None
        except MemoryError:
            raise RefusedError(Reason.MEMORY, "decoding needs more than the limit") from None
        except RefusedError:
            raise
        except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError) as error:
            raise RefusedError(Reason.IMAGE_BAD, _first_line(error)) from None
        except (KeyError, ZeroDivisionError, OverflowError, ArithmeticError) as error:
            raise RefusedError(Reason.IMAGE_BAD, repr(error)) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _read(image: Image.Image, data: bytes, settings: ImageSettings, md5: str | None) -> Picture:
    width, height = image.size
    source_format = "JPEG" if image.format == "MPO" else str(image.format)
    _check_size(width, height, settings)
    frames = getattr(image, "n_frames", 1) if source_format in ("TIFF", "GIF", "WEBP") else 1
    if frames > settings.max_frames:
        raise RefusedError(Reason.TOO_MANY_FRAMES, f"{frames} frames")
    steps = _needed_steps(image, data, frames)
    end = _end_of_jpeg(data) if steps == [_TRAILING] else None
    if (
        end is not None and b"MPF\0" not in data[:end]
    ):  # no list of further pictures, which are gone
        jpeg = data[:end]
        small = _decoded_small(image, jpeg)
    elif steps:
        converted, steps = _convert(image, data, steps, settings)
        width, height = converted.size
        jpeg = _encode(converted, settings)
        small = small_grey(converted)
    else:
        small = _decoded_small(image, data)
        jpeg = data
    return Picture(
        jpeg=jpeg,
        width=width,
        height=height,
        source_format=source_format,
        source_bytes=len(data),
        source_md5=md5 or hashlib.md5(data, usedforsecurity=False).hexdigest(),
        transform="+".join(steps) or "none",
        sha256=hashlib.sha256(jpeg).hexdigest(),
        phash=perceptual_hash(small),
    )


def _decoded_small(image: Image.Image, data: bytes) -> Image.Image:
    """A good JPEG in grey, at a fraction of its size. Every block of it is read on the way: raises
    `RefusedError` where one is missing or broken."""
    import simplejpeg

    side = 8 * _PHASH_SIDE
    try:
        pixels = simplejpeg.decode_jpeg(
            data, "GRAY", min_height=side, min_width=side, min_factor=1, strict=True
        )
    except ValueError as error:
        if any(words in str(error) for words in _BROKEN):
            raise RefusedError(Reason.IMAGE_BAD, _first_line(error)) from None
        image.draft("L", (side, side))  # a harmless oddity; Pillow decides
        return image.convert("L")
    return Image.fromarray(pixels[:, :, 0])


def _check_size(width: int, height: int, settings: ImageSettings) -> None:
    if min(width, height) < settings.min_side:
        raise RefusedError(Reason.TOO_SMALL, f"{width}x{height} pixels")
    if width * height > settings.max_pixels or max(width, height) > _JPEG_SIDE:
        raise RefusedError(Reason.TOO_MANY_PIXELS, f"{width}x{height} pixels")


def _needed_steps(image: Image.Image, data: bytes, frames: int) -> list[str]:
    """Names of what must be done to the bytes; empty when they may pass as they are."""
    steps = []
    if image.format != "JPEG":
        steps.append(f"from-{str(image.format).lower()}")
    elif (end := _end_of_jpeg(data)) is None or data[end:].strip(b"\0\r\n\t \xff"):
        steps.append(_TRAILING)
    if frames > 1:
        steps.append("first-frame")
    if image.mode == "CMYK":
        steps.append("cmyk-to-rgb")
    if image.getexif().get(_EXIF_ORIENTATION, 1) not in (0, 1):
        steps.append("rotated")
    return steps


def _end_of_jpeg(data: bytes) -> int | None:
    """Where the image ends, by its markers (ITU-T T.81, annex B); None where they lead nowhere."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:
            place += 1
        elif marker == _END_OF_IMAGE:
            return place + 2
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
            if marker == _START_OF_SCAN:
                following = _MARKER.search(data, place)
                if following is None:
                    return None
                place = following.start()
    return place + 2 if data[place : place + 2] == b"\xff\xd9" else None


def _convert(
    image: Image.Image, data: bytes, steps: list[str], settings: ImageSettings
) -> tuple[Image.Image, list[str]]:
    """The picture as 8-bit L or RGB, upright, on white; and all steps that led there."""
    deep = image.mode in _DEEP or image.mode.startswith(("I", "F"))
    large = image.width * image.height > settings.vips_pixels
    if image.format == "TIFF":
        _check_strips(image, len(data))
    if image.mode == "LAB":
        return _convert_lab(image), steps
    if deep or image.format == "TIFF" or (large and image.format in _VIPS_FORMATS):
        picture, more = _convert_with_vips(data, deep)
        return picture, steps + more
    picture = ImageOps.exif_transpose(image) if "rotated" in steps else image
    if picture.mode == "CMYK":
        return _convert_cmyk(data), steps
    if picture.has_transparency_data:
        picture, is_seen = _on_white(picture)
        steps = [*steps, "alpha-on-white"] if is_seen else steps
    if (profile := image.info.get("icc_profile")) and picture.mode in ("RGB", "RGBA", "P"):
        picture, is_changed = _to_srgb(picture.convert("RGB"), profile)
        steps = [*steps, "profile-to-srgb"] if is_changed else steps
    return picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB"), steps


def _to_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, bool]:
    """(the picture in sRGB, whether it was in another colour space). A profile that is no good is
    left out of account."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image, False
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"))
    except (ImageCms.PyCMSError, OSError):
        return image, False
    return (image, False) if converted is None else (converted, True)


def _on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """(the picture on white, whether any of the white is seen)."""
    image = image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
    alpha = image.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return image, False
    is_gray = image.mode == "LA"
    white = Image.new("L" if is_gray else "RGB", image.size, 255 if is_gray else (255, 255, 255))
    white.paste(image.convert(white.mode), mask=alpha)
    return white, True


def _check_strips(image: Image.Image, size: int) -> None:
    """Raise `RefusedError` where a TIFF's pixels lie past the end of its file: decoders make them up."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    for offsets, counts in ((_STRIP_OFFSETS, _STRIP_COUNTS), (_TILE_OFFSETS, _TILE_COUNTS)):
        places = zip(_numbers(tags.get(offsets)), _numbers(tags.get(counts)), strict=False)
        if any(offset + count > size for offset, count in places):
            raise RefusedError(Reason.IMAGE_BAD, "its pixels lie past the end of the file")


def _numbers(value: Any) -> tuple[int, ...]:
    return () if value is None else value if isinstance(value, tuple) else (value,)


def _convert_lab(image: Image.Image) -> Image.Image:
    """Pillow reads 8-bit L*a*b*, which libvips does not."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None
    return converted


def _convert_cmyk(data: bytes) -> Image.Image:
    """With the file's colour profile where it has one, as Pillow does not."""
    import pyvips

    try:
        return _from_vips(_upright(_srgb(_vips_image(data))))
    except pyvips.Error as error:
        raise RefusedError(Reason.IMAGE_BAD, _vips_message(error)) from None


def _vips_image(data: bytes) -> Any:
    os.environ.setdefault("VIPS_BLOCK_UNTRUSTED", "1")
    os.environ.setdefault("VIPS_CONCURRENCY", "1")
    import pyvips

    pyvips.cache_set_max(0)
    try:
        return pyvips.Image.new_from_buffer(data, "", access="sequential", fail_on="truncated")
    except pyvips.Error as error:
        raise RefusedError(Reason.IMAGE_BAD, _vips_message(error)) from None


def _vips_message(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or ["libvips cannot decode it"])[-1][:200]


def _convert_with_vips(data: bytes, deep: bool) -> tuple[Image.Image, list[str]]:
    import pyvips

    steps = []
    try:
        image = _vips_image(data)
        is_other = image.interpretation in _NOT_RGB
        if is_other:
            image = image.colourspace("rgb16") if image.format == "ushort" else _srgb(image)
        if image.hasalpha():
            steps.append("alpha-on-white")
            image = image.flatten(background={"uchar": 255, "ushort": 65535}.get(image.format, 1))
        if image.format not in ("uchar", "char"):
            steps.append("stretched-to-8-bit")
            image = _stretch(image.copy_memory())
        elif image.bands == 3 and not is_other and _PROFILE in image.get_fields():
            steps.append("profile-to-srgb")
            image = _srgb(image)
        if image.bands not in (1, 3):
            image = image.extract_band(0, n=3 if image.bands > 3 else 1)
        return _from_vips(_upright(image)), steps
    except pyvips.Error as error:
        raise RefusedError(Reason.IMAGE_BAD, _vips_message(error)) from None


def _srgb(image: Any) -> Any:
    """In sRGB, by the file's own colour profile where it has one."""
    if _PROFILE in image.get_fields():
        return image.icc_transform("srgb", embedded=True)
    return image.colourspace("srgb")


def _upright(image: Any) -> Any:
    """Turned as EXIF asks; a picture that is read line by line has to be in memory for that."""
    return image.copy_memory().autorot() if image.get_typeof("orientation") else image


def _stretch(image: Any) -> Any:
    """Percentiles 0.1 and 99.9 to 0 and 255: 12 bits stored in 16 and floats stay visible.

    Where both are the same (a white page with little ink) the type's own range is taken.
    """
    is_whole = image.format not in ("float", "double")
    pixels = np.nan_to_num(image.numpy().astype(np.float32), posinf=0, neginf=0)
    low, high = np.percentile(pixels, _STRETCH)
    if high <= low:
        low, high = 0.0, 65535.0 if is_whole else max(float(pixels.max()), 1e-12)
    scaled = (pixels - low) * (255.0 / max(float(high - low), 1e-12))
    import pyvips

    return pyvips.Image.new_from_array(np.clip(scaled, 0, 255).round().astype(np.uint8))


def _from_vips(image: Any) -> Image.Image:
    pixels = image.cast("uchar").numpy()
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _encode(image: Image.Image, settings: ImageSettings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=settings.jpeg_quality, subsampling=0)
    return buffer.getvalue()


@cache
def _cosines() -> NDArray[np.float32]:
    """(8, 32): the eight lowest rows of the type-II cosine transform."""
    n = np.arange(_PHASH_SIDE)
    k = np.arange(8)[:, None]
    return np.cos(np.pi * k * (2 * n + 1) / (2 * _PHASH_SIDE)).astype(np.float32)


def small_grey(image: Image.Image) -> Image.Image:
    """A decoded picture as `perceptual_hash` takes it: grey, at a fraction of its size."""
    return image.reduce(max(1, min(image.size) // (8 * _PHASH_SIDE))).convert("L")


def perceptual_hash(gray: Image.Image) -> int:
    """64-bit pHash: signs of the 8x8 lowest cosine coefficients against their median.

    After Zauner, "Implementation and benchmarking of perceptual image hash functions" (2010). Robust
    to scale and JPEG quality; not to crops or flips.
    """
    small = gray.resize((_PHASH_SIDE, _PHASH_SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.float32)
    low = (_cosines() @ pixels @ _cosines().T).ravel()
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")
