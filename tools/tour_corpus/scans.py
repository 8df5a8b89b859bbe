"""Pictures from a scanner, a camera or an eye clinic: CT, radiographs, MRI, ultrasound, fundus."""

from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from matplotlib.axes import Axes
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage import transform

from tour_corpus.canvas import (
    Pixels,
    Plane,
    ellipse,
    grid,
    image_panel,
    mosaic,
    new_figure,
    panel_letter,
    smooth_noise,
    to_bytes,
    to_pixels,
)

PHANTOM = [
    (1.0, (0.5, 0.5), (0.46, 0.345), 0.0),
    (-0.8, (0.5, 0.5), (0.437, 0.331), 0.0),
    (-0.2, (0.5, 0.61), (0.155, 0.055), -18.0),
    (-0.2, (0.5, 0.39), (0.205, 0.08), 18.0),
    (0.12, (0.325, 0.5), (0.125, 0.105), 0.0),
    (0.15, (0.45, 0.5), (0.023, 0.023), 0.0),
    (0.15, (0.55, 0.5), (0.023, 0.023), 0.0),
    (0.2, (0.8, 0.46), (0.0115, 0.023), 0.0),
    (0.2, (0.8, 0.54), (0.023, 0.0115), 0.0),
]
"""Gray level to add, centre, radii, turn: after the head section of Shepp and Logan (1974)."""


def photograph(name: str) -> Pixels:
    """One of the CC0 pictures that scikit-image's wheel holds, as RGB."""
    path = Path(skimage.data.__file__).parent / name
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def head_phantom(size: int) -> Plane:
    plane = np.zeros((size, size))
    for level, centre, radii, turn in PHANTOM:
        plane += level * ellipse(plane.shape, centre, radii, turn)
    return plane


def project(plane: Plane, angles: Plane) -> Plane:
    """The sinogram: one column of line integrals for each angle, in degrees."""
    return np.asarray(transform.radon(plane, angles), np.float64)  # type: ignore[no-untyped-call]


def rebuild(sinogram: Plane, angles: Plane, window: str) -> Plane:
    """The plane again, by filtered back-projection."""
    back = transform.iradon(sinogram, angles, filter_name=window)  # type: ignore[no-untyped-call]
    return np.asarray(back, np.float64)


def clipped(plane: NDArray[Any]) -> Plane:
    return np.asarray(np.clip(plane, 0, 1), np.float64)


def phantom_panels(rng: Generator) -> Pixels:
    head = head_phantom(180)
    pictures: list[NDArray[Any]] = [head]
    for views in (180, 30):
        angles = np.linspace(0, 180, views, endpoint=False)
        sinogram = project(head, angles)
        if views == 180:
            pictures.append(sinogram / sinogram.max())
        pictures.append(rebuild(sinogram, angles, "ramp"))
    pictures[2:] = [np.clip(p, 0, 1) for p in pictures[2:]]
    pictures[0] = np.clip(head * 1.6, 0, 1)
    pictures[2:] = [p * 1.6 for p in pictures[2:]]
    return to_pixels(mosaic([to_bytes(p) for p in pictures], "ABCD", 4, 8.4))


def noisy_phantom(rng: Generator) -> Plane:
    """A head section with the noise of a low dose, in [0, 1]."""
    head = ndimage.gaussian_filter(head_phantom(176), 0.8)
    return clipped(head * 0.75 + 0.12 + rng.normal(0, 0.03, head.shape))


def error_map(rng: Generator) -> NDArray[np.float32]:
    """Signed reconstruction error of the phantom from 45 views, as 32-bit floats."""
    head = head_phantom(160)
    angles = np.linspace(0, 180, 45, endpoint=False)
    rebuilt = rebuild(project(head, angles), angles, "hann")
    return np.asarray(rebuilt - head, np.float32)


def ribs(shape: tuple[int, int]) -> Plane:
    """Curved bright bands on both sides of the chest."""
    y, x = grid(*shape)
    u = (x / shape[1] - 0.5) * 2
    wave = np.sin((y / shape[0] * 9.5 - 1.25 * u**2 + 0.25 * np.abs(u)) * 2 * np.pi)
    lungs = (np.abs(u) > 0.1) & (np.abs(u) < 0.82)
    return clipped(np.clip(wave - 0.35, 0, 1) * lungs)


def chest_radiograph(rng: Generator, nodule: bool = True) -> Pixels:
    shape = (460, 440)
    soft = 0.62 * ndimage.gaussian_filter(ellipse(shape, (0.62, 0.5), (0.66, 0.48)), 14)
    for centre in (0.3, 0.7):
        turn = 7 if centre < 0.5 else -7
        lung = ellipse(shape, (0.44, centre), (0.31, 0.145), turn)
        soft -= 0.47 * ndimage.gaussian_filter(lung, 9)
    heart = ellipse(shape, (0.6, 0.55), (0.15, 0.15), 25)
    spine = ellipse(shape, (0.5, 0.5), (0.6, 0.045))
    plane = (
        soft + 0.26 * ndimage.gaussian_filter(heart, 8) + 0.13 * ndimage.gaussian_filter(spine, 6)
    )
    for centre in (0.26, 0.74):
        dome = ellipse(shape, (0.86, centre), (0.16, 0.24))
        plane += 0.25 * ndimage.gaussian_filter(dome, 7)
    for centre, turn in ((0.27, 16), (0.73, -16)):
        plane += 0.2 * ndimage.gaussian_filter(
            ellipse(shape, (0.13, centre), (0.014, 0.19), turn), 3
        )
    plane += 0.11 * ndimage.gaussian_filter(ribs(shape), 3)
    plane += 0.1 * (smooth_noise(rng, shape, 5) - 0.5) + 0.018 * rng.standard_normal(shape)
    if nodule:
        plane += 0.24 * ndimage.gaussian_filter(ellipse(shape, (0.36, 0.74), (0.035, 0.04)), 3)
    return annotate_radiograph(to_bytes(np.clip(plane, 0.02, 1)), nodule)


def annotate_radiograph(picture: Pixels, nodule: bool) -> Pixels:
    height, width = picture.shape[:2]
    fig = new_figure(width / 100, height / 100, arranged=False)
    ax = fig.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.imshow(picture)
    ax.axis("off")
    ax.text(
        0.95, 0.97, "L", transform=ax.transAxes, color="white", fontsize=17, ha="right", va="top"
    )
    if nodule:
        point_at(ax, (0.79 * width, 0.335 * height), (0.93 * width, 0.25 * height))
    return to_pixels(fig)


def point_at(
    ax: Axes, tip: tuple[float, float], tail: tuple[float, float], colour: str = "white"
) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.8, "mutation_scale": 15}
    ax.annotate("", tip, tail, arrowprops=style)


def chest_slice(rng: Generator, window: str) -> Plane:
    """An axial chest section with a lesion in the left lung, in a lung or soft-tissue window."""
    shape = (300, 300)
    body = ellipse(shape, (0.5, 0.5), (0.36, 0.46))
    fat = ndimage.gaussian_filter(body, 1.5) * 0.35
    muscle = 0.2 * ndimage.gaussian_filter(ellipse(shape, (0.5, 0.5), (0.325, 0.425)), 1.5)
    plane = fat + muscle
    for centre, turn in ((0.27, 8), (0.73, -8)):
        lung = ellipse(shape, (0.48, centre), (0.24, 0.155), turn)
        vessels = (smooth_noise(rng, shape, 1.6) > 0.69) * lung
        plane += lung * -0.47 + 0.3 * ndimage.gaussian_filter(vessels, 0.8)
    plane += 0.12 * ndimage.gaussian_filter(ellipse(shape, (0.42, 0.53), (0.13, 0.115), 20), 2)
    plane += 0.16 * ellipse(shape, (0.57, 0.545), (0.035, 0.035))
    plane += 0.42 * ndimage.gaussian_filter(ellipse(shape, (0.7, 0.5), (0.06, 0.07)), 1)
    rim = ellipse(shape, (0.5, 0.5), (0.31, 0.41)) - ellipse(shape, (0.5, 0.5), (0.293, 0.393))
    y, x = grid(*shape)
    gaps = np.sin(np.arctan2(y - 150, x - 150) * 9) > -0.2
    plane += 0.4 * ndimage.gaussian_filter(rim * gaps, 1)
    angle = np.arctan2(y - 0.41 * 300, x - 0.76 * 300)
    wobble = 0.034 + 0.006 * np.sin(5 * angle) + 0.006 * np.sin(13 * angle + 1)
    spiky = np.hypot(y / 300 - 0.41, x / 300 - 0.76) < wobble
    plane += 0.47 * ndimage.gaussian_filter(spiky.astype(float), 1)
    plane += rng.normal(0, 0.015, shape)
    if window == "lung":
        return clipped(plane * 1.55 + 0.05 * body)
    return clipped((plane - 0.28) * 1.9)


def chest_ct(rng: Generator) -> Pixels:
    fig = mosaic([to_bytes(chest_slice(rng, w)) for w in ("lung", "soft")], "AB", 2, 6.6)
    for ax in fig.axes:
        point_at(ax, (245, 115), (282, 82), "yellow")
    return to_pixels(fig)


def brain_slice(rng: Generator, weighting: str) -> Plane:
    """An axial brain section with a lesion; `weighting` is T1 or FLAIR."""
    shape = (260, 220)
    levels = {"T1": (0.75, 0.42, 0.66, 0.12, 0.3), "FLAIR": (0.5, 0.56, 0.42, 0.06, 0.95)}
    scalp, gray, white, fluid, lesion = levels[weighting]
    y, x = grid(*shape)
    warp = smooth_noise(rng, shape, 7)
    brain = ellipse(shape, (0.5, 0.5), (0.41, 0.415))
    depth = ndimage.distance_transform_edt(brain)
    folds = depth + 14 * (warp - 0.5) + 5 * np.sin(np.arctan2(y - 130, x - 110) * 19)
    plane = scalp * ndimage.gaussian_filter(ellipse(shape, (0.5, 0.5), (0.475, 0.485)), 1.2)
    plane *= 1 - ellipse(shape, (0.5, 0.5), (0.452, 0.46))
    plane += brain * np.where(folds > 15, white, gray)
    plane[(brain > 0) & (depth < 9) & (folds < 2.5)] = fluid
    plane[(np.abs(x - 110) < 1.4) & (brain > 0) & (np.abs(y - 130) > 42)] = fluid
    for side in (-1, 1):
        horn = ellipse(shape, (0.45, 0.5 + side * 0.075), (0.12, 0.035), side * 14)
        plane[horn > 0] = fluid
        plane[ellipse(shape, (0.54, 0.5 + side * 0.13), (0.05, 0.05)) > 0] = gray * 1.05
    spot = ndimage.gaussian_filter(ellipse(shape, (0.36, 0.69), (0.055, 0.06), 20), 3)
    plane = plane * (1 - spot) + lesion * spot
    return clipped(ndimage.gaussian_filter(plane, 0.9) + rng.normal(0, 0.018, shape))


def brain_mri(rng: Generator) -> Pixels:
    pictures = [to_bytes(brain_slice(rng, w)) for w in ("T1", "FLAIR")]
    overlay = pictures[1].copy()
    mask = ellipse(overlay.shape[:2], (0.36, 0.69), (0.055, 0.06), 20) > 0
    overlay[mask] = (0.5 * overlay[mask] + 0.5 * np.array([255, 40, 40])).astype(np.uint8)
    return to_pixels(mosaic([*pictures, overlay], "ABC", 3, 6.6))


def ultrasound(rng: Generator) -> Pixels:
    """A curved-array sector with a dark cyst and bright enhancement behind it."""
    depth, angle = 320, 260
    d, a = grid(depth, angle)
    tissue = 0.45 + 0.3 * (smooth_noise(rng, (depth, angle), 14) - 0.5)
    cyst = ((d - 150) / 42) ** 2 + ((a - 128) / 30) ** 2
    tissue = np.where(cyst < 1, 0.03, tissue)
    tissue += 0.22 * ((d > 190) & (np.abs(a - 128) < 26)) * np.exp(-(d - 190) / 70)
    tissue += 0.3 * (np.abs(cyst - 1.05) < 0.07)
    speckle = np.hypot(
        *ndimage.gaussian_filter(rng.standard_normal((2, depth, angle)), (0, 1.0, 1.6))
    )
    image = tissue * (speckle / speckle.mean()) ** 0.8 * np.exp(-d / 620) + 0.25 * np.exp(-d / 7)
    height, width = 400, 520
    y, x = grid(height, width)
    radius, theta = np.hypot(y + 70, x - 260), np.arctan2(x - 260, y + 70)
    row, column = (radius - 80) / 370 * depth, (theta / 0.56 + 1) / 2 * angle
    inside = (row >= 0) & (row < depth) & (column >= 0) & (column < angle)
    sector = ndimage.map_coordinates(image, [row, column], order=1, mode="nearest") * inside
    return to_bytes(np.clip(sector, 0, 1))


def fundus(rng: Generator) -> Pixels:
    picture = photograph("retina.jpg")
    return np.asarray(Image.fromarray(picture).resize((470, 470), Image.Resampling.LANCZOS))


def microaneurysms(rng: Generator) -> Pixels:
    """Enlarged detail of the retina; the two dark dots are ringed."""
    detail = photograph("microaneurysms.png")
    fig = new_figure(3.8, 3.8, arranged=False)
    ax = fig.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.imshow(detail, interpolation="bicubic")
    ax.axis("off")
    for x, y in dark_dots(detail[:, :, 0]):
        ax.plot(x, y, "o", mfc="none", mec="yellow", ms=20, mew=1.5)
    return to_pixels(fig)


def dark_dots(plane: NDArray[np.uint8], count: int = 2) -> list[tuple[float, float]]:
    """Centres (x, y) of the darkest small blobs away from the vessels."""
    smooth = ndimage.gaussian_filter(plane.astype(float), 1.2)
    blob = smooth - ndimage.gaussian_filter(plane.astype(float), 4)
    across = ndimage.uniform_filter1d(blob, 19, axis=1)
    score = blob - 2.2 * np.minimum(across, 0)
    score[:6], score[-6:], score[:, :6], score[:, -6:] = 0, 0, 0, 0
    found: list[tuple[float, float]] = []
    for _ in range(count):
        y, x = np.unravel_index(np.argmin(score), score.shape)
        found.append((float(x), float(y)))
        score[max(0, y - 8) : y + 9, max(0, x - 8) : x + 9] = 0
    return found


def vessel_panels(rng: Generator) -> Pixels:
    """The green channel of the fundus and its vessels, after a top-hat filter."""
    green = photograph("retina.jpg")[150:1250:4, 150:1250:4, 1].astype(float) / 255
    vessels = ndimage.black_tophat(ndimage.gaussian_filter(green, 0.8), size=11)
    vessels = np.clip(vessels / 0.1, 0, 1)
    fig = new_figure(6.0, 3.1)
    axes = [fig.add_subplot(1, 2, i + 1) for i in range(2)]
    image_panel(axes[0], to_bytes(np.clip(green * 1.5, 0, 1)), "A")
    image_panel(axes[1], to_bytes(vessels), "B")
    return to_pixels(fig)


def dose_map(rng: Generator) -> Pixels:
    """Isodose lines over a pelvic CT section."""
    shape = (280, 320)
    plane = 0.42 * ndimage.gaussian_filter(ellipse(shape, (0.5, 0.5), (0.4, 0.45)), 2)
    plane += 0.1 * ndimage.gaussian_filter(ellipse(shape, (0.48, 0.5), (0.3, 0.36)), 2)
    for centre in (0.2, 0.8):
        plane += 0.4 * ndimage.gaussian_filter(ellipse(shape, (0.52, centre), (0.09, 0.065)), 2)
    plane += 0.14 * ndimage.gaussian_filter(ellipse(shape, (0.36, 0.5), (0.09, 0.13)), 2)
    plane += rng.normal(0, 0.016, shape)
    y, x = grid(*shape)
    beams = [
        np.exp(-((((x - 160) * np.sin(t) + (y - 140) * np.cos(t)) / 36) ** 2))
        for t in np.linspace(0, np.pi, 5, endpoint=False)
    ]
    dose = sum(beams, np.zeros(shape)) / 5 * np.exp(-np.hypot(y - 140, x - 160) / 240) * 70
    fig = new_figure(5.2, 4.2)
    ax = fig.add_subplot()
    ax.imshow(plane, cmap="gray", vmin=0, vmax=1)
    lines = ax.contour(dose, [14, 28, 42, 56, 63], cmap="jet", linewidths=1.3)
    ax.axis("off")
    fig.colorbar(lines, shrink=0.8, label="Dose (Gy)")
    panel_letter(ax, "", 0, 0)
    return to_pixels(fig)
