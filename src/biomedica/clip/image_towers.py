"""Image towers of timm: their input's size and their weights, from timm's files or from a DINOv2 in ONNX."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from biomedica.errors import ConfigError

_CLASSIFIER = ("head.", "head_dist.", "fc.", "classifier.")
"""Begin the keys that timm's own weights have and a tower without classes has not."""


def load_image_weights(trunk: Any, path: Path, image_size: int) -> None:
    """Fill a tower of timm from a file, all keys. Raises `ConfigError` where they do not fit.

    image_size   side in pixels at which the tower will be used; to it a DINOv2 in ONNX is fitted as it does itself
    """
    from timm.models import load_state_dict

    if not path.is_file():
        raise ConfigError(
            f"model.image_weights is {str(path)!r}; `none`, `pretrained` or a file is expected"
        )
    if path.suffix == ".onnx":
        from biomedica.clip.onnx_weights import dinov2_state

        resize_input(trunk, image_size)
        state = dinov2_state(path, trunk.patch_embed.grid_size)
    else:
        state = load_state_dict(str(path))
        _fit_position(trunk, state)
    own = trunk.state_dict()
    state = {
        key: value for key, value in state.items() if key in own or not key.startswith(_CLASSIFIER)
    }
    wrong = sorted(own.keys() ^ state.keys())
    wrong += [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if wrong:
        raise ConfigError(
            f"{path} does not fit the image tower: {len(wrong)} keys differ, such as {wrong[0]}"
        )
    trunk.load_state_dict(state)


def _fit_position(trunk: Any, state: dict[str, Any]) -> None:
    """Give the tower the size at which its weights were made (it is brought to the wanted one later)."""
    position = state.get("pos_embed")
    own = getattr(trunk, "pos_embed", None)
    if position is None or own is None or position.ndim != 3 or position.shape == own.shape:
        return
    prefix = own.shape[1] - math.prod(trunk.patch_embed.grid_size)
    side = math.isqrt(position.shape[1] - prefix)
    trunk.set_input_size(side * trunk.patch_embed.patch_size[0])


def resize_input(trunk: Any, image_size: int) -> None:
    """Bring a tower to another input size, its position embedding resampled."""
    if input_size(trunk) == image_size:
        return
    if not hasattr(trunk, "set_input_size"):
        if trunk.default_cfg.get("fixed_input_size"):
            raise ConfigError(
                f"this image tower takes {input_size(trunk)} pixels only, not {image_size}"
            )
        return
    trunk.set_input_size(image_size)


def input_size(trunk: Any) -> int:
    """Side of the square that a tower of timm takes now, in pixels."""
    patches = getattr(trunk, "patch_embed", None)
    own = getattr(patches, "img_size", None) or trunk.default_cfg["input_size"][1:]
    return int(own[0])


def timm_description(trunk: Any) -> dict[str, Any]:
    """timm's config.json of a tower at its present input size: for `timm_model_name = local-dir:…`."""
    given = {
        key: trunk.default_cfg.get(key) for key in ("mean", "std", "interpolation", "crop_pct")
    }
    size = input_size(trunk)
    given |= {"input_size": [3, size, size], "num_classes": 0, "fixed_input_size": True}
    return {
        "architecture": trunk.default_cfg["architecture"],
        "num_classes": 0,
        "model_args": {"img_size": size},
        "pretrained_cfg": given,
    }
