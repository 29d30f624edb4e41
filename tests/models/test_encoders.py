from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from napari_emseg.models.encoders import BasicBlock
from napari_emseg.models.zoo import build


@pytest.mark.parametrize("shape", [(12, 12), (13, 10)])
def test_the_shortcut_equals_a_strided_convolution(shape) -> None:
    torch.manual_seed(0)
    block = BasicBlock(4, 8, 2).eval()
    x = torch.randn(2, 4, *shape)
    projection, norm = block.downsample
    inner = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
    strided = norm(F.conv2d(x, projection.weight, stride=2))
    torch.testing.assert_close(block(x), torch.relu(inner + strided))


@pytest.mark.parametrize("base", [4, 8])
def test_narrow_networks_train_channels_last(base: int) -> None:
    network = build("cenet", {"base": base}).to(memory_format=torch.channels_last)
    for _ in range(3):
        x = torch.randn(2, 1, 192, 192).to(memory_format=torch.channels_last)
        network(x).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())
