"""One task by one protocol: what the model said of each item, and the scores of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from biomedica.errors import EvaluationError
from biomedica.evaluate import metrics, probes, zero_shot
from biomedica.evaluate.embeddings import Embeddings
from biomedica.evaluate.items import Items
from biomedica.evaluate.probes import Labelled
from biomedica.evaluate.results import ITEMS, Protocol, Score
from biomedica.evaluate.retrieval import RECALLS, embed_captions, retrieve
from biomedica.evaluate.settings import EvaluateSettings
from biomedica.evaluate.tasks import Task
from biomedica.numbering import numbered

Read = Callable[[str], Items | None]
"""The items of a split; None where the task has none such."""
_MOST_ANSWERS = 1000
"""Different right answers of an `options` task without classes, beyond which they are no classes."""
_HELD_OUT = 0.2
"""Part of the training groups that regularisation is chosen on, where a task has no validation split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A task with its test items, and how to have the others."""

    task: Task
    items: Items
    read: Read
    settings: EvaluateSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a protocol makes of a question."""

    scores: dict[str, Score]
    items: pa.Table
    """As `results.ITEMS`."""
    pictures_sha256: dict[str, str]
    """By split."""
    confusion: list[list[int]] = field(default_factory=list)
    prompts: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def applies(protocol: Protocol, task: Task, reads_text: bool) -> str:
    """Why a protocol is not for a task or a model, in words; nothing where it is."""
    if protocol not in PROTOCOLS[task.kind]:
        return f"{protocol} is not for {task.kind} tasks"
    if protocol in ("zero_shot", "retrieval", "vqa_options", "vqa_head") and not reads_text:
        return f"{protocol} needs a model that reads text"
    if protocol in ("linear_probe", "knn", "few_shot") and not task.classes:
        return f"{protocol} needs a task that states its classes"
    if protocol == "zero_shot" and task.kind != "options" and not task.prompts:
        return f"{task.name} states no prompts"
    return ""


def score_zero_shot(embeddings: Embeddings, question: Question) -> Answer:
    """Nearest class or candidate caption; every prompt set, and every template of the first."""
    task, items = question.task, question.items
    found = embeddings.images(items)
    images = found.vectors_ND
    if task.kind == "options":
        cosines = zero_shot.by_options(embeddings, items, images).cosines_NC
        answer = _of_options(question, cosines, embeddings.encoder.scale)
        return replace(answer, pictures_sha256={items.split: found.pictures_sha256})
    sets = zero_shot.prompt_sets(task, question.settings.prompts)
    by_set = {
        name: zero_shot.by_class(embeddings, task, images, texts) for name, texts in sets.items()
    }
    first = next(iter(sets))
    scale = embeddings.encoder.scale
    values = {name: _main(question, each.cosines_NC, scale) for name, each in by_set.items()}
    templates = zero_shot.by_template(embeddings, task, images, sets[first])
    alone = [_main(question, each, scale) for each in templates]
    answer = _of_classes(question, by_set[first].cosines_NC * np.float32(scale))
    prompts = {
        "used": first,
        "texts": by_set[first].texts,
        "by_set": values,
        "templates": {
            "values": dict(zip(task.prompts[first].templates, alone, strict=True)),
            "min": min(alone),
            "max": max(alone),
            "sd": float(np.std(alone, ddof=1)) if len(alone) > 1 else 0.0,
        },
    }
    return replace(answer, prompts=prompts, pictures_sha256={items.split: found.pictures_sha256})


def score_retrieval(embeddings: Embeddings, question: Question) -> Answer:
    """Recall at 1, 5, 10 and 100 in both directions."""
    items, settings = question.items, question.settings
    found = embeddings.images(items)
    ranked = retrieve(found.vectors_ND, embed_captions(embeddings, items), items)
    options = {"resamples": settings.resamples, "seed": settings.seed}
    groups_M = [items.groups[index] for index in ranked.item_of_text_M]
    scores = metrics.recall_scores(
        ranked.image_rank_N,
        items.groups,
        [k for k in RECALLS if k <= ranked.num_texts],
        name="image_to_text",
        gallery=ranked.num_texts,
        num_right_Q=ranked.image_right_N,
        **options,
    ) | metrics.recall_scores(
        ranked.text_rank_M,
        groups_M,
        [k for k in RECALLS if k <= ranked.num_pictures],
        name="text_to_image",
        gallery=ranked.num_pictures,
        num_right_Q=ranked.text_right_M,
        **options,
    )
    scores["median_rank"] = metrics.median_rank(ranked.image_rank_N, items.groups, **options)
    back = np.split(ranked.text_rank_M, np.flatnonzero(np.diff(ranked.item_of_text_M)) + 1)
    rows = _rows(items)
    for row, rank, ranks_back in zip(rows, ranked.image_rank_N, back, strict=True):
        row |= {"rank": int(rank), "rank_back": ranks_back.tolist(), "is_right": bool(rank == 1)}
    details = {"captions": ranked.num_texts, "pictures": ranked.num_pictures}
    return Answer(
        scores=scores,
        items=pa.Table.from_pylist(rows, schema=ITEMS),
        pictures_sha256={items.split: found.pictures_sha256},
        details=details,
    )


def score_linear_probe(embeddings: Embeddings, question: Question) -> Answer:
    """A regression on all of training and validation; and on parts of training, drawn with several seeds."""
    found, digests = _labelled(embeddings, question, ("test", "train", "validation"))
    settings, count = question.settings, len(question.task.classes)
    test, train = found["test"], found["train"]
    if "validation" in found:
        parts = train, found["validation"]
    else:
        parts = probes.held_out(train, _HELD_OUT, settings.seed)
    probe = probes.linear_probe(*parts, count, _judge(question.task))
    shares = {}
    for each in settings.shares:
        values = []
        for seed in range(settings.share_seeds if each < 1 else 1):
            some = probes.share(train, each, settings.seed + seed) if each < 1 else train
            try:
                fitted = probes.probe_at(some, probe.strength, count) if each < 1 else probe.scores
            except EvaluationError:
                continue  # one class only: nothing to learn
            values.append(_judge(question.task)(fitted(test.vectors_ND), test))
        if values:
            shares[f"{each:g}"] = probes.mean_and_spread(values)
    answer = _of_classes(question, probe.scores(test.vectors_ND))
    details = {
        "strength": probe.strength,
        "validation": {f"{k:.3g}": v for k, v in sorted(probe.tried.items())},
        "train_items": sum(map(len, parts)),
        "shares": shares,
    }
    return replace(answer, details=details, pictures_sha256=digests)


def score_knn(embeddings: Embeddings, question: Question) -> Answer:
    """Votes of the nearest training pictures."""
    found, digests = _labelled(embeddings, question, ("test", "train"))
    test, train = found["test"], found["train"]
    shares = probes.neighbours(train, test.vectors_ND, len(question.task.classes))
    with np.errstate(divide="ignore"):
        answer = _of_classes(question, np.log(shares))
    return replace(answer, details={"train_items": len(train)}, pictures_sha256=digests)


def score_few_shot(embeddings: Embeddings, question: Question) -> Answer:
    """A regression on a few pictures of each class, drawn with several seeds. C is scikit-learn's 1."""
    found, digests = _labelled(embeddings, question, ("test", "train"))
    test, train = found["test"], found["train"]
    settings, count = question.settings, len(question.task.classes)
    numbers, last = {}, None
    for each in settings.shots:
        values = []
        for seed in range(settings.shot_seeds):
            some = probes.shots(train, each, settings.seed + seed)
            odds_NC = probes.probe_at(some, 1.0, count)(test.vectors_ND)
            values.append(_judge(question.task)(odds_NC, test))
            last = odds_NC if seed == 0 else last
        numbers[str(each)] = probes.mean_and_spread(values)
    assert last is not None
    answer = _of_classes(question, last)
    details = {"shots": numbers, "scored": f"{settings.shots[-1]} shots, first seed"}
    return replace(answer, details=details, pictures_sha256=digests)


SPLITS: Mapping[Protocol, tuple[str, ...]] = {
    "zero_shot": ("test",),
    "retrieval": ("test",),
    "linear_probe": ("test", "train", "validation"),
    "knn": ("test", "train"),
    "few_shot": ("test", "train"),
    "vqa_options": ("test",),
    "vqa_head": ("test", "train", "validation"),
}
"""What each protocol reads."""
VERSIONS: Mapping[Protocol, int] = {
    "zero_shot": 1,
    "retrieval": 1,
    "linear_probe": 2,
    "knn": 1,
    "few_shot": 1,
    "vqa_options": 1,
    "vqa_head": 1,
}
"""Raised when a protocol comes to score the same vectors otherwise: what an older one scored is scored anew."""
PROTOCOLS: Mapping[str, tuple[Protocol, ...]] = {
    "classification": ("zero_shot", "linear_probe", "knn", "few_shot"),
    "multilabel": ("zero_shot", "linear_probe", "knn"),
    "options": ("zero_shot", "linear_probe", "knn", "few_shot"),
    "retrieval": ("retrieval",),
    "vqa": ("vqa_options", "vqa_head"),
}
"""What may be asked of each kind of task."""


def _labelled(
    embeddings: Embeddings, question: Question, splits: Sequence[str]
) -> tuple[dict[str, Labelled], dict[str, str]]:
    """Vectors by split, and the digests of their pictures; no validation where a task has none."""
    digests, found = {}, {}
    for name in splits:
        items = question.items if name == "test" else question.read(name)
        if items is None:
            if name == "validation":
                continue
            raise EvaluationError(
                f"task {question.task.name} has no training split here: a probe has nothing to learn from"
            )
        embedded = embeddings.images(items)
        digests[name] = embedded.pictures_sha256
        labels, several = class_labels(items)
        found[name] = Labelled(
            vectors_ND=embedded.vectors_ND,
            labels_N=labels,
            labels_NC=several,
            groups=items.groups,
        )
    return found, digests


def class_labels(items: Items) -> tuple[NDArray[np.int64] | None, NDArray[np.bool_] | None]:
    """Index among the task's classes of each item; or the array of several."""
    if items.labels_NC is not None:
        return None, items.labels_NC
    labels = items.labels_N if items.options is None else items.class_labels_N
    if labels is None:
        raise EvaluationError(f"task {items.task}, {items.split}: its items have no classes")
    return labels, None


def _judge(task: Task) -> probes.Judge:
    """The main metric; accuracy where that means nothing for a probe."""

    def judge(scores_NC: NDArray[np.float32], some: Labelled) -> float:
        if some.labels_NC is not None:
            name = metrics.average_precision if task.metric == "map" else metrics.auroc_multilabel
            return name(scores_NC, some.labels_NC)
        assert some.labels_N is not None
        return _value(task, scores_NC, some.labels_N)

    return judge


def _value(task: Task, scores_NC: NDArray[np.float32], labels_N: NDArray[np.int64]) -> float:
    """scores_NC   logits"""
    chosen = scores_NC.argmax(axis=1)
    if task.metric == "balanced_accuracy":
        return metrics.balanced_accuracy(chosen, labels_N, len(task.classes))
    if task.metric == "macro_f1":
        return metrics.macro_f1(chosen, labels_N, len(task.classes))
    if task.metric == "auroc":
        return metrics.auroc(scores_NC, labels_N)
    return metrics.accuracy(chosen == labels_N)


def _main(question: Question, cosines_NC: NDArray[np.float32], scale: float) -> float:
    items = question.items
    if items.labels_NC is not None:
        name = (
            metrics.average_precision if question.task.metric == "map" else metrics.auroc_multilabel
        )
        return name(cosines_NC, items.labels_NC)
    assert items.labels_N is not None
    return _value(question.task, cosines_NC * np.float32(scale), items.labels_N)


def _of_options(question: Question, cosines_NC: NDArray[np.float32], scale: float) -> Answer:
    items, settings = question.items, question.settings
    assert items.labels_N is not None and items.options is not None
    scaled = np.where(np.isnan(cosines_NC), -np.inf, cosines_NC * np.float32(scale))
    scores = metrics.classification_scores(
        scaled,
        items.labels_N,
        items.groups,
        options_differ=True,
        resamples=settings.resamples,
        seed=settings.seed,
    )
    classes = items.class_labels_N
    if classes is None:  # by the words of the right answer
        right = [some[i] for some, i in zip(items.options, items.labels_N, strict=True)]
        different, classes = numbered(right)
        if (
            len(different) > _MOST_ANSWERS
        ):  # free captions: a mean over them says nothing, and costs their square
            rows = _answered(items, scaled, [list(some) for some in items.options])
            table = pa.Table.from_pylist(rows, schema=ITEMS)
            return Answer(scores=scores, items=table, pictures_sha256={})
    scores |= {
        name: score
        for name, score in metrics.right_scores(
            scaled.argmax(axis=1) == items.labels_N,
            items.groups,
            scores["accuracy"].chance,
            classes_N=classes,
            resamples=settings.resamples,
            seed=settings.seed,
        ).items()
        if name == "balanced_accuracy"
    }
    rows = _answered(items, scaled, [list(some) for some in items.options])
    for row, each in zip(rows, classes, strict=True):
        row["class"] = int(each)
    return Answer(scores=scores, items=pa.Table.from_pylist(rows, schema=ITEMS), pictures_sha256={})


def _of_classes(question: Question, scores_NC: NDArray[np.float32]) -> Answer:
    """scores_NC   logits: their softmax is what the model gives each class"""
    items, task, settings = question.items, question.task, question.settings
    labels, several = class_labels(items)
    names = list(task.class_names)
    if several is not None:
        scores = metrics.multilabel_scores(
            scores_NC, several, items.groups, resamples=settings.resamples, seed=settings.seed
        )
        rows = _rows(items)
        for row, right, found in zip(rows, several, scores_NC, strict=True):
            indices = np.flatnonzero(right).tolist()
            row |= {"labels": indices, "scores": found.tolist()}
            row["answer"] = ", ".join(names[index] for index in indices)
        table = pa.Table.from_pylist(rows, schema=ITEMS)
        return Answer(scores=scores, items=table, pictures_sha256={})
    assert labels is not None
    scores = metrics.classification_scores(
        scores_NC,
        labels,
        items.groups,
        resamples=settings.resamples,
        seed=settings.seed,
    )
    confusion = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, (labels, scores_NC.argmax(axis=1)), 1)
    rows = _answered(replace(items, labels_N=labels), scores_NC, [names] * len(items))
    return Answer(
        scores=scores,
        items=pa.Table.from_pylist(rows, schema=ITEMS),
        pictures_sha256={},
        confusion=confusion.tolist(),
    )


def _answered(
    items: Items,
    scores_NC: NDArray[np.float32],
    names: Sequence[Sequence[str]],
) -> list[dict[str, Any]]:
    """Rows of items with one right answer. names   of each item's columns"""
    assert items.labels_N is not None
    rows = _rows(items)
    chosen = scores_NC.argmax(axis=1)
    shares = metrics.softmax(scores_NC)
    for index, row in enumerate(rows):
        label, predicted, words = int(items.labels_N[index]), int(chosen[index]), names[index]
        row |= {
            "label": label,
            "answer": words[label],
            "predicted": predicted,
            "predicted_text": words[predicted],
            "confidence": float(shares[index, predicted]),
            "is_right": label == predicted,
            "scores": scores_NC[index, : len(words)].tolist(),
        }
    return rows


def _rows(items: Items) -> list[dict[str, Any]]:
    return [
        {"item": item, "place": place, "picture": picture, "group": group}
        for item, place, picture, group in zip(
            items.ids, items.places, items.picture_ids, items.groups, strict=True
        )
    ]
