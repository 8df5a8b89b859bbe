"""Metrics of classification, multilabel, options and retrieval, each with its interval and what guessing gives.

Each metric takes weights_N, how often an item counts (None: once). A metric that is not defined, as the
recall of no items, is NaN; a class in which it is not defined is left out of a mean over classes.

Shapes: N items, C classes or options. scores_NC are logits: their softmax is the model's probability. Where
a number of one class is compared over items, as for a ROC curve, it is the log-odds of that class, so that
scores which are right only beside the scores of the other classes are used as they are meant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biomedica.errors import EvaluationError
from biomedica.evaluate import measures
from biomedica.evaluate.intervals import RESAMPLES, Interval, draws, intervals
from biomedica.evaluate.measures import Bools, Indices, Measure, Reals
from biomedica.evaluate.results import Score

BINS = 15
"""Of the expected calibration error, as in Guo et al. 2017."""
Floats = NDArray[np.floating[Any]]


def accuracy(right_N: ArrayLike, weights_N: ArrayLike | None = None) -> float:
    """Share of the items that are right."""
    right = np.asarray(right_N, dtype=np.float64)
    return _value(measures.proportion(right, np.arange(len(right))), len(right), weights_N)


def accuracy_at(
    scores_NC: Floats, labels_N: Indices, k: int, weights_N: ArrayLike | None = None
) -> float:
    """Share of the items whose class is among the k best; of equal scores the first class goes first."""
    return accuracy(rank_of_label(scores_NC, labels_N) <= k, weights_N)


def balanced_accuracy(
    predicted_N: Indices, labels_N: Indices, num_classes: int, weights_N: ArrayLike | None = None
) -> float:
    """Mean recall over the classes that have items."""
    each = np.arange(len(labels_N))
    right_N = np.asarray(predicted_N == labels_N)
    return _value(measures.mean_recall(right_N, labels_N, num_classes, each), len(each), weights_N)


def macro_f1(
    predicted_N: Indices, labels_N: Indices, num_classes: int, weights_N: ArrayLike | None = None
) -> float:
    """Mean F1 over the classes that have items or predictions."""
    each = np.arange(len(labels_N))
    return _value(measures.mean_f1(predicted_N, labels_N, num_classes, each), len(each), weights_N)


def auroc(scores_NC: Floats, labels_N: Indices, weights_N: ArrayLike | None = None) -> float:
    """Area under the ROC curve: of class 1 where there are two, else the mean of one against the rest.

    Only classes with items and others without count.
    """
    measure = auroc_measure(scores_NC, labels_N, np.arange(len(labels_N)))
    return _value(measure, len(labels_N), weights_N)


def auroc_multilabel(
    scores_NC: Floats, labels_NC: Bools, weights_N: ArrayLike | None = None
) -> float:
    """Mean area under the ROC curve over the labels that some items have and some do not."""
    measure = auroc_multilabel_measure(scores_NC, labels_NC, np.arange(len(labels_NC)))
    return _value(measure, len(labels_NC), weights_N)


def average_precision(
    scores_NC: Floats, labels_NC: Bools, weights_N: ArrayLike | None = None
) -> float:
    """Mean average precision over the labels that some items have.

    Of a label: sum over thresholds of the gain in recall times precision, without interpolation; equal
    scores are one threshold.
    """
    measure = precision_measure(scores_NC, labels_NC, np.arange(len(labels_NC)))
    return _value(measure, len(labels_NC), weights_N)


def ece(
    confidence_N: Floats, right_N: Bools, weights_N: ArrayLike | None = None, bins: int = BINS
) -> float:
    """Expected calibration error, 0 to 1: how far confidence is from accuracy, by bins of confidence.

    Guo, Pleiss, Sun & Weinberger 2017, "On calibration of modern neural networks" (ICML). Even a perfectly
    calibrated model has more than 0 on few items.
    """
    each = np.arange(len(right_N))
    return _value(
        measures.calibration_error(confidence_N, right_N, bins, each), len(each), weights_N
    )


def auroc_measure(scores_NC: Floats, labels_N: Indices, group_of_N: Indices) -> Measure:
    """`auroc` as a function of the counts of the groups."""
    odds_NC, num_classes = log_odds(scores_NC), scores_NC.shape[1]
    classes = [1] if num_classes == 2 else range(num_classes)
    return measures.mean_of(
        [measures.area(odds_NC[:, c], labels_N == c, group_of_N) for c in classes]
    )


def auroc_multilabel_measure(scores_NC: Floats, labels_NC: Bools, group_of_N: Indices) -> Measure:
    """`auroc_multilabel` as a function of the counts of the groups."""
    classes = range(scores_NC.shape[1])
    return measures.mean_of(
        [measures.area(scores_NC[:, c], labels_NC[:, c], group_of_N) for c in classes]
    )


def precision_measure(scores_NC: Floats, labels_NC: Bools, group_of_N: Indices) -> Measure:
    """`average_precision` as a function of the counts of the groups."""
    classes = range(scores_NC.shape[1])
    return measures.mean_of(
        [measures.precision(scores_NC[:, c], labels_NC[:, c], group_of_N) for c in classes]
    )


def _value(measure: Measure, num_items: int, weights_N: ArrayLike | None) -> float:
    if not num_items:
        return float("nan")
    weights = np.ones(num_items) if weights_N is None else np.asarray(weights_N, dtype=np.float64)
    assert weights.shape == (num_items,) and (weights >= 0).all(), (
        "weights: one an item, none below 0"
    )
    return float(measure(weights[:, None])[0])


def softmax(scores_NC: Floats) -> Reals:
    """Probabilities; a score of -inf has none."""
    shifted_NC = scores_NC.astype(np.float64) - scores_NC.max(axis=1, keepdims=True)
    odds_NC = np.exp(shifted_NC)
    return np.asarray(odds_NC / odds_NC.sum(axis=1, keepdims=True))


def log_odds(scores_NC: Floats) -> Reals:
    """Of each class, the logarithm of p / (1 - p); in the order of p, but without its rounding to 0 and 1."""
    scores = scores_NC.astype(np.float64)
    best_N1 = scores.argmax(axis=1)[:, None]
    top_N1 = np.take_along_axis(scores, best_N1, axis=1)
    odds_NC = np.exp(scores - top_N1)
    with np.errstate(divide="ignore"):
        found_NC = scores - top_N1 - np.log(odds_NC.sum(axis=1, keepdims=True) - odds_NC)
        # the best may be all of the sum: over the others by themselves
        np.put_along_axis(scores, best_N1, -np.inf, axis=1)
        next_N1 = scores.max(axis=1, keepdims=True)
        from_N1 = np.where(np.isfinite(next_N1), next_N1, 0.0)  # -inf: the others have no share
        rest_N1 = from_N1 + np.log(np.exp(scores - from_N1).sum(axis=1, keepdims=True))
    np.put_along_axis(found_NC, best_N1, top_N1 - rest_N1, axis=1)
    return np.asarray(found_NC)


def rank_of_label(scores_NC: Floats, labels_N: Indices) -> NDArray[np.int64]:
    """Place of the right class by score, from 1; of equal scores the first class goes first, as in argmax."""
    own_N1 = scores_NC[np.arange(len(labels_N)), labels_N][:, None]
    before_NC = np.arange(scores_NC.shape[1]) < np.asarray(labels_N)[:, None]
    ahead_NC = (scores_NC > own_N1) | ((scores_NC == own_N1) & before_NC)
    return np.asarray(1 + ahead_NC.sum(axis=1), dtype=np.int64)


def score_of(found: Interval, chance: float | None = None) -> Score:
    """A metric with its limits, as results hold it."""
    return Score(value=found.value, low=found.low, high=found.high, chance=chance)


def _scores(
    named: Mapping[str, tuple[Measure, float | None]],
    groups: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, Score]:
    """Of each metric that is defined, in order."""
    found = intervals({k: each for k, (each, _) in named.items()}, draws(groups, resamples, seed))
    known = {name: each for name, each in found.items() if not np.isnan(each.value)}
    return {name: score_of(each, named[name][1]) for name, each in known.items()}


def classification_scores(
    scores_NC: Floats,
    labels_N: Indices,
    groups: Sequence[str],
    *,
    options_differ: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Score]:
    """All metrics of a task with one right class for each item, with intervals; what is undefined is absent.

    `ece` has no interval: it is above the truth on few items, most so for a model that is well calibrated,
    and resampling shows only some of that.

    options_differ   each item has its own options, so that a column means nothing by itself: metrics over
                     classes are left out. A score of -inf stands for an option that an item has not
    """
    _check(scores_NC, labels_N, groups)
    group_of_N, num_classes = draws(groups).group_of_N, scores_NC.shape[1]
    rank_N = rank_of_label(scores_NC, labels_N)
    predicted_N = scores_NC.argmax(axis=1)
    confidence_N = softmax(scores_NC)[np.arange(len(labels_N)), predicted_N]
    num_options_N = np.full(len(labels_N), num_classes)
    if options_differ:
        num_options_N = np.isfinite(scores_NC).sum(axis=1)
    named: dict[str, tuple[Measure, float | None]] = {
        "accuracy": (
            measures.proportion(rank_N == 1, group_of_N),
            float(np.mean(1 / num_options_N)),
        )
    }
    if num_classes > 5:
        chance = float(np.minimum(1, 5 / num_options_N).mean())
        named["accuracy@5"] = measures.proportion(rank_N <= 5, group_of_N), chance
    if not options_differ:
        named |= _over_classes(predicted_N, scores_NC, labels_N, group_of_N)
    found = _scores(named, groups, resamples, seed)
    return found | {"ece": Score(value=ece(confidence_N, rank_N == 1))}


def _over_classes(
    predicted_N: Indices, logits_NC: Floats, labels_N: Indices, group_of_N: Indices
) -> dict[str, tuple[Measure, float | None]]:
    """Metrics that are means over classes, with what guessing gives."""
    num_classes = logits_NC.shape[1]
    recall = measures.mean_recall(predicted_N == labels_N, labels_N, num_classes, group_of_N)
    return {
        "balanced_accuracy": (recall, 1 / num_classes),
        "macro_f1": (measures.mean_f1(predicted_N, labels_N, num_classes, group_of_N), None),
        "auroc": (auroc_measure(logits_NC, labels_N, group_of_N), 0.5),
    }


def multilabel_scores(
    scores_NC: Floats,
    labels_NC: Bools,
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Score]:
    """`map` and `auroc` of a task with any number of right classes for each item, with intervals.

    Each column of scores_NC is ranked by itself. Chance of `map` is the mean share of the items that have a
    label, over labels that some have.
    """
    _check(scores_NC, labels_NC, groups)
    group_of_N = draws(groups).group_of_N
    share_C = labels_NC.mean(axis=0)
    chance = float(share_C[share_C > 0].mean()) if (share_C > 0).any() else None
    named: dict[str, tuple[Measure, float | None]] = {
        "map": (precision_measure(scores_NC, labels_NC, group_of_N), chance),
        "auroc": (auroc_multilabel_measure(scores_NC, labels_NC, group_of_N), 0.5),
    }
    return _scores(named, groups, resamples, seed)


def right_scores(
    right_N: ArrayLike,
    groups: Sequence[str],
    chance: float | None,
    *,
    classes_N: Indices | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Score]:
    """`accuracy` of items that are right or wrong; with classes_N `balanced_accuracy` over these too."""
    right = np.asarray(right_N, dtype=np.bool_)
    _check(right, right if classes_N is None else classes_N, groups)
    group_of_N = draws(groups).group_of_N
    named: dict[str, tuple[Measure, float | None]] = {
        "accuracy": (measures.proportion(right, group_of_N), chance)
    }
    if classes_N is not None:
        recall = measures.mean_recall(right, classes_N, int(classes_N.max()) + 1, group_of_N)
        named["balanced_accuracy"] = recall, chance
    return _scores(named, groups, resamples, seed)


def recall_scores(
    rank_of_query_Q: Indices,
    groups: Sequence[str],
    ks: Sequence[int] = (1, 5, 10, 100),
    *,
    name: str = "image_to_text",
    gallery: int | None = None,
    num_right_Q: ArrayLike = 1,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Score]:
    """Recall@k as `name/k`: share of the queries with a right answer among the first k, with intervals.

    rank_of_query_Q  place of each query's best right answer, from 1
    groups           of each query
    gallery          number of things that are ranked; None: what guessing gives is not known
    num_right_Q      how many of them are right for a query
    """
    _check(rank_of_query_Q, rank_of_query_Q, groups)
    group_of_Q = draws(groups).group_of_N
    num_right = np.broadcast_to(np.asarray(num_right_Q), rank_of_query_Q.shape)
    named: dict[str, tuple[Measure, float | None]] = {}
    for k in ks:
        chance = None if gallery is None else _chance_of_recall(k, gallery, num_right)
        named[f"{name}/{k}"] = measures.proportion(rank_of_query_Q <= k, group_of_Q), chance
    return _scores(named, groups, resamples, seed)


def _chance_of_recall(k: int, gallery: int, num_right_Q: NDArray[Any]) -> float:
    """Mean chance that k of the gallery, at random, hold one that is right."""
    found = 0.0
    for num_right, num_queries in zip(*np.unique(num_right_Q, return_counts=True), strict=True):
        i = np.arange(num_right)
        missed = np.prod(np.clip((gallery - k - i) / np.maximum(gallery - i, 1), 0, 1))
        found += (1 - float(missed)) * num_queries
    return float(found / len(num_right_Q))


def median_rank(
    rank_of_query_Q: Indices, groups: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> Score:
    """The lower median of the ranks, with its interval."""
    _check(rank_of_query_Q, rank_of_query_Q, groups)
    measure = measures.median(rank_of_query_Q, draws(groups).group_of_N)
    return _scores({"median_rank": (measure, None)}, groups, resamples, seed)["median_rank"]


def _check(values: NDArray[Any], labels: NDArray[Any], groups: Sequence[str]) -> None:
    """Raises `EvaluationError` for no items, and for lists of different lengths."""
    if not len(groups) or not len(values) == len(labels) == len(groups):
        raise EvaluationError(
            f"{len(values)} scores, {len(labels)} labels and {len(groups)} groups; as many of each are needed, "
            "one or more"
        )
