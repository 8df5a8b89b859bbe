"""The README of a saved model: what it is, what it learned from, how it is loaded."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from biomedica.clip.settings import Made, ModelSettings

_LOAD = """\
```python
import open_clip
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")
```

In biomedica: `build(ModelSettings(name="local-dir:FOLDER"))`, wherever the folder stands."""
_MOVED = """
The config names parts of this folder by absolute path, as open_clip wants it. After moving or downloading the
folder: `python -c "from pathlib import Path; from biomedica.clip import relocate; relocate(Path('FOLDER'))"`."""
_FAMILIES = {"bert", "roberta", "xlm-roberta", "mt5", "m2m_100"}


def card_text(made: Made, card: dict[str, Any], name: str) -> str:
    """Markdown with the hub's front matter. A part that `card` says nothing of is left out, not filled in."""
    parameters = sum(each.numel() for each in made.model.parameters())
    lines = ["---", "library_name: open_clip", "pipeline_tag: zero-shot-image-classification"]
    if card.get("licence"):
        lines.append(f"license: {card['licence']}")
    lines += ["tags: [clip, biomedical]", "---", "", f"# {card.get('name', name)}", ""]
    if card.get("about"):
        lines += [str(card["about"]), ""]
    lines += _table("Model", {"parameters": f"{parameters:,}", **_changed(made.settings)})
    for key, value in card.items():
        if key not in ("name", "about", "licence"):
            lines += _table(key.capitalize(), value)
    lines += _table("Licence", card.get("licence"))
    lines += ["## Use", "", _LOAD, *_notes(made), ""]
    return "\n".join(lines)


def _changed(settings: ModelSettings) -> dict[str, Any]:
    """Settings that differ from the defaults; of a folder or file only its name."""
    usual = asdict(ModelSettings())
    found = {key: value for key, value in asdict(settings).items() if value != usual[key]}
    return {key: Path(value).name if _is_path(value) else value for key, value in found.items()}


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and Path(value.removeprefix("local-dir:")).exists()


def _table(title: str, value: Any) -> list[str]:
    if value is None or value == {}:
        return []
    if not isinstance(value, dict):
        return [f"## {title}", "", str(value), ""]
    rows = [f"| {key} | {_cell(each)} |" for key, each in value.items()]
    return [f"## {title}", "", "| | |", "|---|---|", *rows, ""]


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _notes(made: Made) -> list[str]:
    config = getattr(getattr(made.model, "text", None), "config", None)
    if config is None:
        return []
    if config.model_type in _FAMILIES:
        return [_MOVED]
    return [
        _MOVED,
        f"open_clip 3.3 does not know {config.model_type} text towers; take a later one, or biomedica.",
    ]
