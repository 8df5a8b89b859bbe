"""A task in CLIP_benchmark's WebDataset layout, so that its program scores the very same pictures."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from biomedica.errors import EvaluationError
from biomedica.evaluate.items import Items
from biomedica.evaluate.readers.wds import CLASSES, LABELS, SHARDS, TEMPLATES, TYPE
from biomedica.evaluate.tasks import Task
from biomedica.shards import disk_message

_ENDINGS = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"))


def write_wds(
    folder: Path, task: Task, items_by_split: Mapping[str, Items], per_shard: int = 1000
) -> None:
    """Write a new folder, whole or not at all; the same items give the same bytes.

    JPEG, PNG and WebP stay as they are, other pictures become PNG. Classes are named by their words, the
    templates are those of the first prompts. Raises `EvaluationError` where the folder is there, where the
    layout has no place for the task's kind, or where a picture does not decode.
    """
    if task.kind not in LABELS:
        raise EvaluationError(
            f"task {task.name}: the layout holds {', '.join(LABELS)}; this is {task.kind}"
        )
    if folder.exists():
        raise EvaluationError(f"{folder} is there already; a new folder is expected")
    new = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        new.mkdir(parents=True)
        _write_facts(new, task)
        for split, items in items_by_split.items():
            _write_split(new / split, items, LABELS[task.kind], per_shard)
        new.rename(folder)
    except OSError as error:
        raise EvaluationError(disk_message(folder.parent, error)) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write_facts(root: Path, task: Task) -> None:
    if task.kind != "classification":
        (root / TYPE).write_text(f"{task.kind}\n")
    if task.kind == "retrieval":
        return
    prompts = next(iter(task.prompts), "")
    templates = task.prompts[prompts].templates if prompts else ("{c}",)
    chosen = task.prompts[prompts].texts if prompts else {}
    words = [chosen.get(each.name, each.words) for each in task.classes]
    (root / CLASSES).write_text("".join(f"{_line(each)}\n" for each in words), "utf-8")
    (root / TEMPLATES).write_text("".join(f"{_line(each)}\n" for each in templates), "utf-8")


def _line(text: str) -> str:
    """On one line, as the layout keeps texts."""
    return text if len(text.splitlines()) == 1 and text == text.strip() else " ".join(text.split())


def _write_split(folder: Path, items: Items, ending: str, per_shard: int) -> None:
    folder.mkdir()
    starts = range(0, len(items), per_shard)
    for shard, start in enumerate(starts):
        with tarfile.open(folder / f"{shard}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for index in range(start, min(start + per_shard, len(items))):
                image, data = _picture(items, index)
                _add(tar, f"s{index:07d}.{image}", data)
                _add(tar, f"s{index:07d}.{ending}", _answer(items, index))
    (folder / SHARDS).write_text(f"{len(starts)}\n")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _picture(items: Items, index: int) -> tuple[str, bytes]:
    """Ending and bytes. Raises `EvaluationError` for what does not decode."""
    image = items.picture(index)
    source = items.read(index)
    if isinstance(source, bytes):
        for start, ending in _ENDINGS:
            if source.startswith(start):
                return ending, source
        if source[:4] == b"RIFF" and source[8:12] == b"WEBP":
            return "webp", source
    content = io.BytesIO()
    image.save(content, "PNG")
    return "png", content.getvalue()


def _answer(items: Items, index: int) -> bytes:
    if items.captions is not None:
        return "\n".join(_line(each) for each in items.captions[index]).encode()
    if items.labels_N is not None:
        return str(int(items.labels_N[index])).encode()
    assert items.labels_NC is not None
    content = io.BytesIO()
    np.save(content, items.labels_NC[index].astype(np.float32))
    return content.getvalue()
