"""Write sections into one dataset of an HDF5 file, as ilastik and Fiji know them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.records import Provenance
from napari_emseg.core.sinks import checked
from napari_emseg.core.stack import NOWHERE, Origin, VoxelSize
from napari_emseg.io.file_sink import FileSink
from napari_emseg.io.output import Output

CHUNK = 256
"""Side of a chunk in px; one section deep, so that any order will do."""

_TAKES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32")

_VIGRA_SPACE = 2
"""AxisType of a length, in the axis tags that ilastik has from vigra."""


class Hdf5Sink(FileSink):
    """One dataset `(z, y, x)`, compressed by gzip, whose sections come in any order.

    It is called `membrane`, `inside`, `cells` or `corrections` by its provenance, else
    `data`. Axes are named for ilastik (`axistags`) and by HDF5's own labels; the voxel
    size is there for Fiji (`element_size_um`) and CREMI (`resolution`, nm), the origin
    as CREMI's `offset`, in nm.

    Raises
    ------
    ValueError
        If the dtype can't be written.
    OSError
        As `Output`.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        *,
        voxel_size_nm: VoxelSize | None,
        provenance: Provenance | None,
        overwrite: bool = False,
        origin_nm: Origin = NOWHERE,
    ) -> None:
        if dtype.name not in (*_TAKES, "float32", "float64"):
            msg = f"HDF5 output takes {', '.join(_TAKES)} and float, got {dtype}"
            raise ValueError(msg)
        super().__init__(Output(path, overwrite=overwrite), shape, dtype)
        self._file = h5py.File(self._output.part, "w")
        self._data = self._file.create_dataset(
            "data" if provenance is None else provenance.kind,
            shape,
            dtype,
            chunks=(1, min(CHUNK, shape[1]), min(CHUNK, shape[2])),
            compression="gzip",
            compression_opts=1,
            shuffle=True,
        )
        _describe(self._data, voxel_size_nm, provenance)
        if origin_nm != NOWHERE:
            self._data.attrs["offset"] = origin_nm

    def write(self, z: int, section: NDArray[Any]) -> None:
        """Store section `z`, `(y, x)`."""
        self._data[checked(self, z, section)] = section.astype(self.dtype, copy=False)

    def _let_go(self, *, keep: bool) -> None:
        self._file.close()


def _describe(
    data: h5py.Dataset, size: VoxelSize | None, provenance: Provenance | None
) -> None:
    axes = [
        {"key": axis, "typeFlags": _VIGRA_SPACE, "resolution": 0, "description": ""}
        for axis in "zyx"
    ]
    data.attrs["axistags"] = json.dumps({"axes": axes})
    for dimension, axis in zip(data.dims, "zyx", strict=True):
        dimension.label = axis
    if provenance is not None:
        data.attrs["emseg"] = provenance.model_dump_json()
    if size is None:
        return
    z, y, x = size
    if z is None:
        data.attrs["pixel_size_nm"] = (y, x)
        return
    data.attrs["resolution"] = (z, y, x)
    data.attrs["element_size_um"] = (z / 1000, y / 1000, x / 1000)
