"""Whole builds over buckets that mean harm: each bad input costs itself, and nothing beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from biomedica.catalog import Selection
from biomedica.config import load_settings
from biomedica.flow import BuildResult, build_archive
from biomedica.shards import tar_members
from samples import (
    Package,
    Panel,
    article_xml,
    bucket_objects,
    encoded,
    healthy,
    inventory_objects,
    jpeg,
    picture,
    rows_of,
    run_build,
    write_bucket,
)
from test_images import bomb_png, zip_of

SECRET = b"root:x:0:0"
"""In /etc/passwd wherever there is one."""
TWO = (Panel(href="fig1.jpg"), Panel(href="fig2.jpg"))
HEALTHY = tuple(healthy(number) for number in (100, 350, 650, 990))


@dataclass(frozen=True, slots=True)
class Case:
    """A hostile article and what must come of it."""

    package: Package
    rejects: tuple[tuple[str, str, str], ...]
    """(what of the article, stage, reason)."""
    pairs: tuple[str, ...] = ()
    """Files of it that become pairs all the same."""


def with_xml(number: int, xml: bytes) -> Package:
    return replace(healthy(number), xml=xml)


def with_files(number: int, *hrefs: str, **files: bytes) -> Package:
    """An article whose first figure is good; hrefs are those of the others."""
    names = {name.replace("__", "."): data for name, data in files.items()}
    panels = (Panel(href="good.jpg"), *(Panel(href=href) for href in hrefs or names))
    return Package(number=number, panels=panels, files={"good.jpg": jpeg(number)} | names)


def of_xml(number: int, xml: bytes, reason: str) -> Case:
    return Case(with_xml(number, xml), ((f"PMC{number}.1", "parse", reason),))


def of_file(number: int, name: str, data: bytes, reason: str) -> Case:
    package = with_files(number, name, **{name: data})
    return Case(package, ((f"PMC{number}.1/{name}", "images", reason),), ("good.jpg",))


def of_record(number: int, record: bytes | None = None, **metadata: Any) -> Case:
    package = replace(healthy(number), metadata=metadata, record=record)
    return Case(package, ((f"PMC{number}.1", "catalog", "metadata_bad"),))


def of_media(number: int, url: str) -> Case:
    """The file is as good as not there; the article and its captions are."""
    package = replace(healthy(number), metadata={"media_urls": [url]}, record=None)
    missing = ((f"PMC{number}.1/fig{n}.jpg", "fetch", "media_missing") for n in (1, 2))
    return Case(package, tuple(missing))


def doctype(*entities: str) -> str:
    return f"<!DOCTYPE article [{''.join(f'<!ENTITY {entity}>' for entity in entities)}]>\n"


LAUGHS = doctype('a0 "ha"', *(f'a{n} "{f"&a{n - 1};" * 10}"' for n in range(1, 10)))
QUADRATIC = doctype(f'q "{"x" * 100_000}"')
OUTSIDE = doctype('file SYSTEM "file:///etc/passwd"', 'web SYSTEM "http://127.0.0.1:9/x"')
PARAMETER = (
    '<!DOCTYPE article [<!ENTITY % file SYSTEM "file:///etc/passwd">'
    "<!ENTITY % made \"<!ENTITY shown '%file;'>\">%made;]>\n"
)


def in_attribute(value: str, doctype: str) -> bytes:
    return article_xml(1, TWO, before=f'<p id="{value}">x</p>', doctype=doctype)


def nested(tag: str) -> str:
    return f"<{tag}>" * 100_000 + "x" + f"</{tag}>" * 100_000


XML_CASES = {
    "billion laughs": of_xml(201, article_xml(1, TWO, inside="&a9;", doctype=LAUGHS), "xml_bad"),
    "billion laughs in an attribute": of_xml(202, in_attribute("&a9;", LAUGHS), "xml_bad"),
    "billion laughs in UTF-16": of_xml(
        203,
        in_attribute("&a9;", LAUGHS).decode().replace("UTF-8", "UTF-16").encode("utf-16"),
        "xml_bad",
    ),
    "quadratic blow-up": of_xml(
        204, article_xml(1, TWO, inside="&q;" * 100_000, doctype=QUADRATIC), "xml_bad"
    ),
    "quadratic blow-up in an attribute": of_xml(
        205, in_attribute("&q;" * 100_000, QUADRATIC), "xml_bad"
    ),
    "external entity in an attribute": of_xml(206, in_attribute("&file;", OUTSIDE), "xml_bad"),
    "deep nesting": of_xml(207, article_xml(1, TWO, before=nested("sec")), "xml_bad"),
    "deep nesting in a caption": of_xml(208, article_xml(1, TWO, inside=nested("sub")), "xml_bad"),
    "deep nesting after broken markup": of_xml(
        212, article_xml(1, TWO, before=f"<p>a & b</p>{nested('sec')}"), "xml_bad"
    ),
    "no bytes": of_xml(209, b"", "xml_bad"),
    "zeros": of_xml(210, bytes(5000), "xml_bad"),
    "no article": of_xml(211, b"<html><body>404</body></html>", "not_an_article"),
}

PICTURE_CASES = {
    "600 megapixels": of_file(301, "bomb.png", bomb_png(24_500), "too_many_pixels"),
    "cut JPEG": of_file(302, "cut.jpg", jpeg(302, 600, 400)[:9000], "image_bad"),
    "cut PNG": of_file(303, "cut.png", encoded(picture(303), "PNG")[:9000], "image_bad"),
    "web page": of_file(304, "page.jpg", b"<!DOCTYPE html><html></html>", "format_refused"),
    "no bytes": of_file(305, "empty.jpg", b"", "format_refused"),
    "PostScript": of_file(306, "run.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n", "format_refused"),
    "too small": of_file(307, "dot.gif", encoded(picture(307, 3, 3), "GIF"), "too_small"),
    "program": of_file(308, "run.exe", b"MZ" + bytes(100), "format_refused"),
}

UNKNOWN = ("fetch", "media_missing")
PATH_CASES = {
    href: Case(
        with_files(400 + number, href),
        ((f"PMC{400 + number}.1/{href}", *UNKNOWN),),
        ("good.jpg",),
    )
    for number, href in enumerate(
        [
            "../../outside/secret.jpg",
            "/etc/passwd",
            "file:///etc/passwd",
            "http://127.0.0.1:9/x.jpg",
            "..",
            "a\nb.jpg",
            "%2e%2e/%2e%2e/x.jpg",
            "C:\\x.jpg",
        ]
    )
}


def media_url(number: int, path: str) -> str:
    return f"s3://pmc-oa-opendata/PMC{number}.1/{path}?md5={'0' * 32}"


RECORD_CASES = {
    "media above the folder": of_media(501, media_url(501, "../../outside/secret.jpg")),
    "media of another article": of_media(502, media_url(100, "fig1.jpg")),
    "media with a NUL": of_media(503, media_url(503, "a\0b.jpg")),
    "media with a newline": of_media(504, media_url(504, "sub/a\nb.jpg")),
    "media as an absolute path": of_media(505, "/etc/passwd"),
    "media as a file": of_media(506, "file:///etc/passwd"),
    "media that is no text": of_record(507, media_urls=[7]),
    "XML above the folder": of_record(508, xml_url="s3://b/PMC508.1/../../outside/secret.xml"),
    "no XML": of_record(509, xml_url=None),
    "no bytes": of_record(510, b""),
    "no JSON": of_record(511, b"<html></html>"),
    "a list": of_record(512, b"[]"),
    "deep JSON": of_record(513, b"[" * 200_000),
    "another article's": of_record(514, pmcid="PMC100"),
    "a number too large": of_record(515, pmid=10**30),
    "a title that is no text": of_record(516, title={"a": 1}),
    "half a character": of_record(517, title="a\ud800b"),
    "a licence that is a list": of_record(518, license_code=["CC BY"]),
    "a list as pmid": of_record(519, pmid=[1]),
    "version as a list": of_record(520, version=[1]),
    "not UTF-8": of_record(521, b'{"pmcid": "\xff\xfe"}'),
    "infinite pmid": of_record(522, b'{"pmcid": "PMC522", "version": 1, "pmid": Infinity}'),
    "a half character in a name": of_media(523, media_url(523, "a\ud800.jpg")),
}

FILE_CASES = {
    f"{kind}: {name}": case
    for kind, cases in (("xml", XML_CASES), ("picture", PICTURE_CASES), ("path", PATH_CASES))
    for name, case in cases.items()
}


def everything(folder: Path) -> dict[str, int]:
    """Every file below a folder, by path, with the time of its last change in nanoseconds."""
    return {
        path.relative_to(folder).as_posix(): path.lstat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
    }


@dataclass(frozen=True, slots=True)
class Built:
    """An archive with what stood beside it before and after."""

    archive: Path
    result: BuildResult | None
    before: dict[str, int]
    after: dict[str, int]

    def rejects(self) -> set[tuple[str, str, str]]:
        return {(r["key"], r["stage"], r["reason"]) for r in rows_of(self.archive, "rejects")}

    def pairs(self) -> set[tuple[str, str]]:
        return {(row["pmcid"], row["file_name"]) for row in rows_of(self.archive, "figures")}

    def check(self) -> None:
        """What holds for every build: nothing beside the archive changed, nothing leaked into it."""
        ours = f"{self.archive.name}/"
        assert {k: v for k, v in self.after.items() if not k.startswith(ours)} == self.before
        for path in sorted(self.archive.rglob("*")):
            assert path.resolve().is_relative_to(self.archive.resolve())
            assert not path.is_file() or SECRET not in path.read_bytes()
        for kind in ("figures", "articles", "rejects", "catalog"):
            assert SECRET.decode() not in repr(rows_of(self.archive, kind))
        for path in (self.archive / "shards").rglob("*.tar"):
            names = [member.name for member in tar_members(path)]
            assert all(name.replace(".", "_").replace("-", "_").isidentifier() for name in names)

    def check_healthy(self) -> None:
        """All pairs of the articles that nothing is wrong with are there."""
        expected = {(f"PMC{p.number}", name) for p in HEALTHY for name in p.files}
        assert expected <= self.pairs()
        for package in HEALTHY:
            assert not [key for key, _, _ in self.rejects() if key.startswith(f"{package.name}")]


def build(folder: Path, *changes: str, engine: str = "local") -> Built:
    """Build the bucket in `folder/bucket`."""
    before = everything(folder)
    result = build_archive(
        str(folder / "bucket"),
        folder / "archive",
        Selection(),
        load_settings(None, ["shards.samples=30", *changes]),
        engine=engine,
        workers=2,
    )
    return Built(folder / "archive", result, before, everything(folder))


def put_secrets(folder: Path) -> None:
    """What an escape would reach: a picture and a text beside the bucket."""
    (folder / "outside").mkdir()
    (folder / "outside" / "secret.jpg").write_bytes(jpeg(7))
    (folder / "outside" / "secret.xml").write_bytes(article_xml(1, TWO))


def build_cases(folder: Path, cases: dict[str, Case]) -> Built:
    """One archive of all cases, among healthy articles."""
    put_secrets(folder)
    packages = [*HEALTHY, *(case.package for case in cases.values())]
    write_bucket(folder / "bucket", packages)
    return build(folder)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build_cases(tmp_path_factory.mktemp("files"), FILE_CASES)


@pytest.fixture(scope="module")
def built_records(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build_cases(tmp_path_factory.mktemp("records"), RECORD_CASES)


def check_cases(built: Built, cases: dict[str, Case]) -> None:
    built.check()
    built.check_healthy()
    assert built.rejects() == {reject for case in cases.values() for reject in case.rejects}
    assert built.result is not None
    assert built.result.counts["pairs"] == len(built.pairs())


def check_case(built: Built, case: Case) -> None:
    own = {r for r in built.rejects() if r[0].partition("/")[0] == case.package.name}
    assert own == set(case.rejects)
    pairs = {file for pmcid, file in built.pairs() if pmcid == f"PMC{case.package.number}"}
    assert pairs == set(case.pairs)


def test_bad_files_cost_nothing_beside_them(built: Built) -> None:
    check_cases(built, FILE_CASES)


@pytest.mark.parametrize("name", FILE_CASES)
def test_bad_file(built: Built, name: str) -> None:
    check_case(built, FILE_CASES[name])


def test_bad_metadata_cost_nothing_beside_them(built_records: Built) -> None:
    check_cases(built_records, RECORD_CASES)


@pytest.mark.parametrize("name", RECORD_CASES)
def test_bad_metadata(built_records: Built, name: str) -> None:
    check_case(built_records, RECORD_CASES[name])


def test_articles_that_name_a_file_show_nothing_of_it(tmp_path: Path) -> None:
    xml = {
        601: article_xml(1, TWO, inside="&file;&web;", doctype=OUTSIDE),
        602: article_xml(1, TWO, inside="&shown;", doctype=PARAMETER),
        603: article_xml(
            1,
            TWO,
            before='<xi:include href="file:///etc/passwd" parse="text" '
            'xmlns:xi="http://www.w3.org/2001/XInclude"/>',
        ),
        604: b'<?xml-stylesheet href="file:///etc/passwd"?>' + article_xml(1, TWO)[39:],
    }
    assert xml[604].count(b"<?xml ") == 0
    packages = [*HEALTHY, *(with_xml(number, data) for number, data in xml.items())]
    write_bucket(tmp_path / "bucket", packages)
    made = build(tmp_path)
    made.check()
    made.check_healthy()
    for number in xml:
        pairs = [p for p in made.pairs() if p[0] == f"PMC{number}"]
        rejects = [r for r in made.rejects() if r[0].startswith(f"PMC{number}.1")]
        assert len(pairs) == 2 or {r[2] for r in rejects} <= {"xml_bad", "not_an_article"}
        assert pairs or rejects


def test_an_archive_in_a_picture_is_not_kept(tmp_path: Path) -> None:
    polyglot = jpeg(8) + zip_of("hidden.txt", b"smuggled goods")
    package = with_files(700, "two.jpg", two__jpg=polyglot)
    write_bucket(tmp_path / "bucket", [*HEALTHY, package])
    made = build(tmp_path)
    made.check_healthy()
    [row] = [r for r in rows_of(made.archive, "figures") if r["file_name"] == "two.jpg"]
    assert row["transform"] == "trailing-bytes-removed"
    for path in (made.archive / "shards").rglob("*.tar"):
        assert b"smuggled goods" not in path.read_bytes()


def test_links_out_of_the_source_are_not_followed(tmp_path: Path) -> None:
    put_secrets(tmp_path)
    package = with_files(710, link__jpg=(tmp_path / "outside" / "secret.jpg").read_bytes())
    package = replace(package, unstored=frozenset({"link.jpg"}))
    linked = healthy(711)
    write_bucket(tmp_path / "bucket", [*HEALTHY, package, linked, healthy(712)])
    bucket = tmp_path / "bucket"
    (bucket / "PMC710.1" / "link.jpg").symlink_to(tmp_path / "outside" / "secret.jpg")
    (bucket / "PMC711.1" / "PMC711.1.xml").unlink()
    (bucket / "PMC711.1" / "PMC711.1.xml").symlink_to("/etc/passwd")
    (bucket / "metadata" / "PMC712.1.json").unlink()
    (bucket / "metadata" / "PMC712.1.json").symlink_to("/etc/passwd")
    made = build(tmp_path)
    made.check()
    made.check_healthy()
    assert made.rejects() == {
        ("PMC710.1/link.jpg", "fetch", "unsafe_path"),
        ("PMC711.1", "fetch", "unsafe_path"),
        ("PMC712.1", "catalog", "unsafe_path"),
    }
    assert ("PMC710", "good.jpg") in made.pairs()


def test_files_that_are_no_files(tmp_path: Path) -> None:
    """A folder and a pipe that nobody writes to, under the names of pictures."""
    package = with_files(715, folder__jpg=jpeg(1), pipe__jpg=jpeg(2))
    package = replace(package, unstored=frozenset({"folder.jpg", "pipe.jpg"}))
    write_bucket(tmp_path / "bucket", [*HEALTHY, package])
    (tmp_path / "bucket" / "PMC715.1" / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "bucket" / "PMC715.1" / "pipe.jpg")
    before = everything(tmp_path)
    report = run_build(tmp_path / "bucket", tmp_path / "archive", seconds=30)
    assert report.code == 0, report.error
    made = Built(tmp_path / "archive", None, before, everything(tmp_path))
    made.check_healthy()
    assert {(key, stage) for key, stage, _ in made.rejects()} == {
        ("PMC715.1/folder.jpg", "fetch"),
        ("PMC715.1/pipe.jpg", "fetch"),
    }


def test_keys_of_the_inventory_that_are_no_articles(tmp_path: Path) -> None:
    objects = bucket_objects(HEALTHY, inventory=False)
    odd = ["metadata/../../x.json", "metadata/PMC1.json", "metadata/PMC5.99999.json"]
    odd += [f"metadata/PMC{'9' * 30}.1.json", "metadata/PMC6.1.json.bak"]
    listed = inventory_objects(objects | dict.fromkeys(odd, b""))
    for key, data in (objects | listed).items():
        path = tmp_path / "bucket" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    made = build(tmp_path)
    made.check()
    made.check_healthy()
    assert {key for key, _, _ in made.rejects()} == {*odd}


# Size

MEGABYTE = 1 << 20


def large_xml(megabytes: int, paragraph: int) -> bytes:
    """An article with so many megabytes of text, in paragraphs of so many characters."""
    text = ("lorem ipsum dolor " * (paragraph // 18 + 1))[:paragraph]
    count = megabytes * MEGABYTE // (paragraph + 7)
    return article_xml(1, TWO, before=f"<p>{text}</p>" * count)


def test_an_xml_past_the_limit_is_not_read(tmp_path: Path) -> None:
    write_bucket(tmp_path / "bucket", [*HEALTHY, with_xml(720, large_xml(100, 2000))])
    made = build(tmp_path)
    made.check_healthy()
    assert made.rejects() == {("PMC720.1", "fetch", "xml_too_large")}


@pytest.mark.slow
@pytest.mark.parametrize("paragraph", [30, 2000, 20 * MEGABYTE])
@pytest.mark.parametrize("memory_mb", [512, 4096])
def test_100_megabytes_of_xml_stay_in_bounds(
    tmp_path: Path, paragraph: int, memory_mb: int
) -> None:
    write_bucket(tmp_path / "bucket", [*HEALTHY, with_xml(720, large_xml(100, paragraph))])
    before = everything(tmp_path)
    report = run_build(
        tmp_path / "bucket",
        tmp_path / "archive",
        "source.max_xml_mb=200",
        f"run.memory_mb={memory_mb}",
    )
    assert report.code == 0, report.error
    assert report.peak_mb < memory_mb + 200, "200 MB: what a worker starts with"
    made = Built(tmp_path / "archive", None, before, everything(tmp_path))
    made.check_healthy()
    pairs = [pair for pair in made.pairs() if pair[0] == "PMC720"]
    reasons = {reason for key, _, reason in made.rejects() if key == "PMC720.1"}
    assert len(pairs) == 2 or (not pairs and reasons <= {"memory", "crashed"} and reasons)


# Decoders that fail

SITE = '''
"""Make the decoder fail for marked pictures, as one with a fault would."""

import ctypes
import os

from PIL import Image

opened = Image.open


def open_marked(file, *arguments, **options):
    data = file.getvalue() if hasattr(file, "getvalue") else b""
    if b"MARK-ABORT" in data:
        os.abort()
    if b"MARK-SEGFAULT" in data:
        ctypes.string_at(0)
    if b"MARK-EXIT" in data:
        os._exit(0)
    if b"MARK-FAILURE" in data:
        os._exit(1)
    if b"MARK-HANG" in data:
        while True:
            ctypes.PyDLL(None).pause()  # holds the interpreter's lock
    if b"MARK-SPIN" in data:
        while True:
            pass
    if b"MARK-MEMORY" in data:
        held = []
        while True:
            held.append(bytearray(16 << 20))
    return opened(file, *arguments, **options)


Image.open = open_marked
'''
FATAL = {
    "abort.jpg": ("MARK-ABORT", {("run", "crashed")}),
    "segfault.jpg": ("MARK-SEGFAULT", {("run", "crashed")}),
    "exit.jpg": ("MARK-EXIT", {("run", "crashed")}),
    "failure.jpg": ("MARK-FAILURE", {("run", "crashed")}),
    "hang.jpg": ("MARK-HANG", {("run", "timed_out")}),
    "spin.jpg": ("MARK-SPIN", {("run", "timed_out")}),
    "memory.jpg": ("MARK-MEMORY", {("images", "memory"), ("run", "crashed")}),
}


def fatal_packages(names: frozenset[str], absent: bool) -> list[Package]:
    """Two articles of one shard whose pictures kill the decoder, between good pictures."""
    packages = list(HEALTHY)
    for number in (500, 501):
        files = {}
        for place, name in enumerate(sorted(names)):
            files[f"a{place}.jpg"] = jpeg(number + place)
            files[name] = jpeg(number + 50 + place, comment=FATAL[name][0].encode())
        files["z.jpg"] = jpeg(number + 99)
        panels = tuple(Panel(href=name) for name in files)
        gone = names if absent else frozenset[str]()
        packages.append(Package(number=number, panels=panels, files=files, unstored=gone))
    return packages


@pytest.fixture
def faulty_decoder(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment in which Pillow fails for marked pictures."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    others = os.environ.get("PYTHONPATH")
    yield {"PYTHONPATH": os.pathsep.join([str(site), *([others] if others else [])])}


def check_fatal(
    tmp_path: Path, environment: dict[str, str], names: frozenset[str], engine: str
) -> None:
    """Build with the fatal files and without them: they make no difference but their rejects."""
    changes = ("run.item_seconds=2", "run.memory_mb=512")
    for name, absent in (("with", False), ("without", True)):
        write_bucket(tmp_path / name, fatal_packages(names, absent))
        report = run_build(
            tmp_path / name,
            tmp_path / f"{name}-archive",
            *changes,
            engine=engine,
            seconds=120 if engine == "ray" else 60,
            **environment,
        )
        assert report.code == 0, report.error
    made = Built(tmp_path / "with-archive", None, {}, {})
    made.check_healthy()
    for number in (500, 501):
        for name in names:
            key = f"PMC{number}.1/{name}"
            found = {(stage, reason) for k, stage, reason in made.rejects() if k == key}
            assert len(found) == 1, f"{key}: {found}"
            assert found <= FATAL[name][1]
    assert len(made.rejects()) == 2 * len(names)
    assert len(made.pairs()) == 2 * len(HEALTHY) + 2 * (len(names) + 1)
    for kind in ("shards", "figures", "articles"):
        one = sorted((tmp_path / "with-archive" / kind).rglob("*-*"))
        other = sorted((tmp_path / "without-archive" / kind).rglob("*-*"))
        assert [p.name for p in one] == [p.name for p in other]
        for a, b in zip(one, other, strict=True):
            assert a.read_bytes() == b.read_bytes(), a.name
    left = [p.name for p in (tmp_path / "with-archive" / "done").iterdir() if p.suffix != ".json"]
    assert left == []


@pytest.mark.parametrize("name", ["abort.jpg", "memory.jpg"])
def test_a_decoder_that_fails(tmp_path: Path, faulty_decoder: dict[str, str], name: str) -> None:
    check_fatal(tmp_path, faulty_decoder, frozenset({name}), "local")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["segfault.jpg", "exit.jpg", "failure.jpg", "hang.jpg", "spin.jpg"]
)
def test_a_decoder_that_fails_otherwise(
    tmp_path: Path, faulty_decoder: dict[str, str], name: str
) -> None:
    check_fatal(tmp_path, faulty_decoder, frozenset({name}), "local")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_decoders_that_fail_in_every_way(
    tmp_path: Path, faulty_decoder: dict[str, str], engine: str
) -> None:
    check_fatal(tmp_path, faulty_decoder, frozenset(FATAL) - {"exit.jpg"}, engine)


def test_failed_pictures_stay_left_out_when_run_again(
    tmp_path: Path, faulty_decoder: dict[str, str]
) -> None:
    write_bucket(tmp_path / "bucket", fatal_packages(frozenset({"abort.jpg"}), absent=False))
    archive = tmp_path / "archive"
    assert run_build(tmp_path / "bucket", archive, **faulty_decoder).code == 0
    done = {p.name: p.stat().st_mtime_ns for p in sorted((archive / "done").iterdir())}
    rejects = rows_of(archive, "rejects")
    assert run_build(tmp_path / "bucket", archive, **faulty_decoder).code == 0
    assert {p.name: p.stat().st_mtime_ns for p in sorted((archive / "done").iterdir())} == done
    assert rows_of(archive, "rejects") == rejects
    counts = json.loads((archive / "archive.json").read_text())["rejects"]
    assert counts == {"crashed": 2}
