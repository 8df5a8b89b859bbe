"""Metrics as functions of how often each group of items counts: what a bootstrap calls thousands of times.

A `Measure` takes counts_GR (G groups, R resamples) and gives the metric of each resample. What can be is a
function of sums over the items, which a matrix product makes for all resamples at once; rankings are sorted
once, when the measure is made, and only summed up again for each resample.

Shapes: N items, C classes, G groups, R resamples, P positive items, K sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

Reals = NDArray[np.float64]
Indices = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
Counts = NDArray[np.floating[Any]]
Measure = Callable[[Counts], Reals]
"""From counts_GR to the metric of each resample, (R,); NaN where it is not defined."""


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """A metric that is a function of sums over the items."""

    sums_GK: Reals
    """What each group adds to each sum."""
    finish: Callable[[Reals], Reals]
    """From sums_RK to the metric, (R,)."""
    rates: tuple[tuple[float, float], ...] | None = None
    """Of a mean of proportions: each of them, and the number of groups that it is of."""
    is_share: bool = False
    """A proportion of items, each of them right or wrong."""

    def __call__(self, counts_GR: Counts) -> Reals:
        """The metric of each resample."""
        sums_RK = counts_GR.T @ self.sums_GK.astype(counts_GR.dtype, copy=False)
        return self.finish(np.asarray(sums_RK, dtype=np.float64))


def ratio(part: Reals, whole: Reals) -> Reals:
    """part / whole, NaN where the whole is 0."""
    found = np.full(part.shape, np.nan)
    np.divide(part, whole, out=found, where=whole > 0)
    return found


def mean_known(values_XR: Reals, axis: int) -> Reals:
    """Mean of what is not NaN; NaN where nothing is."""
    known = ~np.isnan(values_XR)
    return ratio(
        np.where(known, values_XR, 0.0).sum(axis=axis), known.sum(axis=axis).astype(np.float64)
    )


def add_up(
    group_of_N: Indices,
    column_N: Indices,
    num_groups: int,
    num_columns: int,
    values_N: ArrayLike | None = None,
) -> Reals:
    """(G, K): sum over items of a value (1 by default) that each adds to one column of its group."""
    place_N = np.asarray(group_of_N, dtype=np.int64) * num_columns + column_N
    weights = None if values_N is None else np.asarray(values_N, dtype=np.float64)
    found = np.bincount(place_N, weights=weights, minlength=num_groups * num_columns)
    return found.reshape(num_groups, num_columns).astype(np.float64)


def _num_groups(group_of_N: Indices) -> int:
    return int(group_of_N.max()) + 1 if len(group_of_N) else 0


def proportion(right_N: ArrayLike, group_of_N: Indices, of_N: ArrayLike | None = None) -> Sums:
    """Share of what is right.

    right_N  whether an item is right, or how many of its parts are
    of_N     of how many parts; 1 by default
    """
    num_groups, zero_N = _num_groups(group_of_N), np.zeros_like(group_of_N)
    right_G1 = add_up(group_of_N, zero_N, num_groups, 1, right_N)
    whole_G1 = add_up(group_of_N, zero_N, num_groups, 1, of_N)
    rate = float(right_G1.sum() / max(whole_G1.sum(), 1e-300))
    return Sums(
        np.hstack([right_G1, whole_G1]),
        lambda sums_RK: ratio(sums_RK[:, 0], sums_RK[:, 1]),
        rates=((rate, float(num_groups)),),
        is_share=of_N is None and np.asarray(right_N).dtype == np.bool_,
    )


def mean_recall(right_N: Bools, labels_N: Indices, num_classes: int, group_of_N: Indices) -> Sums:
    """Balanced accuracy: mean over the classes that have items of the share of them that is right."""
    num_groups = _num_groups(group_of_N)
    right_GC = add_up(group_of_N, labels_N, num_groups, num_classes, right_N)
    all_GC = add_up(group_of_N, labels_N, num_groups, num_classes)
    there_C = all_GC.sum(axis=0) > 0
    rates_C = right_GC.sum(axis=0)[there_C] / all_GC.sum(axis=0)[there_C]
    groups_C = (all_GC > 0).sum(axis=0)[there_C]
    return Sums(
        np.hstack([right_GC, all_GC]),
        _finish_recall,
        rates=tuple(zip(rates_C.tolist(), groups_C.astype(float).tolist(), strict=True)),
    )


def _finish_recall(sums_RK: Reals) -> Reals:
    right_RC, all_RC = np.split(sums_RK, 2, axis=1)
    return mean_known(ratio(right_RC, all_RC), axis=1)


def mean_f1(predicted_N: Indices, labels_N: Indices, num_classes: int, group_of_N: Indices) -> Sums:
    """Macro F1: mean over the classes that have items or predictions of 2 right / (items + predictions)."""
    num_groups = _num_groups(group_of_N)
    right_GC = add_up(group_of_N, labels_N, num_groups, num_classes, predicted_N == labels_N)
    all_GC = add_up(group_of_N, labels_N, num_groups, num_classes)
    all_GC += add_up(group_of_N, predicted_N, num_groups, num_classes)
    return Sums(np.hstack([2 * right_GC, all_GC]), _finish_recall)


def calibration_error(
    confidence_N: NDArray[np.floating[Any]], right_N: Bools, bins: int, group_of_N: Indices
) -> Sums:
    """Expected calibration error over bins of equal width, each (low, high]."""
    num_groups = _num_groups(group_of_N)
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(np.int64) - 1, 0, bins - 1)
    gap_N = np.asarray(right_N, dtype=np.float64) - confidence_N
    gap_GB = add_up(group_of_N, bin_N, num_groups, bins, gap_N)
    all_G1 = add_up(group_of_N, np.zeros_like(bin_N), num_groups, 1)
    return Sums(np.hstack([gap_GB, all_G1]), _finish_calibration)


def _finish_calibration(sums_RK: Reals) -> Reals:
    return ratio(np.abs(sums_RK[:, :-1]).sum(axis=1), sums_RK[:, -1])


def mean_of(parts: Sequence[Measure]) -> Measure:
    """Mean over those of the parts that are defined."""

    def measure(counts_GR: Counts) -> Reals:
        return mean_known(np.stack([part(counts_GR) for part in parts]), axis=0)

    return measure


def difference(a: Measure, b: Measure) -> Measure:
    """a - b, of the same groups."""
    return lambda counts_GR: a(counts_GR) - b(counts_GR)


def area(score_N: NDArray[np.floating[Any]], is_positive_N: Bools, group_of_N: Indices) -> Measure:
    """Area under the ROC curve: how often a positive item scores higher than a negative; a tie counts half.

    The sum of the positives' middle ranks gives it, as in the test of Mann and Whitney.
    """
    order_N = np.argsort(score_N, kind="stable")
    sorted_N, group_of_N = score_N[order_N], group_of_N[order_N]
    positive_P = np.flatnonzero(is_positive_N[order_N])
    start_P = np.searchsorted(sorted_N, sorted_N[positive_P], "left")
    end_P = np.searchsorted(sorted_N, sorted_N[positive_P], "right")
    upto, (start_row_P, end_row_P) = _sums_upto(group_of_N, start_P, end_P)
    group_of_P = group_of_N[positive_P]

    def measure(counts_GR: Counts) -> Reals:
        upto_UR, weights_PR = upto(counts_GR), counts_GR[group_of_P]
        positives_R = weights_PR.sum(axis=0, dtype=np.float64)
        ranks_PR = (upto_UR[start_row_P] + upto_UR[end_row_P]).astype(np.float64)
        wins_R = (np.einsum("pr,pr->r", weights_PR, ranks_PR) - positives_R**2) / 2
        return ratio(wins_R, positives_R * (upto_UR[-1] - positives_R))

    return measure


def precision(
    score_N: NDArray[np.floating[Any]], is_positive_N: Bools, group_of_N: Indices
) -> Measure:
    """Average precision: mean over the positives of the precision among what scores as high or higher."""
    order_N = np.argsort(-score_N, kind="stable")
    falling_N, group_of_N = -score_N[order_N], group_of_N[order_N]
    positive_P = np.flatnonzero(is_positive_N[order_N])
    end_P = np.searchsorted(falling_N, falling_N[positive_P], "right")
    positive_end_P = np.searchsorted(falling_N[positive_P], falling_N[positive_P], "right")
    upto, (end_row_P,) = _sums_upto(group_of_N, end_P)
    group_of_P = group_of_N[positive_P]

    def measure(counts_GR: Counts) -> Reals:
        weights_PR = counts_GR[group_of_P]
        found_PR = np.cumsum(weights_PR, axis=0, dtype=np.float64)[positive_end_P - 1]
        of_PR = upto(counts_GR)[end_row_P]
        precision_PR = np.divide(found_PR, of_PR, out=np.zeros_like(found_PR), where=of_PR > 0)
        positives_R = weights_PR.sum(axis=0, dtype=np.float64)
        return ratio(np.einsum("pr,pr->r", weights_PR, precision_PR), positives_R)

    return measure


def _sums_upto(
    group_of_N: Indices, *ends: Indices
) -> tuple[Callable[[Counts], Counts], list[Indices]]:
    """Sums of the counts of the first items, at some places only: a sparse matrix adds what is between.

    ends      numbers of first items
    returns   from counts_GR to the sums, (U, R), the last of them over all items; and rows for `ends`
    """
    num_items, num_groups = len(group_of_N), _num_groups(group_of_N)
    places_U, rows = np.unique(np.concatenate([*ends, [num_items]]), return_inverse=True)
    between = csr_array(
        (np.ones(num_items, dtype=np.float32), group_of_N, np.concatenate([[0], places_U])),
        shape=(len(places_U), num_groups),
    )
    parts = np.split(rows[:-1], np.cumsum([len(each) for each in ends])[:-1])

    def upto(counts_GR: Counts) -> Counts:
        found_UR = between @ counts_GR
        return np.asarray(np.cumsum(found_UR, axis=0, out=found_UR))

    return upto, list(parts)


def median(value_N: NDArray[Any], group_of_N: Indices) -> Measure:
    """The lower median."""
    order_N = np.argsort(value_N, kind="stable")
    sorted_N, group_of_N = value_N[order_N].astype(np.float64), group_of_N[order_N]

    def measure(counts_GR: Counts) -> Reals:
        upto_NR = np.cumsum(counts_GR[group_of_N], axis=0)
        return np.asarray(sorted_N[np.argmax(2 * upto_NR >= upto_NR[-1], axis=0)])

    return measure
