"""How far raters agree beyond chance: kappas and alpha, with intervals.

Ratings are a matrix of codes: codes_NR[i, r] is what rater r said of item i, a number in [0, C), or -1
where the rater said nothing. Whatever the answers are (words or sets of concepts), they become codes, and
`distance_CC` says how far apart two of them are: 0 for the same, 1 for nothing in common. Without it
two answers are the same or they are not.

A measure is None where it is not defined: no item with two ratings, or no variation at all. When
everybody gives one and the same answer to everything, chance alone would have done so too, so a kappa
says nothing (0 / 0), while percent agreement is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]
Reals = NDArray[np.float64]
Measure = Callable[[Reals], Reals]
"""From weights_BN (how often each item counts) to a measure for each row, (B,); NaN: not defined."""

CELLS = 4_000_000
"""Numbers in the largest matrix that a bootstrap holds at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A measure and its 95 % interval."""

    value: float | None
    """None: not defined (see `measures`)."""
    low: float | None = None
    """2.5th percentile over resamples of the items; None with fewer than two items, or no value."""
    high: float | None = None
    """97.5th percentile."""


def masi_distance(a: Collection[str], b: Collection[str]) -> float:
    """Distance of two sets, 0 to 1: 1 - Jaccard * monotonicity.

    Passonneau 2006, "Measuring Agreement on Set-valued Items (MASI) for Semantic and Pragmatic
    Annotation" (LREC). Monotonicity is 1 for equal sets, 2/3 where one holds the other, 1/3 where they
    overlap, 0 where they share nothing. Two empty sets are equal; an empty set shares nothing.

    >>> masi_distance({"a"}, {"a", "b"}) == 1 - 1 / 2 * 2 / 3
    True
    """
    first, second = set(a), set(b)
    if first == second:
        return 0.0
    common = len(first & second)
    if not common:
        return 1.0
    monotonicity = 2 / 3 if common == min(len(first), len(second)) else 1 / 3
    return 1 - common / len(first | second) * monotonicity


def masi_distances(sets: Sequence[Collection[str]]) -> Reals:
    """(C, C): `masi_distance` of every two of C sets, which are all different; memory is C * C."""
    names = {name: i for i, name in enumerate(sorted({name for each in sets for name in each}))}
    member_CL = np.zeros((len(sets), max(len(names), 1)), dtype=np.float32)
    for row, each in enumerate(sets):
        member_CL[row, [names[name] for name in each]] = 1
    common_CC = (member_CL @ member_CL.T).astype(np.float64)
    size_C = np.diagonal(common_CC).copy()
    union_CC = size_C[:, None] + size_C - common_CC
    holds_CC = common_CC == np.minimum(size_C[:, None], size_C)
    monotonicity_CC = np.where(holds_CC, 2 / 3, 1 / 3)
    distance_CC = 1 - common_CC / np.maximum(union_CC, 1) * monotonicity_CC
    np.fill_diagonal(distance_CC, 0.0)
    return distance_CC


def percent_agreement(codes_NR: Codes) -> float | None:
    """Mean over items of the share of rater pairs that gave the same answer; None without a pair."""
    return _value(codes_NR, percent_measure)


def fleiss_kappa(codes_NR: Codes) -> float | None:
    """Fleiss' kappa, for any number of ratings an item.

    Fleiss 1971, "Measuring nominal scale agreement among many raters" (Psychological Bulletin 76),
    which has the same number of ratings for every item. Here, as in Gwet 2014 ("Handbook of
    Inter-Rater Reliability"), every item counts the same however many rated it: observed agreement is
    the mean over items of the share of agreeing pairs, and a category's chance is the mean over items
    of its share in the item. Unlike Gwet's, an item with a single rating counts in neither.
    """
    return _value(codes_NR, fleiss_measure)


def krippendorff_alpha(codes_NR: Codes, distance_CC: Reals | None = None) -> float | None:
    """Krippendorff's alpha, with missing ratings and any distance.

    Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability": 1 - observed / expected
    disagreement, over items with two ratings or more. Nominal without `distance_CC`.
    """
    return _value(codes_NR, lambda codes: alpha_measure(codes, distance_CC))


def cohen_kappa(a_N: Codes, b_N: Codes, distance_CC: Reals | None = None) -> float | None:
    """Cohen's kappa of two raters over the items that both rated.

    Cohen 1960, "A coefficient of agreement for nominal scales"; with a distance, the weighted kappa of
    Cohen 1968. None where they share no item, or where chance can't disagree.
    """
    both_N = (a_N >= 0) & (b_N >= 0)
    if not both_N.any():
        return None
    a, b = a_N[both_N], b_N[both_N]
    num_codes = int(max(a.max(), b.max())) + 1
    share_a, share_b = (np.bincount(x, minlength=num_codes) / len(x) for x in (a, b))
    if distance_CC is None:
        observed, expected = float(np.mean(a != b)), 1 - float(share_a @ share_b)
    else:
        part_CC = distance_CC[:num_codes, :num_codes]
        observed, expected = float(part_CC[a, b].mean()), float(share_a @ part_CC @ share_b)
    return 1 - observed / expected if expected > 1e-12 else None


def estimate(
    codes_NR: Codes, make: Callable[[Codes], Measure], seed: int, num_resamples: int = 1000
) -> Estimate:
    """A measure with its percentile bootstrap interval (Efron 1979): items are drawn again, raters stay.

    make    `percent_measure`, `fleiss_measure` or a function that gives an `alpha_measure`

    Resamples in which the measure is not defined are left out. Cost: `num_resamples` * N * C, and for
    alpha * C * C, multiplications.
    """
    paired_NR = codes_NR[(codes_NR >= 0).sum(axis=1) >= 2]
    num_items = len(paired_NR)
    if not num_items:
        return Estimate(value=None)
    measure = make(paired_NR)
    value = _number(measure(np.ones((1, num_items)))[0])
    if value is None or num_items < 2:
        return Estimate(value=value)
    source = np.random.default_rng(seed)
    rows = max(1, CELLS // max(num_items, int(paired_NR.max()) + 1))
    chance_N = np.full(num_items, 1 / num_items)
    parts = []
    for start in range(0, num_resamples, rows):
        size = min(rows, num_resamples - start)
        parts.append(measure(source.multinomial(num_items, chance_N, size=size).astype(float)))
    found = np.concatenate(parts) if parts else np.empty(0)
    found = found[~np.isnan(found)]
    if not len(found) or found.min() == found.max():
        return Estimate(
            value=value
        )  # resamples of full agreement know no doubt: no interval, not a narrow one
    low, high = np.percentile(found, [2.5, 97.5])
    return Estimate(value=value, low=float(low), high=float(high))


def percent_measure(codes_NR: Codes) -> Measure:
    """Percent agreement of items that all have two ratings or more."""
    agree_N = _agreeing(codes_NR)
    return lambda weights_BN: weights_BN @ agree_N / weights_BN.sum(axis=1)


def fleiss_measure(codes_NR: Codes) -> Measure:
    """Fleiss' kappa of items that all have two ratings or more."""
    agree_N = _agreeing(codes_NR)
    counts_NC = _counts(codes_NR)
    share_NC = counts_NC / counts_NC.sum(axis=1, keepdims=True)

    def measure(weights_BN: Reals) -> Reals:
        total_B = weights_BN.sum(axis=1)
        chance_BC = weights_BN @ share_NC / total_B[:, None]
        return _beyond(1 - weights_BN @ agree_N / total_B, 1 - (chance_BC**2).sum(axis=1))

    return measure


def alpha_measure(codes_NR: Codes, distance_CC: Reals | None = None) -> Measure:
    """Krippendorff's alpha of items that all have two ratings or more."""
    counts_NC = _counts(codes_NR)
    ratings_N = counts_NC.sum(axis=1)
    within_N = _disagreeing(codes_NR, distance_CC) / (ratings_N - 1)
    # Of C codes, those that only items with a single rating have stand in no column
    part_CC = (
        None if distance_CC is None else distance_CC[: counts_NC.shape[1], : counts_NC.shape[1]]
    )

    def measure(weights_BN: Reals) -> Reals:
        ratings_B = weights_BN @ ratings_N
        counts_BC = weights_BN @ counts_NC
        if part_CC is None:
            between_B = ratings_B**2 - (counts_BC**2).sum(axis=1)
        else:
            between_B = ((counts_BC @ part_CC) * counts_BC).sum(axis=1)
        return _beyond(weights_BN @ within_N / ratings_B, between_B / (ratings_B * (ratings_B - 1)))

    return measure


def _value(codes_NR: Codes, make: Callable[[Codes], Measure]) -> float | None:
    return estimate(codes_NR, make, seed=0, num_resamples=0).value


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _beyond(observed_B: Reals, expected_B: Reals) -> Reals:
    """1 - observed / expected disagreement; NaN where none is expected."""
    defined_B = expected_B > 1e-12
    ratio_B = np.divide(
        observed_B, expected_B, out=np.full(len(observed_B), np.nan), where=defined_B
    )
    return cast(Reals, 1 - ratio_B)


def _counts(codes_NR: Codes) -> Reals:
    """(N, C): how many raters gave an item each code."""
    num_items, num_codes = len(codes_NR), int(codes_NR.max()) + 1
    rows, columns = np.nonzero(codes_NR >= 0)
    places = rows * num_codes + codes_NR[rows, columns]
    flat = np.bincount(places, minlength=num_items * num_codes)
    return flat.reshape(num_items, num_codes).astype(np.float64)


def _disagreeing(codes_NR: Codes, distance_CC: Reals | None) -> Reals:
    """(N,): sum of the distances over ordered pairs of ratings of an item."""
    total_N = np.zeros(len(codes_NR))
    for first in range(codes_NR.shape[1]):
        for second in range(first):
            a_N, b_N = codes_NR[:, first], codes_NR[:, second]
            apart_N = (a_N != b_N) if distance_CC is None else distance_CC[a_N, b_N]
            total_N += np.where((a_N >= 0) & (b_N >= 0), 2.0 * apart_N, 0.0)
    return total_N


def _agreeing(codes_NR: Codes) -> Reals:
    """(N,): share of the pairs of ratings of an item that are the same."""
    ratings_N = (codes_NR >= 0).sum(axis=1)
    return cast(Reals, 1 - _disagreeing(codes_NR, None) / (ratings_N * (ratings_N - 1)))
