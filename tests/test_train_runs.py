"""Runs that are stopped, killed, continued, out of room: what is kept is whole and goes on to the bit."""

# ruff: noqa: E402 (the program's own modules need what may not be installed)
from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from biomedica.errors import ArchiveError, BiomedicaError, ConfigError
from biomedica.train.logs import Log
from servers import moto_bucket
from stream_archives import give_view
from train_runs import (
    assert_same,
    coloured_archive,
    log_of,
    losses,
    newest,
    outcome,
    run,
    settings_of,
    start,
    wait_for_step,
    write_model,
)

pytestmark = pytest.mark.clients

KEPT = ["run.checkpoint_every=3", "run.keep=2", "data.epochs=8", "optimizer.ema=0.9"]
"""24 steps."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As in the processes that `start` starts: sums of several threads have another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coloured_archive(tmp_path_factory.mktemp("coloured"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return write_model(folder, patch_dropout=0.25)


@pytest.fixture(scope="module")
def whole(archive: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run(settings_of(archive, model, *KEPT), folder).is_complete
    return folder


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def assert_equal_runs(first: Path, second: Path) -> None:
    """Weights, moments, mean, place in the data, losses, and the model that was saved."""
    assert losses(first) == losses(second)
    assert_same(newest(first), newest(second))
    saved = [
        (each / "model" / "open_clip_model.safetensors").read_bytes() for each in (first, second)
    ]
    assert saved[0] == saved[1]


class StopError(Exception):
    """What ends a run in this process from within."""


def cut_at(settings: Any, folder: Path, step: int) -> None:
    """A run that dies after a step."""

    def tell(progress: Any) -> None:
        if progress.step == step:
            raise StopError

    with pytest.raises(StopError):
        run(settings, folder, tell)


# killed, stopped, continued


def test_killed_several_times(archive: Path, model: Path, whole: Path, tmp_path: Path) -> None:
    """Each time with SIGKILL, at a moment that is not chosen; one of the times before the first checkpoint."""
    settings, folder = settings_of(archive, model, *KEPT), tmp_path / "run"
    draw = random.Random(time.time_ns())
    for step in (1, 5, 8, 14):
        process = start(settings, folder)
        wait_for_step(folder, step, process)
        time.sleep(draw.uniform(0, 0.08))
        os.kill(process.pid, signal.SIGKILL)
        assert outcome(process) in ({"code": -signal.SIGKILL},)
        if (folder / "checkpoints").exists() and len(checkpoints(folder)) > 1:
            newest(folder)  # what has its name can be read
    found = run(settings, folder)
    assert found.is_complete and found.steps == found.num_steps == 24
    assert [step for step, _ in losses(folder)] == list(range(1, 25))
    assert_equal_runs(whole, folder)
    assert not [name for name in checkpoints(folder) if not name.startswith("step-")]


def test_cut_within_the_process(archive: Path, model: Path, whole: Path, tmp_path: Path) -> None:
    settings, folder = settings_of(archive, model, *KEPT), tmp_path / "run"
    for step in (2, 4, 6, 23):
        cut_at(settings, folder, step)
    assert run(settings, folder).is_complete
    assert_equal_runs(whole, folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop(
    number: int, archive: Path, model: Path, whole: Path, tmp_path: Path
) -> None:
    settings, folder = settings_of(archive, model, *KEPT), tmp_path / "run"
    process = start(settings, folder)
    wait_for_step(folder, 4, process)
    os.kill(process.pid, number)
    found = outcome(process)
    assert found["is_complete"] is False and 4 <= found["steps"] < 24
    assert newest(folder)["step"] == found["steps"]
    assert not (folder / "model").exists()
    again = run(settings, folder)
    assert again.is_complete and again.steps == 24
    assert_equal_runs(whole, folder)


@pytest.mark.slow
def test_ctrl_c_reaches_all_processes_of_a_terminal(
    archive: Path, model: Path, whole: Path, tmp_path: Path
) -> None:
    """Those that read, too; they go on reading for the step that is being made."""
    psutil = pytest.importorskip("psutil")
    settings, folder = settings_of(archive, model, *KEPT, "data.workers=2"), tmp_path / "run"
    process = start(settings, folder)
    wait_for_step(folder, 4, process)
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each.pid, signal.SIGINT)
    found = outcome(process)
    assert found.get("is_complete") is False, found
    assert newest(folder)["step"] == found["steps"] < 24
    assert run(settings_of(archive, model, *KEPT), folder).is_complete
    assert_equal_runs(whole, folder)


def test_a_finished_run_stays_as_it_is(
    archive: Path, model: Path, whole: Path, tmp_path: Path
) -> None:
    before = (whole / "log.jsonl").read_bytes()
    found = run(settings_of(archive, model, *KEPT), whole)
    assert found.is_complete and found.steps == 24 and found.loss == losses(whole)[-1][1]
    assert (whole / "log.jsonl").read_bytes() == before


def test_other_parts_and_workers_go_on_with_the_same_samples(
    archive: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from biomedica.train.step import Stepper

    seen: list[Any] = []
    usual = Stepper.step

    def noting(self: Stepper, number: int, images: Any, tokens: Any, seed: int) -> Any:
        seen.append((number, images.clone(), tokens.clone()))
        return usual(self, number, images, tokens, seed)

    monkeypatch.setattr(Stepper, "step", noting)
    settings = settings_of(archive, model, "run.checkpoint_every=4")
    run(settings, tmp_path / "whole")
    expected, seen[:] = list(seen), []
    cut_at(settings, tmp_path / "run", 5)
    seen.clear()
    other = ["run.checkpoint_every=2", "optimizer.accumulate=2", "data.workers=2"]
    assert run(settings_of(archive, model, *other), tmp_path / "run").is_complete
    assert [number for number, *_ in seen] == [4, 5, 6, 7, 8]
    for (_, images, tokens), (_, again, also) in zip(expected[4:], seen, strict=True):
        assert images.equal(again) and tokens.equal(also)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("optimizer.lr=0.5", "optimizer.lr was 0.001, is 0.5"),
        ("optimizer.batch=16", "optimizer.batch was 32, is 16"),
        ("model.patch_dropout=0.1", "model.patch_dropout was 0.0, is 0.1"),
        ('data.texts=["bare"]', "data.texts was"),
        ("images.scale=[0.5,1.0]", "images.scale was"),
        ("run.seed=1", "seed 0, this stream has 1"),
    ],
)
def test_other_settings_are_refused(
    change: str, said: str, archive: Path, model: Path, whole: Path
) -> None:
    before = newest(whole)
    with pytest.raises(ConfigError, match=said):
        run(settings_of(archive, model, *KEPT, change), whole)
    assert_same(newest(whole), before)


def test_a_setting_that_was_wrong_may_be_mended(archive: Path, model: Path, tmp_path: Path) -> None:
    """A folder belongs to a run when all of its settings were found to work."""
    for change in ("optimizer.batch=5000", "optimizer.loss=siglip", 'model.name="nothing"'):
        with pytest.raises(ConfigError):
            run(settings_of(archive, model, change), tmp_path / "run")
    assert run(settings_of(archive, model), tmp_path / "run").is_complete


def test_other_folders_are_refused(archive: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        run(settings_of(archive, model), tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_changed_view_is_refused(model: Path, tmp_path: Path) -> None:
    own = coloured_archive(tmp_path / "own", 48)
    settings = settings_of(own, model, "run.checkpoint_every=2", "optimizer.batch=16")
    cut_at(settings, tmp_path / "run", 3)
    give_view(own, keep=lambda row: int(row["pmcid"][3:]) != 1001)
    with pytest.raises(ConfigError, match="a view was made again"):
        run(settings, tmp_path / "run")


# checkpoints


@pytest.mark.parametrize("keep", [1, 3])
def test_the_last_checkpoints_stay(keep: int, archive: Path, model: Path, tmp_path: Path) -> None:
    run(settings_of(archive, model, "run.checkpoint_every=2", f"run.keep={keep}"), tmp_path / "run")
    expected = [f"step-{step:08d}.pt" for step in (2, 4, 6, 8, 9)]
    assert checkpoints(tmp_path / "run") == expected[-keep:]


def test_a_cut_checkpoint_is_refused(archive: Path, model: Path, tmp_path: Path) -> None:
    settings, folder = settings_of(archive, model, *KEPT), tmp_path / "run"
    cut_at(settings, folder, 7)
    names = checkpoints(folder)
    path = folder / "checkpoints" / names[-1]
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"", b"no checkpoint"):
        path.write_bytes(broken)
        with pytest.raises(ArchiveError, match=rf"{names[-1]} cannot be read .*remove it"):
            run(settings, folder)
    path.unlink()
    assert run(settings, folder).is_complete


def test_a_full_disk_leaves_what_was_kept(
    archive: Path, model: Path, whole: Path, tmp_path: Path
) -> None:
    settings, folder = settings_of(archive, model, *KEPT), tmp_path / "run"
    found = outcome(start(settings, folder, {"LARGEST_FILE": "1000000"}))
    assert found["error"].startswith("ArchiveError: cannot write to"), found
    assert checkpoints(folder) == ["step-00000003.pt"]
    assert newest(folder)["step"] == 3
    assert run(settings, folder).is_complete
    assert_equal_runs(whole, folder)


def test_weights_that_are_no_numbers_are_not_kept(
    archive: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two readings of the loss, too."""
    from biomedica.train.step import Stepper

    usual = Stepper.step

    def breaking(self: Stepper, number: int, *rest: Any, **more: Any) -> Any:
        found = usual(self, number, *rest, **more)
        if number == 4:
            with torch.no_grad():
                self.model.visual.proj[0, 0] = float("nan")
        return found

    monkeypatch.setattr(Stepper, "step", breaking)
    settings = settings_of(archive, model, "run.checkpoint_every=3", "run.log_every=100")
    with pytest.raises(ArchiveError, match=r"at step 6: a lower optimizer\.lr"):
        run(settings, tmp_path / "run")
    assert checkpoints(tmp_path / "run") == ["step-00000003.pt"]


def test_a_loss_that_is_no_number_ends_the_run(archive: Path, model: Path, tmp_path: Path) -> None:
    settings = settings_of(
        archive, model, "optimizer.lr=1e30", "optimizer.grad_clip=0", "run.checkpoint_every=1"
    )
    with pytest.raises(ArchiveError, match=r"a lower optimizer\.lr"):
        run(settings, tmp_path / "run")


# a bucket


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with moto_bucket(name="runs") as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", found.endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        yield found
        listed = found._client.list_objects_v2(Bucket="runs").get("Contents", [])
        for each in listed:
            found.delete(each["Key"])


def names_in(bucket: Any) -> list[str]:
    listed = bucket._client.list_objects_v2(Bucket="runs").get("Contents", [])
    return [each["Key"] for each in listed]


def test_a_bucket_gives_a_run_back(
    archive: Path, model: Path, whole: Path, tmp_path: Path, bucket: Any
) -> None:
    upload = "run.upload=s3://runs/deep/one"
    settings = settings_of(archive, model, *KEPT, upload)
    bucket.put("deep/one/other/step-99999999.pt", b"another run's")
    bucket.put("deep/one/.step-88888888.pt.tmp", b"a leftover")
    cut_at(settings, tmp_path / "here", 11)
    kept = [name for name in names_in(bucket) if name.startswith("deep/one/step")]
    assert kept == ["deep/one/step-00000006.pt", "deep/one/step-00000009.pt"]
    with pytest.raises(ConfigError, match=r"step-00000009.pt holds a run of other settings .*lr"):
        run(settings_of(archive, model, *KEPT, upload, "optimizer.lr=0.5"), tmp_path / "other")
    (tmp_path / "other" / ".settings.json.tmp").touch()  # as if it had been killed
    (tmp_path / "other").rename(tmp_path / "there")
    found = run(settings, tmp_path / "there")
    assert found.is_complete
    assert losses(tmp_path / "there") == losses(whole)[9:]
    assert_same(newest(tmp_path / "there"), newest(whole))
    assert [name for name in names_in(bucket) if name.startswith("deep/one/step")] == [
        "deep/one/step-00000021.pt",
        "deep/one/step-00000024.pt",
    ]


def test_a_bucket_that_does_not_answer(
    archive: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    settings = settings_of(archive, model, *KEPT, "run.upload=s3://runs/one")
    with pytest.raises(BiomedicaError, match="s3://runs/one"):
        run(settings, tmp_path / "run")


# the log


def test_log_of_a_run(archive: Path, model: Path, tmp_path: Path) -> None:
    task = f'{{name="held", archive="{archive}", view="all", split="test"}}'
    changes = [*KEPT, f"run.tasks=[{task}]", "run.evaluate_every=5"]
    settings, folder = settings_of(archive, model, *changes), tmp_path / "run"
    cut_at(settings, folder, 2)  # before the first checkpoint
    cut_at(settings, folder, 8)
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    assert run(settings, folder).is_complete
    lines = log_of(folder)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 25))
    scored = [line["step"] for line in lines if "held/median_rank" in line]
    assert scored == [0, 5, 10, 15, 20, 24]
    for line in lines:
        if "loss" in line:
            assert 0 <= line["data_wait"] <= 1 and line["samples_per_second"] > 0
            assert line["position"] == 32 * line["step"]
            assert line["epoch"] == pytest.approx(line["position"] / 96)
            assert 1 <= line["logit_scale"] <= 100.001 and line["grad_norm"] > 0


def test_evaluations_change_nothing(
    archive: Path, model: Path, whole: Path, tmp_path: Path
) -> None:
    task = f'{{name="held", archive="{archive}", view="all", split="test", max_samples=9}}'
    changes = [*KEPT, f"run.tasks=[{task}]", "run.evaluate_every=1", "run.save_initial=true"]
    found = run(settings_of(archive, model, *changes), tmp_path / "run")
    assert losses(tmp_path / "run") == losses(whole)
    assert found.scores["held"]["num_pairs"] == 9
    assert (tmp_path / "run" / "initial" / "open_clip_model.safetensors").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_files_are_read_by_tensorboard(
    archive: Path, model: Path, tmp_path: Path
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = settings_of(archive, model, 'run.loggers=["tensorboard"]', "run.checkpoint_every=4")
    cut_at(settings, tmp_path / "run", 6)
    run(settings, tmp_path / "run")
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    found = [(each.step, each.value) for each in events.Scalars("loss")]
    expected = losses(tmp_path / "run")
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert np.allclose([loss for _, loss in found], [loss for _, loss in expected])


def test_a_logger_that_is_not_installed(
    archive: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        Log(tmp_path, settings_of(archive, model, 'run.loggers=["wandb"]'), 0)
