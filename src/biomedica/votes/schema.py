"""The tables of a votes file, how it is made, and how its rows become records."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from biomedica.votes.records import Audit, Event, Round, Settlement, Vote, answer_from_json

SCHEMA_VERSION = 1
APPLICATION = 0x42696F56
"""`BioV`: says that an SQLite file is a votes file."""
BUSY_SECONDS = 60.0
"""How long one writer waits for another."""

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE experts (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL CHECK (role IN ('expert', 'adjudicator')),
    created TEXT NOT NULL
);
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    event TEXT NOT NULL UNIQUE,
    at TEXT NOT NULL,
    expert INTEGER NOT NULL REFERENCES experts,
    cluster INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('vote', 'skip', 'undo', 'split', 'adjudicate')),
    payload TEXT NOT NULL CHECK (json_valid(payload))
);
CREATE INDEX events_of_expert ON events (expert, cluster, kind, id);
CREATE TABLE audits (
    id INTEGER PRIMARY KEY,
    event TEXT NOT NULL UNIQUE,
    at TEXT NOT NULL,
    expert INTEGER NOT NULL REFERENCES experts,
    run TEXT NOT NULL,
    key TEXT NOT NULL,
    concept TEXT NOT NULL,
    answer TEXT NOT NULL CHECK (answer IN ('yes', 'no', 'unsure', 'undo')),
    seconds REAL NOT NULL
);
CREATE TABLE handed (
    expert INTEGER NOT NULL REFERENCES experts,
    cluster INTEGER NOT NULL,
    at TEXT NOT NULL,
    PRIMARY KEY (expert, cluster)
) WITHOUT ROWID;
CREATE TABLE gold (cluster INTEGER PRIMARY KEY, answer TEXT NOT NULL CHECK (json_valid(answer)));
CREATE TRIGGER events_stay BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'events are only appended'); END;
CREATE TRIGGER events_remain BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'events are only appended'); END;
CREATE TRIGGER audits_stay BEFORE UPDATE ON audits
    BEGIN SELECT RAISE(ABORT, 'audits are only appended'); END;
CREATE TRIGGER audits_remain BEFORE DELETE ON audits
    BEGIN SELECT RAISE(ABORT, 'audits are only appended'); END;
"""


def use_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log; SQLite doesn't wait for others here, so this does."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def create(connection: sqlite3.Connection, wanted: Round) -> None:
    for statement in _statements(SCHEMA):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    set_meta(
        connection,
        clustering=wanted.clustering,
        model=wanted.model,
        taxonomy=wanted.taxonomy,
        answers=str(wanted.answers),
    )


def _statements(script: str) -> Iterator[str]:
    """Statements one by one: `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def set_meta(connection: sqlite3.Connection, **values: str) -> None:
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())


def read_round(connection: sqlite3.Connection) -> Round:
    found: dict[str, Any] = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    return Round(
        clustering=found["clustering"],
        model=found["model"],
        taxonomy=found["taxonomy"],
        answers=int(found["answers"]),
    )


def event_of(row: sqlite3.Row) -> Event:
    return Event(
        event=row["event"],
        expert=row["expert"],
        cluster=row["cluster"],
        kind=row["kind"],
        payload=json.loads(row["payload"]),
        at=row["at"],
    )


def vote_of(row: sqlite3.Row) -> Vote:
    payload = json.loads(row["payload"])
    return Vote(
        expert=row["expert"],
        cluster=row["cluster"],
        verdict=payload["verdict"],
        answer=answer_from_json(payload.get("answer")),
        outliers=tuple(payload.get("outliers", ())),
        shown=tuple(payload.get("shown", ())),
        seconds=float(payload.get("seconds", 0)),
        at=row["at"],
    )


def settlement_of(row: sqlite3.Row) -> Settlement:
    payload = json.loads(row["payload"])
    return Settlement(
        expert=row["expert"],
        cluster=row["cluster"],
        verdict=payload["verdict"],
        answer=answer_from_json(payload.get("answer")),
        reason=payload["reason"],
        at=row["at"],
    )


def audit_of(row: sqlite3.Row) -> Audit:
    found = dict(row)
    del found["id"]
    found.pop("moment", None)
    return replace(Audit(**found), seconds=float(row["seconds"]))
