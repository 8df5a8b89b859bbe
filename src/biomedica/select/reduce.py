"""Steps that look at more than one sample: dedup, caps, sample, split. Pure functions over arrays.

Nothing is drawn: an order is a hash, so that the same sample has the same place in every run, on every
machine and in every archive. docs/select.md states the hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomedica.duplicates import connected
from biomedica.select.recipe import SPLITS, Sampling, Splitting

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Mask = NDArray[np.bool_]
_BLOCK = 1 << 15
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def mix(values: Hashes) -> Hashes:
    """SplitMix64 of each number: the generator's output for it as state.

    >>> hex(mix(np.array([0], np.uint64))[0])
    '0xe220a8397b1dcdaf'
    """
    found = values + _GAMMA
    found = (found ^ (found >> np.uint64(30))) * _FIRST
    found = (found ^ (found >> np.uint64(27))) * _SECOND
    return np.asarray(found ^ (found >> np.uint64(31)))


def key_numbers(keys: Iterable[str]) -> Hashes:
    """The first 8 bytes, big-endian, of the SHA-256 of each key."""
    joined = b"".join(hashlib.sha256(key.encode()).digest()[:8] for key in keys)
    return np.frombuffer(joined, ">u8").astype(np.uint64)


def seeded(numbers: Hashes, seed: int) -> Hashes:
    """`mix(number XOR mix(seed))`: the hash of each number with a seed."""
    start = mix(np.array([seed], np.uint64))
    found = np.empty(len(numbers), np.uint64)
    for place in range(0, len(numbers), _BLOCK):  # small enough for the processor's cache
        part = slice(place, place + _BLOCK)
        found[part] = mix(numbers[part] ^ start)
    return found


def shares(hashes: Hashes) -> NDArray[np.float64]:
    """Each hash as a number in [0, 1): its upper 53 bits over 2^53."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53


def split_of(articles: Ints, split: Splitting) -> NDArray[np.int8]:
    """(N,) places in `SPLITS` of articles by their PMC numbers.

    The share of an article's hash is in test's part, which comes first, then validation's, else train's:
    test stays as it is when validation grows.
    """
    start = mix(np.array([split.seed], np.uint64))
    places = np.full(len(articles), SPLITS.index("train"), np.int8)
    for at in range(0, len(articles), _BLOCK):
        part = places[at : at + _BLOCK]
        found = shares(mix(articles[at : at + _BLOCK].astype(np.uint64) ^ start))
        part[found < split.test + split.validation] = SPLITS.index("validation")
        part[found < split.test] = SPLITS.index("test")
    if split.train <= 0:  # sums of shares may miss 1 by a rounding
        last = "validation" if split.validation > 0 else "test"
        places[places == SPLITS.index("train")] = SPLITS.index(last)
    return places


def joined_articles(groups: Ints, articles: Ints) -> tuple[Ints, Ints]:
    """(articles, representatives): of articles that duplicates join, the lowest PMC number of each
    connected set. Articles that stand alone are left out.

    groups, articles   (M,) of every row of the table of duplicates
    """
    known, places = np.unique(articles, return_inverse=True)
    order = np.lexsort((places, groups))
    left, right = places[order[:-1]], places[order[1:]]
    same = (groups[order[:-1]] == groups[order[1:]]) & (left != right)
    sets = connected(len(known), left[same], right[same])
    members = np.flatnonzero(sets >= 0)
    lowest = np.full(int(sets.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(lowest, sets[members], known[members])
    return known[members], lowest[sets[members]]


def together(articles: Ints, joined: tuple[Ints, Ints]) -> Ints:
    """(N,) the article whose hash decides for each: its set's representative, or itself."""
    known, representatives = joined
    if not len(known):
        return articles
    places = np.minimum(np.searchsorted(known, articles), len(known) - 1)
    return np.where(known[places] == articles, representatives[places], articles)


def first_of_groups(groups: Ints, ranks: Ints) -> Mask:
    """(N,) True for samples to keep: those of no group (-1), and the lowest rank of each group."""
    keep = groups < 0
    rows = np.flatnonzero(~keep)
    order = rows[np.lexsort((ranks[rows], groups[rows]))]
    ordered = groups[order]
    keep[order[np.r_[True, ordered[1:] != ordered[:-1]]] if len(order) else order] = True
    return np.asarray(keep)


def sampled(hashes: Hashes, sample: Sampling) -> Mask:
    """(N,) True for samples to keep. hashes   seeded; of two that are equal the first row goes first"""
    if sample.fraction is not None:
        return np.asarray(shares(hashes) < sample.fraction)
    keep = np.zeros(len(hashes), bool)
    keep[lowest(hashes, sample.number or 0)] = True
    return keep


def lowest(hashes: Hashes, count: int) -> NDArray[np.intp]:
    """Rows of the `count` lowest hashes; of equal ones the first rows."""
    if count >= len(hashes):
        return np.arange(len(hashes))
    if count <= 0:
        return np.empty(0, np.intp)
    # hashes are even: those below a little more than the wanted share hold the lowest
    share = (count + 8 * count**0.5 + 8) / len(hashes)
    near = np.arange(len(hashes))
    if share < 0.9:
        few = np.flatnonzero(hashes < np.uint64(int(share * 2**64)))
        near = few if len(few) >= count else near
    found = hashes[near]
    limit = np.partition(found, count - 1)[count - 1]
    below, at = near[found < limit], near[found == limit]
    return np.concatenate([below, at[: count - len(below)]])


def capped(
    codes: NDArray[np.int32],
    values: list[tuple[str, ...]],
    numbers: Hashes,
    seed: int,
    most: int,
) -> Mask:
    """(N,) True for samples to keep, so that at most `most` carry each value.

    A sample is decided by its rarest value (of equally rare ones the first by name) and counts for all of
    its values. Values take their turn from the rarest on: in its turn a value takes, in the order of their
    hashes, samples whose rarest it is, until `most` of those that were taken so far carry it. So only
    samples that were taken for a rarer value can put a value above `most`. A sample without a value stays.

    codes     (N,) places in `values`
    values    of each code, the values that such a sample carries
    numbers   (N,) of the keys; seeded, they are the order
    """
    sizes = np.bincount(codes, minlength=len(values))
    carriers: dict[str, list[int]] = {}
    for code, carried in enumerate(values):
        if sizes[code]:
            for value in sorted(set(carried)):
                carriers.setdefault(value, []).append(code)
    totals = {value: int(sizes[of].sum()) for value, of in carriers.items()}
    turns = sorted(totals, key=lambda value: (totals[value], value))
    place = {value: number for number, value in enumerate(turns)}
    rarest = np.array(
        [min((place[v] for v in carried if v in place), default=-1) for carried in values], np.int64
    )
    kind = np.int16 if len(turns) < 2**15 else np.int64  # the small one is sorted by radix
    of_row = rarest.astype(kind)[codes] if len(values) else np.empty(0, kind)
    num_of_turn = np.zeros(len(turns) + 1, np.int64)  # the last: of samples without a value
    np.add.at(num_of_turn, rarest, sizes)
    rows_of = _rows_of(of_row, num_of_turn)
    is_whole = np.zeros(len(turns) + 1, bool)
    is_whole[-1] = True
    chosen = []
    taken = np.zeros(len(values), np.int64)
    for number, value in enumerate(turns):
        room = most - int(taken[carriers[value]].sum())
        if room >= num_of_turn[number]:
            is_whole[number] = True
            taken += np.where(rarest == number, sizes, 0)
            continue
        rows = rows_of(number)
        rows = rows[lowest(seeded(numbers[rows], seed), room)]
        chosen.append(rows)
        taken += np.bincount(codes[rows], minlength=len(values))
    keep = is_whole[of_row]
    for rows in chosen:
        keep[rows] = True
    return np.asarray(keep)


def _rows_of(of_row: NDArray[Any], num_of_turn: Ints) -> Callable[[int], NDArray[np.intp]]:
    """Rows of a value, in order; many values are sorted once, few looked through each time."""
    if len(num_of_turn) <= 16:
        return lambda number: np.flatnonzero(of_row == number)
    order = np.argsort(of_row, kind="stable")
    starts = np.cumsum(np.r_[num_of_turn[-1], num_of_turn[:-1]])
    return lambda number: order[starts[number] : starts[number + 1]]
