"""An archive's files by address: a folder, http(s)://, s3://; whole small ones, and ranges of shards.

A store is opened in the process that uses it (its threads do not live through a fork). A request
that fails is tried again; what stays wrong is an `ArchiveError` that names the file.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from biomedica.errors import ArchiveError, ConfigError
from biomedica.foreign.requests import hub_token, shown, token_for
from biomedica.sources.store import NO_RETRIES, open_bucket, pause
from biomedica.stream.settings import ReadSettings

_OPEN_FILES = 128
"""Shards that a process keeps open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a shard stands, and what is known of it."""

    shard: str
    address: str
    """Path or URL of the tar file."""
    size: int | None
    """Bytes, as the archive states them; None where it does not."""
    etag: str | None = None
    """Of a shard that stands elsewhere, when it was indexed; of a file, its time of change."""
    version: str = ""
    """Digest of the shard, as the archive states it."""
    is_foreign: bool = False
    """Somebody else wrote it: its members may have other names and another order."""

    @property
    def is_remote(self) -> bool:
        """Whether it needs a server."""
        return is_remote(self.address)


class Ranges(Protocol):
    """Reads ranges of shards; used by many threads at once."""

    def read(self, place: Place, start: int, stop: int) -> bytes | memoryview:
        """Exactly the bytes [start, stop). Raises `ArchiveError`, with the shard's name."""
        ...


def is_remote(address: str) -> bool:
    """Whether an address needs a server."""
    return urlsplit(address).scheme in ("http", "https", "s3")


def joined(base: str, name: str) -> str:
    """A file's address below an archive's."""
    return f"{base.rstrip('/')}/{name}"


class Files:
    """Everything that an archive or an index of shards names, wherever it stands."""

    def __init__(self, settings: ReadSettings) -> None:
        self.local = LocalFiles()
        self.over = threading.Event()
        """Set when nobody waits any more: what fails is then not tried again."""
        self._remote = RemoteFiles(settings, self.over)

    def read(self, place: Place, start: int, stop: int) -> bytes | memoryview:
        """See `Ranges`."""
        source: Ranges = self._remote if place.is_remote else self.local
        return source.read(place, start, stop)

    def download(self, address: str, target: Path) -> None:
        """A large file of a server, under a temporary name first."""
        self._remote.download(address, target)

    def whole(self, address: str) -> bytes | None:
        """A small file; None where there is none. Raises `ArchiveError` when it cannot be had."""
        if is_remote(address):
            return self._remote.whole(address)
        try:
            return Path(address).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ArchiveError(f"{address} cannot be read: {error.strerror or error}") from None


class LocalFiles:
    """Shards on this machine, by pread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()
        self._seen: dict[str, tuple[int, ...]] = {}

    def read(self, place: Place, start: int, stop: int) -> bytes:
        """See `Ranges`."""
        try:
            file = self._open.get(place.address) or self._opened(place)
            data = os.pread(file.descriptor, stop - start, start)
            while len(data) < stop - start:  # a signal, or more than 2 GB
                begin = start + len(data)
                more = os.pread(file.descriptor, stop - begin, begin)
                if not more:
                    raise ArchiveError(
                        f"shard {place.shard}: {place.address} ends before byte {stop:,}; it is not "
                        "the file that the archive describes"
                    )
                data += more
        except OSError as error:
            raise ArchiveError(
                f"shard {place.shard}: {place.address} cannot be read: {error.strerror or error}"
            ) from None
        return data

    def will_need(self, place: Place, start: int, stop: int) -> None:
        """Let the kernel fetch a range: it will be read soon."""
        with suppress(OSError):  # a hint; reading says what is wrong
            file = self._open.get(place.address) or self._opened(place)
            os.posix_fadvise(file.descriptor, start, stop - start, os.POSIX_FADV_WILLNEED)

    def _opened(self, place: Place) -> _OpenFile:
        with self._lock:
            file = _OpenFile(os.open(place.address, os.O_RDONLY | os.O_CLOEXEC))
            status = os.fstat(file.descriptor)
            if place.size is not None and status.st_size != place.size:
                raise _replaced(
                    place, f"it has {status.st_size:,} bytes, the archive states {place.size:,}"
                )
            if place.is_foreign and place.etag not in (None, str(status.st_mtime_ns)):
                raise _replaced(place, "it was changed after it was indexed")
            said = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self._seen.setdefault(place.address, said) != said:
                raise _replaced(place, "the file changed while it was being read")
            self._open[place.address] = file
            while len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
            return file


class _OpenFile:
    """A descriptor, closed when the last thread that reads from it is done."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


def _replaced(place: Place, said: str) -> ArchiveError:
    return ArchiveError(
        f"shard {place.shard} at {place.address} was replaced by another version: {said}. Offsets would "
        "lead to other bytes; make the view (or the index) of that archive again"
    )


_importing = threading.Lock()


def _import_obstore() -> None:
    """Import it in one thread: its modules import each other, and a second thread may get them half made."""
    with _importing:
        import obstore.store  # noqa: F401


class RemoteFiles:
    """Shards behind HTTP or in a bucket, by range requests of obstore."""

    def __init__(self, settings: ReadSettings, over: threading.Event) -> None:
        self._settings, self._over = settings, over
        self._stores: dict[str, Any] = {}
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[Any, ...]] = {}
        """By address, what the first answer said of the file: it must not change afterwards."""

    def read(self, place: Place, start: int, stop: int) -> bytes | memoryview:
        """See `Ranges`."""
        _import_obstore()
        found: memoryview = self._tried(
            f"shard {place.shard}", place.address, lambda: self._range(place, start, stop)
        )
        return found

    def whole(self, address: str) -> bytes | None:
        """A small file; None where there is none."""
        _import_obstore()
        from obstore.exceptions import NotFoundError

        def get() -> bytes:
            store, path = self._store(address)
            answer = store.get(path)
            data = bytes(answer.bytes())
            if len(data) != answer.meta["size"]:
                raise OSError(f"{len(data)} of {answer.meta['size']} bytes arrived")
            return data

        try:
            found: bytes = self._tried(address.rpartition("/")[2], address, get)
            return found
        except (NotFoundError, FileNotFoundError):
            return None

    def download(self, address: str, target: Path) -> None:
        """A large file, piece by piece, under a temporary name first."""
        _import_obstore()
        place = Place(shard=target.name, address=address, size=None)
        store, path = self._store(address)
        size = self._tried(target.name, address, lambda: store.head(path))["size"]
        own = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        step = int(self._settings.piece_mb * 1e6)
        try:
            with own.open("wb") as file:
                for start in range(0, size, step):
                    file.write(self.read(place, start, min(size, start + step)))
            own.replace(target)
        finally:
            own.unlink(missing_ok=True)

    def _range(self, place: Place, start: int, stop: int) -> memoryview:
        store, path = self._store(place.address)
        answer = store.get(path, options={"range": (start, stop)})
        meta = answer.meta
        self._check(place, meta)
        if answer.range != (start, stop):
            raise OSError(f"the server gave bytes {answer.range} for {(start, stop)}")
        data = memoryview(answer.bytes())
        if len(data) != stop - start:
            raise OSError(f"{len(data):,} of {stop - start:,} bytes arrived")
        return data

    def _check(self, place: Place, meta: Any) -> None:
        if place.size is not None and meta["size"] != place.size:
            raise _replaced(
                place, f"it has {meta['size']:,} bytes, the archive states {place.size:,}"
            )
        etag = meta.get("e_tag")
        tag = etag and etag.removeprefix("W/")
        if place.etag and tag and tag != place.etag.removeprefix("W/"):
            raise _replaced(place, f"its ETag is {etag}, the index noted {place.etag}")
        said = (meta["size"], tag, None if tag else meta.get("last_modified"))
        if self._seen.setdefault(place.address, said) != said:
            raise _replaced(place, "its ETag or date changed while it was being read")

    def _tried(self, what: str, address: str, call: Any) -> Any:
        from obstore.exceptions import (
            BaseError,
            NotFoundError,
            PermissionDeniedError,
            UnauthenticatedError,
        )

        for attempt in range(self._settings.retries + 1):
            if attempt and self._over.wait(pause(attempt, self._settings.backoff_seconds)):
                break
            try:
                return call()
            except (NotFoundError, FileNotFoundError):
                if what.startswith("shard "):
                    raise ArchiveError(f"{what}: there is no {address}") from None
                raise
            except (PermissionDeniedError, UnauthenticatedError, PermissionError):
                raise ArchiveError(
                    f"{what}: {address} may not be read; for a hub, accept the dataset's terms there and "
                    "set HF_TOKEN, for a bucket set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                ) from None
            except (BaseError, OSError, ValueError) as error:
                last = error
        said = (str(last).strip().splitlines() or [type(last).__name__])[0][:300]
        raise ArchiveError(
            f"{what}: {address} cannot be read after {self._settings.retries + 1} tries: {said}"
        )

    def _store(self, address: str) -> tuple[Any, str]:
        parts = urlsplit(address)
        origin = f"{parts.scheme}://{parts.netloc}"
        path = parts.path.lstrip("/")
        if parts.scheme != "s3":
            path = unquote(path)
        if parts.query or "@" in parts.netloc:
            raise ConfigError(
                f"{shown(address)}: an address with a query (?) or a password may hold a secret and "
                "cannot be read; for a hub, set HF_TOKEN"
            )
        with self._lock:
            if os.getpid() != self._pid:  # its threads are in the parent
                self._stores, self._pid = {}, os.getpid()
            if origin not in self._stores:
                self._stores[origin] = _opened(parts.scheme, parts.netloc, self._settings)
            return self._stores[origin], path


def _opened(scheme: str, host: str, settings: ReadSettings) -> Any:
    from obstore.store import HTTPStore

    client: dict[str, Any] = {
        "timeout": timedelta(seconds=settings.timeout_seconds),
        "allow_http": True,
    }
    if scheme == "s3":
        return _bucket(host, client, NO_RETRIES)
    token = token_for(f"{scheme}://{host}", hub_token())
    if token:
        client["default_headers"] = {"Authorization": f"Bearer {token}"}
    return HTTPStore(f"{scheme}://{host}", client_options=client, retry_config=NO_RETRIES)  # type: ignore[arg-type]


def _bucket(name: str, client: dict[str, Any], retries: Any) -> Any:
    return open_bucket(
        name,
        endpoint=os.environ.get("AWS_ENDPOINT_URL_S3"),
        region=os.environ.get("AWS_REGION", "us-east-1"),
        is_signed="AWS_ACCESS_KEY_ID" in os.environ,
        options=client,
        retries=retries,
    )


def bucket_at(address: str) -> tuple[Any, str]:
    """A bucket to write to, and the prefix in it, by `s3://BUCKET/PREFIX`. Raises `ConfigError`."""
    parts = urlsplit(address)
    if parts.scheme != "s3" or not parts.netloc:
        raise ConfigError(f"{address!r}: s3://BUCKET/PATH is expected")
    return _bucket(parts.netloc, {"allow_http": True}, None), parts.path.strip("/")
