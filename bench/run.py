"""All measurements, one after the other: writes docs/benchmarks.md and docs/accuracy.md.

    python bench/run.py BUCKET [--peer-python PYTHON] [--quick]

BUCKET is a folder with the cloud service's layout and real articles. `--quick` leaves out what takes
minutes (ten copies, 200,000 articles, 8 million articles).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BENCH = Path(__file__).parent


def measured(script: str, *words: str | Path, python: str = sys.executable) -> dict[str, Any]:
    """What a script prints as JSON on its last line."""
    command = [python, BENCH / script, *words]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{script} failed:\n{done.stderr}")
    print(f"{script} {' '.join(map(str, words[1:]))}: {done.stdout.strip()[-400:]}", flush=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def machine() -> str:
    """What the numbers were measured on."""
    name = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return f"{name}, {os.cpu_count()} cores, Linux, Python {platform.python_version()}"


def row(*cells: object) -> str:
    """A row of a table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def parse_section(bucket: Path, peer: str | None) -> list[str]:
    """Parsing against a bare parse, beside pubmed_parser."""
    found = measured("parse_speed.py", bucket)
    if peer is not None:
        found |= measured("parse_speed.py", bucket, "--peer", python=peer)
    lines = [
        "## Parse",
        "",
        "CPU against a bare `lxml.etree.parse` of the same files, interleaved; the median of the rounds, with "
        "the lowest and highest. Files on which a parser raises an error are left out of both sides. Goal: 1.8 "
        "with all fields.",
        "",
        "`python bench/parse_speed.py BUCKET` (`--peer` with an interpreter that has pubmed_parser 0.5.1)",
        "",
        row("parser", "ratio", "lowest", "highest", "ms an article", "articles"),
        row(*["---"] * 6),
    ]
    for name, each in found.items():
        lines.append(
            row(
                name,
                each["ratio"],
                each["lowest"],
                each["highest"],
                each["ms_per_article"],
                each["articles"],
            )
        )
    return [*lines, ""]


def build_section(bucket: Path, full: Path) -> list[str]:
    """A whole build against its floor."""
    lines = [
        "## Build",
        "",
        "CPU of a whole build in one process against a floor that reads the same files, parses the XML bare, "
        "opens and decodes every picture with Pillow and writes the same bytes to a tar with `tarfile`. The "
        "build also extracts every field, writes text and tables, hashes, and writes what is not a JPEG anew. "
        "Goal: 1.5.",
        "",
        "`python bench/build_speed.py BUCKET build`",
        "",
        row("articles", "pairs", "ratio", "lowest", "highest", "pairs a CPU second"),
        row(*["---"] * 6),
    ]
    for name, folder in (
        ("real, pictures of 28 articles", bucket),
        ("with stand-ins of 48 x 40", full),
    ):
        found = measured("build_speed.py", folder, "build")
        lines.append(
            row(
                name,
                found["pairs"],
                found["ratio"],
                found["lowest"],
                found["highest"],
                found["pairs_per_cpu_second"],
            )
        )
    return [*lines, ""]


def scale_section(full: Path) -> list[str]:
    """Memory at ten times the articles, Ray against local."""
    memory = measured("build_speed.py", full, "memory")
    engines = measured("build_speed.py", full, "engines")
    local, ray = engines["local"], engines["ray"]
    return [
        "## Memory and engines",
        "",
        "Peak resident memory of a worker that builds the articles, and ten copies of them, in shards of 250 "
        "pictures (`python bench/build_speed.py BUCKET memory`): "
        f"{memory['mb_1x']} MB and {memory['mb_10x']} MB, ratio {memory['ratio']}.",
        "",
        "CPU seconds over ten copies, two workers (`python bench/build_speed.py BUCKET engines`). Goal: 1.2.",
        "",
        row("engine", "all processes", "tasks alone"),
        row("---", "---", "---"),
        row("local", local["processes"], local["tasks"]),
        row("Ray, its start included", ray["processes"], ray["tasks"]),
        row("ratio", engines["ratio"], round(ray["tasks"] / local["tasks"], 2)),
        "",
    ]


def catalog_section() -> list[str]:
    """The catalog of a synthetic inventory, and the plan of everything."""
    lines = [
        "## Catalog and plan",
        "",
        "A synthetic inventory whose metadata a local server makes on the fly, sharing the two cores "
        "(`python bench/catalog_scale.py catalog NUMBER`).",
        "",
        row("articles", "seconds", "rows a second", "CPU seconds", "peak MB"),
        row(*["---"] * 5),
    ]
    for number in (20_000, 200_000):
        found = measured("catalog_scale.py", "catalog", str(number))
        lines.append(
            row(
                f"{number:,}",
                found["seconds"],
                f"{found['rows_per_second']:,}",
                found["cpu_seconds"],
                found["peak_mb"],
            )
        )
    again = measured("catalog_scale.py", "again", "20000")
    planned = measured("catalog_scale.py", "plan", "8000000")
    return [
        *lines,
        "",
        f"A second run after 1 % of 20,000 changed (`again`) fetches {again['again']['fetched']} records in "
        f"{again['again']['seconds']} s; the first took {again['first']['seconds']} s.",
        "",
        f"The plan of {planned['articles']:,} articles from the catalog's Parquet (`plan`): "
        f"{planned['shards']:,} shards in {planned['seconds']} s, {planned['peak_mb']} MB at the peak. Goals: a "
        "minute, 2 GB.",
        "",
    ]


def stand_ins(bucket: Path, folder: Path) -> Path:
    """The bucket with a small picture for every graphic that lacks one."""
    out = folder / "stand-ins"
    subprocess.run([sys.executable, BENCH / "standin.py", bucket, out], check=True, cwd=ROOT)
    return out


def accuracy(full: Path, folder: Path, today: str, peer: str | None) -> None:
    """Build an archive of the filled bucket and compare it with the independent count."""
    archive = folder / "archive"
    command = [sys.executable, "-m", "biomedica", "build", full, archive, "--quiet"]
    subprocess.run([str(c) for c in command], check=True, cwd=ROOT)
    words: list[str | Path] = [BENCH / "accuracy.py", archive, full, "--date", today]
    words += ["--out", ROOT / "docs" / "accuracy.md"]
    words += ["--peer-python", peer] if peer else []
    subprocess.run([sys.executable, *map(str, words)], check=True, cwd=ROOT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bucket", type=Path)
    parser.add_argument("--peer-python", default=None)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    bucket, peer = arguments.bucket.resolve(), arguments.peer_python
    today = date.today().isoformat()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        full = stand_ins(bucket, folder)
        accuracy(full, folder, today, peer)
        lines = [
            "# Benchmarks",
            "",
            "Written by `make bench` (`python bench/run.py BUCKET`). Ratios within one run: the machine is shared "
            "and noisy.",
            "",
            f"- Date: {today}",
            f"- Machine: {machine()}",
            "- Articles: 328 real ones of 109 publishers, 29 MB of XML",
            "",
            *parse_section(bucket, peer),
            *build_section(bucket, full),
        ]
        if not arguments.quick:
            lines += scale_section(full) + catalog_section()
    if arguments.quick:
        print("\n".join(lines))
    else:
        (ROOT / "docs" / "benchmarks.md").write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
