"""Where articles come from: the PMC Cloud Service, a mirror of it, a folder, old packages.

One address names a source: `s3://pmc-oa-opendata`, `https://HOST/BUCKET`, a folder with the bucket's
layout, or `folder:PATH` for any tree of JATS files and packages.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from biomedica.records import ArticleRef, Media, Reason, Reject
from biomedica.sources.cloud import CloudSource
from biomedica.sources.listing import Listing, Rows
from biomedica.sources.packages import PackageSource
from biomedica.sources.store import FetchError, SourceSettings, open_store

__all__ = ["FetchError", "Listing", "Rows", "Source", "SourceSettings", "open_source"]


class Source(Protocol):
    """What the stages ask of a source. Opened in each process, never sent to another."""

    uri: str
    is_local: bool
    """Reads cost no waiting: nothing is fetched ahead."""

    def listing(self) -> Listing:
        """All article versions that the source holds."""
        ...

    def listing_for(self, numbers: list[int]) -> Listing:
        """All versions of the articles with these PMC ids."""
        ...

    def resolve(self, entries: Rows) -> Iterator[ArticleRef | Reject]:
        """What the source says of listed versions, in their order."""
        ...

    def size(self, ref: ArticleRef, file: Media) -> int | None:
        """Bytes of one of an article's files, without fetching it; None where that cannot be told."""
        ...

    def read(self, ref: ArticleRef, file: Media, *, missing: Reason) -> bytes:
        """Bytes of one of an article's files, checked. Raises `FetchError`."""
        ...


def open_source(uri: str, settings: SourceSettings) -> Source:
    """The source at an address. Raises `ConfigError` or `SourceError`."""
    if uri.startswith("folder:"):
        return PackageSource(Path(uri.removeprefix("folder:")), settings)
    return CloudSource(open_store(uri, settings), settings)
