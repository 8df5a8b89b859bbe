"""A small archive with clusters, and the label server of it in a process of its own."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from biomedica.archive import Archive
from biomedica.cluster import ClusterSettings, cluster
from feature_archives import give_features, small_archive


def clustered_archive(folder: Path, num_articles: int = 30, clusters: int = 8) -> Archive:
    """An archive of two pictures an article, in clusters under the name `default`."""
    archive = small_archive(folder, num_articles=num_articles, samples=40)
    settings = ClusterSettings(clusters=clusters, components=6)
    cluster(archive, give_features(archive), settings)
    return archive


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


_SERVE = """
import sys
from pathlib import Path
from biomedica.archive import Archive
from biomedica.explore import LabelPageSettings
from biomedica.explore.app import open_server
root, port, answers, *experts = sys.argv[1:]
settings = LabelPageSettings(answers=int(answers))
with open_server(Archive(Path(root)), "default", settings, experts=experts, port=int(port)) as server:
    for each in server.invitations():
        print(each.expert.name, each.url, sep="\\t", flush=True)
    print("ready", flush=True)
    server.run()
"""


class Server:
    """A label server that can be killed and started again on its port."""

    def __init__(self, archive: Path, experts: list[str], answers: int = 3) -> None:
        self._archive = archive
        self._experts = experts
        self._answers = answers
        self.port = free_port()
        self.links: Mapping[str, str] = {}
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = [str(self._archive), str(self.port), str(self._answers), *self._experts]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, *words],
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )
        assert self._process.stdout is not None
        links = {}
        while (line := self._process.stdout.readline().strip()) != "ready":
            if not line:
                raise RuntimeError(f"the server ended: {self._process.wait()}")
            name, url = line.split("\t")
            links[name] = url
        self.links = links
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with socket.socket() as probe:
                probe.settimeout(0.2)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            select.select([], [], [], 0.05)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        self._process.send_signal(number)
        code = self._process.wait(timeout=20)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return code
