"""Which of the near training samples are the same picture as the benchmark's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image

from biomedica.evaluate.items import open_picture
from biomedica.evaluate.leak_search import Search
from biomedica.evaluate.overlap import NOTHING, Grey, Overlap, overlap
from biomedica.evaluate.readers.views import Shards
from biomedica.evaluate.settings import LeakSettings
from biomedica.stream.samples import Samples

Tier = Literal["exact", "phash", "embedding", "article"]
TIERS: tuple[Tier, ...] = ("exact", "phash", "embedding", "article")
"""The strongest first."""
_GREYS = 256
"""Training pictures that are held ready: many of the benchmark's have the same neighbours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A picture of the benchmark and a training sample, by their numbers."""

    picture: int
    number: int
    tier: Tier
    distance: int | None = None
    cosine: float | None = None
    correlation: float | None = None
    is_mirrored: bool | None = None


class Judge:
    """Compares the pictures of a finished search, or lets hashes and cosines decide."""

    def __init__(self, samples: Samples, found: Search, settings: LeakSettings) -> None:
        self._found, self._settings = found, settings
        near = {number for some in found.near_hashes.values() for number in some}
        for picture in range(len(found.pictures)):
            near.update(found.nearest.of(picture))
        self._place = {number: place for place, number in enumerate(sorted(near))}
        self._shards = Shards(samples, np.array(sorted(near), np.int64))
        self._trained = lru_cache(maxsize=_GREYS)(self._read)
        self.num_compared = 0

    def pairs(self, picture: int) -> Iterator[Pair]:
        """The samples that are the picture, each by its strongest tier."""
        same = sorted(self._found.same_bytes.get(picture, ()))
        cosines = self._found.nearest.of(picture)
        hashes = self._found.near_hashes.get(picture, {})
        for number in same:
            yield Pair(picture=picture, number=number, tier="exact", cosine=cosines.get(number))
        by_hash = sorted(set(hashes) - set(same), key=lambda each: (hashes[each].distance, each))
        tried = set(same)
        for numbers in (by_hash, list(cosines)):  # of a crowd by hash, some may be first by cosine
            for number, fit in self._the_same(picture, numbers, tried):
                near = hashes.get(number)
                turned = fit or near
                yield Pair(
                    picture=picture,
                    number=number,
                    tier="phash" if near else "embedding",
                    distance=near.distance if near else None,
                    cosine=cosines.get(number),
                    correlation=fit.correlation if fit else None,
                    is_mirrored=turned.is_mirrored if turned else None,
                )

    def _the_same(
        self, picture: int, numbers: Iterable[int], tried: set[int]
    ) -> Iterator[tuple[int, Overlap | None]]:
        """Those of the numbers, nearest first, that convince; ends after as many misses as are allowed.

        tried   numbers that are passed over; those that are looked at are added
        """
        own: Grey | None = None
        misses = 0
        for number in numbers:
            if number in tried:
                continue
            tried.add(number)
            if not self._settings.verify:
                yield number, None
                continue
            own = own or self._own(picture)
            other = self._trained(number)
            fit = NOTHING if other is None else overlap(own, other)
            self.num_compared += 1
            if fit.convinces(self._settings.min_correlation):
                misses = 0
                yield number, fit
                continue
            misses += 1
            if misses == self._settings.candidates:
                return

    def _own(self, picture: int) -> Grey:
        pictures = self._found.pictures
        return Grey.of(pictures.items.picture(pictures.first_P[picture]))

    def _read(self, number: int) -> Grey | None:
        """A training picture; None where it does not decode."""
        data = self._shards.member(self._place[number], "jpg")
        try:
            return Grey.of(open_picture(data))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None
