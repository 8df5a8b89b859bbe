"""Article-level facts: ids, title, dates, people, funding, licence, references."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from lxml import etree

from biomedica.parse.figures import XLINK_HREF
from biomedica.parse.text import block_text, inline_text, raw_text, squeeze, unmarked
from biomedica.parse.xml import replace_by_text
from biomedica.records import Author, Funding, Reference, RelatedArticle

XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
LICENSE_REF = "{http://www.niso.org/schemas/ali/1.0/}license_ref"

_NOT_PUBLIC = (
    "hwp",
    "nihms",
    "archival",
    "received",
    "accepted",
    "rev-",
    "submitted",
    "update",
    "retract",
)
_MONTHS = {
    name: number
    for number, names in enumerate(
        [
            "jan ene",
            "feb",
            "mar",
            "apr abr avr",
            "may mai",
            "jun",
            "jul",
            "aug ago",
            "sep",
            "oct",
            "nov",
            "dec dic",
        ],
        start=1,
    )
    for name in names.split()
}
CITATIONS = frozenset(("mixed-citation", "element-citation", "citation", "nlm-citation", "note"))
_TEXTS = etree.XPath("descendant::text()", smart_strings=False)
_PMCID = re.compile(r"(?:PMC)?(\d{1,12})(?:\.\d+)?$", re.IGNORECASE)
_PMID = re.compile(r"(?<!\d)\d{1,9}(?!\d)")
_DOI_ADDRESS = re.compile(r"^(?:https?://)?(?:dx\.)?doi\.org/", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Ids:
    """The article's own identifiers."""

    pmcid: str | None
    pmid: int | None
    doi: str | None


def read_ids(meta: etree._Element) -> Ids:
    """Ids of `article-meta`; a bare number of type `pmc` or `pmcid` gets its prefix."""
    found: dict[str, str] = {}
    for element in meta.iterchildren("article-id"):
        found.setdefault(element.get("pub-id-type") or "", (element.text or "").strip())
    pmcid = next((m for k in ("pmcid", "pmc") if (m := _PMCID.match(found.get(k, "")))), None)
    pmid = found.get("pmid", "")
    return Ids(
        pmcid=f"PMC{int(pmcid.group(1))}" if pmcid else None,
        pmid=int(pmid) if _PMID.fullmatch(pmid) else None,
        doi=found.get("doi") or None,
    )


def read_title(meta: etree._Element) -> str | None:
    """The article's title, without its footnotes and their marks."""
    title = meta.find("title-group/article-title")
    if title is None:
        return None
    for element in list(title.iter("fn", "xref")):
        if element.tag == "fn" or element.get("ref-type") in ("fn", "author-notes"):
            replace_by_text(element, "")
    return inline_text(title)


def read_published(meta: etree._Element) -> date | None:
    """Earliest public date that states a year; a missing month or day counts as the first.

    A date without a day (the year of a volume, say) gives way to one that lies in it and has one.
    """
    found = [
        day
        for element in meta.iterchildren("pub-date")
        if not any(
            w in f"{element.get('pub-type')} {element.get('date-type')}" for w in _NOT_PUBLIC
        )
        and (day := _date(element))
    ]
    if not found:
        events = meta.iterfind("pub-history/event")
        found = [
            day
            for event in events
            if "pmc" in str(event.get("event-type")) and (day := _date(event.find("date")))
        ]
    finest = [d for d in found if not any(_is_finer(other, d) for other in found)]
    return min((date(y, m or 1, d or 1) for y, m, d, _ in finest), default=None)


_Day = tuple[int, int, int, int]
"""Year, month, day (0 for what is not stated), and how many of them count as stated: of a season's
"Jul-Aug" the year alone."""


def _is_finer(one: _Day, other: _Day) -> bool:
    """Whether one date lies in the other and states more."""
    return one[3] > other[3] and one[: other[3]] == other[: other[3]]


def _date(element: etree._Element | None) -> _Day | None:
    if element is None:
        return None
    year, month, day = (
        (element.findtext(name) or "").strip().lower() for name in ("year", "month", "day")
    )
    season = (element.findtext("season") or "").strip().lower()
    is_season = bool(season and not month)
    month = month or season
    if not re.fullmatch(r"[1-9]\d{3}", year):
        return None
    number = int(month) if re.fullmatch(r"\d{1,2}", month) else _MONTHS.get(month[:3], 0)
    number = number if number <= 12 else 0
    of_month = int(day) if number and re.fullmatch(r"\d{1,2}", day) else 0
    try:
        date(int(year), number or 1, of_month or 1)
    except ValueError:
        of_month = 0
    stated = 1 if is_season or not number else 3 if of_month else 2
    return int(year), number, of_month, stated


def texts(elements: Iterable[etree._Element]) -> tuple[str, ...]:
    """Text of each, in order; empty ones and repetitions left out."""
    return tuple(dict.fromkeys(text for e in elements if (text := inline_text(e))))


def read_keywords(meta: etree._Element, language: str | None) -> tuple[str, ...]:
    """Keywords of all groups that are in the article's language; lists of abbreviations are none."""
    found = []
    for group in meta.iterchildren("kwd-group"):
        other = _primary(group.get(XML_LANG)) or _primary(language)
        is_own = not language or other == _primary(language)
        if is_own and "abbr" not in (group.get("kwd-group-type") or "").lower():
            found += list(group.iter("kwd", "compound-kwd"))
    return texts(found)


def _primary(language: str | None) -> str:
    """The language alone: `en` of `en-US`."""
    return (language or "").split("-")[0].lower()


def read_affiliations(meta: etree._Element) -> dict[etree._Element, str]:
    """Text of each affiliation, in document order, without its label; a comma between parts that the
    publisher sets side by side."""
    found = {}
    for element in meta.iter("aff"):
        for other in list(element.iter("label", "sup", "institution-id", "fn")):
            replace_by_text(other, "")
        originals = element.findall("institution[@content-type='original']")
        if originals:  # SciELO: the whole affiliation as printed, and its parts once more
            found[element] = inline_text(originals[0]) or ""
            continue
        for part in element.iter(*_AFFILIATION_PARTS):
            following = part.getnext()
            if following is not None and not (part.tail or "").strip():
                part.tail = ", "
        if text := squeeze(unmarked(raw_text(element))).strip(" ,;"):
            found[element] = text
    return found


_AFFILIATION_PARTS = (
    "institution",
    "institution-wrap",
    "addr-line",
    "city",
    "state",
    "postal-code",
    "country",
)


def read_authors(
    meta: etree._Element, affiliations: dict[etree._Element, str]
) -> tuple[Author, ...]:
    """Authors in order, with indices into the affiliations."""
    order = {element: index for index, element in enumerate(affiliations)}
    by_id = {element.get("id"): index for element, index in order.items()}
    authors = []
    for contributor in meta.iterfind("contrib-group/contrib"):
        if (contributor.get("contrib-type") or "author") != "author":
            continue
        name = _author_name(contributor)
        if name is None:
            continue
        found = [
            by_id.get(r) for x in contributor.iter("xref") for r in (x.get("rid") or "").split()
        ]
        found += [order.get(aff) for aff in contributor.iter("aff")]
        if not any(index is not None for index in found):
            found = [order.get(aff) for aff in contributor.getparent().iterchildren("aff")]
        if not any(index is not None for index in found) and len(order) == 1:
            found = [0]
        indices = tuple(dict.fromkeys(index for index in found if index is not None))
        authors.append(Author(name=name, orcid=_orcid(contributor), affiliations=indices))
    return tuple(authors)


def _author_name(contributor: etree._Element) -> str | None:
    name = next(contributor.iter("name", "string-name", "collab", "anonymous"), None)
    if name is None or name.tag == "anonymous":
        return None
    surname = inline_text(name.find("surname"))
    if surname is None:
        for members in list(name.iter("contrib-group")):
            replace_by_text(members, "")
        return inline_text(name)
    given = inline_text(name.find("given-names")) or ""
    return squeeze(f"{given} {surname} {name.findtext('suffix') or ''}") or None


def _orcid(contributor: etree._Element) -> str | None:
    for element in contributor.iter("contrib-id", "uri"):
        text = element.text or element.get(XLINK_HREF) or ""
        if "orcid" in (element.get("contrib-id-type") or text):
            return text.strip().rstrip("/").rsplit("/", 1)[-1] or None
    return None


def read_funding(meta: etree._Element) -> tuple[Funding, ...]:
    """Award groups, or the contract sponsors of the older tag set."""
    found = [
        Funding(
            source="; ".join(texts(group.iter("funding-source"))) or None,
            award_ids=texts(group.iter("award-id")),
        )
        for group in meta.iterfind("funding-group/award-group")
    ]
    sponsors = texts(meta.iterchildren("contract-sponsor"))
    numbers = texts(meta.iterchildren("contract-num"))
    if sponsors or numbers:
        found.append(Funding(source="; ".join(sponsors) or None, award_ids=numbers))
    statement = meta.find("funding-group/funding-statement")
    if not found and statement is not None:
        found.append(Funding(source=inline_text(statement), award_ids=()))
    return tuple(found)


def read_licence(meta: etree._Element) -> tuple[str | None, str | None]:
    """(address, text) of the article's licence, as stated in its front matter."""
    permissions = meta.find("permissions")
    licence = None if permissions is None else permissions.find("license")
    if licence is None:
        holder = meta if permissions is None else permissions
        return None, inline_text(holder.find("copyright-statement"))
    addresses = [licence.get(XLINK_HREF)]
    addresses += [e.text for e in licence.iter(LICENSE_REF)]
    addresses += [e.get(XLINK_HREF) for e in licence.iter("ext-link", "uri")]
    url = next((a.strip() for a in addresses if a and "creativecommons" in a), None)
    url = url or next((a.strip() for a in addresses if a and a.strip()), None)
    for address in list(licence.iter(LICENSE_REF)):
        replace_by_text(address, " ")
    return url, block_text(licence) or None


def read_related(meta: etree._Element) -> tuple[RelatedArticle, ...]:
    """Articles that this one corrects, retracts, comments on or belongs with."""
    return tuple(
        RelatedArticle(
            kind=element.get("related-article-type"),
            id=element.get(XLINK_HREF) or inline_text(element),
            id_type=element.get("ext-link-type"),
        )
        for element in meta.iterchildren("related-article")
    )


def read_references(
    refs: list[etree._Element], pub_ids: list[etree._Element]
) -> tuple[Reference, ...]:
    """The reference lists, one entry a `ref` (the first citation where one holds several)."""
    ids: dict[etree._Element | None, dict[str | None, str]] = {}
    for element in pub_ids:
        text = element.text or ""
        ids.setdefault(element.getparent(), {})[element.get("pub-id-type")] = text
        element.text = f" {text}"
    return tuple(found for ref in refs if (found := _reference(ref, ids)))


def _reference(
    ref: etree._Element, ids: dict[etree._Element | None, dict[str | None, str]]
) -> Reference | None:
    for citation in ref:
        if citation.tag == "citation-alternatives" and len(citation):
            citation = citation[0]
        if citation.tag in CITATIONS:
            break
    else:
        return None
    own = ids.get(citation, {})
    pmid = _PMID.search(own.get("pmid", ""))
    doi = own.get("doi") or _linked_doi(citation)
    if _is_punctuated(citation):
        _separate_names(citation)
        text = raw_text(citation)
    else:
        text = " ".join(_TEXTS(citation))
    return Reference(
        pmid=int(pmid[0]) if pmid else None,
        doi=_DOI_ADDRESS.sub("", doi.strip()) or None,
        text=squeeze(unmarked(text)),
    )


def _linked_doi(citation: etree._Element) -> str:
    for link in citation.iter("ext-link"):
        address = link.get(XLINK_HREF) or ""
        if link.get("ext-link-type") == "doi" or _DOI_ADDRESS.match(address):
            return address or inline_text(link) or ""
    return ""


def _separate_names(citation: etree._Element) -> None:
    """Blanks between the parts of names, commas between names, where the publisher has neither."""
    for part in citation.iter("surname", "given-names", "suffix", "name", "string-name"):
        if not part.tail and part.getnext() is not None:
            part.tail = ", " if part.tag in ("name", "string-name") else " "


def _is_punctuated(citation: etree._Element) -> bool:
    """Whether the publisher's own punctuation stands between the parts."""
    if not len(citation):
        return True
    return bool((citation.text or "").strip() or (citation[0].tail or "").strip())


_CC_URL = re.compile(
    r"creativecommons\.org/(?:licen[cs]es/(by[a-z-]*)|(publicdomain|choose/zero|share-your-work/public))"
)
_CC_WORD = r"4\.0|3\.0|2\.\d|International|CC|BY|Non-?\s?Commercial|NC|No-?\s?Deriv\w*(?: Works)?|ND|Share-?\s?Alike|SA"
_CC_TEXT = re.compile(
    r"Creative Commons(?: licen[cs]e)?,?\s*\(?(?:Attribution|(?:CC[ -]?)?BY\b)"
    rf"((?:[\s,(\u2010-\u2015-]*(?:{_CC_WORD})\b)*)|\bCC[ -]?BY((?:-(?:NC|ND|SA))*)\b",
    re.IGNORECASE,
)
_NOT_COMMERCIAL = re.compile(r"\bNC\b|non.?commercial", re.IGNORECASE)


def licence_code(url: str | None, text: str | None) -> str | None:
    """The code that the cloud service would give ("CC BY-NC"), from what the XML states.

    >>> licence_code("http://creativecommons.org/licenses/by-nc/4.0/", None)
    'CC BY-NC'
    >>> licence_code(None, "under a Creative Commons Attribution-NoDerivs licence")
    'CC BY-ND'
    """
    if match := _CC_URL.search((url or "").lower()):
        return "CC0" if match[2] else f"CC {match[1].strip('-').upper()}"
    found = list(_CC_TEXT.finditer(text or ""))
    if not found:
        return None
    words = "".join(match[1] or match[2] or "" for match in found)
    spelled = re.sub(r"[\s\u2010-\u2015-]", "", words).lower()
    codes = re.findall(r"NC|SA|ND", words.upper())
    parts = [code for word, code in _CC_WORDS.items() if word in spelled or code in codes]
    if "NC" not in parts and _NOT_COMMERCIAL.search(text or ""):
        return None  # it says so in words that are not understood: no licence is better than a wrong one
    return "-".join(["CC BY", *parts])


_CC_WORDS = {"noncommercial": "NC", "sharealike": "SA", "noderiv": "ND"}
