"""What goes wrong around a grid: damaged results, clashing names, errors that nobody foresaw, runs that differ."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmark_data import micro_bench, task_of
from biomedica.errors import ConfigError, EvaluationError
from biomedica.evaluate import metrics, probes
from biomedica.evaluate import run as running
from biomedica.evaluate.embeddings import Embeddings
from biomedica.evaluate.probes import Labelled
from biomedica.evaluate.protocols import VERSIONS
from biomedica.evaluate.results import read_items, read_results
from biomedica.evaluate.run import failures, run_grid
from biomedica.evaluate.standings import boards_of
from biomedica.evaluate.tables import replicates
from biomedica.numbering import numbered
from biomedica.run.engines import open_engine
from test_evaluate_run import ColourEncoder, colour_task, coloured, fake, grid_of, ran

__all__ = ["fake"]


def test_a_damaged_result_is_scored_anew(tmp_path: Path) -> None:
    grid = grid_of(coloured(tmp_path), [colour_task()], protocols=("knn",))
    path = Path(ran(grid)["colours", "knn"].path)
    rows = path.with_suffix(".parquet")
    for damage in (
        lambda: path.write_text("{"),
        rows.unlink,
        lambda: rows.write_bytes(rows.read_bytes()[:-9]),
    ):
        assert ran(grid)["colours", "knn"].state == "kept"
        damage()
        assert ran(grid)["colours", "knn"].state == "scored"
    assert len(read_items(path)) == 24


def test_other_files_may_stand_beside_results(tmp_path: Path) -> None:
    grid = grid_of(coloured(tmp_path), [colour_task()], protocols=("knn",))
    ran(grid)
    (grid.run / "leaks").mkdir()
    for name in ("leaks.json", "some.other.json"):
        (grid.run / "leaks" / name).write_text("{}")
    assert len(read_results([grid.run])) == 1


def test_another_version_of_a_protocol_scores_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = grid_of(coloured(tmp_path), [colour_task()], protocols=("knn", "zero_shot"))
    ran(grid)
    monkeypatch.setattr(running, "VERSIONS", {**VERSIONS, "knn": VERSIONS["knn"] + 1})
    states = {protocol: cell.state for (_, protocol), cell in ran(grid).items()}
    assert states == {"knn": "scored", "zero_shot": "kept"}


def test_models_that_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    for names, said in ((("a/b", "a-b"), "would share"), (("Failed",), "failed scores have")):
        with pytest.raises(ConfigError, match=said):
            grid_of(tmp_path, [colour_task()], models=dict.fromkeys(names, "tiny"))


def test_an_error_that_nobody_foresaw_fails_its_cell_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = colour_task()
    grid = grid_of(
        coloured(tmp_path), [task, replace(task, name="other")], protocols=("knn", "zero_shot")
    )
    ran(grid)
    real = running.SCORERS["knn"]

    def score(embeddings, question):  # type: ignore[no-untyped-def]
        if question.task.name == "other":
            raise ZeroDivisionError("of a library")
        return real(embeddings, question)

    monkeypatch.setitem(running.SCORERS, "knn", score)  # type: ignore[arg-type]
    again = replace(grid, settings=replace(grid.settings, seed=5))
    cells = ran(again)
    assert {key for key, cell in cells.items() if cell.state == "failed"} == {("other", "knn")}
    assert cells["other", "knn"].message == "ZeroDivisionError: of a library"
    (failure,) = failures([grid.run])
    assert "in score" in failure["trace"]
    # the older score of what failed is in no table until it is scored again
    assert ("other", "knn") not in {(r.task, r.protocol) for _, r in read_results([grid.run])}
    monkeypatch.setitem(running.SCORERS, "knn", real)
    assert ran(again)["other", "knn"].state == "scored"
    assert len(read_results([grid.run])) == 4


def test_a_run_that_differs_leaves_its_task_out(tmp_path: Path) -> None:
    """Two models on two versions of a task: the task is in no mean, with the reason, and the rest stands."""
    task = colour_task()
    both = [task, replace(task, name="same")]
    grid = grid_of(coloured(tmp_path), both, protocols=("knn",))
    ran(grid)
    other = replace(
        grid,
        models={"tiny": "tiny"},
        tasks=(replace(task, group="another version"), both[1]),
    )
    assert other.tasks[0].digest != task.digest
    ran(other)
    (board,) = boards_of(read_results([grid.run]))
    assert board.columns[0].tasks == ("same",)
    ((name, why),) = [(each.task, each.why) for each in board.left_out]
    assert name == "colours" and "different items" in why


def test_models_asked_otherwise_are_not_ranked_together(tmp_path: Path) -> None:
    """Other shots are another question, though the task is the same."""
    grid = grid_of(coloured(tmp_path), [colour_task()], protocols=("few_shot",))
    ran(grid)
    settings = replace(grid.settings, shots=(2,))
    ran(replace(grid, models={"tiny": "tiny"}, settings=settings))
    (board,) = boards_of(read_results([grid.run]))
    assert not board.columns and "shots" in board.left_out[0].why


def test_two_results_of_one_question_are_refused(tmp_path: Path) -> None:
    grid = grid_of(coloured(tmp_path), [colour_task()], protocols=("knn",))
    ran(grid)
    other = replace(grid, run=tmp_path / "other")
    ran(other)
    with pytest.raises(ConfigError, match="two results"):
        read_results([grid.run, other.run])


def test_items_of_another_result_are_refused(tmp_path: Path) -> None:
    grid = grid_of(coloured(tmp_path), [colour_task()], protocols=("knn",))
    path = Path(ran(grid)["colours", "knn"].path)
    other = replace(grid, run=tmp_path / "other", settings=replace(grid.settings, limit=9))
    theirs = Path(ran(other)["colours", "knn"].path).with_suffix(".parquet")
    path.with_suffix(".parquet").write_bytes(theirs.read_bytes())
    with pytest.raises(EvaluationError, match="does not belong"):
        read_items(path)


def test_what_all_failed_later_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = grid_of(coloured(tmp_path), [colour_task()], protocols=("knn",))
    ran(grid)
    monkeypatch.setitem(running.SCORERS, "knn", lambda embeddings, question: 1 / 0)  # type: ignore[arg-type]
    ran(replace(grid, settings=replace(grid.settings, seed=5)))
    with pytest.raises(ConfigError, match="failed later"):
        read_results([grid.run])


@pytest.mark.parametrize("protocol", ["zero_shot", "linear_probe", "knn", "few_shot"])
def test_items_tell_the_same_score_as_the_result(tmp_path: Path, protocol: str) -> None:
    """AUROC of three classes, from the very file that tables and comparisons read."""
    task = replace(colour_task(), metric="auroc")
    grid = grid_of(coloured(tmp_path, each=12), [task], protocols=(protocol,))
    ran(grid)
    ((path, result),) = read_results([grid.run])
    value, _ = replicates(read_items(path), "auroc", resamples=1)
    assert value == pytest.approx(result.score.value, abs=1e-12)
    if protocol == "zero_shot":
        assert result.prompts["by_set"][result.prompts["used"]] == pytest.approx(value, abs=1e-12)


def test_roc_curves_of_probabilities_do_not_round_to_one() -> None:
    """Logits of 30 and 40 are both sure in float32, and still in order."""
    labels = np.array([0, 1, 0, 1])
    logits = np.array([[0, 30], [0, 40], [35, 0], [30, 0]], np.float32)
    assert metrics.auroc(logits, labels) == 0.75
    assert metrics.classification_scores(logits, labels, list("abcd"))["auroc"].value == 0.75


def test_few_shots_are_not_led_by_dimensions_they_agree_in() -> None:
    random = np.random.default_rng(0)
    spread = np.exp(random.normal(0, 1, 256))

    def drawn(count: int) -> Labelled:
        labels = random.integers(0, 2, count)
        vectors = random.normal(size=(count, 256)) * spread * 0.5
        vectors[:, :8] += (2 * labels[:, None] - 1) * 3
        unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        return Labelled(
            vectors_ND=unit, labels_N=labels, labels_NC=None, groups=tuple(map(str, range(count)))
        )

    train, test = drawn(1000), drawn(1000)
    assert test.labels_N is not None
    for number, least in ((2, 0.65), (16, 0.9)):
        right = [
            float(np.mean(fitted(test.vectors_ND).argmax(axis=1) == test.labels_N))
            for seed in range(10)
            if (fitted := probes.probe_at(probes.shots(train, number, seed), 1.0, 2))
        ]
        assert np.mean(right) > least


def test_neighbours_and_shots_read_no_validation(tmp_path: Path) -> None:
    """All of training is theirs, and a damaged validation split is not their business."""
    coloured(tmp_path)
    (tmp_path / "set" / "val").mkdir()
    task = task_of("folders", "set", splits={"train": "train", "test": "test", "validation": "val"})
    cells = ran(grid_of(tmp_path, [task], protocols=("knn", "few_shot", "linear_probe")))
    assert {protocol: cell.state for (_, protocol), cell in cells.items()} == {
        "knn": "scored",
        "few_shot": "scored",
        "linear_probe": "failed",
    }
    found = {result.protocol: result for _, result in read_results([tmp_path / "run"])}
    assert found["knn"].details["train_items"] == 24
    assert set(found["knn"].data["pictures_sha256"]) == {"test", "train"}


def test_numbers_of_names_take_no_memory_of_their_lengths() -> None:
    names = ["b" * 100_000, *map(str, range(20_000)), "a"]
    different, index = numbered(names)
    assert [different[i] for i in index] == names and different == sorted(set(names))


def test_a_cache_serves_whoever_has_the_same_digest(tmp_path: Path) -> None:
    grid = grid_of(coloured(tmp_path), [colour_task()], protocols=("knn",))
    list(run_grid(grid, open_engine("inline", None, None)))
    calls = ColourEncoder.calls
    assert Embeddings(ColourEncoder(), grid.cache).texts(["red"], "x").shape == (1, 3)
    ran(replace(grid, run=tmp_path / "elsewhere"))
    assert ColourEncoder.calls == calls
    written = json.loads((grid.run / "colours" / "colours.knn.json").read_text())
    assert written["encoder"]["digest"] == ColourEncoder.digest


def test_free_captions_are_no_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean over as many classes as items would take the square of their number."""
    monkeypatch.setattr("biomedica.evaluate.protocols._MOST_ANSWERS", 1)
    micro_bench(tmp_path / "bench" / "one.parquet")
    task = task_of("parquet", "bench/*.parquet", "options", classes=(), options={"task": "stain"})
    task = replace(task, metric="accuracy")
    assert ran(grid_of(tmp_path, [task], protocols=("zero_shot",)))["colours", "zero_shot"].state
    ((_, result),) = read_results([tmp_path / "run"])
    assert "accuracy" in result.scores and "balanced_accuracy" not in result.scores
