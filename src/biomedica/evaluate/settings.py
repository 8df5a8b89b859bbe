"""How models are scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict

from biomedica.errors import ConfigError
from biomedica.preprocessing import Fit


@dataclass(frozen=True, kw_only=True)
class FusionSettings:
    """How the VQA head over two towers is made and trained."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    use: Literal["both", "image", "question"] = "both"
    """`image` or `question` masks the other stream: what one of them alone gives away."""
    width: int = 384
    """Numbers in a token of the fusion; both towers are brought to it by a linear layer."""
    layers: int = 6
    heads: int = 6
    dropout: float = 0.1
    pooling: Literal["tower", "mean"] = "tower"
    """`tower`: the first token where the tower has one for the whole, else the mean over its tokens."""
    loss: Literal["softmax", "binary"] = "softmax"
    """One answer of all; `binary` asks of each answer whether it is right, as METER does for several."""
    label_smoothing: float = 0.0
    """Share of a target that is spread over all answers."""
    lr_head: float = 5e-4
    """Peak rate of the classifier."""
    lr_fusion: float = 1e-4
    """Peak rate of the co-attention layers."""
    lr_towers: float = 0.0
    """Peak rate of both towers; 0 leaves them as they are, so that their features are computed once."""
    epochs: int = 20
    batch: int = 64
    warmup: float = 0.1
    """Share of all steps over which rates rise; then they fall to 0, both linearly."""
    weight_decay: float = 0.01
    min_count: int = 1
    """Answers that fewer training questions have are no candidates."""
    validation_share: float = 0.1
    """Part of the training groups that the best epoch is chosen by, where there is no validation split; 0:
    the last epoch counts."""
    image_size: int = 0
    """Side of the square that the model sees, in pixels; 0: the model's own."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of forward passes; weights stay float32."""
    keep_gb: float = 4.0
    """Most memory for features (or pixels, where towers learn); what does not fit is computed again."""
    seed: int = 0
    """Of weights, order, dropout and the held-out part."""

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "epochs", "batch", "min_count"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"evaluate.fusion.{name} is {getattr(self, name)}; 1 or more is expected"
                )
        if self.width % self.heads:
            raise ConfigError(
                f"evaluate.fusion.width is {self.width}; a multiple of its heads ({self.heads}) is expected"
            )
        for name in ("dropout", "label_smoothing", "validation_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"evaluate.fusion.{name} is {getattr(self, name)}; 0 to below 1 is expected"
                )
        if not 0 <= self.warmup <= 1:
            raise ConfigError(f"evaluate.fusion.warmup is {self.warmup}; 0 to 1 is expected")
        for name in ("lr_head", "lr_fusion", "lr_towers", "weight_decay", "image_size", "keep_gb"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"evaluate.fusion.{name} is {getattr(self, name)}; 0 or more is expected"
                )


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
    fusion: FusionSettings | None = None
    """`vqa_head`: a table `[evaluate.fusion]`, or `{epochs = 10}`; what may stand in it and what holds without it:
    vqa.md."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakSettings:
    """When a benchmark's picture counts as seen in training."""

    phash_bits: int = 6
    """Bits of the perceptual hash that may differ, as it is or mirrored."""
    min_cosine: float = 0.6
    """Smallest cosine of the features from which on two pictures are compared."""
    candidates: int = 10
    """Training pictures nearest by cosine (and by hash) that are compared with each of the benchmark's; while one of
    that many is a leak, as many more are."""
    verify: bool = True
    """Compare the pictures themselves; without it hash and cosine decide alone."""
    min_correlation: float = 0.7
    """`verify`: of fine detail over what two pictures both show. Pictures below 64 pixels need more."""
    cosine_alone: float = 0.98
    """Smallest cosine where nothing is verified."""

    def __post_init__(self) -> None:
        if not 0 <= self.phash_bits <= 8:
            raise ConfigError(f"leaks.phash_bits is {self.phash_bits}; 0 to 8 is expected")
        if self.candidates < 1:
            raise ConfigError(f"leaks.candidates is {self.candidates}; 1 or more is expected")
        for name in ("min_cosine", "cosine_alone", "min_correlation"):
            if not -1 <= getattr(self, name) <= 1:
                raise ConfigError(f"leaks.{name} is {getattr(self, name)}; -1 to 1 is expected")
