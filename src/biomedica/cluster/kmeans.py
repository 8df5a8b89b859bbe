"""PCA by streaming moments, k-means, nearest centroid: arrays in, arrays out.

Moments are exact and can be merged, so they are summed over shards in any grouping (Chan, Golub and
LeVeque 1979). K-means is Lloyd's, over a sample that is held in memory; assignment is a matrix product
in blocks that stay in the processor's cache.

Shapes: N points, D dimensions of a feature, P principal components, K centroids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biomedica.errors import ConfigError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
_BLOCK = 4096
"""Rows of the moments' matrix products."""
_SCORES = 1 << 22
"""Scores (points times centroids) that are worked on at a time: 16 MB."""
_PLUS_PLUS_WORK = 5 * 10**9
"""Multiplications that choosing the first centroids by k-means++ may take; above it, random rows."""


@dataclass(slots=True)
class Moments:
    """Count, mean and centred sum of products of the rows seen so far, in float64."""

    count: int
    mean_D: Doubles
    products_DD: Doubles

    @classmethod
    def empty(cls, dims: int) -> Moments:
        return cls(0, np.zeros(dims), np.zeros((dims, dims)))

    def add(self, points_ND: NDArray[np.floating]) -> None:
        """Take in more rows."""
        for start in range(0, len(points_ND), _BLOCK):
            block = np.asarray(points_ND[start : start + _BLOCK], dtype=np.float32)
            mean = block.mean(axis=0, dtype=np.float64)
            centred = block - mean.astype(np.float32)
            rest = centred.mean(axis=0, dtype=np.float64)
            products = (centred.T @ centred).astype(np.float64)
            products -= len(block) * np.outer(rest, rest)
            self.merge(Moments(len(block), mean, products))

    def merge(self, other: Moments) -> None:
        """Take in what other moments saw."""
        if not other.count:
            return
        total = self.count + other.count
        apart = other.mean_D - self.mean_D
        self.products_DD += other.products_DD
        self.products_DD += np.outer(apart, apart) * (self.count * other.count / total)
        self.mean_D = self.mean_D + apart * (other.count / total)
        self.count = total


@dataclass(frozen=True, slots=True)
class Projection:
    """Principal components: `(x - mean) @ components.T`."""

    mean_D: Floats
    components_PD: Floats
    """Rows of length 1, the largest variance first; none: points stay as they are."""
    variances_D: Doubles
    """Of all D directions, the largest first (those of no component too)."""

    @property
    def explained(self) -> float:
        """Share of the variance that the components keep."""
        if not len(self.components_PD) or not self.variances_D.any():
            return 1.0
        return float(self.variances_D[: len(self.components_PD)].sum() / self.variances_D.sum())

    def apply(self, points_ND: NDArray[np.floating]) -> Floats:
        """(N, P), or (N, D) where there are no components."""
        points = np.asarray(points_ND, dtype=np.float32)
        if not len(self.components_PD):
            return points
        return np.asarray((points - self.mean_D) @ self.components_PD.T, dtype=np.float32)


def principal_components(moments: Moments, components: float) -> Projection:
    """The projection onto the directions of the largest variance.

    components   1 or more: their number; between 0 and 1: as many as explain that share of the
                 variance; 0: none, points stay as they are

    Raises `ConfigError` for fewer than two rows or more components than dimensions.
    """
    dims = len(moments.mean_D)
    if moments.count < 2:
        raise ConfigError(f"{moments.count} pictures; principal components need two or more")
    variances, vectors = np.linalg.eigh(moments.products_DD / (moments.count - 1))
    variances = np.maximum(variances[::-1], 0.0)
    vectors_DD = vectors[:, ::-1].T
    if components >= 1:
        number = int(components)
    elif components > 0:
        shares = np.cumsum(variances) / (variances.sum() or 1.0)
        number = min(int(np.searchsorted(shares, components - 1e-12)) + 1, dims)
    else:
        number = 0
    if number > dims:
        raise ConfigError(f"{number} components of {dims} dimensions; ask for {dims} at the most")
    chosen = vectors_DD[:number]
    strongest = np.take_along_axis(chosen, np.abs(chosen).argmax(axis=1)[:, None], axis=1)
    chosen = chosen * np.sign(strongest)  # a direction has no sign of its own; take this one
    return Projection(
        moments.mean_D.astype(np.float32), chosen.astype(np.float32), variances.copy()
    )


def nearest(points_NP: Floats, centroids_KP: Floats) -> tuple[NDArray[np.int32], Floats]:
    """Index of the nearest centroid of each point, and the Euclidean distance to it.

    returns   (N,) in [0, K), and (N,)
    """
    count, dims = points_NP.shape
    block = max(1, min(count, _SCORES // len(centroids_KP)))
    half_K = 0.5 * np.einsum("kp,kp->k", centroids_KP, centroids_KP)
    weights_QK = np.ascontiguousarray(np.vstack([centroids_KP.T, -half_K]), dtype=np.float32)
    rows_BQ = np.ones((block, dims + 1), dtype=np.float32)  # the last column takes half_K off
    scores_BK = np.empty((block, len(centroids_KP)), dtype=np.float32)
    labels = np.empty(count, dtype=np.int32)
    best = np.empty(count, dtype=np.float32)
    for start in range(0, count, block):
        number = min(block, count - start)
        rows_BQ[:number, :dims] = points_NP[start : start + number]
        scores = np.matmul(rows_BQ[:number], weights_QK, out=scores_BK[:number])
        found = scores.argmax(axis=1)
        labels[start : start + number] = found
        best[start : start + number] = scores[np.arange(number), found]
    squares = np.einsum("np,np->n", points_NP, points_NP) - 2 * best
    return labels, np.sqrt(np.maximum(squares, 0.0))


def sums_by_label(
    points_NP: Floats, labels_N: NDArray[np.int32], num_centroids: int
) -> tuple[Doubles, NDArray[np.int64]]:
    """Sum and number of each label's points: (K, P) and (K,). Sums of parts add up."""
    from scipy.sparse import csr_array

    count = len(points_NP)
    ones = np.ones(count, dtype=np.float32)
    members_KN = csr_array((ones, (labels_N, np.arange(count))), (num_centroids, count))
    sums = np.asarray(members_KN @ points_NP, dtype=np.float64)
    return sums, np.bincount(labels_N, minlength=num_centroids)


@dataclass(frozen=True, slots=True)
class Trained:
    """Centroids of k-means over a sample."""

    centroids_KP: Floats
    inertia: float
    """Mean squared distance of the sample's points to their centroid, before the last update."""
    iterations: int


def train(points_NP: Floats, num_centroids: int, iterations: int, seed: int) -> Trained:
    """Lloyd's k-means. Ends early when no point changes its centroid.

    First centroids are chosen by k-means++ (Arthur and Vassilvitskii 2007) where that is cheap beside the
    iterations, else they are random rows. A centroid that loses all its points is put beside that of
    the largest cluster. Raises `ConfigError` for fewer points than centroids.
    """
    if len(points_NP) < num_centroids:
        raise ConfigError(
            f"{len(points_NP)} pictures for {num_centroids} clusters; ask for fewer clusters"
        )
    rng = np.random.default_rng(seed)
    centroids = _first_centroids(points_NP, num_centroids, rng)
    before = np.full(len(points_NP), -1, dtype=np.int32)
    inertia, rounds = 0.0, 0
    for _ in range(iterations):
        rounds += 1
        labels, distances = nearest(points_NP, centroids)
        inertia = float(np.mean(np.square(distances), dtype=np.float64))
        if np.array_equal(labels, before):
            break
        before = labels
        centroids = updated(centroids, *sums_by_label(points_NP, labels, num_centroids))
    return Trained(centroids, inertia, rounds)


def _first_centroids(points_NP: Floats, num_centroids: int, rng: np.random.Generator) -> Floats:
    count, dims = points_NP.shape
    tries = max(num_centroids, min(count, 20 * num_centroids))
    rows = np.sort(rng.choice(count, size=tries, replace=False))
    if num_centroids * tries * dims > _PLUS_PLUS_WORK:
        chosen_rows = np.sort(rng.choice(rows, size=num_centroids, replace=False))
        return np.array(points_NP[chosen_rows], dtype=np.float32)
    points = points_NP[rows]
    chosen = [int(rng.integers(tries))]
    left = np.full(tries, np.inf)
    for _ in range(1, num_centroids):
        apart = points - points[chosen[-1]]
        left = np.minimum(left, np.einsum("np,np->n", apart, apart))
        total = left.sum()
        if total <= 0:  # fewer different points than centroids
            chosen.append(int(rng.integers(tries)))
            continue
        place = np.searchsorted(np.cumsum(left), rng.random() * total)
        chosen.append(min(int(place), tries - 1))
    return np.array(points[chosen], dtype=np.float32)


def updated(centroids_KP: Floats, sums_KP: Doubles, counts_K: NDArray[np.int64]) -> Floats:
    """The means of the clusters; of an empty one, a place beside the largest cluster's."""
    new = np.asarray(sums_KP / np.maximum(counts_K, 1)[:, None], dtype=np.float32)
    room = counts_K.copy()
    for empty in np.flatnonzero(counts_K == 0):
        largest = int(room.argmax())
        if room[largest] < 2:
            new[empty] = centroids_KP[empty]
            continue
        shift = np.where(np.arange(new.shape[1]) % 2, 1 - 1 / 1024, 1 + 1 / 1024)
        new[empty] = new[largest] * shift.astype(np.float32)
        new[largest] = new[largest] * (2 - shift).astype(np.float32)
        room[empty] = room[largest] // 2
        room[largest] -= room[empty]
    return new
