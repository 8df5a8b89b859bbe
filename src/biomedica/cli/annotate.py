"""Commands that make vectors, clusters and labels of an archive's images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from biomedica.cli.options import COMMON, Common, app, listener, print_json

if TYPE_CHECKING:
    from biomedica.cluster import Clustered


@app.command
def embed(
    archive: Path,
    *,
    encoder: str,
    name: str | None = None,
    text: Annotated[bool, Parameter(negative="")] = False,
    device: str = "cpu",
    engine: Literal["inline", "local", "ray"] = "inline",
    workers: int | None = None,
    address: str | None = None,
    gpus: float | None = None,
    limit: int | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    common: Common = COMMON,
) -> None:
    """Turn pictures (or captions) into vectors, a file for each shard. Stopped, it goes on where it was.

    Parameters
    ----------
    archive
        Folder of the archive.
    encoder
        `onnx:PATH`, `timm:NAME[,checkpoint=PATH]`, `open_clip:NAME,pretrained=TAG`, or `tiny`.
    name
        Of the feature set; made of the encoder's name by default.
    text
        Captions instead of pictures (open_clip).
    device
        `cpu`, `cuda`, `cuda:1`. GPUs are untested on the hardware where this was written.
    engine
        `inline`: one model in this process, all cores. `local`: a process for each shard. `ray`: a cluster.
    workers
        Processes of `local` and `ray`.
    address
        Of a Ray cluster.
    gpus
        `ray`: actors that keep the model in memory, with so many GPUs each (0: none).
    limit
        Embed so many shards at the most.
    dry_run
        Say what would be embedded.
    """
    from biomedica.archive import Archive
    from biomedica.embed import embed as run
    from biomedica.embed import waiting
    from biomedica.run.engines import open_engine

    settings = common.settings()
    target = Archive(archive)
    target.info()
    if dry_run:
        found = waiting(target, encoder, name, text)
        if common.json:
            print_json(found)
            return
        print(
            f"{found.num_waiting:,} of {found.num_shards:,} shards to embed into "
            f"features/{found.features}, {found.num_rows:,} rows"
        )
        return
    with target.lock(), stages(common, "shards") as tell:
        done = run(
            target,
            encoder,
            settings.embed,
            settings.run,
            open_engine(engine, workers, address, gpus),
            name=name,
            text=text,
            device=device,
            limit=limit,
            tell=lambda count, total: tell("embed", count, total),
        )
    if common.json:
        print_json(done)
        return
    print(
        f"{done.num_rows:,} rows of {done.dims} numbers in {done.num_embedded} shards "
        f"({done.num_shards} in all): features/{done.features}"
    )
    if done.num_bad:
        print(
            f"{done.num_bad:,} pictures do not decode; their rows are NaN (`biomedica doctor {archive} --decode`)"
        )
    if done.num_waiting:
        print(f"{done.num_waiting} shards are left; the same command goes on")
    elif done.kind == "image":
        print(f"next: biomedica cluster {archive}, biomedica duplicates {archive}")


@app.command
def cluster(
    archive: Path,
    *,
    name: str = "default",
    features: str | None = None,
    clusters: int | None = None,
    report: bool = True,
    common: Common = COMMON,
) -> None:
    """Group images that look alike, or let images that were added join the groups that stand.

    Parameters
    ----------
    archive
        Folder of the archive.
    name
        Of the clustering.
    features
        Feature set; the only one of pictures by default.
    clusters
        Number of clusters (setting cluster.clusters). A clustering that stands keeps its own.
    report
        Write `clusters/NAME/report.html`: a sheet of images for each cluster.
    """
    from biomedica.archive import Archive
    from biomedica.cluster import cluster as run
    from biomedica.cluster import names, read_info, settings_for
    from biomedica.features import the_set
    from biomedica.sheets import write_sheets

    target = Archive(archive)
    target.info()
    chosen = settings_for(target, name, common.settings().cluster, clusters)
    if features is None and name in names(target):
        features = read_info(target, name)["features"]
    with target.lock(), stages(common, "shards") as tell:
        found = run(target, the_set(target, features), chosen, name, tell)
    written = write_sheets(target, name) if report else None
    if common.json:
        print_json(found)
        return
    print(_cluster_summary(found))
    if written:
        print(f"a sheet of images for each cluster: {written}")
    print(f"next: biomedica label {archive} --name {name}")


def _cluster_summary(found: Clustered) -> str:
    how = "trained on" if found.trained else "stands, trained on"
    lines = [
        f"{found.num_clusters:,} clusters over {found.components or 'all'} components of "
        f"{found.features} ({found.explained:.1%} of the variance), {how} {found.num_trained_on:,} images",
        f"{found.num_images:,} images assigned ({found.num_assigned} of {found.num_shards} shards now)",
    ]
    if found.drift["num_later"]:
        drift = found.drift
        far = "no cluster is large enough to say how they fit"
        if drift["far_share"] is not None:
            far = (
                f"{drift['far_share']:.1%} of {drift['num_compared']:,} in large clusters lie beyond the 99th "
                "percentile (1.0% if nothing changed)"
            )
        lines.append(
            f"drift: {drift['num_later']:,} images came later; {far}; divergence "
            f"{drift['divergence']:.3f} bits"
        )
    return "\n".join(lines)


@app.command
def duplicates(
    archive: Path,
    *,
    features: str | None = None,
    hashes_only: Annotated[bool, Parameter(negative="")] = False,
    common: Common = COMMON,
) -> None:
    """Find pictures that are the same or nearly so: groups in `duplicates.parquet`.

    Parameters
    ----------
    archive
        Folder of the archive.
    features
        Feature set that bears pairs of near hashes out; the only one of pictures by default.
    hashes_only
        Do without features: plots of one layout then count as copies of each other.
    """
    from biomedica.archive import Archive
    from biomedica.duplicates import find_duplicates
    from biomedica.features import the_set

    target = Archive(archive)
    target.info()
    chosen = None if hashes_only else the_set(target, features)
    with target.lock(), stages(common, "steps") as tell:
        found = find_duplicates(target, common.settings().duplicates, chosen, tell)
    if common.json:
        print_json(found)
        return
    print(
        f"{found.num_groups:,} groups of {found.num_images_in_groups:,} among {found.num_images:,} images "
        f"({found.num_same_bytes:,} copies byte for byte)"
    )
    if chosen is not None:
        print(
            f"{found.num_pairs:,} pairs of near hashes, {found.num_refused:,} refused by the features"
        )


@contextmanager
def stages(common: Common, unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """Progress for modules that tell (stage, done, total)."""
    from biomedica.flow import Progress

    with listener(common) as tell:
        yield lambda stage, done, total: tell(
            Progress(stage=stage, done=done, total=total, unit=unit)
        )
