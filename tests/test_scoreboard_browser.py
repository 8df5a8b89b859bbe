"""The page of scores in a browser: no fault for axe, no request, no scrolling to the side on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from biomedica.scoreboard import write_scores_page
from score_runs import (
    Asked,
    pictures_of,
    write_classes,
    write_failure,
    write_labels,
    write_retrieval,
)

CHROMIUM = "/usr/bin/chromium"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"no Chromium: {CHROMIUM} is not there"),
]
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
WCAG = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
OPEN_ALL = "document.querySelectorAll('details').forEach(each => each.open = true)"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scores")
    cells = Asked(classes=tuple(f"rather long class {n}" for n in range(5)), num_items=90)
    for number in range(3):
        model = f"a-model-with-a-long-name-{number}"
        write_classes(folder / "run", model, cells, 0.5 * number)
        write_labels(folder / "run", model, Asked(name="chest", specialty="radiology"), 1.0)
        write_retrieval(folder / "run", model, Asked(name="flickr", num_items=80), 4.0)
    write_failure(folder / "run", "gone", "cells", "knn", f"/a/{'very-' * 40}long/path")
    source = {"cells": pictures_of(cells, side=64)}
    return write_scores_page(
        [folder / "run"], folder / "page.html", pictures=lambda task, split: source.get(task)
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


def opened(browser: Browser, path: Path, width: int, faults: list[str]) -> Page:
    page = browser.new_context(viewport={"width": width, "height": 800}).new_page()
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: faults.append(request.url))
    page.goto(path.as_uri())
    page.evaluate(OPEN_ALL)
    return page


@pytest.mark.parametrize("width", [1280, 360])
def test_no_fault_for_axe_and_nothing_sticks_out(browser: Browser, path: Path, width: int) -> None:
    faults: list[str] = []
    page = opened(browser, path, width, faults)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert [each for each in faults if not each.startswith(("data:", path.as_uri()))] == []
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        results = Axe().run(page, options=WCAG)
        assert results.violations_count == 0, f"{scheme}: {results.generate_report()}"


def test_closed_parts_are_printed(browser: Browser, path: Path) -> None:
    page = opened(browser, path, 800, [])
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = false)")
    closed = page.evaluate("document.documentElement.scrollHeight")
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollHeight") > 2 * closed
