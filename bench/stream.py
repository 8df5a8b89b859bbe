"""The measurements of streaming: writes docs/benchmarks-stream.md.

    python bench/stream.py [--only nodecode,decode,http,filtered,shuffle,memory] [--quick] [--cache FOLDER]

Makes its pictures once, in the cache folder (4 GB). Each side is a process of its own; the sides of a
table take turns, ROUNDS times; what they read is compared before. `--only` measures some sections again
and leaves the others as they stand; `--quick` is a trial with few samples and writes no page. Peers
without an environment (`make bench` makes them) and a missing nginx are left out, and said to be.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from annotation import sections_of
from run import BENCH, ROOT, machine, measured, row
from stream_data import FEW_SHARDS, SHARES, make_peer, sizes
from stream_server import LATENCY, NGINX, RATE, counts, nginx, rates, slow_server

ROUNDS = 3
EPOCHS = 50
PAGE = ROOT / "docs" / "benchmarks-stream.md"
CACHE = Path.home() / ".cache" / "biomedica-bench"
PEERS = {name: ROOT / ".venv" / f"peer-{name}" / "bin" / "python" for name in ("litdata", "mds")}
HEAD = """# Benchmarks of streaming

Written by `make bench` (`python bench/stream.py`). Ratios within one run: the machine is shared and noisy.
Each side runs in a process of its own; the sides of a table take turns, and a number is the median of its rounds.
Sides that read bytes gave the same ones (compared by digests before). Files are in the page cache, so local
numbers are what software costs.

- Machine: {machine}
- Pictures: {samples:,} JPEGs of 800 x 600 (noise, boxes, text; quality 78 to 90) in 10 shards, {mean:,} bytes on
  average ({p5:,} to {p95:,} between the 5th and 95th per cent)
"""
Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """What the sections share."""

    folder: Path
    rounds: int
    epochs: int

    def rounds_of(
        self, sides: Sequence[str], measure: Callable[[str], Result]
    ) -> dict[str, list[Result]]:
        """Every side in turn, so that a busy minute meets all of them."""
        found: dict[str, list[Result]] = {side: [] for side in sides}
        for _ in range(self.rounds):
            for side in sides:
                found[side].append(measure(side))
        return found


def goal_row(what: str, found: float, goal: float, unit: str = "x", *, most: bool = False) -> str:
    """One line of a table of goals. most   the goal is an upper bound"""
    reached = found <= goal if most else found >= goal
    return row(
        what, f"{found:.3g}{unit}", f"{goal:g}{unit}", "reached" if reached else "not reached"
    )


def goal_table(lines: Iterable[str]) -> list[str]:
    """Goals beside what was measured."""
    return ["", row("what", "measured", "goal", ""), row(*["---"] * 4), *lines, ""]


def side_run(run: Run, side: str, *words: str) -> Result:
    """One side of `stream_sides.py`, by the interpreter that has it."""
    python = str(PEERS.get(side, sys.executable))
    return measured("stream_sides.py", side, run.folder, *words, python=python)


def same_bytes(run: Run, sides: Iterable[str], *words: str) -> None:
    """Stop where two sides do not give the same keys, pictures and texts."""
    found = {side: side_run(run, side, *words, "--check") for side in sides}
    if len({(each["samples"], each["digest"]) for each in found.values()}) != 1:
        sys.exit(f"the sides read different samples: {found}")


def middle(found: list[Result], name: str) -> float:
    """Median of the rounds."""
    return float(median(each[name] for each in found))


def left_out(names: Iterable[str]) -> list[str]:
    """What is said of peers that are not there."""
    text = ", ".join(names)
    if text:
        print(f"NOT MEASURED: {text}; `make bench` makes the environments", file=sys.stderr)
    return [f"Not measured, for want of an environment: {text}.", ""] if text else []


NODECODE = """## Without decoding

One process, pictures and texts as bytes, {samples:,} samples: samples a second of CPU time (the process and its
children), opening included, imports not. The floor is the view's offsets and `os.pread` of the two members, one
sample after the other.

`python bench/stream.py --only nodecode`
"""
NODECODE_SIDES = {
    "ours": "ours, shuffled",
    "bare": "floor, in the order of the files",
    "bare_shuffled": "floor, in our order",
    "webdataset": "webdataset 1.0.2",
    "webdataset_shuffle": "webdataset, shuffle(1000)",
    "litdata": "litdata 0.2.76, shuffled",
    "mds": "mosaicml-streaming 0.13.0, shuffled",
}


def nodecode_section(run: Run) -> list[str]:
    """Bytes out of local files."""
    absent = [name for name, python in PEERS.items() if not python.exists()]
    sides = [side for side in NODECODE_SIDES if side not in absent]
    for name, python in PEERS.items():
        if name not in absent:
            make_peer(run.folder, name, python)
    same_bytes(run, sides)
    found = run.rounds_of(sides, lambda side: side_run(run, side))
    speeds = {
        side: [each["samples"] / each["cpu"] for each in rounds] for side, rounds in found.items()
    }
    base = median(speeds["webdataset"])
    lines = [
        NODECODE.format(samples=found["ours"][0]["samples"]),
        row("reader", "samples a CPU second", "best", "by webdataset"),
        row(*["---"] * 4),
    ]
    for side, each in speeds.items():
        name, speed = NODECODE_SIDES[side], median(each)
        lines.append(row(name, f"{speed:,.0f}", f"{max(each):,.0f}", f"{speed / base:.2f}"))
    own = median(speeds["ours"])
    goals = [
        goal_row("ours by webdataset", own / base, 10),
        goal_row("ours by the floor in our order", own / median(speeds["bare_shuffled"]), 0.8),
        goal_row("ours by the floor in file order", own / median(speeds["bare"]), 0.8),
    ]
    return [*lines, *goal_table(goals), *left_out(absent)]


DECODE = """## Decoding

A DataLoader of 2 workers, batches of 64: random crop (90 to 100 % of the area), 224 x 224, bicubic with
antialiasing; {images:,} images, counted from the ninth batch on. Time to the first batch apart: ours starts its workers
by a fork server, where each imports torch; webdataset forks. webdataset's pipeline is open_clip's, with Pillow's
decoder and filter.

`python bench/stream.py --only decode`
"""
DECODE_SIDES = {
    "ours_full": "ours, whole decoding",
    "ours_scaled": "ours, DCT scaling",
    "webdataset": "webdataset and Pillow, bytes",
    "webdataset_open_clip": "webdataset and open_clip's transform, normalised float32",
}


def decode_section(run: Run) -> list[str]:
    """Pixels out of local files."""
    apart = measured("stream_loaders.py", "pixels", run.folder)
    found = run.rounds_of(
        list(DECODE_SIDES),
        lambda side: measured("stream_loaders.py", "speed", side, run.folder),
    )
    lines = [
        DECODE.format(images=found["ours_full"][0]["images"]),
        row("loader", "images a second", "best", "images a CPU second", "first batch, s"),
        row(*["---"] * 5),
    ]
    wall, cpu = {}, {}
    for side, rounds in found.items():
        speeds = [each["images"] / each["seconds"] for each in rounds]
        wall[side] = median(speeds)
        cpu[side] = median(each["images"] / each["cpu"] for each in rounds)
        first = middle(rounds, "first_batch")
        numbers = (f"{wall[side]:,.0f}", f"{max(speeds):,.0f}", f"{cpu[side]:,.0f}", f"{first:.1f}")
        lines.append(row(DECODE_SIDES[side], *numbers))
    lines += ["", row("pixels beside Pillow's, of 255", "mean difference", "largest")]
    lines.append(row(*["---"] * 3))
    lines += [
        row(name.replace("_", ", "), f"{mean:.4f}", largest)
        for name, (mean, largest) in apart.items()
    ]
    goals = []
    for side, goal in (("ours_full", 2.9), ("ours_scaled", 3.5)):
        for what, speeds_of in (("seconds", wall), ("CPU", cpu)):
            ratio = speeds_of[side] / speeds_of["webdataset"]
            goals.append(goal_row(f"{DECODE_SIDES[side]}, by webdataset, {what}", ratio, goal))
    worst = max(apart["full_train"][0], apart["full_middle"][0])
    goals.append(goal_row("mean difference of whole decoding, of 255", worst, 0, "", most=True))
    return [*lines, *goal_table(goals)]


HTTP = """## From a server on this machine

nginx with sendfile, {samples:,} samples without decoding: CPU of the client with its children, not of the server.

`python bench/stream.py --only http`
"""


def http_section(run: Run) -> list[str]:
    """Bytes from nginx."""
    lines = HTTP.format(samples=sizes(run.folder)["samples"])
    if NGINX is None:
        print("NOT MEASURED: there is no nginx here", file=sys.stderr)
        return [lines, "Not measured: there was no nginx on the machine.", ""]
    names = {"ours": "ours, shuffled", "webdataset": "webdataset, `pipe:curl -s -L`"}
    with nginx(run.folder) as url:
        same_bytes(run, names, "--url", url)
        found = run.rounds_of(list(names), lambda side: side_run(run, side, "--url", url))
    rows = [
        row("reader", "samples a CPU second", "best", "seconds"),
        row(*["---"] * 4),
    ]
    speeds = {}
    for side, rounds in found.items():
        each = [one["samples"] / one["cpu"] for one in rounds]
        speeds[side] = median(each)
        seconds = f"{middle(rounds, 'seconds'):.2f}"
        rows.append(row(names[side], f"{speeds[side]:,.0f}", f"{max(each):,.0f}", seconds))
    goal = goal_row("ours by webdataset", speeds["ours"] / speeds["webdataset"], 8)
    return [lines, *rows, *goal_table([goal])]


FILTERED = """## Part of an archive, from a slow server

{shards} shards of {mb:.0f} MB together, of which views select a part by a hash of the key, on a server that waits
{latency:.0f} ms before each answer and gives a connection {rate:.0f} MB/s (one curl got {mb_s_1:.0f} MB/s, 16 got
{mb_s_16:.0f}). `scan` reads all shards in one connection and drops what is not selected, as one worker of a tar
reader does; `4 curls` does so with all shards at the same time; the other sides have the view on their disk,
ours fetches it, which is `opening`. Ratios are those of the whole time and of the time without opening.

`python bench/stream.py --only filtered`
"""
FILTERED_SIDES = {"ours": "ours", "scan": "scan", "curl_parallel": f"{FEW_SHARDS} curls"}
FILTERED_GOALS = dict(zip(SHARES, (50, 12, 10, 8), strict=True))


def filtered_section(run: Run) -> list[str]:
    """Some samples from a server far away."""
    paths = sorted((run.folder / "archive" / "shards").glob("*/*.tar"))[:FEW_SHARDS]
    lines = [
        FILTERED.format(
            shards=FEW_SHARDS,
            mb=sum(path.stat().st_size for path in paths) / 1e6,
            latency=LATENCY * 1e3,
            rate=RATE / 1e6,
            **rates(run.folder),
        ),
        row("selected", "side", "seconds", "best", "opening", "MB", "requests", "connections"),
        row(*["---"] * 8),
    ]
    goals = []
    for share in SHARES:
        rows, goal = share_rows(run, share)
        lines += rows
        goals += goal
    return [*lines, *goal_table(goals)]


def share_rows(run: Run, share: int) -> tuple[list[str], list[str]]:
    """One share of the samples: rows of the table, and of the goals."""
    view = f"share{share}"
    with slow_server(run.folder) as url:
        same_bytes(run, FILTERED_SIDES, "--url", url, "--view", view)

        def measure(side: str) -> Result:
            counts(url)
            found = side_run(run, side, "--url", url, "--view", view)
            return found | {"asked": counts(url)}

        found = run.rounds_of(list(FILTERED_SIDES), measure)
    rows, whole, reading = [], {}, {}
    for side, rounds in found.items():
        whole[side] = middle(rounds, "seconds")
        reading[side] = median(each["seconds"] - each["opened"] for each in rounds)
        best, asked = min(each["seconds"] for each in rounds), rounds[-1]["asked"]
        opened = f"{middle(rounds, 'opened'):.2f}" if side == "ours" else ""
        numbers = (f"{whole[side]:.2f}", f"{best:.2f}", opened, f"{asked['bytes'] / 1e6:.1f}")
        what = (f"{share} %", FILTERED_SIDES[side])
        rows.append(row(*what, *numbers, asked["requests"], asked["connections"]))
    goal = FILTERED_GOALS[share]
    return rows, [
        goal_row(f"{share} %, scan by ours", whole["scan"] / whole["ours"], goal),
        goal_row(f"{share} %, without opening", reading["scan"] / reading["ours"], goal),
    ]


SHUFFLE = """## Shuffling

How many shards a batch of 256 samples of one worker comes from, of 1,000 shards of 1,000 samples. webdataset:
its own buffer with open_clip's default, 5,000 samples begun at 1,000. Ours: runs of {run} neighbours mixed in windows
of {window:,} samples, as it stands by default, and with a window as large as that buffer.

`python bench/stream_order.py`
"""


def shuffle_section(run: Run) -> list[str]:
    """Simulation of the orders."""
    found = measured("stream_order.py")
    names = {
        "ours": "ours",
        "same_memory": "ours, window of 5,000",
        "webdataset": "webdataset",
        "ideal": "a shuffle of all samples",
    }
    base = found["webdataset"]
    table = [
        row(text, f"{found[name]:.1f}", f"{found[name] / base:.1f}") for name, text in names.items()
    ]
    goals = [
        goal_row("ours by webdataset", found["ours"] / base, 10),
        goal_row("ours, window of 5,000, by webdataset", found["same_memory"] / base, 10),
    ]
    return [
        SHUFFLE.format(**found["settings"]),
        row("order", "shards in a batch", "by webdataset"),
        row(*["---"] * 3),
        *table,
        *goal_table(goals),
    ]


MEMORY = """## Memory

Our loader with 2 workers over {epochs} epochs of 512 samples, decoded: proportional set size of the process and its
workers at the end of each epoch; the slope leaves out the first fifth.

`python bench/stream_loaders.py memory FOLDER {epochs}`
"""


def memory_section(run: Run) -> list[str]:
    """Whether memory stays as it is."""
    found = measured("stream_loaders.py", "memory", run.folder, str(run.epochs))
    share = found["slope"] / found["peak"] * 100
    each = found["mb"]
    return [
        MEMORY.format(epochs=run.epochs),
        f"Peak {found['peak']:,.0f} MB; {each[0]:,.0f} MB after the first epoch, {each[-1]:,.0f} MB at the end; "
        f"slope {found['slope']:.2f} MB an epoch.",
        *goal_table([goal_row("slope, of the peak, an epoch", share, 0.1, " %", most=True)]),
    ]


SECTIONS: dict[str, Callable[[Run], list[str]]] = {
    "nodecode": nodecode_section,
    "decode": decode_section,
    "http": http_section,
    "filtered": filtered_section,
    "shuffle": shuffle_section,
    "memory": memory_section,
}


def made(cache: Path, quick: bool) -> Path:
    """The pictures, made where they do not stand; they are read once, into the page cache."""
    samples = 300 if quick else 1_000
    folder = cache / f"stream-10x{samples}"
    words = [sys.executable, str(BENCH / "stream_data.py"), str(folder), "--samples", str(samples)]
    subprocess.run(words, check=True)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            path.read_bytes()
    return folder


HEADINGS = [
    text.split("\n", 1)[0].removeprefix("## ")
    for text in (NODECODE, DECODE, HTTP, FILTERED, SHUFFLE, MEMORY)
]


def measured_line(run: Run, name: str, before: float) -> str:
    """Date, rounds, and how busy the machine was: the measurement is part of the load at its end."""
    rounds = "" if name in ("shuffle", "memory") else f", {run.rounds} rounds"
    load = f"{before:.1f} processes waiting or at work before, {os.getloadavg()[0]:.1f} at the end"
    return f"Measured on {date.today().isoformat()}{rounds}; {load}."


def write_page(folder: Path, lines: list[str]) -> None:
    """The page with a section that was measured now; the others stay as they were."""
    old = sections_of(PAGE.read_text()) if PAGE.exists() else {}
    new = old | sections_of("\n" + "\n".join(lines))
    head = HEAD.format(machine=machine(), **sizes(folder))
    page = [head, *(new[heading] + "\n" for heading in HEADINGS if heading in new)]
    PAGE.write_text("\n".join(page).rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cache", type=Path, default=CACHE)
    words = parser.parse_args()
    names = words.only.split(",")
    if unknown := set(names) - set(SECTIONS):
        parser.error(f"--only {','.join(sorted(unknown))}: known are {', '.join(SECTIONS)}")
    folder = made(words.cache, words.quick)
    run = Run(folder, 1 if words.quick else ROUNDS, 8 if words.quick else EPOCHS)
    for name in [name for name in SECTIONS if name in names]:
        before = os.getloadavg()[0]
        lines = [*SECTIONS[name](run), measured_line(run, name, before), ""]
        if words.quick:
            print("\n".join(lines))
        else:
            write_page(folder, lines)


if __name__ == "__main__":
    main()
