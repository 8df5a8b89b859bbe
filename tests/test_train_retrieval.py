"""Recall of retrieval against its definition, chance and intervals against simulations."""

# ruff: noqa: E402 (the program's own modules need what may not be installed)
from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from biomedica.clip import ModelSettings, build
from biomedica.stream import open_samples
from biomedica.train.retrieval import RECALLS, evaluate, score
from train_runs import coloured_archive, write_model

pytestmark = pytest.mark.clients


def unit(values: Any) -> Any:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def drawn(count: int, dims: int = 6, noise: float = 1.0, seed: int = 0) -> tuple[Any, Any]:
    """Pictures, and texts near to them."""
    random = np.random.default_rng(seed)
    images = random.normal(size=(count, dims))
    return unit(images), unit(images + noise * random.normal(size=(count, dims)))


def by_definition(queries: Any, others: Any, captions: list[str], k: int) -> float:
    """Queries for which fewer than k wrong ones are as near as the best right one."""
    found = 0
    for i, query in enumerate(queries):
        similar = [float(np.dot(query, other)) for other in others]
        right = [j for j in range(len(others)) if captions[j] == captions[i]]
        best = max(similar[j] for j in right)
        wrong = [s for j, s in enumerate(similar) if j not in right and s >= best - 1e-7]
        found += len(wrong) < k
    return found / len(queries)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.0, 3.0), st.integers(0, 10**6))
def test_recalls_are_those_of_the_definition(
    count: int, num_texts: int, noise: float, seed: int
) -> None:
    """With captions that several pictures share."""
    images, texts = drawn(count, noise=noise, seed=seed)
    random = np.random.default_rng(seed)
    captions = [f"caption {i}" for i in random.integers(num_texts, size=count)]
    found = score(images, texts, captions, [str(i) for i in range(count)])
    assert (found.num_pairs, found.num_texts) == (count, len(set(captions)))
    for k in RECALLS:
        assert found.image_to_text[str(k)] == pytest.approx(
            by_definition(images, texts, captions, k)
        )
        assert found.text_to_image[str(k)] == pytest.approx(
            by_definition(texts, images, captions, k)
        )
        low, high = found.intervals[f"image_to_text/{k}"]
        assert 0 <= low <= high <= 1


def test_recall_is_that_of_scikit_learn() -> None:
    """Without shared captions it is top-k accuracy with the pair's number as its class."""
    metrics = pytest.importorskip("sklearn.metrics")
    images, texts = drawn(300)
    found = score(images, texts, [str(i) for i in range(300)], ["a"] * 300)
    numbers = np.arange(300)
    for k in RECALLS:
        for direction, similar in [
            (found.image_to_text, images @ texts.T),
            (found.text_to_image, texts @ images.T),
        ]:
            expected = metrics.top_k_accuracy_score(numbers, similar, k=k, labels=numbers)
            assert direction[str(k)] == pytest.approx(expected)
    ranks = 1 + (images @ texts.T > np.diag(images @ texts.T)[:, None]).sum(axis=1)
    assert found.median_rank == np.median(ranks)


def test_batches_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images, texts = drawn(100)
    captions = [str(i // 2) for i in range(100)]
    whole = score(images, texts, captions, captions)
    monkeypatch.setattr("biomedica.ranks._BLOCK", 7 * 100)
    assert score(images, texts, captions, captions) == whole


def test_a_model_that_says_the_same_of_all_has_no_recall() -> None:
    """Ties count against a query: the order of the rows gives nothing away."""
    same = unit(np.ones((50, 4)))
    found = score(same, same, [str(i) for i in range(50)], ["a"] * 50)
    assert found.image_to_text == {"1": 0.0, "5": 0.0, "10": 0.0}
    assert found.median_rank == 50
    alike = score(same, same, ["one text"] * 50, ["a"] * 50)
    assert alike.text_to_image["1"] == 1.0 and alike.chance["1"] == 1.0


def test_a_model_whose_numbers_are_none_has_no_recall() -> None:
    broken = np.full((20, 4), np.nan, np.float32)
    found = score(broken, broken, [str(i) for i in range(20)], ["a"] * 20)
    assert found.image_to_text["10"] == found.text_to_image["10"] == 0.0


@pytest.mark.parametrize("num_texts", [3, 20, 60])
def test_chance_is_what_random_orders_give(num_texts: int) -> None:
    random = np.random.default_rng(1)
    group = random.integers(num_texts, size=60)
    images, texts = drawn(60)
    chance = score(images, texts, [str(g) for g in group], ["a"] * 60).chance
    for k in RECALLS:
        hits = [
            np.mean([group[i] in group[random.permutation(60)[:k]] for i in range(60)])
            for _ in range(300)
        ]
        assert chance[str(k)] == pytest.approx(np.mean(hits), abs=0.015)


def test_intervals_cover_when_pairs_of_an_article_go_together() -> None:
    """Articles of 1 to 8 pairs of which all or none are found: 95 % of intervals hold the truth, roughly.
    An interval over pairs would be far too narrow."""
    random = np.random.default_rng(2)
    truth, covered, widths, tries = 0.6, 0, [], 120
    for _ in range(tries):
        sizes = random.integers(1, 9, size=60)
        article = np.repeat(np.arange(60), sizes)
        hit = (random.random(60) < truth)[article]
        count = len(article)
        images = np.eye(count, dtype=np.float32)
        texts = np.where(hit[:, None], images, -images)
        found = score(images, texts, [str(i) for i in range(count)], [f"P{a}" for a in article])
        low, high = found.intervals["image_to_text/1"]
        covered += low <= truth <= high
        widths.append(high - low)
        assert found.num_articles == 60
        assert low <= found.image_to_text["1"] <= high
    assert 0.87 <= covered / tries <= 0.995
    assert np.mean(widths) > 1.5 * 2 * 1.96 * np.sqrt(truth * (1 - truth) / 270)


# a model on a view


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coloured_archive(tmp_path_factory.mktemp("coloured"))


def test_a_model_is_scored_the_same_twice(archive: Path, tmp_path: Path) -> None:
    made = build(ModelSettings(name=str(write_model(tmp_path, patch_dropout=0.5))), seed=1)
    made.model.train()
    samples = open_samples(archive, "all", "test")
    assert len(samples) == 32
    found = evaluate(made, samples)
    assert made.model.training
    torch.rand(5)
    assert evaluate(made, samples) == found
    other = evaluate(made, samples, batch=5)
    assert other.num_pairs == found.num_pairs == 32 and found.num_articles == 16
    assert other.image_to_text == pytest.approx(found.image_to_text, abs=1 / 32)
    mixed = evaluate(made, samples, max_samples=32)  # all of them, in another order
    assert mixed.text_to_image == pytest.approx(found.text_to_image, abs=1 / 32)
    few = evaluate(made, samples, max_samples=10)
    assert few == evaluate(made, samples, max_samples=10)
    assert few.num_pairs == 10
    again = build(ModelSettings(name=made.settings.name), seed=2)
    assert asdict(evaluate(again, samples)) != asdict(found)
