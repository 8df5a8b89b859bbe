"""Runs of an evaluation as they would stand on disk: answers drawn at random, scored by the project's own metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from biomedica.evaluate import metrics
from biomedica.evaluate.items import Items
from biomedica.evaluate.results import ITEMS, Protocol, Result, Score, write_result
from biomedica.shards import write_json

RESAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A task to make results of."""

    name: str = "cells"
    title: str = "Cells of the blood"
    specialty: str = "pathology"
    modality: str = "light microscopy"
    kind: str = "classification"
    classes: tuple[str, ...] = ("eosinophil", "lymphocyte", "monocyte", "neutrophil")
    num_items: int = 160
    items_a_group: int = 1
    group: str = ""
    seed: int = 0

    @property
    def ids(self) -> list[str]:
        return [f"{self.name}-{index:05d}" for index in range(self.num_items)]

    @property
    def groups(self) -> list[str]:
        if self.items_a_group == 1:
            return self.ids
        return [f"{self.group} {index // self.items_a_group}" for index in range(self.num_items)]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Classes of unequal size, each with some items."""
        weights = 1.0 / np.arange(1, len(self.classes) + 1)
        random = np.random.default_rng([self.seed, len(self.name)])
        labels = random.choice(len(self.classes), self.num_items, p=weights / weights.sum())
        labels[: len(self.classes)] = np.arange(len(self.classes))
        return labels.astype(np.int64)


def _random(model: str, asked: Asked, protocol: str) -> np.random.Generator:
    words = f"{model} {asked.name} {protocol}".encode()
    return np.random.default_rng(list(hashlib.sha256(words).digest()[:8]))


def _scores(model: str, asked: Asked, protocol: str, skill: float) -> NDArray[np.float32]:
    """Log-odds; what makes an item hard is the same for all models."""
    shape = (asked.num_items, len(asked.classes))
    hard = np.random.default_rng(asked.seed).normal(0, 1, shape)
    scores = 0.8 * hard + 0.7 * _random(model, asked, protocol).normal(0, 1, shape)
    scores[np.arange(asked.num_items), asked.labels] += skill
    return (1.7 * scores).astype(np.float32)


def _rows(asked: Asked) -> list[dict[str, Any]]:
    return [
        {"item": item, "place": f"{asked.name}.npz, row {n}", "picture": item, "group": group}
        for n, (item, group) in enumerate(zip(asked.ids, asked.groups, strict=True))
    ]


def _result(model: str, asked: Asked, protocol: Protocol, **changes: Any) -> Result:
    digest = hashlib.sha256(model.encode()).hexdigest()
    usual: dict[str, Any] = {
        "model": model,
        "task": asked.name,
        "protocol": protocol,
        "split": "test",
        "kind": asked.kind,
        "specialty": asked.specialty,
        "modality": asked.modality,
        "suites": ["made"],
        "title": asked.title,
        "num_items": asked.num_items,
        "num_groups": len(set(asked.groups)),
        "group": asked.group,
        "classes": list(asked.classes),
        "encoder": {
            "name": f"open_clip:{model},pretrained=made",
            "digest": digest,
            "dims": 512,
            "preprocessing": {"size": 224, "fit": "crop"},
        },
        "data": {
            "ids_sha256": hashlib.sha256("\n".join(asked.ids).encode()).hexdigest(),
            "licence": "CC BY 4.0",
        },
        "task_digest": hashlib.sha256(repr(asked).encode()).hexdigest(),
        "software": {"biomedica": "0.1.0", "numpy": "2.3.0", "torch": "2.9.0"},
        "made": "2026-11-20T10:00:00+00:00",
    }
    return Result(**(usual | changes))


def write_classes(
    run: Path,
    model: str,
    asked: Asked,
    skill: float,
    protocol: Protocol = "zero_shot",
    main: str = "accuracy",
    **changes: Any,
) -> Path:
    """One result of a task with classes; `options` too, where each item has the same."""
    scores_NC = _scores(model, asked, protocol, skill)
    labels_N, predicted_N = asked.labels, scores_NC.argmax(axis=1)
    shares = metrics.softmax(scores_NC)
    scores = metrics.classification_scores(
        scores_NC,
        labels_N,
        asked.groups,
        options_differ=asked.kind == "options",
        resamples=RESAMPLES,
    )
    rows = _rows(asked)
    for n, row in enumerate(rows):
        label, predicted = int(labels_N[n]), int(predicted_N[n])
        row |= {
            "label": label,
            "answer": asked.classes[label],
            "predicted": predicted,
            "predicted_text": asked.classes[predicted],
            "confidence": float(shares[n, predicted]),
            "is_right": label == predicted,
            "scores": scores_NC[n].tolist(),
        }
    confusion = np.zeros((len(asked.classes),) * 2, np.int64)
    np.add.at(confusion, (labels_N, predicted_N), 1)
    usual = {
        "confusion": confusion.tolist() if asked.kind == "classification" else [],
        "prompts": _prompts(asked, scores[main].value) if protocol == "zero_shot" else {},
        "details": _details(protocol, asked, scores[main].value),
    }
    result = _result(model, asked, protocol, main=main, scores=scores, **(usual | changes))
    return write_result(run, result, pa.Table.from_pylist(rows, schema=ITEMS))


def _prompts(asked: Asked, value: float) -> dict[str, Any]:
    if asked.kind != "classification":
        return {}
    templates = ("a photo of {c}.", "{c} under the microscope", "an image of {c}")
    values = dict(zip(templates, (value - 0.06, value - 0.01, value - 0.033), strict=True))
    return {
        "used": "ensemble",
        "texts": {name: [t.replace("{c}", name) for t in templates] for name in asked.classes},
        "by_set": {"ensemble": value, "single": value - 0.06, "paper": value + 0.02},
        "templates": {
            "values": values,
            "min": min(values.values()),
            "max": max(values.values()),
            "sd": 0.025,
        },
    }


def _details(protocol: Protocol, asked: Asked, value: float) -> dict[str, Any]:
    if protocol == "linear_probe":
        shares = {
            share: {"mean": value - gap, "sd": gap / 9, "values": [value] * (3 if gap else 1)}
            for share, gap in (("0.01", 0.2), ("0.1", 0.09), ("1", 0.0))
        }
        tried = {"0.01": value - 0.1, "0.316": value + 0.01, "10": value - 0.02}
        return {"strength": 0.316, "validation": tried, "train_items": 900, "shares": shares}
    if protocol == "few_shot":
        shots = {
            str(n): {"mean": value - 0.3 / n, "sd": 0.1 / n, "values": [value] * 5}
            for n in (1, 2, 4, 8, 16)
        }
        return {"shots": shots, "scored": "16 shots, first seed"}
    return {"train_items": 900} if protocol == "knn" else {}


def write_labels(run: Path, model: str, asked: Asked, skill: float) -> Path:
    """One result of a multilabel task."""
    asked = replace(asked, kind="multilabel")
    random = np.random.default_rng(asked.seed)
    labels_NC = random.random((asked.num_items, len(asked.classes))) < 0.2
    labels_NC[0], labels_NC[1] = True, False
    scores_NC = _random(model, asked, "zero_shot").normal(0, 1, labels_NC.shape) + skill * labels_NC
    rows = _rows(asked)
    for row, right, found in zip(rows, labels_NC, scores_NC, strict=True):
        row |= {"labels": np.flatnonzero(right).tolist(), "scores": found.tolist()}
        row["answer"] = ", ".join(np.array(asked.classes)[right])
    scores = metrics.multilabel_scores(scores_NC, labels_NC, asked.groups, resamples=RESAMPLES)
    result = _result(model, asked, "zero_shot", main="auroc", scores=scores)
    return write_result(run, result, pa.Table.from_pylist(rows, schema=ITEMS))


def write_retrieval(run: Path, model: str, asked: Asked, skill: float) -> Path:
    """One result of retrieval, two captions a picture."""
    asked = replace(asked, kind="retrieval", classes=())
    random = _random(model, asked, "retrieval")
    ranks = np.ceil(asked.num_items * random.random(asked.num_items) ** skill).astype(int)
    back = np.ceil(asked.num_items * random.random((asked.num_items, 2)) ** skill).astype(int)
    rows = _rows(asked)
    for row, rank, ranks_back in zip(rows, ranks.tolist(), back.tolist(), strict=True):
        row |= {"rank": rank, "rank_back": ranks_back, "is_right": rank == 1}
    scores: dict[str, Score] = {}
    groups = [group for group in asked.groups for _ in range(2)]
    for name, found, some in (
        ("image_to_text", ranks, asked.groups),
        ("text_to_image", back.ravel(), groups),
    ):
        options: dict[str, Any] = {"name": name, "gallery": asked.num_items, "resamples": RESAMPLES}
        scores |= metrics.recall_scores(found, some, (1, 5, 10, 100), **options)
    scores["median_rank"] = metrics.median_rank(ranks, asked.groups, resamples=RESAMPLES)
    result = _result(
        model,
        asked,
        "retrieval",
        main="image_to_text/1",
        scores=scores,
        details={"captions": 2 * asked.num_items, "pictures": asked.num_items},
    )
    return write_result(run, result, pa.Table.from_pylist(rows, schema=ITEMS))


def write_failure(run: Path, model: str, task: str, protocol: str, error: str) -> None:
    """What a grid leaves of a cell that could not be scored."""
    content = {"model": model, "task": task, "protocol": protocol, "error": error}
    write_json(run / "failed" / model / f"{task}.{protocol}.json", content)


def pictures_of(asked: Asked, ids: Sequence[str] | None = None, side: int = 96) -> Items:
    """A task's items with pictures that differ."""

    def read(index: int) -> NDArray[np.uint8]:
        random = np.random.default_rng([asked.seed, index])
        blobs = random.normal(150, 40, (side // 8, side // 8, 3)).repeat(8, 0).repeat(8, 1)
        return np.clip(blobs + random.normal(0, 8, blobs.shape), 0, 255).astype(np.uint8)

    known = tuple(asked.ids if ids is None else ids)
    return Items(
        task=asked.name,
        split="test",
        ids=known,
        places=known,
        read=read,
        groups=known,
        picture_ids=known,
    )
