"""VQA-RAD and SLAKE as their authors publish them: JSON beside a folder of pictures.

The tables of both on the hub are read by `parquet`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomedica.evaluate.readers.answers import Said, question_of
from biomedica.evaluate.readers.rows import Found, Row, Source, number_text, read_picture_file


@dataclass(frozen=True, slots=True, kw_only=True)
class RadOptions:
    """`data.path` is the folder that both stand in."""

    file: str = "VQA_RAD Dataset Public.json"
    images: str = "VQA_RAD Image Folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlakeOptions:
    """`data.path` is the folder with train.json, validate.json, test.json and the pictures' folder."""

    images: str = "imgs"
    language: str = "en"
    """`en` or `zh`; nothing: both."""


def rad_splits(source: Source, options: RadOptions) -> Sequence[str]:
    """The authors' two."""
    return "train", "test"


def rad_rows(source: Source, options: RadOptions, split: str | None) -> Found:
    """Questions of one split: those whose `phrase_type` starts with `test` are for testing."""
    folder = source.path(None)
    found = []
    path = source.inside(folder, options.file, "data.options.file")
    images = source.inside(folder, options.images, "data.options.images")
    for number, each in enumerate(_records(source, path)):
        place = f"{source.shown(path)} [{number}]"
        item = _id(source, each, "qid", place)
        phrase = number_text(each.get("phrase_type")).lower()
        if phrase not in _PHRASES:
            raise source.item_error(
                item,
                place,
                f"has the phrase_type {phrase!r}; one of {', '.join(_PHRASES)} is expected",
            )
        if split in (None, _PHRASES[phrase]):
            name = number_text(each.get("image_name"))
            found.append(_row(source, each, item, place, images, name))
    return Found(rows=found, read=read_picture_file)


_PHRASES = {"freeform": "train", "para": "train", "test_freeform": "test", "test_para": "test"}


def slake_splits(source: Source, options: SlakeOptions) -> Sequence[str]:
    """Those whose file is there."""
    folder = source.path(None)
    found = [each for each in _SLAKE if (folder / f"{each}.json").is_file()]
    if not found:
        raise source.missing(folder / "test.json")
    return found


_SLAKE = ("train", "validate", "test")


def slake_rows(source: Source, options: SlakeOptions, split: str | None) -> Found:
    """Questions of one file, or of all, in one language."""
    folder = source.path(None)
    images = source.inside(folder, options.images, "data.options.images")
    found = []
    for name in slake_splits(source, options) if split is None else [split]:
        path = source.inside(folder, f"{name}.json", "a file of data.splits")
        for number, each in enumerate(_records(source, path)):
            place = f"{source.shown(path)} [{number}]"
            item = _id(source, each, "qid", place)
            if options.language in ("", number_text(each.get("q_lang")).lower()):
                picture = number_text(each.get("img_name"))
                found.append(_row(source, each, item, place, images, picture))
    return Found(rows=found, read=read_picture_file)


def _records(source: Source, path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise source.missing(path)
    try:
        content = json.loads(path.read_text("utf-8-sig"))
        json.dumps(content, ensure_ascii=False).encode()  # halves of characters stand as escapes
    except (OSError, ValueError, RecursionError) as error:
        raise source.wrong(f"{source.shown(path)} is no JSON: {error}") from None
    if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
        raise source.wrong(f"{source.shown(path)} is no list of questions")
    return content


def _id(source: Source, record: dict[str, Any], name: str, place: str) -> str:
    """Numbers are padded, so that items stand in the order of the source."""
    text = number_text(record.get(name))
    if not text:
        raise source.item_error("?", place, f"has no {name}")
    return text.zfill(7) if text.isdecimal() else text


def _row(
    source: Source, record: dict[str, Any], item: str, place: str, images: Path, picture: str
) -> Row:
    """A question; those of one picture are one group."""
    said = Said(
        question=record.get("question"),
        answer=record.get("answer"),
        answer_type=record.get("answer_type"),
    )
    return Row(
        id=item,
        place=place,
        picture=source.below(images, picture, item, place),
        picture_id=picture,
        question=question_of(source, said, item, place),
    )
