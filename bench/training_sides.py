"""Sides of the training measurements; one in this process.

    PYTHON bench/training_sides.py trainer ours|ours_whole|open_clip FOLDER MODEL SECONDS [--parts 1] [--threads 1]
    python bench/training_sides.py wait FOLDER MODEL SECONDS [--workers 1] [--threads 1]
    python bench/training_sides.py same FOLDER           losses and weights of runs that should be one
    python bench/training_sides.py checkpoint            writing and reading checkpoints
    python bench/training_sides.py resume                the order of 24 million samples, begun anywhere

FOLDER is that of `stream_data.py`, MODEL one of `MODELS`; open_clip's side runs by the interpreter that has the
webdataset it asks for. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from stream_data import shard_paths
from stream_sides import cpu_seconds

TINY = Path(__file__).parent.parent / "src" / "biomedica" / "data" / "models" / "tiny.json"
SMALL_VIT = {
    "embed_dim": 256,
    "vision_cfg": {
        "image_size": 224, "layers": 12, "width": 384, "head_width": 64, "patch_size": 32,
    },
    "text_cfg": {
        "context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2,
    },
}  # fmt: skip
"""The image tower of ViT-S/32 beside a text tower that takes little."""


@dataclass(frozen=True, slots=True)
class Model:
    """What is trained, and how often it says so."""

    batch: int
    log_every: int


MODELS = {"tiny": Model(64, 5), "small_vit": Model(32, 2)}


def model_json(name: str, folder: Path) -> Path:
    """The architecture as a file that both trainers read."""
    path = folder / f"bench_{name}.json"
    text = TINY.read_text() if name == "tiny" else json.dumps(SMALL_VIT)
    path.write_text(text)
    return path


class Enough(BaseException):
    """The time is up; a base exception, so that no trainer keeps it."""


class Clock:
    """Samples, seconds and CPU seconds between the second line of a trainer's log and the last."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lines: list[tuple[float, float, int]] = []

    def note(self, samples: int) -> None:
        """A line of the log, after so many samples."""
        self._lines.append((time.monotonic(), cpu_seconds(), samples))
        if len(self._lines) > 2 and self._lines[-1][0] - self._lines[1][0] > self._seconds:
            raise Enough

    def read(self) -> dict[str, Any]:
        """What was found."""
        (time_0, cpu_0, samples_0), (time_1, cpu_1, samples_1) = self._lines[1], self._lines[-1]
        return {
            "samples": samples_1 - samples_0, "seconds": time_1 - time_0, "cpu": cpu_1 - cpu_0,
        }  # fmt: skip


def settings_of(words: Any, work: Path, *changes: str) -> Any:
    """Our config: the shipped `tiny`, with another model where one is asked for."""
    from biomedica.train import load_train

    model = MODELS[words.model]
    source = f'data.sources=[{{archive="{words.folder / "archive"}", view="all"}}]'
    return load_train(
        "tiny",
        [
            f'model.name="{model_json(words.model, work)}"',
            source,
            "data.epochs=1000",
            f"data.workers={words.workers}",
            f"optimizer.batch={model.batch}",
            f"optimizer.accumulate={words.parts}",
            f"run.log_every={model.log_every}",
            "run.loggers=[]",
            "run.checkpoint_every=1000000",
            *changes,
        ],
    )


def ours(words: Any, work: Path, clock: Clock, *changes: str) -> None:
    """Our loop."""
    from biomedica.train.loop import train

    settings = settings_of(words, work, *changes)
    train(settings, work / "run", lambda progress: clock.note(progress.position))


def ours_whole(words: Any, work: Path, clock: Clock) -> None:
    """Our loop; pictures are decoded whole, as Pillow does."""
    ours(words, work, clock, "images.scaled_decode=false")


def open_clip(words: Any, work: Path, clock: Clock) -> None:
    """`open_clip_train.main` as it is, with the same settings; its log is read as it is written.

    With `--dataset-resampled`, so that no end of an epoch is measured.
    """
    import open_clip as library
    from open_clip_train.main import main as trainer

    library.add_model_config(model_json(words.model, work))
    model = MODELS[words.model]

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found = re.match(r"Train Epoch: \d+ \[ *(\d+)/", record.getMessage())
            if found:
                clock.note(int(found[1]))

    logging.getLogger().addHandler(Lines())
    shards = shard_paths(words.folder)
    pattern = f"{shards[0].parent}/{shards[0].stem[:-6]}{{000000..{len(shards) - 1:06d}}}.tar"
    options = {
        "train-data": pattern, "dataset-type": "webdataset", "train-num-samples": 10_000_000,
        "model": f"bench_{words.model}", "device": "cpu", "precision": "fp32", "epochs": 1,
        "batch-size": model.batch // words.parts, "accum-freq": words.parts, "workers": words.workers,
        "lr": 0.001, "beta1": 0.9, "beta2": 0.98, "eps": 1e-6, "wd": 0.2, "warmup": 20, "grad-clip-norm": 1.0,
        "log-every-n-steps": model.log_every, "logs": work / "logs", "name": "run",
    }  # fmt: skip
    trainer(
        [
            "--dataset-resampled",
            *(str(w) for n, value in options.items() for w in (f"--{n}", value)),
        ]
    )


TRAINERS: dict[str, Callable[[Any, Path, Clock], None]] = {
    each.__name__: each for each in (ours, ours_whole, open_clip)
}


def trainer(words: Any, work: Path) -> dict[str, Any]:
    """One trainer for some seconds."""
    clock = Clock(words.seconds)
    try:
        TRAINERS[words.side](words, work, clock)
    except Enough:
        return clock.read()
    raise SystemExit("the trainer ended before the time was up")


def wait(words: Any, work: Path) -> dict[str, Any]:
    """Our loop and its bare step in turn, in one process: rates, and the share of waiting as it is logged.

    Between two lines of the log come as many steps of one batch, over and over. The line after that is left
    out: while the loop stood still, its workers got ahead.
    """
    from biomedica.train.loop import _Run, open_stream
    from biomedica.train.world import join

    settings = settings_of(words, work, "run.log_every=10")
    logged: list[tuple[float, float]] = []
    bare: list[float] = []
    ended = [0.0]

    def tell(progress: Any) -> None:
        if not ended[0]:
            ended[0] = time.monotonic() + words.seconds
        if progress.step % 20:
            return
        logged.append((progress.samples_per_second, progress.data_wait))
        started = time.monotonic()
        for number in range(10):
            run.stepper.step(progress.step + number, batch.images, batch.tokens, 0)
        bare.append(10 * len(batch) / (time.monotonic() - started))
        if time.monotonic() > ended[0]:
            raise Enough

    with join(settings.run) as world:
        run = _Run(settings, work / "run", world, tell)
        batch = next(iter(open_stream(settings, run.made, 0, 1)))
        assert batch.images is not None and batch.tokens is not None
        with suppress(Enough):
            run.go(lambda: False)
    return {
        "loop": median(each for each, _ in logged),
        "bare": median(bare),
        "wait": mean(each for _, each in logged),
        "rounds": len(bare),
    }


SAME = (
    "data.epochs=2", "data.workers=1", "optimizer.warmup_steps=4", "run.log_every=1", "run.loggers=[]",
    "run.checkpoint_every=4",
)  # fmt: skip
"""Sixteen steps of 64 pairs."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Short runs of the shipped `tiny` config over 512 samples, by the program's own command."""

    folder: Path
    work: Path

    def words(self, name: str, *changes: str) -> list[str]:
        """The command of a run."""
        source = f'data.sources=[{{archive="{self.folder / "archive"}", view="small"}}]'
        words = ["-m", "biomedica", "train", "tiny", str(self.work / name), "--quiet"]
        return words + [word for each in (source, *SAME, *changes) for word in ("--set", each)]

    def go(self, name: str, *changes: str, processes: int = 1) -> None:
        """A run from where it stands to its end."""
        launch = [sys.executable]
        if processes > 1:
            launch += [
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc-per-node={processes}",
            ]
        done = subprocess.run(
            launch + self.words(name, *changes), capture_output=True, text=True, env=ENVIRONMENT
        )
        if done.returncode:
            sys.exit(f"run {name} failed:\n{done.stderr}")

    def go_and_kill(self, name: str, step: int) -> None:
        """A run that is killed once its log tells of a step."""
        log = self.work / name / "log.jsonl"
        with subprocess.Popen(
            [sys.executable, *self.words(name)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=ENVIRONMENT,
        ) as process:
            while not log.exists() or log.read_text().count("\n") < step:
                if process.poll() is not None:
                    sys.exit(f"run {name} ended by itself, with {process.returncode}")
                time.sleep(0.01)
            os.killpg(process.pid, signal.SIGKILL)

    def losses(self, name: str) -> list[float]:
        """Step by step."""
        lines = (self.work / name / "log.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    def weights(self, name: str) -> Any:
        """Of the model at the end, by name."""
        from safetensors.torch import load_file

        return load_file(self.work / name / "model" / "open_clip_model.safetensors")

    def apart(self, name: str, other: str) -> dict[str, Any]:
        """Largest differences of losses and of weights, and whether all bits are the same."""
        ours, theirs = self.losses(name), self.losses(other)
        mine, their = self.weights(name), self.weights(other)
        return {
            "steps": len(ours),
            "loss": max(abs(a - b) for a, b in zip(ours, theirs, strict=True)),
            "weights": max(float((mine[key] - their[key]).abs().max()) for key in mine),
            "identical": ours == theirs and all(mine[key].equal(their[key]) for key in mine),
        }


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
KILLED_AT = 6


def same(words: Any, work: Path) -> dict[str, Any]:
    """Ways to cut a run that should not be seen in it, each beside the run in one piece."""
    runs = Runs(words.folder, work)
    runs.go("whole")
    runs.go("parts", "optimizer.accumulate=4")
    runs.go("ddp", processes=2)
    runs.go("fsdp", 'run.distributed="fsdp"', processes=2)
    runs.go_and_kill("killed", KILLED_AT)
    kept = max(path.name for path in (work / "killed" / "checkpoints").glob("step-*.pt"))
    runs.go("killed")
    found = {name: runs.apart(name, "whole") for name in ("parts", "ddp", "fsdp", "killed")}
    first, last = runs.losses("whole")[0], runs.losses("whole")[-1]
    return {**found, "kept": int(kept[5:13]), "first_loss": first, "last_loss": last}


def _stepper(name: str) -> Any:
    """A model after one step, so that AdamW has its moments."""
    import torch

    from biomedica.clip.build import assemble
    from biomedica.clip.designs import read_design
    from biomedica.train import load_train
    from biomedica.train.step import Stepper
    from biomedica.train.world import World

    settings = load_train(name)
    made = assemble(read_design(settings.model, weights=False), settings.model, weights=False)
    made.model.output_dict = True
    world = World(0, 1, torch.device("cpu"), "alone")
    stepper = Stepper(made, made.model, settings.optimizer, world, 1)
    images = torch.zeros((2, 3, made.preprocess.size, made.preprocess.size), dtype=torch.uint8)
    tokens = torch.ones((2, 1, made.settings.context_length), dtype=torch.int64)
    stepper.step(0, images, tokens, 0)
    return stepper, world


def checkpoint(words: Any, work: Path) -> dict[str, Any]:
    """Seconds and bytes of a checkpoint of the smallest and of BiomedCLIP's size."""
    from biomedica.train.checkpoints import Checkpoints, read_checkpoint, restore, state_of

    found = {}
    for name in ("tiny", "biomedclip-vit-b-16-random"):
        stepper, world = _stepper(name)
        checkpoints = Checkpoints(work / name, keep=1)
        started = time.monotonic()
        state = state_of(stepper)
        gathered = time.monotonic()
        path = checkpoints.write(1, state)
        written = time.monotonic()
        del state
        begun = time.monotonic()
        restore(stepper, read_checkpoint(path), world)
        found[name] = {
            "parameters": sum(each.numel() for each in stepper.model.parameters()),
            "bytes": path.stat().st_size,
            "gather": gathered - started,
            "write": written - gathered,
            "restore": time.monotonic() - begun,
        }
    return found


PAIRS = 24_000_000
PLACES = {"the start": 0.0, "the middle of epoch 1": 0.5, "the middle of epoch 11": 10.5}


def resume(words: Any, work: Path) -> dict[str, Any]:
    """Seconds to the samples of the first batch, by place in the sequence; each by a new order."""
    from biomedica.stream import Order, OrderSettings

    found: dict[str, list[float]] = {name: [] for name in PLACES}
    for _ in range(5):
        for name, epochs in PLACES.items():
            place = int(epochs * PAIRS)
            started = time.monotonic()
            Order(PAIRS, 0, OrderSettings()).rows(place, place + 256)
            found[name].append(time.monotonic() - started)
    return {name: {"median": median(each), "most": max(each)} for name, each in found.items()}


WAYS: dict[str, Callable[[Any, Path], dict[str, Any]]] = {
    each.__name__: each for each in (trainer, wait, same, checkpoint, resume)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    ways = parser.add_subparsers(dest="way", required=True)
    for name in WAYS:
        way = ways.add_parser(name)
        if name == "trainer":
            way.add_argument("side", choices=TRAINERS)
        if name in ("trainer", "wait", "same"):
            way.add_argument("folder", type=Path)
        if name in ("trainer", "wait"):
            way.add_argument("model", choices=MODELS)
            way.add_argument("seconds", type=float)
            way.add_argument("--parts", type=int, default=1)
            way.add_argument("--workers", type=int, default=1)
            way.add_argument("--threads", type=int, default=1)
    words = parser.parse_args()
    if getattr(words, "folder", None):
        words.folder = words.folder.resolve()
    if getattr(words, "threads", None):
        import torch

        torch.set_num_threads(words.threads)
    work = Path(tempfile.mkdtemp())
    try:
        found = WAYS[words.way](words, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
