"""Values of a recipe's expressions for every sample, each got in the cheapest of three ways.

An expression over few-valued columns is asked once for each combination of their values; one over numbers
and dates is asked of the kept columns, a batch at a time; one that names a text is asked shard by shard.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from biomedica.select.columns import COLUMNS, Kind
from biomedica.select.conditions import Expression, Sandbox, evaluate, verdict_sql
from biomedica.select.index import Shard, Source, Values, decoded, ordered
from biomedica.select.recipe import Rule
from biomedica.select.reduce import Ints, Mask

WORKERS = 2
_MOST_COMBINATIONS = 1 << 17
_SEPARATOR = "\x1f"
_NO_CODES = np.empty(0, np.int32)
Verdicts = NDArray[np.uint8]
"""0 false, 1 true, 2 null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the rules came to."""

    alive: Mask
    """(N,) True for samples that no rule refuses."""
    refused: tuple[tuple[int, int], ...]
    """Of each rule: samples that it refuses, and samples for which its condition is null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All columns that a recipe names, row by row."""

    shards: Sequence[Shard]
    starts: NDArray[np.int64]
    """First row of each shard, and the number of rows."""
    batches: Sequence[tuple[int, int]]
    kept: Mapping[str, Values]
    sources: Mapping[str, Source]
    """By table, for what is not kept."""

    @property
    def num_rows(self) -> int:
        return int(self.starts[-1])


class Judge:
    """Asks expressions of all samples."""

    def __init__(
        self, sandbox: Sandbox, facts: Facts, tell: Callable[[str, int, int], None]
    ) -> None:
        self._sandbox = sandbox
        self._facts = facts
        self._tell = tell
        self._own = threading.local()

    def _cursor(self) -> Any:
        if not hasattr(self._own, "cursor"):
            self._own.cursor = self._sandbox.cursor()
        return self._own.cursor

    def rules(self, rules: Sequence[Rule], conditions: Sequence[Expression], live: Mask) -> Judged:
        """Every sample against every rule, in order; the first rule that refuses a sample counts it.

        live   (N,) False for samples that do not count at all
        """
        tables = {
            i: self._table(c, verdict_sql(c)) for i, c in enumerate(conditions) if self._is_few(c)
        }
        wide = {i: c for i, c in enumerate(conditions) if _is_wide(c)}
        read = self._by_shard({f"r{i}": c for i, c in wide.items()}) if wide else {}
        rows = {f"r{i}": c for i, c in enumerate(conditions) if i not in tables and i not in wide}

        def of_batch(span: tuple[int, int]) -> tuple[Mask, Ints]:
            start, end = span
            given = self._numbers(rows, start, end)
            given |= {name: verdicts[start:end] for name, verdicts in read.items()}
            for i, (codes, table) in tables.items():
                given[f"r{i}"] = table[codes(start, end)]
            return _first_refusals(rules, given, live[start:end])

        alive = np.empty(self._facts.num_rows, bool)
        counts = np.zeros((len(rules), 2), np.int64)
        batches = self._facts.batches
        for number, (mask, found) in enumerate(ordered(of_batch, batches, WORKERS)):
            start, end = batches[number]
            alive[start:end] = mask
            counts += found
            self._tell("judge", number + 1, len(batches))
        return Judged(alive=alive, refused=tuple((int(a), int(b)) for a, b in counts))

    def values(self, by: Expression, rows: Ints) -> tuple[NDArray[np.int32], list[tuple[str, ...]]]:
        """(codes (R,), values of each code) of an expression for some rows; a list's values each."""
        is_list = by.kind.endswith("[]")
        sql = f"CAST({by.sql} AS VARCHAR)"
        if is_list:
            sql = f"array_to_string(CAST({by.sql} AS VARCHAR[]), chr(31))"
        known: dict[str | None, int] = {}
        if self._is_few(by):
            found = self._codes_of_few(by, sql, rows, known)
        elif _is_wide(by):
            parts = self._each_shard({"by": sql}, {"by": by}, lambda t: _numbered(t["by"], known))
            found = np.concatenate([_NO_CODES, *parts])[rows]
        else:
            answers = (self._asked({"by": sql}, {"by": by}, *span) for span in self._facts.batches)
            codes = [_numbered(answer["by"], known) for answer in answers]
            found = np.concatenate([_NO_CODES, *codes])[rows]
        of_code = [
            tuple(text.split(_SEPARATOR) if is_list else [text]) if text else () for text in known
        ]
        return found, of_code

    def _codes_of_few(
        self, by: Expression, sql: str, rows: Ints, known: dict[str | None, int]
    ) -> NDArray[np.int32]:
        codes, texts = self._table(by, sql)
        lookup = _numbered(pa.array(texts.tolist(), pa.string()), known)

        def of_batch(span: tuple[int, int]) -> NDArray[np.int32]:
            first, last = np.searchsorted(rows, span).tolist()
            return np.asarray(lookup[codes(*span)[rows[first:last] - span[0]]])

        parts = ordered(of_batch, self._facts.batches, WORKERS)
        return np.concatenate([_NO_CODES, *parts])

    def _is_few(self, expression: Expression) -> bool:
        if any(COLUMNS[name].kind is not Kind.FEW for name in expression.columns):
            return False
        sizes = [len(self._facts.kept[name].dictionary) + 1 for name in expression.columns]
        return math.prod(sizes) <= _MOST_COMBINATIONS

    def _table(self, asked: Expression, sql: str) -> tuple[Callable[[int, int], Any], Any]:
        """(place of each row's combination, answer for each combination) of an expression."""
        kept = [self._facts.kept[name] for name in asked.columns]
        sizes = tuple(len(each.dictionary) + 1 for each in kept)
        grid = np.indices(sizes).reshape(len(sizes), -1) if sizes else np.zeros((0, 1), int)
        columns = {
            each.name: decoded(codes, each.dictionary)
            for each, codes in zip(kept, grid, strict=True)
        }
        answer = evaluate(self._cursor(), columns, math.prod(sizes), {"x": sql}, {"x": asked.what})[
            "x"
        ]
        table = answer.to_numpy()

        def places(start: int, end: int) -> Any:
            if not kept:
                return np.zeros(end - start, np.int8)
            found = kept[0].codes(start, end)
            for each, size in zip(kept[1:], sizes[1:], strict=True):
                found = found.astype(np.int32) * size + each.codes(start, end)
            return found

        return places, table

    def _numbers(self, rows: dict[str, Expression], start: int, end: int) -> dict[str, Verdicts]:
        if not rows:
            return {}
        answer = self._asked({n: verdict_sql(c) for n, c in rows.items()}, rows, start, end)
        return {name: answer[name].to_numpy() for name in rows}

    def _asked(
        self,
        sql: Mapping[str, str],
        whose: Mapping[str, Expression],
        start: int,
        end: int,
        read: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        names = {name for each in whose.values() for name in each.columns}
        read = read or {}
        columns = {
            name: read[name] if name in read else self._facts.kept[name].arrow(start, end)
            for name in sorted(names)
        }
        what = {name: each.what for name, each in whose.items()}
        return evaluate(self._cursor(), columns, end - start, sql, what)

    def _by_shard(self, wide: dict[str, Expression]) -> dict[str, Verdicts]:
        """Verdicts of conditions that name texts."""
        sql = {name: verdict_sql(condition) for name, condition in wide.items()}
        parts = list(
            self._each_shard(sql, wide, lambda t: {name: t[name].to_numpy() for name in wide})
        )
        return {name: np.concatenate([part[name] for part in parts]) for name in wide}

    def _each_shard(
        self,
        sql: Mapping[str, str],
        whose: Mapping[str, Expression],
        taken: Callable[[pa.Table], Any],
    ) -> Any:
        facts = self._facts
        names = {name for each in whose.values() for name in each.columns}
        texts = sorted(name for name in names if COLUMNS[name].kind is Kind.WIDE)

        def of_shard(at: int) -> pa.Table:
            read: dict[str, Any] = {}
            for table in sorted({COLUMNS[name].table for name in texts}):
                own = [name for name in texts if COLUMNS[name].table == table]
                read |= facts.sources[table].read(facts.shards[at], own)
            start, end = int(facts.starts[at]), int(facts.starts[at + 1])
            return self._asked(sql, whose, start, end, read)

        count = len(facts.shards)
        for number, table in enumerate(ordered(of_shard, range(count), WORKERS)):
            yield taken(table)
            self._tell("read", number + 1, count)


def _is_wide(expression: Expression) -> bool:
    return any(COLUMNS[name].kind is Kind.WIDE for name in expression.columns)


def _first_refusals(
    rules: Sequence[Rule], given: Mapping[str, Verdicts], live: Mask
) -> tuple[Mask, Ints]:
    alive = live.copy()
    counts = np.zeros((len(rules), 2), np.int64)
    for i, rule in enumerate(rules):
        verdicts = given[f"r{i}"]
        refused = verdicts != (1 if rule.keeps else 0)
        refused &= alive
        total = int(np.count_nonzero(refused))
        if total:
            unknown = int(np.count_nonzero(verdicts[refused] == 2))
            counts[i] = total - unknown, unknown
            alive ^= refused
    return alive, counts


def _numbered(texts: Any, known: dict[str | None, int]) -> NDArray[np.int32]:
    """(N,) number of each text in `known`, which new ones are added to."""
    encoded = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    encoded = encoded.dictionary_encode("encode")
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
        encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    own = encoded.dictionary.to_pylist()
    lookup = np.array([known.setdefault(text, len(known)) for text in own], np.int32)
    return np.asarray(lookup[encoded.indices.to_numpy()])
