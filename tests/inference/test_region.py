from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetuning import untaught
from one_pass import predict_picture
from thin import thin_weights

from napari_emseg.core.errors import WorkFailedError
from napari_emseg.core.records import drain
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.core.symmetry import MIRRORED, SYMMETRIES, iter_symmetries
from napari_emseg.inference import predict_stack, throughput
from napari_emseg.inference.region import (
    DoubtPredictor,
    HeadsAsClasses,
    NetworkPredictor,
    RegionPredictor,
)
from napari_emseg.models.weights import replace_card
from napari_emseg.models.zoo import build

TORCH = PredictSettings(device="cpu", runtime="torch")
AREA = Region(1, 8, 20, 60, 84)


def stack_of(seed: int) -> Stack:
    """Three sections of noise: one is blank, one has padding on its left."""
    grey = np.random.default_rng(seed).integers(60, 190, (3, 96, 112), np.uint8)
    grey[1, :, :30] = 0
    grey[2] = 7
    return Stack(grey, voxel_size_nm=(50, 5, 5))


@pytest.mark.parametrize("invert", [False, True])
def test_a_region_is_as_a_run_gives_it(tmp_path: Path, *, invert: bool) -> None:
    """Normalised, resampled and cleared in padding as for users; of each stack."""
    weights = thin_weights(tmp_path)
    predictor = RegionPredictor(weights, TORCH)
    settings = TORCH.model_copy(update={"invert": "yes" if invert else "no"})
    for stack in (stack_of(0), stack_of(1), stack_of(0)):
        found = predictor.membrane(stack, AREA, invert=invert)
        run = predict_stack(
            stack, weights, settings=settings, sections=(1,), roi=AREA.area
        )
        np.testing.assert_array_equal(found, drain(run).probabilities[0])
        assert not found[:, :10].any()
        assert found[:, 10:].any()


def test_a_blank_section_has_nothing_to_show(tmp_path: Path) -> None:
    predictor = RegionPredictor(thin_weights(tmp_path), TORCH)
    blank = Region(2, 0, 0, 32, 32)
    assert predictor.membrane(stack_of(0), blank, invert=False) is None
    assert predictor.open(stack_of(0), 2, invert=False).blank


def test_a_region_is_run_as_settings_say(tmp_path: Path) -> None:
    """To a depth, with averaged mirrors, by the statistics of the stack, in tiles."""
    weights = untaught(tmp_path / "w.safetensors", "unetpp")
    ways = (
        {"depth": 1},
        {"depth": 2, "heads": "mean"},
        {"tta": True},
        {"statistics": "stack", "tile": 64},
    )
    plain = RegionPredictor(weights, TORCH)
    stack = stack_of(0)
    usual = plain.membrane(stack, AREA, invert=False)
    for way in ways:
        settings = TORCH.model_copy(update=way)
        found = RegionPredictor(weights, settings).membrane(stack, AREA, invert=False)
        settings = settings.model_copy(update={"invert": "no"})
        run = predict_stack(
            stack, weights, settings=settings, sections=(1,), roi=AREA.area
        )
        np.testing.assert_array_equal(found, drain(run).probabilities[0])
        assert not np.array_equal(found, usual)


def test_the_engine_is_that_of_runs(tmp_path: Path, openvino: Any) -> None:
    weights, used = thin_weights(tmp_path), []
    for runtime in ("auto", "openvino", "torch"):
        predictor = RegionPredictor(
            weights, PredictSettings(device="cpu", runtime=runtime)
        )
        predictor.membrane(stack_of(0), AREA, invert=False)
        (loaded,) = predictor._predictor._loaded.values()
        used.append(loaded.name)
    assert used == ["openvino", "openvino", "torch"]


def test_weights_without_the_depth_of_the_settings_are_run_as_they_are(
    tmp_path: Path,
) -> None:
    weights, stack = thin_weights(tmp_path), stack_of(0)
    deep = TORCH.model_copy(update={"depth": 3, "heads": "mean"})
    found = RegionPredictor(weights, deep).membrane(stack, AREA, invert=False)
    usual = RegionPredictor(weights, TORCH).membrane(stack, AREA, invert=False)
    np.testing.assert_array_equal(found, usual)


def test_the_threshold_is_that_of_the_way(tmp_path: Path) -> None:
    weights = untaught(tmp_path / "w.safetensors", "unetpp")
    known = tuple(
        v.model_copy(update={"threshold": 0.3 if v.depth == 1 else None})
        for v in weights.card.variants
    )
    weights = replace_card(
        weights, weights.card.model_copy(update={"variants": known, "threshold": 0.6})
    )
    thresholds = [
        RegionPredictor(weights, TORCH.model_copy(update=way)).threshold
        for way in ({}, {"depth": 1}, {"depth": 1, "tta": True}, {"depth": 2})
    ]
    assert thresholds == [0.6, 0.3, 0.6, 0.6]


WHOLE = Region(1, 0, 0, 96, 112)


@pytest.mark.parametrize("way", [{}, {"tta": True}, {"depth": 2}, {"heads": "mean"}])
def test_heads_that_differ_are_doubt(way: dict[str, Any], tmp_path: Path) -> None:
    weights = untaught(tmp_path / "w.safetensors", "unetpp")
    stack = stack_of(0).with_voxel_size((50, 4, 4))
    settings = TORCH.model_copy(update=way)
    predictor = DoubtPredictor(weights, settings)
    assert predictor.by_heads
    p, doubt = predictor.membrane_and_doubt(stack, WHOLE, invert=False)
    run = RegionPredictor(weights, settings).membrane(stack, WHOLE, invert=False)
    np.testing.assert_allclose(p, run, atol=1e-5)
    tta = {"tta": way.get("tta", False)}
    heads = [
        RegionPredictor(
            weights, TORCH.model_copy(update={"depth": depth, **tta})
        ).membrane(stack, WHOLE, invert=False)
        for depth in (1, 2)
    ]
    np.testing.assert_allclose(doubt, np.std(heads, axis=0), atol=1e-5)
    assert doubt[:, 40:].max() > 1e-3
    assert not p[:, :30].any()  # padding
    assert not doubt[:, :30].any()


@pytest.mark.parametrize("tta", [False, True])
def test_mirrors_that_differ_are_doubt_without_heads(
    tmp_path: Path, *, tta: bool
) -> None:
    weights = untaught(tmp_path / "w.safetensors")
    stack = Stack(
        np.random.default_rng(0).integers(60, 190, (1, 96, 96), np.uint8),
        voxel_size_nm=(50, 4, 4),
    )
    settings, whole = TORCH.model_copy(update={"tta": tta}), Region(0, 0, 0, 96, 96)
    predictor = DoubtPredictor(weights, settings)
    assert not predictor.by_heads
    p, doubt = predictor.membrane_and_doubt(stack, whole, invert=False)
    run = RegionPredictor(weights, settings).membrane(stack, whole, invert=False)
    np.testing.assert_allclose(p, run, atol=1e-5)
    picture = predictor.open(stack, 0, invert=False).window(*whole.area)
    network = weights.network()
    turned = SYMMETRIES if tta else MIRRORED
    opinions = list(
        iter_symmetries(lambda x: predict_picture(network, x)[0], picture, turned)
    )
    np.testing.assert_allclose(doubt, np.std(opinions, axis=0), atol=1e-4)
    assert doubt.max() > 1e-3


def test_heads_of_a_softmax_network_are_its_membrane() -> None:
    torch.manual_seed(0)
    network = build("unetpp", {"base": 2, "depth": 2, "n_classes": 3}).eval()
    batch = torch.rand(1, 1, 32, 32)
    logits = network.supervised(batch)
    network.activation = "softmax"
    found = HeadsAsClasses(network)(batch).sigmoid()
    wanted = torch.cat([head.softmax(dim=1)[:, :1] for head in logits], dim=1)
    torch.testing.assert_close(found, wanted)


def test_doubt_says_nothing_of_the_speed_of_runs(tmp_path: Path) -> None:
    weights, stack = untaught(tmp_path / "w.safetensors"), stack_of(0)
    large = Stack(np.tile(stack.data[:2, :, 30:], (1, 7, 9)), voxel_size_nm=(50, 4, 4))
    region = Region(1, 0, 0, *large.shape[1:])
    predictor = DoubtPredictor(weights, TORCH)
    for _ in range(2):
        predictor.membrane_and_doubt(large, region, invert=False)
    assert throughput.known(weights, TORCH) is None


@pytest.mark.parametrize("tile", [1536, 96])
@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("unet", {"base": 2, "levels": 2}),
        ("unet", {"base": 2, "levels": 2, "padding": "valid"}),
        ("unetpp", {"base": 2, "depth": 2}),
    ],
)
def test_a_network_in_training_is_run_by_the_same_loop(
    architecture: str,
    config: dict[str, Any],
    tile: int,
    monkeypatch: pytest.MonkeyPatch,
    *,
    tta: bool,
) -> None:
    """Whatever the tile, it gives what one pass gives; and training isn't touched."""
    monkeypatch.setattr("napari_emseg.inference.plan.MOST_CPU_SIDE", tile)
    torch.manual_seed(0)
    network = build(architecture, config)
    picture = np.random.default_rng(0).random((100, 130)).astype(np.float32)
    network.train()(torch.rand(1, 1, 124, 124))
    predictor = NetworkPredictor(network, tta=tta)
    assert network.training
    wanted = predict_picture(network.eval(), picture, tta=tta)
    found = predictor.probabilities(picture, 2)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_array_equal(predictor.probabilities(picture)[0], found[0])


def test_values_beyond_the_grey_range_stay_as_they_are() -> None:
    torch.manual_seed(0)
    network = build("unet", {"base": 2, "levels": 2}).eval()
    picture = np.linspace(-3, 4, 64 * 64, dtype=np.float32).reshape(64, 64)
    found = NetworkPredictor(network).probabilities(picture)
    np.testing.assert_allclose(found, predict_picture(network, picture)[:1], atol=1e-5)


def test_a_network_in_training_that_says_nothing_is_an_error() -> None:
    network = build("unet", {"base": 2, "levels": 2}).eval()
    with torch.no_grad():
        next(network.parameters()).fill_(torch.nan)
    with pytest.raises(WorkFailedError, match="NaN"):
        NetworkPredictor(network).probabilities(np.zeros((32, 32), np.float32))
