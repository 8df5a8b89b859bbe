"""Rewrite the shards that hold withdrawn samples, so that their bytes are gone for good.

A shard keeps its name. Its new files are complete under temporary names before a journal says that
they count; whatever is killed after that is finished by the next command that writes the archive.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from biomedica import enrich, plan
from biomedica.archive import Archive, Done
from biomedica.errors import ArchiveError
from biomedica.shards import (
    OFFSETS,
    ShardWriter,
    WrittenFile,
    json_member,
    temporary,
    write_arrow,
    write_file,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """What a run of `compact` came to."""

    num_shards: int
    """Rewritten."""
    num_samples: int
    """Withdrawn samples that are gone."""
    freed_bytes: int


def compact(
    archive: Archive,
    *,
    refresh_mesh: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Compacted:
    """Drop withdrawn samples from the shards that hold any. Can be stopped and run again.

    refresh_mesh   also write the MeSH terms of PubMed records that came after the build
    """
    recover(archive)
    shards = set(archive.tombstones()["shard"].to_pylist())
    done = archive.done()
    if refresh_mesh:
        shards |= {task for task in done if _mesh_differs(archive, done[task])}
    missing = shards - done.keys()
    if missing:
        raise ArchiveError(
            f"{min(missing)} is not finished; `biomedica build` the archive, then compact it"
        )
    freed = dropped = 0
    for number, shard in enumerate(sorted(shards)):
        before = sum(file.size for file in done[shard].outputs)
        gone, after = _compact_shard(archive, done[shard], refresh_mesh)
        dropped += gone
        freed += before - after
        on_progress(number + 1, len(shards))
    return Compacted(num_shards=len(shards), num_samples=dropped, freed_bytes=freed)


def _mesh_differs(archive: Archive, done: Done) -> bool:
    for kind in ("figures", "articles"):
        path = archive.root / kind / done.group / f"{done.task}.parquet"
        rows = pq.read_table(path, columns=["pmid", "mesh_terms"]).to_pylist()
        mesh = _mesh_of(archive.root, rows)
        if any(list(mesh.get(r["pmid"], r["mesh_terms"])) != r["mesh_terms"] for r in rows):
            return True
    return False


def _compact_shard(archive: Archive, done: Done, refresh_mesh: bool) -> tuple[int, int]:
    """(samples dropped, bytes of the new files) of one shard."""
    withdrawn = {key for key, shard in archive.withdrawn() if shard == done.task}
    live = _live_articles(archive, done.task)
    dropped = source_bytes = 0
    with ShardWriter(archive.root, done.group, done.task) as writer:
        for row, members in read_members(archive.root, done.group, done.task, refresh_mesh):
            if row["key"] in withdrawn:
                dropped += 1
                continue
            source_bytes += row["source_bytes"]
            writer.add_members(row, *members)
        for rows in _batches(archive.root / "articles" / done.group / f"{done.task}.parquet"):
            mesh = _mesh_of(archive.root, rows) if refresh_mesh else {}
            for row in rows:
                if (row["pmcid"], row["version"]) in live:
                    terms = list(mesh.get(row["pmid"], row["mesh_terms"]))
                    writer.add_article_row(row | {"mesh_terms": terms})
        reasons: dict[str, int] = {}
        for row in chain.from_iterable(_batches(archive.root / "rejects" / f"{done.task}.parquet")):
            if (row["pmcid"], row["version"]) in live:
                writer.add_reject_row(row)
                reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
        outputs = writer.finish()
    rows = plan.read_plan(archive.plan_path)
    keeps = pc.or_(pc.not_equal(rows["task"], done.task), rows["is_live"])
    digests = plan.task_digests(rows.filter(keeps))
    new = replace(
        done,
        inputs=digests.get(done.task, ""),
        counts=writer.counts() | {"source_bytes": source_bytes},
        rejects=dict(sorted(reasons.items())),
        outputs=tuple(outputs),
    )
    is_empty = not writer.counts()["articles"] and not reasons
    write_file(_journal(archive), json.dumps(asdict(new) | {"is_empty": is_empty}).encode())
    recover(archive)
    return dropped, 0 if is_empty else sum(file.size for file in outputs)


def _live_articles(archive: Archive, task: str) -> set[tuple[str, int]]:
    table = pq.read_table(
        archive.plan_path,
        filters=[("task", "=", task), ("is_live", "=", True)],
        columns=["number", "version"],
    )
    pairs = zip(table["number"].to_pylist(), table["version"].to_pylist(), strict=True)
    return {(f"PMC{number}", version) for number, version in pairs}


def _batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    for batch in pq.ParquetFile(path).iter_batches(512):
        yield batch.to_pylist()


def _mesh_of(root: Path, rows: list[dict[str, Any]]) -> dict[int, tuple[str, ...]]:
    return enrich.mesh_terms(root / "pubmed", {row["pmid"] for row in rows if row["pmid"]})


def read_members(
    root: Path, group: str, shard: str, refresh_mesh: bool
) -> Iterator[tuple[dict[str, Any], tuple[bytes, bytes, bytes]]]:
    """(row without offsets, (jpg, txt, json)) of a shard in order.

    refresh_mesh   with the newest MeSH terms
    """
    figures = root / "figures" / group / f"{shard}.parquet"
    with (root / "shards" / group / f"{shard}.tar").open("rb") as tar:
        for batch in pq.ParquetFile(figures).iter_batches(512):
            rows = batch.to_pylist()
            mesh = _mesh_of(root, rows) if refresh_mesh else {}
            for row in rows:
                jpg, txt, meta = (
                    os.pread(tar.fileno(), row[f"{part}_size"], row[f"{part}_offset"])
                    for part in ("jpg", "txt", "json")
                )
                facts = {name: value for name, value in row.items() if name not in OFFSETS}
                terms = list(mesh.get(row["pmid"], row["mesh_terms"]))
                if terms != row["mesh_terms"]:
                    facts["mesh_terms"] = terms
                    meta = json_member(facts)
                yield facts, (jpg, txt, meta)


def _journal(archive: Archive) -> Path:
    return archive.root / "compact.json"


def recover(archive: Archive) -> None:
    """Finish what a journal says was complete; nothing where there is none. Every step may repeat."""
    journal = _journal(archive)
    if not journal.exists():
        return
    content = json.loads(journal.read_bytes())
    is_empty = content.pop("is_empty")
    outputs = tuple(WrittenFile(**file) for file in content.pop("outputs"))
    done = Done(outputs=outputs, **content)
    for file in outputs:
        path = archive.root / file.path
        if temporary(path).exists():
            temporary(path).replace(path)
        if is_empty:
            path.unlink(missing_ok=True)
    if is_empty:
        archive.done_path(done.task).unlink(missing_ok=True)
    else:
        archive.write_done(done)
    rows = plan.read_plan(archive.plan_path)
    keeps = pc.or_(pc.not_equal(rows["task"], done.task), rows["is_live"])
    plan.write_plan(archive.plan_path, rows.filter(keeps), rows.slice(0, 0))
    tombstones = archive.tombstones()
    left = tombstones.filter(pc.not_equal(tombstones["shard"], done.task))
    if archive.tombstones_path.exists():
        write_arrow(archive.tombstones_path, left)
    journal.unlink()
