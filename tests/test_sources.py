"""Listings and metadata of the cloud layout; articles and packages of any folder."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest

from biomedica.build import Shelf
from biomedica.errors import SourceError
from biomedica.records import ArticleRef, Graphic, Media, Reason, Reject
from biomedica.sources import FetchError, Source, SourceSettings, open_source
from biomedica.sources.cloud import read_metadata
from servers import Fault, FaultProxy, MotoBucket, Rule, moto_bucket
from small_bucket import (
    INVENTORY,
    SmallArticle,
    article_files,
    article_xml,
    jpeg,
    metadata,
    put,
    url_of,
    write_bucket,
    write_inventory,
)

ARTICLES = [
    SmallArticle(number=7),
    SmallArticle(number=7, version=2),
    SmallArticle(number=7, version=10, pictures=2),
    SmallArticle(number=70),
    SmallArticle(number=123456),
]
PLACES = [(7, 1), (7, 2), (7, 10), (70, 1), (123456, 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few articles, one in three versions, with an inventory."""
    folder = tmp_path_factory.mktemp("source")
    write_bucket(folder, ARTICLES)
    return folder


@pytest.fixture(scope="module")
def bucket(folder: Path) -> Iterator[MotoBucket]:
    """The same in a bucket."""
    with moto_bucket(folder) as bucket:
        yield bucket


@pytest.fixture
def proxy(bucket: MotoBucket) -> Iterator[FaultProxy]:
    """A proxy without rules."""
    with FaultProxy(bucket.endpoint) as proxy:
        yield proxy


def opened(where: FaultProxy | Path | str, **changes: object) -> Source:
    """A source with few and quick tries."""
    quick: dict[str, object] = {"retries": 2, "backoff_seconds": 0.01, "timeout_seconds": 0.5}
    if isinstance(where, FaultProxy):
        quick["endpoint"] = where.endpoint
        where = "s3://pmc-oa-opendata"
    return open_source(str(where), SourceSettings(**(quick | changes)))  # type: ignore[arg-type]


def places(source: Source) -> list[tuple[int, int]]:
    """(number, version) of what it lists."""
    return [(n, v) for n, v, _ in source.listing().rows.tolist()]


def looked_at(source: Source) -> tuple[dict[str, ArticleRef], dict[str, Reason]]:
    """(articles by name, reasons of the listing's rejects by key); no article may be refused."""
    listing = source.listing()
    found = list(source.resolve(listing.rows))
    assert not [each for each in found if isinstance(each, Reject)]
    refs = {ref.name: ref for ref in found if isinstance(ref, ArticleRef)}
    return refs, {reject.key: reject.reason for reject in listing.rejects}


def resolved(source: Source) -> dict[str, ArticleRef]:
    """Every article of a source by name."""
    return looked_at(source)[0]


class TestListing:
    """What a source holds."""

    def test_bucket_path_style_and_folder_list_the_same(
        self, folder: Path, proxy: FaultProxy
    ) -> None:
        """The newest inventory, whatever the road to it."""
        listings = [
            opened(where).listing()
            for where in (folder, proxy, f"{proxy.endpoint}/pmc-oa-opendata", f"file://{folder}")
        ]
        for listing in listings:
            assert [(n, v) for n, v, _ in listing.rows.tolist()] == PLACES
            assert listing.snapshot == "2026-01-02" and not listing.rejects
            np.testing.assert_array_equal(listing.rows, listings[0].rows)

    def test_latest_version_is_the_highest_number(self, folder: Path) -> None:
        """Version 10 comes after 2."""
        rows = opened(folder).listing().latest().rows
        assert rows[["number", "version"]].tolist() == [(7, 10), (70, 1), (123456, 1)]

    def test_columns_in_any_order_and_number(self, tmp_path: Path) -> None:
        """The manifest says which column is which."""
        write_bucket(tmp_path, ARTICLES, has_inventory=False)
        etags = {f"metadata/{a.name}.json": f"{a.number:032x}" for a in ARTICLES}
        for columns in (["ETag", "Key"], ["Key", "Bucket", "ETag", "LastModifiedDate"]):
            write_inventory(tmp_path, etags, columns=columns, num_files=3)
            rows = opened(tmp_path).listing().rows
            assert rows.tolist() == [(n, v, f"{n:032x}".encode()) for n, v in PLACES]

    def test_newest_inventory_counts(self, tmp_path: Path) -> None:
        """Later days win; folders that are no day (`data/`, `hive/`) are not looked at."""
        write_bucket(tmp_path, ARTICLES[:1], day="2025-12-31T01-00Z")
        write_bucket(tmp_path, ARTICLES[:2], day="2026-02-01T01-00Z")
        write_bucket(tmp_path, ARTICLES[:1], day="2026-01-31T01-00Z")
        put(tmp_path, {f"{INVENTORY}/hive/dt=2026-02-01-01-00/symlink.txt": b""})
        listing = opened(tmp_path).listing()
        assert len(listing.rows) == 2 and listing.snapshot == "2026-02-01"

    def test_unknown_keys_become_rejects(self, tmp_path: Path) -> None:
        """Keys that are no metadata of an article are told, and the rest is listed."""
        unknown = [
            "metadata/README.txt",
            "metadata/PMC1.json",
            "metadata/PMC1.1.json.bak",
            "metadata/PMC-1.1.json",
            "metadata/PMC12345678901234567890.1.json",
            "other/PMC1.1.json",
            "metadata/MID1.1.json",
        ]
        write_inventory(tmp_path, dict.fromkeys([*unknown, "metadata/PMC9.1.json"], "e" * 32))
        listing = opened(tmp_path).listing()
        assert [row[:2] for row in listing.rows.tolist()] == [(9, 1)]
        assert {reject.key for reject in listing.rejects} == set(unknown)
        assert {reject.reason for reject in listing.rejects} == {Reason.KEY_UNKNOWN}

    def test_folder_without_an_inventory_is_listed_by_its_metadata(self, tmp_path: Path) -> None:
        """The digest of each record stands in for the ETag: it is what the inventory would say."""
        write_bucket(tmp_path, ARTICLES)
        with_inventory = opened(tmp_path).listing().rows
        for path in sorted((tmp_path / "inventory-reports").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        put(tmp_path, {"metadata/notes.txt": b"", "metadata/PMC99999999999999999999.1.json": b""})
        listing = opened(tmp_path).listing()
        np.testing.assert_array_equal(listing.rows, with_inventory)
        assert {reject.reason for reject in listing.rejects} == {Reason.KEY_UNKNOWN}
        assert len(listing.rejects) == 2 and listing.snapshot is None

    def test_bucket_without_an_inventory_is_a_source_error(self) -> None:
        """Listing millions of objects one by one is no substitute."""
        with moto_bucket(name="empty") as empty:
            empty.put("metadata/PMC1.1.json", b"{}")
            with pytest.raises(SourceError, match="inventory"):
                opened(f"{empty.endpoint}/empty").listing()

    @pytest.mark.parametrize(
        "manifest",
        [
            b"",
            b"<html>",
            b"[]",
            b"null",
            b'{"fileSchema": "Bucket, Key", "files": []}',
            b'{"files": []}',
            b'{"fileSchema": "Key, ETag", "files": [{}]}',
            b'{"fileSchema": "Key, ETag", "files": [{"key": "none.csv.gz"}]}',
            b'{"fileSchema": 3, "files": []}',
        ],
    )
    def test_damaged_manifest_is_a_source_error(self, tmp_path: Path, manifest: bytes) -> None:
        """Without it nothing is known."""
        put(tmp_path, {f"{INVENTORY}/2026-01-02T01-00Z/manifest.json": manifest})
        with pytest.raises(SourceError):
            opened(tmp_path).listing()

    @pytest.mark.parametrize("damage", ["cut", "not_gzip", "columns", "digest"])
    def test_damaged_inventory_file_is_a_source_error(self, tmp_path: Path, damage: str) -> None:
        """Half a list would withdraw the other half of the archive."""
        write_bucket(tmp_path, ARTICLES)
        columns = ("Key", "ETag") if damage == "columns" else ("Bucket", "Key", "Date", "ETag")
        path = sorted((tmp_path / INVENTORY / "data").iterdir())[0]
        data = path.read_bytes()
        changed = {"cut": data[: len(data) // 2], "not_gzip": b"a,b,c,d\n"}.get(damage, data)
        path.write_bytes(changed)
        stated = "0" * 32 if damage == "digest" else md5(changed).hexdigest()
        files = [{"key": path.relative_to(tmp_path).as_posix(), "MD5checksum": stated}]
        manifest = {"fileSchema": ", ".join(columns), "files": files}
        day = tmp_path / INVENTORY / "2026-01-02T01-00Z"
        (day / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(SourceError):
            opened(tmp_path).listing()

    def test_inventory_whose_bytes_are_wrong_once_is_fetched_again(self, proxy: FaultProxy) -> None:
        """Its MD5 stands in the manifest."""
        proxy.rules = [Rule(f"{INVENTORY}/*", Fault.CORRUPT, times=1, after=1)]
        assert places(opened(proxy)) == PLACES

    def test_version_listed_twice_is_one_version(self, tmp_path: Path) -> None:
        """The ETag that comes last counts."""
        write_inventory(tmp_path, {"metadata/PMC1.1.json": "a" * 32}, num_files=1)
        name = next((tmp_path / INVENTORY / "data").iterdir()).relative_to(tmp_path).as_posix()
        manifest = {
            "fileSchema": "Bucket, Key, LastModifiedDate, ETag",
            "files": [{"key": name}, {"key": name}],
        }
        put(
            tmp_path,
            {f"{INVENTORY}/2026-01-02T01-00Z/manifest.json": json.dumps(manifest).encode()},
        )
        assert opened(tmp_path).listing().rows.tolist() == [(1, 1, b"a" * 32)]


class TestListingFor:
    """Some articles of a source, without its inventory."""

    @pytest.mark.parametrize("kind", ["folder", "bucket"])
    def test_all_versions_of_the_ids_asked_for(
        self, folder: Path, proxy: FaultProxy, kind: str
    ) -> None:
        """PMC7 is not PMC70; ids that are not there are rejects."""
        source = opened(folder if kind == "folder" else proxy)
        listing = source.listing_for([123456, 7, 8])
        assert [row[:2] for row in listing.rows.tolist()] == [(7, 1), (7, 2), (7, 10), (123456, 1)]
        assert [(r.key, r.reason) for r in listing.rejects] == [("PMC8", Reason.METADATA_MISSING)]

    def test_only_the_articles_own_keys_are_listed(self, proxy: FaultProxy) -> None:
        """The bucket's root has millions of names; no request may list it from its start."""
        opened(proxy).listing_for([70])
        assert proxy.count("[?]prefix=") == 0
        assert proxy.count("*") <= 4

    def test_nothing_asked_for(self, folder: Path) -> None:
        """An empty listing."""
        assert len(opened(folder).listing_for([]).rows) == 0


class TestMetadata:
    """The record of one article version."""

    def test_same_from_folder_and_bucket(self, folder: Path, proxy: FaultProxy) -> None:
        """Every field, digests included."""
        local = resolved(opened(folder))
        assert local == resolved(opened(proxy))
        ref = local["PMC7.10"]
        files = article_files(ARTICLES[2])
        assert ref.xml == Media(
            name="PMC7.10.xml", md5=md5(files["PMC7.10/PMC7.10.xml"]).hexdigest()
        )
        assert [media.name for media in ref.media] == ARTICLES[2].picture_names
        assert (ref.doi, ref.license_code, ref.location) == ("10.5555/test.7", "CC BY", "PMC7.10")

    @pytest.mark.parametrize("kind", ["folder", "bucket"])
    def test_order_is_that_of_the_listing(self, folder: Path, proxy: FaultProxy, kind: str) -> None:
        """However many requests are in flight."""
        source = opened(folder if kind == "folder" else proxy)
        rows = source.listing().rows
        names = [each.name for each in source.resolve(rows[::-1]) if isinstance(each, ArticleRef)]
        assert names == [f"PMC{n}.{v}" for n, v in PLACES[::-1]]

    def test_missing_record_costs_its_article_alone(self, tmp_path: Path) -> None:
        """A `Reject` in its place."""
        write_bucket(tmp_path, ARTICLES)
        (tmp_path / "metadata" / "PMC70.1.json").unlink()
        source = opened(tmp_path)
        found = list(source.resolve(source.listing().rows))
        rejects = [each for each in found if isinstance(each, Reject)]
        assert [(r.key, r.reason) for r in rejects] == [("PMC70.1", Reason.METADATA_MISSING)]
        assert len(found) == len(ARTICLES)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'"PMC7"',
            b"\xff\xfe",
            b"[" * 100_000,
            b"<?xml version='1.0'?><Error/>",
        ],
        ids=["empty", "cut", "list", "null", "string", "bytes", "deep", "xml"],
    )
    def test_what_is_no_record_is_a_reject(self, data: bytes) -> None:
        """Whatever is in the place of the JSON, the article alone is lost."""
        found = read_metadata(data, "PMC7", 1, "etag")
        assert isinstance(found, Reject) and found.reason is Reason.METADATA_BAD
        assert (found.pmcid, found.version) == ("PMC7", 1)

    @pytest.mark.parametrize(
        "url",
        [
            "s3://pmc-oa-opendata/PMC7.1/../PMC8.1/a.jpg",
            "s3://pmc-oa-opendata/etc/passwd",
            "s3://pmc-oa-opendata/PMC7.1/",
            "s3://pmc-oa-opendata/PMC7.1/..",
            "/etc/passwd",
            "s3://pmc-oa-opendata/PMC7.1/a\\..\\b.jpg",
            "s3://pmc-oa-opendata/PMC7.1/sub/a.jpg",
        ],
    )
    def test_file_with_an_odd_name_is_left_out(self, url: str) -> None:
        """It costs its own figure at the most, and is never asked for."""
        good = "s3://pmc-oa-opendata/PMC7.1/a.jpg"
        record = metadata(SmallArticle(number=7)) | {"media_urls": [url, good]}
        found = read_metadata(json.dumps(record).encode(), "PMC7", 1, "etag")
        assert isinstance(found, ArticleRef)
        assert [media.name for media in found.media] == ["a.jpg"]

    @pytest.mark.parametrize(
        "change",
        [
            {"pmcid": "PMC8"},
            {"pmcid": None},
            {"version": 2},
            {"version": "one"},
            {"xml_url": None},
            {"xml_url": ""},
            {"xml_url": "s3://pmc-oa-opendata/PMC8.1/PMC8.1.xml"},
            {"media_urls": [None]},
            {"media_urls": [{"url": "a"}]},
            {"media_urls": 7},
            {"pmid": "many"},
            {"pmid": 2**70},
            {"pmid": []},
            {"title": 7},
            {"title": "\ud800"},
            {"doi": ["10.1"]},
            {"citation": {}},
            {"license_code": 4},
            {"is_retracted": "false"},
        ],
        ids=str,
    )
    def test_field_of_another_kind_is_a_reject(self, change: dict[str, object]) -> None:
        """A record must be what the catalog's columns can hold, and stay in its folder."""
        record = metadata(SmallArticle(number=7)) | change
        found = read_metadata(json.dumps(record).encode(), "PMC7", 1, "etag")
        assert isinstance(found, Reject) and found.reason is Reason.METADATA_BAD

    @pytest.mark.parametrize("name", ["media_urls", "pmid", "doi", "title", "license_code"])
    @pytest.mark.parametrize("absent", ["null", "missing"])
    def test_fields_that_may_be_absent(self, name: str, absent: str) -> None:
        """Null, or not there at all."""
        record = metadata(SmallArticle(number=7)) | {name: None}
        if absent == "missing":
            del record[name]
        found = read_metadata(json.dumps(record).encode(), "PMC7", 1, "etag")
        assert isinstance(found, ArticleRef)

    @pytest.mark.parametrize("query", ["", "?md5=", "?md5=xyz", "?etag=1", "?md5=" + "g" * 32])
    def test_media_without_a_digest(self, query: str) -> None:
        """No digest that can be one: the file is taken unchecked."""
        url = f"s3://pmc-oa-opendata/PMC7.1/a.jpg{query}"
        record = metadata(SmallArticle(number=7)) | {"media_urls": [url]}
        found = read_metadata(json.dumps(record).encode(), "PMC7", 1, "etag")
        assert isinstance(found, ArticleRef) and found.media == (Media(name="a.jpg"),)

    @pytest.mark.parametrize(
        "name", ["a b.jpg", "a#1.jpg", "50%.jpg", "a%20b.jpg", "é+&.jpg", "a;b.jpg"]
    )
    def test_odd_media_names_are_kept(self, name: str) -> None:
        """The name is what stands between the folder and the query, letter by letter."""
        record = metadata(SmallArticle(number=7)) | {"media_urls": [url_of(f"PMC7.1/{name}", b"")]}
        found = read_metadata(json.dumps(record).encode(), "PMC7", 1, "etag")
        assert isinstance(found, ArticleRef)
        assert found.media == (Media(name=name, md5=md5(b"").hexdigest()),)


class TestReading:
    """The files of an article, checked."""

    def test_xml_and_media_have_limits_of_their_own(self, tmp_path: Path) -> None:
        """The reason tells which of them was too large."""
        large = article_xml("PMC7", ["a"], "x" * (2 << 20))
        record = metadata(SmallArticle(number=7))
        files = {"PMC7.1/PMC7.1.xml": large, "PMC7.1/jt-7-g001.jpg": bytes(2 << 20)}
        record["xml_url"], record["media_urls"] = (url_of(k, v) for k, v in files.items())
        record["media_urls"] = [record["media_urls"]]
        put(tmp_path, files | {"metadata/PMC7.1.json": json.dumps(record).encode()})
        source = opened(tmp_path, max_xml_mb=1, max_media_mb=1)
        ref = resolved(source)["PMC7.1"]
        for file, missing, reason in (
            (ref.xml, Reason.XML_MISSING, Reason.XML_TOO_LARGE),
            (ref.media[0], Reason.MEDIA_MISSING, Reason.MEDIA_TOO_LARGE),
        ):
            with pytest.raises(FetchError) as raised:
                source.read(ref, file, missing=missing)
            assert raised.value.reason is reason

    @pytest.mark.parametrize("kind", ["folder", "bucket"])
    def test_every_file_of_every_article(self, folder: Path, proxy: FaultProxy, kind: str) -> None:
        """Byte for byte."""
        source = opened(folder if kind == "folder" else proxy)
        for ref in resolved(source).values():
            for file in (ref.xml, *ref.media):
                data = source.read(ref, file, missing=Reason.MEDIA_MISSING)
                assert data == (folder / ref.location / file.name).read_bytes()


def packed(members: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    """A `.tar.gz` of files, and of members that hold nothing."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for member in more:
            tar.addfile(member)
    return buffer.getvalue()


def odd_member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A link or a device."""
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member


OLD_PACKAGE = {
    "PMC13900/bcr-3-1-055.nxml": article_xml("13900", ["bcr-3-1-055-1"]),
    "PMC13900/bcr-3-1-055-1.gif": b"thumbnail",
    "PMC13900/bcr-3-1-055-1.jpg": jpeg(1),
    "PMC13900/bcr-3-1-055.pdf": b"%PDF",
}


def scanned(tmp_path: Path, files: dict[str, bytes], **changes: object) -> Source:
    """A `folder:` source of some files."""
    put(tmp_path, files)
    return opened(f"folder:{tmp_path}", **changes)


def reasons(source: Source) -> dict[str, Reason]:
    """Rejects of a listing by key."""
    return {reject.key: reject.reason for reject in source.listing().rejects}


class TestFolderOfArticles:
    """Any tree of JATS files."""

    def test_pictures_beside_and_below_the_xml(self, tmp_path: Path) -> None:
        """Not those of an article in a folder below."""
        source = scanned(
            tmp_path,
            {
                "a/one.nxml": article_xml("PMC1", ["g1"]),
                "a/g1.jpg": jpeg(1),
                "a/figures/g2.png": b"png",
                "a/mmc1.pdf": b"pdf",
                "a/b/two.xml": article_xml("2", ["g1"]),
                "a/b/g1.jpg": jpeg(2),
            },
        )
        refs = resolved(source)
        assert [media.name for media in refs["PMC1.1"].media] == ["figures/g2.png", "g1.jpg"]
        assert [media.name for media in refs["PMC2.1"].media] == ["g1.jpg"]
        ref = refs["PMC2.1"]
        assert source.read(ref, ref.media[0], missing=Reason.MEDIA_MISSING) == jpeg(2)

    def test_article_at_the_root(self, tmp_path: Path) -> None:
        """Its location is the folder itself."""
        files = {"PMC5.nxml": article_xml(None, ["g1"]), "g1.jpg": jpeg(5)}
        source = scanned(tmp_path, files)
        ref = resolved(source)["PMC5.1"]
        assert source.read(ref, ref.media[0], missing=Reason.MEDIA_MISSING) == jpeg(5)

    def test_folder_whose_name_starts_with_a_dot(self, tmp_path: Path) -> None:
        """It is a folder as any other."""
        files = {".store/a.nxml": article_xml("PMC1", ["g1"]), ".store/.p/g1.jpg": jpeg(1)}
        source = scanned(tmp_path, files)
        ref = resolved(source)["PMC1.1"]
        assert [media.name for media in ref.media] == [".p/g1.jpg"]
        assert source.read(ref, ref.media[0], missing=Reason.MEDIA_MISSING) == jpeg(1)

    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("PMC12.nxml", "PMC12.1"),
            ("PMC12.3.xml", "PMC12.3"),
            ("PMC0012.xml", "PMC12.1"),
            ("PMC12/main.nxml", "PMC12.1"),
            ("PMC12.4/main.xml", "PMC12.4"),
            ("PMC001xxxxxx/PMC12.xml", "PMC12.1"),
        ],
    )
    def test_id_from_the_name_where_the_xml_has_none(
        self, tmp_path: Path, path: str, name: str
    ) -> None:
        """The file's name, then its folder's."""
        assert list(resolved(scanned(tmp_path, {path: article_xml(None, [])}))) == [name]

    def test_every_file_that_is_no_article_is_a_reject(self, tmp_path: Path) -> None:
        """No id, no XML, no article; the good one beside them is taken."""
        source = scanned(
            tmp_path,
            {
                "a/good.nxml": article_xml("PMC1", []),
                "b/anonymous.nxml": article_xml(None, []),
                "c/empty.nxml": b"",
                "d/page.xml": b"<html><body/></html>",
                "e/twice.nxml": article_xml("PMC1", [], "again"),
            },
        )
        refs, rejects = looked_at(source)
        assert list(refs) == ["PMC1.1"]
        assert rejects == {
            "b/anonymous.nxml": Reason.NO_PMCID,
            "c/empty.nxml": Reason.XML_BAD,
            "d/page.xml": Reason.NOT_AN_ARTICLE,
            "e/twice.nxml": Reason.DUPLICATE_ARTICLE,
        }

    def test_link_out_of_the_tree_is_refused(self, tmp_path: Path) -> None:
        """An XML file that is a link to somewhere else is not read."""
        put(
            tmp_path,
            {"outside.xml": article_xml("PMC1", []), "tree/PMC2.xml": article_xml("2", [])},
        )
        (tmp_path / "tree" / "link.xml").symlink_to(tmp_path / "outside.xml")
        source = opened(f"folder:{tmp_path / 'tree'}")
        assert looked_at(source)[1] == {"link.xml": Reason.UNSAFE_PATH}
        assert list(resolved(source)) == ["PMC2.1"]

    def test_ids_asked_for_that_are_not_there_are_rejects(self, tmp_path: Path) -> None:
        """As with a bucket: each id leads to an article or to a reject."""
        source = scanned(tmp_path, {"PMC1.xml": article_xml(None, [])})
        listing = source.listing_for([1, 2])
        assert [row[:2] for row in listing.rows.tolist()] == [(1, 1)]
        assert [(r.key, r.reason) for r in listing.rejects] == [("PMC2", Reason.METADATA_MISSING)]

    def test_xml_that_changed_since_the_listing_is_not_used(self, tmp_path: Path) -> None:
        """The digest in the catalog is checked, as with a bucket."""
        source = scanned(tmp_path, {"PMC1.xml": article_xml(None, [])})
        ref = resolved(source)["PMC1.1"]
        put(tmp_path, {"PMC1.xml": article_xml(None, [], "changed")})
        with pytest.raises(FetchError) as raised:
            opened(f"folder:{tmp_path}").read(ref, ref.xml, missing=Reason.XML_MISSING)
        assert raised.value.reason is Reason.DIGEST_MISMATCH

    def test_listing_does_not_depend_on_the_order_of_creation(self, tmp_path: Path) -> None:
        """Of two files with one id the same one is taken, whichever was written first."""
        names = ["b/x.nxml", "a/y.nxml", "c/z.nxml"]
        found = set()
        for i, order in enumerate((names, names[::-1])):
            files = {name: article_xml("PMC1", [], name) for name in order}
            found.add(resolved(scanned(tmp_path / str(i), files))["PMC1.1"])
        assert len(found) == 1
        assert found.pop().location == "a"


class TestPackages:
    """Old `oa_package` archives, and what somebody may make of them."""

    def test_href_without_suffix_finds_the_picture_and_not_its_thumbnail(
        self, tmp_path: Path
    ) -> None:
        """`.jpg` and `.gif` of one name: the GIF is the thumbnail."""
        source = scanned(tmp_path, {"08/e0/PMC13900.tar.gz": packed(OLD_PACKAGE)})
        ref = resolved(source)["PMC13900.1"]
        media = Shelf(ref).find(Graphic(href="bcr-3-1-055-1"))
        assert media is not None and media.name == "bcr-3-1-055-1.jpg"
        assert source.read(ref, media, missing=Reason.MEDIA_MISSING) == jpeg(1)
        assert b"<article" in source.read(ref, ref.xml, missing=Reason.XML_MISSING)

    @pytest.mark.parametrize("prefix", ["", "./", "PMC13900/", "./a/b/"])
    def test_members_at_any_depth(self, tmp_path: Path, prefix: str) -> None:
        """Names may start with `./`, and folders need no entry of their own."""
        members = {f"{prefix}{name.split('/')[1]}": data for name, data in OLD_PACKAGE.items()}
        source = scanned(tmp_path, {"PMC13900.tgz": packed(members)})
        ref = resolved(source)["PMC13900.1"]
        found = {m.name: source.read(ref, m, missing=Reason.MEDIA_MISSING) for m in ref.media}
        assert found["bcr-3-1-055-1.jpg"] == jpeg(1)

    def test_package_is_read_by_a_new_process(self, tmp_path: Path) -> None:
        """A source that was just opened reads what another listed."""
        source = scanned(tmp_path, {"PMC13900.tar.gz": packed(OLD_PACKAGE)})
        ref = resolved(source)["PMC13900.1"]
        again = opened(f"folder:{tmp_path}")
        assert again.read(ref, ref.media[0], missing=Reason.MEDIA_MISSING)

    @pytest.mark.parametrize(
        "name",
        ["/etc/evil.jpg", "../evil.jpg", "PMC13900/../../evil.jpg", "PMC13900/ev\nil.jpg"],
    )
    def test_name_that_leaves_the_package_is_refused(self, tmp_path: Path, name: str) -> None:
        """It is told, and the rest of the package is used."""
        source = scanned(tmp_path / "in", {"p.tar.gz": packed({name: jpeg(9)} | OLD_PACKAGE)})
        refs, rejects = looked_at(source)
        assert len(refs["PMC13900.1"].media) == 2
        assert list(rejects.values()) == [Reason.UNSAFE_PATH]
        assert not list(tmp_path.rglob("*evil*"))

    @pytest.mark.parametrize(
        "member",
        [
            odd_member("PMC13900/link.jpg", tarfile.SYMTYPE, "/etc/passwd"),
            odd_member("PMC13900/hard.jpg", tarfile.LNKTYPE, "PMC13900/bcr-3-1-055-1.jpg"),
            odd_member("PMC13900/device.jpg", tarfile.CHRTYPE),
            odd_member("PMC13900/disk.jpg", tarfile.BLKTYPE),
            odd_member("PMC13900/pipe.jpg", tarfile.FIFOTYPE),
        ],
        ids=lambda member: str(member.name),
    )
    def test_member_that_is_no_file_is_refused(
        self, tmp_path: Path, member: tarfile.TarInfo
    ) -> None:
        """Links of both kinds, devices, pipes."""
        refs, rejects = looked_at(scanned(tmp_path, {"p.tar.gz": packed(OLD_PACKAGE, member)}))
        assert len(refs["PMC13900.1"].media) == 2
        assert rejects == {f"p.tar.gz!/{member.name}": Reason.UNSAFE_PATH}

    def test_listing_a_second_time_says_the_same(self, tmp_path: Path) -> None:
        """What was refused is told again."""
        link = odd_member("PMC13900/link.jpg", tarfile.SYMTYPE, "/etc/passwd")
        source = scanned(tmp_path, {"p.tar.gz": packed(OLD_PACKAGE, link)})
        assert looked_at(source) == looked_at(source)

    @pytest.mark.parametrize("name", ["PMC13900/bomb.jpg", "PMC13900/bomb.nxml"])
    def test_bomb_is_refused_unread(self, tmp_path: Path, name: str) -> None:
        """Ten megabytes of nothing, where four are allowed."""
        bomb = {name: bytes(10 << 20)}
        source = scanned(tmp_path, {"p.tar.gz": packed(OLD_PACKAGE | bomb)}, max_media_mb=1)
        assert not len(source.listing().rows)
        assert reasons(source) == {"p.tar.gz": Reason.MEDIA_TOO_LARGE}

    def test_large_supplement_is_not_held_against_a_package(self, tmp_path: Path) -> None:
        """What is no XML and no picture is passed over."""
        movie = {"PMC13900/movie.avi": bytes(10 << 20)}
        source = scanned(tmp_path, {"p.tar.gz": packed(OLD_PACKAGE | movie)}, max_media_mb=1)
        assert list(resolved(source)) == ["PMC13900.1"]

    def test_too_many_members(self, tmp_path: Path) -> None:
        """A package of an article has some dozen files."""
        many = {f"PMC1/{n}.txt": b"" for n in range(20_001)}
        source = scanned(tmp_path, {"p.tar.gz": packed(many)})
        assert reasons(source) == {"p.tar.gz": Reason.PACKAGE_BAD}

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: data[: len(data) // 2],
            lambda data: data[:-8] + bytes(8),
            lambda data: b"",
            lambda data: b"<html>404</html>",
            lambda data: data[:200] + bytes(64) + data[264:],
        ],
        ids=["cut", "checksum", "empty", "page", "changed"],
    )
    def test_broken_gzip_costs_its_package_alone(
        self, tmp_path: Path, damage: Callable[[bytes], bytes]
    ) -> None:
        """Another package beside it is used."""
        good = {"PMC2/a.nxml": article_xml("PMC2", [])}
        bad = damage(packed(OLD_PACKAGE))
        source = scanned(tmp_path, {"a.tar.gz": bad, "b.tar.gz": packed(good)})
        refs, rejects = looked_at(source)
        assert list(refs) == ["PMC2.1"]
        assert rejects == {"a.tar.gz": Reason.PACKAGE_BAD}

    def test_package_without_an_article(self, tmp_path: Path) -> None:
        """Told as what it is."""
        source = scanned(tmp_path, {"p.tar.gz": packed({"a.jpg": jpeg(1)})})
        assert reasons(source) == {"p.tar.gz": Reason.PACKAGE_BAD}

    def test_article_in_a_package_and_beside_it(self, tmp_path: Path) -> None:
        """One of them is taken, the other is a reject that names the first."""
        files = {"a.tar.gz": packed(OLD_PACKAGE), "b/x.nxml": article_xml("PMC13900", [])}
        listing = scanned(tmp_path, files).listing()
        assert len(listing.rows) == 1
        (reject,) = listing.rejects
        assert reject.reason is Reason.DUPLICATE_ARTICLE and "PMC13900.1" in reject.detail

    def test_package_that_went_away_is_a_missing_file(self, tmp_path: Path) -> None:
        """Between the catalog and the build: the caller's reason, no crash."""
        source = scanned(tmp_path, {"p.tar.gz": packed(OLD_PACKAGE)})
        ref = resolved(source)["PMC13900.1"]
        (tmp_path / "p.tar.gz").unlink()
        with pytest.raises(FetchError) as raised:
            opened(f"folder:{tmp_path}").read(ref, ref.xml, missing=Reason.XML_MISSING)
        assert raised.value.reason in (Reason.XML_MISSING, Reason.PACKAGE_BAD)
