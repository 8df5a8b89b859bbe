"""The pass over the archive: every image to its cluster, then sizes, members and drift.

Memory does not grow with the archive: of each cluster a histogram of distances and the candidates for
its page are kept, and of the archive one shard at a time.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedica.archive import Archive
from biomedica.cluster.kmeans import Floats
from biomedica.cluster.model import (
    ASSIGNMENT,
    MEMBERS,
    SIZES,
    Model,
    assignment_path,
    stands,
    state_of,
    write_arrays,
)
from biomedica.cluster.train import Points, Tell
from biomedica.features import FeatureSet, figures_digest, figures_path
from biomedica.shards import write_arrow, write_json

BINS = 512
MAX_DISTANCE = 2.0
"""Features have length 1: no two are farther apart."""
_FAR = 0.99
_ENOUGH = 200
"""First images of a cluster, for their 99th percentile to mean something."""


def assign(
    archive: Archive,
    features: FeatureSet,
    shards: list[str],
    model: Model,
    folder: Path,
    info: dict[str, Any],
    tell: Tell,
) -> int:
    """Write the assignment of every shard that lacks it; how many those were."""
    done, num_assigned = archive.done(), 0
    for number, shard in enumerate(shards):
        state = state_of(model, info, figures_digest(done[shard]))
        if not stands(folder, shard, state):
            _assign_shard(archive, features, shard, model, folder, state)
            num_assigned += 1
        tell("assign", number + 1, len(shards))
    for path in (folder / "assignment").glob("*.parquet"):
        if path.stem not in done:
            path.unlink()  # of a shard that is no more
    return num_assigned


def _assign_shard(
    archive: Archive,
    features: FeatureSet,
    shard: str,
    model: Model,
    folder: Path,
    state: dict[str, str],
) -> None:
    points = features.read(shard)
    noted = features.sidecar(shard)
    good = np.ones(len(points), dtype=bool)
    good[list(noted.bad) if noted else []] = False
    clusters = np.full(len(points), -1, dtype=np.int32)
    distances = np.full(len(points), np.nan, dtype=np.float32)
    if good.any():
        rows = points if good.all() else points[good]
        clusters[good], distances[good] = model.assign(model.projection.apply(rows))
    keys = pq.read_table(figures_path(archive, shard), columns=["key"])["key"]
    table = pa.table([keys, pa.array(clusters), pa.array(distances)], schema=ASSIGNMENT)
    write_arrow(assignment_path(folder, shard), table.replace_schema_metadata(state))


def read_shard(folder: Path, shard: str) -> tuple[NDArray[np.int32], Floats]:
    """Cluster and distance of every row of a shard."""
    table = pq.read_table(assignment_path(folder, shard), columns=["cluster", "distance"])
    return table["cluster"].to_numpy(), table["distance"].to_numpy()


class Histogram:
    """Distances of each cluster's images, in bins."""

    def __init__(self, num_ids: int) -> None:
        self.counts = np.zeros((num_ids, BINS), dtype=np.int64)
        self.sums = np.zeros(num_ids)

    def add(self, clusters_N: NDArray[np.int32], distances_N: Floats) -> None:
        """Take in more images."""
        num_ids = len(self.counts)
        bins = np.minimum((distances_N * (BINS / MAX_DISTANCE)).astype(np.int64), BINS - 1)
        places = clusters_N.astype(np.int64) * BINS + bins
        self.counts += np.bincount(places, minlength=num_ids * BINS).reshape(num_ids, BINS)
        self.sums += np.bincount(clusters_N, weights=distances_N, minlength=num_ids)

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.asarray(self.counts.sum(axis=1))

    def radii(self) -> Floats:
        """Upper edge of the bin that holds the 99th percentile of each cluster's distances."""
        upto = np.cumsum(self.counts, axis=1)
        places = (upto < _FAR * upto[:, -1:]).sum(axis=1)
        edges = (places + 1) * (MAX_DISTANCE / BINS) * (upto[:, -1] > 0)
        return np.asarray(edges, dtype=np.float32)

    def table(self, ids: NDArray[np.int32]) -> pa.Table:
        """`SIZES` of these clusters."""
        sizes = self.sizes
        means = (self.sums / np.maximum(sizes, 1)).astype(np.float32)
        return pa.table([ids, sizes[ids], means[ids], self.radii()[ids]], schema=SIZES)


class Candidates:
    """The images that may stand for each cluster: its nearest, its farthest, a random choice."""

    def __init__(self, wanted: int) -> None:
        self._third = wanted // 3
        self._wanted = wanted
        self._best: dict[str, NDArray[np.void]] = {}

    _KIND = np.dtype(
        [("cluster", "i4"), ("order", "f4"), ("shard", "i4"), ("row", "i4"), ("distance", "f4")]
    )

    def add(
        self,
        shard: int,
        rows_N: NDArray[np.intp],
        clusters_N: NDArray[np.int32],
        distances_N: Floats,
        chances_N: Floats,
    ) -> None:
        """Take in images. rows_N   their rows in the figures file; chances_N   random numbers in [0, 1)"""
        orders = {
            "nearest": (distances_N, self._third),
            "farthest": (-distances_N, self._third),
            "random": (chances_N, self._wanted),
        }
        for kind, (order, most) in orders.items():
            new = np.empty(len(rows_N), dtype=self._KIND)
            new["cluster"], new["order"], new["distance"] = clusters_N, order, distances_N
            new["shard"], new["row"] = shard, rows_N
            old = self._best.get(kind)
            self._best[kind] = _first_of_each(
                new if old is None else np.concatenate([old, new]), most
            )

    def table(self, keys: Any, shards: list[str]) -> pa.Table:
        """`MEMBERS`: kinds in turn, an image once. keys   gives the keys of a shard's rows"""
        taken: dict[int, dict[tuple[int, int], tuple[str, float]]] = {}
        for kind, most in (
            ("nearest", self._third),
            ("farthest", 2 * self._third),
            ("random", self._wanted),
        ):
            for each in self._best.get(kind, ()):
                of_cluster = taken.setdefault(int(each["cluster"]), {})
                if len(of_cluster) < most:
                    place = int(each["shard"]), int(each["row"])
                    of_cluster.setdefault(place, (kind, float(each["distance"])))
        wanted: dict[int, set[int]] = {}
        for places in taken.values():
            for shard, row in places:
                wanted.setdefault(shard, set()).add(row)
        names = {shard: keys(shards[shard], sorted(rows)) for shard, rows in wanted.items()}
        rows = []
        for cluster in sorted(taken):
            for position, (place, (kind, distance)) in enumerate(_mixed(taken[cluster])):
                rows.append(
                    {
                        "cluster": cluster,
                        "position": position,
                        "kind": kind,
                        "key": names[place[0]][place[1]],
                        "shard": shards[place[0]],
                        "distance": distance,
                    }
                )
        return pa.Table.from_pylist(rows, MEMBERS)


def _first_of_each(found: NDArray[np.void], most: int) -> NDArray[np.void]:
    """The first `most` of each cluster, by order, then by place."""
    order = np.lexsort((found["row"], found["shard"], found["order"], found["cluster"]))
    ordered: NDArray[np.void] = found[order]
    _, sizes = np.unique(ordered["cluster"], return_counts=True)
    starts = np.cumsum(sizes) - sizes
    ranks = np.arange(len(ordered)) - np.repeat(starts, sizes)
    return np.asarray(ordered[ranks < most])


def _mixed(
    chosen: dict[tuple[int, int], tuple[str, float]],
) -> list[tuple[tuple[int, int], tuple[str, float]]]:
    """One of each kind in turn, so that every row of the page shows all of them."""
    ranks = dict.fromkeys(("nearest", "random", "farthest"), 0)
    ordered = []
    for place, (kind, distance) in chosen.items():
        ordered.append((ranks[kind], list(ranks).index(kind), place, (kind, distance)))
        ranks[kind] += 1
    return [(place, about) for *_, place, about in sorted(ordered)]


def keys_of(archive: Archive, shard: str, rows: list[int]) -> dict[int, str]:
    """Keys of some rows of a shard."""
    keys = pq.read_table(figures_path(archive, shard), columns=["key"])["key"]
    return dict(zip(rows, keys.take(rows).to_pylist(), strict=True))


def summarise(
    archive: Archive, points: Points, model: Model, folder: Path, info: dict[str, Any]
) -> tuple[int, dict[str, Any]]:
    """Write `sizes.parquet`, `members.parquet` and `drift.json`; the number of images that count, and
    the content of the last."""
    settings = info["settings"]
    before, later = Histogram(model.num_ids), Histogram(model.num_ids)
    candidates = Candidates(settings["members"])
    for number, shard in enumerate(points.shards):
        rows = np.flatnonzero(points.rows(shard))
        all_clusters, all_distances = read_shard(folder, shard)
        clusters, distances = all_clusters[rows], all_distances[rows]
        (before if shard in info["shards"] else later).add(clusters, distances)
        rng = np.random.default_rng([settings["seed"], zlib.crc32(shard.encode())])
        chances = rng.random(len(points.rows(shard)), dtype=np.float32)[rows]
        candidates.add(number, rows, clusters, distances, chances)
    both = Histogram(model.num_ids)
    both.counts, both.sums = before.counts + later.counts, before.sums + later.sums
    ids = np.arange(model.num_ids, dtype=np.int32)
    retired = [split.parent for split in model.splits]
    write_arrow(folder / "sizes.parquet", both.table(np.delete(ids, retired)))
    members = candidates.table(
        lambda shard, rows: keys_of(archive, shard, rows), list(points.shards)
    )
    write_arrow(folder / "members.parquet", members)
    drift = drift_of(_reference(folder, before, model), later)
    write_json(folder / "drift.json", drift)
    return int(both.sizes.sum()), drift


def _reference(folder: Path, before: Histogram, model: Model) -> Histogram:
    """Distances of the images that the clustering was trained on, as they were at the first pass: some
    may be withdrawn since. Of parts of a split, those that are still there."""
    path = folder / "reference.npz"
    if not path.exists() and not model.splits:
        write_arrays(path, counts=before.counts, sums=before.sums)
    found = Histogram(model.num_ids)
    found.counts, found.sums = before.counts.copy(), before.sums.copy()
    if path.exists():
        with np.load(path) as arrays:
            number = len(arrays["counts"])
            found.counts[:number], found.sums[:number] = arrays["counts"], arrays["sums"]
    for split in model.splits:
        found.counts[split.parent], found.sums[split.parent] = 0, 0
    return found


def drift_of(before: Histogram, later: Histogram) -> dict[str, Any]:
    """How images that came after the training fit the clusters.

    far_share    of them, lie beyond the 99th percentile of the distances of their cluster's first
                 images (0.01 when nothing changed), over clusters that had at least 200: with fewer, the
                 percentile of images that the cluster was fitted to is too small. None without such
    num_compared images that it is over
    divergence   Jensen-Shannon, in bits, of the shares of the clusters: 0 the same, 1 disjoint
    """
    num_before, num_later = int(before.sizes.sum()), int(later.sizes.sum())
    found: dict[str, Any] = {"num_before": num_before, "num_later": num_later}
    if not num_later or not num_before:
        return found
    edges = np.round(before.radii() * (BINS / MAX_DISTANCE)).astype(np.int64)
    known = later.counts * (before.sizes >= _ENOUGH)[:, None]
    beyond = known * (np.arange(BINS) >= edges[:, None])
    shares_before, shares_later = before.sizes / num_before, later.sizes / num_later
    grown = np.argsort(-(shares_later - shares_before), kind="stable")[:10]
    return found | {
        "mean_distance_before": float(before.sums.sum() / num_before),
        "mean_distance_later": float(later.sums.sum() / num_later),
        "num_compared": int(known.sum()),
        "far_share": float(beyond.sum() / known.sum()) if known.any() else None,
        "divergence": _divergence(shares_before, shares_later),
        "grown": [
            {
                "cluster": int(each),
                "share_before": float(shares_before[each]),
                "share_later": float(shares_later[each]),
            }
            for each in grown
            if shares_later[each] > shares_before[each]
        ],
    }


def _divergence(left_K: NDArray[np.float64], right_K: NDArray[np.float64]) -> float:
    middle = (left_K + right_K) / 2

    def from_middle(shares_K: NDArray[np.float64]) -> float:
        there = shares_K > 0
        return float(np.sum(shares_K[there] * np.log2(shares_K[there] / middle[there])))

    return (from_middle(left_K) + from_middle(right_K)) / 2
