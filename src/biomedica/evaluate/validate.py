"""Whether a task's data is here and is what the task says: what `biomedica eval validate` tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from biomedica.errors import BiomedicaError, DataMissingError
from biomedica.evaluate.items import Items
from biomedica.evaluate.readers import read_items, task_splits
from biomedica.evaluate.tasks import Task

State = Literal["ok", "absent", "wrong"]
Tell = Callable[[int, int], None]
"""Called with (pictures opened, of all of the split)."""
_NAMED = 3
"""Pictures that do not open and that the message names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFacts:
    """One split as it was found."""

    items: int
    groups: int
    ids_sha256: str
    """What a task may state as `data.ids_sha256`."""
    classes: dict[str, int] = field(default_factory=dict)
    """Items of each class, in the order of the task; several of one item count each (`multilabel`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What was found of a task's data."""

    task: str
    state: State
    """`absent`: the test split (or the only one) is not here; `wrong`: something must be mended."""
    message: str
    """What is missing or wrong, a line for each finding; nothing where all is well."""
    splits: dict[str, SplitFacts]
    """Those that could be read."""
    url: str
    terms: str
    licence: str


def validate(task: Task, data: Path, decode: bool = False, tell: Tell | None = None) -> Validation:
    """Read every split of a task; never raises for what its data holds.

    decode   open every picture too
    """
    facts: dict[str, SplitFacts] = {}
    found: list[tuple[State, str]] = []
    for split in _splits(task, data, found):
        items = _read(task, data, split, found)
        if items is None:
            continue
        facts[split] = _facts(task, items)
        empty = [name for name, count in facts[split].classes.items() if not count]
        if empty:
            found.append(
                ("wrong", f"{split} has no item of {', '.join(repr(each) for each in empty)}")
            )
        if decode:
            found += _pictures(items, tell or (lambda done, total: None))
    return Validation(
        task=task.name,
        state=_state(found, facts),
        message="\n".join(message for _, message in found),
        splits=facts,
        url=task.access.url,
        terms=task.access.terms,
        licence=task.access.licence,
    )


def _splits(task: Task, data: Path, found: list[tuple[State, str]]) -> list[str]:
    try:
        return task_splits(task, data)
    except DataMissingError as error:
        found.append(("absent", str(error)))
    except BiomedicaError as error:
        found.append(("wrong", str(error)))
    return []


def _read(task: Task, data: Path, split: str, found: list[tuple[State, str]]) -> Items | None:
    try:
        return read_items(task, data, split)
    except DataMissingError as error:
        found.append(("absent", f"{split}: {error}"))
    except BiomedicaError as error:
        found.append(("wrong", f"{split}: {error}"))
    return None


def _state(found: list[tuple[State, str]], facts: dict[str, SplitFacts]) -> State:
    """Absent training data does not keep a task from being scored."""
    states = {state for state, _ in found}
    if "wrong" in states:
        return "wrong"
    return "absent" if "absent" in states and "test" not in facts else "ok"


def _facts(task: Task, items: Items) -> SplitFacts:
    counts: list[int] = []
    labels = items.class_labels_N if task.kind == "options" else items.labels_N
    if task.kind == "multilabel" and items.labels_NC is not None:
        counts = items.labels_NC.sum(axis=0).tolist()
    elif labels is not None:
        counts = np.bincount(labels, minlength=len(task.classes)).tolist()
    return SplitFacts(
        items=len(items),
        groups=len(set(items.groups)),
        ids_sha256=items.ids_sha256,
        classes=dict(zip(task.class_names, counts, strict=False)),
    )


def _pictures(items: Items, tell: Tell) -> list[tuple[State, str]]:
    """Open each picture once; the first that fail are named, the others counted."""
    firsts: dict[str, int] = {}
    for index, name in enumerate(items.picture_ids):
        firsts.setdefault(name, index)
    wrong: list[str] = []
    for done, index in enumerate(firsts.values(), 1):
        try:
            items.picture(index)
        except BiomedicaError as error:
            wrong.append(str(error))
        tell(done, len(firsts))
    found: list[tuple[State, str]] = [("wrong", message) for message in wrong[:_NAMED]]
    if len(wrong) > _NAMED:
        found.append(
            ("wrong", f"{items.split}: {len(wrong):,} of {len(firsts):,} pictures do not decode")
        )
    return found
