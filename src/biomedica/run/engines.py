"""Where tasks run: in killable processes of this machine, or on a Ray cluster.

An engine calls `function(*arguments)` for each job, a bounded number at a time, and gives back what
came of it, in any order. It knows nothing of shards, retries or done files.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from biomedica.errors import BiomedicaError, ConfigError


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one job."""

    name: str
    value: Any = None
    error: BaseException | None = None
    """What the function raised, with its traceback in the notes."""
    died: bool = False
    """The process ended in the middle of the job."""


class Engine(Protocol):
    """Runs jobs. `submit` never blocks; `outcomes` waits for the next ones to end."""

    slots: int
    """Jobs that are worth having in flight."""

    def submit(self, name: str, function: Callable[..., Any], *arguments: Any) -> None: ...

    def outcomes(self, seconds: float) -> Iterator[Outcome]:
        """Jobs that ended, after waiting for at most so many seconds for the first of them."""
        ...

    def stop(self) -> None:
        """End every job, at once."""
        ...


class LocalEngine:
    """Processes of this machine, one for each job, so that one that dies takes only its own job with it.

    They are forked from a clean server process that has the program loaded: libraries with threads of
    their own do not survive a fork of this one. They die with this process, however it ends.
    """

    def __init__(self, workers: int) -> None:
        self.slots = workers
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["biomedica.build"])
        self._jobs: dict[Connection, tuple[str, BaseProcess]] = {}
        self._watched, self._alive = self._context.Pipe(duplex=False)

    def submit(self, name: str, function: Callable[..., Any], *arguments: Any) -> None:
        here, there = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_work, args=(self._watched, there, function, arguments), name=name, daemon=True
        )
        process.start()
        there.close()
        self._jobs[here] = name, process

    def outcomes(self, seconds: float) -> Iterator[Outcome]:
        for here in wait(list(self._jobs), timeout=seconds):
            assert isinstance(here, Connection)
            name, process = self._jobs.pop(here)
            try:
                value, error = here.recv()
            except (EOFError, OSError):
                process.join()
                death = RuntimeError(f"exit code {process.exitcode}")
                yield Outcome(name, error=death, died=True)
            else:
                process.join()
                yield Outcome(name, value=value, error=error)
            here.close()

    def stop(self) -> None:
        for here, (_, process) in self._jobs.items():
            process.kill()
            process.join()
            here.close()
        self._jobs.clear()
        self._watched.close()
        self._alive.close()


def _work(
    watched: Connection, there: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """A worker process: call, send what came of it, end."""
    threading.Thread(target=_die_with_runner, args=(watched,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner stops its workers itself
    answer: tuple[Any, BaseException | None]
    try:
        answer = _call(function, arguments), None
    except Exception as error:
        answer = None, error
    try:
        there.send(answer)
    except (pickle.PicklingError, AttributeError, TypeError):
        said = "".join(traceback.format_exception(answer[1])) if answer[1] else "its result"
        there.send((None, RuntimeError(f"cannot be sent between processes: {said}")))


def _die_with_runner(watched: Connection) -> None:
    """End this process when the runner has ended, however: nobody else holds the pipe's other end."""
    with suppress(EOFError, OSError):
        watched.recv_bytes()
    os._exit(1)


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call, and keep the traceback with an error that crosses the process boundary."""
    try:
        return function(*arguments)
    except BiomedicaError:
        raise
    except Exception as error:
        error.add_note(traceback.format_exc())
        raise


class RayEngine:
    """Ray Core tasks, a bounded window of them in flight; the cluster restarts dead workers."""

    def __init__(self, workers: int | None, address: str | None) -> None:
        try:
            import ray
        except ImportError:
            raise ConfigError("the Ray engine needs Ray: pip install 'biomedica[ray]'") from None
        self._ray: Any = ray
        if not self._ray.is_initialized():
            options: dict[str, Any] = {"include_dashboard": False} if address is None else {}
            if address is None and workers is not None:
                options["num_cpus"] = workers
            self._ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, **options
            )
        cpus = int(self._ray.cluster_resources().get("CPU", 1))
        self.slots = 2 * (min(cpus, workers) if workers else cpus)
        self._remote = self._ray.remote(max_retries=0, num_cpus=1)(_call)
        self._jobs: dict[Any, str] = {}

    def submit(self, name: str, function: Callable[..., Any], *arguments: Any) -> None:
        self._jobs[self._remote.remote(function, arguments)] = name

    def outcomes(self, seconds: float) -> Iterator[Outcome]:
        if not self._jobs:
            return
        ended, _ = self._ray.wait(list(self._jobs), num_returns=1, timeout=seconds)
        for reference in ended:
            name = self._jobs.pop(reference)
            try:
                yield Outcome(name, value=self._ray.get(reference))
            except self._ray.exceptions.RayTaskError as error:
                yield Outcome(name, error=getattr(error, "cause", None) or error)
            except self._ray.exceptions.RayError as error:
                yield Outcome(name, error=error, died=True)

    def stop(self) -> None:
        for reference in self._jobs:
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()


class RayActors(RayEngine):
    """Actors that stay, each with GPUs of its own: what a job loads (a model) stays for the next one."""

    def __init__(self, workers: int | None, address: str | None, gpus: float) -> None:
        super().__init__(workers, address)
        found = self._ray.cluster_resources()
        there, cpus = found.get("GPU", 0), int(found.get("CPU", 1))
        if gpus > there:
            self._ray.shutdown()
            raise ConfigError(
                f"the Ray cluster has {there:g} GPUs; {gpus:g} a worker are asked for"
            )
        # an actor that does not fit would wait for ever
        most = min(cpus, int(there / gpus)) if gpus else cpus
        self.slots = min(workers or (most if gpus else 1), most)
        actor = self._ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1)(_Caller)
        self._free = [actor.remote() for _ in range(self.slots)]
        self._busy: dict[str, Any] = {}

    def submit(self, name: str, function: Callable[..., Any], *arguments: Any) -> None:
        self._busy[name] = self._free.pop()
        self._jobs[self._busy[name].call.remote(function, arguments)] = name

    def outcomes(self, seconds: float) -> Iterator[Outcome]:
        for outcome in super().outcomes(seconds):
            self._free.append(self._busy.pop(outcome.name))
            yield outcome

    def stop(self) -> None:
        self._jobs.clear()  # a method of an actor cannot be cancelled by force: they go with Ray
        super().stop()


class _Caller:
    """What an actor does."""

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return _call(function, arguments)


class InlineEngine:
    """This very process, one job after the other: for debugging and for measuring."""

    slots = 1

    def __init__(self) -> None:
        self._jobs: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = []

    def submit(self, name: str, function: Callable[..., Any], *arguments: Any) -> None:
        self._jobs.append((name, function, arguments))

    def outcomes(self, seconds: float) -> Iterator[Outcome]:
        while self._jobs:
            name, function, arguments = self._jobs.pop(0)
            yield Outcome(name, value=_call(function, arguments))

    def stop(self) -> None:
        self._jobs.clear()


def open_engine(
    name: str, workers: int | None, address: str | None, actor_gpus: float | None = None
) -> Engine:
    """An engine by name: `local`, `ray` or `inline`.

    workers      None: one for each core
    actor_gpus   `ray`: actors with so many GPUs each, instead of tasks
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"{workers} workers; at least 1 is expected")
    if name == "local":
        return LocalEngine(workers or multiprocessing.cpu_count())
    if name == "ray" and actor_gpus is not None:
        return RayActors(workers, address, actor_gpus)
    if name == "ray":
        return RayEngine(workers, address)
    if name == "inline":
        return InlineEngine()
    raise ConfigError(f"unknown engine {name!r}; known are local, ray and inline")
