"""Metrics from a table of items, as a run leaves it beside each result."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from biomedica.errors import EvaluationError
from biomedica.evaluate import measures
from biomedica.evaluate.intervals import RESAMPLES, Draws, draws, full_value, replicate
from biomedica.evaluate.measures import Bools, Indices, Measure, Reals
from biomedica.evaluate.metrics import (
    auroc_measure,
    auroc_multilabel_measure,
    precision_measure,
    rank_of_label,
)

KNOWN = (
    "accuracy",
    "accuracy@k",
    "balanced_accuracy",
    "macro_f1",
    "auroc",
    "map",
    "image_to_text/k",
    "text_to_image/k",
)
"""Metrics that a table of items tells."""


def replicates(
    items: pa.Table, metric: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, Reals]:
    """(the metric, its value in each resample of the groups); no resamples where there is one group."""
    items = items.sort_by("item")
    drawn = draws(items["group"].to_pylist(), resamples, seed)
    measure = measure_of(items, metric, drawn.group_of_N)
    value = full_value(measure, drawn.num_groups)
    several = drawn if drawn.num_groups > 1 else Draws(drawn.group_of_N, 1, 0, seed)
    return value, replicate({"": measure}, several)[""]


def measure_of(
    items: pa.Table, metric: str, group_of_N: Indices, num_predicted: int = 0
) -> Measure:
    """A metric of a table as `results.ITEMS`. Raises `EvaluationError` for what the table does not tell.

    num_predicted   classes that some model predicts, where the measure is to be beside that model's
    """
    name, k = _split(metric)
    if name == "accuracy":
        return measures.proportion(_column(items, "is_right", metric), group_of_N)
    if name == "accuracy@":
        return measures.proportion(_rank_of_label(items, metric) <= k, group_of_N)
    if name == "image_to_text/":
        return measures.proportion(_column(items, "rank", metric) <= k, group_of_N)
    if name == "text_to_image/":
        return _text_to_image(items, metric, k, group_of_N)
    if name == "map" or (name == "auroc" and not items["labels"].null_count):
        scores_NC = _scores(items, metric)
        labels_NC = _labels(items, metric, scores_NC.shape[1])
        of = precision_measure if name == "map" else auroc_multilabel_measure
        return of(scores_NC, labels_NC, group_of_N)
    labels_N = _column(items, "label", metric)
    if name == "auroc":
        return auroc_measure(_scores(items, metric), labels_N, group_of_N)
    if name == "balanced_accuracy":
        right_N = _column(items, "is_right", metric)
        classes_N = labels_N if items["class"].null_count else _column(items, "class", metric)
        return measures.mean_recall(right_N, classes_N, int(classes_N.max()) + 1, group_of_N)
    predicted_N = _column(items, "predicted", metric)
    num_classes = 1 + max(int(labels_N.max()), int(predicted_N.max()), num_predicted - 1)
    return measures.mean_f1(predicted_N, labels_N, num_classes, group_of_N)


def _split(metric: str) -> tuple[str, int]:
    """(name, k).

    >>> _split("image_to_text/10"), _split("map")
    (('image_to_text/', 10), ('map', 0))
    """
    found = re.fullmatch(r"(accuracy@|image_to_text/|text_to_image/)([1-9][0-9]*)", metric)
    if found:
        return found[1], int(found[2])
    if metric not in KNOWN or metric.endswith("k"):
        raise EvaluationError(
            f"{metric!r} can't be had from a table of items; known are {', '.join(KNOWN)}"
        )
    return metric, 0


def _column(items: pa.Table, name: str, metric: str) -> NDArray[Any]:
    column = items[name]
    if column.null_count:
        raise EvaluationError(
            f"{metric} needs {name!r}, which {column.null_count:,} of {len(items):,} items have not"
        )
    return np.asarray(column.to_numpy())


def _lists(items: pa.Table, name: str, metric: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """(values of all lists, length of each)."""
    column = items[name]
    if column.null_count:
        raise EvaluationError(
            f"{metric} needs {name!r}, which {column.null_count:,} of {len(items):,} items have not"
        )
    lengths_N = pc.list_value_length(column).to_numpy().astype(np.int64)
    return np.asarray(pc.list_flatten(column).to_numpy()), lengths_N


def _scores(items: pa.Table, metric: str) -> NDArray[Any]:
    """(N, C); -inf where an item has fewer options than others."""
    values, lengths_N = _lists(items, "scores", metric)
    scores_NC = np.full((len(items), int(lengths_N.max())), -np.inf)
    scores_NC[np.arange(scores_NC.shape[1]) < lengths_N[:, None]] = values
    return scores_NC


def _labels(items: pa.Table, metric: str, num_classes: int) -> Bools:
    values, lengths_N = _lists(items, "labels", metric)
    labels_NC = np.zeros((len(items), num_classes), dtype=np.bool_)
    labels_NC[np.repeat(np.arange(len(items)), lengths_N), values.astype(np.int64)] = True
    return labels_NC


def _rank_of_label(items: pa.Table, metric: str) -> NDArray[np.int64]:
    return rank_of_label(_scores(items, metric), _column(items, "label", metric))


def _text_to_image(items: pa.Table, metric: str, k: int, group_of_N: Indices) -> Measure:
    """Share of the captions, all of one picture in its group, that find it among the first k."""
    values, lengths_N = _lists(items, "rank_back", metric)
    item_Q = np.repeat(np.arange(len(items)), lengths_N)
    found_N = np.bincount(item_Q, weights=values <= k, minlength=len(items))
    return measures.proportion(found_N, group_of_N, of_N=lengths_N)
