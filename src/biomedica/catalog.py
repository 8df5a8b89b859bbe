"""The list of article versions that an archive draws on: fetched once, then only what changed.

    catalog/part-<nnnnn>.parquet    PMC ids from nnnnn * 100,000 on

Parts are ranges of ids, so that a part is the same whatever came before or after it, and a refresh
rewrites only parts in which something changed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from biomedica.errors import ConfigError, SourceError
from biomedica.images import SUFFIXES
from biomedica.records import ArticleRef, LicenceGroup, Media, Reason, Reject, licence_group
from biomedica.shards import REJECTS, described, reject_row, write_arrow, write_table
from biomedica.sources import Listing, Rows, Source

PART_WIDTH = 100_000
"""PMC ids a part."""
_CHUNK = 2_000
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_CITED_DATE = re.compile(r"\b(\d{4})(?: ([A-Z][a-z]{2})[a-z]*)?(?: (\d{1,2}))?\b")

_MEDIA = pa.list_(pa.struct([("name", pa.string()), ("md5", pa.string())]))


CATALOG = pa.schema(
    [
        described("number", pa.int64(), "digits of the PMC id", False),
        described("version", pa.int32(), "version of the article, from 1", False),
        described("pmid", pa.int64(), "PubMed id"),
        described("doi", pa.string(), "DOI"),
        described("title", pa.string(), "title as the source prints it"),
        described("citation", pa.string(), "citation as the source prints it"),
        described("license_code", pa.string(), "`CC BY`, `TDM`, null, ..."),
        described("is_retracted", pa.bool_(), "marked as retracted", False),
        described("is_manuscript", pa.bool_(), "author manuscript", False),
        described("is_historical_ocr", pa.bool_(), "scan of an old print", False),
        described("location", pa.string(), "folder or package of the article in its source", False),
        described("xml_name", pa.string(), "file name of the XML", False),
        described("xml_md5", pa.string(), "MD5 of the XML"),
        described("media", _MEDIA, "files beside the XML, with MD5", False),
        described(
            "num_images", pa.int32(), "pictures among them, twins in other formats left out", False
        ),
        described(
            "published", pa.date32(), "date in the citation; a missing month or day is the first"
        ),
        described(
            "content", pa.uint64(), "digest of all that decides about the article's rows", False
        ),
        described("etag", pa.string(), "ETag of the metadata", False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which articles of a source an archive is made of. It is written in `archive.json`."""

    pmcids: tuple[int, ...] | None = None
    """Numbers of PMC ids; None for all."""
    query: str | None = None
    """Of E-utilities; found once, when the archive is made or refreshed."""
    limit: int | None = None
    """Number of articles, those with the lowest ids first."""
    groups: tuple[str, ...] = tuple(group.value for group in LicenceGroup)
    """Licence groups."""
    published_from: date | None = None
    published_to: date | None = None
    """By the date in the citation; articles that state none are left out when either is set."""
    retracted: bool = True
    """Whether retracted articles are taken (their rows say so)."""
    all_versions: bool = False
    """Whether superseded versions are taken too."""

    def __post_init__(self) -> None:
        known = {group.value for group in LicenceGroup}
        if unknown := set(self.groups) - known:
            raise ConfigError(
                f"unknown licence group {min(unknown)!r}; known are {', '.join(sorted(known))}"
            )
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit is {self.limit}; at least 1 is expected")

    def admits(self, table: pa.Table) -> np.ndarray[Any, Any]:
        """(N,) of bool: the catalog rows that are selected, the limit left out of account."""
        codes = table["license_code"].combine_chunks().dictionary_encode()
        of_code = [licence_group(code) in self.groups for code in codes.dictionary.to_pylist()]
        of_code.append(licence_group(None) in self.groups)
        indices = codes.indices.fill_null(len(of_code) - 1).to_numpy(zero_copy_only=False)
        kept = np.array(of_code, dtype=bool)[indices] if len(indices) else np.zeros(0, dtype=bool)
        if not self.retracted:
            kept &= ~table["is_retracted"].to_numpy()
        published = table["published"].combine_chunks().to_numpy(zero_copy_only=False)
        published = published.astype("datetime64[D]")
        if self.published_from is not None:
            kept &= published >= np.datetime64(self.published_from)
        if self.published_to is not None:
            kept &= published <= np.datetime64(self.published_to)
        return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """What a refresh of the catalog came to."""

    num_listed: int
    num_fetched: int
    num_rejects: int
    snapshot: str | None
    changed_parts: int


@dataclass(slots=True)
class _Failures:
    """Records that could not be fetched, one after the other."""

    uri: str
    limit: int
    in_a_row: int = 0
    any_came: bool = False

    def count(self, reject: Reject) -> None:
        self.in_a_row = self.in_a_row + 1 if reject.reason is Reason.FETCH_FAILED else 0
        self.any_came |= self.in_a_row == 0
        if self.in_a_row >= self.limit:
            self.give_up(reject.detail)

    def give_up(self, detail: str) -> None:
        """Raise `SourceError`."""
        raise SourceError(
            f"{self.in_a_row} records in a row could not be fetched from {self.uri} ({detail}). "
            "What is done stays: run the same command when it is back"
        )


def list_articles(source: Source, selection: Selection) -> Listing:
    """Article versions that the source lists and the selection does not rule out by id."""
    if selection.pmcids is not None:
        listing = source.listing_for(list(selection.pmcids))
    else:
        listing = source.listing()
    return listing if selection.all_versions else listing.latest()


def refresh(
    folder: Path,
    source: Source,
    listing: Listing,
    selection: Selection,
    rejects_path: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    max_failures: int = 50,
) -> Refreshed:
    """Bring `folder` up to what the source lists now; metadata is fetched only where its ETag changed.

    Can be stopped at any moment and run again: parts that are complete are kept. on_progress gets
    (articles looked at, articles listed). max_failures   records in a row that cannot be fetched: then
    the source is down, and `SourceError` is raised
    """
    rejects = list(listing.rejects)
    fetched = changed = looked_at = admitted = 0
    seen = set()
    failures = _Failures(source.uri, max_failures)
    for part, rows in listing.parts(PART_WIDTH):
        path = folder / f"part-{part:05d}.parquet"
        seen.add(path)
        stop = None if selection.limit is None else selection.limit - admitted
        table, new, failed = _refresh_part(path, rows, source, selection, stop, failures)
        rejects += failed
        fetched += new
        changed += bool(new)
        admitted += int(selection.admits(table).sum())
        looked_at += len(rows)
        on_progress(looked_at, len(listing.rows))
        if selection.limit is not None and admitted >= selection.limit:
            break
    if failures.in_a_row > 1 and not failures.any_came:
        failures.give_up(rejects[-1].detail)
    for path in sorted(folder.glob("part-*.parquet")):
        if path not in seen:
            path.unlink()
            changed += 1
    write_table(
        rejects_path, REJECTS, (reject_row(r) for r in sorted(rejects, key=lambda r: r.key))
    )
    return Refreshed(
        num_listed=len(listing.rows),
        num_fetched=fetched,
        num_rejects=len(rejects),
        snapshot=listing.snapshot,
        changed_parts=changed,
    )


def _refresh_part(
    path: Path,
    rows: Rows,
    source: Source,
    selection: Selection,
    stop: int | None,
    failures: _Failures,
) -> tuple[pa.Table, int, list[Reject]]:
    """(the part's table, number of versions fetched, rejects); the file is written if it changed."""
    old = pq.read_table(path) if path.exists() else CATALOG.empty_table()
    known = {
        (n, v): (i, e.encode())
        for i, (n, v, e) in enumerate(zip(*(old[c].to_pylist() for c in _IDENTITY), strict=True))
    }
    of_number: dict[int, list[int]] = {}
    for (number, _), (row, _) in known.items():
        # What was known stays, whatever fails, until the source says otherwise.
        of_number.setdefault(number, []).append(row)
    keep: list[int] = []
    fresh: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    num_fetched = 0
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        same = [known.get((n, v), (-1, None))[1] == e and e != b"" for n, v, e in chunk.tolist()]
        keep += [known[n, v][0] for (n, v, _), s in zip(chunk.tolist(), same, strict=True) if s]
        wanted = chunk[~np.array(same, dtype=bool)]
        num_fetched += len(wanted)
        for found in source.resolve(wanted):
            if isinstance(found, Reject):
                rejects.append(found)
                failures.count(found)
                keep += of_number.pop(int((found.pmcid or "PMC0")[3:]), [])
            else:
                failures.in_a_row = 0
                failures.any_came = True
                fresh.append(_row(found))
        if stop is not None and _num_admitted(old, keep, fresh, selection) >= stop:
            break
    table = _table(old, keep, fresh)
    if not table.equals(old) or not path.exists():
        write_arrow(path, table)
    return table, num_fetched, rejects


_IDENTITY = ("number", "version", "etag")


def _table(old: pa.Table, keep: list[int], fresh: list[dict[str, Any]]) -> pa.Table:
    """Old rows that are kept, each once, and fresh ones, which go before an old row of the same version."""
    replaced = {(row["number"], row["version"]) for row in fresh}
    kept = old.take(pa.array(sorted(set(keep)), pa.int64())).cast(CATALOG)
    places = zip(kept["number"].to_pylist(), kept["version"].to_pylist(), strict=True)
    kept = kept.filter(pa.array([place not in replaced for place in places], pa.bool_()))
    table = pa.concat_tables(
        [
            kept,
            pa.Table.from_pylist(fresh, CATALOG),
        ]
    )
    return table.sort_by([("number", "ascending"), ("version", "ascending")])


def _num_admitted(
    old: pa.Table, keep: list[int], fresh: list[dict[str, Any]], selection: Selection
) -> int:
    return int(selection.admits(_table(old, keep, fresh)).sum())


def _row(ref: ArticleRef) -> dict[str, Any]:
    row = {
        "number": int(ref.pmcid[3:]),
        "version": ref.version,
        "pmid": ref.pmid,
        "doi": ref.doi,
        "title": ref.title,
        "citation": ref.citation,
        "license_code": ref.license_code,
        "is_retracted": ref.is_retracted,
        "is_manuscript": ref.is_manuscript,
        "is_historical_ocr": ref.is_historical_ocr,
        "location": ref.location,
        "xml_name": ref.xml.name,
        "xml_md5": ref.xml.md5,
        "media": [{"name": media.name, "md5": media.md5} for media in ref.media],
    }
    digest = hashlib.md5(repr(row).encode(), usedforsecurity=False).digest()
    return row | {
        "num_images": len({stem for m in ref.media if (stem := picture_stem(m.name))}),
        "published": cited_date(ref.citation),
        "content": int.from_bytes(digest[:8], "big"),
        "etag": ref.etag,
    }


def picture_stem(name: str) -> str | None:
    """A picture's name without folder and picture suffix; None for other files.

    >>> picture_stem("pone.0046493.g001.jpg"), picture_stem("mmc1.pdf")
    ('pone.0046493.g001', None)
    """
    name = name.rsplit("/", 1)[-1]
    suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), None)
    return name[: -len(suffix)] if suffix else None


def cited_date(citation: str | None) -> date | None:
    """The date in a citation as NCBI prints it.

    >>> cited_date("Nature. 2020 Sep 16;585(7825):357-362.")
    datetime.date(2020, 9, 16)
    """
    match = _CITED_DATE.search(citation or "")
    if match is None or not 1500 <= int(match[1]) <= 2200:
        return None
    month = _MONTHS.index(match[2]) + 1 if match[2] in _MONTHS else 1
    try:
        return date(int(match[1]), month, int(match[3] or 1))
    except ValueError:
        return date(int(match[1]), month, 1)


def parts(folder: Path) -> list[Path]:
    """The catalog's files, in the order of their ids."""
    return sorted(folder.glob("part-*.parquet"))


def read_refs(folder: Path, wanted: list[tuple[int, int]]) -> Iterator[tuple[ArticleRef, int]]:
    """(article, content digest) of the wanted (number, version) that the catalog holds, in order.

    wanted   sorted
    """
    for part in sorted({number // PART_WIDTH for number, _ in wanted}):
        here = {place for place in wanted if place[0] // PART_WIDTH == part}
        low, high = min(here)[0], max(here)[0]
        path = folder / f"part-{part:05d}.parquet"
        if not path.exists():
            continue
        table = pq.read_table(path, filters=[("number", ">=", low), ("number", "<=", high)])
        places = zip(table["number"].to_pylist(), table["version"].to_pylist(), strict=True)
        table = table.filter(pa.array([place in here for place in places], pa.bool_()))
        for row in table.to_pylist():
            yield _ref(row), row["content"]


def _ref(row: dict[str, Any]) -> ArticleRef:
    return ArticleRef(
        pmcid=f"PMC{row['number']}",
        version=row["version"],
        pmid=row["pmid"],
        doi=row["doi"],
        title=row["title"],
        citation=row["citation"],
        license_code=row["license_code"],
        is_retracted=row["is_retracted"],
        is_manuscript=row["is_manuscript"],
        is_historical_ocr=row["is_historical_ocr"],
        location=row["location"],
        xml=Media(name=row["xml_name"], md5=row["xml_md5"]),
        media=tuple(Media(**media) for media in row["media"]),
        etag=row["etag"],
    )
