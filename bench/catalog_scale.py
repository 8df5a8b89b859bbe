"""The catalog of a synthetic inventory, and the plan of eight million articles.

    python bench/catalog_scale.py catalog NUMBER     rows a second and peak memory of the catalog
    python bench/catalog_scale.py again NUMBER       the same, then once more with 1 % changed
    python bench/catalog_scale.py plan NUMBER        seconds and peak memory of the plan

The metadata is made on the fly by a server in another process on this machine, which speaks as much
of S3 as the program asks of it. Its CPU is not counted, but it shares the two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import hashlib
import json
import multiprocessing
import resource
import tempfile
import time
import urllib.parse
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa

DAY = "inventory-reports/pmc-oa-opendata/metadata/2026-11-20T01-00Z"
LICENCES = ["CC BY"] * 66 + ["CC BY-NC-ND"] * 14 + ["CC BY-NC"] * 12 + ["CC0"] * 3 + [None] * 5


def metadata(number: int, revision: int) -> bytes:
    """The JSON of one article version, as the service writes it."""
    name = f"PMC{number}.1"
    media = [
        f"s3://pmc-oa-opendata/{name}/fig-{number}-g{i:03d}.jpg?md5="
        + hashlib.md5(f"{name}{i}{revision}".encode(), usedforsecurity=False).hexdigest()
        for i in range(number % 9)
    ]
    content = {
        "pmcid": f"PMC{number}",
        "version": 1,
        "pmid": number + 10_000_000,
        "doi": f"10.5555/synthetic.{number}",
        "mid": None,
        "title": f"Synthetic article {number} on the growth of catalogues",
        "citation": f"J Synth. {2000 + number % 26} Mar {number % 28 + 1};1(1):1-9.",
        "is_pmc_openaccess": True,
        "is_manuscript": False,
        "is_historical_ocr": False,
        "is_retracted": number % 1000 == 0,
        "license_code": LICENCES[number % 100],
        "xml_url": f"s3://pmc-oa-opendata/{name}/{name}.xml?md5={number:032x}",
        "text_url": f"s3://pmc-oa-opendata/{name}/{name}.txt?md5={number:032x}",
        "media_urls": media,
    }
    return json.dumps(content).encode()


class Bucket:
    """What the server answers: an inventory of `count` articles, and their metadata."""

    def __init__(self, count: int, changed: float = 0) -> None:
        self.count, self.changed = count, changed
        rows = "".join(
            f'"pmc-oa-opendata","metadata/PMC{n}.1.json","2026-11-19T00:00:00.000Z",'
            f'"{n:024x}{self.revision(n):08x}"\n'
            for n in self.numbers()
        )
        self.data = gzip.compress(rows.encode(), 1)

    def numbers(self) -> range:
        """PMC ids at the density of the real ones (8 million below 13 million)."""
        return range(1_000_000, 1_000_000 + self.count * 13 // 8, 1)[:: 13 // 8][: self.count]

    def revision(self, number: int) -> int:
        """1 for the articles that changed."""
        return int(number % 1000 < 1000 * self.changed)

    def answer(self, target: str) -> bytes:
        """The body for a request target."""
        path, _, query = target.partition("?")
        key = urllib.parse.unquote(path).split("/", 2)[-1]
        if "list-type=2" in query:
            return (
                '<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>'
                f"<CommonPrefixes><Prefix>{DAY}/</Prefix></CommonPrefixes></ListBucketResult>"
            ).encode()
        if key.endswith("manifest.json"):
            files = [{"key": "inventory-reports/data.csv.gz", "size": len(self.data)}]
            schema = "Bucket, Key, LastModifiedDate, ETag"
            return json.dumps({"fileSchema": schema, "files": files}).encode()
        if key.endswith(".csv.gz"):
            return self.data
        number = int(key.removeprefix("metadata/PMC").split(".")[0])
        return metadata(number, self.revision(number))


class Answers(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, as little of it as a client needs."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket, self.buffer = bucket, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
            body = self.bucket.answer(head.split(b" ", 2)[1].decode())
            lines = f'HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nETag: "x"\r\n'
            stamp = "Last-Modified: Thu, 19 Nov 2026 00:00:00 GMT\r\n\r\n"
            self.transport.write((lines + stamp).encode() + body)  # type: ignore[attr-defined]


def serve(count: int, changed: float, pipe: Connection) -> None:
    """Run the server; its port goes through the pipe."""

    async def run() -> None:
        bucket = Bucket(count, changed)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Answers(bucket), "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def refresh(count: int, folder: Path, changed: float) -> dict[str, float]:
    """One refresh of the catalog; seconds, CPU seconds and what was fetched."""
    from biomedica.catalog import Selection, list_articles, refresh
    from biomedica.sources import SourceSettings, open_source

    here, there = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(count, changed, there), daemon=True)
    server.start()
    endpoint = f"http://127.0.0.1:{here.recv()}"
    started, cpu = time.monotonic(), time.process_time()
    source = open_source("s3://pmc-oa-opendata", SourceSettings(endpoint=endpoint, connections=32))
    listing = list_articles(source, Selection())
    found = refresh(folder / "catalog", source, listing, Selection(), folder / "rejects.parquet")
    result = {
        "listed": found.num_listed,
        "fetched": found.num_fetched,
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }
    server.terminate()
    server.join()
    return result


def measure_catalog(count: int) -> dict[str, object]:
    """A first catalog."""
    with tempfile.TemporaryDirectory() as folder:
        found = refresh(count, Path(folder), 0)
    return {**found, "rows_per_second": round(count / found["seconds"]), "peak_mb": peak_mb()}


def measure_again(count: int) -> dict[str, object]:
    """A first catalog, then one of an inventory in which 1 % changed."""
    with tempfile.TemporaryDirectory() as folder:
        first = refresh(count, Path(folder), 0)
        return {"first": first, "again": refresh(count, Path(folder), 0.01)}


def write_catalog(count: int, folder: Path) -> None:
    """A catalog of so many made-up articles, in parts as the program writes them."""
    from biomedica.catalog import CATALOG, PART_WIDTH
    from biomedica.shards import write_arrow

    generator = np.random.default_rng(0)
    per_part = PART_WIDTH * 8 // 13
    for part in range(-(-count // per_part)):
        rows = min(per_part, count - part * per_part)
        numbers = np.sort(generator.choice(PART_WIDTH, rows, replace=False)) + part * PART_WIDTH
        images = generator.integers(0, 9, rows)
        names = [f"{n:016x}" for n in numbers]
        columns = {
            "number": numbers,
            "version": np.ones(rows, np.int32),
            "pmid": numbers + 10_000_000,
            "doi": names,
            "title": names,
            "citation": names,
            "license_code": [LICENCES[i] for i in generator.integers(0, 100, rows)],
            "is_retracted": np.zeros(rows, bool),
            "is_manuscript": np.zeros(rows, bool),
            "is_historical_ocr": np.zeros(rows, bool),
            "location": names,
            "xml_name": names,
            "xml_md5": names,
            "media": [[{"name": name, "md5": name}] for name in names],
            "num_images": images,
            "published": np.full(rows, np.datetime64("2020-03-01")),
            "content": numbers,
            "etag": names,
        }
        arrays = [pa.array(columns[f.name], f.type) for f in CATALOG]
        write_arrow(
            folder / f"part-{part:05d}.parquet", pa.Table.from_arrays(arrays, schema=CATALOG)
        )


def measure_plan(count: int) -> dict[str, object]:
    """The plan of a catalog of `count` articles, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_catalog(count, folder / "catalog")
        here, there = multiprocessing.Pipe()
        process = multiprocessing.Process(target=plan_in, args=(folder, there))
        process.start()
        found = dict(here.recv())
        process.join()
    return {"articles": count, **found}


def plan_in(folder: Path, pipe: Connection) -> None:
    """Make the plan as `flow.prepare` does, and tell what it took."""
    from biomedica import catalog, plan
    from biomedica.catalog import Selection
    from biomedica.plan import ShardSettings

    started, cpu = time.monotonic(), time.process_time()
    articles = plan.wanted(catalog.parts(folder / "catalog"), Selection())
    changes, stays, added = plan.compare(plan.read_plan(folder / "no"), articles, frozenset())
    assert not changes and not stays.num_rows
    plan.write_plan(folder / "plan.parquet", stays, plan.assign(added, ShardSettings(), {}))
    del articles, added
    tasks = plan.task_digests(plan.read_plan(folder / "plan.parquet"))
    pipe.send(
        {
            "shards": len(tasks),
            "seconds": round(time.monotonic() - started, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "peak_mb": peak_mb(),
        }
    )


def peak_mb() -> int:
    """Peak resident memory of this process, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


KINDS = {"catalog": measure_catalog, "again": measure_again, "plan": measure_plan}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("number", type=int)
    arguments = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    print(json.dumps(KINDS[arguments.kind](arguments.number)))


if __name__ == "__main__":
    main()
