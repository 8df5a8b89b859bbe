"""`select` over an archive of 24 million made samples: seconds, CPU and memory.

    python bench/select_scale.py make FOLDER [MILLIONS]   2,400 tables of 10,000 rows, labels, duplicates
    python bench/select_scale.py run FOLDER               recipes over it, first and later runs
    python bench/select_scale.py open FOLDER              what reading the tables themselves costs

The tables have the archive's own schema and row groups, captions too; there are no pictures. `run`
takes each recipe in a process of its own: CPU seconds count all its threads.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedica.archive import Archive, Done
from biomedica.shards import FIGURES, ROWS_IN_MEMORY, WrittenFile, file_digest, write_file
from biomedica.taxonomy import load_taxonomy

ROWS = 10_000
"""Of a table."""
CLUSTERS = 2_000
WORDS = [
    "cells",
    "tissue",
    "control",
    "patient",
    "axial",
    "section",
    "arrow",
    "bar",
    "scale",
    "shows",
    "mean",
    "of",
    "the",
    "treated",
]
GROUPS = {"commercial": (0.74, "CC BY"), "noncommercial": (0.22, "CC BY-NC"), "other": (0.04, None)}
Ints = NDArray[np.int64]


def shards(millions: float) -> list[tuple[str, str]]:
    """(group, shard) of every table, in the shares of the published dataset."""
    total = max(3, round(millions * 1e6 / ROWS))
    found = []
    for group, (share, _) in GROUPS.items():
        found += [(group, f"{group}-{n:06d}") for n in range(max(1, round(share * total)))]
    return sorted(found)


def picked(values: list[Any], rng: np.random.Generator, kind: pa.DataType) -> pa.Array:
    """ROWS values, drawn with the first the most frequent."""
    places = np.minimum(rng.geometric(0.5, ROWS) - 1, len(values) - 1)
    return pa.array(values, kind).take(pa.array(places))


def hex_digits(rng: np.random.Generator, count: int) -> pa.Array:
    """ROWS random numbers of `count` hex digits."""
    text = rng.bytes(ROWS * count // 2).hex()
    return pa.array([text[i : i + count] for i in range(0, len(text), count)], pa.string())


def members(rng: np.random.Generator) -> dict[str, Ints]:
    """Offsets and sizes of the three members of each sample."""
    sizes = {
        "jpg": rng.integers(20_000, 200_000, ROWS),
        "txt": rng.integers(80, 2_000, ROWS),
        "json": rng.integers(900, 9_000, ROWS),
    }
    padded = {part: 512 + size + -size % 512 for part, size in sizes.items()}
    length = sum(padded.values())
    offset = np.cumsum(length) - length
    starts = [offset, offset + padded["jpg"], offset + padded["jpg"] + padded["txt"]]
    found = {"offset": offset, "length": length}
    for part, start in zip(sizes, starts, strict=True):
        found |= {f"{part}_offset": start + 512, f"{part}_size": sizes[part]}
    return found


def figures(number: int, group: str, shard: str) -> pa.Table:
    """The table of one shard; every number is told by its place in the list."""
    rng = np.random.default_rng(number)
    article = 1_000_000 + number * 4_000 + np.arange(ROWS) * 10 // 34
    sentences = [" ".join(rng.choice(WORDS, 40 + n % 80)) for n in range(400)]
    texts = pa.array(sentences, pa.string())
    chosen = texts.take(pa.array(rng.integers(0, 400, ROWS)))
    pmcid = pc.binary_join_element_wise("PMC", pa.array(article).cast(pa.string()), "")
    ordinal = pa.array(np.arange(ROWS)).cast(pa.string())
    licence = pa.array([GROUPS[group][1]] * ROWS, pa.string())
    journals = pa.array([f"Journal of Made Research {n}" for n in range(1, 6_000)])
    kinds = ["fig", "table", "graphical-abstract", "scheme", "chart"]
    columns: dict[str, Any] = {
        "key": pc.binary_join_element_wise(pmcid, "1", "jmr", ordinal, "g001", "-"),
        "shard": pa.array([shard] * ROWS),
        **members(rng),
        "pmcid": pmcid,
        "version": np.ones(ROWS, np.int32),
        "pmid": article + 20_000_000,
        "doi": pc.binary_join_element_wise("10.5555/made", pmcid, "."),
        "title": texts.take(pa.array(article % 400)),
        "journal": journals.take(pa.array(article % 5_999)),
        "article_type": picked(
            ["research-article", "case-report", "review-article"], rng, pa.string()
        ),
        "published": pa.array((article % 9_000 + 10_000).astype(np.int32)).cast(pa.date32()),
        "license_code": licence,
        "licence_group": pa.array([group] * ROWS),
        "is_retracted": article % 1_000 == 0,
        "is_manuscript": article % 20 == 0,
        "is_historical_ocr": np.zeros(ROWS, bool),
        "figure_label": pc.binary_join_element_wise("Figure", ordinal, " "),
        "figure_kind": picked(kinds, rng, pa.string()),
        "figure_position": (np.arange(ROWS) % 7).astype(np.int32),
        "graphic_position": np.zeros(ROWS, np.int32),
        "num_graphics": np.ones(ROWS, np.int32),
        "file_name": pc.binary_join_element_wise("jmr", ordinal, "g001.jpg", "-"),
        "caption": chosen,
        "width": rng.integers(60, 1_600, ROWS).astype(np.int32),
        "height": rng.integers(60, 1_600, ROWS).astype(np.int32),
        "source_format": picked(["JPEG", "PNG", "GIF", "TIFF"], rng, pa.string()),
        "source_bytes": rng.integers(10_000, 900_000, ROWS),
        "source_md5": hex_digits(rng, 32),
        "transform": picked(["none", "reencoded", "resized+reencoded"], rng, pa.string()),
        "sha256": hex_digits(rng, 64),
        "phash": rng.integers(0, 2**63, ROWS).astype(np.uint64),
    }
    for field in FIGURES:
        if field.name not in columns:
            is_list = pa.types.is_list(field.type)
            empty = pa.array([[]] * ROWS, field.type) if is_list else pa.nulls(ROWS, field.type)
            columns[field.name] = empty
    return pa.table([columns[field.name] for field in FIGURES], schema=FIGURES)


def make_shard(root: Path, number: int, group: str, shard: str) -> int:
    """Write one table and its done file."""
    name = f"figures/{group}/{shard}.parquet"
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if (root / "done" / f"{shard}.json").exists():
        return 0
    pq.write_table(
        figures(number, group, shard),
        path,
        row_group_size=ROWS_IN_MEMORY,
        compression="zstd",
        compression_level=3,
    )
    done = Done(
        task=shard,
        group=group,
        inputs="",
        settings="",
        counts={},
        rejects={},
        outputs=(WrittenFile(name, path.stat().st_size, file_digest(path)),),
        seconds=0,
        cpu_seconds=0,
    )
    Archive(root).write_done(done)
    return ROWS


def cluster_labels(rng: np.random.Generator) -> dict[str, pa.Array]:
    """A label for each cluster, mostly of plots, with the ancestors of its concepts."""
    taxonomy = load_taxonomy()
    names = [c.id for c in taxonomy.concepts.values() if c.parent is not None]
    names.sort(key=lambda name: taxonomy.global_of(name) != "plots-and-charts")
    local: list[list[str]] = []
    for _ in range(CLUSTERS):
        few = {
            names[int(n)]
            for n in np.minimum(rng.geometric(0.03, 1 + rng.integers(2)), len(names)) - 1
        }
        wide = few | {up for name in few for up in taxonomy.ancestors(name)[:-1]}
        local.append([name for name in taxonomy.concepts if name in wide])
    globals_ = [sorted({taxonomy.global_of(name) for name in each}) for each in local]
    kind = pa.list_(pa.string())
    single = pa.array([len(each) < 2 for each in local])
    return {
        "panel_type": pc.if_else(single, "single", "multiple"),
        "panel_subtype": pc.if_else(single, "single-panel", "multiple-images"),
        "global_concepts": pa.array(globals_, kind),
        "local_concepts": pa.array(local, kind),
    }


def make_labels(root: Path, listed: list[tuple[str, str]]) -> None:
    """`labels/default.parquet` and its JSON, in the order of shards and rows."""
    rng = np.random.default_rng(7)
    of_cluster = cluster_labels(rng)
    (root / "labels").mkdir(exist_ok=True)
    writer = None
    for group, shard in listed:
        keys = pq.read_table(root / "figures" / group / f"{shard}.parquet", columns=["key"])["key"]
        cluster = rng.integers(0, CLUSTERS, ROWS).astype(np.int32)
        good = rng.random(ROWS) < 0.9
        places = pa.array(cluster)
        columns: dict[str, Any] = {
            "key": keys,
            "shard": pa.array([shard] * ROWS),
            "cluster": cluster,
            "status": pc.if_else(pa.array(good), "labelled", "outlier"),
        }
        for name, values in of_cluster.items():
            is_list = pa.types.is_list(values.type)
            nothing = pa.array([[]], values.type) if is_list else pa.nulls(1, values.type)
            ends = pa.concat_arrays(
                [
                    values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values,
                    nothing,
                ]
            )
            columns[name] = ends.take(pc.if_else(pa.array(good), places, CLUSTERS))
        columns |= {
            "confidence": (0.5 + cluster % 5 / 10).astype(np.float32),
            "num_votes": (3 + cluster % 3).astype(np.int32),
            "is_adjudicated": cluster % 9 == 0,
            "distance": rng.random(ROWS, np.float32),
        }
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(
            root / "labels" / "default.parquet", table.schema, compression="zstd"
        )
        writer.write_table(table)
    assert writer is not None
    writer.close()
    about = {"figures": digests(root), "version": 1}
    write_file(root / "labels" / "default.json", json.dumps(about).encode())


def digests(root: Path) -> dict[str, str]:
    """Digest of every figures table."""
    return {name: done.outputs[0].sha256 for name, done in Archive(root).done().items()}


def make_duplicates(root: Path, listed: list[tuple[str, str]]) -> None:
    """Every hundredth sample of a table in a group with one of the next table."""
    rows: dict[str, list[Any]] = {"key": [], "shard": [], "group": [], "is_first": []}
    before: tuple[str, list[str]] | None = None
    count = 0
    for group, shard in listed:
        path = root / "figures" / group / f"{shard}.parquet"
        keys = pq.read_table(path, columns=["key"])["key"].to_pylist()
        if before is not None:
            for old, new in zip(before[1][::200], keys[100::200], strict=True):
                rows["key"] += [old, new]
                rows["shard"] += [before[0], shard]
                rows["group"] += [count, count]
                rows["is_first"] += [True, False]
                count += 1
        before = shard, keys
    number = len(rows["key"])
    table = pa.table(
        rows
        | {
            "tier": ["phash"] * number,
            "phash_distance": pa.array([1] * number, pa.int8()),
            "cosine": pa.nulls(number, pa.float32()),
        }
    )
    pq.write_table(table, root / "duplicates.parquet", compression="zstd")
    write_file(root / "duplicates.json", json.dumps({"figures": digests(root)}).encode())


def make(root: Path, millions: float) -> None:
    """The whole archive; tables that stand are kept."""
    listed = shards(millions)
    root.mkdir(parents=True, exist_ok=True)
    Archive(root).write_info({"source": "made", "snapshot": str(date(2026, 11, 1))})
    groups, names = zip(*listed, strict=True)
    started = time.monotonic()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(make_shard, repeat(root), range(len(listed)), groups, names, chunksize=8))
    print(f"{len(listed)} tables: {time.monotonic() - started:.0f} s", flush=True)
    make_labels(root, listed)
    make_duplicates(root, listed)
    print(f"all: {time.monotonic() - started:.0f} s", flush=True)


def cpu_seconds() -> float:
    """Of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


RECIPES = ("full", "commercial", "concept-filtered", "concept-balanced", "single-panel-clinical")
DEDUP = """
[[keep]]
name = "commercial"
where = "licence_group = 'commercial' AND width >= 128 AND height >= 128"
why = "measured"
[dedup]
[sample]
number = 1_000_000
[split]
test = 0.1
together = true
"""
TEXT = """
[[keep]]
name = "words"
where = "contains(caption, 'axial section')"
why = "measured: a condition on a text reads every table"
"""


def one(root: Path, name: str, dry: bool) -> dict[str, Any]:
    """One recipe in this process; imports are counted."""
    started = time.monotonic()
    from biomedica.select import load_recipe, parse_recipe, select

    made = {"dedup-and-sample": DEDUP, "text": TEXT}
    recipe = parse_recipe(made[name], name) if name in made else load_recipe(name)
    found = select(Archive(root), recipe, name, dry_run=dry)
    return {
        "recipe": name,
        "samples": found.samples,
        "seconds": round(time.monotonic() - started, 2),
        "cpu_seconds": round(cpu_seconds(), 2),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def run(root: Path, only: list[str]) -> None:
    """Each recipe: the first time (nothing kept), then three times more, then counting only."""
    names = only or [*RECIPES, "dedup-and-sample", "text"]
    shutil.rmtree(root / "views", ignore_errors=True)
    found = []
    for name in names:
        rounds = [_apart(root, name, "one") for _ in range(1 if name == "text" else 4)]
        dry = _apart(root, name, "dry")
        later = sorted(rounds[1:] or rounds, key=lambda each: each["seconds"])
        middle = later[len(later) // 2]
        found.append({"first": rounds[0], "later": middle, "dry": dry})
        print(json.dumps(found[-1]), flush=True)
    print(json.dumps({"recipes": found}))


def _apart(root: Path, name: str, how: str) -> dict[str, Any]:
    command = [sys.executable, __file__, how, str(root), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def read_tables(root: Path) -> None:
    """Seconds of reading columns from the tables themselves, as a select without kept columns would."""
    import duckdb

    paths = [str(path) for path in sorted((root / "figures").glob("*/*.parquet"))]
    query = (
        "SELECT count(*) FROM read_parquet(?) WHERE licence_group = 'commercial' AND NOT is_retracted "
        "AND width >= 128"
    )
    for what, act in {
        "footers": lambda: sum(pq.read_metadata(path).num_rows for path in paths),
        "duckdb, three columns": lambda: duckdb.execute(query, [paths]).fetchall(),
    }.items():
        started, before = time.monotonic(), cpu_seconds()
        act()
        seconds, cpu = time.monotonic() - started, cpu_seconds() - before
        print(
            json.dumps({"what": what, "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2)})
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["make", "run", "open", "one", "dry"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("words", nargs="*", help="millions of samples, or names of recipes")
    words = parser.parse_args()
    if words.what == "make":
        make(words.folder, float(words.words[0]) if words.words else 24)
    elif words.what == "run":
        run(words.folder, words.words)
    elif words.what == "open":
        read_tables(words.folder)
    else:
        print(json.dumps(one(words.folder, words.words[0], words.what == "dry")))
