"""What comes of a run: its model as a folder, and the models between two of them."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biomedica.clip import ModelSettings, build, save, sweep, to_transformers
from biomedica.clip.checkpoints import read_state
from biomedica.clip.save import WEIGHTS_FILE
from biomedica.errors import ConfigError
from biomedica.settings import filled
from biomedica.stream import open_samples
from biomedica.train.checkpoints import Checkpoints, read_checkpoint
from biomedica.train.loop import card
from biomedica.train.mean import MeanWeights
from biomedica.train.retrieval import evaluate
from biomedica.train.settings import TrainSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """A model between base and tuned, and its recalls on a view."""

    alpha: float
    image_to_text: dict[str, float]
    text_to_image: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    num_pairs: int


def export_model(run: Path, folder: Path, step: int | None, to: str) -> Path:
    """Write a run's model, or that of one checkpoint. Raises `ConfigError` where there is none.

    run    folder of a run, or of a model
    step   of a checkpoint; None: the finished model, else the newest checkpoint
    to     `open_clip` or `transformers`
    """
    finished = run if (run / WEIGHTS_FILE).exists() else run / "model"
    if step is None and (finished / WEIGHTS_FILE).exists():
        if to == "transformers":
            to_transformers(finished, folder)
        else:
            made = build(ModelSettings(name=f"local-dir:{finished}"))
            save(folder, made, {"about": f"A copy of {finished.name}."})
        return folder
    known = {int(path.stem[5:]): path for path in Checkpoints(run / "checkpoints", 1).paths()}
    if not known or (step is not None and step not in known):
        raise ConfigError(
            f"{run} has no {'model' if step is None else f'checkpoint of step {step}'}; it has checkpoints of "
            f"steps {', '.join(map(str, known)) or 'none'}"
        )
    _from_checkpoint(known[max(known) if step is None else step], folder, to)
    return folder


def _from_checkpoint(path: Path, folder: Path, to: str) -> None:
    content = read_checkpoint(path)
    settings = filled(TrainSettings(), content["settings"])
    made = build(settings.model, seed=settings.run.seed)
    made.model.load_state_dict(content["model"])
    mean = MeanWeights(made.model, settings.optimizer.ema)
    mean.load(content["mean"])
    with mean.in_place(made.model):
        about = card(settings, content["step"], content["scores"])
        if to == "open_clip":
            save(folder, made, about)
            return
        with tempfile.TemporaryDirectory(prefix="biomedica-") as work:
            save(Path(work) / folder.name, made, about)
            to_transformers(Path(work) / folder.name, folder)


def sweep_models(
    base: Path,
    tuned: Path,
    archive: str,
    view: str,
    split: str | None,
    *,
    points: int,
    max_samples: int,
    device: str,
) -> list[Merged]:
    """Score the models on the line from base (alpha 0) to tuned (alpha 1) by retrieval on a view.

    Choose alpha on a validation split and report another: the best of many on one set is too good on it.
    """
    if points < 2:
        raise ConfigError(f"points is {points}; 2 or more are expected")
    samples = open_samples(archive, view, split)
    made = build(ModelSettings(name=f"local-dir:{tuned}"), device=device)
    found: list[Merged] = []

    def score(state: dict[str, Any]) -> float:
        made.model.load_state_dict(state)
        scores = evaluate(made, samples, max_samples=min(max_samples, len(samples)), device=device)
        fields = {k: v for k, v in asdict(scores).items() if k in Merged.__slots__}
        found.append(Merged(alpha=float(alphas[len(found)]), **fields))
        return scores.image_to_text["1"]

    alphas = np.linspace(0, 1, points).tolist()
    sweep(read_state(base / WEIGHTS_FILE), read_state(tuned / WEIGHTS_FILE), alphas, score)
    return found
