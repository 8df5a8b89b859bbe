"""CLIP_benchmark's WebDataset layout.

ROOT/classnames.txt, zeroshot_classification_templates.txt, dataset_type.txt
ROOT/<split>/nshards.txt, 0.tar, 1.tar ...      members s0000000.webp with .cls, .npy or .txt
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biomedica.evaluate.readers.rows import DAMAGED, Found, Row, Source, shortened

CLASSES, TEMPLATES, TYPE, SHARDS = (
    "classnames.txt",
    "zeroshot_classification_templates.txt",
    "dataset_type.txt",
    "nshards.txt",
)
LABELS = {"classification": "cls", "multilabel": "npy", "retrieval": "txt"}
"""Ending of the member with the answer, by kind of task."""
IMAGES = ("webp", "png", "jpg", "jpeg")
"""Endings of pictures that the program knows, as it prefers them."""
_NUMBER = re.compile(r"[0-9]{1,9}")
_BLOCK = 512
"""Bytes of a header; one of zeros ends a tar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WdsOptions:
    """Nothing to state: `data.path` is the root."""


OPTIONS = WdsOptions


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a tar: where its bytes are."""

    offset: int
    size: int


def splits(source: Source, options: WdsOptions) -> Sequence[str]:
    """Folders with a count of shards."""
    root = source.path(None)
    found = sorted(path.parent.name for path in root.glob(f"*/{SHARDS}"))
    if not found:
        raise source.missing(root / "test" / SHARDS)
    return found


def rows(source: Source, options: WdsOptions, split: str | None) -> Found:
    """Samples of one split, or of all."""
    root = source.path(None)
    found: list[Row] = []
    for name in splits(source, options) if split is None else [split]:
        folder = source.inside(root, name, "a folder of data.splits")
        if not (folder / SHARDS).is_file():
            raise source.missing(folder / SHARDS)
        _check_type(source, root)
        for path in _shards(source, folder):
            prefix = f"{name}/" if split is None else ""
            found += _rows(source, path, prefix)
    return Found(rows=found, read=read_member)


def _text(source: Source, path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise source.wrong(f"{source.shown(path)} cannot be read: {error}") from None


def _shards(source: Source, folder: Path) -> list[Path]:
    path = folder / SHARDS
    text = _text(source, path)
    if not _NUMBER.fullmatch(text) or not int(text):
        raise source.wrong(
            f"{source.shown(path)} holds {shortened(text)}; the number of shards is expected"
        )
    shards = []
    for number in range(int(text)):
        shards.append(folder / f"{number}.tar")
        if not shards[-1].is_file():
            raise source.missing(shards[-1], f", though {source.shown(path)} counts {text} shards")
    return shards


def _check_type(source: Source, root: Path) -> None:
    """The kind and the classes that the root states are those of the task."""
    kind = source.task.kind
    path = root / TYPE
    stated = _text(source, path).lower() if path.is_file() else "classification"
    if stated != kind or kind not in LABELS:
        raise source.wrong(
            f"{source.shown(root)} holds {stated or 'classification'}, the task asks for {kind}"
        )
    if kind == "retrieval" or not (root / CLASSES).is_file():
        return
    theirs = [line.strip() for line in _text(source, root / CLASSES).splitlines()]
    place = source.shown(root / CLASSES)
    for number, each in enumerate(source.task.classes):
        found = theirs[number] if number < len(theirs) else "nothing"
        texts = {prompts.texts.get(each.name) for prompts in source.task.prompts.values()}
        if found not in {each.name, each.words, *texts}:
            raise source.wrong(
                f"{place} has {found!r} as class {number}, the task has {each.name!r}"
            )
    if len(theirs) > len(source.task.classes):
        extra = len(source.task.classes)
        raise source.wrong(f"{place} has {theirs[extra]!r} as class {extra}, the task has no more")


def _samples(source: Source, path: Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """Key and members by ending of each sample: neighbours of one key."""
    key, members = "", dict[str, Member]()
    length = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                if not entry.isreg():
                    continue
                folder, slash, name = entry.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if members and folder + slash + stem != key:
                    yield key, members
                    members = {}
                key = folder + slash + stem
                if entry.offset_data + entry.size > length:
                    raise tarfile.ReadError(f"{name} is cut")
                members[ending.lower()] = Member(entry.offset_data, entry.size)
            end = tar.offset
    except (OSError, tarfile.TarError, *DAMAGED) as error:
        raise source.wrong(f"{source.shown(path)} is a damaged tar: {error}") from None
    with path.open("rb") as file:
        file.seek(end)
        if file.read(_BLOCK) != bytes(_BLOCK):  # tarfile takes any other block for the end, too
            raise source.wrong(f"{source.shown(path)} is a damaged tar: it is cut at byte {end:,}")
    if members:
        yield key, members


def _rows(source: Source, path: Path, prefix: str) -> Iterator[Row]:
    ending, shown = LABELS[source.task.kind], source.shown(path)
    with path.open("rb") as tar:
        for key, members in _samples(source, path):
            item, place = prefix + key, f"{shown} {key}"
            image = next((members[name] for name in IMAGES if name in members), None)
            if image is None or ending not in members:
                missing = f"one of .{', .'.join(IMAGES)}" if image is None else f".{ending}"
                raise source.item_error(item, place, f"has no member {missing}")
            where = members[ending]
            label = os.pread(tar.fileno(), where.size, where.offset)
            answers = _answers(source, label, item, place)
            yield Row(id=item, place=place, picture=(path, image), **answers)


def _answers(source: Source, data: bytes, item: str, place: str) -> dict[str, Any]:
    """From the member with the answer. Its number is an index by definition, whatever the classes are called."""
    kind = source.task.kind
    if kind == "retrieval":
        return {"captions": tuple(data.decode("utf-8", "replace").splitlines())}
    if kind == "classification":
        text = data.decode("ascii", "replace").strip()
        if not _NUMBER.fullmatch(text) or int(text) >= len(source.task.classes):
            raise source.item_error(
                item,
                place,
                f"has the label {shortened(text)}; 0 to {len(source.task.classes) - 1} is expected",
            )
        return {"label": int(text)}
    try:
        flags = np.load(io.BytesIO(data), allow_pickle=False)
    except DAMAGED as error:
        raise source.item_error(item, place, f"has labels that are no array: {error!r}") from None
    return {"labels": source.labels.held(flags.reshape(-1).tolist(), item, place)}


def read_member(where: tuple[Path, Member]) -> bytes:
    """Bytes of a member of a tar. Raises `OSError`."""
    path, member = where
    with path.open("rb", buffering=0) as tar:
        return os.pread(tar.fileno(), member.size, member.offset)
