"""The votes file: SQLite, WAL, every commit on the disk before it is acknowledged."""

from __future__ import annotations

import json
import queue as queues
import sqlite3
import statistics
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from biomedica.archive import Archive
from biomedica.errors import ArchiveError, ConfigError
from biomedica.records import Answer
from biomedica.votes.queue import Standing, choose, num_left
from biomedica.votes.records import (
    ROLES,
    SAID,
    Audit,
    Event,
    Expert,
    Progress,
    Round,
    Settlement,
    Vote,
    answer_from_json,
    answer_to_json,
    check_event,
    check_uuid,
)
from biomedica.votes.schema import (
    APPLICATION,
    BUSY_SECONDS,
    SCHEMA_VERSION,
    audit_of,
    create,
    event_of,
    read_round,
    set_meta,
    settlement_of,
    use_wal,
    vote_of,
)

_COUNTING = "('vote', 'skip', 'undo')"

_WHEN = "(at || printf('%019d', id))"
"""Sorts by time, then by number: what came from another machine has a later number, not a later time."""

_LAST = f"""
SELECT max({_WHEN}) AS moment, id, expert, cluster, kind, at, payload FROM events
WHERE kind IN {_COUNTING} GROUP BY expert, cluster
"""
"""Each expert's last word on each cluster (SQLite takes the other columns from the row of the maximum)."""


def utc_now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def votes_path(archive: Archive, name: str) -> Path:
    """Where the votes on a clustering are."""
    return archive.root / "votes" / f"{name}.sqlite"


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).split())


class VoteStore:
    """A votes file that is open. Threads and processes may share it; close it, or use it with `with`."""

    def __init__(self, path: Path, clock: Callable[[], datetime] = utc_now) -> None:
        """Use `open`."""
        self.path = path
        self._clock = clock
        self._open = threading.local()
        self._idle: queues.SimpleQueue[sqlite3.Connection] = queues.SimpleQueue()

    @classmethod
    def open(
        cls, path: Path, wanted: Round | None = None, clock: Callable[[], datetime] = utc_now
    ) -> Self:
        """Open a votes file.

        wanted   the round that it has to be of. The file is made where there is none, and the number of
                 answers that are wanted is taken from here. None: whatever round it is of

        Raises `ConfigError` for votes of another clustering or model, for a file that is no votes file
        or was written by a newer version, and where there is none and no round.
        """
        if wanted is None and not path.is_file():
            raise ConfigError(f"{path}: no votes yet; `biomedica label` collects them")
        path.parent.mkdir(parents=True, exist_ok=True)
        store = cls(path, clock)
        try:
            store._prepare(wanted)
        except sqlite3.DatabaseError as error:
            store.close()
            raise ConfigError(f"{path} is no votes file: {error}") from None
        except BaseException:
            store.close()
            raise
        return store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that no thread is using."""
        while True:
            try:
                self._idle.get_nowait().close()
            except queues.Empty:
                return

    def _connect(self) -> sqlite3.Connection:
        found = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        found.row_factory = sqlite3.Row
        found.execute("PRAGMA foreign_keys = ON")
        found.execute("PRAGMA synchronous = FULL")
        return found

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            found = self._idle.get_nowait()
        except queues.Empty:
            found = self._connect()
        try:
            yield found
        except BaseException:
            found.close()
            raise
        self._idle.put(found)

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that this thread stores within is one transaction: an exception stores nothing of it."""
        with self._transaction(writes=True) as connection:
            self._open.connection = connection
            try:
                yield
            finally:
                self._open.connection = None

    @contextmanager
    def _transaction(self, writes: bool = False) -> Iterator[sqlite3.Connection]:
        """All or nothing; on the disk when it ends."""
        within: sqlite3.Connection | None = getattr(self._open, "connection", None)
        if within is not None:
            yield within
            return
        with self._connection() as connection:
            try:
                connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
                yield connection
                connection.execute("COMMIT")
            except sqlite3.OperationalError as error:
                raise ArchiveError(f"{self.path} cannot be used: {error}") from error

    def _prepare(self, wanted: Round | None) -> None:
        with closing(self._connect()) as connection:
            connection.execute("BEGIN")  # one state of the file: another process may be making it
            self._check_kind(connection)
            connection.execute("COMMIT")
            use_wal(connection)
            connection.execute("BEGIN IMMEDIATE")
            version = self._check_kind(connection)
            if not version:
                if wanted is None:
                    raise ConfigError(f"{self.path} is no votes file: it is empty")
                create(connection, wanted)
            elif wanted is not None:
                self.check_round(read_round(connection), wanted)
                set_meta(connection, answers=str(wanted.answers))
            connection.execute("COMMIT")

    def _check_kind(self, connection: sqlite3.Connection) -> int:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and application != APPLICATION:
            raise ConfigError(f"{self.path} is an SQLite file, but no votes file")
        if version > SCHEMA_VERSION:
            raise ConfigError(
                f"{self.path} has schema {version}; this program reads up to {SCHEMA_VERSION}. Use the "
                "version of biomedica that wrote it"
            )
        return version

    def check_round(self, found: Round, wanted: Round) -> None:
        """Raises `ConfigError` where two rounds are not of the same clusters."""
        for what in ("clustering", "model"):
            if getattr(found, what) != getattr(wanted, what):
                raise ConfigError(
                    f"{self.path} holds votes on clustering {found.clustering!r}, model "
                    f"{found.model[:12]}, not on {wanted.clustering!r}, model {wanted.model[:12]}. "
                    "Votes on other clusters mean nothing here: label the clustering that they are "
                    "about, or cluster under a new --name"
                )

    @property
    def round(self) -> Round:
        """What the votes are about."""
        with self._transaction() as connection:
            return read_round(connection)

    def experts(self) -> list[Expert]:
        """Everybody with a link, in the order in which they were added."""
        with self._transaction() as connection:
            rows = connection.execute("SELECT * FROM experts ORDER BY id").fetchall()
        return [Expert(**dict(row)) for row in rows]

    def add_expert(self, name: str, role: str = "expert") -> Expert:
        """Add a person; somebody of that name is returned as they are.

        Names are compared in Unicode's form NFKC. Raises `ConfigError` for a name that is empty, over 80
        characters or has one that does not show, for an unknown role, and where the name has the other
        role.
        """
        name = _plain(name)
        if not name or len(name) > 80 or any(unicodedata.category(c)[0] == "C" for c in name):
            raise ConfigError(f"{name!r} is no name; 1 to 80 characters that show would do")
        if role not in ROLES:
            raise ConfigError(f"unknown role {role!r}; {' or '.join(ROLES)} would do")
        with self._transaction(writes=True) as connection:
            rows = connection.execute("SELECT * FROM experts ORDER BY id").fetchall()
            row = next((each for each in rows if _plain(each["name"]) == name), None)
            if row is None:
                row = connection.execute(
                    "INSERT INTO experts (name, role, created) VALUES (?, ?, ?) RETURNING *",
                    (name, role, self._now()),
                ).fetchone()
        if row["role"] != role:
            raise ConfigError(f"{name!r} is {row['role']} of this round; choose another name")
        return Expert(**dict(row))

    def set_gold(self, answers: Mapping[int, Answer]) -> None:
        """The clusters whose answer is known, and no others."""
        with self._transaction(writes=True) as connection:
            connection.execute("DELETE FROM gold")
            rows = [(each, json.dumps(answer_to_json(answers[each]))) for each in sorted(answers)]
            connection.executemany("INSERT INTO gold VALUES (?, ?)", rows)

    def gold(self) -> dict[int, Answer]:
        """Known answers by cluster."""
        with self._transaction() as connection:
            rows = connection.execute("SELECT * FROM gold ORDER BY cluster").fetchall()
        return {row["cluster"]: answer_from_json(json.loads(row["answer"])) for row in rows}

    def record(self, event: Event) -> bool:
        """Store an event; False where it was stored before.

        When it returns, the event is on the disk. Raises `ConfigError` for an event that can't be
        meant: an unknown kind, verdict or expert, no UUID, or the UUID of another event.
        """
        check_event(event)
        payload = json.dumps(dict(event.payload), ensure_ascii=False, sort_keys=True)
        with self._transaction(writes=True) as connection:
            self._check_expert(connection, event.expert)
            old = connection.execute(
                "SELECT expert, cluster, kind FROM events WHERE event = ?", (event.event,)
            ).fetchone()
            if old is not None:
                if tuple(old) != (event.expert, event.cluster, event.kind):
                    raise ConfigError(f"event {event.event} was stored before, as something else")
                return False
            connection.execute(
                "INSERT INTO events (event, at, expert, cluster, kind, payload) VALUES (?,?,?,?,?,?)",
                (
                    event.event,
                    event.at or self._now_after(connection, event),
                    event.expert,
                    event.cluster,
                    event.kind,
                    payload,
                ),
            )
            self._move_lease(connection, event)
        return True

    def _now_after(self, connection: sqlite3.Connection, event: Event) -> str:
        """Now, but not before what the expert said of the cluster so far, should a clock be wrong."""
        row = connection.execute(
            "SELECT ifnull(max(at), '') FROM events WHERE expert = ? AND cluster = ?",
            (event.expert, event.cluster),
        ).fetchone()
        return max(self._now(), str(row[0]))

    def _move_lease(self, connection: sqlite3.Connection, event: Event) -> None:
        """What was answered is handed back; what was taken back is handed out again at once."""
        role = connection.execute("SELECT role FROM experts WHERE id = ?", (event.expert,))
        if event.kind == "undo" and role.fetchone()[0] == "expert":
            connection.execute("DELETE FROM handed WHERE expert = ?", (event.expert,))
            self._hand(connection, event.expert, event.cluster)
        else:
            connection.execute(
                "DELETE FROM handed WHERE expert = ? AND cluster = ?", (event.expert, event.cluster)
            )

    def _hand(self, connection: sqlite3.Connection, expert: int, cluster: int) -> None:
        connection.execute(
            "INSERT OR REPLACE INTO handed VALUES (?, ?, ?)", (expert, cluster, self._now())
        )

    def _check_expert(self, connection: sqlite3.Connection, expert: int) -> None:
        found = connection.execute("SELECT 1 FROM experts WHERE id = ?", (expert,)).fetchone()
        if found is None:
            raise ConfigError(f"{self.path} knows no expert {expert}")

    def events(self, after: int = 0) -> list[tuple[int, Event]]:
        """(number, event) in the order in which they were stored. after   a number: later ones alone"""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT * FROM events WHERE id > ? ORDER BY id", (after,)
            ).fetchall()
        return [(row["id"], event_of(row)) for row in rows]

    def version(self) -> tuple[int, int, int]:
        """Changes whenever an event, an audit or an expert is added."""
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT (SELECT ifnull(max(id), 0) FROM events), (SELECT ifnull(max(id), 0) FROM audits), "
                "(SELECT count(*) FROM experts)"
            ).fetchone()
        return tuple(row)

    def current_votes(self) -> list[Vote]:
        """Votes that count, by cluster, then expert: an expert's last word on a cluster, if it is a vote."""
        with self._transaction() as connection:
            rows = connection.execute(f"{_LAST} HAVING kind = 'vote' ORDER BY cluster, expert")
            return [vote_of(row) for row in rows]

    def adjudications(self) -> list[Settlement]:
        """Decisions that count, by cluster: the last one on it, unless it was taken back."""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT max(at || printf('%019d', events.id)), expert, cluster, kind, at, payload "
                "FROM events JOIN experts ON experts.id = expert WHERE kind = 'adjudicate' "
                "OR (kind = 'undo' AND role = 'adjudicator') "
                "GROUP BY cluster HAVING kind = 'adjudicate' ORDER BY cluster"
            ).fetchall()
        return [settlement_of(row) for row in rows]

    def last_votes(self, expert: int) -> list[Event]:
        """Votes and skips of an expert that count, the newest first: what undos take back, one by one."""
        with self._transaction() as connection:
            rows = connection.execute(
                f"SELECT *, '' AS event FROM ({_LAST}) WHERE expert = ? AND kind IN ('vote', 'skip') "
                "ORDER BY moment DESC",
                (expert,),
            ).fetchall()
        return [event_of(row) for row in rows]

    def newest(self, expert: int, cluster: int) -> Event | None:
        """The newest vote or skip of an expert on a cluster, taken back or not."""
        return self._one_event(
            "expert = ? AND cluster = ? AND kind IN ('vote', 'skip')", expert, cluster
        )

    def find_event(self, event: str) -> Event | None:
        """The event of a UUID."""
        return self._one_event("event = ?", event)

    def _one_event(self, where: str, *values: object) -> Event | None:
        with self._transaction() as connection:
            row = connection.execute(
                f"SELECT * FROM events WHERE {where} ORDER BY {_WHEN} DESC LIMIT 1", values
            ).fetchone()
        return None if row is None else event_of(row)

    def next_cluster(
        self, expert: int, sizes: Mapping[int, int], lease_minutes: float = 30
    ) -> int | None:
        """Hand out a cluster (see `queue.choose`), and note that the expert has it; None: nothing is left.

        sizes   images of every cluster in the round, by id
        """
        with self._transaction(writes=True) as connection:
            self._check_expert(connection, expert)
            standing = self._standing(connection, expert, lease_minutes)
            found = choose(standing, sizes)
            connection.execute("DELETE FROM handed WHERE expert = ?", (expert,))
            if found is not None:
                self._hand(connection, expert, found)
        return found

    def progress(self, expert: int, sizes: Mapping[int, int]) -> Progress:
        """How far an expert is. sizes   as for `next_cluster`"""
        with self._transaction() as connection:
            standing = self._standing(connection, expert, 0)
            rows = connection.execute(
                f"SELECT json_extract(payload, '$.seconds') FROM ({_LAST}) "
                "WHERE expert = ? AND kind = 'vote'",
                (expert,),
            ).fetchall()
        seconds = [float(row[0]) for row in rows if row[0] is not None]
        wanting = {each for each in sizes if standing.answers.get(each, 0) < standing.wanted}
        return Progress(
            num_done=len(standing.voted),
            num_skipped=len(wanting & standing.skipped.keys()),
            num_left=num_left(standing, sizes),
            median_seconds=statistics.median(seconds) if seconds else None,
        )

    def _standing(
        self, connection: sqlite3.Connection, expert: int, lease_minutes: float
    ) -> Standing:
        last = connection.execute(_LAST.replace(", at, payload", "")).fetchall()
        since = (self._clock() - timedelta(minutes=lease_minutes)).isoformat()
        leases = connection.execute("SELECT expert, cluster, at FROM handed").fetchall()
        own = next((row for row in leases if row["expert"] == expert), None)
        given = connection.execute(
            "SELECT count(*) FROM events WHERE expert = ? AND kind IN ('vote', 'skip')", (expert,)
        ).fetchone()[0]
        mine = [row for row in last if row["expert"] == expert]
        return Standing(
            expert=expert,
            wanted=read_round(connection).answers,
            answers=Counter(row["cluster"] for row in last if row["kind"] == "vote"),
            voted=frozenset(row["cluster"] for row in mine if row["kind"] == "vote"),
            skipped={row["cluster"]: row["id"] for row in mine if row["kind"] == "skip"},
            held=None if own is None else own["cluster"],
            is_held_live=own is not None and own["at"] > since,
            leases=Counter(
                row["cluster"] for row in leases if row["expert"] != expert and row["at"] > since
            ),
            gold=frozenset(row[0] for row in connection.execute("SELECT cluster FROM gold")),
            num_given=given,
        )

    def record_audit(self, audit: Audit) -> bool:
        """Store an expert's word on an image, as `record` does with events. An answer `undo` takes back
        what the expert said of that image and concept."""
        if audit.answer not in (*SAID, "undo"):
            raise ConfigError(f"{audit.answer!r} is no answer; {', '.join(SAID)} would do")
        check_uuid(audit.event)
        with self._transaction(writes=True) as connection:
            self._check_expert(connection, audit.expert)
            values = (
                audit.event,
                audit.at or self._now(),
                audit.expert,
                audit.run,
                audit.key,
                audit.concept,
                audit.answer,
                audit.seconds,
            )
            done = connection.execute(
                "INSERT INTO audits (event, at, expert, run, key, concept, answer, seconds) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (event) DO NOTHING",
                values,
            )
            return done.rowcount == 1

    def audits(self, run: str | None = None) -> list[Audit]:
        """What counts of the audits, in the order of the answers: each expert's last word on an image
        and a concept, unless it was taken back. run   of these labels alone"""
        with self._transaction() as connection:
            rows = connection.execute(
                f"SELECT max({_WHEN}) AS moment, id, event, at, expert, run, key, concept, answer, seconds "
                "FROM audits WHERE ?1 IS NULL OR run = ?1 GROUP BY expert, run, key, concept "
                "HAVING answer != 'undo' ORDER BY moment",
                (run,),
            ).fetchall()
        return [audit_of(row) for row in rows]

    def all_audits(self) -> list[Audit]:
        """Every answer that was ever given, and every one that was taken back, in order."""
        with self._transaction() as connection:
            return [audit_of(row) for row in connection.execute("SELECT * FROM audits ORDER BY id")]

    def _now(self) -> str:
        return self._clock().isoformat()
