"""Which articles make which shard, fixed before the work starts; and what a changed source changes.

One task makes one shard. Articles go to tasks in the order of their PMC ids, so a plan depends on
the catalog alone. When the source has changed, what is done stays as it is: articles that are new or
changed go into new tasks, and samples that they replace are withdrawn by tombstones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from biomedica.catalog import Selection
from biomedica.errors import ConfigError
from biomedica.records import LicenceGroup, licence_group
from biomedica.shards import write_arrow

PLAN = pa.schema(
    [
        pa.field("task", pa.string(), False, {"about": "shard that the article goes to"}),
        pa.field("number", pa.int64(), False, {"about": "digits of the PMC id"}),
        pa.field("version", pa.int32(), False, {"about": "version of the article"}),
        pa.field("content", pa.uint64(), False, {"about": "digest of the catalog's row"}),
        pa.field("license_code", pa.string(), True, {"about": "when it was planned"}),
        pa.field("is_retracted", pa.bool_(), False, {"about": "when it was planned"}),
        pa.field("num_images", pa.int32(), False, {"about": "pictures that the source lists"}),
        pa.field("is_live", pa.bool_(), False, {"about": "false: built, and withdrawn since"}),
        pa.field("reason", pa.string(), True, {"about": "why it is not live, as in the changelog"}),
        pa.field("since", pa.date32(), True, {"about": "snapshot in which it was withdrawn"}),
    ]
)
_STATE = ("task", "is_live", "reason", "since")
_WANTED = [name for name in PLAN.names if name not in _STATE]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSettings:
    """How articles are cut into shards."""

    samples: int = 10_000
    """Pictures a shard, as the source lists them; a shard ends with the article that reaches it."""
    articles: int = 10_000
    """Articles a shard at the most (many have no pictures)."""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.articles < 1:
            raise ConfigError("shards.samples and shards.articles must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference between what is done and what the source has now."""

    change: str
    number: int
    version: int
    detail: str
    task: str | None
    """Finished task that holds samples of it; None where nothing was written."""


def wanted(parts: Sequence[Path], selection: Selection) -> pa.Table:
    """The catalog's selected rows, without task, in the order of their ids."""
    tables = []
    room = selection.limit
    columns = [*_WANTED, "published"]
    for path in parts:
        table = pq.read_table(path, columns=columns)
        table = table.filter(pa.array(selection.admits(table))).select(_WANTED)
        if room is not None:
            table = table.slice(0, room)
            room -= table.num_rows
        tables.append(table)
        if room == 0:
            break
    schema = pa.schema([PLAN.field(name) for name in _WANTED])
    return pa.concat_tables(tables).cast(schema) if tables else schema.empty_table()


def assign(articles: pa.Table, settings: ShardSettings, first: dict[str, int]) -> pa.Table:
    """Give each article its task. first   number of each group's first new shard"""
    codes = articles["license_code"].combine_chunks().dictionary_encode()
    names = [licence_group(code).value for code in codes.dictionary.to_pylist()]
    names.append(LicenceGroup.OTHER.value)
    group = np.array(names)[
        codes.indices.fill_null(len(names) - 1).to_numpy(zero_copy_only=False).astype(np.int64)
    ]
    images = articles["num_images"].to_numpy()
    order, tasks = [], []
    for name in sorted(set(group.tolist())):
        rows = np.flatnonzero(group == name)
        number = _shard_numbers(images[rows], settings) + first.get(name, 0)
        order.append(rows)
        last = int(number[-1])
        labels = pa.array([f"{name}-{n:06d}" for n in range(last + 1)])
        tasks.append(labels.take(pa.array(number)))
    if not order:
        return PLAN.empty_table()
    table = articles.take(np.concatenate(order))
    table = table.add_column(0, PLAN.field("task"), pa.chunked_array(tasks))
    live = pa.array(np.ones(table.num_rows, dtype=bool))
    table = table.append_column(PLAN.field("is_live"), live)
    for name in ("reason", "since"):
        nothing = pa.nulls(table.num_rows, PLAN.field(name).type)
        table = table.append_column(PLAN.field(name), nothing)
    return table.cast(PLAN)


def _shard_numbers(images: np.ndarray[Any, Any], settings: ShardSettings) -> np.ndarray[Any, Any]:
    """(N,) of int: for articles in order, how many shards were full before each."""
    total = np.cumsum(images, dtype=np.int64)
    numbers = np.zeros(len(images), dtype=np.int64)
    start = shard = 0
    while start < len(images):
        before = int(total[start - 1]) if start else 0
        end = int(np.searchsorted(total, before + settings.samples)) + 1
        end = min(end, start + settings.articles, len(images))
        numbers[start:end] = shard
        start, shard = end, shard + 1
    return numbers


def compare(
    plan: pa.Table,
    articles: pa.Table,
    done: frozenset[str],
    *,
    again: frozenset[tuple[int, int]] = frozenset(),
    since: date | None = None,
) -> tuple[list[Change], pa.Table, pa.Table]:
    """(changes, rows of the plan that stay, articles to assign).

    Where nothing changed, the plan stays as it is, finished or not. Where something did, rows of
    finished tasks stay (those that are withdrawn no longer live), and the articles of tasks that are
    not finished are assigned anew together with the additions. again   (number, version) of articles to
    build once more though the source says nothing new of them
    """
    if plan.num_rows == 0:
        return [], plan, articles
    live = plan["is_live"].to_numpy()
    old, new = _identity(plan), _identity(articles)
    place = np.minimum(np.searchsorted(new, old), max(len(new) - 1, 0))
    same = live & (new[place] == old) if len(new) else np.zeros(len(old), dtype=bool)
    if same.any():
        theirs = articles["content"].combine_chunks().take(pa.array(place[same]))
        ours = plan["content"].combine_chunks().filter(pa.array(same))
        same[same] = pc.equal(theirs, ours).to_numpy(zero_copy_only=False)
    if again:
        same &= ~np.isin(old, [_number_of(*each) for each in again])
    is_added = ~np.isin(new, old[same])
    if same[live].all() and not is_added.any():
        return [], plan, articles.slice(0, 0)
    finished = is_of(plan, done)
    changes = list(_changes(plan, articles, np.flatnonzero(live & ~same), finished, is_added))
    stays = _withdrawn(plan, same, changes, since).filter(pa.array(finished))
    return changes, stays, articles.filter(pa.array(~np.isin(new, old[same & finished])))


def is_of(plan: pa.Table, tasks: Iterable[str]) -> np.ndarray[Any, Any]:
    """(N,) of bool: rows of these tasks."""
    chosen = pa.array(sorted(tasks), pa.string())
    return np.asarray(pc.is_in(plan["task"], chosen).to_numpy())


def _withdrawn(
    plan: pa.Table, same: np.ndarray[Any, Any], changes: list[Change], since: date | None
) -> pa.Table:
    """The plan, with what is not the same any more marked and explained."""
    why = {(c.number, c.version): c.change for c in changes if c.task is not None}
    reasons = plan["reason"].to_pylist()
    dates = plan["since"].to_pylist()
    newly = np.flatnonzero(plan["is_live"].to_numpy() & ~same).tolist()
    for row, place in zip(newly, _places(plan.take(pa.array(newly, pa.int64()))), strict=True):
        reasons[row], dates[row] = why.get(place), since
    columns = {
        "is_live": pa.array(same),
        "reason": pa.array(reasons, pa.string()),
        "since": pa.array(dates, pa.date32()),
    }
    for name, column in columns.items():
        plan = plan.set_column(plan.schema.get_field_index(name), PLAN.field(name), column)
    return plan


def _number_of(number: int, version: int) -> int:
    """Article and version in one number; versions have four digits at the most."""
    return number * (1 << 16) + version


def _identity(table: pa.Table) -> np.ndarray[Any, Any]:
    """(N,) of int64: article and version in one number."""
    number, version = table["number"].to_numpy(), table["version"].to_numpy()
    return np.asarray(number.astype(np.int64) * (1 << 16) + version)


def _changes(
    plan: pa.Table,
    articles: pa.Table,
    gone: np.ndarray[Any, Any],
    finished: np.ndarray[Any, Any],
    is_added: np.ndarray[Any, Any],
) -> Iterator[Change]:
    before = {(r["number"], r["version"]): r for r in plan.take(gone).to_pylist()}
    is_done = {(n, v) for n, v in _places(plan.take(gone[finished[gone]]))}
    added = articles.filter(pa.array(is_added)).to_pylist()
    now = {(row["number"], row["version"]): row for row in added}
    versions: dict[int, list[int]] = {}
    touched = np.isin(articles["number"].to_numpy(), plan["number"].to_numpy()[gone])
    for number, version in _places(articles.filter(pa.array(touched))):
        versions.setdefault(number, []).append(version)
    had = {number for number, _ in before}
    for (number, version), row in sorted(before.items()):
        task = row["task"] if (number, version) in is_done else None
        after = now.get((number, version))
        if after is not None:
            change, detail = _difference(row, after)
        elif any(other > version for other in versions.get(number, ())):
            change, detail = "superseded", f"by version {max(versions[number])}"
        else:
            change, detail = "withdrawn", "not in the source, or not selected, any more"
        yield Change(change=change, number=number, version=version, detail=detail, task=task)
    for (number, version), _ in sorted(now.items()):
        if (number, version) not in before:
            change = "new_version" if number in had else "added"
            yield Change(change=change, number=number, version=version, detail="", task=None)


def _places(table: pa.Table) -> Iterator[tuple[int, int]]:
    yield from zip(table["number"].to_pylist(), table["version"].to_pylist(), strict=True)


def _difference(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, str]:
    if before["content"] == after["content"]:
        return "retried", "the source failed when it was built"
    if before["is_retracted"] != after["is_retracted"]:
        return "retracted" if after["is_retracted"] else "reinstated", ""
    if before["license_code"] != after["license_code"]:
        return "licence_changed", f"{before['license_code']} to {after['license_code']}"
    return "content_changed", "XML, media or metadata"


def next_numbers(tasks: Sequence[str]) -> dict[str, int]:
    """First free shard number of each group."""
    numbers: dict[str, int] = {}
    for task in tasks:
        group, _, number = task.rpartition("-")
        numbers[group] = max(numbers.get(group, 0), int(number) + 1)
    return numbers


def write_plan(path: Path, stays: pa.Table, new: pa.Table) -> None:
    """Replace the plan by rows that stay and rows that are new, sorted by task and article."""
    plan = new
    if stays.num_rows:
        order = [("task", "ascending"), ("number", "ascending"), ("version", "ascending")]
        plan = pa.concat_tables([stays, new]).sort_by(order)
    write_arrow(path, plan, rows_in_group=10_000)


def read_plan(path: Path) -> pa.Table:
    """The plan; no rows where there is none yet."""
    return pq.read_table(path) if path.exists() else PLAN.empty_table()


def read_task(path: Path, task: str) -> list[tuple[int, int, int]]:
    """(number, version, content) of a task's articles, in order."""
    table = pq.read_table(
        path, filters=[("task", "=", task)], columns=["number", "version", "content"]
    )
    rows = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    return sorted(rows)


def task_digests(plan: pa.Table) -> dict[str, str]:
    """Digest of the articles of each task, tasks in order."""
    tasks = plan["task"].to_numpy(zero_copy_only=False)
    if not len(tasks):
        return {}
    starts = np.flatnonzero(np.r_[True, tasks[1:] != tasks[:-1]])
    numbers, versions = plan["number"].to_numpy(), plan["version"].to_numpy()
    contents = plan["content"].to_numpy()
    digests = {}
    for start, end in zip(starts, [*starts[1:], len(tasks)], strict=True):
        digest = hashlib.sha256(numbers[start:end].tobytes() + versions[start:end].tobytes())
        digest.update(contents[start:end].tobytes())
        digests[str(tasks[start])] = digest.hexdigest()
    return digests
