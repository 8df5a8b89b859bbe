"""How bytes are read: requests, memory, retries, cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from biomedica.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSettings:
    """How the samples of a view are fetched."""

    connections: int = 32
    """Requests in flight, in each process that reads from a server."""
    gap_kb: int = 1000
    """Kilobytes between two wanted samples of a shard on a server that are fetched with them rather
    than by another request. Less costs requests and saves bytes."""
    piece_mb: float = 8.0
    """Megabytes; the most that one request brings (a single larger sample comes whole)."""
    memory_mb: int = 2048
    """Megabytes of samples from servers that a process holds: what is being used and what is being fetched.
    At least two batches are held, whatever they take. Where half of it is less than a window of the order,
    parts of a window are fetched more than once."""
    retries: int = 6
    """Further tries for a request that failed."""
    backoff_seconds: float = 0.5
    """Wait before the first further try; doubled each time up to 30 s, with up to half of it added at random."""
    timeout_seconds: float = 60
    """Longest wait for one request."""
    verify: Literal["headers", "sha256"] = "headers"
    """`headers`: each sample's tar header and size, each shard's size and ETag. `sha256`: each picture's
    digest too, from the figures files (local archives only)."""
    cache: str | None = None
    """Folder that keeps what was fetched from a server, for later epochs and runs."""
    cache_gb: float = 50
    """Gigabytes; a full cache keeps what it has: of samples that come once an epoch, any others would be
    gone before they are wanted again."""

    def __post_init__(self) -> None:
        for name in ("connections", "memory_mb"):
            if getattr(self, name) < 1:
                raise ConfigError(f"stream.{name} is {getattr(self, name)}; at least 1 is expected")
        for name in ("gap_kb", "retries", "cache_gb", "backoff_seconds"):
            if getattr(self, name) < 0:
                raise ConfigError(f"stream.{name} is {getattr(self, name)}; 0 or more is expected")
        if self.piece_mb <= 0 or self.timeout_seconds <= 0:
            raise ConfigError("stream.piece_mb and stream.timeout_seconds must be above 0")
