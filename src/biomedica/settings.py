"""Settings classes filled from TOML: an unknown name is an error with a suggestion."""

from __future__ import annotations

import ast
import difflib
import inspect
import tomllib
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from biomedica.errors import ConfigError

Settings = TypeVar("Settings", bound=Any)


def read_toml(path: Path | None, changes: list[str] | None = None) -> dict[str, Any]:
    """A TOML file's content, with changes such as `images.min_side=40`. Raises `ConfigError`."""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text())
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is no TOML: {error}") from None
    for change in changes or []:
        name, equals, text = change.partition("=")
        table, _, setting = name.strip().partition(".")
        if not equals or not setting:
            raise ConfigError(f"{change!r} changes nothing; TABLE.NAME=VALUE is expected")
        content = values.setdefault(table, {})
        if not isinstance(content, dict):
            raise ConfigError(f"{table} is {content!r}; a table [{table}] is expected")
        content[setting] = _toml_value(text.strip())
    return values


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def filled(settings: Settings, values: dict[str, Any]) -> Settings:
    """Settings whose fields are settings classes (tables) or plain values, changed by a file's content."""
    known = {each.name: getattr(settings, each.name) for each in fields(settings)}
    for table, content in values.items():
        if table not in known:
            raise ConfigError(f"unknown table [{table}]{_suggestion(table, known)}")
        if not is_dataclass(known[table]):
            known[table] = _checked(table, get_type_hints(type(settings))[table], content)
            continue
        if not isinstance(content, dict):
            raise ConfigError(f"{table} is {content!r}; a table [{table}] is expected")
        known[table] = _changed(table, known[table], content)
    return replace(settings, **known)


def _changed(table: str, settings: Any, content: dict[str, Any]) -> Any:
    hints = get_type_hints(type(settings))
    new = {}
    for name, value in content.items():
        if name not in hints:
            raise ConfigError(f"unknown setting {table}.{name}{_suggestion(name, hints)}")
        new[name] = _checked(f"{table}.{name}", hints[name], value)
    return replace(settings, **new)


def _checked(name: str, kind: Any, value: Any) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"{each}: " for each in first["loc"])  # in a list of tables
        raise ConfigError(f"{name} is {value!r}: {place}{first['msg']}") from None


def _suggestion(name: str, known: dict[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known))}"


def setting_docs(settings: type) -> dict[str, str]:
    """What stands under each field of a settings class."""
    tree = ast.parse(inspect.getsource(settings)).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field_, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field_, ast.AnnAssign) and isinstance(field_.target, ast.Name):
            value = text.value if isinstance(text, ast.Expr) else None
            said = str(value.value) if isinstance(value, ast.Constant) else ""
            found[field_.target.id] = inspect.cleandoc(said)
    return found
