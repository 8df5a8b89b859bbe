"""Ranks against a count by hand: ties, several right answers, no numbers, borders of blocks, memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from biomedica import ranks as module
from biomedica.ranks import Members, chance, ranks

Floats = NDArray[np.float32]
COARSE = st.integers(-2, 2).map(float)
"""So few values that cosines are often equal."""


def by_hand(queries: Floats, gallery: Floats, asked: Members, held: Members) -> list[int]:
    """One query after the other: 1 and all wrong answers that are not below the best right one."""
    found = []
    for query in range(len(queries)):
        groups = set(asked.groups_P[asked.rows_P == query].tolist())
        right = {
            row
            for row, group in zip(held.rows_P.tolist(), held.groups_P.tolist(), strict=True)
            if group in groups
        }
        similar = [float(gallery[row] @ queries[query]) for row in range(len(gallery))]
        if not right or any(np.isnan(similar[row]) for row in right):
            found.append(len(gallery) + 1)
            continue
        best = max(similar[row] for row in right)
        wrong = [value for row, value in enumerate(similar) if row not in right]
        found.append(1 + sum(not value < best for value in wrong))
    return found


def members(draw: st.DrawFn, rows: int) -> Members:
    """Any groups for each row: none, one, or several."""
    pairs = draw(
        st.lists(st.tuples(st.integers(0, rows - 1), st.integers(0, 4)), max_size=2 * rows)
    )
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return Members(table[:, 0], table[:, 1])


@st.composite
def questions(draw: st.DrawFn) -> tuple[Floats, Floats, Members, Members]:
    """Queries and a gallery with many ties."""
    num_queries, size = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    queries = draw(arrays(np.float32, (num_queries, 2), elements=COARSE))
    gallery = draw(arrays(np.float32, (size, 2), elements=COARSE))
    return queries, gallery, members(draw, num_queries), members(draw, size)


@settings(max_examples=200, deadline=None)
@given(questions(), st.integers(1, 40))
def test_as_by_hand(question: tuple[Floats, Floats, Members, Members], block: int) -> None:
    """Whatever the size of the blocks: 1 to all queries at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        assert ranks(*question).tolist() == by_hand(*question)


def test_ties_count_against() -> None:
    """A model that gives all the same vector finds nothing."""
    same = np.ones((5, 3), np.float32)
    one_each = Members.each(np.arange(5))
    assert ranks(same, same, one_each, one_each).tolist() == [5] * 5


def test_several_right_answers() -> None:
    """The best of them counts, and the others do not stand before it."""
    queries = np.array([[1, 0]], np.float32)
    gallery = np.array([[0.9, 0], [0.8, 0], [0.7, 0], [0.6, 0]], np.float32)
    asked = Members.each(np.zeros(1, np.int64))
    for right, rank in (([0, 1, 2], 1), ([1, 2], 2), ([1, 3], 2), ([3], 4)):
        held = Members(np.array(right), np.zeros(len(right), np.int64))
        assert ranks(queries, gallery, asked, held).tolist() == [rank]


def test_without_a_right_answer() -> None:
    """Such a query stands after all."""
    vectors = np.eye(3, dtype=np.float32)
    held = Members.each(np.array([0, 1, 7]))
    assert ranks(vectors, vectors, Members.each(np.arange(3)), held).tolist() == [1, 1, 4]


@pytest.mark.filterwarnings("error")
def test_what_is_no_number_counts_against() -> None:
    """A wrong answer that is no number stands before the right one; a right one that is none stands after all."""
    vectors = np.eye(4, dtype=np.float32)
    broken = vectors.copy()
    broken[2] = np.nan
    one_each = Members.each(np.arange(4))
    found = ranks(vectors, broken, one_each, one_each).tolist()
    assert found == by_hand(vectors, broken, one_each, one_each) == [2, 2, 5, 2]
    assert ranks(broken, vectors, one_each, one_each).tolist() == [1, 1, 5, 1]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among them one query at a time, and borders that do not divide the queries."""
    random = np.random.default_rng(0)
    # whole numbers: products are exact, however they are added up
    queries, gallery = (random.integers(-3, 4, (size, 8)).astype(np.float32) for size in (101, 67))
    asked, held = (Members.each(random.integers(0, 20, size)) for size in (101, 67))
    whole = ranks(queries, gallery, asked, held)
    assert whole.tolist() == by_hand(queries, gallery, asked, held)
    for rows in (1, 2, 33, 50, 100, 101):
        monkeypatch.setattr(module, "_BLOCK", rows * 67)
        assert np.array_equal(ranks(queries, gallery, asked, held), whole)


def test_memory_is_that_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the queries need no more, but for the numbers that are asked for."""
    monkeypatch.setattr(module, "_BLOCK", 1 << 18)
    peaks = []
    for number in (2_000, 8_000):
        random = np.random.default_rng(0)
        queries = random.standard_normal((number, 16), np.float32)
        gallery = random.standard_normal((2_000, 16), np.float32)
        asked, held = Members.each(np.arange(number)), Members.each(np.arange(2_000))
        tracemalloc.start()
        ranks(queries, gallery, asked, held)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    block = 4 << 18
    assert peaks[0] < 2 * block
    assert peaks[1] < peaks[0] + 100 * 8_000


def test_chance() -> None:
    """By hand: one right of ten, first five; all right; more asked than there are."""
    assert chance(np.array([1]), 10, 5) == pytest.approx(0.5)
    assert chance(np.array([10]), 10, 1) == 1
    assert chance(np.array([1, 2]), 3, 1) == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert chance(np.array([1]), 3, 100) == 1
