"""The pictures that the streaming measurements read: one archive, and the same samples as peers' files.

    python bench/stream_data.py FOLDER [--shards 10] [--samples 1000]
    PEER bench/stream_data.py FOLDER --peer litdata|mds

FOLDER/archive holds samples of 800 x 600 pixels (noise that falls with frequency, boxes, text; quality
78 to 90) in the project's own shards, and views of them. Same words, same pictures. What stands is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 800, 600
GROUP = "commercial"
FIELDS = 24
"""Noise fields that pictures are mixed from."""
FEW_SHARDS = 4
"""Shards of the views of which little is selected."""
SHARES = (1, 10, 50, 100)
"""Per cent of the samples of those shards."""
WORDS = (
    "axial", "tomography", "of", "the", "chest", "shows", "a", "nodule", "in", "left", "lobe", "arrow",
    "scale", "bar", "stained", "with", "haematoxylin", "and", "eosin", "magnification", "control",
    "treated", "cells", "mean", "standard", "deviation", "patients", "survival", "upper", "computed",
)  # fmt: skip


def shard_name(number: int) -> str:
    """`commercial-000003`"""
    return f"{GROUP}-{number:06d}"


def shard_paths(folder: Path) -> list[Path]:
    """Tar files of the archive, in order."""
    return sorted((folder / "archive" / "shards").glob("*/*.tar"))


@cache
def fields() -> NDArray[np.float32]:
    """(FIELDS, HEIGHT, WIDTH): noise whose amplitude falls with frequency, of mean 0 and deviation 1."""
    rng = np.random.default_rng(20261101)
    rows, columns = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None, :]
    radius = np.maximum(np.hypot(rows, columns), 1 / WIDTH)
    made = []
    for _ in range(FIELDS):
        phases = np.exp(2j * np.pi * rng.random(radius.shape))
        noise = np.fft.irfft2(phases / radius**1.4, (HEIGHT, WIDTH))
        made.append(((noise - noise.mean()) / noise.std()).astype(np.float32))
    return np.stack(made)


def picture(number: int) -> bytes:
    """The JPEG of a sample."""
    from PIL import Image, ImageDraw, ImageFont

    rng = np.random.default_rng(number)
    contrast = rng.uniform(17, 49)
    planes = []
    for depth in (1.0, 0.25, 0.25):  # brightness, two colours
        field = fields()[rng.integers(FIELDS)]
        field = np.roll(field, (rng.integers(HEIGHT), rng.integers(WIDTH)), (0, 1))
        planes.append(np.clip(128 + field * (depth * contrast), 0, 255).astype(np.uint8))
    image = Image.fromarray(np.stack(planes, -1), "YCbCr").convert("RGB")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(22)
    for _ in range(rng.integers(2, 7)):
        x, y = int(rng.integers(WIDTH - 120)), int(rng.integers(HEIGHT - 90))
        box = (x, y, x + int(rng.integers(40, 240)), y + int(rng.integers(30, 180)))
        draw.rectangle(box, outline=tuple(rng.integers(0, 256, 3).tolist()), width=3)
        draw.text((x + 5, y + 4), " ".join(rng.choice(WORDS, 3)), fill="white", font=font)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(78, 91)))
    return buffer.getvalue()


def sample(number: int) -> Any:
    """A record of the archive around a made picture."""
    from biomedica.records import (
        Article,
        ArticleRef,
        Figure,
        Graphic,
        Media,
        Mention,
        Picture,
        Sample,
        Span,
    )

    rng = np.random.default_rng((7, number))
    article_id, position = 9_000_000 + number // 5, number % 5
    pmcid = f"PMC{article_id}"
    caption = f"Figure {position + 1}. {' '.join(rng.choice(WORDS, int(rng.integers(15, 120))))}."
    paragraph = f"(Fig. {position + 1}) {' '.join(rng.choice(WORDS, 90))}."
    mention = Mention(text=paragraph, section="Results", spans=(Span(1, 7),))
    file_name = f"made{number:07d}.jpg"
    figure = Figure(
        figure_id=f"F{position + 1}", label=f"Figure {position + 1}", kind="fig", position=position,
        sub_article=None, group_label=None, group_caption=None, caption=caption, alt_text=None,
        rights=None, graphics=(Graphic(href=file_name),), mentions=(mention,),
    )  # fmt: skip
    article = Article(
        pmcid=pmcid, pmid=None, doi=None, title=f"Article {article_id}", journal="J Made Up",
        article_type="research-article", published=date(2021, 3, 4), keywords=(), subjects=(),
        publisher=None, issn=(), abstract=None, authors=(), affiliations=(), funding=(), references=(),
        licence_url=None, licence_text=None, related_articles=(), body_text="", figures=(figure,),
    )  # fmt: skip
    jpeg = picture(number)
    found = Picture(
        jpeg=jpeg, width=WIDTH, height=HEIGHT, source_format="JPEG", source_bytes=len(jpeg),
        source_md5=hashlib.md5(jpeg, usedforsecurity=False).hexdigest(), transform="none",
        sha256=hashlib.sha256(jpeg).hexdigest(), phash=number,
    )  # fmt: skip
    return Sample(
        key=f"{pmcid}-1-made{number:07d}", graphic_position=0, file_name=file_name, caption=caption,
        ref=ArticleRef(pmcid=pmcid, version=1, license_code="CC BY", xml=Media(name=f"{pmcid}.1.xml")),
        article=article, figure=figure, mesh_terms=(), picture=found,
    )  # fmt: skip


def make_shard(root: Path, shard: int, samples: int) -> None:
    """Write one shard and its done file, unless they stand."""
    from biomedica.archive import Archive, Done
    from biomedica.shards import ShardWriter

    archive, name = Archive(root), shard_name(shard)
    if archive.done_path(name).exists():
        return
    with ShardWriter(root, GROUP, name) as writer:
        of_article: dict[str, list[Any]] = {}
        for number in range(shard * samples, (shard + 1) * samples):
            made = sample(number)
            writer.add_sample(made)
            of_article.setdefault(made.ref.pmcid, []).append(made)
        for each in of_article.values():
            writer.add_article(each[0].ref, each[0].article, (), len(each))
        counts, written = writer.counts(), writer.commit()
    archive.write_done(
        Done(
            task=name, group=GROUP, inputs="", settings="", counts=counts, rejects={},
            outputs=tuple(written), seconds=0, cpu_seconds=0,
        )
    )  # fmt: skip


def recipes() -> dict[str, str]:
    """Recipe by the view's name: all samples, one shard, and shares of a few shards."""
    few = (
        f'[[keep]]\nname = "few"\nwhere = "figure.shard < \'{shard_name(FEW_SHARDS)}\'"\n'
        'why = "A few shards are enough."\n'
    )
    one = few.replace(shard_name(FEW_SHARDS), shard_name(1))
    small = "[sample]\nnumber = 512\nseed = 0\n"
    part = {
        f"share{share}": few + f"[sample]\nfraction = {share / 100}\nseed = 0\n"
        for share in SHARES
        if share < 100
    }
    return {"all": 'about = "all"\n', "small": one + small, **part, "share100": few}


def make_archive(folder: Path, shards: int, samples: int) -> None:
    """The archive with its views."""
    from biomedica.archive import Archive

    root = folder / "archive"
    root.mkdir(parents=True, exist_ok=True)
    Archive(root).write_info({"source": "made", "snapshot": "2026-11-01"})
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(make_shard, repeat(root), range(shards), repeat(samples)))
    for name, recipe in recipes().items():
        path = folder / f"{name}.toml"
        path.write_text(recipe)
        if not (root / "views" / name / "counts.json").exists():
            words = ["-m", "biomedica", "select", root, path, "--name", name]
            done = subprocess.run(
                [sys.executable, *map(str, words)], capture_output=True, text=True
            )
            if done.returncode:
                sys.exit(f"select {name} failed:\n{done.stdout}{done.stderr}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the two members of a sample lie."""

    key: str
    shard: str
    """File name without `.tar`."""
    jpg: tuple[int, int]
    """Offset and size, bytes."""
    txt: tuple[int, int]


def places(folder: Path, view: str = "all") -> list[Place]:
    """The samples of a view in the order of the file, straight from `view.arrow`."""
    import pyarrow as pa

    with pa.memory_map(str(folder / "archive" / "views" / view / "view.arrow")) as file:
        columns = pa.ipc.open_file(file).read_all().to_pydict()
    jpg = zip(columns["jpg_offset"], columns["jpg_size"], strict=True)
    txt = zip(columns["txt_offset"], columns["txt_size"], strict=True)
    return [Place(*row) for row in zip(columns["key"], columns["shard"], jpg, txt, strict=True)]


def members(folder: Path) -> Iterator[dict[str, Any]]:
    """Every sample as peers' writers take it."""
    open_files = {path.stem: path.open("rb") for path in shard_paths(folder)}
    for place in places(folder):
        handle = open_files[place.shard].fileno()
        jpg, txt = (os.pread(handle, size, offset) for offset, size in (place.jpg, place.txt))
        yield {"key": place.key, "jpg": jpg, "txt": txt.decode()}


def make_mds(folder: Path) -> None:
    """The samples as MDS shards of 64 MB."""
    from streaming import MDSWriter

    columns = {"key": "str", "jpg": "bytes", "txt": "str"}
    with MDSWriter(out=str(folder / "mds"), columns=columns, size_limit=1 << 26) as writer:
        for each in members(folder):
            writer.write(each)


def make_litdata(folder: Path) -> None:
    """The samples as litdata chunks of 64 MB, its default."""
    from litdata.streaming import Cache

    cache_folder = Cache(str(folder / "litdata"), chunk_bytes="64MB")
    for number, each in enumerate(members(folder)):
        cache_folder[number] = each
    cache_folder.done()
    cache_folder.merge()


def make_peer(folder: Path, peer: str, python: Path) -> Path:
    """A peer's own files, made once by the interpreter that has it; where they stand."""
    out = folder / peer
    if not (out / "index.json").exists():
        words = [python, __file__, folder, "--peer", peer]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{peer}'s files were not made:\n{done.stderr}")
    return out


def sizes(folder: Path) -> dict[str, int]:
    """Mean and ends of the JPEGs' sizes, bytes."""
    found = np.array([place.jpg[1] for place in places(folder)])
    low, high = np.percentile(found, (5, 95)).round().astype(int).tolist()
    return {"samples": len(found), "mean": int(found.mean()), "p5": low, "p95": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--samples", type=int, default=1_000)
    parser.add_argument("--peer", choices=["litdata", "mds"])
    words = parser.parse_args()
    folder = words.folder.resolve()
    if words.peer:
        {"litdata": make_litdata, "mds": make_mds}[words.peer](folder)
    else:
        make_archive(folder, words.shards, words.samples)
        print(sizes(folder))


if __name__ == "__main__":
    main()
