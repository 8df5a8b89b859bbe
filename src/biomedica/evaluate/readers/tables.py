"""CSV or TSV beside pictures: labels, several labels, options, captions, boxes around what is asked of."""

from __future__ import annotations

import csv
import os
import re
import string
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from biomedica.errors import ConfigError
from biomedica.evaluate.items import UNREADABLE, open_picture
from biomedica.evaluate.readers.answers import Said, answers_of
from biomedica.evaluate.readers.rows import (
    ClassNames,
    Found,
    Picture,
    Row,
    Source,
    listed,
    number_text,
    read_picture_file,
)

Box = tuple[int, int, int, int]
Record = Mapping[str, str]
_WHOLE = re.compile(r"[0-9]{1,18}")
_DECODED = 4
"""Pictures kept decoded, for the next box in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions:
    """Which column is what. `{split}` in `data.path` names the file of a split."""

    image: str = "image"
    """Column with the picture's file, or with what `pattern` makes one of."""
    pattern: str = "{id}"
    """File name from columns; `{id}`: the `image` column (`{id:03d}.bmp` pads a number)."""
    folder: str = "."
    """Of the pictures, from the table's; it stays below the folder of data."""
    id: str = ""
    """Column; by default the picture's file, with a number where boxes are cut."""
    group: str = ""
    split: str = ""
    """Column with the source's names of its splits."""
    label: str = "label"
    label_values: dict[str, str] = field(default_factory=dict)
    """What stands for a class, where that is neither its name nor its number."""
    labels: dict[str, str] = field(default_factory=dict)
    """`multilabel`: by class, the column that holds 0 or 1; without it, `label` holds several."""
    separator: str = "|"
    """Between several labels in one text."""
    box: list[str] = field(default_factory=list)
    """Columns of xmin, ymin, xmax, ymax in pixels: the item is what they enclose."""
    box_min_side: int = 0
    """Pixels: rows whose box is smaller are left out; 0: an empty box is an error."""
    options: list[str] = field(default_factory=list)
    """Columns of candidate captions; an empty cell is none."""
    answer: str = "answer_idx"
    """Column with the place of the right option, from 0."""
    captions: list[str] = field(default_factory=lambda: ["caption"])
    """Columns of right captions; an empty cell is none."""
    question: str = "question"
    answer_text: str = "answer"
    answer_type: str = ""
    delimiter: str = ""
    """A tab for `.tsv`, else a comma."""
    encoding: str = "utf-8-sig"

    def __post_init__(self) -> None:
        try:
            for _, spec in pattern_parts(self.pattern):
                format(1 if spec.endswith("d") else "", spec)
        except (ValueError, OverflowError, MemoryError) as error:
            raise ConfigError(
                f"data.options.pattern is {self.pattern!r}: {error}; something such as {{id:03d}}.png is expected"
            ) from None
        for name in ("delimiter", "separator"):
            value = getattr(self, name)
            if (len(value) > 1 and name == "delimiter") or (not value and name == "separator"):
                raise ConfigError(f"data.options.{name} is {value!r}; one character is expected")


def pattern_parts(pattern: str) -> list[tuple[str, str]]:
    """Column and format of each field of a pattern. Raises `ValueError` for what is none."""
    fields = string.Formatter().parse(pattern)
    return [(name, spec or "") for _, name, spec, _ in fields if name]


OPTIONS = TableOptions


def splits(source: Source, options: TableOptions) -> Sequence[str]:
    """By the column that names them, or by the files that are there."""
    if options.split:
        _, records = _read(source, options, None, [options.split])
        return sorted({record[options.split] for record in records})
    if "{split}" in source.task.data.path:
        return [each for each in ("train", "validation", "test") if source.path(each).is_file()]
    return ()


def rows(source: Source, options: TableOptions, split: str | None) -> Found:
    """Rows of the table."""
    reading = _Reading(source, options)
    path, records = _read(source, options, split, reading.columns)
    if split is not None and not options.split and "{split}" not in source.task.data.path:
        raise ConfigError(
            f"task {source.task.name}: data.splits names {split!r}, but neither data.path nor "
            "data.options.split says which rows these are"
        )
    kept = [
        reading.row(path, line, record)
        for line, record in enumerate(records, 2)
        if split is None or not options.split or record[options.split] == split
    ]
    return Found(
        rows=[row for row in kept if row is not None],
        read=Crops().read if options.box else read_picture_file,
    )


def _read(
    source: Source, options: TableOptions, split: str | None, columns: Sequence[str]
) -> tuple[Path, list[dict[str, str]]]:
    """The table's file and its records. Raises `EvaluationError` where a column is missing."""
    path = source.path(split)
    if not path.is_file():
        raise source.missing(path)
    place = source.shown(path)
    delimiter = options.delimiter or ("\t" if path.suffix == ".tsv" else ",")
    try:
        with path.open(encoding=options.encoding, newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, strict=True, restval="")
            names = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = names
            records = [
                {name: value.strip() for name, value in each.items() if isinstance(value, str)}
                for each in reader
            ]
    except (
        OSError,
        ValueError,
        csv.Error,
        LookupError,
    ) as error:  # encodings have errors of all three
        raise source.wrong(f"{place} cannot be read as a table: {error}") from None
    for name in columns:
        if name not in names:
            raise source.wrong(
                f"{place} has no column {name!r}; it has {listed(names)}. data.options says which "
                "column is what"
            )
    return path, records


class _Reading:
    """Rows from records, by the options."""

    def __init__(self, source: Source, options: TableOptions) -> None:
        self._source, self._options, self._kind = source, options, source.task.kind
        self._labels = ClassNames(source.task, options.label_values)
        self._parts = pattern_parts(options.pattern)
        self._met: dict[str, int] = {}
        if options.box and len(options.box) != 4:
            raise ConfigError(
                f"task {source.task.name}: data.options.box is {options.box}; the columns of "
                "[xmin, ymin, xmax, ymax] are expected"
            )
        if options.labels and set(options.labels) != set(source.task.class_names):
            raise ConfigError(
                f"task {source.task.name}: data.options.labels needs a column for each class: "
                f"{listed(source.task.class_names)}"
            )

    @property
    def columns(self) -> list[str]:
        """What has to be there."""
        o = self._options
        answers = {
            "classification": [o.label],
            "multilabel": list(o.labels.values()) or [o.label],
            "options": [*o.options, o.answer, *([o.label] if self._source.task.classes else [])],
            "retrieval": o.captions,
            "vqa": [o.question, o.answer_text, *([o.answer_type] if o.answer_type else [])],
        }[self._kind]
        names = {name for name, _ in self._parts}
        fields = {o.image if name == "id" else name for name in names}
        others = [each for each in (o.id, o.group, o.split, *o.box) if each]
        return [*sorted(fields), *answers, *others]

    def row(self, path: Path, line: int, record: Record) -> Row | None:
        """One record; None where its box is too small. line   of the file, from 1"""
        o = self._options
        place = f"{self._source.shown(path)} line {line}"
        name = self._file_name(record, place)
        item = record[o.id] if o.id else name
        if not o.id and (o.box or self._kind == "vqa"):
            number = self._met[name] = self._met.get(name, -1) + 1
            item = f"{name}#{number:04d}"
        picture = self._source.below(self._folder(path), name, item, place)
        box = self._box(record, item, place) if o.box else None
        if box and min(box[2] - box[0], box[3] - box[1]) < o.box_min_side:
            return None
        return Row(
            id=item,
            place=place,
            picture=(picture, box) if box else picture,
            picture_id=item if o.box else name,
            group=record[o.group] if o.group else name,
            **answers_of(self._source, self._labels, self._said(record), o.separator, item, place),
        )

    def _folder(self, path: Path) -> Path:
        """Of the pictures."""
        folder = Path(os.path.normpath(path.parent / self._options.folder))
        if not folder.is_relative_to(self._source.data):
            raise ConfigError(
                f"task {self._source.task.name}: data.options.folder is {self._options.folder!r}, which "
                "leads out of the folder of data"
            )
        return folder

    def _file_name(self, record: Record, place: str) -> str:
        o = self._options
        values: dict[str, Any] = {}
        for name, spec in self._parts:
            value: Any = record[o.image if name == "id" else name]
            if spec.endswith("d"):
                if not _WHOLE.fullmatch(number_text(value)):
                    raise self._source.item_error(
                        value, place, f"has no number for {{{name}:{spec}}} of data.options.pattern"
                    )
                value = int(number_text(value))
            values[name] = value
        text = "".join(
            literal + (format(values[name], spec or "") if name else "")
            for literal, name, spec, _ in string.Formatter().parse(o.pattern)
        )
        if not text:
            raise self._source.item_error("", place, f"names no file in {o.image!r}")
        return text

    def _box(self, record: Record, item: str, place: str) -> Box:
        """xmin, ymin, xmax, ymax, whole pixels."""
        texts = [record[name] for name in self._options.box]
        try:
            left, top, right, bottom = (round(float(text)) for text in texts)
        except (ValueError, OverflowError):
            raise self._source.item_error(
                item, place, f"has the box {', '.join(texts)}; four numbers are expected"
            ) from None
        if (right <= left or bottom <= top) and not self._options.box_min_side:
            raise self._source.item_error(
                item, place, f"has the empty box {left}, {top}, {right}, {bottom}"
            )
        return left, top, right, bottom

    def _said(self, record: Record) -> Said:
        """What the kind of task needs."""
        o = self._options
        names = self._source.task.class_names
        return Said(
            label=record.get(o.label),
            flags=[record[o.labels[name]] for name in names] if o.labels else None,
            options=[record[name] for name in o.options if record.get(name)],
            answer=record.get(o.answer_text if self._kind == "vqa" else o.answer),
            captions=[record[name] for name in o.captions if record.get(name)],
            question=record.get(o.question),
            answer_type=record.get(o.answer_type),
        )


class Crops:
    """Parts of pictures; those decoded last are kept for the next box."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Path, Image.Image] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    def read(self, where: tuple[Path, Box]) -> Picture:
        """Pixels (H, W, 3) of a box, as far as it lies in the picture. Raises `OSError`."""
        path, (left, top, right, bottom) = where
        image = self._decoded(path)
        inside = max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)
        if inside[2] <= inside[0] or inside[3] <= inside[1]:
            raise OSError(
                f"the box {left}, {top}, {right}, {bottom} is not in the picture of "
                f"{image.width} x {image.height}"
            )
        return np.array(image.crop(inside), np.uint8)

    def _decoded(self, path: Path) -> Image.Image:
        with self._lock:
            image = self._kept.pop(path, None)
        if image is None:
            try:
                image = open_picture(path.read_bytes())
            except UNREADABLE as error:
                raise OSError(str(error)) from None
        with self._lock:
            self._kept[path] = image
            while len(self._kept) > _DECODED:
                self._kept.popitem(last=False)
        return image
