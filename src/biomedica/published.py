"""BIOMEDICA's published cluster labels, read into our taxonomy with their contradictions named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from biomedica.errors import ConfigError
from biomedica.records import Answer
from biomedica.shards import write_arrow, write_file
from biomedica.taxonomy import Taxonomy, load_taxonomy, read_toml, suggestion

FOLDER = Path(__file__).parent / "data" / "published"
"""The published lists, their licence and the mapping table."""
MAPPING = FOLDER / "mapping.toml"
NAMES = FOLDER / "taxonomy_collapsed_and_filtered.json"
"""The published tree, global class to local classes: the parents that labels are held against."""
EXPERT_NAMES = FOLDER / "expert_derived_taxonomy.json"
"""An earlier published tree, typing errors included; it counts for names the other does not have."""


def _column(name: str, kind: pa.DataType, about: str, nullable: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable, metadata={"about": about})


Keep = Literal["consistent", "all"]


class Contradiction(StrEnum):
    """What can be wrong with a cluster's published label: the closed list."""

    PANEL_TYPE_AND_SUBTYPE = "panel_type_and_subtype"
    SINGLE_PANEL_SEVERAL_GLOBALS = "single_panel_several_globals"
    REPEATED_CLASS = "repeated_class"
    PARENT_ABSENT = "parent_absent"
    SUBTYPE_AND_GLOBALS = "subtype_and_globals"
    UNKNOWN_NAME = "unknown_name"
    AMBIGUOUS = "ambiguous"


RULES = {
    Contradiction.PANEL_TYPE_AND_SUBTYPE: (
        "the panel type and the subtype exclude each other",
        "the type stands and the subtype is left out",
    ),
    Contradiction.SINGLE_PANEL_SEVERAL_GLOBALS: (
        'subtype "single panel" with more than one global class',
        "all stay; panel type and subtype are left out where the taxonomy allows no such number",
    ),
    Contradiction.REPEATED_CLASS: (
        "a class stands twice",
        "it counts once",
    ),
    Contradiction.PARENT_ABSENT: (
        "a local class without the global class that the published tree puts it under",
        "nothing changes where our tree puts it under a class that is there; else it takes the place "
        "of the global classes that no local class stands under; where there is none, it is left out",
    ),
    Contradiction.SUBTYPE_AND_GLOBALS: (
        "the subtype speaks of plots or assays, and no class does",
        "the subtype is left out",
    ),
    Contradiction.UNKNOWN_NAME: (
        "a name that the mapping table does not have",
        "it is left out",
    ),
    Contradiction.AMBIGUOUS: (
        "the experts could not tell",
        "the word is left out; nothing left is the verdict ambiguous",
    ),
}
"""Of each contradiction, what it means and how `keep="all"` settles it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One contradiction of one cluster."""

    kind: Contradiction
    detail: str
    """The names concerned, as published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCluster:
    """A cluster's published label and what it says in our taxonomy."""

    cluster: int
    """BIOMEDICA's cluster id; it means nothing in another clustering."""
    answer: Answer | None
    """Completed answer, contradictions settled by `RULES`; None: no class is left."""
    findings: tuple[Finding, ...]
    original: str
    """The label as published, JSON on one line."""

    @property
    def status(self) -> str:
        """`answered`, or `ambiguous` where no class is left."""
        return "ambiguous" if self.answer is None else "answered"


@dataclass(frozen=True, slots=True, kw_only=True)
class KindCount:
    """How often a contradiction was found."""

    kind: Contradiction
    num_clusters: int
    num_cases: int
    """A cluster can have several."""
    examples: tuple[tuple[int, str], ...]
    """First clusters with their details, up to five."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """All clusters of a file, by cluster id."""

    path: Path
    sha256: str
    """Of the file that was read, in hex."""
    taxonomy: str
    """Version of the taxonomy that the answers are ids of."""
    clusters: tuple[PublishedCluster, ...]

    def kept(self, keep: Keep) -> tuple[PublishedCluster, ...]:
        """`consistent`: clusters without any contradiction; `all`: every one."""
        return tuple(each for each in self.clusters if keep == "all" or not each.findings)

    def answers(self, keep: Keep) -> dict[int, Answer]:
        """Answers by cluster, of the kept clusters that have one."""
        return {each.cluster: each.answer for each in self.kept(keep) if each.answer is not None}

    def counts(self) -> tuple[KindCount, ...]:
        """Every kind of contradiction in the order of `Contradiction`, those never found too."""
        return tuple(self._count(kind) for kind in Contradiction)

    def _count(self, kind: Contradiction) -> KindCount:
        cases = [
            (each.cluster, finding.detail)
            for each in self.clusters
            for finding in each.findings
            if finding.kind is kind
        ]
        return KindCount(
            kind=kind,
            num_clusters=len({cluster for cluster, _ in cases}),
            num_cases=len(cases),
            examples=tuple(cases[:5]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NameMap:
    """What the published names mean: ids of our taxonomy, () where a name has no counterpart."""

    panel_type: Mapping[str, tuple[str, ...]]
    panel_subtype: Mapping[str, tuple[str, ...]]
    global_class: Mapping[str, tuple[str, ...]]
    local_class: Mapping[str, tuple[str, ...]]
    parents: Mapping[str, frozenset[str]]
    """Global classes that the published trees put a local class under."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Label:
    """A cluster's label as published."""

    cluster: int
    panel_type: str
    panel_subtype: str
    global_class: tuple[str, ...]
    local_class: tuple[str, ...]
    original: str


_PANEL_FIELDS = ("panel_type", "panel_subtype")
_CLASS_FIELDS = ("global_class", "local_class")
_SINGLE_PANEL = "single panel"
_SMALLEST, _LARGEST = 0, 2**31 - 1


def load_names(taxonomy: Taxonomy, path: Path | None = None) -> NameMap:
    """Read a mapping table; None: the shipped one. Raises `ConfigError` for ids that don't exist."""
    path = path or MAPPING
    content = read_toml(path)
    known: dict[str, set[str]] = {
        "panel_type": {each.id for each in taxonomy.panel_types},
        "panel_subtype": {each.id for each in taxonomy.panel_subtypes},
        "global_class": set(taxonomy.concepts),
        "local_class": set(taxonomy.concepts),
    }
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for table, ids in known.items():
        if not isinstance(content.get(table), dict):
            raise ConfigError(f"{path}: no table [{table}]; docs/taxonomy.md shows the form")
        found[table] = {
            name: _ids(path, table, name, value) for name, value in content[table].items()
        }
        for name, meant in found[table].items():
            for each in meant:
                if each not in ids:
                    raise ConfigError(
                        f"{path}: [{table}] {name!r}: the taxonomy has no {each!r}"
                        f"{suggestion(each, ids)}"
                    )
    return NameMap(**found, parents=_published_parents())


def _ids(path: Path, table: str, name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return tuple(value)
    if isinstance(value, dict) and set(value) == {"none"} and value["none"]:
        return ()
    raise ConfigError(
        f"{path}: [{table}] {name!r} is {value!r}; an id, a list of ids or "
        '{ none = "why" } is expected'
    )


def _published_parents() -> dict[str, frozenset[str]]:
    parents: dict[str, frozenset[str]] = {}
    for name in (EXPERT_NAMES, NAMES):
        tree: dict[str, list[str]] = json.loads(name.read_text(encoding="utf-8"))
        names = {local for below in tree.values() for local in below}
        parents |= {
            local: frozenset(top for top, below in tree.items() if local in below)
            for local in names
        }
    return parents


def read_published(
    path: Path, taxonomy: Taxonomy | None = None, mapping: Path | None = None
) -> Published:
    """Read a `cluster_labels.json`: every cluster's label in our taxonomy, and what is wrong with it.

    Contradictions don't stop it; they are named. Raises `ConfigError` for a file of another form.
    """
    taxonomy = taxonomy or load_taxonomy()
    names = load_names(taxonomy, mapping)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    labels = sorted(_labels(path, data), key=lambda each: each.cluster)
    return Published(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        taxonomy=taxonomy.version,
        clusters=tuple(_cluster(label, names, taxonomy) for label in labels),
    )


def _labels(path: Path, data: bytes) -> list[_Label]:
    form = 'an object of {"CLUSTER": {"panel_type": ..., "global_class": [...], ...}} is expected'
    try:
        content = json.loads(data, object_pairs_hook=_refuse_repeats)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} can't be read as JSON: {error}; {form}") from None
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{path} holds no clusters; {form}")
    labels = [_label(path, name, value) for name, value in content.items()]
    if len({each.cluster for each in labels}) < len(labels):
        raise ConfigError(f"{path}: a cluster stands twice under different spellings of its number")
    return labels


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} stands twice")
        found[name] = value
    return found


def _label(path: Path, name: str, value: Any) -> _Label:
    where = f"{path}: cluster {name!r}"
    if not (name.isascii() and name.isdecimal() and _SMALLEST <= int(name) <= _LARGEST):
        raise ConfigError(f"{where}: a number from 0 is expected")
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is {value!r}; an object is expected")
    for field in _PANEL_FIELDS:
        if not isinstance(value.get(field), str):
            raise ConfigError(f"{where}: {field} is {value.get(field)!r}; a text is expected")
    for field in _CLASS_FIELDS:
        texts = value.get(field)
        if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
            raise ConfigError(f"{where}: {field} is {texts!r}; a list of texts is expected")
    return _Label(
        cluster=int(name),
        panel_type=value["panel_type"],
        panel_subtype=value["panel_subtype"],
        global_class=tuple(value["global_class"]),
        local_class=tuple(value["local_class"]),
        original=json.dumps(value, ensure_ascii=False),
    )


def _cluster(label: _Label, names: NameMap, taxonomy: Taxonomy) -> PublishedCluster:
    answer, findings = _settled(label, names, taxonomy)
    findings = [*_name_findings(label, names), *_class_findings(label, names), *findings]
    is_empty = not answer.global_concepts
    return PublishedCluster(
        cluster=label.cluster,
        answer=None if is_empty else answer,
        findings=tuple(sorted(findings, key=lambda each: list(Contradiction).index(each.kind))),
        original=label.original,
    )


def _name_findings(label: _Label, names: NameMap) -> Iterable[Finding]:
    """Names that are unknown, mean nothing, or stand twice."""
    for field in (*_PANEL_FIELDS, *_CLASS_FIELDS):
        value = getattr(label, field)
        given = (value,) if isinstance(value, str) else value
        meaning: Mapping[str, tuple[str, ...]] = getattr(names, field)
        for name in dict.fromkeys(given):
            if given.count(name) > 1:
                yield _finding(Contradiction.REPEATED_CLASS, f"{field} {name}")
            if name not in meaning:
                yield _finding(Contradiction.UNKNOWN_NAME, f"{field} {name}")
    if any(meaning == () for meaning in _meanings(label, names)):
        yield _finding(
            Contradiction.AMBIGUOUS, ", ".join((*label.global_class, *label.local_class))
        )


def _meanings(label: _Label, names: NameMap) -> Iterable[tuple[str, ...] | None]:
    yield from (names.global_class.get(each) for each in label.global_class)
    yield from (names.local_class.get(each) for each in label.local_class)


def _class_findings(label: _Label, names: NameMap) -> Iterable[Finding]:
    shown = set(label.global_class)
    if label.panel_subtype == _SINGLE_PANEL and len(shown) > 1:
        yield _finding(
            Contradiction.SINGLE_PANEL_SEVERAL_GLOBALS, ", ".join(dict.fromkeys(label.global_class))
        )
    for local in dict.fromkeys(label.local_class):
        parents = names.parents.get(local, frozenset())
        if parents and not parents & shown and names.local_class.get(local) != ():
            wanted = " or ".join(sorted(parents))
            yield _finding(Contradiction.PARENT_ABSENT, f"{local}: {wanted} expected")


def _finding(kind: Contradiction, detail: str) -> Finding:
    return Finding(kind=kind, detail=detail)


def _settled(label: _Label, names: NameMap, taxonomy: Taxonomy) -> tuple[Answer, list[Finding]]:
    """The completed answer after all rules, and what is wrong with its panels."""
    findings: list[Finding] = []
    panel_type = next(iter(names.panel_type.get(label.panel_type, ())), None)
    panel_subtype = next(iter(names.panel_subtype.get(label.panel_subtype, ())), None)
    if taxonomy.check(Answer(panel_type=panel_type, panel_subtype=panel_subtype)):
        detail = f"{label.panel_type} with {label.panel_subtype}"
        findings.append(_finding(Contradiction.PANEL_TYPE_AND_SUBTYPE, detail))
        panel_subtype = None
    meant = sorted(_concepts(label, names, taxonomy))
    concepts = [taxonomy.concepts[each] for each in meant]
    classes = taxonomy.complete(
        Answer(
            global_concepts=tuple(each.id for each in concepts if each.parent is None),
            local_concepts=tuple(each.id for each in concepts if each.parent is not None),
        )
    )
    if taxonomy.check(replace(classes, panel_subtype=panel_subtype)):
        subtype = next(each for each in taxonomy.panel_subtypes if each.id == panel_subtype)
        if not set(subtype.requires) <= set(classes.global_concepts) and classes.global_concepts:
            detail = f"{label.panel_subtype} with {', '.join(dict.fromkeys(label.global_class))}"
            findings.append(_finding(Contradiction.SUBTYPE_AND_GLOBALS, detail))
        panel_subtype = None
    answer = taxonomy.complete(replace(classes, panel_type=panel_type, panel_subtype=panel_subtype))
    return (classes if taxonomy.check(answer) else answer), findings


def _concepts(label: _Label, names: NameMap, taxonomy: Taxonomy) -> set[str]:
    """Ids that stand after the rule of `PARENT_ABSENT`.

    An orphan is a local class whose global class is absent, by the published tree and by ours. A
    global class whose local classes all mean concepts under others of ours is left out too: those
    imply theirs.
    """
    globals_ = {each: names.global_class.get(each, ()) for each in label.global_class}
    locals_ = {each: names.local_class.get(each, ()) for each in label.local_class}
    stated = {taxonomy.global_of(each) for meant in globals_.values() for each in meant}
    tops = {each: {taxonomy.global_of(one) for one in meant} for each, meant in locals_.items()}
    parents = {each: names.parents.get(each, frozenset()) for each in locals_}
    explained = {top for found in tops.values() for top in found}
    orphans = {
        each
        for each in locals_
        if tops[each] and not tops[each] & stated and not parents[each] & globals_.keys()
    }
    left_out = orphans if stated and stated <= explained else set()
    kept = {one for each, meant in locals_.items() if each not in left_out for one in meant}
    for each, meant in globals_.items():
        has_moved = any(tops[local] and each in parents[local] for local in locals_)
        kept |= {
            one
            for one in meant
            if taxonomy.global_of(one) in explained or not (has_moved or orphans)
        }
    return kept


CLUSTERS = pa.schema(
    [
        _column("cluster", pa.int32(), "BIOMEDICA's cluster id", False),
        _column("status", pa.string(), "`answered`, `ambiguous` or `left-out`", False),
        _column("panel_type", pa.string(), "id of the taxonomy; null where it does not stand"),
        _column("panel_subtype", pa.string(), "id of the taxonomy; null where it does not stand"),
        _column("global_concepts", pa.list_(pa.string()), "ids of the taxonomy", False),
        _column("local_concepts", pa.list_(pa.string()), "ids, parents included", False),
        _column("contradictions", pa.list_(pa.string()), "`kind: names as published`", False),
        _column("original", pa.string(), "the label as published, JSON", False),
    ]
)
"""`published.clusters.parquet`: one row a cluster of the file, by cluster."""


def write_import(
    published: Published, labels: Path, keep: Keep = "consistent"
) -> tuple[Path, Path]:
    """Write `published.clusters.parquet` and `published.json` (counts, rules, examples) to a folder.

    Every cluster has a row. One that `keep` does not take is `left-out` and has no answer.
    """
    if keep not in ("consistent", "all"):
        raise ConfigError(f"keep is {keep!r}; 'consistent' or 'all' would do")
    kept = {each.cluster for each in published.kept(keep)}
    rows = [_row(each, each.cluster in kept) for each in published.clusters]
    table, report = labels / "published.clusters.parquet", labels / "published.json"
    write_arrow(table, pa.Table.from_pylist(rows, CLUSTERS))
    text = json.dumps(import_report(published, keep), indent=2, ensure_ascii=False)
    write_file(report, f"{text}\n".encode())
    return table, report


def _row(each: PublishedCluster, is_kept: bool) -> dict[str, Any]:
    answer = each.answer if is_kept and each.answer is not None else Answer()
    return {
        "cluster": each.cluster,
        "status": each.status if is_kept else "left-out",
        "panel_type": answer.panel_type,
        "panel_subtype": answer.panel_subtype,
        "global_concepts": list(answer.global_concepts),
        "local_concepts": list(answer.local_concepts),
        "contradictions": [f"{finding.kind.value}: {finding.detail}" for finding in each.findings],
        "original": each.original,
    }


def import_report(published: Published, keep: Keep) -> dict[str, Any]:
    """What was read, what was kept, and how often each contradiction stood in it, for JSON."""
    kept = published.kept(keep)
    return {
        "file": published.path.name,
        "sha256": published.sha256,
        "taxonomy": published.taxonomy,
        "keep": keep,
        "clusters": len(published.clusters),
        "consistent": len(published.kept("consistent")),
        "answered": sum(each.answer is not None for each in kept),
        "ambiguous": sum(each.answer is None for each in kept),
        "left_out": len(published.clusters) - len(kept),
        "contradictions": {
            count.kind.value: {
                "meaning": RULES[count.kind][0],
                "rule": RULES[count.kind][1],
                "clusters": count.num_clusters,
                "cases": count.num_cases,
                "examples": [
                    {"cluster": cluster, "names": names} for cluster, names in count.examples
                ],
            }
            for count in published.counts()
        },
    }
