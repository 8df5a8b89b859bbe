"""Scores that others have published, as data files with their sources: to stand beside one's own, never among them.

A file holds tables as their source prints them: a column for each dataset and metric, a row for each model.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from biomedica.errors import ConfigError
from biomedica.evaluate.results import Protocol

How = Literal["paper", "read off a figure", "second-hand", "third party"]
"""`paper`: text or table of the source itself; `second-hand`: from somebody's transcription or note of it;
`third party`: measured by others than the model's authors, from their own report."""
METRICS = (
    "accuracy",
    "accuracy@5",
    "balanced_accuracy",
    "macro_f1",
    "auroc",
    "ece",
    "map",
    "accuracy_open",
    "accuracy_closed",
)
"""Names that results use too; with `image_to_text/K` and `text_to_image/K`."""
OTHER_METRICS: Mapping[str, str] = {
    "mean_accuracy": "mean of the accuracies (or of what its source ranks by) of several tasks",
    "mean_accuracy_gain": "what a model's mean accuracy is above the best earlier model's, in the source's words",
    "token_f1": "F1 of the answer's words (VQA)",
}
"""Metrics of sources that no result has."""
_RECALL = re.compile(r"(image_to_text|text_to_image)/[1-9]\d*")
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedScore:
    """One number of one source."""

    model: str
    """As the source calls it."""
    task: str | None
    """Name of the registry's task that asks the same; None: it has none."""
    dataset: str
    """As the source calls it."""
    metric: str
    """Of `METRICS`, a recall, or of `OTHER_METRICS`."""
    value: float
    """A share in [0, 1]."""
    protocol: Protocol
    """How the model was asked: a probe's score is no zero-shot score."""
    source: str
    """Paper with table or figure, or repository."""
    how: How
    note: str = ""
    """What is doubtful about it, or where sources disagree."""


@with_config(_STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    dataset: str
    metric: str
    task: str | None = None
    note: str = ""


@with_config(_STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    model: str
    values: list[float]
    """In the table's unit, one for each column; `nan` where the source has none."""
    note: str = ""


@with_config(_STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    source: str
    how: How
    unit: Literal["percent", "share"]
    protocol: Protocol
    columns: list[_Column]
    rows: list[_Row]
    note: str = ""


@with_config(_STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    tables: list[_Table]
    about: str = ""


def load_published(folders: Iterable[Path] = ()) -> list[PublishedScore]:
    """All scores of this package and of further folders, by file and in the order of each. Raises `ConfigError`."""
    own = files("biomedica") / "data" / "published_scores"
    texts = [(each.name, each.read_text("utf-8")) for each in own.iterdir()]
    for folder in folders:
        paths = [folder] if folder.is_file() else sorted(folder.glob("*.toml"))
        if not paths:
            raise ConfigError(f"{folder}: no published scores (*.toml) there")
        texts += [(str(path), path.read_text("utf-8")) for path in paths]
    return [
        score
        for where, text in sorted(texts)
        if where.endswith(".toml")
        for score in parse_published(text, where)
    ]


def parse_published(text: str, where: str) -> list[PublishedScore]:
    """Scores of one file. where   what to call it in messages. Raises `ConfigError`."""
    try:
        content = _adapter().validate_python(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"published scores {where} are no TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(each) for each in first["loc"])
        raise ConfigError(f"published scores {where}: {place}: {first['msg']}") from None
    return [
        score
        for number, table in enumerate(content.tables)
        for score in _scores(table, f"published scores {where}: tables.{number}")
    ]


@cache
def _adapter() -> TypeAdapter[_File]:
    return TypeAdapter(_File)


def _scores(table: _Table, where: str) -> Iterator[PublishedScore]:
    for column in table.columns:
        _check_metric(column.metric, where)
    for row in table.rows:
        if len(row.values) != len(table.columns):
            raise ConfigError(
                f"{where}: {row.model!r} has {len(row.values)} values for {len(table.columns)} columns"
            )
        for column, value in zip(table.columns, row.values, strict=True):
            if math.isnan(value):
                continue
            share = round(value / 100, 10) if table.unit == "percent" else value
            if not 0 <= share <= 1:
                raise ConfigError(
                    f"{where}: {row.model!r} has {value} for {column.dataset!r}; a {table.unit} "
                    f"from 0 to {100 if table.unit == 'percent' else 1} is expected"
                )
            notes = (row.note, column.note, table.note)
            yield PublishedScore(
                model=row.model,
                task=column.task,
                dataset=column.dataset,
                metric=column.metric,
                value=share,
                protocol=table.protocol,
                source=table.source,
                how=table.how,
                note=" ".join(each for each in notes if each),
            )


def _check_metric(metric: str, where: str) -> None:
    known = sorted({*METRICS, *OTHER_METRICS})
    if metric not in known and not _RECALL.fullmatch(metric):
        close = difflib.get_close_matches(metric, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        raise ConfigError(f"{where}: unknown metric {metric!r}; {hint}")


def published_for(
    published: Sequence[PublishedScore], tasks: Sequence[str]
) -> list[PublishedScore]:
    """Published scores of some tasks, by task, metric and model. They enter no average and no test here."""
    chosen = [each for each in published if each.task in tasks]
    return sorted(chosen, key=lambda each: (each.task or "", each.metric, each.model))
