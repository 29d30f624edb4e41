"""CE-Net: grey values in, logits of membrane and inside out.

Gu et al.: CE-Net: Context Encoder Network for 2D Medical Image Segmentation, IEEE TMI
2019, figure 2, with what the authors' code adds to it: the branches of a block share
their convolutions. `base=64` is the paper's form.

    ResNet-34 ─ DAC ─ RMP ─ decoder ─ tail     DAC sees 3, 7, 9 and 19 pixels, RMP
     │  │  └──────────────(+)  │               pools over 2, 3, 5 and 6, both at 1/32
     │  └─────────────────(+)  │               of the picture's size. The encoder's
     └────────────────────(+)──┘               features are added, not concatenated.

Pooling windows begin at the window's corner and their maps are stretched over it, so
the result depends on the tile: tiles of this network are blended.
"""

from math import inf, log2, sqrt
from typing import Any, ClassVar

import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer
from torch import Tensor, nn
from torch.nn import functional as F

from napari_emseg.core.tiles import Geometry
from napari_emseg.models.encoders import ResNet34Encoder
from napari_emseg.models.unet import initialise
from napari_emseg.models.zoo import (
    Activation,
    ContextConfig,
    NetworkConfig,
    register,
)

POOLING = (2, 3, 5, 6)
"""Windows of the residual multi-kernel pooling, in pixels of 1/32."""

STRIDE = 32

ADDED = "normalised", "fine_skips"
"""Settings that the paper's network has not."""

SPREAD = 2**8
"""Standard deviation of what the middle gives once scaled; float16 ends at 65,504."""

MAPS = 1
"""Most times as large as the features that a pooled map may be, once scaled."""

HALO, BLEND = 64, 32
"""Zero padding shows up to 24 px from a window's border; beyond that only pooling."""


class CENetConfig(ContextConfig):
    """Shape of a CE-Net."""

    base: int = Field(
        32,
        ge=4,
        le=128,
        multiple_of=4,
        title="Width",
        description="Channels of ResNet-34's first stage; 64 is the paper's form.",
    )
    normalised: bool = Field(
        False,
        title="Normalised middle",
        description="Batch normalisation behind the dilated convolutions, which the "
        "paper has not: without it what they give may grow while the network learns.",
    )
    fine_skips: bool = Field(
        False,
        title="Fine skips",
        description="Skips at half and at full resolution, too, for thin membranes; "
        "the paper's finest is at a quarter.",
    )

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # programs that know nothing of these refuse a configuration that names them
        values = self._only_what_is_used(handler)
        return {k: v for k, v in values.items() if k not in ADDED or v}


class DenseAtrousConvolutions(nn.Module):
    """Figure 3, DAC: four cascades of dilated convolutions, added to their input."""

    def __init__(self, n: int, *, normalised: bool = False) -> None:
        super().__init__()
        self.near = nn.Conv2d(n, n, 3, padding=1)
        self.middle = nn.Conv2d(n, n, 3, padding=3, dilation=3)
        self.far = nn.Conv2d(n, n, 3, padding=5, dilation=5)
        self.mix = nn.Conv2d(n, n, 1)
        # one for each branch, since branches that share convolutions differ in scale
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(n) if normalised else nn.Identity() for _ in range(4)
        )

    def branches(self, x: Tensor) -> list[Tensor]:
        """Return the four branches, whose receptive fields are 3, 7, 9 and 19."""
        near = self.near(x)
        # Gu et al. 2019, figure 3. `near` and `middle` are shared between branches, as
        # in the authors' code; the figure has convolutions of their own for each.
        both = self.middle(near)
        cascades = (near, *map(self.mix, (self.middle(x), both, self.far(both))))
        return [
            torch.relu(norm(branch))
            for norm, branch in zip(self.norms, cascades, strict=True)
        ]

    def scale_branches(self) -> None:
        """Scale what normalised convolutions give; the branches stay as they are.

        Weights from before a normalisation may be of any size, and those of four
        convolutions multiply: float16 ends at 65,504.
        """
        norms = [m for m in self.norms if isinstance(m, nn.BatchNorm2d)]
        spreads = [_spread(norm) for norm in norms]
        if not norms or not SPREAD < max(spreads) < inf or min(spreads) == 0:
            return
        near, _, both, far = spreads
        # the middle one and the last lie behind each other in three branches
        m, f = 2.0 ** round(log2(near / both) / 2), 2.0 ** round(log2(both / far))
        with torch.no_grad():
            for norm, by in zip(norms[1:], (m * m, m * m, m * m * f), strict=True):
                if norm.running_mean is not None and norm.running_var is not None:
                    # a bias before a normalisation does nothing, but
                    # that of `mix` would need a scale for each branch
                    if self.mix.bias is not None:
                        norm.running_mean.sub_(self.mix.bias)
                    norm.running_mean.mul_(by)
                    norm.running_var.mul_(by**2)
            layers = (self.middle, m, m), (self.far, f, m * f), (self.mix, m, 0.0)
            for layer, by, bias_by in layers:
                layer.weight.mul_(by)
                if layer.bias is not None:
                    layer.bias.mul_(bias_by)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(n, c, y, x)` of the same shape."""
        # the authors' code adds the branches to the input, as a residual block
        for branch in self.branches(x):
            x = x + branch
        return x


class ResidualMultiKernelPooling(nn.Module):
    """Figure 4, RMP: `(n, c, y, x)` → `(n, c + 4, y, x)`."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(n, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Pool in four sizes, take one channel of each, stretch it and put it in."""
        maps = [
            # one 1 × 1 convolution for all four sizes, as in the authors' code
            F.interpolate(self.mix(F.max_pool2d(x, size)), x.shape[2:], mode="bilinear")
            for size in POOLING
        ]
        return torch.cat([*maps, x], dim=1)


class DecoderBlock(nn.Sequential):
    """1×1 to a quarter of the channels, transposed 3×3 to twice the size, 1×1."""

    def __init__(self, n_in: int, n_out: int) -> None:
        n = n_in // 4
        super().__init__(
            nn.Conv2d(n_in, n, 1),
            nn.BatchNorm2d(n),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(n, n, 3, stride=2, padding=1, output_padding=1),
            nn.BatchNorm2d(n),
            nn.ReLU(inplace=True),
            nn.Conv2d(n, n_out, 1),
            nn.BatchNorm2d(n_out),
            nn.ReLU(inplace=True),
        )


@register("cenet")
class CENet(nn.Module):
    """The network of figure 2."""

    Config: ClassVar[type[NetworkConfig]] = CENetConfig
    activation: ClassVar[Activation] = "sigmoid"
    geometry: ClassVar[Geometry] = Geometry(
        STRIDE, HALO, blend=BLEND, smallest=STRIDE * max(POOLING)
    )

    def __init__(self, config: CENetConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ResNet34Encoder(config.base, levels=4, context=config.context)
        width = self.encoder.channels
        self.dac = DenseAtrousConvolutions(width[4], normalised=config.normalised)
        self.rmp = ResidualMultiKernelPooling(width[4])
        n_in = [width[4] + len(POOLING), width[3], width[2], width[1]]
        n_out = [width[3], width[2], width[1], width[0]]
        self.decoder = nn.ModuleList(map(DecoderBlock, n_in, n_out))
        n = config.base // 2
        self.tail = nn.Sequential(
            nn.ConvTranspose2d(width[0], n, 4, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(n, n, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(n, config.channels, 3, padding=1),
        )
        self.fine: nn.Module | None = None
        self.finest: nn.Module | None = None
        if config.fine_skips:
            self.fine = nn.Conv2d(width[0], width[0], 1)
            self.finest = nn.Conv2d(config.context, n, 3, padding=1)
        self.apply(initialise)
        self.dac.apply(_keep_variance)
        for skip in (self.fine, self.finest):
            # so that weights without them go on from what they say
            if isinstance(skip, nn.Conv2d):
                nn.init.zeros_(skip.weight)
        self._scale = 1.0

    def scale_middle(self) -> None:
        """Scale what the middle computes by a power of two; results stay the same.

        Nothing normalises between DAC's convolutions, so that what they give may grow
        while the network learns, to 10⁸ in `em-membranes`: float16 overflows, and the
        weights behind it, with a normalisation folded in, are too small for int8. All
        of it is proportional to what goes in, biases apart, and the normalisation
        behind takes any scale out again. RMP's maps are brought to the size of the
        features that they are put before: int8 has one scale for both.
        """
        self._scale_maps()
        if self.config.normalised:
            self.dac.scale_branches()
            return
        behind = next(
            m for m in self.decoder.modules() if isinstance(m, nn.BatchNorm2d)
        )
        mean, variance = behind.running_mean, behind.running_var
        if mean is None or variance is None:
            return
        spread = float(variance.max().sqrt())
        if not SPREAD < spread < inf:
            return
        scale = 2.0 ** round(log2(SPREAD / spread))
        first = next(m for m in self.decoder.modules() if isinstance(m, nn.Conv2d))
        middle = [m for m in self.dac.children() if isinstance(m, nn.Conv2d)]
        self._scale *= scale
        with torch.no_grad():
            for layer in (*middle, self.rmp.mix, first):
                if layer.bias is not None:
                    layer.bias.mul_(scale)
            mean.mul_(scale)
            variance.mul_(scale**2)

    def _scale_maps(self) -> None:
        """Divide RMP's maps by a power of two, and multiply what weighs them by it."""
        mix = self.rmp.mix
        most = float(
            mix.weight.detach().abs().sum()
        )  # times as large as what is pooled
        if not MAPS < most < inf:
            return
        scale = 2.0 ** round(log2(MAPS / most))
        first = next(m for m in self.decoder.modules() if isinstance(m, nn.Conv2d))
        with torch.no_grad():
            mix.weight.mul_(scale)
            if mix.bias is not None:
                mix.bias.mul_(scale)
            first.weight[:, : len(POOLING)].div_(scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(n, channels, y, x)` for `(n, context, y, x)`."""
        # level 0, the stem at half the size, is no skip in
        # the paper: the last decoder block has none
        picture = x
        stem, *skips, x = self.encoder(x)
        if self._scale != 1:
            x = x * self._scale
        x = self.rmp(self.dac(x))
        for block, skip in zip(self.decoder[:-1], reversed(skips), strict=True):
            x = block(x) + skip
        x = self.decoder[-1](x)
        if self.fine is not None:
            x = x + self.fine(stem)
        x = self.tail[0](x)
        if self.finest is not None:
            x = x + self.finest(picture)
        logits: Tensor = self.tail[1:](x)
        return logits

    def supervised(self, x: Tensor) -> list[Tensor]:
        """Return the one output."""
        return [self(x)]

    @property
    def bytes_per_pixel(self) -> float:
        """Peak memory of a float32 forward pass per pixel of the window."""
        # the tail, in two arrays of half the width, while the step before it is held;
        # 127, 242, 487 bytes were measured with PyTorch at widths 16, 32, 64
        config = self.config
        # with fine skips the stem's features and one array more: 272 at width 32
        width = 2.5 * config.base if config.fine_skips else 2.0 * config.base
        return 4.0 * (width + config.n_classes + config.more_channels)


def _spread(norm: nn.BatchNorm2d) -> float:
    """Return the largest standard deviation of what is normalised."""
    return 0.0 if norm.running_var is None else float(norm.running_var.max().sqrt())


def _keep_variance(module: nn.Module) -> None:
    """Draw weights from N(0, √(1/N)): no ReLU lies between these convolutions.

    With N(0, √(2/N)) a cascade of four would start 16 times as strong as its input.
    """
    if isinstance(module, nn.Conv2d):
        y, x = module.kernel_size
        nn.init.normal_(module.weight, std=sqrt(1 / (module.in_channels * y * x)))
