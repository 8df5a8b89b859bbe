"""Reads a view and what it rests on; refuses one that the archive has moved on from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from biomedica.archive import Archive
from biomedica.errors import ArchiveError, ConfigError
from biomedica.shards import file_digest

DEFAULT_SPLIT = "train"
"""Of samples that the recipe gave no split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The rows of a view that lie in one shard, in order of their offsets."""

    shard: str
    keys: list[str]
    offsets: NDArray[np.int64]
    """Bytes from the shard's start to each sample's first header."""
    splits: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A view as it stands in the archive: the samples are read from the file when asked for."""

    name: str
    path: Path
    recipe: str
    """The recipe as it was given, TOML."""
    counts: Mapping[str, Any]
    """Content of `counts.json`."""
    groups: Mapping[str, str]
    """Licence group by shard, of all shards of the archive."""

    @property
    def labels(self) -> str | None:
        """Name of the label run that the recipe rests on."""
        found = self.counts.get("labels")
        return str(found["name"]) if found else None

    def slices(self) -> Iterator[Slice]:
        """The view, a shard at a time, in its own order. One shard's rows are in memory."""
        table = self._table()
        codes = _dictionary_codes(table["shard"])
        names = codes.names
        edges = np.flatnonzero(np.diff(codes.values)) + 1
        starts = np.concatenate([[0], edges]) if len(codes.values) else np.array([], np.int64)
        stops = np.concatenate([edges, [len(codes.values)]])
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=False):
            rows = table.slice(start, stop - start)
            yield Slice(
                shard=names[int(codes.values[start])],
                keys=rows["key"].to_pylist(),
                offsets=rows["offset"].to_numpy(),
                splits=[split or DEFAULT_SPLIT for split in rows["split"].to_pylist()],
            )

    def _table(self) -> pa.Table:
        try:
            with pa.memory_map(str(self.path)) as source:
                table = pa.ipc.open_file(source).read_all()
                return table.select(["key", "shard", "offset", "split"])
        except (OSError, pa.ArrowException, KeyError) as error:
            raise ArchiveError(
                f"{self.path} cannot be read as a view: {error}. `biomedica select` writes it again"
            ) from None


@dataclass(frozen=True, slots=True)
class _Codes:
    values: NDArray[np.int32]
    names: list[str]


def _dictionary_codes(column: pa.ChunkedArray) -> _Codes:
    unified = column.unify_dictionaries()
    if not unified.num_chunks:
        return _Codes(np.array([], np.int32), [])
    values = np.concatenate([chunk.indices.to_numpy() for chunk in unified.chunks])
    return _Codes(values, unified.chunk(0).dictionary.to_pylist())


def open_view(archive: Archive, name: str) -> View:
    """A view that the archive's files still bear out.

    Raises `ConfigError` where there is none of that name, `ArchiveError` where a figures file that it
    rests on, or its label run, is not the one that it was made from.
    """
    folder = archive.root / "views" / name
    if not (folder / "view.arrow").is_file() or "/" in name:
        known = sorted(path.parent.name for path in archive.root.glob("views/*/view.arrow"))
        raise ConfigError(
            f"{archive.root} has no view {name!r}; "
            + (f"it has {', '.join(known)}" if known else "`biomedica select` makes one")
        )
    try:
        counts = json.loads((folder / "counts.json").read_bytes())
        recipe = (folder / "recipe.toml").read_text()
    except (OSError, ValueError) as error:
        raise ArchiveError(f"{folder} is not whole: {error}. Select the view again") from None
    _check_fresh(archive, name, counts)
    groups = {task: done.group for task, done in archive.done().items()}
    return View(name=name, path=folder / "view.arrow", recipe=recipe, counts=counts, groups=groups)


def _check_fresh(archive: Archive, name: str, counts: Mapping[str, Any]) -> None:
    done = archive.done()
    for shard, digest in counts["figures"].items():
        now = figures_digest(done[shard].outputs) if shard in done else None
        if now != digest:
            raise ArchiveError(
                f"view {name} is stale: the table of shard {shard} has changed since. "
                "`biomedica select` the recipe again"
            )
    labels = counts.get("labels")
    if labels:
        path = archive.root / "labels" / f"{labels['name']}.parquet"
        if not path.is_file() or file_digest(path) != labels["digest"]:
            raise ArchiveError(
                f"view {name} is stale: label run {labels['name']} has changed or is gone. "
                "`biomedica select` the recipe again"
            )


def figures_digest(outputs: Any) -> str | None:
    """SHA-256 of the figures file among a task's outputs."""
    found = [file.sha256 for file in outputs if file.path.startswith("figures/")]
    return found[0] if found else None
