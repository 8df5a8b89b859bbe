"""Views as torch batches: one order for any ranks and workers, resumable; pixels and texts as promised."""

from __future__ import annotations

import gc
import io
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from biomedica.archive import Archive
from biomedica.errors import ArchiveError, ConfigError
from biomedica.select.view import write_view
from biomedica.stream import (
    OrderSettings,
    PixelSettings,
    Samples,
    Source,
    TextSettings,
    open_samples,
)
from biomedica.stream.order import uniform
from biomedica.stream.texts import caption_in, texts_of, without_label
from export_views import figure_rows
from samples import encoded, jpeg, picture, pixels
from stream_archives import QUICK, Truth, give_view, shards, streamed_archive, truth

pytestmark = pytest.mark.clients
torch = pytest.importorskip("torch")

from biomedica.stream.loader import Batch, Loader, Stream  # noqa: E402
from biomedica.stream.pixels import NUM_DRAWS, Pixels, crop_box  # noqa: E402

ORDER = OrderSettings(run=2, window=16, lanes=2, block=4)
SMALL = PixelSettings(size=16, scale=(0.4, 1.0))
TEXTS = TextSettings(policies=("caption", "bare", "mention", "context"), per_image=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive that no test changes."""
    return streamed_archive(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def samples(made: Path) -> Samples:
    """All of its samples."""
    return open_samples(made, "all", settings=QUICK)


@pytest.fixture(scope="module")
def expected(made: Path) -> Truth:
    """What its shards hold."""
    return truth(made)


def tokenize(texts: list[str]) -> Any:
    """Lengths and first letters."""
    return torch.tensor([[len(text), ord(text[0])] for text in texts])


Item = tuple[str, bytes, tuple[str, ...], tuple[int, ...]]


def items(batch: Batch) -> list[Item]:
    """Everything of each sample of a batch."""
    count = len(batch)
    images = [b""] * count if batch.images is None else [i.numpy().tobytes() for i in batch.images]
    texts = [tuple(each) for each in batch.texts] or [()] * count
    tokens = [()] * count if batch.tokens is None else [tuple(t.ravel()) for t in batch.tokens]
    return list(zip(batch.keys, images, texts, tokens, strict=True))  # type: ignore[arg-type]


def steps(
    samples: Any, world: int, state: dict[str, Any] | None = None, workers: int = 0, **options: Any
) -> Iterator[tuple[list[Item], dict[str, Any]]]:
    """Each step of all ranks side by side, and the state after it."""
    loaders = [
        Loader(Stream(samples, rank=rank, world=world, order=ORDER, **options), workers=workers)
        for rank in range(world)
    ]
    for loader in loaders:
        loader.load_state_dict(state or loader.state_dict())
    running = [iter(loader) for loader in loaders]
    while True:
        batches = [next(each, None) for each in running]
        found = [batch for batch in batches if batch is not None]
        if not found:
            return
        assert len({(batch.position, batch.next) for batch in found}) == 1
        both = zip(loaders, batches, strict=True)
        states = [loader.state_dict() for loader, batch in both if batch is not None]
        assert all(each == states[0] for each in states)
        yield [item for batch in found for item in items(batch)], states[0]


def sequence(samples: Any, world: int, **options: Any) -> list[Item]:
    """The whole sequence."""
    return [item for step, _ in steps(samples, world, **options) for item in step]


class TestSequence:
    """Which sample comes when."""

    @settings(max_examples=25, deadline=None)
    @given(st.integers(1, 5), st.integers(1, 30), st.integers(1, 3), st.integers(0, 2**40))
    def test_order_is_the_same_for_any_world_and_batch(
        self, samples: Samples, world: int, batch: int, epochs: int, seed: int
    ) -> None:
        """Ranks side by side give the order itself, each sample once an epoch."""
        found = sequence(samples, world, batch=batch, epochs=epochs, seed=seed)
        stream = Stream(samples, seed=seed, order=ORDER)
        total = len(samples)
        assert [item[0] for item in found] == samples.take(
            stream.mix.rows(0, epochs * total)[1]
        ).keys
        for epoch in range(epochs):
            assert len({item[0] for item in found[epoch * total : (epoch + 1) * total]}) == total

    @settings(max_examples=25, deadline=None)
    @given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 4), st.integers(0, 40))
    def test_workers_take_steps_in_turn(
        self, samples: Samples, world: int, batch: int, workers: int, position: int
    ) -> None:
        """What the workers of all ranks want is the order from the position, each place once."""
        places = Counter[int]()
        for rank in range(world):
            stream = Stream(samples, batch=batch, rank=rank, world=world)
            stream.position = position
            for worker in range(workers):
                for wanted in stream._wanted(worker, workers):
                    places.update(range(wanted.position, wanted.position + len(wanted.number_N)))
        assert places == dict.fromkeys(range(position, len(samples)), 1)

    def test_bytes_are_those_of_the_shards(self, samples: Samples, expected: Truth) -> None:
        """Pictures, captions and facts by key."""
        stream = Stream(samples, batch=7, order=ORDER)
        for raw in stream.raw():
            for key, (jpg, txt, _) in zip(raw.keys, raw.members, strict=True):
                assert (bytes(jpg), bytes(txt)) == expected[key][:2]
        for batch in Loader(Stream(samples, batch=7, with_facts=True), workers=0):
            for key, text, facts in zip(batch.keys, batch.texts, batch.facts, strict=True):
                assert text == [expected[key][1].decode()]
                assert facts == json.loads(expected[key][2])

    @settings(max_examples=12, deadline=None)
    @given(st.data())
    def test_goes_on_after_any_step_with_other_ranks(
        self, samples: Samples, data: st.DataObject
    ) -> None:
        """Keys, pixels and texts bit for bit, through JSON."""
        options = {"epochs": 2, "seed": 9, "pixels": Pixels(SMALL), "texts": TEXTS}
        whole = sequence(samples, 1, batch=96, **options)
        world, batch = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 20))
        count = data.draw(st.integers(1, max(1, 96 // (world * batch) - 1)))
        running = steps(samples, world, batch=batch, **options)
        before = [next(running) for _ in range(count)]
        running.close()
        state = json.loads(json.dumps(before[-1][1]))
        other, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 20))
        after = sequence(samples, other, state=state, batch=size, **options)
        assert [item for step, _ in before for item in step] + after == whole

    @pytest.mark.slow
    def test_worker_processes_change_nothing(self, samples: Samples) -> None:
        """Two ranks with two each: the same sequence, and a state that counts what was given."""
        options = {"epochs": 2, "pixels": Pixels(SMALL), "texts": TEXTS, "tokenizer": tokenize}
        whole = sequence(samples, 1, batch=96, **options)
        running = steps(samples, 2, workers=2, batch=5, **options)
        found, states = [], []
        for _, (step, state) in zip(range(4), running, strict=False):
            found += step
            states.append(state["position"])
        running.close()
        assert states == [10, 20, 30, 40]
        assert found == whole[:40]
        rest = sequence(samples, 1, state=state, workers=1, batch=11, **options)
        assert found + rest == whole

    def test_last_step(self, samples: Samples) -> None:
        """Shared as evenly as possible, or left out; the loader knows how many there are."""
        for drop_last in (False, True):
            options: dict[str, Any] = {"batch": 5, "drop_last": drop_last}
            sizes = [len(step) for step, _ in steps(samples, 3, **options)]
            assert sizes == [15] * 3 + ([] if drop_last else [3])
            assert len(Loader(Stream(samples, world=3, **options))) == len(sizes)

    def test_end_is_the_end(self, samples: Samples) -> None:
        """A loader that gave all gives no more, until it is told where to begin."""
        loader = Loader(Stream(samples, batch=48), workers=0)
        begin = loader.state_dict()
        assert len(list(loader)) == 1 and not list(loader)
        loader.load_state_dict(begin)
        assert len(list(loader)) == 1

    def test_loop_that_was_left_goes_on(self, samples: Samples) -> None:
        """With the step after the last one given."""
        loader = Loader(Stream(samples, batch=10, order=ORDER), workers=0)
        first = next(iter(loader)).keys
        rest = [key for batch in loader for key in batch.keys]
        assert len(rest) == len(samples) - 10 and not set(first) & set(rest)

    def test_states_of_other_sequences_are_refused(self, made: Path, tmp_path: Path) -> None:
        """Another seed, order, view or split; a sample withdrawn since; another mix."""
        root = shutil.copytree(made, tmp_path / "archive")
        give_view(root, "few", keep=lambda row: int(row["pmcid"][3:]) % 2 == 0)
        state = Stream(open_samples(root, "all"), order=ORDER).state_dict()
        samples = open_samples(root, "all")
        Stream(samples, order=ORDER, batch=3, rank=1, world=2).load_state_dict(state)
        others = {
            "seed": Stream(samples, order=ORDER, seed=1),
            "order": Stream(samples, order=replace(ORDER, run=3)),
            "samples": Stream(open_samples(root, "few"), order=ORDER),
            "samples ": Stream(open_samples(root, "all", "test"), order=ORDER),
            "samples  ": Stream([Source(samples), Source(samples)], order=ORDER),
        }
        row = figure_rows(root)[0]
        names = ("key", "shard", "pmcid", "version")
        gone = {name: row[name] for name in names} | {"reason": "withdrawn", "since": None}
        Archive(root).set_tombstones([gone])
        others["samples   "] = Stream(open_samples(root, "all"), order=ORDER)
        for name, stream in others.items():
            with pytest.raises(ConfigError, match=name.strip()):
                stream.load_state_dict(state)

    @pytest.mark.parametrize(
        "changes",
        [{"batch": 0}, {"rank": 2, "world": 2}, {"rank": -1}, {"epochs": 0}, {"seed": -1}],
    )
    def test_what_cannot_be_meant(self, samples: Samples, changes: dict[str, int]) -> None:
        """Refused when the stream is made."""
        with pytest.raises(ConfigError):
            Stream(samples, **changes)

    def test_mix(self, made: Path) -> None:
        """Two views three to one: the first one's samples once an epoch, the other's go round."""
        parts = [open_samples(made, "all", split, QUICK) for split in ("train", "test")]
        sources = [Source(parts[0], 3.0), Source(parts[1], 1.0)]
        own = [set(each.take(np.arange(len(each))).keys) for each in parts]
        found = [item[0] for item in sequence(sources, 2, batch=7, epochs=20)]
        first = [key for key in found if key in own[0]]
        second = [key for key in found if key in own[1]]
        assert found[-1] in own[0] and len(first) + len(second) == len(found)
        assert Counter(first) == dict.fromkeys(own[0], 20)
        assert abs(len(first) / len(found) - 0.75) < 0.03
        counts = Counter(second).values()
        assert max(counts) - min(counts) <= 1

    def test_tokens_stand_in_place_of_texts(self, samples: Samples, expected: Truth) -> None:
        """(B, texts of a picture, T)."""
        stream = Stream(
            samples, batch=6, texts=TextSettings(per_image=2), tokenizer=tokenize, order=ORDER
        )
        for batch in Loader(stream, workers=0):
            assert batch.tokens.shape == (len(batch), 2, 2) and not batch.texts
            lengths = [len(expected[key][1].decode()) for key in batch.keys]
            assert batch.tokens[:, 0, 0].tolist() == batch.tokens[:, 1, 0].tolist() == lengths


class TestFaults:
    """What is wrong with an archive is told in one line."""

    @pytest.mark.slow
    def test_error_in_a_worker_process(self, made: Path, tmp_path: Path) -> None:
        """As in this process: an error of ours that names the shard, without torch's traceback."""
        root = shutil.copytree(made, tmp_path / "archive")
        path = shards(root)[2]
        path.write_bytes(path.read_bytes()[:-512])
        said = []
        for workers in (0, 1):
            loader = Loader(Stream(open_samples(root, "all"), batch=4), workers=workers)
            with pytest.raises(ArchiveError, match=f"shard {path.stem}") as caught:
                list(loader)
            said.append(str(caught.value))
            del caught, loader
            gc.collect()  # torch waits 5 seconds for a worker that failed
        assert said[0] == said[1] and "\n" not in said[0]

    def test_picture_that_does_not_decode(self, made: Path, tmp_path: Path) -> None:
        """Its key is told."""
        root = shutil.copytree(made, tmp_path / "archive")
        row = figure_rows(root)[5]
        path = next(path for path in shards(root) if path.stem == row["shard"])
        with path.open("r+b") as file:
            file.seek(row["jpg_offset"] + 20)
            file.write(bytes(row["jpg_size"] - 40))
        loader = Loader(Stream(open_samples(root, "all"), pixels=Pixels(SMALL)), workers=0)
        with pytest.raises(ArchiveError, match=row["key"]):
            list(loader)

    def test_nothing_grows(self, samples: Samples) -> None:
        """Memory and open files after 10 epochs and after 60."""
        options = {"pixels": Pixels(SMALL), "texts": TEXTS, "order": ORDER}
        loader = Loader(Stream(samples, batch=16, epochs=60, **options), workers=0)
        process, noted = psutil.Process(), []
        for number, _ in enumerate(loader):
            if number in (30, 179):
                gc.collect()
                noted.append((process.memory_info().rss, process.num_fds()))
        assert noted[1][0] - noted[0][0] < 6e6
        assert noted[1][1] == noted[0][1]


def drawn(seed: int, settings: PixelSettings, jpg: bytes) -> Any:
    """(S, S, 3) of one picture."""
    made = Pixels(settings)
    batch = made.empty(1)
    made.write(batch, 0, jpg, "the-key", uniform(seed, np.arange(1), NUM_DRAWS)[0])
    return batch[0].permute(1, 2, 0).numpy()


def noisy(seed: int, width: int, height: int) -> bytes:
    """A picture with edges and grain."""
    grain = np.random.default_rng(seed).integers(-40, 40, (height, width, 3))
    image = np.clip(pixels(seed, width, height).astype(int) + grain, 0, 255).astype(np.uint8)
    return encoded(Image.fromarray(image), "JPEG", quality=92)


def difference(a: Any, b: Any) -> Any:
    """Levels of 255."""
    return np.abs(np.asarray(a, int) - np.asarray(b, int))


def check_rounding(a: Any, b: Any) -> None:
    """At most one level, two in one of 10,000 values, and no more than one value in 20 at all."""
    found = difference(a, b)
    assert found.max() <= 2 and (found > 1).mean() < 1e-4 and (found > 0).mean() < 0.05


SHAPES = [(120, 90), (333, 500), (700, 301), (64, 64), (31, 200), (1000, 800)]


HUGE = re.sub(
    rb"(\xff\xc0..)\x08....",
    lambda found: found[1] + b"\x08\xff\xdc\xff\xdc",
    jpeg(1),
    count=1,
    flags=re.DOTALL,
)
"""A small file that says it is 65,500 pixels wide and high."""


class TestPixels:
    """Pictures as they come out."""

    @pytest.mark.parametrize("shape", SHAPES)
    def test_training_pixels_are_pillows(self, shape: tuple[int, int]) -> None:
        """Decoded, cropped to the same box, resized: without scaled decoding only roundings differ."""
        chosen = PixelSettings(size=96, scale=(0.2, 1.0), scaled_decode=False)
        for seed in range(4):
            jpg = noisy(seed, *shape)
            draws = uniform(seed, np.arange(1), NUM_DRAWS)[0]
            top, left, h, w = (int(n) for n in crop_box(shape[1], shape[0], draws, chosen))
            image = Image.open(io.BytesIO(jpg)).crop((left, top, left + w, top + h))
            reference = image.resize((96, 96), Image.Resampling.BICUBIC)
            check_rounding(drawn(seed, chosen, jpg), reference)

    def test_pixels_that_need_no_resize_are_pillows(self) -> None:
        """Not one level differs: decoders agree."""
        for seed in range(4):
            jpg = noisy(seed, 96, 96)
            found = drawn(seed, PixelSettings(size=96, scale=(1.0, 1.0), ratio=(1.0, 1.0)), jpg)
            assert np.array_equal(found, np.array(Image.open(io.BytesIO(jpg))))

    @pytest.mark.parametrize("fit", ["crop", "pad"])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_evaluation_is_open_clips(self, shape: tuple[int, int], fit: Any) -> None:
        """`image_transform` of open_clip: without scaled decoding only roundings differ."""
        transform = pytest.importorskip("open_clip.transform").image_transform
        mode = {"crop": "shortest", "pad": "longest"}[fit]
        reference = transform(96, False, mean=(0.0,) * 3, std=(1.0,) * 3, resize_mode=mode)
        jpg = noisy(3, *shape)
        theirs = (reference(Image.open(io.BytesIO(jpg))) * 255).round().permute(1, 2, 0).numpy()
        exact = PixelSettings(size=96, train=False, fit=fit, scaled_decode=False)
        check_rounding(drawn(0, exact, jpg), theirs)

    @pytest.mark.parametrize("train", [True, False])
    def test_scaled_decoding_changes_little(self, train: bool) -> None:
        """Less than two levels on average, on a picture of grain; less than one on a smooth one."""
        chosen = PixelSettings(size=96, train=train)
        exact = replace(chosen, scaled_decode=False)
        for jpg, most in ((noisy(1, 1000, 800), 2.0), (jpeg(1, 1000, 800), 1.0)):
            assert 0 < difference(drawn(1, chosen, jpg), drawn(1, exact, jpg)).mean() < most

    @pytest.mark.parametrize("shape", [(300, 200), (100, 1000)])
    def test_boxes_are_as_torchvisions(self, shape: tuple[int, int]) -> None:
        """Area, ratio and place have the distribution of RandomResizedCrop; all boxes are inside."""
        transforms = pytest.importorskip("torchvision.transforms")
        stats = pytest.importorskip("scipy.stats")
        width, height = shape
        chosen = PixelSettings(scale=(0.3, 0.9))
        draws = uniform(1, np.arange(3000), NUM_DRAWS)
        ours = np.array([crop_box(height, width, each, chosen) for each in draws])
        torch.manual_seed(0)
        image = torch.empty(3, height, width)
        get = transforms.RandomResizedCrop.get_params
        theirs = np.array([get(image, chosen.scale, chosen.ratio) for _ in range(3000)])
        for box in (ours, theirs):
            assert (box[:, :2] >= 0).all() and (box[:, 2:] >= 1).all()
            assert (box[:, :2] + box[:, 2:] <= (height, width)).all()
        for a, b in (
            (ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]),
            (ours[:, 3] / ours[:, 2], theirs[:, 3] / theirs[:, 2]),
            (ours[:, 0], theirs[:, 0]),
            (ours[:, 1], theirs[:, 1]),
        ):
            assert stats.ks_2samp(a, b).pvalue > 0.001

    def test_gray_and_cmyk(self) -> None:
        """Three equal planes; colours as Pillow turns them."""
        chosen = PixelSettings(size=48, train=False, scaled_decode=False)
        gray = drawn(0, chosen, encoded(picture(1, mode="L"), "JPEG"))
        assert (gray == gray[:, :, :1]).all() and gray.std() > 5
        image = picture(2).convert("CMYK")
        jpg = encoded(image, "JPEG", quality=95)
        rgb = Image.open(io.BytesIO(jpg)).convert("RGB").resize((64, 48), Image.Resampling.BICUBIC)
        assert difference(drawn(0, chosen, jpg), rgb.crop((8, 0, 56, 48))).max() <= 2
        assert drawn(0, PixelSettings(size=20), jpg).shape == (20, 20, 3)

    @pytest.mark.parametrize(
        "jpg",
        [
            b"",
            b"no picture",
            jpeg(1)[:-900],
            jpeg(1)[:200],
            jpeg(1)[:300] + bytes(400),
            encoded(picture(1), "PNG"),
            HUGE,
        ],
        ids=["empty", "text", "cut", "head", "zeros", "png", "huge"],
    )
    @pytest.mark.parametrize("train", [True, False])
    def test_damaged_pictures_are_named(self, jpg: bytes, train: bool) -> None:
        """By their key, in one error of ours."""
        with pytest.raises(ArchiveError, match="the-key"):
            drawn(0, PixelSettings(size=32, train=train), jpg)

    @pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (2000, 3)])
    @pytest.mark.parametrize("fit", ["crop", "pad"])
    def test_odd_shapes(self, shape: tuple[int, int], fit: Any) -> None:
        """A line is a picture too."""
        jpg = encoded(Image.new("RGB", shape, (200, 10, 10)), "JPEG")
        for train in (True, False):
            found = drawn(5, PixelSettings(size=32, train=train, fit=fit), jpg)
            assert found.shape == (32, 32, 3) and found.max() > 150

    def test_colours_by_chance(self) -> None:
        """As often as asked for; gray has equal planes; the same draws, the same colours."""
        jpg = jpeg(4)
        chosen = PixelSettings(
            size=24, color_jitter=(0.4, 0.4, 0.4, 0.1), color_jitter_prob=0.5, gray_scale_prob=0.3
        )
        plain = replace(chosen, color_jitter_prob=0, gray_scale_prob=0)
        found = [drawn(seed, chosen, jpg) for seed in range(80)]
        num_gray = sum(bool((each == each[:, :, :1]).all()) for each in found)
        same = sum(np.array_equal(each, drawn(s, plain, jpg)) for s, each in enumerate(found))
        assert 12 <= num_gray <= 38 and 14 <= same <= 42
        assert np.array_equal(found[3], drawn(3, chosen, jpg))


BARE = [
    ("Figure 2. Chest film.", None, "Chest film."),
    ("Fig. 3: CT of the abdomen.", "Fig. 3", "CT of the abdomen."),
    ("FIGURE 4 Axial T2 image", None, "Axial T2 image"),
    ("Figure S1. Flow chart.", None, "Flow chart."),
    ("Supplementary Figure 5 | Gels.", None, "Gels."),
    ("Extended Data Fig. 1 | Map", None, "Map"),
    ("Table 1. Doses", None, "Doses"),
    ("Fig. 2A. Detail", None, "Detail"),
    ("Figure 1A–C. Chest film.", None, "Chest film."),
    ("Figures 2-4. Maps of the liver.", None, "Maps of the liver."),
    ("Fig. 2.1 Growth", None, "Growth"),
    ("Fig. 1 (a) Before, (b) after", None, "(a) Before, (b) after"),
    ("Scheme 1 Synthesis of 2", None, "Synthesis of 2"),
    ("Figure 1 - A chest film", None, "A chest film"),
    ("Figure 1 - 3D reconstruction", None, "3D reconstruction"),
    ("Figure 10. Ten.", "Figure 1", "Ten."),
    ("F1 Chest film.", "F1", "Chest film."),
    ("1. Chest film.", "1", "Chest film."),
    ("1H NMR spectrum", "1", "1H NMR spectrum"),
    ("A chest film", "A", "A chest film"),
    ("Figure 1 shows the lesion.", None, "Figure 1 shows the lesion."),
    ("Figure 2.", None, "Figure 2."),
    ("Table 2x2 contingency", None, "Table 2x2 contingency"),
    ("Figure 2.5 mg of it", None, "Figure 2.5 mg of it"),
    ("Plate 3 assay", None, "Plate 3 assay"),
    ("Chest film (see Figure 2. below)", None, "Chest film (see Figure 2. below)"),
]


class TestTexts:
    """Which text goes with a picture."""

    @pytest.mark.parametrize(("caption", "label", "bare"), BARE)
    def test_label_in_front_goes(self, caption: str, label: str | None, bare: str) -> None:
        """And nothing else."""
        assert without_label(caption, label) == bare

    @staticmethod
    def texts(facts: Any, draws: list[float], **options: Any) -> list[str]:
        """Texts of a sample whose caption is `Figure 1. It.`"""
        chosen = TextSettings(**options)
        return texts_of(
            "the-key", "Figure 1. It.", json.dumps(facts).encode(), np.array(draws), chosen
        )

    def test_policies(self) -> None:
        """What each gives, with and without paragraphs that cite the figure."""
        facts = {"figure_label": "Figure 1", "mentions": [{"text": t} for t in "abc"]}
        for policy, found in {
            "caption": "Figure 1. It.",
            "bare": "It.",
            "mention": "b",
            "context": "Figure 1. It. b c a",
        }.items():
            assert self.texts(facts, [0.0, 0.5], policies=(policy,)) == [found]
            if policy != "bare":
                alone = self.texts(facts | {"mentions": []}, [0.0, 0.5], policies=(policy,))
                assert alone == ["Figure 1. It."]
        assert self.texts(facts, [0.9999999, 0.9999999], policies=("bare", "mention")) == ["c"]

    def test_weights(self) -> None:
        """As often as they say; each of a picture's texts is drawn by itself."""
        facts = {"mentions": [{"text": "m"}]}
        draws = uniform(0, np.arange(3000), 4)
        options: dict[str, Any] = {
            "policies": ("caption", "mention"), "weights": (1.0, 3.0), "per_image": 2,
        }  # fmt: skip
        found = [tuple(self.texts(facts, list(each), **options)) for each in draws]
        shares = Counter(found)
        for pair, share in {("m", "m"): 9 / 16, ("m", "Figure 1. It."): 3 / 16}.items():
            assert abs(shares[pair] / 3000 - share) < 0.03

    def test_json_that_says_nothing(self) -> None:
        """Named by the sample's key."""
        for meta in (b"", b"[]", b"{}", b'{"mentions": 1}', b"\xff"):
            with pytest.raises(ArchiveError, match="the-key"):
                texts_of("the-key", "x", meta, np.zeros(2), TextSettings(policies=("mention",)))

    def test_caption_in_the_json(self) -> None:
        """Of samples that have no file of it; none at all is an error."""
        assert caption_in("the-key", b'{"caption": "It."}') == "It."
        for meta in (b"{}", b"", b"[1]", b'{"caption": 3}'):
            with pytest.raises(ArchiveError, match="the-key"):
                caption_in("the-key", meta)

    @pytest.mark.parametrize(
        "changes",
        [
            {"policies": ()},
            {"policies": ("none",)},
            {"weights": (1.0, 2.0)},
            {"weights": (0.0,)},
            {"weights": (-1.0,)},
            {"per_image": 0},
        ],
    )
    def test_settings_that_cannot_be_meant(self, changes: dict[str, Any]) -> None:
        """Refused."""
        with pytest.raises(ConfigError, match="texts"):
            TextSettings(**changes)

    def test_samples_without_a_caption_file(
        self, made: Path, tmp_path: Path, expected: Truth
    ) -> None:
        """The caption is taken from the JSON."""
        root = shutil.copytree(made, tmp_path / "archive")
        folder = root / "views" / "all"
        with pa.memory_map(str(folder / "view.arrow")) as file:
            table = pa.ipc.open_file(file).read_all()
        place = table.schema.get_field_index("txt_size")
        none = pa.array([0] * table.num_rows, pa.int64())
        table = table.set_column(place, table.schema.field("txt_size"), none)
        counts = json.loads((folder / "counts.json").read_text())
        write_view(folder, (folder / "recipe.toml").read_text(), table.to_batches(), counts)
        for batch in Loader(Stream(open_samples(root, "all"), batch=9), workers=0):
            texts = [text for (text,) in batch.texts]
            assert texts == [expected[key][1].decode() for key in batch.keys]

    def test_texts_of_a_stream(self, samples: Samples, expected: Truth) -> None:
        """Paragraphs are those of the sample's JSON."""
        stream = Stream(samples, batch=9, texts=TextSettings(policies=("mention",)), order=ORDER)
        for batch in Loader(stream, workers=0):
            for key, (text,) in zip(batch.keys, batch.texts, strict=True):
                mentions = json.loads(expected[key][2])["mentions"]
                assert text in [each["text"] for each in mentions]


ABANDONED = """
import sys, time
from biomedica.stream import PixelSettings, open_samples
from biomedica.stream.loader import Loader, Stream
from biomedica.stream.pixels import Pixels

if __name__ == "__main__":
    samples = open_samples(sys.argv[1], "all")
    stream = Stream(samples, batch=8, epochs=50, pixels=Pixels(PixelSettings(size=64)))
    batches = iter(Loader(stream, workers=1))
    next(batches)
    print("ready", flush=True)
    time.sleep(60)
"""


def test_workers_end_with_a_process_that_is_killed(made: Path, tmp_path: Path) -> None:
    """A worker that has batches ready for a process that was killed does not wait for ever."""
    import psutil

    script = tmp_path / "abandoned.py"
    script.write_text(ABANDONED)
    command = [sys.executable, str(script), str(made)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        workers = psutil.Process(process.pid).children(recursive=True)
        assert workers
        process.kill()
    _, alive = psutil.wait_procs(workers, timeout=20)
    for each in alive:
        each.kill()
    assert not alive
