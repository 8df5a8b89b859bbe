"""Whether two pictures show the same piece of the same picture: cropped, scaled, squeezed or mirrored.

The middle of one is looked for in the other at several scales, by normalised correlation of fine detail
(brightness that changes slowly says little: chest films of any two people agree in it). Where it fits
best, all that both show is compared once more, at a higher resolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.float32]
Size = tuple[int, int]
"""(width, height)."""

_COARSE, _FINE = 64, 128
"""Longer side of the picture that is searched, in pixels."""
_STEP = 1.045
_SPANS = tuple(_STEP**power for power in range(-8, 9))
"""Of the one picture against the other: 0.70 to 1.42."""
_NUDGES = tuple(1 + step / 100 for step in range(-5, 6))
_REACH = 5
"""Of size and place at the higher resolution: what the lower one may be wrong by."""
_MARGIN = 0.25
"""Of the picture that is looked for, left out on each side at first: so much may be cut off."""
_BLUR = 2.5
"""Detail is what a Gaussian of that many pixels takes away; fewer in pictures smaller than `_COARSE`."""
_HOPELESS = 0.2
"""Correlation at the lower resolution that is not looked into."""
_FLAT = 2.0
"""Standard deviation of detail, in grey levels, below which there is none."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """How well two pictures fit at their best place."""

    correlation: float
    """Of fine detail over what both show, -1 to 1; 0 where one has none."""
    is_mirrored: bool
    share: float
    """Of the first picture's area, what the second shows too."""
    side: int
    """Pixels of the longer side that they were compared at: few for small pictures, which agree sooner."""

    def convinces(self, least: float) -> bool:
        """Whether they are the same. least   correlation from 64 pixels a side on; smaller ones need more"""
        doubt = max(0.0, 1 - self.side / _COARSE)
        return self.correlation >= least + (1 - least) * doubt


NOTHING = Overlap(0.0, False, 0.0, _COARSE)


@dataclass(frozen=True, slots=True)
class Grey:
    """A picture made ready for comparisons."""

    image: Image.Image
    """Mode F, at most 256 pixels a side."""
    size: Size
    """Of the whole picture."""

    @classmethod
    def of(cls, image: Image.Image) -> Grey:
        """From a picture of any mode."""
        small = image.convert("L")
        small.thumbnail((2 * _FINE, 2 * _FINE), Image.Resampling.BOX, reducing_gap=None)
        return cls(small.convert("F"), image.size)


def overlap(one: Grey, other: Grey) -> Overlap:
    """How the first picture fits the second, as it is or mirrored. Some 15 ms."""
    target = _Target.of(other, min(_COARSE, _side(one, other)))
    best, place, size, is_mirrored = 0.0, (0, 0), (1, 1), False
    for now in _sizes(one, other, target.size):
        part = _middle(_detail(one, now))
        for turned in (False, True):
            score, at = target.best_place(part[:, ::-1] if turned else part)
            if score > best:
                best, place, size, is_mirrored = score, at, now, turned
    if best < _HOPELESS:
        return NOTHING
    return _refined(one, other, target.size, place, size, is_mirrored)


def _side(one: Grey, other: Grey) -> int:
    """Pixels beyond which there is nothing to see in one of them."""
    return min(max(one.size), max(other.size))


def _sizes(one: Grey, other: Grey, target: Size) -> Iterator[Size]:
    """What the first may measure in the second's pixels: squeezed to its shape, or of its own shape."""
    width, height = target
    yield from ((round(width * span), round(height * span)) for span in _SPANS)
    squeeze = (one.size[0] / one.size[1]) / (width / height)
    if abs(np.log(squeeze)) > 0.02:
        wide, high = width * squeeze**0.5, height / squeeze**0.5
        yield from ((round(wide * span), round(high * span)) for span in _SPANS)


def _refined(
    one: Grey, other: Grey, coarse: Size, place: Size, size: Size, is_mirrored: bool
) -> Overlap:
    """The same fit at a higher resolution, over all that both show."""
    target = _Target.of(other, min(_FINE, _side(one, other)))
    zoom = target.size[0] / coarse[0], target.size[1] / coarse[1]
    left = (place[0] - round(_MARGIN * size[0])) * zoom[0]
    top = (place[1] - round(_MARGIN * size[1])) * zoom[1]
    centre = left + size[0] * zoom[0] / 2, top + size[1] * zoom[1] / 2
    found = NOTHING
    for nudge in _NUDGES:
        now = round(size[0] * zoom[0] * nudge), round(size[1] * zoom[1] * nudge)
        start = round(centre[0] - now[0] / 2), round(centre[1] - now[1] / 2)
        box = _shown(start, now, target.size)
        if box is None:
            continue
        x0, y0, x1, y1 = box
        whole = _detail(one, now)
        part = (whole[:, ::-1] if is_mirrored else whole)[y0:y1, x0:x1]
        score, _ = target.best_place(part, near=(start[0] + x0, start[1] + y0))
        if score > found.correlation:
            found = Overlap(score, is_mirrored, part.size / (now[0] * now[1]), max(target.size))
    return found


def _shown(start: Size, size: Size, target: Size) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of the part that lies inside the target, a little less; None for too little."""
    slack = 3
    x0, y0 = max(0, slack - start[0]), max(0, slack - start[1])
    x1 = min(size[0], target[0] - slack - start[0])
    y1 = min(size[1], target[1] - slack - start[1])
    if (x1 - x0) * (y1 - y0) < 0.25 * size[0] * size[1] or min(x1 - x0, y1 - y0) < 8:
        return None
    return x0, y0, x1, y1


def _middle(plane_HW: Plane) -> Plane:
    height, width = plane_HW.shape
    x, y = round(_MARGIN * width), round(_MARGIN * height)
    return plane_HW[y : height - y, x : width - x]


def _detail(grey: Grey, size: Size) -> Plane:
    """(H, W): the picture at a size, without what changes slowly."""
    from scipy.ndimage import gaussian_filter

    small = grey.image.resize((max(4, size[0]), max(4, size[1])), Image.Resampling.BILINEAR)
    plane = np.asarray(small, dtype=np.float32)
    blur = _BLUR * min(1.0, max(size) / _COARSE)
    found: Plane = plane - gaussian_filter(plane, blur, mode="nearest")
    return found


@dataclass(frozen=True, slots=True)
class _Target:
    """The picture that is searched: its detail, and what correlations need of it."""

    size: Size
    spectrum: NDArray[np.complex64]
    sums: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, grey: Grey, side: int) -> _Target:
        from scipy.fft import rfft2

        width, height = grey.size
        scale = side / max(width, height)
        plane = _detail(grey, (round(width * scale), round(height * scale)))
        return cls(
            (plane.shape[1], plane.shape[0]),
            rfft2(plane),
            _integral(plane),
            _integral(plane.astype(np.float64) ** 2),
        )

    def best_place(self, part: Plane, near: Size | None = None) -> tuple[float, Size]:
        """(highest correlation, (left, top) of it). near   only `_REACH` pixels around that place"""
        height, width = part.shape
        rows, columns = self.size[1] - height + 1, self.size[0] - width + 1
        spread = float(part.std())
        x0, y0, x1, y1 = 0, 0, columns, rows
        if near is not None:
            x0, x1 = max(0, near[0] - _REACH), min(columns, near[0] + _REACH + 1)
            y0, y1 = max(0, near[1] - _REACH), min(rows, near[1] + _REACH + 1)
        if x1 <= x0 or y1 <= y0 or spread < _FLAT:
            return 0.0, (0, 0)
        count = width * height
        sums = _boxes(self.sums, width, height)[y0:y1, x0:x1]
        squares = _boxes(self.squares, width, height)[y0:y1, x0:x1]
        spreads = np.sqrt(np.maximum(squares / count - (sums / count) ** 2, _FLAT**2))
        scores = self._crossed(part - part.mean())[y0:y1, x0:x1] / (count * spread * spreads)
        y, x = divmod(int(scores.argmax()), x1 - x0)
        return float(scores[y, x]), (x0 + x, y0 + y)

    def _crossed(self, part: Plane) -> Plane:
        """Sums of products by the part's left upper corner: right wherever it lies inside."""
        from scipy.fft import irfft2, rfft2

        shape = self.size[1], self.size[0]
        found: Plane = irfft2(self.spectrum * np.conj(rfft2(part, shape)), shape)
        return found


def _integral(plane: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.pad(plane.astype(np.float64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)


def _boxes(integral: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    """Sum of every box of a size, by its left upper corner."""
    found: NDArray[np.float64] = (
        integral[height:, width:]
        - integral[:-height, width:]
        - integral[height:, :-width]
        + integral[:-height, :-width]
    )
    return found
