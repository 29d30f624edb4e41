"""Files of others → their tensors by name; nothing in them is run.

State dicts that `torch.save` wrote, the named tensors of ONNX files, and members of zip
files: sizes are checked before memory is taken, and nothing is unpacked to the disk.
"""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from struct import error as StructError
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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


def read_state_dict(data: bytes, name: str) -> dict[str, Tensor]:
    """Read what `torch.save` wrote, if it is nothing but tensors by name."""
    import torch

    if data.startswith(b"PK"):
        with open_zip(io.BytesIO(data), name) as inner:
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
    # checkpoints nest: {"model": {"state_dict": {...}}}; a level is taken off at a time
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
        # strides of 0 make few bytes look like many values,
        # which would be written out in full
        if value.nbytes > value.untyped_storage().nbytes():
            msg = f"{name}: {key} says it has {value.numel():,} values, and holds fewer"
            raise ValueError(msg)
    return dict(loaded)


# ONNX is a message of protobuf: fields by number, each a number, 8 or 4 bytes, or bytes
# with their length. Only the tensors that a graph begins with are looked at, and in
# Python, so that nothing in the file can reach beyond it.
_GRAPH, _INITIALIZER = 7, 5
_DIMS, _TYPE, _FLOATS, _NAME, _RAW, _LOCATION = 1, 2, 4, 8, 9, 14
_ONNX_TYPES = {1: "<f4", 6: "<i4", 7: "<i8", 10: "<f2", 11: "<f8"}
"""Numbers of types in ONNX's tensors; of others there are none in weights."""

MOST_DIMS = 8


def read_onnx(data: bytes, name: str) -> dict[str, Tensor]:
    """Read the named tensors of an ONNX file; its graph is never run.

    Raises
    ------
    ValueError
        If it is damaged, keeps numbers in other files, or holds no such tensors.
    """
    import torch

    state: dict[str, Tensor] = {}
    try:
        graphs = [v for k, v in _fields(memoryview(data)) if k == _GRAPH]
        tensors = [v for g in graphs for k, v in _fields(g) if k == _INITIALIZER]
        for tensor in tensors:
            key, values = _onnx_tensor(tensor, name)
            if values is not None:
                state[key] = torch.from_numpy(values)
    except (IndexError, TypeError, UnicodeDecodeError, OverflowError) as e:
        msg = f"{name} is no ONNX file, or a damaged one"
        raise ValueError(msg) from e
    if not state:
        msg = f"{name} is no ONNX file, or has no tensors with names"
        raise ValueError(msg)
    return state


def _onnx_tensor(message: memoryview, name: str) -> tuple[str, NDArray[Any] | None]:
    """Return a tensor's name and values; None for those of other types."""
    dims: list[int] = []
    floats: list[memoryview] = []
    said: dict[int, Any] = {}
    for number, value in _fields(message):
        if number == _DIMS:
            dims += [value] if isinstance(value, int) else _numbers(value)
        elif number == _FLOATS and not isinstance(value, int):
            floats.append(value)
        else:
            said[number] = value
    key = bytes(said.get(_NAME, b"")).decode()
    if said.get(_LOCATION):
        msg = f"{name} keeps {key[:100]!r} in another file, which is never read"
        raise ValueError(msg)
    kind = _ONNX_TYPES.get(said.get(_TYPE, 0))
    if kind is None:
        return key, None
    raw = bytes(said[_RAW]) if _RAW in said else b"".join(floats)
    if len(dims) > MOST_DIMS or prod(dims) * np.dtype(kind).itemsize != len(raw):
        msg = f"{name} is a damaged ONNX file: {key[:100]!r} has no {dims} values"
        raise ValueError(msg)
    values: NDArray[Any] = np.frombuffer(raw, kind).reshape(dims).copy()
    return key, values


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield numbers of fields, and their values: whole numbers, or bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, at = _varint(message, at)
        if size is None or at + size > len(message):
            msg = "a field that protobuf hasn't, or that is cut short"
            raise IndexError(msg)
        yield tag >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return a whole number of 7 bits in each byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    msg = "a number without end"
    raise IndexError(msg)


def _numbers(packed: memoryview) -> list[int]:
    found: list[int] = []
    at = 0
    while at < len(packed) and len(found) <= MOST_DIMS:
        value, at = _varint(packed, at)
        found.append(value)
    return found


MOST_RATIO = 100
"""Times that a file may grow when it is unpacked; trained weights hardly do."""

UNPACKING = (
    *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError),
    *(OSError, RuntimeError, ValueError),
)
"""What unpacking raises when a zip file is damaged."""


def open_zip(file: Path | io.BytesIO, name: str) -> zipfile.ZipFile:
    """Open a zip file.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as e:
        msg = f"{name} is a damaged zip file: {e}"
        raise ValueError(msg) from e


def read_member(package: zipfile.ZipFile, member: str, most: int, name: str) -> bytes:
    """Read one file of a zip into memory.

    Raises
    ------
    ValueError
        If it isn't there, is damaged, or has more than `most` bytes.
    """
    try:
        info = package.getinfo(member)
    except KeyError as e:
        msg = f"{name} lacks {member}, which its manifest names"
        raise ValueError(msg) from e
    refuse_bomb([info], most, f"{member} in {name}")
    try:
        with package.open(info) as file:
            data = file.read(most + 1)
    except UNPACKING as e:
        msg = f"{member} in {name} is damaged, encrypted or oddly packed: {e}"
        raise ValueError(msg) from e
    if len(data) > most:
        msg = f"{member} in {name} is larger than {most / 2**20:g} MiB"
        raise ValueError(msg)
    return data


def refuse_bomb(members: list[zipfile.ZipInfo], most: int, name: str) -> None:
    """Raise a ValueError if members are too large, or grow too much when unpacked."""
    size = sum(info.file_size for info in members)
    packed = sum(info.compress_size for info in members)
    if size > most:
        msg = f"{name} is larger than {most / 2**20:g} MiB"
        raise ValueError(msg)
    # the sizes that a zip states; `read_member` reads no more
    # than it may, whatever is stated
    if size > MOST_RATIO * packed + 2**20:
        msg = f"{name} would grow {size / max(packed, 1):.0f} times: it is not unpacked"
        raise ValueError(msg)
