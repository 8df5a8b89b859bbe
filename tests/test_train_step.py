"""One step of training: the same loss and gradients however the batch is cut; rates, groups, mean, precision."""

# ruff: noqa: E402 (the program's own modules need what may not be installed)
from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")
pytest.importorskip("timm")
pytest.importorskip("transformers")

from biomedica.clip import ModelSettings, build
from biomedica.errors import ConfigError
from biomedica.stream import TextSettings, open_samples
from biomedica.stream.loader import Stream
from biomedica.stream.pixels import Pixels, PixelSettings
from biomedica.train.groups import parameter_groups
from biomedica.train.mean import MeanWeights
from biomedica.train.settings import OptimizerSettings
from biomedica.train.step import Stepper
from biomedica.train.world import World
from test_clip import towers, write_bert
from train_runs import coloured_archive, log_of, losses, newest, run, settings_of, write_model

pytestmark = pytest.mark.clients

ALONE = World(0, 1, torch.device("cpu"), "alone")
SIGLIP = {"init_logit_bias": -10.0, "init_logit_scale": 2.3}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors are quicker so, and two busy cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coloured_archive(tmp_path_factory.mktemp("coloured"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def stepper(
    model: ModelSettings, num_steps: int = 100, world: World = ALONE, **optimizer: Any
) -> Stepper:
    """A model and its optimizer, always from the same weights."""
    made = build(model, seed=3)
    made.model.output_dict = True
    settings = OptimizerSettings(**{"batch": 16, "lr": 1e-3, **optimizer})
    return Stepper(made, made.model, settings, world, num_steps)


def batch(count: int, size: int = 32, per_image: int = 1, seed: int = 0) -> tuple[Any, Any]:
    """Pictures and tokens of no meaning."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=random)
    tokens = torch.randint(1, 49000, (count, per_image, 16), generator=random)
    tokens[:, :, 12:] = 0
    tokens[:, :, 11] = 49407
    return images, tokens


def gradients(made: Stepper) -> dict[str, Any]:
    found = {n: p.grad.clone() for n, p in made.model.named_parameters() if p.grad is not None}
    assert found
    return found


def assert_close(first: dict[str, Any], second: dict[str, Any], tolerance: float) -> None:
    """Differences against the largest gradient of the same parameter."""
    assert first.keys() == second.keys()
    for name in first:
        size = float(first[name].abs().max()) + 1e-6
        assert float((first[name] - second[name]).abs().max()) / size < tolerance, name


# the batch in parts


@pytest.mark.parametrize("loss", ["clip", "siglip"])
@pytest.mark.parametrize("per_image", [1, 2])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_parts_give_the_gradient_of_the_whole(
    model: Path, loss: str, per_image: int, checkpointing: bool
) -> None:
    extra = SIGLIP if loss == "siglip" else {}
    chosen = ModelSettings(name=str(model), grad_checkpointing=checkpointing, **extra)
    whole = stepper(chosen, loss=loss)
    parts = stepper(chosen, loss=loss, accumulate=4)
    some = batch(16, per_image=per_image)
    one, other = (each.step(0, *some, seed=0).loss for each in (whole, parts))
    assert float(one) == pytest.approx(float(other), rel=1e-5)
    assert_close(gradients(whole), gradients(parts), 1e-3)
    if loss == "siglip":
        assert "logit_bias" in gradients(parts)


@pytest.mark.parametrize(("accumulate", "per_image"), [(1, 1), (2, 1), (4, 2)])
def test_both_forward_passes_drop_the_same_patches(
    tmp_path: Path, accumulate: int, per_image: int
) -> None:
    """The gradient is that of the loss that is reported, by a plain pass with the same draws."""
    chosen = ModelSettings(name=str(write_model(tmp_path)), patch_dropout=0.5)
    images, tokens = batch(16, per_image=per_image)
    learned = stepper(chosen, accumulate=accumulate)
    loss = learned.step(7, images, tokens, seed=5).loss
    plain = stepper(chosen)
    torch.manual_seed((5 * 1_000_003 + 7) * 4099)
    found = [
        plain.forward(*part)
        for part in zip(images.chunk(accumulate), tokens.chunk(accumulate), strict=True)
    ]
    features = {name: torch.cat([each[name] for each in found]) for name in ("image", "text")}
    expected = plain.loss({**features, "scale": found[0]["scale"]})
    expected.backward()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert_close(gradients(learned), gradients(plain), 1e-3)
    undropped = stepper(ModelSettings(name=chosen.name)).step(7, images, tokens, seed=5).loss
    assert abs(float(loss) - float(undropped)) > 1e-4  # the model is in training mode


def test_draws_of_dropout_are_those_of_the_step_alone(model: Path) -> None:
    chosen = ModelSettings(name=str(model), patch_dropout=0.5)
    some = batch(16)
    found = {
        (seed, number): float(stepper(chosen).step(number, *some, seed=seed).loss)
        for seed, number in [(0, 1), (0, 2), (1, 1)]
    }
    assert len(set(found.values())) == 3
    torch.rand(3)
    assert float(stepper(chosen).step(2, *some, seed=0).loss) == found[0, 2]


def test_loss_curve_does_not_depend_on_accumulation(
    archive: Path, model: Path, tmp_path: Path
) -> None:
    """Of a run: once 64 and four times 16."""
    usual = ["optimizer.batch=64", "data.epochs=6"]
    for parts in (1, 4):
        run(
            settings_of(archive, model, *usual, f"optimizer.accumulate={parts}"),
            tmp_path / str(parts),
        )
    one, other = losses(tmp_path / "1"), losses(tmp_path / "4")
    assert len(one) == 6 * 96 // 64
    for (step, a), (again, b) in zip(one, other, strict=True):
        assert step == again and a == pytest.approx(b, abs=1e-5)
    first, second = (newest(tmp_path / name)["model"] for name in ("1", "4"))
    for (
        name
    ) in first:  # AdamW makes a step of lr of the least difference where a gradient is all but 0
        assert float((first[name] - second[name]).abs().max()) < 1e-4, name


# the loop against a plain one


def test_loss_of_each_step_is_that_of_a_plain_loop(
    archive: Path, model: Path, tmp_path: Path
) -> None:
    steps, lr, warmup = 9, 1e-3, 2
    run(settings_of(archive, model), tmp_path / "run")
    made = build(ModelSettings(name=str(model)), seed=0)
    stream = Stream(
        open_samples(archive, "all", "train"),
        batch=32,
        epochs=3,
        pixels=Pixels(PixelSettings(size=32, scale=(0.9, 1.0))),
        texts=TextSettings(),
        tokenizer=made.tokenizer,
        drop_last=True,
    )
    matrices = [p for p in made.model.parameters() if p.ndim >= 2]
    vectors = [p for p in made.model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.2}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-6)
    contrast = open_clip.ClipLoss()
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in (made.preprocess.mean, made.preprocess.std)
    )
    expected = []
    for number, some in enumerate(stream):
        share = (number - warmup) / (steps - warmup)
        rate = (number + 1) / warmup if number < warmup else 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = lr * rate
        optimizer.zero_grad()
        loss = contrast(
            *made.model((some.images.float() / 255 - mean) / std, some.tokens.squeeze(1))
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(made.model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            made.model.logit_scale.clamp_(0, math.log(100))
        expected.append((number + 1, float(loss.detach())))
    found = losses(tmp_path / "run")
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected], abs=1e-5)


def test_the_loop_learns(archive: Path, model: Path, tmp_path: Path) -> None:
    """Colours that captions name are found again in articles that were held out."""
    task = f'{{name="held", archive="{archive}", view="all", split="test"}}'
    settings = settings_of(
        archive, model, "data.epochs=25", f"run.tasks=[{task}]", "optimizer.lr=0.002"
    )
    found = run(settings, tmp_path / "run")
    scores = found.scores["held"]
    assert scores["num_texts"] == 8
    start = next(line for line in log_of(tmp_path / "run") if "held/image_to_text/1" in line)
    assert start["step"] == 0 and start["held/image_to_text/1"] < 0.5
    assert scores["image_to_text"]["1"] > 0.9 and scores["text_to_image"]["1"] > 0.9
    assert scores["chance"]["1"] < 0.25
    saved = build(ModelSettings(name=f"local-dir:{tmp_path / 'run' / 'model'}"))
    from biomedica.train.retrieval import evaluate

    again = evaluate(saved, open_samples(archive, "all", "test"), max_samples=32)
    assert again.image_to_text == scores["image_to_text"]
    assert again.intervals == {k: tuple(v) for k, v in scores["intervals"].items()}


# rates and groups


@pytest.mark.parametrize(
    ("warmup", "steps"), [(0, 10), (1, 10), (3, 10), (10, 10), (20, 200), (12, 10)]
)
def test_rate_is_that_of_open_clip(model: Path, warmup: int, steps: int) -> None:
    scheduler = pytest.importorskip("open_clip_train.scheduler")
    made = stepper(ModelSettings(name=str(model)), steps, warmup_steps=warmup, lr=3e-4)
    reference = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    cosine = scheduler.cosine_lr(reference, 3e-4, warmup, steps)
    constant = stepper(
        ModelSettings(name=str(model)), steps, warmup_steps=warmup, lr=3e-4, schedule="constant"
    )
    for number in range(steps):
        assert made.rate(number) == pytest.approx(cosine(number), rel=1e-12)
        rising = 3e-4 * min(1, (number + 1) / max(1, warmup))
        assert constant.rate(number) == pytest.approx(rising, rel=1e-12)


def grouped(made: Any, **changes: Any) -> dict[str, tuple[float, float]]:
    """Weight decay and factor of the rate of each learning parameter, each in one group."""
    settings = OptimizerSettings(**changes)
    names = {id(p): n for n, p in made.model.named_parameters()}
    found: dict[str, tuple[float, float]] = {}
    for group in parameter_groups(made.model.named_parameters(), settings):
        for each in group["params"]:
            assert names[id(each)] not in found
            found[names[id(each)]] = (group["weight_decay"], group["scale"])
    return found


def test_decay_is_for_matrices_only(model: Path) -> None:
    made = build(ModelSettings(name=str(model), init_logit_bias=-10.0))
    found = grouped(made, weight_decay=0.3)
    for name, each in made.model.named_parameters():
        assert found[name] == (0.3 if each.ndim >= 2 else 0.0, 1.0), name
    assert {"logit_scale", "logit_bias", "visual.conv1.weight"} <= found.keys()


def test_layers_of_open_clip_have_their_depth(model: Path) -> None:
    found = grouped(build(ModelSettings(name=str(model))), layer_decay=0.5)
    expected = {
        "visual.conv1.weight": 3,
        "visual.class_embedding": 3,
        "visual.positional_embedding": 3,
        "visual.ln_pre.weight": 3,
        "visual.transformer.resblocks.0.attn.in_proj_weight": 2,
        "visual.transformer.resblocks.1.mlp.c_fc.bias": 1,
        "visual.ln_post.weight": 0,
        "visual.proj": 0,
        "token_embedding.weight": 2,
        "positional_embedding": 2,
        "transformer.resblocks.0.ln_1.weight": 1,
        "ln_final.weight": 0,
        "text_projection": 0,
        "logit_scale": 0,
    }
    assert {name: found[name][1] for name in expected} == {n: 0.5**d for n, d in expected.items()}


def test_layers_of_timm_and_transformers_have_their_depth(tmp_path: Path) -> None:
    made = build(towers(write_bert(tmp_path / "bert")))
    found = grouped(made, layer_decay=0.5)
    blocks = len(made.model.visual.trunk.blocks)
    expected = {
        "visual.trunk.cls_token": blocks + 1,
        "visual.trunk.pos_embed": blocks + 1,
        "visual.trunk.patch_embed.proj.weight": blocks + 1,
        "visual.trunk.blocks.0.attn.qkv.weight": blocks,
        f"visual.trunk.blocks.{blocks - 1}.attn.qkv.weight": 1,
        "visual.trunk.norm.weight": 0,
        "visual.head.proj.weight": 0,
        "text.transformer.embeddings.word_embeddings.weight": 3,
        "text.transformer.embeddings.LayerNorm.weight": 3,
        "text.transformer.encoder.layer.0.attention.self.query.weight": 2,
        "text.transformer.encoder.layer.1.output.dense.weight": 1,
        "text.proj.0.weight": 0,
        "logit_scale": 0,
    }
    assert {name: found[name][1] for name in expected} == {n: 0.5**d for n, d in expected.items()}


@pytest.mark.parametrize(
    ("tower", "first"),
    [
        ("vit_small_patch14_reg4_dinov2", ("cls_token", "reg_token", "pos_embed", "patch_embed.proj.weight")),
        ("vit_base_patch16_clip_224", ("cls_token", "norm_pre.weight", "patch_embed.proj.weight")),
        ("convnext_tiny", ("stem.0.weight", "stem.1.weight")),
    ],
)  # fmt: skip
def test_inputs_of_other_towers_are_the_deepest(tower: str, first: tuple[str, ...]) -> None:
    import timm

    from biomedica.train.groups import depth

    with torch.device("meta"):
        names = [n for n, _ in timm.create_model(tower, num_classes=0).named_parameters()]
    most = 1 + max(depth(f"visual.trunk.{name}", 0) for name in names)
    assert most > 3
    assert set(first) <= set(names)
    assert {name: depth(f"visual.trunk.{name}", most) for name in first} == dict.fromkeys(first, 0)
    assert depth("visual.trunk.norm.weight", most) == most


def test_layers_of_a_resnet_have_their_depth() -> None:
    from biomedica.train.groups import depth

    names = ["visual.conv1.weight", "visual.layer1.0.conv1.weight", "visual.layer4.2.bn3.bias"]
    names += ["visual.attnpool.positional_embedding", "visual.attnpool.c_proj.weight"]
    assert [depth(name, 5) for name in names] == [0, 2, 5, 5, 5]


def test_locked_towers_are_not_optimized(tmp_path: Path) -> None:
    locked = towers(write_bert(tmp_path / "bert"), lock_image=True, lock_text=True)
    made = build(locked)
    found = grouped(made)
    assert found.keys() == {n for n, p in made.model.named_parameters() if p.requires_grad}
    assert not [name for name in found if ".trunk." in name or ".transformer." in name]
    with pytest.raises(ConfigError, match="no weights are left"):
        parts = build(locked)
        parts.model.requires_grad_(False)
        Stepper(parts, parts.model, OptimizerSettings(), ALONE, 1)


def test_locked_towers_stay_as_they_are(tmp_path: Path) -> None:
    made = stepper(towers(write_bert(tmp_path / "bert"), lock_image=True), weight_decay=0.5)
    before = {n: p.detach().clone() for n, p in made.model.named_parameters()}
    images, _ = batch(8, size=made.made.preprocess.size)
    texts = made.made.tokenizer([f"picture {i}" for i in range(8)]).unsqueeze(1)
    made.step(0, images, texts, seed=0)
    changed = {n for n, p in made.model.named_parameters() if not p.equal(before[n])}
    assert not [n for n in changed if n.startswith("visual.trunk")]
    assert "text.transformer.encoder.layer.0.output.dense.weight" in changed
    assert "visual.head.proj.weight" in changed


# mean, clipping, precision


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_mean_of_the_weights(decay: float) -> None:
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    seen = [model.weight.detach().clone()]
    mean = MeanWeights(model, decay)
    for number in range(4):
        with torch.no_grad():
            model.weight += number + 1
        seen.append(model.weight.detach().clone())
        mean.update(model)
    expected = seen[0]
    for each in seen[1:]:
        expected = decay * expected + (1 - decay) * each
    with mean.in_place(model):
        assert model.weight.allclose(expected if decay else seen[-1], atol=1e-6)
    assert model.weight.equal(seen[-1])
    with pytest.raises(RuntimeError), mean.in_place(model):
        raise RuntimeError
    assert model.weight.equal(seen[-1])
    other = MeanWeights(model, decay)
    other.load(mean.state())
    with other.in_place(model):
        assert model.weight.allclose(expected if decay else seen[-1], atol=1e-6)


def test_a_run_keeps_and_saves_the_mean(archive: Path, model: Path, tmp_path: Path) -> None:
    run(settings_of(archive, model, "optimizer.ema=0.8"), tmp_path / "run")
    content = newest(tmp_path / "run")
    saved = build(ModelSettings(name=f"local-dir:{tmp_path / 'run' / 'model'}")).model.state_dict()
    for name, each in content["mean"].items():
        assert saved[name].equal(each), name
    assert not saved["visual.proj"].equal(content["model"]["visual.proj"])


@pytest.mark.parametrize("largest", [0.01, 1e6])
def test_gradients_are_clipped(model: Path, largest: float) -> None:
    chosen, some = ModelSettings(name=str(model)), batch(16)
    free, clipped = stepper(chosen), stepper(chosen, grad_clip=largest)
    assert free.step(0, *some, seed=0).grad_norm is None
    found = clipped.step(0, *some, seed=0).grad_norm
    norm = torch.stack([each.norm() for each in gradients(free).values()]).norm()
    assert float(found) == pytest.approx(float(norm), rel=1e-5)
    after = torch.stack([each.norm() for each in gradients(clipped).values()]).norm()
    assert float(after) == pytest.approx(min(largest, float(norm)), rel=1e-3)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_bfloat16_runs_on_a_cpu(model: Path, accumulate: int) -> None:
    chosen, some = ModelSettings(name=str(model)), batch(16)
    made = stepper(chosen, precision="bf16", accumulate=accumulate)
    exact = stepper(chosen)
    one, other = (float(each.step(0, *some, seed=0).loss) for each in (made, exact))
    assert one != other and one == pytest.approx(other, abs=0.1)
    assert {each.dtype for each in made.model.parameters()} == {torch.float32}
    states = [each for state in made.optimizer.state.values() for each in state.values()]
    assert {each.dtype for each in states} == {torch.float32}


def test_the_scale_stays_in_its_range(model: Path) -> None:
    for start, largest in [(6.0, 100.0), (2.0, 5.0), (-1.0, 100.0)]:
        made = stepper(
            ModelSettings(name=str(model), init_logit_scale=start), max_logit_scale=largest
        )
        made.step(0, *batch(16), seed=0)
        assert 0 <= made.model.logit_scale.item() <= math.log(largest) + 1e-6


def test_siglip_without_its_bias_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match="init_logit_bias"):
        stepper(ModelSettings(name=str(model)), loss="siglip")
