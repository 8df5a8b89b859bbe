"""The corpus as three archives with views: what `real_run.py` trains on.

    figures    the articles of `bucket` that have their pictures
    pathways   `figcaps_pfocr`, an article for each PMCID, in the bucket's layout
    labelled   the labelled sets, with captions made from their classes

Articles of the first two are dealt to the folds `A`, `B` and `C` and to `choice`, largest first, each to
where the fewest pictures are. Views `without-A` ... and `only-A` ... hold what their names say.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import pyarrow.parquet as pq

import labelled_source
from biomedica.archive import Archive
from labelled_source import BUCKET, Item, chosen, write_article

FOLDS = ("A", "B", "C")
CHOICE = "choice"
SHARES = {**dict.fromkeys(FOLDS, 4), CHOICE: 3}
"""Pictures of each, in proportion."""
PER_SET = 160
"""Pictures of a labelled set."""
NUM_FILMS = 100
"""Held-out chest films."""
FIRST_FILM = 98_500_001
CELLS = {1: "neutrophil", 2: "lymphocyte", 3: "monocyte", 4: "eosinophil", 5: "basophil"}
"""Zheng et al. 2018."""
TISSUES = {
    "lung_n": "normal lung tissue",
    "lung_aca": "lung adenocarcinoma",
    "lung_scc": "lung squamous cell carcinoma",
}
ARTICLE = """<?xml version="1.0"?>
<article xmlns:xlink="http://www.w3.org/1999/xlink" article-type="research-article"><front>
<journal-meta><journal-title-group><journal-title>{journal}</journal-title></journal-title-group>
</journal-meta><article-meta><article-id pub-id-type="pmcid">{pmcid}</article-id>
<title-group><article-title>{title}</article-title></title-group>
<pub-date pub-type="epub"><year>{year}</year></pub-date></article-meta></front>
<body>{figures}</body></article>"""
FIGURE = (
    '<fig id="F{place}"><label>{label}</label><caption><p>{caption}</p></caption>'
    '<graphic xlink:href="{name}"/></fig>'
)
Row = dict[str, str]


def make_archives(corpus: Path, root: Path) -> dict[str, Archive]:
    """Build all three under `root`, with their views."""
    write_pathways(corpus / "figcaps_pfocr", root / "sources" / "pathways")
    films = write_labelled(corpus, root / "sources" / "labelled")
    places = {
        "figures": corpus / "bucket",
        "pathways": root / "sources" / "pathways",
        "labelled": root / "sources" / "labelled",
    }
    archives = {}
    for name, source in places.items():
        biomedica("build", source, root / name, "--quiet")
        archives[name] = Archive(root / name)
    for name in ("figures", "pathways"):
        for part, articles in dealt(archives[name]).items():
            choose(archives[name], f"only-{part}", "keep", articles)
            choose(archives[name], f"without-{part}", "drop", articles)
    choose(archives["labelled"], "films", "keep", films)
    choose(archives["labelled"], "others", "drop", films)
    return archives


def biomedica(*words: object) -> str:
    """What a command prints; its failure ends the measurement."""
    done = subprocess.run(
        [sys.executable, "-m", "biomedica", *map(str, words)], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"biomedica {words[0]} failed:\n{done.stderr}")
    return done.stdout


def rows_of(archive: Archive, columns: list[str]) -> list[dict[str, object]]:
    """Rows of the figures files."""
    found = []
    for path in sorted((archive.root / "figures").rglob("*.parquet")):
        found += pq.read_table(path, columns=columns).to_pylist()
    return found


def dealt(archive: Archive) -> dict[str, list[str]]:
    """Articles of each fold and of `choice`."""
    sizes: dict[str, int] = {}
    for row in rows_of(archive, ["pmcid"]):
        sizes[str(row["pmcid"])] = sizes.get(str(row["pmcid"]), 0) + 1

    def rank(article: str) -> tuple[int, bytes]:
        return -sizes[article], hashlib.sha256(article.encode()).digest()

    parts: dict[str, list[str]] = {name: [] for name in SHARES}
    load = dict.fromkeys(SHARES, 0.0)
    for article in sorted(sizes, key=rank):
        least = min(load, key=lambda name: (load[name] + sizes[article]) / SHARES[name])
        parts[least].append(article)
        load[least] += sizes[article]
    return parts


def choose(archive: Archive, view: str, verb: str, articles: list[str]) -> None:
    """A view by a list of articles."""
    listed = ", ".join(f"'{each}'" for each in sorted(articles))
    path = archive.root.parent / f"{view}.toml"
    path.write_text(
        f'[[{verb}]]\nname = "articles"\nwhere = """pmcid IN ({listed})"""\nwhy = "A part of the split."\n'
    )
    biomedica("select", archive.root, path)


def write_pathways(folder: Path, out: Path) -> None:
    """`captions.tsv` and its pictures as a bucket, each article with its figures."""
    shutil.rmtree(out, ignore_errors=True)
    articles: dict[str, list[Row]] = {}
    with (folder / "captions.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            articles.setdefault(row["pmcid"], []).append(row)
    for pmcid, rows in articles.items():
        figures = "".join(
            FIGURE.format(
                place=place,
                label=escape(row["number"]),
                caption=escape(repaired(row["caption"])),
                name=escape(row["figid"]),
            )
            for place, row in enumerate(rows, start=1)
        )
        xml = ARTICLE.format(
            journal=escape(rows[0]["journal"]),
            pmcid=pmcid,
            title=escape(repaired(rows[0]["paper_title"])),
            year=rows[0]["year"],
            figures=figures,
        )
        files = {row["figid"]: (folder / "images" / row["figid"]).read_bytes() for row in rows}
        write_package(out, pmcid, xml, files)


def write_package(out: Path, pmcid: str, xml: str, media: dict[str, bytes]) -> None:
    """One article's folder and metadata."""
    name = f"{pmcid}.1"
    files = {f"{name}.xml": xml.encode()} | media
    (out / name).mkdir(parents=True)
    for file, data in files.items():
        (out / name / file).write_bytes(data)
    address = {
        file: f"s3://{BUCKET}/{name}/{file}?md5={hashlib.md5(data, usedforsecurity=False).hexdigest()}"
        for file, data in files.items()
    }
    record = {
        "pmcid": pmcid, "version": 1, "title": "", "citation": "", "is_retracted": False,
        "license_code": "CC BY", "xml_url": address[f"{name}.xml"],
        "media_urls": [address[file] for file in media],
    }  # fmt: skip
    (out / "metadata").mkdir(exist_ok=True)
    (out / "metadata" / f"{name}.json").write_text(json.dumps(record))


def repaired(text: str) -> str:
    """A caption as it was: the table holds UTF-8 that was read as Mac Roman."""
    try:
        return text.encode("mac_roman").decode()
    except UnicodeError:
        return text


def write_labelled(corpus: Path, out: Path) -> list[str]:
    """The labelled sets as a bucket; the articles of the held-out chest films."""
    shutil.rmtree(out, ignore_errors=True)
    number = labelled_source.FIRST_ID
    for modality, read in SETS.items():
        number = write_set(out, number, modality, chosen(list(read(corpus)), PER_SET))
    films = chosen(list(chest_films(corpus, "test")), NUM_FILMS)
    last = write_set(out, FIRST_FILM, "chest films", films)
    return [f"PMC{each}" for each in range(FIRST_FILM, last)]


def write_set(out: Path, number: int, modality: str, items: list[tuple[str, Item]]) -> int:
    """An article for each class; the number after the last."""
    kinds: dict[str, list[Item]] = {}
    for kind, item in items:
        kinds.setdefault(kind, []).append(item)
    for kind, some in sorted(kinds.items()):
        write_article(out, number, modality, kind, some)
        number += 1
    return number


def white_cells(corpus: Path) -> Iterator[tuple[str, Item]]:
    for kind, (name, data, _) in labelled_source.white_cells(corpus):
        cell = CELLS[int(kind.removeprefix("class "))]
        yield cell, (name, data, f"Light micrograph of a single white blood cell: {cell}.")


def lung_tissue(corpus: Path) -> Iterator[tuple[str, Item]]:
    for kind, (name, data, _) in labelled_source.lung_tissue(corpus):
        caption = f"Histology stained with haematoxylin and eosin: {TISSUES[kind]}."
        yield kind, (name, data, caption)


def blood_smears(corpus: Path) -> Iterator[tuple[str, Item]]:
    for kind, (name, data, _) in labelled_source.blood_smears(corpus):
        yield kind, (name, data, "Peripheral blood smear: red cells, white cells and platelets.")


def chest_films(corpus: Path, part: str = "train") -> Iterator[tuple[str, Item]]:
    for kind, (name, data, _) in labelled_source.chest_films(corpus, part):
        found = "pneumonia" if kind == "pneumonia" else "no finding, normal lungs"
        yield kind, (f"{part}-{name}", data, f"Chest X-ray of a child: {found}.")


SETS: dict[str, Callable[[Path], Iterator[tuple[str, Item]]]] = {
    "blood smears": blood_smears,
    "lung tissue": lung_tissue,
    "white cells": white_cells,
    "chest films": chest_films,
}
