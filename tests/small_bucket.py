"""Small articles in the layout of NCBI's bucket, made on the spot."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import md5
from pathlib import Path

from PIL import Image

BUCKET = "pmc-oa-opendata"
INVENTORY = f"inventory-reports/{BUCKET}/metadata"
COLUMNS = ("Bucket", "Key", "LastModifiedDate", "ETag")


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallArticle:
    """One article version; its pictures are plain areas of colour."""

    number: int
    version: int = 1
    licence: str | None = "CC BY"
    pictures: int = 1
    is_retracted: bool = False
    citation: str | None = "J Test. 2020 Mar 4;1(1):1-2."
    pmid: int | None = None
    edition: int = 0
    """Changes the text."""

    @property
    def name(self) -> str:
        """`PMC<id>.<version>`."""
        return f"PMC{self.number}.{self.version}"

    @property
    def picture_names(self) -> list[str]:
        """File names, in the order of the figures."""
        return [f"jt-{self.number}-g{i:03d}.jpg" for i in range(1, self.pictures + 1)]


@cache
def jpeg(seed: int, width: int = 40, height: int = 30) -> bytes:
    """A small JPEG whose colour is told by the seed."""
    colour = (seed * 37 % 256, seed * 59 % 256, seed * 83 % 256)
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def figure_xml(number: int, href: str) -> str:
    """A figure with a caption."""
    return (
        f'<fig id="F{number}"><label>Figure {number}</label><caption><p>What picture {number} '
        f'shows.</p></caption><graphic xlink:href="{href}"/></fig>'
    )


def article_xml(pmcid: str | None, hrefs: Sequence[str], text: str = "") -> bytes:
    """A JATS article with one figure for each file."""
    ids = f'<article-id pub-id-type="pmcid">{pmcid}</article-id>' if pmcid else ""
    figures = "".join(figure_xml(i, href) for i, href in enumerate(hrefs, start=1))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<article xmlns:xlink="http://www.w3.org/1999/xlink" article-type="research-article">'
        f"<front><journal-meta/><article-meta>{ids}<title-group><article-title>On tests"
        "</article-title></title-group></article-meta></front>"
        f'<body><sec><title>Results</title><p>See <xref ref-type="fig" rid="F1">Fig. 1</xref>. '
        f"{text}</p>{figures}</sec></body></article>"
    ).encode()


def url_of(key: str, data: bytes) -> str:
    """The address that metadata states for an object."""
    return f"s3://{BUCKET}/{key}?md5={md5(data).hexdigest()}"


def article_files(article: SmallArticle) -> dict[str, bytes]:
    """XML and pictures of an article, by key."""
    stems = [name.removesuffix(".jpg") for name in article.picture_names]
    pmcid, text = f"PMC{article.number}", f"Edition {article.edition}."
    files = {f"{article.name}/{article.name}.xml": article_xml(pmcid, stems, text)}
    for i, name in enumerate(article.picture_names):
        files[f"{article.name}/{name}"] = jpeg(article.number * 7 + i)
    return files


def metadata(article: SmallArticle) -> dict[str, object]:
    """The metadata record as the cloud service has it."""
    files = article_files(article)
    xml_key, *media_keys = files
    return {
        "pmcid": f"PMC{article.number}",
        "version": article.version,
        "pmid": article.pmid,
        "doi": f"10.5555/test.{article.number}",
        "mid": None,
        "title": "On tests",
        "citation": article.citation,
        "is_pmc_openaccess": True,
        "is_manuscript": False,
        "is_historical_ocr": False,
        "is_retracted": article.is_retracted,
        "license_code": article.licence,
        "xml_url": url_of(xml_key, files[xml_key]),
        "media_urls": [url_of(key, files[key]) for key in media_keys],
    }


def write_bucket(
    folder: Path,
    articles: Iterable[SmallArticle],
    *,
    day: str = "2026-01-02T01-00Z",
    has_inventory: bool = True,
) -> None:
    """Write articles, their metadata and an inventory of two files; files that stand stay."""
    etags = {}
    for article in articles:
        record = json.dumps(metadata(article)).encode()
        key = f"metadata/{article.name}.json"
        put(folder, article_files(article) | {key: record})
        etags[key] = md5(record).hexdigest()
    if has_inventory:
        write_inventory(folder, etags, day=day)


def write_inventory(
    folder: Path,
    etags: dict[str, str],
    *,
    day: str = "2026-01-02T01-00Z",
    columns: Sequence[str] = COLUMNS,
    num_files: int = 2,
) -> None:
    """Write a day's inventory: quoted CSV without a header, gzipped, and its manifest.

    num_files   at the most: none of them is empty
    """
    files = []
    for number in range(min(num_files, len(etags))):
        rows = [
            {
                "Bucket": BUCKET,
                "Key": key,
                "LastModifiedDate": "2026-01-01T00:00:00.000Z",
                "ETag": etag,
            }
            for key, etag in sorted(etags.items())[number::num_files]
        ]
        data = _gzipped_csv([[row[name] for name in columns] for row in rows])
        key = f"{INVENTORY}/data/{day[:10]}-{number}.csv.gz"
        put(folder, {key: data})
        files.append({"key": key, "size": len(data), "MD5checksum": md5(data).hexdigest()})
    manifest = {"fileFormat": "CSV", "fileSchema": ", ".join(columns), "files": files}
    put(folder, {f"{INVENTORY}/{day}/manifest.json": json.dumps(manifest).encode()})


def _gzipped_csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    return gzip.compress(text.getvalue().encode(), mtime=0)


def put(folder: Path, files: dict[str, bytes]) -> None:
    """Write files by key."""
    for key, data in files.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
