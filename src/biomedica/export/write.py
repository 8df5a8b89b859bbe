"""Export: choose, copy shard by shard, describe, and only then give the folder its name."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from biomedica import __version__
from biomedica.archive import Archive
from biomedica.errors import ArchiveError, ConfigError
from biomedica.export.attribution import write_attribution
from biomedica.export.card import Told, card, citation, licence_page, read_labels
from biomedica.export.choose import Choice, Piece, Policy, choose
from biomedica.export.croissant import croissant
from biomedica.export.facts import count_facts
from biomedica.export.layouts import ParquetShard, ShardFile, TarShard, label_fields
from biomedica.export.published import published_fields
from biomedica.export.settings import LAYOUTS, Exported, ExportSettings, Layout
from biomedica.export.source import Copied, Sibling, SourceShard
from biomedica.export.sums import SUMS, check_sums, read_sums, sums_text
from biomedica.export.takedown import read_takedown
from biomedica.export.view import View, open_view
from biomedica.shards import disk_message, file_digest, temporary, write_file
from biomedica.taxonomy import Taxonomy, load_taxonomy

RESULT = "export.json"
"""What the export came to, for programs; the last file but the sums."""
_NOTES = ".shards"
"""Folder of the temporary folder: a note for each shard that is complete."""
Progress = Callable[[int, int], None]


def export(
    archive: Archive,
    view: str,
    folder: Path,
    layout: Layout,
    settings: ExportSettings,
    *,
    takedown: Path | None = None,
    taxonomy: Path | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Exported:
    """Write a copy of a view to a folder that can be published as it is.

    The folder gets its name when everything in it stands. Until then the files are in a hidden folder
    beside it; shards that are complete there are kept when the same export is run again. An older
    export in `folder` is replaced; a folder that holds anything else is refused. Same archive, view,
    settings and takedown list: same bytes.

    takedown      file of PMC ids, keys or SHA-256 digests, one a line
    taxonomy      file of the taxonomy that the labels were made with; None: the shipped one
    on_progress   gets samples written and samples in all, after each shard
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"there is no layout {layout!r}; layouts are {', '.join(LAYOUTS)}")
    source = open_view(archive, view)
    policy = Policy(
        settings=settings,
        takedown=read_takedown(takedown),
        withdrawn=frozenset(archive.withdrawn()),
    )
    folder = Path(os.path.abspath(folder))  # noqa: PTH100  keeps a link as its user wrote it
    _check_place(folder, archive)
    work = folder.with_name(f".{folder.name}.export")
    try:
        work.mkdir(parents=True, exist_ok=True)
        with _held(work):
            _restore(folder)
            names = _taxonomy(archive, source, taxonomy)
            job = _Job(archive, source, policy, layout, settings, work, names)
            found = _finished(folder, job.inputs)
            if found is None:
                found = job.run(on_progress)
                _put_in_place(work, folder)
            else:
                shutil.rmtree(work)
    except OSError as error:
        raise ArchiveError(disk_message(folder, error)) from error
    return _exported(folder, found)


def _taxonomy(archive: Archive, view: View, path: Path | None) -> Taxonomy | None:
    """The one that the view's labels name concepts of; None without labels."""
    labels = read_labels(archive, view.labels)
    if labels is None:
        return None
    taxonomy = load_taxonomy(path)
    expected = labels.summary.get("taxonomy_digest")
    if taxonomy.digest != expected:
        raise ConfigError(
            f"label run {view.labels} was made with another taxonomy than {path or 'the shipped one'} "
            f"(digest {str(expected)[:12]}, not {taxonomy.digest[:12]}); name its file"
        )
    return taxonomy


def _check_place(folder: Path, archive: Archive) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder for the export")
    if archive.root.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise ConfigError(f"{folder} lies in the archive; name a folder outside of it")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RESULT).is_file():
        names = sorted(path.name for path in folder.iterdir())[:3]
        raise ConfigError(
            f"{folder} holds other files ({', '.join(names)}) and no {RESULT}; "
            "give an empty or a new folder"
        )


@contextmanager
def _held(work: Path) -> Iterator[None]:
    handle = os.open(work, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another export writes to {work}; wait for it, or stop it and run this again"
            ) from None
        yield
    finally:
        os.close(handle)


def _finished(folder: Path, inputs: str) -> dict[str, Any] | None:
    """The result of the same export, where it stands in the folder and every byte is as it was."""
    try:
        found = json.loads((folder / RESULT).read_bytes())
        if found["inputs"] != inputs:
            return None
        check_sums(folder)
    except (OSError, ValueError, KeyError, ArchiveError):
        return None
    return dict(found) | {"num_reused": found["num_shards"]}


def _restore(folder: Path) -> None:
    """Put the older export back where a run ended between its two renames."""
    old = folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():
        old.replace(folder)


def _put_in_place(work: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    work.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def _exported(folder: Path, found: Mapping[str, Any]) -> Exported:
    num_bytes = sum((folder / path).stat().st_size for path in read_sums(folder))
    return Exported(
        folder=folder,
        layout=found["layout"],
        num_samples=found["num_samples"],
        num_articles=found["num_articles"],
        num_shards=found["num_shards"],
        num_bytes=num_bytes + (folder / SUMS).stat().st_size,
        counts=found["counts"],
        refused=found["refused"],
        num_reused=found["num_reused"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """A shard of the export that is complete."""

    path: str
    size: int
    sha256: str


class _Job:
    """One export into its temporary folder."""

    def __init__(
        self,
        archive: Archive,
        view: View,
        policy: Policy,
        layout: Layout,
        settings: ExportSettings,
        work: Path,
        taxonomy: Taxonomy | None,
    ) -> None:
        self._archive = archive
        self._view = view
        self._policy = policy
        self._layout = layout
        self._settings = settings
        self._work = work
        self._open: tuple[str, SourceShard] | None = None
        self._siblings: Mapping[tuple[str, int], tuple[Sibling, ...]] | None = None
        self._taxonomy = taxonomy
        self.inputs = self._inputs()

    def _inputs(self) -> str:
        """Digest of everything that decides about the bytes."""
        policy = self._policy
        names = {
            "program": __version__,
            "layout": self._layout,
            "settings": asdict(self._settings),
            "view": [self._view.name, file_digest(self._view.path), self._view.recipe],
            "counts": self._view.counts,
            "withdrawn": sorted(policy.withdrawn),
            "takedown": [
                sorted(each)
                for each in (
                    policy.takedown.pmcids,
                    policy.takedown.keys,
                    policy.takedown.digests,
                )
            ],
            "outputs": [
                [file.path, file.sha256]
                for _, done in sorted(self._archive.done().items())
                for file in done.outputs
            ],
            "labels": self._label_digests(),
            "snapshot": self._archive.info().get("snapshot"),
            "taxonomy": self._taxonomy.digest if self._taxonomy else None,
        }
        return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()

    def _label_digests(self) -> list[str]:
        if self._view.labels is None:
            return []
        paths = sorted((self._archive.root / "labels").glob(f"{self._view.labels}.*"))
        return [f"{path.name} {file_digest(path)}" for path in paths if path.suffix != ".tmp"]

    def run(self, on_progress: Progress) -> dict[str, Any]:
        """Write all files; the content of `export.json`, and how many shards an earlier run left."""
        self._keep_what_fits()
        choice = choose(self._archive, self._view, self._policy)
        if not choice.num_samples:
            said = ", ".join(f"{count} by {rule}" for rule, count in choice.refused.items())
            raise ConfigError(
                f"nothing of view {self._view.name} may be exported: {said or 'it is empty'}. "
                "Change the recipe or the table [export]"
            )
        written, reused = [], 0
        done = 0
        for name, pieces in self._plan(choice):
            shard = self._reused(name)
            reused += shard is not None
            written.append(shard or self._write(name, pieces))
            done += sum(len(piece.rows) for piece in pieces)
            on_progress(done, choice.num_samples)
        self._open = self._siblings = None
        return self._describe(choice, written) | {"num_reused": reused}

    def _keep_what_fits(self) -> None:
        """Empty the temporary folder, unless it is of an interrupted run of this very export."""
        note = self._work / _NOTES / "inputs"
        if note.is_file() and note.read_text() == self.inputs:
            return
        for path in self._work.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_file(note, self.inputs.encode())

    def _plan(self, choice: Choice) -> Iterator[tuple[str, list[Piece]]]:
        extension = "parquet" if self._layout == "parquet" else "tar"
        for part in choice.parts:
            for name, pieces in part.shards(self._settings.samples):
                yield f"{name}.{extension}", pieces

    def _note(self, name: str) -> Path:
        return self._work / _NOTES / f"{name.replace('/', '-')}.json"

    def _reused(self, name: str) -> _Written | None:
        """A shard of an interrupted run, where its bytes are the ones that were noted."""
        try:
            found = _Written(**json.loads(self._note(name).read_bytes()))
            whole = file_digest(self._work / name) == found.sha256
        except (OSError, ValueError, TypeError):
            return None
        return found if whole else None

    def _write(self, name: str, pieces: list[Piece]) -> _Written:
        path = self._work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shard = self._shard_file(temporary(path))
        try:
            for piece in pieces:
                source = self._source(piece.shard)
                for sample in source.samples(piece.rows):
                    shard.add(sample, self._fields(source, sample))
            digest = shard.close()
        except BaseException:
            shard.abandon()
            raise
        temporary(path).replace(path)
        written = _Written(path=name, size=path.stat().st_size, sha256=digest)
        write_file(self._note(name), json.dumps(asdict(written)).encode())
        return written

    def _shard_file(self, path: Path) -> ShardFile:
        if self._layout == "parquet":
            labels = self._view.labels is not None
            return ParquetShard(path, labels, self._settings.row_group_bytes)
        return TarShard(path, replaces=self._layout == "biomedica")

    def _source(self, shard: str) -> SourceShard:
        """The archive's shard; the one that was open before is let go."""
        if self._open is None or self._open[0] != shard:
            labels = self._view.labels
            group = self._view.groups[shard]
            self._open = shard, SourceShard(self._archive, group, shard, labels)
            self._siblings = None
        return self._open[1]

    def _fields(self, source: SourceShard, sample: Copied) -> dict[str, Any] | None:
        if self._layout != "biomedica":
            return label_fields(sample.label) if self._view.labels is not None else None
        article = source.article(sample.row["pmcid"], sample.row["version"])
        siblings = self._siblings_of(source, sample)
        if not self._settings.article_context:
            siblings = tuple(each for each in siblings if each.key == sample.row["key"])
        return published_fields(
            sample, article, siblings, self._taxonomy, self._settings.article_text
        )

    def _siblings_of(self, source: SourceShard, sample: Copied) -> tuple[Sibling, ...]:
        if self._siblings is None:
            self._siblings = source.siblings(self._policy)
        return self._siblings[sample.row["pmcid"], sample.row["version"]]

    def _describe(self, choice: Choice, shards: list[_Written]) -> dict[str, Any]:
        """Write all that is no shard, and remove the notes."""
        path = self._work / "ATTRIBUTION.parquet"
        num_articles = write_attribution(path, self._archive, self._view, choice)
        told = Told(
            view=self._view,
            layout=self._layout,
            settings=self._settings,
            snapshot=self._archive.info().get("snapshot"),
            choice=choice,
            facts=count_facts(self._archive, self._view, choice),
            num_articles=num_articles,
            labels=read_labels(self._archive, self._view.labels),
        )
        files = {each.path: (each.size, each.sha256) for each in shards}
        files[path.name] = (path.stat().st_size, file_digest(path))
        result = self._result(told, len(shards))
        small = {
            "README.md": card(told),
            "LICENSE.md": licence_page(told),
            "CITATION.cff": citation(told),
            "croissant.json": croissant(told, files),
            "recipe.toml": self._view.recipe.encode(),
            RESULT: (json.dumps(result, indent=1, sort_keys=True) + "\n").encode(),
        }
        for name, data in small.items():
            write_file(self._work / name, data)
        self._remove_others(files.keys() | small.keys())
        digests = {name: digest for name, (_, digest) in files.items()}
        digests |= {name: hashlib.sha256(data).hexdigest() for name, data in small.items()}
        write_file(self._work / SUMS, sums_text(digests))
        shutil.rmtree(self._work / _NOTES)
        return result

    def _result(self, told: Told, num_shards: int) -> dict[str, Any]:
        return {
            "inputs": self.inputs,
            "biomedica": __version__,
            "layout": self._layout,
            "view": self._view.name,
            "snapshot": told.snapshot,
            "settings": asdict(self._settings),
            "num_samples": told.choice.num_samples,
            "num_articles": told.num_articles,
            "num_shards": num_shards,
            "counts": told.splits,
            "licences": told.choice.licences,
            "refused": told.choice.refused,
        }

    def _remove_others(self, expected: set[str]) -> None:
        """Half a file of an interrupted run is no part of the export."""
        for path in sorted(self._work.rglob("*")):
            name = path.relative_to(self._work).as_posix()
            if path.is_file() and name not in expected and not name.startswith(_NOTES):
                path.unlink()
