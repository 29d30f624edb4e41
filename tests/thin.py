"""A network of one layer: dark is membrane. It can be slow, or fail, when asked to."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from napari_emseg.core.card import Card, DataSet
from napari_emseg.core.tiles import Geometry
from napari_emseg.models.weights import Weights, save_weights
from napari_emseg.models.zoo import Activation, NetworkConfig, register


class ThinConfig(NetworkConfig):
    delay_ms: int = 0
    failure: str = ""


@register("test-thin")
class Thin(nn.Module):
    """Mean of 3 × 3 pixels below 0.5 is membrane; very bright is the third class."""

    Config: ClassVar[type[NetworkConfig]] = ThinConfig
    activation: ClassVar[Activation] = "softmax"
    geometry = Geometry(stride=4, context=1)
    bytes_per_pixel = 16.0

    def __init__(self, config: ThinConfig) -> None:
        super().__init__()
        self.config = config
        self.layer = nn.Conv2d(1, config.n_classes, 3, padding=1)
        with torch.no_grad():
            self.layer.weight.zero_()
            self.layer.bias.zero_()
            self.layer.weight[0], self.layer.bias[0] = -20 / 9, 10.0
            # further classes: the brighter, the likelier, each less than the one before
            for k in range(2, config.n_classes):
                self.layer.weight[k], self.layer.bias[k] = 20 / 9, -8.0 - 4 * k

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.config.delay_ms / 1000)
        if self.config.failure:
            raise RuntimeError(self.config.failure)
        logits: Tensor = self.layer(x)
        return logits


def thin_weights(
    folder: Path,
    name: str = "thin",
    *,
    threshold: float = 0.5,
    pixel_size_nm: tuple[float, float] | None = None,
    delay_ms: int = 0,
    failure: str = "",
    further: tuple[str, ...] = (),
) -> Weights:
    """Save weights of the thin network, with `further` classes."""
    config = {"delay_ms": delay_ms, "failure": failure, "n_classes": 2 + len(further)}
    card = Card(
        name=name,
        summary="Dark is membrane.",
        architecture="test-thin",
        config=config,
        classes=("membrane", "inside", *further),
        threshold=threshold,
        pixel_size_nm=pixel_size_nm,
        scores={"v_rand": 0.5, "v_info": 0.6},
        held_out_data=(DataSet(name="drawings", sections="0-3"),),
        licence="BSD-3-Clause",
    )
    network = Thin(ThinConfig(**config))
    return save_weights(folder / f"{name}.safetensors", network.state_dict(), card)
