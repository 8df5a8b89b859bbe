"""Votes to labels: consensus and its constraints, labels of images, audits of them."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from biomedica import cluster
from biomedica.agreement import agreement_report
from biomedica.archive import Archive
from biomedica.errors import ArchiveError, ConfigError
from biomedica.label import (
    AUDIT,
    CLUSTER_LABELS,
    LABELS,
    AuditImage,
    ClusterLabel,
    LabelSettings,
    Propagated,
    Status,
    audit_result,
    consensus,
    draw_audit,
    gold_scores,
    propagate,
    read_audit,
    read_summary,
    wilson_interval,
    write_audit,
)
from biomedica.label.audit import allocate
from biomedica.records import Answer
from biomedica.taxonomy import load_taxonomy
from biomedica.votes import Audit, Settlement, Vote
from feature_archives import give_features, small_archive

TAXONOMY = load_taxonomy()
NAMES = tuple(TAXONOMY.concepts)
NOTHING = Answer()
PLOTS = Answer(
    panel_type="single", panel_subtype="single-panel", global_concepts=("plots-and-charts",)
)
BLOTS = replace(PLOTS, global_concepts=("assays",))


def ballot(
    expert: int,
    cluster: int = 0,
    answer: Answer = PLOTS,
    verdict: str = "answered",
    outliers: tuple[str, ...] = (),
    shown: tuple[str, ...] = (),
) -> Vote:
    """A vote."""
    return Vote(
        expert=expert,
        cluster=cluster,
        verdict=verdict,
        answer=answer,
        outliers=outliers,
        shown=shown,
        seconds=1.0,
        at="",
    )


def settlement(answer: Answer, verdict: str = "answered", reason: str = "seen") -> Settlement:
    """An adjudicator's decision on cluster 0."""
    return Settlement(expert=9, cluster=0, verdict=verdict, answer=answer, reason=reason, at="")


def info(number: int, children: tuple[int, ...] = ()) -> cluster.ClusterInfo:
    """A cluster."""
    return cluster.ClusterInfo(
        id=number, size=9, mean_distance=0.1, radius=0.2, parent=None, children=children
    )


def the_label(*votes: Vote, settled: Settlement | None = None, **changes: float) -> ClusterLabel:
    """The label of cluster 0."""
    (found,) = consensus(
        votes,
        [] if settled is None else [settled],
        TAXONOMY,
        LabelSettings(**changes),  # type: ignore[arg-type]
        [info(0)],
    )
    return found


def vote_each(*answers: Answer | str) -> list[Vote]:
    """A vote of an expert for each answer, or verdict."""
    return [
        ballot(i, verdict=each, answer=NOTHING) if isinstance(each, str) else ballot(i, answer=each)
        for i, each in enumerate(answers)
    ]


def of_concepts(*names: str) -> Answer:
    """An answer of concepts alone."""
    below = tuple(name for name in names if TAXONOMY.concepts[name].parent)
    return Answer(global_concepts=tuple(n for n in names if n not in below), local_concepts=below)


def test_majority() -> None:
    """Two of three: their answer, their share, the third's dissent."""
    found = the_label(*vote_each(PLOTS, BLOTS, PLOTS))
    assert (found.status, found.answer) == (Status.LABELLED, PLOTS)
    assert found.confidence == pytest.approx(2 / 3)
    (other,) = found.dissent
    assert (other.question, other.answer, other.num_votes) == ("global_concepts", "assays", 1)
    assert other.share == pytest.approx(1 / 3)


def test_majority_backs_off_to_what_experts_share() -> None:
    """Three experts name three kinds of one concept: that concept stands, none of the three does."""
    kinds = [each.id for each in TAXONOMY.children("microscopy")][:3]
    found = the_label(*vote_each(*(of_concepts(each) for each in kinds)))
    assert found.answer == of_concepts("microscopy")
    assert found.confidence == 1
    assert {each.answer for each in found.dissent} == set(kinds)


def test_a_local_concept_needs_a_majority_of_all_who_answered() -> None:
    """Two of five name a kind under a concept that three of five name: the kind does not stand."""
    kind = TAXONOMY.children("microscopy")[0].id
    answers = [of_concepts(kind)] * 2 + [of_concepts("microscopy")] + [of_concepts("maps")] * 2
    found = the_label(*vote_each(*answers))
    assert found.answer == of_concepts("microscopy")
    assert found.confidence == pytest.approx(3 / 5)


@pytest.mark.parametrize(
    ("votes", "status", "reason"),
    [
        (vote_each(), Status.UNLABELLED, None),
        (vote_each(PLOTS), Status.UNDECIDED, "1 of 2 votes"),
        (vote_each(PLOTS, BLOTS), Status.UNDECIDED, "no majority for global_concepts"),
        (
            vote_each(PLOTS, replace(PLOTS, panel_type="multiple", panel_subtype=None)),
            Status.UNDECIDED,
            "no majority for panel_type",
        ),
        (vote_each("ambiguous", "mixed", PLOTS), Status.AMBIGUOUS, None),
        (
            vote_each("ambiguous", PLOTS),
            Status.UNDECIDED,
            "no majority on whether it can be answered",
        ),
        (vote_each(NOTHING, NOTHING), Status.UNDECIDED, "no question was answered"),
        (vote_each("ambiguous", PLOTS, PLOTS), Status.LABELLED, None),
    ],
)
def test_status(votes: list[Vote], status: Status, reason: str | None) -> None:
    """What stands, and why nothing does; only a labelled cluster has an answer."""
    found = the_label(*votes)
    assert (found.status, found.reason) == (status, reason)
    assert (found.answer != NOTHING) == (status is Status.LABELLED)
    assert (found.confidence is not None) == (status is Status.LABELLED)


def test_confidence_counts_the_verdict() -> None:
    """One of three says that it can't be answered: the others are not surer than 2 of 3."""
    assert the_label(*vote_each("ambiguous", PLOTS, PLOTS)).confidence == pytest.approx(2 / 3)


def test_majorities_that_contradict_each_other() -> None:
    """Three experts see a single panel with two concepts each; together they would see three."""
    pairs = (("maps", "tables"), ("maps", "assays"), ("tables", "assays"))
    answers = [replace(PLOTS, global_concepts=pair) for pair in pairs]
    found = the_label(*vote_each(*answers))
    assert found.status is Status.UNDECIDED
    assert "at most 2 global concepts" in (found.reason or "")


def test_a_subtype_gives_way() -> None:
    """Most chose a subtype that asks for plots, some of them without concepts; most saw maps."""
    plots = Answer(panel_type="multiple", panel_subtype="multiple-plots")
    with_maps = replace(plots, global_concepts=("plots-and-charts", "maps"))
    maps = Answer(panel_type="multiple", global_concepts=("maps",))
    found = the_label(*vote_each(plots, with_maps, with_maps, maps, maps))
    assert found.answer == maps
    assert found.dissent[0].answer == "multiple-plots"


@pytest.mark.parametrize("verdict", ["answered", "ambiguous", "mixed"])
def test_adjudication_wins(verdict: str) -> None:
    """Over a majority too; its reason is kept, and so are the shares of the votes."""
    answer = BLOTS if verdict == "answered" else NOTHING
    settled = settlement(answer, verdict, "bands, not bars")
    found = the_label(*vote_each(PLOTS, PLOTS, BLOTS), settled=settled)
    assert found.is_adjudicated
    assert found.reason == "bands, not bars"
    if verdict == "answered":
        assert (found.status, found.answer) == (Status.LABELLED, BLOTS)
        assert found.confidence == pytest.approx(1 / 3)
        assert found.dissent[0].answer == "plots-and-charts"
    else:
        assert (found.status, found.answer) == (Status.AMBIGUOUS, NOTHING)


def test_adjudication_without_votes() -> None:
    """It needs none; nobody's share is known then. The last one holds."""
    first = settlement(PLOTS)
    labels = consensus(
        [], [first, replace(first, answer=BLOTS)], TAXONOMY, LabelSettings(), [info(0)]
    )
    assert (labels[0].answer, labels[0].confidence) == (BLOTS, None)


def test_split_clusters() -> None:
    """Votes on a cluster that was split count no more; its parts have their own."""
    votes = [*vote_each(PLOTS, PLOTS), ballot(1, 1, BLOTS), ballot(2, 1, BLOTS)]
    clusters = [info(0, children=(1, 2)), info(1), info(2)]
    labels = consensus(votes, [], TAXONOMY, LabelSettings(), clusters)
    assert [(each.cluster, each.status.value) for each in labels] == [
        (1, "labelled"),
        (2, "unlabelled"),
    ]
    assert labels[0].answer == BLOTS


def test_refused() -> None:
    """Votes of another clustering or taxonomy, and settings that can't be meant."""
    with pytest.raises(ConfigError, match="such as 7"):
        consensus([ballot(1, 7)], [], TAXONOMY, LabelSettings(), [info(0)])
    with pytest.raises(ConfigError, match=r"expert 1 on cluster 0 .*no concept 'plot'"):
        the_label(ballot(1, answer=Answer(global_concepts=("plot",))))
    for wrong in ({"majority": 0.4}, {"min_votes": 0}, {"outlier_share": 0.0}):
        with pytest.raises(ConfigError, match=f"label.{next(iter(wrong))} is"):
            LabelSettings(**wrong)  # type: ignore[arg-type]


def test_outliers() -> None:
    """Marked by at least half of those who were shown the image."""
    votes = [
        ballot(1, outliers=("a", "b"), shown=("a", "b", "c")),
        ballot(2, outliers=("a",), shown=("a", "b", "c")),
        ballot(3, shown=("a", "b", "c")),
        ballot(4, outliers=("c",), shown=("c", "d")),
        ballot(5, outliers=("d",), shown=("d",)),
    ]
    assert the_label(*votes).outliers == ("a", "d")
    assert the_label(*votes, outlier_share=1.0).outliers == ()
    assert the_label(*votes, outlier_share=0.2).outliers == ("a", "b", "c", "d")


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    """An answer that the taxonomy allows."""
    found = of_concepts(*draw(st.lists(st.sampled_from(NAMES), max_size=3, unique=True)))
    subtype = draw(st.sampled_from([None, *(each.id for each in TAXONOMY.panel_subtypes)]))
    panel_type = draw(st.sampled_from([None, *(each.id for each in TAXONOMY.panel_types)]))
    for answer in (
        replace(found, panel_type=panel_type, panel_subtype=subtype),
        replace(found, panel_subtype=subtype),
        replace(found, panel_type=panel_type),
    ):
        if not TAXONOMY.check(answer):
            return answer
    return found


FEW = st.lists(answers(), min_size=1, max_size=3)
"""Few different answers, so that some get a majority."""
VERDICTS = st.sampled_from(["answered"] * 6 + ["ambiguous", "mixed"])


@st.composite
def ballots(draw: st.DrawFn) -> list[Vote]:
    """Votes of up to seven experts on one cluster."""
    few = draw(FEW)
    return [
        ballot(expert, 0, draw(st.sampled_from(few)), draw(VERDICTS))
        for expert in range(draw(st.integers(0, 7)))
    ]


@settings(max_examples=300, deadline=None)
@given(ballots(), st.randoms(), st.sampled_from([0.5, 0.6, 0.75]))
def test_consensus_keeps_its_promises(
    votes: list[Vote], shuffle: random.Random, majority: float
) -> None:
    """Order changes nothing; a label fits the taxonomy, is complete, and a majority is behind all of it."""
    found = the_label(*votes, majority=majority)
    other = votes[:]
    shuffle.shuffle(other)
    assert the_label(*other, majority=majority) == found
    assert TAXONOMY.check(found.answer) == ()
    assert TAXONOMY.complete(found.answer) == found.answer
    if found.status is Status.LABELLED:
        assert found.confidence is not None
        assert majority < found.confidence <= 1
        assert all(each.share > majority for each in found.support)
    said = Counter(vote.verdict for vote in votes)
    stands = {(each.question, each.answer) for each in found.support}
    assert not stands & {(each.question, each.answer) for each in found.dissent}
    shown = [each for each in (*found.support, *found.dissent) if each.question == "verdict"]
    assert {each.answer: each.num_votes for each in shown} == said


@settings(max_examples=100, deadline=None)
@given(answers(), st.integers(2, 6))
def test_unanimous_votes(answer: Answer, number: int) -> None:
    """Give exactly that answer, completed."""
    found = the_label(*vote_each(*[answer] * number))
    complete = TAXONOMY.complete(answer)
    assert found.answer == complete
    assert found.status is (Status.UNDECIDED if complete == NOTHING else Status.LABELLED)
    if found.status is Status.LABELLED:
        assert (found.confidence, found.dissent) == (1, ())


def test_gold() -> None:
    """Exact answers and similar ones; another verdict is wrong; what gold leaves open is not scored."""
    gold = {0: of_concepts("maps", "tables"), 1: PLOTS}
    votes = [
        ballot(1, 0, of_concepts("maps")),
        ballot(1, 1, PLOTS),
        ballot(2, 1, verdict="ambiguous"),
        ballot(2, 5, PLOTS),
    ]
    scores = {(each.expert, each.question): each for each in gold_scores(votes, gold, TAXONOMY)}
    top = scores[1, "global_concepts"]
    assert (top.num_clusters, top.num_right) == (2, 1)
    assert top.similarity == pytest.approx((1 / 2 * 2 / 3 + 1) / 2)
    assert scores[1, "panel_type"].num_clusters == 1
    assert scores[2, "global_concepts"].similarity == 0
    assert (3, "panel_type") not in scores


# Labels of images


def audited(expert: int, key: str, concept: str, answer: str) -> Audit:
    """An auditor's answer."""
    return Audit(
        event="", expert=expert, run="first", key=key, concept=concept, answer=answer, seconds=1.0
    )


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of 60 images in five clusters; two images have no features."""
    archive = small_archive(tmp_path_factory.mktemp("label"))
    features = give_features(archive, bad=(0, 3))
    cluster.cluster(archive, features, cluster.ClusterSettings(clusters=5, components=4))
    return archive.root


@pytest.fixture
def archive(clustered: Path, tmp_path: Path) -> Iterator[Archive]:
    """A copy of it."""
    shutil.copytree(clustered, tmp_path / "archive")
    yield Archive(tmp_path / "archive")


def assigned(archive: Archive) -> list[tuple[str, str, int]]:
    """(key, shard, cluster) of every row, in order."""
    return [
        (row["key"], shard, row["cluster"])
        for shard, table in cluster.read_assignment(archive, "default")
        for row in table.to_pylist()
    ]


def votes_on(archive: Archive) -> list[Vote]:
    """Clusters 0 and 1 are plots and blots, 2 is ambiguous, 3 is undecided, the others have no vote.
    Both experts mark the first image of cluster 0."""
    first = next(key for key, _, number in assigned(archive) if number == 0)
    marks = {"outliers": (first,), "shown": (first,)}
    return [
        *(ballot(expert, 0, PLOTS, **marks) for expert in (1, 2)),
        *(ballot(expert, 1, BLOTS) for expert in (1, 2)),
        *(ballot(expert, 2, NOTHING, "ambiguous") for expert in (1, 2)),
        ballot(1, 3, PLOTS),
    ]


def label(archive: Archive, votes: list[Vote], name: str = "first") -> Propagated:
    """Consensus and propagation, as the command has them."""
    own = LabelSettings()
    clusters = cluster.read_clusters(archive, "default")
    labels = consensus(votes, [], TAXONOMY, own, clusters)
    report = agreement_report(votes, TAXONOMY, seed=0, num_resamples=20)
    return propagate(archive, name, "default", labels, TAXONOMY, own, report)


def test_propagate(archive: Archive) -> None:
    """Every image that counts has its cluster's label; the counts are those of the file."""
    everything = assigned(archive)
    gone = everything[-1]
    archive.set_tombstones(
        [{"key": gone[0], "shard": gone[1], "pmcid": "PMC1", "version": 1, "reason": "retracted"}]
    )
    votes = votes_on(archive)
    done = label(archive, votes)
    table = pq.read_table(archive.root / "labels" / "first.parquet")
    assert table.schema.equals(LABELS)
    rows = table.to_pylist()
    expected = [row for row in everything if row[2] >= 0 and row != gone]
    assert [(row["key"], row["shard"], row["cluster"]) for row in rows] == expected
    assert (done.num_images, done.num_unassigned, done.num_withdrawn) == (len(expected), 2, 1)
    assert Counter(row["status"] for row in rows) == +Counter(done.by_status)
    assert done.by_status["outlier"] == 1
    by_cluster = {0: "labelled", 1: "labelled", 2: "ambiguous", 3: "undecided", 4: "unlabelled"}
    for row in rows:
        is_outlier = row["key"] in votes[0].outliers
        assert row["status"] == ("outlier" if is_outlier else by_cluster[row["cluster"]])
        is_labelled = row["status"] == "labelled"
        wanted = (PLOTS, BLOTS)[row["cluster"]] if is_labelled else NOTHING
        assert row["global_concepts"] == list(wanted.global_concepts)
        assert row["panel_subtype"] == wanted.panel_subtype
        assert row["confidence"] == (1 if is_labelled else None)


def test_cluster_labels_and_summary(archive: Archive) -> None:
    """One row a cluster with the shares; the summary says what the run rests on."""
    votes = [*votes_on(archive), ballot(3, 0, BLOTS)]
    label(archive, votes)
    table = pq.read_table(archive.root / "labels" / "first.clusters.parquet")
    assert table.schema.equals(CLUSTER_LABELS)
    rows = table.to_pylist()
    assert [row["cluster"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[0]["global_shares"] == [pytest.approx(2 / 3)]
    assert rows[0]["panel_type_share"] == 1
    assert rows[0]["num_outliers"] == 1
    assert rows[0]["dissent"][0]["answer"] == "assays"
    assert rows[2]["verdict_share"] == 0
    assert rows[3]["reason"] == "1 of 2 votes"
    assert sum(row["num_images"] for row in rows) == 58
    summary = read_summary(archive, "first")
    assert summary["model"] == cluster.model_digest(archive, "default")
    assert summary["taxonomy_digest"] == TAXONOMY.digest
    assert summary["agreement"]["num_votes"] == len(votes)
    assert summary["settings"]["min_votes"] == 2
    assert summary["counts"]["clusters_by_status"]["labelled"] == 2


def test_same_input_same_bytes(archive: Archive) -> None:
    """Votes in another order, another run: the same three files."""
    votes = votes_on(archive)
    label(archive, votes, "one")
    label(archive, votes[::-1], "two")
    for ending in (".parquet", ".clusters.parquet", ".json"):
        one, two = (archive.root / "labels" / f"{name}{ending}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    assert not list((archive.root / "labels").glob(".*"))


def test_stale_assignment(archive: Archive) -> None:
    """After a split the images have to be assigned again; labels of before the split don't fit."""
    votes = votes_on(archive)
    before = consensus(
        votes, [], TAXONOMY, LabelSettings(), cluster.read_clusters(archive, "default")
    )
    children = cluster.split_cluster(archive, "default", 0)
    with pytest.raises(ArchiveError, match="biomedica cluster"):
        label(archive, votes)
    features = give_features(archive)
    cluster.cluster(archive, features, cluster.ClusterSettings(clusters=5, components=4))
    with pytest.raises(ArchiveError, match="has no label"):
        propagate(archive, "first", "default", before, TAXONOMY, LabelSettings())
    done = label(archive, votes)
    assert done.clusters_by_status["unlabelled"] == 1 + len(children)
    assert done.by_status["outlier"] == 0


def test_names(archive: Archive) -> None:
    """A name that is a path, and one that nobody made."""
    with pytest.raises(ConfigError, match="no name for labels"):
        read_summary(archive, "../x")
    with pytest.raises(ConfigError, match="has no labels 'x'"):
        draw_audit(archive, "x", 5, 0)


# Audits


def test_draw(archive: Archive) -> None:
    """The same again; only images with the concept; every one once; weights sum to the images."""
    label(archive, votes_on(archive))
    draw = draw_audit(archive, "first", 5, seed=1)
    assert (
        draw == draw_audit(archive, "first", 5, seed=1) != draw_audit(archive, "first", 5, seed=2)
    )
    rows = pq.read_table(archive.root / "labels" / "first.parquet").to_pylist()
    of_plots = {row["key"] for row in rows if "plots-and-charts" in row["global_concepts"]}
    drawn = [each for each in draw if each.concept == "plots-and-charts"]
    assert len({each.key for each in drawn}) == 5
    assert {each.key for each in drawn} <= of_plots
    assert sum(each.weight for each in drawn) == pytest.approx(len(of_plots))
    everything = draw_audit(archive, "first", 1000, seed=1)
    assert {each.key for each in everything if each.concept == "plots-and-charts"} == of_plots
    assert {each.weight for each in everything} == {1.0}


def test_draw_leaves_withdrawn_images_out(archive: Archive) -> None:
    """Also those that were withdrawn after the labels were made."""
    label(archive, votes_on(archive))
    gone = draw_audit(archive, "first", 1000, seed=0)[0]
    archive.set_tombstones(
        [{"key": gone.key, "shard": gone.shard, "pmcid": "P", "version": 1, "reason": "retracted"}]
    )
    assert gone.key not in {each.key for each in draw_audit(archive, "first", 1000, seed=0)}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=30), st.integers(1, 60), st.integers(0, 99)
)
def test_allocation(sizes: list[int], total: int, seed: int) -> None:
    """As many as asked for, never more than there are, one of each stratum where that fits."""
    found, _ = allocate(np.array(sizes), total, np.random.default_rng(seed))
    assert found.sum() == min(total, sum(sizes))
    assert (found <= sizes).all()
    assert (found >= 0).all()
    if len(sizes) <= total:
        assert (found >= 1).all()
    else:
        assert (np.abs(found - np.array(sizes) * total / sum(sizes)) < 1 + 1e-9).all()


def drawn(
    number: int, concept: str = "maps", weight: float = 1, level: str = "global"
) -> list[AuditImage]:
    """A sample of a concept."""
    return [
        AuditImage(concept=concept, level=level, key=f"k{i}", shard="s", cluster=0, weight=weight)
        for i in range(number)
    ]


@pytest.mark.parametrize(("right", "checked"), [(0, 10), (10, 10), (8, 10), (90, 100), (1, 1)])
def test_interval_as_statsmodels(right: int, checked: int) -> None:
    """Wilson's; of equal weights it is that of the plain share."""
    expected = proportion_confint(right, checked, method="wilson")
    assert wilson_interval(right / checked, checked) == pytest.approx(expected)
    audits = [audited(1, f"k{i}", "maps", "yes" if i < right else "no") for i in range(checked)]
    (found,) = audit_result(drawn(checked + 3, weight=7.0), audits).concepts
    assert (found.low, found.high) == pytest.approx(expected)
    assert (found.num_drawn, found.num_checked, found.num_right) == (checked + 3, checked, right)
    assert found.num_images == 7 * (checked + 3)


def test_answers_are_resolved() -> None:
    """The last answer of an expert, then more than half of the experts; stray answers are counted."""
    audits = [
        audited(1, "k0", "maps", "no"),
        audited(1, "k0", "maps", "yes"),
        audited(1, "k1", "maps", "yes"),
        audited(2, "k1", "maps", "no"),
        audited(1, "k2", "maps", "unsure"),
        *(
            audited(expert, "k3", "maps", answer)
            for expert, answer in enumerate(["no", "no", "yes"])
        ),
        audited(1, "k9", "maps", "yes"),
        audited(1, "k1", "tables", "yes"),
    ]
    result = audit_result(drawn(5), audits)
    (found,) = result.concepts
    assert (found.num_checked, found.num_right, found.num_unsure) == (2, 1, 2)
    assert (found.precision, result.num_stray) == (0.5, 2)


def test_overall_weighs_concepts_by_their_images() -> None:
    """A concept of 900 images that is right and one of 100 that is wrong: 0.9, however many were checked."""
    draw = [*drawn(10, "maps", 90), *drawn(10, "tables", 10), *drawn(10, "x", 1, level="local")]
    audits = [
        *(audited(1, f"k{i}", "maps", "yes") for i in range(2)),
        *(audited(1, f"k{i}", "tables", "no") for i in range(10)),
    ]
    result = audit_result(draw, audits)
    by_level = {each.level: each for each in result.overall}
    assert by_level["global"].precision == pytest.approx(0.9)
    assert by_level["global"].num_images == 1000
    assert by_level["local"].precision is None
    assert by_level["all"].precision == pytest.approx(0.9)
    assert audit_result([], []).overall[0].precision is None


def test_audit_file(archive: Archive) -> None:
    """Concepts, then the rows of all of them; it is not given out for labels made later."""
    votes = votes_on(archive)
    label(archive, votes)
    assert read_audit(archive, "first") is None
    draw = draw_audit(archive, "first", 5, seed=0)
    audits = [audited(1, each.key, each.concept, "yes") for each in draw]
    result = audit_result(draw, audits)
    write_audit(archive, "first", result, 5, 0)
    table = read_audit(archive, "first")
    assert table is not None
    assert table.schema.equals(AUDIT)
    assert table["concept"].to_pylist() == ["assays", "plots-and-charts", None, None, None]
    assert table["precision"].to_pylist() == [1, 1, 1, None, 1]
    label(archive, votes[2:])
    assert read_audit(archive, "first") is None


def labels_of(archive: Archive, sizes: list[int]) -> None:
    """A label run of one concept over clusters of given sizes."""
    row = {"status": "labelled", "shard": "s", "num_votes": 2, "is_adjudicated": False}
    row |= {"global_concepts": ["maps"], "local_concepts": [], "distance": 0.0}
    rows = [
        row | {"key": f"{number}-{i}", "cluster": number}
        for number, size in enumerate(sizes)
        for i in range(size)
    ]
    folder = archive.root / "labels"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, LABELS), folder / "x.parquet")
    (folder / "x.json").write_text("{}")


@pytest.mark.parametrize(
    ("sizes", "number"),
    [
        ([50] * 20, 120),  # in proportion
        ([400, 300, 200, *[3] * 40], 120),  # one of each small cluster: weights differ
        ([12] * 100, 60),  # fewer images than clusters
    ],
)
def test_interval_covers(tmp_path: Path, sizes: list[int], number: int) -> None:
    """Labels that are right with chance 0.8: about 95 % of the intervals hold it, and the mean is 0.8."""
    archive = Archive(tmp_path)
    labels_of(archive, sizes)
    source = random.Random(5)
    hits, total, rounds = 0, 0.0, 600
    draw = draw_audit(archive, "x", number, seed=1)
    for _ in range(rounds):
        audits = [
            audited(1, each.key, "maps", "yes" if source.random() < 0.8 else "no") for each in draw
        ]
        (found,) = audit_result(draw, audits).concepts
        assert found.precision is not None and found.low is not None and found.high is not None
        hits += found.low <= 0.8 <= found.high
        total += found.precision
    assert 0.93 <= hits / rounds <= 0.97
    assert total / rounds == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(("sizes", "number"), [([300, 200, *[2] * 40], 60), ([9, 3] * 40, 40)])
def test_small_clusters_do_not_weigh_too_much(
    tmp_path: Path, sizes: list[int], number: int
) -> None:
    """Small clusters are wrong throughout, large ones right: the mean over draws is the true precision."""
    archive = Archive(tmp_path)
    labels_of(archive, sizes)
    is_right = [size > 5 for size in sizes]
    truth = sum(s for s, right in zip(sizes, is_right, strict=True) if right) / sum(sizes)
    found = []
    for seed in range(100):
        draw = draw_audit(archive, "x", number, seed)
        audits = [
            audited(1, each.key, "maps", "yes" if is_right[each.cluster] else "no") for each in draw
        ]
        found.append(audit_result(draw, audits).concepts[0].precision or 0)
    assert np.mean(found) == pytest.approx(truth, abs=0.02)
