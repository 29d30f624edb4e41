"""HDF5: one of its datasets, read section by section or slab by slab of its chunks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from pydantic import ValidationError

from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import NOWHERE, Origin, VoxelSize
from napari_emseg.io.errors import UnreadableError
from napari_emseg.io.units import to_nm, voxel_size
from napari_emseg.io.volumes import Contents, Volume, array_volume, chunked

CREMI_RAW = "volumes/raw"
"""Where CREMI's files have the grey values."""


def contents(path: Path) -> Contents:
    """List the datasets of two or more axes."""
    found: list[h5py.Dataset] = []

    def collect(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset) and _is_picture(node):
            found.append(node)

    # The file stays open as long as a dataset of it is held.
    h5py.File(path, "r").visititems(collect)
    if not found:
        msg = "has no dataset of two or more axes"
        raise UnreadableError(msg)
    volumes = tuple(_volume(dataset) for dataset in found)
    default = _default(volumes)
    return Contents(
        volumes,
        "dataset",
        default,
        question="holds several datasets",
        provenance=None if default is None else _provenance(found[default]),
    )


def _provenance(dataset: h5py.Dataset) -> Provenance | None:
    try:
        return Provenance.model_validate_json(dataset.attrs["emseg"])
    except (KeyError, ValidationError):
        return None


def _is_picture(node: h5py.Dataset) -> bool:
    return len(node.shape or ()) >= 2 and node.dtype.kind in "biuf" and node.size > 0


def _default(volumes: tuple[Volume, ...]) -> int | None:
    """Return the only stack, or CREMI's raw data; otherwise it would be a guess."""
    keys = [volume.key for volume in volumes]
    if CREMI_RAW in keys:
        return keys.index(CREMI_RAW)
    stacks = [i for i, v in enumerate(volumes) if len(v.shape) > 2]
    if len(stacks) == 1:
        return stacks[0]
    return 0 if len(volumes) == 1 else None


def _volume(dataset: h5py.Dataset) -> Volume:
    axes = _axes(dataset)
    volume = replace(
        array_volume(dataset, axes),
        voxel_size_nm=_voxel_size(dataset),
        origin_nm=_origin(dataset),
        key=str(dataset.name).strip("/"),
        words=str(dataset.name).strip("/"),
    )
    return chunked(volume, axes, dataset.chunks)


def _axes(dataset: h5py.Dataset) -> str:
    """Return a letter for each axis, from ilastik's tags or the axis labels."""
    shape = dataset.shape
    try:
        tags = json.loads(dataset.attrs["axistags"])["axes"]
        letters = [str(tag["key"]) for tag in tags]
    except (KeyError, TypeError, ValueError):
        letters = [dim.label for dim in dataset.dims]
    axes = "".join(letters).upper()
    if len(axes) == len(shape) and set("YX") <= set(axes) <= set("TCZYX"):
        return axes
    if len(shape) == 4 and min(shape[0], shape[3]) <= 4:
        return "CZYX" if shape[0] <= shape[3] else "ZYXC"
    return "Q" * (len(shape) - 2) + "YX"


def _voxel_size(dataset: h5py.Dataset) -> VoxelSize | None:
    """Return `(z, y, x)`: CREMI's `resolution` is in nm, Fiji has `element_size_um`."""
    for name, unit in (
        ("resolution", "nm"),
        ("voxel_size", "nm"),
        ("element_size_um", "um"),
    ):
        values = np.atleast_1d(dataset.attrs.get(name, ()))
        if values.shape == (3,) and values.dtype.kind in "iuf":
            z, y, x = (to_nm(float(value), unit) for value in values)
            return voxel_size(z, y, x)
    pixel = np.atleast_1d(dataset.attrs.get("pixel_size_nm", ()))
    if pixel.shape == (2,):  # ours, where the distance of sections is unknown
        y, x = (to_nm(float(value), "nm") for value in pixel)
        return voxel_size(None, y, x)
    return None


def _origin(dataset: h5py.Dataset) -> Origin:
    """Return `(z, y, x)` of the first voxel: CREMI's `offset`, in nm."""
    values = np.atleast_1d(dataset.attrs.get("offset", ()))
    if values.shape != (3,) or values.dtype.kind not in "iuf":
        return NOWHERE
    z, y, x = (float(value) for value in values)
    return (z, y, x) if np.isfinite([z, y, x]).all() else NOWHERE
