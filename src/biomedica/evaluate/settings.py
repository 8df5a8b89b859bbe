"""How models are scored."""

from __future__ import annotations

from dataclasses import dataclass

from biomedica.errors import ConfigError
from biomedica.preprocessing import Fit


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSettings:
    """How models are scored on benchmark tasks."""

    fit: Fit = "own"
    """How a picture becomes a square: `own` (as the model was made), `crop`, `pad` or `squash`."""
    device: str = "cpu"
    """`cpu`, `cuda`, `cuda:1` (GPUs were not tried)."""
    batch: int = 64
    """Pictures or texts that go through the model at once."""
    limit: int = 0
    """Score only so many items of a task, drawn by the hash of their ids, to try things out; 0: all."""
    prompts: str = ""
    """Prompt set that counts, such as `single` or `paper`; empty: the first that a task states."""
    resamples: int = 2000
    """Bootstrap resamples of an interval."""
    seed: int = 0
    """Of resamples, shots and shares."""
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Items of each class in `few_shot`; the last counts."""
    shot_seeds: int = 5
    """Draws of each number of shots."""
    shares: tuple[float, ...] = (0.01, 0.1, 1.0)
    """Parts of the training set in `linear_probe`; all of it counts."""
    share_seeds: int = 3
    """Draws of each part."""

    def __post_init__(self) -> None:
        for name in ("batch", "shot_seeds", "share_seeds"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"evaluate.{name} is {getattr(self, name)}; 1 or more is expected"
                )
        if self.resamples < 100 or self.limit < 0:
            raise ConfigError("evaluate.resamples must be 100 at least, evaluate.limit 0 or more")
        if not self.shots or min(self.shots) < 1:
            raise ConfigError("evaluate.shots must be numbers of items, 1 or more each")
        if 1.0 not in self.shares or not all(0 < each <= 1 for each in self.shares):
            raise ConfigError("evaluate.shares must be parts above 0, 1.0 among them")
