"""Commands that stream views, train models on them, and handle what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from biomedica.cli.options import COMMON, Common, app, duration, listener, print_json, size
from biomedica.errors import ConfigError

if TYPE_CHECKING:
    from biomedica.stream.preview import Forecast
    from biomedica.train.loop import Trained
    from biomedica.train.planning import RunPlan


def _need_torch() -> None:
    """Say how to get what streaming and training stand on, where it is missing."""
    from importlib.util import find_spec

    missing = [name for name in ("torch", "torchvision", "open_clip") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)} is not installed: pip install 'biomedica[train]'")


models = App(name="models", help="Training configs, and trained models as folders.")
app.command(models)


@app.command
def stream(
    archive: str,
    view: str,
    *,
    split: str | None = None,
    batch: int = 256,
    seed: int = 0,
    shuffle: bool = True,
    workers: int = 0,
    decode: Annotated[int, Parameter(name="--decode")] = 0,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    trial_seconds: float = 3.0,
    common: Common = COMMON,
) -> None:
    """Read a view once as training would, and say how fast; every sample is checked on the way.

    Parameters
    ----------
    archive
        A folder, `https://HOST/PATH` or `s3://BUCKET/PATH`.
    view
        Name of the view that `select` made.
    split
        Split of the view; all of it by default.
    batch
        Samples of a batch.
    seed
        Of the order.
    shuffle
        Without it, the order of the shards.
    workers
        Processes that read; 0: this one does.
    decode
        Side in pixels to which pictures are decoded and resized; 0: they are not decoded.
    dry_run
        Say how many requests and bytes an epoch takes, and the rate that a short trial finds.
    trial_seconds
        Length of that trial; 0: nothing is read.
    """
    _need_torch()
    from biomedica.flow import Progress
    from biomedica.stream import OrderSettings, PixelSettings, open_samples
    from biomedica.stream.loader import Loader, Stream
    from biomedica.stream.pixels import Pixels
    from biomedica.stream.preview import forecast

    settings = common.settings().stream
    samples = open_samples(archive, view, split, settings)
    made = Stream(
        samples,
        batch=batch,
        seed=seed,
        order=OrderSettings(shuffle=shuffle),
        pixels=Pixels(PixelSettings(size=decode)) if decode else None,
    )
    if dry_run:
        found = forecast(made, trial_seconds)
        print_json(found) if common.json else print(_forecast_text(found, archive, samples.name))
        return
    import time

    started, count = time.monotonic(), 0
    with listener(common) as tell:
        for some in Loader(made, workers=workers):
            count += len(some)
            tell(Progress(stage="stream", done=count, total=made.total, unit="samples"))
    seconds = time.monotonic() - started
    if common.json:
        print_json({"samples": count, "seconds": seconds, "samples_per_second": count / seconds})
        return
    print(f"{count:,} samples in {duration(seconds)}, {count / seconds:,.0f} a second")


def _forecast_text(found: Forecast, archive: str, name: str) -> str:
    about = "about " * found.is_estimate
    lines = [
        f"{name} of {archive}: {found.samples:,} samples",
        f"an epoch takes {about}{found.requests:,} requests and {size(found.fetched_bytes)} "
        f"(of which {size(found.wanted_bytes)} are wanted)",
    ]
    if found.samples_per_second and found.seconds:
        lines.append(
            f"a trial of {found.trial_samples:,} samples gave {found.samples_per_second:,.0f} a second: "
            f"{duration(found.seconds)} an epoch in one process, without decoding"
        )
    return "\n".join(lines)


@app.command
def train(
    config: str,
    folder: Path | None = None,
    *,
    plan: Annotated[bool, Parameter(negative="")] = False,
    world: int = 1,
    common: Common = COMMON,
) -> None:
    """Train a text-image model on streamed views; the same command goes on where it was stopped.

    On several GPUs: `torchrun --nproc-per-node 8 -m biomedica train CONFIG FOLDER`.

    Parameters
    ----------
    config
        A shipped config (`biomedica models configs`) or a TOML file; `--set optimizer.lr=1e-5` changes a value.
    folder
        Of the run: settings, log, checkpoints, the model at the end; `runs/NAME` by default.
    plan
        Say what the config takes (samples, FLOPs, accelerator hours), and train nothing.
    world
        Accelerators, for `--plan`.
    """
    from biomedica.train import load_train

    _need_torch()
    if common.config is not None:
        raise ConfigError("train takes its config as the first word, not by --config")
    settings = load_train(config, common.set)
    if plan:
        from biomedica.train.planning import make_plan

        counted = make_plan(settings, world)
        print_json(counted) if common.json else print(_plan_text(counted))
        return
    folder = folder or Path("runs") / Path(config).stem
    from biomedica.flow import Progress
    from biomedica.train import loop

    with listener(common) as tell:
        found = loop.train(
            settings,
            folder,
            lambda at: tell(
                Progress(
                    stage=f"train, loss {at.loss:.3f}, {at.samples_per_second:,.0f} pairs a second",
                    done=at.step,
                    total=at.num_steps,
                    unit="steps",
                )
            ),
        )
    if not found.is_first:
        return
    print_json(found) if common.json else print(_trained_text(found, config))


def _plan_text(found: RunPlan) -> str:
    lines = [
        f"{found.samples:,} pairs an epoch, {found.samples_seen:,} in all: {found.steps:,} steps of {found.batch:,}"
        f" ({found.per_rank:,} at a time on each of {found.world})",
        f"{found.parameters / 1e6:,.1f} M parameters, {found.trainable / 1e6:,.1f} M learn; "
        f"{found.weights_gb:,.1f} GB for weights, gradients and AdamW, without activations",
        f"{found.gflops_per_pair:,.1f} GFLOPs a pair, {found.flops:.2e} FLOPs in all",
    ]
    for each in found.hours:
        lines.append(
            f"  {each.accelerator} {each.precision}: {each.gpu_hours:,.0f} GPU-hours, {each.days:,.1f} days with "
            f"{found.world} (assumed: {found.utilisation:.0%} of the peak)"
        )
    return "\n".join(lines)


def _trained_text(found: Trained, config: str) -> str:
    loss = "" if found.loss is None else f", loss {found.loss:.4f}"
    lines = [f"{found.steps:,} of {found.num_steps:,} steps{loss}: {found.folder}"]
    for name, score in found.scores.items():
        for direction in ("image_to_text", "text_to_image"):
            low, high = score["intervals"][f"{direction}/10"]
            lines.append(
                f"  {name}: {direction.replace('_', ' ')} recall@10 {score[direction]['10']:.1%} "
                f"({low:.1%} to {high:.1%}; by chance {score['chance']['10']:.1%}; "
                f"{score['num_pairs']:,} pairs of {score['num_articles']:,} articles)"
            )
    if found.is_complete:
        lines.append(f"the model: {Path(found.folder) / 'model'}")
    else:
        lines.append(
            f"stopped; `biomedica train {config} {found.folder}` with the same settings goes on"
        )
    return "\n".join(lines)


@models.command
def configs(*, common: Common = COMMON) -> None:
    """List the shipped configs, with where their values come from."""
    from biomedica.train import load_train, shipped_configs

    found = {name: " ".join(load_train(name).about.split()) for name in shipped_configs()}
    if common.json:
        print_json([{"name": name, "about": about} for name, about in found.items()])
        return
    for name, about in found.items():
        print(f"{name:26} {about}")


@models.command
def export(
    run: Path,
    folder: Path,
    *,
    step: int | None = None,
    to: Literal["open_clip", "transformers"] = "open_clip",
    common: Common = COMMON,
) -> None:
    """Write a run's model, or one of its checkpoints, as a folder that loads without a network.

    Parameters
    ----------
    run
        Folder of a run, or a model's folder.
    folder
        Where the model goes.
    step
        Of a checkpoint; the finished model by default, else the newest checkpoint.
    to
        `open_clip`: a `local-dir:` folder. `transformers`: a `CLIPModel`, where the architecture has one.
    """
    _need_torch()
    from biomedica.train.results import export_model

    path = export_model(run, folder, step, to)
    print_json({"folder": str(path)}) if common.json else print(f"the model: {path}")


@app.command
def merge(
    base: Path,
    tuned: Path,
    folder: Path | None = None,
    *,
    alpha: float = 0.5,
    sweep: Annotated[bool, Parameter(negative="")] = False,
    archive: str | None = None,
    view: str = "full",
    split: str | None = None,
    points: int = 11,
    max_samples: int = 5000,
    device: str = "cpu",
    common: Common = COMMON,
) -> None:
    """Average a tuned model with the one it began from (WiSE-FT), or score the averages between them.

    Parameters
    ----------
    base
        Folder of the model at the start (`initial/` of a run with `run.save_initial`).
    tuned
        Folder of the model at the end (`model/` of a run).
    folder
        Where the merged model goes.
    alpha
        Share of the tuned model.
    sweep
        Score the models between base and tuned on a view instead of writing one.
    archive
        For `sweep`: a folder, `https://HOST/PATH` or `s3://BUCKET/PATH`.
    view
        For `sweep`.
    split
        For `sweep`.
    points
        Number of alphas from 0 to 1, for `sweep`.
    max_samples
        For `sweep`; 0: all.
    device
        For `sweep`: `cpu`, `cuda`.
    """
    _need_torch()
    if sweep:
        from biomedica.train.results import sweep_models

        if archive is None:
            raise ConfigError("--sweep needs --archive (and --view, --split): what to score on")
        found = sweep_models(
            base, tuned, archive, view, split, points=points, max_samples=max_samples, device=device
        )
        if common.json:
            print_json(found)
            return
        print("alpha  image to text  text to image   recall@1, 5, 10")
        for each in found:
            both = [
                " ".join(f"{v:6.1%}" for v in d.values())
                for d in (each.image_to_text, each.text_to_image)
            ]
            print(f"{each.alpha:5.2f}  {both[0]}   {both[1]}")
        return
    from biomedica.clip import merge_folders

    if folder is None:
        raise ConfigError(
            "merge needs a folder for the merged model; or --sweep, which writes none"
        )
    merge_folders(base, tuned, folder, alpha, {})
    print_json({"folder": str(folder)}) if common.json else print(f"the model: {folder}")
