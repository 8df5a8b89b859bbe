"""`read_picture`: what passes byte for byte, what is converted and how, what is refused and why."""

from __future__ import annotations

import hashlib
import io
import struct
import subprocess
import sys
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms

from biomedica.errors import ConfigError
from biomedica.images import ImageSettings, RefusedError, perceptual_hash, read_picture
from biomedica.records import Picture, Reason
from samples import encoded, jpeg, picture, pixels

DEFAULT = ImageSettings()
STRIPS = ImageSettings(vips_pixels=1)
"""Sends every picture that must be written anew through libvips."""
BOTH_WAYS = pytest.mark.parametrize("how", [DEFAULT, STRIPS], ids=["pillow", "libvips"])


def decoded(made: Picture, how: ImageSettings = DEFAULT) -> NDArray[np.int16]:
    """The pixels of a result, after the checks that every result must pass."""
    with Image.open(io.BytesIO(made.jpeg)) as image:
        assert image.format == "JPEG"
        assert image.mode in ("L", "RGB")
        assert image.size == (made.width, made.height)
        assert image.getexif().get(0x0112, 1) == 1
        found = np.asarray(image, dtype=np.int16)
    assert made.jpeg.rstrip(b"\0\r\n").endswith(b"\xff\xd9")
    assert made.sha256 == hashlib.sha256(made.jpeg).hexdigest()
    assert 0 <= made.phash < 1 << 64
    again = read_picture(made.jpeg, how)
    assert (again.jpeg, again.transform) == (made.jpeg, "none")
    return found


def assert_close(found: NDArray[np.int16], expected: NDArray[np.uint8], off: float = 3.0) -> None:
    """Equal but for what a JPEG of quality 95 loses."""
    assert found.shape == expected.shape
    difference = np.abs(found - expected.astype(np.int16))
    assert difference.mean() < off, f"off by {difference.mean():.1f} on average"


def refusal(data: bytes, how: ImageSettings = DEFAULT) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        read_picture(data, how)
    assert isinstance(caught.value.reason, Reason)
    return caught.value


def tiff(array: NDArray[np.generic], **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def icc_profile() -> bytes:
    return bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())


def stretched(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Percentiles 0.1 and 99.9 of all values to black and white."""
    low, high = np.percentile(values.astype(np.float64), (0.1, 99.9))
    scaled = (values.astype(np.float64) - low) / (high - low) * 255
    return np.clip(scaled, 0, 255).round().astype(np.uint8)


# Pass-through

GOOD = {
    "rgb": jpeg(1),
    "grey": encoded(picture(2, mode="L"), "JPEG"),
    "progressive": jpeg(3, progressive=True),
    "icc": jpeg(4, icc_profile=icc_profile()),
    "upright": jpeg(5, exif=exif(1)),
    "no chroma subsampling": jpeg(6, subsampling=0),
    "restart markers": jpeg(7, restart_marker_blocks=3),
    "comment": jpeg(8, comment=b"made \xff\xd9 up"),
    "odd size": jpeg(9, 121, 67),
    "smallest": jpeg(10, 20, 20),
    "large": jpeg(11, 900, 700),
    "quality 20": jpeg(12, quality=20),
    "rgb coded": jpeg(13, keep_rgb=True),
}


@pytest.mark.parametrize("name", GOOD)
@BOTH_WAYS
def test_good_jpeg_passes_byte_for_byte(name: str, how: ImageSettings) -> None:
    data = GOOD[name]
    made = read_picture(data, how)
    assert made.jpeg == data
    assert made.transform == "none"
    assert made.source_format == "JPEG"
    assert made.source_bytes == len(data)
    assert made.source_md5 == hashlib.md5(data).hexdigest()
    decoded(made)


@pytest.mark.parametrize("padding", [b"\0", b"\0" * 300, b"\r\n", b"\n"])
def test_padding_after_the_end_is_harmless(padding: bytes) -> None:
    made = read_picture(jpeg(1) + padding, DEFAULT)
    assert_close(decoded(made), np.asarray(Image.open(io.BytesIO(jpeg(1)))), off=0.5)


# Conversions


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
@BOTH_WAYS
def test_png(mode: str, how: ImageSettings) -> None:
    image = picture(20).convert(mode)
    made = read_picture(encoded(image, "PNG"), how)
    expected = image.convert("L" if mode in ("1", "L") else "RGB")
    assert_close(decoded(made), np.asarray(expected), off=6)
    assert made.source_format == "PNG"
    assert made.transform == "from-png"


@BOTH_WAYS
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_colours_hidden_under_alpha_become_white(kind: str, how: ImageSettings) -> None:
    image = picture(21)
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 60, 90))
    image.putalpha(alpha)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    made = read_picture(encoded(image, kind, **options), how)
    found = decoded(made)
    assert found[:, :56].min() > 245, "what stood under the alpha shows"
    assert_close(found[:, 64:], pixels(21)[:, 64:])
    assert made.transform == f"from-{kind.lower()}+alpha-on-white"


@BOTH_WAYS
def test_png_grey_with_alpha(how: ImageSettings) -> None:
    image = Image.merge("LA", [picture(22, mode="L"), Image.linear_gradient("L").resize((120, 90))])
    made = read_picture(encoded(image, "PNG"), how)
    grey, alpha = (np.asarray(band, dtype=float) for band in image.split())
    expected = (grey * alpha / 255 + 255 - alpha).round().astype(np.uint8)
    found = decoded(made)
    assert_close(found if found.ndim == 2 else found[:, :, 0], expected)
    assert made.transform == "from-png+alpha-on-white"


@BOTH_WAYS
def test_png_with_a_transparent_palette_entry(how: ImageSettings) -> None:
    image = Image.new("P", (60, 40), 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.paste(1, (30, 0, 60, 40))
    found = decoded(read_picture(encoded(image, "PNG", transparency=0), how))
    assert found[:, :24].min() > 245
    assert_close(found[:, 36:], np.full((40, 24, 3), (0, 0, 200), dtype=np.uint8))


DEEP = (np.linspace(0, 1, 120)[None, :] * np.linspace(0.3, 1, 90)[:, None]).astype(np.float32)


@pytest.mark.parametrize("top", [65_535, 4_095, 300])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@BOTH_WAYS
def test_16_bit_grey_is_stretched(top: int, kind: str, how: ImageSettings) -> None:
    values = (DEEP * top).astype(np.uint16)
    data = tiff(values) if kind == "TIFF" else encoded(Image.fromarray(values), "PNG")
    made = read_picture(data, how)
    found = decoded(made)
    assert_close(found, stretched(values))
    assert (found == 255).mean() < 0.05, "saturated"
    assert made.transform == f"from-{kind.lower()}+stretched-to-8-bit"


FLOATS = {
    "zero to one": DEEP,
    "not finite": np.where(DEEP > 0.99, np.float32("nan"), DEEP),
    "negative": DEEP - 3,
    "int16": (DEEP * 2000 - 1000).astype(np.int16),
    "int32": (DEEP * 1e6).astype(np.int32),
    "uint32": (DEEP * 4e9).astype(np.uint32),
}


@pytest.mark.parametrize("name", FLOATS)
def test_tiff_of_other_numbers_is_stretched(name: str) -> None:
    values = FLOATS[name]
    made = read_picture(tiff(values), DEFAULT)
    assert_close(decoded(made), stretched(np.nan_to_num(values)))
    assert made.transform == "from-tiff+stretched-to-8-bit"


def test_16_bit_colour_tiff() -> None:
    values = pixels(23).astype(np.uint16) * 16
    made = read_picture(tiff(values, photometric="rgb"), DEFAULT)
    assert_close(decoded(made), stretched(values))
    assert made.transform == "from-tiff+stretched-to-8-bit"


def test_16_bit_colour_tiff_with_alpha() -> None:
    colours = pixels(24).astype(np.uint16) * 257
    alpha = np.full((90, 120, 1), 65_535, dtype=np.uint16)
    alpha[:, :60] = 0
    values = np.concatenate([colours, alpha], axis=-1)
    data = tiff(values, photometric="rgb", extrasamples=["unassalpha"])
    made = read_picture(data, DEFAULT)
    found = decoded(made)
    assert found[:, :56].min() > 245
    assert_close(found[:, 64:], pixels(24)[:, 64:], off=8)


def test_flat_deep_picture_is_no_error() -> None:
    made = read_picture(tiff(np.full((40, 50), 700, dtype=np.uint16)), DEFAULT)
    assert np.ptp(decoded(made)) <= 1


COMPRESSIONS = [None, "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "jpeg"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_tiff_8_bit(mode: str, compression: str | None) -> None:
    image = picture(25, mode=mode)
    made = read_picture(encoded(image, "TIFF", compression=compression), DEFAULT)
    assert_close(decoded(made), np.asarray(image))
    assert made.source_format == "TIFF"
    assert made.transform == "from-tiff"


def test_tiff_of_one_bit_and_white_is_zero() -> None:
    fax = picture(26).convert("1")
    made = read_picture(encoded(fax, "TIFF", compression="group4"), DEFAULT)
    assert_close(decoded(made), np.asarray(fax.convert("L")), off=6)
    grey = pixels(27, bands=1)[:, :, 0]
    data = tiff(255 - grey, photometric="miniswhite")
    assert_close(decoded(read_picture(data, DEFAULT)), grey)


def test_tiff_with_a_palette() -> None:
    image = picture(28).convert("P", palette=Image.Palette.ADAPTIVE)
    made = read_picture(encoded(image, "TIFF"), DEFAULT)
    assert_close(decoded(made), np.asarray(image.convert("RGB")), off=6)


def test_tiff_in_planes_and_tiles() -> None:
    planes = np.moveaxis(pixels(29, 128, 96), -1, 0)
    made = read_picture(tiff(planes, photometric="rgb", planarconfig="separate"), DEFAULT)
    assert_close(decoded(made), pixels(29, 128, 96))
    made = read_picture(tiff(pixels(30, 200, 100), photometric="rgb", tile=(64, 64)), DEFAULT)
    assert_close(decoded(made), pixels(30, 200, 100))


PATCHES = ((200, 30, 30), (30, 160, 60), (40, 60, 200), (240, 240, 240), (20, 20, 20))


def patches(mode: str) -> Image.Image:
    image = Image.new("RGB", (100, 40))
    for place, colour in enumerate(PATCHES):
        image.paste(colour, (20 * place, 0, 20 * place + 20, 40))
    if mode == "LAB":
        profiles = [ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")]
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
        assert converted is not None
        return converted
    return image.convert(mode)


def assert_patches(made: Picture, off: int) -> None:
    found = decoded(made)
    assert found.shape == (40, 100, 3)
    for place, colour in enumerate(PATCHES):
        middle = found[10:30, 20 * place + 6 : 20 * place + 14].mean(axis=(0, 1))
        assert np.abs(middle - colour).max() < off, f"{colour} became {middle.round()}"


@BOTH_WAYS
def test_cmyk_jpeg_of_adobe_is_not_inverted(how: ImageSettings) -> None:
    data = encoded(patches("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data, "Pillow writes CMYK inverted, with Adobe's marker"
    made = read_picture(data, how)
    assert_patches(made, off=90)  # a press cannot print these colours as they are
    assert made.source_format == "JPEG"
    assert made.transform == "cmyk-to-rgb"


@BOTH_WAYS
@pytest.mark.parametrize("orientation", [3, 6])
def test_cmyk_jpeg_that_is_rotated(orientation: int, how: ImageSettings) -> None:
    data = encoded(patches("CMYK"), "JPEG", exif=exif(orientation))
    made = read_picture(data, how)
    decoded(made)
    assert (made.width, made.height) == ((100, 40) if orientation == 3 else (40, 100))
    assert made.transform == "cmyk-to-rgb+rotated"


def test_cmyk_tiff() -> None:
    made = read_picture(encoded(patches("CMYK"), "TIFF"), DEFAULT)
    assert_patches(made, off=90)
    assert made.transform == "from-tiff+cmyk-to-rgb"


def test_lab_tiff() -> None:
    made = read_picture(encoded(patches("LAB"), "TIFF"), DEFAULT)
    assert_patches(made, off=12)


@BOTH_WAYS
def test_webp_and_bmp_and_gif(how: ImageSettings) -> None:
    for kind, options in (("WEBP", {"lossless": True}), ("BMP", {}), ("GIF", {})):
        image = picture(31)
        made = read_picture(encoded(image, kind, **options), how)
        assert_close(decoded(made), np.asarray(image), off=12 if kind == "GIF" else 3)
        assert (made.source_format, made.transform) == (kind, f"from-{kind.lower()}")


@BOTH_WAYS
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_first_frame_of_many(kind: str, how: ImageSettings) -> None:
    frames = [picture(seed) for seed in (32, 33, 34)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    made = read_picture(data, how)
    assert_close(decoded(made), pixels(32), off=12)
    assert made.transform.startswith(f"from-{kind.lower()}+first-frame")


def test_first_page_of_a_z_stack() -> None:
    stack = np.stack([pixels(seed, bands=1)[:, :, 0] for seed in range(35, 40)])
    made = read_picture(tiff(stack, photometric="minisblack"), DEFAULT)
    assert_close(decoded(made), stack[0])
    assert made.transform == "from-tiff+first-frame"


def test_mpo_is_a_jpeg_with_a_second_picture() -> None:
    frames = [picture(seed) for seed in (41, 42)]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    made = read_picture(data, DEFAULT)
    assert_close(decoded(made), pixels(41), off=6)
    assert made.source_format == "JPEG"
    assert made.transform == "from-mpo"
    assert made.jpeg.count(b"\xff\xd8\xff") == 1


def turned(orientation: int) -> NDArray[np.uint8]:
    """What a viewer shows of `pixels(43)` with this orientation (EXIF 2.3, tag 0x0112)."""
    upright = pixels(43)
    return {
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[:, ::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[::-1],
    }[orientation]


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@BOTH_WAYS
def test_exif_rotation_is_applied(orientation: int, kind: str, how: ImageSettings) -> None:
    options: dict[str, object] = {"exif": exif(orientation)}
    options |= {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    made = read_picture(encoded(picture(43), kind, **options), how)
    assert_close(decoded(made), turned(orientation), off=4)
    assert made.transform == ("rotated" if kind == "JPEG" else f"from-{kind.lower()}+rotated")


def zip_of(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()


@pytest.mark.parametrize("end", [b"", b"\xff\xd9", b"\xff\xd9\0\0", jpeg(45)])
def test_bytes_after_the_end_are_removed(end: bytes) -> None:
    hidden = zip_of("hidden.txt", b"smuggled")
    made = read_picture(jpeg(44, quality=95) + hidden + end, DEFAULT)
    assert not zipfile.is_zipfile(io.BytesIO(made.jpeg))
    assert b"smuggled" not in made.jpeg
    assert_close(decoded(made), pixels(44), off=4)
    assert made.transform == "trailing-bytes-removed"


def test_steps_are_joined_in_order() -> None:
    image = picture(46).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    made = read_picture(encoded(image, "PNG", exif=exif(6)), DEFAULT)
    assert made.transform == "from-png+rotated+alpha-on-white"
    assert (made.width, made.height) == (90, 120)


def test_quality_is_a_setting() -> None:
    data = encoded(picture(47, 400, 300), "PNG")
    small = read_picture(data, replace(DEFAULT, jpeg_quality=40))
    large = read_picture(data, replace(DEFAULT, jpeg_quality=100))
    assert len(small.jpeg) < len(large.jpeg)
    with pytest.raises(ConfigError):
        ImageSettings(jpeg_quality=0)


def test_same_bytes_each_time() -> None:
    for image in (picture(48), picture(48, mode="RGBA")):
        data = encoded(image, "PNG")
        assert read_picture(data, DEFAULT) == read_picture(data, DEFAULT)


# Refusals


NOT_PICTURES = {
    "empty": b"",
    "one byte": b"\xff",
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="90" height="90"/>',
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n",
    "zip": zip_of("a.jpg", jpeg(50)),
    "ppm": b"P6 100 100 255\n" + bytes(30_000),
    "ico": encoded(picture(51), "ICO"),
    "tga": encoded(picture(51), "TGA"),
    "jpeg 2000": encoded(picture(51), "JPEG2000"),
    "psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 90, 120, 8, 3) + bytes(60),
    "fits": b"SIMPLE  =                    T".ljust(2880),
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("name", NOT_PICTURES)
def test_what_is_no_picture_of_a_known_format(name: str) -> None:
    assert refusal(NOT_PICTURES[name]).reason is Reason.FORMAT_REFUSED


@pytest.mark.parametrize("size", [(19, 300), (300, 19), (1, 1)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
def test_too_small(size: tuple[int, int], kind: str) -> None:
    error = refusal(encoded(picture(52).resize(size), kind))
    assert error.reason is Reason.TOO_SMALL
    assert f"{size[0]}x{size[1]}" in error.detail


@pytest.mark.parametrize("size", [(65_501, 20), (20, 65_501)])
def test_longer_than_a_jpeg_may_be(size: tuple[int, int]) -> None:
    small = encoded(Image.new("L", (100, 40), 128), "JPEG")
    sides = struct.pack(">HH", size[1], size[0])
    long_jpeg = small.replace(struct.pack(">HH", 40, 100), sides, 1)
    for data in (long_jpeg, encoded(Image.new("L", size, 128), "PNG")):
        error = refusal(data)
        assert error.reason is Reason.TOO_MANY_PIXELS
        assert f"{size[0]}x{size[1]}" in error.detail


def test_as_long_as_a_jpeg_may_be() -> None:
    made = read_picture(encoded(Image.new("L", (65_500, 20), 128), "PNG"), DEFAULT)
    assert (made.width, made.height) == (65_500, 20)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP"])
def test_too_many_frames(kind: str) -> None:
    frames = [Image.new("L", (24, 24), 10 * n) for n in range(12)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert refusal(data, replace(DEFAULT, max_frames=11)).reason is Reason.TOO_MANY_FRAMES
    assert read_picture(data, replace(DEFAULT, max_frames=12)).width == 24


def bomb_png(side: int) -> bytes:
    """A black-and-white PNG of side x side pixels: a few kilobytes that decode to gigabytes."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    body = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)),
        (b"IDAT", body),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


MEASURE = """
import re, sys
from pathlib import Path
from biomedica.images import ImageSettings, RefusedError, read_picture
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
read_picture(Path(sys.argv[2]).read_bytes(), ImageSettings())
data = Path(sys.argv[1]).read_bytes()
before = peak()
try:
    read_picture(data, ImageSettings(vips_pixels=int(sys.argv[3])))
    reason = "none"
except RefusedError as error:
    reason = error.reason.value
sys.stdout.write(f"{reason} {(peak() - before) // 1024}")
"""


def growth(tmp_path: Path, data: bytes, vips_pixels: int) -> tuple[str, int]:
    """(reason or `none`, megabytes) that reading a picture takes in a process of its own."""
    (tmp_path / "large").write_bytes(data)
    (tmp_path / "small").write_bytes(encoded(picture(53), "TIFF"))
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "large", tmp_path / "small", str(vips_pixels)],
        check=True,
        capture_output=True,
        text=True,
    )
    reason, megabytes = ended.stdout.split()
    return reason, int(megabytes)


def test_600_megapixels_are_refused_unread(tmp_path: Path) -> None:
    data = bomb_png(24_500)
    assert len(data) < 200_000
    reason, megabytes = growth(tmp_path, data, DEFAULT.vips_pixels)
    assert reason == "too_many_pixels"
    assert megabytes < 20


def test_large_pictures_are_decoded_in_strips(tmp_path: Path) -> None:
    picture_mb = 100  # one byte a pixel
    reason, megabytes = growth(tmp_path, bomb_png(10_000), DEFAULT.vips_pixels)
    assert reason == "none"
    assert megabytes < 5 * picture_mb


# Damage


DAMAGED = {
    "jpeg": jpeg(60),
    "grey jpeg": encoded(picture(61, mode="L"), "JPEG"),
    "progressive jpeg": jpeg(62, progressive=True),
    "cmyk jpeg": encoded(patches("CMYK"), "JPEG"),
    "rotated jpeg": jpeg(63, exif=exif(6)),
    "rotated cmyk jpeg": encoded(patches("CMYK"), "JPEG", exif=exif(8)),
    "mpo": encoded(picture(64), "MPO", save_all=True, append_images=[picture(65)]),
    "png": encoded(picture(66), "PNG"),
    "palette png": encoded(picture(66).convert("P"), "PNG", transparency=3),
    "16-bit png": encoded(Image.fromarray((DEEP * 9000).astype(np.uint16)), "PNG"),
    "gif": encoded(picture(67), "GIF"),
    "animated gif": encoded(picture(67), "GIF", save_all=True, append_images=[picture(68)]),
    "tiff": encoded(picture(69), "TIFF"),
    "lzw tiff": encoded(picture(69), "TIFF", compression="tiff_lzw"),
    "deep tiff": tiff((DEEP * 4095).astype(np.uint16)),
    "float tiff": tiff(DEEP),
    "webp": encoded(picture(70), "WEBP"),
    "bmp": encoded(picture(71), "BMP"),
}


@pytest.mark.parametrize("how", [DEFAULT, STRIPS], ids=["pillow", "libvips"])
@pytest.mark.parametrize("name", DAMAGED)
def test_cut_short_anywhere(name: str, how: ImageSettings) -> None:
    data = DAMAGED[name]
    cuts = {*range(0, min(len(data), 700), 23), *range(0, len(data), max(1, len(data) // 40))}
    cuts |= set(range(len(data) - 12, len(data)))
    for cut in sorted(cuts):
        try:
            made = read_picture(data[:cut], how)
        except RefusedError as error:
            assert error.reason in (Reason.IMAGE_BAD, Reason.FORMAT_REFUSED)
        else:
            assert made.jpeg != data[:cut], f"passed through, cut at {cut} of {len(data)}"
            decoded(made)


@pytest.mark.parametrize("name", ["jpeg", "grey jpeg", "progressive jpeg"])
def test_jpeg_cut_in_its_pixels_is_refused(name: str) -> None:
    data = DAMAGED[name]
    start = data.index(b"\xff\xda") + 20
    for cut in range(start, len(data) - 60, (len(data) - start) // 25):
        assert refusal(data[:cut]).reason is Reason.IMAGE_BAD


@pytest.mark.parametrize("name", ["jpeg", "grey jpeg", "progressive jpeg"])
def test_jpeg_cut_in_its_pixels_with_an_end_put_on_is_refused(name: str) -> None:
    data = DAMAGED[name]
    assert refusal(data[: len(data) // 2] + b"\xff\xd9").reason is Reason.IMAGE_BAD


@pytest.mark.parametrize("name", ["png", "16-bit png", "tiff", "deep tiff", "gif", "bmp"])
def test_half_a_picture_is_refused(name: str) -> None:
    data = DAMAGED[name]
    assert refusal(data[: len(data) // 2]).reason is Reason.IMAGE_BAD


def read_or_refuse(data: bytes) -> None:
    for how in (DEFAULT, STRIPS):
        try:
            made = read_picture(data, how)
        except RefusedError as error:
            assert isinstance(error.reason, Reason)
        else:
            assert isinstance(made, Picture)
            Image.open(io.BytesIO(made.jpeg)).load()


HEADS = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"MM\0*", b"BM"]
HEADS += [b"RIFF\x20\0\0\0WEBPVP8 ", b"II+\0", b"\xff\xd8\xff\xe1\0\x20Exif\0\0II*\0"]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(HEADS), st.binary(max_size=600))
def test_random_bytes(head: bytes, tail: bytes) -> None:
    read_or_refuse(head + tail)


SMALL = [
    jpeg(80, 24, 24),
    jpeg(81, 24, 24, exif=exif(6), progressive=True),
    encoded(picture(82, 24, 24).convert("CMYK"), "JPEG", exif=exif(6)),
    encoded(picture(83, 24, 24), "PNG", exif=exif(6), icc_profile=icc_profile()),
    encoded(picture(83, 24, 24, "RGBA"), "PNG"),
    encoded(picture(84, 24, 24), "GIF", save_all=True, append_images=[picture(85, 24, 24)]),
    encoded(picture(86, 24, 24), "TIFF"),
    encoded(picture(86, 24, 24), "TIFF", compression="tiff_lzw", exif=exif(6)),
    tiff((DEEP[:24, :24] * 4095).astype(np.uint16)),
    encoded(picture(87, 24, 24), "WEBP", exif=exif(6)),
    encoded(picture(88, 24, 24), "BMP"),
    encoded(picture(89, 24, 24), "MPO", save_all=True, append_images=[picture(90, 24, 24)]),
]
CHANGES = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=6
)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(SMALL), CHANGES, st.floats(0, 1))
def test_changed_bytes(data: bytes, changes: list[tuple[float, bytes]], kept: float) -> None:
    changed = bytearray(data)
    for place, new in changes:
        start = int(place * place * len(data))  # more of them in the headers
        changed[start : start + len(new)] = new
    read_or_refuse(bytes(changed[: int((1 - (1 - kept) ** 3) * len(changed)) + 1]))


# Perceptual hash


def distance(one: int, other: int) -> int:
    return (one ^ other).bit_count()


SEEDS = range(100, 108)


@pytest.mark.parametrize("seed", SEEDS)
def test_hash_survives_quality_scale_and_format(seed: int) -> None:
    image = picture(seed, 640, 480)
    first = read_picture(encoded(image, "JPEG", quality=95), DEFAULT).phash
    copies = [
        encoded(image, "JPEG", quality=40),
        encoded(image.resize((320, 240), Image.Resampling.LANCZOS), "JPEG", quality=90),
        encoded(image, "PNG"),
        encoded(image.convert("L"), "JPEG"),
        encoded(image, "TIFF"),
    ]
    for data in copies:
        assert distance(first, read_picture(data, DEFAULT).phash) <= 3


def test_hash_is_of_the_picture_alone() -> None:
    one, other = jpeg(120), jpeg(120, comment=b"another file")
    assert one != other
    assert read_picture(one, DEFAULT).phash == read_picture(other, DEFAULT).phash


def test_hash_tells_pictures_apart() -> None:
    hashes = [read_picture(jpeg(seed, 640, 480), DEFAULT).phash for seed in SEEDS]
    apart = [distance(a, b) for place, a in enumerate(hashes) for b in hashes[:place]]
    assert min(apart) > 10


def test_hash_sees_a_rotation() -> None:
    plain = read_picture(jpeg(121, 640, 480), DEFAULT).phash
    turned = read_picture(jpeg(121, 640, 480, exif=exif(6)), DEFAULT).phash
    assert distance(plain, turned) > 10


def slow_hash(gray: Image.Image) -> int:
    """The definition, written out: cosine transform of a 32x32 picture, against the median."""
    side = 32
    values = np.asarray(gray.resize((side, side), Image.Resampling.BOX), dtype=np.float64)
    place = np.arange(side)
    low = np.empty((8, 8))
    for v in range(8):
        for u in range(8):
            down = np.cos(np.pi * v * (2 * place + 1) / (2 * side))
            along = np.cos(np.pi * u * (2 * place + 1) / (2 * side))
            low[v, u] = (values * down[:, None] * along[None, :]).sum()
    bits = "".join("1" if value > np.median(low) else "0" for value in low.ravel())
    return int(bits, 2)


@pytest.mark.parametrize("seed", range(130, 140))
def test_hash_is_the_published_one(seed: int) -> None:
    gray = picture(seed, 200, 150, "L")
    assert perceptual_hash(gray) == slow_hash(gray)
    data = encoded(gray.resize((64, 64)), "JPEG", quality=100)
    assert read_picture(data, DEFAULT).phash == slow_hash(Image.open(io.BytesIO(data)))


def test_hash_of_the_negative_is_the_opposite() -> None:
    gray = picture(141, 200, 150, "L")
    assert distance(perceptual_hash(gray), perceptual_hash(ImageChops.invert(gray))) >= 60
