"""Members of a tar to samples, and a sample to a row of the figures table or to the reason why not.

WebDataset's rule: neighbours whose names agree up to the first dot of the base name are one sample, the
rest of the name is the extension. A sample needs a JPEG (`jpg`, `jpeg`) that decodes and a caption: its
`txt`, else `caption` in its JSON. Other members are passed over; they count in the sample's length.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from biomedica.foreign.fields import BadFactsError, Facts, read_facts
from biomedica.foreign.tars import Bytes, Entry, entries
from biomedica.images import SUFFIXES, ImageSettings, RefusedError, read_picture
from biomedica.records import Picture, Reason, Reject, Stage

_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
"""As in WebDataset's `base_plus_ext`."""
_PARTS = {"jpg": "jpg", "jpeg": "jpg", "txt": "txt", "json": "json"}
_OTHER_PICTURES = frozenset(suffix.removeprefix(".") for suffix in SUFFIXES) - {"jpg", "jpeg"}


@dataclass(slots=True)
class Group:
    """The members of one sample."""

    key: str
    start: int
    """Bytes from the tar's start to the first header."""
    end: int = 0
    extensions: list[str] = field(default_factory=list)
    parts: dict[str, tuple[Entry, bytes | None]] = field(default_factory=dict)
    """`jpg`, `txt`, `json`: where it is, and its bytes; None where it is too large."""

    def data(self, part: str) -> bytes | None:
        """Bytes of a part that is there and not too large."""
        return self.parts[part][1] if part in self.parts else None


def groups(shard: str, stream: Bytes, most_bytes: int) -> Iterator[Group]:
    """Samples of a tar in order. Members of more than `most_bytes` are not read. Raises `TarError`."""
    group: Group | None = None
    for entry in entries(shard, stream):
        match = _NAME.fullmatch(entry.name)
        if match is None:
            continue
        key, extension = match[1], match[2].lower()
        if group is None or group.key != key or extension in group.extensions:
            if group is not None:
                yield group
            group = Group(key, entry.start)
        group.end = entry.end
        group.extensions.append(extension)
        part = _PARTS.get(extension)
        if part is not None and part not in group.parts:
            is_small = entry.size <= most_bytes
            group.parts[part] = entry, stream.read(entry.size) if is_small else None
    if group is not None:
        yield group


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A sample that counts."""

    columns: dict[str, Any]
    """Of the figures table."""
    facts: Facts
    is_other_picture: bool
    """Its JSON tells of a picture with other bytes (one that somebody made smaller)."""


class _RefusedError(Exception):
    def __init__(self, stage: Stage, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.stage, self.reason, self.detail = stage, reason, detail


def read_sample(
    shard: str,
    group: Group,
    images: ImageSettings,
    guard: Callable[[], AbstractContextManager[None]],
    *,
    with_text: bool = False,
) -> Row | Reject:
    """A sample's row, or why it has none. guard   bounds the time that its picture may take"""
    try:
        return _row(shard, group, images, guard, with_text)
    except _RefusedError as error:
        return reject(group.key, error.stage, error.reason, error.detail)


def reject(key: str, stage: Stage, reason: Reason, detail: str) -> Reject:
    """Of a sample, by its key."""
    return Reject(key=key, stage=stage, reason=reason, detail=detail[:200])


def _row(
    shard: str,
    group: Group,
    images: ImageSettings,
    guard: Callable[[], AbstractContextManager[None]],
    with_text: bool,
) -> Row:
    jpeg = _jpeg(group)
    try:
        facts = read_facts(_small(group, "json"), with_text=with_text)
    except BadFactsError as error:
        raise _RefusedError(Stage.PARSE, Reason.METADATA_BAD, str(error)) from None
    caption = _caption(group) or facts.columns["caption"]
    if not caption.strip():
        raise _RefusedError(Stage.PARSE, Reason.NO_CAPTION, ", ".join(group.extensions))
    with guard():
        picture = _picture(jpeg, images)
    is_other = bool(facts.picture) and facts.picture["sha256"] != picture["sha256"]
    if facts.picture and not is_other:
        picture |= facts.picture
    columns = {
        **facts.columns,
        "caption": caption,
        "file_name": facts.columns["file_name"] or group.parts["jpg"][0].name.rpartition("/")[2],
        **picture,
        **_places(shard, group),
    }
    return Row(columns=columns, facts=facts, is_other_picture=is_other)


def _small(group: Group, part: str) -> bytes | None:
    data = group.data(part)
    if data is None and part in group.parts:
        size = group.parts[part][0].size
        raise _RefusedError(Stage.FETCH, Reason.MEDIA_TOO_LARGE, f"{part} of {size} bytes")
    return data


def _jpeg(group: Group) -> bytes:
    data = _small(group, "jpg")
    if data is not None:
        return data
    others = [each for each in group.extensions if each in _OTHER_PICTURES]
    if others:
        detail = f"{others[0]}; only JPEG members are read where they stand"
        raise _RefusedError(Stage.IMAGES, Reason.FORMAT_REFUSED, detail)
    raise _RefusedError(Stage.FETCH, Reason.MEDIA_MISSING, ", ".join(group.extensions))


def _caption(group: Group) -> str:
    data = _small(group, "txt")
    try:
        return (data or b"").decode()
    except UnicodeDecodeError:
        raise _RefusedError(Stage.PARSE, Reason.METADATA_BAD, "the caption is no UTF-8") from None


def _picture(data: bytes, images: ImageSettings) -> dict[str, Any]:
    """Facts of the bytes as they stand, with the hash of what is seen."""
    try:
        found = read_picture(data, images)
    except RefusedError as error:
        raise _RefusedError(Stage.IMAGES, error.reason, error.detail) from None
    if found.source_format != "JPEG":
        detail = f"{found.source_format} under the name of a JPEG"
        raise _RefusedError(Stage.IMAGES, Reason.FORMAT_REFUSED, detail)
    width, height = _size(found, data)
    return {
        "width": width,
        "height": height,
        "source_format": "JPEG",
        "source_bytes": len(data),
        "source_md5": found.source_md5,
        "transform": "none",
        "sha256": found.sha256 if found.jpeg is data else hashlib.sha256(data).hexdigest(),
        "phash": found.phash,
    }


def _size(found: Picture, data: bytes) -> tuple[int, int]:
    """(width, height) as stored: a picture that is to be turned is not turned here."""
    if "rotated" not in found.transform:
        return found.width, found.height
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return image.size


def _places(shard: str, group: Group) -> dict[str, Any]:
    """Offsets as in our own shards. A part that is not there has no bytes, at the sample's end."""
    found: dict[str, Any] = {
        "key": group.key,
        "shard": shard,
        "offset": group.start,
        "length": group.end - group.start,
    }
    for part in ("jpg", "txt", "json"):
        entry = group.parts[part][0] if part in group.parts else None
        found[f"{part}_offset"] = group.end if entry is None else entry.offset
        found[f"{part}_size"] = 0 if entry is None else entry.size
    return found
