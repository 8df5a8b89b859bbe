"""All that is known of each task: metrics, prompts, what the protocol chose, matrices, calibration, recall."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from biomedica.evaluate.results import Result, read_items
from biomedica.evaluate.standings import Board, Found
from biomedica.scoreboard import marks, words
from biomedica.scoreboard.answers import (
    calibration_of,
    confusions_of,
    labels_of,
    matrix_of,
    recall_curves,
    recalls_of,
)
from biomedica.scoreboard.marks import Mark

_CELLS_IN_DEPTH = 200
"""Models on tasks whose matrices and reliability diagrams a page holds."""
_CLIPPED = 400
"""Characters of a detail that has no table of its own."""
_SHOWN_ELSEWHERE = {"shots", "shares", "limit"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The results of a page, and how to find one."""

    found: Found
    boards: Sequence[Board]
    marks: Mapping[str, Mark]
    """In the order in which models are shown."""
    anchors: Mapping[str, str]
    """By task, in the order in which they are shown."""
    failed: AbstractSet[tuple[str, str, str]]
    """(model, task, protocol)."""
    _cells: dict[tuple[str, str, str], tuple[Path, Result]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        cells = {(r.protocol, r.task, r.model): (path, r) for path, r in self.found}
        object.__setattr__(self, "_cells", cells)

    def models_of(self, board: Board) -> list[str]:
        """Those with a result by its protocol."""
        there = {each.model for each in board.standings}
        return [name for name in self.marks if name in there]

    def result(self, protocol: str, task: str, model: str) -> Result | None:
        """Of one cell."""
        cell = self._cells.get((protocol, task, model))
        return None if cell is None else cell[1]

    def ranked(self, protocol: str, task: str) -> list[tuple[Path, Result]]:
        """A task's results, best first."""
        cells = [
            cell
            for model in self.marks
            if (cell := self._cells.get((protocol, task, model))) is not None
        ]
        return sorted(cells, key=lambda cell: -cell[1].score.value)

    def any_result(self, protocol: str, task: str) -> Result:
        """Of the first model that has one."""
        return next(
            cell[1]
            for model in self.marks
            if (cell := self._cells.get((protocol, task, model))) is not None
        )

    def state(self, protocol: str, task: str, model: str) -> str:
        """Why a cell is empty; nothing where it is not."""
        if (protocol, task, model) in self._cells:
            return ""
        has_failed = (model, task, protocol) in self.failed
        return "could not be scored" if has_failed else "not scored"


def task_blocks(shown: Shown) -> list[dict[str, Any]]:
    """A block for each task, in order."""
    asked = [
        (board, task) for task in shown.anchors for board in shown.boards if task in board.tasks
    ]
    depth = max(1, _CELLS_IN_DEPTH // len(asked))
    blocks: dict[str, dict[str, Any]] = {}
    for board, task in asked:
        part = _part(shown, board, task, depth)
        block = blocks.setdefault(task, {"anchor": shown.anchors[task], "parts": []})
        block["parts"].append(part)
        block["result"] = block["parts"][0]["result"]
    return list(blocks.values())


def _part(shown: Shown, board: Board, task: str, depth: int) -> dict[str, Any]:
    """One task by one protocol."""
    ranked = shown.ranked(board.protocol, task)
    results = [r for name in shown.marks for _, r in ranked if r.model == name]
    deep = [(r, read_items(path)) for path, r in ranked[:depth]]
    place = {name: index for index, name in enumerate(shown.marks)}
    deep.sort(key=lambda each: place[each[0].model])
    metrics = _metrics(results)
    return {
        "protocol": board.protocol,
        "result": shown.any_result(board.protocol, task),
        "metrics": metrics,
        "chances": [_chance(metric, results) for metric in metrics],
        "rows": [_row(shown, board, task, model, metrics) for model in shown.models_of(board)],
        "prompts": _prompts(results),
        "learning": _learning(results),
        "details": _details(results),
        "figures": [figure for r, items in deep if (figure := _figure(shown, r, items))],
        "recalls": _recalls(deep),
        "labels": _labels(deep),
        "curves": _curves(shown, deep, task),
        "num_left_out": len(ranked) - len(deep),
        "num_deep": len(deep),
    }


def _metrics(results: Sequence[Result]) -> list[str]:
    """All of them: the main one first, others as `words.METRICS` has them, recalls by k."""
    main = list(dict.fromkeys(result.main for result in results))
    others = {name for result in results for name in result.scores} - set(main)
    return [*main, *sorted(others, key=words.place_of_metric)]


def _chance(metric: str, results: Iterable[Result]) -> float | None:
    known = (r.scores[metric].chance for r in results if metric in r.scores)
    return next((each for each in known if each is not None), None)


def _row(
    shown: Shown, board: Board, task: str, model: str, metrics: Sequence[str]
) -> dict[str, Any]:
    result = shown.result(board.protocol, task, model)
    return {
        "model": model,
        "mark": shown.marks[model],
        "scores": [None if result is None else result.scores.get(metric) for metric in metrics],
        "letters": board.task_letters.get(task, {}).get(model, ""),
        "state": shown.state(board.protocol, task, model),
    }


# prompts, and what a protocol chose


def _prompts(results: Sequence[Result]) -> dict[str, Any] | None:
    """Scores by prompt set and template; the words, once for all models that were asked by the same."""
    asked = [each for each in results if each.prompts.get("used")]
    if not asked:
        return None
    sets = list(dict.fromkeys(name for r in asked for name in r.prompts.get("by_set") or {}))
    templates = list(
        dict.fromkeys(
            t for r in asked for t in (r.prompts.get("templates") or {}).get("values") or {}
        )
    )
    texts: dict[str, dict[str, Any]] = {}
    for result in asked:
        stated = result.prompts.get("texts") or {}
        key = json.dumps(stated, sort_keys=True, ensure_ascii=False)
        same = texts.setdefault(key, {"texts": stated, "models": []})
        same["models"].append(result.model)
    return {
        "sets": sets,
        "templates": templates,
        "rows": [_prompt_row(result, sets, templates) for result in asked],
        "texts": list(texts.values()),
        "main": asked[0].main,
    }


def _prompt_row(result: Result, sets: Sequence[str], templates: Sequence[str]) -> dict[str, Any]:
    stated = result.prompts.get("templates") or {}
    values = stated.get("values") or {}
    by_set = result.prompts.get("by_set") or {}
    return {
        "model": result.model,
        "used": result.prompts["used"],
        "sets": [by_set.get(name) for name in sets],
        "templates": [values.get(name) for name in templates],
        "num": len(values),
        "low": stated.get("min"),
        "high": stated.get("max"),
        "sd": stated.get("sd"),
    }


def _learning(results: Sequence[Result]) -> dict[str, Any] | None:
    """Scores by shots, or by share of the training split: mean over draws and standard deviation."""
    for name, unit in (("shots", "shots"), ("shares", "of the training split")):
        rows = {r.model: r.details[name] for r in results if isinstance(r.details.get(name), dict)}
        if rows:
            steps = sorted({step for some in rows.values() for step in some}, key=float)
            heads = [f"{float(s):.0%}" if name == "shares" else s for s in steps]
            return {
                "unit": unit,
                "heads": heads,
                "rows": [(model, [some.get(s) for s in steps]) for model, some in rows.items()],
                "main": results[0].main,
            }
    return None


def _details(results: Sequence[Result]) -> list[tuple[str, str, list[str]]]:
    """(what, value, models) of all else that a protocol states; of models that share a value once."""
    found: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for name, value in result.details.items():
            if name not in _SHOWN_ELSEWHERE:
                found.setdefault((name.replace("_", " "), _plain(value)), []).append(result.model)
    return [(name, value, models) for (name, value), models in found.items()]


def _plain(value: Any) -> str:
    """A setting as one line."""
    if isinstance(value, dict) and all(
        isinstance(each, int | float | str) for each in value.values()
    ):
        text = ", ".join(f"{key}: {_plain(each)}" for key, each in value.items())
    elif isinstance(value, float):
        text = f"{value:.4g}"
    elif isinstance(value, str):
        text = value
    else:
        text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _CLIPPED else text[:_CLIPPED] + "…"


# what single items tell


def _figure(shown: Shown, result: Result, items: pa.Table) -> dict[str, Any] | None:
    """Matrix, or most frequent confusions, and reliability of one model; None where there is nothing to show."""
    bins, matrix = calibration_of(items), matrix_of(result, items)
    confusions = [] if matrix or result.kind == "retrieval" else confusions_of(items)
    if not bins and not matrix and not confusions:
        return None
    mark = shown.marks[result.model]
    return {
        "model": result.model,
        "mark": mark,
        "matrix": matrix,
        "confusions": confusions,
        "reliability": marks.reliability(bins, mark, result.model) if bins else None,
    }


def _recalls(deep: Sequence[tuple[Result, pa.Table]]) -> dict[str, Any] | None:
    """Recall of each class, by model."""
    by_model = {
        result.model: {each.name: each for each in recalls_of(items, result.classes)}
        for result, items in deep
    }
    names = list(dict.fromkeys(name for some in by_model.values() for name in some))
    if not names:
        return None
    rows = [(name, [some.get(name) for some in by_model.values()]) for name in names]
    return {"models": list(by_model), "rows": rows}


def _labels(deep: Sequence[tuple[Result, pa.Table]]) -> dict[str, Any] | None:
    """Each label of a multilabel task by itself, by model."""
    by_model = {
        result.model: {each.name: each for each in labels_of(result, items)}
        for result, items in deep
    }
    names = list(dict.fromkeys(name for some in by_model.values() for name in some))
    if not names:
        return None
    rows = [(name, [some.get(name) for some in by_model.values()]) for name in names]
    return {"models": list(by_model), "rows": rows}


def _curves(
    shown: Shown, deep: Sequence[tuple[Result, pa.Table]], task: str
) -> list[tuple[str, Any]]:
    """(direction, chart) of retrieval."""
    by_model = {result.model: recall_curves(items) for result, items in deep}
    found = []
    for direction in ("image_to_text", "text_to_image"):
        curves = {model: some[direction] for model, some in by_model.items() if direction in some}
        if curves:
            title = words.DIRECTIONS[direction]
            chart = marks.recall_chart(curves, shown.marks, f"{title}, {task}")
            found.append((title, chart))
    return found
