"""The processes of a run: alone, or under torchrun with DDP or FSDP2."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from biomedica.errors import ConfigError
from biomedica.models import torch_device
from biomedica.train.settings import RunSettings


@dataclass(frozen=True, slots=True)
class World:
    """This process among the others."""

    rank: int
    size: int
    device: torch.device
    kind: str
    """`alone`, `ddp` or `fsdp`."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def wrap(self, model: Any, compiled: bool) -> Any:
        """The model as the forward pass calls it."""
        if self.kind == "fsdp":
            _shard(model)
        called = torch.compile(model) if compiled else model
        if self.kind == "ddp":
            ids = [self.device] if self.device.type == "cuda" else None
            return torch.nn.parallel.DistributedDataParallel(called, device_ids=ids)
        return called

    @contextmanager
    def quiet(self, wrapped: Any, active: bool) -> Iterator[None]:
        """Without exchanging gradients, where `active`."""
        if active and self.kind == "ddp":
            with wrapped.no_sync():
                yield
        elif self.kind == "fsdp":
            getattr(wrapped, "_orig_mod", wrapped).set_requires_gradient_sync(not active)
            yield
        else:
            yield

    def share_scalars(self, model: Any) -> None:
        """Under FSDP, which leaves the scale and the bias alone: the mean of their gradients."""
        if self.kind == "fsdp":
            for each in scalars_of(model):
                if each.grad is not None:
                    each.grad.copy_(self.mean(each.grad))

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean over the processes."""
        if self.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.size

    def any(self, value: bool) -> bool:
        """Whether it holds in any process."""
        if self.size == 1:
            return value
        found = torch.tensor([float(value)], device=self.device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return bool(found.item())

    def agrees(self, value: str) -> bool:
        """Whether it is the same in all processes."""
        found: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(found, value)
        return len(set(found)) == 1

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def join(settings: RunSettings) -> Iterator[World]:
    """Find the others by torchrun's environment. Raises `ConfigError` for a device that is not there."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = _device(settings.device, int(os.environ.get("LOCAL_RANK", 0)))
    if size == 1 and settings.distributed == "ddp":
        yield World(0, 1, device, "alone")
        return
    if size == 1:
        raise ConfigError("run.distributed is fsdp; start it with torchrun")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(rank, size, device, settings.distributed)
    finally:
        dist.destroy_process_group()


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    found: torch.device = torch_device(f"cuda:{local_rank}" if name == "cuda" else name)
    return found


def _shard(model: Any) -> None:
    """FSDP2: the blocks of both towers, then what is left, but for the scale and the bias (of no dimension).

    What is left is given back after each forward pass too: an evaluation of the mean weights would leave them
    to the next step.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    scalars = set(scalars_of(model))
    for module in list(model.modules()):
        children = getattr(module, "blocks", None) or getattr(module, "resblocks", None)
        children = children or getattr(module, "layer", None) or getattr(module, "layers", None)
        if isinstance(children, (torch.nn.ModuleList, torch.nn.Sequential)):
            for block in children:
                fully_shard(block)
    fully_shard(model, ignored_params=scalars, reshard_after_forward=True)
    for name in ("encode_image", "encode_text"):
        register_fsdp_forward_method(model, name)


def scalars_of(model: Any) -> list[Any]:
    """Parameters without a dimension: the logit scale and bias."""
    return [each for each in model.parameters() if each.ndim == 0]
