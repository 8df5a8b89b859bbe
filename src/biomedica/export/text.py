"""Text that goes into YAML and Markdown, so that nothing in it is taken for markup."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_PLAIN = re.compile(r"[a-z_][a-z0-9_-]*")
_TAKEN = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
_SPACE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_ADDRESS = re.compile(r"(?i)\b(www)\.")
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_ESCAPES = {ord(mark): f"\\{mark}" for mark in "\\`*_[](){}#!|~@:$^"} | {
    ord("&"): "&amp;",
    ord("<"): "&lt;",
    ord(">"): "&gt;",
}


def markdown(text: object) -> str:
    """Text on one line of Markdown, shown as it is: no markup, HTML, link or table bar works.

    >>> print(markdown("a|b <script> [x](y) & *z*"))
    a\\|b &lt;script&gt; \\[x\\]\\(y\\) &amp; \\*z\\*
    """
    line = _SPACE.sub(" ", str(text)).strip().translate(_ESCAPES)
    return _ADDRESS.sub(r"\1\\.", line)


def code_block(text: str, language: str = "") -> str:
    """Text as a fenced block; the fence is longer than any in the text."""
    runs = [len(run) for run in re.findall("`+", text)]
    fence = "`" * max(3, *(length + 1 for length in runs), 3)
    clean = "".join(_INVISIBLE.sub("\ufffd", line) + "\n" for line in text.splitlines())
    return f"{fence}{language}\n{clean}{fence}"


def yaml(value: dict[str, Any]) -> str:
    """A mapping of plain values, lists and mappings as YAML, in the order given.

    >>> print(yaml({"name": "a: b", "parts": [{"size": 1}, {"size": None}], "none": []}), end="")
    name: "a: b"
    parts:
    - size: 1
    - size: null
    none: []
    """
    return "".join(f"{line}\n" for line in _mapping(value))


def _mapping(value: dict[str, Any]) -> Iterator[str]:
    for name, content in value.items():
        if isinstance(content, dict | list) and content:
            yield f"{_scalar(name)}:"
            lines = _mapping(content) if isinstance(content, dict) else _sequence(content)
            indent = "  " if isinstance(content, dict) else ""
            yield from (indent + line for line in lines)
        else:
            yield f"{_scalar(name)}: {_scalar(content)}"


def _sequence(value: list[Any]) -> Iterator[str]:
    for content in value:
        if isinstance(content, dict) and content:
            for number, line in enumerate(_mapping(content)):
                yield f"{'  ' if number else '- '}{line}"
        else:
            yield f"- {_scalar(content)}"


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value not in _TAKEN:
            return value
        return json.dumps(_INVISIBLE.sub("\ufffd", value), ensure_ascii=False)
    if value in ([], {}) or value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    raise TypeError(f"{type(value).__name__} has no place in a card")
