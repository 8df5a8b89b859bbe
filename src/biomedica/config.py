"""Settings: one TOML file fills the settings classes that stand beside the code they belong to."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from biomedica.cluster.model import ClusterSettings
from biomedica.duplicates import DuplicateSettings
from biomedica.embed import EmbedSettings
from biomedica.evaluate.settings import EvaluateSettings, LeakSettings
from biomedica.explore.settings import LabelPageSettings
from biomedica.export.settings import ExportSettings
from biomedica.images import ImageSettings
from biomedica.label.audit import AuditSettings
from biomedica.label.consensus import LabelSettings
from biomedica.plan import ShardSettings
from biomedica.run import RunSettings
from biomedica.settings import filled, read_toml, setting_docs
from biomedica.sources import SourceSettings
from biomedica.sources.entrez import EntrezSettings
from biomedica.stream.settings import ReadSettings


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
    stream: ReadSettings = field(default_factory=ReadSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    leaks: LeakSettings = field(default_factory=LeakSettings)


def load_settings(path: Path | None = None, changes: list[str] | None = None) -> Settings:
    """Defaults, then a TOML file, then changes such as `images.min_side=40`. Raises `ConfigError`."""
    return filled(Settings(), read_toml(path, changes))


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
