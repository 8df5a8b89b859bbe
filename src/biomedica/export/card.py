"""What people read: the card (README.md), LICENSE.md and CITATION.cff."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined

from biomedica.archive import Archive
from biomedica.errors import ArchiveError
from biomedica.export.choose import RULES, Choice
from biomedica.export.facts import Facts
from biomedica.export.features import yaml_features
from biomedica.export.layouts import feature_schema, json_schema
from biomedica.export.published import FIELDS
from biomedica.export.settings import ExportSettings
from biomedica.export.text import code_block, markdown, yaml
from biomedica.export.view import View

LICENCES: Mapping[str, str] = {
    "CC0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC BY": "https://creativecommons.org/licenses/by/4.0/",
    "CC BY-SA": "https://creativecommons.org/licenses/by-sa/4.0/",
    "CC BY-ND": "https://creativecommons.org/licenses/by-nd/4.0/",
    "CC BY-NC": "https://creativecommons.org/licenses/by-nc/4.0/",
    "CC BY-NC-SA": "https://creativecommons.org/licenses/by-nc-sa/4.0/",
    "CC BY-NC-ND": "https://creativecommons.org/licenses/by-nc-nd/4.0/",
}
"""The newest version of each licence, to read up on; an article's own address is in the attribution."""
_AUTHORS = "The authors of the articles that ATTRIBUTION.parquet lists"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What the card tells of a label run."""

    summary: Mapping[str, Any]
    """Content of `labels/<name>.json`."""
    audit: Sequence[Mapping[str, Any]]
    """Rows of `labels/<name>.audit.parquet`; none where nothing was audited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Everything that the card, the citation and the Croissant file are written from."""

    view: View
    layout: str
    settings: ExportSettings
    snapshot: str | None
    """Date of the archive's source, `YYYY-MM-DD`."""
    choice: Choice
    facts: Facts
    num_articles: int
    labels: Labels | None

    @property
    def release_date(self) -> str | None:
        return self.settings.date or self.snapshot

    @property
    def creators(self) -> tuple[str, ...]:
        return self.settings.creators or (_AUTHORS,)

    @property
    def extension(self) -> str:
        return "parquet" if self.layout == "parquet" else "tar"

    @property
    def splits(self) -> Mapping[str, Mapping[str, int]]:
        """Samples by licence group and split."""
        found: dict[str, dict[str, int]] = {}
        for part in self.choice.parts:
            found.setdefault(part.group, {})[part.split] = part.num_samples
        return found

    @property
    def summary(self) -> str:
        """The dataset in a sentence."""
        return (
            f"{self.choice.num_samples:,} figures with their captions from {self.num_articles:,} "
            "articles of the PubMed Central Open Access subset, each with the facts, the licence "
            "and the paragraphs that cite it"
            + (", and labels that experts gave to clusters of images." if self.labels else ".")
        )


def read_labels(archive: Archive, name: str | None) -> Labels | None:
    """What stands beside a label run; None without one."""
    if name is None:
        return None
    folder = archive.root / "labels"
    try:
        summary = json.loads((folder / f"{name}.json").read_bytes())
        path = folder / f"{name}.audit.parquet"
        audit = pq.read_table(path).to_pylist() if path.exists() else []
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ArchiveError(
            f"label run {name} is not whole: {error}. `biomedica labels make` writes it again"
        ) from None
    return Labels(summary=summary, audit=audit)


def card(told: Told) -> bytes:
    """README.md: the card's YAML, then the text. The same export gives the same bytes."""
    text = (
        _templates()
        .get_template("README.md.j2")
        .render(
            told=told,
            settings=told.settings,
            rules=RULES,
            licences=LICENCES,
            agreement=(told.labels.summary.get("agreement") or {}) if told.labels else {},
            columns=_columns(told),
            schema_names=[
                field.name for field in json_schema(told.layout, told.labels is not None)
            ],
        )
    )
    return f"---\n{yaml(_metadata(told))}---\n\n{text}".encode()


def _metadata(told: Told) -> dict[str, Any]:
    """The YAML head, as the Hub and `datasets` read it."""
    features = yaml_features(feature_schema(told.layout, told.labels is not None))
    groups = told.splits
    return {
        "pretty_name": told.settings.title,
        "language": ["en"],
        "license": "other",
        "license_name": "per-article",
        "license_link": "LICENSE.md",
        "size_categories": [size_category(told.choice.num_samples)],
        "task_categories": [
            "image-to-text",
            "zero-shot-image-classification",
            "feature-extraction",
        ],
        "tags": [
            "biology",
            "medical",
            "image",
            "text",
            "pubmed-central",
            "figures",
            *(["webdataset"] if told.extension == "tar" else []),
        ],
        "configs": [
            {
                "config_name": group,
                **({"default": True} if not number else {}),
                "data_files": [
                    {"split": split, "path": f"{group}/{split}/*.{told.extension}"}
                    for split in splits
                ],
            }
            for number, (group, splits) in enumerate(groups.items())
        ],
        "dataset_info": [{"config_name": group, "features": features} for group in groups],
    }


def size_category(num_samples: int) -> str:
    """The Hub's word for a size.

    >>> size_category(999), size_category(1000), size_category(24_000_000)
    ('n<1K', '1K<n<10K', '10M<n<100M')
    """
    if num_samples < 1_000:
        return "n<1K"
    names = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
    power = min(len(str(num_samples)) - 4, len(names) - 2)
    return f"{names[power]}<n<{names[power + 1]}"


def _columns(told: Told) -> list[tuple[str, str]]:
    """(name, meaning) of the facts of a sample."""
    if told.layout == "biomedica":
        return [(name, about) for name, _, about in FIELDS]
    schema = json_schema(told.layout, told.labels is not None)
    return [(field.name, (field.metadata or {}).get(b"about", b"").decode()) for field in schema]


def licence_page(told: Told) -> bytes:
    """LICENSE.md: there is no single licence; which there are, and where each picture's stands."""
    page = _templates().get_template("LICENSE.md.j2").render(told=told, licences=LICENCES)
    return page.encode()


def citation(told: Told) -> bytes:
    """CITATION.cff, version 1.2.0 of the format."""
    settings = told.settings
    fields: dict[str, Any] = {
        "cff-version": "1.2.0",
        "message": "Cite this dataset, and the articles whose figures you show.",
        "type": "dataset",
        "title": settings.title,
        "abstract": told.summary,
        "authors": [{"name": name} for name in told.creators],
        "version": settings.version,
        **({"date-released": told.release_date} if told.release_date else {}),
        **({"url": settings.url} if settings.url else {}),
        "keywords": ["biomedical figures", "captions", "PubMed Central", "vision-language"],
        "references": [
            {
                "type": "conference-paper",
                "title": "BIOMEDICA: An Open Biomedical Image-Caption Archive, Dataset, and "
                "Vision-Language Models Derived from Scientific Literature",
                "authors": [{"name": "Lozano et al."}],
                "year": 2025,
                "conference": {"name": "CVPR 2025"},
                "url": "https://arxiv.org/abs/2501.07171",
            }
        ],
    }
    return yaml(fields).encode()


def _estimate(found: Mapping[str, float | None], factor: int, digits: int) -> str:
    """A measure with its interval; nothing where it is not defined."""
    value, low, high = (found.get(name) for name in ("value", "low", "high"))
    if value is None:
        return ""
    text = f"{factor * value:.{digits}f}"
    if low is None or high is None:
        return text
    return f"{text} ({factor * low:.{digits}f} to {factor * high:.{digits}f})"


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("biomedica.export"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown: every word from the data goes through the filter `md`
    )
    environment.filters["md"] = markdown
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["code_block"] = code_block
    environment.filters["estimate"] = _estimate
    environment.filters["percent"] = lambda value: "" if value is None else f"{100 * value:.1f}"
    return environment
