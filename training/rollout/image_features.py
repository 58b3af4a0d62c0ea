"""What a frozen vision tower makes of an image is made once a batch: each turn of an episode shows it again."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

FAMILIES = ("qwen2_vl", "qwen2_5_vl")  # whose language model takes nothing of an image but the pooled output


class ImageFeatures:
    """In place of a model's `get_image_features`: its output, where each image that was seen before is looked up.

    Images count as the same where their pixels are. It is right only while the vision tower's weights stay as they are.
    """

    def __init__(self, encode: Callable[..., Any]) -> None:
        self.encode = encode
        self.known: dict[Any, Tensor] = {}

    def __call__(self, pixel_values: Tensor, image_grid_thw: Tensor, **options: Any) -> BaseModelOutputWithPooling:
        """The features of images, each (tokens, hidden); `pixel_values` (patches, values), `image_grid_thw` (n, 3)."""
        images = torch.split(pixel_values, image_grid_thw.prod(-1).tolist())
        # A forward under autocast may have another precision than one without.
        mode = torch.is_autocast_enabled(pixel_values.device.type)
        keys = [(mode, *grid, digest(one)) for grid, one in zip(image_grid_thw.tolist(), images, strict=True)]
        new = {key: place for place, key in enumerate(keys) if key not in self.known}
        if new:
            places = list(new.values())
            seen = self.encode(torch.cat([images[place] for place in places]), image_grid_thw[places], **options)
            self.known |= zip(new, seen.pooler_output, strict=True)
        return BaseModelOutputWithPooling(pooler_output=[self.known[key] for key in keys])

    def forget(self) -> None:
        """Look up none of the images that were seen."""
        self.known.clear()


def digest(pixels: Tensor) -> bytes:
    """What tells images apart by their pixels."""
    return sha256(pixels.detach().contiguous().view(torch.uint8).cpu().numpy().data).digest()


def keep_image_features(model: Any) -> ImageFeatures | None:
    """Have a model of transformers look up the images that it has seen; None where it does not, and stays as it is.

    It does so where the vision tower is frozen, in the families of which that is known to change nothing.
    """
    inner = model.base_model
    if model.config.model_type not in FAMILIES or any(weight.requires_grad for weight in inner.visual.parameters()):
        return None
    inner.get_image_features = features = ImageFeatures(inner.get_image_features)
    return features
