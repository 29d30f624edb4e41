"""What the networks are built of."""

from __future__ import annotations

from math import prod, sqrt
from typing import Literal

from torch import nn

Padding = Literal["same", "valid"]
BlockNormalisation = Literal["batch", "none"]


class Convolutions(nn.Sequential):
    """`n` times a 3×3 convolution, normalisation and ReLU: `(n_in, y, x)` → `n_out`."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        n: int = 2,
        normalisation: BlockNormalisation = "batch",
        padding: Padding = "same",
    ) -> None:
        batch = normalisation == "batch"
        layers: list[nn.Module] = []
        for k in range(n):
            a, p = (n_out if k else n_in), (1 if padding == "same" else 0)
            layers.append(nn.Conv2d(a, n_out, 3, padding=p, bias=not batch))
            if batch:
                layers.append(nn.BatchNorm2d(n_out))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


def initialise(module: nn.Module) -> None:
    """Draw weights from N(0, √(2/N)), N the number of incoming nodes.

    Ronneberger 2015, section 3; for use with `nn.Module.apply`.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        seen = float(prod(module.kernel_size))
        if isinstance(module, nn.ConvTranspose2d):
            # e.g. one input for each output pixel of a 2×2 kernel with stride 2
            seen /= prod(module.stride)
        nn.init.normal_(module.weight, std=sqrt(2 / (module.in_channels * seen)))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
