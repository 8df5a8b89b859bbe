"""The samples of a view, wherever its archive stands: where each lies, and whether it may be given."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedica import archive as archives
from biomedica.archive import PLACES, Archive, read_info, read_places
from biomedica.errors import ArchiveError, ConfigError
from biomedica.select.view import VIEW, View, withdrawn_rows
from biomedica.shards import disk_message
from biomedica.stream.files import Files, Place, is_remote, joined
from biomedica.stream.settings import ReadSettings

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rows:
    """Some samples: where their bytes are. Arrays of shape (N,), bytes from the shard's start."""

    keys: list[str]
    shard: Ints
    """Number of the shard."""
    jpg_offset: Ints
    jpg_size: Ints
    txt_offset: Ints
    txt_size: Ints
    json_offset: Ints
    json_size: Ints
    digest: Ints
    """First 8 bytes of the picture's SHA-256; 0 where it is not to be compared."""


NUMBERS = tuple(Rows.__slots__[2:-1])


def picture_digest(jpg: bytes | memoryview) -> int:
    """What `Rows.digest` is of a picture."""
    return _first_bytes(hashlib.sha256(jpg).digest())


def _first_bytes(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big", signed=True)


class Samples:
    """The live samples of one split of a view, numbered from 0 in the order of their shards.

    Handing it to another process costs nothing: the view is mapped into memory there.
    """

    def __init__(
        self,
        address: str,
        view: str,
        split: str | None,
        settings: ReadSettings,
        *,
        table_path: Path,
        counts: dict[str, Any],
        withdrawn: Ints,
        places: dict[str, archives.Place] | None,
    ) -> None:
        self.address, self.view, self.split = address, view, split
        self.settings = settings
        self._table_path, self._counts = table_path, counts
        self._withdrawn, self._places = withdrawn, places
        self.digest = self._digest()

    def _digest(self) -> str:
        """Of what decides which samples these are: a checkpoint of other samples is refused."""
        what = [self._counts, self.split, self._withdrawn.tolist()]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]

    def __getstate__(self) -> dict[str, Any]:
        mapped = {"_table", "_live", "_columns", "_ends", "_digests", "shard_names", "_files"}
        return {name: value for name, value in vars(self).items() if name not in mapped}

    @property
    def is_remote(self) -> bool:
        """Whether the archive is on a server."""
        return is_remote(self.address)

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.view}/{self.split}" if self.split else self.view

    @cached_property
    def _table(self) -> pa.Table:
        return _mapped(self._table_path)

    @cached_property
    def _live(self) -> Ints | None:
        """Rows of the view that are meant; None for all."""
        if self.split is None and not len(self._withdrawn):
            return None
        keep = np.ones(self._table.num_rows, bool)
        if self.split is not None:
            start = 0
            for chunk in self._table["split"].chunks:
                known = chunk.dictionary.to_pylist()
                code = known.index(self.split) if self.split in known else -1
                keep[start : start + len(chunk)] = np.asarray(chunk.indices) == code
                start += len(chunk)
        keep[self._withdrawn] = False
        return np.flatnonzero(keep)

    def __len__(self) -> int:
        return int(self._table.num_rows if self._live is None else len(self._live))

    @cached_property
    def _ends(self) -> Ints:
        return np.cumsum([len(chunk) for chunk in self._table["key"].chunks])

    @cached_property
    def _columns(self) -> dict[str, list[Ints]]:
        """Chunks of the columns of numbers, as they are mapped."""
        found = {name: [chunk.to_numpy() for chunk in self._table[name].chunks] for name in NUMBERS}
        shards = self._table["shard"].chunks
        known = {name: number for number, name in enumerate(self.shard_names)}
        found["shard"] = []
        for chunk in shards:
            numbers = np.array([known[name] for name in chunk.dictionary.to_pylist()], np.int64)
            found["shard"].append(_Coded(np.asarray(chunk.indices), numbers))
        return found

    @cached_property
    def shard_names(self) -> list[str]:
        """Shards that the view names."""
        chunks = self._table["shard"].chunks
        return sorted({name for chunk in chunks for name in chunk.dictionary.to_pylist()})

    def take(self, numbers_N: Ints) -> Rows:
        """Where these samples are, in the order asked for; each number in [0, len(self))."""
        rows = numbers_N if self._live is None else self._live[numbers_N]
        chunk_of = np.searchsorted(self._ends, rows, side="right")
        arrays = {name: np.empty(len(rows), np.int64) for name in ("shard", *NUMBERS)}
        keys: list[str] = [""] * len(rows)
        for chunk in np.unique(chunk_of).tolist():
            places = np.flatnonzero(chunk_of == chunk)
            inside = rows[places] - (self._ends[chunk - 1] if chunk else 0)
            for name, into in arrays.items():
                into[places] = self._columns[name][chunk][inside]
            found = self._table["key"].chunk(chunk).take(pa.array(inside)).to_pylist()
            for place, key in zip(places.tolist(), found, strict=True):
                keys[place] = key
        digest = np.zeros(len(rows), np.int64)
        if self.settings.verify == "sha256":
            digest = self._digests[rows]
        return Rows(keys, **arrays, digest=digest)

    @cached_property
    def _files(self) -> Files:
        return Files(self.settings)

    def place(self, number: int) -> Place:
        """Where a shard stands. Raises `ArchiveError` when it is another than the view was made of."""
        shard = self.shard_names[number]
        outputs = self._outputs(shard)
        try:
            if self._places is not None:
                found = self._places[shard]
                return Place(
                    shard=shard,
                    address=found.url,
                    size=found.size,
                    etag=found.etag,
                    is_foreign=True,
                )
            path = f"shards/{shard.rpartition('-')[0]}/{shard}.tar"
            return Place(
                shard=shard,
                address=joined(self.address, path),
                size=int(outputs[path]["size"]),
                version=str(outputs[path]["sha256"]),
            )
        except (KeyError, TypeError) as error:
            said = PLACES if self._places is not None else f"done/{shard}.json"
            raise ArchiveError(f"shard {shard}: {said} says not where it is ({error!r})") from None

    def _outputs(self, shard: str) -> dict[str, dict[str, Any]]:
        """What a shard's done file states of its files, while the view fits it."""
        address = joined(self.address, f"done/{shard}.json")
        content = self._files.whole(address)
        if content is None:
            raise ArchiveError(f"shard {shard}: there is no {address}; the archive is not whole")
        try:
            outputs = {each["path"]: each for each in json.loads(content)["outputs"]}
            figures = next(each for name, each in outputs.items() if name.startswith("figures/"))
            is_same = figures["sha256"] == self._counts["figures"].get(shard)
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            raise ArchiveError(f"shard {shard}: {address} is damaged ({error!r})") from None
        if not is_same:
            raise ArchiveError(
                f"shard {shard} of {self.address} was rewritten since view {self.view!r} was made; "
                "`biomedica select` with its recipe makes it again"
            )
        return outputs

    @cached_property
    def _digests(self) -> Ints:
        """(rows of the view,): first 8 bytes of each picture's SHA-256, from the figures files."""
        found = np.empty(self._table.num_rows, np.int64)
        shards = np.concatenate([column[:] for column in self._columns["shard"]])
        edges = (np.flatnonzero(np.diff(shards)) + 1).tolist()
        for row, stop in pairwise([0, *edges, len(shards)]):
            shard = self.shard_names[shards[row]]
            path = Path(self.address) / "figures" / shard.rpartition("-")[0] / f"{shard}.parquet"
            try:
                table = pq.read_table(path, columns=["key", "sha256"])
            except (OSError, pa.ArrowException) as error:
                raise ArchiveError(f"shard {shard}: {path} cannot be read: {error}") from None
            keys = self._table["key"].slice(row, stop - row)
            places = pc.index_in(keys, table["key"].combine_chunks())
            texts = table["sha256"].take(places).to_pylist()
            found[row:stop] = [_first_bytes(bytes.fromhex(text)) for text in texts]
        return found


def _mapped(path: Path) -> pa.Table:
    """A view's table, mapped into memory."""
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


class _Coded:
    """A column of codes that reads as the numbers they stand for."""

    def __init__(self, codes: NDArray[Any], numbers: Ints) -> None:
        self._codes, self._numbers = codes, numbers

    def __getitem__(self, rows: Ints | slice) -> Ints:
        return np.asarray(self._numbers[self._codes[rows]])


def open_samples(
    address: str | Path, view: str, split: str | None = None, settings: ReadSettings | None = None
) -> Samples:
    """The samples of a view. Raises `ConfigError` where there is no such view or split.

    address   an archive: a folder, `https://HOST/PATH/ARCHIVE` or `s3://BUCKET/PATH/ARCHIVE`
    split     `train`, `val`, `test`, ...; None for all
    """
    chosen = settings or ReadSettings()
    text = str(address)
    if is_remote(text):
        if chosen.verify == "sha256":
            raise ConfigError("stream.verify = 'sha256' reads the figures files of a local archive")
        found = _remote(text.rstrip("/"), view, split, chosen)
    else:
        found = _local(Path(text), view, split, chosen)
    known = found._counts["splits"]
    if split is not None and split not in known:
        raise ConfigError(
            f"view {view!r} of {text} has no split {split!r}; it has {', '.join(known)}"
        )
    return found


def _local(root: Path, view: str, split: str | None, settings: ReadSettings) -> Samples:
    archive = Archive(root)
    archive.info()
    opened = View.open(archive, view)
    return Samples(
        str(root.resolve()),
        view,
        split,
        settings,
        table_path=(root / "views" / view / "view.arrow").resolve(),
        counts=dict(opened.counts),
        withdrawn=opened.withdrawn,
        places=archive.places() if (root / PLACES).exists() else None,
    )


def cache_folder() -> Path:
    """Where views of archives on servers are kept: `$BIOMEDICA_CACHE`, else `~/.cache/biomedica`."""
    return Path(os.environ.get("BIOMEDICA_CACHE", Path.home() / ".cache" / "biomedica"))


def _remote(address: str, view: str, split: str | None, settings: ReadSettings) -> Samples:
    if not re.fullmatch(r"[\w.-]+", view):
        raise ConfigError(f"{view!r} is no name for a view")
    files = Files(settings)
    base = joined(address, f"views/{view}")
    names = ("archive.json", f"views/{view}/counts.json", PLACES, "tombstones.parquet")
    with ThreadPoolExecutor(len(names)) as pool:
        found = pool.map(lambda name: files.whole(joined(address, name)), names)
        info, raw, places, gone = found
    if info is None:
        raise ArchiveError(f"{address} is no archive: it has no archive.json")
    read_info(info, address)
    if raw is None:
        raise ConfigError(f"{address} has no view {view!r}")
    try:
        counts = json.loads(raw)
        rows, _, _ = int(counts["samples"]), dict(counts["splits"]), dict(counts["figures"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f"{base}/counts.json is damaged: {error!r}") from None
    path = _kept(files, base, raw, rows)
    return Samples(
        address,
        view,
        split,
        settings,
        table_path=path,
        counts=counts,
        withdrawn=_withdrawn(gone, path),
        places=None if places is None else read_places(places, joined(address, PLACES)),
    )


def _kept(files: Files, base: str, counts: bytes, rows: int) -> Path:
    """This machine's copy of a view, fetched when its counts are others than those of the copy."""
    from obstore.exceptions import NotFoundError

    digest = hashlib.sha256(base.encode() + b"\n" + counts).hexdigest()[:32]
    path = cache_folder() / "views" / f"{digest}.arrow"
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.download(joined(base, "view.arrow"), path)
        except (NotFoundError, FileNotFoundError):
            raise ArchiveError(f"there is no {base}/view.arrow; the view is not whole") from None
        except OSError as error:
            raise ArchiveError(disk_message(path.parent, error)) from error
    try:
        table = _mapped(path)
        fits = table.schema == VIEW and table.num_rows == rows
    except (OSError, pa.ArrowException):
        fits = False
    if not fits:
        path.unlink(missing_ok=True)
        raise ArchiveError(
            f"{base}/view.arrow is not what its counts.json says; try again, or make it again"
        )
    return path


def _withdrawn(tombstones: bytes | None, path: Path) -> Ints:
    """Rows of a view whose samples were withdrawn."""
    if tombstones is None:
        return np.empty(0, np.int64)
    try:
        return withdrawn_rows(_mapped(path), pq.read_table(io.BytesIO(tombstones)))
    except (pa.ArrowException, KeyError) as error:
        raise ArchiveError(f"tombstones.parquet of the archive is damaged: {error}") from None
