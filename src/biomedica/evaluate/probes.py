"""What embeddings know: linear probes, nearest neighbours and few shots over vectors that stand still.

Linear probe: multinomial logistic regression by L-BFGS on cached vectors, its regularisation chosen on validation,
then fitted to training and validation together (after Radford et al. 2021, section 3.2 and appendix A.3). Neighbours:
cosine-weighted votes as in DINO (Caron et al. 2021, appendix F.1), k = 20 and temperature 0.07. scikit-learn
computes the regression.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from biomedica.errors import ConfigError, EvaluationError
from biomedica.models import Vectors
from biomedica.numbering import numbered

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
STRENGTHS = tuple(10.0**power for power in range(-4, 5))
"""Inverse regularisations that validation chooses among, coarsely; then between the best one's neighbours."""
_FINER = (10**-0.5, 10**0.5)
_STEPS = 1000
_NEVER = -1e9
"""Log-odds of a class that training has no item of."""
_NEIGHBOURS, _TEMPERATURE = 20, 0.07
_BLOCK = 1 << 24
"""Similarities that stand in memory at once: 64 MB, and 128 MB of their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Vectors with what is right: `labels_N`, or `labels_NC` where several may be."""

    vectors_ND: Vectors
    labels_N: Labels | None
    labels_NC: NDArray[np.bool_] | None
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.vectors_ND)

    def and_also(self, other: Labelled) -> Labelled:
        """Both, one after the other."""
        both = {
            name: np.concatenate([mine, getattr(other, name)])
            for name in ("vectors_ND", "labels_N", "labels_NC")
            if (mine := getattr(self, name)) is not None
        }
        return replace(self, groups=self.groups + other.groups, **both)

    def part(self, rows: Labels) -> Labelled:
        """Some of the rows."""
        return Labelled(
            vectors_ND=self.vectors_ND[rows],
            labels_N=None if self.labels_N is None else self.labels_N[rows],
            labels_NC=None if self.labels_NC is None else self.labels_NC[rows],
            groups=tuple(self.groups[row] for row in rows),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A fitted regression: log-odds of new vectors, (N, C). A class that training lacked is never chosen."""

    scores: Callable[[Vectors], Floats]
    strength: float
    """Inverse regularisation (scikit-learn's C)."""
    tried: dict[float, float]
    """Score on validation, by strength."""


Judge = Callable[[Floats, Labelled], float]
"""Scores (N, C) and what is right -> a number, higher is better."""


def linear_probe(train: Labelled, validation: Labelled, num_classes: int, judge: Judge) -> Probe:
    """Choose by `validation` (ties go to the stronger regularisation), then fit to both together."""
    mean, spread = _scale(train.vectors_ND)
    ready = _scaled(train, mean, spread)
    checked = _scaled(validation, mean, spread)
    tried: dict[float, float] = {}

    def attempt(strength: float) -> None:
        scores_NC = _fit(ready, strength, num_classes)(checked.vectors_ND)
        tried[strength] = judge(scores_NC, checked)

    for strength in STRENGTHS:
        attempt(strength)
    around = _best(tried)
    for factor in _FINER:
        attempt(around * factor)
    best = _best(tried)
    return Probe(
        scores=probe_at(train.and_also(validation), best, num_classes), strength=best, tried=tried
    )


def probe_at(train: Labelled, strength: float, num_classes: int) -> Callable[[Vectors], Floats]:
    """A regression of a given regularisation."""
    mean, spread = _scale(train.vectors_ND)
    fitted = _fit(_scaled(train, mean, spread), strength, num_classes)
    return lambda vectors: fitted((vectors - mean) / spread)


def _best(tried: dict[float, float]) -> float:
    """Of equal ones, the smallest: the strongest regularisation."""
    numbers = {k: v for k, v in tried.items() if np.isfinite(v)}
    return min(numbers or tried, key=lambda k: (-tried[k] if np.isfinite(tried[k]) else 0.0, k))


def _scale(vectors_ND: Vectors) -> tuple[Vectors, np.float32]:
    """Mean of each dimension and one deviation for all, so that one grid of regularisations suits all models.

    A deviation for each dimension would blow up those that a few shots happen to agree in.
    """
    mean_D = vectors_ND.mean(axis=0)
    spread = np.sqrt(np.mean((vectors_ND - mean_D) ** 2))
    return mean_D, np.float32(spread if spread > 1e-6 else 1.0)


def _scaled(some: Labelled, mean: Vectors, spread: np.float32) -> Labelled:
    return Labelled(
        vectors_ND=(some.vectors_ND - mean) / spread,
        labels_N=some.labels_N,
        labels_NC=some.labels_NC,
        groups=some.groups,
    )


def _fit(train: Labelled, strength: float, num_classes: int) -> Callable[[Vectors], Floats]:
    """(N, D) -> (N, C) log-odds."""
    if train.labels_NC is not None:
        columns = [
            _binary(train.vectors_ND, train.labels_NC[:, c], strength) for c in range(num_classes)
        ]
        return lambda vectors: np.stack([column(vectors) for column in columns], axis=1)
    assert train.labels_N is not None
    there = np.unique(train.labels_N)
    if len(there) < 2:
        raise EvaluationError("a probe needs items of two classes at least to learn from")
    model = _regression(strength).fit(train.vectors_ND, train.labels_N)

    def scores(vectors: Vectors) -> Floats:
        found = np.full((len(vectors), num_classes), _NEVER, np.float32)
        odds = model.decision_function(vectors)
        found[:, there] = np.stack([-odds / 2, odds / 2], 1) if odds.ndim == 1 else odds
        return found

    return scores


def _binary(
    vectors_ND: Vectors, is_right_N: NDArray[np.bool_], strength: float
) -> Callable[[Vectors], Floats]:
    if is_right_N.all() or not is_right_N.any():
        constant = -_NEVER if is_right_N.all() else _NEVER
        return lambda vectors: np.full(len(vectors), constant, np.float32)
    model = _regression(strength).fit(vectors_ND, is_right_N)
    return lambda vectors: np.asarray(model.decision_function(vectors), np.float32)


class _Regression:
    """scikit-learn's, which warns where it stops before it has converged: fine for a grid of strengths."""

    def __init__(self, strength: float) -> None:
        try:
            from sklearn.linear_model import LogisticRegression
        except ImportError:
            raise ConfigError("probes need scikit-learn: pip install 'biomedica[train]'") from None
        self._model = LogisticRegression(C=strength, max_iter=_STEPS, tol=1e-3)

    def fit(self, vectors: Vectors, labels: NDArray[np.generic]) -> _Regression:
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._model.fit(vectors, labels)
        return self

    def decision_function(self, vectors: Vectors) -> NDArray[np.float64]:
        return np.asarray(self._model.decision_function(vectors))


def _regression(strength: float) -> _Regression:
    return _Regression(strength)


def neighbours(train: Labelled, vectors_ND: Vectors, num_classes: int) -> Floats:
    """(N, C) shares of the votes of the nearest training vectors, each weighted by exp(cosine / 0.07)."""
    rights = train.labels_NC
    if rights is None:
        assert train.labels_N is not None
        rights = np.eye(num_classes, dtype=bool)[train.labels_N]
    k = min(_NEIGHBOURS, len(train))
    found = np.empty((len(vectors_ND), num_classes), np.float32)
    rows = max(1, _BLOCK // len(train))
    for start in range(0, len(vectors_ND), rows):
        similar = vectors_ND[start : start + rows] @ train.vectors_ND.T
        near = np.argpartition(similar, -k, axis=1)[:, -k:]
        weights = np.exp((np.take_along_axis(similar, near, axis=1) - 1) / _TEMPERATURE)
        votes = (weights[:, :, None] * rights[near]).sum(axis=1)
        found[start : start + rows] = votes / weights.sum(axis=1, keepdims=True)
    return found


def shots(train: Labelled, number: int, seed: int) -> Labelled:
    """`number` items of each class by chance, or all that there are. Classes without items stay without."""
    assert train.labels_N is not None
    random = np.random.default_rng([seed, number])
    order = random.permutation(len(train))
    rows = [order[train.labels_N[order] == each][:number] for each in np.unique(train.labels_N)]
    return train.part(np.sort(np.concatenate(rows)))


def share(train: Labelled, fraction: float, seed: int) -> Labelled:
    """A part of the groups (patients, slides) by chance, at least one item of each class."""
    random = np.random.default_rng([seed, round(fraction * 1e6)])
    names, group_N = numbered(train.groups)
    place_G = random.permutation(len(names))
    taken = place_G[group_N] < max(1, round(fraction * len(names)))
    if train.labels_N is not None:
        for each in np.unique(train.labels_N):
            rows = np.flatnonzero(train.labels_N == each)
            if not taken[rows].any():
                taken[rows[np.argmin(place_G[group_N[rows]])]] = True
    return train.part(np.flatnonzero(taken))


def held_out(train: Labelled, fraction: float, seed: int) -> tuple[Labelled, Labelled]:
    """A training set without a part of its groups, and that part: where a task has no validation."""
    random = np.random.default_rng(seed)
    names, group_N = numbered(train.groups)
    if len(names) < 2:
        raise EvaluationError("training has one group only; none can be held out to choose by")
    place_G = random.permutation(len(names))
    out = place_G[group_N] < min(len(names) - 1, max(1, round(fraction * len(names))))
    return train.part(np.flatnonzero(~out)), train.part(np.flatnonzero(out))


def mean_and_spread(values: Sequence[float]) -> dict[str, float | list[float]]:
    """Over seeds."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "sd": spread, "values": list(values)}
