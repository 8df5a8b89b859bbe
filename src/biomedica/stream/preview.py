"""What reading a view takes: requests and bytes by the plan, the rate by a trial."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice

from biomedica.stream.loader import Stream

_PLANNED = 40
"""Groups of batches that are planned; more are taken to be like them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """One epoch of a view, read by one process."""

    samples: int
    wanted_bytes: int
    """Of the pictures, captions and (where they are needed) JSON members."""
    fetched_bytes: int
    """With the gaps that are fetched rather than asked around."""
    requests: int
    is_estimate: bool
    """Whether only a part of the epoch was planned, and the rest taken to be like it."""
    trial_samples: int
    """Samples that were read to find the rate; 0 where none were."""
    samples_per_second: float | None
    """Bytes only: nothing was decoded."""
    seconds: float | None
    """Of an epoch, at that rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadThrough:
    """What a reading found."""

    samples: int
    num_bytes: int
    """Of pictures and captions."""
    seconds: float
    samples_per_second: float


def forecast(stream: Stream, trial_seconds: float) -> Forecast:
    """Plan an epoch; read for some seconds to find the rate.

    trial_seconds   0: nothing is read
    """
    planned = list(islice(stream.requests(), _PLANNED + 1))
    part = planned[:_PLANNED]
    seen = sum(each.samples for each in part)
    factor = stream.total / seen if len(planned) > _PLANNED else 1.0
    trial = _read(stream, trial_seconds) if trial_seconds else None
    rate = trial.samples_per_second if trial else None
    return Forecast(
        samples=stream.total,
        wanted_bytes=round(factor * sum(each.wanted for each in part)),
        fetched_bytes=round(factor * sum(each.fetched for each in part)),
        requests=round(factor * sum(each.requests for each in part)),
        is_estimate=len(planned) > _PLANNED,
        trial_samples=trial.samples if trial else 0,
        samples_per_second=rate,
        seconds=stream.total / rate if rate else None,
    )


def _read(stream: Stream, seconds: float) -> ReadThrough:
    started = time.monotonic()
    samples = num_bytes = 0
    for batch in stream.raw():
        for jpg, txt, _ in batch.members:
            num_bytes += len(jpg) + len(txt)
        samples += len(batch.keys)
        if time.monotonic() - started > seconds:
            break
    passed = max(time.monotonic() - started, 1e-9)
    return ReadThrough(
        samples=samples,
        num_bytes=num_bytes,
        seconds=passed,
        samples_per_second=samples / passed,
    )
