"""Which paragraphs cite which figure, and with which words.

A citation is found by its target element, never by its `ref-type`. The citing words are marked in
the tree, the text is written out once, and the marks become character spans. Ranges name the figures
between their ends; words such as "Figure 4" without a link count where a figure has that label.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lxml import etree

from biomedica.parse.figures import GROUPS, HOLDERS, Unit
from biomedica.parse.text import has_marks, inline_text, raw_text, squeeze
from biomedica.parse.xml import CLOSE, END, INDEX, OPEN, START, TITLE
from biomedica.records import Mention, Span

_IDS = etree.XPath("descendant-or-self::*/@id")
_RANGE_TAIL = re.compile(r"\s*(?:[-\u2010-\u2015\u2212]|to|through)\s*")
_RANGE_TEXT = re.compile(
    r"(?<![A-Za-z\d])([A-Z]?)(\d{1,4})[A-Za-z]?\s*(?:[-\u2010-\u2015\u2212]|to|through)\s*"
    r"\1(\d{1,4})(?!\d)"
)
_MARK = re.compile(f"{OPEN}(\\d+){INDEX}|{CLOSE}")
_BLANK_AFTER_OPEN = re.compile(f"({OPEN}\\d+{INDEX}) ")
_LABEL = re.compile(r"^\W*([^\W\d_]+)\.?\s*([A-Z]{0,2})\.?\s*(\d{1,4})[a-z]?\W*$", re.IGNORECASE)
_PANELS = r"(?:[A-Za-z](?:\s*[-\u2010-\u2015,]\s*[A-Za-z](?![^\W_]))*)?"
_WORDS = re.compile(
    r"(?<![^\W_])(?P<family>fig(?:ure)?s?|schemes?|charts?|plates?|tables?)\.?\s*"
    rf"(?P<numbers>(?>[A-Z]{{0,2}}\d{{1,4}}(?![\d.]*\d){_PANELS}"
    r"(?:\s*(?:,\s*(?:and\s+)?|and\s+|&\s*|[-\u2010-\u2015]\s*|to\s+)"
    rf"(?:[A-Z]?\d{{1,4}})(?![\d.]*\d){_PANELS})*))"
    r"(?!\s*[-\u2010-\u2015]+\s*(?:figure|source|video))"
    r"(?!\w*\s*(?:of|in|from)\s+(?:ref\b|refs\b|reference|\[))",
    re.IGNORECASE,
)
_OTHER = re.compile(r"(?:supp\w*\.?|extended data|appendix|additional|online)\s+$", re.IGNORECASE)
_NUMBER = re.compile(r"([-\u2010-\u2015]\s*|to\s+)?([A-Z]{0,2})(\d+)", re.IGNORECASE)

Family = tuple[str, str, str | None]
"""Word ("fig"), letters before the number ("S"), sub-article: figures that one range can span."""


@dataclass(frozen=True, slots=True)
class _Number:
    family: Family
    number: int


def _number(unit: Unit, label: str | None) -> _Number | None:
    match = _LABEL.match(label or "")
    if match is None:
        return None
    word, letters, digits = match.groups()
    return _Number((_word(word), letters.upper(), unit.sub_article), int(digits))


def _word(word: str) -> str:
    word = word.lower()
    return "fig" if word.startswith("fig") else word.rstrip("s")


class Citations:
    """The citations of one article: mark them, then read them back from runs of text."""

    def __init__(self, xrefs: list[etree._Element], units: list[Unit]) -> None:
        self._units = units
        self._targets: dict[str, set[int]] = {}
        self._numbers: dict[_Number, set[int]] = {}
        self._cited: list[set[int]] = []
        self._found: list[dict[tuple[str, str | None], dict[Span, None]]] = [{} for _ in units]
        self._families = [_family(unit) for unit in units]
        for unit in reversed(units):  # what stands in a figure inside a figure is the inner one's
            self._enter(unit)
        pictured = {unit.element for unit in units if unit.pictures}
        for unit in units:
            self._enter_groups(unit, pictured)
        families = {number.family[0] for number in self._numbers}
        self._words = [
            w for name in sorted(families) for w in (name.capitalize(), name, name.upper())
        ]
        self._mark(xrefs)

    def _enter(self, unit: Unit) -> None:
        """Make the unit a target of its own ids, of those inside it, and of its groups' ids."""
        for name in _IDS(unit.element):
            self._targets.setdefault(str(name), {unit.position})
        label = unit.element.find("label")
        if label is not None and (number := _number(unit, inline_text(label))):
            self._numbers.setdefault(number, set()).add(unit.position)

    def _enter_groups(self, unit: Unit, pictured: set[etree._Element]) -> None:
        for group in unit.element.iterancestors(*GROUPS):
            name = group.get("id")
            if name and group not in pictured:
                self._targets.setdefault(name, set()).add(unit.position)

    def _mark(self, xrefs: list[etree._Element]) -> None:
        if not self._targets:
            return
        names = self._targets.keys()
        here = {unit.element: unit.position for unit in self._units}
        previous: etree._Element | None = None
        for xref in xrefs:
            rid = xref.get("rid") or ""
            rids = rid.split() if " " in rid else [rid]
            if names.isdisjoint(rids):
                continue
            cited = {position for rid in rids for position in self._targets.get(rid, ())}
            cited -= {here[a] for a in xref.iterancestors(*HOLDERS) if a in here}
            if not cited:
                continue
            if previous is not None and _is_range(previous, xref):
                self._cited[-1] |= cited | self._between(self._cited[-1], cited)
                xref.tail = CLOSE + (xref.tail or "")
                previous.tail = (previous.tail or "").replace(CLOSE, "", 1)
            else:
                self._cited.append(cited | self._named_range(cited, raw_text(xref)))
                xref.text = f"{OPEN}{len(self._cited) - 1}{INDEX}{xref.text or ''}"
                xref.tail = CLOSE + (xref.tail or "")
            previous = xref

    def _between(self, first: set[int], last: set[int]) -> set[int]:
        """Figures from one end of a range to the other: by number, else by order of one kind."""
        start, end = min(first), max(last)
        family = self._families[start]
        if family is None or family != self._families[end]:
            return set()
        return {place for place in range(start, end + 1) if self._families[place] == family}

    def _named_range(self, cited: set[int], words: str) -> set[int]:
        """Figures that the words of a single link name as a range: "Figs 1-3"."""
        match = _RANGE_TEXT.search(words)
        if match is None or not cited:
            return set()
        family = self._families[min(cited)]
        if family is None or family[1] != match.group(1).upper():
            return set()
        low, high = int(match.group(2)), int(match.group(3))
        return {
            position
            for number, positions in self._numbers.items()
            if number.family == family and low <= number.number <= high
            for position in positions
        }

    def read(self, runs: Iterable[str], section: str | None) -> list[str]:
        """Record the mentions in runs of text; return the runs with no marks.

        section   title that holds until a run is one itself
        """
        texts = []
        words = self._words
        sections = [section]
        for text in runs:
            if text == START:
                sections.append(sections[-1])
                continue
            if text == END:
                sections[1:] = sections[1:-1]
                continue
            is_title = text.startswith(TITLE)
            if is_title:
                text = text[1:].lstrip()
            spans: dict[int, list[Span]] = {}
            if OPEN in text:
                text, spans = self._unmark(text)
            if is_title:
                sections[-1] = text or sections[-1]
            for word in words:
                if word in text:
                    self._linkless(text, word, spans)
            if spans:
                self._record(text, sections[-1], spans)
            if text:
                texts.append(text)
        return texts

    def caption(self, marked: list[str], unit: Unit | None = None) -> str | None:
        """A caption as one text, without marks. unit   record what its caption cites, but itself"""
        texts = []
        for run in marked:
            text, spans = self._unmark(run) if has_marks(run) else (run, {})
            if unit is not None:
                for word in self._words:
                    if word in text:
                        self._linkless(text, word, spans)
                spans.pop(unit.position, None)
                self._record(text, None, spans)
            texts.append(text)
        return " ".join(filter(None, texts)) or None

    def _unmark(self, text: str) -> tuple[str, dict[int, list[Span]]]:
        if f"{INDEX} " in text or f" {CLOSE}" in text:
            text = _BLANK_AFTER_OPEN.sub(r" \1", text).replace(f" {CLOSE}", f"{CLOSE} ")
            text = squeeze(text)
        spans: dict[int, list[Span]] = {}
        parts: list[str] = []
        length = last = start = 0
        cited: set[int] = set()
        for mark in _MARK.finditer(text):
            part = text[last : mark.start()]
            if part.startswith(" ") and (not parts or parts[-1].endswith(" ")):
                part = part[1:]
            parts.append(part)
            length += len(part)
            last = mark.end()
            if mark.group(1) is not None:
                start, cited = length, self._cited[int(mark.group(1))]
                continue
            for position in cited if length > start else ():
                spans.setdefault(position, []).append(Span(start, length))
            cited = set()
        parts.append(text[last:])
        return "".join(parts).rstrip(" "), spans

    def _linkless(self, text: str, word: str, spans: dict[int, list[Span]]) -> None:
        """Add what the text cites by a family's word and a number, without a link."""
        linked = [span for each in spans.values() for span in each]
        start = text.find(word)
        while start >= 0:
            match = _WORDS.match(text, start)
            if (
                match
                and not _overlaps(match, linked)
                and not _OTHER.search(text, max(0, start - 24), start)
            ):
                for position in sorted(self._named(match["family"], match["numbers"])):
                    spans.setdefault(position, []).append(Span(match.start(), match.end()))
            start = text.find(word, start + 1)

    def _named(self, word: str, numbers: str) -> set[int]:
        found: set[int] = set()
        last, letters = None, ""
        for dash, prefix, digits in _NUMBER.findall(numbers):
            number = int(digits)
            letters = prefix.upper() or letters
            first = last + 1 if dash and last is not None and number - last < 100 else number
            for each in range(first, number + 1):
                found |= self._numbers.get(_Number((_word(word), letters, None), each), set())
            last = number
        return found

    def _record(self, text: str, section: str | None, spans: dict[int, list[Span]]) -> None:
        for position, found in spans.items():
            known = self._found[position].setdefault((text, section), {})
            known.update(dict.fromkeys(found))

    def mentions(self, unit: Unit) -> tuple[Mention, ...]:
        """What was recorded of a figure, in the order in which it was read."""
        return tuple(
            Mention(text=text, section=section, spans=tuple(sorted(spans, key=lambda s: s.start)))
            for (text, section), spans in self._found[unit.position].items()
        )


def _family(unit: Unit) -> Family | None:
    label = unit.element.find("label")
    number = _number(unit, inline_text(label)) if label is not None else None
    return number.family if number else None


def _is_range(first: etree._Element, second: etree._Element) -> bool:
    tail = (first.tail or "").replace(CLOSE, "")
    return first.getnext() is second and _RANGE_TAIL.fullmatch(tail) is not None


def _overlaps(match: re.Match[str], spans: list[Span]) -> bool:
    return any(span.start < match.end() and match.start() < span.end for span in spans)


def section_of(element: etree._Element) -> str | None:
    """Title of the nearest section around an element, or the type of its sub-article."""
    for ancestor in element.iterancestors():
        if ancestor.tag == "abstract":
            return "Abstract"
        title = ancestor.find("title") if ancestor.tag in ("sec", "app") else None
        if title is not None:
            return inline_text(title)
        if ancestor.tag in ("sub-article", "response"):
            return str(
                ancestor.get("article-type") or ancestor.get("response-type") or ancestor.tag
            )
    return None
