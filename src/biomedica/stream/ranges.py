"""Which bytes to ask for: neighbours are joined over small gaps, up to a largest piece."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Piece:
    """One request: a range of a shard, and the samples that it brings."""

    shard: int
    start: int
    stop: int
    samples: Ints
    """Their numbers in the list that was planned for, in the order of their bytes."""


def plan(shard_N: Ints, start_N: Ints, stop_N: Ints, *, gap: int, most: int) -> list[Piece]:
    """Requests for N samples that do not overlap, in the order of (shard, offset). Every sample is in
    exactly one piece.

    start_N, stop_N   bytes [start, stop) of each sample in its shard
    gap               bytes that may be fetched in vain between two samples of a piece
    most              bytes of the largest piece, unless a single sample is larger
    """
    order_N = np.lexsort((start_N, shard_N))
    shards, starts, stops = shard_N[order_N], start_N[order_N], stop_N[order_N]
    apart = (shards[1:] != shards[:-1]) | (starts[1:] - stops[:-1] > gap)
    edges = [0, *(np.flatnonzero(apart) + 1).tolist(), len(order_N)]
    pieces = []
    for first, last in pairwise(edges):
        for a, b in _cut(starts, stops, first, last, most):
            pieces.append(Piece(int(shards[a]), int(starts[a]), int(stops[b - 1]), order_N[a:b]))
    return pieces


def _cut(starts_N: Ints, stops_N: Ints, first: int, last: int, most: int) -> list[tuple[int, int]]:
    """A stretch in parts of at most `most` bytes."""
    if first == last:
        return []
    if int(stops_N[last - 1] - starts_N[first]) <= most:
        return [(first, last)]
    parts, begin = [], first
    for i in range(first + 1, last):
        if stops_N[i] - starts_N[begin] > most:
            parts.append((begin, i))
            begin = i
    return [*parts, (begin, last)]
