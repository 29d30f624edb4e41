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

NESTED = ("state_dict", "model_state_dict", "model", "network", "net", "weights")
"""Where checkpoints of common trainers keep the state dict, the likeliest first."""

COMPILED = "_orig_mod."
"""What `torch.compile` puts into names, wherever it was used."""

COUNTER = "num_batches_tracked"
"""Ends the names of steps that batch normalisations have counted; training alone uses
them, and older files have none."""

DEEPEST = 20
"""So many names, with dots between them, are looked at of a parameter's."""

SHOWN = 4
"""So many names of a file that doesn't fit are shown."""


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
    return _checked(_unnested(loaded, name), name)


def _unnested(loaded: object, name: str) -> Mapping[Any, Any]:
    """Find the state dict in a checkpoint: under a usual name, or the only one."""
    while isinstance(loaded, Mapping) and loaded and not _has_tensors(loaded):
        inner = {k: v for k, v in loaded.items() if isinstance(v, Mapping) and v}
        usual = [key for key in NESTED if key in inner]
        states = usual or [k for k, v in inner.items() if _has_tensors(v)]
        if not usual and len(states) > 1:
            msg = f"{name} holds several state dicts: {', '.join(map(str, states))}"
            raise ValueError(f"{msg}; save the one to import by itself")
        loaded = inner[states[0]] if states else None
    if not isinstance(loaded, Mapping) or not loaded:
        msg = f"{name} holds no state dict"
        raise ValueError(msg)
    return loaded


def _has_tensors(values: Mapping[Any, Any]) -> bool:
    import torch

    return any(isinstance(value, torch.Tensor) for value in values.values())


def _checked(loaded: Mapping[Any, Any], name: str) -> dict[str, Tensor]:
    """Return tensors by name."""
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
    return dict(loaded)


def renamed(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str
) -> dict[str, Tensor]:
    """Return a state dict by the names of a network, which others put prefixes before.

    Such as `module.` of parallel training, `model.` of Lightning, `_orig_mod.` of
    compiled networks, and several of them. What isn't under the prefix, a loss's own
    parameters for instance, is left out. Counters of batch normalisation that the file
    lacks are taken from `wanted`.

    Parameters
    ----------
    wanted
        The network's own state dict.

    Raises
    ------
    ValueError
        If several networks of the kind are in the file.
    """
    plain = {key.replace(COMPILED, ""): value for key, value in state.items()}
    needed = [key for key in wanted if not key.endswith(COUNTER)]
    prefix = _prefix(plain, needed, name)
    found = {
        key.removeprefix(prefix): value
        for key, value in plain.items()
        if key.startswith(prefix)
    }
    for key, value in wanted.items():
        if key.endswith(COUNTER):
            found.setdefault(key, value)
    return found


def _prefix(state: Mapping[str, Tensor], needed: list[str], name: str) -> str:
    """Return what stands before all names that a network needs, or before most."""
    starts, names = {"": 0}, set(needed)
    for key in state:
        parts = key.split(".", DEEPEST)
        for k in range(min(len(parts), DEEPEST)):
            if ".".join(parts[k:]) in names:
                start = "".join(f"{part}." for part in parts[:k])
                starts[start] = starts.get(start, 0) + 1
    whole = [start for start, n in starts.items() if n == len(needed)]
    if len(whole) > 1 and "" not in whole:
        msg = (
            f"{name} holds {len(whole)} such networks, under {', '.join(whole)}; save "
            "the one to import by itself"
        )
        raise ValueError(msg)
    if "" in whole:
        return ""
    return whole[0] if whole else max(starts, key=starts.__getitem__)


def format_names(state: Mapping[str, Tensor]) -> str:
    """Return the first names of a state dict, for a message."""
    names = [f"{key} {tuple(value.shape)}" for key, value in state.items()]
    more = ", …" * (len(names) > SHOWN)
    return f"{len(names)} names in the file: {', '.join(names[:SHOWN])}{more}"
