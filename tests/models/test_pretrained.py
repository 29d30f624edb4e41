from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from napari_emseg.core.records import drain
from napari_emseg.core.stack import Stack
from napari_emseg.core.training import TrainSettings
from napari_emseg.models.encoders import ResNet34Encoder, load_encoder
from napari_emseg.models.zoo import build
from napari_emseg.training.card import Split
from napari_emseg.training.run import train_weights


@pytest.fixture
def classifier() -> dict[str, Tensor]:
    """Weights of a narrow ResNet-34 for colour pictures, head included."""
    torch.manual_seed(1)
    encoder = ResNet34Encoder(4, levels=4)
    state = {key: torch.rand_like(v.float()) for key, v in encoder.state_dict().items()}
    state["conv1.weight"] = torch.rand(4, 3, 7, 7)
    state["fc.weight"], state["fc.bias"] = torch.rand(10, 32), torch.rand(10)
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


def encoder_of(network: nn.Module) -> ResNet34Encoder:
    encoder = network.get_submodule("encoder")
    assert isinstance(encoder, ResNet34Encoder)
    return encoder


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_grey_gives_what_three_equal_colours_gave(
    tmp_path: Path, suffix: str, classifier: dict[str, Tensor]
) -> None:
    path = tmp_path / f"resnet34{suffix}"
    if suffix == ".pth":
        torch.save(classifier, path)
    else:
        save_file(classifier, path)
    network = build("cenet", {"base": 4})
    load_encoder(network, path)
    encoder = encoder_of(network)
    grey = torch.rand(1, 1, 32, 32)
    colour = nn.functional.conv2d(
        grey.expand(-1, 3, -1, -1), classifier["conv1.weight"], stride=2, padding=3
    )
    torch.testing.assert_close(encoder.conv1(grey), colour)
    for key in ("layer4.2.conv2.weight", "layer2.0.downsample.1.running_var"):
        assert torch.equal(encoder.state_dict()[key], classifier[key])


def test_a_shallower_encoder_takes_what_it_has(
    tmp_path: Path, classifier: dict[str, Tensor]
) -> None:
    torch.save(classifier, tmp_path / "r.pth")
    network = build("unetpp", {"base": 4, "depth": 2, "encoder": "resnet34"})
    load_encoder(network, tmp_path / "r.pth")
    state = encoder_of(network).state_dict()
    assert torch.equal(state["layer2.3.bn2.bias"], classifier["layer2.3.bn2.bias"])
    assert not any(key.startswith("layer3") for key in state)


def test_the_first_misfit_is_named(
    tmp_path: Path, classifier: dict[str, Tensor]
) -> None:
    torch.save(classifier, tmp_path / "r.pth")
    network = build("cenet", {"base": 8})
    with pytest.raises(ValueError, match=r"conv1.weight must be \(8, 1, 7, 7\)"):
        load_encoder(network, tmp_path / "r.pth")
    del classifier["layer1.0.bn1.bias"]
    torch.save(classifier, tmp_path / "r.pth")
    with pytest.raises(ValueError, match=r"layer1.0.bn1.bias must be .* has none"):
        load_encoder(build("cenet", {"base": 4}), tmp_path / "r.pth")


def test_other_encoders_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which this network's encoder is not"):
        load_encoder(build("unet"), tmp_path / "r.pth")
    network = build("cenet", {"base": 4})
    with pytest.raises(FileNotFoundError, match="no encoder weights at"):
        load_encoder(network, tmp_path / "r.pth")
    for name in ("r.pth", "r.safetensors"):
        (tmp_path / name).write_bytes(b"not weights" * 99)
        with pytest.raises(ValueError, match="is damaged, or holds something else"):
            load_encoder(network, tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="no named tensors but list"):
        load_encoder(network, tmp_path / "list.pth")


def test_a_file_that_would_run_something_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="is damaged, or holds something else"):
        load_encoder(build("cenet", {"base": 4}), tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_training_begins_with_them(
    tmp_path: Path, classifier: dict[str, Tensor]
) -> None:
    torch.save(classifier, tmp_path / "r.pth")
    values = np.random.default_rng(0).integers(0, 255, (1, 70, 70), dtype=np.uint8)
    work = train_weights(
        Stack(values),
        Stack(values > 50),
        tmp_path / "w.safetensors",
        meaning="inside",
        split=Split((0,)),
        architecture="unetpp",
        config={"base": 4, "depth": 1, "encoder": "resnet34"},
        settings=TrainSettings(steps=1, patch=64, batch=1, learning_rate=1e-12),
        encoder_weights=tmp_path / "r.pth",
    )
    encoder = encoder_of(drain(work).network())
    (tmp_path / "r.pth").unlink()  # the card doesn't need it again
    torch.testing.assert_close(
        encoder.state_dict()["layer1.2.conv1.weight"],
        classifier["layer1.2.conv1.weight"],
        atol=1e-3,  # float16 in the file
        rtol=1e-3,
    )
