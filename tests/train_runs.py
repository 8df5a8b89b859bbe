"""Small training runs for tests: archives, a model of a few layers, settings, processes of their own, and what
they leave."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from biomedica.catalog import Selection
from biomedica.config import load_settings
from biomedica.errors import BiomedicaError
from biomedica.flow import build_archive
from samples import Package, Panel, encoded, write_bucket
from stream_archives import give_view

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 40),
    "blue": (30, 50, 220),
    "yellow": (240, 230, 40),
    "black": (10, 10, 10),
    "white": (245, 245, 245),
    "pink": (250, 150, 190),
    "brown": (110, 60, 20),
}
SHAPE = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 32,
        "layers": 2,
        "width": 64,
        "head_width": 32,
        "patch_size": 8,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
    },
}


def write_model(folder: Path, **vision: Any) -> Path:
    """A model file of open_clip: 32 pixels, two layers and one."""
    path = folder / "small.json"
    path.write_text(json.dumps({**SHAPE, "vision_cfg": {**SHAPE["vision_cfg"], **vision}}))  # type: ignore[dict-item]
    return path


def coloured_archive(folder: Path, num_articles: int = 64) -> Path:
    """Two pictures an article, each of one colour, which its caption names; a quarter is for testing."""
    names = list(COLOURS)
    articles = []
    for number in range(num_articles):
        colours = [names[number % 8], names[(number // 8 + 3 * number) % 8]]
        panels = [Panel(href=f"f{i}.jpg", caption=f"A {c} area.") for i, c in enumerate(colours)]
        files = {f"f{i}.jpg": encoded(_area(c, number + i)) for i, c in enumerate(colours)}
        articles.append(Package(number=1000 + number, panels=tuple(panels), files=files))
    write_bucket(folder / "source", articles)
    root = folder / "archive"
    settings = load_settings(None, ["shards.samples=24"])
    build_archive(str(folder / "source"), root, Selection(), settings, engine="inline")
    give_view(root)
    return root


def _area(colour: str, seed: int) -> Image.Image:
    shifted = tuple(max(0, min(255, each + 5 * (seed % 5 - 2))) for each in COLOURS[colour])
    return Image.new("RGB", (48, 40), shifted)


def settings_of(archive: Path, model: Path, *changes: str) -> Any:
    """A run of a few steps on one archive, in this process."""
    from biomedica.train import load_train

    source = f'{{archive="{archive}", view="all", split="train"}}'
    usual = [
        f'model.name="{model}"',
        f"data.sources=[{source}]",
        "data.workers=0",
        "data.epochs=3",
        "optimizer.batch=32",
        "optimizer.warmup_steps=2",
        "run.loggers=[]",
        "run.log_every=1",
    ]
    return load_train("tiny", [*usual, *changes])


def run(settings: Any, folder: Path, tell: Callable[[Any], None] = lambda progress: None) -> Any:
    """Train in this process."""
    from biomedica.train.loop import train

    return train(settings, folder, tell)


# processes of their own: forked from one that has torch loaded


def start(settings: Any, folder: Path, environment: dict[str, str] | None = None) -> Any:
    """A process that trains. What came of it is `outcome(process)`."""
    context = multiprocessing.get_context("forkserver")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    context.set_forkserver_preload(["train_runs_preload"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_train, args=(settings, folder, environment or {}, sender))
    process.start()
    sender.close()
    process.answer = receiver  # type: ignore[attr-defined]
    return process


def _train(settings: Any, folder: Path, environment: dict[str, str], sender: Any) -> None:
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    limit = int(environment.get("LARGEST_FILE", 0))
    try:
        found = asdict(run(settings, folder, _limit_from(limit) if limit else lambda _: None))
    except BiomedicaError as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    sender.send(found)


def _limit_from(size: int) -> Callable[[Any], None]:
    """From the fourth step on, no file may grow beyond `size`, as on a full disk."""

    def tell(progress: Any) -> None:
        import resource

        if progress.step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return tell


def outcome(process: Any, seconds: float = 90) -> dict[str, Any]:
    """What a process came to: fields of `Trained`, or `error`, or `code` where it died."""
    process.join(seconds)
    assert process.exitcode is not None, "still running"
    try:
        found: dict[str, Any] = process.answer.recv()
    except EOFError:
        return {"code": process.exitcode}
    return found


def run_ranks(
    settings: Any, folder: Path, world: int = 2, folders: list[Path] | None = None
) -> list[dict[str, Any]]:
    """Train with several processes, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    processes = [
        start(settings, folder, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(world)
    ]
    return [outcome(each) for each in processes]


def wait_for_step(folder: Path, step: int, process: Any, seconds: float = 60) -> None:
    """Until a run's log has come to a step."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and process.is_alive():
        if any(line["step"] >= step for line in log_of(folder)):
            return
        time.sleep(0.002)
    raise AssertionError(f"no step {step} in {folder}; {sys.exc_info()}")


# what a run leaves


def log_of(folder: Path) -> list[dict[str, Any]]:
    """Lines of log.jsonl."""
    from biomedica.train.logs import read_log

    return read_log(folder)


def losses(folder: Path) -> list[tuple[int, float]]:
    """Step and loss."""
    return [(line["step"], line["loss"]) for line in log_of(folder) if "loss" in line]


def newest(folder: Path) -> dict[str, Any]:
    """Content of the newest checkpoint."""
    from biomedica.train.checkpoints import Checkpoints, read_checkpoint

    return read_checkpoint(Checkpoints(folder / "checkpoints", 1).paths()[-1])


def assert_same(first: Any, second: Any, where: str = "") -> None:
    """Equal to the bit, but for the settings."""
    import torch

    if isinstance(first, (list, tuple)):  # AdamW's betas become a list on the way
        second = type(first)(second)
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for name in first:
            if name != "settings":
                assert_same(first[name], second[name], f"{where}/{name}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for i, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same(one, other, f"{where}/{i}")
    else:
        assert first == second, where


def largest_difference(first: dict[str, Any], second: dict[str, Any]) -> float:
    """Between two models' weights."""
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)
