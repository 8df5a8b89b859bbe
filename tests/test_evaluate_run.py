"""A grid of models and tasks: scored, kept, gone on with, and unharmed by what cannot be scored."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmark_data import COLOURS, medmnist, micro_bench, task_of
from biomedica.errors import ConfigError, EvaluationError
from biomedica.evaluate import run as running
from biomedica.evaluate.embeddings import Embeddings
from biomedica.evaluate.items import Items, open_picture
from biomedica.evaluate.published_scores import load_published, published_for
from biomedica.evaluate.results import Result, Score, read_items, read_results
from biomedica.evaluate.retrieval import retrieve
from biomedica.evaluate.run import Cell, Grid, failures, run_grid
from biomedica.evaluate.settings import EvaluateSettings
from biomedica.evaluate.standings import ALL, boards_of
from biomedica.evaluate.tasks import Prompts, Task, choose, load_tasks, parse_task
from biomedica.models import unit
from biomedica.preprocessing import Preprocessing
from biomedica.run.engines import open_engine

RGB = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (30, 50, 220)}


class ColourEncoder:
    """Reads the mean colour of a picture, and of a text which colour it names."""

    name = "colours"
    digest = "c" * 64
    dims = 3
    preprocessing = Preprocessing(size=8, fit="crop")
    text_digest = "t" * 64
    scale = 100.0
    calls = 0

    def images(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        ColourEncoder.calls += len(pixels_NHWC)
        return unit(pixels_NHWC.mean(axis=(1, 2)).astype(np.float32) + 1)

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = [next((RGB[name] for name in COLOURS if name in text), (1, 1, 1)) for text in texts]
        return unit(np.array(rows, np.float32))


def coloured(folder: Path, *, each: int = 8, broken: bool = False) -> Path:
    """A folder a class, of pictures in that colour with noise; the last one of two of three splits too."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in COLOURS:
            (folder / "set" / split / name).mkdir(parents=True)
            for number in range(each):
                noise = random.normal(0, 60, (10, 12, 3))
                pixels = np.clip(np.array(RGB[name]) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "set" / split / name / f"{number}.png")
    if broken:
        (folder / "set" / "test" / "red" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    return folder


def colour_task() -> Task:
    return task_of("folders", "set", splits={"train": "train", "test": "test"})


def grid_of(tmp_path: Path, tasks: Sequence[Task], **changes: Any) -> Grid:
    settings = EvaluateSettings(resamples=100, shots=(1, 4), shot_seeds=2, share_seeds=2)
    usual: dict[str, Any] = {
        "models": {"colours": "fake:colours"},
        "tasks": tuple(tasks),
        "protocols": (),
        "data": tmp_path,
        "run": tmp_path / "run",
        "cache": tmp_path / "cache",
        "settings": settings,
    }
    return Grid(**(usual | changes))


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """`fake:colours` is the encoder above; every other name is the program's own."""
    real = running.open_encoder
    monkeypatch.setattr(
        running,
        "open_encoder",
        lambda name, **rest: ColourEncoder() if name == "fake:colours" else real(name, **rest),
    )
    running._loaded.clear()
    ColourEncoder.calls = 0


def ran(grid: Grid) -> dict[tuple[str, str], Cell]:
    cells = list(run_grid(grid, open_engine("inline", None, None)))
    assert len(cells) == grid.size
    return {(each.task, each.protocol): each for each in cells}


def test_protocols_share_one_cache_and_nothing_is_scored_twice(tmp_path: Path) -> None:
    task = colour_task()
    grid = grid_of(coloured(tmp_path), [task])
    cells = ran(grid)
    assert {key[1]: cell.state for key, cell in cells.items()} == dict.fromkeys(
        ("zero_shot", "linear_probe", "knn", "few_shot"), "scored"
    )
    assert ColourEncoder.calls == 48  # 24 of each split, once
    results = {result.protocol: result for _, result in read_results([grid.run])}
    for result in results.values():
        assert result.score.value > 0.9 and result.num_items == 24
        assert result.score.low is not None and result.score.low <= result.score.value
        assert result.score.chance == pytest.approx(1 / 3)
    assert np.sum(results["zero_shot"].confusion) == 24
    assert results["zero_shot"].prompts["texts"]["red"] == ["a photo of red thing.", "red thing"]
    assert set(results["zero_shot"].prompts["templates"]["values"]) == {"a photo of {c}.", "{c}"}
    assert set(results["few_shot"].details["shots"]) == {"1", "4"}
    assert set(results["linear_probe"].details["shares"]) == {"0.01", "0.1", "1"}
    before = {path: path.stat().st_mtime_ns for path in grid.run.rglob("*.json")}
    assert {cell.state for cell in ran(grid).values()} == {"kept"}
    assert {path: path.stat().st_mtime_ns for path in grid.run.rglob("*.json")} == before
    assert ColourEncoder.calls == 48


def test_what_a_result_rests_on_is_looked_at_again(tmp_path: Path) -> None:
    """Another picture, label, prompt or setting: another score; a batch size is none of these."""
    task = colour_task()
    grid = grid_of(coloured(tmp_path), [task], protocols=("zero_shot",))
    assert ran(grid)["colours", "zero_shot"].state == "scored"
    assert (
        ran(replace(grid, settings=replace(grid.settings, batch=5)))["colours", "zero_shot"].state
        == "kept"
    )
    red, blue = (tmp_path / "set" / "test" / name for name in ("red", "blue"))
    (red / "0.png").write_bytes((blue / "0.png").read_bytes())
    calls = ColourEncoder.calls
    assert ran(grid)["colours", "zero_shot"].state == "scored"
    assert ColourEncoder.calls > calls
    assert read_results([grid.run])[0][1].score.value == pytest.approx(23 / 24)
    other = replace(task, prompts={"paper": Prompts(templates=("image of {c}",))})
    assert ran(replace(grid, tasks=(other,)))["colours", "zero_shot"].state == "scored"


def test_the_rest_of_the_grid_is_unharmed(tmp_path: Path) -> None:
    """A damaged picture, data that is not here, a missing class and an odd answer fail alone, and say so."""
    coloured(tmp_path, broken=True)
    micro_bench(tmp_path / "bench" / "one.parquet")
    micro_bench(tmp_path / "odd" / "one.parquet", answer_idx=[7] * 9)
    micro_bench(tmp_path / "empty" / "one.parquet", options=[[]] * 9)
    medmnist(tmp_path / "mnist.npz")
    broken = colour_task()
    tasks = [
        broken,
        replace(broken, name="absent", data=replace(broken.data, path="nowhere")),
        _options("fine", "bench/*.parquet"),
        _options("odd-answers", "odd/*.parquet"),
        _options("no-options", "empty/*.parquet"),
        replace(task_of("npz", "mnist.npz"), name="mnist"),
    ]
    grid = grid_of(
        tmp_path,
        tasks,
        models={"colours": "fake:colours", "gone": "onnx:/nowhere.onnx"},
        protocols=("zero_shot",),
    )
    cells = {(c.model, c.task): c for c in run_grid(grid, open_engine("inline", None, None))}
    assert {name for (_, name), cell in cells.items() if cell.state == "scored"} == {
        "fine",
        "mnist",
    }
    said = {task: cell.message for (model, task), cell in cells.items() if model == "colours"}
    assert "task colours, test, item" in said["colours"] and "red/3.png" in said["colours"]
    assert "https://example.org/colours" in said["absent"] and "CC BY-NC" in said["absent"]
    assert "task odd-answers" in said["odd-answers"] and "answer 7" in said["odd-answers"]
    assert "one.parquet" in said["odd-answers"] and "has no options" in said["no-options"]
    assert all("/nowhere.onnx" in cells["gone", task.name].message for task in tasks)
    assert {(f["model"], f["task"]) for f in failures([grid.run])} == {
        key for key, cell in cells.items() if cell.state == "failed"
    }
    (tmp_path / "set" / "test" / "red" / "3.png").unlink()  # mended
    assert (
        ran(replace(grid, models={"colours": "fake:colours"}))["colours", "zero_shot"].state
        == "scored"
    )
    assert not (grid.run / "failed" / "colours" / "colours.zero_shot.json").exists()


def _options(name: str, path: str) -> Task:
    task = task_of("parquet", path, "options", classes=(), options={"task": "stain"})
    return replace(task, name=name)


def test_no_number_is_an_error_that_names_the_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_numbers(self: ColourEncoder, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.full((len(pixels), 3), np.nan, np.float32)

    monkeypatch.setattr(ColourEncoder, "images", no_numbers)
    cell = ran(grid_of(coloured(tmp_path), [colour_task()], protocols=("knn",)))
    message = cell["colours", "knn"].message
    assert "task colours, test, item" in message and "no number" in message
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_options_are_scored_by_cosine(tmp_path: Path) -> None:
    """The nearest of an item's own candidate captions, whatever their number."""
    micro_bench(tmp_path / "bench" / "one.parquet")
    grid = grid_of(tmp_path, [_options("stain", "bench/*.parquet")])
    assert ran(grid)["stain", "zero_shot"].state == "scored"
    path, result = read_results([grid.run])[0]
    rows = read_items(path).to_pylist()
    assert result.num_items == len(rows) == 6
    for row in rows:
        assert row["predicted"] == int(np.argmax(row["scores"]))
        assert row["is_right"] == (row["predicted"] == row["label"])
    assert result.score.value == np.mean([row["is_right"] for row in rows])
    assert result.score.chance == pytest.approx(np.mean([1 / len(row["scores"]) for row in rows]))


def test_limit_takes_the_same_items_each_time(tmp_path: Path) -> None:
    coloured(tmp_path)
    settings = EvaluateSettings(resamples=100, limit=7)
    grid = grid_of(tmp_path, [colour_task()], settings=settings, protocols=("zero_shot",))
    assert ran(grid)["colours", "zero_shot"].state == "scored"
    first = read_items(read_results([grid.run])[0][0])["item"].to_pylist()
    assert len(first) == 7
    again = replace(grid, run=tmp_path / "again", cache=None)
    assert ran(again)["colours", "zero_shot"].state == "scored"
    assert read_items(read_results([again.run])[0][0])["item"].to_pylist() == first


def test_a_damaged_cache_is_made_anew(tmp_path: Path) -> None:
    task = colour_task()
    grid = grid_of(coloured(tmp_path), [task], protocols=("zero_shot",))
    ran(grid)
    score = read_results([grid.run])[0][1].score
    for path in (tmp_path / "cache").rglob("*.npy"):
        path.write_bytes(path.read_bytes()[:50])
    ran(replace(grid, run=tmp_path / "again"))
    assert read_results([tmp_path / "again"])[0][1].score == score


def items_with(captions: Sequence[Sequence[str]], pictures: Sequence[str] | None = None) -> Items:
    ids = tuple(str(number) for number in range(len(captions)))
    return Items(
        task="captions",
        split="test",
        ids=ids,
        places=ids,
        groups=ids,
        picture_ids=tuple(pictures or ids),
        read=lambda index: b"",
        captions=tuple(map(tuple, captions)),
    )


def test_retrieval_with_several_and_shared_captions() -> None:
    """The same words are right for every picture that has them, and stand in the gallery once."""
    items = items_with([["a", "b"], ["b", "c"], ["d"]])
    images = unit(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32))
    texts = {"a": [0, 1, 0.1], "b": [0.6, 0.5, 0], "c": [0.1, 0, 1], "d": [0, 0.2, 1]}
    rows = unit(np.array([texts[t] for t in "abbcd"], np.float32))
    found = retrieve(images, rows, items)
    assert (found.num_texts, found.num_pictures) == (4, 3)
    assert found.image_rank_N.tolist() == [1, 2, 2]  # `a` before b; c before d
    assert found.text_rank_M.tolist() == [3, 1, 1, 3, 1]
    assert found.image_right_N.tolist() == [2, 2, 1]
    assert found.text_right_M.tolist() == [1, 2, 2, 1, 1]


def test_results_are_a_superset_of_clip_benchmarks(tmp_path: Path) -> None:
    grid = grid_of(coloured(tmp_path), [colour_task()], protocols=("zero_shot",))
    cell = ran(grid)["colours", "zero_shot"]
    content = json.loads(Path(cell.path).read_text())
    assert {"dataset", "model", "pretrained", "task", "metrics", "language"} <= set(content)
    assert content["dataset"] == "colours" and content["task"] == "zeroshot_classification"
    assert content["metrics"]["acc1"] == content["scores"]["accuracy"]["value"]
    assert "mean_per_class_recall" in content["metrics"]
    assert Result.from_json(content, "here").scores["accuracy"].value == content["metrics"]["acc1"]
    for wrong in ({**content, "schema_version": 99}, {"schema_version": 1}):
        with pytest.raises(EvaluationError):
            Result.from_json(wrong, "here")


def test_leaderboard_means_shared_tasks_only_and_keeps_published_apart(tmp_path: Path) -> None:
    coloured(tmp_path)
    one = colour_task()
    two = replace(one, name="lc25000-lung", specialty="pathology")
    grid = grid_of(
        tmp_path, [one, two], models={"colours": "fake:colours", "tiny": "tiny"}, protocols=("knn",)
    )
    ran_cells = list(run_grid(grid, open_engine("inline", None, None)))
    assert {cell.state for cell in ran_cells} == {"scored"}
    found = read_results([grid.run])
    (board,) = boards_of(found)
    assert board.tasks == ("colours", "lc25000-lung") and not board.left_out
    assert {s.model for s in board.standings} == {"colours", "tiny"}
    for standing in board.standings:
        values = [result.score.value for _, result in found if result.model == standing.model]
        assert standing.means[ALL].value == pytest.approx(np.mean(values))
        assert set(standing.means) == {ALL, "none", "pathology"} and standing.letters[ALL]
    Path(next(c.path for c in ran_cells if c.model == "tiny" and c.task == "colours")).unlink()
    (board,) = boards_of(read_results([grid.run]))
    assert board.columns[0].tasks == ("lc25000-lung",)
    assert [(each.task, each.why) for each in board.left_out] == [("colours", "not scored: tiny")]
    published = published_for(load_published(), ["lc25000-lung"])
    assert published and all(each.task == "lc25000-lung" for each in published)


def test_tasks_are_chosen_by_name_suite_and_kind(tmp_path: Path) -> None:
    tasks = load_tasks()
    assert [each.name for each in choose(tasks, ["pneumoniamnist"])] == ["pneumoniamnist"]
    assert len(choose(tasks, ["medmnist"])) == 12
    assert {each.kind for each in choose(tasks, ["vqa"])} == {"vqa"}
    with pytest.raises(ConfigError, match="did you mean 'pneumoniamnist'"):
        choose(tasks, ["pneumoniamist"])
    with pytest.raises(ConfigError, match="did you mean 'title'"):
        parse_task('titel = "x"', "mine.toml")


def test_pictures_of_every_kind_open() -> None:
    gray16 = np.linspace(0, 60000, 64).reshape(8, 8).astype(np.uint16)
    assert open_picture(np.zeros((8, 8), np.uint8)).mode == "RGB"
    with pytest.raises(ValueError, match="uint8"):
        open_picture(gray16)  # type: ignore[arg-type]
    import io

    for image, low, high in (
        (Image.fromarray(gray16), 0, 255),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), 255, 255),
        (Image.new("1", (8, 8)), 0, 0),
    ):
        content = io.BytesIO()
        image.save(content, "PNG")
        pixels = np.asarray(open_picture(content.getvalue()))
        assert pixels.shape == (8, 8, 3) and (pixels.min(), pixels.max()) == (low, high)


def test_embeddings_of_shared_pictures_are_made_once(tmp_path: Path) -> None:
    items = items_with([["a"], ["b"], ["c"]], ["one", "two", "one"])
    content = [np.full((8, 8, 3), shade, np.uint8) for shade in (10, 200, 10)]
    items = replace(items, read=lambda index: content[index])
    found = Embeddings(ColourEncoder(), tmp_path).images(items)
    assert ColourEncoder.calls == 2 and found.computed == 2
    assert (found.vectors_ND[0] == found.vectors_ND[2]).all()
    assert Embeddings(ColourEncoder(), tmp_path).images(items).computed == 0


@pytest.mark.slow
def test_commands(tmp_path: Path) -> None:
    """ls, validate, run (with a plan first), compare and leaderboard, as a user calls them."""
    coloured(tmp_path / "data")
    (tmp_path / "mine.toml").write_text(_MINE)
    own = ["--tasks-from", str(tmp_path / "mine.toml")]
    data = ["--data", str(tmp_path / "data")]

    def call(*words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "biomedica", "eval", *words],
            capture_output=True,
            text=True,
            env={"HOME": str(tmp_path), "PATH": ""},
        )
        assert done.returncode == code, done.stderr
        return done.stdout or done.stderr

    assert json.loads(call("ls", "mine", *own, "--json"))[0]["metric"] == "balanced_accuracy"
    (facts,) = json.loads(call("validate", "mine", *own, *data, "--decode", "--json"))
    assert facts["state"] == "ok" and facts["splits"]["test"]["items"] == 24
    assert "absent" in call("validate", "pcam", *data)
    out = str(tmp_path / "out")
    words = ["run", "tiny", "--tasks", "mine", *own, *data, "--out", out, "--protocols", "knn"]
    assert "data ok" in call(*words, "--dry-run") and not Path(out).exists()
    assert "balanced_accuracy" in call(*words, "--set", "evaluate.resamples=100")
    assert (tmp_path / ".cache" / "biomedica" / "embeddings").is_dir()
    call(*words[:1], "again=tiny", *words[2:], "--set", "evaluate.resamples=100")
    found = json.loads(call("compare", out, "--model", "tiny", "--with", "again", "--json"))
    assert found["tasks"][0]["difference"] == 0
    board = json.loads(call("leaderboard", out, "--published", "--json"))
    assert len(board["measured"][0]["standings"]) == 2 and board["published"] == []
    failing = [*words, "--tasks", "pcam"]
    assert "could not be scored" in call(*failing, code=1)
    assert "unknown protocol" in call(*words, "--protocols", "zeroshot", code=2)


_MINE = """
name = "mine"
title = "Mine"
kind = "classification"
specialty = "none"
modality = "none"
metric = "balanced_accuracy"
access = {url = "here", terms = "local", licence = "CC0-1.0", how = "make it"}
data = {reader = "folders", path = "set", splits = {train = "train", test = "test"}}
classes = [{name = "red"}, {name = "green"}, {name = "blue"}]
"""


def test_items_files_hold_what_results_say(tmp_path: Path) -> None:
    grid = grid_of(coloured(tmp_path), [colour_task()], protocols=("linear_probe",))
    cell = ran(grid)["colours", "linear_probe"]
    rows = pq.read_table(Path(cell.path).with_suffix(".parquet")).to_pylist()
    result = read_results([grid.run])[0][1]
    assert result.scores["accuracy"] == Score(
        value=float(np.mean([row["is_right"] for row in rows])),
        low=result.scores["accuracy"].low,
        high=result.scores["accuracy"].high,
        chance=result.scores["accuracy"].chance,
    )
    assert all(0 < row["confidence"] <= 1 and row["answer"] in COLOURS for row in rows)
