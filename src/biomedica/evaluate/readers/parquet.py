"""Parquet files with pictures in them: the published evaluation set, and tables of the hub.

The published set has the columns `image, task, options, answer_idx, label, image_id, provenance_license`;
other tables are read by telling which column is what.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from biomedica.errors import ConfigError
from biomedica.evaluate.readers.answers import Said, answers_of
from biomedica.evaluate.readers.rows import (
    ClassNames,
    Found,
    Row,
    Source,
    is_inside,
    listed,
    number_text,
)

_UNREADABLE = (OSError, ValueError, KeyError, OverflowError, MemoryError, pa.ArrowException)
"""What pyarrow raises over damaged files, columns of one name, texts in other encodings, dates past all calendars."""
_KEPT_BYTES = 256 << 20
"""Of row groups that were read last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetOptions:
    """Which column is what. A pattern in `data.path` names several files; `{split}` in it their split."""

    task: str | list[str] = ""
    """Rows to take, by `task_column`; nothing: all."""
    task_column: str = "task"
    image: str = "image"
    """Encoded bytes, or a struct of `bytes` and `path` as the library `datasets` writes it."""
    id: str = "image_id"
    """Where there is no such column: file and row."""
    picture: str = ""
    """Column that names the picture, where several rows share one; `sha256`: told by its bytes."""
    group: str = ""
    split: str = ""
    """Column with the source's names of its splits."""
    label: str = "label"
    label_values: dict[str, str] = field(default_factory=dict)
    """What stands for a class, where that is neither its name nor its number."""
    separator: str = "|"
    """Between labels that stand in one text (`multilabel`)."""
    options: str = "options"
    answer: str = "answer_idx"
    """Column with the place of the right option, from 0."""
    caption: str = "caption"
    """A text or a list of them."""
    question: str = "question"
    answer_text: str = "answer"
    answer_type: str = "answer_type"
    """`CLOSED` or `OPEN`; without such a column, a question that yes or no answers is closed."""


OPTIONS = ParquetOptions


def splits(source: Source, options: ParquetOptions) -> Sequence[str]:
    """By the column that names them, or by the files that are there."""
    if options.split:
        found: set[str] = set()
        for file in _files(source, None):
            found |= {number_text(each) for each in _column(source, file, options.split)}
        return sorted(found)
    if "{split}" in source.task.data.path:
        return [name for name in ("train", "validation", "test") if _paths(source, name)]
    return ()


def rows(source: Source, options: ParquetOptions, split: str | None) -> Found:
    """Rows of all files; pictures stay where they are."""
    files = _files(source, split)
    labels = ClassNames(source.task, options.label_values)
    found: list[Row] = []
    tasks: set[str] = set()
    for number, file in enumerate(files):
        table = _Table(source, options, file, labels)
        found += table.rows(number, split)
        tasks |= table.tasks
    if not found and options.task:
        raise source.wrong(
            f"no row of {source.task.data.path} has {options.task!r} in {options.task_column!r}; "
            f"there are {listed(sorted(tasks))}"
        )
    return Found(rows=found, read=Pictures(files, options.image).read)


def _paths(source: Source, split: str | None) -> list[Path]:
    path = source.path("*" if split is None else split)
    pattern = path.relative_to(source.data).as_posix()
    try:
        return [path] if path.is_file() else sorted(source.data.glob(pattern))
    except (ValueError, IndexError, NotImplementedError) as error:
        raise ConfigError(
            f"task {source.task.name}: data.path is no pattern of files: {error}"
        ) from None


def _files(source: Source, split: str | None) -> list[ParquetPart]:
    paths = [path for path in _paths(source, split) if path.is_file()]
    if not paths:
        raise source.missing(source.path(split))
    return [ParquetPart(source, path) for path in paths]


class ParquetPart:
    """One file: its row groups and columns, read when they are asked for."""

    def __init__(self, source: Source, path: Path) -> None:
        self.path, self.place = path, source.shown(path)
        try:
            self._metadata = metadata = pq.read_metadata(path)
            self.schema: pa.Schema = pq.read_schema(path)
            counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        except _UNREADABLE as error:
            raise source.wrong(f"{self.place} is no Parquet file: {error}") from None
        self.ends = np.array(list(accumulate(counts)), np.int64)
        self.num_rows: int = metadata.num_rows

    def group(self, number: int, column: str) -> pa.ChunkedArray:
        """One column of a row group. Raises `OSError`."""
        try:
            with pq.ParquetFile(self.path, metadata=self._metadata) as file:
                return file.read_row_group(number, columns=[column])[column]
        except _UNREADABLE as error:
            raise OSError(f"{self.path}: {error}") from None

    def values(self, column: str) -> list[Any]:
        """One column of all row groups. Raises `OSError`, also where they are not as many as the file says."""
        groups = [self.group(number, column) for number in range(len(self.ends))]
        try:
            found = [value for group in groups for value in group.to_pylist()]
        except _UNREADABLE as error:
            raise OSError(f"{self.path}: {error}") from None
        if len(found) != self.num_rows:
            raise OSError(f"it has {len(found):,} values for {self.num_rows:,} rows")
        return found


def _column(source: Source, file: ParquetPart, name: str) -> list[Any]:
    """All values of a column. Raises `EvaluationError` where there is none of that name."""
    if name not in file.schema.names:
        raise source.wrong(
            f"{file.place} has no column {name!r}; it has {listed(file.schema.names)}. "
            "data.options says which column is what"
        )
    try:
        return file.values(name)
    except OSError as error:
        raise source.wrong(f"{file.place}: column {name!r} cannot be read: {error}") from None


class _Table:
    """The rows of one file."""

    def __init__(
        self, source: Source, options: ParquetOptions, file: ParquetPart, labels: ClassNames
    ) -> None:
        self._source, self._options, self._file, self._labels = source, options, file, labels
        self._kind = source.task.kind
        self._values: dict[str, list[Any]] = {}
        self.tasks: set[str] = set()
        wanted = options.task if isinstance(options.task, list) else [options.task]
        self._tasks = {name for name in wanted if name}
        self._load()

    def _load(self) -> None:
        o, names = self._options, self._file.schema.names
        needed = {
            "classification": [o.label],
            "multilabel": [o.label],
            "options": [o.options, o.answer, *([o.label] if self._source.task.classes else [])],
            "retrieval": [o.caption],
            "vqa": [o.question, o.answer_text],
        }[self._kind]
        needed += [each for each in (o.group, o.split) if each]
        needed += [o.task_column] if self._tasks else []
        needed += [o.picture] if o.picture not in ("", "sha256") else []
        maybe = [each for each in (o.id, o.answer_type) if each in names]
        for name in {*needed, *maybe}:
            self._values[name] = _column(self._source, self._file, name)
        if o.image not in names:
            _column(self._source, self._file, o.image)

    def rows(self, number: int, split: str | None) -> Iterator[Row]:
        """Those of the task and the split. number   of the file"""
        o = self._options
        if split is not None and not o.split and "{split}" not in self._source.task.data.path:
            raise self._source.wrong(
                f"data.splits names {split!r}, but neither data.path nor data.options.split says which "
                "rows these are"
            )
        kept = [row for row in range(self._file.num_rows) if self._is_wanted(row, split)]
        digests = self._digests(kept) if o.picture == "sha256" else {}
        for row in kept:
            yield self._row(number, row, digests.get(row, ""))

    def _is_wanted(self, row: int, split: str | None) -> bool:
        column = self._options.split
        if column and split is not None and number_text(self._values[column][row]) != split:
            return False
        if self._tasks:
            task = number_text(self._values[self._options.task_column][row])
            self.tasks.add(task)
            return task in self._tasks
        return True

    def _row(self, number: int, row: int, digest: str) -> Row:
        o = self._options
        place = f"{self._file.place} row {row}"
        name = number_text(self._values[o.id][row]) if o.id in self._values else ""
        item = name or f"{self._file.path.stem}/{row:07d}"
        picture = number_text(self._values[o.picture][row]) if o.picture in self._values else digest
        return Row(
            id=item,
            place=place,
            picture=(number, row),
            picture_id=picture,
            group=number_text(self._values[o.group][row]) if o.group else "",
            **answers_of(self._source, self._labels, self._said(row), o.separator, item, place),
        )

    def _said(self, row: int) -> Said:
        """What the kind of task needs."""
        o = self._options
        values = {name: column[row] for name, column in self._values.items()}
        label = values.get(o.label)
        is_flags = isinstance(label, list) and len(label) == len(self._source.task.classes)
        is_flags = is_flags and all(number_text(each) in ("0", "1") for each in label or ())
        return Said(
            label=label,
            flags=label if is_flags else None,
            options=values.get(o.options),
            answer=values.get(o.answer_text if self._kind == "vqa" else o.answer),
            captions=values.get(o.caption),
            question=values.get(o.question),
            answer_type=values.get(o.answer_type),
        )

    def _digests(self, kept: Sequence[int]) -> dict[int, str]:
        """First half of the SHA-256 of each row's picture."""
        pictures = Pictures([self._file], self._options.image)
        try:
            return {row: hashlib.sha256(pictures.read((0, row))).hexdigest()[:32] for row in kept}
        except OSError as error:
            raise self._source.wrong(f"{self._file.place}: {error}") from None


class Pictures:
    """Pictures by file and row; the row groups that were read last are kept."""

    def __init__(self, files: Sequence[ParquetPart], column: str) -> None:
        self._files, self._column = files, column
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], pa.ChunkedArray] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self._files, "column": self._column}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["files"], state["column"])  # type: ignore[misc]

    def read(self, where: tuple[int, int]) -> bytes:
        """Encoded bytes. where   number of the file, row in it. Raises `OSError`."""
        number, row = where
        file = self._files[number]
        group = int(np.searchsorted(file.ends, row, side="right"))
        start = int(file.ends[group - 1]) if group else 0
        try:
            value: Any = self._group(number, group)[row - start].as_py()
        except (IndexError, *_UNREADABLE) as error:
            raise OSError(f"column {self._column!r}: {error}") from None
        name: Any = None
        if isinstance(value, dict):
            value, name = value.get("bytes"), value.get("path")
        if isinstance(value, bytes):
            return value
        if isinstance(name, str) and is_inside(name):
            return (file.path.parent / name).read_bytes()
        raise OSError(
            f"column {self._column!r} has no bytes" + f", and the path {name!r}" * bool(name)
        )

    def _group(self, number: int, group: int) -> pa.ChunkedArray:
        key = (number, group)
        with self._lock:
            found = self._kept.pop(key, None)
            if found is None:
                found = self._files[number].group(group, self._column)
                self._bytes += found.nbytes
            self._kept[key] = found
            while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return found
