"""Train a clustering: moments over every image, k-means over a sample, full passes where asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from biomedica.archive import Archive
from biomedica.cluster import kmeans
from biomedica.cluster.kmeans import Floats, Moments, Projection
from biomedica.cluster.model import ClusterSettings, folder_of, save_model
from biomedica.errors import ArchiveError, ConfigError
from biomedica.features import FeatureSet, figures_digests, live_rows, withdrawn_keys
from biomedica.shards import write_json

Tell = Callable[[str, int, int], None]


class Points:
    """The features that count, shard by shard: not withdrawn, and of pictures that decode."""

    def __init__(self, archive: Archive, features: FeatureSet, shards: list[str]) -> None:
        self._archive = archive
        self._features = features
        self._withdrawn = withdrawn_keys(archive)
        self.shards = shards

    def rows(self, shard: str) -> NDArray[np.bool_]:
        """(N,): which rows of the figures file count."""
        noted = self._features.sidecar(shard)
        keeps = live_rows(self._archive, shard, self._withdrawn)
        if noted is None or len(keeps) != noted.rows:
            raise ArchiveError(f"features of {shard} do not fit its table; run `biomedica embed`")
        keeps[list(noted.bad)] = False
        return keeps

    def read(self, shard: str) -> NDArray[np.float16]:
        """(N', D)"""
        points, keeps = self._features.read(shard), self.rows(shard)
        return points if keeps.all() else points[keeps]


def train(
    archive: Archive,
    features: FeatureSet,
    shards: list[str],
    settings: ClusterSettings,
    name: str,
    tell: Tell,
) -> None:
    """Write a new clustering: the model, and `cluster.json` last."""
    folder = folder_of(archive, name)
    points = Points(archive, features, shards)
    projection, counts = _projection(points, features.dims, settings, tell)
    sample = _sample(points, counts, projection, settings)
    trained = kmeans.train(sample, settings.clusters, settings.iterations, settings.seed)
    tell("k-means", trained.iterations, trained.iterations)
    centroids = trained.centroids_KP
    for number in range(settings.full_passes):
        centroids = _full_pass(points, projection, centroids, f"full pass {number + 1}", tell)
    info = {
        "model": save_model(folder, projection, centroids),
        "features": features.name,
        "encoder": features.digest,
        "settings": asdict(settings),
        "num_clusters": len(centroids),
        "components": len(projection.components_PD),
        "explained": projection.explained,
        "num_trained_on": len(sample),
        "inertia": trained.inertia,
        "iterations": trained.iterations,
        "shards": figures_digests(archive),
    }
    write_json(folder / "cluster.json", info)


def _projection(
    points: Points, dims: int, settings: ClusterSettings, tell: Tell
) -> tuple[Projection, list[int]]:
    """The components, and the number of rows of each shard."""
    moments, counts = Moments.empty(dims), []
    for number, shard in enumerate(points.shards):
        rows = points.read(shard)
        moments.add(rows)
        counts.append(len(rows))
        tell("moments", number + 1, len(points.shards))
    if sum(counts) < settings.clusters:
        if sum(counts) < 20:
            raise ConfigError(f"{sum(counts)} images with features; there is nothing to group")
        raise ConfigError(
            f"{sum(counts):,} images for {settings.clusters:,} clusters: set cluster.clusters lower "
            f"(--clusters {max(1, sum(counts) // 20)} gives some twenty images to each)"
        )
    return kmeans.principal_components(moments, settings.components), counts


def _sample(
    points: Points, counts: list[int], projection: Projection, settings: ClusterSettings
) -> Floats:
    """Projected rows for k-means: a seeded choice among all rows that count, in their order."""
    total = sum(counts)
    wanted = min(total, settings.clusters * settings.points_per_centroid)
    rng = np.random.default_rng(settings.seed)
    chosen = np.sort(rng.choice(total, size=wanted, replace=False))
    dims = len(projection.components_PD) or len(projection.mean_D)
    sample = np.empty((wanted, dims), dtype=np.float32)
    first, filled = 0, 0
    for shard, count in zip(points.shards, counts, strict=True):
        low, high = np.searchsorted(chosen, [first, first + count])
        if high > low:
            rows = points.read(shard)[chosen[low:high] - first]
            sample[filled : filled + len(rows)] = projection.apply(rows)
            filled += len(rows)
        first += count
    return sample


def _full_pass(
    points: Points, projection: Projection, centroids_KP: Floats, stage: str, tell: Tell
) -> Floats:
    """One round of k-means over every row: sums and counts of the shards add up."""
    sums = np.zeros(centroids_KP.shape)
    sizes = np.zeros(len(centroids_KP), dtype=np.int64)
    for done, shard in enumerate(points.shards):
        rows = projection.apply(points.read(shard))
        labels, _ = kmeans.nearest(rows, centroids_KP)
        part_sums, part_sizes = kmeans.sums_by_label(rows, labels, len(centroids_KP))
        sums += part_sums
        sizes += part_sizes
        tell(stage, done + 1, len(points.shards))
    return kmeans.updated(centroids_KP, sums, sizes)
