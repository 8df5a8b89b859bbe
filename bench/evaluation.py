"""Scores, and CPU seconds for them, beside CLIP_benchmark 1.6.2: writes docs/benchmarks-evaluation.md.

    python bench/evaluation.py [--only light,ViT-S/32,ranks] [--rounds 3] [--quick]

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

from annotation import sections_of
from biomedica.clip import ModelSettings, build, save
from biomedica.evaluate.embeddings import Embeddings
from biomedica.evaluate.items import Items
from biomedica.evaluate.tasks import Task, parse_task
from biomedica.evaluate.wds_writer import write_wds
from biomedica.models import open_encoder, unit
from evaluation_sides import REPAIRS
from run import BENCH, ROOT, machine, measured, row
from stream import goal_row, goal_table

PAGE = ROOT / "docs" / "benchmarks-evaluation.md"
PEER = ROOT / ".venv" / "peer-clipbenchmark" / "bin" / "python"
COUNTS = {"train": 480, "validation": 240, "test": 960}
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
GALLERY = 240
"""Pictures of the retrieval task. Of thousands of captions some cosines are equal but for rounding, which differs."""
SIZE = (320, 256)
COLOURS = {"red": (200, 50, 60), "green": (40, 160, 80), "purple": (130, 70, 190)}
FORMS = ("round cell", "square crystal", "branched vessel", "ring")
CLASSES = tuple(f"{colour} {form}" for colour in COLOURS for form in FORMS)
RECALLS = (1, 5, 10, 100)
TOLERANCE = 1e-6
RIDGE = 1e-6
NUMBER = 100_000
"""Vectors of each side in `ranks`."""
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
        "two layers each, which cost next to nothing",
        {"image_size": 224, "layers": 2, "width": 128, "head_width": 32, "patch_size": 32},
        {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2},
        128,
    ),
    "ViT-S/32": Tower(
        "twelve layers of 384 for pictures (ViT-S/32), four of 256 for texts",
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


def write_data(folder: Path, counts: Mapping[str, int]) -> Items:
    """Both tasks, for both programs; the pictures to learn from."""
    splits = {name: drawn(name, number) for name, number in counts.items()}
    labelled = {name: replace(items, captions=None) for name, items in splits.items()}
    gallery = {"test": drawn("test", min(GALLERY, counts["test"]))}
    for kind, some in (("classification", labelled), ("retrieval", gallery)):
        asked = task(kind)
        write_wds(folder / "data" / asked.name, asked, some)
        (folder / "tasks").mkdir(exist_ok=True)
        (folder / "tasks" / f"{asked.name}.toml").write_text(task_text(kind))
    return splits["train"]


def write_model(folder: Path, tower: Tower, train: Items) -> Path:
    """A folder that open_clip loads: random weights from a fixed seed, but for the last layer of the pictures.

    A random tower gives all pictures nearly the same vector, and so the same class. Its last layer is fitted (least
    squares) to bring pictures of `train` to the prompts of their classes.
    """
    import torch

    folder.mkdir()
    path = folder / "model.json"
    config = {"embed_dim": tower.width, "vision_cfg": {**tower.image}, "text_cfg": {**tower.text}}
    path.write_text(json.dumps(config))
    made = build(ModelSettings(name=str(path)))
    save(folder / "random", made, {"about": "random weights"})
    encoder = open_encoder(f"open_clip:local-dir:{folder / 'random'}", fit="own")
    images_ND = Embeddings(encoder, None).images(train).vectors_ND.astype(np.float64)
    words_CD = encoder.texts([f"a photo of a {name}" for name in CLASSES])
    wanted_ND = unit(words_CD - words_CD.mean(axis=0))[train.labels_N]
    square_DD = images_ND.T @ images_ND + RIDGE * len(train) * np.eye(tower.width)
    fitted_DD = np.linalg.solve(square_DD, images_ND.T @ wanted_ND)
    with torch.no_grad():
        last = made.model.visual.proj
        last.copy_(last @ torch.from_numpy(fitted_DD).float())
    save(folder / "model", made, {"about": "random weights, last layer fitted"})
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


def model_section(title: str, rounds: int, counts: Mapping[str, int]) -> list[str]:
    """Scores of both programs with one model, and what they cost."""
    with tempfile.TemporaryDirectory() as name:
        train = write_data(Path(name), counts)
        folder = Path(name) / "model"
        bench = Bench(Path(name), folder, write_model(folder, MODELS[title], train))
        cost = rounds_of(bench, rounds)
        same = scores(bench)
    numbers = ", ".join(f"{number} {name}" for name, number in counts.items())
    numbers += f" ({min(GALLERY, counts['test'])} of them with captions)"
    text = MODEL.format(title=title, about=MODELS[title].title, counts=numbers, rounds=rounds)
    score_lines, score_goals = score_table(same)
    cost_lines, cost_goal = cost_table(cost)
    return [text, *score_lines, "", *cost_lines, *goal_table([*score_goals, cost_goal])]


def score_table(found: list[tuple[str, str, float, float]]) -> tuple[list[str], list[str]]:
    """Whether both programs say the same: the table, and goals."""
    lines = [row("protocol", "metric", "ours", "theirs", "difference"), row(*["---"] * 5)]
    worst, points = 0.0, 0.0
    for protocol, name, ours, theirs in found:
        gap = ours - theirs
        lines.append(row(JOBS[protocol].title, name, f"{ours:.6f}", f"{theirs:.6f}", f"{gap:+.1e}"))
        if protocol != "linear_probe":
            worst = max(worst, abs(gap))
        elif name == "lp_acc1":
            points = 100 * gap
    return lines, [
        goal_row("largest difference, zero-shot and retrieval", worst, TOLERANCE, "", most=True),
        goal_row("linear probe, ours minus theirs", points, -1, " points"),
    ]


def cost_table(jobs: dict[str, list[tuple[float, float]]]) -> tuple[list[str], str]:
    """CPU seconds of both programs: the table, and the goal."""
    lines = [row("asked", "ours, s", "theirs, s", "ratio", "lowest", "highest"), row(*["---"] * 6)]
    for name, pairs in jobs.items():
        each = [ours / theirs for ours, theirs in pairs]
        seconds = [f"{median(side):.1f}" for side in zip(*pairs, strict=True)]
        shown = [f"{value:.2f}" for value in (median(each), min(each), max(each))]
        lines.append(row(JOBS[name].title, *seconds, *shown))
    # the last is `all`
    return lines, goal_row("ours by theirs, all three", median(each), GOAL, most=True)


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
    goal = goal_row("ranks by a bare product", ours / bare, GOAL_RANKS, most=True)
    return [text, *goal_table([goal])]


HEAD = """# Evaluation beside CLIP_benchmark

Written by `make bench` (`python bench/evaluation.py`). Ratios within one run: the machine is shared and noisy.

- Machine: {machine}
- Drawn pictures of {classes} classes, JPEGs of {width} x {height}, with {captions} captions each; both programs read
  the same tar files, which `write_wds` made, and the same folder of a model
- Models of open_clip with random weights from a fixed seed, the last layer of the pictures fitted to the training
  pictures, so that answers differ; both programs prepare pictures as the model says
- CLIP_benchmark 1.6.2 with `--no_amp --num_workers 0`, on the same torch {torch} and numpy {numpy}; one thread for
  each program

CLIP_benchmark does not run as it stands: its accuracy stops on numpy 2.4, and its linear probe asks for a GPU.
`bench/evaluation_sides.py` mends {repairs} places in memory (`REPAIRS`), which change neither numbers nor speed.

Scores: single precision on both sides, {prompts} prompts a class. Captions are all different: of two with the same
words ours takes either for right, theirs only the one. Theirs rounds means to single precision. Where cosines are
equal but for rounding, the two may rank them otherwise: rare in 240 pictures, to be expected in thousands.
Linear probes are not the same method: ours is a logistic regression by L-BFGS, theirs AdamW over ten epochs; both
choose their regularisation on the validation split and then learn from that, too.

CPU seconds: user and system time of the commands with all that they start: imports, model, pictures, scores. Ours has a
new cache each time, and adds what theirs has not: 95 % intervals of every score, a row for each item, digests of all
inputs, each template alone, probes on parts of the training set. Sides take turns; the median of the rounds. All three:
one command of ours, which embeds a picture once, and three of theirs, which takes one protocol in a command. A protocol
alone shows the same model on the same pictures, and much of both is importing torch: what is won is won by asking for
several at once.
"""
MODEL = """## Model {title}

Twin towers, {about}. Pictures: {counts}; {rounds} rounds.

`python bench/evaluation.py --only {title}`
"""
RANKS = """## Exact retrieval

`ranks` finds the place of each query's right answer: {number:,} captions asking {number:,} pictures, 512 dimensions,
one direction, beside a matrix product of the same blocks with nothing done to it. The queries are cut in {turns}
parts; the sides take turns on each. Bare {bare:.1f} CPU seconds, ours {ours:.1f}; ratios of the parts {low:.2f} to
{high:.2f}.

The whole direction in a process of its own: {cpu:.1f} CPU seconds, recall at 1 {first:.1f} %, and at the peak
{added:,.0f} MB on top of the vectors and the program ({before:,.0f} MB). The matrix of all similarities would be
{matrix:.1f} GB.

`python bench/evaluation.py --only ranks`
"""
HEADINGS = [*(f"Model {title}" for title in MODELS), "Exact retrieval"]


def write_page(lines: list[str]) -> None:
    """The page with a section that was measured now; the others stay as they were."""
    old = sections_of(PAGE.read_text()) if PAGE.exists() else {}
    new = old | sections_of("\n" + "\n".join(lines))
    head = HEAD.format(
        machine=machine(),
        classes=len(CLASSES),
        width=SIZE[0],
        height=SIZE[1],
        captions=CAPTIONS,
        torch=version("torch"),
        numpy=version("numpy"),
        repairs=sum(map(len, REPAIRS.values())),
        prompts=PROMPTS.count(", ") + 1,
    )
    page = [head, *(new[heading] + "\n" for heading in HEADINGS if heading in new)]
    PAGE.write_text("\n".join(page).rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a trial of one round; no page")
    parser.add_argument("--only", default=",".join([*MODELS, "ranks"]))
    parser.add_argument("--rounds", type=int, default=3)
    words = parser.parse_args()
    names = words.only.split(",")
    if unknown := set(names) - {*MODELS, "ranks"}:
        parser.error(f"--only {','.join(sorted(unknown))}: known are {', '.join(MODELS)}, ranks")
    if not PEER.exists():
        sys.exit(f"{PEER} is not there; `make .venv/peer-clipbenchmark/stamp` makes it")
    os.environ.update(ENVIRONMENT)
    rounds, counts = (1, QUICK_COUNTS) if words.quick else (words.rounds, COUNTS)
    for name in names:
        before = os.getloadavg()[0]
        if name == "ranks":
            lines = ranks_section(10_000 if words.quick else NUMBER)
        else:
            lines = model_section(name, rounds, counts)
        day = date.today().isoformat()
        lines += [f"Measured on {day}; {before:.1f} processes waited or were at work before.", ""]
        if words.quick:
            print("\n".join(lines))
        else:
            write_page(lines)


if __name__ == "__main__":
    main()
