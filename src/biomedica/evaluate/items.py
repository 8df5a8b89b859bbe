"""What a task's data comes to, whatever it was read from: pictures with labels, options, captions or questions."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biomedica.errors import EvaluationError

FORMATS = ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"]
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What a picture that does not decode raises."""
MOST_PIXELS = 100_000_000
"""Of a benchmark picture: a damaged header must not take all memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question about a picture."""

    text: str
    answer: str
    is_closed: bool
    """Answered by yes, no or a choice that the question states."""
    options: tuple[str, ...] = ()
    """What may be answered, where the source says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """The items of one split, in the order of their ids. Only what the task's kind needs is there."""

    task: str
    split: str
    ids: tuple[str, ...]
    """Each once; the reader's own, stable names."""
    places: tuple[str, ...]
    """Of each item: the file (and row) that it stands in, for messages."""
    read: Callable[[int], bytes | NDArray[np.uint8]]
    """Encoded bytes of the item's picture, or its pixels (H, W) or (H, W, 3)."""
    groups: tuple[str, ...]
    """Of each item: patient, slide or article; its id where it stands alone."""
    picture_ids: tuple[str, ...]
    """Of each item: name of its picture; items with the same picture (several questions) share one."""
    labels_N: NDArray[np.int64] | None = None
    """Index among the task's classes (`classification`), or of the right option (`options`)."""
    labels_NC: NDArray[np.bool_] | None = None
    """`multilabel`."""
    options: tuple[tuple[str, ...], ...] | None = None
    """`options`: candidate captions of each item."""
    class_labels_N: NDArray[np.int64] | None = None
    """`options`, where the task states classes: index of the item's class, for probes."""
    captions: tuple[tuple[str, ...], ...] | None = None
    """`retrieval`: right captions of each picture."""
    questions: tuple[Question, ...] | None = None
    """`vqa`."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ids_sha256(self) -> str:
        """SHA-256 over the sorted ids, one a line, in hex."""
        return hashlib.sha256("\n".join(sorted(self.ids)).encode()).hexdigest()

    def name(self, index: int) -> str:
        """Task, split, item and file, for a message."""
        return f"task {self.task}, {self.split}, item {self.ids[index]!r} ({self.places[index]})"

    def picture(self, index: int) -> Image.Image:
        """The item's picture as RGB. Raises `EvaluationError` naming task, item and file."""
        try:
            return open_picture(self.read(index))
        except UNREADABLE as error:
            raise EvaluationError(
                f"{self.name(index)}: its picture does not decode: {error}"
            ) from None


def open_picture(source: bytes | NDArray[np.uint8]) -> Image.Image:
    """RGB from encoded bytes or from pixels. Raises `OSError` or `ValueError` for what is no picture.

    Sixteen-bit greys are scaled by their own range, transparency goes on white.
    """
    if not isinstance(source, bytes):
        if source.dtype != np.uint8 or not 2 <= source.ndim <= 3:
            raise ValueError(
                f"pixels are {source.dtype} {source.shape}; uint8 (H, W[, 3]) expected"
            )
        return Image.fromarray(source.squeeze()).convert("RGB")
    with Image.open(io.BytesIO(source), formats=FORMATS) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(
                f"{image.width:,} x {image.height:,} pixels; {MOST_PIXELS:,} are allowed"
            )
        image.load()
        if image.mode.startswith(("I", "F")):
            values = np.asarray(image, dtype=np.float64)
            low, high = float(values.min()), float(values.max())
            scaled = (values - low) * (255 / (high - low)) if high > low else values * 0
            return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            layer = image.convert("RGBA")
            canvas = Image.new("RGBA", layer.size, "white")
            return Image.alpha_composite(canvas, layer).convert("RGB")
        return image.convert("RGB")


def check_items(items: Items) -> Items:
    """The items, when each list has a value for each of them, and no id stands twice or is no Unicode.

    Raises `EvaluationError`.
    """
    count = len(items.ids)
    if not count:
        raise EvaluationError(f"task {items.task}: {items.split} has no items")
    if len(set(items.ids)) < count:
        seen: set[str] = set()
        again = next(each for each in items.ids if each in seen or seen.add(each))  # type: ignore[func-returns-value]
        raise EvaluationError(
            f"task {items.task}, {items.split}: id {again!r} stands twice; ids must name one item each"
        )
    for values in (items.ids, items.groups, items.picture_ids):
        _check_unicode(items, values)
    for name in ("places", "groups", "picture_ids", "options", "captions", "questions"):
        values = getattr(items, name)
        assert values is None or len(values) == count, name
    for index, options in enumerate(items.options or ()):
        _check_options(items, index, options)
    for index, captions in enumerate(items.captions or ()):
        if not captions or not all(each.strip() for each in captions):
            raise EvaluationError(f"{items.name(index)} has no caption, or an empty one")
    return items


def _check_unicode(items: Items, names: Sequence[str]) -> None:
    """Names of files hold what no file of results can, where they were written in another encoding."""
    for index, name in enumerate(names):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise EvaluationError(
                f"task {items.task}, {items.split}, item {items.ids[index]!r}: {name!r} is no Unicode"
            ) from None


def _check_options(items: Items, index: int, options: tuple[str, ...]) -> None:
    assert items.labels_N is not None
    if not options:
        raise EvaluationError(f"{items.name(index)} has no options")
    if any(not each.strip() for each in options):
        raise EvaluationError(f"{items.name(index)} has an empty option")
    answer = int(items.labels_N[index])
    if not 0 <= answer < len(options):
        raise EvaluationError(
            f"{items.name(index)}: answer {answer} is none of its {len(options)} options"
        )
