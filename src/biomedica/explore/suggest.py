"""What a cluster may be: the label of the labelled cluster that lies nearest to it, or the concept whose
name and definition do, where the encoder reads words too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biomedica.archive import Archive
from biomedica.cluster import read_info
from biomedica.cluster.kmeans import Projection
from biomedica.errors import ConfigError
from biomedica.features import FeatureSet
from biomedica.label import ClusterLabel, Status
from biomedica.models import Encoder, open_encoder
from biomedica.preprocessing import Fit
from biomedica.records import Answer
from biomedica.taxonomy import Taxonomy


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A label from nearby."""

    cluster: int | None
    """Where it is from; None: from the words of the concepts."""
    answer: Answer
    """Complete, but for the panels of one that is from words."""


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
    return Suggestion(cluster=found, answer=known[found])


class Words:
    """The concepts of a taxonomy as an encoder of pictures and words sees them."""

    def __init__(self, encoder: Encoder, taxonomy: Taxonomy) -> None:
        self._taxonomy = taxonomy
        self._ids = list(taxonomy.concepts)
        concepts = taxonomy.concepts.values()
        self._texts_CD = encoder.texts([f"{each.name}. {each.definition}" for each in concepts])

    def nearest(self, centre_D: NDArray[np.float32]) -> Suggestion:
        """The concept nearest to the centre of a cluster, by cosine, with those that it implies."""
        found = self._ids[int(np.argmax(self._texts_CD @ centre_D))]
        is_local = self._taxonomy.concepts[found].parent is not None
        answer = Answer(
            global_concepts=() if is_local else (found,),
            local_concepts=(found,) if is_local else (),
        )
        return Suggestion(cluster=None, answer=self._taxonomy.complete(answer))


def open_words(archive: Archive, name: str, taxonomy: Taxonomy) -> Words:
    """Load the encoder that a clustering's features are from. Raises `ConfigError` where that reads no
    words or has other weights now."""
    features = FeatureSet.open(archive, read_info(archive, name)["features"])
    fit: Fit = "crop" if features.info.get("preprocessing", {}).get("fit") == "crop" else "pad"
    encoder = open_encoder(features.info["encoder"], fit=fit)
    if encoder.digest != features.digest:
        raise ConfigError(
            f"features {features.name!r} are from other weights than {encoder.name} has now; "
            "page.text_suggestions needs the same ones"
        )
    return Words(encoder, taxonomy)


def centre(projection: Projection, centroid_P: NDArray[np.float32]) -> NDArray[np.float32]:
    """A centroid in the features' own space, (D,)."""
    if not len(projection.components_PD):
        return centroid_P
    return np.asarray(projection.mean_D + centroid_P @ projection.components_PD, dtype=np.float32)
