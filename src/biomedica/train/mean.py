"""A running mean of the weights (EMA), which is what is evaluated and saved where it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class MeanWeights:
    """mean = decay * mean + (1 - decay) * weights, after every step (Polyak, Juditsky 1992).

    decay   0: nothing is kept, and all methods do nothing

    Under FSDP each rank keeps the mean of its parts; all ranks call `state` and `load`.
    """

    def __init__(self, model: Any, decay: float) -> None:
        self._decay = decay
        self._mean = {
            name: each.detach().clone() for name, each in _learning(model).items() if decay
        }

    def update(self, model: Any) -> None:
        """After a step of the optimizer."""
        if self._decay:
            now = _learning(model)
            with torch.no_grad():
                for name, mean in self._mean.items():
                    mean.lerp_(now[name].detach(), 1 - self._decay)

    def state(self) -> dict[str, torch.Tensor]:
        """For a checkpoint: whole, whatever number of ranks share it."""
        return {name: _whole(each).cpu() for name, each in self._mean.items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """From a checkpoint."""
        for name, each in self._mean.items():
            each.copy_(_divided_as(each, state[name]))

    @contextmanager
    def in_place(self, model: Any) -> Iterator[None]:
        """The model with the mean as its weights."""
        parameters = _learning(model) if self._decay else {}
        kept = {name: each.detach().clone() for name, each in parameters.items()}
        with torch.no_grad():
            for name, each in parameters.items():
                each.copy_(self._mean[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, each in parameters.items():
                    each.copy_(kept[name])


def _whole(value: Any) -> torch.Tensor:
    found: torch.Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return found


def _divided_as(own: Any, whole: torch.Tensor) -> torch.Tensor:
    """A whole tensor, cut as FSDP cuts another."""
    if not hasattr(own, "full_tensor"):
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole.to(own.device), own.device_mesh, own.placements)


def _learning(model: Any) -> dict[str, Any]:
    return {name: each for name, each in model.named_parameters() if each.requires_grad}
