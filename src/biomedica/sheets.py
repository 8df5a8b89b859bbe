"""A clustering to look at: a contact sheet for each cluster, and a page that shows them all.

clusters/<name>/report.html       sizes and sheets, largest cluster first
clusters/<name>/sheets/<id>.jpg   the cluster's images: one row nearest, one random, one farthest
"""

from __future__ import annotations

import io
import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from biomedica.archive import Archive
from biomedica.cluster import ClusterInfo, Member, read_clusters, read_info
from biomedica.cluster.model import folder_of, read_all_members
from biomedica.errors import ArchiveError
from biomedica.features import figures_path
from biomedica.report import environment
from biomedica.shards import disk_message, write_file

_SIDE = 104
_GAP = 4
_KINDS = ("nearest", "random", "farthest")


def write_sheets(archive: Archive, name: str) -> Path:
    """Write the sheets and the page, and return where the page is. Reads each shown picture once."""
    folder = folder_of(archive, name)
    members = read_all_members(archive, name)
    thumbnails = _thumbnails(archive, [each for group in members.values() for each in group])
    sheets, new = folder / "sheets", folder / ".sheets.tmp"
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        for cluster, group in members.items():
            data = io.BytesIO()
            _sheet(group, thumbnails).save(data, "JPEG", quality=80)
            (new / f"{cluster}.jpg").write_bytes(data.getvalue())
        shutil.rmtree(sheets, ignore_errors=True)
        new.replace(sheets)
    except OSError as error:
        raise ArchiveError(disk_message(folder, error)) from error
    clusters = [each for each in read_clusters(archive, name) if each.id in members]
    page = environment().get_template("clusters.html.j2")
    rows = [
        _row(each, members[each.id]) for each in sorted(clusters, key=lambda c: (-c.size, c.id))
    ]
    text = page.render(name=name, info=read_info(archive, name), clusters=rows)
    write_file(folder / "report.html", text.lstrip().encode())
    return folder / "report.html"


def _row(cluster: ClusterInfo, members: list[Member]) -> dict[str, Any]:
    shown = {kind: sum(each.kind == kind for each in members) for kind in _KINDS}
    about = ", ".join(f"{count} {kind}" for kind, count in shown.items() if count)
    return {
        "id": cluster.id,
        "size": cluster.size,
        "mean_distance": cluster.mean_distance,
        "radius": cluster.radius,
        "parent": cluster.parent,
        "about": about,
        "first": members[0].key,
    }


def _thumbnails(archive: Archive, members: list[Member]) -> dict[tuple[str, str], bytes]:
    """Small JPEGs by shard and key; one that does not decode is missing. Some 4 kB each."""
    by_shard: dict[str, set[str]] = defaultdict(set)
    for each in members:
        by_shard[each.shard].add(each.key)
    found = {}
    for shard, keys in sorted(by_shard.items()):
        columns = ["key", "jpg_offset", "jpg_size"]
        rows = pq.read_table(figures_path(archive, shard), columns=columns).to_pylist()
        tar = archive.root / "shards" / shard.rpartition("-")[0] / f"{shard}.tar"
        with tar.open("rb") as file:
            for row in rows:
                if row["key"] in keys:
                    data = os.pread(file.fileno(), row["jpg_size"], row["jpg_offset"])
                    small = _thumbnail(data)
                    if small is not None:
                        found[shard, row["key"]] = small
    return found


def _thumbnail(jpeg: bytes) -> bytes | None:
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            image.draft("RGB", (2 * _SIDE, 2 * _SIDE))
            small = image.convert("RGB")
            small.thumbnail((_SIDE, _SIDE))
            data = io.BytesIO()
            small.save(data, "JPEG", quality=90)
            return data.getvalue()
    except (OSError, SyntaxError, ValueError):
        return None


def _sheet(members: list[Member], thumbnails: dict[tuple[str, str], bytes]) -> Image.Image:
    """One row for each kind of member that there is."""
    rows = [[each for each in members if each.kind == kind] for kind in _KINDS]
    rows = [row for row in rows if row]
    step = _SIDE + _GAP
    size = (step * max(len(row) for row in rows) + _GAP, step * len(rows) + _GAP)
    sheet = Image.new("RGB", size, (222, 222, 226))
    for down, row in enumerate(rows):
        for right, each in enumerate(row):
            data = thumbnails.get((each.shard, each.key))
            if data is not None:
                small = Image.open(io.BytesIO(data), formats=["JPEG"])
                x = _GAP + right * step + (_SIDE - small.width) // 2
                y = _GAP + down * step + (_SIDE - small.height) // 2
                sheet.paste(small, (x, y))
    return sheet
