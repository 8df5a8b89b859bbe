"""Moments, k-means, the pass over an archive, splits, images that come later."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from biomedica.archive import Archive
from biomedica.catalog import Selection
from biomedica.cluster import (
    ClusterSettings,
    cluster,
    read_assignment,
    read_centroids,
    read_clusters,
    read_members,
    settings_for,
    split_cluster,
)
from biomedica.cluster.assign import Histogram, drift_of
from biomedica.cluster.kmeans import Moments, nearest, principal_components, train
from biomedica.config import load_settings
from biomedica.errors import ArchiveError, ConfigError
from biomedica.features import FeatureSet, create_set, the_set
from biomedica.flow import build_archive
from biomedica.sheets import write_sheets
from feature_archives import DIMS, blobs, give_features, small_archive
from samples import archive_bytes, healthy, write_bucket

FIVE = ClusterSettings(clusters=5, components=4)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """An archive with features; copied before it is changed."""
    archive = small_archive(tmp_path_factory.mktemp("cluster"))
    give_features(archive, bad=(3,))
    return archive


@pytest.fixture
def archive(built: Archive, tmp_path: Path) -> Archive:
    shutil.copytree(built.root, tmp_path / "archive")
    return Archive(tmp_path / "archive")


def features_of(archive: Archive) -> FeatureSet:
    return FeatureSet.open(archive, "made")


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.integers(0, 1000),
    st.floats(0.1, 100.0),
)
@settings(max_examples=40, deadline=None)
def test_moments_merge(sizes: list[int], seed: int, offset: float) -> None:
    """Moments of parts add up to the covariance of the whole, far from the origin too."""
    rng = np.random.default_rng(seed)
    parts = [(rng.normal(size=(size, 6)) + offset).astype(np.float32) for size in sizes]
    merged = Moments.empty(6)
    for part in parts:
        own = Moments.empty(6)
        own.add(part)
        merged.merge(own)
    whole = np.concatenate(parts).astype(np.float64)
    centred = whole - whole.mean(axis=0)
    assert merged.count == len(whole)
    np.testing.assert_allclose(merged.mean_D, whole.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(merged.products_DD, centred.T @ centred, atol=2e-4 * len(whole))


def test_components_are_those_of_scikit_learn() -> None:
    """Same variances, same directions, by number and by share."""
    from sklearn.decomposition import PCA

    points = blobs(2000, 0)
    moments = Moments.empty(DIMS)
    moments.add(points)
    ours = principal_components(moments, 5)
    theirs = PCA(5, svd_solver="covariance_eigh").fit(points)
    np.testing.assert_allclose(ours.variances_D[:5], theirs.explained_variance_, rtol=1e-4)
    assert ours.explained == pytest.approx(theirs.explained_variance_ratio_.sum(), rel=1e-4)
    overlap = np.abs(np.einsum("pd,pd->p", ours.components_PD, theirs.components_))
    np.testing.assert_allclose(overlap, 1, atol=1e-3)
    by_share = principal_components(moments, 0.9)
    assert by_share.explained >= 0.9
    fewer = len(by_share.components_PD) - 1
    assert by_share.variances_D[:fewer].sum() / by_share.variances_D.sum() < 0.9
    assert principal_components(moments, 0).apply(points).shape == (2000, DIMS)
    with pytest.raises(ConfigError, match="17 components of 16 dimensions"):
        principal_components(moments, 17)


@given(st.integers(1, 60), st.integers(1, 30), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_nearest_is_nearest(count: int, clusters: int, seed: int) -> None:
    """The same centroid and distance as by comparing all."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 7)).astype(np.float32)
    centroids = rng.normal(size=(clusters, 7)).astype(np.float32)
    labels, distances = nearest(points, centroids)
    apart = np.linalg.norm(points[:, None] - centroids[None], axis=2)
    np.testing.assert_allclose(distances, apart.min(axis=1), atol=2e-3)
    np.testing.assert_allclose(apart[np.arange(count), labels], apart.min(axis=1), atol=1e-3)


def test_training_finds_what_is_there() -> None:
    """Five clouds, five clusters; the same seed gives the same centroids; none is left empty."""
    points = blobs(600, 1)
    trained = train(points, 5, 30, seed=3)
    again = train(points, 5, 30, seed=3)
    np.testing.assert_array_equal(trained.centroids_KP, again.centroids_KP)
    labels, _ = nearest(points, trained.centroids_KP)
    assert len(set(labels.tolist())) == 5
    assert trained.inertia < 0.5
    same = np.ones((50, 4), dtype=np.float32)
    assert np.isfinite(train(same, 7, 5, seed=0).centroids_KP).all()
    with pytest.raises(ConfigError, match="4 pictures for 5 clusters"):
        train(points[:4], 5, 3, seed=0)


def test_every_image_has_its_cluster(archive: Archive) -> None:
    """Rows in the order of the figures files, NaN rows in none, members from the three kinds."""
    found = cluster(archive, features_of(archive), FIVE)
    assert found.trained
    assert found.num_images == 59
    assert found.drift == {"num_before": 59, "num_later": 0}
    total = 0
    for shard, table in read_assignment(archive, "default"):
        keys = pq.read_table(archive.root / "figures" / "commercial" / f"{shard}.parquet")["key"]
        assert table["key"].to_pylist() == keys.to_pylist()
        total += table.num_rows
        if shard == "commercial-000000":
            assert table["cluster"].to_pylist()[3] == -1
    assert total == 60
    clusters = read_clusters(archive, "default")
    assert sum(each.size for each in clusters) == 59
    for each in clusters:
        members = read_members(archive, "default", each.id)
        assert [member.position for member in members] == list(range(min(each.size, 30)))
        assert len({member.key for member in members}) == len(members)
        assert max(member.distance for member in members) <= each.radius + 0.01
    ids, centroids = read_centroids(archive, "default")
    assert centroids.shape == (len(ids), 4) == (5, 4)


def test_same_input_same_bytes(archive: Archive, tmp_path: Path) -> None:
    """A second archive's clusters, and a repeated pass, are byte-identical."""
    cluster(archive, features_of(archive), FIVE)
    first = archive_bytes(archive.root / "clusters")
    cluster(archive, features_of(archive), FIVE)
    assert archive_bytes(archive.root / "clusters") == first
    shutil.rmtree(archive.root / "clusters")
    cluster(archive, features_of(archive), FIVE)
    assert archive_bytes(archive.root / "clusters") == first


def test_full_passes_do_not_make_it_worse(archive: Archive) -> None:
    """Lloyd's rounds over all images lower the mean squared distance or leave it."""

    def inertia(name: str, passes: int) -> float:
        settings = ClusterSettings(
            clusters=5, components=4, points_per_centroid=2, full_passes=passes
        )
        cluster(archive, features_of(archive), settings, name)
        tables = [table["distance"].to_numpy() for _, table in read_assignment(archive, name)]
        return float(np.nanmean(np.square(np.concatenate(tables))))

    assert inertia("three", 3) <= inertia("none", 0) + 1e-6


def test_other_settings_need_another_name(archive: Archive) -> None:
    cluster(archive, features_of(archive), FIVE)
    with pytest.raises(ConfigError, match="other settings"):
        cluster(archive, features_of(archive), ClusterSettings(clusters=4))
    assert settings_for(archive, "default", ClusterSettings(), None) == FIVE
    with pytest.raises(ConfigError, match="no name"):
        cluster(archive, features_of(archive), FIVE, "../up")
    with pytest.raises(ConfigError, match="59 images for 2,000 clusters"):
        cluster(archive, features_of(archive), ClusterSettings(), "large")


def test_withdrawn_images_are_in_no_cluster(archive: Archive) -> None:
    """Tombstones leave sizes and members."""
    cluster(archive, features_of(archive), FIVE)
    gone = read_members(archive, "default", 0)[0]
    row = {"key": gone.key, "shard": gone.shard, "pmcid": "PMC1", "version": 1, "reason": "x"}
    archive.set_tombstones([row | {"since": None}])
    again = cluster(archive, features_of(archive), FIVE)
    assert again.num_images == 58
    keys = {member.key for each in range(5) for member in read_members(archive, "default", each)}
    assert gone.key not in keys


def test_split(archive: Archive) -> None:
    """Parts take the members of their parent, and of nobody else, at once and after the next pass."""
    cluster(archive, features_of(archive), FIVE)
    before = assigned(archive)
    largest = max(read_clusters(archive, "default"), key=lambda each: each.size)
    children = split_cluster(archive, "default", largest.id, 2)
    assert children == (5, 6)
    assert split_cluster(archive, "default", largest.id, 3) == children
    infos = {each.id: each for each in read_clusters(archive, "default")}
    assert infos[largest.id].children == children
    assert [infos[child].parent for child in children] == [largest.id] * 2
    assert sum(infos[child].size for child in children) == largest.size
    assert read_members(archive, "default", largest.id) == []
    grandchildren = split_cluster(archive, "default", 5, 2)
    assert grandchildren == (7, 8)
    with pytest.raises(ArchiveError, match="biomedica cluster"):
        read_assignment(archive, "default")
    pictured = {each: read_members(archive, "default", each) for each in (6, 7, 8)}
    cluster(archive, features_of(archive), FIVE)
    after = assigned(archive)
    for key, old in before.items():
        assert after[key] == old if old != largest.id else after[key] in {6, 7, 8}
    for each, members in pictured.items():
        assert {member.key for member in members} <= {k for k, v in after.items() if v == each}
        assert read_members(archive, "default", each)
    with pytest.raises(ConfigError, match="no cluster 99"):
        split_cluster(archive, "default", 99)


def assigned(archive: Archive) -> dict[str, int]:
    return {
        row["key"]: row["cluster"]
        for _, table in read_assignment(archive, "default")
        for row in table.to_pylist()
    }


def test_images_that_come_later_join(tmp_path: Path) -> None:
    """A second build adds articles: old images stay where they are, new ones get clusters, drift is told."""
    archive = small_archive(tmp_path, 20)
    give_features(archive)
    cluster(archive, features_of(archive), FIVE)
    before = assigned(archive)
    write_bucket(tmp_path / "source", [healthy(number) for number in range(100, 130)])
    settings = load_settings(None, ["shards.samples=20"])
    build_archive(str(tmp_path / "source"), archive.root, Selection(), settings, engine="inline")
    with pytest.raises(ArchiveError, match="biomedica embed"):
        cluster(archive, features_of(archive), FIVE)
    give_features(archive, seed=50)
    found = cluster(archive, features_of(archive), FIVE)
    assert not found.trained
    assert (found.drift["num_before"], found.drift["num_later"]) == (40, 20)
    assert 0 <= found.drift["divergence"] < 0.5
    assert found.drift["far_share"] is None  # no cluster is large enough to tell
    after = assigned(archive)
    assert {key: after[key] for key in before} == before
    assert len(after) == 60


def test_drift_tells_a_changed_world() -> None:
    """Images like the old ones: about one in a hundred is far. Others: most are."""
    rng = np.random.default_rng(0)

    def filled(share: NDArray[np.float64], spread: float) -> Histogram:
        histogram = Histogram(3)
        clusters = rng.choice(3, size=20_000, p=share).astype(np.int32)
        distances = np.abs(0.5 + spread * rng.normal(size=20_000)).astype(np.float32)
        histogram.add(clusters, distances)
        return histogram

    even, skewed = np.full(3, 1 / 3), np.array([0.9, 0.05, 0.05])
    same = drift_of(filled(even, 0.05), filled(even, 0.05))
    assert same["far_share"] == pytest.approx(0.01, abs=0.005)
    assert same["num_compared"] == 20_000
    assert same["divergence"] < 0.001
    other = drift_of(filled(even, 0.05), filled(skewed, 0.3))
    assert other["far_share"] > 0.25
    assert other["divergence"] > 0.1
    assert other["grown"][0]["cluster"] == 0


def test_a_damaged_model_is_told(archive: Archive) -> None:
    cluster(archive, features_of(archive), FIVE)
    path = archive.root / "clusters" / "default" / "centroids.npy"
    values = np.load(path)
    np.save(path, values + 1)
    with pytest.raises(ArchiveError, match="not the one"):
        read_clusters(archive, "default")
    path.write_bytes(b"")
    with pytest.raises(ArchiveError, match="cannot be read"):
        read_clusters(archive, "default")


def test_sheets(archive: Archive) -> None:
    """A page with one sheet for each cluster that holds images."""
    cluster(archive, features_of(archive), FIVE)
    page = write_sheets(archive, "default")
    text = page.read_text()
    for each in read_clusters(archive, "default"):
        assert f"sheets/{each.id}.jpg" in text
        assert (page.parent / "sheets" / f"{each.id}.jpg").read_bytes()[:2] == b"\xff\xd8"


def test_a_part_that_becomes_empty_shows_nothing(archive: Archive) -> None:
    """Withdrawn images leave a split's part with the next pass, though the split noted them."""
    cluster(archive, features_of(archive), FIVE)
    largest = max(read_clusters(archive, "default"), key=lambda each: each.size).id
    children = split_cluster(archive, "default", largest, 2)
    gone = read_members(archive, "default", children[1])
    about = {"pmcid": "PMC1", "version": 1, "reason": "x", "since": None}
    keys = [(k, s) for s, t in _tables(archive) for k in t if k in {m.key for m in gone}]
    archive.set_tombstones([about | {"key": key, "shard": shard} for key, shard in keys])
    cluster(archive, features_of(archive), FIVE)
    left = {member.key for member in read_members(archive, "default", children[1])}
    assert not left & {member.key for member in gone}


def _tables(archive: Archive) -> list[tuple[str, list[str]]]:
    folder = archive.root / "clusters" / "default" / "assignment"
    return [(p.stem, pq.read_table(p)["key"].to_pylist()) for p in sorted(folder.glob("*.parquet"))]


def test_a_split_after_a_compaction(archive: Archive) -> None:
    """Shards whose assignment is of an older table take no part; nothing shifts."""
    cluster(archive, features_of(archive), FIVE)
    path = archive.root / "clusters" / "default" / "assignment" / "commercial-000000.parquet"
    table = pq.read_table(path)
    short = table.slice(1).replace_schema_metadata(table.schema.metadata | {b"figures": b"old"})
    pq.write_table(short, path)
    largest = max(read_clusters(archive, "default"), key=lambda each: each.size).id
    children = split_cluster(archive, "default", largest, 2)
    shards = {m.shard for each in children for m in read_members(archive, "default", each)}
    assert shards and "commercial-000000" not in shards


def test_full_passes_with_an_empty_shard(archive: Archive) -> None:
    """A shard all of whose images are withdrawn takes part without any."""
    shard = "commercial-000001"
    path = archive.root / "figures" / "commercial" / f"{shard}.parquet"
    keys = pq.read_table(path)["key"].to_pylist()
    about = {"shard": shard, "pmcid": "PMC1", "version": 1, "reason": "x", "since": None}
    archive.set_tombstones([about | {"key": key} for key in keys])
    settings = ClusterSettings(clusters=3, components=4, full_passes=1)
    assert cluster(archive, features_of(archive), settings).num_images == 59 - len(keys)


def test_captions_are_not_clustered(archive: Archive) -> None:
    about = {"kind": "text", "encoder": "made", "digest": "e" * 64, "dims": DIMS}
    create_set(archive, "words", about)
    with pytest.raises(ConfigError, match="of captions"):
        the_set(archive, "words")


def test_pictures_that_are_all_alike(tmp_path: Path) -> None:
    """No variance: no components to speak of, and no number that JSON lacks."""
    moments = Moments.empty(3)
    moments.add(np.ones((10, 3), dtype=np.float32))
    assert principal_components(moments, 2).explained == 1.0
    assert principal_components(moments, 0.9).explained == 1.0
