"""What an evaluation leaves: a JSON file for each model, task and protocol, and a row for each item.

RUN/
  <model>/<task>.<protocol>.json        a `Result`: a superset of CLIP_benchmark's
  <model>/<task>.<protocol>.parquet     a row of `ITEMS` for each item
  failed/<model>/<task>.<protocol>.json what was found where a cell could not be scored
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from biomedica.errors import ConfigError, EvaluationError
from biomedica.shards import write_file, write_json

SCHEMA_VERSION = 1
FAILED = "failed"

Protocol = Literal[
    "zero_shot", "retrieval", "vqa_options", "linear_probe", "knn", "few_shot", "vqa_head"
]
PROTOCOL_NAMES: tuple[Protocol, ...] = get_args(Protocol)
"""What needs no training first."""
CLIP_BENCHMARK: dict[str, str] = {
    "zero_shot": "zeroshot_classification",
    "retrieval": "zeroshot_retrieval",
    "linear_probe": "linear_probe",
}
"""What that program calls the same protocol."""
ITEMS = pa.schema(
    [
        pa.field("item", pa.string(), nullable=False),
        pa.field("place", pa.string(), nullable=False),  # file (and row) that it stands in
        pa.field("picture", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        ("label", pa.int32()),  # index of the right class or option
        ("class", pa.int32()),  # options: what means over classes go by
        ("labels", pa.list_(pa.int32())),  # multilabel: indices of the right classes
        ("answer", pa.string()),  # the right answer in words
        ("predicted", pa.int32()),
        ("predicted_text", pa.string()),
        ("confidence", pa.float32()),  # probability that the model gave what it predicted
        ("is_right", pa.bool_()),
        ("rank", pa.int32()),  # retrieval, picture to text: place of the best right one, from 1
        ("rank_back", pa.list_(pa.int32())),  # retrieval, of each of its captions to pictures
        ("scores", pa.list_(pa.float32())),  # logits of each class or option; multilabel: any order
    ]
)
"""Columns of the items file; null where a protocol has none such."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A metric with its 95 % interval."""

    value: float
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    """What guessing gives; None where it means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One model on one task by one protocol."""

    model: str
    """Encoder as it was asked for, or the name given to it."""
    pretrained: str = ""
    task: str
    """Name of the task; CLIP_benchmark's `dataset`."""
    protocol: Protocol
    split: str
    kind: str
    specialty: str
    modality: str
    suites: list[str]
    title: str
    main: str
    """The metric that the task is ranked by; a key of `scores`."""
    scores: dict[str, Score]
    num_items: int
    num_groups: int
    """What intervals were drawn over."""
    group: str = ""
    classes: list[str] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)
    """Row: the right class; column: the predicted one. Empty where there is none."""
    prompts: dict[str, Any] = field(default_factory=dict)
    """`used`; `texts` by class; `by_set`: the main metric of each prompt set; `templates`: of each alone."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the protocol chose: regularisation, seeds, shots, recipe."""
    encoder: dict[str, Any] = field(default_factory=dict)
    """`name`, `digest`, `dims`, `preprocessing`."""
    data: dict[str, Any] = field(default_factory=dict)
    """`ids_sha256`, `pictures_sha256`, `licence`; `inputs_sha256` over all that the scores rest on, `items_sha256`
    of the file of items."""
    task_version: int = 1
    task_digest: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)
    made: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def score(self) -> Score:
        """Of the main metric."""
        return self.scores[self.main]

    def to_json(self) -> dict[str, Any]:
        """With CLIP_benchmark's keys: `dataset, model, pretrained, task, metrics, language`."""
        own = asdict(self)
        own["dataset"], own["task"] = self.task, CLIP_BENCHMARK.get(self.protocol, self.protocol)
        own["language"], own["metrics"] = "en", _their_metrics(self)
        return own

    @classmethod
    def from_json(cls, content: dict[str, Any], where: str) -> Result:
        """Raises `EvaluationError` for what is no result, or one of a newer version."""
        version = content.get("schema_version")
        if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
            raise EvaluationError(
                f"{where}: schema_version {version!r}; 1 to {SCHEMA_VERSION} is read"
            )
        known = {each.name for each in fields(cls)}
        values = {name: value for name, value in content.items() if name in known}
        values["task"] = content.get("dataset")
        try:
            values["scores"] = {k: Score(**v) for k, v in values["scores"].items()}
            return cls(**values)
        except (KeyError, TypeError, AttributeError) as error:
            raise EvaluationError(f"{where} is no result: {error}") from None


_THEIRS = {
    "accuracy": "acc1",
    "accuracy@5": "acc5",
    "balanced_accuracy": "mean_per_class_recall",
    "map": "mean_average_precision",
}


def _their_metrics(result: Result) -> dict[str, float]:
    prefix = "lp_" if result.protocol == "linear_probe" else ""
    found = {}
    for name, score in result.scores.items():
        direction, _, k = name.partition("/")
        if k:  # image_to_text: they name what is retrieved
            what = {"image_to_text": "text_retrieval", "text_to_image": "image_retrieval"}
            found[f"{what[direction]}_recall@{k}"] = score.value
        elif name in _THEIRS:
            found[prefix + _THEIRS[name]] = score.value
    return found


def file_name(text: str) -> str:
    """A name for a file.

    >>> file_name("open_clip:local-dir:/x/y z")
    'open_clip-local-dir-x-y-z'
    """
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.") or "model"


def result_path(run: Path, model: str, task: str, protocol: str) -> Path:
    """Where a result stands."""
    return run / file_name(model) / f"{task}.{protocol}.json"


def failure_path(result: Path) -> Path:
    """Where it is written that a result could not be had."""
    return result.parents[1] / FAILED / result.parent.name / result.name


def write_result(run: Path, result: Result, items: pa.Table) -> Path:
    """Write both files, the JSON last: where it stands, the cell is done. items   as `ITEMS`"""
    path = result_path(run, result.model, result.task, result.protocol)
    table = pa.BufferOutputStream()
    pq.write_table(items.cast(ITEMS), table, compression="zstd")
    rows = table.getvalue().to_pybytes()
    write_file(path.with_suffix(".parquet"), rows)
    content = result.to_json()
    content["data"] = {**content["data"], "items_sha256": hashlib.sha256(rows).hexdigest()}
    write_json(path, content)
    return path


def whole_result(path: Path) -> Result | None:
    """The result, where both of its files are there and belong together."""
    try:
        result = read_result(path)
        rows = path.with_suffix(".parquet").read_bytes()
    except (EvaluationError, OSError):
        return None
    return result if hashlib.sha256(rows).hexdigest() == result.data.get("items_sha256") else None


def read_result(path: Path) -> Result:
    """Raises `EvaluationError` for what is no result."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise EvaluationError(f"{path} is no result")
    return Result.from_json(content, str(path))


def _is_result(path: Path) -> bool:
    """Whether a file is called as a result is; others may stand beside, such as a check for leaks."""
    return path.parent.name != FAILED and path.stem.rpartition(".")[2] in PROTOCOL_NAMES


def read_results(runs: Iterable[Path]) -> list[tuple[Path, Result]]:
    """All results of some runs with their paths, by model, task and protocol.

    Raises `ConfigError` for none, and where a model has two results for one question.

    What a later try could not score counts no more, until it is scored again.
    """
    found, runs = [], list(runs)
    for run in runs:
        paths = [p for p in sorted(run.glob("*/*.*.json")) if _is_result(p)]
        found += [(path, read_result(path)) for path in paths if not failure_path(path).exists()]
        if not paths:
            raise ConfigError(f"{run}: no results there; `biomedica eval run` writes them")
    _check_cells(found)
    if not found:
        raise ConfigError(
            f"{', '.join(map(str, runs))}: what was scored failed later; {FAILED}/ there says why"
        )
    return sorted(found, key=lambda each: (each[1].model, each[1].task, each[1].protocol))


def _check_cells(found: Iterable[tuple[Path, Result]]) -> None:
    """Raises `ConfigError` where a model has two results for one question."""
    seen: dict[tuple[str, str, str], Path] = {}
    for path, result in found:
        cell = (result.model, result.task, result.protocol)
        if cell in seen:
            raise ConfigError(
                f"model {cell[0]!r} has two results for task {cell[1]} by {cell[2]}: {seen[cell]} and {path}; "
                "leave out one of the runs, or score the model under another name (NAME=ENCODER)"
            )
        seen[cell] = path


def read_items(path: Path) -> pa.Table:
    """The items beside a result. Raises `EvaluationError`, also where they are of another one."""
    try:
        rows = path.with_suffix(".parquet").read_bytes()
        stated = json.loads(path.read_text())["data"].get("items_sha256")
        if stated != hashlib.sha256(rows).hexdigest():
            raise EvaluationError(
                f"{path.with_suffix('.parquet')} does not belong to {path.name}: score it again"
            )
        return pq.read_table(pa.BufferReader(rows))
    except (KeyError, AttributeError):
        raise EvaluationError(f"{path} is no result") from None
    except (OSError, pa.ArrowException) as error:
        raise EvaluationError(f"{path.with_suffix('.parquet')} cannot be read: {error}") from None
