"""What the answers to single items tell: who is taken for whom, what confidence is worth, how far one has to look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from biomedica.evaluate.intervals import wilson
from biomedica.evaluate.metrics import BINS, auroc_multilabel, average_precision
from biomedica.evaluate.results import Result

MOST_CLASSES = 20
"""That a matrix shows."""
_CONFUSIONS = 12
"""Shown where there are too many classes for a matrix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """How many items of one class are found."""

    name: str
    num_items: int
    num_right: int
    low: float
    """Of Wilson's 95 % interval, each group taken as one trial."""
    high: float

    @property
    def value(self) -> float:
        """Share that is found."""
        return self.num_right / self.num_items


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRow:
    """Items of one right class."""

    name: str
    total: int
    cells: list[tuple[int, float, bool]]
    """(items, share of the row, whether this is the right class) of each predicted class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Items by right and predicted class."""

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    """Row: the right class."""

    @property
    def rows(self) -> list[MatrixRow]:
        """With shares."""
        return [
            MatrixRow(
                name=name,
                total=sum(row),
                cells=[(n, n / sum(row) if n else 0.0, place == i) for i, n in enumerate(row)],
            )
            for place, (name, row) in enumerate(zip(self.names, self.counts, strict=True))
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence:
    """Items by confidence, in bins of equal width."""

    count: int
    mean: float
    """Confidence."""
    right: float
    """Share of the items that are right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One label of a multilabel task, by itself."""

    name: str
    num_items: int
    precision: float
    auroc: float


def matrix_of(result: Result, items: pa.Table) -> Matrix | None:
    """None for what has no one answer, and for more than `MOST_CLASSES` answers."""
    if result.confusion:
        if len(result.confusion) > MOST_CLASSES:
            return None
        return Matrix(
            names=tuple(result.classes), counts=tuple(tuple(row) for row in result.confusion)
        )
    pairs = _pairs(items)
    names = sorted({name for pair in pairs for name in pair})
    if not 2 <= len(names) <= MOST_CLASSES:
        return None
    return Matrix(
        names=tuple(names), counts=tuple(tuple(pairs[a, b] for b in names) for a in names)
    )


def _pairs(items: pa.Table) -> Counter[tuple[str, str]]:
    """Items by right and predicted answer in words; without those that have none."""
    both = zip(items["answer"].to_pylist(), items["predicted_text"].to_pylist(), strict=True)
    return Counter((a, b) for a, b in both if a is not None and b is not None)


def confusions_of(items: pa.Table) -> list[tuple[str, str, int]]:
    """(right, predicted, items) of the most frequent mistakes."""
    wrong = [(a, b, n) for (a, b), n in _pairs(items).items() if a != b]
    return sorted(wrong, key=lambda each: (-each[2], each[:2]))[:_CONFUSIONS]


def recalls_of(items: pa.Table, classes: Sequence[str] = ()) -> list[Recall]:
    """Of each right answer, by its words; empty where items have several, or more than `MOST_CLASSES` stand.

    classes   come first, in this order
    """
    if items["is_right"].null_count or items["predicted_text"].null_count:
        return []
    columns = [items[name].to_pylist() for name in ("answer", "is_right", "group")]
    rows: dict[str, list[tuple[bool, str]]] = {}
    for answer, is_right, group in zip(*columns, strict=True):
        if answer is not None:
            rows.setdefault(answer, []).append((is_right, group))
    if not 2 <= len(rows) <= MOST_CLASSES:
        return []
    place = {name: index for index, name in enumerate(classes)}
    names = sorted(rows, key=lambda name: (place.get(name, len(place)), name))
    return [_recall(name, rows[name]) for name in names]


def _recall(name: str, rows: Sequence[tuple[bool, str]]) -> Recall:
    num_right = sum(is_right for is_right, _ in rows)
    low, high = wilson(num_right / len(rows), len({group for _, group in rows}))
    return Recall(name=name, num_items=len(rows), num_right=num_right, low=low, high=high)


def calibration_of(items: pa.Table) -> list[Confidence]:
    """By the bins that the calibration error is made of; empty where answers have no confidence."""
    if items["confidence"].null_count or items["is_right"].null_count or not len(items):
        return []
    confidence_N = items["confidence"].to_numpy().astype(np.float64)
    right_N = items["is_right"].to_numpy(zero_copy_only=False)
    bin_N = np.clip(np.ceil(confidence_N * BINS).astype(np.int64) - 1, 0, BINS - 1)
    found = []
    for index in range(BINS):
        chosen = bin_N == index
        if chosen.any():
            found.append(
                Confidence(
                    count=int(chosen.sum()),
                    mean=float(confidence_N[chosen].mean()),
                    right=float(right_N[chosen].mean()),
                )
            )
    return found


def labels_of(result: Result, items: pa.Table) -> list[Label]:
    """Of a multilabel task, in the order of its classes; without labels that all items have or none has."""
    if result.kind != "multilabel":
        return []
    scores_NC = np.array(items["scores"].to_pylist(), dtype=np.float64)
    right_NC = np.zeros(scores_NC.shape, dtype=np.bool_)
    for row, some in enumerate(items["labels"].to_pylist()):
        right_NC[row, some] = True
    return [
        Label(
            name=name,
            num_items=int(right_NC[:, index].sum()),
            precision=average_precision(*_column(scores_NC, right_NC, index)),
            auroc=auroc_multilabel(*_column(scores_NC, right_NC, index)),
        )
        for index, name in enumerate(result.classes)
        if 0 < right_NC[:, index].sum() < len(items)
    ]


def _column(
    scores_NC: NDArray[Any], right_NC: NDArray[np.bool_], index: int
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    return scores_NC[:, index : index + 1], right_NC[:, index : index + 1]


def recall_curves(items: pa.Table) -> dict[str, list[tuple[int, float]]]:
    """(k, recall at k) by direction, at every k where a curve on a logarithmic axis can be seen to turn."""
    found = {}
    for name, column in (("image_to_text", "rank"), ("text_to_image", "rank_back")):
        values = items[column].combine_chunks()
        flat = values.flatten() if pa.types.is_list(values.type) else values
        ranks = np.sort(flat.drop_null().to_numpy())
        if len(ranks):
            found[name] = [
                (k, float(np.searchsorted(ranks, k, "right") / len(ranks)))
                for k in _steps(max(10, int(ranks[-1])))
            ]
    return found


def _steps(last: int) -> list[int]:
    """1 to last, eight or so a decade."""
    steps = sorted({round(10 ** (n / 8)) for n in range(int(8 * np.log10(last)) + 1)})
    return [*steps, last] if steps[-1] < last else steps


def worst(items: pa.Table, count: int) -> list[dict[str, Any]]:
    """Rows of the items that are wrong with the highest confidence; or, where it is retrieval, have the last ranks."""
    if not items["rank"].null_count:
        rows = items.to_pylist()
        rows = [row for row in rows if row["rank"] > 1]
        return sorted(rows, key=lambda row: (-row["rank"], row["item"]))[:count]
    if items["is_right"].null_count or items["confidence"].null_count:
        return []
    wrong = items.filter(np.logical_not(items["is_right"].to_numpy(zero_copy_only=False)))
    wrong = wrong.drop_columns(["scores"])
    rows = wrong.to_pylist()
    return sorted(rows, key=lambda row: (-row["confidence"], row["item"]))[:count]
