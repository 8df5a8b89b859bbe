"""PubMed's facts by PMID: MeSH, publication types, abstract, references, retraction links.

    pubmed/part-<nnnnn>.parquet    PMIDs from nnnnn * 100,000 on

Records are joined by the PMID that stands in the answer, never by their position in it. They come
from E-utilities (efetch) or from files of PubMed's baseline (`pubmed26n0001.xml.gz`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from lxml import etree

from biomedica.errors import SourceError
from biomedica.parse.text import inline_text
from biomedica.records import Reason, Reject, Stage
from biomedica.shards import REJECTS, described, reject_row, write_arrow, write_file, write_table
from biomedica.sources.entrez import Entrez

PART_WIDTH = 100_000
"""PMIDs a part."""

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


_TEXT = pa.string()
_QUALIFIER = pa.struct([("name", _TEXT), ("ui", _TEXT), ("is_major", pa.bool_())])
_MESH = pa.struct(
    [
        ("descriptor", _TEXT),
        ("ui", _TEXT),
        ("is_major", pa.bool_()),
        ("qualifiers", pa.list_(_QUALIFIER)),
    ]
)
_SECTION = pa.struct([("label", _TEXT), ("text", _TEXT)])
_REFERENCE = pa.struct([("pmid", pa.int64()), ("doi", _TEXT), ("text", _TEXT)])
_LINK = pa.struct([("kind", _TEXT), ("pmid", pa.int64()), ("text", _TEXT)])
PUBMED = pa.schema(
    [
        described("pmid", pa.int64(), "PubMed id, as it stands in the record", False),
        described("mesh", pa.list_(_MESH), "MeSH headings with qualifiers, in order", False),
        described(
            "mesh_terms", pa.list_(_TEXT), "the same as text, `Descriptor/Qualifier*`", False
        ),
        described("publication_types", pa.list_(_TEXT), "`Journal Article`, `Review`, ...", False),
        described(
            "abstract", pa.list_(_SECTION), "sections of the abstract with their labels", False
        ),
        described("references", pa.list_(_REFERENCE), "reference list", False),
        described("links", pa.list_(_LINK), "`RetractionIn`, `ErratumIn`, `CommentOn`, ...", False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enriched:
    """What a run of `enrich` came to."""

    num_wanted: int
    num_known: int
    """Records that were there before."""
    num_fetched: int
    num_missing: int


def mesh_terms(folder: Path, pmids: Iterable[int]) -> dict[int, tuple[str, ...]]:
    """MeSH terms of those PMIDs that the folder has a record of."""
    found: dict[int, tuple[str, ...]] = {}
    by_part: dict[int, list[int]] = {}
    for pmid in pmids:
        by_part.setdefault(pmid // PART_WIDTH, []).append(pmid)
    for part, wanted in sorted(by_part.items()):
        path = _part_path(folder, part)
        if path.exists():
            table = pq.read_table(
                path, columns=["pmid", "mesh_terms"], filters=[("pmid", "in", wanted)]
            )
            pairs = zip(table["pmid"].to_pylist(), table["mesh_terms"].to_pylist(), strict=True)
            found |= {pmid: tuple(terms) for pmid, terms in pairs}
    return found


def enrich_from_entrez(
    folder: Path,
    pmids: Iterable[int],
    client: Entrez,
    rejects_path: Path,
    batch: int = 200,
    on_progress: Progress = lambda done, total: None,
) -> Enriched:
    """Ask E-utilities for the records that the folder lacks, `batch` a call.

    Resumable: what was written stays. PMIDs without a record become rejects, and are asked for again
    the next time.
    """
    wanted = sorted(set(pmids))
    lacking = _lacking(folder, wanted)
    missing: list[int] = []
    per_write = batch * 50
    for start in range(0, len(lacking), per_write):
        asked = lacking[start : start + per_write]
        rows: dict[int, dict[str, Any]] = {}
        try:
            for first in range(0, len(asked), batch):
                rows |= _answer(client, asked[first : first + batch])
                on_progress(len(wanted) - len(lacking) + start + first, len(wanted))
        finally:
            _merge(folder, rows)
        missing += [pmid for pmid in asked if pmid not in rows]
    return _finish(wanted, lacking, missing, rejects_path)


def _document(data: bytes) -> etree._Element:
    """The root of an answer of efetch. Raises `ValueError` for what is none (an error page)."""
    try:
        root = etree.fromstring(data, _PARSER)
    except etree.XMLSyntaxError as error:
        raise ValueError(f"it is no XML: {error}") from None
    if root.tag != "PubmedArticleSet":
        raise ValueError(f"<{root.tag}> instead of records: {inline_text(root) or ''}"[:200])
    return root


def _answer(client: Entrez, pmids: list[int]) -> dict[int, dict[str, Any]]:
    """Records of one call, by the PMID in each; what was not asked for is left out."""
    root = client.call(
        "efetch", _document, db="pubmed", retmode="xml", id=",".join(map(str, pmids))
    )
    rows = (read_record(article) for article in root.iter("PubmedArticle"))
    return {row["pmid"]: row for row in rows if row["pmid"] in pmids}


def enrich_from_files(
    folder: Path,
    pmids: Iterable[int],
    source: Path,
    rejects_path: Path,
    on_progress: Progress = lambda done, total: None,
) -> Enriched:
    """Read PubMed's files (`*.xml.gz`, `*.xml`) in the order of their names; of a PMID that stands in
    several, the last record counts, as PubMed's update files mean it.

    Resumable: files that were read are listed in `files.json` and not read again.
    """
    if not source.is_dir():
        raise SourceError(f"{source} is no folder of PubMed's files")
    files = sorted(p for p in source.iterdir() if p.name.endswith((".xml.gz", ".xml")))
    if not files:
        raise SourceError(f"{source} holds no .xml.gz or .xml files of PubMed")
    wanted = sorted(set(pmids))
    lacking = _lacking(folder, wanted)
    digest = hashlib.sha256(repr(wanted).encode()).hexdigest()
    ledger = folder / "files.json"
    read: list[list[Any]] = []
    if ledger.exists():
        content = json.loads(ledger.read_bytes())
        read = content["files"] if content["pmids"] == digest else []
    for number, path in enumerate(files):
        mark = [path.name, path.stat().st_size]
        if mark not in read:
            _merge(folder, {row["pmid"]: row for row in _records_of(path, set(wanted))})
            read.append(mark)
            write_file(ledger, json.dumps({"pmids": digest, "files": read}).encode())
        on_progress(number + 1, len(files))
    return _finish(wanted, lacking, _lacking(folder, wanted), rejects_path)


def _lacking(folder: Path, wanted: list[int]) -> list[int]:
    """Those that the folder has no record of."""
    known: set[int] = set()
    for part in sorted({pmid // PART_WIDTH for pmid in wanted}):
        path = _part_path(folder, part)
        if path.exists():
            known.update(pq.read_table(path, columns=["pmid"])["pmid"].to_pylist())
    return [pmid for pmid in wanted if pmid not in known]


def _merge(folder: Path, rows: dict[int, dict[str, Any]]) -> None:
    """Add records to their parts; a new record replaces an old one."""
    for part in sorted({pmid // PART_WIDTH for pmid in rows}):
        path = _part_path(folder, part)
        new = [row for pmid, row in rows.items() if pmid // PART_WIDTH == part]
        table = pa.Table.from_pylist(new, PUBMED)
        if path.exists():
            old = pq.read_table(path)
            replaced = pc.is_in(old["pmid"], table["pmid"].combine_chunks())
            table = pa.concat_tables([old.filter(pc.invert(replaced)).cast(PUBMED), table])
        write_arrow(path, table.sort_by("pmid"))


def _finish(
    wanted: list[int], lacking: list[int], missing: list[int], rejects_path: Path
) -> Enriched:
    write_table(rejects_path, REJECTS, (reject_row(_missing(pmid)) for pmid in missing))
    return Enriched(
        num_wanted=len(wanted),
        num_known=len(wanted) - len(lacking),
        num_fetched=len(lacking) - len(missing),
        num_missing=len(missing),
    )


def _missing(pmid: int) -> Reject:
    return Reject(
        key=f"PMID{pmid}",
        stage=Stage.ENRICH,
        reason=Reason.PUBMED_MISSING,
        detail="the answer holds no record of it",
    )


def _part_path(folder: Path, part: int) -> Path:
    return folder / f"part-{part:05d}.parquet"


def catalog_pmids(parts: Iterable[Path]) -> list[int]:
    """Every PMID of a catalog, sorted."""
    found: set[int] = set()
    for path in parts:
        column = pq.read_table(path, columns=["pmid"])["pmid"]
        found.update(pc.drop_null(column).to_pylist())
    return sorted(found)


def _records_of(path: Path, wanted: set[int]) -> Iterator[dict[str, Any]]:
    with (
        path.open("rb") as raw,
        gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw as file,
    ):
        try:
            events = etree.iterparse(
                file, tag="PubmedArticle", resolve_entities=False, no_network=True, load_dtd=False
            )
            for _, article in events:
                if _pmid(article) in wanted:
                    yield read_record(article)
                article.clear()
                while article.getprevious() is not None:
                    del article.getparent()[0]
        except (etree.XMLSyntaxError, OSError, EOFError, zlib.error) as error:
            raise SourceError(f"{path} is damaged: {error}; fetch it again") from None


_PARSER = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=True)


def _pmid(article: etree._Element) -> int:
    return _number(article.findtext("MedlineCitation/PMID")) or 0


def read_record(article: etree._Element) -> dict[str, Any]:
    """A `PubmedArticle` element as a row of `PUBMED`."""
    mesh = [_heading(h) for h in article.iterfind("MedlineCitation/MeshHeadingList/MeshHeading")]
    return {
        "pmid": _pmid(article),
        "mesh": mesh,
        "mesh_terms": [term for heading in mesh for term in _terms(heading)],
        "publication_types": [
            text
            for e in article.iterfind("MedlineCitation/Article/PublicationTypeList/PublicationType")
            if (text := inline_text(e))
        ],
        "abstract": [
            {"label": e.get("Label"), "text": inline_text(e) or ""}
            for e in article.iterfind("MedlineCitation/Article/Abstract/AbstractText")
        ],
        "references": [
            _reference(e) for e in article.iterfind("PubmedData/ReferenceList//Reference")
        ],
        "links": [
            {
                "kind": e.get("RefType"),
                "pmid": _number(e.findtext("PMID")),
                "text": inline_text(e.find("RefSource")),
            }
            for e in article.iterfind("MedlineCitation/CommentsCorrectionsList/CommentsCorrections")
        ],
    }


def _heading(heading: etree._Element) -> dict[str, Any]:
    descriptor = heading.find("DescriptorName")
    return {
        "descriptor": inline_text(descriptor),
        "ui": None if descriptor is None else descriptor.get("UI"),
        "is_major": descriptor is not None and descriptor.get("MajorTopicYN") == "Y",
        "qualifiers": [
            {
                "name": inline_text(e),
                "ui": e.get("UI"),
                "is_major": e.get("MajorTopicYN") == "Y",
            }
            for e in heading.iterfind("QualifierName")
        ],
    }


def _terms(heading: dict[str, Any]) -> Iterator[str]:
    """PubMed's way of writing it: `Lung/diagnostic imaging*`, a star after what is a major topic."""
    name = heading["descriptor"]
    if not heading["qualifiers"]:
        yield f"{name}*" if heading["is_major"] else name
    for qualifier in heading["qualifiers"]:
        yield f"{name}/{qualifier['name']}{'*' if qualifier['is_major'] else ''}"


def _reference(reference: etree._Element) -> dict[str, Any]:
    ids = {e.get("IdType"): (e.text or "").strip() for e in reference.iter("ArticleId")}
    return {
        "pmid": _number(ids.get("pubmed")),
        "doi": ids.get("doi") or None,
        "text": inline_text(reference.find("Citation")) or "",
    }


def _number(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdecimal() else None
