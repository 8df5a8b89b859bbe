"""The webdataset library reads what is written, the way that CLIP_benchmark asks it to."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark_data import medmnist, micro_bench, number_of, task_of
from biomedica.evaluate.readers import read_items
from biomedica.evaluate.tasks import Task
from biomedica.evaluate.wds_writer import write_wds

pytestmark = [
    pytest.mark.clients,
    # webdataset leaves the files that it has read to the garbage collector
    pytest.mark.filterwarnings(r"ignore:unclosed file <_io\..*\.tar':ResourceWarning"),
    pytest.mark.filterwarnings(
        r"ignore:Exception ignored in. <_io\..*\.tar':pytest.PytestUnraisableExceptionWarning"
    ),
]
IMAGES = ["webp", "png", "jpg", "jpeg"]


def read(folder: Path, answer: str) -> list[tuple[Any, Any]]:
    """Pictures and answers of the test split."""
    webdataset = pytest.importorskip("webdataset")
    shards = int((folder / "test" / "nshards.txt").read_text())
    urls = str(folder / "test" / f"{{0..{shards - 1}}}.tar")
    found = webdataset.WebDataset(urls, shardshuffle=False, nodesplitter=lambda src: src)
    decoder = webdataset.autodecode.ImageHandler("pil", extensions=IMAGES)
    samples = list(found.decode(decoder).to_tuple(IMAGES, answer))
    del found
    gc.collect()  # here, where it may warn
    return samples


def written(folder: Path, task: Task, data: Path) -> Any:
    """The items of the test split, after they were written."""
    items = read_items(task, data, "test")
    write_wds(folder, task, {"test": items}, per_shard=4)
    return items


def test_clip_benchmark_reads_it(tmp_path: Path) -> None:
    """Labels as whole numbers, several labels as arrays, captions by line; pictures in the same order."""
    medmnist(tmp_path / "x.npz")
    items = written(tmp_path / "w", task_of("npz", "x.npz"), tmp_path)
    found = read(tmp_path / "w", "cls")
    assert [label for _, label in found] == items.labels_N.tolist()
    assert [image.getpixel((0, 0))[0] for image, _ in found] == list(range(6))
    medmnist(tmp_path / "z.npz", labels=3)
    items = written(tmp_path / "v", task_of("npz", "z.npz", "multilabel"), tmp_path)
    assert np.array_equal(
        np.stack([each for _, each in read(tmp_path / "v", "npy")]), items.labels_NC
    )
    micro_bench(tmp_path / "r.parquet", caption=[[f"one {n}", f"two {n}"] for n in range(9)])
    items = written(
        tmp_path / "u", task_of("parquet", "r.parquet", "retrieval", classes=()), tmp_path
    )
    found = read(tmp_path / "u", "txt")
    assert [tuple(text.splitlines()) for _, text in found] == list(items.captions)
    assert [number_of(image) for image, _ in found] == list(range(8, -1, -1))
