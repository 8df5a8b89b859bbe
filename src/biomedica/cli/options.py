"""What all commands share: the app, its options, exit codes, progress and how results are printed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from biomedica import __version__

if TYPE_CHECKING:
    from biomedica.config import Settings
    from biomedica.flow import Listener, Progress

app = App(
    name="biomedica",
    version=__version__,
    help="From PubMed Central Open Access to an image-caption archive.",
)


FAULT, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143
"""Exit codes: a failing source or archive, a mistake in the command, Ctrl-C, SIGTERM."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every command."""

    config: Path | None = None
    """TOML file with settings (`biomedica settings` prints all of them)."""
    set: Annotated[list[str] | None, Parameter(negative="")] = None
    """Change one setting: `--set images.min_side=40`. May be repeated."""
    json: Annotated[bool, Parameter(negative="")] = False
    """Print the result as JSON on standard output."""
    quiet: Annotated[bool, Parameter(negative="")] = False
    """No progress."""

    def settings(self) -> Settings:
        from biomedica.config import load_settings

        return load_settings(self.config, self.set)


COMMON = Common()


@contextmanager
def listener(common: Common) -> Iterator[Listener]:
    """Progress on standard error: a bar on a terminal, a line every ten seconds elsewhere."""
    if common.quiet:
        yield lambda progress: None
    elif sys.stderr.isatty():
        with _bars() as tell:
            yield tell
    else:
        yield _Lines()


class _Lines:
    """Progress as plain lines."""

    def __init__(self, seconds: float = 10) -> None:
        self._seconds = seconds
        self._stage = ""
        self._started = self._last = 0.0
        self._heard = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.stage != self._stage:
            self._stage, self._started, self._last = progress.stage, self._heard, 0.0
        self._heard = now
        if now - self._last < self._seconds and progress.done < progress.total:
            return
        self._last = now
        rate = progress.done / max(now - self._started, 1e-9)
        left = (progress.total - progress.done) / rate if rate else 0.0
        extra = (
            f", {progress.pairs:,} pairs, {progress.rejects:,} rejects" if progress.pairs else ""
        )
        print(
            f"{progress.stage}: {progress.done:,} of {progress.total:,} {progress.unit}{extra}, "
            f"{rate:.1f} {progress.unit} a second, {duration(left)} left",
            file=sys.stderr,
            flush=True,
        )


@contextmanager
def _bars() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        known: dict[str, Any] = {}
        started: dict[str, float] = {}
        heard = time.monotonic()

        def tell(progress: Progress) -> None:
            nonlocal heard
            if progress.stage not in known:
                known[progress.stage] = bars.add_task(progress.stage, note="")
                started[progress.stage] = heard
            heard = time.monotonic()
            seconds = max(heard - started[progress.stage], 1e-9)
            note = (
                f"{progress.pairs:,} pairs, {progress.rejects:,} rejects" if progress.pairs else ""
            )
            bars.update(
                known[progress.stage],
                completed=progress.done,
                total=progress.total,
                note=f"{progress.unit}, {progress.done / seconds:.1f}/s {note}",
            )

        yield tell


def size(number: float) -> str:
    """Bytes in words."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """Seconds in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def print_json(value: Any) -> None:
    """A result as JSON on standard output."""
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    print(json.dumps(plain, indent=1, default=str, sort_keys=True, ensure_ascii=False))
