"""Marks and charts of scores as inline SVG: a shape and a colour for each model, so that print needs no colour."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from biomedica.evaluate.results import Score
from biomedica.scoreboard.answers import Confidence

LANE = 22
"""Height of a model's line in a forest plot."""
SHAPES = (
    "M-4.6 0a4.6 4.6 0 1 0 9.2 0a4.6 4.6 0 1 0-9.2 0z",  # circle
    "M-4.1-4.1h8.2v8.2h-8.2z",  # square
    "M0-5.4L5.1 3.9h-10.2z",  # triangle
    "M0 5.4L5.1-3.9h-10.2z",  # triangle on its tip
    "M-1.6-5.2h3.2v3.6h3.6v3.2h-3.6v3.6h-3.2v-3.6h-3.6v-3.2h3.6z",  # cross
    "M-4.8-2.6L-2.6-4.8 0-2.2 2.6-4.8 4.8-2.6 2.2 0 4.8 2.6 2.6 4.8 0 2.2-2.6 4.8-4.8 2.6-2.2 0z",  # saltire
    "M0-5.8L1.4-1.9 5.5-1.8 2.2.7 3.4 4.7 0 2.4-3.4 4.7-2.2.7-5.5-1.8-1.4-1.9z",  # star
    "M-4.9-4.6L0-.9 4.9-4.6V4.6L0 .9-4.9 4.6z",  # bow tie
    "M-5.4 0L3.9-5.1v10.2z",  # pointing left
    "M5.4 0L-3.9-5.1v10.2z",  # pointing right
)
"""Around (0, 0). No diamond: that is for what others published."""
NUM_COLOURS = 10
PUBLISHED = "M0-5.2L5.2 0 0 5.2-5.2 0z"
_FEW = 10
"""Items of a bin whose share says little."""
_SIDE, _LEFT, _TOP, _FLOOR = 150, 36, 8, 34
_WIDE, _HIGH = 330, 190


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How a model is drawn."""

    shape: int
    colour: int

    @property
    def svg(self) -> Markup:
        """By itself, as it stands before a name."""
        return Markup(
            '<svg class="mark c{}" width="14" height="14" viewBox="-7 -7 14 14" aria-hidden="true">'
            '<use href="#m{}"/></svg>'
        ).format(self.colour, self.shape)


def marks_of(models: Sequence[str]) -> dict[str, Mark]:
    """Marks that all differ for up to a hundred models: past ten, shapes come again in other colours."""
    return {
        name: Mark(shape=index % len(SHAPES), colour=(index + index // len(SHAPES)) % NUM_COLOURS)
        for index, name in enumerate(models)
    }


def definitions() -> Markup:
    """The shapes, once a page."""
    paths = [
        Markup('<path id="m{}" d="{}"/>').format(index, shape) for index, shape in enumerate(SHAPES)
    ]
    paths.append(Markup('<path id="theirs" class="published" d="{}"/>').format(PUBLISHED))
    start = Markup('<svg width="0" height="0" class="definitions" aria-hidden="true"><defs>')
    return start + Markup("").join(paths) + Markup("</defs></svg>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """From 0 to a round share."""

    end: float

    @property
    def ticks(self) -> list[float]:
        """Where lines are drawn, the ends among them."""
        step = next(each for each in (0.01, 0.02, 0.05, 0.1, 0.2) if self.end <= 5.01 * each)
        return [step * n for n in range(round(self.end / step) + 1)]

    def place(self, value: float) -> str:
        """In percent of the width."""
        return f"{round(100 * min(max(value / self.end, 0), 1), 2):g}%"


def axis_of(values: Iterable[float]) -> Axis:
    """The shortest that holds all of them."""
    most = max(values, default=1.0)
    return Axis(end=next((each for each in (0.05, 0.1, 0.2, 0.4, 0.5) if most <= each), 1.0))


def scale(axis: Axis) -> Markup:
    """Numbers of an axis, in percent. Coordinates are parts of the width: the plot may have any."""
    last = len(axis.ticks) - 1
    texts = [
        Markup('<text x="{}" y="12" text-anchor="{}">{}</text>').format(
            axis.place(tick),
            "start" if index == 0 else "end" if index == last else "middle",
            f"{100 * tick:g}" + (" %" if index == last else ""),
        )
        for index, tick in enumerate(axis.ticks)
    ]
    start = Markup('<svg class="lane" width="100%" height="16" aria-hidden="true">')
    return start + Markup("").join(texts) + Markup("</svg>")


def lane(axis: Axis, score: Score | None, mark: Mark, chance: float | None) -> Markup:
    """A model's line of a forest plot. score   None: it has none, and the line shows the grid alone"""
    body = [*_grid(axis, chance)]
    if score is not None:
        if score.low is not None and score.high is not None:
            body.append(
                Markup('<line class="i" x1="{}" y1="{y}" x2="{}" y2="{y}"/>').format(
                    axis.place(score.low), axis.place(score.high), y=LANE / 2
                )
            )
        body.append(
            Markup('<use href="#m{}" x="{}" y="{}"/>').format(
                mark.shape, axis.place(score.value), LANE / 2
            )
        )
    return _lane(f"c{mark.colour}", body)


def published_lane(axis: Axis, found: Iterable[tuple[float, str]], chance: float | None) -> Markup:
    """Hollow diamonds. found   (value, words)"""
    body = [*_grid(axis, chance)]
    for value, words in found:
        body.append(
            Markup('<use href="#theirs" x="{}" y="{}"><title>{}</title></use>').format(
                axis.place(value), LANE / 2, words
            )
        )
    return _lane("", body)


def _lane(kind: str, body: Iterable[Markup]) -> Markup:
    start = Markup('<svg class="lane {}" width="100%" height="{}" aria-hidden="true">')
    return start.format(kind, LANE) + Markup("").join(body) + Markup("</svg>")


def _grid(axis: Axis, chance: float | None) -> Iterable[Markup]:
    for tick in axis.ticks:
        yield Markup('<line x1="{x}" x2="{x}" y2="{}"/>').format(LANE, x=axis.place(tick))
    if chance is not None and chance <= axis.end:
        yield Markup('<line class="chance" x1="{x}" x2="{x}" y2="{}"/>').format(
            LANE, x=axis.place(chance)
        )


def reliability(bins: Sequence[Confidence], mark: Mark, model: str) -> Markup:
    """Confidence against the share that is right; below, how many items each bin has."""
    total, most = sum(each.count for each in bins), max(each.count for each in bins)
    body = [_frame(_SIDE, _SIDE)]
    body.append(
        Markup('<line class="ideal" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
            _LEFT, _TOP + _SIDE, _LEFT + _SIDE, _TOP
        )
    )
    points = []
    for each in bins:
        x, y = _LEFT + _SIDE * each.mean, _TOP + _SIDE * (1 - each.right)
        height = max(0.7, 26 * each.count / most)
        body.append(
            Markup('<rect class="count" x="{:.1f}" y="{:.1f}" width="6" height="{:.1f}"/>').format(
                x - 3, _TOP + _SIDE - height, height
            )
        )
        points.append((x, y, each))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    body.append(Markup('<polyline class="curve" points="{}"/>').format(path))
    for x, y, each in points:
        body.append(
            Markup('<use{} href="#m{}" x="{:.1f}" y="{:.1f}"><title>{}</title></use>').format(
                Markup(' class="few"') if each.count < _FEW else "",
                mark.shape,
                x,
                y,
                f"{each.count:,} items, {each.right:.0%} right",
            )
        )
    for share in (0, 0.5, 1):
        body += _ticks(share, f"{100 * share:g}", _SIDE, _SIDE)
    body.append(_text(_LEFT + _SIDE / 2, _TOP + _SIDE + 30, "confidence, %", "middle"))
    body.append(_sideways("right, %", _SIDE))
    about = f"Reliability diagram of {model}, {total:,} items. " + "; ".join(
        f"confidence {e.mean:.0%}: {e.right:.0%} right" for e in bins
    )
    return _chart(mark.colour, _LEFT + _SIDE + 8, _TOP + _SIDE + _FLOOR, about, body)


def recall_chart(
    curves: Mapping[str, Sequence[tuple[int, float]]], marks: Mapping[str, Mark], title: str
) -> Markup:
    """Recall by how many one looks at, on a logarithmic axis. curves   by model"""
    last = max(k for curve in curves.values() for k, _ in curve)

    def place(k: int) -> float:
        return _LEFT + _WIDE * math.log10(k) / math.log10(last)

    body = [_frame(_WIDE, _HIGH)]
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = _TOP + _HIGH * (1 - share)
        body.append(_line(_LEFT, y, _LEFT + _WIDE, y))
        body.append(_text(_LEFT - 6, y + 4, f"{100 * share:g}", "end"))
    powers = [10**n for n in range(int(math.log10(last)) + 1)]
    for k in powers:
        body.append(_line(place(k), _TOP, place(k), _TOP + _HIGH))
        body.append(_text(place(k), _TOP + _HIGH + 14, f"{k:,}", "middle"))
    for name, curve in curves.items():
        points = " ".join(f"{place(k):.1f},{_TOP + _HIGH * (1 - y):.1f}" for k, y in curve)
        body.append(
            Markup('<g class="c{}"><polyline class="curve" points="{}"/>').format(
                marks[name].colour, points
            )
        )
        for k, y in curve:
            if k in powers:
                body.append(
                    Markup('<use href="#m{}" x="{:.1f}" y="{:.1f}"><title>{}</title></use>').format(
                        marks[name].shape,
                        place(k),
                        _TOP + _HIGH * (1 - y),
                        f"{name}: {y:.1%} at {k:,}",
                    )
                )
        body.append(Markup("</g>"))
    body.append(_text(_LEFT + _WIDE / 2, _TOP + _HIGH + 30, "k: how many are looked at", "middle"))
    body.append(_sideways("recall at k, %", _HIGH))
    about = f"{title}: recall by k. " + "; ".join(
        f"{name} " + ", ".join(f"{y:.0%} at {k:,}" for k, y in curve if k in powers)
        for name, curve in curves.items()
    )
    return _chart(None, _LEFT + _WIDE + 14, _TOP + _HIGH + _FLOOR, about, body)


def _ticks(share: float, words: str, width: float, height: float) -> list[Markup]:
    """The same number on both axes."""
    anchor = "middle" if share else "start"
    return [
        _text(_LEFT + width * share, _TOP + height + 14, words, anchor if share < 1 else "end"),
        _text(_LEFT - 6, _TOP + height * (1 - share) + 4, words, "end"),
    ]


def _sideways(words: str, height: float) -> Markup:
    return Markup(
        '<text transform="translate(10 {:.1f}) rotate(-90)" text-anchor="middle">{}</text>'
    ).format(_TOP + height / 2, words)


def _frame(width: float, height: float) -> Markup:
    return Markup('<rect class="box" x="{}" y="{}" width="{}" height="{}"/>').format(
        _LEFT, _TOP, width, height
    )


def _line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(x1, y1, x2, y2)


def _text(x: float, y: float, words: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, words
    )


def _chart(
    colour: int | None, width: float, height: float, about: str, body: Iterable[Markup]
) -> Markup:
    kind = "" if colour is None else f" c{colour}"
    start = Markup(
        '<svg class="plot{}" width="{w}" viewBox="0 0 {w} {}" role="img" aria-label="{}">'
    )
    return start.format(kind, height, about, w=width) + Markup("").join(body) + Markup("</svg>")
