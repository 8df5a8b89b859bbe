"""What a model costs: its parameters, the arithmetic of a training pair, and the hours of a plan.

Counted from the architecture alone, on torch's meta device: no weights, no folder and no network are needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from biomedica.clip.build import assemble
from biomedica.clip.designs import open_clip_module, read_design
from biomedica.clip.settings import Made, ModelSettings
from biomedica.errors import ConfigError

TFLOPS: dict[str, dict[str, float]] = {
    "V100": {"fp32": 15.7, "fp16": 125.0},
    "A100": {"fp32": 19.5, "tf32": 156.0, "bf16": 312.0, "fp16": 312.0},
    "H100": {"fp32": 67.0, "tf32": 494.7, "bf16": 989.4, "fp16": 989.4},
}
"""Peak dense teraflops (SXM, without sparsity) from NVIDIA's data sheets."""
UTILISATION = 0.4
"""Share of the peak that training reaches: an assumption, not a measurement."""
_COUNTED = 2
"""Pairs that are counted at once (norms over a batch want more than one)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """A model's size and the floating-point operations of one training pair (a multiply-add is two)."""

    image_parameters: int
    text_parameters: int
    parameters: int
    trainable: int
    image_forward: int
    text_forward: int
    image_backward: int
    text_backward: int
    """A locked tower has none; gradient checkpointing puts its second forward pass here."""
    weight_bytes: int
    """Of the weights in float32."""
    optimizer_bytes: int
    """Of gradients and AdamW's two moments in float32; activations are not in it."""

    @property
    def flops(self) -> int:
        """Of one pair, forward and backward. The similarity of each pair with the rest of the batch is left out."""
        return self.image_forward + self.text_forward + self.image_backward + self.text_backward


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A training run in numbers, before it is run."""

    samples: int
    """Pairs seen, each epoch's counted."""
    steps: int
    """Of the optimizer."""
    flops: float
    gpu_hours: float
    accelerator: str
    precision: str
    utilisation: float
    """The share of the accelerator's peak that `gpu_hours` assumes."""


def cost(settings: ModelSettings) -> Cost:
    """Count a model as the settings make it: padded texts, patch dropout, locks and checkpointing as they train.

    Attention counts in full, also where a tower looks at a window or a kernel would skip padding.
    """
    import torch

    open_clip_module()
    with torch.device("meta"):
        made = assemble(read_design(settings, weights=False), settings, weights=False)
        image = torch.zeros(_COUNTED, 3, made.preprocess.size, made.preprocess.size)
        text = torch.ones(_COUNTED, made.settings.context_length, dtype=torch.int64)
    model = made.model.train()
    image_forward, image_backward = _flops(model.encode_image, image)
    text_forward, text_backward = _flops(_text_encoder(model), text)
    sizes = _sizes(made)
    return Cost(
        **sizes,
        image_forward=image_forward,
        image_backward=image_backward,
        text_forward=text_forward,
        text_backward=text_backward,
        weight_bytes=4 * sizes["parameters"],
        optimizer_bytes=12 * sizes["trainable"],
    )


def _text_encoder(model: Any) -> Any:
    """`encode_text`; a tower of transformers without its mask, whose values it would look at (here it has none)."""
    import torch

    text: Any = getattr(model, "text", None)
    if not hasattr(text, "pooler"):
        return model.encode_text
    return lambda tokens: text.proj(
        text.pooler(text.transformer(input_ids=tokens), torch.ones_like(tokens))
    )


def _flops(encode: Any, inputs: Any) -> tuple[int, int]:
    """Forward and backward, of one item."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as forward:
        found = encode(inputs).sum()
    if not found.requires_grad:
        return forward.get_total_flops() // _COUNTED, 0
    with FlopCounterMode(display=False) as backward:
        found.backward()
    return forward.get_total_flops() // _COUNTED, backward.get_total_flops() // _COUNTED


def _sizes(made: Made) -> dict[str, int]:
    image = sum(each.numel() for each in made.model.visual.parameters())
    scales = [made.model.logit_scale, getattr(made.model, "logit_bias", None)]
    total = sum(each.numel() for each in made.model.parameters())
    return {
        "image_parameters": image,
        "text_parameters": total - image - sum(each.numel() for each in scales if each is not None),
        "parameters": total,
        "trainable": sum(each.numel() for each in made.model.parameters() if each.requires_grad),
    }


def plan(
    cost: Cost,
    *,
    num_samples: int,
    epochs: int,
    batch: int,
    accelerator: str = "A100",
    precision: str = "bf16",
    utilisation: float = UTILISATION,
) -> Plan:
    """The run's steps and accelerator hours, by arithmetic alone. Reading and evaluation are not in it.

    num_samples   pairs in an epoch
    batch         pairs in a step of the optimizer, over all accelerators
    utilisation   share of the peak, in (0, 1]
    """
    peaks = TFLOPS.get(accelerator)
    if peaks is None:
        raise ConfigError(f"accelerator is {accelerator!r}; known are {', '.join(TFLOPS)}")
    if precision not in peaks:
        raise ConfigError(f"precision {precision!r}: {accelerator} has {', '.join(peaks)}")
    if min(num_samples, epochs, batch) < 1 or not 0 < utilisation <= 1:
        raise ConfigError("num_samples, epochs and batch are 1 or more, utilisation above 0 to 1")
    samples = num_samples * epochs
    flops = float(samples) * cost.flops
    return Plan(
        samples=samples,
        steps=math.ceil(samples / batch),
        flops=flops,
        gpu_hours=flops / (peaks[precision] * 1e12 * utilisation) / 3600,
        accelerator=accelerator,
        precision=precision,
        utilisation=utilisation,
    )
