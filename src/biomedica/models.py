"""Encoders by name: pictures and captions to vectors of length 1.

    tiny                                colours and edges; no weights, for tests and for trying things out
    onnx:PATH                           an image model in ONNX; torch is not needed
    timm:NAME[,checkpoint=PATH]         an image model of timm
    open_clip:NAME[,pretrained=TAG]     a text-image model of open_clip (also `local-dir:` and `hf-hub:`)
    transformers:FOLDER                 a text-image model of transformers (CLIP, SigLIP), or its name on a hub

A picture keeps its aspect: its longer side is made to fit and the rest padded (`pad`), or its shorter
side is made to fit and the rest cut off (`crop`); or it does not (`squash`). `own` is what the model was
made with. Size, mean, deviation and interpolation are the model's own too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biomedica.errors import ConfigError
from biomedica.preprocessing import INTERPOLATIONS, Fit, Pixels, Preprocessing

Vectors = NDArray[np.float32]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Encoder(Protocol):
    """A model that stands in memory."""

    name: str
    """As it was asked for."""
    digest: str
    """SHA-256 over weights, layers and preprocessing, in hex: same digest, same vectors but for rounding."""
    dims: int
    preprocessing: Preprocessing
    text_digest: str
    """SHA-256 over `digest` and what the tokenizer makes of some words; empty: it reads no text."""
    scale: float
    """What the model multiplies cosines by before a softmax; 100 where it has none of its own."""

    def images(self, pixels_NHWC: Pixels) -> Vectors:
        """(N, D), each row of length 1. pixels_NHWC   as `preprocessing.pixels` makes them"""
        ...

    def texts(self, texts: Sequence[str]) -> Vectors:
        """(N, D), each row of length 1. Raises `ConfigError` where the model reads no text."""
        ...


def unit(vectors_ND: Vectors) -> Vectors:
    """Rows scaled to length 1; a row of zeros stays."""
    norms_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return np.asarray(vectors_ND / np.maximum(norms_N1, 1e-12), dtype=np.float32)


def short_name(name: str) -> str:
    """A name for files: the model without its kind, path and ending.

    >>> short_name("onnx:/models/dinov2_vits14.onnx"), short_name("open_clip:ViT-B-16,pretrained=x")
    ('dinov2_vits14', 'ViT-B-16-x')
    """
    kind, _, rest = name.partition(":")
    if kind == "onnx":
        rest = Path(rest).stem
    words = re.sub(r",\w+=", "-", rest or kind)
    words = Path(words).name if kind == "open_clip" else words
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", words).strip("-.") or kind


def open_encoder(
    name: str, *, device: str = "cpu", fit: Fit = "pad", pooling: str = "cls"
) -> Encoder:
    """Load a model by name (see above). Raises `ConfigError` with what would do.

    device    `cpu`, `cuda`, `cuda:1`
    pooling   `cls` or `mean`, for ONNX models that give a vector for each token
    """
    kind, _, rest = name.partition(":")
    if kind == "tiny" and not rest:
        return TinyEncoder(fit)
    if kind == "onnx" and rest:
        return OnnxEncoder(Path(rest), device, fit, pooling)
    if kind == "timm" and rest:
        return _open_timm(name, rest, device, fit)
    if kind == "open_clip" and rest:
        return _open_clip(name, rest, device, fit)
    if kind == "transformers" and rest:
        return _open_transformers(name, rest, device, fit)
    raise ConfigError(
        f"unknown encoder {name!r}; known are tiny, onnx:PATH, timm:NAME, open_clip:NAME and "
        "transformers:FOLDER"
    )


def _fit(asked: Fit, own: Fit = "crop") -> Fit:
    return own if asked == "own" else asked


def _no_texts(name: str) -> ConfigError:
    return ConfigError(f"{name} reads pictures only; captions need a model such as open_clip:NAME")


class TinyEncoder:
    """Colours of a 4 x 4 grid and directions of edges in a 2 x 2 grid: 80 numbers, no weights."""

    name = "tiny"
    dims = 80
    text_digest = ""
    scale = 100.0

    def __init__(self, fit: Fit) -> None:
        self.preprocessing = Preprocessing(size=64, fit=_fit(fit, "pad"))
        self.digest = _digest(b"tiny 1", self.preprocessing)

    def images(self, pixels_NHWC: Pixels) -> Vectors:
        count = len(pixels_NHWC)
        values = pixels_NHWC.astype(np.float32) / 255
        colours = values.reshape(count, 4, 16, 4, 16, 3).mean(axis=(2, 4)).reshape(count, -1)
        gray = values.mean(axis=3)
        down = np.diff(gray, axis=1, append=gray[:, -1:, :])
        right = np.diff(gray, axis=2, append=gray[:, :, -1:])
        strength = np.hypot(down, right)
        direction = np.floor((np.arctan2(down, right) / np.pi + 1) * 4).astype(np.int64) % 8
        edges = [
            np.where(direction == each, strength, 0).reshape(count, 2, 32, 2, 32).mean(axis=(2, 4))
            for each in range(8)
        ]
        return unit(np.concatenate([colours - 0.5, 4 * np.stack(edges, -1).reshape(count, -1)], 1))

    def texts(self, texts: Sequence[str]) -> Vectors:
        raise _no_texts(self.name)


class OnnxEncoder:
    """An image model in ONNX, by onnxruntime."""

    text_digest = ""
    scale = 100.0

    def __init__(self, path: Path, device: str, fit: Fit, pooling: str) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ConfigError("onnx: needs pip install 'biomedica[annotate]'") from None
        if not path.is_file():
            raise ConfigError(f"{path}: no such ONNX file")
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), providers=_providers(device, onnxruntime.get_available_providers())
            )
        except ConfigError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no other base
            raise ConfigError(f"{path} cannot be read as ONNX: {error}") from error
        self.name = f"onnx:{path}"
        self._input = self._session.get_inputs()[0]
        shape = self._input.shape
        if len(shape) != 4 or shape[1] != 3:
            raise ConfigError(f"{path} takes {shape}; (N, 3, height, width) is expected")
        size = shape[2] if isinstance(shape[2], int) else 224
        self._batch = shape[0] if isinstance(shape[0], int) else None
        self._pooling = pooling
        self.preprocessing = Preprocessing(
            size=size,
            fit=_fit(fit),
            crop_share=0.875,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )
        with path.open("rb") as file:
            weights = hashlib.file_digest(file, "sha256").digest()
        self.digest = _digest(weights + pooling.encode(), self.preprocessing)
        self.dims = self.images(np.zeros((1, size, size, 3), np.uint8)).shape[1]

    def images(self, pixels_NHWC: Pixels) -> Vectors:
        batch = self._batch or len(pixels_NHWC)
        parts = [
            self._run(pixels_NHWC[start : start + batch])
            for start in range(0, len(pixels_NHWC), batch)
        ]
        return unit(np.concatenate(parts))

    def _run(self, pixels_NHWC: Pixels) -> Vectors:
        count = len(pixels_NHWC)
        if self._batch:  # a model of a fixed batch: fill it up
            blank = np.zeros((self._batch - count, *pixels_NHWC.shape[1:]), np.uint8)
            pixels_NHWC = np.concatenate([pixels_NHWC, blank])
        inputs = self.preprocessing.normalised(pixels_NHWC)
        found = np.asarray(self._session.run(None, {self._input.name: inputs})[0][:count])
        if found.ndim == 3:
            found = found[:, 0] if self._pooling == "cls" else found.mean(axis=1)
        return found.reshape(count, -1).astype(np.float32)

    def texts(self, texts: Sequence[str]) -> Vectors:
        raise _no_texts(self.name)


def _providers(device: str, available: list[str]) -> list[str]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in available:
        raise ConfigError(
            f"device {device}: this onnxruntime has only {', '.join(available)}; "
            "pip install onnxruntime-gpu, or take --device cpu"
        )
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]


_PROBE = "Chest X-ray, 3 µm H&E: IL-6/TNF-α (CD8+) in naïve mice; pneumonia? [A] 12.5 kDa"
"""Words that different tokenizers cut in different ways."""


class TorchEncoder:
    """A model of timm, open_clip or transformers, by torch.

    tokenize   texts to a mapping with `input_ids`, which `encode_text` takes
    """

    def __init__(
        self,
        name: str,
        model: Any,
        preprocessing: Preprocessing,
        device: str,
        encode_image: Any,
        encode_text: Any = None,
        tokenize: Any = None,
        scale: float = 100.0,
    ) -> None:
        import torch

        self.name = name
        self.preprocessing = preprocessing
        self._torch = torch
        self.device = torch_device(device)
        self.model = model.eval().to(self.device)
        self._image, self._text, self.tokenize = encode_image, encode_text, tokenize
        self.scale = scale
        self.digest = _digest(_weights_digest(self.model) + _layers(self.model), preprocessing)
        self.text_digest = ""
        if tokenize is not None:
            probe = tokenize([_PROBE])["input_ids"].tolist()
            self.text_digest = hashlib.sha256(f"{self.digest} {probe}".encode()).hexdigest()
        blank = np.zeros((1, preprocessing.size, preprocessing.size, 3), np.uint8)
        self.dims = self.images(blank).shape[1]

    def images(self, pixels_NHWC: Pixels) -> Vectors:
        inputs = self._torch.from_numpy(self.preprocessing.normalised(pixels_NHWC))
        with self._torch.inference_mode():
            found = self._image(self.model, inputs.to(self.device))
        return unit(found.float().cpu().numpy())

    def texts(self, texts: Sequence[str]) -> Vectors:
        if self._text is None:
            raise _no_texts(self.name)
        with self._torch.inference_mode():
            tokens = self.tokenize(list(texts))
            tokens = {name: each.to(self.device) for name, each in tokens.items()}
            found = self._text(self.model, tokens)
        return unit(found.float().cpu().numpy())


def torch_device(device: str) -> Any:
    """A device by name. Raises `ConfigError` where there is none such."""
    import torch

    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device {device!r}: {str(error).splitlines()[0]}") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device}: torch finds no GPU here; cpu would do")
    return found


def _weights_digest(model: Any) -> bytes:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.flatten().view(_bytes_type()).numpy().data)
    return digest.digest()


def _layers(model: Any) -> bytes:
    """What a model does with its weights: the type of each layer, and what it was made with.

    Two models may have the same weights and say something else: `QuickGELU`, the pooling of tokens, the
    epsilon of a norm.
    """
    lines = []
    for name, layer in model.named_modules():
        kind = type(layer)
        lines.append(f"{name} {kind.__module__}.{kind.__qualname__} {layer.extra_repr()}")
        if kind.__module__.startswith("torch.") and layer.extra_repr():
            continue  # which tells all of it; its other attributes change with versions of torch
        lines += [
            f"{name} {attribute}={getattr(value, '__qualname__', value)!r}"
            for attribute, value in sorted(vars(layer).items())
            if attribute != "training" and attribute[0] != "_" and _is_plain(value)
        ]
    return "\n".join(lines).encode()


def _is_plain(value: object) -> bool:
    """A setting that is written the same way each time: a number, a word, several of them, a function."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    is_function = callable(value) and hasattr(value, "__qualname__")
    return is_function or isinstance(value, bool | int | float | str | None)


def _bytes_type() -> Any:
    import torch

    return torch.uint8


def _options(rest: str, known: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """`NAME,a=b` in its parts."""
    name, *words = rest.split(",")
    options = dict(word.partition("=")[::2] for word in words)
    for option in options:
        if option not in known:
            raise ConfigError(f"unknown option {option!r} of an encoder; known are {known}")
    return name, options


def _open_timm(name: str, rest: str, device: str, fit: Fit) -> Encoder:
    try:
        import timm
        import torch
        from timm.data.config import resolve_model_data_config
    except ImportError:
        raise ConfigError("timm: needs pip install 'biomedica[train]'") from None
    model_name, options = _options(rest, ("checkpoint", "pretrained"))
    checkpoint = options.get("checkpoint", "")
    pretrained = not checkpoint and options.get("pretrained") != "none"
    torch.manual_seed(0)  # weights of `pretrained=none`
    try:
        model = timm.create_model(
            model_name, pretrained=pretrained, num_classes=0, checkpoint_path=checkpoint
        )
    except Exception as error:  # timm passes on whatever its hub raises
        raise _cannot_load(name, error) from error
    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    preprocessing = Preprocessing(
        size=int(config["input_size"][1]),
        fit=_fit(fit),
        crop_share=float(config["crop_pct"]),
        interpolation=_known_interpolation(config["interpolation"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    return TorchEncoder(name, model, preprocessing, device, lambda model, x: model(x))


def _open_clip(name: str, rest: str, device: str, fit: Fit) -> Encoder:
    try:
        import open_clip
        import torch
    except ImportError:
        raise ConfigError("open_clip: needs pip install 'biomedica[train]'") from None
    model_name, options = _options(rest, ("pretrained",))
    tag = options.get("pretrained")
    torch.manual_seed(0)  # weights of `pretrained=none`
    try:
        model = open_clip.create_model(model_name, pretrained=None if tag == "none" else tag)
        tokenizer = open_clip.get_tokenizer(model_name)
    except Exception as error:  # open_clip passes on whatever its hub raises
        raise _cannot_load(name, error) from error
    if tag is None and ":" not in model_name:
        raise ConfigError(f"{name} states no weights: add ,pretrained=TAG or a path (or none)")
    config = open_clip.get_model_preprocess_cfg(model)
    size = config["size"]
    preprocessing = Preprocessing(
        size=int(size if isinstance(size, int) else size[0]),
        fit=_fit(fit, _RESIZE_MODES.get(config.get("resize_mode", "shortest"), "crop")),
        interpolation=_known_interpolation(config.get("interpolation", "bicubic")),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    return TorchEncoder(
        name,
        model,
        preprocessing,
        device,
        lambda model, x: model.encode_image(x),
        lambda model, tokens: model.encode_text(tokens["input_ids"]),
        lambda texts: {"input_ids": tokenizer(texts)},
        _scale(model),
    )


_RESIZE_MODES: dict[str, Fit] = {"shortest": "crop", "squash": "squash", "longest": "pad"}
"""open_clip's names."""


def _scale(model: Any) -> float:
    scale = getattr(model, "logit_scale", None)
    return 100.0 if scale is None else float(scale.detach().exp())


def _open_transformers(name: str, rest: str, device: str, fit: Fit) -> Encoder:
    try:
        import torch
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
    except ImportError:
        raise ConfigError("transformers: needs pip install 'biomedica[train]'") from None
    images: Any = AutoImageProcessor
    try:
        model = AutoModel.from_pretrained(rest, dtype=torch.float32)
        processor = images.from_pretrained(rest)
        tokenizer: Any = AutoTokenizer.from_pretrained(rest)
    except Exception as error:  # transformers passes on whatever its hub raises
        raise _cannot_load(name, error) from error
    if not hasattr(model, "get_image_features"):
        raise ConfigError(f"{name} is a {type(model).__name__}; a text-image model is expected")
    text = model.config.text_config
    options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    options["max_length"] = min(int(text.max_position_embeddings), 512)
    if "clip" in model.config.model_type and "siglip" not in model.config.model_type:
        options["padding"] = "longest"
    return TorchEncoder(
        name,
        model,
        _their_preprocessing(processor, fit),
        device,
        lambda model, x: _pooled(model.get_image_features(pixel_values=x)),
        lambda model, tokens: _pooled(model.get_text_features(**tokens)),
        lambda texts: dict(tokenizer(texts, **options)),
        _scale(model),
    )


def _their_preprocessing(processor: Any, fit: Fit) -> Preprocessing:
    """What an image processor of transformers states."""
    size = dict(processor.size)
    crop = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else {}
    short = size.get("shortest_edge") or size["height"]
    side = crop.get("height") or short
    own: Fit = "crop" if "shortest_edge" in size else "squash"
    fit = _fit(fit, own)
    return Preprocessing(
        size=int(side),
        fit=fit,
        crop_share=side / short if fit == "crop" else 1.0,
        interpolation=Image.Resampling(int(processor.resample)).name.lower(),
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
    )


def _pooled(found: Any) -> Any:
    """The vectors, which later versions of transformers wrap."""
    return getattr(found, "pooler_output", found)


def _known_interpolation(name: str) -> str:
    return name if name in INTERPOLATIONS else "bicubic"


def _cannot_load(name: str, error: Exception) -> ConfigError:
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return ConfigError(
        f"{name} cannot be loaded: {said}. Weights that stand on this machine need no network: give "
        "checkpoint=PATH (timm) or pretrained=PATH or local-dir:PATH (open_clip)"
    )


def _digest(weights: bytes, preprocessing: Preprocessing) -> str:
    return hashlib.sha256(
        weights + repr(sorted(asdict(preprocessing).items())).encode()
    ).hexdigest()
