from __future__ import annotations

import subprocess
import sys

import pytest
from torch import Tensor, nn

from napari_emseg.core.tiles import Geometry
from napari_emseg.models import zoo
from napari_emseg.models.zoo import (
    NetworkConfig,
    architectures,
    build,
    network_class,
    register,
)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what a test registers."""
    monkeypatch.setattr(zoo, "_NETWORKS", dict(zoo._NETWORKS))


class Pointwise(nn.Module):
    """What a third party might write."""

    class Config(NetworkConfig):
        gain: float = 1.0

    activation = "sigmoid"
    geometry = Geometry(1, 0)
    bytes_per_pixel = 8.0

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.layer = nn.Conv2d(1, config.n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x) * self.config.gain
        return logits


@pytest.mark.usefixtures("registry")
def test_a_network_of_ones_own_is_known_by_its_name() -> None:
    register("pointwise")(Pointwise)
    assert "pointwise" in architectures()
    network = build("pointwise", {"gain": 3.0, "n_classes": 5})
    assert isinstance(network, Pointwise)
    assert network.config.gain == 3.0
    assert network.layer.out_channels == 5


@pytest.mark.usefixtures("registry")
def test_a_taken_name_is_refused() -> None:
    register("pointwise")(Pointwise)
    register("pointwise")(Pointwise)  # a module imported anew

    class Other(Pointwise):
        pass

    with pytest.raises(ValueError, match="there is a network 'pointwise' already"):
        register("pointwise")(Other)
    network_class("unet")
    with pytest.raises(ValueError, match="there is a network 'unet' already"):
        register("unet")(Other)


@pytest.mark.usefixtures("registry")
def test_a_bundled_name_is_taken_before_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(zoo, "_NETWORKS", {})
    with pytest.raises(ValueError, match="there is a network 'unet' already"):
        register("unet")(Pointwise)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown architecture 'vnet'.* unet"):
        build("vnet")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"base": 0}, r"unet: base must be greater than or equal to 1, got 0"),
        ({"levels": 9}, r"unet: levels must be .*got 9"),
        (
            {"wdith": 16},
            r"unet has no wdith; its configuration is n_classes, context, affinities",
        ),
        ({"n_classes": 0}, r"unet: n_classes must be .*got 0"),
    ],
)
def test_a_wrong_configuration_names_the_value(
    config: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build("unet", config)


def test_names_are_listed_without_torch() -> None:
    code = (
        "import sys; from napari_emseg.models.zoo import architectures; "
        "assert 'unet' in architectures(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
