"""Between napari and the rest of the house: stacks ↔ layers, readers, writers, samples.

No Qt and no torch: napari imports this when it looks for plugins that open a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from napari.layers import Image, Labels, Layer
from numpy.typing import NDArray
from pint import DimensionalityError

from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import LazyArray, Stack, VoxelSize, check_voxel_size
from napari_emseg.io import ChoiceNeeded, open_stack, save_stack
from napari_emseg.io.reading import SUFFIXES
from napari_emseg.sample import vnc, vnc_membranes

KEY = "emseg"
"""Of `layer.metadata`: how a layer of ours came to be, as a `Provenance` dict."""

FLAT = "emseg_section_thickness_unknown"
"""Of `layer.metadata`: the scale along z stands for nothing that was measured."""

LayerData: TypeAlias = tuple[Any, dict[str, Any], Literal["image", "labels"]]


def get_reader(
    path: str | Sequence[str],
) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Return a reader for files and folders that look like EM stacks by their name."""
    paths = [path] if isinstance(path, str) else list(path)
    readable = all(
        Path(p).is_dir() or Path(p).name.lower().endswith(SUFFIXES) for p in paths
    )
    return read_layers if paths and readable else None


def read_layers(path: str | Sequence[str]) -> list[LayerData]:
    """Open files as lazy layers.

    Raises
    ------
    ValueError
        If a file needs a choice; the panel 1 Data asks for it.
    OSError
        If a file is damaged.
    """
    paths = [path] if isinstance(path, str) else list(path)
    try:
        return [layer_of(open_stack(p)) for p in paths]
    except ChoiceNeeded as e:
        msg = f"{e}. Plugins › EM segmentation, 1 Data, Open lets you choose."
        raise ValueError(msg) from e


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
        options["metadata"][FLAT] = stack.voxel_size_nm[0] is None
    if kind == "cells":
        return stack.data, options, "labels"
    if kind in ("membrane", "inside") and provenance:
        options["contrast_limits"] = (0.0, provenance["scale"])
    else:
        options["contrast_limits"] = _contrast(stack)
    return stack.data, options, "image"


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
        If the layer is no grey picture `(y, x)` or stack `(z, y, x)`.
    """
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
    if len(data.shape) not in (2, 3):
        msg = (
            f"{layer.name} has {len(data.shape)} axes {tuple(data.shape)}; a stack has "
            f"(z, y, x). Split it with the layer's menu › Split Stack"
        )
        raise ValueError(msg)
    return Stack(
        data if len(data.shape) == 3 else OneSection(data),
        name=layer.name,
        voxel_size_nm=voxel_size_of(layer),
        source=layer.source.path,
        metadata={KEY: layer.metadata[KEY]} if KEY in layer.metadata else {},
    )


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


def voxel_size_of(layer: Layer) -> VoxelSize | None:
    """Return `(z, y, x)` in nm; None if the layer's units are no lengths (pixel)."""
    try:
        sizes = [
            float((step * unit).to("nm").magnitude)
            for step, unit in zip(layer.scale, layer.units, strict=True)
        ]
    except DimensionalityError:
        return None
    z = None if layer.metadata.get(FLAT) or len(sizes) < 3 else sizes[-3]
    return z, sizes[-2], sizes[-1]


def set_voxel_size(layer: Layer, size: VoxelSize | None) -> None:
    """Give a layer a voxel size in nm; None makes it unknown."""
    options = {"units": ("pixel",) * 3, "scale": (1.0, 1.0, 1.0)}
    if size is not None:
        options = _scale(check_voxel_size(size))
    layer.metadata[FLAT] = size is not None and size[0] is None
    layer.units = options["units"][-layer.ndim :]
    layer.scale = options["scale"][-layer.ndim :]


def placement_of(layer: Layer) -> dict[str, Any]:
    """Return what lays another layer of the same shape exactly over this one."""
    return {
        "scale": layer.scale,
        "translate": layer.translate,
        "rotate": layer.rotate,
        "shear": layer.shear,
        "affine": layer.affine,
        "units": layer.units,
        "axis_labels": layer.axis_labels,
    }


def write_image(path: str, data: Any, options: dict[str, Any]) -> list[str]:
    """Save an image layer as TIFF or OME-Zarr, section by section.

    Raises
    ------
    ValueError
        If it is no grey picture or stack.
    OSError
        If it can't be written.
    """
    return _write(path, Image(data, **_known(options, ("rgb", "multiscale"))))


def write_labels(path: str, data: Any, options: dict[str, Any]) -> list[str]:
    """Save a labels layer as TIFF or OME-Zarr, section by section.

    Raises
    ------
    ValueError
        If it is no picture or stack of labels.
    OSError
        If it can't be written.
    """
    return _write(path, Labels(data, **_known(options, ("multiscale",))))


def _known(options: dict[str, Any], more: tuple[str, ...]) -> dict[str, Any]:
    names = ("name", "scale", "units", "axis_labels", "metadata", *more)
    return {name: options[name] for name in names if name in options}


def _write(path: str, layer: Layer) -> list[str]:
    stack = stack_of(layer)
    about = stack.metadata.get(KEY)
    # napari's dialog has asked whether to replace an existing file
    written = save_stack(
        path,
        stack,
        provenance=Provenance.model_validate(about) if about else None,
        overwrite=True,
    )
    return [str(written)]


def sample_vnc() -> list[LayerData]:
    """Return the bundled EM stack, and its membranes as a hidden labels layer."""
    image = layer_of(vnc())
    membranes = vnc_membranes()
    options = {
        "name": f"{membranes.name}, drawn",
        "visible": False,
        **{name: image[1][name] for name in ("scale", "units", "axis_labels")},
    }
    labels = (np.asarray(membranes.data[:]) > 0).astype(np.uint8)
    return [image, (labels, options, "labels")]
