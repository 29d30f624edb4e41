from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_emseg.models.unet import UNet
from napari_emseg.models.zoo import build

PAPER = {"base": 64, "padding": "valid", "normalisation": "none"}


def small(**config: object) -> UNet:
    torch.manual_seed(0)
    network = build("unet", {"base": 2, **config}).eval()
    assert isinstance(network, UNet)
    return network


def test_paper_form_has_the_published_number_of_parameters() -> None:
    paper = build("unet", PAPER)
    assert sum(p.numel() for p in paper.parameters()) == 31_030_658


def test_paper_form_makes_388_px_of_572() -> None:
    with torch.device("meta"):
        paper = build("unet", PAPER)
        assert paper(torch.empty(1, 1, 572, 572)).shape == (1, 2, 388, 388)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("normalisation", ["batch", "none"])
def test_same_form_keeps_the_size(levels: int, normalisation: str) -> None:
    network = small(levels=levels, normalisation=normalisation, n_classes=3)
    side = 2 * 2**levels
    with torch.inference_mode():
        assert network(torch.rand(2, 1, side, 3 * side)).shape == (2, 3, side, 3 * side)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_valid_form_loses_its_context_on_each_side(levels: int) -> None:
    network = small(levels=levels, padding="valid")
    geometry = network.geometry
    for k in (0, 1, 2):
        kept = geometry.remainder + k * geometry.stride
        side = kept + 2 * geometry.context
        with torch.inference_mode():
            assert network(torch.rand(1, 1, side, side)).shape[2:] == (kept, kept)


def test_levels_halve_the_picture_and_double_the_channels() -> None:
    network = small(base=4, levels=3)
    seen: list[tuple[int, ...]] = []
    for block in network.down:
        block.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[1:]))
    with torch.inference_mode():
        network(torch.rand(1, 1, 32, 32))
    assert seen == [(4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)]


def reach(network: UNet, rows: slice, side: int) -> tuple[int, int]:
    """First and last input row that the output rows depend on."""
    picture = torch.rand(1, 1, side, side).double().requires_grad_()
    output = network(picture)[0, 0, rows].sum()
    (gradient,) = torch.autograd.grad(output, picture)
    seen = gradient[0, 0].abs().sum(dim=1).nonzero()
    return int(seen.min()), int(seen.max())


def seeing_everything(network: UNet, monkeypatch: pytest.MonkeyPatch) -> UNet:
    """Let no ReLU and no maximum hide a dependence."""

    def mean_pool(x: Tensor, side: int) -> Tensor:
        return F.avg_pool2d(x, side)

    monkeypatch.setattr("napari_emseg.models.unet.F.max_pool2d", mean_pool)
    for parameter in network.parameters():
        parameter.data.abs_()
    return network.double()


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_context_is_what_a_cell_of_the_grid_depends_on(
    levels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = seeing_everything(small(levels=levels, base=1), monkeypatch)
    stride, context = network.geometry.stride, network.geometry.context
    start = network.geometry.halo + stride
    side = 2 * start + stride
    first, last = reach(network, slice(start, start + stride), side)
    assert start - first == context
    assert last - (start + stride - 1) == context


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_context_of_the_valid_form(
    levels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = small(levels=levels, base=1, padding="valid", normalisation="none")
    network = seeing_everything(network, monkeypatch)
    geometry = network.geometry
    side = geometry.remainder + 2 * geometry.stride + 2 * geometry.context
    first, last = reach(network, slice(None), side)
    assert (first, last) == (0, side - 1)


def test_dropout_is_at_the_end_of_the_contracting_path() -> None:
    network = small(base=4, levels=2, dropout=0.9).train()
    dropped: list[float] = []

    def measure(_module: object, _inputs: object, out: Tensor) -> None:
        dropped.append(float((out.abs().sum(dim=(2, 3)) == 0).float().mean()))

    network.dropout.register_forward_hook(measure)
    network(torch.rand(8, 1, 16, 16))
    assert len(dropped) == 2
    assert min(dropped) > 0.6
    picture = torch.rand(1, 1, 16, 16)
    assert torch.equal(network.eval()(picture), network(picture))


def test_weights_are_drawn_by_their_incoming_nodes() -> None:
    torch.manual_seed(0)
    network = build("unet", {"base": 32, "levels": 2})
    assert isinstance(network, UNet)
    convolution = network.down[1][3]
    nodes = convolution.in_channels * 9
    assert float(convolution.weight.detach().std()) == pytest.approx(
        (2 / nodes) ** 0.5, rel=0.1
    )


def test_a_class_more_is_a_channel_more() -> None:
    with torch.inference_mode():
        assert small(n_classes=4)(torch.rand(1, 1, 32, 32)).shape[1] == 4
