"""Plain numbers as charts: inline SVG, and the bars and steps whose lengths a template draws."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

CELLS_A_DECADE = 8
"""Steps of a heat map's axes."""
_WIDTH, _HEIGHT = 460, 220
_LEFT, _TOP, _BOTTOM = 52, 26, 40


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of a table of counts."""

    label: str | None
    count: int
    share: float
    """Of all that is counted, 0 to 1."""
    width: float
    """Length of its bar, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The most frequent values, and what is left beyond them."""

    bars: list[Bar]
    num_others: int
    count_others: int
    share_others: float | None
    """None where a row can have several labels, for then it says nothing."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What left a funnel at one step."""

    count: int
    about: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a funnel: what came out of it, and what did not."""

    label: str
    count: int
    width: float
    """Length of its bar, 0 to 1."""
    about: str = ""
    losses: list[Loss] = field(default_factory=list)
    is_broken: bool = False
    """The bar is cut short."""


@dataclass(frozen=True, slots=True)
class Bin:
    """One bar of a histogram."""

    label: str
    about: str
    count: int


def part(count: float, whole: float) -> float:
    """`count` as a share of `whole`; 0 where that is empty."""
    return count / whole if whole else 0.0


def bars_of(counts: Sequence[tuple[str | None, int]], whole: int) -> list[Bar]:
    """A bar for each (label, count): shares of `whole`, lengths against the longest."""
    longest = max((n for _, n in counts), default=0)
    return [Bar(label, n, part(n, whole), part(n, longest)) for label, n in counts]


def ranking_of(
    counts: Sequence[tuple[str | None, int]], num_kinds: int, total: int, whole: int | None = None
) -> Ranking:
    """The most frequent values, of `num_kinds` that stand in `total` places.

    whole   what shares are measured by, where a row can have several labels
    """
    rest = total - sum(n for _, n in counts)
    share = None if whole else part(rest, total)
    return Ranking(bars_of(counts, whole or total), num_kinds - len(counts), rest, share)


def step_of(
    label: str, count: int, whole: float, about: str = "", losses: Sequence[Loss] = ()
) -> Step:
    """A step whose bar is measured against `whole`, and cut short where it is longer."""
    lost = [loss for loss in losses if loss.count > 0]
    return Step(label, count, min(1.0, part(count, whole)), about, lost, count > whole)


def quantile(counts: Sequence[tuple[int, int]], share: float) -> int:
    """Smallest value with at least this share of the total up to it. counts   (value, n), sorted"""
    due = share * sum(n for _, n in counts)
    reached = 0
    for value, n in counts:
        reached += n
        if reached >= due:
            return value
    return counts[-1][0]


def bins_of(counts: Sequence[tuple[int, int]], unit: str) -> list[Bin]:
    """Up to 25 bins of a round width; the last takes the upper hundredth. counts   as `quantile`"""
    end = quantile(counts, 0.99) + 1
    width = next(w for k in range(19) for w in (10**k, 2 * 10**k, 5 * 10**k) if end <= 24 * w)
    last = math.ceil(end / width)
    numbers: Counter[int] = Counter()
    for value, n in counts:
        numbers[min(value // width, last)] += n
    bins = []
    for index in range(last + (last in numbers)):
        start, stop = index * width, (index + 1) * width - 1
        span = f"{start:,} or more" if index == last else f"{start:,}–{stop:,}"
        span = f"{start:,}" if width == 1 and index < last else span
        label = f"{start:,}+" if index == last else f"{start:,}"
        bins.append(Bin(label, f"{span} {unit}", numbers[index]))
    return bins


def histogram(
    bins: Sequence[Bin], axis: str, of: str, about: str, *, at_edges: bool = False
) -> Markup:
    """Bars with a scale. at_edges   labels stand at the left edge of a bar, not below its middle"""
    top, step = _scale(max(each.count for each in bins))
    floor, tall = _HEIGHT - _BOTTOM, _HEIGHT - _BOTTOM - _TOP
    wide = (_WIDTH - _LEFT - 12) / len(bins)
    body = [_text(0, 12, of, "start")]
    for count in range(0, top + 1, step):
        y = floor - tall * count / top
        body += [_line(_LEFT, y, _WIDTH, y), _text(_LEFT - 7, y + 4, f"{count:,}", "end")]
    for index, each in enumerate(bins):
        x, height = _LEFT + index * wide, tall * each.count / top
        body.append(
            _rect(x + 0.5, floor - height, wide - 1, height, f"{each.about}: {each.count:,}")
        )
    for index in _labelled(bins):
        x = _LEFT + (index + (0 if at_edges else 0.5)) * wide
        body.append(_text(x, floor + 16, bins[index].label, "middle"))
    body.append(_text(_LEFT + (_WIDTH - _LEFT) / 2, _HEIGHT - 6, axis, "middle"))
    return _svg(_WIDTH, _HEIGHT, about, body)


def _scale(most: int) -> tuple[int, int]:
    """(end of an axis, distance of its lines): two to five lines, at round numbers."""
    step = next(s for k in range(19) for s in (10**k, 2 * 10**k, 5 * 10**k) if most <= 4 * s)
    return step * max(1, math.ceil(most / step)), step


def _labelled(bins: Sequence[Bin]) -> list[int]:
    """Indices of up to nine bins to label, the open last one among them."""
    every = math.ceil(len(bins) / 8)
    chosen = list(range(0, len(bins), every))
    if bins[-1].label.endswith("+") and chosen[-1] != len(bins) - 1:
        last = len(bins) - 1
        chosen = [index for index in chosen if last - index > 0.7 * every] + [last]
    return chosen


def heat_map(counts: Mapping[tuple[int, int], int]) -> Markup:
    """Cells on two logarithmic axes, darker for more. counts   by (width, height) in eighths of a decade"""
    low = min(min(place) for place in counts) - 1
    high = max(low + 12, max(max(place) for place in counts) + 2)
    side = 300
    cell = side / (high - low)
    most = max(counts.values())
    body = [_text(0, 12, "height, px", "start")]
    for power in range(low // CELLS_A_DECADE, high // CELLS_A_DECADE + 1):
        for pixels in (10**power, 3 * 10**power):
            place = (CELLS_A_DECADE * math.log10(pixels) - low) * cell
            if 0 <= place <= side:
                x, y = _LEFT + place, _TOP + side - place
                body += [_line(x, _TOP, x, _TOP + side), _line(_LEFT, y, _LEFT + side, y)]
                body.append(_text(x, _TOP + side + 16, f"{pixels:,}", "middle"))
                body.append(_text(_LEFT - 7, y + 4, f"{pixels:,}", "end"))
    for (x, y), n in sorted(counts.items()):
        about = f"about {_pixels(x)} × {_pixels(y)} px: {n:,}"
        left, top = _LEFT + (x - low) * cell, _TOP + (high - y - 1) * cell
        body.append(
            _rect(left, top, cell, cell, about, 0.2 + 0.8 * math.log1p(n) / math.log1p(most))
        )
    body.append(_text(_LEFT + side / 2, _TOP + side + 34, "width, px", "middle"))
    return _svg(_LEFT + side + 24, _TOP + side + _BOTTOM, "Heat map: widths and heights", body)


def _pixels(index: int) -> str:
    return f"{round(10 ** ((index + 0.5) / CELLS_A_DECADE)):,}"


def _svg(width: float, height: float, about: str, body: Iterable[Markup]) -> Markup:
    shape = " square" if height > 0.8 * width else ""
    start = Markup('<svg class="chart{}" viewBox="0 0 {} {}" role="img" aria-label="{}">')
    return start.format(shape, width, height, about) + Markup("\n").join(body) + Markup("</svg>")


def _rect(x: float, y: float, width: float, height: float, about: str, ink: float = 1.0) -> Markup:
    return Markup(
        '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill-opacity="{:.2f}">'
        "<title>{}</title></rect>"
    ).format(x, y, width, height, ink, about)


def _line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, text
    )
