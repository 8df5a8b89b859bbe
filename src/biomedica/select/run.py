"""A recipe over an archive: judge every sample, reduce what is left, write the view."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from biomedica.archive import Archive
from biomedica.errors import ArchiveError, ConfigError
from biomedica.label.propagate import names as label_names
from biomedica.select.columns import COLUMNS, Kind
from biomedica.select.conditions import Sandbox
from biomedica.select.exclude import read_excluded
from biomedica.select.index import Digests, Index, Shard, Source, Values, Wanted, ordered
from biomedica.select.judge import WORKERS, Facts, Judge
from biomedica.select.recipe import SPLITS, Recipe
from biomedica.select.reduce import (
    Ints,
    Mask,
    capped,
    first_of_groups,
    joined_articles,
    sampled,
    seeded,
    split_of,
    together,
)
from biomedica.select.tables import (
    HASH,
    NUMBER,
    RANK,
    DuplicateTable,
    article_source,
    cluster_source,
    figure_source,
    find_clusters,
    find_labels,
    finished_shards,
    label_source,
    tombstone_mask,
)
from biomedica.select.view import OFFSETS, VIEW, view_folder, write_view

Tell = Callable[[str, int, int], None]
_MADE = {NUMBER: pa.int64(), HASH: pa.uint64(), RANK: pa.int64()}
_CONCEPTS = ("label.global_concepts", "label.local_concepts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step of a recipe refused."""

    name: str
    kind: str
    """`exclude`, `keep`, `drop`, `dedup`, `cap` or `sample`."""
    refused: int
    unknown: int = 0
    """Refused too, because the condition is null for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """What a recipe came to. `live` = `samples` + all that the steps refused."""

    view: str | None
    """Name of the view; None for a dry run."""
    recipe: str
    """Name of the recipe."""
    rows: int
    """Samples of the archive's shards."""
    withdrawn: int
    """Of them, withdrawn ones: never in a view, never counted below."""
    live: int
    steps: tuple[Step, ...]
    """In the order in which they were taken; a sample is counted by the first that refuses it."""
    samples: int
    articles: int
    """Articles of the selected samples (versions of one count once)."""
    splits: dict[str, int]
    """Samples by split; all are `train` where the recipe has no split."""
    licences: dict[str, int]
    """Samples by licence code, `null` for none stated."""
    licence_groups: dict[str, int]
    concepts: dict[str, int]
    """Samples by concept, global and local; a sample counts for each of its own. Empty without labels."""
    leaks: dict[str, int]
    """Where duplicates are known: `groups` of near-duplicates that lie in several splits, `samples` in
    them, and with `split.together` the `largest_set` of articles that duplicates join."""
    notes: tuple[str, ...]
    """What a user should know: an empty view, labels that were left out."""


def select(
    archive: Archive,
    recipe: Recipe,
    name: str,
    *,
    dry_run: bool = False,
    tell: Tell = lambda stage, done, total: None,
) -> Selected:
    """Make the view `name`, or only count (`dry_run`). The same archive and recipe give the same bytes.

    Raises `ConfigError` for a recipe that can't be meant, `ArchiveError` where labels, assignments or
    duplicates that it names are out of date. Memory grows with the archive, by some tens of bytes a sample.
    """
    archive.info()
    folder = view_folder(archive, name)
    with closing(Sandbox()) as sandbox:
        chosen = _Selection(archive, recipe, sandbox, tell)
        chosen.refuse()
        chosen.split()
        selected = chosen.counted(None if dry_run else name)
        if not dry_run:
            rests_on = chosen.rests_on()
            write_view(folder, recipe.text, chosen.batches(), asdict(selected) | rests_on)
    return selected


class _Selection:
    """A recipe at work on an archive."""

    def __init__(self, archive: Archive, recipe: Recipe, sandbox: Sandbox, tell: Tell) -> None:
        self._archive, self._recipe, self._tell = archive, recipe, tell
        self._conditions = [
            sandbox.condition(rule.where, _whose(recipe, f"rule {rule.name!r}"))
            for rule in recipe.rules
        ]
        self._caps = [
            sandbox.expression(cap.by, _whose(recipe, f"cap {cap.name!r}")) for cap in recipe.caps
        ]
        self._excluded = read_excluded(recipe.exclude)
        self._notes: list[str] = []
        self._shards: Sequence[Shard] = finished_shards(archive)
        self._index = Index(archive, self._shards, tell)
        self._digests = Digests(self._index.folder)
        self._rest: dict[str, Any] = dict.fromkeys(("labels", "clusters", "duplicates"))
        self._kept: dict[str, Values] = {}
        self._sources: dict[str, Source] = {}
        self._open_tables()
        layout = self._index.layout
        self._facts = Facts(
            shards=self._shards,
            starts=layout.starts,
            batches=layout.batches(),
            kept=self._kept,
            sources=self._sources,
        )
        self._judge = Judge(sandbox, self._facts, tell)
        self._rows: Ints = np.empty(0, np.int64)
        self._splits: NDArray[np.int8] = np.empty(0, np.int8)
        self._steps: list[Step] = []
        self._leaks: dict[str, int] = {}
        self._num_live = self._num_articles = 0

    def _open_tables(self) -> None:
        """Find and open what the recipe names, and what the counts need."""
        archive, recipe = self._archive, self._recipe
        used = {c for each in (*self._conditions, *self._caps) for c in each.columns}
        tables = {COLUMNS[name].table for name in used}
        figures = {NUMBER, "figure.licence_group", "figure.license_code"}
        if recipe.caps or recipe.sample:
            figures.add(HASH)
        self._sources["figure"] = figure_source(archive)
        self._open("figure", used | figures)
        if "article" in tables:
            self._sources["article"] = article_source(archive)
            self._open("article", used)
        self._open_labels(used, is_named="label" in tables or recipe.labels is not None)
        if "cluster" in tables or recipe.clusters is not None:
            name = find_clusters(archive, recipe.clusters)
            self._sources["cluster"], digest = cluster_source(archive, name)
            self._rest["clusters"] = {"name": name, "digest": digest}
            self._open("cluster", used)
        is_together = recipe.split is not None and recipe.split.together
        if recipe.duplicates or recipe.dedup or is_together or "duplicate" in tables:
            table = DuplicateTable(archive, self._digests)
            self._sources["duplicate"] = table.source()
            self._rest["duplicates"] = {"digest": table.digest}
            self._open("duplicate", used | {"duplicate.group", RANK})

    def _open_labels(self, used: set[str], is_named: bool) -> None:
        runs = label_names(self._archive)
        if not is_named and len(runs) != 1:
            return
        try:
            run = find_labels(self._archive, self._recipe.labels, self._digests)
            if run is None:
                raise ConfigError(
                    f"recipe {self._recipe.name} names labels, and {self._archive.root} has none; "
                    f"`biomedica label {self._archive.root}` collects votes, `biomedica labels make` labels"
                )
            source = label_source(self._archive, run)
            self._open("label", used | set(_CONCEPTS), source)
        except ArchiveError as error:
            if is_named:
                raise
            self._notes.append(f"labels were left out: {error}")
            return
        self._sources["label"] = source
        self._rest["labels"] = {"name": run.name, "digest": run.digest}

    def _open(self, table: str, names: set[str], source: Source | None = None) -> None:
        wanted = [
            _wanted(name)
            for name in sorted(names)
            if name.startswith(f"{table}.")
            and (name in _MADE or COLUMNS[name].kind is not Kind.WIDE)
        ]
        self._kept |= self._index.open(wanted, source or self._sources[table])

    def _keys(self) -> Values:
        self._open("figure", {"figure.key"})
        return self._kept["figure.key"]

    def _numbers(self, name: str, null: int | None = None) -> NDArray[Any]:
        return self._kept[name].numbers(0, self._facts.num_rows, null)

    def _taken(self, name: str, null: int | None = None) -> NDArray[Any]:
        """(R,) of a column of numbers for the selected rows."""

        def of_batch(part: tuple[tuple[int, int], Ints]) -> NDArray[Any]:
            (start, end), rows = part
            return np.asarray(self._kept[name].numbers(start, end, null)[rows])

        found = list(ordered(of_batch, self._of_batches(), WORKERS))
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def _live(self) -> Mask:
        if not self._archive.tombstones().num_rows:
            return np.ones(self._facts.num_rows, bool)
        keys = self._keys()
        return tombstone_mask(self._archive, self._shards, self._facts.starts, keys.arrow)

    def refuse(self) -> None:
        """Take the recipe's steps but the split."""
        recipe = self._recipe
        live = self._live()
        self._num_live = int(np.count_nonzero(live))
        if recipe.exclude:
            live = self._without_excluded(live)
        judged = self._judge.rules(recipe.rules, self._conditions, live)
        for rule, (refused, unknown) in zip(recipe.rules, judged.refused, strict=True):
            kind = "keep" if rule.keeps else "drop"
            self._steps.append(Step(name=rule.name, kind=kind, refused=refused, unknown=unknown))
        self._rows = np.flatnonzero(judged.alive)
        if recipe.dedup:
            groups = self._taken("duplicate.group", -1)
            ranks = self._taken(RANK, -1)
            self._keep("dedup", "dedup", first_of_groups(groups, ranks))
        for cap, by in zip(recipe.caps, self._caps, strict=True):
            codes, values = self._judge.values(by, self._rows)
            self._keep(
                cap.name, "cap", capped(codes, values, self._taken(HASH), cap.seed, cap.most)
            )
        if recipe.sample:
            hashes = seeded(self._taken(HASH), recipe.sample.seed)
            self._keep("sample", "sample", sampled(hashes, recipe.sample))
        if not len(self._rows):
            self._notes.append("the view is empty: no sample passed every step")

    def _without_excluded(self, live: Mask) -> Mask:
        keys = self._keys()
        kept = live.copy()
        for start, end in self._facts.batches:
            kept[start:end] &= ~self._excluded.among(keys.arrow(start, end))
        refused = int(np.count_nonzero(live ^ kept))
        self._steps.append(Step(name="exclude", kind="exclude", refused=refused))
        strangers = len(self._excluded.keys) - refused
        if strangers > 0:
            self._notes.append(f"{strangers:,} of the keys to exclude name no live sample")
        return kept

    def _hashes(self, seed: int) -> NDArray[np.uint64]:
        return seeded(self._taken(HASH), seed)

    def _keep(self, name: str, kind: str, keep: Mask) -> None:
        before = len(self._rows)
        self._rows = self._rows[keep]
        self._steps.append(Step(name=name, kind=kind, refused=before - len(self._rows)))

    def split(self) -> None:
        """Give every selected sample its split, and count near-duplicates across splits."""
        recipe = self._recipe
        self._splits = np.zeros(len(self._rows), np.int8)
        own = self._taken(NUMBER)
        self._num_articles = _num_different(own)
        if recipe.split is None:
            return
        groups = self._numbers("duplicate.group", -1) if "duplicate" in self._sources else None
        if recipe.split.together and groups is not None:
            articles = self._numbers(NUMBER)
            in_group = np.flatnonzero(groups >= 0)
            joined = joined_articles(groups[in_group], articles[in_group])
            own = together(own, joined)
            _, sizes = np.unique(joined[1], return_counts=True)
            self._leaks["largest_set"] = int(sizes.max(initial=0))
        self._splits = split_of(own, recipe.split)
        if groups is not None:
            self._leaks |= _leaks(groups[self._rows], self._splits)

    def counted(self, view: str | None) -> Selected:
        """What came of it."""
        num_rows = self._facts.num_rows
        splits = np.bincount(self._splits, minlength=len(SPLITS))
        concepts: dict[str, int] = {}
        for name in _CONCEPTS if "label" in self._sources else ():
            for values, count in self._value_counts(name):
                for value in values or ():
                    concepts[value] = concepts.get(value, 0) + count
        return Selected(
            view=view,
            recipe=self._recipe.name,
            rows=num_rows,
            withdrawn=num_rows - self._num_live,
            live=self._num_live,
            steps=tuple(self._steps),
            samples=len(self._rows),
            articles=self._num_articles,
            splits={
                name: int(count)
                for name, count in zip(SPLITS, splits, strict=True)
                if count or self._has_share(name)
            },
            licences=self._counts_of("figure.license_code"),
            licence_groups=self._counts_of("figure.licence_group"),
            concepts=dict(sorted(concepts.items())),
            leaks=self._leaks,
            notes=tuple(self._notes),
        )

    def _has_share(self, name: str) -> bool:
        split = self._recipe.split
        return split is not None and bool(getattr(split, name) > 0)

    def _value_counts(self, name: str) -> list[tuple[Any, int]]:
        column = self._kept[name]
        counts = np.zeros(len(column.dictionary) + 1, np.int64)
        for (start, end), rows in self._of_batches():
            counts += np.bincount(column.codes(start, end)[rows], minlength=len(counts))
        values = [None, *column.dictionary.to_pylist()]
        return [(value, int(n)) for value, n in zip(values, counts, strict=True) if n]

    def _counts_of(self, name: str) -> dict[str, int]:
        return dict(sorted(("null" if v is None else v, n) for v, n in self._value_counts(name)))

    def _of_batches(self) -> Iterator[tuple[tuple[int, int], Ints]]:
        """Each batch of the columns, with the selected rows in it, from its start."""
        for start, end in self._facts.batches:
            first, last = np.searchsorted(self._rows, [start, end]).tolist()
            yield (start, end), self._rows[first:last] - start

    def rests_on(self) -> dict[str, Any]:
        """What the view was made from, by digest: the rest of `counts.json`."""
        return {
            "figures": {shard.name: shard.figures for shard in self._shards},
            "recipe_name": self._recipe.name,
            "recipe": hashlib.sha256(self._recipe.text.encode()).hexdigest(),
            "exclude": list(self._excluded.files),
            **self._rest,
        }

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows of `view.arrow`."""
        names = ["figure.key", *(f"figure.{name}" for name in OFFSETS)]
        self._open("figure", set(names))
        shards = pa.array([shard.name for shard in self._shards], pa.string())
        splits = pa.array(SPLITS, pa.string())
        starts = self._facts.starts

        def batch(part: tuple[tuple[int, int], Ints]) -> pa.RecordBatch:
            (start, end), rows = part
            indices = pa.array(rows.astype(np.int32))
            taken = [_taken(self._kept[name].arrow(start, end), indices) for name in names]
            places = np.searchsorted(starts, rows + start, side="right").astype(np.int32) - 1
            _check_order(self._shards, places, taken[1].to_numpy())
            first = int(np.searchsorted(self._rows, start))
            codes = self._splits[first : first + len(rows)]
            shard = pa.DictionaryArray.from_arrays(pa.array(places), shards)
            split = pa.DictionaryArray.from_arrays(pa.array(codes), splits)
            return pa.record_batch([taken[0], shard, *taken[1:], split], schema=VIEW)

        parts = [part for part in self._of_batches() if len(part[1])]
        for number, made in enumerate(ordered(batch, parts, WORKERS)):
            yield made
            self._tell("write", number + 1, len(parts))


def _whose(recipe: Recipe, what: str) -> str:
    return f"recipe {recipe.name}, {what}"


def _wanted(name: str) -> Wanted:
    if name in _MADE:
        return Wanted(name=name, type=_MADE[name], kind=Kind.PLAIN)
    return Wanted(name=name, type=COLUMNS[name].type, kind=COLUMNS[name].kind)


def _taken(column: Any, indices: pa.Array) -> pa.Array:
    found = column if len(indices) == len(column) else column.take(indices)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _check_order(shards: Sequence[Shard], places: NDArray[np.int32], offsets: Ints) -> None:
    """Raise `ArchiveError` where rows of a figures file are not in the order of its shard."""
    back = np.flatnonzero((np.diff(offsets) <= 0) & (np.diff(places) == 0))
    if len(back):
        raise ArchiveError(
            f"the figures file of {shards[int(places[back[0]])].name} is not in the order of its shard; "
            "`biomedica doctor` says more"
        )


def _num_different(articles: Ints) -> int:
    """How many articles; neighbours are mostly of one."""
    if not len(articles):
        return 0
    found = np.sort(
        articles[np.r_[True, articles[1:] != articles[:-1]]]
    )  # np.unique hashes: slower
    return 1 + int(np.count_nonzero(found[1:] != found[:-1]))


def _leaks(groups: Ints, splits: NDArray[np.int8]) -> dict[str, int]:
    """Groups of near-duplicates that lie in several splits, and the samples in them."""
    rows = np.flatnonzero(groups >= 0)
    known, places = np.unique(groups[rows], return_inverse=True)
    lowest = np.full(len(known), len(SPLITS), np.int8)
    highest = np.full(len(known), -1, np.int8)
    np.minimum.at(lowest, places, splits[rows])
    np.maximum.at(highest, places, splits[rows])
    apart = lowest != highest
    return {
        "groups": int(np.count_nonzero(apart)),
        "samples": int(np.count_nonzero(apart[places])),
    }


def summary(selected: Selected) -> str:
    """What a recipe came to, for people."""
    lines = [f"{selected.live:,} samples" + _of_withdrawn(selected)]
    width = max([len(f"{step.kind} {step.name}") for step in selected.steps], default=0)
    for step in selected.steps:
        said = f"{step.kind} {step.name}"
        unknown = f" ({step.unknown:,} of them unknown)" if step.unknown else ""
        lines.append(f"  {said:<{width}}  -{step.refused + step.unknown:,}{unknown}")
    splits = ", ".join(f"{name} {count:,}" for name, count in selected.splits.items())
    where = f"view {selected.view}" if selected.view else "would be selected (dry run)"
    lines.append(
        f"{selected.samples:,} samples of {selected.articles:,} articles: {where}"
        + (f" ({splits})" if splits else "")
    )
    licences = ", ".join(f"{name} {count:,}" for name, count in selected.licences.items())
    if licences:
        lines.append(f"licences: {licences}")
    if selected.leaks.get("groups"):
        lines.append(
            f"leak: {selected.leaks['groups']:,} groups of near-duplicates lie in several splits "
            f"({selected.leaks['samples']:,} samples); split.together = true keeps them in one"
        )
    lines += [f"note: {note}" for note in selected.notes]
    return "\n".join(lines)


def _of_withdrawn(selected: Selected) -> str:
    return f" ({selected.withdrawn:,} more are withdrawn)" if selected.withdrawn else ""
