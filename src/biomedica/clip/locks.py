"""How towers train: some stay as they are, some are computed twice to save memory."""

from __future__ import annotations

import warnings
from typing import Any

from biomedica.errors import ConfigError


def lock_image(model: Any, unlocked_groups: int) -> None:
    """Freeze the image tower but for its last groups of layers; a projection behind a tower of timm learns on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # open_clip imports timm.models.helpers
        model.lock_image_tower(unlocked_groups=unlocked_groups, freeze_bn_stats=True)


def lock_text(model: Any, unlocked_layers: int) -> None:
    """Freeze the text tower but for its last layers; a projection behind a tower of transformers learns on."""
    tower: Any = getattr(getattr(model, "text", None), "transformer", None)
    if not hasattr(tower, "config"):
        model.lock_text_tower(unlocked_layers)
        return
    layers = getattr(getattr(tower, "encoder", tower), "layer", None) or getattr(
        tower, "layers", None
    )
    if layers is None or unlocked_layers > len(layers):
        have = "no list of layers" if layers is None else f"{len(layers)} layers"
        raise ConfigError(
            f"model.unlocked_text_layers is {unlocked_layers}; the text tower has {have}"
        )
    tower.requires_grad_(False)
    if unlocked_layers:
        for part in (*layers[-unlocked_layers:], getattr(tower, "final_norm", None)):
            if part is not None:
                part.requires_grad_(True)


def compute_twice(model: Any) -> None:
    """Gradient checkpointing in both towers."""
    model.visual.set_grad_checkpointing(True)
    text = getattr(model, "text", model).transformer
    # the reentrant kind loses the gradient below frozen embeddings
    keywords = {"use_reentrant": False}
    if hasattr(text, "activation_checkpointing_enable"):
        text.activation_checkpointing_enable(keywords)
    elif hasattr(text, "gradient_checkpointing_enable"):  # its name in older versions
        text.gradient_checkpointing_enable(keywords)
    else:
        text.grad_checkpointing = True
