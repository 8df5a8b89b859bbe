"""Groups of images that look alike: PCA and k-means over a feature set, saved, applied to every image.

    clusters/<name>/cluster.json               of which features, with which settings, trained on what
    clusters/<name>/pca.npz centroids.npy      the model; it never changes, so that later images join
    clusters/<name>/assignment/<shard>.parquet the cluster of every row of the shard's figures file
    clusters/<name>/sizes.parquet members.parquet   what the label page shows
    clusters/<name>/splits/<parent>/           a cluster that experts had cut into parts
    clusters/<name>/drift.json                 how images that came later fit

Over-clustering as in BIOMEDICA (CVPR 2025): 25 components, 2,000 clusters.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from biomedica.archive import Archive
from biomedica.cluster.assign import assign, summarise
from biomedica.cluster.model import (
    ClusterInfo,
    ClusterSettings,
    Member,
    folder_of,
    load_model,
    model_digest,
    names,
    read_assignment,
    read_centroids,
    read_clusters,
    read_info,
    read_members,
)
from biomedica.cluster.split import split_cluster
from biomedica.cluster.train import Points, Tell, train
from biomedica.errors import ConfigError
from biomedica.features import FeatureSet

__all__ = [
    "ClusterInfo",
    "ClusterSettings",
    "Clustered",
    "Member",
    "cluster",
    "model_digest",
    "names",
    "read_assignment",
    "read_centroids",
    "read_clusters",
    "read_info",
    "read_members",
    "settings_for",
    "split_cluster",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clustered:
    """What a call of `cluster` came to."""

    name: str
    features: str
    num_clusters: int
    components: int
    explained: float
    """Share of the variance that the components keep."""
    num_trained_on: int
    inertia: float
    """Mean squared distance in the training sample."""
    trained: bool
    """By this call; else the model stood and images were assigned to it."""
    num_images: int
    num_assigned: int
    """Shards assigned by this call."""
    num_shards: int
    drift: dict[str, Any]


def _silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


def cluster(
    archive: Archive,
    features: FeatureSet,
    settings: ClusterSettings,
    name: str = "default",
    tell: Tell = _silent,
) -> Clustered:
    """Train a clustering, or take the one that stands, and assign every image to its cluster.

    tell   gets (stage, done, total)

    Raises `ConfigError` where a clustering of that name was made of other features or settings, or
    there are fewer images than clusters.
    """
    folder = folder_of(archive, name)
    shards = features.shards()
    if not shards:
        raise ConfigError(f"{archive.root} holds no finished shards; nothing to cluster")
    is_new = not (folder / "cluster.json").exists()
    if is_new:
        train(archive, features, shards, settings, name, tell)
    info = read_info(archive, name)
    _check_same(info, features, settings, folder)
    model = load_model(archive, name)
    num_assigned = assign(archive, features, shards, model, folder, info, tell)
    points = Points(archive, features, shards)
    num_images, drift = summarise(archive, points, model, folder, info)
    return Clustered(
        name=name,
        features=features.name,
        num_clusters=info["num_clusters"],
        components=info["components"],
        explained=info["explained"],
        num_trained_on=info["num_trained_on"],
        inertia=info["inertia"],
        trained=is_new,
        num_images=num_images,
        num_assigned=num_assigned,
        num_shards=len(shards),
        drift=drift,
    )


def settings_for(
    archive: Archive, name: str, settings: ClusterSettings, clusters: int | None
) -> ClusterSettings:
    """The settings of a clustering that stands where none are given (others are refused later); for a new
    one those given. clusters   their number, if it is asked for by name"""
    if name in names(archive) and settings == ClusterSettings():
        settings = ClusterSettings(**read_info(archive, name)["settings"])
    return settings if clusters is None else replace(settings, clusters=clusters)


def _check_same(
    info: dict[str, Any], features: FeatureSet, settings: ClusterSettings, folder: Path
) -> None:
    asked = {"features": features.name, "encoder": features.digest, "settings": asdict(settings)}
    for what, value in asked.items():
        if info[what] != value:
            raise ConfigError(
                f"{folder} was made with other {what}: {info[what]}, not {value}. Give a new --name, or "
                "the settings of then"
            )
