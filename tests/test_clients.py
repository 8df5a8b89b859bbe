"""Do the programs that people train and query with read an archive as it is meant?"""

from __future__ import annotations

import functools
import hashlib
import inspect
import io
import re
import shutil
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from biomedica import flow, shards
from biomedica.catalog import Selection
from biomedica.config import load_settings
from biomedica.records import KEY_CHARACTERS

if TYPE_CHECKING:
    import datasets
    import torch

pytestmark = pytest.mark.clients

MEMBERS = ("jpg", "txt", "json")
OFFSETS = ["shard", "offset", "length", *(f"{m}_{n}" for m in MEMBERS for n in ("offset", "size"))]
TEXT_IN_JSON = ("published", "phash")
"""Columns that JSON holds as text: ISO dates, and hashes as 16 hex digits."""
SIDE = 32
"""Pixels; the pictures that open_clip is asked for."""


@dataclass(frozen=True)
class Built:
    """An archive, and what a client must find in it according to the figures tables."""

    root: Path

    @cached_property
    def tars(self) -> list[str]:
        """Shards of all groups, in order."""
        return [str(path) for path in sorted((self.root / "shards").glob("*/*.tar"))]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of the figures tables, in the order of the shards."""
        return [
            row
            for path in shards.tables(self.root, "figures")
            for row in pq.read_table(path).to_pylist()
        ]

    def member(self, row: dict[str, Any], extension: str) -> bytes:
        """Bytes of a sample's member, by its offsets."""
        start = row[f"{extension}_offset"]
        shard = self.root / "shards" / row["licence_group"] / f"{row['shard']}.tar"
        return shard.read_bytes()[start : start + row[f"{extension}_size"]]

    def picture(self, row: dict[str, Any], mode: str | None = None) -> Image.Image:
        """The picture as Pillow decodes it, grey or colour, unless a mode is asked for."""
        picture = Image.open(io.BytesIO(self.member(row, "jpg")))
        return picture.convert(mode) if mode else picture

    @cached_property
    def pattern(self) -> str:
        """The shards as trainers are told of them: `.../commercial-{000000..000002}.tar::...`."""
        parts = []
        for group, paths in groupby(map(Path, self.tars), key=lambda path: path.parent):
            numbers = [path.stem.rpartition("-")[2] for path in paths]
            parts.append(f"{group}/{group.name}-{{{numbers[0]}..{numbers[-1]}}}.tar")
        return "::".join(parts)


@pytest.fixture(scope="module")
def built(tour_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The tour's articles as an archive of several groups, one of them with several shards."""
    root = tmp_path_factory.mktemp("clients") / "archive"
    settings = load_settings(None, ["shards.samples=20"])
    flow.build_archive(str(tour_folder), root, Selection(), settings, engine="inline")
    archive = Built(root)
    assert len({row["licence_group"] for row in archive.rows}) > 1
    assert len(archive.tars) > 3
    return archive


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No client may ask a hub or write to the user's cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "huggingface" / "datasets"))


def as_json(row: dict[str, Any]) -> dict[str, Any]:
    """What the JSON member of a row must hold."""
    published = row["published"]
    plain = {name: value for name, value in row.items() if name not in OFFSETS}
    return plain | {
        "published": published.isoformat() if published else None,
        "phash": f"{row['phash']:016x}",
    }


def huggingface_features() -> datasets.Features:
    """Columns of `load_dataset("webdataset")`, stated: `datasets` guesses from five samples."""
    from datasets import Features, Value
    from datasets import Image as Picture

    facts = pa.schema(
        [
            pa.field(field.name, pa.string() if field.name in TEXT_IN_JSON else field.type)
            for field in shards.FIGURES
            if field.name not in OFFSETS
        ]
    )
    text = Value("string")
    json = dict(Features.from_arrow_schema(facts))
    return Features(jpg=Picture(), txt=text, json=json, __key__=text, __url__=text)


# webdataset, which leaves the files that it has read to the garbage collector

unclosed_files = pytest.mark.filterwarnings(
    r"ignore:unclosed file <_io\.BufferedReader name='.*\.tar'>:ResourceWarning"
)


@unclosed_files
def test_webdataset_reads_the_bytes_in_the_order_of_the_table(built: Built) -> None:
    import webdataset

    found = list(webdataset.WebDataset(built.tars, shardshuffle=False))
    assert [sample["__key__"] for sample in found] == [row["key"] for row in built.rows]
    for sample, row in zip(found, built.rows, strict=True):
        assert {name for name in sample if not name.startswith("__")} == set(MEMBERS)
        for extension in MEMBERS:
            assert sample[extension] == built.member(row, extension)


@unclosed_files
def test_webdataset_decodes_pixels_captions_and_facts(built: Built) -> None:
    import webdataset

    dataset = webdataset.WebDataset(built.tars, shardshuffle=False).decode("pil")
    for sample, row in zip(dataset, built.rows, strict=True):
        assert sample["txt"] == row["caption"]
        assert sample["json"] == as_json(row)
        assert sample["jpg"].size == (row["width"], row["height"])
        assert np.array_equal(np.asarray(sample["jpg"]), np.asarray(built.picture(row, "RGB")))


# datasets


@pytest.mark.parametrize("streaming", [False, True], ids=["on-disk", "streaming"])
def test_datasets_loads_all_groups_as_one(built: Built, tmp_path: Path, streaming: bool) -> None:
    from datasets import load_dataset

    empty = {name for name in built.rows[0] if not any(row[name] for row in built.rows[:5])}
    assert any(row[name] for row in built.rows for name in empty), "no column begins with nulls"
    dataset = load_dataset(
        "webdataset",
        data_files=built.tars,
        split="train",
        streaming=streaming,
        features=huggingface_features(),
        cache_dir=str(tmp_path),
    )
    found = list(dataset)
    assert [each["__key__"] for each in found] == [row["key"] for row in built.rows]
    for each, row in zip(found, built.rows, strict=True):
        assert each["txt"] == row["caption"]
        assert each["json"] == as_json(row)
        assert np.array_equal(np.asarray(each["jpg"]), np.asarray(built.picture(row)))


# a shard without samples: every article in it was refused


@unclosed_files
def test_a_shard_without_samples_stops_no_reader(built: Built, tmp_path: Path) -> None:
    import webdataset
    from datasets import load_dataset

    with shards.ShardWriter(tmp_path, "commercial", "commercial-000000") as writer:
        writer.commit()
    empty = str(tmp_path / "shards" / "commercial" / "commercial-000000.tar")
    keys = [row["key"] for row in built.rows]
    paths = [empty, *built.tars, empty]
    found = webdataset.WebDataset(paths, shardshuffle=False)
    assert [sample["__key__"] for sample in found] == keys
    dataset = load_dataset(
        "webdataset",
        data_files=paths,
        split="train",
        features=huggingface_features(),
        cache_dir=str(tmp_path / "cache"),
    )
    assert dataset["__key__"][:] == keys


# open_clip


def trainer_arguments(*words: str) -> Any:
    """The arguments of open_clip's trainer, with what its `main` adds for one process."""
    from open_clip_train.params import parse_args

    arguments = parse_args([*words, "--dataset-type", "webdataset", "--workers", "1"])
    arguments.world_size, arguments.distributed = 1, False
    return arguments


def pairs(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
) -> Counter[tuple[str, tuple[int, ...]]]:
    """How often each pair of a picture (digest of its tensor) and a caption (its tokens) came."""
    return Counter(
        (hashlib.sha256(image.numpy().tobytes()).hexdigest(), tuple(text.tolist()))
        for images, texts in batches
        for image, text in zip(images, texts, strict=True)
    )


@pytest.fixture
def shard_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep open_clip's loader working beside a webdataset that is newer than it asks for.

    open_clip[training] 3.3 asks for webdataset <= 0.2.86. From 0.2.96 on, webdataset marks the end
    of a shard with an empty dictionary unless told otherwise, and open_clip's grouping of members
    into samples fails on it (`KeyError: 'fname'`), whatever is in the shard.
    """
    import webdataset.tariterators as reader
    from open_clip_train import data

    if "eof_value" in inspect.signature(reader.tar_file_expander).parameters:
        expander = functools.partial(reader.tar_file_expander, eof_value=None)
        monkeypatch.setattr(data, "tar_file_expander", expander)


@unclosed_files
@pytest.mark.usefixtures("shard_ends")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_open_clip_trains_and_validates_on_every_pair_once(built: Built) -> None:
    from open_clip import SimpleTokenizer, image_transform
    from open_clip_train.data import get_data

    total = len(built.rows)
    batch = max(size for size in range(1, 33) if total % size == 0)
    arguments = trainer_arguments(
        *("--train-data", built.pattern, "--train-num-samples", str(total)),
        *("--val-data", built.pattern, "--batch-size", str(batch)),
    )
    tokenizer = SimpleTokenizer(context_length=77)
    preprocess = image_transform(SIDE, is_train=False)
    data = get_data(arguments, (preprocess, preprocess), tokenizer=tokenizer)
    train, validation = data["train"].dataloader, data["val"].dataloader
    assert (train.num_samples, train.num_batches) == (total, total // batch)

    trained, validated = list(train), list(validation)
    assert [tuple(images.shape) for images, _ in trained] == [(batch, 3, SIDE, SIDE)] * (
        total // batch
    )
    expected = expected_pairs(built, preprocess, tokenizer)
    assert expected.total() == total
    assert pairs(trained) == expected
    assert pairs(validated) == expected


def expected_pairs(
    built: Built,
    preprocess: Callable[[Image.Image], torch.Tensor],
    tokenizer: Callable[[str], torch.Tensor],
) -> Counter[tuple[str, tuple[int, ...]]]:
    """The pairs of the table, prepared as a training script does."""
    return pairs(
        (
            preprocess(built.picture(row, "RGB"))[None],
            tokenizer(row["caption"]),
        )
        for row in built.rows
    )


# tar


def test_tarfile_finds_each_member_at_its_offset(built: Built) -> None:
    found = []
    for path in built.tars:
        with tarfile.open(path, "r:") as tar:
            members = tar.getmembers()
        assert all(each.isreg() and each.mode == 0o644 for each in members)
        assert not any(each.mtime or each.uid or each.gid or each.uname for each in members)
        found += [(Path(path).stem, each.name, each.offset_data, each.size) for each in members]
    assert found == [
        (
            row["shard"],
            f"{row['key']}.{extension}",
            row[f"{extension}_offset"],
            row[f"{extension}_size"],
        )
        for row in built.rows
        for extension in MEMBERS
    ]


def test_offset_and_length_cut_a_sample_out_of_its_shard(built: Built) -> None:
    for row in built.rows:
        shard = built.root / "shards" / row["licence_group"] / f"{row['shard']}.tar"
        cut = shard.read_bytes()[row["offset"] : row["offset"] + row["length"]]
        with tarfile.open(fileobj=io.BytesIO(cut), mode="r:") as tar:
            assert tar.getnames() == [f"{row['key']}.{extension}" for extension in MEMBERS]


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar on this machine")
def test_tar_command_lists_and_extracts_every_member(built: Built) -> None:
    for path in built.tars:
        rows = [row for row in built.rows if row["shard"] == Path(path).stem]
        listed = subprocess.run(["tar", "tf", path], capture_output=True, check=True)
        names = [f"{row['key']}.{extension}" for row in rows for extension in MEMBERS]
        assert (listed.stdout.decode().splitlines(), listed.stderr) == (names, b"")
        extracted = subprocess.run(["tar", "xOf", path], capture_output=True, check=True)
        expected = [built.member(row, extension) for row in rows for extension in MEMBERS]
        assert (extracted.stdout, extracted.stderr) == (b"".join(expected), b"")


# Parquet


def test_every_table_has_the_columns_of_the_schema(built: Built) -> None:
    paths = shards.tables(built.root, "figures")
    assert [path.stem for path in paths] == [Path(path).stem for path in built.tars]
    for path in paths:
        assert pq.read_schema(path).equals(shards.FIGURES)


def test_pyarrow_dataset_reads_the_folder_of_all_groups(built: Built) -> None:
    dataset = ds.dataset(built.root / "figures", format="parquet")
    assert dataset.schema.equals(shards.FIGURES)
    assert sorted(dataset.to_table()["key"].to_pylist()) == sorted(row["key"] for row in built.rows)


def test_duckdb_reads_all_groups_with_the_same_types_and_values(built: Built) -> None:
    files = str(built.root / "figures" / "*" / "*.parquet")
    with duckdb.connect() as connection:
        query = 'FROM read_parquet(?) ORDER BY shard, "offset"'
        table = connection.sql(query, params=[files]).to_arrow_table()
    types = {field.name: field.type for field in shards.FIGURES}
    assert {field.name: field.type for field in table.schema} == types
    assert table.to_pylist() == built.rows


# keys


def test_keys_suit_every_reader(built: Built) -> None:
    keys = [row["key"] for row in built.rows]
    assert len(set(keys)) == len(keys)
    for key in keys:
        assert len(key) <= KEY_CHARACTERS == 95
        assert re.fullmatch("[A-Za-z0-9_-]+", key)


def test_a_shard_has_one_image_extension(built: Built) -> None:
    extensions = Counter(
        member.name.partition(".")[2]
        for path in built.tars
        for member in shards.tar_members(Path(path))
    )
    assert extensions == dict.fromkeys(MEMBERS, len(built.rows))
