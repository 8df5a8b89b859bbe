"""Counts over the tables of an archive, by DuckDB over the Parquet files of finished shards.

Samples that tombstones withdraw, and articles and rejects of plan rows that are no longer live, are
left out.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from biomedica.archive import CHANGELOG, Archive, Done
from biomedica.plan import PLAN
from biomedica.shards import ARTICLES, FIGURES, REJECTS

_MEMORY = "2GB"
"""What DuckDB holds before it writes to a temporary folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frequencies:
    """How often each value stands in a column."""

    counts: list[tuple[str | None, int]]
    """(value, rows), the most frequent first, as many as were asked for."""
    num_kinds: int
    """Different values, with those that `counts` leaves out."""
    total: int
    """Rows, with those that `counts` leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """Numbers on the way from the catalog's article versions to pairs."""

    catalog: int
    planned: int
    built: int
    """Planned articles whose shard is finished."""
    parsed: int
    with_figure: int
    figures: int
    figures_are_exact: bool
    """False where `figures` is the most that there can be."""
    no_graphic: int
    """Figures without a picture."""
    graphics: int
    """Pictures that the figures name."""
    pairs: int
    refused_articles: list[tuple[str, int]]
    """(reason, rejects), the most frequent first."""
    refused_pictures: list[tuple[str, int]]


class Tables:
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


def totals(tables: Tables) -> dict[str, int]:
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


def num_withdrawn(tables: Tables) -> int:
    """Samples that tombstones withdraw."""
    return int(tables.row("SELECT count(*) AS n FROM tombstones")["n"])


def funnel(tables: Tables) -> Funnel:
    """What came out of each step, and what fell out of it."""
    found = tables.row(_FUNNEL)
    graphics = found["pairs"] + found["refused"]
    figures, is_exact = _num_figures(tables, found, graphics)
    return Funnel(
        catalog=found["catalog"],
        planned=found["planned"],
        built=found["built"],
        parsed=found["parsed"],
        with_figure=found["with_figure"],
        figures=figures,
        figures_are_exact=is_exact,
        no_graphic=found["no_graphic"],
        graphics=graphics,
        pairs=found["pairs"],
        refused_articles=_refused(tables, "NOT contains(key, '/')"),
        refused_pictures=_refused(tables, "contains(key, '/') AND reason <> 'no_graphic'"),
    )


def _refused(tables: Tables, condition: str) -> list[tuple[str, int]]:
    """Rejects of the build by reason, the most frequent first."""
    rows = tables.rows(
        f"SELECT reason, count(*) AS n FROM build_rejects WHERE {condition} "
        "GROUP BY reason ORDER BY n DESC, reason"
    )
    return [(row["reason"], row["n"]) for row in rows]


def _num_figures(tables: Tables, found: dict[str, Any], graphics: int) -> tuple[int, bool]:
    """(figures in the XML of the live articles, whether that is exact).

    The build counts them by shard. Where articles were withdrawn since, or a shard that was compacted
    knows no more, they are counted from pairs and rejects: then each picture of a figure that was
    refused whole counts as a figure of its own.
    """
    built = num_built(tables, "figures")
    if built is not None and not found["withdrawn"] and num_built(tables, "graphics") == graphics:
        return built, True
    kept = tables.row(
        "SELECT count(*) AS figures, coalesce(sum(n), 0) AS graphics FROM (SELECT "
        "any_value(num_graphics) AS n FROM figures GROUP BY pmcid, version, figure_position)"
    )
    return kept["figures"] + found["no_graphic"] + graphics - kept["graphics"], False


def num_built(tables: Tables, name: str) -> int | None:
    """What the build counted under this name; None where a shard no longer knows it."""
    counts = [done.counts.get(name) for done in tables.done]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


_FUNNEL = """
SELECT (SELECT count(*) FROM catalog) AS catalog,
    (SELECT count(*) FROM live) AS planned,
    (SELECT count(*) FROM live SEMI JOIN finished USING (task)) AS built,
    (SELECT count(*) FROM plan WHERE NOT is_live) AS withdrawn,
    (SELECT count(*) FROM articles) AS parsed,
    (SELECT count(*) FROM figures) AS pairs,
    (SELECT count(*) FROM articles AS a WHERE num_figures > 0 OR EXISTS (
        SELECT 1 FROM build_rejects AS r
        WHERE r.pmcid = a.pmcid AND r.version = a.version)) AS with_figure,
    (SELECT count(*) FROM build_rejects WHERE reason = 'no_graphic') AS no_graphic,
    (SELECT count(*) FROM build_rejects
        WHERE contains(key, '/') AND reason <> 'no_graphic') AS refused
"""


def rejects(tables: Tables, seed: int) -> list[dict[str, Any]]:
    """Rejects by stage and reason, the most frequent first, with up to three examples each."""
    return tables.rows(
        "SELECT stage, reason, count(*) AS count, min({'order': md5(concat($seed, '/', key)), "
        "'key': key, 'detail': detail}, 3) AS examples FROM rejects "
        "GROUP BY stage, reason ORDER BY count DESC, reason, stage",
        {"seed": seed},
    )


def licences(tables: Tables) -> list[dict[str, Any]]:
    """Pairs (`n`) and articles by licence code (`label`), the most frequent first."""
    return tables.rows(
        "SELECT licence_group, license_code AS label, count(*) AS n, "
        "count(DISTINCT pmcid || '.' || version) AS articles FROM figures "
        "GROUP BY ALL ORDER BY n DESC, label"
    )


def random_pairs(tables: Tables, seed: int, num_pairs: int) -> list[tuple[str, str]]:
    """(key, shard) of random pairs, in random order."""
    rows = tables.rows(
        "SELECT key, shard FROM figures ORDER BY md5(concat($seed, '/', shard, '/', key)), shard, key "
        "LIMIT $n",
        {"seed": seed, "n": num_pairs},
    )
    return [(row["key"], row["shard"]) for row in rows]


def column(tables: Tables, table: str, name: str, limit: int = 15) -> Frequencies:
    """The most frequent values of a column."""
    return _frequencies(tables, f"SELECT {name} AS label FROM {table}", limit)


def mesh_headings(tables: Tables, limit: int = 15) -> tuple[Frequencies, int]:
    """(headings that most articles have, articles that have any); qualifiers are left out."""
    headings = (
        "list_distinct(list_transform(mesh_terms, lambda t: rtrim(split_part(t, '/', 1), '*')))"
    )
    found = _frequencies(tables, f"SELECT unnest({headings}) AS label FROM articles", limit)
    indexed = tables.row("SELECT count(*) AS n FROM articles WHERE len(mesh_terms) > 0")
    return found, indexed["n"]


def _frequencies(tables: Tables, labels: str, limit: int) -> Frequencies:
    """Frequencies in a query's one column, `label`."""
    rows = tables.rows(
        f"SELECT label, count(*) AS n, count(*) OVER () AS kinds, sum(count(*)) OVER () AS total "
        f"FROM ({labels}) GROUP BY label ORDER BY n DESC, label NULLS LAST LIMIT {limit}"
    )
    return Frequencies(
        counts=[(row["label"], row["n"]) for row in rows],
        num_kinds=rows[0]["kinds"] if rows else 0,
        total=int(rows[0]["total"]) if rows else 0,
    )


def sizes(tables: Tables) -> dict[str, Any]:
    """Medians of width and height, quantiles of the shorter side, in pixels; bytes before and after."""
    return tables.row(
        "SELECT quantile_disc(width, 0.5) AS width, quantile_disc(height, 0.5) AS height, "
        "quantile_disc(least(width, height), [0.05, 0.5, 0.95]) AS shorter, "
        "coalesce(sum(source_bytes), 0) AS source_bytes, coalesce(sum(jpg_size), 0) AS bytes "
        "FROM figures"
    )


def size_cells(tables: Tables, cells_a_decade: int) -> dict[tuple[int, int], int]:
    """Pairs by (width, height), each the logarithm in whole steps of a decade's share."""
    rows = tables.rows(
        f"SELECT CAST(floor({cells_a_decade} * log10(width)) AS INTEGER) AS x, "
        f"CAST(floor({cells_a_decade} * log10(height)) AS INTEGER) AS y, count(*) AS n "
        "FROM figures GROUP BY x, y ORDER BY x, y"
    )
    return {(row["x"], row["y"]): row["n"] for row in rows}


def words_a_caption(tables: Tables) -> list[tuple[int, int]]:
    """(words, pairs), sorted."""
    return _distribution(tables, "SELECT len(string_split(caption, ' ')) AS value FROM figures")


def mentions_a_figure(tables: Tables) -> list[tuple[int, int]]:
    """(paragraphs that cite a figure, figures), sorted, over figures with a pair."""
    query = "SELECT any_value(len(mentions)) AS value FROM figures GROUP BY pmcid, version, figure_position"
    return _distribution(tables, query)


def _distribution(tables: Tables, query: str) -> list[tuple[int, int]]:
    """(value, rows) of a query's one column, `value`, sorted."""
    rows = tables.rows(f"SELECT value, count(*) AS n FROM ({query}) GROUP BY value ORDER BY value")
    return [(row["value"], row["n"]) for row in rows]


def years(tables: Tables) -> dict[int | None, int]:
    """Pairs by the year in which their article came out; None where it is not known."""
    rows = tables.rows(
        "SELECT year(published) AS y, count(*) AS n FROM figures GROUP BY y ORDER BY y"
    )
    return {row["y"]: row["n"] for row in rows}


def duplicates(tables: Tables) -> dict[str, Any]:
    """Pairs that share their picture byte for byte, such pictures, and the most pairs that one has."""
    return tables.row(
        "SELECT coalesce(sum(n), 0) AS pairs, count(*) AS pictures, coalesce(max(n), 0) AS most "
        "FROM (SELECT count(*) AS n FROM figures GROUP BY sha256 HAVING n > 1)"
    )


def retracted(tables: Tables) -> dict[str, Any]:
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


def changes(tables: Tables) -> list[dict[str, Any]]:
    """The changelog by day and kind of change, the newest first."""
    return tables.rows(
        "SELECT since, change, count(*) AS articles, sum(num_samples) AS samples FROM changelog "
        "GROUP BY since, change ORDER BY since DESC NULLS LAST, articles DESC, change LIMIT 60"
    )
