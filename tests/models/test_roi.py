from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_emseg.models import roi
from napari_emseg.models.forward import predict_picture
from napari_emseg.models.roi import region_probabilities
from napari_emseg.models.zoo import build


@pytest.mark.parametrize("tile", [768, 96])
@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("unet", {"base": 2, "levels": 2}),
        ("unet", {"base": 2, "levels": 2, "padding": "valid"}),
        ("unetpp", {"base": 2, "depth": 2}),
    ],
)
def test_a_region_is_a_part_of_the_whole(
    architecture: str, config: dict, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roi, "TILE", tile)
    torch.manual_seed(0)
    network = build(architecture, config).eval()
    picture = np.random.default_rng(0).random((100, 130)).astype(np.float32)
    whole = predict_picture(network, picture)
    for area in ((slice(0, 100), slice(0, 130)), (slice(13, 77), slice(60, 129))):
        found = region_probabilities(network, picture, area)
        np.testing.assert_allclose(found, whole[:, *area], atol=1e-5)


def test_blended_tiles_add_up_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roi, "TILE", 64)
    torch.manual_seed(0)
    network = build("cenet", {"base": 4}).eval()
    picture = np.random.default_rng(0).random((300, 300)).astype(np.float32)
    area = (slice(20, 280), slice(0, 300))
    seen: list[int] = []

    def one(batch: torch.Tensor) -> torch.Tensor:
        seen.append(1)
        margin = network.geometry.margin
        return torch.ones_like(batch)[:, :, margin:-margin, margin:-margin]

    found = roi.region_values(network, picture, area, (1.0, 1.0), one)
    assert len(seen) > 1
    np.testing.assert_allclose(found, 1, atol=1e-5)


def test_a_resampled_region_is_on_the_section_s_own_grid() -> None:
    torch.manual_seed(0)
    network = build("unet", {"base": 2, "levels": 2}).eval()
    picture = np.random.default_rng(0).random((60, 80)).astype(np.float32)
    area = (slice(10, 50), slice(5, 70))
    found = region_probabilities(network, picture, area, (1.5, 0.7))
    assert found.shape == (2, 40, 65)
