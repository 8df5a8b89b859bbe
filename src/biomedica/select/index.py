"""Columns of all samples of an archive, kept between runs in `views/.index/`: one file a column.

The archive's tables are made for reading one shard; 2,400 of them take half a minute to read for a column
or two. So a column that a recipe names is read once and kept, in the order of shards and rows, with what
each shard's part was read from (by digest) beside it. When a shard changes, its part alone is read again. The
folder can be removed at any time.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from biomedica.archive import Archive
from biomedica.errors import ArchiveError
from biomedica.select.columns import Kind
from biomedica.shards import disk_message, file_digest, write_file

FORMAT = "1"
"""Of the files; others are made anew."""
ROWS_IN_BATCH = 1 << 19
_SEPARATOR = "\x1f"
Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A finished shard."""

    name: str
    group: str
    figures: str
    """Digest of its figures file."""
    articles: str
    """Digest of its articles file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where each shard's rows stand in a column."""

    rows: tuple[int, ...]
    """Of each shard, in order."""

    @property
    def starts(self) -> NDArray[np.int64]:
        """First row of each shard, and the number of all rows at the end."""
        return np.concatenate([[0], np.cumsum(self.rows)]).astype(np.int64)

    @property
    def num_rows(self) -> int:
        return sum(self.rows)

    def batches(self) -> list[tuple[int, int]]:
        """(first row, end) of each batch; the same for every column."""
        total = self.num_rows
        return [
            (start, min(start + ROWS_IN_BATCH, total)) for start in range(0, total, ROWS_IN_BATCH)
        ]


class Values:
    """A column of all samples, mapped into memory."""

    def __init__(self, name: str, table: pa.Table, values: list[Any] | None, kind: pa.DataType):
        self.name = name
        self._column = table.column(0)
        self._type = kind
        self._dictionary: pa.Array | None = None
        if values is not None:
            self._dictionary = pa.array(values, kind)

    @property
    def is_few(self) -> bool:
        """Whether it is kept as codes."""
        return self._dictionary is not None

    @property
    def dictionary(self) -> pa.Array:
        """Value of code 1 and up; code 0 is null."""
        assert self._dictionary is not None
        return self._dictionary

    def arrow(self, start: int, end: int) -> pa.ChunkedArray | pa.Array:
        """Rows `start` to `end`. Few-valued columns come as dictionary arrays."""
        if not self.is_few:
            return self._column.slice(start, end - start)
        codes = self.codes(start, end)
        return decoded(codes, self.dictionary)

    def codes(self, start: int, end: int) -> NDArray[Any]:
        """(N,) codes of a few-valued column; a view where the rows lie in one batch."""
        return self.numbers(start, end)

    def numbers(self, start: int, end: int, null: int | None = None) -> NDArray[Any]:
        """(N,) of a column of numbers. null   what stands for null; None: there are none"""
        part = self._column.slice(start, end - start)
        if null is not None:
            part = pc.fill_null(part, null)
        if part.num_chunks == 1:
            return np.asarray(part.chunk(0).to_numpy(zero_copy_only=False))
        return np.asarray(part.to_numpy())


def decoded(codes: NDArray[Any], dictionary: pa.Array) -> pa.DictionaryArray:
    """Codes as Arrow knows them."""
    places = pa.array(codes.astype(np.int32) - 1, pa.int32(), mask=codes == 0)
    return pa.DictionaryArray.from_arrays(places, dictionary)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A column to be opened."""

    name: str
    type: pa.DataType
    kind: Kind


class Source:
    """Where columns of one table are read from."""

    def __init__(
        self,
        state: Callable[[Shard], str],
        read: Callable[[Shard, Sequence[str]], Mapping[str, pa.Array | pa.ChunkedArray]],
        workers: int = 1,
    ) -> None:
        self.state = state
        """What a shard's part rests on, in few characters."""
        self.read = read
        """Columns of a shard by name, a value for each row of its figures file, in its order."""
        self.workers = workers


class Index:
    """The kept columns of an archive."""

    def __init__(
        self,
        archive: Archive,
        shards: Sequence[Shard],
        tell: Callable[[str, int, int], None] = lambda stage, done, total: None,
    ) -> None:
        self.folder = archive.root / "views" / ".index"
        self.shards = shards
        self._tell = tell
        self._layout: Layout | None = None

    @property
    def layout(self) -> Layout:
        """Known once a column is open."""
        assert self._layout is not None
        return self._layout

    def open(self, wanted: Sequence[Wanted], source: Source) -> dict[str, Values]:
        """Columns by name; those that are not kept, or not as things stand, are read and kept."""
        state = [source.state(shard) for shard in self.shards]
        if not all(self._stands(each, state) for each in wanted):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with self._lock():
                    stale = [each for each in wanted if not self._stands(each, state)]
                    if stale:
                        self._make(stale, source, state)
            except OSError as error:
                raise ArchiveError(disk_message(self.folder, error)) from error
        return {each.name: self._opened(each) for each in wanted}

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Wait for others that make columns: they may be the same."""
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.arrow"

    def _read(self, name: str) -> tuple[dict[str, Any], pa.Table] | None:
        """(what a file was made from, its rows); None where there is none that can be used."""
        try:
            with pa.memory_map(str(self._path(name))) as file:
                table = pa.ipc.open_file(file).read_all()
            about = json.loads(self._path(name).with_suffix(".json").read_bytes())
            return (about, table) if about["format"] == FORMAT else None
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            return None

    def _stands(self, wanted: Wanted, state: list[str]) -> bool:
        found = self._read(wanted.name)
        names = [shard.name for shard in self.shards]
        return found is not None and [found[0]["shards"], found[0]["state"]] == [names, state]

    def _opened(self, wanted: Wanted) -> Values:
        found = self._read(wanted.name)
        if found is None:
            raise ArchiveError(
                f"{self._path(wanted.name)} changed while it was read: another command is at work on "
                "the archive. Run this again when it has ended"
            )
        about, table = found
        layout = Layout(rows=tuple(about["rows"]))
        if self._layout is None:
            self._layout = layout
        if layout != self._layout:
            raise ArchiveError(
                f"column {wanted.name} has not as many rows as the figures of the archive; remove "
                f"{self.folder} and run the command again"
            )
        return Values(wanted.name, table, about.get("values"), wanted.type)

    def _make(self, wanted: list[Wanted], source: Source, state: list[str]) -> None:
        writers = {each.name: _writer(self._path(each.name), each) for each in wanted}
        old = {each.name: self._parts(each.name) for each in wanted}
        rows = []
        try:
            found = ordered(
                lambda at: self._part(at, state[at], wanted, source, old),
                range(len(self.shards)),
                source.workers,
            )
            for number, part in enumerate(found):
                rows.append(len(next(iter(part.values()))))
                for name, values in part.items():
                    writers[name].add(values)
                self._tell("index", number + 1, len(self.shards))
            about = {
                "format": FORMAT,
                "shards": [shard.name for shard in self.shards],
                "state": state,
                "rows": rows,
            }
            for name, writer in writers.items():
                noted = self._path(name).with_suffix(".json")
                noted.unlink(missing_ok=True)
                writer.finish()
                write_file(noted, json.dumps(about | {"values": writer.values()}).encode())
        finally:
            for writer in writers.values():
                writer.abandon()

    def _parts(self, name: str) -> dict[tuple[str, str], pa.ChunkedArray]:
        """What is kept of each (shard, state) of a column."""
        found = self._read(name)
        if found is None:
            return {}
        about, table = found
        column = table.column(0)
        starts = Layout(rows=tuple(about["rows"])).starts
        places = zip(about["shards"], about["state"], starts[:-1], about["rows"], strict=True)
        values = about.get("values")
        slices = {
            (shard, state): column.slice(int(start), count) for shard, state, start, count in places
        }
        if values is None:
            return slices
        return {key: _Kept(codes, values) for key, codes in slices.items()}

    def _part(
        self,
        at: int,
        state: str,
        wanted: list[Wanted],
        source: Source,
        old: dict[str, dict[tuple[str, str], Any]],
    ) -> dict[str, Any]:
        """Columns of one shard: what is kept of it, or read anew."""
        shard = self.shards[at]
        kept = {name: parts.get((shard.name, state)) for name, parts in old.items()}
        lacking = [each.name for each in wanted if kept[each.name] is None]
        new = source.read(shard, lacking) if lacking else {}
        return {
            each.name: new[each.name] if each.name in new else kept[each.name] for each in wanted
        }


class _Kept:
    """Codes of a shard from a file that stood, with that file's values."""

    def __init__(self, codes: pa.ChunkedArray, values: list[Any]) -> None:
        self.codes = codes
        self.values = values

    def __len__(self) -> int:
        return len(self.codes)


def ordered(make: Callable[[Given], Made], given: Iterable[Given], workers: int) -> Iterator[Made]:
    """Results in the order of what was given, made by threads, few of them ahead."""
    waiting: list[Any] = []
    with ThreadPoolExecutor(workers) as pool:
        try:
            for each in given:
                waiting.append(pool.submit(make, each))
                if len(waiting) > 2 * workers:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def _own(path: Path) -> Path:
    """The name that a file has until it is complete, this process's own."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _writer(path: Path, wanted: Wanted) -> _FewWriter | _PlainWriter:
    return _FewWriter(path, wanted) if wanted.kind is Kind.FEW else _PlainWriter(path, wanted)


class _PlainWriter:
    """Writes a column as it comes, in batches of a fixed number of rows."""

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self._path, self._own = path, _own(path)
        self._type = wanted.type
        self._chunks: list[pa.Array] = []
        self._rows = 0
        self._schema = pa.schema([pa.field("value", self._type)])
        self._file = pa.ipc.new_file(str(self._own), self._schema)

    def add(self, values: pa.Array | pa.ChunkedArray) -> None:
        """Append a shard's rows."""
        chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
        self._chunks += [chunk.cast(self._type) for chunk in chunks]
        self._rows += len(values)
        while self._rows >= ROWS_IN_BATCH:
            self._flush(ROWS_IN_BATCH)

    def _flush(self, count: int) -> None:
        column = pa.chunked_array(self._chunks, self._type)
        batch = pa.record_batch([column.slice(0, count).combine_chunks()], self._schema)
        self._file.write_batch(batch)
        self._chunks = column.slice(count).chunks
        self._rows -= count

    def finish(self) -> None:
        """Put the file in its place."""
        if self._rows:
            self._flush(self._rows)
        self._file.close()
        self._own.replace(self._path)

    def values(self) -> None:
        """There is no list of them."""

    def abandon(self) -> None:
        """Remove what is not finished."""
        self._file.close()
        self._own.unlink(missing_ok=True)


class _FewWriter:
    """Writes codes; the values stand in the file's metadata."""

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self._path, self._own = path, _own(path)
        self._is_list = pa.types.is_list(wanted.type)
        self._codes: list[NDArray[np.int32]] = []
        self._places: dict[Any, int] = {}

    def add(self, values: pa.Array | pa.ChunkedArray | _Kept) -> None:
        """Append a shard's rows."""
        if isinstance(values, _Kept):
            own = [_SEPARATOR.join(v) if self._is_list else v for v in values.values]
            lookup = np.array([0, *(self._place(value) for value in own)], np.int32)
            self._codes.append(lookup[values.codes.to_numpy()])
            return
        texts = pa.chunked_array(values) if isinstance(values, pa.Array) else values
        if self._is_list:
            texts = pc.binary_join(texts, _SEPARATOR)
        encoded = texts.combine_chunks().dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        own = encoded.dictionary.to_pylist()  # of an article's facts, null may be among them
        lookup = np.array([*(self._place(value) for value in own), 0], np.int32)
        self._codes.append(lookup[pc.fill_null(encoded.indices, len(own)).to_numpy()])

    def _place(self, value: Any) -> int:
        if value is None:
            return 0
        return self._places.setdefault(value, len(self._places) + 1)

    def values(self) -> list[Any]:
        """Those of codes 1 and up, as JSON has them."""
        if self._is_list:
            return [value.split(_SEPARATOR) if value else [] for value in self._places]
        return list(self._places)

    def finish(self) -> None:
        """Put the file in its place."""
        codes = np.concatenate([np.empty(0, np.int32), *self._codes])
        most = len(self._places)
        small = next(kind for kind in (np.int8, np.int16, np.int32) if most <= np.iinfo(kind).max)
        table = pa.table([pa.array(codes.astype(small))], ["value"])
        with pa.ipc.new_file(str(self._own), table.schema) as to:
            to.write_table(table, max_chunksize=ROWS_IN_BATCH)
        self._own.replace(self._path)

    def abandon(self) -> None:
        """Remove what is not finished."""
        self._own.unlink(missing_ok=True)


class Digests:
    """SHA-256 of files, noted with their size and time so that a large one is not read each time."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "digests.json"
        try:
            self._noted: dict[str, list[Any]] = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            self._noted = {}

    def of(self, path: Path) -> str:
        """Digest of a file."""
        stat = path.stat()
        sign = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        noted = self._noted.get(str(path))
        if noted is None or noted[:3] != sign:
            noted = [*sign, file_digest(path)]
            self._noted[str(path)] = noted
            write_file(self._path, json.dumps(self._noted).encode())
        return str(noted[3])
