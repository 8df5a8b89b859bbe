"""The label page: hands out clusters, takes answers."""

from __future__ import annotations

import re
import uuid
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from biomedica.cluster import split_cluster
from biomedica.errors import BiomedicaError
from biomedica.explore.desk import Desk, Shown
from biomedica.explore.session import Person, TheDesk, Voter, known_person, render
from biomedica.explore.suggest import Suggestion
from biomedica.records import Answer
from biomedica.taxonomy import Taxonomy
from biomedica.votes import Event, Expert, answer_from_json, answer_to_json

router = APIRouter()

_KEY = re.compile(r"[\w.-]+")
"""What a sample's key can look like."""

Id = Annotated[str, Field(max_length=120)]
EventId = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Cluster = Annotated[int, Field(ge=0, lt=2**31)]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


class Strict(BaseModel):
    """A body without unknown fields."""

    model_config = ConfigDict(extra="forbid")


class AnswerBody(Strict):
    """An answer as the form sends it."""

    panel_type: Id | None = None
    panel_subtype: Id | None = None
    global_concepts: list[Id] = Field(default=[], max_length=100)
    local_concepts: list[Id] = Field(default=[], max_length=500)

    def answer(self) -> Answer:
        return answer_from_json(self.model_dump())


class NextBody(Strict):
    """What the page is ready to show."""

    suggestions: bool = False


class SuggestionBody(Strict):
    """A suggestion that was on the page; without a cluster it came from words."""

    cluster: Cluster | None
    answer: AnswerBody
    taken: bool = False


class SaidBody(NextBody):
    """An event about a cluster."""

    event: EventId
    cluster: Cluster
    seconds: Seconds = 0.0


class VoteBody(SaidBody):
    """A vote."""

    verdict: Literal["answered", "ambiguous", "mixed"]
    answer: AnswerBody = AnswerBody()
    outliers: list[Id] = Field(default=[], max_length=1000)
    shown: list[Id] = Field(default=[], max_length=1000)
    suggestion: SuggestionBody | None = None
    parts: int | None = Field(default=None, ge=2, le=5)


class UndoBody(NextBody):
    """The wish to take the last answer back."""

    event: EventId


class ProblemError(Exception):
    """An answer that can't be stored, in words for the person who gave it."""

    def __init__(self, *problems: str, status: int = 422) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
        self.status = status


@router.get("/")
def front(request: Request, desk: TheDesk) -> Response:
    """Says what this is, or goes to where the visitor works."""
    person = known_person(request, desk)
    if person is None:
        return render("front.html.j2")
    return RedirectResponse("/dashboard" if person.role == "adjudicator" else "/label", 303)


@router.get("/a/{token}")
def enter(token: str, request: Request, desk: TheDesk) -> Response:
    """A personal link: keeps who it is, and goes on.

    The page goes on by itself instead of a redirect: browsers send a strict cookie along with nothing
    that a link in somebody's mail led to, redirects included.
    """
    person = desk.links.by_token(token, desk.store.experts())
    if person is None:
        raise HTTPException(403, "this link is not known here; ask for a new one")
    answer = render("enter.html.j2", name=person.name)
    answer.set_cookie(
        desk.links.cookie_name,
        desk.links.cookie(person),
        max_age=180 * 24 * 3600,
        httponly=True,
        samesite="strict",
        secure=desk.settings.address.startswith("https:"),
    )
    return answer


@router.get("/label")
def label_page(person: Voter, desk: TheDesk) -> Response:
    """The page of an expert; clusters come by script."""
    return render(
        "label.html.j2",
        person=person,
        csrf=desk.links.csrf(person),
        draft_name=f"{desk.model[:12]}.{person.id}",
        has_suggestions=desk.settings.suggestions,
    )


@router.get("/api/taxonomy")
def taxonomy(person: Person, desk: TheDesk) -> dict[str, Any]:
    """What the form asks."""
    return taxonomy_json(desk.taxonomy)


def taxonomy_json(taxonomy: Taxonomy) -> dict[str, Any]:
    """Panels and concepts with their definitions, in file order."""
    panels = {
        "panel_types": [asdict(each) for each in taxonomy.panel_types],
        "panel_subtypes": [asdict(each) for each in taxonomy.panel_subtypes],
    }
    concepts = [
        {
            "id": each.id,
            "name": each.name,
            "parent": each.parent,
            "definition": each.definition,
            "published": list(each.published),
        }
        for each in taxonomy.concepts.values()
    ]
    return {"version": taxonomy.version, **panels, "concepts": concepts}


@router.get("/thumb/{key}")
def thumbnail(key: str, person: Person, desk: TheDesk) -> Response:
    """A small picture of a sample that some page shows."""
    return _picture(desk, key, desk.settings.thumbnail_side)


@router.get("/image/{key}")
def image(key: str, person: Person, desk: TheDesk) -> Response:
    """The same, enlarged."""
    return _picture(desk, key, desk.settings.picture_side)


def _picture(desk: Desk, key: str, side: int) -> Response:
    facts = desk.find(key)
    found = desk.pictures.small(facts, side) if facts is not None else None
    if found is None:
        raise HTTPException(404, "no such picture")
    return Response(
        found, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600"}
    )


@router.post("/api/next")
def next_cluster(body: NextBody, person: Voter, desk: TheDesk) -> dict[str, Any]:
    """The cluster to answer, and how far the expert is."""
    return _next(desk, person, body.suggestions)


@router.post("/api/vote")
def vote(body: VoteBody, person: Voter, desk: TheDesk) -> dict[str, Any]:
    """Store a vote, split the cluster where that is asked for, and hand out the next one."""
    _check_cluster(desk, body)
    _check_vote(desk, body)
    desk.store.record(
        Event(
            event=body.event,
            expert=person.id,
            cluster=body.cluster,
            kind="vote",
            payload=_vote_payload(desk, body),
        )
    )
    told = None
    if body.verdict == "mixed" and body.parts:
        told = _split(desk, person, body)
    return _next(desk, person, body.suggestions) | {"told": told}


@router.post("/api/skip")
def skip(body: SaidBody, person: Voter, desk: TheDesk) -> dict[str, Any]:
    """Put a cluster off: it comes back after the others."""
    _check_cluster(desk, body)
    desk.store.record(
        Event(
            event=body.event,
            expert=person.id,
            cluster=body.cluster,
            kind="skip",
            payload={"seconds": body.seconds, "model": desk.model},
        )
    )
    return _next(desk, person, body.suggestions)


@router.post("/api/undo")
def undo(body: UndoBody, person: Voter, desk: TheDesk) -> dict[str, Any]:
    """Take the expert's last answer back, and show that cluster with it again."""
    done_before = desk.store.find_event(body.event)  # a repeated post takes nothing more back
    last = done_before or next(iter(desk.store.last_votes(person.id)), None)
    if last is None:
        raise ProblemError("there is nothing to take back")
    if done_before is None and last.cluster not in desk.sizes():
        was_split = bool(desk.clusters()[last.cluster].children)
        why = "was split: a split stays" if was_split else "has no images any more"
        raise ProblemError(f"your last answer stays: cluster {last.cluster} {why}")
    event = Event(event=body.event, expert=person.id, cluster=last.cluster, kind="undo", payload={})
    desk.store.record(event)
    taken = desk.store.newest(person.id, last.cluster)
    is_vote = taken is not None and taken.kind == "vote"
    said = (
        {each: taken.payload.get(each) for each in ("verdict", "answer", "outliers")}
        if is_vote and taken
        else None
    )
    return _next(desk, person, body.suggestions) | {"previous": said}


def _check_cluster(desk: Desk, body: SaidBody) -> None:
    info = desk.clusters().get(body.cluster)
    if info is None or (not info.children and not info.size):
        raise ProblemError(f"there is no cluster {body.cluster}")
    if info.children and not (
        isinstance(body, VoteBody) and body.verdict == "mixed" and body.parts
    ):
        words = (
            f"cluster {body.cluster} was split into parts meanwhile; the parts come by themselves"
        )
        raise ProblemError(words, status=409)


def _check_vote(desk: Desk, body: VoteBody) -> None:
    for each in (*body.shown, *body.outliers):
        if not _KEY.fullmatch(each):
            raise ProblemError(f"{each!r} is no key of an image")
    if not set(body.outliers) <= set(body.shown):
        raise ProblemError("an outlier was not among the images shown")
    if body.verdict == "answered":
        check_answer(desk.taxonomy, body.answer.answer())
    if body.suggestion is not None and desk.taxonomy.check(body.suggestion.answer.answer()):
        raise ProblemError("the suggestion is none of this taxonomy")


def check_answer(taxonomy: Taxonomy, answer: Answer) -> None:
    """Raises `ProblemError` for an answer that is wrong or leaves a question open."""
    if wrong := taxonomy.check(answer):
        raise ProblemError(*wrong)
    complete = taxonomy.complete(answer)
    lacking = {
        "panel type": complete.panel_type,
        "panel subtype": complete.panel_subtype,
        "global concept": complete.global_concepts,
    }
    open_questions = [f"choose a {what}" for what, value in lacking.items() if not value]
    if open_questions:
        raise ProblemError(*open_questions)


def _vote_payload(desk: Desk, body: VoteBody) -> dict[str, Any]:
    """What is stored. Images that stand for the cluster no more (the archive was compacted, or clustered
    again, while the page was open) are left out."""
    answer = body.answer.answer() if body.verdict == "answered" else Answer()
    known = desk.keys(body.cluster)
    if desk.clusters()[body.cluster].children:
        known |= set(body.shown)
    return {
        "verdict": body.verdict,
        "answer": answer_to_json(answer),
        "outliers": [each for each in body.outliers if each in known],
        "shown": [each for each in body.shown if each in known],
        "suggestions": None if body.suggestion is None else body.suggestion.model_dump(),
        "seconds": round(body.seconds, 1),
        "taxonomy": desk.taxonomy.version,
        "model": desk.model,
    }


def _split(desk: Desk, person: Expert, body: VoteBody) -> str:
    """Cut the cluster and note it; what to tell the expert. The split of a repeated post is the same one."""
    assert body.parts is not None
    if (reason := _whole_because(desk, person, body.cluster)) is not None:
        return f"Saved as mixed, but not split: {reason}"
    try:
        children = split_cluster(desk.archive, desk.name, body.cluster, body.parts)
    except BiomedicaError as error:
        return f"Saved as mixed, but not split: {error}"
    event = Event(
        event=str(uuid.uuid5(uuid.UUID(body.event), "split")),
        expert=person.id,
        cluster=body.cluster,
        kind="split",
        payload={"parts": len(children), "children": list(children), "model": desk.model},
    )
    desk.store.record(event)
    return f"Cluster {body.cluster} is now {len(children)} clusters; they come up like the others."


def _whole_because(desk: Desk, person: Expert, cluster: int) -> str | None:
    """Why one expert must not split a cluster: a split ends all that was said of it. None: they may."""
    if desk.clusters()[cluster].children:
        return None  # it is done
    if any(each.cluster == cluster for each in desk.store.adjudications()):
        return "an adjudicator has decided on this cluster"
    answered = sum(
        vote.cluster == cluster and vote.expert != person.id and vote.verdict == "answered"
        for vote in desk.store.current_votes()
    )
    if answered >= desk.store.round.answers:
        return "it has all the answers that are wanted already"
    return None


def _next(desk: Desk, person: Expert, wants_suggestions: bool) -> dict[str, Any]:
    sizes = desk.sizes()
    found = desk.store.next_cluster(person.id, sizes, desk.settings.lease_minutes)
    progress = asdict(desk.store.progress(person.id, sizes))
    if found is None:
        return {"cluster": None, "progress": progress}
    suggestion = None
    if wants_suggestions and desk.settings.suggestions:
        suggestion = desk.suggestion(found)
    return {
        "cluster": {
            "id": found,
            "size": sizes[found],
            "images": [image_json(each) for each in desk.images(found)],
            "suggestion": None if suggestion is None else _suggestion_json(suggestion),
        },
        "progress": progress,
    }


def _suggestion_json(suggestion: Suggestion) -> dict[str, Any]:
    return {"cluster": suggestion.cluster, "answer": answer_to_json(suggestion.answer)}


def image_json(shown: Shown) -> dict[str, Any]:
    """What the page tells of an image."""
    facts = shown.facts
    return {
        "key": facts.key,
        "kind": shown.kind,
        "caption": facts.caption,
        "label": facts.figure_label,
        "rights": facts.figure_rights,
        "title": facts.title,
        "journal": facts.journal,
        "licence": facts.license_code,
        "pmcid": facts.pmcid,
    }
