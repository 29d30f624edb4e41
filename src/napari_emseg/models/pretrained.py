"""A classifier's weights from a local file in, as a network's encoder to begin with.

They are a start for training, like the seed: the trained weights hold their own copy,
so that neither a card nor a weights file needs that file again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from napari_emseg.models.encoders import ResNet34Encoder

STEM = "conv1.weight"


def load_encoder(network: nn.Module, path: Path) -> None:
    """Load ImageNet weights of ResNet-34 into a network's encoder.

    The file has torchvision's names, as `.safetensors` or as `.pth` (of which only
    tensors are read). The first kernel is summed over its colours, since the same grey
    would be in all three; the classifier's head is left out.

    Raises
    ------
    ValueError
        If the network's encoder is no ResNet-34, the file is damaged or something else,
        or its width (64 for torchvision's) isn't the network's; the first parameter
        that doesn't fit is named.
    OSError
        If it can't be read.
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, ResNet34Encoder):
        msg = (
            "encoder weights are of a ResNet-34, which this network's encoder is not; "
            "take cenet, or unetpp with encoder resnet34"
        )
        raise ValueError(msg)
    given = _tensors(path)
    state = {}
    for key, own in encoder.state_dict().items():
        value = given.get(key)
        if value is None and key.endswith("num_batches_tracked"):
            value = own  # old files have none; it counts training steps only
        if value is not None and key == STEM and value.ndim == 4:
            value = value.sum(dim=1, keepdim=True)
        if value is None or value.shape != own.shape:
            has = "none" if value is None else f"{tuple(value.shape)}"
            msg = (
                f"{path.name} doesn't fit the encoder: {key} must be "
                f"{tuple(own.shape)}, file has {has}; the network's base is its width"
            )
            raise ValueError(msg)
        state[key] = value
    encoder.load_state_dict(state)


def _tensors(path: Path) -> Mapping[str, Tensor]:
    """Read named tensors; nothing else that may be in the file is run or built."""
    if not path.is_file():
        msg = f"no encoder weights at {path}"
        raise FileNotFoundError(msg)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, LookupError, RuntimeError, SafetensorError, UnpicklingError) as e:
        msg = f"{path.name} is damaged, or holds something else than tensors"
        raise ValueError(msg) from e
    if not isinstance(state, dict):
        msg = f"{path.name} holds no named tensors but {type(state).__name__}"
        raise ValueError(msg)
    return {str(k): v for k, v in state.items() if isinstance(v, Tensor)}
