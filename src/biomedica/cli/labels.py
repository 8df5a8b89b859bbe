"""Commands on what experts said: the label page, labels of images, agreement, audits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from biomedica.cli.annotate import stages
from biomedica.cli.options import COMMON, Common, app, print_json

if TYPE_CHECKING:
    from biomedica.agreement import AgreementReport
    from biomedica.annotate import Labelled
    from biomedica.label import AuditResult


@app.command
def label(
    archive: Path,
    *,
    name: str = "default",
    expert: Annotated[list[str] | None, Parameter(negative="")] = None,
    answers: int | None = None,
    suggestions: bool = True,
    gold: Path | None = None,
    taxonomy: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8800,
    common: Common = COMMON,
) -> None:
    """Serve the label page, and print a personal link for each expert. Ctrl-C ends it; nothing is lost.

    Parameters
    ----------
    archive
        Folder of the archive.
    name
        Of the clustering.
    expert
        Name of an expert to invite. May be repeated; those invited before keep their links.
    answers
        Experts who answer each cluster (setting page.answers).
    suggestions
        Show what the nearest labelled clusters are.
    gold
        JSON file of clusters with known answers, mixed in to see how experts do.
    taxonomy
        Taxonomy file, if it is not the shipped one.
    host
        Where the server listens: on this machine alone unless told otherwise.
    port
        0 takes one that is free.
    """
    from dataclasses import replace

    from biomedica.archive import Archive
    from biomedica.explore.app import open_server

    settings = common.settings()
    page = replace(settings.page, suggestions=suggestions and settings.page.suggestions)
    if answers is not None:
        page = replace(page, answers=answers)
    with open_server(
        Archive(archive),
        name,
        page,
        experts=expert or (),
        gold=gold,
        taxonomy=taxonomy,
        host=host,
        port=port,
        label_settings=settings.label,
        audit_settings=settings.audit,
    ) as server:
        found = [
            {"name": each.expert.name, "role": each.expert.role, "url": each.url}
            for each in server.invitations()
        ]
        if common.json:
            print_json(found)
        else:
            for each in found:
                print(f"{each['name']:24} {each['url']}")
            print("A link is personal: who has it answers as that person. Ctrl-C ends the server.")
        sys.stdout.flush()
        server.run()


labels = App(
    name="labels", help="What experts said: labels of images, agreement, audits, taxonomy."
)
app.command(labels)


@labels.command
def make(
    archive: Path,
    *,
    name: str = "default",
    run: str | None = None,
    taxonomy: Path | None = None,
    common: Common = COMMON,
) -> None:
    """Turn the votes into a label for every image: majority, constraints, adjudications, outliers.

    Parameters
    ----------
    archive
        Folder of the archive.
    name
        Of the clustering that was labelled.
    run
        Name of the labels; that of the clustering by default.
    taxonomy
        Taxonomy file, if it is not the shipped one.
    """
    from biomedica.annotate import make_labels
    from biomedica.archive import Archive

    target = Archive(archive)
    target.info()
    settings = common.settings().label
    with target.lock(), stages(common, "shards") as tell:
        found = make_labels(target, name, settings, run=run, taxonomy=taxonomy, tell=tell)
    if common.json:
        print_json(found)
        return
    print(_labels_summary(found))
    print(f"next: biomedica label {archive} --name {name} (the page's audit), biomedica recipes")


def _labels_summary(found: Labelled) -> str:
    done = found.propagated
    images = ", ".join(
        f"{status} {number:,}" for status, number in done.by_status.items() if number
    )
    groups = done.clusters_by_status.items()
    clusters = ", ".join(f"{status} {number:,}" for status, number in groups if number)
    return "\n".join(
        [
            f"labels/{found.name}.parquet: {done.num_images:,} images: {images or 'none'}",
            f"clusters: {clusters or 'none'}; {done.num_adjudicated} settled by adjudication",
            _agreement_text(found.agreement),
        ]
    )


@labels.command
def agreement(
    archive: Path,
    *,
    name: str = "default",
    taxonomy: Path | None = None,
    common: Common = COMMON,
) -> None:
    """How far the experts agree: percent, Fleiss' kappa, Krippendorff's alpha, with intervals.

    Parameters
    ----------
    archive
        Folder of the archive.
    name
        Of the clustering that is being labelled.
    taxonomy
        Taxonomy file, if it is not the shipped one.
    """
    from biomedica.agreement import agreement_report
    from biomedica.annotate import that_count
    from biomedica.archive import Archive
    from biomedica.cluster import read_clusters
    from biomedica.errors import ConfigError
    from biomedica.taxonomy import load_taxonomy
    from biomedica.votes import VoteStore, votes_path

    target = Archive(archive)
    target.info()
    with VoteStore.open(votes_path(target, name)) as store:
        votes = that_count(store.current_votes(), read_clusters(target, name))
    try:
        found = agreement_report(votes, load_taxonomy(taxonomy), 0)
    except KeyError as error:
        raise ConfigError(
            f"the votes name {error}, which the taxonomy lacks; give --taxonomy"
        ) from None
    if common.json:
        print_json(found)
        return
    print(_agreement_text(found))


def _agreement_text(found: AgreementReport) -> str:
    lines = [f"agreement of {found.num_experts} experts, {found.num_votes} votes:"]
    for each in found.questions:
        figures = [
            f"{what} {_estimate(value)}"
            for what, value in (
                ("same", each.percent),
                ("Fleiss' kappa", each.fleiss),
                ("Krippendorff's alpha", each.alpha),
            )
        ]
        lines.append(f"  {each.question.replace('_', ' '):16} {'; '.join(figures)}")
    return "\n".join(lines)


def _estimate(found: object) -> str:
    value, low, high = (getattr(found, name) for name in ("value", "low", "high"))
    if value is None:
        return "-"
    return f"{value:.2f}" if low is None else f"{value:.2f} ({low:.2f} to {high:.2f})"


@labels.command
def audit(
    archive: Path, *, run: str = "default", name: str | None = None, common: Common = COMMON
) -> None:
    """Precision of the labels from the images that experts checked on the label page's audit.

    Parameters
    ----------
    archive
        Folder of the archive.
    run
        Name of the labels.
    name
        Of the clustering whose votes file holds the checks; that of the labels by default.
    """
    from biomedica.annotate import audit_labels
    from biomedica.archive import Archive

    target = Archive(archive)
    target.info()
    found = audit_labels(target, run, common.settings().audit, name)
    if common.json:
        print_json(found)
        return
    print(_audit_text(found))


def _audit_text(found: AuditResult) -> str:
    lines = []
    for each in (*found.concepts, *found.overall):
        what = each.concept or f"all ({each.level})"
        value = (
            "not checked"
            if each.precision is None
            else f"{each.precision:.2f} ({each.low:.2f} to {each.high:.2f})"
        )
        lines.append(
            f"{what:32} {value:24} {each.num_checked} of {each.num_drawn} checked, "
            f"{each.num_unsure} unsure"
        )
    if found.num_stray:
        lines.append(f"{found.num_stray} answers are about images that are not in this draw")
    return "\n".join(lines)


@labels.command
def votes(archive: Path, *, name: str = "default", common: Common = COMMON) -> None:
    """Print everything that experts said as JSON lines, with what was taken back.

    Parameters
    ----------
    archive
        Folder of the archive.
    name
        Of the clustering that is being labelled.
    """
    from biomedica.archive import Archive
    from biomedica.votes import VoteStore, export_events, votes_path

    del common
    target = Archive(archive)
    target.info()
    with VoteStore.open(votes_path(target, name)) as store:
        for line in export_events(store):
            print(line)


@labels.command
def import_votes(
    file: Path, archive: Path, *, name: str = "default", common: Common = COMMON
) -> None:
    """Put votes that `labels votes` printed into this archive's votes file; what is there stays once.

    Parameters
    ----------
    file
        JSON lines.
    archive
        Folder of the archive.
    name
        Of the clustering, which must be the one that was voted on.
    """
    from biomedica.archive import Archive
    from biomedica.cluster import model_digest
    from biomedica.errors import ConfigError
    from biomedica.votes import import_events, votes_path

    target = Archive(archive)
    target.info()
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # words may hold other separators
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from None
    model = model_digest(target, name)
    try:
        count = import_events(lines, votes_path(target, name), clustering=name, model=model)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    if common.json:
        print_json({"new": count})
    else:
        print(f"{count:,} events and checks were new")


@labels.command(name="import")
def import_(
    file: Path,
    archive: Path,
    *,
    keep: Literal["consistent", "all"] = "consistent",
    common: Common = COMMON,
) -> None:
    """Read the published `cluster_labels.json` into this taxonomy, and tell its contradictions.

    Parameters
    ----------
    file
        The published file.
    archive
        Folder of the archive; gets `labels/published.clusters.parquet`.
    keep
        Clusters without a contradiction, or `all`, each contradiction resolved by its stated rule.
    """
    from biomedica.archive import Archive
    from biomedica.published import import_report, read_published, write_import

    target = Archive(archive)
    target.info()
    found = read_published(file)
    written = write_import(found, archive / "labels", keep)
    report = import_report(found, keep)
    if common.json:
        print_json(report)
        return
    for kind, about in report["contradictions"].items():
        print(f"{kind:32} {about['clusters']:>5} clusters   {about['rule']}")
    print(f"written: {', '.join(str(path) for path in written)}")


@labels.command
def taxonomy(
    *,
    find: str | None = None,
    toml: Annotated[bool, Parameter(negative="")] = False,
    common: Common = COMMON,
) -> None:
    """Print the taxonomy: panel types and concepts with their definitions.

    Parameters
    ----------
    find
        Only concepts that these words find.
    toml
        The file itself, to start one's own from.
    """
    from biomedica.taxonomy import SHIPPED, load_taxonomy

    tree = load_taxonomy()
    if toml:
        print(SHIPPED.read_text(), end="")
        return
    found = tree.search(find) if find else tuple(tree.concepts.values())
    if not found:
        print(f"no concept is found by {find!r}", file=sys.stderr)
    if common.json:
        print_json([{"id": c.id, "parent": c.parent, "name": c.name} for c in found])
        return
    for concept in found:
        depth = len(tree.ancestors(concept.id))
        print(f"{'  ' * depth}{concept.name} [{concept.id}]: {concept.definition}")
