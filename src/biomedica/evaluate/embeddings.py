"""Embeddings of a task's pictures and texts, kept by what they are made of: one cache for every protocol.

    CACHE/<encoder>/<digest>.npy     float32 (N, D): up to 1,024 pictures or texts

A file's name is the digest of the weights, the preprocessing and the very bytes that went in, so a changed
model or a changed picture can't meet an old embedding, and two tasks over the same pictures share theirs.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from biomedica.errors import EvaluationError
from biomedica.evaluate.items import Items
from biomedica.models import Encoder, Vectors
from biomedica.preprocessing import Pixels
from biomedica.shards import write_file

Tell = Callable[[int, int], None]
"""Called with (done, of all)."""
Value = TypeVar("Value")
_CHUNK = 1024
_THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """The pictures of some items."""

    vectors_ND: Vectors
    """A row for each item, of length 1."""
    pictures_sha256: str
    """SHA-256 over the digests of all pictures, in the order of the items, in hex."""
    computed: int
    """Pictures that were not in the cache."""


class Embeddings:
    """An encoder with its cache. Raises `EvaluationError` where a vector is no number.

    folder   None: nothing is kept
    batch    pictures that go through the model at once
    """

    def __init__(self, encoder: Encoder, folder: Path | None, batch: int = 64) -> None:
        self.encoder = encoder
        self._folder = folder / encoder.digest[:16] if folder else None
        self._batch = batch
        self._digests: dict[int, tuple[Items, dict[int, str]]] = {}
        """By object, which is kept so that no other gets its number."""

    def images(self, items: Items, tell: Tell = lambda done, total: None) -> Embedded:
        """Vectors of the items' pictures; a picture that several items share is embedded once."""
        firsts = first_of_each(items.picture_ids)
        order = {items.picture_ids[index]: row for row, index in enumerate(firsts)}
        parts, computed = [], 0
        for chunk in pieces(firsts, _CHUNK):
            digests = [self._digest(items, index) for index in chunk]
            path = self._path("images", self.encoder.digest, digests)
            vectors = _read(path)
            if vectors is None:
                vectors = self._embed(items, chunk)
                _write(path, vectors)
                computed += len(chunk)
            parts.append(vectors)
            tell(sum(map(len, parts)), len(firsts))
        rows = np.array([order[each] for each in items.picture_ids])
        return Embedded(
            vectors_ND=np.concatenate(parts)[rows],
            pictures_sha256=self.pictures_sha256(items),
            computed=computed,
        )

    def pictures_sha256(self, items: Items) -> str:
        """SHA-256 over the digests of the items' pictures, in their order, in hex. Each is read once."""
        total = hashlib.sha256()
        for index in first_of_each(items.picture_ids):
            total.update(self._digest(items, index).encode())
        return total.hexdigest()

    def _digest(self, items: Items, index: int) -> str:
        known = self._digests.setdefault(id(items), (items, {}))[1]
        if index not in known:
            known[index] = picture_digest(items, index)
        return known[index]

    def texts(self, texts: Sequence[str], of: str) -> Vectors:
        """(N, D) of texts; one that stands several times is embedded once. of   task, for messages"""
        different = list(dict.fromkeys(texts))
        parts = []
        for chunk in pieces(different, _CHUNK):
            path = self._path("texts", self.encoder.text_digest, chunk)
            vectors = _read(path)
            if vectors is None:
                vectors = np.concatenate(
                    [self.encoder.texts(some) for some in pieces(chunk, self._batch)]
                )
                bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
                if len(bad):
                    raise EvaluationError(
                        f"task {of}: {self.encoder.name} gives no number for the text "
                        f"{chunk[bad[0]][:80]!r}"
                    )
                _write(path, vectors)
            parts.append(vectors)
        place = {text: row for row, text in enumerate(different)}
        return np.concatenate(parts)[[place[text] for text in texts]]

    def _embed(self, items: Items, chunk: Sequence[int]) -> Vectors:
        parts = [
            self.encoder.images(pixels)
            for pixels in _decoded(items, chunk, self._batch, self.encoder.preprocessing.exact)
        ]
        vectors = np.concatenate(parts)
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise EvaluationError(
                f"{items.name(chunk[bad[0]])}: {self.encoder.name} gives no number for its picture"
            )
        return vectors

    def _path(self, kind: str, digest: str, parts: Sequence[str]) -> Path | None:
        if self._folder is None:
            return None
        key = hashlib.sha256(f"{kind} {digest}".encode())
        for part in parts:
            key.update(hashlib.sha256(part.encode()).digest())
        return self._folder / f"{key.hexdigest()}.npy"


def pieces(values: Sequence[Value], size: int) -> Iterator[Sequence[Value]]:
    """Neighbours, `size` at a time."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def first_of_each(names: Sequence[str]) -> list[int]:
    """Index of each name's first place, in order."""
    firsts: dict[str, int] = {}
    for index, name in enumerate(names):
        firsts.setdefault(name, index)
    return list(firsts.values())


def picture_digest(items: Items, index: int) -> str:
    """SHA-256 of a picture's bytes, or of its shape and pixels."""
    try:
        source = items.read(index)
    except OSError as error:
        raise EvaluationError(f"{items.name(index)}: its picture cannot be read: {error}") from None
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    head = f"{source.dtype} {source.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(source).tobytes()).hexdigest()


def _decoded(
    items: Items, chunk: Sequence[int], batch: int, fit: Callable[..., Pixels]
) -> Iterator[Pixels]:
    """Pixels (N, H, W, 3) of a chunk, a batch at a time; the next batch is decoded while one is used."""
    with ThreadPoolExecutor(_THREADS) as threads:
        waiting = [
            [threads.submit(lambda index: fit(items.picture(index)), index) for index in some]
            for some in pieces(chunk, batch)
        ]
        for some in waiting:
            yield np.stack([each.result() for each in some])
            some.clear()


def _read(path: Path | None) -> Vectors | None:
    """A kept file; None where there is none, or a damaged one."""
    if path is None or not path.exists():
        return None
    try:
        found: NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found


def _write(path: Path | None, vectors: Vectors) -> None:
    if path is not None:
        content = io.BytesIO()
        np.save(content, vectors)
        write_file(path, content.getvalue())
