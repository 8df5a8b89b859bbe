"""Facts and small pictures of samples, read when they are asked for and kept while there is room."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from biomedica.archive import Archive
from biomedica.features import figures_path

_COLUMNS = (
    "key",
    "shard",
    "jpg_offset",
    "jpg_size",
    "caption",
    "figure_label",
    "figure_rights",
    "title",
    "journal",
    "license_code",
    "pmcid",
)
_MAX_FACTS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is told of a sample beside its picture."""

    key: str
    shard: str
    jpg_offset: int
    jpg_size: int
    caption: str
    figure_label: str | None
    figure_rights: str | None
    title: str | None
    journal: str | None
    license_code: str | None
    pmcid: str


class Pictures:
    """Samples of an archive by key and shard. Threads may share it."""

    def __init__(self, archive: Archive, cache_bytes: int) -> None:
        self._archive = archive
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()
        self._facts: OrderedDict[tuple[str, int, str], Facts] = OrderedDict()
        self._pictures: OrderedDict[tuple[str, int, int, int], bytes] = OrderedDict()
        self._held = 0
        self._withdrawn: tuple[int, set[tuple[str, str]]] = (-1, set())

    def withdrawn(self) -> set[tuple[str, str]]:
        """(key, shard) of samples that must not be shown, as the archive says now."""
        try:
            state = self._archive.tombstones_path.stat().st_mtime_ns
        except FileNotFoundError:
            state = 0
        if self._withdrawn[0] != state:
            self._withdrawn = (state, self._archive.withdrawn())
        return self._withdrawn[1]

    def facts(self, places: Iterable[tuple[str, str]]) -> dict[str, Facts]:
        """Facts of samples by key; those that are withdrawn or not there are missing.

        places   (key, shard)
        """
        withdrawn = self.withdrawn()
        wanted: dict[str, list[str]] = defaultdict(list)
        for key, shard in places:
            if (key, shard) not in withdrawn:
                wanted[shard].append(key)
        found: dict[str, Facts] = {}
        for shard, keys in wanted.items():
            found |= self._of_shard(shard, keys)
        return found

    def changed(self, shards: Iterable[str]) -> tuple[int, ...]:
        """When each shard was written, in nanoseconds; 0 for those that are not there."""
        found = []
        for shard in shards:
            try:
                found.append(figures_path(self._archive, shard).stat().st_mtime_ns)
            except FileNotFoundError:
                found.append(0)
        return tuple(found)

    def keys(self, shard: str) -> set[str]:
        """Keys of all samples of a shard; none where it is not there."""
        try:
            column = pq.read_table(figures_path(self._archive, shard), columns=["key"])["key"]
        except FileNotFoundError:
            return set()
        return set(column.to_pylist())

    def _of_shard(self, shard: str, keys: list[str]) -> dict[str, Facts]:
        path = figures_path(self._archive, shard)
        try:
            state = path.stat().st_mtime_ns  # a shard that is compacted has other offsets
        except FileNotFoundError:
            return {}
        with self._lock:
            known = {
                key: self._facts[shard, state, key]
                for key in keys
                if (shard, state, key) in self._facts
            }
        lacking = [key for key in keys if key not in known]
        if not lacking:
            return known
        read = {row["key"]: Facts(**row) for row in _rows(path, set(lacking))}
        with self._lock:
            for key, facts in read.items():
                self._facts[shard, state, key] = facts
            while len(self._facts) > _MAX_FACTS:
                self._facts.popitem(last=False)
        return known | read

    def small(self, facts: Facts, side: int) -> bytes | None:
        """The picture as a JPEG whose longer side is at most `side` pixels; None where it does not decode."""
        place = (facts.shard, facts.jpg_offset, facts.jpg_size, side)
        with self._lock:
            found = self._pictures.get(place)
            if found is not None:
                self._pictures.move_to_end(place)
                return found
        made = _smaller(self._read(facts), side)
        if made is not None:
            self._keep(place, made)
        return made

    def _read(self, facts: Facts) -> bytes:
        tar = self._archive.root / "shards" / facts.shard.rpartition("-")[0] / f"{facts.shard}.tar"
        with tar.open("rb") as file:
            return os.pread(file.fileno(), facts.jpg_size, facts.jpg_offset)

    def _keep(self, place: tuple[str, int, int, int], made: bytes) -> None:
        with self._lock:
            if place not in self._pictures:
                self._held += len(made)
            self._pictures[place] = made
            while self._held > self._cache_bytes and len(self._pictures) > 1:
                self._held -= len(self._pictures.popitem(last=False)[1])


def _rows(path: Path, keys: set[str]) -> Iterator[dict[str, Any]]:
    """Rows of some keys. Captions are read of the row groups that hold one, not of the whole shard."""
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            here = file.read_row_group(number, columns=["key"])["key"].to_pylist()
            places = [place for place, key in enumerate(here) if key in keys]
            if places:
                group = file.read_row_group(number, columns=list(_COLUMNS))
                yield from group.take(places).to_pylist()


def _smaller(jpeg: bytes, side: int) -> bytes | None:
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            image.draft("RGB", (side, side))
            small = image.convert("RGB")
            small.thumbnail((side, side), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    data = io.BytesIO()
    small.save(data, "JPEG", quality=85)
    return data.getvalue()
