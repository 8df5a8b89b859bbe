"""Near-duplicates: exact in bits, borne out by features, one group for what is connected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedica.archive import Archive
from biomedica.catalog import Selection
from biomedica.config import load_settings
from biomedica.duplicates import DuplicateSettings, connected, find_duplicates, near_pairs
from biomedica.embed import EmbedSettings, embed
from biomedica.errors import ConfigError
from biomedica.features import the_set
from biomedica.flow import build_archive
from biomedica.run import RunSettings
from biomedica.run.engines import open_engine
from samples import Package, Panel, encoded, jpeg, picture, write_bucket


@given(st.integers(0, 2**32), st.integers(0, 6), st.integers(2, 120))
@settings(max_examples=60, deadline=None)
def test_pairs_are_those_of_comparing_all(seed: int, bits: int, count: int) -> None:
    """Every image is connected to just those that a full comparison connects it to."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, size=max(1, count // 4), dtype=np.uint64)
    hashes = hashes[rng.integers(len(hashes), size=count)]
    for _ in range(4):
        flips = np.uint64(1) << rng.integers(0, 64, size=count).astype(np.uint64)
        hashes = np.where(rng.random(count) < 0.5, hashes ^ flips, hashes)
    digests = rng.integers(0, max(2, count // 2), size=count).astype(np.uint64)
    left, right = near_pairs(hashes, digests, bits)
    assert (left < right).all()
    near = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= bits
    full_left, full_right = np.nonzero(np.triu(near, 1))
    ours, full = connected(count, left, right), connected(count, full_left, full_right)
    np.testing.assert_array_equal(ours, full)
    first = {}
    for row, place in enumerate(zip(hashes.tolist(), digests.tolist(), strict=True)):
        first.setdefault(place, row)
    pictures = set(first.values())
    wanted = {(a, b) for a, b in zip(full_left, full_right, strict=True) if {a, b} <= pictures}
    assert wanted <= set(zip(left.tolist(), right.tolist(), strict=True))


def test_no_pairs() -> None:
    digests = np.arange(2, dtype=np.uint64)
    left, right = near_pairs(np.array([0, 2**40 - 1], dtype=np.uint64), digests, 3)
    assert len(left) == len(right) == 0
    with pytest.raises(ConfigError, match="0 to 8"):
        DuplicateSettings(bits=9)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Three articles with the same picture: byte for byte, larger, and encoded again; one with another."""
    original = picture(5, 160, 120)
    files = {
        301: jpeg(5, 160, 120),
        300: jpeg(5, 160, 120),
        302: encoded(original.resize((320, 240)), "JPEG", quality=95),
        303: jpeg(5, 160, 120, quality=60),
        304: jpeg(6, 160, 120),
    }
    packages = [
        Package(number=number, panels=(Panel(href="a.jpg"),), files={"a.jpg": data})
        for number, data in files.items()
    ]
    write_bucket(tmp_path / "source", packages)
    root = tmp_path / "archive"
    settings = load_settings(None, ["shards.samples=2"])
    build_archive(str(tmp_path / "source"), root, Selection(), settings, engine="inline")
    return Archive(root)


def test_groups(archive: Archive) -> None:
    """One group; its first is the largest picture; copies byte for byte of it are told from others."""
    engine = open_engine("inline", 1, None)
    embed(archive, "tiny", EmbedSettings(), RunSettings(), engine)
    found = find_duplicates(archive, DuplicateSettings(), the_set(archive, None))
    assert (found.num_groups, found.num_images_in_groups, found.num_images) == (1, 4, 5)
    rows = pq.read_table(archive.root / "duplicates.parquet").to_pylist()
    assert [row["key"].split("-")[0] for row in rows] == ["PMC302", "PMC300", "PMC301", "PMC303"]
    assert [row["is_first"] for row in rows] == [True, False, False, False]
    assert all(row["cosine"] > 0.95 for row in rows)
    assert found.num_same_bytes == 0
    before = (archive.root / "duplicates.parquet").read_bytes()
    find_duplicates(archive, DuplicateSettings(), the_set(archive, None))
    assert (archive.root / "duplicates.parquet").read_bytes() == before


def test_features_refuse_what_hashes_take(archive: Archive) -> None:
    """With a cosine that nothing reaches, only the same bytes stay together; withdrawn images go."""
    embed(archive, "tiny", EmbedSettings(), RunSettings(), open_engine("inline", 1, None))
    strict = find_duplicates(archive, DuplicateSettings(cosine=1), the_set(archive, None))
    assert strict.num_refused > 0
    rows = pq.read_table(archive.root / "duplicates.parquet").to_pylist()
    assert len({row["group"] for row in rows}) == 1
    assert {"PMC300", "PMC301"} <= {row["key"].split("-")[0] for row in rows}
    alone = find_duplicates(archive, DuplicateSettings(), None)
    assert alone.num_groups == 1
    assert pq.read_table(archive.root / "duplicates.parquet")["cosine"].null_count == 4
    row = next(row for row in rows if row["key"].startswith("PMC300-"))
    gone = {"key": row["key"], "shard": row["shard"], "pmcid": "PMC300", "version": 1}
    archive.set_tombstones([gone | {"reason": "withdrawn", "since": None}])
    assert find_duplicates(archive, DuplicateSettings(), None).num_images == 4


def test_a_picture_between_copies_parts_them_not() -> None:
    """Copies stay together although a picture of the same hash, which the features refuse, lies between;
    whatever the order of the rows."""
    hashes = np.array([9, 9, 9], dtype=np.uint64)
    for digests in ([1, 2, 1], [2, 1, 1], [1, 1, 2]):
        left, right = near_pairs(hashes, np.array(digests, dtype=np.uint64), 3)
        same = [i for i in range(3) if digests[i] == 1]
        assert tuple(same) in set(zip(left.tolist(), right.tolist(), strict=True))


def test_a_crowd_of_one_hash_costs_little() -> None:
    """Ten thousand different pictures of one hash: all connected, not all compared."""
    count = 10_000
    hashes = np.zeros(count, dtype=np.uint64)
    left, right = near_pairs(hashes, np.arange(count, dtype=np.uint64), 3)
    assert len(left) < 65 * count
    assert (connected(count, left, right) == 0).all()
