"""Drawings rather than data: flow charts, pathways, structures, trees, ribbons."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Circle, Ellipse, FancyBboxPatch, Polygon
from numpy.random import Generator

from tour_corpus.canvas import Pixels, blank_axes, new_figure, to_pixels
from tour_corpus.plots import BLUE, GREEN, ORANGE, PALETTE, PURPLE, RED


def box(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    width: float = 30,
    height: float = 10,
    colour: str = "white",
) -> None:
    """A rounded box around a centre."""
    ax.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0.3,rounding_size=1.6",
            fc=colour,
            ec="0.2",
            lw=1.1,
        )
    )
    ax.text(x, y, text, ha="center", va="center", fontsize=8.5)


def arrow(
    ax: Axes,
    tail: tuple[float, float],
    tip: tuple[float, float],
    colour: str = "0.2",
    style: str = "-|>",
    bend: float = 0.0,
) -> None:
    look = {
        "arrowstyle": style,
        "color": colour,
        "lw": 1.5,
        "mutation_scale": 13,
        "connectionstyle": f"arc3,rad={bend}",
    }
    ax.annotate("", tip, tail, arrowprops=look)


def selection_chart(rows: Sequence[tuple[str, str]], last: str) -> Pixels:
    """Boxes down the left, what was left out on the right, the end at the bottom."""
    fig = new_figure(5.2, 1.05 * len(rows) + 0.9, arranged=False)
    ax = blank_axes(fig, 100, 20 * len(rows) + 14)
    top = 20 * len(rows) + 7
    for i, (kept, dropped) in enumerate(rows):
        y = top - 20 * i
        box(ax, 28, y, kept, 46, 10)
        arrow(ax, (28, y - 5.5), (28, y - 14.5))
        box(ax, 78, y - 10, dropped, 38, 9, "#f3f3f3")
        arrow(ax, (28, y - 10), (58, y - 10))
    box(ax, 28, top - 20 * len(rows), last, 46, 9, "#e3eefb")
    return to_pixels(fig)


def cohort_chart(rng: Generator) -> Pixels:
    rows = [
        ("162 resections, 2011–2018", "21 no tissue block left"),
        ("141 blocks cut and stained", "17 folded or torn sections"),
        ("124 sections read", "6 lost to follow-up"),
    ]
    return selection_chart(rows, "118 patients analysed")


def review_chart(rng: Generator) -> Pixels:
    rows = [
        ("1 204 records found", "388 duplicates"),
        ("816 titles screened", "741 not a trial"),
        ("75 full texts read", "67 no outcome of interest"),
    ]
    return selection_chart(rows, "8 trials pooled")


def membrane(ax: Axes, y: float) -> None:
    for x in np.arange(1, 100, 2.1):
        for side in (1, -1):
            ax.plot([x, x], [y, y + side * 2.6], color="#c9a227", lw=0.8)
            ax.add_patch(Circle((x, y + side * 3), 0.9, fc="#e9c46a", ec="none"))


def protein(ax: Axes, x: float, y: float, name: str, colour: str, width: float = 15) -> None:
    ax.add_patch(Ellipse((x, y), width, 9, fc=colour, ec="0.2", alpha=0.85))
    ax.text(x, y, name, ha="center", va="center", fontsize=8.5, color="white", weight="bold")


def pathway(rng: Generator) -> Pixels:
    fig = new_figure(6.0, 4.4, arranged=False)
    ax = blank_axes(fig)
    ax.set_ylim(-5, 102)
    ax.add_patch(Ellipse((50, 14), 92, 34, fc="#eef3ea", ec="#7a9a6b", lw=1.5))
    membrane(ax, 84)
    ax.add_patch(FancyBboxPatch((31, 76), 6, 17, boxstyle="round,pad=0.5", fc=BLUE, ec="0.2"))
    ax.text(41, 92, "TARN2", fontsize=9, weight="bold")
    ax.add_patch(Circle((34, 97), 2.4, fc=RED))
    for x, y, name, colour in [
        (34, 66, "VEX3", PURPLE),
        (34, 49, "ODO9", GREEN),
        (70, 57, "SOLV", ORANGE),
    ]:
        protein(ax, x, y, name, colour)
    for place in [(42.5, 70.5), (42.5, 53.5)]:
        ax.add_patch(Circle(place, 2.3, fc="gold", ec="0.3"))
        ax.text(*place, "P", fontsize=7, ha="center", va="center")
    arrow(ax, (34, 75), (34, 71.5))
    arrow(ax, (34, 61), (34, 54))
    arrow(ax, (62, 57), (43, 64), RED, "-[, widthB=0.6")
    arrow(ax, (34, 44), (42, 24))
    ax.plot(
        np.linspace(20, 80, 200), 14 + 2.2 * np.sin(np.linspace(0, 26, 200)), color=BLUE, lw=1.6
    )
    ax.plot(np.linspace(20, 80, 200), 14 - 2.2 * np.sin(np.linspace(0, 26, 200)), color=RED, lw=1.6)
    protein(ax, 46, 19, "ODO9", GREEN)
    ax.text(66, 22, "survival genes", fontsize=8.5, style="italic")
    for right, y, name in [(99, 95, "outside"), (99, 72, "cytosol"), (90, 4, "nucleus")]:
        ax.text(right, y, name, fontsize=8.5, ha="right", color="0.35")
    return to_pixels(fig)


def graphical_abstract(rng: Generator) -> Pixels:
    fig = new_figure(6.4, 2.6, arranged=False)
    ax = blank_axes(fig, 120, 50)
    for x, colour in [(20, "#e3eefb"), (60, "#fdeee0"), (100, "#e8f3e6")]:
        ax.add_patch(
            FancyBboxPatch(
                (x - 16, 6), 32, 38, boxstyle="round,pad=0.5,rounding_size=3", fc=colour, ec="none"
            )
        )
    ring(ax, 20, 28, 6.5)
    ax.plot([20, 20], [34.5, 39], "k-", lw=1.6)
    ax.text(20, 40, "OH", ha="center", fontsize=9)
    t = np.linspace(0, 2 * np.pi, 200)
    ax.fill(60 + 11 * np.cos(t) + 1.2 * np.cos(5 * t), 28 + 10 * np.sin(t), fc="#f7c59f", ec="0.3")
    ax.add_patch(Circle((58, 29), 4.2, fc=PURPLE, ec="0.3"))
    ax.plot([90, 90, 111], [38, 19, 19], "k-", lw=1.2)
    ax.plot(
        np.linspace(91, 110, 50), 36 - 15 / (1 + np.exp(-(np.linspace(-5, 5, 50)))), color=RED, lw=2
    )
    for x, name in [(20, "phenolic acid"), (60, "treated cell"), (100, "less oxidation")]:
        ax.text(x, 10, name, ha="center", fontsize=9.5, weight="bold")
    arrow(ax, (37.5, 26), (42.5, 26))
    arrow(ax, (77.5, 26), (82.5, 26))
    return to_pixels(fig)


def ring(
    ax: Axes, x: float, y: float, size: float, double: bool = True
) -> list[tuple[float, float]]:
    """A six-membered ring; returns its corners, the uppermost first, clockwise."""
    turns = np.deg2rad(90 - 60 * np.arange(6))
    corners = [(x + size * np.cos(t), y + size * np.sin(t)) for t in turns]
    ax.add_patch(Polygon(corners, fc="none", ec="black", lw=1.6))
    if double:
        inner = [(x + size * 0.78 * np.cos(t), y + size * 0.78 * np.sin(t)) for t in turns]
        for i in (0, 2, 4):
            ax.plot(*zip(inner[i], inner[i + 1], strict=True), "k-", lw=1.4)
    return corners


def bond(ax: Axes, start: tuple[float, float], angle: float, text: str, length: float = 5) -> None:
    """A bond from an atom to a group, at `angle` degrees."""
    dx, dy = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    end = (start[0] + length * dx, start[1] + length * dy)
    ax.plot(*zip(start, end, strict=True), "k-", lw=1.6)
    ax.text(
        end[0] + 1.6 * dx,
        end[1] + 1.9 * dy,
        text,
        fontsize=10,
        va="center",
        ha="left" if dx > 0.2 else "right" if dx < -0.2 else "center",
    )


def reaction_scheme(rng: Generator) -> Pixels:
    fig = new_figure(6.6, 2.4, arranged=False)
    ax = blank_axes(fig, 132, 48)
    first = ring(ax, 20, 25, 8)
    bond(ax, first[0], 90, "OH")
    bond(ax, first[2], -30, "OMe")
    bond(ax, first[4], 210, "HO")
    arrow(ax, (42, 25), (61, 25))
    ax.text(51.5, 28, "Ac$_2$O, pyridine", ha="center", fontsize=8.5)
    ax.text(51.5, 20, "2 h, 91%", ha="center", fontsize=8.5)
    second = ring(ax, 82, 25, 8)
    bond(ax, second[0], 90, "OAc")
    bond(ax, second[2], -30, "OMe")
    bond(ax, second[4], 210, "AcO")
    third = ring(ax, 110, 25, 8, double=False)
    ax.plot(*zip(second[1], (100, 33), third[5], strict=True), "k-", lw=1.6)
    bond(ax, third[2], -30, "NH")
    for x, name in [(20, "4"), (96, "7")]:
        ax.text(x, 4, name, fontsize=11, weight="bold", ha="center")
    return to_pixels(fig)


def single_structure(rng: Generator) -> Pixels:
    fig = new_figure(3.0, 2.2, arranged=False)
    ax = blank_axes(fig, 60, 44)
    left = ring(ax, 21, 22, 8)
    right = ring(ax, 21 + 8 * np.sqrt(3), 22, 8)
    bond(ax, left[5], 150, "HO")
    bond(ax, left[4], 210, "HO")
    bond(ax, right[1], 30, "COOH")
    bond(ax, right[3], -90, "F")
    return to_pixels(fig)


Branch = int | tuple["Branch", "Branch"]
"""A leaf, by its row, or the two branches of a node."""
TREE: Branch = (((((0, 1), (2, 3)), ((4, 5), 6)), ((7, (8, 9)), 10)), 11)


def grow(rng: Generator, branch: Branch, depth: float) -> tuple[float, list[tuple[float, ...]]]:
    """Height of the branch, and the lines (x0, x1, y0, y1) of all that it holds."""
    if isinstance(branch, int):
        return branch, [(depth, 1.0, branch, branch)]
    step = depth + rng.uniform(0.35, 0.6) * (1 - depth) * 0.6
    low, first = grow(rng, branch[0], step)
    high, second = grow(rng, branch[1], step)
    middle = (low + high) / 2
    lines = [(depth, step, middle, middle), (step, step, low, high)]
    return middle, [*lines, *first, *second]


def phylogeny(rng: Generator) -> Pixels:
    genera = [
        "F. alba",
        "F. montana",
        "F. rivularis",
        "F. pumila",
        "G. nitida",
        "G. arenaria",
        "G. crispa",
        "H. salina",
        "H. borealis",
        "H. minor",
        "K. vulgaris",
        "Outgroup",
    ]
    _, lines = grow(rng, TREE, 0.03)
    fig = new_figure(5.0, 4.2, arranged=False)
    ax = blank_axes(fig, 1.45, 12.4)
    ax.set_ylim(-1.4, 12)
    ax.add_collection(
        LineCollection([[(a, c), (b, d)] for a, b, c, d in lines], colors="k", lw=1.4)
    )
    for i, name in enumerate(genera):
        ax.text(1.02, i, name, va="center", style="italic", fontsize=9.5)
    for x0, x1, y0, y1 in lines:
        if x0 == x1:
            ax.text(
                x0 - 0.01, (y0 + y1) / 2 + 0.12, str(rng.integers(71, 101)), fontsize=7, ha="right"
            )
    for low, high, colour, name in [
        (0, 3, BLUE, "clade I"),
        (4, 6, GREEN, "clade II"),
        (7, 9, ORANGE, "clade III"),
    ]:
        ax.plot([1.3, 1.3], [low - 0.35, high + 0.35], color=colour, lw=4)
        ax.text(1.33, (low + high) / 2, name, rotation=90, va="center", fontsize=8)
    ax.plot([0.05, 0.25], [-0.9, -0.9], "k-", lw=2)
    ax.text(0.15, -0.75, "0.05", ha="center", va="bottom", fontsize=8)
    return to_pixels(fig)


def alignment(rng: Generator) -> Pixels:
    letters = np.array(list("ARNDCQEGHILKMFPSTWYV"))
    base = rng.integers(0, 20, 46)
    fig = new_figure(7.2, 2.2, arranged=False)
    ax = blank_axes(fig, 58, 11)
    for row, name in enumerate(["FaVEX", "FmVEX", "GnVEX", "GcVEX", "HsVEX", "HbVEX", "KvVEX"]):
        changed = (rng.random(46) < 0.06 * row) & (np.sin(np.arange(46) / 4) < 0.5)
        kinds = np.where(changed, rng.integers(0, 20, 46), base)
        ax.text(0.6, 9 - row, name, fontsize=8.5, va="center")
        for column, kind in enumerate(kinds):
            same = kind == base[column]
            colour = PALETTE[int(kind) % len(PALETTE)] if same else "white"
            ax.add_patch(Polygon(square(8.5 + column, 9 - row), fc=colour, alpha=0.45, ec="none"))
            ax.text(
                8.5 + column,
                9 - row,
                letters[kind],
                fontsize=7,
                ha="center",
                va="center",
                family="monospace",
            )
    for column in range(0, 46, 10):
        ax.text(8.5 + column, 10.2, str(120 + column), fontsize=7, ha="center")
    return to_pixels(fig)


def square(x: float, y: float) -> list[tuple[float, float]]:
    return [(x - 0.5, y - 0.5), (x + 0.5, y - 0.5), (x + 0.5, y + 0.5), (x - 0.5, y + 0.5)]


def ribbon(rng: Generator) -> Pixels:
    """A helix bundle and a sheet drawn as shaded ribbons."""
    fig = new_figure(4.8, 4.0, arranged=False)
    ax = blank_axes(fig)
    ax.set_facecolor("white")
    for x, tilt, colour in [(28, 6, RED), (50, -4, ORANGE), (72, 8, PURPLE)]:
        helix(ax, x, tilt, colour)
    loops = [[(31, 88), (36, 97), (46, 96), (48, 88)], [(52, 28), (57, 17), (66, 17), (69, 28)]]
    for points in loops:
        curve = np.array([bezier(points, t) for t in np.linspace(0, 1, 40)])
        ax.plot(*curve.T, color="0.55", lw=3.5, zorder=0)
    for i in range(3):
        strand(ax, 18 + 26 * i, 2 + 3 * i)
    ax.add_patch(Circle((61, 57), 3.4, fc="#4d9de0", ec="0.2", zorder=30))
    ax.text(61, 57, "Zn", fontsize=8, ha="center", va="center", color="white", zorder=31)
    for x, y, name in [(17, 88, "α1"), (63, 92, "α2"), (88, 84, "α3"), (9, 8, "β1–β3")]:
        ax.text(x, y, name, fontsize=11, ha="center")
    return to_pixels(fig)


def helix(ax: Axes, x: float, tilt: float, colour: str) -> None:
    """Turns of a flat band; the part that faces the reader is drawn last and lighter."""
    t = np.linspace(0, 6 * 2 * np.pi, 500)
    y = 28 + t / t[-1] * 60
    centre = x + tilt * (t / t[-1] - 0.5) + 8 * np.cos(t)
    for i in range(len(t) - 1):
        front = np.sin(t[i]) > 0
        quad = [
            (centre[i], y[i] - 3),
            (centre[i + 1], y[i + 1] - 3),
            (centre[i + 1], y[i + 1] + 3),
            (centre[i], y[i] + 3),
        ]
        shade = 0.95 if front else 0.35
        ax.add_patch(
            Polygon(quad, fc=colour, ec=colour, alpha=shade, lw=0.3, zorder=10 if front else 2)
        )
    for shift in (-3, 3):
        ax.plot(centre, y + shift, color="0.15", lw=0.5, zorder=11)


def strand(ax: Axes, x: float, y: float) -> None:
    """A flat arrow of the sheet."""
    shape = [
        (x, y + 3),
        (x + 19, y + 7),
        (x + 19, y + 3.5),
        (x + 27, y + 11),
        (x + 19, y + 15.5),
        (x + 19, y + 12),
        (x, y + 8),
    ]
    ax.add_patch(Polygon(shape, fc="#f4d35e", ec="0.2", lw=1, zorder=5, closed=True))


def bezier(points: Sequence[tuple[float, float]], t: float) -> tuple[float, float]:
    weights = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3]
    return (
        sum(w * p[0] for w, p in zip(weights, points, strict=True)),
        sum(w * p[1] for w, p in zip(weights, points, strict=True)),
    )


def interaction_network(rng: Generator) -> Pixels:
    fig = new_figure(4.8, 3.8, arranged=False)
    ax = blank_axes(fig)
    names = [
        "VEX3",
        "ODO9",
        "TARN2",
        "LUMA1",
        "SOLV",
        "BRIM",
        "KEST1",
        "NULA",
        "PELM",
        "QUIN4",
        "ROSK",
        "TEV2",
    ]
    turns = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    places = [(50 + 38 * np.cos(t), 50 + 36 * np.sin(t)) for t in turns[1:]]
    places.insert(0, (50.0, 50.0))
    for i, place in enumerate(places):
        others = [0, *rng.integers(0, 12, 1 + i % 3)]
        for other in others:
            ax.plot(
                *zip(place, places[other], strict=True),
                color="0.7",
                lw=rng.uniform(0.6, 2.6),
                zorder=1,
            )
        ax.add_patch(
            Circle(place, 8 if i == 0 else 6, fc=PALETTE[i % 5], ec="white", lw=1.5, zorder=2)
        )
        ax.text(
            *place,
            names[i],
            fontsize=7,
            color="white",
            ha="center",
            va="center",
            weight="bold",
            zorder=3,
        )
    ax.set_aspect("equal")
    return to_pixels(fig)


def study_timeline(rng: Generator) -> Pixels:
    """A transparent-friendly drawing: visits along a line."""
    fig = new_figure(6.0, 1.9, arranged=False)
    ax = blank_axes(fig, 100, 32)
    arrow(ax, (4, 14), (97, 14), "0.3")
    for x, day, event, colour in [
        (12, "day −7", "screening", "0.5"),
        (32, "day 0", "first dose", RED),
        (52, "day 14", "second dose", RED),
        (70, "day 28", "MRI", BLUE),
        (88, "day 84", "end of study", GREEN),
    ]:
        ax.add_patch(Circle((x, 14), 2.0, fc=colour, ec="white", zorder=3))
        ax.text(x, 20, event, ha="center", fontsize=9)
        ax.text(x, 6, day, ha="center", fontsize=8.5, color="0.35")
    return to_pixels(fig)
