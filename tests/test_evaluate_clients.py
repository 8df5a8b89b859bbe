"""Real libraries give the same: pixels of torchvision, vectors of open_clip and transformers, and a whole run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biomedica.evaluate.results import read_results
from biomedica.evaluate.run import Grid, run_grid
from biomedica.evaluate.settings import EvaluateSettings
from biomedica.models import open_encoder
from biomedica.preprocessing import Preprocessing
from biomedica.run.engines import open_engine
from test_evaluate_run import colour_task, coloured
from train_runs import write_model

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")
pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small text-image model as a folder."""
    from biomedica.clip import ModelSettings, build, save

    folder = tmp_path_factory.mktemp("model")
    save(folder / "small", build(ModelSettings(name=str(write_model(folder)))), {"about": "small"})
    return folder / "small"


@pytest.mark.parametrize("size", [(640, 481), (97, 233), (224, 300), (28, 28), (257, 225)])
def test_pixels_are_torchvisions(size: tuple[int, int]) -> None:
    from torchvision import transforms

    random = np.random.default_rng(1)
    image = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8))
    for side, share in ((224, 1.0), (224, 0.875), (64, 1.0)):
        theirs = transforms.Compose(
            [
                transforms.Resize(round(side / share), transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(side),
            ]
        )(image)
        ours = Preprocessing(size=side, fit="crop", crop_share=share).exact(image)
        assert (np.asarray(theirs) == ours).all()
    assert Preprocessing(size=32, fit="squash").exact(image).shape == (32, 32, 3)
    assert Preprocessing(size=32, fit="pad").exact(image).shape == (32, 32, 3)


def test_vectors_are_open_clips_and_transformers_gives_the_same(
    model: Path, tmp_path: Path
) -> None:
    import open_clip

    from biomedica.clip import to_transformers

    to_transformers(model, tmp_path / "converted")
    own = open_encoder(f"open_clip:local-dir:{model}", fit="own")
    converted = open_encoder(f"transformers:{tmp_path / 'converted'}", fit="own")
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{model}")
    theirs.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model}")
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (70, 50, 3)).astype(np.uint8))
    texts = ["a chest x-ray", "H&E stain of the lung"]
    with torch.inference_mode():
        wanted = theirs.encode_image(preprocess(image)[None], normalize=True).numpy()
        words = theirs.encode_text(tokenizer(texts), normalize=True).numpy()
    for encoder in (own, converted):
        pixels = encoder.preprocessing.exact(image)[None]
        assert np.abs(encoder.images(pixels) - wanted).max() < 1e-5
        assert np.abs(encoder.texts(texts) - words).max() < 1e-5
        assert encoder.text_digest and encoder.scale == pytest.approx(1 / 0.07, rel=1e-4)


@pytest.mark.parametrize("engine", ["inline", "local", "ray"])
def test_a_text_image_model_by_every_protocol(engine: str, model: Path, tmp_path: Path) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    grid = Grid(
        models={"small": f"open_clip:local-dir:{model}"},
        tasks=(colour_task(), replace(colour_task(), name="twin")),
        protocols=("zero_shot", "knn"),
        data=coloured(tmp_path),
        run=tmp_path / "run",
        cache=tmp_path / "cache",
        settings=EvaluateSettings(resamples=100),
    )
    cells = list(run_grid(grid, open_engine(engine, 2, None)))
    assert {cell.state for cell in cells} == {"scored"}, cells
    found = {(r.task, r.protocol): r.score for _, r in read_results([grid.run])}
    assert found["colours", "zero_shot"] == found["twin", "zero_shot"]
    assert found["colours", "knn"].value > 0.5


def test_digests_tell_models_of_the_same_weights_apart() -> None:
    """The activation is no weight; nor is how tokens are pooled."""
    import open_clip
    import timm

    from biomedica.models import TorchEncoder, _layers

    small = Preprocessing(size=32, fit="crop")

    def digest(model: torch.nn.Module) -> str:
        return TorchEncoder("some", model, small, "cpu", lambda m, x: m(x)).digest

    layers = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
    kinds = [
        {},
        {"act_layer": open_clip.transformer.QuickGELU},
        {"global_pool": "avg", "fc_norm": False},
    ]
    digests = []
    for kind in [*kinds, {}]:
        torch.manual_seed(0)
        model = timm.models.vision_transformer.VisionTransformer(num_classes=0, **layers, **kind)
        digests.append(digest(model))
    assert len(set(digests)) == 3 and digests[0] == digests[-1]
    heads = [torch.nn.MultiheadAttention(8, number) for number in (2, 4)]
    heads[1].load_state_dict(heads[0].state_dict())
    assert len({_layers(each) for each in heads}) == 2
