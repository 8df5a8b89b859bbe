"""A folder for each class, with pictures in it, however deep."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from biomedica.errors import ConfigError
from biomedica.evaluate.readers.rows import (
    PICTURES,
    Found,
    Row,
    Source,
    is_inside,
    listed,
    read_picture_file,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderOptions:
    """`data.splits` names the folders of splits; without it, the folders of classes stand at the top."""

    folders: dict[str, str] = field(default_factory=dict)
    """Folder of each class; its name by default."""
    group: str = ""
    """Regular expression whose first bracket gives the group (patient, slide) in a picture's path."""

    def __post_init__(self) -> None:
        try:
            re.compile(self.group)
        except re.error as error:
            raise ConfigError(
                f"data.options.group: {self.group!r} is no regular expression: {error}"
            ) from None


OPTIONS = FolderOptions


def splits(source: Source, options: FolderOptions) -> Sequence[str]:
    """None of its own: folders are taken for splits where the task says so."""
    return ()


def rows(source: Source, options: FolderOptions, split: str | None) -> Found:
    """Pictures of all classes."""
    task = source.task
    if task.kind != "classification":
        raise ConfigError(f"task {task.name}: reader folders reads classification, not {task.kind}")
    unknown = sorted(set(options.folders) - set(task.class_names))
    if unknown:
        raise ConfigError(
            f"task {task.name}: data.options.folders names {unknown[0]!r}, which is no class; "
            f"known are {listed(task.class_names)}"
        )
    root = source.path(split)
    is_below = split and "{split}" not in task.data.path
    base = source.inside(root, str(split), "a folder of data.splits") if is_below else root
    if not base.is_dir():
        raise source.missing(base)
    found: list[Row] = []
    looked_in: dict[str, str] = {}
    for index, name in enumerate(task.class_names):
        below = options.folders.get(name, name)
        if not is_inside(below):
            raise ConfigError(f"task {task.name}: {below!r} is no folder below {task.data.path}")
        looked_in[name] = source.shown(base / below)
        found += _of_class(source, options, base, base / below, index)
    if not found:
        there = [path.name for path in sorted(base.iterdir()) if path.is_dir()]
        expected = listed(options.folders.get(name, name) for name in task.class_names)
        raise source.missing(
            base / options.folders.get(task.class_names[0], task.class_names[0]),
            f", nor is any picture in the folders {expected}; {source.shown(base)} has the folders "
            f"{listed(there) or 'none'}",
        )
    return Found(rows=found, read=read_picture_file, looked_in=looked_in)


def _of_class(
    source: Source, options: FolderOptions, base: Path, folder: Path, label: int
) -> Iterator[Row]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in PICTURES or path.name.startswith(".") or not path.is_file():
            continue
        item, place = path.relative_to(base).as_posix(), source.shown(path)
        group = ""
        if options.group:
            match = re.search(options.group, item)
            if match is None or not match.groups() or not match.group(1):
                raise source.item_error(
                    item,
                    place,
                    f"has no group: {options.group!r} with a bracket is not found in it",
                )
            group = match.group(1)
        yield Row(id=item, place=place, picture=path, group=group, label=label)
