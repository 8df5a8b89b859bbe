"""An HTTP server of tars for tests: a token, a redirect to another host, faults, ranges, changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class TarServer:
    """The state of the server, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    """By path without the first slash."""
    endpoint: str = ""
    token: str | None = None
    """What has to be sent; None: nothing."""
    redirect: str | None = None
    """Another endpoint that every request is sent on to."""
    etag: str = '"first"'
    statuses: list[int | str] = field(default_factory=list)
    """What the next GETs get: a status, `cut` (half of the answer), `drop` (no answer)."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with every refusal."""
    head_status: int | None = None
    knows_ranges: bool = True
    after_get: Any = lambda server: None
    """Called with the server after each GET that was answered."""
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """(method, path, headers) in order."""

    def url(self, path: str) -> str:
        """Address of a file."""
        return f"{self.endpoint}/{path}"

    def gets(self) -> list[dict[str, str]]:
        """Headers of every GET."""
        return [headers for method, _, headers in self.asked if method == "GET"]


@contextmanager
def tar_server(**state: Any) -> Iterator[TarServer]:
    """Serve until the block ends."""
    own = TarServer(**state)
    handler = type("Handler", (_Handler,), {"own": own})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    own.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield own
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    own: TarServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()
        self.own.after_get(self.own)

    def log_message(self, *words: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        own = self.own
        path = self.path.partition("?")[0].lstrip("/")
        own.asked.append((self.command, path, dict(self.headers)))
        self.close_connection = True
        if own.token is not None and self.headers.get("Authorization") != f"Bearer {own.token}":
            return self._send(401, {}, b"")
        if self.command == "HEAD" and own.head_status is not None:
            return self._send(own.head_status, {}, b"")
        fault = own.statuses.pop(0) if self.command == "GET" and own.statuses else None
        if fault == "drop":
            return None
        if isinstance(fault, int):
            return self._send(fault, own.headers, b"no")
        data = own.files.get(path)
        if data is None:
            return self._send(404, {}, b"")
        if own.redirect is not None:
            headers = {"Location": f"{own.redirect}/{path}", "X-Linked-ETag": '"of the hub"'}
            return self._send(302, headers, b"")
        return self._file(data, fault == "cut")

    def _file(self, data: bytes, is_cut: bool) -> None:
        headers, status = {"ETag": self.own.etag}, 200
        wanted = self.headers.get("Range")
        if_range = self.headers.get("If-Range")
        if wanted and self.own.knows_ranges and if_range in (None, self.own.etag):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = int(last) + 1 if last else len(data)
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
            status, data = 206, data[int(first) : end]
        self._send(status, headers, data, is_cut)

    def _send(
        self, status: int, headers: dict[str, str], data: bytes, is_cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if is_cut else data)
