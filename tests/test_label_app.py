"""The label server: who may do what, what is refused and how, and that nothing said to it is lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import stat
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from biomedica.archive import Archive
from biomedica.cluster import (
    ClusterSettings,
    read_clusters,
    read_members,
    split_cluster,
)
from biomedica.cluster import cluster as make_clusters
from biomedica.config import load_settings
from biomedica.embed import embed
from biomedica.errors import ArchiveError, ConfigError
from biomedica.explore import LabelPageSettings
from biomedica.explore.app import LabelServer, open_server
from biomedica.explore.links import Links
from biomedica.explore.suggest import Words
from biomedica.features import FeatureSet
from biomedica.label import LabelSettings, consensus
from biomedica.models import Vectors
from biomedica.preprocessing import Pixels, Preprocessing
from biomedica.records import Answer
from biomedica.run.engines import open_engine
from biomedica.taxonomy import SHIPPED, load_taxonomy
from biomedica.votes import Event, Expert, VoteStore, answer_to_json
from feature_archives import DIMS, small_archive
from label_archive import Server, clustered_archive

GOOD = {
    "panel_type": "single",
    "panel_subtype": "single-panel",
    "global_concepts": ["plots-and-charts"],
    "local_concepts": ["bar-plot"],
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """An archive with clusters; copied before it is changed."""
    return clustered_archive(tmp_path_factory.mktemp("label"))


@pytest.fixture
def archive(built: Archive, tmp_path: Path) -> Archive:
    shutil.copytree(built.root, tmp_path / "archive")
    return Archive(tmp_path / "archive")


@pytest.fixture
def server(archive: Archive) -> Iterator[LabelServer]:
    settings = LabelPageSettings(answers=2)
    with open_server(archive, "default", settings, experts=["Ada", "Ben"], port=0) as opened:
        yield opened


class Browser:
    """What a browser with a personal link does."""

    def __init__(self, server: LabelServer, name: str) -> None:
        self.base = server.address
        self.client = TestClient(server.app, base_url=self.base, follow_redirects=False)
        self.link = next(each.url for each in server.invitations() if each.expert.name == name)
        self.client.get(self.link.removeprefix(self.base))
        page = self.client.get("/dashboard" if name == "Operator" else "/label").text
        self.csrf = page.split('name="csrf" content="')[1].split('"')[0]

    def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        given = {"Origin": self.base, "X-CSRF-Token": self.csrf} | headers
        answer: httpx.Response = self.client.post(path, json=body, headers=given)
        return answer

    def next(self) -> dict[str, Any]:
        found: dict[str, Any] = self.post("/api/next", {}).json()
        return found

    def vote(
        self,
        cluster: int,
        answer: dict[str, Any] | None = None,
        verdict: str = "answered",
        **more: Any,
    ) -> httpx.Response:
        body = {"event": str(uuid.uuid4()), "cluster": cluster, "verdict": verdict, "seconds": 3}
        if verdict == "answered":
            body["answer"] = GOOD if answer is None else answer
        return self.post("/api/vote", body | more)


@pytest.fixture
def ada(server: LabelServer) -> Browser:
    return Browser(server, "Ada")


@pytest.fixture
def operator(server: LabelServer) -> Browser:
    return Browser(server, "Operator")


def store_of(server: LabelServer) -> VoteStore:
    found: VoteStore = server.app.state.desk.store
    return found


def test_a_round_of_one_cluster(server: LabelServer, ada: Browser) -> None:
    """A cluster comes with its images, a vote is stored as given, the next one comes at once."""
    found = ada.next()
    cluster = found["cluster"]
    assert found["progress"] == {
        "num_done": 0,
        "num_skipped": 0,
        "num_left": 8,
        "median_seconds": None,
    }
    assert cluster["images"]
    assert cluster["images"][0]["caption"].startswith("Panel fig")
    keys = [each["key"] for each in cluster["images"]]
    after = ada.vote(cluster["id"], outliers=keys[:1], shown=keys)
    assert after.status_code == 200
    assert after.json()["cluster"]["id"] != cluster["id"]
    (vote,) = store_of(server).current_votes()
    assert vote.answer.local_concepts == ("bar-plot",)
    assert (vote.outliers, vote.shown) == ((keys[0],), tuple(keys))
    for path in (f"/thumb/{keys[0]}", f"/image/{keys[0]}"):
        picture = ada.client.get(path)
        assert picture.headers["content-type"] == "image/jpeg"
        assert picture.content.startswith(b"\xff\xd8")


def test_undo_skip_and_the_end(ada: Browser) -> None:
    """Undo brings the answer back, however often it is posted; skipped ones come last; then the end."""
    first = ada.next()["cluster"]["id"]
    ada.vote(first, outliers=[], shown=[])
    second = ada.next()["cluster"]["id"]
    body = {"event": str(uuid.uuid4()), "suggestions": False}
    for _ in range(2):
        found = ada.post("/api/undo", body).json()
        assert found["cluster"]["id"] == first
        assert found["previous"]["answer"]["local_concepts"] == ["bar-plot"]
    ada.vote(first)
    assert ada.next()["cluster"]["id"] == second
    ada.post("/api/skip", {"event": str(uuid.uuid4()), "cluster": second})
    seen = []
    while (cluster := ada.next()["cluster"]) is not None:
        seen.append(cluster["id"])
        ada.vote(cluster["id"])
    assert len(seen) == 7
    assert seen[-1] == second
    assert ada.next()["progress"]["num_left"] == 0


def test_mixed_splits(server: LabelServer, archive: Archive, ada: Browser) -> None:
    """The parts enter the queue, the cluster leaves it; the same post again changes nothing."""
    cluster = ada.next()["cluster"]
    body = {
        "event": str(uuid.uuid4()),
        "cluster": cluster["id"],
        "verdict": "mixed",
        "parts": 3,
        "shown": [each["key"] for each in cluster["images"]],
        "outliers": [],
    }
    for _ in range(2):
        told = ada.post("/api/vote", body)
        assert told.json()["told"].startswith(f"Cluster {cluster['id']} is now 3 clusters")
    info = read_clusters(archive, "default")[cluster["id"]]
    assert info.children == (8, 9, 10)
    kinds = [event.kind for _, event in store_of(server).events()]
    assert kinds == ["vote", "split"]
    ben = Browser(server, "Ben")
    seen = set()
    while (found := ben.next()["cluster"]) is not None:
        seen.add(found["id"])
        ben.vote(found["id"])
    assert seen == {*range(11)} - {cluster["id"]}
    assert ada.post("/api/undo", {"event": str(uuid.uuid4())}).json() == {
        "problems": [f"your last answer stays: cluster {cluster['id']} was split: a split stays"]
    }
    late = ben.vote(cluster["id"])
    assert late.status_code == 409
    assert "split into parts meanwhile" in late.json()["problems"][0]


def test_a_cluster_that_cannot_be_split(
    server: LabelServer, archive: Archive, ada: Browser
) -> None:
    """It stays mixed, and the page says why it was not split."""
    small = min(read_clusters(archive, "default"), key=lambda each: each.size)
    while small.size > 1:
        small = min(
            (
                read_clusters(archive, "default")[i]
                for i in split_cluster(archive, "default", small.id)
            ),
            key=lambda each: each.size,
        )
    told = ada.vote(small.id, verdict="mixed", parts=2).json()["told"]
    assert told.startswith("Saved as mixed, but not split")
    assert store_of(server).current_votes()[0].verdict == "mixed"


def test_a_split_that_fails_locks_nobody_out(
    server: LabelServer, ada: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong with the archive, the answer is stored, and the next cluster comes."""

    def fail(*_: object) -> tuple[int, ...]:
        raise ArchiveError("features 'default' are damaged")

    monkeypatch.setattr("biomedica.explore.labelling.split_cluster", fail)
    cluster = ada.next()["cluster"]["id"]
    found = ada.vote(cluster, verdict="mixed", parts=2).json()
    assert found["told"] == "Saved as mixed, but not split: features 'default' are damaged"
    assert found["cluster"]["id"] != cluster


def test_one_expert_does_not_undo_what_others_said(
    server: LabelServer, archive: Archive, ada: Browser, operator: Browser
) -> None:
    """A cluster with all its answers, or with a decision, is not split; mixed is stored all the same."""
    ben, cy = Browser(server, "Ben"), store_of(server).add_expert("Cy")
    payload = {"verdict": "answered", "answer": GOOD, "seconds": 1}
    for cluster in (0, 1):
        event = Event(
            event=str(uuid.uuid4()), expert=cy.id, cluster=cluster, kind="vote", payload=payload
        )
        store_of(server).record(event)
    ben.vote(0)
    told = ada.vote(0, verdict="mixed", parts=2).json()["told"]
    assert told.endswith("it has all the answers that are wanted already")
    decision = {
        "event": str(uuid.uuid4()),
        "cluster": 1,
        "verdict": "ambiguous",
        "reason": "neither",
    }
    operator.post("/api/adjudicate", decision)
    told = ada.vote(1, verdict="mixed", parts=2).json()["told"]
    assert told.endswith("an adjudicator has decided on this cluster")
    assert not any(each.children for each in read_clusters(archive, "default"))


def test_images_that_left_meanwhile(server: LabelServer, ada: Browser) -> None:
    """A vote is stored without the keys that stand for the cluster no more."""
    cluster = ada.next()["cluster"]
    keys = [each["key"] for each in cluster["images"]]
    found = ada.vote(cluster["id"], shown=[*keys, "PMC1_gone"], outliers=["PMC1_gone", keys[0]])
    assert found.status_code == 200
    (vote,) = store_of(server).current_votes()
    assert (vote.shown, vote.outliers) == (tuple(keys), (keys[0],))


def test_blind(server: LabelServer, ada: Browser) -> None:
    """What others answered changes nothing that an expert receives but how much is left."""
    ben = Browser(server, "Ben")
    before = ben.next()
    cluster = before["cluster"]["id"]
    event = Event(
        event=str(uuid.uuid4()),
        expert=2,
        cluster=cluster,
        kind="vote",
        payload={"verdict": "answered", "answer": GOOD, "outliers": [], "seconds": 1},
    )
    store_of(server).record(event)
    after = ben.next()
    assert after == before
    for path in ("/dashboard", "/clusters", "/adjudicate/1", "/api/adjudicate/1"):
        assert ben.client.get(path).status_code == 403
    text = json.dumps(after)
    assert "bar-plot" not in text
    assert "gold" not in text


def test_suggestions(server: LabelServer, archive: Archive) -> None:
    """Only where both the server and the expert want them; never from votes on the cluster itself."""
    store, desk = store_of(server), server.app.state.desk
    sizes = desk.sizes()
    ada = Browser(server, "Ada")
    target = ada.next()["cluster"]["id"]
    for cluster in sizes:
        for expert in (2, 3):
            if (cluster, expert) != (target, 2):
                payload = {"verdict": "answered", "answer": GOOD, "seconds": 1}
                event = Event(
                    event=str(uuid.uuid4()),
                    expert=expert,
                    cluster=cluster,
                    kind="vote",
                    payload=payload,
                )
                store.record(event)
    assert ada.next()["cluster"]["suggestion"] is None
    found = ada.post("/api/next", {"suggestions": True}).json()["cluster"]
    assert found["id"] == target
    suggestion = found["suggestion"]
    if suggestion is not None:  # none near: then none is shown
        assert suggestion["cluster"] != target
        ada.vote(target, suggestion=suggestion | {"taken": True})
        payload = store.events()[-1][1].payload
        assert payload["suggestions"]["taken"] is True


class ByHand:
    """An encoder whose vectors for words are chosen: each concept has a direction of its own."""

    name = "by hand"
    digest = "d" * 64
    dims = 300
    preprocessing = Preprocessing(size=8, fit="pad")

    def images(self, pixels_NHWC: Pixels) -> Vectors:
        raise NotImplementedError

    def texts(self, texts: Sequence[str]) -> Vectors:
        return np.eye(len(texts), self.dims, dtype=np.float32)


class OfSeed(ByHand):
    """Words of the same length as the features of the test's archive."""

    def texts(self, texts: Sequence[str]) -> Vectors:
        return np.random.default_rng(0).normal(size=(len(texts), DIMS)).astype(np.float32)


def test_words_suggest() -> None:
    """The concept whose words are nearest, with what it implies; nothing is said of panels."""
    taxonomy = load_taxonomy()
    words = Words(ByHand(), taxonomy)
    for wanted in ("bar-plot", "confocal-microscopy", "maps"):
        found = words.nearest(np.eye(300, dtype=np.float32)[list(taxonomy.concepts).index(wanted)])
        assert found.cluster is None
        assert wanted in (*found.answer.global_concepts, *found.answer.local_concepts)
        assert found.answer.global_concepts == (taxonomy.global_of(wanted),)
        assert found.answer.panel_type is None


def test_words_on_the_page(server: LabelServer, ada: Browser) -> None:
    """Without a labelled cluster near, the page gets what words say, and the vote says so."""
    desk = server.app.state.desk
    desk.words = Words(OfSeed(), load_taxonomy())
    cluster = ada.post("/api/next", {"suggestions": True}).json()["cluster"]
    assert cluster["suggestion"]["cluster"] is None
    assert cluster["suggestion"]["answer"]["global_concepts"]
    assert ada.vote(cluster["id"], suggestion=cluster["suggestion"]).status_code == 200
    assert store_of(server).events()[0][1].payload["suggestions"]["cluster"] is None


def test_words_need_an_encoder_that_reads(archive: Archive) -> None:
    """Features that no such encoder made are refused when the server starts."""
    with pytest.raises(ConfigError, match="unknown encoder 'made'"):
        open_server(archive, "default", LabelPageSettings(text_suggestions=True), port=0)


@pytest.mark.clients
def test_words_of_open_clip(tmp_path: Path) -> None:
    """The whole way with open_clip, with weights made of a seed."""
    pytest.importorskip("open_clip")
    archive = small_archive(tmp_path, num_articles=4, samples=40)
    engine = open_engine("inline", None, None)
    settings = load_settings(None, [])
    embed(archive, "open_clip:RN50,pretrained=none", settings.embed, settings.run, engine)
    features = FeatureSet.open(archive, "RN50-none")
    make_clusters(archive, features, ClusterSettings(clusters=2, components=2))
    page = LabelPageSettings(text_suggestions=True)
    with open_server(archive, "default", page, experts=["Ada"], port=0) as server:
        found = Browser(server, "Ada").post("/api/next", {"suggestions": True}).json()
    assert found["cluster"]["suggestion"]["answer"]["global_concepts"]


def test_outsiders_see_one_page(server: LabelServer) -> None:
    """Without a link: the first page, and nothing else."""
    client = TestClient(server.app, base_url=server.address, follow_redirects=False)
    assert "personal link" in client.get("/").text
    for path in ("/label", "/dashboard", "/audit/default", "/adjudicate/1", "/thumb/x"):
        answer = client.get(path)
        assert answer.status_code == 403
        assert "personal link" in answer.text
    assert client.get("/api/taxonomy").status_code == 403
    for path in ("/api/next", "/api/vote", "/api/experts", "/api/adjudicate"):
        answer = client.post(path, json={}, headers={"Origin": server.address})
        assert answer.status_code in (403, 422)
        assert "cluster" not in answer.json()
    for path in ("/docs", "/openapi.json", "/redoc", "/static/../app.py", "/static/%2e%2e/app.py"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize("token", ["2-", "2-AAAA", "x", "-", "99-abc", "2-" + "A" * 43, "é-é"])
def test_bad_tokens(server: LabelServer, token: str) -> None:
    client = TestClient(server.app, base_url=server.address)
    answer = client.get(f"/a/{token}")
    assert answer.status_code == 403
    assert not client.cookies


def test_a_link_of_one_is_not_of_another(server: LabelServer) -> None:
    """A token with another's number, a cookie from a token, a cookie of another archive: nobody."""
    tokens = {each.expert.name: each.url.rsplit("/", 1)[1] for each in server.invitations()}
    links: Links = server.app.state.desk.links
    client = TestClient(server.app, base_url=server.address)
    swapped = "3-" + tokens["Ada"].split("-", 1)[1]
    assert client.get(f"/a/{swapped}").status_code == 403
    other = Links(secret=b"x" * 32)
    ada = Expert(id=2, name="Ada", role="expert", created=store_of(server).experts()[1].created)
    for value in (tokens["Ada"], other.cookie(ada), "2-", ""):
        client.cookies.set(links.cookie_name, value)
        assert client.get("/label").status_code == 403
    client.cookies.set(links.cookie_name, links.cookie(ada))
    assert client.get("/label").status_code == 200
    assert other.cookie_name != links.cookie_name


def test_cookie(server: LabelServer) -> None:
    """Not for scripts, not for other sites."""
    client = TestClient(server.app, base_url=server.address)
    link = next(each.url for each in server.invitations() if each.expert.name == "Ada")
    answer = client.get(link.removeprefix(server.address))
    said = answer.headers["set-cookie"]
    assert "HttpOnly" in said
    assert "SameSite=strict" in said
    assert "Path=/" in said


def test_foreign_posts(server: LabelServer, ada: Browser) -> None:
    """Another origin, none, a missing token or one of somebody else, another host: refused, not stored."""
    cluster = ada.next()["cluster"]["id"]
    body = {"event": str(uuid.uuid4()), "cluster": cluster, "verdict": "ambiguous"}
    ben = Browser(server, "Ben")
    refused = [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": server.address.replace("127.0.0.1", "localhost")},
        {"Origin": server.address + "1"},
        {"Origin": "http://["},
        {"X-CSRF-Token": ""},
        {"X-CSRF-Token": ben.csrf},
    ]
    for headers in refused:
        assert ada.post("/api/vote", body, **headers).status_code == 403, headers
    bare = ada.client.post("/api/vote", json=body, headers={"X-CSRF-Token": ada.csrf})
    assert bare.status_code == 403
    for host in ("evil.example", "127.0.0.1.evil.example", "", "[", "127.0.0.1@evil.example"):
        answer = ada.client.get("/label", headers={"Host": host})
        assert answer.status_code == 421, host
    assert ada.client.put("/label").status_code == 405
    assert store_of(server).events() == []
    assert ada.post("/api/vote", body).status_code == 200


def test_headers(ada: Browser) -> None:
    """Scripts from here alone, no frames, no cached pages, on errors too."""
    for path in ("/label", "/", "/nowhere", "/api/taxonomy", "/static/label.js"):
        headers = ada.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    refused = ada.client.get("/label", headers={"Host": "evil.example"})
    assert "frame-ancestors 'none'" in refused.headers["content-security-policy"]


def test_keys_choose_no_path(ada: Browser, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A key is looked up among those of the pages; whatever else it is, there is no such picture."""
    (tmp_path_factory.getbasetemp() / "secret.txt").write_text("secret")
    for key in (
        "../../archive.json",
        "..%2f..%2farchive.json",
        "%2e%2e/%2e%2e/archive.json",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "PMC999-1-other_archive",
        "x' OR 1=1 --",
        "%00",
        "k" * 3000,
    ):
        for kind in ("thumb", "image"):
            assert ada.client.get(f"/{kind}/{key}").status_code == 404, key


def test_withdrawn_samples_are_not_shown(archive: Archive, ada: Browser) -> None:
    """As soon as the archive withdraws a sample, neither page nor picture gives it."""
    cluster = ada.next()["cluster"]
    key = cluster["images"][0]["key"]
    members = read_members(archive, "default", cluster["id"])
    shard = next(each.shard for each in members if each.key == key)
    assert ada.client.get(f"/thumb/{key}").status_code == 200
    rows = pq.read_table(next((archive.root / "figures").rglob(f"{shard}.parquet"))).to_pylist()
    row = next(each for each in rows if each["key"] == key)
    tombstone = {name: row[name] for name in ("key", "shard", "pmcid", "version")}
    archive.set_tombstones([{**tombstone, "reason": "retracted", "since": None}])
    assert ada.client.get(f"/thumb/{key}").status_code == 404
    assert key not in [each["key"] for each in ada.next()["cluster"]["images"]]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (GOOD | {"panel_type": "multiple"}, "is for panel type 'single'"),
        (GOOD | {"local_concepts": ["bar-plott"]}, "did you mean 'bar-plot'"),
        (GOOD | {"global_concepts": ["bar-plot"]}, "is no global concept"),
        (GOOD | {"panel_type": None, "panel_subtype": None}, "choose a panel type"),
        (GOOD | {"global_concepts": [], "local_concepts": []}, "choose a global concept"),
        (GOOD | {"shape": "round"}, "answer.shape"),
        (GOOD | {"global_concepts": "maps"}, "answer.global_concepts"),
        (GOOD | {"local_concepts": ["x" * 500]}, "at most 120 characters"),
    ],
)
def test_answers_that_are_wrong(
    server: LabelServer, ada: Browser, answer: dict[str, Any], words: str
) -> None:
    """422, with words, and nothing stored."""
    found = ada.vote(ada.next()["cluster"]["id"], answer)
    assert found.status_code == 422
    assert words in " ".join(found.json()["problems"])
    assert store_of(server).events() == []


@pytest.mark.parametrize(
    "more",
    [
        {"event": "17"},
        {"event": "A" * 36},
        {"cluster": 99},
        {"cluster": -1},
        {"cluster": 2**70},
        {"seconds": -1},
        {"seconds": 1e9},
        {"verdict": "perhaps"},
        {"parts": 9},
        {"shown": ["../no-such-key"]},
        {"outliers": ["no-such-key"]},
        {"suggestion": {"cluster": 1, "answer": GOOD | {"panel_type": "<script>"}}},
        {"surprise": 1},
    ],
)
def test_votes_that_are_wrong(server: LabelServer, ada: Browser, more: dict[str, Any]) -> None:
    found = ada.vote(**({"cluster": ada.next()["cluster"]["id"]} | more))
    assert found.status_code == 422
    assert found.json()["problems"]
    assert store_of(server).events() == []


def test_bodies_that_are_no_json(ada: Browser) -> None:
    """Junk is refused with words; large bodies before they are read, whatever they say of their size."""
    headers = {"Origin": ada.base, "X-CSRF-Token": ada.csrf, "Content-Type": "application/json"}
    for junk in (b"{", b"[]", b"null", b"\xff\xfe", b'"text"', b"9" * 5000):
        assert ada.client.post("/api/vote", content=junk, headers=headers).status_code in (400, 422)
    large = b" " * 300_000
    assert ada.client.post("/api/vote", content=large, headers=headers).status_code == 413
    chunked = (large[:50_000] for _ in range(6))
    assert ada.client.post("/api/vote", content=chunked, headers=headers).status_code == 413


def test_markup_is_text(server: LabelServer, archive: Archive, operator: Browser) -> None:
    """Names and reasons that hold markup stand escaped in every page."""
    name = "<script>alert(1)</script>"
    assert operator.post("/api/experts", {"name": name}).status_code == 200
    stranger = next(each for each in server.invitations() if each.expert.name == name)
    client = TestClient(server.app, base_url=server.address)
    pages = [client.get(stranger.url.removeprefix(server.address)).text, client.get("/label").text]
    cluster = next(iter(server.app.state.desk.sizes()))
    body = {
        "event": str(uuid.uuid4()),
        "cluster": cluster,
        "verdict": "ambiguous",
        "reason": "<img src=x onerror=alert(1)>",
    }
    assert operator.post("/api/adjudicate", body).status_code == 200
    pages += [operator.client.get(p).text for p in ("/dashboard", f"/adjudicate/{cluster}")]
    for page in pages:
        assert "<script>alert" not in page
        assert "<img src=x" not in page
    assert "&lt;script&gt;" in pages[0]
    assert operator.post("/api/experts", {"name": "x" * 100}).status_code == 422
    assert operator.post("/api/experts", {"name": "y", "role": "king"}).status_code == 422


def test_roles(ada: Browser, operator: Browser) -> None:
    """Who sees votes doesn't vote; who votes sees none, adds nobody and settles nothing."""
    assert operator.client.get("/label").status_code == 403
    assert operator.post("/api/next", {}).status_code == 403
    assert ada.post("/api/experts", {"name": "Eve"}).status_code == 403
    body = {"event": str(uuid.uuid4()), "cluster": 0, "verdict": "ambiguous", "reason": "r"}
    assert ada.post("/api/adjudicate", body).status_code == 403


def test_adjudication(server: LabelServer, ada: Browser, operator: Browser) -> None:
    """A tie waits, is settled with a reason, becomes the label, and can be reopened."""
    ben = Browser(server, "Ben")
    other = GOOD | {"global_concepts": ["maps"], "local_concepts": []}
    cluster = ada.next()["cluster"]["id"]
    ada.vote(cluster)
    ben.vote(cluster, other)
    page = operator.client.get("/dashboard").text
    assert f'href="/adjudicate/{cluster}"' in page
    page = operator.client.get(f"/adjudicate/{cluster}").text
    assert "Bar plot" in page
    assert "Maps" in page
    start = operator.client.get(f"/api/adjudicate/{cluster}").json()
    assert start["answer"]["panel_type"] == "single"
    assert start["answer"]["global_concepts"] == []
    assert "global_concepts" in start["disputed"]
    body = {
        "event": str(uuid.uuid4()),
        "cluster": cluster,
        "verdict": "answered",
        "answer": GOOD,
        "reason": " ",
    }
    refused = operator.post("/api/adjudicate", body)
    assert refused.json()["problems"] == ["say why: a decision needs a reason"]
    done = operator.post("/api/adjudicate", body | {"reason": "axes in all of them"})
    assert done.json() == {"following": None, "num_waiting": 0}
    labels = {each.cluster: each for each in server.app.state.desk.labels()}
    assert labels[cluster].is_adjudicated
    assert labels[cluster].answer.local_concepts == ("bar-plot",)
    assert "axes in all of them" in operator.client.get("/dashboard").text
    page = operator.client.get("/clusters").text
    assert page.count('scope="row"') == 8
    assert "labelled, settled" in page
    again = {"event": str(uuid.uuid4()), "cluster": cluster}
    for _ in range(2):
        assert operator.post("/api/adjudicate/undo", again).json() == {"cluster": cluster}
        assert not any(each.is_adjudicated for each in server.app.state.desk.labels())
    again["event"] = str(uuid.uuid4())
    assert operator.post("/api/adjudicate/undo", again).status_code == 422
    assert operator.client.get("/adjudicate/99").status_code == 404


def test_audit(server: LabelServer, archive: Archive, ada: Browser) -> None:
    """Every image drawn comes once, an answer can be taken back, and all of it is stored."""
    desk = server.app.state.desk
    for cluster in desk.sizes():
        for expert in (2, 3):
            payload = {"verdict": "answered", "answer": GOOD, "seconds": 1}
            event = Event(
                event=str(uuid.uuid4()),
                expert=expert,
                cluster=cluster,
                kind="vote",
                payload=payload,
            )
            desk.store.record(event)
    make_labels(archive, desk.store)
    assert ada.client.get("/audit/default").status_code == 200
    for name in ("none", "%00", "published"):
        answer = ada.client.get(f"/audit/{name}")
        assert answer.status_code == 404
        assert str(archive.root) not in answer.text
    drawn = len(desk.draw("default"))
    found = ada.post("/api/audit/default/next", {}).json()
    seen = []
    while found["image"] is not None:
        place = (found["image"]["key"], found["concept"]["id"])
        seen.append(place)
        body = {"event": str(uuid.uuid4()), "key": place[0], "concept": place[1], "answer": "yes"}
        found = ada.post("/api/audit/default", body).json()
    assert len(seen) == len(set(seen)) == drawn
    back = {"event": str(uuid.uuid4())}
    for _ in range(2):
        found = ada.post("/api/audit/default/undo", back).json()
        assert (found["image"]["key"], found["concept"]["id"]) == seen[-1]
    assert len(desk.store.audits("default")) == drawn - 1
    body |= {"event": str(uuid.uuid4()), "key": "other"}
    assert ada.post("/api/audit/default", body).status_code == 422


def test_audit_of_what_is_left(server: LabelServer, archive: Archive, ada: Browser) -> None:
    """Images that a compaction removed are passed over; so are clusters that the expert has yet to answer."""
    desk = server.app.state.desk
    cy = desk.store.add_expert("Cy").id
    VoteStore.open(desk.store.path, replace(desk.store.round, answers=3)).close()
    for cluster in desk.sizes():
        payload = {"verdict": "answered", "answer": GOOD, "seconds": 1}
        for expert in (2, 3, cy):
            if (expert, cluster) != (2, 0):
                event = Event(
                    event=str(uuid.uuid4()),
                    expert=expert,
                    cluster=cluster,
                    kind="vote",
                    payload=payload,
                )
                desk.store.record(event)
    make_labels(archive, desk.store)
    draw = desk.draw("default")
    assert 0 in {each.cluster for each in draw}
    others = [each for each in draw if each.cluster != 0]
    progress = ada.post("/api/audit/default/next", {}).json()["progress"]
    assert progress["num_drawn"] == len(others)
    gone = others[0]
    path = next((archive.root / "figures").rglob(f"{gone.shard}.parquet"))
    table = pq.read_table(path)
    pq.write_table(table.filter(pc.not_equal(table["key"], gone.key)), path)
    found = ada.post("/api/audit/default/next", {}).json()
    lost = sum(each.key == gone.key for each in others)
    assert found["progress"]["num_drawn"] == len(others) - lost
    assert found["image"]["key"] != gone.key


def make_labels(archive: Archive, store: VoteStore) -> None:
    """Labels of the votes of now, as `biomedica labels` makes them."""
    from biomedica.annotate import make_labels as make

    make(archive, "default", LabelSettings())


def test_opening(archive: Archive, tmp_path: Path) -> None:
    """What can't be served is refused before a port is shown: each message says what would do."""
    settings = LabelPageSettings()
    with pytest.raises(ConfigError, match="no clustering 'other'"):
        open_server(archive, "other", settings, port=0)
    with pytest.raises(ConfigError, match=r"page\.address"):
        open_server(archive, "default", settings, host="0.0.0.0", port=0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}"):
            open_server(archive, "default", settings, port=port)
    gold = tmp_path / "gold.json"
    for content, words in (
        ("[]", "no gold file"),
        ("{", "no gold file"),
        ('{"99": {}}', "no cluster 99"),
        ('{"1": {"panel_type": "x"}}', "no panel type 'x'"),
    ):
        gold.write_text(content)
        with pytest.raises(ConfigError, match=words):
            open_server(archive, "default", settings, gold=gold, port=0)
    gold.write_text('{"1": {"panel_type": "single", "global_concepts": ["maps"]}}')
    with open_server(archive, "default", settings, gold=gold, port=0) as server:
        known = {1: Answer(panel_type="single", global_concepts=("maps",))}
        assert store_of(server).gold() == known
        assert [each.expert.name for each in server.invitations()] == ["Operator"]
    split_cluster(archive, "default", 1)
    with open_server(archive, "default", settings, gold=gold, host="LocalHost", port=0) as server:
        assert store_of(server).gold() == {}
        for host in (server.address.removeprefix("http://"), "LocalHost"):
            client = TestClient(server.app, base_url=server.address)
            assert client.get("/", headers={"Host": host}).status_code == 200
    for wrong in ({"answers": 0}, {"address": "label.example.org"}, {"lease_minutes": 0.0}):
        with pytest.raises(ConfigError, match="would do"):
            LabelPageSettings(**wrong)  # type: ignore[arg-type]


def test_another_taxonomy_in_a_running_round(archive: Archive, tmp_path: Path) -> None:
    """The server does not open on votes that its taxonomy can't read, and says what would do."""
    settings = LabelPageSettings()
    with open_server(archive, "default", settings, experts=["Ada"], port=0) as server:
        Browser(server, "Ada").vote(0)
    other = tmp_path / "taxonomy.toml"
    other.write_text(
        SHIPPED.read_text().replace('"bar-plot"', '"bars"').replace(".bar-plot]", ".bars]")
    )
    with pytest.raises(ConfigError, match=r"no concept 'bar-plot'.*--taxonomy FILE"):
        open_server(archive, "default", settings, taxonomy=other, port=0)


def test_a_public_address(archive: Archive) -> None:
    """Behind a proxy the links, the Host and the cookie are those of the address outside."""
    settings = LabelPageSettings(address="https://label.example.org/")
    with open_server(archive, "default", settings, experts=["Ada"], port=0) as server:
        url = next(each.url for each in server.invitations() if each.expert.name == "Ada")
        assert url.startswith("https://label.example.org/a/")
        client = TestClient(server.app, base_url="https://label.example.org")
        answer = client.get(url)
        assert answer.status_code == 200
        assert "Secure" in answer.headers["set-cookie"]


def test_secret(tmp_path: Path) -> None:
    """Made once, readable by its owner alone; refused when others can read it or it is cut."""
    path = tmp_path / "default.secret"
    with ThreadPoolExecutor(8) as pool:
        secrets = {each.secret for each in pool.map(lambda _: Links.open(path), range(8))}
    assert len(secrets) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Links.open(path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="5 bytes"):
        Links.open(path)


class Client(threading.Thread):
    """An expert whose machine doesn't give up: posts until it is answered, with the same event."""

    def __init__(self, server: Server, name: str, seed: int) -> None:
        super().__init__()
        self._server = server
        self._name = name
        self._source = random.Random(seed)
        self.acknowledged: list[tuple[str, int]] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with httpx.Client(base_url=self._server.address, timeout=10, trust_env=False) as http:
                self._work(http)
        except BaseException as error:
            self.error = error

    def _work(self, http: httpx.Client) -> None:
        self._try(lambda: http.get(self._server.links[self._name]))
        page = self._try(lambda: http.get("/label")).text
        csrf = page.split('name="csrf" content="')[1].split('"')[0]
        headers = {"Origin": self._server.address, "X-CSRF-Token": csrf}

        def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
            answer = self._try(lambda: http.post(path, json=body, headers=headers))
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()
            return found

        found = post("/api/next", {})
        while found["cluster"] is not None:
            cluster = found["cluster"]["id"]
            body = {"event": str(uuid.uuid4()), "cluster": cluster, "verdict": "answered"}
            found = post("/api/vote", body | {"answer": GOOD, "seconds": 1})
            self.acknowledged.append((body["event"], cluster))

    def _try(self, ask: Any) -> httpx.Response:
        until = time.monotonic() + 60
        while True:
            try:
                answer: httpx.Response = ask()
                if answer.status_code < 500:
                    return answer
            except httpx.TransportError:
                pass
            assert time.monotonic() < until
            time.sleep(self._source.uniform(0.02, 0.2))


@pytest.mark.slow
def test_twenty_experts_while_the_server_is_killed(archive: Archive) -> None:
    """Twenty experts answer every cluster while the server is killed again and again: every vote that
    was acknowledged is there once, and every expert answered every cluster once."""
    names = [f"Expert {number}" for number in range(20)]
    server = Server(archive.root, names, answers=20)
    clients = [Client(server, name, seed) for seed, name in enumerate(names)]
    for client in clients:
        client.start()
    source = random.Random(3)
    kills = 0
    while any(client.is_alive() for client in clients) and kills < 6:
        time.sleep(source.uniform(0.3, 1.2))
        server.kill()
        kills += 1
        server.start()
    for client in clients:
        client.join(timeout=120)
    code = server.stop()
    assert [client.error for client in clients if client.error] == []
    assert code in (0, -signal.SIGTERM)
    acknowledged = [event for client in clients for event, _ in client.acknowledged]
    with VoteStore.open(archive.root / "votes" / "default.sqlite") as store:
        stored = Counter(event.event for _, event in store.events())
        votes = store.current_votes()
    assert kills >= 3
    assert set(stored.values()) == {1}
    assert set(stored) == set(acknowledged)
    assert len(acknowledged) == 20 * 8
    assert Counter(vote.cluster for vote in votes) == dict.fromkeys(range(8), 20)


def test_consensus_reads_the_votes(server: LabelServer, archive: Archive, ada: Browser) -> None:
    """What the page stores is what labels are made of."""
    ben = Browser(server, "Ben")
    cluster = ada.next()["cluster"]["id"]
    ada.vote(cluster)
    ben.vote(cluster)
    store = store_of(server)
    labels = consensus(
        store.current_votes(),
        store.adjudications(),
        load_taxonomy(),
        LabelSettings(),
        read_clusters(archive, "default"),
    )
    found = next(each for each in labels if each.cluster == cluster)
    assert answer_to_json(found.answer) == GOOD
    assert os.environ["HTTP_PROXY"].startswith("http://127.0.0.1")  # no test leaves this machine
