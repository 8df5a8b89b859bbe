"""Training pictures in a benchmark: planted ones are found, unrelated ones are not, what was found is left out."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from biomedica.archive import Archive
from biomedica.catalog import Selection
from biomedica.cli import app
from biomedica.config import load_settings
from biomedica.duplicates import NearHashes
from biomedica.errors import ConfigError, EvaluationError
from biomedica.evaluate.embeddings import Embeddings
from biomedica.evaluate.items import Items
from biomedica.evaluate.leak_judge import Judge
from biomedica.evaluate.leak_search import Block, Nearest, NearHash, Search, read_pictures
from biomedica.evaluate.leaks import (
    LEAKS,
    Leaks,
    contamination,
    describe,
    with_and_without,
    write_leaks,
)
from biomedica.evaluate.overlap import Grey, overlap
from biomedica.evaluate.readers import read_items
from biomedica.evaluate.results import ITEMS, Result, Score, write_result
from biomedica.evaluate.settings import LeakSettings
from biomedica.evaluate.tasks import load_tasks
from biomedica.features import ShardFeatures, create_set, figures_digest, figures_path
from biomedica.flow import build_archive
from biomedica.models import Vectors, open_encoder, unit
from biomedica.preprocessing import Pixels, Preprocessing
from biomedica.select import View, parse_recipe, select
from biomedica.stream.samples import open_samples
from samples import Package, Panel, encoded, write_bucket

NUM_ARTICLES = 30
SETTINGS = LeakSettings(candidates=4)
Change = Callable[[Image.Image], bytes]


def scene(seed: int, width: int = 240, height: int = 180) -> Image.Image:
    """Blobs, lines and grain on a shaded ground: no two of them alike."""
    rng = np.random.default_rng(seed)
    ramp = (
        np.linspace(80, 200, width)[None]
        + rng.uniform(-40, 40) * np.linspace(-1, 1, height)[:, None]
    )
    grain = rng.normal(0, 10, (height, width))
    image = Image.fromarray(np.clip(ramp + grain, 0, 255).astype(np.uint8)).convert("RGB")
    draw = ImageDraw.Draw(image)
    for _ in range(25):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        size, colour = int(rng.integers(4, 30)), tuple(rng.integers(0, 256, 3).tolist())
        draw.ellipse((x - size, y - size, x + size, y + 0.7 * size), fill=colour, outline="black")
        draw.line((x, y, *rng.integers(0, height, 2).tolist()), fill=colour, width=2)
    return image


def crop(image: Image.Image, share: float) -> Image.Image:
    """Without that share of width and height, most of it on the left and below."""
    width, height = image.size
    left, low = round(width * share * 0.7), round(height * (1 - share * 0.7))
    return image.crop(
        (left, low - round(height * (1 - share)), left + round(width * (1 - share)), low)
    )


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    return encoded(image, "JPEG", quality=quality)


class TurningEncoder:
    """Shares of colours in the picture: the same for its mirror image, nearly so for a crop."""

    name = "turning"
    digest = "7" * 64
    dims = 65
    preprocessing = Preprocessing(size=48, fit="squash")
    text_digest = ""
    scale = 100.0

    def images(self, pixels_NHWC: Pixels) -> Vectors:
        codes = (pixels_NHWC // 64 * np.array([16, 4, 1], np.uint8)).sum(axis=3)
        counts = [np.bincount(each.ravel(), minlength=65) for each in codes]
        return unit(np.sqrt(np.array(counts, np.float32)))

    def texts(self, texts: Sequence[str]) -> Vectors:
        raise NotImplementedError


def give_vectors(archive: Archive) -> None:
    """The set `turning`."""
    encoder = TurningEncoder()
    info = {"kind": "image", "encoder": "turning", "digest": encoder.digest, "dims": encoder.dims}
    features = create_set(archive, "turning", info)
    for shard, done in archive.done().items():
        tar = (archive.root / "shards" / shard.rpartition("-")[0] / f"{shard}.tar").read_bytes()
        rows = pq.read_table(figures_path(archive, shard)).to_pylist()
        jpegs = [tar[row["jpg_offset"] :][: row["jpg_size"]] for row in rows]
        vectors = encoder.images(np.stack([encoder.preprocessing.pixels(each) for each in jpegs]))
        about = ShardFeatures(
            figures=figures_digest(done), encoder=encoder.digest, rows=len(rows), bad=()
        )
        features.write(shard, vectors.astype(np.float16), about)


KINDS: dict[str, Change] = {
    "re-encoded": lambda image: jpeg(image, 60),
    "half size": lambda image: jpeg(image.resize((image.width // 2, image.height // 2))),
    "squeezed": lambda image: jpeg(image.resize((128, 128))),
    "as PNG": lambda image: encoded(image, "PNG"),
    "mirrored": lambda image: jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "crop of 5 %": lambda image: jpeg(crop(image, 0.05)),
    "crop of 15 %, mirrored": lambda image: jpeg(
        crop(image, 0.15).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    ),
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """30 articles of one JPEG and one PNG each in several shards, a plain picture, with features and two views."""
    folder = tmp_path_factory.mktemp("leaks")
    packages = []
    for number in range(100, 100 + NUM_ARTICLES):
        files = {"a.jpg": jpeg(scene(number)), "b.png": encoded(scene(number + 1000), "PNG")}
        if number == 100:
            files["c.jpg"] = jpeg(Image.new("RGB", (240, 180), (9, 90, 200)))
        panels = tuple(Panel(href=name, caption=f"Panel {name} of {number}.") for name in files)
        packages.append(Package(number=number, panels=panels, files=files))
    write_bucket(folder / "source", packages)
    root = folder / "archive"
    build_archive(
        str(folder / "source"),
        root,
        Selection(),
        load_settings(None, ["shards.samples=20"]),
        engine="inline",
    )
    found = Archive(root)
    give_vectors(found)
    select(found, parse_recipe("", "all"), "all")
    select(found, parse_recipe("[split]\nvalidation = 0.5\n", "half"), "half")
    return found


def items_of(
    pictures: dict[str, bytes | np.ndarray[Any, Any]], groups: Sequence[str] = ()
) -> Items:
    """A benchmark of these pictures, by the ids of their items."""
    ids = tuple(sorted(pictures))
    return Items(
        task="made",
        split="test",
        ids=ids,
        places=tuple(f"{name}.jpg" for name in ids),
        read=lambda index: pictures[ids[index]],
        groups=tuple(groups) or ids,
        picture_ids=ids,
    )


def look(archive: Archive, items: Items, **options: Any) -> Leaks:
    chosen = {"view": "all", "split": None, "settings": SETTINGS} | options
    embeddings = Embeddings(TurningEncoder(), None)
    return contamination(archive, items=items, features="turning", embeddings=embeddings, **chosen)


def keys(leaks: Leaks) -> dict[str, set[tuple[str, str]]]:
    """(tier, key) of each item."""
    found: dict[str, set[tuple[str, str]]] = {}
    for row in leaks.rows.to_pylist():
        found.setdefault(row["item"], set()).add((row["tier"], row["key"]))
    return found


@given(st.integers(0, 2**32), st.integers(0, 8), st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=40, deadline=None)
def test_near_hashes_are_those_of_comparing_all(
    seed: int, bits: int, some: int, others: int
) -> None:
    rng = np.random.default_rng(seed)
    middle = rng.integers(0, 2**64, size=8, dtype=np.uint64)

    def around(count: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
        found = middle[rng.integers(8, size=count)]
        for _ in range(5):
            flips = np.uint64(1) << rng.integers(0, 64, size=count).astype(np.uint64)
            found = np.where(rng.random(count) < 0.5, found ^ flips, found)
        return found

    known, asked = around(some), around(others)
    left, right = NearHashes(known, bits).near(asked)
    full = np.nonzero(np.bitwise_count(known[:, None] ^ asked[None]) <= bits)
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == set(
        zip(*map(list, full), strict=True)
    )
    assert len(left) == len(full[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_picture_fits_and_another_does_not(kind: str) -> None:
    for seed in range(4):
        own, other = scene(seed), scene(seed + 500)
        changed = Image.open(io.BytesIO(KINDS[kind](own)))
        fit = overlap(Grey.of(changed), Grey.of(own))
        assert fit.convinces(SETTINGS.min_correlation), (seed, fit)
        assert fit.is_mirrored == ("mirrored" in kind)
        assert not overlap(Grey.of(changed), Grey.of(other)).convinces(SETTINGS.min_correlation)
        assert overlap(Grey.of(own), Grey.of(changed)).convinces(SETTINGS.min_correlation)


def test_same_bytes(archive: Archive) -> None:
    """The archive's own JPEG, the PNG that it was made of, and a plain picture."""
    plain = jpeg(Image.new("RGB", (240, 180), (9, 90, 200)))
    found = look(
        archive,
        items_of(
            {
                "jpg": jpeg(scene(103)),
                "other plain": jpeg(Image.new("RGB", (200, 150), (90, 9, 20))),
                "plain": plain,
                "png": encoded(scene(1104), "PNG"),
            }
        ),
    )
    assert keys(found) == {
        "jpg": {("exact", "PMC103-1-a")},
        "png": {("exact", "PMC104-1-b")},
        "plain": {("exact", "PMC100-1-c")},
    }
    assert found.num_plain == 2
    assert found.shares == {"exact": 0.75, "phash": 0, "embedding": 0, "article": 0, "any": 0.75}
    assert (found.num_samples, found.num_items) == (2 * NUM_ARTICLES + 1, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_planted_pictures_are_found(archive: Archive, kind: str) -> None:
    """Each by its own sample alone; those that keep their layout by the hash already."""
    planted = {f"{number}": KINDS[kind](scene(number)) for number in range(100, 110)}
    planted |= {f"other {seed}": KINDS[kind](scene(seed)) for seed in range(3000, 3003)}
    found = keys(look(archive, items_of(dict(planted)), settings=SETTINGS))
    assert {item for item in found if item.startswith("other")} == set()
    for item, pairs in found.items():
        assert {key for _, key in pairs} == {f"PMC{item}-1-a"}
    by_hash = sum(("phash", f"PMC{item}-1-a") in pairs for item, pairs in found.items())
    if "crop" in kind:
        assert len(found) >= 9
    else:
        assert len(found) == by_hash == 10


def test_unrelated_pictures_are_not_found(archive: Archive) -> None:
    unrelated = {f"{seed}": jpeg(scene(seed)) for seed in range(5000, 5015)}
    found = look(archive, items_of(dict(unrelated)))
    assert found.rows.num_rows == 0 and found.num_compared >= 45
    assert found.rows.schema == LEAKS


def test_a_crowd_by_hash_hides_no_copy(archive: Archive) -> None:
    """A sample that comes late by hash is compared where it is the first by cosine; nothing is compared twice."""
    samples = open_samples(archive.root, "all", None)
    names = samples.take(np.arange(len(samples))).keys
    right = names.index("PMC105-1-a")
    crowd = [number for number in range(len(names)) if number != right][:6]
    items = items_of({"one": KINDS["half size"](scene(105))})
    found = Search(read_pictures(items, None, lambda stage, done, total: None), Nearest(1, 0.6))
    found.near_hashes[0] = {number: NearHash(0, False) for number in crowd}
    found.near_hashes[0][right] = NearHash(5, False)
    judge = Judge(samples, found, LeakSettings(candidates=3))
    assert list(judge.pairs(0)) == [] and judge.num_compared == 3
    vectors = np.zeros((len(names), 1), np.float32)
    vectors[right] = 1
    found.nearest.add(np.ones((1, 1), np.float32), Block(0, pa.table({}), vectors))
    judge = Judge(samples, found, LeakSettings(candidates=3))
    assert [(pair.number, pair.tier) for pair in judge.pairs(0)] == [(right, "phash")]
    assert judge.num_compared == 4


def test_without_comparing_pictures(archive: Archive) -> None:
    """Hashes and cosines decide alone; nothing is read but tables."""
    alone = replace(SETTINGS, verify=False, cosine_alone=0.999)
    found = look(archive, items_of({"half": KINDS["half size"](scene(101))}), settings=alone)
    assert ("phash", "PMC101-1-a") in keys(found)["half"]
    assert found.num_compared == 0
    row = found.rows.to_pylist()[0]
    assert row["correlation"] is None and row["distance"] <= SETTINGS.phash_bits


def test_articles_and_shared_pictures(archive: Archive) -> None:
    """Two questions about one picture; a group that names an article; an id of an article that is not there."""
    planted = {"q1": jpeg(scene(105)), "q2": jpeg(scene(105)), "PMC999_fig": jpeg(scene(7777))}
    items = items_of(dict(planted), groups=("x", "q", "pmc00107"))
    items = replace(items, picture_ids=("one", "two", "two"))
    found = look(archive, items)
    assert keys(found) == {
        "q1": {("exact", "PMC105-1-a")},
        "q2": {("exact", "PMC105-1-a"), ("article", "PMC107-1-a"), ("article", "PMC107-1-b")},
    }
    assert found.num_pictures == 2
    assert found.items(["article"]) == {"q2"}


def test_only_the_split_and_live_samples_count(archive: Archive) -> None:
    table = View.open(archive, "half").table
    splits = dict(zip(table["key"].to_pylist(), table["split"].to_pylist(), strict=True))
    planted = {f"{n}": jpeg(scene(n)) for n in range(100, 112)}
    found = look(archive, items_of(dict(planted)), view="half", split="validation")
    wanted = {f"{n}" for n in range(100, 112) if splits[f"PMC{n}-1-a"] == "validation"}
    assert 0 < len(wanted) < 12 and found.items() == wanted
    shard = table["shard"][0].as_py()
    gone = {
        "key": "PMC100-1-a",
        "shard": shard,
        "pmcid": "PMC100",
        "version": 1,
        "reason": "withdrawn",
    }
    archive.set_tombstones([gone])
    try:
        found = look(archive, items_of({"100": planted["100"]}))
        assert not found.items() and found.num_samples == 2 * NUM_ARTICLES
    finally:
        archive.set_tombstones([])


def test_pixels_are_looked_for_too(archive: Archive) -> None:
    found = look(archive, items_of({"pixels": np.asarray(scene(110))}))
    assert keys(found) == {"pixels": {("phash", "PMC110-1-a")}}


def test_what_is_written_can_be_excluded(archive: Archive, tmp_path: Path) -> None:
    """The list is a recipe's `exclude`; with it nothing leaks any more."""
    planted = items_of({f"{n}": KINDS["crop of 5 %"](scene(n)) for n in range(100, 106)})
    found = look(archive, planted)
    write_leaks(tmp_path, found)
    assert pq.read_table(tmp_path / "leaks.parquet").to_pylist() == found.rows.to_pylist()
    noted = json.loads((tmp_path / "leaks.json").read_text())
    assert noted["num_leaked_items"] == 6 and noted["settings"]["phash_bits"] == SETTINGS.phash_bits
    recipe = parse_recipe('exclude = "exclude.txt"\n', "clean", tmp_path)
    selected = select(archive, recipe, "clean")
    assert [(step.kind, step.refused) for step in selected.steps] == [("exclude", 6)]
    assert not look(archive, planted, view="clean").items()
    text = "\n".join(describe(found))
    assert "6 of 6 items (100.0%) are in view all (6 of 61 samples)" in text


def test_what_cannot_be_compared(archive: Archive) -> None:
    items = items_of({"a": jpeg(scene(1)), "b": b"\x89PNG rubbish"})
    with pytest.raises(EvaluationError, match="task made, test, item 'b'"):
        look(archive, items)
    one = items_of({"a": jpeg(scene(1))})
    with pytest.raises(ConfigError, match="need both"):
        contamination(archive, "all", None, one, SETTINGS, features="turning")
    other = Embeddings(open_encoder("tiny"), None)
    with pytest.raises(ConfigError, match="can't be compared"):
        contamination(archive, "all", None, one, SETTINGS, features="turning", embeddings=other)
    with pytest.raises(ConfigError, match="0 to 8"):
        LeakSettings(phash_bits=9)
    found = contamination(archive, "all", None, one, SETTINGS)
    assert "not looked for" in "\n".join(describe(found))


def made_result(num_items: int) -> Result:
    """Of an accuracy over that many items."""
    return Result(
        model="m",
        task="made",
        protocol="zero_shot",
        split="test",
        kind="classification",
        specialty="",
        modality="",
        suites=[],
        title="",
        main="accuracy",
        scores={"accuracy": Score(value=0.5, chance=0.5)},
        num_items=num_items,
        num_groups=num_items,
    )


def test_scores_with_and_without() -> None:
    """A model that is right where it has seen the picture, and guesses elsewhere."""
    rows = [
        {
            "item": f"{n:02d}",
            "place": "",
            "picture": f"{n}",
            "group": f"{n}",
            "is_right": n < 10 or n % 2 == 0,
        }
        for n in range(30)
    ]
    items = pa.Table.from_pylist(rows, schema=ITEMS)
    result = made_result(30)
    found = with_and_without(result, items, {f"{n:02d}" for n in range(10)} | {"stranger"})
    assert [round(found[name].value, 6) for name in ("all", "without", "leaked")] == [
        0.666667,
        0.5,
        1.0,
    ]
    without = found["without"]
    assert (
        without.chance == 0.5
        and without.low is not None
        and without.low < 0.5 < (without.high or 0)
    )
    assert set(with_and_without(result, items, set())) == {"all", "without"}


TASK = """
name = "leaky"
title = "Scenes"
kind = "classification"
specialty = "none"
modality = "none"
metric = "accuracy"
access = {url = "https://example.org", terms = "open", licence = "CC0", how = "Make them."}
classes = [{name = "seen", text = "seen"}, {name = "new", text = "new"}]

[data]
reader = "folders"
path = "scenes"
splits = {test = "test"}

[prompts.single]
templates = ["{c}"]
"""


def test_the_command(archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shares, files, and the scores of a run with and without what leaked."""
    for name, seeds in (("seen", range(100, 104)), ("new", range(9000, 9004))):
        (tmp_path / "scenes" / "test" / name).mkdir(parents=True)
        for seed in seeds:
            data = KINDS["half size"](scene(seed))
            (tmp_path / "scenes" / "test" / name / f"{seed}.jpg").write_bytes(data)
    (tmp_path / "leaky.toml").write_text(TASK)
    task = load_tasks([tmp_path / "leaky.toml"])["leaky"]
    ids = read_items(task, tmp_path, "test").ids
    rows = [
        {"item": name, "place": "", "picture": name, "group": name, "is_right": "seen" in name}
        for name in ids
    ]
    result = replace(made_result(8), task="leaky")
    write_result(tmp_path / "run", result, pa.Table.from_pylist(rows, schema=ITEMS))
    words = ["eval", "contamination", str(archive.root), "all", "leaky", "--data", str(tmp_path)]
    words += ["--tasks-from", str(tmp_path / "leaky.toml"), "--run", str(tmp_path / "run")]
    app([*words, "--out", str(tmp_path / "out"), "--quiet"], result_action="return_value")
    said = capsys.readouterr().out
    assert "leaky, test: 4 of 8 items (50.0%) are in view all (4 of 61 samples)" in said
    assert "accuracy: all 50.0%" in said and "without 0.0%" in said and "leaked 100.0%" in said
    listed = (tmp_path / "out" / "exclude.txt").read_text().split()
    assert listed == [f"PMC{number}-1-a" for number in range(100, 104)]
    app([*words, "--json", "--quiet"], result_action="return_value")
    found = json.loads(capsys.readouterr().out)
    assert found["shares"]["phash"] == 0.5
    assert found["scores"][0]["scores"]["without"]["value"] == 0
    with pytest.raises(ConfigError, match="without --features"):
        app([*words, "--encoder", "tiny", "--quiet"], result_action="return_value")
