"""Samples to shards and back: the one schema, the tar and Parquet writers, the readers.

A shard is a plain ustar file of `<key>.jpg`, `<key>.txt`, `<key>.json` (WebDataset's layout), beside
one Parquet row a sample with all facts and the byte offset of every member. Same samples, same
bytes: no time, owner or machine is written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from biomedica.errors import ArchiveError
from biomedica.records import Article, ArticleRef, Reject, Sample, licence_group

BLOCK = 512
"""Bytes; tar pads every member to a multiple of it."""
ROWS_IN_MEMORY = 512
"""Rows of a table held before they are written as a row group."""


def described(name: str, kind: pa.DataType, about: str, nullable: bool = True) -> pa.Field:
    """A column that says what it holds; the pages on formats are made of that."""
    return pa.field(name, kind, nullable, metadata={"about": about})


_INT = pa.int64()
_TEXT = pa.string()
_TEXTS = pa.list_(pa.string())
_SPAN = pa.struct([("start", pa.int32()), ("end", pa.int32())])
_MENTION = pa.struct([("text", _TEXT), ("section", _TEXT), ("spans", pa.list_(_SPAN))])

_OFFSETS = [
    described("key", _TEXT, "unique name of the sample, made from the source alone", False),
    described("shard", _TEXT, "its shard: file name without `.tar`", False),
    described(
        "offset", _INT, "bytes from the shard's start to the sample's first tar header", False
    ),
    described("length", _INT, "bytes from there to the end of the sample's last member", False),
    described("jpg_offset", _INT, "bytes from the shard's start to the JPEG", False),
    described("jpg_size", _INT, "bytes of the JPEG", False),
    described("txt_offset", _INT, "bytes from the shard's start to the caption", False),
    described("txt_size", _INT, "bytes of the caption, UTF-8", False),
    described("json_offset", _INT, "bytes from the shard's start to the JSON", False),
    described("json_size", _INT, "bytes of the JSON, UTF-8", False),
]
_ARTICLE_FACTS = [
    described("pmcid", _TEXT, "`PMC<digits>`", False),
    described("version", pa.int32(), "version of the article, from 1", False),
    described("pmid", _INT, "PubMed id"),
    described("doi", _TEXT, "DOI without address"),
    described("title", _TEXT, "article title"),
    described("journal", _TEXT, "journal title"),
    described("article_type", _TEXT, "JATS article type (`research-article`, `case-report`, ...)"),
    described(
        "published", pa.date32(), "earliest public date; a missing month or day is the first"
    ),
    described("license_code", _TEXT, "as the source states it (`CC BY`, `TDM`, null)"),
    described("licence_group", _TEXT, "`commercial`, `noncommercial` or `other`", False),
    described("is_retracted", pa.bool_(), "the source marks this version as retracted", False),
    described("is_manuscript", pa.bool_(), "author manuscript", False),
    described("is_historical_ocr", pa.bool_(), "scan of an old print, read by OCR", False),
    described("keywords", _TEXTS, "authors' keywords, all groups", False),
    described("subjects", _TEXTS, "journal's headings", False),
    described(
        "mesh_terms",
        _TEXTS,
        "MeSH headings from PubMed, `Descriptor/Qualifier`, * for major",
        False,
    ),
]
_FIGURE_FACTS = [
    described("figure_id", _TEXT, "`id` of the element in the XML"),
    described("figure_label", _TEXT, '"Figure 1"'),
    described(
        "figure_kind", _TEXT, "`fig`, `table`, `scheme`, `chart`, `graphical-abstract`, ...", False
    ),
    described("figure_position", pa.int32(), "order among the article's figures, from 0", False),
    described("graphic_position", pa.int32(), "order among the figure's pictures, from 0", False),
    described("num_graphics", pa.int32(), "pictures that the figure has in the XML", False),
    described("file_name", _TEXT, "the picture's name in the source", False),
    described("group_label", _TEXT, "label of the enclosing figure group"),
    described("group_caption", _TEXT, "caption of the enclosing figure group"),
    described(
        "figure_rights", _TEXT, "copyright, licence or credit that the figure states for itself"
    ),
    described("sub_article", _TEXT, "type of the sub-article or reply that holds the figure"),
    described("caption", _TEXT, "the figure's caption, else its group's", False),
    described("alt_text", _TEXT, "text for readers who can't see the picture"),
    described(
        "mentions",
        pa.list_(_MENTION),
        "paragraphs that cite the figure; spans in characters",
        False,
    ),
]
_PICTURE_FACTS = [
    described("width", pa.int32(), "pixels", False),
    described("height", pa.int32(), "pixels", False),
    described("source_format", _TEXT, "of the publisher's file: `JPEG`, `PNG`, `TIFF`, ...", False),
    described("source_bytes", _INT, "bytes of the publisher's file", False),
    described("source_md5", _TEXT, "MD5 of the publisher's file", False),
    described(
        "transform", _TEXT, "what was done to it, steps joined by `+`; `none`: nothing", False
    ),
    described("sha256", _TEXT, "SHA-256 of the JPEG in the shard", False),
    described("phash", pa.uint64(), "64-bit perceptual hash", False),
]
FIGURES = pa.schema(_OFFSETS + _ARTICLE_FACTS + _FIGURE_FACTS + _PICTURE_FACTS)
OFFSETS = frozenset(field.name for field in _OFFSETS[1:])
"""Columns that say where a sample's bytes are; its JSON member holds all the others."""
_TEXT_IN_JSON = ("published", "phash")
JSON = pa.schema(
    [
        field.with_type(_TEXT) if field.name in _TEXT_IN_JSON else field
        for field in FIGURES
        if field.name not in OFFSETS
    ]
)
"""The JSON members. Readers that guess a schema from a few samples break on columns that are null in
those (`datasets` does): give them this one, `datasets.Features.from_arrow_schema(shards.JSON)`."""

_AUTHOR = pa.struct([("name", _TEXT), ("orcid", _TEXT), ("affiliations", pa.list_(pa.int32()))])
_FUNDING = pa.struct([("source", _TEXT), ("award_ids", _TEXTS)])
_REFERENCE = pa.struct([("pmid", _INT), ("doi", _TEXT), ("text", _TEXT)])
_RELATED = pa.struct([("kind", _TEXT), ("id", _TEXT), ("id_type", _TEXT)])
ARTICLES = pa.schema(
    [
        *_ARTICLE_FACTS,
        described("citation", _TEXT, "as the source prints it"),
        described("publisher", _TEXT, "publisher's name"),
        described("issn", _TEXTS, "ISSNs, print and electronic", False),
        described("abstract", _TEXT, "sections and paragraphs, one a line"),
        described("authors", pa.list_(_AUTHOR), "in order; affiliations are indices from 0", False),
        described("affiliations", _TEXTS, "one text each", False),
        described("funding", pa.list_(_FUNDING), "award groups", False),
        described("references", pa.list_(_REFERENCE), "reference list in order", False),
        described("licence_url", _TEXT, "address of the licence that the XML states"),
        described("licence_text", _TEXT, "text of the licence that the XML states"),
        described(
            "related_articles", pa.list_(_RELATED), "corrections, retractions, companions", False
        ),
        described(
            "body_text", _TEXT, "titles and paragraphs of the body, one a line; no floats", False
        ),
        described("num_figures", pa.int32(), "samples of this article in the archive", False),
    ]
)
REJECTS = pa.schema(
    [
        described(
            "key", _TEXT, "what was refused: an article, `article/figure` or `article/file`", False
        ),
        described("stage", _TEXT, "the stage that refused it", False),
        described("reason", _TEXT, "one of the closed list", False),
        described("detail", _TEXT, "what was found", False),
        described("pmcid", _TEXT, "article, where one is known"),
        described("version", pa.int32(), "its version"),
    ]
)


def article_row(ref: ArticleRef, article: Article, mesh_terms: tuple[str, ...]) -> dict[str, Any]:
    """The facts of an article that stand in both tables. The source's word goes before the XML's."""
    return {
        "pmcid": ref.pmcid,
        "version": ref.version,
        "pmid": ref.pmid or article.pmid,
        "doi": ref.doi or article.doi,
        "title": article.title or ref.title,
        "journal": article.journal,
        "article_type": article.article_type,
        "published": article.published,
        "license_code": ref.license_code,
        "licence_group": licence_group(ref.license_code).value,
        "is_retracted": ref.is_retracted,
        "is_manuscript": ref.is_manuscript,
        "is_historical_ocr": ref.is_historical_ocr,
        "keywords": list(article.keywords),
        "subjects": list(article.subjects),
        "mesh_terms": list(mesh_terms),
    }


def _full_article_row(
    ref: ArticleRef, article: Article, mesh_terms: tuple[str, ...], num_figures: int
) -> dict[str, Any]:
    return article_row(ref, article, mesh_terms) | {
        "citation": ref.citation,
        "publisher": article.publisher,
        "issn": article.issn,
        "abstract": article.abstract,
        "authors": [
            {"name": a.name, "orcid": a.orcid, "affiliations": a.affiliations}
            for a in article.authors
        ],
        "affiliations": article.affiliations,
        "funding": [{"source": f.source, "award_ids": f.award_ids} for f in article.funding],
        "references": [{"pmid": r.pmid, "doi": r.doi, "text": r.text} for r in article.references],
        "licence_url": article.licence_url,
        "licence_text": article.licence_text,
        "related_articles": [
            {"kind": r.kind, "id": r.id, "id_type": r.id_type} for r in article.related_articles
        ],
        "body_text": article.body_text,
        "num_figures": num_figures,
    }


def sample_row(sample: Sample) -> dict[str, Any]:
    """A sample's row without the offsets: what the JSON member of a shard holds."""
    figure, picture = sample.figure, sample.picture
    return {
        "key": sample.key,
        **article_row(sample.ref, sample.article, sample.mesh_terms),
        "figure_id": figure.figure_id,
        "figure_label": figure.label,
        "figure_kind": figure.kind,
        "figure_position": figure.position,
        "graphic_position": sample.graphic_position,
        "num_graphics": len(figure.graphics),
        "file_name": sample.file_name,
        "group_label": figure.group_label,
        "group_caption": figure.group_caption,
        "figure_rights": figure.rights,
        "sub_article": figure.sub_article,
        "caption": sample.caption,
        "alt_text": figure.alt_text,
        "mentions": [
            {
                "text": mention.text,
                "section": mention.section,
                "spans": [{"start": span.start, "end": span.end} for span in mention.spans],
            }
            for mention in figure.mentions
        ],
        "width": picture.width,
        "height": picture.height,
        "source_format": picture.source_format,
        "source_bytes": picture.source_bytes,
        "source_md5": picture.source_md5,
        "transform": picture.transform,
        "sha256": picture.sha256,
        "phash": picture.phash,
    }


def json_member(row: dict[str, Any]) -> bytes:
    """A row as JSON: dates in ISO form, the hash as 16 hex digits (JSON readers lose 64-bit integers)."""
    plain = row | {"phash": f"{row['phash']:016x}"}
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":"), default=_plain).encode()


def _plain(value: object) -> str:
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} in a row")


def tar_header(name: str, size: int) -> bytes:
    """A ustar header of a plain file: mode 0644, time 0, no owner. `name` has at most 100 bytes."""
    encoded = name.encode("ascii")
    if len(encoded) > 100:
        raise ValueError(f"{name!r} does not fit a ustar header")
    header = bytearray(BLOCK)
    header[0 : len(encoded)] = encoded
    fields = (b"0000644", b"0000000", b"0000000", b"%011o" % size, b"00000000000")
    header[100:148] = b"".join(field + bytes(1) for field in fields)
    header[148:157] = b"        0"
    header[257:265] = b"ustar" + bytes(1) + b"00"
    header[148:156] = b"%06o" % sum(header) + b"\x00 "
    return bytes(header)


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file of the archive that is complete and in its place."""

    path: str
    """Below the archive's folder."""
    size: int
    sha256: str


class TableWriter:
    """A Parquet file written in row groups of a fixed number of rows, whatever their timing."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self.num_rows = 0
        self._file = pq.ParquetWriter(path, schema, compression="zstd", compression_level=3)

    def add(self, row: dict[str, Any]) -> None:
        """Add one row; a missing or extra name is an error."""
        self._rows.append(row)
        self.num_rows += 1
        if len(self._rows) == ROWS_IN_MEMORY:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, self._schema))
            self._rows = []

    def close(self) -> None:
        """Write what is left and the footer."""
        self._flush()
        self._file.close()

    def abandon(self) -> None:
        """Give the file up: after a failed write its footer cannot be written either."""
        with suppress(OSError, pa.ArrowException):
            self._file.close()
        self._file.is_open = False  # or its finalizer tries again, and complains on stderr


class ShardWriter:
    """Writes the four files of one task; they get their names only when all are complete.

    Use as a context manager; `commit` inside it. Without a commit, nothing is left behind.
    """

    def __init__(self, archive: Path, group: str, shard: str) -> None:
        self._archive = archive
        self._shard = shard
        self._names = {
            "shards": f"shards/{group}/{shard}.tar",
            "figures": f"figures/{group}/{shard}.parquet",
            "articles": f"articles/{group}/{shard}.parquet",
            "rejects": f"rejects/{shard}.parquet",
        }
        self._offset = 0
        self._open_files: list[IO[bytes]] = []
        self._tables: list[TableWriter] = []

    def __enter__(self) -> Self:
        try:
            for name in self._names.values():
                (self._archive / name).parent.mkdir(parents=True, exist_ok=True)
            self._tar: IO[bytes] = self._temporary("shards").open("wb", buffering=1 << 20)
            self._open_files.append(self._tar)
            self._digest = hashlib.sha256()
            self._figures = self._table("figures", FIGURES)
            self._articles = self._table("articles", ARTICLES)
            self._rejects = self._table("rejects", REJECTS)
        except OSError as error:
            self._abandon()
            raise ArchiveError(disk_message(self._archive, error)) from error
        return self

    def _table(self, part: str, schema: pa.Schema) -> TableWriter:
        table = TableWriter(self._temporary(part), schema)
        self._tables.append(table)
        return table

    def _abandon(self) -> None:
        """Close what is open and remove the temporary files."""
        for table in self._tables:
            table.abandon()
        for file in self._open_files:
            with suppress(OSError):
                file.close()
        for part in self._names:
            with suppress(OSError):
                self._temporary(part).unlink(missing_ok=True)

    def _temporary(self, part: str) -> Path:
        return temporary(self._archive / self._names[part])

    def add_sample(self, sample: Sample) -> None:
        """Append the three members and the row."""
        row = sample_row(sample)
        self.add_members(row, sample.picture.jpeg, sample.caption.encode(), json_member(row))

    def add_members(self, row: dict[str, Any], jpg: bytes, txt: bytes, meta: bytes) -> None:
        """Append members that are ready, and the row with their offsets."""
        start = self._offset
        places = [
            self._member(row["key"], *m) for m in (("jpg", jpg), ("txt", txt), ("json", meta))
        ]
        offsets = {
            "shard": self._shard,
            "offset": start,
            "length": self._offset - start,
            **{f"{extension}_offset": place for extension, place in places},
            "jpg_size": len(jpg),
            "txt_size": len(txt),
            "json_size": len(meta),
        }
        self._figures.add(row | offsets)

    def _member(self, key: str, extension: str, data: bytes) -> tuple[str, int]:
        self._write(tar_header(f"{key}.{extension}", len(data)))
        place = self._offset
        self._write(data)
        self._write(bytes(-len(data) % BLOCK))
        return extension, place

    def _write(self, data: bytes) -> None:
        self._tar.write(data)
        self._digest.update(data)
        self._offset += len(data)

    def add_article(
        self, ref: ArticleRef, article: Article, mesh_terms: tuple[str, ...], num_figures: int
    ) -> None:
        """Append an article's row."""
        self._articles.add(_full_article_row(ref, article, mesh_terms, num_figures))

    def add_article_row(self, row: dict[str, Any]) -> None:
        """Append an article's row that was read from a table."""
        self._articles.add(row)

    def add_reject(self, reject: Reject) -> None:
        """Append a reject."""
        self._rejects.add(reject_row(reject))

    def add_reject_row(self, row: dict[str, Any]) -> None:
        """Append a reject's row that was read from a table."""
        self._rejects.add(row)

    def counts(self) -> dict[str, int]:
        """Rows so far: pairs, articles, rejects."""
        return {
            "pairs": self._figures.num_rows,
            "articles": self._articles.num_rows,
            "rejects": self._rejects.num_rows,
        }

    def finish(self) -> list[WrittenFile]:
        """Complete the files under their temporary names, on the disk; digests of what was written."""
        self._write(bytes(2 * BLOCK))
        self._tar.flush()
        os.fsync(self._tar.fileno())
        self._tar.close()
        for table in (self._figures, self._articles, self._rejects):
            table.close()
        written = []
        for part, name in self._names.items():
            path = self._temporary(part)
            digest = self._digest.hexdigest() if part == "shards" else file_digest(path)
            _sync(path)
            written.append(WrittenFile(name, path.stat().st_size, digest))
        return written

    def commit(self) -> list[WrittenFile]:
        """`finish`, then give the files their names."""
        written = self.finish()
        for file in written:
            path = self._archive / file.path
            temporary(path).replace(path)
        return written

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


def disk_message(archive: Path, error: OSError) -> str:
    """What a failing disk means for the user."""
    return (
        f"cannot write to {archive}: {error.strerror or error}. Nothing that was done is lost: "
        "make room (or mend the permissions) and run the same command again to resume"
    )


def reject_row(reject: Reject) -> dict[str, Any]:
    """A reject as a row of `REJECTS`."""
    return {
        "key": reject.key,
        "stage": reject.stage.value,
        "reason": reject.reason.value,
        "detail": reject.detail,
        "pmcid": reject.pmcid,
        "version": reject.version,
    }


def temporary(path: Path) -> Path:
    """The name that a file has until it is complete."""
    return path.with_name(f".{path.name}.tmp")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_file(path: Path, data: bytes) -> None:
    """Write a small file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with own.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        own.replace(path)
    except OSError as error:
        raise ArchiveError(disk_message(path.parent, error)) from error


def write_json(path: Path, content: object) -> None:
    """Write a small JSON file, its keys in order, so that it is there whole or not at all."""
    write_file(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def write_table(path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows to a Parquet file, whole or not at all; the number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = None
    try:
        writer = TableWriter(temporary(path), schema)
        for row in rows:
            writer.add(row)
        writer.close()
        _sync(temporary(path))
        temporary(path).replace(path)
    except OSError as error:
        if writer is not None:
            writer.abandon()
        raise ArchiveError(disk_message(path.parent, error)) from error
    return writer.num_rows


def write_arrow(path: Path, table: pa.Table, rows_in_group: int = 20_000) -> None:
    """Write a table that is in memory, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        pq.write_table(table, temporary(path), row_group_size=rows_in_group, compression="zstd")
        _sync(temporary(path))
        temporary(path).replace(path)
    except OSError as error:
        raise ArchiveError(disk_message(path.parent, error)) from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tables(archive: Path, kind: str) -> list[Path]:
    """Files of `figures` or `articles`, every group, in order."""
    return sorted((archive / kind).glob("*/*.parquet"))


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a tar."""

    name: str
    offset: int
    """Bytes from the tar's start to the file's first byte."""
    size: int


def tar_members(path: Path) -> Iterator[Member]:
    """Members of a shard in order. Raises `ArchiveError` at the first header that is not ours."""
    with path.open("rb") as file:
        while True:
            header = file.read(BLOCK)
            if len(header) == BLOCK and not any(header):
                return
            place = file.tell() - len(header)
            if len(header) < BLOCK or header[257:262] != b"ustar":
                raise ArchiveError(
                    f"{path}: no tar header at byte {place}; the file is cut or changed"
                )
            name = header[:100].rstrip(b"\0").decode("ascii", "replace")
            size = int(header[124:135], 8)
            if tar_header(name, size) != header:
                raise ArchiveError(f"{path}: the tar header at byte {place} is changed")
            yield Member(name, file.tell(), size)
            file.seek(size + -size % BLOCK, os.SEEK_CUR)
