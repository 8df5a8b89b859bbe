"""The columns that a recipe may name: five tables, one row a sample each, and how each is kept.

Every column is one of three kinds. Few-valued ones (licences, kinds, concepts, yes and no) are kept as
a small number a row; numbers, dates and keys as they are; texts and lists are read from the archive's
own tables, shard by shard, when a recipe names them.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from biomedica.duplicates import DUPLICATES
from biomedica.errors import ConfigError
from biomedica.label.propagate import LABELS
from biomedica.shards import ARTICLES, FIGURES


class Kind(StrEnum):
    """How a column is kept between runs."""

    FEW = "few"
    """Few values: their list, and a small number a row."""
    PLAIN = "plain"
    WIDE = "wide"
    """Not kept: read when it is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of one of the tables."""

    table: str
    """`figure`, `article`, `label`, `cluster` or `duplicate`."""
    name: str
    type: pa.DataType
    kind: Kind

    @property
    def full_name(self) -> str:
        """`figure.width`: what a condition calls it."""
        return f"{self.table}.{self.name}"


_CLUSTERS = pa.schema([("cluster", pa.int32()), ("distance", pa.float32())])
_FEW_TEXTS = frozenset(
    [
        "journal",
        "article_type",
        "license_code",
        "licence_group",
        "figure_kind",
        "sub_article",
        "source_format",
        "transform",
        "status",
        "panel_type",
        "panel_subtype",
        "global_concepts",
        "local_concepts",
        "tier",
        "publisher",
    ]
)
_PLAIN_TEXTS = frozenset({"key", "pmcid", "figure_rights"})
"""Short, or seldom there."""


def _kind(field: pa.Field) -> Kind:
    if pa.types.is_boolean(field.type) or field.name in _FEW_TEXTS:
        return Kind.FEW
    is_number = pa.types.is_primitive(field.type)
    return Kind.PLAIN if is_number or field.name in _PLAIN_TEXTS else Kind.WIDE


def _table(table: str, schema: pa.Schema, without: set[str]) -> list[Column]:
    return [
        Column(table=table, name=field.name, type=field.type, kind=_kind(field))
        for field in schema
        if field.name not in without
    ]


COLUMNS = {
    column.full_name: column
    for column in [
        *_table("figure", FIGURES, set()),
        *_table("article", ARTICLES, set(FIGURES.names)),
        *_table("label", LABELS, {"key", "shard"}),
        *_table("cluster", _CLUSTERS, set()),
        *_table("duplicate", DUPLICATES, {"key", "shard"}),
    ]
}
"""By full name."""
TABLES = tuple(dict.fromkeys(column.table for column in COLUMNS.values()))


def find_column(words: list[str]) -> Column:
    """The column that a condition means by `width` or `figure.width`. Raises `ConfigError` for a name
    that is unknown, with the nearest one, and for one that several tables have."""
    name = ".".join(words)
    if len(words) > 1:
        if name in COLUMNS:
            return COLUMNS[name]
        raise ConfigError(f"unknown column {name}{nearest(name, COLUMNS)}")
    found = [column for column in COLUMNS.values() if column.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"column {name} stands in several tables; write {' or '.join(c.full_name for c in found)}"
        )
    short = {column.name: column.full_name for column in COLUMNS.values()}
    raise ConfigError(f"unknown column {name}{nearest(name, short)}")


def nearest(name: str, known: object) -> str:
    """Words that suggest what was meant."""
    names = sorted(known)  # type: ignore[call-overload]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(names)}"
