"""A votes file as JSON lines and back: for archives of a round, other tools, and eyes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from biomedica.errors import ConfigError
from biomedica.votes.records import Audit, Event, Expert, Round, answer_from_json, answer_to_json
from biomedica.votes.store import VoteStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """A cluster whose answer is known, as a line states it."""

    cluster: int
    answer: Mapping[str, Any]


Line = Round | Expert | Gold | Event | Audit

_TYPES: dict[str, type[Line]] = {
    "round": Round,
    "expert": Expert,
    "gold": Gold,
    "event": Event,
    "audit": Audit,
}
_JSON: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "Mapping[str, Any]": (dict,),
}
"""What JSON gives for a field."""


def export_events(store: VoteStore) -> Iterator[str]:
    """All that a votes file holds but leases, a JSON object a line, without line ends.

    Each has a `type`: first the `round`, then each `expert`, each `gold` cluster, each `event` and each
    `audit` in the order in which they were stored. Taken-back votes are there, with the events that
    took them back.
    """
    yield _line("round", asdict(store.round))
    for expert in store.experts():
        yield _line("expert", asdict(expert))
    for cluster, answer in store.gold().items():
        yield _line("gold", {"cluster": cluster, "answer": answer_to_json(answer)})
    for _, event in store.events():
        yield _line("event", asdict(event))
    for audit in store.all_audits():
        yield _line("audit", asdict(audit))


def _line(kind: str, content: dict[str, Any]) -> str:
    return json.dumps({"type": kind, **content}, ensure_ascii=False)


def import_events(
    lines: Iterable[str], path: Path, *, clustering: str | None = None, model: str | None = None
) -> int:
    """Put exported lines into a votes file, made where there is none; the number of events and audits
    that were new.

    clustering   name that the round must have; None: any
    model        digest that it must have; None: any

    Experts are found by name, so rounds of several machines can be put together; an event that is
    there already is not stored again, and a round that stands keeps the number of answers it wants.
    All or nothing: raises `ConfigError` for lines of another clustering, and for lines that are no
    export.
    """
    found = [_parsed(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found or not isinstance(found[0], Round):
        raise ConfigError("the first line states no round; an export of votes begins with it")
    wanted = found[0]
    for what, expected in (("clustering", clustering), ("model", model)):
        if expected is not None and getattr(wanted, what) != expected:
            raise ConfigError(
                f"these are votes on another clustering: {what} {getattr(wanted, what)!r}, not "
                f"{expected!r}. Import them into the archive and --name that they are about"
            )
    stands = path.is_file() and path.stat().st_size > 0
    with VoteStore.open(path, None if stands else wanted) as store:
        store.check_round(store.round, wanted)
        with store.together():
            return _put(store, found[1:])


def _put(store: VoteStore, found: Iterable[Line]) -> int:
    ids: dict[int, int] = {}
    gold = store.gold()
    num_new = 0
    for each in found:
        if isinstance(each, Expert):
            ids[each.id] = store.add_expert(each.name, each.role).id
        elif isinstance(each, Gold):
            gold[each.cluster] = answer_from_json(each.answer)
        elif isinstance(each, Round):
            raise ConfigError("a second line states a round; import one export at a time")
        elif each.expert not in ids:
            raise ConfigError(f"{each.event} is of expert {each.expert}, whom no line names")
        elif isinstance(each, Event):
            num_new += store.record(replace(each, expert=ids[each.expert]))
        else:
            num_new += store.record_audit(replace(each, expert=ids[each.expert]))
    store.set_gold(gold)
    return num_new


def _parsed(number: int, line: str) -> Line:
    try:
        content = json.loads(line)
        kind = content.pop("type")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(f"line {number} is no line of an export: {line.strip()[:60]!r}") from None
    if not isinstance(kind, str) or kind not in _TYPES:
        raise ConfigError(f"line {number} is of type {kind!r}; known are {', '.join(_TYPES)}")
    try:
        return _checked(_TYPES[kind], content)
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"line {number}: {error}") from None


def _checked(kind: type[Line], content: dict[str, Any]) -> Line:
    """The record that a line states, with its times in UTC."""
    wanted = {each.name: _JSON[str(each.type)] for each in fields(kind)}
    if odd := wanted.keys() ^ content.keys():
        raise ConfigError(f"fields that lack or are unknown: {', '.join(sorted(odd))}")
    for name, types in wanted.items():
        value = content[name]
        if not isinstance(value, types) or isinstance(value, bool):
            raise ConfigError(f"{name} cannot be {json.dumps(value)[:60]}")
    if "at" in content:
        moment = datetime.fromisoformat(content["at"])
        if moment.tzinfo is None:
            raise ConfigError(f"at: {content['at']!r} states no offset to UTC")
        content["at"] = moment.astimezone(UTC).isoformat()
    found = kind(**content)
    if isinstance(found, Event):
        _check_payload(found.payload)
    if isinstance(found, Gold):
        _check_answer(found.answer)
    return found


def _check_payload(payload: Mapping[str, Any]) -> None:
    """What a vote or a decision is read from later has the types that are read."""
    if payload.get("answer") is not None:
        _check_answer(payload["answer"])
    for name in ("outliers", "shown"):
        if not _is_words(payload.get(name, [])):
            raise ConfigError(f"{name} is no list of keys")
    seconds = payload.get("seconds", 0)
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise ConfigError("seconds is no number")


def _check_answer(answer: Any) -> None:
    if not isinstance(answer, dict):
        raise ConfigError("answer is no object")
    for name in ("panel_type", "panel_subtype"):
        if not isinstance(answer.get(name), str | None):
            raise ConfigError(f"answer.{name} is no word")
    for name in ("global_concepts", "local_concepts"):
        if not _is_words(answer.get(name, [])):
            raise ConfigError(f"answer.{name} is no list of words")


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
