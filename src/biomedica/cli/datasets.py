"""Commands that choose from an archive and give away what was chosen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from biomedica.cli.options import COMMON, Common, app, listener, print_json, size

if TYPE_CHECKING:
    from biomedica.export import Exported
    from biomedica.foreign import Index


@app.command(usage="Usage: biomedica index URL... ARCHIVE [OPTIONS]")
def index(
    *urls: str,
    full_text: Annotated[bool, Parameter(negative="")] = False,
    engine: Literal["local", "ray", "inline"] = "local",
    workers: int | None = None,
    address: str | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    common: Common = COMMON,
) -> None:
    """Make an archive of WebDataset tars that stay where they are: each is read once, nothing is copied.

    The last word is the archive's folder. Stopped, or run again later, it reads what is new or changed.

    Parameters
    ----------
    urls
        Tars: files, folders, patterns, http(s)://…/{000000..001861}.tar, s3://BUCKET/PREFIX/; then ARCHIVE.
        For a gated dataset of the hub set HF_TOKEN.
    full_text
        Keep the articles' full texts too, where the tars have them.
    engine
        `local`: processes of this machine, a tar each. `ray`: a cluster. `inline`: this very process.
    workers
        Processes; one for each core by default.
    address
        Of a Ray cluster.
    dry_run
        Ask for the sizes of all tars, and read none.
    """
    from biomedica import foreign
    from biomedica.archive import Archive
    from biomedica.errors import ConfigError
    from biomedica.flow import Progress
    from biomedica.run.engines import open_engine

    if len(urls) < 2:
        raise ConfigError("at least one URL and the archive's folder are expected, in this order")
    *words, folder = urls
    settings, target = common.settings(), Archive(Path(folder))
    if dry_run:
        seen = foreign.forecast(
            words, target, settings.source, settings.images, with_text=full_text
        )
        if common.json:
            print_json(seen)
            return
        print(f"{seen.num_tars:,} tars, {size(seen.num_bytes)}")
        print(f"to be read: {seen.num_waiting:,}, {size(seen.num_waiting_bytes)}")
        return
    with listener(common) as tell:
        found = foreign.index(
            words,
            target,
            settings.source,
            settings.images,
            settings.run,
            open_engine(engine, workers, address),
            with_text=full_text,
            tell=lambda done, total, pairs, rejects: tell(
                Progress(
                    stage="index",
                    done=done // 10**6,
                    total=total // 10**6,
                    unit="MB",
                    pairs=pairs,
                    rejects=rejects,
                )
            ),
        )
    if common.json:
        print_json(found)
        return
    print(_index_summary(found))


def _index_summary(found: Index) -> str:
    lines = [
        f"{found.num_samples:,} samples in {found.num_tars:,} tars, {size(found.num_bytes)} that stay "
        f"where they are ({found.num_read:,} tars read now): {found.archive}"
    ]
    for reason, number in found.rejects.items():
        lines.append(f"  rejected, {reason}: {number:,}")
    if found.num_withdrawn:
        lines.append(f"  withdrawn, the key stands in an earlier shard: {found.num_withdrawn:,}")
    if found.labels:
        said = ", ".join(f"{status} {number:,}" for status, number in found.labels.items())
        lines.append(f"  labels 'biomedica', from the tars: {said}")
    lines.append(f"next: biomedica select {found.archive} RECIPE (`biomedica recipes` lists some)")
    return "\n".join(lines)


@app.command
def select(
    archive: Path,
    recipe: str,
    *,
    name: str | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    common: Common = COMMON,
) -> None:
    """Choose samples by a recipe: a view, which copies nothing. Every refusal is counted by its rule.

    Parameters
    ----------
    archive
        Folder of the archive.
    recipe
        A shipped recipe (`biomedica recipes`) or a TOML file.
    name
        Of the view; that of the recipe by default.
    dry_run
        Count, and write nothing.
    """
    from biomedica.archive import Archive
    from biomedica.cli.annotate import stages
    from biomedica.select import load_recipe, summary
    from biomedica.select import select as run

    target = Archive(archive)
    target.info()
    chosen = load_recipe(recipe)
    with stages(common, "steps") as tell:
        found = run(target, chosen, name or chosen.name, dry_run=dry_run, tell=tell)
    if common.json:
        print_json(found)
        return
    print(summary(found))
    if found.view:
        print(f"next: biomedica export {archive} {found.view} FOLDER")


@app.command
def recipes(*, common: Common = COMMON) -> None:
    """List the shipped recipes, with what they keep and why."""
    from biomedica.select import list_recipes

    found = list_recipes()
    if common.json:
        print_json([{"name": each.name, "about": each.about} for each in found])
        return
    for each in found:
        print(f"{each.name:22} {each.about}")


@app.command
def export(
    archive: Path,
    view: str,
    folder: Path,
    *,
    layout: Literal["webdataset", "parquet", "biomedica"] = "webdataset",
    takedown: Path | None = None,
    taxonomy: Path | None = None,
    common: Common = COMMON,
) -> None:
    """Copy a view to a folder that can be published as it is: shards, card, Croissant, attribution, sums.

    Parameters
    ----------
    archive
        Folder of the archive.
    view
        Name of the view that `select` made.
    folder
        Where the export goes; an older export there is replaced.
    layout
        `webdataset`: this program's samples. `parquet`: pictures in tables. `biomedica`: the 27 published fields.
    takedown
        File of PMC ids, keys or SHA-256 digests, one a line, that must not be exported.
    taxonomy
        File of the taxonomy that the labels were made with, if it is not the shipped one.
    """
    from biomedica.archive import Archive
    from biomedica.export import export as run
    from biomedica.flow import Progress

    settings = common.settings().export
    target = Archive(archive)
    target.info()
    with listener(common) as tell:
        found = run(
            target,
            view,
            folder,
            layout,
            settings,
            takedown=takedown,
            taxonomy=taxonomy,
            on_progress=lambda done, total: tell(
                Progress(stage="export", done=done, total=total, unit="samples")
            ),
        )
    if common.json:
        print_json(found)
        return
    print(_export_summary(found))


def _export_summary(found: Exported) -> str:
    lines = [
        f"{found.num_samples:,} samples of {found.num_articles:,} articles in {found.num_shards} shards, "
        f"{size(found.num_bytes)}: {found.folder}"
    ]
    for rule, number in found.refused.items():
        if number:
            lines.append(f"  left out by {rule}: {number:,}")
    lines.append(
        f"look at {found.folder / 'README.md'}, then: biomedica publish {found.folder} REPO"
    )
    return "\n".join(lines)


@app.command
def publish(
    folder: Path,
    repository: str,
    *,
    private: bool = True,
    revision: str = "main",
    endpoint: str | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    common: Common = COMMON,
) -> None:
    """Upload an export to the Hugging Face hub. Stopped, the same command sends what is missing.

    The token is read from the environment (HF_TOKEN).

    Parameters
    ----------
    folder
        An export.
    repository
        `NAME/DATASET` on the hub; made when it is not there.
    private
        Of a repository that has to be made.
    revision
        Branch.
    endpoint
        Another hub.
    dry_run
        Check the sums and list the files; nothing is sent.
    """
    from biomedica.flow import Progress
    from biomedica.publish import publish as run

    with listener(common) as tell:
        found = run(
            folder,
            repository,
            endpoint=endpoint,
            revision=revision,
            private=private,
            dry_run=dry_run,
            on_commit=lambda done, total: tell(
                Progress(stage="publish", done=done, total=total, unit="files")
            ),
        )
    if common.json:
        print_json(found)
        return
    if dry_run:
        for path in found.uploaded:
            print(f"{size(found.files[path]):>10}  {path}")
    verb = "would be sent" if dry_run else "sent"
    print(f"{len(found.uploaded)} files {verb}, {size(found.num_bytes)}")
    if found.url:
        print(found.url)
