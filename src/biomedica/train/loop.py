"""Training: read a batch, learn from it, say so; keep what is needed to go on, evaluate on the way."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from biomedica.clip import Made, build, save
from biomedica.errors import ArchiveError, ConfigError
from biomedica.shards import write_json
from biomedica.stream import ReadSettings, Source, TextSettings, open_samples
from biomedica.stream.loader import Loader, Stream
from biomedica.stream.pixels import Pixels
from biomedica.train.checkpoints import Checkpoints, read_checkpoint, restore, state_of, weights_of
from biomedica.train.logs import Log
from biomedica.train.mean import MeanWeights
from biomedica.train.retrieval import evaluate
from biomedica.train.settings import (
    DataSettings,
    TrainSettings,
    differences,
    pairs_at_once,
    plain,
    with_model_size,
)
from biomedica.train.step import Stepper
from biomedica.train.world import World, join


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is."""

    step: int
    num_steps: int
    position: int
    """Pairs seen."""
    loss: float
    samples_per_second: float
    data_wait: float
    """Share of the time in which the model waited for a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a run came to."""

    folder: str
    steps: int
    num_steps: int
    position: int
    is_complete: bool
    """False when it was stopped; the same command goes on."""
    loss: float | None
    seconds: float
    """Of this run, without what an earlier one did."""
    scores: dict[str, Any]
    """The last evaluation, by task."""
    is_first: bool = True
    """Whether this process is the one that speaks for all."""


Tell = Callable[[Progress], None]
UNCLAIMED = {"checkpoints", ".settings.json.tmp"}
"""What a run may have left in its folder before it noted its settings: a checkpoint from a bucket says its own."""


def train(settings: TrainSettings, folder: Path, tell: Tell = lambda progress: None) -> Trained:
    """Train, or go on where the folder's newest checkpoint stands.

    folder/settings.json   what was asked for     folder/log.jsonl      numbers by step
    folder/checkpoints/    to go on from          folder/model/         the model at the end, as open_clip loads it

    SIGTERM and Ctrl-C end it after the step, with a checkpoint. Raises `ConfigError` where the folder holds
    a run of other settings, `ArchiveError` where samples cannot be had.
    """
    with join(settings.run) as world:
        run = _Run(settings, folder, world, tell)
        with _stoppable() as stopped:
            return run.go(stopped)


class _Run:
    """One process of a run."""

    def __init__(self, settings: TrainSettings, folder: Path, world: World, tell: Tell) -> None:
        self.settings, self.folder, self.world, self.tell = settings, folder, world, tell
        self.checkpoints = Checkpoints(
            folder / "checkpoints", settings.run.keep, settings.run.upload
        )
        self._check_folder()
        self.made = build(settings.model, seed=settings.run.seed, device=str(world.device))
        self.stream = open_stream(settings, self.made, world.rank, world.size)
        self.num_steps = self.stream.num_steps
        wrapped = world.wrap(self.made.model, settings.run.compile)
        self.stepper = Stepper(self.made, wrapped, settings.optimizer, world, self.num_steps)
        self.mean = MeanWeights(self.made.model, settings.optimizer.ema)
        self.step = 0
        self.scores: dict[str, Any] = {}
        self.loss: float | None = None

    def _check_folder(self) -> None:
        """Refuse a folder that is for something else."""
        path = self.folder / "settings.json"
        if path.exists():
            self._check_same(json.loads(path.read_bytes()), self.folder)
        elif self.folder.exists() and {each.name for each in self.folder.iterdir()} - UNCLAIMED:
            raise ConfigError(f"{self.folder} holds other files; give an empty or a new folder")

    def _check_same(self, old: dict[str, Any], where: Path) -> None:
        changed = differences(old, self.settings)
        if changed:
            raise ConfigError(
                f"{where} holds a run of other settings ({'; '.join(changed[:3])}); give them again, "
                "or another folder"
            )

    def _claim(self) -> None:
        """Note what the folder is for, once all else was found in order: a mistake in the settings may be mended."""
        self.world.wait()
        if self.world.is_first:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "settings.json", plain(self.settings))
        self.world.wait()

    def go(self, stopped: Callable[[], bool]) -> Trained:
        """All steps that are left."""
        self._resume()
        self._claim()
        started = time.monotonic()
        log = Log(self.folder, self.settings, self.step) if self.world.is_first else None
        try:
            if self.step == 0:
                self._begin(log)
            is_complete = self._steps(log, stopped)
        finally:
            if log is not None:
                log.close()
        if is_complete:
            self._save("model")
        self.world.wait()
        return Trained(
            folder=str(self.folder),
            steps=self.step,
            num_steps=self.num_steps,
            position=self.stream.position,
            is_complete=is_complete,
            loss=self.loss,
            seconds=time.monotonic() - started,
            scores=self.scores,
            is_first=self.world.is_first,
        )

    def _resume(self) -> None:
        if self.world.is_first:  # it may have to fetch it
            self.checkpoints.latest()
        self.world.wait()
        path = self.checkpoints.latest()
        if not self.world.agrees(path.name if path else ""):
            raise ConfigError(
                f"{self.folder} has other checkpoints on other machines; a folder that all of them share would do"
            )
        if path is None:
            return
        content = read_checkpoint(path)
        self._check_same(content["settings"], path)  # from a bucket it may be another run's
        restore(self.stepper, content, self.world)
        self.mean.load(content["mean"])
        self.stream.load_state_dict(content["data"])
        self.step = int(content["step"])
        self.loss, self.scores = content["loss"], content["scores"]

    def _begin(self, log: Log | None) -> None:
        if self.settings.run.save_initial:
            self._save("initial")
        self._evaluate(log)

    def _steps(self, log: Log | None, stopped: Callable[[], bool]) -> bool:
        """Whether the end was reached."""
        run = self.settings.run
        loader = Loader(
            self.stream,
            workers=self.settings.data.workers,
            prefetch=self.settings.data.prefetch,
            pin_memory=self.world.device.type == "cuda",
        )
        meter = _Meter(self.stream.position)
        batches = iter(loader)
        while self.step < self.num_steps:
            with meter.waiting():
                batch = next(batches)
            assert batch.images is not None and batch.tokens is not None
            outcome = self.stepper.step(self.step, batch.images, batch.tokens, run.seed)
            self.mean.update(self.made.model)
            self.step += 1
            last = self.step == self.num_steps
            if self.step % run.log_every == 0 or last:
                self._log(log, outcome, meter, batch.next)
            if self.step % run.evaluate_every == 0 or last:
                with meter.paused():
                    self._evaluate(log)
            leave = self.world.any(stopped()) if not last else False
            if self.step % run.checkpoint_every == 0 or last or leave:
                self._check_weights()
                with meter.paused():
                    self._keep()
            if leave:
                return False
        return True

    def _log(self, log: Log | None, outcome: Any, meter: _Meter, position: int) -> None:
        self.loss = float(self.world.mean(outcome.loss))
        if not math.isfinite(self.loss):
            raise self._diverged(f"the loss is {self.loss}")
        values = {
            "epoch": self.settings.data.epochs * position / self.stream.total,
            "position": position,
            "loss": self.loss,
            "lr": outcome.lr,
            "logit_scale": float(self.made.model.logit_scale.detach().exp().float()),
            **meter.read(position),
        }
        if outcome.grad_norm is not None:
            values["grad_norm"] = float(outcome.grad_norm)
        if log is not None:
            log.write(self.step, values)
            self.tell(
                Progress(
                    step=self.step,
                    num_steps=self.num_steps,
                    position=position,
                    loss=self.loss,
                    samples_per_second=values["samples_per_second"],
                    data_wait=values["data_wait"],
                )
            )

    def _check_weights(self) -> None:
        """None that is no number is kept, whether or not a loss was looked at since it became so."""
        finite = [each.detach().isfinite().all() for each in self.made.model.parameters()]
        if self.world.any(not all(bool(each) for each in finite)):
            raise self._diverged("weights are no numbers")

    def _diverged(self, what: str) -> ArchiveError:
        return ArchiveError(
            f"{what} at step {self.step}: a lower optimizer.lr, more warmup_steps or grad_clip would do; "
            "the last checkpoint is whole"
        )

    def _keep(self) -> None:
        state = {**state_of(self.stepper), "mean": self.mean.state()}
        if self.world.is_first:
            content = {
                **state,
                "data": self.stream.state_dict(),
                "step": self.step,
                "loss": self.loss,
                "scores": self.scores,
                "settings": plain(self.settings),
            }
            self.checkpoints.write(self.step, content)
        self.world.wait()

    def _evaluate(self, log: Log | None) -> None:
        """All tasks; by the first rank, or, where each holds only a part of the model, by all alike."""
        if not self.settings.run.tasks:
            return
        if self.world.is_first or self.world.kind == "fsdp":
            with self.mean.in_place(self.made.model):
                for task in self.settings.run.tasks:
                    samples = open_samples(
                        task.archive, task.view, task.split, self.settings.stream
                    )
                    found = evaluate(
                        self.made,
                        samples,
                        max_samples=min(task.max_samples, len(samples)),
                        device=self.world.device,
                    )
                    self.scores[task.name] = asdict(found)
                    if log is not None:
                        log.write(
                            self.step, {f"{task.name}/{k}": v for k, v in found.flat().items()}
                        )
        self.world.wait()

    def _save(self, name: str) -> None:
        """The model as a folder, by the first rank; under FSDP put together there from its parts."""
        made = self.made
        with self.mean.in_place(self.made.model):
            if self.world.kind == "fsdp":
                state = weights_of(self.made.model)
                if self.world.is_first:
                    made = build(self.settings.model, seed=self.settings.run.seed)
                    made.model.load_state_dict(state)
            if self.world.is_first:
                save(self.folder / name, made, card(self.settings, self.step, self.scores))


def open_stream(settings: TrainSettings, made: Made, rank: int, world: int) -> Stream:
    """The stream that a run learns from. Raises `ConfigError` where there is none or the batch does not divide."""
    chosen = settings.optimizer
    at_once = pairs_at_once(chosen, world)
    pixels = with_model_size(settings.images, made.preprocess.size, train=True)
    stream = Stream(
        open_sources(settings.data, settings.stream),
        batch=at_once * chosen.accumulate,
        epochs=settings.data.epochs,
        seed=settings.run.seed,
        rank=rank,
        world=world,
        drop_last=True,
        order=settings.order,
        read=settings.stream,
        pixels=Pixels(pixels),
        texts=TextSettings(
            policies=settings.data.texts,
            weights=settings.data.text_weights,
            per_image=settings.data.texts_per_image,
        ),
        tokenizer=made.tokenizer,
    )
    if not stream.num_steps:
        raise ConfigError(
            f"{stream.total:,} pairs make no batch of {chosen.batch}; a smaller optimizer.batch would do"
        )
    return stream


def open_sources(data: DataSettings, read: ReadSettings) -> list[Source]:
    """The views of a config. Raises `ConfigError` where none is named."""
    if not data.sources or any(source.archive == "ARCHIVE" for source in data.sources):
        raise ConfigError(
            'data.sources names no archive; --set \'data.sources=[{archive="FOLDER", view="full", '
            'split="train"}]\' or a line in the config would do'
        )
    return [
        Source(open_samples(each.archive, each.view, each.split, read), each.weight)
        for each in data.sources
    ]


def card(settings: TrainSettings, steps: int, scores: dict[str, Any]) -> dict[str, Any]:
    """What a saved model says of its training."""
    sources = [f"{each.view}/{each.split or 'all'}" for each in settings.data.sources]
    return {
        "about": settings.about.strip() or "A text-image model trained with biomedica.",
        "training": {
            "views": ", ".join(sources),
            "steps": steps,
            "epochs": settings.data.epochs,
            "texts": ", ".join(settings.data.texts),
            **{k: v for k, v in plain(settings.optimizer).items() if v not in (None, 0.0)},
        },
        "metrics": {
            f"{name}: {direction} recall@{k}": f"{value:.4f}"
            for name, found in scores.items()
            for direction in ("image_to_text", "text_to_image")
            for k, value in found[direction].items()
        },
    }


class _Meter:
    """Speed since the last reading, and the share of the time that was spent waiting for batches."""

    def __init__(self, position: int) -> None:
        self._position = position
        self._since = time.monotonic()
        self._waited = self._paused = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._waited += time.monotonic() - started

    @contextmanager
    def paused(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._paused += time.monotonic() - started

    def read(self, position: int) -> dict[str, float]:
        now = time.monotonic()
        seconds = max(now - self._since - self._paused, 1e-9)
        found = {
            "samples_per_second": (position - self._position) / seconds,
            "data_wait": self._waited / seconds,
        }
        self._position, self._since, self._waited, self._paused = position, now, 0.0, 0.0
        return found


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or SIGINT came; a second Ctrl-C ends the program at once."""
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        old = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: whoever started it stops it
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
