"""The layout of NCBI's PMC Cloud Service (2026), in its bucket, a mirror of it, or a folder.

    PMC<id>.<v>/PMC<id>.<v>.xml and media      metadata/PMC<id>.<v>.json      inventory-reports/...

The daily inventory lists every metadata file with its ETag, which changes when anything of the
version changes. Format: README.txt of the bucket.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from biomedica.errors import SourceError
from biomedica.records import ArticleRef, Media, Reason, Reject, Stage
from biomedica.sources.listing import ROW, Listing, Rows, listing_of
from biomedica.sources.store import FetchError, SourceSettings, Store, is_safe

INVENTORY = "inventory-reports/pmc-oa-opendata/metadata/"
_METADATA = re.compile(r"metadata/PMC(\d{1,12})\.(\d{1,4})\.json")
_MD5 = re.compile(r"[0-9a-f]{32}")
_BATCH = 256


class CloudSource:
    """Articles of a bucket with the cloud service's layout."""

    def __init__(self, store: Store, settings: SourceSettings) -> None:
        self.uri = store.uri
        self.is_local = store.is_local
        self._store = store
        self._settings = settings

    def listing(self) -> Listing:
        """All article versions, by the newest inventory; by listing the metadata where a folder has none."""
        days = [day for day in self._store.folders(INVENTORY) if re.search(r"/\d{4}-", day)]
        for day in reversed(days):
            if (manifest := self._manifest(day)) is not None:
                return self._inventory(day, manifest)
        if not self.is_local:
            raise SourceError(f"{self.uri} holds no {INVENTORY}; is it the cloud service's layout?")
        return self._metadata_files()

    def _manifest(self, day: str) -> bytes | None:
        """The manifest of an inventory; None while it is still being written."""
        try:
            return self._store.get(f"{day}/manifest.json", missing=Reason.METADATA_MISSING)
        except FetchError as error:
            if error.reason is Reason.METADATA_MISSING:
                return None
            raise SourceError(f"{self.uri}: {error.detail}") from None

    def _inventory(self, day: str, data: bytes) -> Listing:
        try:
            manifest = json.loads(data)
            columns = [name.strip() for name in manifest["fileSchema"].split(",")]
            files = [(file["key"], file.get("MD5checksum")) for file in manifest["files"]]
            key, etag = columns.index("Key"), columns.index("ETag")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SourceError(
                f"{day}/manifest.json has no {error}; columns Key and ETag are needed"
            ) from None
        rejects: list[Reject] = []
        parts = [
            part
            for name, md5 in sorted(files)
            for part in _inventory_file(self._whole(name, md5), len(columns), key, etag, rejects)
        ]
        return listing_of(parts, snapshot=day.rsplit("/", 1)[-1][:10], rejects=rejects)

    def _whole(self, key: str, md5: str | None = None) -> bytes:
        """An object without which nothing can be done."""
        try:
            return self._store.get(key, md5=md5, missing=Reason.METADATA_MISSING, max_mb=4096)
        except FetchError as error:
            raise SourceError(f"{self.uri}: {error.detail}") from None

    def _metadata_files(self) -> Listing:
        rows, rejects = [], []
        for key in self._store.keys("metadata/"):
            match = _METADATA.fullmatch(key)
            if match is None:
                rejects.append(_unknown_key(key))
                continue
            rows.append((int(match[1]), int(match[2]), _etag_of(self._whole(key))))
        return listing_of([np.array(rows, dtype=ROW)], snapshot=None, rejects=rejects)

    def listing_for(self, numbers: Iterable[int]) -> Listing:
        """All versions of the given PMC ids, found by asking for each; those not there are rejects."""
        rows: list[tuple[int, int, bytes]] = []
        rejects = []
        wanted = list(numbers)
        with ThreadPoolExecutor(self._settings.connections) as pool:
            for number, found in zip(wanted, pool.map(self._versions, wanted), strict=True):
                rows += [(number, version, b"") for version in found]
                if not found:
                    rejects.append(_missing(f"PMC{number}", "no version of it is in the source"))
        return listing_of([np.array(rows, dtype=ROW)], snapshot=None, rejects=rejects)

    def _versions(self, number: int) -> list[int]:
        names = self._store.folders(f"PMC{number}.")
        versions = (name.rsplit(".", 1)[-1] for name in names)
        return sorted(int(version) for version in versions if version.isdecimal())

    def resolve(self, entries: Rows) -> Iterator[ArticleRef | Reject]:
        """Fetch and read the metadata of listed versions, in their order."""
        with ThreadPoolExecutor(1 if self.is_local else self._settings.connections) as pool:
            for start in range(0, len(entries), _BATCH):
                batch = entries[start : start + _BATCH].tolist()
                yield from (map if self.is_local else pool.map)(self._ref, batch)

    def _ref(self, entry: tuple[int, int, bytes]) -> ArticleRef | Reject:
        number, version, etag = entry
        name = f"PMC{number}.{version}"
        key = f"metadata/{name}.json"
        try:
            data = self._store.get(key, missing=Reason.METADATA_MISSING)
        except FetchError as error:
            return Reject(
                key=name,
                stage=Stage.CATALOG,
                reason=error.reason,
                detail=error.detail,
                pmcid=f"PMC{number}",
                version=version,
            )
        return read_metadata(
            data, f"PMC{number}", version, etag.decode() or _etag_of(data).decode()
        )

    def size(self, ref: ArticleRef, file: Media) -> int | None:
        """Bytes of one of the article's files, without fetching it; None where that fails."""
        return self._store.size(f"{ref.location}/{file.name}")

    def read(self, ref: ArticleRef, file: Media, *, missing: Reason) -> bytes:
        """Bytes of one of the article's files. Raises `FetchError`."""
        is_xml = file.name == ref.xml.name
        limit = self._settings.max_xml_mb if is_xml else self._settings.max_media_mb
        key = f"{ref.location}/{file.name}"
        try:
            return self._store.get(key, md5=file.md5, missing=missing, max_mb=limit)
        except FetchError as error:
            if is_xml and error.reason is Reason.MEDIA_TOO_LARGE:
                raise FetchError(Reason.XML_TOO_LARGE, error.detail) from None
            raise


def _etag_of(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).hexdigest().encode()


def _inventory_file(
    data: bytes, num_columns: int, key: int, etag: int, rejects: list[Reject]
) -> Iterator[Rows]:
    """Rows of one gzipped CSV file as (number, version, etag), a batch at a time."""
    names = [f"c{i}" for i in range(num_columns)]
    wanted = [names[key], names[etag]]
    stream = pa.CompressedInputStream(io.BytesIO(data), "gzip")
    try:
        reader = csv.open_csv(
            stream,
            read_options=csv.ReadOptions(column_names=names, block_size=1 << 22),
            convert_options=csv.ConvertOptions(
                include_columns=wanted, column_types=dict.fromkeys(names, pa.string())
            ),
        )
        for batch in reader:
            yield _inventory_batch(batch.column(0), batch.column(1), rejects)
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(f"an inventory file cannot be read: {error}") from None


def _inventory_batch(keys: pa.Array, etags: pa.Array, rejects: list[Reject]) -> Rows:
    parts = pc.extract_regex(
        keys, r"^metadata/PMC(?P<number>\d{1,12})\.(?P<version>\d{1,4})\.json$"
    )
    known = parts.is_valid()
    if not pc.all(known).as_py():
        rejects += [_unknown_key(key) for key in keys.filter(pc.invert(known)).to_pylist()]
        parts, etags = parts.filter(known), etags.filter(known)
    rows = np.empty(len(parts), dtype=ROW)
    rows["number"] = pc.cast(parts.field(0), pa.int64()).to_numpy(zero_copy_only=False)
    rows["version"] = pc.cast(parts.field(1), pa.int32()).to_numpy(zero_copy_only=False)
    rows["etag"] = etags.to_numpy(zero_copy_only=False).astype("S40")
    return rows


def _unknown_key(key: str) -> Reject:
    return Reject(
        key=key[:200],
        stage=Stage.CATALOG,
        reason=Reason.KEY_UNKNOWN,
        detail="not metadata/PMC<id>.<v>.json",
    )


def _missing(name: str, detail: str) -> Reject:
    return Reject(
        key=name, stage=Stage.CATALOG, reason=Reason.METADATA_MISSING, detail=detail, pmcid=name
    )


def read_metadata(data: bytes, pmcid: str, version: int, etag: str) -> ArticleRef | Reject:
    """An article version from its metadata JSON; a `Reject` where the JSON can't be used."""
    try:
        found = json.loads(data)
        return _article_ref(found, pmcid, version, etag)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Reject(
            key=f"{pmcid}.{version}",
            stage=Stage.CATALOG,
            reason=Reason.METADATA_BAD,
            detail=f"{type(error).__name__}: {error}"[:200],
            pmcid=pmcid,
            version=version,
        )


def _article_ref(found: dict[str, Any], pmcid: str, version: int, etag: str) -> ArticleRef:
    if (found["pmcid"], int(found["version"])) != (pmcid, version):
        raise ValueError(f"it is of {found['pmcid']}.{found['version']}")
    location = f"{pmcid}.{version}"
    xml = _media(found["xml_url"], location)
    _check_types(found)
    media = _usable_media(found.get("media_urls") or [], location)
    return ArticleRef(
        pmcid=pmcid,
        version=version,
        pmid=found.get("pmid"),
        doi=found.get("doi"),
        title=found.get("title"),
        citation=found.get("citation"),
        license_code=found.get("license_code"),
        is_retracted=bool(found.get("is_retracted")),
        is_manuscript=bool(found.get("is_manuscript")),
        is_historical_ocr=bool(found.get("is_historical_ocr")),
        location=location,
        xml=xml,
        media=media,
        etag=etag,
    )


def _check_types(found: dict[str, Any]) -> None:
    """Raise `ValueError` for a value that its column cannot hold."""
    pmid = found.get("pmid")
    if pmid is not None and not (type(pmid) is int and 0 < pmid < 1 << 63):
        raise ValueError(f"pmid is {pmid!r}")
    for name in ("doi", "title", "citation", "license_code"):
        if found.get(name) is not None:
            found[name].encode()  # no lone surrogates
    for name in ("is_retracted", "is_manuscript", "is_historical_ocr"):
        if not isinstance(found.get(name), bool | None):
            raise ValueError(f"{name} is {found[name]!r}")


def _name(media: Media) -> str:
    return media.name


def _media(url: str, location: str) -> Media:
    """`s3://bucket/PMC1.1/name?md5=...`; the name must be a plain one inside the article's folder."""
    address, _, md5 = url.rpartition("?md5=") if "?md5=" in url else (url.split("?")[0], "", "")
    folder, _, name = address.removeprefix("s3://").partition("/")[2].rpartition("/")
    if folder != location or not is_safe(name):
        raise ValueError(f"{address!r} is not a file of {location}")
    md5 = md5.lower()
    return Media(name=name, md5=md5 if _MD5.fullmatch(md5) else None)


def _usable_media(urls: list[str], location: str) -> tuple[Media, ...]:
    """The files that can be asked for. One that is named oddly is as good as not there: its figure
    alone becomes a reject."""
    found = []
    for url in urls:
        with suppress(ValueError):
            found.append(_media(url, location))
    return tuple(sorted(found, key=_name))
