"""The whole way in a minute, offline: from the sample articles of this package to an archive."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path

import pyarrow.parquet as pq

from biomedica import catalog, cluster, flow
from biomedica.archive import Archive
from biomedica.catalog import Selection
from biomedica.cluster import Clustered
from biomedica.config import Settings
from biomedica.doctor import Diagnosis, examine
from biomedica.duplicates import Duplicates, find_duplicates
from biomedica.embed import embed
from biomedica.enrich import Enriched, catalog_pmids, enrich_from_files
from biomedica.errors import ConfigError
from biomedica.export import Exported, export
from biomedica.features import FeatureSet
from biomedica.flow import BuildResult, Listener
from biomedica.report import write_report
from biomedica.run.engines import open_engine
from biomedica.select import Selected, load_recipe, select
from biomedica.shards import tables
from biomedica.sheets import write_sheets

NUM_CLUSTERS = 8
RECIPE = "commercial"


@dataclass(frozen=True, slots=True, kw_only=True)
class Toured:
    """What the tour left."""

    enriched: Enriched
    built: BuildResult
    grouped: Clustered
    copies: Duplicates
    sheets: Path
    selected: Selected
    exported: Exported
    diagnosis: Diagnosis
    report: Path
    first_key: str


def take_tour(
    folder: Path, settings: Settings, tell: Listener, say: Callable[[str], None]
) -> Toured:
    """Catalog, enrich, build, check and report on the sample articles. Leaves
    `folder/source` (a bucket in small) and `folder/archive`.

    say   gets a line before each step
    """
    source, archive = folder / "source", Archive(folder / "archive")
    if folder.exists() and any(folder.iterdir()) and not source.is_dir():
        raise ConfigError(f"{folder} holds other files; name a new folder for the tour")
    if not source.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with as_file(files("biomedica") / "data" / "tour") as samples:
            shutil.copytree(samples, source)
    say("catalog: what the source lists, by its inventory")
    flow.refresh_catalog(str(source), archive, Selection(), settings, tell=tell)
    say("enrich: MeSH and more from PubMed's own files, joined by PMID")
    pmids = catalog_pmids(catalog.parts(archive.root / "catalog"))
    enriched = enrich_from_files(
        archive.root / "pubmed",
        pmids,
        source / "pubmed",
        archive.root / "rejects" / "enrich.parquet",
    )
    say("build: fetch, parse, check pictures, write shards, two workers")
    built = flow.build_archive(
        str(source), archive.root, Selection(), settings, workers=2, tell=tell
    )
    say("embed: pictures as vectors, by a tiny encoder without weights")
    features = _embed(archive, settings)
    say("cluster and duplicates: images that look alike, and copies of each other")
    grouped = cluster.cluster(
        archive, features, replace(settings.cluster, clusters=NUM_CLUSTERS, components=8)
    )
    copies = find_duplicates(archive, settings.duplicates, features)
    sheets = write_sheets(archive, grouped.name)
    say("select and export: what may be used commercially, as a dataset with its card")
    selected = select(archive, load_recipe(RECIPE), RECIPE)
    exported = export(archive, RECIPE, folder / "export", "webdataset", settings.export)
    say("doctor: every byte against its table")
    diagnosis = examine(archive, decode=True)
    say("report")
    return Toured(
        enriched=enriched,
        built=built,
        grouped=grouped,
        copies=copies,
        sheets=sheets,
        selected=selected,
        exported=exported,
        diagnosis=diagnosis,
        report=write_report(archive),
        first_key=_first_key(archive),
    )


def _embed(archive: Archive, settings: Settings) -> FeatureSet:
    engine = open_engine("inline", None, None)
    embed(archive, "tiny", settings.embed, settings.run, engine)
    return FeatureSet.open(archive, "tiny")


def _first_key(archive: Archive) -> str:
    """The key of the archive's first sample."""
    return str(pq.read_table(tables(archive.root, "figures")[0], columns=["key"])["key"][0])
