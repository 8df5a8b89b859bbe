"""A labelling round in a real browser on labelled sets: three experts by keyboard, then labels, then truth.

    python bench/browser_round.py ARCHIVE [--answers 3] [--errors 0.1] [--screenshots FOLDER]

ARCHIVE was built from what `labelled_source.py` makes, embedded and clustered. The experts know the truth (a
cluster's most frequent set) and err at a rate; one of them marks no outliers. Prints how many images got the
concept of their own set, the agreement and the pace. Needs Chromium and Playwright.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
from playwright.sync_api import Page, sync_playwright

from biomedica.archive import Archive
from biomedica.cluster import read_assignment
from biomedica.features import figures_path

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
ANSWERS = {
    "blood smears": ("2", "cytology smear"),
    "lung tissue": ("2", "eosin"),
    "white cells": ("2", "cytology smear"),
    "chest films": ("1", "chest radiograph"),
    "pathway diagrams": ("5", "signaling pathway"),
}
CONCEPTS = {
    "blood smears": "microscopy",
    "lung tissue": "microscopy",
    "white cells": "microscopy",
    "chest films": "clinical-imaging",
    "pathway diagrams": "illustrative-diagrams",
}
EXPERTS = ("Ada", "Ben", "Cy")


def sets_of(archive: Archive) -> dict[str, str]:
    """The set of each key."""
    found = {}
    for shard, _ in read_assignment(archive, "default"):
        table = pq.read_table(figures_path(archive, shard), columns=["key", "subjects"])
        found |= {row["key"]: row["subjects"][0] for row in table.to_pylist()}
    return found


def truth_of(archive: Archive, sets: dict[str, str]) -> dict[int, str]:
    """The most frequent set of each cluster."""
    counts: dict[int, Counter[str]] = {}
    for _, table in read_assignment(archive, "default"):
        for row in table.to_pylist():
            counts.setdefault(row["cluster"], Counter())[sets[row["key"]]] += 1
    return {number: each.most_common(1)[0][0] for number, each in counts.items()}


def keys_for(modality: str) -> list[str]:
    """What an expert types for it: panel type, global concept, a local one by the filter, save."""
    number, words = ANSWERS[modality]
    return ["1", number, "Enter", "/", *words, "ArrowDown", "Enter", "Escape", "Enter"]


def label(page: Page, truth: dict[int, str], errors: float, source: random.Random) -> int:
    """Answer clusters until none is left; how many."""
    done = 0
    while page.locator("#end").is_hidden():
        number = int((page.text_content("#title") or "").split()[1])
        wrong = source.random() < errors
        modality = source.choice(sorted(ANSWERS)) if wrong else truth[number]
        for key in keys_for(modality):
            page.keyboard.press("Space" if key == " " else key)
        page.wait_for_function(
            "before => document.querySelector('#title').textContent.split(' ')[1] !== before "
            "|| !document.querySelector('#end').hidden",
            arg=str(number),
        )
        done += 1
    return done


def accuracy(archive: Archive, sets: dict[str, str]) -> dict[str, float]:
    """Share of labelled images that have their set's concept, and of all images that are labelled."""
    rows = pq.read_table(archive.root / "labels" / "default.parquet").to_pylist()
    labelled = [row for row in rows if row["status"] == "labelled"]
    right = sum(CONCEPTS[sets[row["key"]]] in row["global_concepts"] for row in labelled)
    return {
        "images": len(rows),
        "labelled": len(labelled),
        "right": round(right / max(1, len(labelled)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--answers", type=int, default=3)
    parser.add_argument("--errors", type=float, default=0.1)
    parser.add_argument("--screenshots", type=Path)
    words = parser.parse_args()
    archive = Archive(words.archive)
    sets = sets_of(archive)
    truth = truth_of(archive, sets)
    program = [sys.executable, "-m", "biomedica"]
    experts = [word for name in EXPERTS for word in ("--expert", name)]
    options = ["--answers", str(words.answers), "--port", "0", "--json", *experts]
    server = subprocess.Popen(
        [*program, "label", str(words.archive), *options], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    lines = []
    while not lines or lines[-1].rstrip() != "]":
        lines.append(server.stdout.readline())
    links = {each["name"]: each["url"] for each in json.loads("".join(lines))}
    started, done = time.monotonic(), {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for number, name in enumerate(EXPERTS):
            page = browser.new_context(viewport={"width": 1366, "height": 768}).new_page()
            page.goto(links[name])
            page.wait_for_selector(".tile, #end:not([hidden])")
            done[name] = label(page, truth, words.errors, random.Random(number))
        if words.screenshots:
            words.screenshots.mkdir(parents=True, exist_ok=True)
            page = browser.new_context(viewport={"width": 1366, "height": 900}).new_page()
            page.goto(links["Operator"])
            page.screenshot(path=words.screenshots / "dashboard.png", full_page=True)
        browser.close()
    server.terminate()
    server.wait()
    made = subprocess.run(
        [*program, "labels", "make", str(words.archive), "--json", "--quiet"],
        check=True,
        capture_output=True,
        text=True,
    )
    questions = json.loads(made.stdout)["agreement"]["questions"]
    found = {
        "answered": done,
        "seconds": round(time.monotonic() - started, 1),
        **accuracy(archive, sets),
        "alpha": {each["question"]: each["alpha"]["value"] for each in questions},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
