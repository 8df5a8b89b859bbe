"""Is an archive whole? Every promise of the layout is checked against the bytes on the disk."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from biomedica import plan
from biomedica.archive import Archive, Done, Place
from biomedica.errors import ArchiveError
from biomedica.shards import FIGURES, OFFSETS, file_digest, json_member, tables, tar_members

_PARTS = ("jpg", "txt", "json")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    where: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What was checked, and what was found."""

    num_shards: int
    num_samples: int
    num_unfinished: int
    """Planned shards that are not built yet: no fault, but no whole archive either."""
    findings: tuple[Finding, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong and nothing is left to build."""
        return not self.findings and not self.num_unfinished


def examine(
    archive: Archive,
    *,
    decode: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Diagnosis:
    """Check an archive; nothing is changed. Reads every byte once; of shards that stand elsewhere, their
    tables, and the pictures where the tar is a file. Raises `ArchiveError` where there is no archive at
    all.

    decode   also decode every picture
    """
    archive.info()
    done = archive.done()
    places = archive.places()
    digests = {shard: place.digest for shard, place in places.items()}
    digests |= plan.task_digests(plan.read_plan(archive.plan_path))
    findings: list[Finding] = []
    num_samples = 0
    for number, (task, each) in enumerate(sorted(done.items())):
        if task not in digests:
            what = "the plan" if not places else "places.json"
            findings.append(Finding(f"done/{task}.json", f"{what} names no such shard"))
        elif each.inputs != digests[task] and task in places:
            findings.append(Finding(f"done/{task}.json", "its tar has changed; index it again"))
        elif each.inputs != digests[task]:
            findings.append(
                Finding(f"done/{task}.json", "the plan gives it other articles; build again")
            )
        found = list(_shard_findings(archive.root, each, decode, places.get(task)))
        findings += found
        num_samples += each.counts.get("pairs", 0)
        on_progress(number + 1, len(done))
    findings += _whole_archive_findings(archive, done)
    return Diagnosis(
        num_shards=len(done),
        num_samples=num_samples,
        num_unfinished=len(digests.keys() - done.keys()),
        findings=tuple(findings),
    )


def _shard_findings(root: Path, done: Done, decode: bool, place: Place | None) -> Iterator[Finding]:
    intact = True
    for file in done.outputs:
        path = root / file.path
        if not path.is_file():
            yield Finding(file.path, "is missing")
        elif path.stat().st_size != file.size:
            yield Finding(file.path, f"has {path.stat().st_size} bytes; {file.size} were written")
        elif file_digest(path) != file.sha256:
            yield Finding(file.path, "has other bytes than were written (SHA-256 differs)")
        else:
            continue
        intact = False
    if not intact:
        return
    paths = {file.path.split("/", 1)[0]: root / file.path for file in done.outputs}
    try:
        yield from _count_findings(paths, done)
        if place is not None:
            yield from _place_findings(place, paths["figures"], decode)
            return
        yield from _member_findings(paths["shards"], paths["figures"], decode)
        yield from _client_findings(paths["shards"])
    except (ArchiveError, OSError, ValueError, KeyError) as error:
        yield Finding(done.task, f"cannot be read: {error}")


def _member_findings(tar: Path, figures: Path, decode: bool) -> Iterator[Finding]:
    """Row order, offsets, sizes and contents: the tar against its table, member by member."""
    members = tar_members(tar)
    schema = pq.read_schema(figures)
    if schema != FIGURES:
        yield Finding(str(figures.name), "has other columns than this program writes")
        return
    with tar.open("rb") as file:
        for batch in pq.ParquetFile(figures).iter_batches(512):
            for row in batch.to_pylist():
                for part in _PARTS:
                    member = next(members, None)
                    expected = (f"{row['key']}.{part}", row[f"{part}_offset"], row[f"{part}_size"])
                    if member is None or (member.name, member.offset, member.size) != expected:
                        yield Finding(
                            tar.name, f"member of row {row['key']} ({part}) is not where it says"
                        )
                        return
                yield from _content_findings(file.fileno(), tar.name, row, decode)
    if next(members, None) is not None:
        yield Finding(tar.name, "holds more members than its table has rows")


def _place_findings(place: Place, figures: Path, decode: bool) -> Iterator[Finding]:
    """Pictures of a tar that stands elsewhere, where that is a file of this machine."""
    if pq.read_schema(figures) != FIGURES:
        yield Finding(figures.name, "has other columns than this program writes")
    if "://" in place.url:
        return
    path = Path(place.url)
    if not path.is_file() or path.stat().st_size != place.size:
        yield Finding(place.url, f"is missing or has not the {place.size} bytes that were indexed")
        return
    with path.open("rb") as file:
        columns = ["key", "jpg_offset", "jpg_size", "sha256", "width", "height"]
        for batch in pq.ParquetFile(figures).iter_batches(512, columns=columns):
            for row in batch.to_pylist():
                jpg = os.pread(file.fileno(), row["jpg_size"], row["jpg_offset"])
                yield from _picture_findings(jpg, path.name, row, decode)


def _content_findings(
    file: int, where: str, row: dict[str, Any], decode: bool
) -> Iterator[Finding]:
    jpg, txt, meta = (os.pread(file, row[f"{p}_size"], row[f"{p}_offset"]) for p in _PARTS)
    facts = {name: value for name, value in row.items() if name not in OFFSETS}
    yield from _picture_findings(jpg, where, row, decode)
    if txt.decode(errors="replace") != row["caption"] or not row["caption"].strip():
        yield Finding(where, f"{row['key']}: the caption is empty or differs from its row")
    if json.loads(meta) != json.loads(json_member(facts)):
        yield Finding(where, f"{row['key']}: the JSON differs from its row")


def _picture_findings(
    jpg: bytes, where: str, row: dict[str, Any], decode: bool
) -> Iterator[Finding]:
    if hashlib.sha256(jpg).hexdigest() != row["sha256"]:
        yield Finding(where, f"{row['key']}: the picture's SHA-256 differs from its row")
    if decode:
        try:
            with Image.open(io.BytesIO(jpg), formats=("JPEG",)) as image:
                image.load()
                if image.size != (row["width"], row["height"]):
                    yield Finding(where, f"{row['key']}: the picture has another size")
        except (OSError, ValueError) as error:
            yield Finding(where, f"{row['key']}: the picture does not decode: {error}")


def _count_findings(paths: dict[str, Path], done: Done) -> Iterator[Finding]:
    rows = {
        kind: pq.read_metadata(path).num_rows for kind, path in paths.items() if kind != "shards"
    }
    for kind, counted in (("figures", "pairs"), ("articles", "articles"), ("rejects", "rejects")):
        if rows[kind] != done.counts[counted]:
            yield Finding(
                paths[kind].name, f"has {rows[kind]} rows; {done.counts[counted]} were counted"
            )
    stated = pq.read_table(paths["articles"], columns=["num_figures"])["num_figures"].to_pylist()
    if sum(stated) != rows["figures"]:
        yield Finding(paths["articles"].name, "its articles state another number of samples")


def _client_findings(tar: Path) -> Iterator[Finding]:
    """The first samples as the standard library's tarfile, which WebDataset readers use, sees them."""
    groups: Counter[str] = Counter()
    with tarfile.open(tar) as opened:
        for number, member in enumerate(opened):
            if number == 30:
                break
            groups[member.name.split(".", 1)[0]] += 1
    if any(count != len(_PARTS) for count in groups.values()):
        yield Finding(tar.name, "readers of WebDataset group its members in another way")


def _whole_archive_findings(archive: Archive, done: dict[str, Done]) -> Iterator[Finding]:
    for path in sorted(archive.root.rglob(".*.tmp")):
        yield Finding(
            str(path.relative_to(archive.root)), "is left over from a run that was killed"
        )
    if (archive.root / "compact.json").exists():
        yield Finding("compact.json", "a compaction was interrupted; run `biomedica compact` again")
    for kind in ("shards", "figures", "articles"):
        for path in sorted((archive.root / kind).glob("*/*")):
            if path.name.partition(".")[0] not in done and not path.name.startswith("."):
                yield Finding(str(path.relative_to(archive.root)), "belongs to no finished shard")
    files = tables(archive.root, "figures")
    if not files:
        return
    yield from _tombstone_findings(archive, done)
    connection = duckdb.connect()
    connection.register("tombstones", archive.tombstones())
    connection.register("figures", _keys(files))
    repeated = connection.execute(
        "SELECT key, count(*) FROM figures ANTI JOIN tombstones USING (key, shard) "
        "GROUP BY key HAVING count(*) > 1 ORDER BY key LIMIT 5"
    ).fetchall()
    for key, count in repeated:
        yield Finding("figures", f"the key {key} stands {count} times")
    astray = connection.execute(
        "SELECT key FROM tombstones ANTI JOIN figures USING (key, shard) ORDER BY key LIMIT 5"
    ).fetchall()
    for (key,) in astray:
        yield Finding("tombstones.parquet", f"{key} is withdrawn, but no shard holds it")


def _keys(files: list[Path]) -> pa.Table:
    return pa.concat_tables([pq.read_table(path, columns=["key", "shard"]) for path in files])


def _tombstone_findings(archive: Archive, done: dict[str, Done]) -> Iterator[Finding]:
    """What the plan says is withdrawn, and nothing else, has tombstones."""
    if archive.places():
        return  # no plan: keys that stand in several shards are withdrawn, which is checked with the keys
    table = plan.read_plan(archive.plan_path)
    dead = table.filter(pa.array(~table["is_live"].to_numpy() & plan.is_of(table, done)))
    planned = {(r["task"], f"PMC{r['number']}", r["version"]) for r in dead.to_pylist()}
    for row in archive.tombstones().to_pylist():
        if (row["shard"], row["pmcid"], row["version"]) not in planned:
            yield Finding(
                "tombstones.parquet", f"{row['key']} is withdrawn, but the plan has it live"
            )
            return
    withdrawn = archive.withdrawn()
    for task, pmcid, version in sorted(planned):
        path = archive.root / "figures" / task.rpartition("-")[0] / f"{task}.parquet"
        filters = [("pmcid", "=", pmcid), ("version", "=", version)]
        for key in pq.read_table(path, columns=["key"], filters=filters)["key"].to_pylist():
            if (key, task) not in withdrawn:
                yield Finding("tombstones.parquet", f"{key} is to be withdrawn; build again")
                return
