"""One sample of an archive by its key: its row, its picture, and why it may be withdrawn."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from biomedica.archive import Archive
from biomedica.errors import ArchiveError
from biomedica.shards import tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A sample as the archive holds it."""

    row: dict[str, Any]
    jpeg: bytes
    withdrawn: str | None
    """Why readers do not give it any more; None for a sample that counts."""


def find_sample(archive: Archive, key: str) -> Shown:
    """The sample of a key; of several (a withdrawn one and its successor) the one that counts.

    Raises `ArchiveError` with the nearest keys where there is none.
    """
    archive.info()
    found = []
    reasons = {(r["key"], r["shard"]): r["reason"] for r in archive.tombstones().to_pylist()}
    for path in tables(archive.root, "figures"):
        for row in pq.read_table(path, filters=[("key", "=", key)]).to_pylist():
            found.append((reasons.get((key, row["shard"])), path, row))
    if not found:
        raise ArchiveError(f"no sample {key!r} in {archive.root}{_nearest(archive, key)}")
    reason, path, row = min(found, key=lambda each: each[0] is not None)
    tar = archive.root / "shards" / path.parent.name / f"{row['shard']}.tar"
    with tar.open("rb") as file:
        jpeg = os.pread(file.fileno(), row["jpg_size"], row["jpg_offset"])
    return Shown(row=row, jpeg=jpeg, withdrawn=reason)


def _nearest(archive: Archive, key: str) -> str:
    known: list[str] = []
    of_article: list[str] = []
    for path in tables(archive.root, "figures"):
        keys = pq.read_table(path, columns=["key"])["key"]
        of_article += keys.filter(pc.starts_with(keys, f"{key.split('-', 1)[0]}-")).to_pylist()
        known += keys.slice(0, 20).to_pylist()
    close = difflib.get_close_matches(key, of_article or known, n=3, cutoff=0.0)
    return f"; near it are {', '.join(close)}" if close else ""
