"""What an archive's annotation came to, for its page: features, clusters, duplicates, labels, audits, views."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from biomedica import cluster, features, label
from biomedica.archive import Archive
from biomedica.errors import ArchiveError

_CONCEPTS = 40
"""Rows of a table of concepts."""


def annotation_facts(archive: Archive) -> dict[str, Any]:
    """All that the page shows of it; lists are empty where there is nothing yet."""
    return {
        "features": [_features(archive, name) for name in features.names(archive)],
        "clusterings": [_clustering(archive, name) for name in cluster.names(archive)],
        "near": _near(archive),
        "labels": [_labels(archive, name) for name in label.names(archive)],
        "views": _views(archive),
    }


def _features(archive: Archive, name: str) -> dict[str, Any]:
    found = features.FeatureSet.open(archive, name)
    states = found.states()
    notes = [found.sidecar(shard) for shard, fits in states.items() if fits]
    fit = (found.info.get("preprocessing") or {}).get("fit", "")
    return {
        "name": name,
        "kind": found.info["kind"],
        "encoder": found.info["encoder"],
        "dims": found.dims,
        "fit": fit,
        "num_shards": len(states),
        "num_done": sum(states.values()),
        "rows": sum(note.rows for note in notes if note),
        "bad": sum(len(note.bad) for note in notes if note),
    }


def _clustering(archive: Archive, name: str) -> dict[str, Any]:
    info = cluster.read_info(archive, name)
    folder = archive.root / "clusters" / name
    sheets = folder / "report.html"
    return {
        "name": name,
        "info": info,
        "drift": _json(folder / "drift.json") or {"num_before": 0, "num_later": 0},
        "num_splits": len(list(folder.glob("splits/*/split.json"))),
        "sheets": f"clusters/{name}/report.html" if sheets.exists() else None,
    }


def _near(archive: Archive) -> dict[str, Any] | None:
    found = _json(archive.root / "duplicates.json")
    return None if found is None else found | {"is_stale": label.is_stale(archive, found)}


def _labels(archive: Archive, name: str) -> dict[str, Any]:
    summary = label.read_summary(archive, name)
    audit = label.read_audit(archive, name)
    rows = audit.to_pylist() if audit is not None else []
    checked = [row for row in rows if row["num_checked"] or row["num_unsure"]]
    return {
        "name": name,
        "is_stale": label.is_stale(archive, summary),
        "summary": summary,
        "agreement": summary["agreement"],
        "audit": [row for row in checked if row["concept"]][:_CONCEPTS],
        "overall": [row for row in checked if not row["concept"]],
    }


def _views(archive: Archive) -> list[dict[str, Any]]:
    found = []
    for path in sorted((archive.root / "views").glob("*/counts.json")):
        counts = _json(path)
        if counts is not None:
            found.append({"name": path.parent.name, "counts": counts})
    return found


def _json(path: Path) -> dict[str, Any] | None:
    """A small file; None where it is not there."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ArchiveError(f"{path} is damaged: {error}") from None
    return dict(content)
