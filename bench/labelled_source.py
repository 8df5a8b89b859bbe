"""Make a bucket of articles out of labelled image sets, so that they go the way of any archive.

    python bench/labelled_source.py ../shared/corpus OUT [--per-set 300] [--per-article 20]

Each article holds images of one class; its subject is the set (the modality) and its keyword the class.
OUT is replaced. `OUT.csv` (article, set, class) stands beside the bucket. Same input, same bytes.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

FIRST_ID = 98_000_001
BUCKET = "pmc-oa-opendata"
ARTICLE = """<?xml version="1.0"?>
<article xmlns:xlink="http://www.w3.org/1999/xlink" article-type="research-article"><front>
<journal-meta><journal-title-group><journal-title>Labelled sets</journal-title></journal-title-group>
</journal-meta><article-meta><article-id pub-id-type="pmcid">PMC{number}</article-id>
<article-categories><subj-group><subject>{modality}</subject></subj-group></article-categories>
<title-group><article-title>{modality}: {kind}</article-title></title-group>
<pub-date pub-type="epub"><year>2020</year></pub-date>
<kwd-group><kwd>{kind}</kwd></kwd-group></article-meta></front>
<body><p>Images.</p>{figures}</body></article>"""
FIGURE = (
    '<fig id="F{place}"><label>Figure {place}</label><caption><p>{caption}</p></caption>'
    '<graphic xlink:href="{name}"/></fig>'
)
Item = tuple[str, bytes, str]
"""File name, bytes, caption."""


def blood_smears(corpus: Path) -> Iterator[tuple[str, Item]]:
    for path in sorted((corpus / "labelled/bccd/BCCD/JPEGImages").glob("*.jpg")):
        yield "smear", (path.name, path.read_bytes(), "Blood smear under the microscope.")


def lung_tissue(corpus: Path) -> Iterator[tuple[str, Item]]:
    for path in sorted((corpus / "labelled/lc25000_lung").glob("*/*.jpeg")):
        caption = f"Lung tissue, haematoxylin and eosin: {path.parent.name}."
        yield path.parent.name, (f"{path.stem}.jpg", path.read_bytes(), caption)


def white_cells(corpus: Path) -> Iterator[tuple[str, Item]]:
    folder = corpus / "labelled/wbc_zheng"
    with (folder / "labels_1.csv").open() as file:
        labels = {int(row["image ID"]): row["class label"] for row in csv.DictReader(file)}
    for path in sorted((folder / "Dataset_1").glob("*.bmp")):
        kind = labels[int(path.stem)]
        yield f"class {kind}", (path.name, path.read_bytes(), f"White blood cell of class {kind}.")


def chest_films(corpus: Path, part: str = "train") -> Iterator[tuple[str, Item]]:
    with np.load(next((corpus / "labelled/pneumoniamnist").glob("*.npz"))) as arrays:
        images = arrays[f"{part}_images"]
        labels = arrays[f"{part}_labels"].ravel()
    for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        kind = ("normal", "pneumonia")[int(label)]
        yield kind, (f"film{number:05d}.png", file.getvalue(), f"Chest radiograph: {kind}.")


def pathways(corpus: Path) -> Iterator[tuple[str, Item]]:
    folder = corpus / "figcaps_pfocr"
    with (folder / "captions.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            path = folder / "images" / row["figid"]
            if path.exists():
                yield "pathway", (row["figid"], path.read_bytes(), row["caption"] or "A pathway.")


SETS = {
    "blood smears": blood_smears,
    "lung tissue": lung_tissue,
    "white cells": white_cells,
    "chest films": chest_films,
    "pathway diagrams": pathways,
}


def chosen(items: list[tuple[str, Item]], most: int) -> list[tuple[str, Item]]:
    """A fixed choice spread over the classes: by the digest of the name."""
    ranked = sorted(items, key=lambda each: hashlib.sha256(each[1][0].encode()).digest())
    return ranked[:most]


def write_article(out: Path, number: int, modality: str, kind: str, items: list[Item]) -> None:
    """One article with its pictures and its metadata."""
    name = f"PMC{number}.1"
    folder = out / name
    folder.mkdir(parents=True)
    figures = "".join(
        FIGURE.format(place=place, caption=escape(caption), name=escape(file))
        for place, (file, _, caption) in enumerate(items, start=1)
    )
    xml = ARTICLE.format(
        number=number, modality=escape(modality), kind=escape(kind), figures=figures
    )
    files = {f"{name}.xml": xml.encode()} | {file: data for file, data, _ in items}
    for file, data in files.items():
        (folder / file).write_bytes(data)

    def address(file: str) -> str:
        digest = hashlib.md5(files[file], usedforsecurity=False).hexdigest()
        return f"s3://{BUCKET}/{name}/{file}?md5={digest}"

    record = {
        "pmcid": f"PMC{number}", "version": 1, "title": f"{modality}: {kind}",
        "citation": "Labelled sets. 2020.", "is_retracted": False, "license_code": "CC BY",
        "xml_url": address(f"{name}.xml"), "media_urls": [address(file) for file, _, _ in items],
    }  # fmt: skip
    metadata = out / "metadata"
    metadata.mkdir(exist_ok=True)
    (metadata / f"{name}.json").write_text(json.dumps(record))


def write_source(corpus: Path, out: Path, per_set: int, per_article: int) -> int:
    """The whole bucket and its table; the number of images."""
    shutil.rmtree(out, ignore_errors=True)
    rows, number, count = [], FIRST_ID, 0
    for modality, read in SETS.items():
        kinds: dict[str, list[Item]] = {}
        for kind, item in chosen(list(read(corpus)), per_set):
            kinds.setdefault(kind, []).append(item)
        for kind, items in sorted(kinds.items()):
            for start in range(0, len(items), per_article):
                part = items[start : start + per_article]
                write_article(out, number, modality, kind, part)
                rows.append((f"PMC{number}", modality, kind))
                number, count = number + 1, count + len(part)
    with out.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows([("pmcid", "set", "class"), *rows])
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--per-set", type=int, default=300)
    parser.add_argument("--per-article", type=int, default=20)
    words = parser.parse_args()
    count = write_source(words.corpus, words.out, words.per_set, words.per_article)
    print(f"{count} images in {words.out}")


if __name__ == "__main__":
    main()
