"""The bytes of a tar from where it stands: a file, an HTTP server, a bucket.

A connection that breaks is taken up again at the byte where the reader stood. Bytes of two states of
a file are never mixed: what changed in between is a `TarError` with the shard's name.
"""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from biomedica.archive import Place
from biomedica.errors import SourceError
from biomedica.foreign.requests import AgainError, Answer, Patience, StatusError, ask, shown
from biomedica.foreign.tars import TarError
from biomedica.sources import SourceSettings
from biomedica.sources.store import open_bucket

_CHUNK = 1 << 20
_NOT_TO_HEAD = frozenset({400, 403, 405, 501})
"""What servers say to HEAD that answer to GET (signed addresses are signed for one of them)."""


def look_up(url: str, settings: SourceSettings, token: str | None) -> Place:
    """Size and ETag of a tar, without its bytes. Raises `SourceError`."""
    scheme = urlsplit(url).scheme
    if scheme not in ("http", "https", "s3"):
        return _file_place(url)
    patience = Patience(url, settings)
    while True:
        try:
            return (
                _bucket_place(url, settings)
                if scheme == "s3"
                else _http_place(url, settings, token)
            )
        except AgainError as error:
            patience.wait(error)


def _file_place(path: str) -> Place:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None
    return Place(url=path, size=status.st_size, etag=str(status.st_mtime_ns))


def _http_place(url: str, settings: SourceSettings, token: str | None) -> Place:
    try:
        answer = ask(url, token, settings.timeout_seconds, "HEAD")
    except StatusError as error:
        if error.status not in _NOT_TO_HEAD:
            raise
        answer = ask(url, token, settings.timeout_seconds, Range="bytes=0-0")
    answer.body.close()
    if answer.size is None:
        answer = ask(url, token, settings.timeout_seconds, Range="bytes=0-0")
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


def changed(shard: str, place: Place) -> TarError:
    """What is said of a tar that is not what it was when its size was asked for."""
    return TarError(
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
        """Raise `TarError` where the file is not what it was at the start."""
        if _file_place(self._place.url) != self._place:
            raise changed(self._shard, self._place)


class FetchedBytes:
    """A tar that arrives in pieces over connections that may break."""

    def __init__(self, shard: str, place: Place, settings: SourceSettings) -> None:
        self._shard, self._place, self._settings = shard, place, settings
        self._patience = Patience(place.url, settings)
        self._pieces: Iterator[bytes] | None = None
        self._piece = b""
        self._at = 0
        self.position = 0

    def _open(self, position: int) -> Iterator[bytes]:
        """Pieces from a byte on. Raises `AgainError`."""
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
                    raise AgainError(f"the answer ends at byte {self.position}")
                self._patience.succeeded()
                return piece
            except AgainError as error:
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
        answer = ask(self._place.url, self._token, self._settings.timeout_seconds, **headers)
        try:
            return self._checked(answer, position)
        except BaseException:
            answer.body.close()
            raise

    def _checked(self, answer: Answer, position: int) -> Iterator[bytes]:
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

    def _read(self, answer: Answer, again: int) -> Iterator[bytes]:
        """Pieces of an answer. again   bytes at its start that were read before"""
        with closing(answer.body):
            while True:
                try:
                    piece = answer.body.read1(_CHUNK)
                except (OSError, http.client.HTTPException, ValueError) as error:
                    raise AgainError(f"the connection broke ({type(error).__name__})") from None
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
        raise AgainError(f"the connection broke ({type(error).__name__})") from None


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
    options: dict[str, Any] = {
        "timeout": timedelta(days=1),
        "read_timeout": timedelta(seconds=seconds),
        "connect_timeout": timedelta(seconds=seconds),
    }
    if endpoint is not None:
        options["allow_http"] = endpoint.startswith("http://")
    return open_bucket(bucket, endpoint=endpoint, region=region, is_signed=signed, options=options)


def _bucket_error(url: str, error: Exception) -> Exception:
    from obstore.exceptions import NotFoundError, PermissionDeniedError, UnauthenticatedError

    if isinstance(error, (NotFoundError, FileNotFoundError)):
        return SourceError(f"{url}: there is no such object")
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError, PermissionError)):
        return SourceError(
            f"{url}: no access. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of an account that has it"
        )
    return AgainError(f"no answer ({type(error).__name__})")


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

    patience = Patience(url, settings)
    start = f"s3://{urlsplit(url).netloc}/"
    while True:
        try:
            batches = list(_bucket(url, settings).list(_key_of(url).strip("/") or None))
        except (BaseError, OSError, ValueError) as error:
            found = _bucket_error(url, error)
            if not isinstance(found, AgainError):
                raise found from None
            patience.wait(found)
            continue
        paths = (item["path"] for batch in batches for item in batch)
        return sorted(start + path for path in paths if path.endswith(".tar"))
