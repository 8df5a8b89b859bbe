"""Answers to questions about pictures: by the nearest option without training, or by a head over both towers.

Answers are compared in a common form (`normal_answer`). The head is `fusion`'s, `fusion_training` its recipe.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from biomedica.errors import ConfigError, EvaluationError
from biomedica.evaluate import protocols
from biomedica.evaluate.embeddings import Embeddings, first_of_each, picture_digest
from biomedica.evaluate.items import Items, Question
from biomedica.evaluate.metrics import right_scores, softmax
from biomedica.evaluate.protocols import Answer
from biomedica.evaluate.results import ITEMS, Score
from biomedica.evaluate.settings import EvaluateSettings, FusionSettings
from biomedica.models import Vectors
from biomedica.numbering import numbered

if TYPE_CHECKING:
    from biomedica.evaluate.fusion_training import Epoch, Learned, Part
    from biomedica.evaluate.tokens import TowerModel

log = logging.getLogger(__name__)
TEMPLATE = "{question} {option}"
"""The caption that an option makes."""
_ARTICLES = {"a", "an", "the"}
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def score_vqa_options(embeddings: Embeddings, question: protocols.Question) -> Answer:
    """Without training: of a closed question, the option whose caption is nearest to the picture.

    Closed questions that state no options are not asked, nor are open ones: `details.left_out`.
    """
    items = question.items
    rows_N = np.array([row for row, each in enumerate(_questions(items)) if _options(each)])
    if not len(rows_N):
        raise EvaluationError(
            f"task {items.task}, {items.split}: no closed question has options to choose from"
        )
    images = embeddings.images(items)
    found = answer_by_options(embeddings, items, rows_N, images.vectors_ND)
    answer = _answer(items, found, question.settings)
    return replace(answer, pictures_sha256={items.split: images.pictures_sha256})


def score_vqa_head(embeddings: Embeddings, question: protocols.Question) -> Answer:
    """Learn on the training split, choose the epoch by validation, answer the test. The model stays as it was.

    Where there is no validation split, a part of the training groups is held out. Raises `EvaluationError` without a
    training split, `ConfigError` for an encoder without features of single patches and words.
    """
    try:
        from biomedica.evaluate.tokens import tower_model
    except ImportError:
        raise ConfigError("vqa_head: needs pip install 'biomedica[train]'") from None

    task, test, recipe = question.task, question.items, question.settings.fusion
    model = tower_model(embeddings.encoder)
    train, validation = question.read("train"), question.read("validation")
    if train is None:
        raise EvaluationError(
            f"task {task.name} has no training split here: the VQA head has nothing to learn from; "
            "vqa_options needs none"
        )

    def tell(epoch: Epoch) -> None:
        log.info("%s, %s: %s", embeddings.encoder.name, task.name, epoch)

    splits = {"train": train, "validation": validation, "test": test}
    found = learn_and_answer(model, train, validation, test, recipe or FusionSettings(), tell)
    digests = {
        name: embeddings.pictures_sha256(items)
        for name, items in splits.items()
        if items is not None
    }
    return replace(_answer(test, found, question.settings), pictures_sha256=digests)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was answered. N items that were asked, V answers to choose from."""

    rows_N: NDArray[np.int64]
    """Place of each among the items that were given."""
    predicted: tuple[str, ...]
    confidence_N: NDArray[np.float32]
    """Probability that the model gave what it predicted."""
    right_N: NDArray[np.bool_]
    scores_NV: NDArray[np.float32]
    """Before a softmax (or sigmoid); -inf where an item has no further option."""
    answers: tuple[str, ...] = ()
    """Names of the columns: the vocabulary. Empty where each item has options of its own."""
    options: tuple[tuple[str, ...], ...] = ()
    """Of each item, where it has its own."""
    details: dict[str, Any] = field(default_factory=dict)


def normal_answer(text: str) -> str:
    """The form in which answers are compared: VQA v2's rules but for its list of contractions.

    Lower case; punctuation is a space, within a number (1.5, 1,000) it stays or goes; no articles; numbers up to
    ten as digits. What would leave nothing stays as it is.

    >>> normal_answer(" The X-ray."), normal_answer("Two"), normal_answer("1,000.5 mm"), normal_answer("A")
    ('x ray', '2', '1000.5 mm', 'a')
    """
    lowered = unicodedata.normalize("NFKC", text).casefold().strip()
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", lowered).replace("'", "").replace("’", "")
    plain = re.sub(r"(?<!\d)\.|\.(?!\d)|[^\w\s.]|_", " ", plain)
    words = [
        str(_NUMBERS.index(word)) if word in _NUMBERS else word
        for word in plain.split()
        if word not in _ARTICLES
    ]
    return " ".join(words) or lowered


def vocabulary(answers: Iterable[str], min_count: int = 1) -> tuple[str, ...]:
    """Answers in their common form, the frequent ones first."""
    counts = Counter(normal_answer(each) for each in answers)
    ranked = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    return tuple(answer for answer, count in ranked if count >= min_count)


# the head


def learn_and_answer(
    model: TowerModel,
    train: Items,
    validation: Items | None,
    test: Items,
    settings: FusionSettings,
    tell: Callable[[Epoch], None] = lambda epoch: None,
) -> Found:
    """Train a fusion head, and answer `test` by its best epoch. tell   called after each epoch"""
    from biomedica.evaluate.fusion_training import learn

    parts, answers = _parts(train, validation, test, settings)
    learned = learn(model, parts, len(answers), settings, tell)
    found = _found(learned, parts, answers, settings, held_out=validation is None)
    shared = _share_seen(train, test)
    return replace(found, details=found.details | {"test_pictures_in_training_share": shared})


def _share_seen(train: Items, test: Items) -> float:
    """Of the test questions, those whose picture training questions are about too."""
    seen = {picture_digest(train, row) for row in first_of_each(train.picture_ids)}
    known = {
        test.picture_ids[row]: picture_digest(test, row) in seen
        for row in first_of_each(test.picture_ids)
    }
    return float(np.mean([known[name] for name in test.picture_ids]))


def _parts(
    train: Items, validation: Items | None, test: Items, settings: FusionSettings
) -> tuple[tuple[Part, Part | None, Part], tuple[str, ...]]:
    """What is learned from, chosen by and asked, and the answers to choose from."""
    from biomedica.evaluate.fusion_training import Part

    for items in (train, validation, test):
        if items is not None and not items.questions:
            raise EvaluationError(f"task {items.task}, {items.split}: its items have no questions")
    learned, chosen_by = np.arange(len(train)), np.arange(len(validation or ()))
    if validation is None and settings.validation_share:
        learned, chosen_by = _held_out(train, settings)
    answers = vocabulary((_questions(train)[row].answer for row in learned), settings.min_count)
    place = {answer: index for index, answer in enumerate(answers)}

    def part(items: Items, rows: NDArray[np.int64]) -> Part:
        asked = _questions(items)
        labels = [place.get(normal_answer(asked[row].answer), -1) for row in rows]
        return Part(items=items, rows_N=rows, labels_N=np.array(labels, dtype=np.int64))

    taught = part(train, learned)
    known = taught.labels_N >= 0
    if not known.any():
        raise EvaluationError(
            f"task {train.task}, {train.split}: no answer has {settings.min_count} questions "
            "(evaluate.fusion.min_count)"
        )
    taught = Part(items=train, rows_N=learned[known], labels_N=taught.labels_N[known])
    checked = part(validation or train, chosen_by) if len(chosen_by) else None
    return (taught, checked, part(test, np.arange(len(test)))), answers


def _held_out(
    train: Items, settings: FusionSettings
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to learn from and rows to choose by, no group in both."""
    names, group_N = numbered(train.groups)
    if len(names) < 2:
        raise EvaluationError(
            f"task {train.task}, {train.split}: all questions are of one group, so that none can be held out; "
            "give a validation split, or take evaluate.fusion.validation_share = 0"
        )
    place_G = np.random.default_rng(settings.seed).permutation(len(names))
    count = min(len(names) - 1, max(1, round(settings.validation_share * len(names))))
    out = place_G[group_N] < count
    return np.flatnonzero(~out), np.flatnonzero(out)


def _questions(items: Items) -> tuple[Question, ...]:
    assert items.questions is not None
    return items.questions


def _found(
    learned: Learned,
    parts: tuple[Part, Part | None, Part],
    answers: tuple[str, ...],
    settings: FusionSettings,
    *,
    held_out: bool,
) -> Found:
    train, validation, test = parts
    scores = learned.scores_NV
    predicted_N = scores.argmax(axis=1)
    if settings.loss == "softmax":
        probabilities = softmax(scores)
    else:
        probabilities = 1 / (1 + np.exp(-scores.astype(np.float64)))
    details = {
        "recipe": asdict(settings),
        "image_size": learned.image_size,
        "weights": learned.num_weights,
        "answers": len(answers),
        "train_items": len(train),
        "validation_items": 0 if validation is None else len(validation),
        "validation": ("held out of training" if held_out else "its own split")
        if validation is not None
        else "none: the last epoch counts",
        "test_answers_unknown": int((test.labels_N < 0).sum()),
        "test_answers_unknown_share": float((test.labels_N < 0).mean()),
        "best_epoch": learned.best,
        "epochs": [asdict(each) for each in learned.epochs],
        "most_frequent_answer": _most_frequent(train, test),
    }
    return Found(
        rows_N=test.rows_N,
        predicted=tuple(answers[index] for index in predicted_N),
        confidence_N=probabilities[np.arange(len(scores)), predicted_N].astype(np.float32),
        right_N=predicted_N == test.labels_N,
        scores_NV=scores,
        answers=answers,
        details=details,
    )


def _most_frequent(train: Part, test: Part) -> dict[str, float]:
    """Accuracy of the answer that training gives most often to open or closed questions, whatever is asked."""
    best, right = {}, {}
    for is_closed in (True, False):
        labels = train.labels_N[_closed(train.items, train.rows_N) == is_closed]
        best[is_closed] = int(np.bincount(labels).argmax()) if len(labels) else -1
    closed_N = _closed(test.items, test.rows_N)
    guessed_N = np.where(closed_N, best[True], best[False])
    right_N = (guessed_N == test.labels_N) & (guessed_N >= 0)
    for name, chosen in _kinds(closed_N).items():
        right[name] = float(right_N[chosen].mean())
    return right


def _closed(items: Items, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.array([_questions(items)[row].is_closed for row in rows], dtype=np.bool_)


def _kinds(closed_N: NDArray[np.bool_]) -> dict[str, NDArray[np.int64]]:
    """Places of all, open and closed questions, by the metric that counts them; without those that have none."""
    chosen = {
        "accuracy": np.arange(len(closed_N)),
        "accuracy_open": np.flatnonzero(~closed_N),
        "accuracy_closed": np.flatnonzero(closed_N),
    }
    return {name: places for name, places in chosen.items() if len(places)}


# options


def answer_by_options(
    embeddings: Embeddings, items: Items, rows_N: NDArray[np.int64], images_ND: Vectors
) -> Found:
    """The nearest option's caption of each item of `rows_N`. images_ND   of all items, each of length 1"""
    asked = [_questions(items)[row] for row in rows_N]
    cosines_NV = _cosines(embeddings, items, asked, images_ND[rows_N])
    scores_NV = cosines_NV * np.float32(embeddings.encoder.scale)
    chosen_N, shares_NV = scores_NV.argmax(axis=1), softmax(scores_NV)
    predicted = tuple(each.options[index] for each, index in zip(asked, chosen_N, strict=True))
    rights = [normal_answer(each.answer) for each in asked]
    right_N = np.array([normal_answer(a) == b for a, b in zip(predicted, rights, strict=True)])
    absent = sum(
        right not in map(normal_answer, each.options)
        for right, each in zip(rights, asked, strict=True)
    )
    return Found(
        rows_N=rows_N,
        predicted=predicted,
        confidence_N=shares_NV[np.arange(len(asked)), chosen_N].astype(np.float32),
        right_N=right_N,
        scores_NV=scores_NV,
        options=tuple(each.options for each in asked),
        details={
            "template": TEMPLATE,
            "asked": len(asked),
            "left_out": len(items) - len(asked),
            "answer_is_no_option": absent,
        },
    )


def _options(question: Question) -> tuple[str, ...]:
    """Of a closed question; nothing for an open one that happens to be answered by yes or no."""
    return question.options if question.is_closed else ()


def _cosines(
    embeddings: Embeddings, items: Items, asked: list[Question], images_ND: Vectors
) -> NDArray[np.float32]:
    """(N, V) of each question's picture and its options' captions; -inf where it has no further option."""
    captions = [
        TEMPLATE.format(question=each.text, option=option)
        for each in asked
        for option in each.options
    ]
    vectors_MD = embeddings.texts(captions, items.task)
    found = np.full((len(asked), max(len(each.options) for each in asked)), -np.inf, np.float32)
    start = 0
    for index, each in enumerate(asked):
        end = start + len(each.options)
        found[index, : end - start] = vectors_MD[start:end] @ images_ND[index]
        start = end
    return found


# results


def _answer(items: Items, found: Found, settings: EvaluateSettings) -> Answer:
    return Answer(
        scores=scores(items, found, resamples=settings.resamples, seed=settings.seed),
        items=items_rows(items, found),
        pictures_sha256={},
        details=found.details,
    )


def items_rows(items: Items, found: Found) -> pa.Table:
    """A row of `results.ITEMS` for each item that was asked; answers in their common form."""
    rows = []
    for index, row in enumerate(found.rows_N.tolist()):
        rows.append(
            {
                "item": items.ids[row],
                "place": items.places[row],
                "picture": items.picture_ids[row],
                "group": items.groups[row],
                "answer": normal_answer(_questions(items)[row].answer),
                "predicted_text": normal_answer(found.predicted[index]),
                "confidence": float(found.confidence_N[index]),
                "is_right": bool(found.right_N[index]),
            }
        )
        if found.options:
            options = found.options[index]
            right = normal_answer(_questions(items)[row].answer)
            places = [place for place, each in enumerate(options) if normal_answer(each) == right]
            rows[-1] |= {
                "label": places[0] if places else None,
                "predicted": options.index(found.predicted[index]),
                "scores": found.scores_NV[index, : len(options)].tolist(),
            }
    return pa.Table.from_pylist(rows, schema=ITEMS)


def scores(items: Items, found: Found, *, resamples: int, seed: int) -> dict[str, Score]:
    """`accuracy`, `accuracy_open` and `accuracy_closed` of the items that were asked, with intervals over groups.

    Guessing is known where each of the questions has its options.
    """
    result = {}
    for name, chosen in _kinds(_closed(items, found.rows_N)).items():
        rows = found.rows_N[chosen].tolist()
        options = [_options(_questions(items)[row]) for row in rows]
        chance = float(np.mean([1 / len(each) for each in options])) if all(options) else None
        result[name] = right_scores(
            found.right_N[chosen],
            [items.groups[row] for row in rows],
            chance,
            resamples=resamples,
            seed=seed,
        )["accuracy"]
    return result
