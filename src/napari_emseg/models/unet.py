"""U-Net: grey values in, logits of membrane and inside out.

Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image
Segmentation, MICCAI 2015, figure 1. `padding="valid", normalisation="none", base=64` is
the paper's form; `padding="same"` with batch normalisation and a narrower base is the
everyday one.
"""

from functools import cached_property, partial
from math import prod, sqrt
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from napari_emseg.core.tiles import Geometry
from napari_emseg.models.zoo import (
    Activation,
    ContextConfig,
    NetworkConfig,
    register,
)

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
        # strides of a transposed kernel share its inputs
        # out: each output pixel sees fewer
        if isinstance(module, nn.ConvTranspose2d):
            # e.g. one input for each output pixel of a 2×2 kernel with stride 2
            seen /= prod(module.stride)
        nn.init.normal_(module.weight, std=sqrt(2 / (module.in_channels * seen)))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class UNetConfig(ContextConfig):
    """Shape of a U-Net."""

    base: int = Field(
        16, ge=1, le=256, title="Width", description="Channels of the first level."
    )
    levels: int = Field(
        4, ge=1, le=6, title="Levels", description="Number of poolings by two."
    )
    padding: Padding = Field(
        "same", title="Padding", description="valid is the paper's form."
    )
    normalisation: BlockNormalisation = Field(
        "batch", title="Normalisation", description="none is the paper's form."
    )
    dropout: float = Field(
        0.5,
        ge=0,
        lt=1,
        title="Drop-out",
        description="At the end of the contracting path.",
    )


@register("unet")
class UNet(nn.Module):
    """The network of figure 1."""

    Config: ClassVar[type[NetworkConfig]] = UNetConfig
    activation: ClassVar[Activation] = "softmax"

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width = [config.base * 2**level for level in range(config.levels + 1)]
        n_in = [config.context, *width[:-1]]
        convolutions = partial(
            Convolutions,
            normalisation=config.normalisation,
            padding=config.padding,
        )
        self.down = nn.ModuleList(
            convolutions(a, b) for a, b in zip(n_in, width, strict=True)
        )
        self.dropout = nn.Dropout2d(config.dropout)
        self.upsample = nn.ModuleList(
            nn.ConvTranspose2d(2 * n, n, 2, stride=2) for n in reversed(width[:-1])
        )
        # 2 n in: the skip and what was upsampled, one after the other
        self.up = nn.ModuleList(convolutions(2 * n, n) for n in reversed(width[:-1]))
        self.head = nn.Conv2d(config.base, config.channels, 1)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(n, channels, y', x')` for `(n, context, y, x)`."""
        return self._logits(x, [0] * (self.config.levels + 1))

    def inner(self, x: Tensor) -> Tensor:
        """Return the logits of a window less its margin, which are right everywhere.

        The expanding path computes no more than they depend on: a quarter less work.
        """
        if self.config.padding == "valid":
            return self._logits(x, [0] * (self.config.levels + 1))
        return self._logits(x, _cuts(self.config.levels, self.geometry.halo))

    def _logits(self, x: Tensor, cuts: list[int]) -> Tensor:
        """Cut so much off each side before every upsampling and the head."""
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            # "at the end of the contracting path" (section 3.1) is
            # taken for its two coarsest levels
            if level >= self.config.levels - 1:
                x = self.dropout(x)
            skips.append(x)
        x = skips.pop()
        for upsample, block, cut in zip(self.upsample, self.up, cuts[:-1], strict=True):
            x = upsample(_without_border(x, cut))
            # the skip first: files of weights depend on this order
            x = block(torch.cat([_crop(skips.pop(), x), x], dim=1))
        logits: Tensor = self.head(_without_border(x, cuts[-1]))
        return logits

    def supervised(self, x: Tensor) -> list[Tensor]:
        """Return the one output."""
        return [self(x)]

    @cached_property
    def geometry(self) -> Geometry:
        """Stride and context that follow from the number of levels."""
        levels = self.config.levels
        stride = 2**levels
        if self.config.padding == "valid":
            # 3 × 3 kernels without padding lose 2 px a block at each level; for 4
            # levels 92 px on each side, the paper's 572 → 388
            return Geometry(stride, 2 * (3 * stride - 2), "valid", remainder=4)
        return Geometry(stride, _context(levels))

    @property
    def bytes_per_pixel(self) -> float:
        """Peak memory of a float32 forward pass per pixel of the window."""
        # first level: skip, concatenation (two widths), a block's input and output
        config = self.config
        return 4.0 * (6 * config.base + config.n_classes + config.more_channels)


def _context(levels: int) -> int:
    """Pixels beyond a cell of the pooling grid that a `same` network depends on.

    Follows the leftmost pixel seen, from the output down to the coarsest level (two
    convolutions, then the parent pixel) and back up to the input (first child, two
    convolutions).
    """
    first = 0
    for _ in range(levels):
        # two convolutions reach 2 px to the left; the parent of
        # pixel p is p // 2, also below 0
        first = (first - 2) // 2
    first -= 2
    for _ in range(levels):
        # the first child of pixel p is 2 p
        first = 2 * first - 2
    return -first


def _cuts(levels: int, halo: int) -> list[int]:
    """Pixels to cut off each side before every upsampling and the head, coarsest first.

    Follows the first pixel that is needed from the output down: two padded convolutions
    are wrong in the two outermost pixels, and each pixel has its parent.
    """
    needed = [halo]
    for _ in range(levels):
        needed.append((needed[-1] - 2) // 2)
    starts = [2 * first for first in needed[1:]] + [0]  # the coarsest is computed whole
    return [first - start for first, start in zip(needed, starts, strict=True)][::-1]


def _without_border(x: Tensor, width: int) -> Tensor:
    if width == 0:
        return x
    return x[:, :, width : x.shape[2] - width, width : x.shape[3] - width]


def _crop(skip: Tensor, like: Tensor) -> Tensor:
    """Cut the middle out of `skip`, as large as `like` (no-op for `same`)."""
    dy, dx = (a - b for a, b in zip(skip.shape[2:], like.shape[2:], strict=True))
    if dy == dx == 0:
        return skip
    y, x = dy // 2, dx // 2
    return skip[:, :, y : y + like.shape[2], x : x + like.shape[3]]
