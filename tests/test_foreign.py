"""Tars of somebody else: exact offsets, truthful facts, broken connections, and where a token goes."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from biomedica import cli, flow, foreign
from biomedica.archive import Archive, Place
from biomedica.catalog import Selection
from biomedica.config import load_settings
from biomedica.doctor import examine
from biomedica.errors import ArchiveError, ConfigError, SourceError
from biomedica.export import ExportSettings, export
from biomedica.foreign.addresses import braces, expand, new_names
from biomedica.foreign.fields import BadFactsError, article_row, read_facts
from biomedica.foreign.streams import look_up, open_bytes
from biomedica.foreign.tars import entries
from biomedica.run.engines import open_engine
from biomedica.select import View, parse_recipe, select
from biomedica.shards import ARTICLES, FIGURES
from biomedica.sources import SourceSettings
from export_views import write_labels, write_view
from servers import moto_bucket
from tar_server import TarServer, tar_server

SOURCE = SourceSettings(retries=3, backoff_seconds=0.001, timeout_seconds=5)
TOKEN = "hf_TheTokenOfTheTests"
GROUPS = ("commercial", "noncommercial", "other")
Members = Sequence[tuple[str, bytes]]


def picture(number: int, side: int = 40) -> bytes:
    """A JPEG of its own for each number."""
    image = Image.effect_noise((side + number, side), 40 + number).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def tar(members: Members, kind: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar as Python's library, and so `webdataset.TarWriter`, writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mtime = 1700000000.25  # a fraction needs a pax header
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def sample(number: int, **facts: Any) -> Members:
    """The three members of a published sample."""
    key = f"{number}-PMC{number}-0-g{number:03d}"
    return [
        (f"{key}.jpg", picture(number)),
        (f"{key}.txt", f"Caption {number}.".encode()),
        (f"{key}.json", json.dumps(published(number) | facts).encode()),
    ]


def published(number: int) -> dict[str, Any]:
    """The JSON of the published dataset, with its oddities."""
    own, other = f"g{number:03d}", "g999"
    return {
        "image_file_name": f"{own}.jpg",
        "image_cluster_id": own,
        "image_hash": "0" * 64,
        "image_label_id": "7",
        "image_panel_type": "single",
        "image_panel_subtype": "single panel",
        "image_primary_label": ["Microscopy"],
        "image_secondary_label": ["light microscopy"],
        "image_size": [1, 1],
        "image_set": [{"image_id": other}, {"image_id": own, "caption": "Caption of the set."}],
        "image_context": {own: ["See Fig. 1.", "And again."], other: ["Not this."]},
        "article_accession_id": f"PMC{number}",
        "article_title": f"Title {number}",
        "article_journal": "None",
        "article_date": "1583280000",
        "article_abstract": "What it is about.",
        "article_mesh_terms": None,
        "article_keywords": "one keyword",
        "article_reference_ids": [
            {
                "Citation": "A paper.",
                "ArticleIdList": {"ArticleId": {"@IdType": "pubmed", "#text": "12"}},
            },
            {"Citation": "Another.", "ArticleIdList": ["34"]},
        ],
        "article_reference_count": 2,
        "article_reference_list": [""],
        "article_subject": [["Biology", ["Cells"]], "Medicine"],
        "article_citation": "J. 2020",
        "article_license": "CC BY",
        "article_text": "All of it.",
    }


def index(words: Sequence[str | Path], root: Path, **options: Any) -> foreign.Index:
    """Index in this process."""
    given = load_settings(None, [])
    engine = open_engine("inline", None, None)
    source = options.pop("source", SOURCE)
    return foreign.index(
        [str(word) for word in words],
        Archive(root),
        source,
        given.images,
        given.run,
        engine,
        **options,
    )


def rows(root: Path, kind: str = "figures") -> list[dict[str, Any]]:
    """Rows of every table of a kind."""
    pattern = "*.parquet" if kind == "rejects" else "*/*.parquet"
    paths = sorted((root / kind).glob(pattern))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def check_bytes(data: bytes, found: Sequence[dict[str, Any]]) -> None:
    """Every row leads to a JPEG, its caption and its JSON, inside the sample's own bytes."""
    for row in found:
        jpg = data[row["jpg_offset"] : row["jpg_offset"] + row["jpg_size"]]
        with Image.open(io.BytesIO(jpg), formats=("JPEG",)) as image:
            image.load()
            assert image.size == (row["width"], row["height"])
        if row["txt_size"]:
            end = row["txt_offset"] + row["txt_size"]
            assert data[row["txt_offset"] : end].decode() == row["caption"]
        if row["json_size"]:
            json.loads(data[row["json_offset"] : row["json_offset"] + row["json_size"]])
        own = data[row["offset"] : row["offset"] + row["length"]]
        with tarfile.open(fileobj=io.BytesIO(own)) as opened:
            names = opened.getnames()
        assert names and all(name.startswith(f"{row['key']}.") for name in names)


@pytest.fixture(scope="session")
def own(tour_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of our own, with labels and a view of all."""
    root = tmp_path_factory.mktemp("foreign") / "own"
    given = load_settings(None, ["shards.samples=20"])
    flow.build_archive(str(tour_folder), root, Selection(), given, engine="inline")
    write_labels(root)
    write_view(root, "labelled", labels="default")
    return root


def test_our_own_shards_come_back_as_they_were_written(own: Path, tmp_path: Path) -> None:
    """Same offsets, same facts, same articles: the tables of figures are equal, cell by cell."""
    found = index([own / "shards"], tmp_path / "a")
    paths = sorted((own / "figures").rglob("*.parquet"))
    assert found.num_tars == found.num_read == len(paths) > 2
    for path in paths:
        again = pq.read_table(tmp_path / "a" / path.relative_to(own))
        assert again.equals(pq.read_table(path), check_metadata=True)
    assert found.rejects == {} and found.counts["other_pictures"] == 0
    facts = ("pmcid", "title", "license_code", "keywords", "num_figures")
    ours = [[row[name] for name in facts] for row in rows(own, "articles") if row["num_figures"]]
    theirs = [[row[name] for name in facts] for row in rows(tmp_path / "a", "articles")]
    assert sorted(ours, key=str) == sorted(theirs, key=str)
    assert not list((tmp_path / "a").glob("shards"))


def test_select_and_doctor_work_on_it(own: Path, tmp_path: Path) -> None:
    """A view has the rows that the same recipe gives of the archive that holds its bytes."""
    index([own / "shards"], tmp_path / "a")
    recipe = parse_recipe(
        'about = "large"\n[[keep]]\nname = "w"\nwhere = "width > 300"\nwhy = "x"\n'
        "[split]\nvalidation = 0.3\n",
        "large",
    )
    select(Archive(own), recipe, "large")
    select(Archive(tmp_path / "a"), recipe, "large")
    view, same = View.open(Archive(tmp_path / "a"), "large"), View.open(Archive(own), "large")
    assert view.num_rows > 0 and view.table.equals(same.table)
    assert examine(Archive(tmp_path / "a"), decode=True).is_whole


def test_doctor_sees_what_is_wrong(own: Path, tmp_path: Path) -> None:
    """A tar that was changed under its index, and one that is not read yet."""
    tars = Path(shutil.copytree(own / "shards", tmp_path / "tars"))
    root = tmp_path / "a"
    index([tars], root)
    first = sorted(tars.rglob("*.tar"))[0]
    row = next(row for row in rows(root) if row["shard"] == first.stem)
    data = bytearray(first.read_bytes())
    data[row["jpg_offset"] + row["jpg_size"] // 2] ^= 0xFF
    first.write_bytes(data)
    found = examine(Archive(root))
    assert [each.what for each in found.findings] == [
        f"{row['key']}: the picture's SHA-256 differs from its row"
    ]
    Archive(root).done_path(first.stem).unlink()
    assert examine(Archive(root)).num_unfinished == 1
    index([tars], root)
    assert examine(Archive(root)).is_whole


def test_the_biomedica_layout_comes_back(own: Path, tmp_path: Path) -> None:
    """Our writer of the 27 fields and this reader agree, labels included."""
    small = ExportSettings(samples=20, groups=GROUPS)
    done = export(Archive(own), "labelled", tmp_path / "export", "biomedica", small)
    found = index([done.folder], tmp_path / "a")
    assert found.num_samples == done.num_samples and found.rejects == {}
    before = {row["key"]: row for row in rows(own)}
    same = ["pmcid", "license_code", "licence_group", "keywords", "subjects", "published"]
    same += ["file_name", "caption", "width", "height", "sha256"]
    for row in rows(tmp_path / "a"):
        expected = before[row["key"]]
        assert {name: row[name] for name in same} == {name: expected[name] for name in same}
        assert row["title"] == expected["title"] and row["journal"] == expected["journal"]
        texts = list(dict.fromkeys(each["text"] for each in expected["mentions"]))
        assert [each["text"] for each in row["mentions"]][: len(texts)] == texts
        assert row["version"] == 0 and row["figure_kind"] == "unknown"
    articles = {row["pmcid"]: row for row in rows(own, "articles")}
    for row in rows(tmp_path / "a", "articles"):
        assert row["abstract"] == articles[row["pmcid"]]["abstract"]
        assert row["references"] == articles[row["pmcid"]]["references"]
        assert row["body_text"] == ""
    check_labels(own, tmp_path / "a", done.num_samples)


def test_labels_of_our_webdataset_layout_come_back(own: Path, tmp_path: Path) -> None:
    """An export of our own form carries ids; they are taken as they are."""
    small = ExportSettings(samples=20, groups=GROUPS)
    done = export(Archive(own), "labelled", tmp_path / "export", "webdataset", small)
    index([done.folder], tmp_path / "a")
    check_labels(own, tmp_path / "a", done.num_samples)


def check_labels(own: Path, root: Path, num_samples: int) -> None:
    """Samples that were labelled are, with the same concepts; a recipe can ask for them."""
    stated = {row["key"]: row for row in pq.read_table(own / "labels/default.parquet").to_pylist()}
    found = pq.read_table(root / "labels" / "biomedica.parquet").to_pylist()
    assert len(found) == num_samples
    labelled = {row["key"] for row in found if row["status"] == "labelled"}
    assert labelled == {
        row["key"] for row in found if stated.get(row["key"], {}).get("status") == "labelled"
    }
    for row in found:
        if row["key"] in labelled:
            same = ("panel_type", "panel_subtype", "global_concepts", "local_concepts", "cluster")
            assert {n: row[n] for n in same} == {n: stated[row["key"]][n] for n in same}
    text = 'about = "x"\n[[keep]]\nname = "m"\nwhy = "x"\nwhere = '
    where = "\"list_contains(label.global_concepts, 'microscopy')\"\n"
    selected = select(Archive(root), parse_recipe(text + where, "m"), "m")
    assert selected.samples == len(labelled) > 0


def test_published_fields_are_mapped(tmp_path: Path) -> None:
    """The published JSON with its oddities: what it says stands, what it does not say is null."""
    (tmp_path / "commercial").mkdir()
    (tmp_path / "commercial" / "000000.tar").write_bytes(tar([*sample(1), *sample(2)]))
    found = index([tmp_path / "commercial"], tmp_path / "a", with_text=True)
    assert found.labels == {"labelled": 2}
    row = rows(tmp_path / "a")[0]
    expected = {
        "key": "1-PMC1-0-g001",
        "shard": "commercial-000000",
        "pmcid": "PMC1",
        "version": 0,
        "title": "Title 1",
        "journal": None,
        "published": date(2020, 3, 4),
        "license_code": "CC BY",
        "licence_group": "commercial",
        "keywords": ["one keyword"],
        "subjects": ["Biology", "Cells", "Medicine"],
        "mesh_terms": [],
        "figure_position": 1,
        "file_name": "g001.jpg",
        "caption": "Caption 1.",
        "width": 41,
        "height": 40,
        "transform": "none",
    }
    assert {name: row[name] for name in expected} == expected
    assert [each["text"] for each in row["mentions"]] == ["See Fig. 1.", "And again."]
    article = rows(tmp_path / "a", "articles")[0]
    assert article["references"] == [
        {"pmid": 12, "doi": None, "text": "A paper."},
        {"pmid": None, "doi": None, "text": "Another."},
    ]
    assert article["body_text"] == "All of it." and article["num_figures"] == 1
    label = pq.read_table(tmp_path / "a/labels/biomedica.parquet").to_pylist()[0]
    assert label["cluster"] == 7 and label["global_concepts"] == ["microscopy"]


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_any_tar_and_any_order_of_members(kind: int, tmp_path: Path) -> None:
    """Long names, folders, members in another order, others between them; captions from the JSON."""
    deep = "a" * 60 + "/" + "b" * 60
    small = [("x.cls", b"3"), ("x.jpg", picture(1)), ("x.txt", b"One.")]
    no_text = [
        ("y/z.json", b'{"caption": "Two \\u00e9.", "title": 5, "pmcid": "PMC12"}'),
        ("y/z.jpeg", picture(2)),
    ]
    no_json = [
        (f"{deep}.txt", "Dré.".encode()),
        (f"{deep}.seg.jpg", b"-"),
        (f"{deep}.JPG", picture(3)),
    ]
    strays = [("readme", b"no dot"), (".hidden.jpg", b"no base"), ("d.d/._q.jpg", b"no base")]
    data = tar([*small, *strays[:1], *no_text, *strays[1:], *no_json], kind)
    (tmp_path / "s-000.tar").write_bytes(data)
    found = index([tmp_path / "s-000.tar"], tmp_path / "a")
    table = rows(tmp_path / "a")
    assert [row["key"] for row in table] == ["x", "y/z", deep] and found.rejects == {}
    check_bytes(data, table)
    assert [row["caption"] for row in table] == ["One.", "Two é.", "Dré."]
    assert [row["pmcid"] for row in table] == ["", "PMC12", ""]
    assert table[1]["txt_size"] == 0
    assert table[1]["txt_offset"] == table[1]["offset"] + table[1]["length"]
    assert table[0]["file_name"] == "x.jpg" and table[0]["title"] is None
    # without an article each sample is its own: select counts and splits them
    recipe = parse_recipe('about = "all"\n[split]\nvalidation = 0.5\n', "all")
    chosen = select(Archive(tmp_path / "a"), recipe, "all")
    assert (chosen.samples, chosen.articles) == (3, 3)
    assert examine(Archive(tmp_path / "a"), decode=True).is_whole


ORDERS = st.permutations(["jpg", "txt", "json", "cls"])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(ORDERS, st.integers(0, 200), st.integers(1, 4)), min_size=1, max_size=6),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_every_row_leads_to_its_bytes(
    tmp_path_factory: pytest.TempPathFactory, made: Any, kind: int
) -> None:
    """Whatever the order, the lengths of names and the kind of tar."""
    members = []
    for number, (order, length, size) in enumerate(made):
        key = f"f/{number}" + "n" * length
        parts = {
            "jpg": picture(number),
            "txt": f"Caption {number}".encode() * 100 * size,
            "json": json.dumps({"n": number}).encode(),
            "cls": b"",
        }
        members += [(f"{key}.{part}", parts[part]) for part in order]
    folder = tmp_path_factory.mktemp("orders")
    (folder / "s-1.tar").write_bytes(tar(members, kind))
    index([folder / "s-1.tar"], folder / "a")
    table = rows(folder / "a")
    assert len(table) == len(made)
    check_bytes((folder / "s-1.tar").read_bytes(), table)
    shutil.rmtree(folder)


def test_what_is_no_sample_is_a_reject(tmp_path: Path) -> None:
    """Each with its reason; the good ones around them stay."""
    good = picture(1)
    png = io.BytesIO()
    Image.new("RGB", (50, 50)).save(png, "PNG")
    members = [
        ("ok.jpg", good), ("ok.txt", b"Fine."),
        ("png.png", png.getvalue()), ("png.txt", b"No JPEG."),
        ("fake.jpg", png.getvalue()), ("fake.txt", b"A PNG by another name."),
        ("cut.jpg", good[: len(good) // 2]), ("cut.txt", b"Half."),
        ("nothing.jpg", b""), ("nothing.txt", b"Empty."),
        ("mute.jpg", good), ("mute.txt", b" \n"),
        ("blind.txt", b"No picture."),
        ("latin.jpg", good), ("latin.txt", b"caf\xe9"),
        ("bad.jpg", good), ("bad.txt", b"Fine."), ("bad.json", b"{"),
        ("half.jpg", good), ("half.txt", b"Fine."), ("half.json", b'{"title": "\\ud800"}'),
        ("tiny.jpg", picture(0, 8)), ("tiny.txt", b"Small."),
        ("ok.jpg", good), ("ok.txt", b"Again."),
        ("two.jpg", good), ("two.txt", b"First."), ("two.txt", b"Second."),
        ("last.jpg", good), ("last.txt", b"Fine."),
    ]  # fmt: skip
    (tmp_path / "s-1.tar").write_bytes(tar(members))
    found = index([tmp_path], tmp_path / "a")
    assert [row["key"] for row in rows(tmp_path / "a")] == ["ok", "two", "last"]
    rejects = {row["key"]: row["reason"] for row in rows(tmp_path / "a", "rejects")}
    assert rejects == {
        "png": "format_refused",
        "fake": "format_refused",
        "cut": "image_bad",
        "nothing": "format_refused",
        "mute": "no_caption",
        "blind": "media_missing",
        "latin": "metadata_bad",
        "bad": "metadata_bad",
        "half": "metadata_bad",
        "tiny": "too_small",
        "ok": "metadata_bad",
        "two": "metadata_bad",
    }
    assert sum(found.rejects.values()) == len(rejects) == found.counts["rejects"]
    assert examine(Archive(tmp_path / "a")).is_whole


def test_a_key_in_two_shards_counts_once(tmp_path: Path) -> None:
    """The first shard's stays; the other is withdrawn, as every reader knows it."""
    for number in (1, 2):
        members = [*sample(5), *sample(10 + number)]
        (tmp_path / f"s-{number}.tar").write_bytes(tar(members))
    found = index([tmp_path], tmp_path / "a")
    assert (found.num_samples, found.num_withdrawn) == (3, 1)
    assert Archive(tmp_path / "a").withdrawn() == {("5-PMC5-0-g005", "s-2")}
    recipe = parse_recipe('about = "all"\n', "all")
    assert select(Archive(tmp_path / "a"), recipe, "all").samples == 3
    assert examine(Archive(tmp_path / "a")).is_whole


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:700], "ends inside"),
        (lambda data: data.replace(b"a.txt", b"b.txt"), "no tar header"),
        (lambda data: b"\x1f\x8b" + data, "compressed"),
        (lambda data: retyped(data, b"S"), "sparse"),
        (lambda data: retyped(data, b"Q"), "unknown type"),
    ],
)
def test_a_damaged_tar_is_named(change: Any, said: str, tmp_path: Path) -> None:
    """The shard's name and the place, when all others are indexed."""
    for number in (1, 3):
        (tmp_path / f"s-{number}.tar").write_bytes(tar(sample(number)))
    data = change(tar([("a.jpg", picture(1)), ("a.txt", b"x")], tarfile.USTAR_FORMAT))
    (tmp_path / "s-2.tar").write_bytes(data)
    with pytest.raises(ArchiveError, match=rf"s-2.*{said}"):
        index([tmp_path], tmp_path / "a")
    assert set(Archive(tmp_path / "a").done()) == {"s-1", "s-3"}
    assert (tmp_path / "a" / "labels" / "biomedica.json").exists()
    left = [
        p.name for p in (tmp_path / "a").rglob(".*") if p.name.endswith(("tmp", "trace", "state"))
    ]
    assert left == []


def retyped(data: bytes, kind: bytes) -> bytes:
    """A tar whose first header is of another type, with its checksum."""
    header = bytearray(data[:512])
    header[156:157] = kind
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


def test_a_tar_that_stands_is_not_read_again(tmp_path: Path) -> None:
    """A changed one is, and a new one; tables of the others keep their bytes."""
    for number in (1, 2):
        (tmp_path / f"s-{number}.tar").write_bytes(tar(sample(number)))
    root = tmp_path / "a"
    assert index([tmp_path], root).num_read == 2
    before = (root / "figures/s/s-1.parquet").read_bytes()
    assert index([tmp_path], root).num_read == 0
    (tmp_path / "s-2.tar").write_bytes(tar(sample(3)))
    os.utime(tmp_path / "s-2.tar", ns=(1, 1))
    (tmp_path / "s-3.tar").write_bytes(tar(sample(4)))
    found = index([tmp_path], root)
    assert (found.num_read, found.num_samples) == (2, 3)
    assert (root / "figures/s/s-1.parquet").read_bytes() == before
    assert [row["pmcid"] for row in rows(root)] == ["PMC1", "PMC3", "PMC4"]
    # a call that names some of them leaves the others in the archive
    assert index([tmp_path / "s-1.tar"], root).num_tars == 3


def test_workers_and_engines_make_the_same_tables(tmp_path: Path) -> None:
    """Processes of their own, two at a time, and one after the other here."""
    for number in range(3):
        (tmp_path / f"s-{number}.tar").write_bytes(tar([*sample(number), *sample(10 + number)]))
    given = load_settings(None, [])
    told: list[tuple[int, ...]] = []
    foreign.index(
        [str(tmp_path)],
        Archive(tmp_path / "a"),
        SOURCE,
        given.images,
        given.run,
        open_engine("local", 2, None),
        tell=lambda *numbers: told.append(numbers),
    )
    index([tmp_path / "s-{0..2}.tar"], tmp_path / "b")
    for kind in ("figures", "articles", "stated", "rejects"):
        for path in sorted((tmp_path / "a" / kind).rglob("*.parquet")):
            other = tmp_path / "b" / path.relative_to(tmp_path / "a")
            assert path.read_bytes() == other.read_bytes()
    done, total, samples, rejects = told[-1]
    assert done == total > 0 and (samples, rejects) == (6, 0)


def test_a_picture_that_kills_its_process_is_left_out(tmp_path: Path) -> None:
    """One that takes too long is a reject at its second try; the others of the tar are indexed."""
    buffer = io.BytesIO()
    large = Image.new("RGB", (12_000, 12_000), (9, 200, 40))
    exif = large.getexif()
    exif[0x0112] = 6  # to be turned: every pixel is decoded
    large.save(buffer, "JPEG", exif=exif)
    members = [*sample(1), ("slow.jpg", buffer.getvalue()), ("slow.txt", b"Large."), *sample(2)]
    (tmp_path / "s-1.tar").write_bytes(tar(members))
    given = load_settings(None, ["run.item_seconds=0.5"])
    engine = open_engine("local", 1, None)
    root = Archive(tmp_path / "a")
    found = foreign.index([str(tmp_path)], root, SOURCE, given.images, given.run, engine)
    assert found.rejects == {"timed_out": 1} and found.num_samples == 2


# over HTTP


@pytest.fixture
def server() -> Any:
    """One tar of four samples."""
    data = tar([member for number in range(1, 5) for member in sample(number)])
    with tar_server(files={"data/commercial/000000.tar": data}) as own:
        yield own


def url_of(server: TarServer) -> str:
    return server.url("data/commercial/000000.tar")


def test_over_http(server: TarServer, tmp_path: Path) -> None:
    """Size and ETag are noted; the same call asks for them alone."""
    root = tmp_path / "a"
    index([server.url("data/commercial/{000000..000000}.tar")], root)
    place = Place(url=url_of(server), size=len(next(iter(server.files.values()))), etag='"first"')
    assert Archive(root).places() == {"commercial-000000": place}
    check_bytes(next(iter(server.files.values())), rows(root))
    assert len(server.gets()) == 1
    index([url_of(server)], root)
    assert len(server.gets()) == 1
    server.etag = '"second"'
    assert index([url_of(server)], root).num_read == 1


def test_a_broken_connection_is_taken_up(server: TarServer, tmp_path: Path) -> None:
    """By Range from where the reader stood, under the ETag; what was refused is asked again."""
    server.statuses = [503, "drop", "cut", 500, "cut", 429]
    server.headers = {"Retry-After": "0"}
    index([url_of(server)], tmp_path / "a")
    check_bytes(next(iter(server.files.values())), rows(tmp_path / "a"))
    resumed = [headers for headers in server.gets() if "Range" in headers]
    assert len(resumed) >= 2 and all(headers["If-Range"] == '"first"' for headers in resumed)


def test_a_server_without_ranges(server: TarServer, tmp_path: Path) -> None:
    """What was read before is passed over."""
    server.knows_ranges = False
    server.statuses = ["cut", "cut"]
    # two cuts end at the same byte, so the second brings nothing new
    index([url_of(server)], tmp_path / "a")
    check_bytes(next(iter(server.files.values())), rows(tmp_path / "a"))


@pytest.mark.parametrize("is_longer", [True, False])
def test_a_change_in_between_is_an_error(
    server: TarServer, is_longer: bool, tmp_path: Path
) -> None:
    """Bytes of two states are never mixed, even where the server knows no If-Range."""
    server.statuses = ["cut"]

    def change(own: TarServer) -> None:
        own.etag = '"other"'
        if is_longer:
            own.files = {path: data + b"\0" * 512 for path, data in own.files.items()}

    server.after_get = change
    with pytest.raises(ArchiveError, match=r"shard commercial-000000: .* changed while"):
        index([url_of(server)], tmp_path / "a")
    assert Archive(tmp_path / "a").done() == {}
    server.after_get = lambda own: None
    assert index([url_of(server)], tmp_path / "a").num_read == 1


def test_a_server_that_stays_away(server: TarServer, tmp_path: Path) -> None:
    """An error that names the address."""
    server.statuses = [503] * 10
    with pytest.raises(ArchiveError, match=r"000000\.tar: HTTP 503 \(4 tries\)"):
        index([url_of(server)], tmp_path / "a")
    data = next(iter(server.files.values()))
    server.files = {f"data/s-{number}.tar": data for number in range(5)}
    server.statuses = [503] * 99
    with pytest.raises(SourceError, match=r"s-2\.tar: HTTP 503"):  # the third in a row is the last
        index([server.url("data/s-{0..4}.tar")], tmp_path / "c")
    with pytest.raises(SourceError, match="HTTP 404"):
        index([server.url("data/none.tar")], tmp_path / "b")


def test_a_server_that_answers_no_head(server: TarServer, tmp_path: Path) -> None:
    """The size is found with a range of one byte."""
    server.head_status = 405
    assert index([url_of(server)], tmp_path / "a").num_samples == 4


def test_a_token_goes_to_the_hub_alone(
    server: TarServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Not to where the hub sends on to, not to other hosts, not into any file or message."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with tar_server(files=server.files, token=TOKEN, redirect=server.endpoint) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.statuses, server.statuses = [503], ["cut"]
        assert index([url_of(hub)], tmp_path / "a").num_samples == 4
        place = Archive(tmp_path / "a").places()["commercial-000000"]
        assert (place.url, place.etag) == (url_of(hub), '"first"')
        assert all(h["Authorization"] == f"Bearer {TOKEN}" for _, _, h in hub.asked)
    assert server.asked and not any("Authorization" in headers for _, _, headers in server.asked)
    index([url_of(server)], tmp_path / "plain")  # no hub: asked without a token
    assert not any("Authorization" in headers for _, _, headers in server.asked)
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert kept and not any(TOKEN.encode() in data for data in kept)
    assert TOKEN not in caplog.text


def test_gated_says_what_to_do(
    server: TarServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a token, with one for another host, with a wrong one; none of them is shown."""
    server.token = "right"
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(SourceError, match=r"HTTP 401.*set HF_TOKEN.*gated.*terms"):
        index([url_of(server)], tmp_path / "a")
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(SourceError, match=r"HF_TOKEN was not sent.*HF_ENDPOINT"):
        index([url_of(server)], tmp_path / "a")
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    with pytest.raises(SourceError, match=r"does not open it.*terms") as caught:
        index([url_of(server)], tmp_path / "a")
    assert "wrong" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "two\nlines")
    with pytest.raises(ConfigError) as refused:
        index([url_of(server)], tmp_path / "a")
    assert "lines" not in str(refused.value)


def test_from_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefix, and a key with braces; a bucket that may be read without an account."""
    data = tar([*sample(1), *sample(2)])
    with moto_bucket(name="tars") as bucket:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", bucket.endpoint)
        bucket.put("set/commercial/000000.tar", data)
        bucket.put("set/commercial/000001.tar", tar(sample(3)))
        bucket.put("set/readme.txt", b"no tar")
        found = index(["s3://tars/set/"], tmp_path / "a")
        assert (found.num_tars, found.num_samples) == (2, 3)
        place = Archive(tmp_path / "a").places()["commercial-000000"]
        assert place.url == "s3://tars/set/commercial/000000.tar" and place.size == len(data)
        check_bytes(data, [r for r in rows(tmp_path / "a") if r["shard"] == "commercial-000000"])
        again = index(["s3://tars/set/commercial/{000000..000001}.tar"], tmp_path / "a")
        assert again.num_read == 0
        with pytest.raises(SourceError, match="no such object"):
            index(["s3://tars/none.tar"], tmp_path / "b")


# words


def test_names_of_shards() -> None:
    """Made of the address alone, each once, with a group before the last dash."""
    urls = [
        "https://h/d/commercial/000000.tar",
        "https://h/d/other/000000.tar",
        "https://h/e/other/000000.tar",
        "/x/train-0001.tar",
        "/y/train-0001.tar",
        "s3://b/plain.tar",
        "https://h/a%20b/ü.v2.tar",
    ]
    assert list(new_names(urls, ["commercial-000000"]).values()) == [
        "d-commercial-000000",
        "other-000000",
        "e-other-000000",
        "train-0001",
        "y-train-0001",
        "b-plain" if "b-plain" in new_names(urls, []).values() else "shards-plain",
        "a_b-v2",
    ]


@settings(max_examples=50)
@given(st.lists(st.text(min_size=1, max_size=30), unique=True, max_size=8))
def test_every_name_is_fit_for_a_file(texts: list[str]) -> None:
    """And none stands twice."""
    urls = [f"/{text}.tar" for text in texts]
    names = list(new_names(urls, []).values())
    assert len(set(names)) == len(urls)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*-[A-Za-z0-9_]*", name) for name in names)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("https://me:pass@host/0.tar", "password"),
        ("https://host/0.tar?X-Amz-Signature=abc", "signed"),
        ("https://host/0.tar?token=abc", "query"),
        ("https://host/folder/", "address of a tar"),
        ("https://host/0.tar.gz", "compressed"),
        ("ftp://host/0.tar", "is expected"),
        ("x/{5..1}.tar", "lower to the higher"),
        ("x/{5..1.tar", "not closed"),
        ("x/{5}.tar", "is expected"),
        ("x/{0..999999}{0..999999}.tar", "at the most"),
    ],
)
def test_words_that_cannot_be_meant(word: str, said: str) -> None:
    """Refused before anything is asked; secrets are not repeated."""
    with pytest.raises(ConfigError, match=said) as caught:
        expand([word], SOURCE)
    assert "abc" not in str(caught.value) and "pass@" not in str(caught.value)


def test_braces() -> None:
    """Zeros are kept, lists are taken in their order."""
    assert braces("{000..2}") == ["000", "001", "002"]
    assert braces("{8..11}") == ["8", "9", "10", "11"]
    assert braces("{b,a}/x") == ["b/x", "a/x"]


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
        ),
        max_leaves=10,
    ),
    st.sampled_from(sorted(published(1))),
)
def test_any_value_in_any_published_field(value: Any, name: str) -> None:
    """Becomes a row that the schema takes, or is refused; it never ends the run."""
    try:
        facts = read_facts(json.dumps(published(1) | {name: value}).encode(), with_text=True)
    except BadFactsError:
        return
    schema = pa.schema([FIGURES.field(name) for name in facts.columns])
    for row, columns in ((facts.columns, schema), (article_row(facts), ARTICLES)):
        table = pa.Table.from_pylist([row], columns)
        assert all(each.nullable or not table[each.name].null_count for each in columns)


def test_an_archive_of_its_own_is_not_touched(own: Path, tmp_path: Path) -> None:
    """Samples that stand here and samples that stand elsewhere do not mix in one archive."""
    (tmp_path / "s-1.tar").write_bytes(tar(sample(1)))
    with pytest.raises(ConfigError, match="another folder"):
        index([tmp_path / "s-1.tar"], own)
    assert not (own / "places.json").exists()


def test_a_member_that_is_too_large(tmp_path: Path) -> None:
    """It is passed over, not read."""
    members = [*sample(1), ("big.jpg", bytes(2 << 20)), ("big.txt", b"x"), *sample(2)]
    (tmp_path / "s-1.tar").write_bytes(tar(members))
    small = dataclasses.replace(SOURCE, max_media_mb=1)
    found = index([tmp_path], tmp_path / "a", source=small)
    assert found.num_samples == 2 and found.rejects == {"media_too_large": 1}


def test_entries_agree_with_the_library(server: TarServer) -> None:
    """Offsets of `tarfile`, member by member, over a connection that breaks."""
    data = next(iter(server.files.values()))
    server.statuses = ["cut", "cut"]
    place = look_up(url_of(server), SOURCE, None)
    stream = open_bytes("s", place, SOURCE, None)
    found = [(each.name, each.offset, each.size, each.start) for each in entries("s", stream)]
    stream.close()
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        assert found == [(m.name, m.offset_data, m.size, m.offset) for m in opened]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Dry run, run, JSON; what the program's exit codes are made of."""
    (tmp_path / "s-1.tar").write_bytes(tar(sample(1)))
    root = tmp_path / "a"

    def run(*words: str) -> int:
        try:
            cli.app(["index", *words])
        except SystemExit as error:
            return int(error.code or 0)
        return 0

    assert run(str(tmp_path), str(root), "--dry-run", "--quiet") == 0
    assert "to be read: 1" in capsys.readouterr().out and not root.exists()
    assert run(str(tmp_path), str(root), "--engine", "inline", "--quiet") == 0
    assert "1 samples in 1 tars" in capsys.readouterr().out
    assert run(str(tmp_path), str(root), "--json", "--quiet") == 0
    assert json.loads(capsys.readouterr().out)["num_read"] == 0
    with pytest.raises(ConfigError, match="archive's folder"):
        run(str(root))
    with pytest.raises(SourceError, match="no such file"):
        run(str(tmp_path / "none.tar"), str(root))
