"""The measurements of training: writes docs/benchmarks-training.md.

    python bench/training.py [--only wait,speed,same,kept] [--quick] [--cache FOLDER]

Uses the pictures of `bench/stream.py`, and makes them where they do not stand. Each side is a process of its
own; the sides of a table take turns. `--only` measures some sections again and leaves the others as they
stand; `--quick` is a trial that writes no page. Without open_clip's environment (`make bench` makes it) its
side is left out, and said to be.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from annotation import sections_of
from run import ROOT, machine, measured, row
from stream import CACHE, goal_row, goal_table, left_out, made
from training_sides import KILLED_AT, MODELS

PAGE = ROOT / "docs" / "benchmarks-training.md"
PEER = ROOT / ".venv" / "peer-openclip" / "bin" / "python"
HEAD = """# Benchmarks of training

Written by `make bench` (`python bench/training.py`). Ratios within one run: the machine is shared and noisy.
There is no GPU: the accelerator is one thread of the CPU, the second core is for reading. So what is
compared is what software adds to a model's own arithmetic, not how fast a GPU would be.

- Machine: {machine}
- Pictures: those of the benchmarks of streaming, 10,000 JPEGs of 800 x 600
- `tiny`: the shipped model of 4 million parameters, 64 pixels, batches of {tiny}. `small_vit`: the image tower of
  ViT-S/32 at 224 pixels beside a text tower of two layers, batches of {small_vit}. float32, AdamW
"""
Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """What the sections share."""

    folder: Path
    rounds: int
    seconds: int
    """Of a side in a round, after its start."""


WAIT = """## Waiting for data

Our loop, and its step alone with one batch over and over, in turn in one process; median rates, and the mean share
of waiting as the log tells it. The model's one thread and the workers share two cores: two workers and the model
want three, and take from each other.

`python bench/training.py --only wait`
"""


def wait_section(run: Run) -> list[str]:
    """The loop against its bare step."""
    lines = [
        WAIT,
        row("model", "workers", "loop, samples/s", "step alone, samples/s", "ratio", "waiting"),
        row(*["---"] * 6),
    ]
    goals = []
    for model in MODELS:
        for workers in (1, 2):
            words = ("wait", run.folder, model, str(run.seconds), "--workers", str(workers))
            found = measured("training_sides.py", *words)
            rates = (f"{found['loop']:.1f}", f"{found['bare']:.1f}")
            ratio = found["loop"] / found["bare"]
            lines.append(row(model, workers, *rates, f"{ratio:.3f}", f"{found['wait']:.2%}"))
            if workers == 1:
                share = found["wait"] * 100
                goals.append(goal_row(f"{model}, waiting", share, 3, " %", most=True))
    return [*lines, *goal_table(goals)]


SPEED = """## Beside open_clip's trainer

`open_clip_train.main` of open_clip 3.3.0 with webdataset 0.2.86, as it comes, from the same shards: the same
architecture, batch, augmentation, optimizer and clipping, one thread and one worker each. Between the second line
of each log and the last, {seconds} s or more in each of {rounds} rounds; CPU of the process and its workers.
webdataset draws shards with replacement, so that no end of an epoch is met. Its pictures are decoded whole by
Pillow; ours by DCT scaling where that is enough, which is our default, or whole. `4 parts`: gradient accumulation
(`--accum-freq 4` with a quarter of the batch; `optimizer.accumulate = 4`).

`python bench/training.py --only speed`
"""
SIDES = {"ours": "ours", "ours_whole": "ours, whole decoding", "open_clip": "open_clip"}
TABLES = (
    ("tiny", 1, ("ours", "ours_whole", "open_clip")),
    ("tiny", 4, ("ours", "open_clip")),
    ("small_vit", 1, ("ours", "open_clip")),
)


def speed_section(run: Run) -> list[str]:
    """Two trainers on the same model and shards."""
    lines = [
        SPEED.format(seconds=run.seconds, rounds=run.rounds),
        row("model", "side", "samples/s", "best", "by open_clip", "CPU ms a sample"),
        row(*["---"] * 6),
    ]
    goals = []
    absent = [] if PEER.exists() else ["open_clip"]
    for model, parts, sides in TABLES:
        some = [side for side in sides if side not in absent]
        rows, speeds = speed_rows(run, model, parts, some)
        lines += rows
        if not absent:
            what = f"{_title(model, parts)}, ours by open_clip"
            goals.append(goal_row(what, speeds["ours"] / speeds["open_clip"], 1))
    return [*lines, *goal_table(goals), *left_out(absent)]


def _title(model: str, parts: int) -> str:
    return f"{model}, {parts} parts" if parts > 1 else model


def speed_rows(
    run: Run, model: str, parts: int, sides: list[str]
) -> tuple[list[str], dict[str, float]]:
    """Lines of the table, and each side's samples a second."""
    found: dict[str, list[Result]] = {side: [] for side in sides}
    for _ in range(run.rounds):
        for side in sides:
            words = ("trainer", side, run.folder, model, str(run.seconds), "--parts", str(parts))
            python = str(PEER) if side == "open_clip" else sys.executable
            found[side].append(measured("training_sides.py", *words, python=python))
    rates = {s: [each["samples"] / each["seconds"] for each in found[s]] for s in sides}
    speeds = {side: median(each) for side, each in rates.items()}
    lines = []
    for side in sides:
        cpu = median(1e3 * each["cpu"] / each["samples"] for each in found[side])
        ratio = f"{speeds[side] / speeds['open_clip']:.2f}" if "open_clip" in sides else ""
        numbers = (f"{speeds[side]:.1f}", f"{max(rates[side]):.1f}", ratio, f"{cpu:.2f}")
        lines.append(row(_title(model, parts), SIDES[side], *numbers))
    return lines, speeds


SAME = """## The same run, cut otherwise

{steps} steps of 64 pairs of the shipped `tiny` config, beside the same in one piece: the largest difference of a
step's loss (which falls from {first_loss:.3f} to {last_loss:.3f}) and of a weight at the end. float32's own
rounding of such a loss is 5e-7. The killed run got SIGKILL after step {killed_at} or later, and went on from its
checkpoint of step {kept}.

`python bench/training.py --only same`
"""
CUTS = {
    "parts": "4 parts of 16 (`optimizer.accumulate`)",
    "ddp": "2 processes, DDP",
    "fsdp": "2 processes, FSDP2",
    "killed": "killed, and gone on with",
}


def same_section(run: Run) -> list[str]:
    """Losses that must not depend on how a run is cut."""
    found = measured("training_sides.py", "same", run.folder)
    steps = found["killed"]["steps"]
    lines = [
        SAME.format(steps=steps, killed_at=KILLED_AT, **found),
        row("run", "loss, largest difference", "weights, largest difference", "bit for bit"),
        row(*["---"] * 4),
    ]
    for name, text in CUTS.items():
        each = found[name]
        numbers = (f"{each['loss']:.1e}", f"{each['weights']:.1e}")
        lines.append(row(text, *numbers, "yes" if each["identical"] else "no"))
    worst = max(found[name]["loss"] for name in CUTS)
    goals = [goal_row("largest difference of a loss", worst, 1e-5, "", most=True)]
    same = float(found["killed"]["identical"])
    goals.append(goal_row("killed and gone on with: all bits the same (1: yes)", same, 1, ""))
    return [*lines, *goal_table(goals)]


KEPT = """## Checkpoints and going on

One checkpoint with AdamW's moments: gathering it, writing it (to the disk, `fsync` included), reading it and putting
it back.

`python bench/training.py --only kept`
"""


def kept_section(run: Run) -> list[str]:
    """What a checkpoint costs, and what it takes to find one's place again."""
    lines = [
        KEPT,
        row("model", "parameters", "bytes", "gather, s", "write, s", "read and restore, s"),
        row(*["---"] * 6),
    ]
    for name, each in measured("training_sides.py", "checkpoint").items():
        seconds = [f"{each[part]:.2f}" for part in ("gather", "write", "restore")]
        lines.append(row(f"`{name}`", f"{each['parameters']:,}", f"{each['bytes']:,}", *seconds))
    found = measured("training_sides.py", "resume")
    lines += [
        "",
        "The order of 24 million samples, begun anew at a place: seconds to the numbers of the first 256 samples, "
        "median and most of five. Nothing before the place is gone through.",
        "",
        row("place", "seconds", "most"),
        row(*["---"] * 3),
    ]
    lines += [row(name, f"{x['median']:.3f}", f"{x['most']:.3f}") for name, x in found.items()]
    times = [each["median"] for each in found.values()]
    return [
        *lines,
        *goal_table([goal_row("latest place by the start", times[-1] / times[0], 1.2, most=True)]),
    ]


SECTIONS: dict[str, Callable[[Run], list[str]]] = {
    "wait": wait_section,
    "speed": speed_section,
    "same": same_section,
    "kept": kept_section,
}


def write_page(lines: list[str]) -> None:
    """The page, with the sections that were not measured now as they were."""
    old = sections_of(PAGE.read_text()) if PAGE.exists() else {}
    new = old | sections_of("\n" + "\n".join(lines))
    batches = {name: model.batch for name, model in MODELS.items()}
    page = [HEAD.format(machine=machine(), **batches), *(text + "\n" for text in new.values())]
    PAGE.write_text("\n".join(page).rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cache", type=Path, default=CACHE)
    words = parser.parse_args()
    names = words.only.split(",")
    if unknown := set(names) - set(SECTIONS):
        parser.error(f"--only {','.join(sorted(unknown))}: known are {', '.join(SECTIONS)}")
    rounds, seconds = (1, 5) if words.quick else (2, 20)
    run = Run(made(words.cache, words.quick), rounds, seconds)
    for name in SECTIONS:
        if name in names:
            lines = [*SECTIONS[name](run), f"Measured on {date.today().isoformat()}.", ""]
            print("\n".join(lines)) if words.quick else write_page(lines)


if __name__ == "__main__":
    main()
