"""Compare an archive's figures, captions and mentions with an independent count of its bucket.

    python bench/accuracy.py ARCHIVE BUCKET --date 2026-11-22 --out docs/accuracy.md

The truth is `independent_count.py`, which shares no code with the parser. Rows and figures are
joined by the picture's file name, never by position. With `--peer-python` (an interpreter that has
`pubmed_parser`), that parser is measured on the same articles. The exit code is 1 when the archive
misses a bar: figures, graphics and captions 99.5 %, mentions 99 %, no duplicate, no thumbnail, no
caption on the wrong figure.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import independent_count

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".tif", ".tiff", ".webp", ".bmp")
VECTOR_SUFFIXES = (".svg", ".svgz", ".pdf", ".eps", ".ps")
ROW_COLUMNS = [
    "key", "pmcid", "version", "figure_id", "figure_position", "file_name", "caption", "mentions",
]  # fmt: skip
NEEDED_PERCENT = {"found": 99.5, "graphic": 99.5, "caption": 99.5, "mentions": 99.0}
CLIP = 60

PEER_SCRIPT = """
import json, sys
import pubmed_parser
for line in sys.stdin:
    try:
        figures = pubmed_parser.parse_pubmed_caption(line.rstrip("\\n")) or []
        answer = [[f.get("fig_id"), f.get("graphic_ref"), f.get("fig_caption")] for f in figures]
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    print("ANSWER " + json.dumps(answer), flush=True)
"""

ArticleId = tuple[str, int]


# --- inputs -----------------------------------------------------------------------------------


def known_suffix(name: str, suffixes: tuple[str, ...]) -> str:
    """The suffix if it is one of these, else "": the dot of "pone.0046493.g001" starts none."""
    return next((suffix for suffix in suffixes if name.lower().endswith(suffix)), "")


def stem(name: str) -> str:
    return name[: len(name) - len(known_suffix(name, IMAGE_SUFFIXES))]


def files_of_name(name: str, media: set[str]) -> set[str]:
    """The article's media files that an href's base name may mean."""
    if known_suffix(name, VECTOR_SUFFIXES):
        return set()
    if name in media and known_suffix(name, IMAGE_SUFFIXES):
        return {name}
    same_stem = {
        file for file in media if known_suffix(file, IMAGE_SUFFIXES) and stem(file) == stem(name)
    }
    # beside another format of the same stem, a .gif is the package's thumbnail
    larger = {file for file in same_stem if not file.lower().endswith(".gif")}
    return larger or same_stem


@dataclass
class Figure:
    """One unit of the truth, with what the archive and the peer say of it."""

    article: ArticleId
    unit: dict[str, Any]
    mains: list[set[str]]
    """Acceptable media files of each main graphic; empty where the bucket holds none."""
    thumbs: set[str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The archive's rows whose file is one of this figure's."""
    peer: tuple[str, str] | None = None
    """Graphic and caption as the peer gives them."""

    @property
    def title(self) -> str:
        unit = self.unit
        name = unit["id"] or f"{unit['kind']} number {unit['ordinal']}"
        return f"{name} ({unit['label']})" if unit["label"] else name

    @property
    def vector_only(self) -> bool:
        names = [name for main in self.unit["graphics"] for name in main]
        return bool(names) and all(known_suffix(name, VECTOR_SUFFIXES) for name in names)

    @property
    def expected(self) -> bool:
        """Whether the archive has to hold it: a caption, and a picture in the bucket."""
        return bool(self.unit["caption"]) and any(self.mains)


@dataclass
class Article:
    group: str
    figures: list[Figure]
    other_rows: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the archive whose picture belongs to no figure of the count."""


def media_of(bucket: Path, article: ArticleId) -> set[str]:
    version = f"{article[0]}.{article[1]}"
    record = json.loads((bucket / version / f"{version}.json").read_text(encoding="utf-8"))
    urls = record.get("media_urls") or []
    return {str(url).split("?", 1)[0].rsplit("/", 1)[-1] for url in urls}


def read_groups(bucket: Path) -> dict[str, str]:
    """Corpus group of each `PMC<id>.<version>`: the first folder of where it came from."""
    path = bucket / "index.tsv"
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {row["version"]: row["from"].split("/", 1)[0] or "stand-in" for row in rows}


def read_truth(bucket: Path) -> dict[ArticleId, Article]:
    groups = read_groups(bucket)
    articles: dict[ArticleId, Article] = {}
    for record in independent_count.count_bucket(bucket):
        article = (record["pmcid"], record["version"])
        media = media_of(bucket, article)
        figures = [
            Figure(
                article=article,
                unit=unit,
                mains=[
                    set().union(*(files_of_name(name, media) for name in main))
                    for main in unit["graphics"]
                ],
                thumbs=set().union(*(files_of_name(name, media) for name in unit["thumbs"])),
            )
            for unit in record.get("units", [])
        ]
        group = groups.get(f"{article[0]}.{article[1]}", "stand-in")
        articles[article] = Article(group, figures)
    return articles


def read_rows(archive: Path) -> list[dict[str, Any]]:
    """All rows of the figures files, without those withdrawn, in the order of the files."""
    rows: list[dict[str, Any]] = []
    for path in sorted(archive.glob("figures/*/*.parquet")):
        rows += pq.read_table(path, columns=ROW_COLUMNS).to_pylist()
    tombstones = archive / "tombstones.parquet"
    if tombstones.is_file():
        gone = set(pq.read_table(tombstones, columns=["key"]).column("key").to_pylist())
        rows = [row for row in rows if row["key"] not in gone]
    return rows


def read_rejects(archive: Path) -> list[dict[str, Any]]:
    paths = sorted(archive.glob("rejects/**/*.parquet")) + sorted(archive.glob("rejects.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


# --- joining ----------------------------------------------------------------------------------


def assign_rows(articles: dict[ArticleId, Article], rows: list[dict[str, Any]]) -> int:
    """Give each row to the figure whose picture it holds; the number of rows of no known article.

    A file that two figures use goes to the one whose id the row has, else to the first without it.
    """
    strangers = 0
    for row in rows:
        article = articles.get((row["pmcid"], int(row["version"])))
        if article is None:
            strangers += 1
            continue
        file = row["file_name"]
        candidates = [f for f in article.figures if any(file in main for main in f.mains)]
        candidates = candidates or [f for f in article.figures if file in f.thumbs]
        by_id = [f for f in candidates if row["figure_id"] and f.unit["id"] == row["figure_id"]]
        unused = [f for f in candidates if all(r["file_name"] != file for r in f.rows)]
        if candidates:
            (by_id or unused or candidates)[0].rows.append(row)
        else:
            article.other_rows.append(row)
    return strangers


def ask_peer(python: str, bucket: Path, articles: dict[ArticleId, Article]) -> Counter[str]:
    """Run pubmed_parser in its own environment; the errors it raised, by message."""
    order = list(articles)
    names = [f"{pmcid}.{version}" for pmcid, version in order]
    lines = "".join(f"{(bucket / name / name).resolve()}.xml\n" for name in names)
    done = subprocess.run(
        [python, "-c", PEER_SCRIPT], input=lines, capture_output=True, text=True, check=True
    )
    prefix = "ANSWER "
    answers = [
        json.loads(line.removeprefix(prefix))
        for line in done.stdout.splitlines()
        if line.startswith(prefix)
    ]
    errors: Counter[str] = Counter()
    for article, answer in zip(order, answers, strict=True):
        if isinstance(answer, str):
            errors[answer] += 1
            continue
        for figure_id, graphic, caption in answer:
            base = independent_count.base_name(graphic or "")
            figures = [f for f in articles[article].figures if f.peer is None]
            matching = [f for f in figures if figure_id and f.unit["id"] == figure_id] or [
                f for f in figures if base and any(base in main for main in f.unit["graphics"])
            ]
            if matching:
                matching[0].peer = (base, caption or "")
    return errors


# --- comparing --------------------------------------------------------------------------------


def collapse(text: str | None) -> str:
    return " ".join((text or "").split())


def clip(value: object) -> str:
    text = collapse(str(value))
    return text if len(text) <= CLIP else text[: CLIP - 1] + "…"


def around_difference(truth: str, ours: str) -> tuple[str, str]:
    """Both texts, from shortly before the first character in which they differ."""
    same = 0
    while same < min(len(truth), len(ours)) and truth[same] == ours[same]:
        same += 1
    start = max(0, same - 60)
    mark = "…" if start else ""
    return mark + clip(truth[start:]), mark + clip(ours[start:])


@dataclass(frozen=True)
class Difference:
    article: ArticleId
    figure: str
    what: str
    truth: str
    ours: str


class Comparison:
    """Counts of one group of figures, and every difference."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.differences: list[Difference] = []

    def note(self, figure: Figure, what: str, truth: str, ours: str) -> None:
        self.differences.append(Difference(figure.article, figure.title, what, truth, ours))

    def add_article(self, article: Article, rejects: dict[ArticleId, list[str]]) -> None:
        captions = {collapse(figure.unit["caption"]) for figure in article.figures} - {""}
        for figure in article.figures:
            self.add_excluded(figure)
            self.add_thumbnails_and_duplicates(figure)
            self.add_captions(figure, captions)
            if figure.expected:
                self.counts["expected"] += 1
                self.add_figure(figure, rejects.get(figure.article, []))
        for row in article.other_rows:
            self.add_other_row(row, captions)

    def add_other_row(self, row: dict[str, Any], captions: set[str]) -> None:
        self.counts["other rows"] += 1
        what = "row of no counted figure"
        if collapse(row["caption"]) in captions:
            self.counts["wrong captions"] += 1
            what = "a figure's caption on a picture that is not the figure's"
        told = f"{row['file_name']}: {clip(row['caption'])}"
        article = (row["pmcid"], int(row["version"]))
        self.differences.append(Difference(article, str(row["figure_id"]), what, "nothing", told))

    def add_captions(self, figure: Figure, captions: set[str]) -> None:
        truth = collapse(figure.unit["caption"])
        told = [collapse(row["caption"]) for row in figure.rows]
        if figure.expected and told and all(caption == truth for caption in told):
            self.counts["caption"] += 1
        for caption in dict.fromkeys(told):
            if caption != truth and caption in captions:
                self.counts["wrong captions"] += 1
                self.note(figure, "caption of another figure", *around_difference(truth, caption))
            elif caption != truth:
                self.note(figure, "caption differs", *around_difference(truth, caption))

    def add_excluded(self, figure: Figure) -> None:
        self.counts["units"] += 1
        if not figure.unit["graphics"]:
            self.counts["no graphic"] += 1
        elif figure.vector_only:
            self.counts["vector only"] += 1
        elif not any(figure.mains):
            self.counts["no media"] += 1
        elif not figure.unit["caption"]:
            self.counts["no caption"] += 1

    def add_thumbnails_and_duplicates(self, figure: Figure) -> None:
        full = set().union(*figure.mains)
        thumbs = [row["file_name"] for row in figure.rows if row["file_name"] not in full]
        self.counts["thumbnails"] += len(thumbs)
        for name in thumbs:
            self.note(figure, "thumbnail taken", ", ".join(sorted(full)), name)
        taken = [
            [row["file_name"] for row in figure.rows if row["file_name"] in main]
            for main in figure.mains
        ]
        if any(len(names) > 1 for names in taken):
            self.counts["duplicates"] += 1
            self.note(figure, "duplicate", "one row a graphic", clip(taken))

    def add_figure(self, figure: Figure, rejects: list[str]) -> None:
        rows = figure.rows
        files = {row["file_name"] for row in rows}
        if rows:
            self.counts["found"] += 1
        else:
            reasons = relevant_rejects(figure, rejects)
            self.note(
                figure,
                "not found",
                f"{figure.unit['graphics']}: {clip(figure.unit['caption'])}",
                reasons,
            )
        if all(main & files for main in figure.mains if main):
            self.counts["graphic"] += 1
        elif rows:
            missing = [sorted(main) for main in figure.mains if main and not main & files]
            self.note(figure, "graphic missing", clip(missing), clip(sorted(files)))
        self.add_mentions(figure)

    def add_mentions(self, figure: Figure) -> None:
        truth = Counter(collapse(text) for text in figure.unit["mentions"])
        unlinked = Counter(collapse(text) for text in figure.unit["unlinked_mentions"])
        ours: Counter[str] = Counter()
        if figure.rows:
            ours.update(collapse(m["text"]) for m in figure.rows[0]["mentions"] or [])
        missing, extra = truth - ours, ours - truth
        by_words = extra & unlinked
        extra -= by_words
        differing = min(missing.total(), extra.total())
        self.counts["mentions true"] += truth.total()
        self.counts["mentions found"] += (truth & ours).total()
        self.counts["mentions differing"] += differing
        self.counts["mentions extra"] += extra.total() - differing
        self.counts["mentions unlinked true"] += unlinked.total()
        self.counts["mentions unlinked found"] += by_words.total()
        if not figure.rows:
            return
        lost, added = sorted(missing.elements()), sorted(extra.elements())
        for one, other in zip(lost[:differing], added[:differing], strict=True):
            self.note(figure, "mention differs", *around_difference(one, other))
        for text in lost[differing:]:
            self.note(figure, "mention missing", clip(text), "nothing")
        for text in added[differing:]:
            self.note(figure, "mention extra", "nothing", clip(text))


def relevant_rejects(figure: Figure, rejects: list[str]) -> str:
    """The archive's own reasons: those that name the figure or its files, else the article's."""
    names = [name for main in figure.unit["graphics"] for name in main]
    wanted = [figure.unit["id"] or "", *[stem(name) for name in names]]
    plain = ["".join(c for c in name if c.isalnum()) for name in wanted if name]
    told = [
        reject
        for reject in rejects
        if any(name in "".join(c for c in reject if c.isalnum()) for name in plain)
    ]
    return clip("nothing; rejects: " + "; ".join(told or rejects[:3])) if rejects else "nothing"


def rejects_by_article(
    rejects: list[dict[str, Any]], articles: dict[ArticleId, Article]
) -> dict[ArticleId, list[str]]:
    """Each article's rejects as text; a key starts with the article, before `-`, `.` or `/`."""
    found: dict[ArticleId, list[str]] = {}
    starts = {f"{pmcid}{mark}{version}": (pmcid, version)
              for pmcid, version in articles for mark in "-."}  # fmt: skip
    for reject in rejects:
        key = str(reject["key"])
        head = key.split("/", 1)[0].split("-")
        for name in ("-".join(head[:2]), head[0]):
            if name in starts:
                told = f"{key} {reject.get('reason')} {reject.get('detail') or ''}"
                found.setdefault(starts[name], []).append(told)
                break
    return found


def peer_counts(articles: list[Article]) -> Counter[str]:
    """The peer reads `fig` alone, so image tables are left out; one right graphic is enough."""
    counts: Counter[str] = Counter()
    for figure in (f for article in articles for f in article.figures):
        if not figure.expected or figure.unit["kind"] != "fig":
            continue
        counts["expected"] += 1
        if figure.peer is None:
            continue
        graphic, caption = figure.peer
        names = {stem(name) for main in figure.unit["graphics"] for name in main}
        counts["found"] += 1
        counts["graphic"] += stem(graphic) in names
        counts["caption"] += collapse(caption) == collapse(figure.unit["caption"])
    return counts


def own_fig_counts(articles: list[Article]) -> Counter[str]:
    """The archive by the peer's rules, for the rows beside it."""
    figs = Comparison()
    for article in articles:
        figures = [figure for figure in article.figures if figure.unit["kind"] == "fig"]
        figs.add_article(Article(article.group, figures), {})
    return figs.counts


# --- report -----------------------------------------------------------------------------------


def share(part: int, whole: int) -> str:
    return f"{part} ({100 * part / whole:.2f} %)" if whole else "0 (no case)"


def machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        model = next(
            (x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), model
        )
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    )


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return [*lines, ""]


def escape(text: str) -> str:
    """Text for a list item: nothing in it is read as Markdown or HTML."""
    return "`" + text.replace("`", "'") + "`" if text else "(empty)"


def figure_row(name: str, c: Counter[str]) -> list[str]:
    whole = c["expected"]
    return [
        name, str(whole), share(c["found"], whole), share(c["graphic"], whole),
        share(c["caption"], whole), str(c["duplicates"]), str(c["thumbnails"]),
        str(c["wrong captions"]),
    ]  # fmt: skip


def mention_row(name: str, c: Counter[str]) -> list[str]:
    true = c["mentions true"]
    return [
        name, str(true), share(c["mentions found"], true), str(c["mentions differing"]),
        share(c["mentions found"] + c["mentions differing"], true), str(c["mentions extra"]),
        f"{c['mentions unlinked found']} of {c['mentions unlinked true']}",
    ]  # fmt: skip


def excluded_row(name: str, c: Counter[str]) -> list[str]:
    names = ["units", "no graphic", "vector only", "no media", "no caption", "expected"]
    return [name, *[str(c[column]) for column in names], str(c["other rows"])]


def peer_row(group: str, parser: str, c: Counter[str], mentions: str) -> list[str]:
    shares = [share(c[column], c["expected"]) for column in ("found", "graphic", "caption")]
    return [group, parser, str(c["expected"]), *shares, mentions]


def failures(c: Counter[str]) -> list[str]:
    """The bars that the archive misses, in words."""
    missed = []
    for name in ("found", "graphic", "caption"):
        if c[name] * 100 < NEEDED_PERCENT[name] * c["expected"]:
            missed.append(f"{name} {share(c[name], c['expected'])}, bar {NEEDED_PERCENT[name]} %")
    if c["mentions found"] * 100 < NEEDED_PERCENT["mentions"] * c["mentions true"]:
        told = share(c["mentions found"], c["mentions true"])
        missed.append(f"mentions {told}, bar {NEEDED_PERCENT['mentions']} %")
    missed += [
        f"{name}: {c[name]}, bar 0"
        for name in ("duplicates", "thumbnails", "wrong captions")
        if c[name]
    ]
    return missed if c["expected"] else ["no figure of the bucket could be compared"]


def write_report(
    articles: dict[ArticleId, Article],
    comparisons: dict[str, Comparison],
    peer_errors: Counter[str] | None,
    strangers: int,
    arguments: argparse.Namespace,
) -> list[str]:
    total = comparisons["all"].counts
    missed = failures(total)
    lines = [
        "# Accuracy of extraction",
        "",
        "Written by `bench/accuracy.py`; the truth is `bench/independent_count.py`, which shares",
        "no code with the parser. Figures are joined by picture file, captions and paragraphs are",
        "compared as text after white space is collapsed.",
        "",
        "- Command: `make bench`, which runs `python bench/standin.py BUCKET FILLED`, `biomedica build FILLED "
        "ARCHIVE` and `python bench/accuracy.py ARCHIVE FILLED`",
        f"- Date: {arguments.date}",
        f"- Machine: {machine()}",
        f"- Articles: {len(articles)}; rows of articles that are not in the bucket: {strangers}",
        f"- Verdict: {'all bars met' if not missed else '; '.join(missed)}",
        "",
        "## Figures",
        "",
        "Figures (and image tables) with a caption and a raster picture in the bucket. Graphic:",
        "every picture of the figure is there. Caption: exact, on all its rows.",
        "",
        *table(
            ["group", "figures", "found", "right graphic", "exact caption", "with duplicates",
             "thumbnails taken", "captions of another figure"],
            [figure_row(name, one.counts) for name, one in comparisons.items()],
        ),
        "What the count above leaves out, and rows whose picture belongs to no counted figure.",
        "",
        *table(
            ["group", "all units", "no graphic", "svg, pdf or eps only", "not in the bucket",
             "no caption", "compared", "other rows"],
            [excluded_row(name, one.counts) for name, one in comparisons.items()],
        ),
        "## Mentions",
        "",
        "Pairs of a figure and a paragraph that links to it. Differing: as many paragraphs as in",
        "the truth, with another text. Unlinked: paragraphs that name a figure in words alone.",
        "",
        *table(
            ["group", "true", "found, same text", "differing text", "found, any text", "extra",
             "unlinked found"],
            [mention_row(name, one.counts) for name, one in comparisons.items()],
        ),
    ]  # fmt: skip
    if peer_errors is not None:
        lines += peer_section(articles, list(comparisons), peer_errors)
    lines += ["## Every difference", ""]
    for one in comparisons["all"].differences:
        lines.append(f"- {one.article[0]}.{one.article[1]} {escape(one.figure)}: {one.what}")
        lines.append(f"    - truth: {escape(one.truth)}")
        lines.append(f"    - archive: {escape(one.ours)}")
    if not comparisons["all"].differences:
        lines.append("None.")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return missed


def peer_section(
    articles: dict[ArticleId, Article], groups: list[str], errors: Counter[str]
) -> list[str]:
    rows = []
    for group in groups:
        members = [a for a in articles.values() if group in {"all", a.group}]
        rows.append(peer_row(group, "biomedica", own_fig_counts(members), "see above"))
        rows.append(peer_row(group, "pubmed_parser", peer_counts(members), "n/a"))
    failed = "; ".join(f"{clip(message)}: {number}" for message, number in errors.most_common(5))
    return [
        "## Beside pubmed_parser",
        "",
        "The `fig` elements alone, since pubmed_parser reads no image tables. Of its answers, one",
        "right graphic of a figure is enough; it keeps no mentions. Articles on which it raised an",
        f"error: {errors.total()}{f' ({escape(failed)})' if failed else ''}.",
        "",
        *table(
            ["group", "parser", "figures", "found", "right graphic", "exact caption", "mentions"],
            rows,
        ),
    ]


def write_json(
    path: Path, comparisons: dict[str, Comparison], missed: list[str], peer: Counter[str] | None
) -> None:
    record = {
        "groups": {name: dict(sorted(one.counts.items())) for name, one in comparisons.items()},
        "pubmed_parser": None if peer is None else dict(sorted(peer.items())),
        "missed": missed,
        "differences": [
            {
                "article": f"{one.article[0]}.{one.article[1]}",
                "figure": one.figure,
                "what": one.what,
                "truth": one.truth,
                "archive": one.ours,
            }
            for one in comparisons["all"].differences
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", type=Path)
    parser.add_argument("bucket", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the report, a Markdown file")
    parser.add_argument("--json", type=Path, help="counts and differences as JSON")
    parser.add_argument("--date", required=True, help="the date to state in the report")
    parser.add_argument("--peer-python", help="interpreter that has pubmed_parser")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    articles = read_truth(arguments.bucket)
    strangers = assign_rows(articles, read_rows(arguments.archive))
    rejects = rejects_by_article(read_rejects(arguments.archive), articles)
    peer_errors = None
    if arguments.peer_python:
        peer_errors = ask_peer(arguments.peer_python, arguments.bucket, articles)
    comparisons = {group: Comparison() for group in sorted({a.group for a in articles.values()})}
    comparisons["all"] = Comparison()
    for article in articles.values():
        for group in (article.group, "all"):
            comparisons[group].add_article(article, rejects)
    missed = write_report(articles, comparisons, peer_errors, strangers, arguments)
    if arguments.json:
        peer = None if peer_errors is None else peer_counts(list(articles.values()))
        write_json(arguments.json, comparisons, missed, peer)
    print("\n".join(missed) if missed else "all bars met")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
