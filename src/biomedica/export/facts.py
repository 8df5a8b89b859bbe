"""What can be counted about the samples that leave: for the card and the attribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedica.archive import Archive
from biomedica.export.choose import Choice
from biomedica.export.source import label_rows
from biomedica.export.view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A sample that the card shows."""

    key: str
    title: str | None
    caption: str
    license_code: str | None
    doi: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Counts over the samples that leave."""

    transforms: Mapping[str, int]
    """Samples by what was done to the publisher's file."""
    years: tuple[int, int] | None
    """First and last year of publication; None where no article has a date."""
    statuses: Mapping[str, int]
    """Samples by status of their label; empty without labels."""
    concepts: Mapping[str, int]
    """Samples by concept, global and local; empty without labels."""
    examples: Sequence[Example]
    """The first sample of each licence group."""


def chosen_by_shard(choice: Choice) -> Iterator[tuple[str, NDArray[np.int32]]]:
    """(shard, rows) of all chosen samples, whatever their split; shards and rows ascending."""
    found: dict[str, list[NDArray[np.int32]]] = {}
    for part in choice.parts:
        for piece in part.pieces:
            found.setdefault(piece.shard, []).append(piece.rows)
    for shard in sorted(found):
        yield shard, np.sort(np.concatenate(found[shard]))


def chosen_rows(
    archive: Archive, group: str, shard: str, rows: NDArray[np.int32], columns: list[str]
) -> list[dict[str, Any]]:
    """Some columns of the chosen rows of a figures file."""
    path = archive.root / "figures" / group / f"{shard}.parquet"
    taken = pq.read_table(path, columns=columns).take(rows).to_pylist()
    return [dict(row) for row in taken]


def count_facts(archive: Archive, view: View, choice: Choice) -> Facts:
    """Read a few columns of every chosen sample, a shard at a time."""
    columns = ["key", "transform", "published", "licence_group"]
    transforms: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    concepts: Counter[str] = Counter()
    years: set[int] = set()
    examples: dict[str, Example] = {}
    for shard, rows in chosen_by_shard(choice):
        group = view.groups[shard]
        labels = label_rows(archive.root, view.labels, shard)
        for row in chosen_rows(archive, group, shard, rows, columns):
            transforms[row["transform"]] += 1
            years |= {row["published"].year} if row["published"] else set()
            label = labels.get(row["key"])
            if label is not None:
                statuses[label["status"]] += 1
                concepts.update(label["global_concepts"] + label["local_concepts"])
            elif view.labels is not None:
                statuses["no cluster"] += 1
        if rows.size and group not in examples:
            examples[group] = _example(archive, group, shard, rows[:1])
    return Facts(
        transforms=dict(transforms.most_common()),
        years=(min(years), max(years)) if years else None,
        statuses=dict(sorted(statuses.items())),
        concepts=dict(concepts),
        examples=[examples[group] for group in sorted(examples)],
    )


def _example(archive: Archive, group: str, shard: str, rows: NDArray[np.int32]) -> Example:
    columns = ["key", "title", "caption", "license_code", "doi"]
    return Example(**chosen_rows(archive, group, shard, rows, columns)[0])
