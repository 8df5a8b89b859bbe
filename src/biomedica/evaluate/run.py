"""A grid of models, tasks and protocols: every cell is scored on its own, kept, and not scored again.

What cannot be scored is written down beside the results, with what was found, and the rest goes on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

import biomedica
from biomedica.errors import BiomedicaError, ConfigError, EvaluationError
from biomedica.evaluate.embeddings import Embeddings
from biomedica.evaluate.items import Items
from biomedica.evaluate.protocols import (
    PROTOCOLS,
    SPLITS,
    VERSIONS,
    Answer,
    Question,
    applies,
    score_few_shot,
    score_knn,
    score_linear_probe,
    score_retrieval,
    score_zero_shot,
)
from biomedica.evaluate.readers import read_items, task_splits
from biomedica.evaluate.results import (
    FAILED,
    Protocol,
    Result,
    failure_path,
    file_name,
    result_path,
    whole_result,
    write_result,
)
from biomedica.evaluate.settings import EvaluateSettings
from biomedica.evaluate.tasks import Task
from biomedica.evaluate.vqa import score_vqa_head, score_vqa_options
from biomedica.models import open_encoder
from biomedica.run.engines import Engine
from biomedica.shards import write_json

log = logging.getLogger(__name__)
State = Literal["scored", "kept", "failed", "not applicable"]
SCORERS: dict[str, Callable[[Embeddings, Question], Answer]] = {
    "zero_shot": score_zero_shot,
    "retrieval": score_retrieval,
    "linear_probe": score_linear_probe,
    "knn": score_knn,
    "few_shot": score_few_shot,
    "vqa_options": score_vqa_options,
    "vqa_head": score_vqa_head,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What came of one model, task and protocol."""

    model: str
    task: str
    protocol: str
    state: State
    message: str = ""
    """Why it failed or does not apply."""
    path: str = ""
    """Of the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What is to be scored, and where."""

    models: dict[str, str]
    """Encoder by the name that results give it."""
    tasks: tuple[Task, ...]
    protocols: tuple[str, ...]
    """Empty: all that a task's kind knows, but for `vqa_head`, whose training takes hours on a CPU."""
    data: Path
    run: Path
    cache: Path | None
    settings: EvaluateSettings

    def __post_init__(self) -> None:
        folders: dict[str, str] = {FAILED: ""}
        for name in self.models:
            other = folders.setdefault(file_name(name).casefold(), name)
            if other != name:
                clash = f"{other!r} would share" if other else "failed scores have"
                raise ConfigError(
                    f"model {name!r}: {clash} its folder {file_name(name)!r}; NAME=ENCODER gives it another name"
                )

    @property
    def size(self) -> int:
        """Cells, those that do not apply included."""
        return len(self.models) * sum(len(self.of(task)) for task in self.tasks)

    def of(self, task: Task) -> tuple[Protocol, ...]:
        """The protocols that a task is asked by."""
        known = [each for each in PROTOCOLS[task.kind] if each in SCORERS]
        asked = self.protocols or [each for each in known if each != "vqa_head"]
        return tuple(each for each in known if each in asked)


def run_grid(grid: Grid, engine: Engine) -> Iterator[Cell]:
    """Score every cell; yield what came of each, as they end.

    A job of the engine is one model on one task; this very process (`inline`) loads each model once.
    """
    jobs = [(name, task) for name in grid.models for task in grid.tasks if grid.of(task)]
    waiting = list(jobs)[::-1]
    running: dict[str, tuple[str, Task]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < engine.slots:
                name, task = waiting.pop()
                label = f"{name} {task.name}"
                running[label] = name, task
                engine.submit(label, score_task, grid, name, task)
            for outcome in engine.outcomes(seconds=1.0):
                name, task = running.pop(outcome.name)
                if outcome.error is None:
                    yield from outcome.value
                    continue
                error = outcome.error
                if outcome.died:
                    error = EvaluationError(f"its process died: {error}")
                for protocol in grid.of(task):
                    yield _failed(grid, name, task, protocol, error)
    finally:
        engine.stop()


_loaded: dict[tuple[str, str, str], Any] = {}
"""The last encoder of this process."""


def _encoder(name: str, settings: EvaluateSettings) -> Any:
    key = name, settings.device, settings.fit
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = open_encoder(name, device=settings.device, fit=settings.fit)
    return _loaded[key]


def score_task(grid: Grid, name: str, task: Task) -> list[Cell]:
    """One model on one task, by all protocols that are asked for."""
    try:
        encoder = _encoder(grid.models[name], grid.settings)
    except Exception as error:  # a library's, over bad weights: other models go on
        return [_failed(grid, name, task, each, error) for each in grid.of(task)]
    embeddings = Embeddings(encoder, grid.cache, grid.settings.batch)
    reader = _Reader(task, grid)
    cells = []
    for protocol in grid.of(task):
        why_not = applies(protocol, task, bool(encoder.text_digest))
        if why_not:
            cells.append(_cell(name, task, protocol, "not applicable", why_not))
            continue
        try:
            cells.append(_score(grid, name, task, protocol, embeddings, reader))
        except Exception as error:  # a library's, over bad data: the rest of the grid goes on
            cells.append(_failed(grid, name, task, protocol, error))
    return cells


class _Reader:
    """The splits of a task, each read once."""

    def __init__(self, task: Task, grid: Grid) -> None:
        self._task, self._grid = task, grid
        self._items: dict[str, Items | None] = {}

    def __call__(self, split: str) -> Items | None:
        if split not in self._items:
            there = split == "test" or split in task_splits(self._task, self._grid.data)
            self._items[split] = self._read(split) if there else None
        return self._items[split]

    def _read(self, split: str) -> Items:
        items = read_items(self._task, self._grid.data, split)
        return limited(items, self._grid.settings.limit)


def limited(items: Items, limit: int) -> Items:
    """Some of the items, drawn by the hash of their ids. limit   0: all"""
    if not limit or limit >= len(items):
        return items
    hashes = [hashlib.sha256(each.encode()).digest() for each in items.ids]
    rows = sorted(sorted(range(len(items)), key=hashes.__getitem__)[:limit])
    lists = ("ids", "places", "groups", "picture_ids", "options", "captions", "questions")
    changes: dict[str, Any] = {
        name: tuple(values[row] for row in rows)
        for name in lists
        if (values := getattr(items, name)) is not None
    }
    for name in ("labels_N", "labels_NC", "class_labels_N"):
        values = getattr(items, name)
        changes[name] = None if values is None else values[rows]
    read = items.read
    return replace(items, read=lambda index: read(rows[index]), **changes)


def _score(
    grid: Grid, name: str, task: Task, protocol: Protocol, embeddings: Embeddings, reader: _Reader
) -> Cell:
    started = time.monotonic()
    items = reader("test")
    assert items is not None
    path = result_path(grid.run, name, task.name, protocol)
    inputs = _inputs(grid, task, protocol, embeddings, reader)
    known = whole_result(path)
    if known is not None and known.data.get("inputs_sha256") == inputs:
        failure_path(path).unlink(missing_ok=True)
        return _cell(name, task, protocol, "kept", path=str(path))
    question = Question(task=task, items=items, read=reader, settings=grid.settings)
    answer = SCORERS[protocol](embeddings, question)
    main = _main_metric(task, answer, protocol)
    result = Result(
        model=name,
        task=task.name,
        protocol=protocol,
        split=items.split,
        kind=task.kind,
        specialty=task.specialty,
        modality=task.modality,
        suites=list(task.suites),
        title=task.title,
        main=main,
        scores=_with_chance(task, answer, main),
        num_items=len(answer.items),
        num_groups=len(answer.items["group"].unique()),
        group=task.group,
        classes=list(task.class_names),
        confusion=answer.confusion,
        prompts=answer.prompts,
        details=answer.details | ({"limit": grid.settings.limit} if grid.settings.limit else {}),
        encoder=_about(embeddings, grid.models[name]),
        data={
            "inputs_sha256": inputs,
            "ids_sha256": items.ids_sha256,
            "rights_sha256": _rights(items),
            "pictures_sha256": answer.pictures_sha256,
            "licence": task.access.licence,
        },
        task_version=task.version,
        task_digest=task.digest,
        seconds={"total": round(time.monotonic() - started, 3)},
        software=software(),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_result(grid.run, result, answer.items)
    failure_path(path).unlink(missing_ok=True)
    return _cell(name, task, protocol, "scored", path=str(path))


def _main_metric(task: Task, answer: Answer, protocol: str) -> str:
    if task.metric in answer.scores:
        return task.metric
    raise EvaluationError(
        f"task {task.name}: {task.metric} by {protocol} is not defined on these items (is a class without any?); "
        f"defined are {', '.join(answer.scores) or 'none'}"
    )


def _with_chance(task: Task, answer: Answer, main: str) -> dict[str, Any]:
    if task.chance is None:
        return answer.scores
    return answer.scores | {main: replace(answer.scores[main], chance=task.chance)}


_LEARNERS: dict[Protocol, tuple[str, ...]] = {
    "linear_probe": ("scikit-learn",),
    "few_shot": ("scikit-learn",),
    "vqa_head": ("torch",),
}
"""Packages that fit what a protocol learns."""


def _inputs(
    grid: Grid, task: Task, protocol: Protocol, embeddings: Embeddings, reader: _Reader
) -> str:
    """SHA-256 over all that a result rests on: same digest, same scores.

    Pictures count by their bytes: through `Embeddings.images`, which finds them in the cache.
    """
    known = software()
    idle = {"device", "batch"} | ({"fusion"} if protocol != "vqa_head" else set())
    stated: dict[str, Any] = {
        "task": task.digest,
        "protocol": [protocol, VERSIONS[protocol]],
        "learned by": [known.get(each) for each in _LEARNERS.get(protocol, ())],
        "encoder": [embeddings.encoder.digest, embeddings.encoder.text_digest],
        "settings": {k: v for k, v in asdict(grid.settings).items() if k not in idle},
    }
    for split in SPLITS[protocol]:
        items = reader(split)
        if items is not None:
            stated[split] = [items.ids_sha256, _rights(items), embeddings.pictures_sha256(items)]
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def _rights(items: Items) -> str:
    """SHA-256 over labels, options, captions, questions and groups."""
    words = items.options, items.captions, items.questions, items.groups
    digest = hashlib.sha256(repr(words).encode())
    for values in (items.labels_N, items.labels_NC, items.class_labels_N):
        if values is not None:
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _about(embeddings: Embeddings, asked: str) -> dict[str, Any]:
    encoder = embeddings.encoder
    return {
        "name": asked,
        "digest": encoder.digest,
        "dims": encoder.dims,
        "preprocessing": asdict(encoder.preprocessing),
    }


def software() -> dict[str, str]:
    """Versions of what scores depend on."""
    found = {"biomedica": biomedica.__version__, "python": platform.python_version()}
    for name in ("numpy", "pillow", "scikit-learn", "torch", "open_clip_torch", "onnxruntime"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cell(
    name: str, task: Task, protocol: str, state: State, message: str = "", path: str = ""
) -> Cell:
    return Cell(
        model=name, task=task.name, protocol=protocol, state=state, message=message, path=path
    )


def _failed(grid: Grid, name: str, task: Task, protocol: str, error: BaseException) -> Cell:
    """Write down what was found; with the place in the code where no one foresaw it."""
    content = {"model": name, "task": task.name, "protocol": protocol, "error": str(error)}
    if not isinstance(error, BiomedicaError):
        content["error"] = f"{type(error).__name__}: {error}"
        content["trace"] = "".join(traceback.format_exception(error))
    log.warning("%s, %s, %s: %s", name, task.name, protocol, content["error"])
    write_json(failure_path(result_path(grid.run, name, task.name, protocol)), content)
    return _cell(name, task, protocol, "failed", content["error"])


def failures(runs: Sequence[Path]) -> list[dict[str, str]]:
    """What could not be scored: `model`, `task`, `protocol`, `error`."""
    paths = [path for run in runs for path in sorted((run / FAILED).glob("*/*.json"))]
    return [json.loads(path.read_text()) for path in paths]
