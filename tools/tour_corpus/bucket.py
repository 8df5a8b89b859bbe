"""The objects of the bucket: drawn media, XML, text, JSON, and the daily inventory."""

import csv
import gzip
import inspect
import io
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from hashlib import md5
from types import ModuleType
from typing import Any
from uuid import UUID

import numpy as np
from lxml import etree

from tour_corpus import diagrams, plots, scans, tissue
from tour_corpus.encode import ENCODERS
from tour_corpus.jats import article_xml
from tour_corpus.model import Article

BUCKET = "pmc-oa-opendata"
SNAPSHOT = "2026-11-01T01-00Z"
SNAPSHOT_MILLISECONDS = "1793494800000"
INVENTORY = f"inventory-reports/{BUCKET}/metadata"
BLOCKS = frozenset(
    {"article-title", "p", "title", "label", "mixed-citation", "element-citation", "citation"}
)
OLD_PAGE = """
ON THE COOLlNG OF FEVERS BY VINEGAR

BY E. RUSK, of the Arden lnfirmary.

Tbe practice of laying cloths wet with vinegar upon the brow is commcnded by
many and forbidden by none. 1 have tried it in eleven cases, of wbich nine
did well, one did not return, and one was a clerk sent in error.

Fig. 1. shews the heat of the seventh case, hour by bour. (See plate.)
"""


def drawings(module: ModuleType) -> Iterable[tuple[str, Callable[..., Any]]]:
    """Functions of the module whose first argument is the random generator."""
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if next(iter(inspect.signature(function).parameters), "") == "rng":
            yield name, function


DRAWINGS = dict(d for module in (plots, scans, tissue, diagrams) for d in drawings(module))


def draw(name: str) -> Any:
    """The drawing of that name, seeded by its name; the same pixels wherever it is used."""
    return DRAWINGS[name](np.random.default_rng(zlib.crc32(name.encode()))) if name else None


def media_files(article: Article) -> dict[str, bytes]:
    """All media of an article, those that the bucket will lack among them."""
    return {m.name: ENCODERS[m.encoding](draw(m.drawing)) for m in article.media}


def address(key: str, data: bytes) -> str:
    return f"s3://{BUCKET}/{key}?md5={md5(data).hexdigest()}"


def article_json(article: Article, files: Mapping[str, bytes], xml: bytes, text: bytes) -> bytes:
    """The metadata record, with the digest of every object of the version."""
    folder = f"{article.name}/"
    record: dict[str, Any] = {
        "pmcid": article.pmcid,
        "version": article.version,
        "pmid": article.pmid,
        "doi": article.doi,
        "mid": article.manuscript_id,
        "title": plain(article.title),
        "citation": article.citation,
        "is_pmc_openaccess": article.licence != "TDM",
        "is_manuscript": article.manuscript_id is not None,
        "is_historical_ocr": article.historical_ocr,
        "is_retracted": article.retracted,
        "license_code": article.licence,
        "xml_url": address(f"{folder}{article.name}.xml", xml),
        "text_url": address(f"{folder}{article.name}.txt", text),
    }
    if article.manuscript_id:
        record["pdf_url"] = None
    if article.media_key:
        listed = sorted(m.name for m in article.media if m.listed)
        record["media_urls"] = [address(folder + name, files[name]) for name in listed]
    return json.dumps(record, ensure_ascii=False, indent=1).encode()


def plain(markup: str) -> str:
    return "".join(map(str, etree.fromstring(f"<x>{markup}</x>").itertext()))


def article_text(article: Article, xml: bytes) -> bytes:
    """Title, paragraphs and references, one a line."""
    if article.historical_ocr:
        return OLD_PAGE.encode()
    root = etree.fromstring(xml.lstrip(), etree.XMLParser(resolve_entities=False, no_network=True))
    lines = []
    for element in root.iter("{*}*"):
        name = etree.QName(element).localname
        inside = any(etree.QName(a).localname in BLOCKS for a in element.iterancestors())
        if name in BLOCKS and not inside:
            lines.append(" ".join("".join(map(str, element.itertext())).split()))
    return ("\n" + "\n".join(line for line in lines if line) + "\n").encode()


def article_objects(article: Article) -> dict[str, bytes]:
    """Every object of one version, by key."""
    files = media_files(article)
    xml = article_xml(article, files)
    text = article_text(article, xml)
    record = article_json(article, files, xml, text)
    stem = f"{article.name}/{article.name}"
    objects = {
        f"{stem}.xml": xml,
        f"{stem}.txt": text,
        f"{stem}.json": record,
        f"metadata/{article.name}.json": record,
    }
    kept = [m.name for m in article.media if m.listed and m.stored]
    return objects | {f"{article.name}/{name}": files[name] for name in kept}


def inventory_objects(objects: Mapping[str, bytes]) -> dict[str, bytes]:
    """Manifest and lists of the metadata records, in two parts as on a real day."""
    keys = sorted(key for key in objects if key.startswith("metadata/"))
    parts = [inventory_part({key: objects[key] for key in keys[i::2]}) for i in range(2)]
    names = [f"{INVENTORY}/data/{UUID(md5(part).hexdigest())}.csv.gz" for part in parts]
    manifest = {
        "sourceBucket": BUCKET,
        "destinationBucket": f"arn:aws:s3:::{BUCKET}",
        "version": "2016-11-30",
        "creationTimestamp": SNAPSHOT_MILLISECONDS,
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, LastModifiedDate, ETag",
        "files": [
            {"key": name, "size": len(part), "MD5checksum": md5(part).hexdigest()}
            for name, part in zip(names, parts, strict=True)
        ],
    }
    page = json.dumps(manifest, indent=1).encode()
    return dict(zip(names, parts, strict=True)) | {f"{INVENTORY}/{SNAPSHOT}/manifest.json": page}


def inventory_part(records: Mapping[str, bytes]) -> bytes:
    rows = io.StringIO()
    writer = csv.writer(rows, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for i, (key, data) in enumerate(records.items()):
        changed = f"2026-{1 + i % 10:02d}-{1 + (i * 5) % 28:02d}T{i % 24:02d}:47:59.000Z"
        writer.writerow([BUCKET, key, changed, md5(data).hexdigest()])
    return gzip.compress(rows.getvalue().encode(), mtime=0)
