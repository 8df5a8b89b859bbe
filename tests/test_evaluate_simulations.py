"""In simulations intervals cover, and tests err, as often as they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from biomedica.evaluate import intervals, measures, metrics, permutations
from model_answers import alike, names

Make = Callable[[np.random.Generator], tuple[measures.Measure, list[str]]]


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
