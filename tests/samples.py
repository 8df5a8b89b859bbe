"""Makers of small inputs: pictures, JATS articles, buckets; and a program that builds an archive.

    write_bucket(folder, small_articles())
    run_build(folder, archive, engine="local", workers=2)      in a process of its own

Everything is drawn from seeds, so two calls give the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BUCKET = "pmc-oa-opendata"
SNAPSHOT = "2026-11-01"
INVENTORY = f"inventory-reports/{BUCKET}/metadata"


def pixels(seed: int, width: int = 120, height: int = 90, bands: int = 3) -> NDArray[np.uint8]:
    """(height, width, bands): smooth blobs of colour, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, bands), dtype=np.uint8)
    planes = [
        Image.fromarray(coarse[:, :, band]).resize((width, height), Image.Resampling.BICUBIC)
        for band in range(bands)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def picture(seed: int, width: int = 120, height: int = 90, mode: str = "RGB") -> Image.Image:
    """A made picture in mode `L`, `RGB` or `RGBA`."""
    drawn = pixels(seed, width, height, {"L": 1, "RGB": 3, "RGBA": 4}[mode])
    return Image.fromarray(drawn[:, :, 0] if mode == "L" else drawn)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """The bytes of a picture as a file of some format."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(seed: int, width: int = 120, height: int = 90, **options: Any) -> bytes:
    """A made colour picture as a good JPEG."""
    return encoded(picture(seed, width, height), "JPEG", **({"quality": 90} | options))


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A figure of a made article."""

    href: str
    caption: str = "Blobs of colour, as seen from above."
    figure_id: str | None = None
    """None: `F` and its place, from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One article version as it stands in a bucket."""

    number: int
    version: int = 1
    panels: tuple[Panel, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Media by name; all are listed in the metadata."""
    unstored: frozenset[str] = frozenset()
    """Names that the metadata lists and the bucket lacks."""
    licence: str | None = "CC BY"
    xml: bytes | None = None
    """None: made from the panels."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the metadata that differ from what is right."""
    record: bytes | None = None
    """The metadata file as it is; None: made."""

    @property
    def name(self) -> str:
        return f"PMC{self.number}.{self.version}"

    def address(self, name: str, data: bytes) -> str:
        """Where the metadata says that a file is."""
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        return f"s3://{BUCKET}/{self.name}/{name}?md5={digest}"

    def objects(self) -> dict[str, bytes]:
        """Every object of this version, by key."""
        xml = article_xml(self.number, self.panels) if self.xml is None else self.xml
        record = self.record
        if record is None:
            fields = {
                "pmcid": f"PMC{self.number}",
                "version": self.version,
                "pmid": 30_000_000 + self.number,
                "doi": f"10.5555/made.{self.number}",
                "title": f"Article {self.number}",
                "citation": "J Made Up. 2021 Mar 4;5(2):1-9.",
                "is_retracted": False,
                "license_code": self.licence,
                "xml_url": self.address(f"{self.name}.xml", xml),
                "media_urls": [self.address(n, d) for n, d in sorted(self.files.items())],
            }
            record = json.dumps(fields | dict(self.metadata), indent=1).encode()
        stored = {n: d for n, d in self.files.items() if n not in self.unstored}
        return {
            f"{self.name}/{self.name}.xml": xml,
            f"metadata/{self.name}.json": record,
            **{f"{self.name}/{name}": data for name, data in stored.items()},
        }


def article_xml(
    number: int, panels: Sequence[Panel], *, before: str = "", inside: str = "", doctype: str = ""
) -> bytes:
    """JATS with one figure a panel, each cited once.

    before   markup put at the start of the body
    inside   text put into the first caption, as it is
    """
    figures, cited = [], []
    for place, panel in enumerate(panels, start=1):
        name = panel.figure_id or f"F{place}"
        caption = escape(panel.caption) + (inside if place == 1 else "")
        figures.append(
            f'<fig id="{name}"><label>Figure {place}</label><caption><p>{caption}</p></caption>'
            f"<graphic xlink:href={quoteattr(panel.href)}/></fig>"
        )
        cited.append(f'<p>See <xref ref-type="fig" rid="{name}">Figure {place}</xref>.</p>')
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n{doctype}'
        '<article xmlns:xlink="http://www.w3.org/1999/xlink" article-type="research-article">'
        "<front><journal-meta><journal-title-group><journal-title>J Made Up</journal-title>"
        "</journal-title-group></journal-meta><article-meta>"
        f'<article-id pub-id-type="pmc">PMC{number}</article-id>'
        f"<title-group><article-title>Article {number}</article-title></title-group>"
        '<pub-date pub-type="epub"><day>4</day><month>3</month><year>2021</year></pub-date>'
        "<abstract><p>All of it is made up.</p></abstract></article-meta></front>"
        f"<body>{before}<sec><title>Results</title>{''.join(cited)}{''.join(figures)}</sec></body>"
        "</article>"
    ).encode()


def healthy(number: int, num_figures: int = 2, **fields: Any) -> Package:
    """An article with good JPEGs and nothing wrong."""
    names = [f"fig{place}.jpg" for place in range(1, num_figures + 1)]
    return Package(
        number=number,
        panels=tuple(Panel(href=n, caption=f"Panel {n} of article {number}.") for n in names),
        files={name: jpeg(1000 * number + place) for place, name in enumerate(names)},
        **fields,
    )


def small_articles(num_articles: int = 12) -> list[Package]:
    """Articles of all groups with 2 to 5 pictures in several formats, a few of them bad."""
    licences = ("CC BY", "CC BY-NC", "CC BY", None, "CC0", "CC BY", "TDM", "CC BY-NC-ND")
    made = []
    for index in range(num_articles):
        number = 1_000_003 + 70_001 * index
        files = {
            f"fig{place}.{suffix}": data
            for place, (suffix, data) in enumerate(_kinds(number)[: 2 + index % 4], start=1)
        }
        panels = [Panel(href=name, caption=f"Panel {name} of {number}: α, β.") for name in files]
        if index % 3 == 0:
            panels.append(Panel(href="absent.jpg"))
        licence = licences[index % len(licences)]
        made.append(Package(number=number, panels=tuple(panels), files=files, licence=licence))
    return made


def _kinds(seed: int) -> list[tuple[str, bytes]]:
    return [
        ("jpg", jpeg(seed)),
        ("png", encoded(picture(seed + 1, mode="RGBA"), "PNG")),
        ("jpg", jpeg(seed + 2)[:-900]),
        ("tif", encoded(picture(seed + 3, mode="L"), "TIFF")),
        ("gif", encoded(picture(seed + 4), "GIF")),
    ]


def write_bucket(
    folder: Path, articles: Sequence[Package], *, inventory: bool = True, backwards: bool = False
) -> Path:
    """Write a bucket with the layout of the PMC Cloud Service. Returns the folder.

    backwards   create the files in the opposite order
    """
    objects = bucket_objects(articles, inventory=inventory)
    for key in sorted(objects, reverse=backwards):
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(objects[key])
    return folder


def bucket_objects(articles: Sequence[Package], *, inventory: bool = True) -> dict[str, bytes]:
    """Every object of a bucket, by key."""
    objects: dict[str, bytes] = {}
    for article in articles:
        objects |= article.objects()
    return objects | (inventory_objects(objects) if inventory else {})


def inventory_objects(objects: Mapping[str, bytes]) -> dict[str, bytes]:
    """The daily list of the metadata files, and its manifest."""
    rows = [
        f'"{BUCKET}","{key}","{SNAPSHOT}T00:47:59.000Z","{_md5(data)}"\n'
        for key, data in sorted(objects.items())
        if key.startswith("metadata/")
    ]
    part = gzip.compress("".join(rows).encode(), mtime=0)
    name = f"{INVENTORY}/data/part-0.csv.gz"
    manifest = {
        "sourceBucket": BUCKET,
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, LastModifiedDate, ETag",
        "files": [{"key": name, "size": len(part), "MD5checksum": _md5(part)}],
    }
    return {
        name: part,
        f"{INVENTORY}/{SNAPSHOT}T01-00Z/manifest.json": json.dumps(manifest, indent=1).encode(),
    }


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class BuildReport:
    """How a build in a process of its own ended."""

    code: int
    error: str
    """What it wrote to its standard error."""
    peak_mb: float
    """Largest resident memory of one of its worker processes."""


def build_command(
    source: Path | str, archive: Path, *changes: str, engine: str = "local", workers: int = 2
) -> list[str]:
    """The command that builds an archive; settings as in `run.item_seconds=2`."""
    program = [sys.executable, str(Path(__file__).resolve())]
    return [*program, str(source), str(archive), engine, str(workers), *changes]


def run_build(
    source: Path | str,
    archive: Path,
    *changes: str,
    engine: str = "local",
    workers: int = 2,
    seconds: float = 120,
    **environment: str,
) -> BuildReport:
    """Build in a process of its own, with some variables of the environment changed.

    seconds   after which it is killed with all its workers; its code is -9 then
    """
    process = subprocess.Popen(
        build_command(source, archive, *changes, engine=engine, workers=workers),
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, error = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return BuildReport(-signal.SIGKILL, f"still running after {seconds} seconds", 0.0)
    peak = json.loads(output.splitlines()[-1])["peak_mb"] if process.returncode == 0 else 0.0
    return BuildReport(process.returncode, error, peak)


def archive_bytes(archive: Path) -> dict[str, bytes]:
    """Content of every shard and table of an archive, by path."""
    return {
        path.relative_to(archive).as_posix(): path.read_bytes()
        for path in sorted(archive.rglob("*"))
        if path.suffix in (".tar", ".parquet")
    }


def rows_of(archive: Path, kind: str) -> list[dict[str, Any]]:
    """Rows of all `figures`, `articles` or `rejects` files, in the order of the files."""
    import pyarrow.parquet as pq

    paths = sorted((archive / kind).rglob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def main(words: Sequence[str]) -> None:
    """Build as `build_command` says."""
    from biomedica.catalog import Selection
    from biomedica.config import load_settings
    from biomedica.flow import build_archive

    source, archive, engine, workers, *changes = words
    build_archive(
        source,
        Path(archive),
        Selection(),
        load_settings(None, changes),
        engine=engine,
        workers=int(workers),
    )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    sys.stdout.write(f"\n{json.dumps({'peak_mb': peak})}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
