"""What a config takes before it is run: samples, steps, FLOPs, accelerator hours, memory of weights."""

from __future__ import annotations

from dataclasses import dataclass

from biomedica.clip import TFLOPS, UTILISATION, cost, plan
from biomedica.errors import BiomedicaError, ConfigError
from biomedica.train.settings import TrainSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """One kind of accelerator."""

    accelerator: str
    precision: str
    gpu_hours: float
    """Of one accelerator, at the assumed share of its peak."""
    days: float
    """With as many as `world`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """A run in numbers. Hours are arithmetic, not measurements."""

    samples: int
    """Pairs of an epoch (of the first view)."""
    samples_seen: int
    steps: int
    batch: int
    """Pairs of a step, over all ranks."""
    per_rank: int
    """Pairs of a rank in one forward pass."""
    parameters: int
    trainable: int
    gflops_per_pair: float
    """Forward and backward; a multiply-add is two."""
    flops: float
    weights_gb: float
    """Weights, gradients and AdamW's moments in float32, of one rank without FSDP."""
    utilisation: float
    world: int
    hours: tuple[Hours, ...]


def make_plan(settings: TrainSettings, world: int = 1) -> RunPlan:
    """Count a config. Raises `ConfigError` where neither the view nor `data.samples` says how many pairs.

    world   accelerators
    """
    chosen = settings.optimizer
    if chosen.batch % (world * chosen.accumulate):
        raise ConfigError(
            f"optimizer.batch is {chosen.batch}; a multiple of {world} ranks x {chosen.accumulate} parts is expected"
        )
    samples = _num_samples(settings)
    found = cost(settings.model)
    plans = [
        plan(
            found,
            num_samples=samples,
            epochs=settings.data.epochs,
            batch=chosen.batch,
            accelerator=name,
            precision=chosen.precision,
        )
        for name in TFLOPS
        if chosen.precision in TFLOPS[name]
    ]
    extra = (found.image_forward + found.text_forward) if chosen.accumulate > 1 else 0
    more = 1 + extra / found.flops  # accumulation makes the features of all parts first
    seen = samples * settings.data.epochs
    return RunPlan(
        samples=samples,
        samples_seen=seen,
        steps=seen // chosen.batch,
        batch=chosen.batch,
        per_rank=chosen.batch // world // chosen.accumulate,
        parameters=found.parameters,
        trainable=found.trainable,
        gflops_per_pair=found.flops * more / 1e9,
        flops=float(seen) * found.flops * more,
        weights_gb=(found.weight_bytes + found.optimizer_bytes) / 1e9,
        utilisation=UTILISATION,
        world=world,
        hours=tuple(
            Hours(
                accelerator=each.accelerator,
                precision=each.precision,
                gpu_hours=each.gpu_hours * more,
                days=each.gpu_hours * more / world / 24,
            )
            for each in plans
        ),
    )


def _num_samples(settings: TrainSettings) -> int:
    from biomedica.train.loop import open_sources

    if settings.data.samples:
        return settings.data.samples
    try:
        return len(open_sources(settings.data, settings.stream)[0].samples)
    except BiomedicaError as error:
        raise ConfigError(f"data.samples says not how many pairs there are, and: {error}") from None
