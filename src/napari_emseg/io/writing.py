"""Open an output for sections, or save a whole stack; the name says the format."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_emseg.core.records import Provenance
from napari_emseg.core.sinks import SectionSink
from napari_emseg.core.stack import LazyArray, Stack, VoxelSize, as_stack

if TYPE_CHECKING:
    from napari_emseg.io.tiff_sink import TiffSink
    from napari_emseg.io.zarr_sink import ZarrSink

OutputFormat = Literal["tiff", "zarr"]

_BY_SUFFIX: dict[str, OutputFormat] = {
    ".tif": "tiff",
    ".tiff": "tiff",
    ".zarr": "zarr",
}


def output_format(path: str | PathLike[str]) -> OutputFormat:
    """Return the format that an output's name stands for.

    Raises
    ------
    ValueError
        If it stands for none.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _BY_SUFFIX:
        known = ", ".join(_BY_SUFFIX)
        msg = f"can't tell the format of {path} by its name; use one of {known}"
        raise ValueError(msg)
    return _BY_SUFFIX[suffix]


def open_sink(
    path: str | PathLike[str],
    shape: tuple[int, int, int],
    dtype: np.dtype[Any] | type[np.generic] | str,
    *,
    voxel_size_nm: VoxelSize | None = None,
    provenance: Provenance | None = None,
    overwrite: bool = False,
    format: OutputFormat | None = None,  # noqa: A002 - the word for it
) -> SectionSink:
    """Open a TIFF or OME-Zarr that takes sections one by one, in any order.

    It is written as `<path>.part` and renamed by `close`. Memory doesn't grow with the
    number of sections.

    Parameters
    ----------
    path
        `.tif`, `.tiff` or `.zarr`.
    shape
        `(z, y, x)`.
    dtype
        Type of the values.
    voxel_size_nm
        `(z, y, x)`, written with its unit.
    provenance
        How the values came to be; `read_provenance` gives it back.
    overwrite
        Replace an existing output, once the new one is whole.
    format
        `tiff` or `zarr`; by the name if None.

    Raises
    ------
    ValueError
        If name, shape or dtype won't do.
    FileExistsError, FileNotFoundError, PermissionError, OSError
        If the output exists, its folder is missing or not writable, or too full.
    """
    kind = output_format(path) if format is None else format
    if len(shape) != 3 or min(shape) < 1:
        msg = f"an output needs a non-empty (z, y, x) shape, got {shape}"
        raise ValueError(msg)
    return _sink_class(kind)(
        Path(path).expanduser(),
        (int(shape[0]), int(shape[1]), int(shape[2])),
        np.dtype(dtype),
        voxel_size_nm=voxel_size_nm,
        provenance=provenance,
        overwrite=overwrite,
    )


def _sink_class(kind: OutputFormat) -> type[TiffSink] | type[ZarrSink]:
    if kind == "zarr":
        from napari_emseg.io.zarr_sink import ZarrSink

        return ZarrSink
    from napari_emseg.io.tiff_sink import TiffSink

    return TiffSink


def save_stack(
    path: str | PathLike[str],
    data: Stack | LazyArray,
    *,
    voxel_size_nm: VoxelSize | None = None,
    provenance: Provenance | None = None,
    overwrite: bool = False,
    format: OutputFormat | None = None,  # noqa: A002 - the word for it
) -> Path:
    """Save a stack or an array `(z, y, x)` section by section; return its path.

    The stack's own voxel size is used where none is given; see `open_sink`.
    """
    stack = as_stack(data).with_voxel_size(voxel_size_nm)
    sink = open_sink(
        path,
        stack.shape,
        stack.dtype,
        voxel_size_nm=stack.voxel_size_nm,
        provenance=provenance,
        overwrite=overwrite,
        format=format,
    )
    with sink:
        for z in range(stack.shape[0]):
            sink.write(z, stack.section(z))
    return Path(path).expanduser()
