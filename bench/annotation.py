"""The measurements of the annotation half: writes docs/benchmarks-annotation.md.

    python bench/annotation.py CORPUS [--quick] [--only SECTION]

CORPUS holds `labelled`, `figcaps_pfocr` and `models/dinov2_vits14.onnx`. `--quick` leaves out ten million
rows and 24 million rows; `--only` measures one section again and leaves the others.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from run import BENCH, ROOT, machine, measured, row

LABELLED = """## Labelled sets

{images} images of {sets} labelled sets ({classes} classes), built as an archive (`python bench/labelled_source.py
CORPUS OUT`) and embedded with DINOv2 ViT-S/14. Clusters: {clusters}, that is 10 for each set, over 25 components
({explained:.1%} of the variance). Purity: share of images that agree with the most frequent set of their cluster, mean
and lowest of five seeds. kNN: leave one out, 5 neighbours by cosine. Goal: purity 0.95.

`python bench/modalities.py ARCHIVE`
"""


def command(*words: str | Path) -> None:
    """Run a command of the program."""
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))} failed:\n{done.stderr}")


def labelled_section(corpus: Path, folder: Path) -> list[str]:
    """Purity and neighbours, with whole pictures and with their middles."""
    source, archive = folder / "source", folder / "archive"
    command(BENCH / "labelled_source.py", corpus, source)
    command("-m", "biomedica", "build", source, archive, "--quiet")
    encoder = f"onnx:{corpus / 'models' / 'dinov2_vits14.onnx'}"
    found: dict[str, dict[str, Any]] = {}
    for fit in ("pad", "crop"):
        words = ("--encoder", encoder, "--name", fit, "--set", f"embed.fit={fit}", "--quiet")
        command("-m", "biomedica", "embed", archive, *words)
        found[fit] = measured("modalities.py", archive, "--features", fit)
    lines = [
        LABELLED.format(**found["pad"]),
        row("`embed.fit`", "purity", "lowest", "kNN, set", "kNN, class"),
        row(*["---"] * 5),
    ]
    for fit, each in found.items():
        figures = ("purity_mean", "purity_lowest", "knn_set", "knn_class")
        lines.append(row(fit, *(f"{each[name]:.3f}" for name in figures)))
    return [*lines, "", *round_section(archive)]


def round_section(archive: Path) -> list[str]:
    """Three experts label every cluster in a browser."""
    command(
        "-m", "biomedica", "cluster", archive, "--features", "pad", "--clusters", "50", "--quiet"
    )
    found = measured("browser_round.py", archive)
    alpha = found["alpha"]
    return [
        "Three experts who know a cluster's most frequent set, and err on every tenth, label all clusters by "
        "keyboard in Chromium; majority gives every image a label (`python bench/browser_round.py ARCHIVE`): "
        f"{sum(found['answered'].values())} answers, {found['labelled']:,} of {found['images']:,} images labelled, "
        f"{found['right']:.1%} of them with the concept of their own set. Krippendorff's alpha: "
        f"{alpha['global_concepts']:.2f} for global, {alpha['local_concepts']:.2f} for local concepts.",
        "",
    ]


def clustering_section(quick: bool) -> list[str]:
    """K-means, PCA and assignment beside their peers; memory."""
    kmeans = measured("cluster_scale.py", "kmeans")
    pca = measured("cluster_scale.py", "pca")
    assign = measured("cluster_scale.py", "assign")
    lines = [
        "## Clustering",
        "",
        "200,000 points of 384 dimensions, 2,000 clusters, 10 iterations, both from random rows; CPU seconds of "
        "two threads, median of interleaved rounds. Goals: inertia within 1 %, CPU 1.1; PCA: the same variance, "
        "CPU 2; assignment: 0.8 of a bare float32 matrix product of the same matrices, by wall time.",
        "",
        "`python bench/cluster_scale.py kmeans`, `pca`, `assign`",
        "",
        row("what", "ours", "peer", "ratio"),
        row(*["---"] * 4),
        row("k-means, CPU s (faiss)", kmeans["our_cpu"], kmeans["faiss_cpu"], kmeans["cpu_ratio"]),
        row(
            "k-means, inertia (faiss)",
            kmeans["our_inertia"],
            kmeans["faiss_inertia"],
            kmeans["inertia_ratio"],
        ),
        row(
            "PCA to 64, CPU s (scikit-learn)", pca["our_cpu"], pca["sklearn_cpu"], pca["cpu_ratio"]
        ),
        row("PCA, variance explained", pca["our_explained"], pca["sklearn_explained"], ""),
        row(
            "assignment, GFLOPS (numpy)",
            assign["assign_gflops"],
            assign["product_gflops"],
            assign["share"],
        ),
        "",
    ]
    sizes = ("1",) if quick else ("1", "10")
    lines += [
        "The whole of `cluster` (moments, training, assignment, sizes, members) over made archives of 64 numbers "
        "a row, 200 clusters (`python bench/cluster_scale.py memory MILLIONS`):",
        "",
        row("rows", "seconds", "peak MB"),
        row(*["---"] * 3),
    ]
    for size in sizes:
        found = measured("cluster_scale.py", "memory", size)
        lines.append(row(f"{found['rows']:,}", found["seconds"], found["peak_mb"]))
    near = measured("cluster_scale.py", "duplicates", "1" if quick else "24")
    lines += [
        "",
        f"Pairs of hashes within 3 bits among {near['hashes']:,}, a tenth of them planted near another "
        f"(`duplicates MILLIONS`): {near['found']:,} pairs in {near['cpu_seconds']} CPU seconds, "
        f"{near['peak_mb']:,} MB at the peak.",
        "",
    ]
    return lines


def select_section(folder: Path) -> list[str]:
    """Recipes over 24 million made samples."""
    command(BENCH / "select_scale.py", "make", folder, "24")
    found = measured("select_scale.py", "run", folder)
    lines = [
        "## Select",
        "",
        "24 million made samples in 2,400 tables with the archive's own columns, labels and duplicates; seconds of "
        "a command, its start included. The first run of a recipe reads the columns that it names and keeps them; "
        "later runs (median of three) use those. Goal: 3 seconds.",
        "",
        "`python bench/select_scale.py make FOLDER 24`, then `run FOLDER`",
        "",
        row("recipe", "selected", "first", "later", "later, CPU", "dry run", "peak MB"),
        row(*["---"] * 7),
    ]
    for each in found["recipes"]:
        first, later, dry = each["first"], each["later"], each["dry"]
        lines.append(
            row(
                later["recipe"],
                f"{later['samples']:,}",
                first["seconds"],
                later["seconds"],
                later["cpu_seconds"],
                dry["seconds"],
                f"{later['peak_mb']:,}",
            )
        )
    return [*lines, ""]


HEAD = """# Benchmarks of annotation

Written by `make bench` (`python bench/annotation.py CORPUS`). Ratios within one run: the machine is shared and noisy.

- Machine: {machine}
"""
PAGE = ROOT / "docs" / "benchmarks-annotation.md"


def sections_of(text: str) -> dict[str, str]:
    """Parts of the page by their heading."""
    parts = text.split("\n## ")[1:]
    return {part.split("\n", 1)[0]: f"## {part}".rstrip() for part in parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=["labelled", "clustering", "select"])
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measures = {
            "labelled": lambda: labelled_section(words.corpus.resolve(), Path(name)),
            "clustering": lambda: clustering_section(words.quick),
            "select": lambda: [] if words.quick else select_section(Path(name) / "select"),
        }
        lines: list[str] = []
        for what, measure in measures.items():
            if words.only in (None, what):
                found = measure()
                lines += [*found, f"Measured on {date.today().isoformat()}.", ""] if found else []
    if words.quick:
        print("\n".join(lines))
        return
    old = sections_of(PAGE.read_text()) if words.only and PAGE.exists() else {}
    new = old | sections_of("\n" + "\n".join(lines))
    page = [HEAD.format(machine=machine()), *(new[heading] + "\n" for heading in new)]
    PAGE.write_text("\n".join(page).rstrip() + "\n")


if __name__ == "__main__":
    main()
