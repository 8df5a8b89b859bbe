"""The tables of one indexed shard; they get their names only when all are complete."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from biomedica.errors import ArchiveError
from biomedica.foreign.fields import Label
from biomedica.foreign.samples import Row
from biomedica.records import Reject
from biomedica.shards import (
    ARTICLES,
    FIGURES,
    REJECTS,
    TableWriter,
    WrittenFile,
    described,
    disk_message,
    file_digest,
    reject_row,
    temporary,
)

_TEXTS = pa.list_(pa.string())
STATED = pa.schema(
    [
        described("key", pa.string(), "sample", False),
        described(
            "is_own", pa.bool_(), "ids of our taxonomy; false: published names; null: no label"
        ),
        described("cluster", pa.int32(), "cluster of the label, as the JSON numbers it"),
        described("status", pa.string(), "`label_status` of our own exports"),
        described("panel_type", pa.string(), "as the JSON has it"),
        described("panel_subtype", pa.string(), "as the JSON has it"),
        described("global_classes", _TEXTS, "primary labels, as the JSON has them", False),
        described("local_classes", _TEXTS, "secondary labels, as the JSON has them", False),
    ]
)
"""`stated/GROUP/SHARD.parquet`: what the shard's JSON says of the pictures, one row a sample."""
_SCHEMAS = {"figures": FIGURES, "articles": ARTICLES, "rejects": REJECTS, "stated": STATED}


def table_names(shard: str) -> dict[str, str]:
    """Paths of a shard's tables below the archive, by kind."""
    group = shard.rpartition("-")[0]
    return {
        kind: f"{kind}/{shard}.parquet" if kind == "rejects" else f"{kind}/{group}/{shard}.parquet"
        for kind in _SCHEMAS
    }


class Tables:
    """Use as a context manager; `commit` inside it. Without a commit, nothing is left behind."""

    def __init__(self, archive: Path, shard: str) -> None:
        self._archive = archive
        self._paths = {kind: archive / name for kind, name in table_names(shard).items()}
        self._names = table_names(shard)
        self._writers: dict[str, TableWriter] = {}
        self._article_numbers: dict[tuple[str, int], int] = {}

    def __enter__(self) -> Self:
        try:
            for kind, schema in _SCHEMAS.items():
                self._paths[kind].parent.mkdir(parents=True, exist_ok=True)
                self._writers[kind] = TableWriter(temporary(self._paths[kind]), schema)
        except OSError as error:
            self._abandon()
            raise ArchiveError(disk_message(self._archive, error)) from error
        return self

    def add(self, row: Row, article: dict[str, Any] | None) -> None:
        """Append a sample. article   row of its article, needed where `is_new` says so"""
        columns = row.columns
        name = columns["pmcid"], columns["version"]
        if article is not None:
            self._writers["articles"].add(article)
        self._article_numbers[name] = self._article_numbers.get(name, 0) + 1
        self._writers["figures"].add(columns)
        self._writers["stated"].add(_stated(columns["key"], row.facts.label))

    def is_new(self, row: Row) -> bool:
        """Whether no sample of the same article was added yet."""
        return (row.columns["pmcid"], row.columns["version"]) not in self._article_numbers

    def refuse(self, reject: Reject) -> None:
        """Append a reject."""
        self._writers["rejects"].add(reject_row(reject))

    def counts(self) -> dict[str, int]:
        """Rows so far: pairs, articles, rejects."""
        return {
            "pairs": self._writers["figures"].num_rows,
            "articles": self._writers["articles"].num_rows,
            "rejects": self._writers["rejects"].num_rows,
        }

    def commit(self) -> tuple[WrittenFile, ...]:
        """Complete the files and give them their names."""
        for writer in self._writers.values():
            writer.close()
        self._count_figures()
        written = []
        for kind, path in self._paths.items():
            own = temporary(path)
            written.append(WrittenFile(self._names[kind], own.stat().st_size, file_digest(own)))
        for path in self._paths.values():
            temporary(path).replace(path)
        return tuple(written)

    def _count_figures(self) -> None:
        """Write the articles again with the number of each one's samples, known only now."""
        path = temporary(self._paths["articles"])
        counted = temporary(path)
        place = ARTICLES.get_field_index("num_figures")
        with (
            pq.ParquetFile(path) as file,
            pq.ParquetWriter(counted, ARTICLES, compression="zstd", compression_level=3) as to,
        ):
            for at in range(file.num_row_groups):
                table = file.read_row_group(at).cast(ARTICLES)
                names = zip(table["pmcid"].to_pylist(), table["version"].to_pylist(), strict=True)
                numbers = pa.array([self._article_numbers[name] for name in names], pa.int32())
                to.write_table(table.set_column(place, ARTICLES.field(place), numbers))
        counted.replace(path)

    def _abandon(self) -> None:
        for writer in self._writers.values():
            writer.abandon()
        for path in self._paths.values():
            for own in (temporary(path), temporary(temporary(path))):
                with suppress(OSError):
                    own.unlink(missing_ok=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            return
        self._abandon()
        if isinstance(error, OSError):
            raise ArchiveError(disk_message(self._archive, error)) from error


def _stated(key: str, label: Label | None) -> dict[str, Any]:
    return {
        "key": key,
        "is_own": None if label is None else label.is_own,
        "cluster": label and label.cluster,
        "status": label and label.status,
        "panel_type": label and label.panel_type,
        "panel_subtype": label and label.panel_subtype,
        "global_classes": list(label.global_classes) if label else [],
        "local_classes": list(label.local_classes) if label else [],
    }
