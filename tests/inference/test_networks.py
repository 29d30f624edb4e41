"""The real networks: a tiled result is one pass over the mirrored picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from napari_emseg.core.intensity import normalise, section_range
from napari_emseg.core.records import drain
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.tiles import TilePlan
from napari_emseg.inference import Predictor
from napari_emseg.models.forward import inner_logits
from napari_emseg.models.weights import Weights
from napari_emseg.models.zoo import Network, build

FORMS: dict[str, dict[str, Any]] = {
    "same": {"base": 4, "levels": 3},
    "valid": {"base": 4, "levels": 2, "padding": "valid", "normalisation": "none"},
    "paper": {"base": 2, "levels": 4, "padding": "valid", "normalisation": "none"},
}


@pytest.fixture(params=["torch", "openvino"])
def runtime(request: pytest.FixtureRequest) -> str:
    if request.param == "openvino":
        request.getfixturevalue("openvino")
    return cast("str", request.param)


@pytest.fixture(scope="module")
def made(make_weights: Callable[..., Weights]) -> Callable[[str, int], Predictor]:
    @cache
    def of(form: str, n_classes: int = 2) -> Predictor:
        names = ("membrane", "inside", "mitochondria")[:n_classes]
        return Predictor(make_weights(FORMS[form], pixel_size_nm=(4, 4), classes=names))

    return of


def triangle(n_in: int, n_out: int, zoom: float) -> NDArray[np.float64]:
    """Resampling as a matrix `(n_out, n_in)`, written down from its definition."""
    matrix = np.zeros((n_out, n_in))
    width = max(1, 1 / zoom)
    for i in range(n_out):
        centre = (i + 0.5) / zoom - 0.5
        for j in range(-10, n_in + 10):
            weight = max(0, 1 - abs(j - centre) / width)
            matrix[i, min(max(j, 0), n_in - 1)] += weight
    return matrix / matrix.sum(axis=1, keepdims=True)


def one_pass(
    network: nn.Module, picture: NDArray[Any], rule: Any, zoom: float
) -> NDArray[np.float32]:
    """Resample, mirror with numpy.pad, run once, crop, resample back."""
    values = normalise(picture, section_range(picture, rule))
    sizes = [int(np.ceil(n * zoom - 1e-6)) for n in picture.shape]
    if zoom != 1:
        for axis, size in enumerate(sizes):
            matrix = triangle(picture.shape[axis], size, zoom)
            values = np.moveaxis(np.tensordot(matrix, values, (1, axis)), 0, axis)
    geometry = cast("Network", network).geometry
    before = -(-geometry.context // geometry.stride) * geometry.stride
    if geometry.padding == "valid":
        before = geometry.context
    for axis, size in enumerate(sizes):
        # behind it more, up to a size that the network can take
        more = (geometry.remainder - size) % geometry.stride
        width = [(0, 0), (0, 0)]
        width[axis] = (before, before + more)
        mode: Any = "reflect" if values.shape[axis] > 1 else "edge"
        values = np.pad(values, width, mode=mode)
    with torch.inference_mode():
        logits = network(torch.from_numpy(values.astype(np.float32))[None, None])
        out = logits.softmax(1)[0].numpy()
    start = before - geometry.trim
    out = out[:, start : start + sizes[0], start : start + sizes[1]]
    if zoom != 1:
        for axis, size in enumerate(picture.shape, start=1):
            matrix = triangle(out.shape[axis], size, 1 / zoom)
            out = np.moveaxis(np.tensordot(matrix, out, (1, axis)), 0, axis)
    return cast("NDArray[np.float32]", out)


def em(shape: tuple[int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("shape", "zoom"),
    [
        ((1, 2), 1.0),
        ((5, 3), 1.15),
        ((101, 87), 1.0),
        ((101, 87), 1.15),
        ((60, 131), 0.7),
    ],
)
def test_tiled_is_one_pass_over_the_mirrored_picture(
    made: Callable[..., Predictor],
    form: str,
    zoom: float,
    shape: tuple[int, int],
    runtime: str,
) -> None:
    predictor = made(form)
    geometry = cast("Network", predictor.weights.network()).geometry
    smallest = 2 * (geometry.halo + geometry.stride)
    picture = em(shape)
    network, rule = predictor.weights.network(), predictor.weights.card.normalisation
    expected = one_pass(network, picture, rule, zoom)
    stack = Stack(picture[None], voxel_size_nm=(50, 4 * zoom, 4 * zoom))
    for tile in (None, smallest + 24):
        settings = PredictSettings(tile=tile, runtime=runtime, device="cpu", threads=1)
        result = drain(
            predictor.run(stack, settings=settings, classes=("membrane", "inside"))
        )
        assert result.probabilities is not None
        assert result.runtime == runtime
        np.testing.assert_allclose(result.probabilities[:, 0], expected, atol=1e-5)


def test_three_classes(made: Callable[..., Predictor], runtime: str) -> None:
    predictor = made("same", 3)
    stack = Stack(em((40, 50))[None])
    settings = PredictSettings(runtime=runtime, device="cpu")
    names = ("mitochondria", "membrane", "inside")
    found = drain(predictor.run(stack, settings=settings, classes=names)).probabilities
    assert found is not None
    assert found.shape == (3, 1, 40, 50)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-6)
    expected = one_pass(
        predictor.weights.network(),
        em((40, 50)),
        predictor.weights.card.normalisation,
        1,
    )
    np.testing.assert_allclose(found[:, 0], expected[[2, 0, 1]], atol=1e-5)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_context_is_true_and_no_larger_than_needed(levels: int) -> None:
    """Gradients reach as far as the context, and no further.

    Positive weights keep all ReLUs open; average pooling instead of maximum lets the
    gradient see every pixel that could win.
    """
    config = {"base": 1, "levels": levels, "normalisation": "none"}
    network = build("unet", config).eval().double()
    for parameter in network.parameters():
        parameter.data.abs_().clamp_(min=0.01)
    geometry = cast("Network", network).geometry
    cell = slice(geometry.halo + geometry.stride, geometry.halo + 2 * geometry.stride)
    size = cell.start + cell.stop
    window = torch.ones(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("napari_emseg.models.unet.F.max_pool2d", nn.functional.avg_pool2d)
        network(window)[:, :, cell, cell].sum().backward()
    assert window.grad is not None
    (seen,) = torch.nonzero(window.grad[0, 0].abs().sum(1), as_tuple=True)
    assert int(seen.min()) == cell.start - geometry.context
    assert int(seen.max()) == cell.stop - 1 + geometry.context


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5])
def test_inner_is_the_whole_without_its_margin(levels: int) -> None:
    network = build("unet", {"base": 2, "levels": levels, "normalisation": "none"})
    geometry = cast("Network", network).geometry
    y, x = TilePlan((2 * geometry.stride, 1), geometry).window_shape
    with torch.inference_mode():
        window = torch.rand(1, 1, y, x, dtype=torch.float64)
        network = network.eval().double()
        whole, inner = network(window), inner_logits(network, window)
    cut = geometry.margin
    np.testing.assert_allclose(inner, whole[:, :, cut:-cut, cut:-cut], atol=1e-9)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_valid_output_is_smaller_by_the_context(levels: int) -> None:
    network = build("unet", {"base": 1, "levels": levels, "padding": "valid"}).eval()
    geometry = cast("Network", network).geometry
    size = TilePlan((1, 1 + geometry.stride), geometry).window_shape
    with torch.inference_mode():
        out = network(torch.zeros(1, 1, *size))
    assert out.shape[2:] == tuple(n - 2 * geometry.context for n in size)
