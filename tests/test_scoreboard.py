"""The page of scores: its numbers are the results', its letters the tests', and nothing on it comes from elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from biomedica.cli import app
from biomedica.errors import ConfigError, DataMissingError, EvaluationError
from biomedica.evaluate.items import Items
from biomedica.evaluate.metrics import ece
from biomedica.evaluate.published_scores import PublishedScore
from biomedica.evaluate.results import read_items, read_result, read_results
from biomedica.evaluate.standings import boards_of
from biomedica.scoreboard import write_scores_page
from biomedica.scoreboard.answers import calibration_of, matrix_of, recall_curves, recalls_of
from biomedica.scoreboard.marks import marks_of
from biomedica.scoreboard.mistakes import Thumbnails
from score_runs import (
    Asked,
    pictures_of,
    write_classes,
    write_failure,
    write_labels,
    write_retrieval,
)
from test_report import Reader

HOSTILE = "</p><script>alert(1)</script> & \"quoted\" 'text' <img src=x onerror=alert(2)>"
TAGS = (
    "section",
    "div",
    "table",
    "tbody",
    "tr",
    "td",
    "th",
    "ul",
    "li",
    "dl",
    "dd",
    "p",
    "span",
    "svg",
    "g",
)
CELLS = Asked()
LUNGS = Asked(
    name="rsna",
    title="Pneumonia",
    specialty="radiology",
    classes=("no pneumonia", "pneumonia"),
    num_items=150,
    items_a_group=3,
    group="patient",
    seed=1,
)
TISSUE = Asked(name="tissue", title="Tissue", kind="options", num_items=120, seed=2)
FINDINGS = Asked(name="chest", title="Findings", specialty="radiology", num_items=100, seed=3)
FLICKR = Asked(name="flickr", title="Flickr", num_items=90, seed=4)
MODELS = {"large": 2.2, "small": 1.4, "twin": 1.4}
THEIRS = PublishedScore(
    model="Their model",
    task="rsna",
    dataset="RSNA",
    metric="accuracy",
    value=0.7123,
    protocol="zero_shot",
    source="A paper, table 2",
    how="paper",
    note="Another split.",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models on five tasks; `twin` lacks one."""
    run = tmp_path_factory.mktemp("scores [1]") / "run"
    for model, skill in MODELS.items():
        for asked in (CELLS, LUNGS, TISSUE):
            if (model, asked) != ("twin", CELLS):
                write_classes(run, model, asked, skill)
        write_classes(run, model, LUNGS, skill + 1, "linear_probe")
        write_labels(run, model, FINDINGS, skill)
        write_retrieval(run, model, FLICKR, 3 * skill)
    write_failure(run, "twin", "cells", "zero_shot", f"its picture does not decode {HOSTILE}")
    return run


def pictures(task: str, split: str) -> Items | None:
    if task == "tissue":
        raise DataMissingError("tissue.parquet is not there; ask its authors")
    return None if task == "cells" else pictures_of(LUNGS)


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    path = run.parent / "scores.html"
    return write_scores_page(
        [run], path, published=[THEIRS, replace(THEIRS, task=None)], pictures=pictures
    ).read_text()


def test_the_page_needs_nothing_else(page: str) -> None:
    reader = Reader(page)
    assert [e for e in reader.references if not e.startswith(("#", "data:image/jpeg;"))] == []
    assert (
        "url(" not in page
        and "@import" not in page
        and "http" not in page.replace("http-equiv", "")
    )
    assert reader.tags["script"] == reader.tags["link"] == 0
    assert reader.tags["img"] > 5 and reader.images_without_text == 0


def test_links_lead_to_something_and_names_stand_once(page: str) -> None:
    names = re.findall(r' id="([^"]+)"', page)
    assert len(names) == len(set(names))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(names)


def test_every_element_is_closed(page: str) -> None:
    for tag in TAGS:
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>"), tag


def test_the_same_input_gives_the_same_bytes(run: Path, tmp_path: Path, page: str) -> None:
    arguments = {"published": [THEIRS, replace(THEIRS, task=None)], "pictures": pictures}
    again = write_scores_page([run], tmp_path / "again.html", **arguments)  # type: ignore[arg-type]
    assert again.read_text() == page


def test_scores_of_results_stand_on_it(run: Path, page: str) -> None:
    text = Reader(page).text
    for _, result in read_results([run]):
        score = result.score
        assert f"{100 * score.value:.1f}" in text
        assert f"({100 * (score.low or 0):.1f}–{100 * (score.high or 0):.1f})" in text
        assert result.encoder["digest"][:12] in text and result.title in text


def test_means_are_over_shared_tasks_and_the_page_says_so(run: Path, page: str) -> None:
    board = boards_of(read_results([run]))[0]
    assert board.protocol == "zero_shot"
    assert board.columns[0].tasks == ("chest", "rsna", "tissue")
    assert [(each.task, each.why) for each in board.left_out] == [("cells", "not scored: twin")]
    text = Reader(page).text
    assert "Means are over the 3 tasks that all models of this table were scored on." in text
    assert "Cells of the blood : not scored: twin" in text
    assert "twin could not be scored" in text


def test_best_is_marked_only_where_it_can_be_told_apart(tmp_path: Path) -> None:
    for model, skill in {"good": 2.5, "bad": 0.3}.items():
        write_classes(tmp_path / "apart", model, CELLS, skill)
    for model in ("one", "other"):
        write_classes(tmp_path / "alike", model, CELLS, 1.5)
    (apart,), (alike,) = (boards_of(read_results([tmp_path / name])) for name in ("apart", "alike"))
    assert apart.columns[0].best == "good"
    assert apart.task_letters == {"cells": {"good": "a", "bad": "b"}}
    assert alike.columns[0].best is None
    assert alike.task_letters == {"cells": {"one": "a", "other": "a"}}
    page = write_scores_page([tmp_path / "alike"], tmp_path / "page.html").read_text()
    assert "better than all others" not in page


def test_different_items_are_not_averaged(tmp_path: Path) -> None:
    write_classes(tmp_path, "one", CELLS, 1.5)
    write_classes(tmp_path, "other", replace(CELLS, num_items=90), 1.5)
    write_classes(tmp_path, "one", LUNGS, 1.5)
    write_classes(tmp_path, "other", LUNGS, 1.5)
    (board,) = boards_of(read_results([tmp_path]))
    assert board.columns[0].tasks == ("rsna",)
    assert "different items" in board.left_out[0].why
    text = Reader(write_scores_page([tmp_path], tmp_path / "page.html").read_text()).text
    assert "Tasks that changed between results: Cells of the blood" in text


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    asked = Asked(
        name="cells",
        title=f"title {HOSTILE}",
        specialty=f"specialty {HOSTILE}",
        classes=(f"first {HOSTILE}", "second"),
        num_items=60,
    )
    model = f"model {HOSTILE}"
    write_classes(tmp_path, model, asked, 0.6, details={"strength": HOSTILE})
    write_classes(tmp_path, "plain", asked, 0.6, "few_shot")
    write_failure(tmp_path, "gone", HOSTILE, HOSTILE, HOSTILE)
    theirs = replace(THEIRS, task="cells", model=HOSTILE, source=HOSTILE, note=HOSTILE)

    def source(task: str, split: str) -> Items | None:
        raise EvaluationError(HOSTILE)

    path = write_scores_page([tmp_path], tmp_path / "p.html", published=[theirs], pictures=source)
    page = path.read_text()
    reader = Reader(page)
    assert reader.tags["script"] == reader.tags["img"] == 0
    assert "onerror" not in re.sub(r"&lt;.*?&gt;", "", page)
    for words in (f"model {HOSTILE}", f"first {HOSTILE}", f"title {HOSTILE}"):
        assert words in unescape(page)


def test_mistakes_are_the_surest_and_have_their_pictures(run: Path, page: str) -> None:
    best = max(
        (each for each in read_results([run]) if each[1].task == "rsna"),
        key=lambda each: (each[1].protocol == "zero_shot", each[1].score.value),
    )
    rows = [row for row in read_items(best[0]).to_pylist() if not row["is_right"]]
    surest = max(rows, key=lambda row: row["confidence"])
    text = Reader(page).text
    said = (
        f"right {surest['answer']} said {surest['predicted_text']} sure {surest['confidence']:.1%}"
    )
    assert f"{said[:-1]} %" in text and surest["item"] in text
    assert f"{surest['group']} {surest['item']}" in text
    assert "The task’s data is not at hand" in text.replace("No picture: t", "T")
    assert "No picture: tissue.parquet is not there; ask its authors." in text


def test_pictures_are_matched_by_id(run: Path) -> None:
    result = read_result(run / "large" / "rsna.zero_shot.json")
    ids = list(reversed(LUNGS.ids))[:40]
    turned = pictures_of(LUNGS, ids)
    straight = pictures_of(LUNGS)
    found = Thumbnails(lambda task, split: turned).of(result, ids[3])
    assert found == Thumbnails(
        lambda task, split: replace(straight, read=lambda index: turned.read(3))
    ).of(result, ids[3])
    assert Thumbnails(lambda task, split: turned).of(result, LUNGS.ids[0]) == (
        None,
        "no picture: the data at hand does not hold this item",
    )


def test_failures_and_published_numbers_are_shown_apart(page: str) -> None:
    text = Reader(page).text
    assert "1 cell could not be scored." in text
    assert HOSTILE in unescape(page) and Reader(page).tags["script"] == 0
    assert "Their model Zero-shot, accuracy 71.2 A paper, table 2 (paper) Another split." in text
    assert page.count('href="#theirs" x=') == 1  # the one that answers the same question


def test_what_items_tell_is_what_results_state(run: Path) -> None:
    path = run / "large" / "rsna.zero_shot.json"
    result, items = read_result(path), read_items(path)
    bins = calibration_of(items)
    gap = sum(each.count * abs(each.right - each.mean) for each in bins) / result.num_items
    assert gap == pytest.approx(result.scores["ece"].value, abs=1e-6)
    right = items["is_right"].to_numpy(zero_copy_only=False)
    assert gap == pytest.approx(ece(items["confidence"].to_numpy(), right), abs=1e-6)
    recalls = recalls_of(items, result.classes)
    assert [each.name for each in recalls] == result.classes
    mean = sum(each.value for each in recalls) / len(recalls)
    assert mean == pytest.approx(result.scores["balanced_accuracy"].value)
    options = read_items(run / "large" / "tissue.zero_shot.json")
    matrix = matrix_of(read_result(run / "large" / "tissue.zero_shot.json"), options)
    assert matrix is not None and sum(map(sum, matrix.counts)) == TISSUE.num_items


def test_recall_curves_pass_through_the_recalls(run: Path) -> None:
    path = run / "small" / "flickr.retrieval.json"
    scores, curves = read_result(path).scores, recall_curves(read_items(path))
    assert set(curves) == {"image_to_text", "text_to_image"}
    for direction, curve in curves.items():
        for k in (1, 10):
            assert dict(curve)[k] == pytest.approx(scores[f"{direction}/{k}"].value)


def test_many_classes_are_shown_by_their_confusions(tmp_path: Path) -> None:
    asked = Asked(classes=tuple(f"class {n}" for n in range(25)), num_items=300)
    write_classes(tmp_path, "one", asked, 0.5)
    text = Reader(write_scores_page([tmp_path], tmp_path / "page.html").read_text()).text
    assert "Most frequent mistakes" in text and "Confusion matrix" not in text


def test_one_model_on_one_task(tmp_path: Path) -> None:
    write_classes(tmp_path, "alone", LUNGS, 1.5, details={"limit": 150})
    page = write_scores_page([tmp_path], tmp_path / "page.html", max_errors=0).read_text()
    text = Reader(page).text
    assert "Scores of 1 model on 1 benchmark task" in text
    assert "Only 150 items of a task were scored" in text
    assert "by patient in Pneumonia" in text
    assert "Everything that was asked for was scored." in text


def test_two_results_of_one_cell_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_classes(tmp_path / name, "same", LUNGS, 1.5)
    with pytest.raises(ConfigError, match=r"'same' has two results for task rsna by zero_shot"):
        write_scores_page([tmp_path / "a", tmp_path / "b"], tmp_path / "page.html")
    with pytest.raises(ConfigError, match="51 errors to show; 0 to 50"):
        write_scores_page([tmp_path / "a"], tmp_path / "page.html", max_errors=51)
    with pytest.raises(ConfigError, match="no results there"):
        write_scores_page([tmp_path / "nothing"], tmp_path / "page.html")


def test_marks_of_a_hundred_models_differ() -> None:
    found = marks_of([f"model {n}" for n in range(100)])
    assert len({(each.shape, each.colour) for each in found.values()}) == 100
    assert len({each.shape for each in list(found.values())[:10]}) == 10


@pytest.mark.slow
def test_ten_models_on_many_tasks_fit(tmp_path: Path) -> None:
    """Of one protocol, with as many pictures as the page takes."""
    asked = {f"t-{n}": Asked(name=f"t-{n}", num_items=24, seed=n) for n in range(20)}
    for model in range(10):
        for each in asked.values():
            write_classes(tmp_path, f"model-{model}", each, 0.5 + 0.1 * model)
    path = write_scores_page(
        [tmp_path], tmp_path / "page.html", pictures=lambda task, _: pictures_of(asked[task])
    )
    assert path.stat().st_size < 4_000_000
    assert b"data:image/jpeg" in path.read_bytes()


def test_the_command_writes_the_page(run: Path, tmp_path: Path) -> None:
    """Without `--to`, beside the results; twice the same."""
    app(
        ["eval", "report", str(run), "--to", str(tmp_path / "a.html")], result_action="return_value"
    )
    app(
        ["eval", "report", str(run), "--to", str(tmp_path / "b.html")], result_action="return_value"
    )
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
