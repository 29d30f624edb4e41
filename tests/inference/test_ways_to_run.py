"""Depth, heads and averaged mirrors: chosen by the settings of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from one_pass import predict_picture
from torch import Tensor, nn

from napari_emseg.core.card import Card
from napari_emseg.core.intensity import normalise, section_range
from napari_emseg.core.records import drain
from napari_emseg.core.settings import Normalisation, PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.symmetry import mean_over_symmetries
from napari_emseg.core.tiles import TilePlan
from napari_emseg.inference import Predictor, estimate, predictor, throughput
from napari_emseg.inference.torch_runtime import TorchRuntime
from napari_emseg.models.weights import Weights, load_weights, save_weights
from napari_emseg.models.zoo import Network, build

CONFIG = {"base": 2}
EM = np.random.default_rng(0).integers(0, 256, (1, 70, 90), dtype=np.uint8)


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """A small U-Net++ with four heads that has learnt nothing."""
    torch.manual_seed(0)
    network = build("unetpp", CONFIG)
    with torch.no_grad():
        network.train()(torch.rand(2, 1, 64, 64))
    path: Path = tmp_path_factory.mktemp("weights") / "nested.safetensors"
    card = Card(name="nested", architecture="unetpp", config=CONFIG)
    return save_weights(path, network.state_dict(), card, half=False)


def run(weights: Weights, picture: NDArray[np.uint8] = EM, **settings: object):
    wanted = {"runtime": "torch", "device": "cpu", "threads": 1} | settings
    stack = Stack(picture)
    work = Predictor(weights).run(stack, settings=PredictSettings(**wanted))
    return drain(work)


class OneHead(nn.Module):
    """One head of a network, with windows as the whole network asks for them."""

    activation = "sigmoid"

    def __init__(self, network: nn.Module, head: int, whole: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.head = head
        self.geometry = cast("Network", whole).geometry
        self.bytes_per_pixel = cast("Network", whole).bytes_per_pixel

    def forward(self, x: Tensor) -> Tensor:
        return cast("Network", self.network).supervised(x)[self.head]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_run_at_a_depth_gives_exactly_that_head(
    nested: Weights, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = run(nested, depth=depth)
    loaded = run(load_weights(nested.path, depth))
    np.testing.assert_array_equal(asked.probabilities, loaded.probabilities)
    whole, part = nested.network(), nested.at(depth).network()
    found = []
    for network, head in ((part, 0), (whole, depth - 1)):
        module = OneHead(network, head, whole)
        runtime = TorchRuntime(module, torch.device("cpu"), threads=1)
        monkeypatch.setattr(predictor, "load_runtime", lambda *_, r=runtime: r)
        found.append(run(nested).probabilities)
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(asked.probabilities, found[0], atol=1e-5)


@pytest.mark.parametrize("way", [{"depth": 2}, {"depth": 3, "heads": "mean"}])
@pytest.mark.usefixtures("openvino")
def test_openvino_runs_parts_of_a_network(nested: Weights, way: dict) -> None:
    found = run(nested, runtime="openvino", **way)
    assert found.runtime == "openvino"
    expected = run(nested, **way).probabilities
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)


def test_one_predictor_runs_every_depth(nested: Weights) -> None:
    made = Predictor(nested)
    settings = PredictSettings(runtime="torch", device="cpu", threads=1)
    for depth in (1, 3, None, 1):
        work = made.run(
            Stack(EM), settings=settings.model_copy(update={"depth": depth})
        )
        found = drain(work).probabilities
        expected = run(nested, depth=depth).probabilities
        np.testing.assert_array_equal(found, expected)


def test_provenance_says_depth_heads_and_mirrors(nested: Weights) -> None:
    said = run(nested, depth=3, heads="mean", tta=True).provenance.settings
    assert (said["depth"], said["heads"], said["tta"]) == (3, "mean", True)
    said = run(nested.at(2)).provenance.settings
    assert (said["depth"], said["heads"], said["tta"]) == (2, "last", False)


def test_a_depth_that_is_not_there_is_refused_at_once(weights: Weights) -> None:
    with pytest.raises(ValueError, match="tiny has no depth"):
        Predictor(weights).run(Stack(EM), settings=PredictSettings(depth=2))
    with pytest.raises(ValueError, match="tiny has no depth"):
        estimate(Stack(EM), weights, settings=PredictSettings(heads="mean"))


def test_an_estimate_is_that_of_the_depth(nested: Weights) -> None:
    stack = Stack(np.zeros((3, 600, 700), np.uint8))
    for depth in (1, 2, 4):
        asked = estimate(stack, nested, settings=PredictSettings(depth=depth))
        part = nested.at(depth)
        network = cast("Network", part.network())
        plan = TilePlan((600, 700), network.geometry)
        pixels = np.prod(plan.window_shape)
        assert asked.megapixels == pytest.approx(3 * pixels / 1e6)
        assert asked == estimate(stack, part)
        sections = 2 * 600 * 700 + 3 * 4 * 600 * 700
        needed = int(pixels * network.bytes_per_pixel + sections)
        if asked.device == "cpu":
            assert asked.peak_bytes == needed


def test_eight_mirrors_take_eight_times_as_long(nested: Weights) -> None:
    throughput._MS_PER_MEGAPIXEL.clear()
    stack = Stack(np.zeros((3, 600, 700), np.uint8))
    plain, mirrored = PredictSettings(depth=1), PredictSettings(depth=1, tta=True)
    Predictor(nested).measure(plain)
    before = estimate(stack, nested, settings=plain).seconds
    after = estimate(stack, nested, settings=mirrored).seconds
    assert after == pytest.approx(8 * before)
    assert Predictor(nested).measure(mirrored) == pytest.approx(
        8 * Predictor(nested).measure(plain)
    )
    assert estimate(stack, nested, settings=PredictSettings(depth=2)).seconds is None


class TestMirrors:
    """What `tta` gives."""

    @pytest.mark.parametrize("form", ["unetpp", "resnet34", "same", "valid"])
    def test_tiled_is_untiled(self, nested: Weights, form: str, tmp_path: Path) -> None:
        forms = {
            "resnet34": ("unetpp", {"base": 2, "depth": 2, "encoder": "resnet34"}),
            "same": ("unet", {"base": 2, "levels": 2}),
            "valid": ("unet", {"base": 2, "levels": 2, "padding": "valid"}),
            "unetpp": ("unetpp", {"base": 2, "depth": 2}),
        }
        architecture, config = forms[form]
        torch.manual_seed(0)
        network = build(architecture, config)
        geometry = cast("Network", network).geometry
        with torch.no_grad():
            shape = TilePlan((4 * geometry.stride + 1,) * 2, geometry).window_shape
            network.train()(torch.rand(2, 1, *shape))
        card = Card(name="x", architecture=architecture, config=config)
        weights = save_weights(tmp_path / "x.safetensors", network.state_dict(), card)
        picture = np.random.default_rng(0).integers(0, 256, (1, 83, 121), np.uint8)
        smallest = TilePlan.smallest_tile(geometry)
        plain = run(weights, picture, tta=False).probabilities
        whole = run(weights, picture, tta=True).probabilities
        tiled = run(weights, picture, tta=True, tile=max(32, smallest + 9))
        np.testing.assert_allclose(tiled.probabilities, whole, atol=1e-5)
        assert np.abs(whole - plain).max() > 1e-3

    def test_of_blended_tiles_have_no_seam(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        network = build("cenet", {"base": 4})
        with torch.no_grad():
            network.train()(torch.rand(2, 1, 192, 192))
        card = Card(name="x", architecture="cenet", config={"base": 4})
        weights = save_weights(tmp_path / "x.safetensors", network.state_dict(), card)
        picture = np.random.default_rng(0).integers(0, 256, (1, 150, 420), np.uint8)
        whole = run(weights, picture, tta=True).probabilities
        grey = section_range(picture[0], Normalisation())
        values = normalise(picture[0], grey)
        expected = predict_picture(weights.network(), values, tta=True)
        np.testing.assert_allclose(whole[0], expected[0], atol=1e-5)
        tiled = run(weights, picture, tta=True, tile=256)
        steps = np.abs(np.diff(tiled.probabilities[0] - whole[0], axis=1)).max(axis=0)
        assert steps.max() < 4 * np.median(steps) + 1e-4

    def test_is_the_mean_over_the_turned_picture(self, nested: Weights) -> None:
        """Turning the picture instead of windows, where the pooling grid allows it."""
        picture = EM[0, :64, :64]

        def predict(windows: NDArray[np.float32]) -> NDArray[np.float32]:
            found = run(nested, windows.astype(np.uint8), depth=2).probabilities
            return cast("NDArray[np.float32]", found)

        expected = mean_over_symmetries(predict, picture[None].astype(np.float32))
        found = run(nested, picture[None], depth=2, tta=True).probabilities
        np.testing.assert_allclose(found, expected, atol=1e-5)

    @pytest.mark.parametrize("runtime", ["torch", "openvino"])
    def test_of_a_network_that_turns_with_its_picture_change_nothing(
        self,
        nested: Weights,
        runtime: str,
        tmp_path: Path,
        request: pytest.FixtureRequest,
    ) -> None:
        if runtime == "openvino":
            request.getfixturevalue("openvino")
        part = nested.at(1)
        network = part.network()
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                kernel = module.weight.detach()
                turned = [torch.rot90(kernel, k, (2, 3)) for k in range(4)]
                both = [*turned, *(t.flip(3) for t in turned)]
                module.weight.data = torch.stack(both).mean(0)
        head = cast("Any", network).heads["1"]
        with torch.no_grad():  # make its logits about ± 1
            logits = network(torch.rand(1, 1, 64, 64))[0]
            spread, mean = logits.std((1, 2)), logits.mean((1, 2))
            head.weight /= spread[:, None, None, None]
            head.bias.copy_((head.bias - mean) / spread)
        path = tmp_path / "same.safetensors"
        same = save_weights(path, network.state_dict(), part.card, half=False)
        plain = run(same, runtime=runtime).probabilities
        mirrored = run(same, runtime=runtime, tta=True).probabilities
        assert np.ptp(plain) > 0.1
        np.testing.assert_allclose(mirrored, plain, atol=1e-5)
