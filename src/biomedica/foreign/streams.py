"""The bytes of a tar from where it stands: a file, an HTTP server, a bucket.

A connection that breaks is taken up again at the byte where the reader stood. Bytes of two states of
a file are never mixed: what changed in between is an `ArchiveError` with the shard's name.

A token (HF_TOKEN) goes to the hub's own host and to no other: not to a host that the hub sends on to,
and not to any other address.
"""

from __future__ import annotations

import http.client
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from biomedica import __version__
from biomedica.archive import Place
from biomedica.errors import ArchiveError, BiomedicaError, ConfigError, SourceError
from biomedica.sources import SourceSettings

_CHUNK = 1 << 20
_LONGEST_WAIT = 300.0
"""Seconds; a server that asks for a longer pause is asked again after this one."""
_HUB = "https://huggingface.co"
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_NOT_TO_HEAD = frozenset({400, 403, 405, 501})
"""What servers say to HEAD that answer to GET (signed addresses are signed for one of them)."""


class _AgainError(Exception):
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
class _Answer:
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


def _ask(
    url: str, token: str | None, seconds: float, method: str = "GET", **headers: str
) -> _Answer:
    """One request. Raises `_AgainError`, `SourceError` with what would do."""
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
        return _Answer(answer, answer.status, answer.headers)
    except urllib.error.HTTPError as error:
        error.close()
        raise _status_error(url, error, token, own) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise _AgainError(f"no answer ({type(reason).__name__})") from None


def _status_error(
    url: str, error: urllib.error.HTTPError, token: str | None, sent: str | None
) -> Exception:
    if error.code in _TRY_AGAIN:
        return _AgainError(f"HTTP {error.code}", _retry_after(error.headers))
    if error.code not in (401, 403):
        return _StatusError(f"{shown(url)}: HTTP {error.code}. Check the address", error.code)
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
    return _StatusError(f"{shown(url)}: HTTP {error.code}, no access. {said}", error.code)


class _StatusError(SourceError):
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


class _Patience:
    """Counts failures in a row and waits between tries. Progress starts the count anew."""

    def __init__(self, url: str, settings: SourceSettings) -> None:
        self._url = url
        self._settings = settings
        self._failures = 0

    def succeeded(self) -> None:
        self._failures = 0

    def wait(self, error: _AgainError) -> None:
        """Raises `SourceError` when it was tried often enough."""
        self._failures += 1
        if self._failures > self._settings.retries:
            raise SourceError(
                f"{shown(self._url)}: {error} ({self._failures} tries). What is done stays: run the "
                "same command when it is back"
            )
        pause = min(30.0, self._settings.backoff_seconds * 2 ** (self._failures - 1))
        time.sleep(max(error.after, pause * random.uniform(1, 1.5)))


def look_up(url: str, settings: SourceSettings, token: str | None) -> Place:
    """Size and ETag of a tar, without its bytes. Raises `SourceError`."""
    scheme = urlsplit(url).scheme
    if scheme not in ("http", "https", "s3"):
        return _file_place(url)
    patience = _Patience(url, settings)
    while True:
        try:
            return (
                _bucket_place(url, settings)
                if scheme == "s3"
                else _http_place(url, settings, token)
            )
        except _AgainError as error:
            patience.wait(error)


def _file_place(path: str) -> Place:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None
    return Place(url=path, size=status.st_size, etag=str(status.st_mtime_ns))


def _http_place(url: str, settings: SourceSettings, token: str | None) -> Place:
    try:
        answer = _ask(url, token, settings.timeout_seconds, "HEAD")
    except _StatusError as error:
        if error.status not in _NOT_TO_HEAD:
            raise
        answer = _ask(url, token, settings.timeout_seconds, Range="bytes=0-0")
    answer.body.close()
    if answer.size is None:
        answer = _ask(url, token, settings.timeout_seconds, Range="bytes=0-0")
        answer.body.close()
    if answer.size is None:
        raise SourceError(f"{shown(url)}: the server does not say how large it is")
    return Place(url=url, size=answer.size, etag=answer.etag)


def open_bytes(
    shard: str, place: Place, settings: SourceSettings, token: str | None
) -> FileBytes | FetchedBytes:
    """The bytes of a tar, from the first on; close it. Raises `SourceError`."""
    scheme = urlsplit(place.url).scheme
    if scheme == "s3":
        return BucketBytes(shard, place, settings)
    if scheme in ("http", "https"):
        return HttpBytes(shard, place, settings, token)
    return FileBytes(shard, place)


def changed(shard: str, place: Place) -> ArchiveError:
    """What is said of a tar that is not what it was when its size was asked for."""
    return ArchiveError(
        f"shard {shard}: {shown(place.url)} changed while it was read; run the same command again to "
        "index what it is now"
    )


class FileBytes:
    """A tar on this machine."""

    def __init__(self, shard: str, place: Place) -> None:
        self._shard, self._place = shard, place
        self.position = 0
        try:
            self._file: IO[bytes] = Path(place.url).open("rb", buffering=_CHUNK)  # noqa: SIM115
        except OSError as error:
            raise SourceError(f"{place.url}: {error.strerror}") from None

    def read(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except OSError as error:
            raise SourceError(f"{self._place.url}: {error.strerror}") from None
        self.position += len(data)
        return data

    def skip(self, size: int) -> None:
        size = min(size, self._place.size - self.position)
        self._file.seek(size, os.SEEK_CUR)
        self.position += size

    def close(self) -> None:
        self._file.close()

    def check(self) -> None:
        """Raise `ArchiveError` where the file is not what it was at the start."""
        if _file_place(self._place.url) != self._place:
            raise changed(self._shard, self._place)


class FetchedBytes:
    """A tar that arrives in pieces over connections that may break."""

    def __init__(self, shard: str, place: Place, settings: SourceSettings) -> None:
        self._shard, self._place, self._settings = shard, place, settings
        self._patience = _Patience(place.url, settings)
        self._pieces: Iterator[bytes] | None = None
        self._piece = b""
        self._at = 0
        self.position = 0

    def _open(self, position: int) -> Iterator[bytes]:
        """Pieces from a byte on. Raises `_AgainError`."""
        raise NotImplementedError

    def close(self) -> None:
        """Let the connection go."""
        close = getattr(self._pieces, "close", None)
        self._pieces = None
        if close is not None:
            close()

    def check(self) -> None:
        """Nothing is left to check: every answer was."""

    def read(self, size: int) -> bytes:
        parts = list(self._take(size))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip(self, size: int) -> None:
        for _ in self._take(size):
            pass

    def _take(self, size: int) -> Iterator[bytes]:
        size = min(size, self._place.size - self.position)
        while size:
            if self._at == len(self._piece):
                self._piece, self._at = self._next_piece(), 0
            part = self._piece[self._at : self._at + size]
            self._at += len(part)
            self.position += len(part)
            size -= len(part)
            yield part

    def _next_piece(self) -> bytes:
        """At least a byte: called only while some are left."""
        while True:
            try:
                if self._pieces is None:
                    self._pieces = self._open(self.position)
                piece = next(self._pieces, b"")
                if not piece:
                    raise _AgainError(f"the answer ends at byte {self.position}")
                self._patience.succeeded()
                return piece
            except _AgainError as error:
                self.close()
                self._patience.wait(error)


class HttpBytes(FetchedBytes):
    """A tar on an HTTP server."""

    def __init__(
        self, shard: str, place: Place, settings: SourceSettings, token: str | None
    ) -> None:
        super().__init__(shard, place, settings)
        self._token = token
        self._strong: str | None = None
        """ETag of the server that sent the first bytes, where `If-Range` may be asked with it."""

    def _open(self, position: int) -> Iterator[bytes]:
        headers = {}
        if position:
            headers["Range"] = f"bytes={position}-"
            if self._strong is not None:
                headers["If_Range"] = self._strong
        answer = _ask(self._place.url, self._token, self._settings.timeout_seconds, **headers)
        try:
            return self._checked(answer, position)
        except BaseException:
            answer.body.close()
            raise

    def _checked(self, answer: _Answer, position: int) -> Iterator[bytes]:
        is_other = _plain(answer.etag) != _plain(self._place.etag)
        if answer.size != self._place.size or is_other:
            raise changed(self._shard, self._place)
        etag = answer.etag
        self._strong = etag if etag and etag.startswith('"') else None
        start = 0
        if answer.status == 206:
            said = (answer.headers.get("Content-Range") or "").removeprefix("bytes ")
            if said.partition("-")[0] != str(position):
                raise SourceError(f"{shown(self._place.url)}: sent other bytes than were asked for")
            start = position
        return self._read(answer, position - start)

    def _read(self, answer: _Answer, again: int) -> Iterator[bytes]:
        """Pieces of an answer. again   bytes at its start that were read before"""
        with closing(answer.body):
            while True:
                try:
                    piece = answer.body.read1(_CHUNK)
                except (OSError, http.client.HTTPException, ValueError) as error:
                    raise _AgainError(f"the connection broke ({type(error).__name__})") from None
                if not piece:
                    return
                left, again = piece[again:], max(0, again - len(piece))
                if left:
                    yield left


def _plain(etag: str | None) -> str | None:
    """For comparing: weak and strong forms of one tag are the same file."""
    return None if etag is None else etag.removeprefix("W/")


class BucketBytes(FetchedBytes):
    """A tar in a bucket."""

    def _open(self, position: int) -> Iterator[bytes]:
        from obstore.exceptions import BaseError

        try:
            options: Any = {"range": {"offset": position}} if position else {}
            found = _bucket(self._place.url, self._settings).get(
                _key_of(self._place.url), options=options
            )
            meta = found.meta
        except (BaseError, OSError, ValueError) as error:
            raise _bucket_error(self._place.url, error) from None
        if (meta["size"], meta["e_tag"]) != (self._place.size, self._place.etag):
            raise changed(self._shard, self._place)
        return _bucket_pieces(found)


def _bucket_pieces(found: Any) -> Iterator[bytes]:
    from obstore.exceptions import BaseError

    try:
        for piece in found.stream(min_chunk_size=_CHUNK):
            yield bytes(piece)
    except (BaseError, OSError, ValueError) as error:
        raise _AgainError(f"the connection broke ({type(error).__name__})") from None


def _key_of(url: str) -> str:
    return urlsplit(url).path.lstrip("/")


def _bucket(url: str, settings: SourceSettings) -> Any:
    endpoint = settings.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3")
    signed = bool(os.environ.get("AWS_ACCESS_KEY_ID"))
    return _open_bucket(
        urlsplit(url).netloc, endpoint, settings.region, settings.timeout_seconds, signed
    )


@cache
def _open_bucket(
    bucket: str, endpoint: str | None, region: str, seconds: float, signed: bool
) -> Any:
    """With the account of the environment where there is one, else without."""
    from obstore.store import S3Store

    options: dict[str, Any] = {
        "timeout": timedelta(days=1),
        "read_timeout": timedelta(seconds=seconds),
    }
    options["connect_timeout"] = timedelta(seconds=seconds)
    if endpoint is not None:
        options["allow_http"] = endpoint.startswith("http://")
    return S3Store(
        bucket,
        endpoint=endpoint,
        region=region,
        skip_signature=not signed,
        virtual_hosted_style_request=False,
        client_options=options,  # type: ignore[arg-type]
        retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=1)},
    )


def _bucket_error(url: str, error: Exception) -> Exception:
    from obstore.exceptions import NotFoundError, PermissionDeniedError, UnauthenticatedError

    if isinstance(error, (NotFoundError, FileNotFoundError)):
        return SourceError(f"{url}: there is no such object")
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError, PermissionError)):
        return SourceError(
            f"{url}: no access. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of an account that has it"
        )
    return _AgainError(f"no answer ({type(error).__name__})")


def _bucket_place(url: str, settings: SourceSettings) -> Place:
    from obstore.exceptions import BaseError

    try:
        meta = _bucket(url, settings).head(_key_of(url))
    except (BaseError, OSError, ValueError) as error:
        raise _bucket_error(url, error) from None
    return Place(url=url, size=int(meta["size"]), etag=meta["e_tag"])


def list_bucket(url: str, settings: SourceSettings) -> list[str]:
    """Addresses of the tars under `s3://bucket/prefix/`, sorted. Raises `SourceError`."""
    from obstore.exceptions import BaseError

    patience = _Patience(url, settings)
    start = f"s3://{urlsplit(url).netloc}/"
    while True:
        try:
            batches = list(_bucket(url, settings).list(_key_of(url).strip("/") or None))
        except (BaseError, OSError, ValueError) as error:
            found = _bucket_error(url, error)
            if isinstance(found, BiomedicaError):
                raise found from None
            with suppress(TypeError):
                patience.wait(found)  # type: ignore[arg-type]
            continue
        paths = (item["path"] for batch in batches for item in batch)
        return sorted(start + path for path in paths if path.endswith(".tar"))
