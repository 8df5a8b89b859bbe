"""Archives with features made by the tests: vectors that are chosen, not computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from biomedica.archive import Archive
from biomedica.catalog import Selection
from biomedica.config import load_settings
from biomedica.features import FeatureSet, ShardFeatures, create_set, figures_digest
from biomedica.flow import build_archive
from samples import healthy, write_bucket

DIMS = 16


def small_archive(folder: Path, num_articles: int = 30, samples: int = 20) -> Archive:
    """An archive of two pictures an article, in several shards."""
    source = folder / "source"
    numbers = range(100, 100 + num_articles)
    write_bucket(source, [healthy(number) for number in numbers])
    root = folder / "archive"
    settings = load_settings(None, [f"shards.samples={samples}"])
    build_archive(str(source), root, Selection(), settings, engine="inline")
    return Archive(root)


def blobs(count: int, seed: int, centres: int = 5) -> NDArray[np.float32]:
    """(count, DIMS): points of length 1 around a few directions."""
    rng = np.random.default_rng(seed)
    middle = np.random.default_rng(7).normal(size=(centres, DIMS))
    points = middle[rng.integers(centres, size=count)] + 0.15 * rng.normal(size=(count, DIMS))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def give_features(
    archive: Archive, name: str = "made", bad: tuple[int, ...] = (), seed: int = 0
) -> FeatureSet:
    """Features for every shard that has none; rows `bad` of the first shard are NaN."""
    info = {"kind": "image", "encoder": "made", "digest": "d" * 64, "dims": DIMS}
    features = create_set(archive, name, info)
    for number, (shard, done) in enumerate(sorted(archive.done().items())):
        if features.fits(shard, done):
            continue
        points = blobs(done.counts["pairs"], seed + number)
        gone = bad if number == 0 else ()
        points[list(gone)] = np.nan
        about = ShardFeatures(
            figures=figures_digest(done), encoder="d" * 64, rows=len(points), bad=gone
        )
        features.write(shard, points.astype(np.float16), about)
    return features
