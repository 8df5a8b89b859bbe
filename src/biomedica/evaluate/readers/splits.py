"""Which items belong to a split: as the source says, or drawn by the hash of their groups."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from biomedica.errors import ConfigError
from biomedica.evaluate.readers.rows import Row, listed
from biomedica.evaluate.tasks import Task

ORDER = ("train", "validation", "test")


def ordered(names: Iterable[str]) -> list[str]:
    """Names of splits: train, validation, test, then all others by name."""
    rank = {name: place for place, name in enumerate(ORDER)}
    return sorted(set(names), key=lambda name: (rank.get(name, len(rank)), name))


def known_splits(task: Task, own: Sequence[str], usual: Mapping[str, str]) -> list[str]:
    """Our names of the splits that a task has.

    own     what the source calls its splits; nothing: it has none, and all of it is for testing
    usual   what sources of this kind call ours
    """
    stated = {*task.data.splits, *task.data.fractions}
    if stated:
        return ordered(stated)
    if not own:
        return ["test"]
    ours = {theirs: name for name, theirs in usual.items()}
    return ordered(ours.get(name, name) for name in own)


def source_split(
    task: Task, split: str, own: Sequence[str], usual: Mapping[str, str]
) -> str | None:
    """What the source calls one of our splits; None: it has none. Raises `ConfigError` for what is no split."""
    _check_fractions(task)
    known = known_splits(task, own, usual)
    if split not in known:
        raise ConfigError(f"task {task.name} has no split {split!r}; it has {listed(known)}")
    if split in task.data.splits:
        return task.data.splits[split]
    if split in task.data.fractions or not own:
        return None
    theirs = usual.get(split, split)
    return theirs if theirs in own else split


def drawn(task: Task, split: str, rows: Sequence[Row]) -> Sequence[Row]:
    """Those rows of a source's split that are ours: all, or a share of the groups.

    Splits that come from the same one of the source share its groups. A group's place depends on its name
    and the task's alone, so new groups move no old one.
    """
    fractions = task.data.fractions
    if split not in fractions:
        return rows
    theirs = task.data.splits.get(split)
    low = 0.0
    for other in ordered(fractions):
        if other == split:
            break
        low += fractions[other] if task.data.splits.get(other) == theirs else 0.0
    high = low + fractions[split]
    if high > 1 - 1e-9:
        high = 2.0  # the last one takes what rounding leaves
    return [row for row in rows if low <= _place(task, row) < high]


def _place(task: Task, row: Row) -> float:
    """In [0, 1)."""
    digest = hashlib.sha256(
        f"{task.name} {row.group or row.picture_id or row.id}".encode()
    ).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _check_fractions(task: Task) -> None:
    totals: dict[str | None, float] = {}
    for name, share in task.data.fractions.items():
        theirs = task.data.splits.get(name)
        totals[theirs] = totals.get(theirs, 0.0) + share
        if not 0 < share <= 1 or totals[theirs] > 1 + 1e-9:
            raise ConfigError(
                f"task {task.name}: data.fractions.{name} is {share}; shares above 0 that come to 1 "
                "at most are expected"
            )
