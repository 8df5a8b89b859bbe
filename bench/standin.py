"""Copy a bucket and give every graphic that has no file a small stand-in picture.

    python bench/standin.py BUCKET OUT

A development bucket holds media for few of its articles. This fills the rest, so that a run over
it finds a picture for each figure, thumbnail and formula. Each stand-in is a pattern made of the
digest of its article and name: all differ, and the same input gives the same bytes. The metadata,
the inventory and its manifest are rewritten to match.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from lxml import etree
from PIL import Image

FORMATS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".gif": "GIF", ".tif": "TIFF",
    ".tiff": "TIFF", ".webp": "WEBP", ".bmp": "BMP",
}  # fmt: skip
VECTOR = {".svg", ".svgz", ".pdf", ".eps", ".ps"}
TILE = 8
COLUMNS, ROWS = 6, 5


def known_suffix(name: str, suffixes: set[str]) -> str:
    """The suffix if it is one of these, else "": the dot of "pone.0046493.g001" starts none."""
    return next((suffix for suffix in suffixes if name.lower().endswith(suffix)), "")


def graphic_names(xml: Path) -> list[str]:
    """Base names of the hrefs of all `graphic` elements, in document order, each once."""
    parser = etree.XMLParser(
        resolve_entities=False, load_dtd=False, no_network=True, huge_tree=True
    )
    root = etree.fromstring(xml.read_bytes().lstrip(), parser)
    names: dict[str, None] = {}
    for node in root.iter("{*}graphic"):
        for key, value in node.attrib.items():
            base = str(value).rstrip("/").rsplit("/", 1)[-1]
            if etree.QName(key).localname == "href" and base not in {"", ".", ".."}:
                names[base] = None
    return list(names)


def has_file(name: str, files: set[str]) -> bool:
    """Whether the folder holds this graphic.

    A name with an image suffix is there as itself; a .tif also as another format of the same stem
    (what the archive serves instead). A name without suffix is there with any image suffix.
    """
    if name in files:
        return True
    suffix = known_suffix(name, set(FORMATS))
    if suffix not in {"", ".tif", ".tiff"}:
        return False
    stem = name[: len(name) - len(suffix)]
    return any(stem + other in files for other in FORMATS)


def picture(article: str, name: str, suffix: str) -> bytes:
    """A 48 x 40 pixel pattern of 30 colours that no other article and name has."""
    seed = f"{article}/{name}".encode()
    colours = b"".join(hashlib.sha256(seed + bytes([block])).digest() for block in range(3))
    image = Image.frombytes("RGB", (COLUMNS, ROWS), colours[: COLUMNS * ROWS * 3])
    image = image.resize((COLUMNS * TILE, ROWS * TILE), Image.Resampling.NEAREST)
    if suffix == ".gif":
        image = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
    out = io.BytesIO()
    image.save(out, FORMATS[suffix])
    return out.getvalue()


def fill_article(folder: Path, counts: Counter[str]) -> dict[str, bytes]:
    """The stand-ins an article's folder lacks, by file name."""
    files = {path.name for path in folder.iterdir()}
    made: dict[str, bytes] = {}
    for name in graphic_names(folder / f"{folder.name}.xml"):
        if known_suffix(name, VECTOR):
            counts["vector graphics without a stand-in"] += 1
        elif has_file(name, files):
            counts["graphics that have their file"] += 1
        else:
            suffix = known_suffix(name, set(FORMATS))
            file_name = name if suffix else name + ".jpg"
            if file_name not in made:
                made[file_name] = picture(folder.name, file_name, suffix or ".jpg")
                counts[f"stand-ins {suffix or '.jpg (no suffix)'}"] += 1
    return made


def rewrite_metadata(out: Path, version: str, made: dict[str, bytes]) -> None:
    """Add the stand-ins to `media_urls` in both copies of the metadata."""
    path = out / version / f"{version}.json"
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    urls = list(record.get("media_urls") or [])
    for name, content in made.items():
        digest = hashlib.md5(content).hexdigest()
        urls.append(f"s3://pmc-oa-opendata/{version}/{name}?md5={digest}")
    record["media_urls"] = sorted(urls)
    text = json.dumps(record, indent=1, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")
    (out / "metadata" / f"{version}.json").write_text(text, encoding="utf-8")


def rewrite_inventory(out: Path) -> None:
    """Give each inventory row the ETag of its metadata file, and the manifest its files' md5."""
    for manifest_path in sorted(out.glob("inventory-reports/**/manifest.json")):
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        columns = [column.strip() for column in manifest["fileSchema"].split(",")]
        key_at, etag_at = columns.index("Key"), columns.index("ETag")
        for entry in manifest["files"]:
            path = out / entry["key"]
            rows = list(csv.reader(io.StringIO(gzip.decompress(path.read_bytes()).decode())))
            for row in rows:
                metadata = out / row[key_at]
                if metadata.is_file():
                    row[etag_at] = hashlib.md5(metadata.read_bytes()).hexdigest()
            text = io.StringIO()
            csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
            content = gzip.compress(text.getvalue().encode(), mtime=0)
            path.write_bytes(content)
            entry["size"] = len(content)
            entry["MD5checksum"] = hashlib.md5(content).hexdigest()
        manifest_path.write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def copy_bucket(bucket: Path, out: Path) -> None:
    """Copy contents only: the copy is writable even if the bucket is not."""
    for path in sorted(bucket.rglob("*")):
        target = out / path.relative_to(bucket)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    bucket, out = Path(sys.argv[1]), Path(sys.argv[2])
    if out.exists() and any(out.iterdir()):
        sys.exit(f"{out} is not empty; name a new folder")
    copy_bucket(bucket, out)
    counts: Counter[str] = Counter()
    for folder in sorted(out.glob("PMC*")):
        if not re.fullmatch(r"PMC\d+\.\d+", folder.name):
            continue
        counts["articles"] += 1
        made = fill_article(folder, counts)
        for name, content in made.items():
            (folder / name).write_bytes(content)
        if made:
            counts["articles filled"] += 1
            rewrite_metadata(out, folder.name, made)
    rewrite_inventory(out)
    for what, number in sorted(counts.items()):
        print(f"{number:6d}  {what}")


if __name__ == "__main__":
    main()
