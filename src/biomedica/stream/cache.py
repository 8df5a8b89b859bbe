"""Ranges that were fetched, kept on a disk of this machine: for each shard a sparse file and a list of
the ranges that it holds. Processes share it; a full cache keeps what it has."""

from __future__ import annotations

import bisect
import fcntl
import hashlib
import os
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path

from biomedica.errors import ArchiveError
from biomedica.shards import disk_message
from biomedica.stream.files import Files, Place
from biomedica.stream.settings import ReadSettings

_RECORD = struct.Struct("<qq")


class CachedFiles:
    """Ranges from the cache where it has them, else from where they stand."""

    def __init__(self, files: Files, settings: ReadSettings) -> None:
        assert settings.cache is not None
        self._files = files
        self._root = Path(settings.cache)
        self._limit = int(settings.cache_gb * 1e9)
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
                self._shards[place.address] = _Cached.open(self._root, place)
            shard = self._shards[place.address]
        if shard.holds(start, stop):
            data = os.pread(shard.data, stop - start, start)
            if len(data) == stop - start:
                return data
        found = self._files.read(place, start, stop)
        if not self._full:
            self._keep(shard, start, found)
        return found

    def _keep(self, shard: _Cached, start: int, data: bytes | memoryview) -> None:
        """Bytes first, then the note that they are there. A disk that is full ends the keeping."""
        if not self._reserve(len(data)):
            self._full = True
            return
        try:
            os.pwrite(shard.data, data, start)
        except OSError:
            self._full = True
            return
        shard.add(start, start + len(data))

    def _reserve(self, count: int) -> bool:
        """Whether so many bytes still fit, counted for all processes."""
        fcntl.flock(self._total, fcntl.LOCK_EX)
        try:
            text = os.pread(self._total, 32, 0)
            used = int(text or b"0")
            if used + count > self._limit:
                return False
            os.pwrite(self._total, b"%31d" % (used + count), 0)
            return True
        finally:
            fcntl.flock(self._total, fcntl.LOCK_UN)


@dataclass(slots=True)
class _Cached:
    """What is kept of one shard."""

    data: int
    """Descriptor of the sparse file."""
    notes: int
    """Descriptor of the list of ranges, appended to by all processes."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    starts: list[int] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)
    """Ranges that do not touch, in order."""

    @classmethod
    def open(cls, root: Path, place: Place) -> _Cached:
        """A shard of another version is another shard."""
        what = f"{place.address}\n{place.size}\n{place.etag}\n{place.version}"
        name = hashlib.sha256(what.encode()).hexdigest()[:32]
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            found = cls(
                os.open(root / f"{name}.data", flags, 0o644),
                os.open(root / f"{name}.ranges", flags | os.O_APPEND, 0o644),
            )
        except OSError as error:
            raise ArchiveError(disk_message(root, error)) from error
        content = os.pread(found.notes, os.fstat(found.notes).st_size, 0)
        whole = len(content) // _RECORD.size * _RECORD.size
        for start, stop in _RECORD.iter_unpack(content[:whole]):
            found._insert(start, stop)
        return found

    def __del__(self) -> None:
        os.close(self.data)
        os.close(self.notes)

    def holds(self, start: int, stop: int) -> bool:
        """Whether all of a range is there."""
        with self.lock:
            place = bisect.bisect_right(self.starts, start) - 1
            return place >= 0 and self.stops[place] >= stop

    def add(self, start: int, stop: int) -> None:
        """Note a range whose bytes are written."""
        with self.lock:
            os.write(self.notes, _RECORD.pack(start, stop))
            self._insert(start, stop)

    def _insert(self, start: int, stop: int) -> None:
        first = bisect.bisect_left(self.stops, start)
        last = bisect.bisect_right(self.starts, stop)
        if first < last:
            start = min(start, self.starts[first])
            stop = max(stop, self.stops[last - 1])
        self.starts[first:last] = [start]
        self.stops[first:last] = [stop]
