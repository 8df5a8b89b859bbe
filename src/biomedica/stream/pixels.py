"""JPEG bytes to pixels for a model: decoded at the size that is needed, cropped, resized; uint8 all the way.

Training crops and evaluation resizing are open_clip's (`open_clip.transform.image_transform`), with the
random numbers of a sample's place in the order instead of a global generator: the same picture gets
the same crop whatever the workers. Normalising is left to the training step, on its device.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from biomedica.errors import ArchiveError, ConfigError

NUM_DRAWS = 48
"""Random numbers in [0, 1) that a picture takes: 4 for each of 10 tries of a crop, 6 for colours."""
_TRIES = 10
_MOST_PIXELS = 10**9
"""A damaged header must not take all memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelSettings:
    """How a picture becomes a square of pixels."""

    size: int = 224
    """Side of the square, in pixels."""
    train: bool = True
    """Random crops and colours; else the shorter side is made to fit and the middle taken."""
    scale: tuple[float, float] = (0.9, 1.0)
    """Share of the picture's area that a random crop keeps."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width by height of a random crop, before it is made square."""
    color_jitter: tuple[float, float, float, float] | None = None
    """Brightness, contrast, saturation, hue, as torchvision's ColorJitter."""
    color_jitter_prob: float = 0.0
    """Share of the pictures whose colours are changed."""
    gray_scale_prob: float = 0.0
    """Share of the pictures that lose their colours."""
    fit: Literal["crop", "pad"] = "crop"
    """Without `train`: `pad` makes the longer side fit and fills up with black, as open_clip's `longest`."""
    scaled_decode: bool = True
    """Let the JPEG decoder halve what is at least twice as large as needed: faster, other pixels by
    about one level of 255. Without it, the pixels are Pillow's but for
    the rounding of the resize: a few of a thousand values, by one level."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"images.size is {self.size}; at least 1 is expected")
        low, high = self.scale
        if not 0 < low <= high <= 1 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError("images.scale must be two numbers in (0, 1], images.ratio above 0")
        if self.color_jitter is None and self.color_jitter_prob:
            raise ConfigError("images.color_jitter_prob needs images.color_jitter")


Box = tuple[float, float, float, float]
"""Top, left, height, width, in pixels of the whole picture."""


def crop_box(height: int, width: int, draws: NDArray[np.float64], settings: PixelSettings) -> Box:
    """A random part of a picture, by torchvision's RandomResizedCrop (Szegedy et al. 2015).

    draws   (40,) random numbers: area, ratio, top and left of ten tries
    """
    low, high = math.log(settings.ratio[0]), math.log(settings.ratio[1])
    for area_u, ratio_u, top_u, left_u in draws[: 4 * _TRIES].reshape(_TRIES, 4).tolist():
        share = settings.scale[0] + (settings.scale[1] - settings.scale[0]) * area_u
        area = height * width * share
        ratio = math.exp(low + (high - low) * ratio_u)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(top_u * (height - h + 1)), int(left_u * (width - w + 1)), h, w
    w, h = width, height  # the middle, as near to the wanted ratios as it can be
    if width / height < settings.ratio[0]:
        h = round(width / settings.ratio[0])
    elif width / height > settings.ratio[1]:
        w = round(height * settings.ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


class Pixels:
    """Makes batches of pixels. torch is needed from here on."""

    def __init__(self, settings: PixelSettings) -> None:
        import torch

        self.settings = settings
        self._torch = torch

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["settings"])  # type: ignore[misc]

    def empty(self, count: int) -> Any:
        """uint8 tensor (B, 3, S, S) to write to, channels last in memory."""
        side = self.settings.size
        return self._torch.empty(
            (count, 3, side, side),
            dtype=self._torch.uint8,
            memory_format=self._torch.channels_last,
        )

    def write(
        self,
        batch: Any,
        i: int,
        jpg: bytes | memoryview,
        key: str,
        draws: NDArray[np.float64],
    ) -> None:
        """Decode a picture into place `i` of a batch.

        key     for messages
        draws   (NUM_DRAWS,), as `order.uniform` gives them; not looked at without `train`
        Raises `ArchiveError` with the key of a picture that does not decode.
        """
        try:
            batch[i] = self._one(jpg, draws)
        except (ValueError, OSError) as error:
            raise ArchiveError(f"the picture of {key} does not decode: {error}") from None

    def _one(self, jpg: bytes | memoryview, draws: NDArray[np.float64]) -> Any:
        height, width = simplejpeg.decode_jpeg_header(jpg)[:2]
        if height * width > _MOST_PIXELS:
            raise ValueError(f"its header states {width:,} x {height:,} pixels")
        if self.settings.train:
            box: Box = crop_box(height, width, draws, self.settings)
            pixels = self._resized(jpg, height, width, box, (self.settings.size,) * 2)
            return self._coloured(pixels, draws[4 * _TRIES :])
        wanted = self._wanted(height, width)
        pixels = self._resized(jpg, height, width, (0, 0, height, width), wanted)
        return self._squared(pixels)

    def _wanted(self, height: int, width: int) -> tuple[int, int]:
        """Size of the whole picture, as torchvision's Resize and open_clip's ResizeKeepRatio make it."""
        side = self.settings.size
        if self.settings.fit == "pad":
            edge = max(height, width)
            return max(1, round(height * side / edge)), max(1, round(width * side / edge))
        if height < width:
            return side, int(side * width / height)
        return int(side * height / width), side

    def _resized(
        self, jpg: bytes | memoryview, height: int, width: int, box: Box, size: tuple[int, int]
    ) -> Any:
        """Part `box` of a picture at `size`, (3, H, W): bicubic with antialiasing."""
        top, left, h, w = box
        need = (1.0, 1.0)
        if self.settings.scaled_decode:
            need = min(1.0, size[0] / h), min(1.0, size[1] / w)
        array = _decoded(jpg, math.ceil(height * need[0]), math.ceil(width * need[1]))
        if array.shape[:2] != (height, width):
            down, across = array.shape[0] / height, array.shape[1] / width
            top, left = round(top * down), round(left * across)
            h, w = max(1, round(h * down)), max(1, round(w * across))
        part = array[int(top) : int(top + h), int(left) : int(left + w)]
        tensor = self._torch.from_numpy(part).permute(2, 0, 1)[None]
        if tensor.shape[2:] == size:
            return tensor[0]
        resize = self._torch.nn.functional.interpolate
        return resize(tensor, size, mode="bicubic", antialias=True, align_corners=False)[0]

    def _squared(self, pixels: Any) -> Any:
        """The middle of a picture (`crop`), or all of it on black (`pad`)."""
        side = self.settings.size
        height, width = pixels.shape[1:]
        if self.settings.fit == "pad":
            canvas = self._torch.zeros((3, side, side), dtype=self._torch.uint8)
            top, left = (side - height) // 2, (side - width) // 2
            canvas[:, top : top + height, left : left + width] = pixels
            return canvas
        top, left = round((height - side) / 2), round((width - side) / 2)
        return pixels[:, top : top + side, left : left + side]

    def _coloured(self, pixels: Any, draws: NDArray[np.float64]) -> Any:
        """Colours changed by chance: jitter, then grey, as in open_clip's training transform."""
        chosen = self.settings
        if chosen.color_jitter and draws[0] < chosen.color_jitter_prob:
            from torchvision.transforms.v2 import functional

            brightness, contrast, saturation, hue = chosen.color_jitter
            steps = (
                (functional.adjust_brightness, 1 + brightness * (2 * draws[1] - 1)),
                (functional.adjust_contrast, 1 + contrast * (2 * draws[2] - 1)),
                (functional.adjust_saturation, 1 + saturation * (2 * draws[3] - 1)),
                (functional.adjust_hue, hue * (2 * draws[4] - 1)),
            )
            for step, amount in steps:
                pixels = step(pixels, float(amount))
        if draws[5] < chosen.gray_scale_prob:
            from torchvision.transforms.v2 import functional

            pixels = functional.rgb_to_grayscale(pixels, num_output_channels=3)
        return pixels


def _decoded(jpg: bytes | memoryview, min_height: int, min_width: int) -> NDArray[np.uint8]:
    """RGB (H, W, 3), each side at least what is wanted (the decoder scales by eighths of the DCT)."""
    try:
        return np.asarray(
            simplejpeg.decode_jpeg(jpg, "RGB", min_height=min_height, min_width=min_width)
        )
    except ValueError:  # a colour space that it does not turn into RGB (CMYK), or damage
        with Image.open(io.BytesIO(jpg), formats=["JPEG"]) as image:
            return np.array(image.convert("RGB"))
