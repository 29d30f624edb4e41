"""Weights files: a network's numbers with their card. Never a pickle.

One `.safetensors` file, float16 or float32; its header carries the card as JSON. Cards
are read from the header alone; torch is imported when a network is built, not before.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from napari_emseg.core.card import Card
from napari_emseg.models.zoo import build

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

CARD = "emseg.card"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Weights:
    """A weights file that was found to be whole, and its card."""

    path: Path
    card: Card

    @cached_property
    def sha256(self) -> str:
        """Checksum of the file, by which results and descendants name it."""
        return sha256(self.path.read_bytes()).hexdigest()

    def network(self) -> nn.Module:
        """Build the network with these weights, float32, on the CPU, for inference.

        Raises
        ------
        ValueError
            If the file doesn't fit its own architecture; the first misfit is named.
        """
        import torch

        network = build(self.card.architecture, self.card.config)
        with _reading(self.path), safe_open(self.path, framework="pt") as file:
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        check_fit(state, network, self.path.name)
        for key, value in network.state_dict().items():
            if not value.is_floating_point():
                state[key] = state[key].to(value.dtype)
        network.load_state_dict(state)
        return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def check_fit(state: Mapping[str, Tensor], network: nn.Module, name: str) -> None:
    """Raise a ValueError that names the first key that doesn't fit the network."""
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    for key, shape in wanted.items():
        if given.get(key) != shape:
            has = f"has {given[key]}" if key in given else "has none"
            msg = f"{name} doesn't fit the network: {key} must be {shape}, file {has}"
            raise ValueError(msg)
    extra = next((key for key in given if key not in wanted), None)
    if extra is not None:
        msg = f"{name} doesn't fit the network: it has no parameter {extra}"
        raise ValueError(msg)


def bundled_folder() -> Path:
    """Folder of the weights that come with the package."""
    return Path(str(files("napari_emseg") / "models" / "bundled"))


def list_weights(*folders: Path) -> dict[str, Weights]:
    """Return bundled weights, and those of further folders, by name.

    Files that can't be read are left out; `read_weights` says why.
    """
    found = {}
    for folder in (bundled_folder(), *folders):
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            try:
                found[path.stem] = read_weights(path)
            except (OSError, ValueError):
                continue
    return found


def load_weights(weights: str | Path | Weights) -> Weights:
    """Return weights by bundled name or by file.

    Raises
    ------
    ValueError
        If there are none of that name, or the file is no weights file of ours.
    OSError
        If the file can't be read.
    """
    if isinstance(weights, Weights):
        return weights
    path = Path(weights)
    if path.suffix == SUFFIX or path.is_file():
        return read_weights(path)
    known = list_weights()
    if str(weights) not in known:
        names = ", ".join(known) or "none"
        msg = f"no weights named {str(weights)!r}; bundled are: {names}"
        raise ValueError(msg)
    return known[str(weights)]


def read_weights(path: Path) -> Weights:
    """Read a file's card from its header.

    Raises
    ------
    FileNotFoundError, OSError
        If it can't be read.
    ValueError
        If it is damaged, or has no card (a foreign file has to be imported).
    """
    if not path.is_file():
        msg = f"no weights file at {path}"
        raise FileNotFoundError(msg)
    with _reading(path), safe_open(path, framework="numpy") as file:
        header: dict[str, str] = file.metadata() or {}
    if CARD not in header:
        msg = f"{path.name} has no card; it was not made by emseg"
        raise ValueError(msg)
    try:
        return Weights(path, Card.model_validate_json(header[CARD]))
    except ValidationError as e:
        msg = f"{path.name}: its card is damaged: {e.errors()[0]['msg']}"
        raise ValueError(msg) from e


def save_weights(
    path: Path, state: Mapping[str, Tensor], card: Card, *, half: bool = True
) -> Weights:
    """Write weights beside their final name and rename them when whole.

    The card's `geometry` and `bytes_per_pixel` are filled in from its architecture.

    Parameters
    ----------
    half
        Floating-point numbers as float16 (half the size) where none is too large for
        it, else float32.
    """
    arrays = {key: _stored(value, half=half) for key, value in state.items()}
    network = build(card.architecture, card.config)
    facts = ("geometry", "bytes_per_pixel")
    card = card.model_copy(update={name: getattr(network, name) for name in facts})
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    header = {CARD: card.model_dump_json(), "format": "pt"}
    save_file(arrays, part, metadata=header)
    part.chmod(0o644)  # safetensors lets nobody else read it
    os.replace(part, path)
    return Weights(path, card)


def _stored(value: Tensor, *, half: bool) -> NDArray[Any]:
    array: NDArray[Any] = value.detach().cpu().contiguous().numpy()
    if not value.is_floating_point():
        return array
    array = array.astype(np.float32)
    fits = bool((np.abs(array) <= np.finfo(np.float16).max).all())
    return array.astype(np.float16) if half and fits else array


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what safetensors raises into a ValueError that names the file."""
    try:
        yield
    except SafetensorError as e:
        msg = f"{path.name} is no weights file, or a damaged one: {e}"
        raise ValueError(msg) from e
