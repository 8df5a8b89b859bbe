"""The mistakes that a model was surest of, with their pictures where these are at hand."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from PIL import Image

from biomedica.errors import BiomedicaError
from biomedica.evaluate.items import Items
from biomedica.evaluate.results import Result
from biomedica.scoreboard.answers import worst

PictureSource = Callable[[str, str], Items | None]
"""The items of (task, split), or None where their data is not at hand."""
_SIDE = 168
_MOST_BYTES = 1_400_000
"""Of all thumbnails of a page, as they stand in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One item that a model got wrong."""

    item: str
    place: str
    group: str
    """Nothing where the item stands alone."""
    answer: str
    predicted: str
    confidence: float | None
    rank: int | None
    """Retrieval: place of the first right caption."""
    picture: str | None
    """A JPEG as a data address."""
    why: str
    """Why there is no picture."""


class Thumbnails:
    """Small pictures of items, each made once, until there are as many as a page holds."""

    def __init__(self, source: PictureSource | None) -> None:
        self._source = source
        self._items: dict[tuple[str, str], tuple[Items | None, dict[str, int], str]] = {}
        self._made: dict[tuple[str, str, str], tuple[str | None, str]] = {}
        self._bytes = 0

    def of(self, result: Result, item: str) -> tuple[str | None, str]:
        """(a data address, nothing), or (None, why there is none)."""
        key = (result.task, result.split, item)
        if key not in self._made:
            self._made[key] = self._make(*key)
        picture, why = self._made[key]
        if picture is not None and self._bytes + len(picture) > _MOST_BYTES:
            return None, "no room: the page holds as many pictures as it may"
        self._bytes += len(picture or "")
        return picture, why

    def _make(self, task: str, split: str, item: str) -> tuple[str | None, str]:
        items, place, why = self._read(task, split)
        if items is None:
            return None, why
        if item not in place:
            return None, "no picture: the data at hand does not hold this item"
        try:
            return _thumbnail(items.picture(place[item])), ""
        except BiomedicaError as error:
            return None, f"no picture: {error}"

    def _read(self, task: str, split: str) -> tuple[Items | None, dict[str, int], str]:
        key = (task, split)
        if key not in self._items:
            self._items[key] = self._open(task, split)
        return self._items[key]

    def _open(self, task: str, split: str) -> tuple[Items | None, dict[str, int], str]:
        if self._source is None:
            return None, {}, "no pictures: this page was made without the tasks’ data"
        try:
            items = self._source(task, split)
        except BiomedicaError as error:
            return None, {}, f"no picture: {error}"
        if items is None:
            return None, {}, "no picture: the task’s data is not at hand"
        return items, {item: index for index, item in enumerate(items.ids)}, ""


def _thumbnail(image: Image.Image) -> str:
    small = io.BytesIO()
    image.thumbnail((_SIDE, _SIDE))
    image.save(small, "JPEG", quality=70)
    return "data:image/jpeg;base64," + base64.b64encode(small.getvalue()).decode()


def mistakes_of(
    result: Result, items: pa.Table, count: int, thumbnails: Thumbnails
) -> list[Mistake]:
    """Up to so many, the surest first."""
    return [_mistake(result, row, thumbnails) for row in worst(items, count)]


def _mistake(result: Result, row: dict[str, Any], thumbnails: Thumbnails) -> Mistake:
    picture, why = thumbnails.of(result, row["item"])
    return Mistake(
        item=row["item"],
        place=row["place"],
        group="" if row["group"] == row["item"] else row["group"],
        answer=row["answer"] or "",
        predicted=row["predicted_text"] or "",
        confidence=row["confidence"],
        rank=row["rank"],
        picture=picture,
        why=why,
    )


def reasons(found: Sequence[Mistake]) -> str:
    """Why none of some mistakes has a picture, if all lack it for one reason."""
    whys = {each.why for each in found}
    why = whys.pop() if len(whys) == 1 else ""
    return why[:1].upper() + why[1:]
