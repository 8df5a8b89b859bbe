"""Labels that the samples' own JSON states, as a label run that recipes can ask: `labels/biomedica`.

Published names become ids of our taxonomy as `biomedica labels import` reads them, contradictions
settled by its rules. Nothing is known of votes or distances: `num_votes` is 0, `confidence` null,
`distance` not a number; `cluster` is -1 where the JSON names none.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from biomedica.archive import Archive
from biomedica.errors import ArchiveError
from biomedica.features import figures_digests
from biomedica.foreign.tables import table_names
from biomedica.label.propagate import LABELS
from biomedica.published import read_published
from biomedica.records import Answer
from biomedica.shards import disk_message, temporary, write_json
from biomedica.taxonomy import Taxonomy, load_taxonomy

RUN = "biomedica"
"""Name of the label run."""
_ORIGIN = "the JSON of indexed shards"
_COLUMNS = ["is_own", "status", "panel_type", "panel_subtype", "global_classes", "local_classes"]
_LABELLED, _AMBIGUOUS, _UNLABELLED = "labelled", "ambiguous", "unlabelled"
_STATUSES = (_LABELLED, _AMBIGUOUS, _UNLABELLED, "undecided", "outlier")
_NO_CLUSTER = -1
_Said = tuple[bool, str | None, str, str, tuple[str, ...], tuple[str, ...]]
"""`_COLUMNS`, lists as tuples and null panels as ""."""


def write_labels(archive: Archive) -> dict[str, int]:
    """Write the label run of what all shards state; samples by status. Empty, and no run, where no
    sample has a label. Withdrawn samples keep their rows."""
    shards = sorted(archive.done())
    said = {each for shard in shards for _, each in _said(archive, shard) if each is not None}
    base = archive.root / "labels" / RUN
    if not said:
        if base.with_suffix(".json").exists() and _is_ours(base.with_suffix(".json")):
            for suffix in (".json", ".parquet"):
                base.with_suffix(suffix).unlink(missing_ok=True)
        return {}
    taxonomy = load_taxonomy()
    answers = _answers(said, taxonomy)
    counts = Counter[str]()
    _write(base.with_suffix(".parquet"), _parts(archive, shards, answers, counts))
    summary = {
        "origin": _ORIGIN,
        "clustering": None,
        "figures": figures_digests(archive),
        "model": None,
        "taxonomy": taxonomy.version,
        "taxonomy_digest": taxonomy.digest,
        "settings": {},
        "counts": {"num_images": sum(counts.values()), "by_status": dict(sorted(counts.items()))},
        "agreement": None,
    }
    write_json(base.with_suffix(".json"), summary)
    return dict(sorted(counts.items()))


def _is_ours(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_bytes()).get("origin") == _ORIGIN)
    except (OSError, ValueError, AttributeError):
        return False


def _said(archive: Archive, shard: str) -> Iterator[tuple[dict[str, Any], _Said | None]]:
    path = archive.root / table_names(shard)["stated"]
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1 << 14):
                for row in batch.to_pylist():
                    yield row, None if row["is_own"] is None else _key(row)
    except (OSError, pa.ArrowException) as error:
        raise ArchiveError(f"{path} cannot be read: {error}; index the shard again") from None


def _key(row: dict[str, Any]) -> _Said:
    return (
        row["is_own"],
        row["status"],
        row["panel_type"] or "",
        row["panel_subtype"] or "",
        tuple(row["global_classes"]),
        tuple(row["local_classes"]),
    )


def _answers(said: set[_Said], taxonomy: Taxonomy) -> dict[_Said, tuple[str, Answer]]:
    """(status, answer) of everything that is said."""
    found = {each: _own_answer(each, taxonomy) for each in said if each[0]}
    published = sorted(each for each in said if not each[0])
    if not published:
        return found
    content = {
        str(number): {
            "panel_type": panel_type,
            "panel_subtype": panel_subtype,
            "global_class": global_classes,
            "local_class": local_classes,
        }
        for number, (_, _, panel_type, panel_subtype, global_classes, local_classes) in enumerate(
            published
        )
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cluster_labels.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        read = read_published(path, taxonomy)
    for each in read.clusters:
        status = _AMBIGUOUS if each.answer is None else _LABELLED
        found[published[each.cluster]] = status, each.answer or Answer()
    return found


def _own_answer(said: _Said, taxonomy: Taxonomy) -> tuple[str, Answer]:
    _, status, panel_type, panel_subtype, global_classes, local_classes = said
    answer = Answer(
        panel_type=panel_type or None,
        panel_subtype=panel_subtype or None,
        global_concepts=global_classes,
        local_concepts=local_classes,
    )
    known = taxonomy.concepts.keys() >= {*global_classes, *local_classes}
    if status not in _STATUSES or (status == _LABELLED and not known):
        return _UNLABELLED, Answer()
    return status, answer


def _parts(
    archive: Archive,
    shards: list[str],
    answers: dict[_Said, tuple[str, Answer]],
    counts: Counter[str],
) -> Iterator[pa.Table]:
    for shard in shards:
        rows = []
        for row, said in _said(archive, shard):
            status, answer = (_UNLABELLED, Answer()) if said is None else answers[said]
            counts[status] += 1
            rows.append(
                {
                    "key": row["key"],
                    "shard": shard,
                    "cluster": _NO_CLUSTER if row["cluster"] is None else row["cluster"],
                    "status": status,
                    "panel_type": answer.panel_type,
                    "panel_subtype": answer.panel_subtype,
                    "global_concepts": list(answer.global_concepts),
                    "local_concepts": list(answer.local_concepts),
                    "confidence": None,
                    "num_votes": 0,
                    "is_adjudicated": False,
                    "distance": math.nan,
                }
            )
        yield pa.Table.from_pylist(rows, LABELS)


def _write(path: Path, parts: Iterator[pa.Table]) -> None:
    """A row group a shard, whole or not at all."""
    own = temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(own, LABELS, compression="zstd", compression_level=3) as writer:
            for part in parts:
                if len(part):
                    writer.write_table(part, row_group_size=len(part))
        own.replace(path)
    except OSError as error:
        raise ArchiveError(disk_message(path.parent, error)) from error
    finally:
        own.unlink(missing_ok=True)
