"""Text-image models: made from every kind of source, saved, reloaded by open_clip, converted, merged, counted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

import biomedica
from biomedica.clip import (
    Made,
    ModelSettings,
    build,
    cost,
    merge,
    merge_folders,
    plan,
    relocate,
    save,
    sweep,
    to_transformers,
)
from biomedica.errors import ConfigError

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")
pytest.importorskip("transformers")
pytestmark = pytest.mark.clients

RECIPES = sorted((Path(biomedica.__file__).parent / "data" / "train").glob("*.toml"))
DINOV2 = Path(__file__).parents[2] / "shared" / "corpus" / "models" / "dinov2_vits14.onnx"
IMAGE_TOWER = "test_vit"  # timm's own for tests: 160 pixels, three blocks
TINY = {"name": "models/tiny.json"}
TEXTS = ["CT of the chest, arrow: abscess", "H&E stain, 40x; bar 50 µm", "a" * 400]


@pytest.fixture(autouse=True, scope="module")
def offline() -> Any:
    """The hub's client asks nobody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


def write_bert(folder: Path, *, vocabulary: int = 0, **changes: Any) -> Path:
    """A folder of transformers with a small BERT: its shape and its tokenizer, no weights."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *(f"##{each}" for each in letters),
    ]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    shape = {
        "vocab_size": vocabulary or len(words),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **shape, **changes}))
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("towers") / "bert")


def towers(text_tower: Path, **changes: Any) -> ModelSettings:
    """Small towers, started at random."""
    usual = {
        "text_weights": "none",
        "context_length": 24,
        "embed_dim": 16,
        "image_tower": IMAGE_TOWER,
    }
    return ModelSettings(text_tower=str(text_tower), **{**usual, **changes})


def pictures(made: Made, count: int = 2) -> Any:
    generator = torch.Generator().manual_seed(1)
    size = made.preprocess.size
    return torch.randn(count, 3, size, size, generator=generator)


def outputs(made: Made) -> list[Any]:
    made.model.eval()
    with torch.inference_mode():
        return list(made.model(pictures(made, len(TEXTS)), made.tokenizer(TEXTS)))


def equal(first: list[Any], second: list[Any]) -> bool:
    return all(a.equal(b) for a, b in zip(first, second, strict=True))


def numel(part: Any) -> int:
    return sum(each.numel() for each in part.parameters())


# made


def test_random_weights_follow_the_seed_alone(bert: Path) -> None:
    before = torch.get_rng_state()
    first, again, other = (build(towers(bert), seed=each) for each in (1, 1, 2))
    assert torch.get_rng_state().equal(before)
    assert equal(outputs(first), outputs(again))
    assert not equal(outputs(first)[:2], outputs(other)[:2])


def test_a_named_architecture_and_a_model_file() -> None:
    tiny = build(ModelSettings(**TINY))
    assert type(tiny.model).__name__ == "CLIP"
    assert (tiny.preprocess.size, tiny.settings.context_length) == (64, 77)
    assert tiny.tokenizer(TEXTS).shape == (3, 77)
    longer = build(ModelSettings(**TINY, context_length=32, image_size=96))
    assert longer.preprocess.size == 96
    assert longer.tokenizer(TEXTS).shape == (3, 32)
    assert len(outputs(longer)) == 3


def test_tower_with_weights_of_its_own(bert: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModel

    folder = tmp_path / "trained"
    shutil.copytree(bert, folder)
    own = AutoModel.from_config(AutoConfig.from_pretrained(bert))
    own.to(torch.bfloat16).save_pretrained(folder)
    made = build(towers(folder, text_weights="pretrained"))
    found = made.model.text.transformer.embeddings.word_embeddings.weight
    assert found.dtype == torch.float32  # transformers would keep the type of the file
    assert found.equal(own.embeddings.word_embeddings.weight.float())
    assert made.model.text.transformer.pooler is None
    # else dropout would begin with the first evaluation, which a resumed run does not make again
    assert all(each.training for each in made.model.modules())


def test_pooling_and_projection(bert: Path) -> None:
    mean = build(towers(bert, text_pooling="mean", text_proj="linear", image_proj="mlp"))
    assert mean.model.text.proj.weight.shape == (16, 32)
    none = build(towers(bert, text_proj="none", embed_dim=32))
    assert numel(none.model.text.proj) == 0
    with pytest.raises(ConfigError, match="32 wide and embed_dim 16"):
        build(towers(bert, text_proj="none"))


def test_modern_bert(tmp_path: Path, bert: Path) -> None:
    """open_clip 3.3 cannot make this tower; here it is made, saved and loaded."""
    folder = write_bert(tmp_path / "modern", model_type="modernbert", pad_token_id=0)
    values = json.loads((folder / "config.json").read_text())
    values |= {
        "global_attn_every_n_layers": 2,
        "local_attention": 8,
        "cls_token_id": 2,
        "sep_token_id": 3,
    }
    (folder / "config.json").write_text(json.dumps(values))
    made = build(
        towers(
            folder, tokenizer=str(bert), text_pooling="mean", lock_text=True, unlocked_text_layers=1
        )
    )
    learning = {name for name, each in made.model.text.named_parameters() if each.requires_grad}
    assert learning and all(
        "layers.1." in name or "final_norm" in name or "proj" in name for name in learning
    )
    save(tmp_path / "saved", made, {})
    again = build(ModelSettings(name=f"local-dir:{tmp_path / 'saved'}"))
    assert equal(outputs(made), outputs(again))
    assert "modernbert" in (tmp_path / "saved" / "README.md").read_text()


def test_another_picture_size(bert: Path, tmp_path: Path) -> None:
    made = build(towers(bert, image_size=96, image_normalisation="tower"))
    assert made.preprocess.size == 96
    assert made.preprocess.mean == (0.5, 0.5, 0.5)
    save(tmp_path / "saved", made, {})
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'saved'}")
    model.eval()
    with torch.inference_mode():
        assert model.encode_image(pictures(made)).equal(
            made.model.eval().encode_image(pictures(made))
        )


def test_image_weights_from_a_file(bert: Path, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    trunk = timm.create_model(IMAGE_TOWER, num_classes=7)
    save_file(trunk.state_dict(), tmp_path / "weights.safetensors")
    made = build(towers(bert, image_weights=str(tmp_path / "weights.safetensors"), image_size=96))
    assert made.model.visual.trunk.blocks[0].attn.qkv.weight.equal(trunk.blocks[0].attn.qkv.weight)
    other = timm.create_model("test_vit2", num_classes=0)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="does not fit the image tower"):
        build(towers(bert, image_weights=str(tmp_path / "other.safetensors")))


def test_locks_dropout_and_checkpointing_train(bert: Path) -> None:
    changes = {
        "lock_image": True,
        "unlocked_image_groups": 1,
        "lock_text": True,
        "unlocked_text_layers": 1,
    }
    made = build(towers(bert, **changes, patch_dropout=0.5, grad_checkpointing=True))
    text = made.model.text.transformer
    assert not any(each.requires_grad for each in text.embeddings.parameters())
    assert not any(each.requires_grad for each in text.encoder.layer[0].parameters())
    image, texts, scale = made.model.train()(pictures(made), made.tokenizer(TEXTS[:2]))
    (scale * image @ texts.T).sum().backward()
    assert text.encoder.layer[1].output.dense.weight.grad is not None
    assert made.model.visual.trunk.patch_embed.proj.weight.grad is None
    assert made.model.visual.head.proj.weight.grad is not None
    native = build(ModelSettings(**TINY, lock_text=True, lock_image=True, grad_checkpointing=True))
    assert [name for name, each in native.model.named_parameters() if each.requires_grad] == [
        "logit_scale"
    ]


def test_sigmoid_loss_has_its_bias(tmp_path: Path) -> None:
    base = build(ModelSettings(**TINY))
    torch.save({"state_dict": base.model.state_dict()}, tmp_path / "base.pt")
    start = {"init_logit_bias": -10.0, "init_logit_scale": 2.3}
    made = build(ModelSettings(**TINY, pretrained=str(tmp_path / "base.pt"), **start))
    assert made.model.logit_bias.item() == -10
    assert made.model.logit_scale.equal(base.model.logit_scale)
    assert build(ModelSettings(**TINY, **start)).model.logit_scale.item() == pytest.approx(2.3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "names nothing"),
        ({"name": "ViT-L-14s"}, "did you mean 'ViT-L-14'"),
        ({"name": "hf-hub:laion/x"}, "hf download laion/x --local-dir FOLDER"),
        ({"name": "ViT-B-32", "pretrained": "nothing"}, "no tag of ViT-B-32"),
        ({"name": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"}, "hf download laion/"),
        ({"name": "local-dir:/nowhere"}, "/nowhere"),
        ({"name": "models/nothing.json"}, "No such file"),
        (
            {"image_tower": IMAGE_TOWER, "text_tower": "someone/bert"},
            "hf download someone/bert --local-dir",
        ),
        ({"image_tower": IMAGE_TOWER, "text_tower": "/nowhere/bert"}, "no such folder"),
        (
            {"image_tower": IMAGE_TOWER, "text_tower": "package:no_such_model/model"},
            "pip install no-such-model",
        ),
        ({"name": "ViT-B-32", "image_tower": IMAGE_TOWER}, "image_tower has no place"),
    ],
)
def test_what_cannot_be_made_says_what_would_do(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(ModelSettings(**settings))


def test_towers_that_lack_something(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no weights"):
        build(towers(bert, text_weights="pretrained"))
    with pytest.raises(ConfigError, match="ends at 64"):
        build(towers(bert, context_length=65))
    with pytest.raises(ConfigError, match="hf download timm/"):
        build(towers(bert, image_tower="vit_tiny_patch16_224", image_weights="pretrained"))
    with pytest.raises(ConfigError, match="no_such_tower cannot be made"):
        build(towers(bert, image_tower="no_such_tower"))
    bare = shutil.copytree(bert, tmp_path / "bare")
    (bare / "vocab.txt").unlink()
    with pytest.raises(ConfigError, match="has no tokenizer"):
        build(towers(bare))
    assert build(towers(bare, tokenizer=str(bert))).tokenizer(TEXTS).shape == (3, 24)


# the published checkpoint


@pytest.mark.slow
def test_biomedclip_has_the_published_size_and_keys(tmp_path: Path) -> None:
    """The published folder as it is downloaded: hub ids in its config, an old buffer in its weights."""
    shape = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    shape |= {"intermediate_size": 3072, "max_position_embeddings": 512}
    folder = write_bert(tmp_path / "bert", vocabulary=30522, **shape)
    made = build(
        towers(folder, image_tower="vit_base_patch16_224", context_length=256, embed_dim=512)
    )
    assert (numel(made.model.visual), numel(made.model.text)) == (86_191_872, 109_710_848)
    assert numel(made.model) == 195_902_721
    state = made.model.state_dict()
    for key in (
        "visual.head.proj.weight",
        "text.proj.0.weight",
        "text.proj.2.weight",
        "logit_scale",
    ):
        assert key in state
    assert all(
        key.startswith(("visual.trunk.", "visual.head.", "text.", "logit_scale")) for key in state
    )
    state["text.transformer.embeddings.position_ids"] = torch.arange(512)[None]
    published = tmp_path / "published"
    published.mkdir()
    torch.save(state, published / "open_clip_pytorch_model.bin")
    hub = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
    config = made.config
    config["text_cfg"] |= {"hf_model_name": hub, "hf_tokenizer_name": hub}
    (published / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    )
    shutil.copy(folder / "vocab.txt", published)
    (published / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    loaded = build(ModelSettings(name=f"local-dir:{published}"))
    assert loaded.settings.context_length == 256
    assert equal(outputs(made), outputs(loaded))


# saved


RELOAD = """
import sys, warnings
warnings.simplefilter("error")
import open_clip, torch
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:" + sys.argv[1])
tokenizer = open_clip.get_tokenizer("local-dir:" + sys.argv[1])
asked = torch.load(sys.argv[2])
tokens = tokenizer(asked["texts"])
model.eval()
with torch.inference_mode():
    torch.save({"tokens": tokens, "found": list(model(asked["images"], tokens))}, sys.argv[3])
"""


def reloaded(folder: Path, made: Made, work: Path) -> dict[str, Any]:
    """What open_clip, in a process of its own in another directory, makes of a saved folder."""
    torch.save({"texts": TEXTS, "images": pictures(made, len(TEXTS))}, work / "asked.pt")
    subprocess.run(
        [
            sys.executable,
            "-c",
            RELOAD,
            str(folder),
            str(work / "asked.pt"),
            str(work / "answer.pt"),
        ],
        check=True,
        cwd="/",
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    answer: dict[str, Any] = torch.load(work / "answer.pt")
    return answer


@pytest.mark.parametrize("kind", ["towers", "tiny"])
def test_open_clip_loads_what_was_saved(kind: str, bert: Path, tmp_path: Path) -> None:
    made = build(towers(bert) if kind == "towers" else ModelSettings(**TINY))
    card = {"about": "For the test.", "metrics": {"recall": 0.5}, "licence": "mit"}
    save(tmp_path / "saved", made, card)
    save(tmp_path / "saved", made, card)  # a second one takes the first one's place
    assert [each.name for each in tmp_path.iterdir()] == ["saved"]
    readme = (tmp_path / "saved" / "README.md").read_text()
    assert "license: mit" in readme and "| recall | 0.5 |" in readme and str(bert) not in readme
    answer = reloaded(tmp_path / "saved", made, tmp_path)
    assert answer["tokens"].equal(made.tokenizer(TEXTS))
    assert equal(answer["found"], outputs(made))


def test_a_folder_may_move(bert: Path, tmp_path: Path) -> None:
    made = build(towers(bert, image_size=96))
    save(tmp_path / "first", made, {})
    (tmp_path / "first").rename(tmp_path / "second")
    assert equal(
        outputs(build(ModelSettings(name=f"local-dir:{tmp_path / 'second'}"))), outputs(made)
    )
    assert relocate(tmp_path / "second")
    assert not relocate(tmp_path / "second")
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'second'}")
    assert equal(outputs(replace(made, model=model)), outputs(made))


def test_save_replaces_models_only(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no model folder"):
        save(tmp_path, build(ModelSettings(**TINY)), {})
    assert (tmp_path / "notes.txt").read_text() == "mine"


# converted


@pytest.mark.parametrize("quick", [True, False])
def test_transformers_gives_the_same(quick: bool, tmp_path: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    config = json.loads(
        (Path(biomedica.__file__).parent / "data" / "models" / "tiny.json").read_text()
    )
    (tmp_path / "clip.json").write_text(json.dumps({**config, "quick_gelu": quick}))
    made = build(ModelSettings(name=str(tmp_path / "clip.json")), seed=3)
    save(tmp_path / "saved", made, {})
    to_transformers(tmp_path / "saved", tmp_path / "converted")
    model = CLIPModel.from_pretrained(tmp_path / "converted").eval()
    processor = CLIPProcessor.from_pretrained(tmp_path / "converted")
    inputs = processor.tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="pt")
    tokens = made.tokenizer(TEXTS)
    assert inputs["input_ids"][tokens != 0].equal(tokens[tokens != 0])
    with torch.inference_mode():
        found = model(**inputs, pixel_values=pictures(made, len(TEXTS)))
    image, text, scale = outputs(made)
    torch.testing.assert_close(found.image_embeds, image, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.text_embeds, text, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.logits_per_image, scale * image @ text.T, atol=1e-4, rtol=0)


def test_transformers_has_no_such_model(bert: Path, tmp_path: Path) -> None:
    save(tmp_path / "saved", build(towers(bert)), {})
    with pytest.raises(ConfigError, match=f"timm's {IMAGE_TOWER}"):
        to_transformers(tmp_path / "saved", tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


# merged


def test_merge_goes_from_base_to_tuned(tmp_path: Path) -> None:
    base, tuned = (build(ModelSettings(**TINY), seed=each) for each in (1, 2))
    states = base.model.state_dict(), tuned.model.state_dict()
    for alpha, end in ((0.0, states[0]), (1.0, states[1])):
        assert all(value.equal(end[key]) for key, value in merge(*states, alpha).items())
    key = "visual.conv1.weight"
    torch.testing.assert_close(
        merge(*states, 0.25)[key], 0.25 * states[1][key] + 0.75 * states[0][key]
    )
    found = sweep(*states, [0, 0.5, 1], lambda state: float(state["logit_scale"]))
    assert [each.alpha for each in found] == [0, 0.5, 1]
    save(tmp_path / "base", base, {})
    save(tmp_path / "tuned", tuned, {})
    merge_folders(tmp_path / "base", tmp_path / "tuned", tmp_path / "merged", 0.5, {})
    merged = build(ModelSettings(name=f"local-dir:{tmp_path / 'merged'}")).model.state_dict()
    assert merged[key].equal(merge(*states, 0.5)[key])


def test_merge_refuses_strangers() -> None:
    one = {"a": torch.zeros(2), "n": torch.tensor(1)}
    with pytest.raises(ConfigError, match="keys 1 missing"):
        merge(one, {"a": torch.zeros(2)}, 0.5)
    with pytest.raises(ConfigError, match=r"a is \(3,\)"):
        merge(one, {**one, "a": torch.zeros(3)}, 0.5)
    with pytest.raises(ConfigError, match="n counts"):
        merge(one, {**one, "n": torch.tensor(2)}, 0.5)
    with pytest.raises(ConfigError, match="alpha is 2"):
        merge(one, one, 2)


# counted


def test_cost_of_a_transformer_is_what_arithmetic_says() -> None:
    found = cost(ModelSettings(**TINY))
    tokens, width, layers = 65, 128, 4
    blocks = layers * (24 * tokens * width**2 + 4 * tokens**2 * width)
    ends = 2 * 64 * (3 * 8 * 8) * width + 2 * width * 64
    assert found.image_forward == blocks + ends
    assert found.image_backward == pytest.approx(2 * found.image_forward, rel=0.03)
    made = build(ModelSettings(**TINY))
    assert found.parameters == numel(made.model) == found.trainable
    assert found.image_parameters + found.text_parameters + 1 == found.parameters


def test_cost_of_locks_checkpointing_and_dropout(bert: Path) -> None:
    full = cost(towers(bert))
    locked = cost(towers(bert, lock_image=True, lock_text=True))
    twice = cost(towers(bert, grad_checkpointing=True))
    dropped = cost(towers(bert, patch_dropout=0.5))
    assert locked.image_forward == full.image_forward
    assert locked.image_backward < full.image_backward / 100
    assert locked.trainable < full.trainable
    assert twice.image_backward > full.image_backward + full.image_forward / 2
    assert twice.text_backward > full.text_backward + full.text_forward / 2
    assert dropped.image_forward < 0.7 * full.image_forward


def test_plan_is_arithmetic() -> None:
    found = cost(ModelSettings(**TINY))
    made = plan(
        found,
        num_samples=1000,
        epochs=3,
        batch=256,
        accelerator="A100",
        precision="bf16",
        utilisation=0.5,
    )
    assert (made.samples, made.steps) == (3000, 12)
    assert made.gpu_hours == pytest.approx(3000 * found.flops / 156e12 / 3600)
    with pytest.raises(ConfigError, match="V100 has fp32, fp16"):
        plan(found, num_samples=1, epochs=1, batch=1, accelerator="V100", precision="bf16")
    with pytest.raises(ConfigError, match="known are V100"):
        plan(found, num_samples=1, epochs=1, batch=1, accelerator="abacus")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_counted_offline(path: Path) -> None:
    recipe = tomllib.loads(path.read_text())
    assert recipe["about"].strip()
    assert recipe.keys() == {"about", "model", "data", "optimizer", "images"}
    settings = TypeAdapter(ModelSettings).validate_python(recipe["model"])
    found = cost(settings)
    assert found.trainable <= found.parameters
    if path.stem == "biomedclip-vit-b-16":
        assert found.parameters == 195_902_721
    if path.stem.startswith("bmc-clip"):
        samples = {"full": 24_000_000, "concept-balanced": 8_000_000, "concept-filtered": 6_000_000}
        made = plan(
            found,
            num_samples=samples[recipe["data"]["sources"][0]["view"]],
            epochs=recipe["data"]["epochs"],
            batch=recipe["optimizer"]["batch"],
        )
        assert made.samples == 216_000_000


# DINOv2


@pytest.mark.corpus
@pytest.mark.skipif(not DINOV2.is_file(), reason=f"{DINOV2} is not here")
def test_dinov2_from_onnx_gives_the_same_vectors(bert: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    changes = {
        "image_tower": "vit_small_patch14_dinov2",
        "image_size": 224,
        "image_weights": str(DINOV2),
    }
    made = build(towers(bert, **changes, image_normalisation="tower", lock_image=True))
    images = pictures(made)
    with torch.inference_mode():
        found = made.model.visual.trunk.eval().forward_features(images)[:, 0].numpy()
    session = onnxruntime.InferenceSession(str(DINOV2), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0][:, 0]
    assert abs(found - wanted).max() < 1e-3
    assert made.preprocess.mean == pytest.approx((0.485, 0.456, 0.406))
