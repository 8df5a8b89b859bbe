"""Two models on the same items or over many tasks, many models on one task, averages: what may be said to differ."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from biomedica.errors import EvaluationError
from biomedica.evaluate.intervals import RESAMPLES, Draws, draws, full_value, interval, limits
from biomedica.evaluate.measures import Bools, Measure, Reals, difference
from biomedica.evaluate.permutations import PERMUTATIONS, paired_test, share_as_far
from biomedica.evaluate.results import Result, Score
from biomedica.evaluate.tables import measure_of

LEVEL = 0.05
"""Of p after Holm: models that differ by less certainty share a letter."""
Cell = tuple[str, str]
"""(task, protocol)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Paired:
    """How much better model a is than b on the same items."""

    metric: str
    value_a: float
    value_b: float
    difference: float
    """a - b."""
    low: float | None
    """Of its 95 % interval; None with one group, or where no resample differs from another."""
    high: float | None
    p: float
    """Two-sided (see `permutations`); NaN with one group, or where the metric is not defined."""
    adjusted: float | None = None
    """p after Holm, where several tasks were compared."""
    num_items: int
    num_groups: int
    test: str
    """How p was found, in words."""
    replicates_R: Reals = field(repr=False)
    """The difference in each resample; empty with one group."""
    seen: float = field(repr=False)
    """What the test compares with `null_P`; of most metrics the difference."""
    null_P: Reals = field(repr=False)
    """The same in random permutations of the models; empty where p is NaN."""

    def facts(self) -> dict[str, object]:
        """All but the resamples and permutations."""
        left_out = ("replicates_R", "seen", "null_P")
        return {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if each.name not in left_out
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """Two models over the tasks that both have."""

    tasks: dict[Cell, Paired]
    """p is adjusted over all of them."""
    mean: Score | None
    """Mean difference, a - b, of the main metrics over tasks in which they are defined; None: in no task."""
    p: float
    """Of the mean difference; NaN where no task has a p."""
    only_a: tuple[Cell, ...]
    """What b has no result for."""
    only_b: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How far a metric depends on a choice, such as the prompt template."""

    low: float
    high: float
    sd: float | None
    """Standard deviation, of the sample; None of a single value."""


def compare_items(
    a: pa.Table,
    b: pa.Table,
    metric: str,
    *,
    resamples: int = RESAMPLES,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Paired:
    """Two models' answers to the same items, tables as `results.ITEMS` in any order.

    metric   one of `tables.KNOWN`
    The interval comes from resamples that draw the same groups for both models.
    Raises `EvaluationError` where items, their groups or their right answers are not the same.
    """
    a, b = same_items(a, b)
    of_a, of_b, drawn = _measures(a, b, metric, resamples, seed)
    found = interval(difference(of_a, of_b), drawn)
    test = paired_test(of_a, of_b, drawn, permutations)
    return Paired(
        metric=metric,
        value_a=full_value(of_a, drawn.num_groups),
        value_b=full_value(of_b, drawn.num_groups),
        difference=found.value,
        low=found.low,
        high=found.high,
        p=test.p,
        num_items=len(a),
        num_groups=drawn.num_groups,
        test=test.words,
        replicates_R=found.replicates_R,
        seen=test.seen,
        null_P=test.null_P,
    )


def same_items(a: pa.Table, b: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Both tables by item. Raises `EvaluationError` where they are not about the same items."""
    items_a, items_b = (set(each["item"].to_pylist()) for each in (a, b))
    if items_a != items_b:
        only_a, only_b = len(items_a - items_b), len(items_b - items_a)
        raise EvaluationError(
            f"models are compared on the same items only: {only_a:,} stand in the first table alone, {only_b:,} "
            f"in the second alone, {len(items_a & items_b):,} in both ({min(items_a ^ items_b)!r} is in one of "
            "them); score both models on one split of one version of the task"
        )
    if max(len(a), len(b)) > len(items_a):
        raise EvaluationError(
            "an item stands twice in a table of items; each model answers it once"
        )
    a, b = a.sort_by("item"), b.sort_by("item")
    for name in ("group", "label", "labels", "answer"):
        values = zip(a[name].to_pylist(), b[name].to_pylist(), strict=True)
        differ = [i for i, (of_a, of_b) in enumerate(values) if of_a != of_b]
        if differ:
            raise EvaluationError(
                f"{len(differ):,} items have another {name} in the second table, the first "
                f"{a['item'][differ[0]].as_py()!r}; score both models on one version of the task"
            )
    return a, b


def _measures(
    a: pa.Table, b: pa.Table, metric: str, resamples: int = 0, seed: int = 0
) -> tuple[Measure, Measure, Draws]:
    """The metric of both tables, which are of the same items in one order, and resamples of their groups."""
    drawn = draws(a["group"].to_pylist(), resamples, seed)
    num = 1 + max(pc.max(each["predicted"]).as_py() or 0 for each in (a, b))
    of_a, of_b = (measure_of(each, metric, drawn.group_of_N, num) for each in (a, b))
    return of_a, of_b, drawn


def compare_models(
    a: Mapping[Cell, Result],
    b: Mapping[Cell, Result],
    read: Callable[[Result], pa.Table],
    *,
    resamples: int = RESAMPLES,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Comparison:
    """Two models, task by task and on average.

    a, b    results of each model
    read    gives the items of a result

    Each task is compared by its main metric. p-values are adjusted over the tasks (Holm). The mean difference
    is tested by permuting each task by itself.
    """
    both = sorted(set(a) & set(b))
    found = {}
    for cell in both:
        if a[cell].main != b[cell].main:
            raise EvaluationError(
                f"{' '.join(cell)}: the first model is ranked by {a[cell].main}, the second by {b[cell].main}; "
                "score both on one version of the task"
            )
        try:
            found[cell] = compare_items(
                read(a[cell]),
                read(b[cell]),
                a[cell].main,
                resamples=resamples,
                permutations=permutations,
                seed=seed,
            )
        except EvaluationError as error:
            raise EvaluationError(f"{' '.join(cell)}: {error}") from None
    adjusted = holm([each.p for each in found.values()])
    tasks = {
        cell: replace(each, adjusted=None if np.isnan(p) else float(p))
        for (cell, each), p in zip(found.items(), adjusted, strict=True)
    }
    known = [each for each in tasks.values() if not np.isnan(each.difference)]
    differences = [each.difference for each in known]
    return Comparison(
        tasks=tasks,
        mean=average([e.replicates_R for e in known], differences, seed) if known else None,
        p=mean_p([each for each in known if not np.isnan(each.p)], seed),
        only_a=tuple(sorted(set(a) - set(b))),
        only_b=tuple(sorted(set(b) - set(a))),
    )


def mean_p(tasks: Sequence[Paired], seed: int = 0) -> float:
    """p of the mean difference over tasks, each of them permuted by itself; NaN without tasks."""
    if not tasks:
        return float("nan")
    null_P = _shuffled([each.null_P for each in tasks], seed).mean(axis=0)
    return share_as_far(null_P, float(np.mean([each.seen for each in tasks])))


def average(replicates: Sequence[Reals], values: Sequence[float], seed: int = 0) -> Score:
    """Mean of a metric over tasks, with a 95 % interval.

    replicates   of each task, the metric in each resample of its groups

    The tasks are fixed, their items are draws: the interval says what other items of these tasks would have
    given, not what other tasks would. Tasks are taken as independent, which those that share their pictures
    are not. Without an interval if a task has none; NaN values are for the caller to leave out.
    """
    if not values:
        raise EvaluationError("the mean over no tasks is not defined; choose tasks with a result")
    value = float(np.mean(values))
    sizes = {len(each) for each in replicates}
    if len(sizes) != 1 or sizes == {0}:
        return Score(value=value)
    found = limits(value, _shuffled(replicates, seed).mean(axis=0), None)
    low, high = found or (None, None)
    return Score(value=value, low=low, high=high)


def _shuffled(rows: Sequence[Reals], seed: int) -> Reals:
    """(tasks, R), each row in an order of its own: one seed drew all of them, so they would move together."""
    source = np.random.default_rng(seed)
    return np.stack([source.permutation(each) for each in rows])


def spread(values: Sequence[float]) -> Spread:
    """Of a metric over prompt templates, or seeds. Raises `EvaluationError` for none."""
    if not values:
        raise EvaluationError("the spread of no values is not defined")
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(low=min(values), high=max(values), sd=sd)


def holm(p_values: ArrayLike) -> Reals:
    """p-values adjusted so that any false alarm at all has the stated rate (Holm 1979, Scand. J. Stat. 6).

    NaN is no test: it stays, and does not count.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p_T = np.array(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(p_T))
    order = known[np.argsort(p_T[known], kind="stable")]
    stepped = p_T[order] * np.arange(len(order), 0, -1)
    p_T[order] = np.minimum(1.0, np.maximum.accumulate(stepped))
    return p_T


def p_of_pairs(
    tables: Sequence[pa.Table], metric: str, *, permutations: int = PERMUTATIONS
) -> Reals:
    """(M, M) p-values of each two of M models on the same items, adjusted over the pairs; 1 on the diagonal."""
    p_MM = np.ones((len(tables), len(tables)))
    for i, j in combinations(range(len(tables)), 2):
        of_a, of_b, drawn = _measures(*same_items(tables[i], tables[j]), metric)
        p_MM[i, j] = paired_test(of_a, of_b, drawn, permutations).p
    return adjust_pairs(p_MM)


def adjust_pairs(p_MM: Reals) -> Reals:
    """(M, M) p-values after Holm over the pairs above the diagonal, mirrored; 1 on the diagonal."""
    upper = np.triu_indices(len(p_MM), 1)
    adjusted_MM = np.ones_like(p_MM)
    adjusted_MM[upper] = holm(p_MM[upper])
    adjusted_MM.T[upper] = adjusted_MM[upper]
    return adjusted_MM


def tie_groups(
    values: Sequence[float], p_MM: NDArray[np.float64], level: float = LEVEL
) -> list[str]:
    """Letters for each model: two that share one can't be told apart, two that share none can.

    values   higher is better: the best model's first letter is `a`
    p_MM     adjusted p of each two (`p_of_pairs`); NaN: they can't be told apart

    A compact letter display (Piepho 2004, "An algorithm for a letter-based representation of all-pairwise
    comparisons", J. Comp. Graph. Stat. 13): for each two models that differ, every group with both becomes
    two groups without one of them; a group that another one holds is dropped.

    >>> p_MM = np.array([[1, 0.3, 0.001], [0.3, 1, 0.2], [0.001, 0.2, 1]])
    >>> tie_groups([0.9, 0.8, 0.7], p_MM)
    ['a', 'ab', 'b']
    """
    differ_MM: Bools = p_MM < level
    groups = [frozenset(range(len(values)))]
    for i, j in zip(*np.nonzero(np.triu(differ_MM, 1)), strict=True):
        split = [g - {x} for g in groups if {i, j} <= g for x in (int(i), int(j))]
        split += [g for g in groups if not {i, j} <= g]
        groups = [g for g in dict.fromkeys(split) if not any(g < other for other in split)]
    place = {m: rank for rank, m in enumerate(np.argsort(-np.asarray(values), kind="stable"))}
    groups.sort(key=lambda group: sorted(place[m] for m in group))
    return [
        "".join(_letter(n) for n, group in enumerate(groups) if m in group)
        for m in range(len(values))
    ]


def _letter(number: int) -> str:
    """a to z, then A to Z, then with a number."""
    letters = string.ascii_letters
    more, place = divmod(number, len(letters))
    return letters[place] + (str(more) if more else "")
