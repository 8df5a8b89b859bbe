"""What a run says of itself: log.jsonl always, TensorBoard, wandb or trackio by choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from biomedica.errors import ArchiveError, ConfigError
from biomedica.shards import write_file
from biomedica.train.settings import TrainSettings, plain


class Logger(Protocol):
    """A place for numbers."""

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Numbers of one step."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class Log:
    """All loggers of a run. On going on, lines of steps that are made again are dropped first."""

    def __init__(self, folder: Path, settings: TrainSettings, step: int) -> None:
        self._path = folder / "log.jsonl"
        before = read_log(folder) if step else []  # a run that begins scores its start again
        kept = [line for line in before if line["step"] <= step]
        text = "".join(f"{json.dumps(line)}\n" for line in kept)
        write_file(self._path, text.encode())
        self._others = [_opened(name, folder, settings, step) for name in settings.run.loggers]
        self._file = self._path.open("a", buffering=1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """A line of log.jsonl, and the same numbers elsewhere."""
        self._file.write(f"{json.dumps({'step': step, **values})}\n")
        for other in self._others:
            other.write(step, values)

    def close(self) -> None:
        """End of the run."""
        self._file.close()
        for other in self._others:
            other.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Lines of a run's log.jsonl; a last line that was cut off is left out. Raises `ArchiveError` for any
    other that cannot be read."""
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    try:
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise ArchiveError(f"{path} is damaged ({error}); remove it, or the line") from None


def _opened(name: str, folder: Path, settings: TrainSettings, step: int) -> Logger:
    try:
        if name == "tensorboard":
            return _TensorBoard(folder, step)
        return _Hosted(name, folder, settings)
    except ImportError:
        raise ConfigError(
            f"run.loggers names {name}, which is not installed; pip install {name}, or leave it out"
        ) from None


class _TensorBoard:
    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Hosted:
    """wandb and trackio, which speak the same language."""

    def __init__(self, name: str, folder: Path, settings: TrainSettings) -> None:
        import importlib

        self._module: Any = importlib.import_module(name)
        self._module.init(
            project=settings.run.project, name=folder.name, config=plain(settings), resume="allow"
        )

    def write(self, step: int, values: dict[str, Any]) -> None:
        self._module.log(values, step=step)

    def close(self) -> None:
        self._module.finish()
