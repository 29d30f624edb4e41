"""Contracting paths: one picture in, one feature map per level out, coarser each time.

`plain` is U-Net's; `vgg16`, `vgg19` (Simonyan 2015) and `resnet34` (He 2016) are the
classifiers without their heads, for grey sections as channels. ResNet's stem halves
the picture at once: its level 0 is half as large as the input.
"""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from napari_emseg.models.unet import BlockNormalisation, Convolutions

EncoderName = Literal["plain", "vgg16", "vgg19", "resnet34"]

_VGG = {"plain": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_RESNET34 = (3, 4, 6, 3)


class PoolingEncoder(nn.Module):
    """Levels of 3×3 convolutions with 2×2 max pooling between them: plain or VGG."""

    stem_stride = 1

    def __init__(
        self,
        name: EncoderName,
        base: int,
        levels: int,
        normalisation: BlockNormalisation,
        context: int = 1,
    ) -> None:
        super().__init__()
        # VGG doesn't double its last stage: 64, 128, 256, 512, 512
        widest = 16 if name == "plain" else 8
        self.channels = [base * min(2**i, widest) for i in range(levels + 1)]
        self._counts = _VGG[name]
        n_in = [context, *self.channels[:-1]]
        self.stages = nn.ModuleList(
            Convolutions(a, b, n=self._counts[i], normalisation=normalisation)
            for i, (a, b) in enumerate(zip(n_in, self.channels, strict=True))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return features of each level, finest first."""
        features: list[Tensor] = []
        for stage in self.stages:
            x = stage(F.max_pool2d(x, 2) if features else x)
            features.append(x)
        return features

    def first(self, level: int, x: int) -> int:
        """First pixel, one level finer, that pixel `x` of `level` depends on."""
        return (2 if level else 1) * (x - self._counts[level])


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut (He 2016, figure 5 left)."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__()
        self._stride = stride
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, bias=False),
                nn.BatchNorm2d(n_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return `(n, n_out, y / stride, x / stride)`."""
        shortcut = x
        if self.downsample is not None:
            # equals a 1×1 convolution with this stride, whose training crashes PyTorch
            # 2.13 on a CPU: float32, channels last, up to 8 channels
            shortcut = self.downsample(x[..., :: self._stride, :: self._stride])
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet34Encoder(nn.Module):
    """Stem and up to four layers of ResNet-34; parameters named as in torchvision."""

    stem_stride = 2

    def __init__(self, base: int, levels: int, context: int = 1) -> None:
        super().__init__()
        self.channels = [base, *(base * 2**i for i in range(4))][: levels + 1]
        self.conv1 = nn.Conv2d(context, base, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self._layers: list[str] = []
        for i, n in enumerate(_RESNET34[:levels]):
            n_in, n_out = self.channels[i], self.channels[i + 1]
            blocks = [BasicBlock(n_in, n_out, 1 if i == 0 else 2)]
            blocks += [BasicBlock(n_out, n_out) for _ in range(n - 1)]
            self._layers.append(f"layer{i + 1}")
            self.add_module(self._layers[-1], nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return features of each level; level 0 is half as large as `x`."""
        features = [torch.relu(self.bn1(self.conv1(x)))]
        for i, name in enumerate(self._layers):
            below = features[-1]
            # ResNet's first step down is its max pooling, those
            # after are strided convolutions
            if i == 0:
                below = F.max_pool2d(below, 3, stride=2, padding=1)
            features.append(self.get_submodule(name)(below))
        return features

    def first(self, level: int, x: int) -> int:
        """First pixel, one level finer, that pixel `x` of `level` depends on."""
        if level == 0:
            return 2 * x - 3
        # two 3 × 3 convolutions a block; the strided one
        # among them is corrected for below
        x -= 2 * _RESNET34[level - 1]
        # the last step down: max pooling, or the first block's strided convolution
        return 2 * x - 1 if level == 1 else 2 * (x + 1) - 1


Encoder = PoolingEncoder | ResNet34Encoder


def build_encoder(
    name: EncoderName,
    *,
    base: int,
    levels: int,
    normalisation: BlockNormalisation = "batch",
    context: int = 1,
) -> Encoder:
    """Build an encoder with `levels` steps down; ResNet always normalises."""
    if name == "resnet34":
        return ResNet34Encoder(base, levels, context)
    return PoolingEncoder(name, base, levels, normalisation, context)


STEM = "conv1.weight"


def load_encoder(network: nn.Module, path: Path) -> None:
    """Load ImageNet weights of ResNet-34 into a network's encoder.

    The file has torchvision's names, as `.safetensors` or as `.pth` (of which only
    tensors are read). The first kernel is summed over its colours, since the same grey
    would be in all three, and shared out among the sections that are seen; the
    classifier's head is left out.

    Raises
    ------
    ValueError
        If the network's encoder is no ResNet-34, the file is damaged or something else,
        or its width (64 for torchvision's) isn't the network's; the first parameter
        that doesn't fit is named.
    OSError
        If it can't be read.
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, ResNet34Encoder):
        msg = (
            "encoder weights are of a ResNet-34, which this network's encoder is not; "
            "take cenet, or unetpp with encoder resnet34"
        )
        raise ValueError(msg)
    given = _tensors(path)
    state = {}
    for key, own in encoder.state_dict().items():
        value = given.get(key)
        if value is None and key.endswith("num_batches_tracked"):
            value = own  # old files have none; it counts training steps only
        if value is not None and key == STEM and value.ndim == 4:
            # sections share what the colours had, so that alike ones sum up to one
            seen = own.shape[1]
            value = value.sum(dim=1, keepdim=True).repeat(1, seen, 1, 1) / seen
        if value is None or value.shape != own.shape:
            has = "none" if value is None else f"{tuple(value.shape)}"
            msg = (
                f"{path.name} doesn't fit the encoder: {key} must be "
                f"{tuple(own.shape)}, file has {has}; the network's base is its width"
            )
            raise ValueError(msg)
        state[key] = value
    encoder.load_state_dict(state)


def _tensors(path: Path) -> Mapping[str, Tensor]:
    """Read named tensors; nothing else that may be in the file is run or built."""
    if not path.is_file():
        msg = f"no encoder weights at {path}"
        raise FileNotFoundError(msg)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, LookupError, RuntimeError, SafetensorError, UnpicklingError) as e:
        msg = f"{path.name} is damaged, or holds something else than tensors"
        raise ValueError(msg) from e
    if not isinstance(state, dict):
        msg = f"{path.name} holds no named tensors but {type(state).__name__}"
        raise ValueError(msg)
    return {str(k): v for k, v in state.items() if isinstance(v, Tensor)}
