"""Scores, and CPU seconds for them, beside CLIP_benchmark 1.6.2: writes docs/benchmarks-evaluation.md.

    python bench/evaluation.py [--quick] [--rounds 3] [--number 100000]

Draws pictures of twelve classes, writes them once in CLIP_benchmark's layout, makes open_clip models with random
weights, and has both programs score them from the same files. `--quick` is a trial that writes no page.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from biomedica.clip import ModelSettings, build, save
from biomedica.evaluate.items import Items
from biomedica.evaluate.tasks import Task, parse_task
from biomedica.evaluate.wds_writer import write_wds
from evaluation_sides import REPAIRS
from run import BENCH, ROOT, machine, measured, row
from stream import goal_row, goal_table

PAGE = ROOT / "docs" / "benchmarks-evaluation.md"
PEER = ROOT / ".venv" / "peer-clipbenchmark" / "bin" / "python"
COUNTS = {"train": 360, "validation": 180, "test": 360}
ENVIRONMENT = {
    # idle threads of a busy machine wait in circles, which counts as work
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
}
QUICK_COUNTS = {"train": 48, "validation": 24, "test": 108}
CAPTIONS = 3
SIZE = (320, 256)
COLOURS = {"red": (200, 50, 60), "green": (40, 160, 80), "purple": (130, 70, 190)}
FORMS = ("round cell", "square crystal", "branched vessel", "ring")
CLASSES = tuple(f"{colour} {form}" for colour in COLOURS for form in FORMS)
RECALLS = (1, 5, 10, 100)
TOLERANCE = 1e-6
GOAL, GOAL_RANKS = 0.7, 1.3


@dataclass(frozen=True, slots=True)
class Tower:
    """How large a model's towers are."""

    title: str
    image: Mapping[str, int]
    text: Mapping[str, int]
    width: int


MODELS = {
    "light": Tower(
        "two layers in each tower, which costs next to nothing",
        {"image_size": 224, "layers": 2, "width": 128, "head_width": 32, "patch_size": 32},
        {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2},
        128,
    ),
    "ViT-S/32": Tower(
        "twelve layers of 384 for pictures, as ViT-S/32 has",
        {"image_size": 224, "layers": 12, "width": 384, "head_width": 64, "patch_size": 32},
        {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 4},
        256,
    ),
}


@dataclass(frozen=True, slots=True)
class Job:
    """What both programs are asked."""

    title: str
    protocols: tuple[str, ...]


JOBS = {
    "zero_shot": Job("zero-shot classification", ("zero_shot",)),
    "retrieval": Job("retrieval", ("retrieval",)),
    "linear_probe": Job("linear probe", ("linear_probe",)),
    "all": Job("all three", ("zero_shot", "retrieval", "linear_probe")),
}
TASKS = {"zero_shot": "drawn", "retrieval": "drawn-captions", "linear_probe": "drawn"}
THEIR_TASKS = {
    "zero_shot": ["zeroshot_classification"],
    "retrieval": ["zeroshot_retrieval", "--recall_k", *map(str, RECALLS)],
    "linear_probe": ["linear_probe", "--train_split", "train", "--val_split", "validation"],
}
TASK = """
name = "{name}"
title = "Drawn shapes"
kind = "{kind}"
specialty = "none"
modality = "drawings"
[access]
url = "none"
terms = "local"
licence = "CC0-1.0"
how = "Drawn by bench/evaluation.py."
[data]
reader = "wds"
path = "{name}"
"""
PROMPTS = """
[prompts.single]
templates = ["a photo of a {c}", "microscopy of a {c}", "there is a {c} in the middle"]
"""


def task(kind: str) -> Task:
    """As a task file states it."""
    return parse_task(task_text(kind), "bench/evaluation.py")


def task_text(kind: str) -> str:
    """A task file for the pictures."""
    if kind == "retrieval":
        return TASK.format(name=TASKS["retrieval"], kind=kind)
    classes = "".join(f'[[classes]]\nname = "{name}"\n' for name in CLASSES)
    return TASK.format(name=TASKS["zero_shot"], kind=kind) + classes + PROMPTS


def drawn(split: str, number: int) -> Items:
    """Pictures of the classes in turn, with labels and captions; no caption stands twice."""
    random = np.random.default_rng([0, *split.encode()])
    labels_N = np.arange(number) % len(CLASSES)
    pictures, captions = [], []
    for row_of, label in enumerate(labels_N):
        name = CLASSES[label]
        x, y, side = (int(random.integers(*each)) for each in ((60, 260), (60, 196), (40, 110)))
        pictures.append(_picture(name, (x, y, side), random))
        captions.append(
            tuple(
                f"{form} {row_of}: a {name}, {side} pixels wide, {x} from the left"
                for form in _FORMS
            )
        )
    ids = tuple(f"{split}-{index:05d}" for index in range(number))
    return Items(
        task="drawn",
        split=split,
        ids=ids,
        places=ids,
        read=pictures.__getitem__,
        groups=ids,
        picture_ids=ids,
        labels_N=labels_N,
        captions=tuple(captions),
    )


_FORMS = ("figure", "panel", "drawing")[:CAPTIONS]


def _picture(name: str, place: tuple[int, int, int], random: np.random.Generator) -> bytes:
    """JPEG of a form on a noisy ground."""
    colour, form = name.split(" ", 1)
    ground = random.integers(205, 225, 3)
    image = Image.new("RGB", SIZE, tuple(ground.tolist()))
    draw = ImageDraw.Draw(image)
    x, y, side = place
    box, fill = (x - side // 2, y - side // 2, x + side // 2, y + side // 2), COLOURS[colour]
    if form == "round cell":
        draw.ellipse(box, fill=fill)
    elif form == "square crystal":
        draw.rectangle(box, fill=fill)
    elif form == "ring":
        draw.ellipse(box, outline=fill, width=12)
    else:
        for dx, dy in ((-1, -1), (1, -1), (0, 1)):
            draw.line((x, y, x + dx * side // 2, y + dy * side // 2), fill=fill, width=12)
    noisy = np.asarray(image) + random.normal(0, 12, (SIZE[1], SIZE[0], 3))
    content = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=90)
    return content.getvalue()


def write_data(folder: Path, counts: Mapping[str, int]) -> None:
    """Both tasks, for both programs."""
    splits = {name: drawn(name, number) for name, number in counts.items()}
    labelled = {name: replace(items, captions=None) for name, items in splits.items()}
    for kind, some in (("classification", labelled), ("retrieval", {"test": splits["test"]})):
        asked = task(kind)
        write_wds(folder / "data" / asked.name, asked, some)
        (folder / "tasks").mkdir(exist_ok=True)
        (folder / "tasks" / f"{asked.name}.toml").write_text(task_text(kind))


def write_model(folder: Path, tower: Tower) -> Path:
    """A folder that open_clip loads, with random weights from a fixed seed."""
    folder.mkdir()
    path = folder / "model.json"
    config = {"embed_dim": tower.width, "vision_cfg": {**tower.image}, "text_cfg": {**tower.text}}
    path.write_text(json.dumps(config))
    save(folder / "model", build(ModelSettings(name=str(path))), {"about": "random weights"})
    return folder / "model"


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the files stand."""

    data: Path
    folder: Path
    """Of results."""
    model: Path

    def ours(self, protocols: tuple[str, ...], out: Path) -> float:
        """CPU seconds of one command with a new cache."""
        words: list[str | Path] = [sys.executable, "-m", "biomedica", "eval", "run"]
        words.append(f"model={self.model}")
        words += ["--tasks", *dict.fromkeys(TASKS[each] for each in protocols)]
        words += ["--protocols", *protocols, "--tasks-from", self.data / "tasks"]
        words += ["--data", self.data / "data", "--out", out, "--cache", out / "cache"]
        return cpu_seconds([*words, "--quiet"], out)

    def theirs(self, protocols: tuple[str, ...], out: Path) -> float:
        """CPU seconds of a command for each protocol: one command of theirs asks one."""
        total = 0.0
        for each in protocols:
            words = [PEER, BENCH / "evaluation_sides.py", "theirs", "eval", "--no_amp"]
            words += ["--model", f"local-dir:{self.model}", "--pretrained", "", "--quiet"]
            words += ["--dataset", f"wds/{TASKS[each]}", "--feature_root", out / "features"]
            words += ["--dataset_root", self.data / "data" / TASKS[each]]
            words += ["--num_workers", "0", "--output", out / f"{each}.json"]
            total += cpu_seconds([*words, "--task", *THEIR_TASKS[each]], out)
        return total


def cpu_seconds(words: list[Any], out: Path) -> float:
    """User and system time of a command and of all that it started. Stops where it fails."""
    out.mkdir(parents=True, exist_ok=True)
    log = (out / "log").open("wb")
    process = subprocess.Popen(
        [str(each) for each in words],
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    log.close()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, words))} failed:\n{(out / 'log').read_text()[-4000:]}")
    return used.ru_utime + used.ru_stime


def rounds_of(bench: Bench, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """CPU seconds of (ours, theirs) by job; the sides take turns, theirs are added up for `all`."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in JOBS}
    for number in range(rounds):
        out = bench.folder / f"round-{number}"
        pairs: dict[str, tuple[float, float]] = {}
        for name, job in JOBS.items():
            if name != "all":
                ours = bench.ours(job.protocols, out / f"ours-{name}")
                pairs[name] = ours, bench.theirs(job.protocols, out / "theirs")
        together = bench.ours(JOBS["all"].protocols, out / "ours-all")
        pairs["all"] = together, sum(theirs for _, theirs in pairs.values())
        for name, pair in pairs.items():
            found[name].append(pair)
            print(f"{name}: ours {pair[0]:.1f} s, theirs {pair[1]:.1f} s", flush=True)
    return found


def scores(bench: Bench) -> list[tuple[str, str, float, float]]:
    """(protocol, metric, ours, theirs) of the first round. Stops where one side lacks a metric."""
    out, found = bench.folder / "round-0", []
    for protocol in JOBS["all"].protocols:
        path = out / "ours-all" / "model" / f"{TASKS[protocol]}.{protocol}.json"
        ours = json.loads(path.read_text())["metrics"]
        theirs = json.loads((out / "theirs" / f"{protocol}.json").read_text())["metrics"]
        shown = [name for name in theirs if "acc" in name or "recall" in name]
        found += [(protocol, name, ours[name], theirs[name]) for name in shown]
    return found


def score_section(found: Mapping[str, list[tuple[str, str, float, float]]]) -> list[str]:
    """Whether both programs say the same."""
    lines = [
        row("model", "protocol", "metric", "ours", "theirs", "difference"),
        row(*["---"] * 6),
    ]
    worst, points = 0.0, []
    for model, rows in found.items():
        for protocol, name, ours, theirs in rows:
            gap = ours - theirs
            lines.append(
                row(
                    model, JOBS[protocol].title, name, f"{ours:.6f}", f"{theirs:.6f}", f"{gap:+.1e}"
                )
            )
            if protocol != "linear_probe":
                worst = max(worst, abs(gap))
            elif name == "lp_acc1":
                points.append(100 * gap)
    goals = [
        goal_row("largest difference, zero-shot and retrieval", worst, TOLERANCE, "", most=True),
        goal_row("linear probe, ours minus theirs, at the least", min(points), -1, " points"),
    ]
    return [SCORES.format(prompts=PROMPTS.count(", ") + 1), *lines, *goal_table(goals)]


def cost_section(found: Mapping[str, dict[str, list[tuple[float, float]]]]) -> list[str]:
    """CPU seconds of both programs."""
    lines = [
        row("model", "asked", "ours, s", "theirs, s", "ratio", "lowest", "highest"),
        row(*["---"] * 7),
    ]
    goals, alone = [], []
    for model, jobs in found.items():
        for name in JOBS:
            each = [ours / theirs for ours, theirs in jobs[name]]
            seconds = [f"{median(side):.1f}" for side in zip(*jobs[name], strict=True)]
            shown = [f"{value:.2f}" for value in (median(each), min(each), max(each))]
            lines.append(row(model, JOBS[name].title, *seconds, *shown))
            if name == "all":
                goals.append(goal_row(f"{model}, all three", median(each), GOAL, most=True))
            else:
                alone.append(median(each))
    return [
        COST.format(models=models_text(), rounds=len(jobs["all"])),
        *lines,
        *goal_table(goals),
        COST_NOTES.format(low=min(alone), high=max(alone)),
    ]


def models_text() -> str:
    """What the models are."""
    return ";\n".join(f"`{name}` has {tower.title}" for name, tower in MODELS.items())


def ranks_section(number: int) -> list[str]:
    """Exact retrieval of a large gallery."""
    taken = measured("evaluation_sides.py", "pairs", str(number))["pairs"]
    peak = measured("evaluation_sides.py", "peak", str(number))
    bare, ours = (sum(side) for side in zip(*taken, strict=True))
    each = [ours / bare for bare, ours in taken]
    text = RANKS.format(
        number=number,
        turns=len(taken),
        bare=bare,
        ours=ours,
        low=min(each),
        high=max(each),
        matrix=number * number * 4 / 1e9,
        first=100 * peak["first"],
        cpu=peak["cpu"],
        added=peak["peak_mb"] - peak["before_mb"],
        before=peak["before_mb"],
    )
    return [
        text,
        *goal_table([goal_row("ranks by a bare product", ours / bare, GOAL_RANKS, most=True)]),
    ]


HEAD = """# Evaluation beside CLIP_benchmark

Written by `python bench/evaluation.py`. Ratios within one run: the machine is shared and noisy ({load:.1f} processes
waited or were at work when it began).

- Date: {day}; machine: {machine}
- {counts} drawn pictures of {classes} classes as JPEGs of {width} x {height}, {captions} captions each; both programs
  read the same tar files, which `write_wds` made, and the same folder of a model
- Models of open_clip with random weights from a fixed seed; both prepare pictures as the model says
- CLIP_benchmark 1.6.2 with `--no_amp --num_workers 0`, on the same torch {torch} and numpy {numpy}; one thread for
  each program

CLIP_benchmark does not run as it stands: its accuracy stops on numpy 2.4, and its linear probe asks for a GPU.
`bench/evaluation_sides.py` mends {repairs} places in memory (`REPAIRS`), which change no number and no speed.
"""
SCORES = """## Same scores

Single precision on both sides. {prompts} prompts a class. Captions are all different: of two with the same words ours
takes either for right, theirs only the one. Weights are random, so scores are near chance and cosines close together:
a small difference in a vector would show. Theirs rounds means to single precision. Linear probes are not the same
method: ours is a logistic regression by L-BFGS, theirs AdamW over ten epochs; both choose their regularisation on the
validation split.
"""
COST = """## CPU seconds

User and system time of the commands, with all that they start: imports, model, pictures, scores. Ours has a new cache
each time, and adds what theirs has not: 95 % intervals of every score, a row for each item, digests of all inputs,
each template alone, probes on parts of the training set. Sides take turns; the median of {rounds} rounds. All three:
one command of ours, which embeds a picture once, and three of theirs, which takes one protocol in a command.
{models}.
"""
COST_NOTES = """One protocol alone costs {low:.2f} to {high:.2f} times as much in ours: the same model sees the
same pictures, and much of both is importing torch. What is won is won by asking for several at once.
"""
RANKS = """## Exact retrieval of {number:,} by {number:,}

`ranks` finds the place of each query's right answer: {number:,} captions asking {number:,} pictures, 512 dimensions,
one direction, beside a matrix product of the same blocks with nothing done to it. The queries are cut in {turns}
parts; the sides take turns on each. Bare {bare:.1f} CPU seconds, ours {ours:.1f}; ratios of the parts {low:.2f} to
{high:.2f}.

The whole direction in a process of its own: {cpu:.1f} CPU seconds, recall at 1 {first:.1f} %, and at the peak
{added:,.0f} MB on top of the vectors and the program ({before:,.0f} MB). The matrix of all similarities would be
{matrix:.1f} GB.

`python bench/evaluation_sides.py pairs {number}`, `python bench/evaluation_sides.py peak {number}`
"""


def head(counts: Mapping[str, int], load: float) -> str:
    """What stands above the tables."""
    return HEAD.format(
        day=date.today().isoformat(),
        load=load,
        machine=machine(),
        counts=", ".join(f"{number} {name}" for name, number in counts.items()),
        classes=len(CLASSES),
        width=SIZE[0],
        height=SIZE[1],
        captions=CAPTIONS,
        torch=version("torch"),
        numpy=version("numpy"),
        repairs=sum(map(len, REPAIRS.values())),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a trial of one round; no page")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--number", type=int, default=100_000, help="vectors of each side")
    words = parser.parse_args()
    if not PEER.exists():
        sys.exit(f"{PEER} is not there; `make .venv/peer-clipbenchmark/stamp` makes it")
    load = os.getloadavg()[0]
    os.environ.update(ENVIRONMENT)
    counts, rounds, number = COUNTS, words.rounds, words.number
    if words.quick:
        counts, rounds, number = QUICK_COUNTS, 1, 10_000
    same, cost = {}, {}
    with tempfile.TemporaryDirectory() as name:
        write_data(Path(name), counts)
        for title, tower in MODELS.items():
            print(title, flush=True)
            folder = Path(name) / title.replace("/", "-")
            bench = Bench(Path(name), folder, write_model(folder, tower))
            cost[title] = rounds_of(bench, rounds)
            same[title] = scores(bench)
    sections = [score_section(same), cost_section(cost), ranks_section(number)]
    page = "\n".join([head(counts, load), *(line for each in sections for line in each)])
    print(page)
    if not words.quick:
        PAGE.write_text(page.rstrip() + "\n")


if __name__ == "__main__":
    main()
