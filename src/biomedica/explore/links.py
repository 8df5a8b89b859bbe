"""Personal links: who somebody is follows from a secret beside the votes file, nothing else is stored."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from biomedica.errors import ArchiveError, ConfigError
from biomedica.votes import Expert

_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Makes and checks what proves an identity."""

    secret: bytes

    @classmethod
    def open(cls, path: Path) -> Links:
        """Read the secret, or make one (32 random bytes, readable by its owner alone).

        Raises `ConfigError` where the file is readable by others, or holds something else.
        """
        try:
            secret = path.read_bytes()
        except FileNotFoundError:
            _make(path)
            secret = path.read_bytes()
        if len(secret) != _BYTES:
            raise ConfigError(
                f"{path} holds {len(secret)} bytes, not {_BYTES}. Remove it to have a new one made: "
                "all links change then"
            )
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"{path} can be read by others; `chmod 600 {path}`")
        return cls(secret=secret)

    def token(self, expert: Expert) -> str:
        """What stands in an expert's personal link."""
        return f"{expert.id}-{self._sign('link', expert)}"

    def cookie(self, expert: Expert) -> str:
        """What the browser keeps."""
        return f"{expert.id}-{self._sign('cookie', expert)}"

    def csrf(self, expert: Expert) -> str:
        """What a page of ours, and no other, can send along."""
        return self._sign("csrf", expert)

    @property
    def cookie_name(self) -> str:
        """Differs for each secret: servers of several archives on one machine share their cookies."""
        digest = hmac.digest(self.secret, b"cookie name", "sha256")
        return f"biomedica_{digest[:6].hex()}"

    def by_token(self, token: str, experts: Iterable[Expert]) -> Expert | None:
        """Whose link it is."""
        return self._find(token, "link", experts)

    def by_cookie(self, cookie: str, experts: Iterable[Expert]) -> Expert | None:
        """Whose cookie it is."""
        return self._find(cookie, "cookie", experts)

    def _find(self, said: str, purpose: str, experts: Iterable[Expert]) -> Expert | None:
        number, _, signature = said.partition("-")
        for expert in experts:
            if number == str(expert.id) and same(signature, self._sign(purpose, expert)):
                return expert
        return None

    def _sign(self, purpose: str, expert: Expert) -> str:
        what = f"{purpose} {expert.id} {expert.created}".encode()
        digest = hmac.new(self.secret, what, hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def same(said: str, expected: str) -> bool:
    """Comparison in constant time, of whatever text."""
    return hmac.compare_digest(said.encode(), expected.encode())


def _make(path: Path) -> None:
    """Processes that begin at once end up with one secret."""
    own = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(own, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(own, path)
    except OSError as error:
        raise ArchiveError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        own.unlink(missing_ok=True)
