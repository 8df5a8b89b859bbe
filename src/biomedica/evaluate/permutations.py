"""Whether two models differ on the same items: tests in which their answers change places.

If two models are equally good, their answers to a whole group of items may change places without changing
anything but the sign of the difference. By metric:

proportions of single items   McNemar's test, mid-p (Fagerland, Lydersen & Laake 2013, "The McNemar test for
                              binary matched-pairs data", BMC Medical Research Methodology 13): its error rate
                              stays below the stated one, which the exact test's does by more than it need
other functions of sums       groups change places, and the metric is computed anew
rankings (ROC curve, mAP)     scores of two models do not mix, so the signs of the groups' influence on the
                              difference (jackknife pseudo-values; many groups go in blocks) are flipped. The
                              sum orders flips as a studentised statistic does, so the test holds under equal
                              areas of unequal curves (Chung & Romano 2013, Annals of Statistics 41)

All 2^G flips of G groups are tried where they are few enough; else random ones, and p counts the one that
was seen, so that it is never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomedica.evaluate.intervals import CELLS, Draws, full_value, jackknife
from biomedica.evaluate.measures import Measure, Reals, Sums, difference

PERMUTATIONS = 10_000
MOST_INFLUENCES = 1000
"""Blocks of groups whose influence on a ranking is computed."""
CLOSE = 1e-9
"""Statistics nearer than this are the same."""
Statistic = Callable[[NDArray[np.float32]], Reals]
"""From signs_PG (1: as they are, -1: changed places) to the difference in each permutation, (P,)."""


@dataclass(frozen=True, slots=True, eq=False)
class Test:
    """What permutations say of a difference."""

    __test__ = False  # or else pytest takes it for a test

    p: float
    """Two-sided; NaN with one group, or where the metric is not defined."""
    words: str
    """How it was found."""
    seen: float
    """The statistic: the difference, but of rankings the mean of the pseudo-values."""
    null_P: Reals
    """The statistic in random permutations; empty where p is NaN."""


def paired_test(a: Measure, b: Measure, drawn: Draws, permutations: int = PERMUTATIONS) -> Test:
    """Whether two models differ; measures of the same groups, of one metric."""
    seen = full_value(difference(a, b), drawn.num_groups)
    if np.isnan(seen) or drawn.num_groups < 2:
        return Test(float("nan"), "one group, or a metric that is not defined", seen, np.empty(0))
    if not (isinstance(a, Sums) and isinstance(b, Sums)):
        return _influence_test(a, b, seen, drawn, permutations)
    moved_GK = (a.sums_GK - b.sums_GK) / 2
    moved_GK = moved_GK[np.any(moved_GK != 0, axis=1)]
    middle_K = (a.sums_GK + b.sums_GK).sum(axis=0) / 2
    if drawn.num_groups == len(drawn.group_of_N) and a.is_share and b.is_share:
        return _mcnemar_test(moved_GK[:, 0], middle_K[1], seen, permutations, drawn.seed)
    finish, narrow_GK = a.finish, moved_GK.astype(np.float32)

    def statistic(signs_PG: NDArray[np.float32]) -> Reals:
        shift_PK = (signs_PG @ narrow_GK).astype(np.float64)
        return finish(middle_K + shift_PK) - finish(middle_K - shift_PK)

    return _flip_test(statistic, len(moved_GK), seen, "groups", permutations, drawn.seed)


def mcnemar(only_a: int, only_b: int, *, mid: bool = False) -> float:
    """Two-sided p of McNemar's exact test, from how many items each model alone has right.

    mid   half of what was seen counts: the mid-p

    >>> round(mcnemar(1, 9), 4), round(mcnemar(1, 9, mid=True), 4)
    (0.0215, 0.0117)
    """
    from scipy.stats import binom  # half a second of import, for comparisons alone

    num, fewer = only_a + only_b, min(only_a, only_b)
    p = 2 * float(binom.cdf(fewer, num, 0.5)) - mid * float(binom.pmf(fewer, num, 0.5))
    return min(1.0, p)


def _mcnemar_test(
    moved_G: Reals, num_items: float, seen: float, permutations: int, seed: int
) -> Test:
    """moved_G   1/2 where the first model alone is right, -1/2 where the second is"""
    num, only_a = len(moved_G), int(np.count_nonzero(moved_G > 0))
    wins_P = np.random.default_rng(seed).binomial(num, 0.5, size=permutations)
    p = mcnemar(only_a, num - only_a, mid=True)
    return Test(p, "McNemar, mid-p", seen, (2 * wins_P - num).astype(np.float64) / num_items)


def _influence_test(a: Measure, b: Measure, seen: float, drawn: Draws, permutations: int) -> Test:
    """For metrics that are no functions of sums."""
    left_out_B = jackknife({"": difference(a, b)}, drawn, MOST_INFLUENCES)[""]
    num = len(left_out_B)
    left_out_B = np.where(np.isnan(left_out_B), seen, left_out_B)  # without it nothing is defined
    pseudo_B = (num * seen - (num - 1) * left_out_B) / num
    return _flip_test(
        lambda signs_PB: signs_PB.astype(np.float64) @ pseudo_B,
        num,
        float(pseudo_B.sum()),
        "influences of groups",
        permutations,
        drawn.seed,
    )


def _flip_test(
    statistic: Statistic, num: int, seen: float, what: str, permutations: int, seed: int
) -> Test:
    """Test of `num` units that can change sign."""
    if not num:
        return Test(1.0, f"{what} changed places: no difference", seen, np.zeros(permutations))
    if 2**num <= permutations:
        bits_PG = (np.arange(2**num)[:, None] >> np.arange(num)) & 1
        all_P = statistic((2 * bits_PG - 1).astype(np.float32))
        p = float(np.mean(np.abs(all_P) >= abs(seen) - CLOSE))
        null_P = np.random.default_rng(seed).choice(all_P, size=permutations)
        return Test(p, f"{what} changed places in all {2**num:,} ways", seen, null_P)
    null_P = np.concatenate([statistic(each) for each in _signs(num, permutations, seed)])
    p = share_as_far(null_P, seen)
    return Test(p, f"{what} changed places in {permutations:,} random ways", seen, null_P)


def share_as_far(null_P: NDArray[Any], seen: float) -> float:
    """Share of what is as far from 0 as what was seen, which counts as one more of them."""
    far = np.count_nonzero(np.abs(null_P) >= abs(seen) - CLOSE)
    return float((1 + far) / (1 + len(null_P)))


def _signs(num: int, permutations: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Random signs, (P, G) at a time."""
    source = np.random.default_rng(seed)
    each = max(1, CELLS // num)
    for start in range(0, permutations, each):
        size = min(each, permutations - start)
        bits = np.frombuffer(source.bytes(-(-size * num // 8)), dtype=np.uint8)
        ones = np.unpackbits(bits, count=size * num).reshape(size, num)
        yield 2 * ones.astype(np.float32) - 1
