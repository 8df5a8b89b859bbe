"""What the drawing modules share: arrays of pixels, and Matplotlib figures as pixels."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

Pixels = NDArray[np.uint8]
"""An 8-bit RGB picture, (height, width, 3)."""
Plane = NDArray[np.float64]
"""One channel, (height, width), mostly in [0, 1]."""

DPI = 100


def new_figure(width: float, height: float, *, arranged: bool = True) -> Figure:
    """An empty figure of `width` x `height` inches; `arranged` makes room for labels itself."""
    fig = Figure(figsize=(width, height), dpi=DPI, layout="constrained" if arranged else None)
    FigureCanvasAgg(fig)
    return fig


def new_axes(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """A figure with a grid of axes without top and right spines; `axes[i]` counts row by row."""
    fig = new_figure(width, height)
    axes = [fig.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    return fig, axes


def blank_axes(fig: Figure, width: float = 100, height: float = 100) -> Axes:
    """Axes over the whole figure with no ticks, in units of our own."""
    ax = fig.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.set_xlim(0, width)
    ax.set_ylim(0, height)
    ax.axis("off")
    return ax


def to_pixels(fig: Figure) -> Pixels:
    """The figure as it would be printed."""
    fig.canvas.draw()
    rgba = np.asarray(fig.canvas.buffer_rgba())  # type: ignore[attr-defined]
    return rgba[:, :, :3].copy()


def panel_letter(ax: Axes, letter: str, x: float = -0.14, y: float = 1.06) -> None:
    """A bold panel letter above the left end of the axes."""
    ax.text(x, y, letter, transform=ax.transAxes, fontsize=13, fontweight="bold", va="bottom")


def image_panel(ax: Axes, picture: NDArray[Any], letter: str, title: str = "") -> None:
    """Show a picture without ticks, its letter in the upper left corner."""
    ax.imshow(picture, cmap="gray", interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    box = {"facecolor": "white", "edgecolor": "none", "pad": 2.0}
    ax.text(
        0.03,
        0.97,
        letter,
        transform=ax.transAxes,
        fontsize=12,
        fontweight="bold",
        va="top",
        ha="left",
        bbox=box,
    )
    if title:
        ax.set_title(title, fontsize=9, pad=3)


def scale_bar(ax: Axes, length: float, text: str, colour: str = "white") -> None:
    """A bar of `length` pixels in the lower right corner of an image panel."""
    right, bottom = max(ax.get_xlim()), max(ax.get_ylim())
    x, y = right * 0.95, bottom * 0.94
    ax.plot([x - length, x], [y, y], color=colour, lw=3, solid_capstyle="butt")
    ax.text(x - length / 2, y - bottom * 0.02, text, color=colour, fontsize=8, ha="center")


def mosaic(pictures: list[NDArray[Any]], letters: str, columns: int, width: float) -> Figure:
    """Picture panels of one size in a grid, `width` inches over all."""
    rows = -(-len(pictures) // columns)
    height, across = pictures[0].shape[:2]
    fig = new_figure(width, width / columns * height / across * rows, arranged=False)
    fig.subplots_adjust(0.006, 0.006, 0.994, 0.994, 0.02, 0.02)
    for i, picture in enumerate(pictures):
        image_panel(fig.add_subplot(rows, columns, i + 1), picture, letters[i])
    return fig


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Plane:
    """Gaussian noise blurred by `sigma` pixels and stretched to [0, 1]."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="reflect")
    low, high = float(field.min()), float(field.max())
    stretched: Plane = (field - low) / (high - low)
    return stretched


def grid(height: int, width: int) -> tuple[Plane, Plane]:
    """Rows and columns of every pixel, as floats."""
    y, x = np.mgrid[0:height, 0:width]
    return y.astype(np.float64), x.astype(np.float64)


def ellipse(
    shape: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float], turn: float = 0
) -> Plane:
    """1 inside the ellipse; centre and radii (y, x) as fractions of the shape, turn in degrees."""
    y, x = grid(*shape)
    dy, dx = y / shape[0] - centre[0], x / shape[1] - centre[1]
    c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    u, v = dx * c + dy * s, -dx * s + dy * c
    return np.asarray((u / radii[1]) ** 2 + (v / radii[0]) ** 2 <= 1, np.float64)


def to_bytes(plane: NDArray[np.float64]) -> Pixels:
    """[0, 1] as 8 bits; a single plane becomes gray RGB."""
    levels = (np.clip(plane, 0, 1) * 255).round().astype(np.uint8)
    return levels if levels.ndim == 3 else np.repeat(levels[:, :, None], 3, axis=2)
