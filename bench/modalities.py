"""How pure clusters of labelled image sets are, and how well neighbours tell the class.

    python bench/modalities.py ARCHIVE [--features NAME] [--per-set 10] [--fit ...]

ARCHIVE was built from what `labelled_source.py` makes: a row's subject is its set (the modality), its
keyword the class. Purity: share of images whose cluster's most frequent set is their own. kNN: leave
one out, 5 neighbours by cosine, ties to the nearest.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedica.archive import Archive
from biomedica.cluster import kmeans
from biomedica.cluster.model import ClusterSettings
from biomedica.features import FeatureSet, figures_path, the_set

NEIGHBOURS = 5


def labels_of(archive: Archive, features: FeatureSet) -> tuple[list[str], list[str]]:
    """Set and class of every row, in the order of the feature files."""
    sets, kinds = [], []
    for shard in features.shards():
        table = pq.read_table(figures_path(archive, shard), columns=["subjects", "keywords"])
        sets += [each[0] for each in table["subjects"].to_pylist()]
        kinds += [each[0] for each in table["keywords"].to_pylist()]
    return sets, [f"{one}: {other}" for one, other in zip(sets, kinds, strict=True)]


def purity(labels_N: NDArray[np.int32], sets: list[str]) -> float:
    """Share of images that agree with the most frequent set of their cluster."""
    numbers = np.unique(sets, return_inverse=True)[1]
    counts = np.zeros((labels_N.max() + 1, numbers.max() + 1), dtype=int)
    np.add.at(counts, (labels_N, numbers), 1)
    return float(counts.max(axis=1).sum() / len(sets))


def neighbour_accuracy(points_ND: NDArray[np.float32], wanted: list[str]) -> float:
    """Leave-one-out accuracy of the nearest neighbours' vote."""
    names, numbers = np.unique(wanted, return_inverse=True)
    scores = points_ND @ points_ND.T
    np.fill_diagonal(scores, -np.inf)
    near = np.argsort(-scores, axis=1, kind="stable")[:, :NEIGHBOURS]
    votes = np.zeros((len(wanted), len(names)))
    for place in range(NEIGHBOURS):
        np.add.at(votes, (np.arange(len(wanted)), numbers[near[:, place]]), 1 - place * 1e-3)
    return float((votes.argmax(axis=1) == numbers).mean())


def measure(archive: Archive, name: str | None, per_set: int) -> dict[str, float]:
    """All figures for one feature set."""
    features = the_set(archive, name)
    points = np.concatenate([features.read(shard) for shard in features.shards()]).astype(
        np.float32
    )
    sets, kinds = labels_of(archive, features)
    settings = ClusterSettings(clusters=per_set * len(set(sets)))
    moments = kmeans.Moments.empty(features.dims)
    moments.add(points)
    projection = kmeans.principal_components(moments, settings.components)
    projected = projection.apply(points)
    purities = []
    for seed in range(5):
        trained = kmeans.train(projected, settings.clusters, settings.iterations, seed)
        purities.append(purity(kmeans.nearest(projected, trained.centroids_KP)[0], sets))
    return {
        "images": len(points),
        "sets": len(set(sets)),
        "classes": len(set(kinds)),
        "clusters": settings.clusters,
        "explained": projection.explained,
        "purity_mean": float(np.mean(purities)),
        "purity_lowest": min(purities),
        "knn_set": neighbour_accuracy(points, sets),
        "knn_class": neighbour_accuracy(points, kinds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--features")
    parser.add_argument("--per-set", type=int, default=10)
    words = parser.parse_args()
    print(json.dumps(measure(Archive(words.archive), words.features, words.per_set)))


if __name__ == "__main__":
    main()
