"""From votes to labels of every image, and again after the archive has grown."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from biomedica.annotate import audit_labels, make_labels
from biomedica.archive import Archive
from biomedica.catalog import Selection
from biomedica.cli import app
from biomedica.cluster import (
    ClusterSettings,
    cluster,
    model_digest,
    read_clusters,
    read_members,
    split_cluster,
)
from biomedica.config import load_settings
from biomedica.errors import ArchiveError, ConfigError
from biomedica.features import FeatureSet
from biomedica.flow import build_archive
from biomedica.label import AuditSettings, LabelSettings, draw_audit
from biomedica.label import names as label_names
from biomedica.records import Answer
from biomedica.report import write_report
from biomedica.taxonomy import SHIPPED, load_taxonomy
from biomedica.votes import Audit, Event, Round, VoteStore, answer_to_json, votes_path
from feature_archives import give_features, small_archive
from samples import healthy, write_bucket

MICROSCOPY = Answer(
    panel_type="single",
    panel_subtype="single-panel",
    global_concepts=("microscopy",),
    local_concepts=("confocal-microscopy",),
)
MAPS = Answer(panel_type="single", panel_subtype="single-panel", global_concepts=("maps",))


def vote(store: VoteStore, archive: Archive, expert: int, number: int, answer: Answer) -> None:
    """One expert's answer about one cluster; its farthest image is marked as an outlier."""
    members = read_members(archive, "default", number)
    shown = [member.key for member in members]
    payload = {
        "verdict": "answered",
        "answer": answer_to_json(answer),
        "outliers": [max(members, key=lambda each: each.distance).key] if members else [],
        "shown": shown,
        "suggestions": None,
        "taxonomy": load_taxonomy().version,
        "model": model_digest(archive, "default"),
        "seconds": 4.0,
    }
    store.record(
        Event(event=str(uuid.uuid4()), expert=expert, cluster=number, kind="vote", payload=payload)
    )


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Five clusters, three experts: they agree on four, and differ on cluster 4."""
    made = small_archive(tmp_path, 20)
    features = give_features(made)
    cluster(made, features, ClusterSettings(clusters=5, components=4))
    wanted = Round(
        clustering="default",
        model=model_digest(made, "default"),
        taxonomy=load_taxonomy().version,
        answers=3,
    )
    with VoteStore.open(votes_path(made, "default"), wanted) as store:
        experts = [store.add_expert(name).id for name in ("Ada", "Ben", "Cy")]
        for expert in experts:
            for number in range(4):
                vote(store, made, expert, number, MICROSCOPY if number % 2 else MAPS)
        vote(store, made, experts[0], 4, MAPS)
        vote(store, made, experts[1], 4, MICROSCOPY)
    return made


def rows_of(archive: Archive) -> dict[str, dict[str, object]]:
    table = pq.read_table(archive.root / "labels" / "default.parquet")
    return {row["key"]: row for row in table.to_pylist()}


def test_every_image_gets_the_label_of_its_cluster(archive: Archive) -> None:
    """Ancestors are filled in; outliers and clusters without a majority carry no concepts."""
    found = make_labels(archive, "default", LabelSettings())
    assert found.propagated.num_images == 40
    statuses = {row["status"] for row in rows_of(archive).values()}
    assert {"labelled", "outlier", "undecided"} <= statuses
    for row in rows_of(archive).values():
        if row["status"] != "labelled":
            assert row["global_concepts"] == row["local_concepts"] == []
        elif row["cluster"] in (1, 3):
            assert row["global_concepts"] == ["microscopy"]
            assert row["local_concepts"] == ["fluorescence-microscopy", "confocal-microscopy"]
    write_report(archive)


def test_later_images_are_labelled_without_labelling_anew(archive: Archive, tmp_path: Path) -> None:
    """A second build adds articles: their images have clusters and labels; old labels stand."""
    make_labels(archive, "default", LabelSettings())
    before = rows_of(archive)
    write_bucket(tmp_path / "source", [healthy(number) for number in range(100, 130)])
    settings = load_settings(None, ["shards.samples=20"])
    build_archive(str(tmp_path / "source"), archive.root, Selection(), settings, engine="inline")
    give_features(archive, seed=40)
    found = make_labels(archive, "default", LabelSettings())
    after = rows_of(archive)
    assert found.num_reassigned == 1
    assert len(after) == 60
    assert {key: after[key] for key in before} == before
    new = [row for key, row in after.items() if key not in before]
    assert {row["status"] for row in new} <= {"labelled", "undecided"}
    assert any(row["status"] == "labelled" for row in new)


def test_a_split_is_taken_up(archive: Archive) -> None:
    """Images of a split cluster go to its parts, which have no votes yet."""
    largest = max(read_clusters(archive, "default"), key=lambda each: each.size).id
    children = split_cluster(archive, "default", largest, 2)
    make_labels(archive, "default", LabelSettings())
    found = {row["cluster"]: row["status"] for row in rows_of(archive).values()}
    assert largest not in found
    assert {found[child] for child in children if child in found} == {"unlabelled"}


def test_an_audit(archive: Archive) -> None:
    """Answers on drawn images become precision with an interval, here and in the report."""
    make_labels(archive, "default", LabelSettings())
    settings = AuditSettings(per_concept=5)
    drawn = draw_audit(archive, "default", 5, 0)
    with VoteStore.open(votes_path(archive, "default")) as store:
        for number, each in enumerate(drawn):
            store.record_audit(
                Audit(
                    event=str(uuid.uuid4()),
                    expert=1,
                    run="default",
                    key=each.key,
                    concept=each.concept,
                    answer="no" if number % 5 == 0 else "yes",
                    seconds=1.0,
                )
            )
    found = audit_labels(archive, "default", settings)
    assert {each.concept for each in found.concepts} >= {"maps", "microscopy"}
    for each in found.concepts:
        assert each.precision is not None and each.low is not None and each.high is not None
        assert 0 < each.low < each.precision < each.high <= 1
    assert "confocal-microscopy" in write_report(archive).read_text()


def test_commands(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    """What the commands print is what the functions give."""

    def run(*words: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app([*words])
        assert ended.value.code == 0
        return capsys.readouterr().out

    root = str(archive.root)
    made = json.loads(run("labels", "make", root, "--json", "--quiet"))
    assert made["propagated"]["num_images"] == 40
    agreed = json.loads(run("labels", "agreement", root, "--json"))
    assert agreed["num_votes"] == 14
    assert "Krippendorff" in run("labels", "agreement", root)
    lines = run("labels", "votes", root).splitlines()
    assert sum(json.loads(line)["type"] == "event" for line in lines) == 14
    exported = archive.root.parent / "votes.jsonl"
    exported.write_text("\n".join(lines) + "\n")
    assert "0 events" in run("labels", "import-votes", str(exported), root)
    votes_path(archive, "default").unlink()
    assert "14 events" in run("labels", "import-votes", str(exported), root)
    assert "not checked" in run("labels", "audit", root)
    assert "Confocal" in run("labels", "taxonomy", "--find", "confocal")
    assert run("labels", "taxonomy", "--toml") == SHIPPED.read_text()


def test_what_is_out_of_date_is_not_audited(archive: Archive) -> None:
    """After a shard was rewritten, labels are made again before they are audited; the report says so."""
    make_labels(archive, "default", LabelSettings())
    done = next(iter(archive.done().values()))
    outputs = tuple(
        replace(each, sha256="0" * 64) if each.path.startswith("figures/") else each
        for each in done.outputs
    )
    archive.write_done(replace(done, outputs=outputs))
    with pytest.raises(ArchiveError, match="biomedica labels make"):
        audit_labels(archive, "default", AuditSettings())
    assert "Out of date" in write_report(archive).read_text()


def test_a_failed_run_leaves_the_old_one(archive: Archive) -> None:
    """Labels that stood stand on when making them anew fails."""
    make_labels(archive, "default", LabelSettings())
    votes_path(archive, "default").rename(archive.root / "elsewhere")
    with pytest.raises(ConfigError, match="no votes yet"):
        make_labels(archive, "default", LabelSettings())
    assert label_names(archive) == ["default"]
    with pytest.raises(ConfigError, match="labels import"):
        make_labels_named(archive, "published")


def make_labels_named(archive: Archive, run: str) -> None:
    (archive.root / "elsewhere").rename(votes_path(archive, "default"))
    make_labels(archive, "default", LabelSettings(), run=run)


def test_votes_on_another_clustering_are_refused(archive: Archive) -> None:
    other = ClusterSettings(clusters=4, components=4)
    folder = archive.root / "clusters" / "default"
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    cluster(archive, FeatureSet.open(archive, "made"), other)
    with pytest.raises(ConfigError, match="another clustering"):
        make_labels(archive, "default", LabelSettings())
