"""The whole build while the source, the network and the disk fail: nothing is lost in silence.

Every archive here is compared with the one from the healthy folder, byte for byte.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from biomedica.archive import Archive
from biomedica.catalog import Selection
from biomedica.config import Settings
from biomedica.errors import ArchiveError, SourceError
from biomedica.flow import BuildResult, build_archive
from biomedica.plan import ShardSettings
from biomedica.shards import tar_members
from biomedica.sources import SourceSettings
from servers import Fault, FaultProxy, MotoBucket, Rule, moto_bucket

URI = "s3://pmc-oa-opendata"
SMALL = ShardSettings(articles=4)
END_OF_TAR = bytes(1024)
DATA = ("shards", "figures", "articles", "rejects", "catalog")
"""Folders whose files are the same whatever happened on the way."""


def settings(
    endpoint: str | None = None, shards: ShardSettings | None = None, **changes: Any
) -> Settings:
    """Few and quick tries; everything in one shard a group unless told otherwise."""
    quick: dict[str, Any] = {"retries": 2, "backoff_seconds": 0.01, "timeout_seconds": 0.5}
    source = SourceSettings(endpoint=endpoint, **(quick | changes))
    return Settings(source=source, shards=shards or ShardSettings())


def build(uri: str | Path, root: Path, given: Settings, **more: Any) -> BuildResult:
    """Build in this process, so that a failing test shows where."""
    return build_archive(str(uri), root, Selection(), given, **({"engine": "inline"} | more))


def data_files(root: Path) -> dict[str, bytes]:
    """Every file that must come out the same, by its path."""
    found = {p.relative_to(root).as_posix(): p for kind in DATA for p in (root / kind).rglob("*")}
    found |= {"plan.parquet": root / "plan.parquet"}
    return {name: path.read_bytes() for name, path in sorted(found.items()) if path.is_file()}


def leftovers(root: Path) -> list[str]:
    """Files with a temporary name, and traces."""
    return [p.name for p in root.rglob(".*") if p.name.endswith((".tmp", ".trace"))]


@dataclass(frozen=True)
class Pair:
    """A sample with its bytes in the shard."""

    name: str
    """`PMC1.1/a.jpg`."""
    data: bytes


def pairs(root: Path) -> dict[str, list[Pair]]:
    """Samples of every shard, in order. Withdrawn ones too."""
    found = {}
    for path in sorted((root / "figures").rglob("*.parquet")):
        tar = (root / "shards" / path.parent.name / f"{path.stem}.tar").read_bytes()
        found[path.stem] = [
            Pair(
                f"{row['pmcid']}.{row['version']}/{row['file_name']}",
                tar[row["offset"] : row["offset"] + row["length"]],
            )
            for row in pq.read_table(path).to_pylist()
        ]
    return found


def live_keys(root: Path) -> list[str]:
    """Keys that a reader gets, sorted."""
    withdrawn = Archive(root).withdrawn()
    tables = [
        pq.read_table(p, columns=["key", "shard"]) for p in (root / "figures").rglob("*.parquet")
    ]
    rows = [row for table in tables for row in table.to_pylist()]
    return sorted(r["key"] for r in rows if (r["key"], r["shard"]) not in withdrawn)


def rejects(root: Path) -> dict[str, str]:
    """Reasons of all rejects by key."""
    tables = [pq.read_table(path) for path in sorted((root / "rejects").glob("*.parquet"))]
    return {row["key"]: row["reason"] for table in tables for row in table.to_pylist()}


def check_whole(root: Path) -> None:
    """Every file with a final name can be read to its end."""
    for path in root.rglob("*.parquet"):
        if not path.name.startswith("."):
            pq.read_table(path)
    for path in root.rglob("*.tar"):
        if not path.name.startswith("."):
            assert list(tar_members(path)) or path.stat().st_size == len(END_OF_TAR)
            assert path.read_bytes().endswith(END_OF_TAR)


@pytest.fixture(scope="module")
def healthy(tour_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive that a healthy source gives, one shard a group."""
    root = tmp_path_factory.mktemp("healthy") / "archive"
    build(tour_folder, root, settings())
    return root


@pytest.fixture(scope="module")
def healthy_small(tour_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in shards of four articles."""
    root = tmp_path_factory.mktemp("healthy") / "small"
    build(tour_folder, root, settings(shards=SMALL))
    return root


@pytest.fixture(scope="module")
def bucket(tour_folder: Path) -> Iterator[MotoBucket]:
    """The sample corpus in a bucket."""
    with moto_bucket(tour_folder) as bucket:
        yield bucket


@pytest.fixture
def proxy(bucket: MotoBucket) -> Iterator[FaultProxy]:
    """A proxy without rules."""
    with FaultProxy(bucket.endpoint) as proxy:
        yield proxy


@dataclass(frozen=True)
class Loss:
    """A fault that stays, and what it must cost."""

    pattern: str
    fault: Fault | int
    reason: str


def losses(healthy: Path) -> list[Loss]:
    """One lasting fault of each kind, each at another article of the corpus."""
    by_article: dict[str, list[str]] = {}
    for pair in chain.from_iterable(pairs(healthy).values()):
        by_article.setdefault(pair.name.partition("/")[0], []).append(pair.name)
    articles = sorted(by_article, key=lambda name: int(name[3:].partition(".")[0]))
    pictures = {name: by_article[name][0] for name in articles}
    kinds: list[tuple[str, Fault | int, str]] = [
        ("picture", Fault.DROP, "fetch_failed"),
        ("picture", 429, "fetch_failed"),
        ("picture", 500, "fetch_failed"),
        ("picture", 503, "fetch_failed"),
        ("picture", Fault.TRUNCATE, "fetch_failed"),
        ("picture", Fault.CORRUPT, "digest_mismatch"),
        ("picture", Fault.SLOW, "fetch_failed"),
        ("picture", 404, "media_missing"),
        ("xml", Fault.DROP, "fetch_failed"),
        ("xml", Fault.CORRUPT, "digest_mismatch"),
        ("xml", 404, "xml_missing"),
        ("metadata", 503, "fetch_failed"),
        ("metadata", 404, "metadata_missing"),
    ]
    found = []
    for name, (kind, fault, reason) in zip(articles, kinds, strict=False):
        key = {"picture": pictures[name], "xml": f"{name}/{name}.xml"}.get(kind)
        found.append(Loss(key or f"metadata/{name}.json", fault, reason))
    assert len(found) == len(kinds)
    return found


def lost_key(loss: Loss) -> str:
    """Key of the reject that a loss must leave."""
    if loss.pattern.startswith("metadata/"):
        return loss.pattern.removeprefix("metadata/").removesuffix(".json")
    folder, _, name = loss.pattern.partition("/")
    return folder if name == f"{folder}.xml" else loss.pattern


def is_lost(name: str, lost: list[Loss]) -> bool:
    """Whether a picture falls to one of the losses."""
    keys = {lost_key(loss) for loss in lost}
    return name in keys or name.partition("/")[0] in keys


def passing_faults() -> list[Rule]:
    """Faults that every object of a kind shows once or twice, and then no more."""
    return [
        Rule("PMC*[13579].1/*.jpg", 503, times=1),
        Rule("PMC*[02468].1/*.jpg", Fault.TRUNCATE, times=1),
        Rule("PMC*.png", Fault.CORRUPT, times=2),
        Rule("PMC*[159].1/*.xml", Fault.DROP, times=2),
        Rule("PMC*[048].1/*.xml", 429, times=2),
        Rule("metadata/*[1-6].1.json", 500, times=1),
        Rule("inventory-reports/*", Fault.CORRUPT, times=1, after=1),
        Rule("[?]prefix=*", 503, times=2),
    ]


def test_faults_that_pass_leave_no_mark(healthy: Path, proxy: FaultProxy, tmp_path: Path) -> None:
    """Every object fails once or twice; the archive is that of the healthy folder."""
    proxy.rules = passing_faults()
    result = build(URI, tmp_path / "a", settings(proxy.endpoint))
    assert sum(sum(rule.hits.values()) for rule in proxy.rules) > 50
    assert result.num_withdrawn == 0
    assert data_files(tmp_path / "a") == data_files(healthy)


def test_all_faults_at_once_cost_what_they_must_and_no_more(
    healthy: Path, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Every pair that can be had is there, in its place, and each loss is a reject with its reason."""
    lost = losses(healthy)
    proxy.rules = [Rule(loss.pattern, loss.fault) for loss in lost] + passing_faults()
    build(URI, tmp_path / "a", settings(proxy.endpoint))
    for group, expected in pairs(healthy).items():
        kept = b"".join(pair.data for pair in expected if not is_lost(pair.name, lost))
        tar = (tmp_path / "a" / "shards" / group.partition("-")[0] / f"{group}.tar").read_bytes()
        assert tar == kept + END_OF_TAR
    untouched = {k: v for k, v in rejects(healthy).items() if not is_lost(k, lost)}
    assert rejects(tmp_path / "a") == untouched | {lost_key(loss): loss.reason for loss in lost}


def test_retry_failed_gets_what_was_lost(healthy: Path, proxy: FaultProxy, tmp_path: Path) -> None:
    """Once the faults are gone: all pairs, and tombstones for the rows that were written before."""
    lost = losses(healthy)
    proxy.rules = [Rule(loss.pattern, loss.fault) for loss in lost if loss.fault != 404]
    root = tmp_path / "a"
    build(URI, root, settings(proxy.endpoint))
    before = pairs(root)
    short = live_keys(root)
    proxy.rules = []
    again = build(URI, root, settings(proxy.endpoint), retry_failed=True)
    assert len(short) < len(live_keys(root))
    assert live_keys(root) == live_keys(healthy)
    assert {k: pairs(root)[k] for k in before} == before
    retried = {lost_key(loss).partition("/")[0] for loss in lost if loss.fault != 404}
    tombstones = Archive(root).tombstones().to_pylist()
    assert {f"{t['pmcid']}.{t['version']}" for t in tombstones} <= retried
    assert {t["reason"] for t in tombstones} == {"retried"}
    assert len(tombstones) == again.num_withdrawn > 0


def test_retry_failed_when_nothing_failed_changes_nothing(
    healthy: Path, tour_folder: Path, tmp_path: Path
) -> None:
    """No shard is built, nothing is withdrawn."""
    root = tmp_path / "a"
    shutil.copytree(healthy, root)
    result = build(tour_folder, root, settings(), retry_failed=True)
    assert (result.num_built, result.num_withdrawn, result.changes) == (0, 0, {})
    assert data_files(root) == data_files(healthy)


def test_retry_failed_while_the_fault_stays_loses_nothing(
    healthy: Path, proxy: FaultProxy, tmp_path: Path
) -> None:
    """The pairs that the article had are had again; the second time as well."""
    name = losses(healthy)[0].pattern
    root = tmp_path / "a"
    proxy.rules = [Rule(name, Fault.DROP)]
    build(URI, root, settings(proxy.endpoint))
    short = live_keys(root)
    assert len(short) == len(live_keys(healthy)) - 1
    for _ in range(2):
        build(URI, root, settings(proxy.endpoint), retry_failed=True)
        assert live_keys(root) == short
    proxy.rules = []
    build(URI, root, settings(proxy.endpoint), retry_failed=True)
    assert live_keys(root) == live_keys(healthy)


@pytest.mark.slow
def test_faults_with_worker_processes(healthy: Path, proxy: FaultProxy, tmp_path: Path) -> None:
    """Two workers and lasting faults: the same bytes as in one process."""
    lost = losses(healthy)
    roots = [tmp_path / "inline", tmp_path / "local"]
    for root, engine in zip(roots, ("inline", "local"), strict=True):
        proxy.rules = [Rule(loss.pattern, loss.fault) for loss in lost] + passing_faults()
        build(URI, root, settings(proxy.endpoint), engine=engine, workers=2)
    first, second = map(data_files, roots)
    assert sorted(first) == sorted(second)
    assert [name for name in first if first[name] != second[name]] == []


class TestSourceDown:
    """A source that is not there at all."""

    def test_down_from_the_start(self, proxy: FaultProxy, tmp_path: Path) -> None:
        """Nothing can be listed: the message names the source and says what to look at."""
        proxy.rules = [Rule("*", Fault.DROP)]
        with pytest.raises(SourceError, match=r"s3://pmc-oa-opendata.*[Cc]heck"):
            build(URI, tmp_path / "a", settings(proxy.endpoint))
        check_whole(tmp_path / "a")

    def test_down_in_the_middle_then_up_again(
        self, healthy_small: Path, proxy: FaultProxy, tmp_path: Path
    ) -> None:
        """What is done stays; the same call goes on, and the end is the healthy archive."""
        root = tmp_path / "a"
        given = settings(proxy.endpoint, SMALL, max_failures_in_a_row=3)
        second = pq.read_table(
            healthy_small / "articles" / "commercial" / "commercial-000001.parquet"
        )
        articles = [f"PMC{n[3:]}" for n in second["pmcid"].to_pylist()]
        proxy.rules = [Rule(f"{name}.*/*", Fault.DROP) for name in articles]
        with pytest.raises(SourceError, match=r"run the same command") as raised:
            build(URI, root, given)
        assert URI in str(raised.value)
        assert (root / "shards" / "commercial" / "commercial-000000.tar").exists()
        assert not (root / "shards" / "commercial" / "commercial-000001.tar").exists()
        check_whole(root)
        proxy.rules = []
        proxy.forget()
        result = build(URI, root, given)
        assert 0 < result.num_built < result.num_tasks
        first = pq.read_table(root / "articles" / "commercial" / "commercial-000000.parquet")
        assert sum(proxy.count(f"{name}.*/*") for name in first["pmcid"].to_pylist()) == 0
        assert data_files(root) == data_files(healthy_small)
        assert leftovers(root) == []

    def test_down_after_the_catalog_of_a_small_selection(
        self, healthy: Path, proxy: FaultProxy, tmp_path: Path
    ) -> None:
        """Fewer articles than make a source "down" by their number, but none of them arrives."""
        proxy.rules = [Rule("PMC*", Fault.DROP)]
        with pytest.raises(SourceError):
            build(URI, tmp_path / "a", settings(proxy.endpoint))
        proxy.rules = []
        build(URI, tmp_path / "a", settings(proxy.endpoint))
        assert data_files(tmp_path / "a") == data_files(healthy)

    def test_finished_archive_outlives_a_source_that_is_down(
        self, healthy: Path, bucket: MotoBucket, proxy: FaultProxy, tmp_path: Path
    ) -> None:
        """A build that cannot reach the source withdraws nothing."""
        root = tmp_path / "a"
        build(URI, root, settings(proxy.endpoint))
        for pattern in ("*", "inventory-reports/*"):
            proxy.rules = [Rule(pattern, 503)]
            with pytest.raises(SourceError):
                build(URI, root, settings(proxy.endpoint))
            assert data_files(root) == data_files(healthy)
            assert live_keys(root) == live_keys(healthy)


@contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """A small disk of its own, in memory."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        made = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("this machine has no `mount`, which a disk that is full needs")
    if made.returncode:
        pytest.skip(f"a disk for the test cannot be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Give the disk another size, or make it read-only."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


class TestDisk:
    """A disk that is full or may not be written."""

    def test_full_disk_at_any_moment(
        self, tour_folder: Path, healthy_small: Path, tmp_path: Path
    ) -> None:
        """The disk grows bit by bit. Each failure is an `ArchiveError` with advice that leaves whole
        files only, each call goes on where the last one stopped, and the end is the healthy archive.
        """
        given = settings(shards=SMALL)
        failures = 0
        with disk(tmp_path / "disk", "size=16k") as folder:
            root = folder / "archive"
            for kilobytes in (16, 32, 40, 48, 56, 64, 80, 96, 128, 192, 300, 600, 1000, 2000, 8000):
                remount(folder, f"size={kilobytes}k")
                try:
                    build(tour_folder, root, given)
                except ArchiveError as error:
                    assert "make room" in str(error) and str(folder) in str(error)
                    failures += 1
                    check_whole(root)
                else:
                    break
            assert failures > 5
            assert data_files(root) == data_files(healthy_small)
            assert leftovers(root) == []

    def test_room_made_by_deleting_other_files(
        self, tour_folder: Path, healthy: Path, tmp_path: Path
    ) -> None:
        """A disk filled by somebody else, then cleared."""
        with disk(tmp_path / "disk", "size=8m") as folder:
            ballast = folder / "ballast"
            ballast.write_bytes(bytes(7 << 20))
            with pytest.raises(ArchiveError, match=r"No space left.*make room"):
                build(tour_folder, folder / "archive", settings())
            check_whole(folder / "archive")
            assert not list((folder / "archive").rglob("*.tar"))
            ballast.unlink()
            build(tour_folder, folder / "archive", settings())
            assert data_files(folder / "archive") == data_files(healthy)

    @pytest.mark.slow
    def test_full_disk_with_worker_processes(
        self, tour_folder: Path, healthy_small: Path, tmp_path: Path
    ) -> None:
        """The error crosses the process boundary as what it is."""
        given = settings(shards=SMALL)
        with disk(tmp_path / "disk", "size=600k") as folder:
            with pytest.raises(ArchiveError, match=r"make room"):
                build(tour_folder, folder / "archive", given, engine="local", workers=2)
            check_whole(folder / "archive")
            remount(folder, "size=16m")
            build(tour_folder, folder / "archive", given, engine="local", workers=2)
            assert data_files(folder / "archive") == data_files(healthy_small)

    def test_read_only_disk(self, tour_folder: Path, healthy: Path, tmp_path: Path) -> None:
        """A new archive cannot be made there, an old one cannot be brought up to date."""
        with disk(tmp_path / "disk", "size=16m") as folder:
            shutil.copytree(healthy, folder / "old")
            remount(folder, "ro")
            for name in ("new", "old"):
                with pytest.raises(ArchiveError, match=rf"{name}: Read-only"):
                    build(tour_folder, folder / name, settings())
            assert data_files(folder / "old") == data_files(healthy)

    def test_archive_below_a_file(self, tour_folder: Path, tmp_path: Path) -> None:
        """The message names the path."""
        (tmp_path / "file").write_text("")
        with pytest.raises(ArchiveError, match=r"file/archive"):
            build(tour_folder, tmp_path / "file" / "archive", settings())

    def test_archive_that_is_a_file(self, tour_folder: Path, tmp_path: Path) -> None:
        """The same for the path itself, which stays as it is."""
        (tmp_path / "file").write_text("mine")
        with pytest.raises(ArchiveError, match="file"):
            build(tour_folder, tmp_path / "file", settings())
        assert (tmp_path / "file").read_text() == "mine"

    def test_folder_of_something_else(self, tour_folder: Path, tmp_path: Path) -> None:
        """Files that are no archive's are left alone."""
        (tmp_path / "thesis.tex").write_text("mine")
        with pytest.raises(ArchiveError, match=r"thesis\.tex"):
            build(tour_folder, tmp_path, settings())
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("damage", ["cut", "empty", "gone"])
@pytest.mark.parametrize("name", ["shards/*.tar", "figures/*.parquet", "articles/*", "done/*"])
def test_output_that_was_damaged_is_not_taken_for_done(
    tour_folder: Path, healthy: Path, tmp_path: Path, name: str, damage: str
) -> None:
    """A file that a crash of the machine left short, or that somebody removed, is made again."""
    root = tmp_path / "a"
    shutil.copytree(healthy, root)
    names = [
        p for p in sorted(root.rglob("*")) if fnmatchcase(p.relative_to(root).as_posix(), name)
    ]
    victim = next(path for path in names if path.is_file())
    data = victim.read_bytes()
    victim.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    if damage == "gone":
        victim.unlink()
    build(tour_folder, root, settings())
    assert data_files(root) == data_files(healthy)
