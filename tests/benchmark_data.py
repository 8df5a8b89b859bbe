"""Small benchmark data in the forms that it is published in, and tasks over it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from biomedica.evaluate.tasks import Access, Class, Data, Kind, Prompts, Task

COLOURS = ("red", "green", "blue")


def picture(number: int, side: int = 12, kind: str = "PNG") -> bytes:
    """A plain picture whose colour tells its number."""
    content = io.BytesIO()
    Image.new("RGB", (side, side), (number % 256, number // 256, 7)).save(content, kind)
    return content.getvalue()


def number_of(image: Image.Image) -> int:
    """What `picture` was given."""
    red, green, _ = image.getpixel((0, 0))  # type: ignore[misc]
    return int(red + 256 * green)


def task_of(reader: str, path: str, kind: Kind = "classification", **data: Any) -> Task:
    """A task over three colours, or over other `classes`."""
    classes = data.pop("classes", COLOURS)
    may_lack = data.pop("may_lack", ())
    return Task(
        name="colours",
        title="Colours",
        kind=kind,
        specialty="none",
        modality="none",
        access=Access(
            url="https://example.org/colours",
            terms="click-through",
            licence="CC BY-NC 4.0",
            how="ask for it",
        ),
        data=Data(reader=reader, path=path, **data),
        classes=tuple(Class(name=name, text=f"{name} thing") for name in classes),
        may_lack=may_lack,
        prompts={"single": Prompts(templates=("a photo of {c}.", "{c}"))} if classes else {},
    )


def micro_bench(path: Path, num_rows: int = 9, **changes: Sequence[Any]) -> None:
    """A file of the published evaluation set: two tasks, in small row groups."""
    rows = range(num_rows)
    columns: dict[str, Sequence[Any]] = {
        "image": [{"bytes": picture(n), "path": f"{n}.png"} for n in rows],
        "task": ["stain" if n % 3 else "modality" for n in rows],
        "options": [[f"a {c} thing" for c in COLOURS][: 2 + n % 2] for n in rows],
        "answer_idx": [n % 2 for n in rows],
        "label": [COLOURS[n % 2] for n in rows],
        "image_id": [f"im{num_rows - n:03d}" for n in rows],
        "provenance_license": ["CC BY 4.0"] * num_rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**columns, **changes}), path, row_group_size=2)


def medmnist(path: Path, side: int = 8, channels: int = 1, labels: int = 1) -> None:
    """An .npz of 12, 6 and 6 pictures that are as bright as their index."""
    arrays = {}
    for split, count in (("train", 12), ("val", 6), ("test", 6)):
        shape = (count, side, side, 3) if channels == 3 else (count, side, side)
        images = np.zeros(shape, np.uint8) + np.arange(count, dtype=np.uint8).reshape(
            -1, *[1] * (len(shape) - 1)
        )
        answers = np.arange(count)[:, None] % 3 if labels == 1 else np.eye(labels)[: count // 2]
        arrays[f"{split}_images"] = images[: len(answers)]
        arrays[f"{split}_labels"] = answers.astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def vqa_rad(folder: Path, **changes: Any) -> None:
    """Four questions about two pictures, two of them for testing; odd as the real ones are."""
    images = folder / "VQA_RAD Image Folder"
    images.mkdir(parents=True)
    rows = [
        ("synpic1.jpg", 1, "Are regions of the brain infarcted?", "Yes", "CLOSED", "freeform"),
        ("synpic2.jpg", 2, "How many gallstones are identified?", 4, "OPEN", "para"),
        ("synpic1.jpg", 11, "What plane is this?", "axial", "OPEN", "test_freeform"),
        ("synpic1.jpg", 3, "Is this axial?", "yes ", "CLOSED ", "test_para"),
    ]
    names = ("image_name", "qid", "question", "answer", "answer_type", "phrase_type")
    records = [
        dict(zip(names, row, strict=True)) | {"image_organ": "HEAD", "question_type": "PRES"}
        for row in rows
    ]
    records[-1] |= changes
    (folder / "VQA_RAD Dataset Public.json").write_text(json.dumps(records))
    for number in (1, 2):
        (images / f"synpic{number}.jpg").write_bytes(picture(number, kind="JPEG"))


def slake(folder: Path) -> None:
    """Two English questions and a Chinese one in each of three files."""
    for number, split in enumerate(("train", "validate", "test")):
        name = f"xmlab{number}/source.jpg"
        asked = [
            ("What modality is used to take this image?", "MRI", "en", "OPEN"),
            ("Does the picture contain liver?", "Yes", "en", "CLOSED"),
            ("图像中包含肝脏吗?", "是", "zh", "CLOSED"),
        ]
        records = [
            {
                "img_id": number,
                "img_name": name,
                "question": question,
                "answer": answer,
                "q_lang": language,
                "location": "Abdomen",
                "modality": "MRI",
                "answer_type": kind,
                "base_type": "vqa",
                "content_type": "Modality",
                "triple": ["vhead", "_", "_"],
                "qid": 100 * number + row,
            }
            for row, (question, answer, language, kind) in enumerate(asked)
        ]
        (folder / "imgs" / name).parent.mkdir(parents=True)
        (folder / "imgs" / name).write_bytes(picture(number, kind="JPEG"))
        (folder / f"{split}.json").write_text(json.dumps(records, ensure_ascii=False), "utf-8")
