"""Readers of benchmark data: whatever the files look like, they come to `Items`.

rows      what a reader finds, and what it may be told
splits    which items belong to a split
parquet   the published evaluation set and other tables with pictures in them
folders   a folder for each class
tables    CSV or TSV beside pictures, with boxes where cells are cut out
arrays    MedMNIST's .npz
wds       CLIP_benchmark's WebDataset
views     a view of an archive
vqa       VQA-RAD and SLAKE as their authors publish them
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from biomedica.errors import ConfigError, EvaluationError
from biomedica.evaluate.items import Items, check_items
from biomedica.evaluate.readers import arrays, folders, parquet, tables, views, vqa, wds
from biomedica.evaluate.readers.rows import Found, Picture, Row, Source, listed, read_options
from biomedica.evaluate.readers.splits import drawn, known_splits, source_split
from biomedica.evaluate.tasks import Task

log = logging.getLogger(__name__)
__all__ = ["READERS", "Reader", "read_items", "task_splits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """How one kind of source is read."""

    settings: type
    """Dataclass of what `data.options` may state."""
    rows: Callable[[Source, Any, str | None], Found]
    """Of one split, by the source's name of it; None: of all."""
    splits: Callable[[Source, Any], Sequence[str]]
    """What the source calls its splits; nothing where it has none."""
    usual: Mapping[str, str] = field(default_factory=dict)
    """What sources of this kind call ours, where that is another name."""


def _reader(module: ModuleType, **names: str) -> Reader:
    return Reader(settings=module.OPTIONS, rows=module.rows, splits=module.splits, usual=names)


READERS: dict[str, Reader] = {
    "parquet": _reader(parquet),
    "folders": _reader(folders),
    "csv": _reader(tables),
    "npz": _reader(arrays, validation="val"),
    "medmnist": Reader(
        settings=arrays.MedmnistOptions,
        rows=arrays.medmnist_rows,
        splits=arrays.medmnist_splits,
        usual={"validation": "val"},
    ),
    "wds": _reader(wds),
    "view": _reader(views, validation="val"),
    "vqa_rad": Reader(settings=vqa.RadOptions, rows=vqa.rad_rows, splits=vqa.rad_splits),
    "slake": Reader(
        settings=vqa.SlakeOptions,
        rows=vqa.slake_rows,
        splits=vqa.slake_splits,
        usual={"validation": "validate"},
    ),
}
"""By the name that a task states as `data.reader`."""


def _opened(task: Task, data: Path) -> tuple[Reader, Source, Any]:
    reader = READERS.get(task.data.reader)
    if reader is None:
        raise ConfigError(
            f"task {task.name}: data.reader is {task.data.reader!r}; known are {listed(READERS)}"
        )
    return reader, Source(task, data), read_options(task, reader.settings)


def task_splits(task: Task, data: Path) -> list[str]:
    """Splits of a task: those that it states, else those that the files have; `test` where they have none.

    Raises `DataMissingError` where that cannot be told without the files.
    """
    reader, source, options = _opened(task, data)
    stated = task.data.splits or task.data.fractions
    with _told(source):
        own = () if stated else reader.splits(source, options)
    return known_splits(task, own, reader.usual)


def read_items(task: Task, data: Path, split: str) -> Items:
    """The items of one split, by id. Labels and texts are read now, pictures when they are asked for.

    data   folder that `data.path` of the task starts from

    Raises `DataMissingError` for files that are not there, `EvaluationError` for what cannot be scored
    (a class of a classification that the test split has no item of, unless it `may_lack` it), `ConfigError`
    for a task that asks for what its reader does not know.
    """
    reader, source, options = _opened(task, data)
    stated = task.data.splits or task.data.fractions
    with _told(source):
        own = () if stated else reader.splits(source, options)
        theirs = source_split(task, split, own, reader.usual)
        found = reader.rows(source, options, theirs)
    rows = sorted(drawn(task, split, found.rows), key=lambda row: row.id)
    items = check_items(_items(task, split, rows, found.read))
    if split == "test":
        _check_classes(task, items, found.looked_in)
    expected = task.data.ids_sha256.get(split, items.ids_sha256)
    if items.ids_sha256 != expected:
        raise EvaluationError(
            f"task {task.name}: {split} has {len(items):,} items whose ids have the SHA-256 "
            f"{items.ids_sha256}; the task states {expected}: these are other items"
        )
    return items


@contextmanager
def _told(source: Source) -> Iterator[None]:
    """What the disk says of any file of a task names the task, too."""
    try:
        yield
    except OSError as error:
        raise source.wrong(f"its data cannot be read: {error}") from None


def _check_classes(task: Task, items: Items, looked_in: Mapping[str, str]) -> None:
    """Scores over fewer classes than the task has would pass for scores of the task."""
    counts = np.zeros(0, np.int64)
    if task.kind == "classification" and items.labels_N is not None:
        counts = np.bincount(items.labels_N, minlength=len(task.classes))
    elif task.kind == "multilabel" and items.labels_NC is not None:
        counts = items.labels_NC.sum(axis=0)
    names = [task.class_names[index] for index in np.flatnonzero(counts == 0)]
    lacking = [name for name in names if name not in task.may_lack]
    if not lacking:
        return
    if task.kind == "multilabel":
        log.warning(
            "task %s: no item of test has %s; means over classes leave them out",
            task.name,
            listed(lacking),
        )
        return
    shown = "; ".join(
        f"{name!r} was looked for in {looked_in.get(name, task.data.path)}" for name in lacking[:3]
    )
    raise EvaluationError(
        f"task {task.name}: test has no item of {len(lacking)} of its {len(task.classes)} classes: {shown}. "
        "A task that is meant so says may_lack = [names of classes]"
    )


def _items(task: Task, split: str, rows: Sequence[Row], read: Callable[[Any], Picture]) -> Items:
    pictures = tuple(row.picture_id or row.id for row in rows)
    has_class = bool(rows) and all(row.class_label is not None for row in rows)
    return Items(
        task=task.name,
        split=split,
        ids=tuple(row.id for row in rows),
        places=tuple(row.place for row in rows),
        read=partial(_read, read, [row.picture for row in rows]),
        groups=tuple(row.group or name for row, name in zip(rows, pictures, strict=True)),
        picture_ids=pictures,
        labels_N=_numbers([row.label for row in rows])
        if task.kind in ("classification", "options")
        else None,
        labels_NC=_flags(task, rows) if task.kind == "multilabel" else None,
        options=tuple(row.options for row in rows) if task.kind == "options" else None,
        class_labels_N=_numbers([row.class_label for row in rows])
        if task.kind == "options" and has_class
        else None,
        captions=tuple(row.captions for row in rows) if task.kind == "retrieval" else None,
        questions=tuple(row.question for row in rows if row.question is not None)
        if task.kind == "vqa"
        else None,
    )


def _read(read: Callable[[Any], Picture], pictures: Sequence[Any], index: int) -> Picture:
    return read(pictures[index])


def _numbers(values: Sequence[int | None]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([-1 if each is None else each for each in values], np.int64)


def _flags(task: Task, rows: Sequence[Row]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    found = np.zeros((len(rows), len(task.classes)), bool)
    for index, row in enumerate(rows):
        found[index, list(row.labels)] = True
    return found
