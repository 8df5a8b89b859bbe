"""The figures of an article: found anywhere, with the right graphics and the right caption.

A figure here is a `fig`, or a `table-wrap`, `chem-struct-wrap` or `fig-group` that holds a picture
itself, or a picture that stands alone. Formula pictures, inline graphics, cells' pictures and
supplementary files are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lxml import etree

from biomedica.parse.text import block_text, inline_text, runs, squeeze
from biomedica.parse.xml import replace_by_text
from biomedica.records import Graphic

XLINK_HREF = "{http://www.w3.org/1999/xlink}href"

HOLDERS = frozenset(("fig", "table-wrap", "chem-struct-wrap", "fig-group"))
GROUPS = frozenset(("fig-group", "fig", "table-wrap-group"))
_NOT_FIGURES = frozenset(
    [
        "disp-formula",
        "inline-formula",
        "disp-formula-group",
        "supplementary-material",
        "media",
        "caption",
        "table",
        "license",
        "permissions",
        "ref",
        "journal-meta",
        "front-stub",
    ]
)
_NOT_CAPTION = ("object-id", "supplementary-material", "media")
_PLAIN_KINDS = frozenset(("", "fig", "figure", "featured", "normal", "half", "full"))
_LABELLED_KINDS = ("scheme", "chart", "plate", "map", "graph", "box")
_SIZE = re.compile(r"\d+x\d+")


@dataclass(slots=True, eq=False)
class Unit:
    """A figure while the article is being read: its element and what was found of it so far."""

    element: etree._Element
    position: int
    kind: str
    sub_article: str | None
    group: etree._Element | None
    """Nearest enclosing group: a `fig-group`, a `fig`, a `table-wrap-group`."""
    pictures: list[etree._Element] = field(default_factory=list)
    label: str | None = None
    caption: list[str] = field(default_factory=list)
    """Runs of text, with the marks of `mentions`."""
    group_label: str | None = None
    group_caption: list[str] = field(default_factory=list)


FLOATS = frozenset(
    [
        "fig",
        "fig-group",
        "table-wrap",
        "table-wrap-group",
        "chem-struct-wrap",
        "graphic",
        "supplementary-material",
        "media",
    ]
)
"""Elements that stand apart from the running text."""


def find_units(floats: list[etree._Element]) -> list[Unit]:
    """Every figure in document order. A `fig` without a picture is one too, with none.

    floats   the elements of `FLOATS` in document order
    """
    pictures: dict[etree._Element, list[etree._Element]] = {}
    for picture in floats:
        if picture.tag == "graphic" and (holder := _holder(picture)) is not None:
            pictures.setdefault(holder, []).append(picture)
    units: list[Unit] = []
    for element in floats:
        if element.tag == "fig" or element in pictures:
            units.append(_unit(element, len(units), pictures.get(element, [])))
    return units


def _holder(picture: etree._Element) -> etree._Element | None:
    """The element that a graphic is the picture of; the graphic itself when it stands alone."""
    for ancestor in picture.iterancestors():
        if ancestor.tag in HOLDERS:
            return ancestor
        if ancestor.tag in _NOT_FIGURES:
            return None
    return picture


def _unit(element: etree._Element, position: int, pictures: list[etree._Element]) -> Unit:
    group = sub_article = abstract = boxed = None
    for ancestor in element.iterancestors():
        if group is None and ancestor.tag in GROUPS:
            group = ancestor
        elif ancestor.tag in ("sub-article", "response"):
            sub_article = sub_article or ancestor.get("article-type") or ancestor.tag
            sub_article = ancestor.get("response-type") or sub_article
        elif ancestor.tag == "abstract":
            abstract = ancestor.get("abstract-type")
        elif ancestor.tag == "boxed-text":
            boxed = ancestor.tag
    kind = _kind(element)
    if kind in ("fig", "graphic") and abstract == "graphical":
        kind = "graphical-abstract"
    elif kind == "graphic" and boxed:
        kind = boxed
    return Unit(element, position, kind, sub_article, group, pictures)


def _kind(element: etree._Element) -> str:
    if element.tag == "table-wrap":
        return "table"
    if element.tag == "chem-struct-wrap":
        return "scheme"
    if element.tag != "fig":
        return str(element.tag)
    kind = (element.get("fig-type") or "").strip().lower().replace("_", "-").replace(" ", "-")
    if kind not in _PLAIN_KINDS:
        return kind
    label = (inline_text(element.find("label")) or "").lower()
    return next((k for k in _LABELLED_KINDS if label.startswith(k)), "fig")


def read_captions(units: list[Unit]) -> None:
    """Fill label and caption of every unit, and those of its group.

    Called once mentions are marked and floats are cut apart, so that a caption holds its own text.
    """
    texts: dict[etree._Element, tuple[str | None, list[str]]] = {}
    for unit in units:
        unit.label, unit.caption = _label_and_caption(unit.element)
        texts[unit.element] = unit.label, unit.caption
    for unit in units:
        if unit.group is None:
            continue
        if unit.group not in texts:
            texts[unit.group] = _label_and_caption(unit.group)
        unit.group_label, unit.group_caption = texts[unit.group]


def _label_and_caption(element: etree._Element) -> tuple[str | None, list[str]]:
    label = inline_text(element.find("label"))
    online_first = sorted(element.iterchildren("caption"), key=_is_printed)
    captions = (_caption(caption) for caption in online_first)
    return label, next(filter(None, captions), [])


def _caption(caption: etree._Element) -> list[str]:
    for other in [*caption.iter(*_NOT_CAPTION), *caption.iterfind(".//disp-formula/label")]:
        replace_by_text(other, " ")
    return runs(caption)


def alt_text(unit: Unit) -> str | None:
    """What the figure or its graphic says for readers who can't see it."""
    for element in (unit.element, *unit.pictures):
        for name in ("alt-text", "long-desc"):
            if text := inline_text(element.find(name)):
                return text
    return None


def rights(unit: Unit) -> str | None:
    """The figure's own copyright, licence or credit line, which may differ from the article's."""
    parts = []
    for element in (unit.element, *unit.pictures):
        for part in element.iterchildren("permissions", "attrib"):
            parts += [block_text(e) for e in (part if part.tag == "permissions" else [part])]
    return " ".join(dict.fromkeys(filter(None, parts))) or None


def graphics(unit: Unit) -> tuple[Graphic, ...]:
    """The unit's pictures: one for each set of alternatives, no thumbnails."""
    found = []
    for members in _alternative_sets(unit.pictures):
        hrefs = [href for member in _best_first(members) if (href := _href(member))]
        if hrefs:
            caption = next(filter(None, (_own_caption(m) for m in members)), None)
            found.append(Graphic(href=hrefs[0], alternates=tuple(hrefs[1:]), caption=caption))
    return tuple(found)


def _alternative_sets(pictures: Iterable[etree._Element]) -> Iterator[list[etree._Element]]:
    """Pictures that are forms of each other: in `alternatives`, said to be so by an attribute, or one
    for print beside one for the screen."""
    sets: dict[object, list[etree._Element]] = {}
    forms = []
    for picture in pictures:
        parent = picture.getparent()
        if parent is not None and parent.tag == "alternatives":
            sets.setdefault(parent, []).append(picture)
        elif picture.get("alternate-form-of") is not None:
            forms.append(picture)
        elif not _is_thumbnail(picture):
            uses = picture.get("specific-use") in ("print-only", "web-only", "print", "online")
            sets.setdefault("print and screen" if uses else picture, []).append(picture)
    for form in forms:
        for members in sets.values():
            if form.get("alternate-form-of") in [member.get("id") for member in members]:
                members.append(form)
                break
    yield from sets.values()


def _best_first(members: list[etree._Element]) -> list[etree._Element]:
    """Full pictures in colour for the screen first; thumbnails only where there is nothing else."""
    full = [m for m in members if not _is_thumbnail(m)]
    return sorted(full, key=_is_second) if full else members[:1]


def _is_second(picture: etree._Element) -> bool:
    return _is_printed(picture) or picture.get("alternate-form-of") is not None


def _is_printed(element: etree._Element) -> bool:
    uses = f"{element.get('specific-use')} {element.get('content-type')}"
    return "print" in uses or "black-white" in uses


def _is_thumbnail(picture: etree._Element) -> bool:
    for name in ("content-type", "specific-use"):
        value = picture.get(name)
        if value and ("thumb" in value or _SIZE.search(value)):
            return True
    return False


def _href(picture: etree._Element) -> str | None:
    href = picture.get(XLINK_HREF)
    if href is None:
        href = next((v for k, v in picture.attrib.items() if k.endswith("href")), None)
    return str(href).strip() or None if href is not None else None


def _own_caption(picture: etree._Element) -> str | None:
    label, caption = _label_and_caption(picture)
    return squeeze(" ".join([label or "", *caption])) or None
