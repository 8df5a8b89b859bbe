"""JATS XML to an `Article`: pure, no file or network is touched.

    article = parse_article(data)

The parts: `xml` makes every flavour of JATS look alike, `figures` finds pictures and captions,
`mentions` the paragraphs that cite them, `facts` the rest, `text` writes elements out as text.
"""

from __future__ import annotations

from lxml import etree

from biomedica.parse import facts
from biomedica.parse.figures import (
    FLOATS,
    Unit,
    alt_text,
    find_units,
    graphics,
    read_captions,
    rights,
)
from biomedica.parse.mentions import Citations, section_of
from biomedica.parse.text import (
    CONTAINERS,
    PARAGRAPHS,
    SECTIONS,
    SPACED,
    cut,
    has_marks,
    mark_blocks,
    mark_cells,
    raw_text,
    runs,
)
from biomedica.parse.xml import MATHML, NotAnArticleError, flatten_formulas, read_article
from biomedica.records import Article, Figure, Graphic, Reference

__all__ = ["NotAnArticleError", "parse_article"]

_ROLES = {
    **dict.fromkeys(FLOATS, "floats"),
    **dict.fromkeys(PARAGRAPHS | CONTAINERS | SECTIONS | SPACED, "blocks"),
    f"{MATHML}math": "formulas",
    "tex-math": "formulas",
    "xref": "xrefs",
    "sub-article": "parts",
    "response": "parts",
    "ref": "refs",
    "pub-id": "pub_ids",
}
"""Elements that some step wants, by the list that it finds them in."""
_LABELS = frozenset(("label", "object-id", "institution-id"))
_ASIDES = frozenset(("table-wrap", "supplementary-material", "media"))


def parse_article(data: bytes) -> Article:
    """Everything that the archive keeps of one article's XML.

    Raises `NotAnArticleError` or `lxml.etree.XMLSyntaxError` for bytes that hold no article, and
    nothing else: what an article lacks is None or empty.
    """
    root = read_article(data)
    front = root.find("front")
    meta = None if front is None else front.find("article-meta")
    meta = etree.Element("article-meta") if meta is None else meta
    found = _elements(root)
    flatten_formulas(found["formulas"])
    units = find_units(found["floats"])
    mark_blocks(found["blocks"])
    figure_facts = [(alt_text(unit), rights(unit), graphics(unit)) for unit in units]
    citations = Citations(found["xrefs"], units)
    asides = _cut_floats(found["floats"])
    read_captions(units)
    for element in found["blocks"]:
        if element.tag in _LABELS:
            element.clear(keep_tail=True)
    abstract, body_text = _read_text(root, meta, found["parts"], citations)
    pictured = {unit.element for unit in units}
    for aside, section in asides:
        for caption in list(aside.iterchildren("caption")) if aside in pictured else []:
            cut(caption)  # it was read as the figure's own
        mark_cells(aside)
        citations.read(runs(aside), section)
    captions = [citations.caption(unit.caption, unit) for unit in units]
    figures = tuple(
        _figure(unit, captions[unit.position], figure_facts[unit.position], citations)
        for unit in units
    )
    references = facts.read_references(found["refs"], found["pub_ids"])
    return _article(root, meta, abstract, body_text, references, figures)


def _elements(root: etree._Element) -> dict[str, list[etree._Element]]:
    """The elements that the steps want, in document order; one walk, for a walk costs a tenth of a
    parse."""
    found: dict[str, list[etree._Element]] = {role: [] for role in _ROLES.values()}
    for element in root.iter(*_ROLES):
        found[_ROLES[element.tag]].append(element)
    return found


def _cut_floats(floats: list[etree._Element]) -> list[tuple[etree._Element, str | None]]:
    """Take floats out of the running text. Returns those (tables, files) whose text cites figures,
    each with the section that it stood in."""
    asides = []
    for element in reversed(floats):
        if element.tag == "graphic" and element.find("caption") is None:
            continue
        if element.tag in _ASIDES and has_marks(raw_text(element)):
            asides.append((element, section_of(element)))
        cut(element)
    return asides[::-1]


def _read_text(
    root: etree._Element,
    meta: etree._Element,
    parts: list[etree._Element],
    citations: Citations,
) -> tuple[str | None, str]:
    """Abstract and body as text; the mentions in all running text are recorded on the way."""
    abstracts = []
    language = root.get(facts.XML_LANG)
    for element in meta.iterchildren("abstract"):
        if (heading := element.find("title")) is not None:
            cut(heading)
        text = "\n".join(citations.read(runs(element), "Abstract"))
        is_other = (element.get(facts.XML_LANG) or language) != language
        abstracts.append((is_other, element.get("abstract-type") is not None, text))
    body = root.find("body")
    lines = [] if body is None else citations.read(runs(body), None)
    back = root.find("back")
    if back is not None:
        for part in back.iterchildren("app-group", "app", "sec", "notes", "ack", "fn-group"):
            citations.read(runs(part), None)
    for part in parts:
        kind = part.get("article-type") or part.get("response-type") or str(part.tag)
        for region in part.iterchildren("body", "back"):
            citations.read(runs(region), kind)
    main = min((a for a in abstracts if a[2]), key=lambda a: a[:2], default=(True, True, None))
    return main[2], "\n".join(lines)


def _figure(
    unit: Unit,
    caption: str | None,
    found: tuple[str | None, str | None, tuple[Graphic, ...]],
    citations: Citations,
) -> Figure:
    alt, own_rights, pictures = found
    return Figure(
        figure_id=unit.element.get("id"),
        label=unit.label,
        kind=unit.kind,
        position=unit.position,
        sub_article=unit.sub_article,
        group_label=unit.group_label,
        group_caption=citations.caption(unit.group_caption),
        caption=caption,
        alt_text=alt,
        rights=own_rights,
        graphics=pictures,
        mentions=citations.mentions(unit),
    )


def _article(
    root: etree._Element,
    meta: etree._Element,
    abstract: str | None,
    body_text: str,
    references: tuple[Reference, ...],
    figures: tuple[Figure, ...],
) -> Article:
    ids = facts.read_ids(meta)
    affiliations = facts.read_affiliations(meta)
    licence_url, licence_text = facts.read_licence(meta)
    journal = root.find("front/journal-meta")
    journal = etree.Element("journal-meta") if journal is None else journal
    return Article(
        pmcid=ids.pmcid,
        pmid=ids.pmid,
        doi=ids.doi,
        title=facts.read_title(meta),
        journal=next(iter(facts.texts(journal.iter("journal-title"))), None),
        article_type=root.get("article-type"),
        published=facts.read_published(meta),
        keywords=facts.read_keywords(meta, root.get(facts.XML_LANG)),
        subjects=facts.texts(meta.iterfind("article-categories//subject")),
        publisher=next(iter(facts.texts(journal.iter("publisher-name"))), None),
        issn=facts.texts(journal.iter("issn")),
        abstract=abstract,
        authors=facts.read_authors(meta, affiliations),
        affiliations=tuple(affiliations.values()),
        funding=facts.read_funding(meta),
        references=references,
        licence_url=licence_url,
        licence_text=licence_text,
        related_articles=facts.read_related(meta),
        body_text=body_text,
        figures=figures,
    )
