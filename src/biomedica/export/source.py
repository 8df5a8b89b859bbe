"""Samples out of an archive: facts, bytes that were checked, the article, the label."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedica.archive import Archive
from biomedica.errors import ArchiveError
from biomedica.export.choose import FACTS, Policy
from biomedica.shards import OFFSETS

ROWS_AT_ONCE = 256
"""Rows that are Python objects at a time."""
_LABEL_COLUMNS = (
    "key",
    "cluster",
    "status",
    "panel_type",
    "panel_subtype",
    "global_concepts",
    "local_concepts",
    "confidence",
    "num_votes",
    "is_adjudicated",
)
_SIBLING_COLUMNS = (*FACTS, "file_name", "caption", "mentions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """One sample, its bytes as they stand in the archive."""

    row: dict[str, Any]
    """Of the figures file, without the offsets."""
    jpg: bytes
    txt: bytes
    meta: bytes
    """The JSON member."""
    facts: dict[str, Any]
    """Its content."""
    label: dict[str, Any] | None
    """Row of the label run; None where the view rests on none or the sample has no cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sibling:
    """A figure of an article that may be named beside another of its figures."""

    key: str
    file_name: str
    caption: str
    sha256: str
    mentions: tuple[str, ...]
    """Paragraphs that cite it."""


class SourceShard:
    """One shard of an archive, opened for copying. At most one shard's tables are in memory."""

    def __init__(self, archive: Archive, group: str, shard: str, labels: str | None) -> None:
        self._root = archive.root
        self._group = group
        self._labels = labels
        self._article: tuple[tuple[str, int], dict[str, Any]] | None = None
        self.shard = shard

    def _table(self, kind: str) -> Path:
        return self._root / kind / self._group / f"{self.shard}.parquet"

    def samples(self, rows: NDArray[np.int32]) -> Iterator[Copied]:
        """The samples in these rows (ascending). Raises `ArchiveError` at the first byte that is not
        what the tables say, naming shard and key."""
        path = self._root / "shards" / self._group / f"{self.shard}.tar"
        try:
            tar = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise ArchiveError(f"{path} cannot be read: {error.strerror}") from None
        try:
            for row in self._rows(rows):
                yield self._copied(tar, row)
        finally:
            os.close(tar)

    def _rows(self, rows: NDArray[np.int32]) -> Iterator[dict[str, Any]]:
        file = pq.ParquetFile(self._table("figures"))
        start = 0
        for number in range(file.num_row_groups):
            stop = start + file.metadata.row_group(number).num_rows
            wanted = rows[(rows >= start) & (rows < stop)] - start
            if len(wanted):
                table = file.read_row_group(number).take(wanted)
                for place in range(0, len(wanted), ROWS_AT_ONCE):
                    yield from table.slice(place, ROWS_AT_ONCE).to_pylist()
            start = stop

    def _copied(self, tar: int, row: dict[str, Any]) -> Copied:
        jpg, txt, meta = (self._member(tar, row, part) for part in ("jpg", "txt", "json"))
        if hashlib.sha256(jpg).hexdigest() != row["sha256"]:
            raise self._damaged(row["key"], "its JPEG does not have the SHA-256 of the table")
        if txt != row["caption"].encode():
            raise self._damaged(row["key"], "its caption is not the one of the table")
        own = {name: value for name, value in row.items() if name not in OFFSETS}
        try:
            facts = json.loads(meta)
        except ValueError:
            raise self._damaged(row["key"], "its JSON cannot be read") from None
        expected = own | {
            "published": own["published"] and own["published"].isoformat(),
            "phash": f"{own['phash']:016x}",
        }
        if facts != expected:
            names = [name for name in expected | facts if facts.get(name) != expected.get(name)]
            raise self._damaged(
                row["key"], f"its JSON and the table differ ({', '.join(names[:3]) or 'in names'})"
            )
        label = self._label_rows.get(row["key"])
        return Copied(row=own, jpg=jpg, txt=txt, meta=meta, facts=facts, label=label)

    def _member(self, tar: int, row: dict[str, Any], part: str) -> bytes:
        size = row[f"{part}_size"]
        data = os.pread(tar, size, row[f"{part}_offset"])
        if len(data) != size:
            raise self._damaged(row["key"], f"its {part} has {len(data)} of {size} bytes")
        return data

    def _damaged(self, key: str, what: str) -> ArchiveError:
        return ArchiveError(
            f"{self._group}/{self.shard}.tar, sample {key}: {what}. Nothing damaged is exported; "
            f"`biomedica doctor {self._root}` finds all damage"
        )

    @cached_property
    def _label_rows(self) -> Mapping[str, dict[str, Any]]:
        return label_rows(self._root, self._labels, self.shard)

    @cached_property
    def _articles(self) -> tuple[pa.Table, dict[tuple[str, int], int]]:
        table = pq.read_table(self._table("articles"))
        names = zip(table["pmcid"].to_pylist(), table["version"].to_pylist(), strict=True)
        return table, {name: number for number, name in enumerate(names)}

    def article(self, pmcid: str, version: int) -> dict[str, Any]:
        """The row of an article. Raises `ArchiveError` where there is none."""
        if self._article is not None and self._article[0] == (pmcid, version):
            return self._article[1]
        table, numbers = self._articles
        if (pmcid, version) not in numbers:
            raise ArchiveError(
                f"{self._table('articles')} has no row for {pmcid}.{version}, of which the shard has "
                f"figures; `biomedica doctor {self._root}` finds all damage"
            )
        row = dict(table.slice(numbers[pmcid, version], 1).to_pylist()[0])
        self._article = (pmcid, version), row  # the next figure is most often of the same article
        return row

    def siblings(self, policy: Policy) -> Mapping[tuple[str, int], tuple[Sibling, ...]]:
        """All figures of every article of the shard that the rules let pass, in order."""
        found: dict[tuple[str, int], list[Sibling]] = {}
        for batch in pq.ParquetFile(self._table("figures")).iter_batches(
            ROWS_AT_ONCE, columns=list(_SIBLING_COLUMNS)
        ):
            for row in batch.to_pylist():
                if policy.refusal(row, self.shard) is None:
                    found.setdefault((row["pmcid"], row["version"]), []).append(_sibling(row))
        return {name: tuple(each) for name, each in found.items()}


def _sibling(row: dict[str, Any]) -> Sibling:
    return Sibling(
        key=row["key"],
        file_name=row["file_name"],
        caption=row["caption"],
        sha256=row["sha256"],
        mentions=tuple(mention["text"] for mention in row["mentions"]),
    )


def label_rows(root: Path, labels: str | None, shard: str) -> dict[str, dict[str, Any]]:
    """Rows of a label run that belong to a shard, by key; empty without a label run."""
    if labels is None:
        return {}
    table = pq.read_table(
        root / "labels" / f"{labels}.parquet",
        columns=list(_LABEL_COLUMNS),
        filters=[("shard", "=", shard)],
    )
    return {row["key"]: row for row in table.to_pylist()}
