"""Write cells as a Neuroglancer `precomputed` segmentation, with smaller copies."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from napari_emseg.core.errors import UnknownVoxelSizeError
from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import VoxelSize
from napari_emseg.io.formats import SinkOptions
from napari_emseg.io.output import Output, SlabSink, slab_depth

DEEPEST = 16
"""Most sections in a chunk."""

CHUNK_VOXELS = 2**18
"""Of a chunk, about what Neuroglancer's authors use (64³)."""

BLOCK = (8, 8, 8)
"""Of the codec, in which each block has its own table of ids."""


class NeuroglancerSink(SlabSink):
    """A `precomputed` folder of ids whose sections come in any order.

    In order is fast, since chunks are some sections deep. Each scale has half the rows
    and columns of the one before: every second pixel. Values are compressed as
    `compressed_segmentation`. The origin isn't stored: it would have to be a whole
    number of voxels, of the smallest scale, too.

    Raises
    ------
    ValueError
        If the voxel size is unknown.
    OSError
        As `Output`.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        options: SinkOptions,
    ) -> None:
        size = _whole_size(options.voxel_size_nm)
        output = Output(path, overwrite=options.overwrite)
        depth = slab_depth(shape, dtype.itemsize, DEEPEST)
        super().__init__(output, shape, dtype, depth, options.provenance)
        with self._output.beginning() as part, _system_errors():
            self._scales = _create(part, shape, dtype, size, self._depth)
            if options.provenance is not None:
                _tell(part, options.provenance)

    def _tell(self, made: Provenance) -> None:
        _tell(self._output.part, made)

    def _store_run(self, z: int, values: NDArray[Any]) -> None:
        """Store sections `(n, y, x)` from z on, and their smaller copies."""
        for scale in self._scales:
            where = scale[:, :, z : z + len(values), 0]
            _write(where, values.transpose(2, 1, 0), _side(self._depth))
            values = values[:, ::2, ::2]


def _write(where: ts.TensorStore, values: NDArray[Any], side: int) -> None:
    """Write values `(x, y, z)`, and return when nothing is written any more.

    A write as a whole ends with its first error, while others of its chunks go on and
    would come back after the folder is removed; so each chunk has a write of its own.
    """
    across, down = (
        [slice(i, min(i + side, of)) for i in range(0, of, side)]
        for of in values.shape[:2]
    )
    writes = [where[x, y].write(values[x, y]) for x in across for y in down]
    errors = [each.exception() for each in writes]  # waits
    for error in errors:
        if error is not None:
            with _system_errors():
                raise error


@contextmanager
def _system_errors() -> Iterator[None]:
    """Raise the system's error where tensorstore has a ValueError that tells of one."""
    try:
        yield
    except ValueError as e:
        number = re.search(r"os_error_code='(\d+)'", str(e))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from e


def _whole_size(size: VoxelSize | None) -> tuple[float, float, float]:
    if size is None or size[0] is None:
        msg = (
            "Neuroglancer lays volumes out in nm, and the voxel size (or its z) is "
            "unknown"
        )
        raise UnknownVoxelSizeError(msg)
    return size[0], size[1], size[2]


def _power_of_2(most: int) -> int:
    return 1 << (max(1, most).bit_length() - 1)


def _side(depth: int) -> int:
    """Return the rows and columns of a chunk of so many sections."""
    return _power_of_2(int((CHUNK_VOXELS / depth) ** 0.5))


def _create(
    path: Path,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    size: tuple[float, float, float],
    depth: int,
) -> list[ts.TensorStore]:
    """Make the scales `(x, y, z, 1)`, the largest first."""
    side = _side(depth)
    scales = []
    z, y, x = shape
    step = 1
    while True:
        scale = {
            "size": [x, y, z],
            "resolution": [size[2] * step, size[1] * step, size[0]],
            "chunk_size": [min(side, x), min(side, y), depth],
            "encoding": "compressed_segmentation",
            "compressed_segmentation_block_size": BLOCK,
        }
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{path.absolute()}/"},
            "multiscale_metadata": {
                "type": "segmentation",
                "data_type": dtype.name,
                "num_channels": 1,
            },
            "scale_metadata": scale,
        }
        scales.append(ts.open(spec, create=True).result())
        if max(x, y) <= side:
            return scales
        y, x, step = -(-y // 2), -(-x // 2), step * 2


def _tell(path: Path, provenance: Provenance) -> None:
    """Say how the cells came to be, in the file that CloudVolume has for it."""
    told = {
        "description": f"{provenance.kind}, by napari-emseg {provenance.version}",
        "owners": [],
        "processing": [{"emseg": provenance.model_dump()}],
        "sources": [] if provenance.source is None else [provenance.source],
    }
    (path / "provenance").write_text(json.dumps(told), encoding="utf-8")
