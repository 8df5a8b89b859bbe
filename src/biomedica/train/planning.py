"""What a config takes before it is run: samples, steps, FLOPs, accelerator hours, memory of weights."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from biomedica.clip import TFLOPS, UTILISATION, Cost, cost, plan
from biomedica.errors import BiomedicaError, ConfigError
from biomedica.train.settings import TrainSettings, pairs_at_once

log = logging.getLogger(__name__)


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
    """Of all epochs and views."""
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
    per_rank = pairs_at_once(chosen, world)
    samples, seen = _num_pairs(settings)
    found = _with_texts(cost(settings.model), settings.data.texts_per_image)
    plans = [
        plan(
            found,
            num_samples=seen,
            epochs=1,
            batch=chosen.batch,
            accelerator=name,
            precision=chosen.precision,
        )
        for name in TFLOPS
        if chosen.precision in TFLOPS[name]
    ]
    extra = (found.image_forward + found.text_forward) if chosen.accumulate > 1 else 0
    more = 1 + extra / found.flops  # accumulation makes the features of all parts first
    return RunPlan(
        samples=samples,
        samples_seen=seen,
        steps=seen // chosen.batch,
        batch=chosen.batch,
        per_rank=per_rank,
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


def _with_texts(found: Cost, texts: int) -> Cost:
    """The cost of a picture with several texts."""
    return replace(
        found, text_forward=found.text_forward * texts, text_backward=found.text_backward * texts
    )


def _num_pairs(settings: TrainSettings) -> tuple[int, int]:
    """Pairs of an epoch of the first view, and of the whole run; by `data.samples` where the views are not at hand."""
    from biomedica.stream.mix import Mix
    from biomedica.train.loop import open_sources

    data = settings.data
    try:
        sources = open_sources(data, settings.stream)
        mix = Mix(sources, settings.run.seed, settings.order)
        return len(sources[0].samples), mix.length(data.epochs)
    except BiomedicaError as error:
        if not data.samples:
            raise ConfigError(
                f"data.samples says not how many pairs there are, and: {error}"
            ) from None
        if data.sources and all(each.archive != "ARCHIVE" for each in data.sources):
            log.warning("counted by data.samples, for the views cannot be opened: %s", error)
    weights = [each.weight for each in data.sources] or [1.0]
    return data.samples, round(data.samples * data.epochs * sum(weights) / weights[0])
