"""Stacks and napari's layers, each made from the other; nothing is copied or read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from math import prod
from typing import Any, Literal, TypeAlias

import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.notifications import show_info, show_warning
from napari.utils.transforms import Affine
from numpy.typing import DTypeLike, NDArray
from pint import DimensionalityError, Unit

from napari_emseg.core.memory import free_ram
from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import (
    NOWHERE,
    LazyArray,
    Origin,
    Stack,
    VoxelSize,
    check_voxel_size,
)


class Shown:
    """A stack for the screen: a section that can't be read is black, and told of once.

    Without this, one damaged file would keep a folder of good ones from being opened.
    What napari's brush is used on is read into memory first; the file stays as it is.
    """

    ndim = 3

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.shape = stack.shape
        self.dtype = stack.dtype
        self.size = prod(stack.shape)
        self.nbytes = self.size * stack.dtype.itemsize
        self.painted: NDArray[Any] | None = None
        """All of it, once something was painted."""
        self._told: set[int] = set()

    def __len__(self) -> int:
        return self.shape[0]

    def __deepcopy__(self, _: dict[int, Any]) -> Shown:
        """Read the same file, for a layer that is duplicated; paint has its own."""
        other = Shown(self.stack)
        other.painted = None if self.painted is None else self.painted.copy()
        return other

    def __array__(
        self, dtype: np.dtype[Any] | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        if copy is False:
            msg = f"{self.stack.name}: reading from a file makes a copy"
            raise ValueError(msg)
        return np.asarray(self[:], dtype)

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Index by `(z, y, x)`."""
        if self.painted is not None:
            return np.asarray(self.painted[key])
        if isinstance(key, tuple) and any(isinstance(k, np.ndarray) for k in key):
            return self._voxels(*key)
        try:
            return np.asarray(self.stack.data[key])
        except (OSError, ValueError):
            return self._one_by_one(key if isinstance(key, tuple) else (key,))

    def _voxels(self, *at: Any) -> NDArray[Any]:
        """Return single voxels by arrays of z, y and x, as napari 0.7 reads strokes."""
        z, y, x = np.broadcast_arrays(*at)
        values = np.empty(z.shape, self.dtype)
        for each in np.unique(z):
            here = z == each
            values[here] = self._section(int(each))[y[here], x[here]]
        return values

    def __setitem__(self, key: Any, value: Any, /) -> None:
        """Paint by `(z, y, x)`, in memory.

        Raises
        ------
        MemoryError
            If all of it takes more than is free.
        """
        if self.painted is None:
            self._refuse_beyond_memory("painted on", self.nbytes)
            self.painted = np.array(self[:])
            name = self.stack.name
            show_info(f"{name} was read into memory to paint on; save it to keep that")
        self.painted[key] = value

    def astype(self, dtype: DTypeLike) -> NDArray[Any]:
        """Return all of it in memory, for a layer that is converted.

        Raises
        ------
        MemoryError
            If that takes more than is free.
        """
        self._refuse_beyond_memory("converted", self.size * np.dtype(dtype).itemsize)
        return self[:].astype(dtype)

    def _refuse_beyond_memory(self, act: str, needed: int) -> None:
        free = free_ram()
        if needed > free:
            msg = (
                f"{self.stack.name} can't be {act}: it takes {needed / 1e9:.2g} GB of "
                f"memory, {free / 1e9:.2g} GB are free; crop it first"
            )
            raise MemoryError(msg)

    def _one_by_one(self, key: tuple[Any, ...]) -> NDArray[Any]:
        which = np.arange(self.shape[0])[key[0]]
        if which.ndim == 0:
            section: NDArray[Any] = self._section(int(which))[key[1:]]
            return section
        return np.stack([self._section(int(z))[key[1:]] for z in which])

    def _section(self, z: int) -> NDArray[Any]:
        try:
            values: NDArray[Any] = np.asarray(self.stack.data[z])
            return values
        except (OSError, ValueError) as e:
            if z not in self._told:
                self._told.add(z)
                show_warning(f"section {z} is shown black: {e}")
            return np.zeros(self.shape[1:], self.dtype)


class OneSection:
    """A picture `(y, x)` as a stack `(1, y, x)`; read when it is sliced."""

    def __init__(self, picture: LazyArray) -> None:
        self.shape = (1, *picture.shape)
        self.dtype = np.dtype(picture.dtype)
        self._picture = picture

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Index by `(z, y, x)`."""
        keys = key if isinstance(key, tuple) else (key,)
        return np.asarray(self._picture[keys[1:]])[None][keys[0]]


_STORED_AS = {
    "bool": "uint8",
    "float16": "float32",
    "float64": "float32",
}
"""For types that files don't take."""


class Storable:
    """An array of a type that files take, converted when it is sliced.

    Ids of int64, which napari's new labels are, become uint32 if all fit, as more
    programs read it.
    """

    def __init__(self, data: LazyArray) -> None:
        self.shape = data.shape
        stored = np.dtype(data.dtype)
        self.dtype = np.dtype(_STORED_AS.get(stored.name, stored))
        if stored.name == "int64" and _fit_into_uint32(data):
            self.dtype = np.dtype(np.uint32)
        self._data = data

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Index as the array."""
        return np.asarray(self._data[key]).astype(self.dtype, copy=False)


def _fit_into_uint32(data: LazyArray) -> bool:
    for z in range(data.shape[0]):
        section = np.asarray(data[z])
        if section.min() < 0 or section.max() > np.iinfo(np.uint32).max:
            return False
    return True


KEY = "emseg"
"""Of `layer.metadata`: how a layer of ours came to be, as a `Provenance` dict."""

FLAT = "emseg_section_thickness_unknown"
"""Of `layer.metadata`: the scale along z stands for nothing that was measured."""

LIVE = "emseg_live"
"""Of `layer.metadata`: a preview of a part of a section, which is no result."""

RESULT = "emseg_result"
"""Of `layer.metadata`: made from a stack of the window, and no stack by itself."""

LayerData: TypeAlias = tuple[Any, dict[str, Any], Literal["image", "labels"]]


def layer_of(stack: Stack) -> LayerData:
    """Show a stack as a layer; sections are read when they come into view.

    Cells become labels, anything else an image.
    """
    provenance = stack.metadata.get(KEY)
    kind = provenance["kind"] if provenance else None
    options: dict[str, Any] = {
        "name": stack.name,
        "metadata": {KEY: provenance} if provenance else {},
        "axis_labels": ("z", "y", "x"),
    }
    if stack.voxel_size_nm is not None:
        options |= _scale(stack.voxel_size_nm)
        options["translate"] = stack.origin_nm
        options["metadata"][FLAT] = stack.voxel_size_nm[0] is None
    data = Shown(stack)
    if kind == "cells":
        return data, options, "labels"
    made = Provenance.model_validate(provenance) if provenance else None
    if made is not None and made.is_of_probabilities:
        options["contrast_limits"] = (0.0, made.scale)
    else:
        options["contrast_limits"] = _contrast(stack)
    return data, options, "image"


def _scale(size: VoxelSize) -> dict[str, Any]:
    """Return scale and units; where z is unknown, voxels are drawn as cubes."""
    z, y, x = size
    return {"scale": (y if z is None else z, y, x), "units": ("nm",) * 3}


def _contrast(stack: Stack) -> tuple[float, float]:
    """Return the grey range of the first section that has one."""
    for z in range(min(stack.shape[0], 8)):
        try:
            values = stack.section(z)[::4, ::4]
        except (OSError, ValueError):
            continue
        known = values[np.isfinite(values)]
        if known.size and known.min() < known.max():
            return float(known.min()), float(known.max())
    return 0.0, 1.0


def stack_of(layer: Layer) -> Stack:
    """Take an image or labels layer as a stack; nothing is copied or read.

    Raises
    ------
    ValueError
        If the layer is no grey picture `(y, x)` or stack `(z, y, x)`, or a preview.
    """
    if layer.metadata.get(LIVE):
        msg = f"{layer.name} is a live preview; choose an image layer"
        raise ValueError(msg)
    if not isinstance(layer, Image | Labels):
        kind = type(layer).__name__.lower()
        msg = f"{layer.name} is a {kind} layer; choose an image layer"
        raise ValueError(msg)
    if getattr(layer, "rgb", False):
        msg = (
            f"{layer.name} is a colour picture (RGB), EM is grey; split it with the "
            f"layer's menu › Split RGB, and choose one of its channels"
        )
        raise ValueError(msg)
    data = layer.data[0] if layer.multiscale else layer.data
    source, metadata = layer.source.path, {}
    if isinstance(data, Shown) and data.painted is not None:
        data = data.painted
    elif isinstance(data, Shown):
        source = data.stack.source or source
        known = data.stack.metadata
        metadata = {"choice": {}} | {
            k: known[k] for k in ("choice", "files") if k in known
        }
        data = data.stack.data
    if len(data.shape) not in (2, 3):
        msg = (
            f"{layer.name} has {len(data.shape)} axes {tuple(data.shape)}; a stack has "
            f"(z, y, x). Split it with the layer's menu › Split Stack"
        )
        raise ValueError(msg)
    scale, place = _placed(layer)
    return Stack(
        data if len(data.shape) == 3 else OneSection(data),
        name=layer.name,
        voxel_size_nm=_voxel_size(layer, scale),
        source=source,
        metadata=metadata
        | {k: layer.metadata[k] for k in (KEY,) if k in layer.metadata},
        origin_nm=_origin(layer, place),
    )


def stacks_of(layers: Iterable[Layer]) -> list[Stack]:
    """Return those layers that are stacks."""
    found: list[Stack] = []
    for layer in layers:
        with suppress(ValueError):
            found.append(stack_of(layer))
    return found


def voxel_size_of(layer: Layer) -> VoxelSize | None:
    """Return `(z, y, x)` in nm; None if the layer's units are no lengths (pixel)."""
    return _voxel_size(layer, _placed(layer)[0])


def _voxel_size(layer: Layer, scale: list[float]) -> VoxelSize | None:
    sizes = _in_nm(scale, layer.units)
    if sizes is None:
        return None
    z = None if layer.metadata.get(FLAT) or len(sizes) < 3 else sizes[-3]
    return z, sizes[-2], sizes[-1]


def origin_of(layer: Layer) -> Origin:
    """Return `(z, y, x)` of the first voxel in nm; 0 if units are no lengths."""
    return _origin(layer, _placed(layer)[1])


def _origin(layer: Layer, place: list[float]) -> Origin:
    found = _in_nm(place, layer.units)
    if found is None:
        return NOWHERE
    z, y, x = [0.0, *found][-3:]
    return z, y, x


def is_turned(layer: Layer) -> bool:
    """Tell a layer whose axes aren't those of the window: turned, sheared, mirrored."""
    return _turns(_matrix(layer))


def _turns(matrix: NDArray[np.float64]) -> bool:
    moves = matrix[:-1, :-1]
    along = np.diag(moves)
    beside = np.abs(moves - np.diag(along)).max()
    return bool(along.min() <= 0 or beside > 1e-9 * along.max())


def _placed(layer: Layer) -> tuple[list[float], list[float]]:
    """Return scale and place of a layer, with its affine unless that turns it."""
    moves = _matrix(layer)
    if _turns(moves):
        return list(layer.scale), list(layer.translate)
    return np.diag(moves)[:-1].tolist(), moves[:-1, -1].tolist()


def _matrix(layer: Layer) -> NDArray[np.float64]:
    """Return what brings pixels of a layer to their place in the window."""
    own = Affine(
        scale=layer.scale,
        translate=layer.translate,
        rotate=layer.rotate,
        shear=layer.shear,
    )
    matrix: NDArray[np.float64] = layer.affine.affine_matrix @ own.affine_matrix
    return matrix


def _in_nm(values: Iterable[float], units: Iterable[Unit]) -> list[float] | None:
    """Return lengths along each axis in nm; None if one of them is no length."""
    each = [_nm(unit) for unit in units]
    known = [nm for nm in each if nm is not None]
    if len(known) < len(each):
        return None
    return [float(value) * nm for value, nm in zip(values, known, strict=True)]


@cache
def _nm(unit: Unit) -> float | None:
    """Return how many nm a unit is; pint takes a millisecond to tell."""
    try:
        return float((1 * unit).to("nm").magnitude)
    except DimensionalityError:
        return None


def set_voxel_size(layer: Layer, size: VoxelSize | None) -> None:
    """Give a layer a voxel size in nm; None makes it unknown."""
    options: dict[str, Any] = {"units": ("pixel",) * 3, "scale": (1.0, 1.0, 1.0)}
    if size is not None:
        options = _scale(check_voxel_size(size))
    layer.metadata[FLAT] = size is not None and size[0] is None
    by_affine = np.divide(_placed(layer)[0], layer.scale)
    layer.units = options["units"][-layer.ndim :]
    layer.scale = np.divide(options["scale"][-layer.ndim :], by_affine)


PLACEMENT = (
    *("scale", "translate", "rotate", "shear", "affine"),
    *("units", "axis_labels"),
)
"""Of a layer, and of its events: what says where its pixels lie in the window."""


def placement_of(layer: Layer) -> dict[str, Any]:
    """Return what lays another layer of the same shape exactly over this one."""
    return {name: getattr(layer, name) for name in PLACEMENT}


def place(layer: Layer, placement: Mapping[str, Any]) -> None:
    """Lay a layer where another one lies; nothing happens if it is there already."""
    for name, value in placement.items():
        if not _same(getattr(layer, name), value):
            setattr(layer, name, value)


def lies(layer: Layer, placement: Mapping[str, Any]) -> bool:
    """Tell if a layer lies exactly there."""
    return all(_same(getattr(layer, name), value) for name, value in placement.items())


def _same(a: Any, b: Any) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b))
