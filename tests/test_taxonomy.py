"""The taxonomy: what it holds, what an answer implies, which answers and files are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomedica.errors import ConfigError
from biomedica.records import Answer
from biomedica.taxonomy import SHIPPED, load_taxonomy, taxonomy_table

TAXONOMY = load_taxonomy()
GLOBALS = [
    "clinical-imaging",
    "microscopy",
    "assays",
    "plots-and-charts",
    "illustrative-diagrams",
    "chemical-structures",
    "tables",
    "graphs-and-networks",
    "maps",
    "formulae-and-equations",
    "screen-and-hand-drawn-visuals",
    "materials-and-tools",
]
VOCABULARIES = (
    "DICOM modality|EnhancedVolcano|FBbi|JATS|MeSH|Seurat|UCSC Genome Browser|UpSetR|"
    "biomedica-draft|dagitty|qqman|scikit-learn"
)
SMALL = """
version = "mine-1"
[panel_types.single]
name = "Single"
definition = "One."
max_globals = 1
[panel_types.multiple]
name = "Multiple"
definition = "Several."
[panel_subtypes.lone]
name = "Lone"
panel_type = "single"
definition = "The only one."
[concepts.scan]
name = "Scan"
definition = "A scan."
source = "mine"
[concepts.ct]
name = "CT"
parent = "scan"
definition = "A slice."
source = "mine"
[concepts.plot]
name = "Plot"
definition = "A plot."
source = "mine"
"""

answers = st.builds(
    Answer,
    panel_type=st.sampled_from([None, *(each.id for each in TAXONOMY.panel_types)]),
    panel_subtype=st.sampled_from([None, *(each.id for each in TAXONOMY.panel_subtypes)]),
    global_concepts=st.lists(st.sampled_from(GLOBALS), max_size=3, unique=True).map(tuple),
    local_concepts=st.lists(
        st.sampled_from([each.id for each in TAXONOMY.concepts.values() if each.parent]),
        max_size=4,
        unique=True,
    ).map(tuple),
)


def own(folder: Path, text: str) -> Path:
    """A taxonomy file of one's own."""
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_twelve_global_concepts_and_a_tree_below() -> None:
    """The global ids are fixed; every local concept is below one; the tree is shallow."""
    assert sorted(each.id for each in TAXONOMY.global_concepts()) == sorted(GLOBALS)
    below = [each for top in GLOBALS for each in TAXONOMY.locals_of(top)]
    assert 170 <= len(below) == len(set(below)) == len(TAXONOMY.concepts) - 12
    assert max(len(TAXONOMY.ancestors(each.id)) for each in below) == 3
    for each in below:
        assert TAXONOMY.global_of(each.id) == TAXONOMY.ancestors(each.id)[-1]
        assert each in TAXONOMY.children(each.parent or "")


def test_every_concept_can_be_decided_by_reading() -> None:
    """A one-line definition, a name that no other has, a source that names its vocabulary."""
    names = [each.name for each in TAXONOMY.concepts.values()]
    assert len(set(names)) == len(names)
    for each in TAXONOMY.concepts.values():
        assert 10 < len(each.definition) < 130 and each.definition.endswith("."), each.id
        assert re.fullmatch(rf"biomedica|({VOCABULARIES}): \S.*", each.source), each.source
        assert (each.source == "biomedica") == bool(each.published), each.id


def test_locals_stand_before_their_children() -> None:
    """Depth first, as the form shows them."""
    ids = [each.id for each in TAXONOMY.locals_of("microscopy")]
    assert ids.index("light-microscopy") < ids.index("stained-section")
    assert ids.index("stained-section") < ids.index("immunohistochemistry")
    assert ids.index("immunohistochemistry") < ids.index("fluorescence-microscopy")


def test_a_local_concept_implies_all_above_it_and_a_subtype_its_type() -> None:
    """What an expert need not say is filled in, in file order."""
    answer = Answer(
        panel_subtype="multiple-images", local_concepts=("immunohistochemistry", "pet-ct")
    )
    assert TAXONOMY.check(answer) == ()
    assert TAXONOMY.complete(answer) == Answer(
        panel_type="multiple",
        panel_subtype="multiple-images",
        global_concepts=("clinical-imaging", "microscopy"),
        local_concepts=(
            "nuclear-medicine",
            "pet-ct",
            "light-microscopy",
            "stained-section",
            "immunohistochemistry",
        ),
    )
    assert TAXONOMY.complete(Answer(panel_type="single")).panel_subtype == "single-panel"
    assert TAXONOMY.complete(Answer(panel_type="multiple")).panel_subtype is None
    assert TAXONOMY.complete(Answer()) == Answer() and TAXONOMY.check(Answer()) == ()
    with pytest.raises(KeyError, match="no-such"):
        TAXONOMY.complete(Answer(local_concepts=("no-such",)))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(panel_type="singel"), "did you mean 'single'"),
        (Answer(panel_subtype="multiple-plot"), "did you mean 'multiple-plots'"),
        (
            Answer(panel_type="multiple", panel_subtype="single-panel"),
            "'single-panel' is for panel type 'single', not 'multiple'",
        ),
        (Answer(global_concepts=("mapz",)), "no concept 'mapz'; did you mean 'maps'"),
        (Answer(global_concepts=("ultrasound",)), "'ultrasound' is no global concept"),
        (Answer(local_concepts=("maps",)), "'maps' is no local concept"),
        (Answer(local_concepts=("brain", "brain")), "'brain' stands 2 times"),
        (
            Answer(panel_type="single", local_concepts=("ultrasound", "bar-plot", "equation")),
            "'single' holds at most 2 global concepts, not 3",
        ),
        (
            Answer(panel_subtype="multiple-images-and-plots", global_concepts=("microscopy",)),
            "needs the global concept plots-and-charts",
        ),
    ],
)
def test_wrong_answers_are_named(answer: Answer, said: str) -> None:
    """Each contradiction is one sentence with what would do."""
    (found,) = TAXONOMY.check(answer)
    assert said in found


def test_two_global_concepts_fit_a_single_panel() -> None:
    """A structure drawn into a chromatogram is one panel."""
    both = Answer(panel_type="single", global_concepts=("plots-and-charts", "chemical-structures"))
    assert TAXONOMY.check(both) == ()


@given(answers)
def test_completing_is_idempotent_and_changes_no_verdict(answer: Answer) -> None:
    """A completed answer is complete, says no less, and is wrong exactly where the answer was."""
    full = TAXONOMY.complete(answer)
    assert TAXONOMY.complete(full) == full
    assert set(answer.global_concepts) <= set(full.global_concepts)
    assert set(answer.local_concepts) <= set(full.local_concepts)
    assert {TAXONOMY.global_of(each) for each in full.local_concepts} <= set(full.global_concepts)
    assert TAXONOMY.check(full) == TAXONOMY.check(answer)


def test_typing_filters() -> None:
    """By the beginning of words, over names, ids and published names; the best first."""

    def first(text: str) -> str:
        return TAXONOMY.search(text)[0].id

    assert first("bar") == "bar-plot"
    assert first("western") == "immunoblot"
    assert first("ecg") == "electrocardiography"
    assert first("H&E") == "hematoxylin-eosin"
    assert first("matrix plor") == "matrix-plot"
    assert {each.id for each in TAXONOMY.search("MICRO elec")} >= {"electron-microscopy"}
    assert TAXONOMY.search("xyzzy") == ()
    assert len(TAXONOMY.search("  ")) == len(TAXONOMY.concepts)


def test_the_table_holds_every_concept() -> None:
    """What the documentation shows is the file."""
    table = taxonomy_table(TAXONOMY)
    assert all(f"`{each}`" in table for each in TAXONOMY.concepts)
    assert "| – – `immunohistochemistry` | Immunohistochemistry (IHC) |" in table


def test_own_file(tmp_path: Path) -> None:
    """A small file is enough; its digest is of what it says, not of how it is laid out."""
    mine = load_taxonomy(own(tmp_path, SMALL))
    assert mine.version == "mine-1" and list(mine.concepts) == ["scan", "ct", "plot"]
    assert mine.check(Answer(panel_type="single", global_concepts=("scan", "plot")))
    assert mine.digest == load_taxonomy(own(tmp_path, f"# mine\n{SMALL}")).digest
    assert mine.digest != load_taxonomy(own(tmp_path, SMALL.replace("A slice", "Slice"))).digest


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('version = "mine-1"', "", "version is None"),
        ('parent = "scan"', 'parent = "scam"', "[concepts.ct]: no concept 'scam'"),
        ('parent = "scan"', 'parent = "scam"', "did you mean 'scan'?"),
        ('parent = "scan"', 'parent = "ct"', "parents run in a circle: ct > ct"),
        ("[concepts.ct]", "[concepts.C_T]", "'C_T' is no id"),
        ("[concepts.ct]", "[concepts.scan]", "is no TOML"),
        ('panel_type = "single"', 'panel_type = "singel"', "did you mean 'single'?"),
        ("max_globals = 1", "max_globals = 0", "max_globals is 0; a number from 1"),
        ("max_globals = 1", "most = 1", "unknown 'most'"),
        ('definition = "A slice."', "", "[concepts.ct]: definition is None"),
        ('definition = "A slice."', 'definition = "A."\npublished = [1]', "a list of texts"),
        (
            'definition = "The only one."',
            'definition = "A."\nrequires = ["ct"]',
            "no global concept 'ct'",
        ),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    """The message names the file, the place, and what would do."""
    assert old in SMALL
    with pytest.raises(ConfigError) as error:
        load_taxonomy(own(tmp_path, SMALL.replace(old, new)))
    assert said in str(error.value) and "mine.toml" in str(error.value)


def test_longer_circle_and_missing_parts(tmp_path: Path) -> None:
    """A circle is shown whole; a file without concepts or a file that is not there says so."""
    circle = SMALL.replace(
        '[concepts.scan]\nname = "Scan"', '[concepts.scan]\nname = "S"\nparent = "ct"'
    )
    with pytest.raises(ConfigError, match="scan > ct > scan"):
        load_taxonomy(own(tmp_path, circle))
    with pytest.raises(ConfigError, match=r"no concepts; at least one table \[concepts.ID\]"):
        load_taxonomy(own(tmp_path, SMALL.split("[concepts.scan]")[0]))
    with pytest.raises(ConfigError, match="No such file"):
        load_taxonomy(tmp_path / "none.toml")


def test_shipped_file_is_named() -> None:
    """`biomedica labels taxonomy` can say where to copy it from."""
    assert SHIPPED.is_file() and load_taxonomy(SHIPPED).digest == TAXONOMY.digest
