"""Which cluster an expert gets next: pure, from what stands in the votes file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

GOLD_SHARE = 0.1
"""Of the clusters that an expert is given, so many are taken from the gold ones while there are any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the queue knows about one expert and the round."""

    expert: int
    wanted: int
    """Answers wanted for each cluster."""
    answers: Mapping[int, int]
    """Votes that count, by cluster; clusters without one may be missing."""
    voted: frozenset[int]
    """Clusters that the expert has answered."""
    skipped: Mapping[int, int]
    """Clusters that the expert put off; the smaller the number, the earlier."""
    held: int | None = None
    """The cluster that the expert was given last and has not answered."""
    is_held_live: bool = False
    """That lease has not run out."""
    leases: Mapping[int, int] = field(default_factory=dict)
    """Other experts who have a cluster in front of them now, by cluster."""
    gold: frozenset[int] = frozenset()
    num_given: int = 0
    """Clusters that the expert was done with so far, answered or put off."""


def choose(standing: Standing, sizes: Mapping[int, int]) -> int | None:
    """The cluster to show; None where nothing is left that others don't have in front of them.

    sizes   images of every cluster that is in the round; split ones are not in it

    The cluster that the expert had is shown again. Then the one with the fewest answers (leases count as
    answers), of those the largest; clusters that the expert put off come after all others, oldest
    first. About one in ten is a gold cluster, whatever answers that has; nothing tells it from others.
    """
    open_clusters = [
        each for each in sizes if sizes[each] > 0 and each not in standing.voted and each >= 0
    ]
    wanting = [each for each in open_clusters if _load(standing, each) < standing.wanted]
    held = standing.held
    if held in open_clusters and (standing.is_held_live or held in wanting):
        return held
    fresh = [each for each in wanting if each not in standing.skipped]
    gold = [
        each for each in open_clusters if each in standing.gold and each not in standing.skipped
    ]
    if gold and fresh and _is_gold_turn(standing):
        return min(gold, key=lambda each: _drawn(standing.expert, each))
    if fresh:
        return min(fresh, key=lambda each: (_load(standing, each), -sizes[each], each))
    return min(wanting, key=lambda each: (standing.skipped[each], each), default=None)


def num_left(standing: Standing, sizes: Mapping[int, int]) -> int:
    """Clusters that want an answer that the expert could give, whoever has them in front of them.

    The one that the expert holds is among them, also a gold one that has its answers: the number must not
    tell it from others.
    """
    return sum(
        sizes[each] > 0
        and each not in standing.voted
        and (each == standing.held or standing.answers.get(each, 0) < standing.wanted)
        for each in sizes
    )


def _load(standing: Standing, cluster: int) -> int:
    return standing.answers.get(cluster, 0) + standing.leases.get(cluster, 0)


def _is_gold_turn(standing: Standing) -> bool:
    return _drawn(standing.expert, standing.num_given, "turn") < GOLD_SHARE


def _drawn(*what: object) -> float:
    """A number in [0, 1) that is always the same for the same things."""
    digest = hashlib.sha256(repr(what).encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
