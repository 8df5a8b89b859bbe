"""Planted and unrelated pictures against a training view: what the check for leaks finds, and what it should not.

    python bench/leaks.py CORPUS [--keep FOLDER] [--work FOLDER]

Three archives of real pictures are dealt into two halves by article. Pictures of the one half are planted in a
benchmark in several forms, those of the other half are unrelated. Writes docs/benchmarks-leaks.md, and with
`--keep` a sheet of every pair that was found among the unrelated. Archives, features and embeddings stay in the folder
of `--work`, where there is one, for the next time.
"""

from __future__ import annotations

import argparse
import io
import resource
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

import labelled_source
from biomedica.archive import Archive
from biomedica.evaluate.embeddings import Embeddings
from biomedica.evaluate.intervals import wilson
from biomedica.evaluate.items import Items, open_picture
from biomedica.evaluate.leaks import Leaks, contamination
from biomedica.evaluate.overlap import Grey, overlap
from biomedica.evaluate.readers.views import Shards
from biomedica.evaluate.settings import LeakSettings
from biomedica.features import FeatureSet, figures_path
from biomedica.models import Encoder, open_encoder
from biomedica.stream.samples import open_samples
from real_source import biomedica, write_pathways
from run import ROOT, machine, row

PAGE = ROOT / "docs" / "benchmarks-leaks.md"
PER_SET, PER_ARTICLE = 5000, 8
PLANTED = 30
"""Pictures of each archive that are planted, in every form."""
RECIPE = "[split]\ntest = 0.5\n"
SETTINGS = LeakSettings()
LOOSE = LeakSettings(verify=False, phash_bits=8, cosine_alone=0.6)
SAME_BY_EYE = frozenset(
    {
        # the stage moved: the same cells of a smear; one cell twice; turned and mirrored copies of LC25000
        frozenset({"PMC98000012-1-BloodImage_00252", "PMC98000002-1-BloodImage_00237"}),
        frozenset({"PMC98000021-1-BloodImage_00247", "PMC98000013-1-BloodImage_00244"}),
        frozenset({"PMC98000021-1-BloodImage_00382", "PMC98000011-1-BloodImage_00395"}),
        frozenset({"PMC98000021-1-BloodImage_00384", "PMC98000002-1-BloodImage_00393"}),
        frozenset({"PMC98000027-1-BloodImage_00391", "PMC98000014-1-BloodImage_00386"}),
        frozenset({"PMC98000061-1-lungaca1676", "PMC98000049-1-lungaca2095"}),
        frozenset({"PMC98000105-1-lungscc347", "PMC98000111-1-lungscc594"}),
        frozenset({"PMC98000116-1-lungscc3996", "PMC98000109-1-lungscc959"}),
        frozenset({"PMC98000123-1-060", "PMC98000157-1-090"}),
        frozenset({"PMC98000147-1-051", "PMC98000145-1-073"}),
        frozenset({"PMC98000153-1-089", "PMC98000155-1-026"}),
        # the same bytes
        frozenset({"PMC98000115-1-lungscc623", "PMC98000103-1-lungscc3425"}),
        frozenset({"PMC98000219-1-film00984", "PMC98000522-1-film01659"}),
        frozenset({"PMC98000238-1-film00178", "PMC98000320-1-film01011"}),
        frozenset({"PMC98000284-1-film00022", "PMC98000418-1-film02470"}),
        frozenset({"PMC98000302-1-film00740", "PMC98000421-1-film02688"}),
        frozenset({"PMC98000360-1-film02457", "PMC98000287-1-film02584"}),
        frozenset({"PMC98000371-1-film00577", "PMC98000583-1-film02783"}),
        frozenset({"PMC98000398-1-film02019", "PMC98000296-1-film02381"}),
        frozenset({"PMC98000424-1-film03338", "PMC98000430-1-film03017"}),
        frozenset({"PMC98000610-1-film02737", "PMC98000547-1-film02807"}),
    }
)
"""Keys of pairs from the two halves that show the same picture, as a look at them told."""
Picture = bytes
Form = Callable[[Picture, np.random.Generator], Picture]


def _jpeg(image: Image.Image, quality: int = 90) -> Picture:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return content.getvalue()


def _cropped(image: Image.Image, share: float, random: np.random.Generator) -> Image.Image:
    """Without that share of width and height, wherever it falls."""
    width, height = round(image.width * (1 - share)), round(image.height * (1 - share))
    left = int(random.integers(0, image.width - width + 1))
    top = int(random.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _exact(data: Picture, random: np.random.Generator) -> Picture:
    return data


def _again(data: Picture, random: np.random.Generator) -> Picture:
    return _jpeg(open_picture(data), 60)


def _half(data: Picture, random: np.random.Generator) -> Picture:
    image = open_picture(data)
    return _jpeg(image.resize((max(1, image.width // 2), max(1, image.height // 2))))


def _crop(data: Picture, random: np.random.Generator) -> Picture:
    return _jpeg(_cropped(open_picture(data), 0.05, random))


def _crop_and_flip(data: Picture, random: np.random.Generator) -> Picture:
    image = _cropped(open_picture(data), 0.15, random)
    return _jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


FORMS: dict[str, Form] = {
    "exact": _exact,
    "re-encoded, quality 60": _again,
    "half the size": _half,
    "crop of 5 %": _crop,
    "crop of 15 %, mirrored": _crop_and_flip,
}
UNRELATED = "unrelated"


@dataclass(frozen=True)
class Side:
    """One archive's benchmark and what was found."""

    name: str
    forms: list[str]
    """Of each item; `UNRELATED` for the other half."""
    keys: list[str]
    """Of each item: the sample that it was made of."""
    leaks: Leaks
    loose: Leaks
    """With hashes and cosines alone, at thresholds that let much through."""
    own_cosines: dict[str, list[float]]
    """By form: of a plant with its own sample."""
    correlations: dict[str, list[float]]
    """By form: of a plant with its own sample; of the unrelated with their nearest one."""

    def found(self, leaks: Leaks) -> list[dict[str, dict[str, object]]]:
        """Of each item, its rows by key."""
        by_item: dict[str, dict[str, dict[str, object]]] = {}
        for each in leaks.rows.to_pylist():
            by_item.setdefault(each["item"], {})[each["key"]] = each
        return [by_item.get(_id(number), {}) for number in range(len(self.keys))]


def _id(number: int) -> str:
    return f"{number:05d}"


def make_archives(corpus: Path, folder: Path, encoder: str) -> list[Archive]:
    """Figures, pathways and labelled sets, with features and the view `halves`."""
    write_pathways(corpus / "figcaps_pfocr", folder / "sources" / "pathways")
    labelled_source.SETS.pop("pathway diagrams", None)
    labelled_source.write_source(corpus, folder / "sources" / "labelled", PER_SET, PER_ARTICLE)
    (folder / "halves.toml").write_text(RECIPE)
    archives = []
    for name in ("figures", "pathways", "labelled"):
        source = corpus / "bucket" if name == "figures" else folder / "sources" / name
        biomedica("build", source, folder / name, "--quiet")
        biomedica("embed", folder / name, "--encoder", encoder, "--name", "dino", "--quiet")
        biomedica("select", folder / name, folder / "halves.toml", "--quiet")
        archives.append(Archive(folder / name))
    return archives


def look(archive: Archive, encoder: Encoder, cache: Path) -> Side:
    """Plant, look, and measure what thresholds rest on."""
    random = np.random.default_rng(0)
    trained = Shards(open_samples(archive.root, "halves", "train"))
    others = Shards(open_samples(archive.root, "halves", "test"))
    chosen = random.permutation(len(trained.rows.keys))[:PLANTED].tolist()
    pictures, forms, keys = [], [], []
    for form, made in FORMS.items():
        for number in chosen:
            pictures.append(made(trained.picture(number), random))
            forms.append(form)
            keys.append(trained.rows.keys[number])
    for number, key in enumerate(others.rows.keys):
        pictures.append(others.picture(number))
        forms.append(UNRELATED)
        keys.append(key)
    items = benchmark(pictures)
    embeddings = Embeddings(encoder, cache)
    common = (archive, "halves", "train", items)
    leaks = contamination(*common, SETTINGS, "dino", embeddings)
    loose = contamination(*common, LOOSE, "dino", embeddings)
    vectors = embeddings.images(items).vectors_ND
    train_keys, features = train_vectors(archive, set(trained.rows.keys))
    cosines = vectors @ features.T
    place = {key: number for number, key in enumerate(train_keys)}
    number_of = {key: number for number, key in enumerate(trained.rows.keys)}
    own: dict[str, list[float]] = {}
    fits: dict[str, list[float]] = {}
    for index, (form, key) in enumerate(zip(forms, keys, strict=True)):
        if form == "exact":
            continue
        nearest = int(cosines[index].argmax())
        against = place[key] if form != UNRELATED else nearest
        if form == UNRELATED and frozenset((key, train_keys[nearest])) in SAME_BY_EYE:
            continue
        own.setdefault(form, []).append(float(cosines[index, against]))
        other = trained.picture(number_of[train_keys[against]])
        fit = overlap(Grey.of(open_picture(pictures[index])), Grey.of(open_picture(other)))
        fits.setdefault(form, []).append(fit.correlation)
    return Side(archive.root.name, forms, keys, leaks, loose, own, fits)


def benchmark(pictures: Sequence[Picture]) -> Items:
    """Items whose names tell nothing."""
    ids = tuple(_id(number) for number in range(len(pictures)))
    return Items(
        task="planted",
        split="test",
        ids=ids,
        places=ids,
        read=lambda index: pictures[index],
        groups=ids,
        picture_ids=ids,
    )


def train_vectors(archive: Archive, wanted: set[str]) -> tuple[list[str], NDArray[np.float32]]:
    """Keys and features of the training half."""
    features = FeatureSet.open(archive, "dino")
    keys: list[str] = []
    parts = []
    for shard in features.shards():
        own = pq.read_table(figures_path(archive, shard), columns=["key"])["key"].to_pylist()
        rows = [number for number, key in enumerate(own) if key in wanted]
        keys += [own[number] for number in rows]
        parts.append(features.read(shard)[rows].astype(np.float32))
    return keys, np.concatenate(parts)


def planted_table(sides: Sequence[Side]) -> list[str]:
    """Share of the plants found, by form: in all, and by the strongest tier of the right pair."""
    lines = [
        row(
            "form",
            "planted",
            "found",
            "share",
            "by bytes",
            "by hash",
            "by vectors",
            "lowest archive",
        ),
        row(*["---"] * 8),
    ]
    for form in FORMS:
        tiers: Counter[str] = Counter()
        rates, total = [], 0
        for side in sides:
            found = side.found(side.leaks)
            own = [
                found[n].get(key)
                for n, (kind, key) in enumerate(zip(side.forms, side.keys, strict=True))
                if kind == form
            ]
            tiers.update(str(each["tier"]) for each in own if each)
            rates.append((sum(each is not None for each in own) / len(own), side.name))
            total += len(own)
        shares = [f"{tiers[tier] / total:.1%}" for tier in ("exact", "phash", "embedding")]
        lowest, name = min(rates)
        lines.append(row(form, *_rate(tiers.total(), total), *shares, f"{lowest:.1%} ({name})"))
    return lines


def _rate(count: int, total: int) -> tuple[str, str, str]:
    """Of all, how many, and the share with its interval."""
    low, high = wilson(count / total, total)
    return f"{total:,}", f"{count:,}", f"{count / total:.1%} ({low:.1%} to {high:.1%})"


def unrelated_pairs(side: Side) -> list[tuple[str, str, dict[str, object]]]:
    """(key of the unrelated, key of the training sample, row) of all pairs that were found."""
    found = side.found(side.leaks)
    return [
        (key, other, each)
        for number, (form, key) in enumerate(zip(side.forms, side.keys, strict=True))
        if form == UNRELATED
        for other, each in found[number].items()
    ]


def false_table(sides: Sequence[Side]) -> list[str]:
    """What was found among the unrelated."""
    lines = [
        row("archive", "pictures", "training", "pairs", "compared", "found", "the same by eye",
            "false pairs", "false pictures"),
        row(*["---"] * 9),
    ]  # fmt: skip
    sums = np.zeros(7, np.int64)
    for side in sides:
        pairs = unrelated_pairs(side)
        wrong = [pair for pair in pairs if frozenset(pair[:2]) not in SAME_BY_EYE]
        pictures = side.forms.count(UNRELATED)
        training = side.leaks.num_samples
        counts = [pictures, training, pictures * training, side.leaks.num_compared, len(pairs)]
        counts += [len(pairs) - len(wrong), len(wrong)]
        sums += counts
        lines.append(row(side.name, *(f"{each:,}" for each in counts), len({p[0] for p in wrong})))
    bad = {pair[0] for side in sides for pair in unrelated_pairs(side)
           if frozenset(pair[:2]) not in SAME_BY_EYE}  # fmt: skip
    shown = [f"{each:,}" for each in sums]
    lines.append(row("all", *shown, len(bad)))
    low, high = wilson(len(bad) / int(sums[0]), int(sums[0]))
    every = wilson(int(sums[6]) / int(sums[2]), int(sums[2]))
    lines += [
        "",
        f"False alarms: {len(bad)} of {sums[0]:,} unrelated pictures "
        f"({len(bad) / sums[0]:.2%}, {low:.2%} to {high:.2%}); "
        f"{sums[6]:,} of {sums[2]:,} pairs ({every[0]:.4%} to {every[1]:.4%}).",
    ]
    return lines


def alone_table(sides: Sequence[Side]) -> list[str]:
    """Hash and cosine without comparing pictures, over thresholds."""
    lines = [
        row("alone", "at", *list(FORMS)[1:], "unrelated pictures found", "unrelated pairs found"),
        row(*["---"] * (len(FORMS) + 3)),
    ]
    trials: list[tuple[str, str, Callable[[dict[str, object]], bool]]] = []
    for bits in (0, 3, 6, 8):
        trials.append(("hash", f"{bits} bits", lambda each, b=bits: _at_most(each["distance"], b)))  # type: ignore[misc]
    for least in (0.8, 0.9, 0.95, 0.98, 0.99):
        trials.append(("cosine", f"{least}", lambda each, c=least: _at_least(each["cosine"], c)))  # type: ignore[misc]
    for what, at, holds in trials:
        caught: Counter[str] = Counter()
        totals: Counter[str] = Counter()
        wrong_pairs = all_pairs = 0
        for side in sides:
            found = side.found(side.loose)
            for number, (form, key) in enumerate(zip(side.forms, side.keys, strict=True)):
                hits = {other for other, each in found[number].items() if holds(each)}
                hits -= {o for o in hits if frozenset((key, o)) in SAME_BY_EYE}
                totals[form] += 1
                caught[form] += bool(hits) if form == UNRELATED else key in hits
                if form == UNRELATED:
                    wrong_pairs += len(hits)
                    all_pairs += side.leaks.num_samples
        shares = [f"{caught[form] / totals[form]:.1%}" for form in list(FORMS)[1:]]
        wrong = f"{caught[UNRELATED] / totals[UNRELATED]:.2%}"
        lines.append(row(what, at, *shares, wrong, f"{wrong_pairs / all_pairs:.4%}"))
    return lines


def _at_most(value: object, most: int) -> bool:
    return isinstance(value, int) and value <= most


def _at_least(value: object, least: float) -> bool:
    return isinstance(value, float) and value >= least


def margin_table(sides: Sequence[Side]) -> list[str]:
    """Cosine and correlation of plants with their own sample; of the unrelated with the nearest."""
    lines = [
        row("pair", "cosine, lowest", "5 %", "median", "correlation, lowest", "5 %", "median"),
        row(*["---"] * 7),
    ]
    for form in list(FORMS)[1:]:
        parts = [
            np.concatenate([values[form] for values in some])
            for some in ([s.own_cosines for s in sides], [s.correlations for s in sides])
        ]
        numbers = [np.quantile(part, each) for part in parts for each in (0, 0.05, 0.5)]
        lines.append(row(form, *(f"{each:.2f}" for each in numbers)))
    lines += [
        "",
        row("unrelated and its nearest", "cosine, median", "95 %", "highest", "correlation, median",
            "95 %", "highest"),
        row(*["---"] * 7),
    ]  # fmt: skip
    for side in sides:
        parts = [np.array(values[UNRELATED]) for values in (side.own_cosines, side.correlations)]
        numbers = [np.quantile(part, each) for part in parts for each in (0.5, 0.95, 1)]
        lines.append(row(side.name, *(f"{each:.2f}" for each in numbers)))
    return lines


def sheet(side: Side, archive: Archive, path: Path) -> None:
    """Pairs found among the unrelated, side by side, to be looked at."""
    from PIL import ImageDraw

    shards = Shards(open_samples(archive.root, "halves", None))
    place = {key: number for number, key in enumerate(shards.rows.keys)}
    pairs = unrelated_pairs(side)
    width = 200
    canvas = Image.new("RGB", (3 * (2 * width + 20), (len(pairs) + 2) // 3 * (width + 30)), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (key, other, each) in enumerate(pairs):
        x, y = number % 3 * (2 * width + 20), number // 3 * (width + 30)
        for step, name in enumerate((key, other)):
            image = open_picture(shards.picture(place[name]))
            canvas.paste(image.resize((width, width)), (x + step * width, y + 26))
        draw.text((x, y), f"{key} / {other}", fill="black")
        draw.text((x, y + 12), f"{each['tier']} {each['correlation']}", fill="black")
    if pairs:
        canvas.save(path)


def page(sides: Sequence[Side], seconds: float, is_again: bool) -> str:
    """The whole page. is_again   whether archives were there already"""
    settings = SETTINGS
    lines = [
        "# Benchmarks of the check for leaks",
        "",
        f"Written by `python bench/leaks.py CORPUS` on {date.today()} in {seconds:.0f} CPU seconds "
        + ("(archives, features and embeddings of an earlier run)." if is_again else "in all."),
        "",
        f"- Machine: {machine()}",
        "- Pictures: real figures of articles, pathway diagrams, and labelled sets (blood smears, lung tissue, white "
        "cells, chest films of 28 x 28), each an archive dealt into two halves by article. Encoder: DINOv2 ViT-S/14.",
        f"- Settings (the defaults): {settings.phash_bits} bits, cosine {settings.min_cosine} at least, "
        f"{settings.candidates} candidates, correlation {settings.min_correlation} at least",
        "",
        "## Planted",
        "",
        f"{PLANTED} pictures of each archive's training half, in every form. Found: the pair of the planted picture "
        "and its own sample is among the rows. The hash is looked up as it is and mirrored. "
        "Intervals here and below: Wilson's, 95 %, as if each picture were a trial of its own.",
        "",
        *planted_table(sides),
        "",
        "## Unrelated",
        "",
        "All pictures of the other half: of the same kinds, often of the same data set, so nearer than most. Every "
        "pair found among them was looked at; those that show the same picture (the data sets hold copies, shifted "
        "crops and augmented versions of their own pictures) are listed in the script and are leaks indeed. "
        "The correlation that is needed was set after a look at these very pictures: with less, round white cells on "
        "plain ground were taken for each other. On other pictures the rate may be higher.",
        "",
        *false_table(sides),
        "",
        "## Hash or cosine alone",
        "",
        "Without comparing the pictures (`leaks.verify = false`): share of the plants found with their own sample, and "
        "of the unrelated for which anything is.",
        "",
        *alone_table(sides),
        "",
        "## Margins",
        "",
        "What `min_cosine` and `min_correlation` rest on: plants with their own sample, the unrelated with the nearest "
        "training picture by cosine (pairs that are the same by eye left out). Pictures below 64 pixels a side need a "
        "higher correlation: at 28 pixels "
        f"{settings.min_correlation + (1 - settings.min_correlation) * (1 - 28 / 64):.2f}.",
        "",
        *margin_table(sides),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--keep", type=Path, help="folder for the sheets of pairs")
    parser.add_argument("--work", type=Path, help="folder for archives, features and embeddings")
    words = parser.parse_args()
    corpus = words.corpus.resolve()
    name = f"onnx:{corpus / 'models' / 'dinov2_vits14.onnx'}"
    is_again = bool(words.work) and (words.work / "labelled").is_dir()
    with tempfile.TemporaryDirectory() as temporary:
        folder = words.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        archives = make_archives(corpus, folder, name)
        encoder = open_encoder(name)
        sides = [look(archive, encoder, folder / "cache") for archive in archives]
        if words.keep:
            words.keep.mkdir(parents=True, exist_ok=True)
            for side, archive in zip(sides, archives, strict=True):
                sheet(side, archive, words.keep / f"{side.name}.png")
    if words.keep:
        for side in sides:
            for key, other, each in unrelated_pairs(side):
                print(side.name, key, other, each["tier"], each["correlation"])
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(each.ru_utime + each.ru_stime for each in usage)
    PAGE.write_text(page(sides, seconds, is_again))
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
