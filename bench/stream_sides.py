"""Sides of the streaming measurements that read samples without decoding them; one run in this process.

    PYTHON bench/stream_sides.py SIDE FOLDER [--url URL] [--view all] [--check]

SIDE is one of `SIDES`; a peer's by the interpreter that has the peer. Prints JSON: seconds of opening
and of all, CPU seconds of this process and its children from opening to the last sample (imports left
out), samples, bytes. `--check` prints instead a digest of all keys, pictures and texts, in any order.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import http.client
import json
import logging
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from stream_data import Place, places, shard_paths

Member = tuple[str, bytes | memoryview, bytes | memoryview | str]
"""Key, JPEG, text."""
SEED = 0
BATCH = 256


@dataclass(frozen=True, slots=True)
class Job:
    """What to read: a view of FOLDER/archive, from the folder or a server whose root the folder is."""

    folder: Path
    url: str
    view: str

    def shard_urls(self) -> list[str]:
        """Addresses of the view's shards."""
        wanted = {place.shard for place in places(self.folder, self.view)}
        paths = [path for path in shard_paths(self.folder) if path.stem in wanted]
        return [f"{self.url}/{path.relative_to(self.folder)}" for path in paths]


def cpu_seconds() -> float:
    """Of this process and all below it, whether they ended or not."""
    import psutil

    found = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        found += used.ru_utime + used.ru_stime
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        found += times.user + times.system
        # a process that waits for its own children (a fork server) has their time, nobody else
        found += times.children_user + times.children_system
    return found


def _bare(folder: Path, found: Iterable[Place]) -> Iterator[Member]:
    files = {path.stem: os.open(path, os.O_RDONLY) for path in shard_paths(folder)}
    pread = os.pread
    for place in found:
        file = files[place.shard]
        offset, size = place.jpg
        jpg = pread(file, size, offset)
        offset, size = place.txt
        yield place.key, jpg, pread(file, size, offset)
    for file in files.values():
        os.close(file)


def bare(job: Job) -> Iterator[Member]:
    """The floor: the view's offsets and `os.pread`, in the order of the files."""
    return _bare(job.folder, places(job.folder, job.view))


def bare_shuffled(job: Job) -> Iterator[Member]:
    """The floor in our order."""
    from biomedica.stream import Order, OrderSettings

    found = places(job.folder, job.view)
    rows = Order(len(found), SEED, OrderSettings()).rows(0, len(found))
    return _bare(job.folder, [found[row] for row in rows.tolist()])


def ours(job: Job) -> Iterator[Member]:
    """Our reader, shuffled: pictures and texts before they are decoded."""
    from biomedica.stream import open_samples
    from biomedica.stream.loader import Stream

    where = f"{job.url}/archive" if job.url else job.folder / "archive"
    stream = Stream(open_samples(where, job.view), batch=BATCH, seed=SEED)
    return (
        (key, jpg, txt)
        for batch in stream.raw()
        for key, (jpg, txt, _) in zip(batch.keys, batch.members, strict=True)
    )


def _webdataset(urls: list[str], buffer: int) -> Iterator[Member]:
    import webdataset as wds

    found = wds.WebDataset(urls, shardshuffle=False, empty_check=False)
    return (
        (each["__key__"], each["jpg"], each["txt"])
        for each in (found.shuffle(buffer) if buffer else found)
    )


def webdataset(job: Job) -> Iterator[Member]:
    """webdataset over the files, or through curl, in order."""
    if job.url:
        return _webdataset([f"pipe:curl -s -L {url}" for url in job.shard_urls()], 0)
    return _webdataset([str(path) for path in shard_paths(job.folder)], 0)


def webdataset_shuffle(job: Job) -> Iterator[Member]:
    """webdataset with a buffer of 1,000 samples."""
    return _webdataset([str(path) for path in shard_paths(job.folder)], 1_000)


def litdata(job: Job) -> Iterator[Member]:
    """litdata over its own chunks, shuffled."""
    from litdata import StreamingDataset

    found = StreamingDataset(str(job.folder / "litdata"), shuffle=True, seed=SEED)
    return ((each["key"], each["jpg"], each["txt"]) for each in found)


def mds(job: Job) -> Iterator[Member]:
    """mosaicml-streaming over its own shards, shuffled."""
    import streaming

    streaming.base.util.clean_stale_shared_memory()
    words: dict[str, Any] = {"shuffle": True, "shuffle_seed": SEED, "batch_size": 1}
    found = streaming.StreamingDataset(local=str(job.folder / "mds"), **words)
    return ((each["key"], each["jpg"], each["txt"]) for each in found)


def tar_stream(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Members of a plain tar as they come."""
    while (header := file.read(512)) and header[0]:
        size = int(header[124:135], 8)
        data = file.read(size + -size % 512)[:size]
        yield header[:100].rstrip(b"\0").decode(), data


def _picked(file: IO[bytes], wanted: set[str]) -> Iterator[Member]:
    jpg = b""
    for name, data in tar_stream(file):
        key, _, kind = name.rpartition(".")
        if kind == "jpg":
            jpg = data
        elif kind == "txt" and key in wanted:
            yield key, jpg, data


def scan(job: Job) -> Iterator[Member]:
    """All shards of the view in one connection, one after the other; what is not wanted is dropped."""
    wanted = {place.key for place in places(job.folder, job.view)}
    urls = job.shard_urls()

    def read() -> Iterator[Member]:
        connection = http.client.HTTPConnection(job.url.removeprefix("http://"))
        for url in urls:
            connection.request("GET", url.removeprefix(job.url))
            with connection.getresponse() as answer:
                yield from _picked(answer, wanted)
                answer.read()

    return read()


def curl_parallel(job: Job) -> Iterator[Member]:
    """All shards of the view at the same time, a curl for each; what is not wanted is dropped."""
    wanted = {place.key for place in places(job.folder, job.view)}

    def read(url: str) -> list[Member]:
        with subprocess.Popen(["curl", "-s", url], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            found = list(_picked(process.stdout, wanted))
            process.stdout.read()
        return found

    urls = job.shard_urls()

    def all_shards() -> Iterator[Member]:
        with ThreadPoolExecutor(len(urls)) as pool:
            for found in pool.map(read, urls):
                yield from found

    return all_shards()


SIDES: dict[str, Callable[[Job], Iterator[Member]]] = {
    each.__name__: each
    for each in (
        bare, bare_shuffled, ours, webdataset, webdataset_shuffle, litdata, mds, scan, curl_parallel,
    )
}  # fmt: skip
IMPORTS = {
    "bare_shuffled": ("biomedica.stream",),
    "ours": ("biomedica.stream.loader", "obstore", "obstore.store", "obstore.exceptions"),
    "webdataset": ("webdataset",),
    "webdataset_shuffle": ("webdataset",),
    "litdata": ("litdata",),
    "mds": ("streaming",),
}
"""What a side needs besides pyarrow; not measured."""


def as_bytes(content: Any) -> bytes:
    """A member whatever a reader gives for it."""
    return content.encode() if isinstance(content, str) else bytes(content)


def digest(members: Iterable[Member]) -> dict[str, Any]:
    """Sum of the samples' digests: the same for any order, another when one is lost or given twice."""
    total, number = 0, 0
    for member in members:
        parts = [as_bytes(part) for part in member]
        content = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
        total += int.from_bytes(hashlib.blake2b(content, digest_size=16).digest(), "little")
        number += 1
    return {"samples": number, "digest": f"{total % 2**128:032x}"}


def timed(make: Callable[[], Iterator[Member]]) -> dict[str, Any]:
    """Read all, look at nothing but sizes."""
    number = size = 0
    gc.collect()
    cpu, started = cpu_seconds(), time.monotonic()
    members = make()
    opened = time.monotonic() - started
    for _, jpg, txt in members:
        number += 1
        size += len(jpg) + len(txt)
    seconds = time.monotonic() - started
    del members
    gc.collect()
    spent = cpu_seconds() - cpu
    return {"samples": number, "bytes": size, "opened": opened, "seconds": seconds, "cpu": spent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--url", default="")
    parser.add_argument("--view", default="all")
    parser.add_argument("--check", action="store_true")
    words = parser.parse_args()
    logging.disable(logging.WARNING)
    for name in ("pyarrow", "pyarrow.parquet", *IMPORTS.get(words.side, ())):
        import_module(name)
    job, side = Job(words.folder.resolve(), words.url, words.view), SIDES[words.side]
    own = tempfile.mkdtemp()
    os.environ["BIOMEDICA_CACHE"] = own  # what earlier runs fetched is not there
    try:
        found = digest(side(job)) if words.check else timed(lambda: side(job))
    finally:
        shutil.rmtree(own)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
