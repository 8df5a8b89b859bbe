"""A view for export: its samples shard by shard, and the label run that it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from biomedica import select
from biomedica.archive import Archive
from biomedica.errors import ArchiveError
from biomedica.shards import file_digest


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
    """A view that the archive and the label run still bear out."""

    name: str
    table: pa.Table
    """Mapped into memory; the samples in the order of (shard, offset)."""
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
        """The view, a shard at a time, in its own order. One shard's rows are Python objects at a time."""
        shards = self.table["shard"].unify_dictionaries()
        if not self.table.num_rows:
            return
        names = shards.chunk(0).dictionary.to_pylist()
        codes = np.concatenate([chunk.indices.to_numpy() for chunk in shards.chunks])
        edges = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
        for start, stop in pairwise(edges):
            rows = self.table.slice(start, stop - start)
            yield Slice(
                shard=names[int(codes[start])],
                keys=rows["key"].to_pylist(),
                offsets=rows["offset"].to_numpy(),
                splits=rows["split"].to_pylist(),
            )


def open_view(archive: Archive, name: str) -> View:
    """A view by its name. Raises `ConfigError` where there is none of it, `ArchiveError` where a shard that
    it rests on, or its label run, is not the one that it was made from."""
    found = select.View.open(archive, name)
    labels = found.counts.get("labels")
    if labels:
        path = archive.root / "labels" / f"{labels['name']}.parquet"
        if not path.is_file() or file_digest(path) != labels["digest"]:
            raise ArchiveError(
                f"view {name!r} is stale: label run {labels['name']!r} has changed or is gone; "
                f"`biomedica select {archive.root}` with its recipe makes it again"
            )
    return View(
        name=name,
        table=found.table,
        path=archive.root / "views" / name / "view.arrow",
        recipe=found.recipe,
        counts=found.counts,
        groups={task: done.group for task, done in archive.done().items()},
    )
