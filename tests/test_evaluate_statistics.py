"""Metrics against scikit-learn, tests against statsmodels; in simulations intervals cover and tests err as stated."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests

from biomedica.errors import EvaluationError
from biomedica.evaluate import comparisons, intervals, measures, metrics, permutations, tables
from biomedica.evaluate.results import ITEMS, Result

Floats = NDArray[np.float64]
Make = Callable[[np.random.Generator], tuple[measures.Measure, list[str]]]


def names(num: int) -> list[str]:
    """Groups of one item each."""
    return [f"{i:06d}" for i in range(num)]


def sample(seed: int, num: int = 200, classes: int = 4, ties: bool = False) -> tuple[Any, Any]:
    """(scores, labels) of a model that is often right."""
    source = np.random.default_rng(seed)
    labels_N = source.integers(0, classes, num)
    scores_NC = source.normal(size=(num, classes)) + 1.2 * np.eye(classes)[labels_N]
    return (scores_NC.round() if ties else scores_NC), labels_N


def table(**columns: Any) -> pa.Table:
    """Items with these columns, the others null or made up."""
    num = len(next(iter(columns.values())))
    columns = {"item": names(num), "place": [""] * num, "picture": [""] * num} | columns
    columns.setdefault("group", columns["item"])
    made = {name: columns.get(name, [None] * num) for name in ITEMS.names}
    return pa.table({name: pa.array(made[name], ITEMS.field(name).type) for name in ITEMS.names})


def classified(
    scores_NC: Floats, labels_N: NDArray[Any], groups: list[str] | None = None
) -> pa.Table:
    """A model's items."""
    predicted_N = scores_NC.argmax(axis=1)
    return table(
        label=labels_N,
        predicted=predicted_N,
        is_right=predicted_N == labels_N,
        scores=scores_NC.tolist(),
        group=groups or names(len(labels_N)),
    )


def alike(
    source: np.random.Generator, num: int, size: int, share: float, rho: float
) -> NDArray[np.bool_]:
    """Rights and wrongs of groups that stand together, with an intra-class correlation."""
    if not rho:
        return np.asarray(source.random(num * size) < share)
    between = (1 - rho) / rho
    share_G = source.beta(share * between, (1 - share) * between, num)
    return np.asarray(source.random(num * size) < np.repeat(share_G, size))


# Metrics


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_classification_metrics_are_scikit_learns(seed: int, missing: bool, weighted: bool) -> None:
    """Weighted or not, with a class that no item has."""
    scores_NC, labels_N = sample(seed, classes=5)
    if missing:
        labels_N[labels_N == 4] = 0
    weights = np.random.default_rng(seed).random(len(labels_N)) + 0.1 if weighted else None
    predicted_N = scores_NC.argmax(axis=1)
    assert metrics.accuracy(predicted_N == labels_N, weights) == pytest.approx(
        sk.accuracy_score(labels_N, predicted_N, sample_weight=weights)
    )
    assert metrics.accuracy_at(scores_NC, labels_N, 3, weights) == pytest.approx(
        sk.top_k_accuracy_score(labels_N, scores_NC, k=3, labels=range(5), sample_weight=weights)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class was predicted that no item has
        theirs = sk.balanced_accuracy_score(labels_N, predicted_N, sample_weight=weights)
    assert metrics.balanced_accuracy(predicted_N, labels_N, 5, weights) == pytest.approx(theirs)
    assert metrics.macro_f1(predicted_N, labels_N, 5, weights) == pytest.approx(
        sk.f1_score(labels_N, predicted_N, average="macro", sample_weight=weights, zero_division=0)
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_rankings_are_scikit_learns(seed: int, ties: bool, weighted: bool) -> None:
    """ROC curves of two and of more classes, and of labels; average precision."""
    scores_NC, labels_N = sample(seed, ties=ties)
    weights = np.random.default_rng(seed).random(len(labels_N)) + 0.1 if weighted else None
    odds_NC, hot_NC = metrics.log_odds(scores_NC).round(9), np.eye(4, dtype=bool)[labels_N]
    theirs = [
        sk.roc_auc_score(hot_NC[:, c], odds_NC[:, c], sample_weight=weights) for c in range(4)
    ]
    tolerance = 2e-3 if ties else 1e-9  # sums of the same numbers in another order are ties or not
    assert metrics.auroc(scores_NC, labels_N, weights) == pytest.approx(
        np.mean(theirs), abs=tolerance
    )
    if not ties:
        chances_NC = metrics.softmax(scores_NC)
        whole = sk.roc_auc_score(labels_N, chances_NC, multi_class="ovr") if not weighted else None
        assert whole is None or whole == pytest.approx(metrics.auroc(scores_NC, labels_N))
    assert metrics.auroc_multilabel(scores_NC, hot_NC, weights) == pytest.approx(
        sk.roc_auc_score(hot_NC, scores_NC, sample_weight=weights)
    )
    assert metrics.average_precision(scores_NC, hot_NC, weights) == pytest.approx(
        sk.average_precision_score(hot_NC, scores_NC, sample_weight=weights)
    )
    two, is_one = scores_NC[:, :2], labels_N > 1
    assert metrics.auroc(two, is_one.astype(int), weights) == pytest.approx(
        sk.roc_auc_score(is_one, two[:, 1] - two[:, 0], sample_weight=weights)
    )


def test_calibration_error_is_what_its_definition_says() -> None:
    """Bin by bin; weights are repetitions."""
    source = np.random.default_rng(0)
    sure_N, right_N = source.random(500), source.random(500) < 0.7
    expected = 0.0
    for i in range(10):
        inside = (sure_N > i / 10) & (sure_N <= (i + 1) / 10)
        expected += abs(right_N[inside].mean() - sure_N[inside].mean()) * inside.mean()
    assert metrics.ece(sure_N, right_N, bins=10) == pytest.approx(expected)
    assert metrics.ece(np.array([0.75, 0.75]), np.array([True, False])) == pytest.approx(0.25)
    twice = metrics.ece(np.repeat(sure_N, 2), np.repeat(right_N, 2))
    assert metrics.ece(sure_N, right_N, np.full(500, 2)) == pytest.approx(twice)


def test_what_is_not_defined_is_nan() -> None:
    """No items, no positives, no negatives: no number is made up."""
    none = np.empty((0, 3))
    assert np.isnan(metrics.accuracy([]))
    assert np.isnan(metrics.balanced_accuracy(np.empty(0, int), np.empty(0, int), 3))
    assert np.isnan(metrics.auroc(none, np.empty(0, int)))
    scores_NC, labels_N = sample(0, num=20)
    assert np.isnan(metrics.auroc(scores_NC[:, :2], np.zeros(20, int)))
    assert np.isnan(metrics.average_precision(scores_NC, np.zeros((20, 4), bool)))
    assert np.isnan(metrics.accuracy(labels_N == 0, np.zeros(20)))
    only = np.zeros((20, 4), bool)
    only[:3, 0] = True  # the other labels are nobody's: they count in no mean
    assert metrics.auroc_multilabel(scores_NC, only) == pytest.approx(
        sk.roc_auc_score(only[:, 0], scores_NC[:, 0])
    )


def test_log_odds_keep_what_probabilities_round_off() -> None:
    """Scores of a model with a high temperature saturate; their order is still there."""
    scores_NC = np.array([[100.0, 0, 0], [200, 0, 0], [0, 100, 0], [5, 5, 5]])
    assert metrics.softmax(scores_NC)[0, 0] == metrics.softmax(scores_NC)[1, 0] == 1
    odds_NC = metrics.log_odds(scores_NC)
    assert odds_NC[1, 0] > odds_NC[0, 0] > odds_NC[3, 0] > odds_NC[2, 0]
    likely, _ = sample(1)
    chances_NC = metrics.softmax(likely)
    assert metrics.log_odds(likely) == pytest.approx(np.log(chances_NC / (1 - chances_NC)))


# Scores of a task


def test_scores_of_a_classification_task() -> None:
    """Each metric with its interval around it, and what guessing gives."""
    scores_NC, labels_N = sample(0, num=400, classes=7)
    found = metrics.classification_scores(scores_NC, labels_N, names(400), resamples=500)
    assert list(found) == [
        *("accuracy", "accuracy@5", "balanced_accuracy", "macro_f1", "auroc", "ece")
    ]
    chances = [found[name].chance for name in found]
    assert chances == [pytest.approx(1 / 7), pytest.approx(5 / 7), 1 / 7, None, 0.5, None]
    for name in list(found)[:-1]:
        score = found[name]
        assert score.low is not None and score.high is not None
        assert score.low < score.value < score.high < score.low + 0.2
    assert found["ece"].low is None
    assert found == metrics.classification_scores(scores_NC, labels_N, names(400), resamples=500)
    other = metrics.classification_scores(scores_NC, labels_N, names(400), resamples=500, seed=1)
    assert found["auroc"].low != other["auroc"].low


def test_options_of_each_item_are_no_classes() -> None:
    """Items with two and with four options: chance is the mean, and no metric is over columns."""
    scores_NC, labels_N = sample(0, num=100, classes=2)
    wide_NC = np.hstack([scores_NC, np.full((100, 2), -np.inf)])
    wide_NC[:50, 2:] = -9
    found = metrics.classification_scores(wide_NC, labels_N, names(100), options_differ=True)
    assert list(found) == ["accuracy", "ece"]
    assert found["accuracy"].chance == pytest.approx(0.375)


def test_scores_of_labels_of_answers_and_of_retrieval() -> None:
    """Multilabel, plain right or wrong, recall and median rank."""
    source = np.random.default_rng(0)
    scores_NC, labels_NC = source.random((300, 5)), source.random((300, 5)) < 0.3
    found = metrics.multilabel_scores(scores_NC, labels_NC, names(300), resamples=300)
    assert found["map"].chance == pytest.approx(labels_NC.mean())
    assert found["auroc"].value == pytest.approx(metrics.auroc_multilabel(scores_NC, labels_NC))
    right_N, classes_N = np.array([True, True, False, True] * 20), np.array([0, 0, 0, 1] * 20)
    answers = metrics.right_scores(right_N, names(80), 0.5, classes_N=classes_N)
    assert answers["accuracy"].value == 0.75
    assert answers["balanced_accuracy"].value == pytest.approx(5 / 6)
    ranks_Q = np.array([1, 2, 7, 30] * 10)
    recalls = metrics.recall_scores(ranks_Q, names(40), (1, 5, 10), gallery=50, num_right_Q=2)
    assert [each.value for each in recalls.values()] == [0.25, 0.5, 0.75]
    theirs = [1 - stats.hypergeom(50, 2, k).pmf(0) for k in (1, 5, 10)]
    assert [each.chance for each in recalls.values()] == pytest.approx(theirs)
    assert list(recalls) == ["image_to_text/1", "image_to_text/5", "image_to_text/10"]
    assert metrics.median_rank(ranks_Q, names(40)).value == 2
    with pytest.raises(EvaluationError, match="as many of each"):
        metrics.right_scores([True], ["a", "b"], None)


def test_degenerate_intervals() -> None:
    """One group: none. Right each time: Wilson's, as from so many groups, never [1, 1]."""
    alone = metrics.right_scores([True, False], ["a", "a"], None)["accuracy"]
    assert (alone.value, alone.low, alone.high) == (0.5, None, None)
    sure = metrics.right_scores([True] * 100, names(100), None)["accuracy"]
    assert (sure.low, sure.high) == (pytest.approx(0.963, abs=5e-4), 1.0)
    patients = metrics.right_scores([True] * 100, names(10) * 10, None)["accuracy"]
    assert patients.low == pytest.approx(1 / (1 + 1.96**2 / 10), abs=1e-3)
    scores_NC, labels_N = sample(0, num=60, classes=3)
    scores_NC += 100 * np.eye(3)[labels_N]
    found = metrics.classification_scores(scores_NC, labels_N, names(60))
    assert found["balanced_accuracy"].value == 1 and 0.9 < (found["balanced_accuracy"].low or 0) < 1
    assert (found["auroc"].low, found["macro_f1"].high) == (None, None)


# Resampling


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30))
def test_the_order_of_items_changes_nothing(seed: int, num_groups: int) -> None:
    """Not the value, not its interval: groups are known by name."""
    scores_NC, labels_N = sample(seed, num=60, classes=3)
    source = np.random.default_rng(seed)
    groups = [f"g{i}" for i in source.integers(0, num_groups, 60)]
    order = source.permutation(60)
    moved = metrics.classification_scores(
        scores_NC[order], labels_N[order], [groups[i] for i in order], resamples=50
    )
    for name, score in metrics.classification_scores(
        scores_NC, labels_N, groups, resamples=50
    ).items():
        for each in ("value", "low", "high"):
            assert getattr(moved[name], each) == pytest.approx(getattr(score, each), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_weights_are_repetitions(seed: int, ties: bool) -> None:
    """An item of weight 3 counts as three items, and one of weight 0 is not there."""
    scores_NC, labels_N = sample(seed, num=50, classes=3, ties=ties)
    times_N = np.random.default_rng(seed).integers(0, 4, 50)
    again = np.repeat(np.arange(50), times_N)
    hot_NC, sure_N = np.eye(3, dtype=bool)[labels_N], metrics.softmax(scores_NC).max(axis=1)
    predicted_N = scores_NC.argmax(axis=1)
    right_N = predicted_N == labels_N
    for metric, arguments in (
        (metrics.accuracy, (right_N,)),
        (metrics.auroc, (scores_NC, labels_N)),
        (metrics.auroc_multilabel, (scores_NC, hot_NC)),
        (metrics.average_precision, (scores_NC, hot_NC)),
        (metrics.ece, (sure_N, right_N)),
        (lambda p, y, w=None: metrics.balanced_accuracy(p, y, 3, w), (predicted_N, labels_N)),
        (lambda p, y, w=None: metrics.macro_f1(p, y, 3, w), (predicted_N, labels_N)),
    ):
        repeated = metric(*(each[again] for each in arguments))  # type: ignore[operator]
        assert metric(*arguments, times_N) == pytest.approx(repeated, nan_ok=True)  # type: ignore[operator]


def test_draws_are_multinomial_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many groups as there are, in each resample; the same however they are cut into parts."""
    drawn = intervals.draws(["b", "a", "b", "c"], resamples=3000, seed=1)
    assert drawn.group_of_N.tolist() == [1, 0, 1, 2]
    whole = np.hstack(list(drawn.counts()))
    assert whole.shape == (3, 3000) and (whole.sum(axis=0) == 3).all()
    assert whole.mean(axis=1) == pytest.approx(np.ones(3), abs=0.05)
    assert whole.var() == pytest.approx(2 / 3, abs=0.03)
    monkeypatch.setattr(intervals, "CELLS", 100)
    parts = list(drawn.counts())
    assert max(each.size for each in parts) <= 100
    assert (np.hstack(parts) == whole).all()


def test_limits_are_scipys() -> None:
    """BCa of scipy, but for the wider quantiles that few groups need."""
    values = np.random.default_rng(0).exponential(size=120)
    measure = measures.proportion(values, np.arange(120))
    drawn = intervals.draws(names(120), resamples=20_000)
    replicates = intervals.replicate({"": measure}, drawn)[""]
    skew = intervals.acceleration(intervals.jackknife({"": measure}, drawn, 120)[""])
    ours = intervals.limits(values.mean(), replicates, None, skew)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, rng=np.random.default_rng(1))
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)
    assert replicates.std() == pytest.approx(theirs.standard_error, rel=0.03)
    wider = intervals.interval(measure, drawn)
    assert wider.low is not None and wider.high is not None and ours is not None
    assert 1 < (wider.high - wider.low) / (ours[1] - ours[0]) < 1.05


def test_clusters_widen_intervals_as_theory_says() -> None:
    """By the square root of the design effect, 1 + (m - 1) rho (Kish 1965)."""
    source, num, size = np.random.default_rng(0), 400, 5
    for rho in (0.0, 0.3, 0.8):
        right_N = alike(source, num, size, 0.7, rho)
        by_group = np.repeat(names(num), size).tolist()
        widths = []
        for groups in (by_group, names(num * size)):
            score = metrics.right_scores(right_N, groups, None)["accuracy"]
            assert score.low is not None and score.high is not None
            widths.append(score.high - score.low)
        assert widths[0] / widths[1] == pytest.approx((1 + (size - 1) * rho) ** 0.5, rel=0.1)


# Two models


def two_models(seed: int, num: int = 300, better: float = 0.5) -> tuple[pa.Table, pa.Table]:
    """The first one's scores are those of the second and a little more of the truth, each with noise."""
    source = np.random.default_rng(seed)
    base_NC, labels_N = sample(seed, num=num, classes=3)
    tables_of = [
        classified(
            base_NC + source.normal(size=base_NC.shape) + more * np.eye(3)[labels_N], labels_N
        )
        for more in (better, 0.0)
    ]
    return tables_of[0], tables_of[1]


@pytest.mark.parametrize(
    "metric", ["accuracy", "accuracy@2", "balanced_accuracy", "macro_f1", "auroc"]
)
def test_paired_difference(metric: str) -> None:
    """Of the metrics of two tables, whatever their order; the interval is narrower than unpaired ones."""
    a, b = two_models(0)
    shuffled = b.take(np.random.default_rng(0).permutation(300))
    found = comparisons.compare_items(a, shuffled, metric, resamples=500, permutations=500)
    assert found.difference == pytest.approx(found.value_a - found.value_b)
    assert found.num_items == found.num_groups == 300
    assert found.low is not None and found.high is not None
    assert found.low < found.difference < found.high
    assert found.low > 0 or found.p > 0.01
    back = comparisons.compare_items(b, a, metric, resamples=500, permutations=500)
    assert back.difference == pytest.approx(-found.difference)
    assert back.p == pytest.approx(found.p, abs=0.03)
    value, replicates_R = tables.replicates(shuffled, metric, resamples=500)
    assert value == pytest.approx(found.value_b) and replicates_R.shape == (500,)
    assert found.high - found.low < 2 * 1.96 * 2**0.5 * replicates_R.std()
    same = comparisons.compare_items(a, a, metric, resamples=50, permutations=50)
    assert (same.difference, same.low, same.p) == (0, None, 1)


def test_tables_tell_what_metrics_do() -> None:
    """A metric of a table is the metric of its arrays."""
    scores_NC, labels_N = sample(3, classes=6)
    items = classified(scores_NC, labels_N)
    narrow = scores_NC.astype(np.float32)
    expected = {
        "accuracy": metrics.accuracy_at(narrow, labels_N, 1),
        "accuracy@5": metrics.accuracy_at(narrow, labels_N, 5),
        "balanced_accuracy": metrics.balanced_accuracy(narrow.argmax(axis=1), labels_N, 6),
        "macro_f1": metrics.macro_f1(narrow.argmax(axis=1), labels_N, 6),
        "auroc": metrics.auroc(narrow, labels_N),
    }
    for metric, value in expected.items():
        assert tables.replicates(items, metric, resamples=2)[0] == pytest.approx(value)
    labels_NC = np.random.default_rng(0).random((200, 6)) < 0.3
    lists = [np.flatnonzero(row).tolist() for row in labels_NC]
    many = table(labels=lists, scores=narrow.tolist())
    assert tables.replicates(many, "map", resamples=2)[0] == pytest.approx(
        metrics.average_precision(narrow, labels_NC)
    )
    assert tables.replicates(many, "auroc", resamples=2)[0] == pytest.approx(
        metrics.auroc_multilabel(narrow, labels_NC)
    )
    ranked = table(rank=[1, 2, 9], rank_back=[[1, 4], [1], [8, 9, 2]])
    assert tables.replicates(ranked, "image_to_text/5")[0] == pytest.approx(2 / 3)
    assert tables.replicates(ranked, "text_to_image/1")[0] == pytest.approx(2 / 6)
    with pytest.raises(EvaluationError, match="auroc needs 'label'"):
        tables.replicates(ranked, "auroc")
    with pytest.raises(EvaluationError, match="known are accuracy"):
        tables.replicates(ranked, "recall")


def test_only_the_same_items_are_compared() -> None:
    """Missing items, other groups, other labels and repeated items are refused, with how many."""
    a, b = two_models(0, num=20)
    with pytest.raises(EvaluationError, match="0 stand in the first table alone, 5 in the second"):
        comparisons.compare_items(a.slice(5), b, "accuracy")
    labels = b["label"].to_pylist()
    labels[7] = (labels[7] + 1) % 3
    other = b.set_column(b.schema.get_field_index("label"), "label", pa.array(labels, pa.int32()))
    with pytest.raises(EvaluationError, match=r"1 items have another label .* '000007'"):
        comparisons.compare_items(a, other, "accuracy")
    with pytest.raises(EvaluationError, match="stands twice"):
        comparisons.compare_items(a, pa.concat_tables([b, b.slice(3, 1)]), "accuracy")


def test_mcnemar_is_statsmodels() -> None:
    """Exact; the mid-p is half a step below it."""
    for only_a, only_b in ((0, 0), (0, 1), (3, 3), (2, 11), (40, 60)):
        theirs = their_mcnemar([[5, only_a], [only_b, 5]], exact=True).pvalue
        assert permutations.mcnemar(only_a, only_b) == pytest.approx(theirs)
        assert permutations.mcnemar(only_a, only_b, mid=True) <= theirs
    a, b = two_models(1)
    found = comparisons.compare_items(a, b, "accuracy", resamples=10)
    right_a, right_b = (np.array(each["is_right"]) for each in (a, b))
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    assert found.p == permutations.mcnemar(only_a, only_b, mid=True)
    random_p = permutations.share_as_far(found.null_P, found.seen)
    assert random_p == pytest.approx(permutations.mcnemar(only_a, only_b), abs=0.02)


def test_few_groups_are_permuted_in_all_ways() -> None:
    """Eight patients, one model better on each: 2 of 256 ways are as far; scipy's test says the same."""
    source = np.random.default_rng(0)
    groups = [f"p{i % 8}" for i in range(80)]
    labels_N = np.zeros(80, int)
    right_a, right_b = source.random(80) < 0.9, source.random(80) < 0.4
    a, b = (
        table(label=labels_N, predicted=1 - each.astype(int), is_right=each, group=groups)
        for each in (right_a, right_b)
    )
    found = comparisons.compare_items(a, b, "accuracy", resamples=10)
    differences_G = (right_a.astype(int) - right_b.astype(int)).reshape(10, 8).sum(axis=0)
    theirs = stats.permutation_test(
        (differences_G,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.test == "groups changed places in all 256 ways"
    many = comparisons.compare_items(a, b, "accuracy", resamples=10, permutations=200)
    assert many.test == "groups changed places in 200 random ways" and many.p >= 1 / 201
    one = a.set_column(a.schema.get_field_index("group"), "group", pa.array(["p"] * 80))
    alone = comparisons.compare_items(one, one, "accuracy")
    assert np.isnan(alone.p) and alone.low is None


def result(task: str, value: float, main: str = "accuracy") -> Result:
    """A result that has what a comparison reads."""
    return Result(
        model="m", task=task, protocol="zero_shot", split="test", kind="classification", main=main,
        specialty="", modality="", suites=[], title=task, num_items=1, num_groups=1,
        scores={main: metrics.Score(value=value)},
    )  # fmt: skip


def test_models_are_compared_over_tasks() -> None:
    """Task by task with Holm's p, and on average; tasks that one model lacks are named."""
    pairs = {f"t{i}": two_models(i, num=150, better=0.3) for i in range(5)}
    of = [{(name, "zero_shot"): result(name, 0) for name in pairs} for _ in range(2)]
    of[0][("alone", "zero_shot")] = result("alone", 0)
    tables_of = {
        id(each): pairs[cell[0]][i]
        for i in (0, 1)
        for cell, each in of[i].items()
        if cell[0] in pairs
    }
    found = comparisons.compare_models(*of, lambda each: tables_of[id(each)], resamples=400)
    raw = [each.p for each in found.tasks.values()]
    assert [each.adjusted for each in found.tasks.values()] == pytest.approx(
        multipletests(raw, method="holm")[1].tolist()
    )
    assert found.only_a == (("alone", "zero_shot"),) and found.only_b == ()
    assert found.mean is not None and found.mean.low is not None
    assert found.mean.value == pytest.approx(
        np.mean([each.difference for each in found.tasks.values()])
    )
    assert (found.p < 0.05) == (found.mean.low > 0)
    assert found.p < min(raw)
    of[1][("t0", "zero_shot")] = result("t0", 0, main="auroc")
    with pytest.raises(
        EvaluationError, match="t0 zero_shot: the first model is ranked by accuracy"
    ):
        comparisons.compare_models(*of, lambda each: tables_of[id(each)])
    assert comparisons.compare_models({}, {}, lambda each: pairs["t0"][0]).mean is None


def test_average_narrows_with_the_number_of_tasks() -> None:
    """By its square root, although one seed drew all of them; a task without resamples leaves no interval."""
    items = [classified(*sample(i, num=200)) for i in range(9)]
    values, replicates = zip(*(tables.replicates(each, "accuracy") for each in items), strict=True)
    one, nine = (
        comparisons.average(replicates[:1], values[:1]),
        comparisons.average(replicates, values),
    )
    assert nine.value == pytest.approx(np.mean(values))
    assert one.low is not None and one.high is not None
    assert nine.low is not None and nine.high is not None
    assert (one.high - one.low) / (nine.high - nine.low) == pytest.approx(3, rel=0.12)
    copies = comparisons.average([replicates[0]] * 9, [values[0]] * 9)
    assert copies.low is not None and copies.high is not None
    assert (one.high - one.low) / (copies.high - copies.low) == pytest.approx(3, rel=0.12)
    assert comparisons.average([replicates[0], np.empty(0)], [0.1, 0.3]).low is None
    with pytest.raises(EvaluationError):
        comparisons.average([], [])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    """NaN is no test."""
    theirs = multipletests(p_values, method="holm")[1]
    assert comparisons.holm(p_values) == pytest.approx(theirs)
    with_nan = comparisons.holm([np.nan, *p_values])
    assert np.isnan(with_nan[0]) and with_nan[1:] == pytest.approx(theirs)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.integers(0, 10_000), st.floats(0.1, 0.9))
def test_models_share_a_letter_if_they_cant_be_told_apart(
    num: int, seed: int, share: float
) -> None:
    """And only then; no letter is idle, and the best model has the first."""
    source = np.random.default_rng(seed)
    differ = np.triu(source.random((num, num)) < share, 1)
    values = source.random(num).tolist()
    letters = comparisons.tie_groups(values, np.where(differ | differ.T, 0.01, 0.5))
    for i in range(num):
        assert letters[i]
        for j in range(i):
            assert bool(set(letters[i]) & set(letters[j])) != bool(differ[j, i])
    assert letters[int(np.argmax(values))].startswith("a")


def test_tie_groups_of_real_tables() -> None:
    """Three models on a task: the worst one is told apart from the other two, which share a letter."""
    good, _ = two_models(0, better=1.5)
    alike_table, poor = two_models(0, better=1.45)
    p_MM = comparisons.p_of_pairs([good, alike_table, poor], "accuracy")
    assert p_MM == pytest.approx(p_MM.T) and (np.diag(p_MM) == 1).all()
    assert comparisons.tie_groups([0.9, 0.89, 0.6], p_MM) == ["a", "a", "b"]


def test_spread_over_templates() -> None:
    """Least, most and standard deviation."""
    found = comparisons.spread([0.5, 0.7, 0.6])
    assert (found.low, found.high, found.sd) == (0.5, 0.7, pytest.approx(0.1))
    assert comparisons.spread([0.5]).sd is None
    with pytest.raises(EvaluationError):
        comparisons.spread([])


# Simulations


def coverage(make: Make, truth: float, times: int = 500) -> float:
    """Share of simulated evaluations whose interval holds the truth."""
    source, held = np.random.default_rng(1), 0
    for seed in range(times):
        measure, groups = make(source)
        found = intervals.interval(measure, intervals.draws(groups, 800, seed))
        assert found.low is not None and found.high is not None
        held += found.low - 1e-9 <= truth <= found.high + 1e-9
    return held / times


def proportions(num: int, share: float) -> Make:
    """Independent items."""
    return lambda s: (measures.proportion(s.random(num) < share, np.arange(num)), names(num))


def clusters(num: int, size: int, share: float, rho: float) -> Make:
    """Groups whose items resemble each other."""
    groups, group_of_N = np.repeat(names(num), size).tolist(), np.repeat(np.arange(num), size)
    return lambda s: (measures.proportion(alike(s, num, size, share, rho), group_of_N), groups)


def recalls(num: int) -> Make:
    """Classes of different sizes with different recalls, 0.75 on average."""

    def make(source: np.random.Generator) -> tuple[measures.Measure, list[str]]:
        labels_N = source.choice(4, num, p=[0.4, 0.3, 0.2, 0.1])
        right_N = source.random(num) < np.array([0.9, 0.8, 0.7, 0.6])[labels_N]
        return measures.mean_recall(right_N, labels_N, 4, np.arange(num)), names(num)

    return make


def curves(num: int, positives: float, area: float) -> Make:
    """Normal scores."""
    apart = stats.norm.ppf(area) * 2**0.5

    def make(source: np.random.Generator) -> tuple[measures.Measure, list[str]]:
        is_positive_N = source.random(num) < positives
        score_N = source.normal(size=num) + apart * is_positive_N
        return measures.area(score_N, is_positive_N, np.arange(num)), names(num)

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "truth"),
    [
        pytest.param(proportions(100, 0.8), 0.8, id="accuracy 0.8 of 100"),
        pytest.param(proportions(300, 0.8), 0.8, id="accuracy 0.8 of 300"),
        pytest.param(proportions(1000, 0.8), 0.8, id="accuracy 0.8 of 1,000"),
        pytest.param(clusters(60, 5, 0.8, 0.3), 0.8, id="60 groups of 5 alike"),
        pytest.param(clusters(20, 5, 0.8, 0.3), 0.8, id="20 groups of 5 alike"),
        pytest.param(recalls(200), 0.75, id="balanced accuracy of 200"),
        pytest.param(recalls(1000), 0.75, id="balanced accuracy of 1,000"),
        pytest.param(curves(200, 0.5, 0.8), 0.8, id="ROC curve of 200"),
        pytest.param(curves(200, 0.5, 0.95), 0.95, id="steep ROC curve of 200"),
        pytest.param(curves(200, 0.1, 0.8), 0.8, id="ROC curve of 20 and 180"),
    ],
)
def test_intervals_cover(make: Make, truth: float) -> None:
    """95 % intervals hold the truth in 93 to 97 of 100 evaluations."""
    assert 0.93 <= coverage(make, truth) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("num", "share"), [(50, 0.8), (100, 0.95), (300, 0.95), (300, 0.98)])
def test_intervals_near_one_rather_hold_too_much(num: int, share: float) -> None:
    """Few wrong answers come in whole numbers: limits may be too wide, never too narrow."""
    assert 0.93 <= coverage(proportions(num, share), share) <= 0.995


@pytest.mark.slow
def test_intervals_of_differences_cover() -> None:
    """Of the accuracy of two models on the same items, which often err together."""
    held = 0
    for seed in range(500):
        source = np.random.default_rng(seed)
        hard_N = source.random(300)
        right = [(hard_N + source.normal(size=300) * 0.2) < share for share in (0.8, 0.75)]
        drawn = intervals.draws(names(300), 800, seed)
        a, b = (measures.proportion(each, drawn.group_of_N) for each in right)
        found = intervals.interval(measures.difference(a, b), drawn)
        assert found.low is not None and found.high is not None
        held += found.low <= _DIFFERENCE <= found.high
    assert 0.93 <= held / 500 <= 0.97


def _expected_difference() -> float:
    hard_N, grid = np.linspace(0, 1, 2001), stats.norm.cdf
    shares = [grid((share - hard_N) / 0.2).mean() for share in (0.8, 0.75)]
    return float(shares[0] - shares[1])


_DIFFERENCE = _expected_difference()


Models = Callable[
    [np.random.Generator, float], tuple[measures.Measure, measures.Measure, list[str]]
]


def answers(num: int, size: int, kind: str) -> Models:
    """Two models on groups of alike items; the first is better by so many standard deviations."""
    groups, group_of_N = np.repeat(names(num), size).tolist(), np.repeat(np.arange(num), size)

    def make(
        source: np.random.Generator, better: float
    ) -> tuple[measures.Measure, measures.Measure, list[str]]:
        labels_N = source.choice(3, num * size, p=[0.5, 0.3, 0.2])
        truth_NC = np.eye(3)[labels_N]
        of = []
        for more, scale in ((better, 30.0), (0.0, 1.0)):
            noise_NC = source.normal(size=truth_NC.shape)
            if size > 1:
                noise_NC += source.normal(size=(num, 3))[group_of_N]
            scores_NC = scale * ((1.3 + more) * truth_NC + noise_NC)
            predicted_N = scores_NC.argmax(axis=1)
            if kind == "accuracy":
                of.append(measures.proportion(predicted_N == labels_N, group_of_N))
            elif kind == "macro_f1":
                of.append(measures.mean_f1(predicted_N, labels_N, 3, group_of_N))
            elif kind == "map":
                of.append(metrics.precision_measure(scores_NC, truth_NC > 0, group_of_N))
            else:
                of.append(metrics.auroc_measure(scores_NC, labels_N, group_of_N))
        return of[0], of[1], groups

    return make


def alarms(make: Models, better: float, times: int) -> float:
    """Share of simulated comparisons whose p is at most 0.05."""
    source, found = np.random.default_rng(2), 0
    for seed in range(times):
        a, b, groups = make(source, better)
        test = permutations.paired_test(a, b, intervals.draws(groups, 0, seed), 500)
        found += test.p <= 0.05
    return found / times


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(answers(300, 1, "accuracy"), id="McNemar"),
        pytest.param(answers(60, 5, "accuracy"), id="accuracy of 60 groups of 5"),
        pytest.param(answers(150, 1, "macro_f1"), id="macro F1"),
        pytest.param(answers(40, 5, "macro_f1"), id="macro F1 of 40 groups of 5"),
        pytest.param(answers(150, 1, "auroc"), id="ROC curve, scores of different scale"),
        pytest.param(answers(40, 5, "auroc"), id="ROC curve of 40 groups of 5"),
        pytest.param(answers(120, 1, "map"), id="mAP"),
    ],
)
def test_false_alarms_are_as_many_as_stated(make: Models) -> None:
    """Of equally good models 5 in 100 differ, within the error of that many simulations; power grows."""
    times = 800
    low, high = stats.binom(times, 0.05).ppf([0.005, 0.995]) / times
    assert low <= alarms(make, 0.0, times) <= high
    weak, strong = (alarms(make, better, 60) for better in (0.3, 1.2))
    assert 0.08 < weak < strong
    assert strong > 0.85
