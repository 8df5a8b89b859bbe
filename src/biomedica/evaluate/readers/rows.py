"""What every reader finds: a row for each item, and one way to open its picture."""

from __future__ import annotations

import difflib
import lzma
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from biomedica.errors import ConfigError, DataMissingError, EvaluationError
from biomedica.evaluate.items import Question
from biomedica.evaluate.tasks import Task

Picture = bytes | NDArray[np.uint8]
Settings = TypeVar("Settings")
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
"""Endings of pictures, in lower case."""
DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    MemoryError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy and zipfile raise over arrays that are damaged: sizes past all memory, headers that are no Python."""
_INDEX = re.compile(r"[0-9]{1,9}")
_SHOWN = 12
"""Names that a message lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a source says of one item; only what the task's kind needs is there."""

    id: str
    place: str
    """File (and row) below the folder of data."""
    picture: Any
    """What `Found.read` takes."""
    picture_id: str = ""
    """The id by default."""
    group: str = ""
    """The picture's id by default."""
    label: int | None = None
    """Of the class, or of the right option."""
    class_label: int | None = None
    """`options`: of the class, where the task states classes."""
    labels: tuple[int, ...] = ()
    """`multilabel`: classes that hold."""
    options: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    question: Question | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One split of a source, in any order."""

    rows: Sequence[Row]
    read: Callable[[Any], Picture]
    """Opens `Row.picture`. Raises `OSError` for what cannot be read; may be called by several threads."""
    looked_in: Mapping[str, str] = field(default_factory=dict)
    """By class, where its items were looked for; nothing: in all that `data.path` names."""


@dataclass(frozen=True)
class Source:
    """A task's data on this machine."""

    task: Task
    data: Path
    """Folder of all data."""

    @cached_property
    def labels(self) -> ClassNames:
        """What a label may be called."""
        return ClassNames(self.task)

    def path(self, split: str | None) -> Path:
        """Of the task, with `{split}` filled in; it need not exist. Raises `ConfigError` where it leads out."""
        name = self.task.data.path.replace("{split}", split or "")
        if name != "." and not is_inside(name):
            raise ConfigError(
                f"task {self.task.name}: data.path is {name!r}; a path below the folder of data is expected"
            )
        return self.data / name

    def inside(self, folder: Path, name: str, setting: str) -> Path:
        """A file that the task names, which must not lead out of its folder. Raises `ConfigError`."""
        if not is_inside(name):
            raise ConfigError(
                f"task {self.task.name}: {setting} is {name!r}; a path below {self.shown(folder)} is expected"
            )
        return folder / name

    def shown(self, path: Path) -> str:
        """A path for messages and items files: below the folder of data, with what is no Unicode as escapes."""
        name = path.relative_to(self.data).as_posix()
        return name.encode("utf-8", "backslashreplace").decode()

    def missing(self, path: Path, hint: str = "") -> DataMissingError:
        """The error for a file that is not there."""
        access = self.task.access
        how = f": {access.how}" if access.how else ""
        return DataMissingError(
            f"task {self.task.name}: {path} is not there{hint}. It comes from {access.url}{how} "
            f"(terms: {access.terms}; licence: {access.licence})"
        )

    def wrong(self, what: str) -> EvaluationError:
        """The error for data that cannot be meant."""
        return EvaluationError(f"task {self.task.name}: {what}")

    def item_error(self, item: str, place: str, what: str) -> EvaluationError:
        """The same of one item."""
        return self.wrong(f"item {item!r} ({place}) {what}")

    def below(self, folder: Path, name: str, item: str, place: str) -> Path:
        """A file that data names, which must not lead out of its folder. Raises `EvaluationError`."""
        if not is_inside(name):
            raise self.item_error(
                item, place, f"names the file {name!r}, which is not below its folder"
            )
        return folder / name


class ClassNames:
    """The classes of a task, by name or number.

    A label that is a class's name always means that class. Another whole number is an index from 0, unless names are
    numbers themselves: of the classes "1", "2" and "3", 1 is the first and 0 is none, in a column of numbers too.
    """

    def __init__(self, task: Task, values: Mapping[str, str] | None = None) -> None:
        self._names = {name: index for index, name in enumerate(task.class_names)}
        self._are_numbers = any(_INDEX.fullmatch(name) for name in self._names)
        self._task = task
        self._values = dict(values or {})
        unknown = sorted(set(self._values.values()) - set(self._names))
        if unknown:
            raise ConfigError(
                f"task {task.name}: data.options.label_values names {unknown[0]!r}, which is no class; "
                f"known are {listed(self._names)}"
            )

    def index(self, value: Any, item: str, place: str) -> int:
        """Of a class's name, of what stands for it, or of its number from 0. Raises `EvaluationError`."""
        text = number_text(value)
        name = self._values.get(text, text)
        if name in self._names:
            return self._names[name]
        is_index = not self._values and not self._are_numbers and _INDEX.fullmatch(text)
        if is_index and int(text) < len(self._names):
            return int(text)
        known = listed(self._values or self._names)
        hint = " (numbers are names here, as some classes are called by one)" * self._are_numbers
        raise EvaluationError(
            f"task {self._task.name}: item {item!r} ({place}) has the label {shortened(text)}, which is no class; "
            f"known are {known}{hint}"
        )

    def indices(self, value: Any, separator: str, item: str, place: str) -> tuple[int, ...]:
        """Of several classes: a list of names or numbers, or a text that separates them."""
        if value is not None and not isinstance(value, str | list | tuple):
            value = [value]
        parts = value.split(separator) if isinstance(value, str) else (value or [])
        found = {self.index(part, item, place) for part in parts if number_text(part)}
        return tuple(sorted(found))

    def held(self, flags: Sequence[Any], item: str, place: str) -> tuple[int, ...]:
        """Of the classes whose flag is 1; a flag each, 0 or 1. Raises `EvaluationError`."""
        if len(flags) != len(self._names):
            raise EvaluationError(
                f"task {self._task.name}: item {item!r} ({place}) has {len(flags)} flags for "
                f"{len(self._names)} classes"
            )
        texts = [number_text(flag).lower() for flag in flags]
        for text in texts:
            if text not in _FLAGS:
                raise EvaluationError(
                    f"task {self._task.name}: item {item!r} ({place}) has the flag {text!r}; "
                    "0 or 1 is expected"
                )
        return tuple(index for index, text in enumerate(texts) if _FLAGS[text])


_FLAGS = {"0": False, "1": True, "false": False, "true": True, "": False}


def number_text(value: Any) -> str:
    """A value of a table as text: whole numbers without a fraction, nothing for what is not there.

    >>> number_text(3.0), number_text(" 3.0"), number_text(True), number_text(None)
    ('3', '3', '1', '')
    """
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    text = str(value).strip()
    return text[:-2] if re.fullmatch(r"-?\d+\.0", text) else text


def shortened(text: str) -> str:
    """What was found, for a message, in quotes.

    >>> shortened("a" * 99)
    "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...'"
    """
    return repr(text if len(text) <= 40 else text[:40] + "...")


def listed(names: Iterable[str]) -> str:
    """Names for a message, the first of many.

    >>> listed(["a", "b"])
    'a, b'
    """
    every = list(names)
    more = f" and {len(every) - _SHOWN} more" * (len(every) > _SHOWN)
    return ", ".join(every[:_SHOWN]) + more


def is_inside(name: str) -> bool:
    """Whether a relative path stays below where it starts.

    >>> is_inside("a/b.jpg"), is_inside("../b.jpg"), is_inside("/etc/passwd"), is_inside("a/../b")
    (True, False, False, False)
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return bool(parts) and not (
        name.startswith(("/", "\\")) or ".." in parts or "\0" in name or ":" in parts[0]
    )


def read_options(task: Task, kind: type[Settings]) -> Settings:
    """A reader's settings from `data.options`. Raises `ConfigError`: an unknown name gets a suggestion."""
    known = list(getattr(kind, "__dataclass_fields__", {}))
    for name in task.data.options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = (
                f"did you mean {close[0]!r}?" if close else f"known are {listed(known) or 'none'}"
            )
            raise ConfigError(
                f"task {task.name}: unknown data.options.{name} of reader {task.data.reader}; {hint}"
            )
    try:
        return TypeAdapter(kind).validate_python(task.data.options)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(each) for each in first["loc"])
        raise ConfigError(f"task {task.name}: data.options.{place}: {first['msg']}") from None
    except ConfigError as error:  # of the settings themselves, which know no task
        raise ConfigError(f"task {task.name}: {error}") from None


def read_picture_file(path: Path) -> bytes:
    """The bytes of a file of its own."""
    return path.read_bytes()
