"""U-Net++: grey values in, logits of up to four heads out; prunable to any of them.

Zhou et al.: UNet++: A Nested U-Net Architecture for Medical Image Segmentation, DLMIA
2018, figure 1, and UNet++: Redesigning Skip Connections, IEEE TMI 2019. Node X[i, j]
lies at level i; it takes all X[i, k < j] and, from below, X[i+1, j-1] enlarged:

    X00 ─ X01 ─ X02 ─ X03 ─ X04      Heads sit on X01 … X04. Head d needs only the
      ╲  ╱  ╲  ╱  ╲  ╱  ╲  ╱         nodes with i + j ≤ d, so the network can be cut
      X10 ─ X11 ─ X12 ─ X13          to depth d without changing what that head says.
        ╲  ╱  ╲  ╱  ╲  ╱
        X20 ─ X21 ─ X22 …
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from napari_emseg.core.settings import Heads
from napari_emseg.core.tiles import Geometry
from napari_emseg.models.encoders import EncoderName, build_encoder
from napari_emseg.models.unet import BlockNormalisation, Convolutions, initialise
from napari_emseg.models.zoo import (
    Activation,
    ContextConfig,
    NetworkConfig,
    register,
)


class UNetPlusPlusConfig(ContextConfig):
    """Shape of a U-Net++; the paper's has base 32, depth 4 and no normalisation."""

    base: int = Field(
        16, ge=1, le=256, title="Width", description="Channels of the first level."
    )
    depth: int = Field(
        4, ge=1, le=4, title="Depth", description="Levels below the first one."
    )
    encoder: EncoderName = Field(
        "plain", title="Encoder", description="The contracting path."
    )
    normalisation: BlockNormalisation = Field(
        "batch", title="Normalisation", description="none is the paper's form."
    )
    heads: Literal["all", "last", "mean"] = Field(
        "all",
        title="Heads",
        description="all: heads 1…depth, the last one counts; last: there is no other; "
        "mean: heads 1…depth, their mean counts.",
    )


@register("unetpp")
class UNetPlusPlus(nn.Module):
    """The nested network of figure 1, with deep supervision."""

    Config: ClassVar[type[NetworkConfig]] = UNetPlusPlusConfig
    activation: ClassVar[Activation] = "sigmoid"

    def __init__(self, config: UNetPlusPlusConfig) -> None:
        super().__init__()
        self.config = config
        depth, norm = config.depth, config.normalisation
        self.encoder = build_encoder(
            config.encoder,
            base=config.base,
            levels=depth,
            normalisation=norm,
            context=config.context,
        )
        width = self.encoder.channels
        self.upsample, self.nodes = nn.ModuleDict(), nn.ModuleDict()
        for i, j in _nodes(depth):
            key = f"{i}_{j}"
            self.upsample[key] = nn.ConvTranspose2d(width[i + 1], width[i], 2, stride=2)
            # all j nodes before it on its level, and the one below
            # enlarged to this level's width
            n_in = (j + 1) * width[i]
            self.nodes[key] = Convolutions(n_in, width[i], normalisation=norm)
        first = depth if config.heads == "last" else 1
        self.heads = nn.ModuleDict(
            {
                str(d): nn.Conv2d(width[0], config.channels, 1)
                for d in range(first, depth + 1)
            }
        )
        self.apply(initialise)

    def supervised(self, x: Tensor) -> list[Tensor]:
        """Return the logits `(n, channels, y, x)` of each head, shallowest first."""
        node = {(i, 0): f for i, f in enumerate(self.encoder(x))}
        for i, j in _nodes(self.config.depth):
            key = f"{i}_{j}"
            below = self.upsample[key](node[i + 1, j - 1])
            skips = [node[i, k] for k in range(j)]
            node[i, j] = self.nodes[key](torch.cat([*skips, below], dim=1))
        # all heads are trained at once (Zhou 2018, deep
        # supervision); a 1 × 1 convolution each
        logits = [head(node[0, int(d)]) for d, head in self.heads.items()]
        if self.encoder.stem_stride == 1:
            return logits
        return [F.interpolate(out, scale_factor=2.0, mode="bilinear") for out in logits]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(n, channels, y, x)` for `(n, context, y, x)`.

        The last head's, or those of the mean of all heads' probabilities: the paper's
        fast and accurate modes.
        """
        heads = self.supervised(x)
        if self.config.heads != "mean":
            return heads[-1]
        mean = torch.stack([out.float().sigmoid() for out in heads]).mean(dim=0)
        # probabilities are averaged, not logits; back to logits,
        # since that is what networks give
        mean = mean.clamp(1e-7, 1 - 1e-7)
        return torch.log(mean / (1 - mean))

    @property
    def depths(self) -> tuple[int, ...]:
        """Depths of its heads."""
        return tuple(int(depth) for depth in self.heads)

    def pruned(self, depth: int, heads: Heads = "last") -> UNetPlusPlus:
        """Return a smaller network that gives exactly head `depth` of this one.

        With `heads="mean"` it keeps heads 1…depth and gives the mean of them.

        Raises
        ------
        ValueError
            If there is no head of that depth, or no other to average it with.
        """
        if depth not in self.depths:
            msg = f"depth must be one of {', '.join(self.heads)}, got {depth!r}"
            raise ValueError(msg)
        if heads == "mean" and self.depths[0] != 1:
            msg = f"there is no mean of heads, since only head {depth} is there"
            raise ValueError(msg)
        config = self.config.model_copy(update={"depth": depth, "heads": heads})
        small = UNetPlusPlus(config)
        state = self.state_dict()
        # nodes are named by (i, j), whatever the depth, so
        # the smaller network's are a part
        small.load_state_dict({key: state[key] for key in small.state_dict()})
        like = next(self.parameters())
        return small.to(like).train(self.training)

    @cached_property
    def geometry(self) -> Geometry:
        """Stride and context; they follow from the depth and the encoder."""
        depth, stem = self.config.depth, self.encoder.stem_stride
        first = 0 if stem == 1 else -1  # enlarging the logits looks one pixel further
        # as `unet._context`: the leftmost pixel seen, down along
        # X0d … Xd0, then up the encoder
        for _ in range(depth):
            first = (first - 2) // 2
        for level in range(depth, -1, -1):
            first = self.encoder.first(level, first)
        return Geometry(stem * 2**depth, -first)

    @property
    def bytes_per_pixel(self) -> float:
        """Peak memory of a float32 forward pass per pixel of the window."""
        # all nodes of the first level, their concatenation and the last node's output
        kept = 2 * (self.config.depth + 1) + 2
        size = 4.0 * kept * self.config.base * 1.5  # coarser levels add about half
        return size / self.encoder.stem_stride**2 + 4.0 * self.config.more_channels


def _nodes(depth: int) -> list[tuple[int, int]]:
    """Return decoder nodes (i, j) in the order they are computed."""
    return [(i, j) for j in range(1, depth + 1) for i in range(depth - j + 1)]
