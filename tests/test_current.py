"""Keeping current: what changes in the source becomes additions, tombstones and a changelog."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from biomedica import compact as compacting
from biomedica.archive import Archive
from biomedica.catalog import Selection
from biomedica.compact import compact
from biomedica.config import load_settings
from biomedica.doctor import examine
from biomedica.errors import ConfigError
from biomedica.flow import BuildResult, build_archive
from biomedica.shards import tables
from biomedica.show import find_sample
from small_bucket import SmallArticle, write_bucket

SETTINGS = load_settings(None, ["shards.samples=4"])


def articles() -> dict[int, SmallArticle]:
    """Six articles of three groups."""
    licences = ("CC BY", "CC BY-NC", "CC BY")
    return {
        n: SmallArticle(number=n, pictures=2, licence=licences[n % 3], pmid=n)
        for n in range(101, 107)
    }


def publish(folder: Path, found: dict[Any, SmallArticle]) -> None:
    """Put these articles, and no others, into the bucket."""
    shutil.rmtree(folder, ignore_errors=True)
    write_bucket(folder, list(found.values()))


def build(bucket: Path, out: Path, **options: Any) -> BuildResult:
    """Build in this process."""
    selection = options.pop("selection", Selection())
    return build_archive(str(bucket), out, selection, SETTINGS, engine="inline", **options)


def live(out: Path) -> dict[str, dict[str, Any]]:
    """Rows that readers give, by key, without the place where they stand."""
    withdrawn = Archive(out).withdrawn()
    rows = [row for path in tables(out, "figures") for row in pq.read_table(path).to_pylist()]
    kept = [row for row in rows if (row["key"], row["shard"]) not in withdrawn]
    assert len({row["key"] for row in kept}) == len(kept)
    places = ("shard", "offset", "jpg_offset", "txt_offset", "json_offset")
    return {row["key"]: {k: v for k, v in row.items() if k not in places} for row in kept}


def changes(out: Path) -> list[tuple[str, int, str]]:
    """The changelog as (change, version, article)."""
    rows = pq.read_table(out / "changelog.parquet").to_pylist()
    return sorted((row["change"], row["version"], row["pmcid"]) for row in rows)


def change_licence(found: dict[Any, SmallArticle]) -> None:
    found[101] = SmallArticle(number=101, pictures=2, licence="CC BY-NC-ND", pmid=101)


def withdraw(found: dict[Any, SmallArticle]) -> None:
    del found[102]


def publish_version(found: dict[Any, SmallArticle]) -> None:
    found["103.2"] = SmallArticle(number=103, version=2, pictures=3, licence="CC BY")


def add(found: dict[Any, SmallArticle]) -> None:
    found[200] = SmallArticle(number=200, pictures=1, licence="CC BY")


def retract(found: dict[Any, SmallArticle]) -> None:
    found[104] = SmallArticle(number=104, pictures=2, licence="CC BY", pmid=104, is_retracted=True)


CHANGES: list[tuple[Callable[[dict[Any, SmallArticle]], None], list[tuple[str, int, str]]]] = [
    (change_licence, [("licence_changed", 1, "PMC101")]),
    (withdraw, [("withdrawn", 1, "PMC102")]),
    (publish_version, [("new_version", 2, "PMC103"), ("superseded", 1, "PMC103")]),
    (add, [("added", 1, "PMC200")]),
    (retract, [("retracted", 1, "PMC104")]),
]


@pytest.mark.parametrize(
    ("change", "logged"), CHANGES, ids=lambda value: getattr(value, "__name__", "")
)
def test_one_change(
    change: Callable[[dict[Any, SmallArticle]], None],
    logged: list[tuple[str, int, str]],
    tmp_path: Path,
) -> None:
    """After a change, readers get what a new archive of the changed source would give them."""
    found = articles()
    publish(tmp_path / "bucket", found)
    build(tmp_path / "bucket", tmp_path / "out")
    change(found)
    publish(tmp_path / "bucket", found)
    build(tmp_path / "bucket", tmp_path / "out")
    build(tmp_path / "bucket", tmp_path / "new")
    assert changes(tmp_path / "out") == logged
    assert live(tmp_path / "out") == live(tmp_path / "new")
    assert examine(Archive(tmp_path / "out")).is_whole


def all_changes(bucket: Path) -> None:
    """Every kind of change at once."""
    found = articles()
    for change, _ in CHANGES:
        change(found)
    retract(found)
    publish(bucket, found)


def test_all_changes_then_compact(tmp_path: Path) -> None:
    """Compaction leaves exactly the live samples, fewer bytes, and a whole archive."""
    publish(tmp_path / "bucket", articles())
    before = build(tmp_path / "bucket", tmp_path / "out")
    all_changes(tmp_path / "bucket")
    after = build(tmp_path / "bucket", tmp_path / "out")
    assert after.num_withdrawn == 8
    assert after.counts["pairs"] == before.counts["pairs"] - 2 + 1 + 1
    expected = live(tmp_path / "out")
    assert all(row["is_retracted"] for row in expected.values() if row["pmcid"] == "PMC104")
    done = compact(Archive(tmp_path / "out"))
    assert done.num_samples == 8
    assert done.freed_bytes > 0
    assert Archive(tmp_path / "out").tombstones().num_rows == 0
    assert live(tmp_path / "out") == expected
    assert examine(Archive(tmp_path / "out"), decode=True).is_whole
    again = build(tmp_path / "bucket", tmp_path / "out")
    assert again.num_built == 0
    assert live(tmp_path / "out") == expected


def test_withdrawn_sample_is_shown_as_such(tmp_path: Path) -> None:
    """`show` gives the successor of a withdrawn sample, or says why there is none."""
    publish(tmp_path / "bucket", articles())
    build(tmp_path / "bucket", tmp_path / "out")
    key = next(key for key in live(tmp_path / "out") if key.startswith("PMC102-"))
    all_changes(tmp_path / "bucket")
    build(tmp_path / "bucket", tmp_path / "out")
    assert find_sample(Archive(tmp_path / "out"), key).withdrawn == "withdrawn"
    other = next(key for key in live(tmp_path / "out") if key.startswith("PMC101-"))
    shown = find_sample(Archive(tmp_path / "out"), other)
    assert shown.withdrawn is None
    assert shown.row["license_code"] == "CC BY-NC-ND"


class KilledError(BaseException):
    """Stands in for a kill: nothing may catch it."""


@pytest.mark.parametrize("moment", range(1, 12))
def test_compaction_killed_at_any_step(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before any of its renames, deletions or writes, a compaction ends well the next time."""
    publish(tmp_path / "bucket", articles())
    build(tmp_path / "bucket", tmp_path / "out")
    all_changes(tmp_path / "bucket")
    build(tmp_path / "bucket", tmp_path / "out")
    expected = live(tmp_path / "out")
    steps = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == moment:
                raise KilledError
            return original(*arguments, **options)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", counted(Path.replace))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        with suppress(KilledError):
            compact(Archive(tmp_path / "out"))
    compact(Archive(tmp_path / "out"))
    assert live(tmp_path / "out") == expected
    assert not (tmp_path / "out" / "compact.json").exists()
    assert build(tmp_path / "bucket", tmp_path / "out").num_built == 0
    assert examine(Archive(tmp_path / "out")).is_whole


@pytest.mark.parametrize("moment", range(1, 9))
def test_update_killed_at_any_step(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it applies the source's changes, a build loses no tombstone and no addition."""
    publish(tmp_path / "bucket", articles())
    build(tmp_path / "bucket", tmp_path / "out")
    all_changes(tmp_path / "bucket")
    steps = 0

    def replace(path: Path, target: Path) -> Path:
        nonlocal steps
        steps += 1
        if steps == moment:
            raise KilledError
        return original(path, target)

    original = Path.replace
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(KilledError):
            build(tmp_path / "bucket", tmp_path / "out")
    build(tmp_path / "bucket", tmp_path / "out")
    build(tmp_path / "bucket", tmp_path / "new")
    assert live(tmp_path / "out") == live(tmp_path / "new")
    assert examine(Archive(tmp_path / "out")).is_whole


def test_another_selection_must_be_meant(tmp_path: Path) -> None:
    """A build with another selection is refused, unless it is said that the archive shall change."""
    publish(tmp_path / "bucket", articles())
    build(tmp_path / "bucket", tmp_path / "out")
    fewer = Selection(groups=("commercial",))
    with pytest.raises(ConfigError, match=r"groups.*--reselect"):
        build(tmp_path / "bucket", tmp_path / "out", selection=fewer)
    build(tmp_path / "bucket", tmp_path / "out", selection=fewer, reselect=True)
    assert {row["licence_group"] for row in live(tmp_path / "out").values()} == {"commercial"}
    assert {change for change, _, _ in changes(tmp_path / "out")} == {"withdrawn"}


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    """Shards of two settings are not mixed."""
    publish(tmp_path / "bucket", articles())
    build(tmp_path / "bucket", tmp_path / "out")
    other = load_settings(None, ["shards.samples=4", "images.min_side=30"])
    with pytest.raises(ConfigError, match=r"min_side 20 there, 30 asked for.*new folder"):
        build_archive(str(tmp_path / "bucket"), tmp_path / "out", Selection(), other)


def test_mesh_that_came_later(tmp_path: Path) -> None:
    """`compact --mesh` writes the terms of records that were fetched after the build."""
    from biomedica.enrich import PUBMED
    from biomedica.shards import write_table

    publish(tmp_path / "bucket", articles())
    build(tmp_path / "bucket", tmp_path / "out")
    row = next(iter(live(tmp_path / "out").values()))
    empty = {name: [] for name in PUBMED.names}
    record = empty | {"pmid": row["pmid"], "mesh_terms": ["Lung*"]}
    part = tmp_path / "out" / "pubmed" / f"part-{row['pmid'] // 100_000:05d}.parquet"
    write_table(part, PUBMED, [record])
    compacting.compact(Archive(tmp_path / "out"), refresh_mesh=True)
    found = [r for r in live(tmp_path / "out").values() if r["pmid"] == row["pmid"]]
    assert [r["mesh_terms"] for r in found] == [["Lung*"]] * len(found)
    assert examine(Archive(tmp_path / "out")).is_whole


def test_a_kill_then_another_wish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that was begun, killed and taken back withdraws nothing."""
    publish(tmp_path / "bucket", articles())
    build(tmp_path / "bucket", tmp_path / "out")
    before = live(tmp_path / "out")
    fewer = Selection(groups=("commercial",))
    original = Path.replace
    for moment in range(1, 7):
        steps = 0

        def replace(path: Path, target: Path, moment: int = moment) -> Path:
            nonlocal steps
            steps += 1
            if steps == moment:
                raise KilledError
            return original(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            with suppress(KilledError):
                build(tmp_path / "bucket", tmp_path / "out", selection=fewer, reselect=True)
        build(tmp_path / "bucket", tmp_path / "out", reselect=True)
        assert live(tmp_path / "out") == before
        assert examine(Archive(tmp_path / "out")).is_whole


def test_a_lost_file_beside_a_withdrawn_article(tmp_path: Path) -> None:
    """A shard that holds withdrawn articles is built again without them when a file of it is lost."""
    publish(tmp_path / "bucket", articles())
    build(tmp_path / "bucket", tmp_path / "out")
    all_changes(tmp_path / "bucket")
    build(tmp_path / "bucket", tmp_path / "out")
    expected = live(tmp_path / "out")
    for path in [*(tmp_path / "out").glob("*/*/commercial-000000.*")][:2]:
        path.unlink()
    build(tmp_path / "bucket", tmp_path / "out")
    assert live(tmp_path / "out") == expected
    assert examine(Archive(tmp_path / "out")).is_whole


def test_a_new_version_that_cannot_be_read_leaves_the_old_one(tmp_path: Path) -> None:
    """What was known stays until the source gives something better."""
    found = articles()
    publish(tmp_path / "bucket", found)
    build(tmp_path / "bucket", tmp_path / "out")
    before = live(tmp_path / "out")
    publish_version(found)
    publish(tmp_path / "bucket", found)
    (tmp_path / "bucket" / "metadata" / "PMC103.2.json").write_text("{")
    build(tmp_path / "bucket", tmp_path / "out")
    assert live(tmp_path / "out") == before


def test_a_picture_that_always_fails_does_not_block_a_retry(tmp_path: Path) -> None:
    """Articles with one picture that stays wrong keep their others, however often they are retried."""
    publish(tmp_path / "bucket", articles())
    for number in (101, 103):
        picture = next((tmp_path / "bucket" / f"PMC{number}.1").glob("*.jpg"))
        picture.write_bytes(picture.read_bytes() + b"x")
    build(tmp_path / "bucket", tmp_path / "out")
    before = live(tmp_path / "out")
    result = build(tmp_path / "bucket", tmp_path / "out", retry_failed=True)
    assert result.changes == {"retried": 2}
    assert live(tmp_path / "out") == before
    assert build(tmp_path / "bucket", tmp_path / "out").num_built == 0


def test_two_processes_at_one_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one waits a moment, then gives up; it writes nothing."""
    import biomedica.build as building

    publish(tmp_path / "bucket", articles())
    build(tmp_path / "bucket", tmp_path / "out")
    before = live(tmp_path / "out")
    monkeypatch.setattr(building, "_LOCK_TRIES", 2)
    (tmp_path / "out" / "done" / "commercial-000000.json").unlink()
    with (
        building._only_one(tmp_path / "out", "commercial-000000"),
        pytest.raises(ConfigError, match="another process builds commercial-000000"),
    ):
        build(tmp_path / "bucket", tmp_path / "out")
    build(tmp_path / "bucket", tmp_path / "out")
    assert live(tmp_path / "out") == before


def test_one_of_several_versions_fails(tmp_path: Path) -> None:
    """With all versions selected, a version that cannot be read costs and doubles no other."""
    found = articles()
    publish_version(found)
    publish(tmp_path / "bucket", found)
    everything = Selection(all_versions=True)
    build(tmp_path / "bucket", tmp_path / "out", selection=everything)
    before = live(tmp_path / "out")
    found[103] = SmallArticle(number=103, pictures=2, licence="CC BY-NC", pmid=103, edition=1)
    found["103.2"] = SmallArticle(number=103, version=2, pictures=3, licence="CC BY", edition=1)
    publish(tmp_path / "bucket", found)
    (tmp_path / "bucket" / "metadata" / "PMC103.2.json").write_text("{")
    build(tmp_path / "bucket", tmp_path / "out", selection=everything)
    assert live(tmp_path / "out").keys() == before.keys()
    assert changes(tmp_path / "out") == [("content_changed", 1, "PMC103")]
    assert examine(Archive(tmp_path / "out")).is_whole
