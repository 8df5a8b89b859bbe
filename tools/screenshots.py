"""Make the pictures of docs/label.md: a labelling round on the sample articles, whose figures are ours.

python tools/screenshots.py [FOLDER]      writes docs/screenshots/*.png; FOLDER keeps the archive
"""

from __future__ import annotations

import io
import sys
import tempfile
import threading
import uuid
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from biomedica.annotate import make_labels
from biomedica.archive import Archive
from biomedica.cluster import ClusterSettings, cluster
from biomedica.config import load_settings
from biomedica.explore import LabelPageSettings
from biomedica.explore.app import LabelServer, open_server
from biomedica.features import ShardFeatures, create_set, figures_digest, figures_path
from biomedica.label import LabelSettings
from biomedica.records import Answer
from biomedica.tour import take_tour
from biomedica.votes import Event, answer_to_json

TARGET = Path(__file__).parents[1] / "docs" / "screenshots"
CHROMIUM = "/usr/bin/chromium"
ROUND = "round-1"
EXPERTS = ["Dr Ada Moreau", "Dr Ben Okafor", "Dr Cy Lindqvist"]


def make_archive(folder: Path) -> Archive:
    """The tour's archive, which has clusters."""
    take_tour(folder, load_settings(None, []), lambda progress: None, lambda line: None)
    return Archive(folder / "archive")


GROUPS = {
    "plots": """01-1-qon-24-e24001-g003 03-1-mi-103-g004 04-1-mi-77-g002 05-1-1999-1234-10-44-3
        07-1-fag-14-88-g2 07-1-fag-14-88-g4 07-1-fag-14-88-g3 11-1-gr2 15-2-mi-41-g002
        21-1-lcb-28-61-g004 23-1-ain-19-6_Fig2_HTML 25-1-aim-41-220-g002 25-1-aim-41-220-g003
        25-1-aim-41-220-g004 08-1-0366-afs-33-e33-gf1 08-1-0366-afs-33-e33-gf2 24-1-1745-fag-1-12-2
        24-1-1745-fag-1-12-4 09-1-acta-00009-fig1 08-1-0366-afs-33-e33-gt1""",
    "plots with panels": """02-1-lcb-30-15_Fig2_HTML 07-1-fag-14-88-g1 09-1-acta-00009-fig2
        12-1-quon_0012345_g002 24-1-1745-fag-1-12-3""",
    "micrographs": """01-1-qon-24-e24001-g002 02-1-lcb-30-15_Fig1_HTML 02-1-lcb-30-15_Fig3_HTML
        09-1-acta-00009-fig1-figsupp1 11-1-gr3 13-1-qon-24-e24044-g001 17-1-lcb-22-9-g001
        21-1-lcb-28-61-g001 21-1-lcb-28-61-g002 21-1-lcb-28-61-g003 21-1-lcb-28-61-g005
        21-1-lcb-28-61-g006 10-1-hcr-5-12-g003 22-1-qon-16-e16090-g01a 22-1-qon-16-e16090-g01b
        22-1-qon-16-e16090-g01c""",
    "scans": """03-1-mi-103-g001 03-1-mi-103-g002 03-1-mi-103-g003 04-1-mi-77-g001 04-1-mi-77-g003
        04-1-mi-77-g004 10-1-hcr-5-12-g001 10-1-hcr-5-12-g002 23-1-ain-19-6_Fig1_HTML
        23-1-ain-19-6_Fig4_HTML 21-1-lcb-28-61-g007 15-2-mi-41-g001 14-1-hcr-2-101-u001""",
    "diagrams": "01-1-qon-24-e24001-g001 11-1-gr1 25-1-aim-41-220-g001 23-1-ain-19-6_Fig3_HTML",
    "assays": "05-1-1999-1234-10-44-1 05-1-1999-1234-10-44-2 12-1-quon_0012345_g001 16-1-aim-42-18-g001",
    "structures": "11-1-sc1 11-1-fx1 24-1-1745-fag-1-12-1",
    "relations": "06-1-wps-4-e410-g001 06-1-wps-4-e410-g002 09-1-acta-00009-sa2-fig1",
}
"""Figures of the tour by what they show; keys without `PMC999000`."""


def _answer(panel: str, wide: str, *narrow: str) -> Answer:
    kind = "single" if panel == "single-panel" else "multiple"
    return Answer(
        panel_type=kind, panel_subtype=panel, global_concepts=(wide,), local_concepts=narrow
    )


ANSWERS = {
    "plots with panels": [_answer("multiple-plots", "plots-and-charts")] * 3,
    "scans": [
        _answer("single-panel", "clinical-imaging", "computerized-tomography"),
        _answer("single-panel", "clinical-imaging"),
        _answer("multiple-images", "clinical-imaging"),
    ],
    "diagrams": [
        _answer("single-panel", "illustrative-diagrams", "flow-diagram"),
        _answer("single-panel", "illustrative-diagrams", "flow-diagram"),
        _answer("single-panel", "illustrative-diagrams"),
    ],
    "assays": [
        _answer("single-panel", "assays", "immunoblot"),
        _answer("single-panel", "assays", "gel-electrophoresis"),
        _answer("single-panel", "assays", "gel-electrophoresis", "immunoblot"),
    ],
    "structures": [
        _answer("single-panel", "chemical-structures"),
        _answer("single-panel", "chemical-structures", "two-dimensional-chemical-structure"),
        _answer("single-panel", "chemical-structures", "two-dimensional-chemical-structure"),
    ],
    "relations": [
        _answer("single-panel", "plots-and-charts", "tree"),
        _answer("single-panel", "graphs-and-networks", "network"),
        _answer("single-panel", "illustrative-diagrams"),
    ],
}
"""What three experts say of the groups that they have seen."""


def group_of() -> dict[str, str]:
    """Group of each key."""
    return {f"PMC999000{key}": name for name, keys in GROUPS.items() for key in keys.split()}


def give_clusters(archive: Archive) -> None:
    """A cluster for each group: features chosen by hand, for the tour has too few figures for others."""
    groups, names = group_of(), list(GROUPS)
    info = {"kind": "image", "encoder": "by hand", "digest": "h" * 64, "dims": 16}
    features = create_set(archive, "by-hand", info)
    rng = np.random.default_rng(0)
    directions = np.eye(len(names), 16)
    directions[1] = 0.8 * directions[0] + 0.6 * directions[1]  # plots are near plots
    for shard, done in sorted(archive.done().items()):
        keys = pq.read_table(figures_path(archive, shard), columns=["key"])["key"].to_pylist()
        points = np.stack([directions[names.index(groups[key])] for key in keys])
        points += 0.06 * rng.normal(size=points.shape)
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        about = ShardFeatures(
            figures=figures_digest(done), encoder="h" * 64, rows=len(keys), bad=()
        )
        features.write(shard, points.astype(np.float16), about)
    cluster(archive, features, ClusterSettings(clusters=len(names), components=8), ROUND)


def give_votes(server: LabelServer) -> None:
    """A round that is nearly done: most agree, some differ, one cluster is tied."""
    desk = server.app.state.desk
    groups = group_of()
    people = [each.id for each in desk.store.experts() if each.role == "expert"]
    for number in desk.sizes():
        keys = sorted(desk.keys(number))
        for expert, answer in enumerate(ANSWERS.get(groups[keys[0]], [])):
            payload = {
                "verdict": "answered",
                "answer": answer_to_json(answer),
                "shown": keys,
                "outliers": keys[:1] if (expert, number % 3) == (0, 0) else [],
                "seconds": 24.0 + 3 * number + 5 * expert,
                "taxonomy": desk.taxonomy.version,
                "model": desk.model,
            }
            event = Event(
                event=str(uuid.uuid4()),
                expert=people[expert],
                cluster=number,
                kind="vote",
                payload=payload,
            )
            desk.store.record(event)


def save(page: Page, name: str) -> None:
    """A PNG of few colours: small files, the same look."""
    page.wait_for_timeout(700)
    with Image.open(io.BytesIO(page.screenshot())) as image:
        small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        path = TARGET / f"{name}.png"
        small.save(path, optimize=True)
    sys.stdout.write(f"{path} {path.stat().st_size // 1024} kB\n")


def open_page(
    browser: Browser, server: LabelServer, who: str, size: tuple[int, int], scheme: str = "light"
) -> Page:
    """Somebody's window."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,  # type: ignore[arg-type]
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(next(each.url for each in server.invitations() if each.expert.name == who))
    page.wait_for_selector(".tile, .sheet")
    return page


def shoot(browser: Browser, server: LabelServer, archive: Archive) -> None:
    """All pictures."""
    page = open_page(browser, server, EXPERTS[0], (1366, 768))
    page.locator(".tile:has(img[src$='33-gt1']) .picture").click()
    for key in ("1", "4"):
        page.keyboard.press(key)
    save(page, "label")
    page = open_page(browser, server, EXPERTS[1], (1024, 768), "dark")
    page.keyboard.press("z")
    save(page, "enlarged-dark")
    page = open_page(browser, server, "Operator", (1366, 768))
    save(page, "dashboard")
    page.evaluate("document.querySelector('#agreement').scrollIntoView()")
    save(page, "agreement")
    page.click("#settle tbody a")
    page.wait_for_selector(".question.current .option, .question.current .find")
    save(page, "adjudicate")
    make_labels(archive, ROUND, LabelSettings())
    page.goto(f"{server.address}/audit/{ROUND}")
    page.wait_for_selector("#main:not([hidden])")
    save(page, "audit")


def main(words: list[str]) -> None:
    """Make the archive, serve it, take the pictures."""
    TARGET.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(words[0]) if words else Path(temporary) / "tour"
        archive = make_archive(folder)
        give_clusters(archive)
        with open_server(archive, ROUND, LabelPageSettings(), experts=EXPERTS, port=0) as server:
            give_votes(server)
            threading.Thread(target=server.run, daemon=True).start()
            with sync_playwright() as playwright:
                arguments = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
                shoot(browser, server, archive)
                browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
