"""Weights that load in no time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from blur import Blur

from napari_emseg.core.card import Card
from napari_emseg.inference import predictor
from napari_emseg.models.weights import Weights, save_weights
from napari_emseg.models.zoo import build, context_of


@pytest.fixture
def blur(monkeypatch: pytest.MonkeyPatch) -> Blur:
    """The runtime that predictors get in this test."""
    runtime = Blur()
    monkeypatch.setattr(predictor, "load_runtime", lambda *_: runtime)
    return runtime


@pytest.fixture(scope="session")
def openvino() -> Any:
    """OpenVINO, imported as the package does it; skips where it is missing."""
    from napari_emseg.inference.openvino_runtime import import_openvino

    if find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    return import_openvino()


MakeWeights = Callable[..., Weights]


@pytest.fixture(scope="session")
def make_weights(tmp_path_factory: pytest.TempPathFactory) -> MakeWeights:
    """Save a small network with random weights whose logits are about ± 1."""
    import torch

    def make(
        config: dict[str, Any] | None = None,
        *,
        pixel_size_nm: tuple[float, float] | None = None,
        classes: tuple[str, ...] = ("membrane", "inside"),
        **card: Any,
    ) -> Weights:
        config = {"base": 4, "levels": 2, "n_classes": len(classes), **(config or {})}
        torch.manual_seed(0)
        network = build("unet", config)
        norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        if norms:  # let them see values like those to come
            for norm in norms:
                norm.momentum = None
            with torch.no_grad():
                network.train()(torch.rand(2, context_of(network), 96, 96))
        path: Path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
        about = Card(
            name="tiny",
            architecture="unet",
            config=config,
            classes=classes,
            pixel_size_nm=pixel_size_nm,
            **card,
        )
        return save_weights(path, network.state_dict(), about, half=False)

    return make


@pytest.fixture(scope="session")
def weights(make_weights: MakeWeights) -> Weights:
    """For pixels of 4 nm."""
    return make_weights(pixel_size_nm=(4, 4))


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    yield
    left = [t.name for t in threading.enumerate() if t.name.startswith("emseg-")]
    assert not left
