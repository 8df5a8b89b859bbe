"""A tar read once, front to back: its plain files with the exact places of their bytes.

Understood are ustar, pax, GNU and the old form without a magic word. Nothing is ever written to a
disk under a member's name. A sparse file, an unknown type or a damaged header is an `TarError`: what
follows it could not be trusted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from biomedica.errors import ArchiveError
from biomedica.shards import BLOCK

_CHECKSUM = slice(148, 156)
_FILES = b"0\x007"
_NO_DATA = b"123456"
"""Links, devices, folders, pipes: their size says nothing."""
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _SPARSE = b"L", b"K", b"x", b"g", b"S"
_LONGEST_HEADER = 1 << 20
_RECORD = re.compile(rb"(\d{1,8}) ([^=]{1,1000})=")
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


class TarError(ArchiveError):
    """A tar is damaged, of a kind that is not read, or changed meanwhile. The message names its shard."""


class Bytes(Protocol):
    """A shard's bytes, from the first to the last."""

    position: int
    """Bytes that were read or skipped."""

    def read(self, size: int) -> bytes:
        """The next bytes: fewer than asked for at the end alone."""
        ...

    def skip(self, size: int) -> None:
        """Pass over bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A plain file in a tar."""

    name: str
    start: int
    """Bytes from the tar's start to its first header; longer names have more than one."""
    offset: int
    """Bytes from the tar's start to the file's first byte."""
    size: int

    @property
    def end(self) -> int:
        """Where the next header stands."""
        return self.offset + self.size + -self.size % BLOCK


def entries(shard: str, stream: Bytes) -> Iterator[Entry]:
    """Plain files in order. The stream stands at the file's first byte: read it, or leave it.

    Ends where tar readers end: at a block of zeros, or with the last byte. Raises `TarError`.
    """
    lasting: dict[str, str] = {}
    own: dict[str, str] = {}
    start: int | None = None
    while True:
        place = stream.position
        header = stream.read(BLOCK)
        if not header or not any(header):
            if start is not None:
                raise _broken(shard, place, "ends after a header that belongs to the next file")
            return
        start = place if start is None else start
        _check_header(shard, place, header)
        kind = header[156:157]
        size = _number(shard, place, header[124:136])
        if kind == _SPARSE:
            raise _broken(shard, place, "holds a sparse file")
        if kind in (_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK):
            data = _header_data(shard, stream, place, size)
            if kind == _LONG_NAME:
                own["path"] = data.split(b"\0", 1)[0].decode(errors="replace")
            elif kind != _LONG_LINK:
                (own if kind == _PAX else lasting).update(_pax_records(shard, place, data))
            if kind == _PAX_GLOBAL:
                start = None
            continue
        facts = lasting | own
        name = facts.get("path") or _name(header)
        if any(each.startswith("GNU.sparse.") for each in facts):
            raise _broken(shard, place, f"holds a sparse file ({name})")
        if "size" in facts:
            size = _decimal(shard, place, facts["size"])
        if kind not in _FILES and kind not in _NO_DATA:
            raise _broken(shard, place, f"holds {name} of the unknown type {kind!r}")
        if kind in _FILES and not (kind == b"\0" and name.endswith("/")):
            entry = Entry(name, start, stream.position, size)
            yield entry
            _go_on(shard, stream, entry)
        start, own = None, {}


def _go_on(shard: str, stream: Bytes, entry: Entry) -> None:
    """Pass over what was left of a file."""
    stream.skip(entry.end - stream.position)
    if stream.position != entry.end:
        raise _broken(shard, stream.position, f"ends inside {entry.name}")


def _check_header(shard: str, place: int, header: bytes) -> None:
    if place == 0:
        for magic, name in _COMPRESSED.items():
            if header.startswith(magic):
                raise TarError(
                    f"{shard} is compressed ({name}): samples cannot be read out of its middle; "
                    "a plain .tar is expected"
                )
    if len(header) < BLOCK:
        raise _broken(shard, place, f"ends inside a header ({len(header)} of {BLOCK} bytes)")
    stated = header[_CHECKSUM].split(b"\0", 1)[0].strip()
    blank = header[:148] + b" " * 8 + header[156:]
    is_octal = bool(stated) and not stated.strip(b"01234567")
    if not is_octal or int(stated, 8) not in (sum(blank), _signed_sum(blank)):
        raise _broken(shard, place, "has no tar header")


def _signed_sum(header: bytes) -> int:
    """As some old writers summed."""
    return sum(header) - 256 * sum(byte > 127 for byte in header) if max(header) > 127 else -1


def _broken(shard: str, place: int, what: str) -> TarError:
    return TarError(f"{shard} {what} at byte {place}; its samples cannot be indexed")


def _number(shard: str, place: int, field: bytes) -> int:
    found = number_in(field)
    if found is None:
        raise _broken(shard, place, f"states the size {field!r}")
    return found


def number_in(field: bytes) -> int | None:
    """A header's number, octal or in GNU's binary form for large files; None for what is neither."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    return None if digits.strip(b"01234567") else int(digits or b"0", 8)


def _decimal(shard: str, place: int, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise _broken(shard, place, f"states the size {text[:40]!r}")
    return int(text)


def _header_data(shard: str, stream: Bytes, place: int, size: int) -> bytes:
    if size > _LONGEST_HEADER:
        raise _broken(shard, place, f"has a header of {size} bytes")
    data = stream.read(size + -size % BLOCK)
    if len(data) < size:
        raise _broken(shard, place, "ends inside a header")
    return data[:size]


def _pax_records(shard: str, place: int, data: bytes) -> dict[str, str]:
    """Records `length name=value` of a pax header (IEEE 1003.1, pax Extended Header)."""
    found, at = {}, 0
    while at < len(data) and data[at]:
        match = _RECORD.match(data, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1] != ord("\n"):
            raise _broken(shard, place, "has a damaged pax header")
        found[match[2].decode(errors="replace")] = data[match.end() : end - 1].decode(
            errors="replace"
        )
        at = end
    return found


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].split(b"\0", 1)[0] + b"/" + name
    return name.decode(errors="replace")
