"""A sample as the published BIOMEDICA dataset has it: `jpg`, `txt` and the 25 keys of its JSON."""

from __future__ import annotations

import calendar
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from biomedica.export.features import JSON
from biomedica.export.source import Copied, Sibling
from biomedica.taxonomy import Taxonomy

_TEXT = pa.string()
_TEXTS = pa.list_(_TEXT)
_IMAGE_SET = pa.list_(
    pa.struct(
        [
            ("image_id", _TEXT),
            ("image_file_name", _TEXT),
            ("image_path", _TEXT),
            ("caption", _TEXT),
            ("hash", _TEXT),
        ]
    )
)
_ARTICLE_ID = pa.struct([("@IdType", _TEXT), ("#text", _TEXT)])
_REFERENCE = pa.struct(
    [("Citation", _TEXT), ("ArticleIdList", pa.struct([("ArticleId", pa.list_(_ARTICLE_ID))]))]
)

FIELDS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("image_file_name", _TEXT, "`file_name`"),
    ("image_cluster_id", _TEXT, "`file_name` without extension (the published name misleads)"),
    ("image_hash", _TEXT, "`sha256` of the JPEG in the shard"),
    ("image_label_id", _TEXT, "cluster of the label run; empty without one"),
    (
        "image_panel_type",
        _TEXT,
        "`panel_type` of the label, in the published words; empty where there is none",
    ),
    ("image_panel_subtype", _TEXT, "`panel_subtype`, likewise"),
    ("image_primary_label", _TEXTS, "`global_concepts`, in the published vocabulary"),
    ("image_secondary_label", _TEXTS, "`local_concepts`, likewise"),
    ("image_size", pa.list_(pa.int64()), "`[width, height]`, pixels"),
    ("image_set", _IMAGE_SET, "all figures of the article, or this one (setting)"),
    ("image_context", _TEXT, "paragraphs that cite each of them, by image id"),
    ("article_accession_id", _TEXT, "`pmcid`"),
    ("article_title", _TEXT, "`title`"),
    ("article_journal", _TEXT, "`journal`"),
    ("article_date", _TEXT, "`published` at midnight UTC, Unix seconds; `None` without one"),
    ("article_abstract", _TEXT, "`abstract`"),
    ("article_mesh_terms", _TEXTS, "descriptors of `mesh_terms`, each once"),
    ("article_keywords", _TEXTS, "`keywords`"),
    ("article_reference_ids", pa.list_(_REFERENCE), "`references`, in PubMed's shape"),
    ("article_reference_count", pa.int64(), "number of `references`"),
    ("article_reference_list", _TEXTS, "texts of `references`"),
    ("article_subject", _TEXTS, "`subjects`"),
    ("article_citation", _TEXT, "`citation`"),
    ("article_license", _TEXT, "`license_code`; empty where the source states none"),
    ("article_text", _TEXT, "title, abstract and `body_text`, or nothing (setting)"),
)
"""Name, type and our source of each of the 25 keys, in the published order."""

SCHEMA = pa.schema(
    [
        pa.field(name, kind, metadata=JSON if name == "image_context" else None)
        for name, kind, _ in FIELDS
    ]
)
"""Of the JSON; `image_context` has a key for each image, so no fixed columns."""

_SUBTYPES = {
    "single-panel": "single panel",
    "multiple-images": "multiple panels: images",
    "multiple-images-and-plots": "multiple panels: images & plots",
    "multiple-images-and-assays": "multiple panels: images & assays",
}
"""Subtypes that the published vocabulary has; the others keep our id."""


def published_fields(
    sample: Copied,
    article: Mapping[str, Any],
    siblings: Sequence[Sibling],
    taxonomy: Taxonomy | None,
    with_text: bool,
) -> dict[str, Any]:
    """The 25 keys of a sample.

    article    its row of the articles table
    siblings   the figures that `image_set` and `image_context` are about, in order
    taxonomy   names the concepts of the label; None where there are no labels
    """
    row = sample.row
    return {
        "image_file_name": row["file_name"],
        "image_cluster_id": image_id(row["file_name"]),
        "image_hash": row["sha256"],
        **_annotations(sample.label, taxonomy),
        "image_size": [row["width"], row["height"]],
        "image_set": [_image(each) for each in siblings],
        "image_context": _context(siblings),
        "article_accession_id": row["pmcid"],
        "article_title": row["title"] or "",
        "article_journal": row["journal"] or "",
        "article_date": unix_seconds(row["published"]),
        "article_abstract": article["abstract"] or "",
        "article_mesh_terms": _descriptors(row["mesh_terms"]),
        "article_keywords": row["keywords"],
        "article_reference_ids": [_reference(each) for each in article["references"]],
        "article_reference_count": len(article["references"]),
        "article_reference_list": [each["text"] or "" for each in article["references"]],
        "article_subject": row["subjects"],
        "article_citation": article["citation"] or "",
        "article_license": row["license_code"] or "",
        "article_text": _full_text(article) if with_text else "",
    }


def image_id(file_name: str) -> str:
    """A file name without its extension.

    >>> image_id("pone.0046493.g001.jpg")
    'pone.0046493.g001'
    """
    return PurePosixPath(file_name).stem


def unix_seconds(published: date | None) -> str:
    """Midnight of a day in UTC.

    >>> unix_seconds(date(2020, 3, 4)), unix_seconds(None)
    ('1583280000', 'None')
    """
    return "None" if published is None else str(calendar.timegm(published.timetuple()))


def published_names(taxonomy: Taxonomy, ids: Sequence[str]) -> list[str]:
    """Names of concepts in the published vocabulary, else our own; each once, in order."""
    names: list[str] = []
    for each in ids:
        concept = taxonomy.concepts.get(each)
        names += [each] if concept is None else concept.published[:1] or (concept.name,)
    return list(dict.fromkeys(names))


def _annotations(label: Mapping[str, Any] | None, taxonomy: Taxonomy | None) -> dict[str, Any]:
    if label is None or taxonomy is None:
        return {
            "image_label_id": "",
            "image_panel_type": "",
            "image_panel_subtype": "",
            "image_primary_label": [],
            "image_secondary_label": [],
        }
    subtype = label["panel_subtype"] or ""
    return {
        "image_label_id": str(label["cluster"]),
        "image_panel_type": label["panel_type"] or "",
        "image_panel_subtype": _SUBTYPES.get(subtype, subtype),
        "image_primary_label": published_names(taxonomy, label["global_concepts"]),
        "image_secondary_label": published_names(taxonomy, label["local_concepts"]),
    }


def _image(sibling: Sibling) -> dict[str, str]:
    return {
        "image_id": image_id(sibling.file_name),
        "image_file_name": sibling.file_name,
        "image_path": f"{sibling.key}.jpg",
        "caption": sibling.caption,
        "hash": sibling.sha256,
    }


def _context(siblings: Sequence[Sibling]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in siblings:
        paragraphs = found.setdefault(image_id(each.file_name), [])
        paragraphs += [text for text in each.mentions if text not in paragraphs]
    return found


def _descriptors(mesh_terms: Sequence[str]) -> list[str]:
    """MeSH descriptors without qualifiers and stars, each once, in order."""
    return list(dict.fromkeys(term.partition("/")[0].rstrip("*") for term in mesh_terms))


def _reference(reference: Mapping[str, Any]) -> dict[str, Any]:
    ids = [
        {"@IdType": kind, "#text": str(value)}
        for kind, value in (("pubmed", reference["pmid"]), ("doi", reference["doi"]))
        if value is not None
    ]
    return {"Citation": reference["text"] or "", "ArticleIdList": {"ArticleId": ids}}


def _full_text(article: Mapping[str, Any]) -> str:
    parts = (article["title"], article["abstract"], article["body_text"])
    return "\n".join(part for part in parts if part)
