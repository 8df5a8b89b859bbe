"""The command that looks for a benchmark's pictures in what a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from biomedica.cli.evaluation import Folders, chosen, evaluation, score_text
from biomedica.cli.options import COMMON, Common, listener, print_json
from biomedica.errors import ConfigError


@evaluation.command
def contamination(
    archive: Path,
    view: str,
    task: str,
    /,
    *,
    data: Path,
    split: str | None = None,
    part: str = "test",
    features: str | None = None,
    encoder: str | None = None,
    cache: Path | None = None,
    out: Path | None = None,
    run: Annotated[list[Path] | None, Parameter(negative="")] = None,
    tasks_from: Folders = None,
    common: Common = COMMON,
) -> None:
    """Look for a task's pictures among the samples of a view: by bytes, hashes, vectors and article ids.

    Parameters
    ----------
    archive
        The archive's folder.
    view
        Its view that a model is trained on.
    task
        Name of a task.
    data
        Folder that the task's path begins at.
    split
        Split of the view, such as `train`; all of it by default.
    part
        Split of the task.
    features
        Feature set of the archive (`biomedica embed`); without it vectors are not compared.
    encoder
        Encoder that made the features, where it stands elsewhere now. `embed.fit` and `embed.pooling` are as they were
        then.
    cache
        Folder of embeddings; none are kept by default.
    out
        Folder for `leaks.parquet`, `leaks.json` and `exclude.txt`, the list that a recipe leaves out (`exclude`).
    run
        Folder of results (`eval run`): show the task's scores with and without the leaked items. May be repeated.
    tasks_from
        Folder of further task files, or one file. May be repeated.
    """
    from dataclasses import asdict

    from biomedica.archive import Archive
    from biomedica.evaluate.leaks import contamination as look
    from biomedica.evaluate.leaks import describe, facts, write_leaks
    from biomedica.evaluate.readers import read_items
    from biomedica.flow import Progress

    found = chosen([task], tasks_from)
    if len(found) != 1:
        raise ConfigError(f"{task!r} names {len(found)} tasks; name one of them")
    home = Archive(archive)
    home.info()
    items = read_items(found[0], data, part)
    embeddings = _embeddings_of(home, features, encoder, cache, common)
    with listener(common) as tell:
        leaks = look(
            home,
            view,
            split,
            items,
            common.settings().leaks,
            features,
            embeddings,
            lambda stage, done, total: tell(
                Progress(stage=stage, done=done, total=total, unit=stage)
            ),
        )
    if out is not None:
        write_leaks(out, leaks)
    scores = _scores_without(run or (), found[0].name, part, leaks.items())
    if common.json:
        plain = [
            {**each, "scores": {name: asdict(score) for name, score in each["scores"].items()}}
            for each in scores
        ]
        print_json({**facts(leaks), "scores": plain})
        return
    print("\n".join(describe(leaks)))
    for each in scores:
        said = ", ".join(f"{name} {score_text(score)}" for name, score in each["scores"].items())
        print(f"{each['model']:24} {each['protocol']:13} {each['metric']}: {said}")
    if out is not None:
        print(f"the pairs: {out / 'leaks.parquet'}; keys to leave out: {out / 'exclude.txt'}")


def _embeddings_of(
    archive: Any, features: str | None, encoder: str | None, cache: Path | None, common: Common
) -> Any:
    """What embeds a benchmark as an archive's features were made; None without features."""
    if features is None:
        if encoder is not None:
            raise ConfigError(
                "--encoder without --features: name the archive's features to compare"
            )
        return None
    from biomedica.evaluate.embeddings import Embeddings
    from biomedica.features import the_set
    from biomedica.models import open_encoder

    settings, known = common.settings(), the_set(archive, features)
    model = open_encoder(
        encoder or str(known.info["encoder"]),
        device=settings.evaluate.device,
        fit=settings.embed.fit,
        pooling=settings.embed.pooling,
    )
    return Embeddings(model, cache, settings.evaluate.batch)


def _scores_without(
    runs: Sequence[Path], task: str, part: str, leaked: set[str]
) -> list[dict[str, Any]]:
    """Of each result on the task, its main metric with and without the leaked items."""
    from biomedica.evaluate.leaks import with_and_without
    from biomedica.evaluate.results import read_items, read_results

    return [
        {
            "model": result.model,
            "protocol": result.protocol,
            "metric": result.main,
            "scores": with_and_without(result, read_items(path), leaked),
        }
        for path, result in (read_results(runs) if runs else ())
        if result.task == task and result.split == part
    ]
