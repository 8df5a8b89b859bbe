"""The audit page: one image and one concept at a time, yes or no."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import APIRouter, HTTPException
from fastapi.responses import Response

from biomedica.errors import ArchiveError
from biomedica.explore.desk import Desk, Shown
from biomedica.explore.labelling import EventId, Id, ProblemError, Seconds, Strict, image_json
from biomedica.explore.session import Person, TheDesk, render
from biomedica.label import AuditImage, names
from biomedica.votes import Audit, Expert

router = APIRouter()


class CheckBody(Strict):
    """An answer about an image."""

    event: EventId
    key: Id
    concept: Id
    answer: Literal["yes", "no", "unsure"]
    seconds: Seconds = 0.0


class TakeBackBody(Strict):
    """The wish to take the last answer back."""

    event: EventId


@router.get("/audit/{run}")
def audit_page(run: str, person: Person, desk: TheDesk) -> Response:
    """The page; images come by script."""
    _check_run(desk, run)
    desk.draw(run)
    return render("audit.html.j2", person=person, csrf=desk.links.csrf(person), run=run)


@router.post("/api/audit/{run}/next")
def next_image(run: str, person: Person, desk: TheDesk) -> dict[str, Any]:
    """The image to check next, and how far the auditor is."""
    return _next(desk, run, person)


@router.post("/api/audit/{run}")
def check(run: str, body: CheckBody, person: Person, desk: TheDesk) -> dict[str, Any]:
    """Store an answer."""
    if all((each.key, each.concept) != (body.key, body.concept) for each in _draw(desk, run)):
        raise ProblemError("that image is not in this audit")
    desk.store.record_audit(
        Audit(
            event=body.event,
            expert=person.id,
            run=run,
            key=body.key,
            concept=body.concept,
            answer=body.answer,
            seconds=round(body.seconds, 1),
        )
    )
    return _next(desk, run, person)


@router.post("/api/audit/{run}/undo")
def undo(run: str, body: TakeBackBody, person: Person, desk: TheDesk) -> dict[str, Any]:
    """Take the auditor's last answer back, and show its image again."""
    drawn = {(each.key, each.concept): each for each in _draw(desk, run)}
    for each in desk.store.all_audits():
        if each.event == body.event:  # a repeated post takes nothing more back
            return _next(desk, run, person, drawn.get((each.key, each.concept)))
    mine = [each for each in desk.store.audits(run) if each.expert == person.id]
    mine = [each for each in mine if (each.key, each.concept) in drawn]
    if not mine:
        raise ProblemError("there is nothing to take back")
    last = mine[-1]
    desk.store.record_audit(
        Audit(
            event=body.event,
            expert=person.id,
            run=run,
            key=last.key,
            concept=last.concept,
            answer="undo",
            seconds=0.0,
        )
    )
    return _next(desk, run, person, drawn[last.key, last.concept])


def _draw(desk: Desk, run: str) -> Sequence[AuditImage]:
    _check_run(desk, run)
    return desk.draw(run)


def _check_run(desk: Desk, run: str) -> None:
    if run not in names(desk.archive):
        raise HTTPException(404, "there are no labels of that name")


def _next(desk: Desk, run: str, person: Expert, first: AuditImage | None = None) -> dict[str, Any]:
    withdrawn = desk.pictures.withdrawn()
    _check_run(desk, run)
    draw = [each for each in desk.present(run) if (each.key, each.shard) not in withdrawn]
    if (
        person.role == "expert"
    ):  # what others made of a cluster is not for those who have yet to vote
        still_open = desk.open_clusters(person.id)
        draw = [each for each in draw if each.cluster not in still_open]
    audits = desk.store.audits(run)
    mine = {(each.key, each.concept) for each in audits if each.expert == person.id}
    answered = Counter((each.key, each.concept) for each in audits if each.expert != person.id)
    left = [each for each in draw if (each.key, each.concept) not in mine]
    if first not in draw:
        first = None
    found = first or min(left, key=order(draw, answered, person), default=None)
    done = sum((each.key, each.concept) in mine for each in draw)
    progress = {"num_done": done, "num_drawn": len(draw), "num_left": len(left)}
    if found is None:
        return {"image": None, "progress": progress}
    facts = desk.pictures.facts([(found.key, found.shard)]).get(found.key)
    if facts is None:  # within this request
        raise ArchiveError(
            f"sample {found.key} was removed from {found.shard}; load the page again"
        )
    concept = desk.taxonomy.concepts[found.concept]
    return {
        "image": image_json(Shown(facts=facts, kind="")),
        "concept": {"id": concept.id, "name": concept.name, "definition": concept.definition},
        "is_second": answered[found.key, found.concept] > 0,
        "progress": progress,
    }


def order(draw: Sequence[AuditImage], answered: Counter[tuple[str, str]], person: Expert) -> Any:
    """Images that nobody has checked come first, concept by concept; every auditor begins elsewhere, so
    that several of them share the work."""
    concepts = list(dict.fromkeys(each.concept for each in draw))
    digest = hashlib.sha256(str(person.id).encode()).digest()
    start = int.from_bytes(digest[:4]) % max(1, len(concepts))
    turn = {each: (i - start) % len(concepts) for i, each in enumerate(concepts)}
    place = {(each.concept, each.key): i for i, each in enumerate(draw)}

    def rank(each: AuditImage) -> tuple[int, int, int]:
        said = answered[each.key, each.concept]
        return said, turn[each.concept], place[each.concept, each.key]

    return rank
