"""The votes file: nothing acknowledged is lost or doubled, whatever is killed; the queue's promises."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedica.errors import ConfigError
from biomedica.records import Answer
from biomedica.votes import (
    Audit,
    Event,
    Round,
    Standing,
    VoteStore,
    answer_to_json,
    choose,
    export_events,
    import_events,
    num_left,
)

ROUND = Round(clustering="default", model="a" * 64, taxonomy="1", answers=3)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VoteStore]:
    with VoteStore.open(tmp_path / "votes" / "default.sqlite", ROUND, Clock()) as opened:
        for name in ("Ada", "Ben", "Cy"):
            opened.add_expert(name)
        yield opened


def said(
    expert: int, cluster: int, kind: str = "vote", verdict: str = "answered", **payload: object
) -> Event:
    """An event with a new id."""
    content = {"verdict": verdict, "answer": answer_to_json(Answer()), "seconds": 1.0, **payload}
    return Event(
        event=str(uuid.uuid4()), expert=expert, cluster=cluster, kind=kind, payload=content
    )


def test_last_word_counts(store: VoteStore) -> None:
    """A vote counts until another one, a skip or an undo follows it; nothing leaves the file."""
    store.record(said(1, 4, verdict="ambiguous"))
    answer = Answer(panel_type="single", global_concepts=("maps",))
    store.record(said(1, 4, answer=answer_to_json(answer), outliers=["k"]))
    (vote,) = store.current_votes()
    assert (vote.answer, vote.outliers, vote.verdict) == (answer, ("k",), "answered")
    store.record(said(1, 4, "undo"))
    assert store.current_votes() == []
    store.record(said(1, 4))
    store.record(said(1, 4, "skip"))
    assert store.current_votes() == []
    assert [event.kind for _, event in store.events()] == ["vote", "vote", "undo", "vote", "skip"]


def test_the_same_event_counts_once(store: VoteStore) -> None:
    """Sent again it changes nothing; another event under its id is refused."""
    event = said(1, 4)
    assert store.record(event)
    assert not store.record(event)
    assert len(store.events()) == 1
    with pytest.raises(ConfigError, match="something else"):
        store.record(Event(event=event.event, expert=2, cluster=4, kind="skip", payload={}))


def test_only_appended(store: VoteStore) -> None:
    """The file itself refuses to change or remove an event or an audit."""
    store.record(said(1, 4))
    audit = Audit(
        event=str(uuid.uuid4()),
        expert=1,
        run="r",
        key="k",
        concept="maps",
        answer="yes",
        seconds=1.0,
    )
    store.record_audit(audit)
    connection = sqlite3.connect(store.path)
    for table in ("events", "audits"):
        for change in (f"UPDATE {table} SET at = 'x'", f"DELETE FROM {table}"):
            with pytest.raises(sqlite3.IntegrityError, match="only appended"):
                connection.execute(change)
    connection.close()


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (Event(event="1", expert=1, cluster=1, kind="vote", payload={}), "no UUID"),
        (said(9, 1), "no expert 9"),
        (said(1, 1, "shout"), "no kind"),
        (said(1, -1), "no cluster"),
        (said(1, 1, verdict="maybe"), "no verdict"),
        (said(1, 1, "adjudicate", reason=" "), "needs a reason"),
    ],
)
def test_events_that_cannot_be_meant(store: VoteStore, event: Event, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        store.record(event)
    assert store.events() == []


def test_votes_of_another_clustering_are_refused(store: VoteStore, tmp_path: Path) -> None:
    """Another model, another clustering, a newer schema, a file of something else: each says what is."""
    for other in ({"model": "b" * 64}, {"clustering": "fine"}):
        content = {"clustering": "default", "model": "a" * 64, "taxonomy": "1", "answers": 3}
        with pytest.raises(ConfigError, match="holds votes on clustering 'default'"):
            VoteStore.open(store.path, Round(**content | other))
    with pytest.raises(ConfigError, match="no votes yet"):
        VoteStore.open(tmp_path / "none.sqlite")
    connection = sqlite3.connect(store.path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigError, match=r"schema 99.*reads up to 1"):
        VoteStore.open(store.path, ROUND)
    foreign = tmp_path / "foreign.sqlite"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(ConfigError, match="no votes file"):
        VoteStore.open(foreign, ROUND)
    (tmp_path / "text.sqlite").write_text("hello" * 500)
    with pytest.raises(ConfigError, match="no votes file"):
        VoteStore.open(tmp_path / "text.sqlite", ROUND)


def test_decisions_and_their_withdrawal(store: VoteStore) -> None:
    """The last decision on a cluster counts, unless an adjudicator took it back."""
    judge = store.add_expert("Dee", "adjudicator").id
    store.record(said(judge, 4, "adjudicate", reason="first"))
    store.record(said(1, 4, "undo"))  # an expert's undo is about the expert's vote
    assert [each.reason for each in store.adjudications()] == ["first"]
    store.record(said(judge, 4, "adjudicate", reason="second"))
    assert [each.reason for each in store.adjudications()] == ["second"]
    store.record(said(judge, 4, "undo"))
    assert store.adjudications() == []
    assert [store.next_cluster(each, {4: 1}) for each in (1, 2, 3)] == [4, 4, 4]  # nobody holds it


def test_the_later_word_counts_wherever_it_was_stored_first(store: VoteStore) -> None:
    """What comes in from another machine late, and was said early, overrules nothing."""
    judge = store.add_expert("Dee", "adjudicator").id
    early = "2025-12-31T10:00:00+00:00"
    store.record(said(1, 4, verdict="ambiguous"))
    store.record(replace(said(1, 4), at=early))
    assert [each.verdict for each in store.current_votes()] == ["ambiguous"]
    store.record(said(judge, 4, "adjudicate", reason="late"))
    store.record(replace(said(judge, 4, "adjudicate", reason="early"), at=early))
    assert [each.reason for each in store.adjudications()] == ["late"]
    store.record(replace(said(2, 5), at="2099-01-01T00:00:00+00:00"))  # a clock that is wrong
    store.record(said(2, 5, "undo"))
    assert [each.cluster for each in store.current_votes()] == [4]


def test_audits(store: VoteStore) -> None:
    """An auditor's last word on an image and concept counts; taken back, none does."""

    def audit(answer: str, key: str = "k") -> Audit:
        return Audit(
            event=str(uuid.uuid4()),
            expert=1,
            run="r",
            key=key,
            concept="maps",
            answer=answer,
            seconds=2.0,
        )

    first = audit("yes")
    assert store.record_audit(first)
    assert not store.record_audit(first)
    store.record_audit(audit("no"))
    store.record_audit(audit("unsure", "other"))
    assert [(each.key, each.answer) for each in store.audits("r")] == [
        ("k", "no"),
        ("other", "unsure"),
    ]
    store.record_audit(audit("undo"))
    assert [each.key for each in store.audits("r")] == ["other"]
    assert store.audits("else") == []
    assert len(store.all_audits()) == 4
    with pytest.raises(ConfigError, match="is no answer"):
        store.record_audit(audit("perhaps"))


def test_names(store: VoteStore) -> None:
    """The same name is the same person, in one role."""
    assert store.add_expert(" Ada  ").id == 1
    assert [each.name for each in store.experts()] == ["Ada", "Ben", "Cy"]
    with pytest.raises(ConfigError, match="is expert of this round"):
        store.add_expert("Ada", "adjudicator")
    for name in ("  ", "A\u200bda", "Ada\x07", "\ud800"):
        with pytest.raises(ConfigError, match="no name"):
            store.add_expert(name)
    assert store.add_expert("Zoe\u0301").id == store.add_expert("Zo\u00e9").id


def test_progress_does_not_tell_a_gold_cluster(store: VoteStore) -> None:
    """A gold cluster with all its answers is left like any other while it is in front of the expert."""
    standing = Standing(
        expert=1,
        wanted=3,
        answers={0: 3, 1: 3},
        voted=frozenset(),
        skipped={},
        held=0,
        gold=frozenset({0, 1}),
    )
    assert num_left(standing, {0: 9, 1: 9, 2: 9}) == 2


SIZES = {0: 5, 1: 50, 2: 20, 3: 20}


def test_queue_order(store: VoteStore) -> None:
    """Largest first, then those with the fewest answers; what others have in front of them waits."""
    assert store.next_cluster(1, SIZES) == 1
    assert store.next_cluster(1, SIZES) == 1  # again, until it is answered
    assert store.next_cluster(2, SIZES) == 2  # 1 is in Ada's hands
    store.record(said(1, 1))
    assert store.next_cluster(1, SIZES) == 3
    store.record(said(2, 2))
    assert [store.next_cluster(2, SIZES), store.next_cluster(3, SIZES)] == [0, 1]


def test_leases_run_out(store: VoteStore) -> None:
    """A lease keeps a cluster from the third expert where two answers are wanted, for half an hour."""
    clock = store._clock
    assert isinstance(clock, Clock)
    VoteStore.open(
        store.path, Round(clustering="default", model="a" * 64, taxonomy="1", answers=2)
    ).close()
    sizes = {7: 10}
    assert [store.next_cluster(each, sizes) for each in (1, 2, 3)] == [7, 7, None]
    clock.now += timedelta(minutes=29)
    assert store.next_cluster(3, sizes) is None
    clock.now += timedelta(minutes=2)
    assert store.next_cluster(3, sizes) == 7
    store.record(said(1, 7))
    store.record(said(3, 7))
    assert store.next_cluster(2, sizes) is None  # nobody wants the third answer any more


def test_skipped_come_last(store: VoteStore) -> None:
    """Put off, a cluster comes back after all others, the oldest first."""
    found = []
    for _ in range(4):
        cluster = store.next_cluster(1, SIZES)
        assert cluster is not None
        found.append(cluster)
        store.record(said(1, cluster, "skip"))
    assert found == [1, 2, 3, 0]
    assert store.progress(1, SIZES).num_skipped == 4
    assert store.next_cluster(1, SIZES) == 1
    store.record(said(1, 1))
    assert store.next_cluster(1, SIZES) == 2


def test_undone_comes_at_once(store: VoteStore) -> None:
    """What is taken back is what the expert sees next."""
    first = store.next_cluster(1, SIZES)
    store.record(said(1, first or 0))
    store.next_cluster(1, SIZES)
    (last,) = store.last_votes(1)
    assert last.cluster == first
    store.record(said(1, last.cluster, "undo"))
    assert store.next_cluster(1, SIZES) == first
    assert store.last_votes(1) == []


def test_split_clusters_leave(store: VoteStore) -> None:
    """Who has a cluster that is split meanwhile gets another one; the parts enter by their size."""
    assert store.next_cluster(1, SIZES) == 1
    parts = {0: 5, 2: 20, 3: 20, 4: 30, 5: 20}
    assert store.next_cluster(1, parts) == 4


def test_gold_is_about_one_in_ten(store: VoteStore) -> None:
    """Every expert meets gold clusters whatever answers they have, and each of them once."""
    sizes = {each: 1000 - each for each in range(400)}
    gold = set(range(380, 400))
    store.set_gold(dict.fromkeys(gold, Answer(panel_type="single")))
    for expert in (1, 2, 3):
        seen = []
        for _ in range(120):
            cluster = store.next_cluster(expert, sizes)
            assert cluster is not None
            seen.append(cluster)
            store.record(said(expert, cluster))
        assert len(set(seen)) == len(seen)
        assert 4 <= len(gold & set(seen)) <= 22
    assert store.gold()[380] == Answer(panel_type="single")


@given(
    sizes=st.dictionaries(st.integers(0, 12), st.integers(0, 9), max_size=12),
    answers=st.dictionaries(st.integers(0, 12), st.integers(0, 3)),
    leases=st.dictionaries(st.integers(0, 12), st.integers(0, 2)),
    voted=st.frozensets(st.integers(0, 12)),
    skipped=st.dictionaries(st.integers(0, 12), st.integers(0, 99)),
    gold=st.frozensets(st.integers(0, 12)),
    held=st.none() | st.integers(0, 12),
    is_live=st.booleans(),
    given_before=st.integers(0, 99),
)
@settings(max_examples=300, deadline=None)
def test_what_is_handed_out(
    sizes: dict[int, int],
    answers: dict[int, int],
    leases: dict[int, int],
    voted: frozenset[int],
    skipped: dict[int, int],
    gold: frozenset[int],
    held: int | None,
    is_live: bool,
    given_before: int,
) -> None:
    """Never a cluster that is answered, empty or gone; none only when none is wanted."""
    standing = Standing(
        expert=1,
        wanted=3,
        answers=answers,
        voted=voted,
        skipped=skipped,
        held=held,
        is_held_live=is_live,
        leases=leases,
        gold=gold,
        num_given=given_before,
    )
    found = choose(standing, sizes)
    wanting = [
        each
        for each in sizes
        if sizes[each]
        and each not in voted
        and answers.get(each, 0) + leases.get(each, 0) < standing.wanted
    ]
    if found is None:
        assert not wanting
        return
    assert sizes[found] > 0
    assert found not in voted
    assert found in wanting or found in gold or (found == held and is_live)
    if found in skipped and found != held:
        assert not [each for each in wanting if each not in skipped]


def test_export_and_import(store: VoteStore, tmp_path: Path) -> None:
    """Everything goes out as lines and comes back the same; twice changes nothing."""
    judge = store.add_expert("Dee <b>", "adjudicator").id
    for event in (said(1, 1), said(2, 1), said(1, 1, "undo"), said(2, 3, "skip")):
        store.record(event)
    store.record(said(judge, 1, "adjudicate", reason="naïve é"))
    store.set_gold({3: Answer(panel_type="single", global_concepts=("maps",))})
    store.record_audit(
        Audit(
            event=str(uuid.uuid4()),
            expert=2,
            run="r",
            key="k",
            concept="maps",
            answer="no",
            seconds=1.5,
        )
    )
    lines = list(export_events(store))
    assert [json.loads(line)["type"] for line in lines] == (
        ["round"] + ["expert"] * 4 + ["gold"] + ["event"] * 5 + ["audit"]
    )
    copy = tmp_path / "copy.sqlite"
    assert import_events(lines, copy) == 6
    assert import_events(lines, copy) == 0
    with VoteStore.open(copy) as other:
        assert [e for _, e in other.events()] == [e for _, e in store.events()]
        assert other.current_votes() == store.current_votes()
        assert other.adjudications() == store.adjudications()
        assert other.audits() == store.audits()
        assert other.gold() == store.gold()
    with pytest.raises(ConfigError, match="line 2 is no line"):
        import_events([lines[0], "{"], tmp_path / "bad.sqlite")
    with pytest.raises(ConfigError, match="no round"):
        import_events(lines[1:], tmp_path / "bad.sqlite")


def test_an_import_is_whole_or_nothing(store: VoteStore, tmp_path: Path) -> None:
    """A line that is wrong stores nothing, and a round that stands keeps what it wants."""
    store.record(said(1, 1))
    lines = list(export_events(store))
    event = json.loads(lines[-1])
    another = event | {"event": str(uuid.uuid4())}
    copy = tmp_path / "copy.sqlite"
    import_events(lines, copy)
    for wrong in (
        {"type": "round", "x": 1},
        {"type": ["round"]},
        another | {"event": 17},
        another | {"cluster": 2**70},
        another | {"cluster": True},
        another | {"expert": 99},
        another | {"kind": "wish"},
        another | {"at": "yesterday"},
        another | {"at": "2026-01-01T00:00:00"},
        another | {"payload": {"verdict": "answered", "answer": 3}},
        another | {"payload": {"verdict": "answered", "outliers": "k"}},
        {"type": "gold", "cluster": 1, "answer": {"global_concepts": [1]}},
        {"type": "expert", "id": 1, "name": "Ada", "role": "king", "created": ""},
        json.loads(lines[0]),
    ):
        with pytest.raises(ConfigError):
            import_events([*lines, json.dumps(another), json.dumps(wrong)], copy)
    fewer = json.dumps(json.loads(lines[0]) | {"answers": 1})
    assert import_events([fewer, *lines[1:]], copy) == 0
    with pytest.raises(ConfigError, match="another clustering"):
        import_events(lines, copy, clustering="other")
    with VoteStore.open(copy) as found:
        assert found.round == store.round
        assert [each for _, each in found.events()] == [each for _, each in store.events()]


def test_many_processes_make_and_write_one_file(tmp_path: Path) -> None:
    """Twenty processes open the same new file at once and write to it: all events are there."""
    path = tmp_path / "default.sqlite"
    writers = [_writer(path, number, count=10) for number in range(20)]
    acknowledged = [
        line for writer in writers for line in writer.communicate(timeout=60)[0].split()
    ]
    assert [writer.returncode for writer in writers] == [0] * 20
    with VoteStore.open(path) as store:
        stored = [event.event for _, event in store.events()]
    assert len(stored) == 200
    assert sorted(stored) == sorted(acknowledged)


_WRITER = """
import sys, uuid
from pathlib import Path
from biomedica.votes import Event, Round, VoteStore
path, number, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
wanted = Round(clustering="default", model="a" * 64, taxonomy="1", answers=3)
store = VoteStore.open(path, wanted)
expert = store.add_expert(f"Expert {number}").id
for cluster in range(count):
    event = Event(event=str(uuid.uuid4()), expert=expert, cluster=cluster, kind="vote",
                  payload={"verdict": "answered", "answer": {}, "note": "x" * 5000})
    sys.stdout.write(f"sent:{event.event}\\n" if len(sys.argv) > 4 else "")
    sys.stdout.flush()
    store.record(event)
    sys.stdout.write(event.event + "\\n")
    sys.stdout.flush()
"""


def _writer(path: Path, number: int, count: int, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WRITER, str(path), str(number), str(count), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))


def test_killed_in_the_middle(tmp_path: Path) -> None:
    """A writer that is killed, many times: what it was told is stored is there, once, and no more than
    what it sent."""
    path = tmp_path / "default.sqlite"
    VoteStore.open(path, ROUND).close()
    source = random.Random(5)
    acknowledged: list[str] = []
    sent: set[str] = set()
    for number in range(12):
        writer = _writer(path, number, 100_000, "says")
        assert writer.stdout is not None
        writer.stdout.readline()  # it has begun
        time.sleep(source.uniform(0.0, 0.15))
        writer.send_signal(signal.SIGKILL)
        lines = writer.stdout.read().split("\n")  # `communicate` would lose what was read ahead
        writer.wait()
        writer.stdout.close()
        whole = lines[:-1]  # a line that was cut acknowledges nothing
        acknowledged += [line for line in whole if line and not line.startswith("sent:")]
        sent |= {line.removeprefix("sent:") for line in lines if line.startswith("sent:")}
    with VoteStore.open(path) as store:
        stored = Counter(event.event for _, event in store.events())
    assert set(acknowledged) <= set(stored)
    assert set(stored.values()) == {1}
    assert len(acknowledged) > 12
    assert len(stored) <= len(acknowledged) + 12
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_many_threads(store: VoteStore) -> None:
    """Twenty threads of one process take and answer clusters: none twice by an expert, none too often."""
    experts = [store.add_expert(f"Expert {number}").id for number in range(20)]
    sizes = {each: 100 - each for each in range(30)}

    def work(expert: int) -> None:
        while (cluster := store.next_cluster(expert, sizes)) is not None:
            store.record(said(expert, cluster))

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(work, experts))
    counts = Counter(vote.cluster for vote in store.current_votes())
    assert counts == dict.fromkeys(sizes, 3)
    assert len(store.events()) == 90
