"""Settings -> a text-image model in memory.

Nothing here asks a network where what is needed stands on this machine; where it doesn't, the error names the
folder to give and the command that fetches it.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from biomedica.clip.checkpoints import load_checkpoint
from biomedica.clip.designs import Design, first_line, open_clip_module, read_design
from biomedica.clip.image_towers import input_size, load_image_weights, resize_input
from biomedica.clip.locks import compute_twice, lock_image, lock_text
from biomedica.clip.settings import Made, ModelSettings, Preprocess
from biomedica.clip.text_towers import open_tokenizer, text_encoder
from biomedica.errors import ConfigError
from biomedica.models import torch_device

_PLACEHOLDER = {"context_length": 1, "vocab_size": 1, "width": 64, "heads": 1, "layers": 1}
_TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def build(
    settings: ModelSettings, *, seed: int = 0, device: str = "cpu", precision: str = "fp32"
) -> Made:
    """Make the model (ready to train), its tokenizer and its preprocessing. Raises `ConfigError` with what would do.

    seed        of all weights that no file gives; the caller's own random state is left as it was
    precision   type of the weights: `fp32`, or `bf16` and `fp16` to use a model (training under autocast keeps fp32)
    """
    import torch

    if precision not in _TYPES:
        raise ConfigError(f"precision is {precision!r}; known are {', '.join(_TYPES)}")
    design = read_design(settings)
    tokenizer = open_tokenizer(design, settings.tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = assemble(design, settings)
    made.model.to(device=torch_device(device), dtype=getattr(torch, _TYPES[precision]))
    made.model.train()  # transformers gives towers with weights without dropout, others with it
    return replace(made, tokenizer=tokenizer)


def assemble(design: Design, settings: ModelSettings, *, weights: bool = True) -> Made:
    """The model without its tokenizer, on torch's default device.

    weights   False: random ones everywhere, for counting on the meta device
    """
    model = _empty(design, settings, weights)
    vision = design.config["vision_cfg"]
    trunk = model.visual.trunk if "timm_model_name" in vision else None
    size = vision.get("image_size") or (input_size(trunk) if trunk is not None else 224)
    if weights and settings.image_weights not in ("none", "pretrained"):
        if trunk is None or settings.name:
            raise ConfigError(
                "model.image_weights is for image_tower; `pretrained` brings those of a name"
            )
        load_image_weights(trunk, Path(settings.image_weights), size)
    if weights and design.checkpoint:
        load_checkpoint(model, design.checkpoint)
    if trunk is not None:  # after its weights, which were made at its own size
        resize_input(trunk, size)
        model.visual.image_size = (size, size)
        vision["image_size"] = size
    _set_up(model, settings)
    preprocess = _preprocess(model, design, settings)
    context = int(design.config["text_cfg"].get("context_length", 77))
    resolved = replace(settings, image_size=preprocess.size, context_length=context)
    return Made(
        model=model, tokenizer=None, preprocess=preprocess, settings=resolved, config=design.config
    )


def _empty(design: Design, settings: ModelSettings, weights: bool) -> Any:
    """The architecture, its towers with weights of their own where settings ask for those."""
    open_clip = open_clip_module()
    config = copy.deepcopy(design.config)
    custom = config.pop("custom_text", False)
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision:
        own = design.folder / "image_tower" if design.folder else None
        if own and own.is_dir():
            vision["timm_model_name"] = f"local-dir:{own}"
        vision["timm_model_pretrained"] = weights and settings.image_weights == "pretrained"
    name = text.get("hf_model_name")
    if name:
        config["text_cfg"] = _PLACEHOLDER
    try:
        model = (open_clip.CustomTextCLIP if custom or name else open_clip.CLIP)(**config)
    except Exception as error:  # timm and open_clip pass on whatever their parts and the hub raise
        raise _cannot_make(vision, settings, error) from error
    if name:  # open_clip cannot be handed a shape that stands in no folder, nor ModernBERT
        load = weights and design.checkpoint is None and settings.text_weights == "pretrained"
        model.text = text_encoder(design, weights=load and bool(settings.text_tower))
        model.context_length, model.vocab_size = model.text.context_length, model.text.vocab_size
    return model


def _cannot_make(vision: dict[str, Any], settings: ModelSettings, error: Exception) -> ConfigError:
    tower = vision.get("timm_model_name", settings.name)
    hint = ""
    if vision.get("timm_model_pretrained"):
        repository = "timm/" + str(tower)
        hint = (
            f". Its weights come from the hub; where there is a network: hf download {repository} "
            "--local-dir FOLDER, then image_weights = 'FOLDER/model.safetensors'"
        )
    return ConfigError(f"{tower} cannot be made: {first_line(error)}{hint}")


def _set_up(model: Any, settings: ModelSettings) -> None:
    if settings.lock_image:
        lock_image(model, settings.unlocked_image_groups)
    if settings.lock_text:
        lock_text(model, settings.unlocked_text_layers)
    if settings.grad_checkpointing:
        compute_twice(model)


def _preprocess(model: Any, design: Design, settings: ModelSettings) -> Preprocess:
    from open_clip.model import set_model_preprocess_cfg
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    values = dict(design.preprocess)
    if settings.image_tower and settings.image_normalisation == "tower":
        own = model.visual.trunk.default_cfg
        values |= {"mean": tuple(own["mean"]), "std": tuple(own["std"])}
    values["size"] = _side(model.visual.image_size)
    values = merge_preprocess_dict(PreprocessCfg(), values)
    set_model_preprocess_cfg(model, values)
    return Preprocess(
        size=_side(values["size"]),
        mean=tuple(values["mean"]),
        std=tuple(values["std"]),
        interpolation=str(values["interpolation"]),
    )


def _side(size: int | tuple[int, int]) -> int:
    if isinstance(size, int):
        return size
    if size[0] != size[1]:
        raise ConfigError(
            f"the image tower takes {size[0]} x {size[1]} pixels; a square is expected"
        )
    return int(size[0])
