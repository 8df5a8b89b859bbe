"""Parameters in groups: which have weight decay, and how deep each lies (layer-wise learning rates)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from biomedica.train.settings import OptimizerSettings

_LAYER = re.compile(r"(?:^|\.)(?:(?:blocks|resblocks|layers?|stages)\.|layer)(\d+)\.")
_FIRST = re.compile(
    r"patch_embed|(?:visual|trunk)\.(?:conv|bn)\d|cls_token|reg_token|class_embedding|pos_embed|\.stem\."
    r"|(?<!attnpool\.)positional_embedding|token_embedding|embeddings|ln_pre|norm_pre"
)
_TEXT = re.compile(
    r"^(?:text\.|transformer\.|token_embedding|positional_embedding|ln_final|text_projection)"
)


def depth(name: str, most: int) -> int:
    """Layers between a parameter and its tower's input; `most` for heads and the scale.

    >>> depth("visual.trunk.blocks.3.attn.qkv.weight", 13), depth("visual.trunk.patch_embed.proj.weight", 13)
    (4, 0)
    """
    found = _LAYER.search(name)
    if found:
        return int(found[1]) + 1
    return 0 if _FIRST.search(name) else most


def is_text(name: str) -> bool:
    """Whether a parameter is of the text tower."""
    return bool(_TEXT.match(name))


def parameter_groups(
    named: Iterable[tuple[str, Any]], settings: OptimizerSettings
) -> list[dict[str, Any]]:
    """Groups for AdamW: `params`, `weight_decay`, and `scale`, the factor of the learning rate.

    Vectors, scalars and tables of biases (norms, the logit scale) have no weight decay, as in open_clip. With
    `layer_decay` below 1, a layer learns by that factor for each layer between it and its tower's end
    (Clark et al., ELECTRA, 2020; Bao et al., BEiT, 2021). The scale and bias have a group of their own: FSDP
    leaves them whole, and one update cannot mix whole tensors and parts.
    """
    learning = [(name, each) for name, each in named if each.requires_grad]
    most = {
        tower: 2 + max((depth(n, 0) for n, _ in learning if is_text(n) == tower), default=0) - 1
        for tower in (False, True)
    }
    groups: dict[tuple[bool, float, bool], list[Any]] = {}
    for name, each in learning:
        top = most[is_text(name)]
        scale = settings.layer_decay ** (top - depth(name, top))
        decays = each.ndim >= 2 and not name.endswith("relative_position_bias_table")
        groups.setdefault((decays, scale, each.ndim == 0), []).append(each)
    return [
        {
            "params": params,
            "weight_decay": settings.weight_decay if decays else 0.0,
            "scale": scale,
        }
        for (decays, scale, _), params in sorted(groups.items(), key=lambda item: item[0])
    ]
