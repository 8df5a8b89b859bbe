"""What a text-image model is to be, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from biomedica.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """A model by the name of its architecture, or put together from an image and a text tower."""

    name: str = ""
    """An architecture of open_clip (`ViT-L-14`), a model JSON's path or `local-dir:FOLDER`; empty: the towers below."""
    pretrained: str = ""
    """Weights for `name`: a tag of open_clip (downloaded) or a checkpoint file; empty: random."""
    image_tower: str = ""
    """A name of timm, such as `vit_base_patch16_224`."""
    image_weights: str = "none"
    """`none`, `pretrained` (timm's own, downloaded) or a file: timm's .safetensors or .pt, or a DINOv2 in .onnx."""
    image_size: int = 0
    """Side of the square that the model sees, in pixels; 0: the architecture's own."""
    image_pooling: str = ""
    """`avg`, `token`, `map` …, as timm calls it; empty: the tower's own."""
    image_proj: Literal["linear", "mlp", "none"] = "linear"
    """From the image tower's width to `embed_dim`."""
    image_drop_path: float = 0.0
    """Share of residual branches of the image tower that a training step leaves out."""
    image_normalisation: Literal["clip", "tower"] = "clip"
    """Mean and deviation of the pixels: CLIP's (as BiomedCLIP) or those the image tower was trained with."""
    text_tower: str = ""
    """A folder (config.json, tokenizer, maybe weights), `package:NAME/FOLDER` of an installed package, or a hub id."""
    text_weights: Literal["pretrained", "none"] = "pretrained"
    """`none` starts `text_tower` at random."""
    text_pooling: Literal["cls", "mean"] = "cls"
    """The first token's vector, or the mean over a text's tokens."""
    text_proj: Literal["mlp", "linear", "none"] = "mlp"
    """From the text tower's width to `embed_dim`; `mlp` is two layers without bias, as in BiomedCLIP."""
    tokenizer: str = ""
    """Folder of the tokenizer where it is not the text tower's own."""
    context_length: int = 0
    """Texts are cut to this many tokens; 0: the architecture's own, 77 for towers."""
    embed_dim: int = 512
    """Numbers in an embedding; for towers only."""
    patch_dropout: float = 0.0
    """Share of image patches that a training step leaves out."""
    grad_checkpointing: bool = False
    """Keep less in memory and compute the forward pass twice."""
    lock_image: bool = False
    """Leave the image tower as it is, but for its projection to `embed_dim`."""
    unlocked_image_groups: int = 0
    """Last layer groups of a locked image tower that learn all the same."""
    lock_text: bool = False
    """Leave the text tower as it is, but for its projection to `embed_dim`."""
    unlocked_text_layers: int = 0
    """Last layers of a locked text tower that learn all the same."""
    init_logit_scale: float | None = None
    """Logarithm of the scale at the start (CLIP 2.6593, SigLIP 2.3026); a checkpoint's own goes first."""
    init_logit_bias: float | None = None
    """Bias at the start, which the sigmoid loss needs (SigLIP -10); a checkpoint's own goes first."""

    def __post_init__(self) -> None:
        if self.name and (
            self.image_tower or (self.pretrained and self.name.startswith("local-dir:"))
        ):
            other = "image_tower" if self.image_tower else "pretrained"
            raise ConfigError(f"model.name is {self.name!r}; {other} has no place beside it")
        for name in ("patch_dropout", "image_drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"model.{name} is {getattr(self, name)}; 0 to below 1 is expected"
                )
        for name in (
            "image_size",
            "context_length",
            "unlocked_image_groups",
            "unlocked_text_layers",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"model.{name} is {getattr(self, name)}; 0 or more is expected")
        if self.embed_dim < 1:
            raise ConfigError(f"model.embed_dim is {self.embed_dim}; 1 or more is expected")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """How pixels become a model's input."""

    size: int
    """Side of the square, in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Of red, green, blue in [0, 1]; subtracted and divided by."""
    interpolation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A model in memory with all that its use needs."""

    model: Any
    """An open_clip `CLIP` or `CustomTextCLIP`: `encode_image`, `encode_text`, `forward(image, text)`."""
    tokenizer: Any
    """list[str] -> int64 (B, context_length); None for a model made for counting."""
    preprocess: Preprocess
    settings: ModelSettings
    """As asked for, with `image_size` and `context_length` as they came out."""
    config: dict[str, Any] = field(repr=False)
    """open_clip's `model_cfg`."""
