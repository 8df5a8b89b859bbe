"""Commands that make an archive and look after it."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from biomedica.cli.options import COMMON, FAULT, Common, app, duration, listener, print_json, size
from biomedica.errors import ConfigError

if TYPE_CHECKING:
    from biomedica.archive import Archive
    from biomedica.catalog import Selection
    from biomedica.config import Settings
    from biomedica.flow import BuildResult, Forecast


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which articles."""

    pmcids: Path | None = None
    """File with PMC ids, one a line; only these are looked at."""
    query: str | None = None
    """Query of PMC's search (E-utilities); articles that it finds now."""
    limit: int | None = None
    """Number of articles, lowest ids first."""
    licence: Annotated[list[str] | None, Parameter(negative="")] = None
    """Licence group: commercial, noncommercial, other. May be repeated; all by default."""
    published_from: date | None = None
    """First day of publication, as the citation states it."""
    published_to: date | None = None
    """Last day of publication."""
    retracted: bool = True
    """Take retracted articles too (their rows say so)."""
    all_versions: Annotated[bool, Parameter(negative="")] = False
    """Take superseded versions too."""

    def selection(self, settings: Settings) -> Selection:
        from biomedica.catalog import Selection

        numbers = None if self.pmcids is None else read_pmcids(self.pmcids)
        if self.query is not None:
            from biomedica.sources.entrez import Entrez

            found = Entrez(settings.entrez).search(self.query, today=date.today())
            if not found:
                raise ConfigError(f"no article matches {self.query!r}")
            numbers = found if numbers is None else sorted({*numbers} & {*found})
        default = Selection()
        return Selection(
            pmcids=None if numbers is None else tuple(numbers),
            query=self.query,
            limit=self.limit,
            groups=tuple(self.licence) if self.licence else default.groups,
            published_from=self.published_from,
            published_to=self.published_to,
            retracted=self.retracted,
            all_versions=self.all_versions,
        )


def read_pmcids(path: Path) -> list[int]:
    """PMC ids of a file, one a line, with or without `PMC`; lines that start with # are left out."""
    found = []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    for number, line in enumerate(lines, start=1):
        text = line.strip().upper().removeprefix("PMC")
        if text and not text.startswith("#"):
            if not text.isdecimal():
                raise ConfigError(f"{path}, line {number}: {line.strip()!r} is no PMC id")
            found.append(int(text))
    if not found:
        raise ConfigError(f"{path} holds no PMC ids")
    return sorted(set(found))


CHOICE = Choice()


@app.command
def tour(folder: Path = Path("tour"), *, common: Common = COMMON) -> None:
    """The whole way in a minute, offline, on sample articles: catalog, enrich, build, check, report.

    Parameters
    ----------
    folder
        Where the tour leaves its source and its archive.
    """
    from biomedica.tour import take_tour

    started = time.monotonic()
    with listener(common) as tell:
        found = take_tour(folder, common.settings(), tell, _step if not common.json else _silent)
    if common.json:
        print_json(found)
        return
    archive = folder / "archive"
    print(f"\n{_summary(found.built)}")
    print(f"PubMed records: {found.enriched.num_fetched + found.enriched.num_known}")
    print(
        f"{found.grouped.num_clusters} clusters of {found.grouped.num_images} images, "
        f"{found.copies.num_groups} groups of near-duplicates"
    )
    print(f"{found.selected.samples} samples selected, {found.exported.num_samples} exported")
    print(f"doctor: {'whole' if found.diagnosis.is_whole else found.diagnosis.findings}")
    print(f"\n{time.monotonic() - started:.0f} seconds. Look at it:\n")
    print(f"  {found.report}    (open it in a browser)")
    print(f"  {found.sheets}    (a sheet of images for each cluster)")
    print(f"  {found.exported.folder / 'README.md'}    (the card of the dataset)")
    print(f"  biomedica label {archive}    (label the clusters in a web page)")
    print(f"  biomedica show {archive} {found.first_key}")
    print(f"  biomedica build {folder / 'source'} {archive}    (nothing to do: it is up to date)")
    print(f"  biomedica doctor {archive}")


@app.command
def catalog(
    source: str,
    archive: Path,
    *,
    reselect: bool = False,
    choice: Choice = CHOICE,
    common: Common = COMMON,
) -> None:
    """List the articles of a source; metadata is fetched only where it changed.

    Parameters
    ----------
    source
        `s3://pmc-oa-opendata`, `https://HOST/BUCKET`, a folder with the bucket's layout, `folder:PATH`.
    archive
        Folder of the archive; made when it is not there.
    reselect
        Change what the archive is made of.
    """
    from biomedica import flow
    from biomedica.archive import Archive

    settings = common.settings()
    target = Archive(archive)
    target.create()
    with target.lock(), listener(common) as tell:
        found = flow.refresh_catalog(
            source, target, choice.selection(settings), settings, reselect=reselect, tell=tell
        )
    if common.json:
        print_json(found)
        return
    print(
        f"{found.num_listed:,} article versions listed (snapshot {found.snapshot or 'none'}), "
        f"{found.num_fetched:,} fetched, {found.num_rejects:,} rejected"
    )
    print(f"next: biomedica enrich {archive}, biomedica build {source} {archive}")


@app.command
def enrich(archive: Path, *, files: Path | None = None, common: Common = COMMON) -> None:
    """Fetch PubMed's facts (MeSH, publication types, abstracts, references) for the catalog's PMIDs.

    Parameters
    ----------
    archive
        Folder with a catalog.
    files
        Folder of PubMed's baseline or update files (`*.xml.gz`), instead of E-utilities.
    """
    from biomedica.archive import Archive
    from biomedica.catalog import parts
    from biomedica.enrich import catalog_pmids, enrich_from_entrez, enrich_from_files
    from biomedica.flow import Progress
    from biomedica.sources.entrez import Entrez

    settings = common.settings()
    target = Archive(archive)
    target.info()
    pmids = catalog_pmids(parts(archive / "catalog"))
    rejects = archive / "rejects" / "enrich.parquet"
    with target.lock(), listener(common) as tell:

        def progress(done: int, total: int) -> None:
            unit = "records" if files is None else "files"
            tell(Progress(stage="enrich", done=done, total=total, unit=unit))

        if files is not None:
            found = enrich_from_files(archive / "pubmed", pmids, files, rejects, progress)
        else:
            client = Entrez(settings.entrez)
            batch = settings.entrez.batch
            found = enrich_from_entrez(archive / "pubmed", pmids, client, rejects, batch, progress)
    if common.json:
        print_json(found)
        return
    print(
        f"{found.num_wanted:,} PMIDs: {found.num_fetched:,} fetched, {found.num_known:,} known, "
        f"{found.num_missing:,} without a record"
    )


@app.command
def plan(
    source: str,
    archive: Path,
    *,
    reselect: bool = False,
    retry_failed: bool = False,
    choice: Choice = CHOICE,
    common: Common = COMMON,
) -> None:
    """Fix which articles make which shard, and build nothing: the start of an array job.

    Parameters
    ----------
    source
        Where the articles come from.
    archive
        Folder of the archive.
    reselect
        Change what the archive is made of.
    retry_failed
        Plan articles again that the source failed to give.
    """
    from biomedica import flow
    from biomedica.archive import Archive

    settings = common.settings()
    target = Archive(archive)
    target.create()
    with target.lock(), listener(common) as tell:
        found = flow.prepare(
            source,
            target,
            choice.selection(settings),
            settings,
            reselect=reselect,
            retry_failed=retry_failed,
            tell=tell,
        )
    result = {"tasks": list(found.tasks), "num_done": found.num_done}
    if common.json:
        print_json(result)
        return
    print(f"{len(found.tasks):,} shards to build, {found.num_done:,} done")
    print(f"next: biomedica build {source} {archive} --task 0/N, 1/N, ... or without --task")


@app.command
def build(
    source: str,
    archive: Path,
    *,
    engine: Literal["local", "ray", "inline"] = "local",
    workers: int | None = None,
    address: str | None = None,
    task: str | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    reselect: bool = False,
    retry_failed: bool = False,
    report: bool = True,
    choice: Choice = CHOICE,
    common: Common = COMMON,
) -> None:
    """Turn articles into shards, or bring an archive up to date. Stopped, it goes on where it was.

    Parameters
    ----------
    source
        `s3://pmc-oa-opendata`, `https://HOST/BUCKET`, a folder with the bucket's layout, `folder:PATH`.
    archive
        Folder of the archive.
    engine
        `local`: processes of this machine. `ray`: a cluster. `inline`: this very process.
    workers
        Processes; one for each core by default.
    address
        Of a Ray cluster; without it Ray starts on this machine.
    task
        `I/N`: build every N-th shard of a plan that stands, from the I-th on (array jobs).
    dry_run
        Read the catalog and say what would be built.
    reselect
        Change what the archive is made of; articles that fall out are withdrawn.
    retry_failed
        Build articles again that the source failed to give.
    report
        Write `report.html` at the end.
    """
    from biomedica import flow
    from biomedica.archive import Archive

    settings = common.settings()
    if task is not None:
        index, count = _index_of(task)
        if dry_run or reselect or retry_failed or engine != "local" or choice != CHOICE:
            raise ConfigError(
                "--task builds what is planned; give those options to `biomedica plan`"
            )
        if Archive(archive).info()["source"] != flow.absolute(source):
            raise ConfigError(f"{archive} was planned from {Archive(archive).info()['source']}")
        with listener(common) as tell:
            result = flow.build_part(archive, settings, index, count, workers=workers, tell=tell)
    elif dry_run:
        if reselect:
            raise ConfigError("--dry-run changes nothing: try another selection in a new folder")
        _forecast(source, Archive(archive), choice, common)
        return
    else:
        with listener(common) as tell:
            result = flow.build_archive(
                source,
                archive,
                choice.selection(settings),
                settings,
                engine=engine,
                workers=workers,
                address=address,
                reselect=reselect,
                retry_failed=retry_failed,
                tell=tell,
            )
    written = _report(Archive(archive)) if report and task is None else None
    if common.json:
        print_json(result)
        return
    print(_summary(result))
    if written:
        print(f"report: {written}")
    print(f"rejects with their reasons: {archive / 'rejects'}")


def _index_of(task: str) -> tuple[int, int]:
    index, slash, count = task.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ConfigError(f"--task {task!r}: I/N is expected, I below N, such as 0/64")
    return int(index), int(count)


def _forecast(source: str, archive: Archive, choice: Choice, common: Common) -> None:
    from biomedica import flow

    settings = common.settings()
    selection = choice.selection(settings)
    archive.create()
    with archive.lock(), listener(common) as tell:
        flow.refresh_catalog(source, archive, selection, settings, tell=tell)
        found = flow.forecast(source, archive, selection, settings)
    if common.json:
        print_json(found)
        return
    print(_forecast_text(found, archive.root))


def _forecast_text(found: Forecast, archive: Path) -> str:
    fetch = "unknown" if found.source_bytes is None else f"about {size(found.source_bytes)}"
    seconds = found.cpu_seconds
    spent = "unknown" if seconds is None else f"about {duration(seconds)} of one core"
    licences = ", ".join(f"{code} {number:,}" for code, number in found.licences.items())
    groups = ", ".join(f"{group} {number:,}" for group, number in found.groups.items())
    return "\n".join(
        [
            f"articles   {found.num_articles:,}, {found.num_done:,} of them done",
            f"pictures   {found.num_pictures:,} listed by the source",
            f"to fetch   {fetch}",
            f"time       {spent}",
            f"licences   {licences}",
            f"groups     {groups}",
            f"estimates rest on {found.basis}",
            f"nothing was built; the catalog in {archive / 'catalog'} is kept for the build",
        ]
    )


@app.command
def compact(archive: Path, *, mesh: bool = False, common: Common = COMMON) -> None:
    """Rewrite the shards that hold withdrawn samples, so that their bytes are gone.

    Parameters
    ----------
    archive
        Folder of the archive.
    mesh
        Also write MeSH terms that `enrich` fetched after the build.
    """
    from biomedica.archive import Archive
    from biomedica.compact import compact as run
    from biomedica.flow import Progress

    target = Archive(archive)
    target.info()
    with target.lock(), listener(common) as tell:
        found = run(
            target,
            refresh_mesh=mesh,
            on_progress=lambda done, total: tell(
                Progress(stage="compact", done=done, total=total, unit="shards")
            ),
        )
    if common.json:
        print_json(found)
        return
    print(
        f"{found.num_shards} shards rewritten, {found.num_samples} withdrawn samples gone, "
        f"{size(max(0, found.freed_bytes))} freed"
    )


@app.command
def report(archive: Path, *, common: Common = COMMON) -> None:
    """Write `report.html`: the archive on one self-contained page.

    Parameters
    ----------
    archive
        Folder of the archive.
    """
    from biomedica.archive import Archive

    target = Archive(archive)
    target.info()
    path = _report(target)
    if common.json:
        print_json({"report": str(path)})
    else:
        print(path)


def _report(archive: Archive) -> Path:
    from biomedica.report import write_report

    return write_report(archive)


@app.command
def doctor(
    archive: Path,
    *,
    decode: Annotated[bool, Parameter(negative="")] = False,
    common: Common = COMMON,
) -> None:
    """Prove an archive whole: digests, offsets, row order, counts, keys, captions. Exit code 1 if not.

    Parameters
    ----------
    archive
        Folder of the archive.
    decode
        Also decode every picture.
    """
    from biomedica.archive import Archive
    from biomedica.doctor import examine
    from biomedica.flow import Progress

    with listener(common) as tell:
        found = examine(
            Archive(archive),
            decode=decode,
            on_progress=lambda done, total: tell(
                Progress(stage="doctor", done=done, total=total, unit="shards")
            ),
        )
    if common.json:
        print_json(found)
    else:
        for finding in found.findings:
            print(f"{finding.where}: {finding.what}")
        if found.num_unfinished:
            print(f"{found.num_unfinished} planned shards are not built; `biomedica build` goes on")
        state = "whole" if found.is_whole else f"{len(found.findings)} faults"
        print(f"{found.num_shards} shards, {found.num_samples:,} samples: {state}")
    if not found.is_whole:
        sys.exit(FAULT)


@app.command
def show(archive: Path, key: str, *, save: Path | None = None, common: Common = COMMON) -> None:
    """Print a pair and save its picture.

    Parameters
    ----------
    archive
        Folder of the archive.
    key
        Of the sample, as in the figures table.
    save
        File or folder for the picture; `KEY.jpg` in this folder by default.
    """
    from biomedica.archive import Archive
    from biomedica.show import find_sample

    found = find_sample(Archive(archive), key)
    path = save or Path(f"{key}.jpg")
    path = path / f"{key}.jpg" if path.is_dir() else path
    path.write_bytes(found.jpeg)
    if common.json:
        print_json({"row": found.row, "withdrawn": found.withdrawn, "picture": str(path)})
        return
    row = found.row
    print(f"{row['key']}  {'WITHDRAWN: ' + found.withdrawn if found.withdrawn else ''}".rstrip())
    print(f"{row['title']}\n{row['journal']}, {row['published']}, {row['license_code']}")
    if row["is_retracted"]:
        print("RETRACTED")
    print(f"\n{row['figure_label'] or row['figure_kind']}: {row['caption']}")
    for mention in row["mentions"]:
        print(f"\n[{mention['section'] or 'caption'}] {mention['text']}")
    print(f"\n{row['width']} x {row['height']} pixels, {row['source_format']}, {row['transform']}")
    print(f"{row['shard']}.tar, byte {row['jpg_offset']}; saved as {path}")


@app.command
def settings(*, common: Common = COMMON) -> None:
    """Print every setting with its value: a TOML file to start from."""
    from biomedica.config import as_toml

    values = common.settings()
    if common.json:
        print_json(values)
    else:
        print(as_toml(values), end="")


def _summary(result: BuildResult) -> str:
    counts = result.counts
    reasons = ", ".join(f"{name} {number:,}" for name, number in sorted(result.rejects.items()))
    lines = [
        f"{counts['pairs']:,} pairs from {counts['articles']:,} articles in {result.num_tasks} shards "
        f"({result.num_built} built now)",
        f"rejects: {reasons or 'none'}",
    ]
    if result.changes:
        changed = ", ".join(f"{name} {number:,}" for name, number in sorted(result.changes.items()))
        lines.append(f"changes in the source: {changed}")
    if result.num_withdrawn:
        lines.append(
            f"{result.num_withdrawn:,} samples are withdrawn (`compact` frees their bytes)"
        )
    return "\n".join(lines)


def _step(text: str) -> None:
    print(f"- {text}", flush=True)


def _silent(text: str) -> None:
    logging.getLogger(__name__).debug(text)
