"""Which text goes with a picture: the caption, without its label, a paragraph that cites the figure, both.

caption         the caption as it is
bare            the caption without a leading "Figure 2." or the figure's own label
mention         one of the paragraphs that cite the figure, by chance; the caption where there is none
context         the caption, then the paragraphs that cite the figure, the first ones by chance; the
                tokenizer cuts it at the model's context length
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomedica.errors import ArchiveError, ConfigError
from biomedica.foreign.fields import BadFactsError, read_facts

POLICIES = ("caption", "bare", "mention", "context")
DRAWS_PER_TEXT = 2
_LABEL = re.compile(
    r"\A\s*(?i:(?:supplementary|extended\s+data)\s+)?"
    r"(?i:fig(?:ure)?s?|tables?|schemes?|charts?|plates?|box|graph)\.?\s*[A-Z]?\d+(?:\.\d{1,2})?[A-Za-z]?"
    r"(?:\s?[–-]\s?[A-Z]?\d+[A-Za-z]?|[–-][A-Za-z](?![A-Za-z]))?"  # of several: 2-4, 1A–C
    r"\s*(?:[.:|)\]–—-]+(?!\d)\s*|(?<=\s)(?=[A-Z(]))"
)
_BREAKS = ".:|)]–—-"
"""What may stand between a label and a caption."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSettings:
    """Which texts a picture is trained with."""

    policies: tuple[str, ...] = ("caption",)
    """`caption`, `bare`, `mention`, `context` (see the page on training)."""
    weights: tuple[float, ...] = ()
    """How often each is taken; equally often by default."""
    per_image: int = 1
    """Texts that a picture gets in one batch, each chosen anew."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.policies if name not in POLICIES]
        if unknown or not self.policies:
            raise ConfigError(
                f"texts.policies is {list(self.policies)}; known are {', '.join(POLICIES)}"
            )
        if self.weights and len(self.weights) != len(self.policies):
            raise ConfigError(
                f"texts.weights has {len(self.weights)} numbers for {len(self.policies)} policies"
            )
        if any(weight < 0 for weight in self.weights) or (self.weights and sum(self.weights) <= 0):
            raise ConfigError("texts.weights must be 0 or more, and not all 0")
        if self.per_image < 1:
            raise ConfigError(f"texts.per_image is {self.per_image}; at least 1 is expected")

    @property
    def needs_json(self) -> bool:
        """Whether more of a sample than its caption is read."""
        return self.policies != ("caption",)

    @property
    def num_draws(self) -> int:
        """Random numbers that a sample takes."""
        return DRAWS_PER_TEXT * self.per_image


def texts_of(
    key: str,
    caption: str,
    meta: bytes | memoryview | None,
    draws: NDArray[np.float64],
    settings: TextSettings,
) -> list[str]:
    """`settings.per_image` texts of one sample.

    meta    its JSON member, where `settings.needs_json`
    draws   (num_draws,) random numbers in [0, 1)
    """
    if not settings.needs_json:
        return [caption] * settings.per_image
    facts = _facts(key, meta)
    weights = settings.weights or (1.0,) * len(settings.policies)
    edges = np.cumsum(weights) / sum(weights)
    found = []
    for choice, which in draws.reshape(-1, DRAWS_PER_TEXT).tolist():
        number = min(int(np.searchsorted(edges, choice, side="right")), len(edges) - 1)
        found.append(_text(settings.policies[number], caption, facts, which))
    return found


def facts_of(key: str, meta: bytes | memoryview | None) -> dict[str, Any]:
    """A JSON member's content. Raises `ArchiveError` for what is no JSON object."""
    try:
        return dict(json.loads(bytes(meta or b"")))
    except (ValueError, TypeError) as error:
        raise ArchiveError(f"the JSON of {key} cannot be read: {error}") from None


def _facts(key: str, meta: bytes | memoryview | None) -> dict[str, Any]:
    facts = facts_of(key, meta)
    if isinstance(facts.get("mentions"), list):
        return facts
    raise ArchiveError(
        f"the JSON of {key} holds no mentions: texts other than 'caption' need samples that this program wrote"
    )


def _text(policy: str, caption: str, facts: dict[str, Any], which: float) -> str:
    if policy == "caption":
        return caption
    if policy == "bare":
        return without_label(caption, facts.get("figure_label"))
    mentions = [str(mention["text"]) for mention in facts["mentions"]]
    if not mentions:
        return caption
    first = int(which * len(mentions))
    if policy == "mention":
        return mentions[first]
    return " ".join([caption, *mentions[first:], *mentions[:first]])


def without_label(caption: str, label: str | None) -> str:
    """A caption without its figure's label in front; all of it where nothing else would be left.

    >>> without_label("Figure 2. Chest film.", None), without_label("F1 Chest film.", "F1")
    ('Chest film.', 'Chest film.')
    """
    rest = _after(label, caption) if label else None
    return (_LABEL.sub("", caption, count=1) if rest is None else rest) or caption


def _after(label: str, caption: str) -> str | None:
    """What follows a figure's own label; None where the caption only happens to begin alike (`1` and
    "1H NMR spectrum")."""
    rest = caption.removeprefix(label)
    is_whole = rest != caption and not rest[:1].isalnum()
    is_sure = any(map(str.isdigit, label)) and any(map(str.isalpha, label))
    if not is_whole or not (is_sure or rest.lstrip()[:1] in _BREAKS):
        return None
    return rest.lstrip(_BREAKS + " \t\n")


def decoded(key: str, caption: bytes | memoryview) -> str:
    """A caption member as text. Raises `ArchiveError` for bytes that are no UTF-8."""
    try:
        return str(caption, "utf-8")
    except UnicodeDecodeError as error:
        raise ArchiveError(f"the caption of {key} is no UTF-8: {error}") from None


def caption_in(key: str, meta: bytes | memoryview) -> str:
    """The caption of a sample that has no caption file: in its JSON."""
    try:
        caption = str(read_facts(bytes(meta)).columns["caption"])
    except BadFactsError as error:
        raise ArchiveError(f"the JSON of {key} cannot be read: {error}") from None
    if not caption:
        raise ArchiveError(f"{key} has no caption, neither in a file of its own nor in its JSON")
    return caption
