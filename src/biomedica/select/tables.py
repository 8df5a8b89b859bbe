"""The five tables of an archive, row by row beside its figures; what is out of date is refused here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedica import cluster as clusters
from biomedica.archive import Archive
from biomedica.cluster.model import (
    assignment_path,
    folder_of,
    load_model,
    read_assignment,
    read_info,
    state_of,
)
from biomedica.errors import ArchiveError, ConfigError
from biomedica.features import figures_digest, figures_digests, figures_path
from biomedica.label.propagate import labels_path, read_summary
from biomedica.label.propagate import names as label_names
from biomedica.select.index import Digests, Shard, Source
from biomedica.select.reduce import Ints, key_numbers

Columns = Mapping[str, pa.Array | pa.ChunkedArray]
NUMBER, HASH = "figure._number", "figure._hash"
"""Made of `pmcid` and `key`: the PMC number, and the key's number (see `reduce.key_numbers`). A sample
of no known article counts as an article of its own, under a negative number made of its key."""
RANK = "duplicate._rank"
"""Row of `duplicates.parquet`: in a group, the one to keep comes first."""


def finished_shards(archive: Archive) -> list[Shard]:
    """Every finished shard, by name. Raises `ArchiveError` where there is none."""
    found = [
        Shard(
            name=name,
            group=done.group,
            figures=figures_digest(done),
            articles=next((o.sha256 for o in done.outputs if o.path.startswith("articles/")), ""),
        )
        for name, done in sorted(archive.done().items())
    ]
    if not found:
        raise ArchiveError(f"{archive.root} holds no finished shard; `biomedica build` makes them")
    return found


def _short(names: Sequence[str]) -> list[str]:
    return [name.partition(".")[2] for name in names]


def read_parquet(path: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of a table of the archive."""
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=list(columns), use_threads=False)
    except FileNotFoundError:
        raise ArchiveError(
            f"{path} is missing; `biomedica doctor` says what else is, `biomedica build` makes it again"
        ) from None


def figure_source(archive: Archive) -> Source:
    """Columns of the figures files."""

    def read(shard: Shard, names: Sequence[str]) -> Columns:
        own = {NUMBER: "pmcid", HASH: "key"}
        wanted = {name: own.get(name, name.partition(".")[2]) for name in names}
        path = figures_path(archive, shard.name)
        table = read_parquet(path, sorted(set(wanted.values())))
        found: dict[str, Any] = {name: table[column] for name, column in wanted.items()}
        if NUMBER in found:
            found[NUMBER] = _article_numbers(found[NUMBER], path)
        if HASH in found:
            found[HASH] = pa.array(key_numbers(found[HASH].to_pylist()))
        return found

    return Source(state=lambda shard: shard.figures, read=read, workers=2)


def _article_numbers(pmcids: Any, path: Path) -> Any:
    is_known = pc.not_equal(pmcids, "")
    digits = pc.utf8_slice_codeunits(pmcids, 3)
    numbers = pc.cast(pc.if_else(is_known, digits, pa.scalar(None, pa.string())), pa.int64())
    if not numbers.null_count:
        return numbers
    keys = read_parquet(path, ["key"])["key"].to_pylist()
    return pc.coalesce(numbers, pa.array(-1 - (key_numbers(keys) >> np.uint64(1)).astype(np.int64)))


def article_source(archive: Archive) -> Source:
    """Columns of the articles files, each sample's article beside it."""

    def read(shard: Shard, names: Sequence[str]) -> Columns:
        ids = ["pmcid", "version"]
        figures = read_parquet(figures_path(archive, shard.name), ids)
        path = archive.root / "articles" / shard.group / f"{shard.name}.parquet"
        articles = read_parquet(path, [*ids, *_short(names)])
        places = pc.index_in(_article_names(figures), _article_names(articles))
        return {
            name: pa.DictionaryArray.from_arrays(
                places.combine_chunks() if isinstance(places, pa.ChunkedArray) else places,
                _whole(articles[short]),
            )
            for name, short in zip(names, _short(names), strict=True)
        }

    return Source(state=lambda shard: shard.figures + shard.articles, read=read, workers=2)


def _article_names(table: pa.Table) -> pa.Array:
    versions = pc.cast(table["version"], pa.string())
    return _whole(pc.binary_join_element_wise(table["pmcid"], versions, "."))


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return pa.concat_arrays(found.chunks) if isinstance(found, pa.ChunkedArray) else found


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRun:
    """A label run that fits the archive."""

    name: str
    digest: str
    """SHA-256 of its Parquet file."""


def find_labels(archive: Archive, name: str | None, digests: Digests) -> LabelRun | None:
    """The label run of a name, or the only one. Raises `ConfigError` where that can't be told or there is
    none of the name, `ArchiveError` where its figures have changed since."""
    known = label_names(archive)
    if name is None:
        if len(known) > 1:
            raise ConfigError(
                f"{archive.root} has several label runs ({', '.join(known)}); "
                f"name one in the recipe: labels = {known[0]!r}"
            )
        if not known:
            return None
    chosen = name or known[0]
    about = read_summary(archive, chosen)
    again = (
        f"`biomedica labels make {archive.root} --name {about.get('clustering')} --run {chosen}` makes "
        "them again"
    )
    _check_figures(archive, about.get("figures"), f"labels {chosen!r}", again)
    clustering, model = about.get("clustering"), about.get("model")
    if (
        isinstance(clustering, str)
        and isinstance(model, str)
        and clustering in clusters.model.names(archive)
        and clusters.model_digest(archive, clustering) != model
    ):
        raise ArchiveError(
            f"labels {chosen!r} are stale: clustering {clustering!r} was trained anew since; {again}"
        )
    path = labels_path(archive, chosen)
    return LabelRun(name=chosen, digest=digests.of(path))


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ArchiveError(f"{path} is damaged: {error}") from None


def _check_figures(archive: Archive, noted: Any, what: str, again: str) -> None:
    """Compare the figures files that something was made from with those of now."""
    if not isinstance(noted, dict):
        return
    now = figures_digests(archive)
    changed = sorted(name for name in now.keys() | noted.keys() if now.get(name) != noted.get(name))
    if changed:
        raise ArchiveError(
            f"{what} are stale: {len(changed)} of {len(now)} shards are new or changed since "
            f"({', '.join(changed[:3])}); {again}"
        )


def label_source(archive: Archive, run: LabelRun) -> Source:
    """Columns of a label run; null for a sample that it says nothing of."""
    path = labels_path(archive, run.name)
    withdrawn = archive.withdrawn()
    again = f"`biomedica labels make {archive.root}` makes them again"
    rows = _RowsOfShards(path)

    def read(shard: Shard, names: Sequence[str]) -> Columns:
        table = rows.read(shard.name, ["key", *_short(names)])
        keys = read_parquet(figures_path(archive, shard.name), ["key"])["key"]
        if not table.num_rows and any((k, shard.name) not in withdrawn for k in keys.to_pylist()):
            raise ArchiveError(
                f"labels {run.name!r} are stale: they say nothing of shard {shard.name}; {again}"
            )
        places = _places(keys, table["key"], f"labels {run.name!r}", shard.name, again)
        return {
            name: table[short].take(places)
            for name, short in zip(names, _short(names), strict=True)
        }

    return Source(state=lambda shard: f"{run.digest[:16]} {shard.figures}", read=read)


def _places(keys: Any, own: Any, what: str, shard: str, again: str) -> pa.Array:
    """Row of `own` for each key, or null. Raises `ArchiveError` where `own` holds a key that is none."""
    if keys.equals(own):
        return pa.array(np.arange(len(keys)))
    places = pc.index_in(keys, _whole(own))
    if len(keys) - places.null_count != len(own):
        raise ArchiveError(f"{what} are stale: shard {shard} holds other samples now; {again}")
    return places


class _RowsOfShards:
    """A large table in the order of its shards, read a shard at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: pq.ParquetFile | None = None
        self._spans: dict[str, tuple[int, int]] = {}

    def _open(self) -> pq.ParquetFile:
        if self._file is None:
            self._file = pq.ParquetFile(self._path, read_dictionary=["shard"])
            sizes = [
                self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)
            ]
            self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
            place = 0
            for batch in self._file.iter_batches(1 << 16, columns=["shard"]):
                for name, count in _runs(batch.column(0)):
                    start, end = self._spans.get(name, (place, place))
                    if end != place:
                        raise ArchiveError(
                            f"{self._path} is not in the order of shards (rows of {name} stand apart)"
                        )
                    self._spans[name] = (start, place + count)
                    place += count
        return self._file

    def read(self, shard: str, columns: list[str]) -> pa.Table:
        """Rows of a shard."""
        file = self._open()
        start, end = self._spans.get(shard, (0, 0))
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        last = max(first + 1, int(np.searchsorted(self._starts, end, side="left")))
        groups = list(range(first, last)) if end > start else []
        table = file.read_row_groups(groups, columns=columns, use_threads=False)
        return table.slice(start - int(self._starts[first]), end - start) if groups else table


def _runs(column: Any) -> list[tuple[str, int]]:
    """(value, rows) of stretches of one value."""
    codes = column.indices.to_numpy()
    edges = np.flatnonzero(np.diff(codes)) + 1
    starts = np.concatenate([[0], edges]) if len(codes) else edges
    counts = np.diff(np.concatenate([starts, [len(codes)]])) if len(codes) else starts
    names = column.dictionary.to_pylist()
    return [(names[codes[s]], int(n)) for s, n in zip(starts, counts, strict=True)]


def cluster_source(archive: Archive, name: str) -> tuple[Source, str]:
    """(columns of a clustering's assignment, digest of its model and splits). Raises `ArchiveError`
    where the assignment is not up to date."""
    model, info = load_model(archive, name), read_info(archive, name)
    folder = folder_of(archive, name)
    is_checked = False

    def state(shard: Shard) -> str:
        return " ".join(value[:16] for value in state_of(model, info, shard.figures).values())

    def read(shard: Shard, names: Sequence[str]) -> Columns:
        nonlocal is_checked
        if not is_checked:
            read_assignment(archive, name)
            is_checked = True
        table = read_parquet(assignment_path(folder, shard.name), _short(names))
        return {each: table[short] for each, short in zip(names, _short(names), strict=True)}

    return Source(state=state, read=read), model.digest


def find_clusters(archive: Archive, name: str | None) -> str:
    """The clustering of a name, or the only one. Raises `ConfigError` where that can't be told."""
    known = clusters.model.names(archive)
    if name is not None:
        read_info(archive, name)
        return name
    if len(known) == 1:
        return known[0]
    said = f"there are {', '.join(known)}" if known else "`biomedica cluster` makes one"
    raise ConfigError(f'name the clustering in the recipe (clusters = "NAME"): {said}')


class DuplicateTable:
    """`duplicates.parquet`, where it fits the archive."""

    def __init__(self, archive: Archive, digests: Digests) -> None:
        self._archive = archive
        self.path = archive.root / "duplicates.parquet"
        again = f"`biomedica duplicates {archive.root}` makes it again"
        if not self.path.exists():
            raise ConfigError(
                f"the recipe asks for duplicates, and {archive.root} has no duplicates.parquet; "
                f"`biomedica duplicates {archive.root}` makes it"
            )
        about = _json(archive.root / "duplicates.json")
        _check_figures(archive, about.get("figures"), "duplicates", again)
        self.digest = digests.of(self.path)
        self._again = again
        self._rows: dict[str, Ints] | None = None
        self._table: pa.Table | None = None

    def table(self) -> pa.Table:
        """All rows, in the file's order."""
        if self._table is None:
            self._table = pq.read_table(self.path)
        return self._table

    def source(self) -> Source:
        """Its columns; null for a sample of no group."""
        return Source(state=lambda shard: f"{self.digest[:16]} {shard.figures}", read=self._read)

    def _of_shard(self, shard: str) -> Ints:
        if self._rows is None:
            codes = _whole(self.table()["shard"]).dictionary_encode()
            order = np.argsort(codes.indices.to_numpy(), kind="stable")
            counts = np.bincount(codes.indices.to_numpy(), minlength=len(codes.dictionary))
            parts = np.split(order, np.cumsum(counts)[:-1]) if len(counts) else []
            self._rows = dict(zip(codes.dictionary.to_pylist(), parts, strict=True))
        return self._rows.get(shard, np.empty(0, np.int64))

    def _read(self, shard: Shard, names: Sequence[str]) -> Columns:
        rows = self._of_shard(shard.name)
        own = self.table().take(pa.array(rows))
        keys = read_parquet(figures_path(self._archive, shard.name), ["key"])["key"]
        places = _places(keys, own["key"], "duplicates", shard.name, self._again)
        own = own.append_column("_rank", pa.array(rows.astype(np.int64)))
        return {
            name: own[short].take(places) for name, short in zip(names, _short(names), strict=True)
        }


def tombstone_mask(
    archive: Archive, shards: Sequence[Shard], starts: NDArray[np.int64], keys: Any
) -> NDArray[np.bool_]:
    """(N,) True for samples that count. keys   (start, end) -> the keys of those rows"""
    live = np.ones(int(starts[-1]), bool)
    table = archive.tombstones()
    for at, shard in enumerate(shards):
        own = table.filter(pc.equal(table["shard"], shard.name))["key"] if table.num_rows else []
        if len(own):
            start, end = int(starts[at]), int(starts[at + 1])
            gone = pc.is_in(keys(start, end), _whole(own))
            live[start:end] = ~np.asarray(gone.to_numpy(zero_copy_only=False))
    return live
