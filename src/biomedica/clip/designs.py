"""Settings -> open_clip's own description of a model, read from wherever it stands."""

from __future__ import annotations

import copy
import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomedica.clip.settings import ModelSettings
from biomedica.errors import ConfigError

LOCAL = "local-dir:"
CONFIG_FILE = "open_clip_config.json"
_POOLERS = {"cls": "cls_last_hidden_state_pooler", "mean": "mean_pooler"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """A model before it is made."""

    config: dict[str, Any]
    """open_clip's `model_cfg`."""
    preprocess: dict[str, Any]
    """open_clip's `preprocess_cfg`: what differs from its defaults."""
    folder: Path | None = None
    """Of a `local-dir:` model."""
    checkpoint: Path | None = None
    """Weights of the whole model."""


def open_clip_module() -> Any:
    """open_clip, or a `ConfigError` that says how to get it."""
    try:
        import open_clip
    except ImportError:
        raise ConfigError("text-image models need pip install 'biomedica[train]'") from None
    return open_clip


def read_design(settings: ModelSettings, *, weights: bool = True) -> Design:
    """The model that the settings name. Raises `ConfigError`.

    weights   False: leave the checkpoint alone (a tag is then not downloaded)
    """
    if settings.name.startswith(LOCAL):
        design = _of_folder(Path(settings.name.removeprefix(LOCAL)), weights)
    elif settings.name.startswith("hf-hub:"):
        repository = settings.name.removeprefix("hf-hub:")
        raise ConfigError(
            f"model.name is {settings.name!r}; fetch it once and name the folder: "
            f"hf download {repository} --local-dir FOLDER, then name = 'local-dir:FOLDER'"
        )
    elif settings.name:
        design = _of_name(settings, weights)
    elif settings.image_tower and settings.text_tower:
        design = _of_towers(settings)
    else:
        raise ConfigError("[model] names nothing: give name, or image_tower and text_tower")
    if "multimodal_cfg" in design.config:
        raise ConfigError(
            f"{settings.name} is a CoCa, which also writes text; only CLIP is built here"
        )
    _apply(settings, design.config)
    return design


def _of_towers(settings: ModelSettings) -> Design:
    vision: dict[str, Any] = {
        "timm_model_name": settings.image_tower,
        "timm_model_pretrained": False,
        "timm_pool": settings.image_pooling,
        "timm_proj": settings.image_proj,
    }
    text = {
        "hf_model_name": settings.text_tower,
        "hf_tokenizer_name": settings.tokenizer or settings.text_tower,
        "hf_proj_type": None if settings.text_proj == "none" else settings.text_proj,
        "hf_pooler_type": _POOLERS[settings.text_pooling],
        "context_length": settings.context_length or 77,
    }
    config = {"embed_dim": settings.embed_dim, "vision_cfg": vision, "text_cfg": text}
    return Design(config=config, preprocess={})


def _of_folder(folder: Path, weights: bool) -> Design:
    values = _read_json(folder / CONFIG_FILE)
    if "model_cfg" not in values:
        raise ConfigError(
            f"{folder / CONFIG_FILE} has no model_cfg; an open_clip folder is expected"
        )
    checkpoint = open_clip_module().factory._find_checkpoint_in_dir(folder) if weights else None
    if weights and checkpoint is None:
        raise ConfigError(f"{folder} holds no weights; open_clip_model.safetensors is expected")
    return Design(
        config=values["model_cfg"],
        preprocess=values.get("preprocess_cfg", {}),
        folder=folder,
        checkpoint=Path(checkpoint) if checkpoint else None,
    )


def _of_name(settings: ModelSettings, weights: bool) -> Design:
    open_clip = open_clip_module()
    name = settings.name
    if name.endswith(".json"):
        values = _read_json(shipped(name))
        config, preprocess = values.get("model_cfg", values), values.get("preprocess_cfg", {})
        if not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
            raise ConfigError(f"{name}: embed_dim, vision_cfg and text_cfg are expected")
    else:
        config, preprocess = open_clip.get_model_config(name), {}
    if config is None:
        close = difflib.get_close_matches(name, open_clip.list_models(), n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"model.name is {name!r}, which open_clip doesn't know{hint}")
    config = copy.deepcopy(config)
    if not settings.pretrained or not weights:
        return Design(config=config, preprocess=preprocess)
    if Path(settings.pretrained).is_file():
        checkpoint = Path(settings.pretrained)
        return Design(config=config, preprocess=preprocess, checkpoint=checkpoint)
    tag = _tag(name, settings.pretrained)
    if tag.get("quick_gelu"):
        config["quick_gelu"] = True
    known: dict[str, Any] = {
        each: tag[each] for each in ("mean", "std", "interpolation", "resize_mode") if each in tag
    }
    return Design(
        config=config, preprocess=known, checkpoint=_download(name, settings.pretrained, tag)
    )


def shipped(name: str) -> Path:
    """`models/tiny.json` of this package where no such file stands in the working directory."""
    own = Path(__file__).parent.parent / "data" / name
    return own if not Path(name).is_file() and own.is_file() else Path(name)


def _tag(name: str, tag: str) -> dict[str, Any]:
    open_clip = open_clip_module()
    found: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag)
    if not found:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ConfigError(
            f"model.pretrained is {tag!r}: no such file and no tag of {name} (its tags: {known})"
        )
    return found


def _download(name: str, tag: str, found: dict[str, Any]) -> Path:
    try:
        return Path(open_clip_module().download_pretrained(found))
    except Exception as error:  # whatever the hub's client raises
        repository = str(found.get("hf_hub", "")).strip("/")
        how = (
            f"hf download {repository} --local-dir FOLDER" if repository else str(found.get("url"))
        )
        raise ConfigError(
            f"{name} {tag} cannot be downloaded from here ({first_line(error)}). Where there is a "
            f"network: {how}; then give the file as model.pretrained"
        ) from error


def _apply(settings: ModelSettings, config: dict[str, Any]) -> None:
    vision, text = config["vision_cfg"], config["text_cfg"]
    if settings.name and settings.text_tower:
        if not text.get("hf_model_name"):
            raise ConfigError(
                f"{settings.name} has a text tower of its own; text_tower has no place beside it"
            )
        text["hf_model_name"] = text["hf_tokenizer_name"] = settings.text_tower
    if settings.patch_dropout:
        vision["patch_dropout"] = settings.patch_dropout
    if settings.image_drop_path:
        if "timm_model_name" not in vision:
            raise ConfigError("model.image_drop_path is for image towers of timm")
        vision["timm_drop_path"] = settings.image_drop_path
    if settings.context_length:
        text["context_length"] = settings.context_length
    if settings.image_size:
        vision["image_size"] = settings.image_size
    if settings.init_logit_scale is not None:
        config["init_logit_scale"] = settings.init_logit_scale
    if settings.init_logit_bias is not None:
        config["init_logit_bias"] = settings.init_logit_bias


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: an object is expected")
    return values


def first_line(error: Exception) -> str:
    """What an error of another library says, in short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
