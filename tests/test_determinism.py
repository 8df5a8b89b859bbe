"""Same articles, same bytes: whatever the engine, the order, the machine's habits, or what was killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from biomedica.archive import Archive
from biomedica.catalog import Selection
from biomedica.config import load_settings
from biomedica.flow import build_archive
from biomedica.shards import tar_members
from samples import (
    archive_bytes,
    build_command,
    rows_of,
    run_build,
    small_articles,
    write_bucket,
)
from servers import moto_bucket

SMALL_SHARDS = "shards.samples=10"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bucket(tmp_path_factory.mktemp("source") / "bucket", small_articles())


@pytest.fixture(scope="module")
def expected(bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every shard and table, as one process makes them."""
    archive = tmp_path_factory.mktemp("expected") / "archive"
    build_archive(
        str(bucket), archive, Selection(), load_settings(None, [SMALL_SHARDS]), engine="inline"
    )
    return archive_bytes(archive)


def assert_same(archive: Path, expected: Mapping[str, bytes]) -> None:
    found = archive_bytes(archive)
    assert sorted(found) == sorted(expected)
    assert [path for path in found if found[path] != expected[path]] == []


def test_the_sample_has_what_it_takes(expected: dict[str, bytes], bucket: Path) -> None:
    """Several tasks and groups, several catalog parts, pairs, rejects."""
    paths = sorted(expected)
    assert len([path for path in paths if path.endswith(".tar")]) >= 4
    assert len({path.split("/")[1] for path in paths if path.startswith("shards/")}) == 3
    assert len([path for path in paths if path.startswith("catalog/")]) >= 2
    assert "plan.parquet" in expected
    assert len(list(bucket.glob("PMC*/*.xml"))) == 12
    assert 35 <= len([p for p in bucket.glob("PMC*/*") if p.suffix != ".xml"]) <= 45


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_processes(
    bucket: Path, tmp_path: Path, expected: dict[str, bytes], workers: int
) -> None:
    settings = load_settings(None, [SMALL_SHARDS])
    archive = tmp_path / "somewhere" / "else"
    build_archive(str(bucket), archive, Selection(), settings, engine="local", workers=workers)
    assert_same(archive, expected)


@pytest.mark.slow
def test_ray(bucket: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    report = run_build(bucket, tmp_path / "archive", SMALL_SHARDS, engine="ray", workers=2)
    assert report.code == 0, report.error
    assert_same(tmp_path / "archive", expected)


@pytest.mark.parametrize("inventory", [True, False])
def test_files_created_in_another_order(
    tmp_path: Path, expected: dict[str, bytes], inventory: bool
) -> None:
    bucket = tmp_path / "bucket"
    write_bucket(bucket, small_articles()[::-1], inventory=inventory, backwards=True)
    for path in sorted(bucket.rglob("*")):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    settings = load_settings(None, [SMALL_SHARDS])
    build_archive(str(bucket), tmp_path / "archive", Selection(), settings, engine="inline")
    assert_same(tmp_path / "archive", expected)


HABITS: list[dict[str, str]] = [
    {"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "LANG": "C", "PYTHONHASHSEED": "1"},
    {"TZ": "Pacific/Pago_Pago", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2", "PYTHONUTF8": "1"},
    {"PYTHONOPTIMIZE": "1", "OMP_NUM_THREADS": "1", "VIPS_CONCURRENCY": "4"},
]


@pytest.mark.parametrize("habits", HABITS, ids=["east", "west", "threads"])
def test_habits_of_the_machine(
    bucket: Path, tmp_path: Path, expected: dict[str, bytes], habits: dict[str, str]
) -> None:
    report = run_build(bucket, tmp_path / "archive", SMALL_SHARDS, **habits)
    assert report.code == 0, report.error
    assert_same(tmp_path / "archive", expected)


def test_settings_that_decide_about_nothing(
    bucket: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    changes = [SMALL_SHARDS, "run.item_seconds=60", "run.memory_mb=2000", "source.connections=3"]
    settings = load_settings(None, changes)
    build_archive(str(bucket), tmp_path / "archive", Selection(), settings, engine="inline")
    assert_same(tmp_path / "archive", expected)


def test_a_second_build_changes_nothing(
    bucket: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    settings = load_settings(None, [SMALL_SHARDS])
    archive = tmp_path / "archive"
    build_archive(str(bucket), archive, Selection(), settings, engine="inline")
    before = times(archive)
    result = build_archive(str(bucket), archive, Selection(), settings, engine="inline")
    assert result.num_built == 0
    after = times(archive)
    kept = ("shards", "figures", "articles", "done", "catalog", "plan")
    assert {p: t for p, t in after.items() if p.startswith(kept)} == {
        p: t for p, t in before.items() if p.startswith(kept)
    }
    assert_same(archive, expected)


def test_a_bucket_and_a_folder_give_the_same(
    bucket: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    with moto_bucket(bucket) as server:
        settings = load_settings(None, [SMALL_SHARDS, f"source.endpoint={server.endpoint}"])
        archive = tmp_path / "archive"
        source = f"s3://{server.name}"
        build_archive(source, archive, Selection(), settings, engine="local", workers=2)
    assert_same(archive, expected)
    assert Archive(archive).info()["source"] == source


# Killed at any moment


def times(archive: Path) -> dict[str, int]:
    """Time of the last change of every file, in nanoseconds, by path."""
    return {
        path.relative_to(archive).as_posix(): path.stat().st_mtime_ns
        for path in sorted(archive.rglob("*"))
        if path.is_file()
    }


def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a build and its workers at once, and wait until all of them are gone."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(500):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    raise AssertionError("workers outlive their group")


def is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith((".tmp", ".trace", ".lock"))


def check_whole(archive: Path) -> None:
    """Every file that has its final name is complete; finished tasks have all of theirs."""
    for path in sorted(archive.rglob("*")):
        if not path.is_file() or is_temporary(path):
            continue
        if path.suffix == ".tar":
            num_members = len(list(tar_members(path)))
            assert num_members % 3 == 0
        elif path.suffix == ".parquet":
            pq.read_table(path)
        else:
            assert path.name in (".lock", "archive.json") or path.parent.name == "done", path
    names = {path.stem for path in (archive / "done").glob("[!.]*.json")}
    done = Archive(archive).done()
    assert set(done) == names, "a done file is cut"
    for task in done.values():
        for output in task.outputs:
            assert (archive / output.path).stat().st_size == output.size


def num_entries(archive: Path) -> int:
    """Files and folders, temporary ones too: it grows with what a build has done."""
    count = 0
    for _, folders, files in os.walk(archive):
        count += len(folders) + len(files)
    return count


def kill_when(process: subprocess.Popen[bytes], archive: Path, entries: int, wait: float) -> bool:
    """Kill a build some seconds after its archive has grown so far. False: it ended before."""
    while process.poll() is None:
        if num_entries(archive) >= entries:
            time.sleep(wait)
            if process.poll() is not None:
                break
            kill_group(process)
            return True
        time.sleep(0.001)
    assert process.returncode == 0
    return False


def kill_and_resume(
    bucket: Path,
    archive: Path,
    moments: Sequence[tuple[int, float]],
    expected: Mapping[str, bytes],
) -> int:
    """Kill a build again and again, then let it end.

    moments   for each kill: entries that the archive must have grown by, seconds to wait after that
    returns   how many of the kills found a build that was under way
    """
    finished: dict[str, tuple[int, bytes]] = {}
    num_killed = 0
    for more, wait in moments:
        process = start(build_command(bucket, archive, SMALL_SHARDS))
        num_killed += kill_when(process, archive, num_entries(archive) + more, wait)
        if archive.exists():
            check_whole(archive)
        check_untouched(archive, finished)
        for path in sorted((archive / "done").glob("[!.]*.json")):
            finished[path.name] = done_state(path)
    assert start(build_command(bucket, archive, SMALL_SHARDS)).wait() == 0
    check_untouched(archive, finished)
    check_whole(archive)
    assert_same(archive, expected)
    left = [path.name for path in sorted(archive.rglob("*")) if is_temporary(path)]
    assert left == [".lock"]
    return num_killed


def check_untouched(archive: Path, finished: Mapping[str, tuple[int, bytes]]) -> None:
    for name, state in finished.items():
        assert done_state(archive / "done" / name) == state, f"{name} was written again"


def done_state(path: Path) -> tuple[int, bytes]:
    return path.stat().st_mtime_ns, path.read_bytes()


def test_killed_a_few_times_and_resumed(
    bucket: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    moments = [(4, 0.0), (12, 0.0), (3, 0.01)]
    assert kill_and_resume(bucket, tmp_path / "archive", moments, expected) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_ten_times_and_resumed(
    bucket: Path, tmp_path: Path, expected: dict[str, bytes], seed: int
) -> None:
    """The same archive is killed again and again; each time it goes on from what stands."""
    rng = random.Random(seed)
    moments = [(rng.randint(1, 6), rng.choice([0.0, rng.uniform(0, 0.03)])) for _ in range(10)]
    assert kill_and_resume(bucket, tmp_path / "archive", moments, expected) >= 3


@pytest.mark.slow
def test_killed_once_at_many_moments(
    bucket: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """A new archive for each moment, evenly over the whole build."""
    rng = random.Random(0)
    num_killed = 0
    for more in range(2, 44, 7):
        archive = tmp_path / f"archive-{more}"
        num_killed += kill_and_resume(bucket, archive, [(more, rng.uniform(0, 0.01))], expected)
    assert num_killed >= 3


def test_what_a_killed_build_leaves_is_no_hindrance(
    bucket: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """Cut temporary files, a stale trace, a cut done file, a shard without its done file."""
    settings = load_settings(None, [SMALL_SHARDS])
    archive = tmp_path / "archive"
    build_archive(str(bucket), archive, Selection(), settings, engine="inline")
    first, second, *_ = sorted((archive / "done").glob("*.json"))
    first.write_bytes(first.read_bytes()[:100])
    second.unlink()
    group = second.stem.rpartition("-")[0]
    (archive / "shards" / group / f"{second.stem}.tar").write_bytes(b"cut")
    (archive / "shards" / group / f".{second.stem}.tar.tmp").write_bytes(b"cut")
    (archive / "done" / f".{second.stem}.trace").write_text('["PMC1000003.1", 0]')
    (archive / "catalog" / ".part-00010.parquet.tmp").write_bytes(b"cut")
    (archive / ".plan.parquet.tmp").write_bytes(b"cut")
    (archive / ".archive.json.tmp").write_bytes(b"cut")
    result = build_archive(str(bucket), archive, Selection(), settings, engine="local", workers=2)
    assert result.num_built == 2
    assert_same(archive, expected)
    left = [path.name for path in sorted(archive.rglob(".*")) if path.name != ".lock"]
    assert left == []


def test_rejects_are_the_same_too(expected: dict[str, bytes], bucket: Path, tmp_path: Path) -> None:
    """Of the same inputs: the reasons and their order."""
    settings = load_settings(None, [SMALL_SHARDS])
    build_archive(str(bucket), tmp_path / "archive", Selection(), settings, engine="inline")
    reasons = [row["reason"] for row in rows_of(tmp_path / "archive", "rejects")]
    assert reasons.count("media_missing") == 4
    assert reasons.count("image_bad") == 9
    assert len(reasons) == 13
