"""A small Hugging Face hub on this machine: what `huggingface_hub` asks of one to fill a dataset."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_TheTokenOfTheTests"
GIT_ATTRIBUTES = b"*.tar filter=lfs\n*.parquet filter=lfs\n"
Refusal = Callable[[str, str], int | None]
"""Of a method and a path, the status to answer with; None lets it pass."""


@dataclass
class Stored:
    """A file of a repository."""

    data: bytes
    is_lfs: bool

    def entry(self, path: str) -> dict[str, Any]:
        """As the tree lists it."""
        found = {"type": "file", "path": path, "size": len(self.data)}
        if not self.is_lfs:
            return found | {"oid": git_digest(self.data)}
        digest = hashlib.sha256(self.data).hexdigest()
        pointer = b"pointer to " + digest.encode()
        lfs = {"oid": digest, "size": len(self.data), "pointerSize": len(pointer)}
        return found | {"oid": git_digest(pointer), "lfs": lfs}


@dataclass
class Hub:
    """The state of the server, and what it was asked."""

    endpoint: str = ""
    repositories: dict[str, dict[str, Stored]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files that were sent, by SHA-256; a commit makes them part of a repository."""
    sent: list[str] = field(default_factory=list)
    """SHA-256 of every large file that was sent, in order."""
    commits: list[dict[str, list[str]]] = field(default_factory=list)
    """Paths that each commit added and removed."""
    asked: Counter[str] = field(default_factory=Counter)
    refuse: Refusal = lambda method, path: None

    def make(self, name: str) -> dict[str, Stored]:
        """A repository with what the hub itself puts into it."""
        self.repositories[name] = {".gitattributes": Stored(GIT_ATTRIBUTES, False)}
        return self.repositories[name]

    def data(self, name: str) -> dict[str, bytes]:
        """Content of a repository without the hub's own file."""
        files = self.repositories[name]
        return {path: files[path].data for path in sorted(files) if path != ".gitattributes"}


def git_digest(data: bytes) -> str:
    """Git's name for a content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


_REPO = r"/api/datasets/(?P<repo>[^/]+/[^/]+)"
_ROUTES = (
    ("GET", rf"{_REPO}", "info"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", rf"{_REPO}/branch/(?P<branch>.+)", "branch"),
    ("GET", rf"{_REPO}/tree/(?P<revision>[^/]+)", "tree"),
    ("POST", rf"{_REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", rf"{_REPO}/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", r"/datasets/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/objects/(?P<oid>[0-9a-f]{64})", "put"),
)


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def do_PUT(self) -> None:
            self._answer()

        def log_message(self, *words: object) -> None:
            """Say nothing."""

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlsplit(self.path).path)
            with lock:
                hub.asked[f"{self.command} {path}"] += 1
                status = hub.refuse(self.command, path)
                if status is None and "/objects/" not in path[:9]:
                    given = self.headers.get("Authorization")
                    status = None if given == f"Bearer {TOKEN}" else 401
                if status is not None:
                    return self._send(status, {"error": f"refused, {TOKEN} and all"})
                for method, pattern, name in _ROUTES:
                    match = re.fullmatch(pattern, path)
                    if match and method == self.command:
                        code, content = getattr(self, f"_{name}")(body, **match.groupdict())
                        return self._send(code, content)
                return self._send(404, {"error": "no such page"})

        def _send(self, status: int, content: Any) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _info(self, body: bytes, repo: str) -> tuple[int, Any]:
            if repo not in hub.repositories:
                return 404, {"error": "Repository not found"}
            return 200, {"id": repo, "sha": "0" * 40, "siblings": [], "tags": []}

        def _create(self, body: bytes) -> tuple[int, Any]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            hub.make(name)
            hub.private[name] = asked.get("visibility") == "private" or asked.get("private", False)
            return 200, {"url": f"{hub.endpoint}/datasets/{name}"}

        def _branch(self, body: bytes, repo: str, branch: str) -> tuple[int, Any]:
            return 200, {}

        def _tree(self, body: bytes, repo: str, revision: str) -> tuple[int, Any]:
            files = hub.repositories[repo]
            return 200, [files[path].entry(path) for path in sorted(files)]

        def _validate(self, body: bytes) -> tuple[int, Any]:
            return 200, {"errors": [], "warnings": []}

        def _preupload(self, body: bytes, repo: str, revision: str) -> tuple[int, Any]:
            files = []
            for each in json.loads(body)["files"]:
                path = each["path"]
                mode = "lfs" if path.endswith((".tar", ".parquet")) else "regular"
                files.append({"path": path, "uploadMode": mode, "shouldIgnore": False})
            return 200, {"files": files}

        def _batch(self, body: bytes, repo: str) -> tuple[int, Any]:
            objects = []
            for each in json.loads(body)["objects"]:
                answer = {"oid": each["oid"], "size": each["size"]}
                if each["oid"] not in hub.objects:
                    href = f"{hub.endpoint}/objects/{each['oid']}"
                    answer["actions"] = {"upload": {"href": href}}
                objects.append(answer)
            return 200, {"transfer": "basic", "objects": objects}

        def _put(self, body: bytes, oid: str) -> tuple[int, Any]:
            if hashlib.sha256(body).hexdigest() != oid:
                return 400, {"error": "not the bytes that were announced"}
            hub.objects[oid] = body
            hub.sent.append(oid)
            return 200, {}

        def _commit(self, body: bytes, repo: str, revision: str) -> tuple[int, Any]:
            files = hub.repositories[repo]
            done: dict[str, list[str]] = {"added": [], "removed": []}
            for line in body.splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "file":
                    files[value["path"]] = Stored(base64.b64decode(value["content"]), False)
                elif item["key"] == "lfsFile":
                    files[value["path"]] = Stored(hub.objects[value["oid"]], True)
                elif item["key"] == "deletedFile":
                    del files[value["path"]]
                if item["key"] != "header":
                    done["removed" if "delete" in item["key"] else "added"].append(value["path"])
            hub.commits.append(done)
            oid = f"{len(hub.commits):040x}"
            return 200, {
                "commitUrl": f"{hub.endpoint}/datasets/{repo}/commit/{oid}",
                "commitOid": oid,
            }

    return Handler
