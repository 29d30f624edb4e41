"""The page on networks of one's own: what is printed there is run here."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import napari_emseg as emseg
from napari_emseg.core.records import drain
from napari_emseg.core.settings import PredictSettings
from napari_emseg.inference import Predictor
from napari_emseg.models import zoo
from napari_emseg.models.zoo import architectures, build, network_class

PAGE = Path(__file__).resolve().parents[2] / "docs" / "own-network.md"


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what a test registers, but nothing that comes with the project."""
    for name in ("cenet", "unet", "unetpp"):
        network_class(name)
    monkeypatch.setattr(zoo, "_NETWORKS", dict(zoo._NETWORKS))


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def test_the_printed_network_is_short_trains_predicts_and_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network, use = blocks()
    assert len([line for line in network.splitlines() if line.strip()]) <= 20
    names: dict[str, Any] = {"__name__": "printed"}
    exec(network, names)
    assert "flat" in architectures()
    exec(use, names)
    images, whole = names["images"], names["membrane"]
    assert whole.shape == images.shape
    weights = emseg.load_weights(tmp_path / "flat.safetensors")
    assert weights.card.architecture == "flat"
    assert weights.card.config["width"] == 8
    settings = PredictSettings(tile=100, device="cpu", runtime="torch")
    tiled = drain(Predictor(weights).run(images, settings=settings)).probabilities
    assert tiled is not None
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(ValueError, match="unknown architecture 'flat'"):
        build("flat")


def test_another_package_names_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_flat.py").write_text(blocks()[0], "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    points = [EntryPoint("flat", "my_flat", zoo.GROUP)]
    monkeypatch.setattr(zoo, "entry_points", lambda group: points)
    zoo._modules.cache_clear()
    try:
        assert "flat" in architectures()
        network = build("flat", {"width": 3})
        assert type(network).__module__ == "my_flat"
    finally:
        zoo._modules.cache_clear()
