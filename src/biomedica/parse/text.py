"""Elements to text: blocks joined by a space, inline elements by nothing, white space squeezed."""

from __future__ import annotations

from lxml import etree

from biomedica.parse.xml import BREAK, OPEN, TITLE, replace_by_text

PARAGRAPHS = ("p", "title", "list-item", "term", "def", "verse-line", "preformat", "code", "attrib")
"""Elements that end a run of text."""
CONTAINERS = ("list", "def-list", "disp-quote", "boxed-text", "verse-group", "speech", "statement")
"""Elements that may stand inside a paragraph and end the run of text before them."""
SECTIONS = frozenset(
    ("sec", "app", "ack", "abstract", "trans-abstract", "notes", "bio", "glossary", "app-group")
)
_SPACED = ("disp-formula", "label", "object-id", "break")
_DROPPED = ("label", "object-id")
_BLOCKS = (*PARAGRAPHS, *CONTAINERS, *_SPACED)
_BLOCKS_WITH_CELLS = (*_BLOCKS, "td", "th")


def squeeze(text: str) -> str:
    """White space of any kind collapsed to single spaces, none at the ends.

    >>> squeeze(" growth of\\u00a0E. \\n coli ")
    'growth of E. coli'
    """
    if text.isprintable() and "  " not in text:
        return text.strip(" ")
    return " ".join(text.split())


def raw_text(element: etree._Element) -> str:
    """All text inside the element as it stands, without its tail."""
    return str(etree.tostring(element, method="text", encoding="unicode", with_tail=False))


def inline_text(element: etree._Element | None) -> str | None:
    """Text of an element with inline children only (a label, a title); None when it is empty."""
    return None if element is None else squeeze(raw_text(element)) or None


def block_text(element: etree._Element) -> str:
    """Text of an element with block children (a caption), marks of `mentions` left in."""
    _separate(element, " ", _BLOCKS)
    return squeeze(raw_text(element))


def runs(region: etree._Element, cells: bool = False) -> list[str]:
    """Runs of text of a region, in order; a section's title starts with the mark `TITLE`.

    A run is a paragraph, or the part of one before, between or after the lists inside it. Labels (of
    sections, lists, formulas) are left out. Blanks are not squeezed yet. cells   take table cells as paragraphs (for tables that cite figures)
    """
    _separate(region, BREAK, _BLOCKS_WITH_CELLS if cells else _BLOCKS)
    return [run for run in raw_text(region).split(BREAK) if run and not run.isspace()]


def _separate(region: etree._Element, mark: str, tags: tuple[str, ...]) -> None:
    for element in region.iter(*tags):
        tag = element.tag
        if element is region:
            continue
        if tag in _SPACED:
            if tag in _DROPPED:
                element.clear(keep_tail=True)
            element.tail = " " + (element.tail or "")
            if tag == "disp-formula":
                element.text = " " + (element.text or "")
            continue
        element.tail = mark + (element.tail or "")
        if tag == "title":
            parent = element.getparent()
            if mark == BREAK and parent is not None and parent.tag in SECTIONS:
                element.text = TITLE + (element.text or "")
        elif tag != "p" or mark == " ":
            element.text = mark + (element.text or "")


def cut(element: etree._Element) -> None:
    """Take an element out of its parent, keeping what follows it, with a space between."""
    replace_by_text(element, " ")


def has_marks(text: str) -> bool:
    """Whether a text holds a citation that `mentions` marked."""
    return OPEN in text
