"""A model on disk: an open_clip `local-dir:` folder that needs no network.

    open_clip_config.json  open_clip_model.safetensors    what open_clip reads
    tokenizer.json  tokenizer_config.json                 where the tokenizer is one of transformers
    text_tower/config.json                                the text tower's shape, where it is one of transformers
    image_tower/config.json                               the image tower's shape, where its name doesn't tell its size
    README.md                                             the model card

open_clip 3.3 hands `hf_model_name` and `timm_model_name` on as they stand, and a relative path counts from the
working directory. So the config names both by absolute path. `build` looks inside the folder first and does not mind
where it stands; for open_clip itself, a folder that was moved or downloaded needs `relocate` once.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from biomedica.clip.card import card_text
from biomedica.clip.designs import CONFIG_FILE, LOCAL
from biomedica.clip.image_towers import input_size, timm_description
from biomedica.clip.settings import Made
from biomedica.clip.text_towers import OWN
from biomedica.errors import ConfigError

WEIGHTS_FILE = "open_clip_model.safetensors"
_IMAGE = "image_tower"


def save(folder: Path, made: Made, card: dict[str, Any]) -> None:
    """Write a model under a temporary name beside `folder`, then rename it; a model that stood there is replaced.

    card   for the README: `about`, `data`, `settings`, `metrics`, `licence`, `base` … ; text, numbers or tables of them
    """
    if folder.exists() and not (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"{folder} stands already and is no model folder")
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as work:
        part, old = Path(work) / "new", Path(work) / "old"
        part.mkdir()
        _write(part, folder, made, card)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)


def _write(part: Path, folder: Path, made: Made, card: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    state = made.model.state_dict()
    state = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    save_file(state, part / WEIGHTS_FILE, metadata={"format": "pt"})
    config = json.loads(json.dumps(made.config))
    _write_towers(part, made, config)
    preprocess = made.model.visual.preprocess_cfg
    kept = {
        key: preprocess[key]
        for key in ("mean", "std", "interpolation", "resize_mode")
        if key in preprocess
    }
    values = {"model_cfg": config, "preprocess_cfg": kept}
    _point_at(values, part, folder)
    (part / CONFIG_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    if hasattr(made.tokenizer, "save_pretrained"):
        made.tokenizer.save_pretrained(part)
    (part / "README.md").write_text(card_text(made, card, folder.name), encoding="utf-8")


def _write_towers(part: Path, made: Made, config: dict[str, Any]) -> None:
    if config["text_cfg"].get("hf_model_name"):
        made.model.text.config.save_pretrained(part / OWN)
    if config["vision_cfg"].get("timm_model_name"):
        config["vision_cfg"]["timm_model_pretrained"] = False
        trunk = made.model.visual.trunk
        if input_size(trunk) != trunk.default_cfg["input_size"][-1] or _names_folder(config):
            (part / _IMAGE).mkdir()
            text = json.dumps(timm_description(trunk), indent=2)
            (part / _IMAGE / "config.json").write_text(text + "\n", encoding="utf-8")


def _names_folder(config: dict[str, Any]) -> bool:
    return str(config["vision_cfg"]["timm_model_name"]).startswith(LOCAL)


def _point_at(values: dict[str, Any], part: Path, folder: Path) -> None:
    """Name the towers that stand in `part` as they will be found in `folder`."""
    vision, text = values["model_cfg"]["vision_cfg"], values["model_cfg"]["text_cfg"]
    if (part / OWN).is_dir():
        text["hf_model_name"] = str(folder / OWN)
        text["hf_tokenizer_name"] = str(folder)
    if (part / _IMAGE).is_dir():
        vision["timm_model_name"] = f"{LOCAL}{folder / _IMAGE}"


def relocate(folder: Path) -> bool:
    """Write the folder's present place into its config, for open_clip; False where it is right already."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} has no {CONFIG_FILE}; a folder that `save` wrote is expected")
    old = path.read_text(encoding="utf-8")
    values = json.loads(old)
    _point_at(values, folder, folder.resolve())
    new = json.dumps(values, indent=2) + "\n"
    part = path.with_name(f".{path.name}.part")
    part.write_text(new, encoding="utf-8")
    part.replace(path)
    return new != old
