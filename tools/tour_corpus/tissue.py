"""Pictures from a microscope or a gel camera: cells, stained tissue, gels, blots, plates."""

import numpy as np
from matplotlib import colormaps
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import hed2rgb, rgb2hed

from tour_corpus.canvas import (
    Pixels,
    Plane,
    grid,
    image_panel,
    mosaic,
    new_figure,
    scale_bar,
    smooth_noise,
    to_bytes,
    to_pixels,
)
from tour_corpus.scans import photograph

HAEMATOXYLIN, EOSIN = np.array([4.6, 6.4, 3.0]), np.array([0.6, 4.2, 2.1])
"""Absorbance of red, green and blue light by one unit of each stain."""


def scatter_points(
    rng: Generator, shape: tuple[int, int], count: int, gap: float
) -> NDArray[np.float64]:
    """Up to `count` points (y, x), no two nearer than `gap` pixels."""
    points: list[NDArray[np.float64]] = []
    for _ in range(count * 30):
        point = rng.uniform((0, 0), shape)
        if all(np.hypot(*(point - other)) > gap for other in points):
            points.append(point)
        if len(points) == count:
            break
    return np.array(points)


def blobs(
    rng: Generator,
    shape: tuple[int, int],
    points: NDArray[np.float64],
    radius: float,
    spread: float = 0.2,
) -> Plane:
    """Soft ellipses of random turn at the points, brightest value 1."""
    y, x = grid(*shape)
    plane = np.zeros(shape)
    for py, px in points:
        turn, ratio = rng.uniform(0, np.pi), rng.uniform(0.7, 1.0)
        size = radius * rng.uniform(1 - spread, 1 + spread)
        c, s = np.cos(turn), np.sin(turn)
        u, v = (x - px) * c + (y - py) * s, (y - py) * c - (x - px) * s
        distance = np.sqrt((u / size) ** 2 + (v / (size * ratio)) ** 2)
        plane = np.maximum(plane, 1 / (1 + np.exp(np.clip((distance - 1) * 9, -50, 50))))
    return plane


def cell_channels(rng: Generator, size: int = 280) -> tuple[Plane, Plane, Plane]:
    """Nuclei, actin-like fibres and mitochondria-like dots of a small culture."""
    shape = (size, size)
    points = scatter_points(rng, shape, 11, size / 4.6)
    nuclei = blobs(rng, shape, points, size / 17) * (0.6 + 0.4 * smooth_noise(rng, shape, 3))
    body = blobs(rng, shape, points, size / 7.2, 0.15)
    y, x = grid(*shape)
    bend = smooth_noise(rng, shape, 24) * 12
    fibres = np.abs(np.sin(x * 0.35 + y * 0.2 + bend * 3)) ** 4
    edge = np.clip(ndimage.gaussian_gradient_magnitude(body, 2) * 12, 0, 1)
    actin = np.clip(body * (0.15 + 0.5 * fibres) + 0.6 * edge, 0, 1)
    grains = np.clip((smooth_noise(rng, shape, 1.4) - 0.52) * 6, 0, 1)
    dots = grains * body * (1 - nuclei) * 2.2
    return nuclei, actin, np.clip(dots, 0, 1)


def coloured(planes: list[tuple[Plane, tuple[float, float, float]]]) -> Pixels:
    """Add planes, each in its own colour, on black."""
    total = sum(
        (plane[:, :, None] * np.array(colour) for plane, colour in planes),
        np.zeros((*planes[0][0].shape, 3)),
    )
    return to_bytes(np.clip(total, 0, 1))


def fluorescence_panels(rng: Generator) -> Pixels:
    nuclei, actin, dots = cell_channels(rng)
    blue, green, red = (0.25, 0.4, 1.0), (0.1, 1.0, 0.25), (1.0, 0.15, 0.2)
    pictures = [
        coloured([(nuclei, blue)]),
        coloured([(actin, green)]),
        coloured([(dots, red)]),
        coloured([(nuclei, blue), (actin, green), (dots, red)]),
    ]
    fig = mosaic(pictures, "abcd", 2, 4.2)
    scale_bar(fig.axes[3], 56, "20 µm")
    return to_pixels(fig)


def fluorescence_merge(rng: Generator) -> Pixels:
    nuclei, actin, dots = cell_channels(rng, 300)
    return coloured([(nuclei, (0.2, 0.3, 1.0)), (actin, (0.9, 0.1, 0.7)), (dots, (0.5, 0.5, 0.05))])


def nuclei_16_bit(rng: Generator) -> NDArray[np.uint16]:
    """The nuclear channel as a 12-bit camera gives it, in 16-bit words."""
    nuclei, _, _ = cell_channels(rng, 200)
    counts = 180 + nuclei * 3400 + rng.normal(0, 22, nuclei.shape)
    return np.clip(counts, 0, 4095).astype(np.uint16) // 8 * 8


def time_lapse(rng: Generator) -> list[Pixels]:
    """Six frames of a wound closing from both sides."""
    shape = (150, 200)
    texture = smooth_noise(rng, shape, 2.2)
    left, right = smooth_noise(rng, (150, 1), 9)[:, 0], smooth_noise(rng, (150, 1), 9)[:, 0]
    _, x = grid(*shape)
    frames = []
    for step in range(6):
        half = 46 - 8 * step
        gap = (x > 100 - half - 12 * left[:, None]) & (x < 100 + half + 12 * right[:, None])
        frames.append(to_bytes(np.where(gap, 0.72 + 0.03 * texture, 0.25 + 0.55 * texture)))
    return frames


def stained(nuclear: Plane, eosin: Plane) -> Pixels:
    """Haematoxylin and eosin amounts (0 to about 0.2) as the colours of a slide."""
    density = nuclear[:, :, None] * HAEMATOXYLIN + eosin[:, :, None] * EOSIN
    return to_bytes(0.97 * np.exp(-density))


def h_and_e_glands(rng: Generator) -> Pixels:
    """Round glands lined by nuclei, in a pink stroma."""
    shape = (380, 480)
    y, x = grid(*shape)
    eosin = 0.07 + 0.05 * smooth_noise(rng, shape, 2) + 0.05 * smooth_noise(rng, shape, 14)
    nuclear = 0.02 + 0.02 * smooth_noise(rng, shape, 2)
    for cy, cx in scatter_points(rng, shape, 16, 98):
        angle = np.arctan2(y - cy, x - cx)
        radius = rng.uniform(36, 50) * (1 + 0.09 * np.sin(angle * 3 + rng.uniform(0, 6)))
        distance = np.hypot(y - cy, x - cx) / radius
        lumen, wall = distance < 0.42, (distance >= 0.42) & (distance < 1)
        eosin = np.where(lumen, 0.005, np.where(wall, 0.1, eosin))
        nuclear = np.where(lumen, 0.0, np.where(wall, 0.035, nuclear))
        ring = [
            (cy + radius.mean() * 0.8 * np.sin(t), cx + radius.mean() * 0.8 * np.cos(t))
            for t in np.arange(0, 2 * np.pi, 0.25)
        ]
        nuclear = np.maximum(nuclear, 0.2 * blobs(rng, shape, np.array(ring), 5.5))
    stroma = scatter_points(rng, shape, 130, 13)
    nuclear = np.maximum(nuclear, 0.16 * blobs(rng, shape, stroma, 3.6, 0.35) * (eosin > 0.06))
    return stained(nuclear, eosin)


def h_and_e_tumour(rng: Generator) -> Pixels:
    """Crowded nuclei of uneven size and a pale necrotic corner."""
    shape = (380, 480)
    y, x = grid(*shape)
    edge = x + 60 * smooth_noise(rng, shape, 30) > 400 - y * 0.4
    eosin = 0.09 + 0.07 * smooth_noise(rng, shape, 3)
    cells = blobs(rng, shape, scatter_points(rng, shape, 260, 17), 7.0, 0.5)
    grain = 0.6 + 0.4 * smooth_noise(rng, shape, 1.2)
    nuclear = 0.03 + 0.22 * cells * grain
    debris = blobs(rng, shape, scatter_points(rng, shape, 120, 14), 1.8)
    nuclear = np.where(edge, 0.01 + 0.12 * debris, nuclear)
    return stained(nuclear, np.where(edge, 0.13 + 0.05 * grain, eosin))


def h_and_e_tumour_pale(rng: Generator) -> Pixels:
    """The same kind of field from a section with little stain."""
    return to_bytes((h_and_e_tumour(rng) / 255) ** 0.7)


def h_and_e_small(rng: Generator) -> Pixels:
    return h_and_e_glands(rng)[:240, :300]


def h_and_e_fibrosis(rng: Generator) -> Pixels:
    """Wavy pink bundles with few thin nuclei."""
    shape = (380, 480)
    y, x = grid(*shape)
    bend = 26 * smooth_noise(rng, shape, 40)
    bundles = 0.5 + 0.5 * np.sin((y + bend * 2 + 0.15 * x) * 0.42 + 3 * smooth_noise(rng, shape, 8))
    eosin = 0.05 + 0.1 * bundles + 0.03 * smooth_noise(rng, shape, 1.5)
    nuclear = 0.01 + 0.0 * x
    for py, px in scatter_points(rng, shape, 70, 24):
        turn = rng.normal(-0.1, 0.2)
        u = (x - px) * np.cos(turn) + (y - py) * np.sin(turn)
        v = (y - py) * np.cos(turn) - (x - px) * np.sin(turn)
        nuclear = np.maximum(nuclear, 0.2 * np.exp(-((u / 9) ** 2) - (v / 2.2) ** 2))
    return stained(nuclear, eosin)


def ihc_panels(rng: Generator) -> Pixels:
    """Colonic glands, the two stains apart, and the brown area as a mask."""
    slide = photograph("ihc.png")[:400, 40:440]
    amounts = rgb2hed(slide)
    stains = []
    for i in (0, 2):
        one = np.zeros_like(amounts)
        one[:, :, i] = amounts[:, :, i]
        stains.append(to_bytes(hed2rgb(one)))
    brown = ndimage.gaussian_filter(amounts[:, :, 2], 2)
    mask = to_bytes((brown > np.quantile(brown, 0.52)).astype(float))
    fig = mosaic([slide, stains[0], stains[1], mask], "ABCD", 2, 4.6)
    scale_bar(fig.axes[0], 80, "50 µm", "black")
    return to_pixels(fig)


def ihc_detail(rng: Generator) -> Pixels:
    return photograph("ihc.png")[80:400, :340]


def phase_cell(rng: Generator) -> Pixels:
    """A floating cell in a phase map, and the profile through its middle."""
    plane = photograph("cell.png")[:, :, 0].astype(float) / 255
    fig = new_figure(7.0, 3.4)
    left, right = fig.add_subplot(1, 2, 1), fig.add_subplot(1, 2, 2)
    image_panel(left, colormaps["magma"](plane[230:520, 250:540])[:, :, :3], "a")
    scale_bar(left, 47, "5 µm")
    left.axhline(145, color="cyan", lw=1, ls="--")
    right.plot((np.arange(290) - 145) * 0.107, plane[375, 250:540] * 4.2 - 1.3, color="#b2182b")
    right.set(xlabel="Distance (µm)", ylabel="Phase (rad)")
    right.spines[["top", "right"]].set_visible(False)
    right.text(-0.16, 1.0, "b", transform=right.transAxes, fontsize=13, fontweight="bold")
    return to_pixels(fig)


def bands(
    rng: Generator, lanes: int, rows: list[tuple[float, list[float]]], size: tuple[int, int]
) -> Plane:
    """Dark bands on a bright film: (height in [0, 1], darkness of each lane)."""
    y, x = grid(*size)
    plane = 0.88 + 0.04 * (smooth_noise(rng, size, 12) - 0.5)
    step = size[1] / lanes
    for at, strengths in rows:
        for lane, strength in enumerate(strengths):
            centre = (lane + 0.5) * step
            across = 1 / (1 + (np.abs(x - centre) / (step * 0.37)) ** 14)
            smile = 2.5 * ((x - centre) / (step * 0.4)) ** 2
            thick = size[0] * (0.022 + 0.012 * strength)
            down = np.exp(-(((y - at * size[0] + smile) / thick) ** 2))
            plane -= strength * 0.8 * across * down
    return np.clip(plane + rng.normal(0, 0.008, size), 0.03, 1)


def labelled_strips(strips: list[tuple[str, str, Plane]], lanes: list[str], width: float) -> Pixels:
    """Blot strips under each other, protein name left, mass right, lane names above."""
    heights = [s[2].shape[0] for s in strips]
    total = sum(heights) / 100 + 0.12 * len(strips) + 0.4
    fig = new_figure(width, total, arranged=False)
    top = 1 - 0.36 / total
    for i, (name, mass, plane) in enumerate(strips):
        share = heights[i] / 100 / total
        ax = fig.add_axes((0.17, top - share, 0.7, share))
        ax.imshow(plane, cmap="gray", vmin=0, vmax=1, aspect="auto")
        ax.set(xticks=[], yticks=[])
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
        ax.text(1.02, 0.5, mass, transform=ax.transAxes, va="center", fontsize=9)
        if i == 0:
            for j, lane in enumerate(lanes):
                ax.text(
                    (j + 0.5) / len(lanes),
                    1.08,
                    lane,
                    transform=ax.transAxes,
                    ha="center",
                    fontsize=9,
                )
        top -= share + 0.12 / total
    return to_pixels(fig)


def western_blot(rng: Generator) -> Pixels:
    fading = [0.95, 0.85, 0.5, 0.2]
    strips = [
        ("VEX3", "68 kDa", bands(rng, 4, [(0.5, fading)], (90, 360))),
        ("p-ODO9", "41 kDa", bands(rng, 4, [(0.5, fading[::-1])], (90, 360))),
        ("actin", "42 kDa", bands(rng, 4, [(0.5, [0.9, 0.88, 0.92, 0.9])], (90, 360))),
    ]
    return labelled_strips(strips, ["0 h", "6 h", "12 h", "24 h"], 5.2)


def repeated_blot(rng: Generator) -> Pixels:
    """A blot whose right half is a copy of its left half."""
    half = bands(rng, 3, [(0.5, [0.25, 0.6, 0.9])], (90, 200))
    loading = bands(rng, 6, [(0.5, [0.9] * 6)], (90, 400))
    strips = [("LUMA1", "55 kDa", np.hstack([half, half])), ("tubulin", "50 kDa", loading)]
    return labelled_strips(strips, ["–", "1", "10", "–", "1", "10"], 5.6)


def dna_gel(rng: Generator) -> Pixels:
    """A glowing gel: a ladder and seven lanes with one product."""
    ladder = [0.12, 0.2, 0.27, 0.35, 0.44, 0.53, 0.63, 0.74, 0.86]
    rows = [(at, [0.55] + [0.0] * 7) for at in ladder]
    product = [0.0, 0.9, 0.85, 0.0, 0.8, 0.9, 0.0, 0.75]
    plane = 1.03 - bands(rng, 8, [*rows, (0.44, product)], (300, 460))
    fig = new_figure(5.0, 3.4, arranged=False)
    ax = fig.add_axes((0.1, 0.02, 0.88, 0.88))
    ax.imshow(plane, cmap="gray", vmin=0, vmax=0.95, aspect="auto")
    ax.set(yticks=[132, 222], yticklabels=["500", "200"], xticks=[])
    for i, lane in enumerate(["M", *"1234567"]):
        ax.text((i + 0.5) / 8, 1.03, lane, transform=ax.transAxes, ha="center", fontsize=10)
    ax.text(-0.005, 1.03, "bp", transform=ax.transAxes, ha="right", fontsize=9)
    return to_pixels(fig)


def blood_smear(rng: Generator) -> Pixels:
    """Red cells with pale centres, and one white cell with a lobed nucleus."""
    shape = (340, 420)
    y, x = grid(*shape)
    picture = (
        np.full((*shape, 3), (0.96, 0.94, 0.92)) + 0.02 * smooth_noise(rng, shape, 6)[:, :, None]
    )
    white = np.array([178.0, 236.0])
    for cy, cx in scatter_points(rng, shape, 75, 31):
        if np.hypot(cy - white[0], cx - white[1]) < 52:
            continue
        radius = np.hypot((y - cy) * rng.uniform(0.95, 1.1), x - cx) / rng.uniform(14.5, 17)
        cover = 1 / (1 + np.exp(np.clip((radius - 1) * 22, -50, 50)))
        pale = 0.5 * np.exp(-((radius / 0.45) ** 2))
        colour = np.array([0.86, 0.5, 0.5])[None, None] * (1 - pale[:, :, None]) + pale[:, :, None]
        picture = picture * (1 - cover[:, :, None]) + colour * cover[:, :, None]
    lobes = blobs(rng, shape, white + np.array([[-9, -9], [-8, 8], [9, 3]]), 11)
    body = blobs(rng, shape, white[None], 31, 0.02)
    for cover, colour in ((body, (0.83, 0.74, 0.86)), (lobes, (0.36, 0.18, 0.55))):
        grain = 0.94 + 0.06 * smooth_noise(rng, shape, 1.5)[:, :, None]
        picture = picture * (1 - cover[:, :, None]) + np.array(colour) * grain * cover[:, :, None]
    return to_bytes(picture)


def petri_dish(rng: Generator) -> Pixels:
    """A bacterial lawn with four antibiotic discs and their clear zones."""
    shape = (400, 400)
    y, x = grid(*shape)
    distance = np.hypot(y - 200, x - 200)
    lawn = np.array([0.86, 0.82, 0.62]) * (0.93 + 0.1 * smooth_noise(rng, shape, 2.5)[:, :, None])
    agar = np.array([0.62, 0.45, 0.3])
    clear = np.zeros(shape)
    discs = np.zeros(shape)
    for angle, zone in zip(np.deg2rad([45, 135, 225, 315]), (52, 34, 14, 44), strict=True):
        away = np.hypot(y - 200 - 98 * np.sin(angle), x - 200 - 98 * np.cos(angle))
        clear = np.maximum(clear, 1 / (1 + np.exp((away - zone) / 1.5)))
        discs = np.maximum(discs, 1 / (1 + np.exp((away - 11) / 0.7)))
    picture = lawn * (1 - clear[:, :, None]) + agar * clear[:, :, None]
    picture = picture * (1 - discs[:, :, None]) + 0.97 * discs[:, :, None]
    rim = np.exp(-(((distance - 187) / 4) ** 2))[:, :, None]
    picture = np.where(distance[:, :, None] < 187, picture, 0.09) + 0.35 * rim
    return to_bytes(picture)


def electron_micrograph(rng: Generator) -> Pixels:
    """Gray cytoplasm with three mitochondria and their folds."""
    shape = (360, 440)
    y, x = grid(*shape)
    plane = (
        0.62
        + 0.25 * (smooth_noise(rng, shape, 1.8) - 0.5)
        + 0.1 * (smooth_noise(rng, shape, 25) - 0.5)
    )
    for cy, cx, turn, a, b in [
        (110, 130, 0.4, 95, 42),
        (255, 300, -0.5, 110, 48),
        (80, 350, 1.2, 60, 36),
    ]:
        u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        v = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        distance = np.sqrt((u / a) ** 2 + (v / b) ** 2)
        wave = np.sin(u * 0.33 + 2.5 * np.sin(v * 0.06)) ** 8
        inside = distance < 0.97
        plane = np.where(inside, 0.42 - 0.24 * wave * (np.abs(v) < b * 0.8), plane)
        plane -= 0.34 * np.exp(-(((distance - 1) * b / 2.6) ** 2))
    plane = ndimage.gaussian_filter(plane, 0.8) + rng.normal(0, 0.02, shape)
    picture = to_bytes(np.clip(plane, 0, 1))
    fig = new_figure(4.4, 3.6, arranged=False)
    ax = fig.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.imshow(picture)
    ax.axis("off")
    scale_bar(ax, 90, "500 nm", "white")
    return to_pixels(fig)


def leaf(rng: Generator) -> Pixels:
    """A green leaf with veins and brown spots, on white."""
    shape = (340, 460)
    y, x = grid(*shape)
    u, v = (x - 30) / 400, (y - 170) / 130
    half = np.sqrt(np.clip(np.sin(np.pi * np.clip(u, 0, 1)), 0, 1)) * 0.95
    inside = 1 / (1 + np.exp((np.abs(v) - half) * 60)) * ((u > 0) & (u < 1))
    veins = np.exp(-((v / 0.02) ** 2))
    for slope in np.arange(0.05, 0.95, 0.11):
        line = u - slope - 0.28 * np.abs(v)
        veins = np.maximum(veins, 0.7 * np.exp(-((line / 0.006) ** 2)))
    shade = 0.8 + 0.3 * smooth_noise(rng, shape, 9)
    green = np.array([0.24, 0.52, 0.18]) * shade[:, :, None]
    green = (
        green * (1 - 0.5 * veins[:, :, None]) + np.array([0.72, 0.8, 0.5]) * 0.5 * veins[:, :, None]
    )
    spots = blobs(rng, shape, scatter_points(rng, shape, 26, 40), 8, 0.6)[:, :, None]
    green = green * (1 - spots) + np.array([0.42, 0.27, 0.1]) * spots
    return to_bytes(green * inside[:, :, None] + 1 - inside[:, :, None])
