"""Write the pages that are made from the code: commands, settings, formats.

    python tools/make_docs.py [--configs] [--check]

`--check` writes nothing and exits with 1 when a page is stale.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa

from biomedica import (
    archive,
    catalog,
    config,
    duplicates,
    enrich,
    label,
    plan,
    published,
    settings,
    shards,
)
from biomedica.cluster import model as clusters
from biomedica.evaluate.tasks import Task, load_tasks
from biomedica.export import attribution
from biomedica.foreign import tables as stated
from biomedica.records import Reason
from biomedica.report import EXPLANATIONS
from biomedica.taxonomy import load_taxonomy, taxonomy_table
from biomedica.train import TrainSettings, load_train, shipped_configs

DOCS = Path(__file__).parent.parent / "docs"
MADE = "<!-- made by `make docs` from the code; change it there -->\n"
SUITES = {
    "biomedica": "BIOMEDICA's benchmark: 39 classification tasks in eight specialties and one of retrieval",
    "evalset": "those of them that stand in its published snapshot, `BIOMEDICA/Biomedica2025EvalSet`",
    "ubench-coarse": "the four columns of BIOMEDICA's μ-Bench table",
    "biomedclip": "BiomedCLIP's five zero-shot sets with its documented prompts, and its two of VQA",
    "vqa": "visual question answering",
    "retrieval": "pictures to captions and back",
    "medmnist": "the flat sets of MedMNIST v2",
}
COMMANDS = (
    "tour",
    "catalog",
    "enrich",
    "plan",
    "build",
    "compact",
    "report",
    "doctor",
    "show",
    "embed",
    "cluster",
    "duplicates",
    "label",
    "labels make",
    "labels agreement",
    "labels audit",
    "labels votes",
    "labels import-votes",
    "labels import",
    "labels taxonomy",
    "index",
    "select",
    "recipes",
    "export",
    "publish",
    "stream",
    "train",
    "merge",
    "models configs",
    "models export",
    "settings",
    "eval ls",
    "eval validate",
    "eval run",
    "eval compare",
    "eval leaderboard",
    "eval contamination",
    "eval report",
)


def cli_page() -> str:
    """`--help` of every command."""
    parts = [f"# Commands\n\n{MADE}"]
    for words in ([], *(command.split() for command in COMMANDS)):
        text = subprocess.run(
            [sys.executable, "-m", "biomedica", *words, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={"COLUMNS": "100", "PATH": "/usr/bin", "TERM": "dumb"},
        ).stdout
        lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
        parts.append(f"## {' '.join(['biomedica', *words])}\n\n```text\n{lines}\n```\n")
    return "\n".join(parts)


def settings_page() -> str:
    """A table for each settings class."""
    parts = [
        f"# Settings\n\n{MADE}",
        "One TOML file (`--config FILE`) or `--set table.name=value`. `biomedica settings` prints a "
        "file with all of them. An unknown name is an error with a suggestion.\n",
    ]
    parts += settings_tables(config.Settings(), "##")
    parts += [
        "## Training\n",
        "A config of `biomedica train` is a file of its own, with these tables and the [stream] of above; "
        "`--set` changes it too.\n",
    ]
    training = TrainSettings()
    parts += settings_tables(training, "###", leave_out=("stream",))
    return "\n".join(parts)


def settings_tables(values: object, level: str, leave_out: tuple[str, ...] = ()) -> list[str]:
    """A heading and a table for each settings class among the fields of `values`."""
    parts = []
    for table in dataclasses.fields(values):
        group = getattr(values, table.name)
        if table.name in leave_out or not dataclasses.is_dataclass(group):
            continue
        about = settings.setting_docs(type(group))
        parts.append(f"{level} [{table.name}]\n\n{type(group).__doc__}\n")
        parts.append("| name | default | meaning |\n|---|---|---|")
        for each in dataclasses.fields(group):
            text = " ".join(about[each.name].split())
            parts.append(f"| `{each.name}` | `{getattr(group, each.name)}` | {text} |")
        parts.append("")
    return parts


def configs_page() -> str:
    """The shipped training configs in numbers (torch counts them)."""
    from biomedica.train.planning import make_plan

    parts = [
        f"# Training configs\n\n{MADE}",
        "Counted, not measured: `biomedica train NAME --plan`. GPU-hours assume 40 % of the accelerator's peak. "
        "How each value is known, and which are not, stands in the config's `about`.\n",
        "| config | pairs | epochs | batch | steps | parameters (learning) | GFLOPs a pair | FLOPs | A100-hours "
        "| H100-hours |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    abouts = []
    for name in shipped_configs():
        found = load_train(name)
        plan_ = make_plan(found)
        hours = {each.accelerator: f"{each.gpu_hours:,.0f}" for each in plan_.hours}
        parts.append(
            f"| `{name}` | {plan_.samples:,} | {found.data.epochs} | {plan_.batch:,} | {plan_.steps:,} "
            f"| {plan_.parameters / 1e6:,.1f} M ({plan_.trainable / 1e6:,.1f} M) | {plan_.gflops_per_pair:,.1f} "
            f"| {plan_.flops:.1e} | {hours.get('A100', '')} | {hours.get('H100', '')} ({found.optimizer.precision}) |"
        )
        abouts.append(f"**{name}**: {' '.join(found.about.split())}\n")
    return "\n".join([*parts, "", *abouts])


def table_of(schema: pa.Schema) -> str:
    """Columns of a schema with type and meaning."""
    rows = ["| column | type | null | meaning |", "|---|---|---|---|"]
    for each in schema:
        kind = str(each.type).replace("element: ", "").replace("|", "\\|")
        about = (each.metadata or {}).get(b"about", b"").decode()
        rows.append(f"| `{each.name}` | `{kind}` | {'yes' if each.nullable else 'no'} | {about} |")
    return "\n".join(rows)


def formats_page() -> str:
    """Every table of an archive, and the closed list of reasons."""
    tables = {
        "figures/GROUP/SHARD.parquet": (
            shards.FIGURES,
            "One row a sample, in the order of the tar.",
        ),
        "articles/GROUP/SHARD.parquet": (
            shards.ARTICLES,
            "One row an article, with its full text, once.",
        ),
        "rejects/*.parquet": (shards.REJECTS, "Every input that did not become output."),
        "catalog/part-NNNNN.parquet": (
            catalog.CATALOG,
            "One row an article version of the source.",
        ),
        "plan.parquet": (plan.PLAN, "One row an article: the shard that it goes to."),
        "pubmed/part-NNNNN.parquet": (
            enrich.PUBMED,
            "One row a PubMed record (`biomedica enrich`).",
        ),
        "clusters/NAME/assignment/SHARD.parquet": (
            clusters.ASSIGNMENT,
            "One row a sample, in the order of the figures file (`biomedica cluster`).",
        ),
        "clusters/NAME/sizes.parquet": (clusters.SIZES, "One row a cluster."),
        "clusters/NAME/members.parquet": (
            clusters.MEMBERS,
            "The images that stand for each cluster.",
        ),
        "duplicates.parquet": (
            duplicates.DUPLICATES,
            "Groups of near-duplicates; images without one have no row (`biomedica duplicates`).",
        ),
        "labels/NAME.parquet": (label.LABELS, "One row an image (`biomedica labels make`)."),
        "labels/NAME.clusters.parquet": (label.CLUSTER_LABELS, "One row a cluster."),
        "labels/NAME.audit.parquet": (label.AUDIT, "One row a concept (`biomedica labels audit`)."),
        "An export's ATTRIBUTION.parquet": (
            attribution.SCHEMA,
            "One row an article of an export (`biomedica export`).",
        ),
        "stated/GROUP/SHARD.parquet": (
            stated.STATED,
            "One row a sample: what a tar's own JSON says of the picture (`biomedica index`).",
        ),
        "labels/published.clusters.parquet": (
            published.CLUSTERS,
            "BIOMEDICA's published labels of its own clusters (`biomedica labels import`).",
        ),
        "tombstones.parquet": (archive.TOMBSTONES, "Samples that no reader gives any more."),
        "changelog.parquet": (archive.CHANGELOG, "What changed in the source, and what it did."),
    }
    intro = (Path(__file__).parent / "formats_intro.md").read_text()
    parts = [f"# Formats\n\n{MADE}", intro]
    for name, (schema, about) in tables.items():
        parts.append(f"## {name}\n\n{about}\n\n{table_of(schema)}\n")
    reasons = "\n".join(f"| `{reason.value}` | {EXPLANATIONS[reason]} |" for reason in Reason)
    parts.append(f"## Reasons of rejects\n\n| reason | meaning |\n|---|---|\n{reasons}\n")
    return "\n".join(parts)


def concepts_page() -> str:
    """Every concept with its definition and source."""
    tree = load_taxonomy()
    about = "What the tree is and where it comes from: [taxonomy.md](taxonomy.md).\n"
    return f"# Concepts\n\n{MADE}\n{about}\n{taxonomy_table(tree).rstrip()}\n"


def tasks_page() -> str:
    """Benchmark tasks by specialty, and what is known and inferred of each."""
    tasks = list(load_tasks().values())
    intro = (Path(__file__).parent / "tasks_intro.md").read_text()
    parts = [f"# Benchmark tasks\n\n{MADE}", intro.replace("SUITES\n", suites_table(tasks))]
    for specialty in sorted({task.specialty for task in tasks}):
        some = [task for task in tasks if task.specialty == specialty]
        parts.append(f"## {specialty.capitalize()}\n")
        parts.append(
            "| task | title | suites | kind | classes | metric | licence | terms |\n"
            "|---|---|---|---|---|---|---|---|"
        )
        parts += [task_row(task) for task in some]
        parts += ["", *(f"- `{task.name}`: {' '.join(task.about.split())}" for task in some), ""]
    return "\n".join(parts).rstrip() + "\n"


def suites_table(tasks: list[Task]) -> str:
    """Every suite that a task is in; a suite without a word here is an error."""
    counts = Counter(suite for task in tasks for suite in task.suites)
    rows = [f"| `{name}` | {count} | {SUITES[name]} |\n" for name, count in counts.most_common()]
    return "| suite | tasks | what |\n|---|---|---|\n" + "".join(rows)


def task_row(task: Task) -> str:
    """A task in a line of the table; `options` tasks bring their classes with each picture."""
    classes = str(len(task.classes) or "")
    cells = (
        f"[`{task.name}`]({task.access.url})",
        task.title,
        ", ".join(task.suites),
        task.kind,
        classes,
        task.metric,
        task.access.licence,
        task.access.terms,
    )
    return "| " + " | ".join(each.replace("|", "\\|") for each in cells) + " |"


PAGES = {
    "benchmark-tasks.md": tasks_page,
    "concepts.md": concepts_page,
    "cli.md": cli_page,
    "settings.md": settings_page,
    "formats.md": formats_page,
}
CONFIGS = {"configs.md": configs_page}
"""Pages that need torch, made with `--configs`."""


def main() -> None:
    stale = []
    pages = CONFIGS if "--configs" in sys.argv else PAGES
    for name, make in pages.items():
        text = make()
        path = DOCS / name
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(text)
    if stale and "--check" in sys.argv:
        sys.exit(f"stale: {', '.join(stale)}; run `make docs`")


if __name__ == "__main__":
    main()
