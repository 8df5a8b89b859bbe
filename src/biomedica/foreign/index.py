"""Index: look the tars up, read what is new, note where everything is.

A tar is one task of the run engine: a process of its own, ended when a picture takes too long, started
again when it dies. A tar whose done file stands and whose size and ETag are what they were is left alone.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from struct import Struct
from struct import error as StructError  # noqa: N812
from typing import Self

import duckdb
import pyarrow.dataset as ds

from biomedica import __version__
from biomedica.archive import FORMAT_VERSION, Archive, Done, Place
from biomedica.errors import ArchiveError, ConfigError, SourceError
from biomedica.features import figures_path
from biomedica.foreign.addresses import expand, new_names
from biomedica.foreign.fields import article_row
from biomedica.foreign.labels import write_labels
from biomedica.foreign.requests import hub_token, shown
from biomedica.foreign.samples import Group, Row, groups, read_sample, reject
from biomedica.foreign.streams import look_up, open_bytes
from biomedica.foreign.tables import Tables, table_names
from biomedica.foreign.tars import TarError
from biomedica.images import ImageSettings
from biomedica.records import Reason, Reject, Stage
from biomedica.run import LeftOut, RunSettings, run_tasks, trace_path
from biomedica.run.engines import Engine
from biomedica.run.guard import Guard
from biomedica.sources import SourceSettings
from biomedica.sources.store import MEGABYTE

KIND = "index"
"""`kind` in the `archive.json` of an archive whose samples stand elsewhere."""
Tell = Callable[[int, int, int, int], None]
"""Gets bytes done, bytes in all, samples and rejects of what is read; from another thread, once a second."""
_FORM = 1
"""Of what is taken from a tar. Another one makes shards be read again."""
_STATE = Struct("<QQQ")
_MOST_AWAY = 3
"""Tars one after the other that do not arrive, before the rest is given up."""
_SECONDS = 0.5
"""Between two notes of how far a task is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """What an index came to: over the whole archive."""

    archive: Path
    num_tars: int
    num_bytes: int
    """Of the tars, where they stand."""
    num_read: int
    """Tars read by this call; the others stood."""
    num_samples: int
    num_articles: int
    """Summed over the shards: one that stands in two counts twice."""
    num_withdrawn: int
    """Samples whose key stands in an earlier shard too; no reader gives them."""
    rejects: dict[str, int]
    labels: dict[str, int]
    """Samples by status of the label run that the tars' JSON gave; empty where it states none."""
    counts: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What an index would read."""

    num_tars: int
    num_bytes: int
    num_waiting: int
    """Tars that are new or have changed."""
    num_waiting_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexJob:
    """What reading a tar needs besides its shard's name."""

    archive: Path
    places: dict[str, Place]
    source: SourceSettings
    images: ImageSettings
    run: RunSettings
    with_text: bool
    token: str | None = field(repr=False)

    def for_shard(self, shard: str) -> IndexJob:
        """The job with the place of one shard alone."""
        return replace(self, places={shard: self.places[shard]})

    def digest(self) -> str:
        """Changes with whatever decides about the tables of a tar."""
        decisive = (FORMAT_VERSION, _FORM, sorted(asdict(self.images).items()), self.with_text)
        return sha256(repr(decisive).encode()).hexdigest()


def forecast(
    words: Sequence[str],
    archive: Archive,
    source: SourceSettings,
    images: ImageSettings,
    *,
    with_text: bool = False,
) -> Outlook:
    """Ask for every tar's size and ETag; nothing is written. Raises as `index` does."""
    job, waiting = _prepare(words, archive, source, images, RunSettings(), with_text)
    return Outlook(
        num_tars=len(job.places),
        num_bytes=sum(place.size for place in job.places.values()),
        num_waiting=len(waiting),
        num_waiting_bytes=sum(job.places[shard].size for shard in waiting),
    )


def index(
    words: Sequence[str],
    archive: Archive,
    source: SourceSettings,
    images: ImageSettings,
    run: RunSettings,
    engine: Engine,
    *,
    with_text: bool = False,
    tell: Tell = lambda done, total, samples, rejects: None,
) -> Index:
    """Make the folder of an archive whose samples stay in the tars that the words name.

    Tars that were indexed by an earlier call stay in it; of those that are named, new and changed ones are
    read. Same tars, same tables. with_text   keep full texts in the articles tables

    Raises `ConfigError` for words that cannot be meant, `SourceError` where a tar cannot be found;
    `ArchiveError`, when all others are read, with the names of those that are damaged or changed meanwhile.
    """
    archive.create()
    if archive.info_path.exists() and archive.info().get("kind") != KIND:
        raise ConfigError(
            f"{archive.root} holds shards of its own; give `biomedica index` another folder"
        )
    with archive.lock():
        job, waiting = _prepare(words, archive, source, images, run, with_text)
        _write_info(archive, words, job, {})
        _forget(archive, waiting)
        archive.set_places(job.places)
        with _Watch(job, waiting, tell) as watch:
            failed = []
            for ended in run_tasks(engine, archive, waiting, index_task, job.for_shard, run):
                if isinstance(ended, Done):
                    watch.ended(ended)
                else:
                    failed.append(ended)
                    _check_source(failed)
        num_withdrawn = _withdraw_repeated(archive)
        labels = write_labels(archive)
        found = _counted(archive, job.places, len(waiting), num_withdrawn, labels)
        _write_info(archive, words, job, found.counts)
    if failed:
        said = "\n  ".join(each.message for each in failed)
        raise ArchiveError(
            f"{len(failed)} of {len(waiting)} tars could not be indexed, the others are:\n  {said}"
        )
    return found


def _check_source(failed: Sequence[Failed]) -> None:
    """Raise `SourceError` when one tar after the other does not arrive: the rest would not either."""
    if len(failed) >= _MOST_AWAY and all(each.is_away for each in failed[-_MOST_AWAY:]):
        raise SourceError(failed[-1].message)


def _prepare(
    words: Sequence[str],
    archive: Archive,
    source: SourceSettings,
    images: ImageSettings,
    run: RunSettings,
    with_text: bool,
) -> tuple[IndexJob, list[str]]:
    """The job, and the shards that are to be read, in order."""
    token = hub_token()
    urls = expand(words, source)
    if not urls:
        raise ConfigError("name the tars to index: files, folders, http(s):// or s3:// addresses")
    old = archive.places()
    with ThreadPoolExecutor(min(source.connections, 8)) as pool:
        try:
            found = list(pool.map(lambda url: look_up(url, source, token), urls))
        finally:
            pool.shutdown(cancel_futures=True)
    names = {place.url: shard for shard, place in old.items()}
    names |= new_names([url for url in urls if url not in names], old)
    named = {names[place.url]: place for place in found}
    places = dict(sorted((old | named).items()))
    job = IndexJob(
        archive=archive.root,
        places=places,
        source=source,
        images=images,
        run=run,
        with_text=with_text,
        token=token,
    )
    done, digest = archive.done(), job.digest()

    def stands(shard: str) -> bool:
        each = done.get(shard)
        if each is None or (each.inputs, each.settings) != (places[shard].digest, digest):
            return False
        return all((archive.root / file.path).is_file() for file in each.outputs)

    return job, [shard for shard in places if not stands(shard)]


def _write_info(
    archive: Archive, words: Sequence[str], job: IndexJob, counts: dict[str, int]
) -> None:
    old = archive.info() if archive.info_path.exists() else {}
    said = dict.fromkeys([*old.get("words", []), *(shown(word) for word in words)])
    archive.write_info(
        {
            "kind": KIND,
            "source": " ".join(said),
            "words": list(said),
            "snapshot": None,
            "tars": len(job.places),
            "bytes": sum(place.size for place in job.places.values()),
            "settings": {
                "images": asdict(job.images),
                "index": {"with_text": job.with_text},
            },
            "counts": counts or old.get("counts", {}),
            "biomedica": __version__,
        }
    )


def _forget(archive: Archive, shards: Sequence[str]) -> None:
    """Take back what is known of tars that are read again: their offsets may lead to other bytes."""
    for shard in shards:
        archive.done_path(shard).unlink(missing_ok=True)
        _state_path(archive.root, shard).unlink(missing_ok=True)
        for name in table_names(shard).values():
            (archive.root / name).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Failed:
    """A tar that could not be indexed."""

    message: str
    is_away: bool
    """Its bytes did not arrive; else they are not what they should be."""


def index_task(job: IndexJob, shard: str, left_out: frozenset[LeftOut]) -> Done | Failed:
    """Read one tar, write its tables, record it as done. Safe to repeat; same bytes, same tables."""
    try:
        return _index_task(job, shard, left_out)
    except (TarError, SourceError) as error:
        trace_path(job.archive, shard).unlink(missing_ok=True)
        return Failed(str(error), isinstance(error, SourceError))


def _index_task(job: IndexJob, shard: str, left_out: frozenset[LeftOut]) -> Done:
    started, cpu_started = time.monotonic(), time.process_time()
    archive = Archive(job.archive)
    guard = Guard(trace_path(job.archive, shard), job.run.item_seconds, job.run.memory_mb)
    reader = _Reader(job, shard, guard, {each.item: each.reason for each in left_out})
    with guard.limits(), Tables(job.archive, shard) as tables:
        reader.read(tables)
        counts = tables.counts() | dict(reader.counts)
        outputs = tables.commit()
    done = Done(
        task=shard,
        group=shard.rpartition("-")[0],
        inputs=job.places[shard].digest,
        settings=job.digest(),
        counts=counts,
        rejects=dict(sorted(reader.rejects.items())),
        outputs=outputs,
        seconds=round(time.monotonic() - started, 3),
        cpu_seconds=round(time.process_time() - cpu_started, 3),
    )
    archive.write_done(done)
    guard.close()
    return done


class _Reader:
    """The work of one task, sample by sample."""

    def __init__(
        self, job: IndexJob, shard: str, guard: Guard, left_out: dict[str, Reason]
    ) -> None:
        self._job, self._shard, self._guard = job, shard, guard
        self._left_out = left_out
        self.counts: Counter[str] = Counter(mentions=0, source_bytes=0, other_pictures=0)
        self.rejects: Counter[str] = Counter()

    def read(self, tables: Tables) -> None:
        """Give every sample of the tar its row or its reject."""
        job, taken = self._job, set[str]()
        stream = open_bytes(self._shard, job.places[self._shard], job.source, job.token)
        with closing(stream), _state_file(job.archive, self._shard) as note:
            for group in groups(self._shard, stream, job.source.max_media_mb * MEGABYTE):
                self._add(tables, self._made(group, taken))
                taken.add(group.key)
                counts = tables.counts()
                note(stream.position, counts["pairs"], counts["rejects"])
            stream.check()

    def _made(self, group: Group, taken: set[str]) -> Row | Reject:
        if group.key in taken:
            detail = "the key stands in the shard before"
            return reject(group.key, Stage.PARSE, Reason.METADATA_BAD, detail)
        item = f"{self._shard}/{group.key}"[:200]
        if item in self._left_out:
            return reject(group.key, Stage.RUN, self._left_out[item], "its picture")

        def guarded() -> AbstractContextManager[None]:
            return self._guard.item(item)

        job = self._job
        return read_sample(self._shard, group, job.images, guarded, with_text=job.with_text)

    def _add(self, tables: Tables, made: Row | Reject) -> None:
        if isinstance(made, Reject):
            self.rejects[made.reason.value] += 1
            tables.refuse(made)
            return
        tables.add(made, article_row(made.facts) if tables.is_new(made) else None)
        self.counts["mentions"] += len(made.columns["mentions"])
        self.counts["source_bytes"] += made.columns["jpg_size"]
        self.counts["other_pictures"] += made.is_other_picture


def _state_path(archive: Path, shard: str) -> Path:
    return archive / "done" / f".{shard}.state"


@contextmanager
def _state_file(archive: Path, shard: str) -> Iterator[Callable[[int, int, int], None]]:
    """Note how far a task is, for the process that shows it."""
    path = _state_path(archive, shard)
    handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    last = 0.0

    def note(*numbers: int) -> None:
        nonlocal last
        if time.monotonic() - last > _SECONDS:
            last = time.monotonic()
            os.pwrite(handle, _STATE.pack(*numbers), 0)

    try:
        yield note
    finally:
        os.close(handle)
        path.unlink(missing_ok=True)


class _Watch:
    """Tells how far the tasks are: what those that ended came to, and what the others note."""

    def __init__(self, job: IndexJob, waiting: Sequence[str], tell: Tell) -> None:
        self._job, self._tell = job, tell
        self._total = sum(job.places[shard].size for shard in waiting)
        self._ended = [0, 0, 0]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def ended(self, done: Done) -> None:
        """Count a task that ended."""
        size = self._job.places[done.task].size
        found = size, done.counts["pairs"], done.counts["rejects"]
        self._ended = [a + b for a, b in zip(self._ended, found, strict=True)]

    def _run(self) -> None:
        while not self._over.wait(1):
            sums = self._ended
            for path in sorted((self._job.archive / "done").glob(".*.state")):
                with suppress(OSError, StructError):
                    found = _STATE.unpack(path.read_bytes())
                    sums = [a + b for a, b in zip(sums, found, strict=True)]
            self._tell(sums[0], self._total, sums[1], sums[2])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if kind is None and self._total:
            self._tell(self._ended[0], self._total, self._ended[1], self._ended[2])


def _withdraw_repeated(archive: Archive) -> int:
    """Of samples with one key in several shards, withdraw all but the first shard's; how many."""
    files = [str(figures_path(archive, shard)) for shard in sorted(archive.done())]
    if not files:
        return 0
    with closing(duckdb.connect()) as connection:
        connection.register("figures", ds.dataset(files, format="parquet"))
        rows = connection.execute(
            "SELECT key, shard, pmcid, version FROM figures SEMI JOIN "
            "(SELECT key FROM figures GROUP BY key HAVING count(*) > 1) USING (key) "
            "QUALIFY row_number() OVER (PARTITION BY key ORDER BY shard) > 1"
        ).fetchall()
    about = {"reason": "repeated_key", "since": None}
    names = ("key", "shard", "pmcid", "version")
    archive.set_tombstones([dict(zip(names, row, strict=True)) | about for row in rows])
    return len(rows)


def _counted(
    archive: Archive,
    places: dict[str, Place],
    num_read: int,
    num_withdrawn: int,
    labels: dict[str, int],
) -> Index:
    counts, rejects = Counter[str](), Counter[str]()
    for done in archive.done().values():
        counts.update(done.counts)
        rejects.update(done.rejects)
    counts["pairs"] -= num_withdrawn
    return Index(
        archive=archive.root,
        num_tars=len(places),
        num_bytes=sum(place.size for place in places.values()),
        num_read=num_read,
        num_samples=counts["pairs"],
        num_articles=counts["articles"],
        num_withdrawn=num_withdrawn,
        rejects=dict(sorted(rejects.items())),
        labels=labels,
        counts=dict(sorted(counts.items())),
    )
