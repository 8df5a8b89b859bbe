"""Which samples of a view may leave, in which shard each lands, and why the others stay."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedica.archive import Archive
from biomedica.errors import ArchiveError
from biomedica.export.settings import ExportSettings
from biomedica.export.takedown import Takedown
from biomedica.export.view import Slice, View

_SPLIT = re.compile(r"[A-Za-z0-9_]{1,60}")
RULES: Mapping[str, str] = {
    "withdrawn": "withdrawn from the archive since the view was made",
    "takedown": "named in the takedown list",
    "group": "its licence group is not exported",
    "retracted": "its article is retracted",
    "no_derivatives": "its licence forbids changed copies",
    "third_party_rights": "the figure states rights of its own",
}
"""Why a sample of the view stays, in the order in which the rules are asked; the first one counts."""

FACTS = (
    "key",
    "offset",
    "pmcid",
    "version",
    "license_code",
    "licence_group",
    "is_retracted",
    "figure_rights",
    "transform",
    "sha256",
)
"""Columns of a figures file that the rules read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules of one export."""

    settings: ExportSettings
    takedown: Takedown
    withdrawn: frozenset[tuple[str, str]]
    """(key, shard)"""

    def refusal(self, row: Mapping[str, Any], shard: str) -> str | None:
        """The first rule that keeps a sample back; None where it may leave."""
        settings = self.settings
        if (row["key"], shard) in self.withdrawn:
            return "withdrawn"
        if self.takedown.covers(row["pmcid"], row["key"], row["sha256"]):
            return "takedown"
        if row["licence_group"] not in settings.groups:
            return "group"
        if row["is_retracted"] and not settings.retracted:
            return "retracted"
        if (row["license_code"] or "").endswith("-ND") and not (
            settings.no_derivatives == "keep-unchanged" and row["transform"] == "none"
        ):
            return "no_derivatives"
        if row["figure_rights"] is not None and settings.third_party_rights == "exclude":
            return "third_party_rights"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Rows of one figures file, ascending."""

    shard: str
    rows: NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """All chosen samples of one licence group and split, in the view's order."""

    group: str
    split: str
    pieces: list[Piece] = field(default_factory=list)

    @property
    def num_samples(self) -> int:
        return sum(len(piece.rows) for piece in self.pieces)

    def shards(self, samples: int) -> Iterator[tuple[str, list[Piece]]]:
        """(path without extension, content) of each shard of at most so many samples."""
        content: list[Piece] = []
        room, number = samples, 0
        for piece in self.pieces:
            rows = piece.rows
            while len(rows):
                content.append(Piece(shard=piece.shard, rows=rows[:room]))
                room -= len(content[-1].rows)
                rows = rows[len(content[-1].rows) :]
                if not room:
                    yield f"{self.group}/{self.split}/{number:06d}", content
                    content, room, number = [], samples, number + 1
        if content:
            yield f"{self.group}/{self.split}/{number:06d}", content


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What leaves, and what stays by rule."""

    parts: list[Part]
    """Ordered by group and split; none is empty."""
    refused: dict[str, int]
    licences: dict[str, int]
    """Chosen samples by licence code."""

    @property
    def num_samples(self) -> int:
        return sum(part.num_samples for part in self.parts)


def choose(archive: Archive, view: View, policy: Policy) -> Choice:
    """Ask the rules about every sample of a view. Raises `ArchiveError` where the view and a figures
    file do not agree. Reads a few columns of each figures file; keeps four bytes a sample."""
    parts: dict[tuple[str, str], Part] = {}
    refused: Counter[str] = Counter()
    licences: Counter[str] = Counter()
    for rows in view.slices():
        facts = _facts(archive, view, rows)
        chosen: dict[tuple[str, str], list[int]] = {}
        for number, row, split in facts:
            rule = policy.refusal(row, rows.shard)
            if rule is not None:
                refused[rule] += 1
                continue
            licences[row["license_code"] or "none stated"] += 1
            chosen.setdefault((row["licence_group"], split), []).append(number)
        for name, numbers in chosen.items():
            _check_split(view, name[1])
            part = parts.setdefault(name, Part(group=name[0], split=name[1]))
            part.pieces.append(Piece(shard=rows.shard, rows=np.array(numbers, np.int32)))
    return Choice(
        parts=[parts[name] for name in sorted(parts, key=_part_order)],
        refused={rule: refused[rule] for rule in RULES if refused[rule]},
        licences=dict(sorted(licences.items())),
    )


def _check_split(view: View, split: str) -> None:
    if not _SPLIT.fullmatch(split):
        raise ArchiveError(
            f"view {view.name} has a split {split!r}; the name of a split is a folder here: use "
            "letters, digits and _"
        )


def _part_order(name: tuple[str, str]) -> tuple[int, str, int, str]:
    groups, splits = ("commercial", "noncommercial", "other"), ("train", "validation", "test")
    group, split = name
    place = groups.index(group) if group in groups else len(groups)
    return place, group, splits.index(split) if split in splits else len(splits), split


def _facts(archive: Archive, view: View, rows: Slice) -> Iterator[tuple[int, dict[str, Any], str]]:
    """(row number in the figures file, its facts, split) of each sample of a slice."""
    if rows.shard not in view.groups:
        raise _disagreement(view, rows.shard)
    table = pq.read_table(
        archive.root / "figures" / view.groups[rows.shard] / f"{rows.shard}.parquet",
        columns=list(FACTS),
    )
    offsets = table["offset"].to_numpy()
    numbers = np.searchsorted(offsets, rows.offsets)
    inside = numbers < len(offsets)
    if not inside.all() or (offsets[numbers] != rows.offsets).any():
        raise _disagreement(view, rows.shard)
    facts = table.take(numbers).to_pylist()
    for number, row, key, split in zip(
        numbers.tolist(), facts, rows.keys, rows.splits, strict=True
    ):
        if row["key"] != key:
            raise _disagreement(view, rows.shard)
        yield number, row, split


def _disagreement(view: View, shard: str) -> ArchiveError:
    return ArchiveError(
        f"view {view.name} and the table of shard {shard} do not agree on where a sample stands; "
        "`biomedica select` the recipe again"
    )
