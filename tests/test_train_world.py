"""Several processes learn what one learns."""

# ruff: noqa: E402 (the program's own modules need what may not be installed)
from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from train_runs import (
    coloured_archive,
    largest_difference,
    log_of,
    losses,
    newest,
    outcome,
    run_ranks,
    settings_of,
    start,
    write_model,
)

pytestmark = pytest.mark.clients

SLOW = pytest.mark.slow
SIGLIP = ["optimizer.loss=siglip", "model.init_logit_bias=-10.0", "model.init_logit_scale=2.3"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coloured_archive(tmp_path_factory.mktemp("coloured"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    "changes",
    [
        ["optimizer.local_loss=true"],
        ["optimizer.local_loss=false", "optimizer.accumulate=2"],
        pytest.param(["optimizer.accumulate=2", "data.texts_per_image=2"], marks=SLOW),
        pytest.param(["optimizer.accumulate=2", "model.grad_checkpointing=true"], marks=SLOW),
        pytest.param(SIGLIP, marks=SLOW),
        [*SIGLIP, "optimizer.accumulate=2", "optimizer.ema=0.9"],
    ],
    ids=lambda each: ",".join(x.partition("=")[0].rpartition(".")[2] for x in each),
)
def test_two_processes_learn_what_one_does(
    changes: list[str], archive: Path, model: Path, tmp_path: Path
) -> None:
    """Losses to 1e-5; weights to 3e-5, after 9 steps of which each changes a weight by up to 1e-3."""
    settings = settings_of(archive, model, *changes)
    alone = outcome(start(settings, tmp_path / "one"))
    ranks = run_ranks(settings, tmp_path / "two")
    assert alone["is_complete"] and all(each["is_complete"] for each in ranks)
    assert [each["is_first"] for each in ranks] == [True, False]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 9
    assert [step for step, _ in one] == [step for step, _ in two]
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], abs=1e-5)
    norms = [[x["grad_norm"] for x in log_of(tmp_path / name)] for name in ("one", "two")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    first, second = newest(tmp_path / "one"), newest(tmp_path / "two")
    assert largest_difference(first["model"], second["model"]) < 3e-5
    if first["mean"]:
        assert largest_difference(first["mean"], second["mean"]) < 3e-5


def test_a_batch_that_does_not_divide_is_refused(
    archive: Path, model: Path, tmp_path: Path
) -> None:
    settings = settings_of(archive, model, "optimizer.batch=31")
    for found in run_ranks(settings, tmp_path / "two"):
        assert "optimizer.batch is 31; a multiple of 2 ranks x 1 parts" in found["error"]


@SLOW
def test_another_number_of_processes_goes_on(archive: Path, model: Path, tmp_path: Path) -> None:
    """Two processes take the half of a run that one left, in other parts, with workers."""
    usual = ["run.checkpoint_every=4", "run.keep=9"]
    settings = settings_of(archive, model, *usual)
    assert outcome(start(settings, tmp_path / "one"))["is_complete"]
    assert outcome(start(settings, tmp_path / "two"))["is_complete"]
    for step in (8, 9):
        (tmp_path / "two" / "checkpoints" / f"step-{step:08d}.pt").unlink()
    other = settings_of(archive, model, *usual, "optimizer.accumulate=2", "data.workers=1")
    assert all(each["is_complete"] for each in run_ranks(other, tmp_path / "two"))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [step for step, _ in two] == [step for step, _ in one] == list(range(1, 10))
    assert two[:4] == one[:4]
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], abs=1e-5)
    first, second = newest(tmp_path / "one"), newest(tmp_path / "two")
    assert largest_difference(first["model"], second["model"]) < 3e-5
    assert first["data"] == second["data"]
