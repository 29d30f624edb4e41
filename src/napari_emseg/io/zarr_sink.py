"""Write sections into an OME-Zarr 0.5 with smaller copies for large sections."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from yaozarrs import v05
from yaozarrs.write.v05 import prepare_image

from napari_emseg.core.records import Provenance
from napari_emseg.core.sinks import checked
from napari_emseg.core.stack import VoxelSize
from napari_emseg.io.output import Output

CHUNK = 1024
"""Side of a chunk in px; a chunk is one section deep, so that any order will do."""

_IDS = ("uint32", "uint64")


class ZarrSink:
    """An OME-Zarr 0.5 whose sections are filled in any order.

    Sections wider than a chunk get copies of half the size until one chunk holds them:
    means of 2 × 2 px, for ids (uint32, uint64) every second pixel.

    Raises
    ------
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
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self._output = Output(path, overwrite=overwrite)
        self._ids = dtype.name in _IDS
        shapes = _pyramid(shape)
        _, arrays = prepare_image(
            self._output.part,
            _image(shapes, voxel_size_nm, path.name, centred=not self._ids),
            [(each, dtype) for each in shapes],
            extra_attributes={"emseg": provenance.model_dump()} if provenance else None,
            chunks=(1, CHUNK, CHUNK),
            writer="zarr",
        )
        self._levels = list(arrays.values())
        self._open = True

    def write(self, z: int, section: NDArray[Any]) -> None:
        """Store section `z`, `(y, x)`, and its smaller copies."""
        values = section.astype(self.dtype, copy=False)
        z = checked(self, z, section)
        for level in self._levels:
            level[z] = values
            values = values[::2, ::2] if self._ids else _half(values)

    def close(self) -> Path:
        """Finish, and return where the result is."""
        self._open = False
        return self._output.finish()

    def abort(self, *, keep: bool = False) -> Path | None:
        """Stop early; return the part that holds finished sections if it is kept."""
        self._open = False
        return self._output.give_up(keep=keep)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._open:
            return
        if kind is None:
            self.close()
        else:
            self.abort(keep=True)


def _pyramid(shape: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    shapes = [shape]
    while max(shapes[-1][1:]) > CHUNK:
        z, y, x = shapes[-1]
        shapes.append((z, -(-y // 2), -(-x // 2)))
    return shapes


def _half(values: NDArray[Any]) -> NDArray[Any]:
    """Return means of 2 × 2 px; an odd border is repeated."""
    y, x = values.shape
    even = np.pad(values, ((0, y % 2), (0, x % 2)), mode="edge")
    mean = even.reshape(even.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3))
    if values.dtype.kind in "iu":
        mean = np.rint(mean)
    half: NDArray[Any] = mean.astype(values.dtype)
    return half


def _image(
    shapes: list[tuple[int, int, int]],
    size: VoxelSize | None,
    name: str,
    *,
    centred: bool,
) -> v05.Image:
    """Return the notes: axes with units, and scale and shift of each level."""
    known = size or (None, None, None)
    axes = [
        v05.SpaceAxis(name=axis, unit=None if length is None else "nanometer")
        for axis, length in zip("zyx", known, strict=True)
    ]
    z, y, x = (1.0 if length is None else length for length in known)
    datasets = []
    for nth in range(len(shapes)):
        step = 2**nth
        shift = (step - 1) / 2 if centred else 0.0
        moves: list[v05.ScaleTransformation | v05.TranslationTransformation] = [
            v05.ScaleTransformation(scale=[z, y * step, x * step]),
            v05.TranslationTransformation(translation=[0.0, y * shift, x * shift]),
        ]
        datasets.append(
            v05.Dataset(path=str(nth), coordinateTransformations=moves[: 1 + (nth > 0)])
        )
    multiscale = v05.Multiscale(name=name, axes=axes, datasets=datasets)
    return v05.Image(multiscales=[multiscale])
