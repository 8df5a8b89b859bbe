"""A saved model for transformers: `CLIPModel` and `CLIPProcessor`, where the architecture is CLIP's own."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from biomedica.clip.build import build
from biomedica.clip.designs import LOCAL
from biomedica.clip.settings import Made, ModelSettings
from biomedica.errors import ConfigError

_PLAIN_VISION = {
    "image_size",
    "layers",
    "width",
    "head_width",
    "mlp_ratio",
    "patch_size",
    "patch_dropout",
}
_PLAIN_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
_PLAIN_MODEL = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale"}
_BLOCKS = (
    (r"transformer\.resblocks\.", "encoder.layers."),
    (r"\.ln_(\d)\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.", ".self_attn."),
)
_VISION = (
    ("conv1.weight", "embeddings.patch_embedding.weight"),
    ("class_embedding", "embeddings.class_embedding"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("ln_pre.", "pre_layrnorm."),  # transformers' own spelling
    ("ln_post.", "post_layernorm."),
)
_TEXT = (
    ("token_embedding.", "embeddings.token_embedding."),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("ln_final.", "final_layer_norm."),
)


def to_transformers(folder_in: Path, folder_out: Path) -> None:
    """Convert a `local-dir:` folder. Raises `ConfigError` with the reason where transformers has no such model.

    Texts become the same tokens, but for the broken Unicode and HTML entities that open_clip's tokenizer mends.
    """
    made = build(ModelSettings(name=f"{LOCAL}{folder_in}"))
    reasons = refusals(made.config)
    if reasons:
        raise ConfigError(f"{folder_in} cannot be a CLIPModel: {'; '.join(reasons)}")
    if folder_out.exists():
        raise ConfigError(f"{folder_out} stands already; name a new folder")
    from transformers import CLIPModel

    model = CLIPModel(_config(made.config))
    model.load_state_dict(clip_state(made.model.state_dict()))
    folder_out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder_out.name}.", dir=folder_out.parent) as work:
        part = Path(work) / "new"
        model.save_pretrained(part)
        _processor(made).save_pretrained(part)
        part.rename(folder_out)


def refusals(config: dict[str, Any]) -> list[str]:
    """Why a model of this `model_cfg` is no `CLIPModel`; empty where it is one."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision:
        return [f"its image tower is timm's {vision['timm_model_name']}"]
    if text.get("hf_model_name"):
        return ["its text tower is one of transformers, and CLIPModel has its own"]
    if isinstance(vision.get("layers"), list):
        return ["its image tower is a ResNet"]
    parts = (
        (config, _PLAIN_MODEL, ""),
        (vision, _PLAIN_VISION, "vision_cfg."),
        (text, _PLAIN_TEXT, "text_cfg."),
    )
    return [
        f"CLIPModel has nothing for {prefix}{key} = {value!r}"
        for values, plain, prefix in parts
        for key, value in values.items()
        if key not in plain and value
    ]


def _config(config: dict[str, Any]) -> Any:
    from transformers import CLIPConfig

    vision, text = config["vision_cfg"], config["text_cfg"]
    act = "quick_gelu" if config.get("quick_gelu") else "gelu"
    width, text_width = vision.get("width", 768), text.get("width", 512)
    return CLIPConfig(
        projection_dim=config["embed_dim"],
        vision_config={
            "image_size": vision.get("image_size", 224),
            "patch_size": vision.get("patch_size", 16),
            "hidden_size": width,
            "num_hidden_layers": vision.get("layers", 12),
            "num_attention_heads": width // vision.get("head_width", 64),
            "intermediate_size": int(width * vision.get("mlp_ratio", 4.0)),
            "hidden_act": act,
            "projection_dim": config["embed_dim"],
        },
        text_config={
            "vocab_size": text.get("vocab_size", 49408),
            "max_position_embeddings": text.get("context_length", 77),
            "hidden_size": text_width,
            "num_hidden_layers": text.get("layers", 12),
            "num_attention_heads": text.get("heads", 8),
            "intermediate_size": int(text_width * text.get("mlp_ratio", 4.0)),
            "hidden_act": act,
            "projection_dim": config["embed_dim"],
            "bos_token_id": text.get("vocab_size", 49408) - 2,
            "eos_token_id": text.get("vocab_size", 49408) - 1,
            "pad_token_id": text.get("vocab_size", 49408) - 1,
        },
    )


def clip_state(state: dict[str, Any]) -> dict[str, Any]:
    """open_clip's tensors under the names of transformers' `CLIPModel`."""
    found = {
        "logit_scale": state["logit_scale"],
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "text_projection.weight": state["text_projection"].T.contiguous(),
    }
    for key, value in state.items():
        if key in ("logit_scale", "visual.proj", "text_projection"):
            continue
        tower, names = (
            ("vision_model.", _VISION) if key.startswith("visual.") else ("text_model.", _TEXT)
        )
        name = key.removeprefix("visual.")
        for old, new in names:
            if name.startswith(old):
                name = new + name.removeprefix(old)
        for pattern, new in _BLOCKS:
            name = re.sub(pattern, new, name)
        found |= _split(tower + name, value)
    return found


def _split(name: str, value: Any) -> dict[str, Any]:
    """Query, key and value on their own."""
    if ".in_proj_" not in name:
        return {name: value}
    parts = zip("qkv", value.chunk(3), strict=True)
    return {name.replace("in_proj_", f"{each}_proj."): part.contiguous() for each, part in parts}


def _processor(made: Made) -> Any:
    from transformers import CLIPImageProcessor, CLIPProcessor, CLIPTokenizer

    size = made.preprocess.size
    images = CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=list(made.preprocess.mean),
        image_std=list(made.preprocess.std),
    )
    own = made.tokenizer
    names = {own.sot_token_id: "<|startoftext|>", own.eot_token_id: "<|endoftext|>"}
    tokenizer = CLIPTokenizer(
        vocab={names.get(number, word): number for word, number in own.encoder.items()},
        merges=list(own.bpe_ranks),
        model_max_length=made.settings.context_length,
    )
    processor: Any = CLIPProcessor  # its own types are incomplete
    return processor(image_processor=images, tokenizer=tokenizer)
