"""CPU of parsing with all fields, against a bare `lxml.etree.parse` of the same files.

    python bench/parse_speed.py BUCKET [--peer]

Each round times the bare parse and the parser one after the other; the ratio of a round is what
counts, and the median round is printed, so that noise of the machine falls on both sides. With
`--peer` the parser is `pubmed_parser` (run it with an interpreter that has it): its captions alone,
and all its article-level functions.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from lxml import etree

ROUNDS = 7


def cpu(function: Callable[[Path], object], files: list[Path]) -> float:
    """CPU seconds of calling the function on each file."""
    started = time.process_time()
    for path in files:
        function(path)
    return time.process_time() - started


def compare(function: Callable[[Path], object], files: list[Path], rounds: int) -> dict[str, float]:
    """Ratios over interleaved rounds, and milliseconds an article of the median round."""
    ratios, seconds = [], []
    for _ in range(rounds):
        bare = cpu(lambda path: etree.parse(str(path)), files)
        mine = cpu(function, files)
        ratios.append(mine / bare)
        seconds.append(mine)
    return {
        "ratio": round(statistics.median(ratios), 2),
        "lowest": round(min(ratios), 2),
        "highest": round(max(ratios), 2),
        "ms_per_article": round(statistics.median(seconds) / len(files) * 1000, 2),
        "articles": len(files),
    }


def works(function: Callable[[Path], object], files: list[Path]) -> list[Path]:
    """The files on which the function raises nothing."""
    kept = []
    for path in files:
        with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
            function(path)
            kept.append(path)
    return kept


def ours() -> dict[str, Callable[[Path], object]]:
    """Our parser."""
    from biomedica.parse import parse_article

    return {"biomedica, all fields": lambda path: parse_article(path.read_bytes())}


def peers() -> dict[str, Callable[[Path], object]]:
    """pubmed_parser: captions alone, and its five functions."""
    import pubmed_parser as pp

    def everything(path: Path) -> None:
        for function in (
            pp.parse_pubmed_xml,
            pp.parse_pubmed_paragraph,
            pp.parse_pubmed_references,
            pp.parse_pubmed_caption,
            pp.parse_pubmed_table,
        ):
            function(str(path))

    return {
        "pubmed_parser, captions": lambda path: pp.parse_pubmed_caption(str(path)),
        "pubmed_parser, all functions": everything,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bucket", type=Path)
    parser.add_argument("--peer", action="store_true")
    arguments = parser.parse_args()
    files = works(lambda path: etree.parse(str(path)), sorted(arguments.bucket.glob("PMC*/*.xml")))
    found = {}
    for name, function in (peers() if arguments.peer else ours()).items():
        found[name] = compare(function, works(function, files), 3 if arguments.peer else ROUNDS)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
