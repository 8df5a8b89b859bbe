"""Encoders by name: pictures and captions to vectors of length 1.

    tiny                                colours and edges; no weights, for tests and for trying things out
    onnx:PATH                           an image model in ONNX; torch is not needed
    timm:NAME[,checkpoint=PATH]         an image model of timm
    open_clip:NAME[,pretrained=TAG]     a text-image model of open_clip (also `local-dir:` and `hf-hub:`)

A picture keeps its aspect: its longer side is made to fit and the rest padded (`pad`), or its shorter
side is made to fit and the rest cut off (`crop`). Size, mean, deviation and interpolation are the model's own.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biomedica.errors import ConfigError

Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float32]
Fit = Literal["pad", "crop"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How a picture becomes a model's input."""

    size: int
    """Side of the square, in pixels."""
    fit: Fit
    crop_share: float = 1.0
    """`crop`: the square's share of the shorter side (DINOv2: 224 of 256)."""
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Of red, green, blue in [0, 1]; subtracted and divided by."""

    def pixels(self, jpeg: bytes) -> Pixels:
        """Decode to (size, size, 3). Raises `OSError` or `ValueError` for bytes that are no picture."""
        side = self.size if self.fit == "pad" else round(self.size / self.crop_share)
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            width, height = image.size
            edge = max(width, height) if self.fit == "pad" else min(width, height)
            wanted = (
                max(1, round(width * side / edge)),
                max(1, round(height * side / edge)),
            )
            image.draft("RGB", (2 * wanted[0], 2 * wanted[1]))
            small = image.convert("RGB").resize(wanted, _INTERPOLATIONS[self.interpolation])
        place = (self.size - small.width) // 2, (self.size - small.height) // 2
        canvas = Image.new("RGB", (self.size, self.size), "white")
        canvas.paste(small, place)
        return np.asarray(canvas)

    def normalised(self, pixels_NHWC: Pixels) -> NDArray[np.float32]:
        """Pixels as (N, 3, H, W) in the model's own scale."""
        scale = np.float32(1 / 255) / np.array(self.std, np.float32)
        shift = np.array(self.mean, np.float32) / np.array(self.std, np.float32)
        scaled = pixels_NHWC * scale - shift
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=np.float32)


class Encoder(Protocol):
    """A model that stands in memory."""

    name: str
    """As it was asked for."""
    digest: str
    """SHA-256 over weights and preprocessing, in hex: same digest, same vectors."""
    dims: int
    preprocessing: Preprocessing

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
    raise ConfigError(
        f"unknown encoder {name!r}; known are tiny, onnx:PATH, timm:NAME and open_clip:NAME"
    )


def _no_texts(name: str) -> ConfigError:
    return ConfigError(f"{name} reads pictures only; captions need a model such as open_clip:NAME")


class TinyEncoder:
    """Colours of a 4 x 4 grid and directions of edges in a 2 x 2 grid: 80 numbers, no weights."""

    name = "tiny"
    dims = 80

    def __init__(self, fit: Fit) -> None:
        self.preprocessing = Preprocessing(size=64, fit=fit)
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
            fit=fit,
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


class TorchEncoder:
    """A model of timm or open_clip, by torch."""

    def __init__(
        self,
        name: str,
        model: Any,
        preprocessing: Preprocessing,
        device: str,
        encode_image: Any,
        encode_text: Any = None,
    ) -> None:
        import torch

        self.name = name
        self.preprocessing = preprocessing
        self._torch = torch
        self._device = torch_device(device)
        self._model = model.eval().to(self._device)
        self._image, self._text = encode_image, encode_text
        self.digest = _digest(_weights_digest(self._model), preprocessing)
        blank = np.zeros((1, preprocessing.size, preprocessing.size, 3), np.uint8)
        self.dims = self.images(blank).shape[1]

    def images(self, pixels_NHWC: Pixels) -> Vectors:
        inputs = self._torch.from_numpy(self.preprocessing.normalised(pixels_NHWC))
        with self._torch.inference_mode():
            found = self._image(self._model, inputs.to(self._device))
        return unit(found.float().cpu().numpy())

    def texts(self, texts: Sequence[str]) -> Vectors:
        if self._text is None:
            raise _no_texts(self.name)
        with self._torch.inference_mode():
            found = self._text(self._model, list(texts), self._device)
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
        fit=fit,
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
        fit=fit,
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
        lambda model, texts, place: model.encode_text(tokenizer(texts).to(place)),
    )


def _known_interpolation(name: str) -> str:
    return name if name in _INTERPOLATIONS else "bicubic"


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
