"""The order of samples, mixes of views, planned requests, random numbers: what they promise."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from biomedica.errors import ConfigError
from biomedica.stream import Order, OrderSettings, ReadSettings, Source
from biomedica.stream.mix import STRETCH, Mix, shares
from biomedica.stream.order import permutation, uniform
from biomedica.stream.ranges import plan
from biomedica.stream.reader import split_evenly

Ints = NDArray[np.int64]
BATCH = 256
PINNED = "e264ecc3"
"""Digest of an order. Another one means that no run can go on from a checkpoint of before."""


class View:
    """What a mix asks of a view: how many samples it has, and which."""

    def __init__(self, count: int, name: str = "view") -> None:
        self.count, self.digest = count, name

    def __len__(self) -> int:
        return self.count


@st.composite
def orders(draw: st.DrawFn) -> tuple[int, int, OrderSettings]:
    """Sizes about which nothing is even."""
    run = draw(st.integers(1, 20))
    chosen = OrderSettings(
        shuffle=draw(st.sampled_from([True, True, True, False])),
        run=run,
        window=draw(st.integers(run, run + 80)),
        lanes=draw(st.integers(1, 9)),
        block=draw(st.integers(1, 40)),
    )
    return draw(st.integers(1, 700)), draw(st.integers(0, 2**40)), chosen


class TestOrder:
    """The sequence of one view."""

    @settings(max_examples=150, deadline=None)
    @given(orders(), st.integers(0, 5))
    def test_each_sample_once_an_epoch(
        self, drawn: tuple[int, int, OrderSettings], epoch: int
    ) -> None:
        """Whatever the settings, in any epoch."""
        count, seed, chosen = drawn
        rows = Order(count, seed, chosen).rows(epoch * count, (epoch + 1) * count)
        assert sorted(rows.tolist()) == list(range(count))

    @settings(max_examples=100, deadline=None)
    @given(orders(), st.lists(st.floats(0, 1), max_size=8))
    def test_parts_are_slices_of_the_whole(
        self, drawn: tuple[int, int, OrderSettings], cuts: list[float]
    ) -> None:
        """Read in any pieces, over the edges of epochs, and in any order."""
        count, seed, chosen = drawn
        whole = Order(count, seed, chosen).rows(0, 3 * count)
        edges = sorted({0, 3 * count, *(int(cut * 3 * count) for cut in cuts)})
        pieces = list(pairwise(edges))
        order = Order(count, seed, chosen)
        for start, stop in reversed(pieces):
            assert np.array_equal(order.rows(start, stop), whole[start:stop])

    def test_another_seed_and_another_epoch_are_other_orders(self) -> None:
        """And the same seed is the same one."""
        chosen = OrderSettings(window=256)
        first = Order(5000, 1, chosen)
        epoch = first.rows(0, 5000)
        assert np.array_equal(epoch, Order(5000, 1, chosen).rows(0, 5000))
        for other in (first.rows(5000, 10000), Order(5000, 2, chosen).rows(0, 5000)):
            assert (other == epoch).mean() < 0.01

    def test_without_shuffle_it_is_the_order_of_the_view(self) -> None:
        """Epoch after epoch."""
        order = Order(10, 0, OrderSettings(shuffle=False))
        assert order.rows(8, 13).tolist() == [8, 9, 0, 1, 2]

    def test_algorithm_is_what_it_was(self) -> None:
        """Two epochs of an order of several lanes with a tail."""
        order = Order(10_007, 42, OrderSettings(run=4, window=128, lanes=3, block=16))
        rows = order.rows(0, 20_014).astype("<i8")
        assert hashlib.sha256(rows.tobytes()).hexdigest()[:8] == PINNED

    def test_batches_mix_more_shards_than_a_buffer_does(self) -> None:
        """A million samples in 1,000 shards: shards that a batch of 256 comes from, against a buffer of
        5,000: ten times as many with the default window, seven times with a smaller one."""
        total, samples = 1_000_000, 1000
        buffered = _distinct(_buffered(60 * samples, 5000, 1000) // samples)
        ideal = _distinct(np.random.default_rng(0).permutation(total) // samples)
        for window, times in ((OrderSettings().window, 10), (2048, 7)):
            order = Order(total, 0, OrderSettings(window=window))
            ours = _distinct(order.rows(0, 300 * BATCH) // samples)
            assert ours >= times * buffered
            assert ours >= 0.65 * ideal

    def test_neighbours_stay_within_a_window(self) -> None:
        """What a reader has to hold: a window brings whole runs, each by one request."""
        chosen = OrderSettings(run=8, window=512)
        count = 8 * 4096
        rows = Order(count, 3, chosen).rows(0, count).reshape(-1, 512)
        for window in rows:
            gaps = np.diff(np.sort(window))
            assert (gaps != 1).sum() <= 512 // 8

    @pytest.mark.parametrize("name", ["run", "window", "lanes", "block"])
    def test_settings_below_one_are_refused(self, name: str) -> None:
        """With the name of the setting."""
        with pytest.raises(ConfigError, match=rf"order\.{name}"):
            OrderSettings(**{name: 0})

    def test_what_cannot_mix_is_refused(self) -> None:
        """A window less than a run; a view without samples."""
        with pytest.raises(ConfigError, match=r"order\.window"):
            OrderSettings(run=8, window=7)
        with pytest.raises(ConfigError, match="no samples"):
            Order(0, 0, OrderSettings())

    @given(st.integers(0, 10**6), st.integers(0, 10**4), st.integers(1, 64))
    def test_shares_of_ranks_lie_side_by_side(self, start: int, count: int, parts: int) -> None:
        """Even to one sample."""
        cuts = [split_evenly(start, start + count, parts, part) for part in range(parts)]
        assert cuts[0][0] == start and cuts[-1][1] == start + count
        assert all(a[1] == b[0] for a, b in pairwise(cuts))
        sizes = [b - a for a, b in cuts]
        assert max(sizes) - min(sizes) <= 1


def _distinct(shard_N: Ints) -> float:
    """Mean number of shards in the full batches of a sequence."""
    full = len(shard_N) // BATCH * BATCH
    return float(np.mean([len(np.unique(each)) for each in shard_N[:full].reshape(-1, BATCH)]))


def _buffered(count: int, buffer: int, initial: int) -> Ints:
    """The order of a shuffle buffer over shards one after the other (webdataset's)."""
    rng = np.random.default_rng(0)
    held, given_out = list(range(initial)), []
    unread = iter(range(initial, count))
    for number in unread:
        held.append(number)
        if len(held) < buffer:
            held.extend(n for n in [next(unread, -1)] if n >= 0)
        place = int(rng.integers(len(held)))
        held[place], held[-1] = held[-1], held[place]
        given_out.append(held.pop())
    return np.array(given_out)


class TestMix:
    """Several views as one sequence."""

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(st.integers(1, 2500), st.floats(0.01, 5, allow_nan=False)),
            min_size=2,
            max_size=4,
        ).filter(lambda drawn: min(shares([w for _, w in drawn], STRETCH)) > 0),
        st.integers(0, 2**32),
        st.integers(1, 3),
    )
    def test_shares_and_epochs(
        self, drawn: list[tuple[int, float]], seed: int, epochs: int
    ) -> None:
        """Each stretch has every view's exact share; an epoch of the first view ends with its last
        sample; every view goes round by itself, each sample once."""
        mix = _mix(drawn, seed)
        wanted = shares([weight for _, weight in drawn], STRETCH)
        assert sum(wanted) == STRETCH
        length = min(mix.length(epochs), 20 * STRETCH)
        sources, numbers = mix.rows(0, -(-length // STRETCH) * STRETCH)
        counts = np.stack(
            [np.bincount(s, minlength=len(drawn)) for s in sources.reshape(-1, STRETCH)]
        )
        assert (counts == wanted).all()
        if mix.length(epochs) <= 20 * STRETCH:
            assert sources[length - 1] == 0
            assert (sources[:length] == 0).sum() == epochs * drawn[0][0]
        for source, (count, _) in enumerate(drawn):
            own = numbers[sources == source]
            whole = own[: len(own) // count * count].reshape(-1, count)
            assert (np.sort(whole, axis=1) == np.arange(count)).all()

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 2**32), st.lists(st.integers(0, 3500), min_size=1, max_size=8))
    def test_parts_are_slices_of_the_whole(self, seed: int, cuts: list[int]) -> None:
        """In any pieces."""
        drawn = [(700, 3.0), (50, 1.0), (1300, 0.5)]
        whole = _mix(drawn, seed).rows(0, 3500)
        edges = sorted({0, 3500, *cuts})
        mix = _mix(drawn, seed)
        for start, stop in pairwise(edges):
            for found, expected in zip(mix.rows(start, stop), whole, strict=True):
                assert np.array_equal(found, expected[start:stop])

    def test_one_view_is_its_order(self) -> None:
        """Its weight does not matter."""
        sources, numbers = _mix([(100, 7.0)], 5).rows(30, 250)
        assert not sources.any()
        assert np.array_equal(numbers, Order(100, 5, OrderSettings(window=64)).rows(30, 250))

    def test_weights_that_cannot_be_kept_are_refused(self) -> None:
        """None, 0, or under one place in a stretch."""
        for drawn in ([], [(10, 1.0), (10, 0.0)], [(10, 1.0), (10, 1e-5)]):
            with pytest.raises(ConfigError, match="weights"):
                _mix(drawn, 0)


def _mix(drawn: list[tuple[int, float]], seed: int) -> Mix:
    chosen = OrderSettings(window=64)
    return Mix([Source(View(count), weight) for count, weight in drawn], seed, chosen)  # type: ignore[arg-type]


@st.composite
def spans(draw: st.DrawFn) -> tuple[Ints, Ints, Ints]:
    """Samples of a few shards that do not overlap, in any order; some twice."""
    rows = []
    for shard in range(draw(st.integers(1, 4))):
        place = 0
        for _ in range(draw(st.integers(0, 25))):
            place += draw(st.integers(0, 3000))
            size = draw(st.integers(1, 5000))
            rows.append((shard, place, place + size))
            place += size
    rows += draw(st.lists(st.sampled_from(rows), max_size=3)) if rows else []
    rows = draw(st.permutations(rows))
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    return columns[0], columns[1], columns[2]


class TestPlan:
    """Which ranges are asked for."""

    @settings(max_examples=150, deadline=None)
    @given(spans(), st.integers(0, 4000), st.integers(1, 30_000))
    def test_each_sample_is_in_one_piece(
        self, drawn: tuple[Ints, Ints, Ints], gap: int, most: int
    ) -> None:
        """Inside it; no gap and no piece is larger than allowed; no two could have been one."""
        shards, starts, stops = drawn
        pieces = plan(shards, starts, stops, gap=gap, most=most)
        found = np.concatenate([np.empty(0, np.int64), *(piece.samples for piece in pieces)])
        assert sorted(found.tolist()) == list(range(len(shards)))
        for piece in pieces:
            own = piece.samples
            assert (shards[own] == piece.shard).all()
            assert piece.start == starts[own].min() and piece.stop == stops[own].max()
            assert (starts[own][1:] - stops[own][:-1] <= gap).all()
            assert piece.stop - piece.start <= max(most, int((stops[own] - starts[own]).max()))
        places = [(piece.shard, piece.start) for piece in pieces]
        assert places == sorted(places)
        for a, b in pairwise(pieces):
            is_near = a.shard == b.shard and b.start - a.stop <= gap
            first = int(stops[b.samples[0]])
            assert not is_near or first - a.start > most

    def test_nothing_wanted_is_nothing_asked(self) -> None:
        """No samples, no pieces."""
        none = np.empty(0, np.int64)
        assert plan(none, none, none, gap=1, most=1) == []


class TestUniform:
    """Random numbers of a position."""

    @given(
        st.integers(0, 2**63),
        st.integers(0, 10**12),
        st.integers(1, 60),
        st.integers(1, 64),
    )
    def test_function_of_seed_and_position(
        self, seed: int, start: int, count: int, num: int
    ) -> None:
        """The same whatever else is asked for with it; in [0, 1)."""
        positions = np.arange(start, start + count)
        whole = uniform(seed, positions, num)
        assert whole.shape == (count, num)
        assert whole.min() >= 0 and whole.max() < 1
        place = count // 2
        alone = uniform(seed, positions[place : place + 1], num)
        assert np.array_equal(alone[0], whole[place])
        assert np.array_equal(uniform(seed, positions[::-1], num), whole[::-1])

    def test_even_and_independent(self) -> None:
        """Mean, variance, and correlation between positions, columns and seeds."""
        drawn = uniform(7, np.arange(20_000), 8)
        assert abs(drawn.mean() - 0.5) < 0.005 and abs(drawn.var() - 1 / 12) < 0.002
        other = uniform(8, np.arange(20_000), 8)
        for a, b in (
            (drawn[:-1].ravel(), drawn[1:].ravel()),
            (drawn[:, :-1].ravel(), drawn[:, 1:].ravel()),
            (drawn.ravel(), other.ravel()),
        ):
            assert abs(np.corrcoef(a, b)[0, 1]) < 0.01
        assert len(np.unique(drawn)) == drawn.size

    def test_permutation_is_of_all(self) -> None:
        """By the order of the numbers."""
        found = permutation(np.array([3, 1, 2], np.uint64))
        assert found.tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"connections": 0},
        {"memory_mb": 0},
        {"gap_kb": -1},
        {"retries": -1},
        {"cache_gb": -1},
        {"backoff_seconds": -1},
        {"piece_mb": 0},
        {"timeout_seconds": 0},
    ],
)
def test_read_settings_that_cannot_be_meant(changes: dict[str, float]) -> None:
    """The message names the setting."""
    with pytest.raises(ConfigError, match=next(iter(changes))):
        replace(ReadSettings(), **changes)  # type: ignore[arg-type]
