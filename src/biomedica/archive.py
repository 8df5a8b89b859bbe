"""An archive as a folder: its paths, its lock, what is done, what is withdrawn."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from biomedica.errors import ArchiveError, ConfigError
from biomedica.shards import WrittenFile, disk_message, write_arrow, write_json, write_table

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
PLACES = "places.json"
"""Of an archive whose shards stand elsewhere: where each of them is."""
FORMAT_VERSION = 1
"""Of the layout and the columns. A reader refuses what it does not know."""

TOMBSTONES = pa.schema(
    [
        pa.field("key", pa.string(), False, {"about": "sample that no reader gives any more"}),
        pa.field("shard", pa.string(), False, {"about": "shard that still holds its bytes"}),
        pa.field("pmcid", pa.string(), False, {"about": "its article"}),
        pa.field("version", pa.int32(), False, {"about": "version of the article"}),
        pa.field("reason", pa.string(), False, {"about": "as in the changelog"}),
        pa.field("since", pa.date32(), True, {"about": "snapshot in which the source changed"}),
    ]
)
CHANGELOG = pa.schema(
    [
        pa.field("since", pa.date32(), True, {"about": "snapshot in which the change was seen"}),
        pa.field("pmcid", pa.string(), False, {"about": "article"}),
        pa.field("version", pa.int32(), False, {"about": "version of the article"}),
        pa.field(
            "change",
            pa.string(),
            False,
            {
                "about": "`added`, `new_version`, `superseded`, `retracted`, `reinstated`, "
                "`licence_changed`, `content_changed`, `withdrawn`, `retried`"
            },
        ),
        pa.field("detail", pa.string(), False, {"about": "old and new value, where there is one"}),
        pa.field("num_samples", pa.int64(), False, {"about": "samples that were withdrawn by it"}),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a finished task left: the content of `done/<task>.json`."""

    task: str
    group: str
    inputs: str
    """Digest of the articles that the plan gave to the task."""
    settings: str
    """Digest of the settings and of the code that decide about the bytes."""
    counts: dict[str, int]
    rejects: dict[str, int]
    """Number of rejects by reason."""
    outputs: tuple[WrittenFile, ...]
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a shard's bytes are, when they are not in the archive: an entry of `places.json`."""

    url: str
    """`http(s)://...`, `s3://BUCKET/KEY` or the full path of a file."""
    size: int
    """Bytes."""
    etag: str | None
    """As the server states it; of a file, its time of change. Another one means other bytes."""

    @property
    def digest(self) -> str:
        """Changes with the bytes, as far as their place tells: the `inputs` of the shard's done file."""
        return hashlib.sha256(repr((self.url, self.size, self.etag)).encode()).hexdigest()


def check_name(what: str, name: str) -> str:
    """A name that becomes a file's: letters, digits, - and _. Raises `ConfigError` for any other."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name for {what}; letters, digits, - and _ would do, 64 at the most"
        )
    return name


def read_info(content: bytes, where: str) -> dict[str, Any]:
    """An `archive.json`, wherever it stands. Raises `ArchiveError` where it is damaged or too new."""
    try:
        found = dict(json.loads(content))
    except (ValueError, TypeError) as error:
        raise ArchiveError(f"{where}/archive.json is damaged: {error}") from None
    if found.get("format_version") != FORMAT_VERSION:
        raise ArchiveError(
            f"{where} has format {found.get('format_version')}; this program reads "
            f"{FORMAT_VERSION}. Use the version of biomedica that wrote it"
        )
    return found


def read_places(content: bytes, where: str) -> dict[str, Place]:
    """A `places.json`, wherever it stands. Raises `ArchiveError` where it is damaged."""
    try:
        found = json.loads(content)["shards"]
        return {shard: Place(**found[shard]) for shard in sorted(found)}
    except (ValueError, TypeError, KeyError) as error:
        raise ArchiveError(
            f"{where} is damaged ({error!r}); `biomedica index` with the same addresses writes it again"
        ) from None


class Archive:
    """The folder of one archive. Creating the object touches nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def info_path(self) -> Path:
        return self.root / "archive.json"

    @property
    def plan_path(self) -> Path:
        return self.root / "plan.parquet"

    @property
    def tombstones_path(self) -> Path:
        return self.root / "tombstones.parquet"

    @property
    def changelog_path(self) -> Path:
        return self.root / "changelog.parquet"

    def create(self) -> None:
        """Make the folder. Raises `ArchiveError` where that, or writing in it, is not possible."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / ".probe.tmp"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise ArchiveError(disk_message(self.root, error)) from error
        others = [path.name for path in self.root.iterdir() if not path.name.startswith(".")]
        if others and not self.info_path.exists():
            raise ArchiveError(
                f"{self.root} holds other files ({', '.join(sorted(others)[:3])}) and no archive.json; "
                "give an empty or a new folder"
            )

    def info(self) -> dict[str, Any]:
        """Content of `archive.json`. Raises `ArchiveError` where there is none or it is too new."""
        try:
            return read_info(self.info_path.read_bytes(), str(self.root))
        except FileNotFoundError:
            raise ArchiveError(
                f"{self.root} is no archive: it has no archive.json. `biomedica build SOURCE {self.root}` "
                "makes one"
            ) from None

    def write_info(self, info: dict[str, Any]) -> None:
        """Replace `archive.json`."""
        content = {"format_version": FORMAT_VERSION, **info}
        write_json(self.info_path, content)

    @contextmanager
    def lock(self, shared: bool = False) -> Iterator[None]:
        """Hold the archive for writing. Raises `ConfigError` when another process does.

        shared   beside other holders of a shared lock (tasks of an array job)
        """
        handle = os.open(self.root / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            try:
                fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"another process writes to {self.root}; wait for it, or stop it and run this again"
                ) from None
            yield
        finally:
            os.close(handle)

    def done_path(self, task: str) -> Path:
        return self.root / "done" / f"{task}.json"

    def write_done(self, done: Done) -> None:
        """Record a task as finished: the last thing that is written of it."""
        write_json(self.done_path(done.task), asdict(done))

    def done(self) -> dict[str, Done]:
        """Finished tasks by name. A done file that is damaged counts as not written."""
        paths = sorted((self.root / "done").glob("*.json"))
        found = {path.stem: self.done_of(path.stem) for path in paths}
        return {task: done for task, done in found.items() if done is not None}

    def done_of(self, task: str) -> Done | None:
        """What a finished task left; None where it is not finished."""
        try:
            content = json.loads(self.done_path(task).read_bytes())
            outputs = tuple(WrittenFile(**file) for file in content.pop("outputs"))
            return Done(outputs=outputs, **content)
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def places(self) -> dict[str, Place]:
        """Shards whose bytes stand elsewhere, by name; none in an archive that holds its own."""
        path = self.root / PLACES
        try:
            return read_places(path.read_bytes(), str(path))
        except FileNotFoundError:
            return {}

    def set_places(self, places: dict[str, Place]) -> None:
        """Replace `places.json`."""
        content = {shard: asdict(place) for shard, place in places.items()}
        write_json(self.root / PLACES, {"shards": content})

    def tombstones(self) -> pa.Table:
        """Withdrawn samples; no rows where nothing was withdrawn."""
        if not self.tombstones_path.exists():
            return TOMBSTONES.empty_table()
        return pq.read_table(self.tombstones_path)

    def withdrawn(self) -> set[tuple[str, str]]:
        """(key, shard) of samples that no reader may give."""
        table = self.tombstones()
        return set(zip(table["key"].to_pylist(), table["shard"].to_pylist(), strict=True))

    def set_tombstones(self, rows: list[dict[str, Any]]) -> None:
        """Withdraw these samples and no others."""
        table = pa.Table.from_pylist(sorted(rows, key=lambda r: (r["shard"], r["key"])), TOMBSTONES)
        if not table.equals(self.tombstones().cast(TOMBSTONES)):
            write_arrow(self.tombstones_path, table)

    def add_changes(self, rows: list[dict[str, Any]]) -> None:
        """Append to the changelog; a change that stands in it for the same snapshot is not repeated
        (a source without an inventory has no snapshots: there every change counts)."""
        old = pq.read_table(self.changelog_path).to_pylist() if self.changelog_path.exists() else []
        seen = {_change_key(row) for row in old}
        new = [row for row in rows if row["since"] is None or _change_key(row) not in seen]
        if new:
            write_table(self.changelog_path, CHANGELOG, old + new)


def _change_key(row: dict[str, Any]) -> tuple[date | None, str, int, str]:
    return row["since"], row["pmcid"], row["version"], row["change"]
