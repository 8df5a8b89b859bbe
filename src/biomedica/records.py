"""The nouns: what passes between the stages. Frozen, keyword-only, a unit for each number."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import NamedTuple

KEY_CHARACTERS = 95
"""Longest key: a ustar header holds 100 bytes of name, and `.json` takes five of them."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


class LicenceGroup(StrEnum):
    """BIOMEDICA's (and PMC's) three groups; a group has its own shards."""

    COMMERCIAL = "commercial"
    NONCOMMERCIAL = "noncommercial"
    OTHER = "other"


_GROUPS = {
    "CC0": LicenceGroup.COMMERCIAL,
    "CC BY": LicenceGroup.COMMERCIAL,
    "CC BY-SA": LicenceGroup.COMMERCIAL,
    "CC BY-ND": LicenceGroup.COMMERCIAL,
    "CC BY-NC": LicenceGroup.NONCOMMERCIAL,
    "CC BY-NC-SA": LicenceGroup.NONCOMMERCIAL,
    "CC BY-NC-ND": LicenceGroup.NONCOMMERCIAL,
}


def licence_group(license_code: str | None) -> LicenceGroup:
    """The group of a code as the cloud service writes it.

    >>> licence_group("CC BY-ND").value, licence_group("TDM").value, licence_group(None).value
    ('commercial', 'other', 'other')
    """
    return _GROUPS.get(license_code or "", LicenceGroup.OTHER)


class Stage(StrEnum):
    """The stage that refused an input."""

    CATALOG = "catalog"
    ENRICH = "enrich"
    FETCH = "fetch"
    PARSE = "parse"
    IMAGES = "images"
    RUN = "run"


class Reason(StrEnum):
    """Why an input did not become output: the closed list. `docs/formats.md` explains each."""

    METADATA_MISSING = "metadata_missing"
    METADATA_BAD = "metadata_bad"
    KEY_UNKNOWN = "key_unknown"
    NO_PMCID = "no_pmcid"
    DUPLICATE_ARTICLE = "duplicate_article"
    UNSAFE_PATH = "unsafe_path"
    PACKAGE_BAD = "package_bad"
    XML_MISSING = "xml_missing"
    XML_BAD = "xml_bad"
    XML_TOO_LARGE = "xml_too_large"
    NOT_AN_ARTICLE = "not_an_article"
    NO_GRAPHIC = "no_graphic"
    NO_CAPTION = "no_caption"
    MEDIA_MISSING = "media_missing"
    MEDIA_TOO_LARGE = "media_too_large"
    FETCH_FAILED = "fetch_failed"
    DIGEST_MISMATCH = "digest_mismatch"
    FORMAT_REFUSED = "format_refused"
    IMAGE_BAD = "image_bad"
    TOO_SMALL = "too_small"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_FRAMES = "too_many_frames"
    MEMORY = "memory"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    PUBMED_MISSING = "pubmed_missing"


RETRIABLE = frozenset({Reason.FETCH_FAILED, Reason.DIGEST_MISMATCH, Reason.METADATA_MISSING})
"""Reasons that may be gone when the source is asked again (`build --retry-failed`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """An input that did not become output, and why. Stored, counted and shown; never dropped."""

    key: str
    """What was refused: `PMC1.1`, `PMC1.1/F2` (a figure) or `PMC1.1/a.jpg` (a file)."""
    stage: Stage
    reason: Reason
    detail: str = ""
    pmcid: str | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """A file beside an article: its name in the source, and what the source says of its bytes."""

    name: str
    md5: str | None = None
    """32 hex digits, or None where the source states none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArticleRef:
    """One article version as the catalog knows it, before its XML is read."""

    pmcid: str
    version: int
    pmid: int | None = None
    doi: str | None = None
    title: str | None = None
    citation: str | None = None
    license_code: str | None = None
    is_retracted: bool = False
    is_manuscript: bool = False
    is_historical_ocr: bool = False
    location: str = ""
    """Folder (or package) of the article in its source, with no slash at the end."""
    xml: Media
    media: tuple[Media, ...] = ()
    etag: str = ""
    """Changes when anything of the version changes."""

    @property
    def name(self) -> str:
        """`PMC<id>.<version>`, as the source writes it."""
        return f"{self.pmcid}.{self.version}"


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of the text it belongs to."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """One paragraph that cites a figure."""

    text: str
    section: str | None
    """Title of the nearest section; for a reviewer's letter or reply without one, its type."""
    spans: tuple[Span, ...]
    """Where `text` cites the figure ("Fig. 2b"), in characters, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graphic:
    """One picture of a figure: the file that the XML asks for, and what may stand in for it."""

    href: str
    alternates: tuple[str, ...] = ()
    """Other forms of the same picture, best first, thumbnails left out."""
    caption: str | None = None
    """A caption of this graphic alone ("(a) before"), beside the figure's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure, image table, scheme or other captioned picture, as the XML has it."""

    figure_id: str | None
    label: str | None
    kind: str
    """`fig`, `table`, `scheme`, `chart`, `graphical-abstract`, ...; `fig` is a plain `<fig>`."""
    position: int
    """Order in the document, from 0, over all figures of the article."""
    sub_article: str | None
    """Type of the sub-article or response that holds it ("reply"); None in the article itself."""
    group_label: str | None
    group_caption: str | None
    caption: str | None
    alt_text: str | None
    rights: str | None
    """Copyright, licence or credit line that the figure states for itself."""
    graphics: tuple[Graphic, ...]
    mentions: tuple[Mention, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    name: str
    """Given names, then surname; or the name of a group."""
    orcid: str | None
    affiliations: tuple[int, ...]
    """Indices into the article's `affiliations`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An entry of a reference list."""

    pmid: int | None
    doi: str | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Funding:
    source: str | None
    award_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelatedArticle:
    kind: str | None
    """`corrected-article`, `retracted-article`, `companion`, ..."""
    id: str | None
    id_type: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Article:
    """What the XML says of one article version."""

    pmcid: str | None
    pmid: int | None
    doi: str | None
    title: str | None
    journal: str | None
    article_type: str | None
    published: date | None
    """Earliest public date; a missing day or month counts as the first."""
    keywords: tuple[str, ...]
    subjects: tuple[str, ...]
    publisher: str | None
    issn: tuple[str, ...]
    abstract: str | None
    """Sections on lines of their own, each with its title."""
    authors: tuple[Author, ...]
    affiliations: tuple[str, ...]
    funding: tuple[Funding, ...]
    references: tuple[Reference, ...]
    licence_url: str | None
    licence_text: str | None
    related_articles: tuple[RelatedArticle, ...]
    body_text: str
    """Paragraphs and section titles of the body, one a line; floats are left out."""
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Checked JPEG bytes: they decode, and are what a reader of the archive gets."""

    jpeg: bytes
    width: int
    """Pixels."""
    height: int
    source_format: str
    """`JPEG`, `PNG`, `GIF`, `TIFF`, `WEBP` or `BMP`."""
    source_bytes: int
    source_md5: str
    transform: str
    """What was done to the publisher's bytes, steps joined by `+`; `none` when they passed through."""
    sha256: str
    phash: int
    """64 bits; two pictures within 3 bits of each other look the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image-caption pair: a row of the archive and three members of a shard."""

    key: str
    ref: ArticleRef
    article: Article
    figure: Figure
    graphic_position: int
    """Order of the graphic in its figure, from 0."""
    file_name: str
    caption: str
    mesh_terms: tuple[str, ...]
    picture: Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one expert, or the consensus, says of a cluster: ids of the taxonomy."""

    panel_type: str | None = None
    panel_subtype: str | None = None
    global_concepts: tuple[str, ...] = ()
    local_concepts: tuple[str, ...] = ()


def sample_key(ref: ArticleRef, stem: str, taken: set[str]) -> str:
    """The key of a sample, made from the source alone and entered in `taken`.

    >>> ref = ArticleRef(pmcid="PMC12", version=1, xml=Media(name="PMC12.1.xml"))
    >>> taken = set()
    >>> sample_key(ref, "pone.0046493.g001", taken), sample_key(ref, "pone.0046493.g001", taken)
    ('PMC12-1-pone_0046493_g001', 'PMC12-1-pone_0046493_g001-2')
    """
    base = _UNSAFE.sub("_", f"{ref.pmcid}-{ref.version}-{stem}")[: KEY_CHARACTERS - 4]
    key, count = base, 1
    while key in taken:
        count += 1
        key = f"{base}-{count}"
    taken.add(key)
    return key
