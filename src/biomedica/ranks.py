"""Where the right answer stands in a ranking by cosine: exact, a block of queries at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
_BLOCK = 1 << 26
"""Similarities that stand in memory at once: 256 MB."""


@dataclass(frozen=True, slots=True)
class Members:
    """Which groups rows belong to: row `rows_P[i]` to group `groups_P[i]`. A row may have several groups."""

    rows_P: Ints
    groups_P: Ints

    @classmethod
    def each(cls, group_N: Ints) -> Members:
        """Row i is in `group_N[i]` alone."""
        return cls(np.arange(len(group_N)), group_N)


def ranks(queries_ND: Floats, gallery_MD: Floats, asked: Members, held: Members) -> Ints:
    """(N,): place of each query's best right answer in the gallery, from 1.

    asked, held   groups of the queries and of the gallery: an answer is right where they share one. A query
                  without a right answer stands after all
    Ties count against the query, and so does what is no number. One product of matrices, in blocks of at
    most 256 MB; nothing of N x M is kept.
    """
    right = _Right(asked, held)
    found = np.empty(len(queries_ND), np.int64)
    rows = max(1, _BLOCK // max(1, len(gallery_MD)))
    block = np.empty((min(rows, len(queries_ND)), len(gallery_MD)), np.float32)
    for start in range(0, len(queries_ND), rows):
        count = len(queries_ND[start : start + rows])
        similar_QM = np.matmul(queries_ND[start : start + count], gallery_MD.T, out=block[:count])
        row, column = right.places(start, count, len(gallery_MD))
        best_Q1 = np.full((count, 1), -np.inf, np.float32)
        with np.errstate(invalid="ignore"):
            np.maximum.at(best_Q1[:, 0], row, similar_QM[row, column])
        similar_QM[row, column] = -np.inf  # other right answers do not stand before the best
        right_Q = np.bincount(row, minlength=count)
        lower_Q = _num_lower(similar_QM, best_Q1[:, 0]) - right_Q
        found[start : start + count] = 1 + len(gallery_MD) - right_Q - lower_Q
    return found


def _num_lower(values_QM: Floats, than_Q: Floats) -> Ints:
    """(Q,): how many of a row are below its bound. By row: numpy counts an axis ten times as slowly."""
    found_Q, is_lower_M = np.empty(len(values_QM), np.int64), np.empty(values_QM.shape[1], np.bool_)
    with np.errstate(invalid="ignore"):
        for row, (values_M, than) in enumerate(zip(values_QM, than_Q, strict=True)):
            found_Q[row] = np.count_nonzero(np.less(values_M, than, out=is_lower_M))
    return found_Q


class _Right:
    """The right answers of any queries, made when they are asked for."""

    def __init__(self, asked: Members, held: Members) -> None:
        by_group = np.argsort(held.groups_P, kind="stable")
        self._gallery, groups = held.rows_P[by_group], held.groups_P[by_group]
        by_query = np.argsort(asked.rows_P, kind="stable")
        self._query, wanted = asked.rows_P[by_query], asked.groups_P[by_query]
        self._starts = np.searchsorted(groups, wanted, "left")
        self._counts = np.searchsorted(groups, wanted, "right") - self._starts

    def places(self, start: int, count: int, gallery: int) -> tuple[Ints, Ints]:
        """Rows (from `start`) and columns of the right answers of some queries, each once."""
        low, high = np.searchsorted(self._query, (start, start + count))
        counts, starts = self._counts[low:high], self._starts[low:high]
        row = np.repeat(self._query[low:high] - start, counts)
        within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        codes = np.unique(row * gallery + self._gallery[np.repeat(starts, counts) + within])
        return codes // gallery, codes % gallery


def chance(counts_N: Ints, gallery: int, k: int) -> float:
    """Recall at k of a random order, in the mean over queries: 1 - C(M - p, k) / C(M, k) for p right answers.

    >>> round(chance(np.array([1, 1]), 10, 5), 3)
    0.5
    """
    missed_N = np.ones(len(counts_N))
    for i in range(min(k, gallery)):
        missed_N *= np.maximum(0.0, gallery - counts_N - i) / (gallery - i)
    return float(1 - missed_N.mean())
