"""Settings: one TOML file fills the settings classes that stand beside the code they belong to."""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from biomedica.cluster.model import ClusterSettings
from biomedica.duplicates import DuplicateSettings
from biomedica.embed import EmbedSettings
from biomedica.errors import ConfigError
from biomedica.explore.settings import LabelPageSettings
from biomedica.export.settings import ExportSettings
from biomedica.images import ImageSettings
from biomedica.label.audit import AuditSettings
from biomedica.label.consensus import LabelSettings
from biomedica.plan import ShardSettings
from biomedica.run import RunSettings
from biomedica.sources import SourceSettings
from biomedica.sources.entrez import EntrezSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of them: a table of the TOML file for each."""

    source: SourceSettings = field(default_factory=SourceSettings)
    entrez: EntrezSettings = field(default_factory=EntrezSettings)
    images: ImageSettings = field(default_factory=ImageSettings)
    shards: ShardSettings = field(default_factory=ShardSettings)
    run: RunSettings = field(default_factory=RunSettings)
    embed: EmbedSettings = field(default_factory=EmbedSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    duplicates: DuplicateSettings = field(default_factory=DuplicateSettings)
    label: LabelSettings = field(default_factory=LabelSettings)
    page: LabelPageSettings = field(default_factory=LabelPageSettings)
    audit: AuditSettings = field(default_factory=AuditSettings)
    export: ExportSettings = field(default_factory=ExportSettings)


def load_settings(path: Path | None = None, changes: list[str] | None = None) -> Settings:
    """Defaults, then a TOML file, then changes such as `images.min_side=40`. Raises `ConfigError`."""
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
    return _filled(Settings(), values)


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _filled(settings: Settings, values: dict[str, Any]) -> Settings:
    known = {each.name: getattr(settings, each.name) for each in fields(settings)}
    for table, content in values.items():
        if table not in known:
            raise ConfigError(f"unknown table [{table}]{_suggestion(table, known)}")
        if not isinstance(content, dict):
            raise ConfigError(f"{table} is {content!r}; a table [{table}] is expected")
        known[table] = _changed(table, known[table], content)
    return replace(settings, **known)


def _changed(table: str, settings: Any, content: dict[str, Any]) -> Any:
    hints = get_type_hints(type(settings))
    for name, value in content.items():
        if name not in hints:
            raise ConfigError(f"unknown setting {table}.{name}{_suggestion(name, hints)}")
        try:
            checked = TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            said = error.errors()[0]["msg"]
            raise ConfigError(f"{table}.{name} is {value!r}: {said}") from None
        settings = replace(settings, **{name: checked})
    return settings


def _suggestion(name: str, known: dict[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known))}"


def as_toml(settings: Settings) -> str:
    """All settings as TOML, each with what it means; those that are None are commented out."""
    lines = []
    for table in fields(settings):
        values = getattr(settings, table.name)
        lines.append(f"[{table.name}]")
        about = setting_docs(type(values))
        for each in fields(values):
            value = getattr(values, each.name)
            lines += [f"# {line}" for line in about[each.name].splitlines()]
            lines.append(
                f"# {each.name} =" if value is None else f"{each.name} = {_toml_text(value)}"
            )
        lines.append("")
    return "\n".join(lines)


def _toml_text(value: Any) -> str:
    """A number, text, truth or list of them as TOML (whose strings are JSON's)."""
    return json.dumps(value, ensure_ascii=False)


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
