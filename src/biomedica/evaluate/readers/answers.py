"""What a record says of its item, as each kind of task needs it: labels, options, captions, questions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from biomedica.evaluate.items import Question
from biomedica.evaluate.readers.rows import ClassNames, Source, number_text, shortened

_YES_NO = ("yes", "no")
_NUMBER = re.compile(r"-?[0-9]{1,9}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """Values of a record, as they stand there; only those that its kind of task needs."""

    label: Any = None
    flags: Any = None
    """`multilabel`: 0 or 1 for each class; without them, `label` holds several."""
    options: Any = None
    answer: Any = None
    """Place of the right option, or the words that answer a question."""
    captions: Any = None
    question: Any = None
    answer_type: Any = None


def answers_of(
    source: Source, classes: ClassNames, said: Said, separator: str, item: str, place: str
) -> dict[str, Any]:
    """Fields of a `Row`. Raises `EvaluationError` for a label that is no class, an answer that is none."""
    kind = source.task.kind
    if kind == "classification":
        return {"label": classes.index(said.label, item, place)}
    if kind == "multilabel":
        if said.flags is not None:
            return {"labels": classes.held(said.flags, item, place)}
        return {"labels": classes.indices(said.label, separator, item, place)}
    if kind == "retrieval":
        found = said.captions
        return {
            "captions": texts(source, [found] if isinstance(found, str) else found, item, place)
        }
    if kind == "vqa":
        return {"question": question_of(source, said, item, place)}
    answer = number_text(said.answer)
    if not _NUMBER.fullmatch(answer):
        raise source.item_error(
            item, place, f"has the answer {shortened(answer)}, which is no number of an option"
        )
    options = texts(source, said.options, item, place)
    label = classes.index(said.label, item, place) if source.task.classes else None
    return {"options": options, "label": int(answer), "class_label": label}


def texts(source: Source, value: Any, item: str, place: str) -> tuple[str, ...]:
    """A list of texts, nothing where there is none. An empty text stays: it is refused later.

    Raises `EvaluationError` for anything else: one text in place of a list of options would be a task with one
    answer, whatever brackets stand in it.
    """
    if value is None:
        return ()
    if not isinstance(value, list) or not all(_is_text(each) for each in value):
        shown = shortened(str(value))
        raise source.item_error(item, place, f"has {shown} where a list of texts is expected")
    return tuple("" if each is None else str(each) for each in value)


def _is_text(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, str | int)
        or (isinstance(value, float) and value == value)
    )


def question_of(source: Source, said: Said, item: str, place: str) -> Question:
    """A question. Raises `EvaluationError` where it, its answer or its type is missing.

    The type is `CLOSED` or `OPEN` in any case, with any space around; where there is none, a question that
    yes or no answers is closed.
    """
    asked, answered = number_text(said.question), number_text(said.answer)
    for name, value in (("question", asked), ("answer", answered)):
        if not value:
            raise source.item_error(item, place, f"has no {name}")
    kind = number_text(said.answer_type).upper()
    if kind not in ("", "OPEN", "CLOSED"):
        raise source.item_error(
            item, place, f"has the answer type {kind!r}; OPEN or CLOSED is expected"
        )
    is_yes_no = answered.lower() in _YES_NO
    return Question(
        text=asked,
        answer=answered,
        is_closed=kind == "CLOSED" if kind else is_yes_no,
        options=_YES_NO if is_yes_no else (),
    )
