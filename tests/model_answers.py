"""Answers of made-up models, and the tables of items that they leave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from biomedica.evaluate.results import ITEMS

Floats = NDArray[np.float64]


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
