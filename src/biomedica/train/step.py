"""One step of the optimizer: the contrastive loss of the whole batch, however it is cut."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from biomedica.clip import Made
from biomedica.errors import ConfigError
from biomedica.train.groups import parameter_groups
from biomedica.train.normalise import Normalise
from biomedica.train.settings import OptimizerSettings
from biomedica.train.world import World


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step found."""

    loss: Tensor
    """Mean over the ranks' parts of the batch; still on the device."""
    grad_norm: Tensor | None
    """Before clipping; None where nothing is clipped."""
    lr: float


class Stepper:
    """Model, loss and optimizer of one rank."""

    def __init__(
        self, made: Made, wrapped: Any, settings: OptimizerSettings, world: World, num_steps: int
    ) -> None:
        self.made, self.model, self.wrapped = made, made.model, wrapped
        self.model.output_dict = True
        self.settings, self.world = settings, world
        self._num_steps = num_steps
        self._loss = _loss(settings, world)
        if settings.loss == "siglip" and getattr(self.model, "logit_bias", None) is None:
            raise ConfigError("optimizer.loss is siglip; model.init_logit_bias must be given (-10)")
        groups = parameter_groups(self.model.named_parameters(), settings)
        if not groups:
            raise ConfigError("no weights are left to learn: both towers are locked")
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
            fused=world.kind != "fsdp",
        )
        self._normalise = Normalise(made.preprocess, world.device)

    def step(self, number: int, images: Tensor, tokens: Tensor, seed: int) -> Outcome:
        """Learn from this rank's share of a batch.

        images   uint8 (B, 3, S, S); tokens   int64 (B, texts an image, T)
        seed     of dropout in this step, so that a run that goes on drops the same
        """
        lr = self._set_rate(number)
        self.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed((seed * 1_000_003 + number) * 4099 + self.world.rank)
        images = images.to(self.world.device, non_blocking=True)
        tokens = tokens.to(self.world.device, non_blocking=True)
        if self.settings.accumulate == 1:
            loss = self._whole(images, tokens)
        else:
            loss = self._in_parts(images, tokens)
        self.world.share_scalars(self.model)
        norm = self._clip() if self.settings.grad_clip else None
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(self.settings.max_logit_scale))
        return Outcome(loss, norm, lr)

    def _clip(self) -> Tensor:
        """Scale the gradient down to the largest norm; the norm before. FSDP's parts and whole tensors apart."""
        learning = [each for each in self.model.parameters() if each.grad is not None]
        parts = [each for each in learning if hasattr(each, "full_tensor")]
        kinds = [
            some for some in (parts, [p for p in learning if not hasattr(p, "full_tensor")]) if some
        ]
        squares = []
        for some in kinds:
            norm = torch.nn.utils.get_total_norm([_gradient(each) for each in some])
            squares.append((norm.full_tensor() if hasattr(norm, "full_tensor") else norm) ** 2)
        total = torch.stack(squares).sum().sqrt()
        for some in kinds:
            torch.nn.utils.clip_grads_with_norm_(some, self.settings.grad_clip, total)
        return total

    def rate(self, number: int) -> float:
        """Learning rate of a step, counted from 0."""
        chosen = self.settings
        if number < chosen.warmup_steps:
            return chosen.lr * (number + 1) / chosen.warmup_steps
        if chosen.schedule == "constant":
            return chosen.lr
        share = (number - chosen.warmup_steps) / max(1, self._num_steps - chosen.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, share))) * chosen.lr

    def _set_rate(self, number: int) -> float:
        lr = self.rate(number)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        return lr

    def forward(self, images: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """Features of length 1, in float32: `image` (B, D), `text` (B, texts an image, D), `scale`, `bias`."""
        pixels = self._normalise(images)
        with self.autocast():
            found = self.wrapped(pixels, tokens.flatten(0, 1))
        return {
            "image": found["image_features"].float(),
            "text": found["text_features"].float().unflatten(0, tokens.shape[:2]),
            "scale": found["logit_scale"].float(),
            **({"bias": found["logit_bias"].float()} if "logit_bias" in found else {}),
        }

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of forward passes."""
        if self.settings.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.world.device.type, torch.bfloat16)

    def loss(self, features: dict[str, Tensor]) -> Tensor:
        """Of this rank's share against the whole batch; the mean over ranks is the batch's."""
        extra = {"logit_bias": features["bias"]} if "bias" in features else {}
        losses = [
            self._loss(features["image"], text, features["scale"], **extra)
            for text in features["text"].unbind(1)
        ]
        return torch.stack(losses).mean()

    def _whole(self, images: Tensor, tokens: Tensor) -> Tensor:
        loss = self.loss(self.forward(images, tokens))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _in_parts(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Gradient of the whole batch's loss with the memory of a part (Gao et al., GradCache, 2021):
        features of all parts without a graph, the loss's gradient by them, then each part again."""
        parts = self.settings.accumulate
        chunks = list(zip(images.chunk(parts), tokens.chunk(parts), strict=True))
        states, cached = [], []
        for part in chunks:
            states.append(_random_state(self.world.device))
            with torch.no_grad():
                cached.append(self.forward(*part))
        whole = {
            name: torch.cat([each[name] for each in cached]).requires_grad_()
            for name in ("image", "text")
        }
        scalars: dict[str, Tensor] = {
            name: cached[0][name].detach().clone().requires_grad_()
            for name in ("scale", "bias")
            if name in cached[0]
        }
        loss = self.loss({**whole, **scalars})
        loss.backward()  # type: ignore[no-untyped-call]
        cuts = zip(*(_gradient(each).chunk(parts) for each in whole.values()), strict=True)
        for number, (part, state, cut) in enumerate(zip(chunks, states, cuts, strict=True)):
            last = number == parts - 1
            _set_random_state(state, self.world.device)
            with self.world.quiet(self.wrapped, not last):
                found = self.forward(*part)
                terms = [(found[name] * each).sum() for name, each in zip(whole, cut, strict=True)]
                # once for all parts; with weight 0 in the others, so that every graph is whole
                share = 1.0 if last else 0.0
                terms += [(found[n] * _gradient(v)).sum() * share for n, v in scalars.items()]
                torch.stack(terms).sum().backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def _gradient(values: Tensor) -> Tensor:
    assert values.grad is not None
    return values.grad


def _loss(settings: OptimizerSettings, world: World) -> Any:
    """open_clip's losses. Gathered features always carry their gradients: without them, each rank's
    gradient would lack what its features do to the other ranks' rows."""
    from open_clip.loss import ClipLoss, SigLipLoss

    if settings.loss == "siglip":
        return SigLipLoss(rank=world.rank, world_size=world.size, dist_impl="gather")
    return ClipLoss(
        local_loss=settings.local_loss,
        gather_with_grad=True,
        cache_labels=True,
        rank=world.rank,
        world_size=world.size,
    )


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), cuda


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
