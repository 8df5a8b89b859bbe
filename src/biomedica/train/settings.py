"""What a training run is: one TOML file, a table for each part."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

from biomedica.clip.settings import ModelSettings
from biomedica.errors import ConfigError
from biomedica.settings import filled, read_toml
from biomedica.stream.order import OrderSettings
from biomedica.stream.pixels import PixelSettings
from biomedica.stream.settings import ReadSettings


@dataclass(frozen=True, kw_only=True)
class SourceView:
    """A view to learn from."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    archive: str
    """A folder, `https://HOST/PATH` or `s3://BUCKET/PATH`."""
    view: str = "full"
    """Name of the view that `select` made."""
    split: str | None = None
    """Split of the view; all of it by default."""
    weight: float = 1.0
    """Its share, beside the other views'. An epoch is one of the first view."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """What is learned from, in what order."""

    sources: tuple[SourceView, ...] = ()
    """Views, each with `archive`, `view`, `split` and `weight`."""
    epochs: int = 1
    """Times that the first view is seen."""
    samples: int = 0
    """Samples of the first view, for `--plan` where the view is not at hand."""
    texts: tuple[str, ...] = ("caption",)
    """Which text goes with a picture: `caption`, `bare`, `mention`, `context`."""
    text_weights: tuple[float, ...] = ()
    """How often each of them is taken; equally often by default."""
    texts_per_image: int = 1
    """Texts of a picture in one batch; the loss is the mean over them."""
    workers: int = 2
    """Processes of each rank that read and decode; 0: the training process does."""
    prefetch: int = 2
    """Batches that each worker holds ready."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.workers < 0 or self.prefetch < 1:
            raise ConfigError("data.epochs and data.prefetch are 1 or more, data.workers 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSettings:
    """AdamW on the contrastive loss of the whole batch."""

    batch: int = 256
    """Pairs of one step, over all ranks and all parts of an accumulation."""
    accumulate: int = 1
    """Parts that a rank's share of the batch is computed in; the loss is that of the whole batch."""
    lr: float = 5e-4
    """Highest learning rate."""
    warmup_steps: int = 0
    """Steps in which the learning rate rises from 0."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: down to 0 along a cosine, or as it is."""
    beta1: float = 0.9
    """Of AdamW."""
    beta2: float = 0.98
    """Of AdamW."""
    eps: float = 1e-6
    """Of AdamW."""
    weight_decay: float = 0.2
    """Of matrices; biases, norms and the scale have none."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each layer of a tower to the one below it."""
    grad_clip: float = 0.0
    """Largest norm of the gradient; 0: any."""
    loss: Literal["clip", "siglip"] = "clip"
    """Softmax over the batch (CLIP), or a sigmoid for each pair (SigLIP; give the model init_logit_bias)."""
    local_loss: bool = True
    """Each rank computes its own rows of the similarities, not all of them: less memory, same gradient."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the forward pass; weights and AdamW stay in fp32."""
    ema: float = 0.0
    """Decay of a running mean of the weights, which is then what is evaluated and saved; 0: none."""
    max_logit_scale: float = 100.0
    """The scale is kept in [1, this], as in CLIP."""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.accumulate < 1 or self.batch % self.accumulate:
            raise ConfigError(
                f"optimizer.batch is {self.batch} in {self.accumulate} parts; a multiple is expected"
            )
        if not 0 <= self.ema < 1 or not 0 < self.layer_decay <= 1 or self.warmup_steps < 0:
            raise ConfigError(
                "optimizer.ema is in [0, 1), layer_decay in (0, 1], warmup_steps 0 or more"
            )
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"optimizer.{name} is {getattr(self, name)}; 0 to below 1 is expected"
                )
        for name in ("lr", "eps", "weight_decay", "grad_clip"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"optimizer.{name} is {getattr(self, name)}; 0 or more is expected"
                )
        if self.max_logit_scale < 1:
            raise ConfigError(
                f"optimizer.max_logit_scale is {self.max_logit_scale}; 1 or more is expected"
            )


def pairs_at_once(settings: OptimizerSettings, world: int) -> int:
    """Pairs of one rank in one forward pass. Raises `ConfigError` where the batch does not divide so."""
    parts = world * settings.accumulate
    if settings.batch % parts:
        raise ConfigError(
            f"optimizer.batch is {settings.batch}; a multiple of {world} ranks x {settings.accumulate} parts is "
            "expected"
        )
    return settings.batch // parts


@dataclass(frozen=True, kw_only=True)
class Task:
    """An evaluation on the way: retrieval between the pictures and captions of a view."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    """In the log and in the scores."""
    archive: str
    """As in `data.sources`."""
    view: str = "full"
    """As in `data.sources`."""
    split: str | None = None
    """As in `data.sources`."""
    max_samples: int = 5000
    """Samples that are used, by chance; 0: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """How the run is kept."""

    seed: int = 0
    """Of the order, of augmentation and of weights that no file gives."""
    device: str = "auto"
    """`auto` (CUDA where there is one), `cpu`, `cuda`. CUDA is untested on the hardware this was made on."""
    distributed: Literal["ddp", "fsdp"] = "ddp"
    """Under torchrun: each rank a whole model, or a part of it (FSDP2)."""
    compile: bool = False
    """torch.compile the model."""
    log_every: int = 10
    """Steps."""
    loggers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    """Besides log.jsonl, which is always written."""
    project: str = "biomedica"
    """For wandb and trackio."""
    checkpoint_every: int = 1000
    """Steps; the end is always kept."""
    keep: int = 2
    """Checkpoints that stay."""
    upload: str = ""
    """`s3://BUCKET/PATH` that gets a copy of each checkpoint, and gives it back on a machine without one."""
    tasks: tuple[Task, ...] = ()
    """Evaluations, each with `name`, `archive`, `view`, `split`, `max_samples`."""
    evaluate_every: int = 1000
    """Steps; the beginning and the end are always evaluated."""
    save_initial: bool = False
    """Keep the model as it was at the start (`initial/`): the base of a merge."""

    def __post_init__(self) -> None:
        for name in ("log_every", "checkpoint_every", "keep", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"run.{name} is {getattr(self, name)}; at least 1 is expected")
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ConfigError(f"run.tasks: names must differ, found {names}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """All of it."""

    about: str = ""
    """Where the values come from."""
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    images: PixelSettings = field(default_factory=PixelSettings)
    order: OrderSettings = field(default_factory=OrderSettings)
    stream: ReadSettings = field(default_factory=ReadSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        if not self.images.train or self.images.fit != "crop":
            raise ConfigError(
                "images.train and images.fit have no place in training, which always takes random crops; "
                "images.scale=[1.0, 1.0] takes (nearly) whole pictures"
            )


DECIDING = ("model", "data", "optimizer", "images", "order")
"""Tables that decide about the weights: a run goes on only with the same."""
FREE = {"data": ("workers", "prefetch", "samples", "sources"), "optimizer": ("accumulate",)}
"""Settings in them that may change all the same (a checkpoint knows its samples by a digest of its own)."""


def shipped_configs() -> dict[str, Path]:
    """Configs that come with the program, by name."""
    folder = Path(str(files("biomedica"))) / "data" / "train"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_train(config: str | Path, changes: list[str] | None = None) -> TrainSettings:
    """A shipped config by name, or a TOML file; then changes such as `optimizer.lr=1e-5`. Raises `ConfigError`."""
    known = shipped_configs()
    path = known.get(str(config)) or Path(config)
    if not path.exists():
        raise ConfigError(
            f"no config {str(config)!r}: a TOML file or one of {', '.join(known)} is expected"
        )
    return filled(TrainSettings(), read_toml(path, changes))


def differences(old: dict[str, Any], settings: TrainSettings) -> list[str]:
    """Settings that decide about the weights and are not those of an older run (its tables as `plain` gives
    them)."""
    new = plain(settings)
    found = []
    for table in DECIDING:
        for name, value in new[table].items():
            before = old.get(table, {}).get(name, value)
            if before != value and name not in FREE.get(table, ()):
                found.append(f"{table}.{name} was {before!r}, is {value!r}")
    return found


def plain(settings: Any) -> Any:
    """Settings as numbers, texts, lists and dictionaries, as JSON gives them back."""
    if hasattr(settings, "__dataclass_fields__"):
        return {each.name: plain(getattr(settings, each.name)) for each in fields(settings)}
    if isinstance(settings, (list, tuple)):
        return [plain(each) for each in settings]
    return settings


def with_model_size(settings: PixelSettings, size: int, *, train: bool) -> PixelSettings:
    """Pixels for a model that sees squares of `size`. Raises `ConfigError` where another size was asked for."""
    if settings.size not in (size, PixelSettings().size):
        raise ConfigError(
            f"images.size is {settings.size}, and the model sees {size} pixels; model.image_size decides for both"
        )
    return replace(settings, size=size, train=train)
