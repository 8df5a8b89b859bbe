"""ATTRIBUTION.parquet: every article whose figures leave, so that each can be credited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from biomedica.archive import Archive
from biomedica.export.choose import Choice
from biomedica.export.facts import chosen_by_shard, chosen_rows
from biomedica.export.source import SourceShard
from biomedica.export.view import View
from biomedica.shards import described, write_table

_CHANGE = pa.struct([("transform", pa.string()), ("num_images", pa.int32())])


SCHEMA = pa.schema(
    [
        described("pmcid", pa.string(), "`PMC<digits>`"),
        described("version", pa.int32(), "version of the article"),
        described("title", pa.string(), "title"),
        described("authors", pa.list_(pa.string()), "names, in order"),
        described("journal", pa.string(), "journal"),
        described("citation", pa.string(), "as the source prints it"),
        described("doi", pa.string(), "DOI without address"),
        described("license_code", pa.string(), "as the source states it; null: none stated"),
        described("licence_group", pa.string(), "`commercial`, `noncommercial` or `other`"),
        described(
            "licence_url", pa.string(), "address of the licence; null: the article gives none"
        ),
        described("licence_text", pa.string(), "the article's own words on its licence"),
        described("article_url", pa.string(), "the article at PubMed Central"),
        described("num_images", pa.int32(), "its pictures in this dataset"),
        described(
            "changes",
            pa.list_(_CHANGE),
            "what was done to the publisher's files; `none`: the bytes are the publisher's",
        ),
        described("figure_rights", pa.list_(pa.string()), "rights that its exported figures state"),
    ]
)
_CC0 = "https://creativecommons.org/publicdomain/zero/1.0/"


def write_attribution(path: Path, archive: Archive, view: View, choice: Choice) -> int:
    """Write the table, in the order of the archive's shards; the number of articles."""
    return write_table(path, SCHEMA, _rows(archive, view, choice))


def _rows(archive: Archive, view: View, choice: Choice) -> Iterator[dict[str, Any]]:
    columns = ["pmcid", "version", "transform", "figure_rights"]
    for shard, rows in chosen_by_shard(choice):
        source = SourceShard(archive, view.groups[shard], shard, None)
        articles: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for row in chosen_rows(archive, view.groups[shard], shard, rows, columns):
            articles.setdefault((row["pmcid"], row["version"]), []).append(row)
        for name, images in articles.items():
            yield attribution_row(source.article(*name), images)


def attribution_row(article: dict[str, Any], images: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of one article, from its row of the articles table and those of its pictures."""
    changes = Counter(image["transform"] for image in images)
    rights = dict.fromkeys(image["figure_rights"] for image in images)
    code = article["license_code"]
    return {
        "pmcid": article["pmcid"],
        "version": article["version"],
        "title": article["title"],
        "authors": [author["name"] for author in article["authors"]],
        "journal": article["journal"],
        "citation": article["citation"],
        "doi": article["doi"],
        "license_code": code,
        "licence_group": article["licence_group"],
        "licence_url": article["licence_url"] or (_CC0 if code == "CC0" else None),
        "licence_text": article["licence_text"],
        "article_url": f"https://pmc.ncbi.nlm.nih.gov/articles/{article['pmcid']}/",
        "num_images": len(images),
        "changes": [
            {"transform": transform, "num_images": count}
            for transform, count in sorted(changes.items())
        ],
        "figure_rights": [text for text in rights if text is not None],
    }
