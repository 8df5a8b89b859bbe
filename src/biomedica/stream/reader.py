"""Batches of samples' bytes, in a given order: ranges are planned, fetched ahead, checked and cut."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from biomedica.errors import ArchiveError
from biomedica.shards import BLOCK
from biomedica.stream.cache import CachedFiles
from biomedica.stream.files import Files, Place, Ranges, is_remote
from biomedica.stream.ranges import Piece, plan
from biomedica.stream.samples import Rows, Samples
from biomedica.stream.settings import ReadSettings

Ints = NDArray[np.int64]
Bytes = bytes | memoryview
_LOCAL_GAP = 16_384
"""Bytes between samples of a local shard that are read rather than skipped."""
_LOCAL_PIECE = 1 << 20
_LOCAL_TASKS = 4
_AHEAD = 4096
"""Samples that are looked up at once."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One batch to read: its samples, by source and number."""

    position: int
    """Of its first sample in the order."""
    source_N: Ints
    number_N: Ints


@dataclass(frozen=True, slots=True)
class RawBatch:
    """A batch's bytes, in the order asked for. Buffers are views of what was fetched."""

    position: int
    keys: list[str]
    jpgs: list[Bytes]
    txts: list[Bytes]
    metas: list[Bytes]
    """The JSON members; empty unless they were asked for."""


class Reader:
    """Reads batches of one or several views. Made in the process that uses it."""

    def __init__(
        self, sources: Sequence[Samples], settings: ReadSettings, *, with_json: bool = False
    ) -> None:
        self._sources = sources
        self._settings = settings
        self._with_json = with_json
        self._files = Files(settings)
        self._ranges: Ranges = CachedFiles(self._files, settings) if settings.cache else self._files
        self._or_cache = f" (as may be the cache in {settings.cache}: remove it)" * bool(
            settings.cache
        )
        self._places: dict[tuple[int, int], Place] = {}

    def batches(self, wanted: Iterable[Wanted]) -> Iterator[RawBatch]:
        """Every batch, in order. Raises `ArchiveError` with the shard's name when a sample cannot be had."""
        remote = any(is_remote(source.address) for source in self._sources)
        threads = self._settings.connections if remote else _LOCAL_TASKS
        with ThreadPoolExecutor(threads, thread_name_prefix="biomedica-read") as pool:
            try:
                waiting: _Fetch | None = None
                for group in self._groups(wanted):
                    fetch = self._start(pool, group)
                    if waiting is not None:
                        yield from self._finish(waiting)
                    waiting = fetch
                if waiting is not None:
                    yield from self._finish(waiting)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _groups(self, wanted: Iterable[Wanted]) -> Iterator[_Group]:
        """Batches that are fetched together: half of the memory, at least one batch."""
        most = self._settings.memory_mb * 500_000
        batches: list[Wanted] = []
        parts: list[_Spans] = []
        num_bytes = 0
        for some in _stretches(wanted):
            spans = self._look_up(some)
            place = 0
            for batch in some:
                part = spans.part(place, place + len(batch.number_N))
                place += len(batch.number_N)
                if batches and num_bytes + part.num_bytes > most:
                    yield _Group(batches, _Spans.joined(parts))
                    batches, parts, num_bytes = [], [], 0
                batches.append(batch)
                parts.append(part)
                num_bytes += part.num_bytes
        if batches:
            yield _Group(batches, _Spans.joined(parts))

    def _look_up(self, some: Sequence[Wanted]) -> _Spans:
        sources = np.concatenate([batch.source_N for batch in some])
        numbers = np.concatenate([batch.number_N for batch in some])
        count = len(numbers)
        keys: list[str] = [""] * count
        shard, start, stop = (np.empty(count, np.int64) for _ in range(3))
        members = np.empty((6, count), np.int64)
        for source in np.unique(sources).tolist():
            places = np.flatnonzero(sources == source)
            rows = self._sources[source].take(numbers[places])
            for place, key in zip(places.tolist(), rows.keys, strict=True):
                keys[place] = key
            shard[places] = rows.shard
            begin, end, parts = self._wanted_bytes(rows)
            start[places], stop[places], members[:, places] = begin, end, parts
        return _Spans(keys, sources, shard, start, stop, members)

    def _wanted_bytes(self, rows: Rows) -> tuple[Ints, Ints, Ints]:
        """From the JPEG's tar header to the end of the last member that is wanted."""
        members = [(rows.jpg_offset, rows.jpg_size), (rows.txt_offset, rows.txt_size)]
        if self._with_json:
            members.append((rows.json_offset, rows.json_size))
        start = np.minimum.reduce([offset for offset, _ in members]) - BLOCK
        stop = np.maximum.reduce([offset + size for offset, size in members])
        if not self._with_json:
            members.append((rows.jpg_offset, np.zeros_like(rows.jpg_size)))
        return start, stop, np.stack([each for member in members for each in member])

    def _start(self, pool: ThreadPoolExecutor, group: _Group) -> _Fetch:
        spans = group.spans
        jobs: list[tuple[list[tuple[Place, Piece]], Future[list[Bytes]]]] = []
        for source in np.unique(spans.source).tolist():
            samples = np.flatnonzero(spans.source == source)
            remote, pieces = self._planned(source, spans, samples)
            some = 1 if remote else max(1, -(-len(pieces) // _LOCAL_TASKS))
            for first in range(0, len(pieces), some):
                part = pieces[first : first + some]
                jobs.append((part, pool.submit(self._read, part)))
        return _Fetch(group, jobs)

    def _planned(
        self, source: int, spans: _Spans, samples: Ints
    ) -> tuple[bool, list[tuple[Place, Piece]]]:
        shards = spans.shard[samples]
        places = {number: self._place(source, number) for number in np.unique(shards).tolist()}
        remote = any(is_remote(place.address) for place in places.values())
        pieces = plan(
            shards,
            spans.start[samples],
            spans.stop[samples],
            gap=self._settings.gap_kb * 1000 if remote else _LOCAL_GAP,
            most=int(self._settings.piece_mb * 1e6) if remote else _LOCAL_PIECE,
        )
        return remote, [
            (places[each.shard], Piece(each.shard, each.start, each.stop, samples[each.samples]))
            for each in pieces
        ]

    def _place(self, source: int, shard: int) -> Place:
        found = self._places.get((source, shard))
        if found is None:
            found = self._places[source, shard] = self._sources[source].place(shard)
        return found

    def _read(self, pieces: list[tuple[Place, Piece]]) -> list[Bytes]:
        return [self._ranges.read(place, piece.start, piece.stop) for place, piece in pieces]

    def _finish(self, fetch: _Fetch) -> Iterator[RawBatch]:
        spans = fetch.group.spans
        count = len(spans.keys)
        jpgs: list[Bytes] = [b""] * count
        txts, metas = list(jpgs), list(jpgs) if self._with_json else []
        while fetch.jobs:
            pieces, job = fetch.jobs.pop()
            for (place, piece), data in zip(pieces, job.result(), strict=True):
                self._cut(place, piece, data, spans, jpgs, txts, metas)
        start = 0
        for batch in fetch.group.batches:
            stop = start + len(batch.number_N)
            yield RawBatch(
                batch.position,
                spans.keys[start:stop],
                jpgs[start:stop],
                txts[start:stop],
                metas[start:stop],
            )
            jpgs[start:stop] = txts[start:stop] = [b""] * (stop - start)
            start = stop

    def _cut(
        self,
        place: Place,
        piece: Piece,
        data: Bytes,
        spans: _Spans,
        jpgs: list[Bytes],
        txts: list[Bytes],
        metas: list[Bytes],
    ) -> None:
        """Give each sample of a piece its members, after a look at the tar header of its picture."""
        view = memoryview(data)
        members = (spans.members[::2, piece.samples] - piece.start).T.tolist()
        sizes = spans.members[1::2, piece.samples].T.tolist()
        for i, starts, lengths in zip(piece.samples.tolist(), members, sizes, strict=True):
            (jpg, txt, meta), (jpg_size, txt_size, meta_size) = starts, lengths
            key = spans.keys[i]
            header = bytes(view[jpg - BLOCK : jpg - 376])
            if not _is_header(header, key, jpg_size, place.is_foreign):
                raise ArchiveError(
                    f"shard {place.shard} at {place.address} holds no picture of {key} at byte "
                    f"{piece.start + jpg:,}: it is another version than the one that was indexed, or "
                    f"damaged{self._or_cache}"
                )
            jpgs[i] = view[jpg : jpg + jpg_size]
            txts[i] = view[txt : txt + txt_size]
            if metas:
                metas[i] = view[meta : meta + meta_size]
        if self._settings.verify == "sha256":
            self._verify(place, piece, spans, jpgs)

    def _verify(self, place: Place, piece: Piece, spans: _Spans, jpgs: list[Bytes]) -> None:
        numbers = piece.samples.tolist()
        keys = [spans.keys[i] for i in numbers]
        source = self._sources[int(spans.source[numbers[0]])]
        for i, key, noted in zip(numbers, keys, source.digests(place.shard, keys), strict=True):
            if hashlib.sha256(jpgs[i]).hexdigest() != noted:
                raise ArchiveError(
                    f"shard {place.shard} at {place.address}: the picture of {key} has another SHA-256 "
                    "than its figures file notes"
                )


def _is_header(header: bytes, key: str, size: int, is_foreign: bool) -> bool:
    """Whether the first 136 bytes of a tar header are those of a picture.

    Its name is known in shards of our own; elsewhere its size is what can be compared.
    """
    try:
        states = int(header[124:135], 8) == size
    except ValueError:
        return False
    return states and (is_foreign or header.startswith(f"{key}.jpg\0".encode()))


def _stretches(wanted: Iterable[Wanted]) -> Iterator[list[Wanted]]:
    """Batches until there are enough samples to be looked up together."""
    some: list[Wanted] = []
    count = 0
    for batch in wanted:
        some.append(batch)
        count += len(batch.number_N)
        if count >= _AHEAD:
            yield some
            some, count = [], 0
    if some:
        yield some


@dataclass(frozen=True, slots=True)
class _Spans:
    """Where N samples are: wanted bytes [start, stop) of a shard, and (offset, size) of three members."""

    keys: list[str]
    source: Ints
    shard: Ints
    start: Ints
    stop: Ints
    members: Ints

    @property
    def num_bytes(self) -> int:
        return int((self.stop - self.start).sum())

    def part(self, first: int, last: int) -> _Spans:
        cut = slice(first, last)
        return _Spans(
            self.keys[cut],
            self.source[cut],
            self.shard[cut],
            self.start[cut],
            self.stop[cut],
            self.members[:, cut],
        )

    @staticmethod
    def joined(parts: Sequence[_Spans]) -> _Spans:
        return _Spans(
            [key for part in parts for key in part.keys],
            np.concatenate([part.source for part in parts]),
            np.concatenate([part.shard for part in parts]),
            np.concatenate([part.start for part in parts]),
            np.concatenate([part.stop for part in parts]),
            np.concatenate([part.members for part in parts], axis=1),
        )


@dataclass(frozen=True, slots=True)
class _Group:
    """Batches that are fetched together."""

    batches: list[Wanted]
    spans: _Spans


@dataclass(frozen=True, slots=True)
class _Fetch:
    """A group under way."""

    group: _Group
    jobs: list[tuple[list[tuple[Place, Piece]], Future[list[Bytes]]]]


def split_evenly(start: int, stop: int, parts: int, part: int) -> tuple[int, int]:
    """A contiguous share of [start, stop): sizes differ by one at the most."""
    edges = [start + (stop - start) * i // parts for i in range(parts + 1)]
    return list(pairwise(edges))[part]
