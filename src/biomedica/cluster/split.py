"""Cut a cluster that experts find mixed into parts, without touching the others."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from biomedica.archive import Archive
from biomedica.cluster import kmeans
from biomedica.cluster.assign import Candidates, Histogram, keys_of, read_shard
from biomedica.cluster.kmeans import Floats
from biomedica.cluster.model import (
    Model,
    folder_of,
    load_model,
    read_info,
    stands,
    state_of,
    write_arrays,
)
from biomedica.cluster.train import Points
from biomedica.errors import ArchiveError, ConfigError
from biomedica.features import FeatureSet, figures_digest
from biomedica.shards import disk_message, write_arrow, write_json

_ITERATIONS = 50
_SAMPLE = 200_000
"""Images that the parts are made from, at the most; the others join them."""


def split_cluster(archive: Archive, name: str, cluster: int, parts: int = 2) -> tuple[int, ...]:
    """Split a cluster by k-means over its images; the ids of the parts.

    Asked for again, it gives the parts that there are. The images get their new clusters in the label
    page at once, in the assignment with the next `biomedica cluster`. Reads the assignment of every
    shard, and the features of the shards that hold images of it. Raises `ConfigError` where the
    cluster is not there or has too few different images.
    """
    if parts < 2:
        raise ConfigError(f"{parts} parts; at least 2 are expected")
    folder = folder_of(archive, name)
    info = read_info(archive, name)
    with _lock(folder):
        model = load_model(archive, name)
        for split in model.splits:
            if split.parent == cluster:
                return split.children
        if not 0 <= cluster < model.num_ids:
            raise ConfigError(f"clustering {name!r} has no cluster {cluster}")
        members = _members(
            archive, FeatureSet.open(archive, info["features"]), model, cluster, name
        )
        labels, centroids = _parts(members.points_NP, cluster, parts)
        children = tuple(range(model.num_ids, model.num_ids + parts))
        found = _Parts(cluster, children, centroids, labels)
        _write(archive, folder, found, members, info["settings"]["members"])
    return children


@dataclass(frozen=True, slots=True)
class _Found:
    """The images of a cluster."""

    points_NP: Floats
    shard_N: NDArray[np.int32]
    """Index into `shards`."""
    row_N: NDArray[np.intp]
    shards: list[str]


@dataclass(frozen=True, slots=True)
class _Parts:
    parent: int
    children: tuple[int, ...]
    centroids_KP: Floats
    labels_N: NDArray[np.int32]


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One split at a time, whichever process asks."""
    handle = os.open(folder / ".split.lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _members(
    archive: Archive, features: FeatureSet, model: Model, cluster: int, name: str
) -> _Found:
    """Images of a cluster by the newest splits, whatever splits the assignment knows."""
    folder = folder_of(archive, name)
    parents = {child: split.parent for split in model.splits for child in split.children}
    family = [cluster]
    while family[-1] in parents:
        family.append(parents[family[-1]])
    points = Points(archive, features, _assigned_shards(archive, features, model, folder, name))
    found, shard_numbers, row_numbers = [], [], []
    for number, shard in enumerate(points.shards):
        clusters, distances = read_shard(folder, shard)
        rows = np.flatnonzero(np.isin(clusters, family) & points.rows(shard))
        if not len(rows):
            continue
        projected = model.projection.apply(features.read(shard)[rows])
        now, _ = model.descend(projected, clusters[rows], distances[rows])
        found.append(projected[now == cluster])
        row_numbers.append(rows[now == cluster])
        shard_numbers.append(np.full(len(row_numbers[-1]), number, dtype=np.int32))
    if not found:
        raise ConfigError(f"cluster {cluster} holds no images; there is nothing to split")
    return _Found(
        np.concatenate(found),
        np.concatenate(shard_numbers),
        np.concatenate(row_numbers),
        points.shards,
    )


def _assigned_shards(
    archive: Archive, features: FeatureSet, model: Model, folder: Path, name: str
) -> list[str]:
    """Shards whose features and assignment fit their figures file of now; the splits that the assignment
    knows do not matter."""
    info, done = read_info(archive, name), archive.done()
    found = []
    for shard, fits in features.states().items():
        state = state_of(model, info, figures_digest(done[shard]))
        del state["splits"]
        if fits and stands(folder, shard, state):
            found.append(shard)
    return found


def _parts(points_NP: Floats, cluster: int, parts: int) -> tuple[NDArray[np.int32], Floats]:
    """Labels and centroids; the seed is the cluster's number."""
    different = len(np.unique(points_NP, axis=0))
    if different < parts:
        raise ConfigError(
            f"cluster {cluster} holds {different} different images; {parts} parts cannot be made of it"
        )
    rng = np.random.default_rng(cluster)
    count = len(points_NP)
    rows = np.sort(rng.choice(count, size=min(count, _SAMPLE), replace=False))
    centroids = kmeans.train(points_NP[rows], parts, _ITERATIONS, cluster).centroids_KP
    labels = kmeans.nearest(points_NP, centroids)[0]
    if len(np.unique(labels)) < parts:
        raise ConfigError(
            f"cluster {cluster} does not fall into {parts} parts: its images are too much alike"
        )
    return labels, centroids


def _write(
    archive: Archive, folder: Path, parts: _Parts, members: _Found, num_members: int
) -> None:
    """`splits/<parent>/`, whole or not at all."""
    ids = np.array(parts.children, dtype=np.int32)
    clusters = ids[parts.labels_N]
    apart = members.points_NP - parts.centroids_KP[parts.labels_N]
    distances = np.sqrt(np.einsum("np,np->n", apart, apart))
    histogram = Histogram(int(ids[-1]) + 1)
    histogram.add(clusters, distances)
    candidates = Candidates(num_members)
    chances = np.random.default_rng(parts.parent).random(len(clusters), dtype=np.float32)
    for number in np.unique(members.shard_N):
        here = members.shard_N == number
        candidates.add(
            int(number), members.row_N[here], clusters[here], distances[here], chances[here]
        )
    target = folder / "splits" / str(parts.parent)
    own = target.with_name(f".{target.name}.tmp")
    try:
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        write_arrays(own / "centroids.npy", values=parts.centroids_KP)
        write_arrow(own / "sizes.parquet", histogram.table(ids))
        members_table = candidates.table(
            lambda shard, rows: keys_of(archive, shard, rows), members.shards
        )
        write_arrow(own / "members.parquet", members_table)
        write_json(own / "split.json", {"parent": parts.parent, "children": list(parts.children)})
        own.replace(target)
    except OSError as error:
        shutil.rmtree(own, ignore_errors=True)
        raise ArchiveError(disk_message(folder, error)) from error
