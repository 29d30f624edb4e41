"""Tensors by name out of what `torch.save` wrote; nothing else in it is taken."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pickle import UnpicklingError
from struct import error as StructError
from typing import TYPE_CHECKING, Any

from napari_emseg.models.unpacking import opened, refuse_bomb

if TYPE_CHECKING:
    from torch import Tensor

MOST_STATE = 2**31
"""Bytes; the largest of our networks takes a twentieth of that."""

UNREADABLE = (
    *(AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError),
    *(OverflowError, RuntimeError, TypeError, UnpicklingError, ValueError, StructError),
)
"""What torch raises when it is given anything but tensors."""

NESTED = ("state_dict", "model_state_dict", "model")
"""Where checkpoints of common trainers keep the state dict."""


def read_state_dict(data: bytes, name: str) -> dict[str, Tensor]:
    """Read what `torch.save` wrote, if it is nothing but tensors by name."""
    import torch

    if data.startswith(b"PK"):
        with opened(io.BytesIO(data), name) as inner:
            refuse_bomb(inner.infolist(), MOST_STATE, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that it may not understand
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except UNREADABLE as e:
        msg = (
            f"{name} is damaged, or holds more than numbers (a whole module, an "
            "optimiser), which is never run; save its state_dict() by itself"
        )
        raise ValueError(msg) from e
    for key in NESTED:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        msg = f"{name} holds no state dict"
        raise ValueError(msg)
    return _checked(loaded, name)


def _checked(loaded: Mapping[Any, Any], name: str) -> dict[str, Tensor]:
    """Return tensors by name, without the `module.` of parallel training."""
    import torch

    for key, value in loaded.items():
        dense = isinstance(value, torch.Tensor) and value.layout == torch.strided
        if not isinstance(key, str) or not dense or value.is_quantized:
            plain = isinstance(key, str | int)
            what = repr(key) if plain else f"a {type(key).__name__}"
            msg = f"{name} holds no state dict: {what} is no tensor of plain numbers"
            raise ValueError(msg)
        if value.nbytes > value.untyped_storage().nbytes():
            msg = f"{name}: {key} says it has {value.numel():,} values, and holds fewer"
            raise ValueError(msg)
    start = "module."
    if all(key.startswith(start) for key in loaded):
        return {key.removeprefix(start): value for key, value in loaded.items()}
    return dict(loaded)
