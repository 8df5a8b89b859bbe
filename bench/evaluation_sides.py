"""Sides of the evaluation measurements that need a process of their own.

    PEER bench/evaluation_sides.py theirs WORDS...     CLIP_benchmark's program on a CPU (PEER: its interpreter)
    python bench/evaluation_sides.py pairs NUMBER      ranks against a bare product, taking turns; prints JSON
    python bench/evaluation_sides.py peak NUMBER       all ranks of one direction; prints JSON

CLIP_benchmark 1.6.2 as it stands stops on numpy 2.4 and asks for CUDA in a linear probe: `REPAIRS` lists all that is
changed, in memory.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPAIRS = {
    # float() of an array of one number is an error since numpy 2.4
    "clip_benchmark.metrics.zeroshot_classification": [
        (".sum(0, keepdim=True).cpu()", ".sum().cpu()")
    ],
    "clip_benchmark.metrics.linear_probe": [
        ("assert device == 'cuda'", "assert device"),
        ("model.cuda()", "model.to(device)"),
        ("normalize).cuda()", "normalize).to(device)"),
        ("x.cuda(), y.cuda()", "x.to(device), y.to(device)"),
    ],
}
DIMS = 512
TURNS = 10
Floats = NDArray[np.float32]


def theirs(words: list[str]) -> None:
    """Their command line, with a linear probe that runs where there is no GPU."""
    for name, changes in REPAIRS.items():
        module = import_module(name)
        assert module.__file__
        text = Path(module.__file__).read_text()
        for old, new in changes:
            if old not in text:
                sys.exit(f"{name} has no {old!r}; CLIP_benchmark 1.6.2 is expected")
            text = text.replace(old, new)
        exec(compile(text, module.__file__, "exec"), vars(module))
    sys.argv = ["clip_benchmark", *words]
    import_module("clip_benchmark.cli").main()


def vectors(number: int) -> tuple[Floats, Floats]:
    """Pictures and captions of length 1, a caption near its picture."""
    random = np.random.default_rng(0)
    images = random.standard_normal((number, DIMS), np.float32)
    texts = random.standard_normal((number, DIMS), np.float32)
    texts *= 5
    texts += images
    for values_ND in (images, texts):  # in place: memory is measured
        values_ND /= np.sqrt(np.einsum("nd,nd->n", values_ND, values_ND))[:, None]
    return images, texts


def bare(queries_QD: Floats, gallery_MD: Floats, block: Floats) -> None:
    """The same products in the same blocks, and nothing else."""
    for start in range(0, len(queries_QD), len(block)):
        some = queries_QD[start : start + len(block)]
        np.matmul(some, gallery_MD.T, out=block[: len(some)])


def _seconds(work: Callable[[], object]) -> float:
    """CPU seconds, of all threads."""
    before = time.process_time()
    work()
    return time.process_time() - before


def pairs(number: int) -> dict[str, Any]:
    """A tenth of the queries against the whole gallery at a time: bare, then ranks."""
    from biomedica.ranks import _BLOCK, Members, ranks

    images, texts = vectors(number)
    held = Members.each(np.arange(number))
    block = np.zeros((max(1, _BLOCK // number), number), np.float32)
    found = []
    for some in np.array_split(np.arange(number), TURNS):
        queries = texts[some]
        product = _seconds(lambda q=queries: bare(q, images, block))  # type: ignore[misc]
        asked = Members.each(some)
        found.append((product, _seconds(lambda q=queries, a=asked: ranks(q, images, a, held))))  # type: ignore[misc]
    return {"pairs": found}


def peak(number: int) -> dict[str, Any]:
    """Memory of this process before and at the most, MB; CPU seconds of the whole direction."""
    from biomedica.ranks import Members, ranks

    images, texts = vectors(number)
    before = _peak_mb()
    members = Members.each(np.arange(number))
    found: list[Any] = []
    seconds = _seconds(lambda: found.append(ranks(texts, images, members, members)))
    first = float(np.mean(found[0] == 1))
    return {"before_mb": before, "peak_mb": _peak_mb(), "cpu": seconds, "first": first}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    side, *words = sys.argv[1:]
    if side == "theirs":
        theirs(words)
    else:
        print(json.dumps({"pairs": pairs, "peak": peak}[side](int(words[0]))))
