"""The label pages in a browser: by keyboard alone, closed and opened again, without a fault for axe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from biomedica.annotate import make_labels
from biomedica.archive import Archive
from biomedica.cluster import read_clusters
from biomedica.label import LabelSettings
from biomedica.taxonomy import load_taxonomy
from biomedica.votes import VoteStore
from label_archive import Server, clustered_archive

CHROMIUM = "/usr/bin/chromium"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"no Chromium: {CHROMIUM} is not there"),
]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BAR_PLOT = ["1", "4", "Enter", "1", "Enter"]
LINE_PLOT = ["1", "4", "Enter", "2", "Enter"]
MAPS = ["1", "9", "Enter", "Enter"]
DIAGRAM = ["1", "5", "Enter", "Enter"]
IMAGES_AND_PLOTS = ["2", "2", "2", "4", "Enter", "Enter"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return clustered_archive(tmp_path, num_articles=20, clusters=6)


@pytest.fixture
def server(archive: Archive) -> Iterator[Server]:
    opened = Server(archive.root, ["Ada", "Ben", "Cy"])
    yield opened
    opened.stop()


@pytest.fixture
def faults() -> Iterator[list[str]]:
    """What the pages complained about or asked from elsewhere; must stay empty."""
    found: list[str] = []
    yield found
    assert found == []


def open_page(
    browser: Browser,
    server: Server,
    name: str,
    faults: list[str],
    size: tuple[int, int] = (1366, 768),
) -> Page:
    """A window of somebody's own, led in by the personal link."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]})
    page = context.new_page()
    page.set_default_timeout(10_000)

    def on_console(message: Any) -> None:
        if message.type == "error":
            faults.append(message.text)

    def on_request(request: Any) -> None:
        if not request.url.startswith(server.address):
            faults.append(f"asked for {request.url}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", on_request)
    page.goto(server.links[name])
    page.wait_for_selector(".tile, #end:not([hidden]), .sheet")
    return page


def cluster_of(page: Page) -> int:
    """The cluster on the page."""
    return int((page.text_content("#title") or "").split()[1])


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def answer(page: Page, *keys: str) -> int:
    """Answer the cluster on the page by these keys, and wait for the next one; its number."""
    before = cluster_of(page)
    press(page, *keys)
    page.wait_for_function(
        "before => document.querySelector('#title').textContent.split(' ')[1] !== before",
        arg=str(before),
    )
    return before


def check_with_axe(page: Page, what: str) -> None:
    """No violation of WCAG A and AA, in light and dark."""
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
    page.wait_for_timeout(250)  # transitions
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
        results = Axe().run(page, options=options)
        assert results.violations_count == 0, f"{what}, {scheme}: {results.generate_report()}"


def votes_of(archive: Archive) -> VoteStore:
    return VoteStore.open(archive.root / "votes" / "default.sqlite")


def test_one_cluster_by_keyboard(
    browser: Browser, server: Server, archive: Archive, faults: list[str]
) -> None:
    """Outliers, filter, implied concepts, going back, help: all of it lands in the vote."""
    page = open_page(browser, server, "Ada", faults)
    cluster = cluster_of(page)
    press(page, "ArrowRight", "ArrowRight", "o")
    assert page.locator(".tile.outlier").count() == 1
    press(page, "ArrowRight", "ArrowRight", "O")
    assert page.locator(".tile.outlier").count() == 3
    press(page, "o")
    assert page.locator(".tile.outlier").count() == 2
    press(page, "z")
    expect(page.locator("#lightbox")).to_be_visible()
    expect(page.locator("#lightbox-caption")).to_contain_text("Panel fig")
    assert (page.get_attribute("#lightbox-link", "href") or "").startswith(
        "https://pmc.ncbi.nlm.nih.gov/articles/PMC"
    )
    press(page, "ArrowLeft", "Escape")
    press(page, "?")
    expect(page.locator("#help")).to_be_visible()
    press(page, "Escape", "2")
    expect(page.locator(".question.current .asks")).to_have_text("Panel subtype")
    press(page, "Backspace", "1")
    expect(page.locator(".question.current .asks")).to_have_text("Global concepts")
    press(page, "/", *"ultras", "ArrowDown", "Enter")
    chosen = page.locator(".question[data-question=local_concepts]")
    expect(chosen.locator(".option:has(input:checked)")).to_have_count(1)
    press(page, "Escape", "Backspace")
    expect(page.locator(".question[data-question=local_concepts] .given")).not_to_be_empty()
    expect(page.locator(".question.current input:checked")).to_have_value("clinical-imaging")
    answer(page, "Enter", "Enter")
    with votes_of(archive) as store:
        (vote,) = store.current_votes()
        assert store.progress(2, {cluster: 1}).num_done == 1
    assert vote.cluster == cluster
    assert vote.answer.panel_type == "single"
    assert vote.answer.global_concepts == ("clinical-imaging",)
    assert "ultra" in vote.answer.local_concepts[0]
    assert len(vote.outliers) == 2
    assert set(vote.outliers) < set(vote.shown)
    assert 0 < vote.seconds < 60
    press(page, "Enter", "Enter", "Enter", "Enter")  # nothing is chosen: nothing is saved
    expect(page.locator("#problems")).to_contain_text("Choose a panel type")
    with votes_of(archive) as store:
        assert len(store.events()) == 1


def test_undo_skip_ambiguous_split(
    browser: Browser, server: Server, archive: Archive, faults: list[str]
) -> None:
    """Each by its key; a split puts the parts into the round."""
    page = open_page(browser, server, "Ada", faults)
    first = answer(page, *BAR_PLOT)
    assert answer(page, "u") != first
    assert cluster_of(page) == first
    expect(page.locator(".question[data-question=local_concepts] .given")).to_have_text("Bar plot")
    answer(page, "Enter", "Enter", "Enter")
    skipped = answer(page, "s")
    ambiguous = answer(page, "a")
    mixed = cluster_of(page)
    press(page, "m")
    expect(page.locator("#split")).to_be_visible()
    press(page, "Escape")
    assert cluster_of(page) == mixed
    answer(page, "m", "2")
    expect(page.locator("#status")).to_contain_text(f"Cluster {mixed} is now 2 clusters")
    rest = []
    while page.locator("#end").is_hidden():
        rest.append(cluster_of(page))
        if page.locator("#pace").text_content() == f"{len(rest) + 2} done, 1 left":
            break
        press(page, *MAPS)
        page.wait_for_function(
            "n => parseInt(document.querySelector('#pace').textContent) > n", arg=len(rest) + 2
        )
    assert rest[-1] == skipped
    expect(page.locator("#end-title")).to_have_text("That is all. Thank you.")
    assert {6, 7} < set(rest)
    check_with_axe(page, "end")
    with votes_of(archive) as store:
        verdicts = {vote.cluster: vote.verdict for vote in store.current_votes()}
    assert verdicts[ambiguous] == "ambiguous"
    assert verdicts[mixed] == "mixed"
    assert Counter(verdicts.values()) == {"answered": 6, "ambiguous": 1, "mixed": 1}


def test_close_and_resume(
    browser: Browser, server: Server, archive: Archive, faults: list[str]
) -> None:
    """What was begun is there when the page comes back; a vote that met a dead server is sent later."""
    page = open_page(browser, server, "Ada", faults)
    cluster = cluster_of(page)
    press(page, "1", "4", "ArrowRight", "o")
    context = page.context
    page.close()
    page = context.new_page()
    page.goto(f"{server.address}/label")
    page.wait_for_selector(".tile")
    assert cluster_of(page) == cluster
    expect(page.locator("#status")).to_have_text("What you had begun is back.")
    expect(page.locator(".question.current .asks")).to_have_text("Global concepts")
    assert page.locator(".tile.outlier").count() == 1
    server.kill()
    press(page, "Enter", "1", "Enter")
    expect(page.locator("#status")).to_contain_text("The server doesn’t answer")
    page.close()
    server.start()
    page = context.new_page()
    page.goto(f"{server.address}/label")
    page.wait_for_selector(".tile")
    assert cluster_of(page) != cluster
    with votes_of(archive) as store:
        (vote,) = store.current_votes()
    assert vote.cluster == cluster
    assert vote.answer.local_concepts == ("bar-plot",)
    server.kill()
    second = cluster_of(page)
    press(page, *MAPS)
    expect(page.locator("#status")).to_contain_text("The server doesn’t answer")
    server.start()
    page.wait_for_function(
        "before => document.querySelector('#title').textContent.split(' ')[1] !== before",
        arg=str(second),
    )
    with votes_of(archive) as store:
        assert len(store.events()) == len(store.current_votes()) == 2


def test_answers_that_the_server_refuses(browser: Browser, server: Server) -> None:
    """A server that says why it can't is not asked for ever; what a lost cookie held up is sent later."""
    page = open_page(browser, server, "Ada", [])
    cluster = cluster_of(page)
    damaged = {"status": 503, "json": {"problems": ["features are damaged"]}}
    page.route("**/api/vote", lambda route: route.fulfill(**damaged))
    press(page, *BAR_PLOT, "Enter")
    expect(page.locator("#problems")).to_have_text("Features are damaged.")
    page.unroute("**/api/vote")
    cookies = page.context.cookies()
    page.context.clear_cookies()
    press(page, "Enter")
    expect(page.locator("#status")).to_contain_text("Open your personal link again")
    page.context.add_cookies([dict(each) for each in cookies])  # type: ignore[misc]
    page.reload()
    page.wait_for_selector(".tile")
    assert cluster_of(page) != cluster
    page.context.close()


def test_links_from_elsewhere(browser: Browser, server: Server, faults: list[str]) -> None:
    """A link in somebody's mail leads in, though the cookie is a strict one; other sites can't use it."""
    context = browser.new_context()
    page = context.new_page()
    page.route(
        "http://mail.example/*",
        lambda route: route.fulfill(
            content_type="text/html", body=f"<a href='{server.links['Ada']}'>your link</a>"
        ),
    )
    page.goto("http://mail.example/inbox")
    page.click("a")
    page.wait_for_selector(".tile")
    assert page.url == f"{server.address}/label"
    page.goto("http://mail.example/inbox")
    sent = page.evaluate(
        "address => fetch(address + '/api/skip', {method: 'POST', body: '{}', mode: 'no-cors', "
        "credentials: 'include'}).then(() => 'sent', () => 'refused')",
        server.address,
    )
    assert sent in ("sent", "refused")
    assert faults == []


def test_touch_and_tablet(
    browser: Browser, server: Server, archive: Archive, faults: list[str]
) -> None:
    """On a tablet, taps alone answer a cluster, and nothing runs out of the window."""
    context = browser.new_context(viewport={"width": 1024, "height": 768}, has_touch=True)
    page = context.new_page()
    page.goto(server.links["Ben"])
    page.wait_for_selector(".tile")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 1024
    assert page.evaluate("document.documentElement.scrollHeight") <= 768
    page.locator(".tile .picture").nth(1).tap()
    assert page.locator(".tile.outlier").count() == 1
    page.locator(".tile .zoom").nth(2).tap()
    expect(page.locator("#lightbox")).to_be_visible()
    page.locator("#lightbox-close").tap()
    before = cluster_of(page)
    page.locator(".option", has_text="Single panel").tap()
    page.locator(".option", has_text="Microscopy").tap()
    page.locator("#go").tap()
    page.locator(".option", has_text="Electron microscopy").tap()
    page.locator("#go").tap()
    page.wait_for_function(
        "before => document.querySelector('#title').textContent.split(' ')[1] !== before",
        arg=str(before),
    )
    with votes_of(archive) as store:
        (vote,) = store.current_votes()
    assert vote.answer.local_concepts == ("electron-microscopy",)
    for size in ((820, 1180), (600, 900), (400, 860)):
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        box = page.locator("#go").bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= size[0]
    context.close()


def test_no_fault_for_axe(browser: Browser, server: Server, faults: list[str]) -> None:
    """Every state of the label page, and the pages before it."""
    page = open_page(browser, server, "Cy", faults)
    for number, keys in enumerate((["ArrowRight", "o"], ["2"], ["2"], ["2", "4", "Enter"], ["1"])):
        press(page, *keys)
        check_with_axe(page, f"question {number}")
    press(page, "/", *"micro")
    check_with_axe(page, "filter")
    press(page, "Escape", "z")
    check_with_axe(page, "enlarged")
    press(page, "Escape", "?")
    check_with_axe(page, "help")
    press(page, "Escape", "m")
    check_with_axe(page, "split")
    page.context.clear_cookies()
    for path in ("/", "/label"):
        page.goto(server.address + path)
        check_with_axe(page, path)
    faults[:] = [each for each in faults if "403" not in each]


def said_by(expert: int, cluster: int) -> list[str]:
    """What each of three experts answers: mostly the same, sometimes one differs, sometimes all do."""
    recipes = [BAR_PLOT, LINE_PLOT, MAPS, IMAGES_AND_PLOTS]
    if cluster == 3:
        return ["a"]
    if cluster % 5 == 0:
        return [BAR_PLOT, MAPS, DIAGRAM][expert]
    if cluster % 4 == 1 and expert == 2:
        return recipes[(cluster + 1) % 4]
    return recipes[cluster % 4]


def test_a_whole_round(browser: Browser, tmp_path: Path, faults: list[str]) -> None:
    """Three experts answer twenty clusters each by keyboard, one goes away and comes back, one splits a
    cluster; the figures on the dashboard are those of statsmodels and scikit-learn; ties are settled,
    labels reach the images, and an audit checks them."""
    archive = clustered_archive(tmp_path, num_articles=50, clusters=19)
    server = Server(archive.root, ["Ada", "Ben", "Cy"])
    try:
        label_everything(browser, server, faults)
        with votes_of(archive) as store:
            counts = Counter(vote.expert for vote in store.current_votes())
        retired = [each.id for each in read_clusters(archive, "default") if each.children]
        assert len(retired) == 1
        assert counts == {
            2: 21,
            3: 20,
            4: 20,
        }  # Ada's word on the cluster that she split is one more
        operator = open_page(browser, server, "Operator", faults)
        compare_figures(operator, archive, retired[0])
        check_with_axe(operator, "dashboard")
        operator.goto(f"{server.address}/clusters")
        check_with_axe(operator, "clusters")
        operator.go_back()
        num_ties = settle_ties(operator)
        assert num_ties >= 3
        check_labels(archive, num_ties)
        audit_some(browser, server, archive, faults)
    finally:
        server.stop()


def label_everything(browser: Browser, server: Server, faults: list[str]) -> None:
    pages = [open_page(browser, server, name, faults) for name in ("Ada", "Ben", "Cy")]
    answer(pages[0], "m", "2")
    for turn in range(20):
        for expert in range(3):
            keys = said_by(expert, cluster_of(pages[expert]))
            if (turn, expert) == (7, 1):  # Ben goes away in the middle of an answer
                press(pages[expert], *keys[:2])
                pages[expert] = closed_and_opened(pages[expert], server)
                keys = keys[2:]
            press(pages[expert], *keys)
            pages[expert].wait_for_function(
                "n => parseInt(document.querySelector('#pace').textContent) >= n",
                arg=turn + (2 if expert == 0 else 1),
            )
    for page in pages:
        expect(page.locator("#end-title")).to_have_text("That is all. Thank you.")
        page.context.close()


def closed_and_opened(page: Page, server: Server) -> Page:
    page.close()
    again = page.context.new_page()
    again.goto(f"{server.address}/label")
    again.wait_for_selector(".tile")
    return again


def compare_figures(page: Page, archive: Archive, retired: int) -> None:
    """Fleiss by statsmodels and Cohen by scikit-learn, from the votes as they stand in the file."""
    with votes_of(archive) as store:
        votes = [each for each in store.current_votes() if each.cluster != retired]
    taxonomy = load_taxonomy()
    clusters = sorted({vote.cluster for vote in votes})
    said = {(vote.cluster, vote.expert): vote for vote in votes}
    for question in ("verdict", "panel_type", "panel_subtype", "global_concepts"):
        rows = []
        for cluster in clusters:
            three = [said[cluster, expert] for expert in (2, 3, 4)]
            if question == "verdict":
                rows.append([vote.verdict for vote in three])
            elif three[0].verdict == "answered":
                answers = [taxonomy.complete(vote.answer) for vote in three]
                rows.append([str(getattr(each, question)) for each in answers])
        values = sorted({value for row in rows for value in row})
        codes = np.array([[values.index(value) for value in row] for row in rows])
        row_of_page = page.locator(f"tr[data-question={question}]").first
        shown = row_of_page.locator("[data-measure=fleiss]").get_attribute("data-value")
        assert float(shown or "nan") == pytest.approx(fleiss_kappa(aggregate_raters(codes)[0]))
        if question == "global_concepts":
            continue  # weighted by MASI distance
        for a, b in ((0, 1), (0, 2), (1, 2)):
            cell = page.locator(f"tr[data-pair='{a + 2}-{b + 2}'] [data-question={question}]")
            kappa = float(cell.get_attribute("data-value") or "nan")
            assert kappa == pytest.approx(cohen_kappa_score(codes[:, a], codes[:, b]))


def settle_ties(page: Page) -> int:
    """Settle every tie by keyboard, with a reason; how many there were."""
    page.locator("#settle tbody a").first.click()
    settled = 0
    while "/adjudicate/" in page.url:
        page.wait_for_selector(".tile")
        page.wait_for_selector(".question.current .option, .question.current .find")
        if not settled:
            check_with_axe(page, "adjudicate")
        page.locator(".question[data-question=panel_type] .head").click()
        press(page, "1")
        for box in page.locator(".question.current input:checked").all():
            box.uncheck()
        press(page, "9", "Enter", "Enter")
        expect(page.locator("#reason")).to_be_focused()
        page.keyboard.type("Looks like a map to me")
        url = page.url
        press(page, "Control+Enter")
        page.wait_for_function("url => location.href !== url", arg=url)
        settled += 1
    page.wait_for_selector(".sheet")
    expect(page.locator("#settle .none")).to_have_text("Nothing waits for a decision.")
    return settled


def check_labels(archive: Archive, num_ties: int) -> None:
    """Every image has the label of its cluster."""
    done = make_labels(archive, "default", LabelSettings())
    assert done.propagated.num_adjudicated == num_ties
    assert done.propagated.by_status["undecided"] == done.propagated.by_status["unlabelled"] == 0
    rows = pq.read_table(archive.root / "labels" / "default.parquet").to_pylist()
    assert len(rows) == 100
    assert {row["status"] for row in rows} == {"labelled", "ambiguous"}
    settled = [row for row in rows if row["is_adjudicated"]]
    assert settled
    assert all(row["global_concepts"] == ["maps"] for row in settled)


def audit_some(browser: Browser, server: Server, archive: Archive, faults: list[str]) -> None:
    """y, n and ? answer, u takes back."""
    page = open_page(browser, server, "Ada", faults)
    page.goto(f"{server.address}/audit/default")
    page.wait_for_selector("#main:not([hidden])")
    check_with_axe(page, "audit")
    for number, key in enumerate(("y", "n", "?", "u", "y"), start=1):
        done = number if number < 4 else number - 2
        press(page, key)
        page.wait_for_function(
            "n => document.querySelector('#pace').textContent.startsWith(`${n} of`)", arg=done
        )
    with votes_of(archive) as store:
        assert [each.answer for each in store.audits("default")] == ["yes", "no", "yes"]
        assert [each.answer for each in store.all_audits()] == [
            "yes",
            "no",
            "unsure",
            "undo",
            "yes",
        ]
