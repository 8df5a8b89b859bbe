"""The golden cases: folders `tests/golden/<name>` with an `article.xml` and an `expected.json`.

What is expected is written as a reader would: nothing that is empty, dates as `2019-06-12`, and the
citing words of a mention between brackets: "Cells spread (⟦Fig. 1⟧)." stands for the text without
brackets and the span of "Fig. 1". An `expected.json` holds one of three things:

- some keys of an `Article`, at any depth: these are compared and others are not; a null or an empty
  list says that nothing may be found; a list is compared in full, entry by entry;
- `"whole_article": true` and every key that is not empty: all is compared;
- `"error"`, the name of the exception that the input raises.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from biomedica.parse import NotAnArticleError, parse_article
from biomedica.records import Mention

GOLDEN = Path(__file__).parent / "golden"
OPEN, CLOSE = "⟦⟧"
WHOLE = "whole_article"


def case_names() -> list[str]:
    """Every case, sorted."""
    return sorted(path.parent.name for path in GOLDEN.glob("*/article.xml"))


def read_input(name: str) -> bytes:
    return (GOLDEN / name / "article.xml").read_bytes()


def read_expected(name: str) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((GOLDEN / name / "expected.json").read_text("utf-8"))
    return expected


def write_expected(name: str, expected: dict[str, Any]) -> None:
    text = json.dumps(expected, indent=2, ensure_ascii=False) + "\n"
    (GOLDEN / name / "expected.json").write_text(text, "utf-8")


def found(name: str) -> dict[str, Any]:
    """What the parser makes of a case, without what is empty; or `error`."""
    try:
        rendered = render(parse_article(read_input(name)))
    except (NotAnArticleError, etree.XMLSyntaxError) as error:
        return {"error": type(error).__name__}
    assert isinstance(rendered, dict)
    return rendered


def render(value: object) -> object:
    """A record as JSON holds it: no empty values, dates as text, mentions with brackets.

    >>> from biomedica.records import Span
    >>> mention = Mention(text="See Fig. 1.", section=None, spans=(Span(4, 10),))
    >>> render(mention)
    {'text': 'See ⟦Fig. 1⟧.'}
    """
    if isinstance(value, Mention):
        bracketed = {"text": bracket(value), "section": value.section}
        return {name: part for name, part in bracketed.items() if part is not None}
    if is_dataclass(value):
        parts = {field.name: render(getattr(value, field.name)) for field in fields(value)}
        return {name: part for name, part in parts.items() if part not in (None, [], "")}
    if isinstance(value, tuple):
        return [render(part) for part in value]
    return value.isoformat() if isinstance(value, date) else value


def bracket(mention: Mention) -> str:
    """The text of a mention with brackets around its spans."""
    parts, last = [], 0
    for span in mention.spans:
        parts += [mention.text[last : span.start], OPEN, mention.text[span.start : span.end], CLOSE]
        last = span.end
    return "".join([*parts, mention.text[last:]])


def select(value: Any, pattern: Any) -> Any:
    """The part of `value` that `pattern` speaks of, in the pattern's own shape.

    >>> select({"title": "A", "figures": [{"label": "1", "kind": "fig"}]}, {"figures": [{"label": ""}]})
    {'figures': [{'label': '1'}]}
    >>> select({}, {"title": None, "figures": []})
    {'title': None, 'figures': []}
    """
    if isinstance(pattern, dict) and isinstance(value, dict):
        return {name: select(value.get(name), part) for name, part in pattern.items()}
    if isinstance(pattern, list):
        value = value or []
        shapes = pattern + [_union(pattern)] * (len(value) - len(pattern))
        return [select(part, shape) for part, shape in zip(value, shapes, strict=False)]
    return value


def _union(patterns: list[Any]) -> Any:
    """A pattern for an entry that none was written for: the keys of all the others."""
    union: dict[str, Any] = {}
    for pattern in patterns:
        if isinstance(pattern, dict):
            union |= pattern
    return union or None


def actual(name: str, expected: dict[str, Any]) -> dict[str, Any]:
    """What `expected.json` would hold if the parser were right."""
    result = found(name)
    if expected.get(WHOLE):
        return {WHOLE: True, **result}
    return result if "error" in result else select(result, expected)


def parameters(names: Iterable[str], faults: Mapping[str, str]) -> list[Any]:
    """Names as parameters of a test; those of known faults (name and fault) must fail."""
    return [
        pytest.param(name, marks=pytest.mark.xfail(reason=faults[name], strict=True))
        if name in faults
        else name
        for name in names
    ]
