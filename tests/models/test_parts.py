from __future__ import annotations

import pytest
import torch

from napari_emseg.models.parts import (
    coarse_decoder,
    part_of,
    set_prior_bias,
    untrained_layers,
    with_classes,
    with_context,
)
from napari_emseg.models.zoo import build

SMALL = {
    "unet": {"base": 4, "levels": 2},
    "unetpp": {"base": 4, "depth": 2},
    "cenet": {"base": 4},
}


def small(architecture: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(architecture, SMALL[architecture]).eval()


@pytest.mark.parametrize("architecture", SMALL)
def test_every_network_has_all_three_parts(architecture: str) -> None:
    names = [name for name, _ in small(architecture).named_parameters()]
    assert {part_of(name) for name in names} == {"encoder", "decoder", "head"}


@pytest.mark.parametrize(
    ("architecture", "config", "side", "coarse"),
    [
        ("unet", {"base": 2}, 32, {"upsample.0", "upsample.1", "up.0", "up.1"}),
        ("unet", {"base": 2, "levels": 2}, 32, set()),
        # the paper's form loses pixels at every level, and is as deep
        (
            "unet",
            {"base": 2, "padding": "valid", "normalisation": "none"},
            284,
            {"upsample.0", "upsample.1", "up.0", "up.1"},
        ),
        (
            "unetpp",
            {"base": 4},
            32,
            {
                *("upsample.2_1", "upsample.3_1", "upsample.2_2"),
                *("nodes.2_1", "nodes.3_1", "nodes.2_2"),
            },
        ),
    ],
)
def test_the_coarse_decoder_works_at_a_quarter_of_the_resolution(
    architecture: str, config: dict[str, object], side: int, coarse: set[str]
) -> None:
    network = build(architecture, config)
    found = coarse_decoder(network, side)
    names = {name for name, module in network.named_modules() if module in found}
    assert {next((c for c in coarse if n.startswith(c)), n) for n in names} == coarse
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())


def test_the_encoder_and_the_head_are_never_coarse() -> None:
    network = small("cenet")
    found = coarse_decoder(network, 192)
    names = [name for name, module in network.named_modules() if module in found]
    assert {part_of(name) for name in names} == {"decoder"}
    assert not any(name.startswith("decoder.3.3") for name in names)


@pytest.mark.parametrize("architecture", SMALL)
def test_a_new_class_leaves_the_old_ones_as_they_were(architecture: str) -> None:
    network = small(architecture)
    wider = with_classes(network, architecture, SMALL[architecture], 3)
    image = torch.randn(1, 1, 192, 192)
    softmax = network.activation == "softmax"
    with torch.no_grad():
        for old, new in zip(
            network.supervised(image), wider.supervised(image), strict=True
        ):
            assert new.shape[1] == 3
            assert torch.equal(new[:, :2], old)
            ends = [x.softmax(1) if softmax else x.sigmoid() for x in (old, new)]
            assert torch.equal(ends[1][:, :2], ends[0])
            assert (ends[1][:, 2] < 1e-6).all()
        layers = untrained_layers(wider, 2)
        set_prior_bias(layers, 2, [-1.5])
        new = wider.supervised(image)[-1]
    assert torch.allclose(new[:, 2], torch.tensor(-1.5))
    assert torch.equal(new[:, :2], network.supervised(image)[-1])


def test_a_head_that_has_learnt_is_not_set_back() -> None:
    network = small("unet")
    before = network.head.bias.detach().clone()
    set_prior_bias(untrained_layers(network, 1), 1, [-1.5])
    assert torch.equal(network.head.bias, before)


def test_no_class_more_is_refused() -> None:
    with pytest.raises(ValueError, match="no layer to add a class to"):
        with_classes(small("unet"), "unet", SMALL["unet"], 2)


@pytest.mark.parametrize("architecture", SMALL)
def test_a_new_class_comes_before_the_affinities(architecture: str) -> None:
    torch.manual_seed(0)
    config = {**SMALL[architecture], "context": 3, "affinities": [[-1, 0, 0]]}
    network = build(architecture, config).eval()
    wider = with_classes(network, architecture, config, 3)
    image = torch.randn(1, 3, 192, 192)
    layers = untrained_layers(wider, 2)
    set_prior_bias(layers, 2, [-1.5])
    assert untrained_layers(wider, 2) == []
    with torch.no_grad():
        old, new = network(image), wider(image)
    torch.testing.assert_close(new[:, [0, 1, 3]], old)
    assert torch.allclose(new[:, 2], torch.tensor(-1.5))


@pytest.mark.parametrize("architecture", SMALL)
def test_a_wider_view_says_the_same_of_the_classes(architecture: str) -> None:
    network = small(architecture)
    more = {"context": 3, "affinities": [[-1, 0, 0], [0, -3, 0]]}
    wide = with_context(network, architecture, SMALL[architecture] | more)
    sections = torch.randn(1, 3, 192, 192)
    with torch.no_grad():
        one, three = network(sections[:, 1:2]), wide(sections)
    assert three.shape[1] == one.shape[1] + 2
    # sums over three channels, two of which are 0, may be in another order
    torch.testing.assert_close(three[:, :-2], one)
    wider = SMALL[architecture] | more | {"context": 5}
    with torch.no_grad():
        five = with_context(wide, architecture, wider)(
            torch.cat([torch.randn(1, 1, 192, 192), sections, sections[:, :1]], dim=1)
        )
    torch.testing.assert_close(five, three)


def test_a_ce_net_goes_on_with_finer_skips_from_what_it_says() -> None:
    network, picture = small("cenet"), torch.randn(1, 1, 192, 192)
    more = with_context(network, "cenet", SMALL["cenet"] | {"fine_skips": True})
    assert sum(p.numel() for p in more.parameters()) > sum(
        p.numel() for p in network.parameters()
    )
    torch.testing.assert_close(more(picture), network(picture))
    normal = with_context(network, "cenet", SMALL["cenet"] | {"normalised": True})
    kept = network.state_dict()
    assert all(torch.equal(normal.state_dict()[k], v) for k, v in kept.items())


@pytest.mark.parametrize(
    "config",
    [
        {"base": 8, "context": 3, "levels": 2},
        {"base": 4, "levels": 3, "context": 3},
        {"base": 4, "levels": 2},
    ],
)
def test_a_view_that_is_not_wider_is_refused(config: dict[str, int]) -> None:
    network = build("unet", {"base": 4, "levels": 2, "context": 3})
    with pytest.raises(ValueError, match=r"a unet .* is more than this network"):
        with_context(network, "unet", config)
