"""Which training samples a benchmark's pictures may be copies of: by bytes, hashes, vectors and articles.

The archive is gone through once, some thousand samples of a shard at a time; what is kept grows with the benchmark.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import ImageOps, ImageStat

from biomedica.archive import Archive
from biomedica.duplicates import Hashes, NearHashes
from biomedica.errors import ArchiveError, EvaluationError
from biomedica.evaluate.embeddings import first_of_each
from biomedica.evaluate.items import Items
from biomedica.evaluate.settings import LeakSettings
from biomedica.features import FeatureSet, figures_path
from biomedica.images import perceptual_hash, small_grey
from biomedica.models import Vectors
from biomedica.stream.samples import Samples

Tell = Callable[[str, int, int], None]
"""Called with (stage, done, of all)."""
MOST = 100
"""Near training pictures that are kept for each of the benchmark's, by hash and by cosine each."""
_PLAIN = 2.0
"""Standard deviation, in grey levels, below which a picture shows nothing that could be known again."""
_BLOCK = 8192
_PICTURES = 2048
"""Of the benchmark, compared with a block at a time: a matrix of 64 MB."""
_COLUMNS = ["key", "sha256", "source_md5", "phash", "pmcid"]
_ARTICLE = re.compile(r"PMC[_-]?0*([0-9]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The pictures of a benchmark, each once."""

    items: Items
    first_P: tuple[int, ...]
    """Index of the first item that shows it."""
    sha256: dict[str, list[int]]
    """Pictures by the digest of their bytes."""
    md5: dict[str, list[int]]
    hashes_2P: Hashes
    """As they are, then mirrored."""
    is_plain_P: NDArray[np.bool_]
    """Of one colour, or nearly: known again by their bytes alone."""
    vectors_PD: Vectors | None

    def __len__(self) -> int:
        return len(self.first_P)


def read_pictures(items: Items, vectors_ND: Vectors | None, tell: Tell) -> Pictures:
    """Digests and hashes of all pictures. Raises `EvaluationError` for one that does not decode.

    vectors_ND   of each item, of length 1
    """
    firsts = first_of_each(items.picture_ids)
    found = Pictures(
        items=items,
        first_P=tuple(firsts),
        sha256={},
        md5={},
        hashes_2P=np.zeros(2 * len(firsts), np.uint64),
        is_plain_P=np.zeros(len(firsts), bool),
        vectors_PD=None if vectors_ND is None else vectors_ND[firsts],
    )
    for place, index in enumerate(firsts):
        _read_digests(found, place, index)
        grey = small_grey(items.picture(index))
        found.hashes_2P[place] = perceptual_hash(grey)
        found.hashes_2P[len(firsts) + place] = perceptual_hash(ImageOps.mirror(grey))
        found.is_plain_P[place] = ImageStat.Stat(grey).stddev[0] < _PLAIN
        tell("pictures", place + 1, len(firsts))
    return found


def _read_digests(found: Pictures, place: int, index: int) -> None:
    try:
        source = found.items.read(index)
    except OSError as error:
        name = found.items.name(index)
        raise EvaluationError(f"{name}: its picture cannot be read: {error}") from None
    if isinstance(source, bytes):
        md5 = hashlib.md5(source, usedforsecurity=False).hexdigest()
        found.sha256.setdefault(hashlib.sha256(source).hexdigest(), []).append(place)
        found.md5.setdefault(md5, []).append(place)


def articles_of(items: Items) -> dict[str, list[int]]:
    """Items by the PMCID that their id, group or picture's name holds.

    An item of a figure that a text names is caught, too: names are all that there is to go by.
    """
    found: dict[str, list[int]] = {}
    for index, names in enumerate(zip(items.ids, items.groups, items.picture_ids, strict=True)):
        for number in {each for name in names for each in _ARTICLE.findall(name)}:
            found.setdefault(f"PMC{number}", []).append(index)
    return found


@dataclass(frozen=True, slots=True)
class Block:
    """Some neighbouring training samples of one shard."""

    start: int
    """Number of the first in the view's split."""
    table: pa.Table
    """`key`, `sha256`, `source_md5`, `phash`, `pmcid`."""
    vectors_MD: Vectors | None


def blocks(archive: Archive, samples: Samples, features: FeatureSet | None) -> Iterator[Block]:
    """All of them, in order. Raises `ArchiveError` where the tables hold other samples than the view."""
    last, table = -1, pa.table({})
    for begin in range(0, len(samples), _BLOCK):
        rows = samples.take(np.arange(begin, min(begin + _BLOCK, len(samples))))
        edges = [0, *(np.flatnonzero(np.diff(rows.shard)) + 1).tolist(), len(rows.shard)]
        for start, stop in pairwise(edges):
            number = int(rows.shard[start])
            shard = samples.shard_names[number]
            if number != last:
                last, table = number, pq.read_table(figures_path(archive, shard), columns=_COLUMNS)
            keys = pa.array(rows.keys[start:stop], pa.string())
            places = pc.index_in(keys, table["key"].combine_chunks())
            if places.null_count:
                raise ArchiveError(
                    f"shard {shard}: its table lacks {places.null_count:,} samples of the view"
                )
            vectors = None
            if features is not None:
                vectors = features.read(shard)[places.to_numpy()].astype(np.float32)
            yield Block(begin + start, table.take(places), vectors)


class Nearest:
    """The nearest training samples of each picture by cosine, up to `MOST`."""

    def __init__(self, num_pictures: int, least: float) -> None:
        self._cosines: list[Vectors] = [np.empty(0, np.float32) for _ in range(num_pictures)]
        self._numbers = [np.empty(0, np.int64) for _ in range(num_pictures)]
        self._least_P = np.full(num_pictures, least, np.float32)

    def add(self, vectors_PD: Vectors, block: Block) -> None:
        """Look at some more samples; rows without a number (NaN) are near nothing."""
        assert block.vectors_MD is not None
        for start in range(0, len(vectors_PD), _PICTURES):
            cosines_PM = vectors_PD[start : start + _PICTURES] @ block.vectors_MD.T
            near_PM = cosines_PM >= self._least_P[start : start + _PICTURES, None]
            for row in np.flatnonzero(near_PM.any(axis=1)).tolist():
                columns = np.flatnonzero(near_PM[row])
                self._keep(start + row, cosines_PM[row, columns], block.start + columns)

    def _keep(self, picture: int, cosines: Vectors, numbers: NDArray[np.int64]) -> None:
        cosines = np.concatenate([self._cosines[picture], cosines])
        numbers = np.concatenate([self._numbers[picture], numbers])
        order = np.lexsort((numbers, -cosines))[:MOST]
        self._cosines[picture], self._numbers[picture] = cosines[order], numbers[order]
        if len(order) == MOST:
            self._least_P[picture] = self._cosines[picture][-1]

    def of(self, picture: int) -> dict[int, float]:
        """Cosine by number of the sample, nearest first."""
        pairs = zip(self._numbers[picture].tolist(), self._cosines[picture].tolist(), strict=True)
        return dict(pairs)


@dataclass(frozen=True, slots=True)
class NearHash:
    """A training sample whose hash is near a picture's."""

    distance: int
    is_mirrored: bool


@dataclass(slots=True)
class Search:
    """What was found so far."""

    pictures: Pictures
    nearest: Nearest
    same_bytes: dict[int, set[int]] = field(default_factory=dict)
    """By picture: numbers of samples."""
    near_hashes: dict[int, dict[int, NearHash]] = field(default_factory=dict)
    """By picture and number of the sample."""
    articles: dict[str, list[int]] = field(default_factory=dict)
    """By PMCID: numbers of samples."""
    num_samples: int = 0


def search(
    archive: Archive,
    samples: Samples,
    features: FeatureSet | None,
    pictures: Pictures,
    settings: LeakSettings,
    tell: Tell,
) -> Search:
    """Go through all training samples once."""
    least = settings.min_cosine if settings.verify else settings.cosine_alone
    found = Search(pictures, Nearest(len(pictures), least))
    lively = np.flatnonzero(~np.tile(pictures.is_plain_P, 2))
    hashes = NearHashes(pictures.hashes_2P[lively], settings.phash_bits)
    wanted = pa.array(sorted(articles_of(pictures.items)), pa.string())
    vectors = pictures.vectors_PD
    if vectors is not None:
        vectors = np.where(pictures.is_plain_P[:, None], np.float32(np.nan), vectors)
    for block in blocks(archive, samples, features):
        _add_same_bytes(found, block)
        _add_near_hashes(found, block, hashes, lively)
        _add_articles(found, block, wanted)
        if vectors is not None:
            found.nearest.add(vectors, block)
        found.num_samples = block.start + block.table.num_rows
        tell("samples", found.num_samples, len(samples))
    return found


def _add_same_bytes(found: Search, block: Block) -> None:
    for column, known in (("sha256", found.pictures.sha256), ("source_md5", found.pictures.md5)):
        values = block.table[column]
        rows = np.flatnonzero(pc.is_in(values, pa.array(list(known), pa.string())).to_numpy())
        for row, digest in zip(rows.tolist(), values.take(rows).to_pylist(), strict=True):
            for picture in known[digest]:
                found.same_bytes.setdefault(picture, set()).add(block.start + row)


def _add_near_hashes(
    found: Search, block: Block, hashes: NearHashes, lively: NDArray[np.int64]
) -> None:
    """Of hashes that crowds share, a picture keeps the nearest `MOST`, first ones first."""
    own = block.table["phash"].to_numpy()
    known, rows = hashes.near(own)
    places = lively[known]
    distances = np.bitwise_count(found.pictures.hashes_2P[places] ^ own[rows])
    for place, row, distance in zip(
        places.tolist(), rows.tolist(), distances.tolist(), strict=True
    ):
        turn, picture = divmod(place, len(found.pictures))
        near = found.near_hashes.setdefault(picture, {})
        number = block.start + row
        if number not in near or distance < near[number].distance:
            near[number] = NearHash(distance, bool(turn))
    for picture in {place % len(found.pictures) for place in places.tolist()}:
        near = found.near_hashes[picture]
        best = sorted(near, key=lambda number: (near[number].distance, number))[:MOST]
        found.near_hashes[picture] = {number: near[number] for number in best}


def _add_articles(found: Search, block: Block, wanted: pa.Array) -> None:
    values = block.table["pmcid"]
    rows = np.flatnonzero(pc.is_in(values, wanted).to_numpy())
    for row, pmcid in zip(rows.tolist(), values.take(rows).to_pylist(), strict=True):
        found.articles.setdefault(pmcid, []).append(block.start + row)
