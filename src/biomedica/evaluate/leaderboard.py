"""Models beside each other: means over tasks with intervals, letters for ties, published numbers apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from biomedica.errors import ConfigError
from biomedica.evaluate.comparisons import adjust_pairs, average, compare_models, tie_groups
from biomedica.evaluate.published_scores import PublishedScore
from biomedica.evaluate.results import Result, Score, read_items
from biomedica.evaluate.tables import replicates

Found = Sequence[tuple[Path, Result]]
ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A model's place by one protocol."""

    model: str
    protocol: str
    letters: str
    """Models that share a letter cannot be told apart (paired tests over all tasks, Holm)."""
    means: dict[str, Score]
    """By specialty, and `all`: over the tasks that every model of the table was scored on."""
    scores: dict[str, Score]
    """By task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The standings of one protocol, best first."""

    protocol: str
    tasks: tuple[str, ...]
    """That means are taken over."""
    left_out: tuple[str, ...]
    """Tasks that some model lacks, or that guessing always gets right."""
    standings: tuple[Standing, ...]


def leaderboard(found: Found) -> list[Table]:
    """A table for each protocol. Means are plain ones over tasks, each by its own main metric."""
    protocols = sorted({result.protocol for _, result in found})
    return [
        _table(protocol, [each for each in found if each[1].protocol == protocol])
        for protocol in protocols
    ]


def _table(protocol: str, found: Found) -> Table:
    models = sorted({result.model for _, result in found})
    by_model = {
        name: {r.task: (path, r) for path, r in found if r.model == name} for name in models
    }
    known = sorted({result.task for _, result in found})
    shared = [
        task
        for task in known
        if all(task in some for some in by_model.values())
        and not _is_given(by_model[models[0]][task][1])
    ]
    standings = [_standing(name, protocol, by_model[name], shared) for name in models]
    letters = _letters(by_model, shared, [each.means.get(ALL) for each in standings])
    order = sorted(range(len(models)), key=lambda i: (-_mean(standings[i]), models[i]))
    return Table(
        protocol=protocol,
        tasks=tuple(shared),
        left_out=tuple(task for task in known if task not in shared),
        standings=tuple(
            Standing(
                model=standings[i].model,
                protocol=protocol,
                letters=letters[i],
                means=standings[i].means,
                scores=standings[i].scores,
            )
            for i in order
        ),
    )


def _is_given(result: Result) -> bool:
    return result.score.chance is not None and result.score.chance >= 1


def _mean(standing: Standing) -> float:
    return standing.means[ALL].value if ALL in standing.means else -np.inf


def _standing(
    name: str, protocol: str, results: dict[str, tuple[Path, Result]], shared: Sequence[str]
) -> Standing:
    specialties: dict[str, list[str]] = {ALL: list(shared)} if shared else {}
    for task in shared:
        specialties.setdefault(results[task][1].specialty, []).append(task)
    drawn = {}
    for task in shared:
        path, result = results[task]
        drawn[task] = replicates(read_items(path), result.main)
    means = {
        specialty: average([drawn[task][1] for task in tasks], [drawn[task][0] for task in tasks])
        for specialty, tasks in specialties.items()
    }
    scores = {task: result.score for task, (_, result) in results.items()}
    return Standing(model=name, protocol=protocol, letters="", means=means, scores=scores)


def _letters(
    by_model: dict[str, dict[str, tuple[Path, Result]]],
    shared: Sequence[str],
    means: Sequence[Score | None],
) -> list[str]:
    models = list(by_model)
    if len(models) < 2 or not shared:
        return [""] * len(models)
    p_MM = np.ones((len(models), len(models)))
    for i, one in enumerate(models):
        for j in range(i):
            p_MM[i, j] = p_MM[j, i] = compare(by_model[one], by_model[models[j]], shared)
    values = [0.0 if each is None else each.value for each in means]
    return tie_groups(values, adjust_pairs(p_MM))


def compare(
    one: dict[str, tuple[Path, Result]],
    other: dict[str, tuple[Path, Result]],
    tasks: Sequence[str],
) -> float:
    """p of the mean difference of two models over some tasks."""
    paths = {id(result): path for some in (one, other) for path, result in some.values()}
    found = compare_models(
        {(task, one[task][1].protocol): one[task][1] for task in tasks},
        {(task, other[task][1].protocol): other[task][1] for task in tasks},
        lambda result: read_items(paths[id(result)]),
    )
    return 1.0 if np.isnan(found.p) else found.p


def published_for(
    published: Sequence[PublishedScore], tasks: Sequence[str]
) -> list[PublishedScore]:
    """Published scores of some tasks, by task, metric and model. They enter no average and no test here."""
    chosen = [each for each in published if each.task in tasks]
    return sorted(chosen, key=lambda each: (each.task or "", each.metric, each.model))


def of_model(found: Found, model: str) -> dict[tuple[str, str], tuple[Path, Result]]:
    """Results of a model by task and protocol. Raises `ConfigError` for a model without any."""
    chosen: dict[tuple[str, str], tuple[Path, Result]] = {
        (r.task, r.protocol): (path, r) for path, r in found if r.model == model
    }
    if not chosen:
        known = ", ".join(sorted({result.model for _, result in found}))
        raise ConfigError(f"no results of model {model!r}; there are {known}")
    return chosen
