"""Commands that score models on benchmark tasks, and compare what came of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from biomedica.cli.options import COMMON, FAULT, Common, app, listener, print_json
from biomedica.errors import ConfigError

if TYPE_CHECKING:
    from biomedica.evaluate.published_scores import PublishedScore
    from biomedica.evaluate.results import Score
    from biomedica.evaluate.standings import Board
    from biomedica.evaluate.tasks import Task
    from biomedica.evaluate.validate import Validation
    from biomedica.scoreboard import PictureSource

evaluation = App(name="eval", help="Score models on benchmark tasks, with intervals.")
app.command(evaluation)

Words = Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)]
Folders = Annotated[list[Path] | None, Parameter(name="--tasks-from", negative="")]


def chosen(words: Sequence[str], folders: Sequence[Path] | None) -> list[Task]:
    """Tasks by name, suite, specialty or kind; all for no words."""
    from biomedica.evaluate.tasks import choose, load_tasks

    return choose(load_tasks(folders or ()), words)


@evaluation.command
def ls(
    tasks: Annotated[list[str] | None, Parameter(negative="")] = None,
    /,
    *,
    tasks_from: Folders = None,
    common: Common = COMMON,
) -> None:
    """List benchmark tasks.

    Parameters
    ----------
    tasks
        Names of tasks, suites (`biomedica`, `biomedclip`, `medmnist`), specialties or kinds; all by default.
    tasks_from
        Folder of further task files, or one file. May be repeated.
    """
    found = chosen(tasks or (), tasks_from)
    if common.json:
        print_json([{**_plain(task), "digest": task.digest} for task in found])
        return
    for task in found:
        print(
            f"{task.name:34} {task.kind:14} {task.specialty:20} {task.metric:18} {task.access.terms}"
        )


def _plain(task: Task) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(task)


@evaluation.command
def validate(
    tasks: Annotated[list[str] | None, Parameter(negative="")] = None,
    /,
    *,
    data: Path,
    decode: Annotated[bool, Parameter(negative="")] = False,
    tasks_from: Folders = None,
    common: Common = COMMON,
) -> None:
    """Look for the tasks' data: what is here, what is wrong, and where to get what is not.

    Parameters
    ----------
    tasks
        Names of tasks, suites, specialties or kinds; all by default.
    data
        Folder that the tasks' paths begin at.
    decode
        Open every picture.
    tasks_from
        Folder of further task files, or one file. May be repeated.
    """
    from biomedica.evaluate.validate import validate as look

    found = [look(task, data, decode) for task in chosen(tasks or (), tasks_from)]
    if common.json:
        print_json([_facts(each) for each in found])
    else:
        for each in found:
            print(_validation_text(each))
    if any(each.state == "wrong" for each in found):
        sys.exit(FAULT)


def _facts(found: Validation) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(found)


def _validation_text(found: Validation) -> str:
    splits = ", ".join(
        f"{name} {facts.items:,} items of {facts.groups:,} groups"
        for name, facts in found.splits.items()
    )
    lines = [f"{found.task}: {found.state}{f': {splits}' if splits else ''}"]
    lines += [f"  {line}" for line in found.message.splitlines()]
    return "\n".join(lines)


@evaluation.command
def run(
    models: Annotated[list[str], Parameter(negative="")],
    /,
    *,
    tasks: Words = None,
    data: Path,
    out: Path,
    protocols: Words = None,
    cache: Path | None = None,
    no_cache: Annotated[bool, Parameter(negative="")] = False,
    engine: Literal["inline", "local", "ray"] = "inline",
    workers: int | None = None,
    address: str | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    tasks_from: Folders = None,
    common: Common = COMMON,
) -> None:
    """Score models on tasks; the same command goes on where it was stopped, and scores nothing twice.

    Parameters
    ----------
    models
        Encoders: `open_clip:NAME,pretrained=TAG`, `open_clip:local-dir:FOLDER`, `transformers:FOLDER`, `timm:NAME`,
        `onnx:PATH`, or a model's folder. `NAME=ENCODER` gives it a name.
    tasks
        Names of tasks, suites, specialties or kinds; all by default.
    data
        Folder that the tasks' paths begin at.
    out
        Folder of the results.
    protocols
        `zero_shot`, `retrieval`, `linear_probe`, `knn`, `few_shot`, `vqa_options`, `vqa_head`. By default all that a
        task and a model know, but for `vqa_head`, which trains for hours on a CPU.
    cache
        Folder of embeddings; `~/.cache/biomedica/embeddings` by default.
    no_cache
        Keep no embeddings.
    engine
        `inline`: this process. `local`: processes of this machine. `ray`: a Ray cluster. One job is one model on one
        task.
    workers
        Processes; one for each core by default.
    address
        Of the Ray cluster.
    dry_run
        Say what would be scored and whether its data is here; score nothing.
    tasks_from
        Folder of further task files, or one file. May be repeated.
    """
    from biomedica.evaluate.run import SCORERS, Grid, run_grid

    unknown = sorted(set(protocols or ()) - set(SCORERS))
    if unknown:
        raise ConfigError(f"unknown protocol {unknown[0]!r}; known are {', '.join(SCORERS)}")
    grid = Grid(
        models=_named(models),
        tasks=tuple(chosen(tasks or (), tasks_from)),
        protocols=tuple(protocols or ()),
        data=data,
        run=out,
        cache=None if no_cache else cache or Path.home() / ".cache" / "biomedica" / "embeddings",
        settings=common.settings().evaluate,
    )
    if dry_run:
        _print_plan(grid, common)
        return
    from biomedica.flow import Progress
    from biomedica.run.engines import open_engine

    cells = []
    with listener(common) as tell:
        for cell in run_grid(grid, open_engine(engine, workers, address)):
            cells.append(cell)
            tell(Progress(stage="evaluate", done=len(cells), total=grid.size, unit="scores"))
    failed = [cell for cell in cells if cell.state == "failed"]
    if common.json:
        print_json([_cell_facts(cell) for cell in cells])
    else:
        for cell in cells:
            print(_cell_text(cell))
        print(f"the results: {out}")
        if failed:
            print(f"{len(failed)} of {len(cells)} could not be scored: {out / 'failed'}")
    if failed:
        sys.exit(FAULT)


def _named(models: Sequence[str]) -> dict[str, str]:
    """Encoders by name."""
    from biomedica.models import short_name

    named: dict[str, str] = {}
    for word in models:
        name, equals, encoder = word.partition("=")
        if not equals or ":" in name or "," in name:  # `open_clip:X,pretrained=Y` names nothing
            name, encoder = "", word
        if Path(encoder).is_dir() and (Path(encoder) / "open_clip_config.json").exists():
            encoder = f"open_clip:local-dir:{encoder}"
        name = name or short_name(encoder)
        if name in named:
            raise ConfigError(
                f"two models are called {name!r}; NAME=ENCODER gives one another name"
            )
        named[name] = encoder
    return named


def _print_plan(grid: Any, common: Common) -> None:
    from biomedica.evaluate.validate import validate as look

    found = {task.name: look(task, grid.data) for task in grid.tasks}
    rows = [
        {"model": model, "task": task.name, "protocol": each, "data": found[task.name].state}
        for model in grid.models
        for task in grid.tasks
        for each in grid.of(task)
    ]
    if common.json:
        print_json(rows)
        return
    for row in rows:
        print(f"{row['model']:24} {row['task']:34} {row['protocol']:14} data {row['data']}")


def _cell_facts(cell: Any) -> dict[str, Any]:
    from dataclasses import asdict

    from biomedica.evaluate.results import read_result

    found = asdict(cell)
    if cell.path:
        result = read_result(Path(cell.path))
        found |= {"metric": result.main, "score": asdict(result.score), "items": result.num_items}
    return found


def _cell_text(cell: Any) -> str:
    from biomedica.evaluate.results import read_result

    head = f"{cell.model:24} {cell.task:28} {cell.protocol:13}"
    if not cell.path:
        return f"{head} {cell.state}: {cell.message}"
    result = read_result(Path(cell.path))
    kept = ", kept" if cell.state == "kept" else ""
    return f"{head} {result.main} {score_text(result.score)}, {result.num_items:,} items{kept}"


def score_text(score: Score) -> str:
    """A score in percent, with its interval and what guessing gives."""
    interval = "" if score.low is None else f" ({score.low:.1%} to {score.high:.1%})"
    guess = "" if score.chance is None else f" by chance {score.chance:.1%}"
    return f"{score.value:.1%}{interval}{guess}"


@evaluation.command
def compare(
    run: Annotated[list[Path], Parameter(negative="")],
    /,
    *,
    model: str,
    with_: Annotated[str, Parameter(name="--with")],
    common: Common = COMMON,
) -> None:
    """Compare two models on the same items: differences with intervals, paired tests, Holm over tasks.

    Parameters
    ----------
    run
        Folders of results.
    model
        A model's name in them.
    with_
        Name of the other.
    """
    from biomedica.evaluate.comparisons import compare_models
    from biomedica.evaluate.results import read_items, read_results
    from biomedica.evaluate.standings import of_model

    found = read_results(run)
    one, other = of_model(found, model), of_model(found, with_)
    paths = {id(result): path for some in (one, other) for path, result in some.values()}
    seen = compare_models(
        {cell: result for cell, (_, result) in one.items()},
        {cell: result for cell, (_, result) in other.items()},
        lambda result: read_items(paths[id(result)]),
    )
    rows = [
        {"task": task, "protocol": asked} | each.facts()
        for (task, asked), each in seen.tasks.items()
    ]
    if common.json:
        print_json({"tasks": rows, "mean": seen.mean, "p": seen.p})
        return
    print(f"{model} minus {with_}, in points; p after Holm over {len(rows)} comparisons")
    for (task, asked), each in seen.tasks.items():
        interval = (
            "" if each.low is None else f"({100 * each.low:+.1f} to {100 * (each.high or 0):+.1f})"
        )
        adjusted = "" if each.adjusted is None else _p_text(each.adjusted)
        print(
            f"{task:28} {asked:13} {each.metric:18} {100 * each.difference:+6.1f} {interval:20} {adjusted}"
        )
    if seen.mean is not None:
        print(f"in the mean {_points(seen.mean)}, {_p_text(seen.p)}")


def _p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"


def _points(score: Score) -> str:
    interval = (
        "" if score.low is None else f" ({100 * score.low:+.1f} to {100 * (score.high or 0):+.1f})"
    )
    return f"{100 * score.value:+.1f}{interval}"


@evaluation.command
def leaderboard(
    run: Annotated[list[Path], Parameter(negative="")],
    /,
    *,
    published: Annotated[bool, Parameter(negative="")] = False,
    common: Common = COMMON,
) -> None:
    """Rank the models of some runs, by protocol; models that share a letter cannot be told apart.

    Parameters
    ----------
    run
        Folders of results.
    published
        Show published scores of the same tasks too. They are marked, and enter no mean, interval or test.
    """
    from biomedica.evaluate.published_scores import load_published, published_for
    from biomedica.evaluate.results import read_results
    from biomedica.evaluate.standings import boards_of

    found = read_results(run)
    boards = boards_of(found)
    others = (
        published_for(load_published(), sorted({r.task for _, r in found})) if published else []
    )
    if common.json:
        from dataclasses import asdict

        print_json(
            {
                "measured": [asdict(each) for each in boards],
                "published": [asdict(each) for each in others],
            }
        )
        return
    for board in boards:
        print(_board_text(board))
    if published:
        print(_published_text(others))


def _board_text(board: Board) -> str:
    shared = board.columns[0].tasks if board.columns else ()
    lines = [f"{board.protocol}: means over {len(shared)} of {len(board.tasks)} tasks"]
    lines += [f"  not in the means: {each.task}, {each.why}" for each in board.left_out]
    for standing in board.standings:
        lines.append(f"  {standing.model}")
        for name, score in standing.means.items():
            lines.append(f"    {standing.letters[name]:4} {name:24} {score_text(score)}")
    return "\n".join(lines)


def _published_text(found: Sequence[PublishedScore]) -> str:
    if not found:
        return "published, not measured here: nothing of these tasks"
    lines = ["published, not measured here; in no mean and no test:"]
    for each in found:
        lines.append(
            f"  {each.task or each.dataset:28} {each.model:28} {each.metric} {each.value:.1%}, {each.how}: "
            f"{each.source}"
        )
    return "\n".join(lines)


@evaluation.command
def report(
    runs: Annotated[list[Path], Parameter(negative="")],
    /,
    *,
    to: Path | None = None,
    data: Path | None = None,
    tasks_from: Folders = None,
    published: Annotated[bool, Parameter(negative="")] = False,
    common: Common = COMMON,
) -> None:
    """Write the results of some runs as one HTML page that needs nothing else.

    Parameters
    ----------
    runs
        Folders of results.
    to
        The page; `report.html` in the first run by default.
    data
        Folder that the tasks' paths begin at, for pictures of the mistakes; without it they are told in words.
    tasks_from
        Folder of further task files, or one file. May be repeated.
    published
        Show published scores of the same tasks too. They are marked, and enter no mean, interval or test.
    """
    from biomedica.evaluate.published_scores import load_published
    from biomedica.scoreboard import write_scores_page

    path = write_scores_page(
        runs,
        to or runs[0] / "report.html",
        pictures=None if data is None else _pictures(data, tasks_from),
        published=load_published() if published else (),
    )
    if common.json:
        print_json({"page": str(path), "bytes": path.stat().st_size})
        return
    print(f"the page: {path}")


def _pictures(data: Path, folders: Sequence[Path] | None) -> PictureSource:
    """Items of the known tasks; None for a task that no file states."""
    from biomedica.evaluate.readers import read_items
    from biomedica.evaluate.tasks import load_tasks

    tasks = load_tasks(folders or ())
    return lambda task, split: read_items(tasks[task], data, split) if task in tasks else None
