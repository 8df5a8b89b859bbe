"""Bytes of samples from folders, HTTP servers and buckets: right, or refused with the shard's name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from biomedica.archive import Archive
from biomedica.errors import ArchiveError, ConfigError
from biomedica.shards import BLOCK, tar_header
from biomedica.stream import ReadSettings, Samples, files, open_samples
from biomedica.stream.cache import CachedFiles
from biomedica.stream.files import Files
from export_views import figure_rows
from servers import Fault, FaultProxy, Rule, moto_bucket
from stream_archives import (
    QUICK,
    Truth,
    check,
    give_view,
    read,
    reader_of,
    shards,
    streamed_archive,
    truth,
    wanted,
)
from stream_server import SLIDE, WHOLE, RangeServer, range_server

IMPATIENT = replace(QUICK, timeout_seconds=0.3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive that no test changes."""
    return streamed_archive(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def expected(made: Path) -> Truth:
    """What its shards hold."""
    return truth(made)


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return shutil.copytree(made, tmp_path / "archive")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views of servers are kept in the test's folder; nobody is logged in."""
    monkeypatch.setenv("BIOMEDICA_CACHE", str(tmp_path / "views-of-servers"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def server(root: Path) -> Iterator[RangeServer]:
    """A server of the copy, without faults."""
    with range_server(root.parent) as server:
        yield server


def opened(server: RangeServer, settings: ReadSettings = QUICK, **options: Any) -> Samples:
    """The view of the server's archive."""
    return open_samples(server.url("archive"), "all", settings=settings, **options)


class TestFolder:
    """An archive on this machine."""

    def test_all_samples_are_as_the_shards_hold_them(self, made: Path, expected: Truth) -> None:
        """Picture, caption and JSON of each, in two epochs; sizes and keys as the figures files say."""
        samples = open_samples(made, "all", settings=QUICK)
        check(read(reader_of(samples), samples, epochs=2), expected, epochs=2)
        rows = figure_rows(made)
        assert {row["key"] for row in rows} == set(expected)
        assert all(row["caption"].encode() == expected[row["key"]][1] for row in rows)

    def test_split(self, made: Path, expected: Truth) -> None:
        """Only its samples; none of another."""
        parts = [open_samples(made, "all", split, QUICK) for split in ("train", "test")]
        found = [{row[0] for row in read(reader_of(each), each)} for each in parts]
        assert found[0] | found[1] == set(expected) and not found[0] & found[1]
        assert [len(each) for each in parts] == [len(each) for each in found]

    def test_what_is_not_there_is_refused(self, made: Path, tmp_path: Path) -> None:
        """View, split, archive."""
        with pytest.raises(ConfigError, match="other"):
            open_samples(made, "other")
        with pytest.raises(ConfigError, match=r"'val'.*test, train|'val'.*train, test"):
            open_samples(made, "all", "val")
        with pytest.raises(ArchiveError, match="no archive"):
            open_samples(tmp_path, "all")

    def test_split_without_samples(self, root: Path) -> None:
        """A split that a recipe names and nothing fell into is empty."""
        path = root / "views" / "all" / "counts.json"
        counts = json.loads(path.read_text())
        path.write_text(json.dumps(counts | {"splits": counts["splits"] | {"val": 0}}))
        assert len(open_samples(root, "all", "val")) == 0

    def test_withdrawn_samples_are_not_given(self, root: Path, expected: Truth) -> None:
        """Nor counted; and a checkpoint of before is of other samples."""
        before = open_samples(root, "all", settings=QUICK)
        gone = withdraw(root)
        samples = open_samples(root, "all", settings=QUICK)
        check(read(reader_of(samples), samples), without(expected, gone))
        assert len(samples) == len(expected) - len(gone)
        assert samples.digest != before.digest

    def test_little_memory_is_enough(self, made: Path, expected: Truth) -> None:
        """At least one batch is held, whatever it takes."""
        settings = replace(QUICK, memory_mb=1)
        samples = open_samples(made, "all", settings=settings)
        check(read(reader_of(samples), samples, batch=1), expected)

    def test_shard_that_was_replaced_while_it_is_read(
        self, root: Path, expected: Truth, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An open one stays what it was; one that is opened again is refused."""
        samples = open_samples(root, "all", settings=QUICK)
        reader = reader_of(samples)
        check(read(reader, samples), expected)
        for path in shards(root):
            own = path.with_suffix(".new")
            own.write_bytes(bytes(path.stat().st_size))
            own.replace(path)
        check(read(reader, samples), expected)
        monkeypatch.setattr(files, "_OPEN_FILES", 1)
        reader._files.local._open.clear()
        with pytest.raises(ArchiveError, match=rf"shard {shards(root)[0].stem[:-3]}.*replaced"):
            read(reader, samples)

    @pytest.mark.parametrize("change", ["missing", "shorter", "shifted", "longer"])
    def test_shard_that_is_not_the_one(self, root: Path, change: str) -> None:
        """Named, whatever is wrong with it."""
        path = shards(root)[1]
        data = path.read_bytes()
        path.write_bytes(changed(data, change))
        if change == "missing":
            path.unlink()
        with pytest.raises(ArchiveError, match=f"shard {path.stem}"):
            samples = open_samples(root, "all", settings=QUICK)
            read(reader_of(samples), samples)

    def test_picture_with_other_bytes_of_the_same_size(self, root: Path, expected: Truth) -> None:
        """Seen by its digest where that is asked for; every figures file is looked at."""
        settings = replace(QUICK, verify="sha256")
        samples = open_samples(root, "all", settings=settings)
        check(read(reader_of(samples), samples), expected)
        row = figure_rows(root)[20]
        path = next(path for path in shards(root) if path.stem == row["shard"])
        with path.open("r+b") as file:
            file.seek(row["jpg_offset"] + row["jpg_size"] // 2)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
        with pytest.raises(ArchiveError, match=rf"shard {row['shard']}.*{row['key']}.*SHA-256"):
            read(reader_of(samples), samples)
        plain = open_samples(root, "all", settings=QUICK)
        assert len(read(reader_of(plain), plain)) == len(expected)

    def test_caption_of_another_length(self, root: Path) -> None:
        """The picture before it stands where it stood, and the shard has its size."""
        row = other_captions(root)
        samples = open_samples(root, "all", settings=QUICK)
        with pytest.raises(ArchiveError, match=f"shard {row['shard']}.*{row['key']}"):
            read(reader_of(samples), samples)

    def test_figures_that_were_written_again(self, root: Path) -> None:
        """The view is stale; the shard is named."""
        shard = rewrite_figures(root)
        with pytest.raises(ArchiveError, match=f"stale.*{shard}"):
            open_samples(root, "all")


def withdraw(root: Path) -> set[str]:
    """Withdraw every fifth sample."""
    rows = figure_rows(root)[::5]
    facts = {"reason": "withdrawn", "since": None}
    names = ("key", "shard", "pmcid", "version")
    Archive(root).set_tombstones([{n: row[n] for n in names} | facts for row in rows])
    return {row["key"] for row in rows}


def without(expected: Truth, gone: set[str]) -> Truth:
    """What is left."""
    return {key: members for key, members in expected.items() if key not in gone}


def changed(data: bytes, change: str) -> bytes:
    """Another version of a shard."""
    if change == "shifted":
        return data[BLOCK:] + data[:BLOCK]
    return {"shorter": data[:-BLOCK], "longer": data + bytes(BLOCK)}.get(change, data)


def other_captions(root: Path) -> dict[str, Any]:
    """Cut a caption by two bytes inside its block: the shard's layout stays. Returns its row."""
    row = figure_rows(root)[7]
    path = next(path for path in shards(root) if path.stem == row["shard"])
    data = bytearray(path.read_bytes())
    start, size = row["txt_offset"], row["txt_size"]
    data[start - BLOCK : start] = tar_header(f"{row['key']}.txt", size - 2)
    data[start + size - 2 : start + size] = bytes(2)
    path.write_bytes(data)
    return row


def rewrite_figures(root: Path) -> str:
    """Let a shard's done file tell of another figures file."""
    path = sorted((root / "done").glob("*.json"))[1]
    done = json.loads(path.read_text())
    for each in done["outputs"]:
        if each["path"].startswith("figures/"):
            each["sha256"] = "0" * 64
    path.write_text(json.dumps(done))
    return path.stem


class TestServer:
    """An archive behind HTTP."""

    def test_all_samples_by_the_planned_requests(
        self, server: RangeServer, expected: Truth
    ) -> None:
        """As many range requests as were planned, at most one a shard where all of it is wanted."""
        samples = opened(server)
        reader = reader_of(samples)
        planned = list(reader.requests(wanted(samples)))
        check(read(reader, samples), expected)
        assert sum(each.requests for each in planned) == len(server.ranges())
        assert sum(each.samples for each in planned) == len(expected)
        assert len(server.ranges()) == len(shards(server.folder / "archive"))
        asked = sum(stop - start for start, stop in filter(None, server.ranges()))
        assert asked == sum(each.fetched for each in planned)

    @pytest.mark.parametrize(
        "changes", [{"gap_kb": 0}, {"piece_mb": 0.004}, {"memory_mb": 1, "connections": 1}]
    )
    def test_other_plans_bring_the_same(
        self, server: RangeServer, expected: Truth, changes: dict[str, Any]
    ) -> None:
        """Small pieces, no gaps, one connection."""
        samples = opened(server, replace(QUICK, **changes))
        check(read(reader_of(samples), samples, batch=3, epochs=2), expected, epochs=2)

    def test_split_and_withdrawn(self, root: Path, server: RangeServer, expected: Truth) -> None:
        """As in a folder."""
        gone = withdraw(root)
        found = [opened(server, split=split) for split in ("train", "test")]
        rows = [row for each in found for row in read(reader_of(each), each)]
        check(rows, without(expected, gone))

    @pytest.mark.parametrize("fault", [500, 503, 429, Fault.DROP, Fault.TRUNCATE, WHOLE, SLIDE])
    def test_fault_that_passes(self, server: RangeServer, expected: Truth, fault: Any) -> None:
        """Twice each for tables, notes and shards: nothing is lost, nothing wrong."""
        server.rules = [Rule("*", fault, times=2)]
        if fault in (WHOLE, SLIDE):
            server.rules = [Rule("*.tar", fault, times=2)]
        samples = opened(server)
        check(read(reader_of(samples), samples), expected)

    @pytest.mark.parametrize(
        "fault", [500, 429, 403, 401, 404, Fault.DROP, Fault.TRUNCATE, Fault.SLOW, WHOLE, SLIDE]
    )
    def test_fault_that_stays(self, root: Path, server: RangeServer, fault: Any) -> None:
        """One line that names the shard; what trying again cannot mend is asked for once."""
        path = shards(root)[1]
        server.rules = [Rule(f"*{path.name}", fault)]
        samples = opened(server, IMPATIENT)
        with pytest.raises(ArchiveError, match=f"shard {path.stem}") as caught:
            read(reader_of(samples), samples)
        assert "\n" not in str(caught.value)
        tries = 1 if fault in (401, 403, 404) else IMPATIENT.retries + 1
        assert len(server.ranges(f"*{path.name}")) == tries

    def test_slow_answer_that_passes(self, server: RangeServer, expected: Truth) -> None:
        """Given up in time, and asked for again."""
        server.rules = [Rule("*.tar", Fault.SLOW, times=1)]
        samples = opened(server, IMPATIENT)
        check(read(reader_of(samples), samples), expected)

    @pytest.mark.parametrize("name", ["archive.json", "counts.json", "view.arrow", "tombstones*"])
    @pytest.mark.parametrize("fault", [503, 403, Fault.TRUNCATE])
    def test_tables_that_cannot_be_had(
        self, root: Path, server: RangeServer, name: str, fault: Any
    ) -> None:
        """Never taken for tables that are not there: of withdrawn samples least of all."""
        withdraw(root)
        server.rules = [Rule(f"*{name}", fault)]
        with pytest.raises(ArchiveError):
            opened(server)

    @pytest.mark.parametrize("name", ["counts.json", "view.arrow", "tombstones.parquet"])
    def test_tables_that_are_damaged(self, root: Path, server: RangeServer, name: str) -> None:
        """An error of ours, with the file's name; when it is mended the view opens."""
        withdraw(root)
        path = next(root.rglob(name))
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ArchiveError, match=name):
            opened(server)
        path.write_bytes(whole)
        assert len(opened(server))

    def test_view_without_its_table(self, root: Path, server: RangeServer) -> None:
        """The view is not whole."""
        next(root.rglob("view.arrow")).unlink()
        with pytest.raises(ArchiveError, match=r"no http.*view\.arrow"):
            opened(server)

    def test_folder_for_views_that_cannot_be_written(
        self, server: RangeServer, tmp_path: Path
    ) -> None:
        """Said so."""
        (tmp_path / "views-of-servers").write_text("a file")
        with pytest.raises(ArchiveError, match="cannot write"):
            opened(server)

    def test_archive_of_a_later_format(self, root: Path, server: RangeServer) -> None:
        """Refused, as in a folder."""
        path = root / "archive.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
        with pytest.raises(ArchiveError, match="format 99"):
            opened(server)

    def test_what_is_not_there_is_refused(self, server: RangeServer) -> None:
        """Archive, view, split; digests of pictures are in figures files, which stay there."""
        with pytest.raises(ArchiveError, match="no archive"):
            open_samples(server.url("none"), "all", settings=QUICK)
        for name in ("none", "../all"):
            with pytest.raises(ConfigError, match="view"):
                open_samples(server.url("archive"), name, settings=QUICK)
        with pytest.raises(ConfigError, match="no split 'val'"):
            opened(server, split="val")
        with pytest.raises(ConfigError, match="local"):
            opened(server, replace(QUICK, verify="sha256"))

    @pytest.mark.parametrize("etag", ["changes", "stays", "none"])
    @pytest.mark.parametrize("change", ["shorter", "longer", "shifted"])
    def test_shard_that_was_replaced(
        self, root: Path, server: RangeServer, expected: Truth, change: str, etag: str
    ) -> None:
        """Between two epochs of a reader, and for a new one: refused, by size, ETag or tar header."""
        path = shards(root)[1]
        if etag != "changes":
            name = path.relative_to(server.folder).as_posix()
            server.etags[name] = '"always"' if etag == "stays" else None
        samples = opened(server)
        reader = reader_of(samples)
        check(read(reader, samples), expected)
        path.write_bytes(changed(path.read_bytes(), change))
        for each in (reader, reader_of(samples)):
            with pytest.raises(ArchiveError, match=f"shard {path.stem}"):
                read(each, samples)

    def test_shard_with_another_etag_of_the_same_layout(
        self, root: Path, server: RangeServer, expected: Truth
    ) -> None:
        """Only the ETag tells."""
        path = shards(root)[0]
        samples = opened(server)
        reader = reader_of(samples)
        check(read(reader, samples), expected)
        server.etags[path.relative_to(server.folder).as_posix()] = '"new"'
        with pytest.raises(ArchiveError, match=f"shard {path.stem}.*ETag"):
            read(reader, samples)

    def test_caption_of_another_length(self, root: Path, server: RangeServer) -> None:
        """As in a folder."""
        row = other_captions(root)
        samples = opened(server)
        with pytest.raises(ArchiveError, match=f"shard {row['shard']}.*{row['key']}"):
            read(reader_of(samples), samples)

    def test_figures_that_were_written_again(self, root: Path, server: RangeServer) -> None:
        """The view is stale; the shard is named."""
        shard = rewrite_figures(root)
        samples = opened(server)
        with pytest.raises(ArchiveError, match=f"shard {shard}.*rewritten"):
            read(reader_of(samples), samples)

    def test_shard_that_is_not_done(self, root: Path, server: RangeServer) -> None:
        """The archive is not whole."""
        path = sorted((root / "done").glob("*.json"))[0]
        path.unlink()
        samples = opened(server)
        with pytest.raises(ArchiveError, match=f"shard {path.stem}.*not whole"):
            read(reader_of(samples), samples)

    def test_view_that_was_made_again_is_fetched_again(
        self, root: Path, server: RangeServer, expected: Truth
    ) -> None:
        """And one that stands is not."""
        opened(server)
        opened(server)
        assert len(server.ranges("*view.arrow")) == 2  # its size, then its bytes
        few = set(list(expected)[::3])
        give_view(root, keep=lambda row: row["key"] in few)
        samples = opened(server)
        check(read(reader_of(samples), samples), {key: expected[key] for key in few})

    def test_copy_of_a_view_that_is_damaged(
        self, server: RangeServer, tmp_path: Path, expected: Truth
    ) -> None:
        """Refused, removed, and fetched again the next time."""
        opened(server)
        copy = next((tmp_path / "views-of-servers").rglob("*.arrow"))
        copy.write_bytes(copy.read_bytes()[:500])
        with pytest.raises(ArchiveError, match=r"view\.arrow"):
            opened(server)
        samples = opened(server)
        check(read(reader_of(samples), samples), expected)

    def test_token_is_sent_to_the_hub_alone(
        self, root: Path, expected: Truth, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not to a server that is none, nor to the one that the hub sends on to."""
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        with (
            range_server(root.parent, host="localhost") as storage,
            range_server(root.parent, redirect=storage.endpoint) as hub,
        ):
            monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
            samples = opened(hub)
            check(read(reader_of(samples), samples), expected)
            assert {each.headers.get("authorization") for each in hub.asked} == {"Bearer hf_secret"}
            assert storage.asked and not any(map(_has_token, storage.asked))
            storage.asked.clear()
            samples = opened(storage)
            read(reader_of(samples), samples)
            assert storage.asked and not any(map(_has_token, storage.asked))
            monkeypatch.setenv("HF_ENDPOINT", storage.endpoint.replace("http", "https"))
            opened(storage)
            assert not any(map(_has_token, storage.asked))

    @pytest.mark.parametrize("word", ["http://me:secret@h/archive", "http://h/archive?key=secret"])
    def test_addresses_that_hold_a_secret(self, word: str) -> None:
        """Refused, and not shown."""
        with pytest.raises(ConfigError, match="may hold a secret") as caught:
            open_samples(word, "all")
        assert "me:" not in str(caught.value) and "key" not in str(caught.value)


def _has_token(asked: Any) -> bool:
    return any("hf_secret" in value for value in asked.headers.values())


class TestBucket:
    """An archive in S3."""

    def test_bucket(self, root: Path, expected: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
        """All samples, through faults that pass; withdrawn ones not; a shard that is gone is named."""
        gone = withdraw(root)
        with moto_bucket(root.parent, "made-archives") as bucket:
            rules = [Rule("*", 503, times=1), Rule("*.tar", Fault.TRUNCATE, times=2)]
            with FaultProxy(bucket.endpoint, rules) as proxy:
                monkeypatch.setenv("AWS_ENDPOINT_URL_S3", bucket.endpoint)
                samples = open_samples("s3://made-archives/archive", "all", settings=QUICK)
                monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
                check(
                    read(reader_of(samples, replace(QUICK, retries=4)), samples),
                    without(expected, gone),
                )
                path = shards(root)[1]
                bucket.delete(path.relative_to(root.parent).as_posix())
                with pytest.raises(ArchiveError, match=f"shard {path.stem}: there is no s3://"):
                    read(reader_of(samples), samples)


class TestElsewhere:
    """An archive whose shards stand at other addresses."""

    @pytest.fixture
    def away(self, root: Path, server: RangeServer) -> Path:
        """The archive's shards in another folder of the server, and in one of this machine."""
        archive = shutil.copytree(
            root, root.parent / "index", ignore=shutil.ignore_patterns("*.tar")
        )
        places = {}
        for number, path in enumerate(shards(root)):
            name = path.relative_to(server.folder).as_posix()
            server.etags[name] = f'"{number}"'
            places[path.stem] = {
                "url": server.url(name) if number else str(path),
                "size": path.stat().st_size,
                "etag": f'"{number}"' if number else str(path.stat().st_mtime_ns),
            }
        (archive / "places.json").write_text(json.dumps({"shards": places}))
        return archive

    def test_read_by_an_index_here_and_there(
        self, away: Path, server: RangeServer, expected: Truth
    ) -> None:
        """The index on this machine, and behind a server."""
        for address in (str(away), server.url("index")):
            samples = open_samples(address, "all", settings=QUICK)
            check(read(reader_of(samples), samples), expected)

    def test_other_etag_is_refused_at_once(self, away: Path, server: RangeServer) -> None:
        """With both of them; a weak one of the same name is the same."""
        name, shard = next((n, Path(n).stem) for n, tag in server.etags.items() if tag == '"1"')
        server.etags[name] = 'W/"1"'
        samples = open_samples(away, "all", settings=QUICK)
        read(reader_of(samples), samples)
        server.etags[name] = '"other"'
        with pytest.raises(ArchiveError, match=rf'shard {shard}.*replaced.*"other".*"1"'):
            read(reader_of(samples), samples)

    def test_a_file_that_was_changed_after_it_was_indexed(self, away: Path, root: Path) -> None:
        """Refused by its time, though it has the same size."""
        path = shards(root)[0]
        os.utime(path, ns=(0, 0))
        samples = open_samples(away, "all", settings=QUICK)
        with pytest.raises(ArchiveError, match=f"shard {path.stem}.*after it was indexed"):
            read(reader_of(samples), samples)

    @pytest.mark.parametrize("form", [b"%o\0", b"%11o ", b"%012o"])
    def test_sizes_as_other_writers_state_them(
        self, away: Path, root: Path, expected: Truth, form: bytes
    ) -> None:
        """Every header that an index takes is taken here."""
        path = shards(root)[0]
        data = bytearray(path.read_bytes())
        with tarfile.open(path) as file:
            for each in file:
                field = (form % each.size).ljust(12, b"\0")
                data[each.offset + 124 : each.offset + 136] = field
        path.write_bytes(data)
        places = json.loads((away / "places.json").read_text())
        places["shards"][path.stem]["etag"] = None
        (away / "places.json").write_text(json.dumps(places))
        samples = open_samples(away, "all", settings=QUICK)
        check(read(reader_of(samples), samples), expected)

    def test_view_of_an_index_that_was_made_again(self, away: Path, server: RangeServer) -> None:
        """The places are those of now, the offsets those of then."""
        shard = rewrite_figures(away)
        samples = open_samples(server.url("index"), "all", settings=QUICK)
        with pytest.raises(ArchiveError, match=f"shard {shard}.*rewritten"):
            read(reader_of(samples), samples)

    @pytest.mark.parametrize("content", ["", "{}", '{"shards": {}}', '{"shards": {"a": 1}}'])
    def test_places_that_say_nothing(self, away: Path, content: str) -> None:
        """Named."""
        (away / "places.json").write_text(content)
        with pytest.raises(ArchiveError, match=r"places\.json"):
            samples = open_samples(away, "all", settings=QUICK)
            read(reader_of(samples), samples)


class TestCache:
    """What was fetched is kept."""

    @pytest.fixture
    def cached(self, tmp_path: Path) -> ReadSettings:
        """Settings with a cache."""
        return replace(QUICK, cache=str(tmp_path / "kept"), gap_kb=0)

    def test_second_epoch_asks_for_nothing(
        self, server: RangeServer, expected: Truth, cached: ReadSettings
    ) -> None:
        """Nor does another reader, in another order."""
        samples = opened(server, cached)
        reader = reader_of(samples)
        check(read(reader, samples), expected)
        first = len(server.ranges())
        check(read(reader, samples, epochs=2, seed=5, batch=5), expected, 2)
        check(read(reader_of(samples), samples, seed=7, batch=11), expected)
        assert len(server.ranges()) == first > 0

    def test_only_what_is_missing_is_asked_for(
        self, server: RangeServer, root: Path, cached: ReadSettings
    ) -> None:
        """Ranges of another epoch overlap with those of this one: the gaps come, once, and count once."""
        name = shards(root)[0].relative_to(server.folder).as_posix()
        place = files.Place(shard="a", address=server.url(name), size=None)
        kept = CachedFiles(Files(cached), cached)
        data = shards(root)[0].read_bytes()
        asked = [(0, 1000), (2000, 3000), (4000, 5000), (500, 4500), (0, 5000), (900, 6000)]
        assert all(bytes(kept.read(place, *each)) == data[slice(*each)] for each in asked)
        assert server.ranges() == [*asked[:3], (1000, 2000), (3000, 4000), (5000, 6000)]
        assert int((Path(str(cached.cache)) / "bytes").read_text()) == 6000

    def test_threads_are_all_counted(
        self, server: RangeServer, root: Path, cached: ReadSettings
    ) -> None:
        """Of one process."""
        name = shards(root)[0].relative_to(server.folder).as_posix()
        place = files.Place(shard="a", address=server.url(name), size=None)
        kept = CachedFiles(Files(cached), cached)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda at: kept.read(place, at, at + 10), range(0, 6000, 20)))
        assert int((Path(str(cached.cache)) / "bytes").read_text()) == 3000

    def test_full_cache_keeps_what_it_has(
        self, server: RangeServer, expected: Truth, cached: ReadSettings
    ) -> None:
        """And asks for the rest, epoch after epoch."""
        settings = replace(cached, cache_gb=5e-5, piece_mb=0.01)
        samples = opened(server, settings)
        asked = []
        for _ in range(3):
            server.asked.clear()
            check(read(reader_of(samples), samples, batch=100), expected)
            asked.append(sum(stop - start for start, stop in filter(None, server.ranges())))
        assert asked[0] - asked[1] > 2e4 and asked[1] == asked[2] > 0
        kept = sum(path.stat().st_blocks for path in Path(str(cached.cache)).glob("*.data")) * 512
        assert kept < 5e4 + 4096 * 2 * 20

    @pytest.mark.parametrize(
        "harm", ["zeros", "holes", "shorter", "no notes", "torn", "garbage", "cut", "count"]
    )
    def test_damaged_cache_gives_no_wrong_bytes(
        self, server: RangeServer, expected: Truth, cached: ReadSettings, harm: str
    ) -> None:
        """A writer that was killed, a machine that went down: what is damaged is fetched again."""
        part = opened(server, cached, split="test")
        read(reader_of(part), part)
        folder = Path(str(cached.cache))
        for path in sorted(folder.glob("*.data")):
            damage_data(path, harm)
        for path in sorted(folder.glob("*.notes")):
            damage_notes(path, harm)
        if harm == "count":
            (folder / "bytes").write_bytes(bytes(31))
        samples = opened(server, cached)
        check(read(reader_of(samples), samples), expected)
        check(read(reader_of(samples), samples, seed=3), expected)
        server.asked.clear()
        check(read(reader_of(samples), samples, seed=3), expected)
        assert not server.ranges()

    def test_shard_of_another_version_is_another_shard(
        self, root: Path, server: RangeServer, expected: Truth, cached: ReadSettings
    ) -> None:
        """Bytes of before are not given for it."""
        samples = opened(server, cached)
        read(reader_of(samples), samples)
        for path in sorted((root / "done").glob("*.json")):
            done = json.loads(path.read_text())
            for each in done["outputs"]:
                if each["path"].startswith("shards/"):
                    each["sha256"] = "1" * 64
            path.write_text(json.dumps(done))
        server.asked.clear()
        again = opened(server, cached)
        check(read(reader_of(again), again), expected)
        assert server.ranges()

    @pytest.mark.parametrize("call", ["pwrite", "write"])
    def test_disk_that_is_full(
        self,
        server: RangeServer,
        expected: Truth,
        cached: ReadSettings,
        monkeypatch: pytest.MonkeyPatch,
        call: str,
    ) -> None:
        """Half of what is written arrives, then nothing: the keeping ends, the reading does not."""
        real, left = getattr(os, call), [2]

        def failing(handle: int, data: bytes, *place: int) -> int:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
            return int(real(handle, bytes(data)[: len(data) // 2], *place))

        samples = opened(server, cached)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            check(read(reader_of(samples), samples), expected)
        check(read(reader_of(samples), samples, seed=2), expected)

    def test_many_shards_keep_few_files_open(
        self,
        server: RangeServer,
        expected: Truth,
        cached: ReadSettings,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A limit of the system is not met."""
        monkeypatch.setattr("biomedica.stream.files._OPEN_FILES", 1)
        samples = opened(server, cached)
        reader = reader_of(samples)
        for seed in range(2):
            check(read(reader, samples, seed=seed), expected)
        kept = str(cached.cache)
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        assert (
            sum(str(link.readlink()).startswith(kept) for link in links if link.is_symlink()) <= 4
        )

    @pytest.mark.slow
    def test_processes_share_it(
        self, server: RangeServer, expected: Truth, cached: ReadSettings
    ) -> None:
        """Two at once, each in its own order; a third asks for nothing."""
        words = [sys.executable, __file__, server.url("archive"), str(cached.cache)]
        running = [subprocess.Popen([*words, str(seed)], stdout=subprocess.PIPE) for seed in (1, 2)]
        for process in running:
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 0
            assert int(output) == 2 * len(expected)
        samples = opened(server, cached)
        server.asked.clear()
        check(read(reader_of(samples), samples), expected)
        assert not server.ranges()


def damage_data(path: Path, harm: str) -> None:
    """Lose the content of a file of the cache, or some of it."""
    data = path.read_bytes()
    if harm == "zeros":
        path.write_bytes(bytes(len(data)))
    elif harm == "holes":
        pieces = [data[i : i + 512] for i in range(0, len(data), 512)]
        path.write_bytes(b"".join(bytes(512) if i % 5 == 2 else p for i, p in enumerate(pieces)))
    elif harm == "shorter":
        path.write_bytes(data[: len(data) // 2])


def damage_notes(path: Path, harm: str) -> None:
    """Lose the list of ranges, or some of it."""
    notes = path.read_bytes()
    if harm == "no notes":
        path.unlink()
    elif harm == "torn":
        path.write_bytes(notes + notes[:7])
    elif harm == "garbage":
        path.write_bytes(bytes(range(256)) + notes)
    elif harm == "cut":
        path.write_bytes(notes[: len(notes) - 5])


def main(address: str, cache: str, seed: str) -> None:
    """Read two epochs with a cache; print how many samples came."""
    samples = open_samples(address, "all", settings=replace(QUICK, cache=cache, gap_kb=0))
    rows = read(reader_of(samples), samples, epochs=2, seed=int(seed))
    assert all(jpg[:2] == b"\xff\xd8" and jpg[-2:] == b"\xff\xd9" for _, jpg, _, _ in rows)
    sys.stdout.write(str(len(rows)))


if __name__ == "__main__":
    main(*sys.argv[1:])
