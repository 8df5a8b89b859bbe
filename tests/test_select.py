"""Views by recipe: what is refused and counted, what a recipe may not do, what makes a view stale."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biomedica.archive import Archive, Done
from biomedica.cluster import ClusterSettings, cluster, read_assignment, split_cluster
from biomedica.duplicates import DUPLICATES
from biomedica.errors import ArchiveError, ConfigError
from biomedica.label.propagate import LABELS
from biomedica.select import (
    VIEW,
    Selected,
    View,
    list_recipes,
    load_recipe,
    parse_recipe,
    select,
    summary,
)
from biomedica.select.columns import COLUMNS
from biomedica.select.recipe import Splitting
from biomedica.select.reduce import capped, joined_articles, key_numbers, mix, seeded, split_of
from biomedica.shards import ARTICLES, FIGURES, WrittenFile, file_digest, write_arrow, write_file
from feature_archives import give_features, small_archive

Row = dict[str, Any]
ALL = 'about = "all"\n'
CONCEPTS = ("microscopy", "clinical-imaging", "plots-and-charts", "maps")


def blank(schema: pa.Schema) -> Row:
    """A row with a value for each column that must have one."""
    plain: dict[Any, Any] = {pa.string(): "x", pa.bool_(): False}
    return {
        field.name: None
        if field.nullable
        else ([] if pa.types.is_list(field.type) else plain.get(field.type, 0))
        for field in schema
    }


def sample(number: int, article: int, shard: str, **facts: Any) -> Row:
    """A row of a figures file."""
    own: Row = {
        "key": f"PMC{article}-1-g{number:04d}",
        "shard": shard,
        "offset": number * 4096,
        "length": 4096,
        "pmcid": f"PMC{article}",
        "version": 1,
        "licence_group": shard.rpartition("-")[0],
        "license_code": "CC BY",
        "width": 300,
        "height": 600,
        "caption": f"Caption {number}.",
    }
    return blank(FIGURES) | own | facts


def write_archive(root: Path, rows: Sequence[Row], order: Sequence[str] | None = None) -> Archive:
    """An archive of tables alone: no pictures. order   in which shards are written"""
    archive = Archive(root)
    archive.create()
    archive.write_info({"source": "made"})
    for shard in order or sorted({row["shard"] for row in rows}):
        write_shard(archive, shard, [row for row in rows if row["shard"] == shard])
    return archive


def write_shard(archive: Archive, shard: str, rows: Sequence[Row]) -> None:
    """The tables and the done file of one shard."""
    group = shard.rpartition("-")[0]
    name = f"figures/{group}/{shard}.parquet"
    write_arrow(archive.root / name, pa.Table.from_pylist(list(rows), FIGURES))
    articles = [
        blank(ARTICLES) | {"pmcid": p, "version": 1, "abstract": f"About {p}.", "publisher": "Made"}
        for p in sorted({row["pmcid"] for row in rows})
    ]
    path = archive.root / "articles" / group / f"{shard}.parquet"
    write_arrow(path, pa.Table.from_pylist(articles, ARTICLES))
    digest = file_digest(archive.root / name)
    about = {"group": group, "inputs": "", "settings": "", "counts": {}, "rejects": {}}
    outputs = (WrittenFile(name, 1, digest),)
    archive.write_done(Done(task=shard, outputs=outputs, seconds=0, cpu_seconds=0, **about))


def write_labels(archive: Archive, rows: Sequence[Row], name: str = "default") -> None:
    """A label run: `concepts` of a row are its global ones; None leaves the row out."""
    table = [
        blank(LABELS)
        | {
            "key": row["key"],
            "shard": row["shard"],
            "status": "labelled" if row["concepts"] else "undecided",
            "panel_type": "single" if row["concepts"] else None,
            "global_concepts": row["concepts"],
            "local_concepts": [],
        }
        for row in sorted(rows, key=lambda row: (row["shard"], row["offset"]))
        if row["concepts"] is not None
    ]
    write_arrow(archive.root / "labels" / f"{name}.parquet", pa.Table.from_pylist(table, LABELS))
    write_file(archive.root / "labels" / f"{name}.json", b"{}")


def write_duplicates(archive: Archive, groups: Sequence[Sequence[Row]]) -> None:
    """`duplicates.parquet` of these groups; the first of each is the one to keep."""
    rows = [
        {
            "key": row["key"],
            "shard": row["shard"],
            "group": number,
            "is_first": place == 0,
            "tier": "phash",
            "phash_distance": 1,
            "cosine": None,
        }
        for number, group in enumerate(groups)
        for place, row in enumerate(group)
    ]
    write_arrow(archive.root / "duplicates.parquet", pa.Table.from_pylist(rows, DUPLICATES))
    figures = {name: done.outputs[0].sha256 for name, done in archive.done().items()}
    write_file(archive.root / "duplicates.json", json.dumps({"figures": figures}).encode())


@pytest.fixture
def rows() -> list[Row]:
    """Sixty samples of twenty articles in three shards."""
    shards = ("commercial-000000", "commercial-000001", "noncommercial-000000")
    found = []
    for number in range(60):
        facts = {
            "width": 100 + number * 10,
            "is_retracted": number % 20 == 0,
            "figure_kind": "table" if number % 6 == 5 else "fig",
            "mesh_terms": ["Lung"] if number % 2 else [],
            "published": None if number % 10 == 3 else 18_000 + number,
            "concepts": [CONCEPTS[number % 4]] if number % 5 else [],
        }
        found.append(sample(number, 100 + number // 3, shards[number // 20], **facts))
    return found


@pytest.fixture
def archive(tmp_path: Path, rows: list[Row]) -> Archive:
    """The rows as an archive."""
    return write_archive(tmp_path / "archive", rows)


def chosen(archive: Archive, text: str, name: str = "made") -> tuple[Selected, list[Row]]:
    """A recipe's counts and the rows of its view."""
    found = select(archive, parse_recipe(text, name), name)
    return found, View.open(archive, name).table.to_pylist()


def rule(where: str, kind: str = "keep", name: str = "it") -> str:
    """A recipe of one rule."""
    return f'[[{kind}]]\nname = "{name}"\nwhere = {json.dumps(where)}\nwhy = "test"\n'


def refused(found: Selected) -> int:
    return sum(step.refused + step.unknown for step in found.steps)


def test_full_view_points_at_every_sample(archive: Archive, rows: list[Row]) -> None:
    """Without steps, a view is the figures tables' places, in the order of shard and offset."""
    found, got = chosen(archive, ALL)
    want = sorted(rows, key=lambda row: (row["shard"], row["offset"]))
    places = [name for name in VIEW.names if name != "split"]
    assert [[row[name] for name in places] for row in got] == [[w[n] for n in places] for w in want]
    assert found.samples == found.live == found.rows == 60
    assert found.articles == 20
    assert found.splits == {"train": 60}
    assert {row["split"] for row in got} == {"train"}


def test_first_rule_that_refuses_counts(archive: Archive) -> None:
    """Rules go in the order of the file, keep and drop as they come; null is refused and told apart."""
    text = (
        rule("figure_kind = 'table'", "drop", "tables")
        + rule("published > DATE '2019-01-01'", "keep", "recent")
        + rule("is_retracted", "drop", "retracted")
        + rule("figure.licence_group = 'commercial'", "keep", "commercial")
    )
    found, got = chosen(archive, text)
    assert [step.name for step in found.steps] == ["tables", "recent", "retracted", "commercial"]
    by_hand = Counter[tuple[str, bool]]()
    names = set()
    for number in range(60):
        if number % 6 == 5:
            by_hand["tables", False] += 1
        elif number % 10 == 3:
            by_hand["recent", True] += 1
        elif number % 20 == 0:
            by_hand["retracted", False] += 1
        elif number >= 40:
            by_hand["commercial", False] += 1
        else:
            names.add(f"PMC{100 + number // 3}-1-g{number:04d}")
    for step in found.steps:
        assert (step.refused, step.unknown) == (
            by_hand[step.name, False],
            by_hand[step.name, True],
        )
    assert {row["key"] for row in got} == names
    assert refused(found) + found.samples == found.live
    assert "of them unknown" in summary(found)


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("width >= 400", 30),
        ("caption = 'Caption 7.'", 1),
        ("list_contains(mesh_terms, 'Lung') AND width < 200", 5),
        ("len([t for t in mesh_terms if t = 'Lung']) = 1", 30),
        ("list_filter(mesh_terms, lambda t: t = 'Lung')[1] IS NOT NULL", 30),
        ("article.abstract = 'About PMC101.'", 3),
        ("publisher = 'Made' AND figure.version = 1", 60),
        ("year(published) = 2019", 54),
        ("figure.journal IS NULL -- said of none", 60),
        ("true", 60),
        ("key LIKE 'PMC100-%' OR pmcid = 'PMC119'", 6),
        ("least(width, height) < 150 AND NOT is_manuscript", 5),
    ],
)
def test_conditions(archive: Archive, where: str, count: int) -> None:
    """Codes, numbers, texts, lists and articles' facts can be asked."""
    found, got = chosen(archive, rule(where))
    assert found.samples == len(got) == count


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("(SELECT count(*) FROM read_text('/etc/passwd')) > 0", "subquery"),
        ("read_text('/etc/passwd') IS NOT NULL", "read_text"),
        ("EXISTS (FROM '/etc/passwd')", "subquery"),
        ("key IN (SELECT content FROM read_text('/etc/passwd'))", "subquery"),
        ("true; COPY (SELECT 1) TO '/tmp/made.csv'", "no expression"),
        ("true; SELECT 1", "more than one"),
        ("true FROM read_csv('/etc/passwd')", "more than one"),
        ("true) FROM figures WHERE (true", "no expression"),
        ("true UNION SELECT true", "more than one"),
        ("ATTACH '/tmp/made.db'", "does not exist"),
        ("true, false", "more than one"),
        ("random() < 0.5", "random"),
        ("now() > published", "now"),
        ("current_date > published", "unknown column current_date"),
        ("getenv('HOME') = 'x'", "getenv"),
        ("row_number() OVER () < 5", "window"),
        ("count(*) > 1", "count_star"),
        ("pg_sleep(10) IS NULL", "pg_sleep"),
        ("nextval('x') = 1", "nextval"),
        ("$1", "parameter"),
        ("*", "`*`"),
        ("", "lacks 'where'"),
        ("figure.widht > 5", "did you mean 'figure.width'"),
        ("widht > 5", "did you mean 'width'"),
        ("distance > 1", "label.distance or cluster.distance"),
        ("width", "a condition (true or false) is expected"),
        ("width > caption", "rule 'it'"),
        ("CAST(caption AS INTEGER) > 3", "rule 'it'"),
        ("width >", "no expression"),
        ("/* width", "no expression"),
        ("label.status = 'labelled'", "`biomedica label"),
        ("duplicate.is_first", "`biomedica duplicates"),
        ("cluster.distance > 1", "`biomedica cluster`"),
    ],
)
def test_conditions_that_are_refused(archive: Archive, where: str, said: str) -> None:
    """Nothing outside the row's own values can be reached, and the message says what it was."""
    with pytest.raises((ConfigError, ArchiveError)) as error:
        chosen(archive, rule(where))
    assert said in str(error.value)
    assert not (archive.root / "views" / "made").exists()
    assert not Path("/tmp/made.csv").exists()


def test_sandbox_reaches_nothing_even_past_the_checks() -> None:
    """The database itself has no files, no other databases, no extensions, and can't be unlocked."""
    from biomedica.select.conditions import Sandbox

    sandbox = Sandbox()
    cursor = sandbox.cursor()
    for query in (
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "COPY (SELECT 1) TO '/tmp/made.csv'",
        "ATTACH '/tmp/made.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "SELECT * FROM glob('/etc/*')",
    ):
        with pytest.raises(
            Exception, match=r"(?i)disabled|locked|cannot|configuration|does not exist"
        ):
            cursor.execute(query)
    sandbox.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[keeep]]\n", "did you mean 'keep'"),
        ('[[keep]]\nname = "a"\nwher = "true"\nwhy = "b"', "did you mean 'where'"),
        ('[[keep]]\nname = "a"\nwhere = "true"', "lacks 'why'"),
        (rule("true") + rule("false"), "two steps are called 'it'"),
        ("[split]\ntrain = 0.9\ntest = 0.2", "do not come to 1"),
        ("[split]\nvalidation = 0.7\ntest = 0.7", "do not come to 1"),
        ("[split]\ntrain = -0.5\ntest = 1.5", "do not come to 1"),
        ("[sample]\nfraction = 0.5\nnumber = 3", "either"),
        ("[sample]\nfraction = 1.5", "0 to 1"),
        ("[sample]\nnumber = true", "a whole number"),
        ('[[cap]]\nname = "c"\nby = "journal"\nmost = -1', "0 or more"),
        ("duplicates = false\n[dedup]", "asks for them"),
        ("keep = 3", "tables [[keep]]"),
        ("about = [", "no TOML"),
        ("seed = 3", "unknown setting seed"),
        ("exclude = 3", "a path or a list of paths"),
        ('exclude = [""]', "a path or a list of paths"),
        ('about = """\n[[keep]]\n"""', "no such line"),
    ],
)
def test_recipes_that_are_refused(text: str, said: str) -> None:
    """A recipe that can't be meant says so before anything is read."""
    with pytest.raises(ConfigError) as error:
        parse_recipe(text, "made")
    assert said in str(error.value)


def test_excluded_keys_are_left_out_first(
    archive: Archive, rows: list[Row], tmp_path: Path
) -> None:
    """Keys of the lists are in no view; they are counted, and the lists are noted by digest."""
    folder = tmp_path / "recipes"
    tables = [row["key"] for row in rows if row["figure_kind"] == "table"]
    write_file(folder / "a.txt", "".join(f"{key}\n" for key in tables).encode())
    write_file(folder / "lists" / "b.txt", f"\n {rows[0]['key']}\r\nPMC1-1-nowhere\n".encode())
    text = 'exclude = ["a.txt", "lists/b.txt"]\n' + rule("figure_kind = 'table'", "drop", "tables")
    write_file(folder / "made.toml", text.encode())
    found = select(archive, load_recipe(folder / "made.toml"), "made")
    view = View.open(archive, "made")
    assert set(view.table["key"].to_pylist()) == {r["key"] for r in rows} - {
        *tables,
        rows[0]["key"],
    }
    assert [(s.kind, s.refused) for s in found.steps] == [("exclude", len(tables) + 1), ("drop", 0)]
    assert found.samples + refused(found) == found.live
    assert found.notes == ("1 of the keys to exclude name no live sample",)
    noted = view.counts["exclude"]
    assert [each["keys"] for each in noted] == [len(tables), 2]
    assert noted[0]["sha256"] == file_digest(folder / "a.txt")


def test_lists_to_exclude_that_are_refused(archive: Archive, tmp_path: Path) -> None:
    """A list that is missing, or is something else than keys, says so."""
    for text, said in (("absent.txt", "No such file"), ("odd.txt", "is no key")):
        write_file(tmp_path / "odd.txt", b"PMC1-1-a, PMC1-1-b\n")
        recipe = parse_recipe(f'exclude = "{text}"\n', "made", tmp_path)
        with pytest.raises(ConfigError, match=said):
            select(archive, recipe, "made")


def test_recipe_names() -> None:
    """A recipe is found by name or by path; a wrong name gets a suggestion."""
    assert {"full", "commercial", "concept-filtered", "concept-balanced"} <= {
        recipe.name for recipe in list_recipes()
    }
    assert all(recipe.about for recipe in list_recipes())
    with pytest.raises(ConfigError, match="did you mean 'commercial'"):
        load_recipe("comercial")
    with pytest.raises(ConfigError, match="No such file"):
        load_recipe("nowhere/made.toml")


def test_shipped_recipes_work(archive: Archive, rows: list[Row]) -> None:
    """All of them select something of a labelled archive, and count all that they refuse."""
    write_labels(archive, rows)
    for recipe in list_recipes():
        found = select(archive, recipe, recipe.name)
        assert found.samples + refused(found) == found.live == 60
        assert found.samples, recipe.name
        assert found.concepts
        assert View.open(archive, recipe.name).counts["labels"]["name"] == "default"


def test_withdrawn_samples_are_never_in(archive: Archive, rows: list[Row]) -> None:
    """Tombstones go before all rules; those that come later are told to the reader of the view."""
    one = dict.fromkeys(("pmcid", "reason"), "x") | {"version": 1, "since": None}
    archive.set_tombstones([one | {"key": rows[5]["key"], "shard": rows[5]["shard"]}])
    found, got = chosen(archive, ALL)
    assert (found.withdrawn, found.live, found.samples) == (1, 59, 59)
    assert rows[5]["key"] not in {row["key"] for row in got}
    gone = [one | {"key": rows[i]["key"], "shard": rows[i]["shard"]} for i in (5, 30)]
    archive.set_tombstones(gone)
    view = View.open(archive, "made")
    assert [view.table["key"][i].as_py() for i in view.withdrawn] == [rows[30]["key"]]


def test_dry_run_counts_and_writes_no_view(archive: Archive) -> None:
    """The same counts, no folder."""
    recipe = parse_recipe(rule("width > 300"), "made")
    dry = select(archive, recipe, "made", dry_run=True)
    assert not (archive.root / "views" / "made").exists()
    assert replace(select(archive, recipe, "made"), view=None) == dry
    assert "dry run" in summary(dry)


def test_same_bytes_whatever_the_order_of_files(tmp_path: Path, rows: list[Row]) -> None:
    """A view depends on the archive and the recipe, not on who came first or what was kept."""
    text = (
        rule("width > 150")
        + '[[cap]]\nname = "cap"\nby = "figure_kind"\nmost = 20\n'
        + "[sample]\nfraction = 0.7\n[split]\ntest = 0.3\n"
    )
    shards = sorted({row["shard"] for row in rows})
    written = []
    for place, order in (("a", shards), ("b", shards[::-1])):
        archive = write_archive(tmp_path / place, rows, order)
        for _ in range(2):
            chosen(archive, text)
            folder = archive.root / "views" / "made"
            written.append([(p.name, p.read_bytes()) for p in sorted(folder.iterdir())])
    assert all(each == written[0] for each in written)
    assert [name for name, _ in written[0]] == ["counts.json", "recipe.toml", "view.arrow"]


def test_kept_columns_follow_the_archive(archive: Archive, rows: list[Row]) -> None:
    """A shard that changes is read again, alone; the others' parts stay."""
    write_labels(archive, rows)
    text = rule("width > 300 AND label.panel_type = 'single' AND figure_kind = 'fig'")
    before, _ = chosen(archive, text)
    shard = "commercial-000001"
    changed = [dict(row) for row in rows if row["shard"] == shard]
    for row in changed:
        row["width"], row["figure_kind"] = 100, "scheme"
    write_shard(archive, shard, changed)
    (archive.root / "figures" / "commercial" / "commercial-000000.parquet").chmod(0)
    if os.getuid() == 0:  # whom no mode keeps out
        (archive.root / "figures" / "commercial" / "commercial-000000.parquet").write_bytes(b"gone")
    recipe = parse_recipe(text, "made")
    after = select(archive, recipe, "made", dry_run=True)
    lost = [
        row
        for row in rows
        if row["shard"] == shard
        and row["width"] > 300
        and row["concepts"]
        and row["figure_kind"] == "fig"
    ]
    assert lost
    assert after.samples == before.samples - len(lost)


def test_view_is_stale_when_a_shard_is_rewritten(archive: Archive, rows: list[Row]) -> None:
    """`compact` moves bytes: a view from before says so; a new shard harms nothing."""
    chosen(archive, ALL)
    write_shard(archive, "other-000000", [sample(900, 999, "other-000000")])
    assert View.open(archive, "made").num_rows == 60
    write_shard(archive, "commercial-000000", rows[1:20])
    with pytest.raises(ArchiveError, match=r"stale.*biomedica select"):
        View.open(archive, "made")
    with pytest.raises(ConfigError, match="did you mean 'made'"):
        View.open(archive, "mode")


def test_damaged_view_is_refused(archive: Archive) -> None:
    """A file that was cut, or counts of another view."""
    chosen(archive, ALL)
    path = archive.root / "views" / "made" / "view.arrow"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ArchiveError, match="damaged"):
        View.open(archive, "made")


def test_view_is_replaced_whole(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that fails while it writes leaves the view that stood, and nothing else."""
    chosen(archive, rule("width > 300"))
    before = View.open(archive, "made").num_rows

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArchiveError, match="No space left"):
        select(archive, parse_recipe(ALL, "made"), "made")
    monkeypatch.undo()
    assert View.open(archive, "made").num_rows == before
    left = {path.name for path in (archive.root / "views").iterdir()}
    assert left == {".index", ".made.lock", "made"}


@pytest.mark.parametrize("change", ["rewritten", "new"])
def test_stale_labels_and_duplicates_are_errors(
    archive: Archive, rows: list[Row], change: str
) -> None:
    """Shards that are new or changed since: the message says what to run."""
    write_labels(archive, rows)
    write_duplicates(archive, [rows[:2]])
    if change == "new":
        write_shard(archive, "other-000000", [sample(900, 999, "other-000000")])
    else:
        write_shard(archive, "commercial-000000", rows[1:20])
    with pytest.raises(ArchiveError, match=r"stale.*`biomedica label"):
        chosen(archive, rule("label.status = 'labelled'"))
    with pytest.raises(ArchiveError, match=r"stale.*`biomedica duplicates"):
        chosen(archive, "[dedup]\n")
    found, _ = chosen(archive, ALL)
    assert any("labels were left out" in note for note in found.notes)


def test_label_runs(archive: Archive, rows: list[Row]) -> None:
    """The only run is taken; of several one has to be named; images that it says nothing of are unknown."""
    write_labels(
        archive, [row | {"concepts": None} if i % 7 == 6 else row for i, row in enumerate(rows)]
    )
    found, _ = chosen(archive, rule("list_contains(label.global_concepts, 'maps')"))
    assert found.steps[0].unknown == 8
    assert found.concepts == {"maps": found.samples}
    write_labels(archive, rows, "second")
    with pytest.raises(ConfigError, match="several label runs"):
        chosen(archive, rule("label.status = 'labelled'"))
    found, _ = chosen(archive, 'labels = "second"\n' + rule("label.status = 'labelled'"))
    assert found.samples == 48
    with pytest.raises(ConfigError, match="third"):
        chosen(archive, 'labels = "third"\n')


def test_dedup_keeps_the_best_that_is_left(archive: Archive, rows: list[Row]) -> None:
    """A group's first may be refused by a rule: then the next of the group stays."""
    groups = [rows[:3], rows[20:22], [rows[5], rows[45]]]
    write_duplicates(archive, groups)
    found, got = chosen(archive, rule("width > 100") + "[dedup]\n")
    keys = {row["key"] for row in got}
    assert rows[0]["key"] not in keys  # refused by the rule
    kept = [[row["key"] in keys for row in group] for group in groups]
    assert kept == [[False, True, False], [True, False], [True, False]]
    assert found.steps[-1].refused == 3
    assert found.samples == 56


def test_together_joins_articles_that_share_a_picture(archive: Archive, rows: list[Row]) -> None:
    """Near-duplicates lie in one split with `together`; without it, the leak is counted."""
    groups = [[rows[i], rows[i + 30]] for i in range(0, 27, 3)]
    write_duplicates(archive, groups)
    apart, _ = chosen(archive, "duplicates = true\n[split]\nvalidation = 0.2\ntest = 0.4\n")
    assert apart.leaks["groups"] > 0
    assert "leak" in summary(apart)
    found, got = chosen(archive, "[split]\nvalidation = 0.2\ntest = 0.4\ntogether = true\n")
    assert (found.leaks["groups"], found.leaks["samples"]) == (0, 0)
    assert found.leaks["largest_set"] == 2
    split = {row["key"]: row["split"] for row in got}
    assert all(len({split[row["key"]] for row in group}) == 1 for group in groups)


def test_split_is_the_same_forever() -> None:
    """The test vector of docs/select.md."""
    assert hex(mix(np.array([0], np.uint64))[0]) == "0xe220a8397b1dcdaf"
    assert hex(key_numbers(["PMC12-1-g001"])[0]) == KEY_VECTOR
    articles = np.arange(1_000_000, 1_000_010)
    for seed, said in SPLIT_VECTOR.items():
        split = Splitting(train=0.5, validation=0.25, test=0.25, seed=seed)
        assert "".join("TVX"[place] for place in split_of(articles, split)) == said
    assert hex(seeded(np.array([1_000_000], np.uint64), 0)[0]) == HASH_VECTOR


KEY_VECTOR = "0x7ccd2af3f4001794"
SPLIT_VECTOR = {0: "XTVXVXVTTT", 1: "TTXTTVVTXT"}
HASH_VECTOR = "0x3dabd5daecb15710"
LETTERS = "abcdefghijklmnopqrst"
CALM = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@CALM
@given(
    carried=st.lists(st.frozensets(st.sampled_from(LETTERS), max_size=3), max_size=60),
    most=st.integers(0, 12),
    seed=st.integers(0, 3),
)
def test_caps_hold(carried: list[frozenset[str]], most: int, seed: int) -> None:
    """A value is above the cap only by samples that were kept for a rarer one; nothing is refused in vain."""
    values = [tuple(sorted(each)) for each in dict.fromkeys(carried)]
    codes = np.array([values.index(tuple(sorted(each))) for each in carried], np.int32)
    numbers = key_numbers([f"key {i}" for i in range(len(carried))])
    keep = capped(codes, values, numbers, seed, most)
    totals = Counter(value for each in carried for value in each)
    home = [min(each, key=lambda v: (totals[v], v), default=None) for each in carried]
    kept = Counter(value for each, k in zip(carried, keep, strict=True) if k for value in each)
    of_home = Counter(h for h, k in zip(home, keep, strict=True) if k)
    for value in totals:
        assert kept[value] <= max(most, kept[value] - of_home[value])
    for own, is_kept in zip(home, keep, strict=True):
        assert is_kept or kept[own] >= most


@CALM
@given(pairs=st.lists(st.tuples(st.integers(0, 12), st.integers(100, 112)), max_size=40))
def test_joined_articles_are_connected_sets(pairs: list[tuple[int, int]]) -> None:
    """Articles of one group have one representative, the lowest of their set."""
    groups = np.array([g for g, _ in pairs], np.int64)
    articles = np.array([a for _, a in pairs], np.int64)
    known, lowest = joined_articles(groups, articles)
    of = dict(zip(known.tolist(), lowest.tolist(), strict=True))
    for group, article in pairs:
        for other, second in pairs:
            if group == other:
                assert of.get(article, article) == of.get(second, second)
    assert all(low <= article and of[low] == low for article, low in of.items())


@CALM
@given(data=st.data())
def test_properties_of_a_view(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Refusals add up; no article lies in two splits; one of each group stays; caps hold."""
    number = data.draw(st.integers(1, 40))
    made = []
    for i in range(number):
        shard = f"commercial-{data.draw(st.integers(0, 2)):06d}"
        facts = {
            "width": data.draw(st.integers(1, 5)),
            "published": data.draw(st.none() | st.integers(0, 3)),
            "concepts": data.draw(st.lists(st.sampled_from(CONCEPTS), max_size=3, unique=True)),
        }
        made.append(sample(i, 100 + data.draw(st.integers(0, 9)), shard, **facts))
    archive = write_archive(tmp_path_factory.mktemp("made") / "archive", made)
    write_labels(archive, made)
    order = data.draw(st.permutations(made))
    groups = [order[i : i + 3] for i in range(0, len(order) - 2, 5)]
    write_duplicates(archive, groups)
    most = data.draw(st.integers(0, 6))
    text = (
        rule("published < DATE '1970-01-03'", "drop", "late")
        + rule("width > 1 AND contains(caption, 'Caption')", "keep", "wide")
        + f'[dedup]\n[[cap]]\nname = "cap"\nby = "label.global_concepts"\nmost = {most}\n'
        + f"[sample]\nfraction = {data.draw(st.sampled_from([0.0, 0.5, 1.0]))}\n"
        + f"[split]\nvalidation = 0.3\ntest = 0.3\ntogether = {data.draw(st.sampled_from(['true', 'false']))}\n"
    )
    found, got = chosen(archive, text)
    assert found.samples + refused(found) == found.live == number
    assert len(got) == found.samples == sum(found.splits.values())
    by_key = {row["key"]: row for row in made}
    splits: dict[str, set[str]] = {}
    for row in got:
        splits.setdefault(by_key[row["key"]]["pmcid"], set()).add(row["split"])
        assert by_key[row["key"]]["width"] > 1
    assert all(len(each) == 1 for each in splits.values())
    keys = {row["key"] for row in got}
    assert all(sum(row["key"] in keys for row in group) <= 1 for group in groups)
    uncapped, _ = chosen(archive, text.partition("[[cap]]")[0], "uncapped")
    assert uncapped.samples >= found.samples
    assert asdict(found)["concepts"] == Counter(
        concept for key in keys for concept in by_key[key]["concepts"]
    )


def test_every_column_can_be_named(archive: Archive, rows: list[Row]) -> None:
    """A condition on each column of figures, articles, labels and duplicates runs."""
    write_labels(archive, rows)
    write_duplicates(archive, [rows[:2]])
    names = [name for name in COLUMNS if not name.startswith("cluster.")]
    where = " OR ".join(f"{name} IS NOT NULL" for name in names)
    found, _ = chosen(archive, rule(where))
    assert found.samples == 60
    table = pq.read_table(archive.root / "duplicates.parquet")
    found, _ = chosen(archive, rule("duplicate.tier = 'phash'"))
    assert found.samples == table.num_rows


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "a/b"])
def test_view_names(archive: Archive, name: str) -> None:
    """A name never leaves the folder of views."""
    with pytest.raises(ConfigError, match="no name for a view"):
        select(archive, parse_recipe(ALL, "made"), name)


def test_empty_view_is_said(archive: Archive) -> None:
    """Allowed, and told."""
    found, got = chosen(archive, rule("false"))
    assert got == []
    assert "empty" in summary(found)
    assert View.open(archive, "made").table.schema == VIEW


def test_clusters_and_bytes(tmp_path: Path) -> None:
    """Columns of a clustering can be asked, and a view's places hold the samples' members."""
    archive = small_archive(tmp_path)
    cluster(archive, give_features(archive), ClusterSettings(clusters=5, components=4))
    found, got = chosen(archive, rule("cluster.cluster = 0 AND cluster.distance >= 0"))
    of_table = Counter[str]()
    for shard, table in read_assignment(archive, "default"):
        of_table[shard] = table["cluster"].to_pylist().count(0)
    assert Counter(row["shard"] for row in got) == +of_table
    assert View.open(archive, "made").counts["clusters"]["name"] == "default"
    for row in got:
        tar = next((archive.root / "shards").glob(f"*/{row['shard']}.tar")).read_bytes()
        start = row["jpg_offset"]
        assert tar[start : start + 2] == b"\xff\xd8"
        assert tar[row["offset"] :].startswith(f"{row['key']}.jpg".encode())
        caption = tar[row["txt_offset"] : row["txt_offset"] + row["txt_size"]]
        assert (
            json.loads(tar[row["json_offset"] :][: row["json_size"]])["caption"] == caption.decode()
        )
    assert found.samples
    split_cluster(archive, "default", 0)
    with pytest.raises(ArchiveError, match="biomedica cluster"):
        chosen(archive, rule("cluster.cluster = 0"))


def test_archive_without_samples(tmp_path: Path) -> None:
    """Shards of articles without pictures: an empty view, and an archive without shards: an error."""
    archive = write_archive(tmp_path / "archive", [], ["commercial-000000"])
    text = rule("width > 3 AND caption = 'x'") + '[[cap]]\nname = "c"\nby = "width"\nmost = 1\n'
    found, got = chosen(archive, text + "[sample]\nnumber = 3\n[split]\ntest = 0.5\n")
    assert (found.samples, got) == (0, [])
    empty = write_archive(tmp_path / "empty", [])
    with pytest.raises(ArchiveError, match="no finished shard"):
        chosen(empty, ALL)


@pytest.mark.parametrize(
    ("by", "most", "kept"),
    [("figure_kind", 4, 8), ("mesh_terms", 7, 37), ("width // 300", 3, 9), ("journal", 0, 60)],
)
def test_caps_by_any_expression(archive: Archive, by: str, most: int, kept: int) -> None:
    """By codes, texts and numbers; samples without a value stay."""
    found, _ = chosen(archive, f'[[cap]]\nname = "c"\nby = "{by}"\nmost = {most}\n')
    assert found.samples == kept
    assert found.steps[0].refused == 60 - kept


@pytest.mark.parametrize(
    "where",
    [
        "TRY_CAST((random()::VARCHAR -> '$') AS DOUBLE) < 0.5",
        "((SELECT max(1)::VARCHAR) -> '$')::VARCHAR::INT = width",
        "list_filter(keywords, (SELECT 'x') -> true) IS NULL",
        "published < current_localtimestamp()",
        "version() = 'x'",
        "age(published::TIMESTAMP) IS NULL",
    ],
)
def test_nothing_hides_behind_an_arrow(archive: Archive, where: str) -> None:
    """JSON's arrow is parsed as a lambda: nothing may stand on its left but a parameter's name."""
    text = f'[[keep]]\nname = "a"\nwhere = """{where}"""\nwhy = "b"\n'
    with pytest.raises(ConfigError):
        select(archive, parse_recipe(text, "made"), "made", dry_run=True)


def test_a_day_is_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What day a moment is in does not depend on where the recipe is run."""
    from biomedica.select.conditions import Sandbox

    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        sandbox = Sandbox()
        with sandbox.cursor() as cursor:
            asked = "SELECT TIMESTAMPTZ '2020-01-01 02:00:00+00'::DATE = DATE '2020-01-01'"
            assert cursor.execute(asked).fetchone() == (True,)
        sandbox.close()
    finally:
        monkeypatch.undo()
        time.tzset()
