"""A clustering as it stands on disk: settings, projection, centroids, splits, what was assigned."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedica.archive import Archive, check_name
from biomedica.cluster.kmeans import Floats, Projection, nearest
from biomedica.errors import ArchiveError, ConfigError
from biomedica.features import figures_digest
from biomedica.shards import write_file

ASSIGNMENT = pa.schema(
    [
        pa.field("key", pa.string(), False, {"about": "sample"}),
        pa.field(
            "cluster",
            pa.int32(),
            False,
            {"about": "its cluster; -1 for a picture without features"},
        ),
        pa.field(
            "distance", pa.float32(), False, {"about": "to the centroid, in the components' space"}
        ),
    ]
)
SIZES = pa.schema(
    [
        pa.field("cluster", pa.int32(), False, {"about": "id; never used again for another one"}),
        pa.field("size", pa.int64(), False, {"about": "images, withdrawn ones left out"}),
        pa.field("mean_distance", pa.float32(), False, {"about": "of its images to the centroid"}),
        pa.field(
            "radius", pa.float32(), False, {"about": "99th percentile of the distances, to 1/256"}
        ),
    ]
)
MEMBERS = pa.schema(
    [
        pa.field("cluster", pa.int32(), False, {"about": "id"}),
        pa.field("position", pa.int32(), False, {"about": "place on the label page, from 0"}),
        pa.field("kind", pa.string(), False, {"about": "`nearest`, `random` or `farthest`"}),
        pa.field("key", pa.string(), False, {"about": "sample"}),
        pa.field("shard", pa.string(), False, {"about": "its shard"}),
        pa.field("distance", pa.float32(), False, {"about": "to the centroid"}),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """How images are grouped."""

    components: float = 25
    """Principal components: their number, or (below 1) the share of variance to explain; 0: none."""
    clusters: int = 2000
    """Number of clusters. More than there are kinds of image: experts name clusters, not images."""
    points_per_centroid: int = 256
    """The training sample holds so many images for each cluster at the most."""
    iterations: int = 20
    """Rounds of k-means over the sample, at the most."""
    full_passes: int = 0
    """Further rounds over every image of the archive."""
    seed: int = 0
    """Of the sample, the first centroids and the images on the label page."""
    members: int = 30
    """Images of a cluster on the label page: a third nearest, a third random, a third farthest."""

    def __post_init__(self) -> None:
        if self.clusters < 1 or self.points_per_centroid < 1 or self.iterations < 1:
            raise ConfigError(
                "cluster.clusters, .points_per_centroid and .iterations must be at least 1"
            )
        if self.components < 0 or (self.components > 1 and self.components % 1):
            raise ConfigError(
                f"cluster.components is {self.components}; a whole number, or a share below 1"
            )
        if self.members < 3 or self.full_passes < 0:
            raise ConfigError(
                "cluster.members must be at least 3 and cluster.full_passes at least 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterInfo:
    """A group of images."""

    id: int
    size: int
    """Images."""
    mean_distance: float
    radius: float
    """99th percentile of the distances to the centroid."""
    parent: int | None
    """The cluster that it is a part of."""
    children: tuple[int, ...]
    """Its parts, when it was split: then it is retired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """An image that stands for its cluster on the label page."""

    key: str
    shard: str
    kind: str
    """`nearest`, `random` or `farthest`."""
    position: int
    distance: float


@dataclass(frozen=True, slots=True)
class Split:
    """A cluster that was cut into parts."""

    parent: int
    children: tuple[int, ...]
    centroids_KP: Floats
    """Of the children, in their order."""


@dataclass(frozen=True, slots=True)
class Model:
    """What assigns an image to a cluster."""

    projection: Projection
    centroids_KP: Floats
    splits: tuple[Split, ...]
    """In the order in which they were made."""
    digest: str
    """Of projection and centroids."""

    @property
    def splits_digest(self) -> str:
        """Changes with every split."""
        said = json.dumps([[split.parent, split.children] for split in self.splits])
        return hashlib.sha256(said.encode()).hexdigest()

    @property
    def num_ids(self) -> int:
        """Clusters, with parents and children of splits."""
        return len(self.centroids_KP) + sum(len(split.children) for split in self.splits)

    def all_centroids(self) -> Floats:
        """(num_ids, P): row i is the centroid of cluster i."""
        found = np.zeros((self.num_ids, self.centroids_KP.shape[1]), dtype=np.float32)
        found[: len(self.centroids_KP)] = self.centroids_KP
        for split in self.splits:
            found[list(split.children)] = split.centroids_KP
        return found

    def assign(self, points_NP: Floats) -> tuple[NDArray[np.int32], Floats]:
        """Cluster of each projected point, and the distance to its centroid. (N,) and (N,)"""
        labels, distances = nearest(points_NP, self.centroids_KP)
        return self.descend(points_NP, labels, distances)

    def descend(
        self, points_NP: Floats, labels_N: NDArray[np.int32], distances_N: Floats
    ) -> tuple[NDArray[np.int32], Floats]:
        """Move points of clusters that were split to the nearest of the parts."""
        labels, distances = labels_N.copy(), distances_N.copy()
        for split in self.splits:
            rows = np.flatnonzero(labels == split.parent)
            if len(rows):
                part, apart = nearest(points_NP[rows], split.centroids_KP)
                labels[rows] = np.array(split.children, dtype=np.int32)[part]
                distances[rows] = apart
        return labels, distances


def folder_of(archive: Archive, name: str) -> Path:
    return archive.root / "clusters" / check_name("a clustering", name)


def names(archive: Archive) -> list[str]:
    """Clusterings of an archive."""
    return sorted(path.parent.name for path in (archive.root / "clusters").glob("*/cluster.json"))


def read_info(archive: Archive, name: str) -> dict[str, Any]:
    """Content of `cluster.json`. Raises `ConfigError` where there is no such clustering."""
    path = folder_of(archive, name) / "cluster.json"
    try:
        return dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        known = ", ".join(names(archive)) or "none"
        raise ConfigError(
            f"{archive.root} has no clustering {name!r} (there are: {known}); `biomedica cluster` "
            "makes one"
        ) from None
    except ValueError as error:
        raise ArchiveError(f"{path} is damaged: {error}") from None


def model_digest(archive: Archive, name: str) -> str:
    """SHA-256 of the projection and the centroids, in hex; splits are not in it."""
    return str(read_info(archive, name)["model"])


def save_model(folder: Path, projection: Projection, centroids_KP: Floats) -> str:
    """Write `pca.npz` and `centroids.npy`; the digest of both."""
    arrays: dict[str, NDArray[Any]] = {
        "mean": projection.mean_D,
        "components": projection.components_PD,
        "variances": projection.variances_D,
    }
    write_arrays(folder / "pca.npz", **arrays)
    write_arrays(folder / "centroids.npy", values=centroids_KP)
    return _digest(projection, centroids_KP)


def write_arrays(path: Path, **values: NDArray[Any]) -> None:
    """Write arrays by name to a `.npz` file, or the only one to a `.npy` file; whole or not at all."""
    data = io.BytesIO()
    if path.suffix == ".npz":
        np.savez(data, **values)  # type: ignore[arg-type]
    else:
        (only,) = values.values()
        np.save(data, only)
    write_file(path, data.getvalue())


def _digest(projection: Projection, centroids_KP: Floats) -> str:
    digest = hashlib.sha256()
    for values in (projection.mean_D, projection.components_PD, centroids_KP):
        digest.update(str(values.shape).encode() + np.ascontiguousarray(values).data)
    return digest.hexdigest()


def load_model(archive: Archive, name: str) -> Model:
    """Raises `ArchiveError` where the files are not those that `cluster.json` was written for."""
    folder = folder_of(archive, name)
    info = read_info(archive, name)
    try:
        with np.load(folder / "pca.npz") as arrays:
            projection = Projection(arrays["mean"], arrays["components"], arrays["variances"])
        centroids = np.load(folder / "centroids.npy")
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ArchiveError(f"the model in {folder} cannot be read: {error}") from None
    digest = _digest(projection, centroids)
    if digest != info["model"]:
        raise ArchiveError(
            f"the model in {folder} is not the one that {folder / 'cluster.json'} was written for"
        )
    return Model(projection, centroids, tuple(_splits(folder)), digest)


def _splits(folder: Path) -> list[Split]:
    found = []
    for path in folder.glob("splits/*/split.json"):
        content = json.loads(path.read_bytes())
        centroids = np.load(path.parent / "centroids.npy")
        found.append(Split(content["parent"], tuple(content["children"]), centroids))
    return sorted(found, key=lambda split: split.children)


def read_clusters(archive: Archive, name: str) -> list[ClusterInfo]:
    """All clusters by id, split ones too. Sizes are those of the last pass over the archive, for parts
    of a later split those of the split."""
    folder = folder_of(archive, name)
    model = load_model(archive, name)
    parents = {child: split.parent for split in model.splits for child in split.children}
    children = {split.parent: split.children for split in model.splits}
    rows: dict[int, dict[str, Any]] = {}
    for split in model.splits:
        path = folder / "splits" / str(split.parent) / "sizes.parquet"
        rows |= {row["cluster"]: row for row in pq.read_table(path).to_pylist()}
    newest = _table(folder / "sizes.parquet").to_pylist()
    rows |= {row["cluster"]: row for row in newest}
    empty = {"size": 0, "mean_distance": 0.0, "radius": 0.0}
    return [
        ClusterInfo(
            id=number,
            parent=parents.get(number),
            children=children.get(number, ()),
            **{what: rows.get(number, empty)[what] for what in empty},
        )
        for number in range(model.num_ids)
    ]


def read_members(archive: Archive, name: str, cluster: int) -> list[Member]:
    """The images that stand for a cluster, in the order of the label page."""
    wanted = [("cluster", "=", cluster)]
    return _members(archive, name, wanted).get(cluster, [])


def read_all_members(archive: Archive, name: str) -> dict[int, list[Member]]:
    """The images that stand for each cluster that holds any, by its id."""
    return _members(archive, name, None)


def _members(
    archive: Archive, name: str, filters: list[tuple[str, str, int]] | None
) -> dict[int, list[Member]]:
    folder = folder_of(archive, name)
    retired = {split.parent for split in _splits(folder)}
    newest = set(_table(folder / "sizes.parquet", columns=["cluster"])["cluster"].to_pylist())
    found: dict[int, list[Member]] = {}
    # parts of a split stand in its own table until the next pass over the archive
    for path in [*sorted(folder.glob("splits/*/members.parquet")), folder / "members.parquet"]:
        fresh: dict[int, list[Member]] = {}
        for row in _table(path, filters=filters).sort_by("position").to_pylist():
            cluster = row.pop("cluster")
            is_old = path.parent != folder and cluster in newest
            if cluster not in retired and not is_old:
                fresh.setdefault(cluster, []).append(Member(**row))
        found |= fresh
    return dict(sorted(found.items()))


def _table(path: Path, **options: Any) -> pa.Table:
    try:
        return pq.read_table(path, **options)
    except FileNotFoundError:
        raise ArchiveError(
            f"{path} is missing: the pass over the archive was stopped; run `biomedica cluster` again"
        ) from None


def read_centroids(archive: Archive, name: str) -> tuple[NDArray[np.int32], Floats]:
    """Ids (K') and centroids (K', P) of all clusters, split ones too."""
    centroids = load_model(archive, name).all_centroids()
    return np.arange(len(centroids), dtype=np.int32), centroids


def assignment_path(folder: Path, shard: str) -> Path:
    """The assignment of one shard."""
    return folder / "assignment" / f"{shard}.parquet"


def stands(folder: Path, shard: str, state: dict[str, str]) -> bool:
    """Whether a shard is assigned, by the model, splits and features of now."""
    try:
        metadata = pq.read_schema(assignment_path(folder, shard)).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return False
    return all(metadata.get(key.encode()) == value.encode() for key, value in state.items())


def state_of(model: Model, info: dict[str, Any], figures: str) -> dict[str, str]:
    """What an assignment rests on, by digest."""
    return {
        "model": model.digest,
        "splits": model.splits_digest,
        "encoder": info["encoder"],
        "figures": figures,
    }


def read_assignment(archive: Archive, name: str) -> Iterator[tuple[str, pa.Table]]:
    """(shard, rows of `ASSIGNMENT`) of every finished shard, in order.

    Raises `ArchiveError` before the first where a shard is not assigned, or was before a split.
    """
    folder, model, info = (
        folder_of(archive, name),
        load_model(archive, name),
        read_info(archive, name),
    )
    done = archive.done()
    lacking = [
        shard
        for shard in sorted(done)
        if not stands(folder, shard, state_of(model, info, figures_digest(done[shard])))
    ]
    if lacking:
        raise ArchiveError(
            f"clustering {name!r}: {len(lacking)} of {len(done)} shards are not assigned as things "
            f"stand ({', '.join(lacking[:3])}); `biomedica cluster {archive.root} --name {name}` does it"
        )
    return ((shard, pq.read_table(assignment_path(folder, shard))) for shard in sorted(done))
