"""The stages in order: the architecture on one page.

    catalog -> (enrich) -> plan -> build, task by task -> tombstones and changelog -> report

Every stage reads files that stand and writes new ones beside them. Stopped at any moment, the same
call goes on where it was.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from biomedica import __version__, catalog, plan
from biomedica.archive import Archive, Done
from biomedica.build import Job, build_task
from biomedica.catalog import Selection
from biomedica.compact import recover
from biomedica.config import Settings
from biomedica.errors import ConfigError
from biomedica.plan import Change
from biomedica.records import RETRIABLE, licence_group
from biomedica.run import run_tasks
from biomedica.run.engines import Engine, open_engine
from biomedica.sources import open_source

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is told while a build runs."""

    stage: str
    done: int
    total: int
    unit: str
    pairs: int = 0
    rejects: int = 0


Listener = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A plan that stands, and what is still to do of it."""

    archive: Archive
    job: Job
    tasks: tuple[str, ...]
    """To be built, in order."""
    num_done: int
    changes: tuple[Change, ...]
    snapshot: date | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What a build came to: counts over the whole archive."""

    num_tasks: int
    num_built: int
    """Tasks built by this call; the others were done before."""
    counts: dict[str, int]
    rejects: dict[str, int]
    num_withdrawn: int
    changes: dict[str, int]


def _quiet(progress: Progress) -> None:
    log.debug("%s: %d of %d %s", progress.stage, progress.done, progress.total, progress.unit)


def absolute(source_uri: str) -> str:
    """The address of a source as archives record it: folders by their full path."""
    scheme, colon, path = source_uri.partition(":")
    if colon and scheme != "folder":
        return source_uri
    if scheme == "folder":
        return f"folder:{Path(path).absolute()}"
    return str(Path(source_uri).absolute())


def refresh_catalog(
    source_uri: str,
    archive: Archive,
    selection: Selection,
    settings: Settings,
    *,
    reselect: bool = False,
    tell: Listener = _quiet,
) -> catalog.Refreshed:
    """Fetch what the source says of its articles, where that changed, and note down what was asked."""
    archive.create()
    source_uri = absolute(source_uri)
    info = _check_same(archive, source_uri, selection, settings, reselect)
    source = open_source(source_uri, settings.source)
    listing = catalog.list_articles(source, selection)
    info |= {
        "source": source_uri,
        "selection": _plain(selection),
        "settings": {"images": asdict(settings.images), "shards": asdict(settings.shards)},
        "biomedica": __version__,
    }
    archive.write_info({"snapshot": None, **info})
    refreshed = catalog.refresh(
        archive.root / "catalog",
        source,
        listing,
        selection,
        archive.root / "rejects" / "catalog.parquet",
        lambda done, total: tell(
            Progress(stage="catalog", done=done, total=total, unit="articles")
        ),
        settings.source.max_failures_in_a_row,
    )
    archive.write_info(info | {"snapshot": refreshed.snapshot})
    return refreshed


def prepare(
    source_uri: str,
    archive: Archive,
    selection: Selection,
    settings: Settings,
    *,
    reselect: bool = False,
    retry_failed: bool = False,
    tell: Listener = _quiet,
) -> Prepared:
    """Catalog and plan: what is to be built. Applies what changed in the source since the last time."""
    refreshed = refresh_catalog(
        source_uri, archive, selection, settings, reselect=reselect, tell=tell
    )
    recover(archive)
    job = _job(archive, settings)
    snapshot = date.fromisoformat(refreshed.snapshot) if refreshed.snapshot else None
    changes = _replan(archive, job, selection, snapshot, retry_failed)
    current = _without_lost(archive, plan.read_plan(archive.plan_path), job)
    job = replace(job, inputs=plan.task_digests(current))
    done = _valid_done(archive, job)
    _sync_tombstones(archive, done)
    return Prepared(
        archive=archive,
        job=job,
        tasks=tuple(task for task in job.inputs if task not in done),
        num_done=len(done),
        changes=tuple(changes),
        snapshot=snapshot,
    )


def _replan(
    archive: Archive, job: Job, selection: Selection, snapshot: date | None, retry_failed: bool
) -> list[Change]:
    """Compare the plan with the catalog; where they differ, note the changes down and write the plan.
    Everything else follows from the plan, so a kill after any step is made up for by the next call."""
    articles = plan.wanted(catalog.parts(archive.root / "catalog"), selection)
    old = plan.read_plan(archive.plan_path)
    done = _valid_done(archive, job)
    again = _failed_articles(archive) if retry_failed else frozenset()
    changes, stays, to_assign = plan.compare(
        old, articles, frozenset(done), again=again, since=snapshot
    )
    if changes or to_assign.num_rows:
        _log_changes(archive, changes, snapshot)
        first = plan.next_numbers(sorted({*job.inputs, *archive.done()}))
        new = plan.assign(to_assign, job.shards, first)
        plan.write_plan(archive.plan_path, stays, new)
    return changes


def _without_lost(archive: Archive, table: pa.Table, job: Job) -> pa.Table:
    """The plan without withdrawn articles of shards that must be built again (a file was lost)."""
    done = _valid_done(archive, replace(job, inputs=plan.task_digests(table)))
    keeps = table["is_live"].to_numpy() | plan.is_of(table, done)
    if keeps.all():
        return table
    table = table.filter(pa.array(keeps))
    plan.write_plan(archive.plan_path, table, table.slice(0, 0))
    return table


def _job(archive: Archive, settings: Settings) -> Job:
    return Job(
        archive=archive.root,
        source=archive.info()["source"],
        source_settings=settings.source,
        images=settings.images,
        shards=settings.shards,
        run=settings.run,
        inputs=plan.task_digests(plan.read_plan(archive.plan_path)),
    )


def prepare_part(archive: Archive, settings: Settings, index: int, count: int) -> Prepared:
    """Every `count`-th task of a plan that stands, from the `index`-th on (from 0): an array job."""
    if not 0 <= index < count:
        raise ConfigError(f"task {index}/{count}: an index from 0 to {count - 1} is expected")
    if not archive.plan_path.exists():
        raise ConfigError(f"{archive.root} has no plan yet; make it with `biomedica plan` first")
    _check_same(archive, archive.info()["source"], None, settings, reselect=True)
    job = _job(archive, settings)
    mine = list(job.inputs)[index::count]
    done = _valid_done(archive, job)
    return Prepared(
        archive=archive,
        job=job,
        tasks=tuple(task for task in mine if task not in done),
        num_done=sum(task in done for task in mine),
        changes=(),
        snapshot=None,
    )


def _check_same(
    archive: Archive,
    source_uri: str,
    selection: Selection | None,
    settings: Settings,
    reselect: bool,
) -> dict[str, Any]:
    """Content of `archive.json`, after making sure that the call means the same archive."""
    if not archive.info_path.exists():
        return {}
    info = archive.info()
    asked = {
        "source": source_uri,
        "selection": _plain(selection) if selection else info.get("selection"),
        "settings": {"images": asdict(settings.images), "shards": asdict(settings.shards)},
    }
    for name, value in asked.items():
        if info.get(name) == value or (reselect and name in ("source", "selection")):
            continue
        raise ConfigError(
            f"{archive.root} was made with another {name}: {_first_difference(info.get(name), value)}. "
            + (
                "Shards of both would not fit together: take a new folder"
                if name == "settings"
                else "Add --reselect to change it (articles that fall out are withdrawn)"
            )
        )
    return info


def _first_difference(old: Any, new: Any, name: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                return _first_difference(old.get(key), new.get(key), f"{name}.{key}".strip("."))
    return f"{name} {old!r} there, {new!r} asked for".strip()


def _plain(selection: Selection) -> dict[str, Any]:
    """The selection as JSON holds it."""
    plain = asdict(selection)
    if selection.query is not None:
        plain["pmcids"] = None  # what the search finds changes; what was asked is what counts
    for name, value in plain.items():
        if isinstance(value, date):
            plain[name] = value.isoformat()
        elif isinstance(value, tuple):
            plain[name] = list(value)
    return plain


def _valid_done(archive: Archive, job: Job) -> dict[str, Done]:
    """Tasks that were finished for what the plan gives them now."""
    settings = job.settings_digest()
    return {
        task: done
        for task, done in archive.done().items()
        if job.inputs.get(task) == done.inputs
        and done.settings == settings
        and all(_has_size(archive.root / file.path, file.size) for file in done.outputs)
    }


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _failed_articles(archive: Archive) -> frozenset[tuple[int, int]]:
    """(number, version) of articles with a reject that trying again may mend."""
    reasons = pa.array([reason.value for reason in RETRIABLE])
    found = set()
    all_withdrawn = _withdrawn_articles(archive)
    for task in archive.done():
        path = archive.root / "rejects" / f"{task}.parquet"
        if not path.exists():
            continue
        rejects = pq.read_table(path, columns=["reason", "pmcid", "version"])
        rejects = rejects.filter(pc.is_in(rejects["reason"], reasons))
        pairs = zip(rejects["pmcid"].to_pylist(), rejects["version"].to_pylist(), strict=True)
        withdrawn = all_withdrawn.get(task, {})
        found |= {
            (int(pmcid[3:]), version)
            for pmcid, version in pairs
            if (pmcid, version) not in withdrawn
        }
    return frozenset(found)


def _withdrawn_articles(
    archive: Archive,
) -> dict[str, dict[tuple[str, int], tuple[str, date | None]]]:
    """By task, the articles of its shard that are not live, with reason and snapshot."""
    table = plan.read_plan(archive.plan_path)
    table = table.filter(pc.invert(table["is_live"]))
    found: dict[str, dict[tuple[str, int], tuple[str, date | None]]] = {}
    for row in table.to_pylist():
        place = f"PMC{row['number']}", row["version"]
        found.setdefault(row["task"], {})[place] = row["reason"], row["since"]
    return found


def _sync_tombstones(archive: Archive, done: Iterable[str]) -> None:
    """Make the tombstones what the plan says: the samples of articles that are not live."""
    finished = set(done)
    rows = []
    for task, articles in sorted(_withdrawn_articles(archive).items()):
        keys = _keys_of(archive, task) if task in finished else {}
        for (pmcid, version), (reason, since) in articles.items():
            for key in keys.get((pmcid, version), []):
                about = {"pmcid": pmcid, "version": version, "reason": reason, "since": since}
                rows.append({"key": key, "shard": task, **about})
    if rows or archive.tombstones_path.exists():
        archive.set_tombstones(rows)


def _log_changes(archive: Archive, changes: Iterable[Change], snapshot: date | None) -> None:
    """Enter what changed in the changelog."""
    keys: dict[str, dict[tuple[str, int], list[str]]] = {}
    rows = []
    for change in changes:
        pmcid = f"PMC{change.number}"
        task = change.task
        if task is not None and task not in keys:
            keys[task] = _keys_of(archive, task)
        withdrawn = keys[task].get((pmcid, change.version), []) if task is not None else []
        rows.append(
            {
                "since": snapshot,
                "pmcid": pmcid,
                "version": change.version,
                "change": change.change,
                "detail": change.detail,
                "num_samples": len(withdrawn),
            }
        )
    archive.add_changes(sorted(rows, key=lambda r: (int(r["pmcid"][3:]), r["version"])))


def _keys_of(archive: Archive, task: str) -> dict[tuple[str, int], list[str]]:
    """Keys of a finished shard by article."""
    group = task.rpartition("-")[0]
    path = archive.root / "figures" / group / f"{task}.parquet"
    table = pq.read_table(path, columns=["key", "pmcid", "version"])
    keys: dict[tuple[str, int], list[str]] = {}
    for key, pmcid, version in zip(*(column.to_pylist() for column in table), strict=True):
        keys.setdefault((pmcid, version), []).append(key)
    return keys


def build(
    prepared: Prepared,
    engine: Engine,
    settings: Settings,
    tell: Listener = _quiet,
    part: bool = False,
) -> BuildResult:
    """Build what is to be built. Can be stopped at any moment; finished tasks are not built again.

    part   other processes build other tasks of the same plan: leave their files alone
    """
    archive, total = prepared.archive, len(prepared.tasks) + prepared.num_done
    before = _sum_up(archive, prepared.job.inputs)
    pairs, rejects = before[0]["pairs"], sum(before[1].values())
    finished = prepared.num_done
    for done in run_tasks(
        engine, archive, prepared.tasks, build_task, prepared.job.for_task, settings.run
    ):
        finished += 1
        pairs += done.counts["pairs"]
        rejects += sum(done.rejects.values())
        tell(
            Progress(
                stage="build",
                done=finished,
                total=total,
                unit="shards",
                pairs=pairs,
                rejects=rejects,
            )
        )
    counts, reasons = _sum_up(archive, prepared.job.inputs)
    if not part:
        _remove_leftovers(archive)
        archive.write_info(archive.info() | {"counts": dict(counts), "rejects": dict(reasons)})
    return BuildResult(
        num_tasks=total,
        num_built=len(prepared.tasks),
        counts=dict(counts),
        rejects=dict(reasons),
        num_withdrawn=archive.tombstones().num_rows,
        changes=dict(Counter(change.change for change in prepared.changes)),
    )


_EXACT = ("pairs", "articles", "rejects", "source_bytes")
"""Counts that stay right when articles are withdrawn."""


def _sum_up(archive: Archive, tasks: Iterable[str]) -> tuple[Counter[str], Counter[str]]:
    """(counts, rejects by reason) of what is live in the finished ones of these tasks."""
    counts: Counter[str] = Counter(pairs=0, articles=0)
    reasons: Counter[str] = Counter()
    wanted = set(tasks)
    found = [done for task, done in archive.done().items() if task in wanted]
    for done in found:
        counts.update(done.counts)
        reasons.update(done.rejects)
    withdrawn = _withdrawn_articles(archive)
    for task, gone in withdrawn.items():
        group = task.rpartition("-")[0]
        path = archive.root / "rejects" / f"{task}.parquet"
        if task not in wanted or not path.exists():
            continue
        articles = _articles_in(archive.root / "articles" / group / f"{task}.parquet")
        counts["articles"] -= sum(article in gone for article in articles)
        of_gone = zip(_articles_in(path), pq.read_table(path)["reason"].to_pylist(), strict=True)
        reasons -= Counter(reason for article, reason in of_gone if article in gone)
    counts["pairs"] -= archive.tombstones().num_rows
    counts["rejects"] = sum(reasons.values())
    if withdrawn or any("figures" not in done.counts for done in found):
        counts = Counter({name: counts[name] for name in _EXACT})
    return counts, reasons


def _articles_in(path: Path) -> list[tuple[str, int]]:
    table = pq.read_table(path, columns=["pmcid", "version"])
    return list(zip(table["pmcid"].to_pylist(), table["version"].to_pylist(), strict=True))


def _remove_leftovers(archive: Archive) -> None:
    """Files of tasks that no plan names any more, and temporary files of a run that was killed."""
    for path in sorted(archive.root.rglob(".*")):
        if path.name.endswith((".tmp", ".trace")) or path.match("done/.*.lock"):
            path.unlink()
    tasks = set(plan.task_digests(plan.read_plan(archive.plan_path)))
    for kind in ("shards", "figures", "articles", "rejects", "done"):
        for path in sorted((archive.root / kind).rglob("*.*")):
            name = path.name.partition(".")[0]
            if name.rpartition("-")[2].isdecimal() and name not in tasks:
                path.unlink()


def build_archive(
    source_uri: str,
    root: Path,
    selection: Selection,
    settings: Settings,
    *,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    reselect: bool = False,
    retry_failed: bool = False,
    tell: Listener = _quiet,
) -> BuildResult:
    """From a source to an archive that is up to date with it: the whole of `biomedica build`."""
    archive = Archive(root)
    archive.create()
    with archive.lock():
        prepared = prepare(
            source_uri,
            archive,
            selection,
            settings,
            reselect=reselect,
            retry_failed=retry_failed,
            tell=tell,
        )
        return build(prepared, open_engine(engine, workers, address), settings, tell)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a build would do, before it is done."""

    num_articles: int
    num_done: int
    """Articles of them whose shard is finished."""
    num_pictures: int
    """As the source lists them, over all these articles."""
    licences: dict[str, int]
    """Articles by licence code."""
    groups: dict[str, int]
    source_bytes: int | None
    """Of the pictures still to be fetched; None where nothing tells."""
    cpu_seconds: float | None
    """Still to be spent, on one core; None while no task is done."""
    basis: str
    """What the estimates rest on."""


def forecast(
    source_uri: str, archive: Archive, selection: Selection, settings: Settings
) -> Forecast:
    """What a build of the catalog that stands would do. Estimates rest on finished tasks, or on the
    sizes of a few files where none is finished."""
    articles = plan.wanted(catalog.parts(archive.root / "catalog"), selection)
    job = _job(archive, settings)
    table = plan.read_plan(archive.plan_path)
    done = _valid_done(archive, job)
    finished = pc.and_(
        pc.is_in(table["task"], pa.array(sorted(done), pa.string())), table["is_live"]
    )
    of_done = table.filter(finished)
    pictures = pc.sum(articles["num_images"]).as_py() or 0
    done_pictures = pc.sum(of_done["num_images"]).as_py() or 0
    codes = Counter(code or "none" for code in articles["license_code"].to_pylist())
    groups: Counter[str] = Counter()
    for code, number in codes.items():
        groups[licence_group(None if code == "none" else code).value] += number
    left = pictures - done_pictures
    size: float | None
    seconds: float | None = None
    if done_pictures:
        size = sum(each.counts["source_bytes"] for each in done.values()) / done_pictures * left
        seconds = sum(each.cpu_seconds for each in done.values()) / done_pictures * left
        basis = f"{done_pictures} pictures of {len(done)} finished shards"
    else:
        mean, number = _sampled_size(source_uri, archive, settings, articles)
        size = mean * left if number else None
        basis = f"the sizes of {number} files; time is known once a shard is finished"
    return Forecast(
        num_articles=articles.num_rows,
        num_done=of_done.num_rows,
        num_pictures=pictures,
        licences=dict(codes.most_common()),
        groups=dict(sorted(groups.items())),
        source_bytes=None if size is None else round(size),
        cpu_seconds=None if seconds is None else round(seconds, 1),
        basis=basis,
    )


def _sampled_size(
    source_uri: str, archive: Archive, settings: Settings, articles: pa.Table
) -> tuple[float, int]:
    """(mean bytes of a picture, number of pictures asked), over articles at even distances."""
    pictured = articles.filter(pc.greater(articles["num_images"], 0))
    step = max(1, pictured.num_rows // 20)
    chosen = pictured.take(pa.array(range(0, pictured.num_rows, step), pa.int64()))
    places = zip(chosen["number"].to_pylist(), chosen["version"].to_pylist(), strict=True)
    source = open_source(source_uri, settings.source)
    sizes = [
        size
        for ref, _ in catalog.read_refs(archive.root / "catalog", sorted(places))
        for media in ref.media[:5]
        if catalog.picture_stem(media.name) and (size := source.size(ref, media)) is not None
    ]
    return (sum(sizes) / len(sizes) if sizes else 0.0), len(sizes)


def build_part(
    root: Path,
    settings: Settings,
    index: int,
    count: int,
    *,
    workers: int | None = None,
    tell: Listener = _quiet,
) -> BuildResult:
    """One task of an array job (Slurm, Kubernetes): its share of a plan that stands."""
    archive = Archive(root)
    archive.info()
    with archive.lock(shared=True):
        prepared = prepare_part(archive, settings, index, count)
        return build(prepared, open_engine("local", workers, None), settings, tell, part=True)
