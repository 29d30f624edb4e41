from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from napari_emseg.models.cenet import CENet, DenseAtrousConvolutions
from napari_emseg.models.forward import in_range
from napari_emseg.models.zoo import build
from napari_emseg.training.patches import check_patch


@pytest.fixture
def network() -> CENet:
    torch.manual_seed(0)
    network = build("cenet", {"base": 4}).eval()
    assert isinstance(network, CENet)
    return network


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_paper_form_has_as_many_parameters_as_its_parts_add_up_to() -> None:
    """ResNet-34 less its head, three 3×3 and one 1×1 of 512, a 1×1, and so on."""
    paper = build("cenet", {"base": 64, "n_classes": 1})
    assert isinstance(paper, CENet)
    of_three_channels = 2 * 64 * 7 * 7
    head = 512 * 1000 + 1000
    assert parameters(paper.encoder) == 21_797_672 - head - of_three_channels
    assert parameters(paper.dac) == 3 * (9 * 512**2 + 512) + 512**2 + 512
    assert parameters(paper.rmp) == 512 + 1
    assert parameters(paper) + of_three_channels == 29_003_093  # 29.0 M in the paper


def test_branches_see_3_7_9_and_19_pixels() -> None:
    torch.manual_seed(0)
    block = DenseAtrousConvolutions(2).double()
    for parameter in block.parameters():
        parameter.data.abs_()  # so that no ReLU hides a dependence
    x = torch.rand(1, 2, 31, 31, dtype=torch.float64, requires_grad=True)
    seen = []
    for branch in block.branches(x):
        (gradient,) = torch.autograd.grad(
            branch[0, :, 15, 15].sum(), x, retain_graph=True
        )
        rows = gradient[0].abs().sum(dim=(0, 2)).nonzero()
        columns = gradient[0].abs().sum(dim=(0, 1)).nonzero()
        assert int(rows.min() + rows.max()) == 2 * 15
        assert torch.equal(rows, columns)
        seen.append(int(rows.max() - rows.min()) + 1)
    assert seen == [3, 7, 9, 19]


def test_pooled_maps_are_put_before_the_features(network: CENet) -> None:
    """Channels 0–3 are constant over a pooling window as large as the features."""
    features = torch.rand(1, 32, 6, 6)
    out = network.rmp(features)
    assert out.shape == (1, 36, 6, 6)
    assert torch.equal(out[:, 4:], features)
    largest = features.amax(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(out[:, 3:4], network.rmp.mix(largest).expand(1, 1, 6, 6))
    assert out[0, 0].std() > 0


@pytest.mark.parametrize("shape", [(192, 192), (192, 256), (352, 224)])
def test_logits_are_as_large_as_the_window(
    network: CENet, shape: tuple[int, int]
) -> None:
    with torch.inference_mode():
        assert network(torch.rand(2, 1, *shape)).shape == (2, 2, *shape)


def test_cascades_begin_about_as_strong_as_their_input() -> None:
    """With √2 too much in each of four steps the longest would drown the others."""
    torch.manual_seed(0)
    network = build("cenet", {"base": 8})
    assert isinstance(network, CENet)
    with torch.inference_mode():
        branches = network.dac.branches(torch.randn(1, 64, 24, 24))
    strength = [float(branch.square().mean().sqrt()) for branch in branches]
    assert all(0.35 < s < 1.4 for s in strength), strength  # 0.7 behind a ReLU


WITH_MORE = {"base": 4, "normalised": True, "fine_skips": True}


def test_a_normalised_middle_gives_the_same_however_large_its_weights() -> None:
    torch.manual_seed(0)
    block = DenseAtrousConvolutions(8, normalised=True).train()
    x = torch.randn(2, 8, 24, 24)
    convolutions = block.near, block.middle, block.far, block.mix
    for layer in convolutions:
        nn.init.zeros_(layer.bias)
    before = block(x)
    with torch.no_grad():
        for layer in convolutions:
            layer.weight.mul_(1000)
    torch.testing.assert_close(block(x), before, rtol=0, atol=0.02)


@torch.inference_mode()
def test_normalised_branches_of_any_size_are_brought_into_range() -> None:
    torch.manual_seed(0)
    block = DenseAtrousConvolutions(8, normalised=True)
    x, largest = torch.randn(2, 8, 24, 24), []
    for layer in (block.near, block.middle, block.far, block.mix):
        layer.weight.mul_(60)
        layer.bias.normal_()
        layer.register_forward_hook(
            lambda _, __, given: largest.append(float(given.abs().max()))
        )
    for norm in block.norms:
        norm.momentum = 1.0
    block.train()(x)
    wanted = block.eval()(x)
    assert max(largest) > 65504  # where float16 ends
    largest.clear()
    block.scale_branches()
    torch.testing.assert_close(block(x), wanted, rtol=1e-4, atol=1e-4)
    assert max(largest) < 1000


def test_fine_skips_see_what_two_pixels_of_the_stem_can_not_tell() -> None:
    """A checkerboard has a mean of 0 in each 2 × 2 of the stem's stride."""
    torch.manual_seed(0)
    network = build("cenet", WITH_MORE)
    assert isinstance(network, CENet)
    assert isinstance(network.finest, nn.Conv2d)
    weights, picture = network.finest.weight, torch.rand(1, 1, 192, 192)
    assert not weights.any()  # begun, it says what it said without them
    logits = network.eval()(picture)
    with torch.no_grad():
        weights[:, :, 1, 1] = 1.0
        assert not torch.allclose(network(picture), logits)


def test_configurations_without_more_are_written_as_before() -> None:
    assert build("cenet", {"base": 4}).config.model_dump() == {
        "n_classes": 2,
        "base": 4,
    }
    kept = build("cenet", WITH_MORE).config.model_dump()
    assert kept == {"n_classes": 2} | WITH_MORE


def test_patches_for_which_a_pooling_window_is_too_large_are_refused() -> None:
    check_patch(CENet.geometry, 192)
    with pytest.raises(ValueError, match="the nearest are 192 and 224"):
        check_patch(CENet.geometry, 160)


def inflated(network: CENet) -> CENet:
    """As if learning had let the middle grow, by 50 in each convolution."""
    network = deepcopy(network)
    with torch.no_grad():
        for layer in (m for m in network.dac.children() if isinstance(m, nn.Conv2d)):
            layer.weight.mul_(50)
            layer.bias.normal_()
        network.decoder[0][1].momentum = 1.0
        network.train()(torch.rand(4, 1, 192, 192))
    return network.eval()


@torch.inference_mode()
def largest_and_logits(network: CENet, window: torch.Tensor) -> tuple[float, Any]:
    """Return the largest number that goes into the decoder, and what comes out."""
    seen: list[float] = []
    hook = network.decoder[0].register_forward_pre_hook(
        lambda _, given: seen.append(float(given[0].abs().max()))
    )
    logits = network(window)
    hook.remove()
    return seen[0], logits


def test_a_grown_middle_is_scaled_and_says_the_same(network: CENet) -> None:
    window = torch.rand(1, 1, 192, 192)
    grown = inflated(network)
    before, wanted = largest_and_logits(grown, window)
    scaled = in_range(grown)
    assert isinstance(scaled, CENet)
    after, found = largest_and_logits(scaled, window)
    assert before > 65504 > 2 * after  # where float16 ends
    assert torch.equal(found, wanted)  # a power of two changes no digit
    # weights that are folded into one are not too small for eight bits
    first = fuse_conv_bn_eval(scaled.decoder[0][0], scaled.decoder[0][1])
    assert first.weight.abs().max() > 8e-5
    _, again = largest_and_logits(in_range(scaled), window)
    assert torch.equal(again, wanted)


@pytest.mark.parametrize("variance", [1.0, 0.0, torch.inf, torch.nan])
def test_an_ordinary_or_broken_middle_stays(network: CENet, variance: float) -> None:
    network.decoder[0][1].running_var.fill_(variance)
    nn.init.constant_(network.rmp.mix.weight, 1 / network.rmp.mix.in_channels)
    before = deepcopy(network.state_dict())
    after = in_range(network).state_dict()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0, equal_nan=True)


@torch.inference_mode()
def test_pooled_maps_are_as_large_as_the_features_beside_them(network: CENet) -> None:
    """One scale for both, as int8 has it, leaves nothing of the smaller."""
    nn.init.uniform_(network.rmp.mix.weight, 1, 3)
    window, features = torch.rand(1, 1, 192, 192), torch.rand(1, 32, 6, 6)
    scaled = in_range(network)
    assert torch.equal(scaled(window), network(window))
    assert isinstance(scaled, CENet)
    assert network.rmp(features)[:, :4].max() > 30
    assert 0.1 < scaled.rmp(features)[:, :4].max() < 2


def test_a_copy_is_scaled(network: CENet) -> None:
    grown = inflated(network)
    before = deepcopy(grown.state_dict())
    in_range(grown)
    assert all(torch.equal(v, before[k]) for k, v in grown.state_dict().items())
