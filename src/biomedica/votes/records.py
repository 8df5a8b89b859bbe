"""The nouns of a labelling round: who, what was said, what of it counts."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from biomedica.errors import ConfigError
from biomedica.records import Answer

Role = Literal["expert", "adjudicator"]
Kind = Literal["vote", "skip", "undo", "split", "adjudicate"]
Verdict = Literal["answered", "ambiguous", "mixed"]
Said = Literal["yes", "no", "unsure"]
ROLES: tuple[str, ...] = get_args(Role)
KINDS: tuple[str, ...] = get_args(Kind)
VERDICTS: tuple[str, ...] = get_args(Verdict)
SAID: tuple[str, ...] = get_args(Said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What a votes file is about; votes of another clustering mean nothing in it."""

    clustering: str
    """Name of the clustering."""
    model: str
    """Digest of its projection and centroids."""
    taxonomy: str
    """Version of the taxonomy that the round began with; each event states its own."""
    answers: int
    """Votes that are wanted for each cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expert:
    """A person with a link."""

    id: int
    name: str
    role: str
    """`expert` votes and sees no one else's votes; `adjudicator` sees all of them and doesn't vote."""
    created: str
    """UTC, ISO 8601."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that a person did about one cluster."""

    event: str
    """UUID made by the page: sent again, the event is stored once."""
    expert: int
    cluster: int
    kind: str
    """`vote`, `skip`, `undo` (takes back the person's last vote, skip or adjudication of the cluster),
    `split` or `adjudicate`."""
    payload: Mapping[str, Any]
    """JSON: `verdict`, `answer`, `outliers`, `shown`, `suggestions`, `seconds`, `reason`, `parts`,
    `children`, `taxonomy`, `model`, as the kind has them."""
    at: str = ""
    """UTC, ISO 8601; empty: now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What an expert says of a cluster, as it counts now."""

    expert: int
    cluster: int
    verdict: str
    answer: Answer
    """As given: not completed. Empty unless the verdict is `answered`."""
    outliers: tuple[str, ...]
    """Keys of images that don't belong here."""
    shown: tuple[str, ...]
    """Keys of the images that the expert saw."""
    seconds: float
    """That the cluster was in view before the answer."""
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What an adjudicator decided on a cluster, as it counts now."""

    expert: int
    cluster: int
    verdict: str
    answer: Answer
    reason: str
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """An expert's word on one image and one concept of its label."""

    event: str
    """UUID made by the page."""
    expert: int
    run: str
    """Name of the labels."""
    key: str
    concept: str
    answer: str
    """`yes`, `no` or `unsure`."""
    seconds: float
    at: str = ""
    """UTC, ISO 8601; empty: now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far one expert is."""

    num_done: int
    """Clusters with a vote of theirs that counts."""
    num_skipped: int
    """Clusters that they put off and that still want answers."""
    num_left: int
    """Clusters that still want an answer and that they have not answered; skipped ones included."""
    median_seconds: float | None
    """For a cluster; None before the first vote."""


def answer_to_json(answer: Answer) -> dict[str, Any]:
    """An answer as JSON."""
    return {
        "panel_type": answer.panel_type,
        "panel_subtype": answer.panel_subtype,
        "global_concepts": list(answer.global_concepts),
        "local_concepts": list(answer.local_concepts),
    }


def answer_from_json(content: Mapping[str, Any] | None) -> Answer:
    """The answer that `answer_to_json` wrote; an empty one for None."""
    found = content or {}
    return Answer(
        panel_type=found.get("panel_type"),
        panel_subtype=found.get("panel_subtype"),
        global_concepts=tuple(found.get("global_concepts", ())),
        local_concepts=tuple(found.get("local_concepts", ())),
    )


def check_event(event: Event) -> None:
    check_uuid(event.event)
    if event.kind not in KINDS:
        raise ConfigError(f"{event.kind!r} is no kind of event; {', '.join(KINDS)} would do")
    if not 0 <= event.cluster < 2**31:
        raise ConfigError(f"{event.cluster} is no cluster")
    if event.kind in ("vote", "adjudicate") and event.payload.get("verdict") not in VERDICTS:
        raise ConfigError(
            f"{event.payload.get('verdict')!r} is no verdict; {', '.join(VERDICTS)} would do"
        )
    if event.kind == "adjudicate" and not str(event.payload.get("reason") or "").strip():
        raise ConfigError("a decision needs a reason")


def check_uuid(text: str) -> None:
    try:
        known = str(uuid.UUID(text)) == text
    except ValueError:
        known = False
    if not known:
        raise ConfigError(f"{text!r} is no UUID in lower case, 8-4-4-4-12 digits")
