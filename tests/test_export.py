"""An export holds what may leave, byte for byte, and says who made it and what stayed behind."""

from __future__ import annotations

import hashlib
import html
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from biomedica import flow, shards
from biomedica.archive import Archive
from biomedica.catalog import Selection
from biomedica.compact import compact
from biomedica.config import load_settings
from biomedica.errors import ArchiveError, ConfigError
from biomedica.export import Exported, ExportSettings, Layout, check_sums, export
from biomedica.export.choose import Part, Piece
from biomedica.export.published import FIELDS
from biomedica.export.takedown import read_takedown
from biomedica.export.text import code_block, markdown, yaml
from biomedica.select import parse_recipe, select
from export_views import figure_rows, split_of, write_labels, write_view

LAYOUTS: tuple[Layout, ...] = ("webdataset", "parquet", "biomedica")
GROUPS = ("commercial", "noncommercial", "other")
SMALL = ExportSettings(samples=20, groups=GROUPS)
CARD_FILES = {
    "ATTRIBUTION.parquet",
    "CITATION.cff",
    "LICENSE.md",
    "README.md",
    "SHA256SUMS",
    "croissant.json",
    "export.json",
    "recipe.toml",
}


@pytest.fixture(scope="session")
def archive(tour_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tour's articles with a label run, and a view with and one without it."""
    root = tmp_path_factory.mktemp("export") / "archive"
    settings = load_settings(None, ["shards.samples=20"])
    flow.build_archive(str(tour_folder), root, Selection(), settings, engine="inline")
    write_labels(root)
    write_view(root, "all")
    write_view(root, "labelled", labels="default")
    return root


@pytest.fixture
def own(archive: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(archive, tmp_path / "archive"))


@pytest.fixture(scope="session")
def exported(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Every layout, with labels; and one without."""
    folder = tmp_path_factory.mktemp("exports")
    found = {
        layout: export(Archive(archive), "labelled", folder / layout, layout, SMALL)
        for layout in LAYOUTS
    }
    found["plain"] = export(Archive(archive), "all", folder / "plain", "webdataset", SMALL)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of every file, by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def samples(folder: Path) -> dict[str, dict[str, bytes]]:
    """Members by key, over all tar shards."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*/*/*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                key, dot, extension = member.name.partition(".")
                assert dot and extension in ("jpg", "txt", "json")
                found.setdefault(key, {})[extension] = file.read()
    return found


def may_leave(row: Mapping[str, Any]) -> bool:
    """By the default policies, said once more in the simplest words."""
    code = row["license_code"] or ""
    return not (row["is_retracted"] or code.endswith("ND") or row["figure_rights"] is not None)


def allowed(root: Path) -> dict[str, dict[str, Any]]:
    """Rows that the default policies let pass, by key."""
    return {row["key"]: row for row in figure_rows(root) if may_leave(row)}


def member(root: Path, row: Mapping[str, Any], extension: str) -> bytes:
    """Bytes of a member in the archive."""
    data = (root / "shards" / row["licence_group"] / f"{row['shard']}.tar").read_bytes()
    start = row[f"{extension}_offset"]
    return data[start : start + row[f"{extension}_size"]]


def test_webdataset_copies_the_bytes(archive: Path, exported: dict[str, Exported]) -> None:
    found = samples(exported["plain"].folder)
    rows = allowed(archive)
    assert found.keys() == rows.keys()
    for key, row in rows.items():
        assert found[key] == {each: member(archive, row, each) for each in ("jpg", "txt", "json")}


def test_every_layout_keeps_order_group_and_split(
    archive: Path, exported: dict[str, Exported]
) -> None:
    expected: dict[str, list[str]] = {}
    for key, row in allowed(archive).items():
        expected.setdefault(f"{row['licence_group']}/{split_of(row)}", []).append(key)
    for layout in LAYOUTS:
        result = exported[layout]
        assert result.num_samples == sum(map(len, expected.values()))
        for folder, keys in expected.items():
            shards_of = sorted((result.folder / folder).iterdir())
            assert [path.stem for path in shards_of] == [f"{i:06d}" for i in range(len(shards_of))]
            lists = [_keys(path) for path in shards_of]
            assert sum(lists, []) == keys  # noqa: RUF017
            assert [len(each) for each in lists[:-1]] == [20] * (len(lists) - 1)


def _keys(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path, columns=["key"])["key"].to_pylist())
    with tarfile.open(path) as tar:
        return [name.removesuffix(".jpg") for name in tar.getnames() if name.endswith(".jpg")]


def test_labels_stand_in_the_json(archive: Path, exported: dict[str, Exported]) -> None:
    labels = pq.read_table(archive / "labels" / "default.parquet").to_pylist()
    by_key = {row["key"]: row for row in labels}
    found = samples(exported["webdataset"].folder)
    plain = samples(exported["plain"].folder)
    assert any(key not in by_key for key in found)
    for key, members in found.items():
        content = json.loads(members["json"])
        label = by_key.get(key, {})
        assert content["label_status"] == label.get("status")
        assert content["global_concepts"] == label.get("global_concepts", [])
        assert content["cluster"] == label.get("cluster")
        own_part = {name: content[name] for name in json.loads(plain[key]["json"])}
        assert own_part == json.loads(plain[key]["json"])


def test_parquet_holds_pictures_and_facts(archive: Path, exported: dict[str, Exported]) -> None:
    rows = allowed(archive)
    paths = sorted(exported["parquet"].folder.glob("*/*/*.parquet"))
    found = [row for path in paths for row in pq.read_table(path).to_pylist()]
    assert {row["key"] for row in found} == rows.keys()
    for row in found:
        source = rows[row["key"]]
        assert row["image"]["path"] == f"{row['key']}.jpg"
        assert row["image"]["bytes"] == member(archive, source, "jpg")
        facts = {name: value for name, value in source.items() if name not in shards.OFFSETS}
        assert {name: row[name] for name in facts} == facts


def test_parquet_row_groups_are_bounded(archive: Path, tmp_path: Path) -> None:
    settings = ExportSettings(row_group_bytes=100_000)
    result = export(Archive(archive), "all", tmp_path / "out", "parquet", settings)
    for path in result.folder.glob("*/*/*.parquet"):
        file = pq.ParquetFile(path)
        for number in range(file.num_row_groups):
            images = file.read_row_group(number, columns=["image"])["image"].to_pylist()
            assert sum(len(each["bytes"]) for each in images[:-1]) < 100_000


def test_the_27_published_fields(archive: Path, exported: dict[str, Exported]) -> None:
    types = {
        "image_size": list,
        "image_primary_label": list,
        "image_secondary_label": list,
        "image_set": list,
        "image_context": dict,
        "article_mesh_terms": list,
        "article_keywords": list,
        "article_reference_ids": list,
        "article_reference_count": int,
        "article_reference_list": list,
        "article_subject": list,
    }
    rows = allowed(archive)
    names = [name for name, _, _ in FIELDS]
    assert len(names) == 25
    for key, members in samples(exported["biomedica"].folder).items():
        content, row = json.loads(members["json"]), rows[key]
        assert list(content) == names
        for name, value in content.items():
            assert type(value) is types.get(name, str), name
        assert members["jpg"] == member(archive, row, "jpg")
        assert members["txt"].decode() == row["caption"]
        assert content["article_accession_id"] == row["pmcid"]
        assert content["image_size"] == [row["width"], row["height"]]
        assert content["image_cluster_id"] in content["image_context"]
        assert row["file_name"] in [each["image_file_name"] for each in content["image_set"]]
        assert content["article_date"] == "None" or int(content["article_date"]) % 86_400 == 0
        assert content["article_reference_count"] == len(content["article_reference_ids"])
        assert not any("/" in term or "*" in term for term in content["article_mesh_terms"])
        assert row["title"] is None or row["title"] in content["article_text"]


def test_the_page_lists_the_fields() -> None:
    page = Path(__file__).parent.parent / "docs" / "export.md"
    assert "".join(f"| `{name}` | {about} |\n" for name, _, about in FIELDS) in page.read_text()


def test_published_words_for_labels(archive: Path, exported: dict[str, Exported]) -> None:
    labels = pq.read_table(archive / "labels" / "default.parquet").to_pylist()
    by_key = {row["key"]: row for row in labels}
    for key, members in samples(exported["biomedica"].folder).items():
        content = json.loads(members["json"])
        label = by_key.get(key)
        assert content["image_label_id"] == ("" if label is None else str(label["cluster"]))
        if label is not None and label["status"] == "labelled":
            assert content["image_panel_type"] == "single"
            assert content["image_panel_subtype"] == "single panel"
            assert content["image_primary_label"] == ["Microscopy"]
            assert content["image_secondary_label"] == ["light microscopy"]
        else:
            assert content["image_panel_type"] == content["image_panel_subtype"] == ""
            assert content["image_primary_label"] == content["image_secondary_label"] == []


def test_context_can_be_kept_to_the_figure(archive: Path, tmp_path: Path) -> None:
    settings = ExportSettings(article_context=False, article_text=False)
    result = export(Archive(archive), "all", tmp_path / "out", "biomedica", settings)
    for members in samples(result.folder).values():
        content = json.loads(members["json"])
        assert [each["image_id"] for each in content["image_set"]] == [content["image_cluster_id"]]
        assert list(content["image_context"]) == [content["image_cluster_id"]]
        assert content["article_text"] == ""


@pytest.mark.parametrize("name", [*LAYOUTS, "plain"])
def test_sums_and_result_are_of_what_stands_there(name: str, exported: dict[str, Exported]) -> None:
    result = exported[name]
    files = contents(result.folder)
    assert {path for path in files if "/" not in path} == CARD_FILES
    lines = files["SHA256SUMS"].decode().splitlines()
    digests = {line[66:]: line[:64] for line in lines}
    assert digests == {
        path: hashlib.sha256(data).hexdigest()
        for path, data in files.items()
        if path != "SHA256SUMS"
    }
    assert result.num_bytes == sum(map(len, files.values()))
    assert json.loads(files["export.json"])["num_samples"] == result.num_samples
    if shutil.which("sha256sum"):
        command = ["sha256sum", "-c", "--quiet", "SHA256SUMS"]
        subprocess.run(command, cwd=result.folder, check=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_exports_are_the_same_bytes(
    layout: Layout, archive: Path, exported: dict[str, Exported], tmp_path: Path
) -> None:
    again = export(Archive(archive), "labelled", tmp_path / "another name", layout, SMALL)
    assert contents(again.folder) == contents(exported[layout].folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_image_is_attributed(
    layout: Layout, archive: Path, exported: dict[str, Exported]
) -> None:
    table = pq.read_table(exported[layout].folder / "ATTRIBUTION.parquet").to_pylist()
    by_article = {(row["pmcid"], row["version"]): row for row in table}
    assert len(by_article) == len(table) == exported[layout].num_articles
    counts: dict[tuple[str, int], int] = {}
    for row in allowed(archive).values():
        name = row["pmcid"], row["version"]
        counts[name] = counts.get(name, 0) + 1
        article = by_article[name]
        assert article["license_code"] == row["license_code"]
        assert article["title"] == row["title"]
        assert row["transform"] in [each["transform"] for each in article["changes"]]
    assert counts == {name: row["num_images"] for name, row in by_article.items()}
    for row in table:
        assert sum(each["num_images"] for each in row["changes"]) == row["num_images"]


def test_policies_refuse_and_count(archive: Path, tmp_path: Path) -> None:
    rows = figure_rows(archive)

    def count(rule: Callable[[dict[str, Any]], bool]) -> int:
        return sum(map(rule, rows))

    default = export(Archive(archive), "all", tmp_path / "default", "webdataset", SMALL)
    assert default.refused["retracted"] == count(lambda row: row["is_retracted"])
    assert sum(default.refused.values()) + default.num_samples == len(rows)
    lenient = ExportSettings(
        no_derivatives="keep-unchanged",
        third_party_rights="keep",
        retracted=True,
        groups=GROUPS,
    )
    everything = export(Archive(archive), "all", tmp_path / "lenient", "webdataset", lenient)
    changed_nd = count(
        lambda row: (row["license_code"] or "").endswith("ND") and row["transform"] != "none"
    )
    assert changed_nd > 0
    assert everything.refused == {"no_derivatives": changed_nd}
    plain = export(Archive(archive), "all", tmp_path / "plain", "webdataset", ExportSettings())
    assert plain.refused["group"] == count(lambda row: row["licence_group"] == "other") > 0
    one = ExportSettings(groups=("noncommercial",))
    only = export(Archive(archive), "all", tmp_path / "one", "webdataset", one)
    assert set(only.counts) == {"noncommercial"}
    assert only.refused["group"] == count(lambda row: row["licence_group"] != "noncommercial")
    card = (default.folder / "README.md").read_text()
    assert f"| {default.refused['retracted']} |" in card


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_taken_down_is_nowhere(layout: Layout, archive: Path, tmp_path: Path) -> None:
    rows = list(allowed(archive).values())
    article, single, picture = rows[0], rows[12], rows[20]
    assert len({each["pmcid"] for each in (article, single, picture)}) == 3
    listed = tmp_path / "takedown.txt"
    listed.write_text(
        f"# asked for by letter\n{article['pmcid']}\n\n{single['key']}  # by phone\n"
        f"{picture['sha256'].upper()}\n"
    )
    result = export(Archive(archive), "all", tmp_path / "out", layout, SMALL, takedown=listed)
    gone = [row for row in rows if row["pmcid"] == article["pmcid"]] + [single, picture]
    assert result.refused["takedown"] == len(gone)
    everything = b"".join(_plain(result.folder))
    for row in gone:
        assert row["key"].encode() not in everything
        assert row["sha256"].encode() not in everything
    attribution = pq.read_table(result.folder / "ATTRIBUTION.parquet")["pmcid"].to_pylist()
    assert article["pmcid"] not in attribution


def _plain(folder: Path) -> list[bytes]:
    """All files, the tables as JSON."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".parquet":
            rows = pq.read_table(path).to_pylist()
            found.append(json.dumps(rows, default=str).encode())
        elif path.is_file():
            found.append(path.read_bytes())
    return found


def test_a_bad_line_of_a_takedown_list_stops(archive: Path, tmp_path: Path) -> None:
    listed = tmp_path / "takedown.txt"
    listed.write_text("PMC99900001\nPCM99900002\n")
    with pytest.raises(ConfigError, match=r"line 2.*PCM99900002"):
        export(Archive(archive), "all", tmp_path / "out", "webdataset", SMALL, takedown=listed)


def test_withdrawn_samples_stay(own: Path, tmp_path: Path) -> None:
    victims = list(allowed(own).values())[:3]
    _withdraw(own, victims)
    result = export(Archive(own), "all", tmp_path / "out", "biomedica", ExportSettings())
    assert result.refused["withdrawn"] == 3
    everything = b"".join(_plain(result.folder))
    assert not any(row["key"].encode() in everything for row in victims)


def _withdraw(root: Path, rows: list[dict[str, Any]]) -> None:
    names = ("key", "shard", "pmcid", "version")
    stones = [
        {name: row[name] for name in names} | {"reason": "withdrawn", "since": None} for row in rows
    ]
    Archive(root).set_tombstones(stones)


def test_a_view_of_an_older_archive_is_refused(own: Path, tmp_path: Path) -> None:
    _withdraw(own, list(allowed(own).values())[:1])
    compact(Archive(own))
    with pytest.raises(ArchiveError, match=r"view 'all' is stale.*biomedica select"):
        export(Archive(own), "all", tmp_path / "out", "webdataset", SMALL)


def test_a_view_of_older_labels_is_refused(own: Path, tmp_path: Path) -> None:
    path = own / "labels" / "default.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(ArchiveError, match="stale: label run 'default'"):
        export(Archive(own), "labelled", tmp_path / "out", "webdataset", SMALL)


@pytest.mark.parametrize("part", ["jpg", "txt", "json"])
def test_a_damaged_byte_stops_with_shard_and_key(own: Path, tmp_path: Path, part: str) -> None:
    row = list(allowed(own).values())[10]
    path = own / "shards" / row["licence_group"] / f"{row['shard']}.tar"
    with path.open("r+b") as file:
        file.seek(row[f"{part}_offset"] + row[f"{part}_size"] // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(ArchiveError, match=rf"{row['shard']}.*{row['key']}"):
        export(Archive(own), "all", tmp_path / "out", "webdataset", SMALL)
    assert not (tmp_path / "out").exists()


def test_a_cut_shard_stops(own: Path, tmp_path: Path) -> None:
    path = next((own / "shards" / "noncommercial").glob("*.tar"))
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ArchiveError, match=f"{path.stem}.*bytes|{path.stem}.*table"):
        export(Archive(own), "all", tmp_path / "out", "webdataset", SMALL)


def test_other_peoples_folders_are_refused(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"chapter\.txt"):
        export(Archive(archive), "all", tmp_path / "thesis", "webdataset", SMALL)
    with pytest.raises(ConfigError, match="in the archive"):
        export(Archive(archive), "all", archive / "views" / "out", "webdataset", SMALL)
    with pytest.raises(ConfigError, match="no view 'al'"):
        export(Archive(archive), "al", tmp_path / "out", "webdataset", SMALL)


def test_an_older_export_is_replaced_and_the_same_one_left_alone(
    archive: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    first = export(Archive(archive), "all", folder, "webdataset", SMALL)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = export(Archive(archive), "all", folder, "webdataset", SMALL)
    assert again.num_reused == first.num_shards
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    shard = next(folder.glob("*/*/*.tar"))
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    mended = export(Archive(archive), "all", folder, "webdataset", SMALL)
    assert mended.num_reused == 0
    check_sums(folder)
    export(Archive(archive), "all", folder, "parquet", SMALL)
    assert not list(folder.glob("*/*/*.tar"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


KILLED = """
import os, signal, sys
from pathlib import Path
from biomedica.archive import Archive
from biomedica.export import ExportSettings, export
def stop(done, total):
    if done >= int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
export(Archive(Path(sys.argv[1])), "labelled", Path(sys.argv[2]), sys.argv[3],
       ExportSettings(samples=20, groups=("commercial", "noncommercial", "other")), on_progress=stop)
"""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_killed_half_way_looks_undone_and_resumes(
    layout: Layout, archive: Path, exported: dict[str, Exported], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(archive), str(folder), layout, "40"]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not folder.exists()
    left = tmp_path / ".out.export"
    assert not (left / "README.md").exists()
    half = left / "other" / "train" / ".000000.tar.tmp"
    half.parent.mkdir(parents=True, exist_ok=True)
    half.write_bytes(b"half a shard")
    result = export(Archive(archive), "labelled", folder, layout, SMALL)
    assert 2 <= result.num_reused < result.num_shards
    assert contents(folder) == contents(exported[layout].folder)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_an_interrupted_run_left_is_not_trusted(
    archive: Path, exported: dict[str, Exported], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(archive), str(folder), "webdataset", "1"]
    subprocess.run(command, capture_output=True)
    shard = next((tmp_path / ".out.export").glob("*/*/*.tar"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    result = export(Archive(archive), "labelled", folder, "webdataset", SMALL)
    assert result.num_reused == 0
    assert contents(folder) == contents(exported["webdataset"].folder)
    subprocess.run([*command[:4], str(tmp_path / "two"), *command[5:]], capture_output=True)
    other = ExportSettings(samples=20, version="2.0.0")
    assert (
        export(Archive(archive), "labelled", tmp_path / "two", "webdataset", other).num_reused == 0
    )


def test_two_exports_at_once_are_refused(archive: Path, tmp_path: Path) -> None:
    def again(done: int, total: int) -> None:
        with pytest.raises(ConfigError, match="another export"):
            export(Archive(archive), "all", tmp_path / "out", "webdataset", SMALL)

    export(Archive(archive), "all", tmp_path / "out", "webdataset", SMALL, on_progress=again)


def test_a_full_disk_is_said_in_words(archive: Path, tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from biomedica.archive import Archive\n"
        "from biomedica.export import ExportSettings, export\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: export(Archive(Path(sys.argv[1])), 'all', Path(sys.argv[2]), sys.argv[3],"
        " ExportSettings(samples=20, groups=('commercial', 'noncommercial', 'other')))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    for layout in ("webdataset", "parquet"):
        command = [sys.executable, "-c", code, str(archive), str(tmp_path / layout), layout]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.stdout.startswith("ArchiveError cannot write to"), done.stdout + done.stderr
        assert not done.stderr
        assert not (tmp_path / layout).exists()


def test_nothing_left_to_export_is_said(archive: Path, own: Path, tmp_path: Path) -> None:
    write_view(own, "nd", keep=lambda row: (row["license_code"] or "").endswith("ND"))
    with pytest.raises(ConfigError, match=r"nothing of view nd.* by no_derivatives"):
        export(Archive(own), "nd", tmp_path / "out", "webdataset", SMALL)


def test_a_split_that_is_no_folder_is_refused(own: Path, tmp_path: Path) -> None:
    write_view(own, "all", split=lambda row: "../../up")
    with pytest.raises(ArchiveError, match="split"):
        export(Archive(own), "all", tmp_path / "out", "webdataset", SMALL)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": ("commercial", "free")}, "'free'"),
        ({"groups": ()}, "one licence group"),
        ({"samples": 0}, "export.samples is 0"),
        ({"version": "first"}, "export.version"),
        ({"date": "yesterday"}, "export.date"),
        ({"title": " "}, "export.title"),
    ],
)
def test_settings_that_cannot_be_meant(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ExportSettings(**change)


def test_a_view_of_select_with_its_counts(own: Path, tmp_path: Path) -> None:
    text = (
        "labels = 'default'\n"
        "[[drop]]\nname = 'no patients | no <b>'\nwhy = 'a test'\n"
        "where = \"figure.licence_group = 'other'\"\n"
        "[split]\nvalidation = 0.2\ntest = 0.2\n"
    )
    found = select(Archive(own), parse_recipe(text, "small"), "small")
    result = export(Archive(own), "small", tmp_path / "out", "parquet", SMALL)
    assert result.num_samples + sum(result.refused.values()) == found.samples
    assert "other" not in result.counts
    assert result.counts["commercial"].keys() <= {"train", "validation", "test"}
    card = (result.folder / "README.md").read_text()
    assert text in card
    assert "| no patients \\| no &lt;b&gt; | drop | 1 |" in card
    assert "## Labels" in card


# the card and what stands beside it


def head(folder: Path) -> dict[str, Any]:
    """The card's YAML."""
    reader = pytest.importorskip("yaml")
    return dict(reader.safe_load((folder / "README.md").read_text().split("---\n")[1]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_cards_head(layout: Layout, exported: dict[str, Exported]) -> None:
    folder = exported[layout].folder
    found = head(folder)
    assert found["license"] == "other"
    assert (folder / found["license_link"]).is_file()
    assert found["size_categories"] == ["n<1K"]
    for config in found["configs"]:
        for each in config["data_files"]:
            assert list(folder.glob(each["path"])), each["path"]
    assert [each["config_name"] for each in found["dataset_info"]] == list(exported[layout].counts)


def test_the_card_says_what_was_measured(exported: dict[str, Exported]) -> None:
    card = (exported["webdataset"].folder / "README.md").read_text()
    assert "| microscopy | 42 | 20 | 18 | 1 | 90.0 | 69.9 to 97.2 |" in card
    assert "Agreement of 3 experts" in card
    assert "## Labels" not in (exported["plain"].folder / "README.md").read_text()


def test_markup_in_the_data_stays_text(own: Path, tmp_path: Path) -> None:
    path = shards.tables(own, "figures")[0]
    evil = "---\n# <script>alert(1)</script> | [x](http://evil) ![y](z) `q` www.evil.org @me"
    (own / "views" / "all" / "recipe.toml").write_text("# ```\n# <b>\n````\n")
    settings = ExportSettings(title=f"A: {evil}", creators=('O\'Neil: "x"\n- y',), contact=evil)
    result = export(Archive(own), "all", tmp_path / "out", "webdataset", settings)
    card = (result.folder / "README.md").read_text()
    body = card.split("---\n", 2)[2]
    assert path.exists()
    assert "<script>" not in body
    assert "](http" not in body
    assert "`````toml" in body
    reader = pytest.importorskip("yaml")
    assert reader.safe_load(card.split("\n---\n")[0])["pretty_name"] == settings.title
    citation = reader.safe_load((result.folder / "CITATION.cff").read_text())
    assert citation["authors"] == [{"name": settings.creators[0]}]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_citation_is_in_the_format(layout: Layout, exported: dict[str, Exported]) -> None:
    reader = pytest.importorskip("yaml")
    found = reader.safe_load((exported[layout].folder / "CITATION.cff").read_text())
    assert found["cff-version"] == "1.2.0"
    assert found["type"] == "dataset"
    assert found["authors"] and found["title"] and found["message"]
    assert {"type", "title", "authors"} <= found["references"][0].keys()


def test_dates_come_from_the_archive_or_the_settings(own: Path, tmp_path: Path) -> None:
    assert json.loads((own / "archive.json").read_text())["snapshot"]
    dated = ExportSettings(date="2031-05-06", version="3.2.1")
    result = export(Archive(own), "all", tmp_path / "dated", "webdataset", dated)
    assert 'date-released: "2031-05-06"' in (result.folder / "CITATION.cff").read_text()
    croissant = json.loads((result.folder / "croissant.json").read_text())
    assert (croissant["datePublished"], croissant["version"]) == ("2031-05-06", "3.2.1")


TEXT = st.text(max_size=40)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(-(2**31), 2**31), TEXT),
            lambda inner: st.one_of(
                st.lists(st.one_of(TEXT, st.integers(0, 9)), max_size=3),
                st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), inner, max_size=3),
                st.lists(
                    st.dictionaries(
                        st.from_regex(r"[a-z]{1,5}", fullmatch=True), inner, min_size=1, max_size=3
                    ),
                    max_size=3,
                ),
            ),
            max_leaves=8,
        ),
        max_size=5,
    )
)
def test_yaml_is_read_back(value: dict[str, Any]) -> None:
    reader = pytest.importorskip("yaml")
    found = reader.safe_load(yaml(value)) or {}
    assert found == _visible(value)


def _visible(value: Any) -> Any:
    """What is left of a text when what YAML cannot hold is replaced."""
    if isinstance(value, dict):
        return {name: _visible(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_visible(inner) for inner in value]
    if isinstance(value, str):
        return (
            json.loads(yaml({"x": value}).partition(": ")[2])
            if '"' in yaml({"x": value})
            else value
        )
    return value


MARKS = st.text(st.one_of(st.characters(), st.sampled_from("\\`*_[](){}#!|~@:<>&;'\"-+=.1 \n")))


@given(
    st.one_of(MARKS, st.sampled_from(["- a", "1. a", "    a", "a  \n  b", "&amp;", "# a", "> a"]))
)
def test_markdown_shows_the_text_as_it_is(text: str) -> None:
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    line = markdown(text)
    assert "\n" not in line
    table = reader.render(f"| a | b |\n|---|---|\n| {line} | end |\n")
    cells = re.findall(r"<td>(.*?)</td>", table, re.DOTALL)
    shown = re.sub(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text).strip()
    assert [html.unescape(cell) for cell in cells] == [shown, "end"]
    assert not re.search(r"<(?!/?(table|thead|tbody|tr|th|td)\b)", table)


@given(st.text(alphabet="`a\n"))
def test_a_fence_holds(text: str) -> None:
    first, *_, last = code_block(text).split("\n")
    assert first == last
    assert all(not line.startswith(first) for line in code_block(text).split("\n")[1:-1])


@given(
    st.lists(st.integers(1, 30), max_size=6),
    st.integers(1, 25),
)
def test_shards_hold_every_row_once_in_order(sizes: list[int], samples_in: int) -> None:
    import numpy as np

    pieces = [Piece(shard=f"s{i}", rows=np.arange(n, dtype=np.int32)) for i, n in enumerate(sizes)]
    part = Part(group="commercial", split="train", pieces=pieces)
    found = [
        [(piece.shard, int(row)) for piece in content for row in piece.rows]
        for _, content in part.shards(samples_in)
    ]
    assert sum(found, []) == [(p.shard, int(r)) for p in pieces for r in p.rows]  # noqa: RUF017
    assert all(len(each) == samples_in for each in found[:-1])
    assert all(found)


# the real clients


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No client may ask a hub or write to the user's cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "huggingface" / "datasets"))


@pytest.mark.clients
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("streaming", [False, True], ids=["on-disk", "streaming"])
@pytest.mark.parametrize("layout", [*LAYOUTS, "plain"])
def test_datasets_loads_every_configuration(
    layout: str, streaming: bool, exported: dict[str, Exported], tmp_path: Path
) -> None:
    from datasets import Features, get_dataset_config_names, load_dataset

    result = exported[layout]
    stated = {
        each["config_name"]: Features._from_yaml_list(each["features"])
        for each in head(result.folder)["dataset_info"]
    }
    for each in head(result.folder)["dataset_info"]:
        assert stated[each["config_name"]]._to_yaml_list() == each["features"]
    assert get_dataset_config_names(str(result.folder)) == list(result.counts)
    for config, splits in result.counts.items():
        dataset = load_dataset(
            str(result.folder), config, streaming=streaming, cache_dir=str(tmp_path / "cache")
        )
        assert set(dataset) == set(splits)
        for split, count in splits.items():
            rows = list(dataset[split])
            assert len(rows) == count
            assert dataset[split].features == stated[config]
            pictures = [row["image" if layout == "parquet" else "jpg"] for row in rows]
            assert all(isinstance(each, Image.Image) for each in pictures)
            if layout == "biomedica":
                assert all(row["json"]["image_context"] for row in rows)


@pytest.mark.clients
@pytest.mark.usefixtures("offline")
def test_a_column_may_be_null_in_one_shard_and_text_in_the_next(
    archive: Path, tmp_path: Path
) -> None:
    from datasets import load_dataset

    settings = ExportSettings(samples=2)
    result = export(Archive(archive), "labelled", tmp_path / "out", "webdataset", settings)
    paths = sorted(result.folder.glob("commercial/train/*.tar"))
    columns: dict[str, list[bool]] = {}
    for path in paths:
        with tarfile.open(path) as tar:
            metas = [json.load(tar.extractfile(m)) for m in tar if m.name.endswith("json")]  # type: ignore[arg-type]
        for name in metas[0]:
            columns.setdefault(name, []).append(all(meta[name] is None for meta in metas))
    assert any(nulls[0] and not all(nulls) for nulls in columns.values())
    dataset = load_dataset(
        str(result.folder), "commercial", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(dataset) == result.counts["commercial"]["train"]


@pytest.mark.clients
@pytest.mark.filterwarnings(r"ignore:unclosed file <_io\.BufferedReader:ResourceWarning")
@pytest.mark.parametrize("layout", ["webdataset", "biomedica"])
def test_webdataset_reads_the_shards(layout: str, exported: dict[str, Exported]) -> None:
    import webdataset

    folder = exported[layout].folder
    found = samples(folder)
    paths = [str(path) for path in sorted(folder.glob("*/*/*.tar"))]
    seen = list(webdataset.WebDataset(paths, shardshuffle=False))
    assert len(seen) == len(found)
    for sample in seen:
        assert {each: sample[each] for each in ("jpg", "txt", "json")} == found[sample["__key__"]]


@pytest.mark.clients
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    r"ignore:unclosed file <_io\.BufferedReader:ResourceWarning",
)
@pytest.mark.parametrize("layout", [*LAYOUTS, "plain"])
def test_croissant_is_valid_and_gives_records(
    layout: str, exported: dict[str, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    folder = exported[layout].folder
    import mlcroissant._src.operation_graph.operations.extract as extract

    monkeypatch.setattr(extract, "EXTRACT_PATH", type(extract.EXTRACT_PATH)(tmp_path))
    dataset = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))
    issues = dataset.metadata.issues
    assert (issues.errors, issues.warnings) == (set(), set())
    assert dataset.metadata.personal_sensitive_information
    assert dataset.metadata.data_biases
    for file in dataset.metadata.file_objects:
        data = (folder / file.content_url).read_bytes()
        assert file.sha256 == hashlib.sha256(data).hexdigest()
    for config, splits in exported[layout].counts.items():
        records = list(dataset.records(config))
        assert len(records) == sum(splits.values())
        assert all(isinstance(each[f"{config}/image"], Image.Image) for each in records)
    articles = list(dataset.records("attribution"))
    assert len(articles) == exported[layout].num_articles


def test_pictures_open(exported: dict[str, Exported]) -> None:
    for members in samples(exported["webdataset"].folder).values():
        Image.open(io.BytesIO(members["jpg"])).load()


def test_the_older_export_comes_back(archive: Path, tmp_path: Path) -> None:
    """A run that ended between its two renames: the older export is in its place before anything else."""
    folder = tmp_path / "out"
    export(Archive(archive), "all", folder, "webdataset", SMALL)
    folder.rename(tmp_path / ".out.old")
    found = export(Archive(archive), "all", folder, "webdataset", SMALL)
    assert found.num_samples > 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_takedown_holds_for_later_versions(tmp_path: Path) -> None:
    """Keys are compared without version and letter case; typing errors are refused."""
    path = tmp_path / "gone.txt"
    path.write_text("PMC12-1-Fig1\npmc34\n")
    found = read_takedown(path)
    assert found.covers("PMC12", "PMC12-2-fig1", "0" * 64)
    assert not found.covers("PMC12", "PMC12-2-fig10", "0" * 64)
    assert found.covers("PMC34", "PMC34-1-x", "0" * 64)
    for wrong in ("PMC012", "PMC٩٩", "PMC12-Fig1", "12"):
        path.write_text(wrong)
        with pytest.raises(ConfigError, match="line 1"):
            read_takedown(path)
