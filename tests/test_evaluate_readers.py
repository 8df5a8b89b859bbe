"""Benchmark data of every form comes to the same items; what is wrong is named with task, item and file."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmark_data import (
    COLOURS,
    medmnist,
    micro_bench,
    number_of,
    picture,
    slake,
    task_of,
    vqa_rad,
)
from biomedica.errors import BiomedicaError, ConfigError, DataMissingError, EvaluationError
from biomedica.evaluate.items import Items
from biomedica.evaluate.readers import READERS, arrays, read_items, task_splits
from biomedica.evaluate.tasks import Task
from biomedica.evaluate.validate import validate
from biomedica.evaluate.wds_writer import write_wds
from export_views import write_labels
from stream_archives import streamed_archive, truth

CORPUS = Path(__file__).parent.parent.parent / "shared" / "corpus" / "labelled"
OPTIONS = {"task": "stain"}
GALLERY = {"id": "name", "split": "part"}


def said(error: type[BiomedicaError], task: Task, data: Path, split: str = "test") -> str:
    """The message that reading ends with."""
    with pytest.raises(error) as caught:
        read_items(task, data, split)
    assert "task colours" in str(caught.value)
    return str(caught.value)


def numbers(items: Items) -> list[int]:
    """Of the pictures, in order."""
    return [number_of(items.picture(index)) for index in range(len(items))]


# --- Parquet ---------------------------------------------------------------------------------------


def test_published_set(tmp_path: Path) -> None:
    """Rows of one task, by id, over several files; pictures, options and classes stay together."""
    micro_bench(tmp_path / "set" / "a.parquet")
    task = task_of("parquet", "set/*.parquet", "options", options=OPTIONS)
    items = read_items(task, tmp_path, "test")
    assert items.ids == tuple(sorted(f"im{9 - n:03d}" for n in (1, 2, 4, 5, 7, 8)))
    assert items.places[0] == "set/a.parquet row 8"
    assert numbers(items) == [8, 7, 5, 4, 2, 1]
    assert items.labels_N is not None and items.class_labels_N is not None and items.options
    assert items.labels_N.tolist() == items.class_labels_N.tolist() == [0, 1, 1, 0, 0, 1]
    assert [len(each) for each in items.options] == [2, 3, 3, 2, 2, 3]
    assert items.groups == items.picture_ids == items.ids
    again = pickle.loads(pickle.dumps(items))
    assert numbers(again) == numbers(items)
    micro_bench(tmp_path / "set" / "b.parquet", 2, image_id=["z0", "z1"])
    more = read_items(task, tmp_path, "test")
    assert len(more) == 7 and numbers(more)[-1] == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"options": [["a", "b"]] * 7 + [[]] + [["a", "b"]]}, ["im002", "row 7", "has no options"]),
        ({"options": [["a", " "]] * 9}, ["im001", "row 8", "an empty option"]),
        ({"answer_idx": [0] * 8 + [5]}, ["im001", "row 8", "answer 5 is none of its 2 options"]),
        ({"answer_idx": [0] * 8 + [-1]}, ["im001", "answer -1"]),
        ({"answer_idx": ["?"] * 9}, ["im008", "has the answer '?'"]),
        ({"label": ["pink"] * 9}, ["im008", "row 1", "'pink', which is no class", "red, green"]),
        ({"image_id": ["same"] * 9}, ["id 'same' stands twice"]),
        ({"task": ["other"] * 9}, ["no row", "'stain'", "other"]),
    ],
)
def test_published_set_gone_wrong(tmp_path: Path, changes: Any, words: list[str]) -> None:
    """Each fault is told with task, item and file."""
    micro_bench(tmp_path / "set.parquet", **changes)
    task = task_of("parquet", "set.parquet", "options", options=OPTIONS)
    message = said(EvaluationError, task, tmp_path)
    assert all(word in message for word in words), message


def test_damaged_picture(tmp_path: Path) -> None:
    """It surfaces when it is opened, and `validate` names it; so does a cut file."""
    micro_bench(
        tmp_path / "set.parquet", image=[picture(n)[: 50 if n == 4 else None] for n in range(9)]
    )
    task = task_of("parquet", "set.parquet", "options", options=OPTIONS)
    items = read_items(task, tmp_path, "test")
    with pytest.raises(EvaluationError, match=r"colours.*'im005' \(set\.parquet row 4\).*decode"):
        items.picture(items.ids.index("im005"))
    done: list[tuple[int, int]] = []
    found = validate(task, tmp_path, True, lambda now, total: done.append((now, total)))
    assert found.state == "wrong" and "im005" in found.message and done[-1] == (6, 6)
    assert "im004" not in found.message
    (tmp_path / "set.parquet").write_bytes((tmp_path / "set.parquet").read_bytes()[:500])
    assert "set.parquet is no Parquet file" in said(EvaluationError, task, tmp_path)


def test_other_tables(tmp_path: Path) -> None:
    """Captions, one or several; labels of one or several classes; questions; pictures beside the table."""
    path = tmp_path / "t.parquet"
    rows = range(4)
    plain = [picture(n) for n in rows]
    table = {
        "image": plain,
        "name": [f"n{n}" for n in rows],
        "part": ["test", "train"] * 2,
        "caption": [f"caption {n}" for n in rows],
    }
    pq.write_table(pa.table(table), path)
    task = task_of("parquet", "t.parquet", "retrieval", classes=(), options=GALLERY)
    assert task_splits(task, tmp_path) == ["train", "test"]
    items = read_items(task, tmp_path, "test")
    assert items.captions == (("caption 0",), ("caption 2",)) and numbers(items) == [0, 2]
    several = table | {"caption": [["a", "b"], ["c"], ["", "d"], []]}
    pq.write_table(pa.table(several), path)
    message = said(EvaluationError, task, tmp_path)
    assert "'n2' (t.parquet row 2) has no caption, or an empty one" in message
    assert "'n3'" in said(EvaluationError, task, tmp_path, "train")
    many = table | {"label": [[0, 2], [], [1], [2]], "who": ["p", "p", "q", "q"]}
    pq.write_table(pa.table(many), path)
    task = task_of("parquet", "t.parquet", "multilabel", options={"id": "name", "group": "who"})
    items = read_items(task, tmp_path, "test")
    assert items.labels_NC is not None and items.groups == ("p", "p", "q", "q")
    assert items.labels_NC.astype(int).tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]]
    pq.write_table(pa.table(many | {"label": ["red|blue", "", "green", "2"]}), path)
    same = read_items(task, tmp_path, "test").labels_NC
    assert same is not None and np.array_equal(same, items.labels_NC)
    pq.write_table(pa.table(many | {"label": [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]]}), path)
    same = read_items(task, tmp_path, "test").labels_NC
    assert same is not None and np.array_equal(same, items.labels_NC)


def test_pictures_beside_a_table(tmp_path: Path) -> None:
    """A path in the struct is read below the file's folder, never outside it."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    paths = ["a.png", "../outside.png"]
    images = pa.array([{"bytes": None, "path": path} for path in paths], kind)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(picture(5))
    (tmp_path / "outside.png").write_bytes(picture(6))
    pq.write_table(
        pa.table({"image": images, "label": ["red", "green"]}), tmp_path / "set/t.parquet"
    )
    task = task_of("parquet", "set/t.parquet", classes=COLOURS[:2])
    items = read_items(task, tmp_path, "test")
    assert items.ids == ("t/0000000", "t/0000001")
    assert number_of(items.picture(0)) == 5
    with pytest.raises(EvaluationError, match=r"t/0000001.*outside\.png"):
        items.picture(1)


def test_hub_questions(tmp_path: Path) -> None:
    """Questions of one picture are one group, told by its bytes; files by split."""
    for split, count in (("train", 4), ("test", 3)):
        columns = {
            "image": [{"bytes": picture(n // 2), "path": None} for n in range(count)],
            "question": [f"what is {n}?" for n in range(count)],
            "answer": ["yes", "mri", "no", "2"][:count],
        }
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    options = {"picture": "sha256"}
    task = task_of("parquet", "data/{split}-*.parquet", "vqa", classes=(), options=options)
    assert task_splits(task, tmp_path) == ["train", "test"]
    items = read_items(task, tmp_path, "test")
    assert items.questions is not None and len(items) == 3
    assert [each.is_closed for each in items.questions] == [True, False, True]
    assert items.questions[0].options == ("yes", "no")
    assert items.groups[0] == items.groups[1] != items.groups[2]
    assert items.groups == items.picture_ids


# --- folders ---------------------------------------------------------------------------------------


def folders(root: Path, per_class: int = 3) -> None:
    """A folder for each colour, with one below it."""
    for label, name in enumerate(COLOURS):
        for number in range(per_class):
            path = root / name / ("deep" if number == 2 else "") / f"p{number}_{label}.PNG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(10 * label + number))
        (root / name / "notes.txt").write_text("no picture")


def test_folders(tmp_path: Path) -> None:
    """Labels by folder, at any depth, with groups from names and folders of splits."""
    folders(tmp_path / "f")
    items = read_items(task_of("folders", "f"), tmp_path, "test")
    assert len(items) == 9 and items.labels_N is not None
    assert items.ids[:3] == ("blue/deep/p2_2.PNG", "blue/p0_2.PNG", "blue/p1_2.PNG")
    assert [each // 10 for each in numbers(items)] == items.labels_N.tolist()
    options = {"folders": {"red": "blue", "blue": "red"}, "group": r"/(p\d)_"}
    swapped = read_items(task_of("folders", "f", options=options), tmp_path, "test")
    assert swapped.labels_N is not None
    assert swapped.labels_N.tolist() == [2 - each for each in items.labels_N]
    assert set(swapped.groups) == {"p0", "p1", "p2"}
    (tmp_path / "by").mkdir()
    folders(tmp_path / "by" / "Training", 2)
    folders(tmp_path / "by" / "Testing", 1)
    task = task_of("folders", "by", splits={"train": "Training", "test": "Testing"})
    assert task_splits(task, tmp_path) == ["train", "test"]
    assert len(read_items(task, tmp_path, "train")) == 6
    with pytest.raises(ConfigError, match="no split 'validation'; it has train, test"):
        read_items(task, tmp_path, "validation")


def test_a_missing_class_is_reported(tmp_path: Path) -> None:
    """With the place where its items should be, for whoever reads the test split and for `validate`."""
    folders(tmp_path / "f")
    shutil.rmtree(tmp_path / "f" / "green")
    task = task_of("folders", "f")
    message = said(EvaluationError, task, tmp_path)
    assert "no item of 1 of its 3 classes: 'green' was looked for in f/green" in message
    found = validate(task, tmp_path)
    assert found.state == "wrong" and "'green' was looked for in f/green" in found.message
    meant = task_of("folders", "f", may_lack=("green",))
    assert len(read_items(meant, tmp_path, "test")) == 6 and meant.digest == task.digest
    with pytest.raises(ConfigError, match="may_lack names 'grey', which is no class"):
        task_of("folders", "f", may_lack=("grey",))
    train = task_of("folders", ".", splits={"train": "f", "test": "g"})
    assert len(read_items(train, tmp_path, "train")) == 6


def test_absent_data(tmp_path: Path) -> None:
    """What was looked for, where it comes from, the terms and the licence."""
    cases: dict[str, tuple[str, Any, dict[str, Any]]] = {
        "parquet": ("set/*.parquet", "options", {}),
        "folders": ("f", "classification", {}),
        "csv": ("t.csv", "classification", {}),
        "npz": ("x.npz", "classification", {}),
        "medmnist": ("m", "classification", {"options": {"flag": "bloodmnist", "size": 224}}),
        "wds": ("w", "classification", {}),
        "view": ("archive", "retrieval", {"options": {"view": "all"}}),
        "vqa_rad": ("rad", "vqa", {}),
        "slake": ("slake", "vqa", {}),
    }
    assert set(cases) == set(READERS)
    for reader, (path, kind, data) in cases.items():
        task = task_of(reader, path, kind, **data)
        message = said(DataMissingError, task, tmp_path)
        for word in (path, "example.org/colours", "ask for it", "click-through", "CC BY-NC 4.0"):
            assert word in message, (reader, message)
        found = validate(task, tmp_path)
        assert found.state == "absent" and not found.splits
        assert (found.url, found.terms) == ("https://example.org/colours", "click-through")
    message = said(DataMissingError, task_of("medmnist", "m", **cases["medmnist"][2]), tmp_path)
    assert (
        "bloodmnist_224.npz" in message and "python -m medmnist save --flag=bloodmnist" in message
    )
    folders(tmp_path / "f")
    task = task_of("folders", "f", classes=("pink", "grey"))
    assert "f has the folders blue, green, red" in said(DataMissingError, task, tmp_path)


# --- CSV -------------------------------------------------------------------------------------------


def table(path: Path, text: str, pictures: dict[str, bytes] | None = None) -> None:
    """A CSV with the pictures it names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    for name, content in (pictures or {}).items():
        (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (path.parent / name).write_bytes(content)


def test_table_with_numbers(tmp_path: Path) -> None:
    """Padded names, values that stand for classes, splits and groups by column."""
    pictures = {f"im/{n:03d}.bmp": picture(n, kind="BMP") for n in range(1, 5)}
    lines = "image ID, class label,part,who\n1,2,a,x\n2,1.0,a,x\n3,1,b,y\n4,3,b,z\n"
    table(tmp_path / "t" / "labels.csv", lines, pictures)
    options: dict[str, Any] = {
        "image": "image ID", "pattern": "{id:03d}.bmp", "folder": "im", "label": "class label",
        "label_values": {"1": "red", "2": "green", "3": "blue"}, "split": "part", "group": "who",
    }  # fmt: skip
    task = task_of("csv", "t/labels.csv", options=options, splits={"train": "a", "test": "b"})
    items = read_items(task, tmp_path, "train")
    assert items.labels_N is not None and items.labels_N.tolist() == [0 + 1, 0]
    assert items.ids == ("001.bmp", "002.bmp") and items.groups == ("x", "x")
    assert numbers(items) == [1, 2] and items.places[1] == "t/labels.csv line 3"
    table(tmp_path / "t" / "labels.csv", "image ID,class label,part,who\nx1,2,a,x\n")
    assert "'x1' (t/labels.csv line 2) has no number" in said(
        EvaluationError, task, tmp_path, "train"
    )
    table(tmp_path / "t" / "labels.csv", "image ID,class label,part,who\n1,9,a,x\n")
    assert "the label '9', which is no class; known are 1, 2, 3" in said(
        EvaluationError, task, tmp_path, "train"
    )
    table(tmp_path / "t" / "labels.csv", "a,b\n1,2\n")
    assert "no column 'image ID'; it has a, b" in said(EvaluationError, task, tmp_path, "train")


def test_boxes(tmp_path: Path) -> None:
    """Each box is an item; those of one picture are one group; an empty or outer one is named."""
    canvas = Image.new("RGB", (40, 30))
    for number in range(3):
        canvas.paste((number + 1, 0, 7), (10 * number, 0, 10 * number + 10, 20))
    content = io.BytesIO()
    canvas.save(content, "PNG")
    lines = "".join(f"a.png,{COLOURS[n]},{10 * n},{10 * n + 10},0,20\n" for n in range(3))
    head = "image,label,xmin,xmax,ymin,ymax\n"
    table(tmp_path / "b.csv", head + lines, {"a.png": content.getvalue()})
    options = {"box": ["xmin", "ymin", "xmax", "ymax"]}
    task = task_of("csv", "b.csv", options=options, may_lack=COLOURS)
    items = read_items(task, tmp_path, "test")
    assert items.ids == ("a.png#0000", "a.png#0001", "a.png#0002") == items.picture_ids
    assert set(items.groups) == {"a.png"} and numbers(items) == [1, 2, 3]
    assert items.picture(0).size == (10, 20)
    assert numbers(pickle.loads(pickle.dumps(items))) == [1, 2, 3]
    table(tmp_path / "b.csv", head + "a.png,red,35,60,0,20\na.png,red,50,60,0,20\n")
    items = read_items(task, tmp_path, "test")
    assert items.picture(0).size == (5, 20)
    with pytest.raises(EvaluationError, match=r"a\.png#0001.*not in the picture of 40 x 30"):
        items.picture(1)
    table(tmp_path / "b.csv", head + "a.png,red,5,5,0,20\n")
    assert "'a.png#0000' (b.csv line 2) has the empty box" in said(EvaluationError, task, tmp_path)
    some = task_of("csv", "b.csv", options=options | {"box_min_side": 5}, may_lack=COLOURS)
    table(
        tmp_path / "b.csv", head + "a.png,red,5,5,0,20\na.png,red,5,10,0,20\na.png,red,5,9,0,20\n"
    )
    assert read_items(some, tmp_path, "test").ids == ("a.png#0001",)
    table(tmp_path / "b.csv", head + "a.png,red,x,5,0,20\n", {"a.png": b"none"})
    assert "has the box x, 0, 5, 20" in said(EvaluationError, task, tmp_path)
    table(tmp_path / "b.csv", head + "a.png,red,0,5,0,20\n")
    with pytest.raises(EvaluationError, match="does not decode"):
        read_items(task, tmp_path, "test").picture(0)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../b.png", "..\\x.png"])
def test_no_way_out(tmp_path: Path, name: str) -> None:
    """A name in the data never leads out of its folder."""
    table(tmp_path / "t" / "t.csv", f"image,label\n{name},red\n")
    message = said(EvaluationError, task_of("csv", "t/t.csv"), tmp_path)
    assert "t/t.csv line 2" in message and "not below its folder" in message
    vqa_rad(tmp_path / "rad", image_name=name)
    message = said(EvaluationError, task_of("vqa_rad", "rad", "vqa"), tmp_path)
    assert "'0000003'" in message and "not below its folder" in message


@pytest.mark.parametrize("path", ["../other", "/etc"])
def test_no_way_out_of_the_folder_of_data(tmp_path: Path, path: str) -> None:
    """Nor does a task."""
    assert "below the folder of data" in said(ConfigError, task_of("folders", path), tmp_path)
    options = {"folder": "../../x"}
    table(tmp_path / "t.csv", "image,label\na.png,red\n")
    assert "leads out" in said(ConfigError, task_of("csv", "t.csv", options=options), tmp_path)


def test_other_columns(tmp_path: Path) -> None:
    """Several labels as columns or as a text, options, captions, questions."""
    lines = "image,R,G,B,many,x,y,right,c1,c2,question,answer\n"
    lines += "a.png,1,0,1,red;blue,one,two,1,first,second,is it?,no\n"
    lines += "b.png,0,0,0,,one,,0,third,,what?,mri\n"
    table(tmp_path / "t.csv", lines)
    columns = {"red": "R", "green": "G", "blue": "B"}
    options: dict[str, Any]
    for options in ({"labels": columns}, {"label": "many", "separator": ";"}):
        items = read_items(task_of("csv", "t.csv", "multilabel", options=options), tmp_path, "test")
        assert items.labels_NC is not None
        assert items.labels_NC.tolist() == [[True, False, True], [False] * 3]
    options = {"options": ["x", "y"], "answer": "right"}
    task = task_of("csv", "t.csv", "options", classes=(), options=options)
    items = read_items(task, tmp_path, "test")
    assert items.options == (("one", "two"), ("one",)) and items.class_labels_N is None
    options = {"captions": ["c1", "c2"]}
    task = task_of("csv", "t.csv", "retrieval", classes=(), options=options)
    assert read_items(task, tmp_path, "test").captions == (("first", "second"), ("third",))
    items = read_items(task_of("csv", "t.csv", "vqa", classes=()), tmp_path, "test")
    assert items.ids == ("a.png#0000", "b.png#0000") and items.picture_ids == ("a.png", "b.png")
    with pytest.raises(EvaluationError, match=r"a\.png#0000.*No such file"):
        items.picture(0)


# --- arrays ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("in_memory", [1 << 20, 0])
def test_arrays(
    tmp_path: Path, channels: int, in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures and labels by index, whether the array is held or read block by block."""
    monkeypatch.setattr(arrays, "_IN_MEMORY", in_memory)
    monkeypatch.setattr(arrays, "_BLOCK", 4)
    medmnist(tmp_path / "x.npz", channels=channels)
    task = task_of("npz", "x.npz")
    assert task_splits(task, tmp_path) == ["train", "validation", "test"]
    for split, count in (("train", 12), ("validation", 6), ("test", 6)):
        items = read_items(task, tmp_path, split)
        assert items.labels_N is not None
        assert items.labels_N.tolist() == [n % 3 for n in range(count)]
        order = [*range(count), 0, count - 1]
        assert [items.picture(n).getpixel((1, 1)) for n in order] == [(n, n, n) for n in order]
    assert items.ids[3] == "test/0000003" and items.places[3] == "x.npz test_images[3]"
    assert pickle.loads(pickle.dumps(items)).picture(2).getpixel((0, 0)) == (2, 2, 2)
    shutil.copy(tmp_path / "x.npz", tmp_path / "rednist_64.npz")
    named = task_of("medmnist", ".", options={"flag": "rednist", "size": 64})
    assert read_items(named, tmp_path, "test").ids == items.ids


def test_arrays_gone_wrong(tmp_path: Path) -> None:
    """Several labels, labels out of range, other arrays, a file that is none."""
    path = tmp_path / "x.npz"
    medmnist(path, labels=3)
    items = read_items(task_of("npz", "x.npz", "multilabel"), tmp_path, "test")
    assert (
        items.labels_NC is not None and items.labels_NC.tolist() == np.eye(3, dtype=bool).tolist()
    )
    assert "3 labels for each item" in said(EvaluationError, task_of("npz", "x.npz"), tmp_path)
    medmnist(path)
    task = task_of("npz", "x.npz", classes=("red", "green"))
    message = said(EvaluationError, task, tmp_path)
    assert "item 'test/0000002' (x.npz test_images[2]) has the label '2'" in message
    np.savez(
        path, test_images=np.zeros((2, 4, 4, 4, 4), np.uint8), test_labels=np.zeros((2, 1), int)
    )
    assert "uint8 (N, H, W)" in said(EvaluationError, task, tmp_path)
    np.savez(path, test_images=np.zeros((2, 4, 4), np.uint8), test_labels=np.zeros((3, 1), int))
    assert "2 test_images and 3 test_labels" in said(EvaluationError, task, tmp_path)
    np.savez(path, test_images=np.zeros((2, 4, 4), np.uint8))
    assert "test_labels" in said(EvaluationError, task, tmp_path)
    np.savez(path, pictures=np.zeros(3))
    assert "has the arrays pictures.npy" in said(EvaluationError, task, tmp_path)
    path.write_bytes(b"PK nothing")
    assert "x.npz is no .npz" in said(EvaluationError, task, tmp_path)


# --- WebDataset ------------------------------------------------------------------------------------


def test_wds_by_hand(tmp_path: Path) -> None:
    """What CLIP_benchmark's exporter leaves: lossless WebP, numbers as text, shards counted."""
    root = tmp_path / "w"
    for split, count in (("train", 5), ("test", 3)):
        (root / split).mkdir(parents=True)
        for shard in range(2):
            with tarfile.open(root / split / f"{shard}.tar", "w") as tar:
                for n in range(shard, count, 2):
                    content = io.BytesIO()
                    Image.new("RGB", (4, 4), (n, 0, 7)).save(content, "WEBP", lossless=True)
                    for end, data in (("cls", b"%d" % (n % 3)), ("webp", content.getvalue())):
                        entry = tarfile.TarInfo(f"s{n:07d}.{end}")
                        entry.size = len(data)
                        tar.addfile(entry, io.BytesIO(data))
        (root / split / "nshards.txt").write_text("2\n")
    (root / "classnames.txt").write_text("red\ngreen thing\nblue\n")
    task = task_of("wds", "w")
    assert task_splits(task, tmp_path) == ["train", "test"]
    items = read_items(task, tmp_path, "train")
    assert items.labels_N is not None and items.labels_N.tolist() == [0, 1, 2, 0, 1]
    assert items.ids[1] == "s0000001" and items.places[1] == "w/train/1.tar s0000001"
    assert numbers(items) == [0, 1, 2, 3, 4]
    (root / "classnames.txt").write_text("red\nyellow\nblue\n")
    message = said(EvaluationError, task, tmp_path)
    assert "w/classnames.txt has 'yellow' as class 1, the task has 'green'" in message
    (root / "classnames.txt").unlink()
    (root / "test" / "nshards.txt").write_text("3")
    assert "2.tar is not there, though w/test/nshards.txt counts 3" in said(
        DataMissingError, task, tmp_path
    )
    (root / "test" / "nshards.txt").write_text("2")
    tar_path = root / "test" / "1.tar"
    tar_path.write_bytes(tar_path.read_bytes()[:1300])
    assert "w/test/1.tar is a damaged tar" in said(EvaluationError, task, tmp_path)
    (root / "dataset_type.txt").write_text("retrieval\n")
    assert "w holds retrieval, the task asks for classification" in said(
        EvaluationError, task, tmp_path
    )


def test_wds_round_trip(tmp_path: Path) -> None:
    """What is written reads as the same items: classes, several labels, captions; the bytes are the same."""
    medmnist(tmp_path / "x.npz")
    micro_bench(tmp_path / "y.parquet")
    medmnist(tmp_path / "z.npz", labels=3)
    captions = [[f"one {n}", f"two\nlines {n}"] for n in range(9)]
    micro_bench(tmp_path / "r.parquet", caption=captions)
    tasks = [
        (task_of("npz", "x.npz"), ("train", "test")),
        (task_of("parquet", "y.parquet", may_lack=["blue"]), ("test",)),
        (task_of("npz", "z.npz", "multilabel"), ("test",)),
        (task_of("parquet", "r.parquet", "retrieval", classes=()), ("test",)),
    ]
    for number, (task, splits) in enumerate(tasks):
        items = {split: read_items(task, tmp_path, split) for split in splits}
        write_wds(tmp_path / f"w{number}", task, items, per_shard=4)
        classes = {"classes": task.class_names, "may_lack": task.may_lack}
        again = task_of("wds", f"w{number}", task.kind, **classes)
        for split, before in items.items():
            after = read_items(again, tmp_path, split)
            assert len(after) == len(before)
            for name in ("labels_N", "labels_NC"):
                first, second = getattr(before, name), getattr(after, name)
                assert (first is None) == (second is None)
                assert first is None or np.array_equal(first, second)
            for n in range(len(before)):
                assert before.picture(n).tobytes() == after.picture(n).tobytes()
        assert validate(again, tmp_path, decode=True).state == ("wrong" if number == 1 else "ok")
    assert after.captions == tuple((f"one {n}", f"two lines {n}") for n in range(8, -1, -1))
    assert after.read(0) == before.read(0)
    root = tmp_path / "w0"
    assert (root / "classnames.txt").read_text() == "red thing\ngreen thing\nblue thing\n"
    assert (root / "zeroshot_classification_templates.txt").read_text().splitlines() == [
        "a photo of {c}.", "{c}",
    ]  # fmt: skip
    assert not (root / "dataset_type.txt").exists()
    assert (tmp_path / "w2" / "dataset_type.txt").read_text() == "multilabel\n"
    assert (root / "train" / "nshards.txt").read_text() == "3\n"


def test_wds_whole_or_not(tmp_path: Path) -> None:
    """A damaged picture leaves nothing; a folder that is there is left alone."""
    micro_bench(
        tmp_path / "y.parquet", image=[picture(n)[: 50 if n == 2 else None] for n in range(9)]
    )
    task = task_of("parquet", "y.parquet", classes=COLOURS[:2])
    items = {"test": read_items(task, tmp_path, "test")}
    before = sorted(tmp_path.iterdir())
    with pytest.raises(EvaluationError, match=r"colours.*im007.*decode"):
        write_wds(tmp_path / "w", task, items)
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "w").mkdir()
    with pytest.raises(EvaluationError, match="is there already"):
        write_wds(tmp_path / "w", task, items)
    with pytest.raises(EvaluationError, match="this is options"):
        write_wds(tmp_path / "v", task_of("parquet", "y.parquet", "options"), {})


# --- views -----------------------------------------------------------------------------------------


def test_views(tmp_path: Path) -> None:
    """Captions of live samples by split, grouped by article; a column of the tables as classes."""
    root = streamed_archive(tmp_path, 12)
    known = truth(root)
    task = task_of("view", "archive", "retrieval", classes=(), options={"view": "all"})
    assert task_splits(task, tmp_path) == ["train", "test"]
    items = read_items(task, tmp_path, "test")
    assert list(items.ids) == sorted(items.ids) and len(items) == 6
    for n, key in enumerate(items.ids):
        assert items.read(n) == known[key][0]
        assert items.captions is not None and items.captions[n] == (known[key][1].decode(),)
        assert items.groups[n] == json.loads(known[key][2])["pmcid"]
    assert pickle.loads(pickle.dumps(items)).read(0) == items.read(0)
    options = {"view": "all", "label": "licence_group"}
    groups = ("commercial", "noncommercial", "other")
    labelled = task_of("view", "archive", options=options, classes=groups)
    items = read_items(labelled, tmp_path, "train")
    assert items.labels_N is not None
    for n, key in enumerate(items.ids):
        assert groups[items.labels_N[n]] == json.loads(known[key][2])["licence_group"]
    write_labels(root)
    options = {"view": "all", "label": "global_concepts", "labels": "default"}
    task = task_of("view", "archive", "multilabel", options=options, classes=("microscopy", "x"))
    items = read_items(task, tmp_path, "train")
    assert (
        items.labels_NC is not None
        and items.labels_NC[:, 0].any()
        and not items.labels_NC[:, 1].any()
    )
    task = task_of("view", "archive", "retrieval", classes=(), options={"view": "al"})
    assert "no view 'al'" in said(EvaluationError, task, tmp_path)
    task = task_of("view", "archive", options={"view": "all", "label": "colour"})
    assert "no column 'colour'" in said(EvaluationError, task, tmp_path)
    assert "needs" in said(
        ConfigError, task_of("view", "archive", options={"view": "all"}), tmp_path
    )


# --- questions -------------------------------------------------------------------------------------


def test_vqa_rad(tmp_path: Path) -> None:
    """The authors' split, numbers as answers, blanks around types, groups by picture."""
    vqa_rad(tmp_path / "rad")
    task = task_of("vqa_rad", "rad", "vqa", classes=())
    assert task_splits(task, tmp_path) == ["train", "test"]
    items = read_items(task, tmp_path, "test")
    assert items.questions is not None and items.ids == ("0000003", "0000011")
    assert [each.is_closed for each in items.questions] == [True, False]
    assert items.questions[0].answer == "yes" and items.questions[0].options == ("yes", "no")
    assert items.groups == items.picture_ids == ("synpic1.jpg", "synpic1.jpg")
    train = read_items(task, tmp_path, "train")
    assert train.questions is not None and train.questions[1].answer == "4"
    assert train.picture(1).size == (12, 12)
    splits = {"train": "train", "validation": "train", "test": "test"}
    shares = {"train": 0.5, "validation": 0.5}
    drawn = task_of("vqa_rad", "rad", "vqa", classes=(), splits=splits, fractions=shares)
    found = [
        set(read_items(drawn, tmp_path, each).ids)
        for each in ("train", "validation")
        if validate(drawn, tmp_path).splits.get(each)
    ]
    assert set().union(*found) == set(train.ids)
    assert len(read_items(drawn, tmp_path, "test")) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"phrase_type": "other"}, "phrase_type 'other'"),
        ({"answer": ""}, "has no answer"),
        ({"question": None}, "has no question"),
        ({"answer_type": "MAYBE"}, "answer type 'MAYBE'"),
        ({"qid": None}, "has no qid"),
        ({"qid": 11}, "'0000011' stands twice"),
    ],
)
def test_vqa_rad_gone_wrong(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    """Each fault is told with its question and place."""
    vqa_rad(tmp_path / "rad", **changes)
    message = said(EvaluationError, task_of("vqa_rad", "rad", "vqa", classes=()), tmp_path)
    assert words in message and ("Public.json [3]" in message or "twice" in message)


def test_slake(tmp_path: Path) -> None:
    """Three files, one language or both."""
    slake(tmp_path / "s")
    task = task_of("slake", "s", "vqa", classes=())
    assert task_splits(task, tmp_path) == ["train", "validation", "test"]
    items = read_items(task, tmp_path, "validation")
    assert items.questions is not None and items.ids == ("0000100", "0000101")
    assert [(each.answer, each.is_closed) for each in items.questions] == [
        ("MRI", False),
        ("Yes", True),
    ]
    assert set(items.groups) == {"xmlab1/source.jpg"} and items.picture(0).size == (12, 12)
    both = task_of("slake", "s", "vqa", classes=(), options={"language": ""})
    assert len(read_items(both, tmp_path, "test")) == 3
    (tmp_path / "s" / "train.json").write_text("{")
    assert "s/train.json is no JSON" in said(EvaluationError, task, tmp_path, "train")
    (tmp_path / "s" / "train.json").unlink()
    found = validate(
        task_of("slake", "s", "vqa", classes=(), splits={"train": "train", "test": "test"}),
        tmp_path,
    )
    assert found.state == "ok" and "train.json is not there" in found.message


# --- tasks -----------------------------------------------------------------------------------------


def test_options_are_checked(tmp_path: Path) -> None:
    """An unknown option, a value of another kind, an unknown reader, a class that is none."""
    task = task_of("parquet", "x", options={"captoin": "c"})
    assert "unknown data.options.captoin of reader parquet; did you mean 'caption'" in said(
        ConfigError, task, tmp_path
    )
    task = task_of("medmnist", ".", options={"flag": "x", "size": "large"})
    assert "data.options.size" in said(ConfigError, task, tmp_path)
    assert "known are parquet, folders" in said(ConfigError, task_of("zip", "x"), tmp_path)
    folders(tmp_path / "f")
    task = task_of("folders", "f", options={"folders": {"pink": "red"}})
    assert "'pink', which is no class" in said(ConfigError, task, tmp_path)
    assert "flag" in said(ConfigError, task_of("medmnist", "x"), tmp_path)


def test_drawn_splits(tmp_path: Path) -> None:
    """Shares of the groups: nothing twice, nothing lost, and nobody moves when others come."""
    folders(tmp_path / "f", 100)
    options = {"group": r"/(?:deep/)?(p\d+)_"}
    shares = {"train": 0.6, "validation": 0.2, "test": 0.2}
    task = task_of("folders", "f", options=options, fractions=shares)
    assert task_splits(task, tmp_path) == ["train", "validation", "test"]
    parts = {split: read_items(task, tmp_path, split) for split in task_splits(task, tmp_path)}
    assert sum(map(len, parts.values())) == 300
    groups = [set(each.groups) for each in parts.values()]
    assert not groups[0] & groups[1] and not groups[1] & groups[2] and not groups[0] & groups[2]
    assert 45 <= len(groups[0]) <= 75
    folders(tmp_path / "f", 130)
    after = read_items(task, tmp_path, "test")
    assert set(parts["test"].ids) <= set(after.ids)
    some = task_of("folders", "f", fractions={"train": 0.9, "test": 0.2})
    assert "shares above 0 that come to 1" in said(ConfigError, some, tmp_path)


def test_stated_ids(tmp_path: Path) -> None:
    """A split whose ids are not those that the task states is refused, with both digests."""
    folders(tmp_path / "f")
    task = task_of("folders", "f", ids_sha256={"test": "0" * 64})
    found = read_items(task_of("folders", "f"), tmp_path, "test").ids_sha256
    message = said(EvaluationError, task, tmp_path)
    assert found in message and "0" * 64 in message
    assert read_items(task_of("folders", "f", ids_sha256={"test": found}), tmp_path, "test")


# --- real sets -------------------------------------------------------------------------------------

CELLS = ("RBC", "WBC", "Platelets")
ZHENG = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")
LUNG = {"normal": "lung_n", "adenocarcinoma": "lung_aca", "squamous": "lung_scc"}
BOX = ["xmin", "ymin", "xmax", "ymax"]


@pytest.mark.corpus
@pytest.mark.skipif(not CORPUS.exists(), reason=f"{CORPUS} is not here")
def test_real_sets() -> None:
    """Four sets of labelled pictures, each picture opened (of the cells, those of every tenth box)."""
    cells: dict[str, Any] = {
        "image": "filename", "folder": "BCCD/JPEGImages", "label": "cell_type", "box": BOX, "box_min_side": 1,
    }  # fmt: skip
    zheng: dict[str, Any] = {
        "image": "image ID", "pattern": "{id:03d}.bmp", "folder": "Dataset_1",
        "label": "class label", "label_values": {str(n + 1): each for n, each in enumerate(ZHENG)},
    }  # fmt: skip
    tasks = {
        "bccd": task_of("csv", "bccd/test.csv", classes=CELLS, options=cells),
        "lung": task_of("folders", "lc25000_lung", classes=tuple(LUNG), options={"folders": LUNG}),
        "wbc": task_of("csv", "wbc_zheng/labels_1.csv", classes=ZHENG, options=zheng),
        "pneumonia": task_of(
            "npz",
            "pneumoniamnist/pneumoniamnist_dedup3882_524_624.npz",
            classes=("normal", "pneumonia"),
        ),
    }
    counts = {}
    for name, task in tasks.items():
        found = validate(task, CORPUS)
        assert found.state == "ok", found.message
        counts[name] = {split: facts.items for split, facts in found.splits.items()}
        items = read_items(task, CORPUS, "test")
        for index in range(0, len(items), 10):
            assert min(items.picture(index).size) > 1
    assert counts["pneumonia"] == {"train": 3882, "validation": 524, "test": 624}
    assert counts["wbc"] == {"test": 300}
    assert counts["bccd"]["test"] == 4886  # two of its boxes are empty
