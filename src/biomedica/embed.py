"""Pictures and captions to feature files, a shard at a time.

A shard whose features stand and fit it is left alone, so a run that was stopped goes on. Pictures are
decoded by threads ahead of the model.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedica import __version__
from biomedica.archive import Archive, Done
from biomedica.errors import ArchiveError, ConfigError
from biomedica.features import (
    FeatureSet,
    ShardFeatures,
    create_set,
    figures_digest,
    figures_path,
    names,
)
from biomedica.models import Encoder, open_encoder, short_name
from biomedica.preprocessing import Fit, Pixels
from biomedica.run import LeftOut, RunSettings, run_tasks
from biomedica.run.engines import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedSettings:
    """How pictures go through an encoder."""

    batch: int = 32
    """Pictures or captions that go through the model at a time."""
    fit: Fit = "pad"
    """`pad`: the whole picture, the rest of the square white. `crop`: the middle, as the model was trained."""
    pooling: Literal["cls", "mean"] = "cls"
    """Of ONNX models that give a vector for each token: the first one, or the mean of all."""
    decoders: int = 2
    """Threads that decode ahead of the model."""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.decoders < 1:
            raise ConfigError("embed.batch and embed.decoders must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedJob:
    """What embedding one shard needs besides the shard's name."""

    archive: Path
    feature_set: str
    kind: str
    encoder: str
    device: str
    done: Done
    settings: EmbedSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedShard:
    """What embedding a shard came to."""

    shard: str
    rows: int
    bad: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """What a call of `embed` came to."""

    features: str
    """Name of the feature set."""
    dims: int
    num_shards: int
    kind: str
    """`image` or `text`."""
    num_embedded: int
    """Shards embedded by this call."""
    num_waiting: int
    """Shards that are still not embedded (`limit`)."""
    num_rows: int
    """Rows embedded by this call."""
    num_bad: int
    """Rows of them whose picture does not decode; they are NaN."""


def embed(
    archive: Archive,
    encoder_name: str,
    settings: EmbedSettings,
    run: RunSettings,
    engine: Engine,
    *,
    name: str | None = None,
    text: bool = False,
    device: str = "cpu",
    limit: int | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Embedded:
    """Embed the shards of an archive that are not embedded yet.

    name    of the feature set; from the encoder's name by default (captions: with `-text`)
    text    embed captions instead of pictures
    limit   embed so many shards at the most
    tell    gets (shards done, shards in all)

    Raises `ConfigError` where the set was made by other weights, or the model reads no text.
    """
    archive.info()
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit {limit}; at least 1 is expected")
    model = cached_encoder(encoder_name, device, settings.fit, settings.pooling)
    if text:
        model.texts(["a test"])
    feature_set = name if name is not None else _default_name(encoder_name, text)
    kind = "text" if text else "image"
    target = create_set(archive, feature_set, _about(model, kind))
    states = target.states()
    lacking = [shard for shard, fits in states.items() if not fits][:limit]
    finished = archive.done()

    def job_of(shard: str) -> EmbedJob:
        return EmbedJob(
            archive=archive.root,
            feature_set=feature_set,
            kind=kind,
            encoder=encoder_name,
            device=device,
            done=finished[shard],
            settings=settings,
        )

    num_done = sum(states.values())
    embedded: list[EmbeddedShard] = []
    for result in run_tasks(engine, archive, lacking, embed_shard, job_of, run):
        embedded.append(result)
        tell(num_done + len(embedded), len(states))
    return Embedded(
        features=feature_set,
        dims=target.dims,
        num_shards=len(states),
        kind=kind,
        num_embedded=len(embedded),
        num_waiting=len(states) - num_done - len(embedded),
        num_rows=sum(each.rows for each in embedded),
        num_bad=sum(each.bad for each in embedded),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What a call of `embed` would do."""

    features: str
    num_shards: int
    num_waiting: int
    num_rows: int
    """In the shards that wait."""


def waiting(archive: Archive, encoder_name: str, name: str | None, text: bool) -> Waiting:
    """What is not embedded yet, without loading the model."""
    feature_set = name if name is not None else _default_name(encoder_name, text)
    done = archive.done()
    states = dict.fromkeys(done, False)
    if feature_set in names(archive):
        states = FeatureSet.open(archive, feature_set).states()
    lacking = [shard for shard, fits in states.items() if not fits]
    return Waiting(
        features=feature_set,
        num_shards=len(states),
        num_waiting=len(lacking),
        num_rows=sum(done[shard].counts["pairs"] for shard in lacking),
    )


def _default_name(encoder_name: str, text: bool) -> str:
    return short_name(encoder_name) + ("-text" if text else "")


def _about(model: Encoder, kind: str) -> dict[str, object]:
    return {
        "kind": kind,
        "encoder": model.name,
        "digest": model.digest,
        "dims": model.dims,
        "normalised": True,
        "preprocessing": asdict(model.preprocessing) if kind == "image" else None,
        "biomedica": __version__,
    }


@functools.lru_cache(maxsize=1)
def cached_encoder(name: str, device: str, fit: Fit, pooling: str) -> Encoder:
    """The encoder, loaded once in a process: workers that stay (Ray's actors) keep it."""
    return open_encoder(name, device=device, fit=fit, pooling=pooling)


def embed_shard(job: EmbedJob, shard: str, _left_out: frozenset[LeftOut]) -> EmbeddedShard:
    """One shard's features. Pictures of an archive were checked when they were written; nothing is
    left out of a shard but what does not decode."""
    archive = Archive(job.archive)
    model = cached_encoder(job.encoder, job.device, job.settings.fit, job.settings.pooling)
    target = FeatureSet.open(archive, job.feature_set)
    columns = ["key", "caption"] if job.kind == "text" else ["key", "jpg_offset", "jpg_size"]
    rows = pq.read_table(figures_path(archive, shard), columns=columns)
    features = np.full((rows.num_rows, model.dims), np.nan, dtype=np.float16)
    if job.kind == "text":
        captions = rows["caption"].to_pylist()
        for start in range(0, len(captions), job.settings.batch):
            part = captions[start : start + job.settings.batch]
            features[start : start + len(part)] = model.texts(part)
    else:
        _embed_pictures(job, archive, shard, rows.to_pylist(), model, features)
    bad = tuple(int(row) for row in np.flatnonzero(~np.isfinite(features).all(axis=1)))
    noted = ShardFeatures(
        figures=figures_digest(job.done), encoder=model.digest, rows=len(features), bad=bad
    )
    target.write(shard, features, noted)
    return EmbeddedShard(shard=shard, rows=len(features), bad=len(bad))


def _embed_pictures(
    job: EmbedJob,
    archive: Archive,
    shard: str,
    rows: list[dict[str, object]],
    model: Encoder,
    features_ND: NDArray[np.float16],
) -> None:
    """Fill in the rows of the pictures that decode."""
    tar = archive.root / "shards" / job.done.group / f"{shard}.tar"
    try:
        handle = os.open(tar, os.O_RDONLY)
    except OSError as error:
        raise ArchiveError(
            f"{tar} cannot be read: {error.strerror}; `biomedica build` makes it again"
        ) from error

    def decode(row: dict[str, object]) -> Pixels | None:
        size, offset = row["jpg_size"], row["jpg_offset"]
        assert isinstance(size, int) and isinstance(offset, int)
        try:
            data = os.pread(handle, size, offset)
        except OSError as error:
            raise ArchiveError(f"{tar} cannot be read: {error.strerror}") from error
        if len(data) != size:
            raise ArchiveError(
                f"{tar} ends before byte {offset + size}; `biomedica doctor` looks further"
            )
        try:
            return model.preprocessing.pixels(data)
        except (OSError, ValueError, SyntaxError):
            return None

    try:
        with ThreadPoolExecutor(job.settings.decoders) as pool:
            ahead = _ahead(pool, decode, rows, 4 * job.settings.batch)
            for indices, pixels in _batches(ahead, job.settings.batch):
                features_ND[indices] = model.images(pixels)
    finally:
        os.close(handle)


def _ahead(
    pool: ThreadPoolExecutor,
    function: Callable[[dict[str, object]], Pixels | None],
    rows: list[dict[str, object]],
    window: int,
) -> Iterator[Pixels | None]:
    """`function` of each row, in order, a bounded number of them in the making."""
    waiting: deque[Future[Pixels | None]] = deque()
    for row in rows:
        waiting.append(pool.submit(function, row))
        if len(waiting) >= window:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _batches(
    pictures: Iterator[Pixels | None], size: int
) -> Iterator[tuple[NDArray[np.intp], Pixels]]:
    """Row numbers and (N, H, W, 3) of the pictures that there are, `size` at a time."""
    numbers: list[int] = []
    pixels: list[Pixels] = []
    for number, each in enumerate(pictures):
        if each is not None:
            numbers.append(number)
            pixels.append(each)
        if len(pixels) == size:
            yield np.array(numbers), np.stack(pixels)
            numbers, pixels = [], []
    if pixels:
        yield np.array(numbers), np.stack(pixels)
