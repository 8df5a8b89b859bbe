"""BIOMEDICA's published labels: every name is mapped, every contradiction is named and settled."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomedica.errors import ConfigError
from biomedica.published import (
    CLUSTERS,
    EXPERT_NAMES,
    FOLDER,
    MAPPING,
    NAMES,
    RULES,
    Contradiction,
    Published,
    load_names,
    read_published,
    write_import,
)
from biomedica.records import Answer
from biomedica.taxonomy import load_taxonomy

TAXONOMY = load_taxonomy()
REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "biomedica-labels"
TREE: dict[str, list[str]] = json.loads(NAMES.read_text())
EXPERT_TREE: dict[str, list[str]] = json.loads(EXPERT_NAMES.read_text())
SUBTYPES = list(tomllib.loads(MAPPING.read_text())["panel_subtype"])


def label(
    panel_type: str, panel_subtype: str, global_class: list[str], local_class: list[str]
) -> dict[str, Any]:
    """A cluster's label in the published form."""
    return {
        "panel_type": panel_type,
        "panel_subtype": panel_subtype,
        "global_class": global_class,
        "local_class": local_class,
    }


def read(folder: Path, *labels: dict[str, Any]) -> Published:
    """Labels of clusters 0, 1, ... read from a file."""
    path = folder / "cluster_labels.json"
    path.write_text(json.dumps({str(place): each for place, each in enumerate(labels)}))
    return read_published(path)


def kinds(published: Published, cluster: int = 0) -> list[Contradiction]:
    """Contradictions of a cluster."""
    return [each.kind for each in published.clusters[cluster].findings]


def test_every_published_name_has_its_place() -> None:
    """16 + 119 names, and the 98 of the other list, mean a concept or say why not; none besides."""
    assert (len(TREE), sum(map(len, TREE.values()))) == (16, 119)
    assert (len(EXPERT_TREE), sum(map(len, EXPERT_TREE.values()))) == (16, 98)
    table = tomllib.loads(MAPPING.read_text())
    assert set(table["global_class"]) == {*TREE, *EXPERT_TREE}
    trees = (*TREE.values(), *EXPERT_TREE.values())
    assert set(table["local_class"]) == {name for names in trees for name in names}
    no_counterpart = {
        name
        for kind in ("global_class", "local_class")
        for name, meant in table[kind].items()
        if isinstance(meant, dict) and len(meant["none"]) > 20
    }
    assert no_counterpart == {"Ambiguous", "ambiguous"}


def test_mapping_and_taxonomy_say_the_same() -> None:
    """A concept's `published` names are those that the table maps to it."""
    names = load_names(TAXONOMY)
    by_concept: dict[str, set[str]] = {}
    for table in (names.global_class, names.local_class):
        for name, meant in table.items():
            for each in meant:
                by_concept.setdefault(each, set()).add(name)
    stated = {each.id: set(each.published) for each in TAXONOMY.concepts.values()}
    assert by_concept == {each: said for each, said in stated.items() if said}


def test_the_notice_stands_beside_the_names() -> None:
    """The lists are MIT: their notice goes where they go."""
    notice = (FOLDER / "LICENSE").read_text()
    assert "Min Woo Sun" in notice and "Permission is hereby granted" in notice


def test_a_consistent_label_is_taken_as_it_is(tmp_path: Path) -> None:
    """Names become ids, parents are filled in."""
    published = read(
        tmp_path,
        label("single", "single panel", ["Immuno Assays"], ["immunoblot"]),
        label(
            "multiple",
            "multiple panels: images & plots",
            ["Microscopy", "Plots and Charts"],
            ["confocal microscopy", "plot"],
        ),
    )
    assert kinds(published, 0) == kinds(published, 1) == []
    assert published.answers("consistent") == {
        0: Answer(
            panel_type="single",
            panel_subtype="single-panel",
            global_concepts=("assays",),
            local_concepts=("immunoblot",),
        ),
        1: Answer(
            panel_type="multiple",
            panel_subtype="multiple-images-and-plots",
            global_concepts=("microscopy", "plots-and-charts"),
            local_concepts=("fluorescence-microscopy", "confocal-microscopy"),
        ),
    }


@pytest.mark.parametrize(
    ("given_label", "found", "panels", "concepts"),
    [
        (
            label("multiple", "single panel", ["Maps"], ["map"]),
            ["panel_type_and_subtype"],
            ("multiple", None),
            {"maps"},
        ),
        (
            label("single", "multiple panels: images", ["Maps"], ["map"]),
            ["panel_type_and_subtype"],
            ("single", "single-panel"),
            {"maps"},
        ),
        (
            label("single", "single panel", ["Chemical Structures", "Plots and Charts"], ["plot"]),
            ["single_panel_several_globals"],
            ("single", "single-panel"),
            {"chemical-structures", "plots-and-charts"},
        ),
        (
            label("single", "single panel", ["Maps", "Tables", "Microscopy"], ["map"]),
            ["single_panel_several_globals"],
            (None, None),
            {"maps", "tables", "microscopy"},
        ),
        (
            label("single", "single panel", ["Maps", "Maps"], ["map"]),
            ["repeated_class"],
            ("single", "single-panel"),
            {"maps"},
        ),
        (
            label("multiple", "multiple panels: images & plots", ["Microscopy"], ["microscopy"]),
            ["subtype_and_globals"],
            ("multiple", None),
            {"microscopy"},
        ),
        (
            label("single", "single panel", ["Maps", "Mapz"], ["map"]),
            ["single_panel_several_globals", "unknown_name"],
            ("single", "single-panel"),
            {"maps"},
        ),
        (
            label("single", "single panel", ["Clinical Imaging"], ["ambiguous"]),
            ["ambiguous"],
            ("single", "single-panel"),
            {"clinical-imaging"},
        ),
    ],
)
def test_contradictions_are_named_and_settled(
    tmp_path: Path,
    given_label: dict[str, Any],
    found: list[str],
    panels: tuple[str | None, str | None],
    concepts: set[str],
) -> None:
    """Left out of the consistent answers; settled by the stated rule in all."""
    published = read(tmp_path, given_label)
    assert kinds(published) == found
    assert published.answers("consistent") == {}
    answer = published.answers("all")[0]
    assert (answer.panel_type, answer.panel_subtype) == panels
    assert {*answer.global_concepts, *answer.local_concepts} == concepts


@pytest.mark.parametrize(
    ("global_class", "local_class", "concepts"),
    [
        # our tree agrees with the experts, not with the published tree
        (
            ["Microscopy"],
            ["immunohistochemistry"],
            {"microscopy", "light-microscopy", "stained-section", "immunohistochemistry"},
        ),
        # nothing else stands under the global class: the local class wins
        (
            ["Plots and Charts"],
            ["flowchart"],
            {"illustrative-diagrams", "flow-diagram", "flowchart"},
        ),
        # another local class explains it: the stray one is left out
        (
            ["Illustrative Diagrams"],
            ["scientific illustration", "brain"],
            {"illustrative-diagrams", "scientific-illustration"},
        ),
    ],
)
def test_absent_parents(
    tmp_path: Path, global_class: list[str], local_class: list[str], concepts: set[str]
) -> None:
    """Three rules for a local class whose published parent is not there."""
    published = read(tmp_path, label("single", "single panel", global_class, local_class))
    assert kinds(published) == ["parent_absent"]
    answer = published.answers("all")[0]
    assert {*answer.global_concepts, *answer.local_concepts} == concepts


def test_a_name_that_our_tree_puts_elsewhere_takes_its_parent_along(tmp_path: Path) -> None:
    """`manuscript` is a plot in the published tree and a page in ours: no contradiction, no plot."""
    published = read(
        tmp_path,
        label("single", "single panel", ["Plots and Charts"], ["manuscript"]),
        label("single", "single panel", ["Immuno Assays"], ["immunoblot", "immunohistochemistry"]),
    )
    first, second = published.answers("consistent").values()
    assert first.global_concepts == ("screen-and-hand-drawn-visuals",)
    assert second.global_concepts == ("microscopy", "assays")


def test_ambiguous_alone_is_no_answer(tmp_path: Path) -> None:
    """It is a verdict."""
    published = read(tmp_path, label("single", "single panel", ["Ambiguous"], ["ambiguous"]))
    assert published.clusters[0].answer is None and published.clusters[0].status == "ambiguous"
    assert published.answers("all") == {}


names_of_globals = st.lists(st.sampled_from([*TREE, "Mapz"]), max_size=4)
names_of_locals = st.lists(
    st.sampled_from([name for names in (*TREE.values(), *EXPERT_TREE.values()) for name in names]),
    max_size=4,
)


@given(
    labels=st.lists(
        st.builds(
            label,
            st.sampled_from(["single", "multiple", "both"]),
            st.sampled_from([*SUBTYPES, "none"]),
            names_of_globals,
            names_of_locals,
        ),
        min_size=1,
        max_size=8,
    )
)
def test_whatever_was_published_the_answers_are_right(
    tmp_path_factory: pytest.TempPathFactory, labels: list[dict[str, Any]]
) -> None:
    """No cluster is lost, and every answer passes the taxonomy's check and is complete."""
    published = read(tmp_path_factory.mktemp("labels"), *labels)
    assert [each.cluster for each in published.clusters] == list(range(len(labels)))
    for answer in published.answers("all").values():
        assert TAXONOMY.check(answer) == ()
        assert answer.global_concepts and TAXONOMY.complete(answer) == answer
    assert published.answers("consistent").items() <= published.answers("all").items()


@pytest.mark.parametrize("keep", ["consistent", "all"])
def test_the_import_is_written_twice_alike(tmp_path: Path, keep: Any) -> None:
    """Every cluster has a row with its label as published; counts stand beside."""
    labels = [
        label("single", "single panel", ["Maps"], ["map"]),
        label("multiple", "single panel", ["Plots and Charts"], ["bar plot"]),
        label("single", "single panel", ["Ambiguous"], ["ambiguous"]),
    ]
    published = read(tmp_path, *labels)
    table, report = write_import(published, tmp_path / "labels", keep)
    first = (table.read_bytes(), report.read_bytes())
    assert first == tuple(
        each.read_bytes() for each in write_import(published, tmp_path / "again", keep)
    )
    written = pq.read_table(table)
    assert written.schema.equals(CLUSTERS)
    rows = written.to_pylist()
    assert [json.loads(row["original"]) for row in rows] == labels
    settled = "answered" if keep == "all" else "left-out"
    doubtful = "ambiguous" if keep == "all" else "left-out"
    assert [row["status"] for row in rows] == ["answered", settled, doubtful]
    assert rows[1]["panel_type"] == ("multiple" if keep == "all" else None)
    assert rows[1]["contradictions"][0].startswith("panel_type_and_subtype: ")
    said = json.loads(report.read_text())
    assert (said["clusters"], said["consistent"]) == (3, 1)
    assert set(said["contradictions"]) == {each.value for each in Contradiction}


def test_every_kind_has_its_rule() -> None:
    """What is named is explained."""
    assert set(RULES) == set(Contradiction)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "holds no clusters"),
        ("{}", "holds no clusters"),
        ("{", "can't be read as JSON"),
        ('{"a": {}}', "cluster 'a': a number from 0"),
        ('{"1": 2}', "cluster '1' is 2"),
        ('{"1": {"panel_type": "single"}}', "panel_subtype is None"),
        (
            '{"1": {"panel_type": "a", "panel_subtype": "b", "global_class": "c"}}',
            "a list of texts",
        ),
        ('{"1": {}, "1": {}}', "'1' stands twice"),
        (
            json.dumps({each: label("single", "single panel", [], []) for each in ("1", "01")}),
            "twice under different spellings",
        ),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, text: str, said: str) -> None:
    """The message names the file, the cluster and what is expected."""
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_published(path)
    assert said in str(error.value) and "labels.json" in str(error.value)


def test_bad_mapping_and_bad_keep_are_refused(tmp_path: Path) -> None:
    """A mapping table must fit the taxonomy that it is used with."""
    path = tmp_path / "mapping.toml"
    path.write_text(MAPPING.read_text().replace('"violin-plot"', '"violin-plots"'))
    with pytest.raises(ConfigError, match="no 'violin-plots'; did you mean 'violin-plot'"):
        load_names(TAXONOMY, path)
    path.write_text(MAPPING.read_text().replace('"violin-plot"', "3"))
    with pytest.raises(ConfigError, match="'violin plot' is 3"):
        load_names(TAXONOMY, path)
    path.write_text("[panel_type]")
    with pytest.raises(ConfigError, match=r"no table \[panel_subtype\]"):
        load_names(TAXONOMY, path)
    published = read(tmp_path, label("single", "single panel", ["Maps"], ["map"]))
    wrong: Any = "some"
    with pytest.raises(ConfigError, match="'consistent' or 'all'"):
        write_import(published, tmp_path, wrong)


@pytest.mark.corpus
def test_the_real_file() -> None:
    """BIOMEDICA's own labels: the counts that docs/taxonomy.md states."""
    if not REFERENCE.is_dir():
        pytest.skip(f"{REFERENCE} is not here")
    for name in (NAMES, EXPERT_NAMES, FOLDER / "LICENSE"):
        assert name.read_bytes() == (REFERENCE / name.name).read_bytes()
    published = read_published(REFERENCE / "cluster_labels.json")
    assert {
        each.kind.value: (each.num_clusters, each.num_cases) for each in published.counts()
    } == {
        "panel_type_and_subtype": (997, 997),
        "single_panel_several_globals": (75, 75),
        "repeated_class": (2, 2),
        "parent_absent": (85, 87),
        "subtype_and_globals": (52, 52),
        "unknown_name": (0, 0),
        "ambiguous": (10, 10),
    }
    assert len(published.clusters) == 2000
    assert len(published.answers("consistent")) == len(published.kept("consistent")) == 895
    assert len(published.answers("all")) == 1996
