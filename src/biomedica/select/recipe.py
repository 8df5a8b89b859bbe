"""A recipe: which samples a view holds, as a TOML file says it."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from biomedica.errors import ConfigError
from biomedica.select.columns import nearest

SPLITS = ("train", "validation", "test")
MOST_RULES = 250
_HEADER = re.compile(r"^\s*\[\[\s*(keep|drop)\s*\]\]", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One condition of a recipe."""

    name: str
    keeps: bool
    """True: a sample that it does not hold for is refused. False: one that it holds for."""
    where: str
    """An expression of DuckDB over the columns of one sample."""
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """At most so many samples of each value."""

    name: str
    by: str
    """A column or an expression; a list counts for each of its values."""
    most: int
    seed: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """A random part of what is left: a fraction of it, or a number of samples."""

    fraction: float | None = None
    number: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Splitting:
    """Shares of the articles; they come to 1."""

    train: float
    validation: float
    test: float
    seed: int = 0
    together: bool = False
    """Articles that share a near-duplicate picture go to one split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a view holds. Steps come in this order: exclude, rules, dedup, caps, sample, split."""

    name: str
    about: str
    text: str
    """The TOML as it was given."""
    labels: str | None
    """Label run; None: the only one, where there is one."""
    clusters: str | None
    duplicates: bool
    rules: tuple[Rule, ...]
    """In the order of the file."""
    dedup: bool
    caps: tuple[Cap, ...]
    sample: Sampling | None
    split: Splitting | None
    exclude: tuple[Path, ...] = ()
    """Lists of keys that are left out before anything else."""


def list_recipes() -> list[Recipe]:
    """The recipes that come with this package, by name."""
    folder = files("biomedica") / "data" / "recipes"
    names = sorted(Path(each.name).stem for each in folder.iterdir() if each.name.endswith(".toml"))
    return [load_recipe(name) for name in names]


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A recipe that comes with this package, by name; or a TOML file, by its path.

    Raises `ConfigError` for anything in it that is not known or can't be meant. Columns and conditions
    are looked at by `select`.
    """
    given = str(name_or_path)
    if given.endswith(".toml") or "/" in given:
        path = Path(given)
        try:
            return parse_recipe(path.read_text(encoding="utf-8"), path.stem, path.parent)
        except OSError as error:
            raise ConfigError(f"recipe {path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"recipe {path} is not UTF-8: {error}") from None
    shipped = files("biomedica") / "data" / "recipes"
    file = shipped / f"{given}.toml"
    if not file.is_file():
        known = [Path(each.name).stem for each in shipped.iterdir()]
        raise ConfigError(f"no recipe {given!r}{nearest(given, known)} A file ends in .toml")
    return parse_recipe(file.read_text(encoding="utf-8"), given)


def parse_recipe(text: str, name: str, folder: Path = Path()) -> Recipe:
    """The recipe that a TOML text states.

    name     what to call it in messages
    folder   that paths in it begin at
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe {name} is no TOML: {error}") from None
    try:
        return _recipe(content, text, name, folder)
    except ConfigError as error:
        raise ConfigError(f"recipe {name}: {error}") from None


_KEYS: dict[str, type | tuple[type, ...]] = {
    "about": str,
    "labels": str,
    "clusters": str,
    "duplicates": bool,
    "exclude": (str, list),
    "keep": list,
    "drop": list,
    "dedup": dict,
    "cap": list,
    "sample": dict,
    "split": dict,
}
_NUMBER = (int, float)
_STEPS = ("exclude", "dedup", "sample")
"""Of which a recipe has one at most: they are counted by these names."""


def _recipe(content: dict[str, Any], text: str, name: str, folder: Path) -> Recipe:
    _check(content, _KEYS, "")
    rules = _rules(content, text)
    caps = tuple(_cap(each) for each in _tables(content, "cap"))
    _check_names([rule.name for rule in rules] + [cap.name for cap in caps])
    dedup, split = content.get("dedup"), _split(content.get("split"))
    if dedup is not None:
        _check(dedup, {"why": str}, "dedup.")
    if content.get("duplicates") is False and (dedup is not None or (split and split.together)):
        raise ConfigError(
            "duplicates = false, but [dedup] or split.together asks for them; leave the line out"
        )
    return Recipe(
        name=name,
        about=content.get("about", ""),
        text=text,
        labels=_name_of_labels(content),
        clusters=content.get("clusters"),
        duplicates=bool(content.get("duplicates")),
        rules=rules,
        dedup=dedup is not None,
        caps=caps,
        sample=_sample(content.get("sample")),
        split=split,
        exclude=_exclude(content.get("exclude", []), folder),
    )


def _exclude(given: str | list[Any], folder: Path) -> tuple[Path, ...]:
    paths = [given] if isinstance(given, str) else given
    if not all(isinstance(each, str) and each for each in paths):
        raise ConfigError(f"exclude is {given!r}; a path or a list of paths is expected")
    return tuple(folder / each for each in paths)


def _check(table: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"unknown setting {where}{key}{nearest(key, known)}")
        kind = known[key]
        is_bool = isinstance(value, bool)
        if not isinstance(value, kind) or (is_bool and kind is not bool):
            wanted = {
                str: "a text",
                bool: "true or false",
                int: "a whole number",
                _NUMBER: "a number",
                list: f"tables [[{key}]]",
                (str, list): "a path or a list of paths",
                dict: f"a table [{key}]",
            }[kind]
            raise ConfigError(f"{where}{key} is {value!r}; {wanted} is expected")


def _tables(content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = content.get(key, [])
    if not all(isinstance(each, dict) for each in found):
        raise ConfigError(f"{key} is {found!r}; tables [[{key}]] are expected")
    return list(found)


def _rules(content: dict[str, Any], text: str) -> tuple[Rule, ...]:
    """Rules in the order of the file, which the parsed TOML knows only for each kind."""
    kinds = {kind: iter(_tables(content, kind)) for kind in ("keep", "drop")}
    counts = {kind: len(_tables(content, kind)) for kind in kinds}
    order = _HEADER.findall(text)
    if {kind: order.count(kind) for kind in kinds} != counts:
        raise ConfigError(
            "rules are tables [[keep]] and [[drop]], each header on a line of its own and no such line "
            "within a text"
        )
    if len(order) > MOST_RULES:
        raise ConfigError(f"it has {len(order)} rules; {MOST_RULES} at the most")
    return tuple(_rule(next(kinds[kind]), kind) for kind in order)


def _rule(table: dict[str, Any], kind: str) -> Rule:
    _check(table, {"name": str, "where": str, "why": str}, f"{kind}.")
    _check_given(table, ("name", "where", "why"), f"[[{kind}]]")
    return Rule(keeps=kind == "keep", **table)


def _check_given(table: dict[str, Any], wanted: tuple[str, ...], what: str) -> None:
    for key in wanted:
        if not str(table.get(key, "")).strip():
            said = f" {table['name']!r}" if table.get("name") else ""
            raise ConfigError(f"{what}{said} lacks {key!r}")


def _check_names(names: list[str]) -> None:
    taken = [name for name in names if names.count(name) > 1 or name in _STEPS]
    if taken:
        raise ConfigError(f"two steps are called {taken[0]!r}; counts are by name")


def _cap(table: dict[str, Any]) -> Cap:
    known: dict[str, Any] = {"name": str, "by": str, "most": int, "seed": int, "why": str}
    _check(table, known, "cap.")
    _check_given(table, ("name", "by", "most"), "[[cap]]")
    if table["most"] < 0:
        raise ConfigError(f"cap.most is {table['most']}; 0 or more is expected")
    _check_seed(table, "cap")
    return Cap(**table)


def _check_seed(table: dict[str, Any], where: str) -> None:
    if not 0 <= table.get("seed", 0) < 2**63:
        raise ConfigError(f"{where}.seed is {table['seed']}; 0 to 2^63 - 1 is expected")


def _sample(table: dict[str, Any] | None) -> Sampling | None:
    if table is None:
        return None
    _check(table, {"fraction": _NUMBER, "number": int, "seed": int}, "sample.")
    _check_seed(table, "sample")
    if ("fraction" in table) == ("number" in table):
        raise ConfigError("[sample] takes either 'fraction' or 'number'")
    if not 0 <= table.get("fraction", 1) <= 1:
        raise ConfigError(f"sample.fraction is {table['fraction']}; 0 to 1 is expected")
    if table.get("number", 0) < 0:
        raise ConfigError(f"sample.number is {table['number']}; 0 or more is expected")
    return Sampling(**table)


def _name_of_labels(content: dict[str, Any]) -> str | None:
    name: str | None = content.get("labels")
    if name == "":
        raise ConfigError("labels is empty; name a label run, or leave it out")
    return name


def _split(table: dict[str, Any] | None) -> Splitting | None:
    if table is None:
        return None
    _check(table, dict.fromkeys(SPLITS, _NUMBER) | {"seed": int, "together": bool}, "split.")
    _check_seed(table, "split")
    shares = {name: float(table.get(name, 0)) for name in SPLITS}
    if "train" not in table:
        shares["train"] = 1 - shares["validation"] - shares["test"]
    total = sum(shares.values())
    if not math.isfinite(total) or min(shares.values()) < -1e-9 or abs(total - 1) > 1e-9:
        said = ", ".join(f"{name} {table[name]}" for name in SPLITS if name in table)
        raise ConfigError(
            f"the shares of [split] ({said}) do not come to 1; leave 'train' out to give it the rest"
        )
    return Splitting(**shares, seed=table.get("seed", 0), together=table.get("together", False))
