"""What a cluster may be: the label of the labelled cluster that lies nearest to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biomedica.label import ClusterLabel, Status
from biomedica.records import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A label from nearby."""

    cluster: int
    """Where it is from."""
    distance: float
    """Between the centroids, in the components' space."""
    answer: Answer
    """Complete."""


def nearest_label(
    cluster: int,
    centroids_KP: NDArray[np.float32],
    radius: float,
    labels: Iterable[ClusterLabel],
) -> Suggestion | None:
    """The label of the nearest labelled cluster; None where there is none near.

    centroids_KP   row i is the centroid of cluster i
    radius         of this cluster: a labelled one farther away than twice that says nothing
    """
    known = {
        each.cluster: each.answer
        for each in labels
        if each.status is Status.LABELLED and each.cluster != cluster
    }
    if not known or cluster >= len(centroids_KP):
        return None
    ids = np.array(sorted(known))
    apart = np.linalg.norm(centroids_KP[ids] - centroids_KP[cluster], axis=1)
    place = int(np.argmin(apart))
    if apart[place] > 2 * radius:
        return None
    found = int(ids[place])
    return Suggestion(cluster=found, distance=float(apart[place]), answer=known[found])
