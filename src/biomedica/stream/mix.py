"""Several views as one sequence, each with its weight: replay of other pairs against forgetting.

The sequence is cut into stretches of `STRETCH` positions. In each, every view has its fixed number of
places, in an order drawn for the stretch; so what stands at a position is known without what went before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomedica.errors import ConfigError
from biomedica.stream.order import Order, OrderSettings, permutation
from biomedica.stream.samples import Samples

STRETCH = 1000
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Source:
    """A view and its share of the sequence."""

    samples: Samples
    weight: float = 1.0


class Mix:
    """The sequence of (view, sample). An epoch is one of the first view; the others go round by themselves."""

    def __init__(self, sources: Sequence[Source], seed: int, order: OrderSettings) -> None:
        if not sources or any(source.weight <= 0 for source in sources):
            raise ConfigError("a mix needs at least one view, and weights above 0")
        self.samples = [source.samples for source in sources]
        self._seed, self._settings = seed, order
        self._weights = [source.weight for source in sources]
        self._counts = shares(self._weights, STRETCH)
        if 0 in self._counts:
            raise ConfigError(
                f"weights {self._weights}: the least is under 1 in {STRETCH} of all; give it more or leave it out"
            )
        self._orders = [
            Order(len(each), seed + 7919 * number, order)
            for number, each in enumerate(self.samples)
        ]

    def state(self) -> dict[str, Any]:
        """What decides about the sequence."""
        return {
            "seed": self._seed,
            "samples": [each.digest for each in self.samples],
            "weights": self._weights,
            "order": asdict(self._settings),
        }

    def length(self, epochs: int) -> int:
        """Positions until the first view was seen so many times."""
        wanted = epochs * len(self.samples[0])
        if len(self.samples) == 1:
            return wanted
        stretches, rest = divmod(wanted, self._counts[0])
        if not rest:
            stretches, rest = stretches - 1, self._counts[0]
        places = np.flatnonzero(self._stretch(stretches)[0] == 0)
        return stretches * STRETCH + int(places[rest - 1]) + 1

    def rows(self, start: int, stop: int) -> tuple[Ints, Ints]:
        """Number of the view and of the sample in it, at positions [start, stop)."""
        if len(self.samples) == 1:
            return np.zeros(stop - start, np.int64), self._orders[0].rows(start, stop)
        parts = []
        for stretch in range(start // STRETCH, -(-stop // STRETCH)):
            base = stretch * STRETCH
            a, b = max(start, base) - base, min(stop, base + STRETCH) - base
            parts.append(self._part(stretch, a, b))
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def is_edge(self, start: int, stop: int) -> bool:
        """See `Order.is_edge`; of several views, none is better than another place."""
        return len(self.samples) == 1 and self._orders[0].is_edge(start, stop)

    def _part(self, stretch: int, a: int, b: int) -> tuple[Ints, Ints]:
        sources, ranks = (each[a:b] for each in self._stretch(stretch))
        numbers = np.empty(b - a, np.int64)
        for source in np.unique(sources).tolist():
            places = np.flatnonzero(sources == source)
            first = stretch * self._counts[source]
            low, high = int(ranks[places[0]]), int(ranks[places[-1]]) + 1
            numbers[places] = self._orders[source].rows(first + low, first + high)
        return sources, numbers

    def _stretch(self, number: int) -> tuple[Ints, Ints]:
        return _stretch(tuple(self._counts), self._seed, number)


@lru_cache(maxsize=64)
def _stretch(counts: tuple[int, ...], seed: int, number: int) -> tuple[Ints, Ints]:
    """Of each place of a stretch: its view, and how many of that view's places come before it."""
    views = np.repeat(np.arange(len(counts)), counts)
    random = np.random.PCG64(np.random.SeedSequence((seed, number, 4))).random_raw(STRETCH)
    mixed = views[permutation(random)]
    ranks = np.empty(STRETCH, np.int64)
    for view, count in enumerate(counts):
        ranks[mixed == view] = np.arange(count)
    return mixed, ranks


def shares(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers in the proportion of the weights, by largest remainder; their sum is `total`.

    >>> shares([1, 1, 2], 10)
    [3, 2, 5]
    """
    exact = [weight / sum(weights) * total for weight in weights]
    found = [int(each) for each in exact]
    rest = sorted(range(len(exact)), key=lambda i: found[i] - exact[i])
    for i in rest[: total - sum(found)]:
        found[i] += 1
    return found
