"""A worker's trace of what it is doing, so that a crash can be laid at the right door.

Before each risky item (one article's XML, one picture) the worker writes the item's name to a small
file. Should the process die, the runner reads there which item it was. An item that takes too long
is ended by a signal that the kernel delivers, even inside a decoder that never returns.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_WIDTH = 1024


@dataclass(frozen=True, slots=True)
class Trace:
    """What a worker was at when it stopped."""

    item: str
    seconds: float
    """How long it had been at it."""


class Guard:
    """Names the items that a task works on, and bounds the time and memory that they may take."""

    def __init__(self, path: Path, item_seconds: float, memory_mb: int) -> None:
        self._path = path
        self._seconds = item_seconds
        self._memory_mb = memory_mb
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)

    @contextmanager
    def item(self, name: str) -> Iterator[None]:
        """Work on one item inside the block."""
        self._write(name)
        signal.setitimer(signal.ITIMER_REAL, self._seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._write("")

    def _write(self, name: str) -> None:
        data = json.dumps([name, time.time()]).encode()
        os.pwrite(self._file, data[:_WIDTH].ljust(_WIDTH), 0)

    @contextmanager
    def limits(self) -> Iterator[None]:
        """Let the process grow by the memory limit and no further, for as long as the block runs."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = _address_space() + self._memory_mb * (1 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (min(limit, hard) if hard > 0 else limit, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    def close(self) -> None:
        """Forget the trace: the task ended in an orderly way."""
        os.close(self._file)
        self._path.unlink(missing_ok=True)


def _address_space() -> int:
    """Bytes of address space that this process has."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()


def read_trace(path: Path) -> Trace | None:
    """What a dead worker was at; None where it was between items or left no trace."""
    try:
        item, since = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return Trace(item, time.time() - since) if item else None
