"""Classes and candidate captions scored by cosine, with no training.

`options` tasks are closed questions as BIOMEDICA asks them: each picture comes with its candidate captions and
the answer is the one nearest to it. `classification` is CLIP's way (Radford et al. 2021, section 3.1.4): the mean
vector of a class's prompts, made length 1 again. `multilabel` ranks the pictures of each class by the same cosine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biomedica.errors import ConfigError
from biomedica.evaluate.embeddings import Embeddings
from biomedica.evaluate.items import Items
from biomedica.evaluate.tasks import Task
from biomedica.models import Vectors, unit

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroShot:
    """Cosines of each item with what it may be."""

    cosines_NC: Floats
    """With the classes; or with an item's options, NaN behind the last."""
    texts: dict[str, list[str]]
    """Prompts by class; empty for `options`."""


def class_vectors(embeddings: Embeddings, task: Task, texts: Sequence[Sequence[str]]) -> Vectors:
    """(C, D): the mean of each class's prompts, of length 1. texts   prompts by class, at least one each"""
    flat = [text for some in texts for text in some]
    vectors = embeddings.texts(flat, task.name)
    ends = np.cumsum([len(some) for some in texts])[:-1]
    return unit(np.stack([some.mean(axis=0) for some in np.split(vectors, ends)]))


def by_class(
    embeddings: Embeddings, task: Task, images_ND: Vectors, prompts: Sequence[Sequence[str]]
) -> ZeroShot:
    """Pictures against classes. prompts   by class"""
    classes_CD = class_vectors(embeddings, task, prompts)
    return ZeroShot(
        cosines_NC=images_ND @ classes_CD.T,
        texts=dict(zip(task.class_names, map(list, prompts), strict=True)),
    )


def by_template(
    embeddings: Embeddings, task: Task, images_ND: Vectors, prompts: Sequence[Sequence[str]]
) -> list[Floats]:
    """(N, C) cosines for each template alone, in their order."""
    numbers = {len(some) for some in prompts}
    assert len(numbers) == 1
    return [
        by_class(embeddings, task, images_ND, [[some[i]] for some in prompts]).cosines_NC
        for i in range(numbers.pop())
    ]


def by_options(embeddings: Embeddings, items: Items, images_ND: Vectors) -> ZeroShot:
    """Each picture against its own candidate captions."""
    assert items.options is not None
    flat = [text for some in items.options for text in some]
    vectors = embeddings.texts(flat, items.task)
    cosines = np.full((len(items), max(map(len, items.options))), np.nan, np.float32)
    start = 0
    for index, some in enumerate(items.options):
        cosines[index, : len(some)] = vectors[start : start + len(some)] @ images_ND[index]
        start += len(some)
    return ZeroShot(cosines_NC=cosines, texts={})


def prompt_sets(task: Task, asked: str = "") -> Mapping[str, list[list[str]]]:
    """Prompts by set and class, the one that counts first. Raises `ConfigError` for a set that is not there."""
    names = list(task.prompts)
    if not names:
        raise ConfigError(
            f"task {task.name} has no prompts: add [prompts.single] templates = ['... {{c}}']"
        )
    if asked:
        if asked not in task.prompts:
            raise ConfigError(
                f"task {task.name} has no prompts {asked!r}; it has {', '.join(names)}"
            )
        names = [asked, *(name for name in names if name != asked)]
    return {name: task.texts(name) for name in names}
