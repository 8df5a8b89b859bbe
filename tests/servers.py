"""Servers for tests, all on this machine: a bucket, a proxy that breaks what passes, E-utilities.

Each is a context manager and counts what it was asked.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
from botocore.config import Config
from moto.server import ThreadedMotoServer

BUCKET = "pmc-oa-opendata"
_MANY = 64
"""Connections that may wait to be accepted."""


class MotoBucket:
    """A bucket of a real moto server, readable without an account."""

    def __init__(self, endpoint: str, name: str) -> None:
        self.endpoint = endpoint
        self.name = name
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(proxies={}, retries={"max_attempts": 1}),
        )
        self._client.create_bucket(Bucket=self.name, ACL="public-read")
        self._known: dict[str, bytes] = {}

    def put(self, key: str, data: bytes) -> None:
        """Store one object."""
        self._client.put_object(Bucket=self.name, Key=key, Body=data, ACL="public-read")
        self._known[key] = data

    def delete(self, key: str) -> None:
        """Remove one object."""
        self._client.delete_object(Bucket=self.name, Key=key)
        self._known.pop(key, None)

    def sync(self, folder: Path) -> None:
        """Make the bucket hold what the folder holds: changed objects are put, others deleted."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        for key in sorted(set(self._known) - set(files)):
            self.delete(key)
        for key, data in files.items():
            if self._known.get(key) != data:
                self.put(key, data)

    def close(self) -> None:
        """Remove the bucket: all servers of this process share moto's memory."""
        for number in range(0, len(self._known), 1000):
            some = [{"Key": key} for key in list(self._known)[number : number + 1000]]
            self._client.delete_objects(Bucket=self.name, Delete={"Objects": some, "Quiet": True})
        self._client.delete_bucket(Bucket=self.name)
        self._client.close()


@contextmanager
def moto_bucket(folder: Path | None = None, name: str = BUCKET) -> Iterator[MotoBucket]:
    """A moto server with one bucket, filled from a folder with the cloud service's layout."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        bucket = MotoBucket(f"http://{host}:{port}", name)
        try:
            if folder is not None:
                bucket.sync(folder)
            yield bucket
        finally:
            bucket.close()
    finally:
        server.stop()


class Fault(StrEnum):
    """What the proxy may do to an answer, apart from an HTTP status of its own."""

    DROP = "drop"
    """Close the connection without an answer."""
    TRUNCATE = "truncate"
    """State the full length, send half of it, close."""
    CORRUPT = "corrupt"
    """Send the right number of bytes, some of them changed."""
    SLOW = "slow"
    """Wait for longer than any client does."""


@dataclass(slots=True)
class Rule:
    """Requests for keys that match `pattern` get `fault`: an HTTP status, or a `Fault`.

    pattern   as in a shell; against `PMC1.1/a.jpg`, or `?prefix=...` of a listing
    times     requests of each key that are hit; None for all
    after     requests in all that pass before the first is hit
    """

    pattern: str
    fault: Fault | int
    times: int | None = None
    after: int = 0
    passed: int = 0
    hits: Counter[str] = field(default_factory=Counter)

    def applies(self, key: str) -> bool:
        """Whether this request is hit; counts it."""
        if not fnmatchcase(key, self.pattern):
            return False
        if self.passed < self.after:
            self.passed += 1
            return False
        if self.times is not None and self.hits[key] >= self.times:
            return False
        self.hits[key] += 1
        return True


class FaultProxy:
    """Stands in front of an S3 service and breaks answers by the first rule that applies."""

    def __init__(self, upstream: str, rules: list[Rule] | None = None) -> None:
        self.upstream = urlsplit(upstream)
        self.rules = rules or []
        self.requests: Counter[str] = Counter()
        """Number of requests by key, or `?prefix=...` of a listing."""
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._server = _server(_ProxyHandler, self)

    @property
    def endpoint(self) -> str:
        """Address of the proxy."""
        return _address(self._server)

    def fault(self, key: str) -> Fault | int | None:
        """Count a request, and say what is to become of it."""
        with self._lock:
            self.requests[key] += 1
            return next((rule.fault for rule in self.rules if rule.applies(key)), None)

    def count(self, pattern: str) -> int:
        """Number of requests whose key matches."""
        with self._lock:
            return sum(n for key, n in self.requests.items() if fnmatchcase(key, pattern))

    def forget(self) -> None:
        """Start counting anew."""
        with self._lock:
            self.requests.clear()

    def __enter__(self) -> Self:
        _serve(self._server)
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True
    owner: FaultProxy

    def setup(self) -> None:
        super().setup()
        address = self.owner.upstream
        self._upstream = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)

    def finish(self) -> None:
        self._upstream.close()
        with contextlib.suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        fault = self.owner.fault(_key(self.path))
        if fault is Fault.DROP:
            _hang_up(self)
        elif fault is Fault.SLOW:
            self.owner.stopping.wait(30)
            self.close_connection = True
        elif isinstance(fault, int):
            self._send(fault, {"Content-Type": "application/xml"}, _s3_error(fault))
        else:
            self._pass_on(fault)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _pass_on(self, fault: Fault | None) -> None:
        headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
        self._upstream.request(self.command, self.path, headers=headers)
        answer = self._upstream.getresponse()
        body = answer.read()
        if fault is Fault.CORRUPT:
            body = _corrupted(body)
        kept = {k: v for k, v in answer.getheaders() if k.lower() not in _HOP}
        self._send(answer.status, kept, body, cut=fault is Fault.TRUNCATE)

    def _send(
        self, status: int, headers: Mapping[str, str], body: bytes, *, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            _hang_up(self)


_HOP = frozenset({"connection", "content-length", "transfer-encoding", "keep-alive"})


def _key(path: str) -> str:
    """The key that a path-style request names, or `?prefix=...` where it lists (with `&start-after=...`)."""
    parts = urlsplit(path)
    query = parse_qs(parts.query, keep_blank_values=True)
    if "list-type" in query:
        start = query.get("start-after", [""])[0]
        return f"?prefix={query.get('prefix', [''])[0]}" + (
            f"&start-after={start}" if start else ""
        )
    return unquote(parts.path.lstrip("/").partition("/")[2])


def _corrupted(body: bytes) -> bytes:
    place = len(body) // 2
    return (
        body[:place] + bytes(byte ^ 0x55 for byte in body[place : place + 16]) + body[place + 16 :]
    )


_S3_CODES = {404: "NoSuchKey", 403: "AccessDenied", 429: "SlowDown", 503: "SlowDown"}


def _s3_error(status: int) -> bytes:
    code = _S3_CODES.get(status, "InternalError")
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>made by the test</Message></Error>"
    ).encode()


def _hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.wfile.flush()
    with contextlib.suppress(OSError):
        handler.connection.shutdown(socket.SHUT_RDWR)


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = _MANY

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


def _server(handler: type[BaseHTTPRequestHandler], owner: object) -> ThreadingHTTPServer:
    return _QuietServer(("127.0.0.1", 0), type("Handler", (handler,), {"owner": owner}))


def _serve(server: ThreadingHTTPServer) -> None:
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()


def _address(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


class Answer(StrEnum):
    """Ways in which E-utilities fail with or without a status."""

    HTML = "html"
    """An HTML page with status 200."""
    CUT = "cut"
    """Half of the document, with status 200 and the length of that half."""
    TRUNCATE = "truncate"
    """Half of the document where the whole length was stated."""
    DROP = "drop"
    """No answer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to the E-utilities."""

    at: float
    """Seconds, of a clock that only goes forward."""
    utility: str
    parameters: dict[str, str]

    @property
    def ids(self) -> list[int]:
        """PMIDs of an efetch."""
        return [int(i) for i in self.parameters.get("id", "").split(",") if i]


class FakeEntrez:
    """E-utilities: `esearch` over a table of entry dates, `efetch` of PubMed records.

    script   what the first requests get instead of an answer: a status, or an `Answer`
    """

    def __init__(
        self,
        *,
        entered: Mapping[int, date] | None = None,
        records: Mapping[int, str] | None = None,
        extra: tuple[str, ...] = (),
        cap: int = 10_000,
    ) -> None:
        self.entered = dict(entered or {})
        self.records = dict(records or {})
        self.extra = extra
        """Records that come with every answer, asked for or not."""
        self.cap = cap
        self.script: list[int | Answer | None] = []
        self.always: int | Answer | None = None
        self.retry_after: str | None = None
        self.asked: list[Asked] = []
        self._lock = threading.Lock()
        self._server = _server(_EntrezHandler, self)

    @property
    def endpoint(self) -> str:
        """What `EntrezSettings.endpoint` is to be."""
        return f"{_address(self._server)}/entrez/eutils"

    def enter(self, utility: str, parameters: dict[str, str]) -> int | Answer | None:
        """Record a request, and say what is to become of it."""
        with self._lock:
            self.asked.append(Asked(time.monotonic(), utility, parameters))
            return self.script.pop(0) if self.script else self.always

    def calls(self, utility: str) -> list[Asked]:
        """Requests of one utility, in order."""
        with self._lock:
            return [asked for asked in self.asked if asked.utility == utility]

    def esearch(self, parameters: Mapping[str, str]) -> bytes:
        """JSON as esearch writes it: all are counted, the first `cap` at most are listed."""
        found = [str(i) for i, day in self.entered.items() if _is_within(day, parameters)]
        random.Random(len(found)).shuffle(found)
        start, size = int(parameters.get("retstart", 0)), int(parameters.get("retmax", 20))
        listed = found[: self.cap][start : start + size]
        result = {
            "count": str(len(found)),
            "retmax": str(len(listed)),
            "retstart": str(start),
            "idlist": listed,
        }
        return json.dumps({"header": {"type": "esearch"}, "esearchresult": result}).encode()

    def efetch(self, parameters: Mapping[str, str]) -> bytes:
        """A `PubmedArticleSet` in no particular order; unknown ids are left out in silence."""
        wanted = [int(i) for i in parameters["id"].split(",")]
        found = [self.records[i] for i in wanted if i in self.records] + list(self.extra)
        random.Random(len(wanted)).shuffle(found)
        return article_set(found)

    def __enter__(self) -> Self:
        _serve(self._server)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def article_set(records: list[str]) -> bytes:
    """Records as PubMed's efetch and its baseline files wrap them."""
    return (
        '<?xml version="1.0" ?>\n<!DOCTYPE PubmedArticleSet PUBLIC '
        '"-//NLM//DTD PubMedArticle, 1st January 2025//EN" '
        '"https://dtd.nlm.nih.gov/ncbi/pubmed/out/pubmed_250101.dtd">\n'
        f"<PubmedArticleSet>{''.join(records)}</PubmedArticleSet>"
    ).encode()


def _is_within(day: date, parameters: Mapping[str, str]) -> bool:
    if "mindate" not in parameters:
        return True
    if parameters["datetype"] != "edat":
        raise ValueError(f"datetype {parameters['datetype']!r}: the table holds entry dates")
    first, last = (
        datetime.strptime(parameters[name], "%Y/%m/%d").date() for name in ("mindate", "maxdate")
    )
    return first <= day <= last


class _EntrezHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    owner: FakeEntrez

    def do_GET(self) -> None:
        self._answer(urlsplit(self.path).query)

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        self._answer(self.rfile.read(size).decode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, query: str) -> None:
        utility = urlsplit(self.path).path.rsplit("/", 1)[-1].removesuffix(".fcgi")
        parameters = {k: v[0] for k, v in parse_qs(query, keep_blank_values=True).items()}
        fault = self.owner.enter(utility, parameters)
        utilities: dict[str, Callable[[Mapping[str, str]], bytes]] = {
            "esearch": self.owner.esearch,
            "efetch": self.owner.efetch,
        }
        if fault is Answer.DROP:
            _hang_up(self)
        elif fault is Answer.HTML:
            self._send(200, b"<!DOCTYPE html><html><body><p>We are sorry<br></body></html>")
        elif isinstance(fault, int):
            self._send(fault, b'{"error":"API rate limit exceeded","count":"11"}')
        else:
            body = utilities[utility](parameters)
            cut = fault is Answer.TRUNCATE
            self._send(200, body[: len(body) // 2] if fault is Answer.CUT else body, cut=cut)

    def _send(self, status: int, body: bytes, *, cut: bool = False) -> None:
        self.send_response_only(status)
        if status == 429 and self.owner.retry_after is not None:
            self.send_header("Retry-After", self.owner.retry_after)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            _hang_up(self)
