"""The way from votes to labels in order: assignment brought up to date, consensus, agreement, every image.

votes/<name>.sqlite + clusters/<name>/  ->  labels/<name>.parquet, .clusters.parquet, .json
labels/<name>.parquet + audits          ->  labels/<name>.audit.parquet
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from biomedica import cluster
from biomedica.agreement import AgreementReport, agreement_report
from biomedica.archive import Archive
from biomedica.cluster.train import Tell
from biomedica.errors import ArchiveError, ConfigError
from biomedica.features import FeatureSet
from biomedica.label import (
    AuditResult,
    AuditSettings,
    GoldScore,
    LabelSettings,
    Propagated,
    audit_result,
    consensus,
    draw_audit,
    gold_scores,
    is_stale,
    propagate,
    read_summary,
    write_audit,
)
from biomedica.taxonomy import load_taxonomy
from biomedica.votes import Vote, VoteStore, votes_path

_SEED = 0
"""Of the bootstrap over clusters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """What making labels came to."""

    name: str
    clustering: str
    propagated: Propagated
    agreement: AgreementReport
    gold: tuple[GoldScore, ...]
    num_reassigned: int
    """Shards whose images were assigned anew: they were added, or clusters were split."""


def make_labels(
    archive: Archive,
    name: str,
    settings: LabelSettings,
    *,
    run: str | None = None,
    taxonomy: Path | None = None,
    tell: Tell = lambda stage, done, total: None,
) -> Labelled:
    """Give every image the label of its cluster.

    name       of the clustering and of its votes
    run        name of the labels; that of the clustering by default
    taxonomy   file; None: the shipped one
    """
    tree = load_taxonomy(taxonomy)
    clustering = _up_to_date(archive, name, tell)
    with VoteStore.open(votes_path(archive, name)) as store:
        if store.round.model != cluster.model_digest(archive, name):
            raise ConfigError(
                f"{store.path} holds votes on another clustering than the {name!r} that stands now"
            )
        votes, gold = store.current_votes(), store.gold()
        settled = store.adjudications()
    clusters = cluster.read_clusters(archive, name)
    labels = consensus(votes, settled, tree, settings, clusters)
    agreement = agreement_report(that_count(votes, clusters), tree, _SEED)
    done = propagate(archive, run or name, name, labels, tree, settings, agreement)
    return Labelled(
        name=run or name,
        clustering=name,
        propagated=done,
        agreement=agreement,
        gold=tuple(gold_scores(votes, gold, tree)),
        num_reassigned=clustering.num_assigned,
    )


def that_count(votes: list[Vote], clusters: list[cluster.ClusterInfo]) -> list[Vote]:
    """The votes on clusters that were not split: those on their parts stand for the others."""
    split = {each.id for each in clusters if each.children}
    return [vote for vote in votes if vote.cluster not in split]


def _up_to_date(archive: Archive, name: str, tell: Tell) -> cluster.Clustered:
    """Splits and images that were added since the last pass are taken up."""
    info = cluster.read_info(archive, name)
    features = FeatureSet.open(archive, info["features"])
    settings = cluster.ClusterSettings(**info["settings"])
    return cluster.cluster(archive, features, settings, name, tell)


def audit_labels(
    archive: Archive, run: str, settings: AuditSettings, name: str | None = None
) -> AuditResult:
    """Precision of a label run from the checks so far, written beside the labels.

    name   of the votes file that holds the checks; that of the run by default
    """
    if is_stale(archive, read_summary(archive, run)):
        raise ArchiveError(
            f"labels {run!r} are out of date: shards are new or changed since; `biomedica labels make "
            f"{archive.root} --name {name or run} --run {run}` makes them again"
        )
    with VoteStore.open(votes_path(archive, name or run)) as store:
        audits = store.audits(run)
    draw = draw_audit(archive, run, settings.per_concept, settings.seed)
    found = audit_result(draw, audits)
    write_audit(archive, run, found, settings.per_concept, settings.seed)
    return found
