"""A votes file as JSON lines and back: for archives of a round, other tools, and eyes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from biomedica.errors import ConfigError
from biomedica.votes.records import Audit, Event, Round, answer_from_json, answer_to_json
from biomedica.votes.store import VoteStore

_TYPES = ("round", "expert", "gold", "event", "audit")


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


def import_events(lines: Iterable[str], path: Path) -> int:
    """Put exported lines into a votes file, made where there is none; the number of events and audits
    that were new.

    Experts are found by name, so rounds of several machines can be put together; an event that is
    there already is not stored again. Raises `ConfigError` for lines of another clustering, and for
    lines that are no export.
    """
    found = [_parsed(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found or found[0][0] != "round":
        raise ConfigError("the first line states no round; an export of votes begins with it")
    with VoteStore.open(path, Round(**found[0][1])) as store:
        try:
            return _put(store, found[1:])
        except (KeyError, TypeError) as error:
            raise ConfigError(f"a line of the export lacks or misnames a field: {error}") from None


def _put(store: VoteStore, found: list[tuple[str, dict[str, Any]]]) -> int:
    ids: dict[int, int] = {}
    gold = store.gold()
    num_new = 0
    for kind, content in found:
        if kind == "expert":
            ids[content["id"]] = store.add_expert(content["name"], content["role"]).id
        elif kind == "gold":
            gold[content["cluster"]] = answer_from_json(content["answer"])
        elif kind == "event":
            num_new += store.record(Event(**content | {"expert": ids[content["expert"]]}))
        elif kind == "audit":
            num_new += store.record_audit(Audit(**content | {"expert": ids[content["expert"]]}))
    store.set_gold(gold)
    return num_new


def _parsed(number: int, line: str) -> tuple[str, dict[str, Any]]:
    try:
        content = json.loads(line)
        kind = content.pop("type")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"line {number} is no line of an export: {line.strip()[:60]!r}") from None
    if kind not in _TYPES:
        raise ConfigError(f"line {number} is of type {kind!r}; known are {', '.join(_TYPES)}")
    return kind, content
