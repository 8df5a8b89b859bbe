"""What the pages know of a round: clusters, their images, votes and consensus.

What costs time is made once and kept until something it rests on changes: a split, a new pass of
`biomedica cluster`, a new event.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from biomedica.agreement import AgreementReport, agreement_report
from biomedica.archive import Archive
from biomedica.cluster import ClusterInfo, Member, read_clusters
from biomedica.cluster.model import Model, folder_of, load_model, read_all_members
from biomedica.errors import BiomedicaError
from biomedica.explore.links import Links
from biomedica.explore.pictures import Facts, Pictures
from biomedica.explore.settings import LabelPageSettings
from biomedica.explore.suggest import Suggestion, Words, centre, nearest_label
from biomedica.label import (
    AuditImage,
    AuditSettings,
    ClusterLabel,
    LabelSettings,
    consensus,
    draw_audit,
)
from biomedica.label.propagate import labels_path
from biomedica.taxonomy import Taxonomy
from biomedica.votes import VoteStore

Made = TypeVar("Made")

_SUGGESTION_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An image on a page."""

    facts: Facts
    kind: str
    """`nearest`, `random` or `farthest`."""


class Desk:
    """One round of labelling. Threads may share it."""

    def __init__(
        self,
        archive: Archive,
        name: str,
        store: VoteStore,
        taxonomy: Taxonomy,
        links: Links,
        settings: LabelPageSettings,
        label_settings: LabelSettings,
        audit_settings: AuditSettings,
    ) -> None:
        self.archive = archive
        self.name = name
        self.store = store
        self.taxonomy = taxonomy
        self.links = links
        self.settings = settings
        self.label_settings = label_settings
        self.audit_settings = audit_settings
        self.words: Words | None = None
        """Set where concepts are suggested by their words."""
        self.model = store.round.model
        self.pictures = Pictures(archive, settings.cache_megabytes << 20)
        self._folder = folder_of(archive, name)
        self._drawn: dict[str, str] = {}
        self._kept: dict[str, tuple[Hashable, Any]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def _once(self, what: str, state: Hashable, make: Callable[[], Made]) -> Made:
        """The thing as it was made for this state, or made now; one thread makes it, others wait."""
        with self._lock:
            lock = self._locks.setdefault(what, threading.Lock())
        with lock:
            kept = self._kept.get(what)
            if kept is None or kept[0] != state:
                kept = (state, make())
                self._kept[what] = kept
            found: Made = kept[1]
            return found

    def _clustering(self) -> Hashable:
        """Changes with every split and every pass over the archive."""
        splits = sorted(path.parent.name for path in self._folder.glob("splits/*/split.json"))
        passes = [
            (self._folder / name).stat().st_mtime_ns
            for name in ("sizes.parquet", "members.parquet")
        ]
        return (*splits, *passes)

    def clusters(self) -> dict[int, ClusterInfo]:
        """Every cluster by id, split ones too."""

        def make() -> dict[int, ClusterInfo]:
            return {each.id: each for each in read_clusters(self.archive, self.name)}

        return self._once("clusters", self._clustering(), make)

    def sizes(self) -> dict[int, int]:
        """Images of the clusters that are in the round: those that hold any and were not split."""
        return {
            each.id: each.size
            for each in self.clusters().values()
            if not each.children and each.size
        }

    def _members(self) -> tuple[dict[int, list[Member]], dict[str, str]]:
        """Members by cluster, and the shard of every key among them."""

        def make() -> tuple[dict[int, list[Member]], dict[str, str]]:
            members = read_all_members(self.archive, self.name)
            shards = {each.key: each.shard for group in members.values() for each in group}
            return members, shards

        return self._once("members", self._clustering(), make)

    def images(self, cluster: int) -> list[Shown]:
        """The images that stand for a cluster, in order; withdrawn ones are left out."""
        members = self._members()[0].get(cluster, [])[: self.settings.images]
        facts = self.pictures.facts((each.key, each.shard) for each in members)
        return [Shown(facts=facts[m.key], kind=m.kind) for m in members if m.key in facts]

    def keys(self, cluster: int) -> set[str]:
        """Keys that a vote on the cluster may speak of."""
        return {each.key for each in self._members()[0].get(cluster, [])}

    def find(self, key: str) -> Facts | None:
        """A sample that some page shows; None for every other key."""
        shard = self._members()[1].get(key) or self._drawn.get(key)
        return self.pictures.facts([(key, shard)]).get(key) if shard else None

    def draw(self, run: str) -> Sequence[AuditImage]:
        """The images to audit of a label run. Raises `ConfigError` where there is no such run."""
        state = labels_path(self.archive, run).stat().st_mtime_ns
        settings = self.audit_settings

        def make() -> list[AuditImage]:
            draw = draw_audit(self.archive, run, settings.per_concept, settings.seed)
            self._drawn = {**self._drawn, **{each.key: each.shard for each in draw}}
            return draw

        return self._once(f"draw {run}", state, make)

    def present(self, run: str) -> Sequence[AuditImage]:
        """Those of the draw that the archive still holds: it may have been compacted since."""
        draw = self.draw(run)
        shards = sorted({each.shard for each in draw})

        def make() -> list[AuditImage]:
            keys = {shard: self.pictures.keys(shard) for shard in shards}
            return [each for each in draw if each.key in keys[each.shard]]

        labels = labels_path(self.archive, run).stat().st_mtime_ns
        return self._once(f"present {run}", (labels, self.pictures.changed(shards)), make)

    def open_clusters(self, expert: int) -> set[int]:
        """Clusters that may still come to an expert: they have not voted, and answers are wanted."""

        def make() -> set[tuple[int, int]]:
            return {(each.cluster, each.expert) for each in self.store.current_votes()}

        votes = self._once("who voted", self.store.version()[0], make)
        answers = Counter(cluster for cluster, _ in votes)
        wanted = self.store.round.answers
        return {
            each for each in self.sizes() if (each, expert) not in votes and answers[each] < wanted
        }

    def labels(self) -> list[ClusterLabel]:
        """What the votes of now say of every cluster in the round."""
        state = (self.store.version(), self._clustering())

        def make() -> list[ClusterLabel]:
            return consensus(
                self.store.current_votes(),
                self.store.adjudications(),
                self.taxonomy,
                self.label_settings,
                self.clusters().values(),
            )

        return self._once("labels", state, make)

    def agreement(self) -> AgreementReport:
        """How far the experts agree, with intervals from 1,000 resamples."""
        state = (self.store.version(), self._clustering())

        def make() -> AgreementReport:
            retired = {each.id for each in self.clusters().values() if each.children}
            votes = [each for each in self.store.current_votes() if each.cluster not in retired]
            return agreement_report(votes, self.taxonomy, seed=0)

        return self._once("agreement", state, make)

    def suggestion(self, cluster: int) -> Suggestion | None:
        """The label of a cluster nearby, from the votes of the last half minute (consensus over all
        clusters takes longer than an expert should wait for the next page), else what words say."""

        def make() -> Model:
            return load_model(self.archive, self.name)

        state = self._clustering()
        model = self._once("model", state, make)
        centroids = self._once("centroids", state, model.all_centroids)
        lately = int(time.monotonic() / _SUGGESTION_SECONDS)
        try:
            labels = self._once("labels nearby", (state, lately), self.labels)
        except BiomedicaError:  # votes that were imported meanwhile, of another taxonomy
            labels = []
        found = nearest_label(cluster, centroids, self.clusters()[cluster].radius, labels)
        if found is None and self.words is not None:
            found = self.words.nearest(centre(model.projection, centroids[cluster]))
        return found
