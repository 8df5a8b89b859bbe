"""How well an order mixes: distinct shards in a batch of one worker, ours against webdataset's buffer.

    python bench/stream_order.py [--shards 1000] [--samples 1000]

Prints JSON: mean number of shards that a batch of 256 samples comes from. webdataset's side is its own
shuffle with open_clip's buffer (5,000 samples, begun at 1,000) over a shuffled list of shards, which one
worker reads one after the other; `ideal` is a shuffle of all samples.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray

BATCH = 256
BUFFER, INITIAL = 5_000, 1_000
"""open_clip_train.data: _SAMPLE_SHUFFLE_SIZE and _SAMPLE_SHUFFLE_INITIAL."""


def distinct(shard_N: NDArray[np.int64]) -> float:
    """Mean number of shards in the full batches of a sequence."""
    full = len(shard_N) // BATCH * BATCH
    batches = np.sort(shard_N[:full].reshape(-1, BATCH), axis=1)
    return float((1 + (np.diff(batches, axis=1) != 0).sum(axis=1)).mean())


def buffered(shards: int, samples: int) -> NDArray[np.int64]:
    """Shard of each sample in the order of webdataset's buffer."""
    from webdataset.filters import shuffle

    order = list(range(shards))
    random.Random(0).shuffle(order)

    def read() -> Iterator[int]:
        for shard in order:
            for _ in range(samples):
                yield shard

    mixed = shuffle(BUFFER, initial=INITIAL, rng=random.Random(0))(read())
    return np.fromiter(mixed, np.int64, shards * samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=1_000)
    parser.add_argument("--samples", type=int, default=1_000)
    words = parser.parse_args()
    from biomedica.stream import Order, OrderSettings

    total, settings = words.shards * words.samples, OrderSettings()
    rows = Order(total, 0, settings).rows(0, total)
    assert (np.bincount(rows, minlength=total) == 1).all()  # each sample once
    same = Order(total, 0, replace(settings, window=BUFFER)).rows(0, total)
    ideal = np.random.default_rng(0).permutation(total)
    found = {
        "ours": distinct(rows // words.samples),
        "same_memory": distinct(same // words.samples),
        "webdataset": distinct(buffered(words.shards, words.samples)),
        "ideal": distinct(ideal // words.samples),
        "settings": asdict(settings),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
