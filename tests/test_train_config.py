"""Configs of training: what is shipped can be read, and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from biomedica.errors import ConfigError
from biomedica.train import load_train, shipped_configs
from biomedica.train.settings import differences, plain

pytestmark = pytest.mark.clients


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_configs(name: str) -> None:
    settings = load_train(name)
    assert settings == load_train(shipped_configs()[name])
    assert settings.about.strip()
    assert settings.model.name or settings.model.image_tower
    assert settings.data.sources and settings.optimizer.batch % settings.optimizer.accumulate == 0
    kept = json.loads(json.dumps(plain(settings)))
    assert differences(kept, settings) == []
    assert differences(kept, load_train(name, ["optimizer.lr=9.0"]))


def test_changes() -> None:
    settings = load_train(
        "tiny",
        [
            'data.texts=["caption", "mention"]',
            "data.text_weights=[2, 1]",
            'data.sources=[{archive="/a", weight=3}, {archive="/b", view="v", split="val"}]',
            'run.tasks=[{name="one", archive="/a", max_samples=0}]',
            'run.loggers=["tensorboard", "wandb"]',
            "images.scale=[0.5, 1.0]",
            "optimizer.lr=1e-5",
            "model.name=ViT-B-32",
            "order.shuffle=false",
        ],
    )
    assert settings.data.texts == ("caption", "mention")
    assert settings.data.text_weights == (2.0, 1.0)
    one, two = settings.data.sources
    assert (one.archive, one.view, one.split, one.weight) == ("/a", "full", None, 3.0)
    assert (two.view, two.split) == ("v", "val")
    assert settings.run.tasks[0].max_samples == 0
    assert settings.run.loggers == ("tensorboard", "wandb")
    assert settings.images.scale == (0.5, 1.0)
    assert (settings.optimizer.lr, settings.model.name) == (1e-5, "ViT-B-32")
    assert settings.order.shuffle is False


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("optimizer.lrr=1", "unknown setting optimizer.lrr; did you mean 'lr'?"),
        ("optimiser.lr=1", "unknown table .optimiser.; did you mean 'optimizer'?"),
        ("data.epochs=soon", "data.epochs is 'soon'"),
        ("data.epochs=0", "data.epochs"),
        ("data.workers=-1", "data.workers"),
        ("optimizer.loss=softmax", "optimizer.loss is 'softmax'"),
        ("optimizer.accumulate=3", "optimizer.batch is 64 in 3 parts"),
        ("optimizer.ema=1.0", "optimizer.ema"),
        ("optimizer.layer_decay=0", "layer_decay"),
        ("run.keep=0", "run.keep is 0"),
        ('run.loggers=["tensorbord"]', "run.loggers"),
        ('run.tasks=[{name="a", archive="x"}, {name="a", archive="y"}]', "names must differ"),
        ('data.sources=[{view="x"}]', "data.sources is .* 0: archive: Field required"),
        ('data.sources=[{archive="x", weigth=2}]', "data.sources is .* 0: weigth: Unexpected"),
        ('run.tasks=[{name="a", archive="x", splitt="y"}]', "run.tasks is .* 0: splitt: Unexp"),
        ("model.patch_dropout=1.5", "patch_dropout is 1.5"),
        ("images.scale=[0.9]", "images.scale"),
        ("nothing", "changes nothing"),
    ],
)
def test_what_is_wrong_is_named(change: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_train("tiny", [change])


def test_a_config_that_is_not_there_or_no_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config 'tinny': a TOML file or one of .*tiny"):
        load_train("tinny")
    path = tmp_path / "mine.toml"
    path.write_text("[data\n")
    with pytest.raises(ConfigError, match=r"mine\.toml is no TOML"):
        load_train(path)
    path.write_text("[optimizer]\nlr = 0.25\n")
    assert load_train(path).optimizer.lr == 0.25


def test_the_placeholder_of_an_archive_is_no_archive(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    from biomedica.train.loop import train

    for settings in (load_train("tiny"), load_train("tiny", ["data.sources=[]"])):
        with pytest.raises(ConfigError, match=r"data\.sources names no archive; --set"):
            train(settings, tmp_path / "run")
        assert not (tmp_path / "run").exists()
