"""Write sections into one dataset of an HDF5 file, as ilastik and Fiji know them."""

import json
import os
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import NOWHERE, VoxelSize
from napari_emseg.io.formats import SinkOptions
from napari_emseg.io.output import FileSink, Output

CHUNK = 256
"""Side of a chunk in px; one section deep, so that any order will do."""

_VIGRA_SPACE = 2
"""AxisType of a length, in the axis tags that ilastik has from vigra."""


class Hdf5Sink(FileSink):
    """One dataset `(z, y, x)` whose sections come in any order.

    It is compressed by gzip, which all programs know, unless it holds floats.

    It is called `membrane`, `inside`, `cells` or `corrections` by its provenance, else
    `data`. Axes are named for ilastik (`axistags`) and by HDF5's own labels; the voxel
    size is there for Fiji (`element_size_um`) and CREMI (`resolution`, nm), the origin
    as CREMI's `offset`, in nm.

    Raises
    ------
    OSError
        As `Output`.
    """

    readable_early: ClassVar[bool] = False

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        options: SinkOptions,
    ) -> None:
        made = options.provenance
        output = Output(path, overwrite=options.overwrite)
        super().__init__(output, shape, dtype, made)
        with self._output.beginning() as part:
            self._bytes = _NeverFailing(part)
            self._file = h5py.File(self._bytes, "w")
            self._data = self._file.create_dataset(
                "data" if made is None else made.kind,
                shape,
                dtype,
                chunks=(1, min(CHUNK, shape[1]), min(CHUNK, shape[2])),
                **_packing(dtype),
            )
            _describe(self._data, options.voxel_size_nm, made)
            if options.origin_nm != NOWHERE:
                self._data.attrs["offset"] = options.origin_nm

    def _store(self, z: int, section: NDArray[Any]) -> None:
        """Store section `z`, `(y, x)`."""
        self._bytes.check()
        self._data[z] = section.astype(self.dtype, copy=False)
        self._bytes.check()

    def _tell(self, made: Provenance) -> None:
        self._data.attrs["emseg"] = made.model_dump_json()
        self._bytes.check()

    def _let_go(self, *, keep: bool) -> None:
        try:
            self._file.close()
        finally:
            self._bytes.close()


class _NeverFailing:
    """A file for HDF5, which dies of a full disk: errors wait until they are asked for.

    HDF5 writes metadata when it closes a file, and once more when the program ends; if
    that fails, the process ends by a segmentation fault. So it is told that all went
    well. What couldn't be written is kept for it to read back; that is little, since
    after an error no section is given to it.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("x+b", buffering=0)
        self._at = 0
        self._error: OSError | None = None
        self._kept: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raise the first error there was."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Close the file, and raise the first error there was."""
        try:
            self._file.close()
        except OSError as e:
            self._error = self._error or e
        self.check()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte; return which."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length()}
        self._at = start[whence] + offset
        return self._at

    def tell(self) -> int:
        """Return at which byte it is."""
        return self._at

    def write(self, content: bytes | memoryview) -> int:
        """Write, or keep what can't be."""
        data = bytes(content)
        if self._error is None:
            try:
                self._write(data)
            except OSError as e:
                self._error = e
        if self._error is not None:
            self._kept.append((self._at, data))
        self._at += len(data)
        return len(data)

    def _write(self, data: bytes) -> None:
        self._file.seek(self._at)
        rest = memoryview(data)
        while rest:  # a disk that gets full takes a part first
            rest = rest[self._file.write(rest) :]

    def read(self, size: int) -> bytes:
        """Read what was written; by this method h5py knows a file."""
        target = bytearray(size)
        self.readinto(target)
        return bytes(target)

    def readinto(self, target: bytearray | memoryview) -> int:
        """Read what was written."""
        into = memoryview(target).cast("B")
        into[:] = bytes(len(into))
        self._file.seek(self._at)
        self._file.readinto(into)
        for start, data in self._kept:
            begin, end = max(start, self._at), start + len(data)
            end = min(end, self._at + len(into))
            if begin < end:
                piece = data[begin - start : end - start]
                into[begin - self._at : end - self._at] = piece
        self._at += len(into)
        return len(into)

    def truncate(self, size: int) -> int:
        """Make the file so long."""
        try:
            self._file.truncate(size)
        except OSError as e:
            self._error = self._error or e
        return size

    def flush(self) -> None:
        """Do nothing: nothing waits."""

    def _length(self) -> int:
        length = self._file.seek(0, os.SEEK_END)
        return max([length, *(start + len(data) for start, data in self._kept)])


def _packing(dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return how a dataset is compressed."""
    # by a fifth for probabilities, in a quarter of the time that a network takes
    if dtype.kind == "f":
        return {}
    return {"compression": "gzip", "compression_opts": 1, "shuffle": True}


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
