"""A view on disk: `views/<name>/` with the recipe, the selected samples and the counts."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from biomedica.archive import Archive
from biomedica.errors import ArchiveError, ConfigError
from biomedica.features import figures_digest
from biomedica.select.columns import nearest
from biomedica.shards import disk_message

OFFSETS = (
    "offset", "length", "jpg_offset", "jpg_size", "txt_offset", "txt_size", "json_offset", "json_size",
)  # fmt: skip
VIEW = pa.schema(
    [
        pa.field("key", pa.string(), False),
        pa.field("shard", pa.dictionary(pa.int32(), pa.string()), False),
        *(pa.field(name, pa.int64(), False) for name in OFFSETS),
        pa.field("split", pa.dictionary(pa.int8(), pa.string()), False),
    ]
)
"""Columns of `view.arrow`: bytes from the shard's start, as in the figures files."""


def view_folder(archive: Archive, name: str) -> Path:
    """Where a view stands. Raises `ConfigError` for what is no name."""
    if not name or name != Path(name).name or name.startswith("."):
        raise ConfigError(f"{name!r} is no name for a view")
    return archive.root / "views" / name


def view_names(archive: Archive) -> list[str]:
    """Views of an archive."""
    paths = (archive.root / "views").glob("[!.]*/counts.json")
    return sorted(path.parent.name for path in paths)


def write_view(
    folder: Path, recipe: str, batches: Iterable[pa.RecordBatch], counts: Mapping[str, Any]
) -> None:
    """Write a view beside the one that stands, then put it in its place."""
    new, old = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder.with_name(f".{folder.name}.lock"), os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise ArchiveError(disk_message(folder, error)) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run for the same name waits
        if old.exists() and not folder.exists():
            old.rename(folder)  # an earlier run ended between its two renames
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        new.mkdir(parents=True)
        with pa.OSFile(str(new / "view.arrow"), "wb") as sink, pa.ipc.new_file(sink, VIEW) as to:
            for batch in batches:
                to.write_batch(batch)
        (new / "recipe.toml").write_text(recipe, encoding="utf-8")
        text = json.dumps(counts, indent=1, sort_keys=True) + "\n"
        (new / "counts.json").write_text(text, encoding="utf-8")
        for path in sorted(new.iterdir()):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise ArchiveError(disk_message(folder, error)) from error
    finally:
        os.close(lock)


@dataclass(frozen=True, kw_only=True)
class View:
    """A view that the archive still bears out."""

    archive: Archive
    name: str
    table: pa.Table
    """`VIEW`, mapped into memory: samples in the order of (shard, offset)."""
    counts: Mapping[str, Any]
    """Content of `counts.json`."""
    recipe: str
    """The TOML that it was selected by."""

    @classmethod
    def open(cls, archive: Archive, name: str) -> View:
        """Raises `ConfigError` where there is none of that name; `ArchiveError` where it is damaged, or a
        shard was rewritten since: then offsets would lead to other bytes."""
        folder = view_folder(archive, name)
        if not (folder / "counts.json").is_file():
            known = view_names(archive)
            said = (
                nearest(name, known) if known else f"; `biomedica select {archive.root}` makes one"
            )
            raise ConfigError(f"{archive.root} has no view {name!r}{said}")
        try:
            counts = json.loads((folder / "counts.json").read_bytes())
            recipe = (folder / "recipe.toml").read_text(encoding="utf-8")
            with pa.memory_map(str(folder / "view.arrow")) as file:
                table = pa.ipc.open_file(file).read_all()
            noted, rows = counts["figures"], counts["samples"]
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise ArchiveError(f"{folder} is damaged ({error}); {_again(archive, name)}") from None
        if table.schema != VIEW or table.num_rows != rows:
            raise ArchiveError(
                f"{folder / 'view.arrow'} is not what counts.json says; {_again(archive, name)}"
            )
        _check_figures(archive, name, noted)
        return cls(archive=archive, name=name, table=table, counts=counts, recipe=recipe)

    @property
    def num_rows(self) -> int:
        """Samples."""
        return int(self.table.num_rows)

    @property
    def splits(self) -> dict[str, int]:
        """Samples of each split."""
        return dict(self.counts["splits"])

    @cached_property
    def withdrawn(self) -> NDArray[np.int64]:
        """Rows whose samples were withdrawn after the view was made: no reader may give them."""
        return withdrawn_rows(self.table, self.archive.tombstones())


def withdrawn_rows(view: pa.Table, tombstones: pa.Table) -> NDArray[np.int64]:
    """Rows of a view whose samples are withdrawn."""
    if not tombstones.num_rows:
        return np.empty(0, np.int64)
    shards = view["shard"].cast(pa.string())
    gone = set(zip(tombstones["key"].to_pylist(), tombstones["shard"].to_pylist(), strict=True))
    maybe = np.flatnonzero(pc.is_in(view["key"], tombstones["key"].combine_chunks()).to_numpy())
    found = [i for i in maybe.tolist() if (view["key"][i].as_py(), shards[i].as_py()) in gone]
    return np.array(found, np.int64)


def _again(archive: Archive, name: str) -> str:
    return f"`biomedica select {archive.root}` with its recipe and --name {name} makes it again"


def _check_figures(archive: Archive, name: str, noted: Mapping[str, str]) -> None:
    done = archive.done()
    changed = [
        shard
        for shard, digest in sorted(noted.items())
        if shard not in done or figures_digest(done[shard]) != digest
    ]
    if changed:
        raise ArchiveError(
            f"view {name!r} is stale: {len(changed)} of its {len(noted)} shards were rewritten since "
            f"({', '.join(changed[:3])}); {_again(archive, name)}"
        )
