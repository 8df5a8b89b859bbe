"""A view of an archive on this machine: its captions for retrieval, or a column of its tables as classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedica.archive import Archive
from biomedica.errors import ArchiveError, ConfigError
from biomedica.evaluate.readers.rows import ClassNames, Found, Row, Source, listed
from biomedica.select.view import View
from biomedica.stream.files import LocalFiles, Place
from biomedica.stream.samples import Rows, Samples, open_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewOptions:
    """`data.path` is the archive's folder."""

    view: str
    label: str = ""
    """Classification and multilabel: column of the figures table, or of a label run."""
    labels: str = ""
    """Label run that `label` is a column of; nothing: the figures table."""
    label_values: dict[str, str] = field(default_factory=dict)
    """What stands for a class, where that is neither its name nor its number."""


OPTIONS = ViewOptions


def splits(source: Source, options: ViewOptions) -> Sequence[str]:
    """Those of the view."""
    _samples(source, options, None)
    return list(View.open(Archive(source.path(None)), options.view).splits)


def rows(source: Source, options: ViewOptions, split: str | None) -> Found:
    """Live samples. Ids are keys, groups articles; a sample whose label is null is left out."""
    kind = source.task.kind
    if kind not in ("retrieval", "classification", "multilabel"):
        raise ConfigError(
            f"task {source.task.name}: reader view gives captions or labels, not {kind}"
        )
    if (kind == "retrieval") == bool(options.label):
        verb = "takes no" if options.label else "needs"
        raise ConfigError(f"task {source.task.name}: a {kind} task {verb} data.options.label")
    shards = Shards(_samples(source, options, split))
    articles = _column(source, shards, "pmcid", "")
    labels = _column(source, shards, options.label, options.labels) if options.label else {}
    classes = ClassNames(source.task, options.label_values)
    found: list[Row] = []
    for number, key in enumerate(shards.rows.keys):
        place = f"{source.task.data.path}, view {options.view}, shard {shards.name(number)}"
        answers: dict[str, Any] = {}
        if kind == "retrieval":
            answers = {"captions": (_caption(source, shards, number, place),)}
        elif (value := labels.get(key)) is None:
            continue
        elif kind == "classification":
            answers = {"label": classes.index(value, key, place)}
        else:
            answers = {"labels": classes.indices(value, "|", key, place)}
        found.append(
            Row(id=key, place=place, picture=number, group=articles.get(key, key), **answers)
        )
    return Found(rows=found, read=shards.picture)


def _caption(source: Source, shards: Shards, number: int, place: str) -> str:
    try:
        return shards.caption(number)
    except ArchiveError as error:
        raise source.item_error(
            shards.rows.keys[number], place, f"has no caption: {error}"
        ) from None


def _samples(source: Source, options: ViewOptions, split: str | None) -> Samples:
    root = source.path(None)
    if not (root / "archive.json").is_file():
        raise source.missing(root / "archive.json")
    try:
        return open_samples(root, options.view, split)
    except (ArchiveError, ConfigError) as error:
        raise source.wrong(str(error)) from None


class Shards:
    """Members of a view's samples, by number.

    chosen   numbers of the samples that are meant, which are then numbered anew; None: all
    """

    def __init__(self, samples: Samples, chosen: NDArray[np.int64] | None = None) -> None:
        self._samples, self._chosen = samples, chosen
        self._places: dict[int, Place] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_samples": self._samples, "_chosen": self._chosen, "_places": self._places}

    @cached_property
    def rows(self) -> Rows:
        """Where all of them are."""
        chosen = self._chosen
        return self._samples.take(np.arange(len(self._samples)) if chosen is None else chosen)

    @cached_property
    def _files(self) -> LocalFiles:
        return LocalFiles()

    def names(self) -> list[str]:
        """Shards that have samples of the view."""
        return [self._samples.shard_names[number] for number in np.unique(self.rows.shard)]

    def name(self, number: int) -> str:
        """Shard of a sample."""
        return self._samples.shard_names[int(self.rows.shard[number])]

    def member(self, number: int, member: str) -> bytes:
        """Of `jpg`, `txt` and `json` one. Raises `ArchiveError`."""
        place = self._place(int(self.rows.shard[number]))
        if place.is_remote:
            raise ArchiveError(
                f"shard {place.shard} stands at {place.address}; a local one is read"
            )
        start = int(getattr(self.rows, f"{member}_offset")[number])
        return self._files.read(
            place, start, start + int(getattr(self.rows, f"{member}_size")[number])
        )

    def _place(self, shard: int) -> Place:
        """Asking for it reads a file, so it is asked for once."""
        if shard not in self._places:
            self._places[shard] = self._samples.place(shard)
        return self._places[shard]

    def caption(self, number: int) -> str:
        """Its text, or the caption of its JSON where it has none."""
        if self.rows.txt_size[number]:
            return self.member(number, "txt").decode("utf-8", "replace")
        try:
            said = json.loads(self.member(number, "json") or b"{}")
        except (ValueError, RecursionError):
            return ""
        caption = str(said.get("caption") or "") if isinstance(said, dict) else ""
        return caption.encode("utf-8", "replace").decode()

    def picture(self, number: int) -> bytes:
        """JPEG of a sample. Raises `OSError`."""
        try:
            return self.member(number, "jpg")
        except ArchiveError as error:
            raise OSError(str(error)) from None


def _column(source: Source, shards: Shards, name: str, labels: str) -> dict[str, Any]:
    """Value by key, of the figures tables or of a label run."""
    if labels:
        folder = source.path(None) / "labels"
        paths = [source.inside(folder, f"{labels}.parquet", "data.options.labels")]
    else:
        figures = source.path(None) / "figures"
        paths = [figures / each.rpartition("-")[0] / f"{each}.parquet" for each in shards.names()]
    found: dict[str, Any] = {}
    for path in paths:
        if not path.is_file():
            raise source.missing(path)
        try:
            known = pq.read_schema(path).names
            for each in ("key", name):
                if each not in known:
                    raise source.wrong(
                        f"{source.shown(path)} has no column {each!r}; it has {listed(known)}"
                    )
            table = pq.read_table(path, columns=["key", name])
            found.update(zip(table["key"].to_pylist(), table[name].to_pylist(), strict=True))
        except (OSError, ValueError, KeyError, OverflowError, pa.ArrowException) as error:
            raise source.wrong(f"{source.shown(path)} cannot be read: {error}") from None
    return found
