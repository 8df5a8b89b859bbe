"""The operator's page: how far the round is, how far experts agree, and which clusters wait for a decision."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response
from pydantic import Field

from biomedica.agreement import QUESTIONS, Estimate, masi_distance
from biomedica.explore.desk import Desk
from biomedica.explore.labelling import (
    AnswerBody,
    Cluster,
    EventId,
    ProblemError,
    Seconds,
    Strict,
    check_answer,
    image_json,
)
from biomedica.explore.session import Adjudicator, TheDesk, figure, render
from biomedica.label import ClusterLabel, Status, gold_scores, names
from biomedica.records import Answer
from biomedica.taxonomy import Taxonomy
from biomedica.votes import Event, Expert, Vote, answer_from_json, answer_to_json

router = APIRouter()

_LISTED = 100
"""Rows of a long table, at the most."""
QUESTION_NAMES = {
    "verdict": "Can it be answered?",
    "panel_type": "Panel type",
    "panel_subtype": "Panel subtype",
    "global_concepts": "Global concepts",
    "local_concepts": "Local concepts",
}
VERDICT_NAMES = {"answered": "answered", "ambiguous": "ambiguous", "mixed": "mixed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A cluster on which experts differ."""

    cluster: int
    size: int
    disagreement: float
    """0: all said the same; 1: nothing in common. Mean over questions and pairs of experts."""
    num_votes: int
    questions: tuple[str, ...]
    """On which they differ."""
    is_open: bool
    """No majority decides it."""
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertRow:
    """How an expert is doing."""

    expert: Expert
    link: str
    num_votes: int
    num_skipped: int
    num_undone: int
    num_unanswerable: int
    """Votes of ambiguous or mixed."""
    num_audits: int
    median_seconds: float | None
    last_at: str | None


def find_cases(desk: Desk) -> tuple[list[Case], list[Case]]:
    """Clusters that wait for a decision, and those where a majority outvoted somebody; both by size
    times disagreement, the most first. Clusters that were settled are in neither."""
    sizes = desk.sizes()
    by_cluster: dict[int, list[Vote]] = defaultdict(list)
    for vote in desk.store.current_votes():
        by_cluster[vote.cluster].append(vote)
    waiting, outvoted = [], []
    for label in desk.labels():
        votes = by_cluster.get(label.cluster, [])
        if label.is_adjudicated or len(votes) < 2 or label.cluster not in sizes:
            continue
        case = _case(label, votes, sizes[label.cluster], desk.taxonomy)
        if case.is_open:
            waiting.append(case)
        elif case.disagreement > 0:
            outvoted.append(case)

    def order(each: Case) -> tuple[float, int]:
        return -each.size * each.disagreement, each.cluster

    return sorted(waiting, key=order), sorted(outvoted, key=order)


def _case(label: ClusterLabel, votes: Sequence[Vote], size: int, taxonomy: Taxonomy) -> Case:
    apart = disagreements(votes, taxonomy)
    return Case(
        cluster=label.cluster,
        size=size,
        disagreement=sum(apart.values()) / len(apart),
        num_votes=len(votes),
        questions=tuple(question for question, value in apart.items() if value > 0),
        is_open=label.status is Status.UNDECIDED,
        reason=label.reason,
    )


def disagreements(votes: Sequence[Vote], taxonomy: Taxonomy) -> dict[str, float]:
    """Mean distance of two experts on each question: 0 or 1, for sets MASI. Of questions other than the
    verdict, among those who answered."""
    verdicts = [vote.verdict for vote in votes]
    found = {"verdict": _mean(float(a != b) for a, b in combinations(verdicts, 2))}
    answers = [taxonomy.complete(vote.answer) for vote in votes if vote.verdict == "answered"]
    for question, (_, of_answer) in QUESTIONS.items():
        said = [each for each in map(of_answer, answers) if each is not None]
        found[question] = _mean(masi_distance(a, b) for a, b in combinations(said, 2))
    return found


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def expert_rows(desk: Desk) -> list[ExpertRow]:
    """Everybody in the round."""
    votes: dict[int, list[Vote]] = defaultdict(list)
    for vote in desk.store.current_votes():
        votes[vote.expert].append(vote)
    kinds: Counter[tuple[int, str]] = Counter()
    last: dict[int, str] = {}
    for _, event in desk.store.events():
        kinds[event.expert, event.kind] += 1
        last[event.expert] = event.at
    audits = Counter(each.expert for each in desk.store.audits())
    return [
        ExpertRow(
            expert=each,
            link=f"/a/{desk.links.token(each)}",
            num_votes=len(votes[each.id]),
            num_skipped=kinds[each.id, "skip"],
            num_undone=kinds[each.id, "undo"],
            num_unanswerable=sum(vote.verdict != "answered" for vote in votes[each.id]),
            num_audits=audits[each.id],
            median_seconds=(
                statistics.median(vote.seconds for vote in votes[each.id])
                if votes[each.id]
                else None
            ),
            last_at=last.get(each.id),
        )
        for each in desk.store.experts()
    ]


@router.get("/dashboard")
def dashboard(person: Adjudicator, desk: TheDesk, request: Request) -> Response:
    """All of it on one page."""
    sizes = desk.sizes()
    experts = expert_rows(desk)
    waiting, outvoted = find_cases(desk)
    report = desk.agreement()
    people = {each.expert.id: each.expert.name for each in experts}
    pace = [each.median_seconds for each in experts if each.median_seconds is not None]
    median_seconds = statistics.median(pace) if pace else None
    return render(
        "dashboard.html.j2",
        person=person,
        csrf=desk.links.csrf(person),
        round=desk.store.round,
        base=desk.settings.address.rstrip("/") or str(request.base_url).rstrip("/"),
        progress=progress_bars(desk),
        num_clusters=len(sizes),
        num_images=sum(sizes.values()),
        num_splits=sum(bool(each.children) for each in desk.clusters().values()),
        by_status=Counter(each.status.value for each in desk.labels()),
        experts=experts,
        people=people,
        median_seconds=median_seconds,
        hours_left=hours_left(desk, median_seconds),
        report=report,
        questions=QUESTION_NAMES,
        pairs=_pair_table(report.pairs),
        names=concept_names(desk.taxonomy),
        gold=gold_scores(desk.store.current_votes(), desk.store.gold(), desk.taxonomy),
        num_gold=len(desk.store.gold()),
        waiting=waiting[:_LISTED],
        outvoted=outvoted[:_LISTED],
        num_waiting=len(waiting),
        num_outvoted=len(outvoted),
        settled=[each for each in desk.store.adjudications() if each.cluster in sizes],
        runs=_runs(desk),
        estimate=show_estimate,
    )


@router.get("/clusters")
def clusters(person: Adjudicator, desk: TheDesk) -> Response:
    """Every cluster of the round, the largest first, with what the votes of now say of it."""
    sizes = desk.sizes()
    called = concept_names(desk.taxonomy)
    rows = [
        {
            "cluster": each.cluster,
            "size": sizes[each.cluster],
            "num_votes": each.num_votes,
            "status": each.status.value,
            "is_adjudicated": each.is_adjudicated,
            "names": [
                called[name]
                for name in (
                    each.answer.panel_subtype or each.answer.panel_type,
                    *each.answer.global_concepts,
                    *each.answer.local_concepts,
                )
                if name is not None
            ],
        }
        for each in sorted(
            desk.labels(), key=lambda each: (-sizes.get(each.cluster, 0), each.cluster)
        )
        if each.cluster in sizes
    ]
    return render("clusters.html.j2", person=person, round=desk.store.round, rows=rows)


def hours_left(desk: Desk, seconds: float | None) -> float | None:
    """Work that is left, in hours of one person: answers that are wanted times `seconds` for each."""
    wanted = desk.store.round.answers
    answers = Counter(vote.cluster for vote in desk.store.current_votes())
    lacking = sum(max(0, wanted - answers[cluster]) for cluster in desk.sizes())
    return None if seconds is None else lacking * seconds / 3600


def progress_bars(desk: Desk) -> list[dict[str, Any]]:
    """Clusters and images by the number of answers they have: from all that are wanted to none."""
    sizes, wanted = desk.sizes(), desk.store.round.answers
    answers = Counter(vote.cluster for vote in desk.store.current_votes())
    clusters, images = Counter[int](), Counter[int]()
    for cluster, size in sizes.items():
        number = min(answers[cluster], wanted)
        clusters[number] += 1
        images[number] += size
    return [
        {
            "number": number,
            "is_full": number == wanted,
            "clusters": clusters[number],
            "images": images[number],
            "share": clusters[number] / max(1, len(sizes)),
        }
        for number in range(wanted, -1, -1)
    ]


def _pair_table(pairs: Iterable[Any]) -> list[dict[str, Any]]:
    """One row for two experts, a cell for each question."""
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for pair in pairs:
        row = rows.setdefault((pair.expert, pair.other), {})
        row[pair.question] = pair
    return [{"expert": a, "other": b, "cells": cells} for (a, b), cells in rows.items()]


def _runs(desk: Desk) -> list[str]:
    return names(desk.archive)


def show_estimate(estimate: Estimate) -> str:
    """`0.71 (0.60 to 0.80)`; a dash where the measure is not defined.

    >>> show_estimate(Estimate(value=0.714, low=0.6, high=0.801))
    '0.71 (0.60 to 0.80)'
    """
    if estimate.value is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return figure(estimate.value)
    return f"{figure(estimate.value)} ({figure(estimate.low)} to {figure(estimate.high)})"


def concept_names(taxonomy: Taxonomy) -> dict[str, str]:
    """What ids of answers are called."""
    choices = (*taxonomy.panel_types, *taxonomy.panel_subtypes)
    found = {each.id: each.name for each in choices}
    return found | {each.id: each.name for each in taxonomy.concepts.values()} | VERDICT_NAMES


class ExpertBody(Strict):
    """Somebody to add."""

    name: Annotated[str, Field(max_length=200)]
    role: Literal["expert", "adjudicator"] = "expert"


@router.post("/api/experts")
def add_expert(body: ExpertBody, person: Adjudicator, desk: TheDesk) -> dict[str, Any]:
    """Add somebody to the round; their link stands in the table then."""
    expert = desk.store.add_expert(body.name, body.role)
    return {"name": expert.name, "link": f"/a/{desk.links.token(expert)}"}


@router.get("/adjudicate/{cluster}")
def adjudicate_page(cluster: int, person: Adjudicator, desk: TheDesk) -> Response:
    """A cluster's images, all its votes side by side, and a form to decide."""
    if cluster not in desk.sizes():
        raise HTTPException(404, f"cluster {cluster} is not in the round (any more)")
    votes = [each for each in desk.store.current_votes() if each.cluster == cluster]
    waiting, outvoted = find_cases(desk)
    later = [each.cluster for each in waiting if each.cluster != cluster]
    case = next((each for each in (*waiting, *outvoted) if each.cluster == cluster), None)
    settled = [each for each in desk.store.adjudications() if each.cluster == cluster]
    return render(
        "adjudicate.html.j2",
        person=person,
        csrf=desk.links.csrf(person),
        cluster=cluster,
        size=desk.sizes()[cluster],
        rows=vote_table(votes, desk.taxonomy),
        votes=votes,
        people={each.id: each.name for each in desk.store.experts()},
        case=case,
        settled=settled[0] if settled else None,
        following=later[0] if later else None,
        num_waiting=len(waiting),
        question_names=QUESTION_NAMES,
    )


def vote_table(votes: Sequence[Vote], taxonomy: Taxonomy) -> list[dict[str, Any]]:
    """A row for each question: what each of the votes says, and whether they differ."""
    called = concept_names(taxonomy)
    apart = disagreements(votes, taxonomy)
    rows = [
        {
            "question": "verdict",
            "cells": [[VERDICT_NAMES[vote.verdict]] for vote in votes],
            "differs": apart["verdict"] > 0,
        }
    ]
    answers = [
        taxonomy.complete(vote.answer) if vote.verdict == "answered" else Answer() for vote in votes
    ]
    for question, (_, of_answer) in QUESTIONS.items():
        cells = [[called[each] for each in of_answer(answer) or ()] for answer in answers]
        rows.append({"question": question, "cells": cells, "differs": apart[question] > 0})
    return rows


@router.get("/api/adjudicate/{cluster}")
def case_of_cluster(cluster: int, person: Adjudicator, desk: TheDesk) -> dict[str, Any]:
    """Images, who marked which as an outlier, and an answer to begin with: what a majority gave."""
    if cluster not in desk.sizes():
        raise HTTPException(404, f"cluster {cluster} is not in the round (any more)")
    votes = [each for each in desk.store.current_votes() if each.cluster == cluster]
    marked = Counter(key for vote in votes for key in vote.outliers)
    settled = [each for each in desk.store.adjudications() if each.cluster == cluster]
    start = settled[0].answer if settled else majority(votes, desk.taxonomy)
    return {
        "cluster": {
            "id": cluster,
            "images": [
                image_json(each) | {"marked": marked[each.facts.key]}
                for each in desk.images(cluster)
            ],
        },
        "num_votes": len(votes),
        "answer": answer_to_json(start),
        "disputed": [
            question for question, value in disagreements(votes, desk.taxonomy).items() if value > 0
        ],
    }


def majority(votes: Sequence[Vote], taxonomy: Taxonomy) -> Answer:
    """What more than half of those who answered gave, question by question; the rest is left open."""
    answers = [taxonomy.complete(vote.answer) for vote in votes if vote.verdict == "answered"]
    counts: Counter[tuple[str, str]] = Counter()
    for answer in answers:
        for question, (_, of_answer) in QUESTIONS.items():
            counts.update((question, each) for each in of_answer(answer) or ())
    won: dict[str, list[str]] = defaultdict(list)
    for (question, each), number in counts.items():
        if 2 * number > len(answers):
            won[question].append(each)
    content = {
        "panel_type": next(iter(won["panel_type"]), None),
        "panel_subtype": next(iter(won["panel_subtype"]), None),
        "global_concepts": won["global_concepts"],
        "local_concepts": won["local_concepts"],
    }
    return answer_from_json(content)


class DecisionBody(Strict):
    """What an adjudicator decides."""

    event: EventId
    cluster: Cluster
    verdict: Literal["answered", "ambiguous"]
    answer: AnswerBody = AnswerBody()
    reason: Annotated[str, Field(max_length=4000)]
    seconds: Seconds = 0.0


@router.post("/api/adjudicate")
def adjudicate(body: DecisionBody, person: Adjudicator, desk: TheDesk) -> dict[str, Any]:
    """Store a decision; it holds above the votes."""
    if body.cluster not in desk.sizes():
        raise ProblemError(f"cluster {body.cluster} is not in the round (any more)", status=409)
    if not body.reason.strip():
        raise ProblemError("say why: a decision needs a reason")
    answer = body.answer.answer() if body.verdict == "answered" else Answer()
    if body.verdict == "answered":
        check_answer(desk.taxonomy, answer)
    payload = {
        "verdict": body.verdict,
        "answer": answer_to_json(answer),
        "reason": body.reason.strip(),
        "seconds": round(body.seconds, 1),
        "taxonomy": desk.taxonomy.version,
        "model": desk.model,
    }
    desk.store.record(
        Event(
            event=body.event,
            expert=person.id,
            cluster=body.cluster,
            kind="adjudicate",
            payload=payload,
        )
    )
    waiting, _ = find_cases(desk)
    return {"following": waiting[0].cluster if waiting else None, "num_waiting": len(waiting)}


class WithdrawBody(Strict):
    """A decision to take back."""

    event: EventId
    cluster: Cluster


@router.post("/api/adjudicate/undo")
def take_back(body: WithdrawBody, person: Adjudicator, desk: TheDesk) -> dict[str, Any]:
    """Take the decision on a cluster back: the votes decide again."""
    is_repeated = desk.store.find_event(body.event) is not None
    if not is_repeated and all(each.cluster != body.cluster for each in desk.store.adjudications()):
        raise ProblemError(f"no decision on cluster {body.cluster} stands")
    event = Event(event=body.event, expert=person.id, cluster=body.cluster, kind="undo", payload={})
    desk.store.record(event)
    return {"cluster": body.cluster}
