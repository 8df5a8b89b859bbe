"""Objects by key, from a folder or an object store: checked against their digest, tried again.

An object that stays away or stays wrong is a `FetchError` with its reason (the caller makes it a
`Reject`); a store that cannot be used at all is a `SourceError`.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import stat
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import urlsplit

from lxml import etree

from biomedica.errors import ConfigError, SourceError
from biomedica.records import Reason

MEGABYTE = 1 << 20
_XML = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """How articles are fetched."""

    endpoint: str | None = None
    """Address of another S3 service that holds the bucket; else `AWS_ENDPOINT_URL_S3` of the environment,
    else Amazon's."""
    region: str = "us-east-1"
    connections: int = 16
    """Requests in flight, in each worker process."""
    retries: int = 5
    """Further tries for a request that failed or whose bytes do not match their MD5."""
    backoff_seconds: float = 0.5
    """Wait before the first further try; doubled each time up to 30 s, with up to half of it added at random."""
    timeout_seconds: float = 60
    """Longest wait for one request."""
    max_xml_mb: int = 64
    """Megabytes; a larger article is rejected before it is fetched."""
    max_media_mb: int = 300
    """Megabytes; a larger picture is rejected before it is fetched."""
    max_failures_in_a_row: int = 50
    """Articles; when so many fail to arrive one after the other, the source is down and the run stops."""

    def __post_init__(self) -> None:
        for name in ("connections", "max_xml_mb", "max_media_mb", "max_failures_in_a_row"):
            if getattr(self, name) < 1:
                raise ConfigError(f"source.{name} is {getattr(self, name)}; at least 1 is expected")
        if self.retries < 0 or self.timeout_seconds <= 0:
            raise ConfigError("source.retries must be 0 or more, source.timeout_seconds positive")


class FetchError(Exception):
    """One object cannot be had."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Store(Protocol):
    """Where objects are read from. Opened in the process that uses it, never handed to a fork."""

    uri: str
    is_local: bool

    def get(
        self, key: str, *, md5: str | None = None, missing: Reason, max_mb: int = 1024
    ) -> bytes:
        """The object's bytes. Raises `FetchError`, with `missing` where there is no such object."""
        ...

    def size(self, key: str) -> int | None:
        """Bytes of an object; None where that cannot be told."""
        ...

    def keys(self, prefix: str) -> Iterator[str]:
        """Keys that start with a prefix, sorted. Raises `SourceError`."""
        ...

    def folders(self, prefix: str) -> list[str]:
        """Names (with the prefix) up to the next slash after the prefix, sorted."""
        ...


def open_store(uri: str, settings: SourceSettings) -> Store:
    """A store by its address: `s3://bucket`, `https://host[/bucket]`, a folder."""
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        endpoint = settings.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3")
        return ObjectStore(uri, parts.netloc, parts.path.strip("/"), endpoint, settings)
    if parts.scheme in ("http", "https"):
        return _from_address(uri, settings)
    if parts.scheme not in ("", "file"):
        raise ConfigError(
            f"unknown source {uri!r}: s3://bucket, https://host/bucket, a folder with the bucket's "
            "layout or folder:PATH is expected"
        )
    return FolderStore(Path(parts.path if parts.scheme else uri))


def _from_address(uri: str, settings: SourceSettings) -> Store:
    """`https://BUCKET.s3.amazonaws.com`, or path style `https://HOST/BUCKET`."""
    parts = urlsplit(uri)
    host, _, path = parts.netloc, "", parts.path.strip("/")
    if host.endswith(".amazonaws.com") and ".s3" in host:
        return ObjectStore(uri, host.split(".s3", 1)[0], path, settings.endpoint, settings)
    bucket, _, prefix = path.partition("/")
    if not bucket:
        raise ConfigError(f"{uri!r} names no bucket; https://HOST/BUCKET is expected")
    return ObjectStore(uri, bucket, prefix, f"{parts.scheme}://{host}", settings)


NO_RETRIES: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}
"""For obstore: what failed is tried again here, where it can be said of which object."""


def open_bucket(
    name: str,
    *,
    endpoint: str | None,
    region: str,
    is_signed: bool,
    options: dict[str, Any],
    prefix: str | None = None,
    retries: Any = NO_RETRIES,
) -> Any:
    """A bucket by obstore, in the process that uses it.

    is_signed   with the account of the environment, else without one
    options     of obstore's client; `retries` its `retry_config`, None for its own
    """
    from obstore.store import S3Store

    return S3Store(
        name,
        prefix=prefix,
        endpoint=endpoint,
        region=region,
        skip_signature=not is_signed,
        virtual_hosted_style_request=False,
        client_options=options,  # type: ignore[arg-type]
        retry_config=retries,
    )


def is_safe(key: str) -> bool:
    """Whether a key from the outside stays inside its store: relative, no `..`, no odd characters."""
    parts = PurePosixPath(key).parts
    return (
        bool(parts)
        and not key.startswith("/")
        and ".." not in parts
        and key.isprintable()
        and ("\\" not in key)
    )


def pause(attempt: int, backoff_seconds: float) -> float:
    """Seconds to wait before a further try, counted from 1: doubled each time up to 30, with up to half
    of it added at random."""
    return float(min(30.0, backoff_seconds * 2 ** (attempt - 1)) * random.uniform(1, 1.5))


def check_md5(data: bytes, md5: str | None) -> None:
    """Raise `FetchError` when the bytes are not those that the source states."""
    if md5 is None:
        return
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5.lower():
        raise FetchError(Reason.DIGEST_MISMATCH, f"MD5 is {found}, the source states {md5}")


class FolderStore:
    """A folder on this machine."""

    is_local = True

    def __init__(self, root: Path) -> None:
        self.uri = str(root)
        self._root = root.resolve()
        self._prefix = f"{self._root}{os.sep}"
        if not self._root.is_dir():
            raise SourceError(f"{root} is no folder; the source must be one, or an s3:// address")

    def get(
        self, key: str, *, md5: str | None = None, missing: Reason, max_mb: int = 1024
    ) -> bytes:
        if not is_safe(key):
            raise FetchError(Reason.UNSAFE_PATH, f"{key!r} leaves the source")
        path = os.path.realpath(f"{self._prefix}{key}")
        if not path.startswith(self._prefix):
            raise FetchError(Reason.UNSAFE_PATH, f"{key!r} is a link out of the source")
        try:
            # Without blocking: opening a pipe would wait for ever.
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise FetchError(Reason.UNSAFE_PATH, f"{key!r} is no plain file")
                if status.st_size > max_mb * MEGABYTE:
                    raise FetchError(
                        Reason.MEDIA_TOO_LARGE, f"{status.st_size} bytes; {max_mb} MB is the limit"
                    )
                data = file.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise FetchError(missing, f"{key} is not in the source") from None
        except OSError as error:
            raise FetchError(Reason.FETCH_FAILED, f"{key}: {error.strerror}") from None
        check_md5(data, md5)
        return data

    def size(self, key: str) -> int | None:
        path = self._root / key
        return path.stat().st_size if is_safe(key) and path.is_file() else None

    def keys(self, prefix: str) -> Iterator[str]:
        start = self._root / prefix
        base = start if start.is_dir() else start.parent
        found = []
        for folder, _, names in os.walk(base):
            relative = Path(folder).relative_to(self._root).as_posix()
            found += [f"{relative}/{n}" if relative != "." else n for n in names]
        yield from sorted(key for key in found if key.startswith(prefix))

    def folders(self, prefix: str) -> list[str]:
        base = self._root / prefix if prefix.endswith("/") else (self._root / prefix).parent
        if not base.is_dir():
            return []
        names = (
            path.relative_to(self._root).as_posix() for path in base.iterdir() if path.is_dir()
        )
        return sorted(name for name in names if name.startswith(prefix))


class ObjectStore:
    """A bucket of S3 or of a service that speaks its language, read without an account."""

    is_local = False

    def __init__(
        self, uri: str, bucket: str, prefix: str, endpoint: str | None, settings: SourceSettings
    ) -> None:
        self.uri = uri
        self._settings = settings
        self._prefix = f"{prefix}/" if prefix else ""
        host = endpoint or f"https://s3.{settings.region}.amazonaws.com"
        self._address = f"{host.rstrip('/')}/{bucket}"
        options: dict[str, Any] = {"timeout": timedelta(seconds=settings.timeout_seconds)}
        if endpoint is not None:
            options["allow_http"] = endpoint.startswith("http://")
        self._store = open_bucket(
            bucket,
            prefix=prefix or None,
            endpoint=endpoint,
            region=settings.region,
            is_signed=False,
            options=options,
        )

    def get(
        self, key: str, *, md5: str | None = None, missing: Reason, max_mb: int = 1024
    ) -> bytes:
        if not is_safe(key):
            raise FetchError(Reason.UNSAFE_PATH, f"{key!r} leaves the source")
        for attempt in range(self._settings.retries + 1):
            if attempt:
                time.sleep(pause(attempt, self._settings.backoff_seconds))
            try:
                data = self._get_once(key, missing, max_mb)
                check_md5(data, md5)
                return data
            except FetchError as error:
                if error.reason not in (Reason.FETCH_FAILED, Reason.DIGEST_MISMATCH):
                    raise
                last = error
        raise FetchError(last.reason, f"{last.detail} ({self._settings.retries + 1} tries)")

    def _get_once(self, key: str, missing: Reason, max_mb: int) -> bytes:
        from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError

        try:
            result = self._store.get(key)
            size = result.meta["size"]
            if size > max_mb * MEGABYTE:
                raise FetchError(Reason.MEDIA_TOO_LARGE, f"{size} bytes; {max_mb} MB is the limit")
            data = bytes(result.bytes())
        except (NotFoundError, FileNotFoundError):
            raise FetchError(missing, f"{key} is not in the source") from None
        except (PermissionDeniedError, PermissionError):
            raise FetchError(missing, f"{key} may not be read") from None
        except (BaseError, OSError, ValueError) as error:
            raise FetchError(Reason.FETCH_FAILED, f"{key}: {_short(error)}") from None
        if len(data) != size:
            raise FetchError(Reason.FETCH_FAILED, f"{key}: {len(data)} of {size} bytes arrived")
        return data

    def size(self, key: str) -> int | None:
        from obstore.exceptions import BaseError

        try:
            return int(self._store.head(key)["size"])
        except (BaseError, OSError):
            return None

    def keys(self, prefix: str) -> Iterator[str]:
        folder = prefix.rsplit("/", 1)[0] if "/" in prefix else ""
        found: list[str] = []
        for batch in self._listed(lambda: list(self._store.list(folder or None))):
            found += [item["path"] for item in batch if item["path"].startswith(prefix)]
        yield from sorted(found)

    def folders(self, prefix: str) -> list[str]:
        folder, _, start = prefix.rpartition("/")
        if start:
            return sorted(self._listed(lambda: self._folders_from(prefix)))
        result = self._listed(lambda: self._store.list_with_delimiter(folder or None))
        return sorted(result["common_prefixes"])

    def _folders_from(self, prefix: str) -> list[str]:
        """Folders whose names start with a prefix: one small request, which the library behind this
        class cannot make (it lists whole folders only). ListObjectsV2 of the S3 API."""
        found: list[str] = []
        query = {"list-type": "2", "prefix": f"{self._prefix}{prefix}", "delimiter": "/"}
        while True:
            url = f"{self._address}?{urllib.parse.urlencode(query)}"
            with urllib.request.urlopen(url, timeout=self._settings.timeout_seconds) as answer:
                root = etree.fromstring(answer.read(), _XML)
            names = root.iterfind("{*}CommonPrefixes/{*}Prefix")
            found += [(e.text or "").removeprefix(self._prefix).rstrip("/") for e in names]
            token = root.findtext("{*}NextContinuationToken")
            if not token:
                return found
            query["continuation-token"] = token

    def _listed(self, call: Any) -> Any:
        from obstore.exceptions import BaseError

        for attempt in range(self._settings.retries + 1):
            if attempt:
                time.sleep(pause(attempt, self._settings.backoff_seconds))
            try:
                return call()
            except (BaseError, OSError, ValueError, etree.XMLSyntaxError) as error:
                last = error
        raise SourceError(
            f"cannot list {self.uri}: {_short(last)}. Check the address (and source.endpoint, "
            "source.region) and the network"
        )


_STATUS = re.compile(r"status code: (\d{3})|\bstatus (\d{3})")
_CAUSES = (
    (("timed out", "timeout"), "timed out"),
    (("body error", "decod"), "the answer is cut"),
    (("error sending request", "onnection", "onnect"), "no answer"),
)
_ADDRESS = re.compile(r"Error performing .*? in [\d.]+\w+ - |https?://\S+")


def _short(error: Exception) -> str:
    """The first line, without addresses that change from try to try."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if status := _STATUS.search(text):
        return f"HTTP {status[1]}"
    for words, said in _CAUSES:
        if any(word in text for word in words):
            return said
    return _ADDRESS.sub("", text)[:160]
