"""An HTTP/1.1 server of a folder: ranges, ETags, If-Match, redirects, and faults by `servers.Rule`."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from servers import Fault, Rule

WHOLE: Any = "whole"
"""Fault: status 200 and all of the file, whatever range was asked for."""
SLIDE: Any = "slide"
"""Fault: status 206 and a range that begins one byte later."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    path: str
    range: tuple[int, int] | None
    headers: dict[str, str]


@dataclass
class RangeServer:
    """The state of the server, and what it was asked."""

    folder: Path
    endpoint: str = ""
    rules: list[Rule] = field(default_factory=list)
    """Patterns are of paths below the folder."""
    etags: dict[str, str | None] = field(default_factory=dict)
    """By path, instead of the digest of the content; None: no ETag is sent."""
    redirect: str | None = None
    """Another endpoint that every request is sent on to."""
    asked: list[Asked] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, path: str) -> str:
        """Address of a file."""
        return f"{self.endpoint}/{path}"

    def ranges(self, pattern: str = "*.tar") -> list[tuple[int, int] | None]:
        """Ranges that were asked for of files that match."""
        return [each.range for each in self.asked if fnmatchcase(each.path, pattern)]

    def fault(self, asked: Asked) -> Any:
        """Note a request, and say what is to become of it."""
        with self.lock:
            self.asked.append(asked)
            return next((rule.fault for rule in self.rules if rule.applies(asked.path)), None)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


@contextmanager
def range_server(folder: Path, host: str = "127.0.0.1", **state: Any) -> Iterator[RangeServer]:
    """Serve until the block ends."""
    own = RangeServer(folder, **state)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"own": own}))
    own.endpoint = f"http://{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield own
    finally:
        own.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    own: RangeServer
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0].lstrip("/"))
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        bounds = (int(found[1]), int(found[2]) + 1) if found else None
        fault = self.own.fault(Asked(path, bounds, dict(self.headers)))
        if fault is Fault.DROP:
            self._hang_up()
        elif fault is Fault.SLOW:
            self.own.stopping.wait(30)
            self.close_connection = True
        elif isinstance(fault, int):
            self._send(fault, {}, b"made by the test")
        elif self.own.redirect is not None:
            self._send(302, {"Location": f"{self.own.redirect}/{path}"}, b"")
        else:
            self._file(path, bounds, fault)

    def log_message(self, *words: object) -> None:
        """Say nothing."""

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()

    def _file(self, path: str, bounds: tuple[int, int] | None, fault: Any) -> None:
        try:
            data = (self.own.folder / path).read_bytes()
        except OSError:
            return self._send(404, {}, b"")
        etag = self.own.etags.get(path, f'"{hashlib.md5(data).hexdigest()}"')
        headers = {"Accept-Ranges": "bytes"} | ({"ETag": etag} if etag else {})
        if self.headers.get("If-Match") not in (None, "*", etag):
            return self._send(412, headers, b"")
        if bounds is None or fault == WHOLE:
            return self._send(200, headers, data, fault is Fault.TRUNCATE)
        start, stop = (each + (fault == SLIDE) for each in bounds)
        stop = min(stop, len(data))
        if start >= stop:
            return self._send(416, headers | {"Content-Range": f"bytes */{len(data)}"}, b"")
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        return self._send(206, headers, data[start:stop], fault is Fault.TRUNCATE)

    def _send(self, status: int, headers: dict[str, str], data: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
