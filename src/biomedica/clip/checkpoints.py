"""Weights of a whole text-image model: read from the formats they come in, fitted to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from biomedica.clip.designs import first_line, open_clip_module
from biomedica.errors import ConfigError

_OLD_BUFFERS = ("text.transformer.embeddings.position_ids",)
"""Written by transformers before 4.31; the numbers 0, 1, 2 … and nothing else."""


def load_checkpoint(model: Any, path: Path) -> None:
    """Fill a model from .safetensors, .pt or .bin, all keys. Raises `ConfigError` where they do not fit.

    Position embeddings of another picture size or context length are resampled. A missing logit bias keeps its start.
    """
    from open_clip.convert import convert_state_dict
    from open_clip.model import (
        convert_to_custom_text_state_dict,
        resize_pos_embed,
        resize_text_pos_embed,
    )

    state = convert_state_dict(model, read_state(path))
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for key in _OLD_BUFFERS:
        state.pop(key, None)
    for key in ("logit_scale", "logit_bias"):
        own = getattr(model, key, None)
        if key in state and own is not None:
            state[key] = state[key].reshape(own.shape)
        elif own is not None:
            state[key] = own.detach()
    resize_pos_embed(state, model)
    resize_text_pos_embed(state, model)
    check_fit(str(path), model.state_dict(), state)
    model.load_state_dict(state)


def read_state(path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint file, on the CPU; those of a trainer's file stand under `state_dict`."""
    try:
        state: dict[str, Any] = open_clip_module().factory.load_state_dict(str(path))
    except Exception as error:  # safetensors, pickle and zip each raise their own
        raise ConfigError(f"{path} cannot be read as weights: {first_line(error)}") from error
    return state


def check_fit(name: str, own: dict[str, Any], state: dict[str, Any]) -> None:
    """Raise `ConfigError` unless `state` has the keys and shapes of `own`."""
    missing, more = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or more:
        said = [
            f"{len(keys)} {what} (such as {keys[0]})"
            for keys, what in ((missing, "missing"), (more, "unknown"))
            if keys
        ]
        raise ConfigError(f"{name} is of another architecture: keys {' and '.join(said)}")
    for key, value in own.items():
        if value.shape != state[key].shape:
            raise ConfigError(
                f"{name} is of another architecture: {key} is {tuple(state[key].shape)}, "
                f"{tuple(value.shape)} is expected"
            )
