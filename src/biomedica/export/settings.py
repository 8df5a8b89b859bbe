"""What a user may set about an export, and what an export came to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from biomedica.errors import ConfigError
from biomedica.records import LicenceGroup

Layout = Literal["webdataset", "parquet", "biomedica"]
LAYOUTS: tuple[Layout, ...] = ("webdataset", "parquet", "biomedica")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """Table `[export]`."""

    groups: tuple[str, ...] = ("commercial", "noncommercial")
    """Licence groups that are exported, each as a configuration of its own. `other` (no Creative Commons
    licence is stated) only where it is named."""
    no_derivatives: Literal["exclude", "keep-unchanged"] = "exclude"
    """Pictures under an ND licence: left out, or kept where the bytes are the publisher's own."""
    third_party_rights: Literal["exclude", "keep"] = "exclude"
    """Figures that state a copyright, licence or credit of their own: left out, or kept."""
    retracted: bool = False
    """Keep figures of retracted articles. Withdrawn samples are never exported."""
    samples: int = 10_000
    """Samples a shard."""
    row_group_bytes: int = 32_000_000
    """Bytes of pictures in a row group of the Parquet layout."""
    article_context: bool = True
    """Layout `biomedica`: `image_set` and `image_context` hold all figures of the article, as
    published; false: this figure alone."""
    article_text: bool = True
    """Layout `biomedica`: `article_text` holds the full text, as published; false: nothing."""
    title: str = "Biomedical figures and captions from PubMed Central Open Access"
    """Heading of the card and of the citation."""
    version: str = "1.0.0"
    """Of the dataset: major.minor.patch."""
    date: str | None = None
    """Release date, `YYYY-MM-DD`; without one, the archive's snapshot."""
    creators: tuple[str, ...] = ()
    """Who made the dataset, for the citation; without any, the articles' authors are named as a body."""
    url: str | None = None
    """Where the dataset can be found."""
    contact: str | None = None
    """Address for takedown requests; without one, the card names the repository's discussions."""

    def __post_init__(self) -> None:
        known = [group.value for group in LicenceGroup]
        for group in self.groups:
            if group not in known:
                raise ConfigError(
                    f"export.groups names {group!r}; licence groups are {', '.join(known)}"
                )
        if not self.groups or len(set(self.groups)) != len(self.groups):
            raise ConfigError("export.groups must name one licence group or more, each once")
        for name in ("samples", "row_group_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"export.{name} is {getattr(self, name)}; at least 1 is needed")
        if not _VERSION.fullmatch(self.version):
            raise ConfigError(f"export.version is {self.version!r}; write it like 1.0.0")
        if not self.title.strip():
            raise ConfigError("export.title is empty; give the dataset a name")
        _check_date(self.date)


def _check_date(text: str | None) -> None:
    if text is None:
        return
    try:
        date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"export.date is {text!r}; write it like 2026-11-01") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export came to."""

    folder: Path
    layout: str
    num_samples: int
    num_articles: int
    num_shards: int
    num_bytes: int
    """Of all files."""
    counts: Mapping[str, Mapping[str, int]]
    """Samples by licence group and split."""
    refused: Mapping[str, int]
    """Samples of the view that were left out, by the first rule that refused each."""
    num_reused: int
    """Shards that an interrupted run of the same export had left."""
