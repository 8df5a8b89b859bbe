"""Labels of clusters to labels of images: every image gets its cluster's, outliers get none."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedica import cluster
from biomedica.agreement import AgreementReport
from biomedica.archive import Archive, check_name
from biomedica.errors import ArchiveError, ConfigError
from biomedica.features import figures_digests, withdrawn_keys
from biomedica.label.consensus import ClusterLabel, LabelSettings, Status
from biomedica.records import Answer
from biomedica.shards import (
    described,
    disk_message,
    file_digest,
    temporary,
    write_json,
    write_table,
)
from biomedica.taxonomy import Taxonomy

_TEXT = pa.string()
_TEXTS = pa.list_(pa.string())
_SHARES = pa.list_(pa.float32())
_SAID = pa.struct(
    [
        ("question", pa.string()),
        ("answer", pa.string()),
        ("num_votes", pa.int32()),
        ("share", pa.float32()),
    ]
)
_STATUS = described(
    "status",
    _TEXT,
    "`labelled`; `ambiguous`: most experts say that no answer fits; `undecided`: too few votes, or no "
    "majority that anybody settled; `unlabelled`: no vote; of an image also `outlier`",
    False,
)
_ANSWER = [
    described("panel_type", _TEXT, "id of the taxonomy; null unless labelled, or where unanswered"),
    described("panel_subtype", _TEXT, "id; null also where no subtype has a majority"),
    described(
        "global_concepts", _TEXTS, "ids, in the taxonomy's order; empty unless labelled", False
    ),
    described("local_concepts", _TEXTS, "ids with all their ancestors below the global one", False),
]
_CERTAINTY = [
    described(
        "confidence",
        pa.float32(),
        "smallest share of the voters behind any answer of the label; null unless labelled by votes",
    ),
    described("num_votes", pa.int32(), "votes on the cluster that count", False),
    described("is_adjudicated", pa.bool_(), "an adjudicator decided", False),
]
LABELS = pa.schema(
    [
        described("key", _TEXT, "sample", False),
        described("shard", _TEXT, "its shard", False),
        described("cluster", pa.int32(), "the cluster that its label comes from", False),
        _STATUS,
        *_ANSWER,
        *_CERTAINTY,
        described("distance", pa.float32(), "to the cluster's centroid", False),
    ]
)
CLUSTER_LABELS = pa.schema(
    [
        described("cluster", pa.int32(), "id; clusters that were split are left out", False),
        described(
            "num_images", pa.int64(), "images of the cluster, withdrawn ones left out", False
        ),
        described("num_outliers", pa.int64(), "those of them that are outliers", False),
        _STATUS,
        *_ANSWER,
        described(
            "verdict_share",
            pa.float32(),
            "share of all votes that say the cluster can be answered; null without votes",
        ),
        described("panel_type_share", pa.float32(), "share of the answering voters behind it"),
        described("panel_subtype_share", pa.float32(), "the same"),
        described("global_shares", _SHARES, "the same, for each of `global_concepts`", False),
        described("local_shares", _SHARES, "the same, for each of `local_concepts`", False),
        *_CERTAINTY,
        described(
            "num_answered", pa.int32(), "votes that are neither `ambiguous` nor `mixed`", False
        ),
        described("reason", _TEXT, "the adjudicator's; of an undecided one, why no answer stands"),
        described("dissent", pa.list_(_SAID), "what experts said and the label does not", False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Propagated:
    """What giving the labels to the images came to."""

    num_images: int
    """Rows: images with a cluster that are not withdrawn."""
    num_unassigned: int
    """Images without features, so without a cluster; they get no row."""
    num_withdrawn: int
    by_status: dict[str, int]
    """Images."""
    clusters_by_status: dict[str, int]
    num_adjudicated: int
    """Clusters."""
    digest: str
    """SHA-256 of the images' file, in hex."""


def propagate(
    archive: Archive,
    name: str,
    clustering: str,
    labels: Sequence[ClusterLabel],
    taxonomy: Taxonomy,
    settings: LabelSettings,
    agreement: AgreementReport | None = None,
) -> Propagated:
    """Write the three files of a label run; the same input gives the same bytes.

    labels      as `consensus` gives them, one for every cluster that was not split
    settings    those that `consensus` had; they are noted beside the labels
    agreement   noted too

    Shard by shard: memory holds the labels of the clusters and the images of one shard. Raises
    `ArchiveError` where the assignment is stale or an image's cluster has no label.
    """
    base = _base(archive, name)
    labels = sorted(labels, key=lambda each: each.cluster)
    summary_path = base.with_name(f"{base.name}.json")
    counts = Counter[str]()
    per_cluster: Counter[int] = Counter()
    outliers: Counter[int] = Counter()
    parts = _parts(archive, clustering, labels, counts, per_cluster, outliers)
    path = base.with_name(f"{base.name}.parquet")
    # without its summary a run does not stand: the old one goes when the new rows are on the disk
    _write(path, LABELS, parts, lambda: summary_path.unlink(missing_ok=True))
    rows = (
        _cluster_row(each, per_cluster[each.cluster], outliers[each.cluster]) for each in labels
    )
    write_table(base.with_name(f"{base.name}.clusters.parquet"), CLUSTER_LABELS, rows)
    by_cluster = Counter(each.status.value for each in labels)
    done = Propagated(
        num_images=sum(per_cluster.values()),
        num_unassigned=counts["unassigned"],
        num_withdrawn=counts["withdrawn"],
        by_status={each.value: counts[each.value] for each in Status},
        clusters_by_status={each.value: by_cluster[each.value] for each in Status},
        num_adjudicated=sum(each.is_adjudicated for each in labels),
        digest=file_digest(path),
    )
    summary = {
        "clustering": clustering,
        "figures": figures_digests(archive),
        "model": cluster.model_digest(archive, clustering),
        "taxonomy": taxonomy.version,
        "taxonomy_digest": taxonomy.digest,
        "settings": asdict(settings),
        "counts": asdict(done),
        "agreement": None if agreement is None else asdict(agreement),
    }
    write_json(summary_path, summary)
    return done


def names(archive: Archive) -> list[str]:
    """Label runs of an archive; an import of published labels is none."""
    paths = (archive.root / "labels").glob("*.json")
    return sorted(path.stem for path in paths if path.with_suffix(".parquet").exists())


def read_summary(archive: Archive, name: str) -> dict[str, Any]:
    """Content of `labels/<name>.json`. Raises `ConfigError` where there is no such label run."""
    path = _base(archive, name).with_name(f"{name}.json")
    try:
        return dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        known = ", ".join(names(archive)) or "none"
        raise ConfigError(
            f"{archive.root} has no labels {name!r} (there are: {known}); `biomedica labels make` makes them"
        ) from None
    except ValueError as error:
        raise ArchiveError(f"{path} is damaged: {error}") from None


def is_stale(archive: Archive, summary: Mapping[str, Any]) -> bool:
    """Whether shards were added or rewritten since something noted its `figures` (labels, duplicates)."""
    return summary.get("figures") != figures_digests(archive)


def labels_path(archive: Archive, name: str) -> Path:
    """The images' file of a label run that is there. Raises `ConfigError` where there is none."""
    read_summary(archive, name)
    return _base(archive, name).with_name(f"{name}.parquet")


def audit_path(archive: Archive, name: str) -> Path:
    """Where the precision of a label run stands, once it is audited."""
    return _base(archive, name).with_name(f"{name}.audit.parquet")


def _base(archive: Archive, name: str) -> Path:
    if name == "published":
        raise ConfigError(
            "labels 'published' are those of `biomedica labels import`; take another name"
        )
    return archive.root / "labels" / check_name("labels", name)


def _parts(
    archive: Archive,
    clustering: str,
    labels: Sequence[ClusterLabel],
    counts: Counter[str],
    per_cluster: Counter[int],
    outliers: Counter[int],
) -> Iterator[pa.Table]:
    """The images of each shard with their labels; counts on the way.

    Every cluster has two rows in a small table, one for its images and one for its outliers: labelling
    a shard is taking rows from it.
    """
    kinds = _kinds(labels)
    statuses = kinds["status"].to_pylist()
    ids_K = np.array([each.cluster for each in labels], dtype=np.int64)
    marked = {(key, each.cluster) for each in labels for key in each.outliers}
    marked_keys = pa.array(sorted({key for key, _ in marked}), pa.string())
    withdrawn = withdrawn_keys(archive)
    for shard, table in cluster.read_assignment(archive, clustering):
        kept, num_withdrawn, num_unassigned = _live(table, withdrawn.get(shard, set()))
        counts["withdrawn"] += num_withdrawn
        counts["unassigned"] += num_unassigned
        clusters_N = kept["cluster"].to_numpy().astype(np.int64)
        places_N = _places(clusters_N, ids_K, shard)
        is_outlier_N = _is_marked(kept["key"], clusters_N, marked, marked_keys)
        rows_N = 2 * places_N + is_outlier_N
        for row, number in zip(*np.unique(rows_N, return_counts=True), strict=True):
            counts[statuses[row]] += int(number)
            per_cluster[labels[row // 2].cluster] += int(number)
            outliers[labels[row // 2].cluster] += int(number) * int(row % 2)
        label = kinds.take(pa.array(rows_N))
        columns = {each: kept[each] for each in ("key", "cluster", "distance")}
        columns["shard"] = pa.array([shard] * len(kept), pa.string())
        columns |= {each: label[each] for each in label.column_names}
        yield pa.table({each.name: columns[each.name] for each in LABELS}, schema=LABELS)


def _kinds(labels: Sequence[ClusterLabel]) -> pa.Table:
    """Rows 2 i and 2 i + 1: what images and outliers of the i-th cluster get."""
    rows = []
    for each in labels:
        own = {
            "status": each.status.value,
            **_answer_row(each.answer),
            "confidence": each.confidence,
            "num_votes": each.num_votes,
            "is_adjudicated": each.is_adjudicated,
        }
        none = {"status": Status.OUTLIER.value, **_answer_row(Answer()), "confidence": None}
        rows += [own, own | none]
    return pa.Table.from_pylist(rows, pa.schema([_STATUS, *_ANSWER, *_CERTAINTY]))


def _answer_row(answer: Answer) -> dict[str, Any]:
    return {
        "panel_type": answer.panel_type,
        "panel_subtype": answer.panel_subtype,
        "global_concepts": list(answer.global_concepts),
        "local_concepts": list(answer.local_concepts),
    }


def _live(table: pa.Table, gone: set[str]) -> tuple[pa.Table, int, int]:
    """Rows that count, and how many are withdrawn and (of the others) without a cluster."""
    stays_N = np.ones(len(table), dtype=bool)
    if gone:
        stays_N = np.array([key not in gone for key in table["key"].to_pylist()], dtype=bool)
    assigned_N = table["cluster"].to_numpy() >= 0
    kept = table.filter(pa.array(stays_N & assigned_N))
    return kept, int((~stays_N).sum()), int((stays_N & ~assigned_N).sum())


def _places(
    clusters_N: NDArray[np.int64], ids_K: NDArray[np.int64], shard: str
) -> NDArray[np.int64]:
    """Where each image's cluster stands among the labels, which are in the order of their ids."""
    places_N = np.minimum(np.searchsorted(ids_K, clusters_N), max(len(ids_K) - 1, 0))
    unknown = clusters_N[ids_K[places_N] != clusters_N] if len(ids_K) else clusters_N
    if len(unknown):
        raise ArchiveError(
            f"images of {shard} are in cluster {unknown[0]}, which has no label; labels and assignment "
            "are of different states of the clustering"
        )
    return places_N


def _is_marked(
    keys: pa.ChunkedArray,
    clusters_N: NDArray[np.int64],
    marked: set[tuple[str, int]],
    marked_keys: pa.Array,
) -> NDArray[np.int64]:
    found_N = np.zeros(len(clusters_N), dtype=np.int64)
    candidates = np.flatnonzero(pc.is_in(keys, marked_keys).to_numpy())
    for row in candidates:
        found_N[row] = (keys[int(row)].as_py(), int(clusters_N[row])) in marked
    return found_N


def _write(
    path: Path, schema: pa.Schema, parts: Iterable[pa.Table], before: Callable[[], None]
) -> None:
    """A row group a shard, whole or not at all. before   called when all is written, before it counts"""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = temporary(path)
    writer = None
    try:
        writer = pq.ParquetWriter(own, schema, compression="zstd", compression_level=3)
        for part in parts:
            if len(part):
                writer.write_table(part, row_group_size=len(part))
        writer.close()
        with own.open("rb") as file:
            os.fsync(file.fileno())
        before()
        own.replace(path)
    except OSError as error:
        raise ArchiveError(disk_message(path.parent, error)) from error
    finally:
        if writer is not None and writer.is_open:
            writer.is_open = False  # or its finalizer writes a footer, and complains where it can't
        own.unlink(missing_ok=True)


def _cluster_row(label: ClusterLabel, num_images: int, num_outliers: int) -> dict[str, Any]:
    share = {(each.question, each.answer): each.share for each in label.support}
    answer = label.answer

    def of(question: str, value: str | None) -> float | None:
        return None if value is None else share[question, value]

    return {
        "cluster": label.cluster,
        "num_images": num_images,
        "num_outliers": num_outliers,
        "status": label.status.value,
        **_answer_row(answer),
        "verdict_share": label.num_answered / label.num_votes if label.num_votes else None,
        "panel_type_share": of("panel_type", answer.panel_type),
        "panel_subtype_share": of("panel_subtype", answer.panel_subtype),
        "global_shares": [of("global_concepts", each) for each in answer.global_concepts],
        "local_shares": [of("local_concepts", each) for each in answer.local_concepts],
        "confidence": label.confidence,
        "num_votes": label.num_votes,
        "is_adjudicated": label.is_adjudicated,
        "num_answered": label.num_answered,
        "reason": label.reason,
        "dissent": [asdict(each) for each in label.dissent],
    }
