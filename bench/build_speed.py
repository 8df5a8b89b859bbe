"""CPU of a whole build against the least that the work needs, memory at 1x and 10x, Ray against local.

    python bench/build_speed.py BUCKET build|memory|engines

build    its floor: one process: read every file that the build reads, `lxml.etree.parse`, Pillow's header and
         decode check of every picture, the same bytes into a tar with `tarfile`
build    the same articles through `build_task` in one process, everything on: fields, mentions,
         conversion to JPEG, digests, perceptual hash, Parquet
memory   peak resident memory of a worker over the corpus, and over ten copies of it
engines  CPU of the whole process tree over ten copies, local and Ray, two workers each
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from lxml import etree
from PIL import Image

from biomedica import flow
from biomedica.archive import Archive
from biomedica.build import build_task
from biomedica.catalog import Selection
from biomedica.config import load_settings

ROUNDS = 5


def floor(files: list[tuple[str, list[Path]]], out: Path) -> float:
    """CPU seconds of the least that a build has to do with these files."""
    started = time.process_time()
    with tarfile.open(out, "w") as tar:
        for xml, pictures in files:
            etree.parse(xml)
            for path in pictures:
                data = path.read_bytes()
                with Image.open(io.BytesIO(data)) as image:
                    image.load()
                member = tarfile.TarInfo(path.name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return time.process_time() - started


def used_files(archive: Path, bucket: Path) -> list[tuple[str, list[Path]]]:
    """(XML, pictures) that the build of the archive read."""
    import pyarrow.parquet as pq

    pictures: dict[str, list[Path]] = {}
    for path in sorted((archive / "figures").glob("*/*.parquet")):
        columns = ["pmcid", "version", "file_name"]
        for row in pq.read_table(path, columns=columns).to_pylist():
            name = f"{row['pmcid']}.{row['version']}"
            pictures.setdefault(name, []).append(bucket / name / row["file_name"])
    names = [path.parent.name for path in sorted(bucket.glob("PMC*/*.xml"))]
    parsable = [name for name in names if _parses(bucket / name / f"{name}.xml")]
    return [(str(bucket / n / f"{n}.xml"), pictures.get(n, [])) for n in parsable]


def _parses(path: Path) -> bool:
    try:
        etree.parse(str(path))
    except etree.XMLSyntaxError:
        return False
    return True


def prepared(bucket: Path, out: Path, samples: int = 10_000) -> flow.Prepared:
    """Catalog and plan of a bucket."""
    settings = load_settings(None, [f"shards.samples={samples}"])
    archive = Archive(out)
    archive.create()
    return flow.prepare(str(bucket), archive, Selection(), settings)


def build(ready: flow.Prepared) -> float:
    """CPU seconds of building every shard in this process."""
    started = time.process_time()
    for task in ready.job.inputs:
        build_task(ready.job, task, frozenset())
    return time.process_time() - started


def measure_build(bucket: Path, folder: Path) -> dict[str, object]:
    """Build and floor, interleaved."""
    ready = prepared(bucket, folder / "archive")
    build(ready)
    files = used_files(folder / "archive", bucket)
    pairs = sum(len(pictures) for _, pictures in files)
    ratios, mine = [], []
    for _ in range(ROUNDS):
        least = floor(files, folder / "floor.tar")
        mine.append(build(ready))
        ratios.append(mine[-1] / least)
    return {
        "ratio": round(statistics.median(ratios), 2),
        "lowest": round(min(ratios), 2),
        "highest": round(max(ratios), 2),
        "pairs": pairs,
        "pairs_per_cpu_second": round(pairs / statistics.median(mine), 1),
    }


def copies(bucket: Path, out: Path, times: int) -> Path:
    """A bucket with `times` copies of every article, under other ids."""
    for number in range(times):
        for path in sorted(bucket.glob("PMC*/PMC*.json")):
            meta = json.loads(path.read_bytes())
            old = path.parent.name
            new_id = f"PMC{int(meta['pmcid'][3:]) + 200_000_000 * number}"
            new = f"{new_id}.{meta['version']}"
            text = json.dumps(meta | {"pmcid": new_id}).replace(f"/{old}/{old}.", f"/{new}/{new}.")
            text = text.replace(f"/{old}/", f"/{new}/")
            (out / new).mkdir(parents=True)
            (out / "metadata").mkdir(exist_ok=True)
            (out / "metadata" / f"{new}.json").write_text(text)
            for file in path.parent.iterdir():
                if file.suffix != ".json":
                    os.link(file.resolve(), out / new / file.name.replace(old, new))
    return out


def peak_memory(bucket: Path, out: Path) -> float:
    """Megabytes at the peak of a process that builds the bucket, several shards one after another."""

    def work(pipe: object) -> None:
        build(prepared(bucket, out, samples=250))
        pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # type: ignore[attr-defined]

    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=work, args=(there,))
    process.start()
    peak = float(here.recv())
    process.join()
    return peak


class TreeCpu:
    """CPU seconds of all processes that this one starts, sampled while a block runs."""

    def __enter__(self) -> TreeCpu:
        self._seen: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(0.05):
            for process in own.children(recursive=True):
                try:
                    times = process.cpu_times()
                    self._seen[process.pid] = times.user + times.system
                except psutil.Error:
                    continue

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.seconds = sum(self._seen.values())


def engine_cpu(bucket: Path, out: Path, engine: str) -> dict[str, float]:
    """CPU of all processes that a build with two workers starts, and of the tasks alone."""
    settings = load_settings(None, ["shards.samples=1000"])
    with TreeCpu() as tree:
        flow.build_archive(str(bucket), out, Selection(), settings, engine=engine, workers=2)
    tasks = sum(done.cpu_seconds for done in Archive(out).done().values())
    return {"processes": round(tree.seconds, 1), "tasks": round(tasks, 1)}


def measure_engines(bucket: Path, folder: Path) -> dict[str, object]:
    """Local and Ray over ten copies."""
    many = copies(bucket, folder / "bucket", 10)
    found = {name: engine_cpu(many, folder / name, name) for name in ("local", "ray")}
    ratio = found["ray"]["processes"] / found["local"]["processes"]
    return {**found, "ratio": round(ratio, 2)}


def measure_memory(bucket: Path, folder: Path) -> dict[str, object]:
    """Peak memory at 1x and 10x."""
    once = peak_memory(bucket, folder / "once")
    many = peak_memory(copies(bucket, folder / "bucket", 10), folder / "many")
    return {"mb_1x": round(once), "mb_10x": round(many), "ratio": round(many / once, 2)}


KINDS: dict[str, Callable[[Path, Path], dict[str, object]]] = {
    "build": measure_build,
    "memory": measure_memory,
    "engines": measure_engines,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bucket", type=Path)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--scratch", type=Path, default=None)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.scratch))
    try:
        print(json.dumps(KINDS[arguments.kind](arguments.bucket.resolve(), folder)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
