"""The list of all article versions of a source: 52 bytes each, sorted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from biomedica.records import Reject

Rows = np.ndarray[Any, Any]
ROW = np.dtype([("number", "<i8"), ("version", "<i4"), ("etag", "S40")])


@dataclass(frozen=True, slots=True)
class Listing:
    """Article versions of a source at one moment."""

    rows: Rows
    """(N,) of `number` (of the PMC id), `version`, `etag` (empty: not known yet), sorted."""
    snapshot: str | None
    """Date of the inventory, `YYYY-MM-DD`; None where the source has none."""
    rejects: list[Reject] = field(default_factory=list)

    def latest(self) -> Listing:
        """Only the highest version of each article."""
        numbers = self.rows["number"]
        last = np.ones(len(numbers), dtype=bool)
        last[:-1] = numbers[1:] != numbers[:-1]
        return Listing(self.rows[last], self.snapshot, self.rejects)

    def parts(self, width: int) -> Iterator[tuple[int, Rows]]:
        """(part, rows): the rows by ranges of `width` PMC ids, in order."""
        parts = self.rows["number"] // width
        if not len(parts):
            return
        starts = np.flatnonzero(np.diff(parts, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(parts)], strict=True):
            yield int(parts[start]), self.rows[start:end]


def listing_of(parts: Iterable[Rows], snapshot: str | None, rejects: list[Reject]) -> Listing:
    """A listing from rows in any order; of a version listed twice the last one counts."""
    rows = np.concatenate([np.empty(0, dtype=ROW), *parts])
    rows = rows[np.lexsort((rows["version"], rows["number"]))]
    repeated = np.zeros(len(rows), dtype=bool)
    repeated[:-1] = (rows["number"][1:] == rows["number"][:-1]) & (
        rows["version"][1:] == rows["version"][:-1]
    )
    return Listing(rows[~repeated], snapshot, rejects)
