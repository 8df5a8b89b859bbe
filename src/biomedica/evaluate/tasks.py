"""Benchmark tasks as data files: what is asked, of which pictures, in which words, under which licence.

A task is a TOML file. Those of this package stand in `data/tasks`; a folder of one's own may be added.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from biomedica.errors import ConfigError

Kind = Literal["classification", "multilabel", "options", "retrieval", "vqa"]
"""`options`: each picture brings candidate captions of its own, one of them right (closed VQA)."""
METRICS: Mapping[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "balanced_accuracy", "macro_f1", "auroc"),
    "multilabel": ("map", "auroc"),
    "options": ("accuracy", "balanced_accuracy"),
    "retrieval": ("image_to_text/1", "image_to_text/10", "text_to_image/1", "text_to_image/10"),
    "vqa": ("accuracy",),
}
"""What a task of each kind may be ranked by."""
_STRICT = ConfigDict(extra="forbid")


@with_config(_STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where the data comes from and what one has to agree to."""

    url: str
    terms: Literal["open", "click-through", "application", "local"]
    """`click-through`: an account and a consent; `application`: somebody has to grant it."""
    licence: str
    how: str
    """What to do to have the files where `data.path` expects them."""
    citation: str = ""


@with_config(_STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """How the files are read."""

    reader: str
    """One of `evaluate.readers.READERS`."""
    path: str
    """File, folder or pattern below the folder of data."""
    options: dict[str, Any] = field(default_factory=dict)
    """The reader's own settings."""
    splits: dict[str, str] = field(default_factory=dict)
    """What the source calls our `train`, `validation` and `test`; empty: by those names, or `fractions`."""
    fractions: dict[str, float] = field(default_factory=dict)
    """Shares of the groups by split, drawn by the hash of their names, where the source has no splits."""
    ids_sha256: dict[str, str] = field(default_factory=dict)
    """By split: SHA-256 over the sorted ids, one a line. A split of another digest is refused."""


@with_config(_STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Class:
    """One answer of a classification task."""

    name: str
    """As the data names it."""
    text: str = ""
    """What stands in a prompt for it; the name by default."""

    @property
    def words(self) -> str:
        """Text for `{c}` of a template."""
        return self.text or self.name


@with_config(_STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """One way to put the classes into words."""

    templates: tuple[str, ...]
    """With `{c}` for the class; several are averaged."""
    texts: dict[str, str] = field(default_factory=dict)
    """Other words for some classes, by name."""
    source: str = ""
    """Who documented it."""


@with_config(_STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One benchmark task."""

    name: str
    title: str
    kind: Kind
    specialty: str
    modality: str
    access: Access
    data: Data
    suites: tuple[str, ...] = ()
    version: int = 1
    """Goes up with every change that changes a score."""
    about: str = ""
    metric: str = ""
    """What the task is ranked by; the first of `METRICS` by default."""
    chance: float | None = None
    """Of `metric`; None: from the data (classes, options or captions)."""
    classes: tuple[Class, ...] = ()
    """In the order of the labels. For `options` tasks: what the `label` column may hold, or nothing."""
    may_lack: tuple[str, ...] = ()
    """Names of classes that the test split need not have. Any other class without an item there is an error."""
    prompts: dict[str, Prompts] = field(default_factory=dict)
    """By name: `single`, `ensemble`, `paper` ...; the first is the one that a task is ranked by."""
    group: str = ""
    """What intervals are drawn over, in words: `patient`, `slide`; nothing: each picture."""

    def __post_init__(self) -> None:
        if self.kind in ("classification", "multilabel") and len(self.classes) < 2 - (
            self.kind == "multilabel"
        ):
            raise ConfigError(f"task {self.name}: a {self.kind} task needs [[classes]]")
        names = [each.name for each in self.classes]
        if len(set(names)) < len(names):
            raise ConfigError(f"task {self.name}: two classes of one name")
        strange = sorted(set(self.may_lack) - set(names))
        if strange:
            raise ConfigError(f"task {self.name}: may_lack names {strange[0]!r}, which is no class")
        if not self.metric:
            object.__setattr__(self, "metric", METRICS[self.kind][0])
        if self.metric not in METRICS[self.kind]:
            known = ", ".join(METRICS[self.kind])
            raise ConfigError(f"task {self.name}: metric {self.metric!r}; known are {known}")
        for title, prompts in self.prompts.items():
            if not prompts.templates or any("{c}" not in each for each in prompts.templates):
                raise ConfigError(
                    f"task {self.name}: prompts.{title} needs templates with {{c}} in each"
                )
            unknown = sorted(set(prompts.texts) - set(names))
            if unknown:
                raise ConfigError(
                    f"task {self.name}: prompts.{title}.texts names {unknown[0]!r}, which is no class"
                )

    @property
    def digest(self) -> str:
        """SHA-256 of all that the task states, in hex: same digest, same question.

        `may_lack` is left out: it decides whether there is a score, never which.
        """
        content = asdict(self)
        del content["may_lack"]
        stated = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
        return hashlib.sha256(stated.encode()).hexdigest()

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the labels."""
        return tuple(each.name for each in self.classes)

    def texts(self, prompts: str) -> list[list[str]]:
        """Of each class, its prompts: (classes, templates)."""
        chosen = self.prompts[prompts]
        return [
            [
                template.replace("{c}", chosen.texts.get(each.name, each.words))
                for template in chosen.templates
            ]
            for each in self.classes
        ]


def parse_task(text: str, where: str) -> Task:
    """A task from TOML. where   what to call it in messages. Raises `ConfigError`."""
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nests
        raise ConfigError(f"task {where} is no TOML: {error}") from None
    unknown = sorted(set(content) - set(Task.__dataclass_fields__))
    if unknown:
        close = difflib.get_close_matches(unknown[0], Task.__dataclass_fields__, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"task {where}: unknown {unknown[0]!r}{hint}")
    try:
        return _adapter().validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(each) for each in first["loc"])
        raise ConfigError(f"task {where}: {place}: {first['msg']}") from None


@cache
def _adapter() -> TypeAdapter[Task]:
    return TypeAdapter(Task)


def load_tasks(folders: Iterable[Path] = ()) -> dict[str, Task]:
    """All tasks by name, those of this package and of further folders. A name that stands twice is refused."""
    found: dict[str, Task] = {}
    own = files("biomedica") / "data" / "tasks"
    texts = [(each.name, each.read_text("utf-8")) for each in own.iterdir() if _is_task(each.name)]
    for folder in folders:
        paths = [folder] if folder.is_file() else sorted(folder.glob("*.toml"))
        if not paths:
            raise ConfigError(f"{folder}: no task (*.toml) there")
        texts += [(str(path), _read_text(path)) for path in paths]
    for where, text in sorted(texts):
        task = parse_task(text, where)
        if task.name in found:
            raise ConfigError(f"{where}: there is another task {task.name!r}")
        found[task.name] = task
    return dict(sorted(found.items()))


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"task {path} cannot be read: {error}") from None


def _is_task(name: str) -> bool:
    return name.endswith(".toml")


def choose(tasks: Mapping[str, Task], words: Iterable[str]) -> list[Task]:
    """Tasks by name, suite, specialty or kind, in order; nothing: all. Raises `ConfigError`."""
    wanted = list(words)
    if not wanted:
        return list(tasks.values())
    chosen: dict[str, Task] = {}
    for word in wanted:
        hits = {
            name: task
            for name, task in tasks.items()
            if word in (name, task.specialty, task.kind, *task.suites)
        }
        if not hits:
            known = {*tasks, *(suite for task in tasks.values() for suite in task.suites)}
            close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]!r}?" if close else "; `biomedica eval ls` lists them"
            raise ConfigError(f"no task {word!r}{hint}")
        chosen |= hits
    return list(chosen.values())
