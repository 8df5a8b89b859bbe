"""Models beside each other by one protocol: means over the tasks that all have, and letters for ties, by specialty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from biomedica.errors import ConfigError
from biomedica.evaluate.comparisons import (
    Paired,
    adjust_pairs,
    average,
    compare_items,
    mean_p,
    tie_groups,
)
from biomedica.evaluate.results import PROTOCOL_NAMES, Result, Score, read_items
from biomedica.evaluate.tables import replicates

Found = Sequence[tuple[Path, Result]]
Cells = Mapping[str, tuple[Path, Result]]
"""Results of one model with their paths, by task."""
ALL = "all tasks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Tasks that a mean is taken over."""

    name: str
    """A specialty, or `ALL`."""
    tasks: tuple[str, ...]
    chance: float | None
    """Mean of what guessing gives; None where that is not known of each task."""
    best: str | None
    """The model that is better than every other one, if there is such a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A model's line."""

    model: str
    num_tasks: int
    """That it was scored on, whether others were or not."""
    means: Mapping[str, Score]
    """By column."""
    letters: Mapping[str, str]
    """By column; models that share one can't be told apart. Empty for a model that stands alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A task that is in no mean."""

    task: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """The standings of one protocol, best first."""

    protocol: str
    tasks: tuple[str, ...]
    """All that some model was scored on."""
    columns: tuple[Column, ...]
    """`ALL` first; none where no task is shared."""
    standings: tuple[Standing, ...]
    left_out: tuple[LeftOut, ...]
    task_letters: Mapping[str, Mapping[str, str]]
    """By task and model, where several models answered the same items."""


def boards_of(found: Found) -> list[Board]:
    """A board for each protocol, what needs no training first.

    Every two models are compared on every task once: that is what takes time.
    """
    return [
        _board(name, some)
        for name in PROTOCOL_NAMES
        if (some := [each for each in found if each[1].protocol == name])
    ]


def _board(protocol: str, found: Found) -> Board:
    models = sorted({result.model for _, result in found})
    cells = {name: {r.task: (path, r) for path, r in found if r.model == name} for name in models}
    tasks = sorted({result.task for _, result in found})
    left_out = [
        LeftOut(task=task, why=why) for task in tasks if (why := _why_not(task, cells)) is not None
    ]
    shared = [task for task in tasks if task not in {each.task for each in left_out}]
    groups = _columns(shared, cells[models[0]])
    letters = _Letters(models, cells, groups)
    means = {name: _means(cells[name], shared, groups) for name in models}
    standings = [
        Standing(
            model=name,
            num_tasks=len(cells[name]),
            means=means[name],
            letters=letters.of_columns(name, means),
        )
        for name in models
    ]
    standings.sort(key=lambda each: (-_main(each), each.model))
    return Board(
        protocol=protocol,
        tasks=tuple(tasks),
        columns=tuple(
            Column(
                name=name,
                tasks=tuple(some),
                chance=_chance(some, cells[models[0]]),
                best=_best(name, standings),
            )
            for name, some in groups.items()
        ),
        standings=tuple(standings),
        left_out=tuple(left_out),
        task_letters=letters.of_tasks(),
    )


def _main(standing: Standing) -> float:
    return standing.means[ALL].value if ALL in standing.means else -np.inf


def _why_not(task: str, cells: Mapping[str, Cells]) -> str | None:
    """Why a task is in no mean; None where it is."""
    lacking = [name for name, some in cells.items() if task not in some]
    if lacking:
        return f"not scored: {', '.join(lacking)}"
    results = [some[task][1] for some in cells.values()]
    if not _are_alike(results):
        return "the models were scored on different items, by other right answers, prompts, shots, recipes or metrics"
    if any(each.score.chance is not None and each.score.chance >= 1 for each in results):
        return "every item has one option only: guessing is always right"
    return None


def _are_alike(results: Sequence[Result]) -> bool:
    """Whether they can be compared, as far as results alone tell."""
    return len({_asked(each) for each in results}) == 1


def _asked(result: Result) -> tuple[str, ...]:
    """What a model was asked, and how it was judged."""
    pictures = result.data.get("pictures_sha256") or {}
    known = (result.data.get(name, "") for name in ("ids_sha256", "rights_sha256"))
    words = repr((result.prompts.get("used"), result.prompts.get("texts")))
    how = repr((result.details.get("scored"), result.details.get("recipe")))
    return result.main, result.task_digest, *known, pictures.get(result.split, ""), words, how


def _columns(shared: Sequence[str], cells: Cells) -> dict[str, list[str]]:
    """Tasks by column; one specialty alone has no column beside `ALL`'s."""
    specialties: dict[str, list[str]] = {}
    for task in shared:
        specialties.setdefault(cells[task][1].specialty, []).append(task)
    if not shared:
        return {}
    return {
        ALL: list(shared),
        **(dict(sorted(specialties.items())) if len(specialties) > 1 else {}),
    }


def _means(
    cells: Cells, shared: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> dict[str, Score]:
    drawn = {}
    for task in shared:
        path, result = cells[task]
        drawn[task] = replicates(read_items(path), result.main)
    return {
        name: average([drawn[task][1] for task in tasks], [drawn[task][0] for task in tasks])
        for name, tasks in groups.items()
    }


def _chance(tasks: Sequence[str], cells: Cells) -> float | None:
    chances = [cells[task][1].score.chance for task in tasks]
    known = [each for each in chances if each is not None]
    return float(np.mean(known)) if len(known) == len(chances) else None


def _best(column: str, standings: Sequence[Standing]) -> str | None:
    """The first by value, if it shares its letters with nobody."""
    if len(standings) < 2:
        return None
    first = max(standings, key=lambda each: each.means[column].value)
    others = {letter for each in standings if each is not first for letter in each.letters[column]}
    return None if others & set(first.letters[column]) else first.model


class _Letters:
    """Every two models compared on every task that both have; p-values by column and by task."""

    def __init__(
        self,
        models: Sequence[str],
        cells: Mapping[str, Cells],
        groups: Mapping[str, Sequence[str]],
    ) -> None:
        self._models, self._cells, self._groups = models, cells, groups
        self._of_column = {name: np.ones((len(models), len(models))) for name in groups}
        self._of_task: dict[str, NDArray[np.float64]] = {}
        for j, i in combinations(range(len(models)), 2):
            self._compare(i, j)

    def _compare(self, i: int, j: int) -> None:
        one, other = self._cells[self._models[i]], self._cells[self._models[j]]
        both = sorted(set(one) & set(other))
        pairs = {
            task: _paired(one[task], other[task])
            for task in both
            if _are_alike([one[task][1], other[task][1]])
        }
        for task, pair in pairs.items():
            shape = (len(self._models), len(self._models))
            p_MM = self._of_task.setdefault(task, np.full(shape, np.nan))
            p_MM[i, j] = p_MM[j, i] = pair.p
        for name, tasks in self._groups.items():
            known = [pairs[task] for task in tasks if not np.isnan(pairs[task].p)]
            p_MM = self._of_column[name]
            p_MM[i, j] = p_MM[j, i] = 1.0 if not known else mean_p(known)

    def of_columns(self, model: str, means: Mapping[str, Mapping[str, Score]]) -> dict[str, str]:
        """Letters of a model by column. means   by model and column"""
        if len(self._models) < 2:
            return dict.fromkeys(self._groups, "")
        place = self._models.index(model)
        return {
            name: tie_groups(
                [means[each][name].value for each in self._models],
                adjust_pairs(self._of_column[name]),
            )[place]
            for name in self._groups
        }

    def of_tasks(self) -> dict[str, dict[str, str]]:
        """Letters by task and model, among the models that answered the task's items."""
        found = {}
        for task, p_MM in sorted(self._of_task.items()):
            there = [i for i, name in enumerate(self._models) if task in self._cells[name]]
            results = [self._cells[self._models[i]][task][1] for i in there]
            if not _are_alike(results):
                continue
            letters = tie_groups(
                [each.score.value for each in results], adjust_pairs(p_MM[np.ix_(there, there)])
            )
            found[task] = {self._models[i]: some for i, some in zip(there, letters, strict=True)}
        return found


def _paired(one: tuple[Path, Result], other: tuple[Path, Result]) -> Paired:
    """The test alone: the interval of a difference is not shown, and costs most."""
    metric = one[1].main
    return compare_items(read_items(one[0]), read_items(other[0]), metric, resamples=0)


def order_of_models(boards: Sequence[Board]) -> list[str]:
    """Models by the first board that they stand on, and by their place there."""
    return list(dict.fromkeys(each.model for board in boards for each in board.standings))


def of_model(found: Found, model: str) -> dict[tuple[str, str], tuple[Path, Result]]:
    """Results of a model by task and protocol. Raises `ConfigError` for a model without any."""
    chosen: dict[tuple[str, str], tuple[Path, Result]] = {
        (r.task, r.protocol): (path, r) for path, r in found if r.model == model
    }
    if not chosen:
        known = ", ".join(sorted({result.model for _, result in found}))
        raise ConfigError(f"no results of model {model!r}; there are {known}")
    return chosen
