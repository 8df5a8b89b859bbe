"""The taxonomy: what an expert may answer of a cluster, and which answers contradict themselves."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from biomedica.errors import ConfigError
from biomedica.records import Answer

SHIPPED = Path(__file__).parent / "data" / "taxonomy.toml"
"""The file that `load_taxonomy()` reads."""

_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """One thing that a figure can show."""

    id: str
    """Kebab case; never reused for another meaning."""
    name: str
    parent: str | None
    """Id of the concept that this one implies; None for a global concept."""
    definition: str
    source: str
    """`biomedica` (a published name), `biomedica-draft: NAME` or `VOCABULARY: term`."""
    published: tuple[str, ...]
    """Names of the published vocabularies that mean this concept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A panel type or a panel subtype."""

    id: str
    name: str
    definition: str
    panel_type: str | None = None
    """The type that a subtype implies; None for a type."""
    max_globals: int | None = None
    """Most global concepts that a figure of this type can have; None: any number."""
    requires: tuple[str, ...] = ()
    """Global concepts that an answer with this subtype must have, where it has any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taxonomy:
    """Panel types, subtypes and concepts, all in file order."""

    version: str
    digest: str
    """SHA-256 in hex of what the file says; comments and layout don't count."""
    panel_types: tuple[Choice, ...]
    panel_subtypes: tuple[Choice, ...]
    concepts: Mapping[str, Concept]

    def global_concepts(self) -> tuple[Concept, ...]:
        """Concepts without a parent."""
        return tuple(each for each in self.concepts.values() if each.parent is None)

    def children(self, concept: str) -> tuple[Concept, ...]:
        """Concepts directly below one."""
        return tuple(each for each in self.concepts.values() if each.parent == concept)

    def locals_of(self, concept: str) -> tuple[Concept, ...]:
        """All concepts below one, depth first: each before its children."""
        return tuple(
            found
            for child in self.children(concept)
            for found in (child, *self.locals_of(child.id))
        )

    def ancestors(self, concept: str) -> tuple[str, ...]:
        """Ids above a concept, the nearest first, its global concept last; () for a global one."""
        found: list[str] = []
        parent = self.concepts[concept].parent
        while parent is not None:
            found.append(parent)
            parent = self.concepts[parent].parent
        return tuple(found)

    def global_of(self, concept: str) -> str:
        """The global concept above a concept; a global concept's own id."""
        return (concept, *self.ancestors(concept))[-1]

    def check(self, answer: Answer) -> tuple[str, ...]:
        """What is wrong with an answer, in words; empty: nothing.

        Parents that are missing are not wrong, for a concept implies them (`complete`). The numbers
        and the concepts that panels ask for are judged after completion.
        """
        wrong = [*self._wrong_panels(answer), *self._wrong_concepts(answer)]
        return tuple(wrong) if wrong else tuple(self._broken_rules(self.complete(answer)))

    def _wrong_panels(self, answer: Answer) -> Iterable[str]:
        types = {each.id: each for each in self.panel_types}
        subtypes = {each.id: each for each in self.panel_subtypes}
        if answer.panel_type is not None and answer.panel_type not in types:
            yield f"no panel type {answer.panel_type!r}{suggestion(answer.panel_type, types)}"
        if answer.panel_subtype is None:
            return
        if answer.panel_subtype not in subtypes:
            yield (
                f"no panel subtype {answer.panel_subtype!r}"
                f"{suggestion(answer.panel_subtype, subtypes)}"
            )
            return
        wanted = subtypes[answer.panel_subtype].panel_type
        if answer.panel_type is not None and answer.panel_type != wanted:
            yield (
                f"panel subtype {answer.panel_subtype!r} is for panel type {wanted!r}, "
                f"not {answer.panel_type!r}"
            )

    def _wrong_concepts(self, answer: Answer) -> Iterable[str]:
        for kind, ids in (("global", answer.global_concepts), ("local", answer.local_concepts)):
            for each, count in Counter(ids).items():
                if count > 1:
                    yield f"{kind} concept {each!r} stands {count} times"
                if each not in self.concepts:
                    yield f"no concept {each!r}{suggestion(each, self.concepts)}"
                elif (self.concepts[each].parent is None) != (kind == "global"):
                    yield f"{each!r} is no {kind} concept"

    def _broken_rules(self, answer: Answer) -> Iterable[str]:
        shown = answer.global_concepts
        for choice in self._choices(answer):
            if choice.max_globals is not None and len(shown) > choice.max_globals:
                yield (
                    f"{choice.id!r} holds at most {choice.max_globals} global concepts, "
                    f"not {len(shown)} ({', '.join(shown)})"
                )
            missing = [each for each in choice.requires if each not in shown]
            if shown and missing:
                yield f"panel subtype {choice.id!r} needs the global concept {', '.join(missing)}"

    def _choices(self, answer: Answer) -> Iterable[Choice]:
        return (
            each
            for each in (*self.panel_types, *self.panel_subtypes)
            if each.id == (answer.panel_type if each.panel_type is None else answer.panel_subtype)
        )

    def complete(self, answer: Answer) -> Answer:
        """The answer with all that it implies, each list in file order and without repeats.

        Local concepts imply their parents and their global concept, a panel subtype its type, and a
        type that has one subtype implies that. Raises `KeyError` for an unknown concept.
        """
        meant = set(answer.global_concepts)
        for each in answer.local_concepts:
            meant |= {each, *self.ancestors(each)}
        if unknown := meant - self.concepts.keys():
            raise KeyError(*sorted(unknown))
        panel_type, panel_subtype = answer.panel_type, answer.panel_subtype
        if panel_subtype is not None and panel_type is None:
            panel_type = next(
                (each.panel_type for each in self.panel_subtypes if each.id == panel_subtype), None
            )
        of_type = [each.id for each in self.panel_subtypes if each.panel_type == panel_type]
        if panel_subtype is None and len(of_type) == 1:
            panel_subtype = of_type[0]
        in_order = [each for each in self.concepts.values() if each.id in meant]
        return replace(
            answer,
            panel_type=panel_type,
            panel_subtype=panel_subtype,
            global_concepts=tuple(each.id for each in in_order if each.parent is None),
            local_concepts=tuple(each.id for each in in_order if each.parent is not None),
        )

    def search(self, text: str) -> tuple[Concept, ...]:
        """Concepts for type-to-filter, best first; all of them for a text without words.

        Every word of the text must begin a word of the concept's name, id or published names. Names
        that begin with the text come first, then names with all its words, then the others.
        """
        wanted = _words(text)
        joined = " ".join(wanted)
        ranked: list[tuple[int, int, Concept]] = []
        for place, each in enumerate(self.concepts.values()):
            name = _words(each.name)
            other = _words(" ".join((each.id, *each.published)))
            if not all(_begins(word, (*name, *other)) for word in wanted):
                continue
            rank = 2 - all(_begins(word, name) for word in wanted)
            ranked.append((0 if " ".join(name).startswith(joined) else rank, place, each))
        return tuple(each for _, _, each in sorted(ranked, key=lambda found: found[:2]))


def load_taxonomy(path: Path | None = None) -> Taxonomy:
    """Read a taxonomy file; None: the shipped one. Raises `ConfigError` for a bad file.

    Refused are unknown names, ids that are not kebab case, parents that do not exist or run in a
    circle, and subtypes of an unknown type.
    """
    path = path or SHIPPED
    content = read_toml(path)
    _refuse_unknown(path, "the file", content, _TOP)
    version = content.get("version")
    if not isinstance(version, str) or not version:
        raise ConfigError(f'{path}: version is {version!r}; a text such as version = "1" would do')
    tables = {name: _tables(path, name, content) for name in _TABLES}
    types = tuple(_choice(*each) for each in tables["panel_types"])
    subtypes = tuple(_choice(*each) for each in tables["panel_subtypes"])
    concepts = {name: _concept(name, table) for name, table in tables["concepts"]}
    _check_parents(path, concepts)
    _check_panels(path, types, subtypes, concepts)
    text = json.dumps(content, ensure_ascii=False)
    return Taxonomy(
        version=version,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        panel_types=types,
        panel_subtypes=subtypes,
        concepts=concepts,
    )


_TABLES = ("panel_types", "panel_subtypes", "concepts")
_TOP = {"version", *_TABLES}
_FIELDS: dict[str, dict[str, type]] = {
    "panel_types": {"name": str, "definition": str, "max_globals": int},
    "panel_subtypes": {"name": str, "panel_type": str, "definition": str, "requires": list},
    "concepts": {"name": str, "parent": str, "definition": str, "source": str, "published": list},
}
_OPTIONAL = {"parent", "published", "max_globals", "requires"}


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file; `ConfigError` where it can't be read or is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}") from None


def _tables(path: Path, name: str, content: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = content.get(name)
    if not isinstance(found, dict) or not found:
        raise ConfigError(f"{path}: no {name}; at least one table [{name}.ID] is expected")
    for each, table in found.items():
        if not _ID.fullmatch(each):
            raise ConfigError(f"{path}: [{name}.{each}]: {each!r} is no id; `like-this` would do")
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {name}.{each} is {table!r}; a table is expected")
        _check_fields(path, name, each, table)
    return list(found.items())


def _check_fields(path: Path, name: str, each: str, table: dict[str, Any]) -> None:
    where, known = f"[{name}.{each}]", _FIELDS[name]
    _refuse_unknown(path, where, table, known)
    for field, kind in known.items():
        value = table.get(field)
        if value is None and field in _OPTIONAL:
            continue
        right = isinstance(value, kind) and not isinstance(value, bool)
        if not right or value in ("", []) or (isinstance(value, int) and value < 1):
            words = {str: "a text", int: "a number from 1", list: "a list of texts"}[kind]
            raise ConfigError(f"{path}: {where}: {field} is {value!r}; {words} is expected")
        if isinstance(value, list) and not all(isinstance(text, str) for text in value):
            raise ConfigError(f"{path}: {where}: {field} is {value!r}; a list of texts is expected")


def _refuse_unknown(path: Path, where: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
    for name in table:
        if name not in set(known):
            raise ConfigError(f"{path}: {where} has an unknown {name!r}{suggestion(name, known)}")


def _choice(name: str, table: dict[str, Any]) -> Choice:
    return Choice(id=name, **{**table, "requires": tuple(table.get("requires", ()))})


def _concept(name: str, table: dict[str, Any]) -> Concept:
    return Concept(
        id=name,
        name=table["name"],
        parent=table.get("parent"),
        definition=table["definition"],
        source=table["source"],
        published=tuple(table.get("published", ())),
    )


def _check_parents(path: Path, concepts: dict[str, Concept]) -> None:
    for each in concepts.values():
        seen, parent = [each.id], each.parent
        while parent is not None:
            if parent not in concepts:
                raise ConfigError(
                    f"{path}: [concepts.{seen[-1]}]: no concept {parent!r} to be its parent"
                    f"{suggestion(parent, concepts)}"
                )
            if parent in seen:
                circle = " > ".join([*seen[seen.index(parent) :], parent])
                raise ConfigError(f"{path}: parents run in a circle: {circle}")
            seen.append(parent)
            parent = concepts[parent].parent


def _check_panels(
    path: Path,
    types: tuple[Choice, ...],
    subtypes: tuple[Choice, ...],
    concepts: dict[str, Concept],
) -> None:
    ids = [each.id for each in types]
    top = [each.id for each in concepts.values() if each.parent is None]
    for each in subtypes:
        where = f"{path}: [panel_subtypes.{each.id}]"
        if each.panel_type not in ids:
            raise ConfigError(
                f"{where}: no panel type {each.panel_type!r}{suggestion(str(each.panel_type), ids)}"
            )
        for wanted in each.requires:
            if wanted not in top:
                raise ConfigError(
                    f"{where}: requires no global concept {wanted!r}{suggestion(wanted, top)}"
                )


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the known name that is meant, or all where they are few."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(sorted(names))}" if len(names) <= 16 else ""


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.casefold()))


def _begins(start: str, words: Iterable[str]) -> bool:
    return any(word.startswith(start) for word in words)


def taxonomy_table(taxonomy: Taxonomy) -> str:
    """The concepts as Markdown: a heading and a table for each global concept, depth by dashes."""
    parts: list[str] = []
    for each in taxonomy.global_concepts():
        below = taxonomy.locals_of(each.id)
        parts.append(f"### {each.name}\n\n{each.definition} `{each.id}`, {len(below)} below it.\n")
        if below:
            parts.append("| id | name | what one sees | source |\n|---|---|---|---|")
            depth = [len(taxonomy.ancestors(one.id)) - 1 for one in below]
            parts += [
                f"| {'– ' * level}`{one.id}` | {one.name} | {one.definition} | {one.source} |"
                for one, level in zip(below, depth, strict=True)
            ]
            parts.append("")
    return "\n".join(parts).rstrip() + "\n"
