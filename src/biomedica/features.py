"""Feature files: a float16 matrix for each shard, row i of it for row i of the shard's figures file.

    features/<set>/encoder.json     what made them
    features/<set>/<shard>.npy      float16 (N, D), rows of length 1; NaN where a picture does not decode
    features/<set>/<shard>.json     the figures file and the encoder that it belongs to, by digest

A file counts while both digests agree: a shard that was compacted has to be embedded again.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedica.archive import Archive, Done, check_name
from biomedica.errors import ArchiveError, ConfigError
from biomedica.shards import disk_message, temporary, write_json


def figures_path(archive: Archive, shard: str) -> Path:
    """The table of a shard's samples."""
    return archive.root / "figures" / shard.rpartition("-")[0] / f"{shard}.parquet"


def figures_digest(done: Done) -> str:
    """SHA-256 of a finished shard's figures file, as its done file states it."""
    return next(file.sha256 for file in done.outputs if file.path.startswith("figures/"))


def figures_digests(archive: Archive) -> dict[str, str]:
    """Digest of the figures file of every finished shard, in order: what tables that rest on all of them
    note, and are stale without."""
    return {shard: figures_digest(done) for shard, done in sorted(archive.done().items())}


def withdrawn_keys(archive: Archive) -> dict[str, set[str]]:
    """Keys of withdrawn samples by shard."""
    found: dict[str, set[str]] = {}
    for key, shard in archive.withdrawn():
        found.setdefault(shard, set()).add(key)
    return found


def live_rows(archive: Archive, shard: str, withdrawn: dict[str, set[str]]) -> NDArray[np.bool_]:
    """(N,): whether a row of the figures file still counts. withdrawn   as `withdrawn_keys` gives it"""
    path = figures_path(archive, shard)
    gone = withdrawn.get(shard)
    if not gone:
        return np.ones(pq.read_metadata(path).num_rows, dtype=bool)
    keys = pq.read_table(path, columns=["key"])["key"].to_pylist()
    return np.array([key not in gone for key in keys], dtype=bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFeatures:
    """What is noted beside a feature file."""

    figures: str
    """Digest of the figures file."""
    encoder: str
    """Digest of the encoder."""
    rows: int
    bad: tuple[int, ...]
    """Rows whose picture does not decode."""


class FeatureSet:
    """The feature files of one encoder in an archive."""

    def __init__(self, archive: Archive, name: str, info: dict[str, Any]) -> None:
        self.archive = archive
        self.name = name
        self.info = info

    @classmethod
    def open(cls, archive: Archive, name: str) -> FeatureSet:
        """Raises `ConfigError` where there is none of that name."""
        _check_name(name)
        path = archive.root / "features" / name / "encoder.json"
        try:
            return cls(archive, name, json.loads(path.read_bytes()))
        except FileNotFoundError:
            known = ", ".join(names(archive)) or "none"
            raise ConfigError(
                f"{archive.root} has no features {name!r} (there are: {known}); "
                "`biomedica embed` makes them"
            ) from None
        except ValueError as error:
            raise ArchiveError(f"{path} is damaged: {error}") from None

    @property
    def folder(self) -> Path:
        return self.archive.root / "features" / self.name

    @property
    def dims(self) -> int:
        return int(self.info["dims"])

    @property
    def digest(self) -> str:
        """Digest of the encoder that made them."""
        return str(self.info["digest"])

    @property
    def _command(self) -> str:
        text = " --text" if self.info["kind"] == "text" else ""
        return (
            f"`biomedica embed {self.archive.root} --encoder {self.info['encoder']} "
            f"--name {self.name}{text}`"
        )

    def states(self) -> dict[str, bool]:
        """Every finished shard, in order: whether its features stand and fit it."""
        return {task: self.fits(task, done) for task, done in sorted(self.archive.done().items())}

    def fits(self, shard: str, done: Done) -> bool:
        """Whether a shard's features are there and belong to its figures file of now."""
        found = self.sidecar(shard)
        path = self.folder / f"{shard}.npy"
        return (
            found is not None
            and found.figures == figures_digest(done)
            and found.encoder == self.digest
            and path.is_file()
        )

    def shards(self) -> list[str]:
        """Finished shards, in order. Raises `ArchiveError` where one is not embedded yet."""
        states = self.states()
        lacking = [shard for shard, fits in states.items() if not fits]
        if lacking:
            raise ArchiveError(
                f"features {self.name!r} of {self.archive.root} lack {len(lacking)} of {len(states)} "
                f"shards ({', '.join(lacking[:3])}); {self._command} makes them"
            )
        return list(states)

    def sidecar(self, shard: str) -> ShardFeatures | None:
        """What is noted beside a file; None where that is missing or damaged."""
        try:
            content = json.loads((self.folder / f"{shard}.json").read_bytes())
            return ShardFeatures(**content | {"bad": tuple(content["bad"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def read(self, shard: str) -> NDArray[np.float16]:
        """(N, D), mapped into memory. Raises `ArchiveError` where the file is not what was noted."""
        path = self.folder / f"{shard}.npy"
        noted = self.sidecar(shard)
        try:
            found = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise ArchiveError(f"{path} cannot be read: {error}") from None
        expected = (noted.rows if noted else -1, self.dims)
        if found.shape != expected or found.dtype != np.float16:
            raise ArchiveError(
                f"{path} holds {found.dtype} {found.shape}; float16 {expected} is expected. Remove "
                f"it; {self._command} makes it again"
            )
        return np.asarray(found)

    def write(self, shard: str, features_ND: NDArray[np.float16], about: ShardFeatures) -> None:
        """Write a shard's file, then its note: with the note in place the shard is done."""
        path = self.folder / f"{shard}.npy"
        own = temporary(path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with own.open("wb") as file:
                np.save(file, features_ND)
                file.flush()
                os.fsync(file.fileno())
            (self.folder / f"{shard}.json").unlink(missing_ok=True)
            own.replace(path)
        except OSError as error:
            own.unlink(missing_ok=True)
            raise ArchiveError(disk_message(self.archive.root, error)) from error
        write_json(self.folder / f"{shard}.json", asdict(about))


def _check_name(name: str) -> None:
    check_name("a feature set", name.replace(".", "-"))  # models' names hold dots


def names(archive: Archive) -> list[str]:
    """Feature sets of an archive."""
    return sorted(path.parent.name for path in (archive.root / "features").glob("*/encoder.json"))


def the_set(archive: Archive, name: str | None) -> FeatureSet:
    """The set of pictures of a name; without one, the only one that there is."""
    if name is not None:
        found = FeatureSet.open(archive, name)
        if found.info["kind"] != "image":
            raise ConfigError(f"features {name!r} are of captions; features of pictures are needed")
        return found
    sets = [FeatureSet.open(archive, each) for each in names(archive)]
    pictures = [each for each in sets if each.info["kind"] == "image"]
    if len(pictures) == 1:
        return pictures[0]
    known = ", ".join(each.name for each in pictures) or "none"
    raise ConfigError(
        f"name the features to use (--features): there are {known} in {archive.root}"
        + ("" if pictures else "; `biomedica embed` makes them")
    )


def create_set(archive: Archive, name: str, info: dict[str, Any]) -> FeatureSet:
    """A set to write to. Raises `ConfigError` where one of that name was made by another encoder.

    info   `kind` (`image` or `text`), `dims`, `digest` and what else is worth knowing
    """
    _check_name(name)
    path = archive.root / "features" / name / "encoder.json"
    if path.exists():
        old = FeatureSet.open(archive, name)
        if (old.digest, old.info["kind"]) != (info["digest"], info["kind"]):
            raise ConfigError(
                f"{path.parent} was made by {old.info['encoder']} with other weights or "
                "preprocessing; choose another --name"
            )
        return old
    write_json(path, info)
    return FeatureSet(archive, name, info)
