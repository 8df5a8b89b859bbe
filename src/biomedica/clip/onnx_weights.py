"""The weights of a DINOv2 in ONNX, under the names that timm gives them.

An exporter keeps the names of biases and norms, and folds each matrix into a nameless constant. Each such
constant feeds a MatMul whose result meets a named bias in an Add; that is how it gets its name back.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from biomedica.errors import ConfigError

_NAMES = (
    (r"^(backbone|dinov2)\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)


def dinov2_state(path: Path, grid: tuple[int, int]) -> dict[str, Any]:
    """timm's state dict of a DINOv2 without registers, whose initialisers bear the names of transformers.

    grid   rows and columns of patches; the position embedding is resampled to it as the exported graph does
           (bicubic, no antialiasing; timm's own resampling smooths, and its vectors differ)
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise ConfigError("weights from ONNX need pip install 'biomedica[train]'") from None
    import torch

    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # protobuf's exceptions share no other base
        raise ConfigError(f"{path} cannot be read as ONNX: {error}") from error
    arrays = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    named = {name: value for name, value in tensors.items() if not name.startswith("onnx::")}
    named |= _matrices(graph, tensors)
    state = _joined({_timm_name(name): value for name, value in named.items()})
    if "cls_token" not in state or "blocks.0.attn.qkv.weight" not in state:
        raise ConfigError(f"{path} is no DINOv2 with the names of transformers")
    state["pos_embed"] = _position(path, graph, tensors, named, grid)
    return state


def _matrices(graph: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    products = {
        node.output[0]: each
        for node in graph.node
        if node.op_type == "MatMul"
        for each in node.input
        if each in tensors
    }
    found = {}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        biases = [each for each in node.input if each in tensors and each.endswith(".bias")]
        inputs = [each for each in node.input if each in products]
        if biases and inputs:
            found[biases[0].removesuffix("bias") + "weight"] = tensors[
                products[inputs[0]]
            ].T.contiguous()
    return found


def _timm_name(name: str) -> str:
    for pattern, new in _NAMES:
        name = re.sub(pattern, new, name)
    return name


def _joined(state: dict[str, Any]) -> dict[str, Any]:
    """Query, key and value of each block in one, as timm keeps them."""
    import torch

    queries = [name for name in state if ".attention.attention.query." in name]
    for name in queries:
        parts = [
            state.pop(name.replace(".query.", f".{each}.")) for each in ("query", "key", "value")
        ]
        state[name.replace(".attention.attention.query.", ".attn.qkv.")] = torch.cat(parts)
    return state


def _position(
    path: Path, graph: Any, tensors: dict[str, Any], named: dict[str, Any], grid: tuple[int, int]
) -> Any:
    """Position embedding (1, 1 + rows * columns, D): whole in some files, in two nameless parts in others."""
    import torch
    from torch.nn.functional import interpolate

    whole = [value for name, value in named.items() if name.endswith("position_embeddings")]
    used = {
        each: node.op_type
        for node in graph.node
        for each in node.input
        if each.startswith("onnx::")
    }
    parts = {
        kind: tensors[name]
        for name, kind in used.items()
        if name in tensors and tensors[name].ndim == 3
    }
    if whole:
        first, rest = whole[0][:, :1], whole[0][:, 1:]
    elif {"Concat", "Reshape"} <= parts.keys():
        first, rest = parts["Concat"], parts["Reshape"]
    else:
        raise ConfigError(f"{path}: no position embedding found")
    side = math.isqrt(rest.shape[1])
    square = rest.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if grid != (side, side):
        square = interpolate(square, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([first, square.flatten(2).transpose(1, 2)], dim=1)
