"""Servers that the streaming measurements read from: nginx, and one as slow as an object store is.

    python bench/stream_server.py FOLDER            serves it slowly; prints the port
    python bench/stream_server.py FOLDER --check    what curl gets of it with 1 and with 16 connections

The slow one waits 30 ms before each answer and gives each connection 60 MB/s, however many there are
(while the processor lasts). It knows HTTP/1.1, kept connections and ranges.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

LATENCY = 0.030
"""Seconds between a request and the first byte of its answer."""
RATE = 60e6
"""Bytes a second of one connection."""
CHUNK = 1 << 17
"""Bytes written at once: 2 ms of a connection."""
COUNTS = "/.counts"
"""Address that tells the counts and sets them to 0."""
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
CONFIG = """
worker_processes 1; daemon off; pid {run}/pid; error_log {run}/error.log; user root;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000; default_type application/octet-stream;
  client_body_temp_path {run}; proxy_temp_path {run}; fastcgi_temp_path {run}; uwsgi_temp_path {run};
  scgi_temp_path {run};
  server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""


@dataclass
class Counts:
    """What was asked for since it was last told."""

    requests: int = 0
    sent: int = 0
    """Bytes of bodies."""
    connections: int = 0
    """Most at the same time."""
    open_now: int = field(default=0, repr=False)

    def told(self) -> dict[str, int]:
        """As JSON; counting starts anew."""
        found = {"requests": self.requests, "bytes": self.sent, "connections": self.connections}
        self.requests = self.sent = 0
        self.connections = self.open_now
        return found


@dataclass(frozen=True)
class Request:
    """Method, path and headers (names in small letters)."""

    method: str
    path: str
    headers: dict[str, str]


class SlowServer:
    """Files of a folder, with latency and a rate for each connection."""

    def __init__(self, folder: Path, latency: float, rate: float) -> None:
        self._folder, self._latency, self._rate = folder.resolve(), latency, rate
        self._counts = Counts()

    async def serve(self) -> None:
        """Print the port, then serve until killed."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=CHUNK)
        try:
            while (request := await _request(reader)) is not None:
                await self._answer(request, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        if request.path == COUNTS:
            body = json.dumps(self._counts.told()).encode()
            writer.write(_head(200, {"Content-Length": len(body)}) + body)
            return
        counts = self._counts
        counts.requests += 1
        counts.open_now += 1
        counts.connections = max(counts.connections, counts.open_now)
        try:
            await asyncio.sleep(self._latency)
            await self._file(request, writer)
        finally:
            counts.open_now -= 1

    async def _file(self, request: Request, writer: asyncio.StreamWriter) -> None:
        path = (self._folder / request.path.lstrip("/")).resolve()
        if request.method not in ("GET", "HEAD") or not path.is_relative_to(self._folder):
            writer.write(_head(405, {"Content-Length": 0}))
            return
        if not path.is_file():
            writer.write(_head(404, {"Content-Length": 0}))
            return
        status = path.stat()
        said = {
            "ETag": f'"{status.st_mtime_ns:x}-{status.st_size:x}"',
            "Last-Modified": time.strftime(
                "%a, %d %b %Y %H:%M:%S GMT", time.gmtime(status.st_mtime)
            ),
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        bounds = _bounds(request.headers.get("range"), status.st_size)
        if bounds is None:
            said |= {"Content-Range": f"bytes */{status.st_size}", "Content-Length": "0"}
            writer.write(_head(416, said))
            return
        start, stop = bounds
        said["Content-Length"] = str(stop - start)
        code = 200
        if "range" in request.headers:
            code = 206
            said["Content-Range"] = f"bytes {start}-{stop - 1}/{status.st_size}"
        writer.write(_head(code, said))
        if request.method == "GET":
            await self._body(path, start, stop, writer)

    async def _body(self, path: Path, start: int, stop: int, writer: asyncio.StreamWriter) -> None:
        """Bytes leave when the rate allows the last of their chunk."""
        begun = time.monotonic()
        with path.open("rb", buffering=0) as file:
            for place in range(start, stop, CHUNK):
                data = os.pread(file.fileno(), min(CHUNK, stop - place), place)
                wait = begun + (place + len(data) - start) / self._rate - time.monotonic()
                if wait > 0:
                    await asyncio.sleep(wait)
                writer.write(data)
                self._counts.sent += len(data)
                await writer.drain()


async def _request(reader: asyncio.StreamReader) -> Request | None:
    """The next request of a connection; None when the client has left."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, path, _ = first.split(" ")
    pairs = (line.split(":", 1) for line in lines)
    return Request(method, path, {name.strip().lower(): value.strip() for name, value in pairs})


def _bounds(said: str | None, size: int) -> tuple[int, int] | None:
    """[start, stop) that a Range header asks for; None when it cannot be had."""
    if said is None:
        return 0, size
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", said)
    if found is None or found[1] == found[2] == "":
        return None
    if found[1] == "":
        return max(0, size - int(found[2])), size
    start, last = int(found[1]), int(found[2] or size - 1)
    return (start, min(last + 1, size)) if start < size and start <= last else None


def _head(code: int, headers: dict[str, object]) -> bytes:
    names = {200: "OK", 206: "Partial Content", 404: "Not Found", 405: "Not Allowed"}
    lines = [f"HTTP/1.1 {code} {names.get(code, 'Not Satisfiable')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@contextmanager
def slow_server(folder: Path) -> Iterator[str]:
    """The slow server in a process of its own; its address."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


def counts(address: str) -> dict[str, int]:
    """Requests, bytes and connections of the slow server since this was last asked."""
    with urllib.request.urlopen(address + COUNTS) as answer:
        return dict(json.loads(answer.read()))


@contextmanager
def nginx(folder: Path) -> Iterator[str]:
    """nginx with sendfile in a process of its own; its address."""
    assert NGINX is not None
    with tempfile.TemporaryDirectory() as run, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        config = Path(run) / "nginx.conf"
        config.write_text(CONFIG.format(run=run, port=port, folder=folder.resolve()))
        process = subprocess.Popen([NGINX, "-c", str(config), "-p", run], stderr=subprocess.DEVNULL)
        try:
            _wait_for(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"the server did not open port {port}")


def rates(folder: Path) -> dict[str, float]:
    """MB/s that curl gets of the slow server, with one connection and with 16."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    name = path.relative_to(folder.resolve()).as_posix()
    found = {}
    with slow_server(folder) as address:
        for number in (1, 16):
            words = ["curl", "-s", "-o", "/dev/null", f"{address}/{name}"]
            started = time.monotonic()
            for each in [subprocess.Popen(words) for _ in range(number)]:
                each.wait()
            seconds = time.monotonic() - started
            found[f"mb_s_{number}"] = round(number * path.stat().st_size / 1e6 / seconds, 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true")
    words = parser.parse_args()
    if words.check:
        print(json.dumps(rates(words.folder.resolve())))
    else:
        asyncio.run(SlowServer(words.folder, LATENCY, RATE).serve())


if __name__ == "__main__":
    main()
