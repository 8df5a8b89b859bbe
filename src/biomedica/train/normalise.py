"""Pixels in a model's own scale, on its device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from biomedica.clip import Preprocess


class Normalise:
    """uint8 (B, 3, S, S) to float32, by the model's mean and deviation."""

    def __init__(self, preprocess: Preprocess, device: Any) -> None:
        self._device = device
        mean, std = (
            torch.tensor(each, device=device) for each in (preprocess.mean, preprocess.std)
        )
        self._mean, self._std = (each.view(1, 3, 1, 1) * 255 for each in (mean, std))

    def __call__(self, images: Tensor) -> Tensor:
        """Moved to the device first, while they are small."""
        images = images.to(self._device, non_blocking=True)
        return (images.float() - self._mean) / self._std
