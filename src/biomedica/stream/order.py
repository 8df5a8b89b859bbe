"""The order in which samples are seen: a pure function of (number of samples, seed, settings).

An epoch takes the samples of a view, which stand in the order of their shards, and

1. turns them by a random number of places and cuts them into runs of `run` neighbours, so that one
   request brings a whole run;
2. deals the runs, in random order, to `lanes`;
3. shuffles each lane in windows of `window` samples, the only stretch that a reader must hold;
4. takes `block` samples from each lane in turn.

Nothing of it knows ranks, workers or batches: whoever reads position p gets the same sample. Lanes
are for many readers of a remote archive: where `block` is the batch of one reader and `lanes` the
number of readers, each of them stays in its own lane and nothing is fetched twice.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomedica.errors import ConfigError

Rows = NDArray[np.int64]
_KEPT_WINDOWS = 64
"""Shuffled windows that are remembered: at least one for each lane in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderSettings:
    """How the order mixes. A run that goes on from a checkpoint keeps the settings it began with."""

    shuffle: bool = True
    """Without it, the order of the view, epoch after epoch."""
    run: int = 8
    """Neighbouring samples that stay together until a window mixes them: what one request brings."""
    window: int = 8192
    """Samples that a lane mixes. A reader of a server holds about as many in memory; one of a disk, none."""
    lanes: int = 1
    """Parts of the order that are read apart; best the number of readers (ranks x workers)."""
    block: int = 256
    """Samples that are taken of one lane before the next has its turn; best one reader's batch."""

    def __post_init__(self) -> None:
        for name in ("run", "window", "lanes", "block"):
            if getattr(self, name) < 1:
                raise ConfigError(f"order.{name} is {getattr(self, name)}; at least 1 is expected")
        if self.window < self.run:
            raise ConfigError(
                f"order.window is {self.window}, less than order.run, {self.run}: nothing would mix"
            )


class Order:
    """The endless sequence of samples: epoch 0, epoch 1, ...; each holds every sample once."""

    def __init__(self, num_samples: int, seed: int, settings: OrderSettings) -> None:
        if num_samples < 1:
            raise ConfigError("the view has no samples; nothing can be read from it")
        self.num_samples = num_samples
        self._seed = seed
        self._settings = settings
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()

    def rows(self, start: int, stop: int) -> Rows:
        """Samples at positions [start, stop) of the sequence, each in [0, num_samples)."""
        parts = []
        while start < stop:
            epoch, place = divmod(start, self.num_samples)
            end = min(self.num_samples, place + stop - start)
            parts.append(self._epoch(epoch).rows(place, end))
            start += end - place
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def is_edge(self, start: int, stop: int) -> bool:
        """Whether the windows of all lanes end at a position in (start, stop], or the epoch does: what is
        fetched together is best cut there."""
        chosen = self._settings
        step = chosen.window * chosen.lanes
        epoch, place = divmod(stop - 1, self.num_samples)
        first = start - epoch * self.num_samples
        return first < 0 or place + 1 == self.num_samples or (place + 1) // step > first // step

    def _epoch(self, number: int) -> _Epoch:
        if number not in self._epochs:
            if len(self._epochs) == 2:
                self._epochs.popitem(last=False)
            self._epochs[number] = _Epoch(number, self.num_samples, self._seed, self._settings)
        return self._epochs[number]


class _Epoch:
    """Order of one epoch. Takes 8 bytes for each run."""

    def __init__(self, number: int, num_samples: int, seed: int, settings: OrderSettings) -> None:
        self._number, self._seed = number, seed
        self._num_samples = num_samples
        self._shuffled = settings.shuffle
        if not settings.shuffle:
            return
        self._run, self._window = settings.run, settings.window
        self._lanes, self._block = settings.lanes, settings.block
        num_runs = num_samples // settings.run
        self._shift = int(self._random(0, 1)[0] % np.uint64(num_samples))
        self._runs = permutation(self._random(1, num_runs))
        self._windows: OrderedDict[tuple[int, int], Rows] = OrderedDict()
        self._lengths = [
            len(range(lane, num_runs, self._lanes)) * self._run for lane in range(self._lanes)
        ]
        self._cycle = self._lanes * self._block
        self._regular = min(self._lengths) // self._block * self._cycle

    def _random(self, *place: int) -> NDArray[np.uint64]:
        """As many random numbers as the last of `place`; a stream of its own for the ones before."""
        *purpose, count = place
        seeds = np.random.SeedSequence((self._seed, self._number, *purpose))
        return np.random.PCG64(seeds).random_raw(count)

    def rows(self, start: int, stop: int) -> Rows:
        """Samples at positions [start, stop) of this epoch."""
        if not self._shuffled:
            return np.arange(start, stop)
        parts = []
        while start < min(stop, self._regular):
            cycle, rest = divmod(start, self._cycle)
            lane, offset = divmod(rest, self._block)
            first = cycle * self._block + offset
            count = min(self._block - offset, stop - start)
            parts.append(self._of_lane(lane, first, first + count))
            start += count
        if start < stop:
            parts.append(self._tail(start - self._regular, stop - self._regular))
        found = np.concatenate(parts)
        return np.asarray((found + self._shift) % self._num_samples)

    def _tail(self, start: int, stop: int) -> Rows:
        """What is left when the shortest lane gives no full block: of each lane in turn, then the
        samples that are too few for a run."""
        parts, place = [], 0
        done = self._regular // self._lanes
        for lane, length in enumerate(self._lengths):
            first, last = max(start, place), min(stop, place + length - done)
            if first < last:
                parts.append(self._of_lane(lane, done + first - place, done + last - place))
            place += length - done
        first, last = max(start, place), stop
        if first < last:
            base = len(self._runs) * self._run - place
            parts.append(np.arange(base + first, base + last))
        return np.concatenate(parts)

    def _of_lane(self, lane: int, start: int, stop: int) -> Rows:
        parts = []
        while start < stop:
            window, offset = divmod(start, self._window)
            count = min(self._window - offset, stop - start)
            parts.append(self._mixed(lane, window)[offset : offset + count])
            start += count
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _mixed(self, lane: int, window: int) -> Rows:
        """One window of a lane, shuffled."""
        found = self._windows.get((lane, window))
        if found is None:
            start = window * self._window
            places = np.arange(start, min(start + self._window, self._lengths[lane]))
            runs = self._runs[places // self._run * self._lanes + lane]
            rows = runs * self._run + places % self._run
            found = rows[permutation(self._random(2, lane, window, len(rows)))]
            self._windows[lane, window] = found
            while len(self._windows) > max(_KEPT_WINDOWS, 2 * self._lanes):
                self._windows.popitem(last=False)
        return found


def permutation(random: NDArray[np.uint64]) -> Rows:
    """The permutation that sorts random numbers: unlike numpy's own, the same in every version."""
    return np.argsort(random, kind="stable").astype(np.int64, copy=False)


def uniform(seed: int, positions_N: Rows, count: int) -> NDArray[np.float64]:
    """(N, count) in [0, 1), a function of (seed, position) alone: augmentation and choice of texts.

    SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014) as a hash.
    """
    start = np.random.SeedSequence((seed, 3)).generate_state(1, np.uint64)
    mixed: NDArray[Any] = np.asarray(positions_N, np.uint64)[:, None] * np.uint64(count)
    mixed = (mixed + np.arange(count, dtype=np.uint64) + start) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray((mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53)
