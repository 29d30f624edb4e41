from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from one_pass import predict_picture
from torch import Tensor, nn

from napari_emseg.core.tiles import Geometry
from napari_emseg.models.forward import to_probabilities
from napari_emseg.models.zoo import (
    affinities_of,
    build,
    context_of,
    network_class,
)


class Mean3(nn.Module):
    """Logits of the mean over 3 × 3 px: one layer, zero padding at the border."""

    activation = "sigmoid"
    geometry = Geometry(1, 1)
    bytes_per_pixel = 8.0

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        nn.init.constant_(self.layer.weight, 1 / 9)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x)
        return logits


def mirrored(picture: np.ndarray, width: int) -> np.ndarray:
    return np.pad(picture, width, mode="reflect")


@given(shape=st.tuples(st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 99))
def test_borders_are_mirrored(shape: tuple[int, int], seed: int) -> None:
    picture = np.random.default_rng(seed).random(shape, dtype=np.float32)
    padded = mirrored(picture, 1)
    height, width = shape
    mean = sum(
        padded[y : y + height, x : x + width] for y in range(3) for x in range(3)
    )
    wanted = 1 / (1 + np.exp(-mean / 9))
    found = predict_picture(Mean3().eval(), picture)
    assert found.shape == (2, *shape)
    np.testing.assert_allclose(found[0], wanted, atol=1e-6)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (33, 50), (64, 64)])
def test_equals_the_network_on_the_mirrored_picture(
    padding: str, shape: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    config = {"base": 2, "levels": 2, "padding": padding, "normalisation": "none"}
    network = build("unet", config).eval()
    picture = np.random.default_rng(0).random(shape, dtype=np.float32)
    found = predict_picture(network, picture)
    assert found.shape == (2, *shape)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    # 64 px is more than any halo here, and a multiple of the stride
    margin = 64
    rows, columns = (-(-n // 4) * 4 for n in shape)
    big = torch.from_numpy(mirrored(picture, margin + 4))[None, None, 4:, 4:]
    big = big[:, :, : rows + 2 * margin, : columns + 2 * margin]
    if padding == "valid":
        context, last = network.geometry.context, network.geometry.remainder
        lead = margin - context  # cells of the pooling grid begin where they did
        size = [n + last + 2 * context for n in (rows, columns)]
        big = big[:, :, lead : lead + size[0], lead : lead + size[1]]
        margin = 0
    with torch.inference_mode():
        whole = network(big).softmax(dim=1)[0].numpy()
    y, x = (slice(margin, margin + n) for n in shape)
    np.testing.assert_allclose(found, whole[:, y, x], atol=1e-5)


def test_the_network_decides_how_logits_end() -> None:
    logits = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    soft = to_probabilities(logits, build("unet", {"base": 1, "levels": 1}))
    np.testing.assert_allclose(soft.ravel(), torch.softmax(logits.ravel(), 0))
    each = to_probabilities(logits, Mean3())
    np.testing.assert_allclose(each.ravel(), torch.sigmoid(logits.ravel()))
    assert to_probabilities(logits.half(), Mean3()).dtype == torch.float32


OFFSETS = [[-1, 0, 0], [0, -9, 0]]


@pytest.mark.parametrize("architecture", ["unet", "unetpp", "cenet"])
def test_affinities_are_probabilities_of_their_own(architecture: str) -> None:
    shape = {"context": 5, "affinities": OFFSETS, "base": 4}
    network = build(architecture, shape).eval()
    assert (context_of(network), len(affinities_of(network))) == (5, 2)
    with torch.no_grad():
        logits = network(torch.randn(1, 5, 192, 192))
    assert logits.shape[1] == 4
    found = to_probabilities(logits, network)
    torch.testing.assert_close(found[:, 2:], logits[:, 2:].sigmoid())
    if architecture == "unet":
        torch.testing.assert_close(found[:, :2], logits[:, :2].softmax(dim=1))


def test_a_pruned_network_sees_and_says_what_the_whole_does() -> None:
    shape = {"context": 3, "affinities": OFFSETS, "base": 2, "depth": 2}
    network = build("unetpp", shape).eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        for depth, heads in ((1, "last"), (2, "mean")):
            part = network.pruned(depth, heads)
            assert (context_of(part), len(affinities_of(part))) == (3, 2)
            assert part(image).shape == (1, 4, 32, 32)


def test_what_is_not_used_is_not_in_a_configuration() -> None:
    config = network_class("unet").Config
    # programs that don't know these names refuse them
    assert not {"context", "affinities"} & config().model_dump().keys()
    used = config(context="3", affinities=OFFSETS).model_dump(mode="json")
    assert (used["context"], used["affinities"]) == (3, OFFSETS)


@pytest.mark.parametrize(
    "affinities", [[[0, 0, 0]], [[0, 0, 65]], [[0, 1, 0]] * 2, [[0, 1]]]
)
def test_offsets_that_say_nothing_are_refused(affinities: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="unet: affinities"):
        build("unet", {"affinities": affinities})


@pytest.mark.parametrize("context", [0, 2, 7])
def test_a_network_sees_one_three_or_five_sections(context: int) -> None:
    with pytest.raises(ValueError, match="unet: context"):
        build("unet", {"context": context})
