"""An archive as one self-contained HTML page: what is in it, what fell out, and why."""

from __future__ import annotations

import base64
import io
import re
import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from biomedica import charts, statistics
from biomedica.annotations import annotation_facts
from biomedica.archive import Archive, Done
from biomedica.charts import Bin, Loss, Ranking, Step, part, step_of
from biomedica.errors import ArchiveError, ConfigError
from biomedica.records import LicenceGroup, Reason
from biomedica.shards import write_file
from biomedica.statistics import Frequencies, Funnel, Tables

MAX_PAIRS = 100
"""Pairs that a page shows at the most; it stays under 3 MB."""
_THUMBNAIL_SIDE = 240
_CLIPPED = 180
"""Characters of a caption that are shown before its reader asks for the rest."""

EXPLANATIONS: Mapping[Reason, str] = {
    Reason.METADATA_MISSING: "The source lists the article, but its metadata could not be fetched, "
    "or an article that was asked for is not in the source.",
    Reason.METADATA_BAD: "The article's metadata is not in the form that the source documents.",
    Reason.KEY_UNKNOWN: "The source lists a file whose name is not that of an article's metadata.",
    Reason.NO_PMCID: "Neither the XML nor its file name states a PMC id.",
    Reason.DUPLICATE_ARTICLE: "The same article version stands in the source twice; one is taken.",
    Reason.UNSAFE_PATH: "A file name leads out of its folder or package; it is never followed.",
    Reason.PACKAGE_BAD: "The package cannot be opened, is damaged, or holds no article.",
    Reason.XML_MISSING: "The source has no XML for the article.",
    Reason.XML_BAD: "The article's XML is not well-formed.",
    Reason.XML_TOO_LARGE: "The article's XML is larger than the limit in the settings.",
    Reason.NOT_AN_ARTICLE: "The XML is well-formed, but not a JATS article.",
    Reason.NO_GRAPHIC: "The figure names no picture: it holds text, a film, a sound or nothing.",
    Reason.NO_CAPTION: "Neither the figure nor its group nor the picture has a caption.",
    Reason.MEDIA_MISSING: "The XML names a picture that the source does not hold.",
    Reason.MEDIA_TOO_LARGE: "The file is larger than the limit in the settings.",
    Reason.FETCH_FAILED: "The file could not be fetched, after several tries.",
    Reason.DIGEST_MISMATCH: "The bytes that arrived do not have the MD5 that the source states.",
    Reason.FORMAT_REFUSED: "The file is not in one of the picture formats that are read.",
    Reason.IMAGE_BAD: "The picture does not decode: it is cut or damaged.",
    Reason.TOO_SMALL: "The picture's shorter side is below the limit: an icon, a rule or a spacer.",
    Reason.TOO_MANY_PIXELS: "The picture has more pixels than the limit.",
    Reason.TOO_MANY_FRAMES: "The picture has more frames than the limit: a film, not a figure.",
    Reason.MEMORY: "Reading it needs more memory than a worker may take.",
    Reason.CRASHED: "The process that read it died, more than once; the rest was built without it.",
    Reason.TIMED_OUT: "Reading it took longer than the limit; the rest was built without it.",
    Reason.PUBMED_MISSING: "PubMed has no record for the article's PMID; the article is kept.",
}
"""What each reason means, in plain words."""

_GROUPS = {
    LicenceGroup.COMMERCIAL: "Reuse is allowed, also for profit: CC0, CC BY, CC BY-SA and CC BY-ND "
    "(ND: no changed copies).",
    LicenceGroup.NONCOMMERCIAL: "Reuse is allowed where it is not for profit: the CC BY-NC licences.",
    LicenceGroup.OTHER: "No Creative Commons licence is stated: text and data mining, or terms of "
    "the publisher's own.",
}


def write_report(
    archive: Archive, path: Path | None = None, seed: int = 0, num_pairs: int = 24
) -> Path:
    """Write the page, whole or not at all, and return where: `report.html` in the archive by default.

    The same archive and seed give the same bytes. Every table is read a few times, a column or two
    at a time; of the pictures, only those of the `num_pairs` pairs that are shown. Raises
    `ArchiveError` where a table cannot be read.
    """
    if not 0 <= num_pairs <= MAX_PAIRS:
        raise ConfigError(f"{num_pairs} pairs to show; 0 to {MAX_PAIRS} fit one page")
    done = archive.done()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with closing(Tables(archive, done, Path(scratch))) as tables:
                content = _content(archive, tables, seed, num_pairs)
        except (duckdb.Error, pa.ArrowException) as error:
            said = str(error).splitlines()[0]
            raise ArchiveError(
                f"a table of {archive.root} cannot be read: {said}. `biomedica doctor` finds out which"
            ) from error
    page = environment().get_template("report.html.j2").render(content).lstrip()
    path = path or archive.root / "report.html"
    write_file(path, page.encode())
    return path


def environment() -> Environment:
    """The templates of this package, with their filters."""
    found = Environment(
        loader=PackageLoader("biomedica"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"number": _number, "percent": _percent, "size": _size, "time": _time}
    return found


def _content(archive: Archive, tables: Tables, seed: int, num_pairs: int) -> dict[str, Any]:
    """All that the template shows."""
    info = archive.info()
    totals = statistics.totals(tables)
    places = statistics.random_pairs(tables, seed, num_pairs)
    pairs = [_pair(archive, shard, key) for key, shard in places]
    return {
        "info": info,
        "source": _without_secrets(str(info.get("source"))),
        "settings": _settings(info, tables.done),
        "selection": _selection(info.get("selection") or {}),
        "state": _state(tables),
        "totals": totals,
        "steps": _steps(statistics.funnel(tables)),
        "rejects": _rejects(statistics.rejects(tables, seed)),
        "licences": _licences(statistics.licences(tables), totals["pairs"]),
        "seed": seed,
        "pairs": pairs,
        "kinds": _ranking(statistics.column(tables, "figures", "figure_kind")),
        "sizes": _sizes(tables),
        "formats": _ranking(statistics.column(tables, "figures", "source_format")),
        "transforms": _ranking(statistics.column(tables, "figures", "transform", 12)),
        "captions": _distribution(statistics.words_a_caption(tables), "words", "pairs"),
        "mentions": _distribution(
            statistics.mentions_a_figure(tables), "paragraphs that cite the figure", "figures"
        ),
        **_bibliography(tables),
        "retracted": statistics.retracted(tables),
        "duplicates": statistics.duplicates(tables),
        "annotated": annotation_facts(archive),
        "changes": statistics.changes(tables),
        "work": _work(tables),
        "commands": _commands(archive, info, pairs),
    }


def _without_secrets(uri: str) -> str:
    """An address without user, password and query."""
    return re.sub(r"//[^/]*@", "//", uri).partition("?")[0] if "//" in uri else uri


def _settings(info: dict[str, Any], done: Iterable[Done]) -> dict[str, Any]:
    values = {
        f"{table}.{name}": value
        for table, content in sorted((info.get("settings") or {}).items())
        for name, value in sorted(content.items())
    }
    return {"values": values, "digests": sorted({each.settings for each in done})}


def _selection(selection: dict[str, Any]) -> str:
    """Which articles were asked for, in words."""
    said: list[str] = []
    if (pmcids := selection.get("pmcids")) is not None:
        said.append(f"{len(pmcids):,} PMC ids")
    if query := selection.get("query"):
        said.append(f"the query “{query}”")
    if limit := selection.get("limit"):
        said.append(f"the first {limit:,} by PMC id")
    if len(groups := selection.get("groups") or []) < len(LicenceGroup):
        said.append(f"licence groups: {', '.join(groups)}")
    if start := selection.get("published_from"):
        said.append(f"published from {start}")
    if end := selection.get("published_to"):
        said.append(f"published up to {end}")
    if not selection.get("retracted", True):
        said.append("no retracted articles")
    versions = "all versions" if selection.get("all_versions") else "newest versions"
    return "; ".join([*(said or ["all articles"]), versions])


def _state(tables: Tables) -> dict[str, Any]:
    """Whether the archive is whole."""
    return {
        "num_tasks": len(tables.tasks),
        "num_done": len(tables.done),
        "lacking": [path.name for path in tables.lacking],
        "num_withdrawn": statistics.num_withdrawn(tables),
    }


def _steps(found: Funnel) -> list[Step]:
    """The funnel with its bars: articles are measured by what was planned, the rest by pictures."""
    planned = found.planned
    wide = min(found.catalog, 1.25 * planned) if planned else found.catalog
    tall = max(found.figures, found.graphics)
    unselected = Loss(found.catalog - planned, "not selected, or a newer version is taken")
    waiting = Loss(planned - found.built, "in shards that are not built yet")
    bare = Loss(found.parsed - found.with_figure, "without a figure in the XML")
    empty = Loss(found.no_graphic, "without a picture")
    unread = [*_losses(found.refused_articles), waiting]
    refused = _losses(found.refused_pictures)
    return [
        step_of("Article versions in the catalog", found.catalog, wide, "", [unselected]),
        step_of("planned", planned, wide, "", unread),
        step_of("parsed", found.parsed, wide, "", [bare]),
        step_of("with at least one figure", found.with_figure, wide),
        step_of("Figures in them", found.figures, tall, _about_figures(found), [empty]),
        step_of("pictures that they name", found.graphics, tall, "", refused),
        step_of("image-caption pairs", found.pairs, tall),
    ]


def _about_figures(found: Funnel) -> str:
    if not found.figures_are_exact:
        return "at the most: articles withdrawn since are left out"
    extra = found.graphics + found.no_graphic - found.figures
    return f"+ {extra:,} further pictures of figures with several" if extra > 0 else ""


def _losses(refused: Sequence[tuple[str, int]]) -> list[Loss]:
    return [Loss(count, reason.replace("_", " ")) for reason, count in refused]


def _rejects(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rejects with what their reason means."""
    longest = max((row["count"] for row in rows), default=0)
    return [
        row | {"about": EXPLANATIONS[Reason(row["reason"])], "width": part(row["count"], longest)}
        for row in rows
    ]


def _licences(rows: list[dict[str, Any]], num_pairs: int) -> list[dict[str, Any]]:
    """The three groups, each with its codes."""
    bars = charts.bars_of([(row["label"], row["n"]) for row in rows], num_pairs)
    groups = []
    for group, about in _GROUPS.items():
        codes = [
            {"bar": bar, "articles": row["articles"]}
            for row, bar in zip(rows, bars, strict=True)
            if row["licence_group"] == group.value
        ]
        count = sum(code["bar"].count for code in codes)
        share = part(count, num_pairs)
        groups.append(
            {"name": group.value, "about": about, "codes": codes, "count": count, "share": share}
        )
    return groups


_SHOWN = [
    *("key", "jpg_offset", "jpg_size", "pmcid", "journal", "published", "license_code"),
    *("licence_group", "is_retracted", "figure_label", "figure_kind", "caption", "alt_text"),
    *("width", "height"),
]


def _pair(archive: Archive, shard: str, key: str) -> dict[str, Any]:
    group = shard.rpartition("-")[0]
    path = archive.root / "figures" / group / f"{shard}.parquet"
    table = pq.read_table(path, columns=_SHOWN, filters=[("key", "=", key)])
    row: dict[str, Any] = table.to_pylist()[0]
    caption = row["caption"]
    clipped = caption if len(caption) <= _CLIPPED else _clipped(caption)
    return row | {
        "clipped": clipped,
        "picture": _thumbnail(archive.root / "shards" / group / f"{shard}.tar", row),
        "alt": row["alt_text"] or f"{row['figure_label'] or 'Figure'} of {row['pmcid']}: {clipped}",
    }


def _clipped(text: str) -> str:
    return text[:_CLIPPED].rpartition(" ")[0].rstrip(".,;: ") + "…"


def _thumbnail(shard: Path, row: dict[str, Any]) -> str | None:
    """A small JPEG as a data address; None where the picture is not there or does not decode."""
    try:
        with shard.open("rb") as file:
            file.seek(row["jpg_offset"])
            data = file.read(row["jpg_size"])
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
            small = io.BytesIO()
            image.convert("RGB").save(small, "JPEG", quality=72)
    except (OSError, SyntaxError, ValueError):
        return None
    return "data:image/jpeg;base64," + base64.b64encode(small.getvalue()).decode()


def _ranking(found: Frequencies, whole: int | None = None) -> Ranking:
    return charts.ranking_of(found.counts, found.num_kinds, found.total, whole)


def _sizes(tables: Tables) -> dict[str, Any]:
    """Widths against heights, in steps of an eighth of a decade."""
    cells = statistics.size_cells(tables, charts.CELLS_A_DECADE)
    return statistics.sizes(tables) | {"chart": charts.heat_map(cells) if cells else None}


def _distribution(counts: Sequence[tuple[int, int]], unit: str, of: str) -> dict[str, Any]:
    """Median, ninetieth percentile, most and histogram. counts   (value, n), sorted"""
    if not counts:
        return {"chart": None}
    median, most = charts.quantile(counts, 0.5), counts[-1][0]
    bins = charts.bins_of(counts, unit)
    about = f"Histogram: {unit}, number of {of}. Median {median:,}, most {most:,}."
    at_edges = len(bins) > 1 and "–" in bins[0].about
    chart = charts.histogram(bins, unit, of, about, at_edges=at_edges)
    return {"chart": chart, "median": median, "ninety": charts.quantile(counts, 0.9), "most": most}


def _bibliography(tables: Tables) -> dict[str, Any]:
    """Journals, years, article types and MeSH headings."""
    headings, num_indexed = statistics.mesh_headings(tables)
    return {
        "journals": _ranking(statistics.column(tables, "figures", "journal")),
        "years": _years(statistics.years(tables)),
        "types": _ranking(statistics.column(tables, "articles", "article_type")),
        "mesh": _ranking(headings, num_indexed),
        "num_with_mesh": num_indexed,
    }


def _years(counts: Mapping[int | None, int]) -> dict[str, Any]:
    """Pairs by the year in which their article came out; by decade where there are many years."""
    dated = {year: n for year, n in counts.items() if year is not None}
    undated = counts.get(None, 0)
    if not dated:
        return {"chart": None, "undated": undated}
    first, last = min(dated), max(dated)
    step = 1 if last - first < 45 else 10
    bins = [
        Bin(str(year), str(year) if step == 1 else f"{year}–{year + 9}", n)
        for year in range(first - first % step, last + 1, step)
        for n in [sum(dated.get(y, 0) for y in range(year, year + step))]
    ]
    about = f"Histogram: pairs by year of publication, from {first} to {last}."
    axis = "year of publication" if step == 1 else "decade of publication"
    return {"chart": charts.histogram(bins, axis, "pairs", about), "undated": undated}


def _work(tables: Tables) -> dict[str, Any]:
    """What building took: totals, and the shards that took the most CPU time."""
    shards = sorted(tables.done, key=lambda done: (-done.cpu_seconds, done.task))
    pairs = sum(done.counts["pairs"] for done in shards)
    cpu = sum(done.cpu_seconds for done in shards)
    longest = shards[0].cpu_seconds if shards else 0.0
    rows = [
        {
            "done": done,
            "rate": part(done.counts["pairs"], done.cpu_seconds),
            "bytes": sum(file.size for file in done.outputs if file.path.endswith(".tar")),
            "width": part(done.cpu_seconds, longest),
        }
        for done in shards[:20]
    ]
    return {
        "rows": rows,
        "num_shards": len(shards),
        "cpu": cpu,
        "wall": sum(done.seconds for done in shards),
        "rate": part(pairs, cpu),
        "disagreements": statistics.num_built(tables, "licence_disagreements"),
    }


def _commands(
    archive: Archive, info: dict[str, Any], pairs: list[dict[str, Any]]
) -> list[tuple[str, str]]:
    """(command, what it does)."""
    root = shlex.quote(str(archive.root))
    source = shlex.quote(_without_secrets(str(info.get("source"))))
    key = pairs[0]["key"] if pairs else "KEY"
    return [
        (f"biomedica show {root} {key}", "one pair: picture, caption, mentions and all its facts"),
        (f"biomedica doctor {root}", "whether every file is there and as it was written"),
        (
            f"biomedica build {source} {root}",
            "go on where a build stopped, or take up what is new; with the options of the first build",
        ),
    ]


def _number(count: int) -> str:
    return f"{count:,}"


def _percent(share: float) -> str:
    """A share with one decimal; what is there is never shown as nothing, nor what lacks as all."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    if 0.999 < share < 1:
        return "> 99.9 %"
    return f"{100 * share:.1f} %"


def _size(count: float) -> str:
    """Bytes in decimal units."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def _time(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
