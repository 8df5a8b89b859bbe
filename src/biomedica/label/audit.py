"""How many images of a concept show it: a sample for experts to check, and the precision that follows.

The sample of a concept is stratified by cluster, in proportion to the clusters' sizes, with at least one
image of each cluster where the sample is large enough for that. Every image drawn carries its weight, the
number of images that it stands for, so clusters that got their one image out of turn count no more
than they should.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedica.archive import Archive
from biomedica.errors import ConfigError
from biomedica.features import withdrawn_keys
from biomedica.label.consensus import Status
from biomedica.label.propagate import audit_path, labels_path, read_summary
from biomedica.shards import described, write_arrow
from biomedica.votes import Audit

AUDIT = pa.schema(
    [
        described("concept", pa.string(), "id; null in the last rows, which are of all concepts"),
        described(
            "level",
            pa.string(),
            "`global` or `local`; in the last rows `global`, `local` and `all`: each concept weighs by "
            "its images",
            False,
        ),
        described("num_images", pa.int64(), "images that are labelled with it", False),
        described("num_drawn", pa.int64(), "of them in the sample", False),
        described("num_checked", pa.int64(), "of the sample with an answer of yes or no", False),
        described("num_right", pa.int64(), "of the checked: the image shows it", False),
        described("num_unsure", pa.int64(), "of the sample: auditors can't tell, or differ", False),
        described("precision", pa.float64(), "weighted share of the checked that is right"),
        described("low", pa.float64(), "of the Wilson 95 % interval"),
        described("high", pa.float64(), "of the Wilson 95 % interval"),
    ]
)
NORMAL_975 = 1.959963984540054
"""97.5th percentile of the normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """How many labels are checked."""

    per_concept: int = 100
    """Images of each concept to check: with 100, the interval of a precision of 0.9 is 0.83 to 0.94."""
    seed: int = 0
    """Of the draw; another one gives other images."""

    def __post_init__(self) -> None:
        if self.per_concept < 1:
            raise ConfigError(f"audit.per_concept is {self.per_concept}; at least 1 would do")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditImage:
    """An image to check for one concept."""

    concept: str
    level: str
    """`global` or `local`."""
    key: str
    shard: str
    cluster: int
    weight: float
    """Images of the concept that it stands for; their sum over a concept's sample is `num_images`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptPrecision:
    """How often a concept's label is right."""

    concept: str | None
    """None: all concepts of the level."""
    level: str
    num_images: int
    num_drawn: int
    num_checked: int
    num_right: int
    num_unsure: int
    precision: float | None
    """Weighted; None where nothing is checked."""
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditResult:
    """What an audit came to, so far."""

    concepts: tuple[ConceptPrecision, ...]
    """In the order of the draw."""
    overall: tuple[ConceptPrecision, ...]
    """Of `global`, `local` and `all` labels."""
    num_stray: int
    """Answers about images or concepts that are not in the draw; they count nowhere."""


@dataclass(frozen=True, slots=True)
class _Stratum:
    concept: str
    level: str
    cluster: int
    size: int


def draw_audit(archive: Archive, name: str, per_concept: int, seed: int) -> list[AuditImage]:
    """The images to check, by concept (global first), then by shard and row.

    The same labels, number and seed give the same images; each concept is drawn on its own, so that
    what is drawn for one doesn't depend on the others. Images withdrawn since are left out. Reads the
    labels twice, a row group at a time.
    """
    AuditSettings(per_concept=per_concept, seed=seed)
    strata = _strata(archive, name)
    by_concept: dict[tuple[str, str], list[_Stratum]] = defaultdict(list)
    for each in strata:
        by_concept[each.level, each.concept].append(each)
    weights: dict[tuple[int, int], list[tuple[_Stratum, float]]] = defaultdict(list)
    for (_, concept), own in sorted(by_concept.items()):
        source = _source(seed, concept)
        sizes = np.array([each.size for each in own], dtype=np.int64)
        numbers, self_weighting = allocate(sizes, per_concept, source)
        for stratum, number in zip(own, numbers, strict=True):
            weight = (
                sizes.sum() / numbers.sum() if self_weighting else stratum.size / max(number, 1)
            )
            for place in source.choice(stratum.size, size=number, replace=False):
                weights[stratum.cluster, int(place)].append((stratum, float(weight)))
    found = list(_picked(archive, name, weights))
    order = {level_concept: i for i, level_concept in enumerate(sorted(by_concept))}
    found.sort(key=lambda each: order[each.level, each.concept])
    return found


def _source(seed: int, concept: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed} {concept}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def allocate(
    sizes_H: NDArray[np.int64], total: int, source: np.random.Generator
) -> tuple[NDArray[np.int64], bool]:
    """How many images to draw from each stratum, and whether all images then have the same chance.

    sizes_H   images of each of H strata, all at least 1

    Fewer images than `total`: all of them. Fewer strata: in proportion, largest remainders first, but at
    least one of each. More strata: systematic sampling of the strata in random order, in which one gets
    its share rounded up or down by chance; every image has the same chance then.
    """
    num_images, num_strata = int(sizes_H.sum()), len(sizes_H)
    if num_images <= total:
        return sizes_H.copy(), True
    if num_strata > total:
        order = source.permutation(
            num_strata
        )  # sizes in a regular order could fall in with the steps
        ticks = (source.random() + np.arange(total)) * num_images / total
        strata = order[np.searchsorted(np.cumsum(sizes_H[order]), ticks, side="right")]
        return np.bincount(strata, minlength=num_strata).astype(np.int64), True
    share_H = sizes_H * total / num_images
    numbers = np.maximum(np.floor(share_H).astype(np.int64), 1)
    while numbers.sum() < total:
        numbers[np.argmax(np.where(numbers < sizes_H, share_H - numbers, -np.inf))] += 1
    while numbers.sum() > total:
        numbers[np.argmax(np.where(numbers > 1, numbers - share_H, -np.inf))] -= 1
    return numbers, False


def _groups(archive: Archive, name: str) -> Iterator[pa.Table]:
    """Labelled images that count, a row group (so a shard) at a time."""
    gone = withdrawn_keys(archive)
    columns = ["key", "shard", "cluster", "status", "global_concepts", "local_concepts"]
    with pq.ParquetFile(labels_path(archive, name)) as file:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns=columns)
            labelled = table["status"].to_numpy(zero_copy_only=False) == Status.LABELLED.value
            if hidden := gone.get(table["shard"][0].as_py()):
                labelled &= [key not in hidden for key in table["key"].to_pylist()]
            yield table.filter(pa.array(labelled))


def _strata(archive: Archive, name: str) -> list[_Stratum]:
    """Every concept in every cluster that has it, by cluster."""
    sizes: Counter[int] = Counter()
    concepts: dict[int, tuple[tuple[str, str], ...]] = {}
    for table in _groups(archive, name):
        clusters, first, counts = np.unique(
            table["cluster"].to_numpy(), return_index=True, return_counts=True
        )
        for cluster, row, count in zip(clusters.tolist(), first, counts.tolist(), strict=True):
            sizes[cluster] += count
            if cluster not in concepts:
                one = table.slice(int(row), 1).to_pylist()[0]
                concepts[cluster] = tuple(
                    (level, each)
                    for level in ("global", "local")
                    for each in one[f"{level}_concepts"]
                )
    return [
        _Stratum(concept, level, cluster, sizes[cluster])
        for cluster in sorted(sizes)
        for level, concept in concepts[cluster]
    ]


def _picked(
    archive: Archive,
    name: str,
    weights: Mapping[tuple[int, int], Sequence[tuple[_Stratum, float]]],
) -> Iterator[AuditImage]:
    """Images by their place in their cluster."""
    places_of: dict[int, list[int]] = defaultdict(list)
    for cluster, place in sorted(weights):
        places_of[cluster].append(place)
    seen: Counter[int] = Counter()
    for table in _groups(archive, name):
        clusters_N = table["cluster"].to_numpy()
        order_N = np.argsort(clusters_N, kind="stable")
        found = np.unique(clusters_N[order_N], return_index=True, return_counts=True)
        rows: list[tuple[int, int, int]] = []
        for cluster, first, count in zip(*(each.tolist() for each in found), strict=True):
            start, places = seen[cluster], places_of.get(cluster, [])
            seen[cluster] += count
            here = places[bisect_left(places, start) : bisect_left(places, start + count)]
            rows += [(int(order_N[first + place - start]), cluster, place) for place in here]
        for row, cluster, place in sorted(rows):
            for stratum, weight in weights[cluster, place]:
                yield AuditImage(
                    concept=stratum.concept,
                    level=stratum.level,
                    key=table["key"][row].as_py(),
                    shard=table["shard"][row].as_py(),
                    cluster=cluster,
                    weight=weight,
                )


def audit_result(draw: Sequence[AuditImage], audits: Iterable[Audit]) -> AuditResult:
    """Precision of each concept from the answers so far.

    audits   as `VoteStore.audits` gives them, in the order of the answers; an expert's last one on an image
             and a concept holds, and of an image what more than half of its auditors say; else it is unsure

    Precision is the weighted share of the images found right among those found right or wrong; images
    not checked yet, or unsure, are taken to be like the others. The interval is Wilson's (1927) with
    the weighted share and the effective number of images (Kish 1965: sum of weights squared over sum
    of squared weights), which is the plain number where all weights are the same.
    """
    wanted = {(each.concept, each.key) for each in draw}
    last: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    num_stray = 0
    for audit in audits:
        if (audit.concept, audit.key) in wanted:
            last[audit.concept, audit.key][audit.expert] = audit.answer
        else:
            num_stray += 1
    said = {place: _resolved(answers.values()) for place, answers in last.items()}
    groups: dict[tuple[str, str], list[AuditImage]] = defaultdict(list)
    for each in draw:
        groups[each.level, each.concept].append(each)
    concepts = tuple(_precision(c, level, own, said) for (level, c), own in groups.items())
    return AuditResult(
        concepts=concepts,
        overall=tuple(_overall(level, groups, said) for level in ("global", "local", "all")),
        num_stray=num_stray,
    )


def _resolved(answers: Iterable[str]) -> str:
    counts = Counter(answers)
    winner, number = counts.most_common(1)[0]
    return winner if number * 2 > counts.total() else "unsure"


Said = Mapping[tuple[str, str], str]


def _overall(
    level: str, groups: Mapping[tuple[str, str], list[AuditImage]], said: Said
) -> ConceptPrecision:
    """All concepts of a level; each weighs by its images, however many of them were checked."""
    images: list[AuditImage] = []
    weights: list[float] = []
    for (own_level, _), own in groups.items():
        if level not in (own_level, "all"):
            continue
        images += own
        decided = [each.weight for each in own if said.get((each.concept, each.key)) in _DECIDED]
        scale = sum(each.weight for each in own) / sum(decided) if decided else 0.0
        weights += [each.weight * scale for each in own]
    return _precision(None, level, images, said, weights)


_DECIDED = ("yes", "no")


def _precision(
    concept: str | None,
    level: str,
    images: Sequence[AuditImage],
    said: Said,
    weights: Sequence[float] | None = None,
) -> ConceptPrecision:
    """weights   one an image; None: their own"""
    answers = [said.get((each.concept, each.key)) for each in images]
    of_image = [each.weight for each in images] if weights is None else weights
    decided = [(w, a == "yes") for w, a in zip(of_image, answers, strict=True) if a in _DECIDED]
    share, low, high = None, None, None
    if decided:
        total = math.fsum(weight for weight, _ in decided)
        share = math.fsum(weight for weight, is_right in decided if is_right) / total
        low, high = wilson_interval(share, total**2 / math.fsum(weight**2 for weight, _ in decided))
    return ConceptPrecision(
        concept=concept,
        level=level,
        num_images=round(math.fsum(each.weight for each in images)),
        num_drawn=len(images),
        num_checked=len(decided),
        num_right=sum(is_right for _, is_right in decided),
        num_unsure=answers.count("unsure"),
        precision=share,
        low=low,
        high=high,
    )


def wilson_interval(share: float, number: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share found among `number` > 0 checked.

    Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    square = NORMAL_975**2
    centre = (share + square / (2 * number)) / (1 + square / number)
    half = math.sqrt(share * (1 - share) / number + square / (4 * number**2))
    half *= NORMAL_975 / (1 + square / number)
    return max(0.0, centre - half), min(1.0, centre + half)


def write_audit(
    archive: Archive, name: str, result: AuditResult, per_concept: int, seed: int
) -> None:
    """Write `labels/<name>.audit.parquet`; its metadata names the labels and the draw it is of."""
    rows = [asdict(each) for each in (*result.concepts, *result.overall)]
    notes = {"labels": _digest(archive, name), "per_concept": str(per_concept), "seed": str(seed)}
    table = pa.Table.from_pylist(rows, AUDIT).replace_schema_metadata(notes)
    write_arrow(audit_path(archive, name), table)


def read_audit(archive: Archive, name: str) -> pa.Table | None:
    """The rows of `AUDIT` of a label run; None where it was not audited, or labelled again since."""
    path = audit_path(archive, name)
    if not path.exists():
        return None
    table = pq.read_table(path)
    notes = table.schema.metadata or {}
    return table if notes.get(b"labels") == _digest(archive, name).encode() else None


def _digest(archive: Archive, name: str) -> str:
    return str(read_summary(archive, name)["counts"]["digest"])
