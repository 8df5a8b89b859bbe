"""Whether a benchmark's pictures were seen in training: pairs of its items and samples of a view.

    leaks.parquet   a row of `LEAKS` for each pair
    leaks.json      shares, counts and thresholds
    exclude.txt     keys of the samples, one a line: what a recipe's `exclude` takes

Tiers, the strongest first: `exact` (the same bytes as the sample's picture, or as the file that it was made of),
`phash` (near perceptual hash, as it is or mirrored), `embedding` (near by cosine), `article` (the item's id,
group or picture names the sample's article). Unless settings say otherwise, pairs of `phash` and `embedding` count when
the pictures themselves agree (see `overlap`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from biomedica.archive import Archive
from biomedica.errors import ConfigError
from biomedica.evaluate.embeddings import Embeddings
from biomedica.evaluate.intervals import draws, interval
from biomedica.evaluate.items import Items
from biomedica.evaluate.leak_judge import TIERS, Judge, Pair
from biomedica.evaluate.leak_search import Search, Tell, articles_of, read_pictures, search
from biomedica.evaluate.metrics import score_of
from biomedica.evaluate.results import Result, Score
from biomedica.evaluate.settings import LeakSettings
from biomedica.evaluate.tables import measure_of
from biomedica.features import FeatureSet, the_set
from biomedica.models import Vectors
from biomedica.shards import write_arrow, write_file, write_json
from biomedica.stream.samples import Samples, open_samples

LEAKS = pa.schema(
    [
        pa.field("item", pa.string(), False),
        pa.field("picture", pa.string(), False),
        pa.field("key", pa.string(), False),  # of the training sample
        pa.field("tier", pa.string(), False),  # the strongest that tells of the pair
        ("distance", pa.int8()),  # bits of the hash that differ, where it is near
        ("cosine", pa.float32()),  # where it is near
        ("correlation", pa.float32()),  # of the pictures, where they were compared
        ("is_mirrored", pa.bool_()),  # phash and embedding
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaks:
    """What a check came to."""

    task: str
    split: str
    """Of the task."""
    view: str
    view_split: str | None
    features: str | None
    encoder: str | None
    """Digest of what made the features."""
    rows: pa.Table
    """`LEAKS`, by item, tier and key; a pair of item and sample stands in it once."""
    num_items: int
    num_pictures: int
    num_plain: int
    """Pictures of one colour or nearly: looked for by their bytes and articles alone."""
    num_samples: int
    """Of the view's split."""
    num_compared: int
    """Pairs of pictures that were compared with each other."""
    settings: LeakSettings

    @property
    def shares(self) -> dict[str, float]:
        """Share of the items by the strongest tier that tells of them; `any`: of all of them together."""
        best: dict[str, int] = {}
        for item, tier in zip(
            self.rows["item"].to_pylist(), self.rows["tier"].to_pylist(), strict=True
        ):
            best[item] = min(best.get(item, len(TIERS)), TIERS.index(tier))
        counts = Counter(TIERS[number] for number in best.values())
        shares: dict[str, float] = {tier: counts[tier] / self.num_items for tier in TIERS}
        return {**shares, "any": len(best) / self.num_items}

    def items(self, tiers: Sequence[str] = TIERS) -> set[str]:
        """Ids of the items that one of these tiers tells of."""
        chosen = self.rows.filter(pc.is_in(self.rows["tier"], pa.array(list(tiers), pa.string())))
        return set(chosen["item"].to_pylist())

    @property
    def keys(self) -> list[str]:
        """Training samples of all pairs, in order."""
        return sorted(set(self.rows["key"].to_pylist()))


def contamination(
    archive: Archive,
    view: str,
    split: str | None,
    items: Items,
    settings: LeakSettings,
    features: str | None = None,
    embeddings: Embeddings | None = None,
    tell: Tell | None = None,
) -> Leaks:
    """Look for a benchmark's pictures among the samples of a view.

    split        of the view; None: all of it
    features     set of the archive; with `embeddings`, made by the same encoder, the tier `embedding` is there
    tell         gets (stage, done, of all)

    Raises `ConfigError` where features and embeddings do not go together or the archive's pictures stand
    elsewhere, `EvaluationError` naming a picture that does not decode. Cost: one pass over the figures tables
    and features; some 30 ms for each pair of pictures that is compared.
    """
    tell = tell or (lambda stage, done, total: None)
    samples = open_samples(archive.root, view, split)
    if settings.verify and samples.shard_names and samples.place(0).is_remote:
        raise ConfigError(
            f"the pictures of {archive.root} stand elsewhere, so nothing can be compared with them; "
            "--set leaks.verify=false lets hashes and cosines decide alone"
        )
    known, vectors = _vectors(archive, features, embeddings, items, tell)
    pictures = read_pictures(items, vectors, tell)
    found = search(archive, samples, known, pictures, settings, tell)
    judge = Judge(samples, found, settings)
    pairs = [pair for picture in _counted(len(pictures), tell) for pair in judge.pairs(picture)]
    return Leaks(
        task=items.task,
        split=items.split,
        view=view,
        view_split=split,
        features=None if known is None else known.name,
        encoder=None if known is None else known.digest,
        rows=_rows(samples, found, pairs),
        num_items=len(items),
        num_pictures=len(pictures),
        num_plain=int(pictures.is_plain_P.sum()),
        num_samples=len(samples),
        num_compared=judge.num_compared,
        settings=settings,
    )


def _vectors(
    archive: Archive,
    features: str | None,
    embeddings: Embeddings | None,
    items: Items,
    tell: Tell,
) -> tuple[FeatureSet | None, Vectors | None]:
    if features is None and embeddings is None:
        return None, None
    if features is None or embeddings is None:
        raise ConfigError(
            "cosines need both features of the archive and the encoder that made them"
        )
    known, encoder = the_set(archive, features), embeddings.encoder
    if known.digest != encoder.digest:
        raise ConfigError(
            f"features {known.name!r} of {archive.root} were made by {known.info['encoder']} "
            f"({known.digest[:12]}), not by {encoder.name} with these weights and this preprocessing "
            f"({encoder.digest[:12]}); vectors of the two can't be compared"
        )
    known.shards()
    found = embeddings.images(items, lambda done, total: tell("embeddings", done, total))
    return known, found.vectors_ND


def _counted(total: int, tell: Tell) -> Iterator[int]:
    for number in range(total):
        yield number
        tell("comparisons", number + 1, total)


def _rows(samples: Samples, found: Search, pairs: Sequence[Pair]) -> pa.Table:
    """The rows of `LEAKS`: each item that shows a picture has the picture's pairs."""
    items = found.pictures.items
    numbers = [pair.number for pair in pairs]
    for pmcid in found.articles:
        numbers += found.articles[pmcid]
    chosen = np.unique(np.array(numbers, np.int64))
    keys = dict(zip(chosen.tolist(), samples.take(chosen).keys, strict=True))
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    shown_by: dict[str, list[int]] = {}
    for index, name in enumerate(items.picture_ids):
        shown_by.setdefault(name, []).append(index)
    for pair in pairs:
        name = items.picture_ids[found.pictures.first_P[pair.picture]]
        facts = asdict(pair)
        for index in shown_by[name]:
            rows.setdefault((index, pair.number), {"tier": pair.tier, **facts})
    for pmcid, indices in articles_of(items).items():
        for number in found.articles.get(pmcid, ()):
            for index in indices:
                rows.setdefault((index, number), {"tier": "article"})
    order = sorted(
        rows, key=lambda at: (items.ids[at[0]], TIERS.index(rows[at]["tier"]), keys[at[1]])
    )
    content = [
        rows[index, number]
        | {"item": items.ids[index], "picture": items.picture_ids[index], "key": keys[number]}
        for index, number in order
    ]
    return pa.Table.from_pylist(content, schema=LEAKS)


def write_leaks(folder: Path, leaks: Leaks) -> None:
    """Write the three files; see above."""
    write_arrow(folder / "leaks.parquet", leaks.rows)
    write_file(folder / "exclude.txt", "".join(f"{key}\n" for key in leaks.keys).encode())
    write_json(folder / "leaks.json", facts(leaks))


def facts(leaks: Leaks) -> dict[str, Any]:
    """What `leaks.json` holds."""
    names = ("task", "split", "view", "view_split", "features", "encoder")
    counts = ("num_items", "num_pictures", "num_plain", "num_samples", "num_compared")
    return {
        **{name: getattr(leaks, name) for name in (*names, *counts)},
        "num_leaked_items": len(leaks.items()),
        "num_leaked_samples": len(leaks.keys),
        "shares": leaks.shares,
        "settings": asdict(leaks.settings),
        "tiers": [each for each in TIERS if each != "embedding" or leaks.features],
    }


_WORDS = {
    "exact": "the same bytes",
    "phash": "near hashes",
    "embedding": "near vectors",
    "article": "named by article",
}


def describe(leaks: Leaks) -> list[str]:
    """The outcome in a few lines."""
    where = f"view {leaks.view}" + (f", split {leaks.view_split}" if leaks.view_split else "")
    shares = leaks.shares
    lines = [
        f"{leaks.task}, {leaks.split}: {len(leaks.items()):,} of {leaks.num_items:,} items "
        f"({shares['any']:.1%}) are in {where} ({len(leaks.keys):,} of {leaks.num_samples:,} samples)"
    ]
    for tier in TIERS:
        if tier == "embedding" and leaks.features is None:
            lines.append("  embedding: not looked for (no features)")
        else:
            lines.append(f"  {tier}: {shares[tier]:.1%} of the items ({_WORDS[tier]})")
    if leaks.num_plain:
        lines.append(
            f"  {leaks.num_plain:,} of {leaks.num_pictures:,} pictures are of one colour: looked for "
            "by bytes and article alone"
        )
    return lines


def with_and_without(result: Result, items: pa.Table, leaked: set[str]) -> dict[str, Score]:
    """The main metric over `all` items, `without` the leaked ones, and over the `leaked` ones alone.

    items    as the run left them beside the result
    leaked   ids, such as `Leaks.items` gives them

    A part without items is left out. Retrieval: only queries are left out; what they are looked for in stays.
    """
    is_leaked = pc.is_in(items["item"], pa.array(sorted(leaked), pa.string()))
    parts = {"all": items, "without": items.filter(pc.invert(is_leaked))}
    parts["leaked"] = items.filter(is_leaked)
    chance = result.score.chance
    return {
        name: _score(part, result.main, chance) for name, part in parts.items() if part.num_rows
    }


def _score(items: pa.Table, metric: str, chance: float | None) -> Score:
    items = items.sort_by("item")
    drawn = draws(items["group"].to_pylist())
    return score_of(interval(measure_of(items, metric, drawn.group_of_N), drawn), chance)
