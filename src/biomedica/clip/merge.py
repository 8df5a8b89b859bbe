"""WiSE-FT: models between a base and what was tuned from it, without training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomedica.clip.build import build
from biomedica.clip.checkpoints import check_fit, read_state
from biomedica.clip.designs import LOCAL
from biomedica.clip.save import WEIGHTS_FILE, save
from biomedica.clip.settings import ModelSettings
from biomedica.errors import ConfigError

State = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One model of a sweep."""

    alpha: float
    score: float


def merge(base: State, tuned: State, alpha: float) -> State:
    """alpha * tuned + (1 - alpha) * base of each float tensor, in float32, as new tensors of the base's type.

    alpha 0 and 1 give base and tuned bit for bit. What is no float must be equal in both. Raises `ConfigError`.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha is {alpha}; 0 (base) to 1 (tuned) is expected")
    check_fit("tuned", base, tuned)
    return {key: _between(key, value, tuned[key], alpha) for key, value in base.items()}


def _between(key: str, base: Any, tuned: Any, alpha: float) -> Any:
    if not base.is_floating_point():
        if not base.equal(tuned):
            raise ConfigError(
                f"{key} counts something, and differs in base and tuned; it has no mean"
            )
        return base.clone()
    if alpha in (0, 1):
        return (tuned if alpha else base).to(base.dtype, copy=True)
    mixed = alpha * tuned.float() + (1 - alpha) * base.float()
    return mixed.to(base.dtype)


def sweep(
    base: State, tuned: State, alphas: Sequence[float], score: Callable[[State], float]
) -> list[Point]:
    """The score of each merged state, in the order of `alphas`; one merged state stands in memory at a time."""
    return [Point(alpha=alpha, score=score(merge(base, tuned, alpha))) for alpha in alphas]


def merge_folders(
    base: Path, tuned: Path, folder: Path, alpha: float, card: dict[str, Any]
) -> None:
    """Merge two `local-dir:` folders of one architecture into a new one; its tokenizer is the tuned model's."""
    made = build(ModelSettings(name=f"{LOCAL}{tuned}"))
    merged = merge(_folder_state(base), _folder_state(tuned), alpha)
    made.model.load_state_dict(merged)
    note = {"method": "WiSE-FT", "alpha": alpha, "base": base.name, "tuned": tuned.name}
    save(folder, made, {**card, "merged": json.dumps(note)})


def _folder_state(folder: Path) -> State:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} has no {WEIGHTS_FILE}; a folder that `save` wrote is expected")
    return read_state(path)
