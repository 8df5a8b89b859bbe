"""Whatever benchmark files hold, reading them ends in items or in an error that names the task."""

from __future__ import annotations

import io
import json
import logging
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark_data import COLOURS, medmnist, micro_bench, picture, slake, task_of, vqa_rad
from biomedica.errors import BiomedicaError, ConfigError, EvaluationError
from biomedica.evaluate.readers import read_items, task_splits
from biomedica.evaluate.tasks import Task, load_tasks, parse_task
from biomedica.evaluate.validate import validate
from biomedica.evaluate.wds_writer import write_wds

STAIN = {"task": "stain"}


def said(error: type[BiomedicaError], task: Task, data: Path, split: str = "test") -> str:
    """The message that reading ends with."""
    with pytest.raises(error) as caught:
        read_items(task, data, split)
    assert "task colours" in str(caught.value)
    return str(caught.value)


def table(folder: Path, lines: str, /, **changes: Any) -> Task:
    """A CSV of options, and the task over it."""
    (folder / "t.csv").write_bytes(lines.encode("utf-8", "surrogateescape"))
    options = {"options": ["x", "y"], **changes}
    return task_of("csv", "t.csv", "options", classes=(), options=options)


def webdataset(folder: Path) -> Task:
    """A set of six pictures in two shards."""
    medmnist(folder / "x.npz")
    items = {"test": read_items(task_of("npz", "x.npz"), folder, "test")}
    write_wds(folder / "w", task_of("npz", "x.npz"), items, per_shard=3)
    return task_of("wds", "w")


# --- values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["--1", "-", "9" * 30, "9" * 5000, "²", "nan", "", "0x1", "1.5"])
def test_answers(tmp_path: Path, answer: str) -> None:
    """What is no number of an option is told with item and line."""
    task = table(tmp_path, f"image,x,y,answer_idx\na.png,red,blue,{answer}\n")
    message = said(EvaluationError, task, tmp_path)
    assert "'a.png' (t.csv line 2) has the answer" in message and len(message) < 300


@pytest.mark.parametrize(
    "changes",
    [{"pattern": "{id"}, {"pattern": "{id:>q}"}, {"delimiter": ";;"}, {"separator": ""},
     {"options": "x"}, {"box": ["a", "b"]}, {"folder": "../.."}],
)  # fmt: skip
def test_settings_of_tables(tmp_path: Path, changes: dict[str, Any]) -> None:
    """A pattern that is none, more than a character, a text for a list."""
    name = next(iter(changes))
    task = table(tmp_path, "image,x,y,answer_idx\na.png,red,blue,0\n", **changes)
    assert f"data.options.{name}" in said(ConfigError, task, tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "no-such", "hex", "idna", "a\0b"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    """Bytes of another encoding, encodings that are none."""
    lines = "image,x,y,answer_idx\n\udce9.png,red,blue,0\n"
    task = table(tmp_path, lines, encoding=encoding)
    assert "t.csv cannot be read as a table" in said(EvaluationError, task, tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"options": ["['red','blue']"] * 9}, "has \"['red','blue']\" where a list of texts"),
        ({"options": [{"a": "b"}] * 9}, "where a list of texts is expected"),
        ({"options": [[["a"], ["b"]]] * 9}, "where a list of texts is expected"),
        ({"options": [[1.0, float("nan")]] * 9}, "where a list of texts is expected"),
        ({"options": [5] * 9}, "has '5' where a list of texts is expected"),
        ({"options": [None] * 9}, "has no options"),
        ({"answer_idx": [float("nan")] * 9}, "has the answer 'nan'"),
        ({"answer_idx": [[0]] * 9}, "has the answer '[0]'"),
        ({"answer_idx": [None] * 9}, "has the answer ''"),
        ({"label": [None] * 9}, "has the label ''"),
        ({"label": [["red"]] * 9}, "has the label \"['red']\""),
        ({"label": pa.array([b"\xe9"] * 9).cast(pa.string(), safe=False)}, "'label' cannot be read"),
    ],
)  # fmt: skip
def test_cells_of_parquet(tmp_path: Path, changes: Any, words: str) -> None:
    """One text for a list, nested cells, numbers that are none, other encodings."""
    if isinstance(changes.get("label"), pa.Array):
        raw = pa.array([b"\xe9"] * 9, pa.binary())
        changes = {"label": pa.Array.from_buffers(pa.string(), 9, raw.buffers())}
    micro_bench(tmp_path / "set.parquet", **changes)
    task = task_of("parquet", "set.parquet", "options", options=STAIN)
    message = said(EvaluationError, task, tmp_path)
    assert words in message and "set.parquet" in message, message


def test_captions_of_parquet(tmp_path: Path) -> None:
    """A text or a list of texts."""
    task = task_of("parquet", "set.parquet", "retrieval", classes=())
    for captions in ([1.5] * 9, [{"text": "a"}] * 9, [[["a"]]] * 9):
        micro_bench(tmp_path / "set.parquet", caption=captions)
        assert "a list of texts is expected" in said(EvaluationError, task, tmp_path)


@pytest.mark.parametrize("path", ["**x", "."])
def test_patterns_of_files(tmp_path: Path, path: str) -> None:
    """What is no pattern."""
    assert "data.path" in said(ConfigError, task_of("parquet", path), tmp_path)


def test_places_stay_inside(tmp_path: Path) -> None:
    """Folders and files that a task names below its own."""
    vqa_rad(tmp_path / "rad")
    for name in ("file", "images"):
        task = task_of("vqa_rad", "rad", "vqa", classes=(), options={name: "/etc/x"})
        assert f"data.options.{name} is '/etc/x'" in said(ConfigError, task, tmp_path)
    for reader in ("folders", "wds"):
        task = task_of(reader, "rad", splits={"test": "../.."})
        assert "data.splits is '../..'" in said(ConfigError, task, tmp_path)
    task = task_of("folders", "rad", options={"group": "("})
    assert "data.options.group: '(' is no regular expression" in said(ConfigError, task, tmp_path)
    task = task_of("csv", "x" * 5000)
    assert "its data cannot be read" in said(EvaluationError, task, tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"[" * 100_000, b'[{"qid": "\xe9"}]', b'[{"qid": "\\ud800"}]', b"[1]"]
)
def test_questions(tmp_path: Path, content: bytes) -> None:
    """Nothing, nests without an end, other encodings, halves of characters."""
    vqa_rad(tmp_path / "rad")
    (tmp_path / "rad" / "VQA_RAD Dataset Public.json").write_bytes(content)
    task = task_of("vqa_rad", "rad", "vqa", classes=())
    assert "rad/VQA_RAD Dataset Public.json is no" in said(EvaluationError, task, tmp_path)


def test_long_numbers_as_ids(tmp_path: Path) -> None:
    """They stay texts."""
    vqa_rad(tmp_path / "rad", qid="9" * 5000)
    task = task_of("vqa_rad", "rad", "vqa", classes=())
    assert read_items(task, tmp_path, "test").ids[1] == "9" * 5000


@pytest.mark.parametrize(
    "name", ["classnames.txt", "dataset_type.txt", "test/nshards.txt"]
)  # fmt: skip
def test_texts_of_webdataset(tmp_path: Path, name: str) -> None:
    """Bytes of another encoding; more shards than a computer has room for."""
    task = webdataset(tmp_path)
    (tmp_path / "w" / name).write_bytes(b"r\xe9d\n")
    assert f"w/{name} cannot be read" in said(EvaluationError, task, tmp_path)
    (tmp_path / "w/test/nshards.txt").write_text("9" * 30)
    assert validate(task, tmp_path).state == "wrong"


def test_members_of_webdataset(tmp_path: Path) -> None:
    """A member that says it is larger than the file, names in another encoding, labels that are no numbers."""
    for name, label, size, words in (
        ("a", b"9" * 30, None, "has the label"),
        ("a", b"0", 1 << 40, "damaged tar"),
        ("a\udce9", b"0", None, "is no Unicode"),
    ):
        (tmp_path / "w/test").mkdir(parents=True, exist_ok=True)
        (tmp_path / "w/test/nshards.txt").write_text("1")
        with tarfile.open(tmp_path / "w/test/0.tar", "w", format=tarfile.GNU_FORMAT) as tar:
            for end, data in (("png", picture(0)), ("cls", label)):
                entry = tarfile.TarInfo(f"{name}.{end}")
                entry.size = len(data)
                if size and end == "cls":
                    entry.size = size
                    tar.fileobj.write(entry.tobuf(tarfile.GNU_FORMAT))  # type: ignore[union-attr]
                    break
                tar.addfile(entry, io.BytesIO(data))
        assert words in said(EvaluationError, task_of("wds", "w"), tmp_path)


def test_arrays(tmp_path: Path) -> None:
    """Objects, shapes and types that are none of pictures or labels, encrypted files."""
    path, task = tmp_path / "x.npz", task_of("npz", "x.npz")
    pictures, labels = np.zeros((3, 4, 4), np.uint8), np.arange(3)[:, None]
    for images, answers in (
        (np.array([None] * 3, object), labels),
        (pictures, np.array([0, "a", None], object)),
        (pictures[0], labels),
        (pictures, labels * 0.5),
        (pictures, labels[None]),
        (pictures, np.zeros((3, 0), int)),
        (pictures, np.int64(3)),
    ):
        np.savez(path, test_images=images, test_labels=answers)
        assert "x.npz" in said(EvaluationError, task, tmp_path)
    np.savez(path, test_images=pictures[:0], test_labels=labels[:0])
    assert "x.npz" in said(EvaluationError, task, tmp_path)


def test_task_files(tmp_path: Path) -> None:
    """Other encodings, endless numbers, nests and dates."""
    (tmp_path / "x.toml").write_bytes(b'name="\xe9"')
    with pytest.raises(ConfigError, match=r"x\.toml cannot be read"):
        load_tasks([tmp_path])
    for text in (f"version = {'9' * 5000}", f"suites = {'[' * 5000}"):
        with pytest.raises(ConfigError, match="task x"):
            parse_task(text, "x")
    import datetime

    dated = task_of("npz", "x", options={"flag": datetime.date(2020, 1, 1)})
    assert len(dated.digest) == 64


# --- classes ----------------------------------------------------------------------------------------


def label_sources(folder: Path, labels: list[int]) -> dict[str, str]:
    """The same labels as CSV, Parquet and arrays."""
    names = [f"{number}.png" for number in range(len(labels))]
    lines = [f"{name},{label}\n" for name, label in zip(names, labels, strict=True)]
    (folder / "t.csv").write_text("image,label\n" + "".join(lines))
    columns = {"image": [picture(0)] * len(labels), "label": labels}
    pq.write_table(pa.table(columns), folder / "t.parquet")
    pictures = np.zeros((len(labels), 4, 4), np.uint8)
    np.savez(folder / "t.npz", test_images=pictures, test_labels=np.array(labels)[:, None])
    return {"csv": "t.csv", "parquet": "t.parquet", "npz": "t.npz"}


def test_classes_called_by_numbers(tmp_path: Path) -> None:
    """A number is a class's name where classes have such names, else an index from 0."""
    for reader, path in label_sources(tmp_path, [1, 2, 3]).items():
        task = task_of(reader, path, classes=("1", "2", "3"))
        found = read_items(task, tmp_path, "test").labels_N
        assert found is not None and found.tolist() == [0, 1, 2]
    for reader, path in label_sources(tmp_path, [0, 1, 2]).items():
        task = task_of(reader, path, classes=("1", "2", "3"))
        message = said(EvaluationError, task, tmp_path)
        assert (
            "has the label '0', which is no class; known are 1, 2, 3 (numbers are names" in message
        )
        found = read_items(task_of(reader, path), tmp_path, "test").labels_N
        assert found is not None and found.tolist() == [0, 1, 2]
        task = task_of(reader, path, classes=("2", "1", "0"))
        found = read_items(task, tmp_path, "test").labels_N
        assert found is not None and found.tolist() == [2, 1, 0]


def test_numbers_of_webdataset_are_indices(tmp_path: Path) -> None:
    """The format says so, and what is written reads as the same classes."""
    label_sources(tmp_path, [2, 3, 1])
    task = task_of("npz", "t.npz", classes=("1", "2", "3"))
    items = read_items(task, tmp_path, "test")
    write_wds(tmp_path / "w", task, {"test": items})
    again = read_items(task_of("wds", "w", classes=("1", "2", "3")), tmp_path, "test")
    assert again.labels_N is not None and again.labels_N.tolist() == [1, 2, 0]


def test_classes_without_items(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Refused for one class of each item, told for several; `options` need none."""
    for reader, path in label_sources(tmp_path, [0, 1, 1]).items():
        message = said(EvaluationError, task_of(reader, path), tmp_path)
        assert f"'blue' was looked for in {path}" in message and "may_lack" in message
    lines = "image,many,x,y,answer_idx,label\na.png,red|green,one,two,0,red\n"
    (tmp_path / "t.csv").write_text(lines)
    task = task_of("csv", "t.csv", "multilabel", options={"label": "many"})
    with caplog.at_level(logging.WARNING):
        assert len(read_items(task, tmp_path, "test")) == 1
    assert "task colours: no item of test has blue" in caplog.text
    task = task_of("csv", "t.csv", "options", options={"options": ["x", "y"]})
    assert len(read_items(task, tmp_path, "test")) == 1


# --- anything ---------------------------------------------------------------------------------------


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, often near the ends, where headers stand; often cut, sometimes to nothing."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        near = chance.randrange(min(len(data), 400))
        place = chance.choice([near, -near - 1, chance.randrange(len(data))])
        data[place] = chance.choice([0, 0x2D, 0x39, 0xE9, 0xFF, chance.randrange(256)])
    return bytes(data[: chance.randrange(len(data) + 1)] if chance.random() < 0.2 else data)


def _parquet(folder: Path) -> Task:
    micro_bench(folder / "set.parquet")
    return task_of("parquet", "set.parquet", "options", options=STAIN)


def _npz(folder: Path) -> Task:
    medmnist(folder / "x.npz")
    return task_of("npz", "x.npz")


def _csv(folder: Path) -> Task:
    lines = "".join(f"{n}.png,{COLOURS[n % 3]},{n},{n},9,{n + 9},red,blue\n" for n in range(6))
    (folder / "t.csv").write_text("image,label,a,b,c,d,x,y\n" + lines)
    for number in range(6):
        (folder / f"{number}.png").write_bytes(picture(number))
    options = {"box": ["a", "b", "c", "d"], "pattern": "{id:>5}"}
    return task_of("csv", "t.csv", options=options)


def _rad(folder: Path) -> Task:
    vqa_rad(folder / "rad")
    return task_of("vqa_rad", "rad", "vqa", classes=())


def _slake(folder: Path) -> Task:
    slake(folder / "s")
    return task_of("slake", "s", "vqa", classes=())


def _multilabel(folder: Path) -> Task:
    medmnist(folder / "x.npz", labels=3)
    task = task_of("npz", "x.npz", "multilabel")
    write_wds(folder / "w", task, {"test": read_items(task, folder, "test")})
    (folder / "x.npz").unlink()
    return task_of("wds", "w", "multilabel")


@pytest.mark.parametrize("make", [_parquet, _npz, _csv, _rad, _slake, webdataset, _multilabel])
def test_any_damage(tmp_path: Path, make: Callable[[Path], Task]) -> None:
    """Bytes changed or cut off anywhere: items, or an error of this program that names the task."""
    chance = random.Random(0)
    task = make(tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    for _ in range(60):
        path = chance.choice(files)
        content = path.read_bytes()
        path.write_bytes(damaged(content, chance))
        for split in ("test", "train"):
            try:
                task_splits(task, tmp_path)
                items = read_items(task, tmp_path, split)
                for index in range(len(items)):
                    items.picture(index)
            except BiomedicaError as error:
                assert "task colours" in str(error)
                json.dumps(str(error), ensure_ascii=False).encode()
        path.write_bytes(content)
