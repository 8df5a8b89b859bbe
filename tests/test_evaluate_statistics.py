"""Metrics against scikit-learn, resampling against scipy and theory."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from biomedica.errors import EvaluationError
from biomedica.evaluate import intervals, measures, metrics
from model_answers import alike, names, sample

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
