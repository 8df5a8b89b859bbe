"""The page about an archive: its numbers are the tables', and nothing on it comes from elsewhere."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from biomedica.archive import Archive
from biomedica.catalog import Selection
from biomedica.compact import compact
from biomedica.config import load_settings
from biomedica.errors import ArchiveError, ConfigError
from biomedica.flow import build_archive, prepare
from biomedica.records import Reason
from biomedica.report import EXPLANATIONS, MAX_PAIRS, write_report
from samples import Package, Panel, article_xml, healthy, jpeg, rows_of, write_bucket

HOSTILE = "</p><script>alert(1)</script> & \"quoted\" 'text' <img src=x onerror=alert(2)>"
PMC = "https://pmc.ncbi.nlm.nih.gov/articles/PMC"


def articles() -> list[Package]:
    """Four good articles, one of them retracted, and one of everything that falls out."""
    same = {"fig1.jpg": jpeg(5), "fig2.jpg": jpeg(5)}
    two = (Panel(href="fig1.jpg", caption=HOSTILE), Panel(href="fig2.jpg", caption="word " * 300))
    return [
        Package(number=10, panels=two, files=same),
        healthy(20, 3, licence="CC BY-NC"),
        healthy(30, 2, licence=None, metadata={"is_retracted": True}),
        healthy(40, 1, licence="CC BY-ND"),
        Package(
            number=50,
            panels=(Panel(href="a.jpg"), Panel(href="absent.jpg"), Panel(href="c.jpg", caption="")),
            files={"a.jpg": jpeg(8)[:-700], "c.jpg": jpeg(9)},
        ),
        Package(number=60, xml=b"no XML at all"),
        Package(number=70),
        Package(number=80, record=b"{}"),
    ]


def build(bucket: Path, root: Path, **options: bool) -> Archive:
    build_archive(str(bucket), root, Selection(), load_settings(), engine="inline", **options)
    return Archive(root)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    folder = tmp_path_factory.mktemp("report [1]")
    return build(write_bucket(folder / "bucket", articles()), folder / "archive")


@pytest.fixture(scope="module")
def page(archive: Archive) -> str:
    return write_report(archive).read_text()


class Reader(HTMLParser):
    """Text of a page with one space between any two pieces, and what its elements refer to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: Counter[str] = Counter()
        self.images_without_text = 0
        self.pieces: list[str] = []
        self.feed(page)
        self.text = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        found = dict(attrs)
        self.references += [found[name] or "" for name in ("src", "href") if name in found]
        self.images_without_text += tag == "img" and not found.get("alt")

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)


def test_every_reason_is_explained() -> None:
    assert set(EXPLANATIONS) == set(Reason)
    assert all(text.endswith(".") for text in EXPLANATIONS.values())


def test_the_page_needs_nothing_else(archive: Archive, page: str) -> None:
    reader = Reader(page)
    allowed = ("#", "data:image/jpeg;base64,", PMC)
    assert [each for each in reader.references if not each.startswith(allowed)] == []
    assert sum(each.startswith("data:") for each in reader.references) == reader.tags["img"] == 8
    assert "url(" not in page and "@import" not in page
    assert reader.images_without_text == 0
    assert (archive.root / "report.html").stat().st_size < 3_000_000


def test_every_element_is_closed(page: str) -> None:
    for tag in ("section", "div", "table", "tbody", "tr", "td", "th", "ul", "li", "details", "svg"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>"), tag


def test_headline_numbers_are_the_tables(archive: Archive, page: str) -> None:
    pairs, parsed = rows_of(archive.root, "figures"), rows_of(archive.root, "articles")
    mentions = sum(len(row["mentions"]) for row in pairs)
    text = Reader(page).text
    assert f"{len(pairs)} image-caption pairs" in text
    assert f"{len(parsed)} articles 4 with at least one pair" in text
    assert f"{mentions} mentions" in text


def test_the_funnel_accounts_for_everything(archive: Archive, page: str) -> None:
    counts = archive.info()["counts"]
    text = Reader(page).text
    for step in (
        "Article versions in the catalog 7",
        "planned 7 − 1 xml bad",
        f"parsed {counts['articles']} − 1 without a figure in the XML",
        "with at least one figure 5",
        f"Figures in them {counts['figures']}",
        f"pictures that they name {counts['graphics']} "
        "− 1 image bad · − 1 media missing · − 1 no caption",
        f"image-caption pairs {counts['pairs']}",
    ):
        assert step in text, step


def test_rejects_are_shown_with_their_meaning(archive: Archive, page: str) -> None:
    text = Reader(page).text
    rejects = rows_of(archive.root, "rejects")
    assert {row["reason"] for row in rejects} >= {"metadata_bad", "xml_bad", "media_missing"}
    for row in rejects:
        assert EXPLANATIONS[Reason(row["reason"])] in text
        assert row["key"] in text and " ".join(row["detail"].split()) in text


def test_hostile_text_stays_text(page: str) -> None:
    reader = Reader(page)
    assert reader.tags["script"] == 0
    assert "onerror" not in re.sub(r"&lt;.*?&gt;", "", page)
    assert HOSTILE in unescape(page)
    assert HOSTILE in reader.text


def test_licences_duplicates_and_retractions(page: str) -> None:
    text = Reader(page).text
    assert "commercial 37.5 % 3 pairs." in text
    assert "CC BY 2 1" in text and "CC BY-ND 1 1" in text and "none stated 2 1" in text
    assert "2 pairs share their picture, byte for byte" in text
    assert "1 article with 2 pairs is marked as retracted" in text and "PMC30.1" in text


def test_the_same_archive_and_seed_give_the_same_page(archive: Archive, tmp_path: Path) -> None:
    pages = [
        write_report(archive, tmp_path / f"{name}.html", seed=seed).read_bytes()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert pages[0] == pages[1] != pages[2]


def test_fewer_pairs_are_shown_where_asked(archive: Archive, tmp_path: Path) -> None:
    page = write_report(archive, tmp_path / "few.html", num_pairs=3).read_text()
    assert Reader(page).tags["img"] == 3
    with pytest.raises(ConfigError, match="0 to 100"):
        write_report(archive, num_pairs=MAX_PAIRS + 1)


def test_what_was_withdrawn_is_not_counted(archive: Archive, tmp_path: Path) -> None:
    root = shutil.copytree(archive.root, tmp_path / "archive")
    changed = articles()
    changed[0] = replace(changed[0], licence="CC BY-NC")
    changed[4] = healthy(50, 1)
    bucket = write_bucket(tmp_path / "bucket", changed)
    newer = build(bucket, root, reselect=True)
    pairs = {(row["key"], row["shard"]) for row in rows_of(root, "figures")} - newer.withdrawn()
    text = Reader(write_report(newer).read_text()).text
    assert newer.withdrawn() and len(pairs) == 9
    assert "9 image-caption pairs 2 more were withdrawn" in text
    assert "6 articles 5 with at least one pair" in text
    assert "no caption" not in text and "image bad" not in text
    assert "Figures in them 9 at the most" in text
    assert "licence changed 1 2" in text and "content changed 1 0" in text
    compact(newer)
    text = Reader(write_report(newer).read_text()).text
    assert "9 image-caption pairs 6 articles" in text and "Figures in them 9" in text


def test_an_unfinished_archive_says_so(archive: Archive, tmp_path: Path) -> None:
    root = shutil.copytree(archive.root, tmp_path / "archive")
    (root / "done" / "noncommercial-000000.json").unlink()
    text = Reader(write_report(Archive(root)).read_text()).text
    assert "Unfinished: 2 of 3 shards are built." in text
    assert "5 image-caption pairs" in text
    assert "− 1 in shards that are not built yet" in text


def test_an_archive_without_a_shard_has_a_report(tmp_path: Path) -> None:
    bucket = write_bucket(tmp_path / "bucket", articles())
    archive = Archive(tmp_path / "archive")
    prepare(str(bucket), archive, Selection(), load_settings())
    text = Reader(write_report(archive).read_text()).text
    assert "Unfinished: 0 of 3 shards are built." in text
    assert "0 image-caption pairs" in text and "There are no pairs to show." in text


def test_an_archive_without_a_pair_has_a_report(tmp_path: Path) -> None:
    bare = Package(number=5, xml=article_xml(5, ()))
    archive = build(write_bucket(tmp_path / "bucket", [bare]), tmp_path / "archive")
    text = Reader(write_report(archive).read_text()).text
    assert "0 image-caption pairs 1 articles" in text and "Nothing was rejected." in text


def test_what_cannot_be_read_is_said(archive: Archive, tmp_path: Path) -> None:
    root = shutil.copytree(archive.root, tmp_path / "archive")
    tar = next((root / "shards").rglob("commercial-000000.tar"))
    tar.write_bytes(b"")
    assert "the picture cannot be read" in write_report(Archive(root)).read_text()
    table = next((root / "figures").rglob("commercial-000000.parquet"))
    table.write_bytes(b"PAR1")
    with pytest.raises(ArchiveError, match="biomedica doctor"):
        write_report(Archive(root))
    table.unlink()
    assert (
        "Files are gone: commercial-000000.parquet"
        in Reader(write_report(Archive(root)).read_text()).text
    )
