"""Pictures that are the same or nearly so, across the archive: one table of groups.

Two pictures are near-duplicates when their perceptual hashes differ in few bits and, where features
stand, their cosine is high: hashes alone take plots of the same layout for copies of each other. Groups
are what such pairs connect.

Pairs of hashes within `bits` are found exactly, without comparing all: cut into `bits` + 2 blocks, two such
hashes agree in two whole blocks (the pigeonhole principle), so for each pair of blocks the hashes are
sorted by them and compared among those that agree.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedica.archive import Archive
from biomedica.errors import ConfigError
from biomedica.features import FeatureSet, figures_digests, figures_path, live_rows, withdrawn_keys
from biomedica.shards import write_arrow, write_json

DUPLICATES = pa.schema(
    [
        pa.field("key", pa.string(), False, {"about": "sample of a group of two or more"}),
        pa.field("shard", pa.string(), False, {"about": "its shard"}),
        pa.field("group", pa.int64(), False, {"about": "number of the group, from 0"}),
        pa.field("is_first", pa.bool_(), False, {"about": "the group's first: the one to keep"}),
        pa.field(
            "tier",
            pa.string(),
            False,
            {"about": "`sha256`: the same bytes as the first; else `phash`"},
        ),
        pa.field(
            "phash_distance", pa.int8(), False, {"about": "bits that differ from the first's"}
        ),
        pa.field(
            "cosine",
            pa.float32(),
            True,
            {"about": "of its features with the first's, where there are"},
        ),
    ]
)
Hashes = NDArray[np.uint64]
_CROWD = 64
"""Pictures of one hash that are compared with each other, and with those of a near hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateSettings:
    """When two pictures count as the same."""

    bits: int = 3
    """Bits of the perceptual hash that may differ."""
    cosine: float = 0.95
    """Smallest cosine of the features; needs features."""

    def __post_init__(self) -> None:
        if not 0 <= self.bits <= 8:
            raise ConfigError(f"duplicates.bits is {self.bits}; 0 to 8 is expected")
        if not -1 <= self.cosine <= 1:
            raise ConfigError(f"duplicates.cosine is {self.cosine}; -1 to 1 is expected")


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """What a search came to."""

    num_images: int
    num_pairs: int
    """Pairs of near hashes that were judged; of copies byte for byte only those next to each other."""
    num_refused: int
    """Of them, pairs that the cosine did not bear out."""
    num_groups: int
    num_images_in_groups: int
    num_same_bytes: int
    """Images in groups whose bytes are those of the group's first (the first left out)."""


def find_duplicates(
    archive: Archive,
    settings: DuplicateSettings,
    features: FeatureSet | None = None,
    tell: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Duplicates:
    """Write `duplicates.parquet` and `duplicates.json`.

    The first of a group is the one with the most pixels; of equals the one of the lowest article id, then key.
    Holds some 130 bytes an image. tell   gets (stage, done, total)
    """
    archive.info()
    table = _Images.read(archive, features)
    left, right = near_pairs(table.phashes, table.digests, settings.bits, tell)
    num_pairs = len(left)
    if features is not None:
        close = _cosines(archive, features, table, left, right) >= settings.cosine
        same = table.digests[left] == table.digests[right]
        left, right = left[close | same], right[close | same]
    groups = connected(len(table.phashes), left, right)
    rows = _rows(archive, features, table, groups)
    write_arrow(archive.root / "duplicates.parquet", rows)
    found = Duplicates(
        num_images=len(table.phashes),
        num_pairs=num_pairs,
        num_refused=num_pairs - len(left),
        num_groups=int(groups.max(initial=-1)) + 1,
        num_images_in_groups=rows.num_rows,
        num_same_bytes=sum(
            tier == "sha256" and not first
            for tier, first in zip(
                rows["tier"].to_pylist(), rows["is_first"].to_pylist(), strict=True
            )
        ),
    )
    about = {
        "settings": asdict(settings),
        "features": None if features is None else features.name,
        "encoder": None if features is None else features.digest,
        "counts": asdict(found),
        "figures": figures_digests(archive),
    }
    write_json(archive.root / "duplicates.json", about)
    return found


@dataclass(frozen=True, slots=True)
class _Images:
    """The images that count, in order of shard and row."""

    shards: list[str]
    shard_N: NDArray[np.int32]
    row_N: NDArray[np.int32]
    phashes: Hashes
    digests: Hashes
    """First 64 bits of the SHA-256 of the JPEG."""
    pixels: NDArray[np.int64]

    @classmethod
    def read(cls, archive: Archive, features: FeatureSet | None) -> _Images:
        shards = features.shards() if features is not None else sorted(archive.done())
        withdrawn = withdrawn_keys(archive)
        parts: list[tuple[NDArray[np.generic], ...]] = []
        for number, shard in enumerate(shards):
            columns = ["phash", "sha256", "width", "height"]
            table = pq.read_table(figures_path(archive, shard), columns=columns)
            rows = np.flatnonzero(live_rows(archive, shard, withdrawn))
            digests = [int(each[:16], 16) for each in table["sha256"].to_pylist()]
            width, height = (table[name].to_numpy().astype(np.int64) for name in columns[2:])
            parts.append(
                (
                    np.full(len(rows), number, dtype=np.int32),
                    rows.astype(np.int32),
                    table["phash"].to_numpy()[rows],
                    np.array(digests, dtype=np.uint64)[rows],
                    (width * height)[rows],
                )
            )
        if not parts:
            raise ConfigError(f"{archive.root} holds no finished shards")
        return cls(shards, *(np.concatenate(each) for each in zip(*parts, strict=True)))


def near_pairs(
    hashes_N: Hashes,
    digests_N: Hashes,
    bits: int,
    tell: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices (M,) and (M,), left below right, of pairs of images whose hashes are within `bits`.

    Images of the same digest are paired in a chain, and one of them stands for them towards the others.
    Of a hash that more than 64 different pictures share (blank ones, plots of one layout), each is
    paired with the 64 next ones by digest, and the first 64 with pictures of near hashes.

    >>> near_pairs(np.array([0, 7, 0, 255], dtype=np.uint64), np.arange(4, dtype=np.uint64), 3)
    (array([0, 0, 1]), array([1, 2, 2]))
    """
    order = np.lexsort((digests_N, hashes_N))
    ordered_hashes, ordered_digests = hashes_N[order], digests_N[order]
    is_same = (np.diff(ordered_hashes) == 0) & (np.diff(ordered_digests) == 0)
    same = np.flatnonzero(is_same)
    lefts, rights = [order[same]], [order[same + 1]]
    pictures = order[np.flatnonzero(np.r_[True, ~is_same])] if len(order) else order
    values, starts, sizes = np.unique(hashes_N[pictures], return_index=True, return_counts=True)
    for step in range(1, _CROWD + 1):
        here = np.arange(len(pictures) - step)
        here = here[hashes_N[pictures[here]] == hashes_N[pictures[here + step]]]
        if not len(here):
            break
        lefts.append(pictures[here])
        rights.append(pictures[here + step])
    masks = list(_masks(bits))
    for number, mask in enumerate(masks):
        left, right = _crossed(*_agreeing(values, mask, bits), starts, sizes)
        lefts.append(pictures[left])
        rights.append(pictures[right])
        tell("hashes", number + 1, len(masks))
    left, right = np.concatenate(lefts), np.concatenate(rights)
    codes = np.unique(np.minimum(left, right) * max(1, len(order)) + np.maximum(left, right))
    return codes // max(1, len(order)), codes % max(1, len(order))


def _crossed(
    left_M: NDArray[np.int64],
    right_M: NDArray[np.int64],
    starts_V: NDArray[np.int64],
    sizes_V: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of hashes as pairs of pictures: each of the one's with each of the other's, up to a crowd."""
    wide, high = np.minimum(sizes_V[left_M], _CROWD), np.minimum(sizes_V[right_M], _CROWD)
    each, place = _counted(wide * high)
    return (
        starts_V[left_M[each]] + place // high[each],
        starts_V[right_M[each]] + place % high[each],
    )


def _counted(sizes_M: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each index as often as its size says, and how many times it came before."""
    each = np.repeat(np.arange(len(sizes_M)), sizes_M)
    return each, np.arange(len(each)) - np.repeat(np.cumsum(sizes_M) - sizes_M, sizes_M)


class NearHashes:
    """Some hashes, in which those near others are found: exactly, by the blocks of `near_pairs`.

    >>> known = NearHashes(np.array([0, 255], dtype=np.uint64), 3)
    >>> known.near(np.array([7, 254], dtype=np.uint64))
    (array([0, 1]), array([0, 1]))
    """

    def __init__(self, hashes_N: Hashes, bits: int) -> None:
        self._bits, self._hashes = bits, hashes_N
        self._sorted = []
        for mask in _masks(bits):
            order = np.argsort(hashes_N & mask, kind="stable")
            self._sorted.append((mask, order, (hashes_N & mask)[order]))

    def near(self, hashes_M: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices (P,) among the known ones and (P,) among these, of all pairs within the bits."""
        codes = [np.empty(0, np.int64)]
        for mask, order, parts in self._sorted:
            first = np.searchsorted(parts, hashes_M & mask, side="left")
            last = np.searchsorted(parts, hashes_M & mask, side="right")
            each, place = _counted(last - first)
            known = order[first[each] + place]
            near = np.bitwise_count(self._hashes[known] ^ hashes_M[each]) <= self._bits
            codes.append(np.unique(known[near] * len(hashes_M) + each[near]))
        found = np.unique(np.concatenate(codes))
        return found // max(1, len(hashes_M)), found % max(1, len(hashes_M))


def _masks(bits: int) -> Iterator[np.uint64]:
    """The two blocks of 64 / (bits + 2) bits that near hashes agree in: every choice of two."""
    edges = np.linspace(0, 64, bits + 3).round().astype(int)
    blocks = [((1 << int(b - a)) - 1) << int(a) for a, b in itertools.pairwise(edges)]
    for one, other in itertools.combinations(blocks, 2):
        yield np.uint64(one | other)


def _agreeing(
    values_N: Hashes, mask: np.uint64, bits: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of values within `bits` that agree where the mask is set."""
    parts = values_N & mask
    order = np.argsort(parts, kind="stable")
    sorted_parts, sorted_values = parts[order], values_N[order]
    here = np.arange(len(values_N) - 1)
    lefts, rights = [], []
    step = 1
    while len(here):
        here = here[here + step < len(values_N)]
        here = here[sorted_parts[here] == sorted_parts[here + step]]
        differ = np.bitwise_count(sorted_values[here] ^ sorted_values[here + step])
        near = here[differ <= bits]
        lefts.append(order[near])
        rights.append(order[near + step])
        step += 1
    if not lefts:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return np.concatenate(lefts), np.concatenate(rights)


def connected(
    count: int, left_M: NDArray[np.int64], right_M: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(N,): number of the group of each image, by its first image; -1 for an image without a pair."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(left_M), dtype=bool)
    graph = csr_array((ones, (left_M, right_M)), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    sizes = np.bincount(labels, minlength=1)
    groups = np.full(count, -1, dtype=np.int64)
    in_group = np.flatnonzero(sizes[labels] > 1)
    _, first, inverse = np.unique(labels[in_group], return_index=True, return_inverse=True)
    groups[in_group] = np.argsort(np.argsort(first))[inverse]
    return groups


def _cosines(
    archive: Archive,
    features: FeatureSet,
    table: _Images,
    left_M: NDArray[np.int64],
    right_M: NDArray[np.int64],
) -> NDArray[np.float32]:
    """(M,): cosine of the features of each pair; NaN where one has none. Reads each shard once."""
    wanted = np.unique(np.concatenate([left_M, right_M]))
    vectors = np.empty((len(wanted), features.dims), dtype=np.float16)
    for number in np.unique(table.shard_N[wanted]):
        here = np.flatnonzero(table.shard_N[wanted] == number)
        vectors[here] = features.read(table.shards[number])[table.row_N[wanted[here]]]
    found = np.empty(len(left_M), dtype=np.float32)
    for start in range(0, len(left_M), 65536):
        part = slice(start, start + 65536)
        a = vectors[np.searchsorted(wanted, left_M[part])].astype(np.float32)
        b = vectors[np.searchsorted(wanted, right_M[part])].astype(np.float32)
        found[part] = np.einsum("md,md->m", a, b)
    return found


def _rows(
    archive: Archive, features: FeatureSet | None, table: _Images, groups_N: NDArray[np.int64]
) -> pa.Table:
    """The rows of `DUPLICATES`: by group, the first one first, then by place."""
    images = np.flatnonzero(groups_N >= 0)
    keys, numbers = _names(archive, table, images)
    order = np.lexsort((keys, numbers, -table.pixels[images], groups_N[images]))
    images, keys = images[order], keys[order]
    groups = groups_N[images]
    is_first = np.r_[True, np.diff(groups) != 0] if len(groups) else np.empty(0, dtype=bool)
    firsts = images[np.flatnonzero(is_first)][groups]
    differ = np.bitwise_count(table.phashes[images] ^ table.phashes[firsts])
    same = table.digests[images] == table.digests[firsts]
    cosines = None if features is None else _cosines(archive, features, table, images, firsts)
    return pa.table(
        [
            pa.array(keys, pa.string()),
            pa.array([table.shards[each] for each in table.shard_N[images]], pa.string()),
            groups,
            is_first,
            pa.array(np.where(same, "sha256", "phash"), pa.string()),
            differ.astype(np.int8),
            pa.nulls(len(images), pa.float32()) if cosines is None else _or_null(cosines),
        ],
        schema=DUPLICATES,
    )


def _or_null(values: NDArray[np.float32]) -> pa.Array:
    return pa.array(values, pa.float32(), mask=~np.isfinite(values))


def _names(
    archive: Archive, table: _Images, images: NDArray[np.int64]
) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Keys and article numbers of some images."""
    keys = np.empty(len(images), dtype=object)
    numbers = np.empty(len(images), dtype=np.int64)
    for number in np.unique(table.shard_N[images]):
        here = np.flatnonzero(table.shard_N[images] == number)
        path = figures_path(archive, table.shards[number])
        columns = pq.read_table(path, columns=["key", "pmcid"]).take(table.row_N[images[here]])
        keys[here] = columns["key"].to_pylist()
        numbers[here] = [int(each[3:]) for each in columns["pmcid"].to_pylist()]
    return keys, numbers
