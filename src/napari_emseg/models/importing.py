"""Weights of others in, a weights file of ours out; nothing in them is run.

From a BioImage.IO package only the manifest and the state dict are read, in memory:
Python and TorchScript in it are left alone, and nothing is unpacked. For a state dict
by itself (`.pt`, `.pth`, `.safetensors` without card) the user names the architecture.
"""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from struct import error as StructError
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load

from napari_emseg.core.card import Card
from napari_emseg.core.settings import Normalisation
from napari_emseg.models.weights import CARD, Weights, check_fit, save_weights
from napari_emseg.models.zoo import build

if TYPE_CHECKING:
    from torch import Tensor

MANIFESTS = ("rdf.yaml", "bioimageio.yaml", "rdf.yml", "bioimageio.yml")

MOST_MANIFEST = 2**20
MOST_STATE = 2**31
"""Bytes; the largest of our networks takes a twentieth of that."""

MOST_RATIO = 100
"""Times that a file may grow when it is unpacked; trained weights hardly do."""

UNPACKING = (
    *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError),
    *(OSError, RuntimeError, ValueError),
)
"""What unpacking raises when a zip file is damaged."""

UNREADABLE = (
    *(AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError),
    *(OverflowError, RuntimeError, TypeError, UnpicklingError, ValueError, StructError),
)
"""What torch raises when it is given anything but tensors."""

NESTED = ("state_dict", "model_state_dict", "model")
"""Where checkpoints of common trainers keep the state dict."""


@dataclass(frozen=True)
class Found:
    """A state dict, and what its file says of it (None if nothing)."""

    state: Mapping[str, Tensor]
    card: Card | None
    name: str
    notes: tuple[str, ...] = ()


def import_weights(
    path: Path,
    output: Path,
    *,
    architecture: str | None = None,
    config: dict[str, Any] | None = None,
) -> Weights:
    """Read weights of others and write them as a file with a card.

    Parameters
    ----------
    path
        A BioImage.IO package (`.zip`), or a state dict: `.pt`, `.pth`, `.safetensors`.
    output
        The weights file to write.
    architecture, config
        Of the network; must be given for all that doesn't say it in our own words.

    Raises
    ------
    FileNotFoundError, OSError
        If it can't be read, or the output can't be written.
    ValueError
        If it is damaged, of another kind or too large to be true, its architecture is
        unknown, or it doesn't fit the network; the first key that doesn't is named.
    """
    if not path.is_file():
        msg = f"no file at {path}"
        raise FileNotFoundError(msg)
    found = _read(path)
    card = _card_of(found, output.stem, architecture, config)
    network = build(card.architecture, card.config)
    check_fit(found.state, network, path.name)
    _check_numbers(found.state, path.name)
    state = {key: value.float() for key, value in found.state.items()}
    for key, value in network.state_dict().items():
        if not value.is_floating_point():
            state[key] = found.state[key].to(value.dtype)
    return save_weights(output, state, card, half=_fits_half(state))


def _read(path: Path) -> Found:
    """Find out by its contents what a file is, and read it."""
    with path.open("rb") as file:
        start = file.read(9)
    if start[:2] == b"PK":
        with _opened(path, path.name) as package:
            manifest = _manifest_in(package)
            if manifest is not None:
                return _from_package(package, manifest, path.name)
        return Found(_state_dict(path.read_bytes(), path.name), None, path.name)
    if start[8:9] == b"{":
        return _from_safetensors(path)
    return Found(_state_dict(path.read_bytes(), path.name), None, path.name)


def _card_of(
    found: Found, name: str, architecture: str | None, config: dict[str, Any] | None
) -> Card:
    """Return the card that the file brings, or a new one of what the user says."""
    if found.card is not None and architecture is None:
        return found.card
    if architecture is None:
        msg = (
            f"{found.name} doesn't say what network it is for; say it with --arch "
            "(unet, unetpp, cenet), and its shape with e.g. --network.base 32"
        )
        raise ValueError(msg)
    about = found.card or Card(name=name, architecture=architecture, notes=found.notes)
    shape = {"architecture": architecture, "config": config or {}, "variants": ()}
    return about.model_copy(update=shape)


def _opened(file: Path | io.BytesIO, name: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as e:
        msg = f"{name} is a damaged zip file: {e}"
        raise ValueError(msg) from e


def _manifest_in(package: zipfile.ZipFile) -> str | None:
    """Return the name of the manifest at the top of a package, if it is one."""
    names = set(package.namelist())
    return next((name for name in MANIFESTS if name in names), None)


def _from_package(package: zipfile.ZipFile, manifest: str, name: str) -> Found:
    said = _parsed(_member(package, manifest, MOST_MANIFEST, name), name)
    weights = said.get("weights")
    entry = weights.get("pytorch_state_dict") if isinstance(weights, dict) else None
    if not isinstance(entry, dict):
        there = ", ".join(weights) if isinstance(weights, dict) else "nothing"
        msg = f"{name} has no pytorch_state_dict, only {there}, which is never run"
        raise ValueError(msg)
    source = _inside(entry.get("source"), name)
    data = _member(package, source, MOST_STATE, name)
    wanted = entry.get("sha256")
    if wanted is not None and sha256(data).hexdigest() != str(wanted).lower():
        msg = f"{name} is damaged: {source} has another checksum than its manifest says"
        raise ValueError(msg)
    state = _state_dict(data, f"{source} in {name}")
    return Found(state, _our_card(said, name), name, _notes(said))


def _member(package: zipfile.ZipFile, member: str, most: int, name: str) -> bytes:
    """Read one file of a zip into memory, within limits."""
    try:
        info = package.getinfo(member)
    except KeyError as e:
        msg = f"{name} lacks {member}, which its manifest names"
        raise ValueError(msg) from e
    _refuse_bomb([info], most, f"{member} in {name}")
    try:
        with package.open(info) as file:
            data = file.read(most + 1)
    except UNPACKING as e:
        msg = f"{member} in {name} is damaged, encrypted or oddly packed: {e}"
        raise ValueError(msg) from e
    if len(data) > most:
        msg = f"{member} in {name} is larger than {most / 2**20:.0f} MiB"
        raise ValueError(msg)
    return data


def _refuse_bomb(members: list[zipfile.ZipInfo], most: int, name: str) -> None:
    size = sum(info.file_size for info in members)
    packed = sum(info.compress_size for info in members)
    if size > most:
        msg = f"{name} is larger than {most / 2**20:.0f} MiB"
        raise ValueError(msg)
    if size > MOST_RATIO * packed + 2**20:
        msg = f"{name} would grow {size / max(packed, 1):.0f} times: it is not unpacked"
        raise ValueError(msg)


def _inside(source: object, name: str) -> str:
    """Return the name of a file in the package; refuse whatever leads out of it."""
    text = str(source or "").replace("\\", "/")
    path = PurePosixPath(text)
    if not text or "://" in text or path.is_absolute() or ".." in path.parts:
        msg = f"{name}: its weights lie outside of the package, at {source!r}"
        raise ValueError(msg)
    return str(path)


def _parsed(data: bytes, name: str) -> dict[str, Any]:
    try:
        said = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as e:
        first = str(e).splitlines()[0]
        msg = f"{name}: its manifest can't be read: {first}"
        raise ValueError(msg) from e
    if not isinstance(said, dict):
        msg = f"{name}: its manifest is no list of names and values"
        raise ValueError(msg)
    return said


def _our_card(said: dict[str, Any], name: str) -> Card | None:
    """Return the card that an export of ours brings."""
    config = said.get("config")
    ours = config.get("emseg") if isinstance(config, dict) else None
    if not isinstance(ours, dict) or "card" not in ours:
        return None
    try:
        return Card.model_validate(ours["card"])
    except ValidationError as e:
        msg = f"{name}: its card is damaged: {e.errors()[0]['msg']}"
        raise ValueError(msg) from e


def _notes(said: dict[str, Any]) -> tuple[str, ...]:
    """Say what a package of others says of itself, as far as it concerns us."""
    rule = Normalisation()
    words = f"imported from the BioImage.IO package {said.get('name', 'without name')}"
    return (
        words,
        "its own preprocessing isn't used: grey values are scaled by percentiles "
        f"{rule.low_percentile:g} and {rule.high_percentile:g}",
    )


def _from_safetensors(path: Path) -> Found:
    """Read a safetensors file, whether it has a card or not."""
    import torch
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header: dict[str, str] = file.metadata() or {}
        state = {key: torch.from_numpy(v) for key, v in load(path.read_bytes()).items()}
    except (SafetensorError, TypeError) as e:
        msg = f"{path.name} is no weights file, or a damaged one: {e}"
        raise ValueError(msg) from e
    card = Card.model_validate_json(header[CARD]) if CARD in header else None
    return Found(state, card, path.name)


def _state_dict(data: bytes, name: str) -> dict[str, Tensor]:
    """Read what `torch.save` wrote, if it is nothing but tensors by name."""
    import torch

    if data.startswith(b"PK"):
        with _opened(io.BytesIO(data), name) as inner:
            _refuse_bomb(inner.infolist(), MOST_STATE, name)
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
            msg = f"{name} holds no state dict: {key!r} is no tensor of plain numbers"
            raise ValueError(msg)
    start = "module."
    if all(key.startswith(start) for key in loaded):
        return {key.removeprefix(start): value for key, value in loaded.items()}
    return dict(loaded)


def _check_numbers(state: Mapping[str, Tensor], name: str) -> None:
    for key, value in state.items():
        if not bool(value.isfinite().all()):
            msg = f"{name} is no use: {key} holds values that are no numbers"
            raise ValueError(msg)


def _fits_half(state: Mapping[str, Tensor]) -> bool:
    """Tell if nothing is lost when numbers are stored as float16."""
    return all(
        bool((value.half().to(value.dtype) == value).all()) for value in state.values()
    )
