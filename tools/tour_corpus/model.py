"""What an article of the tour is made of, before it becomes XML, JSON and text."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """A journal that does not exist."""

    title: str
    abbreviation: str
    issn: str
    publisher: str
    nlm_id: str


@dataclass(frozen=True, slots=True)
class Media:
    """One file beside the XML: its name, what is drawn, and how it is encoded."""

    name: str
    drawing: str = ""
    encoding: str = "jpeg"
    listed: bool = True
    """False: the JSON does not name it and the bucket does not hold it."""
    stored: bool = True
    """False: the JSON names it and the bucket does not hold it."""


@dataclass(frozen=True, slots=True)
class Fig:
    """A plain `<fig>`; captions and labels are written in the markup of `markup.py`."""

    label: str | None
    caption: str | None
    graphic: str
    """Media name up to its extension, or several, separated by spaces."""
    kind: str = ""
    alt: str = ""
    rights: str = ""
    doi: str = ""


@dataclass(frozen=True, slots=True)
class Raw:
    """JATS of our own shape; `{{stem}}` becomes the flavour's graphic."""

    xml: str


@dataclass(frozen=True, slots=True)
class Mesh:
    """A MeSH heading: descriptor, and qualifiers as "name|UI"; a star marks a major topic."""

    name: str
    ui: str
    qualifiers: tuple[str, ...] = ()
    major: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Article:
    """One version of one article."""

    number: int
    version: int = 1
    flavour: str
    journal: Journal
    published: tuple[int, int, int]
    volume: int
    issue: int = 1
    page: str
    article_type: str = "research-article"
    heading: str
    licence: str | None
    title: str
    authors: str
    """"Given Surname; Given Surname"."""
    affiliations: tuple[str, ...]
    abstract: str
    """Paragraphs; one that begins with "Label: " becomes a labelled section."""
    keywords: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    funding: str = ""
    body: str
    references: tuple[int, ...] = ()
    """Numbers in `references.POOL`."""
    figures: dict[str, Fig | Raw] = field(default_factory=dict)
    """Placed where the body says `{id}`; those it does not name go into the floats group."""
    media: tuple[Media, ...] = ()
    extra_front: str = ""
    extra_tail: str = ""
    """Sub-articles, after the back matter."""
    mesh: tuple[Mesh, ...] = ()
    publication_types: tuple[tuple[str, str], ...] = (("Journal Article", "D016428"),)
    retracted: bool = False
    manuscript_id: str | None = None
    historical_ocr: bool = False
    media_key: bool = True
    """False: the JSON has no `media_urls` at all."""
    in_pubmed: bool = True
    has_pmid: bool = True
    has_doi: bool = True

    @property
    def pmcid(self) -> str:
        """With its prefix, without the version."""
        return f"PMC{99900000 + self.number}"

    @property
    def name(self) -> str:
        """PMCID and version: the folder in the bucket."""
        return f"{self.pmcid}.{self.version}"

    @property
    def pmid(self) -> int | None:
        """The same for all versions."""
        return 99900000 + self.number if self.has_pmid else None

    @property
    def doi(self) -> str | None:
        """Under the prefix that is kept for tests."""
        if not self.has_doi:
            return None
        return f"10.5555/tour.{self.published[0]}.{self.number:03d}"

    @property
    def citation(self) -> str:
        """As in the JSON: journal, date, volume, issue, page."""
        year, month, day = self.published
        date = f"{year} {MONTHS[month - 1]} {day}"
        return f"{self.journal.abbreviation}. {date};{self.volume}({self.issue}):{self.page}."


MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True)
class Reference:
    """A cited work, as fictional as the rest."""

    authors: str
    title: str
    source: str
    year: int
    volume: int
    page: int
    pmid: int | None
    doi: str | None
