"""One task: a list of articles becomes a shard. Fetch, parse, check pictures, pair, write.

Nothing is lost in silence: every picture that the XML names becomes a sample or a reject, and the
counts are compared before an article is done with.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from lxml import etree

from biomedica import catalog, enrich
from biomedica.archive import FORMAT_VERSION, Archive, Done
from biomedica.errors import ConfigError, SourceError, TaskError
from biomedica.images import SUFFIXES, ImageSettings, RefusedError, read_picture
from biomedica.parse import NotAnArticleError, parse_article
from biomedica.parse.facts import licence_code
from biomedica.plan import ShardSettings, read_task
from biomedica.records import (
    Article,
    ArticleRef,
    Figure,
    Graphic,
    Media,
    Picture,
    Reason,
    Reject,
    Sample,
    Stage,
    sample_key,
)
from biomedica.run import LeftOut, RunSettings, trace_path
from biomedica.run.guard import Guard
from biomedica.shards import ShardWriter
from biomedica.sources import FetchError, Source, SourceSettings, open_source

_LOCK_TRIES = 100
"""Tenths of a second: a worker whose runner was killed needs a moment to end."""
_AHEAD = 8
"""Articles whose files are under way while one is worked on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every task of a build shares."""

    archive: Path
    source: str
    source_settings: SourceSettings
    images: ImageSettings
    shards: ShardSettings
    run: RunSettings
    inputs: dict[str, str] = field(default_factory=dict)
    """Digest of the articles of each task."""

    def for_task(self, task: str) -> Job:
        """The job with the digest of one task alone."""
        return replace(self, inputs={task: self.inputs[task]})

    def settings_digest(self) -> str:
        """Changes with whatever decides about the bytes of a shard."""
        return settings_digest(self.images, self.shards)


def settings_digest(images: ImageSettings, shards: ShardSettings) -> str:
    """Digest of the settings and the format that decide about the bytes of a shard."""
    decisive = (FORMAT_VERSION, sorted(asdict(images).items()), sorted(asdict(shards).items()))
    return hashlib.sha256(repr(decisive).encode()).hexdigest()


@dataclass(slots=True)
class _Fetched:
    """An article with what was fetched of it so far."""

    ref: ArticleRef
    article: Article | None = None
    files: dict[str, Future[bytes] | bytes | FetchError] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    fetch_failed: bool = False
    """Its XML could not be fetched."""


def build_task(job: Job, task: str, left_out: frozenset[LeftOut]) -> Done:
    """Build one shard and record it as done. Safe to repeat; the same inputs give the same bytes."""
    with _only_one(job.archive, task):
        return _build_task(job, task, left_out)


def _build_task(job: Job, task: str, left_out: frozenset[LeftOut]) -> Done:
    started, cpu_started = time.monotonic(), time.process_time()
    archive = Archive(job.archive)
    source = open_source(job.source, job.source_settings)
    refs = _refs_of(archive, task)
    group = task.rpartition("-")[0]
    guard = Guard(trace_path(job.archive, task), job.run.item_seconds, job.run.memory_mb)
    worker = _Worker(job, source, guard, {item.item: item.reason for item in left_out})
    with guard.limits(), ShardWriter(job.archive, group, task) as shard:
        mesh = enrich.mesh_terms(job.archive / "pubmed", [r.pmid for r in refs if r.pmid])
        for fetched in worker.articles(refs):
            worker.write(fetched, shard, mesh.get(fetched.ref.pmid or 0, ()))
        worker.check_any(len(refs))
        outputs = shard.commit()
    done = Done(
        task=task,
        group=group,
        inputs=job.inputs.get(task, ""),
        settings=job.settings_digest(),
        counts=shard.counts() | dict(worker.counts),
        rejects=dict(sorted(worker.rejects.items())),
        outputs=tuple(outputs),
        seconds=round(time.monotonic() - started, 3),
        cpu_seconds=round(time.process_time() - cpu_started, 3),
    )
    archive.write_done(done)
    guard.close()
    return done


@contextmanager
def _only_one(archive: Path, task: str) -> Iterator[None]:
    """Hold a task: two processes that write one shard would mix their bytes."""
    path = archive / "done" / f".{task}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        for _ in range(_LOCK_TRIES):
            with suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.1)
        else:
            raise ConfigError(f"another process builds {task}; wait for it, or stop it")
        yield
    finally:
        os.close(handle)


def _refs_of(archive: Archive, task: str) -> list[ArticleRef]:
    planned = read_task(archive.plan_path, task)
    found = list(catalog.read_refs(archive.root / "catalog", [(n, v) for n, v, _ in planned]))
    if [content for _, content in found] != [content for _, _, content in planned]:
        raise TaskError(
            f"task {task}: the catalog is newer than the plan; run `biomedica build` on the archive again"
        )
    return [ref for ref, _ in found]


class _Worker:
    """The work of one task, article by article."""

    def __init__(self, job: Job, source: Source, guard: Guard, left_out: dict[str, Reason]) -> None:
        self._job = job
        self._source = source
        self._guard = guard
        self._left_out = left_out
        self._failures = 0
        self.counts: Counter[str] = Counter(
            figures=0, graphics=0, mentions=0, source_bytes=0, licence_disagreements=0
        )
        self.rejects: Counter[str] = Counter()

    def articles(self, refs: Iterable[ArticleRef]) -> Iterator[_Fetched]:
        """Articles parsed, with their files there (local sources) or under way, in order."""
        if self._source.is_local:
            for ref in refs:
                yield self._parse(ref, self._read_xml(ref))
            return
        with (
            ThreadPoolExecutor(self._job.source_settings.connections) as pool,
            closing(self._fetch_ahead(pool, iter(refs))) as ahead,
        ):
            yield from ahead

    def _fetch_ahead(
        self, pool: ThreadPoolExecutor, refs: Iterator[ArticleRef]
    ) -> Generator[_Fetched]:
        xml: deque[tuple[ArticleRef, Future[bytes | FetchError]]] = deque()
        ready: deque[_Fetched] = deque()
        try:
            while True:
                while len(xml) < 2 * _AHEAD and (ref := next(refs, None)) is not None:
                    xml.append((ref, pool.submit(self._read_xml, ref)))
                if xml and len(ready) < _AHEAD:
                    ref, future = xml.popleft()
                    fetched = self._parse(ref, future.result())
                    for media in self._chosen(fetched):
                        fetched.files[media.name] = pool.submit(self._read_media, ref, media)
                    ready.append(fetched)
                elif ready:
                    yield ready.popleft()
                else:
                    return
        finally:
            pool.shutdown(cancel_futures=True)

    def _read_xml(self, ref: ArticleRef) -> bytes | FetchError:
        try:
            return self._source.read(ref, ref.xml, missing=Reason.XML_MISSING)
        except FetchError as error:
            return error
        except MemoryError:
            return FetchError(Reason.MEMORY, "it needs more than the limit")

    def _read_media(self, ref: ArticleRef, media: Media) -> bytes:
        try:
            return self._source.read(ref, media, missing=Reason.MEDIA_MISSING)
        except MemoryError:
            raise FetchError(Reason.MEMORY, "it needs more than the limit") from None

    def _parse(self, ref: ArticleRef, xml: bytes | FetchError) -> _Fetched:
        fetched = _Fetched(ref)
        if isinstance(xml, FetchError):
            fetched.fetch_failed = xml.reason is Reason.FETCH_FAILED
            fetched.rejects.append(_reject(ref, ref.name, Stage.FETCH, xml.reason, xml.detail))
            return fetched
        if ref.name in self._left_out:
            reason = self._left_out[ref.name]
            fetched.rejects.append(_reject(ref, ref.name, Stage.RUN, reason, "its XML"))
            return fetched
        try:
            with self._guard.item(ref.name):
                fetched.article = parse_article(xml)
        except NotAnArticleError as error:
            reason, detail = Reason.NOT_AN_ARTICLE, str(error)
        except etree.XMLSyntaxError as error:
            is_short = error.code == etree.ErrorTypes.ERR_NO_MEMORY
            reason, detail = Reason.MEMORY if is_short else Reason.XML_BAD, str(error)
        except MemoryError:
            reason, detail = Reason.MEMORY, "its XML needs more than the limit"
        else:
            return fetched
        fetched.rejects.append(_reject(ref, ref.name, Stage.PARSE, reason, detail[:200]))
        return fetched

    def _chosen(self, fetched: _Fetched) -> Iterator[Media]:
        """The files that the article's samples need, each once."""
        if fetched.article is None:
            return
        shelf = Shelf(fetched.ref)
        found = {}
        for figure in fetched.article.figures:
            if sample_caption(figure, None) is not None or any(g.caption for g in figure.graphics):
                for graphic in figure.graphics:
                    if (media := shelf.find(graphic)) is not None and is_picture(media.name):
                        found[media.name] = media
        yield from found.values()

    def write(self, fetched: _Fetched, shard: ShardWriter, mesh: tuple[str, ...]) -> None:
        """Write an article's pairs, its row and its rejects; check that nothing is unaccounted for."""
        ref, article = fetched.ref, fetched.article
        num_pairs = num_due = 0
        for reject in fetched.rejects:
            self._refuse(reject, shard)
        if article is not None:
            shelf, taken = Shelf(ref), set[str]()
            for figure in article.figures:
                num_due += max(1, len(figure.graphics))
                for made in self._figure(fetched, article, figure, shelf, taken, mesh):
                    if isinstance(made, Reject):
                        num_due -= 1
                        self._refuse(made, shard)
                    else:
                        num_pairs += 1
                        shard.add_sample(made)
            if num_pairs != num_due:
                raise AssertionError(f"{ref.name}: {num_due} pictures due, {num_pairs} written")
            shard.add_article(ref, article, mesh, num_pairs)
            self._count(ref, article)
        elif not fetched.rejects:
            raise AssertionError(f"{ref.name} left neither an article nor a reject")
        self._check_source(fetched)

    def _count(self, ref: ArticleRef, article: Article) -> None:
        self.counts["figures"] += len(article.figures)
        self.counts["graphics"] += sum(len(figure.graphics) for figure in article.figures)
        self.counts["mentions"] += sum(len(figure.mentions) for figure in article.figures)
        stated = licence_code(article.licence_url, article.licence_text)
        if stated and ref.license_code and stated != ref.license_code:
            self.counts["licence_disagreements"] += 1

    def _refuse(self, reject: Reject, shard: ShardWriter) -> None:
        self.rejects[reject.reason.value] += 1
        shard.add_reject(reject)

    def _figure(
        self,
        fetched: _Fetched,
        article: Article,
        figure: Figure,
        shelf: Shelf,
        taken: set[str],
        mesh: tuple[str, ...],
    ) -> Iterator[Sample | Reject]:
        ref = fetched.ref
        name = f"{ref.name}/{figure.figure_id or f'#{figure.position}'}"
        if not figure.graphics:
            yield _reject(ref, name, Stage.PARSE, Reason.NO_GRAPHIC, figure.label or "")
        for position, graphic in enumerate(figure.graphics):
            caption = sample_caption(figure, graphic)
            if caption is None:
                yield _reject(ref, name, Stage.PARSE, Reason.NO_CAPTION, graphic.href[:200])
                continue
            media = shelf.find(graphic)
            found = self._picture(fetched, graphic, media)
            if isinstance(found, Reject) or media is None:
                assert isinstance(found, Reject)
                yield found
                continue
            yield Sample(
                key=sample_key(ref, catalog.picture_stem(media.name) or media.name, taken),
                ref=ref,
                article=article,
                figure=figure,
                graphic_position=position,
                file_name=media.name,
                caption=caption,
                mesh_terms=mesh,
                picture=found,
            )

    def _picture(
        self, fetched: _Fetched, graphic: Graphic, media: Media | None
    ) -> Picture | Reject:
        ref = fetched.ref
        if media is None:
            name = f"{ref.name}/{graphic.href[:200]}"
            return _reject(
                ref, name, Stage.FETCH, Reason.MEDIA_MISSING, "the source lists no such file"
            )
        item = f"{ref.name}/{media.name}"
        if not is_picture(media.name):
            return _reject(ref, item, Stage.IMAGES, Reason.FORMAT_REFUSED, "by its name")
        if item in self._left_out:
            return _reject(ref, item, Stage.RUN, self._left_out[item], "its picture")
        try:
            data = self._bytes(fetched, media)
        except FetchError as error:
            return _reject(ref, item, Stage.FETCH, error.reason, error.detail)
        try:
            with self._guard.item(item):
                picture = read_picture(data, self._job.images, media.md5)
        except RefusedError as error:
            return _reject(ref, item, Stage.IMAGES, error.reason, error.detail)
        self.counts["source_bytes"] += len(data)
        return picture

    def _bytes(self, fetched: _Fetched, media: Media) -> bytes:
        found = fetched.files.get(media.name)
        if isinstance(found, Future):
            return found.result()
        return self._read_media(fetched.ref, media)

    def check_any(self, num_articles: int) -> None:
        """Raise `SourceError` where not one article of the task arrived."""
        if num_articles > 1 and self._failures == num_articles:
            raise SourceError(
                f"none of {num_articles} articles could be fetched from {self._source.uri}; "
                "run the same command when it is back"
            )

    def _check_source(self, fetched: _Fetched) -> None:
        self._failures = self._failures + 1 if fetched.fetch_failed else 0
        if self._failures >= self._job.source_settings.max_failures_in_a_row:
            raise SourceError(
                f"{self._failures} articles in a row could not be fetched from {self._source.uri}; the "
                f"last was {fetched.ref.name}. What is done stays: run the same command when it is back"
            )


class Shelf:
    """The files that a source lists for one article, found by what its XML calls them."""

    def __init__(self, ref: ArticleRef) -> None:
        self._by_name: dict[str, Media] = {}
        self._by_stem: dict[str, Media] = {}
        for media in sorted(ref.media, key=_preference):
            base = media.name.rsplit("/", 1)[-1]
            self._by_name.setdefault(base, media)
            self._by_name.setdefault(base.lower(), media)
            if stem := catalog.picture_stem(base):
                self._by_stem.setdefault(stem, media)
                self._by_stem.setdefault(stem.lower(), media)

    def find(self, graphic: Graphic) -> Media | None:
        """The file of a graphic: its own name, the same name in another picture format, then the same
        for its alternates; last a file that is no picture."""
        bases = [href.rsplit("/", 1)[-1] for href in (graphic.href, *graphic.alternates)]
        for base in bases:
            for name in (base, base.lower()):
                exact = self._by_name.get(name)
                if exact is not None and is_picture(exact.name):
                    return exact
                stem = catalog.picture_stem(name) or name
                if (found := self._by_stem.get(stem) or self._by_stem.get(_bare(name))) is not None:
                    return found
        return next((self._by_name[base] for base in bases if base in self._by_name), None)


def _bare(name: str) -> str:
    """A name without a suffix of vector formats (their pictures are often there as JPEG too)."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and suffix.lower() in ("svg", "eps", "pdf", "ai") else name


def _preference(media: Media) -> tuple[int, str]:
    suffix = next(
        (i for i, s in enumerate(SUFFIXES) if media.name.lower().endswith(s)), len(SUFFIXES)
    )
    return suffix, media.name


def is_picture(name: str) -> bool:
    """Whether a file may be a picture, by its name."""
    return name.lower().endswith(SUFFIXES)


def sample_caption(figure: Figure, graphic: Graphic | None) -> str | None:
    """The figure's caption, else its group's; a graphic's own caption is added to it."""
    caption = figure.caption or figure.group_caption
    own = graphic.caption if graphic is not None else None
    return f"{caption} {own}" if caption and own else caption or own


def _reject(ref: ArticleRef, key: str, stage: Stage, reason: Reason, detail: str) -> Reject:
    return Reject(
        key=key, stage=stage, reason=reason, detail=detail, pmcid=ref.pmcid, version=ref.version
    )
