"""HTTP requests to whoever has the tars: where a token goes, what may be tried again, what it means.

A token (HF_TOKEN) goes to the hub's own host and to no other: not to a host that the hub sends on to,
and not to any other address.
"""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from biomedica import __version__
from biomedica.errors import ConfigError, SourceError
from biomedica.sources import SourceSettings
from biomedica.sources.store import pause

_LONGEST_WAIT = 300.0
"""Seconds; a server that asks for a longer pause is asked again after this one."""
_HUB = "https://huggingface.co"
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class AgainError(Exception):
    """A request failed in a way that trying again may mend. after   seconds that the server asks for"""

    def __init__(self, detail: str, after: float = 0.0) -> None:
        super().__init__(detail)
        self.after = after


def hub_token() -> str | None:
    """HF_TOKEN of the environment. Raises `ConfigError`, without showing it, where it can be none."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError("HF_TOKEN holds characters that no token has")
    return token or None


def token_for(url: str, token: str | None) -> str | None:
    """The token, where an address is the hub's: huggingface.co over TLS, or what HF_ENDPOINT names."""
    hubs = {_origin(_HUB), _origin(os.environ.get("HF_ENDPOINT") or _HUB)}
    return token if _origin(url) in hubs else None


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname or "", port


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to http(s) alone. The token stays behind when the host, port or scheme is another."""

    def __init__(self, with_token: str | None) -> None:
        self._token = with_token

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is None or urlsplit(newurl).scheme not in ("http", "https"):
            return None
        new.method = req.get_method()
        if self._token is not None and _origin(newurl) == _origin(req.full_url):
            new.add_unredirected_header("Authorization", f"Bearer {self._token}")
        else:
            self._token = None
        return new


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request. The body is to be closed."""

    body: Any
    status: int
    headers: Message

    @property
    def etag(self) -> str | None:
        """Of the server that has the bytes, at the end of all redirects."""
        return self.headers.get("ETag")

    @property
    def size(self) -> int | None:
        """Bytes of the whole file; None where no header tells."""
        total = (self.headers.get("Content-Range") or "").rpartition("/")[2]
        length = self.headers.get("Content-Length") if self.status == 200 else None
        text = (total if self.status == 206 else length) or ""
        return int(text) if text.isascii() and text.isdecimal() else None


def ask(url: str, token: str | None, seconds: float, method: str = "GET", **headers: str) -> Answer:
    """One request. Raises `AgainError`, `SourceError` with what would do."""
    own = token_for(url, token)
    opener = urllib.request.build_opener(_Redirects(own))
    request = urllib.request.Request(url, method=method)
    request.add_header("User-Agent", f"biomedica/{__version__}")
    request.add_header("Accept-Encoding", "identity")
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    if own is not None:
        request.add_unredirected_header("Authorization", f"Bearer {own}")
    try:
        answer = opener.open(request, timeout=seconds)
        return Answer(answer, answer.status, answer.headers)
    except urllib.error.HTTPError as error:
        error.close()
        raise _status_error(url, error, token, own) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise AgainError(f"no answer ({type(reason).__name__})") from None


def _status_error(
    url: str, error: urllib.error.HTTPError, token: str | None, sent: str | None
) -> Exception:
    if error.code in _TRY_AGAIN:
        return AgainError(f"HTTP {error.code}", _retry_after(error.headers))
    if error.code not in (401, 403):
        return StatusError(f"{shown(url)}: HTTP {error.code}. Check the address", error.code)
    terms = "the dataset may be gated: accept its terms once in a browser, on its page at the hub"
    if sent is not None:
        said = f"HF_TOKEN was sent and does not open it; {terms}, with the account of the token"
    elif token is not None:
        said = (
            "HF_TOKEN was not sent, for it goes to huggingface.co and to the host that HF_ENDPOINT "
            "names alone"
        )
    else:
        said = f"set HF_TOKEN to a token of the hub that may read; {terms}"
    return StatusError(f"{shown(url)}: HTTP {error.code}, no access. {said}", error.code)


class StatusError(SourceError):
    """A status that trying again does not change."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def _retry_after(headers: Message) -> float:
    """Seconds that a server asks to wait; 0 where it does not say."""
    text = (headers.get("Retry-After") or "").strip()
    if text.isascii() and text.isdecimal():
        return min(float(text), _LONGEST_WAIT)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return min(max(0.0, (until - datetime.now(UTC)).total_seconds()), _LONGEST_WAIT)


def shown(url: str) -> str:
    """An address without what may be secret in it: user, password, query, fragment.

    >>> shown("https://me:secret@host/a/0.tar?token=secret")
    'https://host/a/0.tar'
    """
    parts = urlsplit(url)
    if not parts.scheme:
        return url
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Patience:
    """Counts failures in a row and waits between tries. Progress starts the count anew."""

    def __init__(self, url: str, settings: SourceSettings) -> None:
        self._url = url
        self._settings = settings
        self._failures = 0

    def succeeded(self) -> None:
        self._failures = 0

    def wait(self, error: AgainError) -> None:
        """Raises `SourceError` when it was tried often enough."""
        self._failures += 1
        if self._failures > self._settings.retries:
            raise SourceError(
                f"{shown(self._url)}: {error} ({self._failures} tries). What is done stays: run the "
                "same command when it is back"
            )
        time.sleep(max(error.after, pause(self._failures, self._settings.backoff_seconds)))
