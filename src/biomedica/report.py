"""An archive as one self-contained HTML page: what is in it, what fell out, and why.

Numbers are counted by DuckDB over the Parquet files of finished shards; samples that tombstones
withdraw, and articles and rejects of plan rows that are no longer live, are left out.
"""

from __future__ import annotations

import base64
import glob
import io
import math
import re
import shlex
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from biomedica.archive import CHANGELOG, Archive, Done
from biomedica.errors import ArchiveError, ConfigError
from biomedica.plan import PLAN
from biomedica.records import LicenceGroup, Reason
from biomedica.shards import ARTICLES, FIGURES, REJECTS, write_file

MAX_PAIRS = 100
"""Pairs that a page shows at the most; it stays under 3 MB."""
_THUMBNAIL_SIDE = 240
_CLIPPED = 180
"""Characters of a caption that are shown before its reader asks for the rest."""
_MEMORY = "2GB"
"""What DuckDB holds before it writes to a temporary folder."""

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


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of a table of counts."""

    label: str | None
    count: int
    share: float
    """Of all that is counted, 0 to 1."""
    width: float
    """Length of its bar, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The most frequent values, and what is left beyond them."""

    bars: list[Bar]
    num_others: int
    count_others: int
    share_others: float | None
    """None where a row can have several labels, for then it says nothing."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What left the way from the catalog to the pairs at one step."""

    count: int
    about: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step of that way: what came out of it, and what did not."""

    label: str
    count: int
    width: float
    """Length of its bar, 0 to 1."""
    about: str = ""
    losses: list[Loss] = field(default_factory=list)
    is_broken: bool = False
    """The bar is cut short."""


@dataclass(frozen=True, slots=True)
class Bin:
    """One bar of a histogram."""

    label: str
    about: str
    count: int


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
            with closing(_Tables(archive, done, Path(scratch))) as tables:
                content = _content(archive, tables, seed, num_pairs)
        except (duckdb.Error, pa.ArrowException) as error:
            said = str(error).splitlines()[0]
            raise ArchiveError(
                f"a table of {archive.root} cannot be read: {said}. `biomedica doctor` finds out which"
            ) from error
    page = _environment().get_template("report.html.j2").render(content).lstrip()
    path = path or archive.root / "report.html"
    write_file(path, page.encode())
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("biomedica"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "percent": _percent, "size": _size, "time": _time}
    return environment


class _Tables:
    """Views of an archive's live rows: figures, articles, rejects, plan, catalog. To be closed."""

    def __init__(self, archive: Archive, done: dict[str, Done], scratch: Path) -> None:
        self._db = duckdb.connect(
            config={
                "memory_limit": _MEMORY,
                "temp_directory": str(scratch),
                "preserve_insertion_order": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            }
        )
        root = archive.root
        self._files("plan", [archive.plan_path] if archive.plan_path.exists() else [], PLAN)
        self.tasks = [row["task"] for row in self.rows("SELECT DISTINCT task FROM plan ORDER BY 1")]
        self.done = [done[task] for task in self.tasks if task in done]
        self.lacking: list[Path] = []
        self._files("catalog", sorted((root / "catalog").glob("part-*.parquet")), PLAN)
        self._files("figures_written", self._of_tasks(root, "figures"), FIGURES)
        self._files("articles_written", self._of_tasks(root, "articles"), ARTICLES)
        self._files("rejects_written", self._of_tasks(root, "rejects"), REJECTS)
        others = [root / "rejects" / f"{name}.parquet" for name in ("catalog", "enrich")]
        self._files("rejects_before", [path for path in others if path.exists()], REJECTS)
        changelog = archive.changelog_path
        self._files("changelog", [changelog] if changelog.exists() else [], CHANGELOG)
        self._db.register("tombstones", archive.tombstones())
        self._db.register("finished", pa.table({"task": [each.task for each in self.done]}, _TASK))
        self._db.execute(_VIEWS)

    def _of_tasks(self, root: Path, kind: str) -> list[Path]:
        """Files of the finished tasks; those that are gone are noted."""
        groups = [Path(kind) if kind == "rejects" else Path(kind, done.group) for done in self.done]
        files = [root / g / f"{d.task}.parquet" for g, d in zip(groups, self.done, strict=True)]
        self.lacking += [path for path in files if not path.exists()]
        return [path for path in files if path.exists()]

    def _files(self, name: str, files: Sequence[Path], schema: pa.Schema) -> None:
        if files:
            listed = ", ".join("'" + glob.escape(str(f)).replace("'", "''") + "'" for f in files)
            rows = f"SELECT * FROM read_parquet([{listed}], filename = true)"
        else:
            self._db.register(f"no_{name}", schema.empty_table())
            rows = f"SELECT *, '' AS filename FROM no_{name}"
        self._db.execute(f"CREATE VIEW {name} AS {rows}")

    def rows(self, query: str, values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """The answer to a query, which must be small."""
        cursor = self._db.execute(query, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def row(self, query: str) -> dict[str, Any]:
        """The one row that a query gives."""
        (only,) = self.rows(query)
        return only

    def close(self) -> None:
        self._db.close()


_TASK = pa.schema([("task", pa.string())])
_VIEWS = """
CREATE VIEW live AS SELECT task, 'PMC' || number AS pmcid, version FROM plan WHERE is_live;
CREATE VIEW figures AS
    SELECT * FROM figures_written ANTI JOIN tombstones USING (key, shard);
CREATE VIEW articles AS
    SELECT a.* FROM articles_written AS a SEMI JOIN live AS l
    ON l.task = parse_filename(a.filename, true) AND l.pmcid = a.pmcid AND l.version = a.version;
CREATE VIEW build_rejects AS
    SELECT r.* FROM rejects_written AS r SEMI JOIN live AS l
    ON l.task = parse_filename(r.filename, true) AND l.pmcid = r.pmcid AND l.version = r.version;
CREATE VIEW rejects AS SELECT * FROM build_rejects UNION ALL SELECT * FROM rejects_before;
"""


def _content(archive: Archive, tables: _Tables, seed: int, num_pairs: int) -> dict[str, Any]:
    """All that the template shows."""
    info = archive.info()
    totals = _totals(tables)
    pairs = _pairs(archive, tables, seed, num_pairs)
    return {
        "info": info,
        "source": _without_secrets(str(info.get("source"))),
        "settings": _settings(info, tables.done),
        "selection": _selection(info.get("selection") or {}),
        "state": _state(tables),
        "totals": totals,
        "steps": _funnel(tables, totals),
        "rejects": _rejects(tables, seed),
        "licences": _licences(tables, totals),
        "seed": seed,
        "pairs": pairs,
        "kinds": _ranking(tables, "SELECT figure_kind AS label FROM figures"),
        "sizes": _sizes(tables),
        "formats": _ranking(tables, "SELECT source_format AS label FROM figures"),
        "transforms": _ranking(tables, "SELECT transform AS label FROM figures", 12),
        "captions": _captions(tables),
        "mentions": _mentions(tables),
        **_bibliography(tables, totals),
        "retracted": _retracted(tables),
        "duplicates": tables.row(_DUPLICATES),
        "changes": _changes(tables),
        "work": _work(tables),
        "commands": _commands(archive, info, pairs),
    }


def _without_secrets(uri: str) -> str:
    """An address without user, password and query."""
    return re.sub(r"//[^/@]*@", "//", uri).partition("?")[0] if "//" in uri else uri


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


def _state(tables: _Tables) -> dict[str, Any]:
    """Whether the archive is whole."""
    return {
        "num_tasks": len(tables.tasks),
        "num_done": len(tables.done),
        "lacking": [path.name for path in tables.lacking],
        "num_withdrawn": tables.row("SELECT count(*) AS n FROM tombstones")["n"],
    }


def _totals(tables: _Tables) -> dict[str, int]:
    """Headline numbers."""
    tars = [file for done in tables.done for file in done.outputs if file.path.endswith(".tar")]
    return {
        **tables.row("SELECT count(*) AS pairs, count(figure_rights) AS with_rights FROM figures"),
        **tables.row(
            "SELECT count(*) AS articles, count(*) FILTER (num_figures > 0) AS with_pairs FROM articles"
        ),
        **tables.row(
            "SELECT count(*) AS figures, coalesce(sum(n), 0) AS mentions, "
            "count(*) FILTER (n > 0) AS mentioned FROM (SELECT any_value(len(mentions)) AS n "
            "FROM figures GROUP BY pmcid, version, figure_position)"
        ),
        "shards": len(tars),
        "bytes": sum(file.size for file in tars),
    }


def _funnel(tables: _Tables, totals: dict[str, int]) -> list[Step]:
    """From the catalog's article versions to pairs."""
    found = tables.row(_FUNNEL)
    catalog, planned, parsed = found["catalog"], found["planned"], totals["articles"]
    wide = min(catalog, 1.25 * planned) if planned else catalog
    graphics = totals["pairs"] + found["refused"]
    figures, is_exact = _num_figures(tables, totals, found, graphics)
    tall = max(figures, graphics)
    extra = graphics + found["no_graphic"] - figures
    return [
        _step(
            "Article versions in the catalog",
            catalog,
            wide,
            "",
            [Loss(catalog - planned, "not selected, or a newer version is taken")],
        ),
        _step("planned", planned, wide, "", _not_parsed(tables, found)),
        _step(
            "parsed",
            parsed,
            wide,
            "",
            [Loss(parsed - found["with_figure"], "without a figure in the XML")],
        ),
        _step("with at least one figure", found["with_figure"], wide),
        _step(
            "Figures in them",
            figures,
            tall,
            _more(extra, is_exact),
            [Loss(found["no_graphic"], "without a picture")],
        ),
        _step(
            "pictures that they name",
            graphics,
            tall,
            "",
            _losses(tables, "contains(key, '/') AND reason <> 'no_graphic'"),
        ),
        _step("image-caption pairs", totals["pairs"], tall),
    ]


def _step(
    label: str, count: int, whole: float, about: str = "", losses: Sequence[Loss] = ()
) -> Step:
    """A step whose bar is measured against `whole`, and cut short where it is longer."""
    lost = [loss for loss in losses if loss.count > 0]
    return Step(label, count, min(1.0, _part(count, whole)), about, lost, count > whole)


def _more(extra: int, is_exact: bool) -> str:
    more = f"+ {extra:,} further pictures of figures with several" if extra > 0 else ""
    return more if is_exact else "at the most: articles withdrawn since are left out"


def _not_parsed(tables: _Tables, found: dict[str, int]) -> list[Loss]:
    """Planned articles that left no row: refused, or their shard is not built yet."""
    waiting = Loss(found["planned"] - found["built"], "in shards that are not built yet")
    return [*_losses(tables, "NOT contains(key, '/')"), waiting]


def _losses(tables: _Tables, condition: str) -> list[Loss]:
    """Rejects of the build by reason, the most frequent first."""
    rows = tables.rows(
        f"SELECT reason, count(*) AS n FROM build_rejects WHERE {condition} "
        "GROUP BY reason ORDER BY n DESC, reason"
    )
    return [Loss(row["n"], row["reason"].replace("_", " ")) for row in rows]


def _num_figures(
    tables: _Tables, totals: dict[str, int], found: dict[str, int], graphics: int
) -> tuple[int, bool]:
    """(figures in the XML of the live articles, whether that is exact).

    The build counts them by shard. Where articles were withdrawn since, they are counted from pairs
    and rejects: then each picture of a figure that was refused whole counts as a figure of its own.
    """
    built = Counter[str]()
    for done in tables.done:
        built.update(done.counts)
    if not found["withdrawn"] and built["graphics"] == graphics:
        return built["figures"], True
    kept = tables.row(
        "SELECT coalesce(sum(n), 0) AS n FROM (SELECT any_value(num_graphics) AS n FROM figures "
        "GROUP BY pmcid, version, figure_position)"
    )
    return totals["figures"] + found["no_graphic"] + graphics - kept["n"], False


_FUNNEL = """
SELECT (SELECT count(*) FROM catalog) AS catalog,
    (SELECT count(*) FROM live) AS planned,
    (SELECT count(*) FROM live SEMI JOIN finished USING (task)) AS built,
    (SELECT count(*) FROM plan WHERE NOT is_live) AS withdrawn,
    (SELECT count(*) FROM articles AS a WHERE num_figures > 0 OR EXISTS (
        SELECT 1 FROM build_rejects AS r
        WHERE r.pmcid = a.pmcid AND r.version = a.version)) AS with_figure,
    (SELECT count(*) FROM build_rejects WHERE reason = 'no_graphic') AS no_graphic,
    (SELECT count(*) FROM build_rejects
        WHERE contains(key, '/') AND reason <> 'no_graphic') AS refused
"""


def _rejects(tables: _Tables, seed: int) -> list[dict[str, Any]]:
    """Rejects by stage and reason, the most frequent first, with up to three examples each."""
    rows = tables.rows(
        "SELECT stage, reason, count(*) AS count, min({'order': md5(concat($seed, '/', key)), "
        "'key': key, 'detail': detail}, 3) AS examples FROM rejects "
        "GROUP BY stage, reason ORDER BY count DESC, reason, stage",
        {"seed": seed},
    )
    longest = max((row["count"] for row in rows), default=0)
    return [
        row | {"about": EXPLANATIONS[Reason(row["reason"])], "width": _part(row["count"], longest)}
        for row in rows
    ]


def _licences(tables: _Tables, totals: dict[str, int]) -> list[dict[str, Any]]:
    """The three groups, each with its codes."""
    rows = tables.rows(
        "SELECT licence_group, license_code AS label, count(*) AS n, "
        "count(DISTINCT pmcid || '.' || version) AS articles FROM figures "
        "GROUP BY ALL ORDER BY n DESC, label"
    )
    bars = _bars([(row["label"], row["n"]) for row in rows], totals["pairs"])
    groups = []
    for group, about in _GROUPS.items():
        codes = [
            {"bar": bar, "articles": row["articles"]}
            for row, bar in zip(rows, bars, strict=True)
            if row["licence_group"] == group.value
        ]
        count = sum(code["bar"].count for code in codes)
        share = _part(count, totals["pairs"])
        groups.append(
            {"name": group.value, "about": about, "codes": codes, "count": count, "share": share}
        )
    return groups


def _pairs(archive: Archive, tables: _Tables, seed: int, num_pairs: int) -> list[dict[str, Any]]:
    """Random pairs with their thumbnails, in random order."""
    chosen = tables.rows(
        "SELECT key, shard FROM figures ORDER BY md5(concat($seed, '/', shard, '/', key)), shard, key "
        "LIMIT $n",
        {"seed": seed, "n": num_pairs},
    )
    return [_pair(archive, place["shard"], place["key"]) for place in chosen]


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


def _ranking(tables: _Tables, labels: str, limit: int = 15, whole: int | None = None) -> Ranking:
    """The most frequent values of a query's one column, `label`.

    whole   what shares are measured by, where a row can have several labels
    """
    rows = tables.rows(
        f"SELECT label, count(*) AS n, count(*) OVER () AS kinds, sum(count(*)) OVER () AS total "
        f"FROM ({labels}) GROUP BY label ORDER BY n DESC, label NULLS LAST LIMIT {limit}"
    )
    total = int(rows[0]["total"]) if rows else 0
    bars = _bars([(row["label"], row["n"]) for row in rows], whole or total)
    rest = total - sum(bar.count for bar in bars)
    num_others = rows[0]["kinds"] - len(rows) if rows else 0
    return Ranking(bars, num_others, rest, None if whole else _part(rest, total))


def _bars(counts: Sequence[tuple[str | None, int]], whole: int) -> list[Bar]:
    longest = max((n for _, n in counts), default=0)
    return [Bar(label, n, _part(n, whole), _part(n, longest)) for label, n in counts]


def _sizes(tables: _Tables) -> dict[str, Any]:
    """Widths against heights, in steps of an eighth of a decade."""
    cells = tables.rows(
        f"SELECT CAST(floor({_DECADE} * log10(width)) AS INTEGER) AS x, "
        f"CAST(floor({_DECADE} * log10(height)) AS INTEGER) AS y, count(*) AS n "
        "FROM figures GROUP BY x, y ORDER BY x, y"
    )
    facts = tables.row(
        "SELECT quantile_disc(width, 0.5) AS width, quantile_disc(height, 0.5) AS height, "
        "quantile_disc(least(width, height), [0.05, 0.5, 0.95]) AS shorter, "
        "coalesce(sum(source_bytes), 0) AS source_bytes, coalesce(sum(jpg_size), 0) AS bytes "
        "FROM figures"
    )
    counts = {(cell["x"], cell["y"]): cell["n"] for cell in cells}
    return facts | {"chart": _heat_map(counts) if counts else None}


def _captions(tables: _Tables) -> dict[str, Any]:
    """Words a caption."""
    return _distribution(
        tables, "SELECT len(string_split(caption, ' ')) AS value FROM figures", "words", "pairs"
    )


def _mentions(tables: _Tables) -> dict[str, Any]:
    """Paragraphs that cite a figure, over figures with a pair."""
    query = "SELECT any_value(len(mentions)) AS value FROM figures GROUP BY pmcid, version, figure_position"
    return _distribution(tables, query, "paragraphs that cite the figure", "figures")


def _distribution(tables: _Tables, query: str, unit: str, of: str) -> dict[str, Any]:
    """Median, ninetieth percentile, most and histogram of a query's one column, `value`."""
    rows = tables.rows(f"SELECT value, count(*) AS n FROM ({query}) GROUP BY value ORDER BY value")
    counts = [(row["value"], row["n"]) for row in rows]
    if not counts:
        return {"chart": None}
    median, most = _quantile(counts, 0.5), counts[-1][0]
    bins = _bins(counts, unit)
    about = f"Histogram: {unit}, number of {of}. Median {median:,}, most {most:,}."
    chart = _histogram(bins, unit, of, about, at_edges=len(bins) > 1 and "–" in bins[0].about)
    return {"chart": chart, "median": median, "ninety": _quantile(counts, 0.9), "most": most}


def _quantile(counts: Sequence[tuple[int, int]], share: float) -> int:
    """Smallest value with at least this share of the total up to it. counts   (value, n), sorted"""
    due = share * sum(n for _, n in counts)
    reached = 0
    for value, n in counts:
        reached += n
        if reached >= due:
            return value
    return counts[-1][0]


def _bins(counts: Sequence[tuple[int, int]], unit: str) -> list[Bin]:
    """Up to 25 bins of a round width; the last takes the upper hundredth. counts   as `_quantile`"""
    end = _quantile(counts, 0.99) + 1
    width = next(w for k in range(19) for w in (10**k, 2 * 10**k, 5 * 10**k) if end <= 24 * w)
    last = math.ceil(end / width)
    numbers: Counter[int] = Counter()
    for value, n in counts:
        numbers[min(value // width, last)] += n
    bins = []
    for index in range(last + (last in numbers)):
        start, stop = index * width, (index + 1) * width - 1
        span = f"{start:,} or more" if index == last else f"{start:,}–{stop:,}"
        span = f"{start:,}" if width == 1 and index < last else span
        label = f"{start:,}+" if index == last else f"{start:,}"
        bins.append(Bin(label, f"{span} {unit}", numbers[index]))
    return bins


def _bibliography(tables: _Tables, totals: dict[str, int]) -> dict[str, Any]:
    """Journals, years, article types and MeSH headings."""
    mesh = tables.row("SELECT count(*) AS n FROM articles WHERE len(mesh_terms) > 0")["n"]
    descriptors = (
        "list_distinct(list_transform(mesh_terms, lambda t: rtrim(split_part(t, '/', 1), '*')))"
    )
    return {
        "journals": _ranking(tables, "SELECT journal AS label FROM figures"),
        "years": _years(tables),
        "types": _ranking(tables, "SELECT article_type AS label FROM articles"),
        "mesh": _ranking(tables, f"SELECT unnest({descriptors}) AS label FROM articles", 15, mesh),
        "num_with_mesh": mesh,
    }


def _years(tables: _Tables) -> dict[str, Any]:
    """Pairs by the year in which their article came out; by decade where there are many years."""
    rows = tables.rows(
        "SELECT year(published) AS y, count(*) AS n FROM figures GROUP BY y ORDER BY y"
    )
    counts = Counter({row["y"]: row["n"] for row in rows})
    undated = counts.pop(None, 0)
    if not counts:
        return {"chart": None, "undated": undated}
    first, last = min(counts), max(counts)
    step = 1 if last - first < 45 else 10
    bins = [
        Bin(str(year), str(year) if step == 1 else f"{year}–{year + 9}", n)
        for year in range(first - first % step, last + 1, step)
        for n in [sum(counts[y] for y in range(year, year + step))]
    ]
    about = f"Histogram: pairs by year of publication, from {first} to {last}."
    axis = "year of publication" if step == 1 else "decade of publication"
    return {"chart": _histogram(bins, axis, "pairs", about), "undated": undated}


_DUPLICATES = """
SELECT coalesce(sum(n), 0) AS pairs, count(*) AS pictures, coalesce(max(n), 0) AS most
FROM (SELECT count(*) AS n FROM figures GROUP BY sha256 HAVING n > 1)
"""


def _retracted(tables: _Tables) -> dict[str, Any]:
    """Number of retracted articles and of their pairs, and the first twenty-five of them."""
    rows = tables.rows(
        "SELECT pmcid, version, title, journal, year(published) AS year, num_figures FROM articles "
        "WHERE is_retracted ORDER BY CAST(substr(pmcid, 4) AS BIGINT), version LIMIT 25"
    )
    counts = tables.row(
        "SELECT count(*) AS articles, coalesce(sum(num_figures), 0) AS pairs FROM articles "
        "WHERE is_retracted"
    )
    return counts | {"rows": rows}


def _changes(tables: _Tables) -> list[dict[str, Any]]:
    """The changelog by day and kind of change, the newest first."""
    return tables.rows(
        "SELECT since, change, count(*) AS articles, sum(num_samples) AS samples FROM changelog "
        "GROUP BY since, change ORDER BY since DESC NULLS LAST, articles DESC, change LIMIT 60"
    )


def _work(tables: _Tables) -> dict[str, Any]:
    """What building took: totals, and the shards that took the most CPU time."""
    shards = sorted(tables.done, key=lambda done: (-done.cpu_seconds, done.task))
    pairs = sum(done.counts["pairs"] for done in shards)
    cpu = sum(done.cpu_seconds for done in shards)
    longest = shards[0].cpu_seconds if shards else 0.0
    rows = [
        {
            "done": done,
            "rate": _part(done.counts["pairs"], done.cpu_seconds),
            "bytes": sum(file.size for file in done.outputs if file.path.endswith(".tar")),
            "width": _part(done.cpu_seconds, longest),
        }
        for done in shards[:20]
    ]
    return {
        "rows": rows,
        "num_shards": len(shards),
        "cpu": cpu,
        "wall": sum(done.seconds for done in shards),
        "rate": _part(pairs, cpu),
        "disagreements": sum(done.counts.get("licence_disagreements", 0) for done in shards),
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


_WIDTH, _HEIGHT = 460, 220
_LEFT, _TOP, _BOTTOM = 52, 26, 40
_DECADE = 8
"""Cells of the heat map a decade."""


def _histogram(
    bins: Sequence[Bin], axis: str, of: str, about: str, *, at_edges: bool = False
) -> Markup:
    """Bars with a scale. at_edges   labels stand at the left edge of a bar, not below its middle"""
    top, step = _scale(max(each.count for each in bins))
    floor, tall = _HEIGHT - _BOTTOM, _HEIGHT - _BOTTOM - _TOP
    wide = (_WIDTH - _LEFT - 12) / len(bins)
    body = [_text(0, 12, of, "start")]
    for count in range(0, top + 1, step):
        y = floor - tall * count / top
        body += [_line(_LEFT, y, _WIDTH, y), _text(_LEFT - 7, y + 4, f"{count:,}", "end")]
    for index, each in enumerate(bins):
        x, height = _LEFT + index * wide, tall * each.count / top
        body.append(
            _rect(x + 0.5, floor - height, wide - 1, height, f"{each.about}: {each.count:,}")
        )
    for index in _labelled(bins):
        x = _LEFT + (index + (0 if at_edges else 0.5)) * wide
        body.append(_text(x, floor + 16, bins[index].label, "middle"))
    body.append(_text(_LEFT + (_WIDTH - _LEFT) / 2, _HEIGHT - 6, axis, "middle"))
    return _svg(_WIDTH, _HEIGHT, about, body)


def _scale(most: int) -> tuple[int, int]:
    """(end of an axis, distance of its lines): two to five lines, at round numbers."""
    step = next(s for k in range(19) for s in (10**k, 2 * 10**k, 5 * 10**k) if most <= 4 * s)
    return step * max(1, math.ceil(most / step)), step


def _labelled(bins: Sequence[Bin]) -> list[int]:
    """Indices of up to nine bins to label, the open last one among them."""
    every = math.ceil(len(bins) / 8)
    chosen = list(range(0, len(bins), every))
    if bins[-1].label.endswith("+") and chosen[-1] != len(bins) - 1:
        last = len(bins) - 1
        chosen = [index for index in chosen if last - index > 0.7 * every] + [last]
    return chosen


def _heat_map(counts: Mapping[tuple[int, int], int]) -> Markup:
    """Cells on two logarithmic axes, darker for more. counts   by (width, height) in eighths of a decade"""
    low = min(min(place) for place in counts) - 1
    high = max(low + 12, max(max(place) for place in counts) + 2)
    side = 300
    cell = side / (high - low)
    most = max(counts.values())
    body = [_text(0, 12, "height, px", "start")]
    for power in range(low // _DECADE, high // _DECADE + 1):
        for pixels in (10**power, 3 * 10**power):
            place = (_DECADE * math.log10(pixels) - low) * cell
            if 0 <= place <= side:
                x, y = _LEFT + place, _TOP + side - place
                body += [_line(x, _TOP, x, _TOP + side), _line(_LEFT, y, _LEFT + side, y)]
                body.append(_text(x, _TOP + side + 16, f"{pixels:,}", "middle"))
                body.append(_text(_LEFT - 7, y + 4, f"{pixels:,}", "end"))
    for (x, y), n in sorted(counts.items()):
        about = f"about {_pixels(x)} × {_pixels(y)} px: {n:,}"
        left, top = _LEFT + (x - low) * cell, _TOP + (high - y - 1) * cell
        body.append(
            _rect(left, top, cell, cell, about, 0.2 + 0.8 * math.log1p(n) / math.log1p(most))
        )
    body.append(_text(_LEFT + side / 2, _TOP + side + 34, "width, px", "middle"))
    return _svg(_LEFT + side + 24, _TOP + side + _BOTTOM, "Heat map: widths and heights", body)


def _pixels(index: int) -> str:
    return f"{round(10 ** ((index + 0.5) / _DECADE)):,}"


def _svg(width: float, height: float, about: str, body: Iterable[Markup]) -> Markup:
    shape = " square" if height > 0.8 * width else ""
    start = Markup('<svg class="chart{}" viewBox="0 0 {} {}" role="img" aria-label="{}">')
    return start.format(shape, width, height, about) + Markup("\n").join(body) + Markup("</svg>")


def _rect(x: float, y: float, width: float, height: float, about: str, ink: float = 1.0) -> Markup:
    return Markup(
        '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill-opacity="{:.2f}">'
        "<title>{}</title></rect>"
    ).format(x, y, width, height, ink, about)


def _line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, text
    )


def _part(count: float, whole: float) -> float:
    return count / whole if whole else 0.0


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
