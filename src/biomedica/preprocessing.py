"""How a picture becomes a model's input: decoded, fitted to a square, scaled."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Fit = Literal["pad", "crop", "squash", "own"]
INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How a picture becomes a model's input."""

    size: int
    """Side of the square, in pixels."""
    fit: Fit
    crop_share: float = 1.0
    """`crop`: the square's share of the shorter side (DINOv2: 224 of 256)."""
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Of red, green, blue in [0, 1]; subtracted and divided by."""

    def pixels(self, jpeg: bytes) -> Pixels:
        """Decode to (size, size, 3). Raises `OSError` or `ValueError` for bytes that are no picture."""
        side = self.size if self.fit == "pad" else round(self.size / self.crop_share)
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            width, height = image.size
            edge = max(width, height) if self.fit == "pad" else min(width, height)
            wanted = max(1, round(width * side / edge)), max(1, round(height * side / edge))
            if self.fit == "squash":
                wanted = self.size, self.size
            image.draft("RGB", (2 * wanted[0], 2 * wanted[1]))
            small = image.convert("RGB").resize(wanted, INTERPOLATIONS[self.interpolation])
        place = (self.size - small.width) // 2, (self.size - small.height) // 2
        canvas = Image.new("RGB", (self.size, self.size), "white")
        canvas.paste(small, place)
        return np.asarray(canvas)

    def exact(self, image: Image.Image) -> Pixels:
        """An RGB picture as (size, size, 3), pixel for pixel as torchvision's Resize and CenterCrop make it.

        `pixels` is faster (JPEGs are decoded at half the size and less), and a level of 255 off.
        """
        how = INTERPOLATIONS[self.interpolation]
        if self.fit == "squash":
            return np.asarray(image.resize((self.size, self.size), how))
        if self.fit == "pad":
            edge = max(image.size)
            width, height = (max(1, round(each * self.size / edge)) for each in image.size)
            canvas = Image.new("RGB", (self.size, self.size), "white")
            place = (self.size - width) // 2, (self.size - height) // 2
            canvas.paste(image.resize((width, height), how), place)
            return np.asarray(canvas)
        side = round(self.size / self.crop_share)
        edge = min(image.size)
        width, height = (side if each == edge else int(side * each / edge) for each in image.size)
        if (width, height) != image.size:
            image = image.resize((width, height), how)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))

    def normalised(self, pixels_NHWC: Pixels) -> NDArray[np.float32]:
        """Pixels as (N, 3, H, W) in the model's own scale."""
        scale = np.float32(1 / 255) / np.array(self.std, np.float32)
        shift = np.array(self.mean, np.float32) / np.array(self.std, np.float32)
        scaled = pixels_NHWC * scale - shift
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=np.float32)
