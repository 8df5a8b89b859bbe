"""A drawing as the bytes of a file, in the formats that publishers send."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

QUALITY = 90
ORIENTATION = 0x0112


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def rgb(pixels: NDArray[Any]) -> Image.Image:
    return Image.fromarray(pixels)


def jpeg(pixels: NDArray[Any]) -> bytes:
    return save(rgb(pixels), "JPEG", quality=QUALITY, optimize=True)


def jpeg_gray(pixels: NDArray[Any]) -> bytes:
    return save(rgb(pixels).convert("L"), "JPEG", quality=QUALITY, optimize=True)


def jpeg_cmyk(pixels: NDArray[Any]) -> bytes:
    return save(rgb(pixels).convert("CMYK"), "JPEG", quality=82, optimize=True)


def jpeg_turned(pixels: NDArray[Any]) -> bytes:
    """Stored on its side, with the EXIF tag that turns it upright."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    sideways = rgb(pixels).transpose(Image.Transpose.ROTATE_90)
    return save(sideways.convert("L"), "JPEG", quality=QUALITY, optimize=True, exif=exif)


def jpeg_cut(pixels: NDArray[Any]) -> bytes:
    """A download that broke off in the middle."""
    whole = jpeg(pixels)
    return whole[: len(whole) * 2 // 5]


def png(pixels: NDArray[Any]) -> bytes:
    return save(rgb(pixels), "PNG", optimize=True)


def png_alpha(pixels: NDArray[Any]) -> bytes:
    """White paper made transparent."""
    image = rgb(pixels).quantize(32).convert("RGB")
    alpha = ImageOps.invert(image.convert("L")).point([min(255, level * 4) for level in range(256)])
    image.putalpha(alpha)
    return save(image, "PNG", optimize=True)


def png_palette(pixels: NDArray[Any]) -> bytes:
    palette = rgb(pixels).quantize(64, Image.Quantize.FASTOCTREE)
    return save(palette, "PNG", optimize=True)


def png_16_bit(pixels: NDArray[Any]) -> bytes:
    """Gray in 16-bit words; a plane in [0, 1] is stretched over 1024 levels."""
    if pixels.dtype != np.uint16:
        pixels = (pixels * 1023).round().astype(np.uint16) * 64
    return save(Image.fromarray(pixels), "PNG", optimize=True)


def png_tiny(pixels: NDArray[Any]) -> bytes:
    return save(rgb(pixels).resize((16, 12)), "PNG")


def gif(pixels: NDArray[Any]) -> bytes:
    return save(rgb(pixels).quantize(32), "GIF")


def gif_animated(frames: list[NDArray[Any]]) -> bytes:
    first, *rest = [rgb(frame).convert("L").quantize(16) for frame in frames]
    return save(first, "GIF", save_all=True, append_images=rest, duration=400, loop=0)


def thumbnail(pixels: NDArray[Any]) -> bytes:
    image = rgb(pixels)
    image.thumbnail((140, 100))
    return save(image, "JPEG", quality=70)


def tiff_lzw(pixels: NDArray[Any]) -> bytes:
    return save(rgb(pixels).quantize(32), "TIFF", compression="tiff_lzw")


def tiff_cmyk(pixels: NDArray[Any]) -> bytes:
    coarse = Image.fromarray(pixels // 8 * 8)
    return save(coarse.convert("CMYK"), "TIFF", compression="tiff_lzw")


def tiff_16_bit(pixels: NDArray[Any]) -> bytes:
    return save(Image.fromarray(pixels), "TIFF", compression="tiff_lzw")


def tiff_float(pixels: NDArray[Any]) -> bytes:
    coarse = np.round(pixels * 256).astype(np.float32) / 256
    return save(Image.fromarray(coarse), "TIFF", compression="tiff_adobe_deflate")


def webp(pixels: NDArray[Any]) -> bytes:
    return save(rgb(pixels), "WEBP", quality=85, method=4)


def plain_text(_: object) -> bytes:
    return b"<html><body>This figure is not available at the moment.</body></html>\n"


def table_text(_: object) -> bytes:
    rows = [
        "eye,grader,lesions",
        *[f"{i // 2 + 1},{'AB'[i % 2]},{(i * 7) % 11}" for i in range(24)],
    ]
    return ("\n".join(rows) + "\n").encode()


ENCODERS: dict[str, Callable[..., bytes]] = {
    f.__name__: f
    for f in (
        jpeg,
        jpeg_gray,
        jpeg_cmyk,
        jpeg_turned,
        jpeg_cut,
        png,
        png_alpha,
        png_palette,
        png_16_bit,
        png_tiny,
        gif,
        gif_animated,
        thumbnail,
        tiff_lzw,
        tiff_cmyk,
        tiff_16_bit,
        tiff_float,
        webp,
        plain_text,
        table_text,
    )
}
