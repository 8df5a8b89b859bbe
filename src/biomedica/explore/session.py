"""Who asks: the cookie's owner, the token that only our pages know, and pages for those who have none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from biomedica.explore.desk import Desk
from biomedica.explore.links import same
from biomedica.votes import Expert


def figure(value: float) -> str:
    """Two places, with the sign that print has for minus.

    >>> figure(-0.216)
    '−0.22'
    """
    return f"{value:.2f}".replace("-", "−")


_HERE = Path(__file__).parent
STATIC = _HERE / "static"
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters["number"] = lambda value: f"{value:,}"
_ENVIRONMENT.filters["figure"] = figure
_ENVIRONMENT.filters["percent"] = lambda value: f"{value:.0%}"


def render(template: str, /, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page from its template. Every value is shown as text."""
    return HTMLResponse(_ENVIRONMENT.get_template(template).render(values), status_code=status)


def get_desk(request: Request) -> Desk:
    """The round that this application serves."""
    desk: Desk = request.app.state.desk
    return desk


TheDesk = Annotated[Desk, Depends(get_desk)]


def known_person(request: Request, desk: Desk) -> Expert | None:
    """Whose cookie came with the request."""
    cookie = request.cookies.get(desk.links.cookie_name, "")
    return desk.links.by_cookie(cookie, desk.store.experts()) if cookie else None


def _person(request: Request, desk: TheDesk) -> Expert:
    found = known_person(request, desk)
    if found is None:
        raise HTTPException(403, "open your personal link first")
    if request.method == "POST" and not same(
        request.headers.get("x-csrf-token", ""), desk.links.csrf(found)
    ):
        raise HTTPException(403, "this page is out of date; load it again")
    return found


Person = Annotated[Expert, Depends(_person)]


def _adjudicator(person: Person) -> Expert:
    if person.role != "adjudicator":
        raise HTTPException(403, "this page is for adjudicators: it shows how others voted")
    return person


Adjudicator = Annotated[Expert, Depends(_adjudicator)]


def _voter(person: Person) -> Expert:
    if person.role != "expert":
        raise HTTPException(403, "adjudicators see the votes of others, so they don't vote")
    return person


Voter = Annotated[Expert, Depends(_voter)]


def wants_page(request: Request) -> bool:
    """A person looks at the answer, not a script."""
    return request.method == "GET" and not request.url.path.startswith(("/api/", "/static/"))


def no_entry(request: Request, words: str, status: int) -> Response:
    """The page that says why somebody can't come in or what is not there."""
    return render("notice.html.j2", status=status, words=words, code=status)
