"""What the fusion head learns where picture and question are both needed: writes docs/benchmarks-vqa.md.

    python bench/vqa.py [--quick]

Pictures of two coloured shapes, drawn here, and two questions of each. `--quick` is a trial that writes no page.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

from biomedica.evaluate.intervals import RESAMPLES
from biomedica.evaluate.items import Items
from biomedica.evaluate.results import Score
from biomedica.evaluate.settings import FusionSettings
from biomedica.evaluate.vqa import Found, learn_and_answer, scores
from run import ROOT, machine, row

sys.path.append(str(ROOT / "tests"))
from vqa_pictures import open_model, shapes

PAGE = ROOT / "docs" / "benchmarks-vqa.md"
RECIPE = FusionSettings(
    width=64,
    layers=2,
    heads=4,
    dropout=0.0,
    lr_head=1e-3,
    lr_fusion=1e-3,
    epochs=20,
    batch=16,
)
SHOWN = {
    "both": "picture and question",
    "image": "picture alone",
    "question": "question alone",
}
METRICS = ("accuracy", "accuracy_open", "accuracy_closed")
HEAD = """# The fusion head on made-up pictures

Written by `python bench/vqa.py`. Pictures of two coloured shapes; of each, the colour of a shape is asked (open: four
answers) and whether some colour is there (closed). Neither the picture nor the question gives an answer away by itself.
The towers are small, start at random and stand still: what is shown is that the head puts both together, on pictures
that it never saw, not how well a model knows medicine. A head that does not see the question may answer with a colour
where yes or no is asked.

- Machine: {machine}, {threads} threads; {day}
- {train} questions to learn from, {validation} to choose the epoch by, {test} to test; seed {seed}
- Recipe: {recipe}; 95 % intervals over pictures
"""


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    words.add_argument("--quick", action="store_true", help="a trial of two epochs; no page")
    quick = words.parse_args().quick
    recipe = replace(RECIPE, epochs=2) if quick else RECIPE
    splits = [shapes(name, n) for name, n in (("train", 1200), ("validation", 200), ("test", 500))]
    with tempfile.TemporaryDirectory() as folder:
        model = open_model(Path(folder))
    lines = [
        row("seen", "accuracy", "open", "closed", "best epoch", "CPU seconds"),
        row(*["---"] * 6),
    ]
    for use in SHOWN:
        started = time.process_time()
        print(SHOWN[use])
        found = learn_and_answer(model, *splits, replace(recipe, use=use), print)  # type: ignore[arg-type]
        seconds = round(time.process_time() - started)
        lines.append(
            row(SHOWN[use], *shown(splits[2], found), found.details["best_epoch"], seconds)
        )
    guessed = found.details["most_frequent_answer"]
    values = [f"{100 * guessed[name]:.1f}" for name in METRICS]
    lines.append(row("most frequent answer of open and of closed questions", *values, "", ""))
    text = "\n".join([head(recipe, [len(each) for each in splits]), *lines, ""])
    print(text)
    if not quick:
        PAGE.write_text(text)


def shown(items: Items, found: Found) -> list[str]:
    """Each metric in percent, with its interval."""
    values = scores(items, found, resamples=RESAMPLES, seed=0)
    return [percent(values[name]) for name in METRICS]


def percent(score: Score) -> str:
    """With its interval."""
    assert score.low is not None and score.high is not None
    return f"{100 * score.value:.1f} ({100 * score.low:.1f} to {100 * score.high:.1f})"


def head(recipe: FusionSettings, counts: list[int]) -> str:
    """What stands above the table."""
    import torch

    usual = asdict(FusionSettings())
    changed = [
        f"`{k} = {v!r}`" for k, v in asdict(recipe).items() if v != usual[k] or k == "epochs"
    ]
    return HEAD.format(
        machine=machine(),
        threads=torch.get_num_threads(),
        day=date.today().isoformat(),
        train=counts[0],
        validation=counts[1],
        test=counts[2],
        seed=recipe.seed,
        recipe=", ".join(changed),
    )


if __name__ == "__main__":
    main()
