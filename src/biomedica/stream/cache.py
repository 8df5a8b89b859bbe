"""Ranges that were fetched, kept on a disk of this machine: for each shard a sparse file and a list of
the ranges that it holds. Processes share it; a full cache keeps what it has.

A machine that goes down may keep the note of a range and lose its bytes, so a note has the bytes' CRC-32,
which is compared once in each process. Notes are lines: one that was torn spoils no other.
"""

from __future__ import annotations

import bisect
import errno
import fcntl
import hashlib
import os
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from biomedica.errors import ArchiveError
from biomedica.shards import disk_message
from biomedica.stream.files import Files, Place
from biomedica.stream.settings import ReadSettings

_NOTE = re.compile(rb"^(\d{1,15}) (\d{1,15}) (\d{1,10})$", re.MULTILINE)
"""Start, stop, CRC-32."""


class CachedFiles:
    """Ranges from the cache where it has them, else from where they stand."""

    def __init__(self, files: Files, settings: ReadSettings) -> None:
        assert settings.cache is not None
        self._files = files
        self._root = Path(settings.cache)
        self._limit = int(settings.cache_gb * 1e9)
        self._gap = int(settings.gap_kb * 1000)
        self._shards: dict[str, _Cached] = {}
        self._lock = threading.Lock()
        self._full = False
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._total = os.open(
                self._root / "bytes", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
            )
        except OSError as error:
            raise ArchiveError(disk_message(self._root, error)) from error

    def __del__(self) -> None:
        if hasattr(self, "_total"):
            os.close(self._total)

    def read(self, place: Place, start: int, stop: int) -> bytes | memoryview:
        """See `Ranges`."""
        if not place.is_remote:
            return self._files.read(place, start, stop)
        with self._lock:
            if place.address not in self._shards:
                self._shards[place.address] = _Cached(self._root, place)
            shard = self._shards[place.address]
        kept = shard.read(start, stop)
        if kept is not None:
            return kept
        parts, at = [], start
        for first, last in _joined(shard.holes(start, stop), self._gap):
            if at < first:
                parts.append(shard.read(at, first) or self._files.read(place, at, first))
            parts.append(self._fetched(place, shard, first, last))
            at = last
        if at < stop:
            parts.append(shard.read(at, stop) or self._files.read(place, at, stop))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _fetched(self, place: Place, shard: _Cached, start: int, stop: int) -> bytes | memoryview:
        found = self._files.read(place, start, stop)
        if not self._full:
            self._keep(shard, start, found)
        return found

    def _keep(self, shard: _Cached, start: int, data: bytes | memoryview) -> None:
        """A disk that is full ends the keeping."""
        try:
            new = shard.holes(start, start + len(data))
            if self._reserve(sum(last - first for first, last in new)):
                shard.keep(start, data)
            else:
                self._full = True
        except OSError:
            self._full = True

    def _reserve(self, count: int) -> bool:
        """Whether so many bytes still fit, counted for all processes."""
        with self._lock:  # the file's lock is for other processes: threads share it
            fcntl.flock(self._total, fcntl.LOCK_EX)
            try:
                return self._count(count)
            finally:
                fcntl.flock(self._total, fcntl.LOCK_UN)

    def _count(self, count: int) -> bool:
        text = os.pread(self._total, 32, 0)
        try:
            used = int(text or b"0")
        except ValueError:  # the count is lost; the files tell
            used = sum(path.stat().st_blocks * 512 for path in self._root.glob("*.data"))
        if used + count > self._limit:
            return False
        os.pwrite(self._total, b"%31d" % (used + count), 0)
        return True


def _joined(holes: list[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """Holes to fetch: what is there between two is fetched again where it is not worth another request."""
    found = holes[:1]
    for start, stop in holes[1:]:
        if start - found[-1][1] <= gap:
            found[-1] = found[-1][0], stop
        else:
            found.append((start, stop))
    return found


class _Cached:
    """What is kept of one shard. Files are open only while they are used: shards may be many."""

    def __init__(self, root: Path, place: Place) -> None:
        # a shard of another version is another shard
        what = f"{place.address}\n{place.size}\n{place.etag}\n{place.version}"
        name = hashlib.sha256(what.encode()).hexdigest()[:32]
        self._data, self._notes = root / f"{name}.data", root / f"{name}.notes"
        self._lock = threading.Lock()
        self._starts: list[int] = []
        self._stops: list[int] = []
        """Ranges that do not touch, in order: what this process knows to be there."""
        try:
            notes = self._notes.read_bytes() if self._notes.exists() else b""
        except OSError as error:
            raise ArchiveError(disk_message(root, error)) from error
        found = (tuple(map(int, each)) for each in _NOTE.findall(notes))
        self._noted = [each for each in found if each[0] < each[1]]
        """Start, stop and sum of ranges that are still to be compared."""

    def read(self, start: int, stop: int) -> bytes | None:
        """The bytes [start, stop), where all of them are there."""
        try:
            with _descriptor(self._data, os.O_RDONLY) as file:
                if not self._holds(file, start, stop):
                    return None
                data = os.pread(file, stop - start, start)
        except OSError:
            return None
        return data if len(data) == stop - start else None

    def holes(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Parts of [start, stop) that are not known to be there, in order."""
        with self._lock:
            first = bisect.bisect_right(self._stops, start)
            last = bisect.bisect_left(self._starts, stop)
            held = zip(self._starts[first:last], self._stops[first:last], strict=True)
            edges = [start, *(min(max(at, start), stop) for at in chain.from_iterable(held)), stop]
        return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]

    def keep(self, start: int, data: bytes | memoryview) -> None:
        """Bytes first, then the note that they are there. Raises `OSError` where they do not fit."""
        with _descriptor(self._data, os.O_RDWR | os.O_CREAT) as file:
            _check_all(os.pwrite(file, data, start), len(data))
        stop = start + len(data)
        with self._lock:
            self._insert(start, stop)
        note = b"\n%d %d %d\n" % (start, stop, zlib.crc32(data))
        with _descriptor(self._notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as file:
            _check_all(os.write(file, note), len(note))

    def _holds(self, file: int, start: int, stop: int) -> bool:
        with self._lock:
            self._compare(file, start, stop)
            place = bisect.bisect_right(self._starts, start) - 1
            return place >= 0 and self._stops[place] >= stop

    def _compare(self, file: int, start: int, stop: int) -> None:
        """Of noted ranges that overlap with a wanted one, take those whose bytes have their sum."""
        near = [note for note in self._noted if note[0] < stop and note[1] > start]
        if near:
            self._noted = [note for note in self._noted if note[0] >= stop or note[1] <= start]
        for first, last, noted in near:
            if zlib.crc32(os.pread(file, last - first, first)) == noted:
                self._insert(first, last)

    def _insert(self, start: int, stop: int) -> None:
        first = bisect.bisect_left(self._stops, start)
        last = bisect.bisect_right(self._starts, stop)
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]


@contextmanager
def _descriptor(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        yield file
    finally:
        os.close(file)


def _check_all(written: int, count: int) -> None:
    if written < count:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
