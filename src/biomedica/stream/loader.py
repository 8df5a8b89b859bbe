"""Views as a torch dataset: batches whose order no rank, worker or restart changes."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from biomedica.errors import ArchiveError, BiomedicaError, ConfigError
from biomedica.stream.mix import Mix, Source
from biomedica.stream.order import OrderSettings, uniform
from biomedica.stream.pixels import NUM_DRAWS, Pixels
from biomedica.stream.reader import RawBatch, Reader, Requests, Wanted, split_evenly
from biomedica.stream.samples import Samples
from biomedica.stream.settings import ReadSettings
from biomedica.stream.texts import TextSettings, caption_in, decoded, facts_of, texts_of

Tokenizer = Callable[[list[str]], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step of one rank eats: B samples.

    position   of the step's first sample in the order, the same on every rank
    next       position after the step: what a checkpoint notes
    images     uint8 (B, 3, S, S); None where no pixels were asked for
    texts      B lists of `TextSettings.per_image` texts; empty where there is a tokenizer
    tokens     int64 (B, per_image, T); None where there is no tokenizer
    facts      the samples' JSON members; empty unless they were asked for
    """

    position: int
    next: int
    keys: list[str]
    images: torch.Tensor | None
    texts: list[list[str]]
    tokens: torch.Tensor | None
    facts: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.keys)

    def pin_memory(self) -> Self:
        """Page-locked tensors, for copies to a GPU that do not wait."""
        return replace(
            self,
            images=None if self.images is None else self.images.pin_memory(),
            tokens=None if self.tokens is None else self.tokens.pin_memory(),
        )


class Stream(IterableDataset[Batch]):
    """Shuffled batches of one view or of several, weighted.

    Step s of a world of w ranks takes positions [s*w*batch, (s+1)*w*batch) of the order, each rank a
    contiguous share: the shares side by side are the order itself, for any w. Workers of a DataLoader
    take a rank's steps in turn. Epochs follow one another without a gap, so every step but the very
    last is full, and each epoch holds every sample of the (first) view once.

    sources      one view, or several with weights (see `mix`)
    batch        samples of one rank in one step
    epochs       where the sequence ends, counted in epochs of the first view
    drop_last    leave out the last step when it is not full; else it is split as evenly as possible
    pixels       None: no pictures are decoded
    tokenizer    texts to int64 (N, T); None: texts stay texts
    with_facts   give the JSON members too
    """

    def __init__(
        self,
        sources: Samples | Sequence[Source],
        *,
        batch: int = 256,
        epochs: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
        order: OrderSettings | None = None,
        read: ReadSettings | None = None,
        pixels: Pixels | None = None,
        texts: TextSettings | None = None,
        tokenizer: Tokenizer | None = None,
        with_facts: bool = False,
    ) -> None:
        if batch < 1 or not 0 <= rank < world or epochs < 1:
            raise ConfigError(
                f"batch {batch}, rank {rank} of {world}, epochs {epochs}: batch and epochs of at least 1 "
                "and a rank below the world's size are expected"
            )
        if seed < 0:
            raise ConfigError(f"the seed is {seed}; 0 or more is expected")
        chosen = [Source(sources)] if isinstance(sources, Samples) else list(sources)
        self.batch, self.epochs, self.rank, self.world = batch, epochs, rank, world
        self.drop_last = drop_last
        self.mix = Mix(chosen, seed, order or OrderSettings())
        self.seed = seed
        self._read = read or chosen[0].samples.settings
        self._pixels, self._texts = pixels, texts or TextSettings()
        self._tokenizer = tokenizer
        self._with_facts = with_facts
        self._with_json = with_facts or self._texts.needs_json
        self.position = 0

    @property
    def total(self) -> int:
        """Samples of the whole sequence, of all ranks."""
        return self.mix.length(self.epochs)

    @property
    def num_steps(self) -> int:
        """Steps from the beginning to the end."""
        step = self.batch * self.world
        return self.total // step if self.drop_last else -(-self.total // step)

    def state_dict(self) -> dict[str, Any]:
        """Where the sequence stands and which sequence it is: a few numbers."""
        return {"position": self.position, **self.mix.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; ranks, workers and batch may be others. Raises `ConfigError` where the state
        is that of another sequence."""
        own = self.mix.state()
        for name, value in own.items():
            if state.get(name) != value:
                raise ConfigError(
                    f"the state to go on from has {name} {state.get(name)!r}, this stream has {value!r}: "
                    + (
                        "a view was made again or samples were withdrawn; begin a new run from the "
                        "checkpoint's weights"
                        if name == "samples"
                        else "give the settings that the run began with"
                    )
                )
        self.position = int(state["position"])

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        for raw in self._reader().batches(self._wanted(number, count)):
            batch = self._batch(raw)
            if worker is None:
                self.position = batch.next
            yield batch

    def raw(self) -> Iterator[RawBatch]:
        """Bytes as they stand in the shards, in this process; nothing is decoded."""
        return self._reader().batches(self._wanted(0, 1))

    def requests(self) -> Iterator[Requests]:
        """What the rest of the sequence takes, part by part, without fetching it."""
        return self._reader().requests(self._wanted(0, 1))

    def _reader(self) -> Reader:
        """Opened in the process that reads."""
        return Reader(self.mix.samples, self._read, with_json=self._with_json)

    def _wanted(self, worker: int, workers: int) -> Iterator[Wanted]:
        """This rank's batches that fall to one of its workers."""
        step, total = self.batch * self.world, self.total
        edge = False
        for number, start in enumerate(range(self.position, total, step)):
            stop = min(start + step, total)
            edge = edge or self.mix.is_edge(start, stop)
            if number % workers != worker:
                continue
            if stop - start < step and self.drop_last:
                return
            first, last = split_evenly(start, stop, self.world, self.rank)
            if first < last:
                yield Wanted(first, *self.mix.rows(first, last), edge)
                edge = False

    def _batch(self, raw: RawBatch) -> Batch:
        count = len(raw.keys)
        positions = np.arange(raw.position, raw.position + count)
        num_texts = self._texts.num_draws
        draws = uniform(self.seed, positions, NUM_DRAWS + num_texts)
        images = None if self._pixels is None else self._pixels.empty(count)
        texts, facts = [], []
        for i, (key, (jpg, txt, meta)) in enumerate(zip(raw.keys, raw.members, strict=True)):
            if self._pixels is not None:
                self._pixels.write(images, i, jpg, key, draws[i])
            caption = decoded(key, txt) if len(txt) else caption_in(key, meta)
            if self._with_facts:
                facts.append(facts_of(key, meta))
            texts.append(texts_of(key, caption, meta, draws[i, NUM_DRAWS:], self._texts))
        tokens = None
        if self._tokenizer is not None:
            flat = self._tokenizer([text for each in texts for text in each])
            tokens, texts = flat.reshape(count, self._texts.per_image, -1), []
        start, stop = self._step_of(raw.position)
        return Batch(start, stop, raw.keys, images, texts, tokens, facts)

    def _step_of(self, position: int) -> tuple[int, int]:
        """The step that a position of this rank belongs to."""
        step = self.batch * self.world
        start = self.position + (position - self.position) // step * step
        return start, min(start + step, self.total)


class Loader:
    """A stream read by worker processes. Its state counts what was given out, not what was fetched ahead.

    workers   0 reads in this process
    """

    def __init__(
        self, stream: Stream, *, workers: int = 2, prefetch: int = 2, pin_memory: bool = False
    ) -> None:
        self.stream = stream
        self._workers = workers
        self._prefetch = prefetch
        self._pin_memory = pin_memory

    def __len__(self) -> int:
        """Steps from the beginning to the end of the sequence."""
        return self.stream.num_steps

    def state_dict(self) -> dict[str, Any]:
        """See `Stream.state_dict`."""
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Stream.load_state_dict`."""
        self.stream.load_state_dict(state)

    def __iter__(self) -> Iterator[Batch]:
        loader: DataLoader[Batch] = DataLoader(
            self.stream,
            batch_size=None,
            num_workers=self._workers,
            prefetch_factor=self._prefetch if self._workers else None,
            pin_memory=self._pin_memory,
            multiprocessing_context="forkserver" if self._workers else None,
            worker_init_fn=partial(_end_with, os.getpid()) if self._workers else None,
        )
        try:
            for batch in loader:
                self.stream.position = batch.next
                yield batch
        except BiomedicaError as error:
            raise _plain(error) from None


def _end_with(process: int, worker: int) -> None:
    """Let this worker end when the process that reads its batches is gone, however it went.

    torch's own watch does not see it: a worker's parent is the fork server, which lives as long as its workers, and a
    worker that has batches ready waits for ever to hand them over. Ctrl-C, which a terminal sends to workers too,
    is for the process that reads: it may want one more batch.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        os._exit(1)
    except (AttributeError, OSError):  # Linux alone has it
        return

    def watch() -> None:
        select.select([descriptor], [], [])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _plain(error: BiomedicaError) -> BiomedicaError:
    """An error of a worker without the traceback that torch puts in front of its message."""
    text = str(error)
    if "Original Traceback" not in text:
        return error
    said = text.strip().splitlines()[-1]
    return ArchiveError(said.partition(": ")[2] or said)
