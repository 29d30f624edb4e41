from __future__ import annotations

import pytest
import torch

from napari_emseg.models.unetpp import UNetPlusPlus
from napari_emseg.models.zoo import build


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.fixture
def network() -> UNetPlusPlus:
    torch.manual_seed(0)
    network = build("unetpp", {"base": 2}).eval()
    assert isinstance(network, UNetPlusPlus)
    return network


def test_paper_form_has_the_published_number_of_parameters() -> None:
    paper = build("unetpp", {"base": 32, "normalisation": "none", "n_classes": 1})
    assert parameters(paper) == 9_041_700
    pruned = [parameters(paper.pruned(d)) for d in (1, 2, 3)]
    assert pruned == [100_961, 511_105, 2_204_961]


@pytest.mark.parametrize("encoder", ["plain", "vgg16", "vgg19", "resnet34"])
def test_pruned_gives_exactly_its_head(encoder: str) -> None:
    torch.manual_seed(0)
    whole = build("unetpp", {"base": 2, "encoder": encoder}).eval()
    picture = torch.rand(1, 1, 64, 96)
    with torch.inference_mode():
        heads = whole.supervised(picture)
        for depth, head in enumerate(heads, start=1):
            assert head.shape == (1, 2, 64, 96)
            assert torch.equal(whole.pruned(depth)(picture), head)


def test_pruning_to_a_missing_head_is_refused(network: UNetPlusPlus) -> None:
    with pytest.raises(ValueError, match="must be one of 1, 2, 3, 4, got 5"):
        network.pruned(5)
    with pytest.raises(ValueError, match="must be one of 2, got 1"):
        network.pruned(2).pruned(1)


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_mean_of_heads_averages_probabilities(
    network: UNetPlusPlus, depth: int
) -> None:
    picture = torch.rand(1, 1, 32, 32)
    small = network.pruned(depth, "mean")
    with torch.inference_mode():
        heads = network.supervised(picture)
        assert torch.equal(network(picture), heads[-1])
        mean = torch.stack([head.sigmoid() for head in heads[:depth]]).mean(dim=0)
        torch.testing.assert_close(small(picture).sigmoid(), mean)
    assert small.depths == tuple(range(1, depth + 1))


def test_a_single_head_has_no_mean(network: UNetPlusPlus) -> None:
    with pytest.raises(ValueError, match="only head 2 is there"):
        network.pruned(2).pruned(2, "mean")


@pytest.mark.parametrize("encoder", ["plain", "vgg16", "vgg19", "resnet34"])
@pytest.mark.parametrize("depth", [1, 2])
def test_context_is_what_a_pixel_depends_on(encoder: str, depth: int) -> None:
    """The gradient of a cell's pixels reaches as far as geometry says, not farther."""
    torch.manual_seed(0)
    config = {"base": 2, "encoder": encoder, "depth": depth}
    network = build("unetpp", config).double().eval()
    for parameter in network.parameters():
        parameter.data.abs_()  # so that no ReLU hides a dependence
    stride, context = network.geometry.stride, network.geometry.context
    start = network.geometry.halo + stride
    before = after = 0
    for pixel in range(start, start + stride):
        for _ in range(4):  # max pooling passes on one pixel of four
            picture = torch.rand(1, 1, 2 * start + stride, stride).double()
            picture.requires_grad_()
            output = network(picture)[0, 0, pixel, 0]
            (gradient,) = torch.autograd.grad(output, picture)
            rows = gradient[0, 0].abs().sum(dim=1).nonzero()
            before = max(before, start - int(rows.min()))
            after = max(after, int(rows.max()) - (start + stride - 1))
    assert before == context
    assert after <= context
