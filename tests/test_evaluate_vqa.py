"""Answers to questions about pictures: token features, the fusion head, options without training."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from benchmark_data import slake, task_of, vqa_rad
from biomedica import settings as stated
from biomedica.clip import Made, ModelSettings, build, save, to_transformers
from biomedica.config import load_settings
from biomedica.errors import ConfigError, EvaluationError
from biomedica.evaluate import protocols
from biomedica.evaluate.embeddings import Embeddings
from biomedica.evaluate.items import Items, Question
from biomedica.evaluate.readers import read_items, task_splits
from biomedica.evaluate.results import ITEMS
from biomedica.evaluate.run import Grid, run_grid
from biomedica.evaluate.settings import EvaluateSettings, FusionSettings
from biomedica.evaluate.vqa import (
    Found,
    items_rows,
    learn_and_answer,
    normal_answer,
    score_vqa_head,
    score_vqa_options,
    scores,
    vocabulary,
)
from biomedica.models import TorchEncoder, open_encoder
from biomedica.preprocessing import Preprocessing
from biomedica.run.engines import open_engine
from test_clip import write_bert
from vqa_pictures import MODEL, items_of, shapes, write_model

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")
pytest.importorskip("transformers")
pytestmark = pytest.mark.clients

from biomedica.evaluate.fusion import Fusion  # noqa: E402
from biomedica.evaluate.tokens import Tokens, TowerModel, Towers, resized, tower_model  # noqa: E402

SMALL = FusionSettings(
    width=16, layers=1, heads=2, lr_head=1e-3, lr_fusion=1e-3, epochs=2, batch=16
)
DRAWS = {"resamples": 200, "seed": 0}
WORDS = ["is there a cross?", "what", ""]


@pytest.fixture(autouse=True, scope="module")
def offline_and_alone() -> Iterator[None]:
    """The hub's client asks nobody; one thread, as the other tests have the other cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one layer in each tower, at random."""
    folder = tmp_path_factory.mktemp("model")
    save(folder / "small", build(ModelSettings(name=str(write_model(folder)))), {"about": "small"})
    return folder / "small"


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Any:
    return open_encoder(f"open_clip:local-dir:{folder}", fit="own")


@pytest.fixture(scope="module")
def small(encoder: Any) -> TowerModel:
    return tower_model(encoder)


def opened(made: Made) -> TowerModel:
    """As `open_encoder` has it."""
    size, tokenizer = made.preprocess.size, made.tokenizer
    given = Preprocessing(size=size, fit="crop", mean=made.preprocess.mean, std=made.preprocess.std)
    encoder = TorchEncoder(
        "made",
        made.model,
        given,
        "cpu",
        lambda model, pixels: model.encode_image(pixels),
        lambda model, words: model.encode_text(words["input_ids"]),
        lambda texts: {"input_ids": tokenizer(texts)},
    )
    return tower_model(encoder)


def of_towers(folder: Path, image: str, **changes: Any) -> TowerModel:
    """A tower of timm beside a small BERT."""
    usual = {"text_weights": "none", "context_length": 12, "embed_dim": 16}
    text = write_bert(folder / "bert")
    made = build(ModelSettings(image_tower=image, text_tower=str(text), **{**usual, **changes}))
    return opened(made)


def pixels_for(given: TowerModel, count: int = 2) -> Any:
    side = given.preprocessing.size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


# tokens: pooled as the model pools them, they are its embeddings


def test_tokens_of_open_clip(small: TowerModel) -> None:
    model = small.model
    towers, pixels, words = Towers(model), pixels_for(small), small.tokenize(WORDS)
    with torch.no_grad():
        images, texts = towers.images(pixels), towers.texts(words)
        pooled = images.values[:, 0] @ model.visual.proj
        assert torch.allclose(pooled, model.encode_image(pixels), atol=1e-5)
        last = texts.values[torch.arange(3), texts.mask.sum(dim=1) - 1]
        whole = model.encode_text(words["input_ids"])
        assert torch.allclose(last @ model.text_projection, whole, atol=1e-5)
    assert images.values.shape == (2, 5, 64) and images.mask.all()
    assert texts.mask.sum(dim=1).tolist() == [7, 3, 2] and texts.values.shape[1] == 7
    assert (towers.image_has_first, towers.text_has_first) == (True, False)


def test_tokens_of_a_text_tower_of_its_own(tmp_path: Path) -> None:
    """open_clip's TextTransformer, which a CustomTextCLIP has."""
    path = tmp_path / "custom.json"
    path.write_text(json.dumps({**MODEL, "custom_text": True}))
    given = opened(build(ModelSettings(name=str(path))))
    words = given.tokenize(WORDS)
    with torch.no_grad():
        found = Towers(given.model).texts(words)
        last = found.values[torch.arange(3), found.mask.sum(dim=1) - 1]
        whole = last @ given.model.text.text_projection
        assert torch.allclose(whole, given.model.encode_text(words["input_ids"]), atol=1e-5)


def test_tokens_of_timm_and_a_bert(tmp_path: Path) -> None:
    given = of_towers(tmp_path, "test_vit")
    model = given.model
    towers, pixels = Towers(model), pixels_for(given)
    words = given.tokenize(["is it", "what", ""])
    with torch.no_grad():
        images, texts = towers.images(pixels), towers.texts(words)
        whole = model.text.proj(texts.values[:, 0])
        assert torch.allclose(whole, model.encode_text(words["input_ids"]), atol=1e-5)
        whole = model.visual.head(model.visual.trunk.forward_head(images.values))
        assert torch.allclose(whole, model.encode_image(pixels), atol=1e-5)
    assert texts.mask[:, 0].all() and texts.values.shape[1] < words["input_ids"].shape[1]
    assert (towers.image_has_first, towers.text_has_first) == (True, True)


def test_tokens_of_convolutions(tmp_path: Path) -> None:
    """(B, C, H, W) of timm and of open_clip's ResNet becomes (B, H * W, C)."""
    given = of_towers(tmp_path, "test_resnet", text_pooling="mean")
    towers, pixels = Towers(given.model), pixels_for(given)
    with torch.no_grad():
        found = towers.images(pixels).values
        maps = given.model.visual.trunk.forward_features(pixels)
    assert found.shape == (2, maps.shape[2] * maps.shape[3], maps.shape[1])
    assert torch.equal(found[1, maps.shape[3] + 2], maps[1, :, 1, 2])
    assert (towers.image_has_first, towers.text_has_first) == (False, False)
    path = tmp_path / "resnet.json"
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}
    path.write_text(json.dumps({**MODEL, "vision_cfg": vision}))
    given = opened(build(ModelSettings(name=str(path))))
    with torch.no_grad():
        assert Towers(given.model).images(pixels_for(given)).values.shape == (2, 4, 256)


def test_transformers_gives_the_same_tokens(tmp_path: Path) -> None:
    """Of the same weights; its SigLIP, with no first token, learns too."""
    made = build(ModelSettings(name=str(write_model(tmp_path))))
    save(tmp_path / "ours", made, {"about": "small"})
    to_transformers(tmp_path / "ours", tmp_path / "theirs")
    ours = tower_model(open_encoder(f"open_clip:local-dir:{tmp_path / 'ours'}", fit="own"))
    theirs = tower_model(open_encoder(f"transformers:{tmp_path / 'theirs'}", fit="own"))
    first, second = Towers(ours.model), Towers(theirs.model)
    pixels = pixels_for(ours)
    with torch.no_grad():
        assert torch.allclose(first.images(pixels).values, second.images(pixels).values, atol=1e-4)
        a, b = first.texts(ours.tokenize(WORDS)), second.texts(theirs.tokenize(WORDS))
        assert torch.equal(a.mask, b.mask)
        assert torch.allclose(a.values[a.mask], b.values[b.mask], atol=1e-4)
    with pytest.raises(ConfigError, match="a CLIPModel of transformers takes 32 only"):
        resized(theirs, 64)


def test_tokens_of_siglip() -> None:
    from transformers import SiglipConfig, SiglipModel

    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    shape["num_attention_heads"] = 2
    text = {**shape, "vocab_size": 50, "max_position_embeddings": 8, "pad_token_id": 1}
    vision = {**shape, "image_size": 32, "patch_size": 16}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    towers = Towers(model)
    words = {"input_ids": torch.tensor([[4, 5, 2, 1, 1], [3, 1, 1, 1, 1]])}
    with torch.no_grad():
        found, pixels = towers.texts(words), torch.randn(2, 3, 32, 32)
        assert torch.equal(
            towers.images(pixels).values, model.vision_model(pixels).last_hidden_state
        )
    assert found.mask.tolist() == [[True, True, True], [True, False, False]]
    assert (towers.image_has_first, towers.text_has_first) == (False, False)


def test_an_unknown_tower_is_named(small: TowerModel) -> None:
    class Odd(torch.nn.Module):
        pass

    model = torch.nn.Module()
    model.visual = Odd()
    with pytest.raises(ConfigError, match=r"Odd gives no features.*ModifiedResNet"):
        Towers(model)
    model.visual, model.text = small.model.visual, Odd()
    with pytest.raises(ConfigError, match=r"Odd gives no features.*HFTextEncoder"):
        Towers(model)
    with pytest.raises(ConfigError, match=r"tiny gives no features of single.*open_clip:NAME"):
        tower_model(open_encoder("tiny"))


def test_larger_pictures(small: TowerModel, tmp_path: Path) -> None:
    larger = resized(small, 64)
    assert small.preprocessing.size == 32 and larger.preprocessing.size == 64
    assert small.model.visual.positional_embedding.shape[0] == 5
    with torch.no_grad():
        assert Towers(larger.model).images(pixels_for(larger)).values.shape[1] == 17
    with pytest.raises(ConfigError, match="multiple of 16"):
        resized(small, 40)
    with torch.no_grad():
        larger = resized(of_towers(tmp_path, "test_vit"), 192)
        assert Towers(larger.model).images(pixels_for(larger)).values.shape[1] == 145


# the head


def test_padding_changes_nothing() -> None:
    """A head's scores do not depend on what stands beside a question in its batch."""
    torch.manual_seed(0)
    head = Fusion((8, 6), (True, False), 5, replace(SMALL, layers=2)).eval()
    image = Tokens(torch.randn(1, 4, 8), torch.ones(1, 4, dtype=torch.bool))
    values = torch.randn(1, 3, 6)
    short = Tokens(values, torch.ones(1, 3, dtype=torch.bool))
    padded = torch.cat([values, torch.full((1, 2, 6), 9.0)], dim=1)
    long = Tokens(padded, torch.tensor([[True, True, True, False, False]]))
    with torch.no_grad():
        assert torch.allclose(head(image, short), head(image, long), atol=1e-6)


def test_wrong_settings_are_refused() -> None:
    for changes, words in (
        ({"width": 32}, "multiple of its heads"),
        ({"epochs": 0}, "evaluate.fusion.epochs is 0"),
        ({"dropout": 1.0}, "below 1"),
        ({"lr_towers": -1.0}, "fusion.lr_towers"),
        ({"warmup": 2.0}, "fusion.warmup"),
    ):
        with pytest.raises(ConfigError, match=words):
            replace(FusionSettings(), **changes)


def test_the_recipe_is_a_setting(tmp_path: Path) -> None:
    """In a file or on the command line; the page states each of its settings with its default."""
    path = tmp_path / "own.toml"
    path.write_text("[evaluate.fusion]\nwidth = 96\n")
    assert load_settings(path).evaluate.fusion == FusionSettings(width=96)
    found = load_settings(None, ["evaluate.fusion={epochs = 3, loss = 'binary'}"]).evaluate
    assert found.fusion == FusionSettings(epochs=3, loss="binary")
    with pytest.raises(ConfigError, match=r"evaluate.fusion is .*epoch"):
        load_settings(None, ["evaluate.fusion={epoch = 3}"])
    page = (Path(__file__).parent.parent / "docs" / "vqa.md").read_text()
    for name in stated.setting_docs(FusionSettings):
        default = getattr(FusionSettings(), name)
        assert f"| `{name}` | `{default}` |" in page, name


@pytest.mark.parametrize("changes", [{}, {"lr_towers": 1e-3}, {"image_size": 48, "loss": "binary"}])
def test_a_seed_gives_one_result(small: TowerModel, changes: dict[str, Any]) -> None:
    """Also where towers learn, and the model that was given stays as it was."""
    settings = replace(SMALL, **changes)
    before = {name: each.clone() for name, each in small.model.state_dict().items()}
    modes = [each.training for each in small.model.modules()]
    state = torch.get_rng_state()
    parts = shapes("train", 12), None, shapes("test", 6)
    first, again = (learn_and_answer(small, *parts, settings) for _ in range(2))
    other = learn_and_answer(small, *parts, replace(settings, seed=1))
    assert np.array_equal(first.scores_NV, again.scores_NV)
    assert not np.array_equal(first.scores_NV, other.scores_NV)
    assert torch.get_rng_state().equal(state)
    assert modes == [each.training for each in small.model.modules()]
    after = small.model.state_dict()
    assert all(each.equal(after[name]) for name, each in before.items())


@pytest.mark.parametrize("image", ["test_vit", "test_resnet"])
def test_other_towers_learn_in_bf16(tmp_path: Path, image: str) -> None:
    given = of_towers(tmp_path, image)
    settings = replace(SMALL, epochs=1, lr_towers=1e-4, precision="bf16")
    found = learn_and_answer(given, shapes("train", 8), None, shapes("test", 2), settings)
    assert found.scores_NV.shape == (4, len(found.answers)) and np.isfinite(found.scores_NV).all()


def test_memory_does_not_change_a_result(small: TowerModel) -> None:
    """Features that are kept and features that are computed again are the same."""
    parts = shapes("train", 12), shapes("validation", 4), shapes("test", 6)
    kept = learn_and_answer(small, *parts, SMALL)
    again = learn_and_answer(small, *parts, replace(SMALL, keep_gb=0))
    assert np.allclose(kept.scores_NV, again.scores_NV, atol=1e-4)


def test_the_best_epoch_counts(small: TowerModel) -> None:
    """By the validation split, else by groups held out of training, else the last."""
    told: list[Any] = []
    parts = shapes("train", 20), shapes("validation", 8), shapes("test", 4)
    found = learn_and_answer(small, *parts, replace(SMALL, epochs=4), told.append)
    values = [each.accuracy for each in told]
    assert found.details["best_epoch"] == values.index(max(values)) + 1
    assert [each.number for each in told] == [1, 2, 3, 4]
    assert found.details["validation"] == "its own split"
    held = learn_and_answer(small, parts[0], None, parts[2], replace(SMALL, validation_share=0.2))
    assert (held.details["train_items"], held.details["validation_items"]) == (32, 8)
    last = learn_and_answer(small, parts[0], None, parts[2], replace(SMALL, validation_share=0))
    assert (last.details["train_items"], last.details["best_epoch"]) == (40, 2)
    one_group = replace(parts[0], groups=("patient",) * 40)
    with pytest.raises(EvaluationError, match="all questions are of one group"):
        learn_and_answer(small, one_group, None, parts[2], SMALL)


def test_an_answer_that_training_lacks_is_wrong(small: TowerModel) -> None:
    train = shapes("train", 12)
    test = shapes("test", 4)
    asked = tuple(replace(each, answer="magenta") for each in test.questions or ())
    found = learn_and_answer(small, train, None, replace(test, questions=asked), SMALL)
    assert not found.right_N.any()
    assert found.details["test_answers_unknown"] == 8
    assert "magenta" not in found.answers
    rare = learn_and_answer(small, train, None, test, replace(SMALL, min_count=4))
    assert len(rare.answers) < len(found.answers)
    assert rare.details["train_items"] < found.details["train_items"]
    with pytest.raises(EvaluationError, match="no answer has 99 questions"):
        learn_and_answer(small, train, None, test, replace(SMALL, min_count=99))


def test_features_that_are_no_numbers_name_the_item(small: TowerModel) -> None:
    """Those of a picture, those of a question, and a training that runs away."""
    train, test = shapes("train", 12), shapes("test", 4)
    for part, value, words in (
        ("visual.ln_post.weight", float("nan"), r"task shapes, train, item 'train-.*its picture"),
        ("token_embedding.weight", float("inf"), r"task shapes, train, item 'train-.*its question"),
    ):
        broken = copy.deepcopy(small)
        with torch.no_grad():
            broken.model.get_parameter(part).fill_(value)
        with pytest.raises(EvaluationError, match=words):
            learn_and_answer(broken, train, None, test, SMALL)
    with pytest.raises(EvaluationError, match=r"item 'train-.*rates"):
        learn_and_answer(small, train, None, test, replace(SMALL, lr_head=1e30, lr_fusion=1e30))


def test_a_head_needs_both_the_picture_and_the_question(small: TowerModel) -> None:
    """On pictures that it never saw it beats what either of them gives away, by far."""
    parts = shapes("train", 600), shapes("validation", 60), shapes("test", 150)
    recipe = FusionSettings(
        width=64, layers=1, heads=4, dropout=0.0, lr_head=3e-3, lr_fusion=3e-3, epochs=20, batch=32
    )
    found = {
        use: learn_and_answer(small, *parts, replace(recipe, use=use))
        for use in ("both", "image", "question")
    }
    values = {use: float(each.right_N.mean()) for use, each in found.items()}
    assert values["both"] > max(values["image"], values["question"]) + 0.2, values
    assert values["image"] < 0.45 and values["question"] < 0.45
    details = found["both"].details
    assert values["both"] > details["most_frequent_answer"]["accuracy"] + 0.2
    assert details["test_pictures_in_training_share"] == 0


# answers, rows, scores


@pytest.mark.parametrize(
    "given, expected",
    [
        ("Yes.", "yes"),
        ("The left  lung", "left lung"),
        ("X-ray", "x ray"),
        ("Two", "2"),
        ("5.1 cm", "5.1 cm"),
        ("1,000", "1000"),
        ("Crohn's disease", "crohns disease"),
        ("left, right", "left right"),
        ("A", "a"),
        ("+", "+"),
        ("ＣＴ", "ct"),
    ],
)
def test_the_common_form_of_answers(given: str, expected: str) -> None:
    assert normal_answer(given) == expected
    assert normal_answer(expected) == expected


def test_vocabulary() -> None:
    answers = ["No", "yes", "Yes.", "the liver", "Liver", "no", "YES"]
    assert vocabulary(answers) == ("yes", "liver", "no")
    assert vocabulary(answers, 3) == ("yes",)


def answered(items: Items, right: list[bool]) -> Found:
    count = len(right)
    return Found(
        rows_N=np.arange(count),
        predicted=("yes",) * count,
        confidence_N=np.full(count, 0.5, np.float32),
        right_N=np.array(right),
        scores_NV=np.zeros((count, 2), np.float32),
        answers=("yes", "no"),
    )


def test_scores_of_open_and_closed_questions() -> None:
    items = shapes("test", 10)  # open, closed, open …
    found = scores(items, answered(items, [True, False] * 10), **DRAWS)
    assert {name: each.value for name, each in found.items()} == {
        "accuracy": 0.5,
        "accuracy_open": 1.0,
        "accuracy_closed": 0.0,
    }
    assert found["accuracy_closed"].chance == 0.5
    assert found["accuracy"].chance is None
    asked = tuple(replace(each, is_closed=False) for each in items.questions or ())
    found = scores(replace(items, questions=asked), answered(items, [True] * 20), **DRAWS)
    assert set(found) == {"accuracy", "accuracy_open"}


def test_rows_of_a_head(small: TowerModel) -> None:
    test = shapes("test", 4)
    found = learn_and_answer(small, shapes("train", 12), None, test, SMALL)
    table = items_rows(test, found)
    assert table.schema == ITEMS
    rows = table.to_pylist()
    assert [each["item"] for each in rows] == list(test.ids)
    assert all(0 < each["confidence"] <= 1 for each in rows)
    for row in rows:
        same = normal_answer(row["answer"]) == row["predicted_text"]
        assert row["is_right"] == same


# without training


class Told:
    """A stand-in for an encoder: a text points where its last word does, a picture where its red says."""

    name, dims, scale, digest, text_digest = "told", 3, 100.0, "a" * 64, "b" * 64
    preprocessing = Preprocessing(size=8, fit="crop")
    places: ClassVar = {"yes": 0, "no": 1, "liver": 0, "lung": 1, "heart": 2}

    def __init__(self) -> None:
        self.seen: list[str] = []

    def images(self, pixels: Any) -> Any:
        return np.eye(3, dtype=np.float32)[pixels[:, 0, 0, 0]]

    def texts(self, texts: Any) -> Any:
        self.seen.extend(texts)
        last = [text.split()[-1].lower() for text in texts]
        return np.eye(3, dtype=np.float32)[[self.places[each] for each in last]]


def asked(items: Items, **splits: Items) -> Any:
    return protocols.Question(
        task=task_of("slake", "", "vqa", classes=()),
        items=items,
        read=splits.get,
        settings=EvaluateSettings(resamples=200, fusion=SMALL),
    )


def test_options_without_training() -> None:
    """The nearest option of each closed question that has some."""
    organs = ("Liver", "lung", "heart")
    questions = [
        Question(text="Is it?", answer="Yes.", is_closed=True, options=("yes", "no")),
        Question(text="Which organ?", answer="lung", is_closed=True, options=organs),
        Question(text="Describe it.", answer="a shadow", is_closed=False),
        Question(text="Which organ?", answer="spleen", is_closed=True, options=organs),
        Question(text="Left or right?", answer="left", is_closed=True),
        Question(text="Why?", answer="yes", is_closed=False, options=("yes", "no")),
    ]
    pictures = [np.full((8, 8, 3), place, np.uint8) for place in (0, 1, 0, 2, 0, 0)]
    items, encoder = items_of("test", pictures, questions), Told()
    found = score_vqa_options(Embeddings(encoder, None), asked(items))
    assert set(encoder.seen) == {
        *("Is it? yes", "Is it? no"),
        *(f"Which organ? {organ}" for organ in organs),
    }
    assert (found.details["asked"], found.details["left_out"]) == (3, 3)
    assert found.details["answer_is_no_option"] == 1
    rows = found.items.to_pylist()
    assert [each["item"] for each in rows] == ["test-00000", "test-00001", "test-00003"]
    assert [each["predicted_text"] for each in rows] == ["yes", "lung", "heart"]
    assert [each["is_right"] for each in rows] == [True, True, False]
    assert [each["label"] for each in rows] == [0, 1, None]
    assert [len(each["scores"]) for each in rows] == [2, 3, 3]
    assert set(found.scores) == {"accuracy", "accuracy_closed"}
    assert found.scores["accuracy"].value == pytest.approx(2 / 3)
    assert found.scores["accuracy"].chance == pytest.approx((1 / 2 + 1 / 3 + 1 / 3) / 3)
    open_only = tuple(replace(each, is_closed=False) for each in questions)
    with pytest.raises(EvaluationError, match="no closed question has options"):
        score_vqa_options(Embeddings(encoder, None), asked(replace(items, questions=open_only)))


# a task's files


def test_a_task_without_training_split(encoder: Any) -> None:
    question = asked(shapes("test", 4))
    with pytest.raises(EvaluationError, match=r"task colours has no training split.*vqa_options"):
        score_vqa_head(Embeddings(encoder, None), question)
    with pytest.raises(ConfigError, match="tiny gives no features of single"):
        score_vqa_head(Embeddings(open_encoder("tiny"), None), question)


@pytest.mark.parametrize(("reader", "write"), [("vqa_rad", vqa_rad), ("slake", slake)])
def test_files_of_both_forms(encoder: Any, tmp_path: Path, reader: str, write: Any) -> None:
    """Two questions to test: one open, one closed; VQA-RAD's are about a picture of training."""
    write(tmp_path / "set")
    task = task_of(reader, "set", "vqa", classes=())

    def read(split: str) -> Items | None:
        there = split in task_splits(task, tmp_path)
        return read_items(task, tmp_path, split) if there else None

    items = read("test")
    assert items is not None
    question = protocols.Question(
        task=task,
        items=items,
        read=read,
        settings=EvaluateSettings(resamples=200, fusion=SMALL),
    )
    embeddings = Embeddings(encoder, tmp_path / "cache")
    found = score_vqa_head(embeddings, question)
    again = score_vqa_head(embeddings, question)
    assert found.items.equals(again.items) and found.items.schema == ITEMS
    assert set(found.scores) == {"accuracy", "accuracy_open", "accuracy_closed"}
    is_rad = reader == "vqa_rad"
    assert set(found.pictures_sha256) == {"test", "train"} | (set() if is_rad else {"validation"})
    expected = "held out of training" if is_rad else "its own split"
    assert found.details["validation"] == expected
    assert found.details["test_pictures_in_training_share"] == (1 if is_rad else 0)
    assert found.details["test_answers_unknown_share"] >= (0.5 if is_rad else 0)
    options = score_vqa_options(embeddings, question)
    assert (options.details["asked"], options.details["left_out"]) == (1, 1)
    assert options.items["predicted_text"].to_pylist()[0] in ("yes", "no")


def test_a_run_keeps_what_a_recipe_does_not_change(folder: Path, tmp_path: Path) -> None:
    slake(tmp_path / "set")
    grid = Grid(
        models={"small": f"open_clip:local-dir:{folder}", "tiny": "tiny"},
        tasks=(replace(task_of("slake", "set", "vqa", classes=()), metric="accuracy"),),
        protocols=("vqa_options", "vqa_head"),
        data=tmp_path,
        run=tmp_path / "run",
        cache=tmp_path / "cache",
        settings=EvaluateSettings(resamples=200, fusion=SMALL),
    )
    changed = replace(grid, settings=replace(grid.settings, fusion=replace(SMALL, seed=1)))
    states = []
    for each in (grid, grid, changed):
        cells = list(run_grid(each, open_engine("inline", None, None)))
        states.append({(cell.model, cell.protocol): cell.state for cell in cells})
    options, head = ("small", "vqa_options"), ("small", "vqa_head")
    assert [(each[options], each[head]) for each in states] == [
        ("scored", "scored"),
        ("kept", "kept"),
        ("kept", "scored"),
    ]
    assert states[0]["tiny", "vqa_head"] == "not applicable"
    assert replace(grid, protocols=()).of(grid.tasks[0]) == ("vqa_options",)  # hours on a CPU
