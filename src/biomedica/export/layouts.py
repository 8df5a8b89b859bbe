"""The three layouts: what a shard's file looks like, and the columns that a reader must be told."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from biomedica import shards
from biomedica.export.features import IMAGE, PICTURE, own_features
from biomedica.export.published import SCHEMA as PUBLISHED
from biomedica.export.source import Copied
from biomedica.shards import BLOCK, FIGURES, OFFSETS, file_digest, tar_header

ROWS_IN_GROUP = 1_000
"""Rows of a row group of the Parquet layout, at the most."""

LABELS = pa.schema(
    [
        pa.field("cluster", pa.int32(), metadata={"about": "cluster of the sample"}),
        pa.field(
            "label_status",
            pa.string(),
            metadata={
                "about": "`labelled`, `outlier`, `ambiguous`, `undecided`, `unlabelled`; null: no cluster"
            },
        ),
        pa.field("panel_type", pa.string(), metadata={"about": "by the experts' consensus"}),
        pa.field("panel_subtype", pa.string(), metadata={"about": "by the experts' consensus"}),
        pa.field(
            "global_concepts", pa.list_(pa.string()), metadata={"about": "ids of the taxonomy"}
        ),
        pa.field(
            "local_concepts",
            pa.list_(pa.string()),
            metadata={"about": "ids of the taxonomy, with their ancestors"},
        ),
        pa.field(
            "label_confidence",
            pa.float32(),
            metadata={"about": "smallest share of voters behind an answer of the label"},
        ),
        pa.field("label_votes", pa.int32(), metadata={"about": "experts who voted"}),
        pa.field("label_adjudicated", pa.bool_(), metadata={"about": "settled by an adjudicator"}),
    ]
)
"""What a label adds to a sample, in the layouts of our own."""


def label_fields(label: dict[str, Any] | None) -> dict[str, Any]:
    """The columns of `LABELS` for a sample; all null, or empty, where it has no label row."""
    found = label or {}
    return {
        "cluster": found.get("cluster"),
        "label_status": found.get("status"),
        "panel_type": found.get("panel_type"),
        "panel_subtype": found.get("panel_subtype"),
        "global_concepts": found.get("global_concepts") or [],
        "local_concepts": found.get("local_concepts") or [],
        "label_confidence": found.get("confidence"),
        "label_votes": found.get("num_votes"),
        "label_adjudicated": found.get("is_adjudicated"),
    }


def json_bytes(content: dict[str, Any]) -> bytes:
    """JSON as the archive's shards have it: UTF-8, no spaces."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def json_schema(layout: str, with_labels: bool) -> pa.Schema:
    """Columns of the JSON members, or of the facts in a Parquet file."""
    if layout == "biomedica":
        return PUBLISHED
    own = shards.JSON
    if layout == "parquet":
        own = pa.schema([field for field in FIGURES if field.name not in OFFSETS])
    return pa.schema([*own, *LABELS]) if with_labels else own


def feature_schema(layout: str, with_labels: bool) -> pa.Schema:
    """What `datasets` must be told of a shard's columns: it would guess from five samples."""
    facts = json_schema(layout, with_labels)
    if layout == "parquet":
        image = pa.field("image", PICTURE, False, metadata=IMAGE)
        return pa.schema([image, *facts])
    return pa.schema(
        [
            pa.field("jpg", PICTURE, metadata=IMAGE),
            ("txt", pa.string()),
            ("json", pa.struct(list(facts))),
            ("__key__", pa.string()),
            ("__url__", pa.string()),
        ]
    )


class ShardFile(Protocol):
    """A shard that is being written under the path it was given."""

    def add(self, sample: Copied, fields: dict[str, Any] | None) -> None:
        """Append a sample. `fields`: the published 25, or what a label adds, or None."""

    def close(self) -> str:
        """Complete the file on the disk; its SHA-256."""

    def abandon(self) -> None:
        """Close what is open, without complaint."""


class TarShard:
    """`<key>.jpg`, `<key>.txt`, `<key>.json` in a plain ustar file; the bytes are copied."""

    def __init__(self, path: Path, replaces: bool) -> None:
        """replaces   `fields` are the whole JSON; else they are added to the archive's own."""
        self._file = path.open("wb", buffering=1 << 20)
        self._digest = hashlib.sha256()
        self._replaces = replaces

    def add(self, sample: Copied, fields: dict[str, Any] | None) -> None:
        """Append the three members."""
        meta = sample.meta
        if fields is not None:
            meta = json_bytes(fields if self._replaces else sample.facts | fields)
        for extension, data in (("jpg", sample.jpg), ("txt", sample.txt), ("json", meta)):
            self._write(tar_header(f"{sample.row['key']}.{extension}", len(data)))
            self._write(data)
            self._write(bytes(-len(data) % BLOCK))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)

    def close(self) -> str:
        """Write the end of the archive."""
        self._write(bytes(2 * BLOCK))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()

    def abandon(self) -> None:
        """Close the file; what could not be flushed is lost."""
        with suppress(OSError):
            self._file.close()


class ParquetShard:
    """An image column and the facts, in row groups that are bounded by rows and by bytes."""

    def __init__(self, path: Path, with_labels: bool, row_group_bytes: int) -> None:
        schema = feature_schema("parquet", with_labels)
        info = {"info": {"features": own_features(schema)}}
        self._schema = schema.with_metadata({"huggingface": json.dumps(info)})
        self._path = path
        self._limit = row_group_bytes
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._file = pq.ParquetWriter(
            path,
            self._schema,
            compression={each.name: "zstd" for each in schema} | {"image": "none"},
            write_statistics=[each.name for each in schema if each.name != "image"],
        )

    def add(self, sample: Copied, fields: dict[str, Any] | None) -> None:
        """Append a row; the picture's bytes are copied."""
        image = {"bytes": sample.jpg, "path": f"{sample.row['key']}.jpg"}
        self._rows.append({"image": image, **sample.row, **(fields or {})})
        self._bytes += len(sample.jpg)
        if len(self._rows) == ROWS_IN_GROUP or self._bytes >= self._limit:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, self._schema))
            self._rows, self._bytes = [], 0

    def close(self) -> str:
        """Write what is left and the footer."""
        self._flush()
        self._file.close()
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
        return file_digest(self._path)

    def abandon(self) -> None:
        """Give the file up: after a failed write its footer cannot be written either."""
        with suppress(OSError, pa.ArrowException):
            self._file.close()
        self._file.is_open = False  # or its finalizer tries again, and complains on stderr
