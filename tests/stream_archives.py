"""Small archives with views for streams, what is in them by other means, and a plain reader of all."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from biomedica.stream import Order, OrderSettings, ReadSettings, Samples
from biomedica.stream.reader import Reader, Wanted
from export_views import figure_rows, split_of, write_view
from feature_archives import small_archive

QUICK = ReadSettings(retries=2, backoff_seconds=0.001, timeout_seconds=5, connections=4)
Truth = dict[str, tuple[bytes, bytes, bytes]]


def streamed_archive(folder: Path, num_articles: int = 24) -> Path:
    """An archive of two pictures an article in shards of 12, with a view of all of it."""
    root = small_archive(folder, num_articles, samples=12).root
    give_view(root)
    return root


def give_view(root: Path, name: str = "all", **options: Any) -> None:
    """A view with its splits counted, as `select` leaves it."""
    write_view(root, name, **options)
    keep = options.get("keep", lambda row: True)
    path = root / "views" / name / "counts.json"
    splits = Counter(options.get("split", split_of)(r) for r in figure_rows(root) if keep(r))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"splits": splits}))


def truth(root: Path) -> Truth:
    """Members of every sample by key, as tarfile reads them."""
    found: Truth = {}
    for path in sorted((root / "shards").glob("*/*.tar")):
        with tarfile.open(path) as file:
            members = {each.name: file.extractfile(each).read() for each in file}  # type: ignore[union-attr]
        for name in [name for name in members if name.endswith(".jpg")]:
            key = name.removesuffix(".jpg")
            found[key] = tuple(members[f"{key}.{end}"] for end in ("jpg", "txt", "json"))  # type: ignore[assignment]
    return found


def shards(root: Path) -> list[Path]:
    """The tars of an archive."""
    return sorted((root / "shards").glob("*/*.tar"))


def wanted(samples: Samples, batch: int = 8, epochs: int = 1, seed: int = 0) -> Iterator[Wanted]:
    """The batches of an order."""
    order = Order(len(samples), seed, OrderSettings(run=2, window=16))
    total = epochs * len(samples)
    for start in range(0, total, batch):
        rows = order.rows(start, min(start + batch, total))
        yield Wanted(start, np.zeros_like(rows), rows)


def read(reader: Reader, samples: Samples, **options: int) -> list[tuple[str, bytes, bytes, bytes]]:
    """Every sample of an order: key, picture, caption, JSON."""
    return [
        (key, *(bytes(member) for member in members))  # type: ignore[misc]
        for batch in reader.batches(wanted(samples, **options))
        for key, members in zip(batch.keys, batch.members, strict=True)
    ]


def reader_of(samples: Samples, settings: ReadSettings | None = None) -> Reader:
    """A reader of one view, with JSON."""
    return Reader([samples], settings or samples.settings, with_json=True)


def check(found: list[tuple[str, bytes, bytes, bytes]], expected: Truth, epochs: int = 1) -> None:
    """Each sample as often as there are epochs, with its own bytes."""
    assert Counter(row[0] for row in found) == dict.fromkeys(expected, epochs)
    assert all(members == list(expected[key]) for key, *members in found)
