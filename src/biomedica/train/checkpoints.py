"""Checkpoints: all that a run needs to go on to the bit, written under a temporary name, then renamed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from biomedica.errors import ArchiveError
from biomedica.shards import disk_message
from biomedica.train.step import Stepper
from biomedica.train.world import World

_NAME = re.compile(r"step-(\d{8})\.pt")
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_SHARED = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


class Checkpoints:
    """The checkpoints of a run, the last `keep` of them; with a copy of each in a bucket, if wanted."""

    def __init__(self, folder: Path, keep: int, upload: str = "") -> None:
        self.folder = folder
        self._keep = keep
        self._bucket = _Bucket(upload) if upload else None

    def paths(self) -> list[Path]:
        """Complete checkpoints on this machine, the oldest first."""
        found = (path for path in self.folder.glob("step-*.pt") if _NAME.fullmatch(path.name))
        return sorted(found)

    def latest(self) -> Path | None:
        """The newest, fetched from the bucket where this machine has none."""
        found = self.paths()
        if found or self._bucket is None:
            return found[-1] if found else None
        names = self._bucket.names()
        if not names:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / names[-1]
        own = path.with_name(f".{path.name}.tmp")
        self._bucket.get(names[-1], own)
        own.replace(path)
        return path

    def write(self, step: int, content: dict[str, Any]) -> Path:
        """Write one and remove the oldest. Raises `ArchiveError` on a full disk, with the older ones whole."""
        path = self.folder / f"step-{step:08d}.pt"
        own = self.folder / f".{path.name}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(".step-*.tmp"):
                leftover.unlink()
            torch.save(content, own)
            with own.open("rb") as file:
                os.fsync(file.fileno())
            own.replace(path)
        except (OSError, RuntimeError) as error:
            own.unlink(missing_ok=True)
            if isinstance(error, RuntimeError):  # torch's writer says it so
                error = OSError(str(error).splitlines()[0])
            raise ArchiveError(disk_message(self.folder, error)) from error
        if self._bucket is not None:
            self._bucket.put(path)
        for old in self.paths()[: -self._keep]:
            old.unlink()
        if self._bucket is not None:  # it may hold some that another machine wrote
            for name in self._bucket.names()[: -self._keep]:
                self._bucket.remove(name)
        return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content. Raises `ArchiveError` where it is damaged."""
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises what its unpickler and zip reader raise
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ArchiveError(
            f"{path} cannot be read ({said}); remove it, and the run goes on from the one before"
        ) from None


def state_of(stepper: Stepper) -> dict[str, Any]:
    """Weights and optimizer, whole and on the CPU. All ranks call it; the first gets the content."""
    return {
        "model": weights_of(stepper.model),
        "optimizer": get_optimizer_state_dict(stepper.model, stepper.optimizer, options=_WHOLE),
    }


def weights_of(model: Any) -> dict[str, Any]:
    """A model's weights as `state_of` has them."""
    return get_model_state_dict(model, options=_WHOLE)


def restore(stepper: Stepper, content: dict[str, Any], world: World) -> None:
    """Put weights and optimizer back, whatever number of ranks wrote them."""
    options = _SHARED if world.kind == "fsdp" else StateDictOptions(full_state_dict=True)
    set_model_state_dict(stepper.model, content["model"], options=options)
    set_optimizer_state_dict(
        stepper.model, stepper.optimizer, content["optimizer"], options=options
    )


class _Bucket:
    """A prefix of a bucket."""

    def __init__(self, address: str) -> None:
        from biomedica.stream.files import bucket_at

        self._store, self._prefix = bucket_at(address)
        self._address = address

    def names(self) -> list[str]:
        """Of checkpoints, the oldest first."""
        with self._answering():
            found = [
                item["path"] for some in self._store.list(self._prefix or None) for item in some
            ]
        names = (path.removeprefix(f"{self._prefix}/") for path in found)  # of deeper ones, a path
        return sorted(name for name in names if _NAME.fullmatch(name))

    def put(self, path: Path) -> None:
        with path.open("rb") as file, self._answering():
            self._store.put(self._key(path.name), file)

    def get(self, name: str, target: Path) -> None:
        with target.open("wb") as file, self._answering():
            for chunk in self._store.get(self._key(name)).stream():
                file.write(chunk)

    def remove(self, name: str) -> None:
        with self._answering():
            self._store.delete(self._key(name))

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Say what does not answer."""
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, OSError) as error:
            said = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise ArchiveError(
                f"run.upload: {self._address} does not take or give a checkpoint ({said}); what is on this machine "
                "is whole"
            ) from None

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name
