"""Any tree of JATS files with pictures beside them, old `oa_package` archives (`.tar.gz`) included.

Nothing is unpacked to the disk: a package's XML and pictures are read into memory, links and names
that leave the package are refused. An article must say its PMC id in the XML, or be named after it.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from lxml import etree

from biomedica.images import SUFFIXES
from biomedica.parse import NotAnArticleError
from biomedica.parse.facts import licence_code, read_ids, read_licence
from biomedica.parse.xml import read_article
from biomedica.records import ArticleRef, Media, Reason, Reject, Stage
from biomedica.sources.listing import ROW, Listing, Rows, listing_of
from biomedica.sources.store import (
    MEGABYTE,
    FetchError,
    FolderStore,
    SourceSettings,
    check_md5,
    is_safe,
)

import numpy as np  # isort: skip

_PACKAGES = (".tar.gz", ".tgz")
_ARTICLES = (".nxml", ".xml")
_NAMED = re.compile(r"PMC(\d{1,12})(?!\d)(?:\.(\d{1,4})(?!\d))?")
_INSIDE = "!/"
_MAX_MEMBERS = 20_000


@dataclass(slots=True)
class _Found:
    """What a scan of the tree came to."""

    refs: dict[tuple[int, int], ArticleRef] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)

    def reject(self, key: str, reason: Reason, detail: str) -> None:
        key, detail = (_printable(text)[:300] for text in (key, detail))
        self.rejects.append(Reject(key=key, stage=Stage.CATALOG, reason=reason, detail=detail))


class PackageSource:
    """Articles of a folder in any layout. The whole tree is read once for the catalog."""

    is_local = True

    def __init__(self, root: Path, settings: SourceSettings) -> None:
        self.uri = f"folder:{root}"
        self._root = root
        self._store = FolderStore(root)
        self._settings = settings
        self._found: _Found | None = None
        self._package: tuple[str, dict[str, bytes], list[tuple[str, str]]] = ("", {}, [])

    def listing(self) -> Listing:
        """Every article of the tree; what could not be used is in the listing's rejects."""
        self._found = found = _Found()
        for folder, names, files in os.walk(self._root):
            names.sort()
            self._scan(Path(folder), sorted(files), found)
        rows = [(n, v, ref.etag.encode()) for (n, v), ref in found.refs.items()]
        return listing_of([np.array(rows, dtype=ROW)], None, found.rejects)

    def listing_for(self, numbers: list[int]) -> Listing:
        """The listing, of the given PMC ids only."""
        listing = self.listing()
        kept = np.isin(listing.rows["number"], list(numbers))
        there = set(listing.rows["number"][kept].tolist())
        missing = [
            Reject(
                key=f"PMC{number}",
                stage=Stage.CATALOG,
                reason=Reason.METADATA_MISSING,
                detail="no version of it is in the source",
                pmcid=f"PMC{number}",
            )
            for number in sorted(set(numbers) - there)
        ]
        return Listing(listing.rows[kept], None, [*listing.rejects, *missing])

    def resolve(self, entries: Rows) -> Iterator[ArticleRef | Reject]:
        """The refs of listed articles."""
        if self._found is None:
            self.listing()
        assert self._found is not None
        for number, version, _ in entries.tolist():
            yield self._found.refs[number, version]

    def _scan(self, folder: Path, files: list[str], found: _Found) -> None:
        relative = _relative(folder, self._root)
        articles = [name for name in files if name.lower().endswith(_ARTICLES)]
        pictures = self._pictures_below(folder, found) if articles else []
        for name in articles:
            self._enter(relative, name, pictures, found)
        for name in files:
            if name.lower().endswith(_PACKAGES):
                self._scan_package(str(PurePosixPath(relative, name)), found)

    def _pictures_below(self, folder: Path, found: _Found) -> list[Media]:
        """Pictures of the folder and of those below it that hold no article of their own."""
        names = []
        for inner, folders, files in os.walk(folder):
            if Path(inner) != folder and any(name.lower().endswith(_ARTICLES) for name in files):
                folders.clear()
                continue
            relative = _relative(Path(inner), folder)
            names += [
                str(PurePosixPath(relative, n)) for n in files if n.lower().endswith(SUFFIXES)
            ]
        pictures = []
        for name in sorted(names):
            location = _relative(folder, self._root)
            try:
                data = self._bytes(location, name, Reason.MEDIA_MISSING)
            except FetchError as error:
                found.reject(f"{location}/{name}", error.reason, error.detail)
                continue
            pictures.append(Media(name=name, md5=_md5(data)))
        return pictures

    def _enter(self, location: str, name: str, pictures: list[Media], found: _Found) -> None:
        key = f"{location}/{name}" if location else name
        try:
            data = self._bytes(location, name, Reason.XML_MISSING)
            ref = _article_ref(data, location, name, pictures)
        except FetchError as error:
            found.reject(key, error.reason, error.detail)
        except NotAnArticleError as error:
            found.reject(key, Reason.NOT_AN_ARTICLE, str(error))
        except etree.XMLSyntaxError as error:
            found.reject(key, Reason.XML_BAD, str(error))
        else:
            if ref is None:
                found.reject(
                    key, Reason.NO_PMCID, "no PMC id in the XML; name the file PMC<digits>.xml"
                )
                return
            place = int(ref.pmcid[3:]), ref.version
            if place in found.refs:
                found.reject(
                    key,
                    Reason.DUPLICATE_ARTICLE,
                    f"{ref.name} is also {found.refs[place].location}",
                )
                return
            found.refs[place] = ref

    def _scan_package(self, package: str, found: _Found) -> None:
        try:
            members, refused = self._load(package)
        except FetchError as error:
            found.reject(package, error.reason, error.detail)
            return
        for name, detail in refused:
            found.reject(f"{package}{_INSIDE}{name}"[:200], Reason.UNSAFE_PATH, detail)
        articles = [name for name in members if name.lower().endswith(_ARTICLES)]
        if not articles:
            found.reject(package, Reason.PACKAGE_BAD, "it holds no .nxml or .xml file")
        for name in articles:
            inner = PurePosixPath(name)
            folder = "" if str(inner.parent) == "." else str(inner.parent)
            pictures = [
                Media(name=str(PurePosixPath(m).relative_to(folder)), md5=_md5(members[m]))
                for m in members
                if m.lower().endswith(SUFFIXES) and PurePosixPath(m).is_relative_to(folder)
            ]
            self._enter(f"{package}{_INSIDE}{folder}".rstrip("/"), inner.name, pictures, found)

    def size(self, ref: ArticleRef, file: Media) -> int | None:
        """Bytes of one of the article's files; None inside a package."""
        if _INSIDE[:-1] in ref.location:
            return None
        return self._store.size(f"{ref.location}/{file.name}" if ref.location else file.name)

    def read(self, ref: ArticleRef, file: Media, *, missing: Reason) -> bytes:
        """Bytes of one of the article's files. Raises `FetchError`."""
        data = self._bytes(ref.location, file.name, missing)
        check_md5(data, file.md5)
        return data

    def _bytes(self, location: str, name: str, missing: Reason) -> bytes:
        package, inside, folder = location.partition(_INSIDE[:-1])
        if not inside:
            key = f"{location}/{name}" if location else name
            return self._store.get(key, missing=missing, max_mb=self._settings.max_media_mb)
        members, _ = self._load(package)
        member = str(PurePosixPath(folder.lstrip("/"), name))
        if member not in members:
            raise FetchError(missing, f"{member} is not in {package}")
        return members[member]

    def _load(self, package: str) -> tuple[dict[str, bytes], list[tuple[str, str]]]:
        """XML and pictures of a package, by name, and (name, why) of what was refused."""
        if self._package[0] == package:
            return self._package[1:]
        path = self._root / package
        refused: list[tuple[str, str]] = []
        try:
            with gzip.open(path) as stream:
                with tarfile.open(fileobj=stream, mode="r|") as tar:
                    members = dict(_members(tar, self._settings, refused))
                while stream.read(MEGABYTE):  # to the checksum at the end
                    pass
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise FetchError(Reason.PACKAGE_BAD, f"{error}"[:200]) from None
        self._package = package, members, refused
        return members, refused


def _members(
    tar: tarfile.TarFile, settings: SourceSettings, refused: list[tuple[str, str]]
) -> Iterator[tuple[str, bytes]]:
    room = settings.max_media_mb * 4 * MEGABYTE
    for count, member in enumerate(tar):
        if count == _MAX_MEMBERS:
            raise FetchError(Reason.PACKAGE_BAD, f"more than {_MAX_MEMBERS} members")
        if member.isdir():
            continue
        name = str(PurePosixPath(member.name))
        if not is_safe(member.name):
            refused.append((member.name, "the name leaves the package"))
        elif not member.isreg():
            refused.append((name, "a link or device, not a file"))
        elif name.lower().endswith((*_ARTICLES, *SUFFIXES)):
            room -= member.size
            if room < 0:
                raise FetchError(
                    Reason.MEDIA_TOO_LARGE, "its files are larger than source.max_media_mb"
                )
            file = tar.extractfile(member)
            if file is not None:
                yield name, file.read()


def _relative(path: Path, root: Path) -> str:
    relative = path.relative_to(root).as_posix()
    return "" if relative == "." else relative


def _printable(text: str) -> str:
    """A text that every table can hold: bytes of file names that are no UTF-8 are written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _article_ref(data: bytes, location: str, name: str, pictures: list[Media]) -> ArticleRef | None:
    root = read_article(data)
    meta = root.find("front/article-meta")
    ids = None if meta is None else read_ids(meta)
    named = [m for m in map(_NAMED.search, (name, location.rsplit("/", 1)[-1], location)) if m]
    pmcid = (ids.pmcid if ids else None) or (f"PMC{int(named[0][1])}" if named else None)
    if pmcid is None:
        return None
    url, text = (None, None) if meta is None else read_licence(meta)
    content = hashlib.md5(data, usedforsecurity=False)
    for picture in pictures:
        content.update(f"{picture.name} {picture.md5}".encode())
    return ArticleRef(
        pmcid=pmcid,
        version=next((int(m[2]) for m in named if m[2]), 1),
        pmid=ids.pmid if ids else None,
        doi=ids.doi if ids else None,
        license_code=licence_code(url, text),
        location=location,
        xml=Media(name=name, md5=_md5(data)),
        media=tuple(pictures),
        etag=content.hexdigest(),
    )


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
