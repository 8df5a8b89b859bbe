"""Count the figures, captions and mentions of a bucket's articles, the slow and plain way.

    python bench/independent_count.py BUCKET > truth.jsonl

This is the yardstick for the parser, so it shares no code with it: it walks each XML tree as
often as a definition needs, and every definition is one function below. One JSON line per article
version.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.entities import html5
from pathlib import Path
from typing import Any

from lxml import etree

Element = Any  # lxml's own types are private

UNIT_TAGS = {"fig", "table-wrap"}
GROUP_TAGS = {"fig-group", "table-wrap-group"}
ARTICLE_TAGS = {"article", "sub-article", "response"}
FORMULA_TAGS = {"disp-formula", "inline-formula"}
CHEMICAL_TAGS = {"chem-struct", "chem-struct-wrap"}
FLOAT_TAGS = UNIT_TAGS | GROUP_TAGS | {"boxed-text"}

NOT_TEXT_TAGS = {
    "label", "object-id", "supplementary-material", "media", "alt-text", "long-desc",
    "annotation", "annotation-xml",
}  # fmt: skip
MATH_TOKEN_TAGS = {"mi", "mn", "mo", "ms", "mtext"}
BLOCK_TAGS = {
    "title", "subtitle", "p", "sec", "list", "list-item", "def-list", "def-item", "def", "term",
    "term-head", "def-head", "disp-formula", "disp-formula-group", "disp-quote", "verse-group",
    "verse-line", "speech", "statement", "boxed-text", "preformat", "caption", "attrib", "fn",
    "fn-group", "ref", "ref-list", "chem-struct-wrap", "table-wrap", "table-wrap-foot", "fig",
    "table", "thead", "tbody", "tfoot", "tr", "td", "th", "break", "array", "permissions",
    "copyright-statement", "license", "license-p",
}  # fmt: skip
SMALL_ANCHOR_TAGS = {"title", "td", "th", "list-item", "def"}
ANCHOR_LIMIT_TAGS = FLOAT_TAGS | {"supplementary-material"}

DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
BETWEEN_RANGE_ENDS = re.compile(rf"\s*(?:[{DASHES}]|to|through)\s*", re.IGNORECASE)
RANGE_IN_TEXT = re.compile(
    rf"(\d+)\s?\(?[A-Za-z]?\)?\s*(?:[{DASHES}]|\bto\b|\bthrough\b)\s*"
    r"(?:fig(?:ure)?s?\.?\s*)?S?(\d+)",
    re.IGNORECASE,
)
LABEL_WITH_LETTER = re.compile(r"\W*([A-Za-z])\W*")
SIZE = re.compile(r"\d+\s*[xX\u00d7]\s*\d+")
UNLINKED = re.compile(
    r"(?<![\w-])(?:figures?|figs?\.?)\s*(\d+)(?:\s?[A-Za-z])?(?!\w)"
    r"(?:\s*(?:and|&)\s*(\d+)(?:\s?[A-Za-z])?(?!\w))?",
    re.IGNORECASE,
)
OTHER_FIGURES_BEFORE = re.compile(
    r"(?:suppl\w*|additional|extended data|appendix|online|their|his|her)\.?\s*$", re.IGNORECASE
)
OTHER_FIGURES_AFTER = re.compile(
    rf"\s*(?:[{DASHES}]\s*(?:figure|source|video)|[^.;]{{0,20}}\b(?:of|in|from|reported)\b)",
    re.IGNORECASE,
)


@dataclass
class Unit:
    """One `fig`, or one `table-wrap` that is shown as an image."""

    element: Element
    ordinal: int
    graphics: list[list[str]]
    """File names of each main graphic; any of a list's names is a right answer."""
    thumbs: list[str]
    caption: str | None
    caption_element: Element | None
    mentions: list[Element] = field(default_factory=list)
    """The elements whose text cites the unit, in document order."""
    unlinked: list[Element] = field(default_factory=list)


# --- the tree ---------------------------------------------------------------------------------


def read_tree(path: Path) -> Element:
    """The root element. No DTD, no network, entity references left as nodes."""
    parser = etree.XMLParser(
        resolve_entities=False, load_dtd=False, no_network=True, huge_tree=True
    )
    return etree.fromstring(path.read_bytes().lstrip(), parser)


def name(node: Element) -> str:
    """Local name; "" for a comment, a processing instruction or an entity reference."""
    return etree.QName(node).localname if isinstance(node.tag, str) else ""


def elements(top: Element) -> Iterator[Element]:
    """`top` and all elements below it, in document order."""
    for node in top.iter():
        if name(node):
            yield node


def ancestors(node: Element) -> list[Element]:
    """The ancestors, nearest first."""
    return list(node.iterancestors())


def within(node: Element, top: Element) -> bool:
    return node is top or any(up is top for up in node.iterancestors())


def article_of(node: Element) -> Element:
    """The article, sub-article or response that holds the node."""
    for up in [node, *ancestors(node)]:
        if name(up) in ARTICLE_TAGS:
            return up
    return node.getroottree().getroot()


def attribute(node: Element, local_name: str) -> str | None:
    for key, value in node.attrib.items():
        if etree.QName(key).localname == local_name:
            return str(value)
    return None


# --- text -------------------------------------------------------------------------------------


def collapse(text: str) -> str:
    """Each run of white space (NBSP too) as one space, none at the ends."""
    return " ".join(text.split())


def raw_text(node: Element) -> str:
    """All character data, with named entities as their HTML5 characters."""
    parts = [node.text or ""]
    for child in node:
        if child.tag is etree.Entity:
            parts.append(entity_text(child))
        elif name(child):
            parts.append(raw_text(child))
        parts.append(child.tail or "")
    return "".join(parts)


def entity_text(reference: Element) -> str:
    """The character that HTML5 gives a named entity; "" for a name it does not know."""
    return html5.get(f"{reference.name};", "")


def tex_text(node: Element) -> str:
    text = raw_text(node)
    match = re.search(r"\\begin\{document\}(.*?)\\end\{document\}", text, re.DOTALL)
    return (match.group(1) if match else text).strip().strip("$").strip()


def math_text(node: Element) -> str:
    """The tokens of MathML, joined by nothing, without white space."""
    if name(node) in {"annotation", "annotation-xml"}:
        return ""
    if name(node) in MATH_TOKEN_TAGS:
        return "".join(raw_text(node).split())
    return "".join(math_text(child) for child in node if name(child))


def one_representation(node: Element) -> list[Element]:
    """The children of an alternatives or formula element that are to be read."""
    children = [child for child in node if name(child)]
    for tag in ("math", "tex-math"):
        chosen = [child for child in children if name(child) == tag]
        if chosen and name(node) == "alternatives":
            return chosen[:1]
        if chosen:
            others = {"math", "tex-math"} - {tag}
            return [child for child in children if name(child) not in others]
    if name(node) == "alternatives":
        return [child for child in children if collapse(raw_text(child))][:1]
    return children


def tokens(node: Element, dropped: set[str]) -> list[tuple[str, Any]]:
    """("text", str), ("open", xref) and ("close", xref) of an element's content, in order."""
    found: list[tuple[str, Any]] = [("text", node.text or "")]
    read = [child for child in node if name(child)]
    if name(node) in FORMULA_TAGS | {"alternatives"}:
        read = one_representation(node)
    for child in node:
        tag = name(child)
        if child.tag is etree.Entity:
            found.append(("text", entity_text(child)))
        elif tag in dropped and tag in BLOCK_TAGS | FLOAT_TAGS | {"supplementary-material"}:
            found.append(("text", " "))
        elif not tag or tag in dropped or not any(child is one for one in read):
            pass
        elif tag == "math":
            found.append(("text", math_text(child)))
        elif tag == "tex-math":
            found.append(("text", tex_text(child)))
        elif tag == "xref":
            found += [("open", child), *tokens(child, dropped), ("close", child)]
        elif tag in BLOCK_TAGS:
            found += [("text", " "), *tokens(child, dropped), ("text", " ")]
        else:
            found += tokens(child, dropped)
        found.append(("text", child.tail or ""))
    return found


def text_of(node: Element, dropped: set[str]) -> str:
    return collapse("".join(value for kind, value in tokens(node, dropped) if kind == "text"))


def caption_text(caption: Element) -> str:
    return text_of(caption, NOT_TEXT_TAGS)


def paragraph_text(paragraph: Element) -> str:
    return text_of(paragraph, NOT_TEXT_TAGS | FLOAT_TAGS)


# --- graphics ---------------------------------------------------------------------------------


def base_name(href: str) -> str:
    return href.rstrip("/").rsplit("/", 1)[-1]


def is_thumbnail(graphic: Element) -> bool:
    roles = [attribute(graphic, "content-type") or "", attribute(graphic, "specific-use") or ""]
    return any("thumb" in role.lower() or SIZE.search(role) for role in roles)


def owned_graphics(unit: Element) -> list[Element]:
    """The graphics whose nearest fig or table-wrap is this one, without formulas and captions."""
    foreign = FORMULA_TAGS | {"caption", "supplementary-material"}
    if name(unit) == "table-wrap":
        foreign = foreign | CHEMICAL_TAGS
    owned = []
    for graphic in elements(unit):
        if name(graphic) != "graphic" or not attribute(graphic, "href"):
            continue
        above = ancestors(graphic)
        nearest = next(up for up in above if name(up) in UNIT_TAGS)
        between = above[: above.index(nearest)]
        if nearest is unit and not any(name(up) in foreign for up in between):
            owned.append(graphic)
    return owned


def main_and_thumbs(unit: Element) -> tuple[list[list[str]], list[str]]:
    """Acceptable file names of each main graphic, and the thumbnails' names."""
    sets: list[tuple[Element, list[Element]]] = []
    for graphic in owned_graphics(unit):
        if attribute(graphic, "alternate-form-of"):
            continue
        above = [up for up in ancestors(graphic) if within(up, unit)]
        holder = next((up for up in above if name(up) == "alternatives"), graphic)
        for known, members in sets:
            if known is holder:
                members.append(graphic)
                break
        else:
            sets.append((holder, [graphic]))
    mains: list[list[Element]] = []
    thumbs: list[Element] = []
    for holder, members in sets:
        full = [member for member in members if not is_thumbnail(member)]
        small = [member for member in members if is_thumbnail(member)]
        if not full and name(holder) == "alternatives":
            full, small = small[:1], small[1:]
        if full:
            mains.append(full)
        thumbs += small
    if not mains and thumbs:
        mains.append([thumbs.pop(0)])
    names = [[base_name(attribute(member, "href") or "") for member in full] for full in mains]
    return names, [base_name(attribute(thumb, "href") or "") for thumb in thumbs]


# --- units, labels, captions ------------------------------------------------------------------


def own_caption(node: Element) -> Element | None:
    """The first `caption` child that has text."""
    for child in node:
        if name(child) == "caption" and caption_text(child):
            return child
    return None


def find_caption(unit: Element) -> Element | None:
    for node in [unit, *ancestors(unit)]:
        if node is unit or name(node) in GROUP_TAGS | {"fig"}:
            caption = own_caption(node)
            if caption is not None:
                return caption
    return None


def label_of(unit: Element) -> str | None:
    for child in unit:
        if name(child) == "label":
            return collapse(raw_text(child)) or None
    return None


def find_units(root: Element) -> list[Unit]:
    units: list[Unit] = []
    for element in elements(root):
        if name(element) not in UNIT_TAGS:
            continue
        graphics, thumbs = main_and_thumbs(element)
        if name(element) == "table-wrap" and not graphics:
            continue
        caption = find_caption(element)
        text = None if caption is None else caption_text(caption)
        units.append(Unit(element, len(units), graphics, thumbs, text, caption))
    return units


def family_and_number(unit: Unit) -> tuple[str, int | None]:
    """Label prefix and number: ("fig", 3) for "Figure 3." and ("fig s", 3) for "Fig. S3"."""
    label = label_of(unit.element) or ""
    numbers = list(re.finditer(r"\d+", label))
    if numbers:  # the last one counts: "Figure 2-figure supplement 1"
        return normal_prefix(label[: numbers[-1].start()]), int(numbers[-1].group())
    letter = LABEL_WITH_LETTER.fullmatch(label)
    if letter:
        return "(letter)", ord(letter.group(1).lower())
    return normal_prefix(label), None


def normal_prefix(prefix: str) -> str:
    words = collapse(prefix.lower().replace(".", " "))
    words = re.sub(r"\bfig(?:ure)?s?\b", "fig", words)
    return re.sub(r"\btab(?:le)?s?\b", "tab", words)


def same_family(one: Unit, other: Unit) -> bool:
    return (
        name(one.element) == name(other.element)
        and article_of(one.element) is article_of(other.element)
        and family_and_number(one)[0] == family_and_number(other)[0]
    )


# --- mentions ---------------------------------------------------------------------------------


def find_anchor(xref: Element) -> Element:
    """The nearest `p`; else title, td, th, list-item or def; else the parent.

    The search stays inside the float that holds the xref: a paragraph around a table is not where
    a table's cell cites a figure.
    """
    inside = []
    for up in ancestors(xref):
        if name(up) in ANCHOR_LIMIT_TAGS:
            break
        inside.append(up)
    for up in inside:
        if name(up) == "p":
            return up
    for up in inside:
        if name(up) in SMALL_ANCHOR_TAGS:
            return up
    return next(up for up in ancestors(xref) if name(up) != "xref")


def find_target(rid: str, xref: Element, by_id: dict[str, list[Element]]) -> Element | None:
    """The element with this id: the one in the xref's own (sub-)article if the id is repeated."""
    candidates = by_id.get(rid, [])
    for candidate in candidates:
        if article_of(candidate) is article_of(xref):
            return candidate
    return candidates[0] if candidates else None


def units_of_target(target: Element, units: list[Unit]) -> list[Unit]:
    if name(target) in GROUP_TAGS:
        return [unit for unit in units if within(unit.element, target)]
    for up in [target, *ancestors(target)]:
        if name(up) in UNIT_TAGS:
            inside = [unit for unit in units if within(unit.element, up)]
            own = [unit for unit in inside if unit.element is up]
            # a figure without a picture of its own is the frame of the figures in it
            return own if own and own[0].graphics else own + [u for u in inside if u not in own]
    return []


def units_named(xref: Element, units: list[Unit], by_id: dict[str, list[Element]]) -> list[Unit]:
    named: list[Unit] = []
    for rid in (xref.get("rid") or "").split():
        target = find_target(rid, xref, by_id)
        if target is not None:
            named += [unit for unit in units_of_target(target, units) if unit not in named]
    return named


def units_in_text_range(xref: Element, named: list[Unit], units: list[Unit]) -> list[Unit]:
    """The units that an xref such as "Figs 1-3" means beside the one it links to."""
    text = collapse(raw_text(xref))
    match = RANGE_IN_TEXT.search(text)
    if not match or not named:
        return []
    first, last = int(match.group(1)), int(match.group(2))
    if not first < last <= first + 50:
        return []
    found = []
    for one in named:
        number = family_and_number(one)[1]
        label = label_of(one.element) or ""
        if number is None or not first <= number <= last:
            continue
        if normal_prefix(text).strip(" ()") == normal_prefix(label).strip(" ()"):
            continue  # "Figure 2-1" may be a label, not a range
        for unit in units:
            number = family_and_number(unit)[1]
            if number is not None and first <= number <= last and same_family(one, unit):
                found.append(unit)
    return found


def units_between(one: Unit, other: Unit, units: list[Unit]) -> list[Unit]:
    if not same_family(one, other):
        return []
    between = units[one.ordinal + 1 : other.ordinal]
    return [unit for unit in between if same_family(unit, one)]


def is_own_content(xref: Element, unit: Unit) -> bool:
    """Whether the xref stands in the unit itself or in the caption that the unit is given."""
    nearest = next((up for up in ancestors(xref) if name(up) in UNIT_TAGS), None)
    if nearest is unit.element:
        return True
    return unit.caption_element is not None and within(xref, unit.caption_element)


def consecutive_ranges(anchor: Element) -> list[tuple[Element, Element]]:
    """Pairs of neighbouring xrefs of a paragraph with only a dash, "to" or "through" between."""
    stream = tokens(anchor, NOT_TEXT_TAGS | FLOAT_TAGS)
    opened = [(at, value) for at, (kind, value) in enumerate(stream) if kind == "open"]
    pairs = []
    for (_, one), (start, other) in itertools.pairwise(opened):
        end = next(at for at, token in enumerate(stream) if token == ("close", one))
        if end > start:
            continue  # one xref inside the other
        between = "".join(value for kind, value in stream[end:start] if kind == "text")
        if BETWEEN_RANGE_ENDS.fullmatch(between):
            pairs.append((one, other))
    return pairs


def add_mentions(root: Element, units: list[Unit]) -> None:
    by_id: dict[str, list[Element]] = {}
    for element in elements(root):
        if element.get("id"):
            by_id.setdefault(element.get("id"), []).append(element)

    def add(unit: Unit, xref: Element, anchor: Element) -> None:
        if is_own_content(xref, unit) or any(anchor is known for known in unit.mentions):
            return
        unit.mentions.append(anchor)

    anchors: list[Element] = []
    for xref in elements(root):
        if name(xref) != "xref":
            continue
        named = units_named(xref, units, by_id)
        if not named:
            continue
        anchor = find_anchor(xref)
        for unit in named + units_in_text_range(xref, named, units):
            add(unit, xref, anchor)
        if not any(anchor is known for known in anchors):
            anchors.append(anchor)
    for anchor in anchors:
        for one, other in consecutive_ranges(anchor):
            if find_anchor(one) is not anchor or find_anchor(other) is not anchor:
                continue
            starts, ends = units_named(one, units, by_id), units_named(other, units, by_id)
            if starts and ends:
                for unit in units_between(starts[-1], ends[0], units):
                    add(unit, one, anchor)


def unlinked_numbers(text: str) -> set[int]:
    """The figure numbers a text names, without those of a supplement or of another paper."""
    numbers: set[int] = set()
    for match in UNLINKED.finditer(text):
        before, after = text[: match.start()], text[match.end() :]
        if not OTHER_FIGURES_BEFORE.search(before) and not OTHER_FIGURES_AFTER.match(after):
            numbers |= {int(number) for number in match.groups() if number}
    return numbers


def add_unlinked(root: Element, units: list[Unit]) -> None:
    """Paragraphs of the body that say "Figure 4" without any link to it."""
    for paragraph in elements(root):
        if name(paragraph) != "p":
            continue
        above = [name(up) for up in ancestors(paragraph)]
        if "body" not in above or any(tag in FLOAT_TAGS | {"caption"} for tag in above):
            continue
        text, depth = "", 0
        for kind, value in tokens(paragraph, NOT_TEXT_TAGS | FLOAT_TAGS):
            if kind != "text":
                depth += 1 if kind == "open" else -1
                text += "\u241f"  # a mark where a link stands, so that words do not join over it
            elif depth == 0:
                text += value
        numbers = unlinked_numbers(collapse(text))
        for unit in units:
            prefix, number = family_and_number(unit)
            if (
                prefix == "fig"
                and number in numbers
                and article_of(unit.element) is article_of(paragraph)
                and not any(paragraph is known for known in unit.mentions)
            ):
                unit.unlinked.append(paragraph)


# --- output -----------------------------------------------------------------------------------


def count_article(path: Path) -> list[dict[str, Any]]:
    """The truth records of one article's XML, in document order."""
    root = read_tree(path)
    nodes = list(root.iter())  # held, so that a node is one Python object throughout
    order = {id(node): at for at, node in enumerate(nodes)}
    units = find_units(root)
    add_mentions(root, units)
    add_unlinked(root, units)
    main_article = next((e for e in elements(root) if name(e) == "article"), root)
    return [
        {
            "id": unit.element.get("id"),
            "ordinal": unit.ordinal,
            "kind": name(unit.element),
            "label": label_of(unit.element),
            "caption": unit.caption,
            "graphics": unit.graphics,
            "thumbs": unit.thumbs,
            "mentions": [
                paragraph_text(anchor)
                for anchor in sorted(unit.mentions, key=lambda one: order[id(one)])
            ],
            "unlinked_mentions": [paragraph_text(anchor) for anchor in unit.unlinked],
            "in_sub_article": article_of(unit.element) is not main_article,
        }
        for unit in units
    ]


def article_files(bucket: Path) -> list[tuple[str, int, Path]]:
    """(pmcid, version, XML file) of every article version, by number."""
    found = []
    for path in bucket.glob("PMC*/PMC*.xml"):
        match = re.fullmatch(r"(PMC(\d+))\.(\d+)", path.stem)
        if match and path.parent.name == path.stem:
            found.append((int(match[2]), int(match[3]), match[1], path))
    return [(pmcid, version, path) for _, version, pmcid, path in sorted(found)]


def count_bucket(bucket: Path) -> Iterator[dict[str, Any]]:
    """One record per article version: {pmcid, version, units} or {pmcid, version, error}."""
    for pmcid, version, path in article_files(bucket):
        record: dict[str, Any] = {"pmcid": pmcid, "version": version}
        try:
            record["units"] = count_article(path)
        except etree.XMLSyntaxError as error:
            record["error"] = str(error)
        yield record


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for record in count_bucket(Path(sys.argv[1])):
        print(json.dumps(record, ensure_ascii=False))


if __name__ == "__main__":
    main()
