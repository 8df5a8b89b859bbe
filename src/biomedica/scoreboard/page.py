"""The page as a whole: what was scored, standings, forest plots, tasks, mistakes, failures, published numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomedica.errors import ConfigError
from biomedica.evaluate.published_scores import PublishedScore
from biomedica.evaluate.results import Result, Score, read_items, read_results
from biomedica.evaluate.run import failures
from biomedica.evaluate.standings import Board, Found, boards_of, order_of_models
from biomedica.report import environment
from biomedica.scoreboard import marks, words
from biomedica.scoreboard.marks import Mark
from biomedica.scoreboard.mistakes import PictureSource, Thumbnails, mistakes_of, reasons
from biomedica.scoreboard.tasks import Shown, task_blocks
from biomedica.shards import write_file

MOST_ERRORS = 50
"""Mistakes of one model on one task that a page shows at the most."""
_CELLS_WITH_MISTAKES = 40
_TASKS_OPEN = 4
"""Up to so many tasks stand open when the page is loaded."""


def write_scores_page(
    runs: Sequence[Path],
    path: Path,
    *,
    published: Sequence[PublishedScore] = (),
    pictures: PictureSource | None = None,
    max_errors: int = 12,
) -> Path:
    """Write the page, whole or not at all, and return where.

    The same results, published scores and pictures give the same bytes. Every two models are compared on every
    task: some hundredths of a second each for accuracy, up to one for curves over many items.

    published   shown beside one's own where they answer the same question; in no mean, interval or test
    pictures    where the pictures of mistakes come from
    max_errors  mistakes to show of a model on a task

    Raises `ConfigError` for runs without results or with two results for one cell, `EvaluationError` for
    results that can't be read or compared.
    """
    if not 0 <= max_errors <= MOST_ERRORS:
        raise ConfigError(f"{max_errors} errors to show; 0 to {MOST_ERRORS} fit one page")
    found = read_results(runs)
    failed = sorted(
        failures(runs), key=lambda each: (each["model"], each["task"], each["protocol"])
    )
    content = _content(found, failed, published, Thumbnails(pictures), max_errors)
    templates = environment()
    templates.filters |= {
        "metric": words.metric_words,
        "protocol": words.protocol_words,
        "value": words.number_words,
        "interval": words.interval_words,
    }
    page = templates.get_template("scores.html.j2").render(content).lstrip()
    write_file(path, page.encode())
    return path


def _content(
    found: Found,
    failed: Sequence[Mapping[str, str]],
    published: Sequence[PublishedScore],
    thumbnails: Thumbnails,
    max_errors: int,
) -> dict[str, Any]:
    """All that the template shows."""
    boards = boards_of(found)
    models = order_of_models(boards)
    tasks = sorted({(r.specialty, r.task) for _, r in found})
    shown = Shown(
        found=found,
        boards=boards,
        marks=marks.marks_of(models),
        anchors={task: f"task-{number}" for number, (_, task) in enumerate(tasks, 1)},
        failed={(f["model"], f["task"], f["protocol"]) for f in failed},
    )
    theirs = _published(published, shown)
    return {
        "head": _head(found, shown),
        "definitions": marks.definitions(),
        "marks": shown.marks,
        "anchors": shown.anchors,
        "titles": {r.task: r.title for _, r in found},
        "protocols": words.PROTOCOLS,
        "boards": boards,
        "forests": list(_forests(shown, theirs)),
        "tasks": task_blocks(shown),
        "tasks_open": len(tasks) <= _TASKS_OPEN,
        "mistakes": _mistakes(shown, thumbnails, max_errors),
        "num_cells": len(found),
        "failed": failed,
        "published": theirs,
        "groups": _groups(found),
        "lower": words.LOWER_IS_BETTER,
    }


# what was scored


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """A model as the head of the page names it."""

    name: str
    mark: Mark
    encoders: list[str]
    """As they were asked for."""
    digests: list[str]
    """More than one: the same name stands for several encoders."""
    dims: list[int]
    inputs: list[str]
    """How pictures were prepared."""
    num_cells: int


def _head(found: Found, shown: Shown) -> dict[str, Any]:
    results = [result for _, result in found]
    dates = sorted({result.made[:10] for result in results if result.made})
    sizes = {(result.task, result.split): result.num_items for result in results}
    software = sorted({item for result in results for item in result.software.items()})
    return {
        "models": [_model(name, mark, results) for name, mark in shown.marks.items()],
        "num_tasks": len(shown.anchors),
        "specialties": sorted({result.specialty for result in results}),
        "protocols": [board.protocol for board in shown.boards],
        "num_items": sum(sizes.values()),
        "splits": sorted({result.split for result in results}),
        "dates": dates,
        "software": _joined(software),
        "limits": sorted({r.details["limit"] for r in results if r.details.get("limit")}),
        "versions": sorted(_versions(results)),
    }


def _model(name: str, mark: Mark, results: Sequence[Result]) -> _Model:
    own = [result for result in results if result.model == name]
    about = [result.encoder for result in own if result.encoder]
    inputs = {_input(each.get("preprocessing")) for each in about}
    return _Model(
        name=name,
        mark=mark,
        encoders=sorted({str(each["name"]) for each in about if each.get("name")}),
        digests=sorted({str(each["digest"])[:12] for each in about if each.get("digest")}),
        dims=sorted({int(each["dims"]) for each in about if each.get("dims")}),
        inputs=sorted(each for each in inputs if each),
        num_cells=len(own),
    )


def _input(preprocessing: Any) -> str:
    """How pictures become squares, in words."""
    if not isinstance(preprocessing, dict) or not preprocessing.get("size"):
        return ""
    size, fit = preprocessing["size"], preprocessing.get("fit")
    return f"{size} px{f', {fit}' if fit else ''}"


def _joined(pairs: Sequence[tuple[str, str]]) -> str:
    """Software with its versions; several where runs differ."""
    by_name: dict[str, list[str]] = {}
    for name, version in pairs:
        by_name.setdefault(name, []).append(version)
    return ", ".join(f"{name} {' and '.join(each)}" for name, each in sorted(by_name.items()))


def _versions(results: Sequence[Result]) -> set[str]:
    """Tasks that not all results understand in the same way."""
    digests: dict[str, set[str]] = {}
    for result in results:
        digests.setdefault(result.task, set()).add(result.task_digest)
    return {task for task, some in digests.items() if len(some) > 1}


def _groups(found: Found) -> list[tuple[str, list[str]]]:
    """(what intervals are drawn over, tasks), for tasks whose items are not all on their own."""
    by_word: dict[str, set[str]] = {}
    for _, result in found:
        if result.num_groups < result.num_items:
            by_word.setdefault(result.group or "group of items", set()).add(result.title)
    return [(word, sorted(titles)) for word, titles in sorted(by_word.items())]


# forest plots


def _forests(shown: Shown, published: Sequence[PublishedScore]) -> Iterator[dict[str, Any]]:
    """A plot for each protocol and specialty."""
    for board in shown.boards:
        by_specialty: dict[str, list[str]] = {}
        for task in sorted(board.tasks):
            result = shown.any_result(board.protocol, task)
            by_specialty.setdefault(result.specialty, []).append(task)
        for specialty, tasks in sorted(by_specialty.items()):
            yield _forest(shown, board, specialty, tasks, published)


def _forest(
    shown: Shown,
    board: Board,
    specialty: str,
    tasks: Sequence[str],
    published: Sequence[PublishedScore],
) -> dict[str, Any]:
    theirs = {task: _same_question(shown, board, task, published) for task in tasks}
    scores = [
        result.score
        for task in tasks
        for model in shown.models_of(board)
        if (result := shown.result(board.protocol, task, model)) is not None
    ]
    ends = [each.value if each.high is None else each.high for each in scores]
    chances = [each.chance for each in scores if each.chance is not None]
    axis = marks.axis_of([*ends, *chances, *(s.value for some in theirs.values() for s in some)])
    return {
        "protocol": board.protocol,
        "specialty": specialty,
        "scale": marks.scale(axis),
        "tasks": [_forest_task(shown, board, task, theirs[task], axis) for task in tasks],
        "has_chance": bool(chances),
        "has_published": any(theirs.values()),
    }


def _same_question(
    shown: Shown, board: Board, task: str, published: Sequence[PublishedScore]
) -> list[PublishedScore]:
    metric = shown.any_result(board.protocol, task).main
    wanted = (task, board.protocol, metric)
    return [each for each in published if (each.task, each.protocol, each.metric) == wanted]


def _forest_task(
    shown: Shown, board: Board, task: str, theirs: Sequence[PublishedScore], axis: marks.Axis
) -> dict[str, Any]:
    result = shown.any_result(board.protocol, task)
    chance = result.score.chance
    values = [(each.value, f"{each.model}: {each.value:.1%}, {each.source}") for each in theirs]
    return {
        "result": result,
        "chance": chance,
        "lanes": [_lane(shown, board, task, model, axis) for model in shown.models_of(board)],
        "published": theirs,
        "published_lane": marks.published_lane(axis, values, chance),
    }


def _lane(shown: Shown, board: Board, task: str, model: str, axis: marks.Axis) -> dict[str, Any]:
    result = shown.result(board.protocol, task, model)
    score: Score | None = None if result is None else result.score
    chance = shown.any_result(board.protocol, task).score.chance
    return {
        "model": model,
        "mark": shown.marks[model],
        "svg": marks.lane(axis, score, shown.marks[model], chance),
        "score": score,
        "letters": board.task_letters.get(task, {}).get(model, ""),
        "state": shown.state(board.protocol, task, model),
    }


# mistakes and published numbers


def _mistakes(shown: Shown, thumbnails: Thumbnails, max_errors: int) -> dict[str, Any]:
    """Of the best model of each task first, then of the second; by task on the page."""
    cells = [
        (rank, place, number, path, result)
        for number, board in enumerate(shown.boards)
        for place, task in enumerate(shown.anchors)
        for rank, (path, result) in enumerate(shown.ranked(board.protocol, task))
    ]
    cells = sorted(cells, key=lambda cell: cell[:3]) if max_errors else []
    chosen: list[tuple[int, int, int, dict[str, Any]]] = []
    num_skipped = 0
    for rank, place, number, path, result in cells:
        if len(chosen) == _CELLS_WITH_MISTAKES:
            num_skipped += 1
            continue
        rows = mistakes_of(result, read_items(path), max_errors, thumbnails)
        if rows:
            mark = shown.marks[result.model]
            block = {"result": result, "mark": mark, "rows": rows, "why": reasons(rows)}
            chosen.append((place, number, rank, block))
    chosen.sort(key=lambda each: each[:3])
    return {"blocks": [each[3] for each in chosen], "num_skipped": num_skipped}


def _published(published: Sequence[PublishedScore], shown: Shown) -> list[PublishedScore]:
    """Those of the tasks on the page, by task, protocol, metric and value."""
    place = {task: number for number, task in enumerate(shown.anchors)}
    chosen = [each for each in published if each.task in place]
    return sorted(
        chosen,
        key=lambda e: (place[e.task or ""], e.protocol, e.metric, -e.value, e.model, e.source),
    )
