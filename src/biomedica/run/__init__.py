"""The task map: run what is planned and not done, whatever dies on the way.

A job that dies is tried again. When it dies twice at the same item, that item is left out, its reject
says so, and the rest of the shard is built; the same items are left out on any engine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomedica.archive import Archive
from biomedica.errors import BiomedicaError, ConfigError, TaskError
from biomedica.records import Reason
from biomedica.run.engines import Engine, Outcome
from biomedica.run.guard import read_trace

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """How tasks are run. None of it changes a byte of the output."""

    item_seconds: float = 120
    """Longest time for one article's XML or one picture; then the process is killed and the item rejected."""
    memory_mb: int = 4096
    """Address space that a worker may take on top of what it starts with."""
    retries: int = 2
    """Further tries of a task whose worker died for no known reason."""
    max_left_out: int = 100
    """Items that may kill a worker in one task before the task is given up."""

    def __post_init__(self) -> None:
        if self.item_seconds <= 0 or self.memory_mb < 64:
            raise ConfigError("run.item_seconds must be positive and run.memory_mb at least 64")


@dataclass(frozen=True, slots=True, order=True)
class LeftOut:
    """An item that a task must not touch."""

    item: str
    """`PMC1.1` or `PMC1.1/a.jpg`."""
    reason: Reason


def trace_path(archive: Path, task: str) -> Path:
    """Where the worker of a task leaves its trace."""
    return archive / "done" / f".{task}.trace"


@dataclass(slots=True)
class _Attempts:
    """What happened to one task so far."""

    left_out: frozenset[LeftOut] = frozenset()
    suspects: tuple[str, ...] = ()
    deaths: int = 0


def run_tasks(
    engine: Engine,
    archive: Archive,
    tasks: Sequence[str],
    function: Callable[..., Any],
    job_of: Callable[[str], object],
    settings: RunSettings,
) -> Iterator[Any]:
    """Call `function(job_of(task), task, left_out)` for every task; yield what each returns, as they end.

    Raises what a task raises (its own error is no reason to try again), `TaskError` for a task that
    keeps dying. The other tasks' work up to then stands.
    """
    attempts = {task: _Attempts() for task in tasks}
    waiting = list(tasks)[::-1]
    running: set[str] = set()
    try:
        while waiting or running:
            while waiting and len(running) < engine.slots:
                task = waiting.pop()
                engine.submit(task, function, job_of(task), task, attempts[task].left_out)
                running.add(task)
            for outcome in engine.outcomes(seconds=1.0):
                running.discard(outcome.name)
                if outcome.died:
                    _after_death(archive, outcome, attempts[outcome.name], settings)
                    waiting.append(outcome.name)
                elif outcome.error is not None:
                    raise _task_error(outcome)
                else:
                    yield outcome.value
    finally:
        engine.stop()


def _after_death(
    archive: Archive, outcome: Outcome, attempts: _Attempts, settings: RunSettings
) -> None:
    path = trace_path(archive.root, outcome.name)
    trace = read_trace(path)
    path.unlink(
        missing_ok=True
    )  # or the next death, before its first item, is laid at this one's door
    attempts.deaths += 1
    log.warning("%s: its process died at %s", outcome.name, trace.item if trace else "no item")
    if trace is not None and trace.item in attempts.suspects:
        timed_out = trace.seconds >= settings.item_seconds * 0.95
        reason = Reason.TIMED_OUT if timed_out else Reason.CRASHED
        attempts.left_out |= {LeftOut(trace.item, reason)}
        attempts.deaths = 0
        if len(attempts.left_out) > settings.max_left_out:
            raise TaskError(
                f"task {outcome.name}: more than {settings.max_left_out} items killed their process; "
                "the machine is more likely at fault than they are"
            )
    elif attempts.deaths > settings.retries:
        raise TaskError(
            f"task {outcome.name}: its process died {attempts.deaths} times, the last time at "
            f"{trace.item if trace else 'no item'} ({outcome.error}). Is memory short? Fewer workers "
            "need less"
        )
    if trace is not None:
        attempts.suspects = (*attempts.suspects, trace.item)


def _task_error(outcome: Outcome) -> BaseException:
    error = outcome.error
    if isinstance(error, BiomedicaError):
        return error
    notes = "\n".join(getattr(error, "__notes__", [])) or repr(error)
    return TaskError(f"task {outcome.name} failed; this is a fault of biomedica:\n{notes}")
