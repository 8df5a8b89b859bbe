"""Elements to text: blocks joined by a space, inline elements by nothing, white space squeezed.

Where a block ends, a mark is put into the tree once (`mark_blocks`); a region is then written out in
one go and cut into runs at the marks. Asking each paragraph for its text costs several times as much.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lxml import etree

from biomedica.parse.xml import BREAK, CLOSE, END, INDEX, OPEN, START, TITLE, replace_by_text

PARAGRAPHS = frozenset(
    (
        "p",
        "title",
        "list-item",
        "term",
        "def",
        "verse-line",
        "preformat",
        "code",
        "attrib",
        "license-p",
    )
)
"""Elements that end a run of text."""
CONTAINERS = frozenset(
    ("list", "def-list", "disp-quote", "boxed-text", "verse-group", "speech", "statement")
)
"""Elements that may stand inside a paragraph and end the run of text before them."""
SPACED = frozenset(("disp-formula", "label", "object-id", "institution-id", "break"))
"""Elements with a space around them."""
SECTIONS = frozenset(
    ("sec", "app", "ack", "abstract", "trans-abstract", "notes", "bio", "glossary", "app-group")
)


_CITES = re.compile(f"{OPEN}\\d+{INDEX}|{CLOSE}")
_ENDS = re.compile(f"[{BREAK}{TITLE}{START}{END}]")


def squeeze(text: str) -> str:
    """White space of any kind collapsed to single spaces, none at the ends.

    >>> squeeze(" growth of\\u00a0E. \\n coli ")
    'growth of E. coli'
    """
    if text.isprintable() and "  " not in text:
        return text.strip(" ")
    return " ".join(text.split())


def unmarked(text: str) -> str:
    """A text without the marks that `mentions` and `mark_blocks` put into the tree."""
    return text if text.isprintable() else _ENDS.sub(" ", _CITES.sub("", text))


def raw_text(element: etree._Element) -> str:
    """All text inside the element as it stands, without its tail."""
    return str(etree.tostring(element, method="text", encoding="unicode", with_tail=False))


def inline_text(element: etree._Element | None) -> str | None:
    """Text of an element with inline children only (a label, a title); None when it is empty."""
    return None if element is None else squeeze(unmarked(raw_text(element))) or None


def mark_blocks(blocks: Iterable[etree._Element]) -> None:
    """Put the marks where runs of text end, and spaces around what is set apart in a run.

    blocks   elements of `PARAGRAPHS`, `CONTAINERS`, `SECTIONS` and `SPACED`
    """
    for element in blocks:
        tag = element.tag
        if tag in SPACED:
            element.tail = " " + (element.tail or "")
            if tag == "disp-formula":
                element.text = " " + (element.text or "")
            continue
        if tag in SECTIONS:
            element.text = f"{BREAK}{START}{BREAK}{element.text or ''}"
            element.tail = f"{BREAK}{END}{BREAK}{element.tail or ''}"
            continue
        element.tail = BREAK + (element.tail or "")
        if tag == "title":
            parent = element.getparent()
            if parent is not None and parent.tag in SECTIONS:
                element.text = TITLE + (element.text or "")
        elif tag != "p":
            element.text = BREAK + (element.text or "")


def mark_cells(table: etree._Element) -> None:
    """Make each cell of a table a run of its own."""
    for cell in table.iter("td", "th"):
        cell.tail = BREAK + (cell.tail or "")


def runs(region: etree._Element) -> list[str]:
    """Runs of text of a region, in order, squeezed; a section's title starts with the mark `TITLE`,
    where sections begin and end stands `START` or `END`.

    A run is a paragraph, or the part of one before, between or after the lists inside it.
    """
    text = " ".join(raw_text(region).split())
    return [run for part in text.split(BREAK) if (run := part.strip(" "))]


def block_text(element: etree._Element) -> str:
    """Text of an element with block children, as one line."""
    return squeeze(unmarked(" ".join(runs(element))))


def cut(element: etree._Element) -> None:
    """Take an element out of its parent, keeping what follows it, with a space between."""
    replace_by_text(element, " ")


def has_marks(text: str) -> bool:
    """Whether a text holds a citation that `mentions` marked."""
    return OPEN in text
