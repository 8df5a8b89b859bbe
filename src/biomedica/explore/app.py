"""The web application of a labelling round, and the server that a command runs."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from biomedica.archive import Archive
from biomedica.cluster import model_digest, read_clusters
from biomedica.errors import BiomedicaError, ConfigError
from biomedica.explore import audit, dashboard, labelling
from biomedica.explore.desk import Desk
from biomedica.explore.guard import Guard
from biomedica.explore.labelling import ProblemError
from biomedica.explore.links import Links
from biomedica.explore.session import STATIC, no_entry, wants_page
from biomedica.explore.settings import LabelPageSettings
from biomedica.explore.suggest import open_words
from biomedica.label import AuditSettings, LabelSettings
from biomedica.records import Answer
from biomedica.taxonomy import Taxonomy, load_taxonomy
from biomedica.votes import Expert, Round, VoteStore, answer_from_json, votes_path

log = logging.getLogger(__name__)

OPERATOR = "Operator"
"""The adjudicator that every round has."""
_LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """A personal link."""

    expert: Expert
    url: str


def create_app(
    archive: Archive,
    votes: VoteStore,
    taxonomy: Taxonomy,
    links: Links,
    settings: LabelPageSettings,
    *,
    hosts: Sequence[str] = _LOCAL,
    label_settings: LabelSettings | None = None,
    audit_settings: AuditSettings | None = None,
) -> FastAPI:
    """The pages of a round. The votes say which clustering it is of.

    hosts   names under which it may be asked; that of `settings.address` is one of them
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, title="biomedica")
    app.state.desk = Desk(
        archive,
        votes.round.clustering,
        votes,
        taxonomy,
        links,
        settings,
        label_settings or LabelSettings(),
        audit_settings or AuditSettings(),
    )
    for part in (labelling, dashboard, audit):
        app.include_router(part.router)
    app.mount("/static", StaticFiles(directory=STATIC))
    app.add_exception_handler(HTTPException, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_bad_body)
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(BiomedicaError, _on_error)
    public = urlsplit(settings.address).hostname
    app.add_middleware(Guard, hosts={*hosts, *([public] if public else [])})
    return app


def _said(request: Request, status: int, *problems: str) -> Response:
    if wants_page(request):
        return no_entry(request, "; ".join(problems), status)
    return JSONResponse({"problems": problems}, status)


def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _said(request, error.status_code, str(error.detail))


def _on_bad_body(request: Request, error: Exception) -> Response:
    """Words instead of the framework's structure; what was sent is not repeated."""
    assert isinstance(error, RequestValidationError)
    words = [
        f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()
    ]
    return _said(request, 422, *words[:10])


def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return _said(request, error.status, *error.problems)


def _on_error(request: Request, error: Exception) -> Response:
    """A wrong request, or an archive that is not as it should be: the message says what would do."""
    return _said(request, 422 if isinstance(error, ConfigError) else 503, str(error))


class LabelServer:
    """A round that is open, on a port that is taken: `invitations`, then `run`.

    Use it with `with`: it closes the votes file.
    """

    def __init__(self, app: FastAPI, desk: Desk, listener: socket.socket) -> None:
        """Use `open_server`."""
        self.app = app
        self._desk = desk
        self._listener = listener

    def __enter__(self) -> LabelServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._desk.store.close()

    @property
    def address(self) -> str:
        """Where the pages are, without a slash at the end."""
        if self._desk.settings.address:
            return self._desk.settings.address.rstrip("/")
        host, port = self._listener.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def invitations(self) -> list[Invitation]:
        """The personal link of everybody in the round."""
        return [
            Invitation(expert=each, url=f"{self.address}/a/{self._desk.links.token(each)}")
            for each in self._desk.store.experts()
        ]

    def run(self) -> None:
        """Serve until the process is told to stop (Ctrl-C, SIGTERM); answers under way are finished."""
        config = uvicorn.Config(
            self.app, log_level="warning", access_log=False, server_header=False, workers=1
        )  # an access log would hold the personal links
        uvicorn.Server(config).run(sockets=[self._listener])


def open_server(
    archive: Archive,
    name: str,
    settings: LabelPageSettings,
    *,
    experts: Sequence[str] = (),
    gold: Path | None = None,
    taxonomy: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8800,
    label_settings: LabelSettings | None = None,
    audit_settings: AuditSettings | None = None,
) -> LabelServer:
    """Open the round of a clustering (made where there is none) and take a port for its pages.

    experts    names to add
    gold       file of known answers; None: those that the round has
    taxonomy   file; None: the shipped one
    port       0: any that is free

    Raises `ConfigError` where there is no such clustering, the votes are of another one, the gold file is
    wrong, the port is in use, or the host means every address and `page.address` names none.
    """
    archive.info()
    tree = load_taxonomy(taxonomy)
    wanted = Round(
        clustering=name,
        model=model_digest(archive, name),
        taxonomy=tree.version,
        answers=settings.answers,
    )
    words = open_words(archive, name, tree) if settings.text_suggestions else None
    known = None if gold is None else read_gold(gold, tree, archive, name)
    listener = _listen(host, port, settings)
    try:
        store = VoteStore.open(votes_path(archive, name), wanted)
        _check_votes(store, tree)
        links = Links.open(votes_path(archive, name).with_suffix(".secret"))
        store.add_expert(OPERATOR, "adjudicator")
        for each in experts:
            store.add_expert(each)
        if known is not None:
            store.set_gold(known)
    except BaseException:
        listener.close()
        raise
    app = create_app(
        archive,
        store,
        tree,
        links,
        settings,
        hosts=(*_LOCAL, host.lower(), listener.getsockname()[0]),
        label_settings=label_settings,
        audit_settings=audit_settings,
    )
    app.state.desk.words = words
    return LabelServer(app, app.state.desk, listener)


def _check_votes(store: VoteStore, taxonomy: Taxonomy) -> None:
    """Raises `ConfigError` where what was said so far does not fit the taxonomy."""
    answers = {each.answer for each in store.current_votes()}
    answers |= {each.answer for each in store.adjudications()} | set(store.gold().values())
    for answer in sorted(answers, key=repr):
        if wrong := taxonomy.check(answer):
            raise ConfigError(
                f"{store.path} holds answers that do not fit taxonomy {taxonomy.version} "
                f"({'; '.join(wrong)}); the round began with {store.round.taxonomy}. Go on with the "
                "taxonomy file that the answers were given in: --taxonomy FILE"
            )


def _listen(host: str, port: int, settings: LabelPageSettings) -> socket.socket:
    if host in ("0.0.0.0", "::", "") and not settings.address:
        raise ConfigError(
            f"--host {host} listens on every address; say under which one experts come, with "
            "--set page.address=https://NAME"
        )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; another --port would do"
        ) from None


def read_gold(path: Path, taxonomy: Taxonomy, archive: Archive, name: str) -> Mapping[int, Answer]:
    """Known answers by cluster, from JSON such as
    `{"17": {"panel_type": "single", "global_concepts": ["maps"]}}`.

    Clusters that were split since are passed over, with a warning. Raises `ConfigError` for a cluster
    that was never there and an answer that contradicts itself.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        answers = {int(cluster): answer_from_json(said) for cluster, said in content.items()}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f'{path} is no gold file ({error}); {{"17": {{"panel_type": "single"}}}} would do'
        ) from None
    clusters = {each.id: each for each in read_clusters(archive, name)}
    for cluster, answer in answers.items():
        if cluster not in clusters:
            raise ConfigError(f"{path}: clustering {name!r} has no cluster {cluster}")
        if wrong := taxonomy.check(answer):
            raise ConfigError(f"{path}: cluster {cluster}: {'; '.join(wrong)}")
    split = {cluster for cluster in answers if clusters[cluster].children}
    for cluster in sorted(split):
        log.warning("%s: cluster %d was split; it is no gold cluster any more", path, cluster)
    return {cluster: answer for cluster, answer in answers.items() if cluster not in split}
