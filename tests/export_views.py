"""Views and label runs written straight in their documented form, for tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from biomedica.archive import Archive
from biomedica.select.view import VIEW
from biomedica.select.view import write_view as write
from biomedica.shards import file_digest, tables
from biomedica.taxonomy import load_taxonomy

RECIPE = 'name = "all"  # `every` sample\n'


def figure_rows(root: Path) -> list[dict[str, Any]]:
    """Rows of all figures tables, by shard and offset."""
    rows = [row for path in tables(root, "figures") for row in pq.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: (row["shard"], row["offset"]))


def split_of(row: Mapping[str, Any]) -> str:
    """A quarter of the articles are for testing."""
    return "test" if int(row["pmcid"][3:]) % 4 == 0 else "train"


def write_view(
    root: Path,
    name: str = "all",
    keep: Callable[[Mapping[str, Any]], bool] = lambda row: True,
    labels: str | None = None,
    split: Callable[[Mapping[str, Any]], str] = split_of,
) -> None:
    """A view of the samples that `keep` keeps, in several batches."""
    rows = [row for row in figure_rows(root) if keep(row)]
    columns = [
        pa.array([split(row) if each.name == "split" else row[each.name] for row in rows])
        for each in VIEW
    ]
    arrays = [
        column.dictionary_encode().cast(each.type)
        if pa.types.is_dictionary(each.type)
        else column.cast(each.type)
        for column, each in zip(columns, VIEW, strict=True)
    ]
    table = pa.Table.from_arrays(arrays, schema=VIEW)
    counts = _counts(root, labels) | {"samples": len(rows)}
    write(root / "views" / name, RECIPE, table.to_batches(max_chunksize=17), counts)


def _counts(root: Path, labels: str | None) -> dict[str, Any]:
    figures = {
        task: next(file.sha256 for file in done.outputs if file.path.startswith("figures/"))
        for task, done in Archive(root).done().items()
    }
    run = None
    if labels:
        digest = file_digest(root / "labels" / f"{labels}.parquet")
        run = {"name": labels, "digest": digest}
    return {
        "figures": figures,
        "recipe": sha256(RECIPE.encode()).hexdigest(),
        "labels": run,
    }


def write_labels(root: Path, name: str = "default") -> None:
    """A label run: pictures by their order, every seventh without a cluster, every fifth undecided."""
    rows = []
    for number, row in enumerate(figure_rows(root)):
        if number % 7 == 6:
            continue
        is_labelled = number % 5 != 4
        rows.append(
            {
                "key": row["key"],
                "shard": row["shard"],
                "cluster": number % 4,
                "status": "labelled" if is_labelled else "undecided",
                "panel_type": "single" if is_labelled else None,
                "panel_subtype": "single-panel" if is_labelled else None,
                "global_concepts": ["microscopy"] if is_labelled else [],
                "local_concepts": ["light-microscopy"] if is_labelled else [],
                "confidence": 2 / 3 if is_labelled else None,
                "num_votes": 3,
                "is_adjudicated": False,
                "distance": 0.25,
            }
        )
    text, texts = pa.string(), pa.list_(pa.string())
    kinds = [text, text, pa.int32(), text, text, text, texts, texts, pa.float32(), pa.int32()]
    schema = pa.schema(list(zip(rows[0], [*kinds, pa.bool_(), pa.float32()], strict=True)))
    (root / "labels").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), root / "labels" / f"{name}.parquet")
    audit = {
        "concept": "microscopy",
        "level": "global",
        "num_images": 42,
        "num_drawn": 20,
        "num_checked": 20,
        "num_right": 18,
        "num_unsure": 1,
        "precision": 0.9,
        "low": 0.699,
        "high": 0.972,
    }
    pq.write_table(
        pa.Table.from_pylist([audit, audit | {"concept": None, "level": "all"}]),
        root / "labels" / f"{name}.audit.parquet",
    )
    measure = {"value": 0.8125, "low": 0.5, "high": 1.0}
    question = {"question": "panel_type", "is_set": False, "num_clusters": 4, "num_answers": 12}
    question |= {"percent": measure, "fleiss": measure, "alpha": measure | {"value": None}}
    agreement = {"num_votes": 12, "num_experts": 3, "num_clusters": 4, "questions": [question]}
    summary = {"taxonomy_digest": load_taxonomy().digest, "agreement": agreement}
    (root / "labels" / f"{name}.json").write_text(json.dumps(summary))
