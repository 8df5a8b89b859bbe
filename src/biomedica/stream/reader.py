"""Batches of samples' bytes, in a given order: ranges are planned, fetched ahead, checked and cut.

From a server, whole pieces are fetched by many requests at once and cut into samples. From a disk, the
kernel is told what comes (posix_fadvise) and each sample is read when it is used, into memory that
the processor's cache still holds. Reading pieces ahead into large buffers costs more CPU than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from biomedica.errors import ArchiveError
from biomedica.foreign.tars import number_in
from biomedica.shards import BLOCK
from biomedica.stream.cache import CachedFiles
from biomedica.stream.files import Files, Place, Ranges
from biomedica.stream.ranges import Piece, plan
from biomedica.stream.samples import Rows, Samples, picture_digest
from biomedica.stream.settings import ReadSettings

Ints = NDArray[np.int64]
Bytes = bytes | memoryview
Members = tuple[Bytes, Bytes, Bytes]
_MEMBERS = ("jpg", "txt", "json")
_LOCAL_GAP = 128 << 10
_LOCAL_PIECE = 1 << 20
"""Bytes: how neighbours are joined when the kernel is told of them."""
_AHEAD = 4096
"""Samples that are looked up at once."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One batch to read: its samples, by source and number."""

    position: int
    """Of its first sample in the order."""
    source_N: Ints
    number_N: Ints
    is_edge: bool = False
    """Whether few of its neighbours in the shards come after it: where a group is best cut."""


@dataclass(frozen=True, slots=True)
class RawBatch:
    """A batch's bytes, in the order asked for. Can be gone through once."""

    position: int
    keys: list[str]
    members: Iterator[Members]
    """Picture, caption and JSON of each sample; the JSON is empty unless it was asked for or holds the
    caption. From a disk, a sample is read when its turn comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """What some samples take."""

    samples: int
    requests: int
    wanted: int
    """Bytes of the members that are wanted."""
    fetched: int
    """Bytes with the gaps between samples that are fetched with them."""


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
        self._files.over.clear()
        with ThreadPoolExecutor(
            self._settings.connections, thread_name_prefix="biomedica-read"
        ) as pool:
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
                self._files.over.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def requests(self, wanted: Iterable[Wanted]) -> Iterator[Requests]:
        """What each group of batches takes, without fetching it."""
        for group in self._groups(wanted):
            pieces = [piece for _, _, some in self._planned(group.spans) for _, piece in some]
            yield Requests(
                samples=len(group.spans.keys),
                requests=len(pieces),
                wanted=group.spans.num_bytes,
                fetched=sum(piece.stop - piece.start for piece in pieces),
            )

    def _groups(self, wanted: Iterable[Wanted]) -> Iterator[_Group]:
        """Batches that are fetched together: half of the memory, at least one batch; cut at edges."""
        most = self._settings.memory_mb * 500_000
        batches: list[Wanted] = []
        parts: list[_Spans] = []
        held = 0
        for some in _stretches(wanted):
            spans = self._look_up(some)
            place = 0
            for batch in some:
                part = spans.part(place, place + len(batch.number_N))
                place += len(batch.number_N)
                size = part.num_bytes
                if batches and held + size > most:
                    edges = [i for i, each in enumerate(batches) if each.is_edge]
                    cut = edges[-1] + 1 if edges else len(batches)
                    yield _Group(batches[:cut], _Spans.joined(parts[:cut]))
                    batches, parts = batches[cut:], parts[cut:]
                    held = sum(each.num_bytes for each in parts)
                batches.append(batch)
                parts.append(part)
                held += size
        if batches:
            yield _Group(batches, _Spans.joined(parts))

    def _look_up(self, some: Sequence[Wanted]) -> _Spans:
        """Where the samples of some batches are."""
        sources = np.concatenate([batch.source_N for batch in some])
        numbers = np.concatenate([batch.number_N for batch in some])
        count = len(numbers)
        keys: list[str] = [""] * count
        shard, start, stop, digest = (np.zeros(count, np.int64) for _ in range(4))
        members = np.zeros((6, count), np.int64)
        for source in np.unique(sources).tolist():
            places = np.flatnonzero(sources == source)
            rows = self._sources[source].take(numbers[places])
            for place, key in zip(places.tolist(), rows.keys, strict=True):
                keys[place] = key
            shard[places], digest[places] = rows.shard, rows.digest
            start[places], stop[places], members[:, places] = self._wanted_bytes(rows)
        return _Spans(keys, sources, shard, start, stop, digest, members)

    def _wanted_bytes(self, rows: Rows) -> tuple[Ints, Ints, Ints]:
        """From the first wanted member's tar header to the end of the last, and (offset, size) of each.

        A member that is not wanted, or not there, is empty and stands where the picture does. The JSON of
        a sample without a caption file is always wanted: the caption is in it.
        """
        with_json = self._with_json | (rows.txt_size == 0)
        members = [
            (rows.jpg_offset, rows.jpg_size),
            (np.where(rows.txt_size > 0, rows.txt_offset, rows.jpg_offset), rows.txt_size),
            (
                np.where(with_json, rows.json_offset, rows.jpg_offset),
                np.where(with_json, rows.json_size, 0),
            ),
        ]
        start = np.minimum.reduce([offset for offset, _ in members]) - BLOCK
        stop = np.maximum.reduce([offset + size for offset, size in members])
        return start, stop, np.stack([each for member in members for each in member])

    def _planned(self, spans: _Spans) -> Iterator[tuple[int, bool, list[tuple[Place, Piece]]]]:
        """For each source: whether it is on a server, and its pieces with their places."""
        for source in np.unique(spans.source).tolist():
            samples = np.flatnonzero(spans.source == source)
            shards = spans.shard[samples]
            places = self._places_of(source, np.unique(shards).tolist())
            remote = any(place.is_remote for place in places.values())
            pieces = plan(
                shards,
                spans.start[samples],
                spans.stop[samples],
                gap=self._settings.gap_kb * 1000 if remote else _LOCAL_GAP,
                most=int(self._settings.piece_mb * 1e6) if remote else _LOCAL_PIECE,
            )
            yield (
                source,
                remote,
                [
                    (
                        places[piece.shard],
                        Piece(piece.shard, piece.start, piece.stop, samples[piece.samples]),
                    )
                    for piece in pieces
                ],
            )

    def _start(self, pool: ThreadPoolExecutor, group: _Group) -> _Fetch:
        """Ask for all of a group."""
        jobs: list[Future[list[tuple[int, Members]]]] = []
        for _, remote, pieces in self._planned(group.spans):
            for place, piece in pieces:
                if remote:
                    jobs.append(pool.submit(self._fetched, place, piece, group.spans))
                else:
                    self._files.local.will_need(place, piece.start, piece.stop)
        return _Fetch(group, jobs)

    def _places_of(self, source: int, shards: list[int]) -> dict[int, Place]:
        """Where shards stand: on a server, a small request for each that was not met before."""
        new = [each for each in shards if (source, each) not in self._places]
        samples = self._sources[source]
        if new and samples.is_remote:
            with ThreadPoolExecutor(min(len(new), self._settings.connections)) as pool:
                found = list(pool.map(samples.place, new))
        else:
            found = [samples.place(each) for each in new]
        for each, place in zip(new, found, strict=True):
            self._places[source, each] = place
        return {each: self._places[source, each] for each in shards}

    def _finish(self, fetch: _Fetch) -> Iterator[RawBatch]:
        """The batches of a group, as soon as all of it is there."""
        spans = fetch.group.spans
        fetched: dict[int, Members] = {}
        while fetch.jobs:
            fetched.update(fetch.jobs.pop().result())
        start = 0
        for batch in fetch.group.batches:
            stop = start + len(batch.number_N)
            part = range(start, stop)
            members = (
                self._local(spans, start, stop)
                if not fetched
                else (fetched.pop(i) if i in fetched else self._one(spans, i) for i in part)
            )
            yield RawBatch(batch.position, spans.keys[start:stop], members)
            start = stop

    def _one(self, spans: _Spans, i: int) -> Members:
        return next(self._local(spans, i, i + 1))

    def _local(self, spans: _Spans, first: int, last: int) -> Iterator[Members]:
        """Samples of shards on this machine, each read when its turn comes."""
        part = spans.part(first, last)
        starts, stops = part.start.tolist(), part.stop.tolist()
        members = (part.members - part.start).tolist()
        sizes = part.members.tolist()
        where = zip(part.source.tolist(), part.shard.tolist(), strict=True)
        places = [self._places[at] for at in where]
        read = self._files.local.read
        for key, place, digest, start, stop, jpg, txt, meta, jpg_size, txt_size, meta_size in zip(
            part.keys,
            places,
            part.digest.tolist(),
            starts,
            stops,
            *members[::2],
            *sizes[1::2],
            strict=True,
        ):
            data = read(place, start, stop)
            view = memoryview(data)
            if meta_size or digest or not _is_pair(data, key, jpg, jpg_size, txt, txt_size):
                lengths = jpg_size, txt_size, meta_size
                self._check(place, key, digest, view, start, (jpg, txt, meta), lengths)
            yield (
                view[jpg : jpg + jpg_size],
                view[txt : txt + txt_size],
                view[meta : meta + meta_size],
            )

    def _fetched(self, place: Place, piece: Piece, spans: _Spans) -> list[tuple[int, Members]]:
        """The samples of a piece. Where most of it is gaps, they are copied out, so that the gaps take no
        memory while a sample waits for its turn."""
        data = self._ranges.read(place, piece.start, piece.stop)
        cut = self._cut(place, piece, data, spans)
        wanted = (spans.stop[piece.samples] - spans.start[piece.samples]).sum()
        if 2 * wanted >= piece.stop - piece.start:
            return list(cut)
        return [(i, (bytes(jpg), bytes(txt), bytes(meta))) for i, (jpg, txt, meta) in cut]

    def _cut(
        self, place: Place, piece: Piece, data: Bytes, spans: _Spans
    ) -> Iterator[tuple[int, Members]]:
        """The samples of a piece that was fetched, by their number in the group."""
        view = memoryview(data)
        members = (spans.members[::2, piece.samples] - piece.start).T.tolist()
        sizes = spans.members[1::2, piece.samples].T.tolist()
        digests = spans.digest[piece.samples].tolist()
        for i, starts, lengths, digest in zip(
            piece.samples.tolist(), members, sizes, digests, strict=True
        ):
            self._check(place, spans.keys[i], digest, view, piece.start, starts, lengths)
            jpg, txt, meta = (
                view[start : start + size] for start, size in zip(starts, lengths, strict=True)
            )
            yield i, (jpg, txt, meta)

    def _check(
        self,
        place: Place,
        key: str,
        digest: int,
        view: memoryview,
        start: int,
        offsets: Sequence[int],
        sizes: Sequence[int],
    ) -> None:
        """Look at the tar header of each member, and at the picture's digest where one is known."""
        for name, offset, size in zip(_MEMBERS, offsets, sizes, strict=True):
            header = bytes(view[offset - BLOCK : offset - 376])
            if size and not _is_header(header, f"{key}.{name}", size, place.is_foreign):
                raise ArchiveError(
                    f"shard {place.shard} at {place.address} holds no {name} of {key} at byte "
                    f"{start + offset:,}: it is another version than the one that was indexed, or damaged"
                    f"{self._or_cache}"
                )
        if digest and picture_digest(view[offsets[0] : offsets[0] + sizes[0]]) != digest:
            raise ArchiveError(
                f"shard {place.shard} at {place.address}: the picture of {key} has another SHA-256 than its "
                f"figures file notes{self._or_cache}"
            )


def _is_pair(data: bytes, key: str, jpg: int, jpg_size: int, txt: int, txt_size: int) -> bool:
    """Whether a picture's and a caption's tar headers are as this program writes them (the quick look)."""
    return (
        data.startswith(f"{key}.jpg\0".encode(), jpg - BLOCK)
        and data.startswith(b"%011o" % jpg_size, jpg - 388)
        and data.startswith(f"{key}.txt\0".encode(), txt - BLOCK)
        and data.startswith(b"%011o" % txt_size, txt - 388)
    )


def _is_header(header: bytes, name: str, size: int, is_foreign: bool) -> bool:
    """Whether the first 136 bytes of a tar header are those of a member.

    Its name is known in shards of our own; elsewhere its size is what can be compared.
    """
    is_named = is_foreign or header.startswith(f"{name}\0".encode())
    return is_named and number_in(header[124:136]) == size


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
    digest: Ints
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
            self.digest[cut],
            self.members[:, cut],
        )

    @staticmethod
    def joined(parts: Sequence[_Spans]) -> _Spans:
        return _Spans(
            list(chain.from_iterable(part.keys for part in parts)),
            np.concatenate([part.source for part in parts]),
            np.concatenate([part.shard for part in parts]),
            np.concatenate([part.start for part in parts]),
            np.concatenate([part.stop for part in parts]),
            np.concatenate([part.digest for part in parts]),
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
    jobs: list[Future[list[tuple[int, Members]]]]


def split_evenly(start: int, stop: int, parts: int, part: int) -> tuple[int, int]:
    """A contiguous share of [start, stop): sizes differ by one at the most."""
    count = stop - start
    return start + count * part // parts, start + count * (part + 1) // parts
