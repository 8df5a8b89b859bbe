"""MedMNIST's .npz: `{split}_images` (N, H, W) or (N, H, W, 3), `{split}_labels` (N, 1) or (N, classes)."""

from __future__ import annotations

import math
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from biomedica.evaluate.readers.rows import DAMAGED, Found, Row, Source, listed

_IN_MEMORY = 256 << 20
"""Bytes of pictures that are held; larger arrays are read block by block."""
_BLOCK = 64
"""Pictures of a block."""
_BLOCKS = 8
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayOptions:
    """Nothing to state: the file names its arrays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MedmnistOptions:
    """`data.path` is the folder of the files."""

    flag: str
    """Name of the set in lower case: `pneumoniamnist`."""
    size: int = 28
    """Pixels of a side: 28, 64, 128 or 224."""


OPTIONS = ArrayOptions


def splits(source: Source, options: ArrayOptions) -> Sequence[str]:
    """Those whose arrays the file has."""
    return _splits(source, source.path(None))


def rows(source: Source, options: ArrayOptions, split: str | None) -> Found:
    """Pictures of one split, or of all."""
    return _found(source, source.path(None), split)


def medmnist_splits(source: Source, options: MedmnistOptions) -> Sequence[str]:
    """As `splits`, of the file that flag and size name."""
    return _splits(source, _medmnist_path(source, options))


def medmnist_rows(source: Source, options: MedmnistOptions, split: str | None) -> Found:
    """As `rows`, of the file that flag and size name."""
    return _found(source, _medmnist_path(source, options), split)


def _medmnist_path(source: Source, options: MedmnistOptions) -> Path:
    flag = options.flag
    if not flag.isalnum():
        raise source.wrong(
            f"data.options.flag is {flag!r}; a name such as pneumoniamnist is expected"
        )
    size = "" if options.size == 28 else f"_{options.size}"
    folder = source.path(None)
    path = folder / f"{flag}{size}.npz"
    if not path.is_file():
        raise source.missing(
            path,
            f". `pip install medmnist`, then `python -m medmnist save --flag={flag} --size={options.size} "
            f"--download=True --root={folder} --folder={folder}/exported --postfix=png` puts it there",
        )
    return path


def _splits(source: Source, path: Path) -> list[str]:
    if not path.is_file():
        raise source.missing(path)
    try:
        with zipfile.ZipFile(path) as file:
            names = set(file.namelist())
    except DAMAGED as error:
        raise source.wrong(f"{source.shown(path)} is no .npz: {error}") from None
    found = [each for each in _SPLITS if f"{each}_images.npy" in names]
    if not found:
        raise source.wrong(
            f"{source.shown(path)} has the arrays {listed(sorted(names))}; {{split}}_images and "
            "{split}_labels are expected"
        )
    return found


def _found(source: Source, path: Path, split: str | None) -> Found:
    names = _splits(source, path)
    if split is not None and split not in names:
        raise source.wrong(
            f"{source.shown(path)} has no {split}_images; it has the splits {listed(names)}"
        )
    stacks, rows = {}, []
    for name in names if split is None else [split]:
        try:
            stacks[name] = Stack(path, f"{name}_images")
            labels = _labels(path, f"{name}_labels")
        except DAMAGED as error:
            raise source.wrong(f"{source.shown(path)}, {name}: {error!r}") from None
        if len(labels) != stacks[name].shape[0]:
            raise source.wrong(
                f"{source.shown(path)} has {stacks[name].shape[0]:,} {name}_images and {len(labels):,} {name}_labels"
            )
        rows += _rows(source, path, name, labels)
    return Found(rows=rows, read=partial(_read, stacks))


def _read(stacks: dict[str, Stack], where: tuple[str, int]) -> NDArray[np.uint8]:
    return stacks[where[0]].read(where[1])


def _labels(path: Path, name: str) -> NDArray[Any]:
    """(N, 1) or (N, classes)."""
    with np.load(path, allow_pickle=False) as file:
        labels: NDArray[Any] = file[name]
    if labels.ndim not in (1, 2) or labels.dtype.kind not in "iub" or not labels.size:
        raise ValueError(
            f"{name} is {labels.dtype} {labels.shape}; whole numbers (N, 1) are expected"
        )
    return labels.reshape(len(labels), -1)


def _rows(source: Source, path: Path, split: str, labels: NDArray[Any]) -> list[Row]:
    kind, place = source.task.kind, source.shown(path)
    if kind not in ("classification", "multilabel"):
        raise source.wrong(f"arrays have labels for classification and multilabel, not for {kind}")
    if kind == "classification" and labels.shape[1] != 1:
        raise source.wrong(
            f"{place} has {labels.shape[1]} labels for each item; a multilabel task reads them"
        )
    classes, found = source.labels, []
    for index, values in enumerate(labels.tolist()):
        item, where = f"{split}/{index:07d}", f"{place} {split}_images[{index}]"
        answers: dict[str, Any]
        if kind == "classification":
            answers = {"label": classes.index(values[0], item, where)}
        else:
            answers = {"labels": classes.held(values, item, where)}
        found.append(Row(id=item, place=where, picture=(split, index), **answers))
    return found


class Stack:
    """Pictures of one array in an .npz. A small one is held; of a large one, blocks as they are asked for.

    A zip member can only be read from its start, so going back costs all before it; items come in order.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._archive: zipfile.ZipFile | None = None
        self._file: IO[bytes] | None = None
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            self.shape, self._start = _header(file, name)
        size = math.prod(self.shape)
        self._per_block = self.shape[0] if size <= _IN_MEMORY else _BLOCK

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self._path, "name": self._name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["name"])  # type: ignore[misc]

    def __del__(self) -> None:
        for each in (getattr(self, "_file", None), getattr(self, "_archive", None)):
            if each is not None:
                each.close()

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels (H, W[, 3]). Raises `OSError`."""
        number, place = divmod(index, self._per_block)
        with self._lock:
            block = self._kept.pop(number, None)
            if block is None:
                try:
                    block = self._block(number * self._per_block)
                except DAMAGED as error:
                    raise OSError(f"{self._path}: {self._name}: {error!r}") from None
            self._kept[number] = block
            while len(self._kept) > _BLOCKS:
                self._kept.popitem(last=False)
        picture: NDArray[np.uint8] = block[place]
        return picture

    def _block(self, first: int) -> NDArray[np.uint8]:
        if self._file is None:
            self._archive = zipfile.ZipFile(self._path)
            self._file = self._archive.open(f"{self._name}.npy")
        shape = (min(self._per_block, self.shape[0] - first), *self.shape[1:])
        self._file.seek(self._start + first * math.prod(self.shape[1:]))
        data = self._file.read(math.prod(shape))
        return np.frombuffer(data, np.uint8).reshape(shape)


def _header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], int]:
    """Shape of an array of pictures and where its bytes start. Raises `ValueError` for any other."""
    major, _ = npy.read_magic(file)
    read = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if dtype != np.uint8 or is_fortran or not (len(shape) == 3 or shape[3:] in ((1,), (3,))):
        raise ValueError(f"{name} is {dtype} {shape}; uint8 (N, H, W) or (N, H, W, 3) is expected")
    return shape, file.tell()
