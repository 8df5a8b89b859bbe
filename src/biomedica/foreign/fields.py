"""What the JSON of a sample says, in our columns: BIOMEDICA's published form, our own, any other.

Nothing is made up. What a form does not state is null; columns that must have a value have that of
`UNSTATED`, which no article has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from biomedica.records import licence_group
from biomedica.shards import ARTICLES, FIGURES, OFFSETS

UNSTATED: dict[str, Any] = {
    "pmcid": "",
    "version": 0,
    "is_retracted": False,
    "is_manuscript": False,
    "is_historical_ocr": False,
    "figure_kind": "unknown",
    "figure_position": -1,
    "graphic_position": -1,
    "num_graphics": 0,
}
"""Of columns that are never null, where the JSON says nothing. Empty `pmcid`: no article is known, and
each such sample counts as an article of its own."""

_PMCID = re.compile(r"PMC\d{1,18}")
_PICTURE = ("width", "height", "source_format", "source_bytes", "source_md5", "transform")
_PICTURE_FACTS = (*_PICTURE, "sha256", "phash")
_FACTS = [each for each in FIGURES if each.name not in OFFSETS | {"key", *_PICTURE_FACTS}]
_ARTICLE = [each for each in ARTICLES if each.name in FIGURES.names]
_MORE = [each for each in ARTICLES if each.name not in (*FIGURES.names, "num_figures")]
_OWN_FORM = frozenset({"key", "pmcid", "version", "licence_group", "sha256", "phash", "caption"})
_PUBLISHED_FORM = frozenset({"article_accession_id", "image_cluster_id", "image_context"})


class BadFactsError(Exception):
    """The JSON is damaged, or a column of ours has another type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What a sample's JSON says that its picture shows, as it says it."""

    is_own: bool
    """In ids of our taxonomy; else in published names."""
    cluster: int | None
    status: str | None
    panel_type: str | None
    panel_subtype: str | None
    global_classes: tuple[str, ...]
    local_classes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a sample's JSON says."""

    columns: dict[str, Any]
    """Of the figures table: all but key, places and facts of the picture. `caption` may be ""."""
    more: dict[str, Any] = field(default_factory=dict)
    """Of the articles table alone."""
    label: Label | None = None
    picture: dict[str, Any] = field(default_factory=dict)
    """Of our own form: what it says of the picture with its `sha256`."""


def article_row(facts: Facts) -> dict[str, Any]:
    """A row of the articles table; `num_figures` is left to count."""
    shared = {each.name: facts.columns[each.name] for each in _ARTICLE}
    return {**shared, **_blank(_MORE), **facts.more, "num_figures": 0}


def _blank(columns: list[pa.Field]) -> dict[str, Any]:
    return {
        each.name: None
        if each.nullable
        else []
        if pa.types.is_list(each.type)
        else UNSTATED.get(each.name, "")
        for each in columns
    }


def read_facts(data: bytes | None, *, with_text: bool = False) -> Facts:
    """What a JSON member says. None: there is no such member. Raises `BadFactsError`.

    with_text   keep the article's full text where the JSON has it
    """
    content = None if data is None else _content(data)
    if not isinstance(content, dict):
        return _other({})
    try:
        if content.keys() >= _OWN_FORM:
            return _own(content)
        if content.keys() & _PUBLISHED_FORM:
            return _published(content, with_text)
        return _other(content)
    except RecursionError:
        raise BadFactsError("the JSON is nested too deep") from None


def _content(data: bytes) -> Any:
    try:
        content = json.loads(data)
        if rb"\ud" in data.lower():  # half of a pair of UTF-16 is no character
            json.dumps(content, ensure_ascii=False).encode()
        return content
    except (ValueError, RecursionError) as error:
        raise BadFactsError(f"the JSON cannot be read: {type(error).__name__}") from None


def _with_group(columns: dict[str, Any]) -> dict[str, Any]:
    return columns | {"licence_group": licence_group(columns["license_code"]).value}


def _other(content: Mapping[str, Any]) -> Facts:
    caption, pmcid = content.get("caption"), pmcid_of(content.get("pmcid"))
    columns = _blank(_FACTS) | {"caption": caption if isinstance(caption, str) else ""}
    return Facts(columns=_with_group(columns | {"pmcid": pmcid}))


def pmcid_of(value: Any) -> str:
    """`PMC<digits>`, or "" for anything else."""
    return value if isinstance(value, str) and _PMCID.fullmatch(value) else UNSTATED["pmcid"]


# our own form


def _own(content: Mapping[str, Any]) -> Facts:
    columns = _blank(_FACTS)
    for each in _FACTS:
        value = content.get(each.name)
        if value is not None:
            columns[each.name] = _own_value(each.name, value, each.type)
    if pmcid_of(columns["pmcid"]) != columns["pmcid"]:
        raise BadFactsError(f"pmcid is {columns['pmcid'][:40]!r}")
    picture = {}
    for each in FIGURES:
        if each.name in _PICTURE_FACTS and each.name != "phash":
            picture[each.name] = _own_value(each.name, content.get(each.name), each.type)
    picture["phash"] = _hash_of(content["phash"])
    return Facts(columns=_with_group(columns), picture=picture, label=_own_label(content))


def _own_value(name: str, value: Any, kind: pa.DataType) -> Any:
    if kind == pa.date32():
        try:
            return date.fromisoformat(value)
        except (TypeError, ValueError):
            raise BadFactsError(f"{name} is {value!r:.40}; a date is expected") from None
    if not _fits(value, kind):
        raise BadFactsError(f"{name} is {value!r:.40}; {kind} is expected")
    return value


def _hash_of(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{16}", value):
        return int(value, 16)
    raise BadFactsError(f"phash is {value!r:.40}; 16 hex digits are expected")


def _fits(value: Any, kind: pa.DataType) -> bool:
    """Whether a JSON value may stand in a column."""
    if pa.types.is_list(kind):
        return isinstance(value, list) and all(_fits(each, kind.value_type) for each in value)
    if pa.types.is_struct(kind):
        names = {kind.field(at).name: kind.field(at).type for at in range(kind.num_fields)}
        return (
            isinstance(value, dict)
            and value.keys() == names.keys()
            and all(value[name] is None or _fits(value[name], names[name]) for name in names)
        )
    if pa.types.is_boolean(kind):
        return isinstance(value, bool)
    if pa.types.is_integer(kind):
        limit = 1 << (kind.bit_width - 1)
        return isinstance(value, int) and not isinstance(value, bool) and -limit <= value < limit
    return isinstance(value, str)


def _own_label(content: Mapping[str, Any]) -> Label | None:
    """What an export adds where its view had labels."""
    if "label_status" not in content or "global_concepts" not in content:
        return None
    return Label(
        is_own=True,
        cluster=_cluster(content.get("cluster")),
        status=_text(content["label_status"]),
        panel_type=_text(content.get("panel_type")),
        panel_subtype=_text(content.get("panel_subtype")),
        global_classes=tuple(_texts(content["global_concepts"])),
        local_classes=tuple(_texts(content.get("local_concepts"))),
    )


# the published form


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value not in ("", "None") else None


def _texts(value: Any) -> list[str]:
    """Every text in a value: published lists are nested, single texts, dictionaries or null."""
    if isinstance(value, str):
        return [value] if value else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for each in inner for text in _texts(each)]


def _cluster(value: Any) -> int | None:
    text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _day(value: Any) -> date | None:
    """Day in UTC of Unix seconds. The published ones are midnights of the zone of their writer's machine."""
    text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not re.fullmatch(r"-?\d{1,10}", text, re.ASCII):
        return None
    return datetime.fromtimestamp(int(text), UTC).date()


def _references(value: Any) -> list[dict[str, Any]]:
    found = []
    for each in value if isinstance(value, list) else ():
        if isinstance(each, dict):
            ids = each.get("ArticleIdList")
            inner = ids.get("ArticleId") if isinstance(ids, dict) else ids
            inner = inner if isinstance(inner, list) else [inner]
            known = {i.get("@IdType"): i.get("#text") for i in inner if isinstance(i, dict)}
            pmid = _cluster(known.get("pubmed"))
            text = _text(each.get("Citation"))
            found.append({"pmid": pmid, "doi": _text(known.get("doi")), "text": text})
    return found


PUBLISHED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "pmcid": ("article_accession_id", pmcid_of),
    "title": ("article_title", _text),
    "journal": ("article_journal", _text),
    "published": ("article_date", _day),
    "license_code": ("article_license", _text),
    "keywords": ("article_keywords", _texts),
    "subjects": ("article_subject", _texts),
    "mesh_terms": ("article_mesh_terms", _texts),
    "file_name": ("image_file_name", lambda value: _text(value) or ""),
}
"""Our column: the published field, and how it is read. Of the others, `mentions` and `figure_position` are
found in `image_context` and `image_set`; the picture's facts are taken from the picture."""
PUBLISHED_ARTICLE: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "citation": ("article_citation", _text),
    "abstract": ("article_abstract", _text),
    "references": ("article_reference_ids", _references),
}
"""The same, of the articles table alone; `body_text` is `article_text` where it is asked for."""


def _published(content: Mapping[str, Any], with_text: bool) -> Facts:
    columns = _blank(_FACTS)
    for name, (source, read) in PUBLISHED.items():
        columns[name] = read(content.get(source))
    position, caption = _place_in_set(content)
    columns |= {"figure_position": position, "mentions": _mentions(content), "caption": caption}
    more = {name: read(content.get(source)) for name, (source, read) in PUBLISHED_ARTICLE.items()}
    if with_text:
        more["body_text"] = _text(content.get("article_text")) or ""
    return Facts(columns=_with_group(columns), more=more, label=_published_label(content))


def _place_in_set(content: Mapping[str, Any]) -> tuple[int, str]:
    """(place among the article's images, caption there), or what stands for neither."""
    images, own = content.get("image_set"), content.get("image_cluster_id")
    for position, each in enumerate(images if isinstance(images, list) else ()):
        if isinstance(each, dict) and own is not None and each.get("image_id") == own:
            return position, _text(each.get("caption")) or ""
    return UNSTATED["figure_position"], ""


def _mentions(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Paragraphs that cite this image; where in them is not published."""
    context, own = content.get("image_context"), content.get("image_cluster_id")
    if isinstance(context, str):
        try:
            context = json.loads(context)
        except (ValueError, RecursionError):
            return []
    found = context.get(own) if isinstance(context, dict) and isinstance(own, str) else None
    return [{"text": text, "section": None, "spans": []} for text in _texts(found)]


def _published_label(content: Mapping[str, Any]) -> Label | None:
    found = Label(
        is_own=False,
        cluster=_cluster(content.get("image_label_id")),
        status=None,
        panel_type=_text(content.get("image_panel_type")),
        panel_subtype=_text(content.get("image_panel_subtype")),
        global_classes=tuple(_texts(content.get("image_primary_label"))),
        local_classes=tuple(_texts(content.get("image_secondary_label"))),
    )
    said = (found.panel_type, found.panel_subtype, found.global_classes, found.local_classes)
    return found if any(said) else None
