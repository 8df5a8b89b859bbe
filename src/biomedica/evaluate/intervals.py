"""95 % intervals by resampling groups of items: what a metric might have been on other items of the same kind.

Items of one patient, slide or article resemble each other, so whole groups are drawn again, with all of
their items (the cluster bootstrap: Field & Welsh 2007, "Bootstrapping clustered data", JRSS B 69; Cameron,
Gelbach & Miller 2008, "Bootstrap-based improvements for inference with clustered errors", REStat 90).
A resample is a count for each group; metrics are computed from counts (see `measures`), never from copies.

Limits are percentiles of the resamples, corrected for bias and skewness (BCa: Efron 1987, "Better bootstrap
confidence intervals", JASA 82; Efron & Tibshirani 1993, chapter 14) and, because plain percentiles of few
groups are too narrow, taken further out by as much as Student's t is wider than the normal (Hesterberg
2015, "What teachers should know about the bootstrap", The American Statistician 69, section 5.3).
With fewer than about twenty groups no such interval is trustworthy, and with one there is none. Nor does
a class of a handful of groups show in its resamples how far it might have been off: metrics that are means
over classes, and curves of rare positives, then have intervals that are too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from biomedica.evaluate.measures import Counts, Measure, Reals, Sums
from biomedica.numbering import numbered

RESAMPLES = 2000
CELLS = 2_000_000
"""Numbers in the largest matrix of counts that is held at a time."""
MOST_BLOCKS = 200
"""Of groups, left out in turn to see how skewed a metric is."""
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """Resamples of the groups of some items; the same numbers each time that they are asked for."""

    group_of_N: NDArray[np.int64]
    """Index of each item's group; groups are numbered in the order of their names."""
    num_groups: int
    resamples: int
    seed: int

    def counts(self) -> Iterator[Counts]:
        """(G, R) counts of each group in some of the resamples, until all were given. Memory is bounded."""
        source = np.random.default_rng(self.seed)
        for size in self._sizes(self.resamples):
            drawn_RG = source.integers(0, self.num_groups, size=(size, self.num_groups))
            drawn_RG *= size
            drawn_RG += np.arange(size)[:, None]
            found = np.bincount(drawn_RG.ravel(), minlength=size * self.num_groups)
            yield found.reshape(self.num_groups, size).astype(np.float32)

    def blocks_left_out(self, most: int) -> Iterator[Counts]:
        """(G, R) counts: each column lacks one of at most that many blocks of groups, at random."""
        num_blocks = min(self.num_groups, most)
        block_of_G = np.arange(self.num_groups) % num_blocks
        np.random.default_rng(self.seed).shuffle(block_of_G)
        start = 0
        for size in self._sizes(num_blocks):
            yield (block_of_G[:, None] != np.arange(start, start + size)).astype(np.float32)
            start += size

    def _sizes(self, total: int) -> Iterator[int]:
        each = max(1, CELLS // max(len(self.group_of_N), self.num_groups))
        for start in range(0, total, each):
            yield min(each, total - start)


def draws(groups: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> Draws:
    """Resamples of groups. groups   of each item, the name of its patient, slide or article"""
    names, group_of_N = numbered(groups)
    return Draws(group_of_N, len(names), resamples, seed)


def full_value(measure: Measure, num_groups: int) -> float:
    """The metric of the items as they are; NaN where it is not defined."""
    return float(measure(np.ones((num_groups, 1)))[0])


def replicate(measures: Mapping[str, Measure], drawn: Draws) -> dict[str, Reals]:
    """(R,) values of each metric over the resamples, NaN where it is not defined in one."""
    return _over(measures, drawn.counts())


def jackknife(
    measures: Mapping[str, Measure], drawn: Draws, most: int = MOST_BLOCKS
) -> dict[str, Reals]:
    """(B,) values of each metric without each of at most that many blocks of groups."""
    return _over(measures, drawn.blocks_left_out(most))


def _over(measures: Mapping[str, Measure], parts: Iterator[Counts]) -> dict[str, Reals]:
    found: dict[str, list[Reals]] = {name: [] for name in measures}
    for counts_GR in parts:
        for name, measure in measures.items():
            found[name].append(measure(counts_GR))
    return {name: np.concatenate(each) if each else np.empty(0) for name, each in found.items()}


def acceleration(left_out_B: Reals) -> float:
    """Efron's a: a sixth of the skewness of the metric's influence values, from a jackknife."""
    known = left_out_B[~np.isnan(left_out_B)]
    if len(known) < 3:
        return 0.0
    pull = known.mean() - known
    spread = float((pull**2).sum()) ** 1.5
    return float((pull**3).sum()) / (6 * spread) if spread > 1e-30 else 0.0


def limits(
    value: float, replicates_R: Reals, num_groups: int | None, skew: float = 0.0
) -> tuple[float, float] | None:
    """(low, high) from resamples; None where they know no doubt, or too few of them are defined.

    num_groups  None: as many as nobody has to correct for
    skew        `acceleration` of the metric
    """
    known = replicates_R[~np.isnan(replicates_R)]
    if np.isnan(value) or 2 * len(known) < max(len(replicates_R), 4) or known.min() == known.max():
        return None
    if num_groups is not None and num_groups < 2:
        return None
    num = len(known)
    below = (np.count_nonzero(known < value) + np.count_nonzero(known <= value)) / (2 * num)
    bias = float(ndtri(min(max(below, 1 / (num + 1)), num / (num + 1))))
    outer = _outer(num_groups)
    points = [bias - outer, bias + outer]
    shares = [float(ndtr(bias + each / max(1 - skew * each, 0.1))) for each in points]
    low, high = np.quantile(known, shares)
    return float(low), float(high)


def _outer(num_groups: int | None) -> float:
    """How many standard errors the limits are away."""
    tail = (1 + CONFIDENCE) / 2
    if num_groups is None:
        return float(ndtri(tail))
    return float(stdtrit(num_groups - 1, tail) * (num_groups / (num_groups - 1)) ** 0.5)


def wilson(share: float, num: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion of so many independent trials (Wilson 1927, JASA 22).

    >>> [round(each, 3) for each in wilson(1.0, 100)]
    [0.963, 1.0]
    """
    z = float(ndtri((1 + CONFIDENCE) / 2))
    middle = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * (share * (1 - share) / num + z * z / (4 * num * num)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def limits_without_spread(measure: Measure) -> tuple[float, float] | None:
    """Limits where every resample gives the same, as for a model that is right each time; None: unknown.

    A proportion: Wilson's, as if each group were one trial. A mean of proportions: the distances to
    Wilson's limits add up as errors do (Zou & Donner 2008, "Construction of confidence limits about effect
    measures", Statistics in Medicine 27).
    """
    if not isinstance(measure, Sums) or measure.rates is None:
        return None
    parts = [(rate, wilson(rate, num)) for rate, num in measure.rates]
    value = float(np.mean([rate for rate, _ in parts]))
    below = sum((rate - low) ** 2 for rate, (low, _) in parts) ** 0.5 / len(parts)
    above = sum((high - rate) ** 2 for rate, (_, high) in parts) ** 0.5 / len(parts)
    return max(0.0, value - below), min(1.0, value + above)


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """A metric, its limits and the resamples that they come from."""

    value: float
    low: float | None
    """None with one group, where the metric is not defined, or where nothing is known of its spread."""
    high: float | None
    replicates_R: Reals


def intervals(measures: Mapping[str, Measure], drawn: Draws) -> dict[str, Interval]:
    """Each metric with its 95 % interval, all of them from the same resamples."""
    several = drawn.num_groups > 1
    replicates = replicate(measures, drawn if several else Draws(drawn.group_of_N, 1, 0, 0))
    left_out = jackknife(measures, drawn) if several else {}
    found = {}
    for name, measure in measures.items():
        value, low_high = full_value(measure, drawn.num_groups), None
        if several and not np.isnan(value):
            skew = acceleration(left_out[name])
            low_high = limits(value, replicates[name], drawn.num_groups, skew)
            if low_high is None:
                low_high = limits_without_spread(measure)
        low, high = low_high or (None, None)
        found[name] = Interval(value, low, high, replicates[name])
    return found


def interval(measure: Measure, drawn: Draws) -> Interval:
    """One metric with its 95 % interval."""
    return intervals({"": measure}, drawn)[""]
