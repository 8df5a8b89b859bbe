"""What both towers of a text-image model say of each patch and each word, before they are pooled.

Known image towers: those of timm, open_clip's VisionTransformer and ModifiedResNet. Known text towers: open_clip's
TextTransformer (in a `CLIP` its parts stand in the model itself) and its HFTextEncoder, as `clip.build` makes it.
Also known: CLIP and SigLIP of transformers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from biomedica.clip.image_towers import resize_input
from biomedica.errors import ConfigError
from biomedica.models import Encoder, TorchEncoder
from biomedica.preprocessing import Preprocessing

_KNOWN_IMAGE = "towers of timm, VisionTransformer and ModifiedResNet of open_clip"
_KNOWN_TEXT = "TextTransformer and HFTextEncoder of open_clip"
Words = Mapping[str, Tensor]
"""`input_ids`, int64 (B, L), and maybe `attention_mask`."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Features of B pictures or texts."""

    values: Tensor
    """float32 (B, T, D): T patches or words."""
    mask: Tensor
    """bool (B, T): True where there is one; never False throughout a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerModel:
    """A text-image model with what its towers eat."""

    model: Any
    tokenize: Callable[[Sequence[str]], Words]
    preprocessing: Preprocessing
    device: torch.device


def tower_model(encoder: Encoder) -> TowerModel:
    """The model of an encoder. Raises `ConfigError` for one that has no two towers by torch."""
    if not isinstance(encoder, TorchEncoder) or not encoder.text_digest:
        raise ConfigError(
            f"{encoder.name} gives no features of single patches and words, which vqa_head needs; "
            "open_clip:NAME and transformers:FOLDER do"
        )
    return TowerModel(
        model=encoder.model,
        tokenize=encoder.tokenize,
        preprocessing=encoder.preprocessing,
        device=encoder.device,
    )


class Towers:
    """Both towers of a model. Raises `ConfigError` for an architecture without token features."""

    def __init__(self, model: Any) -> None:
        self._model = model
        theirs = hasattr(model, "vision_model") and hasattr(model, "text_model")
        self._image = _their_images(model) if theirs else _image_reader(model)
        self._text = _their_texts(model) if theirs else _text_reader(model)
        visual = model.vision_model.embeddings if theirs else model.visual
        self.image_has_first = _image_has_first(visual)
        """The first token stands for the whole picture."""
        self.text_has_first = not theirs and _text_has_first(model)
        """The first token stands for the whole text."""

    def images(self, pixels: Tensor) -> Tokens:
        """pixels   float (B, 3, S, S), normalised"""
        values = self._image(pixels.to(next(self._model.parameters()).dtype))
        if values.ndim != 3 or len(values) != len(pixels):
            raise _unknown(self._model, "image", _KNOWN_IMAGE)
        mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        return Tokens(values.float(), mask)

    def texts(self, words: Words) -> Tokens:
        """Cut to the longest text."""
        found = self._text(words)
        longest = int(found.mask.sum(dim=1).max())
        return Tokens(found.values[:, :longest].float(), found.mask[:, :longest])


def _unknown(part: Any, kind: str, known: str) -> ConfigError:
    return ConfigError(
        f"{type(part).__name__} gives no features of single tokens; known {kind} towers are {known}"
    )


# pictures


def _image_reader(model: Any) -> Any:
    """Pixels -> (B, T, D)."""
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    visual = getattr(model, "visual", model)
    if isinstance(visual, TimmModel):
        return lambda pixels: _of_timm(visual.trunk, pixels)
    if isinstance(visual, VisionTransformer):
        return lambda pixels: _of_vision_transformer(visual, pixels)
    if isinstance(visual, ModifiedResNet):
        return lambda pixels: _of_resnet(visual, pixels)
    raise _unknown(visual, "image", _KNOWN_IMAGE)


def _of_timm(trunk: Any, pixels: Tensor) -> Tensor:
    found = trunk.forward_features(pixels)
    if not isinstance(found, Tensor):
        raise _unknown(trunk, "image", _KNOWN_IMAGE)
    if found.ndim == 4:
        return found.flatten(1, 2) if _channels_last(trunk) else found.flatten(2).transpose(1, 2)
    return found


def _channels_last(trunk: Any) -> bool:
    """Swin and its like keep (B, H, W, C)."""
    return str(getattr(trunk, "output_fmt", "NCHW")).upper().endswith("NHWC")


def _of_vision_transformer(visual: Any, pixels: Tensor) -> Tensor:
    """The last layer, the class token first; normed where the norm is made for tokens."""
    found = visual.forward_intermediates(
        pixels,
        indices=1,
        normalize_intermediates=visual.attn_pool is None,
        intermediates_only=True,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    whole, patches = found["image_intermediates_prefix"][-1], found["image_intermediates"][-1]
    return torch.cat([whole, patches], dim=1)


def _of_resnet(visual: Any, pixels: Tensor) -> Tensor:
    found = visual.forward_intermediates(pixels, indices=1, intermediates_only=True)
    last: Tensor = found["image_intermediates"][-1]
    return last.flatten(2).transpose(1, 2)


def _image_has_first(visual: Any) -> bool:
    if hasattr(visual, "trunk"):
        return getattr(visual.trunk, "cls_token", None) is not None
    return hasattr(visual, "class_embedding")


def resized(given: TowerModel, size: int) -> TowerModel:
    """A copy of the model that takes pictures of another size, its position embedding resampled.

    Raises `ConfigError` where the architecture takes one size only, or the size is no multiple of its patches.
    """
    if not hasattr(given.model, "visual"):
        raise ConfigError(
            f"evaluate.fusion.image_size is {size}; a {type(given.model).__name__} of transformers takes "
            f"{given.preprocessing.size} only (0), a model of open_clip others too"
        )
    model = copy.deepcopy(given.model)
    visual = model.visual
    if hasattr(visual, "trunk"):
        try:
            resize_input(visual.trunk, size)
        except (AssertionError, ValueError) as error:  # timm's, for patches that do not fit
            raise ConfigError(
                f"evaluate.fusion.image_size {size} does not fit the image tower: {error}"
            ) from None
    elif hasattr(visual, "grid_size"):
        _resize_transformer(model, size)
    visual.image_size = (size, size)
    return replace(given, model=model, preprocessing=replace(given.preprocessing, size=size))


def _resize_transformer(model: Any, size: int) -> None:
    """open_clip's own."""
    from open_clip.model import resize_pos_embed

    visual = model.visual
    patch = visual.patch_size[0]
    if size % patch:
        raise ConfigError(
            f"evaluate.fusion.image_size is {size}; a multiple of {patch} (its patch) is expected"
        )
    state = {"visual.positional_embedding": visual.positional_embedding.detach().clone()}
    visual.grid_size = (size // patch, size // patch)
    resize_pos_embed(state, model)
    visual.positional_embedding = torch.nn.Parameter(state["visual.positional_embedding"])


# texts


def _text_reader(model: Any) -> Any:
    """Words -> `Tokens`."""
    from open_clip.hf_model import HFTextEncoder
    from open_clip.transformer import TextTransformer

    text = getattr(model, "text", None)
    if isinstance(text, HFTextEncoder):
        return lambda words: _of_hugging_face(text, words["input_ids"])
    if isinstance(text, TextTransformer):
        return lambda words: _of_text_transformer(text, words["input_ids"])
    if text is None and hasattr(model, "token_embedding"):
        return lambda words: _of_clip(model, words["input_ids"])
    raise _unknown(model if text is None else text, "text", _KNOWN_TEXT)


def _of_hugging_face(text: Any, ids: Tensor) -> Tokens:
    pad = text.config.pad_token_id
    mask = torch.ones_like(ids, dtype=torch.bool) if pad is None else ids != pad
    longest = int((mask * torch.arange(1, ids.shape[1] + 1, device=ids.device)).max())
    ids, mask = ids[:, :longest], _never_empty(mask[:, :longest])
    found = text.transformer(input_ids=ids, attention_mask=mask.long())
    return Tokens(found.last_hidden_state, mask)


def _of_text_transformer(text: Any, ids: Tensor) -> Tokens:
    found = text.forward_intermediates(
        ids, indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NLC"
    )
    mask = _words(ids, text.pool_type, text.eos_id, text.pad_id)
    return Tokens(found["text_intermediates"][-1], mask)


def _of_clip(model: Any, ids: Tensor) -> Tokens:
    found = model.forward_intermediates(
        text=ids, text_indices=1, normalize_intermediates=True, intermediates_only=True
    )
    mask = _words(ids, model.text_pool_type, model.text_eos_id, 0)
    return Tokens(found["text_intermediates"][-1], mask)


def _words(ids: Tensor, pooling: str, end_id: int, pad_id: int) -> Tensor:
    """Up to the token that open_clip pools by (CLIP's padding is a word, too); else all but padding."""
    place = torch.arange(ids.shape[1], device=ids.device)
    if pooling == "argmax":
        return place <= ids.argmax(dim=1, keepdim=True)
    if pooling == "eos":
        return place <= (ids == end_id).int().argmax(dim=1, keepdim=True)
    return _never_empty(ids != pad_id)


def _never_empty(mask: Tensor) -> Tensor:
    """Attention over nothing is no number: the first token always counts."""
    mask = mask.clone()
    mask[:, 0] = True
    return mask


def _text_has_first(model: Any) -> bool:
    text: Any = getattr(model, "text", None)
    if hasattr(text, "pooler"):
        return type(text.pooler).__name__.startswith("Cls")
    return getattr(text, "pool_type", "") == "first"


# transformers


def _their_images(model: Any) -> Any:
    """Normed, as the tower's own pooling has them."""
    norm = getattr(model.vision_model, "post_layernorm", None)
    if norm is None or not hasattr(model.text_model, "embeddings"):
        raise _unknown(model, "image", "CLIP and SigLIP of transformers")
    is_normed = not hasattr(model.vision_model.embeddings, "class_embedding")  # SigLIP's are

    def read(pixels: Tensor) -> Tensor:
        found: Tensor = model.vision_model(pixel_values=pixels).last_hidden_state
        return found if is_normed else norm(found)

    return read


def _their_texts(model: Any) -> Any:
    """Padding that the model reads (SigLIP) is no word here."""

    def read(words: Words) -> Tokens:
        values = model.text_model(**words).last_hidden_state
        mask = words.get("attention_mask")
        if mask is None:
            mask = words["input_ids"] != model.config.text_config.pad_token_id
        return Tokens(values, _never_empty(mask.bool()))

    return read
